/*
 * What executes guest code: a row of a table, so that the same tests run on each engine.
 */
#ifndef TESTS_INSN_ENGINE_H
#define TESTS_INSN_ENGINE_H

#include "cpu/x86/cpu.h"

typedef struct InsnEngine {
    const char *name; /* --engine */
    bool dead_flags;  /* at a fault, arithmetic flags that are overwritten before they are read may be anything */
    /* Prepares a CPU whose registers and memory are set up; opaque goes to the others. May be NULL. */
    void *(*attach)(X86Cpu *cpu);
    void (*detach)(X86Cpu *cpu, void *opaque);
    /* Bytes of code were replaced behind the CPU's back (ram_written() was called too). May be NULL. */
    void (*code_changed)(X86Cpu *cpu, void *opaque);
    /*
     * Runs from hot.rip until the CPU halts: every exception leads to a HLT at CPL 0, and a sequence ends
     * with a jump to where nothing is mapped. Returns false when it did not halt after `limit` instructions
     * or so.
     */
    bool (*run)(X86Cpu *cpu, void *opaque, uint64_t limit);
} InsnEngine;

extern const InsnEngine *const insn_engines[]; /* NULL at the end */
/* --stress: the translator's DBT_STRESS_*; set before an engine is attached. */
extern uint32_t insn_engine_stress;
extern bool insn_engine_verbose;

#endif
