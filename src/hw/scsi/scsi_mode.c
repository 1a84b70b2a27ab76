/*
 * MODE SENSE and MODE SELECT of a disk: SPC-4, 6.11 to 6.14 and 7.5; SBC-3, 6.5. Changeable is the write cache enable
 * bit. Pages: read-write error recovery, format device, rigid disk geometry, caching. Missing: saved pages.
 */
#include "base/endian.h"
#include "hw/scsi/scsi_disk.h"

enum { PAGE_RECOVERY = 0x01, PAGE_FORMAT = 0x03, PAGE_GEOMETRY = 0x04, PAGE_CACHING = 0x08, PAGE_ALL = 0x3f };
enum { CONTROL_CURRENT, CONTROL_CHANGEABLE, CONTROL_DEFAULT, CONTROL_SAVED };
enum { REPLY_MAX = 256, LIST_MAX = 4096, DESCRIPTOR = 8, LONG_DESCRIPTOR = 16, CACHING_WCE = 0x04, HEADS = 16, SECTORS = 63 };

static bool is_ten(const ScsiRequest *req)
{
    return req->cdb[0] & 0x40;
}

static void fill_recovery(const ScsiDisk *disk, uint8_t *at)
{
    at[2] = 0x80; /* automatic write reallocation */
}

static void fill_format(const ScsiDisk *disk, uint8_t *at)
{
    st16_be(at + 2, HEADS); /* tracks a zone */
    st16_be(at + 10, (uint16_t)(disk->secs ? disk->secs : SECTORS));
    st16_be(at + 12, (uint16_t)scsi_disk_block(disk));
    st16_be(at + 14, 1); /* interleave */
    at[20] = disk->removable ? 0x60 : 0x40; /* hard sectors, removable */
}

static void fill_geometry(const ScsiDisk *disk, uint8_t *at)
{
    uint32_t heads = disk->heads ? disk->heads : HEADS, sectors = disk->secs ? disk->secs : SECTORS;
    uint64_t cylinders = disk->cyls ? disk->cyls : MIN(scsi_disk_blocks(disk) / (heads * sectors), (uint64_t)0xffffff);
    at[2] = (uint8_t)(cylinders >> 16);
    st16_be(at + 3, (uint16_t)cylinders);
    at[5] = (uint8_t)heads;
    st16_be(at + 20, disk->rotation_rate > 1 ? disk->rotation_rate : 5400);
}

static void fill_caching(const ScsiDisk *disk, uint8_t *at)
{
    at[2] = blk_write_cache(disk_blk(&disk->conf)) ? CACHING_WCE : 0;
}

typedef struct ModePage {
    uint8_t code, length; /* behind the two bytes of its header */
    void (*fill)(const ScsiDisk *disk, uint8_t *at);
} ModePage;

static const ModePage pages[] = {
    { PAGE_RECOVERY, 10, fill_recovery },
    { PAGE_FORMAT, 22, fill_format },
    { PAGE_GEOMETRY, 22, fill_geometry },
    { PAGE_CACHING, 18, fill_caching },
};

static const ModePage *find_page(unsigned code)
{
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
        if (pages[i].code == code) {
            return &pages[i];
        }
    }
    return NULL;
}

static uint32_t put_page(const ScsiDisk *disk, const ModePage *page, unsigned control, uint8_t *at)
{
    memset(at, 0, 2u + page->length);
    at[0] = page->code;
    at[1] = page->length;
    if (control != CONTROL_CHANGEABLE) {
        page->fill(disk, at);
    }
    if (page->code == PAGE_CACHING && control == CONTROL_CHANGEABLE) {
        at[2] = CACHING_WCE;
    } else if (page->code == PAGE_CACHING && control == CONTROL_DEFAULT) {
        at[2] = disk->original_wce ? CACHING_WCE : 0;
    }
    return 2u + page->length;
}

static uint32_t put_descriptor(const ScsiDisk *disk, bool wide, uint8_t *at)
{
    uint64_t blocks = scsi_disk_blocks(disk);
    if (wide) {
        st64_be(at, blocks);
        st32_be(at + 12, scsi_disk_block(disk));
        return LONG_DESCRIPTOR;
    }
    st32_be(at, (uint32_t)MIN(blocks, 0xffffffull));
    at[0] = 0; /* density; the number has 24 bits */
    at[5] = (uint8_t)(scsi_disk_block(disk) >> 16);
    st16_be(at + 6, (uint16_t)scsi_disk_block(disk));
    return DESCRIPTOR;
}

void scsi_mode_sense(ScsiDisk *disk, ScsiRequest *req)
{
    bool ten = is_ten(req), no_descriptor = req->cdb[1] & 0x08, wide = ten && (req->cdb[1] & 0x10);
    unsigned control = req->cdb[2] >> 6, code = req->cdb[2] & 0x3f, subpage = req->cdb[3];
    uint32_t head = ten ? 8 : 4, length = head, descriptor = 0;
    uint8_t reply[REPLY_MAX] = { 0 };

    if (control == CONTROL_SAVED) {
        scsi_check(req, SENSE_ILLEGAL, ASC_SAVING_UNSUPPORTED, 0);
        return;
    }
    if ((subpage != 0 && subpage != 0xff) || (code != PAGE_ALL && !find_page(code))) {
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
        return;
    }
    if (!no_descriptor && mmc_medium_present(&disk->mmc)) {
        descriptor = put_descriptor(disk, wide, reply + head);
        length += descriptor;
    }
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
        if (code == PAGE_ALL || code == pages[i].code) {
            length += put_page(disk, &pages[i], control, reply + length);
        }
    }
    uint8_t specific = (blk_is_readonly(disk_blk(&disk->conf)) ? 0x80 : 0) | (disk->dpofua ? 0x10 : 0);
    if (ten) {
        st16_be(reply, (uint16_t)(length - 2));
        reply[3] = specific;
        reply[4] = wide && descriptor;
        st16_be(reply + 6, (uint16_t)descriptor);
    } else {
        reply[0] = (uint8_t)(length - 1);
        reply[2] = specific;
        reply[3] = (uint8_t)descriptor;
    }
    scsi_reply(req, reply, length, ten ? ld16_be(req->cdb + 7) : req->cdb[4]);
}

/* --- MODE SELECT --- */


/* Looks at one page; `apply`: does what it says. 0, or the ASC. */
static uint8_t take_page(ScsiDisk *disk, const uint8_t *given, uint32_t left, bool apply)
{
    uint8_t now[REPLY_MAX], may[REPLY_MAX];
    const ModePage *page = left >= 2 && !(given[0] & 0x40) ? find_page(given[0] & 0x3f) : NULL;

    if (!page) {
        return ASC_INVALID_PARAMETER;
    }
    if (given[1] != page->length) {
        return ASC_INVALID_PARAMETER;
    }
    if (left < 2u + page->length) {
        return ASC_LIST_LENGTH;
    }
    put_page(disk, page, CONTROL_CURRENT, now);
    put_page(disk, page, CONTROL_CHANGEABLE, may);
    for (unsigned i = 2; i < 2u + page->length; i++) {
        if ((given[i] ^ now[i]) & ~may[i]) {
            return ASC_INVALID_PARAMETER;
        }
    }
    if (apply && page->code == PAGE_CACHING) {
        blk_set_write_cache(disk_blk(&disk->conf), given[2] & CACHING_WCE);
    }
    return 0;
}

static uint8_t take_pages(ScsiDisk *disk, const uint8_t *list, uint32_t length, bool apply)
{
    for (uint32_t at = 0; at < length; at += 2u + list[at + 1]) {
        uint8_t asc = take_page(disk, list + at, length - at, apply);
        if (asc) {
            return asc;
        }
    }
    return 0;
}

/* The block descriptor may only say what is so already. */
static bool descriptor_fits(const ScsiDisk *disk, const uint8_t *given, uint32_t length, bool wide)
{
    uint8_t now[LONG_DESCRIPTOR] = { 0 };
    if (length == 0) {
        return true;
    }
    if (length != put_descriptor(disk, wide, now)) {
        return false;
    }
    uint32_t block = wide ? ld32_be(given + 12) : ld32_be(given + 4) & 0xffffff;
    return block == scsi_disk_block(disk);
}

static void flushed(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
    } else {
        scsi_good(req);
    }
}

void scsi_mode_select(ScsiDisk *disk, ScsiRequest *req)
{
    bool ten = is_ten(req);
    uint32_t wanted = ten ? ld16_be(req->cdb + 7) : req->cdb[4], head = ten ? 8 : 4;
    uint8_t list[LIST_MAX];

    if ((req->cdb[1] & 0x01) || (wanted && !(req->cdb[1] & 0x10))) { /* SP; PF */
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
        return;
    }
    if (wanted == 0) {
        scsi_good(req);
        return;
    }
    if (wanted > sizeof(list) || wanted < head || scsi_take(req, list, wanted) != wanted) {
        scsi_check(req, SENSE_ILLEGAL, ASC_LIST_LENGTH, 0);
        return;
    }
    uint32_t descriptor = ten ? ld16_be(list + 6) : list[3];
    if (descriptor > wanted - head) {
        scsi_check(req, SENSE_ILLEGAL, ASC_LIST_LENGTH, 0);
        return;
    }
    if (!descriptor_fits(disk, list + head, descriptor, ten && (list[4] & 1))) {
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_PARAMETER, 0);
        return;
    }
    head += descriptor;
    uint8_t asc = take_pages(disk, list + head, wanted - head, false);
    if (asc) {
        scsi_check(req, SENSE_ILLEGAL, asc, 0);
        return;
    }
    bool cached = blk_write_cache(disk_blk(&disk->conf));
    (void)take_pages(disk, list + head, wanted - head, true);
    if (cached && !blk_write_cache(disk_blk(&disk->conf))) {
        scsi_disk_flush(req, flushed); /* what was cached until now goes to the medium */
    } else {
        scsi_good(req);
    }
}
