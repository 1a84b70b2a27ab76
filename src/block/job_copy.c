/*
 * Jobs that copy a disk. Mirror follows the source: a bitmap has what the target lacks, writes of
 * the guest set it again, and when little is left it is "ready"; completing it puts the target in
 * the source's place. Backup keeps a moment: before the guest overwrites something that was not
 * copied yet, it is copied.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/bitmap.h"
#include "block/job.h"
#include "block/job_filter.h"
#include "block/node_priv.h"

enum { CHUNK = 1 << 20, READY_POLL_MS = 50, BACKUP_UNIT = 64 << 10, MAX_GRANULARITY = 64 << 20 };

typedef struct CopyJob {
    Job job;
    CopySpec spec;
    BlockEdge *source_edge, *target_edge;
    BlockBitmap *todo; /* what the target lacks; anonymous, on the source */
    char *buffer;
    BlockNode *filter;   /* above the source; NULL: none */
    CopyRanges ranges;   /* that are being copied */
    ActiveMirror active; /* of the filter, in write-blocking mode */
    /* backup */
    BeforeWrite before_write;
    CoMutex copying;
    bool target_was_read_only, switched;
    int write_error; /* of a copy that a write of the guest waited for */
} CopyJob;

/* --- one chunk --- */

/* Of a buffer: a copy is CHUNK, or one unit of the bitmap. */
static size_t buffer_bytes(const CopyJob *c)
{
    return MAX((size_t)CHUNK, (size_t)c->todo->granularity);
}

/* Whether the target shows zeroes there as it is: a file that was made sparse stays so though it does not unmap. */
static bool target_is_zero_co(CopyJob *c, uint64_t offset, uint64_t bytes)
{
    while (bytes) {
        BlockStatus status;
        unsigned depth;
        if (node_status_above_co(c->spec.target, NULL, offset, bytes, &status, &depth) < 0 || !(status.flags & STATUS_ZERO)) {
            return false;
        }
        offset += status.bytes;
        bytes -= MIN(bytes, status.bytes);
    }
    return true;
}

/* How far it goes on with what can be made zero by itself, or with the rest: data and zeroes too short to tell apart. */
static int next_part_co(const CopyJob *c, uint64_t offset, uint64_t bytes, uint64_t *ret_part, bool *ret_zero)
{
    enum { LEAST = 64 * KiB }; /* small requests cost more than they save */
    uint64_t unit = MAX(c->spec.target->limits.cluster_size, LEAST), at = offset, end = offset + bytes;
    while (at < end) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(c->spec.source, NULL, at, end - at, &status, &depth);
        if (ret < 0) {
            return ret;
        }
        uint64_t run = at + MIN(status.bytes, end - at);
        uint64_t from = at == offset ? at : ALIGN_UP(at, unit), to = run == end ? end : ALIGN_DOWN(run, unit);
        if ((status.flags & STATUS_ZERO) && from < to) {
            *ret_zero = from == offset;
            *ret_part = *ret_zero ? to - offset : from - offset;
            return 0;
        }
        at = run;
    }
    *ret_zero = false;
    *ret_part = bytes;
    return 0;
}

static int copy_zeroes_co(CopyJob *c, uint64_t offset, uint64_t bytes)
{
    if (!c->spec.keep_allocated && !c->spec.target->backing && target_is_zero_co(c, offset, bytes)) {
        return 0;
    }
    return node_write_zeroes_co(c->spec.target, offset, bytes, c->spec.keep_allocated ? 0 : REQ_MAY_UNMAP);
}

static int copy_written_co(CopyJob *c, char *buffer, uint64_t offset, uint64_t bytes, bool *ret_read)
{
    uint64_t cluster = c->spec.target->limits.cluster_size;
    bool whole = cluster && offset % cluster == 0 &&
                 (bytes % cluster == 0 || offset + bytes == c->spec.target->size);
    int ret = node_pread_co(c->spec.source, offset, bytes, buffer);
    *ret_read = ret < 0;
    return ret < 0 ? ret : node_pwrite_co(c->spec.target, offset, bytes, buffer, c->spec.compress && whole ? REQ_COMPRESSED : 0);
}

/* *ret_read: an error is the source's. */
static int copy_data_co(CopyJob *c, char *buffer, uint64_t offset, uint64_t bytes, bool *ret_read)
{
    uint64_t align = MAX(c->spec.target->limits.request_align, 1), part;
    int ret = 0;
    for (; bytes && ret >= 0; offset += part, bytes -= part) {
        bool zero;
        *ret_read = true;
        ret = next_part_co(c, offset, bytes, &part, &zero);
        if (ret < 0) {
            return ret;
        }
        if (zero && part % align == 0) {
            *ret_read = false;
            ret = copy_zeroes_co(c, offset, part);
        } else {
            ret = copy_written_co(c, buffer, offset, part, ret_read);
        }
    }
    return ret;
}

/* --- what is to be copied --- */

static Error *mark_initial_co(CopyJob *c)
{
    BlockNode *source = c->spec.source, *base = NULL;
    if (c->spec.sync == JOB_SYNC_NONE || c->spec.sync == JOB_SYNC_BITMAP) {
        return NULL;
    }
    if (c->spec.sync == JOB_SYNC_FULL) {
        block_bitmap_set(c->todo, 0, source->size);
        return NULL;
    }
    base = c->spec.base ? c->spec.base : source->backing ? source->backing->node : NULL;
    for (uint64_t at = 0; at < source->size;) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(source, base, at, source->size - at, &status, &depth);
        if (ret < 0) {
            return error_new_errno(ret, "Could not tell what '%s' has allocated", source->name);
        }
        if (status.flags & STATUS_ALLOCATED) {
            block_bitmap_set(c->todo, at, status.bytes);
        }
        at += status.bytes;
        co_sleep_ns(CLOCK_REALTIME_NS, 0);
    }
    return NULL;
}

static void count_total(CopyJob *c)
{
    c->job.total = c->job.done + block_bitmap_count(c->todo);
}

static Error *flush_target_co(CopyJob *c)
{
    int ret = node_flush_co(c->spec.target);
    return ret < 0 ? error_new_errno(ret, "Could not flush the target") : NULL;
}

/* --- mirror --- */

/* Bytes of one copy. */
static uint64_t chunk_size(const CopyJob *c)
{
    uint64_t unit = c->todo->granularity, asked = c->spec.buf_size;
    return asked && asked < CHUNK ? MAX(asked / unit * unit, unit) : CHUNK;
}

/* Nobody else copies there meanwhile; what is clean by now needs no copy. The bits that are taken away come
 * back when it fails. */
static int mirror_range_co(CopyJob *c, uint64_t offset, uint64_t bytes, bool *ret_read)
{
    CopyRange range;
    uint64_t at = offset, end = offset + bytes, part;
    int ret = 0;
    copy_range_hold_co(&c->ranges, &range, offset, bytes, c->todo->granularity);
    while (ret >= 0 && at < end && block_bitmap_next(c->todo, at, end - at, &at, &part) && at < end) {
        block_bitmap_reset(c->todo, at, part);
        ret = copy_data_co(c, c->buffer, at, part, ret_read);
        if (ret < 0) {
            block_bitmap_set(c->todo, at, part);
        }
        at += part;
    }
    copy_range_drop(&range);
    return ret;
}

/* With the error policy. */
static Error *mirror_chunk_co(CopyJob *c, uint64_t offset, uint64_t bytes)
{
    for (;;) {
        bool is_read = false, ignore;
        int ret = mirror_range_co(c, offset, bytes, &is_read);
        if (ret >= 0) {
            return NULL;
        }
        BlkOnError policy = is_read ? c->spec.on_source_error : c->spec.on_target_error;
        if (job_error_co(&c->job, policy, is_read, ret, &ignore)) {
            continue;
        }
        if (ignore) {
            return NULL;
        }
        return error_new_errno(ret, "%s failed at byte %" PRIu64,
                               is_read ? "Reading the source" : "Writing the target", offset);
    }
}

/* Until nothing is left (or the job shall end). */
static Error *mirror_round_co(CopyJob *c)
{
    uint64_t pos = 0, at, bytes, chunk = chunk_size(c);
    while (block_bitmap_next(c->todo, pos, chunk, &at, &bytes) ||
           (pos && block_bitmap_next(c->todo, pos = 0, chunk, &at, &bytes))) {
        TRY(mirror_chunk_co(c, at, bytes));
        c->job.total = c->job.done + bytes + block_bitmap_count(c->todo);
        if (!job_progress_co(&c->job, bytes)) {
            return NULL;
        }
        pos = at + bytes;
    }
    return NULL;
}

/* The base of the chain becomes writable, and as large as the disk. */
static Error *commit_prepare_co(CopyJob *c)
{
    BlockNode *base = c->spec.base;
    c->target_was_read_only = base->read_only;
    TRY(node_set_read_only_co(base, false));
    return base->size < c->spec.source->size
               ? node_truncate_co(base, c->spec.source->size, PREALLOC_OFF)
               : NULL;
}

/* With the error policy. *ret_again: the guest may have written meanwhile. */
static Error *mirror_flush_co(CopyJob *c, bool *ret_again)
{
    bool ignore;
    *ret_again = false;
    int ret = node_flush_co(c->spec.target);
    if (ret >= 0) {
        return NULL;
    }
    *ret_again = job_error_co(&c->job, c->spec.on_target_error, false, ret, &ignore);
    return *ret_again || ignore ? NULL : error_new_errno(ret, "Could not flush the target");
}

static Error *mirror_run_co(Job *job)
{
    CopyJob *c = (CopyJob *)job;
    if (c->spec.base) {
        TRY(commit_prepare_co(c));
    }
    TRY(mark_initial_co(c));
    for (;;) {
        bool ending = job->complete_asked || job->cancelled, again = false;
        count_total(c);
        TRY(mirror_round_co(c));
        if (!job_pause_point_co(job)) {
            return NULL;
        }
        count_total(c);
        if (!job->ready || ending) {
            TRY(mirror_flush_co(c, &again));
        }
        if (again) {
            continue;
        }
        job_set_ready(job);
        if (ending) {
            return NULL; /* what comes until then is copied in the end */
        }
        job_wait_co(job, READY_POLL_MS * NS_PER_MS);
        if (!job_pause_point_co(job)) {
            return NULL;
        }
    }
}

static Error *catch_up_co(CopyJob *c)
{
    uint64_t at, bytes;
    while (block_bitmap_next(c->todo, 0, CHUNK, &at, &bytes)) {
        bool is_read;
        block_bitmap_reset(c->todo, at, bytes);
        int ret = copy_data_co(c, c->buffer, at, bytes, &is_read);
        if (ret < 0) {
            return error_new_errno(ret, "Copying failed at byte %" PRIu64, at);
        }
        c->job.done += bytes;
    }
    c->job.total = c->job.done;
    return flush_target_co(c);
}

/* The target takes the source's place while nothing is under way. */
static Error *mirror_switch_co(CopyJob *c)
{
    BlockNode *source = c->spec.source, *target = c->spec.target;
    BlockNode *old = c->spec.replaces ? c->spec.replaces : source;
    if (!c->spec.base && c->spec.sync != JOB_SYNC_FULL && !target->backing && target->backing_filename) {
        BlockNode *backing = c->spec.sync == JOB_SYNC_NONE ? source
                             : source->backing             ? source->backing->node
                                                           : NULL;
        TRY(node_set_backing_co(target, backing));
    }
    block_root_detach(c->target_edge);
    c->target_edge = NULL;
    TRY(node_replace(old, target, c->source_edge));
    c->switched = true;
    return NULL;
}

static Error *mirror_commit_co(Job *job)
{
    CopyJob *c = (CopyJob *)job;
    if (c->filter) { /* what it has begun it ends on both sides */
        node_close_gate_co(c->filter);
    }
    node_close_gate_co(c->spec.source);
    Error *err = catch_up_co(c);
    if (!err && job->complete_asked && !job->cancelled) {
        err = mirror_switch_co(c);
    }
    node_open_gate(c->spec.source);
    if (c->filter) {
        node_open_gate(c->filter);
    }
    return err;
}

static bool mirror_can_complete(const Job *job)
{
    return true;
}

/* --- backup --- */

/* Copies what is left of the range, one at a time. */
static int backup_range_co(CopyJob *c, char *buffer, uint64_t offset, uint64_t end)
{
    uint64_t at, bytes;
    int ret = 0;
    co_mutex_lock(&c->copying);
    while (ret >= 0 && block_bitmap_next(c->todo, offset, chunk_size(c), &at, &bytes) && at < end) {
        bool is_read;
        ret = copy_data_co(c, buffer, at, bytes, &is_read);
        if (ret >= 0) {
            block_bitmap_reset(c->todo, at, bytes);
            c->job.done += bytes;
        }
        offset = at + bytes;
    }
    co_mutex_unlock(&c->copying);
    return ret;
}

static void backup_before_write_co(BeforeWrite *hook, uint64_t offset, uint64_t bytes)
{
    CopyJob *c = hook->opaque;
    if (c->write_error < 0 || !block_bitmap_count(c->todo)) {
        return;
    }
    char *buffer = aligned_alloc(4096, buffer_bytes(c));
    int ret = buffer ? backup_range_co(c, buffer, offset, offset + bytes) : -ENOMEM;
    free(buffer);
    if (ret < 0) { /* the guest goes on; the backup is no longer of one moment */
        c->write_error = ret;
    }
}

/* sync=top: what the backing chain has is not copied. */
static Error *backup_only_top_co(CopyJob *c)
{
    BlockNode *source = c->spec.source;
    uint32_t unit = c->todo->granularity;
    for (uint64_t at = 0; at < source->size;) {
        BlockStatus status;
        int ret = node_status_co(source, at, source->size - at, &status);
        if (ret < 0) {
            return error_new_errno(ret, "Could not tell what '%s' has allocated", source->name);
        }
        if (!(status.flags & STATUS_ALLOCATED)) {
            uint64_t from = ALIGN_UP(at, unit), end = at + status.bytes;
            end = end == source->size ? end : ALIGN_DOWN(end, unit);
            block_bitmap_reset(c->todo, from, end > from ? end - from : 0);
        }
        at += status.bytes;
    }
    return NULL;
}

static Error *backup_run_co(Job *job)
{
    CopyJob *c = (CopyJob *)job;
    uint64_t at, bytes;
    if (c->spec.sync == JOB_SYNC_TOP) {
        TRY(backup_only_top_co(c));
    }
    if (c->spec.sync == JOB_SYNC_NONE) {
        block_bitmap_set(c->todo, 0, c->spec.source->size);
    }
    count_total(c);
    while (c->spec.sync == JOB_SYNC_NONE) { /* only the guest's writes are copied */
        if (!job_pause_point_co(job)) {
            return NULL;
        }
        job_wait_co(job, READY_POLL_MS * NS_PER_MS);
    }
    while (!c->write_error && block_bitmap_next(c->todo, 0, chunk_size(c), &at, &bytes)) {
        bool ignore;
        uint64_t before = job->done;
        int ret = backup_range_co(c, c->buffer, at, at + bytes);
        if (ret < 0 && !job_error_co(job, c->spec.on_target_error, false, ret, &ignore)) {
            if (!ignore) {
                return error_new_errno(ret, "Copying failed at byte %" PRIu64, at);
            }
            block_bitmap_reset(c->todo, at, bytes);
        }
        uint64_t copied = job->done - before;
        job->done = before;
        if (!job_progress_co(job, copied)) {
            return NULL;
        }
    }
    return c->write_error ? error_new_errno(c->write_error, "Copying before a write failed")
                          : flush_target_co(c);
}

/* The bitmap says what the next backup must copy: what was written since this one began. It was
 * cleared then; after a failure it gets its old bits back. */
static void bitmap_end(CopyJob *c, bool success)
{
    BlockBitmap *b = c->spec.bitmap;
    uint64_t at, bytes;
    if (!b) {
        return;
    }
    b->busy = false;
    if (c->spec.bitmap_mode == BITMAP_ALWAYS || (success && c->spec.bitmap_mode != BITMAP_NEVER)) {
        if (!success) { /* what was not copied */
            for (uint64_t pos = 0; block_bitmap_next(c->todo, pos, UINT64_MAX, &at, &bytes);
                 pos = at + bytes) {
                block_bitmap_set(b, at, bytes);
            }
        }
        return;
    }
    error_free(block_bitmap_merge(b, (const BlockBitmap *)c->before_write.saved));
}

static Error *backup_commit_co(Job *job)
{
    bitmap_end((CopyJob *)job, true);
    return NULL;
}

static void backup_abort_co(Job *job)
{
    bitmap_end((CopyJob *)job, false);
}

/* --- both --- */

static void copy_clean_co(Job *job)
{
    CopyJob *c = (CopyJob *)job;
    job_filter_remove_co(c->filter);
    if (c->before_write.fn) {
        list_remove(&c->before_write.node);
        co_mutex_lock(&c->copying); /* a write that waits for its copy */
        co_mutex_unlock(&c->copying);
    }
    block_bitmap_free(c->before_write.saved);
    block_bitmap_free(c->todo);
    block_root_detach(c->source_edge);
    block_root_detach(c->target_edge);
    if (c->target_was_read_only && !c->switched) {
        error_free(node_set_read_only_co(c->spec.target, true));
    }
    node_unref_co(c->spec.target);
    node_unref_co(c->spec.source);
    free(c->buffer);
}

static const JobDriver mirror_driver = {
    .type = "mirror",
    .size = sizeof(CopyJob),
    .can_complete = mirror_can_complete,
    .run_co = mirror_run_co,
    .commit_co = mirror_commit_co,
    .clean_co = copy_clean_co,
};

static const JobDriver commit_active_driver = {
    .type = "commit",
    .size = sizeof(CopyJob),
    .can_complete = mirror_can_complete,
    .run_co = mirror_run_co,
    .commit_co = mirror_commit_co,
    .clean_co = copy_clean_co,
};

static const JobDriver backup_driver = {
    .type = "backup",
    .size = sizeof(CopyJob),
    .run_co = backup_run_co,
    .commit_co = backup_commit_co,
    .abort_co = backup_abort_co,
    .clean_co = copy_clean_co,
};

/* A backup may go to an image that shows the source where it has nothing itself: what is copied hides what changes. */
static Error *check_spec(const CopySpec *spec, bool backup)
{
    if (spec->base) {
        return NULL;
    }
    if (spec->source == spec->target) {
        return error_new("Cannot copy node '%s' into itself", spec->source->name);
    }
    if (node_reaches(spec->source, spec->target) || (!backup && node_reaches(spec->target, spec->source))) {
        return error_new("Source and target are in the same chain");
    }
    if (spec->target->size != spec->source->size) {
        return error_new("Source and target image have different sizes");
    }
    return spec->target->read_only ? error_new("Node '%s' is read only", spec->target->name) : NULL;
}

/* Where somebody wants to see it, or it has something to do. */
static Error *add_filter(CopyJob *c)
{
    const CopySpec *s = &c->spec;
    JobFilterKind kind = c->job.driver->type[0] == 'b' ? JOB_FILTER_BACKUP
                         : s->base                     ? JOB_FILTER_COMMIT
                                                       : JOB_FILTER_MIRROR;
    c->active = (ActiveMirror) { s->target, c->todo, &c->ranges, !s->keep_allocated };
    return s->filter_name || s->write_blocking
               ? job_filter_insert(s->source, kind, s->filter_name, s->write_blocking ? &c->active : NULL, &c->filter)
               : NULL;
}

static Error *attach(CopyJob *c)
{
    CopySpec *s = &c->spec;
    TRY(job_check_active(s->source));
    TRY(block_root_attach(s->source, c->job.id, CLAIM_READ, CLAIM_ALL, &c->source_edge));
    if (s->base) { /* what is written there is what the chain shows already */
        TRY(block_root_attach(s->target, c->job.id, CLAIM_READ | CLAIM_WRITE_UNCHANGED, CLAIM_ALL,
                              &c->target_edge));
    } else {
        /* What shows the source changes with it, but for what has been copied. */
        unsigned shared = node_reaches(s->target, s->source) ? CLAIM_ALL : CLAIM_ALL & ~(unsigned)CLAIM_WRITE;
        TRY(block_root_attach(s->target, c->job.id, CLAIM_READ | CLAIM_WRITE, shared, &c->target_edge));
    }
    TRY(block_bitmap_new(s->source, NULL, s->granularity, false, &c->todo));
    c->buffer = aligned_alloc(4096, buffer_bytes(c));
    return c->buffer ? NULL : error_new("Not enough memory for a job");
}

/* The moment of the backup is now. */
static Error *backup_begin(CopyJob *c)
{
    CopySpec *s = &c->spec;
    c->todo->enabled = false;
    co_mutex_init(&c->copying);
    if (s->bitmap) {
        TRY(block_bitmap_new(s->source, NULL, s->bitmap->granularity, false,
                             (BlockBitmap **)&c->before_write.saved));
        BlockBitmap *saved = c->before_write.saved;
        saved->enabled = false;
        TRY(block_bitmap_merge(saved, s->bitmap));
        if (s->sync == JOB_SYNC_BITMAP) {
            TRY(block_bitmap_merge(c->todo, s->bitmap));
        }
        s->bitmap->busy = true;
        if (s->bitmap_mode != BITMAP_NEVER) {
            block_bitmap_clear(s->bitmap);
        }
    }
    if (s->sync == JOB_SYNC_FULL || s->sync == JOB_SYNC_TOP) {
        block_bitmap_set(c->todo, 0, s->source->size); /* "top" takes away from it later */
    }
    c->before_write.fn = backup_before_write_co;
    c->before_write.opaque = c;
    list_append(&s->source->before_write, &c->before_write.node);
    return NULL;
}

static Error *copy_start(BlockGraph *graph, const JobDriver *driver, const CopySpec *spec)
{
    Job *job;
    Error *err = check_spec(spec, driver == &backup_driver);
    if (!err) {
        err = job_new(graph, driver, &spec->job, &job);
    }
    if (err) {
        node_unref(spec->target);
        return err;
    }
    CopyJob *c = (CopyJob *)job;
    c->spec = *spec;
    node_ref(c->spec.source); /* its users may all go over to the target, and what is to be copied is noted there */
    list_init(&c->ranges.held);
    err = attach(c);
    if (!err && driver == &backup_driver) {
        err = backup_begin(c);
    }
    if (!err) {
        err = add_filter(c);
        c->spec.filter_name = NULL; /* the caller's */
    }
    if (err) {
        list_remove(&c->before_write.node); /* if it is there */
        if (c->spec.bitmap && c->spec.bitmap->busy && c->before_write.saved) {
            bitmap_end(c, false);
        }
        block_bitmap_free(c->before_write.saved);
        block_bitmap_free(c->todo);
        block_root_detach(c->source_edge);
        block_root_detach(c->target_edge);
        node_unref(spec->target);
        node_unref(spec->source);
        free(c->buffer);
        job_drop(job);
        return err;
    }
    job_start(job);
    return NULL;
}

Error *job_mirror(BlockGraph *graph, const CopySpec *spec)
{
    if (spec->granularity > MAX_GRANULARITY) { /* a copy of that size is held in memory */
        node_unref(spec->target);
        return error_new("A mirror's granularity is 512 bytes to 64 MiB");
    }
    return copy_start(graph, spec->base ? &commit_active_driver : &mirror_driver, spec);
}

/* Whole clusters of the target: what its own backing image shows in the rest of one need not be what the source has there. */
Error *job_backup(BlockGraph *graph, const CopySpec *given)
{
    CopySpec spec = *given;
    uint32_t cluster = spec.target->driver->supports_backing ? spec.target->limits.cluster_size : 0;
    spec.granularity = MAX(BACKUP_UNIT, cluster);
    return copy_start(graph, &backup_driver, &spec);
}
