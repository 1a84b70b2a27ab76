/*
 * The time-stamp counter. All CPUs of a machine share one counter that runs at the host's rate and stands
 * still while the machine is stopped; each CPU adds its own offset (IA32_TSC, IA32_TSC_ADJUST).
 */
#ifndef OSTRICH_CPU_X86_TSC_H
#define OSTRICH_CPU_X86_TSC_H

#include "cpu/x86/cpu.h"

/* Finds or makes the machine's counter. */
void x86_time_attach(X86Cpu *cpu);
/* A CPU without a machine owns its counter. */
void x86_time_detach(X86Cpu *cpu);
void x86_tsc_reset(X86Cpu *cpu);
/* Sets the CPU's counter (WRMSR IA32_TSC): the adjust register moves with it. */
void x86_tsc_write(X86Cpu *cpu, uint64_t value);
void x86_tsc_write_adjust(X86Cpu *cpu, uint64_t value);
/* After its offset changed: a timer that waits for a value of the counter is armed anew. On the CPU's thread or while it stands. */
void x86_tsc_moved(X86Cpu *cpu);
/* Ticks a second. Any thread. */
uint64_t x86_tsc_hz(X86Cpu *cpu);
/* Nanoseconds of the virtual clock at which this CPU's counter reaches tsc. Any thread. */
int64_t x86_tsc_to_ns(X86Cpu *cpu, uint64_t tsc);

#endif
