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

/* Executable memory for native stubs; x86_cpu_new() and x86_cpu_free() call these. fini accepts a zeroed cpu. */
Error *x86_fpu_init(X86Cpu *cpu) MUST_USE;
void x86_fpu_fini(X86Cpu *cpu);
/* init: the INIT signal, which leaves the FPU as it is. */
void x86_fpu_reset(X86Cpu *cpu, bool init);
/* What this code can execute on this host: the FPU and vector bits of CPUID; other bits stay clear. */
void x86_fpu_supported_features(uint32_t ret_features[X86_FEAT_WORDS]);

/* Raises #NM, #UD, #MF as the class of the instruction and the mode require. */
void x86_fpu_check_x87(X86Cpu *cpu, bool wait);
void x86_fpu_check_mmx(X86Cpu *cpu);
void x86_fpu_check_sse(X86Cpu *cpu);
void x86_fpu_check_avx(X86Cpu *cpu);

/*
 * Every row of classes x87, MMX, SSE and AVX may go to x86_op_native, also the ones that no host
 * instruction can stand for (FNSTENV, FLDENV, FNSAVE, FRSTOR, FNINIT, EMMS, VZEROUPPER, MASKMOVDQU,
 * VMASKMOV, gathers): it tells them by their encoding. The rows of the 0F AE group, XSAVEC, XSAVES and
 * XRSTORS have handlers of their own below. CLASS_BMI, CRC32, POPCNT, MOVBE, PREFETCH: integer.
 */
X86Handler x86_op_native;
X86Handler x86_op_fwait, x86_op_maskmovq, x86_op_maskmovdqu, x86_op_gather;
X86Handler x86_op_fxsave, x86_op_fxrstor, x86_op_ldmxcsr, x86_op_stmxcsr; /* also VLDMXCSR, VSTMXCSR */
X86Handler x86_op_xsave, x86_op_xsaveopt, x86_op_xsavec, x86_op_xsaves, x86_op_xrstor, x86_op_xrstors;

/* XGETBV: raises #GP for an index that does not exist. The caller checks CR4.OSXSAVE. */
uint64_t x86_xgetbv(X86Cpu *cpu, uint32_t index);
/* XCR0 bits and IA32_XSS bits that the CPU model has. */
uint64_t x86_xcr0_supported(const X86Cpu *cpu);
uint64_t x86_xss_supported(const X86Cpu *cpu);
/* Offset in the standard format and size of a state component, 0 when there is none; for CPUID leaf 0DH. */
unsigned x86_xsave_offset(unsigned component);
unsigned x86_xsave_size(unsigned component);
/* Bytes of an XSAVE area with these components, standard or compacted format. */
unsigned x86_xsave_area_size(uint64_t components, bool compacted);

/* FERR#: CR0.NE = 0; drives IRQ 13 through this line. */
void x86_fpu_set_ferr(X86Cpu *cpu, const IrqLine *line);

#endif
