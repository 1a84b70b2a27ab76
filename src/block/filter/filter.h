/*
 * What filters have in common: requests that go on to the first child as they are, a size and limits
 * that are the child's.
 */
#ifndef OSTRICH_BLOCK_FILTER_FILTER_H
#define OSTRICH_BLOCK_FILTER_FILTER_H

#include "block/node.h"

static inline BlockNode *filter_child(const BlockNode *node)
{
    return node->file->node;
}

/* Of open_co: size and limits of the child; an error when the child cannot be written to and the filter shall. */
Error *filter_open(BlockNode *node) MUST_USE;
Error *filter_open_co(BlockNode *node, KeyValues *opts);
int filter_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at);
int filter_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                      unsigned flags);
int filter_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int filter_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes);
int filter_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status);
Error *filter_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc);
#define FILTER_FLAGS .write_flags = REQ_FUA | REQ_COMPRESSED | REQ_WRITE_UNCHANGED, .zero_flags = REQ_FUA
/* Everything that changes the child. */
#define FILTER_WRITES                                                                              \
    .pwritev_co = filter_pwritev_co, .write_zeroes_co = filter_write_zeroes_co,                    \
    .discard_co = filter_discard_co, .truncate_co = filter_truncate_co, FILTER_FLAGS

#endif
