/*
 * What virtio devices and their queues are at: x-query-virtio and its kin, for who writes drivers. Names are the
 * specification's (virtio 1.2). A queue that an iothread looks after may move on meanwhile.
 */
#include <string.h>

#include "base/endian.h"
#include "bus/virtio.h"
#include "schema/qmp_commands.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_BYTES = 16 };

typedef struct BitName {
    unsigned bit;
    const char *name;
} BitName;

static const BitName transport_features[] = {
    { 24, "VIRTIO_F_NOTIFY_ON_EMPTY" }, { 27, "VIRTIO_F_ANY_LAYOUT" },      { 28, "VIRTIO_F_INDIRECT_DESC" },
    { 29, "VIRTIO_F_EVENT_IDX" },       { 32, "VIRTIO_F_VERSION_1" },       { 33, "VIRTIO_F_ACCESS_PLATFORM" },
    { 34, "VIRTIO_F_RING_PACKED" },     { 35, "VIRTIO_F_IN_ORDER" },        { 36, "VIRTIO_F_ORDER_PLATFORM" },
    { 38, "VIRTIO_F_NOTIFICATION_DATA" }, { 40, "VIRTIO_F_RING_RESET" },    { 0 },
};
static const BitName net_features[] = {
    { 3, "VIRTIO_NET_F_MTU" },             { 5, "VIRTIO_NET_F_MAC" },           { 15, "VIRTIO_NET_F_MRG_RXBUF" },
    { 16, "VIRTIO_NET_F_STATUS" },         { 17, "VIRTIO_NET_F_CTRL_VQ" },      { 18, "VIRTIO_NET_F_CTRL_RX" },
    { 19, "VIRTIO_NET_F_CTRL_VLAN" },      { 20, "VIRTIO_NET_F_CTRL_RX_EXTRA" }, { 21, "VIRTIO_NET_F_GUEST_ANNOUNCE" },
    { 23, "VIRTIO_NET_F_CTRL_MAC_ADDR" },  { 63, "VIRTIO_NET_F_SPEED_DUPLEX" }, { 0 },
};
static const BitName block_features[] = {
    { 2, "VIRTIO_BLK_F_SEG_MAX" }, { 4, "VIRTIO_BLK_F_GEOMETRY" },  { 5, "VIRTIO_BLK_F_RO" },          { 6, "VIRTIO_BLK_F_BLK_SIZE" },
    { 9, "VIRTIO_BLK_F_FLUSH" },   { 10, "VIRTIO_BLK_F_TOPOLOGY" }, { 11, "VIRTIO_BLK_F_CONFIG_WCE" }, { 12, "VIRTIO_BLK_F_MQ" },
    { 13, "VIRTIO_BLK_F_DISCARD" }, { 14, "VIRTIO_BLK_F_WRITE_ZEROES" }, { 0 },
};
static const BitName console_features[] = { { 0, "VIRTIO_CONSOLE_F_SIZE" }, { 1, "VIRTIO_CONSOLE_F_MULTIPORT" }, { 0 } };
static const BitName balloon_features[] = {
    { 1, "VIRTIO_BALLOON_F_STATS_VQ" }, { 2, "VIRTIO_BALLOON_F_DEFLATE_ON_OOM" }, { 0 },
};
static const BitName scsi_features[] = { { 0, "VIRTIO_SCSI_F_INOUT" }, { 1, "VIRTIO_SCSI_F_HOTPLUG" },
                                         { 2, "VIRTIO_SCSI_F_CHANGE" }, { 0 } };
static const BitName no_features[] = { { 0 } };
static const BitName statuses[] = {
    { 0, "VIRTIO_CONFIG_S_ACKNOWLEDGE" }, { 1, "VIRTIO_CONFIG_S_DRIVER" },      { 2, "VIRTIO_CONFIG_S_DRIVER_OK" },
    { 3, "VIRTIO_CONFIG_S_FEATURES_OK" }, { 6, "VIRTIO_CONFIG_S_NEEDS_RESET" }, { 7, "VIRTIO_CONFIG_S_FAILED" }, { 0 },
};
static const BitName desc_flags[] = { { 0, "next" }, { 1, "write" }, { 2, "indirect" }, { 0 } };

static const BitName *kind_features(uint16_t id)
{
    switch (id) {
    case VIRTIO_ID_NET:
        return net_features;
    case VIRTIO_ID_BLOCK:
        return block_features;
    case VIRTIO_ID_CONSOLE:
        return console_features;
    case VIRTIO_ID_BALLOON:
        return balloon_features;
    case VIRTIO_ID_SCSI:
        return scsi_features;
    default:
        return no_features;
    }
}

/* The names of the bits that are set; *bits keeps those without a name. A row without a name ends the table. */
static Value *take_names(const BitName *names, uint64_t *bits)
{
    Value *list = value_list();

    for (const BitName *row = names; row->name; row++) {
        if (*bits & BIT64(row->bit)) {
            value_append(list, value_str(row->name));
            *bits &= ~BIT64(row->bit);
        }
    }
    return list;
}

static Value *features_value(const VirtioDevice *vdev, uint64_t bits)
{
    Value *value = value_dict();

    value_put(value, "transports", take_names(transport_features, &bits));
    value_put(value, "dev-features", take_names(kind_features(vdev->kind->id), &bits));
    if (bits) {
        value_put(value, "unknown-dev-features", value_uint(bits));
    }
    return value;
}

static Value *status_value(const VirtioDevice *vdev)
{
    uint64_t bits = vdev->status;
    Value *value = value_dict();

    value_put(value, "statuses", take_names(statuses, &bits));
    if (bits) {
        value_put(value, "unknown-statuses", value_uint(bits));
    }
    return value;
}

/* --- finding --- */

static VirtioDevice *virtio_of(const Device *dev)
{
    return object_is_a(dev->object.type, &virtio_pci_object_type) ? container_of(dev, VirtioDevice, dev) : NULL;
}

static MUST_USE Error *find_device(Machine *machine, const char *path, VirtioDevice **ret_vdev)
{
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        g_autofree char *own = object_path(&dev->object);
        if (virtio_of(dev) && !strcmp(own, path)) {
            *ret_vdev = virtio_of(dev);
            return NULL;
        }
    }
    return error_hint(error_new("there is no virtio device at '%s'", path), "x-query-virtio lists them.");
}

static MUST_USE Error *find_queue(Machine *machine, const char *path, int64_t index, Virtqueue **ret_vq)
{
    VirtioDevice *vdev;

    TRY(find_device(machine, path, &vdev));
    if (index < 0 || index >= vdev->queues) {
        return error_new("%s has no queue %" G_GINT64_FORMAT ": they count from 0 to %u", path, index, vdev->queues - 1);
    }
    *ret_vq = &vdev->queue[index];
    return NULL;
}

/* --- commands --- */

Error *qmp_x_query_virtio(QmpContext *ctx, const QmpXQueryVirtioArgs *args, Value **ret)
{
    *ret = value_list();
    for (Device *dev = NULL; (dev = machine_device_next(ctx->machine, dev));) {
        if (virtio_of(dev)) {
            g_autofree char *path = object_path(&dev->object);
            Value *info = value_dict();
            value_put_str(info, "path", path);
            value_put_str(info, "name", virtio_of(dev)->kind->name);
            value_append(*ret, info);
        }
    }
    return NULL;
}

Error *qmp_x_query_virtio_status(QmpContext *ctx, const QmpXQueryVirtioStatusArgs *args, Value **ret)
{
    VirtioDevice *vdev;

    TRY(find_device(ctx->machine, args->path, &vdev));
    bool started = (vdev->status & VIRTIO_DRIVER_OK) != 0;
    *ret = value_dict();
    value_put_str(*ret, "name", vdev->kind->name);
    value_put_int(*ret, "device-id", vdev->kind->id);
    value_put_bool(*ret, "vhost-started", false);
    value_put(*ret, "guest-features", features_value(vdev, vdev->guest_features));
    value_put(*ret, "host-features", features_value(vdev, vdev->host_features));
    value_put(*ret, "backend-features", features_value(vdev, 0));
    value_put_str(*ret, "device-endian", "little");
    value_put_int(*ret, "num-vqs", vdev->queues);
    value_put(*ret, "status", status_value(vdev));
    value_put_int(*ret, "isr", vdev->tp.isr);
    value_put_int(*ret, "queue-sel", vdev->tp.queue_select);
    value_put_bool(*ret, "vm-running", machine_running(ctx->machine));
    value_put_bool(*ret, "broken", vdev->broken);
    value_put_bool(*ret, "disabled", false);
    value_put_bool(*ret, "use-started", true);
    value_put_bool(*ret, "started", started);
    value_put_bool(*ret, "start-on-kick", false);
    value_put_bool(*ret, "disable-legacy-check", false);
    value_put_str(*ret, "bus-name", "");
    value_put_bool(*ret, "use-guest-notifier-mask", false);
    return NULL;
}

Error *qmp_x_query_virtio_queue_status(QmpContext *ctx, const QmpXQueryVirtioQueueStatusArgs *args, Value **ret)
{
    enum { RING_ALIGN = 4096 }; /* of drivers from before virtio 1.0 */
    Virtqueue *vq;

    TRY(find_queue(ctx->machine, args->path, args->queue, &vq));
    *ret = value_dict();
    value_put_str(*ret, "name", vq->vdev->kind->name);
    value_put_int(*ret, "queue-index", vq->index);
    value_put_int(*ret, "inuse", vq->inflight);
    value_put_int(*ret, "vring-num", vq->size);
    value_put_int(*ret, "vring-num-default", vq->size_max);
    value_put_int(*ret, "vring-align", RING_ALIGN);
    value_put(*ret, "vring-desc", value_uint(vq->desc));
    value_put(*ret, "vring-avail", value_uint(vq->avail));
    value_put(*ret, "vring-used", value_uint(vq->used));
    value_put_int(*ret, "last-avail-idx", vq->last_avail);
    value_put_int(*ret, "shadow-avail-idx", vq->last_avail); /* the ring is looked at each time, there is no copy */
    value_put_int(*ret, "used-idx", vq->used_idx);
    value_put_int(*ret, "signalled-used", vq->signalled_used);
    value_put_bool(*ret, "signalled-used-valid", vq->signalled_valid);
    return NULL;
}

Error *qmp_x_query_virtio_vhost_queue_status(QmpContext *ctx, const QmpXQueryVirtioVhostQueueStatusArgs *args, Value **ret)
{
    Virtqueue *vq;

    TRY(find_queue(ctx->machine, args->path, args->queue, &vq));
    return error_new("%s serves its queues itself, nobody else does by vhost", args->path);
}

/* --- what is in a ring --- */

static uint16_t guest16(const VirtioDevice *vdev, uint64_t addr)
{
    uint8_t buf[2];
    mem_read(vdev->dma, addr, buf, sizeof(buf));
    return ld16_le(buf);
}

/* The chain from a head on; ends where it breaks the rules, at most after `entries` descriptors. */
static void append_chain(const VirtioDevice *vdev, uint64_t table, unsigned entries, unsigned at, bool indirect, Value *list)
{
    for (unsigned left = entries; left && at < entries; left--) {
        uint8_t d[DESC_BYTES];
        mem_read(vdev->dma, table + (uint64_t)at * DESC_BYTES, d, sizeof(d));
        uint32_t length = ld32_le(d + 8);
        uint16_t flags = ld16_le(d + 12);
        if ((flags & DESC_INDIRECT) && !indirect) {
            append_chain(vdev, ld64_le(d), MIN(length / DESC_BYTES, (uint32_t)VIRTIO_QUEUE_SIZE_MAX), 0, true, list);
            return;
        }
        uint64_t bits = flags & (DESC_NEXT | DESC_WRITE | DESC_INDIRECT);
        Value *desc = value_dict();
        value_put(desc, "addr", value_uint(ld64_le(d)));
        value_put_int(desc, "len", length);
        value_put(desc, "flags", take_names(desc_flags, &bits));
        value_append(list, desc);
        if (!(flags & DESC_NEXT)) {
            return;
        }
        at = ld16_le(d + 14);
    }
}

Error *qmp_x_query_virtio_queue_element(QmpContext *ctx, const QmpXQueryVirtioQueueElementArgs *args, Value **ret)
{
    Virtqueue *vq;

    TRY(find_queue(ctx->machine, args->path, args->queue, &vq));
    const VirtioDevice *vdev = vq->vdev;
    if (virtio_has(vdev, VIRTIO_F_RING_PACKED)) {
        return error_new("queue %u is a packed ring, whose elements have no index", vq->index);
    }
    if (!vq->enabled || !vq->desc || !vq->avail || !vq->used) {
        return error_new("the driver has not set up queue %u", vq->index);
    }
    uint16_t index = args->has_index ? (uint16_t)args->index : vq->last_avail;
    uint16_t head = guest16(vdev, vq->avail + 4 + 2 * (uint64_t)(index % vq->size));
    Value *descs = value_list(), *avail = value_dict(), *used = value_dict();

    append_chain(vdev, vq->desc, vq->size, head, false, descs);
    value_put_int(avail, "flags", guest16(vdev, vq->avail));
    value_put_int(avail, "idx", guest16(vdev, vq->avail + 2));
    value_put_int(avail, "ring", head);
    value_put_int(used, "flags", guest16(vdev, vq->used));
    value_put_int(used, "idx", guest16(vdev, vq->used + 2));
    *ret = value_dict();
    value_put_str(*ret, "name", vdev->kind->name);
    value_put_int(*ret, "index", head);
    value_put(*ret, "descs", descs);
    value_put(*ret, "avail", avail);
    value_put(*ret, "used", used);
    return NULL;
}
