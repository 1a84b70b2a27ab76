/*
 * What other parts of the machine ask of a CPU: SMI, INIT, start-up, NMI, interrupts.
 * Priorities: Intel SDM volume 3, table 6-2.
 */
#include <stdatomic.h>

#include "core/vm/icount.h"
#include "core/vm/machine.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

#define IRQ_REQUESTS ((uint32_t)(VCPU_REQ_IRQ | VCPU_REQ_APIC))
/* What waits while SVM's global interrupt flag is clear. */
#define HELD_BY_GIF (IRQ_REQUESTS | VCPU_REQ_VIRQ | VCPU_REQ_NMI | VCPU_REQ_SMI | VCPU_REQ_INIT | VCPU_REQ_MCE)

/*
 * What keeps a request from getting lost:
 *  1. A source makes visible what it has (a bit of IRR, the 8259's line, V_IRQ) and then sets its bit in exit_req. So an interrupt
 *     that is visible has its bit in exit_req or in held, or the source is just about to set it.
 *  2. A bit leaves exit_req for held as long as x86_blocked_requests() has it, and only then.
 *  3. A bit that is not blocked is cleared before the sources are looked at. Whatever the look leaves behind gets its bit again.
 *  4. What ends a reason to block calls x86_release_requests() afterwards.
 * Each request is blocked by its own reasons: a virtual interrupt that waits, or is taken, says nothing about the physical one.
 */
uint32_t x86_blocked_requests(const X86Cpu *cpu)
{
    uint32_t blocked = cpu->svm.gif_off ? HELD_BY_GIF : 0;
    if (cpu->in_wait_for_sipi) {
        blocked |= IRQ_REQUESTS | VCPU_REQ_VIRQ | VCPU_REQ_NMI | VCPU_REQ_SMI | VCPU_REQ_MCE;
    }
    if (cpu->smm) {
        blocked |= VCPU_REQ_SMI | VCPU_REQ_INIT;
    }
    if (cpu->nmi_blocked) {
        blocked |= VCPU_REQ_NMI;
    }
    if (cpu->shutdown || !x86_svm_physical_if(cpu)) {
        blocked |= IRQ_REQUESTS;
    }
    if (cpu->shutdown || !x86_svm_virtual_ready(cpu)) {
        blocked |= VCPU_REQ_VIRQ;
    }
    return blocked;
}

static void clear_request(X86Cpu *cpu, uint32_t bits)
{
    atomic_fetch_and(&x86_hot(cpu)->exit_req, ~bits);
}

static void hold(X86Cpu *cpu, uint32_t bits)
{
    cpu->held |= bits;
    clear_request(cpu, bits);
}

static void take_init(X86Cpu *cpu)
{
    clear_request(cpu, VCPU_REQ_INIT);
    X86Apic *apic = cpu->apic;
    x86_cpu_reset(cpu, true);
    if (apic && apic->ops->init_reset) {
        apic->ops->init_reset(apic);
    }
}

static void take_sipi(X86Cpu *cpu)
{
    cpu->in_wait_for_sipi = false;
    cpu->vcpu->halted = false;
    x86_load_seg_real(cpu, X86_CS, (uint16_t)(cpu->sipi_vector << 8));
    cpu->seg[X86_CS].limit = 0xffff;
    x86_hot(cpu)->rip = 0;
    x86_mode_changed(cpu);
}

/* Leaves the guest for something that stays pending for the host. */
static bool leave_for(X86Cpu *cpu, unsigned code, uint32_t request)
{
    if (!x86_svm_intercepts(cpu, code)) {
        return false;
    }
    atomic_fetch_or(&x86_hot(cpu)->exit_req, request);
    x86_svm_leave(cpu, code, 0, 0, 0);
    return true;
}

/* Asks the local APIC. */
static bool take_interrupt(X86Cpu *cpu)
{
    X86Apic *apic = cpu->apic;
    clear_request(cpu, IRQ_REQUESTS);
    if (!apic) {
        return false;
    }
    if (unlikely(x86_svm_intercepts(cpu, SVM_EXIT_INTR))) { /* it stays where it is: the host takes it */
        return apic->ops->pending(apic) && leave_for(cpu, SVM_EXIT_INTR, VCPU_REQ_IRQ);
    }
    int vector = apic->ops->take(apic);
    if (vector < 0) {
        return false;
    }
    if (apic->ops->pending(apic)) {
        atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_IRQ);
    }
    x86_deliver_interrupt(cpu, (unsigned)vector, false);
    return true;
}

/* V_IRQ: of the VMCB, so what VMRUN found there is all that can be asked for. */
static bool take_virtual(X86Cpu *cpu)
{
    clear_request(cpu, VCPU_REQ_VIRQ);
    if (!leave_for(cpu, SVM_EXIT_VINTR, 0)) {
        cpu->svm.v_irq = false;
        x86_deliver_interrupt(cpu, cpu->svm.v_vector, false);
    }
    return true;
}

static bool take_debug(X86Cpu *cpu)
{
    clear_request(cpu, VCPU_REQ_DEBUG);
    uint64_t bits = cpu->debug_pending;
    if (!bits) {
        return false;
    }
    cpu->debug_pending = 0;
    cpu->fault.vector = EXC_DB;
    cpu->fault.has_error = cpu->fault.soft = cpu->fault.is_int = false;
    cpu->fault.dr6 = bits;
    x86_deliver_fault(cpu);
    return true;
}

static bool take_machine_check(X86Cpu *cpu)
{
    clear_request(cpu, VCPU_REQ_MCE);
    if (!(cpu->cr4 & CR4_MCE) || (cpu->mcg_status & 4)) {
        cpu->shutdown = true;
        cpu->vcpu->halted = true;
        if (cpu->vcpu->machine) {
            machine_request_reset(cpu->vcpu->machine, SHUTDOWN_GUEST_RESET);
        }
        return true;
    }
    cpu->mcg_status |= 4;
    cpu->vcpu->halted = false;
    cpu->fault.vector = EXC_MC;
    cpu->fault.has_error = cpu->fault.soft = cpu->fault.is_int = false;
    x86_deliver_fault(cpu);
    return true;
}

/* Requests that stop the normal flow whatever the flags say. */
static bool take_system(X86Cpu *cpu, uint32_t requests)
{
    if (requests & VCPU_REQ_TLB) {
        clear_request(cpu, VCPU_REQ_TLB);
        x86_mmu_map_changed(cpu);
    }
    if (requests & VCPU_REQ_TIMER) {
        clear_request(cpu, VCPU_REQ_TIMER);
    }
    if (requests & VCPU_REQ_MCE) {
        return take_machine_check(cpu);
    }
    if ((requests & VCPU_REQ_SMI) && cpu->int_shadow == 0) {
        clear_request(cpu, VCPU_REQ_SMI);
        if (!leave_for(cpu, SVM_EXIT_SMI, VCPU_REQ_SMI)) {
            x86_smi_enter(cpu);
        }
        return true;
    }
    if (requests & VCPU_REQ_INIT) {
        if (!leave_for(cpu, SVM_EXIT_INIT, VCPU_REQ_INIT)) {
            take_init(cpu);
        }
        return true;
    }
    if (requests & VCPU_REQ_SIPI) {
        clear_request(cpu, VCPU_REQ_SIPI);
        if (cpu->in_wait_for_sipi) {
            take_sipi(cpu);
            x86_release_requests(cpu);
            return true;
        }
    }
    return false;
}

static bool take_nmi(X86Cpu *cpu)
{
    if (leave_for(cpu, SVM_EXIT_NMI, VCPU_REQ_NMI)) {
        return true;
    }
    clear_request(cpu, VCPU_REQ_NMI);
    if (atomic_exchange(&cpu->nmi_again, false)) {
        atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_NMI);
    }
    x86_deliver_interrupt(cpu, EXC_NMI, true);
    return true;
}

static bool take_events(X86Cpu *cpu)
{
    uint32_t requests = atomic_load(&x86_hot(cpu)->exit_req); /* one that comes from now on is seen by the next look */
    uint32_t blocked = requests & x86_blocked_requests(cpu);
    if (blocked) {
        hold(cpu, blocked);
        requests &= ~blocked;
    }
    if (take_system(cpu, requests)) {
        return true;
    }
    if (cpu->in_wait_for_sipi || cpu->int_shadow) {
        return false;
    }
    if ((requests & VCPU_REQ_DEBUG) && take_debug(cpu)) {
        return true;
    }
    if (requests & VCPU_REQ_NMI) {
        return take_nmi(cpu);
    }
    if ((requests & IRQ_REQUESTS) && take_interrupt(cpu)) {
        return true;
    }
    return (requests & VCPU_REQ_VIRQ) && take_virtual(cpu);
}

bool x86_take_events(X86Cpu *cpu)
{
    bool moved = take_events(cpu);
    if (moved && cpu->counted) {
        icount_note_event(cpu->vcpu);
    }
    return moved;
}

static bool has_work(X86Cpu *cpu)
{
    uint32_t requests = (atomic_load(&x86_hot(cpu)->exit_req) | cpu->held) & ~x86_blocked_requests(cpu);
    if (requests & (VCPU_REQ_NMI | VCPU_REQ_SMI | VCPU_REQ_INIT | VCPU_REQ_MCE | VCPU_REQ_VIRQ)) {
        return true;
    }
    if (cpu->in_wait_for_sipi) {
        return requests & VCPU_REQ_SIPI;
    }
    X86Apic *apic = cpu->apic;
    return (requests & IRQ_REQUESTS) && apic && apic->ops->pending(apic);
}

bool x86_has_work(X86Cpu *cpu)
{
    bool work = has_work(cpu);
    if (work) {
        x86_release_requests(cpu);
    }
    return work;
}
