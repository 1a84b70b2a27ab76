/* INQUIRY of an ATAPI drive: SFF-8020i, 10.8.2; vital product data of SPC-3, 7.6. */
#include "base/endian.h"
#include "hw/ide/atapi.h"

static void invalid_field(IdeDrive *drive)
{
    atapi_check(drive, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
}

static void put_text(uint8_t *at, size_t length, const char *text)
{
    memset(at, ' ', length);
    memcpy(at, text, MIN(strlen(text), length));
}

static void inquiry_page(IdeDrive *drive, const uint8_t *packet, uint32_t allocated)
{
    uint8_t *reply = drive->buffer;
    memset(reply, 0, 64);
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

void atapi_inquiry(IdeDrive *drive, const uint8_t *packet)
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
    uint8_t *reply = drive->buffer;
    memset(reply, 0, 36);
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
