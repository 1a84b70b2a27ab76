/*
 * Tests of the interpreter that the random instructions (tests/insn) cannot make: real and
 * protected mode, interrupts, traps, restartable strings, code that changes itself. One CPU without
 * a machine, 1 MiB RAM.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu/x86/codepage.h"
#include "cpu/x86/guest_box.h"

enum { RAM_SIZE = 1 << 20, CODE = 0x8000, TRAPS = 0x600, STACK = 0x7000, PAGES = 0x10000 };

typedef GuestBox Box;

static Box *box_new(void)
{
    Box *b = g_new(Box, 1);
    guest_box_init(b, RAM_SIZE);
    return b;
}

static void box_free(Box *b)
{
    guest_box_fini(b);
    g_free(b);
}

typedef enum Mode { REAL, PROT32, LONG64 } Mode;

static void set_segments(X86Cpu *cpu, Mode mode)
{
    static const uint16_t code_attr[] = { 0x9b, 0xc09b, 0xa09b },
                          data_attr[] = { 0x93, 0xc093, 0xc093 };
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        cpu->seg[n] = (X86Seg) { .sel = (uint16_t)(mode == REAL  ? 0
                                                   : n == X86_CS ? 8
                                                                 : 16),
                                 .attr = n == X86_CS ? code_attr[mode] : data_attr[mode],
                                 .limit = mode == REAL ? 0xffff : 0xffffffff };
    }
}

/* A CPU in one of the modes at CODE; every vector goes to a HLT at TRAPS + vector. */
static void prepare(Box *b, Mode mode)
{
    X86Cpu *cpu = b->cpu;
    x86_cpu_reset(cpu, false);
    b->vcpu.halted = false;
    memset(b->host, 0, PAGES);
    memset(b->host + TRAPS, 0xf4, 256);
    ram_written(b->block, 0, RAM_SIZE);
    set_segments(cpu, mode);
    for (unsigned v = 0; v < 256; v++) {
        if (mode == REAL) {
            st32_le(b->host + 4 * v, TRAPS + v);
        } else {
            uint64_t gate = (TRAPS + v) | 8 << 16 | (uint64_t)0x8e00 << 32;
            st64_le(b->host + 0x2000 + (mode == LONG64 ? 16 : 8) * v, gate);
        }
    }
    cpu->idt.base = mode == REAL ? 0 : 0x2000;
    cpu->idt.limit = mode == REAL ? 0x3ff : 0xfff;
    cpu->gdt.base = 0x1000;
    cpu->gdt.limit = 0xff;
    st64_le(b->host + 0x1008, mode == LONG64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    st64_le(b->host + 0x1010, 0x00cf93000000ffff);
    st64_le(b->host + 0x1018, 0x00009b000000ffff); /* 16-bit code */
    st64_le(b->host + 0x1020, 0x000093000000ffff); /* 16-bit data */
    if (mode != REAL) {
        cpu->cr0 |= CR0_PE;
    }
    if (mode == LONG64) {
        st64_le(b->host + PAGES, (PAGES + 0x1000) | 3);
        st64_le(b->host + PAGES + 0x1000, (PAGES + 0x2000) | 3);
        st64_le(b->host + PAGES + 0x2000, 0x83);
        cpu->cr3 = PAGES;
        cpu->cr4 |= CR4_PAE;
        cpu->efer = EFER_LME | EFER_LMA;
        cpu->cr0 |= CR0_PG;
    }
    x86_tlb_flush_all(cpu);
    x86_mode_changed(cpu);
    x86_gpr(cpu)[X86_RSP] = STACK;
    x86_gpr(cpu)[X86_RDX] = 0;
    x86_hot(cpu)->rip = CODE;
}

static void code(Box *b, unsigned at, const char *hex)
{
    unsigned n = 0;
    char *end;
    for (const char *s = hex; *s != 0; s = end) {
        b->host[at + n++] = (uint8_t)strtoul(s, &end, 16);
        if (end == s) {
            break;
        }
    }
    ram_written(b->block, at, n);
}

static void run(Box *b)
{
    g_assert_cmpint(x86_interp_run(b->cpu, 100000, false), ==, X86_EXIT_HALT);
}

/* The vector whose HLT was reached; -1: another one. */
static int trap(Box *b)
{
    uint64_t rip = x86_hot(b->cpu)->rip;
    return rip > TRAPS && rip <= TRAPS + 256 ? (int)(rip - TRAPS - 1) : -1;
}

#define GPR(b, n) (x86_gpr((b)->cpu)[n])

/* --- one instruction or a few in each mode, by table --- */

static const struct {
    Mode mode;
    const char *code;
    int trap;               /* -1: ends at its own HLT */
    uint64_t rax, rcx, rbx; /* expected; before: rax 0x12345678, rcx 2, rbx 0x9000 */
    uint32_t flags, flag_mask;
} cases[] = {
    { REAL, "b8 ff ff 05 01 00 f4", -1, 0x12340000, 2, 0x9000, X86_CF | X86_ZF | X86_AF | X86_PF,
      X86_ARITH },
    { REAL, "66 b8 ff ff ff 7f 66 40 f4", -1, 0x80000000, 2, 0x9000,
      X86_OF | X86_SF | X86_AF | X86_PF, X86_ARITH },
    { REAL, "b8 34 12 50 59 f4", -1, 0x12341234, 0x1234, 0x9000, 0, 0 },
    { REAL, "d4 0a f4", -1, 0x12340c00, 2, 0x9000, 0, 0 }, /* AAM: 0x78 = 120 */
    { REAL, "d4 00 f4", EXC_DE, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "b0 15 b3 27 00 d8 27 f4", -1, 0x12345642, 2, 0x9027, 0, 0 }, /* DAA */
    { REAL, "31 c0 f7 f0 f4", EXC_DE, 0x12340000, 2, 0x9000, 0, 0 },
    { REAL, "0f 0b", EXC_UD, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "0f 00 c0", EXC_UD, 0x12345678, 2, 0x9000, 0, 0 }, /* SLDT outside protected mode */
    { REAL, "f0 01 c8", EXC_UD, 0x12345678, 2, 0x9000, 0, 0 }, /* LOCK on a register */
    { REAL, "cd 42", 0x42, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "cc", EXC_BP, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "a1 ff ff f4", EXC_GP, 0x12345678, 2, 0x9000, 0, 0 }, /* word at the limit */
    { REAL, "67 66 a1 00 00 01 00", EXC_GP, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "bc fe ff 83 ec 00 bd 00 00 55 5b f4", -1, 0x12345678, 2, 0, 0, 0 },
    { REAL, "e2 fe f4", -1, 0x12345678, 0, 0x9000, 0, 0 }, /* LOOP to itself */
    { REAL, "9c 58 f4", -1, 0x12340002, 2, 0x9000, 0, 0 },
    { REAL, "e8 01 00 f4 b8 01 00 c3", -1, 0x12340001, 2, 0x9000, 0, 0 },
    { REAL, "9a 08 80 00 00 f4 90 90 b8 02 00 cb", -1, 0x12340002, 2, 0x9000, 0, 0 },
    { REAL, "c8 10 00 02 c9 f4", -1, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "60 b8 00 00 61 f4", -1, 0x12345678, 2, 0x9000, 0, 0 },
    { REAL, "0f a2 f4", -1, 0, 0, 0, 0, 0 },
    { REAL, "d6 f4", -1, 0x12345600, 2, 0x9000, 0, 0 },
    { REAL, "66 0f c8 f4", -1, 0x78563412, 2, 0x9000, 0, 0 },
    { PROT32, "b8 78 56 34 92 f7 e8 f4", -1, 0x1df4d840, 2, 0x9000, X86_CF | X86_OF,
      X86_CF | X86_OF },
    { PROT32, "0f a3 08 f4", EXC_PF + 100, 0, 0, 0, 0, 0 },
    { PROT32, "c7 03 05 00 00 00 c7 43 04 06 00 00 00 b8 06 00 00 00 62 03 f4", -1, 6, 2, 0x9000, 0,
      0 },
    { PROT32, "c7 03 05 00 00 00 c7 43 04 06 00 00 00 b8 07 00 00 00 62 03 f4", EXC_BR, 7, 2,
      0x9000, 0, 0 },
    { PROT32, "8c d8 0f 02 c8 f4", -1, 16, 0xcf9300, 0x9000, X86_ZF, X86_ZF },
    { PROT32, "8c d8 0f 03 c8 f4", -1, 16, 0xffffffff, 0x9000, X86_ZF, X86_ZF },
    { PROT32, "31 c0 8e c0 26 8b 0b f4", EXC_GP, 0, 2, 0x9000, 0, 0 }, /* null ES */
    { PROT32, "2e c6 03 01 f4", EXC_GP, 0x12345678, 2, 0x9000, 0, 0 }, /* code is not writable */
    { PROT32, "66 b9 f8 0f 8e d9 f4", EXC_GP, 0x12345678, 0xff8, 0x9000, 0, 0 },
    { PROT32, "b8 01 00 00 00 f4", -1, 1, 2, 0x9000, 0, 0 },
    { PROT32, "fb f4", -1, 0x12345678, 2, 0x9000, X86_IF, X86_IF },
    { LONG64, "48 b8 00 00 00 00 00 80 00 00 48 8b 00 f4", EXC_GP, 0x800000000000, 2, 0x9000, 0,
      0 },
    { LONG64, "48 bd 00 00 00 00 00 80 00 00 48 8b 45 00 f4", EXC_SS, 0x12345678, 2, 0x9000, 0, 0 },
    { LONG64, "b8 00 00 00 80 48 63 c8 f4", -1, 0x80000000, 0xffffffff80000000, 0x9000, 0, 0 },
    { LONG64, "6a ff 58 f4", -1, ~0ull, 2, 0x9000, 0, 0 },
    { LONG64, "48 8d 05 00 00 00 00 f4", -1, CODE + 7, 2, 0x9000, 0, 0 },
    { LONG64, "0f 33", EXC_GP, 0x12345678, 2, 0x9000, 0, 0 }, /* RDPMC: no counters */
    { LONG64, "0f ff c0", EXC_UD, 0x12345678, 2, 0x9000, 0, 0 },
    { LONG64, "27", EXC_UD, 0x12345678, 2, 0x9000, 0, 0 },
    { LONG64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", EXC_GP, 0x12345678, 2, 0x9000, 0,
      0 },
    { LONG64, "48 c7 03 00 00 00 00 f0 48 0f c1 0b 48 8b 03 f4", -1, 2, 0, 0x9000, 0, 0 },
    { LONG64, "b8 05 00 00 00 48 c7 03 05 00 00 00 f0 48 0f b1 0b 48 8b 03 f4", -1, 2, 2, 0x9000,
      X86_ZF, X86_ZF },
};

static void test_table(void)
{
    Box *b = box_new();
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (cases[i].trap > 99) { /* would leave the RAM */
            continue;
        }
        prepare(b, cases[i].mode);
        code(b, CODE, cases[i].code);
        GPR(b, X86_RAX) = 0x12345678;
        GPR(b, X86_RCX) = 2;
        GPR(b, X86_RBX) = 0x9000;
        run(b);
        bool cpuid = strcmp(cases[i].code, "0f a2 f4") == 0;
        uint64_t flags = x86_hot(b->cpu)->rflags & cases[i].flag_mask;
        if (trap(b) != cases[i].trap || flags != cases[i].flags ||
            (!cpuid && (GPR(b, X86_RAX) != cases[i].rax || GPR(b, X86_RCX) != cases[i].rcx ||
                        GPR(b, X86_RBX) != cases[i].rbx))) {
            g_test_message("mode %d, %s: trap %d rax %lx rcx %lx rbx %lx flags %lx", cases[i].mode,
                           cases[i].code, trap(b), GPR(b, X86_RAX), GPR(b, X86_RCX),
                           GPR(b, X86_RBX), flags);
            g_test_fail();
        }
    }
    box_free(b);
}

/* --- between instructions --- */

static void test_single_step(void)
{
    Box *b = box_new();
    prepare(b, REAL);
    code(b, CODE, "9c 58 80 cc 01 50 9d 40 40 f4"); /* set TF; one INC runs, then the trap */
    GPR(b, X86_RAX) = 0;
    run(b);
    g_assert_cmpint(trap(b), ==, EXC_DB);
    g_assert_cmphex(ld16_le(b->host + STACK - 6), ==, CODE + 8);
    g_assert_true(b->cpu->dr[6] & BIT(14));
    box_free(b);
}

static void test_mov_ss_delays_the_trap(void)
{
    Box *b = box_new();
    prepare(b, REAL);
    code(b, CODE, "31 db 9c 58 80 cc 01 50 9d 8e d3 40 40 f4");
    run(b);
    g_assert_cmpint(trap(b), ==, EXC_DB);
    g_assert_cmphex(ld16_le(b->host + STACK - 6), ==, CODE + 12);
    box_free(b);
}

/* Stores into the instructions right behind, and into ones that ran before. */
static void test_self_modifying(void)
{
    Box *b = box_new();
    prepare(b, PROT32);
    code(b, CODE, "c6 05 08 80 00 00 42 90 40 f4"); /* the INC EAX at +8 becomes INC EDX */
    GPR(b, X86_RAX) = GPR(b, X86_RDX) = 5;
    run(b);
    g_assert_cmpint(GPR(b, X86_RAX), ==, 5);
    g_assert_cmpint(GPR(b, X86_RDX), ==, 6);

    prepare(b, PROT32); /* a loop that raises its own immediate */
    code(b, CODE, "b9 0a 00 00 00 05 01 00 00 00 ff 05 06 80 00 00 e2 f3 f4");
    GPR(b, X86_RAX) = 0;
    run(b);
    g_assert_cmpint(GPR(b, X86_RAX), ==, 55);

    prepare(b, PROT32); /* written behind the CPU's back between two runs */
    code(b, CODE, "40 f4");
    GPR(b, X86_RAX) = 0;
    run(b);
    code(b, CODE, "48 f4");
    x86_hot(b->cpu)->rip = CODE;
    b->vcpu.halted = false;
    run(b);
    g_assert_cmpint(GPR(b, X86_RAX), ==, 0);
    box_free(b);
}

static void test_strings(void)
{
    Box *b = box_new();
    prepare(b, REAL);
    for (unsigned i = 0; i < 0x3000; i++) {
        b->host[0xa000 + i] = (uint8_t)(i * 7);
    }
    code(b, CODE, "f3 a4 f4");
    GPR(b, X86_RSI) = 0xa000;
    GPR(b, X86_RDI) = 0xd003;
    GPR(b, X86_RCX) = 0x2800;
    run(b);
    g_assert_cmpint(memcmp(b->host + 0xa000, b->host + 0xd003, 0x2800), ==, 0);
    g_assert_cmphex(GPR(b, X86_RSI), ==, 0xc800);
    g_assert_cmphex(GPR(b, X86_RDI), ==, 0xf803);
    g_assert_cmphex(GPR(b, X86_RCX), ==, 0);

    prepare(b, REAL); /* the copy feeds itself */
    code(b, CODE, "f3 a4 f4");
    b->host[0xa000] = 0x5a;
    GPR(b, X86_RSI) = 0xa000;
    GPR(b, X86_RDI) = 0xa001;
    GPR(b, X86_RCX) = 0x1fff;
    run(b);
    g_assert_cmphex(b->host[0xbfff], ==, 0x5a);

    prepare(b, REAL); /* 16-bit offsets wrap */
    code(b, CODE, "f3 aa f4");
    GPR(b, X86_RAX) = 0x77;
    GPR(b, X86_RDI) = 0xfffe;
    GPR(b, X86_RCX) = 0x10010;
    run(b);
    g_assert_cmphex(b->host[0xffff], ==, 0x77);
    g_assert_cmphex(b->host[13], ==, 0x77);
    g_assert_cmphex(GPR(b, X86_RDI), ==, 0xe);
    g_assert_cmphex(GPR(b, X86_RCX), ==, 0x10000);

    prepare(b, REAL); /* backwards, and SCAS */
    code(b, CODE, "fd f3 ab fc b0 33 b9 40 00 bf 00 a0 f2 ae f4");
    GPR(b, X86_RAX) = 0x3344;
    GPR(b, X86_RDI) = 0xa01e;
    GPR(b, X86_RCX) = 8;
    run(b);
    g_assert_cmphex(GPR(b, X86_RDI), ==, 0xa012);
    g_assert_true(x86_hot(b->cpu)->rflags & X86_ZF);
    box_free(b);
}

/* An element whose source goes on in a page that is not there, to a target that is no address: the source faults first. */
static void test_string_faults(void)
{
    Box *b = box_new();
    prepare(b, LONG64);
    st64_le(b->host + PAGES + 0x2000, (PAGES + 0x3000) | 3);
    for (unsigned n = 0; n < 512; n++) {
        st64_le(b->host + PAGES + 0x3000 + 8 * n, n == 0xb ? 0 : n << 12 | 3);
    }
    x86_tlb_flush_all(b->cpu);
    code(b, CODE, "8a 06 f3 a5"); /* MOV has the page in the TLB */
    GPR(b, X86_RSI) = 0xaffe;
    GPR(b, X86_RDI) = 0x800000000000;
    GPR(b, X86_RCX) = 5;
    run(b);
    g_assert_cmpint(trap(b), ==, EXC_PF);
    g_assert_cmphex(b->cpu->cr2, ==, 0xb000);
    box_free(b);
}

/* Real mode to 32-bit protected mode, a 16-bit segment there, and back. */
static void test_mode_switch(void)
{
    Box *b = box_new();
    prepare(b, REAL);
    code(b, CODE, "0f 20 c0 0c 01 0f 22 c0 66 ea 20 80 00 00 08 00");
    code(b, CODE + 0x20, "66 b8 10 00 8e d8 b8 44 33 22 11 a3 00 90 00 00 ea 40 80 00 00 18 00");
    code(b, CODE + 0x40, "b8 20 00 8e d8 0f 20 c0 24 fe 0f 22 c0 ea 60 80 00 00");
    code(b, CODE + 0x60, "31 c0 8e d8 66 a1 00 90 f4");
    run(b);
    g_assert_cmpint(trap(b), ==, -1);
    g_assert_cmphex(GPR(b, X86_RAX), ==, 0x11223344);
    g_assert_cmphex(b->cpu->seg[X86_CS].base, ==, 0);
    box_free(b);
}

/* An instruction that lies in two pages, with data and code in the same granule. */
static void test_page_crossing(void)
{
    Box *b = box_new();
    prepare(b, PROT32);
    code(b, 0x8ffd, "05 01 00 00 00 f4");
    x86_hot(b->cpu)->rip = 0x8ffd;
    GPR(b, X86_RAX) = 0;
    run(b);
    g_assert_cmpint(GPR(b, X86_RAX), ==, 1);
    box_free(b);
}

static void test_hardware_breakpoint(void)
{
    Box *b = box_new();
    prepare(b, PROT32);
    code(b, CODE, "40 40 40 f4");
    GPR(b, X86_RAX) = 0;
    x86_write_dr(b->cpu, 0, CODE + 2);
    x86_write_dr(b->cpu, 7, 0x402);
    run(b);
    g_assert_cmpint(trap(b), ==, EXC_DB);
    g_assert_cmpint(GPR(b, X86_RAX), ==, 2);
    g_assert_cmphex(ld32_le(b->host + STACK - 12), ==, CODE + 2);
    g_assert_true(ld32_le(b->host + STACK - 4) & X86_RF);
    box_free(b);
}

static void test_counts(void)
{
    Box *b = box_new();
    prepare(b, PROT32);
    code(b, CODE, "40 40 40 40 eb fa");
    GPR(b, X86_RAX) = 0;
    g_assert_cmpint(x86_interp_run(b->cpu, 7, false), ==, X86_EXIT_NONE);
    g_assert_cmpint(GPR(b, X86_RAX), ==, 6);
    g_assert_cmphex(x86_hot(b->cpu)->rip, ==, CODE + 2);
    box_free(b);
}

static void speed(Box *b, Mode mode, const char *name, const char *hex)
{
    prepare(b, mode);
    code(b, CODE, hex);
    GPR(b, X86_RCX) = 300000;
    GPR(b, X86_RSI) = GPR(b, X86_RDI) = 0x9000;
    uint64_t before = b->cpu->insn_count;
    gint64 start = g_get_monotonic_time();
    while (x86_interp_run(b->cpu, ~0ull, false) != X86_EXIT_HALT) {
    }
    double us = (double)(g_get_monotonic_time() - start);
    g_test_message("%s: %.0f MIPS", name, (b->cpu->insn_count - before) / us);
}

static void test_speed(void)
{
    Box *b = box_new();
    speed(b, LONG64, "64-bit loads, stores, calls",
          "48 8b 06 48 01 c8 48 89 46 08 48 8d 56 10 83 e2 1f 44 0f b6 06 e8 12 00 00 00 39 c2 75 "
          "00 31 c0 "
          "48 ff c3 ff c9 75 da f4 90 90 90 90 55 48 89 e5 50 58 5d c3");
    speed(b, PROT32, "32-bit ALU", "01 d8 29 d8 31 d2 83 c0 05 40 89 c3 89 df e2 f0 f4");
    box_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/interp/table", test_table);
    g_test_add_func("/x86/interp/single-step", test_single_step);
    g_test_add_func("/x86/interp/mov-ss", test_mov_ss_delays_the_trap);
    g_test_add_func("/x86/interp/self-modifying", test_self_modifying);
    g_test_add_func("/x86/interp/strings", test_strings);
    g_test_add_func("/x86/interp/string-faults", test_string_faults);
    g_test_add_func("/x86/interp/mode-switch", test_mode_switch);
    g_test_add_func("/x86/interp/page-crossing", test_page_crossing);
    g_test_add_func("/x86/interp/breakpoint", test_hardware_breakpoint);
    g_test_add_func("/x86/interp/counts", test_counts);
    g_test_add_func("/x86/interp/speed", test_speed);
    return g_test_run();
}
