#include "ui/display.h"

#include <string.h>

static const DisplayDriver *find_driver(const char *name)
{
    SECTION_FOREACH (display_drivers, DisplayDriver, it) {
        if (!strcmp((*it)->name, name)) {
            return *it;
        }
    }
    return NULL;
}

static Error *unknown_display(const char *name)
{
    const char *names[16] = { "none" };
    size_t count = 1;
    SECTION_FOREACH (display_drivers, DisplayDriver, it) {
        if (count < ARRAY_SIZE(names) - 1) {
            names[count++] = (*it)->name;
        }
    }
    const char *near = nearest_in(name, names);
    g_autofree char *all = g_strjoinv(", ", (char **)names);
    return near ? error_new("-display: there is no display '%s', did you mean '%s'?", name, near)
                : error_new("-display: there is no display '%s'; there are: %s", name, all);
}

/* The driver (NULL: none) and its options. */
static Error *parse(const char *text, const DisplayDriver **ret_driver, KeyValues **ret_options)
{
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(text, "type", &kv));
    const char *name = keyvalues_get(kv, "type");
    if (!name) {
        return error_new("-display: the type is missing");
    }
    const DisplayDriver *driver = find_driver(name);
    if (!driver && strcmp(name, "none")) {
        return unknown_display(name);
    }
    for (guint i = 0; i < kv->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(kv->items, i);
        if (strcmp(item->key, "type") && (!driver || !g_strv_contains(driver->options, item->key))) {
            const char *near = driver ? nearest_in(item->key, driver->options) : NULL;
            return near ? error_new("-display %s: there is no option '%s', did you mean '%s'?", name, item->key, near)
                        : error_new("-display %s: there is no option '%s'", name, item->key);
        }
    }
    *ret_driver = driver;
    *ret_options = g_steal_pointer(&kv);
    return NULL;
}

Error *display_check(const char *text)
{
    const DisplayDriver *driver;
    g_autoptr(KeyValues) kv = NULL;
    return parse(text, &driver, &kv);
}

static const DisplayDriver *best_available(void)
{
    const DisplayDriver *best = NULL;
    SECTION_FOREACH (display_drivers, DisplayDriver, it) {
        if ((*it)->available && (*it)->available() && (!best || (*it)->preference > best->preference)) {
            best = *it;
        }
    }
    return best;
}

static MUST_USE Error *start(Machine *machine, const DisplayDriver *driver, KeyValues *options)
{
    TRY(driver->start(machine, options));
    machine_set_service(machine, DISPLAY_SERVICE, (void *)driver);
    return NULL;
}

Error *display_start(Machine *machine, const char *text)
{
    const DisplayDriver *driver;
    g_autoptr(KeyValues) kv = NULL;

    if (text) {
        TRY(parse(text, &driver, &kv));
        return driver ? start(machine, driver, kv) : NULL;
    }
    driver = best_available();
    if (!driver) {
        warn_report("no display: neither DISPLAY nor WAYLAND_DISPLAY is set; -nographic uses this terminal, "
                    "-display none says that none is wanted");
        return NULL;
    }
    kv = keyvalues_new();
    return start(machine, driver, kv);
}

char *display_help(void)
{
    GString *out = g_string_new("Available display backend types:\nnone\n");
    SECTION_FOREACH (display_drivers, DisplayDriver, it) {
        g_string_append_printf(out, "%s\n", (*it)->name);
    }
    return g_string_free(out, FALSE);
}
