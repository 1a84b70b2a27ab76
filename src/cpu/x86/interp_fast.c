/*
 * Handlers for frequent forms of frequent instructions, with operand kinds and sizes known: the
 * same semantics as in interp_alu.c, interp_move.c, interp_branch.c, without looking at the
 * operands each time. Only operations that need no feature and no privilege may be here.
 */
#include "cpu/x86/interp_priv.h"

/* Operand forms. */
typedef enum Form {
    FORM_REG_REG,
    FORM_REG_IMM,
    FORM_REG_MEM,
    FORM_MEM_REG,
    FORM_MEM_IMM,
    FORMS
} Form;
enum { SIZES = 4 }; /* 1, 2, 4, 8 */

static ALWAYS_INLINE uint64_t plain_read(X86Cpu *cpu, unsigned reg, unsigned size)
{
    return x86_gpr(cpu)[reg] & size_mask(size);
}

static ALWAYS_INLINE uint64_t source(X86Cpu *cpu, const X86Insn *insn, Form form, unsigned size)
{
    switch (form) {
    case FORM_REG_REG:
    case FORM_MEM_REG:
        return plain_read(cpu, insn->operand[1].reg, size);
    case FORM_REG_MEM:
        return mem_read_operand(cpu, insn, size);
    default:
        return (uint64_t)insn->imm & size_mask(size);
    }
}

/* Results go to registers here; arithmetic on memory takes the general way. */
static ALWAYS_INLINE void alu(X86Cpu *cpu, const X86Insn *insn, Alu op, Form form, unsigned size)
{
    uint64_t b = source(cpu, insn, form, size), carry = x86_hot(cpu)->rflags & X86_CF, a;
    if (form == FORM_MEM_REG || form == FORM_MEM_IMM) {
        a = mem_read_operand(cpu, insn, size);
    } else {
        a = plain_read(cpu, insn->operand[0].reg, size);
    }
    uint64_t r = alu_result(op, a, b, carry) & size_mask(size);
    if (op != ALU_CMP && op != ALU_TEST) {
        gpr_write(cpu, insn->operand[0].reg, r, size);
    }
    flags_set(cpu, X86_ARITH, alu_flags(op, a, b, r, size));
}

static ALWAYS_INLINE void move(X86Cpu *cpu, const X86Insn *insn, Form form, unsigned size)
{
    uint64_t value = source(cpu, insn, form, size);
    if (form == FORM_MEM_REG || form == FORM_MEM_IMM) {
        mem_write_operand(cpu, insn, value, size);
    } else {
        gpr_write(cpu, insn->operand[0].reg, value, size);
    }
}

#define HANDLER(name, body)                                                                        \
    static void name(X86Cpu *cpu, const X86Insn *insn)                                             \
    {                                                                                              \
        body;                                                                                      \
    }
#define ALU_FORM(op, form, tag)                                                                    \
    HANDLER(op##_##tag##_1, alu(cpu, insn, ALU_##op, form, 1))                                     \
    HANDLER(op##_##tag##_2, alu(cpu, insn, ALU_##op, form, 2))                                     \
    HANDLER(op##_##tag##_4, alu(cpu, insn, ALU_##op, form, 4))                                     \
    HANDLER(op##_##tag##_8, alu(cpu, insn, ALU_##op, form, 8))
#define ALU_TO_REG(op)                                                                             \
    ALU_FORM(op, FORM_REG_REG, rr)                                                                 \
    ALU_FORM(op, FORM_REG_IMM, ri)                                                                 \
    ALU_FORM(op, FORM_REG_MEM, rm)
#define ALU_COMPARE(op)                                                                            \
    ALU_FORM(op, FORM_MEM_REG, mr)                                                                 \
    ALU_FORM(op, FORM_MEM_IMM, mi)
ALU_TO_REG(ADD)
ALU_TO_REG(OR)
ALU_TO_REG(AND)
ALU_TO_REG(SUB)
ALU_TO_REG(XOR)
ALU_TO_REG(CMP)
ALU_TO_REG(TEST)
ALU_COMPARE(CMP)
ALU_COMPARE(TEST)

#define MOVE_FORM(form, tag)                                                                       \
    HANDLER(mov_##tag##_1, move(cpu, insn, form, 1))                                               \
    HANDLER(mov_##tag##_2, move(cpu, insn, form, 2))                                               \
    HANDLER(mov_##tag##_4, move(cpu, insn, form, 4))                                               \
    HANDLER(mov_##tag##_8, move(cpu, insn, form, 8))
MOVE_FORM(FORM_REG_REG, rr)
MOVE_FORM(FORM_REG_IMM, ri)
MOVE_FORM(FORM_REG_MEM, rm)
MOVE_FORM(FORM_MEM_REG, mr)
MOVE_FORM(FORM_MEM_IMM, mi)

typedef X86Handler *const Table[FORMS][SIZES];
#define ROW(op, tag)                                                                               \
    {                                                                                              \
        op##_##tag##_1, op##_##tag##_2, op##_##tag##_4, op##_##tag##_8                             \
    }
#define TO_REG(op)                                                                                 \
    {                                                                                              \
        [FORM_REG_REG] = ROW(op, rr), [FORM_REG_IMM] = ROW(op, ri), [FORM_REG_MEM] = ROW(op, rm),  \
    }
#define COMPARE(op)                                                                                \
    {                                                                                              \
        ROW(op, rr), ROW(op, ri), ROW(op, rm), ROW(op, mr), ROW(op, mi),                           \
    }
static Table add_table = TO_REG(ADD), or_table = TO_REG(OR), and_table = TO_REG(AND),
             sub_table = TO_REG(SUB), xor_table = TO_REG(XOR), cmp_table = COMPARE(CMP),
             test_table = COMPARE(TEST), mov_table = COMPARE(mov);

/* --- the rest --- */

#define JCC(n)                                                                                     \
    static void jcc_##n(X86Cpu *cpu, const X86Insn *insn)                                          \
    {                                                                                              \
        if (condition(cpu, n)) {                                                                   \
            x86_jump(cpu, cpu->next_rip + (uint64_t)insn->imm, insn->osize);                       \
        }                                                                                          \
    }
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(10)
JCC(11)
JCC(12)
JCC(13)
JCC(14)
JCC(15)
static X86Handler *const jcc_table[16] = {
    jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
    jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15,
};

HANDLER(push_2, x86_push(cpu, plain_read(cpu, insn->operand[0].reg, 2), 2))
HANDLER(push_4, x86_push(cpu, plain_read(cpu, insn->operand[0].reg, 4), 4))
HANDLER(push_8, x86_push(cpu, plain_read(cpu, insn->operand[0].reg, 8), 8))
HANDLER(pop_2, gpr_write(cpu, insn->operand[0].reg, x86_pop(cpu, 2), 2))
HANDLER(pop_4, gpr_write(cpu, insn->operand[0].reg, x86_pop(cpu, 4), 4))
HANDLER(pop_8, gpr_write(cpu, insn->operand[0].reg, x86_pop(cpu, 8), 8))
HANDLER(lea_4, gpr_write(cpu, insn->operand[0].reg, operand_offset(cpu, insn), 4))
HANDLER(lea_8, gpr_write(cpu, insn->operand[0].reg, operand_offset(cpu, insn), 8))
HANDLER(movzx_b,
        gpr_write(cpu, insn->operand[0].reg, mem_read_operand(cpu, insn, 1), insn->operand[0].size))

static unsigned size_index(unsigned size)
{
    return size == 8 ? 3 : size >> 1;
}

static bool form_of(const X86Insn *insn, Form *ret_form)
{
    const X86Operand *a = &insn->operand[0], *b = &insn->operand[1];
    if ((a->flags | b->flags) & OPND_HIGH8) {
        return false;
    }
    bool memory = a->kind == OPND_MEM;
    switch (b->kind) {
    case OPND_REG:
        *ret_form = memory ? FORM_MEM_REG : FORM_REG_REG;
        return true;
    case OPND_IMM:
        *ret_form = memory ? FORM_MEM_IMM : FORM_REG_IMM;
        return true;
    case OPND_MEM:
        *ret_form = FORM_REG_MEM;
        return true;
    default:
        return false;
    }
}

static X86Handler *from_table(Table table, const X86Insn *insn)
{
    Form form;
    return form_of(insn, &form) ? table[form][size_index(insn->operand[0].size)] : NULL;
}

static X86Handler *stack_handler(const X86Insn *insn, X86Handler *h2, X86Handler *h4,
                                 X86Handler *h8)
{
    unsigned size = insn->osize;
    return insn->operand[0].kind != OPND_REG ? NULL : size == 2 ? h2 : size == 4 ? h4 : h8;
}

X86Handler *x86_fast_handler(const X86Insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOV:
        return insn->desc->feature_word == 0xff ? from_table(mov_table, insn)
                                                : NULL; /* not MOVNTI */
    case X86_OP_ADD:
        return from_table(add_table, insn);
    case X86_OP_OR:
        return from_table(or_table, insn);
    case X86_OP_AND:
        return from_table(and_table, insn);
    case X86_OP_SUB:
        return from_table(sub_table, insn);
    case X86_OP_XOR:
        return from_table(xor_table, insn);
    case X86_OP_CMP:
        return from_table(cmp_table, insn);
    case X86_OP_TEST:
        return from_table(test_table, insn);
    case X86_OP_JCC:
        return jcc_table[insn->cond];
    case X86_OP_PUSH:
        return stack_handler(insn, push_2, push_4, push_8);
    case X86_OP_POP:
        return stack_handler(insn, pop_2, pop_4, pop_8);
    case X86_OP_LEA:
        return insn->osize == 8 ? lea_8 : insn->osize == 4 ? lea_4 : NULL;
    case X86_OP_MOVZX:
        return insn->operand[1].kind == OPND_MEM && insn->operand[1].size == 1 ? movzx_b : NULL;
    default:
        return NULL;
    }
}
