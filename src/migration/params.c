/*
 * Capabilities and parameters of migration, by the names that QMP has for them. What this program does not do, or does another way, is
 * in the tables too: it is shown, and refused with the reason when somebody wants it.
 */
#include <string.h>

#include "migration/lazy_ram.h"
#include "migration/migration_priv.h"
#include "migration/multifd.h"
#include "migration/postcopy.h"
#include "net/announce.h"
#include "schema/qmp_commands.h"

/* --- capabilities --- */

/* In the order of the schema. */
static const struct {
    const char *name;
    int offset;      /* in MigrationCaps; -1: cannot be switched on */
    const char *why; /* then */
} capabilities[] = {
#define CAP(n, m)  { n, (int)offsetof(MigrationCaps, m), NULL }
#define NONE(n, w) { n, -1, w }
    CAP("xbzrle", xbzrle),
    NONE("rdma-pin-all", "there is no migration over RDMA here"),
    CAP("auto-converge", auto_converge),
    NONE("zero-blocks", "disks are not moved with the machine; use blockdev-mirror to an NBD server"),
    CAP("compress", compress),
    CAP("events", events),
    CAP("postcopy-ram", postcopy),
    NONE("x-colo", "there are no pairs of machines in lockstep here"),
    NONE("release-ram", "the source keeps its RAM to the end, so that a broken connection can be mended"),
    NONE("block", "disks are not moved with the machine; use blockdev-mirror to an NBD server"),
    CAP("return-path", return_path),
    CAP("pause-before-switchover", pause_before_switchover),
    CAP("multifd", multifd),
    CAP("dirty-bitmaps", dirty_bitmaps),
    CAP("postcopy-blocktime", postcopy_blocktime),
    CAP("late-block-activate", late_block_activate),
    CAP("x-ignore-shared", ignore_shared),
    CAP("validate-uuid", validate_uuid),
    NONE("background-snapshot", "savevm and snapshot-save copy in the background anyway"),
    NONE("zero-copy-send", "pages are copied when they are sent, since their sums are sent with them"),
    CAP("postcopy-preempt", postcopy_preempt),
};

static bool *capability_at(MigrationCaps *caps, size_t row)
{
    return capabilities[row].offset < 0 ? NULL : (bool *)((char *)caps + capabilities[row].offset);
}

static MUST_USE Error *set_capability(MigrationCaps *caps, const char *name, bool state)
{
    for (size_t n = 0; n < ARRAY_SIZE(capabilities); n++) {
        if (!strcmp(capabilities[n].name, name)) {
            bool *at = capability_at(caps, n);
            if (at) {
                *at = state;
            }
            return at || !state ? NULL : error_new("the migration capability '%s' is not supported: %s", name, capabilities[n].why);
        }
    }
    return error_new("there is no migration capability '%s'", name);
}

static MUST_USE Error *check_together(const MigrationCaps *caps)
{
    if (caps->multifd && caps->compress) {
        return error_hint(error_new("the migration capabilities multifd and compress exclude each other"),
                          "multifd packs too: set multifd-compression.");
    }
    if (caps->multifd && caps->xbzrle) {
        return error_new("the migration capabilities multifd and xbzrle exclude each other");
    }
    if (caps->multifd && caps->postcopy) {
        return error_new("the migration capabilities multifd and postcopy-ram exclude each other");
    }
    if (caps->compress && caps->postcopy) {
        return error_new("the migration capabilities compress and postcopy-ram exclude each other");
    }
    if (caps->postcopy && caps->ignore_shared) {
        return error_new("the migration capabilities postcopy-ram and x-ignore-shared exclude each other");
    }
    return caps->postcopy_preempt && !caps->postcopy ? error_new("the migration capability postcopy-preempt needs postcopy-ram") : NULL;
}

Error *migration_postcopy_check(const Migration *migration)
{
    if (migration->lazy_host < 0) {
        return error_hint(error_new("post-copy needs the host's userfaultfd(2), which this user or host has not"),
                          "It takes the sysctl vm.unprivileged_userfaultfd=1, access to /dev/userfaultfd or CAP_SYS_PTRACE.");
    }
    for (RamBlock *block = NULL; (block = ram_block_next(migration->machine->mem, block));) {
        if (block->size > POSTCOPY_EAGER_MAX && (block->fd >= 0 || block->shared)) {
            return error_new("the memory '%s' lies in a file or is shared: it cannot come by post-copy", block->name);
        }
    }
    return NULL;
}

Error *qmp_migrate_set_capabilities(QmpContext *ctx, const QmpMigrateSetCapabilitiesArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    MigrationCaps caps = migration->caps;

    if (migration->out) {
        return error_new("A migration is under way: wait for its end, or cancel it");
    }
    for (size_t n = 0; n < value_length(args->capabilities); n++) {
        const Value *item = value_at(args->capabilities, n);
        TRY(set_capability(&caps, value_find_str(item, "capability"), value_find_bool(item, "state", false)));
    }
    TRY(check_together(&caps));
    if (caps.postcopy && ctx->machine->state == RUN_STATE_INMIGRATE) {
        TRY(migration_postcopy_check(migration));
    }
    migration->caps = caps;
    return NULL;
}

Error *qmp_query_migrate_capabilities(QmpContext *ctx, const QmpQueryMigrateCapabilitiesArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    *ret = value_list();
    for (size_t n = 0; n < ARRAY_SIZE(capabilities); n++) {
        const bool *at = capability_at(&migration->caps, n);
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
    int64_t initial, min, max;
} numbers[] = {
#define PARAM(n, m, first, lo, hi) { n, offsetof(MigrationParams, m), first, lo, hi }
    PARAM("compress-level", compress_level, 1, 0, 9),
    PARAM("throttle-trigger-threshold", throttle_trigger, 50, 1, 100),
    PARAM("cpu-throttle-initial", throttle_initial, 20, 1, 99),
    PARAM("cpu-throttle-increment", throttle_increment, 10, 1, 99),
    PARAM("max-cpu-throttle", max_throttle, 99, 1, 99),
    PARAM("max-bandwidth", max_bandwidth, 128 * MiB, 0, INT64_MAX),
    PARAM("downtime-limit", downtime_limit, 300, 0, 2000 * 1000),
    PARAM("multifd-channels", multifd_channels, 2, 1, MULTIFD_MAX),
    PARAM("multifd-zlib-level", multifd_zlib_level, 1, 0, 9),
    PARAM("multifd-zstd-level", multifd_zstd_level, 1, 0, 20),
    PARAM("xbzrle-cache-size", xbzrle_cache_size, 64 * MiB, MEM_PAGE_SIZE, INT64_MAX),
    PARAM("max-postcopy-bandwidth", max_postcopy_bandwidth, 0, 0, INT64_MAX),
    PARAM("announce-initial", announce_initial, 50, 0, ANNOUNCE_MS_MAX),
    PARAM("announce-max", announce_max, 550, 0, ANNOUNCE_MS_MAX),
    PARAM("announce-rounds", announce_rounds, 5, 0, ANNOUNCE_ROUNDS_MAX),
    PARAM("announce-step", announce_step, 100, 0, ANNOUNCE_STEP_MAX),
};

/* Shown, but what they would change is not there. */
static const struct {
    const char *name;
    bool is_flag;
    int64_t value;
    const char *why;
} fixed[] = {
    { "compress-threads", false, 8, "records are packed on the migration's thread; multifd packs on several" },
    { "decompress-threads", false, 2, "records are unpacked on the migration's thread; multifd unpacks on several" },
    { "compress-wait-thread", true, true, "records are packed on the migration's thread; multifd packs on several" },
    { "x-checkpoint-delay", false, 20000, "there are no pairs of machines in lockstep here" },
    { "block-incremental", true, false, "disks are not moved with the machine" },
};

static const char *const methods[] = { [PACK_NONE] = "none", [PACK_ZLIB] = "zlib", [PACK_ZSTD] = "zstd" };

static int64_t *number_at(MigrationParams *params, size_t row)
{
    return (int64_t *)((char *)params + numbers[row].offset);
}

void migration_params_init(MigrationParams *params)
{
    *params = (MigrationParams) { 0 };
    for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
        *number_at(params, n) = numbers[n].initial;
    }
}

static MUST_USE Error *set_numbers(MigrationParams *params, const Value *from)
{
    for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
        const Value *item = value_find(from, numbers[n].name);
        int64_t value;
        if (!item || !value_get_int(item, &value)) {
            continue;
        }
        if (value < numbers[n].min || value > numbers[n].max) {
            return error_new("Parameter '%s' expects a value between %" G_GINT64_FORMAT " and %" G_GINT64_FORMAT,
                             numbers[n].name, numbers[n].min, numbers[n].max);
        }
        *number_at(params, n) = value;
    }
    int64_t cache = params->xbzrle_cache_size;
    return cache & (cache - 1) ? error_new("Parameter 'xbzrle-cache-size' expects a power of two, not %" G_GINT64_FORMAT, cache) : NULL;
}

static MUST_USE Error *check_fixed(const Value *from)
{
    for (size_t n = 0; n < ARRAY_SIZE(fixed); n++) {
        const Value *item = value_find(from, fixed[n].name);
        int64_t value = fixed[n].value;
        bool flag = fixed[n].value;
        if (item && !(fixed[n].is_flag ? value_get_bool(item, &flag) : value_get_int(item, &value))) {
            continue;
        }
        if (fixed[n].is_flag ? flag != fixed[n].value : value != fixed[n].value) {
            return error_new("Parameter '%s' cannot be changed: %s", fixed[n].name, fixed[n].why);
        }
    }
    return NULL;
}

static MUST_USE Error *set_method(MigrationParams *params, const char *name)
{
    for (size_t n = 0; name && n < ARRAY_SIZE(methods); n++) {
        if (!strcmp(name, methods[n])) {
            if (!pack_has((PackMethod)n)) {
                return error_new("Parameter 'multifd-compression': this program was built without %s", name);
            }
            params->multifd_compression = (PackMethod)n;
        }
    }
    return NULL;
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
    MigrationParams params = migration->params;

    TRY(set_numbers(&params, args->all));
    TRY(check_fixed(args->all));
    TRY(set_method(&params, value_find_str(args->all, "multifd-compression")));
    params.throttle_tailslow = value_find_bool(args->all, "cpu-throttle-tailslow", params.throttle_tailslow);
    TRY(migration_tls_set(migration, args->all));
    const Value *mapping = value_find(args->all, "block-bitmap-mapping");
    if (mapping) {
        TRY(set_bitmap_mapping(&params, mapping));
    }
    migration->params = params;
    return NULL;
}

Error *qmp_query_migrate_parameters(QmpContext *ctx, const QmpQueryMigrateParametersArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    *ret = value_dict();
    for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
        value_put_int(*ret, numbers[n].name, *number_at(&migration->params, n));
    }
    for (size_t n = 0; n < ARRAY_SIZE(fixed); n++) {
        if (fixed[n].is_flag) {
            value_put_bool(*ret, fixed[n].name, fixed[n].value);
        } else {
            value_put_int(*ret, fixed[n].name, fixed[n].value);
        }
    }
    value_put_bool(*ret, "cpu-throttle-tailslow", migration->params.throttle_tailslow);
    value_put_str(*ret, "multifd-compression", methods[migration->params.multifd_compression]);
    migration_tls_show(migration, *ret);
    if (migration->params.bitmap_mapping) {
        value_put(*ret, "block-bitmap-mapping", value_copy(migration->params.bitmap_mapping));
    }
    return NULL;
}
