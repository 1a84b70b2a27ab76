/*
 * Consoles: what a display device shows, and who looks at it.
 *
 * A display device makes a console and gives it a surface (pixels). A display back end (window, VNC,
 * terminal) is a listener: it is told when a surface is replaced, which rectangles changed, and what the
 * pointer looks like. Devices draw only when asked: while somebody listens, a timer calls their refresh();
 * a screen dump asks once.
 *
 * Threads: the machine lock.
 */
#ifndef OSTRICH_UI_CONSOLE_H
#define OSTRICH_UI_CONSOLE_H

#include <pixman.h>

#include "core/vm/machine.h"

typedef struct Console Console;
typedef struct Surface Surface;
typedef struct DisplayListener DisplayListener;

/* --- surfaces: counted images --- */
struct Surface {
    pixman_image_t *image;
    pixman_format_code_t format;
    unsigned width, height; /* pixels, at least 1 */
    size_t stride;          /* bytes a row */
    uint8_t *data;
    bool borrowed;          /* data is the guest's memory */
    unsigned refs;
};

enum { SURFACE_MAX = 16384 }; /* pixels, either way */

/* A black x8r8g8b8 image. Sizes are clamped to 1..SURFACE_MAX. NULL when the host has no memory for it. */
Surface *surface_new(unsigned width, unsigned height);
/* Shows pixels that lie elsewhere; data must outlive the surface's time as a console's surface. */
Surface *surface_new_borrowed(unsigned width, unsigned height, size_t stride, pixman_format_code_t format, void *data);
Surface *surface_ref(Surface *surface);
void surface_unref(Surface *surface); /* accepts NULL */
static inline void *surface_row(const Surface *surface, unsigned y)
{
    return surface->data + y * surface->stride;
}

/* --- consoles --- */
/* A character cell as a text display holds it. */
typedef struct TextCell {
    uint8_t ch;   /* code page 437 */
    uint8_t attr; /* background << 4 | foreground, CGA colours */
} TextCell;

typedef struct TextScreen {
    unsigned columns, rows;
    TextCell *cells;        /* columns * rows; owned by whoever asked */
    int cursor_x, cursor_y; /* -1: hidden */
} TextScreen;
void text_screen_free(TextScreen *text); /* the cells; accepts NULL */

/* What a window would like the guest to show. 0: unknown. */
typedef struct ConsoleWish {
    unsigned width, height;       /* pixels */
    unsigned width_mm, height_mm;
    unsigned refresh_mhz;         /* thousandths of Hz */
} ConsoleWish;

typedef struct ConsoleOps {
    /* Brings the surface up to date; calls console_switch() and console_update(). */
    void (*refresh)(void *opaque);
    /* The next refresh draws everything. */
    void (*invalidate)(void *opaque);
    /* Characters on the screen; false: it shows no text. May be NULL. */
    bool (*text)(void *opaque, TextScreen *ret_text);
    void (*wish)(void *opaque, const ConsoleWish *wish); /* may be NULL */
    /* What was typed, as a terminal would send it. NULL: keys go to the guest's keyboard instead. */
    void (*typed)(void *opaque, const char *text, size_t length);
    /* Looks further back by so many rows; may be NULL. */
    void (*scroll)(void *opaque, int rows);
} ConsoleOps;

/* A pointer image: a8r8g8b8 with premultiplied alpha. */
typedef struct PointerImage {
    unsigned width, height, hot_x, hot_y;
    uint32_t *pixels;
} PointerImage;

struct Console {
    Machine *machine;
    Device *dev;    /* NULL: not a device's */
    unsigned index, head;
    char *label;
    const ConsoleOps *ops;
    void *opaque;
    Surface *surface; /* never NULL */
    bool placeholder; /* the device has not shown anything yet */
    PointerImage *pointer;
    int pointer_x, pointer_y;
    bool pointer_on;
    ListNode node;
};

/* Draws a cell, in units of the font's size (font.h); reversed: foreground and background swapped. */
void text_draw_cell(Surface *surface, unsigned column, unsigned row, TextCell cell, bool reversed);
/* The CGA colour of a cell's foreground or background, 0..15, as x8r8g8b8. */
extern const uint32_t text_colours[16];

/* Shown until the device has something: a surface with a message in the middle of it. */
Console *console_new(Machine *machine, Device *dev, unsigned head, const ConsoleOps *ops, void *opaque);
void console_free(Console *console); /* accepts NULL */
/* Takes the reference. Listeners see the whole surface as changed. */
void console_switch(Console *console, Surface *surface);
void console_update(Console *console, unsigned x, unsigned y, unsigned width, unsigned height);
/* Takes pointer (made by pointer_new()); NULL: none. */
void console_set_pointer(Console *console, PointerImage *pointer);
void console_move_pointer(Console *console, int x, int y, bool on);
PointerImage *pointer_new(unsigned width, unsigned height, unsigned hot_x, unsigned hot_y);
void pointer_free(PointerImage *pointer);

/* By number, in order of creation; NULL: there is none. */
Console *console_find(Machine *machine, unsigned index);
/* dev NULL: the first console. */
Console *console_find_device(Machine *machine, const Device *dev, unsigned head);
unsigned console_count(Machine *machine);
/* The first one but this; NULL: there is no other. */
Console *console_besides(const Console *console);
/* Whether it takes characters (a text console) rather than keys. */
bool console_takes_text(const Console *console);
/* A refresh now, listened to or not. */
void console_refresh(Console *console);
bool console_text(Console *console, TextScreen *ret_text);
void console_wish(Console *console, const ConsoleWish *wish);

/* --- listeners --- */
typedef struct DisplayListenerOps {
    const char *name;
    /* Any may be NULL. */
    void (*switched)(DisplayListener *listener, Console *console);
    void (*updated)(DisplayListener *listener, Console *console, unsigned x, unsigned y, unsigned width,
                    unsigned height);
    void (*pointer)(DisplayListener *listener, Console *console);
    void (*pointer_moved)(DisplayListener *listener, Console *console);
    void (*added)(DisplayListener *listener, Console *console);
    void (*removed)(DisplayListener *listener, Console *console);
    /* Once an interval, after the devices drew. */
    void (*tick)(DisplayListener *listener);
} DisplayListenerOps;

struct DisplayListener {
    const DisplayListenerOps *ops;
    Console *console;     /* hears of this one only; NULL: of all */
    unsigned interval_ms; /* between refreshes; 0: 30; may be changed while listening */
    Machine *machine;
    ListNode node;
};

/* Embedded in its owner. Every console is announced with switched(). */
void display_listener_add(Machine *machine, DisplayListener *listener);
void display_listener_remove(DisplayListener *listener);

/* --- screen dumps --- */
typedef enum ImageFormat { IMAGE_PPM, IMAGE_PNG } ImageFormat;
/* Refreshes and writes the surface to a file. */
Error *console_dump(Console *console, const char *path, ImageFormat format) MUST_USE;
/* The pixels as an image file in memory. */
Error *surface_encode(const Surface *surface, ImageFormat format, GByteArray *out) MUST_USE;

#endif
