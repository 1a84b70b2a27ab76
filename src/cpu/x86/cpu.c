/*
 * The CPU's memory, its states after power-on, RESET and INIT, and the mode word.
 * Intel SDM volume 3, section 10.1 (initialization).
 *
 * The area is a memory file mapped X86_CTX_COUNT times, each time in front of a soft TLB of its own, in
 * one reservation whose gaps stay inaccessible.
 */
#include "cpu/x86/cpu.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "core/vm/machine.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/info.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/mtrr.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"
#include "cpu/x86/tsc.h"

#define RESERVED (X86_CTX_COUNT * X86_CONTEXT_STRIDE)
#define TLB_BYTES ((X86_CONTEXT_AREA - X86_CPU_AREA + MEM_PAGE_SIZE - 1) & ~(MEM_PAGE_SIZE - 1))

static Error *area_map(int fd, char *area)
{
    for (unsigned n = 0; n < X86_CTX_COUNT; n++) {
        char *at = area + n * X86_CONTEXT_STRIDE;
        if (mmap(at, X86_CPU_AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
            mprotect(at + X86_CPU_AREA, TLB_BYTES, PROT_READ | PROT_WRITE) < 0) {
            return error_new_errno(errno, "cannot map the state of a CPU");
        }
    }
    return NULL;
}

static Error *area_new(char **ret_area)
{
    g_autofree char *name = g_strdup("x86-cpu");
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, X86_CPU_AREA) < 0) {
        Error *err = error_new_errno(errno, "cannot make the memory file of a CPU");
        if (fd >= 0) {
            close(fd);
        }
        return err;
    }
    char *area = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    Error *err = area == MAP_FAILED ? error_new_errno(errno, "cannot reserve the state of a CPU")
                                    : area_map(fd, area);
    close(fd);
    if (err && area != MAP_FAILED) {
        munmap(area, RESERVED);
    }
    if (!err) {
        *ret_area = area;
    }
    return err;
}

Error *x86_cpu_new(Vcpu *vcpu, X86Cpu **ret_cpu)
{
    char *area;
    TRY(area_new(&area));
    X86Cpu *cpu = (X86Cpu *)(void *)area;
    cpu->vcpu = vcpu;
    cpu->as = cpu->normal_as = vcpu->as;
    cpu->io = vcpu->io;
    cpu->apic_id = vcpu->apic_id;
    cpu->bsp = vcpu->index == 0;
    cpu->cores = cpu->threads = cpu->dies = 1;
    cpu->phys_bits = 40;
    cpu->phys_mask = BITS64(39, 0);
    cpu->kvm_signature = true;
    cpu->tlb = x86_context_tlb(cpu, 0);
    x86_mmu_new(cpu);
    x86_time_attach(cpu);
    cpu->counted = vcpu->machine && vcpu->machine->icount;
    vcpu->arch = cpu;
    vcpu->ops = &x86_cpu_ops;
    vcpu->exit_req = &x86_hot(cpu)->exit_req;
    Error *err = x86_fpu_init(cpu);
    if (err) {
        x86_cpu_free(cpu);
        vcpu->arch = NULL;
        return err;
    }
    x86_cpu_reset(cpu, false);
    *ret_cpu = cpu;
    return NULL;
}

void x86_cpu_free(X86Cpu *cpu)
{
    if (cpu) {
        x86_interp_free(cpu);
        x86_fpu_fini(cpu);
        x86_mmu_free(cpu);
        x86_time_detach(cpu);
        munmap(cpu, RESERVED);
    }
}

/* --- reset --- */

static void reset_segments(X86Cpu *cpu)
{
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        cpu->seg[n] = (X86Seg) { .sel = 0, .attr = 0x93, .limit = 0xffff };
    }
    cpu->seg[X86_CS] = (X86Seg) { .sel = 0xf000, .attr = 0x9b, .limit = 0xffff, .base = 0xffff0000 };
    cpu->ldt = (X86Seg) { .attr = 0x82, .limit = 0xffff };
    cpu->tr = (X86Seg) { .attr = 0x8b, .limit = 0xffff };
    cpu->gdt.base = cpu->idt.base = 0;
    cpu->gdt.limit = cpu->idt.limit = 0xffff;
}

static void reset_registers(X86Cpu *cpu, bool init)
{
    X86Hot *hot = x86_hot(cpu);
    memset(x86_gpr(cpu), 0, 16 * sizeof(uint64_t));
    x86_gpr(cpu)[X86_RDX] = x86_signature(cpu);
    hot->rip = 0xfff0;
    hot->rflags = BIT(1);
    hot->fs_base = hot->gs_base = 0;
    uint64_t kept = init ? cpu->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;
    cpu->cr0 = CR0_ET | kept;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->cr8 = 0;
    cpu->efer = 0;
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr[6] = 0xffff0ff0;
    cpu->dr[7] = 0x400;
    cpu->cpl = 0;
    cpu->int_shadow = 0;
    cpu->nmi_blocked = false;
    atomic_store(&cpu->nmi_again, false);
    cpu->debug_pending = 0;
    cpu->shutdown = false;
    cpu->smi_in_halt = false;
    memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
}

/* What only power-on and RESET change. */
static void reset_cold(X86Cpu *cpu)
{
    cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = cpu->kernel_gs_base = 0;
    cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
    cpu->pat = 0x0007040600070406ull;
    cpu->misc_enable = 1; /* fast strings */
    cpu->smbase = 0x30000;
    cpu->feature_control = 0;
    cpu->tsc_aux = cpu->tsc_adjust = cpu->tsc_deadline = 0;
    cpu->mcg_status = 0;
    cpu->mcg_ctl = ~0ull;
    memset(cpu->mc_banks, 0, sizeof(cpu->mc_banks));
    for (unsigned n = 0; n < 10; n++) {
        cpu->mc_banks[4 * n] = ~0ull;
    }
    x86_mtrr_reset(cpu);
    cpu->xcr0 = 1;
    cpu->xss = cpu->pkru = cpu->pkrs = cpu->spec_ctrl = 0;
    cpu->tsx_ctrl = cpu->power_ctl = cpu->misc_features = 0;
    memset(&cpu->branch, 0, sizeof(cpu->branch));
    memset(cpu->vec, 0, sizeof(cpu->vec));
    memset(cpu->opmask, 0, sizeof(cpu->opmask));
    cpu->a20 = true;
    x86_tsc_reset(cpu);
}

void x86_cpu_reset(X86Cpu *cpu, bool init)
{
    bool waits = !cpu->bsp;
    if (cpu->smm && cpu->normal_as) {
        cpu->as = cpu->vcpu->as = cpu->normal_as;
    }
    cpu->smm = false;
    x86_svm_reset(cpu);
    reset_segments(cpu);
    reset_registers(cpu, init);
    if (!init) {
        reset_cold(cpu);
    }
    x86_fpu_reset(cpu, init);
    uint32_t gone = VCPU_REQ_IRQ | VCPU_REQ_NMI | VCPU_REQ_SMI | VCPU_REQ_INIT | VCPU_REQ_APIC | VCPU_REQ_DEBUG |
                    VCPU_REQ_MCE | VCPU_REQ_VIRQ;
    if (!init) {
        gone |= VCPU_REQ_SIPI; /* one that came right after INIT stays */
    }
    cpu->held = 0;
    atomic_fetch_and(&x86_hot(cpu)->exit_req, ~gone);
    cpu->in_wait_for_sipi = waits;
    cpu->vcpu->halted = waits;
    x86_svm_select_space(cpu);
    x86_tlb_drop_rights(cpu);
    x86_mmu_map_changed(cpu);
    x86_mode_changed(cpu);
}

/* --- the mode word --- */

static bool seg_flat(const X86Seg *seg, bool writable)
{
    uint16_t need = SEG_P | SEG_S | (writable ? 2 : 0), care = SEG_P | SEG_S | (writable ? 14 : 0);
    return seg->base == 0 && seg->limit == 0xffffffff && (seg->attr & care) == need;
}

static bool segments_flat(const X86Cpu *cpu)
{
    return seg_flat(&cpu->seg[X86_CS], false) && (cpu->seg[X86_CS].attr & 2) &&
           seg_flat(&cpu->seg[X86_DS], true) && seg_flat(&cpu->seg[X86_ES], true) &&
           seg_flat(&cpu->seg[X86_SS], true);
}

static uint32_t mode_of_registers(const X86Cpu *cpu)
{
    uint32_t mode = 0;
    mode |= cpu->cr0 & CR0_TS ? X86_MODE_TS : 0;
    mode |= cpu->cr0 & CR0_EM ? X86_MODE_EM : 0;
    mode |= cpu->cr0 & CR0_MP ? X86_MODE_MP : 0;
    mode |= cpu->cr0 & CR0_NE ? X86_MODE_NE : 0;
    mode |= cpu->cr0 & CR0_PG ? X86_MODE_PG : 0;
    mode |= cpu->cr4 & CR4_OSFXSR ? X86_MODE_OSFXSR : 0;
    mode |= cpu->cr4 & CR4_OSXMMEXCPT ? X86_MODE_OSXMMEXCPT : 0;
    mode |= cpu->cr4 & CR4_UMIP ? X86_MODE_UMIP : 0;
    mode |= cpu->cr4 & CR4_FSGSBASE ? X86_MODE_FSGSBASE : 0;
    mode |= cpu->smm ? X86_MODE_SMM : 0;
    mode |= cpu->svm.guest ? X86_MODE_SVM : 0;
    mode |= cpu->branch.control & 1 ? X86_MODE_LBR : 0;
    if (cpu->cr4 & CR4_OSXSAVE) {
        mode |= X86_MODE_OSXSAVE;
        mode |= (cpu->xcr0 & 6) == 6 ? X86_MODE_AVX : 0;
        mode |= (cpu->xcr0 & 0xe6) == 0xe6 ? X86_MODE_AVX512 : 0;
    }
    return mode;
}

uint32_t x86_mode(const X86Cpu *cpu)
{
    uint64_t rflags = x86_hot((X86Cpu *)cpu)->rflags;
    uint32_t mode = mode_of_registers(cpu);
    bool pe = cpu->cr0 & CR0_PE, lma = cpu->efer & EFER_LMA;
    bool cs64 = lma && (cpu->seg[X86_CS].attr & SEG_L);
    mode |= pe ? X86_MODE_PE : 0;
    mode |= pe && (rflags & X86_VM) ? X86_MODE_VM86 : 0;
    mode |= lma ? X86_MODE_LMA : 0;
    if (cs64) {
        mode |= X86_MODE_CS64 | X86_MODE_SS32 | X86_MODE_FLAT;
    } else {
        mode |= cpu->seg[X86_CS].attr & SEG_DB ? X86_MODE_CS32 : 0;
        mode |= cpu->seg[X86_SS].attr & SEG_DB ? X86_MODE_SS32 : 0;
        mode |= segments_flat(cpu) ? X86_MODE_FLAT : 0;
    }
    mode |= (uint32_t)cpu->cpl << X86_MODE_CPL_SHIFT;
    mode |= cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (rflags & X86_AC) ? X86_MODE_AC : 0;
    mode |= rflags & X86_TF ? X86_MODE_TF : 0;
    mode |= cpu->cpl <= ((rflags & X86_IOPL) >> 12) ? X86_MODE_IOPL_OK : 0;
    return mode;
}

void x86_mode_changed(X86Cpu *cpu)
{
    unsigned context = X86_CTX_KERNEL;
    if (cpu->cpl == 3) {
        context = X86_CTX_USER;
    } else if ((cpu->cr4 & CR4_SMAP) && (x86_hot(cpu)->rflags & X86_AC)) {
        context = X86_CTX_KERNEL_AC;
    }
    x86_hot(cpu)->mode = x86_mode(cpu);
    if (context != cpu->context) {
        cpu->context = context;
        cpu->tlb = x86_context_tlb(cpu, context);
    }
}

/* --- asked for by other threads --- */

static void a20_on(Vcpu *vcpu, void *opaque)
{
    x86_cpu_of(vcpu)->a20 = true;
    x86_mmu_map_changed(x86_cpu_of(vcpu));
}

static void a20_off(Vcpu *vcpu, void *opaque)
{
    x86_cpu_of(vcpu)->a20 = false;
    x86_mmu_map_changed(x86_cpu_of(vcpu));
}

void x86_set_a20(X86Cpu *cpu, bool on)
{
    if (vcpu_self() == cpu->vcpu || !cpu->vcpu->created) {
        (on ? a20_on : a20_off)(cpu->vcpu, NULL);
    } else {
        vcpu_run_async(cpu->vcpu, on ? a20_on : a20_off, NULL);
    }
}

void x86_send_nmi(X86Cpu *cpu)
{
    _Atomic uint32_t *requests = &x86_hot(cpu)->exit_req;
    if (atomic_fetch_or(requests, VCPU_REQ_NMI) & VCPU_REQ_NMI) {
        atomic_store(&cpu->nmi_again, true);
        if (!(atomic_load(requests) & VCPU_REQ_NMI) && atomic_exchange(&cpu->nmi_again, false)) {
            atomic_fetch_or(requests, VCPU_REQ_NMI); /* the first was taken meanwhile */
        }
    }
    if (cpu->vcpu->machine) {
        vcpu_kick(cpu->vcpu, 0);
    }
}

void x86_sipi(X86Cpu *cpu, uint8_t vector)
{
    /* Whether it waits is seen when it is taken: an INIT may be on its way still. */
    cpu->sipi_vector = vector;
    vcpu_kick(cpu->vcpu, VCPU_REQ_SIPI);
}
