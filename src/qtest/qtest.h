/*
 * The test protocol: a program drives the machine's buses, interrupts and time over a character device.
 * QEMU's documentation, "QTest Device Emulation Testing Framework": lines of text, an answer to each.
 *
 *     inb 0x70                 OK 0x0000
 *     write 0x1000 2 0xabcd    OK
 *     clock_step 1000000       OK 1000000
 *
 * -accel qtest runs no CPU, and guest time stands still but for clock_step and clock_set.
 *
 * Threads: main loop with the machine lock.
 */
#ifndef OSTRICH_QTEST_QTEST_H
#define OSTRICH_QTEST_QTEST_H

#include "core/vm/machine.h"

/* device: as -qtest has it. log: a file for what is said, NULL: standard error, "none" or "/dev/null": nowhere. */
Error *qtest_start(Machine *machine, const char *device, const char *log) MUST_USE;
void qtest_serve(Machine *machine); /* the machine is made: what was sent is carried out from now on; accepts a machine without */
void qtest_stop(Machine *machine); /* accepts a machine without */

#endif
