/*
 * Our side: a CPU with a megabyte or two of RAM, page tables that map the windows for user code, and an
 * IDT whose every gate leads to a HLT. A run starts at CPL 3 and ends when the CPU halts.
 */
#include "insn_fuzz.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/error.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/guest_box.h"
#include "engine.h"

/* Guest physical layout. */
enum {
    PHYS_TABLES = 0x10000,  /* page tables */
    PHYS_SYSTEM = 0x40000,  /* IDT, GDT, TSS, handlers, stack: KERNEL_VA */
    PHYS_DATA = 0x60000,    /* the data pages and the read-only one, with gaps: an access across pages must see it */
    PHYS_DATA_STEP = 0x2000,
    PHYS_EXIT = 0x68000,
    PHYS_CODE = 0x100000,
    PHYS_SIZE = 0x200000,
};
#define KERNEL_VA 0xffff800010000000ull
enum { K_IDT = 0, K_GDT = 0x1000, K_TSS = 0x2000, K_HANDLERS = 0x3000, K_STACK_TOP = 0x6000, K_SIZE = 0x6000 };
enum { SEL_KERNEL = 0x10, SEL_USER32 = 0x23, SEL_USER_DATA = 0x2b, SEL_USER64 = 0x33, SEL_TSS = 0x40 };

enum { DATA_PAGES = FUZZ_DATA_SIZE / MEM_PAGE_SIZE };
_Static_assert(FUZZ_RO == FUZZ_DATA + FUZZ_DATA_SIZE && FUZZ_RO_SIZE == MEM_PAGE_SIZE, "one more page");

struct FuzzGuest {
    const InsnEngine *engine;
    void *opaque;
    GuestBox box;
    uint64_t next_table;
    uint8_t templates[FUZZ_TEMPLATES][FUZZ_DATA_SIZE];
    int template;
    unsigned runs;
};

/* --- page tables --- */
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40 };
#define PTE_NX BIT64(63)

static void map_page(FuzzGuest *g, uint64_t va, uint64_t pa, uint64_t rights)
{
    uint64_t table = PHYS_TABLES;
    for (int level = 3; level > 0; level--) {
        uint8_t *entry = g->box.host + table + 8 * (va >> (12 + 9 * level) & 511);
        if (!(ld64_le(entry) & PTE_P)) {
            g->next_table += 4096;
            st64_le(entry, g->next_table | PTE_P | PTE_W | PTE_U | PTE_A);
        }
        table = ld64_le(entry) & 0xfffff000;
    }
    st64_le(g->box.host + table + 8 * (va >> 12 & 511), pa | rights | PTE_P);
}

static void map_range(FuzzGuest *g, uint64_t va, uint64_t pa, uint64_t size, uint64_t rights)
{
    for (uint64_t at = 0; at < size; at += 4096) {
        map_page(g, va + at, pa + at, rights | PTE_A | PTE_D);
    }
}

/* The data pages, then the read-only one. marks: accessed and dirty bits that they begin with. */
static void map_data(FuzzGuest *g, uint64_t marks)
{
    for (unsigned n = 0; n <= DATA_PAGES; n++) {
        map_page(g, FUZZ_DATA + n * MEM_PAGE_SIZE, PHYS_DATA + n * PHYS_DATA_STEP,
                 PTE_U | PTE_NX | (n < DATA_PAGES ? PTE_W : 0) | marks);
    }
}

static uint8_t *data_page(FuzzGuest *g, unsigned n)
{
    return g->box.host + PHYS_DATA + n * PHYS_DATA_STEP;
}

/* --- tables of the system --- */
static void make_system(FuzzGuest *g)
{
    uint8_t *k = g->box.host + PHYS_SYSTEM;
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t handler = KERNEL_VA + K_HANDLERS + vector * 16;
        unsigned dpl = vector == EXC_BP || vector == EXC_OF ? 3 : 0;
        uint8_t *gate = k + K_IDT + vector * 16;
        st16_le(gate, (uint16_t)handler);
        st16_le(gate + 2, SEL_KERNEL);
        st16_le(gate + 4, (uint16_t)(0x8e00 | dpl << 13));
        st16_le(gate + 6, (uint16_t)(handler >> 16));
        st32_le(gate + 8, (uint32_t)(handler >> 32));
        k[K_HANDLERS + vector * 16] = 0xf4; /* hlt */
    }
    uint8_t *gdt = k + K_GDT;
    st64_le(gdt + SEL_KERNEL, 0x00af9b000000ffff);
    st64_le(gdt + 0x18, 0x00cf93000000ffff);
    st64_le(gdt + (SEL_USER32 & ~7), 0x00cffb000000ffff);
    st64_le(gdt + (SEL_USER_DATA & ~7), 0x00cff3000000ffff);
    st64_le(gdt + (SEL_USER64 & ~7), 0x00affb000000ffff);
    uint64_t tss = KERNEL_VA + K_TSS;
    st64_le(gdt + SEL_TSS, 0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
    st64_le(gdt + SEL_TSS + 8, tss >> 32);
    st64_le(k + K_TSS + 4, KERNEL_VA + K_STACK_TOP); /* RSP0 */
    st16_le(k + K_TSS + 102, 104);
}

static void make_cpu(FuzzGuest *g)
{
    X86Cpu *cpu = g->box.cpu;
    cpu->cr3 = PHYS_TABLES;
    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_DE;
    cpu->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    cpu->xcr0 = 7;
    cpu->idt.base = KERNEL_VA + K_IDT;
    cpu->idt.limit = 0xfff;
    cpu->gdt.base = KERNEL_VA + K_GDT;
    cpu->gdt.limit = 0x4f;
    cpu->tr = (X86Seg) { SEL_TSS, 0x8b, 0x67, KERNEL_VA + K_TSS };
    cpu->ldt = (X86Seg) { 0 };
    x86_tlb_flush_all(cpu);
}

FuzzGuest *guest_new(const InsnEngine *engine)
{
    FuzzGuest *g = g_new0(FuzzGuest, 1);
    g->engine = engine;
    guest_box_init(&g->box, PHYS_SIZE);
    g->next_table = PHYS_TABLES;
    map_range(g, KERNEL_VA, PHYS_SYSTEM, K_SIZE, PTE_W);
    map_range(g, FUZZ_CODE, PHYS_CODE, FUZZ_BATCH * FUZZ_SLOT, PTE_U);
    map_data(g, PTE_A | PTE_D);
    map_range(g, FUZZ_EXIT32, PHYS_EXIT, MEM_PAGE_SIZE, PTE_U | PTE_NX);
    fuzz_exit_code(g->box.host + PHYS_EXIT);
    make_system(g);
    gen_readonly(data_page(g, DATA_PAGES));
    for (unsigned i = 0; i < FUZZ_TEMPLATES; i++) {
        gen_template(i, g->templates[i]);
    }
    g->template = -1;
    make_cpu(g);
    g->opaque = engine->attach ? engine->attach(g->box.cpu) : NULL;
    return g;
}

void guest_free(FuzzGuest *g)
{
    if (g->engine->detach) {
        g->engine->detach(g->box.cpu, g->opaque);
    }
    guest_box_fini(&g->box);
    g_free(g);
}

const uint32_t *guest_features(const FuzzGuest *g)
{
    return g->box.cpu->features;
}

void guest_load_code(FuzzGuest *g, const FuzzCase *cases, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        memcpy(g->box.host + PHYS_CODE + i * FUZZ_SLOT, cases[i].code, cases[i].total);
    }
    ram_written(g->box.block, PHYS_CODE, FUZZ_BATCH * FUZZ_SLOT);
    if (g->engine->code_changed) {
        g->engine->code_changed(g->box.cpu, g->opaque);
    }
}

/* --- one run --- */
static void load_state(FuzzGuest *g, const FuzzCase *c, unsigned slot)
{
    X86Cpu *cpu = g->box.cpu;
    X86Hot *hot = x86_hot(cpu);
    const FuzzState *in = &c->in;
    const X86Seg data = { SEL_USER_DATA, 0xc0f3, 0xffffffff, 0 }, null = { 0 };
    memcpy(x86_gpr(cpu), in->gpr, sizeof(in->gpr));
    memcpy(&cpu->fx, in->xsave, 160);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(cpu->vec[i].b, in->xsave + 160 + 16 * i, 16);
        memcpy(cpu->vec[i].b + 16, in->xsave + 576 + 16 * i, 16);
    }
    cpu->fcs = cpu->fds = 0;
    cpu->seg[X86_CS] = (X86Seg) { SEL_USER64, 0xa0fb, 0xffffffff, 0 };
    if (c->code32) {
        cpu->seg[X86_CS] = (X86Seg) { SEL_USER32, 0xc0fb, 0xffffffff, 0 };
    }
    cpu->seg[X86_SS] = cpu->seg[X86_DS] = cpu->seg[X86_ES] = data;
    cpu->seg[X86_FS] = cpu->seg[X86_GS] = null;
    cpu->seg[X86_GS].base = hot->gs_base = FUZZ_GS_BASE;
    hot->fs_base = 0;
    cpu->cpl = 3;
    cpu->cr2 = 0;
    cpu->int_shadow = 0;
    hot->rflags = in->rflags;
    hot->rip = FUZZ_CODE + slot * FUZZ_SLOT;
    atomic_store(&hot->exit_req, 0);
    atomic_store(&g->box.vcpu.halted, false);
    x86_mode_changed(cpu);
}

static void save_state(FuzzGuest *g, const FuzzCase *c, unsigned slot, bool halted, FuzzState *out)
{
    X86Cpu *cpu = g->box.cpu;
    X86Hot *hot = x86_hot(cpu);
    memcpy(out->gpr, x86_gpr(cpu), sizeof(out->gpr));
    memset(out->xsave, 0, sizeof(out->xsave));
    memcpy(out->xsave, &cpu->fx, 160);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(out->xsave + 160 + 16 * i, cpu->vec[i].b, 16);
        memcpy(out->xsave + 576 + 16 * i, cpu->vec[i].b + 16, 16);
    }
    out->rip = hot->rip;
    out->rflags = hot->rflags;
    out->cr2 = 0;
    out->error = 0;
    uint64_t vector = (hot->rip - (KERNEL_VA + K_HANDLERS)) / 16;
    if (!halted || cpu->cpl != 0 || vector >= 256) {
        out->vector = FUZZ_HANG;
        return;
    }
    const uint8_t *frame = g->box.host + PHYS_SYSTEM + (out->gpr[X86_RSP] - KERNEL_VA);
    bool has_error = K_STACK_TOP - (out->gpr[X86_RSP] - KERNEL_VA) == 48;
    if (has_error) {
        out->error = ld32_le(frame);
        frame += 8;
    }
    out->vector = (uint32_t)vector;
    out->rip = ld64_le(frame);
    out->rflags = ld64_le(frame + 16);
    out->gpr[X86_RSP] = ld64_le(frame + 24);
    out->cr2 = vector == EXC_PF ? cpu->cr2 : 0;
    if (vector == EXC_PF && out->rip == fuzz_exit_address(c->code32)) {
        out->vector = FUZZ_END;
        out->rip = FUZZ_CODE + slot * FUZZ_SLOT + c->length;
        out->error = 0;
        out->cr2 = 0;
    }
}

static void diff_memory(FuzzGuest *g, const uint8_t *template, FuzzResult *result)
{
    unsigned n = 0;
    for (unsigned line = 0; line < FUZZ_LINES; line++) {
        unsigned at = line * FUZZ_LINE;
        uint8_t *bytes = data_page(g, at / MEM_PAGE_SIZE) + at % MEM_PAGE_SIZE;
        if (memcmp(bytes, template + at, FUZZ_LINE) != 0) {
            result->line[n].line = (uint16_t)line;
            memcpy(result->line[n++].bytes, bytes, FUZZ_LINE);
            memcpy(bytes, template + at, FUZZ_LINE);
        }
    }
    result->lines = n;
}

void guest_run(FuzzGuest *g, const FuzzCase *c, unsigned slot, FuzzResult *result)
{
    const uint8_t *initial = g->templates[c->template];
    if (g->template != c->template) {
        for (unsigned n = 0; n < DATA_PAGES; n++) {
            memcpy(data_page(g, n), initial + n * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
        }
        g->template = c->template;
    }
    if (c->cold) {
        map_data(g, 0);
        x86_tlb_flush_all(g->box.cpu);
    }
    load_state(g, c, slot);
    bool halted = g->engine->run(g->box.cpu, g->opaque, 4000000);
    save_state(g, c, slot, halted, &result->out);
    diff_memory(g, initial, result);
}
