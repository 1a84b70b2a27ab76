/*
 * Monitors: QMP (for programs) and HMP (for people) on character devices. All of them drive one machine;
 * HMP commands run the same handlers as QMP commands. Threads: main loop with the machine lock.
 */
#ifndef OSTRICH_MONITOR_MONITOR_H
#define OSTRICH_MONITOR_MONITOR_H

#include "core/vm/machine.h"
#include "value/keyvalues.h"
#include "value/value.h"

/* Service "monitors" of the machine; events of the machine go to its QMP monitors from now on. */
Error *monitors_init(Machine *machine) MUST_USE;
/* Of a program that has no guest: there are only the commands for such, and "quit" ends its loop. */
void monitors_set_daemon(Machine *machine);
/* Commands are read from now on: the machine is made, or -preconfig waits for them. While it is being made what comes is left where it
 * is, although opening a disk runs the loop. */
void monitors_serve(Machine *machine);
void monitors_free(Machine *machine); /* nothing to do when there are none */
/* On a chardev that exists (service "chardevs"). control: QMP. */
Error *monitor_add(Machine *machine, const char *chardev, bool control, bool pretty) MUST_USE;
/* Sends an event to every QMP client; takes data, which may be NULL. */
void monitor_emit(Machine *machine, const char *event, Value *data);

/* Runs one QMP command. args: a dictionary or NULL. *ret_value may be NULL for {}. */
struct QmpContext;
Error *monitor_run_qmp(struct QmpContext *ctx, const char *command, const Value *args, Value **ret_value) MUST_USE;
/* Runs one HMP line; the text it prints, with \r\n, is the caller's to free. */
char *monitor_run_hmp(Machine *machine, unsigned cpu_index, const char *line);

#endif
