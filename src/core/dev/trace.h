/*
 * Trace events: two for every kind of device, NAME_read and NAME_write, which are accesses of the guest to its
 * registers. They come from the device descriptors. An access is one line of the log, with the register's name where
 * the device has a table of registers.
 *
 * Threads: switching with the machine lock; the accesses come from any thread.
 */
#ifndef OSTRICH_CORE_DEV_TRACE_H
#define OSTRICH_CORE_DEV_TRACE_H

#include "core/vm/machine.h"

unsigned trace_event_count(void);
/* "e1000_write"; caller frees. */
char *trace_event_name(unsigned event);
/* One a line, as -trace help shows them. Caller frees. */
char *trace_events_help(void);
bool trace_event_enabled(Machine *machine, unsigned event);
/*
 * Switches the events whose names match: '*' and '?' stand for anything. Fails when none does; the error has the nearest
 * name.
 */
Error *trace_set(Machine *machine, const char *pattern, bool on) MUST_USE;
/* The same check without a machine. */
Error *trace_check(const char *pattern) MUST_USE;

#endif
