/* Text consoles: see text_console.h. The terminal is vt.c; here it is drawn and connected to its chardev. */
#include "ui/text_console.h"

#include <string.h>

#include "chardev/ringbuf.h"
#include "input/keys.h"
#include "ui/font.h"
#include "ui/vt.h"

enum { DEFAULT_COLUMNS = 80, DEFAULT_ROWS = 24 };

typedef struct TextConsole {
    Console *console;
    Chardev *chr;
    Vt *vt;
    TextCell *drawn; /* what the surface shows; attr 0 and ch 0 where nothing was drawn */
    unsigned cursor_x, cursor_y;
    bool cursor_drawn, changed;
    GByteArray *typed; /* what the front end had no room for */
    Work feed;
} TextConsole;

enum { TYPED_MAX = 64 * KiB };

/* --- console --- */

static void text_invalidate(void *opaque)
{
    TextConsole *t = opaque;
    memset(t->drawn, 0, (size_t)vt_columns(t->vt) * vt_rows(t->vt) * sizeof(*t->drawn));
    t->changed = true;
}

/* Draws what differs in a row and reports it as one rectangle. */
static void refresh_row(TextConsole *t, unsigned y, bool cursor, unsigned cursor_x)
{
    unsigned columns = vt_columns(t->vt), first = columns, last = 0;
    const TextCell *row = vt_row(t->vt, y);
    for (unsigned x = 0; x < columns; x++) {
        TextCell *drawn = &t->drawn[y * columns + x];
        bool on = cursor && x == cursor_x, was = t->cursor_drawn && t->cursor_x == x && t->cursor_y == y;
        if (drawn->ch != row[x].ch || drawn->attr != row[x].attr || on != was) {
            *drawn = row[x];
            text_draw_cell(t->console->surface, x, y, row[x], on);
            first = MIN(first, x);
            last = x;
        }
    }
    if (first < columns) {
        console_update(t->console, first * FONT_WIDTH, y * FONT_HEIGHT, (last - first + 1) * FONT_WIDTH, FONT_HEIGHT);
    }
}

static void text_refresh(void *opaque)
{
    TextConsole *t = opaque;
    unsigned cursor_x = 0, cursor_y = 0;
    if (!t->changed) {
        return;
    }
    t->changed = false;
    bool cursor = vt_cursor(t->vt, &cursor_x, &cursor_y);
    for (unsigned y = 0; y < vt_rows(t->vt); y++) {
        refresh_row(t, y, cursor && y == cursor_y, cursor_x);
    }
    t->cursor_drawn = cursor;
    t->cursor_x = cursor_x;
    t->cursor_y = cursor_y;
}

static bool text_cells(void *opaque, TextScreen *ret_text)
{
    TextConsole *t = opaque;
    unsigned columns = vt_columns(t->vt), rows = vt_rows(t->vt), x, y;
    bool cursor = vt_cursor(t->vt, &x, &y);
    *ret_text = (TextScreen) { columns, rows, g_new(TextCell, (size_t)columns * rows), cursor ? (int)x : -1,
                               cursor ? (int)y : -1 };
    for (unsigned row = 0; row < rows; row++) {
        memcpy(ret_text->cells + row * columns, vt_row(t->vt, row), columns * sizeof(TextCell));
    }
    return true;
}

/* Hands over what fits; the rest waits until there is room. */
static void feed(void *opaque)
{
    TextConsole *t = opaque;
    size_t taken;
    while (t->typed->len && (taken = vc_input(t->chr, t->typed->data, t->typed->len)) > 0) {
        g_byte_array_remove_range(t->typed, 0, (guint)MIN(taken, t->typed->len));
    }
}

static void chardev_room(void *opaque)
{
    work_schedule(&((TextConsole *)opaque)->feed);
}

static void text_typed(void *opaque, const char *text, size_t length)
{
    TextConsole *t = opaque;
    if (t->typed->len + length <= TYPED_MAX) {
        g_byte_array_append(t->typed, (const uint8_t *)text, (guint)length);
    }
    feed(t);
}

static void text_answer(void *opaque, const char *text)
{
    TextConsole *t = opaque;
    if (t->typed->len < TYPED_MAX) {
        g_byte_array_append(t->typed, (const uint8_t *)text, (guint)strlen(text));
        work_schedule(&t->feed); /* not into the front end that is writing just now */
    }
}

static void text_scroll(void *opaque, int rows)
{
    TextConsole *t = opaque;
    vt_scroll_view(t->vt, rows);
    t->changed = true;
}

static const ConsoleOps console_ops = {
    .refresh = text_refresh, .invalidate = text_invalidate, .text = text_cells, .typed = text_typed,
    .scroll = text_scroll,
};

const char *text_console_key(int key)
{
    static const struct {
        int key;
        const char *text;
    } keys[] = {
        { KEY_RET, "\r" },       { KEY_KP_ENTER, "\r" },   { KEY_BACKSPACE, "\177" }, { KEY_TAB, "\t" },
        { KEY_ESC, "\033" },     { KEY_UP, "\033[A" },     { KEY_DOWN, "\033[B" },    { KEY_RIGHT, "\033[C" },
        { KEY_LEFT, "\033[D" },  { KEY_HOME, "\033[1~" },  { KEY_INSERT, "\033[2~" }, { KEY_DELETE, "\033[3~" },
        { KEY_END, "\033[4~" },  { KEY_PGUP, "\033[5~" },  { KEY_PGDN, "\033[6~" },   { KEY_F1, "\033OP" },
        { KEY_F2, "\033OQ" },    { KEY_F3, "\033OR" },     { KEY_F4, "\033OS" },      { KEY_F5, "\033[15~" },
        { KEY_F6, "\033[17~" },  { KEY_F7, "\033[18~" },   { KEY_F8, "\033[19~" },    { KEY_F9, "\033[20~" },
        { KEY_F10, "\033[21~" }, { KEY_F11, "\033[23~" },  { KEY_F12, "\033[24~" },
    };
    for (size_t n = 0; n < ARRAY_SIZE(keys); n++) {
        if (keys[n].key == key) {
            return keys[n].text;
        }
    }
    return NULL;
}

/* --- life --- */

static void text_console_free(void *opaque)
{
    TextConsole *t = opaque;
    work_fini(&t->feed);
    console_free(t->console);
    vt_free(t->vt);
    g_byte_array_unref(t->typed);
    g_free(t->drawn);
    g_free(t);
}

static void chardev_output(void *opaque, const uint8_t *buf, size_t length)
{
    TextConsole *t = opaque;
    vt_write(t->vt, buf, length);
    t->changed = true;
}

static const VcDisplay vc_display = {
    .output = chardev_output, .room = chardev_room, .closed = text_console_free,
};

static void text_console_new(Machine *machine, Chardev *chr)
{
    TextConsole *t = g_new0(TextConsole, 1);
    unsigned columns, rows;

    vc_size(chr, &columns, &rows);
    t->chr = chr;
    t->vt = vt_new(columns ? columns : DEFAULT_COLUMNS, rows ? rows : DEFAULT_ROWS, text_answer, t);
    t->typed = g_byte_array_new();
    t->drawn = g_new0(TextCell, (size_t)vt_columns(t->vt) * vt_rows(t->vt));
    t->changed = true;
    work_init(&t->feed, machine->loop, feed, t);
    t->console = console_new(machine, NULL, 0, &console_ops, t);
    g_free(t->console->label);
    t->console->label = g_strdup(chardev_id(chr));
    Surface *surface = surface_new(vt_columns(t->vt) * FONT_WIDTH, vt_rows(t->vt) * FONT_HEIGHT);
    if (!surface) {
        text_console_free(t);
        return;
    }
    console_switch(t->console, surface);
    vc_set_display(chr, &vc_display, t);
}

static void vc_opened(void *opaque, Chardev *chr)
{
    text_console_new(opaque, chr);
}

void text_consoles_start(Machine *machine)
{
    Chardevs *set = machine_service(machine, "chardevs");
    if (!set || set->hooks.vc_opened) {
        return;
    }
    set->hooks.vc_opened = vc_opened; /* its opaque is the machine */
    for (Chardev *chr = NULL; (chr = chardev_next(set, chr));) {
        if (chardev_is_vc(chr)) {
            text_console_new(machine, chr);
        }
    }
}
