/* Texts derived from the descriptors: -device help, -device NAME,help, info qtree. */
#include <string.h>

#include "core/dev/dev_priv.h"

const char *dev_category_name(DevCategory category)
{
    static const char *const names[DEV_CATEGORIES] = {
        [DEV_BRIDGE] = "Controller/Bridge/Hub", [DEV_USB] = "USB",     [DEV_STORAGE] = "Storage",
        [DEV_NETWORK] = "Network",              [DEV_INPUT] = "Input", [DEV_DISPLAY] = "Display",
        [DEV_SOUND] = "Sound",                  [DEV_MISC] = "Misc",   [DEV_CPU] = "CPU",
        [DEV_WATCHDOG] = "Watchdog",
    };
    return category < DEV_CATEGORIES ? names[category] : NULL;
}

char *device_types_help(void)
{
    g_autofree const DeviceType **all = device_types_sorted();
    GString *out = g_string_new(NULL);

    for (int category = 0; category < DEV_CATEGORIES; category++) {
        bool headed = false;
        for (const DeviceType **it = all; *it; it++) {
            const DeviceType *type = *it;
            if (type->category != (DevCategory)category) {
                continue;
            }
            if (!headed) {
                g_string_append_printf(out, "%s%s devices:\n", out->len ? "\n" : "",
                                       dev_category_name((DevCategory)category));
                headed = true;
            }
            g_string_append_printf(out, "name \"%s\"", type->object.name);
            if (type->bus) {
                g_string_append_printf(out, ", bus %s", type->bus->name);
            }
            if (type->alias) {
                g_string_append_printf(out, ", alias \"%s\"", type->alias);
            }
            if (type->desc) {
                g_string_append_printf(out, ", desc \"%s\"", type->desc);
            }
            g_string_append_c(out, '\n');
        }
    }
    return g_string_free(out, FALSE);
}

char *device_type_help(const DeviceType *type)
{
    g_autofree char *props = object_props_help(&type->object);
    return g_strdup_printf("%s options:\n%s", type->object.name, props);
}

static void describe_bus(GString *out, Bus *bus, unsigned indent);

typedef struct PropPrinter {
    GString *out;
    const Object *obj;
    unsigned indent;
} PropPrinter;

static void print_prop(void *opaque, const Prop *prop)
{
    PropPrinter *printer = opaque;
    if (prop->flags & PROP_HIDDEN) {
        return;
    }
    g_autofree char *text = prop->kind->get(printer->obj, prop);
    bool quoted = prop->kind->json == 's';
    g_string_append_printf(printer->out, quoted ? "%*s%s = \"%s\"\n" : "%*s%s = %s\n", (int)printer->indent, "",
                           prop->name, text ? text : "");
}

static void describe_device(GString *out, Device *dev, unsigned indent)
{
    PropPrinter printer = { out, &dev->object, indent + 2 };
    bool named = dev->object.parent && dev->object.parent->id && !strcmp(dev->object.parent->id, "peripheral");

    g_string_append_printf(out, "%*sdev: %s, id \"%s\"\n", (int)indent, "", dev->object.type->name,
                           named ? dev->object.id : "");
    object_props_foreach(dev->object.type, print_prop, &printer);
    if (dev->bus && dev->bus->type->device_describe) {
        g_autofree char *text = dev->bus->type->device_describe(dev);
        g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
        for (char **line = lines; *line; line++) {
            if (**line) {
                g_string_append_printf(out, "%*s%s\n", (int)indent + 2, "", *line);
            }
        }
    }
    LIST_FOREACH (bus, &dev->buses, Bus, node) {
        describe_bus(out, bus, indent + 2);
    }
}

static void describe_bus(GString *out, Bus *bus, unsigned indent)
{
    g_string_append_printf(out, "%*sbus: %s\n%*stype %s\n", (int)indent, "", bus->name, (int)indent + 2, "",
                           bus->type->name);
    LIST_FOREACH (dev, &bus->devices, Device, bus_node) {
        describe_device(out, dev, indent + 2);
    }
}

char *device_tree_describe(Machine *machine)
{
    GString *out = g_string_new("bus: main-system-bus\n  type System\n");
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        if (!dev->bus) {
            describe_device(out, dev, 2);
        }
    }
    LIST_FOREACH (bus, &machine->buses, Bus, node) {
        describe_bus(out, bus, 2);
    }
    return g_string_free(out, FALSE);
}
