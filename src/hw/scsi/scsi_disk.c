/* What SCSI disks and CD drives have in common: identity, life, saved state, requests to the back end. */
#include "hw/scsi/scsi_disk.h"

#include <errno.h>

#include "base/endian.h"

enum { DISCARD_GRANULARITY = 4096, DEVICE_ID_MAX = 247, SERIAL_MAX = 36 };

static ScsiDisk *of_device(Device *dev)
{
    return container_of(dev, ScsiDisk, scsi.dev);
}

/* --- the medium --- */

uint32_t scsi_disk_block(const ScsiDisk *disk)
{
    return (uint32_t)disk->conf.logical_block_size;
}

uint64_t scsi_disk_blocks(const ScsiDisk *disk)
{
    int64_t length = blk_length(disk_blk(&disk->conf));
    return length > 0 ? (uint64_t)length / scsi_disk_block(disk) : 0;
}

bool scsi_disk_discards(const ScsiDisk *disk)
{
    return disk->conf.discard_granularity != 0;
}

bool scsi_disk_ready(ScsiDisk *disk, ScsiRequest *req)
{
    if (mmc_medium_present(&disk->mmc)) {
        return true;
    }
    scsi_check(req, SENSE_NOT_READY, ASC_NO_MEDIUM, disk->mmc.tray_open ? 2 : 1);
    return false;
}

void scsi_put_text(uint8_t *at, size_t length, const char *text)
{
    memset(at, ' ', length);
    memcpy(at, text, MIN(strlen(text), length));
}

/* --- command descriptor blocks --- */

void scsi_cdb_range(const uint8_t *cdb, uint64_t *ret_lba, uint32_t *ret_blocks)
{
    switch (scsi_cdb_length(cdb)) {
    case 6:
        *ret_lba = (uint64_t)(cdb[1] & 0x1f) << 16 | cdb[2] << 8 | cdb[3];
        *ret_blocks = cdb[4] ? cdb[4] : 256;
        break;
    case 10:
        *ret_lba = ld32_be(cdb + 2);
        *ret_blocks = ld16_be(cdb + 7);
        break;
    case 12:
        *ret_lba = ld32_be(cdb + 2);
        *ret_blocks = ld32_be(cdb + 6);
        break;
    default:
        *ret_lba = ld64_be(cdb + 2);
        *ret_blocks = ld32_be(cdb + 10);
        break;
    }
}

bool scsi_command_transfer(const ScsiDisk *disk, const ScsiCommand *command, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device)
{
    uint64_t lba, block = scsi_disk_block(disk);
    uint32_t blocks;
    unsigned check = cdb[1] >> 1 & 3; /* BYTCHK */

    *ret_to_device = command->flags & TO_DEVICE;
    *ret_bytes = 0;
    scsi_cdb_range(cdb, &lba, &blocks);
    switch (command->length) {
    case LENGTH_NONE:
        break;
    case LENGTH_BYTE4:
        *ret_bytes = cdb[4];
        break;
    case LENGTH_BE16_AT_3:
        *ret_bytes = ld16_be(cdb + 3);
        break;
    case LENGTH_BE16_AT_7:
        *ret_bytes = ld16_be(cdb + 7);
        break;
    case LENGTH_BE32_AT_10:
        *ret_bytes = ld32_be(cdb + 10);
        break;
    case LENGTH_EIGHT:
        *ret_bytes = 8;
        break;
    case LENGTH_BLOCKS:
        *ret_bytes = blocks * block;
        break;
    case LENGTH_ONE_BLOCK:
        *ret_bytes = cdb[1] & 1 ? 0 : block; /* NDOB */
        break;
    case LENGTH_COMPARE:
        *ret_bytes = check == 1 ? blocks * block : check == 3 ? block : 0;
        break;
    }
    return true;
}

/* --- requests --- */

static void came_back(void *opaque, int ret)
{
    ScsiRequest *req = opaque;
    req->blk = NULL;
    if (req->cancelled) {
        scsi_good(req); /* the bus reports the cancellation */
    } else if (ret == BLK_RETURNED) {
        scsi_return(req);
    } else {
        req->step(req, ret);
    }
}

static BlockBackend *blk_of(ScsiRequest *req)
{
    return disk_blk(&scsi_disk_of(req->dev)->conf);
}

void scsi_disk_read(ScsiRequest *req, uint64_t offset, const struct iovec *iov, unsigned count, ScsiStep *step)
{
    req->step = step;
    req->blk = blk_aio_preadv(blk_of(req), offset, iov, count, came_back, req);
}

void scsi_disk_write(ScsiRequest *req, uint64_t offset, const struct iovec *iov, unsigned count, bool fua, ScsiStep *step)
{
    req->step = step;
    req->blk = blk_aio_pwritev(blk_of(req), offset, iov, count, fua ? REQ_FUA : 0, came_back, req);
}

void scsi_disk_flush(ScsiRequest *req, ScsiStep *step)
{
    req->step = step;
    req->blk = blk_aio_flush(blk_of(req), came_back, req);
}

void scsi_disk_discard(ScsiRequest *req, uint64_t offset, uint64_t bytes, ScsiStep *step)
{
    req->step = step;
    req->blk = blk_aio_discard(blk_of(req), offset, bytes, came_back, req);
}

void scsi_disk_zero(ScsiRequest *req, uint64_t offset, uint64_t bytes, bool unmap, ScsiStep *step)
{
    req->step = step;
    req->blk = blk_aio_write_zeroes(blk_of(req), offset, bytes, unmap ? REQ_MAY_UNMAP : 0, came_back, req);
}

void scsi_disk_fail(ScsiRequest *req, int ret, bool reading)
{
    switch (-ret) {
    case ENOMEDIUM:
        scsi_check(req, SENSE_NOT_READY, ASC_NO_MEDIUM, 0);
        break;
    case ENOMEM:
        scsi_check(req, SENSE_HARDWARE_ERROR, ASC_INTERNAL_FAILURE, 0);
        break;
    case EINVAL:
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
        break;
    case ENOSPC: /* space allocation failed */
        scsi_check(req, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED, 7);
        break;
    default:
        scsi_check(req, SENSE_MEDIUM_ERROR, reading ? ASC_UNRECOVERED_READ : ASC_WRITE_ERROR, 0);
        break;
    }
}

void scsi_disk_cancel(ScsiRequest *req)
{
    if (req->blk) {
        blk_cancel(req->blk);
    }
}

void scsi_disk_drain(ScsiDevice *dev)
{
    BlockBackend *blk = disk_blk(&scsi_disk_of(dev)->conf);
    if (blk && blk_busy(blk)) {
        blk_drain(blk);
    }
}

/* --- life --- */

static Error *check_text(const ScsiDisk *disk, const char *what, const char *text, size_t max)
{
    if (text && strlen(text) > max) {
        return error_new("%s: %s '%s' is too long (at most %zu characters)", device_label(&disk->scsi.dev), what, text, max);
    }
    return NULL;
}

static void take_default(char **text, const char *value)
{
    if (!*text) {
        *text = g_strdup(value);
    }
}

Error *scsi_disk_plug(ScsiDisk *disk, uint8_t type, const DiskTraits *traits, const char *product)
{
    Device *dev = &disk->scsi.dev;

    disk->type = type;
    disk->mmc.conf = &disk->conf;
    TRY(check_text(disk, "vendor", disk->vendor, 8));
    TRY(check_text(disk, "product", disk->product, 16));
    TRY(check_text(disk, "ver", disk->version, 4));
    TRY(check_text(disk, "serial", disk->serial, SERIAL_MAX));
    TRY(check_text(disk, "device_id", disk->device_id, DEVICE_ID_MAX));
    TRY(disk_conf_attach(&disk->conf, dev, traits));
    TRY(blk_set_loop(disk_blk(&disk->conf), disk->scsi.bus->loop));
    if (disk->conf.discard_granularity == UINT32_MAX) {
        disk->conf.discard_granularity = MAX(disk->conf.logical_block_size, (uint64_t)DISCARD_GRANULARITY);
    } else if (disk->conf.discard_granularity % disk->conf.logical_block_size) {
        return error_new("%s: discard_granularity must be a multiple of the block size %" G_GUINT64_FORMAT, device_label(dev),
                         disk->conf.logical_block_size);
    }
    take_default(&disk->vendor, "QEMU");
    take_default(&disk->product, product);
    take_default(&disk->version, "2.5+");
    if (disk->serial || blk_name(disk_blk(&disk->conf))[0]) {
        take_default(&disk->device_id, disk->serial ? disk->serial : blk_name(disk_blk(&disk->conf)));
        disk->device_id[MIN(strlen(disk->device_id), (size_t)DEVICE_ID_MAX)] = '\0';
    }
    disk->original_wce = blk_write_cache(disk_blk(&disk->conf));
    scsi_device_plugged(&disk->scsi);
    return NULL;
}

static void cancel_own(ScsiDisk *disk)
{
    LIST_FOREACH (req, &disk->scsi.bus->requests, ScsiRequest, node) {
        if (req->dev == &disk->scsi) {
            scsi_cancel(req);
        }
    }
}

void scsi_disk_unplug(Device *dev)
{
    ScsiDisk *disk = of_device(dev);
    if (disk_blk(&disk->conf)) {
        cancel_own(disk);
    }
    disk_conf_detach(&disk->conf); /* waits for them */
}

void scsi_disk_unit_reset(ScsiDevice *dev)
{
    ScsiDisk *disk = scsi_disk_of(dev);
    mmc_reset(&disk->mmc);
    blk_set_write_cache(disk_blk(&disk->conf), disk->original_wce);
}

/* Power-on. */
void scsi_disk_reset(Device *dev)
{
    ScsiDisk *disk = of_device(dev);
    cancel_own(disk);
    scsi_disk_drain(&disk->scsi);
    scsi_disk_unit_reset(&disk->scsi);
    scsi_attention(&disk->scsi, ASC_RESET, 0);
}

void scsi_disk_saving(Device *dev)
{
    ScsiDisk *disk = of_device(dev);
    scsi_disk_drain(&disk->scsi);
    blk_return_held(disk_blk(&disk->conf));
    disk->write_cache = blk_write_cache(disk_blk(&disk->conf));
}

Error *scsi_disk_loaded(Device *dev)
{
    ScsiDisk *disk = of_device(dev);
    blk_set_write_cache(disk_blk(&disk->conf), disk->write_cache);
    return NULL;
}
