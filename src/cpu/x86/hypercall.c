/*
 * VMCALL and VMMCALL outside of a nested guest: a guest that CPUID tells of a hypervisor may call it.
 * Numbers, registers and errors are those of Linux's KVM (Documentation/virt/kvm/x86/hypercalls.rst), which
 * operating systems and tests know: RAX number and result; RBX, RCX, RDX, RSI arguments.
 *
 * Without a hypervisor bit both are #UD. Of the calls there are those that mean something here: polling for
 * interrupts and sending IPIs; the others give ENOSYS.
 */
#include "cpu/x86/apic.h"
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/sys.h"

enum { CALL_VAPIC_POLL_IRQ = 1, CALL_SEND_IPI = 10 };
enum { HYPERCALL_EPERM = -1, HYPERCALL_ENOSYS = -1000 };

/* The bits of RBX and RCX stand for APIC ids from RDX on; RSI is the low half of an ICR. Returns how many got it. */
static int64_t send_ipi(X86Cpu *cpu, const uint64_t args[4], bool wide)
{
    X86Apic *apic = cpu->apic;
    unsigned bits = wide ? 64 : 32;
    int64_t count = 0;
    for (unsigned n = 0; apic && n < 2 * bits; n++) {
        uint64_t dest = (uint32_t)args[2] + (uint64_t)n;
        if ((args[n / bits] >> n % bits & 1) && dest < UINT32_MAX) {
            count += apic->ops->send(apic, (uint32_t)dest, (uint32_t)args[3]);
        }
    }
    return count;
}

static int64_t hypercall(X86Cpu *cpu, uint64_t number, const uint64_t args[4], bool wide)
{
    if (cpu->cpl != 0) {
        return HYPERCALL_EPERM;
    }
    switch (number) {
    case CALL_VAPIC_POLL_IRQ:
        return 0;
    case CALL_SEND_IPI:
        return send_ipi(cpu, args, wide);
    default:
        return HYPERCALL_ENOSYS;
    }
}

static void call(X86Cpu *cpu)
{
    static const uint8_t order[4] = { X86_RBX, X86_RCX, X86_RDX, X86_RSI };
    if (!x86_has(cpu, X86_FEAT_1_ECX, 31) || real_or_vm86(cpu)) {
        x86_ud(cpu);
    }
    bool wide = mode64(cpu);
    unsigned size = wide ? 8 : 4;
    uint64_t args[4];
    for (unsigned i = 0; i < 4; i++) {
        args[i] = gpr_read(cpu, order[i], size);
    }
    gpr_write(cpu, X86_RAX, (uint64_t)hypercall(cpu, gpr_read(cpu, X86_RAX, size), args, wide), size);
}

void x86_op_vmcall(X86Cpu *cpu, const X86Insn *insn)
{
    call(cpu);
}

void x86_op_vmmcall(X86Cpu *cpu, const X86Insn *insn)
{
    call(cpu);
}
