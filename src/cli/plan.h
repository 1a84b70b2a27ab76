/*
 * The plan: what a command line asks for, in canonical form.
 *
 *     cli_parse()    options in order, sugar rewritten, values checked as far as the text tells
 *     cli_finish()   default devices added, short forms turned into -chardev, -mon, -drive, -device
 *     cli_start()    the plan carried out: back ends, machine, devices, firmware, reset   (start.h)
 *
 * plan_dump() gives the canonical form as text; the golden tests of the rewriting compare it.
 */
#ifndef OSTRICH_CLI_PLAN_H
#define OSTRICH_CLI_PLAN_H

#include "core/vm/icount.h"
#include "core/vm/machine.h"
#include "core/vm/sandbox.h"
#include "value/keyvalues.h"

typedef struct Plan {
    const char *program;   /* "qemu-system-x86_64"; borrowed */
    bool is_i386;          /* called by the 32-bit name */
    MachineConfig *config; /* until the machine takes it */
    KeyValues *machine;    /* type and properties, of all -M together */
    KeyValues *smp, *memory, *boot; /* likewise */
    GPtrArray *numa;       /* KeyValues, of each -numa */
    bool preconfig;
    GPtrArray *accels;     /* KeyValues, in order of preference */
    /* Canonical objects, each KeyValues, in order. */
    GPtrArray *objects, *chardevs, *monitors, *blockdevs, *drives, *netdevs, *devices;
    GPtrArray *board_devices; /* sugar and defaults: made before -device */
    GPtrArray *add_fds;    /* KeyValues: fd, set, opaque */
    GPtrArray *globals;    /* KeyValues: driver, property, value */
    GPtrArray *serials, *parallels, *monitor_texts, *debugcons; /* char *: short syntax, in order */
    GPtrArray *nics, *nets; /* char *: arguments of -nic and -net, in order */
    GPtrArray *sets;       /* char *: -set, applied at the end */
    bool default_vga, default_serial, default_parallel, default_monitor, default_cdrom, default_floppy,
        default_net;
    bool no_user_config, nographic, display_set, start_paused, daemonize;
    RunActions actions;
    SandboxOptions sandbox;
    bool snapshot, mem_prealloc, timestamps, guest_name_in_messages;
    char *display, *mem_path, *pidfile, *log_items, *log_file, *incoming, *gdb, *qtest, *qtest_log, *loadvm;
    bool count_instructions; /* -icount */
    IcountConfig icount;
    bool record;              /* or replay, with rrfile */
    char *rrfile, *rrsnapshot;
    unsigned escape;       /* of multiplexers */
    int next_index[8];     /* by drive interface: where the next -drive without unit goes */
    unsigned monitor_count, vc_count;
    GPtrArray *traces;        /* char *: patterns of -trace; '-' in front: off */
    GPtrArray *plain_options; /* char *, pairs: name and argument (or NULL) of options that are no objects */
    GPtrArray *rewritten;     /* char *: options that were turned into objects */
    unsigned depth;           /* of options that call others */
    bool dump_config;
    char *display_flags;      /* ",show-cursor=on": for whatever display there will be */
    char *run_chroot, *run_user; /* -run-with */
    bool async_teardown, exit_with_parent;
    char *print;           /* help or version text: print it and leave with status 0 */
    GPtrArray *warnings;   /* char * */
} Plan;

Plan *plan_new(const char *program);
void plan_free(Plan *plan);
void plan_warn(Plan *plan, const char *fmt, ...) PRINTF(2, 3);

/* argv[0] is the program. The first problem ends it. */
Error *cli_parse(Plan *plan, int argc, char **argv) MUST_USE;
Error *cli_finish(Plan *plan) MUST_USE;
/* A line an object: "-device isa-serial,chardev=serial0". Caller frees. */
char *plan_dump(const Plan *plan);
/* The same as JSON for -readconfig. Caller frees. */
char *plan_dump_config(const Plan *plan);

/* One option as -readconfig and the tests give it. */
Error *cli_option(Plan *plan, const char *name, const char *arg) MUST_USE;
/* The options that work, for query-command-line-options: NULL ends. */
const char *cli_option_name(unsigned index, bool *ret_has_arg);


#endif
