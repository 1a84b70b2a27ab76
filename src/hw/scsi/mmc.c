/*
 * The multimedia commands of a read-only CD/DVD drive with one data track.
 *
 * SFF-8020i, 10.8; MMC-3, 6. INQUIRY is the transport's. Missing: audio, writing, copy protection.
 */
#include "hw/scsi/mmc.h"

#include "base/endian.h"

typedef struct MmcCall {
    MmcDrive *drive;
    uint8_t *reply;
    MmcOutcome *out;
} MmcCall;

/* How long the data are that a command moves: a field of the packet. */
typedef enum MmcLength { LEN_NONE, LEN_BYTE4, LEN_BE16_AT_7, LEN_BE16_AT_8, LEN_EIGHT, LEN_READ10, LEN_READ12, LEN_CD, LEN_CD_MSF } MmcLength;

typedef struct MmcCommand {
    uint8_t opcode;
    void (*run)(MmcCall *call, const uint8_t *packet);
    unsigned flags;
    MmcLength length;
} MmcCommand;

enum { NEEDS_MEDIUM = 1, PASSES_ATTENTION = 2, TO_DEVICE = 4 };

bool mmc_medium_present(const MmcDrive *drive)
{
    return !drive->tray_open && blk_is_inserted(disk_blk(drive->conf));
}

uint32_t mmc_blocks(const MmcDrive *drive)
{
    int64_t length = blk_length(disk_blk(drive->conf));
    return length > 0 ? (uint32_t)MIN((uint64_t)length / CD_BLOCK, (uint64_t)UINT32_MAX) : 0;
}

static bool is_dvd(const MmcDrive *drive)
{
    return mmc_medium_present(drive) && mmc_blocks(drive) > CD_MAX_BLOCKS;
}

/* --- outcomes --- */

static void mmc_good(MmcCall *call)
{
    call->out->kind = MMC_GOOD;
}

static void mmc_check(MmcCall *call, uint8_t key, uint8_t asc, uint8_t ascq)
{
    call->out->kind = MMC_CHECK;
    call->out->sense = (ScsiSense) { key, asc, ascq };
}

static void mmc_reply(MmcCall *call, uint32_t length, uint32_t allocated)
{
    call->out->kind = MMC_REPLY;
    call->out->length = length;
    call->out->allocated = allocated;
}

static void invalid_field(MmcCall *call)
{
    mmc_check(call, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
}

/* Buffer for a reply, cleared. */
static uint8_t *reply_buffer(MmcCall *call, uint32_t length)
{
    memset(call->reply, 0, length);
    return call->reply;
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

static void test_unit_ready(MmcCall *call, const uint8_t *packet)
{
    mmc_good(call);
}

static void request_sense(MmcCall *call, const uint8_t *packet)
{
    MmcDrive *drive = call->drive;
    uint8_t *reply = reply_buffer(call, 18);
    reply[0] = 0xf0;
    if (drive->sense_key == SENSE_NONE && drive->attention) {
        reply[2] = SENSE_ATTENTION;
        reply[12] = drive->attention;
        drive->attention = 0;
    } else {
        reply[2] = drive->sense_key;
        reply[12] = drive->asc;
        reply[13] = drive->ascq;
    }
    reply[7] = 10;
    drive->sense_key = drive->asc = drive->ascq = 0;
    mmc_reply(call, 18, packet[4]);
}

static void prevent_removal(MmcCall *call, const uint8_t *packet)
{
    call->drive->locked = packet[4] & 1;
    mmc_good(call);
}

static void start_stop(MmcCall *call, const uint8_t *packet)
{
    MmcDrive *drive = call->drive;
    bool start = packet[4] & 1, load_eject = packet[4] & 2;
    if ((packet[4] & 0xf0) || !load_eject) { /* power conditions; spinning up and down */
        mmc_good(call);
        return;
    }
    bool open = !start;
    if (open && !drive->tray_open && drive->locked) {
        if (mmc_medium_present(call->drive)) {
            mmc_check(call, SENSE_ILLEGAL, ASC_LOAD_EJECT_FAILED, 2);
        } else {
            mmc_check(call, SENSE_NOT_READY, ASC_LOAD_EJECT_FAILED, 2);
        }
        return;
    }
    if (drive->tray_open != open) {
        mmc_move_tray(drive, open);
        blk_tray_moved(disk_blk(drive->conf), open);
    }
    mmc_good(call);
}

static void mechanism_status(MmcCall *call, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(call, 8);
    reply[1] = call->drive->tray_open ? 0x10 : 0;
    reply[5] = 1; /* number of slots */
    mmc_reply(call, 8, ld16_be(packet + 8));
}

static void get_event_status(MmcCall *call, const uint8_t *packet)
{
    enum { CLASS_MEDIA = 4, POLLED = 1 };
    MmcDrive *drive = call->drive;
    uint8_t *reply = reply_buffer(call, 8);
    if (!(packet[1] & POLLED)) { /* asynchronous operation is not supported */
        invalid_field(call);
        return;
    }
    reply[3] = BIT(CLASS_MEDIA);
    if (!(packet[4] & BIT(CLASS_MEDIA))) {
        reply[1] = 2;
        reply[2] = 0x80; /* no event of these classes */
        mmc_reply(call, 4, ld16_be(packet + 7));
        return;
    }
    reply[1] = 6;
    reply[2] = CLASS_MEDIA;
    reply[4] = drive->event;
    reply[5] = (drive->tray_open ? 1 : 0) | (mmc_medium_present(call->drive) ? 2 : 0);
    drive->event = MEDIA_EVENT_NONE;
    mmc_reply(call, 8, ld16_be(packet + 7));
}

/* --- what the drive can do --- */

static uint8_t *put_feature(uint8_t *at, uint16_t code, bool current, bool persistent, uint8_t length)
{
    st16_be(at, code);
    at[2] = (persistent ? 2 : 0) | (current ? 1 : 0);
    at[3] = length;
    return at + 4 + length;
}

static void get_configuration(MmcCall *call, const uint8_t *packet)
{
    enum { PROFILE_CD = 0x0008, PROFILE_DVD = 0x0010 };
    bool present = mmc_medium_present(call->drive), dvd = is_dvd(call->drive);
    uint16_t profile = !present ? 0 : dvd ? PROFILE_DVD : PROFILE_CD, from = ld16_be(packet + 2);
    unsigned kind = packet[1] & 3;
    uint8_t *reply = reply_buffer(call, 128), *at = reply + 8, *start;
    if (kind == 3) {
        invalid_field(call);
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
    mmc_reply(call, (uint32_t)(at - reply), ld16_be(packet + 7));
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
static uint32_t page_capabilities(const MmcDrive *drive, uint8_t *at)
{
    at[0] = 0x2a;
    at[1] = 0x12;
    at[2] = 0x0b; /* reads CD-R, CD-RW, DVD-ROM */
    at[4] = 0x70; /* mode 2 forms, multisession */
    at[5] = 3;
    at[6] = 0x29 | (drive->locked ? 0x02 : 0); /* tray, eject, lock */
    st16_be(at + 8, 706);  /* KB/s: 4x */
    st16_be(at + 10, 2);   /* volume levels */
    st16_be(at + 12, 512); /* KB of buffer */
    st16_be(at + 14, 706);
    return 20;
}

static void mode_sense(MmcCall *call, const uint8_t *packet)
{
    bool ten = packet[0] == 0x5a;
    unsigned control = packet[2] >> 6, page = packet[2] & 0x3f;
    uint32_t head = ten ? 8 : 4, length = head;
    uint8_t *reply = reply_buffer(call, 128);
    if (control == 3) {
        mmc_check(call, SENSE_ILLEGAL, ASC_SAVING_UNSUPPORTED, 0);
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
        length += page_capabilities(call->drive, reply + length);
    }
    if (length == head) {
        invalid_field(call);
        return;
    }
    if (control == 1) {
        memset(reply + head + 2, 0, length - head - 2);
    }
    uint8_t medium = call->drive->tray_open ? 0x71 : mmc_medium_present(call->drive) ? 0x01 : 0x70;
    if (ten) {
        st16_be(reply, (uint16_t)(length - 2));
        reply[2] = medium;
        mmc_reply(call, length, ld16_be(packet + 7));
    } else {
        reply[0] = (uint8_t)(length - 1);
        reply[1] = medium;
        mmc_reply(call, length, packet[4]);
    }
}

static void mode_select(MmcCall *call, const uint8_t *packet)
{
    uint32_t bytes = packet[0] == 0x55 ? ld16_be(packet + 7) : packet[4];
    if (packet[1] & 1) {
        mmc_check(call, SENSE_ILLEGAL, ASC_SAVING_UNSUPPORTED, 0);
    } else {
        call->out->kind = MMC_RECEIVE;
        call->out->bytes = MIN(bytes, 0xfffe);
    }
}

/* Pages that MODE SENSE has are taken and change nothing; anything else is refused. */
void mmc_parameters(MmcDrive *drive, const uint8_t *packet, const uint8_t *list, uint32_t bytes, MmcOutcome *ret_outcome)
{
    MmcCall call = { drive, NULL, ret_outcome };
    uint32_t at = packet[0] == 0x55 ? 8 : 4;
    while (at + 2 <= bytes) {
        uint8_t page = list[at] & 0x3f;
        if (page != 0x01 && page != 0x0e && page != 0x2a) {
            mmc_check(&call, SENSE_ILLEGAL, ASC_INVALID_PARAMETER, 0);
            return;
        }
        at += 2u + list[at + 1];
    }
    mmc_good(&call);
}

/* --- the disc --- */

static void read_capacity(MmcCall *call, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(call, 8);
    st32_be(reply, MAX(mmc_blocks(call->drive), 1u) - 1);
    st32_be(reply + 4, CD_BLOCK);
    mmc_reply(call, 8, 8);
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

static void read_toc(MmcCall *call, const uint8_t *packet)
{
    bool msf = packet[1] & 2;
    unsigned format = packet[2] & 15, first = packet[6];
    uint32_t length;
    uint8_t *reply = reply_buffer(call, 64);
    if (format == 0) { /* the older form of the field */
        format = packet[9] >> 6;
    }
    switch (format) {
    case 0:
        if (first > 1 && first != 0xaa) {
            invalid_field(call);
            return;
        }
        length = toc_tracks(reply, mmc_blocks(call->drive), msf, first);
        break;
    case 1: /* sessions: one */
        reply[2] = reply[3] = 1;
        reply[5] = 0x14;
        reply[6] = 1;
        put_address(reply + 8, 0, msf);
        length = 12;
        break;
    case 2:
        length = toc_raw(reply, mmc_blocks(call->drive), msf);
        break;
    default:
        invalid_field(call);
        return;
    }
    st16_be(reply, (uint16_t)(length - 2));
    mmc_reply(call, length, ld16_be(packet + 7));
}

static void read_disc_information(MmcCall *call, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(call, 34);
    if (packet[1] & 7) {
        invalid_field(call);
        return;
    }
    st16_be(reply, 32);
    reply[2] = 0x0e; /* complete, last session complete */
    reply[3] = reply[4] = reply[5] = reply[6] = 1;
    reply[7] = 0x20; /* unrestricted use */
    mmc_reply(call, 34, ld16_be(packet + 7));
}

static void read_track_information(MmcCall *call, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(call, 28);
    unsigned kind = packet[1] & 3;
    uint32_t address = ld32_be(packet + 2);
    if ((kind == 0 && address >= mmc_blocks(call->drive)) || (kind != 0 && address > 1)) {
        invalid_field(call);
        return;
    }
    st16_be(reply, 26);
    reply[2] = reply[3] = 1;
    reply[5] = 0x04; /* data track */
    reply[6] = 0x01; /* mode 1 */
    st32_be(reply + 24, mmc_blocks(call->drive));
    mmc_reply(call, 28, ld16_be(packet + 7));
}

static void read_dvd_structure(MmcCall *call, const uint8_t *packet)
{
    uint32_t total = mmc_blocks(call->drive);
    uint8_t *reply = reply_buffer(call, 2052);
    uint32_t length;
    if (packet[1] & 15) {
        invalid_field(call);
        return;
    }
    if (!is_dvd(call->drive) && packet[7] != 0xff) {
        mmc_check(call, SENSE_ILLEGAL, 0x30, 0x02); /* incompatible format */
        return;
    }
    switch (packet[7]) {
    case 0x00: /* physical format: DVD-ROM, one layer */
        if (packet[6] != 0) {
            invalid_field(call);
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
        invalid_field(call);
        return;
    }
    st16_be(reply, (uint16_t)(length - 2));
    mmc_reply(call, length, ld16_be(packet + 8));
}

static void read_subchannel(MmcCall *call, const uint8_t *packet)
{
    uint8_t *reply = reply_buffer(call, 16);
    reply[1] = 0x15; /* no audio status */
    if (!(packet[2] & 0x40)) {
        mmc_reply(call, 4, ld16_be(packet + 7));
        return;
    }
    if (packet[3] != 1) { /* only the current position */
        invalid_field(call);
        return;
    }
    st16_be(reply + 2, 12);
    reply[4] = 1;
    reply[5] = 0x14;
    reply[6] = reply[7] = 1;
    put_address(reply + 8, 0, packet[1] & 2);
    put_address(reply + 12, 0, packet[1] & 2);
    mmc_reply(call, 16, ld16_be(packet + 7));
}

static void begin_read(MmcCall *call, uint32_t lba, uint32_t blocks, uint32_t block_size)
{
    uint32_t total = mmc_blocks(call->drive);
    if (blocks == 0) {
        mmc_good(call);
    } else if (lba >= total || blocks > total - lba) {
        disk_conf_count_invalid(call->drive->conf, true);
        mmc_check(call, SENSE_ILLEGAL, ASC_LBA_RANGE, 0);
    } else {
        call->out->kind = MMC_READ;
        call->out->lba = lba;
        call->out->blocks = blocks;
        call->out->block_size = block_size;
    }
}

static void read_10_12(MmcCall *call, const uint8_t *packet)
{
    uint32_t blocks = packet[0] == 0x28 ? ld16_be(packet + 7) : ld32_be(packet + 6);
    begin_read(call, ld32_be(packet + 2), blocks, CD_BLOCK);
}

static void read_cd_range(MmcCall *call, uint32_t lba, uint32_t blocks, const uint8_t *packet)
{
    unsigned type = packet[1] >> 2 & 7;
    if (type != 0 && type != 2) { /* any, or mode 1 */
        mmc_check(call, SENSE_ILLEGAL, ASC_WRONG_MODE, 0);
        return;
    }
    switch (packet[9] & 0xf8) {
    case 0x00: /* no data wanted */
        mmc_good(call);
        break;
    case 0x10: /* user data */
        begin_read(call, lba, blocks, CD_BLOCK);
        break;
    case 0xf8: /* everything */
        begin_read(call, lba, blocks, CD_RAW_BLOCK);
        break;
    default:
        invalid_field(call);
        break;
    }
}

static void read_cd(MmcCall *call, const uint8_t *packet)
{
    read_cd_range(call, ld32_be(packet + 2), packet[6] << 16 | packet[7] << 8 | packet[8], packet);
}

static uint32_t msf_block(const uint8_t *msf)
{
    uint32_t frames = (msf[0] * 60u + msf[1]) * 75 + msf[2];
    return frames >= 150 ? frames - 150 : UINT32_MAX;
}

static void read_cd_msf(MmcCall *call, const uint8_t *packet)
{
    uint32_t start = msf_block(packet + 3), end = msf_block(packet + 6);
    if (start == UINT32_MAX || end == UINT32_MAX || end < start) {
        invalid_field(call);
    } else {
        read_cd_range(call, start, end - start, packet);
    }
}

static void seek(MmcCall *call, const uint8_t *packet)
{
    if (ld32_be(packet + 2) >= mmc_blocks(call->drive)) {
        mmc_check(call, SENSE_ILLEGAL, ASC_LBA_RANGE, 0);
    } else {
        mmc_good(call);
    }
}

static const MmcCommand commands[] = {
    { 0x00, test_unit_ready, NEEDS_MEDIUM },
    { 0x03, request_sense, PASSES_ATTENTION, LEN_BYTE4 },
    { 0x15, mode_select, TO_DEVICE, LEN_BYTE4 },
    { 0x1a, mode_sense, 0, LEN_BYTE4 },
    { 0x1b, start_stop },
    { 0x1e, prevent_removal },
    { 0x25, read_capacity, NEEDS_MEDIUM, LEN_EIGHT },
    { 0x28, read_10_12, NEEDS_MEDIUM, LEN_READ10 },
    { 0x2b, seek, NEEDS_MEDIUM },
    { 0x2f, seek, NEEDS_MEDIUM }, /* VERIFY(10) */
    { 0x42, read_subchannel, NEEDS_MEDIUM, LEN_BE16_AT_7 },
    { 0x43, read_toc, NEEDS_MEDIUM, LEN_BE16_AT_7 },
    { 0x46, get_configuration, PASSES_ATTENTION, LEN_BE16_AT_7 },
    { 0x4a, get_event_status, PASSES_ATTENTION, LEN_BE16_AT_7 },
    { 0x51, read_disc_information, NEEDS_MEDIUM, LEN_BE16_AT_7 },
    { 0x52, read_track_information, NEEDS_MEDIUM, LEN_BE16_AT_7 },
    { 0x55, mode_select, TO_DEVICE, LEN_BE16_AT_7 },
    { 0x5a, mode_sense, 0, LEN_BE16_AT_7 },
    { 0xa8, read_10_12, NEEDS_MEDIUM, LEN_READ12 },
    { 0xad, read_dvd_structure, NEEDS_MEDIUM, LEN_BE16_AT_8 },
    { 0xb9, read_cd_msf, NEEDS_MEDIUM, LEN_CD_MSF },
    { 0xbb, test_unit_ready }, /* SET CD SPEED: any speed is fine */
    { 0xbd, mechanism_status, 0, LEN_BE16_AT_8 },
    { 0xbe, read_cd, NEEDS_MEDIUM, LEN_CD },
};

static const MmcCommand *find_command(uint8_t opcode)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode == opcode) {
            return &commands[i];
        }
    }
    return NULL;
}

void mmc_command(MmcDrive *drive, const uint8_t *packet, uint8_t *reply, MmcOutcome *ret_outcome)
{
    MmcCall call = { drive, reply, ret_outcome };
    const MmcCommand *command = find_command(packet[0]);

    *ret_outcome = (MmcOutcome) { .kind = MMC_GOOD };
    if (!command) {
        mmc_check(&call, SENSE_ILLEGAL, ASC_INVALID_OPCODE, 0);
        return;
    }
    if (drive->attention && !(command->flags & PASSES_ATTENTION)) {
        uint8_t asc = drive->attention;
        drive->attention = 0;
        mmc_check(&call, SENSE_ATTENTION, asc, 0);
        return;
    }
    if ((command->flags & NEEDS_MEDIUM) && !mmc_medium_present(drive)) {
        mmc_check(&call, SENSE_NOT_READY, ASC_NO_MEDIUM, drive->tray_open ? 2 : 1);
        return;
    }
    command->run(&call, packet);
}

/* Bytes that READ CD gives out of a block. */
static uint64_t cd_block_bytes(const uint8_t *packet)
{
    uint8_t fields = packet[9] & 0xf8;
    return fields == 0x10 ? CD_BLOCK : fields == 0xf8 ? CD_RAW_BLOCK : 0;
}

static uint64_t msf_blocks(const uint8_t *packet)
{
    uint32_t start = msf_block(packet + 3), end = msf_block(packet + 6);
    return start == UINT32_MAX || end == UINT32_MAX || end < start ? 0 : end - start;
}

bool mmc_transfer(const uint8_t *packet, uint64_t *ret_bytes, bool *ret_to_device)
{
    const MmcCommand *command = find_command(packet[0]);
    if (!command) {
        return false;
    }
    *ret_to_device = command->flags & TO_DEVICE;
    switch (command->length) {
    case LEN_NONE:
        *ret_bytes = 0;
        break;
    case LEN_BYTE4:
        *ret_bytes = packet[4];
        break;
    case LEN_BE16_AT_7:
        *ret_bytes = ld16_be(packet + 7);
        break;
    case LEN_BE16_AT_8:
        *ret_bytes = ld16_be(packet + 8);
        break;
    case LEN_EIGHT:
        *ret_bytes = 8;
        break;
    case LEN_READ10:
        *ret_bytes = (uint64_t)ld16_be(packet + 7) * CD_BLOCK;
        break;
    case LEN_READ12:
        *ret_bytes = (uint64_t)ld32_be(packet + 6) * CD_BLOCK;
        break;
    case LEN_CD:
        *ret_bytes = (uint64_t)(packet[6] << 16 | packet[7] << 8 | packet[8]) * cd_block_bytes(packet);
        break;
    case LEN_CD_MSF:
        *ret_bytes = msf_blocks(packet) * cd_block_bytes(packet);
        break;
    }
    return true;
}

/* --- the tray --- */

void mmc_move_tray(MmcDrive *drive, bool open)
{
    drive->tray_open = open;
    if (!open && blk_is_inserted(disk_blk(drive->conf))) {
        drive->attention = ASC_MEDIUM_CHANGED;
    }
    drive->event = open ? MEDIA_EVENT_REMOVED : MEDIA_EVENT_NEW;
}

static void medium_changed(void *opaque, bool loaded)
{
    mmc_move_tray(opaque, !loaded);
}

static void eject_request(void *opaque, bool force)
{
    MmcDrive *drive = opaque;
    drive->event = MEDIA_EVENT_EJECT_REQUEST;
    if (force) {
        drive->locked = false;
    }
}

static bool tray_open(void *opaque)
{
    return ((MmcDrive *)opaque)->tray_open;
}

static bool locked(void *opaque)
{
    return ((MmcDrive *)opaque)->locked;
}

const BlkDeviceOps mmc_blk_ops = {
    .changed = medium_changed, .eject_request = eject_request, .tray_open = tray_open, .locked = locked,
};

void mmc_reset(MmcDrive *drive)
{
    *drive = (MmcDrive) { .conf = drive->conf };
}

const StateField mmc_state[] = {
    STATE_U8(MmcDrive, sense_key), STATE_U8(MmcDrive, asc), STATE_U8(MmcDrive, ascq), STATE_U8(MmcDrive, attention),
    STATE_U8(MmcDrive, event), STATE_BOOL(MmcDrive, tray_open), STATE_BOOL(MmcDrive, locked), STATE_NOT(MmcDrive, conf, "wiring"), { 0 },
};
