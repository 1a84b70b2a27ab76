/* Flag liveness, the verifier and the text form, as text. */
#include "dbt/ir/uop.h"

static uint8_t asked;

static uint8_t live_none(void *opaque, const Uop *uop, uint64_t target)
{
    asked++;
    return 0;
}

static Uop alu(unsigned insn, uint8_t uses, uint8_t defs)
{
    return (Uop){ .kind = UOP_OP, .insn = insn, .size = 8, .code = 0x01, .attr = UA_REG_R | UA_RM_R | UA_RM_W,
                  .reg = 0, .rm = 3, .uses = uses, .defs = defs, .writes = defs, .base = UOP_NO_REG, .index = UOP_NO_REG };
}

static Uop load(unsigned insn)
{
    return (Uop){ .kind = UOP_OP, .insn = insn, .size = 8, .code = 0x8b, .attr = UA_REG_W | UA_RM_R | UA_MEM,
                  .reg = 1, .base = 6, .index = UOP_NO_REG, .mem_size = 8, .asize = 8 };
}

static Uop branch(unsigned insn, UopKind kind, uint8_t uses)
{
    return (Uop){ .kind = kind, .insn = insn, .size = 8, .imm = 0x1000, .uses = uses };
}

/* A load between a compare and its branch keeps the flags; one before the compare does not. */
static void test_liveness(void)
{
    Uop uops[] = { load(0), alu(1, 0, FL_ALL), load(2), branch(3, UOP_JCC, FL_OSZAP), alu(4, 0, FL_ALL),
                   branch(5, UOP_RET, 0) };
    asked = 0;
    g_assert_cmpuint(uop_liveness(uops, 6, live_none, NULL), ==, 0);
    g_assert_cmpuint(uops[0].live_in, ==, 0);
    g_assert_cmpuint(uops[2].live_in, ==, FL_OSZAP);
    g_assert_cmpuint(asked, ==, 1); /* the branch's target decides about carry */
}

/* Partial writers keep the other group alive. */
static void test_groups(void)
{
    Uop uops[] = { alu(0, 0, FL_ALL), alu(1, 0, FL_OSZAP), load(2), alu(3, FL_C, FL_ALL), branch(4, UOP_RET, 0) };
    g_assert_cmpuint(uop_liveness(uops, 5, live_none, NULL), ==, 0);
    g_assert_cmpuint(uops[2].live_in, ==, FL_C);
    g_assert_cmpuint(uops[1].live_in, ==, FL_C);
}

/* Without a clobbering uop in between nobody looks ahead. */
static void test_lazy(void)
{
    Uop uops[] = { load(0), alu(1, 0, FL_ALL), branch(2, UOP_JMP, 0) };
    asked = 0;
    g_assert_cmpuint(uop_liveness(uops, 3, live_none, NULL), ==, 0);
    g_assert_cmpuint(asked, ==, 0);
    g_assert_cmpuint(uops[2].live_in, ==, FL_ALL);
}

static uint8_t live_more(void *opaque, const Uop *uop, uint64_t target)
{
    asked++;
    return FL_C | FL_RECORD;
}

/* Where more may be read than can be seen, what makes the flags records them; a partial writer needs the rest. */
static void test_record(void)
{
    Uop uops[] = { alu(0, 0, FL_ALL), alu(1, 0, FL_OSZAP), load(2), branch(3, UOP_JMP, 0) };
    g_assert_cmpuint(uop_liveness(uops, 4, live_more, NULL), ==, 0);
    g_assert_cmpuint(uops[3].exit_live, ==, FL_C | FL_RECORD);
    g_assert_cmpuint(uops[2].live_in, ==, FL_C | FL_RECORD);
    g_assert_true(uops[1].record);
    g_assert_cmpuint(uops[1].live_in, ==, FL_C);
    g_assert_false(uops[0].record);
    Uop through[] = { load(0), branch(1, UOP_RET, 0) };
    g_assert_cmpuint(uop_liveness(through, 2, live_none, NULL), ==, FL_RECORD);
}

static void test_verify(void)
{
    Uop good[] = { load(0), branch(1, UOP_RET, 0) };
    g_assert_null(uop_verify(good, 2));
    g_assert_cmpstr(uop_verify(good, 1), ==, "a block has one end, its last uop");
    good[0].mem_size = 0;
    g_assert_cmpstr(uop_verify(good, 2), ==, "access without size");
}

static void test_text(void)
{
    Uop uops[] = { load(0), alu(1, FL_C, FL_ALL), branch(2, UOP_JCC, FL_OSZAP), branch(3, UOP_RET, 0) };
    uop_liveness(uops, 4, live_none, NULL);
    g_autofree char *text = uop_text(uops, 4);
    g_assert_cmpstr(text, ==,
                    " 0 op.8 8b rcx [rsi+0x0].8 use=- def=- live=c\n"
                    " 1 op.8 1 rax rbx use=c def=co live=c record\n"
                    " 2 jcc.8 0x1000 cc0 use=o def=- live=cor\n"
                    " 3 ret.8 use=- def=- live=r\n");
}

static Uop inside(unsigned insn, UopKind kind, unsigned part, uint8_t uses)
{
    Uop u = branch(insn, kind, uses);
    u.attr = UA_INSIDE;
    u.part = part;
    return u;
}

/*
 * Two parts: a load, a branch out, ADC, then a way back to the head. Carry lives all the way round, since nothing
 * behind the ADC makes it anew before it is read again; the other flags of the ADC are read by the branch alone.
 */
static void test_region(void)
{
    Uop uops[] = { load(0), branch(1, UOP_JCC, FL_C), inside(1, UOP_JMP, 1, 0), alu(2, FL_C, FL_ALL), load(3),
                   inside(4, UOP_JCC, 0, FL_OSZAP), branch(4, UOP_JMP, 0) };
    UopPart parts[] = { { 0, 3 }, { 3, 4 } };
    g_assert_cmpuint(uop_region_liveness(uops, parts, 2, live_none, NULL), ==, FL_C);
    g_assert_cmpuint(uops[0].live_in, ==, FL_C);
    g_assert_cmpuint(uops[2].exit_live, ==, FL_C);
    g_assert_cmpuint(uops[4].live_in, ==, FL_ALL);
    g_assert_cmpuint(uops[5].exit_live, ==, FL_C);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dbt/uop/liveness", test_liveness);
    g_test_add_func("/dbt/uop/groups", test_groups);
    g_test_add_func("/dbt/uop/lazy", test_lazy);
    g_test_add_func("/dbt/uop/record", test_record);
    g_test_add_func("/dbt/uop/region", test_region);
    g_test_add_func("/dbt/uop/verify", test_verify);
    g_test_add_func("/dbt/uop/text", test_text);
    return g_test_run();
}
