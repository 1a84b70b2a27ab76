/* Machine checks that somebody makes up. */
#ifndef OSTRICH_CPU_X86_MCE_H
#define OSTRICH_CPU_X86_MCE_H

#include "cpu/x86/cpu.h"

typedef struct X86MachineCheck {
    guint64 bank, status, mcg_status, addr, misc; /* as the registers have them */
} X86MachineCheck;

/* Whether the CPU can have it. */
Error *x86_mce_check(Vcpu *vcpu, const X86MachineCheck *mce) MUST_USE;
/* While the CPUs stand still; one that x86_mce_check() let pass. */
void x86_mce_inject(Vcpu *vcpu, const X86MachineCheck *mce);

#endif
