/*
 * Monitor descriptions: VESA Enhanced EDID release A, revision 2 (structure 1.4), section 3; CTA-861-G 7.3
 * for the extension block, which only lists further detailed timings.
 */
#include "hw/display/edid.h"

#include <string.h>

#include "base/endian.h"

enum { EST_TIMINGS = 0x23, STD_TIMINGS = 0x26, DESCRIPTORS = 0x36, DESCRIPTOR_SIZE = 18 };

/* Standard timings worth offering: at least 256 pixels wide, one of four aspect ratios. */
static const struct {
    uint16_t width, height;
    uint8_t aspect; /* 0 16:10, 1 4:3, 2 5:4, 3 16:9 */
} standard_modes[] = {
    { 1920, 1080, 3 }, { 1680, 1050, 0 }, { 1600, 1200, 1 }, { 1440, 900, 0 },
    { 1280, 1024, 2 }, { 1280, 960, 1 },  { 1280, 800, 0 },  { 1280, 720, 3 },
};

static void set_checksum(uint8_t block[128])
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 127; i++) {
        sum += block[i];
    }
    block[127] = (uint8_t)-sum;
}

/* Detailed timing with blanking as of reduced-blanking modes: enough for monitors that are not there. */
static void detailed_timing(uint8_t *at, uint32_t width, uint32_t height, uint32_t refresh_mhz, uint32_t width_mm,
                            uint32_t height_mm)
{
    uint32_t h_front = width * 25 / 100, h_sync = width * 3 / 100, h_blank = width * 35 / 100;
    uint32_t v_front = height * 5 / 1000, v_sync = MAX(height * 5 / 1000, 1u), v_blank = height * 35 / 1000;
    uint64_t clock = (uint64_t)refresh_mhz * (width + h_blank) * (height + v_blank) / 10000000;
    st16_le(at, (uint16_t)MIN(clock, 65535));
    at[2] = width & 0xff;
    at[3] = h_blank & 0xff;
    at[4] = (width >> 8 & 15) << 4 | (h_blank >> 8 & 15);
    at[5] = height & 0xff;
    at[6] = v_blank & 0xff;
    at[7] = (height >> 8 & 15) << 4 | (v_blank >> 8 & 15);
    at[8] = h_front & 0xff;
    at[9] = h_sync & 0xff;
    at[10] = (v_front & 15) << 4 | (v_sync & 15);
    at[11] = (h_front >> 8 & 3) << 6 | (h_sync >> 8 & 3) << 4 | (v_front >> 4 & 3) << 2 | (v_sync >> 4 & 3);
    at[12] = width_mm & 0xff;
    at[13] = height_mm & 0xff;
    at[14] = (width_mm >> 8 & 15) << 4 | (height_mm >> 8 & 15);
    at[17] = 0x18; /* digital separate sync */
}

static void text_descriptor(uint8_t *at, uint8_t tag, const char *text)
{
    at[3] = tag;
    memset(at + 5, ' ', 13);
    size_t length = MIN(strlen(text), 13);
    memcpy(at + 5, text, length);
    if (length < 13) {
        at[5 + length] = '\n';
    }
}

static void range_descriptor(uint8_t *at)
{
    static const uint8_t range[] = { 0, 0, 0, 0xfd, 0, 50, 125, 30, 160, 255, 1, '\n', ' ', ' ', ' ', ' ', ' ', ' ' };
    memcpy(at, range, sizeof(range));
}

static bool allowed(const EdidInfo *info, unsigned width, unsigned height)
{
    return (!info->max_width || width <= info->max_width) && (!info->max_height || height <= info->max_height);
}

static void modes(const EdidInfo *info, uint8_t *edid)
{
    unsigned slot = 0;
    edid[EST_TIMINGS] = allowed(info, 640, 480) ? 0x20 : 0;      /* 640x480 at 60 Hz */
    edid[EST_TIMINGS] |= allowed(info, 800, 600) ? 0x01 : 0;     /* 800x600 at 60 Hz */
    edid[EST_TIMINGS + 1] = allowed(info, 1024, 768) ? 0x08 : 0; /* 1024x768 at 60 Hz */
    memset(edid + STD_TIMINGS, 1, 16);
    for (unsigned i = 0; i < ARRAY_SIZE(standard_modes); i++) {
        if (allowed(info, standard_modes[i].width, standard_modes[i].height)) {
            edid[STD_TIMINGS + slot * 2] = (uint8_t)(standard_modes[i].width / 8 - 31);
            edid[STD_TIMINGS + slot * 2 + 1] = (uint8_t)(standard_modes[i].aspect << 6);
            slot++;
        }
    }
}

void edid_build(const EdidInfo *info, uint8_t ret_edid[EDID_SIZE])
{
    static const uint8_t header[8] = { 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0 };
    static const uint8_t srgb[10] = { 0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54 };
    uint8_t *edid = ret_edid;
    uint32_t width = info->width ? info->width : 1280, height = info->height ? info->height : 800;
    uint32_t refresh = info->refresh_mhz ? info->refresh_mhz : 75000;
    uint32_t width_mm = info->width_mm ? info->width_mm : width * 254 / 1000;
    uint32_t height_mm = info->height_mm ? info->height_mm : height * 254 / 1000;
    width = MIN(width, 4095);
    height = MIN(height, 4095);

    memset(edid, 0, EDID_SIZE);
    memcpy(edid, header, 8);
    /* Manufacturer "OST": three letters of five bits, A is 1. */
    st16_be(edid + 8, ('O' - 'A' + 1) << 10 | ('S' - 'A' + 1) << 5 | ('T' - 'A' + 1));
    st16_le(edid + 10, 0x0001);
    edid[16] = 1;           /* week */
    edid[17] = 2024 - 1990; /* year */
    edid[18] = 1;
    edid[19] = 4;
    edid[20] = 0xa5; /* digital, 8 bits a colour, DisplayPort */
    edid[21] = (uint8_t)MIN(width_mm / 10, 255);
    edid[22] = (uint8_t)MIN(height_mm / 10, 255);
    edid[23] = 220 - 100; /* gamma 2.2 */
    edid[24] = 0x06;      /* sRGB, preferred timing first */
    memcpy(edid + 25, srgb, sizeof(srgb));
    modes(info, edid);
    detailed_timing(edid + DESCRIPTORS, width, height, refresh, width_mm, height_mm);
    range_descriptor(edid + DESCRIPTORS + DESCRIPTOR_SIZE);
    text_descriptor(edid + DESCRIPTORS + 2 * DESCRIPTOR_SIZE, 0xfc, info->name ? info->name : "Ostrich");
    text_descriptor(edid + DESCRIPTORS + 3 * DESCRIPTOR_SIZE, info->serial ? 0xff : 0xfe,
                    info->serial ? info->serial : "");
    edid[126] = 1;
    set_checksum(edid);

    uint8_t *cta = edid + 128;
    cta[0] = 0x02;
    cta[1] = 0x03;
    cta[2] = 4; /* no data blocks: timings follow at once */
    unsigned at = 4;
    static const uint16_t more[][2] = { { 3840, 2160 }, { 2560, 1600 }, { 2560, 1440 }, { 1920, 1200 }, { 1600, 900 } };
    for (unsigned i = 0; i < ARRAY_SIZE(more); i++) {
        if (allowed(info, more[i][0], more[i][1])) {
            detailed_timing(cta + at, more[i][0], more[i][1], 60000, width_mm, height_mm);
            at += DESCRIPTOR_SIZE;
        }
    }
    set_checksum(cta);
}
