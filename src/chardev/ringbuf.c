/* Back ends that keep output in memory: ringbuf for the monitor, vc for a text console of the display. */
#include "chardev/ringbuf.h"

#include <string.h>

typedef struct Ring {
    uint8_t *data;
    size_t size; /* power of two */
    uint64_t head, tail; /* bytes put and taken since the start; head - tail <= size */
} Ring;

static void ring_put(Ring *ring, const uint8_t *buf, size_t length)
{
    for (size_t n = 0; n < length; n++) {
        ring->data[ring->head++ & (ring->size - 1)] = buf[n];
    }
    if (ring->head - ring->tail > ring->size) {
        ring->tail = ring->head - ring->size;
    }
}

static size_t ring_take(Ring *ring, uint8_t *buf, size_t size)
{
    size_t count = 0;
    while (count < size && ring->tail < ring->head) {
        buf[count++] = ring->data[ring->tail++ & (ring->size - 1)];
    }
    return count;
}

/* --- ringbuf --- */

typedef struct Ringbuf {
    Chardev chr;
    uint64_t size;
    Ring ring;
} Ringbuf;

static const Prop ringbuf_props[] = {
    PROP_SIZE("size", Ringbuf, size, 65536, .help = "bytes to keep, a power of two"),
    { 0 },
};

static Error *ringbuf_open(Chardev *chr)
{
    Ringbuf *r = (Ringbuf *)chr;

    if (!IS_POW2(r->size) || r->size > GiB) {
        return error_new("size of ringbuf chardev must be power of two, at most 1 GiB");
    }
    r->ring.size = r->size;
    r->ring.data = g_malloc0(r->size);
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

static void ringbuf_close(Chardev *chr)
{
    g_clear_pointer(&((Ringbuf *)chr)->ring.data, g_free);
}

static ssize_t ringbuf_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    ring_put(&((Ringbuf *)chr)->ring, buf, length);
    return (ssize_t)length;
}

bool chardev_is_ringbuf(const Chardev *chr)
{
    return chardev_type(chr)->open == ringbuf_open;
}

size_t ringbuf_take(Chardev *chr, uint8_t *buf, size_t size)
{
    return ring_take(&((Ringbuf *)chr)->ring, buf, size);
}

void ringbuf_put(Chardev *chr, const uint8_t *buf, size_t length)
{
    ring_put(&((Ringbuf *)chr)->ring, buf, length);
}

CHARDEV_TYPE(ringbuf, .object = { .name = "chardev-ringbuf", .parent = &chardev_object_type,
                                  .size = sizeof(Ringbuf), .props = ringbuf_props },
             .name = "ringbuf", .alias = "memory", .desc = "memory that the monitor reads",
             .open = ringbuf_open, .close = ringbuf_close, .write = ringbuf_write);

/* --- vc --- */

enum { VC_KEPT = 65536, VC_CELL_WIDTH = 8, VC_CELL_HEIGHT = 16 };

typedef struct Vc {
    Chardev chr;
    uint32_t width, height, cols, rows;
    Ring kept;
    const VcDisplay *display; /* NULL: none */
    void *opaque;
} Vc;

static const Prop vc_props[] = {
    PROP_U32("width", Vc, width, 0, .help = "pixels"),
    PROP_U32("height", Vc, height, 0, .help = "pixels"),
    PROP_U32("cols", Vc, cols, 0, .help = "characters", .max = 1000),
    PROP_U32("rows", Vc, rows, 0, .help = "characters", .max = 1000),
    { 0 },
};

static Error *vc_open(Chardev *chr)
{
    Vc *vc = (Vc *)chr;
    vc->kept = (Ring) { .data = g_malloc(VC_KEPT), .size = VC_KEPT };
    char_back_event(chr, CHAR_EVENT_OPENED);
    if (chr->set->hooks.vc_opened) {
        chr->set->hooks.vc_opened(chr->set->hooks.opaque, chr);
    }
    return NULL;
}

static void vc_close(Chardev *chr)
{
    Vc *vc = (Vc *)chr;
    if (vc->display) {
        vc->display->closed(vc->opaque);
        vc->display = NULL;
    }
    g_clear_pointer(&((Vc *)chr)->kept.data, g_free);
}

static ssize_t vc_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    Vc *vc = (Vc *)chr;
    ring_put(&vc->kept, buf, length);
    if (vc->display) {
        vc->display->output(vc->opaque, buf, length);
    }
    return (ssize_t)length;
}

bool chardev_is_vc(const Chardev *chr)
{
    return chardev_type(chr)->open == vc_open;
}

void vc_set_display(Chardev *chr, const VcDisplay *display, void *opaque)
{
    Vc *vc = (Vc *)chr;
    uint8_t buf[512];
    Ring replay = vc->kept;
    size_t count;

    vc->display = display;
    vc->opaque = opaque;
    while (display && (count = ring_take(&replay, buf, sizeof(buf))) > 0) {
        display->output(opaque, buf, count);
    }
}

static void vc_accept_input(Chardev *chr)
{
    Vc *vc = (Vc *)chr;
    if (vc->display) {
        vc->display->room(vc->opaque);
    }
}

size_t vc_input(Chardev *chr, const uint8_t *buf, size_t length)
{
    size_t count = MIN(char_back_room(chr), length);
    char_back_input(chr, buf, count);
    return count;
}

void vc_size(Chardev *chr, unsigned *ret_columns, unsigned *ret_rows)
{
    const Vc *vc = (Vc *)chr;
    *ret_columns = vc->cols ? vc->cols : vc->width / VC_CELL_WIDTH;
    *ret_rows = vc->rows ? vc->rows : vc->height / VC_CELL_HEIGHT;
}

CHARDEV_TYPE(vc, .object = { .name = "chardev-vc", .parent = &chardev_object_type, .size = sizeof(Vc),
                             .props = vc_props },
             .name = "vc", .desc = "a text console of the display", .open = vc_open, .close = vc_close,
             .write = vc_write, .accept_input = vc_accept_input);
