/* What the disks on virtio-blk queues share: virtio-blk itself, and vhost-user-blk, whose image is another program's. */
#ifndef OSTRICH_HW_VIRTIO_BLK_H
#define OSTRICH_HW_VIRTIO_BLK_H

#include "bus/virtio.h"
#include "hw/block/disk_conf.h"

typedef struct VirtioBlk {
    VirtioDevice vdev;
    DiskConf conf;
    char *serial;
    Object *iothread;
    uint16_t num_queues, queue_size;
    bool discard, write_zeroes, config_wce, original_wce;
    uint32_t max_discard_sectors, max_write_zeroes_sectors;
    uint32_t cyls, heads, secs, lcyls, lheads, lsecs;
} VirtioBlk;

Error *virtio_blk_plug(VirtioDevice *vdev) MUST_USE; /* attaches to conf.drive */
void virtio_blk_unplug(VirtioDevice *vdev);
void virtio_blk_reset(VirtioDevice *vdev);
void virtio_blk_saving(VirtioDevice *vdev);
void virtio_blk_get_config(VirtioDevice *vdev, uint8_t *config);
void virtio_blk_config_written(VirtioDevice *vdev, unsigned offset, unsigned size);
void virtio_blk_features_chosen(VirtioDevice *vdev);

extern const StateField virtio_blk_state[];

enum { VIRTIO_BLK_CONFIG = 60 };
/* The descriptor's fields; a device that embeds VirtioBlk first has its own plug and unplug around those above. */
#define VIRTIO_BLK_KIND(plug_, unplug_)                                                            \
    .name = "virtio-blk", .id = VIRTIO_ID_BLOCK, .config_size = VIRTIO_BLK_CONFIG, .plug = plug_,  \
    .unplug = unplug_, .reset = virtio_blk_reset, .saving = virtio_blk_saving,                     \
    .get_config = virtio_blk_get_config, .config_written = virtio_blk_config_written,              \
    .features_chosen = virtio_blk_features_chosen

#endif
