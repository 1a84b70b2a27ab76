#include "firmware/bootorder.h"

#include <string.h>

#include "firmware/fw_cfg.h"

#define SERVICE "bootorder"

typedef struct Entry {
    int32_t index;
    unsigned sequence;
    char *path;
    Device *dev; /* NULL: given by bootorder_add() */
} Entry;

static void entry_free(gpointer ptr)
{
    Entry *entry = ptr;
    g_free(entry->path);
    g_free(entry);
}

static GPtrArray *extra_paths(Machine *machine)
{
    GPtrArray *list = machine_service(machine, SERVICE);
    if (!list) {
        list = g_ptr_array_new_with_free_func(entry_free);
        machine_set_service(machine, SERVICE, list);
    }
    return list;
}

void bootorder_free(Machine *machine)
{
    GPtrArray *list = machine_service(machine, SERVICE);
    if (list) {
        machine_set_service(machine, SERVICE, NULL);
        g_ptr_array_unref(list);
    }
}

static Entry *entry_new(GPtrArray *list, int32_t index, char *path, Device *dev)
{
    Entry *entry = g_new0(Entry, 1);
    *entry = (Entry) { index, list->len, path, dev };
    g_ptr_array_add(list, entry);
    return entry;
}

void bootorder_add(Machine *machine, int32_t bootindex, const char *path)
{
    entry_new(extra_paths(machine), bootindex, g_strdup(path), NULL);
}

char *bootorder_device_path(Device *dev)
{
    if (!dev || !dev->bus) {
        return g_strdup("");
    }
    g_autofree char *above = bootorder_device_path(dev->bus->parent);
    g_autofree char *own = dev->bus->type->device_path ? dev->bus->type->device_path(dev) : NULL;
    const char *unit = device_type(dev)->boot_unit;
    bool pci_root = !*above && !strcmp(dev->bus->type->name, "PCI");
    return g_strconcat(pci_root ? "/pci@i0cf8" : above, own && *own ? "/" : "", own ? own : "", unit ? "/" : "",
                       unit, NULL);
}

static int compare_entries(gconstpointer a, gconstpointer b)
{
    const Entry *x = *(Entry *const *)a, *y = *(Entry *const *)b;
    return x->index != y->index ? (x->index < y->index ? -1 : 1) : (int)x->sequence - (int)y->sequence;
}

/* The number of a property that only some devices have; 0: none. */
static uint32_t number_of(Device *dev, const char *prop)
{
    g_autofree char *text = NULL;
    uint64_t value = 0;
    if (!object_prop_find(dev->object.type, prop)) {
        return 0;
    }
    Error *err = object_get(&dev->object, prop, &text);
    err = err ? err : parse_u64(text, &value);
    error_free(err);
    return (uint32_t)value;
}

/* A file that was never needed is not made; one that is there becomes empty when the last line goes. */
static Error *publish(Machine *machine, const char *name, const GString *text)
{
    size_t length;
    if (text->len == 0 && !fw_cfg_file_data(machine->fw_cfg, name, &length)) {
        return NULL;
    }
    return fw_cfg_add_file(machine->fw_cfg, name, text->str, text->len ? text->len + 1 : 0);
}

/* Logical geometries that the user gave disks: "path cylinders heads sectors" lines. */
static Error *publish_geometries(Machine *machine)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        uint32_t cyls = number_of(dev, "lcyls"), heads = number_of(dev, "lheads"), secs = number_of(dev, "lsecs");
        if (cyls || heads || secs) {
            g_autofree char *path = bootorder_device_path(dev);
            g_string_append_printf(text, "%s%s %u %u %u", text->len ? "\n" : "", path, cyls, heads, secs);
        }
    }
    return publish(machine, "bios-geometry", text);
}

Error *bootorder_publish(Machine *machine)
{
    TRY(publish_geometries(machine));

    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(entry_free);
    g_autoptr(GString) text = g_string_new(NULL);
    GPtrArray *extra = extra_paths(machine);

    for (guint i = 0; i < extra->len; i++) {
        const Entry *entry = g_ptr_array_index(extra, i);
        entry_new(all, entry->index, g_strdup(entry->path), NULL);
    }
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        if (dev->bootindex >= 0) {
            entry_new(all, dev->bootindex, bootorder_device_path(dev), dev);
        }
    }
    g_ptr_array_sort(all, compare_entries);
    for (guint i = 0; i < all->len; i++) {
        const Entry *entry = g_ptr_array_index(all, i), *last = i ? g_ptr_array_index(all, i - 1) : NULL;
        if (last && last->dev && entry->dev && last->index == entry->index) {
            return error_new("the bootindex %d is used by two devices, '%s' and '%s'", entry->index,
                             device_label(last->dev), device_label(entry->dev));
        }
        g_string_append_printf(text, "%s%s", i ? "\n" : "", entry->path);
    }
    return publish(machine, "bootorder", text);
}
