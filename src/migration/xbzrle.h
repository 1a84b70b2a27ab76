/*
 * XBZRLE: a page is sent as what changed since it was last sent, as long as both sides remember that. The sender has a cache of what it
 * sent; the receiver has it in RAM. A delta is pairs of runs
 *
 *     length of what is the same | length of what is new | its bytes
 *
 * with lengths as LEB128 numbers; a page's same end is left out.
 *
 * Threads: a cache belongs to whoever uses it.
 */
#ifndef OSTRICH_MIGRATION_XBZRLE_H
#define OSTRICH_MIGRATION_XBZRLE_H

#include "base/error.h"

typedef struct Xbzrle Xbzrle;

typedef struct XbzrleStats {
    uint64_t bytes, pages;     /* deltas that were sent */
    uint64_t misses, overflow; /* pages: not in the cache, or their delta would be no shorter */
    uint64_t considered;       /* pages */
} XbzrleStats;

/* cache_bytes: a power of two. Fails without memory. */
Error *xbzrle_new(uint64_t cache_bytes, Xbzrle **ret_xbzrle) MUST_USE;
void xbzrle_free(Xbzrle *xbzrle); /* accepts NULL */
uint64_t xbzrle_cache_bytes(const Xbzrle *xbzrle);
XbzrleStats *xbzrle_stats(Xbzrle *xbzrle);

typedef enum XbzrleResult {
    XBZRLE_WHOLE, /* must be sent as it is */
    XBZRLE_DELTA,
    XBZRLE_SAME, /* the other side has it already */
} XbzrleResult;
/* How the page is sent; it is as if that had been done. key tells pages apart. delta: room for a page. */
XbzrleResult xbzrle_page(Xbzrle *xbzrle, uint64_t key, const uint8_t *page, bool zero, uint8_t *delta, size_t *ret_length);

/* Its length; 0: nothing changed; -1: no shorter than a page. */
int xbzrle_encode(const uint8_t *old, const uint8_t *page, uint8_t *delta);
/* False: it is damaged, and the page is in an unknown state. */
bool xbzrle_decode(uint8_t *page, const uint8_t *delta, size_t length);

#endif
