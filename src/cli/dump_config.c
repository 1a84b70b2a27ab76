/*
 * --dump-config: the canonical form of a command line as JSON, which -readconfig reads back.
 *
 * Objects of the plan are given as lists under their option's name. What is neither an object nor sugar for one stands
 * under "options" as it was typed. "rewritten" tells which options were sugar: their meaning is in the lists, and
 * "nodefaults" keeps the defaults, which are in there too, from being added again.
 */
#include <string.h>

#include "cli/plan_priv.h"
#include "value/json.h"

typedef struct ConfigList {
    const char *option, *implied;
    size_t offset; /* of a GPtrArray of KeyValues in the plan */
} ConfigList;

#define CONFIG_LIST(name, implied_, member) { name, implied_, offsetof(Plan, member) }
static const ConfigList lists[] = {
    CONFIG_LIST("accel", "accel", accels),       CONFIG_LIST("add-fd", NULL, add_fds),
    CONFIG_LIST("object", "qom-type", objects),  CONFIG_LIST("chardev", "backend", chardevs),
    CONFIG_LIST("mon", "chardev", monitors),     CONFIG_LIST("blockdev", "driver", blockdevs),
    CONFIG_LIST("drive", NULL, drives),          CONFIG_LIST("netdev", "type", netdevs),
    CONFIG_LIST("device", "driver", board_devices), CONFIG_LIST("device", "driver", devices),
    CONFIG_LIST("global", NULL, globals),
};

static const struct {
    const char *option, *implied;
    size_t offset; /* of a KeyValues * */
} singles[] = {
    { "machine", "type", offsetof(Plan, machine) }, { "smp", "cpus", offsetof(Plan, smp) },
    { "m", "size", offsetof(Plan, memory) },        { "boot", "order", offsetof(Plan, boot) },
};

/* What is written to the lists above, from objects that are the same in both forms. */
static bool is_canonical(const char *name)
{
    static const char *const names[] = { "machine", "M", "smp", "m", "boot", "readconfig", "dump-config", "nodefaults",
                                         "no-user-config", "set", NULL };
    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        if (!strcmp(lists[n].option, name)) {
            return true;
        }
    }
    return g_strv_contains(names, name);
}

/* Sugar: what finish_*() and the handlers turn into objects. */
static bool is_sugar(const char *name)
{
    static const char *const names[] = {
        "balloon", "cdrom", "curses", "debugcon", "enable-kvm", "fda", "fdb", "full-screen", "hda", "hdb", "hdc", "hdd", "localtime", "monitor",
        "mtdblock", "net", "nic", "no-acpi", "no-hpet", "no-kvm", "no-kvm-irqchip", "nographic", "parallel", "pflash", "qmp",
        "qmp-pretty", "realtime", "rtc-td-hack", "sd", "sdl", "serial", "show-cursor", "singlestep", "snapshot", "soundhw", "startdate",
        "tb-size", "usb", "usbdevice", "vga", "watchdog", "audio", NULL,
    };
    return g_strv_contains(names, name);
}

void plan_note_option(Plan *plan, const char *name, const char *arg)
{
    if (plan->depth > 1 && is_sugar(name)) {
        return; /* the outer one says it */
    }
    if (is_sugar(name)) {
        g_ptr_array_add(plan->rewritten, g_strdup_printf("-%s%s%s", name, arg ? " " : "", arg ? arg : ""));
    } else if (!is_canonical(name)) {
        g_ptr_array_add(plan->plain_options, g_strdup(name));
        g_ptr_array_add(plan->plain_options, g_strdup(arg));
    }
}

static Value *dict_of(const KeyValues *kv)
{
    Value *dict = value_dict();
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        value_put_str(dict, item->key, item->value);
    }
    return dict;
}

static void put_lists(const Plan *plan, Value *config)
{
    for (size_t n = 0; n < ARRAY_SIZE(singles); n++) {
        const KeyValues *kv = *(KeyValues *const *)((const char *)plan + singles[n].offset);
        if (kv->items->len) {
            value_put(config, singles[n].option, dict_of(kv));
        }
    }
    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        const GPtrArray *list = *(GPtrArray *const *)((const char *)plan + lists[n].offset);
        Value *items = value_find(config, lists[n].option);
        if (!items && list->len) {
            items = value_list();
            value_put(config, lists[n].option, items);
        }
        for (guint i = 0; i < list->len; i++) {
            value_append(items, dict_of(g_ptr_array_index(list, i)));
        }
    }
}

char *plan_dump_config(const Plan *plan)
{
    g_autoptr(Value) config = value_dict();
    Value *options = value_list(), *rewritten = value_list();

    value_put_bool(config, "nodefaults", true);
    put_lists(plan, config);
    if (!plan->config->graphics) {
        value_put_str(value_find(config, "machine"), "graphics", "off");
    }
    for (guint n = 0; n < plan->plain_options->len; n += 2) {
        const char *arg = g_ptr_array_index(plan->plain_options, n + 1);
        Value *item = value_dict();
        value_put_str(item, "option", g_ptr_array_index(plan->plain_options, n));
        if (arg) {
            value_put_str(item, "argument", arg);
        }
        value_append(options, item);
    }
    if (plan->nographic) {
        Value *item = value_dict();
        value_put_str(item, "option", "display");
        value_put_str(item, "argument", "none");
        value_append(options, item);
    }
    value_put(config, "options", options);
    for (guint n = 0; n < plan->rewritten->len; n++) {
        value_append(rewritten, value_str(g_ptr_array_index(plan->rewritten, n)));
    }
    value_put(config, "rewritten", rewritten);
    g_autofree char *text = json_write(config, true);
    return g_strconcat(text, "\n", NULL);
}

/* --- reading it --- */

static MUST_USE Error *read_item(Plan *plan, const char *option, const char *implied, const Value *item)
{
    g_autoptr(KeyValues) kv = NULL;

    if (value_kind(item) != VALUE_DICT) {
        return error_new("'%s' must hold objects", option);
    }
    TRY(keyvalues_from_value(item, &kv));
    if (implied && keyvalues_has(kv, implied)) {
        g_autofree char *first = keyvalues_take(kv, implied);
        keyvalues_prepend(kv, implied, first);
    }
    g_autofree char *text = keyvalues_format(kv, implied);
    return cli_option(plan, option, text);
}

static MUST_USE Error *read_plain(Plan *plan, const Value *list)
{
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        const char *name = value_find_str(item, "option");
        if (!name) {
            return error_new("'options' must hold objects with 'option' and 'argument'");
        }
        TRY(cli_option(plan, name, value_find_str(item, "argument")));
    }
    return NULL;
}

static MUST_USE Error *read_member(Plan *plan, const char *key, const Value *value)
{
    if (!strcmp(key, "rewritten")) {
        return NULL; /* says where the rest came from */
    }
    if (!strcmp(key, "nodefaults")) {
        bool on = false;
        value_get_bool(value, &on);
        return on ? cli_option(plan, "nodefaults", NULL) : NULL;
    }
    if (!strcmp(key, "options")) {
        return read_plain(plan, value);
    }
    for (size_t n = 0; n < ARRAY_SIZE(singles); n++) {
        if (!strcmp(singles[n].option, key)) {
            return read_item(plan, key, singles[n].implied, value);
        }
    }
    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        if (strcmp(lists[n].option, key)) {
            continue;
        }
        for (size_t i = 0; i < value_length(value); i++) {
            TRY(read_item(plan, key, lists[n].implied, value_at(value, i)));
        }
        return NULL;
    }
    return error_new("there is no member '%s'", key);
}

Error *plan_read_config(Plan *plan, const char *text)
{
    g_autoptr(Value) config = NULL;

    TRY(json_parse(text, strlen(text), &config));
    if (value_kind(config) != VALUE_DICT) {
        return error_new("a JSON configuration is an object");
    }
    for (size_t n = 0; n < value_length(config); n++) {
        TRY(read_member(plan, value_key_at(config, n), value_item_at(config, n)));
    }
    return NULL;
}
