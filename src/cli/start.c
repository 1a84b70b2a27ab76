/*
 * From the plan to a machine: accelerator, objects, character devices, monitors, drives, the board, its
 * default devices, -device in order, firmware, reset. Each step checks before it acts; the first failure
 * ends the start with one message.
 */
#include "cli/start.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>

#include "accel/accel.h"
#include "base/log.h"
#include "block/drive.h"
#include "bus/pci.h"
#include "chardev/chardev.h"
#include "core/dev/dev_qmp.h"
#include "core/dev/trace.h"
#include "core/vm/icount.h"
#include "core/vm/inlet.h"
#include "hostmem/hostmem.h"
#include "gdb/gdb.h"
#include "migration/migration.h"
#include "migration/snapshot.h"
#include "core/vm/fdset.h"
#include "monitor/monitor.h"
#include "input/input.h"
#include "net/net.h"
#include "qtest/qtest.h"
#include "replay/replay.h"
#include "ui/display.h"

/* --- accelerator --- */

static MUST_USE Error *set_props(void *object, const Prop *props, const KeyValues *kv, const char *skip,
                                 const char *what)
{
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        const Prop *prop = props;
        if (!strcmp(item->key, skip)) {
            continue;
        }
        while (prop && prop->name && strcmp(prop->name, item->key)) {
            prop++;
        }
        if (!prop || !prop->name) {
            return error_new("%s has no property '%s'", what, item->key);
        }
        Error *err = prop->kind->set(object, prop, item->value);
        if (err) {
            return error_prefix(err, "%s.%s: ", what, item->key);
        }
    }
    return NULL;
}

static MUST_USE Error *try_accel(Machine *machine, KeyValues *kv)
{
    const char *name = keyvalues_get(kv, "accel");
    const AccelType *type = accel_type_find(name);

    if (!type) {
        return error_new("this build has no such accelerator");
    }
    if (type->usable) {
        TRY(type->usable());
    }
    if (machine->icount && strcmp(type->name, "tcg")) {
        return error_new("-icount counts instructions of -accel tcg only");
    }
    Accel *accel = accel_new(machine, type);
    Error *err = set_props(accel, type->props, kv, "accel", type->name);
    if (err) {
        g_free(accel);
        return err;
    }
    return accel_start(accel);
}

static void add_default_accels(Plan *plan)
{
    KeyValues *kv = keyvalues_new();
    keyvalues_add(kv, "accel", "tcg");
    g_ptr_array_add(plan->accels, kv);
}

/* The first that works. That a preferred one did not is worth a line, with the reason. */
static MUST_USE Error *choose_accel(Plan *plan, Machine *machine)
{
    g_autoptr(GString) reasons = g_string_new(NULL);

    if (plan->accels->len == 0) {
        add_default_accels(plan);
    }
    for (guint n = 0; n < plan->accels->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->accels, n);
        const char *name = keyvalues_get(kv, "accel");
        Error *err = try_accel(machine, kv);
        if (!err) {
            if (n > 0) {
                warn_report("%s; using %s", reasons->str, name);
            }
            return NULL;
        }
        if (n + 1 == plan->accels->len) {
            return error_prefix(err, "failed to initialize %s: ", name);
        }
        g_string_append_printf(reasons, "%s%s cannot be used: %s", n ? "; " : "", name, error_message(err));
        error_free(err);
    }
    return NULL;
}

/* --- machine --- */

static bool needs_accel(const Machine *machine)
{
    return machine->type->max_cpus > 0;
}

static MUST_USE Error *set_machine_props(Plan *plan, Machine *machine)
{
    g_autoptr(KeyValues) kv = keyvalues_copy(plan->machine);

    for (const Prop *prop = machine->type->props; prop && prop->name; prop++) {
        prop->kind->set_default(machine->board, prop);
    }
    for (const Prop *prop = machine_common_props; prop->name; prop++) {
        keyvalues_remove(kv, prop->name);
    }
    g_autofree char *what = g_strdup_printf("machine '%s'", machine->type->name);
    return set_props(machine->board, machine->type->props, kv, "type", what);
}

static MUST_USE Error *check_sizes(Plan *plan, const MachineType *type, MachineConfig *config)
{
    if (config->max_cpus > MAX(type->max_cpus, 1)) {
        return error_new("Invalid SMP CPUs %u. The max CPUs supported by machine '%s' is %u", config->max_cpus,
                         type->name, MAX(type->max_cpus, 1));
    }
    if (config->ram_size == 0) {
        config->ram_size = type->default_ram;
    }
    config->max_ram_size = MAX(config->max_ram_size, config->ram_size);
    config->ram_options.path = g_steal_pointer(&plan->mem_path);
    config->ram_options.prealloc = plan->mem_prealloc;
    if (config->memory_backend && config->ram_options.path) {
        return error_new("-mem-path and -machine memory-backend= exclude each other");
    }
    return NULL;
}

/* Main memory that an object describes has the object's size. */
static MUST_USE Error *check_memory_backend(Plan *plan, Machine *machine)
{
    MachineConfig *config = machine->config;
    HostMemory *memory;

    if (!config->memory_backend) {
        return NULL;
    }
    TRY(host_memory_find(machine, config->memory_backend, &memory));
    if (keyvalues_get(plan->memory, "size") && config->ram_size != memory->size) {
        return error_hint(error_new("-m and the memory object differ in size"),
                          "-m gives %" G_GUINT64_FORMAT " MiB, memory object '%s' has %" G_GUINT64_FORMAT " MiB.",
                          config->ram_size / MiB, config->memory_backend, memory->size / MiB);
    }
    config->ram_size = memory->size;
    config->max_ram_size = MAX(config->max_ram_size, config->ram_size);
    return NULL;
}

static Error *size_of_memory(void *opaque, const char *memdev, uint64_t *ret_size)
{
    HostMemory *memory;
    TRY(host_memory_find(opaque, memdev, &memory));
    *ret_size = memory->size;
    return NULL;
}

static MUST_USE Error *configure_numa(Plan *plan, Machine *machine)
{
    for (guint n = 0; n < plan->numa->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->numa, n);
        Error *err = numa_configure(machine->config, kv, machine->type->numa_mem);
        if (err) {
            g_autofree char *text = keyvalues_format(kv, "type");
            return error_prefix(err, "-numa %s: ", text);
        }
    }
    return NULL;
}

/* -preconfig: the monitors run until x-exit-preconfig. *ret_go_on is false when it ended by quit. */
static MUST_USE Error *wait_for_configuration(Plan *plan, Machine *machine, bool *ret_go_on)
{
    *ret_go_on = true;
    if (!plan->preconfig) {
        return NULL;
    }
    if (plan->incoming && strcmp(plan->incoming, "defer")) {
        return error_new("-preconfig and -incoming exclude each other, but for -incoming defer");
    }
    machine->preconfig = true;
    monitors_serve(machine);
    qtest_serve(machine);
    lock_release(&machine->lock);
    loop_run(machine->loop);
    lock_acquire(&machine->lock);
    *ret_go_on = !machine->preconfig;
    if (machine->preconfig) {
        loop_quit(machine->loop); /* for who runs it next */
    }
    return NULL;
}

static void set_process_name(const MachineConfig *config)
{
    if (config->process_name) {
        prctl(PR_SET_NAME, config->process_name);
    }
}

/* --- objects and back ends --- */

/* late: those that name back ends, which are made in between. */
static MUST_USE Error *make_objects(Plan *plan, Machine *machine, bool late)
{
    for (guint n = 0; n < plan->objects->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->objects, n);
        const ObjectType *type = object_type_find(keyvalues_get(kv, "qom-type"));
        if (late != (type && type->late)) {
            continue;
        }
        Error *err = object_add_options(machine, kv);
        if (err) {
            return error_prefix(err, "-object %s: ", keyvalues_get(kv, "qom-type"));
        }
    }
    return NULL;
}

static void on_terminal_quit(void *opaque)
{
    machine_request_shutdown(opaque, SHUTDOWN_HOST_SIGNAL);
}

static int open_special(void *opaque, const char *path, int flags)
{
    return fdset_open(opaque, path, flags);
}

static MUST_USE Error *make_fdsets(Plan *plan, Machine *machine)
{
    for (guint n = 0; n < plan->add_fds->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->add_fds, n);
        uint64_t fd, set;
        int64_t made;
        TRY(keyvalues_get_u64(kv, "fd", 0, &fd));
        TRY(keyvalues_get_u64(kv, "set", 0, &set));
        int copy = fcntl((int)MIN(fd, INT32_MAX), F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
            return error_new_errno(errno, "-add-fd: cannot duplicate fd %u", (unsigned)fd);
        }
        TRY(fdset_add(machine, (int64_t)MIN(set, INT64_MAX), copy, keyvalues_get(kv, "opaque"), &made));
    }
    return NULL;
}

/* --- chardevs of a recorded machine --- */

static bool post_char(void *opaque, const char *front, CharEvent event, const uint8_t *buf, size_t length)
{
    const uint8_t byte = (uint8_t)event;
    return event == CHAR_EVENTS ? inlet_post(opaque, INLET_CHAR, front, buf, length)
                                : inlet_post(opaque, INLET_CHAR_EVENT, front, &byte, 1);
}

static void take_char_input(Machine *machine, const char *id, const uint8_t *data, size_t length)
{
    char_take(machine_service(machine, "chardevs"), id, CHAR_EVENTS, data, length);
}

static void take_char_event(Machine *machine, const char *id, const uint8_t *data, size_t length)
{
    if (length == 1 && data[0] < CHAR_EVENTS) {
        char_take(machine_service(machine, "chardevs"), id, data[0], NULL, 0);
    }
}

static MUST_USE Error *make_chardevs(Plan *plan, Machine *machine)
{
    Chardevs *set = chardevs_new(object_container_at(machine->root, "/chardevs"), machine->loop);

    set->escape = (uint8_t)plan->escape;
    set->takes_all = machine->icount != NULL;
    set->hooks = (ChardevHooks) { .quit = on_terminal_quit, .open_special = open_special, .opaque = machine,
                                  .post = machine->inlet ? post_char : NULL };
    machine_set_service(machine, "chardevs", set);
    for (guint n = 0; n < plan->chardevs->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->chardevs, n);
        Error *err = chardev_add(set, kv, NULL);
        if (err) {
            g_autofree char *text = keyvalues_format(kv, "backend");
            return error_prefix(err, "-chardev %s: ", text);
        }
    }
    return NULL;
}

static MUST_USE Error *make_monitors(Plan *plan, Machine *machine)
{
    TRY(monitors_init(machine));
    for (guint n = 0; n < plan->monitors->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->monitors, n);
        bool pretty;
        TRY(keyvalues_get_bool(kv, "pretty", false, &pretty));
        TRY(monitor_add(machine, keyvalues_get(kv, "chardev"),
                        g_strcmp0(keyvalues_get(kv, "mode"), "control") == 0, pretty));
    }
    return NULL;
}

static void warn_line(const char *text)
{
    warn_report("%s", text);
}

static void stop_for_io_error(void *opaque)
{
    machine_request_stop(opaque, RUN_STATE_IO_ERROR);
}

static void emit_block_event(void *opaque, const char *event, Value *data)
{
    monitor_emit(opaque, event, data);
}

/* Requests that an error held back are made again when the machine runs on; a stopped one has its data on disk. */
typedef struct BlockFollower {
    MachineNotifier notifier;
    Machine *machine;
    bool was_running;
} BlockFollower;

static void block_follows_state(MachineNotifier *notifier, MachineEvent event, void *data)
{
    BlockFollower *follower = container_of(notifier, BlockFollower, notifier);
    BlockGraph *graph = machine_service(follower->machine, BLOCK_SERVICE);
    bool running = machine_running(follower->machine);

    if (event == MACHINE_EVENT_EXIT) {
        list_remove(&notifier->node);
        g_free(follower);
    } else if (event == MACHINE_EVENT_STATE && running != follower->was_running) {
        follower->was_running = running;
        if (running) {
            Error *err = block_graph_set_active(graph, true); /* started again after it had left */
            if (err) {
                error_report(err);
                machine_request_stop(follower->machine, RUN_STATE_PAUSED);
                return;
            }
            block_graph_resume(graph);
        } else {
            Error *err = block_graph_flush(graph);
            if (err) {
                error_report(err);
            }
        }
    }
}

static void follow_state(Machine *machine)
{
    BlockFollower *follower = g_new0(BlockFollower, 1);
    follower->machine = machine;
    follower->notifier.fn = block_follows_state;
    machine_notifier_add(machine, &follower->notifier);
}

static MUST_USE Error *make_drives(Plan *plan, Machine *machine)
{
    BlockGraph *graph = block_graph_new(machine->loop);
    block_graph_set_objects(graph, object_container_at(machine->root, "/objects"));

    machine_set_service(machine, BLOCK_SERVICE, graph);
    block_graph_set_inlet(graph, machine);
    block_graph_set_hooks(graph, stop_for_io_error, emit_block_event, machine);
    if (plan->incoming) {
        block_graph_begin_inactive(graph); /* they are the source's */
    }
    block_graph_set_open_special(graph, open_special, machine);
    follow_state(machine);
    for (guint n = 0; n < plan->blockdevs->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->blockdevs, n);
        BlockNode *node; /* the graph's names keep it: the monitor's blockdev-del gives it up */
        Error *err = block_open_options(graph, kv, &node);
        if (err) {
            g_autofree char *text = keyvalues_format(kv, "driver");
            return error_prefix(err, "-blockdev %s: ", text);
        }
    }
    for (guint n = 0; n < plan->drives->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->drives, n);
        Drive *drive;
        Error *err = block_drive_new(graph, kv, DRIVE_IF_NONE, false, warn_line, &drive);
        if (err) {
            g_autofree char *text = kv->typed ? g_strdup(kv->typed) : keyvalues_format(kv, NULL);
            return error_prefix(err, "-drive %s: ", text);
        }
    }
    return NULL;
}

static MUST_USE Error *make_netdevs(Plan *plan, Machine *machine)
{
    for (guint n = 0; n < plan->netdevs->len; n++) {
        TRY(netdev_create(machine, g_ptr_array_index(plan->netdevs, n)));
    }
    return NULL;
}

/* --- devices --- */

static MUST_USE Error *make_device(Machine *machine, KeyValues *kv)
{
    Error *err = device_add_options(machine, kv, false);

    if (err) {
        g_autofree char *text = keyvalues_format(kv, "driver");
        return error_prefix(err, "-device %s: ", text);
    }
    return NULL;
}

/* -vga names a card whatever the bus; a machine without PCI takes the ISA form. */
static void fit_video_to_bus(Machine *machine, KeyValues *kv)
{
    static const char *const forms[][2] = { { "VGA", "isa-vga" }, { "cirrus-vga", "isa-cirrus-vga" } };

    for (size_t n = 0; n < ARRAY_SIZE(forms); n++) {
        if (!strcmp(keyvalues_get(kv, "driver"), forms[n][0]) && !bus_find_for(machine, &pci_bus_type)) {
            keyvalues_set(kv, "driver", forms[n][1]);
        }
    }
}

static MUST_USE Error *make_devices(Plan *plan, Machine *machine)
{
    for (guint n = 0; n < plan->board_devices->len; n++) {
        fit_video_to_bus(machine, g_ptr_array_index(plan->board_devices, n));
        TRY(make_device(machine, g_ptr_array_index(plan->board_devices, n)));
    }
    for (guint n = 0; n < plan->devices->len; n++) {
        TRY(make_device(machine, g_ptr_array_index(plan->devices, n)));
    }
    return NULL;
}

static void apply_globals(Plan *plan, Machine *machine)
{
    for (guint n = 0; n < plan->globals->len; n++) {
        KeyValues *kv = g_ptr_array_index(plan->globals, n);
        machine_add_global(machine, keyvalues_get(kv, "driver"), keyvalues_get(kv, "property"),
                           keyvalues_get(kv, "value"));
    }
}

static MUST_USE Error *build(Plan *plan, Machine *machine)
{
    TRY(trace_start(machine, plan->traces));
    TRY(set_machine_props(plan, machine));
    apply_globals(plan, machine);
    TRY(make_objects(plan, machine, false));
    TRY(check_memory_backend(plan, machine));
    TRY(make_fdsets(plan, machine));
    TRY(make_chardevs(plan, machine));
    if (plan->qtest) {
        /* Before what may fail: a test program that waits for the connection then learns of it at once. */
        TRY(qtest_start(machine, plan->qtest, plan->qtest_log));
    }
    TRY(make_drives(plan, machine));
    TRY(make_netdevs(plan, machine));
    TRY(make_objects(plan, machine, true));
    TRY(migration_init(machine));
    TRY(configure_numa(plan, machine));
    TRY(make_monitors(plan, machine));
    bool go_on;
    TRY(wait_for_configuration(plan, machine, &go_on));
    if (!go_on) {
        return NULL;
    }
    TRY(numa_complete(machine->config, size_of_memory, machine));
    if (needs_accel(machine)) {
        TRY(choose_accel(plan, machine));
    }
    if (machine->type->build) {
        TRY(machine->type->build(machine));
    }
    TRY(make_devices(plan, machine));
    TRY(block_drives_check_claimed(machine_service(machine, BLOCK_SERVICE)));
    if (machine->type->finish) {
        TRY(machine->type->finish(machine));
    }
    /* Clients set defaults of devices that a build may lack (kvm-pit), so it is only worth a warning. */
    Error *err = machine_check_globals(machine);
    if (err) {
        warn_report("%s", error_message(err));
        error_free(err);
    }
    if (plan->display || (console_count(machine) && !plan->daemonize)) {
        TRY(display_start(machine, plan->display));
    }
    machine_reset(machine, SHUTDOWN_NONE);
    if (log_enabled(LOG_PAGE)) {
        g_autofree char *map = mem_describe(machine->mem, true);
        log_printf("%s", map);
    }
    machine_launch_vcpus(machine);
    machine_set_service(machine, "gdbserver", gdb_start);
    if (plan->gdb) {
        TRY(gdb_start(machine, plan->gdb));
    }
    if (plan->loadvm) {
        TRY(snapshot_load(machine, plan->loadvm));
    }
    if (plan->rrsnapshot) {
        TRY(plan->record ? snapshot_save(machine, plan->rrsnapshot) : snapshot_load(machine, plan->rrsnapshot));
        machine_set_state(machine, RUN_STATE_PRELAUNCH);
    }
    return plan->incoming ? migration_incoming(machine, plan->incoming) : NULL;
}

static MUST_USE Error *start_replay(Plan *plan, Machine *machine)
{
    TRY(replay_start(machine, plan->record ? REPLAY_RECORD : REPLAY_PLAY, plan->rrfile));
    inlet_set_handler(machine, INLET_CHAR, take_char_input);
    inlet_set_handler(machine, INLET_CHAR_EVENT, take_char_event);
    inlet_set_handler(machine, INLET_NET, net_take);
    inlet_set_handler(machine, INLET_INPUT, input_take);
    inlet_set_handler(machine, INLET_REQUEST, machine_take_request);
    return NULL;
}

Error *cli_start(Plan *plan, Machine **ret_machine)
{
    const MachineType *type;

    TRY(machine_type_lookup(keyvalues_get(plan->machine, "type"), &type));
    TRY(check_sizes(plan, type, plan->config));
    set_process_name(plan->config);
    Machine *machine = machine_new(type, g_steal_pointer(&plan->config));
    *ret_machine = machine;
    machine->actions = plan->actions;
    machine->start_paused = plan->start_paused;
    if (plan->count_instructions) {
        icount_new(machine, &plan->icount);
    }
    machine->starting = true;
    lock_acquire(&machine->lock);
    Error *err = plan->rrfile ? start_replay(plan, machine) : NULL;
    if (!err) {
        err = build(plan, machine);
    }
    machine->starting = false;
    if (!err) { /* not while -loadvm reads: a command in between would find half a machine */
        monitors_serve(machine);
        qtest_serve(machine);
    }
    lock_release(&machine->lock);
    return err;
}

/* Guest devices let go of the back ends before these are closed. */
static void unplug_all(Machine *machine)
{
    Device *dev;

    mem_update_begin(machine->mem);
    while ((dev = g_queue_peek_tail(machine->device_order))) {
        object_unparent(&dev->object);
    }
    mem_update_end(machine->mem);
}

void cli_stop(Machine *machine)
{
    if (!machine) {
        return;
    }
    lock_acquire(&machine->lock);
    machine_hold(machine, RUN_STATE_SHUTDOWN); /* monitors are served until they go: none of them may start it again */
    lock_release(&machine->lock);
    migration_free(machine);
    lock_acquire(&machine->lock);
    replay_stop(machine);
    if (machine_service(machine, BLOCK_SERVICE)) {
        block_graph_set_inlet(machine_service(machine, BLOCK_SERVICE), machine);
    }
    gdb_stop(machine);
    qtest_stop(machine);
    monitors_free(machine);
    unplug_all(machine);
    net_finish(machine);
    chardevs_free(machine_service(machine, "chardevs"));
    fdsets_free(machine);
    lock_release(&machine->lock);
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    if (graph) {
        block_graph_set_hooks(graph, NULL, NULL, NULL);
        block_drives_free(graph);
        block_graph_free(graph);
    }
    machine_free(machine);
}
