/* query-migrate. */
#include "migration/migration_priv.h"
#include "schema/qmp_commands.h"

static Value *ram_value(const MigrationStats *stats)
{
    Value *ram = value_dict();

    value_put_int(ram, "total", (int64_t)stats->total);
    value_put_int(ram, "postcopy-requests", (int64_t)stats->postcopy_requests);
    value_put_int(ram, "dirty-sync-count", (int64_t)stats->passes);
    value_put_int(ram, "multifd-bytes", (int64_t)stats->multifd_bytes);
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
    value_put_int(ram, "precopy-bytes", (int64_t)(stats->transferred - stats->downtime_bytes - stats->postcopy_bytes));
    value_put_int(ram, "downtime-bytes", (int64_t)stats->downtime_bytes);
    value_put_int(ram, "postcopy-bytes", (int64_t)stats->postcopy_bytes);
    return ram;
}

static Value *xbzrle_value(const MigrationStats *stats)
{
    Value *cache = value_dict();

    value_put_int(cache, "cache-size", (int64_t)stats->xbzrle_size);
    value_put_int(cache, "bytes", (int64_t)stats->xbzrle.bytes);
    value_put_int(cache, "pages", (int64_t)stats->xbzrle.pages);
    value_put_int(cache, "cache-miss", (int64_t)stats->xbzrle.misses);
    value_put(cache, "cache-miss-rate", value_double(stats->xbzrle_miss_rate));
    value_put(cache, "encoding-rate", value_double(stats->xbzrle_encoding_rate));
    value_put_int(cache, "overflow", (int64_t)stats->xbzrle.overflow);
    return cache;
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
    if (stats->has_xbzrle) {
        value_put(info, "xbzrle-cache", xbzrle_value(stats));
    }
}

static bool has_progress(MigrationStatus status)
{
    return status != MIGRATION_NONE && status != MIGRATION_SETUP && status != MIGRATION_FAILED && status != MIGRATION_CANCELLED;
}

Error *qmp_query_migrate(QmpContext *ctx, const QmpQueryMigrateArgs *args, Value **ret)
{
    const Migration *migration = migration_of(ctx->machine);

    *ret = value_dict();
    if (migration->status == MIGRATION_NONE) {
        return NULL;
    }
    value_put_str(*ret, "status", migration_status_name(migration->status));
    if (migration->outgoing && has_progress(migration->status)) {
        put_progress(migration, *ret);
    }
    Value *listening = migration->outgoing ? NULL : migration_in_addresses(migration);
    if (listening) {
        value_put(*ret, "socket-address", listening);
    }
    if (!migration->outgoing && migration->blocktime) {
        blocktime_show(migration->blocktime, *ret);
    }
    if (migration->error && migration->status == MIGRATION_FAILED) {
        value_put_str(*ret, "error-desc", migration->error);
    }
    return NULL;
}
