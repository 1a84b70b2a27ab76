/*
 * Read-mostly data: readers take no lock, a writer publishes a new version and frees the old one
 * after every reader that may have seen it has left its section.
 *
 * A section is short: no blocking, no lock above LOCK_RANK_LEAF taken inside it. Sections nest.
 * rcu_call() may be called by any thread, also inside a section; callbacks run later, on a thread of
 * their own, with no lock held.
 */
#ifndef OSTRICH_BASE_RCU_H
#define OSTRICH_BASE_RCU_H

#include "base/base.h"

void rcu_read_enter(void);
void rcu_read_leave(void);
/* Runs free_fn(ptr) once every section that is open now has closed. */
void rcu_call(void (*free_fn)(void *ptr), void *ptr);
/* Waits for all callbacks queued so far. Not inside a section. */
void rcu_barrier(void);

#endif
