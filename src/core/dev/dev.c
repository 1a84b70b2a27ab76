/* Device life: find the type, make, plug, reset, unplug, save and load. */
#include "core/dev/dev.h"

#include <string.h>

#include "base/endian.h"
#include "core/dev/dev_priv.h"

static void device_finalize(Object *obj);

static const Prop device_props[] = {
    PROP_BOOL("hotplugged", Device, hotplugged, false, .flags = PROP_READONLY | PROP_HIDDEN),
    { 0 },
};
const ObjectType device_object_type = { .name = "device", .size = sizeof(Device), .abstract = true,
                                        .props = device_props, .finalize = device_finalize };

const char *device_label(const Device *dev)
{
    return dev->object.id ? dev->object.id : dev->object.type->name;
}

const DeviceType *device_type_find(const char *name)
{
    SECTION_FOREACH (device_types, DeviceType, it) {
        const DeviceType *type = *it;
        if (!strcmp(type->object.name, name) || (type->alias && !strcmp(type->alias, name))) {
            return type;
        }
    }
    return NULL;
}

static int compare_types(const void *a, const void *b)
{
    const DeviceType *const *x = a, *const *y = b;
    return strcmp((*x)->object.name, (*y)->object.name);
}

const DeviceType **device_types_sorted(void)
{
    size_t count = (size_t)(__stop_device_types - __start_device_types), i = 0;
    const DeviceType **all = g_new0(const DeviceType *, count + 1);
    SECTION_FOREACH (device_types, DeviceType, it) {
        all[i++] = *it;
    }
    qsort(all, count, sizeof(*all), compare_types);
    return all;
}

static const char *next_user_type(void *opaque)
{
    const DeviceType ***cursor = opaque;
    while (**cursor && (**cursor)->category == DEV_INTERNAL) {
        ++*cursor;
    }
    return **cursor ? (*(*cursor)++)->object.name : NULL;
}

Error *device_type_lookup(const char *name, const DeviceType **ret_type)
{
    const DeviceType *type = device_type_find(name);
    if (type) {
        *ret_type = type;
        return NULL;
    }
    g_autofree const DeviceType **all = device_types_sorted();
    const DeviceType **cursor = all;
    const char *near = nearest_name(name, next_user_type, &cursor);
    if (near) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "'%s' is not a device type, did you mean '%s'?", name,
                               near);
    }
    return error_hint(error_new_class(ERROR_DEVICE_NOT_FOUND, "'%s' is not a device type", name),
                      "The list is shown by -device help.");
}

/* --- making --- */

static void apply_globals(Device *dev, const char *driver)
{
    const GPtrArray *list = g_hash_table_lookup(dev->machine->globals, driver);
    for (guint i = 0; list && i + 1 < list->len; i += 2) {
        Error *err = object_set(&dev->object, list->pdata[i], list->pdata[i + 1]);
        if (err) {
            warn_report("%s", error_message(err));
            error_free(err);
        }
    }
}

Device *device_new(Machine *machine, const DeviceType *type, const char *id)
{
    Device *dev = (Device *)object_new(&type->object);
    dev->machine = machine;
    dev->bootindex = -1;
    dev->object.id = g_strdup(id);
    dev->object.scope = machine->root;
    list_init(&dev->buses);
    list_init(&dev->owned);
    for (const ObjectType *t = type->object.parent; t; t = t->parent) {
        apply_globals(dev, t->name);
    }
    apply_globals(dev, type->object.name);
    return dev;
}

Error *device_set(Device *dev, const char *prop, const char *text)
{
    return object_set(&dev->object, prop, text);
}

void device_set_u64(Device *dev, const char *prop, uint64_t value)
{
    char text[24];
    g_snprintf(text, sizeof(text), "%" G_GUINT64_FORMAT, value);
    error_never(device_set(dev, prop, text));
}

void device_set_str(Device *dev, const char *prop, const char *text)
{
    error_never(device_set(dev, prop, text));
}

static Error *check_required(Device *dev)
{
    for (const ObjectType *type = dev->object.type; type; type = type->parent) {
        for (const Prop *prop = type->props; prop && prop->name; prop++) {
            if (prop->flags & PROP_REQUIRED) {
                g_autofree char *text = prop->kind->get(&dev->object, prop);
                if (!text || !*text) {
                    return error_new("%s: '%s' must be given", device_label(dev), prop->name);
                }
            }
        }
    }
    return NULL;
}

static Error *choose_bus(Device *dev, Bus **bus)
{
    const DeviceType *type = device_type(dev);
    if (!type->bus) {
        return NULL;
    }
    if (!*bus) {
        *bus = bus_find_for(dev->machine, type->bus);
    }
    if (!*bus) {
        return error_new("%s: this machine has no %s bus", type->object.name, type->bus->name);
    }
    if ((*bus)->type != type->bus) {
        return error_new("%s goes on a bus of kind %s, '%s' is of kind %s", type->object.name,
                         type->bus->name, (*bus)->name, (*bus)->type->name);
    }
    return NULL;
}

/* Gives the device its place in the tree: by id, or under a number. */
static void enter_tree(Device *dev)
{
    Machine *machine = dev->machine;
    g_autofree char *id = g_strdup(dev->object.id);
    Object *home = object_container_at(machine->root, id ? "/machine/peripheral" : "/machine/unattached");
    object_add_child(home, id ? id : "device[*]", &dev->object);
}

/* Undoes whatever of plugging was done; the object is gone afterwards. */
static void take_down(Device *dev)
{
    const DeviceType *type = device_type(dev);

    while (!list_empty(&dev->buses)) {
        bus_fini(container_of(dev->buses.head.prev, Bus, node));
    }
    if (type->unplug) {
        type->unplug(dev);
    }
    device_release_owned(dev);
    if (dev->bus) {
        if (dev->bus->type->detach) {
            dev->bus->type->detach(dev->bus, dev);
        }
        list_remove(&dev->bus_node);
        dev->bus = NULL;
    }
}

/* Runs when the object is freed, however that comes about. */
static void device_finalize(Object *obj)
{
    Device *dev = (Device *)obj;
    if (dev->plugged) {
        dev->plugged = false;
        g_queue_remove(dev->machine->device_order, dev);
        take_down(dev);
    }
}

static void free_unplugged(Device *dev)
{
    if (dev->object.parent) {
        object_unparent(&dev->object);
    } else {
        object_free(&dev->object);
    }
}

static MUST_USE Error *call_plug(Device *dev)
{
    const DeviceType *type = device_type(dev);
    Machine *machine = dev->machine;
    bool pause = type->plug_still && machine_running(machine);

    if (pause) {
        machine_pause_vcpus(machine);
    }
    mem_update_begin(machine->mem);
    Error *err = type->plug(dev);
    mem_update_end(machine->mem);
    if (pause) {
        machine_resume_vcpus(machine);
    }
    return err;
}

Error *device_plug(Device *dev, Bus *bus)
{
    const DeviceType *type = device_type(dev);
    Machine *machine = dev->machine;
    Error *err = check_required(dev);

    bool part = dev->object.parent != NULL;
    if (!err && !part && dev->object.id && object_resolve(object_container_at(machine->root, "/machine/peripheral"),
                                                          dev->object.id)) {
        err = error_new("there is a device with the id '%s' already", dev->object.id);
    }
    if (!err) {
        err = choose_bus(dev, &bus);
    }
    if (err) {
        free_unplugged(dev);
        return err;
    }
    if (!part) {
        enter_tree(dev);
    }
    if (bus) {
        err = bus->type->attach ? bus->type->attach(bus, dev) : NULL;
        if (!err) {
            dev->bus = bus;
            list_append(&bus->devices, &dev->bus_node);
        }
    }
    if (!err && type->plug) {
        err = call_plug(dev);
    }
    if (err) {
        while (!list_empty(&dev->object.children)) { /* its parts go first */
            object_unparent(container_of(dev->object.children.head.prev, Object, sibling));
        }
        take_down(dev);
        object_unparent(&dev->object);
        return err;
    }
    dev->plugged = true;
    dev->object.realized = true;
    g_queue_push_tail(machine->device_order, dev);
    device_reset(dev);
    machine_notify(machine, MACHINE_EVENT_DEVICE_ADDED, dev);
    return NULL;
}

Device *device_add_builtin(Machine *machine, const char *name, Bus *bus)
{
    const DeviceType *type = device_type_find(name);
    if (!type) {
        g_error("the board needs the device type '%s', which is not built in", name);
    }
    Device *dev = device_new(machine, type, NULL);
    error_never(device_plug(dev, bus));
    return dev;
}

static void unplug_later(void *opaque)
{
    device_unplug(opaque);
}

void device_unplug(Device *dev)
{
    Machine *machine = dev->machine;

    if (vcpu_self()) {
        /* A vCPU cannot wait for itself to stand still. */
        if (!dev->unplugging) {
            dev->unplugging = true;
            loop_defer(machine->loop, unplug_later, dev);
        }
        return;
    }
    bool running = machine_running(machine);

    /* vCPUs must not be inside a callback of a region that is about to go. */
    if (running) {
        machine_pause_vcpus(machine);
    }
    machine_notify(machine, MACHINE_EVENT_DEVICE_DELETED, dev);
    mem_update_begin(machine->mem);
    object_unparent(&dev->object);
    mem_update_end(machine->mem);
    if (running) {
        machine_resume_vcpus(machine);
    }
}

Error *device_unplug_request(Device *dev)
{
    const DeviceType *type = device_type(dev);
    if (!type->hotplug) {
        return error_new("%s: a %s cannot be unplugged", device_label(dev), type->object.name);
    }
    if (type->unplug_request) {
        return type->unplug_request(dev);
    }
    if (dev->bus && dev->bus->type->unplug_request) {
        return dev->bus->type->unplug_request(dev);
    }
    device_unplug(dev);
    return NULL;
}

void device_reset(Device *dev)
{
    const DeviceType *type = device_type(dev);

    LIST_FOREACH (bus, &dev->buses, Bus, node) {
        bus_reset(bus);
    }
    if (type->regs) {
        regs_reset(type->regs, dev);
    }
    if (type->reset) {
        type->reset(dev);
    }
}

Device *device_find(Machine *machine, const char *id_or_path)
{
    Object *obj;
    if (id_or_path[0] == '/') {
        obj = object_resolve(machine->root, id_or_path);
    } else {
        obj = object_child(object_container_at(machine->root, "/machine/peripheral"), id_or_path);
    }
    return obj && object_is_a(obj->type, &device_object_type) ? (Device *)obj : NULL;
}

/* --- saved state --- */

static uint32_t state_version(const DeviceType *type)
{
    return type->state_version ? type->state_version : 1;
}

void device_save(Device *dev, GByteArray *out)
{
    const DeviceType *type = device_type(dev);
    uint8_t version[4];

    if (type->saving) {
        type->saving(dev);
    }
    st32_le(version, state_version(type));
    g_byte_array_append(out, version, 4);
    for (const Reg *reg = type->regs; reg && reg->name; reg++) {
        g_byte_array_append(out, (uint8_t *)dev + reg->offset, reg->size * MAX(reg->count, 1u));
    }
    state_save(type->state, dev, out);
    if (dev->bus && dev->bus->type->device_save) {
        dev->bus->type->device_save(dev, out);
    }
}

Error *device_load(Device *dev, const uint8_t *data, size_t length)
{
    TRY(device_load_rows(dev, data, length));
    return device_load_finish(dev);
}

Error *device_load_finish(Device *dev)
{
    const DeviceType *type = device_type(dev);
    return type->loaded ? type->loaded(dev) : NULL;
}

Error *device_load_rows(Device *dev, const uint8_t *data, size_t length)
{
    const DeviceType *type = device_type(dev);
    const uint8_t *end = data + length;

    if (length < 4) {
        return error_new("%s: the saved state ends too early", device_label(dev));
    }
    uint32_t version = ld32_le(data);
    if (version > state_version(type) || version < type->state_min_version) {
        return error_new("%s: the saved state has version %u, this program knows up to %u", device_label(dev),
                         version, state_version(type));
    }
    data += 4;
    for (const Reg *reg = type->regs; reg && reg->name; reg++) {
        size_t bytes = reg->size * MAX(reg->count, 1u);
        if ((size_t)(end - data) < bytes) {
            return error_new("%s: the saved state ends too early", device_label(dev));
        }
        memcpy((uint8_t *)dev + reg->offset, data, bytes);
        data += bytes;
    }
    TRY(state_load(device_label(dev), type->state, dev, &data, end));
    if (dev->bus && dev->bus->type->device_load) {
        TRY(dev->bus->type->device_load(dev, &data, end));
    }
    if (data != end) {
        return error_new("%s: the saved state is longer than expected", device_label(dev));
    }
    return NULL;
}
