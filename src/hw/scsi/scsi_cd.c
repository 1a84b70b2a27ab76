/*
 * "scsi-cd": a SCSI CD/DVD drive. INQUIRY is a disk's; the multimedia commands are in mmc.c, and here are their data.
 * Raw blocks of 2352 bytes (READ CD) go through a buffer.
 */
#include "hw/scsi/scsi_disk.h"

enum { OP_INQUIRY = 0x12, RAW_BLOCKS = 64 };

/* A command that would write if this were a disk; NULL: none. */
static const ScsiCommand *write_command(uint8_t opcode)
{
    const ScsiCommand *command = scsi_rw_find(opcode);
    return command && (command->flags & WRITES) ? command : NULL;
}

static bool transfer(ScsiDevice *dev, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device)
{
    const ScsiCommand *command = write_command(cdb[0]);
    return command ? scsi_command_transfer(scsi_disk_of(dev), command, cdb, ret_bytes, ret_to_device)
                   : mmc_transfer(cdb, ret_bytes, ret_to_device);
}

/* --- reading --- */

static void read_done(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, true);
    } else {
        req->moved = req->left;
        scsi_good(req);
    }
}

static void raw_next(ScsiRequest *req);

/* Copies the buffer's blocks out, each between its header and its empty check bytes. req->index: blocks done. */
static void raw_read(ScsiRequest *req, int ret)
{
    uint8_t raw[CD_RAW_BLOCK];
    uint32_t count = (uint32_t)(req->iov[0].iov_len / CD_BLOCK);

    if (ret < 0) {
        scsi_disk_fail(req, ret, true);
        return;
    }
    for (uint32_t n = 0; n < count; n++) {
        size_t done = 0;
        mmc_raw_header(raw, (uint32_t)(req->offset / CD_BLOCK));
        memcpy(raw + 16, req->buffer + n * CD_BLOCK, CD_BLOCK);
        scsi_cut(req, req->moved, CD_RAW_BLOCK, false);
        for (unsigned i = 0; i < req->iov_count; done += req->iov[i++].iov_len) {
            memcpy(req->iov[i].iov_base, raw + done, req->iov[i].iov_len);
        }
        req->moved += CD_RAW_BLOCK;
        req->offset += CD_BLOCK;
        req->left -= CD_BLOCK;
    }
    raw_next(req);
}

static void raw_next(ScsiRequest *req)
{
    if (req->left == 0) {
        scsi_good(req);
        return;
    }
    g_free(req->iov);
    req->iov = g_new(struct iovec, 1);
    req->iov[0] = (struct iovec) { req->buffer, MIN(req->left, (uint64_t)RAW_BLOCKS * CD_BLOCK) };
    scsi_disk_read(req, req->offset, req->iov, 1, raw_read);
}

static void begin_read(ScsiRequest *req, const MmcOutcome *outcome)
{
    req->offset = (uint64_t)outcome->lba * CD_BLOCK;
    req->left = (uint64_t)outcome->blocks * CD_BLOCK;
    if (outcome->block_size == CD_RAW_BLOCK) {
        req->buffer = g_malloc(RAW_BLOCKS * CD_BLOCK);
        raw_next(req);
    } else {
        scsi_cut(req, 0, req->left, false);
        scsi_disk_read(req, req->offset, req->iov, req->iov_count, read_done);
    }
}

/* --- commands --- */

static void take_parameters(ScsiDisk *disk, ScsiRequest *req, uint32_t bytes, MmcOutcome *outcome)
{
    g_autofree uint8_t *list = g_malloc0(MAX(bytes, 8u));
    if (scsi_take(req, list, bytes) < bytes) {
        outcome->kind = MMC_CHECK;
        outcome->sense = (ScsiSense) { SENSE_ILLEGAL, ASC_LIST_LENGTH, 0 };
    } else {
        mmc_parameters(&disk->mmc, req->cdb, list, bytes, outcome);
    }
}

static void run_command(ScsiRequest *req)
{
    ScsiDisk *disk = scsi_disk_of(req->dev);
    uint8_t reply[MMC_REPLY_MAX];
    MmcOutcome outcome;

    if (req->cdb[0] == OP_INQUIRY) {
        scsi_inquiry(disk, req);
        return;
    }
    if (write_command(req->cdb[0])) {
        scsi_check(req, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED, 0);
        return;
    }
    mmc_command(&disk->mmc, req->cdb, reply, &outcome);
    if (outcome.kind == MMC_RECEIVE) {
        take_parameters(disk, req, outcome.bytes, &outcome);
    }
    switch (outcome.kind) {
    case MMC_CHECK:
        scsi_check(req, outcome.sense.key, outcome.sense.asc, outcome.sense.ascq);
        break;
    case MMC_REPLY:
        scsi_reply(req, reply, outcome.length, outcome.allocated);
        break;
    case MMC_READ:
        begin_read(req, &outcome);
        break;
    default:
        scsi_good(req);
        break;
    }
}

static const ScsiDeviceOps ops = {
    .transfer = transfer, .command = run_command, .cancel = scsi_disk_cancel, .reset = scsi_disk_unit_reset, .drain = scsi_disk_drain,
};

static Error *plug(Device *dev)
{
    ScsiDisk *disk = container_of(dev, ScsiDisk, scsi.dev);
    DiskTraits traits = { .optional = true, .ops = &mmc_blk_ops, .opaque = &disk->mmc };

    disk->removable = true;
    if (!disk->conf.logical_block_size) {
        disk->conf.logical_block_size = CD_BLOCK;
    } else if (disk->conf.logical_block_size != CD_BLOCK) {
        return error_new("%s: the blocks of a CD have %d bytes, so logical_block_size cannot be %" G_GUINT64_FORMAT, device_label(dev),
                         CD_BLOCK, disk->conf.logical_block_size);
    }
    return scsi_disk_plug(disk, TYPE_CD, &traits, "QEMU CD-ROM");
}

static const Prop props[] = { SCSI_DISK_PROPS, { 0 } };

static const StateField state[] = {
    SCSI_DISK_STATE,
    STATE_NOT(ScsiDisk, removable, "always so"),
    STATE_NOT(ScsiDisk, max_unmap_size, "a hard disk's"),
    STATE_NOT(ScsiDisk, rotation_rate, "a hard disk's"),
    STATE_NOT(ScsiDisk, cyls, "a hard disk's"),
    STATE_NOT(ScsiDisk, heads, "a hard disk's"),
    STATE_NOT(ScsiDisk, secs, "a hard disk's"),
    STATE_NOT(ScsiDisk, lcyls, "a hard disk's"),
    STATE_NOT(ScsiDisk, lheads, "a hard disk's"),
    STATE_NOT(ScsiDisk, lsecs, "a hard disk's"),
    STATE_NOT(ScsiDisk, dpofua, "a hard disk's"),
    { 0 },
};

DEVICE_TYPE(scsi_cd, SCSI_DEVICE_OBJECT("scsi-cd", ScsiDisk, props), .desc = "virtual SCSI CD-ROM", .category = DEV_STORAGE,
            .bus = &scsi_bus_type, .state = state, .hotplug = true, .plug = plug, .unplug = scsi_disk_unplug,
            .reset = scsi_disk_reset, .saving = scsi_disk_saving, .loaded = scsi_disk_loaded, .extra = &ops);
