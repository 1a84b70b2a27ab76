/*
 * Machine checks that somebody makes up (the monitor's mce): logged in a bank's registers and, when they are uncorrected, told
 * to the CPU by #MC. Intel SDM volume 3, 16.3: MCi_CTL, MCi_STATUS with VAL, OVER, UC, EN; MCG_STATUS.MCIP.
 */
#include "cpu/x86/mce.h"

#include "cpu/x86/sys.h"

#define STATUS_VAL  BIT64(63)
#define STATUS_OVER BIT64(62)
#define STATUS_UC   BIT64(61)
#define MCG_MCIP    BIT64(2)
enum { BANK_CTL, BANK_STATUS, BANK_ADDR, BANK_MISC, BANK_REGS };

Error *x86_mce_check(Vcpu *vcpu, const X86MachineCheck *mce)
{
    const X86Cpu *cpu = x86_cpu_of(vcpu);
    unsigned banks = ARRAY_SIZE(cpu->mc_banks) / BANK_REGS;

    if (!x86_has(cpu, X86_FEAT_1_EDX, 7) || !x86_has(cpu, X86_FEAT_1_EDX, 14)) {
        return error_new("CPU %u has no machine checks (mce, mca)", vcpu->index);
    }
    if (mce->bank >= banks) {
        return error_new("bank %" G_GUINT64_FORMAT ": the banks count from 0 to %u", mce->bank, banks - 1);
    }
    return mce->status & STATUS_VAL ? NULL : error_new("status 0x%" G_GINT64_MODIFIER "x: bit 63 (VAL) says that it is one, and is clear",
                                                       mce->status);
}

static void log_in(uint64_t *bank, const X86MachineCheck *mce)
{
    bool second = (bank[BANK_STATUS] & STATUS_VAL) != 0;

    bank[BANK_ADDR] = mce->addr;
    bank[BANK_MISC] = mce->misc;
    bank[BANK_STATUS] = mce->status | (second ? STATUS_OVER : 0);
}

void x86_mce_inject(Vcpu *vcpu, const X86MachineCheck *mce)
{
    X86Cpu *cpu = x86_cpu_of(vcpu);
    uint64_t *bank = &cpu->mc_banks[mce->bank * BANK_REGS];

    if (!(mce->status & STATUS_UC)) {
        /* A corrected error takes nothing away from an uncorrected one. */
        if (bank[BANK_STATUS] & STATUS_VAL && bank[BANK_STATUS] & STATUS_UC) {
            bank[BANK_STATUS] |= STATUS_OVER;
        } else {
            log_in(bank, mce);
        }
        return;
    }
    if (cpu->mcg_ctl != UINT64_MAX || bank[BANK_CTL] != UINT64_MAX) {
        return; /* the guest wants none of this kind */
    }
    /* MCIP is set by the exception; one in progress makes this one fatal. */
    cpu->mcg_status = (mce->mcg_status & ~MCG_MCIP) | (cpu->mcg_status & MCG_MCIP);
    log_in(bank, mce);
    vcpu_kick(vcpu, VCPU_REQ_MCE);
}
