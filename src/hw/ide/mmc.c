/*
 * The multimedia commands of a read-only CD/DVD drive with one data track.
 *
 * SFF-8020i, 10.8; MMC-3, 6. Missing: audio, writing, copy protection.
 */
#include "base/endian.h"
#include "hw/ide/atapi.h"

typedef struct MmcCommand {
    uint8_t opcode;
    void (*run)(IdeDrive *drive, const uint8_t *packet);
    unsigned flags;
} MmcCommand;

enum { NEEDS_MEDIUM = 1, PASSES_ATTENTION = 2 };

static bool medium_present(const IdeDrive *drive)
{
    return !drive->atapi.tray_open && blk_is_inserted(disk_blk(&drive->conf));
}

static uint32_t total_blocks(const IdeDrive *drive)
{
    return (uint32_t)MIN(drive->sectors / (CD_BLOCK / IDE_SECTOR), UINT32_MAX);
}

static bool is_dvd(const IdeDrive *drive)
{
    return medium_present(drive) && total_blocks(drive) > CD_MAX_BLOCKS;
}

static void invalid_field(IdeDrive *drive)
{
    atapi_check(drive, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
}

/* Buffer for a reply, cleared. */
static uint8_t *reply_buffer(IdeDrive *drive, uint32_t length)
{
    memset(drive->buffer, 0, length);
    return drive->buffer;
}

/* Block address as minute, second, frame; the first block of a disc is at 00:02:00. */
static void put_msf(uint8_t *at, uint32_t lba)
{
    lba += 150;
    at[0] = (uint8_t)(lba / 75 / 60);
    at[1] = lba / 75 % 60;
    at[2] = lba % 75;
}

static uint8_t bcd(unsigned n)
{
    return (uint8_t)(n / 10 % 10 << 4 | n % 10);
}

void mmc_raw_header(uint8_t *raw, uint32_t lba)
{
    uint8_t msf[3];
    memset(raw, 0xff, 12);
    raw[0] = raw[11] = 0;
    put_msf(msf, lba);
    for (unsigned i = 0; i < 3; i++) {
        raw[12 + i] = bcd(msf[i]);
    }
    raw[15] = 1;
    memset(raw + 16 + CD_BLOCK, 0, CD_RAW_BLOCK - 16 - CD_BLOCK);
}

/* --- state of the drive --- */

static void test_unit_ready(IdeDrive *drive, const uint8_t *packet)
{
    atapi_good(drive);
}

static void request_sense(IdeDrive *drive, const uint8_t *packet)
{
    Atapi *atapi = &drive->atapi;
    uint8_t *reply = reply_buffer(drive, 18);
    reply[0] = 0xf0;
    if (atapi->sense_key == SENSE_NONE && atapi->attention) {
        reply[2] = SENSE_ATTENTION;
        reply[12] = atapi->attention;
        atapi->attention = 0;
    } else {
        reply[2] = atapi->sense_key;
        reply[12] = atapi->asc;
        reply[13] = atapi->ascq;
    }
    reply[7] = 10;
    atapi->sense_key = atapi->asc = atapi->ascq = 0;
    atapi_reply(drive, 18, packet[4]);
}

static void put_text(uint8_t *at, size_t length, const char *text)
{
    memset(at, ' ', length);
    memcpy(at, text, MIN(strlen(text), length));
}

static void inquiry_page(IdeDrive *drive, const uint8_t *packet, uint32_t allocated)
{
    uint8_t *reply = reply_buffer(drive, 64);
    uint32_t length = 4;
    reply[0] = 0x05;
    reply[1] = packet[2];
    switch (packet[2]) {
    case 0x00: /* supported pages */
        reply[length++] = 0x00;
        reply[length++] = 0x83;
        break;
    case 0x83: /* identification: model and serial number, and the world wide name */
        reply[length] = 0x02;
        reply[length + 1] = 0x01;
        reply[length + 3] = 28;
        put_text(reply + length + 4, 8, "ATA");
        put_text(reply + length + 12, 20, drive->serial);
        length += 32;
        if (drive->wwn) {
            reply[length] = 0x01;
            reply[length + 1] = 0x03;
            reply[length + 3] = 8;
            st64_be(reply + length + 4, drive->wwn);
            length += 12;
        }
        break;
    default:
        invalid_field(drive);
        return;
    }
    st16_be(reply + 2, (uint16_t)(length - 4));
    atapi_reply(drive, length, allocated);
}

static void inquiry(IdeDrive *drive, const uint8_t *packet)
{
    uint32_t allocated = ld16_be(packet + 3);
    if (packet[1] & 1) {
        inquiry_page(drive, packet, allocated);
        return;
    }
    if (packet[2] != 0) {
        invalid_field(drive);
        return;
    }
    uint8_t *reply = reply_buffer(drive, 36);
    reply[0] = 0x05; /* CD-ROM */
    reply[1] = 0x80; /* removable */
    reply[2] = 0x05;
    reply[3] = 0x21; /* ATAPI-2 */
    reply[4] = 36 - 5;
    put_text(reply + 8, 8, "QEMU");
    put_text(reply + 16, 16, drive->model);
    put_text(reply + 32, 4, drive->version);
    atapi_reply(drive, 36, allocated);
}

static void prevent_removal(IdeDrive *drive, const uint8_t *packet)
{
    drive->atapi.locked = packet[4] & 1;
    atapi_good(drive);
}

static void start_stop(IdeDrive *drive, const uint8_t *packet)
{
    Atapi *atapi = &drive->atapi;
    bool start = packet[4] & 1, load_eject = packet[4] & 2;
    if ((packet[4] & 0xf0) || !load_eject) { /* power conditions; spinning up and down */
        atapi_good(drive);
        return;
    }
    bool open = !start;
    if (open && !atapi->tray_open && atapi->locked) {
        if (medium_present(drive)) {
            atapi_check(drive, SENSE_ILLEGAL, ASC_LOAD_EJECT_FAILED, 2);
        } else {
            atapi_check(drive, SENSE_NOT_READY, ASC_LOAD_EJECT_FAILED, 2);
        }
        return;
    }
    if (atapi->tray_open != open) {
        atapi_move_tray(drive, open);
        blk_tray_moved(disk_blk(&drive->conf), open);
    }
    atapi_good(drive);
}

static void mechanism_status(IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(drive, 8);
    reply[1] = drive->atapi.tray_open ? 0x10 : 0;
    reply[5] = 1; /* number of slots */
    atapi_reply(drive, 8, ld16_be(packet + 8));
}

static void get_event_status(IdeDrive *drive, const uint8_t *packet)
{
    enum { CLASS_MEDIA = 4, POLLED = 1 };
    Atapi *atapi = &drive->atapi;
    uint8_t *reply = reply_buffer(drive, 8);
    if (!(packet[1] & POLLED)) { /* asynchronous operation is not supported */
        invalid_field(drive);
        return;
    }
    reply[3] = BIT(CLASS_MEDIA);
    if (!(packet[4] & BIT(CLASS_MEDIA))) {
        reply[1] = 2;
        reply[2] = 0x80; /* no event of these classes */
        atapi_reply(drive, 4, ld16_be(packet + 7));
        return;
    }
    reply[1] = 6;
    reply[2] = CLASS_MEDIA;
    reply[4] = atapi->event;
    reply[5] = (atapi->tray_open ? 1 : 0) | (medium_present(drive) ? 2 : 0);
    atapi->event = MEDIA_EVENT_NONE;
    atapi_reply(drive, 8, ld16_be(packet + 7));
}

/* --- what the drive can do --- */

static uint8_t *put_feature(uint8_t *at, uint16_t code, bool current, bool persistent, uint8_t length)
{
    st16_be(at, code);
    at[2] = (persistent ? 2 : 0) | (current ? 1 : 0);
    at[3] = length;
    return at + 4 + length;
}

static void get_configuration(IdeDrive *drive, const uint8_t *packet)
{
    enum { PROFILE_CD = 0x0008, PROFILE_DVD = 0x0010 };
    bool present = medium_present(drive), dvd = is_dvd(drive);
    uint16_t profile = !present ? 0 : dvd ? PROFILE_DVD : PROFILE_CD, from = ld16_be(packet + 2);
    unsigned kind = packet[1] & 3;
    uint8_t *reply = reply_buffer(drive, 128), *at = reply + 8, *start;
    if (kind == 3) {
        invalid_field(drive);
        return;
    }
#define WANTED(code, is_current)                                                                   \
    (kind == 2 ? from == (code) : from <= (code) && (kind == 0 || (is_current)))
    if (WANTED(0x0000, true)) { /* profile list */
        start = at;
        at = put_feature(at, 0x0000, true, true, 8);
        st16_be(start + 4, PROFILE_DVD);
        start[6] = profile == PROFILE_DVD;
        st16_be(start + 8, PROFILE_CD);
        start[10] = profile == PROFILE_CD;
    }
    if (WANTED(0x0001, true)) { /* core: ATAPI */
        start = at;
        at = put_feature(at, 0x0001, true, true, 8);
        start[2] |= 0x08;
        st32_be(start + 4, 2);
        start[8] = 1;
    }
    if (WANTED(0x0003, true)) { /* removable medium: tray, eject, lock */
        start = at;
        at = put_feature(at, 0x0003, true, true, 4);
        start[4] = 0x29;
    }
    if (WANTED(0x0010, present)) { /* random readable */
        start = at;
        at = put_feature(at, 0x0010, present, false, 8);
        st32_be(start + 4, CD_BLOCK);
        st16_be(start + 8, 1);
    }
    if (WANTED(0x001e, profile == PROFILE_CD)) { /* CD read */
        at = put_feature(at, 0x001e, profile == PROFILE_CD, false, 4);
    }
    if (WANTED(0x001f, profile == PROFILE_DVD)) { /* DVD read */
        at = put_feature(at, 0x001f, profile == PROFILE_DVD, false, 0);
    }
#undef WANTED
    st32_be(reply, (uint32_t)(at - reply - 4));
    st16_be(reply + 6, profile);
    atapi_reply(drive, (uint32_t)(at - reply), ld16_be(packet + 7));
}

/* Error recovery page. */
static uint32_t page_recovery(uint8_t *at)
{
    at[0] = 0x01;
    at[1] = 6;
    at[3] = 5; /* read retries */
    return 8;
}

static uint32_t page_audio(uint8_t *at)
{
    at[0] = 0x0e;
    at[1] = 14;
    at[2] = 0x04;
    at[8] = 1;
    at[9] = 0xff;
    at[10] = 2;
    at[11] = 0xff;
    return 16;
}

/* CD/DVD capabilities and mechanical status. */
static uint32_t page_capabilities(const IdeDrive *drive, uint8_t *at)
{
    at[0] = 0x2a;
    at[1] = 0x12;
    at[2] = 0x0b; /* reads CD-R, CD-RW, DVD-ROM */
    at[4] = 0x70; /* mode 2 forms, multisession */
    at[5] = 3;
    at[6] = 0x29 | (drive->atapi.locked ? 0x02 : 0); /* tray, eject, lock */
    st16_be(at + 8, 706);  /* KB/s: 4x */
    st16_be(at + 10, 2);   /* volume levels */
    st16_be(at + 12, 512); /* KB of buffer */
    st16_be(at + 14, 706);
    return 20;
}

static void mode_sense(IdeDrive *drive, const uint8_t *packet)
{
    bool ten = packet[0] == 0x5a;
    unsigned control = packet[2] >> 6, page = packet[2] & 0x3f;
    uint32_t head = ten ? 8 : 4, length = head;
    uint8_t *reply = reply_buffer(drive, 128);
    if (control == 3) {
        atapi_check(drive, SENSE_ILLEGAL, ASC_SAVING_UNSUPPORTED, 0);
        return;
    }
    if (control == 1) { /* nothing can be changed: all zero */
        page = page == 0x3f ? 0x2a : page;
    }
    if (page == 0x01 || page == 0x3f) {
        length += page_recovery(reply + length);
    }
    if (page == 0x0e || page == 0x3f) {
        length += page_audio(reply + length);
    }
    if (page == 0x2a || page == 0x3f) {
        length += page_capabilities(drive, reply + length);
    }
    if (length == head) {
        invalid_field(drive);
        return;
    }
    if (control == 1) {
        memset(reply + head + 2, 0, length - head - 2);
    }
    uint8_t medium = drive->atapi.tray_open ? 0x71 : medium_present(drive) ? 0x01 : 0x70;
    if (ten) {
        st16_be(reply, (uint16_t)(length - 2));
        reply[2] = medium;
        atapi_reply(drive, length, ld16_be(packet + 7));
    } else {
        reply[0] = (uint8_t)(length - 1);
        reply[1] = medium;
        atapi_reply(drive, length, packet[4]);
    }
}

static void mode_select(IdeDrive *drive, const uint8_t *packet)
{
    uint32_t bytes = packet[0] == 0x55 ? ld16_be(packet + 7) : packet[4];
    if (packet[1] & 1) {
        atapi_check(drive, SENSE_ILLEGAL, ASC_SAVING_UNSUPPORTED, 0);
    } else {
        atapi_receive(drive, MIN(bytes, 0xfffe));
    }
}

/* Pages that MODE SENSE has are taken and change nothing; anything else is refused. */
void mmc_parameters(IdeDrive *drive, uint32_t bytes)
{
    uint32_t at = drive->atapi.packet[0] == 0x55 ? 8 : 4;
    while (at + 2 <= bytes) {
        uint8_t page = drive->buffer[at] & 0x3f;
        if (page != 0x01 && page != 0x0e && page != 0x2a) {
            atapi_check(drive, SENSE_ILLEGAL, ASC_INVALID_PARAMETER, 0);
            return;
        }
        at += 2u + drive->buffer[at + 1];
    }
    atapi_good(drive);
}

/* --- the disc --- */

static void read_capacity(IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(drive, 8);
    st32_be(reply, MAX(total_blocks(drive), 1u) - 1);
    st32_be(reply + 4, CD_BLOCK);
    atapi_reply(drive, 8, 8);
}

static void put_address(uint8_t *at, uint32_t lba, bool msf)
{
    if (msf) {
        put_msf(at + 1, lba);
    } else {
        st32_be(at, lba);
    }
}

/* Formatted TOC: track 1 and the lead-out (track AAh). */
static uint32_t toc_tracks(uint8_t *reply, uint32_t total, bool msf, unsigned first)
{
    uint8_t *at = reply + 4;
    reply[2] = reply[3] = 1;
    if (first <= 1) {
        at[1] = 0x14;
        at[2] = 1;
        put_address(at + 4, 0, msf);
        at += 8;
    }
    at[1] = 0x16;
    at[2] = 0xaa;
    put_address(at + 4, total, msf);
    return (uint32_t)(at + 8 - reply);
}

/* Raw TOC: points A0h to A2h and the track. */
static uint32_t toc_raw(uint8_t *reply, uint32_t total, bool msf)
{
    static const uint8_t points[] = { 0xa0, 0xa1, 0xa2, 0x01 };
    uint8_t *at = reply + 4;
    reply[2] = reply[3] = 1;
    for (unsigned i = 0; i < sizeof(points); i++, at += 11) {
        at[0] = 1;
        at[1] = points[i] == 0xa2 ? 0x16 : 0x14;
        at[3] = points[i];
        if (points[i] < 0xa2 && points[i] != 1) {
            at[8] = 1;
        } else {
            uint32_t lba = points[i] == 1 ? 0 : total;
            if (msf) {
                put_msf(at + 8, lba);
            } else {
                at[8] = (uint8_t)(lba >> 16);
                at[9] = (uint8_t)(lba >> 8);
                at[10] = (uint8_t)lba;
            }
        }
    }
    return (uint32_t)(at - reply);
}

static void read_toc(IdeDrive *drive, const uint8_t *packet)
{
    bool msf = packet[1] & 2;
    unsigned format = packet[2] & 15, first = packet[6];
    uint32_t length;
    uint8_t *reply = reply_buffer(drive, 64);
    if (format == 0) { /* the older form of the field */
        format = packet[9] >> 6;
    }
    switch (format) {
    case 0:
        if (first > 1 && first != 0xaa) {
            invalid_field(drive);
            return;
        }
        length = toc_tracks(reply, total_blocks(drive), msf, first);
        break;
    case 1: /* sessions: one */
        reply[2] = reply[3] = 1;
        reply[5] = 0x14;
        reply[6] = 1;
        put_address(reply + 8, 0, msf);
        length = 12;
        break;
    case 2:
        length = toc_raw(reply, total_blocks(drive), msf);
        break;
    default:
        invalid_field(drive);
        return;
    }
    st16_be(reply, (uint16_t)(length - 2));
    atapi_reply(drive, length, ld16_be(packet + 7));
}

static void read_disc_information(IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(drive, 34);
    if (packet[1] & 7) {
        invalid_field(drive);
        return;
    }
    st16_be(reply, 32);
    reply[2] = 0x0e; /* complete, last session complete */
    reply[3] = reply[4] = reply[5] = reply[6] = 1;
    reply[7] = 0x20; /* unrestricted use */
    atapi_reply(drive, 34, ld16_be(packet + 7));
}

static void read_track_information(IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(drive, 28);
    unsigned kind = packet[1] & 3;
    uint32_t address = ld32_be(packet + 2);
    if ((kind == 0 && address >= total_blocks(drive)) || (kind != 0 && address > 1)) {
        invalid_field(drive);
        return;
    }
    st16_be(reply, 26);
    reply[2] = reply[3] = 1;
    reply[5] = 0x04; /* data track */
    reply[6] = 0x01; /* mode 1 */
    st32_be(reply + 24, total_blocks(drive));
    atapi_reply(drive, 28, ld16_be(packet + 7));
}

static void read_dvd_structure(IdeDrive *drive, const uint8_t *packet)
{
    uint32_t total = total_blocks(drive);
    uint8_t *reply = reply_buffer(drive, 2052);
    uint32_t length;
    if (packet[1] & 15) {
        invalid_field(drive);
        return;
    }
    if (!is_dvd(drive) && packet[7] != 0xff) {
        atapi_check(drive, SENSE_ILLEGAL, 0x30, 0x02); /* incompatible format */
        return;
    }
    switch (packet[7]) {
    case 0x00: /* physical format: DVD-ROM, one layer */
        if (packet[6] != 0) {
            invalid_field(drive);
            return;
        }
        reply[4] = 0x01;
        reply[5] = 0x0f;
        reply[6] = 0x01;
        st32_be(reply + 8, 0x30000);
        st32_be(reply + 12, 0x30000 + total - 1);
        length = 2052;
        break;
    case 0x01: /* copyright: none */
        length = 8;
        break;
    case 0x04: /* manufacturer */
        length = 2052;
        break;
    case 0xff: /* the list of these */
        for (unsigned i = 0; i < 4; i++) {
            static const uint16_t lengths[] = { 2052, 8, 2052, 16 };
            static const uint8_t formats[] = { 0x00, 0x01, 0x04, 0xff };
            reply[4 + i * 4] = formats[i];
            reply[5 + i * 4] = 0x40; /* readable */
            st16_be(reply + 6 + i * 4, lengths[i]);
        }
        length = 20;
        break;
    default:
        invalid_field(drive);
        return;
    }
    st16_be(reply, (uint16_t)(length - 2));
    atapi_reply(drive, length, ld16_be(packet + 8));
}

static void read_subchannel(IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(drive, 16);
    reply[1] = 0x15; /* no audio status */
    if (!(packet[2] & 0x40)) {
        atapi_reply(drive, 4, ld16_be(packet + 7));
        return;
    }
    if (packet[3] != 1) { /* only the current position */
        invalid_field(drive);
        return;
    }
    st16_be(reply + 2, 12);
    reply[4] = 1;
    reply[5] = 0x14;
    reply[6] = reply[7] = 1;
    put_address(reply + 8, 0, packet[1] & 2);
    put_address(reply + 12, 0, packet[1] & 2);
    atapi_reply(drive, 16, ld16_be(packet + 7));
}

static void begin_read(IdeDrive *drive, uint32_t lba, uint32_t blocks, uint32_t block_size)
{
    uint32_t total = total_blocks(drive);
    if (blocks == 0) {
        atapi_good(drive);
    } else if (lba >= total || blocks > total - lba) {
        disk_conf_count_invalid(&drive->conf, true);
        atapi_check(drive, SENSE_ILLEGAL, ASC_LBA_RANGE, 0);
    } else {
        atapi_read(drive, lba, blocks, block_size);
    }
}

static void read_10_12(IdeDrive *drive, const uint8_t *packet)
{
    uint32_t blocks = packet[0] == 0x28 ? ld16_be(packet + 7) : ld32_be(packet + 6);
    begin_read(drive, ld32_be(packet + 2), blocks, CD_BLOCK);
}

static void read_cd_range(IdeDrive *drive, uint32_t lba, uint32_t blocks, const uint8_t *packet)
{
    unsigned type = packet[1] >> 2 & 7;
    if (type != 0 && type != 2) { /* any, or mode 1 */
        atapi_check(drive, SENSE_ILLEGAL, ASC_WRONG_MODE, 0);
        return;
    }
    switch (packet[9] & 0xf8) {
    case 0x00: /* no data wanted */
        atapi_good(drive);
        break;
    case 0x10: /* user data */
        begin_read(drive, lba, blocks, CD_BLOCK);
        break;
    case 0xf8: /* everything */
        begin_read(drive, lba, blocks, CD_RAW_BLOCK);
        break;
    default:
        invalid_field(drive);
        break;
    }
}

static void read_cd(IdeDrive *drive, const uint8_t *packet)
{
    read_cd_range(drive, ld32_be(packet + 2), packet[6] << 16 | packet[7] << 8 | packet[8], packet);
}

static uint32_t msf_block(const uint8_t *msf)
{
    uint32_t frames = (msf[0] * 60u + msf[1]) * 75 + msf[2];
    return frames >= 150 ? frames - 150 : UINT32_MAX;
}

static void read_cd_msf(IdeDrive *drive, const uint8_t *packet)
{
    uint32_t start = msf_block(packet + 3), end = msf_block(packet + 6);
    if (start == UINT32_MAX || end == UINT32_MAX || end < start) {
        invalid_field(drive);
    } else {
        read_cd_range(drive, start, end - start, packet);
    }
}

static void seek(IdeDrive *drive, const uint8_t *packet)
{
    if (ld32_be(packet + 2) >= total_blocks(drive)) {
        atapi_check(drive, SENSE_ILLEGAL, ASC_LBA_RANGE, 0);
    } else {
        atapi_good(drive);
    }
}

static const MmcCommand commands[] = {
    { 0x00, test_unit_ready, NEEDS_MEDIUM },
    { 0x03, request_sense, PASSES_ATTENTION },
    { 0x12, inquiry, PASSES_ATTENTION },
    { 0x15, mode_select },
    { 0x1a, mode_sense },
    { 0x1b, start_stop },
    { 0x1e, prevent_removal },
    { 0x25, read_capacity, NEEDS_MEDIUM },
    { 0x28, read_10_12, NEEDS_MEDIUM },
    { 0x2b, seek, NEEDS_MEDIUM },
    { 0x2f, seek, NEEDS_MEDIUM }, /* VERIFY(10) */
    { 0x42, read_subchannel, NEEDS_MEDIUM },
    { 0x43, read_toc, NEEDS_MEDIUM },
    { 0x46, get_configuration, PASSES_ATTENTION },
    { 0x4a, get_event_status, PASSES_ATTENTION },
    { 0x51, read_disc_information, NEEDS_MEDIUM },
    { 0x52, read_track_information, NEEDS_MEDIUM },
    { 0x55, mode_select },
    { 0x5a, mode_sense },
    { 0xa8, read_10_12, NEEDS_MEDIUM },
    { 0xad, read_dvd_structure, NEEDS_MEDIUM },
    { 0xb9, read_cd_msf, NEEDS_MEDIUM },
    { 0xbb, test_unit_ready }, /* SET CD SPEED: any speed is fine */
    { 0xbd, mechanism_status },
    { 0xbe, read_cd, NEEDS_MEDIUM },
};

void mmc_command(IdeDrive *drive)
{
    Atapi *atapi = &drive->atapi;
    const uint8_t *packet = atapi->packet;
    const MmcCommand *command = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode == packet[0]) {
            command = &commands[i];
        }
    }
    if (!command) {
        atapi_check(drive, SENSE_ILLEGAL, ASC_INVALID_OPCODE, 0);
        return;
    }
    if (atapi->attention && !(command->flags & PASSES_ATTENTION)) {
        uint8_t asc = atapi->attention;
        atapi->attention = 0;
        atapi_check(drive, SENSE_ATTENTION, asc, 0);
        return;
    }
    if ((command->flags & NEEDS_MEDIUM) && !medium_present(drive)) {
        atapi_check(drive, SENSE_NOT_READY, ASC_NO_MEDIUM, atapi->tray_open ? 2 : 1);
        return;
    }
    command->run(drive, packet);
}
