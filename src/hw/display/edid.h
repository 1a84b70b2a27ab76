/* A monitor's description: VESA E-EDID 1.4, one base block and one CTA-861 extension. */
#ifndef OSTRICH_HW_DISPLAY_EDID_H
#define OSTRICH_HW_DISPLAY_EDID_H

#include "base/base.h"

enum { EDID_SIZE = 256 };

typedef struct EdidInfo {
    uint32_t width, height;         /* preferred mode, pixels; 0: 1280x800 */
    uint32_t max_width, max_height; /* 0: no limit */
    uint32_t refresh_mhz;           /* thousandths of Hz; 0: 75 Hz */
    uint32_t width_mm, height_mm;   /* 0: as of 100 dots per inch */
    const char *name, *serial;      /* up to 13 characters; NULL: a default, none */
} EdidInfo;

void edid_build(const EdidInfo *info, uint8_t ret_edid[EDID_SIZE]);

#endif
