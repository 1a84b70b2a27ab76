/* HMP: migration and saved states. */
#include <stdlib.h>
#include <string.h>

#include "monitor/hmp_priv.h"

/* --- migrate without -d: the session waits for the end --- */

static bool under_way(const char *status)
{
    static const char *const names[] = { "setup", "active", "device", "cancelling", "pre-switchover" };

    for (size_t n = 0; status && n < ARRAY_SIZE(names); n++) {
        if (!strcmp(status, names[n])) {
            return true;
        }
    }
    return false;
}

static bool migration_ended(Monitor *monitor)
{
    QmpContext ctx = { .machine = monitor->set->machine, .monitor = monitor };
    g_autoptr(Value) info = NULL;
    Error *err = monitor_run_qmp(&ctx, "query-migrate", NULL, &info);

    if (!err && under_way(value_find_str(info, "status"))) {
        return false;
    }
    const char *why = info ? value_find_str(info, "error-desc") : NULL;
    if (why) {
        g_autofree char *line = g_strdup_printf("Error: %s\n", why);
        hmp_session_print(monitor, line);
    }
    error_free(err);
    return true;
}

static void hmp_migrate(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("uri", args->text[0], NULL);

    if (args->flag['b']) {
        value_put_bool(request, "blk", true);
    }
    if (args->flag['i']) {
        value_put_bool(request, "inc", true);
    }
    if (args->flag['r']) {
        value_put_bool(request, "resume", true);
    }
    if (hmp_qmp(hmp, "migrate", request, NULL) && !args->flag['d']) {
        hmp_wait_until(hmp, migration_ended);
    }
}

static void hmp_migrate_cancel(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "migrate_cancel", NULL, NULL);
}

static void hmp_migrate_continue(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "migrate-continue", hmp_dict("state", args->text[0], NULL), NULL);
}

static void hmp_migrate_incoming(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "migrate-incoming", hmp_dict("uri", args->text[0], NULL), NULL);
}

static void hmp_set_capability(Hmp *hmp, const HmpArgs *args)
{
    bool state;
    Error *err = parse_bool(args->text[1], &state);

    if (err) {
        hmp_error(hmp, err);
        return;
    }
    Value *request = value_dict(), *list = value_list(), *item = hmp_dict("capability", args->text[0], NULL);
    value_put_bool(item, "state", state);
    value_append(list, item);
    value_put(request, "capabilities", list);
    hmp_qmp(hmp, "migrate-set-capabilities", request, NULL);
}

/* Sizes are in MiB when they have no suffix. */
static void hmp_set_parameter(Hmp *hmp, const HmpArgs *args)
{
    uint64_t number;
    bool size = strstr(args->text[0], "bandwidth") != NULL;

    if (g_str_has_prefix(args->text[0], "tls-")) {
        Value *text = value_dict();
        value_put_str(text, args->text[0], args->text[1]);
        hmp_qmp(hmp, "migrate-set-parameters", text, NULL);
        return;
    }
    Error *err = size ? parse_size(args->text[1], MiB, &number) : parse_u64(args->text[1], &number);

    if (!err && number > INT64_MAX) {
        err = error_new("the value is too large");
    }
    if (err) {
        hmp_error(hmp, err);
        return;
    }
    Value *request = value_dict();
    value_put_int(request, args->text[0], (int64_t)number);
    hmp_qmp(hmp, "migrate-set-parameters", request, NULL);
}

/* --- snapshots --- */

static bool not_ended(Monitor *monitor)
{
    return false;
}

/* The loop runs meanwhile; what is typed waits. */
static void snapshot_call(Hmp *hmp, Error *(*fn)(Machine *machine, const char *tag), const char *tag)
{
    if (hmp->monitor && !hmp->monitor->control) {
        hmp->monitor->waits = not_ended;
    }
    hmp_error(hmp, fn(hmp->machine, tag));
    if (hmp->monitor && !hmp->monitor->control) {
        hmp->monitor->waits = NULL;
        char_accept_input(&hmp->monitor->front);
    }
}

static const SnapshotOps *snapshot_ops(Hmp *hmp)
{
    return machine_service(hmp->machine, "snapshots");
}

static void hmp_savevm(Hmp *hmp, const HmpArgs *args)
{
    snapshot_call(hmp, snapshot_ops(hmp)->save, args->text[0]);
}

static void hmp_loadvm(Hmp *hmp, const HmpArgs *args)
{
    snapshot_call(hmp, snapshot_ops(hmp)->load, args->text[0]);
}

static void hmp_delvm(Hmp *hmp, const HmpArgs *args)
{
    snapshot_call(hmp, snapshot_ops(hmp)->remove, args->text[0]);
}

static void info_snapshots(Hmp *hmp, const HmpArgs *args)
{
    g_autofree char *text = snapshot_ops(hmp)->describe(hmp->machine);
    hmp_printf(hmp, "%s", text);
}

/* --- info --- */

static void print_ram(Hmp *hmp, const Value *ram)
{
    static const struct {
        const char *name, *text, *unit;
        int64_t divide;
    } rows[] = {
        { "transferred", "transferred ram", " kbytes", 1024 }, { "remaining", "remaining ram", " kbytes", 1024 },
        { "total", "total ram", " kbytes", 1024 },             { "duplicate", "duplicate", " pages", 1 },
        { "skipped", "skipped", " pages", 1 },                 { "normal", "normal", " pages", 1 },
        { "normal-bytes", "normal bytes", " kbytes", 1024 },   { "dirty-sync-count", "dirty sync count", "", 1 },
        { "page-size", "page size", " kbytes", 1024 },         { "dirty-pages-rate", "dirty pages rate", " pages", 1 },
    };
    double mbps = 0;

    value_get_double(value_find(ram, "mbps"), &mbps);
    hmp_printf(hmp, "throughput: %0.2f mbps\n", mbps);
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        hmp_printf(hmp, "%s: %" G_GINT64_FORMAT "%s\n", rows[n].text, value_find_int(ram, rows[n].name, 0) / rows[n].divide,
                   rows[n].unit);
    }
}

static void print_time(Hmp *hmp, const Value *info, const char *name, const char *text)
{
    if (value_find(info, name)) {
        hmp_printf(hmp, "%s: %" G_GINT64_FORMAT " ms\n", text, value_find_int(info, name, 0));
    }
}

static void info_migrate(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (!hmp_qmp(hmp, "query-migrate", NULL, &info) || !value_find_str(info, "status")) {
        return;
    }
    hmp_printf(hmp, "Migration status: %s", value_find_str(info, "status"));
    const char *why = value_find_str(info, "error-desc");
    hmp_printf(hmp, why ? " (%s)\n" : "\n", why);
    print_time(hmp, info, "total-time", "total time");
    print_time(hmp, info, "expected-downtime", "expected downtime");
    print_time(hmp, info, "downtime", "downtime");
    print_time(hmp, info, "setup-time", "setup");
    if (value_find(info, "ram")) {
        print_ram(hmp, value_find(info, "ram"));
    }
    if (value_find(info, "cpu-throttle-percentage")) {
        hmp_printf(hmp, "cpu throttle percentage: %" G_GINT64_FORMAT "\n", value_find_int(info, "cpu-throttle-percentage", 0));
    }
}

static void info_migrate_capabilities(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-migrate-capabilities", NULL, &list)) {
        return;
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        hmp_printf(hmp, "%s: %s\n", value_find_str(item, "capability"), value_find_bool(item, "state", false) ? "on" : "off");
    }
}

static void info_migrate_parameters(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) dict = NULL;

    if (!hmp_qmp(hmp, "query-migrate-parameters", NULL, &dict)) {
        return;
    }
    for (size_t n = 0; n < value_length(dict); n++) {
        const char *name = value_key_at(dict, n);
        const char *unit = strstr(name, "bandwidth") ? " bytes/second" : strstr(name, "downtime") ? " ms" : "";
        hmp_printf(hmp, "%s: %" G_GINT64_FORMAT "%s\n", name, value_find_int(dict, name, 0), unit);
    }
}

const HmpCommand hmp_info_migrate[] = {
    { "snapshots", "", "", "show the saved VM states", info_snapshots },
    { "migrate", "", "", "show migration status", info_migrate },
    { "migrate_capabilities", "", "", "which abilities of migration are on",
                                      info_migrate_capabilities },
    { "migrate_parameters", "", "", "settings of migration", info_migrate_parameters },
    { 0 },
};

const HmpCommand hmp_commands_migrate[] = {
    { "savevm", "?s", "[tag]", "save a snapshot of the machine and its disks in the disk images", hmp_savevm },
    { "loadvm", "s", "tag|id", "go back to a snapshot", hmp_loadvm },
    { "delvm", "s", "tag|id", "delete a snapshot", hmp_delvm },
    { "migrate", "-d-b-i-rs", "[-d] [-r] uri", "move the machine to uri (-d: do not wait for the end)", hmp_migrate },
    { "migrate_cancel", "", "", "cancel the current migration", hmp_migrate_cancel },
    { "migrate_continue", "s", "state", "continue a migration that waits in the given state", hmp_migrate_continue },
    { "migrate_incoming", "s", "uri", "continue with an incoming migration after -incoming defer", hmp_migrate_incoming },
    { "migrate_set_capability", "ss", "capability state", "switch a migration capability on or off", hmp_set_capability },
    { "migrate_set_parameter", "ss", "parameter value", "set a parameter of migration", hmp_set_parameter },
    { 0 },
};
