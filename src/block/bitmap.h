/*
 * Dirty bitmaps: which parts of a node were written to. A bitmap has a name, or none when it is a
 * job's own; a bit stands for `granularity` bytes. An enabled bitmap gets a bit set by every write,
 * zero and discard request that ends on its node. A persistent one is kept in the image when that
 * is closed.
 *
 * Everything here is for the graph's loop.
 */
#ifndef OSTRICH_BLOCK_BITMAP_H
#define OSTRICH_BLOCK_BITMAP_H

#include "block/node.h"

enum {
    BITMAP_MIN_GRANULARITY = 512,
    BITMAP_MAX_NAME = 1023,
};

typedef struct BlockBitmap {
    BlockNode *node; /* borrowed: a bitmap goes with its node */
    char *name;      /* NULL: anonymous */
    uint32_t granularity;
    uint64_t size; /* bytes covered */
    uint64_t *bits;
    uint64_t dirty; /* how many bits are set */
    bool enabled, persistent;
    bool busy;         /* a job works with it */
    bool stored;       /* the image has one of that name, which this one replaces */
    bool inconsistent; /* was in use when its image was not closed: good for removal only */
    bool read_only;    /* its image is, so it cannot follow writes */
    ListNode in_node;
} BlockBitmap;

/* What an operation on a bitmap tolerates. */
enum {
    BITMAP_ALLOW_BUSY = BIT(0),
    BITMAP_ALLOW_READ_ONLY = BIT(1),
    BITMAP_ALLOW_INCONSISTENT = BIT(2),
};

BlockBitmap *block_bitmap_find(const BlockNode *node, const char *name);
/* By name, usable for what `allow` does not list. */
Error *block_bitmap_get(const BlockNode *node, const char *name, unsigned allow,
                        BlockBitmap **ret_bitmap) MUST_USE;
Error *block_bitmap_check(const BlockBitmap *bitmap, unsigned allow) MUST_USE;
/* granularity 0: the node's cluster size, at least 4 KiB, else 64 KiB. name NULL: anonymous. */
Error *block_bitmap_new(BlockNode *node, const char *name, uint64_t granularity, bool persistent,
                        BlockBitmap **ret_bitmap) MUST_USE;
uint32_t block_bitmap_default_granularity(const BlockNode *node);
void block_bitmap_free(BlockBitmap *bitmap); /* accepts NULL */
void block_bitmaps_free(BlockNode *node);

uint64_t block_bitmap_count(const BlockBitmap *bitmap); /* dirty bytes */
uint64_t block_bitmap_bits(const BlockBitmap *bitmap);  /* length in bits */
bool block_bitmap_is_dirty(const BlockBitmap *bitmap, uint64_t offset);
void block_bitmap_set(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes);
/* Clears the bits that the range covers wholly or in part. */
void block_bitmap_reset(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes);
void block_bitmap_clear(BlockBitmap *bitmap);
/* The first dirty run at or behind `offset`; false: none. At most max bytes, in whole bits. */
bool block_bitmap_next(const BlockBitmap *bitmap, uint64_t offset, uint64_t max,
                       uint64_t *ret_offset, uint64_t *ret_bytes);
/* to |= from. Granularities may differ; sizes may not. */
Error *block_bitmap_merge(BlockBitmap *to, const BlockBitmap *from) MUST_USE;
/* A copy of the bits, to go back to. Caller frees. */
uint64_t *block_bitmap_save(const BlockBitmap *bitmap);
void block_bitmap_restore(BlockBitmap *bitmap, const uint64_t *bits);
/* After the bits were changed directly. */
void block_bitmap_recount(BlockBitmap *bitmap);

/* From the request path: the range was written to; the node has another size. */
void block_bitmaps_mark(BlockNode *node, uint64_t offset, uint64_t bytes);
void block_bitmaps_resize(BlockNode *node);

/* As QMP shows the bitmaps of a node; a list. */
Value *block_bitmaps_value(const BlockNode *node);
#endif
