/* What ringbuf-read and ringbuf-write of the monitor use. */
#ifndef OSTRICH_CHARDEV_RINGBUF_H
#define OSTRICH_CHARDEV_RINGBUF_H

#include "chardev/chardev.h"

bool chardev_is_ringbuf(const Chardev *chr);
/* Takes up to `size` bytes of output out of the buffer; bytes taken. */
size_t ringbuf_take(Chardev *chr, uint8_t *buf, size_t size);
/* Adds bytes as if the device had written them. */
void ringbuf_put(Chardev *chr, const uint8_t *buf, size_t length);

/*
 * vc: a text console. What the device writes is kept (the last 64 KiB) until a display attaches, gets it
 * replayed and then everything that follows.
 */
bool chardev_is_vc(const Chardev *chr);
typedef struct VcDisplay {
    void (*output)(void *opaque, const uint8_t *buf, size_t length);
    void (*room)(void *opaque);   /* vc_input() takes more again */
    void (*closed)(void *opaque); /* the chardev goes away */
} VcDisplay;
void vc_set_display(Chardev *chr, const VcDisplay *display, void *opaque);
/* Keys typed in the display; bytes taken. */
size_t vc_input(Chardev *chr, const uint8_t *buf, size_t length);
/* Wanted size in characters; 0: the display's default. */
void vc_size(Chardev *chr, unsigned *ret_columns, unsigned *ret_rows);

#endif
