/* Shared by the files of this folder. */
#ifndef OSTRICH_QTEST_QTEST_PRIV_H
#define OSTRICH_QTEST_QTEST_PRIV_H

#include <stdio.h>

#include "chardev/chardev.h"
#include "qtest/qtest.h"

#define QTEST_SERVICE "qtest"

typedef struct Qtest {
    Machine *machine;
    CharFront front;
    char *own_chardev;
    GString *line; /* received so far */
    bool too_long;
    FILE *log;
    int64_t started;
    Device *intercepted; /* NULL: none */
    uint64_t levels;     /* of its lines, as told last */
} Qtest;

void qtest_send(Qtest *qtest, const char *fmt, ...) PRINTF(2, 3);
/* commands.c: one line, without its end. */
void qtest_command(Qtest *qtest, char *line);
void qtest_forget(Qtest *qtest); /* intercepted lines */

/* accel.c: the clock of -accel qtest. False: another accelerator runs the machine. */
bool qtest_clock_set(Machine *machine, int64_t ns);

#endif
