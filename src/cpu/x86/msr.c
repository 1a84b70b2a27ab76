/*
 * Model-specific registers. Intel SDM volume 4; AMD64 manual volume 2, appendix A.
 *
 * A register that a CPU of this kind does not have raises #GP, as on hardware: operating systems probe that
 * way. Machine checks, performance counters and power management keep what is written to them.
 */
#include <inttypes.h>

#include "base/log.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/mtrr.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"
#include "cpu/x86/tsc.h"

enum {
    MSR_P5_MC_ADDR = 0, MSR_P5_MC_TYPE = 1, MSR_TSC = 0x10, MSR_PLATFORM_ID = 0x17, MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a, MSR_FEATURE_CONTROL = 0x3a, MSR_TSC_ADJUST = 0x3b, MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49, MSR_BIOS_UPDT_TRIG = 0x79, MSR_BIOS_SIGN_ID = 0x8b, MSR_SMBASE = 0x9e,
    MSR_FSB_FREQ = 0xcd, MSR_PLATFORM_INFO = 0xce, MSR_PKG_CST = 0xe2, MSR_MPERF = 0xe7,
    MSR_APERF = 0xe8, MSR_ARCH_CAPABILITIES = 0x10a, MSR_FLUSH_CMD = 0x10b, MSR_BBL_CR_CTL3 = 0x11e,
    MSR_TSX_CTRL = 0x122, MSR_MISC_FEATURES = 0x140, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176, MSR_MCG_CAP = 0x179, MSR_MCG_STATUS = 0x17a, MSR_MCG_CTL = 0x17b,
    MSR_PERF_STATUS = 0x198, MSR_PERF_CTL = 0x199, MSR_CLOCK_MODULATION = 0x19a,
    MSR_THERM_INTERRUPT = 0x19b, MSR_THERM_STATUS = 0x19c, MSR_THERM2_CTL = 0x19d, MSR_MISC_ENABLE = 0x1a0,
    MSR_TEMPERATURE_TARGET = 0x1a2, MSR_TURBO_RATIO_LIMIT = 0x1ad, MSR_ENERGY_PERF_BIAS = 0x1b0,
    MSR_DEBUGCTL = 0x1d9, MSR_LAST_BRANCH_FROM = 0x1db, MSR_POWER_CTL = 0x1fc, MSR_PAT = 0x277,
    MSR_PERF_CAPABILITIES = 0x345,
    MSR_MC0_CTL = 0x400, MSR_MC_BANKS = 10, MSR_RAPL_UNIT = 0x606, MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC = 0x800, MSR_X2APIC_LAST = 0x8ff, MSR_PKRS = 0x6e1, MSR_XSS = 0xda0,
};
enum {
    MSR_EFER = 0xc0000080u, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK,
    MSR_FS_BASE = 0xc0000100u, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX,
    MSR_AMD64_SYSCFG = 0xc0010010u, MSR_HWCR = 0xc0010015u, MSR_IORR_FIRST = 0xc0010016u,
    MSR_TOM2 = 0xc001001du, MSR_AMD_NB_CFG = 0xc001001fu, MSR_AMD_PATCH_LEVEL = 0xc0010020u,
    MSR_INT_PENDING = 0xc0010055u, MSR_VM_CR = 0xc0010114u, MSR_VM_HSAVE_PA = 0xc0010117u,
    MSR_AMD_OSVW_FIRST = 0xc0010140u, MSR_AMD_OSVW_STATUS = 0xc0010141u, MSR_AMD_DE_CFG = 0xc0011029u,
    MSR_AMD_DC_CFG = 0xc0011022u, MSR_AMD_BU_CFG2 = 0xc001102au, MSR_AMD_IC_CFG = 0xc0011021u,
};

enum { MCG_CAP = 0x100 | MSR_MC_BANKS, TSC_RATIO_SHIFT = 8 };

static bool is_amd(const X86Cpu *cpu)
{
    return strcmp(cpu->vendor, "AuthenticAMD") == 0 || strcmp(cpu->vendor, "HygonGenuine") == 0;
}

/* --- EFER --- */

uint64_t x86_efer_allowed(const X86Cpu *cpu)
{
    uint64_t allowed = 0;
    allowed |= x86_has(cpu, X86_FEAT_8000_0001_EDX, 11) ? EFER_SCE : 0;
    allowed |= x86_has(cpu, X86_FEAT_8000_0001_EDX, 29) ? EFER_LME | EFER_LMA : 0;
    allowed |= x86_has(cpu, X86_FEAT_8000_0001_EDX, 20) ? EFER_NXE : 0;
    allowed |= x86_has(cpu, X86_FEAT_8000_0001_ECX, 2) && !(cpu->vm_cr & BIT(4)) ? EFER_SVME : 0;
    allowed |= x86_has(cpu, X86_FEAT_8000_0001_EDX, 25) ? EFER_FFXSR : 0;
    return allowed;
}

static bool write_efer(X86Cpu *cpu, uint64_t value)
{
    uint64_t allowed = x86_efer_allowed(cpu);
    if (!allowed || (value & ~allowed)) {
        return false;
    }
    if ((cpu->cr0 & CR0_PG) && ((value ^ cpu->efer) & EFER_LME)) {
        return false;
    }
    uint64_t old = cpu->efer;
    cpu->efer = (value & ~(uint64_t)EFER_LMA) | (old & EFER_LMA);
    if ((old ^ cpu->efer) & EFER_NXE) {
        x86_tlb_flush_all(cpu);
    }
    x86_mode_changed(cpu);
    return true;
}

/* --- groups --- */

static bool syscall_read(const X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    bool lm = x86_has(cpu, X86_FEAT_8000_0001_EDX, 29);
    switch (index) {
    case MSR_EFER:
        *ret_value = cpu->efer;
        return lm || x86_has(cpu, X86_FEAT_8000_0001_EDX, 11) || x86_has(cpu, X86_FEAT_8000_0001_EDX, 20);
    case MSR_STAR:
        *ret_value = cpu->star;
        return lm || x86_has(cpu, X86_FEAT_8000_0001_EDX, 11);
    case MSR_LSTAR:
        *ret_value = cpu->lstar;
        return lm;
    case MSR_CSTAR:
        *ret_value = cpu->cstar;
        return lm;
    case MSR_SFMASK:
        *ret_value = cpu->sfmask;
        return lm;
    case MSR_FS_BASE:
        *ret_value = cpu->seg[X86_FS].base;
        return lm;
    case MSR_GS_BASE:
        *ret_value = cpu->seg[X86_GS].base;
        return lm;
    case MSR_KERNEL_GS_BASE:
        *ret_value = cpu->kernel_gs_base;
        return lm;
    case MSR_TSC_AUX:
        *ret_value = cpu->tsc_aux;
        return x86_has(cpu, X86_FEAT_8000_0001_EDX, 27) || x86_has(cpu, X86_FEAT_7_ECX, 22);
    }
    return false;
}

static bool syscall_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t ignored;
    if (!syscall_read(cpu, index, &ignored)) {
        return false;
    }
    switch (index) {
    case MSR_EFER:
        return write_efer(cpu, value);
    case MSR_STAR:
        cpu->star = value;
        return true;
    case MSR_SFMASK:
        cpu->sfmask = (uint32_t)value;
        return true;
    case MSR_TSC_AUX:
        cpu->tsc_aux = value;
        return !(value >> 32);
    }
    if (!x86_canonical_widest(cpu, value)) {
        return false;
    }
    switch (index) {
    case MSR_LSTAR:
        cpu->lstar = value;
        break;
    case MSR_CSTAR:
        cpu->cstar = value;
        break;
    case MSR_FS_BASE:
        cpu->seg[X86_FS].base = x86_hot(cpu)->fs_base = value;
        break;
    case MSR_GS_BASE:
        cpu->seg[X86_GS].base = x86_hot(cpu)->gs_base = value;
        break;
    case MSR_KERNEL_GS_BASE:
        cpu->kernel_gs_base = value;
        break;
    }
    return true;
}

static bool sysenter_access(X86Cpu *cpu, uint32_t index, uint64_t *value, bool write)
{
    uint64_t *slot = index == MSR_SYSENTER_CS    ? &cpu->sysenter_cs
                     : index == MSR_SYSENTER_ESP ? &cpu->sysenter_esp
                                                 : &cpu->sysenter_eip;
    if (!x86_has(cpu, X86_FEAT_1_EDX, 11)) {
        return false;
    }
    if (!write) {
        *value = *slot;
        return true;
    }
    bool lm = x86_has(cpu, X86_FEAT_8000_0001_EDX, 29);
    if (index == MSR_SYSENTER_CS) {
        *slot = *value & 0xffff;
        return true;
    }
    if (lm && !x86_canonical_widest(cpu, *value)) {
        return false;
    }
    *slot = lm ? *value : (uint32_t)*value;
    return true;
}

/* Machine-check banks: what hardware logged is cleared by writing 0. */
static bool mce_access(X86Cpu *cpu, uint32_t index, uint64_t *value, bool write)
{
    if (!x86_has(cpu, X86_FEAT_1_EDX, 14)) {
        return false;
    }
    uint64_t *slot;
    if (index == MSR_MCG_CAP) {
        if (!write) {
            *value = MCG_CAP;
        }
        return !write;
    }
    if (index == MSR_MCG_STATUS) {
        slot = &cpu->mcg_status;
    } else if (index == MSR_MCG_CTL) {
        slot = &cpu->mcg_ctl;
    } else if (index >= MSR_MC0_CTL && index < MSR_MC0_CTL + 4 * MSR_MC_BANKS) {
        slot = &cpu->mc_banks[index - MSR_MC0_CTL];
        unsigned which = index & 3;
        bool all = (*value | BIT(10)) == ~0ull; /* systems clear bit 10 of bank 4 on AMD family 15 */
        if (write && *value != 0 && ((which == 0 && !all) || which == 1)) {
            return false;
        }
    } else {
        return false;
    }
    if (write) {
        *slot = *value;
    } else {
        *value = *slot;
    }
    return true;
}

/*
 * Performance counters: CPUID leaf 10 announces none. AMD's first four exist on every processor; here they
 * read as 0 and ignore writes, which is how systems recognize counters that do not count.
 */
static bool perf_access(X86Cpu *cpu, uint32_t index, uint64_t *value, bool write)
{
    bool amd = index >= 0xc0010000u && index < 0xc0010008u && is_amd(cpu);
    if (amd && !write) {
        *value = 0;
    }
    return amd;
}

static uint64_t platform_info(X86Cpu *cpu)
{
    uint64_t ratio = x86_tsc_hz(cpu) / 100000000;
    return ratio << TSC_RATIO_SHIFT | ratio << 40 | BIT64(31);
}

static bool speculation_read(const X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    bool intel = x86_has(cpu, X86_FEAT_7_EDX, 26);
    switch (index) {
    case MSR_SPEC_CTRL:
        *ret_value = cpu->spec_ctrl;
        return intel || (cpu->features[X86_FEAT_8000_0008_EBX] & (BIT(14) | BIT(15) | BIT(24)));
    case MSR_ARCH_CAPABILITIES:
        *ret_value = cpu->features[X86_FEAT_ARCH_CAPS];
        return x86_has(cpu, X86_FEAT_7_EDX, 29);
    case MSR_TSX_CTRL:
        *ret_value = cpu->tsx_ctrl;
        return x86_has(cpu, X86_FEAT_7_EDX, 29) && (cpu->features[X86_FEAT_ARCH_CAPS] & BIT(7));
    }
    return false;
}

static bool speculation_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t old;
    bool barrier = x86_has(cpu, X86_FEAT_7_EDX, 26) || x86_has(cpu, X86_FEAT_8000_0008_EBX, 12);
    switch (index) {
    case MSR_SPEC_CTRL:
        if (!speculation_read(cpu, index, &old) || (value & ~7ull)) {
            return false;
        }
        cpu->spec_ctrl = value;
        return true;
    case MSR_PRED_CMD:
        return barrier && !(value & ~1ull);
    case MSR_FLUSH_CMD:
        return x86_has(cpu, X86_FEAT_7_EDX, 28) && !(value & ~1ull);
    case MSR_TSX_CTRL:
        if (!speculation_read(cpu, index, &old)) {
            return false;
        }
        cpu->tsx_ctrl = value & 3;
        return true;
    }
    return false;
}

/* Intel registers without behaviour of their own. */
static bool intel_read(X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    switch (index) {
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_PLATFORM_ID:
    case MSR_PKG_CST:
    case MSR_THERM_STATUS:
    case MSR_CLOCK_MODULATION:
    case MSR_PERF_CAPABILITIES:
        *ret_value = 0;
        return true;
    case MSR_LAST_BRANCH_FROM:
        *ret_value = cpu->branch.from;
        return true;
    case MSR_LAST_BRANCH_FROM + 1:
        *ret_value = cpu->branch.to;
        return true;
    case MSR_LAST_BRANCH_FROM + 2:
        *ret_value = cpu->branch.int_from;
        return true;
    case MSR_LAST_BRANCH_FROM + 3:
        *ret_value = cpu->branch.int_to;
        return true;
    case MSR_EBL_CR_POWERON:
        *ret_value = 0;
        return true;
    case MSR_FSB_FREQ:
        *ret_value = 0x3; /* 166 MHz */
        return true;
    case MSR_PLATFORM_INFO:
        *ret_value = platform_info(cpu);
        return true;
    case MSR_MISC_FEATURES:
        *ret_value = cpu->misc_features;
        return true;
    case MSR_BBL_CR_CTL3:
        *ret_value = 0xbe702111;
        return true;
    case MSR_PERF_STATUS: /* current ratio and voltage, in AMD-K7 and Intel formats */
        *ret_value = 1000ull | (uint64_t)4 << 40;
        return true;
    case MSR_PERF_CTL:
        *ret_value = 0;
        return true;
    case MSR_THERM_INTERRUPT:
        *ret_value = cpu->therm_interrupt;
        return true;
    case MSR_THERM2_CTL:
        *ret_value = cpu->therm2;
        return true;
    case MSR_MISC_ENABLE:
        *ret_value = cpu->misc_enable;
        return true;
    case MSR_POWER_CTL:
        *ret_value = cpu->power_ctl;
        return true;
    case MSR_FEATURE_CONTROL:
        *ret_value = cpu->feature_control;
        return x86_has(cpu, X86_FEAT_1_ECX, 5) || x86_has(cpu, X86_FEAT_1_ECX, 6);
    }
    return false;
}

static bool intel_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    switch (index) {
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_BIOS_UPDT_TRIG: /* microcode loads have no effect */
    case MSR_PERF_CTL:
    case MSR_CLOCK_MODULATION:
    case MSR_THERM_STATUS:
    case MSR_PKG_CST:
    case MSR_EBL_CR_POWERON:
    case MSR_BBL_CR_CTL3:
        return true;
    case MSR_MISC_FEATURES:
        cpu->misc_features = value;
        return (value & ~1ull) == 0;
    case MSR_THERM_INTERRUPT:
        cpu->therm_interrupt = value;
        return true;
    case MSR_THERM2_CTL:
        cpu->therm2 = value;
        return true;
    case MSR_MISC_ENABLE:
        cpu->misc_enable = value;
        return true;
    case MSR_POWER_CTL:
        cpu->power_ctl = value;
        return true;
    case MSR_FEATURE_CONTROL:
        if (cpu->feature_control & 1) { /* locked */
            return false;
        }
        cpu->feature_control = value;
        return x86_has(cpu, X86_FEAT_1_ECX, 5) || x86_has(cpu, X86_FEAT_1_ECX, 6);
    }
    return false;
}

enum { VM_CR_SVMDIS = BIT(4), VM_CR_LOCK = BIT(3), VM_CR_ALL = 0x1f };

static bool has_svm(const X86Cpu *cpu)
{
    return x86_has(cpu, X86_FEAT_8000_0001_ECX, 2);
}

static bool vm_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    if (!has_svm(cpu)) {
        return false;
    }
    if (index == MSR_VM_HSAVE_PA) {
        bool valid = !(value & 0xfff) && !(value & ~cpu->phys_mask);
        cpu->vm_hsave_pa = valid ? value : cpu->vm_hsave_pa;
        return valid;
    }
    uint64_t locked = cpu->vm_cr & VM_CR_LOCK ? VM_CR_LOCK | VM_CR_SVMDIS : 0;
    if ((value & ~(uint64_t)VM_CR_ALL) || ((value & VM_CR_SVMDIS & ~locked) && (cpu->efer & EFER_SVME))) {
        return false;
    }
    cpu->vm_cr = (value & ~locked) | (cpu->vm_cr & locked);
    return true;
}

static bool amd_read(X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    switch (index) {
    case MSR_AMD64_SYSCFG:
    case MSR_HWCR:
        *ret_value = index == MSR_HWCR ? BIT(24) : 0; /* TSC runs at the P0 rate */
        return true;
    case MSR_AMD_PATCH_LEVEL:
    case MSR_AMD_NB_CFG:
    case MSR_INT_PENDING:
    case MSR_TOM2:
    case MSR_AMD_OSVW_FIRST:
    case MSR_AMD_OSVW_STATUS:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG2:
    case MSR_AMD_IC_CFG:
        *ret_value = 0;
        return is_amd(cpu);
    case MSR_AMD_DE_CFG:
        *ret_value = BIT(1); /* LFENCE serializes */
        return is_amd(cpu);
    case MSR_VM_CR:
        *ret_value = has_svm(cpu) ? cpu->vm_cr : VM_CR_SVMDIS;
        return has_svm(cpu) || is_amd(cpu);
    case MSR_VM_HSAVE_PA:
        *ret_value = cpu->vm_hsave_pa;
        return has_svm(cpu);
    }
    return is_amd(cpu) && index >= MSR_IORR_FIRST && index < MSR_IORR_FIRST + 8 && (*ret_value = 0, true);
}

static bool amd_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t old;
    if (index == MSR_VM_HSAVE_PA || index == MSR_VM_CR) {
        return vm_write(cpu, index, value);
    }
    return amd_read(cpu, index, &old);
}

/* --- RDMSR --- */

static bool apic_base_read(X86Cpu *cpu, uint64_t *ret_value)
{
    X86Apic *apic = cpu->apic;
    *ret_value = apic ? apic->ops->get_base(apic) : cpu->apic_base;
    return x86_has(cpu, X86_FEAT_1_EDX, 9);
}

static bool read_msr(X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    X86Apic *apic = cpu->apic;
    switch (index) {
    case MSR_TSC:
        *ret_value = x86_tsc(cpu);
        return x86_has(cpu, X86_FEAT_1_EDX, 4);
    case MSR_TSC_ADJUST:
        *ret_value = cpu->tsc_adjust;
        return x86_has(cpu, X86_FEAT_7_EBX, 1);
    case MSR_TSC_DEADLINE:
        *ret_value = cpu->tsc_deadline;
        return x86_has(cpu, X86_FEAT_1_ECX, 24);
    case MSR_APIC_BASE:
        return apic_base_read(cpu, ret_value);
    case MSR_BIOS_SIGN_ID:
        *ret_value = is_amd(cpu) ? 0x01000065 : 0x100000000ull;
        return true;
    case MSR_SMBASE:
        *ret_value = cpu->smbase;
        return cpu->smm;
    case MSR_PAT:
        *ret_value = cpu->pat;
        return x86_has(cpu, X86_FEAT_1_EDX, 16);
    case MSR_DEBUGCTL:
        *ret_value = cpu->branch.control;
        return true;
    case MSR_XSS:
        *ret_value = cpu->xss;
        return x86_has(cpu, X86_FEAT_D_1_EAX, 3);
    case MSR_PKRS:
        *ret_value = cpu->pkrs;
        return x86_has(cpu, X86_FEAT_7_ECX, 31);
    case MSR_SPEC_CTRL:
    case MSR_ARCH_CAPABILITIES:
    case MSR_TSX_CTRL:
        return speculation_read(cpu, index, ret_value);
    case MSR_SYSENTER_CS:
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
        return sysenter_access(cpu, index, ret_value, false);
    case MSR_MPERF:
    case MSR_APERF:
        *ret_value = x86_tsc(cpu);
        return x86_has(cpu, X86_FEAT_6_EAX, 0);
    }
    if (index >= MSR_X2APIC && index <= MSR_X2APIC_LAST) {
        return apic && apic->ops->msr_read(apic, index, ret_value);
    }
    return syscall_read(cpu, index, ret_value) || x86_mtrr_read(cpu, index, ret_value) ||
           mce_access(cpu, index, ret_value, false) || intel_read(cpu, index, ret_value) ||
           amd_read(cpu, index, ret_value) || perf_access(cpu, index, ret_value, false);
}

void x86_rdmsr(X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    uint64_t value = 0;
    if (!read_msr(cpu, index, &value)) {
        log_unimp("RDMSR of %#x at %#" PRIx64 "\n", index, x86_hot(cpu)->rip);
        x86_gp(cpu, 0);
    }
    *ret_value = value;
}

/* --- WRMSR --- */

static bool apic_base_write(X86Cpu *cpu, uint64_t value)
{
    X86Apic *apic = cpu->apic;
    if (!x86_has(cpu, X86_FEAT_1_EDX, 9)) {
        return false;
    }
    if (!apic) {
        cpu->apic_base = value;
        return true;
    }
    return apic->ops->set_base(apic, value);
}

static bool write_msr(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    X86Apic *apic = cpu->apic;
    switch (index) {
    case MSR_TSC:
        x86_tsc_write(cpu, value);
        return x86_has(cpu, X86_FEAT_1_EDX, 4);
    case MSR_TSC_ADJUST:
        if (x86_has(cpu, X86_FEAT_7_EBX, 1)) {
            x86_tsc_write_adjust(cpu, value);
            return true;
        }
        return false;
    case MSR_TSC_DEADLINE:
        if (!x86_has(cpu, X86_FEAT_1_ECX, 24)) {
            return false;
        }
        cpu->tsc_deadline = value;
        if (apic && apic->ops->set_tsc_deadline) {
            apic->ops->set_tsc_deadline(apic, value);
        }
        return true;
    case MSR_APIC_BASE:
        return apic_base_write(cpu, value);
    case MSR_BIOS_SIGN_ID:
        return true;
    case MSR_PAT:
        if (!x86_has(cpu, X86_FEAT_1_EDX, 16) || !x86_pat_valid(value)) {
            return false;
        }
        cpu->pat = value;
        return true;
    case MSR_DEBUGCTL:
        cpu->branch.control = value & ~2ull; /* BTF: single-steps are of instructions, not of branches */
        x86_mode_changed(cpu);
        return true;
    case MSR_XSS:
        return x86_has(cpu, X86_FEAT_D_1_EAX, 3) && !(value & ~x86_xss_supported(cpu)) &&
               (cpu->xss = value, true);
    case MSR_PKRS:
        if (!x86_has(cpu, X86_FEAT_7_ECX, 31) || value >> 32) {
            return false;
        }
        cpu->pkrs = value;
        x86_tlb_drop_rights(cpu);
        return true;
    case MSR_SPEC_CTRL:
    case MSR_PRED_CMD:
    case MSR_FLUSH_CMD:
    case MSR_TSX_CTRL:
        return speculation_write(cpu, index, value);
    case MSR_SYSENTER_CS:
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
        return sysenter_access(cpu, index, &value, true);
    case MSR_MPERF:
    case MSR_APERF:
        return x86_has(cpu, X86_FEAT_6_EAX, 0);
    }
    if (index >= MSR_X2APIC && index <= MSR_X2APIC_LAST) {
        return apic && apic->ops->msr_write(apic, index, value);
    }
    return syscall_write(cpu, index, value) || x86_mtrr_write(cpu, index, value) ||
           mce_access(cpu, index, &value, true) || intel_write(cpu, index, value) ||
           amd_write(cpu, index, value) || perf_access(cpu, index, &value, true);
}

void x86_wrmsr(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    if (!write_msr(cpu, index, value)) {
        log_unimp("WRMSR of %#x with %#" PRIx64 " at %#" PRIx64 "\n", index, value, x86_hot(cpu)->rip);
        x86_gp(cpu, 0);
    }
}
