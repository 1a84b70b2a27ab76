/*
 * Regions on small 64-bit programs, against the interpreter: loops that rewrite themselves, that have ways out in their
 * middle, that fault, that carry flags through all turns. Each runs with all code hot, and with an empty soft TLB and a
 * request at each turn besides. insn-fuzz --loops has what is random.
 */
#include "dbt/run/engine.h"

#include <stdatomic.h>
#include <string.h>

#include "cpu/x86/box_test.h"

enum { RAM_SIZE = 4 << 20, TABLES = 0x1000, IDT = 0x5000, GDT = 0x6000, HANDLER = 0x7000, STACK = 0x9000, CODE = 0x10000,
       DATA = 0x20000, DATA_SIZE = 0x40000, PAGES = 512, PF = 14 };

typedef struct Outcome {
    uint64_t gpr[16];
    uint64_t fault_rip, cr2;
    uint32_t sum; /* of memory */
} Outcome;

/* Addresses are what they are in RAM; nothing lies behind the data. */
static void make_tables(uint8_t *ram)
{
    for (unsigned n = 0; n < 3; n++) {
        st64_le(ram + TABLES + n * 0x1000, (TABLES + (n + 1) * 0x1000) | 3);
    }
    for (unsigned n = 0; n < PAGES; n++) {
        st64_le(ram + TABLES + 0x3000 + 8 * n, n * 0x1000 + (n * 0x1000 < DATA + DATA_SIZE ? 3 : 0));
    }
    st64_le(ram + GDT + 8, 0x00af9b000000ffff);
    st64_le(ram + IDT + 16 * PF, HANDLER | 8 << 16 | 0x8e00ull << 32);
    ram[HANDLER] = 0xf4;
}

static void make_cpu(X86Cpu *cpu)
{
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        cpu->seg[n] = (X86Seg){ .sel = n == X86_CS ? 8 : 16, .attr = n == X86_CS ? 0xa09b : 0xc093, .limit = 0xffffffff };
    }
    cpu->cr0 = CR0_PE | CR0_ET | CR0_PG;
    cpu->cr3 = TABLES;
    cpu->cr4 = CR4_PAE;
    cpu->efer = EFER_LME | EFER_LMA;
    cpu->idt.base = IDT;
    cpu->idt.limit = 0xfff;
    cpu->gdt.base = GDT;
    cpu->gdt.limit = 15;
    x86_hot(cpu)->rflags = 2;
    x86_hot(cpu)->rip = CODE;
    x86_gpr(cpu)[X86_RSP] = STACK;
    x86_mode_changed(cpu);
    x86_tlb_flush_all(cpu);
}

/* stress 0: by the interpreter. Returns how many regions were made. */
static uint64_t run(const uint8_t *code, size_t size, uint32_t stress, Outcome *ret)
{
    GuestBox box;
    DbtGroup group;
    Dbt *dbt;
    guest_box_init(&box, RAM_SIZE);
    dbt_group_init(&group);
    guest_box_check(dbt_new(box.cpu, &group, 16 * MiB, false, &dbt));
    dbt->stress = stress;
    make_tables(box.host);
    for (unsigned i = 0; i < DATA_SIZE; i++) {
        box.host[DATA + i] = (uint8_t)((i * i >> 5) + i * 37);
    }
    memcpy(box.host + CODE, code, size);
    make_cpu(box.cpu);
    while (!atomic_load(&box.vcpu.halted)) {
        stress != 0 ? dbt_run(dbt) : (void)x86_interp_run(box.cpu, 1 << 20, false);
    }
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->gpr, x86_gpr(box.cpu), sizeof(ret->gpr));
    ret->cr2 = box.cpu->cr2;
    ret->fault_rip = ld64_le(box.host + STACK - 40);
    st64_le(box.host + STACK - 24, 0); /* flags that nobody reads may differ in the frame of a fault */
    for (unsigned i = STACK - 64; i < DATA + DATA_SIZE; i += 4) {
        ret->sum = ret->sum * 31 + ld32_le(box.host + i);
    }
    uint64_t regions = dbt->stats.regions;
    dbt_free(dbt);
    dbt_group_fini(&group);
    guest_box_fini(&box);
    return regions;
}

static void check(const uint8_t *code, size_t size, Outcome *ret)
{
    static const uint32_t stress[] = { DBT_STRESS_SITES, DBT_STRESS_SITES | DBT_STRESS_TLB | DBT_STRESS_POLL, DBT_STRESS_ALL };
    run(code, size, 0, ret);
    for (unsigned n = 0; n < ARRAY_SIZE(stress); n++) {
        Outcome outcome;
        g_assert_cmpuint(run(code, size, stress[n], &outcome), >, 0);
        g_assert_cmpmem(&outcome, sizeof(outcome), ret, sizeof(*ret));
    }
}

/* xor eax,eax; mov $100,ecx; 1: add $1,eax; incl 1b+2; dec ecx; jnz 1b; hlt */
static void test_rewrites_itself(void)
{
    static const uint8_t code[] = { 0x31, 0xc0, 0xb9, 0x64, 0x00, 0x00, 0x00, 0x83, 0xc0, 0x01, 0xff, 0x05, 0xf9, 0xff, 0xff,
                                    0xff, 0xff, 0xc9, 0x75, 0xf3, 0xf4 };
    Outcome o;
    check(code, sizeof(code), &o);
    g_assert_cmphex(o.gpr[X86_RAX], ==, 5050);
}

/*
 * A loop copies two pages onto themselves, byte by byte, its own among them: xor eax,eax; mov $0xf000,esi; mov rsi,rdi;
 * mov $0x2000,r8d; 1: movzbl (rsi),edx; add $3,eax; add edx,eax; mov dl,(rdi); inc rsi; inc rdi; dec r8; jnz 1b; hlt
 */
static void test_walks_over_itself(void)
{
    static const uint8_t code[] = { 0x31, 0xc0, 0xbe, 0x00, 0xf0, 0x00, 0x00, 0x48, 0x89, 0xf7, 0x41, 0xb8, 0x00, 0x20, 0x00,
                                    0x00, 0x0f, 0xb6, 0x16, 0x83, 0xc0, 0x03, 0x01, 0xd0, 0x88, 0x17, 0x48, 0xff, 0xc6, 0x48,
                                    0xff, 0xc7, 0x49, 0xff, 0xc8, 0x75, 0xeb, 0xf4 };
    Outcome o;
    check(code, sizeof(code), &o);
}

/*
 * One turn of a thousand changes a number in the loop: xor eax,eax; mov $0x20000,ebx; mov $1000,r9d; lea 2f,r10;
 * 1: mov (rbx),edx; 2: add $1,eax; add edx,4(rbx); lea 8(rbx),rbx; cmp $500,r9d; jne 3f; movb $7,2(r10);
 * 3: sub $1,r9; jnz 1b; hlt
 */
static void test_patches_itself_once(void)
{
    static const uint8_t code[] = { 0x31, 0xc0, 0xbb, 0x00, 0x00, 0x02, 0x00, 0x41, 0xb9, 0xe8, 0x03, 0x00, 0x00, 0x4c,
                                    0x8d, 0x15, 0x02, 0x00, 0x00, 0x00, 0x8b, 0x13, 0x83, 0xc0, 0x01, 0x01, 0x53, 0x04,
                                    0x48, 0x8d, 0x5b, 0x08, 0x41, 0x81, 0xf9, 0xf4, 0x01, 0x00, 0x00, 0x75, 0x05, 0x41,
                                    0xc6, 0x42, 0x02, 0x07, 0x49, 0x83, 0xe9, 0x01, 0x75, 0xe0, 0xf4 };
    Outcome o;
    check(code, sizeof(code), &o);
    g_assert_cmphex(o.gpr[X86_RAX], ==, 501 + 499 * 7);
}

/*
 * Ways out in the middle, some of which come back, within a loop around it: xor eax,eax; mov $0x20000,ebx; mov $0,r11d;
 * 4: lea 0x400(rbx),r8; mov rbx,rsi; 1: mov (rsi),edx; add edx,eax; test $0x1f,dl; jz 2f; cmp $0x33,dl; je 3f; rol $1,eax;
 * adc r11,r9; 3: add $4,rsi; cmp r8,rsi; jb 1b; jmp 5f; 2: add $0x1001,rsi; xor rsi,rax; inc r11; cmp $900,r11d; jb 1b;
 * 5: add $24,rbx; cmp $0x24000,ebx; jb 4b; hlt
 */
static void test_ways_out(void)
{
    static const uint8_t code[] = { 0x31, 0xc0, 0xbb, 0x00, 0x00, 0x02, 0x00, 0x41, 0xbb, 0x00, 0x00, 0x00, 0x00, 0x4c, 0x8d,
                                    0x83, 0x00, 0x04, 0x00, 0x00, 0x48, 0x89, 0xde, 0x8b, 0x16, 0x01, 0xd0, 0xf6, 0xc2, 0x1f,
                                    0x74, 0x15, 0x80, 0xfa, 0x33, 0x74, 0x05, 0xd1, 0xc0, 0x4d, 0x11, 0xd9, 0x48, 0x83, 0xc6,
                                    0x04, 0x4c, 0x39, 0xc6, 0x72, 0xe4, 0xeb, 0x16, 0x48, 0x81, 0xc6, 0x01, 0x10, 0x00, 0x00,
                                    0x48, 0x31, 0xf0, 0x49, 0xff, 0xc3, 0x41, 0x81, 0xfb, 0x84, 0x03, 0x00, 0x00, 0x72, 0xcc,
                                    0x48, 0x83, 0xc3, 0x18, 0x81, 0xfb, 0x00, 0x40, 0x02, 0x00, 0x72, 0xb6, 0xf4 };
    Outcome o;
    check(code, sizeof(code), &o);
}

/*
 * Runs into a page that is not there: xor eax,eax; mov $0x5fe00,esi; mov $0x20000,edi; 1: mov (rsi),r8; add r8,rax;
 * mov rax,(rdi); add $24,rdi; add $8,rsi; inc r9; jmp 1b
 */
static void test_faults(void)
{
    static const uint8_t code[] = { 0x31, 0xc0, 0xbe, 0x00, 0xfe, 0x05, 0x00, 0xbf, 0x00, 0x00, 0x02, 0x00, 0x4c, 0x8b, 0x06,
                                    0x4c, 0x01, 0xc0, 0x48, 0x89, 0x07, 0x48, 0x83, 0xc7, 0x18, 0x48, 0x83, 0xc6, 0x08, 0x49,
                                    0xff, 0xc1, 0xeb, 0xea };
    Outcome o;
    check(code, sizeof(code), &o);
    g_assert_cmphex(o.fault_rip, ==, CODE + 12);
    g_assert_cmphex(o.cr2, ==, DATA + DATA_SIZE);
    g_assert_cmpuint(o.gpr[9], ==, 64);
}

/*
 * CF lives at the head and across all accesses: mov $0x20000,esi; mov $0x20800,edi; mov $400,r8d; stc; 1: mov (rsi),rax;
 * adc rax,(rdi); mov 8(rsi),r9; sbb r9,8(rdi); rcl $1,r10; lea 16(rsi),rsi; lea 16(rdi),rdi; dec r8; jnz 1b; setc bl; hlt
 */
static void test_carries(void)
{
    static const uint8_t code[] = { 0xbe, 0x00, 0x00, 0x02, 0x00, 0xbf, 0x00, 0x08, 0x02, 0x00, 0x41, 0xb8, 0x90, 0x01, 0x00,
                                    0x00, 0xf9, 0x48, 0x8b, 0x06, 0x48, 0x11, 0x07, 0x4c, 0x8b, 0x4e, 0x08, 0x4c, 0x19, 0x4f,
                                    0x08, 0x49, 0xd1, 0xd2, 0x48, 0x8d, 0x76, 0x10, 0x48, 0x8d, 0x7f, 0x10, 0x49, 0xff, 0xc8,
                                    0x75, 0xe2, 0x0f, 0x92, 0xc3, 0xf4 };
    Outcome o;
    check(code, sizeof(code), &o);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dbt/region/rewrites-itself", test_rewrites_itself);
    g_test_add_func("/dbt/region/walks-over-itself", test_walks_over_itself);
    g_test_add_func("/dbt/region/patches-itself-once", test_patches_itself_once);
    g_test_add_func("/dbt/region/ways-out", test_ways_out);
    g_test_add_func("/dbt/region/faults", test_faults);
    g_test_add_func("/dbt/region/carries", test_carries);
    return g_test_run();
}
