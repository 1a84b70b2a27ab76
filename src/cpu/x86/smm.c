/*
 * System management mode: SMI entry, RSM, the state-save maps.
 * AMD64 manual volume 2, chapter 10 (map of CPUs with long mode); Intel SDM volume 3, table 31-1 (32-bit).
 * Missing: I/O instruction restart.
 *
 * In SMM cpu->as is the machine's "smram-as", where the board shows the memory that others do not see.
 */
#include "base/bits.h"
#include "base/log.h"
#include "core/vm/machine.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

enum { REVISION_64 = 0x00020064, REVISION_32 = 0x00020000 };
#define SAVE_AREA 0x8000u /* the map's offsets count from SMBASE + this */

static bool wide_map(const X86Cpu *cpu)
{
    return x86_has(cpu, X86_FEAT_8000_0001_EDX, 29);
}

static void put(X86Cpu *cpu, unsigned offset, uint64_t value, unsigned size)
{
    x86_phys_store(cpu, cpu->smbase + SAVE_AREA + offset, value, size);
}

static uint64_t get(X86Cpu *cpu, unsigned offset, unsigned size)
{
    return x86_phys_load(cpu, cpu->smbase + SAVE_AREA + offset, size);
}

void x86_smm_select(X86Cpu *cpu, bool smm)
{
    Machine *machine = cpu->vcpu->machine;
    AddressSpace *as = NULL;
    if (smm) {
        cpu->normal_as = cpu->as;
        as = machine ? machine_service(machine, "smram-as") : NULL;
    } else {
        as = cpu->normal_as;
    }
    if (as && as != cpu->as) {
        cpu->as = as;
    }
    cpu->smm = smm;
    x86_mmu_map_changed(cpu);
}

/* --- the 64-bit map --- */

static const uint8_t order_64[] = { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS };

static void put_seg64(X86Cpu *cpu, unsigned offset, const X86Seg *seg)
{
    put(cpu, offset, seg->sel, 2);
    put(cpu, offset + 2, seg_pack_attr(seg->attr), 2);
    put(cpu, offset + 4, seg->limit, 4);
    put(cpu, offset + 8, seg->base, 8);
}

static X86Seg get_seg64(X86Cpu *cpu, unsigned offset)
{
    return (X86Seg) {
        .sel = (uint16_t)get(cpu, offset, 2),
        .attr = seg_unpack_attr(get(cpu, offset + 2, 2)),
        .limit = (uint32_t)get(cpu, offset + 4, 4),
        .base = get(cpu, offset + 8, 8),
    };
}

static void save_64(X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        put_seg64(cpu, 0x7e00 + 16 * n, &cpu->seg[order_64[n]]);
    }
    put(cpu, 0x7e64, cpu->gdt.limit, 4);
    put(cpu, 0x7e68, cpu->gdt.base, 8);
    put_seg64(cpu, 0x7e70, &cpu->ldt);
    put(cpu, 0x7e84, cpu->idt.limit, 4);
    put(cpu, 0x7e88, cpu->idt.base, 8);
    put_seg64(cpu, 0x7e90, &cpu->tr);
    put(cpu, 0x7ec8, 0, 1); /* I/O restart */
    put(cpu, 0x7ec9, cpu->smi_in_halt, 1);
    put(cpu, 0x7ed0, cpu->efer, 8);
    put(cpu, 0x7efc, REVISION_64, 4);
    put(cpu, 0x7f00, cpu->smbase, 4);
    put(cpu, 0x7f48, cpu->cr4, 4);
    put(cpu, 0x7f50, cpu->cr3, 8);
    put(cpu, 0x7f58, (uint32_t)cpu->cr0, 4);
    put(cpu, 0x7f60, cpu->dr[7], 8);
    put(cpu, 0x7f68, cpu->dr[6], 8);
    put(cpu, 0x7f70, hot->rflags, 4);
    put(cpu, 0x7f78, hot->rip, 8);
    for (unsigned n = 0; n < 16; n++) {
        put(cpu, 0x7ff8 - 8 * n, x86_gpr(cpu)[n], 8);
    }
}

static void set_control(X86Cpu *cpu, uint64_t cr0, uint64_t cr3, uint64_t cr4)
{
    cpu->cr0 = cr0 | CR0_ET;
    cpu->cr3 = cr3;
    cpu->cr4 = cr4;
}

static void restore_64(X86Cpu *cpu)
{
    X86Hot *hot = x86_hot(cpu);
    X86Seg seg;
    cpu->efer = get(cpu, 0x7ed0, 8);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        seg = get_seg64(cpu, 0x7e00 + 16 * n);
        seg_set(cpu, order_64[n], &seg);
    }
    cpu->gdt.limit = (uint32_t)get(cpu, 0x7e64, 4);
    cpu->gdt.base = get(cpu, 0x7e68, 8);
    cpu->ldt = get_seg64(cpu, 0x7e70);
    cpu->idt.limit = (uint32_t)get(cpu, 0x7e84, 4);
    cpu->idt.base = get(cpu, 0x7e88, 8);
    cpu->tr = get_seg64(cpu, 0x7e90);
    for (unsigned n = 0; n < 16; n++) {
        x86_gpr(cpu)[n] = get(cpu, 0x7ff8 - 8 * n, 8);
    }
    hot->rip = get(cpu, 0x7f78, 8);
    hot->rflags = get(cpu, 0x7f70, 4) | BIT(1);
    cpu->dr[6] = get(cpu, 0x7f68, 8);
    cpu->dr[7] = get(cpu, 0x7f60, 8);
    set_control(cpu, get(cpu, 0x7f58, 4), get(cpu, 0x7f50, 8), get(cpu, 0x7f48, 4));
    cpu->smi_in_halt = get(cpu, 0x7ec9, 1) & 1;
    if (get(cpu, 0x7efc, 4) & 0x20000) {
        cpu->smbase = get(cpu, 0x7f00, 4);
    }
}

/* --- the 32-bit map --- */

static void put_seg32(X86Cpu *cpu, unsigned sel_offset, unsigned offset, const X86Seg *seg)
{
    put(cpu, sel_offset, seg->sel, 4);
    put(cpu, offset + 8, seg->base, 4);
    put(cpu, offset + 4, seg->limit, 4);
    put(cpu, offset, seg->attr, 4);
}

static X86Seg get_seg32(X86Cpu *cpu, unsigned sel_offset, unsigned offset)
{
    return (X86Seg) {
        .sel = (uint16_t)get(cpu, sel_offset, 4),
        .attr = (uint16_t)(get(cpu, offset, 4) & 0xf0ff),
        .limit = (uint32_t)get(cpu, offset + 4, 4),
        .base = get(cpu, offset + 8, 4),
    };
}

/* Offsets of the hidden parts of ES CS SS (0x7f84...) and DS FS GS (0x7f2c...). */
static unsigned hidden_32(unsigned n)
{
    return n < 3 ? 0x7f84 + 12 * n : 0x7f2c + 12 * (n - 3);
}

static void save_32(X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    put(cpu, 0x7ffc, (uint32_t)cpu->cr0, 4);
    put(cpu, 0x7ff8, cpu->cr3, 4);
    put(cpu, 0x7ff4, hot->rflags, 4);
    put(cpu, 0x7ff0, hot->rip, 4);
    for (unsigned n = 0; n < 8; n++) {
        put(cpu, 0x7fd0 + 4 * n, x86_gpr(cpu)[n], 4);
    }
    put(cpu, 0x7fcc, cpu->dr[6], 4);
    put(cpu, 0x7fc8, cpu->dr[7], 4);
    put(cpu, 0x7fc4, cpu->tr.sel, 4);
    put(cpu, 0x7f64, cpu->tr.base, 4);
    put(cpu, 0x7f60, cpu->tr.limit, 4);
    put(cpu, 0x7f5c, cpu->tr.attr, 4);
    put(cpu, 0x7fc0, cpu->ldt.sel, 4);
    put(cpu, 0x7f80, cpu->ldt.base, 4);
    put(cpu, 0x7f7c, cpu->ldt.limit, 4);
    put(cpu, 0x7f78, cpu->ldt.attr, 4);
    put(cpu, 0x7f74, cpu->gdt.base, 4);
    put(cpu, 0x7f70, cpu->gdt.limit, 4);
    put(cpu, 0x7f58, cpu->idt.base, 4);
    put(cpu, 0x7f54, cpu->idt.limit, 4);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        put_seg32(cpu, 0x7fa8 + 4 * n, hidden_32(n), &cpu->seg[n]);
    }
    put(cpu, 0x7f14, cpu->cr4, 4);
    put(cpu, 0x7f02, cpu->smi_in_halt, 2);
    put(cpu, 0x7efc, REVISION_32, 4);
    put(cpu, 0x7ef8, cpu->smbase, 4);
}

static void restore_32(X86Cpu *cpu)
{
    X86Hot *hot = x86_hot(cpu);
    X86Seg seg;
    hot->rflags = get(cpu, 0x7ff4, 4) | BIT(1);
    hot->rip = get(cpu, 0x7ff0, 4);
    for (unsigned n = 0; n < 8; n++) {
        x86_gpr(cpu)[n] = get(cpu, 0x7fd0 + 4 * n, 4);
    }
    cpu->dr[6] = get(cpu, 0x7fcc, 4);
    cpu->dr[7] = get(cpu, 0x7fc8, 4);
    cpu->tr = get_seg32(cpu, 0x7fc4, 0x7f5c);
    cpu->ldt = get_seg32(cpu, 0x7fc0, 0x7f78);
    cpu->gdt.base = get(cpu, 0x7f74, 4);
    cpu->gdt.limit = (uint32_t)get(cpu, 0x7f70, 4);
    cpu->idt.base = get(cpu, 0x7f58, 4);
    cpu->idt.limit = (uint32_t)get(cpu, 0x7f54, 4);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        seg = get_seg32(cpu, 0x7fa8 + 4 * n, hidden_32(n));
        seg_set(cpu, n, &seg);
    }
    set_control(cpu, get(cpu, 0x7ffc, 4), get(cpu, 0x7ff8, 4), get(cpu, 0x7f14, 4));
    cpu->smi_in_halt = get(cpu, 0x7f02, 2) & 1;
    if (get(cpu, 0x7efc, 4) & 0x20000) {
        cpu->smbase = get(cpu, 0x7ef8, 4);
    }
}

/* --- entry and return --- */

static void smm_segments(X86Cpu *cpu)
{
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        seg_set(cpu, n, &(X86Seg) { .attr = 0x93 | SEG_G, .limit = 0xffffffff });
    }
    seg_set(cpu, X86_CS, &(X86Seg) {
        .sel = (uint16_t)(cpu->smbase >> 4),
        .attr = 0x93 | SEG_G,
        .limit = 0xffffffff,
        .base = cpu->smbase,
    });
}

void x86_smi_enter(X86Cpu *cpu)
{
    X86Hot *hot = x86_hot(cpu);
    if (log_enabled(LOG_INT)) {
        log_printf("cpu %u: SMM enter at %04x:%016" PRIx64 "\n", cpu->vcpu->index, cpu->seg[X86_CS].sel, hot->rip);
    }
    cpu->smi_in_halt = cpu->vcpu->halted;
    cpu->vcpu->halted = false;
    cpu->shutdown = false;
    cpu->svm.guest_in_smm = cpu->svm.guest;
    cpu->svm.guest = false;
    x86_smm_select(cpu, true);
    if (wide_map(cpu)) {
        save_64(cpu);
    } else {
        save_32(cpu);
    }
    cpu->smm_in_nmi = cpu->nmi_blocked; /* an NMI handler was under way: blocked again after RSM */
    cpu->nmi_blocked = true;
    cpu->cr0 &= ~(uint64_t)(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    cpu->cr4 = 0;
    cpu->efer = 0;
    cpu->dr[7] = 0x400;
    cpu->cpl = 0;
    cpu->int_shadow = 0;
    hot->rflags = BIT(1);
    hot->rip = 0x8000;
    smm_segments(cpu);
    x86_svm_select_space(cpu);
    x86_tlb_drop_rights(cpu);
    x86_tlb_flush_all(cpu);
    x86_mode_changed(cpu);
}

/* A saved state that no CPU can be in: shutdown, as the manuals say. */
static bool state_valid(const X86Cpu *cpu)
{
    uint64_t cr0 = cpu->cr0;
    if ((cr0 & CR0_PG) && !(cr0 & CR0_PE)) {
        return false;
    }
    if ((cr0 & CR0_NW) && !(cr0 & CR0_CD)) {
        return false;
    }
    return !(cpu->efer & EFER_LMA) || ((cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE));
}

static unsigned restored_cpl(const X86Cpu *cpu)
{
    if (!(cpu->cr0 & CR0_PE)) {
        return 0;
    }
    return x86_hot((X86Cpu *)cpu)->rflags & X86_VM ? 3 : SEG_DPL(cpu->seg[X86_SS].attr);
}

void x86_rsm(X86Cpu *cpu)
{
    if (!cpu->smm) {
        x86_ud(cpu);
    }
    if (wide_map(cpu)) {
        restore_64(cpu);
    } else {
        restore_32(cpu);
    }
    cpu->cpl = (uint8_t)restored_cpl(cpu);
    cpu->nmi_blocked = cpu->smm_in_nmi;
    cpu->svm.guest = cpu->svm.guest_in_smm;
    cpu->svm.guest_in_smm = false;
    x86_smm_select(cpu, false);
    bool pae = (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA);
    if (!state_valid(cpu) || (pae && !x86_load_pdptes(cpu, cpu->cr3))) {
        cpu->shutdown = true;
        cpu->vcpu->halted = true;
        if (cpu->vcpu->machine) {
            machine_request_reset(cpu->vcpu->machine, SHUTDOWN_GUEST_RESET);
        }
        return;
    }
    x86_svm_select_space(cpu);
    x86_tlb_drop_rights(cpu);
    x86_mode_changed(cpu);
    if (cpu->smi_in_halt) {
        cpu->vcpu->halted = true;
    }
    cpu->smi_in_halt = false;
    x86_release_requests(cpu);
    if (log_enabled(LOG_INT)) {
        log_printf("cpu %u: SMM leave to %04x:%016" PRIx64 "\n", cpu->vcpu->index, cpu->seg[X86_CS].sel,
                   x86_hot(cpu)->rip);
    }
}
