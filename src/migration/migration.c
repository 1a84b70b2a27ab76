/* The migration service: state, parameters, capabilities; see migration.h. */
#include <string.h>

#include "migration/migration_priv.h"
#include "migration/snapshot.h"
#include "schema/qmp_commands.h"

const char *migration_status_name(MigrationStatus status)
{
    static const char *const names[] = { "none",   "setup",          "cancelling", "cancelled", "active",
                                         "pre-switchover", "device", "completed",  "failed" };
    return names[status];
}

Migration *migration_of(Machine *machine)
{
    return machine_service(machine, MIGRATION_SERVICE);
}

void migration_set_status(Migration *migration, MigrationStatus status)
{
    if (migration->status == status) {
        return;
    }
    migration->status = status;
    if (migration->caps.events) {
        g_autofree char *json = g_strdup_printf("{\"status\": \"%s\"}", migration_status_name(status));
        machine_emit(migration->machine, "MIGRATION", json);
    }
}

bool migration_busy(const Migration *migration)
{
    return migration->out || migration->in || migration->snapshot;
}

static const SnapshotOps snapshot_ops = { snapshot_save, snapshot_load, snapshot_delete, snapshot_describe };

Error *migration_init(Machine *machine)
{
    Migration *migration = g_new0(Migration, 1);

    migration->machine = machine;
    migration->params = (MigrationParams) { .max_bandwidth = 128 * MiB, .downtime_limit = 300, .throttle_trigger = 50, .compress_level = 1,
                                            .throttle_initial = 20, .throttle_increment = 10, .max_throttle = 99 };
    machine_set_service(machine, MIGRATION_SERVICE, migration);
    machine_set_service(machine, "snapshots", (void *)&snapshot_ops);
    return NULL;
}

void migration_free(Machine *machine)
{
    Migration *migration = migration_of(machine);

    if (!migration) {
        return;
    }
    lock_acquire(&machine->lock);
    migration_out_cancel(migration);
    lock_release(&machine->lock);
    while (migration->out) {
        loop_run_once(machine->loop, 10 * NS_PER_MS);
    }
    lock_acquire(&machine->lock);
    migration_in_free(migration);
    memory_snapshot_free(g_steal_pointer(&migration->memory));
    machine_set_service(machine, MIGRATION_SERVICE, NULL);
    lock_release(&machine->lock);
    value_free(migration->params.bitmap_mapping);
    g_free(migration->error);
    for (unsigned n = 0; n < MIGRATION_TLS_PARAMS; n++) {
        g_free(migration->tls[n]);
    }
    g_free(migration);
}

Error *migration_incoming(Machine *machine, const char *uri)
{
    Migration *migration = migration_of(machine);

    machine_set_state(machine, RUN_STATE_INMIGRATE);
    if (!strcmp(uri, "defer")) {
        return NULL;
    }
    migration->in_started = true;
    return migration_in_start(migration, uri);
}

/* --- commands --- */

Error *qmp_migrate(QmpContext *ctx, const QmpMigrateArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    RunState state = ctx->machine->state;

    if (args->blk || args->inc) {
        return error_hint(error_new("disks are not moved with the machine here"), "Use drive-mirror or blockdev-mirror.");
    }
    if (args->resume) {
        return error_new("No migration is paused, so there is none to resume");
    }
    if (migration_busy(migration)) {
        return error_new("A migration is under way: wait for its end, or cancel it");
    }
    if (state == RUN_STATE_INMIGRATE) {
        return error_new("The machine waits for an incoming migration itself");
    }
    if (state == RUN_STATE_POSTMIGRATE) {
        return error_new("The machine was migrated away already: let it run again ('cont') before "
                         "the next migration");
    }
    return migration_out_start(migration, args->uri);
}

Error *qmp_migrate_cancel(QmpContext *ctx, const QmpMigrateCancelArgs *args, Value **ret)
{
    migration_out_cancel(migration_of(ctx->machine));
    return NULL;
}

Error *qmp_migrate_continue(QmpContext *ctx, const QmpMigrateContinueArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    if (strcmp(args->state, migration_status_name(migration->status))) {
        return error_new("That does not fit the state of the migration, which is: %s",
                         migration_status_name(migration->status));
    }
    return migration_out_continue(migration);
}

Error *qmp_migrate_incoming(QmpContext *ctx, const QmpMigrateIncomingArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    if (ctx->machine->state != RUN_STATE_INMIGRATE) {
        return error_new("The machine does not wait for a migration: start it with '-incoming "
                         "defer'");
    }
    if (migration->in_started) {
        return error_new("The incoming migration was started before, it starts only once");
    }
    TRY(migration_in_start(migration, args->uri));
    migration->in_started = true;
    return NULL;
}

static Value *ram_value(const MigrationStats *stats)
{
    Value *ram = value_dict();

    value_put_int(ram, "total", (int64_t)stats->total);
    value_put_int(ram, "postcopy-requests", 0);
    value_put_int(ram, "dirty-sync-count", (int64_t)stats->passes);
    value_put_int(ram, "multifd-bytes", 0);
    value_put_int(ram, "pages-per-second", (int64_t)(stats->mbps * 1e6 / 8 / MEM_PAGE_SIZE));
    value_put_int(ram, "page-size", MEM_PAGE_SIZE);
    value_put_int(ram, "remaining", (int64_t)stats->remaining);
    value_put(ram, "mbps", value_double(stats->mbps));
    value_put_int(ram, "transferred", (int64_t)stats->transferred);
    value_put_int(ram, "duplicate", (int64_t)stats->zero_pages);
    value_put_int(ram, "dirty-pages-rate", (int64_t)stats->dirty_rate);
    value_put_int(ram, "skipped", 0);
    value_put_int(ram, "normal-bytes", (int64_t)(stats->data_pages * MEM_PAGE_SIZE));
    value_put_int(ram, "normal", (int64_t)stats->data_pages);
    value_put_int(ram, "precopy-bytes", (int64_t)stats->transferred);
    value_put_int(ram, "downtime-bytes", 0);
    value_put_int(ram, "postcopy-bytes", 0);
    return ram;
}

static void put_progress(const Migration *migration, Value *info)
{
    const MigrationStats *stats = &migration->stats;
    int64_t now = clock_now(migration->machine->clocks, CLOCK_REALTIME_NS) / NS_PER_MS;
    bool ended = migration->status == MIGRATION_COMPLETED;

    value_put_int(info, "total-time", ended ? stats->total_ms : now - stats->start_ms);
    value_put_int(info, "setup-time", stats->setup_ms);
    if (ended) {
        value_put_int(info, "downtime", stats->downtime_ms);
    } else {
        value_put_int(info, "expected-downtime", stats->expected_downtime_ms);
    }
    if (stats->throttle) {
        value_put_int(info, "cpu-throttle-percentage", stats->throttle);
    }
    value_put(info, "ram", ram_value(stats));
}

Error *qmp_query_migrate(QmpContext *ctx, const QmpQueryMigrateArgs *args, Value **ret)
{
    const Migration *migration = migration_of(ctx->machine);

    *ret = value_dict();
    if (migration->status == MIGRATION_NONE) {
        return NULL;
    }
    value_put_str(*ret, "status", migration_status_name(migration->status));
    if (!migration->in_started && (migration->status == MIGRATION_ACTIVE || migration->status == MIGRATION_DEVICE ||
                                   migration->status == MIGRATION_PRE_SWITCHOVER || migration->status == MIGRATION_COMPLETED ||
                                   migration->status == MIGRATION_CANCELLING)) {
        put_progress(migration, *ret);
    }
    if (migration->error && migration->status == MIGRATION_FAILED) {
        value_put_str(*ret, "error-desc", migration->error);
    }
    return NULL;
}

/* --- capabilities --- */

/* In the order of the schema. Those without a place are off and cannot be switched on. */
static const struct {
    const char *name;
    int offset; /* in MigrationCaps, -1: not there */
} capabilities[] = {
#define CAP(n, m) { n, (int)offsetof(MigrationCaps, m) }
    { "xbzrle", -1 }, { "rdma-pin-all", -1 }, CAP("auto-converge", auto_converge), { "zero-blocks", -1 },
    CAP("compress", compress), CAP("events", events), { "postcopy-ram", -1 }, { "x-colo", -1 }, { "release-ram", -1 },
    { "block", -1 }, CAP("return-path", return_path), CAP("pause-before-switchover", pause_before_switchover),
    { "multifd", -1 }, CAP("dirty-bitmaps", dirty_bitmaps), { "postcopy-blocktime", -1 }, CAP("late-block-activate", late_block_activate),
    { "x-ignore-shared", -1 }, CAP("validate-uuid", validate_uuid), { "background-snapshot", -1 }, { "zero-copy-send", -1 },
    { "postcopy-preempt", -1 },
};

static bool *capability_at(Migration *migration, size_t row)
{
    return capabilities[row].offset < 0 ? NULL : (bool *)((char *)&migration->caps + capabilities[row].offset);
}

static MUST_USE Error *set_capability(Migration *migration, const char *name, bool state)
{
    for (size_t n = 0; n < ARRAY_SIZE(capabilities); n++) {
        if (!strcmp(capabilities[n].name, name)) {
            bool *at = capability_at(migration, n);
            if (at) {
                *at = state;
            }
            return at || !state ? NULL : error_new("the migration capability '%s' is not supported", name);
        }
    }
    return error_new("there is no migration capability '%s'", name);
}

Error *qmp_migrate_set_capabilities(QmpContext *ctx, const QmpMigrateSetCapabilitiesArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    MigrationCaps before = migration->caps;

    if (migration->out) {
        return error_new("A migration is under way: wait for its end, or cancel it");
    }
    for (size_t n = 0; n < value_length(args->capabilities); n++) {
        const Value *item = value_at(args->capabilities, n);
        Error *err = set_capability(migration, value_find_str(item, "capability"), value_find_bool(item, "state", false));
        if (err) {
            migration->caps = before;
            return err;
        }
    }
    return NULL;
}

Error *qmp_query_migrate_capabilities(QmpContext *ctx, const QmpQueryMigrateCapabilitiesArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    *ret = value_list();
    for (size_t n = 0; n < ARRAY_SIZE(capabilities); n++) {
        const bool *at = capability_at(migration, n);
        Value *item = value_dict();
        value_put_bool(item, "state", at && *at);
        value_put_str(item, "capability", capabilities[n].name);
        value_append(*ret, item);
    }
    return NULL;
}

/* --- parameters --- */

static const struct {
    const char *name;
    size_t offset;
    int64_t min, max;
} parameters[] = {
#define PARAM(n, m, lo, hi) { n, offsetof(MigrationParams, m), lo, hi }
    PARAM("compress-level", compress_level, 0, 9),
    PARAM("throttle-trigger-threshold", throttle_trigger, 1, 100),
    PARAM("cpu-throttle-initial", throttle_initial, 1, 99),
    PARAM("cpu-throttle-increment", throttle_increment, 1, 99),
    PARAM("max-cpu-throttle", max_throttle, 1, 99),
    PARAM("max-bandwidth", max_bandwidth, 0, INT64_MAX),
    PARAM("downtime-limit", downtime_limit, 0, 2000 * 1000),
};

static int64_t *parameter_at(Migration *migration, size_t row)
{
    return (int64_t *)((char *)&migration->params + parameters[row].offset);
}

/* Names and aliases tell the nodes apart, and the bitmaps of each. */
static MUST_USE Error *check_aliases(const Value *list, const char *name, const char *what)
{
    const char *const keys[] = { name, "alias" };

    for (size_t n = 0; n < value_length(list); n++) {
        for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
            const char *text = value_find_str(value_at(list, n), keys[k]);
            for (size_t i = 0; i < n; i++) {
                if (!g_strcmp0(text, value_find_str(value_at(list, i), keys[k]))) {
                    return error_new("Parameter 'block-bitmap-mapping': the %s '%s' stands there twice", what, text);
                }
            }
        }
    }
    return NULL;
}

static MUST_USE Error *set_bitmap_mapping(MigrationParams *params, const Value *mapping)
{
    TRY(check_aliases(mapping, "node-name", "node"));
    for (size_t n = 0; n < value_length(mapping); n++) {
        TRY(check_aliases(value_find(value_at(mapping, n), "bitmaps"), "name", "bitmap"));
    }
    value_free(params->bitmap_mapping);
    params->bitmap_mapping = value_copy(mapping);
    return NULL;
}

Error *qmp_migrate_set_parameters(QmpContext *ctx, const QmpMigrateSetParametersArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    MigrationParams before = migration->params;

    for (size_t n = 0; n < ARRAY_SIZE(parameters); n++) {
        const Value *item = value_find(args->all, parameters[n].name);
        int64_t value;
        if (!item || !value_get_int(item, &value)) {
            continue;
        }
        if (value < parameters[n].min || value > parameters[n].max) {
            migration->params = before;
            return error_new("Parameter '%s' expects a value between %" G_GINT64_FORMAT " and %" G_GINT64_FORMAT,
                             parameters[n].name, parameters[n].min, parameters[n].max);
        }
        *parameter_at(migration, n) = value;
    }
    TRY(migration_tls_set(migration, args->all));
    const Value *mapping = value_find(args->all, "block-bitmap-mapping");
    return mapping ? set_bitmap_mapping(&migration->params, mapping) : NULL;
}

Error *qmp_query_migrate_parameters(QmpContext *ctx, const QmpQueryMigrateParametersArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    *ret = value_dict();
    for (size_t n = 0; n < ARRAY_SIZE(parameters); n++) {
        value_put_int(*ret, parameters[n].name, *parameter_at(migration, n));
    }
    migration_tls_show(migration, *ret);
    if (migration->params.bitmap_mapping) {
        value_put(*ret, "block-bitmap-mapping", value_copy(migration->params.bitmap_mapping));
    }
    return NULL;
}
