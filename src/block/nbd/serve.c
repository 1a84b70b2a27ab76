/*
 * The NBD server's transmission phase. One coroutine reads requests, with their data; each request
 * then runs in a coroutine of its own, at most MAX_IN_FLIGHT of them and MAX_BYTES of data a
 * client, so what a client can make the server hold is bounded. Replies are sent one at a time.
 * With extended headers lengths have 64 bits, and every reply is made of chunks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/nbd/server_priv.h"

enum { MAX_IN_FLIGHT = 16, MAX_BYTES = 64 << 20, BUFFER_ALIGN = 4096 };
/* A buffer of such a length is kept for the next request: memory that is mapped anew each time costs as much as copying. */
enum { SPARE_MIN = 64 * KiB, SPARE_MAX = 512 * KiB };

/* --- replies --- */

static int send_co(NbdRequest *r, struct iovec *iov, unsigned count)
{
    CoMutex *sending = &r->client->sending;
    co_mutex_lock(sending);
    int ret = stream_writev_co(r->client->stream, iov, count);
    co_mutex_unlock(sending);
    return ret;
}

static int simple_reply_co(NbdRequest *r, int err, const void *data, size_t length)
{
    uint8_t head[16];
    struct iovec iov[2] = { { head, sizeof(head) }, { (void *)data, err < 0 ? 0 : length } };

    st32_be(head, NBD_SIMPLE_MAGIC);
    st32_be(head + 4, err < 0 ? nbd_error_to_wire(err) : 0);
    st64_be(head + 8, r->cookie);
    return send_co(r, iov, 2);
}

int nbd_chunk_co(NbdRequest *r, uint16_t type, bool done, const void *fixed, size_t fixed_length,
                 const void *data, size_t length)
{
    bool extended = r->client->extended;
    uint8_t head[32];
    struct iovec iov[3] = { { head, extended ? 32 : 20 },
                            { (void *)fixed, fixed_length },
                            { (void *)data, length } };

    st32_be(head, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_MAGIC);
    st16_be(head + 4, done ? NBD_REPLY_FLAG_DONE : 0);
    st16_be(head + 6, type);
    st64_be(head + 8, r->cookie);
    if (extended) {
        st64_be(head + 16, r->offset);
        st64_be(head + 24, fixed_length + length);
    } else {
        st32_be(head + 16, (uint32_t)(fixed_length + length));
    }
    return send_co(r, iov, 3);
}

int nbd_error_chunk_co(NbdRequest *r, int err)
{
    uint8_t fixed[6];
    const char *text = strerror(-err);
    st32_be(fixed, nbd_error_to_wire(err));
    st16_be(fixed + 4, (uint16_t)strlen(text));
    return nbd_chunk_co(r, NBD_REPLY_ERROR, true, fixed, sizeof(fixed), text, strlen(text));
}

/* Of commands whose success carries nothing. */
static int finish_co(NbdRequest *r, int err)
{
    const NbdClient *c = r->client;
    if (c->extended ||
        (c->structured && (r->type == NBD_CMD_READ || r->type == NBD_CMD_BLOCK_STATUS))) {
        return err < 0 ? nbd_error_chunk_co(r, err)
                       : nbd_chunk_co(r, NBD_REPLY_NONE, true, NULL, 0, NULL, 0);
    }
    return simple_reply_co(r, err, NULL, 0);
}

/* --- reading --- */

static int data_chunk_co(NbdRequest *r, uint64_t offset, const void *data, size_t length, bool done)
{
    uint8_t fixed[8];
    st64_be(fixed, offset);
    return nbd_chunk_co(r, NBD_REPLY_OFFSET_DATA, done, fixed, sizeof(fixed), data, length);
}

static int hole_chunk_co(NbdRequest *r, uint64_t offset, size_t length, bool done)
{
    uint8_t fixed[12];
    st64_be(fixed, offset);
    st32_be(fixed + 8, (uint32_t)length);
    return nbd_chunk_co(r, NBD_REPLY_OFFSET_HOLE, done, fixed, sizeof(fixed), NULL, 0);
}

/* What is known to be zeroes is not sent. */
static int read_sparse_co(NbdRequest *r)
{
    BlockNode *node = r->client->export->export.node;

    for (uint64_t at = 0; at < r->length;) {
        BlockStatus status;
        unsigned depth;
        uint64_t offset = r->offset + at;
        int ret = node_status_above_co(node, NULL, offset, r->length - at, &status, &depth);
        uint64_t part = ret < 0 ? r->length - at : status.bytes;
        bool last = at + part == r->length, zero = ret >= 0 && (status.flags & STATUS_ZERO);
        if (!zero) {
            ret = node_pread_co(node, offset, part, r->data + at);
            if (ret < 0) {
                return nbd_error_chunk_co(r, ret);
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

static int read_co(NbdRequest *r)
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

/* --- writing --- */

static int zeroes_co(NbdRequest *r, BlockNode *node, unsigned fua)
{
    unsigned flags = fua | (r->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : REQ_MAY_UNMAP) |
                     (r->flags & NBD_CMD_FLAG_FAST_ZERO ? REQ_NO_FALLBACK : 0);
    return node_write_zeroes_co(node, r->offset, r->length, flags);
}

static int change_co(NbdRequest *r)
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

static int run_co(NbdRequest *r)
{
    if (r->error) {
        return finish_co(r, r->error);
    }
    switch (r->type) {
    case NBD_CMD_READ:
        return read_co(r);
    case NBD_CMD_BLOCK_STATUS:
        return r->client->structured ? nbd_status_co(r) : finish_co(r, -EINVAL);
    case NBD_CMD_FLUSH:
        return finish_co(r, node_flush_co(r->client->export->export.node));
    case NBD_CMD_CACHE:
        return finish_co(r, 0); /* a hint; the host's cache has what was read before */
    default:
        return finish_co(r, change_co(r));
    }
}

/* --- requests --- */

static bool is_spare_size(uint64_t length)
{
    return length >= SPARE_MIN && length <= SPARE_MAX;
}

/* NULL: no memory. */
static uint8_t *buffer_new(NbdClient *c, uint64_t length)
{
    void *data;

    if (is_spare_size(length) && c->spares) {
        return c->spare[--c->spares];
    }
    return posix_memalign(&data, BUFFER_ALIGN, is_spare_size(length) ? SPARE_MAX : (size_t)length) ? NULL : data;
}

static void buffer_free(NbdClient *c, uint8_t *data, uint64_t length)
{
    if (data && is_spare_size(length) && c->spares < G_N_ELEMENTS(c->spare)) {
        c->spare[c->spares++] = data;
    } else {
        free(data);
    }
}

static void request_free(NbdRequest *r)
{
    buffer_free(r->client, r->data, r->length);
    g_free(r);
}

static void request_co(void *opaque)
{
    NbdRequest *r = opaque;
    NbdClient *c = r->client;

    if (run_co(r) < 0) { /* the framing is lost, or the client gone */
        stream_shutdown(c->stream);
    }
    c->in_flight--;
    c->bytes_in_flight -= r->data ? (size_t)r->length : 0;
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
static int check_request(const NbdRequest *r)
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

static void wait_for_room_co(NbdClient *c, const NbdRequest *r)
{
    uint64_t bytes = carries_data(r->type) && !r->error ? r->length : 0;
    while (c->in_flight >= MAX_IN_FLIGHT ||
           (c->in_flight && c->bytes_in_flight + bytes > MAX_BYTES)) {
        co_queue_wait(&c->slots);
    }
}

/* A payload that nobody wants: read to stay in step. */
static int skip_payload_co(NbdRequest *r)
{
    g_autofree uint8_t *scratch = g_malloc(64 * KiB);
    while (r->payload) {
        uint64_t part = MIN(r->payload, 64 * KiB);
        int ret = stream_read_co(r->client->stream, scratch, (size_t)part);
        if (ret < 0) {
            return ret;
        }
        r->payload -= part;
    }
    return 0;
}

static int take_data_co(NbdRequest *r)
{
    if (r->error || !carries_data(r->type) || !r->length) {
        return skip_payload_co(r);
    }
    r->data = buffer_new(r->client, r->length);
    if (!r->data) {
        r->error = -ENOMEM;
        return skip_payload_co(r);
    }
    return r->payload ? stream_read_co(r->client->stream, r->data, (size_t)r->payload) : 0;
}

/* With extended headers the length is the payload's when a flag says so; a write must have it. */
static int sort_out_payload_co(NbdRequest *r)
{
    const NbdClient *c = r->client;
    bool flagged = (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN) != 0;

    memcpy(r->contexts, c->contexts, sizeof(r->contexts));
    if (!c->extended) {
        r->payload = r->type == NBD_CMD_WRITE ? r->length : 0;
        return 0;
    }
    if (!flagged) {
        r->error = r->type == NBD_CMD_WRITE ? -EINVAL : 0;
        return 0;
    }
    r->payload = r->length;
    if (r->payload > NBD_MAX_BUFFER) {
        return -EPROTO;
    }
    if (r->type == NBD_CMD_WRITE) {
        r->flags &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
        return 0;
    }
    r->error = -EINVAL;
    if (r->type != NBD_CMD_BLOCK_STATUS || r->payload > NBD_STATUS_PAYLOAD_MAX) {
        return 0;
    }
    uint8_t payload[NBD_STATUS_PAYLOAD_MAX];
    int ret = stream_read_co(c->stream, payload, (size_t)r->payload);
    if (ret == 0) {
        nbd_status_take_payload(r, payload);
        r->payload = 0;
        r->flags &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
    }
    return ret;
}

static int read_header_co(NbdRequest *r)
{
    const NbdClient *c = r->client;
    uint8_t head[NBD_EXTENDED_SIZE];
    int ret = stream_read_co(c->stream, head, c->extended ? NBD_EXTENDED_SIZE : NBD_REQUEST_SIZE);

    if (ret < 0) {
        return ret;
    }
    if (ld32_be(head) != (c->extended ? NBD_EXTENDED_MAGIC : NBD_REQUEST_MAGIC)) {
        return -EPROTO;
    }
    r->flags = ld16_be(head + 4);
    r->type = ld16_be(head + 6);
    r->cookie = ld64_be(head + 8);
    r->offset = ld64_be(head + 16);
    r->length = c->extended ? ld64_be(head + 24) : ld32_be(head + 24);
    return r->type == NBD_CMD_DISC ? -ECONNRESET : 0;
}

static int read_request_co(NbdClient *c, NbdRequest *r)
{
    int ret = read_header_co(r);
    ret = ret < 0 ? ret : sort_out_payload_co(r);
    if (ret < 0) {
        return ret;
    }
    r->error = r->error ? r->error : check_request(r);
    if (r->error && r->payload > NBD_MAX_BUFFER) {
        return -EPROTO;
    }
    wait_for_room_co(c, r);
    return take_data_co(r);
}

void nbd_serve_co(NbdClient *c)
{
    for (;;) {
        NbdRequest *r = g_new0(NbdRequest, 1);
        r->client = c;
        if (read_request_co(c, r) < 0) {
            request_free(r);
            break;
        }
        c->in_flight++;
        c->bytes_in_flight += r->data ? (size_t)r->length : 0;
        co_start(co_loop(), request_co, r);
    }
    while (c->in_flight) {
        co_queue_wait(&c->slots);
    }
    while (c->spares) {
        free(c->spare[--c->spares]);
    }
}
