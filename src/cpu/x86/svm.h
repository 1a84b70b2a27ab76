/*
 * Secure virtual machine. AMD64 manual volume 2, chapter 15 and appendix B (layout of the VMCB).
 *
 * In a guest X86_MODE_SVM is in the mode word: decoded and translated code of guests is kept apart, and only
 * there do handlers of instructions that can be intercepted look whether they are. Nothing else pays.
 */
#ifndef OSTRICH_CPU_X86_SVM_H
#define OSTRICH_CPU_X86_SVM_H

#include "cpu/x86/exc.h"
#include "cpu/x86/insn.h"
#include "cpu/x86/interp.h"

/* Exit codes; those up to SVM_EXIT_LAST_BIT are also numbers of bits in the VMCB's vector of intercepts. */
enum {
    SVM_EXIT_CR_READ = 0x00, SVM_EXIT_CR_WRITE = 0x10, SVM_EXIT_DR_READ = 0x20, SVM_EXIT_DR_WRITE = 0x30,
    SVM_EXIT_EXCEPTION = 0x40, SVM_EXIT_INTR = 0x60, SVM_EXIT_NMI = 0x61, SVM_EXIT_SMI = 0x62, SVM_EXIT_INIT = 0x63,
    SVM_EXIT_VINTR = 0x64, SVM_EXIT_CR0_SELECTIVE = 0x65, SVM_EXIT_IDTR_READ = 0x66, SVM_EXIT_GDTR_READ = 0x67,
    SVM_EXIT_LDTR_READ = 0x68, SVM_EXIT_TR_READ = 0x69, SVM_EXIT_IDTR_WRITE = 0x6a, SVM_EXIT_GDTR_WRITE = 0x6b,
    SVM_EXIT_LDTR_WRITE = 0x6c, SVM_EXIT_TR_WRITE = 0x6d, SVM_EXIT_RDTSC = 0x6e, SVM_EXIT_RDPMC = 0x6f,
    SVM_EXIT_PUSHF = 0x70, SVM_EXIT_POPF = 0x71, SVM_EXIT_CPUID = 0x72, SVM_EXIT_RSM = 0x73, SVM_EXIT_IRET = 0x74,
    SVM_EXIT_SWINT = 0x75, SVM_EXIT_INVD = 0x76, SVM_EXIT_PAUSE = 0x77, SVM_EXIT_HLT = 0x78, SVM_EXIT_INVLPG = 0x79,
    SVM_EXIT_INVLPGA = 0x7a, SVM_EXIT_IOIO = 0x7b, SVM_EXIT_MSR = 0x7c, SVM_EXIT_TASK_SWITCH = 0x7d,
    SVM_EXIT_FERR_FREEZE = 0x7e, SVM_EXIT_SHUTDOWN = 0x7f, SVM_EXIT_VMRUN = 0x80, SVM_EXIT_VMMCALL = 0x81,
    SVM_EXIT_VMLOAD = 0x82, SVM_EXIT_VMSAVE = 0x83, SVM_EXIT_STGI = 0x84, SVM_EXIT_CLGI = 0x85, SVM_EXIT_SKINIT = 0x86,
    SVM_EXIT_RDTSCP = 0x87, SVM_EXIT_ICEBP = 0x88, SVM_EXIT_WBINVD = 0x89, SVM_EXIT_MONITOR = 0x8a,
    SVM_EXIT_MWAIT = 0x8b, SVM_EXIT_XSETBV = 0x8d, SVM_EXIT_RDPRU = 0x8e, SVM_EXIT_EFER_WRITE = 0x8f,
    SVM_EXIT_INVPCID = 0xa2, SVM_EXIT_LAST_BIT = 0xbf, SVM_EXIT_NPF = 0x400,
};
#define SVM_EXIT_INVALID UINT64_MAX

/* CPUID 8000_000A EDX. */
enum { SVM_FEAT_NPT = 0, SVM_FEAT_LBRV = 1, SVM_FEAT_NRIPS = 3, SVM_FEAT_FLUSH_BY_ASID = 6, SVM_FEAT_DECODE = 7, SVM_FEAT_PAUSE = 10,
       SVM_FEAT_PAUSE_THRESHOLD = 12, SVM_FEAT_VGIF = 16 };
enum { SVM_ASIDS = 16 };

static inline bool x86_svm_intercepts(const X86Cpu *cpu, unsigned code)
{
    return cpu->svm.guest && (cpu->svm.intercept[code / 32] >> (code % 32) & 1);
}

/*
 * #VMEXIT: saves the guest's state in its VMCB, restores the host's, clears GIF. hot.rip and the rest of the state
 * are those of the instruction or boundary to return to. next_rip: 0 when there is none to tell.
 */
void x86_svm_leave(X86Cpu *cpu, uint64_t code, uint64_t info1, uint64_t info2, uint64_t next_rip);
/* The same from within an instruction, which goes no further. */
NORETURN void x86_svm_exit(X86Cpu *cpu, uint64_t code, uint64_t info1, uint64_t info2, uint64_t next_rip);
/* Forgets the guest and sets GIF: reset, INIT. */
void x86_svm_reset(X86Cpu *cpu);
/* Selects the TLB's space of the host or the guest, whichever runs now with its registers. */
void x86_svm_select_space(X86Cpu *cpu);

/* An instruction's handler in a guest: the intercept first. NULL: the instruction has none. */
X86Handler *x86_svm_handler(const X86Insn *insn);
/* IN, OUT, INS, OUTS in a guest, after the processor's own check. */
void x86_svm_check_io(X86Cpu *cpu, const X86Insn *insn, uint16_t port, unsigned size);
/* cpu->fault in a guest: true when it was intercepted and the host runs now. */
bool x86_svm_take_exception(X86Cpu *cpu);
/* Delivers VMCB.EVENTINJ (exc.c). */
void x86_deliver_injected(X86Cpu *cpu, uint64_t event, uint64_t next_rip);

/* --- interrupts --- */
/* Whether physical interrupts are taken: by the host's IF when V_INTR_MASKING, else by the current one. */
static inline bool x86_svm_physical_if(const X86Cpu *cpu)
{
    return (cpu->svm.guest && cpu->svm.intr_masking ? cpu->svm.host.rflags : x86_hot((X86Cpu *)cpu)->rflags) & X86_IF;
}
/* A virtual interrupt waits and may be taken by IF, V_TPR and virtual GIF. */
bool x86_svm_virtual_ready(const X86Cpu *cpu);

/* --- nested paging (mmu_nested.c) --- */
enum { SVM_NPF_P = 1, SVM_NPF_W = 2, SVM_NPF_U = 4, SVM_NPF_RSVD = 8, SVM_NPF_I = 16 };
#define SVM_NPF_FINAL BIT64(32)
#define SVM_NPF_TABLE BIT64(33)

#endif
