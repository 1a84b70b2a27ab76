/* Making and unmaking a machine; its registries. */
#include "core/vm/machine.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/rcu.h"
#include "core/vm/icount.h"
#include "core/vm/inlet.h"

static void handle_requests(void *opaque);

const char *run_state_name(RunState state)
{
    static const char *const names[RUN_STATES] = {
        "prelaunch", "running",        "paused",   "debug",      "suspended", "shutdown", "inmigrate",
        "postmigrate", "finish-migrate", "save-vm",  "restore-vm", "io-error",  "watchdog", "guest-panicked",
        "internal-error",
    };
    return names[state];
}

const char *shutdown_cause_name(ShutdownCause cause)
{
    static const char *const names[] = {
        "none",    "host-error",     "host-qmp-quit", "host-qmp-system-reset", "host-signal",   "host-ui",
        "guest-shutdown", "guest-reset", "guest-panic",   "subsystem-reset",       "snapshot-load",
    };
    return names[cause];
}

bool shutdown_cause_is_guest(ShutdownCause cause)
{
    return cause == SHUTDOWN_GUEST_SHUTDOWN || cause == SHUTDOWN_GUEST_RESET || cause == SHUTDOWN_GUEST_PANIC;
}

MachineConfig *machine_config_new(void)
{
    MachineConfig *config = g_new0(MachineConfig, 1);
    config->cpus = config->max_cpus = 1;
    config->sockets = config->dies = config->clusters = config->cores = config->threads = 1;
    config->boot_splash_time = config->boot_reboot_timeout = -1;
    config->dump_guest_core = config->graphics = config->acpi = config->hpet = config->i8042 = config->pit = config->pic = true;
    config->ram_options.merge = config->fd_bootchk = true;
    config->rtc_clock = CLOCK_HOST;
    numa_init(&config->numa);
    config->data_dirs = g_ptr_array_new_with_free_func(g_free);
    config->option_roms = g_ptr_array_new_with_free_func(g_free);
    config->fw_cfg_items = g_ptr_array_new_with_free_func(g_free);
    config->smbios = g_ptr_array_new_with_free_func(g_free);
    config->acpi_tables = g_ptr_array_new_with_free_func(g_free);
    return config;
}

void machine_config_free(MachineConfig *config)
{
    if (!config) {
        return;
    }
    char **texts[] = { &config->cpu_model,   &config->firmware,       &config->kernel, &config->initrd,
                       &config->append,      &config->dtb,            &config->boot_order, &config->boot_once,
                       &config->boot_splash, &config->name,           &config->process_name, &config->vga,
                       &config->memory_backend, &config->keyboard_layout };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        g_free(*texts[i]);
    }
    g_free((char *)config->ram_options.path);
    numa_fini(&config->numa);
    g_ptr_array_unref(config->data_dirs);
    g_ptr_array_unref(config->option_roms);
    g_ptr_array_unref(config->fw_cfg_items);
    g_ptr_array_unref(config->smbios);
    g_ptr_array_unref(config->acpi_tables);
    g_free(config);
}

static void free_globals(gpointer list)
{
    g_ptr_array_unref(list);
}

Machine *machine_new(const MachineType *type, MachineConfig *config)
{
    Machine *machine = g_new0(Machine, 1);

    machine->type = type;
    machine->config = config;
    lock_init(&machine->lock, "machine", LOCK_RANK_MACHINE);
    machine->clocks = clocks_new();
    clocks_set_running(machine->clocks, false);
    machine->loop = loop_new("main", machine->clocks, &machine->lock);
    work_init(&machine->requests, machine->loop, handle_requests, machine);
    machine->mem = mem_system_new(&machine->lock);
    mem_region_init(&machine->memory, machine->mem, "system", 0);
    mem_region_init(&machine->io, machine->mem, "io", 64 * KiB);
    machine->as = mem_as_new(machine->mem, "memory", &machine->memory);
    machine->io_as = mem_as_new(machine->mem, "I/O", &machine->io);
    machine->root = object_new_root(machine->loop, machine);
    machine->object = object_container_at(machine->root, "/machine");
    object_container_at(machine->root, "/machine/peripheral");
    object_container_at(machine->root, "/machine/peripheral-anon");
    object_container_at(machine->root, "/machine/unattached");
    object_container_at(machine->root, "/objects");
    object_container_at(machine->root, "/chardevs");
    list_init(&machine->buses);
    list_init(&machine->reset_handlers);
    list_init(&machine->notifiers);
    machine->device_order = g_queue_new();
    machine->vcpus = g_ptr_array_new();
    machine->globals = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_globals);
    machine->services = g_hash_table_new(g_str_hash, g_str_equal);
    machine->state = RUN_STATE_PRELAUNCH;
    machine->pause_depth = 1; /* vCPUs stand still until machine_start() */
    if (type->board_size) {
        machine->board = g_malloc0(type->board_size);
    }
    for (const CompatProp *compat = type->compat; compat && compat->driver; compat++) {
        machine_add_global(machine, compat->driver, compat->prop, compat->value);
    }
    return machine;
}

void machine_free(Machine *machine)
{
    if (!machine) {
        return;
    }
    lock_acquire(&machine->lock);
    machine_notify(machine, MACHINE_EVENT_EXIT, NULL);
    mem_update_begin(machine->mem);
    /* Devices go in reverse order of plugging, so that nobody outlives what it uses. */
    for (Device *dev; (dev = g_queue_peek_tail(machine->device_order));) {
        object_unparent(&dev->object);
    }
    LIST_FOREACH_SAFE (bus, &machine->buses, Bus, node) {
        bus_fini(bus); /* the board's own */
    }
    object_free(machine->root);
    if (machine->accel) {
        if (machine->accel_type->fini) {
            machine->accel_type->fini(machine->accel);
        }
        g_free(machine->accel);
    }
    mem_region_fini(&machine->memory);
    mem_region_fini(&machine->io);
    lock_release(&machine->lock);
    work_fini(&machine->requests);
    mem_system_free(machine->mem);
    rcu_barrier();
    icount_free(machine->icount);
    loop_free(machine->loop);
    clocks_free(machine->clocks);
    g_queue_free(machine->device_order);
    g_ptr_array_unref(machine->vcpus);
    g_hash_table_unref(machine->globals);
    g_hash_table_unref(machine->services);
    for (const Prop *prop = machine->board ? machine->type->props : NULL; prop && prop->name; prop++) {
        if (prop->kind->release) {
            prop->kind->release(machine->board, prop);
        }
    }
    g_free(machine->board);
    lock_fini(&machine->lock);
    machine_config_free(machine->config);
    g_free(machine);
}

/* --- globals, services, notifiers --- */

void machine_add_global(Machine *machine, const char *driver, const char *prop, const char *value)
{
    GPtrArray *list = g_hash_table_lookup(machine->globals, driver);
    if (!list) {
        list = g_ptr_array_new_with_free_func(g_free);
        g_hash_table_insert(machine->globals, g_strdup(driver), list);
    }
    g_ptr_array_add(list, g_strdup(prop));
    g_ptr_array_add(list, g_strdup(value));
}

Error *machine_check_globals(Machine *machine)
{
    GHashTableIter it;
    gpointer driver;

    g_hash_table_iter_init(&it, machine->globals);
    while (g_hash_table_iter_next(&it, &driver, NULL)) {
        const DeviceType *type;
        Error *err = device_type_lookup(driver, &type);
        if (err && !object_type_find(driver)) {
            return error_prefix(err, "-global %s: ", (char *)driver);
        }
        error_free(err);
    }
    return NULL;
}

void machine_set_service(Machine *machine, const char *name, void *ptr)
{
    g_hash_table_insert(machine->services, (gpointer)name, ptr);
}

void *machine_service(Machine *machine, const char *name)
{
    return g_hash_table_lookup(machine->services, name);
}

void machine_add_reset(Machine *machine, ResetHandler *handler, void (*fn)(void *opaque), void *opaque)
{
    handler->fn = fn;
    handler->opaque = opaque;
    list_append(&machine->reset_handlers, &handler->node);
}

void machine_notifier_add(Machine *machine, MachineNotifier *notifier)
{
    list_append(&machine->notifiers, &notifier->node);
}

void machine_notify(Machine *machine, MachineEvent event, void *data)
{
    LIST_FOREACH_SAFE (notifier, &machine->notifiers, MachineNotifier, node) {
        notifier->fn(notifier, event, data);
    }
}

void machine_set_emitter(Machine *machine, void (*fn)(void *opaque, const char *event, const char *json),
                         void *opaque)
{
    machine->emit = fn;
    machine->emit_opaque = opaque;
}

void machine_emit(Machine *machine, const char *event, const char *json_data)
{
    if (machine->emit) {
        machine->emit(machine->emit_opaque, event, json_data);
    }
}

Device *machine_device_next(Machine *machine, Device *after)
{
    GList *link = after ? g_queue_find(machine->device_order, after)->next : machine->device_order->head;
    return link ? link->data : NULL;
}

/* --- data files --- */

static const char *package_of(const char *name)
{
    static const struct {
        const char *prefix, *package;
    } packages[] = {
        { "bios", "seabios" },    { "vgabios", "seabios" }, { "OVMF", "ovmf" },
        { "pxe-", "ipxe-qemu" },  { "efi-", "ipxe-qemu" },  { "qboot", "qemu-system-data" },
    };
    for (size_t i = 0; i < ARRAY_SIZE(packages); i++) {
        if (g_str_has_prefix(name, packages[i].prefix)) {
            return packages[i].package;
        }
    }
    return NULL;
}

Error *machine_find_file(Machine *machine, const char *name, char **ret_path)
{
    g_autoptr(GString) looked = g_string_new(NULL);
    const GPtrArray *dirs = machine->config->data_dirs;

    if (access(name, R_OK) == 0) {
        *ret_path = g_strdup(name);
        return NULL;
    }
    if (strchr(name, '/')) {
        return error_new_errno(errno, "cannot read '%s'", name);
    }
    for (guint i = 0; i < dirs->len; i++) {
        g_autofree char *path = g_build_filename(dirs->pdata[i], name, NULL);
        if (access(path, R_OK) == 0) {
            *ret_path = g_steal_pointer(&path);
            return NULL;
        }
        g_string_append_printf(looked, "%s%s", looked->len ? ", " : "", (char *)dirs->pdata[i]);
    }
    Error *err = error_new("could not find the file '%s' (looked in %s)", name,
                           looked->len ? looked->str : "no directory; see -L");
    const char *package = package_of(name);
    return package ? error_hint(err, "Debian has it in the package %s.", package) : err;
}

/* --- run state --- */

bool machine_running(const Machine *machine)
{
    return machine->state == RUN_STATE_RUNNING;
}

static void enter_state(Machine *machine, RunState state)
{
    if (machine->state != state) {
        machine->state = state;
        machine_notify(machine, MACHINE_EVENT_STATE, NULL);
    }
}

static bool taken(bool *flag)
{
    return __atomic_exchange_n(flag, false, __ATOMIC_ACQ_REL);
}

static void resume_devices(Machine *machine)
{
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        const DeviceType *type = device_type(dev);
        if (type->resumed) {
            type->resumed(dev);
        }
    }
}

void machine_start(Machine *machine)
{
    if (machine_running(machine)) {
        return;
    }
    if (machine->holds) {
        machine->goes_on = true;
        return;
    }
    if (taken(&machine->stopped_suspended)) {
        clocks_set_running(machine->clocks, true);
        enter_state(machine, RUN_STATE_SUSPENDED);
        machine_emit(machine, "RESUME", NULL);
        return;
    }
    enter_state(machine, RUN_STATE_RUNNING);
    clocks_set_running(machine->clocks, true);
    resume_devices(machine);
    machine_emit(machine, "RESUME", NULL);
    machine_resume_vcpus(machine);
}

/* Whether it went on until now. */
static bool stand_still(Machine *machine, RunState state)
{
    bool suspended = machine->state == RUN_STATE_SUSPENDED;
    if (!machine_running(machine) && !suspended) {
        enter_state(machine, state);
        return false;
    }
    if (suspended) { /* its vCPUs stand still */
        machine->stopped_suspended = true;
    } else {
        machine_pause_vcpus(machine);
    }
    clocks_set_running(machine->clocks, false);
    enter_state(machine, state);
    return true;
}

void machine_set_state(Machine *machine, RunState state)
{
    if (state == RUN_STATE_RUNNING || state == RUN_STATE_SUSPENDED) {
        enter_state(machine, state);
    } else {
        stand_still(machine, state);
    }
}

void machine_stop(Machine *machine, RunState state)
{
    if (machine->holds) {
        machine->goes_on = false;
        return;
    }
    if (stand_still(machine, state)) {
        machine_emit(machine, "STOP", NULL);
    }
}

/* Each device once: those on no bus and the machine's buses reach all others. */
static void reset_devices(Machine *machine)
{
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        if (!dev->bus) {
            device_reset(dev);
        }
    }
    LIST_FOREACH (bus, &machine->buses, Bus, node) {
        bus_reset(bus);
    }
    LIST_FOREACH (handler, &machine->reset_handlers, ResetHandler, node) {
        handler->fn(handler->opaque);
    }
}

static char *cause_json(ShutdownCause cause)
{
    return g_strdup_printf("{\"guest\": %s, \"reason\": \"%s\"}",
                           shutdown_cause_is_guest(cause) ? "true" : "false", shutdown_cause_name(cause));
}

/* A machine that is reset in S3 boots; one that stands still, because it was shut down or whyever, may go on again. */
static void state_after_reset(Machine *machine)
{
    machine->stopped_suspended = false;
    if (machine->state == RUN_STATE_SUSPENDED) {
        enter_state(machine, RUN_STATE_RUNNING);
        machine_resume_vcpus(machine);
    } else if (!machine_running(machine) && machine->state != RUN_STATE_INMIGRATE) {
        enter_state(machine, RUN_STATE_PRELAUNCH);
    }
}

void machine_reset(Machine *machine, ShutdownCause cause)
{
    machine_pause_vcpus(machine);
    mem_update_begin(machine->mem);
    reset_devices(machine);
    mem_update_end(machine->mem);
    machine_notify(machine, MACHINE_EVENT_RESET, &cause);
    if (cause != SHUTDOWN_NONE) {
        g_autofree char *json = cause_json(cause);
        machine_emit(machine, "RESET", json);
        state_after_reset(machine);
    }
    machine_resume_vcpus(machine);
}

Loop *machine_guest_loop(Machine *machine)
{
    return machine->icount ? icount_loop(machine->icount) : machine->loop;
}

/* --- requests: set anywhere, carried out by the main loop --- */

static void request(Machine *machine)
{
    if (machine->icount) {
        vcpu_stop_self(); /* what it executed until the main loop stops it would not be repeatable */
    }
    work_schedule(&machine->requests);
}

void machine_handle_later(Machine *machine)
{
    work_schedule(&machine->requests);
}

typedef enum MachineRequest { REQUEST_RESET, REQUEST_POWERDOWN, REQUEST_WAKEUP } MachineRequest;

/* What somebody outside asks for while the machine runs is input. */
static bool posted(Machine *machine, MachineRequest request, unsigned cause)
{
    const uint8_t bytes[2] = { (uint8_t)request, (uint8_t)cause };
    return !vcpu_self() && machine_running(machine) && inlet_post(machine, INLET_REQUEST, "", bytes, sizeof(bytes));
}

void machine_take_request(Machine *machine, const char *id, const uint8_t *data, size_t length)
{
    if (length == 2 && data[0] == REQUEST_RESET) {
        machine_request_reset(machine, data[1]);
    } else if (length == 2 && data[0] == REQUEST_POWERDOWN) {
        machine_request_powerdown(machine);
    } else if (length == 2 && data[0] == REQUEST_WAKEUP) {
        machine_request_wakeup(machine, data[1]);
    }
}

void machine_request_reset(Machine *machine, ShutdownCause cause)
{
    if (posted(machine, REQUEST_RESET, cause)) {
        return;
    }
    machine->requested_reset = cause;
    request(machine);
}

void machine_request_shutdown(Machine *machine, ShutdownCause cause)
{
    machine->requested_shutdown = cause;
    request(machine);
}

void machine_request_powerdown(Machine *machine)
{
    if (posted(machine, REQUEST_POWERDOWN, 0)) {
        return;
    }
    machine->requested_powerdown = true;
    request(machine);
}

void machine_request_suspend(Machine *machine)
{
    machine->requested_suspend = true;
    vcpu_stop_self(); /* the processor that asks for sleep executes nothing more */
    request(machine);
}

void machine_request_wakeup(Machine *machine, WakeReason reason)
{
    if (posted(machine, REQUEST_WAKEUP, reason)) {
        return;
    }
    machine->requested_wakeup = reason;
    request(machine);
}

void machine_request_stop(Machine *machine, RunState state)
{
    machine->requested_stop_state = state;
    machine->requested_stop = true;
    request(machine);
}

static void shut_down(Machine *machine, ShutdownCause cause)
{
    g_autofree char *json = cause_json(cause);
    machine_notify(machine, MACHINE_EVENT_SHUTDOWN, NULL);
    machine_emit(machine, "SHUTDOWN", json);
    bool by_user = cause == SHUTDOWN_HOST_SIGNAL || cause == SHUTDOWN_HOST_UI || cause == SHUTDOWN_HOST_QMP_QUIT;
    if (machine->actions.no_shutdown && !by_user) { /* so the guest's, and what -no-reboot makes one */
        machine_stop(machine, RUN_STATE_SHUTDOWN);
        return;
    }
    stand_still(machine, RUN_STATE_SHUTDOWN); /* clients do not hear of this stop */
    loop_quit(machine->loop);
}

static void suspend(Machine *machine)
{
    if (machine_running(machine)) {
        machine_pause_vcpus(machine);
        enter_state(machine, RUN_STATE_SUSPENDED);
    } else { /* stopped before the request was seen */
        machine->stopped_suspended = true;
    }
    machine_notify(machine, MACHINE_EVENT_SUSPEND, NULL);
    machine_emit(machine, "SUSPEND", NULL);
}

static void wake_up(Machine *machine, WakeReason reason)
{
    if (machine->state != RUN_STATE_SUSPENDED) {
        return;
    }
    machine_reset(machine, SHUTDOWN_NONE);
    machine_notify(machine, MACHINE_EVENT_WAKEUP, &reason);
    enter_state(machine, RUN_STATE_RUNNING);
    machine_emit(machine, "WAKEUP", NULL);
    machine_resume_vcpus(machine);
}

static ShutdownCause taken_cause(ShutdownCause *cause)
{
    return __atomic_exchange_n(cause, SHUTDOWN_NONE, __ATOMIC_ACQ_REL);
}

void machine_shutdown(Machine *machine, ShutdownCause cause)
{
    shut_down(machine, cause);
}

static void handle_requests(void *opaque)
{
    Machine *machine = opaque;
    ShutdownCause cause = machine->requested_shutdown;

    if (machine->holds && (!cause || shutdown_cause_is_guest(cause))) {
        return; /* machine_release() comes back to it */
    }
    cause = taken_cause(&machine->requested_shutdown);
    if (cause) {
        shut_down(machine, cause);
    }
    if (machine->holds) {
        return;
    }
    cause = taken_cause(&machine->requested_reset);
    if (cause && machine->actions.no_reboot && cause != SHUTDOWN_SNAPSHOT_LOAD) {
        shut_down(machine, cause);
    } else if (cause) {
        machine_reset(machine, cause);
    }
    if (taken(&machine->requested_powerdown)) {
        machine_notify(machine, MACHINE_EVENT_POWERDOWN, NULL);
        machine_emit(machine, "POWERDOWN", NULL);
    }
    if (taken(&machine->requested_suspend)) {
        suspend(machine);
    }
    WakeReason reason = __atomic_exchange_n(&machine->requested_wakeup, WAKE_NONE, __ATOMIC_ACQ_REL);
    if (reason) {
        wake_up(machine, reason);
    }
    if (taken(&machine->requested_stop)) {
        machine_stop(machine, machine->requested_stop_state);
    }
    if (machine->icount && machine_running(machine)) { /* a vCPU that asked for something stopped itself */
        machine_pause_vcpus(machine);
        machine_resume_vcpus(machine);
    }
}
