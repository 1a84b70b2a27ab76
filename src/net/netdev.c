/* -netdev: finding the driver, checking options, help. */
#include <string.h>

#include "net/net.h"

static const NetdevDriver *find_driver(const char *name)
{
    SECTION_FOREACH (netdev_drivers, NetdevDriver, it) {
        if (!strcmp((*it)->name, name)) {
            return *it;
        }
    }
    return NULL;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static GPtrArray *driver_names(void)
{
    GPtrArray *names = g_ptr_array_new();
    SECTION_FOREACH (netdev_drivers, NetdevDriver, it) {
        g_ptr_array_add(names, (void *)(*it)->name);
    }
    g_ptr_array_sort(names, compare_names);
    g_ptr_array_add(names, NULL);
    return names;
}

static Error *unknown_driver(const char *type)
{
    g_autoptr(GPtrArray) names = driver_names();
    const char *near = nearest_in(type, (const char *const *)names->pdata);
    g_autofree char *all = g_strjoinv(", ", (char **)names->pdata);
    return near ? error_new("-netdev: unknown type '%s', did you mean '%s'?", type, near)
                : error_new("-netdev: unknown type '%s'; there are: %s", type, all);
}

Error *netdev_create(Machine *machine, KeyValues *kv)
{
    const char *type = keyvalues_get(kv, "type"), *id = keyvalues_get(kv, "id");
    NetPort *port;

    if (!type) {
        return error_new("-netdev: the type is missing");
    }
    const NetdevDriver *driver = find_driver(type);
    if (!driver) {
        return unknown_driver(type);
    }
    if (!id || !*id) {
        return error_new("-netdev %s: id= is missing", type);
    }
    if (net_port_find(machine, id)) {
        return error_new("-netdev: there is a '%s' already", id);
    }
    const char *known[64] = { "type", "id" };
    size_t count = 2;
    for (const NetdevOption *option = driver->options; option && option->name && count < ARRAY_SIZE(known) - 1; option++) {
        known[count++] = option->name;
    }
    for (guint i = 0; i < kv->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(kv->items, i);
        g_autofree char *stem = g_strndup(item->key, strcspn(item->key, "."));
        if (!g_strv_contains(known, item->key) && !g_strv_contains(known, stem)) {
            const char *near = nearest_in(item->key, known);
            return near ? error_new("-netdev %s: there is no option '%s', did you mean '%s'?", type, item->key, near)
                        : error_new("-netdev %s: there is no option '%s'", type, item->key);
        }
    }
    Error *err = driver->create(machine, id, kv, &port);
    return err ? error_prefix(err, "-netdev %s,id=%s: ", type, id) : NULL;
}

Error *netdev_delete(Machine *machine, const char *id)
{
    NetPort *port = net_port_find(machine, id);
    if (!port || !port->ops->destroy) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    }
    port->ops->destroy(port);
    return NULL;
}

char *netdev_help(void)
{
    g_autoptr(GPtrArray) names = driver_names();
    GString *out = g_string_new("Kinds of -netdev:\n");
    for (guint i = 0; names->pdata[i]; i++) {
        g_string_append_printf(out, "%s\n", (char *)names->pdata[i]);
    }
    return g_string_free(out, FALSE);
}

Error *netdev_type_help(const char *type, char **ret_text)
{
    const NetdevDriver *driver = find_driver(type);
    if (!driver) {
        return unknown_driver(type);
    }
    GString *out = g_string_new(NULL);
    g_string_append_printf(out, "%s: %s\n", driver->name, driver->desc);
    for (const NetdevOption *option = driver->options; option && option->name; option++) {
        g_string_append_printf(out, "  %s=<%s>%*s - %s\n", option->name, option->kind, MAX(1, 24 - (int)strlen(option->name) - (int)strlen(option->kind)),
                               "", option->help);
    }
    *ret_text = g_string_free(out, FALSE);
    return NULL;
}
