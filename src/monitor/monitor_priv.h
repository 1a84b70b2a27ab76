/* Shared by the files of this folder. */
#ifndef OSTRICH_MONITOR_MONITOR_PRIV_H
#define OSTRICH_MONITOR_MONITOR_PRIV_H

#include "chardev/chardev.h"
#include "monitor/monitor.h"
#include "monitor/readline.h"
#include "value/json.h"
#include "value/qmp.h"

typedef struct Monitors {
    Machine *machine;
    MachineNotifier notifier;
    List list; /* Monitor */
    GHashTable *throttled; /* event and who sent it -> Throttle */
    bool daemon;           /* qemu-storage-daemon: its commands only */
    char format, size;     /* of x and print, kept from one command to the next */
} Monitors;

typedef struct Monitor Monitor;
struct Monitor {
    Monitors *set;
    CharFront front;
    bool control, pretty;
    ListNode node;
    bool dispatching;  /* a command runs: what comes meanwhile, in QMP the end too, waits */
    /* QMP */
    JsonStream *json;
    GQueue requests;   /* what came and was not carried out yet */
    bool close_waits, open_waits;
    bool negotiated, oob;
    /* HMP */
    Readline *readline;
    bool greeted, focused;
    Work greet; /* on a multiplexer: when the input has really come to stay */
    unsigned cpu_index;
    bool (*waits)(Monitor *monitor); /* a command waits for its end; NULL: none */
    Timer wait_timer;
    GString *held; /* typed meanwhile */
};

Monitors *monitors_of(Machine *machine);
bool monitor_serves(const Monitor *monitor);
/* qmp.c */
void qmp_monitor_open(Monitor *monitor);
void qmp_monitor_close(Monitor *monitor);
bool monitor_has_command(const Monitors *set, const QmpCommand *command);
void qmp_send(Monitor *monitor, const Value *message);
extern const CharFrontOps qmp_front_ops;
/* qmp_check.c */
Error *qmp_check_value(const QmpType *type, const Value *value, const char *name) MUST_USE;
/* Checks a dictionary against members and fills the argument struct. */
Error *qmp_check_args(const QmpCommand *command, const Value *dict, void *args) MUST_USE;
/* hmp.c */
void hmp_monitor_open(Monitor *monitor);
void hmp_monitor_close(Monitor *monitor);
extern const CharFrontOps hmp_front_ops;

#endif
