/*
 * Reading and writing for formats that keep a disk in blocks of one size, each somewhere in the
 * file or nowhere. The format says where a block is, makes room for a new one, and records where
 * it went; the rest is the same for all.
 *
 * A new block is written before it is recorded. Requests for a block that is being added wait for
 * it.
 */
#ifndef OSTRICH_BLOCK_FORMAT_BLOCKMAP_H
#define OSTRICH_BLOCK_FORMAT_BLOCKMAP_H

#include "block/node.h"

typedef enum BlockPlaceKind { PLACE_NONE, PLACE_ZERO, PLACE_DATA, PLACE_PACKED } BlockPlaceKind;
typedef struct BlockPlace {
    BlockPlaceKind kind;
    uint64_t offset; /* in `file`, of data */
    BlockNode *file; /* NULL: the node's own */
} BlockPlace;

typedef struct BlockMap {
    uint64_t block_size;
    bool holes;  /* blocks may lie in the file without having been written */
    List adding; /* blocks that are being written for the first time */
    /* Where a block is. */
    int (*find_co)(BlockNode *node, uint64_t index, BlockPlace *ret_place);
    /* From a block that is nowhere or zero: how many are, at least, without looking at each. May be NULL.
     */
    int (*skip_co)(BlockNode *node, uint64_t index, uint64_t *ret_count);
    /* Room for a block: where its data go. NULL: the map is complete or the image cannot be
     * changed. */
    int (*alloc_co)(BlockNode *node, uint64_t index, BlockPlace *ret_place);
    /* Records it, after its data were written. */
    int (*link_co)(BlockNode *node, uint64_t index, const BlockPlace *place);
    /* Makes a whole block read as zeroes; NULL: zero bytes are written. */
    int (*zero_co)(BlockNode *node, uint64_t index);
    struct BlockCrypt *crypt; /* data (not packed ones) are encrypted by the guest's address; NULL: they are not */
    /* The contents of a packed block; NULL: there are none. */
    int (*unpack_co)(BlockNode *node, uint64_t index, const BlockPlace *place, uint8_t *data);
} BlockMap;

void blockmap_init(BlockMap *map, uint64_t block_size);
/* For a driver's methods. */
int blockmap_preadv_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                       const BlockVec *vec, size_t at);
int blockmap_pwritev_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                        const BlockVec *vec, size_t at);
int blockmap_write_zeroes_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                             unsigned flags);
int blockmap_status_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                       BlockStatus *ret_status);

/* What check finds out by looking at every block: overlaps, and blocks outside the file. A bit for
 * each block of the file is kept. first: where blocks may begin; step: what their offsets are
 * multiples of, from `first` on. */
Error *blockmap_check_co(BlockMap *map, BlockNode *node, uint64_t first, uint64_t step,
                         BlockCheck *check) MUST_USE;

#endif
