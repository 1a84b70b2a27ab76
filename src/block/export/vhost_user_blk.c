/*
 * Exports of the kind "vhost-user-blk": the node is a virtio-blk device (virtio 1.2, 5.2) whose queues lie in another
 * program's memory, which is reached by the vhost-user protocol. One front end at a time; when it leaves the next may
 * come.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/export/export.h"
#include "block/export/vhost_proto.h"
#include "block/export/vhost_user.h"
#include "block/nbd/server.h"
#include "block/node_priv.h"
#include "io/net.h"

enum { SECTOR = 512, REQUEST_HEADER = 16, ID_BYTES = 20, SEGMENT = 16, MAX_SECTORS = 0x3fffff, ZERO_UNMAP = 1, SEG_MAX = 126,
       WCE_AT = 32 };

typedef struct VhostUserBlk {
    Export export;
    VhostUserDevice device;
    VhostUser *user; /* NULL: nobody is connected */
    char *path;      /* of the socket; NULL: it was passed as a descriptor */
    int listener;    /* -1: closed */
    LoopFd *source;
    uint32_t block_size;
    bool write_cache; /* a write may be volatile until a flush */
} VhostUserBlk;

typedef struct BlkRequest {
    VhostUserBlk *blk;
    VhostQueue *queue;
    VhostElement *element;
    uint32_t type;
    uint64_t offset; /* of reads and writes: bytes */
    uint8_t *status;
} BlkRequest;

/* --- scatter lists --- */

static uint64_t bytes_of(const struct iovec *iov, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

static void drop_front(struct iovec **iov, unsigned *count, size_t bytes)
{
    while (bytes) {
        size_t part = MIN(bytes, (*iov)->iov_len);
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
        (*iov)->iov_len -= part;
        bytes -= part;
        if (!(*iov)->iov_len) {
            (*iov)++;
            (*count)--;
        }
    }
}

/* --- requests --- */

static bool range_ok(const VhostUserBlk *blk, uint64_t offset, uint64_t bytes)
{
    uint64_t size = blk->export.node->size;
    return offset <= size && bytes <= size - offset && !((offset | bytes) & (blk->block_size - 1));
}

static int read_co(BlkRequest *r, uint64_t *ret_bytes)
{
    VhostElement *e = r->element;
    BlockVec vec = { e->in, e->in_count };
    uint64_t bytes = bytes_of(e->in, e->in_count);

    if (!range_ok(r->blk, r->offset, bytes)) {
        return -EINVAL;
    }
    *ret_bytes = bytes;
    return bytes ? node_preadv_co(r->blk->export.node, r->offset, bytes, &vec, 0) : 0;
}

static unsigned write_flags(const VhostUserBlk *blk)
{
    return blk->write_cache ? 0 : REQ_FUA;
}

static int write_co(BlkRequest *r)
{
    VhostElement *e = r->element;
    BlockVec vec = { e->out, e->out_count };
    uint64_t bytes = bytes_of(e->out, e->out_count);

    if (!r->blk->export.writable || !range_ok(r->blk, r->offset, bytes)) {
        return -EINVAL;
    }
    return bytes ? node_pwritev_co(r->blk->export.node, r->offset, bytes, &vec, 0, write_flags(r->blk)) : 0;
}

/* One segment: sector (64), sectors (32), flags (32). */
static int segment_co(BlkRequest *r)
{
    BlockNode *node = r->blk->export.node;
    BlockVec vec = { r->element->out, r->element->out_count };
    bool zero = r->type == VIRTIO_BLK_T_WRITE_ZEROES;
    uint8_t segment[SEGMENT];

    if (!r->blk->export.writable) {
        return -EINVAL;
    }
    if (block_vec_size(&vec) != SEGMENT) {
        return -ENOTSUP;
    }
    block_vec_to_buffer(&vec, 0, segment, SEGMENT);
    uint64_t sector = ld64_le(segment);
    uint32_t sectors = ld32_le(segment + 8), flags = ld32_le(segment + 12);
    uint64_t bytes = (uint64_t)sectors * SECTOR;
    if (flags & ~(zero ? ZERO_UNMAP : 0u)) {
        return -ENOTSUP;
    }
    if (sectors > MAX_SECTORS || sector > UINT64_MAX / SECTOR || !range_ok(r->blk, sector * SECTOR, bytes)) {
        return -EINVAL;
    }
    if (zero) {
        return node_write_zeroes_co(node, sector * SECTOR, bytes,
                                    write_flags(r->blk) | (flags & ZERO_UNMAP ? REQ_MAY_UNMAP : 0));
    }
    int ret = node_discard_co(node, sector * SECTOR, bytes);
    return ret == -ENOTSUP ? 0 : ret; /* a hint */
}

static int get_id(BlkRequest *r, uint64_t *ret_bytes)
{
    VhostElement *e = r->element;
    BlockVec vec = { e->in, e->in_count };
    char id[ID_BYTES] = { 0 };

    memcpy(id, r->blk->export.id, MIN(strlen(r->blk->export.id), sizeof(id)));
    *ret_bytes = MIN(bytes_of(e->in, e->in_count), sizeof(id));
    block_vec_from_buffer(&vec, 0, id, (size_t)*ret_bytes);
    return 0;
}

static int run_co(BlkRequest *r, uint64_t *ret_bytes)
{
    switch (r->type) {
    case VIRTIO_BLK_T_IN:
        return read_co(r, ret_bytes);
    case VIRTIO_BLK_T_OUT:
        return write_co(r);
    case VIRTIO_BLK_T_FLUSH:
        return node_flush_co(r->blk->export.node);
    case VIRTIO_BLK_T_GET_ID:
        return get_id(r, ret_bytes);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return segment_co(r);
    default:
        return -ENOTSUP;
    }
}

static void request_co(void *opaque)
{
    BlkRequest *r = opaque;
    uint64_t bytes = 0;
    int ret = run_co(r, &bytes);

    *r->status = ret == 0 ? VIRTIO_BLK_S_OK : ret == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
    vhost_queue_done(r->queue, r->element, (uint32_t)MIN(bytes + 1, UINT32_MAX));
    g_free(r);
}

/* The header in front, the status byte behind. */
static void on_request(void *opaque, VhostQueue *queue, VhostElement *e)
{
    VhostUserBlk *blk = opaque;
    BlockVec out = { e->out, e->out_count };
    uint8_t header[REQUEST_HEADER];

    if (block_vec_size(&out) < REQUEST_HEADER || !e->in_count) {
        vhost_queue_done(queue, e, 0); /* there is no place for saying what is wrong */
        return;
    }
    block_vec_to_buffer(&out, 0, header, REQUEST_HEADER);
    drop_front(&e->out, &e->out_count, REQUEST_HEADER);
    struct iovec *last = &e->in[e->in_count - 1];
    BlkRequest *r = g_new(BlkRequest, 1);
    uint64_t sector = ld64_le(header + 8);
    *r = (BlkRequest) { .blk = blk,
                        .queue = queue,
                        .element = e,
                        .type = ld32_le(header),
                        .offset = sector > UINT64_MAX / SECTOR ? UINT64_MAX : sector * SECTOR,
                        .status = (uint8_t *)last->iov_base + last->iov_len - 1 };
    if (--last->iov_len == 0) {
        e->in_count--;
    }
    co_start(export_loop(&blk->export), request_co, r);
}

/* --- configuration --- */

static void get_config(void *opaque, uint8_t config[VHOST_USER_CONFIG_MAX])
{
    const VhostUserBlk *blk = opaque;

    st64_le(config, blk->export.node->size / SECTOR);
    st32_le(config + 12, SEG_MAX);
    st32_le(config + 20, blk->block_size);
    st16_le(config + 26, 1); /* min_io_size, in blocks */
    st32_le(config + 28, 1); /* opt_io_size */
    config[WCE_AT] = blk->write_cache;
    st16_le(config + 34, (uint16_t)blk->device.queues);
    st32_le(config + 36, MAX_SECTORS); /* of a discard */
    st32_le(config + 40, 1);
    st32_le(config + 44, blk->block_size / SECTOR);
    st32_le(config + 48, MAX_SECTORS); /* of a write of zeroes */
    st32_le(config + 52, 1);
    config[56] = 1; /* it may unmap */
}

static bool set_config(void *opaque, unsigned offset, const uint8_t *data, unsigned bytes)
{
    VhostUserBlk *blk = opaque;
    if (offset != WCE_AT || bytes != 1) {
        return false;
    }
    blk->write_cache = data[0] & 1;
    return true;
}

/* A driver that cannot flush must see its writes on stable storage. */
static void features_chosen(void *opaque, uint64_t features)
{
    VhostUserBlk *blk = opaque;
    blk->write_cache = (features & 1ull << VIRTIO_BLK_F_FLUSH) && !blk->export.writethrough;
}

static const VhostUserOps operations = {
    .request = on_request, .get_config = get_config, .set_config = set_config, .features_chosen = features_chosen
};

/* --- front ends --- */

typedef struct FrontEnd {
    VhostUserBlk *blk;
    int fd;
} FrontEnd;

static void front_end_co(void *opaque)
{
    FrontEnd *front = opaque;
    VhostUserBlk *blk = front->blk;

    vhost_user_serve_co(&blk->device, front->fd, &blk->user);
    g_free(front);
    if (blk->source) {
        loop_mod_fd(blk->source, LOOP_READ);
    }
    export_unref(&blk->export);
}

static void listener_ready(void *opaque, unsigned events)
{
    VhostUserBlk *blk = opaque;
    int fd = accept4(blk->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        FrontEnd *front = g_new(FrontEnd, 1);
        *front = (FrontEnd) { blk, fd };
        loop_mod_fd(blk->source, 0); /* others wait in the socket's queue */
        export_ref(&blk->export);
        co_start(export_loop(&blk->export), front_end_co, front);
    }
}

static Error *listen_on(VhostUserBlk *blk, KeyValues *opts)
{
    g_autoptr(KeyValues) parts = block_take_prefix(opts, "addr.");
    NbdAddress address;

    if (opts->items->len) {
        return NULL; /* refused by the caller, before there is a socket */
    }
    TRY(nbd_address_take(parts, &address));
    Error *err = NULL;
    if (address.fd >= 0) {
        blk->listener = fcntl(address.fd, F_DUPFD_CLOEXEC, 3);
        err = blk->listener < 0 ? error_new_errno(errno, "File descriptor %d cannot be used", address.fd) : NULL;
    } else if (!address.path) {
        err = error_new("vhost-user needs a unix socket: it passes memory by descriptors");
    } else {
        err = net_listen(&address.net, &blk->listener);
        blk->path = err || address.net.abstract ? NULL : g_strdup(address.path);
    }
    nbd_address_clear(&address);
    TRY(err);
    fcntl(blk->listener, F_SETFL, fcntl(blk->listener, F_GETFL) | O_NONBLOCK);
    blk->source = loop_add_fd(block_graph_loop(blk->export.graph), blk->listener, LOOP_READ, listener_ready, blk);
    return NULL;
}

static void stop_listening(VhostUserBlk *blk)
{
    loop_del_fd(g_steal_pointer(&blk->source));
    if (blk->listener >= 0) {
        close(blk->listener);
        blk->listener = -1;
    }
    if (blk->path) {
        unlink(blk->path);
        g_free(g_steal_pointer(&blk->path));
    }
}

/* --- the export --- */

static Error *take_options(VhostUserBlk *blk, KeyValues *opts)
{
    uint64_t block_size, queues;

    TRY(block_take_num(opts, "logical-block-size", SECTOR, &block_size));
    TRY(block_take_num(opts, "num-queues", 1, &queues));
    if (block_size < SECTOR || block_size > 32768 || !IS_POW2(block_size)) {
        return error_new("logical-block-size is to be a power of two from 512 to 32768");
    }
    if (!queues || queues > VHOST_USER_MAX_QUEUES) {
        return error_new("num-queues is to be 1 to %d", VHOST_USER_MAX_QUEUES);
    }
    uint64_t features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
                        1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_CONFIG_WCE | 1ull << VIRTIO_BLK_F_MQ;
    features |= blk->export.writable ? 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES
                                     : 1ull << VIRTIO_BLK_F_RO;
    blk->block_size = (uint32_t)block_size;
    blk->write_cache = !blk->export.writethrough;
    blk->device = (VhostUserDevice) {
        .features = features, .queues = (unsigned)queues, .ops = &operations, .opaque = blk
    };
    return NULL;
}

static Error *vhost_user_blk_start(Export *export, KeyValues *opts)
{
    VhostUserBlk *blk = container_of(export, VhostUserBlk, export);
    blk->listener = -1;
    TRY(take_options(blk, opts));
    return listen_on(blk, opts);
}

static void vhost_user_blk_stop(Export *export)
{
    VhostUserBlk *blk = container_of(export, VhostUserBlk, export);
    stop_listening(blk);
    if (blk->user) {
        vhost_user_disconnect(blk->user);
    }
}

static void vhost_user_blk_release(Export *export)
{
    stop_listening(container_of(export, VhostUserBlk, export)); /* when starting failed later on */
}

static const ExportKind vhost_user_blk_kind = {
    .name = "vhost-user-blk",
    .size = sizeof(VhostUserBlk),
    .start = vhost_user_blk_start,
    .stop = vhost_user_blk_stop,
    .release = vhost_user_blk_release,
};
EXPORT_KIND(vhost_user_blk_kind);
