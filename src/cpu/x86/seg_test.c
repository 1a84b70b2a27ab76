/* Segment loads, far transfers, call gates, task switches, IRET, SYSCALL. */
#include "cpu/x86/box_test.h"

static void put_gate(Box *box, uint64_t at, uint16_t selector, uint32_t offset, unsigned type, unsigned dpl, unsigned params)
{
    box_put(box, at, (offset & 0xffff) | (uint64_t)selector << 16, 4);
    box_put(box, at + 4, (offset & 0xffff0000) | 0x8000 | dpl << 13 | type << 8 | params, 4);
}

/* --- loads --- */

typedef struct Load {
    unsigned seg;
    unsigned access; /* of the descriptor */
    unsigned rpl, cpl;
    int vector;      /* -1: fine */
} Load;
static const Load loads[] = {
    { X86_DS, 0x92, 0, 0, -1 },     /* writable data */
    { X86_DS, 0x90, 0, 0, -1 },     /* read-only data */
    { X86_DS, 0x9a, 0, 0, -1 },     /* readable code */
    { X86_DS, 0x98, 0, 0, EXC_GP }, /* execute-only */
    { X86_DS, 0x12, 0, 0, EXC_NP },
    { X86_DS, 0x92, 3, 0, EXC_GP }, /* RPL > DPL */
    { X86_DS, 0x92, 3, 3, EXC_GP },
    { X86_DS, 0xf2, 3, 3, -1 },
    { X86_DS, 0xf2, 0, 0, -1 },
    { X86_DS, 0x9e, 3, 3, -1 },     /* conforming code: any level */
    { X86_DS, 0x89, 0, 0, EXC_GP }, /* a TSS */
    { X86_SS, 0x92, 0, 0, -1 },
    { X86_SS, 0x90, 0, 0, EXC_GP },
    { X86_SS, 0x9a, 0, 0, EXC_GP },
    { X86_SS, 0x92, 3, 0, EXC_GP },
    { X86_SS, 0xf2, 0, 0, EXC_GP },
    { X86_SS, 0x12, 0, 0, EXC_SS },
    { X86_SS, 0xf2, 3, 3, -1 },
    { X86_SS, 0x92, 3, 3, EXC_GP },
};

static void test_loads(void)
{
    for (volatile unsigned n = 0; n < ARRAY_SIZE(loads); n++) {
        Box *box = box_new("max");
        const Load *l = &loads[n];
        box_protected(box);
        if (l->cpl == 3) {
            box_user(box);
        }
        uint16_t selector = (uint16_t)(BOX_FREE | l->rpl);
        box_gdt(box, BOX_FREE, box_desc(0x12345678, 0x9abcd, l->access, 4));
        g_test_message("load %u", n);
        BOX_EXPECT(box, l->vector, x86_load_seg(box->cpu, l->seg, selector));
        if (l->vector < 0) {
            const X86Seg *seg = &box->cpu->seg[l->seg];
            g_assert_cmphex(seg->sel, ==, selector);
            g_assert_cmphex(seg->base, ==, 0x12345678);
            g_assert_cmphex(seg->limit, ==, 0x9abcd);
            g_assert_cmphex(box_get(box, BOX_GDT + BOX_FREE + 5, 1), ==, l->access | 1);
        } else {
            g_assert_cmphex(box->cpu->fault.error, ==, BOX_FREE);
            g_assert_cmphex(box_get(box, BOX_GDT + BOX_FREE + 5, 1), ==, l->access);
        }
        box_free(box);
    }
}

static void test_null_and_limits(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    BOX_EXPECT(box, -1, x86_load_seg(cpu, X86_DS, 3));
    g_assert_false(cpu->seg[X86_DS].attr & SEG_P);
    BOX_EXPECT(box, EXC_GP, x86_load_seg(cpu, X86_SS, 0));
    g_assert_cmphex(cpu->fault.error, ==, 0);
    BOX_EXPECT(box, EXC_GP, x86_load_seg(cpu, X86_DS, 0x100)); /* beyond the limit */
    g_assert_cmphex(cpu->fault.error, ==, 0x100);
    BOX_EXPECT(box, EXC_GP, x86_load_seg(cpu, X86_DS, 0x0c)); /* no LDT */
    box_gdt(box, BOX_FREE, box_desc(BOX_LDT, 0x0f, 0x82, 0));
    box_put(box, BOX_LDT + 8, box_desc(0x1000, 0xfff, 0x92, 0), 8);
    BOX_EXPECT(box, -1, x86_lldt(cpu, BOX_FREE));
    BOX_EXPECT(box, -1, x86_load_seg(cpu, X86_DS, 0x0c));
    g_assert_cmphex(cpu->seg[X86_DS].base, ==, 0x1000);
    BOX_EXPECT(box, EXC_GP, x86_load_seg(cpu, X86_DS, 0x14));
    /* LTR marks the TSS busy, and refuses one that is. */
    g_assert_cmphex(box_get(box, BOX_GDT + BOX_SEL_TSS + 5, 1), ==, 0x8b);
    BOX_EXPECT(box, EXC_GP, x86_ltr(cpu, BOX_SEL_TSS));
    box_free(box);
}

static void test_looking(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    uint64_t value = 0;
    box_protected(box);
    g_assert_true(x86_lar(cpu, BOX_CODE0, &value));
    g_assert_cmphex(value, ==, 0x00cf9b00 & 0x00ffff00);
    g_assert_true(x86_lsl(cpu, BOX_DATA0, &value));
    g_assert_cmphex(value, ==, 0xffffffff);
    g_assert_false(x86_lar(cpu, 0, &value));
    g_assert_false(x86_lar(cpu, 0x100, &value));
    g_assert_true(x86_verify(cpu, BOX_DATA0, true));
    g_assert_false(x86_verify(cpu, BOX_CODE0, true));
    g_assert_true(x86_verify(cpu, BOX_CODE0, false));
    g_assert_false(x86_verify(cpu, BOX_SEL_TSS, false));
    box_user(box);
    g_assert_false(x86_lar(cpu, BOX_DATA0, &value));
    g_assert_false(x86_verify(cpu, BOX_DATA0, false));
    g_assert_true(x86_verify(cpu, BOX_DATA3, true));
    g_assert_true(x86_lar(cpu, BOX_CONFORMING, &value));
    box_free(box);
}

/* --- far transfers --- */

static void test_far_jumps(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    BOX_EXPECT(box, EXC_GP, x86_far_jmp(cpu, 0, 0, 4, 0));
    BOX_EXPECT(box, EXC_GP, x86_far_jmp(cpu, BOX_DATA0, 0, 4, 0));
    BOX_EXPECT(box, EXC_GP, x86_far_jmp(cpu, BOX_CODE3, 0, 4, 0)); /* not to an outer level */
    BOX_EXPECT(box, -1, x86_far_jmp(cpu, BOX_CONFORMING, 0x1234, 4, 0));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x1234);
    g_assert_cmpuint(cpu->cpl, ==, 0);
    box_gdt(box, BOX_FREE, box_desc(0, 0xfff, 0x9a, 4));
    BOX_EXPECT(box, EXC_GP, x86_far_jmp(cpu, BOX_FREE, 0x1000, 4, 0));
    BOX_EXPECT(box, -1, x86_far_jmp(cpu, BOX_FREE, 0xfff, 4, 0));
    box_gdt(box, BOX_FREE, box_desc(0, 0xfff, 0x1a, 4));
    BOX_EXPECT(box, EXC_NP, x86_far_jmp(cpu, BOX_FREE, 0, 4, 0));
    g_assert_cmphex(cpu->fault.error, ==, BOX_FREE);
    /* Conforming code runs at the caller's level. */
    box_user(box);
    BOX_EXPECT(box, -1, x86_far_jmp(cpu, BOX_CONFORMING, 0x10, 4, 0));
    g_assert_cmphex(cpu->seg[X86_CS].sel, ==, BOX_CONFORMING | 3);
    g_assert_cmpuint(cpu->cpl, ==, 3);
    box_free(box);
}

static void test_call_and_return(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    uint64_t rsp = x86_gpr(cpu)[X86_RSP];
    BOX_EXPECT(box, -1, x86_far_call(cpu, BOX_CODE0, 0x5000, 4, 0x107));
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, rsp - 8);
    g_assert_cmphex(box_get(box, rsp - 8, 4), ==, 0x107);
    g_assert_cmphex(box_get(box, rsp - 4, 4), ==, BOX_CODE0);
    BOX_EXPECT(box, -1, x86_far_ret(cpu, 4, 12));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x107);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, rsp + 12);
    /* A stack that is too small: #SS, nothing changed. */
    box_gdt(box, BOX_FREE, box_desc(0, 0x7fff, 0x92, 4));
    BOX_EXPECT(box, -1, x86_load_seg(cpu, X86_SS, BOX_FREE));
    x86_gpr(cpu)[X86_RSP] = 6;
    BOX_EXPECT(box, EXC_SS, x86_far_call(cpu, BOX_CODE0, 0x5000, 4, 0x107));
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, 6);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x107);
    box_free(box);
}

static void test_return_to_user(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    box_user(box);
    g_assert_cmphex(cpu->seg[X86_CS].sel, ==, BOX_CODE3);
    g_assert_cmphex(cpu->seg[X86_SS].sel, ==, BOX_DATA3);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, BOX_STACK3);
    g_assert_cmphex(cpu->seg[X86_DS].sel, ==, 0); /* level-0 data became null */
    g_assert_cmpuint(cpu->context, ==, X86_CTX_USER);
    /* Not to an inner level. */
    box_put(box, BOX_STACK3, 0x100, 4);
    box_put(box, BOX_STACK3 + 4, BOX_CODE0, 4);
    BOX_EXPECT(box, EXC_GP, x86_far_ret(cpu, 4, 0));
    g_assert_cmphex(cpu->fault.error, ==, BOX_CODE0);
    box_free(box);
}

static void test_call_gate(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    put_gate(box, BOX_GDT + BOX_FREE, BOX_CODE0, 0x4321, 12, 3, 2);
    box_user(box);
    uint64_t sp = BOX_STACK3 - 8;
    x86_gpr(cpu)[X86_RSP] = sp;
    box_put(box, sp, 0x11111111, 4);
    box_put(box, sp + 4, 0x22222222, 4);
    BOX_EXPECT(box, -1, x86_far_call(cpu, BOX_FREE | 3, 0xdead, 4, 0x207));
    g_assert_cmpuint(cpu->cpl, ==, 0);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x4321);
    g_assert_cmphex(cpu->seg[X86_SS].sel, ==, BOX_DATA0);
    uint64_t top = x86_gpr(cpu)[X86_RSP];
    g_assert_cmphex(top, ==, BOX_STACK0 - 6 * 4);
    static const uint32_t expect[] = { 0x207, BOX_CODE3, 0x11111111, 0x22222222, 0, BOX_DATA3 };
    for (unsigned n = 0; n < 6; n++) {
        g_assert_cmphex(box_get(box, top + 4 * n, 4), ==, n == 4 ? sp : expect[n]);
    }
    BOX_EXPECT(box, -1, x86_far_ret(cpu, 4, 8));
    g_assert_cmpuint(cpu->cpl, ==, 3);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, sp + 8);
    /* A gate that the caller may not use; a target that is not present. */
    put_gate(box, BOX_GDT + BOX_FREE, BOX_CODE0, 0x4321, 12, 0, 0);
    BOX_EXPECT(box, EXC_GP, x86_far_call(cpu, BOX_FREE | 3, 0, 4, 0x207));
    g_assert_cmphex(cpu->fault.error, ==, BOX_FREE);
    put_gate(box, BOX_GDT + BOX_FREE, BOX_CODE0, 0x4321, 12, 3, 0);
    box_gdt(box, BOX_CODE0, box_desc(0, 0xfffff, 0x1a, 0xc));
    BOX_EXPECT(box, EXC_NP, x86_far_call(cpu, BOX_FREE | 3, 0, 4, 0x207));
    g_assert_cmphex(cpu->fault.error, ==, BOX_CODE0);
    box_free(box);
}

/* --- tasks --- */

static void fill_tss2(Box *box)
{
    box_put(box, BOX_TSS2 + 0x20, 0x777, 4);     /* EIP */
    box_put(box, BOX_TSS2 + 0x24, 0x202, 4);     /* EFLAGS */
    box_put(box, BOX_TSS2 + 0x28, 0xaaaa, 4);    /* EAX */
    box_put(box, BOX_TSS2 + 0x38, 0x9000, 4);    /* ESP */
    box_put(box, BOX_TSS2 + 0x48, BOX_DATA0, 2); /* ES */
    box_put(box, BOX_TSS2 + 0x4c, BOX_CODE0, 2);
    box_put(box, BOX_TSS2 + 0x50, BOX_DATA0, 2);
    box_put(box, BOX_TSS2 + 0x54, BOX_DATA0, 2);
}

static void test_task_call(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    fill_tss2(box);
    x86_gpr(cpu)[X86_RAX] = 0x5555;
    x86_hot(cpu)->rip = 0x100;
    BOX_EXPECT(box, -1, x86_far_call(cpu, BOX_SEL_TSS2, 0, 4, 0x107));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x777);
    g_assert_cmphex(x86_gpr(cpu)[X86_RAX], ==, 0xaaaa);
    g_assert_true(x86_hot(cpu)->rflags & X86_NT);
    g_assert_true(x86_hot(cpu)->rflags & X86_IF);
    g_assert_true(cpu->cr0 & CR0_TS);
    g_assert_cmphex(cpu->tr.sel, ==, BOX_SEL_TSS2);
    g_assert_cmphex(box_get(box, BOX_TSS2, 2), ==, BOX_SEL_TSS);
    g_assert_cmphex(box_get(box, BOX_TSS + 0x20, 4), ==, 0x107);
    g_assert_cmphex(box_get(box, BOX_TSS + 0x28, 4), ==, 0x5555);
    g_assert_cmphex(box_get(box, BOX_GDT + BOX_SEL_TSS + 5, 1), ==, 0x8b); /* both busy */
    g_assert_cmphex(box_get(box, BOX_GDT + BOX_SEL_TSS2 + 5, 1), ==, 0x8b);
    /* Back by IRET. */
    cpu->next_rip = 0x790;
    BOX_EXPECT(box, -1, x86_iret(cpu, 4));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x107);
    g_assert_cmphex(x86_gpr(cpu)[X86_RAX], ==, 0x5555);
    g_assert_cmphex(cpu->tr.sel, ==, BOX_SEL_TSS);
    g_assert_false(x86_hot(cpu)->rflags & X86_NT);
    g_assert_cmphex(box_get(box, BOX_GDT + BOX_SEL_TSS2 + 5, 1), ==, 0x89);
    g_assert_cmphex(box_get(box, BOX_TSS2 + 0x20, 4), ==, 0x790);
    /* To itself: busy. */
    BOX_EXPECT(box, EXC_GP, x86_far_call(cpu, BOX_SEL_TSS, 0, 4, 0x107));
    box_free(box);
}

static void test_task_faults(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    fill_tss2(box);
    /* A bad segment faults in the new task. */
    box_put(box, BOX_TSS2 + 0x50, BOX_CODE0, 2);
    BOX_EXPECT(box, EXC_TS, x86_far_jmp(cpu, BOX_SEL_TSS2, 0, 4, 0x107));
    g_assert_cmphex(cpu->fault.error, ==, BOX_CODE0);
    g_assert_cmphex(cpu->tr.sel, ==, BOX_SEL_TSS2);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x777);
    /* A TSS that is too short faults in the old one. */
    box_gdt(box, BOX_SEL_TSS, box_desc(BOX_TSS, 0x66, 0x89, 0));
    BOX_EXPECT(box, EXC_TS, x86_far_jmp(cpu, BOX_SEL_TSS, 0, 4, 0x107));
    g_assert_cmphex(cpu->fault.error, ==, BOX_SEL_TSS);
    g_assert_cmphex(cpu->tr.sel, ==, BOX_SEL_TSS2);
    box_free(box);
}

/* --- IRET, V86 --- */

static void test_iret_vm86(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    static const uint32_t frame[] = { 0x1234, 0x2000, X86_VM | X86_IF | 0x3002, 0xfffe, 0x3000, 0x4000, 0x5000,
                                      0x6000, 0x7000 };
    uint64_t sp = BOX_STACK0 - sizeof(frame);
    for (unsigned n = 0; n < ARRAY_SIZE(frame); n++) {
        box_put(box, sp + 4 * n, frame[n], 4);
    }
    x86_gpr(cpu)[X86_RSP] = sp;
    BOX_EXPECT(box, -1, x86_iret(cpu, 4));
    g_assert_true(x86_hot(cpu)->mode & X86_MODE_VM86);
    g_assert_true(x86_hot(cpu)->mode & X86_MODE_IOPL_OK);
    g_assert_cmpuint(cpu->cpl, ==, 3);
    g_assert_cmphex(cpu->seg[X86_CS].base, ==, 0x20000);
    g_assert_cmphex(cpu->seg[X86_ES].base, ==, 0x40000);
    g_assert_cmphex(cpu->seg[X86_DS].base, ==, 0x50000);
    g_assert_cmphex(cpu->seg[X86_FS].base, ==, 0x60000);
    g_assert_cmphex(cpu->seg[X86_GS].base, ==, 0x70000);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, 0xfffe);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x1234);
    g_assert_false(x86_hot(cpu)->mode & X86_MODE_SS32);
    /* An exception comes back to level 0 with the segments on the stack. */
    put_gate(box, BOX_IDT + 8 * EXC_GP, BOX_CODE0, 0x600, 14, 0, 0);
    BOX_EXPECT(box, EXC_GP, x86_gp(cpu, 0));
    x86_deliver_fault(cpu);
    g_assert_cmpuint(cpu->cpl, ==, 0);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, BOX_STACK0 - 10 * 4);
    g_assert_cmphex(box_get(box, BOX_STACK0 - 4, 4), ==, 0x7000);
    g_assert_cmphex(box_get(box, BOX_STACK0 - 20, 4), ==, 0x3000);
    g_assert_cmphex(box_get(box, BOX_STACK0 - 28, 4) & X86_VM, ==, X86_VM);
    g_assert_cmphex(cpu->seg[X86_DS].sel, ==, 0);
    g_assert_false(x86_hot(cpu)->rflags & X86_VM);
    box_free(box);
}

static void test_iret_long(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    uint64_t frame[] = { 0x123456, BOX_CODE64, 0x202, BOX_STACK0, 0 }; /* a null SS is allowed below level 3 */
    uint64_t sp = BOX_STACK0 - 0x100;
    memcpy(box->block->host + sp, frame, sizeof(frame));
    x86_gpr(cpu)[X86_RSP] = sp;
    BOX_EXPECT(box, -1, x86_iret(cpu, 8));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x123456);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, BOX_STACK0);
    box_put(box, sp, 0x800000000000, 8); /* not canonical */
    x86_gpr(cpu)[X86_RSP] = sp;
    BOX_EXPECT(box, EXC_GP, x86_iret(cpu, 8));
    /* To 32-bit code at level 3. */
    uint64_t user[] = { 0x9000, BOX_CODE3, 0x202, BOX_STACK3, BOX_DATA3 };
    memcpy(box->block->host + sp, user, sizeof(user));
    BOX_EXPECT(box, -1, x86_iret(cpu, 8));
    g_assert_cmpuint(cpu->cpl, ==, 3);
    g_assert_false(x86_hot(cpu)->mode & X86_MODE_CS64);
    g_assert_true(x86_hot(cpu)->mode & X86_MODE_LMA);
    box_free(box);
}

static void test_syscall(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    cpu->star = (uint64_t)0x13 << 48 | (uint64_t)BOX_CODE0 << 32;
    cpu->lstar = 0xffffffff81000000;
    cpu->sfmask = X86_IF | X86_DF;
    x86_hot(cpu)->rflags = 2 | X86_IF | X86_DF | X86_CF;
    BOX_EXPECT(box, -1, x86_syscall(cpu, 0x402));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0xffffffff81000000);
    g_assert_cmphex(x86_gpr(cpu)[X86_RCX], ==, 0x402);
    g_assert_cmphex(x86_gpr(cpu)[11], ==, 2 | X86_IF | X86_DF | X86_CF);
    g_assert_cmphex(x86_hot(cpu)->rflags, ==, 2 | X86_CF);
    g_assert_cmphex(cpu->seg[X86_SS].sel, ==, BOX_CODE0 + 8);
    BOX_EXPECT(box, -1, x86_sysret(cpu, 8));
    g_assert_cmpuint(cpu->cpl, ==, 3);
    g_assert_cmphex(cpu->seg[X86_CS].sel, ==, 0x23);
    g_assert_cmphex(cpu->seg[X86_SS].sel, ==, 0x1b);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x402);
    g_assert_true(x86_hot(cpu)->rflags & X86_IF);
    cpu->efer &= ~(uint64_t)EFER_SCE;
    BOX_EXPECT(box, EXC_UD, x86_syscall(cpu, 0));
    box_free(box);
}

static void test_io_permission(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_gdt(box, BOX_SEL_TSS, 0);
    box_protected(box);
    cpu->tr.limit = 0x88 + 8;
    box_put(box, BOX_TSS + 0x66, 0x88, 2);
    box_put(box, BOX_TSS + 0x88, 0xfffffffffffffffd, 8); /* port 1 only */
    BOX_EXPECT(box, -1, x86_check_io(cpu, 0x3f8, 1));
    box_user(box);
    BOX_EXPECT(box, -1, x86_check_io(cpu, 1, 1));
    BOX_EXPECT(box, EXC_GP, x86_check_io(cpu, 0, 1));
    BOX_EXPECT(box, EXC_GP, x86_check_io(cpu, 1, 2));
    BOX_EXPECT(box, EXC_GP, x86_check_io(cpu, 0x3f8, 1));
    x86_hot(cpu)->rflags |= X86_IOPL;
    x86_mode_changed(cpu);
    BOX_EXPECT(box, -1, x86_check_io(cpu, 0x3f8, 1));
    box_free(box);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/seg/loads", test_loads);
    g_test_add_func("/x86/seg/null-and-limits", test_null_and_limits);
    g_test_add_func("/x86/seg/looking", test_looking);
    g_test_add_func("/x86/seg/far-jumps", test_far_jumps);
    g_test_add_func("/x86/seg/call-and-return", test_call_and_return);
    g_test_add_func("/x86/seg/return-to-user", test_return_to_user);
    g_test_add_func("/x86/seg/call-gate", test_call_gate);
    g_test_add_func("/x86/seg/task-call", test_task_call);
    g_test_add_func("/x86/seg/task-faults", test_task_faults);
    g_test_add_func("/x86/seg/iret-vm86", test_iret_vm86);
    g_test_add_func("/x86/seg/iret-long", test_iret_long);
    g_test_add_func("/x86/seg/syscall", test_syscall);
    g_test_add_func("/x86/seg/io-permission", test_io_permission);
    return g_test_run();
}
