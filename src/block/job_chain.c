/*
 * Jobs along a backing chain. Commit writes what the nodes above the base have into the base; when
 * the topmost node is in use it ends like a mirror, with the base in its place. Stream goes the
 * other way: the active node gets what the nodes between it and the base have.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/job.h"
#include "block/job_filter.h"
#include "block/node_priv.h"

enum { CHUNK = 512 * 1024 };

typedef struct ChainJob {
    Job job;
    ChainSpec spec;
    char *backing_file;
    BlockEdge *active_edge, *base_edge;
    BlockNode *filter; /* above the active node, or commit's top; NULL: none */
    BlockNode *bottom; /* of stream: the lowest image that is copied; what is below it may change, with another job. NULL: all are */
    bool base_was_read_only, active_was_read_only;
} ChainJob;

/* The image right above `node` in the chain of `active`, where filters do not count. */
static BlockNode *overlay_of(BlockNode *active, const BlockNode *node)
{
    BlockNode *overlay = NULL;

    while (active && active != node) {
        overlay = node_is_filter(active) ? overlay : active;
        active = node_below(active);
    }
    return active ? overlay : NULL;
}

/* From now on `overlay` backs onto base, in memory and in its header. */
static Error *rebase_co(ChainJob *c, BlockNode *overlay, BlockNode *base)
{
    BlockNode *image = base ? node_skip_filters(base) : NULL;
    g_autofree char *name = c->backing_file ? g_strdup(c->backing_file) : image ? node_filename(image) : NULL;
    bool read_only = overlay->read_only;
    TRY(node_set_read_only_co(overlay, false));
    node_close_gate_co(overlay);
    Error *err = NULL;
    if (overlay->driver->set_backing_co) {
        g_clear_pointer(&overlay->implied_backing, g_free);
        err = overlay->driver->set_backing_co(overlay, name, image ? image->driver->name : NULL);
    }
    if (!err) {
        err = node_set_backing_co(overlay, base);
    }
    node_open_gate(overlay);
    if (read_only) {
        Error *back = node_set_read_only_co(overlay, true);
        err = err ? (error_free(back), err) : back;
    }
    return err;
}

/* --- commit of nodes that are not in use themselves --- */

static int commit_piece_co(ChainJob *c, char *buffer, uint64_t at, uint64_t bytes, bool zero,
                           bool *ret_read)
{
    *ret_read = !zero;
    if (zero) {
        return node_write_zeroes_co(c->spec.base, at, bytes, REQ_MAY_UNMAP);
    }
    int ret = node_pread_co(c->spec.top, at, bytes, buffer);
    *ret_read = ret < 0;
    return ret < 0 ? ret : node_pwrite_co(c->spec.base, at, bytes, buffer, 0);
}

static Error *commit_steps_co(ChainJob *c, char *buffer)
{
    Job *job = &c->job;
    uint64_t size = c->spec.top->size;
    job->total = size;
    if (c->spec.base->size < size) {
        TRY(node_truncate_co(c->spec.base, size, PREALLOC_OFF));
    }
    for (uint64_t at = 0; at < size;) {
        BlockStatus status;
        unsigned depth;
        bool is_read = true, ignore = false;
        int ret = node_status_above_co(c->spec.top, c->spec.base, at, MIN(CHUNK, size - at), &status,
                                       &depth);
        if (ret >= 0 && (status.flags & STATUS_ALLOCATED)) {
            ret = commit_piece_co(c, buffer, at, status.bytes, status.flags & STATUS_ZERO, &is_read);
        }
        if (ret < 0 && job_error_co(job, c->spec.on_error, is_read, ret, &ignore)) {
            continue;
        }
        if (ret < 0 && !ignore) {
            return error_new_errno(ret, "Committing failed at byte %" PRIu64, at);
        }
        at += ret < 0 ? MIN(CHUNK, size - at) : status.bytes;
        if (!job_progress_co(job, at - job->done)) {
            return NULL;
        }
    }
    int ret = node_flush_co(c->spec.base);
    return ret < 0 ? error_new_errno(ret, "Could not flush the base") : NULL;
}

static Error *commit_run_co(Job *job)
{
    ChainJob *c = (ChainJob *)job;
    c->base_was_read_only = c->spec.base->read_only;
    TRY(node_set_read_only_co(c->spec.base, false));
    char *buffer = aligned_alloc(4096, CHUNK);
    Error *err = buffer ? commit_steps_co(c, buffer) : error_new("Not enough memory for a job");
    free(buffer);
    return err;
}

static Error *commit_commit_co(Job *job)
{
    ChainJob *c = (ChainJob *)job;
    BlockNode *overlay = overlay_of(c->spec.active, c->spec.top);
    return overlay ? rebase_co(c, overlay, c->spec.base) : error_new("The chain has changed");
}

static void chain_clean_co(Job *job)
{
    ChainJob *c = (ChainJob *)job;
    job_filter_remove_co(c->filter);
    block_root_detach(c->base_edge);
    if (c->base_was_read_only) {
        error_free(node_set_read_only_co(c->spec.base, true));
    }
    node_unref_co(c->bottom);
    node_unref_co(c->spec.top);
    node_unref_co(c->spec.base);
    if (c->active_was_read_only) {
        error_free(node_set_read_only_co(c->spec.active, true));
    }
    block_root_detach(c->active_edge);
    g_free(c->backing_file);
}

/* --- stream --- */

static BlockNode *stream_base(const ChainJob *c)
{
    return c->bottom ? node_below(c->bottom) : NULL;
}

static Error *stream_run_co(Job *job)
{
    ChainJob *c = (ChainJob *)job;
    BlockNode *node = c->spec.active;
    uint64_t size = node->size;
    job->total = size;
    c->active_was_read_only = node->read_only; /* a backing image */
    TRY(node_set_read_only_co(node, false));
    if (!node->backing) {
        job->done = size;
        return NULL;
    }
    for (uint64_t at = 0; at < size;) {
        BlockStatus status;
        unsigned depth = 0;
        bool ignore = false;
        int ret =
            node_status_above_co(node, stream_base(c), at, MIN(CHUNK, size - at), &status, &depth);
        if (ret >= 0 && depth && (status.flags & STATUS_ALLOCATED)) {
            ret = node_populate_co(node, at, status.bytes);
        }
        if (ret < 0 && job_error_co(job, c->spec.on_error, true, ret, &ignore)) {
            continue;
        }
        if (ret < 0 && !ignore) {
            return error_new_errno(ret, "Streaming failed at byte %" PRIu64, at);
        }
        at += ret < 0 ? MIN(CHUNK, size - at) : status.bytes;
        if (!job_progress_co(job, at - job->done)) {
            return NULL;
        }
    }
    int ret = node_flush_co(node);
    return ret < 0 ? error_new_errno(ret, "Could not flush '%s'", node->name) : NULL;
}

static Error *stream_commit_co(Job *job)
{
    ChainJob *c = (ChainJob *)job;
    return c->spec.active->backing ? rebase_co(c, c->spec.active, stream_base(c)) : NULL;
}

static const JobDriver commit_driver = { .type = "commit",
                                         .size = sizeof(ChainJob),
                                         .run_co = commit_run_co,
                                         .commit_co = commit_commit_co,
                                         .clean_co = chain_clean_co };
static const JobDriver stream_driver = { .type = "stream",
                                         .size = sizeof(ChainJob),
                                         .run_co = stream_run_co,
                                         .commit_co = stream_commit_co,
                                         .clean_co = chain_clean_co };

static Error *chain_start(BlockGraph *graph, const JobDriver *driver, const ChainSpec *spec,
                          unsigned base_claims)
{
    Job *job;
    TRY(job_check_active(spec->active));
    TRY(job_new(graph, driver, &spec->job, &job));
    ChainJob *c = (ChainJob *)job;
    c->spec = *spec;
    Error *err = block_root_attach(spec->active, job->id, CLAIM_READ | CLAIM_WRITE_UNCHANGED,
                                   CLAIM_ALL, &c->active_edge);
    if (!err && spec->base) {
        err = block_root_attach(spec->base, job->id, base_claims, CLAIM_ALL, &c->base_edge);
    }
    if (!err && spec->filter_name) {
        err = job_filter_insert(spec->top ? spec->top : spec->active, driver == &stream_driver ? JOB_FILTER_STREAM : JOB_FILTER_COMMIT,
                                spec->filter_name, NULL, &c->filter);
    }
    if (err) {
        block_root_detach(c->active_edge);
        block_root_detach(c->base_edge);
        job_drop(job);
        return err;
    }
    c->spec.filter_name = NULL;
    if (spec->top) {
        node_ref(spec->top);
    }
    if (spec->base) {
        node_ref(spec->base);
        c->bottom = driver == &stream_driver ? node_ref(overlay_of(spec->active, spec->base)) : NULL;
    }
    c->backing_file = g_strdup(spec->backing_file);
    job_start(job);
    return NULL;
}

/* Opened for reading since it lies below, and not because the user wants that. */
static bool is_backing(const BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        if (edge->parent && edge->role == CHILD_BACKING) {
            return true;
        }
    }
    return false;
}

static bool in_chain(BlockNode *node, const BlockNode *wanted)
{
    while (node && node != wanted) {
        node = node_below(node);
    }
    return node != NULL;
}

Error *job_commit(BlockGraph *graph, const ChainSpec *spec)
{
    if (!in_chain(spec->active, spec->top) || spec->top == spec->base ||
        !in_chain(spec->top, spec->base)) {
        return error_new("'%s' does not lie in the chain below '%s'", spec->base->name,
                         spec->top->name);
    }
    if (spec->top != spec->active) {
        return chain_start(graph, &commit_driver, spec, CLAIM_READ);
    }
    if (spec->backing_file) {
        return error_new("'top' is the active layer, no image above it could note 'backing-file': "
                         "leave that out");
    }
    CopySpec copy = { .job = spec->job,
                      .source = spec->active,
                      .target = node_ref(spec->base),
                      .base = spec->base,
                      .sync = JOB_SYNC_TOP,
                      .filter_name = spec->filter_name,
                      .on_source_error = spec->on_error,
                      .on_target_error = spec->on_error };
    return job_mirror(graph, &copy);
}

Error *job_stream(BlockGraph *graph, const ChainSpec *spec)
{
    if (spec->base && (spec->base == spec->active || !in_chain(spec->active, spec->base))) {
        return error_new("Node '%s' is not a backing image of '%s'", spec->base->name,
                         spec->active->name);
    }
    if (!spec->active->driver->supports_backing || (spec->active->read_only && !is_backing(spec->active))) {
        return error_new("Node '%s' cannot be streamed into", spec->active->name);
    }
    return chain_start(graph, &stream_driver, spec, CLAIM_READ);
}
