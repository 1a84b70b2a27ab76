/* For x-blockdev-change: the children of a "quorum" node come and go. */
#ifndef OSTRICH_BLOCK_FILTER_QUORUM_H
#define OSTRICH_BLOCK_FILTER_QUORUM_H

#include "block/node.h"

bool quorum_is(const BlockNode *node);
Error *quorum_add_child_co(BlockNode *node, BlockNode *child) MUST_USE;
Error *quorum_remove_child_co(BlockNode *node, const char *name) MUST_USE; /* "children.1" */

#endif
