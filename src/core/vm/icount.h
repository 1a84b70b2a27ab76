/*
 * Instruction counting: virtual time made of what the guest has executed, so that a run can be repeated.
 *
 *     virtual time = bias + (instructions of all vCPUs << shift)
 *
 * One vCPU runs at a time, the holder of the turn; the turn goes round after a fixed number of instructions,
 * or when the holder halts. Everything that belongs to the guest's time (timers on the virtual clock and
 * deferred work of devices) is on a loop of its own, which the holder's thread runs between two instructions
 * of the guest: a timer fires at an exact instruction count, and what it raises is taken there. When all
 * vCPUs are halted, time goes on to the next timer, at the pace of the host's clock or at once (sleep).
 *
 * What comes from outside at any moment (input, completions of host files) is not repeatable by itself;
 * src/replay records it.
 *
 * Threads: the holder's, unless a function says otherwise.
 */
#ifndef OSTRICH_CORE_VM_ICOUNT_H
#define OSTRICH_CORE_VM_ICOUNT_H

#include "core/vm/machine.h"

typedef struct IcountConfig {
    unsigned shift;  /* one instruction takes 2^shift ns */
    bool automatic;  /* shift follows the host's speed */
    bool align;      /* the guest is held back when it is ahead of the host's clock */
    bool sleep;      /* idle time passes as on the host */
} IcountConfig;

enum { ICOUNT_SHIFT_MAX = 10, ICOUNT_SHIFT_AUTO = 3 /* where it begins */ };

typedef struct Icount Icount;

/* Before the machine has vCPUs and devices; machine_free() takes it down. */
void icount_new(Machine *machine, const IcountConfig *config);
void icount_free(Icount *icount); /* accepts NULL */
const IcountConfig *icount_config(const Icount *icount);
/* Instructions executed by all vCPUs. Any thread; exact on the holder's, and while the machine stands still. */
uint64_t icount_count(const Icount *icount);
/* Sets count and virtual time, for a loaded state; vCPUs stand still. */
void icount_set(Icount *icount, uint64_t count, int64_t virtual_ns);
/* All that decides how the run goes on, but for the machine's own state. vCPUs stand still. */
typedef struct IcountState {
    uint64_t count, slice_left, random;
    int64_t bias;
    Vcpu *holder;
    bool yielded;
} IcountState;
void icount_save(const Icount *icount, IcountState *ret_state);
void icount_restore(Icount *icount, const IcountState *state);
/* 64 bits for RDRAND and RDSEED: a fixed sequence. */
uint64_t icount_random(Icount *icount);
uint64_t icount_random_state(const Icount *icount);
void icount_set_random_state(Icount *icount, uint64_t state);
/* How guest and host clock stand to each other, for info jit; "" without align. Caller frees. */
char *icount_describe(const Icount *icount);

/* --- for core/vm --- */
Loop *icount_loop(Icount *icount);
/* Any thread: the holder looks again at what there is to do. */
void icount_kick(Icount *icount);
/* Any thread: the turn under way was too long. */
void icount_look(Icount *icount);
bool icount_may_run(Icount *icount, const Vcpu *vcpu);
/* A vCPU executes outside its turn, for a debugger; all stand still. */
void icount_hold(Icount *icount, Vcpu *vcpu);

/* --- for accelerators: between vcpu_wait_until_runnable() and the next one --- */
/* Runs what is due, then says how many instructions the vCPU may execute: 0 is none, wait again. */
uint64_t icount_begin(Vcpu *vcpu);
void icount_end(Vcpu *vcpu);
/* The instruction under way waits for another vCPU: the turn ends behind it. */
void icount_yield(Vcpu *vcpu);
/* The vCPU took an interrupt at this count: what comes from outside comes behind another instruction, since a replay, whose turn ends
 * at the count of what is next, has it before the interrupt. */
void icount_note_event(Vcpu *vcpu);
/* The vCPU's thread ends. */
void icount_leave(Vcpu *vcpu);

#endif
