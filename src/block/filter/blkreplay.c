/*
 * Filter "blkreplay": shows its image as it is. Command lines for record and replay put it under a device; here the
 * completions of every device's requests are recorded, whatever its disk is made of (backend_replay.c), so that there is
 * nothing left to do for it.
 */
#include "block/filter/filter.h"

BLOCK_DRIVER(blkreplay, .filter = true, .name = "blkreplay", .desc = "Filter: an image for record and replay",
             .child_name = "image", .open_co = filter_open_co, .preadv_co = filter_preadv_co, FILTER_WRITES,
             .status_co = filter_status_co);
