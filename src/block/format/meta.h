/*
 * A cache of an image's tables, for formats that map a disk in blocks. It holds pages of the file,
 * written back when the image is flushed or a page must make room.
 *
 * Invariant: before a page is written, everything that was written to the file before is on stable
 * storage. So a table never points at data that a crash could lose, and what a crash leaves
 * are blocks that nothing points at.
 */
#ifndef OSTRICH_BLOCK_FORMAT_META_H
#define OSTRICH_BLOCK_FORMAT_META_H

#include "block/node.h"

typedef struct MetaPage MetaPage;

typedef struct MetaCache {
    BlockNode *file;
    GHashTable *pages; /* by offset */
    List used;         /* least recently used first */
    unsigned count, dirty;
    CoMutex lock;
} MetaCache;

void meta_init(MetaCache *cache, BlockNode *file);
void meta_fini(MetaCache *cache); /* what is dirty is lost: flush first. Accepts a zeroed one */
/* 4 or 8 bytes at a multiple of their size; as they are in the file. */
int meta_get_co(MetaCache *cache, uint64_t offset, void *value, size_t size);
int meta_put_co(MetaCache *cache, uint64_t offset, const void *value, size_t size);
/* Writes back what is dirty, in order, without the barrier behind it. */
int meta_write_back_co(MetaCache *cache);
/* Write back and flush. */
int meta_flush_co(MetaCache *cache);
/* The file was changed past the cache. */
void meta_forget(MetaCache *cache, uint64_t offset, uint64_t bytes);

#endif
