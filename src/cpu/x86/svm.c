/*
 * SVM: VMRUN and #VMEXIT, VMLOAD, VMSAVE, STGI, CLGI, INVLPGA. AMD64 manual volume 2, 15.5 to 15.17, appendix B.
 * Missing: SKINIT (#UD: there is no secure loader), AVIC, SEV, redirection of INIT.
 *
 * The host's state is kept in the CPU itself, not at VM_HSAVE_PA, whose contents are the processor's own affair.
 * Clean bits need nothing: every VMRUN reads the whole VMCB. An exit inside an interrupt shadow says that there is none.
 */
#include "cpu/x86/svm.h"

#include <stdatomic.h>

#include "base/bits.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/mtrr.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"
#include "x86_ops.h"

/* The control area. */
enum {
    VMCB_INTERCEPT = 0x000, VMCB_PAUSE_THRESHOLD = 0x03c, VMCB_PAUSE_COUNT = 0x03e, VMCB_IOPM = 0x040,
    VMCB_MSRPM = 0x048, VMCB_TSC_OFFSET = 0x050, VMCB_ASID = 0x058, VMCB_TLB_CONTROL = 0x05c, VMCB_V_TPR = 0x060,
    VMCB_V_FLAGS = 0x061, VMCB_V_PRIORITY = 0x062, VMCB_V_MASKING = 0x063, VMCB_V_VECTOR = 0x064,
    VMCB_SHADOW = 0x068, VMCB_EXIT_CODE = 0x070, VMCB_EXIT_INFO1 = 0x078, VMCB_EXIT_INFO2 = 0x080,
    VMCB_EXIT_INT_INFO = 0x088, VMCB_NESTED = 0x090, VMCB_EVENT_INJ = 0x0a8, VMCB_NESTED_CR3 = 0x0b0, VMCB_LBR = 0x0b8,
    VMCB_NEXT_RIP = 0x0c8, VMCB_FETCHED = 0x0d0,
};
/* The state-save area. */
enum {
    VMCB_ES = 0x400, VMCB_CS = 0x410, VMCB_SS = 0x420, VMCB_DS = 0x430, VMCB_FS = 0x440, VMCB_GS = 0x450,
    VMCB_GDTR = 0x460, VMCB_LDTR = 0x470, VMCB_IDTR = 0x480, VMCB_TR = 0x490, VMCB_CPL = 0x4cb, VMCB_EFER = 0x4d0,
    VMCB_CR4 = 0x548, VMCB_CR3 = 0x550, VMCB_CR0 = 0x558, VMCB_DR7 = 0x560, VMCB_DR6 = 0x568, VMCB_RFLAGS = 0x570,
    VMCB_RIP = 0x578, VMCB_RSP = 0x5d8, VMCB_RAX = 0x5f8, VMCB_STAR = 0x600, VMCB_LSTAR = 0x608, VMCB_CSTAR = 0x610,
    VMCB_SFMASK = 0x618, VMCB_KERNEL_GS = 0x620, VMCB_SYSENTER_CS = 0x628, VMCB_SYSENTER_ESP = 0x630,
    VMCB_SYSENTER_EIP = 0x638, VMCB_CR2 = 0x640, VMCB_PAT = 0x668, VMCB_BRANCH = 0x670,
};
enum { V_FLAG_IRQ = BIT(0), V_FLAG_GIF = BIT(1) };
enum { V_PRIORITY = 15, V_IGNORE_TPR = BIT(4) };
enum { V_MASKING = BIT(0), V_GIF_ENABLE = BIT(1) };
enum { TLB_FLUSH_ALL = 1, TLB_FLUSH_GUEST = 3, TLB_FLUSH_GUEST_LOCAL = 7 };
enum { IOPM_SIZE = 0x3000, MSRPM_SIZE = 0x2000 };

static uint64_t get(X86Cpu *cpu, uint64_t vmcb, unsigned offset, unsigned size)
{
    return x86_phys_load(cpu, vmcb + offset, size);
}

static void put(X86Cpu *cpu, uint64_t vmcb, unsigned offset, uint64_t value, unsigned size)
{
    x86_phys_store(cpu, vmcb + offset, value, size);
}

/* Bases become canonical when they are loaded. */
static uint64_t canonical_base(const X86Cpu *cpu, uint64_t base)
{
    unsigned unused = x86_has(cpu, X86_FEAT_7_ECX, 16) ? 7 : 16;
    return (uint64_t)((int64_t)(base << unused) >> unused);
}

static X86Seg get_seg(X86Cpu *cpu, uint64_t vmcb, unsigned offset)
{
    uint64_t attr = get(cpu, vmcb, offset + 2, 2);
    return (X86Seg) {
        .sel = (uint16_t)get(cpu, vmcb, offset, 2),
        .attr = seg_unpack_attr(attr),
        .limit = (uint32_t)get(cpu, vmcb, offset + 4, 4),
        .base = canonical_base(cpu, get(cpu, vmcb, offset + 8, 8)),
    };
}

static void put_seg(X86Cpu *cpu, uint64_t vmcb, unsigned offset, const X86Seg *seg)
{
    put(cpu, vmcb, offset, seg->sel, 2);
    put(cpu, vmcb, offset + 2, seg_pack_attr(seg->attr), 2);
    put(cpu, vmcb, offset + 4, seg->limit, 4);
    put(cpu, vmcb, offset + 8, seg->base, 8);
}

void x86_svm_select_space(X86Cpu *cpu)
{
    const X86Svm *svm = &cpu->svm;
    uint64_t root = svm->guest && svm->nested_paging ? svm->nested_cr3 | 1 : 0;
    x86_tlb_select_asid(cpu, svm->guest ? svm->asid : 0, root);
}

static void world_changed(X86Cpu *cpu)
{
    x86_tlb_drop_rights(cpu);
    x86_svm_select_space(cpu);
    x86_mode_changed(cpu);
    x86_release_requests(cpu);
    cpu->interp_stop = true;
}

/* --- the host's state --- */

static void save_host(X86Cpu *cpu, uint64_t next_rip)
{
    const X86Hot *hot = x86_hot(cpu);
    cpu->svm.host = (X86SvmHost) {
        .es = cpu->seg[X86_ES], .cs = cpu->seg[X86_CS], .ss = cpu->seg[X86_SS], .ds = cpu->seg[X86_DS],
        .gdt_base = cpu->gdt.base, .gdt_limit = cpu->gdt.limit, .idt_base = cpu->idt.base, .idt_limit = cpu->idt.limit,
        .efer = cpu->efer, .cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .rflags = hot->rflags, .rip = next_rip,
        .rsp = x86_gpr(cpu)[X86_RSP], .rax = x86_gpr(cpu)[X86_RAX], .pat = cpu->pat,
        .branch = cpu->branch,
    };
}

static void restore_host(X86Cpu *cpu)
{
    const X86SvmHost *host = &cpu->svm.host;
    X86Hot *hot = x86_hot(cpu);
    seg_set(cpu, X86_ES, &host->es);
    seg_set(cpu, X86_CS, &host->cs);
    seg_set(cpu, X86_SS, &host->ss);
    seg_set(cpu, X86_DS, &host->ds);
    cpu->gdt.base = host->gdt_base;
    cpu->gdt.limit = host->gdt_limit;
    cpu->idt.base = host->idt_base;
    cpu->idt.limit = host->idt_limit;
    cpu->efer = host->efer;
    cpu->cr0 = host->cr0 | CR0_PE;
    cpu->cr3 = host->cr3;
    cpu->cr4 = host->cr4;
    if (cpu->svm.nested_paging) {
        cpu->pat = host->pat;
    }
    if (cpu->svm.own_branches) {
        cpu->branch = host->branch;
    }
    hot->rflags = host->rflags & ~(uint64_t)X86_VM;
    hot->rip = host->rip;
    x86_gpr(cpu)[X86_RSP] = host->rsp;
    x86_gpr(cpu)[X86_RAX] = host->rax;
    cpu->dr[7] = 0x400;
    cpu->cpl = 0;
}

/* --- the guest's state --- */

_Static_assert(sizeof(X86BranchRecord) == 40, "five registers");

/* DBGCTL, BR_FROM, BR_TO, LASTEXCPFROM, LASTEXCPTO. */
static void put_branches(X86Cpu *cpu, uint64_t vmcb)
{
    const uint64_t *values = &cpu->branch.control;
    for (unsigned i = 0; i < 5; i++) {
        put(cpu, vmcb, VMCB_BRANCH + 8 * i, values[i], 8);
    }
}

static void get_branches(X86Cpu *cpu, uint64_t vmcb)
{
    uint64_t *values = &cpu->branch.control;
    for (unsigned i = 0; i < 5; i++) {
        values[i] = get(cpu, vmcb, VMCB_BRANCH + 8 * i, 8);
    }
}

static void save_guest(X86Cpu *cpu, uint64_t vmcb)
{
    const X86Hot *hot = x86_hot(cpu);
    const X86Svm *svm = &cpu->svm;
    put_seg(cpu, vmcb, VMCB_ES, &cpu->seg[X86_ES]);
    put_seg(cpu, vmcb, VMCB_CS, &cpu->seg[X86_CS]);
    put_seg(cpu, vmcb, VMCB_SS, &cpu->seg[X86_SS]);
    put_seg(cpu, vmcb, VMCB_DS, &cpu->seg[X86_DS]);
    put(cpu, vmcb, VMCB_GDTR + 4, cpu->gdt.limit, 4);
    put(cpu, vmcb, VMCB_GDTR + 8, cpu->gdt.base, 8);
    put(cpu, vmcb, VMCB_IDTR + 4, cpu->idt.limit, 4);
    put(cpu, vmcb, VMCB_IDTR + 8, cpu->idt.base, 8);
    put(cpu, vmcb, VMCB_EFER, cpu->efer, 8);
    put(cpu, vmcb, VMCB_CR0, cpu->cr0, 8);
    put(cpu, vmcb, VMCB_CR2, cpu->cr2, 8);
    put(cpu, vmcb, VMCB_CR3, cpu->cr3, 8);
    put(cpu, vmcb, VMCB_CR4, cpu->cr4, 8);
    put(cpu, vmcb, VMCB_DR6, cpu->dr[6], 8);
    put(cpu, vmcb, VMCB_DR7, cpu->dr[7], 8);
    put(cpu, vmcb, VMCB_RFLAGS, hot->rflags, 8);
    put(cpu, vmcb, VMCB_RIP, hot->rip, 8);
    put(cpu, vmcb, VMCB_RSP, x86_gpr(cpu)[X86_RSP], 8);
    put(cpu, vmcb, VMCB_RAX, x86_gpr(cpu)[X86_RAX], 8);
    put(cpu, vmcb, VMCB_CPL, cpu->cpl, 1);
    if (svm->nested_paging) {
        put(cpu, vmcb, VMCB_PAT, cpu->pat, 8);
    }
    if (svm->own_branches) {
        put_branches(cpu, vmcb);
    }
    put(cpu, vmcb, VMCB_SHADOW, cpu->int_shadow != 0, 1);
    put(cpu, vmcb, VMCB_V_TPR, svm->v_tpr, 1);
    uint64_t flags = get(cpu, vmcb, VMCB_V_FLAGS, 1) & ~(uint64_t)(V_FLAG_IRQ | V_FLAG_GIF);
    put(cpu, vmcb, VMCB_V_FLAGS, flags | (svm->v_irq ? V_FLAG_IRQ : 0) | (svm->v_gif ? V_FLAG_GIF : 0), 1);
}

static uint64_t guest_efer(uint64_t efer, uint64_t cr0)
{
    efer &= ~(uint64_t)EFER_LMA;
    return (efer & EFER_LME) && (cr0 & CR0_PG) ? efer | EFER_LMA : efer;
}

static void load_guest(X86Cpu *cpu, uint64_t vmcb)
{
    static const struct { uint8_t n; uint16_t offset; } segments[] = {
        { X86_ES, VMCB_ES }, { X86_CS, VMCB_CS }, { X86_SS, VMCB_SS }, { X86_DS, VMCB_DS },
    };
    X86Hot *hot = x86_hot(cpu);
    for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
        X86Seg seg = get_seg(cpu, vmcb, segments[i].offset);
        seg_set(cpu, segments[i].n, &seg);
    }
    cpu->gdt.limit = (uint32_t)get(cpu, vmcb, VMCB_GDTR + 4, 4);
    cpu->gdt.base = get(cpu, vmcb, VMCB_GDTR + 8, 8);
    cpu->idt.limit = (uint32_t)get(cpu, vmcb, VMCB_IDTR + 4, 4);
    cpu->idt.base = get(cpu, vmcb, VMCB_IDTR + 8, 8);
    cpu->cr0 = get(cpu, vmcb, VMCB_CR0, 8) | CR0_ET;
    cpu->cr2 = get(cpu, vmcb, VMCB_CR2, 8);
    cpu->cr3 = get(cpu, vmcb, VMCB_CR3, 8);
    cpu->cr4 = get(cpu, vmcb, VMCB_CR4, 8);
    cpu->efer = guest_efer(get(cpu, vmcb, VMCB_EFER, 8), cpu->cr0);
    cpu->dr[6] = (get(cpu, vmcb, VMCB_DR6, 8) & 0xe00f) | 0xffff0ff0;
    cpu->dr[7] = (get(cpu, vmcb, VMCB_DR7, 8) & 0xffff23ff) | 0x400;
    hot->rflags = (get(cpu, vmcb, VMCB_RFLAGS, 8) & 0x3f7fd5) | BIT(1);
    hot->rip = get(cpu, vmcb, VMCB_RIP, 8);
    x86_gpr(cpu)[X86_RSP] = get(cpu, vmcb, VMCB_RSP, 8);
    x86_gpr(cpu)[X86_RAX] = get(cpu, vmcb, VMCB_RAX, 8);
    cpu->cpl = get(cpu, vmcb, VMCB_CPL, 1) & 3;
    if (!(cpu->cr0 & CR0_PE)) {
        cpu->cpl = 0;
    } else if (hot->rflags & X86_VM) {
        cpu->cpl = 3;
    }
    if (cpu->svm.nested_paging) {
        cpu->pat = get(cpu, vmcb, VMCB_PAT, 8);
    }
    if (cpu->svm.own_branches) {
        get_branches(cpu, vmcb);
    }
    cpu->int_shadow = get(cpu, vmcb, VMCB_SHADOW, 1) & 1;
}

static void load_controls(X86Cpu *cpu, uint64_t vmcb)
{
    X86Svm *svm = &cpu->svm;
    for (unsigned i = 0; i < ARRAY_SIZE(svm->intercept); i++) {
        svm->intercept[i] = (uint32_t)get(cpu, vmcb, VMCB_INTERCEPT + 4 * i, 4);
    }
    svm->vmcb = vmcb;
    svm->iopm = get(cpu, vmcb, VMCB_IOPM, 8) & ~0xfffull;
    svm->msrpm = get(cpu, vmcb, VMCB_MSRPM, 8) & ~0xfffull;
    svm->tsc_offset = get(cpu, vmcb, VMCB_TSC_OFFSET, 8);
    svm->asid = (uint32_t)get(cpu, vmcb, VMCB_ASID, 4);
    svm->nested_paging = (get(cpu, vmcb, VMCB_NESTED, 8) & 1) && x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_NPT);
    svm->own_branches = (get(cpu, vmcb, VMCB_LBR, 8) & 1) && x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_LBRV);
    svm->nested_cr3 = get(cpu, vmcb, VMCB_NESTED_CR3, 8);
    svm->v_tpr = (uint8_t)get(cpu, vmcb, VMCB_V_TPR, 1);
    uint64_t flags = get(cpu, vmcb, VMCB_V_FLAGS, 1), priority = get(cpu, vmcb, VMCB_V_PRIORITY, 1);
    uint64_t masking = get(cpu, vmcb, VMCB_V_MASKING, 1);
    svm->v_irq = flags & V_FLAG_IRQ;
    svm->v_gif = flags & V_FLAG_GIF;
    svm->v_priority = priority & V_PRIORITY;
    svm->v_ignore_tpr = priority & V_IGNORE_TPR;
    svm->intr_masking = masking & V_MASKING;
    svm->v_gif_enabled = (masking & V_GIF_ENABLE) && x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_VGIF);
    svm->v_vector = (uint8_t)get(cpu, vmcb, VMCB_V_VECTOR, 1);
    svm->pause_count = svm->pause_left = (uint16_t)get(cpu, vmcb, VMCB_PAUSE_COUNT, 2);
    svm->pause_threshold = (uint16_t)get(cpu, vmcb, VMCB_PAUSE_THRESHOLD, 2);
    svm->pause_last = 0;
}

/* --- consistency checks (15.5.1) --- */

static bool event_valid(uint64_t event)
{
    unsigned vector = event & 0xff, type = event >> 8 & 7;
    if (!(event >> 31 & 1)) {
        return true;
    }
    return type == 0 || type == 2 || type == 4 || (type == 3 && vector != EXC_NMI && vector < 32);
}

static bool guest_valid(X86Cpu *cpu, uint64_t vmcb)
{
    const X86Svm *svm = &cpu->svm;
    uint64_t efer = get(cpu, vmcb, VMCB_EFER, 8), cr0 = get(cpu, vmcb, VMCB_CR0, 8);
    uint64_t cr3 = get(cpu, vmcb, VMCB_CR3, 8), cr4 = get(cpu, vmcb, VMCB_CR4, 8);
    uint64_t cs_attr = get(cpu, vmcb, VMCB_CS + 2, 2), limit = cpu->phys_mask + 1;
    bool long_mode = (efer & EFER_LME) && (cr0 & CR0_PG);
    if (!(efer & EFER_SVME) || (efer & ~x86_efer_allowed(cpu))) {
        return false;
    }
    if ((cr0 >> 32) || (!(cr0 & CR0_CD) && (cr0 & CR0_NW)) || (cr4 & ~x86_cr4_allowed(cpu))) {
        return false;
    }
    if (long_mode && (!(cr4 & CR4_PAE) || !(cr0 & CR0_PE) || (cs_attr & 0x600) == 0x600)) {
        return false; /* 0x600: L and D */
    }
    if (cr3 & ~cpu->phys_mask) {
        return false;
    }
    if ((get(cpu, vmcb, VMCB_DR6, 8) >> 32) || (get(cpu, vmcb, VMCB_DR7, 8) >> 32)) {
        return false;
    }
    if (svm->asid == 0 || !(svm->intercept[SVM_EXIT_VMRUN / 32] & BIT(SVM_EXIT_VMRUN % 32))) {
        return false;
    }
    if ((svm->intercept[SVM_EXIT_IOIO / 32] >> SVM_EXIT_IOIO % 32 & 1) && svm->iopm + IOPM_SIZE > limit) {
        return false;
    }
    if ((svm->intercept[SVM_EXIT_MSR / 32] >> SVM_EXIT_MSR % 32 & 1) && svm->msrpm + MSRPM_SIZE >= limit) {
        return false; /* processors refuse the very last place, too */
    }
    if (svm->nested_paging && ((svm->nested_cr3 & ~cpu->phys_mask) || !x86_pat_valid(get(cpu, vmcb, VMCB_PAT, 8)))) {
        return false;
    }
    /* With nested paging the table is looked at when it is used. */
    if (!svm->nested_paging && (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !long_mode && !x86_pdptes_valid(cpu, cr3)) {
        return false;
    }
    return event_valid(get(cpu, vmcb, VMCB_EVENT_INJ, 8));
}

/* --- in and out --- */

static void need_svme(X86Cpu *cpu)
{
    if (!(cpu->efer & EFER_SVME)) {
        x86_ud(cpu);
    }
}

static uint64_t rax_operand(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t rax = x86_gpr(cpu)[X86_RAX];
    return insn->asize == 8 ? rax : (uint32_t)rax;
}

/* rAX: a page of physical memory. */
static uint64_t vmcb_operand(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t pa = rax_operand(cpu, insn);
    if ((pa & 0xfff) || (pa & ~cpu->phys_mask)) {
        x86_gp(cpu, 0);
    }
    return pa;
}

static void refuse(X86Cpu *cpu, uint64_t vmcb)
{
    put(cpu, vmcb, VMCB_EXIT_CODE, SVM_EXIT_INVALID, 8);
    put(cpu, vmcb, VMCB_EXIT_INFO1, 0, 8);
    put(cpu, vmcb, VMCB_EXIT_INFO2, 0, 8);
    put(cpu, vmcb, VMCB_EXIT_INT_INFO, 0, 8);
    cpu->svm.gif_off = true;
    cpu->dr[7] = 0x400;
    x86_tlb_drop_rights(cpu);
    cpu->interp_stop = true;
}

/* TLB_CONTROL (15.16.1). What flushes a part may flush more. */
static void flush_as_told(X86Cpu *cpu, unsigned control)
{
    if (control == TLB_FLUSH_ALL) {
        x86_tlb_flush_all_asids(cpu);
    } else if (control == TLB_FLUSH_GUEST || control == TLB_FLUSH_GUEST_LOCAL) {
        x86_tlb_flush_asid(cpu, cpu->svm.asid);
    }
}

void x86_op_vmrun(X86Cpu *cpu, const X86Insn *insn)
{
    need_svme(cpu);
    uint64_t vmcb = vmcb_operand(cpu, insn);
    save_host(cpu, cpu->next_rip);
    load_controls(cpu, vmcb);
    if (!guest_valid(cpu, vmcb)) {
        refuse(cpu, vmcb);
        return;
    }
    uint64_t event = get(cpu, vmcb, VMCB_EVENT_INJ, 8), next_rip = get(cpu, vmcb, VMCB_NEXT_RIP, 8);
    cpu->svm.guest = true;
    cpu->svm.gif_off = false;
    cpu->svm.delivering = 0;
    cpu->tsc_offset += cpu->svm.tsc_offset;
    load_guest(cpu, vmcb);
    flush_as_told(cpu, (unsigned)get(cpu, vmcb, VMCB_TLB_CONTROL, 1));
    world_changed(cpu);
    if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA)) {
        x86_load_any_pdptes(cpu, cpu->cr3); /* entries with reserved bits fault when they are used */
    }
    if (cpu->svm.v_irq) {
        atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_VIRQ);
    }
    if (event >> 31 & 1) {
        x86_deliver_injected(cpu, event, next_rip);
    }
    x86_set_rip(cpu);
}

/* The bytes of the instruction that a page fault interrupted, as far as they can be read. */
static void save_bytes(X86Cpu *cpu, uint64_t vmcb)
{
    uint64_t rip = x86_hot(cpu)->rip;
    uint64_t va = mode64(cpu) ? rip : (uint32_t)(cpu->seg[X86_CS].base + rip);
    unsigned count = 0;
    for (uint64_t pa; count < 15 && x86_mmu_probe(cpu, va + count, &pa, NULL); count++) {
        put(cpu, vmcb, VMCB_FETCHED + 1 + count, x86_phys_load(cpu, pa, 1), 1);
    }
    put(cpu, vmcb, VMCB_FETCHED, count, 1);
}

void x86_svm_leave(X86Cpu *cpu, uint64_t code, uint64_t info1, uint64_t info2, uint64_t next_rip)
{
    uint64_t vmcb = cpu->svm.vmcb;
    bool data_fault = (code == SVM_EXIT_NPF || code == SVM_EXIT_EXCEPTION + EXC_PF) && !(info1 & SVM_NPF_I);
    put(cpu, vmcb, VMCB_FETCHED, 0, 1);
    if (data_fault && x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_DECODE)) {
        save_bytes(cpu, vmcb);
    }
    save_guest(cpu, vmcb);
    put(cpu, vmcb, VMCB_EXIT_CODE, code, 8);
    put(cpu, vmcb, VMCB_EXIT_INFO1, info1, 8);
    put(cpu, vmcb, VMCB_EXIT_INFO2, info2, 8);
    put(cpu, vmcb, VMCB_EXIT_INT_INFO, cpu->svm.delivering, 8);
    if (x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_NRIPS)) {
        put(cpu, vmcb, VMCB_NEXT_RIP, next_rip, 8);
    }
    put(cpu, vmcb, VMCB_EVENT_INJ, get(cpu, vmcb, VMCB_EVENT_INJ, 8) & ~BIT64(31), 8);
    cpu->svm.delivering = 0;
    cpu->svm.guest = false;
    cpu->svm.gif_off = true;
    cpu->tsc_offset -= cpu->svm.tsc_offset;
    cpu->int_shadow = 0;
    cpu->vcpu->halted = false;
    cpu->shutdown = false;
    cpu->held &= ~(uint32_t)VCPU_REQ_VIRQ; /* back in the VMCB */
    atomic_fetch_and(&x86_hot(cpu)->exit_req, ~(uint32_t)VCPU_REQ_VIRQ);
    restore_host(cpu);
    if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA)) {
        x86_load_pdptes(cpu, cpu->cr3);
    }
    world_changed(cpu);
    if (x86_hot(cpu)->rflags & X86_TF) { /* a single step over VMRUN ends here */
        cpu->debug_pending |= BIT(14);
        atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_DEBUG);
    }
}

void x86_svm_exit(X86Cpu *cpu, uint64_t code, uint64_t info1, uint64_t info2, uint64_t next_rip)
{
    x86_svm_leave(cpu, code, info1, info2, next_rip);
    x86_leave(cpu);
}

void x86_svm_reset(X86Cpu *cpu)
{
    memset(&cpu->svm, 0, sizeof(cpu->svm));
}

bool x86_svm_virtual_ready(const X86Cpu *cpu)
{
    const X86Svm *svm = &cpu->svm;
    return svm->guest && svm->v_irq && (x86_hot((X86Cpu *)cpu)->rflags & X86_IF) &&
           (!svm->v_gif_enabled || svm->v_gif) && (svm->v_ignore_tpr || svm->v_priority > (svm->v_tpr & 15));
}

/* --- the other instructions --- */

static const struct { uint16_t offset; uint16_t member; } lazy_registers[] = {
    { VMCB_STAR, offsetof(X86Cpu, star) },
    { VMCB_LSTAR, offsetof(X86Cpu, lstar) },
    { VMCB_CSTAR, offsetof(X86Cpu, cstar) },
    { VMCB_SFMASK, offsetof(X86Cpu, sfmask) },
    { VMCB_KERNEL_GS, offsetof(X86Cpu, kernel_gs_base) },
    { VMCB_SYSENTER_CS, offsetof(X86Cpu, sysenter_cs) },
    { VMCB_SYSENTER_ESP, offsetof(X86Cpu, sysenter_esp) },
    { VMCB_SYSENTER_EIP, offsetof(X86Cpu, sysenter_eip) },
};

static uint64_t *lazy_register(X86Cpu *cpu, unsigned i)
{
    return (uint64_t *)(void *)((char *)cpu + lazy_registers[i].member);
}

void x86_op_vmload(X86Cpu *cpu, const X86Insn *insn)
{
    need_svme(cpu);
    uint64_t vmcb = vmcb_operand(cpu, insn);
    X86Seg fs = get_seg(cpu, vmcb, VMCB_FS), gs = get_seg(cpu, vmcb, VMCB_GS);
    seg_set(cpu, X86_FS, &fs);
    seg_set(cpu, X86_GS, &gs);
    cpu->tr = get_seg(cpu, vmcb, VMCB_TR);
    cpu->ldt = get_seg(cpu, vmcb, VMCB_LDTR);
    for (unsigned i = 0; i < ARRAY_SIZE(lazy_registers); i++) {
        *lazy_register(cpu, i) = get(cpu, vmcb, lazy_registers[i].offset, 8);
    }
    cpu->kernel_gs_base = canonical_base(cpu, cpu->kernel_gs_base);
    x86_mode_changed(cpu);
}

void x86_op_vmsave(X86Cpu *cpu, const X86Insn *insn)
{
    need_svme(cpu);
    uint64_t vmcb = vmcb_operand(cpu, insn);
    put_seg(cpu, vmcb, VMCB_FS, &cpu->seg[X86_FS]);
    put_seg(cpu, vmcb, VMCB_GS, &cpu->seg[X86_GS]);
    put_seg(cpu, vmcb, VMCB_TR, &cpu->tr);
    put_seg(cpu, vmcb, VMCB_LDTR, &cpu->ldt);
    for (unsigned i = 0; i < ARRAY_SIZE(lazy_registers); i++) {
        put(cpu, vmcb, lazy_registers[i].offset, *lazy_register(cpu, i), 8);
    }
}

void x86_op_stgi(X86Cpu *cpu, const X86Insn *insn)
{
    need_svme(cpu);
    if (cpu->svm.guest && cpu->svm.v_gif_enabled) {
        cpu->svm.v_gif = true;
    } else {
        cpu->svm.gif_off = false;
    }
    x86_release_requests(cpu);
    cpu->interp_stop = true;
}

void x86_op_clgi(X86Cpu *cpu, const X86Insn *insn)
{
    need_svme(cpu);
    if (cpu->svm.guest && cpu->svm.v_gif_enabled) {
        cpu->svm.v_gif = false;
    } else {
        cpu->svm.gif_off = true;
    }
    cpu->interp_stop = true;
}

/* rAX in the address space ECX; another one than the current one goes as a whole. */
void x86_op_invlpga(X86Cpu *cpu, const X86Insn *insn)
{
    need_svme(cpu);
    uint64_t va = rax_operand(cpu, insn);
    uint32_t asid = (uint32_t)x86_gpr(cpu)[X86_RCX];
    if (asid != (cpu->svm.guest ? cpu->svm.asid : 0)) {
        x86_tlb_flush_asid(cpu, asid);
    } else if (x86_canonical(cpu, va)) {
        x86_tlb_flush_page(cpu, va);
    }
    cpu->interp_stop = true;
}
