/* What a format tells of an image, as text that a person reads. */
#ifndef OSTRICH_BLOCK_INFO_H
#define OSTRICH_BLOCK_INFO_H

#include "block/node.h"

/* "Format specific information:" and a line a fact, or "" when there is none. Caller frees. */
char *block_specific_text(BlockNode *node);

#endif
