/*
 * Going back in a run that is replayed, for a debugger.
 *
 * Threads: main loop with the machine lock; the machine stands still before and after. Rounds of the main loop are
 * made meanwhile: the caller sees to it that it is not called again from them.
 */
#ifndef OSTRICH_REPLAY_REVERSE_H
#define OSTRICH_REPLAY_REVERSE_H

#include "core/vm/debug.h"

bool reverse_possible(Machine *machine);
/* A debugger is there: keeps the state of here, before which nothing can be reached. */
Error *reverse_begin(Machine *machine) MUST_USE;
/* One instruction forward, with the interrupts that the recording has there. */
Error *reverse_step_forward(Machine *machine, DebugPoints *points) MUST_USE;
/* One instruction back. *ret_begin: there is none. */
Error *reverse_step(Machine *machine, DebugPoints *points, bool *ret_begin) MUST_USE;
/* Back to before the last instruction that meets a point, told in points, or to the begin. */
Error *reverse_continue(Machine *machine, DebugPoints *points, bool *ret_begin) MUST_USE;

#endif
