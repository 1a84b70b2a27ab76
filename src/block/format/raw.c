/*
 * Driver "raw": the bytes as they are, or the window [offset, offset + size) of them.
 *
 * When the format was guessed, the guest must not be able to turn the image into another format,
 * which a later guess would believe: writes that put a known signature into the first block are
 * refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/node_priv.h"

enum { GUARDED = 512 };

typedef struct RawState {
    uint64_t offset, window; /* window: UINT64_MAX when it goes to the end */
} RawState;

static int raw_probe(const uint8_t *data, size_t length, const char *filename)
{
    return 1;
}

static Error *raw_set_size(BlockNode *node)
{
    RawState *s = node->state;
    uint64_t whole = node->file->node->size;

    if (s->offset > whole || (s->window != UINT64_MAX && s->window > whole - s->offset)) {
        return error_new(
            "The sum of offset (%" PRIu64 ") and size (%" PRIu64
            ") has to be smaller or equal to the actual size of the containing file (%" PRIu64 ")",
            s->offset, s->window == UINT64_MAX ? 0 : s->window, whole);
    }
    node->size = s->window == UINT64_MAX ? whole - s->offset : s->window;
    return NULL;
}

/* The disk is as long as its storage, or has its place in it, which nobody else may make smaller. */
static void raw_bind_size(BlockNode *node)
{
    const RawState *s = node->state;

    node->follows_size = s->window == UINT64_MAX && !s->offset;
    node->extends = node->follows_size && node->file->node->extends;
    node->ends_as_full = s->window != UINT64_MAX;
    node->file->not_shared = node->follows_size ? 0 : CLAIM_RESIZE;
}

static Error *raw_open_co(BlockNode *node, KeyValues *opts)
{
    RawState *s = node->state;
    BlockNode *file = node->file->node;

    TRY(block_take_size(opts, "offset", 0, &s->offset));
    TRY(block_take_size(opts, "size", UINT64_MAX, &s->window));
    TRY(raw_set_size(node));
    node->limits = file->limits;
    node->limits.cluster_size = 0;
    raw_bind_size(node);
    if (!IS_ALIGNED(s->offset, (uint64_t)MAX(file->limits.request_align, 1))) {
        return error_new("offset %" PRIu64 " is not a multiple of the storage's block size %u",
                         s->offset, file->limits.request_align);
    }
    return NULL;
}

static Error *raw_change_options_co(BlockNode *node, KeyValues *opts)
{
    RawState *s = node->state, old = *s;
    Error *err = block_take_size(opts, "offset", 0, &s->offset);
    if (!err) {
        err = block_take_size(opts, "size", UINT64_MAX, &s->window);
    }
    if (!err) {
        err = raw_set_size(node);
    }
    if (!err && !IS_ALIGNED(s->offset, (uint64_t)MAX(node->file->node->limits.request_align, 1))) {
        err = error_new("offset %" PRIu64 " is not a multiple of the storage's block size", s->offset);
    }
    if (err) {
        *s = old;
        error_free(raw_set_size(node));
        return err;
    }
    raw_bind_size(node);
    return NULL;
}

static bool is_guarded(const BlockNode *node, uint64_t offset)
{
    return node->probed && offset < GUARDED;
}

/* Whether the first block would be taken for something else after the write. */
static int check_guard_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at)
{
    RawState *s = node->state;
    uint8_t block[GUARDED];
    int ret = node_pread_co(node->file->node, s->offset, GUARDED, block);

    if (ret < 0) {
        return ret;
    }
    block_vec_to_buffer(vec, at, block + offset, (size_t)MIN(bytes, GUARDED - offset));
    return block_probe(block, GUARDED, "") == node->driver ? 0 : -EPERM;
}

static int raw_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    RawState *s = node->state;
    node_debug_event_co(node->file->node, BLOCK_EVENT_READ_AIO);
    return node_preadv_co(node->file->node, s->offset + offset, bytes, vec, at);
}

static int raw_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    RawState *s = node->state;
    if (is_guarded(node, offset)) {
        int ret = check_guard_co(node, offset, bytes, vec, at);
        if (ret < 0) {
            return ret;
        }
    }
    node_debug_event_co(node->file->node, BLOCK_EVENT_WRITE_AIO);
    return node_pwritev_co(node->file->node, s->offset + offset, bytes, vec, at, flags);
}

static int raw_copy_range_co(BlockNode *node, uint64_t offset, BlockNode *from, uint64_t from_offset, uint64_t bytes)
{
    const RawState *s = node->state;
    return node_copy_range_co(node->file->node, s->offset + offset, from, from_offset, bytes);
}

static int raw_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    RawState *s = node->state;
    return node_write_zeroes_co(node->file->node, s->offset + offset, bytes, flags);
}

static int raw_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    RawState *s = node->state;
    return node_discard_co(node->file->node, s->offset + offset, bytes);
}

static int raw_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    RawState *s = node->state;
    *ret_status = (BlockStatus) {
        .flags = STATUS_DATA | STATUS_OFFSET | STATUS_RAW | STATUS_ALLOCATED,
        .bytes = bytes,
        .map = s->offset + offset,
        .file = node->file->node,
    };
    return 0;
}

static Error *raw_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    RawState *s = node->state;
    if (s->window != UINT64_MAX) {
        return error_new("The 'size' option fixes the size of this raw disk: it cannot be resized");
    }
    if (size > INT64_MAX - s->offset) {
        return error_new("Offset and size together are more than a disk can have");
    }
    TRY(node_truncate_co(node->file->node, s->offset + size, prealloc));
    return raw_set_size(node);
}

static Error *raw_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                            KeyValues *opts)
{
    return NULL; /* the file is the image; its driver took the options */
}

static Error *raw_measure(KeyValues *opts, uint64_t size, uint64_t data_bytes, BlockMeasure *ret)
{
    *ret = (BlockMeasure) { .required = size, .fully_allocated = size };
    return NULL;
}

static const BlockOption raw_options[] = {
    { "offset", OPT_SIZE, "Where in the file the disk begins (default: 0)" },
    { "size", OPT_SIZE, "Size of the disk (default: to the end of the file)" },
    { 0 },
};
static const BlockOption raw_create_options[] = {
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};

BLOCK_DRIVER(raw, .name = "raw", .desc = "Raw image", .deciding = (const char *const[]) { "offset", "size", NULL }, .state_size = sizeof(RawState),
             .filter = true, .options = raw_options, .create_options = raw_create_options,
             .probe = raw_probe, .open_co = raw_open_co, .change_options_co = raw_change_options_co,
             .create_co = raw_create_co,
             .preadv_co = raw_preadv_co, .pwritev_co = raw_pwritev_co,
             .copy_range_co = raw_copy_range_co, .write_zeroes_co = raw_write_zeroes_co, .discard_co = raw_discard_co,
             .status_co = raw_status_co, .truncate_co = raw_truncate_co, .measure = raw_measure,
             .write_flags = REQ_FUA, .zero_flags = REQ_FUA);
