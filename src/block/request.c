/*
 * The request path: every read, write, zero, discard and flush of a node comes through here. This
 * is where ranges are checked, requests padded to the driver's alignment, buffers bounced, long
 * requests cut.
 *
 * Invariant 1: a driver sees only requests inside the node, aligned to limits.request_align.
 * Invariant 2: a request that reads before it writes (padding), discards or zeroes is
 * `serialising`: it waits for every earlier request that overlaps it, and later ones wait for it.
 * Requests only ever wait for earlier ones, so there is no cycle.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "value/value.h"
#include "block/bitmap.h"
#include "block/node_priv.h"

enum { ZERO_BUFFER = 1024 * 1024, BOUNCE_MAX = 1024 * 1024 };

/* --- tracking --- */

static bool overlap(const NodeRequest *a, const NodeRequest *b)
{
    return a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static NodeRequest *earlier_conflict(const NodeRequest *req)
{
    LIST_FOREACH (other, &req->node->requests, NodeRequest, in_node) {
        if (other == req) {
            return NULL;
        }
        if ((other->serialising || req->serialising) && (other->write || req->write) &&
            overlap(other, req)) {
            return other;
        }
    }
    return NULL;
}

static void request_begin(NodeRequest *req, BlockNode *node, uint64_t offset, uint64_t bytes,
                          bool write, uint32_t serialise_align)
{
    while (node->gate_owner && node->gate_owner != co_self()) {
        co_queue_wait(&node->gate);
    }
    *req = (NodeRequest) { .node = node, .offset = offset, .bytes = bytes, .write = write };
    if (serialise_align) {
        uint64_t end = offset + bytes;
        req->serialising = true;
        req->offset = offset - offset % serialise_align;
        req->bytes = (end + serialise_align - 1) / serialise_align * serialise_align - req->offset;
        node->serialising++;
    }
    co_queue_init(&req->waiters);
    list_append(&node->requests, &req->in_node);
    if (node->serialising) {
        for (NodeRequest *other; (other = earlier_conflict(req));) {
            co_queue_wait(&other->waiters);
        }
    }
}

static void request_end(NodeRequest *req)
{
    BlockNode *node = req->node;
    if (req->serialising) {
        node->serialising--;
    }
    list_remove(&req->in_node);
    co_queue_wake_all(&req->waiters);
    if (list_empty(&node->requests)) {
        co_queue_wake_all(&node->drained);
    }
}

/* The end of a request that may have changed the range, whether it succeeded or not. */
static void request_wrote(NodeRequest *req, uint64_t offset, uint64_t bytes)
{
    if (!list_empty(&req->node->bitmaps)) {
        block_bitmaps_mark(req->node, offset, bytes);
    }
    request_end(req);
}

void node_drain_co(BlockNode *node)
{
    while (!list_empty(&node->requests)) {
        co_queue_wait(&node->drained);
    }
}

void node_close_gate_co(BlockNode *node)
{
    while (node->gate_owner) {
        co_queue_wait(&node->gate);
    }
    node->gate_owner = co_self();
    node->hurry = true;
    node_drain_co(node);
}

void node_open_gate(BlockNode *node)
{
    node->gate_owner = NULL;
    node->hurry = node->closing;
    co_queue_wake_all(&node->gate);
}

static int check_range(uint64_t offset, uint64_t bytes)
{
    return range_inside(offset, bytes, INT64_MAX) ? 0 : -EINVAL;
}

/* --- buffers --- */

static void *buffer_new(const BlockNode *node, size_t size)
{
    size_t align = MAX(node->limits.memory_align, 64);
    return aligned_alloc(align, ALIGN_UP(size, align));
}

/* --- reading --- */

/* Aligned and inside the node, in pieces the driver takes. */
static int read_aligned_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    uint64_t max = node->limits.max_transfer ? node->limits.max_transfer : bytes;
    while (bytes) {
        uint64_t part = MIN(bytes, max);
        int ret = node->driver->preadv_co(node, offset, part, vec, at);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
        at += part;
    }
    return 0;
}

/* Through a buffer of bounded size, for whatever alignment. The node's end is rounded up to its
 * alignment. */
static int read_bounced_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    uint32_t align = node->limits.request_align;
    uint64_t pos = ALIGN_DOWN(offset, align), end = offset + bytes;
    size_t size = (size_t)MIN(ALIGN_UP(end, align) - pos, BOUNCE_MAX);
    char *buffer = buffer_new(node, size);
    int ret = buffer ? 0 : -ENOMEM;

    while (pos < end && ret >= 0) {
        size_t part = (size_t)MIN(ALIGN_UP(end, align) - pos, size);
        BLOCK_VEC_BUFFER(bounce, buffer, part);
        ret = read_aligned_co(node, pos, part, &bounce, 0);
        if (ret >= 0) {
            uint64_t from = MAX(pos, offset), to = MIN(pos + part, end);
            block_vec_from_buffer(vec, at + (size_t)(from - offset), buffer + (from - pos),
                                  (size_t)(to - from));
        }
        pos += part;
    }
    free(buffer);
    return ret;
}

static bool is_aligned(const BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return IS_ALIGNED(offset | bytes, (uint64_t)node->limits.request_align);
}

int node_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    NodeRequest req;
    int ret = check_range(offset, bytes);

    if (ret < 0 || !bytes) {
        return ret;
    }
    if (node->off && !node->open) { /* it could not be read anew */
        return -EIO;
    }
    if (offset + bytes > node->size) { /* a shorter file reads as zeroes */
        uint64_t inside = offset < node->size ? node->size - offset : 0;
        block_vec_zero(vec, at + (size_t)inside, (size_t)(bytes - inside));
        bytes = inside;
        if (!bytes) {
            return 0;
        }
    }
    request_begin(&req, node, offset, bytes, false, 0);
    if (is_aligned(node, offset, bytes) &&
        block_vec_is_aligned(vec, at, (size_t)bytes, node->limits.memory_align)) {
        ret = read_aligned_co(node, offset, bytes, vec, at);
    } else {
        ret = read_bounced_co(node, offset, bytes, vec, at);
    }
    request_end(&req);
    return ret;
}

int node_pread_co(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer)
{
    BLOCK_VEC_BUFFER(vec, buffer, (size_t)bytes);
    return node_preadv_co(node, offset, bytes, &vec, 0);
}

/* --- writing --- */

/* Whoever has storage made larger as it fills waits for this. */
static void tell_threshold(BlockNode *node, uint64_t end)
{
    uint64_t threshold = node->write_threshold;

    node->write_threshold = 0;
    if (node->graph->emit) {
        Value *data = value_dict();
        value_put_str(data, "node-name", node->name);
        value_put(data, "amount-exceeded", value_uint(end - threshold));
        value_put(data, "write-threshold", value_uint(threshold));
        node->graph->emit(node->graph->hooks_opaque, "BLOCK_WRITE_THRESHOLD", data);
    }
}

/* Before the request is in the list, so that reading the range does not wait for it. */
static void announce_write_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    if (unlikely(node->write_threshold && offset + bytes > node->write_threshold)) {
        tell_threshold(node, offset + bytes);
    }
    if (list_empty(&node->before_write)) {
        return;
    }
    g_autoptr(GPtrArray) hooks = g_ptr_array_new(); /* one may go while another is waited for */
    LIST_FOREACH (hook, &node->before_write, BeforeWrite, node) {
        g_ptr_array_add(hooks, hook);
    }
    for (guint i = 0; i < hooks->len; i++) {
        bool there = false;
        LIST_FOREACH (hook, &node->before_write, BeforeWrite, node) {
            there |= hook == g_ptr_array_index(hooks, i);
        }
        if (there) {
            BeforeWrite *hook = g_ptr_array_index(hooks, i);
            hook->fn(hook, offset, bytes);
        }
    }
}

/* Guests see the end of their disk as an error; a format that wants more room than its storage has, as lack of it. */
static int beyond_end(const BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        if (node->ends_as_full && edge->parent && edge->role == CHILD_FILE) {
            return -ENOSPC;
        }
    }
    return -EIO;
}

static int check_writable(const BlockNode *node, uint64_t offset, uint64_t bytes)
{
    if (node->read_only || node->off) {
        return -EPERM;
    }
    if (atomic_load_explicit(&node->graph->frozen, memory_order_relaxed)) {
        return -EIO;
    }
    int ret = check_range(offset, bytes);
    if (ret < 0) {
        return ret;
    }
    return offset + bytes <= node->size || node->extends ? 0 : beyond_end(node);
}

static void written(BlockNode *node, uint64_t end)
{
    node->write_generation++;
    if (end > node->size && node->extends) {
        node->size = end;
    }
}

/* Flushes after the write when the driver cannot do FUA by itself. */
static int finish_fua_co(BlockNode *node, unsigned flags, uint64_t supported)
{
    return (flags & REQ_FUA) && !(supported & REQ_FUA) ? node_flush_co(node) : 0;
}

static int write_aligned_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            size_t at, unsigned flags)
{
    uint64_t max = node->limits.max_transfer ? node->limits.max_transfer : bytes;
    unsigned passed = flags & (unsigned)node->driver->write_flags;

    node_debug_event_co(node, BLOCK_EVENT_PWRITEV);
    while (bytes) {
        uint64_t part = MIN(bytes, max);
        int ret = node->driver->pwritev_co(node, offset, part, vec, at, passed);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
        at += part;
        written(node, offset);
    }
    node_debug_event_co(node, BLOCK_EVENT_PWRITEV_DONE);
    return 0;
}

/* Of a node that looks through, the node below is who has a request done in parts. */
static void rmw_event_co(BlockNode *node, BlockEvent event)
{
    bool through = node->driver->filter && !node->driver->debug_event_co && node->file;
    node_debug_event_co(through ? node->file->node : node, event);
}

/* One bounce buffer: what the range needs around it is read first. */
static int write_padded_part_co(BlockNode *node, char *buffer, uint64_t pos, size_t size,
                                uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                                unsigned flags)
{
    uint32_t align = node->limits.request_align;
    uint64_t from = MAX(pos, offset), to = MIN(pos + size, offset + bytes);
    int ret = 0;

    BLOCK_VEC_BUFFER(whole, buffer, size);
    if (from > pos) {
        memset(buffer, 0, align);
        if (pos < node->size) {
            rmw_event_co(node, BLOCK_EVENT_PWRITEV_RMW_HEAD);
            ret = read_aligned_co(node, pos, align, &whole, 0);
            rmw_event_co(node, BLOCK_EVENT_PWRITEV_RMW_AFTER_HEAD);
        }
    }
    if (ret >= 0 && to < pos + size && (from == pos || size > align)) {
        memset(buffer + size - align, 0, align);
        if (pos + size - align < node->size) {
            rmw_event_co(node, BLOCK_EVENT_PWRITEV_RMW_TAIL);
            ret = read_aligned_co(node, pos + size - align, align, &whole, size - align);
            rmw_event_co(node, BLOCK_EVENT_PWRITEV_RMW_AFTER_TAIL);
        }
    }
    if (ret < 0) {
        return ret;
    }
    block_vec_to_buffer(vec, at + (size_t)(from - offset), buffer + (from - pos),
                        (size_t)(to - from));
    return write_aligned_co(node, pos, size, &whole, 0, flags);
}

static int write_bounced_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            size_t at, unsigned flags)
{
    uint32_t align = node->limits.request_align;
    uint64_t pos = ALIGN_DOWN(offset, align), end = ALIGN_UP(offset + bytes, align);
    size_t size = (size_t)MIN(end - pos, BOUNCE_MAX);
    char *buffer = buffer_new(node, size);
    int ret = buffer ? 0 : -ENOMEM;

    while (pos < end && ret >= 0) {
        size_t part = (size_t)MIN(end - pos, size);
        ret = write_padded_part_co(node, buffer, pos, part, offset, bytes, vec, at, flags);
        pos += part;
    }
    free(buffer);
    return ret;
}

int node_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                    size_t at, unsigned flags)
{
    NodeRequest req;
    int ret = check_writable(node, offset, bytes);

    if (ret < 0 || !bytes) {
        return ret;
    }
    if ((flags & REQ_COMPRESSED) && !(node->driver->write_flags & REQ_COMPRESSED)) {
        return -ENOTSUP;
    }
    if (node->detect_zeroes && !(flags & REQ_COMPRESSED) &&
        block_vec_is_zero(vec, at, (size_t)bytes)) {
        unsigned unmap = node->detect_zeroes == DETECT_ZEROES_UNMAP ? REQ_MAY_UNMAP : 0;
        return node_write_zeroes_co(node, offset, bytes, (flags & REQ_FUA) | unmap);
    }
    bool aligned = is_aligned(node, offset, bytes);
    announce_write_co(node, offset, bytes);
    request_begin(&req, node, offset, bytes, true, aligned ? 0 : node->limits.request_align);
    if (aligned && block_vec_is_aligned(vec, at, (size_t)bytes, node->limits.memory_align)) {
        ret = write_aligned_co(node, offset, bytes, vec, at, flags);
    } else {
        ret = write_bounced_co(node, offset, bytes, vec, at, flags);
    }
    request_wrote(&req, offset, bytes);
    return ret < 0 ? ret : finish_fua_co(node, flags, node->driver->write_flags);
}

int node_pwrite_co(BlockNode *node, uint64_t offset, uint64_t bytes, const void *buffer,
                   unsigned flags)
{
    BLOCK_VEC_BUFFER(vec, buffer, (size_t)bytes);
    return node_pwritev_co(node, offset, bytes, &vec, 0, flags);
}

static int zeroes_cut_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);

/* Zeroes are stored as such; without a backing node there is nothing else. */
static int populate_part_co(BlockNode *node, uint64_t offset, uint64_t bytes, char *buffer)
{
    BLOCK_VEC_BUFFER(vec, buffer, (size_t)bytes);
    int ret = node->backing ? node_preadv_co(node->backing->node, offset, bytes, &vec, 0) : 0;
    if (ret < 0) {
        return ret;
    }
    node_debug_event_co(node, BLOCK_EVENT_COR_WRITE);
    if (!node->backing || block_vec_is_zero(&vec, 0, (size_t)bytes)) {
        return zeroes_cut_co(node, offset, bytes, 0);
    }
    return write_aligned_co(node, offset, bytes, &vec, 0, 0);
}

/* What the backing node shows through becomes the node's own. */
int node_populate_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    NodeRequest req;
    BlockStatus below;
    if (!node->backing && node->driver->filter && node->driver->status_co && bytes &&
        node->driver->status_co(node, offset, bytes, &below) >= 0 && (below.flags & STATUS_RAW)) {
        return node_populate_co(below.file, below.map, MIN(bytes, below.bytes)); /* raw over a format that has one */
    }
    const BlockLimits *limits = &node->limits;
    uint64_t unit = MAX(limits->own_size ? limits->own_size : limits->cluster_size, limits->request_align);
    uint64_t from = offset - offset % unit, end = MIN(node->size, (offset + bytes + unit - 1) / unit * unit);
    int ret = check_writable(node, from, end - from);
    if (ret < 0) {
        return ret;
    }
    char *buffer = buffer_new(node, BOUNCE_MAX);
    ret = buffer ? 0 : -ENOMEM;
    request_begin(&req, node, from, end - from, true, (uint32_t)unit);
    for (uint64_t at = from; at < end && ret >= 0;) {
        BlockStatus status = { .bytes = end - at, .flags = 0 };
        ret = node->driver->status_co(node, at, MIN(end - at, BOUNCE_MAX), &status);
        uint64_t part = MIN(MIN(status.bytes, end - at), BOUNCE_MAX);
        if (ret >= 0 && !(status.flags & STATUS_ALLOCATED)) {
            ret = populate_part_co(node, at, part, buffer);
        }
        at += part;
    }
    request_end(&req);
    free(buffer);
    return ret;
}

/* --- zeroes and discard --- */

static int write_zero_bytes_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    size_t size = (size_t)MIN(bytes + 2 * node->limits.request_align, ZERO_BUFFER);
    size_t align = MAX(node->limits.memory_align, 64);
    char *zeroes = aligned_alloc(align, ALIGN_UP(size, align));
    int ret = zeroes ? 0 : -ENOMEM;

    if (zeroes) {
        memset(zeroes, 0, size);
    }
    while (bytes && ret >= 0) {
        uint64_t part = MIN(bytes, size);
        BLOCK_VEC_BUFFER(vec, zeroes, (size_t)part);
        if (is_aligned(node, offset, part)) {
            ret = write_aligned_co(node, offset, part, &vec, 0, 0);
        } else {
            ret = write_bounced_co(node, offset, part, &vec, 0, 0);
        }
        offset += part;
        bytes -= part;
    }
    free(zeroes);
    return ret;
}

/* A run of whole units of the driver's zeroing granularity, or the pieces around it. */
static int zeroes_part_co(BlockNode *node, uint64_t offset, uint64_t bytes, bool whole,
                          unsigned flags)
{
    if ((whole || node->driver->zeroes_parts) && node->driver->write_zeroes_co) {
        unsigned passed =
            flags & ((unsigned)node->driver->zero_flags | REQ_MAY_UNMAP | REQ_NO_FALLBACK);
        if (!node->unmap) {
            passed &= ~(unsigned)REQ_MAY_UNMAP;
        }
        node_debug_event_co(node, BLOCK_EVENT_PWRITEV_ZERO);
        int ret = node->driver->write_zeroes_co(node, offset, bytes, passed);
        if (ret != -ENOTSUP) {
            written(node, offset + bytes);
            node_debug_event_co(node, BLOCK_EVENT_PWRITEV_DONE);
            return ret;
        }
    }
    return flags & REQ_NO_FALLBACK ? -ENOTSUP : write_zero_bytes_co(node, offset, bytes);
}

static int zeroes_cut_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t align = MAX(node->limits.zeroes_align, node->limits.request_align);
    uint64_t max = node->limits.max_zeroes ? node->limits.max_zeroes : UINT64_MAX;

    while (bytes) {
        uint64_t part;
        uint64_t misaligned = offset % align;
        bool whole = !misaligned && bytes >= align;
        if (whole) {
            part = MIN(bytes - bytes % align, max - max % align);
        } else if (offset + bytes == node->size && !misaligned) {
            part = bytes; /* the last unit may be cut by the end */
            whole = true;
        } else {
            part = MIN(bytes, align - misaligned);
        }
        int ret = zeroes_part_co(node, offset, part, whole, flags);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
    }
    return 0;
}

static uint32_t serialise_unit(const BlockNode *node)
{
    return MAX(node->limits.cluster_size, node->limits.request_align);
}

int node_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    NodeRequest req;
    int ret = check_writable(node, offset, bytes);

    if (ret < 0 || !bytes) {
        return ret;
    }
    announce_write_co(node, offset, bytes);
    request_begin(&req, node, offset, bytes, true, serialise_unit(node));
    ret = zeroes_cut_co(node, offset, bytes, flags);
    request_wrote(&req, offset, bytes);
    return ret < 0 ? ret : finish_fua_co(node, flags, node->driver->zero_flags);
}

int node_copy_range_co(BlockNode *node, uint64_t offset, BlockNode *from, uint64_t from_offset, uint64_t bytes)
{
    NodeRequest req;
    int ret = check_writable(node, offset, bytes);

    if (ret == 0 && (!node->driver->copy_range_co || node->detect_zeroes != DETECT_ZEROES_OFF)) {
        ret = -ENOTSUP;
    }
    if (ret < 0 || !bytes) {
        return ret;
    }
    announce_write_co(node, offset, bytes);
    request_begin(&req, node, offset, bytes, true, serialise_unit(node));
    ret = node->driver->copy_range_co(node, offset, from, from_offset, bytes);
    request_wrote(&req, offset, bytes);
    return ret;
}

/* Whole units of the driver's discards, and what is before and behind them: below a filter that may be whole units again. */
static int discard_cut_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t align = MAX(node->limits.discard_align, node->limits.request_align);
    uint64_t max = node->limits.max_discard ? MAX(node->limits.max_discard / align * align, align) : UINT64_MAX;

    while (bytes) {
        uint64_t misaligned = offset % align, part;
        bool whole = !misaligned && (bytes >= align || offset + bytes == node->size);
        if (misaligned) {
            part = MIN(bytes, align - misaligned);
        } else {
            part = MIN(bytes >= align ? bytes - bytes % align : bytes, max);
        }
        if (whole || node->driver->filter) {
            int ret = node->driver->discard_co(node, offset, part);
            if (ret < 0 && ret != -ENOTSUP) {
                return ret;
            }
        }
        offset += part;
        bytes -= part;
    }
    return 0;
}

int node_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    NodeRequest req;
    int ret = check_writable(node, offset, bytes);

    if (ret < 0 || !bytes) {
        return ret;
    }
    if (!node->unmap || !node->driver->discard_co) {
        return 0;
    }
    uint64_t end = MIN(offset + bytes, node->size), unit = node->limits.request_align;
    uint64_t from = (offset + unit - 1) / unit * unit, to = end == node->size ? end : end - end % unit;
    if (from >= to) {
        return 0;
    }
    announce_write_co(node, from, to - from);
    request_begin(&req, node, from, to - from, true, serialise_unit(node));
    ret = discard_cut_co(node, from, to - from);
    node->write_generation++;
    request_wrote(&req, from, to - from);
    return ret;
}

/* --- flush --- */

/* Skipped when nothing was written since the last one; with cache.no-flush only caches are written
 * back. */
int node_flush_co(BlockNode *node)
{
    uint64_t generation = node->write_generation;
    int ret = 0;

    if (node->read_only || node->off) {
        return 0;
    }
    NodeRequest req;
    request_begin(&req, node, 0, 0, false, 0); /* writing back too: nobody may shut the storage's gate meanwhile */
    if (node->file) {
        node_debug_event_co(node->file->node, BLOCK_EVENT_FLUSH_TO_OS);
    }
    if (node->driver->write_back_co) {
        ret = node->driver->write_back_co(node);
    }
    if (ret < 0 || node->no_flush || generation == node->flushed_generation) {
        request_end(&req);
        return ret;
    }
    if (node->file) {
        node_debug_event_co(node->file->node, BLOCK_EVENT_FLUSH_TO_DISK);
    }
    if (node->driver->flush_co) {
        ret = node->driver->flush_co(node);
    } else if (node->file) {
        ret = node_flush_co(node->file->node);
    }
    request_end(&req);
    if (ret >= 0 && generation > node->flushed_generation) {
        node->flushed_generation = generation;
    }
    return ret;
}

/* --- status --- */

int node_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    BlockStatus status = { 0 };

    if (node->off) {
        return -EPERM; /* what it knows may be old, and others would act on it */
    }
    if (offset >= node->size) {
        *ret_status = (BlockStatus) { .flags = STATUS_ZERO | STATUS_EOF, .bytes = bytes };
        return 0;
    }
    bytes = MIN(bytes, node->size - offset);
    if (!node->driver->status_co) {
        *ret_status = (BlockStatus) { .flags = STATUS_DATA | STATUS_ALLOCATED, .bytes = bytes };
        return 0;
    }
    uint64_t from = ALIGN_DOWN(offset, (uint64_t)node->limits.request_align);
    int ret = node->driver->status_co(node, from, bytes + (offset - from), &status);
    if (ret < 0) {
        return ret;
    }
    assert(status.bytes > offset - from);
    status.bytes = MIN(status.bytes - (offset - from), bytes);
    if (status.flags & STATUS_OFFSET) {
        status.map += offset - from;
    }
    if ((status.flags & (STATUS_RAW | STATUS_RECURSE)) && (status.flags & STATUS_DATA) &&
        (status.flags & STATUS_OFFSET)) {
        BlockStatus below;
        unsigned depth; /* what is below may have a backing chain of its own */
        ret = node_status_above_co(status.file, NULL, status.map, status.bytes, &below, &depth);
        if (ret >= 0 && (status.flags & STATUS_RAW)) {
            status.bytes = MIN(status.bytes, below.bytes);
            status.flags = (below.flags & ~(unsigned)(STATUS_OFFSET | STATUS_EOF)) |
                           (status.flags & (STATUS_OFFSET | STATUS_ALLOCATED));
            if (below.flags & STATUS_OFFSET) {
                status.map = below.map;
                status.file = below.file;
            }
        } else if (ret >= 0 && (below.flags & STATUS_ZERO)) {
            status.bytes = MIN(status.bytes, below.bytes);
            status.flags |= STATUS_ZERO;
        } else if (ret >= 0) {
            status.bytes = MIN(status.bytes, below.bytes);
        }
    }
    *ret_status = status;
    return 0;
}

int node_status_above_co(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes,
                         BlockStatus *ret_status, unsigned *ret_depth)
{
    unsigned depth = 0;
    bool shorter = false, has_layers = false;
    BlockStatus status = { .bytes = bytes };

    for (BlockNode *layer = node; layer && layer != base; layer = node_below(layer)) {
        if (node_is_filter(layer)) { /* shows what is below */
            int ret = layer->driver->debug_event_co ? node_status_co(layer, offset, bytes, &status) : 0;
            if (ret < 0) {
                return ret; /* one that was asked for */
            }
            continue;
        }
        int ret = node_status_co(layer, offset, bytes, &status);
        if (ret < 0) {
            return ret;
        }
        if (depth && (status.flags & STATUS_EOF)) {
            /* A backing image that ends here: zeroes, made by the layer above. */
            status.flags = STATUS_ZERO | STATUS_ALLOCATED | STATUS_EOF;
            shorter = true;
        }
        bytes = status.bytes;
        if ((status.flags & (STATUS_ALLOCATED | STATUS_EOF)) || shorter) {
            *ret_status = status;
            *ret_depth = shorter ? depth - 1 : depth;
            return 0;
        }
        has_layers = layer->driver->supports_backing;
        depth++;
    }
    status.bytes = bytes;
    status.flags &= ~(unsigned)STATUS_ALLOCATED;
    if (!base && has_layers) {
        status.flags |= STATUS_ZERO; /* nobody has it */
    }
    *ret_status = status;
    *ret_depth = depth ? depth - 1 : 0;
    return 0;
}

/* Filters above are as long as what they show. */
static void size_changed(BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        BlockNode *parent = edge->parent;
        if (parent && parent->follows_size && parent->file == edge && parent->size != node->size) {
            parent->size = node->size;
            if (!list_empty(&parent->bitmaps)) {
                block_bitmaps_resize(parent);
            }
            size_changed(parent);
        }
    }
}

Error *node_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    if (node->read_only) {
        return error_new("Image is read-only");
    }
    if (node->off) {
        return error_new("Image is inactive: make it active first");
    }
    if (size > INT64_MAX) {
        return error_new("Image size %" PRIu64 " is too large", size);
    }
    if (!node->driver->truncate_co) {
        return error_new("The format of this image cannot be resized");
    }
    NodeRequest req;
    uint64_t from = MIN(size, node->size);
    request_begin(&req, node, from, MAX(size, node->size) - from + 1, true, 1);
    Error *err = node->driver->truncate_co(node, size, prealloc);
    node->size = ALIGN_UP(node->size, (uint64_t)NODE_SECTOR);
    node->write_generation++;
    if (!list_empty(&node->bitmaps)) {
        block_bitmaps_resize(node);
    }
    size_changed(node);
    request_end(&req);
    return err;
}
