/*
 * Filter "copy-before-write": what is about to be overwritten is copied to the target first, so that
 * the moment at which the filter came in can be read later (filter "snapshot-access").
 *
 * Invariant 1: a bit of `todo` says that the target lacks the cluster and the source still has it.
 * Invariant 2: `access` has what may be read of the moment; todo is within it. Invariant 3: `lock` is
 * held while a bit of todo is looked at and what it stands for is read, so no write overtakes a reader.
 */
#include "block/filter/copy_before_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/bitmap.h"
#include "block/filter/filter.h"

enum { COPY_MAX = 1 << 20, MIN_UNIT = 64 << 10 };

typedef struct CbwState {
    BlockEdge *target;
    BlockBitmap *todo, *access;
    CoMutex lock;
    bool break_snapshot; /* rather than the guest's write */
    int snapshot_error;
    uint64_t timeout_ns; /* 0: none */
    char *buffer;
} CbwState;

/* --- copying --- */

static int copy_run_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    CbwState *s = node->state;
    BlockStatus status;
    unsigned depth;
    int ret = node_status_above_co(filter_child(node), NULL, offset, bytes, &status, &depth);
    if (ret >= 0 && (status.flags & STATUS_ZERO) && status.bytes >= bytes) {
        return node_write_zeroes_co(s->target->node, offset, bytes, REQ_MAY_UNMAP);
    }
    ret = node_pread_co(filter_child(node), offset, bytes, s->buffer);
    return ret < 0 ? ret : node_pwrite_co(s->target->node, offset, bytes, s->buffer, 0);
}

static int copy_range_co(BlockNode *node, uint64_t offset, uint64_t end)
{
    CbwState *s = node->state;
    int64_t began = clock_now(loop_clocks(co_loop()), CLOCK_REALTIME_NS);
    uint64_t at, bytes, unit = s->todo->granularity;
    int ret = s->snapshot_error;
    offset -= offset % unit;
    while (ret >= 0 && block_bitmap_next(s->todo, offset, COPY_MAX, &at, &bytes) && at < end) {
        bytes = MIN(bytes, ALIGN_UP(end, unit) - at);
        bytes = MIN(bytes, node->size - at);
        ret = copy_run_co(node, at, bytes);
        if (ret >= 0) {
            block_bitmap_reset(s->todo, at, bytes);
        }
        offset = at + bytes;
        int64_t now = clock_now(loop_clocks(co_loop()), CLOCK_REALTIME_NS);
        if (ret >= 0 && s->timeout_ns && (uint64_t)(now - began) > s->timeout_ns && offset < end) {
            ret = -ETIMEDOUT;
        }
    }
    return ret;
}

/* Before the guest's request: what it may change is safe. */
static int before_write_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    CbwState *s = node->state;
    if (s->snapshot_error < 0 || offset >= s->todo->size) {
        return 0;
    }
    co_mutex_lock(&s->lock);
    int ret = copy_range_co(node, offset, MIN(offset + bytes, s->todo->size));
    if (ret < 0 && s->break_snapshot) {
        s->snapshot_error = ret;
        ret = 0;
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

static int cbw_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    int ret = flags & REQ_WRITE_UNCHANGED ? 0 : before_write_co(node, offset, bytes);
    return ret < 0 ? ret : filter_pwritev_co(node, offset, bytes, vec, at, flags);
}

static int cbw_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret = before_write_co(node, offset, bytes);
    return ret < 0 ? ret : filter_write_zeroes_co(node, offset, bytes, flags);
}

static int cbw_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = before_write_co(node, offset, bytes);
    return ret < 0 ? ret : filter_discard_co(node, offset, bytes);
}

/* Shrinking loses what is cut off, so it is copied; the moment keeps its size. */
static Error *cbw_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    if (size < node->size) {
        int ret = before_write_co(node, size, node->size - size);
        if (ret < 0) {
            return error_new_errno(ret, "Could not save what is cut off");
        }
    }
    return filter_truncate_co(node, size, prealloc);
}

/* --- the moment --- */

bool cbw_is(const BlockNode *node)
{
    return node->driver->pwritev_co == cbw_pwritev_co;
}

/* Whether the whole range may be read. */
static int check_access(const CbwState *s, uint64_t offset, uint64_t bytes)
{
    if (s->snapshot_error < 0) {
        return -EACCES;
    }
    for (uint64_t at = offset; at < offset + bytes; at += s->access->granularity - at % s->access->granularity) {
        if (!block_bitmap_is_dirty(s->access, at)) {
            return -EACCES;
        }
    }
    return 0;
}

/* The run at offset that is all in the source, or all in the target. */
static uint64_t run_length(const CbwState *s, uint64_t offset, uint64_t bytes, bool *ret_in_source)
{
    uint64_t at, length;
    bool found = block_bitmap_next(s->todo, offset, UINT64_MAX, &at, &length);
    *ret_in_source = block_bitmap_is_dirty(s->todo, offset);
    if (!found || (!*ret_in_source && at >= offset + bytes)) {
        return bytes;
    }
    return *ret_in_source ? MIN(bytes, at + length - offset) : MIN(bytes, at - offset);
}

int cbw_snapshot_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    CbwState *s = node->state;
    int ret = 0;
    while (bytes && ret >= 0) {
        bool in_source;
        co_mutex_lock(&s->lock);
        uint64_t part = run_length(s, offset, MIN(bytes, COPY_MAX), &in_source);
        ret = check_access(s, offset, part);
        if (ret >= 0 && in_source) {
            ret = node_preadv_co(filter_child(node), offset, part, vec, at);
        }
        co_mutex_unlock(&s->lock);
        if (ret >= 0 && !in_source) { /* nobody changes it any more */
            ret = node_preadv_co(s->target->node, offset, part, vec, at);
        }
        offset += part;
        bytes -= part;
        at += (size_t)part;
    }
    return ret;
}

int cbw_snapshot_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    CbwState *s = node->state;
    BlockStatus status = { .bytes = bytes };
    unsigned depth;
    bool in_source;
    co_mutex_lock(&s->lock);
    bytes = run_length(s, offset, bytes, &in_source);
    int ret = check_access(s, offset, MIN(bytes, s->access->granularity - offset % s->access->granularity));
    bytes = MIN(bytes, s->access->granularity); /* the next one may be out of bounds */
    if (ret >= 0) {
        ret = node_status_above_co(in_source ? filter_child(node) : s->target->node, NULL, offset, bytes,
                                   &status, &depth);
    }
    co_mutex_unlock(&s->lock);
    *ret_status = (BlockStatus) { .flags = (status.flags & (STATUS_DATA | STATUS_ZERO)) | STATUS_ALLOCATED,
                                  .bytes = status.bytes };
    return ret;
}

int cbw_snapshot_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    CbwState *s = node->state;
    uint64_t unit = s->access->granularity, end = offset + bytes;
    uint64_t from = (offset + unit - 1) / unit * unit, to = end >= s->access->size ? s->access->size : end - end % unit;
    if (from >= to) {
        return 0;
    }
    co_mutex_lock(&s->lock);
    block_bitmap_reset(s->todo, from, to - from);
    block_bitmap_reset(s->access, from, to - from);
    co_mutex_unlock(&s->lock);
    return node_discard_co(s->target->node, from, to - from);
}

/* --- opening --- */

static Error *make_bitmap(BlockNode *node, uint64_t unit, const BlockBitmap *from, BlockBitmap **ret)
{
    BlockBitmap *b;
    TRY(block_bitmap_new(node, NULL, unit, false, &b));
    b->enabled = false;
    *ret = b;
    if (from) {
        return block_bitmap_merge(b, from);
    }
    block_bitmap_set(b, 0, node->size);
    return NULL;
}

static Error *take_bitmap(BlockNode *node, KeyValues *opts, const BlockBitmap **ret)
{
    g_autofree char *owner = keyvalues_take(opts, "bitmap.node"), *name = keyvalues_take(opts, "bitmap.name");
    BlockBitmap *bitmap;
    *ret = NULL;
    if (!owner && !name) {
        return NULL;
    }
    BlockNode *other = owner ? block_node_find(node->graph, owner) : NULL;
    if (!other || !name) {
        return error_new("'bitmap' names no node ('%s') or no bitmap", owner ? owner : "");
    }
    TRY(block_bitmap_get(other, name, BITMAP_ALLOW_READ_ONLY, &bitmap));
    *ret = bitmap;
    return NULL;
}

static Error *take_options(BlockNode *node, KeyValues *opts)
{
    CbwState *s = node->state;
    const BlockBitmap *bitmap;
    uint64_t seconds;
    g_autofree char *on_error = keyvalues_take(opts, "on-cbw-error");
    if (on_error && strcmp(on_error, "break-guest-write") && strcmp(on_error, "break-snapshot")) {
        return error_new("Parameter 'on-cbw-error' does not accept value '%s'", on_error);
    }
    s->break_snapshot = !g_strcmp0(on_error, "break-snapshot");
    TRY(block_take_num(opts, "cbw-timeout", 0, &seconds));
    s->timeout_ns = MIN(seconds, UINT32_MAX) * NS_PER_SEC;
    TRY(take_bitmap(node, opts, &bitmap));
    TRY(node_open_role_co(node, opts, "target", CHILD_FILE, true, &s->target));
    BlockNode *target = s->target->node;
    if (target->size < node->size) {
        return error_new("The target of copy-before-write is smaller than the source");
    }
    if (target->read_only && !node->read_only) {
        return error_new("Node '%s' is read-only", target->name);
    }
    uint64_t unit = MAX(MAX(MIN_UNIT, target->limits.cluster_size), bitmap ? bitmap->granularity : 0);
    TRY(make_bitmap(node, unit, bitmap, &s->todo));
    return make_bitmap(node, unit, bitmap, &s->access);
}

static Error *cbw_open_co(BlockNode *node, KeyValues *opts)
{
    CbwState *s = node->state;
    TRY(filter_open(node));
    Error *err = take_options(node, opts);
    if (!err) {
        s->buffer = aligned_alloc(4096, COPY_MAX);
        err = s->buffer ? NULL : error_new("Not enough memory for copy-before-write");
    }
    co_mutex_init(&s->lock);
    return err; /* bitmaps go with the node */
}

static void cbw_close_co(BlockNode *node)
{
    free(((CbwState *)node->state)->buffer);
}

static const BlockOption cbw_options[] = {
    { "target", OPT_STR, "Where the old content goes" },
    { "bitmap.node", OPT_STR, "Node that has the bitmap" },
    { "bitmap.name", OPT_STR, "Only what this bitmap has is kept (default: everything)" },
    { "on-cbw-error", OPT_STR, "When the target fails: break-guest-write (default) or break-snapshot" },
    { "cbw-timeout", OPT_NUM, "Seconds after which copying counts as failed (default: 0, never)" },
    { 0 },
};

BLOCK_DRIVER(copy_before_write, .name = "copy-before-write",
             .desc = "Filter: what is overwritten is copied first", .filter = true,
             .state_size = sizeof(CbwState), .options = cbw_options, .open_co = cbw_open_co,
             .close_co = cbw_close_co, .preadv_co = filter_preadv_co, .pwritev_co = cbw_pwritev_co,
             .write_zeroes_co = cbw_write_zeroes_co, .discard_co = cbw_discard_co,
             .status_co = filter_status_co, .truncate_co = cbw_truncate_co, FILTER_FLAGS);
