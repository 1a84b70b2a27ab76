/*
 * Filter "copy-on-read": what is read from a backing image becomes the image's own, so that it is
 * fetched once. Where the image cannot be written to, the filter only passes reads on.
 */
#include <errno.h>

#include "block/node.h"

static BlockNode *child_of(BlockNode *node)
{
    return node->file->node;
}

static Error *cor_open_co(BlockNode *node, KeyValues *opts)
{
    BlockNode *child = child_of(node);
    if (child->read_only && !node->read_only) {
        return error_new("Node '%s' is read-only", child->name);
    }
    node->size = child->size;
    node->limits = child->limits;
    return NULL;
}

static int cor_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    BlockNode *child = child_of(node);
    int ret = child->backing && !child->read_only ? node_populate_co(child, offset, bytes) : 0;
    return ret < 0 ? ret : node_preadv_co(child, offset, bytes, vec, at);
}

static int cor_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    return node_pwritev_co(child_of(node), offset, bytes, vec, at, flags);
}

static int cor_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return node_write_zeroes_co(child_of(node), offset, bytes, flags);
}

static int cor_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return node_discard_co(child_of(node), offset, bytes);
}

static int cor_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    unsigned depth;
    int ret = node_status_above_co(child_of(node), NULL, offset, bytes, ret_status, &depth);
    ret_status->flags |= STATUS_ALLOCATED;
    return ret;
}

static Error *cor_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    TRY(node_truncate_co(child_of(node), size, prealloc));
    node->size = child_of(node)->size;
    return NULL;
}

BLOCK_DRIVER(copy_on_read, .name = "copy-on-read",
             .desc = "Filter: data of backing images is kept once it was read", .filter = true,
             .open_co = cor_open_co, .preadv_co = cor_preadv_co, .pwritev_co = cor_pwritev_co,
             .write_zeroes_co = cor_write_zeroes_co, .discard_co = cor_discard_co,
             .status_co = cor_status_co, .truncate_co = cor_truncate_co,
             .write_flags = REQ_FUA | REQ_COMPRESSED, .zero_flags = REQ_FUA);
