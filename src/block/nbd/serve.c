/*
 * The NBD server's transmission phase. One coroutine reads requests, with their data; each request
 * then runs in a coroutine of its own, at most MAX_IN_FLIGHT of them and MAX_BYTES of data a
 * client, so what a client can make the server hold is bounded. Replies are sent one at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/nbd/server_priv.h"

enum { MAX_IN_FLIGHT = 16, MAX_BYTES = 64 << 20, MAX_EXTENTS = 8192, BUFFER_ALIGN = 4096 };

typedef struct Request {
    NbdClient *client;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
    uint8_t *data; /* of reads and writes */
    int error;     /* found while reading it */
} Request;

/* --- replies --- */

static int send_co(Request *r, struct iovec *iov, unsigned count)
{
    CoMutex *sending = &r->client->sending;
    co_mutex_lock(sending);
    int ret = stream_writev_co(r->client->stream, iov, count);
    co_mutex_unlock(sending);
    return ret;
}

static int simple_reply_co(Request *r, int err, const void *data, size_t length)
{
    uint8_t head[16];
    struct iovec iov[2] = { { head, sizeof(head) }, { (void *)data, err < 0 ? 0 : length } };

    st32_be(head, NBD_SIMPLE_MAGIC);
    st32_be(head + 4, err < 0 ? nbd_error_to_wire(err) : 0);
    st64_be(head + 8, r->cookie);
    return send_co(r, iov, 2);
}

/* One chunk: `fixed` bytes and then data. */
static int chunk_co(Request *r, uint16_t type, bool done, const void *fixed, size_t fixed_length,
                    const void *data, size_t length)
{
    uint8_t head[20];
    struct iovec iov[3] = { { head, sizeof(head) },
                            { (void *)fixed, fixed_length },
                            { (void *)data, length } };

    st32_be(head, NBD_STRUCTURED_MAGIC);
    st16_be(head + 4, done ? NBD_REPLY_FLAG_DONE : 0);
    st16_be(head + 6, type);
    st64_be(head + 8, r->cookie);
    st32_be(head + 16, (uint32_t)(fixed_length + length));
    return send_co(r, iov, 3);
}

static int error_chunk_co(Request *r, int err)
{
    uint8_t fixed[6];
    const char *text = strerror(-err);
    st32_be(fixed, nbd_error_to_wire(err));
    st16_be(fixed + 4, (uint16_t)strlen(text));
    return chunk_co(r, NBD_REPLY_ERROR, true, fixed, sizeof(fixed), text, strlen(text));
}

/* Of commands whose success carries nothing. */
static int finish_co(Request *r, int err)
{
    if (r->client->structured && (r->type == NBD_CMD_READ || r->type == NBD_CMD_BLOCK_STATUS)) {
        return err < 0 ? error_chunk_co(r, err)
                       : chunk_co(r, NBD_REPLY_NONE, true, NULL, 0, NULL, 0);
    }
    return simple_reply_co(r, err, NULL, 0);
}

/* --- reading --- */

static int data_chunk_co(Request *r, uint64_t offset, const void *data, size_t length, bool done)
{
    uint8_t fixed[8];
    st64_be(fixed, offset);
    return chunk_co(r, NBD_REPLY_OFFSET_DATA, done, fixed, sizeof(fixed), data, length);
}

static int hole_chunk_co(Request *r, uint64_t offset, size_t length, bool done)
{
    uint8_t fixed[12];
    st64_be(fixed, offset);
    st32_be(fixed + 8, (uint32_t)length);
    return chunk_co(r, NBD_REPLY_OFFSET_HOLE, done, fixed, sizeof(fixed), NULL, 0);
}

/* What is known to be zeroes is not sent. */
static int read_sparse_co(Request *r)
{
    BlockNode *node = r->client->export->export.node;

    for (uint32_t at = 0; at < r->length;) {
        BlockStatus status;
        unsigned depth;
        uint64_t offset = r->offset + at;
        int ret = node_status_above_co(node, NULL, offset, r->length - at, &status, &depth);
        uint32_t part = ret < 0 ? r->length - at : (uint32_t)status.bytes;
        bool last = at + part == r->length, zero = ret >= 0 && (status.flags & STATUS_ZERO);
        if (!zero) {
            ret = node_pread_co(node, offset, part, r->data + at);
            if (ret < 0) {
                return error_chunk_co(r, ret);
            }
        }
        ret = zero ? hole_chunk_co(r, offset, part, last)
                   : data_chunk_co(r, offset, r->data + at, part, last);
        if (ret < 0) {
            return ret;
        }
        at += part;
    }
    return 0;
}

static int read_co(Request *r)
{
    BlockNode *node = r->client->export->export.node;
    bool structured = r->client->structured;

    if (r->flags & NBD_CMD_FLAG_FUA) {
        int ret = node_flush_co(node);
        if (ret < 0) {
            return finish_co(r, ret);
        }
    }
    if (structured && r->length && !(r->flags & NBD_CMD_FLAG_DF)) {
        return read_sparse_co(r);
    }
    int ret = node_pread_co(node, r->offset, r->length, r->data);
    if (!structured) {
        return simple_reply_co(r, ret, r->data, r->length);
    }
    return ret < 0 || !r->length ? finish_co(r, ret)
                                 : data_chunk_co(r, r->offset, r->data, r->length, true);
}

/* --- block status --- */

typedef struct Extents {
    uint8_t *data; /* context id, then pairs */
    size_t count;
    uint64_t bytes;
    uint32_t last_flags;
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
static bool add_extent(Extents *x, uint32_t length, uint32_t flags, size_t max)
{
    uint8_t *pair = x->data + 4 + 8 * x->count;
    if (x->count && flags == x->last_flags && ld32_be(pair - 8) + (uint64_t)length <= UINT32_MAX) {
        st32_be(pair - 8, ld32_be(pair - 8) + length);
    } else if (x->count == max) {
        return false;
    } else {
        st32_be(pair, length);
        st32_be(pair + 4, flags);
        x->count++;
    }
    x->last_flags = flags;
    x->bytes += length;
    return true;
}

static int collect_co(Request *r, unsigned context, size_t max, Extents *x)
{
    BlockNode *node = r->client->export->export.node;
    while (x->bytes < r->length) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(node, NULL, r->offset + x->bytes, r->length - x->bytes,
                                       &status, &depth);
        if (ret < 0) {
            return x->count ? 0 : ret;
        }
        if (!add_extent(x, (uint32_t)status.bytes,
                        context_flags(node, r->offset + x->bytes, context, &status, depth), max)) {
            break;
        }
    }
    return 0;
}

/* Dirty and clean runs in turn. */
static int collect_bitmap(Request *r, const BlockBitmap *bitmap, size_t max, Extents *x)
{
    while (x->bytes < r->length) {
        uint64_t at = r->offset + x->bytes, left = r->length - x->bytes, from, bytes;
        bool any = block_bitmap_next(bitmap, at, UINT64_MAX, &from, &bytes);
        bool dirty = any && from <= at;
        uint64_t run = dirty ? from + bytes - at : any ? from - at : left;
        if (!add_extent(x, (uint32_t)MIN(MAX(run, 1), left), dirty, max)) {
            break;
        }
    }
    return 0;
}

static int context_co(Request *r, unsigned context, bool last)
{
    size_t max = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
    g_autofree uint8_t *data = g_malloc(4 + 8 * max);
    Extents x = { .data = data };
    int ret =
        context >= CONTEXT_BITMAPS
            ? collect_bitmap(r, r->client->export->bitmaps[context - CONTEXT_BITMAPS], max, &x)
            : collect_co(r, context, max, &x);

    if (ret < 0) {
        return error_chunk_co(r, ret);
    }
    st32_be(data, context);
    ret = chunk_co(r, NBD_REPLY_BLOCK_STATUS, last, data, 4 + 8 * x.count, NULL, 0);
    return ret < 0 ? ret : 1;
}

static int status_co(Request *r)
{
    const bool *wanted = r->client->contexts;
    unsigned left = 0;

    for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
        left += wanted[k];
    }
    if (!left || !r->length) {
        return finish_co(r, -EINVAL);
    }
    for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
        if (wanted[k]) {
            int ret = context_co(r, k, --left == 0);
            if (ret <= 0) {
                return ret; /* an error chunk ends the reply */
            }
        }
    }
    return 0;
}

/* --- writing --- */

static int zeroes_co(Request *r, BlockNode *node, unsigned fua)
{
    unsigned flags = fua | (r->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : REQ_MAY_UNMAP) |
                     (r->flags & NBD_CMD_FLAG_FAST_ZERO ? REQ_NO_FALLBACK : 0);
    return node_write_zeroes_co(node, r->offset, r->length, flags);
}

static int change_co(Request *r)
{
    const Export *e = &r->client->export->export;
    BlockNode *node = e->node;
    unsigned fua = r->flags & NBD_CMD_FLAG_FUA || e->writethrough ? REQ_FUA : 0;
    int ret;

    switch (r->type) {
    case NBD_CMD_WRITE:
        return node_pwrite_co(node, r->offset, r->length, r->data, fua);
    case NBD_CMD_WRITE_ZEROES:
        return zeroes_co(r, node, fua);
    default:
        ret = node_discard_co(node, r->offset, r->length);
        ret = ret == -ENOTSUP ? 0 : ret; /* a hint */
        return ret == 0 && fua ? node_flush_co(node) : ret;
    }
}

static int run_co(Request *r)
{
    if (r->error) {
        return finish_co(r, r->error);
    }
    switch (r->type) {
    case NBD_CMD_READ:
        return read_co(r);
    case NBD_CMD_BLOCK_STATUS:
        return status_co(r);
    case NBD_CMD_FLUSH:
        return finish_co(r, node_flush_co(r->client->export->export.node));
    case NBD_CMD_CACHE:
        return finish_co(r, 0); /* a hint; the host's cache has what was read before */
    default:
        return finish_co(r, change_co(r));
    }
}

/* --- requests --- */

static void request_free(Request *r)
{
    free(r->data);
    g_free(r);
}

static void request_co(void *opaque)
{
    Request *r = opaque;
    NbdClient *c = r->client;

    if (run_co(r) < 0) { /* the framing is lost, or the client gone */
        stream_shutdown(c->stream);
    }
    c->in_flight--;
    c->bytes_in_flight -= r->data ? r->length : 0;
    request_free(r);
    co_queue_wake_all(&c->slots);
}

static bool carries_data(uint16_t type)
{
    return type == NBD_CMD_READ || type == NBD_CMD_WRITE;
}

static bool changes(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES || type == NBD_CMD_TRIM;
}

/* Whether it may be done at all: 0 or -errno for the client. */
static int check_request(const Request *r)
{
    static const uint16_t allowed[] = {
        [NBD_CMD_READ] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF,
        [NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_FLUSH] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_CACHE] = NBD_CMD_FLAG_FUA,
        [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
        [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE,
    };
    const NbdExport *e = r->client->export;
    uint64_t size = nbd_export_size(e);

    if (r->type >= ARRAY_SIZE(allowed) || (r->flags & ~allowed[r->type]) ||
        ((r->flags & NBD_CMD_FLAG_DF) && !r->client->structured)) {
        return -EINVAL;
    }
    if (changes(r->type) && !e->export.writable) {
        return -EROFS;
    }
    if (carries_data(r->type) && r->length > NBD_MAX_BUFFER) {
        return -EINVAL;
    }
    if (r->type != NBD_CMD_FLUSH && (r->offset > size || r->length > size - r->offset)) {
        return changes(r->type) ? -ENOSPC : -EINVAL;
    }
    return 0;
}

static int wait_for_room_co(NbdClient *c, const Request *r)
{
    size_t bytes = carries_data(r->type) && !r->error ? r->length : 0;
    while (c->in_flight >= MAX_IN_FLIGHT ||
           (c->in_flight && c->bytes_in_flight + bytes > MAX_BYTES)) {
        co_queue_wait(&c->slots);
    }
    return 0;
}

/* The data of a write that cannot be done: read to stay in step. */
static int skip_data_co(NbdClient *c, uint32_t length)
{
    g_autofree uint8_t *scratch = g_malloc(64 * KiB);
    while (length) {
        uint32_t part = MIN(length, 64 * KiB);
        int ret = stream_read_co(c->stream, scratch, part);
        if (ret < 0) {
            return ret;
        }
        length -= part;
    }
    return 0;
}

static int take_data_co(NbdClient *c, Request *r)
{
    if (r->type == NBD_CMD_WRITE && r->error) {
        return r->length > NBD_MAX_BUFFER ? -EPROTO : skip_data_co(c, r->length);
    }
    if (!carries_data(r->type) || r->error || !r->length) {
        return 0;
    }
    void *data;
    if (posix_memalign(&data, BUFFER_ALIGN, r->length)) {
        r->error = -ENOMEM;
        return r->type == NBD_CMD_WRITE ? skip_data_co(c, r->length) : 0;
    }
    r->data = data;
    return r->type == NBD_CMD_WRITE ? stream_read_co(c->stream, data, r->length) : 0;
}

static int read_request_co(NbdClient *c, Request *r)
{
    uint8_t head[NBD_REQUEST_SIZE];
    int ret = stream_read_co(c->stream, head, sizeof(head));

    if (ret < 0) {
        return ret;
    }
    if (ld32_be(head) != NBD_REQUEST_MAGIC) {
        return -EPROTO;
    }
    r->flags = ld16_be(head + 4);
    r->type = ld16_be(head + 6);
    r->cookie = ld64_be(head + 8);
    r->offset = ld64_be(head + 16);
    r->length = ld32_be(head + 24);
    if (r->type == NBD_CMD_DISC) {
        return -ECONNRESET;
    }
    r->error = check_request(r);
    wait_for_room_co(c, r);
    return take_data_co(c, r);
}

void nbd_serve_co(NbdClient *c)
{
    for (;;) {
        Request *r = g_new0(Request, 1);
        r->client = c;
        if (read_request_co(c, r) < 0) {
            request_free(r);
            break;
        }
        c->in_flight++;
        c->bytes_in_flight += r->data ? r->length : 0;
        co_start(block_graph_loop(c->server->graph), request_co, r);
    }
    while (c->in_flight) {
        co_queue_wait(&c->slots);
    }
}
