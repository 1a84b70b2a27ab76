/*
 * Segmentation and privilege: loading selectors, far transfers, gates, tasks. All raise as the manual's
 * pseudo code says.
 */
#ifndef OSTRICH_CPU_X86_SEG_H
#define OSTRICH_CPU_X86_SEG_H

#include "cpu/x86/cpu.h"

/* MOV/POP sreg, LDS...: ES, SS, DS, FS, GS; any mode. */
void x86_load_seg(X86Cpu *cpu, unsigned seg, uint16_t selector);
/* Sets a register as in real mode or V86: base = sel * 16. */
void x86_load_seg_real(X86Cpu *cpu, unsigned seg, uint16_t selector);
void x86_far_jmp(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned osize, uint64_t next_rip);
void x86_far_call(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned osize, uint64_t next_rip);
void x86_far_ret(X86Cpu *cpu, unsigned osize, uint16_t pop_bytes);
void x86_iret(X86Cpu *cpu, unsigned osize);
/* kind: jump, call, gate or IRET; see the manual on task switching. */
typedef enum X86TaskSwitch { TASK_JMP, TASK_CALL, TASK_GATE, TASK_IRET } X86TaskSwitch;
void x86_task_switch(X86Cpu *cpu, uint16_t selector, X86TaskSwitch kind, uint64_t next_rip, bool has_error, uint32_t error);
void x86_lldt(X86Cpu *cpu, uint16_t selector);
void x86_ltr(X86Cpu *cpu, uint16_t selector);
/* LAR, LSL, VERR, VERW: false: ZF = 0. */
bool x86_lar(X86Cpu *cpu, uint16_t selector, uint64_t *ret_value);
bool x86_lsl(X86Cpu *cpu, uint16_t selector, uint64_t *ret_value);
bool x86_verify(X86Cpu *cpu, uint16_t selector, bool write);
/* Stack pointer of a privilege level, or of an IST, from the TSS. */
void x86_tss_stack(X86Cpu *cpu, unsigned level, uint16_t *ret_ss, uint64_t *ret_sp);
/* True when the I/O permission allows; raises #GP otherwise. */
void x86_check_io(X86Cpu *cpu, uint16_t port, unsigned size);
void x86_syscall(X86Cpu *cpu, uint64_t next_rip);
void x86_sysret(X86Cpu *cpu, unsigned osize);
void x86_sysenter(X86Cpu *cpu);
void x86_sysexit(X86Cpu *cpu, unsigned osize);

#endif
