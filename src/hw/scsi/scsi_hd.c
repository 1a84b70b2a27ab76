/*
 * "scsi-hd": a SCSI disk. Its commands are in scsi_rw.c, scsi_inquiry.c and scsi_mode.c; with removable=on it has the
 * tray of mmc.c.
 */
#include "hw/scsi/scsi_disk.h"

static bool transfer(ScsiDevice *dev, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device)
{
    const ScsiCommand *command = scsi_rw_find(cdb[0]);
    return command && scsi_command_transfer(scsi_disk_of(dev), command, cdb, ret_bytes, ret_to_device);
}

static void run_command(ScsiRequest *req)
{
    ScsiDisk *disk = scsi_disk_of(req->dev);
    const ScsiCommand *command = scsi_rw_find(req->cdb[0]);

    if (!command) {
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_OPCODE, 0);
        return;
    }
    if ((command->flags & NEEDS_MEDIUM) && disk->mmc.attention) {
        uint8_t asc = disk->mmc.attention;
        disk->mmc.attention = 0;
        scsi_check(req, SENSE_ATTENTION, asc, 0);
        return;
    }
    if ((command->flags & NEEDS_MEDIUM) && !scsi_disk_ready(disk, req)) {
        return;
    }
    if ((command->flags & WRITES) && blk_is_readonly(disk_blk(&disk->conf))) {
        scsi_check(req, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED, 0);
        return;
    }
    command->run(disk, req);
}

static const ScsiDeviceOps ops = {
    .transfer = transfer, .command = run_command, .cancel = scsi_disk_cancel, .reset = scsi_disk_unit_reset, .drain = scsi_disk_drain,
};

static void resized(void *opaque)
{
    ScsiDisk *disk = container_of(opaque, ScsiDisk, mmc);
    scsi_changed(&disk->scsi, ASC_PARAMETERS_CHANGED, 9); /* CAPACITY DATA HAS CHANGED */
}
static const BlkDeviceOps fixed_ops = { .resized = resized };

static Error *plug(Device *dev)
{
    ScsiDisk *disk = container_of(dev, ScsiDisk, scsi.dev);
    DiskTraits traits = {
        .writes = true, .read_only_ok = true, .optional = disk->removable,
        .ops = disk->removable ? &mmc_blk_ops : &fixed_ops, .opaque = &disk->mmc,
    };
    return scsi_disk_plug(disk, TYPE_DISK, &traits, "QEMU HARDDISK");
}

static const Prop props[] = {
    SCSI_DISK_PROPS,
    PROP_BOOL("removable", ScsiDisk, removable, false, .help = "The medium can be taken out"),
    PROP_BOOL("dpofua", ScsiDisk, dpofua, false, .help = "Say that DPO and FUA are supported"),
    PROP_U64("max_unmap_size", ScsiDisk, max_unmap_size, 1 * GiB, .help = "Bytes that one UNMAP may name"),
    PROP_U16("rotation_rate", ScsiDisk, rotation_rate, 0, .help = "0 unknown, 1 does not rotate, else rotations a minute"),
    PROP_U32("cyls", ScsiDisk, cyls, 0, .max = 0xffffff, .help = "Geometry of the mode pages; 0: by the size"),
    PROP_U32("heads", ScsiDisk, heads, 0, .max = 255),
    PROP_U32("secs", ScsiDisk, secs, 0, .max = 255),
    PROP_U32("lcyls", ScsiDisk, lcyls, 0, .help = "Geometry that the firmware uses"),
    PROP_U32("lheads", ScsiDisk, lheads, 0),
    PROP_U32("lsecs", ScsiDisk, lsecs, 0),
    { 0 },
};

static const StateField state[] = { SCSI_DISK_STATE, { 0 } };

DEVICE_TYPE(scsi_hd, SCSI_DEVICE_OBJECT("scsi-hd", ScsiDisk, props), .desc = "virtual SCSI disk", .category = DEV_STORAGE,
            .bus = &scsi_bus_type, .state = state, .hotplug = true, .plug = plug, .unplug = scsi_disk_unplug,
            .reset = scsi_disk_reset, .saving = scsi_disk_saving, .loaded = scsi_disk_loaded, .extra = &ops);
