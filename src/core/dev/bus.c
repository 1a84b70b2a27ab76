/* Buses: who sits where. */
#include <string.h>

#include "core/dev/dev_priv.h"

static char *bus_make_name(const BusType *type, Machine *machine, Device *parent)
{
    unsigned n = 0;
    g_autofree char *lower = g_ascii_strdown(type->name, -1);

    if (parent && parent->object.id && parent->object.parent == object_resolve(machine->root, "/machine/peripheral")) {
        LIST_FOREACH (bus, &parent->buses, Bus, node) {
            n++;
        }
        return g_strdup_printf("%s.%u", parent->object.id, n);
    }
    for (;; n++) {
        g_autofree char *name = g_strdup_printf("%s.%u", lower, n);
        if (!bus_find(machine, name)) {
            return g_steal_pointer(&name);
        }
    }
}

void bus_init(Bus *bus, const BusType *type, Machine *machine, Device *parent, const char *name)
{
    *bus = (Bus) { .type = type, .machine = machine, .parent = parent };
    bus->name = name ? g_strdup(name) : bus_make_name(type, machine, parent);
    list_init(&bus->devices);
    list_append(parent ? &parent->buses : &machine->buses, &bus->node);
}

void bus_fini(Bus *bus)
{
    if (!bus->type) {
        return;
    }
    while (!list_empty(&bus->devices)) {
        device_unplug(container_of(bus->devices.head.prev, Device, bus_node));
    }
    list_remove(&bus->node);
    g_clear_pointer(&bus->name, g_free);
    bus->type = NULL;
}

typedef bool BusMatch(Bus *bus, const void *arg);

static Bus *search_buses(List *buses, BusMatch *match, const void *arg)
{
    LIST_FOREACH (bus, buses, Bus, node) {
        if (match(bus, arg)) {
            return bus;
        }
        LIST_FOREACH (dev, &bus->devices, Device, bus_node) {
            Bus *found = search_buses(&dev->buses, match, arg);
            if (found) {
                return found;
            }
        }
    }
    return NULL;
}

/* Devices that sit on no bus may provide one, too. */
static Bus *search_machine(Machine *machine, BusMatch *match, const void *arg)
{
    Bus *found = search_buses(&machine->buses, match, arg);
    for (Device *dev = NULL; !found && (dev = machine_device_next(machine, dev));) {
        if (!dev->bus) {
            found = search_buses(&dev->buses, match, arg);
        }
    }
    return found;
}

static bool has_name(Bus *bus, const void *arg)
{
    return !strcmp(bus->name, arg);
}

Bus *bus_find(Machine *machine, const char *name)
{
    return search_machine(machine, has_name, name);
}

static bool has_room(Bus *bus, const void *arg)
{
    return bus->type == arg && !(bus->type->full && bus->type->full(bus));
}

static bool has_type(Bus *bus, const void *arg)
{
    return bus->type == arg;
}

Bus *bus_find_for(Machine *machine, const BusType *type)
{
    Bus *bus = search_machine(machine, has_room, type);
    return bus ? bus : search_machine(machine, has_type, type);
}

void bus_reset(Bus *bus)
{
    LIST_FOREACH (dev, &bus->devices, Device, bus_node) {
        device_reset(dev);
    }
    if (bus->type->reset) {
        bus->type->reset(bus);
    }
}
