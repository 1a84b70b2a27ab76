/* QMP commands about block devices and their media. */
#include <string.h>

#include "block/bitmap.h"
#include "block/block_qmp.h"
#include "block/drive.h"
#include "block/info.h"
#include "block/job.h"
#include "block/node_priv.h"
#include "block/throttle.h"
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"


static BlockGraph *graph_of(QmpContext *ctx)
{
    return machine_service(ctx->machine, BLOCK_SERVICE);
}

/* --- queries --- */

/* With the images below, as far as asked. */
static Value *image_value(BlockNode *node, bool flat)
{
    Value *image = block_image_value(node);
    if (!flat && node->backing) {
        value_put(image, "backing-image", image_value(node->backing->node, false));
    }
    return image;
}

static unsigned backing_depth(const BlockNode *node)
{
    return node->backing ? 1 + backing_depth(node->backing->node) : 0;
}

static Value *node_value(BlockNode *node, bool flat, bool write_cache)
{
    Value *info = value_dict(), *image = image_value(node, flat), *cache = value_dict();

    if (node->backing_filename) {
        value_put_str(info, "backing_file", node->backing_filename);
    }
    value_put_bool(cache, "writeback", write_cache);
    value_put_bool(cache, "direct", node->direct);
    value_put_bool(cache, "no-flush", node->no_flush);
    g_autofree char *name = node_filename(node);
    value_put_str(info, "file", name);
    value_put_str(info, "node-name", node->name);
    value_put_bool(info, "active", node_is_active(node));
    value_put_bool(info, "ro", node->read_only);
    value_put_str(info, "drv", node->driver->name);
    value_put_int(info, "backing_file_depth", backing_depth(node));
    value_put_bool(info, "encrypted", node->encrypted);
    static const char *const zeroes[] = { "off", "on", "unmap" };
    value_put_str(info, "detect_zeroes", zeroes[node->detect_zeroes]);
    static const char *const limits[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };
    for (size_t n = 0; n < ARRAY_SIZE(limits); n++) {
        value_put_int(info, limits[n], 0);
    }
    value_put(info, "write_threshold", value_uint(node->write_threshold));
    if (!list_empty(&node->bitmaps)) {
        value_put(info, "dirty-bitmaps", block_bitmaps_value(node));
    }
    value_put(info, "image", image);
    value_put(info, "cache", cache);
    return info;
}

static void put_limits(BlockBackend *blk, Value *inserted)
{
    if (!blk_throttle(blk)) {
        return;
    }
    const ThrottleConfig *config = throttle_group_config(blk_throttle(blk));
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        const ThrottleBucket *b = &config->buckets[i];
        const char *name = throttle_legacy_name(i);
        g_autofree char *max = g_strconcat(name, "_max", NULL);
        g_autofree char *length = g_strconcat(name, "_max_length", NULL);
        value_put(inserted, name, value_uint(b->avg));
        if (b->max) {
            value_put(inserted, max, value_uint(b->max));
            value_put(inserted, length, value_uint(b->length));
        }
    }
    if (config->op_size) {
        value_put(inserted, "iops_size", value_uint(config->op_size));
    }
    value_put_str(inserted, "group", throttle_group_name(blk_throttle(blk)));
}

static Value *backend_value(BlockBackend *blk)
{
    const char *qdev = blk_device_id(blk);
    Value *info = value_dict();

    value_put_str(info, "device", blk_name(blk));
    if (qdev) {
        value_put_str(info, "qdev", qdev);
    }
    value_put_str(info, "type", "unknown");
    value_put_bool(info, "removable", blk_is_removable(blk));
    value_put_bool(info, "locked", blk_is_locked(blk));
    if (blk_has_tray(blk)) {
        value_put_bool(info, "tray_open", blk_tray_is_open(blk));
    }
    value_put_str(info, "io-status", blk_io_status(blk));
    if (blk_node(blk)) {
        Value *inserted = node_value(blk_node(blk), false, blk_write_cache(blk));
        put_limits(blk, inserted);
        value_put(info, "inserted", inserted);
    }
    return info;
}

Error *qmp_query_block(QmpContext *ctx, const QmpQueryBlockArgs *args, Value **ret)
{
    *ret = value_list();
    for (BlockBackend *blk = NULL; graph_of(ctx) && (blk = blk_next(graph_of(ctx), blk));) {
        if (*blk_name(blk) || blk_device(blk)) {
            value_append(*ret, backend_value(blk));
        }
    }
    return NULL;
}

static Value *stats_value(BlockBackend *blk)
{
    const char *qdev = blk_device_id(blk);
    const BlkStats *stats = blk_stats(blk);
    Value *info = value_dict(), *out = value_dict();
    const struct {
        const char *name;
        int64_t value;
    } rows[] = {
        { "rd_bytes", (int64_t)stats->read_bytes },
        { "wr_bytes", (int64_t)stats->write_bytes },
        { "unmap_bytes", (int64_t)stats->unmap_bytes },
        { "rd_operations", (int64_t)stats->read_ops },
        { "wr_operations", (int64_t)stats->write_ops },
        { "flush_operations", (int64_t)stats->flush_ops },
        { "unmap_operations", (int64_t)stats->unmap_ops },
        { "rd_total_time_ns", stats->read_ns },
        { "wr_total_time_ns", stats->write_ns },
        { "flush_total_time_ns", stats->flush_ns },
        { "unmap_total_time_ns", stats->unmap_ns },
        { "wr_highest_offset", (int64_t)stats->write_end },
        { "rd_merged", 0 },
        { "wr_merged", 0 },
        { "unmap_merged", 0 },
        { "failed_rd_operations", (int64_t)stats->failed_reads },
        { "failed_wr_operations", (int64_t)stats->failed_writes },
        { "failed_flush_operations", (int64_t)stats->failed_flushes },
        { "failed_unmap_operations", (int64_t)stats->failed_unmaps },
        { "invalid_rd_operations", (int64_t)stats->invalid_reads },
        { "invalid_wr_operations", (int64_t)stats->invalid_writes },
        { "invalid_flush_operations", (int64_t)stats->invalid_flushes },
        { "invalid_unmap_operations", (int64_t)stats->invalid_unmaps },
    };
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        value_put_int(out, rows[n].name, rows[n].value);
    }
    value_put_bool(out, "account_failed", true);
    value_put_bool(out, "account_invalid", true);
    value_put(out, "timed_stats", value_list());
    for (unsigned kind = 0; kind < LATENCY_KINDS; kind++) {
        static const char *const names[] = { "rd_latency_histogram", "wr_latency_histogram", "flush_latency_histogram" };
        Value *histogram = latency_value(&stats->latency[kind]);
        if (histogram) {
            value_put(out, names[kind], histogram);
        }
    }
    value_put_str(info, "device", blk_name(blk));
    if (qdev) {
        value_put_str(info, "qdev", qdev);
    }
    if (blk_node(blk)) {
        value_put_str(info, "node-name", blk_node(blk)->name);
    }
    value_put(info, "stats", out);
    return info;
}

Error *qmp_query_blockstats(QmpContext *ctx, const QmpQueryBlockstatsArgs *args, Value **ret)
{
    *ret = value_list();
    for (BlockBackend *blk = NULL; graph_of(ctx) && (blk = blk_next(graph_of(ctx), blk));) {
        value_append(*ret, stats_value(blk));
    }
    return NULL;
}

Error *qmp_query_named_block_nodes(QmpContext *ctx, const QmpQueryNamedBlockNodesArgs *args, Value **ret)
{
    *ret = value_list();
    for (BlockNode *node = NULL; graph_of(ctx) && (node = block_node_next(graph_of(ctx), node));) {
        if (node_is_usable(node)) {
            value_append(*ret, node_value(node, args->has_flat && args->flat, true));
        }
    }
    return NULL;
}

/* --- nodes --- */

Error *qmp_blockdev_add(QmpContext *ctx, const QmpBlockdevAddArgs *args, Value **ret)
{
    g_autoptr(KeyValues) kv = NULL;
    BlockNode *node;

    if (!args->has_node_name) {
        return error_new("'node-name' must be specified for the root node");
    }
    TRY(keyvalues_from_value(args->all, &kv));
    return block_open_options(graph_of(ctx), kv, &node); /* the reference is the monitor's, until blockdev-del */
}

typedef struct ReopenCall {
    BlockGraph *graph;
    GPtrArray *opts; /* KeyValues * */
} ReopenCall;

static Error *reopen_co(void *opaque)
{
    const ReopenCall *call = opaque;
    return node_reopen_co(call->graph, (KeyValues *const *)call->opts->pdata, call->opts->len);
}

Error *qmp_blockdev_reopen(QmpContext *ctx, const QmpBlockdevReopenArgs *args, Value **ret)
{
    g_autoptr(GPtrArray) opts = g_ptr_array_new_with_free_func((GDestroyNotify)keyvalues_free);
    for (size_t i = 0; i < value_length(args->options); i++) {
        KeyValues *kv;
        TRY(keyvalues_from_value(value_at(args->options, i), &kv));
        g_ptr_array_add(opts, kv);
    }
    ReopenCall call = { graph_of(ctx), opts };
    return qmp_in_coroutine(ctx, reopen_co, &call);
}

typedef struct ActiveCall {
    BlockGraph *graph;
    BlockNode *node; /* NULL: all */
    bool active;
} ActiveCall;

static Error *set_active_co(void *opaque)
{
    const ActiveCall *call = opaque;
    return block_nodes_set_active_co(call->graph, call->node, call->active);
}

Error *qmp_blockdev_set_active(QmpContext *ctx, const QmpBlockdevSetActiveArgs *args, Value **ret)
{
    ActiveCall call = { .graph = graph_of(ctx), .active = args->active };

    if (args->has_node_name) {
        call.node = block_node_find(call.graph, args->node_name);
        if (!call.node) {
            return error_new("Failed to find node with node-name='%s'", args->node_name);
        }
        node_ref(call.node);
    }
    Error *err = qmp_in_coroutine(ctx, set_active_co, &call);
    if (call.node) {
        node_unref(call.node);
    }
    return err;
}

static Error *check_unused(const BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        const Job *job = edge->parent ? NULL : job_find(node->graph, edge->name);
        if (edge->role == CHILD_BACKING && edge->parent) {
            return error_new("Node '%s' is busy: node is used as backing hd of '%s'", node->name, edge->parent->name);
        }
        if (job) {
            return error_new("Node '%s' is busy: block device is in use by block job: %s", node->name, job->driver->type);
        }
    }
    return list_empty(&node->parents) ? NULL : error_new("Node %s is in use", node->name);
}

Error *qmp_blockdev_del(QmpContext *ctx, const QmpBlockdevDelArgs *args, Value **ret)
{
    BlockNode *node = block_node_find(graph_of(ctx), args->node_name);

    if (!node) {
        return error_new("Failed to find node with node-name='%s'", args->node_name);
    }
    TRY(check_unused(node));
    node_unref(node);
    return NULL;
}

/* --- media --- */

/* By the device's id or path, or by the drive's name. */
static MUST_USE Error *find_backend(QmpContext *ctx, const char *device, const char *id, BlockBackend **ret_blk)
{
    const char *name = id ? id : device;

    if (!name || (id && device)) {
        return error_new("Give either 'device' or 'id', and not both");
    }
    *ret_blk = id ? blk_find_device(graph_of(ctx), id) : blk_find(graph_of(ctx), device);
    if (*ret_blk) {
        return NULL;
    }
    return error_new_class(id ? ERROR_GENERIC : ERROR_DEVICE_NOT_FOUND, id ? "Cannot find device '%s'" : "Device '%s' not found",
                           name);
}

static MUST_USE Error *check_removable(BlockBackend *blk, const char *name)
{
    return blk_is_removable(blk) ? NULL : error_new("Device '%s' has a fixed medium: it is not "
                                                    "removable", name);
}

static const char *text_or_null(bool has, const char *text)
{
    return has ? text : NULL;
}

/* --- limits --- */

static uint64_t limit_argument(const Value *all, const char *name, const char *suffix,
                               int64_t fallback, bool *bad)
{
    g_autofree char *key = g_strconcat(name, suffix, NULL);
    int64_t value = value_find_int(all, key, fallback);
    *bad |= value < 0;
    return (uint64_t)value;
}

Error *qmp_block_set_io_throttle(QmpContext *ctx, const QmpBlockSetIoThrottleArgs *args, Value **ret)
{
    BlockBackend *blk = NULL;
    ThrottleConfig config = { 0 };
    bool bad = false;

    TRY(find_backend(ctx, args->device, args->id, &blk));
    if (!blk_node(blk)) {
        return error_new("Device has no medium");
    }
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        const char *name = throttle_legacy_name(i);
        config.buckets[i].avg = limit_argument(args->all, name, "", 0, &bad);
        config.buckets[i].max = limit_argument(args->all, name, "_max", 0, &bad);
        config.buckets[i].length = limit_argument(args->all, name, "_max_length", 1, &bad);
    }
    config.op_size = limit_argument(args->all, "iops_size", "", 0, &bad);
    if (bad) {
        return error_new("bps/iops/max values cannot be negative");
    }
    TRY(throttle_check_config(&config));
    ThrottleGroup *group = blk_throttle(blk);
    const char *name = args->has_group                 ? args->group
                       : !throttle_is_limited(&config) ? NULL
                       : group                         ? throttle_group_name(group)
                       : *blk_name(blk)                ? blk_name(blk)
                                                       : blk_device(blk);
    g_autofree char *copy = g_strdup(name); /* the group may go */
    blk_set_throttle(blk, copy, &config);
    return NULL;
}

Error *qmp_eject(QmpContext *ctx, const QmpEjectArgs *args, Value **ret)
{
    const char *device = text_or_null(args->has_device, args->device), *id = text_or_null(args->has_id, args->id);
    BlockBackend *blk = NULL;

    TRY(find_backend(ctx, device, id, &blk));
    TRY(check_removable(blk, id ? id : device));
    return blk_eject(blk, args->has_force && args->force);
}

Error *qmp_blockdev_open_tray(QmpContext *ctx, const QmpBlockdevOpenTrayArgs *args, Value **ret)
{
    BlockBackend *blk = NULL;

    TRY(find_backend(ctx, text_or_null(args->has_device, args->device), text_or_null(args->has_id, args->id), &blk));
    TRY(check_removable(blk, args->has_id ? args->id : args->device));
    return blk_open_tray(blk, args->has_force && args->force);
}

Error *qmp_blockdev_close_tray(QmpContext *ctx, const QmpBlockdevCloseTrayArgs *args, Value **ret)
{
    BlockBackend *blk = NULL;

    TRY(find_backend(ctx, text_or_null(args->has_device, args->device), text_or_null(args->has_id, args->id), &blk));
    TRY(check_removable(blk, args->has_id ? args->id : args->device));
    blk_close_tray(blk);
    return NULL;
}

Error *qmp_blockdev_remove_medium(QmpContext *ctx, const QmpBlockdevRemoveMediumArgs *args, Value **ret)
{
    BlockBackend *blk = NULL;

    TRY(find_backend(ctx, NULL, args->id, &blk));
    TRY(check_removable(blk, args->id));
    if (blk_has_tray(blk) && !blk_tray_is_open(blk)) {
        return error_new("Tray of device '%s' is closed, it is not open for a change of medium",
                         args->id);
    }
    return blk_take_out(blk);
}

Error *qmp_blockdev_insert_medium(QmpContext *ctx, const QmpBlockdevInsertMediumArgs *args, Value **ret)
{
    BlockBackend *blk = NULL;
    BlockNode *node = block_node_find(graph_of(ctx), args->node_name);

    TRY(find_backend(ctx, NULL, args->id, &blk));
    TRY(check_removable(blk, args->id));
    if (!node) {
        return error_new("Node '%s' not found", args->node_name);
    }
    if (blk_node(blk)) {
        return error_new("There already is a medium in device '%s'", args->id);
    }
    if (blk_has_tray(blk) && !blk_tray_is_open(blk)) {
        return error_new("Tray of device '%s' is closed, it is not open for a change of medium",
                         args->id);
    }
    return blk_put_in(blk, node);
}

Error *qmp_blockdev_change_medium(QmpContext *ctx, const QmpBlockdevChangeMediumArgs *args, Value **ret)
{
    const char *device = text_or_null(args->has_device, args->device), *id = text_or_null(args->has_id, args->id);
    const char *mode = args->has_read_only_mode ? args->read_only_mode : "retain";
    BlockBackend *blk = NULL;
    BlockNode *node = NULL;

    TRY(find_backend(ctx, device, id, &blk));
    TRY(check_removable(blk, id ? id : device));
    bool write = !strcmp(mode, "read-write") || (!strcmp(mode, "retain") && !blk_is_readonly(blk));
    TRY(block_open_file(graph_of(ctx), args->filename, text_or_null(args->has_format, args->format),
                        write ? OPEN_WRITE : 0, NULL, &node));
    Error *err = blk_change(blk, node, args->has_force && args->force);
    node_unref(node);
    return err;
}

/* Boundaries of a kind go before those of all; without any, nothing is counted any more. */
Error *qmp_block_latency_histogram_set(QmpContext *ctx, const QmpBlockLatencyHistogramSetArgs *args, Value **ret)
{
    const Value *all = args->has_boundaries ? args->boundaries : NULL;
    const Value *given[LATENCY_KINDS] = { args->has_boundaries_read ? args->boundaries_read : all,
                                          args->has_boundaries_write ? args->boundaries_write : all,
                                          args->has_boundaries_flush ? args->boundaries_flush : all };
    bool none = !given[LATENCY_READ] && !given[LATENCY_WRITE] && !given[LATENCY_FLUSH];
    BlockBackend *blk = NULL;

    TRY(find_backend(ctx, NULL, args->id, &blk));
    for (unsigned kind = 0; kind < LATENCY_KINDS; kind++) {
        if (given[kind] || none) {
            TRY(latency_set(&blk_stats(blk)->latency[kind], given[kind]));
        }
    }
    return NULL;
}
