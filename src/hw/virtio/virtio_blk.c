/*
 * virtio-blk (virtio 1.2, 5.2): a disk with one or more request queues. A request is a 16-byte header, data, and a
 * status byte at the end. Missing: secure erase, zoned devices, life-time data.
 */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "hw/virtio/virtio_blk.h"
#include "io/iothread.h"

enum { F_SEG_MAX = 2, F_GEOMETRY = 4, F_RO = 5, F_BLK_SIZE = 6, F_FLUSH = 9, F_TOPOLOGY = 10, F_CONFIG_WCE = 11, F_MQ = 12, F_DISCARD = 13,
       F_WRITE_ZEROES = 14 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { HEADER = 16, SECTOR = 512, ID_BYTES = 20, SEGMENT = 16, MAX_SEGMENTS = 1, MAX_SECTORS = 0x3fffff };
enum { CONFIG = VIRTIO_BLK_CONFIG, CONFIG_WCE_AT = 32 };
enum { ZERO_UNMAP = 1 };

typedef struct BlkReq {
    VirtqElement elem;
    VirtioBlk *blk;
    uint8_t *status;
    uint32_t type;
    uint64_t written; /* bytes of data the guest gets */
} BlkReq;

static VirtioBlk *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioBlk, vdev);
}

static void finish(BlkReq *req, uint8_t status)
{
    Virtqueue *vq = req->elem.vq;
    *req->status = status;
    mem_unmap(vq->vdev->dma, req->status, 1, 1); /* it is no longer in the element's list, whose memory virtq_push() marks as written */
    virtq_push(&req->elem, (uint32_t)(req->written + 1));
    virtq_notify(vq);
}

static void completed(void *opaque, int ret)
{
    BlkReq *req = opaque;
    if (ret == BLK_RETURNED) {
        virtq_return(&req->elem);
        return;
    }
    finish(req, ret == 0 ? S_OK : ret == -ENOTSUP ? S_UNSUPP : S_IOERR);
}

/* --- requests --- */

/* The range in bytes, when it lies on the disk and on block boundaries. */
static bool range_ok(VirtioBlk *blk, uint64_t sector, uint64_t bytes, uint64_t *ret_offset)
{
    int64_t length = blk_length(disk_blk(&blk->conf));
    uint64_t mask = blk->conf.logical_block_size - 1;

    if (length < 0 || sector > (uint64_t)length / SECTOR || bytes > (uint64_t)length - sector * SECTOR ||
        ((sector * SECTOR | bytes) & mask)) {
        return false;
    }
    *ret_offset = sector * SECTOR;
    return true;
}

static void read_or_write(BlkReq *req, uint64_t sector)
{
    VirtioBlk *blk = req->blk;
    BlockBackend *backend = disk_blk(&blk->conf);
    bool write = req->type == T_OUT;
    uint64_t bytes = write ? req->elem.out_bytes : req->elem.in_bytes, offset;

    if (!range_ok(blk, sector, bytes, &offset) || (write && blk_is_readonly(backend))) {
        disk_conf_count_invalid(&blk->conf, !write);
        finish(req, S_IOERR);
    } else if (bytes == 0) {
        finish(req, S_OK);
    } else if (write) {
        blk_aio_pwritev(backend, offset, req->elem.out, req->elem.out_count, 0, completed, req);
    } else {
        req->written = bytes;
        blk_aio_preadv(backend, offset, req->elem.in, req->elem.in_count, completed, req);
    }
}

/* One segment: sector (64), sectors (32), flags (32). */
static void discard_or_zero(BlkReq *req)
{
    VirtioBlk *blk = req->blk;
    BlockBackend *backend = disk_blk(&blk->conf);
    bool zero = req->type == T_WRITE_ZEROES;
    uint8_t segment[SEGMENT];
    uint64_t offset;

    if (!(zero ? blk->write_zeroes : blk->discard) ||
        req->elem.out_bytes != SEGMENT ||
        iov_to_buf(req->elem.out, req->elem.out_count, 0, segment, SEGMENT) != SEGMENT) {
        finish(req, S_UNSUPP);
        return;
    }
    uint32_t sectors = ld32_le(segment + 8), flags = ld32_le(segment + 12);
    uint32_t limit = zero ? blk->max_write_zeroes_sectors : blk->max_discard_sectors;
    uint64_t bytes = (uint64_t)sectors * SECTOR;
    if ((flags & ~(zero ? ZERO_UNMAP : 0u)) != 0) {
        finish(req, S_UNSUPP);
    } else if (sectors > limit || !range_ok(blk, ld64_le(segment), bytes, &offset) || blk_is_readonly(backend)) {
        disk_conf_count_invalid(&blk->conf, false);
        finish(req, S_IOERR);
    } else if (zero) {
        blk_aio_write_zeroes(backend, offset, bytes, flags & ZERO_UNMAP ? REQ_MAY_UNMAP : 0, completed, req);
    } else {
        blk_aio_discard(backend, offset, bytes, completed, req);
    }
}

static void get_id(BlkReq *req)
{
    char id[ID_BYTES] = { 0 };
    const char *serial = req->blk->serial;
    if (serial) {
        memcpy(id, serial, MIN(strlen(serial), sizeof(id)));
    }
    req->written = iov_from_buf(req->elem.in, req->elem.in_count, 0, id, sizeof(id));
    finish(req, S_OK);
}

static void start(BlkReq *req)
{
    uint8_t header[HEADER];
    VirtqElement *elem = &req->elem;
    VirtioDevice *vdev = elem->vq->vdev;

    if (iov_to_buf(elem->out, elem->out_count, 0, header, HEADER) != HEADER || elem->in_bytes < 1) {
        virtio_break(vdev, "a request without header or status");
        virtq_discard(elem);
        return;
    }
    elem->out_bytes -= iov_drop_front(&elem->out, &elem->out_count, HEADER);
    struct iovec *last = &elem->in[elem->in_count - 1];
    req->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    elem->in_bytes -= iov_drop_back(elem->in, &elem->in_count, 1);
    req->type = ld32_le(header);
    switch (req->type) {
    case T_IN:
    case T_OUT:
        read_or_write(req, ld64_le(header + 8));
        break;
    case T_FLUSH:
        blk_aio_flush(disk_blk(&req->blk->conf), completed, req);
        break;
    case T_GET_ID:
        get_id(req);
        break;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        discard_or_zero(req);
        break;
    default:
        finish(req, S_UNSUPP);
        break;
    }
}

static void notified(VirtioDevice *vdev, Virtqueue *vq)
{
    BlkReq *req;
    do {
        virtq_set_notification(vq, false);
        while ((req = virtq_pop(vq, sizeof(*req)))) {
            req->blk = of_vdev(vdev);
            start(req);
        }
        virtq_set_notification(vq, true);
    } while (!virtq_empty(vq));
}

/* --- configuration --- */

void virtio_blk_get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioBlk *blk = of_vdev(vdev);
    BlockBackend *backend = disk_blk(&blk->conf);
    int64_t length = blk_length(backend);
    uint64_t sectors = length > 0 ? (uint64_t)length / SECTOR : 0, block = blk->conf.logical_block_size;
    uint64_t physical = blk->conf.physical_block_size;

    memset(config, 0, CONFIG);
    st64_le(config, sectors);
    st32_le(config + 12, (uint32_t)(blk->queue_size - 2)); /* seg_max */
    st16_le(config + 16, (uint16_t)(blk->cyls ? blk->cyls : MIN(sectors / (16 * 63), (uint64_t)16383)));
    config[18] = (uint8_t)(blk->heads ? blk->heads : 16);
    config[19] = (uint8_t)(blk->secs ? blk->secs : 63);
    st32_le(config + 20, (uint32_t)block);
    config[24] = (uint8_t)(physical > block ? g_bit_storage(physical / block) - 1 : 0);
    st16_le(config + 26, (uint16_t)(blk->conf.min_io_size / block));
    st32_le(config + 28, (uint32_t)(blk->conf.opt_io_size / block));
    config[CONFIG_WCE_AT] = blk_write_cache(backend);
    st16_le(config + 34, blk->num_queues);
    if (blk->discard) {
        st32_le(config + 36, blk->max_discard_sectors);
        st32_le(config + 40, MAX_SEGMENTS);
        uint64_t granularity = blk->conf.discard_granularity;
        st32_le(config + 44, (uint32_t)((granularity == UINT32_MAX || granularity < block ? block : granularity) / SECTOR));
    }
    if (blk->write_zeroes) {
        st32_le(config + 48, blk->max_write_zeroes_sectors);
        st32_le(config + 52, MAX_SEGMENTS);
        config[56] = 1; /* a write of zeroes may unmap */
    }
}

void virtio_blk_config_written(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    VirtioBlk *blk = of_vdev(vdev);
    if (offset <= CONFIG_WCE_AT && offset + size > CONFIG_WCE_AT && virtio_has(vdev, F_CONFIG_WCE)) {
        blk_set_write_cache(disk_blk(&blk->conf), vdev->config[CONFIG_WCE_AT] & 1);
    }
}

/* A driver that cannot flush must see its writes on stable storage. */
void virtio_blk_features_chosen(VirtioDevice *vdev)
{
    VirtioBlk *blk = of_vdev(vdev);
    if (!virtio_has(vdev, F_CONFIG_WCE)) {
        blk_set_write_cache(disk_blk(&blk->conf), virtio_has(vdev, F_FLUSH) && blk->original_wce);
    }
}

/* --- life --- */

static void drain(VirtioBlk *blk)
{
    if (disk_blk(&blk->conf) && blk_busy(disk_blk(&blk->conf))) {
        blk_drain(disk_blk(&blk->conf));
    }
}

void virtio_blk_saving(VirtioDevice *vdev)
{
    drain(of_vdev(vdev));
    blk_return_held(disk_blk(&of_vdev(vdev)->conf));
}

void virtio_blk_reset(VirtioDevice *vdev)
{
    VirtioBlk *blk = of_vdev(vdev);
    if (disk_blk(&blk->conf)) { /* those that wait to be made again must not end in the queue of another driver */
        blk_abandon_held(disk_blk(&blk->conf));
    }
    drain(blk);
    blk_set_write_cache(disk_blk(&blk->conf), blk->original_wce);
}

static void resized(void *opaque)
{
    VirtioBlk *blk = opaque;
    virtio_config_changed(&blk->vdev);
}
static const BlkDeviceOps device_ops = { .resized = resized };

Error *virtio_blk_plug(VirtioDevice *vdev)
{
    VirtioBlk *blk = of_vdev(vdev);
    DiskTraits traits = { .part = "virtio-backend", .writes = true, .read_only_ok = true, .ops = &device_ops, .opaque = blk };

    if (blk->num_queues == UINT16_MAX) {
        blk->num_queues = (uint16_t)MIN(vdev->dev.machine->config->cpus, (unsigned)VIRTIO_QUEUE_MAX);
    }
    if (blk->num_queues == 0 || blk->num_queues > VIRTIO_QUEUE_MAX) {
        return error_new("%s: num-queues must be 1 to %d", device_label(&vdev->dev), VIRTIO_QUEUE_MAX);
    }
    if (!IS_POW2(blk->queue_size) || blk->queue_size < 4 || blk->queue_size > VIRTIO_QUEUE_SIZE_MAX) {
        return error_new("%s: queue-size must be a power of two from 4 to %d", device_label(&vdev->dev),
                         VIRTIO_QUEUE_SIZE_MAX);
    }
    TRY(disk_conf_attach(&blk->conf, &vdev->dev, &traits));
    BlockBackend *backend = disk_blk(&blk->conf);
    blk->original_wce = blk_write_cache(backend);
    vdev->host_features = BIT64(F_SEG_MAX) | BIT64(F_GEOMETRY) | BIT64(F_BLK_SIZE) | BIT64(F_FLUSH) | BIT64(F_TOPOLOGY);
    vdev->host_features |= blk->config_wce ? BIT64(F_CONFIG_WCE) : 0;
    vdev->host_features |= blk->num_queues > 1 ? BIT64(F_MQ) : 0;
    vdev->host_features |= blk->discard ? BIT64(F_DISCARD) : 0;
    vdev->host_features |= blk->write_zeroes ? BIT64(F_WRITE_ZEROES) : 0;
    vdev->host_features |= blk_is_readonly(backend) ? BIT64(F_RO) : 0;
    for (unsigned i = 0; i < blk->num_queues; i++) {
        virtio_add_queue(vdev, blk->queue_size, notified);
    }
    TRY(virtio_set_iothread(vdev, blk->iothread));
    return blk_set_loop(backend, virtio_loop(vdev));
}

void virtio_blk_unplug(VirtioDevice *vdev)
{
    VirtioBlk *blk = of_vdev(vdev);
    drain(blk);
    disk_conf_detach(&blk->conf);
}

static const VirtioKind kind = { VIRTIO_BLK_KIND(virtio_blk_plug, virtio_blk_unplug) };

static const Prop props[] = {
    DISK_CONF_PROPS(VirtioBlk, conf, vdev.dev),
    PROP_LINK("iothread", VirtioBlk, iothread, iothread_type, .help = "Thread that looks after the queues and the image"),
    PROP_STR("serial", VirtioBlk, serial, .help = "Serial number, 20 characters count"),
    PROP_U16("num-queues", VirtioBlk, num_queues, UINT16_MAX, .help = "Request queues; unset: one a CPU"),
    PROP_U16("queue-size", VirtioBlk, queue_size, 256, .help = "Entries of a queue, a power of two"),
    PROP_BOOL("config-wce", VirtioBlk, config_wce, true, .help = "Whether the guest may switch the write cache"),
    PROP_BOOL("discard", VirtioBlk, discard, true, .help = "Offer discard"),
    PROP_BOOL("write-zeroes", VirtioBlk, write_zeroes, true, .help = "Offer writing zeroes"),
    PROP_U32("max-discard-sectors", VirtioBlk, max_discard_sectors, MAX_SECTORS, .min = 1, .max = MAX_SECTORS),
    PROP_U32("max-write-zeroes-sectors", VirtioBlk, max_write_zeroes_sectors, MAX_SECTORS, .min = 1, .max = MAX_SECTORS),
    PROP_U32("cyls", VirtioBlk, cyls, 0, .max = 65535, .help = "Geometry that the configuration tells; 0: 16 heads, 63 sectors"),
    PROP_U32("heads", VirtioBlk, heads, 0, .max = 255),
    PROP_U32("secs", VirtioBlk, secs, 0, .max = 255),
    PROP_U32("lcyls", VirtioBlk, lcyls, 0, .help = "Geometry that the firmware uses"),
    PROP_U32("lheads", VirtioBlk, lheads, 0),
    PROP_U32("lsecs", VirtioBlk, lsecs, 0),
    { 0 },
};

const StateField virtio_blk_state[] = {
    VIRTIO_STATE(VirtioBlk),
    STATE_NOT(VirtioBlk, original_wce, "made by plug"),
    /* Properties here, but not of the devices that are built on this one. */
    STATE_NOT(VirtioBlk, conf, "a setting"),
    STATE_NOT(VirtioBlk, serial, "a setting"),
    STATE_NOT(VirtioBlk, iothread, "a setting"),
    STATE_NOT(VirtioBlk, num_queues, "a setting"),
    STATE_NOT(VirtioBlk, queue_size, "a setting"),
    STATE_NOT(VirtioBlk, discard, "a setting"),
    STATE_NOT(VirtioBlk, write_zeroes, "a setting"),
    STATE_NOT(VirtioBlk, config_wce, "a setting"),
    STATE_NOT(VirtioBlk, max_discard_sectors, "a setting"),
    STATE_NOT(VirtioBlk, max_write_zeroes_sectors, "a setting"),
    STATE_NOT(VirtioBlk, cyls, "a setting"),
    STATE_NOT(VirtioBlk, heads, "a setting"),
    STATE_NOT(VirtioBlk, secs, "a setting"),
    STATE_NOT(VirtioBlk, lcyls, "a setting"),
    STATE_NOT(VirtioBlk, lheads, "a setting"),
    STATE_NOT(VirtioBlk, lsecs, "a setting"),
    { 0 },
};

VIRTIO_PCI_DEVICE(virtio_blk, "virtio-blk", "virtio-blk", kind, VirtioBlk, props, virtio_blk_state, DEV_STORAGE, "Virtio disk",
                  virtio_pci_ident_block, .boot_unit = "disk@0,0");
