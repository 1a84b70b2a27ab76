/*
 * qemu-storage-daemon: block nodes, their exports and jobs without a guest. The parts are the emulator's (block graph,
 * character devices, monitor, objects), in a machine that has no board and no CPU. Options are carried out in the order in
 * which they stand, so what one names must stand before it.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "block/backend.h"
#include "block/export/export.h"
#include "block/nbd/server.h"
#include "chardev/chardev.h"
#include "core/dev/dev_qmp.h"
#include "core/dev/trace.h"
#include "main/process.h"
#include "core/vm/fdset.h"
#include "monitor/monitor.h"
#include "value/qmp.h"

static const char usage[] =
    "Usage: qemu-storage-daemon [OPTIONS]\n"
    "Block devices, their exports and jobs without a virtual machine\n"
    "\n"
    "  -h, --help             display this help and exit\n"
    "  -T, --trace [[enable=]PATTERN][,events=FILE][,file=FILE]\n"
    "                         log events ('--trace help' lists them)\n"
    "  -V, --version          output version information and exit\n"
    "\n"
    "  --blockdev [driver=]DRIVER[,node-name=NAME][,read-only=on|off][,...]\n"
    "                         open a block node\n"
    "  --chardev TYPE,id=ID[,...]\n"
    "                         a character device ('--chardev help' lists the types)\n"
    "  --daemonize            go to the background once everything is up\n"
    "  --export [type=]nbd,id=ID,node-name=NODE[,name=NAME][,writable=on|off][,bitmaps.N=BITMAP]\n"
    "                         offer a block node to clients of --nbd-server\n"
    "  --export [type=]fuse,id=ID,node-name=NODE,mountpoint=FILE[,growable=on|off][,writable=on|off]\n"
    "           [,allow-other=on|off|auto]\n"
    "                         mount a block node over a regular file\n"
    "  --export [type=]vhost-user-blk,id=ID,node-name=NODE,addr.type=unix,addr.path=PATH[,writable=on|off]\n"
    "           [,logical-block-size=BYTES][,num-queues=N]\n"
    "                         offer a block node as a virtio disk to a virtual machine\n"
    "  --monitor chardev=ID[,mode=control][,pretty=on|off]\n"
    "                         QMP on a character device\n"
    "  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,tls-creds=ID][,tls-authz=ID][,max-connections=N]\n"
    "  --nbd-server addr.type=unix,addr.path=PATH[,tls-creds=ID][,tls-authz=ID][,max-connections=N]\n"
    "                         listen for NBD clients\n"
    "  --object TYPE,id=ID[,...]\n"
    "                         create an object ('--object help' lists the types)\n"
    "  --pidfile PATH         write the process id to a file\n"
    "\n"
    "All structured options take JSON, too. They are carried out in the order given.\n";

enum { OPT_BLOCKDEV = 256, OPT_CHARDEV, OPT_DAEMONIZE, OPT_EXPORT, OPT_MONITOR, OPT_NBD_SERVER, OPT_OBJECT, OPT_PIDFILE };

static const struct option longs[] = {
    { "blockdev", required_argument, NULL, OPT_BLOCKDEV },
    { "chardev", required_argument, NULL, OPT_CHARDEV },
    { "daemonize", no_argument, NULL, OPT_DAEMONIZE },
    { "export", required_argument, NULL, OPT_EXPORT },
    { "help", no_argument, NULL, 'h' },
    { "monitor", required_argument, NULL, OPT_MONITOR },
    { "nbd-server", required_argument, NULL, OPT_NBD_SERVER },
    { "object", required_argument, NULL, OPT_OBJECT },
    { "pidfile", required_argument, NULL, OPT_PIDFILE },
    { "trace", required_argument, NULL, 'T' },
    { "version", no_argument, NULL, 'V' },
    { 0 },
};

/* An option to carry out; and what stands for all of the program. */
typedef struct Step {
    int option;
    const char *text;
} Step;
typedef struct Daemon {
    Machine *machine;
    BlockGraph *graph;
    GArray *steps; /* Step */
    GPtrArray *traces;
    char *log_file;
    const char *pidfile;
    bool daemonize, wrote_pidfile;
    char *print; /* and exit */
} Daemon;

/* --- the options --- */

static const char *next_long(void *opaque)
{
    const struct option **cursor = opaque;
    return (*cursor)->name ? (*cursor)++->name : NULL;
}

static MUST_USE Error *bad_option(char **argv, int letter)
{
    const char *typed = argv[optind - 1];
    const struct option *cursor = longs;

    if (letter == ':') {
        return error_new("option '%s' requires an argument", typed);
    }
    const char *near = g_str_has_prefix(typed, "--") ? nearest_name(typed + 2, next_long, &cursor) : NULL;
    return near ? error_new("unrecognized option '%s', did you mean '--%s'?", typed, near)
                : error_new("unrecognized option '%s'", typed);
}

static MUST_USE Error *take_trace(Daemon *d, const char *text)
{
    char *file, *help;

    TRY(trace_option(text, d->traces, &file, &help));
    if (file) {
        g_free(d->log_file);
        d->log_file = file;
    }
    d->print = help;
    return NULL;
}

static MUST_USE Error *read_options(Daemon *d, int argc, char **argv)
{
    int letter;

    opterr = 0;
    while ((letter = getopt_long(argc, argv, "+:hT:V", longs, NULL)) != -1 && !d->print) {
        Step step = { letter, optarg };
        switch (letter) {
        case 'h':
            d->print = g_strdup(usage);
            break;
        case 'V':
            d->print = g_strdup("qemu-storage-daemon version " COMPAT_VERSION " (ostrich-" OSTRICH_VERSION ")\n");
            break;
        case 'T':
            TRY(take_trace(d, optarg));
            break;
        case OPT_DAEMONIZE:
            d->daemonize = true;
            break;
        case OPT_PIDFILE:
            d->pidfile = optarg;
            break;
        case '?':
        case ':':
            return error_hint(bad_option(argv, letter), "Try 'qemu-storage-daemon --help' for more information");
        default:
            g_array_append_val(d->steps, step);
        }
    }
    return optind < argc && !d->print ? error_new("Unexpected argument: %s", argv[optind]) : NULL;
}

/* --- what they do --- */

static MUST_USE Error *add_blockdev(Daemon *d, const KeyValues *kv)
{
    BlockNode *node; /* the graph's names keep it */
    return block_open_options(d->graph, kv, &node);
}

static MUST_USE Error *add_chardev(Daemon *d, const KeyValues *kv)
{
    if (kv->help) {
        d->print = chardev_types_help();
        return NULL;
    }
    return chardev_add(machine_service(d->machine, "chardevs"), kv, NULL);
}

static MUST_USE Error *add_export(Daemon *d, const KeyValues *kv)
{
    Export *export;
    return export_add(d->graph, kv, &export);
}

static MUST_USE Error *add_monitor(Daemon *d, KeyValues *kv)
{
    static const char *const known[] = { "chardev", "id", "mode", "pretty", NULL };
    const char *chardev = keyvalues_get(kv, "chardev"), *mode = keyvalues_get(kv, "mode");
    bool pretty;

    keyvalues_get(kv, "id");
    TRY(keyvalues_get_bool(kv, "pretty", false, &pretty));
    TRY(keyvalues_check_used(kv, "monitor", known));
    if (!chardev) {
        return error_new("Parameter 'chardev' is missing");
    }
    if (mode && strcmp(mode, "control")) {
        return error_new(strcmp(mode, "readline") ? "Parameter 'mode' does not accept value '%s'"
                                                  : "mode=%s is not there without a machine: control is", mode);
    }
    return monitor_add(d->machine, chardev, true, pretty);
}

/* The command nbd-server-start with what the option says. */
static MUST_USE Error *start_nbd_server(Daemon *d, KeyValues *kv)
{
    QmpContext ctx = { .machine = d->machine };
    g_autoptr(Value) args = NULL, ret = NULL;
    uint64_t connections;

    TRY(keyvalues_get_u64(kv, "max-connections", 0, &connections));
    bool limited = keyvalues_has(kv, "max-connections");
    keyvalues_remove(kv, "max-connections");
    TRY(keyvalues_to_value(kv, &args));
    if (limited) {
        value_put_int(args, "max-connections", (int64_t)MIN(connections, INT64_MAX));
    }
    return monitor_run_qmp(&ctx, "nbd-server-start", args, &ret);
}

static MUST_USE Error *add_object(Daemon *d, KeyValues *kv)
{
    const char *name = keyvalues_get(kv, "qom-type");

    if (kv->help || g_strcmp0(name, "help") == 0) {
        const ObjectType *type = name ? object_type_find(name) : NULL;
        d->print = type ? object_props_help(type) : object_types_help();
        return NULL;
    }
    return object_add_options(d->machine, kv);
}

static MUST_USE Error *run_step(Daemon *d, const Step *step)
{
    static const char *const implied[] = {
        [OPT_BLOCKDEV - OPT_BLOCKDEV] = "driver", [OPT_CHARDEV - OPT_BLOCKDEV] = "backend",
        [OPT_EXPORT - OPT_BLOCKDEV] = "type",     [OPT_MONITOR - OPT_BLOCKDEV] = "chardev",
        [OPT_OBJECT - OPT_BLOCKDEV] = "qom-type", [OPT_PIDFILE - OPT_BLOCKDEV] = NULL,
    };
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(step->text, implied[step->option - OPT_BLOCKDEV], &kv));
    switch (step->option) {
    case OPT_BLOCKDEV:
        return add_blockdev(d, kv);
    case OPT_CHARDEV:
        return add_chardev(d, kv);
    case OPT_EXPORT:
        return add_export(d, kv);
    case OPT_MONITOR:
        return add_monitor(d, kv);
    case OPT_NBD_SERVER:
        return start_nbd_server(d, kv);
    default:
        return add_object(d, kv);
    }
}

static MUST_USE Error *run_steps(Daemon *d)
{
    for (guint n = 0; n < d->steps->len && !d->print; n++) {
        const Step *step = &g_array_index(d->steps, Step, n);
        const struct option *option = longs;
        Error *err = run_step(d, step);
        while (option->val != step->option) {
            option++;
        }
        if (err) {
            return error_prefix(err, "--%s %s: ", option->name, step->text);
        }
    }
    return NULL;
}

/* --- life --- */

static void emit_block_event(void *opaque, const char *event, Value *data)
{
    monitor_emit(opaque, event, data);
}

static int open_special(void *opaque, const char *path, int flags)
{
    return fdset_open(opaque, path, flags);
}

static void quit(void *opaque)
{
    loop_quit(((Machine *)opaque)->loop);
}

static void on_signal(void *opaque, int signo, pid_t pid)
{
    quit(opaque);
}

static MUST_USE Error *make_services(Daemon *d)
{
    static const MachineType no_machine = { .name = "storage-daemon", .block_default = "none" };
    MachineConfig *config = machine_config_new();

    config->cpus = config->max_cpus = 0;
    d->machine = machine_new(&no_machine, config);
    lock_acquire(&d->machine->lock);
    Chardevs *chardevs = chardevs_new(object_container_at(d->machine->root, "/chardevs"), d->machine->loop);
    chardevs->hooks = (ChardevHooks) { .quit = quit, .open_special = open_special, .opaque = d->machine };
    machine_set_service(d->machine, "chardevs", chardevs);
    d->graph = block_graph_new(d->machine->loop);
    block_graph_set_objects(d->graph, object_container_at(d->machine->root, "/objects"));
    machine_set_service(d->machine, BLOCK_SERVICE, d->graph);
    block_graph_set_hooks(d->graph, NULL, emit_block_event, d->machine);
    block_graph_set_open_special(d->graph, open_special, d->machine);
    Error *err = monitors_init(d->machine);
    if (!err) {
        monitors_set_daemon(d->machine);
        err = trace_start(d->machine, d->traces);
    }
    lock_release(&d->machine->lock);
    return err;
}

static MUST_USE Error *run(Daemon *d)
{
    if (d->log_file) {
        TRY(log_open(d->log_file));
    }
    if (d->daemonize) {
        process_go_to_background();
    }
    TRY(make_services(d));
    lock_acquire(&d->machine->lock);
    LoopFd *signals = process_catch_signals(d->machine->loop, on_signal, d->machine);
    Error *err = run_steps(d);
    if (!err && d->pidfile && !d->print) {
        err = process_write_pidfile(d->pidfile);
        d->wrote_pidfile = !err;
    }
    lock_release(&d->machine->lock);
    if (!err && !d->print) {
        if (d->daemonize) {
            process_tell_parent(false);
        }
        loop_run(d->machine->loop);
    }
    lock_acquire(&d->machine->lock);
    loop_del_fd(signals);
    lock_release(&d->machine->lock);
    return err;
}

static void stop_co(void *opaque)
{
    nbd_server_stop_all_co(opaque);
    exports_stop_all_co(opaque);
}

static void stop(Daemon *d)
{
    if (!d->machine) {
        return;
    }
    lock_acquire(&d->machine->lock);
    co_run(d->machine->loop, stop_co, d->graph);
    monitors_free(d->machine);
    chardevs_free(machine_service(d->machine, "chardevs"));
    fdsets_free(d->machine);
    lock_release(&d->machine->lock);
    block_graph_set_hooks(d->graph, NULL, NULL, NULL);
    block_graph_free(d->graph);
    machine_free(d->machine);
}

int main(int argc, char **argv)
{
    Daemon d = { .steps = g_array_new(FALSE, FALSE, sizeof(Step)), .traces = g_ptr_array_new_with_free_func(g_free) };

    process_open_standard_descriptors();
    g_set_prgname("qemu-storage-daemon");
    error_set_program("qemu-storage-daemon");
    signal(SIGPIPE, SIG_IGN);
    Error *err = read_options(&d, argc, argv);
    if (!err && !d.print) {
        err = run(&d);
    }
    if (!err && d.print) {
        fputs(d.print, stdout);
    }
    int status = err || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
    if (err) {
        error_report(err);
    }
    stop(&d);
    if (d.wrote_pidfile) {
        unlink(d.pidfile);
    }
    g_array_unref(d.steps);
    g_ptr_array_unref(d.traces);
    g_free(d.log_file);
    g_free(d.print);
    return status;
}
