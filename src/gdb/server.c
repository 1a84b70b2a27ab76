/* Connections of a debugger: bytes, acknowledgements, what happens when the machine stops. See gdb.h. */
#include <signal.h>
#include <string.h>

#include "gdb/gdb_priv.h"

/* --- sending --- */

void gdb_send_bytes(Gdb *gdb, const char *payload, size_t length)
{
    g_string_truncate(gdb->last, 0);
    gdb_frame(gdb->last, payload, length);
    char_write_all(&gdb->front, gdb->last->str, gdb->last->len);
}

void gdb_send(Gdb *gdb, const char *payload)
{
    gdb_send_bytes(gdb, payload, strlen(payload));
}

Vcpu *gdb_vcpu(Gdb *gdb, unsigned index)
{
    Vcpu *vcpu = vcpu_at(gdb->machine, index);
    return vcpu ? vcpu : g_ptr_array_index(gdb->machine->vcpus, 0);
}

/* The signal numbers of the protocol. */
static unsigned signal_of(RunState state)
{
    switch (state) {
    case RUN_STATE_RUNNING:
        return 0;
    case RUN_STATE_PAUSED:
        return 2; /* SIGINT */
    case RUN_STATE_SHUTDOWN:
        return 3; /* SIGQUIT */
    case RUN_STATE_IO_ERROR:
        return 23; /* SIGIO */
    case RUN_STATE_WATCHDOG:
        return 14; /* SIGALRM */
    case RUN_STATE_INTERNAL_ERROR:
        return 6; /* SIGABRT */
    default:
        return 5; /* SIGTRAP */
    }
}

void gdb_send_stop(Gdb *gdb)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const DebugPoints *points = &gdb->points;

    if (points->vcpu) {
        gdb->general = gdb->control = points->vcpu->index;
    }
    g_string_printf(text, "T%02xthread:%02x;", signal_of(gdb->machine->state), gdb_vcpu(gdb, gdb->general)->index + 1);
    if (points->vcpu && points->hit.kind != DEBUG_EXEC) {
        const char *kind = points->hit.kind == DEBUG_WRITE ? "watch" : points->hit.kind == DEBUG_READ ? "rwatch" : "awatch";
        g_string_append_printf(text, "%s:%" G_GINT64_MODIFIER "x;", kind, points->hit.addr);
    }
    gdb_send(gdb, text->str);
}

static void machine_event(MachineNotifier *notifier, MachineEvent event, void *data)
{
    Gdb *gdb = container_of(notifier, Gdb, notifier);
    RunState state = gdb->machine->state;
    bool passing = state == RUN_STATE_SAVE_VM || state == RUN_STATE_RESTORE_VM || state == RUN_STATE_SUSPENDED ||
                   state == RUN_STATE_FINISH_MIGRATE;

    if (event == MACHINE_EVENT_STATE && gdb->resumed && !gdb->busy && state != RUN_STATE_RUNNING && !passing) {
        gdb->resumed = false;
        gdb_send_stop(gdb);
    }
    if (event == MACHINE_EVENT_DEVICE_DELETED && gdb->points.vcpu && data == &gdb->points.vcpu->dev) {
        gdb->points.vcpu = NULL;
    }
    if (event == MACHINE_EVENT_DEVICE_ADDED && gdb->points.points->len && device_type(data)->category == DEV_CPU) {
        machine_pause_vcpus(gdb->machine); /* the points are its, too */
        debug_points_changed(gdb->machine, &gdb->points);
        machine_resume_vcpus(gdb->machine);
    }
}

void gdb_forget_points(Gdb *gdb)
{
    if (gdb->points.points->len == 0) {
        return;
    }
    g_array_set_size(gdb->points.points, 0);
    gdb->points.data = 0;
    machine_pause_vcpus(gdb->machine);
    debug_points_changed(gdb->machine, NULL);
    machine_resume_vcpus(gdb->machine);
}

/* --- receiving --- */

static size_t can_receive(void *opaque)
{
    return 4096;
}

static void interrupt(Gdb *gdb)
{
    if (machine_running(gdb->machine)) {
        gdb->points.vcpu = NULL;
        machine_stop(gdb->machine, RUN_STATE_PAUSED);
    }
}

static void acknowledge(Gdb *gdb, const char *sign)
{
    if (!gdb->no_ack) {
        char_write_all(&gdb->front, sign, 1);
    }
}

static void receive_byte(Gdb *gdb, uint8_t byte)
{
    switch (gdb_reader_byte(&gdb->reader, byte)) {
    case GDB_PACKET:
        if (gdb->busy) {
            break; /* gdb waits for its answer before it sends the next */
        }
        acknowledge(gdb, "+");
        gdb->commanding = true;
        gdb_command(gdb, gdb->reader.text, gdb->reader.length);
        gdb->commanding = false;
        break;
    case GDB_BAD:
        acknowledge(gdb, "-");
        break;
    case GDB_INTERRUPT:
        interrupt(gdb);
        break;
    case GDB_NACK:
        char_write_all(&gdb->front, gdb->last->str, gdb->last->len);
        break;
    case GDB_ACK:
    case GDB_MORE:
        break;
    }
}

static void receive(void *opaque, const uint8_t *buf, size_t length)
{
    Gdb *gdb = opaque;
    for (size_t i = 0; i < length && char_front_attached(&gdb->front); i++) {
        receive_byte(gdb, buf[i]);
    }
}

static void connection(void *opaque, CharEvent event)
{
    Gdb *gdb = opaque;

    if (event == CHAR_EVENT_OPENED) {
        gdb->reader.state = GDB_IDLE;
        gdb->no_ack = gdb->physical = gdb->resumed = false;
        gdb->general = gdb->control = 0;
        g_string_truncate(gdb->last, 0);
        interrupt(gdb);
    } else if (event == CHAR_EVENT_CLOSED) {
        gdb->resumed = false;
        gdb_forget_points(gdb);
    }
}

static const CharFrontOps front_ops = { .can_receive = can_receive, .receive = receive, .event = connection };

/* --- life --- */

static MUST_USE Error *open_chardev(Gdb *gdb, const char *device, Chardev **ret_chr)
{
    Chardevs *set = machine_service(gdb->machine, "chardevs");
    g_autoptr(KeyValues) kv = NULL;
    bool socket = g_str_has_prefix(device, "tcp:") && !strstr(device, "server"), wants_monitor;
    g_autofree char *text = socket ? g_strconcat(device, ",server=on,wait=off,nodelay=on", NULL) : g_strdup(device);

    TRY(chardev_parse_short(text, "gdb", &kv, &wants_monitor));
    if (!kv || wants_monitor) {
        return error_new("gdb: '%s' is not a device to listen on", device);
    }
    if (!keyvalues_get(kv, "backend")) {
        *ret_chr = chardev_find(set, keyvalues_get(kv, "id"));
        return *ret_chr ? NULL : error_new("gdb: there is no chardev '%s'", keyvalues_get(kv, "id"));
    }
    TRY(chardev_add(set, kv, ret_chr));
    gdb->own_chardev = g_strdup(chardev_id(*ret_chr));
    return NULL;
}

static void gdb_free(Gdb *gdb)
{
    list_remove(&gdb->notifier.node);
    char_front_close(&gdb->front);
    if (gdb->own_chardev) {
        error_free(chardev_remove(machine_service(gdb->machine, "chardevs"), gdb->own_chardev));
    }
    g_free(gdb->own_chardev);
    g_array_unref(gdb->points.points);
    g_string_free(gdb->last, TRUE);
    g_free(gdb);
}

Error *gdb_start(Machine *machine, const char *device)
{
    Chardev *chr;
    const Gdb *old = machine_service(machine, GDB_SERVICE);

    if (old && old->commanding) {
        return error_new("gdb: its connection is in use by this very command; give it to another monitor");
    }
    gdb_stop(machine);
    if (!strcmp(device, "none")) {
        return NULL;
    }
    const Vcpu *first = machine->vcpus->len ? g_ptr_array_index(machine->vcpus, 0) : NULL;
    if (!first || !first->ops->gdb) {
        return error_new("gdb: this machine has no CPU to debug");
    }
    Gdb *gdb = g_new0(Gdb, 1);
    gdb->machine = machine;
    gdb->last = g_string_new(NULL);
    gdb->points.points = g_array_new(FALSE, FALSE, sizeof(DebugPoint));
    gdb->notifier.fn = machine_event;
    machine_notifier_add(machine, &gdb->notifier);
    Error *err = open_chardev(gdb, device, &chr);
    if (!err) {
        err = char_front_attach(&gdb->front, chr);
    }
    if (err) {
        gdb_free(gdb);
        return err;
    }
    machine_set_service(machine, GDB_SERVICE, gdb);
    char_front_open(&gdb->front, &front_ops, gdb);
    return NULL;
}

void gdb_stop(Machine *machine)
{
    Gdb *gdb = machine_service(machine, GDB_SERVICE);

    if (!gdb) {
        return;
    }
    machine_set_service(machine, GDB_SERVICE, NULL);
    gdb_forget_points(gdb);
    if (char_front_connected(&gdb->front)) {
        g_autofree char *gone = g_strdup_printf("W%02x", machine->exit_code & 0xff);
        gdb_send(gdb, gone);
    }
    gdb_free(gdb);
}
