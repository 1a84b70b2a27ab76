/* Filters' requests that go on to the child: see filter.h. */
#include "block/filter/filter.h"

Error *filter_open(BlockNode *node)
{
    BlockNode *child = filter_child(node);
    if (child->read_only && !node->read_only) {
        return error_new("Node '%s' is read-only", child->name);
    }
    node->size = child->size;
    node->limits = child->limits;
    node->extends = child->extends;
    node->follows_size = true;
    return NULL;
}

Error *filter_open_co(BlockNode *node, KeyValues *opts)
{
    return filter_open(node);
}

int filter_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return node_preadv_co(filter_child(node), offset, bytes, vec, at);
}

int filter_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                      unsigned flags)
{
    return node_pwritev_co(filter_child(node), offset, bytes, vec, at, flags);
}

int filter_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return node_write_zeroes_co(filter_child(node), offset, bytes, flags);
}

int filter_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return node_discard_co(filter_child(node), offset, bytes);
}

int filter_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    return node_status_co(filter_child(node), offset, bytes, ret_status);
}

Error *filter_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    TRY(node_truncate_co(filter_child(node), size, prealloc));
    node->size = filter_child(node)->size;
    return NULL;
}
