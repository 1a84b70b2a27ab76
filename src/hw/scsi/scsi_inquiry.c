/*
 * INQUIRY and the vital product data of SCSI disks: SPC-4, 6.6 and 7.8; SBC-3, 6.6 for pages B0h to B2h.
 */
#include "base/endian.h"
#include "hw/scsi/scsi_disk.h"

enum { PAGE_MAX = 512, STANDARD_BYTES = 36 };
enum { CODE_BINARY = 1, CODE_ASCII = 2, ASSOCIATED_PORT = 0x10, PROTOCOL_VALID = 0x80, PROTOCOL_SAS = 0x60 };
enum { ID_VENDOR = 0, ID_NAA = 3, ID_PORT = 4 };
enum { UNMAP_DESCRIPTORS = 255 };

/* A page under construction: data behind its header of 4 bytes. */
typedef struct Page {
    uint8_t bytes[PAGE_MAX];
    uint32_t length;
} Page;

static uint8_t *page_add(Page *page, uint32_t length)
{
    uint8_t *at = page->bytes + page->length;
    assert(length <= PAGE_MAX - page->length);
    page->length += length;
    return at;
}

static void put_supported(const ScsiDisk *disk, Page *page)
{
    *page_add(page, 1) = 0x00;
    if (disk->serial) {
        *page_add(page, 1) = 0x80;
    }
    *page_add(page, 1) = 0x83;
    if (disk->type == TYPE_DISK) {
        *page_add(page, 1) = 0xb0;
        *page_add(page, 1) = 0xb1;
        *page_add(page, 1) = 0xb2;
    }
}

static uint8_t *add_designator(Page *page, uint8_t code, uint8_t kind, uint8_t length)
{
    uint8_t *at = page_add(page, 4u + length);
    at[0] = code;
    at[1] = kind;
    at[3] = length;
    return at + 4;
}

static void put_identification(const ScsiDisk *disk, Page *page)
{
    uint8_t port = PROTOCOL_VALID | ASSOCIATED_PORT;
    if (disk->device_id) {
        uint8_t length = (uint8_t)strlen(disk->device_id);
        memcpy(add_designator(page, CODE_ASCII, ID_VENDOR, length), disk->device_id, length);
    }
    if (disk->wwn) {
        st64_be(add_designator(page, CODE_BINARY, ID_NAA, 8), disk->wwn);
    }
    if (disk->port_wwn) {
        st64_be(add_designator(page, PROTOCOL_SAS | CODE_BINARY, port | ID_NAA, 8), disk->port_wwn);
    }
    if (disk->port_index) {
        st16_be(add_designator(page, PROTOCOL_SAS | CODE_BINARY, port | ID_PORT, 4) + 2, disk->port_index);
    }
}

static uint32_t in_blocks(const ScsiDisk *disk, uint64_t bytes)
{
    return (uint32_t)MIN(bytes / scsi_disk_block(disk), (uint64_t)UINT32_MAX);
}

static void put_block_limits(const ScsiDisk *disk, Page *page)
{
    uint8_t *at = page_add(page, 60) - 4; /* numbered as in the standard */
    at[4] = 1; /* WSNZ: WRITE SAME of no blocks is an error */
    st16_be(at + 6, (uint16_t)MIN(in_blocks(disk, disk->conf.min_io_size), 0xffffu));
    st32_be(at + 8, in_blocks(disk, disk->max_io_size));
    st32_be(at + 12, in_blocks(disk, disk->conf.opt_io_size));
    if (scsi_disk_discards(disk)) {
        st32_be(at + 20, in_blocks(disk, disk->max_unmap_size));
        st32_be(at + 24, UNMAP_DESCRIPTORS);
        st32_be(at + 28, in_blocks(disk, disk->conf.discard_granularity));
    }
}

static void put_provisioning(const ScsiDisk *disk, Page *page)
{
    uint8_t *at = page_add(page, 4);
    if (scsi_disk_discards(disk)) {
        at[1] = 0xe0; /* UNMAP, WRITE SAME(16) and (10) with UNMAP */
        at[2] = 2;    /* thin */
    } else {
        at[2] = 1;    /* full */
    }
}

static void vital_product_data(ScsiDisk *disk, ScsiRequest *req, uint32_t allocated)
{
    Page page = { .bytes = { disk->type, req->cdb[2] }, .length = 4 };
    bool block_page = req->cdb[2] >= 0xb0 && disk->type != TYPE_DISK;

    switch (block_page ? 0xff : req->cdb[2]) {
    case 0x00:
        put_supported(disk, &page);
        break;
    case 0x80:
        if (!disk->serial) {
            scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
            return;
        }
        memcpy(page_add(&page, (uint32_t)strlen(disk->serial)), disk->serial, strlen(disk->serial));
        break;
    case 0x83:
        put_identification(disk, &page);
        break;
    case 0xb0:
        put_block_limits(disk, &page);
        break;
    case 0xb1:
        st16_be(page_add(&page, 60), disk->rotation_rate);
        break;
    case 0xb2:
        put_provisioning(disk, &page);
        break;
    default:
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
        return;
    }
    st16_be(page.bytes + 2, (uint16_t)(page.length - 4));
    scsi_reply(req, page.bytes, page.length, allocated);
}

void scsi_inquiry(ScsiDisk *disk, ScsiRequest *req)
{
    uint32_t allocated = ld16_be(req->cdb + 3);
    uint8_t reply[STANDARD_BYTES] = { 0 };

    if (req->cdb[1] & 1) {
        vital_product_data(disk, req, allocated);
        return;
    }
    if (req->cdb[2] != 0 || (req->cdb[1] & 2)) {
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
        return;
    }
    reply[0] = disk->type;
    reply[1] = disk->removable ? 0x80 : 0;
    reply[2] = (uint8_t)disk->scsi_version;
    reply[3] = 0x12; /* hierarchical LUNs; the format of this reply */
    reply[4] = STANDARD_BYTES - 5;
    reply[7] = 0x10 | (disk->scsi.bus->queueing ? 0x02 : 0);
    scsi_put_text(reply + 8, 8, disk->vendor);
    scsi_put_text(reply + 16, 16, disk->product);
    scsi_put_text(reply + 32, 4, disk->version);
    scsi_reply(req, reply, sizeof(reply), allocated);
}
