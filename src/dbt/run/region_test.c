/*
 * Regions on small 64-bit programs, against the interpreter: loops that rewrite themselves, that have ways out in their
 * middle, that fault, that carry flags through all turns. Each runs with all code hot, and with an empty soft TLB and a
 * request at each turn besides; and while another thread takes back what the loop goes by. insn-fuzz --loops has what
 * is random.
 */
#include "dbt/run/engine.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

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

typedef struct Machine {
    GuestBox box;
    DbtGroup group;
    Dbt *dbt;
} Machine;

static void machine_init(Machine *m, const uint8_t *code, size_t size, uint32_t stress)
{
    guest_box_init(&m->box, RAM_SIZE);
    dbt_group_init(&m->group);
    guest_box_check(dbt_new(m->box.cpu, &m->group, 16 * MiB, false, &m->dbt));
    m->dbt->stress = stress;
    make_tables(m->box.host);
    for (unsigned i = 0; i < DATA_SIZE; i++) {
        m->box.host[DATA + i] = (uint8_t)((i * i >> 5) + i * 37);
    }
    memcpy(m->box.host + CODE, code, size);
    make_cpu(m->box.cpu);
}

static void machine_fini(Machine *m)
{
    dbt_free(m->dbt);
    dbt_group_fini(&m->group);
    guest_box_fini(&m->box);
}

/* stress 0: by the interpreter. Returns how many regions were made. */
static uint64_t run(const uint8_t *code, size_t size, uint32_t stress, Outcome *ret)
{
    Machine m;
    machine_init(&m, code, size, stress);
    X86Cpu *cpu = m.box.cpu;
    while (!atomic_load(&m.box.vcpu.halted)) {
        stress != 0 ? dbt_run(m.dbt) : (void)x86_interp_run(cpu, 1 << 20, false);
    }
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->gpr, x86_gpr(cpu), sizeof(ret->gpr));
    ret->cr2 = cpu->cr2;
    ret->fault_rip = ld64_le(m.box.host + STACK - 40);
    st64_le(m.box.host + STACK - 24, 0); /* flags that nobody reads may differ in the frame of a fault */
    for (unsigned i = STACK - 64; i < DATA + DATA_SIZE; i += 4) {
        ret->sum = ret->sum * 31 + ld32_le(m.box.host + i);
    }
    uint64_t regions = m.dbt->stats.regions;
    machine_fini(&m);
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
 * A fault in the middle, of an access that cannot be looked up before the loop, while r9 to r11 live elsewhere:
 * mov $0x20000,esi; xor r9d,r9d; xor r11d,r11d; 1: movzbl (rsi),eax; shl $10,eax; lea 1(rsi),rsi; add 0x20c00(rax),r9;
 * inc r10; add r9,r11; cmp $0x5fff0,rsi; jne 1b; hlt
 */
static void test_faults_inside(void)
{
    static const uint8_t code[] = { 0xbe, 0x00, 0x00, 0x02, 0x00, 0x45, 0x31, 0xc9, 0x45, 0x31, 0xdb, 0x0f, 0xb6, 0x06, 0xc1,
                                    0xe0, 0x0a, 0x48, 0x8d, 0x76, 0x01, 0x4c, 0x03, 0x88, 0x00, 0x0c, 0x02, 0x00, 0x49, 0xff,
                                    0xc2, 0x4d, 0x01, 0xcb, 0x48, 0x81, 0xfe, 0xf0, 0xff, 0x05, 0x00, 0x75, 0xe0, 0xf4 };
    Outcome o;
    check(code, sizeof(code), &o);
    g_assert_cmphex(o.fault_rip, ==, CODE + 21);
    g_assert_cmphex(o.cr2, >=, DATA + DATA_SIZE);
    g_assert_cmpuint(o.gpr[10], >, 0);
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

/* --- what other threads want while a loop runs --- */

typedef struct Asker {
    Machine *m;
    GThread *thread;
    uint8_t *flag; /* set instead of asking */
} Asker;

/* Only when the loop is known to run: its first store has been seen to change. */
static void *ask(void *opaque)
{
    Asker *a = opaque;
    uint8_t *host = a->m->box.host;
    _Atomic uint64_t *words[] = { (_Atomic uint64_t *)(host + DATA), (_Atomic uint64_t *)(host + DATA + 0x10000) };
    uint64_t before[] = { atomic_load(words[0]), atomic_load(words[1]) };
    while (atomic_load(words[0]) - before[0] < 1000 && atomic_load(words[1]) - before[1] < 1000) {
        g_usleep(100);
    }
    if (a->flag != NULL) {
        atomic_store((_Atomic uint8_t *)a->flag, 1);
    } else {
        atomic_fetch_or(&x86_hot(a->m->box.cpu)->exit_req, VCPU_REQ_STOP);
    }
    return NULL;
}

/* Runs until another thread has asked, or set the flag. The loop was at its head: all has been stored, in `page`. */
static void run_until_asked(Machine *m, uint8_t *flag, uint64_t page)
{
    Asker a = { .m = m, .flag = flag };
    a.thread = g_thread_new("asker", ask, &a);
    dbt_run(m->dbt);
    g_thread_join(a.thread);
    atomic_fetch_and(&x86_hot(m->box.cpu)->exit_req, ~(uint32_t)VCPU_REQ_STOP);
    const uint64_t *gpr = x86_gpr(m->box.cpu);
    g_assert_cmphex(gpr[8], ==, 3 * gpr[X86_RAX]);
    g_assert_cmphex(ld64_le(m->box.host + page), ==, gpr[X86_RAX]);
    g_assert_cmphex(ld64_le(m->box.host + page + 8), ==, gpr[8]);
}

/*
 * A loop whose accesses do not move keeps their host addresses for all turns; it has to come out for who takes them
 * back: a tracker of writes, a change of the page tables. mov $0x20000,ebx; mov $0x21000,esi; xor eax,eax; xor r8d,r8d;
 * 1: add $1,rax; add $3,r8; mov rax,(rbx); mov r8,8(rbx); cmpl $0,(rsi); je 1b; hlt
 */
static void test_pages_taken_back(void)
{
    static const uint8_t code[] = { 0xbb, 0x00, 0x00, 0x02, 0x00, 0xbe, 0x00, 0x10, 0x02, 0x00, 0x31, 0xc0,
                                    0x45, 0x31, 0xc0, 0x48, 0x83, 0xc0, 0x01, 0x49, 0x83, 0xc0, 0x03, 0x48,
                                    0x89, 0x03, 0x4c, 0x89, 0x43, 0x08, 0x83, 0x3e, 0x00, 0x74, 0xec, 0xf4 };
    enum { NUMBER = DATA >> MEM_PAGE_BITS, OTHER = DATA + 0x10000 };
    Machine m;
    uint8_t bit;
    machine_init(&m, code, sizeof(code), DBT_STRESS_SITES);
    X86Cpu *cpu = m.box.cpu;
    uint8_t *flag = m.box.host + DATA + 0x1000;
    memset(m.box.host + DATA, 0, 0x2000);
    run_until_asked(&m, NULL, DATA);
    g_assert_cmpuint(m.dbt->stats.regions, >, 0);
    g_assert_cmpuint(m.dbt->stats.hoisted, >=, 3);

    lock_acquire(&m.box.lock);
    ram_track(m.box.block, RAM_DIRTY_MIGRATION, true);
    ram_take_dirty(m.box.block, RAM_DIRTY_MIGRATION, NUMBER, 1, &bit);
    lock_release(&m.box.lock);
    x86_tlb_clean_page(cpu, m.box.block, DATA);
    run_until_asked(&m, NULL, DATA);
    lock_acquire(&m.box.lock);
    g_assert_true(ram_take_dirty(m.box.block, RAM_DIRTY_MIGRATION, NUMBER, 1, &bit));
    ram_track(m.box.block, RAM_DIRTY_MIGRATION, false);
    lock_release(&m.box.lock);

    uint64_t last = ld64_le(m.box.host + DATA);
    st64_le(m.box.host + TABLES + 0x3000 + 8 * NUMBER, OTHER | 3);
    x86_tlb_flush_all(cpu);
    run_until_asked(&m, NULL, OTHER);
    g_assert_cmphex(ld64_le(m.box.host + DATA), ==, last);

    run_until_asked(&m, flag, OTHER); /* another CPU's store is seen at once */
    g_assert_true(atomic_load(&m.box.vcpu.halted));
    machine_fini(&m);
}

/*
 * A guest goes round by returns alone, and with a call to the next instruction: mov $0x20000,ebx; lea 1f,rax;
 * 1: addq $1,(rbx); push rax; ret - and with call 2f; 2: pop rcx; before the push
 */
static void test_returns(void)
{
    static const uint8_t plain[] = { 0xbb, 0x00, 0x00, 0x02, 0x00, 0x48, 0x8d, 0x05, 0x00, 0x00, 0x00, 0x00, 0x48, 0x83, 0x03, 0x01, 0x50, 0xc3 };
    static const uint8_t calls[] = { 0xbb, 0x00, 0x00, 0x02, 0x00, 0x48, 0x8d, 0x05, 0x00, 0x00, 0x00, 0x00, 0x48, 0x83, 0x03, 0x01,
                                     0xe8, 0x00, 0x00, 0x00, 0x00, 0x59, 0x50, 0xc3 };
    for (unsigned n = 0; n < 4; n++) {
        Machine m;
        machine_init(&m, n & 1 ? calls : plain, n & 1 ? sizeof(calls) : sizeof(plain), n & 2 ? DBT_STRESS_SITES : 0);
        memset(m.box.host + DATA, 0, 0x1000);
        Asker a = { .m = &m };
        a.thread = g_thread_new("asker", ask, &a);
        alarm(60);
        dbt_run(m.dbt);
        alarm(0);
        g_thread_join(a.thread);
        g_assert_cmpuint(ld64_le(m.box.host + DATA), >=, 1000);
        g_assert_false(atomic_load(&m.box.vcpu.halted));
        atomic_fetch_and(&x86_hot(m.box.cpu)->exit_req, ~(uint32_t)VCPU_REQ_STOP);
        machine_fini(&m);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dbt/region/rewrites-itself", test_rewrites_itself);
    g_test_add_func("/dbt/region/walks-over-itself", test_walks_over_itself);
    g_test_add_func("/dbt/region/patches-itself-once", test_patches_itself_once);
    g_test_add_func("/dbt/region/ways-out", test_ways_out);
    g_test_add_func("/dbt/region/faults", test_faults);
    g_test_add_func("/dbt/region/faults-inside", test_faults_inside);
    g_test_add_func("/dbt/region/pages-taken-back", test_pages_taken_back);
    g_test_add_func("/dbt/region/returns", test_returns);
    g_test_add_func("/dbt/region/carries", test_carries);
    return g_test_run();
}
