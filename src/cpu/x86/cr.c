/*
 * Control registers, XCR0, and the activation of long mode. Intel SDM volume 3, sections 2.5 and 9.8.5.
 */
#include "base/bits.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"

static void write_cr0(X86Cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->cr0;
    bool lme = cpu->efer & EFER_LME;
    if ((value >> 32) || ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD))) {
        x86_gp(cpu, 0);
    }
    value = (value & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)) |
            CR0_ET;
    bool paging_on = (value & CR0_PG) && !(old & CR0_PG), paging_off = !(value & CR0_PG) && (old & CR0_PG);
    if (paging_on && lme && (!(cpu->cr4 & CR4_PAE) || (cpu->seg[X86_CS].attr & SEG_L))) {
        x86_gp(cpu, 0);
    }
    if (paging_off && (mode64(cpu) || (cpu->cr4 & CR4_PCIDE))) {
        x86_gp(cpu, 0);
    }
    bool pdptes = (value & CR0_PG) && (cpu->cr4 & CR4_PAE) && !lme;
    if (pdptes && ((value ^ old) & (CR0_PG | CR0_CD | CR0_NW)) && !x86_load_pdptes(cpu, cpu->cr3)) {
        x86_gp(cpu, 0);
    }
    if (paging_on && lme) {
        cpu->efer |= EFER_LMA;
    } else if (paging_off) {
        cpu->efer &= ~(uint64_t)EFER_LMA;
    }
    cpu->cr0 = value;
    if ((value ^ old) & (CR0_PG | CR0_WP | CR0_PE)) {
        x86_tlb_flush_all(cpu);
    }
    x86_mode_changed(cpu);
}

static void write_cr3(X86Cpu *cpu, uint64_t value)
{
    bool lma = cpu->efer & EFER_LMA, pcide = cpu->cr4 & CR4_PCIDE;
    bool keep = pcide && (value >> 63);
    if (lma) {
        if (pcide) {
            value &= ~BIT64(63);
        }
        if (value & ~cpu->phys_mask) {
            x86_gp(cpu, 0);
        }
    } else {
        value = (uint32_t)value;
        if ((cpu->cr4 & CR4_PAE) && (cpu->cr0 & CR0_PG) && !x86_load_pdptes(cpu, value)) {
            x86_gp(cpu, 0);
        }
    }
    cpu->cr3 = value;
    if (pcide) {
        x86_tlb_select_pcid(cpu, value & 0xfff, keep);
    } else {
        x86_tlb_flush_nonglobal(cpu);
    }
}

uint64_t x86_cr4_allowed(const X86Cpu *cpu)
{
    static const struct { uint8_t word, bit; uint32_t cr4; } rows[] = {
        { X86_FEAT_1_EDX, 1, CR4_VME | CR4_PVI }, { X86_FEAT_1_EDX, 4, CR4_TSD }, { X86_FEAT_1_EDX, 2, CR4_DE },
        { X86_FEAT_1_EDX, 3, CR4_PSE },           { X86_FEAT_1_EDX, 6, CR4_PAE }, { X86_FEAT_1_EDX, 7, CR4_MCE },
        { X86_FEAT_1_EDX, 13, CR4_PGE },          { X86_FEAT_1_EDX, 24, CR4_OSFXSR },
        { X86_FEAT_1_EDX, 25, CR4_OSXMMEXCPT },   { X86_FEAT_7_ECX, 2, CR4_UMIP },
        { X86_FEAT_7_ECX, 16, CR4_LA57 },         { X86_FEAT_7_EBX, 0, CR4_FSGSBASE },
        { X86_FEAT_1_ECX, 17, CR4_PCIDE },        { X86_FEAT_1_ECX, 26, CR4_OSXSAVE },
        { X86_FEAT_7_EBX, 7, CR4_SMEP },          { X86_FEAT_7_EBX, 20, CR4_SMAP },
        { X86_FEAT_7_ECX, 3, CR4_PKE },           { X86_FEAT_7_ECX, 31, CR4_PKS },
    };
    uint64_t allowed = CR4_PCE;
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        if (x86_has(cpu, rows[n].word, rows[n].bit)) {
            allowed |= rows[n].cr4;
        }
    }
    return allowed;
}

static void write_cr4(X86Cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->cr4, changed = old ^ value;
    bool lma = cpu->efer & EFER_LMA, paging = cpu->cr0 & CR0_PG;
    if (value & ~x86_cr4_allowed(cpu)) {
        x86_gp(cpu, 0);
    }
    if (lma && (!(value & CR4_PAE) || (changed & CR4_LA57))) {
        x86_gp(cpu, 0);
    }
    if ((value & CR4_PCIDE) && !(old & CR4_PCIDE) && (!lma || (cpu->cr3 & 0xfff))) {
        x86_gp(cpu, 0);
    }
    bool reload = paging && !lma && (value & CR4_PAE) && (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP));
    if (reload && !x86_load_pdptes(cpu, cpu->cr3)) {
        x86_gp(cpu, 0);
    }
    cpu->cr4 = value;
    if (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS | CR4_LA57 | CR4_PCIDE)) {
        x86_tlb_flush_all(cpu);
    }
    x86_mode_changed(cpu);
}

static void write_cr8(X86Cpu *cpu, uint64_t value)
{
    if (value & ~15ull) {
        x86_gp(cpu, 0);
    }
    if (cpu->svm.guest && cpu->svm.intr_masking) { /* V_TPR */
        cpu->svm.v_tpr = (uint8_t)((cpu->svm.v_tpr & 0xf0) | value);
        x86_release_requests(cpu);
        return;
    }
    cpu->cr8 = value;
    X86Apic *apic = cpu->apic;
    if (apic) {
        apic->ops->set_tpr(apic, (uint8_t)(value << 4));
        x86_release_requests(cpu);
    }
}

void x86_write_cr(X86Cpu *cpu, unsigned n, uint64_t value)
{
    switch (n) {
    case 0:
        write_cr0(cpu, value);
        break;
    case 2:
        cpu->cr2 = value;
        break;
    case 3:
        write_cr3(cpu, value);
        break;
    case 4:
        write_cr4(cpu, value);
        break;
    case 8:
        write_cr8(cpu, value);
        break;
    default:
        x86_ud(cpu);
    }
}

uint64_t x86_read_cr(X86Cpu *cpu, unsigned n)
{
    X86Apic *apic = cpu->apic;
    switch (n) {
    case 0:
        return cpu->cr0;
    case 2:
        return cpu->cr2;
    case 3:
        return cpu->cr3;
    case 4:
        return cpu->cr4;
    case 8:
        if (cpu->svm.guest && cpu->svm.intr_masking) {
            return cpu->svm.v_tpr & 15;
        }
        return apic ? apic->ops->get_tpr(apic) >> 4 : cpu->cr8;
    default:
        x86_ud(cpu);
    }
}

/* --- XCR0 --- */

void x86_xsetbv(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    bool avx512 = value & 0xe0;
    if (index != 0 || !(value & 1) || (value & ~x86_xcr0_supported(cpu)) || (value & 6) == 4 ||
        (avx512 && (value & 0xe6) != 0xe6)) {
        x86_gp(cpu, 0);
    }
    cpu->xcr0 = value;
    x86_mode_changed(cpu);
}

/* --- debug registers: Intel SDM volume 3, chapter 17 --- */

#define DR7_GD BIT64(13)

static unsigned dr_index(X86Cpu *cpu, unsigned n)
{
    if (n == 4 || n == 5) { /* old names of DR6 and DR7 */
        if (cpu->cr4 & CR4_DE) {
            x86_ud(cpu);
        }
        n += 2;
    }
    if (cpu->dr[7] & DR7_GD) {
        x86_raise_debug(cpu, BIT(13));
    }
    return n;
}

void x86_write_dr(X86Cpu *cpu, unsigned n, uint64_t value)
{
    n = dr_index(cpu, n);
    if (n >= 6) {
        if (mode64(cpu) && (value >> 32)) {
            x86_gp(cpu, 0);
        }
        value = n == 6 ? (value & 0xe00f) | 0xffff0ff0 : (value & 0xffff23ff) | 0x400;
    }
    cpu->dr[n] = value;
    x86_tlb_drop_rights(cpu);
}

uint64_t x86_read_dr(X86Cpu *cpu, unsigned n)
{
    return cpu->dr[dr_index(cpu, n)];
}

/* rw as in DR7: 0 execute, 1 write, 2 I/O, 3 read or write; X86Access values for data come as 0 and 1. */
static bool condition_meets(const X86Cpu *cpu, unsigned condition, unsigned rw)
{
    switch (rw) {
    case X86_READ:
        return condition == 3;
    case X86_WRITE:
    case X86_RMW:
        return condition == 3 || condition == 1;
    case X86_EXEC:
        return condition == 0;
    default:
        return condition == 2 && (cpu->cr4 & CR4_DE);
    }
}

uint64_t x86_debug_match(X86Cpu *cpu, uint64_t va, unsigned size, unsigned rw)
{
    uint64_t dr7 = cpu->dr[7], bits = 0;
    if (likely(!(dr7 & 0xff))) {
        return 0;
    }
    for (unsigned n = 0; n < 4; n++) {
        unsigned length = (unsigned[]) { 1, 2, 8, 4 }[dr7 >> (18 + 4 * n) & 3];
        uint64_t start = cpu->dr[n] & ~(uint64_t)(length - 1);
        if (!(dr7 >> (2 * n) & 3) || !condition_meets(cpu, dr7 >> (16 + 4 * n) & 3, rw)) {
            continue;
        }
        bool hit = rw == X86_EXEC ? cpu->dr[n] == va : va < start + length && start < va + size;
        if (hit) {
            bits |= BIT(n);
        }
    }
    return bits;
}
