/*
 * Text about the CPU: info registers, info tlb, info mem, register values by name.
 */
#include "cpu/x86/info.h"

#include <inttypes.h>

#include "base/bits.h"
#include "base/log.h"
#include "cpu/x86/core_note.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/mmu_priv.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"

static const char gpr_names[16][4] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                       "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15" };
static const char seg_names[X86_SEG_COUNT][3] = { "ES", "CS", "SS", "DS", "FS", "GS" };

static bool shows_64(const X86Cpu *cpu)
{
    return cpu->efer & EFER_LMA;
}

/* --- registers --- */

static void add_gprs(GString *text, X86Cpu *cpu)
{
    static const uint8_t order[] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RBP, X86_RSP };
    const uint64_t *gpr = x86_gpr(cpu);
    unsigned count = shows_64(cpu) ? 16 : 8;
    for (unsigned n = 0; n < count; n++) {
        unsigned reg = n < 8 ? order[n] : n;
        if (shows_64(cpu)) {
            g_string_append_printf(text, "%-3s=%016" PRIx64 "%c", gpr_names[reg], gpr[reg], n % 4 == 3 ? '\n' : ' ');
        } else {
            g_string_append_printf(text, "E%s=%08x%c", gpr_names[reg] + 1, (uint32_t)gpr[reg],
                                   n % 4 == 3 ? '\n' : ' ');
        }
    }
}

static void add_flags(GString *text, X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    static const struct { uint32_t bit; char letter; } letters[] = {
        { X86_DF, 'D' }, { X86_OF, 'O' }, { X86_SF, 'S' }, { X86_ZF, 'Z' },
        { X86_AF, 'A' }, { X86_PF, 'P' }, { X86_CF, 'C' },
    };
    char shown[ARRAY_SIZE(letters) + 1] = { 0 };
    for (unsigned n = 0; n < ARRAY_SIZE(letters); n++) {
        shown[n] = hot->rflags & letters[n].bit ? letters[n].letter : '-';
    }
    g_string_append_printf(text, shows_64(cpu) ? "RIP=%016" PRIx64 " RFL=%08x" : "EIP=%08" PRIx64 " EFL=%08x",
                           shows_64(cpu) ? hot->rip : (uint64_t)(uint32_t)hot->rip, (uint32_t)hot->rflags);
    g_string_append_printf(text, " [%s] CPL=%u II=%u A20=%u SMM=%u HLT=%u\n", shown, cpu->cpl,
                           cpu->int_shadow ? 1 : 0, cpu->a20, cpu->smm, cpu->vcpu->halted ? 1 : 0);
}

static void add_type(GString *text, const X86Cpu *cpu, const X86Seg *seg)
{
    static const char *const system[2][16] = {
        { "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16", "TrapGate16", "Reserved",
          "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved", "IntGate32", "TrapGate32" },
        { "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved",
          "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64", "TrapGate64" },
    };
    unsigned type = seg->attr & SEG_TYPE;
    if (!(cpu->cr0 & CR0_PE) || !(seg->attr & SEG_P)) {
        return;
    }
    g_string_append_printf(text, " DPL=%u ", SEG_DPL(seg->attr));
    if (!(seg->attr & SEG_S)) {
        g_string_append(text, system[shows_64(cpu)][type]);
        return;
    }
    const char *kind = type & 8 ? (seg->attr & SEG_L    ? "CS64"
                                   : seg->attr & SEG_DB ? "CS32"
                                                        : "CS16")
                                : (seg->attr & SEG_DB || shows_64(cpu) ? "DS  " : "DS16");
    g_string_append_printf(text, "%s [%c%c%c]", kind, type & 4 ? (type & 8 ? 'C' : 'E') : '-',
                           type & 2 ? (type & 8 ? 'R' : 'W') : '-', type & 1 ? 'A' : '-');
}

static void add_segment(GString *text, const X86Cpu *cpu, const char *name, const X86Seg *seg)
{
    uint32_t flags = (uint32_t)seg->attr << 8;
    g_string_append_printf(text, shows_64(cpu) ? "%-3s=%04x %016" PRIx64 " %08x %08x" : "%-3s=%04x %08" PRIx64 " %08x %08x",
                           name, seg->sel, shows_64(cpu) ? seg->base : (uint64_t)(uint32_t)seg->base, seg->limit, flags);
    add_type(text, cpu, seg);
    g_string_append_c(text, '\n');
}

static void add_system(GString *text, X86Cpu *cpu)
{
    const char *wide = shows_64(cpu) ? "%s=     %016" PRIx64 " %08x\n" : "%s=     %08" PRIx64 " %08x\n";
    g_string_append_printf(text, wide, "GDT", cpu->gdt.base, cpu->gdt.limit);
    g_string_append_printf(text, wide, "IDT", cpu->idt.base, cpu->idt.limit);
    const char *control = shows_64(cpu) ? "CR0=%08x CR2=%016" PRIx64 " CR3=%016" PRIx64 " CR4=%08x\n"
                                        : "CR0=%08x CR2=%08" PRIx64 " CR3=%08" PRIx64 " CR4=%08x\n";
    g_string_append_printf(text, control, (uint32_t)cpu->cr0, cpu->cr2, cpu->cr3, (uint32_t)cpu->cr4);
    for (unsigned n = 0; n < 4; n++) {
        g_string_append_printf(text, shows_64(cpu) ? "DR%u=%016" PRIx64 " " : "DR%u=%08" PRIx64 " ", n, cpu->dr[n]);
    }
    g_string_append_printf(text, shows_64(cpu) ? "\nDR6=%016" PRIx64 " DR7=%016" PRIx64 "\n"
                                               : "\nDR6=%08" PRIx64 " DR7=%08" PRIx64 "\n",
                           cpu->dr[6], cpu->dr[7]);
    g_string_append_printf(text, "EFER=%016" PRIx64 "\n", cpu->efer);
}

static void add_fpu(GString *text, const X86Cpu *cpu)
{
    g_string_append_printf(text, "FCW=%04x FSW=%04x [ST=%u] FTW=%02x MXCSR=%08x\n", cpu->fx.fcw, cpu->fx.fsw,
                           cpu->fx.fsw >> 11 & 7, cpu->fx.ftw, cpu->fx.mxcsr);
    unsigned top = cpu->fx.fsw >> 11 & 7;
    for (unsigned n = 0; n < 8; n++) { /* physical registers */
        const uint8_t *st = cpu->fx.st[(n - top) & 7];
        uint64_t mantissa;
        uint16_t exponent;
        memcpy(&mantissa, st, 8);
        memcpy(&exponent, st + 8, 2);
        g_string_append_printf(text, "FPR%u=%016" PRIx64 " %04x%c", n, mantissa, exponent, n & 1 ? '\n' : ' ');
    }
    unsigned count = shows_64(cpu) ? 16 : 8;
    bool avx = x86_hot((X86Cpu *)cpu)->mode & X86_MODE_AVX;
    for (unsigned n = 0; n < count; n++) {
        const uint64_t *q = cpu->vec[n].q;
        if (avx) {
            g_string_append_printf(text, "YMM%02u=%016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 "\n", n,
                                   q[3], q[2], q[1], q[0]);
        } else {
            g_string_append_printf(text, "XMM%02u=%016" PRIx64 "%016" PRIx64 "%c", n, q[1], q[0], n & 1 ? '\n' : ' ');
        }
    }
}

char *x86_describe(X86Cpu *cpu, bool fpu)
{
    GString *text = g_string_new(NULL);
    add_gprs(text, cpu);
    add_flags(text, cpu);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        add_segment(text, cpu, seg_names[n], &cpu->seg[n]);
    }
    add_segment(text, cpu, "LDT", &cpu->ldt);
    add_segment(text, cpu, "TR", &cpu->tr);
    add_system(text, cpu);
    if (fpu) {
        add_fpu(text, cpu);
    }
    return g_string_free(text, FALSE);
}

/* --- page tables --- */

typedef struct Leaf {
    uint64_t va, pa, size;
    uint64_t entry;   /* the leaf's attribute bits, U/S and R/W of all levels applied */
} Leaf;
typedef void LeafFn(GString *text, void *state, const Leaf *leaf);

typedef struct TableWalk {
    X86Cpu *cpu;
    GString *text;
    LeafFn *fn;
    void *state;
    unsigned entry_size;
    unsigned budget; /* entries left: guests can build tables without end */
} TableWalk;

static void walk_level(TableWalk *w, uint64_t table, unsigned shift, uint64_t va, uint64_t rights)
{
    unsigned count = w->entry_size == 8 ? 512 : 1024, index_bits = w->entry_size == 8 ? 9 : 10;
    for (unsigned n = 0; n < count && w->budget; n++) {
        uint64_t entry = x86_phys_load(w->cpu, table + n * w->entry_size, w->entry_size);
        if (!(entry & 1)) {
            continue;
        }
        w->budget--;
        uint64_t here = va | (uint64_t)n << shift;
        if (shift == 47 || shift == 56 || (shift == 39 && !(w->cpu->cr4 & CR4_LA57)) ||
            (shift == 48 && (w->cpu->cr4 & CR4_LA57))) {
            here = sign_extend64(here, shift + 9);
        }
        uint64_t both = rights & (entry | ~6ull);
        uint64_t mask = w->entry_size == 8 ? w->cpu->phys_mask & ~0xfffull : 0xfffff000u;
        bool large = (entry & 0x80) && shift > 12 && shift <= 30;
        if (shift == 12 || large) {
            uint64_t size = BIT64(shift);
            Leaf leaf = { here, entry & mask & ~(size - 1), size, (entry & ~6ull) | (both & 6) };
            w->fn(w->text, w->state, &leaf);
        } else {
            walk_level(w, entry & mask, shift - index_bits, here, both);
        }
    }
}

static bool walk_all(X86Cpu *cpu, GString *text, LeafFn *fn, void *state)
{
    TableWalk w = { cpu, text, fn, state, 8, 1u << 20 };
    if (!(cpu->cr0 & CR0_PG)) {
        g_string_append(text, "PG disabled\n");
        return false;
    }
    if (!(cpu->cr4 & CR4_PAE)) {
        w.entry_size = 4;
        walk_level(&w, cpu->cr3 & 0xfffff000u, 22, 0, ~0ull);
    } else if (cpu->efer & EFER_LMA) {
        walk_level(&w, cpu->cr3 & cpu->phys_mask & ~0xfffull, cpu->cr4 & CR4_LA57 ? 48 : 39, 0, ~0ull);
    } else {
        for (unsigned n = 0; n < 4; n++) {
            if (cpu->pdpte[n] & 1) {
                walk_level(&w, cpu->pdpte[n] & cpu->phys_mask & ~0xfffull, 21, (uint64_t)n << 30, ~0ull);
            }
        }
    }
    return true;
}

static void tlb_line(GString *text, void *state, const Leaf *leaf)
{
    uint64_t e = leaf->entry;
    g_string_append_printf(text, "%016" PRIx64 ": %016" PRIx64 " %c%c%c%c%c%c%c%c%c\n", leaf->va, leaf->pa,
                           e >> 63 ? 'X' : '-', e & BIT(8) ? 'G' : '-', leaf->size > 4096 ? 'P' : '-',
                           e & BIT(6) ? 'D' : '-', e & BIT(5) ? 'A' : '-', e & BIT(4) ? 'C' : '-',
                           e & BIT(3) ? 'T' : '-', e & BIT(2) ? 'U' : '-', e & BIT(1) ? 'W' : '-');
}

char *x86_describe_tlb(X86Cpu *cpu)
{
    GString *text = g_string_new(NULL);
    walk_all(cpu, text, tlb_line, NULL);
    return g_string_free(text, FALSE);
}

typedef struct Range {
    uint64_t start, end;
    unsigned rights;
    bool open;
} Range;

static void range_flush(GString *text, const Range *range)
{
    if (range->open) {
        g_string_append_printf(text, "%016" PRIx64 "-%016" PRIx64 " %016" PRIx64 " %cr%c\n", range->start, range->end,
                               range->end - range->start, range->rights & 4 ? 'u' : '-',
                               range->rights & 2 ? 'w' : '-');
    }
}

static void mem_line(GString *text, void *state, const Leaf *leaf)
{
    Range *range = state;
    if (range->open && range->end == leaf->va && range->rights == (leaf->entry & 6)) {
        range->end += leaf->size;
        return;
    }
    range_flush(text, range);
    *range = (Range) { leaf->va, leaf->va + leaf->size, leaf->entry & 6, true };
}

char *x86_describe_mem(X86Cpu *cpu)
{
    GString *text = g_string_new(NULL);
    Range range = { 0 };
    walk_all(cpu, text, mem_line, &range);
    range_flush(text, &range);
    return g_string_free(text, FALSE);
}

/* --- registers by name --- */

static bool numbered(const char *name, uint64_t *ret_value, X86Cpu *cpu)
{
    for (unsigned n = 0; n < 16; n++) {
        if (g_ascii_strcasecmp(name, gpr_names[n]) == 0) {
            *ret_value = x86_gpr(cpu)[n];
            return true;
        }
        if (n < 8 && (name[0] == 'e' || name[0] == 'E') && g_ascii_strcasecmp(name + 1, gpr_names[n] + 1) == 0) {
            *ret_value = (uint32_t)x86_gpr(cpu)[n];
            return true;
        }
    }
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        if (g_ascii_strcasecmp(name, seg_names[n]) == 0) {
            *ret_value = cpu->seg[n].sel;
            return true;
        }
        if (g_ascii_strncasecmp(name, seg_names[n], 2) == 0 && g_ascii_strcasecmp(name + 2, ".base") == 0) {
            *ret_value = cpu->seg[n].base;
            return true;
        }
        if (g_ascii_strncasecmp(name, seg_names[n], 2) == 0 && g_ascii_strcasecmp(name + 2, ".limit") == 0) {
            *ret_value = cpu->seg[n].limit;
            return true;
        }
    }
    return false;
}

bool x86_register_value(X86Cpu *cpu, const char *name, uint64_t *ret_value)
{
    const X86Hot *hot = x86_hot(cpu);
    const struct { const char *name; uint64_t value; } named[] = {
        { "rip", hot->rip },       { "eip", (uint32_t)hot->rip },   { "pc", hot->rip + cpu->seg[X86_CS].base },
        { "rflags", hot->rflags }, { "eflags", (uint32_t)hot->rflags }, { "cr0", cpu->cr0 },
        { "cr2", cpu->cr2 },       { "cr3", cpu->cr3 },             { "cr4", cpu->cr4 },
        { "cr8", cpu->cr8 },       { "efer", cpu->efer },           { "mxcsr", cpu->fx.mxcsr },
    };
    for (unsigned n = 0; n < ARRAY_SIZE(named); n++) {
        if (g_ascii_strcasecmp(name, named[n].name) == 0) {
            *ret_value = named[n].value;
            return true;
        }
    }
    return numbered(name, ret_value, cpu);
}

/* --- CpuOps --- */

static void op_reset(Vcpu *vcpu)
{
    x86_cpu_reset(x86_cpu_of(vcpu), false);
}

static char *op_describe(Vcpu *vcpu, bool fpu)
{
    return x86_describe(x86_cpu_of(vcpu), fpu);
}

static char *op_describe_tlb(Vcpu *vcpu)
{
    return x86_describe_tlb(x86_cpu_of(vcpu));
}

static char *op_describe_mem(Vcpu *vcpu)
{
    return x86_describe_mem(x86_cpu_of(vcpu));
}

static uint64_t op_pc(Vcpu *vcpu)
{
    X86Cpu *cpu = x86_cpu_of(vcpu);
    uint64_t base = x86_hot(cpu)->mode & X86_MODE_CS64 ? 0 : cpu->seg[X86_CS].base;
    return base + x86_hot(cpu)->rip;
}

static bool op_translate(Vcpu *vcpu, uint64_t va, uint64_t *ret_pa)
{
    return x86_mmu_probe(x86_cpu_of(vcpu), va, ret_pa, NULL);
}

static void op_finish(Vcpu *vcpu)
{
    x86_cpu_free(x86_cpu_of(vcpu));
    vcpu->arch = NULL;
}

static uint64_t op_executed(Vcpu *vcpu)
{
    const X86Cpu *cpu = x86_cpu_of(vcpu);
    return cpu->insn_count + cpu->jit.granted - (uint64_t)cpu->jit.budget;
}

static bool op_has_work(Vcpu *vcpu)
{
    return x86_has_work(x86_cpu_of(vcpu));
}

static bool op_reg(Vcpu *vcpu, const char *name, uint64_t *ret_value)
{
    return x86_register_value(x86_cpu_of(vcpu), name, ret_value);
}

const CpuOps x86_cpu_ops = {
    .arch = "x86_64",
    .reset = op_reset,
    .describe = op_describe,
    .describe_tlb = op_describe_tlb,
    .describe_mem = op_describe_mem,
    .pc = op_pc,
    .translate = op_translate,
    .finish = op_finish,
    .has_work = op_has_work,
    .executed = op_executed,
    .reg = op_reg,
    .debug_changed = x86_debug_changed,
    .step = x86_debug_step,
    .gdb = &x86_gdb_arch,
    .core_notes = x86_core_notes,
};
