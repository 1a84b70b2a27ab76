/* Memory type range registers: kept and checked, without effect on accesses. */
#ifndef OSTRICH_CPU_X86_MTRR_H
#define OSTRICH_CPU_X86_MTRR_H

#include "cpu/x86/cpu.h"

enum { X86_MTRR_VARIABLE = 8 };
void x86_mtrr_reset(X86Cpu *cpu);
/* False: no such register, or a value that is not allowed. */
bool x86_mtrr_read(const X86Cpu *cpu, uint32_t index, uint64_t *ret_value);
bool x86_mtrr_write(X86Cpu *cpu, uint32_t index, uint64_t value);
bool x86_pat_valid(uint64_t value);

#endif
