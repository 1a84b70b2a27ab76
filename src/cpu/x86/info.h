/* Text about the CPU for the monitor and logs. */
#ifndef OSTRICH_CPU_X86_INFO_H
#define OSTRICH_CPU_X86_INFO_H

#include "cpu/x86/cpu.h"

/* As `info registers`; fpu adds x87 and vector registers. Caller frees. */
char *x86_describe(X86Cpu *cpu, bool fpu);
char *x86_describe_tlb(X86Cpu *cpu); /* info tlb */
char *x86_describe_mem(X86Cpu *cpu); /* info mem */
bool x86_register_value(X86Cpu *cpu, const char *name, uint64_t *ret_value);

/* gdb.c: the CPU under a debugger. */
extern const GdbArch x86_gdb_arch;
void x86_debug_changed(Vcpu *vcpu, DebugPoints *points);
void x86_debug_step(Vcpu *vcpu);

#endif
