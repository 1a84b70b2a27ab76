/*
 * A guest that does anything: random bytes as code at CPL 0 in every mode, over memory that holds
 * descriptors, gates, task states and page tables of random content. Nothing is compared; the CPU
 * must not crash, assert or loop for ever. X86_HOSTILE_ROUNDS makes it run longer.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/x86/guest_box.h"

enum { RAM_SIZE = 4 << 20, TABLES = 0x20000, INSNS = 400 };

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

static uint64_t random64(GRand *rand)
{
    return (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
}

/* Mostly useful descriptors: code, data, gates, task states, with limits and bases near the RAM. */
static uint64_t random_descriptor(GRand *rand)
{
    static const uint8_t access[] = { 0x9b, 0x93, 0xfb, 0xf3, 0x97, 0x9f, 0xbb, 0x89, 0x8b,
                                      0x81, 0x82, 0x85, 0x8c, 0x84, 0xec, 0x8e, 0x8f, 0xee,
                                      0x86, 0x87, 0xe5, 0x91, 0x99, 0x13, 0xf7 };
    uint64_t base = g_rand_int(rand) & (g_rand_boolean(rand) ? 0 : 0x3ffff0),
             limit = g_rand_int(rand) & 0xfffff;
    uint64_t a = access[g_rand_int_range(rand, 0, ARRAY_SIZE(access))],
             flags = g_rand_int(rand) & 15;
    if (g_rand_int(rand) % 4 == 0) { /* a gate */
        return (g_rand_int(rand) & 0xffff) | (uint64_t)(g_rand_int(rand) & 0xfc) << 16 | a << 40 |
               (uint64_t)(g_rand_int(rand) & 3) << 32;
    }
    return (limit & 0xffff) | (base & 0xffffff) << 16 | a << 40 | (limit >> 16) << 48 |
           flags << 52 | (base >> 24) << 56;
}

static void fill_tables(Box *b, GRand *rand)
{
    uint8_t *t = b->block->host + TABLES;
    for (unsigned i = 0; i < 0x2000; i += 8) { /* GDT, IDT, TSS */
        st64_le(t + i, random_descriptor(rand));
    }
    for (unsigned i = 0; i < 0x4000; i += 8) { /* page tables: low pages, random rights */
        uint64_t entry = (random64(rand) & 0x3ff000) | (random64(rand) & 0x1e7) | 3;
        if (g_rand_int(rand) % 16 == 0) {
            entry = random64(rand);
        }
        st64_le(t + 0x4000 + i, entry);
    }
    for (unsigned level = 0; level < 3; level++) { /* so that something is mapped */
        st64_le(t + 0x4000 + level * 0x1000, (TABLES + 0x5000 + level * 0x1000) | 7);
    }
    for (unsigned i = 0; i < 512; i++) {
        st64_le(t + 0x7000 + 8 * i, (uint64_t)i << 12 | 7);
    }
}

static void random_segments(Box *b, GRand *rand, bool protected, bool long_mode)
{
    X86Cpu *cpu = b->cpu;
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        bool code = n == X86_CS;
        uint16_t attr = protected ? 0xc093 : 0x93;
        if (code) {
            attr = long_mode ? 0xa09b : protected && g_rand_boolean(rand) ? 0xc09b : 0x9b;
        } else if (g_rand_int(rand) % 4 == 0) {
            attr = (uint16_t)(g_rand_int(rand) & 0xf0ff);
        }
        uint16_t sel = (uint16_t)(g_rand_int(rand) & 0xfc);
        cpu->seg[n] = (X86Seg) { .sel = sel,
                                 .attr = attr,
                                 .base = protected || long_mode ? 0 : sel * 16u,
                                 .limit = protected && g_rand_boolean(rand) ? 0xffffffff : 0xffff };
    }
    cpu->seg[X86_FS].base = x86_hot(cpu)->fs_base = random64(rand) & 0x3fffff;
    cpu->seg[X86_GS].base = x86_hot(cpu)->gs_base = random64(rand) & 0x3fffff;
}

static void random_cpu(Box *b, GRand *rand)
{
    X86Cpu *cpu = b->cpu;
    unsigned kind = g_rand_int(rand) % 5; /* real, protected, paged, PAE, long */
    x86_cpu_reset(cpu, false);
    b->vcpu.halted = false;
    random_segments(b, rand, kind != 0, kind == 4);
    cpu->gdt.base = TABLES;
    cpu->idt.base = g_rand_boolean(rand) ? TABLES + 0x1000 : 0;
    cpu->gdt.limit = cpu->idt.limit = 0xfff;
    cpu->tr = (X86Seg) { .sel = 0x28, .attr = 0x8b, .limit = 0x200, .base = TABLES + 0x800 };
    cpu->ldt = (X86Seg) { .sel = 0x30, .attr = 0x82, .limit = 0x7ff, .base = TABLES + 0x600 };
    cpu->cr3 = TABLES + 0x4000;
    cpu->cr0 =
        (kind != 0 ? CR0_PE : 0) | CR0_ET | (g_rand_boolean(rand) ? CR0_NE | CR0_AM | CR0_WP : 0);
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE |
               (g_rand_boolean(rand) ? CR4_VME | CR4_PVI | CR4_PSE : 0);
    if (kind >= 2) {
        cpu->cr0 |= CR0_PG;
        cpu->cr4 |= kind >= 3 ? CR4_PAE : 0;
        cpu->efer = kind == 4 ? EFER_LME | EFER_LMA | EFER_SCE : 0;
        for (unsigned i = 0; i < 4; i++) {
            cpu->pdpte[i] = (TABLES + 0x6000) | 1;
        }
    }
    cpu->xcr0 = 7;
    cpu->smbase = 0x30000;
    cpu->star = random64(rand);
    cpu->lstar = random64(rand) & 0x3fffff;
    X86Hot *hot = x86_hot(cpu);
    for (unsigned i = 0; i < 16; i++) {
        x86_gpr(cpu)[i] = random64(rand) & (g_rand_boolean(rand)   ? 0xffff
                                            : g_rand_boolean(rand) ? 0x3fffff
                                                                   : ~0ull);
    }
    hot->rflags =
        2 | (g_rand_int(rand) & (X86_ARITH | X86_DF | X86_IOPL | X86_NT | X86_AC | X86_TF));
    hot->rip = g_rand_int(rand) & (kind == 0 ? 0x7fff : 0x1ffff);
    if (kind != 0 && kind != 4 && g_rand_int(rand) % 4 == 0) { /* virtual-8086 mode */
        hot->rflags |= X86_VM;
        cpu->cpl = 3;
        for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
            cpu->seg[n] = (X86Seg) { .sel = 0x100, .base = 0x1000, .limit = 0xffff, .attr = 0xf3 };
        }
    }
    x86_tlb_flush_all(cpu);
    x86_mode_changed(cpu);
}

/* Random bytes, seasoned with opcodes that are seldom met by chance. */
static void random_code(Box *b, GRand *rand)
{
    static const uint8_t starts[] = { 0x0f, 0xf0, 0xf2, 0xf3, 0x66, 0x67, 0xc4,
                                      0xcd, 0xcf, 0x9a, 0xea, 0xff, 0x8e };
    uint8_t *host = b->block->host;
    for (unsigned i = 0; i < 0x20000; i += 4) {
        uint32_t word = g_rand_int(rand);
        if ((word & 7) == 0) {
            word =
                (word & ~0xffu) | starts[word >> 8 & 0xff ? (word >> 16) % ARRAY_SIZE(starts) : 0];
        }
        if ((word & 0xff) == 0xf4 && word >> 31) {
            word ^= 1; /* fewer HLT */
        }
        st32_le(host + i, word);
    }
    ram_written(b->block, 0, RAM_SIZE);
}

static void run(Box *b, GRand *rand)
{
    for (unsigned i = 0; i < INSNS / 20; i++) {
        if (x86_interp_run(b->cpu, 20, false) == X86_EXIT_HALT) {
            b->vcpu.halted = false;
            b->cpu->shutdown = false;
            x86_hot(b->cpu)->rip += g_rand_int(rand) & 0xff;
            if (g_rand_boolean(rand)) {
                return;
            }
        }
        if (g_rand_int(rand) % 8 == 0) {
            atomic_fetch_or(&x86_hot(b->cpu)->exit_req,
                              g_rand_boolean(rand)   ? VCPU_REQ_NMI
                              : g_rand_boolean(rand) ? VCPU_REQ_SMI
                                                     : VCPU_REQ_TLB);
        }
    }
}

static void test_hostile(void)
{
    const char *more = g_getenv("X86_HOSTILE_ROUNDS"), *seed = g_getenv("X86_HOSTILE_SEED");
    unsigned rounds = more != NULL ? (unsigned)atoi(more) : 30;
    uint32_t first = seed != NULL ? (uint32_t)strtoul(seed, NULL, 0) : 1;
    for (uint32_t i = 0; i < rounds; i++) {
        GRand *rand = g_rand_new_with_seed(first + i);
        Box *b = box_new();
        if (more != NULL && i % 100 == 0) {
            g_test_message("seed %u", first + i);
        }
        random_code(b, rand);
        fill_tables(b, rand);
        for (unsigned k = 0; k < 20; k++) {
            random_cpu(b, rand);
            run(b, rand);
        }
        box_free(b);
        g_rand_free(rand);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/interp/hostile", test_hostile);
    return g_test_run();
}
