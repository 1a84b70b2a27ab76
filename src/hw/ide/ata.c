/*
 * "ide-hd": an ATA disk.
 *
 * ATA/ATAPI-6 (T13/1410D), 8: commands; DATA SET MANAGEMENT from ACS-2. PIO reads fetch as much of the command as the
 * buffer holds at once and hand it out block by block; PIO writes are gathered the same way.
 * Missing: security, host protected area (SET MAX), device configuration overlay, CFA, streaming.
 */
#include "base/endian.h"
#include "hw/ide/ata.h"

enum { TRIM_ENTRY = 8, BIOS_HEADS = 16, BIOS_SECS = 63 };

/* --- addresses --- */

static bool is_lba48(uint8_t command)
{
    switch (command) {
    case 0x24: /* READ SECTORS EXT */
    case 0x25: /* READ DMA EXT */
    case 0x27: /* READ NATIVE MAX EXT */
    case 0x29: /* READ MULTIPLE EXT */
    case 0x34: /* WRITE SECTORS EXT */
    case 0x35: /* WRITE DMA EXT */
    case 0x39: /* WRITE MULTIPLE EXT */
    case 0x3d: /* WRITE DMA FUA EXT */
    case 0x42: /* READ VERIFY EXT */
    case 0xce: /* WRITE MULTIPLE FUA EXT */
        return true;
    default:
        return false;
    }
}

static uint64_t get_lba(const IdeDrive *drive, bool lba48)
{
    uint32_t low = drive->lba_low.now, mid = drive->lba_mid.now, high = drive->lba_high.now;
    if (lba48) {
        return low | mid << 8 | high << 16 | (uint64_t)drive->lba_low.hob << 24 | (uint64_t)drive->lba_mid.hob << 32 |
               (uint64_t)drive->lba_high.hob << 40;
    }
    if (drive->select & ATA_LBA) {
        return low | mid << 8 | high << 16 | (drive->select & 15u) << 24;
    }
    /* Sector 0 does not exist: it becomes an address beyond every disk. */
    uint64_t cylinder = mid | high << 8;
    return low == 0 ? UINT64_MAX
                    : (cylinder * drive->cur_heads + (drive->select & 15)) * drive->cur_secs + low - 1;
}

static void set_lba(IdeDrive *drive, uint64_t lba, bool lba48)
{
    if (lba48 || (drive->select & ATA_LBA)) {
        drive->lba_low.now = (uint8_t)lba;
        drive->lba_mid.now = (uint8_t)(lba >> 8);
        drive->lba_high.now = (uint8_t)(lba >> 16);
        if (lba48) {
            drive->lba_low.hob = (uint8_t)(lba >> 24);
            drive->lba_mid.hob = (uint8_t)(lba >> 32);
            drive->lba_high.hob = (uint8_t)(lba >> 40);
        } else {
            drive->select = (drive->select & 0xf0) | (lba >> 24 & 15);
        }
        return;
    }
    uint32_t per_cylinder = MAX(drive->cur_heads * drive->cur_secs, 1);
    uint32_t cylinder = (uint32_t)(lba / per_cylinder), rest = (uint32_t)(lba % per_cylinder);
    drive->lba_mid.now = (uint8_t)cylinder;
    drive->lba_high.now = (uint8_t)(cylinder >> 8);
    drive->select = (drive->select & 0xf0) | (rest / MAX(drive->cur_secs, 1) & 15);
    drive->lba_low.now = (uint8_t)(rest % MAX(drive->cur_secs, 1) + 1);
}

static uint32_t get_count(const IdeDrive *drive, bool lba48)
{
    uint32_t count = lba48 ? drive->nsector.now | drive->nsector.hob << 8 : drive->nsector.now;
    return count ? count : lba48 ? 65536 : 256;
}

/* Takes the range from the registers; false: it failed. */
static bool begin_range(IdeDrive *drive, bool writing)
{
    bool lba48 = is_lba48(drive->command);
    drive->lba = get_lba(drive, lba48);
    drive->left = get_count(drive, lba48);
    drive->writing = writing;
    drive->fua = false;
    if (drive->lba > drive->sectors || drive->left > drive->sectors - drive->lba) {
        disk_conf_count_invalid(&drive->conf, !writing);
        ide_fail(drive, ATA_IDNF);
        return false;
    }
    return true;
}

static void range_failed(IdeDrive *drive)
{
    set_lba(drive, drive->lba, is_lba48(drive->command));
    drive->nsector.now = (uint8_t)drive->left;
    ide_fail(drive, drive->writing ? ATA_ABRT : ATA_UNC);
}

static void range_done(IdeDrive *drive)
{
    set_lba(drive, drive->lba - 1, is_lba48(drive->command));
    drive->nsector.now = drive->nsector.hob = 0;
    ide_complete(drive);
}

/* --- PIO --- */

static void read_fetch(IdeDrive *drive);

static void read_taken(IdeDrive *drive);

/* Offers the next DRQ block of what the buffer holds. */
static void read_offer(IdeDrive *drive)
{
    uint32_t bytes = MIN(drive->block * IDE_SECTOR, drive->filled - drive->next), start = drive->next;
    drive->lba += bytes / IDE_SECTOR;
    drive->left -= bytes / IDE_SECTOR;
    drive->next += bytes;
    if (drive->left == 0) { /* nothing follows the last block: the registers are final now */
        set_lba(drive, drive->lba - 1, is_lba48(drive->command));
        drive->nsector.now = drive->nsector.hob = 0;
    }
    ide_pio(drive, start, bytes, true, false, read_taken);
}

static void read_taken(IdeDrive *drive)
{
    if (drive->next < drive->filled) {
        read_offer(drive);
    } else if (drive->left > 0) {
        read_fetch(drive);
    }
}

static void read_fetched(IdeDrive *drive)
{
    if (drive->result < 0) {
        range_failed(drive);
        return;
    }
    drive->filled = (uint32_t)drive->vec.iov_len;
    drive->next = 0;
    read_offer(drive);
}

static void read_fetch(IdeDrive *drive)
{
    uint32_t sectors = MIN(drive->left, (uint32_t)IDE_BUFFER_SECTORS);
    drive->vec = (struct iovec) { drive->buffer, sectors * IDE_SECTOR };
    ide_read(drive, drive->lba * IDE_SECTOR, &drive->vec, 1, read_fetched);
}

static void write_ask(IdeDrive *drive, bool quiet);

static void write_stored(IdeDrive *drive)
{
    if (drive->result < 0) {
        range_failed(drive);
        return;
    }
    drive->lba += drive->filled / IDE_SECTOR;
    drive->left -= drive->filled / IDE_SECTOR;
    drive->filled = 0;
    if (drive->left == 0) {
        range_done(drive);
    } else {
        write_ask(drive, false);
    }
}

/* A block came: the buffer is written when it is full or holds the rest. */
static void write_given(IdeDrive *drive)
{
    drive->filled = drive->next;
    uint32_t gathered = drive->filled / IDE_SECTOR;
    if (gathered < drive->left && gathered + drive->block <= IDE_BUFFER_SECTORS) {
        write_ask(drive, false);
        return;
    }
    drive->vec = (struct iovec) { drive->buffer, drive->filled };
    ide_write(drive, drive->lba * IDE_SECTOR, &drive->vec, 1, write_stored);
}

static void write_ask(IdeDrive *drive, bool quiet)
{
    uint32_t sectors = MIN(drive->block, drive->left - drive->filled / IDE_SECTOR);
    uint32_t start = drive->filled;
    drive->next = start + sectors * IDE_SECTOR;
    ide_pio(drive, start, sectors * IDE_SECTOR, false, quiet, write_given);
}

static void pio_command(IdeDrive *drive, bool writing, uint32_t block, bool fua)
{
    if (block == 0) {
        ide_fail(drive, ATA_ABRT);
        return;
    }
    if (!begin_range(drive, writing)) {
        return;
    }
    drive->block = block;
    drive->fua = fua;
    if (writing) {
        write_ask(drive, true);
    } else {
        read_fetch(drive);
    }
}

/* --- DMA --- */

static void dma_step(IdeDrive *drive);

static void dma_finish(IdeDrive *drive, bool error)
{
    IdeBus *ide = drive->ide.channel;
    drive->dma = false;
    ide->ops->dma_end(ide->host, error);
    if (error) {
        range_failed(drive);
    } else {
        range_done(drive);
    }
}

static void dma_moved(IdeDrive *drive)
{
    IdeBus *ide = drive->ide.channel;
    bool good = drive->result >= 0;
    ide->ops->dma_unmap(ide->host, good ? drive->filled : 0);
    if (good) {
        drive->lba += drive->filled / IDE_SECTOR;
        drive->left -= drive->filled / IDE_SECTOR;
    }
    drive->filled = 0;
    if (!good || drive->left == 0) {
        dma_finish(drive, !good);
    } else {
        dma_step(drive);
    }
}

static void dma_step(IdeDrive *drive)
{
    IdeBus *ide = drive->ide.channel;
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes = ide->ops->dma_map(ide->host, drive->left * IDE_SECTOR, IDE_SECTOR, !drive->writing, &iov, &count);
    if (bytes < IDE_SECTOR || bytes % IDE_SECTOR) {
        /* The list is too short: the engine stops and no interrupt comes (Programming Interface, "Status Bit Settings"). */
        if (count) {
            ide->ops->dma_unmap(ide->host, 0);
        }
        drive->dma = false;
        ide->ops->dma_end(ide->host, false);
        ide_stall(drive);
        return;
    }
    drive->filled = bytes;
    if (drive->writing) {
        ide_write(drive, drive->lba * IDE_SECTOR, iov, count, dma_moved);
    } else {
        ide_read(drive, drive->lba * IDE_SECTOR, iov, count, dma_moved);
    }
}

static void dma_command(IdeDrive *drive, bool writing, bool fua)
{
    if (!ide_has_dma(drive)) {
        ide_fail(drive, ATA_ABRT);
    } else if (begin_range(drive, writing)) {
        drive->fua = fua;
        drive->dma = true;
        ide_dma(drive, dma_step);
    }
}

/* --- DATA SET MANAGEMENT: the buffer holds ranges of 48 bits of LBA and 16 of count --- */

static void trim_done(IdeDrive *drive, uint8_t error)
{
    IdeBus *ide = drive->ide.channel;

    drive->filled = 0;
    ide->ops->dma_end(ide->host, false);
    if (error) {
        ide_fail(drive, error);
    } else {
        ide_complete(drive);
    }
}

static void trim_next(IdeDrive *drive)
{
    if (drive->result < 0) {
        trim_done(drive, ATA_ABRT);
        return;
    }
    while (drive->next < drive->filled) {
        uint64_t entry = ld64_le(drive->buffer + drive->next);
        uint64_t lba = entry & 0xffffffffffffull, count = entry >> 48;
        drive->next += TRIM_ENTRY;
        if (count == 0) {
            continue;
        }
        if (lba > drive->sectors || count > drive->sectors - lba) {
            trim_done(drive, ATA_ABRT | ATA_IDNF);
            return;
        }
        ide_discard(drive, lba * IDE_SECTOR, count * IDE_SECTOR, trim_next);
        return;
    }
    trim_done(drive, 0);
}

/* As many ranges as the list of descriptors brings: the count may be larger. */
static void trim_dma(IdeDrive *drive)
{
    IdeBus *ide = drive->ide.channel;
    uint32_t total = drive->left * IDE_SECTOR, have = 0;
    while (have < total) {
        const struct iovec *iov;
        unsigned count;
        uint32_t bytes = ide->ops->dma_map(ide->host, total - have, 1, false, &iov, &count);
        if (bytes == 0) {
            break;
        }
        for (unsigned i = 0; i < count; i++) {
            memcpy(drive->buffer + have, iov[i].iov_base, iov[i].iov_len);
            have += (uint32_t)iov[i].iov_len;
        }
        ide->ops->dma_unmap(ide->host, bytes);
    }
    drive->dma = false;
    drive->filled = ALIGN_DOWN(have, TRIM_ENTRY);
    drive->next = 0;
    drive->result = 0;
    trim_next(drive);
}

static void trim_command(IdeDrive *drive)
{
    uint32_t blocks = drive->nsector.now | drive->nsector.hob << 8;
    if (!(drive->features.now & 1) || blocks == 0 || !ide_has_dma(drive)) {
        ide_fail(drive, ATA_ABRT);
        return;
    }
    drive->left = MIN(blocks, IDE_BUFFER_SECTORS);
    drive->writing = drive->dma = true;
    ide_dma(drive, trim_dma);
}

/* --- SET FEATURES and the rest --- */

static void flushed(IdeDrive *drive)
{
    if (drive->result < 0) {
        ide_fail(drive, ATA_ABRT);
    } else {
        ide_complete(drive);
    }
}

static void set_features(IdeDrive *drive)
{
    bool good = true;
    switch (drive->features.now) {
    case 0x02:
        blk_set_write_cache(disk_blk(&drive->conf), true);
        break;
    case 0x82:
        blk_set_write_cache(disk_blk(&drive->conf), false);
        ide_flush(drive, flushed);
        return;
    case 0x03:
        ide_transfer_mode(drive, drive->nsector.now, &good);
        break;
    case 0x05: /* advanced power management */
    case 0x85:
    case 0x42: /* automatic acoustic management */
    case 0xc2:
    case 0x55: /* look-ahead */
    case 0xaa:
    case 0x66: /* power-on defaults */
    case 0xcc:
        break;
    default:
        good = false;
        break;
    }
    if (good) {
        ide_complete(drive);
    } else {
        ide_fail(drive, ATA_ABRT);
    }
}

static void set_multiple(IdeDrive *drive)
{
    uint8_t count = drive->nsector.now;
    if (count > IDE_MULTIPLE_MAX || (count & (count - 1))) {
        ide_fail(drive, ATA_ABRT);
    } else {
        drive->multiple = count;
        ide_complete(drive);
    }
}

static void initialize_parameters(IdeDrive *drive)
{
    if (drive->nsector.now == 0) {
        ide_fail(drive, ATA_ABRT);
        return;
    }
    drive->cur_heads = (drive->select & 15) + 1;
    drive->cur_secs = drive->nsector.now;
    ide_complete(drive);
}

static void native_max(IdeDrive *drive, bool lba48)
{
    uint64_t last = drive->sectors ? drive->sectors - 1 : 0;
    drive->select |= ATA_LBA;
    set_lba(drive, lba48 ? last : MIN(last, LBA28_MAX), lba48);
    ide_complete(drive);
}

static void ata_command(IdeDrive *drive, uint8_t command)
{
    switch (command) {
    case 0x20: /* READ SECTORS, with and without the retries that are never needed */
    case 0x21:
    case 0x24:
        pio_command(drive, false, 1, false);
        break;
    case 0x29: /* READ MULTIPLE */
    case 0xc4:
        pio_command(drive, false, drive->multiple, false);
        break;
    case 0x30: /* WRITE SECTORS */
    case 0x31:
    case 0x34:
    case 0x3c: /* WRITE VERIFY */
        pio_command(drive, true, 1, false);
        break;
    case 0x39: /* WRITE MULTIPLE */
    case 0xc5:
        pio_command(drive, true, drive->multiple, false);
        break;
    case 0xce:
        pio_command(drive, true, drive->multiple, true);
        break;
    case 0x25: /* READ DMA */
    case 0xc8:
    case 0xc9:
        dma_command(drive, false, false);
        break;
    case 0x35: /* WRITE DMA */
    case 0xca:
    case 0xcb:
        dma_command(drive, true, false);
        break;
    case 0x3d:
        dma_command(drive, true, true);
        break;
    case 0x06:
        trim_command(drive);
        break;
    case 0x40: /* READ VERIFY: the medium is as good as the back end says when it is read */
    case 0x41:
    case 0x42:
        if (begin_range(drive, false)) {
            drive->lba += drive->left;
            range_done(drive);
        }
        break;
    case 0x27:
    case 0xf8:
        native_max(drive, command == 0x27);
        break;
    case 0x91:
        initialize_parameters(drive);
        break;
    case 0xb0:
        ata_smart(drive);
        break;
    case 0xc6:
        set_multiple(drive);
        break;
    case 0xe7:
    case 0xea:
        ide_flush(drive, flushed);
        break;
    case 0xec:
        ata_identify(drive);
        break;
    case 0xef:
        set_features(drive);
        break;
    case 0x98: /* CHECK POWER MODE: active or idle */
    case 0xe5:
        drive->nsector.now = 0xff;
        ide_complete(drive);
        break;
    case 0x70: /* SEEK */
    case 0x94: /* power management */
    case 0x95:
    case 0x96:
    case 0x97:
    case 0x99:
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xe6:
        ide_complete(drive);
        break;
    default: /* with 10h to 1Fh (RECALIBRATE) as the one range of old */
        if (command >= 0x10 && command <= 0x1f) {
            ide_complete(drive);
        } else if (command == 0xa1) { /* says "not a packet device" by its signature */
            ide_set_signature(drive);
            ide_fail(drive, ATA_ABRT);
        } else {
            ide_fail(drive, ATA_ABRT);
        }
        break;
    }
}

/* --- saved state --- */

static void write_again(IdeDrive *drive)
{
    drive->vec = (struct iovec) { drive->buffer, drive->filled };
    ide_write(drive, drive->lba * IDE_SECTOR, &drive->vec, 1, write_stored);
}

static void trim_again(IdeDrive *drive)
{
    drive->next -= TRIM_ENTRY;
    drive->result = 0;
    trim_next(drive);
}

static void flush_again(IdeDrive *drive)
{
    ide_flush(drive, flushed);
}

static IdePhase *const ata_phases[] = {
    read_taken, write_given, dma_step, trim_dma, read_fetch, write_again, trim_again, flush_again, NULL
};

static IdePhase *ata_again(IdePhase *then)
{
    return then == read_fetched ? read_fetch : then == write_stored ? write_again : then == dma_moved ? dma_step
           : then == trim_next ? trim_again : flush_again;
}

/* Where the transfer stands fits the disk and the buffer. */
static bool ata_plausible(const IdeDrive *drive)
{
    uint64_t left = (uint64_t)drive->left * IDE_SECTOR;
    bool range = drive->lba <= drive->sectors && drive->left <= drive->sectors - drive->lba;
    if (drive->phase == read_taken) {
        return range && drive->block > 0 && drive->next <= drive->filled && drive->filled - drive->next <= left;
    }
    if (drive->phase == write_given) {
        return range && drive->block > 0 && drive->next <= left && drive->filled <= drive->next;
    }
    if (drive->dma_step == trim_dma) {
        return drive->left <= IDE_BUFFER_SECTORS;
    }
    if (drive->again == write_again) {
        return range && drive->filled > 0 && drive->filled <= left && drive->filled % IDE_SECTOR == 0;
    }
    if (drive->again == trim_again) {
        return drive->next >= TRIM_ENTRY && drive->next % TRIM_ENTRY == 0 && drive->next <= drive->filled &&
               drive->filled % TRIM_ENTRY == 0;
    }
    if (drive->again == read_fetch || drive->again == dma_step) {
        return range && drive->left > 0;
    }
    return !drive->dma_step || range;
}

const IdeDriveOps ata_ops = {
    .command = ata_command, .status_after_reset = ATA_DRDY | ATA_DSC, .phases = ata_phases,
    .plausible = ata_plausible, .again = ata_again,
};

/* --- the device --- */

/* What the guest may see without saying otherwise: 16 heads of 63 sectors. */
static Error *settle_geometry(IdeDrive *drive)
{
    if (!drive->cyls && !drive->heads && !drive->secs) {
        drive->heads = BIOS_HEADS;
        drive->secs = BIOS_SECS;
        drive->cyls = (uint32_t)CLAMP(drive->sectors / (BIOS_HEADS * BIOS_SECS), 2u, (uint64_t)CHS_CYLS_MAX);
        return NULL;
    }
    if (drive->cyls < 1 || drive->cyls > 65535 || drive->heads < 1 || drive->heads > 16 || drive->secs < 1 ||
        drive->secs > 255) {
        return error_new("cyls must be between 1 and 65535, heads between 1 and 16, secs between 1 and 255");
    }
    return NULL;
}

/* "auto" first; the rest in the order of CHS_TRANS_*. */
static const EnumName chs_trans_names[] = {
    { "auto", -1 }, { "none", CHS_TRANS_NONE }, { "lba", CHS_TRANS_LBA }, { "large", CHS_TRANS_LARGE },
    { "rechs", CHS_TRANS_RECHS }, { 0 },
};

/* Heads of the geometry by which a partition table counts, from where its first partition ends; 0: it does not tell. */
static unsigned partition_heads(const IdeDrive *drive)
{
    enum { TABLE = 446, ENTRY = 16, ENTRIES = 4, SIGNATURE = 510, END_HEAD = 5, END_SECTOR = 6, SIZE = 12 };
    uint8_t sector[IDE_SECTOR];

    if (blk_pread(disk_blk(&drive->conf), 0, sizeof(sector), sector) < 0 || ld16_le(sector + SIGNATURE) != 0xaa55) {
        return 0;
    }
    for (unsigned n = 0; n < ENTRIES; n++) {
        const uint8_t *entry = sector + TABLE + n * ENTRY;
        if (ld32_le(entry + SIZE) && entry[END_HEAD] && (entry[END_SECTOR] & 63)) {
            return entry[END_HEAD] + 1u;
        }
    }
    return 0;
}

/* What the system on the disk was installed with; an empty one gets what its size needs. */
static unsigned guess_translation(const IdeDrive *drive)
{
    unsigned heads = partition_heads(drive);
    bool beyond_large = drive->sectors > 1024u * BIOS_HEADS * BIOS_SECS; /* more than the BIOS' CHS can say */

    if (heads == 0) {
        return beyond_large ? CHS_TRANS_LBA : CHS_TRANS_NONE;
    }
    if (heads <= BIOS_HEADS) {
        return CHS_TRANS_NONE;
    }
    return drive->cyls * drive->heads <= 131072 ? CHS_TRANS_LARGE : CHS_TRANS_LBA;
}

bool ide_disk_geometry(Machine *machine, unsigned channel, unsigned unit, IdeGeometry *ret_geometry)
{
    g_autofree char *name = g_strdup_printf("ide.%u", channel);
    Bus *bus = bus_find(machine, name);
    if (!bus || bus->type != &ide_bus_type || unit >= IDE_UNITS) {
        return false;
    }
    IdeDevice *device = container_of(bus, IdeBus, bus)->drives[unit];
    if (!device || ide_drive_of(device)->ops != &ata_ops) {
        return false;
    }
    const IdeDrive *drive = ide_drive_of(device);
    *ret_geometry = (IdeGeometry) { drive->cyls, drive->heads, drive->secs, CHS_TRANS_NONE };
    ret_geometry->translation = drive->chs_trans >= 0 ? (unsigned)drive->chs_trans : guess_translation(drive);
    return true;
}

static void resized(void *opaque)
{
    IdeDrive *drive = opaque;
    int64_t length = blk_length(disk_blk(&drive->conf));
    drive->sectors = length > 0 ? (uint64_t)length / IDE_SECTOR : 0;
}

static const BlkDeviceOps disk_ops = { .resized = resized };

static Error *ide_hd_plug(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    DiskTraits traits = { .writes = true, .ops = &disk_ops, .opaque = drive };
    TRY(ide_drive_plug(drive, &ata_ops, &traits, "QEMU HARDDISK"));
    resized(drive);
    return settle_geometry(drive);
}

static const Prop ide_hd_props[] = {
    DISK_CONF_PROPS(IdeDrive, conf, ide.dev),
    PROP_STR("serial", IdeDrive, serial),
    PROP_STR("model", IdeDrive, model),
    PROP_STR("ver", IdeDrive, version),
    PROP_U64("wwn", IdeDrive, wwn, 0),
    PROP_U32("cyls", IdeDrive, cyls, 0),
    PROP_U32("heads", IdeDrive, heads, 0),
    PROP_U32("secs", IdeDrive, secs, 0),
    PROP_U32("lcyls", IdeDrive, lcyls, 0),
    PROP_U32("lheads", IdeDrive, lheads, 0),
    PROP_U32("lsecs", IdeDrive, lsecs, 0),
    PROP_ENUM("bios-chs-trans", IdeDrive, chs_trans, chs_trans_names, -1,
              .help = "How the firmware translates cylinders and heads: auto, none, lba, large or rechs"),
    PROP_U16("rotation_rate", IdeDrive, rotation_rate, 0),
    { 0 },
};

DEVICE_TYPE(ide_hd, IDE_DEVICE_OBJECT("ide-hd", IdeDrive, ide_hd_props), .desc = "virtual IDE disk",
            .category = DEV_STORAGE, .bus = &ide_bus_type, .state = ide_drive_state, .plug = ide_hd_plug,
            .unplug = ide_drive_unplug, .reset = ide_drive_reset, .saving = ide_drive_saving, .loaded = ide_drive_loaded,
            .resumed = ide_drive_resumed);
