/* QMP commands about jobs. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "block/bitmap.h"
#include "block/block_qmp.h"
#include "block/job.h"
#include "block/node_priv.h"

/* --- queries --- */

Error *qmp_query_jobs(QmpContext *ctx, const QmpQueryJobsArgs *args, Value **ret)
{
    *ret = value_list();
    for (Job *job = NULL; (job = job_next(qmp_graph(ctx), job));) {
        Value *v = value_dict();
        value_put_str(v, "id", job->id);
        value_put_str(v, "type", job->driver->type);
        value_put_str(v, "status", job_status_name(job->status));
        value_put(v, "current-progress", value_uint(job->done));
        value_put(v, "total-progress", value_uint(job->total));
        if (job->err) {
            value_put_str(v, "error", error_message(job->err));
        }
        value_append(*ret, v);
    }
    return NULL;
}

Error *qmp_query_block_jobs(QmpContext *ctx, const QmpQueryBlockJobsArgs *args, Value **ret)
{
    *ret = value_list();
    for (Job *job = NULL; (job = job_next(qmp_graph(ctx), job));) {
        if (job->driver->no_block) {
            continue;
        }
        Value *v = value_dict();
        value_put_str(v, "type", job->driver->type);
        value_put_str(v, "device", job->id);
        value_put(v, "len", value_uint(job->total));
        value_put(v, "offset", value_uint(job->done));
        value_put_bool(v, "busy", job->busy);
        value_put_bool(v, "paused", job->pause_count != 0);
        value_put(v, "speed", value_uint(job->speed));
        value_put_str(v, "io-status", job->io_status);
        value_put_bool(v, "ready", job->ready);
        value_put_str(v, "status", job_status_name(job->status));
        value_put_bool(v, "auto-finalize", job->auto_finalize);
        value_put_bool(v, "auto-dismiss", job->auto_dismiss);
        if (job->err) {
            value_put_str(v, "error", error_message(job->err));
        }
        value_append(*ret, v);
    }
    return NULL;
}

/* --- verbs --- */

static MUST_USE Error *find_job(QmpContext *ctx, const char *id, bool block_job, Job **ret)
{
    *ret = job_find(qmp_graph(ctx), id);
    if (*ret) {
        return NULL;
    }
    return block_job ? error_new_class(ERROR_DEVICE_NOT_ACTIVE, "Block job '%s' not found", id)
                     : error_new("Job not found");
}

#define JOB_VERB(command, Args, member, block_job, call)                                           \
    Error *qmp_##command(QmpContext *ctx, const Args *args, Value **ret)                           \
    {                                                                                              \
        Job *job;                                                                                  \
        TRY(find_job(ctx, args->member, block_job, &job));                                         \
        return call;                                                                               \
    }

JOB_VERB(job_pause, QmpJobPauseArgs, id, false, job_pause(job))
JOB_VERB(job_resume, QmpJobResumeArgs, id, false, job_resume(job))
JOB_VERB(job_cancel, QmpJobCancelArgs, id, false, job_cancel(job, true))
JOB_VERB(job_complete, QmpJobCompleteArgs, id, false, job_complete(job))
JOB_VERB(job_finalize, QmpJobFinalizeArgs, id, false, job_finalize(job))
JOB_VERB(job_dismiss, QmpJobDismissArgs, id, false, job_dismiss(job))
JOB_VERB(block_job_pause, QmpBlockJobPauseArgs, device, true, job_pause(job))
JOB_VERB(block_job_resume, QmpBlockJobResumeArgs, device, true, job_resume(job))
JOB_VERB(block_job_cancel, QmpBlockJobCancelArgs, device, true,
         job_cancel(job, args->has_force && args->force))
JOB_VERB(block_job_complete, QmpBlockJobCompleteArgs, device, true, job_complete(job))
JOB_VERB(block_job_finalize, QmpBlockJobFinalizeArgs, id, true, job_finalize(job))
JOB_VERB(block_job_dismiss, QmpBlockJobDismissArgs, id, true, job_dismiss(job))

static MUST_USE Error *check_speed(bool given, int64_t speed, uint64_t *ret)
{
    if (given && speed < 0) {
        return error_new("Invalid parameter type for 'speed', expected: a non-negative value");
    }
    *ret = given ? (uint64_t)speed : 0;
    return NULL;
}

Error *qmp_block_job_set_speed(QmpContext *ctx, const QmpBlockJobSetSpeedArgs *args, Value **ret)
{
    Job *job;
    uint64_t speed;
    TRY(find_job(ctx, args->device, true, &job));
    TRY(check_speed(true, args->speed, &speed));
    return job_set_speed(job, speed);
}

/* --- copying --- */

static MUST_USE Error *parse_policy(bool given, const char *text, BlkOnError *ret)
{
    *ret = BLK_ON_ERROR_REPORT;
    if (given && !strcmp(text, "auto")) {
        return NULL;
    }
    return given ? blk_parse_on_error(text, false, ret) : NULL;
}

static JobSync parse_sync(const char *text)
{
    return !strcmp(text, "full")  ? JOB_SYNC_FULL
           : !strcmp(text, "top") ? JOB_SYNC_TOP
           : !strcmp(text, "none") ? JOB_SYNC_NONE
                                   : JOB_SYNC_BITMAP;
}

/* The members that all these commands have, under the same names. */
#define TAKE_JOB_OPTIONS(options, args)                                                            \
    do {                                                                                           \
        TRY(check_speed((args)->has_speed, (args)->speed, &(options).speed));                      \
        (options).id = (args)->job_id;                                                             \
        (options).device = (args)->device;                                                         \
        (options).manual_finalize = (args)->has_auto_finalize && !(args)->auto_finalize;           \
        (options).manual_dismiss = (args)->has_auto_dismiss && !(args)->auto_dismiss;              \
    } while (0)

/* In a transaction: a job that was started is cancelled. */
typedef struct JobUndo {
    BlockGraph *graph;
    JobGroup *group; /* counted; NULL: none */
    char *id;
} JobUndo;

static void undo_job(void *opaque)
{
    JobUndo *u = opaque;
    Job *job = job_find(u->graph, u->id);
    if (job) {
        error_free(job_cancel(job, true)); /* or it has ended already */
    }
}

static void forget_job(void *opaque)
{
    JobUndo *u = opaque;
    if (u->group) { /* the transaction is at its end */
        job_group_seal(u->group);
        job_group_unref(u->group);
    }
    g_free(u->id);
    g_free(u);
}

static MUST_USE Error *backup_noted(QmpContext *ctx, CopySpec *spec)
{
    JobGroup *group = ctx->group;
    if (ctx->grouped && !group) {
        group = job_group_new();
    } else if (group) {
        group->refs++;
    }
    spec->job.group = group;
    Error *err = job_backup(qmp_graph(ctx), spec);
    if (err) {
        job_group_unref(group);
        return err;
    }
    JobUndo *u = g_new0(JobUndo, 1);
    u->group = ctx->group = group;
    u->graph = qmp_graph(ctx);
    u->id = g_strdup(spec->job.id ? spec->job.id : spec->job.device);
    qmp_undo_add(ctx, undo_job, forget_job, u);
    return NULL;
}

/* What blockdev-mirror and drive-mirror have in common: all but the target. */
#define TAKE_MIRROR_OPTIONS(ctx, spec, args)                                                       \
    do {                                                                                           \
        (spec).sync = parse_sync((args)->sync);                                                    \
        TAKE_JOB_OPTIONS((spec).job, args);                                                        \
        TRY(parse_policy((args)->has_on_source_error, (args)->on_source_error, &(spec).on_source_error)); \
        TRY(parse_policy((args)->has_on_target_error, (args)->on_target_error, &(spec).on_target_error)); \
        (spec).write_blocking = (args)->has_copy_mode && !strcmp((args)->copy_mode, "write-blocking"); \
        (spec).keep_allocated = (args)->has_unmap && !(args)->unmap;                               \
        (spec).filter_name = (args)->filter_node_name;                                             \
        if ((args)->has_buf_size && (args)->buf_size < 0) {                                        \
            return error_new("Invalid parameter 'buf-size'");                                      \
        }                                                                                          \
        (spec).buf_size = (args)->has_buf_size ? (uint64_t)(args)->buf_size : 0;                   \
        if ((spec).sync == JOB_SYNC_BITMAP) {                                                      \
            return error_new("Sync mode '%s' not supported", (args)->sync);                        \
        }                                                                                          \
        (spec).granularity = (args)->has_granularity ? (uint64_t)(args)->granularity : 0;          \
        TRY(qmp_find_node(ctx, (args)->device, &(spec).source));                                   \
        if ((args)->has_replaces) {                                                                \
            TRY(qmp_find_node(ctx, (args)->replaces, &(spec).replaces));                           \
        }                                                                                          \
    } while (0)

Error *qmp_blockdev_mirror(QmpContext *ctx, const QmpBlockdevMirrorArgs *args, Value **ret)
{
    CopySpec spec = { 0 };
    TAKE_MIRROR_OPTIONS(ctx, spec, args);
    TRY(qmp_find_node(ctx, args->target, &spec.target));
    node_ref(spec.target);
    return job_mirror(qmp_graph(ctx), &spec);
}

/* The target of drive-mirror and drive-backup: a file, made unless mode=existing. */
typedef struct TargetCall {
    BlockGraph *graph;
    BlockNode *source, *node;
    const char *file, *format, *node_name;
    bool existing, shows_source; /* where nothing was copied to it */
    JobSync sync;
} TargetCall;

static Error *create_target_co(TargetCall *call)
{
    const BlockDriver *driver;
    g_autoptr(KeyValues) opts = keyvalues_new();
    g_autofree char *size = g_strdup_printf("%" PRIu64, call->source->size);
    BlockNode *backing = call->sync == JOB_SYNC_NONE ? call->source
                         : call->sync == JOB_SYNC_TOP && call->source->backing
                             ? call->source->backing->node
                             : NULL;
    TRY(block_driver_lookup(call->format, &driver));
    keyvalues_set(opts, "size", size);
    if (backing && driver->supports_backing) {
        g_autofree char *name = node_filename(backing);
        keyvalues_set(opts, "backing_file", name);
        keyvalues_set(opts, "backing_fmt", backing->driver->name);
    }
    return block_create_co(call->graph, call->file, driver, opts);
}

static Error *open_target_co(void *opaque)
{
    TargetCall *call = opaque;
    g_autoptr(KeyValues) opts = keyvalues_new();
    if (!call->existing) {
        TRY(create_target_co(call));
    }
    if (call->node_name) {
        keyvalues_set(opts, "node-name", call->node_name);
    }
    if (call->shows_source) {
        keyvalues_set(opts, "backing", call->source->name);
    }
    return block_open_file_co(call->graph, call->file, call->format,
                              OPEN_WRITE | (call->shows_source ? 0 : OPEN_NO_BACKING), opts, &call->node);
}

static MUST_USE Error *open_target(QmpContext *ctx, CopySpec *spec, const char *file,
                                   const char *format, const char *node_name, const char *mode, bool backup)
{
    TargetCall call = { .graph = qmp_graph(ctx),
                        .source = spec->source,
                        .file = file,
                        .format = format ? format : spec->source->driver->name,
                        .node_name = node_name,
                        .existing = mode && !strcmp(mode, "existing"),
                        .sync = spec->sync };
    const BlockDriver *driver = block_driver_find(call.format);
    call.shows_source = backup && spec->sync == JOB_SYNC_NONE && driver && driver->supports_backing;
    if (call.existing && !format) {
        call.format = NULL;
    }
    TRY(qmp_in_coroutine(ctx, open_target_co, &call));
    spec->target = call.node;
    return NULL;
}

Error *qmp_drive_mirror(QmpContext *ctx, const QmpDriveMirrorArgs *args, Value **ret)
{
    CopySpec spec = { 0 };
    TAKE_MIRROR_OPTIONS(ctx, spec, args);
    TRY(open_target(ctx, &spec, args->target, args->format, args->node_name, args->mode, false));
    return job_mirror(qmp_graph(ctx), &spec);
}

static MUST_USE Error *take_bitmap(CopySpec *spec, const char *name, const char *mode,
                                   const char *sync)
{
    if (!name) {
        return spec->sync == JOB_SYNC_BITMAP
                   ? error_new("must provide a valid bitmap name for '%s' sync mode", sync)
                   : NULL;
    }
    if (spec->sync == JOB_SYNC_NONE) {
        return error_new("sync mode 'none' does not produce meaningful bitmap outputs");
    }
    if (!strcmp(sync, "bitmap") && !mode) {
        return error_new("Bitmap sync mode must be given when providing a bitmap");
    }
    if (!strcmp(sync, "incremental") && mode && strcmp(mode, "on-success")) {
        return error_new("Bitmap sync mode must be 'on-success' when using sync mode "
                         "'incremental'");
    }
    spec->bitmap_mode = mode && !strcmp(mode, "never")    ? BITMAP_NEVER
                        : mode && !strcmp(mode, "always") ? BITMAP_ALWAYS
                                                          : BITMAP_ON_SUCCESS;
    return block_bitmap_get(spec->source, name,
                            spec->bitmap_mode == BITMAP_NEVER ? BITMAP_ALLOW_READ_ONLY : 0,
                            &spec->bitmap);
}

/* One copy is under way at a time, through memory: that is within every number of workers. */
static MUST_USE Error *take_perf(CopySpec *spec, const Value *perf)
{
    if (!perf) {
        return NULL;
    }
    int64_t workers = value_find_int(perf, "max-workers", 1), chunk = value_find_int(perf, "max-chunk", 0);
    if (workers < 1 || workers > INT_MAX) {
        return error_new("max-workers must be between 1 and %d", INT_MAX);
    }
    if (chunk < 0) {
        return error_new("max-chunk must be zero (which means no limit) or positive");
    }
    if (value_find_bool(perf, "use-copy-range", false)) {
        return error_new("x-perf.use-copy-range: backups are copied through memory here, so it can only be false");
    }
    spec->buf_size = (uint64_t)chunk;
    return NULL;
}

Error *qmp_blockdev_backup(QmpContext *ctx, const QmpBlockdevBackupArgs *args, Value **ret)
{
    CopySpec spec = { .sync = parse_sync(args->sync),
                      .compress = args->has_compress && args->compress,
                      .filter_name = args->filter_node_name };
    TAKE_JOB_OPTIONS(spec.job, args);
    TRY(parse_policy(args->has_on_source_error, args->on_source_error, &spec.on_source_error));
    TRY(parse_policy(args->has_on_target_error, args->on_target_error, &spec.on_target_error));
    TRY(qmp_find_node(ctx, args->device, &spec.source));
    TRY(take_bitmap(&spec, args->bitmap, args->bitmap_mode, args->sync));
    TRY(take_perf(&spec, args->x_perf));
    TRY(qmp_find_node(ctx, args->target, &spec.target));
    node_ref(spec.target);
    return backup_noted(ctx, &spec);
}

Error *qmp_drive_backup(QmpContext *ctx, const QmpDriveBackupArgs *args, Value **ret)
{
    CopySpec spec = { .sync = parse_sync(args->sync),
                      .compress = args->has_compress && args->compress,
                      .filter_name = args->filter_node_name };
    TAKE_JOB_OPTIONS(spec.job, args);
    TRY(parse_policy(args->has_on_source_error, args->on_source_error, &spec.on_source_error));
    TRY(parse_policy(args->has_on_target_error, args->on_target_error, &spec.on_target_error));
    TRY(qmp_find_node(ctx, args->device, &spec.source));
    TRY(take_bitmap(&spec, args->bitmap, args->bitmap_mode, args->sync));
    TRY(take_perf(&spec, args->x_perf));
    TRY(open_target(ctx, &spec, args->target, args->format, NULL, args->mode, true));
    return backup_noted(ctx, &spec);
}

/* --- chains --- */

/* A node of the chain of `active`, by node name or by file name. */
static MUST_USE Error *find_in_chain(QmpContext *ctx, BlockNode *active, const char *node_name,
                                     const char *file, BlockNode **ret)
{
    if (node_name && file) {
        return error_new("'%s' and '%s' cannot be given at the same time", node_name, file);
    }
    for (BlockNode *node = active; node; node = node_below(node)) {
        g_autofree char *name = node_filename(node);
        bool named = file && (!strcmp(name, file) || !strcmp(node->filename, file));
        if ((node_name && !strcmp(node->name, node_name)) || named) {
            *ret = node;
            return NULL;
        }
        if (file && node->backing && !g_strcmp0(node->backing_filename, file)) {
            *ret = node->backing->node;
            return NULL;
        }
    }
    return error_new("Can't find '%s' in the backing chain", node_name ? node_name : file);
}

Error *qmp_block_commit(QmpContext *ctx, const QmpBlockCommitArgs *args, Value **ret)
{
    ChainSpec spec = { .backing_file = args->backing_file, .filter_name = args->filter_node_name };
    TAKE_JOB_OPTIONS(spec.job, args);
    TRY(parse_policy(args->has_on_error, args->on_error, &spec.on_error));
    TRY(qmp_find_node(ctx, args->device, &spec.active));
    spec.active = node_skip_filters(spec.active);
    spec.top = spec.active;
    if (args->has_top || args->has_top_node) {
        TRY(find_in_chain(ctx, spec.active, args->top_node, args->top, &spec.top));
    }
    if (args->has_base || args->has_base_node) {
        TRY(find_in_chain(ctx, spec.active, args->base_node, args->base, &spec.base));
    } else {
        for (spec.base = spec.top; node_below(spec.base);) {
            spec.base = node_below(spec.base);
        }
    }
    return job_commit(qmp_graph(ctx), &spec);
}

Error *qmp_block_stream(QmpContext *ctx, const QmpBlockStreamArgs *args, Value **ret)
{
    ChainSpec spec = { .backing_file = args->backing_file, .filter_name = args->filter_node_name };
    TAKE_JOB_OPTIONS(spec.job, args);
    TRY(parse_policy(args->has_on_error, args->on_error, &spec.on_error));
    TRY(qmp_find_node(ctx, args->device, &spec.active));
    spec.active = node_skip_filters(spec.active);
    if (args->has_bottom) {
        BlockNode *bottom;
        TRY(find_in_chain(ctx, spec.active, args->bottom, NULL, &bottom));
        spec.base = bottom->backing ? bottom->backing->node : NULL;
    } else if (args->has_base || args->has_base_node) {
        TRY(find_in_chain(ctx, spec.active, args->base_node, args->base, &spec.base));
    }
    if (!spec.base && spec.backing_file) {
        return error_new("streaming the whole chain leaves no backing file to note: leave out "
                         "'backing-file', or give 'base'");
    }
    return job_stream(qmp_graph(ctx), &spec);
}
