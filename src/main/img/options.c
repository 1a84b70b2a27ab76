/* qemu-img: lists of -o, what they may hold, and their help. */
#include <stdio.h>
#include <string.h>

#include "main/img/img.h"

/* Commas that separate nothing. At the end two are one that belongs to the value. */
static bool has_loose_comma(const char *text)
{
    size_t length = strlen(text), commas = 0;
    while (commas < length && text[length - 1 - commas] == ',') {
        commas++;
    }
    return text[0] == ',' || commas % 2;
}

Error *img_add_options(KeyValues *opts, const char *text)
{
    g_autoptr(KeyValues) parsed = NULL;

    if (has_loose_comma(text)) { /* iotests compare it */
        return error_new("Invalid option list: %s", text);
    }
    TRY(keyvalues_parse(text, NULL, &parsed));
    for (guint i = 0; i < parsed->items->len; i++) {
        KeyValue *item = g_ptr_array_index(parsed->items, i);
        keyvalues_set(opts, item->key, item->value);
    }
    opts->help |= parsed->help;
    return NULL;
}

bool img_has_option(const BlockOption *options, const char *name)
{
    for (; options && options->name; options++) {
        if (!strcmp(options->name, name)) {
            return true;
        }
    }
    return false;
}

static void add_names(GPtrArray *names, const BlockOption *options)
{
    for (; options && options->name; options++) {
        g_ptr_array_add(names, (void *)options->name);
    }
}

Error *img_check_create_options(const BlockDriver *driver, const KeyValues *opts)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    add_names(names, driver->create_options);
    add_names(names, block_driver_find("file")->create_options);
    g_ptr_array_add(names, NULL);
    for (guint i = 0; i < opts->items->len; i++) {
        const char *key = ((KeyValue *)g_ptr_array_index(opts->items, i))->key;
        if (!g_strv_contains((const char *const *)names->pdata, key)) {
            const char *near = nearest_in(key, (const char *const *)names->pdata);
            return error_new("Invalid parameter '%s'%s%s%s", key, near ? ", did you mean '" : "", near ? near : "",
                             near ? "'?" : "");
        }
    }
    return NULL;
}

/* --- help --- */

static const char *kind_text(BlockOptionKind kind)
{
    static const char *const names[] = { "<str>", "<bool (on/off)>", "<size>", "<num>" };
    return names[kind];
}

static void gather(GPtrArray *list, const BlockOption *options, const BlockOption *unless)
{
    for (; options && options->name; options++) {
        if (!img_has_option(unless, options->name)) {
            g_ptr_array_add(list, (void *)options);
        }
    }
}

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp((*(const BlockOption *const *)a)->name, (*(const BlockOption *const *)b)->name);
}

/* Sorted; `more` may be NULL. */
static void print_options(const BlockOption *options, const BlockOption *more)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();

    gather(list, options, NULL);
    gather(list, more, options);
    g_ptr_array_sort(list, by_name);
    for (guint i = 0; i < list->len; i++) {
        const BlockOption *o = g_ptr_array_index(list, i);
        g_autofree char *left = g_strdup_printf("%s=%s", o->name, kind_text(o->kind));
        printf("  %-22s - %s\n", left, o->help);
    }
}

Error *img_print_create_options(const char *format, const char *filename)
{
    const BlockDriver *driver, *storage = NULL;

    TRY(block_driver_lookup(format ? format : "raw", &driver));
    if (!driver->create_options || !driver->create_co) { /* iotests compare it */
        return error_new("Format driver '%s' does not support image creation", driver->name);
    }
    if (filename) {
        TRY(block_storage_driver(filename, &storage));
        printf("Supported options:\n");
    } else {
        printf("Supported %s options:\n", driver->name);
    }
    print_options(driver->create_options, storage ? storage->create_options : NULL);
    if (!filename) {
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    }
    return NULL;
}

Error *img_print_amend_options(const BlockDriver *driver)
{
    if (!driver->amend_co) { /* iotests compare it */
        return error_new("Format driver '%s' does not support option amendment", driver->name);
    }
    printf("Amend options for '%s':\n", driver->name);
    print_options(driver->amend_options, NULL);
    return NULL;
}
