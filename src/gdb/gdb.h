/*
 * The debugger's side of a machine: gdb's remote serial protocol on a character device.
 * GDB manual, appendix E. One connection at a time; threads are vCPUs, numbered from 1.
 *
 * Threads: main loop with the machine lock.
 */
#ifndef OSTRICH_GDB_GDB_H
#define OSTRICH_GDB_GDB_H

#include "core/vm/machine.h"

/* device: as -gdb has it ("tcp::1234", "unix:/path,server=on", "chardev:ID", ...); "none" stops. */
Error *gdb_start(Machine *machine, const char *device) MUST_USE;
void gdb_stop(Machine *machine); /* accepts a machine without */

#endif
