/* What a format tells of an image, as text that a person reads. */
#ifndef OSTRICH_BLOCK_INFO_H
#define OSTRICH_BLOCK_INFO_H

#include "block/node.h"

/* "Format specific information:" and a line a fact, or "" when there is none. Caller frees. */
char *block_specific_text(BlockNode *node);

/* What there is to say of one image, as JSON and as lines. Callers free. */
Value *block_image_value(BlockNode *node);
char *block_image_text(BlockNode *node);
/* The same with what lies below it: "children", "Child node '/file':". */
Value *block_tree_value(BlockNode *node);
char *block_tree_text(BlockNode *node);
/* The table of internal snapshots (BlockSnapshot *). */
char *block_snapshots_text(GPtrArray *snapshots);
Value *block_snapshot_value(const BlockSnapshot *snapshot);
/* "1.5 GiB" */
char *block_size_text(uint64_t bytes);
/* Relative to the image that names it; NULL: it names none. */
char *block_full_backing_name(const BlockNode *node);

#endif
