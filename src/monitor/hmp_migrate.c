/* HMP: migration and saved states. */
#include <stdlib.h>
#include <string.h>

#include "monitor/hmp_priv.h"

/* --- migrate without -d: the session waits for the end --- */

static bool under_way(const char *status)
{
    static const char *const names[] = { "setup", "active", "device", "cancelling", "pre-switchover", "postcopy-active",
                                         "postcopy-recover" };

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

static void hmp_migrate_start_postcopy(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "migrate-start-postcopy", NULL, NULL);
}

static void hmp_migrate_pause(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "migrate-pause", NULL, NULL);
}

static void hmp_migrate_recover(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "migrate-recover", hmp_dict("uri", args->text[0], NULL), NULL);
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

static bool is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names)) {
        names++;
    }
    return *names != NULL;
}

/* Bandwidths are in MiB when they have no suffix. */
static MUST_USE Error *put_number(Value *request, const char *name, const char *text)
{
    bool bandwidth = strstr(name, "bandwidth") != NULL;
    uint64_t number;

    TRY(bandwidth || strstr(name, "size") ? parse_size(text, bandwidth ? MiB : 1, &number) : parse_u64(text, &number));
    if (number > INT64_MAX) {
        return error_new("the value is too large");
    }
    value_put_int(request, name, (int64_t)number);
    return NULL;
}

static void hmp_set_parameter(Hmp *hmp, const HmpArgs *args)
{
    static const char *const texts[] = { "tls-creds", "tls-hostname", "tls-authz", "multifd-compression", NULL };
    static const char *const flags[] = { "cpu-throttle-tailslow", "compress-wait-thread", "block-incremental", NULL };
    const char *name = args->text[0], *text = args->text[1];
    Value *request = value_dict();
    Error *err = NULL;

    if (is_one_of(name, texts)) {
        value_put_str(request, name, text);
    } else if (is_one_of(name, flags)) {
        bool flag = false;
        err = parse_bool(text, &flag);
        value_put_bool(request, name, flag);
    } else {
        err = put_number(request, name, text);
    }
    if (err) {
        value_free(request);
        hmp_error(hmp, err);
        return;
    }
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
    g_autofree char *text = NULL;
    Error *err = snapshot_ops(hmp)->describe(hmp->machine, &text);
    if (err) {
        hmp_error(hmp, err);
        return;
    }
    hmp_printf(hmp, "%s", text);
}

/* --- how fast the guest writes --- */

static void hmp_calc_dirty_rate(Hmp *hmp, const HmpArgs *args)
{
    Value *request = value_dict();

    value_put(request, "calc-time", value_uint(args->number[0]));
    if (args->text[1]) {
        value_put(request, "sample-pages", value_uint(args->number[1]));
    }
    value_put_str(request, "mode", args->flag['r'] ? "dirty-ring" : args->flag['b'] ? "dirty-bitmap" : "page-sampling");
    if (hmp_qmp(hmp, "calc-dirty-rate", request, NULL)) {
        hmp_printf(hmp, "measuring for %" G_GINT64_FORMAT " s; 'info dirty_rate' shows what was found\n", (gint64)args->number[0]);
    }
}

static void info_dirty_rate(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (!hmp_qmp(hmp, "query-dirty-rate", NULL, &info)) {
        return;
    }
    const Value *rate = value_find(info, "dirty-rate");
    hmp_printf(hmp, "Status: %s\nStart Time: %" G_GINT64_FORMAT " (ms)\n", value_find_str(info, "status"),
               value_find_int(info, "start-time", 0) * 1000);
    if (!strcmp(value_find_str(info, "mode"), "page-sampling")) {
        hmp_printf(hmp, "Sample Pages: %" G_GINT64_FORMAT " (per GB)\n", value_find_int(info, "sample-pages", 0));
    }
    hmp_printf(hmp, "Period: %" G_GINT64_FORMAT " (sec)\nMode: %s\n", value_find_int(info, "calc-time", 0),
               value_find_str(info, "mode"));
    if (rate) {
        hmp_printf(hmp, "Dirty rate: %" G_GINT64_FORMAT " (MB/s)\n", value_find_int(info, "dirty-rate", 0));
    } else {
        hmp_printf(hmp, "Dirty rate: (not ready)\n");
    }
}

static Value *limit_request(const HmpArgs *args, unsigned index)
{
    Value *request = value_dict();
    if (args->text[index]) {
        value_put(request, "cpu-index", value_uint(args->number[index]));
    }
    return request;
}

static void hmp_set_dirty_limit(Hmp *hmp, const HmpArgs *args)
{
    Value *request = limit_request(args, 1);
    value_put(request, "dirty-rate", value_uint(args->number[0]));
    hmp_qmp(hmp, "set-vcpu-dirty-limit", request, NULL);
}

static void hmp_cancel_dirty_limit(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "cancel-vcpu-dirty-limit", limit_request(args, 0), NULL);
}

static void info_dirty_limit(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-vcpu-dirty-limit", NULL, &list)) {
        return;
    }
    if (value_length(list) == 0) {
        hmp_printf(hmp, "no CPU has a limit\n");
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        hmp_printf(hmp, "vcpu[%" G_GINT64_FORMAT "], limit rate %" G_GINT64_FORMAT " (MB/s), current rate %" G_GINT64_FORMAT " (MB/s)\n",
                   value_find_int(item, "cpu-index", 0), value_find_int(item, "limit-rate", 0), value_find_int(item, "current-rate", 0));
    }
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

static void print_xbzrle(Hmp *hmp, const Value *cache)
{
    static const struct {
        const char *name, *text;
    } rows[] = { { "cache-size", "cache size" }, { "bytes", "xbzrle transferred bytes" }, { "pages", "xbzrle pages" },
                 { "cache-miss", "xbzrle cache miss" }, { "overflow", "xbzrle overflow" } };
    double miss = 0, rate = 0;

    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        hmp_printf(hmp, "%s: %" G_GINT64_FORMAT "\n", rows[n].text, value_find_int(cache, rows[n].name, 0));
    }
    value_get_double(value_find(cache, "cache-miss-rate"), &miss);
    value_get_double(value_find(cache, "encoding-rate"), &rate);
    hmp_printf(hmp, "xbzrle cache miss rate: %0.2f\nxbzrle encoding rate: %0.2f\n", miss, rate);
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
    if (value_find(info, "xbzrle-cache")) {
        print_xbzrle(hmp, value_find(info, "xbzrle-cache"));
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

static void print_parameter(Hmp *hmp, const char *name, const Value *dict)
{
    const char *unit = strstr(name, "bandwidth") ? " bytes/second" : strstr(name, "downtime") ? " ms" : strstr(name, "size") ? " bytes" : "";

    switch (value_kind(value_find(dict, name))) {
    case VALUE_STRING:
        hmp_printf(hmp, "%s: '%s'\n", name, value_find_str(dict, name));
        return;
    case VALUE_BOOL:
        hmp_printf(hmp, "%s: %s\n", name, value_find_bool(dict, name, false) ? "on" : "off");
        return;
    case VALUE_INT:
        hmp_printf(hmp, "%s: %" G_GINT64_FORMAT "%s\n", name, value_find_int(dict, name, 0), unit);
        return;
    default:
        return; /* block-bitmap-mapping is for programs */
    }
}

static void info_migrate_parameters(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) dict = NULL;

    if (!hmp_qmp(hmp, "query-migrate-parameters", NULL, &dict)) {
        return;
    }
    for (size_t n = 0; n < value_length(dict); n++) {
        print_parameter(hmp, value_key_at(dict, n), dict);
    }
}

const HmpCommand hmp_info_migrate[] = {
    { "snapshots", "", "", "show the saved VM states", info_snapshots },
    { "migrate", "", "", "show migration status", info_migrate },
    { "migrate_capabilities", "", "", "which abilities of migration are on",
                                      info_migrate_capabilities },
    { "migrate_parameters", "", "", "settings of migration", info_migrate_parameters },
    { "dirty_rate", "", "", "how fast the guest writes memory, as calc_dirty_rate found", info_dirty_rate },
    { "vcpu_dirty_limit", "", "", "limits of how fast CPUs may write memory", info_dirty_limit },
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
    { "migrate_pause", "", "", "break the connection of a post-copy migration", hmp_migrate_pause },
    { "migrate_recover", "s", "uri", "wait there for the new connection of a paused post-copy migration", hmp_migrate_recover },
    { "migrate_start_postcopy", "", "", "let the machine run at the destination before its memory is there", hmp_migrate_start_postcopy },
    { "migrate_set_capability", "ss", "capability state", "switch a migration capability on or off", hmp_set_capability },
    { "migrate_set_parameter", "ss", "parameter value", "set a parameter of migration", hmp_set_parameter },
    { "calc_dirty_rate", "-r-be?e", "[-r] [-b] seconds [pages]", "measure how fast the guest writes memory, by samples of so many "
                                    "pages a GiB (-b: by counting all; -r: by KVM's dirty ring)", hmp_calc_dirty_rate },
    { "set_vcpu_dirty_limit", "e?e", "rate [cpu]", "limit how many MiB a second a CPU may write, or all", hmp_set_dirty_limit },
    { "cancel_vcpu_dirty_limit", "?e", "[cpu]", "end that limit", hmp_cancel_dirty_limit },
    { 0 },
};
