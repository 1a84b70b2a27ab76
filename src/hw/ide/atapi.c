/*
 * "ide-cd": an ATAPI CD/DVD drive, its packet protocol and data transfers. The commands are in hw/scsi/mmc.c.
 *
 * ATA/ATAPI-6, 8.23 (PACKET) and 9.8; SFF-8020i. Data go through the buffer: a read command fills it with as many
 * blocks as fit, and it is drained by DRQ blocks of at most the byte count limit, or by DMA.
 */
#include "hw/ide/atapi.h"

#include <errno.h>

#include "base/endian.h"

enum { CMD_DEVICE_RESET = 0x08, CMD_PACKET = 0xa0, CMD_IDENTIFY_PACKET = 0xa1, CMD_IDENTIFY = 0xec };
enum { FEATURE_DMA = 0x01, FEATURE_OVERLAP = 0x02 };

/* --- ends of a command --- */

static void set_reason(IdeDrive *drive, uint8_t reason)
{
    drive->nsector.now = reason;
}

static void end_dma(IdeDrive *drive, bool error)
{
    if (drive->dma) {
        IdeBus *ide = drive->ide.channel;
        drive->dma = false;
        ide->ops->dma_end(ide->host, error);
    }
}

static void atapi_good(IdeDrive *drive)
{
    end_dma(drive, false);
    drive->error = 0;
    drive->status = 0;
    set_reason(drive, ATAPI_CD | ATAPI_IO);
    ide_complete(drive);
}

void atapi_check(IdeDrive *drive, uint8_t key, uint8_t asc, uint8_t ascq)
{
    end_dma(drive, true);
    drive->atapi.mmc.sense_key = key;
    drive->atapi.mmc.asc = asc;
    drive->atapi.mmc.ascq = ascq;
    drive->status = 0;
    set_reason(drive, ATAPI_CD | ATAPI_IO);
    ide_fail(drive, (uint8_t)(key << 4) | (key == SENSE_ILLEGAL ? ATA_ABRT : 0));
}

/* --- data to the guest --- */

static void feed(IdeDrive *drive);

static void blocks_read(IdeDrive *drive)
{
    if (drive->result < 0) {
        if (drive->result == -ENOMEDIUM) {
            atapi_check(drive, SENSE_NOT_READY, ASC_NO_MEDIUM, 0);
        } else {
            atapi_check(drive, SENSE_MEDIUM_ERROR, 0x11, 0); /* unrecovered read error */
        }
        return;
    }
    Atapi *atapi = &drive->atapi;
    uint32_t count = (uint32_t)drive->vec.iov_len / CD_BLOCK;
    if (atapi->block_size == CD_RAW_BLOCK) {
        /* Spread the blocks from the last to the first, each with its sync, header and empty EDC/ECC. */
        for (uint32_t n = count; n-- > 0;) {
            uint8_t *raw = drive->buffer + n * CD_RAW_BLOCK;
            memmove(raw + 16, drive->buffer + n * CD_BLOCK, CD_BLOCK);
            mmc_raw_header(raw, (uint32_t)(atapi->lba + n));
        }
    }
    atapi->lba += count;
    atapi->blocks -= count;
    drive->filled = count * atapi->block_size;
    drive->next = 0;
    feed(drive);
}

static void read_blocks(IdeDrive *drive)
{
    Atapi *atapi = &drive->atapi;
    uint32_t count = MIN(atapi->blocks, IDE_BUFFER / atapi->block_size);
    drive->vec = (struct iovec) { drive->buffer, count * CD_BLOCK };
    ide_read(drive, atapi->lba * CD_BLOCK, &drive->vec, 1, blocks_read);
}

/* The buffer is drained: more blocks, or the end. */
static void next_data(IdeDrive *drive)
{
    if (drive->atapi.blocks > 0) {
        read_blocks(drive);
    } else {
        atapi_good(drive);
    }
}

static void feed_pio(IdeDrive *drive)
{
    uint32_t limit = drive->atapi.byte_limit & ~1u, left = drive->filled - drive->next, start = drive->next;
    uint32_t bytes = MIN(left, limit ? limit : 0xfffe);
    drive->next += bytes;
    drive->lba_mid.now = (uint8_t)bytes;
    drive->lba_high.now = (uint8_t)(bytes >> 8);
    set_reason(drive, ATAPI_IO);
    /* Data move in words: an odd end is padded. */
    ide_pio(drive, start, ALIGN_UP(bytes, 2), true, false, feed);
}

static void feed_dma(IdeDrive *drive)
{
    IdeBus *ide = drive->ide.channel;
    while (drive->next < drive->filled) {
        const struct iovec *iov;
        unsigned count;
        uint32_t bytes = ide->ops->dma_map(ide->host, drive->filled - drive->next, 1, true, &iov, &count);
        if (bytes == 0) {
            break;
        }
        for (unsigned i = 0; i < count; i++) {
            memcpy(iov[i].iov_base, drive->buffer + drive->next, iov[i].iov_len);
            drive->next += (uint32_t)iov[i].iov_len;
        }
        ide->ops->dma_unmap(ide->host, bytes);
    }
    if (drive->next < drive->filled) { /* the guest's list is too short */
        atapi_check(drive, SENSE_ABORTED, 0, 0);
    } else {
        next_data(drive);
    }
}

static void feed_dma_first(IdeDrive *drive)
{
    if (drive->filled) {
        feed_dma(drive);
    } else {
        next_data(drive);
    }
}

static void feed(IdeDrive *drive)
{
    if (drive->next >= drive->filled) {
        next_data(drive);
    } else if (drive->atapi.dma) {
        feed_dma(drive);
    } else {
        feed_pio(drive);
    }
}

static void start_data(IdeDrive *drive)
{
    drive->next = 0;
    if (drive->atapi.dma) {
        drive->dma = true;
        ide_dma(drive, feed_dma_first);
    } else {
        feed(drive);
    }
}

void atapi_reply(IdeDrive *drive, uint32_t length, uint32_t allocated)
{
    drive->filled = MIN(length, allocated);
    drive->atapi.blocks = 0;
    start_data(drive);
}

static void begin_read(IdeDrive *drive, const MmcOutcome *outcome)
{
    Atapi *atapi = &drive->atapi;
    atapi->lba = outcome->lba;
    atapi->blocks = outcome->blocks;
    atapi->block_size = outcome->block_size;
    drive->filled = 0;
    start_data(drive);
}

/* --- parameters from the guest --- */

static void parameters_given(IdeDrive *drive)
{
    MmcOutcome outcome;
    mmc_parameters(&drive->atapi.mmc, drive->atapi.packet, drive->buffer, drive->atapi.out_bytes, &outcome);
    if (outcome.kind == MMC_GOOD) {
        atapi_good(drive);
    } else {
        atapi_check(drive, outcome.sense.key, outcome.sense.asc, outcome.sense.ascq);
    }
}

static void parameters_dma(IdeDrive *drive)
{
    IdeBus *ide = drive->ide.channel;
    uint32_t have = 0, total = drive->atapi.out_bytes;
    while (have < total) {
        const struct iovec *iov;
        unsigned count;
        uint32_t bytes = ide->ops->dma_map(ide->host, total - have, 1, false, &iov, &count);
        if (bytes == 0) {
            atapi_check(drive, SENSE_ABORTED, 0, 0);
            return;
        }
        for (unsigned i = 0; i < count; i++) {
            memcpy(drive->buffer + have, iov[i].iov_base, iov[i].iov_len);
            have += (uint32_t)iov[i].iov_len;
        }
        ide->ops->dma_unmap(ide->host, bytes);
    }
    parameters_given(drive);
}

static void atapi_receive(IdeDrive *drive, uint32_t bytes)
{
    if (bytes == 0) {
        atapi_good(drive);
        return;
    }
    drive->atapi.out_bytes = bytes;
    if (drive->atapi.dma) {
        drive->dma = true;
        ide_dma(drive, parameters_dma);
        return;
    }
    drive->lba_mid.now = (uint8_t)bytes;
    drive->lba_high.now = (uint8_t)(bytes >> 8);
    set_reason(drive, 0);
    ide_pio(drive, 0, ALIGN_UP(bytes, 2), false, false, parameters_given);
}

/* --- ATA commands of a packet device --- */

static void run_packet(IdeDrive *drive)
{
    MmcOutcome outcome;
    const uint8_t *packet = drive->atapi.packet;

    if (packet[0] == 0x12) {
        atapi_inquiry(drive, packet);
        return;
    }
    mmc_command(&drive->atapi.mmc, packet, drive->buffer, &outcome);
    switch (outcome.kind) {
    case MMC_GOOD:
        atapi_good(drive);
        break;
    case MMC_CHECK:
        atapi_check(drive, outcome.sense.key, outcome.sense.asc, outcome.sense.ascq);
        break;
    case MMC_REPLY:
        atapi_reply(drive, outcome.length, outcome.allocated);
        break;
    case MMC_READ:
        begin_read(drive, &outcome);
        break;
    case MMC_RECEIVE:
        atapi_receive(drive, outcome.bytes);
        break;
    }
}

static void packet_given(IdeDrive *drive)
{
    memcpy(drive->atapi.packet, drive->buffer, sizeof(drive->atapi.packet));
    drive->status = ATA_BSY | ATA_DRDY | ATA_DSC;
    run_packet(drive);
}

static void packet(IdeDrive *drive)
{
    uint8_t features = drive->features.now;
    if ((features & FEATURE_OVERLAP) || ((features & FEATURE_DMA) && !ide_has_dma(drive))) {
        ide_fail(drive, ATA_ABRT);
        return;
    }
    drive->atapi.dma = features & FEATURE_DMA;
    drive->atapi.byte_limit = drive->lba_mid.now | drive->lba_high.now << 8;
    drive->atapi.blocks = 0;
    set_reason(drive, ATAPI_CD);
    /* What the command before left would make no sense in a state that is saved while the drive waits. */
    drive->next = drive->filled = 0;
    ide_pio(drive, 0, sizeof(drive->atapi.packet), false, true, packet_given);
}

static void identify_packet(IdeDrive *drive)
{
    uint16_t words[256] = { 0 };
    words[0] = 0x85c0; /* CD-ROM, removable, accelerated DRQ, 12-byte packets */
    ide_identify_text(words + 10, 10, drive->serial);
    words[20] = 3;
    words[21] = 512;
    words[22] = 4;
    ide_identify_text(words + 23, 4, drive->version);
    ide_identify_text(words + 27, 20, drive->model);
    words[48] = 1;
    words[49] = 0x0a00 | (ide_has_dma(drive) ? 0x0100 : 0);
    words[53] = 0x0007;
    ide_identify_modes(drive, words);
    words[64] = 0x0003;
    words[65] = words[66] = words[67] = words[68] = 0xb4;
    words[71] = words[72] = 30;
    words[80] = 0x001e;
    words[82] = 0x0210; /* PACKET, DEVICE RESET */
    words[83] = words[84] = words[87] = 0x4000;
    words[85] = 0x0210;
    if (drive->wwn) {
        words[84] |= 0x0100;
        words[87] |= 0x0100;
        for (unsigned i = 0; i < 4; i++) {
            words[108 + i] = (uint16_t)(drive->wwn >> (16 * (3 - i)));
        }
    }
    for (unsigned i = 0; i < 256; i++) {
        st16_le(drive->buffer + i * 2, words[i]);
    }
    ide_pio(drive, 0, IDE_SECTOR, true, false, NULL);
}

static void atapi_command(IdeDrive *drive, uint8_t command)
{
    bool good;
    switch (command) {
    case CMD_PACKET:
        packet(drive);
        break;
    case CMD_IDENTIFY_PACKET:
        identify_packet(drive);
        break;
    case CMD_DEVICE_RESET: /* no interrupt */
        ide_set_signature(drive);
        drive->error = 1;
        drive->status = 0;
        break;
    case CMD_IDENTIFY: /* aborted with the signature, so that the host knows */
    case 0x20:
        ide_set_signature(drive);
        ide_fail(drive, ATA_ABRT);
        break;
    case 0xef:
        good = drive->features.now != 0x03;
        if (!good) {
            ide_transfer_mode(drive, drive->nsector.now, &good);
        }
        if (good) {
            ide_complete(drive);
        } else {
            ide_fail(drive, ATA_ABRT);
        }
        break;
    case 0xe5:
        drive->nsector.now = 0xff;
        ide_complete(drive);
        break;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xe6:
        ide_complete(drive);
        break;
    default:
        ide_fail(drive, ATA_ABRT);
        break;
    }
}

static IdePhase *const atapi_phases[] = { feed, packet_given, parameters_given, feed_dma_first, parameters_dma, read_blocks, NULL };

static IdePhase *atapi_again(IdePhase *then)
{
    return read_blocks;
}

static bool atapi_plausible(const IdeDrive *drive)
{
    const Atapi *atapi = &drive->atapi;
    uint64_t total = mmc_blocks(&atapi->mmc);
    if (drive->again && atapi->blocks == 0) {
        return false;
    }
    return drive->next <= drive->filled &&
           (atapi->blocks == 0 || ((atapi->block_size == CD_BLOCK || atapi->block_size == CD_RAW_BLOCK) &&
                                   atapi->lba <= total && atapi->blocks <= total - atapi->lba));
}

const IdeDriveOps atapi_ops = {
    .command = atapi_command, .signature_mid = 0x14, .signature_high = 0xeb, .phases = atapi_phases,
    .plausible = atapi_plausible, .again = atapi_again,
};

/* --- the device --- */

static Error *ide_cd_plug(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    DiskTraits traits = { .optional = true, .ops = &mmc_blk_ops, .opaque = &drive->atapi.mmc };
    drive->atapi.mmc.conf = &drive->conf;
    return ide_drive_plug(drive, &atapi_ops, &traits, "QEMU DVD-ROM");
}

static const Prop ide_cd_props[] = {
    DISK_CONF_PROPS(IdeDrive, conf, ide.dev),
    PROP_STR("serial", IdeDrive, serial),
    PROP_STR("model", IdeDrive, model),
    PROP_STR("ver", IdeDrive, version),
    PROP_U64("wwn", IdeDrive, wwn, 0),
    { 0 },
};

DEVICE_TYPE(ide_cd, IDE_DEVICE_OBJECT("ide-cd", IdeDrive, ide_cd_props), .desc = "virtual IDE CD-ROM",
            .category = DEV_STORAGE, .bus = &ide_bus_type, .state = ide_drive_state, .plug = ide_cd_plug,
            .unplug = ide_drive_unplug, .reset = ide_drive_reset, .saving = ide_drive_saving, .loaded = ide_drive_loaded,
            .resumed = ide_drive_resumed);
