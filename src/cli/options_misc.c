/* Help, version, logging, files to read, and everything else that is not about a device. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "cli/build_config.h"
#include "cli/plan_priv.h"
#include "core/dev/trace.h"

Error *opt_version(Plan *plan, const Option *option, const char *arg)
{
    plan->print = g_strdup_printf("QEMU emulator version %s (Ostrich %s)\n", COMPAT_VERSION, OSTRICH_VERSION);
    return NULL;
}

Error *opt_help(Plan *plan, const Option *option, const char *arg)
{
    GString *out = g_string_new(NULL);

    g_string_append_printf(out,
                           "QEMU emulator version %s (Ostrich %s)\n"
                           "usage: %s [options] [disk_image]\n\n"
                           "'disk_image' is a raw hard disk image for IDE hard disk 0\n",
                           COMPAT_VERSION, OSTRICH_VERSION, plan->program);
    for (const Option *row = option_table; row->name || row->help; row++) {
        if (!row->name) {
            g_string_append_printf(out, "\n%s:\n", row->help);
        } else if (row->help && row->fn != opt_unsupported) {
            g_autofree char *left = g_strdup_printf("-%s%s%s", row->name, row->syntax ? " " : "",
                                                    row->syntax ? row->syntax : "");
            g_string_append_printf(out, strlen(left) < 16 ? "%-16s%s\n" : "%s\n                %s\n", left, row->help);
        }
    }
    g_string_append(out, "\nDuring emulation, with a terminal shared by the console and the monitor:\n"
                         "ctrl-a h        list the keys\n"
                         "\nA comma inside a value is written twice.\n");
    plan->print = g_string_free(out, FALSE);
    return NULL;
}

Error *opt_string(Plan *plan, const Option *option, const char *arg)
{
    char **to = (char **)((char *)plan->config + option->offset);
    g_free(*to);
    *to = g_strdup(arg);
    return NULL;
}

Error *opt_plan_string(Plan *plan, const Option *option, const char *arg)
{
    char **to = (char **)((char *)plan + option->offset);
    g_free(*to);
    *to = g_strdup(arg);
    return NULL;
}

Error *opt_list(Plan *plan, const Option *option, const char *arg)
{
    g_ptr_array_add(*(GPtrArray **)((char *)plan->config + option->offset), g_strdup(arg));
    return NULL;
}

Error *opt_flag(Plan *plan, const Option *option, const char *arg)
{
    *(bool *)((char *)plan + option->offset) = true;
    return NULL;
}

Error *opt_config_flag(Plan *plan, const Option *option, const char *arg)
{
    *(bool *)((char *)plan->config + option->offset) = !strcmp(option->aux, "on");
    return NULL;
}

Error *opt_nodefaults(Plan *plan, const Option *option, const char *arg)
{
    plan->config->no_defaults = true;
    return NULL;
}

Error *opt_unsupported(Plan *plan, const Option *option, const char *arg)
{
    return error_new("this option is not supported yet");
}

Error *opt_compat(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "deprecated-input", "deprecated-output", "unstable-input", "unstable-output", NULL };
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(arg, NULL, &kv));
    for (size_t n = 0; known[n]; n++) {
        const char *policy = keyvalues_get(kv, known[n]);
        if (policy && strcmp(policy, "accept")) {
            return error_new("%s=%s is not supported: only accept", known[n], policy);
        }
    }
    return keyvalues_check_used(kv, "-compat", known);
}

Error *opt_run_with(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "chroot", "user", "async-teardown", "exit-with-parent", NULL };
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(arg, NULL, &kv));
    TRY(keyvalues_get_bool(kv, "async-teardown", plan->async_teardown, &plan->async_teardown));
    TRY(keyvalues_get_bool(kv, "exit-with-parent", plan->exit_with_parent, &plan->exit_with_parent));
    if (keyvalues_has(kv, "chroot")) {
        g_free(plan->run_chroot);
        plan->run_chroot = g_strdup(keyvalues_get(kv, "chroot"));
    }
    if (keyvalues_has(kv, "user")) {
        g_free(plan->run_user);
        plan->run_user = g_strdup(keyvalues_get(kv, "user"));
    }
    return keyvalues_check_used(kv, "-run-with", known);
}

Error *opt_dump_config(Plan *plan, const Option *option, const char *arg)
{
    plan->dump_config = true;
    return NULL;
}

Error *opt_other_target(Plan *plan, const Option *option, const char *arg)
{
    return error_new("this is an option of machines that are not PCs");
}

/* --- -trace --- */

Error *opt_trace(Plan *plan, const Option *option, const char *arg)
{
    char *file = NULL, *help = NULL;

    TRY(trace_option(arg, plan->traces, &file, &help));
    if (help) {
        plan->print = help;
    }
    if (file) {
        g_free(plan->log_file);
        plan->log_file = file;
    }
    return NULL;
}

Error *opt_log(Plan *plan, const Option *option, const char *arg)
{
    unsigned mask;

    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        GString *out = g_string_new("What -d can log, one or several with commas:\n");
        for (const LogItem *item = log_items; item->name; item++) {
            g_string_append_printf(out, "%-15s %s\n", item->name, item->help);
        }
        plan->print = g_string_free(out, FALSE);
        return NULL;
    }
    /* "trace:PATTERN" among them is an event. */
    g_auto(GStrv) parts = g_strsplit(arg, ",", -1);
    g_autoptr(GString) items = g_string_new(NULL);
    for (char **part = parts; *part; part++) {
        if (!strcmp(*part, "trace:help")) {
            plan->print = trace_events_help();
        } else if (g_str_has_prefix(*part, "trace:")) {
            TRY(trace_pattern_add(*part + strlen("trace:"), plan->traces));
        } else {
            g_string_append_printf(items, "%s%s", items->len ? "," : "", *part);
        }
    }
    if (items->len) {
        TRY(log_parse_items(items->str, &mask));
        g_free(plan->log_items);
        plan->log_items = g_strdup(items->str);
    }
    return NULL;
}

Error *opt_dfilter(Plan *plan, const Option *option, const char *arg)
{
    return log_set_filter(arg);
}

Error *opt_msg(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "timestamp", "guest-name", NULL };
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(arg, NULL, &kv));
    TRY(keyvalues_get_bool(kv, "timestamp", plan->timestamps, &plan->timestamps));
    TRY(keyvalues_get_bool(kv, "guest-name", plan->guest_name_in_messages, &plan->guest_name_in_messages));
    return keyvalues_check_used(kv, "-msg", known);
}

/* allow or deny; "children" too where it means something. */
static MUST_USE Error *sandbox_group(KeyValues *kv, const char *name, const char *third, bool deny_by_default, bool *ret_allow)
{
    const char *text = keyvalues_get(kv, name);

    if (text && strcmp(text, "allow") && strcmp(text, "deny") && g_strcmp0(text, third)) {
        return error_new("%s=%s: allow%s%s or deny is possible", name, text, third ? ", " : "", third ? third : "");
    }
    *ret_allow = text ? !strcmp(text, "allow") : !deny_by_default;
    return NULL;
}

Error *opt_sandbox(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "enable", "obsolete", "elevateprivileges", "spawn", "resourcecontrol", NULL };
    SandboxOptions *box = &plan->sandbox;
    g_autoptr(KeyValues) kv = NULL;
    bool spawn;

    TRY(keyvalues_parse(arg, "enable", &kv));
    TRY(keyvalues_get_bool(kv, "enable", false, &box->demanded));
    box->off = !box->demanded;
    TRY(sandbox_group(kv, "obsolete", NULL, true, &box->obsolete));
    TRY(sandbox_group(kv, "elevateprivileges", "children", true, &box->elevate_privileges));
    TRY(sandbox_group(kv, "spawn", NULL, false, &spawn));
    TRY(sandbox_group(kv, "resourcecontrol", NULL, true, &box->resource_control));
    box->no_spawn = !spawn;
    return keyvalues_check_used(kv, "-sandbox", known);
}

Error *opt_add_fd(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "fd", "set", "opaque", NULL };
    KeyValues *kv;
    uint64_t fd, set;

    TRY(plan_add(plan->add_fds, arg, NULL, &kv));
    if (!keyvalues_has(kv, "fd") || !keyvalues_has(kv, "set")) {
        return error_new("fd= and set= are needed");
    }
    TRY(keyvalues_get_u64(kv, "fd", 0, &fd));
    TRY(keyvalues_get_u64(kv, "set", 0, &set));
    if (fd <= 2) {
        return error_new("descriptors 0 to 2 are this program's own input and output");
    }
    keyvalues_get(kv, "opaque");
    return keyvalues_check_used(kv, "-add-fd", known);
}

Error *opt_echr(Plan *plan, const Option *option, const char *arg)
{
    char *end;
    gint64 number = g_ascii_strtoll(arg, &end, 0);

    if (!*arg || *end || number < 0 || number > 255) {
        return error_new("expected the code of a character, as 0x01 for ctrl-a");
    }
    plan->escape = (unsigned)number;
    return NULL;
}

static const char *const builtin_dirs[] = {
    OSTRICH_DATADIR, "/usr/local/share/qemu", "/usr/share/qemu", "/usr/share/seabios", "/usr/share/OVMF",
    "/usr/lib/ipxe/qemu", NULL,
};

Error *opt_datadir(Plan *plan, const Option *option, const char *arg)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        GString *out = g_string_new(NULL);
        for (guint n = 0; n < plan->config->data_dirs->len; n++) {
            g_string_append_printf(out, "%s\n", (char *)g_ptr_array_index(plan->config->data_dirs, n));
        }
        for (const char *const *dir = builtin_dirs; *dir; dir++) {
            g_string_append_printf(out, "%s\n", *dir);
        }
        plan->print = g_string_free(out, FALSE);
        return NULL;
    }
    g_ptr_array_add(plan->config->data_dirs, g_strdup(arg));
    return NULL;
}

/* --- -set GROUP.ID.ARG=VALUE --- */

static GPtrArray *group_list(Plan *plan, const char *group)
{
    const struct {
        const char *name;
        GPtrArray *list;
    } groups[] = {
        { "device", plan->devices }, { "drive", plan->drives },   { "chardev", plan->chardevs },
        { "netdev", plan->netdevs }, { "object", plan->objects }, { "mon", plan->monitors },
    };
    for (size_t n = 0; n < ARRAY_SIZE(groups); n++) {
        if (!strcmp(groups[n].name, group)) {
            return groups[n].list;
        }
    }
    return NULL;
}

Error *opt_set(Plan *plan, const Option *option, const char *arg)
{
    g_auto(GStrv) parts = g_strsplit(arg, ".", 3);

    if (g_strv_length(parts) != 3 || !strchr(parts[2], '=')) {
        return error_new("expected GROUP.ID.ARG=VALUE");
    }
    if (!group_list(plan, parts[0])) {
        return error_new("There is no option group '%s': device, drive, chardev, netdev, object or mon", parts[0]);
    }
    g_ptr_array_add(plan->sets, g_strdup(arg));
    return NULL;
}

Error *apply_sets(Plan *plan)
{
    for (guint n = 0; n < plan->sets->len; n++) {
        g_auto(GStrv) parts = g_strsplit(g_ptr_array_index(plan->sets, n), ".", 3);
        KeyValues *kv = plan_find(group_list(plan, parts[0]), parts[1]);
        if (!kv) {
            return error_new("-set %s: there is no %s \"%s\" defined", (char *)g_ptr_array_index(plan->sets, n),
                             parts[0], parts[1]);
        }
        char *equals = strchr(parts[2], '=');
        *equals = 0;
        keyvalues_set(kv, parts[2], equals + 1);
    }
    /* Now that nobody can add a directory in front of them. */
    for (const char *const *dir = builtin_dirs; *dir; dir++) {
        g_ptr_array_add(plan->config->data_dirs, g_strdup(*dir));
    }
    return NULL;
}

/*
 * --- -readconfig: an INI file ---
 *
 *     [device "net0"]
 *       driver = "e1000"
 *
 * Each section is one option; its id is the quoted name.
 */
typedef struct Section {
    char *group;
    KeyValues *kv;
} Section;

static MUST_USE Error *section_done(Plan *plan, Section *section)
{
    static const struct {
        const char *group, *option, *implied;
    } names[] = {
        { "memory", "m", "size" },       { "smp-opts", "smp", "cpus" }, { "boot-opts", "boot", "order" },
        { "machine", "machine", "type" }, { "accel", "accel", "accel" },  { "chardev", "chardev", "backend" },
        { "device", "device", "driver" }, { "object", "object", "qom-type" }, { "netdev", "netdev", "type" },
    };
    const char *option = section->group, *implied = NULL;

    if (!section->group) {
        return NULL;
    }
    for (size_t n = 0; n < ARRAY_SIZE(names); n++) {
        if (!strcmp(names[n].group, section->group)) {
            option = names[n].option;
            implied = names[n].implied;
        }
    }
    g_autofree char *text = keyvalues_format(section->kv, implied);
    Error *err = cli_option(plan, option, text);
    g_clear_pointer(&section->group, g_free);
    g_clear_pointer(&section->kv, keyvalues_free);
    return err;
}

static MUST_USE Error *config_line(Plan *plan, Section *section, char *line)
{
    char group[64], id[128], key[64];
    int used = 0;

    line = g_strstrip(line);
    if (!*line || *line == '#') {
        return NULL;
    }
    if (sscanf(line, "[%63[^] \"] \"%127[^\"]\"]%n", group, id, &used) == 2 && used && !line[used]) {
        TRY(section_done(plan, section));
        section->group = g_strdup(group);
        section->kv = keyvalues_new();
        keyvalues_add(section->kv, "id", id);
    } else if (sscanf(line, "[%63[^] \"]]%n", group, &used) == 1 && used && !line[used]) {
        TRY(section_done(plan, section));
        section->group = g_strdup(group);
        section->kv = keyvalues_new();
    } else if (sscanf(line, "%63[^ =] =%n", key, &used) == 1 && used) {
        char *value = g_strstrip(line + used);
        size_t length = strlen(value);
        if (length < 2 || value[0] != '"' || value[length - 1] != '"') {
            return error_new("the value of '%s' must be in double quotes", key);
        }
        if (!section->group) {
            return error_new("'%s' stands before the first section", key);
        }
        value[length - 1] = 0;
        keyvalues_add(section->kv, key, value + 1);
    } else {
        return error_new("parse error");
    }
    return NULL;
}

Error *opt_readconfig(Plan *plan, const Option *option, const char *arg)
{
    g_autofree char *text = NULL;
    GError *gerror = NULL;
    Section section = { 0 };
    Error *err = NULL;

    if (!g_file_get_contents(arg, &text, NULL, &gerror)) {
        err = error_new("Cannot read config file: %s", gerror->message);
        g_error_free(gerror);
        return err;
    }
    if (g_strchug(text)[0] == '{') {
        return plan_read_config(plan, text);
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (guint n = 0; lines[n] && !err; n++) {
        err = config_line(plan, &section, lines[n]);
        if (err) {
            err = error_prefix(err, "line %u: ", n + 1);
        }
    }
    if (!err) {
        err = section_done(plan, &section);
    }
    g_free(section.group);
    keyvalues_free(section.kv);
    return err;
}

Error *opt_gdb(Plan *plan, const Option *option, const char *arg)
{
    g_free(plan->gdb);
    plan->gdb = g_strdup("tcp::1234");
    return NULL;
}
