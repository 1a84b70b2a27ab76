/*
 * Faults and their delivery.
 *
 * Instruction semantics raise with x86_raise*(), which do not return: they leave to the innermost entry
 * point of the interpreter (cpu->fault_jmp), which delivers through x86_deliver(). Rule: an instruction
 * commits architectural state only after its last possible fault; hot.rip still points at it meanwhile.
 * Translated code never raises across its own frames; it calls the interpreter for the instruction.
 */
#ifndef OSTRICH_CPU_X86_EXC_H
#define OSTRICH_CPU_X86_EXC_H

#include <stdatomic.h>

#include "cpu/x86/cpu.h"

/* What setjmp(*cpu->fault_jmp) returns: cpu->fault waits for x86_deliver_fault(), or just go on at hot.rip. */
enum { X86_JMP_FAULT = 1, X86_JMP_LEAVE = 2 };

NORETURN void x86_raise(X86Cpu *cpu, unsigned vector);
NORETURN void x86_raise_error(X86Cpu *cpu, unsigned vector, uint32_t error);
static inline NORETURN void x86_ud(X86Cpu *cpu) { x86_raise(cpu, EXC_UD); }
static inline NORETURN void x86_gp(X86Cpu *cpu, uint32_t error) { x86_raise_error(cpu, EXC_GP, error); }
/* CR2 is set at delivery from `va`. */
NORETURN void x86_raise_page_fault(X86Cpu *cpu, uint64_t va, uint32_t error);
/* INT n, INT3, INTO: trap that returns behind the instruction; checks the gate's DPL. */
NORETURN void x86_raise_soft(X86Cpu *cpu, unsigned vector, uint64_t next_rip);
/* #DB with these DR6 bits; fault (rip of the insn) or trap (next_rip, state already committed). */
NORETURN void x86_raise_debug(X86Cpu *cpu, uint64_t dr6_bits);
/* Leaves the interpreter without a fault (mode changed, CPU reset, triple fault, halt). */
NORETURN void x86_leave(X86Cpu *cpu);

/*
 * Delivers cpu->fault through the IDT: real mode, protected, long mode; task gates; double and triple
 * faults. On a triple fault the machine is asked to reset. Sets rip, CS, SS, flags.
 */
void x86_deliver_fault(X86Cpu *cpu);
/* External interrupt or NMI between instructions. */
void x86_deliver_interrupt(X86Cpu *cpu, unsigned vector, bool nmi);
/*
 * Looks at hot.exit_req and the local APIC between instructions, and takes what may be taken now: SMI,
 * INIT, SIPI, NMI, interrupts (through cpu->apic). Returns true when control went somewhere else.
 */
bool x86_take_events(X86Cpu *cpu);
/* Whether a halted CPU must wake up: CpuOps.has_work. */
bool x86_has_work(X86Cpu *cpu);
/* The requests that cannot be taken now, whether there are any or not; see the rules in events.c. */
uint32_t x86_blocked_requests(const X86Cpu *cpu);
/*
 * Blocked requests are moved from hot.exit_req to cpu->held, so that they do not keep translated code from running.
 * Whoever has made them possible again puts them back: after IF went from 0 to 1 (STI, POPF, IRET), GIF was set,
 * V_TPR was lowered, VMRUN, #VMEXIT, RSM.
 */
static inline void x86_release_requests(X86Cpu *cpu)
{
    if (unlikely(cpu->held)) {
        atomic_fetch_or(&x86_hot(cpu)->exit_req, cpu->held);
        cpu->held = 0;
    }
}

#endif
