/*
 * What an ATA disk says of itself: IDENTIFY DEVICE (ATA/ATAPI-6, 8.15) and SMART (8.54), the latter of a disk that
 * never ages.
 */
#include "base/endian.h"
#include "hw/ide/ata.h"

static void put_capacity(const IdeDrive *drive, uint16_t *words)
{
    uint64_t total = drive->sectors, lba28 = MIN(total, LBA28_MAX);
    uint32_t cyls = drive->cur_heads && drive->cur_secs
                        ? (uint32_t)MIN(total / (drive->cur_heads * drive->cur_secs), 65535) : 0;
    uint32_t chs = cyls * drive->cur_heads * drive->cur_secs;
    words[1] = (uint16_t)drive->cyls;
    words[3] = (uint16_t)drive->heads;
    words[6] = (uint16_t)drive->secs;
    words[54] = (uint16_t)MIN(cyls, CHS_CYLS_MAX);
    words[55] = drive->cur_heads;
    words[56] = drive->cur_secs;
    words[57] = (uint16_t)chs;
    words[58] = (uint16_t)(chs >> 16);
    words[60] = (uint16_t)lba28;
    words[61] = (uint16_t)(lba28 >> 16);
    for (unsigned i = 0; i < 4; i++) {
        words[100 + i] = (uint16_t)(total >> (16 * i));
    }
}

static void put_features(const IdeDrive *drive, uint16_t *words)
{
    bool cache = blk_write_cache(disk_blk(&drive->conf));
    uint16_t has_wwn = drive->wwn ? 0x0100 : 0;
    words[80] = 0x00f0;                       /* ATA/ATAPI-4 to 7 */
    words[81] = 0x0016;
    words[82] = 0x4021;                       /* NOP, write cache, SMART */
    words[83] = 0x7400;                       /* FLUSH CACHE (EXT), LBA48 */
    words[84] = 0x4000 | 0x0040 | has_wwn;    /* FUA commands, world wide name */
    words[85] = 0x4000 | (cache ? 0x20 : 0) | (drive->smart ? 1 : 0);
    words[86] = 0x3400;
    words[87] = words[84];
    words[93] = 0x6001;                       /* device 0 passed its diagnostics, 80-conductor cable */
}

void ata_identify(IdeDrive *drive)
{
    uint16_t words[256] = { 0 };
    unsigned exponent = (unsigned)__builtin_ctzll(drive->conf.physical_block_size / IDE_SECTOR);
    words[0] = 0x0040;
    words[4] = (uint16_t)(IDE_SECTOR * drive->secs);
    words[5] = IDE_SECTOR;
    ide_identify_text(words + 10, 10, drive->serial);
    words[20] = 3;
    words[21] = IDE_SECTOR; /* cache size in sectors */
    words[22] = 4;
    ide_identify_text(words + 23, 4, drive->version);
    ide_identify_text(words + 27, 20, drive->model);
    words[47] = 0x8000 | IDE_MULTIPLE_MAX;
    words[48] = 1;
    words[49] = 0x0a00 | (ide_has_dma(drive) ? 0x0100 : 0);
    words[51] = words[52] = 0x0200;
    words[53] = 0x0007;
    words[59] = drive->multiple ? 0x0100 | drive->multiple : 0;
    ide_identify_modes(drive, words);
    words[64] = 0x0003;
    words[65] = words[66] = words[67] = words[68] = 120;
    put_capacity(drive, words);
    put_features(drive, words);
    if (exponent) {
        words[106] = 0x6000 | exponent;
    }
    for (unsigned i = 0; i < 4; i++) {
        words[108 + i] = (uint16_t)(drive->wwn >> (16 * (3 - i)));
    }
    words[169] = ide_has_dma(drive) ? 1 : 0; /* TRIM */
    words[217] = drive->rotation_rate;
    for (unsigned i = 0; i < 256; i++) {
        st16_le(drive->buffer + i * 2, words[i]);
    }
    ide_pio(drive, 0, IDE_SECTOR, true, false, NULL);
}

/* --- SMART --- */

/* Normalized attributes of a disk that never ages: id, flags, value, worst, raw, threshold. */
static const uint8_t smart_attributes[][12] = {
    { 0x01, 0x03, 0x00, 0x64, 0x64 }, /* raw read error rate */
    { 0x03, 0x03, 0x00, 0x64, 0x64 }, /* spin-up time */
    { 0x04, 0x02, 0x00, 0x64, 0x64, 0x64 }, /* start/stop count */
    { 0x05, 0x03, 0x00, 0x64, 0x64 }, /* reallocated sectors */
    { 0x09, 0x03, 0x00, 0x64, 0x64, 1 }, /* power-on hours */
    { 0x0c, 0x03, 0x00, 0x64, 0x64 }, /* power cycles */
    { 0xbe, 0x03, 0x00, 0x45, 0x45, 31 }, /* airflow temperature */
};

static void smart_checksum(uint8_t *page)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 511; i++) {
        sum += page[i];
    }
    page[511] = (uint8_t)-sum;
}

static void smart_page(IdeDrive *drive, bool thresholds)
{
    static const uint8_t threshold[] = { 0x06, 0, 0x14, 0x24, 0, 0, 0x32 };
    uint8_t *page = drive->buffer;
    memset(page, 0, IDE_SECTOR);
    page[0] = 1;
    for (unsigned i = 0; i < ARRAY_SIZE(smart_attributes); i++) {
        uint8_t *row = page + 2 + i * 12;
        if (thresholds) {
            row[0] = smart_attributes[i][0];
            row[1] = threshold[i];
        } else {
            memcpy(row, smart_attributes[i], 12);
        }
    }
    if (!thresholds) {
        page[362] = 0x02 | (drive->smart_autosave ? 0x80 : 0);
        page[364] = 288 & 0xff; /* seconds for offline collection */
        page[365] = 288 >> 8;
        page[367] = 0x5b; /* offline and self-test capabilities */
        page[368] = 0x03;
        page[370] = 0x01; /* error logging */
        page[372] = 2;    /* minutes of the short self-test */
        page[373] = 54;
    }
    smart_checksum(page);
    ide_pio(drive, 0, IDE_SECTOR, true, false, NULL);
}

static void smart_log(IdeDrive *drive)
{
    uint8_t *page = drive->buffer;
    memset(page, 0, IDE_SECTOR);
    switch (drive->lba_low.now) {
    case 0x00: /* directory: logs 1 and 6 have a sector each */
        page[0] = 1;
        page[2] = page[12] = 1;
        break;
    case 0x01: /* summary error log: empty */
    case 0x06: /* self-test log: empty */
        page[0] = 1;
        smart_checksum(page);
        break;
    default:
        ide_fail(drive, ATA_ABRT);
        return;
    }
    ide_pio(drive, 0, IDE_SECTOR, true, false, NULL);
}

void ata_smart(IdeDrive *drive)
{
    enum { READ_DATA = 0xd0, READ_THRESHOLDS, AUTOSAVE, SAVE, EXECUTE, READ_LOG, ENABLE = 0xd8, DISABLE, STATUS };
    bool enable = drive->features.now == ENABLE;
    if (drive->lba_mid.now != 0x4f || drive->lba_high.now != 0xc2 || (!drive->smart && !enable)) {
        ide_fail(drive, ATA_ABRT);
        return;
    }
    switch (drive->features.now) {
    case READ_DATA:
    case READ_THRESHOLDS:
        smart_page(drive, drive->features.now == READ_THRESHOLDS);
        return;
    case READ_LOG:
        smart_log(drive);
        return;
    case AUTOSAVE:
        drive->smart_autosave = drive->nsector.now != 0;
        break;
    case ENABLE:
    case DISABLE:
        drive->smart = enable;
        break;
    case SAVE:
    case STATUS: /* a failing drive would change the signature */
    case EXECUTE: /* every test passes at once */
        break;
    default:
        ide_fail(drive, ATA_ABRT);
        return;
    }
    ide_complete(drive);
}
