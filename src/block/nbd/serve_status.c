/*
 * The NBD server's answers to block status: runs of equal state for every meta context that the
 * client wants, as pairs of 32 bits or, with extended headers, of 64.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/nbd/server_priv.h"

enum { MAX_EXTENTS = 8192, /* in a reply, for each context */
       MAX_QUESTIONS = 65536 /* to the node, for a reply */ };

typedef struct Extent {
    uint64_t bytes;
    uint32_t flags;
} Extent;

typedef struct Extents {
    Extent *list;
    size_t count, max;
    uint64_t bytes;   /* of all of them */
    uint64_t longest; /* of one, that the wire can hold */
} Extents;

/* 0: nowhere, 1: in the node itself, 2: in its backing node ... What lies behind the end of a
 * backing node is there, as zeroes. */
static uint32_t depth_at(const BlockNode *node, uint64_t offset, const BlockStatus *status,
                         unsigned depth)
{
    if (!(status->flags & STATUS_EOF)) {
        return status->flags & STATUS_ALLOCATED ? depth + 1 : 0;
    }
    for (depth = 1; node && offset < node->size; depth++) {
        node = node->backing ? node->backing->node : NULL;
    }
    return depth;
}

static uint32_t context_flags(const BlockNode *node, uint64_t offset, unsigned context,
                              const BlockStatus *status, unsigned depth)
{
    if (context == CONTEXT_DEPTH) {
        return depth_at(node, offset, status, depth);
    }
    return (status->flags & STATUS_DATA ? 0 : NBD_STATE_HOLE) |
           (status->flags & STATUS_ZERO ? NBD_STATE_ZERO : 0);
}

/* False when there is no room for it. */
static bool add_extent(Extents *x, uint64_t bytes, uint32_t flags)
{
    Extent *last = x->count ? &x->list[x->count - 1] : NULL;

    if (last && flags == last->flags && bytes <= x->longest - last->bytes) {
        last->bytes += bytes;
    } else if (x->count == x->max) {
        return false;
    } else {
        bytes = MIN(bytes, x->longest);
        x->list[x->count++] = (Extent) { bytes, flags };
    }
    x->bytes += bytes;
    return true;
}

static int collect_co(NbdRequest *r, unsigned context, Extents *x)
{
    BlockNode *node = r->client->export->export.node;

    for (unsigned n = 0; x->bytes < r->length && n < MAX_QUESTIONS; n++) {
        BlockStatus status;
        unsigned depth;
        uint64_t at = r->offset + x->bytes;
        int ret = node_status_above_co(node, NULL, at, r->length - x->bytes, &status, &depth);
        if (ret < 0) {
            return x->count ? 0 : ret;
        }
        if (!add_extent(x, status.bytes, context_flags(node, at, context, &status, depth))) {
            break;
        }
    }
    return 0;
}

/* Dirty and clean runs in turn. */
static int collect_bitmap(NbdRequest *r, const BlockBitmap *bitmap, Extents *x)
{
    while (x->bytes < r->length) {
        uint64_t at = r->offset + x->bytes, left = r->length - x->bytes, from, bytes;
        bool any = block_bitmap_next(bitmap, at, UINT64_MAX, &from, &bytes);
        bool dirty = any && from <= at;
        uint64_t run = dirty ? from + bytes - at : any ? from - at : left;
        if (!add_extent(x, MIN(MAX(run, 1), left), dirty)) {
            break;
        }
    }
    return 0;
}

/* --- the reply --- */

static int send_extents_co(NbdRequest *r, unsigned context, const Extents *x, bool last)
{
    bool extended = r->client->extended;
    size_t head = extended ? 8 : 4, size = extended ? 16 : 8;
    g_autofree uint8_t *data = g_malloc(head + size * x->count);

    st32_be(data, context);
    if (extended) {
        st32_be(data + 4, (uint32_t)x->count);
    }
    for (size_t i = 0; i < x->count; i++) {
        uint8_t *pair = data + head + size * i;
        if (extended) {
            st64_be(pair, x->list[i].bytes);
            st64_be(pair + 8, x->list[i].flags);
        } else {
            st32_be(pair, (uint32_t)x->list[i].bytes);
            st32_be(pair + 4, x->list[i].flags);
        }
    }
    uint16_t type = extended ? NBD_REPLY_BLOCK_STATUS_EXT : NBD_REPLY_BLOCK_STATUS;
    return nbd_chunk_co(r, type, last, data, head + size * x->count, NULL, 0);
}

/* 1: sent. */
static int context_co(NbdRequest *r, unsigned context, bool last)
{
    size_t max = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
    g_autofree Extent *list = g_new(Extent, max);
    uint32_t align = r->client->export->export.node->limits.request_align;
    Extents x = { .list = list,
                  .max = max,
                  .longest = r->client->extended ? UINT64_MAX : ALIGN_DOWN(UINT32_MAX, MAX(align, 512)) };
    int ret = context >= CONTEXT_BITMAPS
                  ? collect_bitmap(r, r->client->export->bitmaps[context - CONTEXT_BITMAPS], &x)
                  : collect_co(r, context, &x);
    if (ret < 0) {
        return nbd_error_chunk_co(r, ret);
    }
    ret = send_extents_co(r, context, &x, last);
    return ret < 0 ? ret : 1;
}

int nbd_status_co(NbdRequest *r)
{
    unsigned left = 0;

    for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
        left += r->contexts[k];
    }
    if (!left || !r->length) {
        return nbd_error_chunk_co(r, -EINVAL);
    }
    for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
        if (r->contexts[k]) {
            int ret = context_co(r, k, --left == 0);
            if (ret <= 0) {
                return ret; /* an error chunk ends the reply */
            }
        }
    }
    return 0;
}

void nbd_status_take_payload(NbdRequest *r, const uint8_t *payload)
{
    bool wanted[CONTEXT_COUNT] = { false };

    if (r->payload < 12 || r->payload % 4) {
        return;
    }
    for (size_t at = 8; at < r->payload; at += 4) {
        uint32_t id = ld32_be(payload + at);
        if (id >= CONTEXT_COUNT || !r->contexts[id] || wanted[id]) {
            return;
        }
        wanted[id] = true;
    }
    r->length = ld64_be(payload);
    memcpy(r->contexts, wanted, sizeof(wanted));
    r->error = 0;
}
