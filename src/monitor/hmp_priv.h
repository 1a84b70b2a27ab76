/* Shared by the files of HMP commands. */
#ifndef OSTRICH_MONITOR_HMP_PRIV_H
#define OSTRICH_MONITOR_HMP_PRIV_H

#include "monitor/monitor_priv.h"
#include "value/qmp.h"
#include "value/value.h"

enum { HMP_MAX_ARGS = 8 };

typedef struct HmpArgs {
    const char *text[HMP_MAX_ARGS];   /* NULL: not given */
    uint64_t number[HMP_MAX_ARGS];    /* of expressions */
    bool flag[128];                   /* -x */
    unsigned count;                   /* of a /format */
    char format, size;                /* 'o' 'd' 'u' 'x' 'c' 'i' 's'; 'b' 'h' 'w' 'g' */
} HmpArgs;

typedef struct Hmp {
    Machine *machine;
    Monitor *monitor;   /* NULL: human-monitor-command */
    unsigned cpu_index;
    GString *out;
} Hmp;

/*
 * args: one character an argument: s word, S the rest of the line, e expression, k option list,
 * '/' format; '-x' a flag; '?' after one makes it and the following optional.
 */
typedef struct HmpCommand {
    const char *name;   /* "stop", or with aliases "quit|q" */
    const char *args;
    const char *params; /* as help shows them */
    const char *help;
    void (*run)(Hmp *hmp, const HmpArgs *args);
    char complete;      /* what the first argument is: 'c' command, 'i' info, 'd' device id, 'D' device type,
                           'b' drive, 'k' key, 'f' file, 'h' chardev, 'p' object path; 0 nothing */
} HmpCommand;

extern const HmpCommand hmp_info_more[];
extern const HmpCommand hmp_info_commands[]; /* NULL name ends */
extern const HmpCommand hmp_commands_memory[], hmp_commands_machine[], hmp_commands_device[], hmp_commands_monitor[],
    hmp_commands_migrate[], hmp_info_migrate[], hmp_commands_block[], hmp_info_block[], hmp_info_virtio[], hmp_commands_debug[],
    hmp_info_debug[];

void hmp_printf(Hmp *hmp, const char *fmt, ...) PRINTF(2, 3);
/* Prints "Error: ..." and frees err. */
void hmp_error(Hmp *hmp, Error *err);
/* Runs a QMP command; takes args. Prints an error. False on failure. ret may be NULL. */
bool hmp_qmp(Hmp *hmp, const char *command, Value *args, Value **ret);
/* "key=value,..." or JSON as a dictionary of arguments. */
Error *hmp_options(const char *text, const char *implied, Value **ret_dict) MUST_USE;
/* A dictionary from NULL-terminated pairs; pairs with a NULL value are left out. */
Value *hmp_dict(const char *key, ...) G_GNUC_NULL_TERMINATED;
/* Selected CPU, NULL when the machine has none (printed). */
Vcpu *hmp_cpu(Hmp *hmp);
/* Runs fn on the CPU's thread and waits. */
void hmp_on_cpu(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque);
/* hmp_expr.c: numbers, $registers, ( ) + - * / % & | ^ ~ ! unary minus; *text is moved behind it. */
Error *hmp_expression(Hmp *hmp, const char **text, uint64_t *ret_value) MUST_USE;
/*
 * The session takes no input until ended() says true; looked at every 100 ms. Without a session
 * (human-monitor-command) it goes on at once.
 */
void hmp_wait_until(Hmp *hmp, bool (*ended)(Monitor *monitor));
void hmp_session_print(Monitor *monitor, const char *text);
void hmp_run_line(Hmp *hmp, const char *line);
void hmp_complete(Machine *machine, const char *text, GPtrArray *words);
const HmpCommand *hmp_find(const HmpCommand *table, const char *name, size_t length);

#endif
