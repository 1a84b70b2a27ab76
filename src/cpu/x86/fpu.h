/*
 * x87, MMX, SSE and AVX: handlers for insn.tab rows of those classes, FXSAVE/XSAVE, and native execution.
 *
 * On x86-64 hosts a vector or x87 instruction runs as the host's own instruction on the guest's registers,
 * with its memory operand replaced by a host buffer: exact by construction, flags of MXCSR and FSW
 * included. cpu->vec holds XMM/YMM/ZMM, cpu->fx the x87 state and MXCSR.
 */
#ifndef OSTRICH_CPU_X86_FPU_H
#define OSTRICH_CPU_X86_FPU_H

#include "cpu/x86/interp.h"

void x86_fpu_reset(X86Cpu *cpu);
/* Raises #NM, #UD, #MF as the class of the instruction and the mode require. */
void x86_fpu_check_x87(X86Cpu *cpu, bool wait);
void x86_fpu_check_sse(X86Cpu *cpu);
void x86_fpu_check_avx(X86Cpu *cpu);
X86Handler x86_op_native; /* any row with INSN_NATIVE in classes x87, MMX, SSE, AVX */
/* FERR#: CR0.NE = 0; drives IRQ 13 through this line. */
void x86_fpu_set_ferr(X86Cpu *cpu, const IrqLine *line);

#endif
