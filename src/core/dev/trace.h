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
/*
 * The text of an option, [[enable=]PATTERN][,events=FILE][,file=FILE]. Patterns that were checked are added to the list; one
 * with '-' in front switches off. *ret_help: what to print instead of going on, *ret_file: the log; or NULL.
 */
Error *trace_option(const char *text, GPtrArray *patterns, char **ret_file, char **ret_help) MUST_USE;
Error *trace_pattern_add(const char *pattern, GPtrArray *patterns) MUST_USE;
Error *trace_start(Machine *machine, const GPtrArray *patterns) MUST_USE;

#endif
