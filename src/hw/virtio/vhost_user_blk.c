/*
 * vhost-user-blk: a virtio disk whose image another program has (a qemu-storage-daemon, SPDK ...), reached through the
 * socket of a chardev by the vhost-user protocol.
 *
 * The queues are served here, as those of virtio-blk are, and data are copied through memory of the block driver
 * virtio-blk-vhost-user. So the guest's memory need not be shared, other programs cannot reach it, and code that was read
 * from the disk is seen by the translator. The price is one copy.
 */
#include <unistd.h>

#include "block/protocol/vhost_user.h"
#include "chardev/chardev.h"
#include "hw/virtio/virtio_blk.h"

enum { MAX_SECTORS = 0x3fffff }; /* of a discard, a write of zeroes */

typedef struct VhostUserBlk {
    VirtioBlk blk;
    CharFront chr;
} VhostUserBlk;

/* The node that stands for the other program's disk. The caller owns the reference. */
static Error *open_node(VhostUserBlk *vub, BlockNode **ret_node)
{
    Device *dev = &vub->blk.vdev.dev;
    BlockGraph *graph = machine_service(dev->machine, BLOCK_SERVICE);
    g_autoptr(KeyValues) opts = keyvalues_new();
    int fd = graph ? char_take_socket(&vub->chr) : -1;

    if (fd < 0) {
        return error_new("%s: the chardev is to be a unix socket with a back end at its other end", device_label(dev));
    }
    g_autofree char *number = g_strdup_printf("%d", fd);
    keyvalues_set(opts, "driver", "virtio-blk-vhost-user");
    keyvalues_set(opts, "x-fd", number);
    keyvalues_set(opts, "discard", "unmap");
    Error *err = block_open_options(graph, opts, ret_node);
    close(fd);
    return err ? error_prefix(err, "%s: ", device_label(dev)) : NULL;
}

/* What the other properties of a virtio-blk would be. */
static void set_defaults(VirtioBlk *blk)
{
    blk->conf.discard_granularity = UINT32_MAX;
    blk->conf.backend_defaults = blk->conf.write_cache = AUTO_AUTO;
    blk->conf.account_invalid = blk->conf.account_failed = AUTO_AUTO;
    blk->conf.rerror = blk->conf.werror = DISK_ERROR_AUTO;
    blk->discard = blk->write_zeroes = true;
    blk->max_discard_sectors = blk->max_write_zeroes_sectors = MAX_SECTORS;
}

static void forget(VhostUserBlk *vub)
{
    g_clear_pointer(&vub->blk.conf.drive.name, g_free);
    g_clear_pointer(&vub->blk.serial, g_free);
}

static Error *plug(VirtioDevice *vdev)
{
    VhostUserBlk *vub = container_of(vdev, VhostUserBlk, blk.vdev);
    BlockNode *node;

    if (!char_front_attached(&vub->chr)) {
        return error_new("%s: chardev property not set", device_label(&vdev->dev));
    }
    TRY(open_node(vub, &node));
    set_defaults(&vub->blk);
    g_free(vub->blk.conf.drive.name);
    vub->blk.conf.drive.name = g_strdup(node->name);
    vub->blk.serial = g_strdup(vhost_user_disk_id(node));
    Error *err = virtio_blk_plug(vdev);
    node_unref(node); /* the drive has it */
    if (err) {
        forget(vub);
    }
    return err;
}

static void unplug(VirtioDevice *vdev)
{
    VhostUserBlk *vub = container_of(vdev, VhostUserBlk, blk.vdev);
    virtio_blk_unplug(vdev);
    forget(vub);
    char_front_close(&vub->chr);
}

static const VirtioKind kind = { VIRTIO_BLK_KIND(plug, unplug) };

static const Prop props[] = {
    PROP_CHARDEV("chardev", VhostUserBlk, chr, .help = "Socket at whose other end a back end is"),
    PROP_U16("num-queues", VhostUserBlk, blk.num_queues, UINT16_MAX, .help = "Request queues; unset: one a CPU"),
    PROP_U16("queue-size", VhostUserBlk, blk.queue_size, 128, .help = "Entries of a queue, a power of two"),
    PROP_BOOL("config-wce", VhostUserBlk, blk.config_wce, true, .help = "Whether the guest may switch the write cache"),
    PROP_("bootindex", prop_i32, VhostUserBlk, blk.vdev.dev.bootindex, .def = -1),
    { 0 },
};

static const StateField state[] = { STATE_STRUCT(VhostUserBlk, blk, virtio_blk_state), { 0 } };

VIRTIO_PCI_DEVICE(vhost_user_blk, "vhost-user-blk", NULL, kind, VhostUserBlk, props, state, DEV_STORAGE,
                  "Virtio disk of another program, by vhost-user", virtio_pci_ident_block, .boot_unit = "disk@0,0");
