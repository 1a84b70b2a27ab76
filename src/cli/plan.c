#include "cli/plan_priv.h"

#include <string.h>

static GPtrArray *list_of_kv(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)keyvalues_free);
}

static GPtrArray *list_of_text(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

Plan *plan_new(const char *program)
{
    Plan *plan = g_new0(Plan, 1);
    const char *slash = strrchr(program, '/');

    plan->program = slash ? slash + 1 : program;
    plan->is_i386 = strstr(plan->program, "i386") != NULL;
    plan->config = machine_config_new();
    plan->machine = keyvalues_new();
    plan->smp = keyvalues_new();
    plan->memory = keyvalues_new();
    plan->boot = keyvalues_new();
    GPtrArray **kv_lists[] = { &plan->numa, &plan->accels,    &plan->objects, &plan->chardevs,
                               &plan->monitors,  &plan->blockdevs, &plan->drives,
                               &plan->netdevs,   &plan->devices, &plan->board_devices,
                               &plan->globals,   &plan->add_fds };
    for (size_t n = 0; n < ARRAY_SIZE(kv_lists); n++) {
        *kv_lists[n] = list_of_kv();
    }
    plan->serials = list_of_text();
    plan->parallels = list_of_text();
    plan->monitor_texts = list_of_text();
    plan->debugcons = list_of_text();
    plan->sets = list_of_text();
    plan->nics = list_of_text();
    plan->nets = list_of_text();
    plan->warnings = list_of_text();
    plan->traces = list_of_text();
    plan->plain_options = list_of_text();
    plan->rewritten = list_of_text();
    plan->default_vga = plan->default_serial = plan->default_parallel = plan->default_monitor = true;
    plan->default_cdrom = plan->default_floppy = plan->default_net = true;
    plan->escape = 1;
    return plan;
}

void plan_free(Plan *plan)
{
    if (!plan) {
        return;
    }
    machine_config_free(plan->config);
    keyvalues_free(plan->machine);
    keyvalues_free(plan->smp);
    keyvalues_free(plan->memory);
    g_free(plan->rrfile);
    g_free(plan->rrsnapshot);
    keyvalues_free(plan->boot);
    GPtrArray *lists[] = { plan->numa, plan->accels,  plan->objects, plan->chardevs,      plan->monitors, plan->blockdevs,
                           plan->drives,  plan->netdevs, plan->devices,       plan->board_devices, plan->globals,
                           plan->serials, plan->parallels, plan->monitor_texts, plan->debugcons, plan->sets,
                           plan->warnings, plan->nics,   plan->nets,          plan->add_fds,
                           plan->plain_options, plan->rewritten, plan->traces };
    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        g_ptr_array_unref(lists[n]);
    }
    g_free(plan->display);
    g_free(plan->mem_path);
    g_free(plan->pidfile);
    g_free(plan->log_items);
    g_free(plan->log_file);
    g_free(plan->print);
    g_free(plan->display_flags);
    g_free(plan->run_chroot);
    g_free(plan->run_user);
    g_free(plan->incoming);
    g_free(plan->gdb);
    g_free(plan->loadvm);
    g_free(plan->qtest);
    g_free(plan->qtest_log);
    g_free(plan);
}

void plan_warn(Plan *plan, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_ptr_array_add(plan->warnings, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

Error *plan_add(GPtrArray *list, const char *text, const char *implied, KeyValues **ret_kv)
{
    KeyValues *kv;

    TRY(keyvalues_parse(text, implied, &kv));
    g_ptr_array_add(list, kv);
    if (ret_kv) {
        *ret_kv = kv;
    }
    return NULL;
}

KeyValues *plan_add_built(GPtrArray *list, const char *implied, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    KeyValues *kv = NULL;
    Error *err = plan_add(list, text, implied, &kv);
    assert(!err);
    return kv;
}

KeyValues *plan_find(GPtrArray *list, const char *id)
{
    for (guint n = 0; n < list->len; n++) {
        KeyValues *kv = g_ptr_array_index(list, n);
        for (guint i = 0; i < kv->items->len; i++) {
            const KeyValue *item = g_ptr_array_index(kv->items, i);
            if (!strcmp(item->key, "id") && !strcmp(item->value, id)) {
                return kv;
            }
        }
    }
    return NULL;
}

/* --- options --- */

static const Option *option_find(const char *name)
{
    for (const Option *option = option_table; option->name || option->help; option++) {
        if (option->name && !strcmp(option->name, name)) {
            return option;
        }
    }
    return NULL;
}

static bool option_works(const Option *option)
{
    static OptionFn *const refusals[] = { opt_unsupported, opt_other_target, opt_refused, opt_gone };
    for (size_t n = 0; n < ARRAY_SIZE(refusals); n++) {
        if (option->fn == refusals[n]) {
            return false;
        }
    }
    return true;
}

const char *cli_option_name(unsigned index, bool *ret_has_arg)
{
    for (const Option *option = option_table; option->name || option->help; option++) {
        if (option->name && option_works(option) && index-- == 0) {
            *ret_has_arg = option->has_arg;
            return option->name;
        }
    }
    return NULL;
}

static const char *next_option_name(void *opaque)
{
    const Option **cursor = opaque;
    while (!(*cursor)->name && (*cursor)->help) {
        ++*cursor;
    }
    return (*cursor)->name ? (*cursor)++->name : NULL;
}

static MUST_USE Error *unknown_option(const char *typed, const char *name)
{
    const Option *cursor = option_table;
    const char *near = nearest_name(name, next_option_name, &cursor);
    return near ? error_new("%s: invalid option, did you mean '-%s'?", typed, near)
                : error_new("%s: invalid option", typed);
}

/* Errors say which option, as it was typed. */
static MUST_USE Error *run_option(Plan *plan, const Option *option, const char *typed, const char *arg)
{
    plan->depth++;
    plan_note_option(plan, option->name, arg);
    Error *err = option->fn(plan, option, arg);
    plan->depth--;
    if (err) {
        return arg ? error_prefix(err, "%s %s: ", typed, arg) : error_prefix(err, "%s: ", typed);
    }
    return NULL;
}

Error *cli_option(Plan *plan, const char *name, const char *arg)
{
    const Option *option = option_find(name);
    g_autofree char *typed = g_strconcat("-", name, NULL);

    if (!option) {
        return unknown_option(typed, name);
    }
    return run_option(plan, option, typed, option->has_arg ? arg : NULL);
}

Error *cli_parse(Plan *plan, int argc, char **argv)
{
    for (int n = 1; n < argc && !plan->print; n++) {
        const char *typed = argv[n], *arg = NULL;
        if (typed[0] != '-') {
            TRY(cli_option(plan, "hda", typed));
            continue;
        }
        const char *name = typed[1] == '-' ? typed + 2 : typed + 1;
        const Option *option = option_find(name);
        if (!option) {
            return unknown_option(typed, name);
        }
        if (option->has_arg) {
            if (++n >= argc) {
                return error_new("%s: requires an argument", typed);
            }
            arg = argv[n];
        }
        TRY(run_option(plan, option, typed, arg));
    }
    return NULL;
}

/* A saved state and a migration both fill the whole machine: of two, the first would be lost unseen. */
static MUST_USE Error *check_one_state(const Plan *plan)
{
    if (plan->loadvm && plan->incoming) {
        return error_new("'incoming' and 'loadvm' options are mutually exclusive");
    }
    if (plan->loadvm && plan->preconfig) {
        return error_new("'preconfig' and 'loadvm' options are mutually exclusive");
    }
    return NULL;
}

Error *cli_finish(Plan *plan)
{
    TRY(check_one_state(plan));
    TRY(finish_machine(plan));
    TRY(finish_devices(plan));
    TRY(finish_net(plan));
    TRY(finish_drives(plan));
    TRY(apply_sets(plan));
    if (plan->dump_config) {
        plan->print = plan_dump_config(plan);
    }
    return NULL;
}

static void dump_list(GString *out, const char *option, const GPtrArray *list, const char *implied)
{
    for (guint n = 0; n < list->len; n++) {
        g_autofree char *text = keyvalues_format(g_ptr_array_index(list, n), implied);
        g_string_append_printf(out, "-%s %s\n", option, text);
    }
}

char *plan_dump(const Plan *plan)
{
    GString *out = g_string_new(NULL);
    g_autofree char *machine = keyvalues_format(plan->machine, "type");

    g_string_append_printf(out, "-machine %s\n", machine);
    dump_list(out, "accel", plan->accels, "accel");
    dump_list(out, "numa", plan->numa, "type");
    dump_list(out, "object", plan->objects, "qom-type");
    dump_list(out, "chardev", plan->chardevs, "backend");
    dump_list(out, "mon", plan->monitors, "chardev");
    dump_list(out, "blockdev", plan->blockdevs, "driver");
    dump_list(out, "drive", plan->drives, NULL);
    dump_list(out, "netdev", plan->netdevs, "type");
    dump_list(out, "device", plan->board_devices, "driver");
    dump_list(out, "device", plan->devices, "driver");
    dump_list(out, "global", plan->globals, NULL);
    return g_string_free(out, FALSE);
}
