/*
 * Memory for translated code: one region, split in a hot part (what runs), a cold part (slow paths and
 * exits) and the thunks, all within reach of 32-bit displacements.
 */
#ifndef OSTRICH_DBT_RUN_CACHE_H
#define OSTRICH_DBT_RUN_CACHE_H

#include "base/error.h"
#include "dbt/back/x86_64/encode.h"

typedef struct CodeCache {
    uint8_t *run, *write; /* the region where it runs and where it is written; the same unless split */
    size_t size;
    size_t hot_start, hot, hot_end, cold, cold_end; /* offsets */
} CodeCache;

/* split: two mappings of one memory file, so that no page is writable and executable at once. */
Error *code_cache_init(CodeCache *cache, size_t size, bool split) MUST_USE;
void code_cache_fini(CodeCache *cache);
/* After the thunks were emitted at the region's start: the rest is for code. */
void code_cache_start(CodeCache *cache, size_t used);
void code_cache_reset(CodeCache *cache);
static inline Asm code_cache_asm(const CodeCache *cache, size_t offset)
{
    return (Asm){ .p = cache->write + offset, .run_delta = cache->run - cache->write };
}
static inline bool code_cache_has_room(const CodeCache *cache, size_t hot, size_t cold)
{
    return cache->hot_end - cache->hot >= hot && cache->cold_end - cache->cold >= cold;
}

#endif
