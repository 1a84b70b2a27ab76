/*
 * query-command-line-options: which option groups there are and what they take. Groups are named as in
 * configuration files. Where parameters depend on a type (-device, -chardev), only the common ones are here.
 */
#include <string.h>

#include "chardev/chardev.h"
#include "cli/plan.h"
#include "schema/qmp_commands.h"

typedef struct Group {
    const char *name;
    const char *params; /* "name:type ..."; s string, b boolean, n number, z size */
} Group;

static const Group groups[] = {
    { "accel", "accel:s" },
    { "action", "reboot:s shutdown:s panic:s watchdog:s" },
    { "add-fd", "fd:n set:n opaque:s" },
    { "audiodev", "driver:s id:s" },
    { "blockdev", "driver:s node-name:s" },
    { "boot-opts", "order:s once:s menu:b strict:b splash:s splash-time:n reboot-timeout:n" },
    { "device", "driver:s bus:s id:s" },
    { "drive", "file:s if:s bus:n unit:n index:n media:s id:s format:s cache:s aio:s snapshot:b readonly:b "
               "copy-on-read:b discard:s detect-zeroes:s werror:s rerror:s serial:s node-name:s" },
    { "fw_cfg", "name:s file:s string:s" },
    { "global", "driver:s property:s value:s" },
    { "memory", "size:z slots:n maxmem:z" },
    { "mon", "chardev:s mode:s pretty:b" },
    { "msg", "timestamp:b guest-name:b" },
    { "name", "guest:s process:s debug-threads:b" },
    { "netdev", "type:s id:s" },
    { "object", "qom-type:s id:s" },
    { "option-rom", "romfile:s bootindex:n" },
    { "overcommit", "mem-lock:b cpu-pm:b" },
    { "rtc", "base:s clock:s driftfix:s" },
    { "smp-opts", "cpus:n maxcpus:n sockets:n dies:n clusters:n cores:n threads:n" },
};

static void add_param(Value *list, const char *name, const char *type)
{
    Value *param = value_dict();
    value_put_str(param, "name", name);
    value_put_str(param, "type", type);
    value_append(list, param);
}

static Value *params_of(const Group *group)
{
    Value *list = value_list();
    g_auto(GStrv) params = g_strsplit(group->params, " ", 0);

    for (char **param = params; *param; param++) {
        char *colon = strchr(*param, ':');
        char kind = colon[1];
        *colon = 0;
        add_param(list, *param, kind == 'b' ? "boolean" : kind == 'n' ? "number" : kind == 'z' ? "size" : "string");
    }
    return list;
}

static void add_prop(void *opaque, const Prop *prop)
{
    Value *list = opaque;
    for (size_t n = 0; n < value_length(list); n++) {
        if (!strcmp(value_find_str(value_at(list, n), "name"), prop->name)) {
            return;
        }
    }
    add_param(list, prop->name, prop->kind->json == 'b' ? "boolean" : prop->kind->json == 'i' ? "number" : "string");
}

static Value *chardev_params(void)
{
    Value *list = value_list();

    add_param(list, "backend", "string");
    SECTION_FOREACH (chardev_types, ChardevType, it) {
        object_props_foreach(&(*it)->object, add_prop, list);
    }
    return list;
}

/* Of all boards together. */
static Value *machine_params(void)
{
    Value *list = value_list();

    add_param(list, "type", "string");
    add_param(list, "accel", "string");
    for (const Prop *prop = machine_common_props; prop->name; prop++) {
        add_prop(list, prop);
    }
    SECTION_FOREACH (machine_types, MachineType, it) {
        for (const Prop *prop = (*it)->props; prop && prop->name; prop++) {
            add_prop(list, prop);
        }
    }
    return list;
}

/* Groups whose parameters stand in tables elsewhere. */
static const struct {
    const char *name;
    Value *(*params)(void);
} derived[] = { { "chardev", chardev_params }, { "machine", machine_params } };

static void add_group(Value *list, const char *name, Value *params)
{
    Value *info = value_dict();
    value_put_str(info, "option", name);
    value_put(info, "parameters", params);
    value_append(list, info);
}

Error *qmp_query_command_line_options(QmpContext *ctx, const QmpQueryCommandLineOptionsArgs *args, Value **ret)
{
    const char *wanted = args->has_option ? args->option : NULL, *name;
    bool has_arg;

    *ret = value_list();
    for (size_t n = 0; n < ARRAY_SIZE(groups); n++) {
        if (!wanted || !strcmp(wanted, groups[n].name)) {
            add_group(*ret, groups[n].name, params_of(&groups[n]));
        }
    }
    for (size_t n = 0; n < ARRAY_SIZE(derived); n++) {
        if (!wanted || !strcmp(wanted, derived[n].name)) {
            add_group(*ret, derived[n].name, derived[n].params());
        }
    }
    /* Options that are no groups are known by their name alone. */
    for (unsigned n = 0; (name = cli_option_name(n, &has_arg)); n++) {
        /* A filter that can only be off is no feature: clients that see it turn it on. */
        bool listed = !strcmp(name, "sandbox");
        for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
            listed |= !strcmp(groups[i].name, name);
        }
        for (size_t i = 0; i < ARRAY_SIZE(derived); i++) {
            listed |= !strcmp(derived[i].name, name);
        }
        if (has_arg && !listed && (!wanted || !strcmp(wanted, name))) {
            add_group(*ret, name, value_list());
        }
    }
    if (wanted && value_length(*ret) == 0) {
        g_clear_pointer(ret, value_free);
        return error_new("invalid option name: %s", wanted);
    }
    return NULL;
}
