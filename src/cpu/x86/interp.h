/*
 * The exact interpreter (T0): the reference semantics of every instruction.
 */
#ifndef OSTRICH_CPU_X86_INTERP_H
#define OSTRICH_CPU_X86_INTERP_H

#include "cpu/x86/cpu.h"
#include "cpu/x86/insn.h"

typedef enum X86Exit {
    X86_EXIT_NONE,     /* ran the asked number of instructions */
    X86_EXIT_REQUEST,  /* hot.exit_req is set and is not the interpreter's to handle (work, stop, reset) */
    X86_EXIT_HALT,     /* HLT: vcpu->halted is set */
    X86_EXIT_MODE,     /* the mode word changed (x86_interp_run stops there when asked to) */
    X86_EXIT_DEBUG,    /* debugger's breakpoint */
} X86Exit;

/* Runs up to count instructions at hot.rip, delivering faults and taking interrupts in between. */
X86Exit x86_interp_run(X86Cpu *cpu, uint64_t count, bool stop_on_mode_change);
/* One instruction for a debugger: no interrupt is taken before it. Its thread, standing still. */
void x86_interp_step(X86Cpu *cpu);
/*
 * Executes exactly one already decoded instruction at hot.rip (for translated code's slow paths): commits
 * and advances rip, or delivers its fault. False: control went elsewhere than to the next instruction.
 */
bool x86_interp_one(X86Cpu *cpu, const X86Insn *insn);

/* --- for the files that hold semantics --- */
typedef void X86Handler(X86Cpu *cpu, const X86Insn *insn);
/*
 * What executes the instruction in the current mode: its handler, or one that refuses it. Whoever calls
 * a handler sets cpu->next_rip to the next instruction before, and hot.rip to cpu->next_rip behind.
 */
X86Handler *x86_choose_handler(X86Cpu *cpu, const X86Insn *insn);
/* Generated from insn.tab: handler of every X86_OP_*. Handlers do not touch hot.rip; those that branch set
 * cpu->next_rip, which is rip + length when they are called. */
extern X86Handler *const x86_handlers[];
/* After a function that set hot.rip itself (far transfers, IRET): go on there. */
static inline void x86_set_rip(X86Cpu *cpu)
{
    cpu->next_rip = x86_hot(cpu)->rip;
    cpu->interp_stop = true;
}
void x86_interp_new(X86Cpu *cpu);  /* made by x86_interp_run() when missing */
void x86_interp_free(X86Cpu *cpu); /* accepts a CPU without one */
/* Linear address of the memory operand, limits and canonical form checked for `size` bytes (raises #GP/#SS). */
uint64_t x86_ea(X86Cpu *cpu, const X86Insn *insn, unsigned size, bool write);
/* The effective address without segment: LEA. */
uint64_t x86_ea_offset(X86Cpu *cpu, const X86Insn *insn);
/* Reads and writes operand n (register, memory, immediate), 1 to 8 bytes. */
uint64_t x86_operand_get(X86Cpu *cpu, const X86Insn *insn, unsigned n);
void x86_operand_set(X86Cpu *cpu, const X86Insn *insn, unsigned n, uint64_t value);
/* Control transfer inside the code segment: checks limit and canonical form, then commits. */
void x86_jump(X86Cpu *cpu, uint64_t rip, unsigned osize);
/* Stack, by SS width and operand size; check before they write. */
void x86_push(X86Cpu *cpu, uint64_t value, unsigned size);
uint64_t x86_pop(X86Cpu *cpu, unsigned size);
/* PUSH without moving rsp until the caller commits: writes at *rsp - size and updates *rsp only. */
void x86_push_at(X86Cpu *cpu, uint64_t *rsp, uint64_t value, unsigned size);
uint64_t x86_pop_at(X86Cpu *cpu, uint64_t *rsp, unsigned size);
uint64_t x86_stack_mask(const X86Cpu *cpu);

#endif
