/*
 * The translator on small 32-bit programs without paging, against the interpreter: code that rewrites
 * itself, flags that come back from functions, instructions on two pages.
 */
#include "dbt/run/engine.h"

#include <stdatomic.h>
#include <string.h>

#include "cpu/x86/box_test.h"

enum { RAM_SIZE = 6 << 20, CODE = 0x10000 };

typedef struct Rig {
    GuestBox box;
    DbtGroup group;
    Dbt *dbt;
} Rig;

static void flat(X86Cpu *cpu)
{
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        cpu->seg[n] = (X86Seg){ .sel = n == X86_CS ? 8 : 16, .attr = n == X86_CS ? 0xc09b : 0xc093, .limit = 0xffffffff };
    }
    cpu->cr0 = CR0_PE | CR0_ET;
    x86_hot(cpu)->rflags = 2;
    x86_hot(cpu)->rip = CODE;
    x86_gpr(cpu)[X86_RSP] = 0x8000;
    x86_mode_changed(cpu);
    x86_tlb_flush_all(cpu);
}

static Rig *rig_new(void)
{
    Rig *r = g_new0(Rig, 1);
    guest_box_init(&r->box, RAM_SIZE);
    dbt_group_init(&r->group);
    guest_box_check(dbt_new(r->box.cpu, &r->group, 16 * MiB, false, &r->dbt));
    return r;
}

static void rig_free(Rig *r)
{
    dbt_free(r->dbt);
    dbt_group_fini(&r->group);
    guest_box_fini(&r->box);
    g_free(r);
}

/* Runs to HLT; the result is in eax and ebx. */
static void run_in(Rig *r, const uint8_t *code, size_t size, bool translate, uint32_t ret_result[2])
{
    memcpy(r->box.host + CODE, code, size);
    atomic_store(&r->box.vcpu.halted, false);
    flat(r->box.cpu);
    if (translate) {
        dbt_run(r->dbt);
        g_assert_cmpuint(r->dbt->stats.blocks, >, 0);
    } else {
        g_assert_cmpint(x86_interp_run(r->box.cpu, 2000000, false), ==, X86_EXIT_HALT);
    }
    g_assert_true(atomic_load(&r->box.vcpu.halted));
    ret_result[0] = (uint32_t)x86_gpr(r->box.cpu)[X86_RAX];
    ret_result[1] = (uint32_t)x86_gpr(r->box.cpu)[X86_RBX];
}

static void run(const uint8_t *code, size_t size, bool translate, uint32_t ret_result[2])
{
    Rig *r = rig_new();
    run_in(r, code, size, translate, ret_result);
    rig_free(r);
}

static void check(const uint8_t *code, size_t size, uint32_t eax, uint32_t ebx)
{
    for (unsigned translate = 0; translate < 2; translate++) {
        uint32_t result[2];
        run(code, size, translate, result);
        g_assert_cmphex(result[0], ==, eax);
        g_assert_cmphex(result[1], ==, ebx);
    }
}

/* mov $0,eax; mov $1000,ecx; 1: add ecx,eax; mov eax,0x20000(,ecx,4); dec ecx; jnz 1b; hlt */
static void test_loop(void)
{
    static const uint8_t code[] = { 0xb8, 0, 0, 0, 0, 0xb9, 0xe8, 3, 0, 0, 0x01, 0xc8, 0x89, 0x04, 0x8d, 0, 0, 2, 0,
                                    0x49, 0x75, 0xf4, 0xf4 };
    check(code, sizeof(code), 500500, 0);
}

/* 1: add $imm,eax; incl imm; dec ecx; jnz 1b: the loop rewrites the block that runs. */
static void test_rewrites_itself(void)
{
    static const uint8_t code[] = { 0xb8, 0, 0, 0, 0, 0xb9, 0x64, 0, 0, 0, 0x05, 1, 0, 0, 0, 0xff, 0x05, 0x0b, 0, 1, 0,
                                    0x49, 0x75, 0xf2, 0xf4 };
    check(code, sizeof(code), 5050, 0);
}

/* 1: mov ecx, fn+1; call fn; add eax,ebx; loop 1b: another block is rewritten; fn: mov $n,eax; ret */
static void test_rewrites_callee(void)
{
    static const uint8_t head[] = { 0xbb, 0, 0, 0, 0, 0xb9, 0xc8, 0, 0, 0, 0x89, 0x0d, 1, 1, 1, 0, 0xe8, 0xeb, 0, 0, 0,
                                    0x01, 0xc3, 0xe2, 0xf1, 0xf4 };
    static const uint8_t fn[] = { 0xb8, 0, 0, 0, 0, 0xc3 };
    uint8_t code[0x106] = { 0 };
    memcpy(code, head, sizeof(head));
    memcpy(code + 0x100, fn, sizeof(fn));
    check(code, sizeof(code), 1, 20100);
}

/* 1: call bit; adc $0,ebx; loop 1b; hlt; bit: shl $1,esi; push eax; pop eax; ret: counts bits. */
static void test_flags_from_function(void)
{
    static const uint8_t code[] = { 0xbc, 0, 0x30, 0, 0, 0xbe, 0x78, 0x56, 0x34, 0x12, 0xbb, 0, 0, 0, 0, 0xb9, 0x20, 0,
                                    0, 0, 0xe8, 6, 0, 0, 0, 0x83, 0xd3, 0, 0xe2, 0xf6, 0xf4, 0xd1, 0xe6, 0x50, 0x58,
                                    0xc3 };
    uint32_t result[2];
    for (unsigned translate = 0; translate < 2; translate++) {
        run(code, sizeof(code), translate, result);
        g_assert_cmpuint(result[1], ==, 13);
    }
}

/* mov a,eax; mov b,edx; call 1f; pushf; pop ebx; hlt; 1: OP; push eax; pop eax; ret: each recipe of the record. */
static void test_recorded_flags(void)
{
    static const struct {
        uint8_t size, bytes[6];
    } ops[] = {
        { 2, { 0x01, 0xd0 } }, { 2, { 0x29, 0xd0 } }, { 2, { 0x39, 0xd0 } }, { 2, { 0x21, 0xd0 } },
        { 2, { 0x33, 0xc2 } }, { 2, { 0x85, 0xd0 } }, { 2, { 0x85, 0xc0 } }, { 2, { 0x29, 0xc0 } },
        { 2, { 0x28, 0xd0 } }, { 2, { 0x38, 0xd0 } }, { 2, { 0x84, 0xd0 } }, { 3, { 0x66, 0x01, 0xd0 } },
        { 3, { 0x83, 0xc0, 0x85 } }, { 3, { 0x83, 0xe8, 5 } }, { 3, { 0x83, 0xf8, 0x85 } }, { 3, { 0x80, 0xf8, 0x85 } },
        { 6, { 0x81, 0xe8, 0x56, 0x34, 0x12, 0x80 } }, { 6, { 0x81, 0xf8, 0x56, 0x34, 0x12, 0x80 } },
        { 2, { 0x3c, 0x7f } }, { 2, { 0x04, 0x7f } }, { 5, { 0xa9, 0xff, 0, 0, 0x80 } }, { 5, { 0x2d, 1, 2, 3, 0x84 } },
        { 2, { 0xf7, 0xd8 } }, { 1, { 0x40 } }, { 2, { 0xd1, 0xe0 } }, { 2, { 0x11, 0xd0 } }, { 4, { 0x0f, 0xba, 0xe0, 5 } },
        { 6, { 0x3b, 0x05, 0, 0, 1, 0 } }, { 6, { 0x33, 0x05, 0, 0, 1, 0 } }, { 1, { 0xf9 } }, { 2, { 0x19, 0xc0 } },
    };
    static const uint32_t values[] = { 0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0x12345678, 0x00ff7f80 };
    enum { PAIRS = ARRAY_SIZE(values) * ARRAY_SIZE(values) };
    for (unsigned op = 0; op < ARRAY_SIZE(ops); op++) {
        uint8_t code[64] = { 0xbc, 0, 0x30, 0, 0, 0xa1, 0, 0, 2, 0, 0x8b, 0x15, 4, 0, 2, 0, 0xe8, 3, 0, 0, 0, 0x9c, 0x5b, 0xf4 };
        memcpy(code + 24, ops[op].bytes, ops[op].size);
        memcpy(code + 24 + ops[op].size, "\x50\x58\xc3", 3);
        Rig *r[2] = { rig_new(), rig_new() };
        for (unsigned n = 0; n < PAIRS; n++) {
            uint32_t result[2][2];
            for (unsigned translate = 0; translate < 2; translate++) {
                memcpy(r[translate]->box.host + 0x20000, &values[n % ARRAY_SIZE(values)], 4);
                memcpy(r[translate]->box.host + 0x20004, &values[n / ARRAY_SIZE(values)], 4);
                run_in(r[translate], code, sizeof(code), translate, result[translate]);
            }
            g_assert_cmphex(result[1][0], ==, result[0][0]);
            g_assert_cmphex(result[1][1], ==, result[0][1]);
        }
        rig_free(r[0]);
        rig_free(r[1]);
    }
}

/* 2: add $7,eax with its immediate on two pages; incb the third byte of it; dec ecx; jnz 2b */
static void test_crosses_page(void)
{
    static const uint8_t head[] = { 0xb8, 0, 0, 0, 0, 0xb9, 0x32, 0, 0, 0, 0xe9, 0xee, 0x0f, 0, 0 };
    static const uint8_t tail[] = { 0x05, 7, 0, 0, 0, 0xfe, 0x05, 0, 0x10, 1, 0, 0x49, 0x75, 0xf2, 0xf4 };
    uint8_t code[0x1010] = { 0 };
    memcpy(code, head, sizeof(head));
    memcpy(code + 0xffd, tail, sizeof(tail));
    check(code, sizeof(code), 0x04c9015e, 0);
}

/* mov $0x9002,esp; mov $1,eax; call 1f, pushing across a page; 1: inc eax; hlt */
static void test_call_of_next(void)
{
    static const uint8_t code[] = { 0xbc, 2, 0x90, 0, 0, 0xb8, 1, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x40, 0xf4 };
    check(code, sizeof(code), 2, 0);
}

/*
 * mov $0x9008,esp; mov $0x20ffe,esi; 1: push $n (four times, over a page's end); add n(esp),eax (four); add $16,esp; mov
 * eax,(esi); mov eax,4(esi); add 2(esi),eax; inc esi; dec ecx; jnz 1b: groups that straddle pages.
 */
static void test_groups_straddle(void)
{
    static const uint8_t code[] = {
        0xbc, 8, 0x90, 0, 0, 0xbe, 0xf0, 0x0f, 2, 0, 0xb8, 0, 0, 0, 0, 0xb9, 0x20, 0, 0, 0, /* 0x14: */
        0x6a, 1, 0x6a, 2, 0x6a, 3, 0x6a, 4, 0x03, 0x04, 0x24, 0x03, 0x44, 0x24, 4, 0x03, 0x44, 0x24, 8, 0x03, 0x44, 0x24,
        12, 0x83, 0xc4, 16, 0x89, 0x06, 0x89, 0x46, 4, 0x03, 0x46, 2, 0x46, 0x49, 0x75, 0xda, 0x89, 0xf3, 0xf4 };
    uint32_t expected[2], got[2];
    run(code, sizeof(code), false, expected);
    run(code, sizeof(code), true, got);
    g_assert_cmphex(got[0], ==, expected[0]);
    g_assert_cmphex(got[1], ==, 0x21010);
}

enum { TABLES = 0x2000, WINDOW = 0x400000, WINDOW_OLD = 0x30000, WINDOW_NEW = 0x31000, PTE = 0x67 };

/* Pages below 1 MiB map to themselves, one at WINDOW to `to`. */
static void map_window(Rig *r, uint32_t to)
{
    uint32_t *directory = (uint32_t *)(void *)(r->box.host + TABLES), *low = directory + 1024, *window = low + 1024;
    directory[0] = (TABLES + 0x1000) | PTE;
    directory[1] = (TABLES + 0x2000) | PTE;
    for (uint32_t n = 0; n < RAM_SIZE >> 12; n++) {
        low[n] = n << 12 | PTE;
    }
    window[0] = to | PTE;
}

/* Runs from CODE with paging on to HLT; the result is ebx. */
static uint32_t run_paged(Rig *r, bool translate)
{
    X86Cpu *cpu = r->box.cpu;
    atomic_store(&r->box.vcpu.halted, false);
    flat(cpu);
    cpu->cr3 = TABLES;
    cpu->cr0 |= CR0_PG;
    x86_gpr(cpu)[X86_RBX] = 0;
    x86_mode_changed(cpu);
    x86_tlb_flush_all(cpu);
    if (translate) {
        dbt_run(r->dbt);
    } else {
        x86_interp_run(cpu, 1000, false);
    }
    g_assert_true(atomic_load(&r->box.vcpu.halted));
    return (uint32_t)x86_gpr(cpu)[X86_RBX];
}

static void put_code(Rig *r, uint32_t at, const void *code, size_t size)
{
    memcpy(r->box.host + at, code, size);
    ram_written(r->box.block, at, size);
}

/*
 * A jump goes to code that overwrites the flags: xor eax,eax; hlt. Then other code is there, mapped to the same address
 * or written over it, which reads them: adc $64,ebx; hlt. All with the carry set, then clear.
 */
static void test_flags_to_other_code(void)
{
    static const struct {
        const char *what;
        uint8_t code[16];
        uint32_t target;
    } cases[] = {
        { "stc; jmp", { 0xf9, 0xe9, 0xfa, 0xff, 0x3e, 0 }, WINDOW },
        { "stc; push; jmp", { 0xf9, 0x50, 0xe9, 0xf9, 0xff, 0x3e, 0 }, WINDOW },
        { "stc; jc", { 0xf9, 0x0f, 0x82, 0xf9, 0xff, 0x3e, 0, 0xf4 }, WINDOW },
        { "stc; push; jc", { 0xf9, 0x50, 0x0f, 0x82, 0xf8, 0xff, 0x3e, 0, 0xf4 }, WINDOW },
        { "stc; call", { 0xf9, 0xe8, 0xfa, 0xff, 0x3e, 0 }, WINDOW },
        { "stc; mov; jmp eax", { 0xf9, 0xb8, 0, 0, 0x40, 0, 0xff, 0xe0 }, WINDOW },
        { "stc; push; ret", { 0xf9, 0x68, 0, 0, 0x40, 0, 0xc3 }, WINDOW },
        { "stc; push; jmp, same page", { 0xf9, 0x50, 0xe9, 0xf9, 0, 0, 0 }, CODE + 0x100 },
        { "stc; push; jc, same page", { 0xf9, 0x50, 0x0f, 0x82, 0xf8, 0, 0, 0, 0xf4 }, CODE + 0x100 },
        { "stc; push; jmp, same page, next but one", { 0xf9, 0x50, 0xeb, 1, 0x90 }, CODE + 5 },
    };
    static const uint8_t old[] = { 0x31, 0xc0, 0xf4 }, new[] = { 0x83, 0xd3, 64, 0xf4 };
    for (unsigned i = 0; i < 4 * ARRAY_SIZE(cases); i++) {
        const uint32_t target = cases[i / 4].target;
        uint8_t code[sizeof(cases->code)];
        bool carry = i & 2;
        memcpy(code, cases[i / 4].code, sizeof(code));
        for (unsigned n = 0; !carry && n < 4; n++) { /* clc, jnc */
            code[n] = n == 0 ? 0xf8 : code[n] == 0x82 ? 0x83 : code[n];
        }
        Rig *r = rig_new();
        r->dbt->stress = i & 1 ? 0 : DBT_STRESS_UNLINKED;
        map_window(r, WINDOW_OLD);
        put_code(r, CODE, code, sizeof(code));
        put_code(r, target == WINDOW ? WINDOW_OLD : target, old, sizeof(old));
        put_code(r, WINDOW_NEW, new, sizeof(new));
        for (unsigned n = 0; n < 3; n++) {
            g_assert_cmpuint(run_paged(r, true), ==, 0);
        }
        if (target == WINDOW) {
            map_window(r, WINDOW_NEW);
        } else {
            put_code(r, target, new, sizeof(new));
        }
        g_test_message("%s, carry %d", cases[i / 4].what, carry);
        g_assert_cmpuint(run_paged(r, true), ==, 64 + carry);
        g_assert_cmpuint(run_paged(r, false), ==, 64 + carry);
        rig_free(r);
    }
}

/* Self-check agrees on the loop, and notices when translated code is not what memory holds. */
static void test_self_check(void)
{
    static const uint8_t code[] = { 0xb8, 0, 0, 0, 0, 0xb9, 0xe8, 3, 0, 0, 0x01, 0xc8, 0x89, 0x04, 0x8d, 0, 0, 2, 0,
                                    0x49, 0x75, 0xf4, 0xf4 };
    Rig *r = rig_new();
    dbt_check_init(r->dbt, 1);
    uint32_t result[2];
    run_in(r, code, sizeof(code), true, result);
    g_assert_cmphex(result[0], ==, 500500);
    g_assert_cmpuint(r->dbt->stats.checks, >, 100);
    g_assert_cmpuint(r->dbt->stats.check_differs, ==, 0);
    r->box.host[CODE + 1] = 1; /* behind the translator's back */
    atomic_store(&r->box.vcpu.halted, false);
    x86_hot(r->box.cpu)->rip = CODE;
    dbt_run(r->dbt);
    g_assert_cmpuint(r->dbt->stats.check_differs, >, 0);
    rig_free(r);
}

/* A cache of the smallest size is emptied and filled again and again. */
/*
 * Hot code: one access goes to another page each time and loses its site, the others stay where they are.
 * 1: mov ecx,edx; shl $12,edx; and $0x3f000,edx; add ecx,(esi,edx); add (esi,edx),eax; add (edi),ebx; incl 4(edi);
 * add 4(edi),ebx; dec ecx; jnz 1b; hlt
 */
static const uint8_t many_pages[] = { 0xb9, 0xa0, 0x86, 1, 0, 0xbe, 0, 0, 2, 0, 0xbf, 0, 0, 7, 0, 0x31, 0xc0, 0x31, 0xdb,
                                      0x89, 0xca, 0xc1, 0xe2, 12, 0x81, 0xe2, 0, 0xf0, 3, 0, 0x01, 0x0c, 0x16, 0x03, 0x04,
                                      0x16, 0x03, 0x1f, 0xff, 0x47, 4, 0x03, 0x5f, 4, 0x49, 0x75, 0xe4, 0xf4 };

static void test_sites(void)
{
    uint32_t result[2][2];
    for (unsigned translate = 0; translate < 2; translate++) {
        Rig *r = rig_new();
        r->dbt->stress = DBT_STRESS_SITES;
        run_in(r, many_pages, sizeof(many_pages), translate, result[translate]);
        g_assert_cmpuint(r->dbt->stats.hot_plain, ==, translate ? 1 : 0);
        rig_free(r);
    }
    g_assert_cmphex(result[0][0], ==, result[1][0]);
    g_assert_cmphex(result[0][1], ==, result[1][1]);
}

/* Runs a program of privilege level 3. Its HLT faults, the kernel's ends it. */
static void run_user(Rig *r, const uint8_t *code, size_t size, bool translate, uint32_t ret_result[2])
{
    enum { HANDLER = 0x9000, GP = 13 };
    X86Cpu *cpu = r->box.cpu;
    box_protected(&r->box);
    box_user(&r->box);
    BOX_EXPECT(&r->box, -1, (x86_load_seg(cpu, X86_DS, BOX_DATA3), x86_load_seg(cpu, X86_ES, BOX_DATA3)));
    box_put(&r->box, BOX_IDT + 8 * GP, (uint64_t)BOX_CODE0 << 16 | HANDLER, 4);
    box_put(&r->box, BOX_IDT + 8 * GP + 4, 0x8e00, 4);
    box_put(&r->box, HANDLER, 0xf4, 1);
    memcpy(r->box.host + CODE, code, size);
    x86_hot(cpu)->rip = CODE;
    if (translate) {
        dbt_run(r->dbt);
    } else {
        g_assert_cmpint(x86_interp_run(cpu, 4000000, false), ==, X86_EXIT_HALT);
    }
    g_assert_true(atomic_load(&r->box.vcpu.halted));
    g_assert_cmpuint(cpu->cpl, ==, 0);
    ret_result[0] = (uint32_t)x86_gpr(cpu)[X86_RAX];
    ret_result[1] = (uint32_t)x86_gpr(cpu)[X86_RBX];
}

/* The same by a program that has to earn its sites: counted, tried, made a last time. */
static void test_trial(void)
{
    uint32_t result[2][2];
    for (unsigned translate = 0; translate < 2; translate++) {
        Rig *r = rig_new();
        run_user(r, many_pages, sizeof(many_pages), translate, result[translate]);
        g_assert_cmpuint(r->dbt->stats.hot, >=, translate);
        g_assert_cmpuint(r->dbt->stats.hot_plain, ==, translate);
        rig_free(r);
    }
    g_assert_cmphex(result[0][0], ==, result[1][0]);
    g_assert_cmphex(result[0][1], ==, result[1][1]);
}

/*
 * f: add $n,eax; push edx; pop edx; ret, called from two places all the time and from a third one now and then, which
 * add the carry and something of their own to ebx; call edx, which is one of two functions. Half way f is rewritten.
 */
static const uint8_t few_targets[] = {
    0x31, 0xc0, 0x31, 0xdb, 0xbc, 0, 0x80, 0, 0, 0xb9, 0x60, 0xea, 0, 0, 0xe8, 0x40, 0, 0, 0, 0x83, 0xd3, 1,
    0xf6, 0xc1, 1, 0x74, 8, 0xe8, 0x33, 0, 0, 0, 0x83, 0xd3, 3, 0xf7, 0xc1, 0xff, 0x0f, 0, 0, 0x75, 8, 0xe8,
    0x23, 0, 0, 0, 0x83, 0xd3, 5, 0x89, 0xca, 0x83, 0xe2, 1, 0x8d, 0x14, 0x95, 0x5b, 0, 1, 0, 0xff, 0xd2, 0x81,
    0xf9, 0x30, 0x75, 0, 0, 0x75, 6, 0xfe, 5, 0x54, 0, 1, 0, 0x49, 0x75, 0xbc, 0xf4, 5, 0x77, 0x56, 0x34, 0x12,
    0x52, 0x5a, 0xc3, 0x40, 0xc3, 0x90, 0x90, 0x83, 0xc0, 2, 0xc3 };

/* Targets are guessed from what a trial shows, or, under stress, from what happens first. */
static void test_likely(void)
{
    uint32_t expected[2], got[2];
    for (unsigned kind = 0; kind < 3; kind++) {
        Rig *r = rig_new();
        r->dbt->stress = kind == 2 ? DBT_STRESS_SITES : 0;
        run_user(r, few_targets, sizeof(few_targets), kind != 0, kind == 0 ? expected : got);
        if (kind != 0) {
            g_assert_cmphex(got[0], ==, expected[0]);
            g_assert_cmphex(got[1], ==, expected[1]);
        }
        g_assert_cmpuint(r->dbt->stats.likely, >=, kind == 1 ? 2 : 0); /* of RET and of CALL EDX at least */
        rig_free(r);
    }
}

static void *ask_to_stop(void *opaque)
{
    X86Cpu *cpu = opaque;
    g_usleep(50 * 1000);
    atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_STOP);
    return NULL;
}

/* Loops that go backward by other means than a branch or call hear of requests too. */
static void test_requests(void)
{
    static const struct {
        uint8_t size, bytes[12];
    } loops[] = {
        { 6, { 0x68, 0, 0, 1, 0, 0xc3 } },                          /* 1: push $1b; ret */
        { 8, { 0x68, 0, 0, 1, 0, 0xeb, 0, 0xc3 } },                 /* the same in two blocks */
        { 7, { 0xb8, 0, 0, 1, 0, 0xff, 0xe0 } },                    /* 1: mov $1b,eax; jmp eax */
        { 10, { 0xbc, 0, 0x80, 0, 0, 0xe8, 0xf6, 0xff, 0xff, 0xff } }, /* 1: mov $n,esp; call 1b */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(loops); i++) {
        Rig *r = rig_new();
        memcpy(r->box.host + CODE, loops[i].bytes, loops[i].size);
        flat(r->box.cpu);
        GThread *other = g_thread_new("asks", ask_to_stop, r->box.cpu);
        dbt_run(r->dbt);
        g_thread_join(other);
        rig_free(r);
    }
}

/* String instructions on spans of all kinds leave registers and memory as the interpreter does. */
enum { STRING_CODE = 0x40000, STRING_CASES = 400 };

static unsigned put_string_code(Rig *r, unsigned op, bool repeated, bool backward)
{
    static const uint8_t ops[6][2] = { { 1, 0xa4 }, { 2, 0xa5 }, { 4, 0xa5 }, { 1, 0xaa }, { 2, 0xab }, { 4, 0xab } };
    unsigned at = STRING_CODE + 64 * (op * 4 + (unsigned)repeated * 2 + (unsigned)backward), n = 0;
    uint8_t *code = r->box.host + at;
    code[n++] = backward ? 0xfd : 0xfc;
    if (repeated) {
        code[n++] = 0xf3;
    }
    if (ops[op][0] == 2) {
        code[n++] = 0x66;
    }
    code[n++] = ops[op][1];
    code[n++] = 0x43; /* inc ebx */
    code[n] = 0xf4;
    return at;
}

static uint32_t any_place(GRand *rand)
{
    static const uint32_t places[] = { 0x100000, 0x100ff0, 0x101003, 0x500000, 0x500ffd, 0x501ff8, STRING_CODE + 0x10000 - 16, RAM_SIZE - 24 };
    return places[g_rand_int_range(rand, 0, ARRAY_SIZE(places))] + (uint32_t)g_rand_int_range(rand, 0, 8);
}

static void run_strings(bool translate, uint64_t (*ret_gpr)[16], uint32_t *ret_sum)
{
    Rig *r = rig_new();
    X86Cpu *cpu = r->box.cpu;
    GRand *rand = g_rand_new_with_seed(7);
    for (unsigned i = 0; i < RAM_SIZE; i++) {
        r->box.host[i] = (uint8_t)(i * 7 + (i >> 12));
    }
    for (unsigned n = 0; n < 24; n++) {
        put_string_code(r, n % 6, n / 6 & 1, n / 12);
    }
    for (unsigned i = 0; i < STRING_CASES; i++) {
        flat(cpu);
        atomic_store(&r->box.vcpu.halted, false);
        uint64_t *gpr = x86_gpr(cpu);
        x86_hot(cpu)->rip = put_string_code(r, (unsigned)g_rand_int_range(rand, 0, 6), g_rand_boolean(rand), g_rand_int_range(rand, 0, 8) == 0);
        gpr[X86_RAX] = g_rand_boolean(rand) ? 0 : g_rand_int(rand);
        gpr[X86_RBX] = 0;
        gpr[X86_RCX] = (uint32_t)g_rand_int_range(rand, 0, g_rand_boolean(rand) ? 9 : 3000);
        gpr[X86_RSI] = any_place(rand);
        gpr[X86_RDI] = g_rand_boolean(rand) ? any_place(rand) : gpr[X86_RSI] + (uint32_t)g_rand_int_range(rand, 0, 9);
        if (translate) {
            dbt_run(r->dbt);
        } else {
            while (!atomic_load(&r->box.vcpu.halted)) {
                x86_interp_run(cpu, 2000000, false);
            }
        }
        memcpy(ret_gpr[i], gpr, sizeof(ret_gpr[i]));
        ret_sum[i] = 0;
        for (unsigned k = 0; k < RAM_SIZE; k += 4) {
            ret_sum[i] = ret_sum[i] * 31 + ld32_le(r->box.host + k);
        }
    }
    g_rand_free(rand);
    rig_free(r);
}

static void test_strings(void)
{
    static uint64_t gpr[2][STRING_CASES][16];
    static uint32_t sum[2][STRING_CASES];
    for (unsigned translate = 0; translate < 2; translate++) {
        run_strings(translate, gpr[translate], sum[translate]);
    }
    for (unsigned i = 0; i < STRING_CASES; i++) {
        g_assert_cmpuint(gpr[0][i][X86_RBX], ==, 1);
        g_assert_cmpmem(gpr[0][i], sizeof(gpr[0][i]), gpr[1][i], sizeof(gpr[1][i]));
        g_assert_cmphex(sum[0][i], ==, sum[1][i]);
    }
}

static void test_flush(void)
{
    Rig *r = rig_new();
    uint8_t *code = r->box.host + CODE;
    for (unsigned i = 0; i < 4000; i++) { /* inc eax; jmp +0: a block each */
        memcpy(code + 3 * i, "\x40\xeb\x00", 3);
    }
    code[3 * 4000] = 0xf4;
    for (unsigned turn = 0; turn < 4; turn++) {
        flat(r->box.cpu);
        x86_gpr(r->box.cpu)[X86_RAX] = 0;
        atomic_store(&r->box.vcpu.halted, false);
        dbt_run(r->dbt);
        g_assert_cmpuint(x86_gpr(r->box.cpu)[X86_RAX], ==, 4000);
        dbt_flush(r->dbt);
    }
    rig_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dbt/engine/loop", test_loop);
    g_test_add_func("/dbt/engine/rewrites-itself", test_rewrites_itself);
    g_test_add_func("/dbt/engine/rewrites-callee", test_rewrites_callee);
    g_test_add_func("/dbt/engine/flags-from-function", test_flags_from_function);
    g_test_add_func("/dbt/engine/recorded-flags", test_recorded_flags);
    g_test_add_func("/dbt/engine/crosses-page", test_crosses_page);
    g_test_add_func("/dbt/engine/call-of-next", test_call_of_next);
    g_test_add_func("/dbt/engine/groups-straddle", test_groups_straddle);
    g_test_add_func("/dbt/engine/flags-to-other-code", test_flags_to_other_code);
    g_test_add_func("/dbt/engine/self-check", test_self_check);
    g_test_add_func("/dbt/engine/sites", test_sites);
    g_test_add_func("/dbt/engine/trial", test_trial);
    g_test_add_func("/dbt/engine/likely", test_likely);
    g_test_add_func("/dbt/engine/requests", test_requests);
    g_test_add_func("/dbt/engine/strings", test_strings);
    g_test_add_func("/dbt/engine/flush", test_flush);
    return g_test_run();
}
