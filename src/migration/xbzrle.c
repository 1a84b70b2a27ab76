/* Deltas of pages; see xbzrle.h. */
#include "migration/xbzrle.h"

#include <string.h>

#include "core/mem/mem.h"

struct Xbzrle {
    uint64_t slots; /* a page has one where it may be */
    uint64_t *keys; /* 0: empty */
    uint8_t *pages;
    XbzrleStats stats;
};

Error *xbzrle_new(uint64_t cache_bytes, Xbzrle **ret_xbzrle)
{
    Xbzrle *xbzrle = g_new0(Xbzrle, 1);

    xbzrle->slots = cache_bytes / MEM_PAGE_SIZE;
    xbzrle->keys = g_try_new0(uint64_t, xbzrle->slots);
    xbzrle->pages = g_try_malloc0(cache_bytes);
    if (!xbzrle->keys || !xbzrle->pages) {
        xbzrle_free(xbzrle);
        return error_new("there is no memory for an XBZRLE cache of %" G_GUINT64_FORMAT " bytes", cache_bytes);
    }
    *ret_xbzrle = xbzrle;
    return NULL;
}

void xbzrle_free(Xbzrle *xbzrle)
{
    if (xbzrle) {
        g_free(xbzrle->keys);
        g_free(xbzrle->pages);
        g_free(xbzrle);
    }
}

uint64_t xbzrle_cache_bytes(const Xbzrle *xbzrle)
{
    return xbzrle->slots * MEM_PAGE_SIZE;
}

XbzrleStats *xbzrle_stats(Xbzrle *xbzrle)
{
    return &xbzrle->stats;
}

XbzrleResult xbzrle_page(Xbzrle *xbzrle, uint64_t key, const uint8_t *page, bool zero, uint8_t *delta, size_t *ret_length)
{
    uint64_t slot = key % xbzrle->slots;
    uint8_t *cached = xbzrle->pages + slot * MEM_PAGE_SIZE;
    bool known = xbzrle->keys[slot] == key + 1;
    int length = known && !zero ? xbzrle_encode(cached, page, delta) : -1;

    xbzrle->stats.considered++;
    if (length == 0) {
        return XBZRLE_SAME;
    }
    if (known || !zero) {
        xbzrle->keys[slot] = key + 1;
        memcpy(cached, page, MEM_PAGE_SIZE);
    }
    if (length > 0) {
        xbzrle->stats.pages++;
        xbzrle->stats.bytes += (uint64_t)length;
        *ret_length = (size_t)length;
        return XBZRLE_DELTA;
    }
    if (!zero) {
        xbzrle->stats.misses += !known;
        xbzrle->stats.overflow += known;
    }
    return XBZRLE_WHOLE;
}

/* --- the code --- */

static size_t same_run(const uint8_t *a, const uint8_t *b, size_t at)
{
    size_t start = at;
    while (at % 8 == 0 && at < MEM_PAGE_SIZE && !memcmp(a + at, b + at, 8)) {
        at += 8;
    }
    while (at < MEM_PAGE_SIZE && a[at] == b[at]) {
        at++;
        while (at % 8 == 0 && at < MEM_PAGE_SIZE && !memcmp(a + at, b + at, 8)) {
            at += 8;
        }
    }
    return at - start;
}

/* A few equal bytes in a row are not worth a pair of lengths. */
static size_t new_run(const uint8_t *a, const uint8_t *b, size_t at)
{
    size_t start = at;
    while (at < MEM_PAGE_SIZE && (a[at] != b[at] || (at + 1 < MEM_PAGE_SIZE && a[at + 1] != b[at + 1]))) {
        at++;
    }
    return at - start;
}

/* Lengths of parts of a page take two bytes at most. */
static size_t put_length(uint8_t *out, size_t length)
{
    out[0] = (uint8_t)(length & 0x7f);
    if (length < 0x80) {
        return 1;
    }
    out[0] |= 0x80;
    out[1] = (uint8_t)(length >> 7);
    return 2;
}

int xbzrle_encode(const uint8_t *old, const uint8_t *page, uint8_t *delta)
{
    size_t at = 0, used = 0;

    for (;;) {
        size_t same = same_run(old, page, at);
        if (at + same == MEM_PAGE_SIZE) {
            return (int)used;
        }
        size_t fresh = new_run(old, page, at + same);
        if (used + 4 + fresh >= MEM_PAGE_SIZE) {
            return -1;
        }
        used += put_length(delta + used, same);
        used += put_length(delta + used, fresh);
        memcpy(delta + used, page + at + same, fresh);
        used += fresh;
        at += same + fresh;
    }
}

static bool get_length(const uint8_t **at, const uint8_t *end, size_t *ret_length)
{
    if (*at == end) {
        return false;
    }
    *ret_length = **at & 0x7f;
    if (*(*at)++ & 0x80) {
        if (*at == end || (**at & 0x80)) {
            return false;
        }
        *ret_length |= (size_t)*(*at)++ << 7;
    }
    return true;
}

bool xbzrle_decode(uint8_t *page, const uint8_t *delta, size_t length)
{
    const uint8_t *end = delta + length;
    size_t at = 0, same, fresh;

    while (delta < end) {
        if (!get_length(&delta, end, &same) || !get_length(&delta, end, &fresh) || fresh == 0) {
            return false;
        }
        at += same;
        if (at > MEM_PAGE_SIZE || fresh > MEM_PAGE_SIZE - at || fresh > (size_t)(end - delta)) {
            return false;
        }
        memcpy(page + at, delta, fresh);
        delta += fresh;
        at += fresh;
    }
    return true;
}
