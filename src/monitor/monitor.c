#include "monitor/monitor.h"

#include <string.h>
#include <sys/time.h>

#include "base/error.h"
#include "monitor/monitor_priv.h"

/* Events that a guest could send without limit: one a second goes out, the last one is not lost. */
typedef struct Throttle {
    Monitors *set;
    char *key; /* of set->throttled */
    Timer timer;
    Value *pending; /* the whole message */
} Throttle;

/* source: the member of the data that says who sent it; each has a limit of its own. */
static const struct {
    const char *event, *source;
} throttled_events[] = {
    { "RTC_CHANGE", NULL },
    { "WATCHDOG", NULL },
    { "BALLOON_CHANGE", NULL },
    { "QUORUM_FAILURE", NULL },
    { "QUORUM_REPORT_BAD", "node-name" },
    { "VSERPORT_CHANGE", "id" },
    { "MEMORY_DEVICE_SIZE_CHANGE", "qom-path" },
};

Monitors *monitors_of(Machine *machine)
{
    return machine_service(machine, "monitors");
}

static void throttle_free(gpointer data)
{
    Throttle *throttle = data;
    timer_fini(&throttle->timer);
    value_free(throttle->pending);
    g_free(throttle->key);
    g_free(throttle);
}

static void on_machine_event(void *opaque, const char *event, const char *json)
{
    Value *data = NULL;

    if (json) {
        Error *err = json_parse(json, strlen(json), &data);
        assert(!err); /* our own text */
    }
    monitor_emit(((Monitors *)opaque)->machine, event, data);
}

static bool on_virtio_transport(const Device *dev)
{
    const ObjectType *type = dev->object.type;
    while (type && strcmp(type->name, "virtio-pci")) {
        type = type->parent;
    }
    return type != NULL;
}

/* Clients know the part of a virtio device that is behind the transport as a device without an id. */
static void emit_device_deleted(Machine *machine, Device *dev)
{
    g_autofree char *path = object_path(&dev->object);
    if (on_virtio_transport(dev)) {
        g_autofree char *part = g_strconcat(path, "/virtio-backend", NULL);
        Value *before = value_dict();
        value_put_str(before, "path", part);
        monitor_emit(machine, "DEVICE_DELETED", before);
    }
    Value *data = value_dict();

    if (dev->object.parent && g_strcmp0(dev->object.parent->id, "peripheral") == 0) {
        value_put_str(data, "device", dev->object.id);
    }
    value_put_str(data, "path", path);
    monitor_emit(machine, "DEVICE_DELETED", data);
}

static void on_notify(MachineNotifier *notifier, MachineEvent event, void *data)
{
    Monitors *set = container_of(notifier, Monitors, notifier);

    if (event == MACHINE_EVENT_DEVICE_DELETED) {
        emit_device_deleted(set->machine, data);
    }
}

Error *monitors_init(Machine *machine)
{
    Monitors *set = g_new0(Monitors, 1);

    set->machine = machine;
    list_init(&set->list);
    set->format = 'x';
    set->size = 'w';
    set->throttled = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, throttle_free);
    machine_set_service(machine, "monitors", set);
    machine_set_emitter(machine, on_machine_event, set);
    set->notifier.fn = on_notify;
    machine_notifier_add(machine, &set->notifier);
    return NULL;
}

void monitors_set_daemon(Machine *machine)
{
    monitors_of(machine)->daemon = true;
}

bool monitor_serves(const Monitor *monitor)
{
    const Machine *machine = monitor->set->machine;
    return (machine->launched && !machine->starting) || machine->preconfig || monitor->set->daemon;
}

void monitors_serve(Machine *machine)
{
    LIST_FOREACH (monitor, &monitors_of(machine)->list, Monitor, node) {
        char_accept_input(&monitor->front);
    }
}

static void monitor_free(Monitor *monitor)
{
    list_remove(&monitor->node);
    if (monitor->control) {
        qmp_monitor_close(monitor);
    } else {
        hmp_monitor_close(monitor);
    }
    char_front_close(&monitor->front);
    g_free(monitor);
}

void monitors_free(Machine *machine)
{
    Monitors *set = monitors_of(machine);

    if (!set) {
        return;
    }
    machine_set_emitter(machine, NULL, NULL);
    list_remove(&set->notifier.node);
    machine_set_service(machine, "monitors", NULL);
    while (!list_empty(&set->list)) {
        monitor_free(LIST_FIRST(&set->list, Monitor, node));
    }
    g_hash_table_unref(set->throttled);
    g_free(set);
}

Error *monitor_add(Machine *machine, const char *chardev, bool control, bool pretty)
{
    Monitors *set = monitors_of(machine);
    Chardevs *chardevs = machine_service(machine, "chardevs");
    Chardev *chr = chardevs ? chardev_find(chardevs, chardev) : NULL;
    Monitor *monitor;

    if (!chr) {
        return error_new("chardev \"%s\" not found", chardev);
    }
    if (control && chr->mux) {
        return error_new("QMP monitor on chardev '%s': a multiplexed chardev serves people, not programs", chardev);
    }
    monitor = g_new0(Monitor, 1);
    Error *err = char_front_attach(&monitor->front, chr);
    if (err) {
        g_free(monitor);
        return err;
    }
    monitor->set = set;
    monitor->control = control;
    monitor->pretty = pretty;
    list_append(&set->list, &monitor->node);
    if (control) {
        qmp_monitor_open(monitor);
        char_front_open(&monitor->front, &qmp_front_ops, monitor);
    } else {
        hmp_monitor_open(monitor);
        char_front_open(&monitor->front, &hmp_front_ops, monitor);
    }
    return NULL;
}

/* --- events --- */

/* The members in the schema's order, as scripts that compare text expect. */
static Value *in_order(const char *event, Value *data)
{
    const QmpEvent *known = qmp_events;

    while (known->name && strcmp(known->name, event)) {
        known++;
    }
    if (!known->name || !data) {
        return data;
    }
    Value *ordered = value_dict();
    for (const QmpMember *member = known->members; member->name; member++) {
        const Value *item = value_find(data, member->name);
        if (item) {
            value_put(ordered, member->name, value_copy(item));
        }
    }
    for (size_t n = 0; n < value_length(data); n++) {
        const char *key = value_key_at(data, n);
        if (!value_find(ordered, key)) {
            value_put(ordered, key, value_copy(value_item_at(data, n)));
        }
    }
    value_free(data);
    return ordered;
}

static Value *event_message(const char *event, Value *data)
{
    Value *message = value_dict(), *stamp = value_dict();
    struct timeval now;

    gettimeofday(&now, NULL);
    value_put_int(stamp, "seconds", now.tv_sec);
    value_put_int(stamp, "microseconds", now.tv_usec);
    value_put(message, "timestamp", stamp);
    value_put_str(message, "event", event);
    if (data) {
        value_put(message, "data", data);
    }
    return message;
}

static void broadcast(Monitors *set, const Value *message)
{
    LIST_FOREACH_SAFE (monitor, &set->list, Monitor, node) {
        if (monitor->control && monitor->negotiated) {
            qmp_send(monitor, message);
        }
    }
}

static void arm(Throttle *throttle)
{
    int64_t now = clock_now(throttle->set->machine->clocks, CLOCK_REALTIME_NS);
    timer_set(&throttle->timer, now + NS_PER_SEC);
}

static void throttle_over(void *opaque)
{
    Throttle *throttle = opaque;

    if (!throttle->pending) {
        g_hash_table_remove(throttle->set->throttled, throttle->key);
        return;
    }
    g_autoptr(Value) message = g_steal_pointer(&throttle->pending);
    broadcast(throttle->set, message);
    arm(throttle);
}

/* NULL: no limit. Otherwise the caller frees it. */
static char *throttle_key(const char *event, const Value *data)
{
    for (size_t n = 0; n < G_N_ELEMENTS(throttled_events); n++) {
        if (!strcmp(throttled_events[n].event, event)) {
            const char *member = throttled_events[n].source;
            const Value *source = member && data ? value_find(data, member) : NULL;
            return g_strconcat(event, source ? ":" : NULL, source ? value_get_str(source) : NULL, NULL);
        }
    }
    return NULL;
}

/* True: the message was kept for later. Takes key. */
static bool hold_back(Monitors *set, char *key, Value *message)
{
    Throttle *throttle = g_hash_table_lookup(set->throttled, key);

    if (throttle) {
        g_free(key);
        value_free(throttle->pending);
        throttle->pending = message;
        return true;
    }
    throttle = g_new0(Throttle, 1);
    throttle->set = set;
    throttle->key = key;
    timer_init(&throttle->timer, set->machine->loop, CLOCK_REALTIME_NS, throttle_over, throttle);
    g_hash_table_insert(set->throttled, key, throttle);
    arm(throttle);
    return false;
}

void monitor_emit(Machine *machine, const char *event, Value *data)
{
    Monitors *set = monitors_of(machine);

    if (!set) {
        value_free(data);
        return;
    }
    char *key = throttle_key(event, data);
    Value *message = event_message(event, in_order(event, data));
    if (!key || !hold_back(set, key, message)) {
        broadcast(set, message);
        value_free(message);
    }
}
