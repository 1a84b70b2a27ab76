/*
 * Filter "preallocate", between a format and a file: when writes come to the end of the file, much
 * space is taken at once; what is left of it is given back when the node is closed or no longer
 * written to. The node is as long as the data, the file may be longer meanwhile.
 */
#include <errno.h>

#include "block/filter/filter.h"

typedef struct PreallocState {
    uint64_t align, size;
    uint64_t file_end; /* of what was taken; 0: nothing */
    CoMutex growing;
    bool failed; /* the file cannot do it: not tried again */
} PreallocState;

static Error *prealloc_open_co(BlockNode *node, KeyValues *opts)
{
    PreallocState *s = node->state;
    uint32_t unit = filter_child(node)->limits.request_align;
    TRY(block_take_size(opts, "prealloc-align", 1 * MiB, &s->align));
    TRY(block_take_size(opts, "prealloc-size", 128 * MiB, &s->size));
    TRY(filter_open(node));
    if (!s->align || s->align % 512) {
        return error_new("prealloc-align parameter of preallocate filter is not aligned to %u", 512u);
    }
    if (s->align % MAX(unit, 1)) {
        return error_new("prealloc-align parameter of preallocate filter is not aligned to underlying "
                         "node request alignment (%u)", unit);
    }
    if (s->align > INT64_MAX / 4 || s->size > INT64_MAX / 4) {
        return error_new("prealloc-align or prealloc-size is too large");
    }
    node->follows_size = false;
    co_mutex_init(&s->growing);
    return NULL;
}

/* The file is as long as the data again. */
static Error *give_back_co(BlockNode *node)
{
    PreallocState *s = node->state;
    if (s->file_end <= node->size) {
        s->file_end = 0;
        return NULL;
    }
    s->file_end = 0;
    return node_truncate_co(filter_child(node), node->size, PREALLOC_OFF);
}

static void prealloc_close_co(BlockNode *node)
{
    if (!filter_child(node)->read_only) {
        error_free(give_back_co(node)); /* a longer file is no harm */
    }
}

static Error *prealloc_reopen_co(BlockNode *node)
{
    return node->read_only ? give_back_co(node) : NULL;
}

/* Takes space before data is written up to `end`. That it fails is no harm: the write tells. */
static void make_room_co(BlockNode *node, uint64_t end)
{
    PreallocState *s = node->state;
    BlockNode *child = filter_child(node);
    if (end <= MAX(s->file_end, node->size) || s->failed || !node->extends || end > INT64_MAX / 4) {
        return;
    }
    co_mutex_lock(&s->growing);
    uint64_t wanted = (end + s->size + s->align - 1) / s->align * s->align;
    if (end > s->file_end && wanted > child->size) {
        Error *err = node_truncate_co(child, wanted, PREALLOC_FALLOC);
        s->failed = err != NULL;
        s->file_end = err ? s->file_end : wanted;
        error_free(err);
    }
    co_mutex_unlock(&s->growing);
}

static int prealloc_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                               size_t at, unsigned flags)
{
    make_room_co(node, offset + bytes);
    return filter_pwritev_co(node, offset, bytes, vec, at, flags);
}

static int prealloc_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    make_room_co(node, offset + bytes);
    return filter_write_zeroes_co(node, offset, bytes, flags);
}

static Error *prealloc_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    PreallocState *s = node->state;
    TRY(give_back_co(node)); /* so that what is behind the old end reads as zeroes, whoever asks */
    TRY(node_truncate_co(filter_child(node), size, prealloc));
    s->file_end = 0;
    node->size = size;
    return NULL;
}

static const BlockOption prealloc_options[] = {
    { "prealloc-align", OPT_SIZE, "What the length of the file is a multiple of (default: 1M)" },
    { "prealloc-size", OPT_SIZE, "How much is taken beyond what is needed (default: 128M)" },
    { 0 },
};

BLOCK_DRIVER(preallocate, .name = "preallocate", .desc = "Filter: a file grows in large steps",
             .filter = true, .state_size = sizeof(PreallocState), .options = prealloc_options,
             .open_co = prealloc_open_co, .close_co = prealloc_close_co,
             .reopen_co = prealloc_reopen_co, .preadv_co = filter_preadv_co,
             .pwritev_co = prealloc_pwritev_co, .write_zeroes_co = prealloc_write_zeroes_co,
             .discard_co = filter_discard_co, .status_co = filter_status_co,
             .truncate_co = prealloc_truncate_co, FILTER_FLAGS);
