/*
 * Instructions that a hypervisor may have asked to see, in a guest of SVM. AMD64 manual volume 2, 15.8 to 15.15:
 * CPUID features and privilege were checked before (interp.c), memory operands were not touched yet.
 */
#include "cpu/x86/svm.h"

#include "base/bits.h"
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/sys.h"

#define INFO_MOV_CR BIT64(63) /* the instruction was MOV: the low bits are its general register */

static bool decodes(const X86Cpu *cpu)
{
    return x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_DECODE);
}

static void intercept(X86Cpu *cpu, unsigned code, uint64_t info1, uint64_t info2)
{
    if (x86_svm_intercepts(cpu, code)) {
        x86_svm_exit(cpu, code, info1, info2, cpu->next_rip);
    }
}

/* --- those that need more than a look at their bit --- */

/* A write of CR0 that changes more than TS and MP. */
static bool selective(const X86Cpu *cpu, uint64_t value)
{
    return (value ^ cpu->cr0) & ~(uint64_t)(CR0_TS | CR0_MP);
}

static void check_mov_to_cr(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned n = insn->operand[0].reg & 15;
    uint64_t info = decodes(cpu) ? INFO_MOV_CR | insn->operand[1].reg : 0;
    uint64_t value = reg_read(cpu, &insn->operand[1], insn->operand[1].size);
    if (n == 0 && ((value >> 32) || ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))) {
        x86_gp(cpu, 0); /* before the intercept */
    }
    intercept(cpu, SVM_EXIT_CR_WRITE + n, info, 0);
    if (n == 0 && selective(cpu, value)) {
        intercept(cpu, SVM_EXIT_CR0_SELECTIVE, info, 0);
    }
}

static void check_mov_from_cr(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t info = decodes(cpu) ? INFO_MOV_CR | insn->operand[0].reg : 0;
    intercept(cpu, SVM_EXIT_CR_READ + (insn->operand[1].reg & 15), info, 0);
}

static void check_mov_dr(X86Cpu *cpu, const X86Insn *insn, bool write)
{
    unsigned n = insn->operand[write ? 0 : 1].reg & 15;
    uint64_t info = decodes(cpu) ? insn->operand[write ? 1 : 0].reg : 0;
    intercept(cpu, (write ? SVM_EXIT_DR_WRITE : SVM_EXIT_DR_READ) + n, info, 0);
}

/* To LMSW the selective intercept is one of any value. */
static void check_lmsw(X86Cpu *cpu)
{
    intercept(cpu, SVM_EXIT_CR_WRITE, 0, 0);
    intercept(cpu, SVM_EXIT_CR0_SELECTIVE, 0, 0);
}

static void check_msr(X86Cpu *cpu, bool write)
{
    static const uint32_t first[] = { 0, 0xc0000000, 0xc0010000 };
    if (!x86_svm_intercepts(cpu, SVM_EXIT_MSR)) {
        return;
    }
    uint32_t index = (uint32_t)x86_gpr(cpu)[X86_RCX];
    for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
        uint32_t bit = 2 * (index - first[i]) + write;
        if (index - first[i] < 0x2000) {
            if (!(x86_phys_load(cpu, cpu->svm.msrpm + 0x800 * i + bit / 8, 1) >> (bit & 7) & 1)) {
                return;
            }
            break;
        }
    }
    x86_svm_exit(cpu, SVM_EXIT_MSR, write, 0, cpu->next_rip);
}

static uint64_t invlpg_address(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t va = x86_ea_offset(cpu, insn);
    if (mode64(cpu)) {
        return insn->seg == X86_FS || insn->seg == X86_GS ? va + cpu->seg[insn->seg].base : va;
    }
    return (uint32_t)(va + cpu->seg[insn->seg].base);
}

/*
 * Each PAUSE counts down; one long after the last begins anew. How long, the guest says in cycles of a processor; its code takes
 * a multiple of them here, most in the interpreter.
 */
static void check_pause(X86Cpu *cpu)
{
    X86Svm *svm = &cpu->svm;
    if (!x86_svm_intercepts(cpu, SVM_EXIT_PAUSE)) {
        return;
    }
    if (svm->pause_count && x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_PAUSE)) {
        enum { SLOWER = 32 };
        uint64_t now = x86_tsc(cpu);
        if (svm->pause_threshold && now - svm->pause_last > (uint64_t)svm->pause_threshold * SLOWER) {
            svm->pause_left = svm->pause_count;
        }
        svm->pause_last = now;
        if (svm->pause_left-- != 0) {
            return;
        }
        svm->pause_left = svm->pause_count;
    }
    x86_svm_exit(cpu, SVM_EXIT_PAUSE, 0, 0, cpu->next_rip);
}

/* --- I/O --- */

void x86_svm_check_io(X86Cpu *cpu, const X86Insn *insn, uint16_t port, unsigned size)
{
    enum { INFO_IN = 1, INFO_STRING = 4, INFO_REP = 8 };
    if (!x86_svm_intercepts(cpu, SVM_EXIT_IOIO)) {
        return;
    }
    uint64_t bits = x86_phys_load(cpu, cpu->svm.iopm + port / 8, 2) >> (port & 7);
    if (!(bits & ((1u << size) - 1))) {
        return;
    }
    bool string = insn->op == X86_OP_INS || insn->op == X86_OP_OUTS;
    uint64_t info = (uint64_t)port << 16 | (uint64_t)size << 4 | (uint64_t)(insn->asize / 2) << 7;
    info |= insn->op == X86_OP_IN || insn->op == X86_OP_INS ? INFO_IN : 0;
    if (string) {
        info |= INFO_STRING | (insn->prefixes & (PFX_REP | PFX_REPNE) ? INFO_REP : 0);
        info |= (uint64_t)(insn->op == X86_OP_INS ? X86_ES : insn->seg) << 10;
    }
    x86_svm_exit(cpu, SVM_EXIT_IOIO, info, cpu->next_rip, cpu->next_rip);
}

/* --- the table --- */

/* Instructions whose intercept is a bit and nothing else. */
static const struct { uint16_t op; uint8_t code; } plain[] = {
    { X86_OP_SIDT, SVM_EXIT_IDTR_READ },   { X86_OP_SGDT, SVM_EXIT_GDTR_READ }, { X86_OP_SLDT, SVM_EXIT_LDTR_READ },
    { X86_OP_STR, SVM_EXIT_TR_READ },      { X86_OP_LIDT, SVM_EXIT_IDTR_WRITE }, { X86_OP_LGDT, SVM_EXIT_GDTR_WRITE },
    { X86_OP_LLDT, SVM_EXIT_LDTR_WRITE },  { X86_OP_LTR, SVM_EXIT_TR_WRITE },   { X86_OP_RDTSC, SVM_EXIT_RDTSC },
    { X86_OP_RDPMC, SVM_EXIT_RDPMC },      { X86_OP_PUSHF, SVM_EXIT_PUSHF },    { X86_OP_POPF, SVM_EXIT_POPF },
    { X86_OP_CPUID, SVM_EXIT_CPUID },      { X86_OP_RSM, SVM_EXIT_RSM },        { X86_OP_IRET, SVM_EXIT_IRET },
    { X86_OP_INVD, SVM_EXIT_INVD },        { X86_OP_HLT, SVM_EXIT_HLT },        { X86_OP_INVLPGA, SVM_EXIT_INVLPGA },
    { X86_OP_VMRUN, SVM_EXIT_VMRUN },      { X86_OP_VMMCALL, SVM_EXIT_VMMCALL }, { X86_OP_VMLOAD, SVM_EXIT_VMLOAD },
    { X86_OP_VMSAVE, SVM_EXIT_VMSAVE },    { X86_OP_STGI, SVM_EXIT_STGI },      { X86_OP_CLGI, SVM_EXIT_CLGI },
    { X86_OP_SKINIT, SVM_EXIT_SKINIT },    { X86_OP_RDTSCP, SVM_EXIT_RDTSCP },  { X86_OP_ICEBP, SVM_EXIT_ICEBP },
    { X86_OP_WBINVD, SVM_EXIT_WBINVD },    { X86_OP_WBNOINVD, SVM_EXIT_WBINVD }, { X86_OP_MONITOR, SVM_EXIT_MONITOR },
    { X86_OP_MWAIT, SVM_EXIT_MWAIT },      { X86_OP_XSETBV, SVM_EXIT_XSETBV },  { X86_OP_CLTS, SVM_EXIT_CR_WRITE },    { X86_OP_SMSW, SVM_EXIT_CR_READ },
};

static int plain_code(uint16_t op)
{
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
        if (plain[i].op == op) {
            return plain[i].code;
        }
    }
    return -1;
}

static bool is_special(uint16_t op)
{
    switch (op) {
    case X86_OP_MOV_TO_CR:
    case X86_OP_MOV_FROM_CR:
    case X86_OP_MOV_TO_DR:
    case X86_OP_MOV_FROM_DR:
    case X86_OP_LMSW:
    case X86_OP_RDMSR:
    case X86_OP_WRMSR:
    case X86_OP_INVLPG:
    case X86_OP_INVPCID:
    case X86_OP_PAUSE:
    case X86_OP_INT:
    case X86_OP_VMCALL:
        return true;
    default:
        return false;
    }
}

static void check_special(X86Cpu *cpu, const X86Insn *insn)
{
    switch (insn->op) {
    case X86_OP_MOV_TO_CR:
        check_mov_to_cr(cpu, insn);
        break;
    case X86_OP_MOV_FROM_CR:
        check_mov_from_cr(cpu, insn);
        break;
    case X86_OP_MOV_TO_DR:
        check_mov_dr(cpu, insn, true);
        break;
    case X86_OP_MOV_FROM_DR:
        check_mov_dr(cpu, insn, false);
        break;
    case X86_OP_LMSW:
        check_lmsw(cpu);
        break;
    case X86_OP_RDMSR:
        check_msr(cpu, false);
        break;
    case X86_OP_WRMSR:
        check_msr(cpu, true);
        break;
    case X86_OP_INVLPG:
        intercept(cpu, SVM_EXIT_INVLPG, decodes(cpu) ? invlpg_address(cpu, insn) : 0, 0);
        break;
    case X86_OP_INVPCID: /* where the descriptor lies, and the type */
        intercept(cpu, SVM_EXIT_INVPCID, x86_ea(cpu, insn, 16, false),
                  reg_read(cpu, &insn->operand[0], insn->operand[0].size));
        break;
    case X86_OP_PAUSE:
        check_pause(cpu);
        break;
    case X86_OP_INT:
        intercept(cpu, SVM_EXIT_SWINT, decodes(cpu) ? (uint8_t)insn->imm : 0, 0);
        break;
    case X86_OP_VMCALL:
        x86_ud(cpu); /* Intel's; the hypervisor is called by VMMCALL */
    }
}

/* The rest of MONITOR's and MWAIT's checks come before their intercepts, with those of VMMCALL behind. */
static void guest_insn(X86Cpu *cpu, const X86Insn *insn)
{
    int code = plain_code(insn->op);
    if (insn->op == X86_OP_RDTSC || insn->op == X86_OP_RDTSCP) {
        if ((cpu->cr4 & CR4_TSD) && cpu->cpl != 0) {
            x86_gp(cpu, 0);
        }
    } else if ((insn->op == X86_OP_MONITOR || insn->op == X86_OP_MWAIT) && cpu->cpl != 0) {
        x86_ud(cpu);
    }
    if (code >= 0) {
        intercept(cpu, (unsigned)code, 0, 0);
    } else {
        check_special(cpu, insn);
    }
    if (insn->op == X86_OP_VMMCALL) {
        x86_ud(cpu); /* nobody listens */
    }
    x86_handlers[insn->op](cpu, insn);
}

X86Handler *x86_svm_handler(const X86Insn *insn)
{
    return plain_code(insn->op) >= 0 || is_special(insn->op) ? guest_insn : NULL;
}
