/* Filter "compress": everything that is written is stored compressed, in whole clusters of the image below. */
#include <errno.h>

#include "block/filter/filter.h"

/* The node that would compress. */
static const BlockNode *compressor(BlockNode *node)
{
    return node_skip_filters(filter_child(node));
}

static Error *compress_open_co(BlockNode *node, KeyValues *opts)
{
    const BlockNode *below = compressor(node);
    TRY(filter_open(node));
    if (!(below->driver->write_flags & REQ_COMPRESSED)) {
        return error_new("The format below the filter cannot store compressed data: %s",
                         below->driver->name);
    }
    if (below->limits.cluster_size) {
        node->limits.request_align = MAX(node->limits.request_align, below->limits.cluster_size);
    }
    return NULL;
}

static int compress_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                               size_t at, unsigned flags)
{
    BlockNode *child = filter_child(node);
    if (offset >= child->size) {
        return -EIO;
    }
    bytes = MIN(bytes, child->size - offset); /* the last cluster may be cut by the end */
    return filter_pwritev_co(node, offset, bytes, vec, at, flags | REQ_COMPRESSED);
}

BLOCK_DRIVER(compress, .name = "compress", .desc = "Filter: what is written is compressed", .filter = true,
             .open_co = compress_open_co, .preadv_co = filter_preadv_co,
             .pwritev_co = compress_pwritev_co, .write_zeroes_co = filter_write_zeroes_co,
             .discard_co = filter_discard_co, .status_co = filter_status_co,
             .truncate_co = filter_truncate_co, FILTER_FLAGS);
