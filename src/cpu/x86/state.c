/*
 * What a CPU remembers across save and load. Identity (features, family, widths) must be the same on both
 * sides; what follows from other state (mode word, soft TLB, decoded code) is made anew.
 *
 * A loaded state is checked for what no processor can be in: the rest of cpu/ relies on it.
 */
#include <stdatomic.h>

#include "core/vm/machine.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"
#include "cpu/x86/tsc.h"
#include "cpu/x86/vcpu_x86.h"

/* Requests that belong to the processor, not to its thread. Interrupts are the local APIC's: it is asked after loading. */
#define SAVED_REQUESTS \
    (VCPU_REQ_NMI | VCPU_REQ_SMI | VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_DEBUG | VCPU_REQ_MCE)

static const StateField seg_state[] = {
    STATE_U16(X86Seg, sel), STATE_U16(X86Seg, attr), STATE_U32(X86Seg, limit), STATE_U64(X86Seg, base), { 0 },
};

static const StateField fx_state[] = {
    STATE_U16(X86Fx, fcw), STATE_U16(X86Fx, fsw), STATE_U8(X86Fx, ftw), STATE_U16(X86Fx, fop),
    STATE_U64(X86Fx, fip), STATE_U64(X86Fx, fdp), STATE_RANGE(X86Fx, mxcsr, 0, 0xffff), STATE_BYTES(X86Fx, st),
    STATE_NOT(X86Fx, reserved, "layout"),
    STATE_NOT(X86Fx, mxcsr_mask, "the host's"),
    STATE_NOT(X86Fx, xmm, "scratch; the registers are in vec"),
    STATE_NOT(X86Fx, unused, "layout"),
    { 0 },
};

static const StateField branch_state[] = {
    STATE_U64(X86BranchRecord, control), STATE_U64(X86BranchRecord, from), STATE_U64(X86BranchRecord, to),
    STATE_U64(X86BranchRecord, int_from), STATE_U64(X86BranchRecord, int_to), { 0 },
};

static const StateField svm_host_state[] = {
    STATE_STRUCT(X86SvmHost, branch, branch_state),
    STATE_STRUCT(X86SvmHost, es, seg_state), STATE_STRUCT(X86SvmHost, cs, seg_state), STATE_STRUCT(X86SvmHost, ss, seg_state),
    STATE_STRUCT(X86SvmHost, ds, seg_state), STATE_U64(X86SvmHost, gdt_base), STATE_U64(X86SvmHost, idt_base),
    STATE_U32(X86SvmHost, gdt_limit), STATE_U32(X86SvmHost, idt_limit), STATE_U64(X86SvmHost, efer), STATE_U64(X86SvmHost, cr0),
    STATE_U64(X86SvmHost, cr3), STATE_U64(X86SvmHost, cr4), STATE_U64(X86SvmHost, rflags), STATE_U64(X86SvmHost, rip),
    STATE_U64(X86SvmHost, rsp), STATE_U64(X86SvmHost, rax), STATE_U64(X86SvmHost, pat), { 0 },
};

static const StateField svm_state[] = {
    STATE_BOOL(X86Svm, guest), STATE_BOOL(X86Svm, gif_off), STATE_BOOL(X86Svm, guest_in_smm), STATE_BOOL(X86Svm, nested_paging),
    STATE_BOOL(X86Svm, intr_masking), STATE_BOOL(X86Svm, own_branches), STATE_BOOL(X86Svm, v_irq), STATE_BOOL(X86Svm, v_ignore_tpr),
    STATE_BOOL(X86Svm, v_gif_enabled), STATE_BOOL(X86Svm, v_gif), STATE_U8(X86Svm, v_tpr), STATE_RANGE(X86Svm, v_priority, 0, 15),
    STATE_U8(X86Svm, v_vector), STATE_U16(X86Svm, pause_count), STATE_U16(X86Svm, pause_threshold), STATE_U16(X86Svm, pause_left),
    STATE_U32_ARRAY(X86Svm, intercept), STATE_U32(X86Svm, asid), STATE_U64(X86Svm, vmcb), STATE_U64(X86Svm, iopm),
    STATE_U64(X86Svm, msrpm), STATE_U64(X86Svm, nested_cr3), STATE_U64(X86Svm, tsc_offset), STATE_U64(X86Svm, pause_last),
    STATE_STRUCT(X86Svm, host, svm_host_state),
    STATE_NOT(X86Svm, delivering, "used inside the delivery of one event"),
    STATE_NOT(X86Svm, npf_info, "used inside one fault"), STATE_NOT(X86Svm, npf_address, "used inside one fault"),
    { 0 },
};

/* A row of the area's tail, which lies behind the struct. */
#define TAIL(kind_, member, n)                                                                     \
    { .name = #member, .kind = kind_, .offset = X86_CPU_AREA - sizeof(X86Tail) + offsetof(X86Tail, member), \
      .size = sizeof(((X86Tail *)0)->member) / (n), .count = n }

const StateField x86_cpu_state[] = {
    TAIL(STATE_KIND_U64, gpr, 16),
    TAIL(STATE_KIND_U64, hot.rflags, 1),
    TAIL(STATE_KIND_U64, hot.rip, 1),
    STATE_STRUCT_ARRAY(X86Cpu, seg, seg_state),
    STATE_STRUCT(X86Cpu, ldt, seg_state),
    STATE_STRUCT(X86Cpu, tr, seg_state),
    STATE_U64(X86Cpu, gdt.base), STATE_U32(X86Cpu, gdt.limit), STATE_U64(X86Cpu, idt.base), STATE_U32(X86Cpu, idt.limit),
    STATE_U64(X86Cpu, cr0), STATE_U64(X86Cpu, cr2), STATE_U64(X86Cpu, cr3), STATE_U64(X86Cpu, cr4),
    STATE_RANGE(X86Cpu, cr8, 0, 15),
    STATE_U64(X86Cpu, efer), STATE_U64(X86Cpu, star), STATE_U64(X86Cpu, lstar), STATE_U64(X86Cpu, cstar),
    STATE_U64(X86Cpu, sfmask), STATE_U64(X86Cpu, kernel_gs_base), STATE_U64(X86Cpu, sysenter_cs),
    STATE_U64(X86Cpu, sysenter_esp), STATE_U64(X86Cpu, sysenter_eip), STATE_U64_ARRAY(X86Cpu, dr), STATE_U64(X86Cpu, pat),
    STATE_U64(X86Cpu, tsc_aux), STATE_U64(X86Cpu, tsc_adjust), STATE_U64(X86Cpu, misc_enable), STATE_U64(X86Cpu, apic_base),
    STATE_U64(X86Cpu, smbase), STATE_U64(X86Cpu, feature_control), STATE_U64(X86Cpu, tsc_deadline),
    STATE_U64(X86Cpu, mtrr_def), STATE_U64_ARRAY(X86Cpu, mtrr_fixed), STATE_U64_ARRAY(X86Cpu, mtrr_base),
    STATE_U64_ARRAY(X86Cpu, mtrr_mask), STATE_U64(X86Cpu, mcg_status), STATE_U64(X86Cpu, mcg_ctl),
    STATE_U64_ARRAY(X86Cpu, mc_banks), STATE_U64(X86Cpu, xcr0), STATE_U64(X86Cpu, xss), STATE_U64(X86Cpu, pkru), STATE_U64(X86Cpu, pkrs),
    STATE_U64(X86Cpu, spec_ctrl), STATE_RANGE(X86Cpu, cpl, 0, 3), STATE_BOOL(X86Cpu, smm), STATE_BOOL(X86Cpu, nmi_blocked),
    STATE_BOOL(X86Cpu, in_wait_for_sipi), STATE_RANGE(X86Cpu, int_shadow, 0, 2), STATE_BOOL(X86Cpu, a20),
    STATE_STRUCT(X86Cpu, fx, fx_state), STATE_U16(X86Cpu, fcs), STATE_U16(X86Cpu, fds), STATE_BYTES(X86Cpu, vec),
    STATE_U64_ARRAY(X86Cpu, opmask), STATE_U8(X86Cpu, sipi_vector), STATE_U64_ARRAY(X86Cpu, pdpte),
    STATE_U64(X86Cpu, debug_pending), STATE_U64(X86Cpu, power_ctl), STATE_U64(X86Cpu, tsx_ctrl), STATE_STRUCT(X86Cpu, branch, branch_state),
    STATE_U64(X86Cpu, therm_interrupt), STATE_U64(X86Cpu, therm2), STATE_U64(X86Cpu, misc_features),
    STATE_U64(X86Cpu, vm_hsave_pa), STATE_U64(X86Cpu, vm_cr), STATE_BOOL(X86Cpu, nmi_again), STATE_BOOL(X86Cpu, smi_in_halt),
    STATE_BOOL(X86Cpu, smm_in_nmi), STATE_STRUCT(X86Cpu, svm, svm_state),
    STATE_BOOL(X86Cpu, shutdown), STATE_U64(X86Cpu, saved_tsc), STATE_U32(X86Cpu, saved_requests),
    /* configuration */
    STATE_EQUAL(X86Cpu, features), STATE_EQUAL(X86Cpu, family), STATE_EQUAL(X86Cpu, model_id), STATE_EQUAL(X86Cpu, stepping),
    STATE_EQUAL(X86Cpu, vendor), STATE_EQUAL(X86Cpu, cpuid_level), STATE_EQUAL(X86Cpu, cpuid_xlevel), STATE_EQUAL(X86Cpu, cpuid_xlevel2),
    STATE_EQUAL(X86Cpu, phys_bits), STATE_EQUAL(X86Cpu, apic_id), STATE_EQUAL(X86Cpu, cores), STATE_EQUAL(X86Cpu, threads),
    STATE_EQUAL(X86Cpu, dies), STATE_EQUAL(X86Cpu, bsp),
    STATE_NOT(X86Cpu, held, "in saved_requests"),
    STATE_NOT(X86Cpu, tsc_offset, "as saved_tsc: the common counter differs from host to host"),
    STATE_NOT(X86Cpu, phys_mask, "from phys_bits"),
    STATE_NOT(X86Cpu, fx_xsave, "constant"),
    STATE_NOT(X86Cpu, model, "configuration"), STATE_NOT(X86Cpu, model_name, "configuration"),
    STATE_NOT(X86Cpu, fault, "used inside the delivery of one exception"), STATE_NOT(X86Cpu, fault_jmp, "host"),
    STATE_NOT(X86Cpu, next_rip, "used inside one instruction"),
    STATE_NOT(X86Cpu, vcpu, "wiring"), STATE_NOT(X86Cpu, as, "wiring"), STATE_NOT(X86Cpu, io, "wiring"),
    STATE_NOT(X86Cpu, normal_as, "wiring"), STATE_NOT(X86Cpu, debug, "host"), STATE_NOT(X86Cpu, phys_bits_wanted, "configuration"),
    STATE_NOT(X86Cpu, min_level, "configuration"), STATE_NOT(X86Cpu, min_xlevel, "configuration"), STATE_NOT(X86Cpu, min_xlevel2, "configuration"),
    STATE_NOT(X86Cpu, legacy_cache, "configuration"), STATE_NOT(X86Cpu, l3_cache, "configuration"),
    STATE_NOT(X86Cpu, check_cpuid, "configuration"), STATE_NOT(X86Cpu, enforce_cpuid, "configuration"),
    STATE_NOT(X86Cpu, host_phys_bits, "configuration"), STATE_NOT(X86Cpu, kvm_signature, "configuration"),
    STATE_NOT(X86Cpu, tcg_signature, "configuration"), STATE_NOT(X86Cpu, leaf_b, "configuration"),
    STATE_NOT(X86Cpu, auto_level, "configuration"), STATE_NOT(X86Cpu, migratable, "configuration"),
    STATE_NOT(X86Cpu, pmu, "configuration"), STATE_NOT(X86Cpu, lmce, "configuration"), STATE_NOT(X86Cpu, time, "common; see saved_tsc"),
    STATE_NOT(X86Cpu, split, "host"), STATE_NOT(X86Cpu, mmu, "made anew"), STATE_NOT(X86Cpu, interp, "made anew"),
    STATE_NOT(X86Cpu, map_changes, "host"), STATE_NOT(X86Cpu, interp_stop, "used inside one run"),
    STATE_NOT(X86Cpu, code, "made anew"), STATE_NOT(X86Cpu, dbt, "made anew"), STATE_NOT(X86Cpu, apic, "saves itself"),
    STATE_NOT(X86Cpu, native, "host"), STATE_NOT(X86Cpu, ferr, "wiring"), STATE_NOT(X86Cpu, insn_count, "statistics"), STATE_NOT(X86Cpu, counted, "configuration"),
    STATE_NOT(X86Cpu, jit, "the flags are in rflags whenever the CPU stands still"),
    STATE_NOT(X86Cpu, context, "from the mode"), STATE_NOT(X86Cpu, tlb, "from the mode"),
    { 0 },
};

void x86_cpu_saving(X86Cpu *cpu)
{
    cpu->saved_tsc = x86_tsc(cpu);
    cpu->saved_requests = (atomic_load(&x86_hot(cpu)->exit_req) | cpu->held) & SAVED_REQUESTS;
}

static const char *impossible_mode(const X86Cpu *cpu, uint64_t rflags)
{
    bool pe = cpu->cr0 & CR0_PE, pg = cpu->cr0 & CR0_PG, lma = cpu->efer & EFER_LMA;

    if ((pg && !pe) || ((cpu->cr0 & CR0_NW) && !(cpu->cr0 & CR0_CD)) || cpu->cr0 >> 32) {
        return "CR0";
    }
    if (lma != ((cpu->efer & EFER_LME) && pg) || (lma && !(cpu->cr4 & CR4_PAE))) {
        return "EFER";
    }
    if (cpu->cr4 & ~x86_cr4_allowed(cpu)) {
        return "CR4";
    }
    if (cpu->cr3 & ~(cpu->phys_mask | 0xfff)) {
        return "CR3";
    }
    bool vm = rflags & X86_VM;
    if (vm && (!pe || cpu->cpl != 3)) {
        return "EFLAGS.VM";
    }
    if (!pe && cpu->cpl != 0) {
        return "the privilege level";
    }
    if (lma && (cpu->seg[X86_CS].attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB)) {
        return "CS";
    }
    if (!(cpu->xcr0 & 1) || (cpu->xcr0 & ~(x86_xcr0_supported(cpu) | 1)) || (cpu->xss & ~x86_xss_supported(cpu))) {
        return "XCR0";
    }
    return NULL;
}

Error *x86_cpu_loaded(X86Cpu *cpu)
{
    X86Hot *hot = x86_hot(cpu);
    const char *what = impossible_mode(cpu, hot->rflags);

    if (what) {
        x86_cpu_reset(cpu, false);
        return error_new("CPU %u: %s has a value that this processor cannot have", cpu->vcpu->index, what);
    }
    hot->rflags = (hot->rflags & 0x3f7fd5) | 2;
    if (!(cpu->efer & EFER_LMA)) {
        hot->rip = (uint32_t)hot->rip;
    }
    hot->fs_base = cpu->seg[X86_FS].base;
    hot->gs_base = cpu->seg[X86_GS].base;
    cpu->held = 0;
    cpu->debug_pending &= 0xe00f;
    cpu->tsc_offset += cpu->saved_tsc - x86_tsc(cpu);
    x86_tsc_moved(cpu); /* the APIC, which was loaded before, took the deadline for that of a counter just reset */
    /* A request too many is only looked at once more. */
    atomic_fetch_or(&hot->exit_req, (cpu->saved_requests & SAVED_REQUESTS) | VCPU_REQ_IRQ | VCPU_REQ_APIC | VCPU_REQ_VIRQ);
    bool smm = cpu->smm;
    x86_smm_select(cpu, false);
    if (smm) {
        x86_smm_select(cpu, true);
    }
    x86_svm_select_space(cpu);
    x86_tlb_drop_rights(cpu);
    x86_mmu_map_changed(cpu);
    x86_mode_changed(cpu);
    return NULL;
}
