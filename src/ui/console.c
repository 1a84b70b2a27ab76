/* Consoles and their listeners: see console.h. */
#include "ui/console.h"

#include <string.h>

#include "ui/font.h"

#define CONSOLES_SERVICE "consoles"
enum { DEFAULT_INTERVAL_MS = 30 };

/* All consoles of a machine; lives while there is a console or a listener. */
typedef struct Consoles {
    Machine *machine;
    List consoles, listeners;
    Timer refresh;
} Consoles;

/* --- surfaces --- */

Surface *surface_new_borrowed(unsigned width, unsigned height, size_t stride, pixman_format_code_t format, void *data)
{
    Surface *surface = g_new0(Surface, 1);
    *surface = (Surface) { .format = format, .width = width, .height = height, .stride = stride, .data = data,
                           .borrowed = true, .refs = 1 };
    surface->image = pixman_image_create_bits(format, (int)width, (int)height, data, (int)stride);
    if (!surface->image) {
        g_free(surface);
        return NULL;
    }
    return surface;
}

Surface *surface_new(unsigned width, unsigned height)
{
    width = CLAMP(width, 1u, (unsigned)SURFACE_MAX);
    height = CLAMP(height, 1u, (unsigned)SURFACE_MAX);
    uint8_t *data = g_try_malloc0_n(height, (size_t)width * 4);
    if (!data) {
        return NULL;
    }
    Surface *surface = surface_new_borrowed(width, height, (size_t)width * 4, PIXMAN_x8r8g8b8, data);
    if (!surface) {
        g_free(data);
        return NULL;
    }
    surface->borrowed = false;
    return surface;
}

Surface *surface_ref(Surface *surface)
{
    surface->refs++;
    return surface;
}

void surface_unref(Surface *surface)
{
    if (surface && --surface->refs == 0) {
        pixman_image_unref(surface->image);
        if (!surface->borrowed) {
            g_free(surface->data);
        }
        g_free(surface);
    }
}

void text_screen_free(TextScreen *text)
{
    if (text) {
        g_clear_pointer(&text->cells, g_free);
    }
}

const uint32_t text_colours[16] = {
    0x000000, 0x0000aa, 0x00aa00, 0x00aaaa, 0xaa0000, 0xaa00aa, 0xaa5500, 0xaaaaaa,
    0x555555, 0x5555ff, 0x55ff55, 0x55ffff, 0xff5555, 0xff55ff, 0xffff55, 0xffffff,
};

void text_draw_cell(Surface *surface, unsigned column, unsigned row, TextCell cell, bool reversed)
{
    uint32_t fg = text_colours[cell.attr & 15], bg = text_colours[cell.attr >> 4];
    for (unsigned y = 0; y < FONT_HEIGHT; y++) {
        uint32_t *pixel = (uint32_t *)surface_row(surface, row * FONT_HEIGHT + y) + column * FONT_WIDTH;
        unsigned bits = font_glyphs[cell.ch][y] ^ (reversed ? 0xff : 0);
        for (unsigned x = 0; x < FONT_WIDTH; x++) {
            pixel[x] = bits >> (7 - x) & 1 ? fg : bg;
        }
    }
}

PointerImage *pointer_new(unsigned width, unsigned height, unsigned hot_x, unsigned hot_y)
{
    PointerImage *pointer = g_new0(PointerImage, 1);
    *pointer = (PointerImage) { width, height, hot_x, hot_y, g_new0(uint32_t, (size_t)width * height) };
    return pointer;
}

void pointer_free(PointerImage *pointer)
{
    if (pointer) {
        g_free(pointer->pixels);
        g_free(pointer);
    }
}

/* --- the machine's set --- */

static Consoles *consoles_of(Machine *machine)
{
    return machine_service(machine, CONSOLES_SERVICE);
}

static bool hears(const DisplayListener *listener, const Console *console)
{
    return !listener->console || listener->console == console;
}

#define TELL(all, con, call, ...)                                                                  \
    LIST_FOREACH_SAFE (listener, &(all)->listeners, DisplayListener, node) {                       \
        if (hears(listener, con) && listener->ops->call) {                                         \
            listener->ops->call(listener, con, ##__VA_ARGS__);                                     \
        }                                                                                          \
    }

static void arm_refresh(Consoles *all)
{
    unsigned interval = UINT32_MAX;
    LIST_FOREACH (listener, &all->listeners, DisplayListener, node) {
        interval = MIN(interval, listener->interval_ms ? listener->interval_ms : DEFAULT_INTERVAL_MS);
    }
    if (list_empty(&all->listeners)) {
        timer_cancel(&all->refresh);
    } else {
        timer_set(&all->refresh, clock_now(all->machine->clocks, CLOCK_REALTIME_NS) + interval * NS_PER_MS);
    }
}

static void refresh_all(void *opaque)
{
    Consoles *all = opaque;
    LIST_FOREACH_SAFE (console, &all->consoles, Console, node) {
        bool heard = false;
        LIST_FOREACH (listener, &all->listeners, DisplayListener, node) {
            heard |= hears(listener, console);
        }
        if (heard) {
            console_refresh(console);
        }
    }
    LIST_FOREACH_SAFE (listener, &all->listeners, DisplayListener, node) {
        if (listener->ops->tick) {
            listener->ops->tick(listener);
        }
    }
    arm_refresh(all);
}

static Consoles *consoles_get(Machine *machine)
{
    Consoles *all = consoles_of(machine);
    if (!all) {
        all = g_new0(Consoles, 1);
        all->machine = machine;
        list_init(&all->consoles);
        list_init(&all->listeners);
        timer_init(&all->refresh, machine->loop, CLOCK_REALTIME_NS, refresh_all, all);
        machine_set_service(machine, CONSOLES_SERVICE, all);
    }
    return all;
}

static void consoles_put(Consoles *all)
{
    if (list_empty(&all->consoles) && list_empty(&all->listeners)) {
        timer_fini(&all->refresh);
        machine_set_service(all->machine, CONSOLES_SERVICE, NULL);
        g_free(all);
    }
}

/* --- consoles --- */

static void write_in_the_middle(Surface *surface, const char *text)
{
    unsigned length = (unsigned)strlen(text);
    for (unsigned n = 0; n < length; n++) {
        text_draw_cell(surface, surface->width / FONT_WIDTH / 2 - length / 2 + n, surface->height / FONT_HEIGHT / 2,
                       (TextCell) { (uint8_t)text[n], 7 }, false);
    }
}

Console *console_new(Machine *machine, Device *dev, unsigned head, const ConsoleOps *ops, void *opaque)
{
    Consoles *all = consoles_get(machine);
    Console *console = g_new0(Console, 1);
    unsigned index = 0;
    LIST_FOREACH (other, &all->consoles, Console, node) {
        index = MAX(index, other->index + 1);
    }
    *console = (Console) { .machine = machine, .dev = dev, .index = index, .head = head, .ops = ops,
                           .opaque = opaque, .placeholder = true };
    console->label = g_strdup(dev ? device_label(dev) : "console");
    console->surface = surface_new(640, 480);
    if (!console->surface) {
        g_error("no memory for a 640x480 picture");
    }
    if (dev) {
        write_in_the_middle(console->surface, "The guest has not used the display yet.");
    }
    list_append(&all->consoles, &console->node);
    TELL(all, console, added);
    TELL(all, console, switched);
    return console;
}

void console_free(Console *console)
{
    if (!console) {
        return;
    }
    Consoles *all = consoles_of(console->machine);
    TELL(all, console, removed);
    LIST_FOREACH_SAFE (listener, &all->listeners, DisplayListener, node) {
        if (listener->console == console) {
            display_listener_remove(listener);
        }
    }
    list_remove(&console->node);
    surface_unref(console->surface);
    pointer_free(console->pointer);
    g_free(console->label);
    g_free(console);
    consoles_put(all);
}

void console_switch(Console *console, Surface *surface)
{
    Surface *old = console->surface;
    console->surface = surface;
    console->placeholder = false;
    TELL(consoles_of(console->machine), console, switched);
    surface_unref(old);
}

void console_update(Console *console, unsigned x, unsigned y, unsigned width, unsigned height)
{
    const Surface *surface = console->surface;
    if (x >= surface->width || y >= surface->height || width == 0 || height == 0) {
        return;
    }
    width = MIN(width, surface->width - x);
    height = MIN(height, surface->height - y);
    TELL(consoles_of(console->machine), console, updated, x, y, width, height);
}

void console_set_pointer(Console *console, PointerImage *pointer)
{
    pointer_free(console->pointer);
    console->pointer = pointer;
    TELL(consoles_of(console->machine), console, pointer);
}

void console_move_pointer(Console *console, int x, int y, bool on)
{
    console->pointer_x = x;
    console->pointer_y = y;
    console->pointer_on = on;
    TELL(consoles_of(console->machine), console, pointer_moved);
}

Console *console_find(Machine *machine, unsigned index)
{
    Consoles *all = consoles_of(machine);
    if (all) {
        LIST_FOREACH (console, &all->consoles, Console, node) {
            if (console->index == index) {
                return console;
            }
        }
    }
    return NULL;
}

Console *console_find_device(Machine *machine, const Device *dev, unsigned head)
{
    Consoles *all = consoles_of(machine);
    if (all) {
        LIST_FOREACH (console, &all->consoles, Console, node) {
            if ((!dev || console->dev == dev) && console->head == head) {
                return console;
            }
        }
    }
    return NULL;
}

unsigned console_count(Machine *machine)
{
    Consoles *all = consoles_of(machine);
    unsigned count = 0;
    if (all) {
        LIST_FOREACH (console, &all->consoles, Console, node) {
            count++;
        }
    }
    return count;
}

Console *console_besides(const Console *console)
{
    LIST_FOREACH (other, &consoles_of(console->machine)->consoles, Console, node) {
        if (other != console) {
            return other;
        }
    }
    return NULL;
}

bool console_takes_text(const Console *console)
{
    return console->ops->typed != NULL;
}

void console_refresh(Console *console)
{
    if (console->ops->refresh) {
        console->ops->refresh(console->opaque);
    }
}

bool console_text(Console *console, TextScreen *ret_text)
{
    return console->ops->text && console->ops->text(console->opaque, ret_text);
}

void console_wish(Console *console, const ConsoleWish *wish)
{
    if (console->ops->wish) {
        console->ops->wish(console->opaque, wish);
    }
}

/* --- listeners --- */

void display_listener_add(Machine *machine, DisplayListener *listener)
{
    Consoles *all = consoles_get(machine);
    listener->machine = machine;
    list_append(&all->listeners, &listener->node);
    LIST_FOREACH_SAFE (console, &all->consoles, Console, node) {
        if (hears(listener, console)) {
            if (console->ops->invalidate) {
                console->ops->invalidate(console->opaque);
            }
            if (listener->ops->switched) {
                listener->ops->switched(listener, console);
            }
        }
    }
    arm_refresh(all);
}

void display_listener_remove(DisplayListener *listener)
{
    if (!list_linked(&listener->node)) {
        return;
    }
    Consoles *all = consoles_of(listener->machine);
    list_remove(&listener->node);
    arm_refresh(all);
    consoles_put(all);
}
