/* For "snapshot-access": the moment that a "copy-before-write" node keeps. */
#ifndef OSTRICH_BLOCK_FILTER_COPY_BEFORE_WRITE_H
#define OSTRICH_BLOCK_FILTER_COPY_BEFORE_WRITE_H

#include "block/node.h"

bool cbw_is(const BlockNode *node);
int cbw_snapshot_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at);
int cbw_snapshot_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status);
/* Nobody will ask for the range any more: it need not be copied. */
int cbw_snapshot_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes);

#endif
