/* The terminal in memory: see vt.h. ECMA-48 (5th edition) and the VT100 user guide. */
#include "ui/vt.h"

#include <stdio.h>
#include <string.h>

#include "ui/cp437.h"

enum { PARAMS_MAX = 16, PARAM_MAX = 9999, TAB_WIDTH = 8 };

enum { BOLD = BIT(0), REVERSE = BIT(1), BLINK = BIT(2), CONCEAL = BIT(3) };

typedef enum VtState {
    VT_GROUND,
    VT_ESCAPE,
    VT_ESCAPE_SKIP, /* one more byte belongs to it */
    VT_CSI,
    VT_STRING,      /* OSC, DCS and the like, until BEL or ESC \ */
    VT_STRING_ESCAPE,
} VtState;

typedef struct Pen {
    unsigned x, y;
    unsigned fg, bg, attrs;
} Pen;

struct Vt {
    unsigned columns, rows;
    TextCell *cells;
    GQueue history; /* rows that have scrolled off the top, the newest last */
    int view;       /* rows the view is behind */
    Pen pen, saved;
    bool wrap_due;  /* the last column was written: the next character starts a line */
    bool cursor_hidden, no_wrap;
    unsigned top, bottom; /* scrolling region, both inclusive */
    VtState state;
    bool private_mode;
    unsigned param[PARAMS_MAX], params;
    uint32_t code_point; /* of a UTF-8 sequence under way */
    unsigned more;       /* bytes of it that are to come */
    void (*answer)(void *opaque, const char *text);
    void *opaque;
};

static const Pen plain = { .fg = 7 };

Vt *vt_new(unsigned columns, unsigned rows, void (*answer)(void *opaque, const char *text), void *opaque)
{
    Vt *vt = g_new0(Vt, 1);
    vt->columns = CLAMP(columns, 1u, (unsigned)VT_COLUMNS_MAX);
    vt->rows = CLAMP(rows, 1u, (unsigned)VT_ROWS_MAX);
    vt->cells = g_new(TextCell, (size_t)vt->columns * vt->rows);
    for (size_t n = 0; n < (size_t)vt->columns * vt->rows; n++) {
        vt->cells[n] = (TextCell) { ' ', 7 };
    }
    vt->pen = vt->saved = plain;
    vt->bottom = vt->rows - 1;
    g_queue_init(&vt->history);
    vt->answer = answer;
    vt->opaque = opaque;
    return vt;
}

void vt_free(Vt *vt)
{
    if (vt) {
        g_queue_clear_full(&vt->history, g_free);
        g_free(vt->cells);
        g_free(vt);
    }
}

unsigned vt_columns(const Vt *vt)
{
    return vt->columns;
}

unsigned vt_rows(const Vt *vt)
{
    return vt->rows;
}

void vt_scroll_view(Vt *vt, int rows)
{
    vt->view = CLAMP(vt->view + rows, 0, (int)vt->history.length);
}

const TextCell *vt_row(const Vt *vt, unsigned y)
{
    if ((int)y < vt->view) {
        return g_queue_peek_nth((GQueue *)&vt->history, vt->history.length - (guint)vt->view + y);
    }
    return vt->cells + (y - (unsigned)vt->view) * vt->columns;
}

bool vt_cursor(const Vt *vt, unsigned *ret_x, unsigned *ret_y)
{
    if (vt->cursor_hidden || vt->pen.y + (unsigned)vt->view >= vt->rows) {
        return false;
    }
    *ret_x = vt->pen.x;
    *ret_y = vt->pen.y + (unsigned)vt->view;
    return true;
}

/* --- the screen --- */

static TextCell *row_of(Vt *vt, unsigned y)
{
    return vt->cells + y * vt->columns;
}

static TextCell cell_of(const Vt *vt, uint8_t ch)
{
    unsigned fg = vt->pen.fg, bg = vt->pen.bg;
    if (vt->pen.attrs & BOLD) {
        fg |= 8;
    }
    if (vt->pen.attrs & REVERSE) {
        unsigned swap = fg;
        fg = bg;
        bg = swap & 7;
    }
    if (vt->pen.attrs & BLINK) {
        bg |= 8;
    }
    if (vt->pen.attrs & CONCEAL) {
        fg = bg;
    }
    return (TextCell) { ch, (uint8_t)(bg << 4 | fg) };
}

static void erase(Vt *vt, unsigned y, unsigned from, unsigned to)
{
    TextCell blank = cell_of(vt, ' ');
    for (unsigned x = from; x < to && x < vt->columns; x++) {
        row_of(vt, y)[x] = blank;
    }
}

static void remember_row(Vt *vt, unsigned y)
{
    TextCell *row = vt->history.length >= VT_HISTORY ? g_queue_pop_head(&vt->history) : g_new(TextCell, vt->columns);
    memcpy(row, row_of(vt, y), vt->columns * sizeof(*row));
    g_queue_push_tail(&vt->history, row);
}

/* Moves the rows from `top` to the region's end up; blank rows come in below. */
static void scroll_up(Vt *vt, unsigned top, unsigned count)
{
    unsigned height = vt->bottom - top + 1;
    count = MIN(count, height);
    for (unsigned y = 0; top == 0 && vt->bottom == vt->rows - 1 && y < count; y++) {
        remember_row(vt, y);
    }
    memmove(row_of(vt, top), row_of(vt, top + count), (height - count) * vt->columns * sizeof(TextCell));
    for (unsigned y = vt->bottom + 1 - count; y <= vt->bottom; y++) {
        erase(vt, y, 0, vt->columns);
    }
}

static void scroll_down(Vt *vt, unsigned top, unsigned count)
{
    unsigned height = vt->bottom - top + 1;
    count = MIN(count, height);
    memmove(row_of(vt, top + count), row_of(vt, top), (height - count) * vt->columns * sizeof(TextCell));
    for (unsigned y = top; y < top + count; y++) {
        erase(vt, y, 0, vt->columns);
    }
}

static void line_feed(Vt *vt)
{
    if (vt->pen.y == vt->bottom) {
        scroll_up(vt, vt->top, 1);
    } else if (vt->pen.y + 1 < vt->rows) {
        vt->pen.y++;
    }
}

static void reverse_line_feed(Vt *vt)
{
    if (vt->pen.y == vt->top) {
        scroll_down(vt, vt->top, 1);
    } else if (vt->pen.y > 0) {
        vt->pen.y--;
    }
}

static void move_to(Vt *vt, unsigned x, unsigned y)
{
    vt->pen.x = MIN(x, vt->columns - 1);
    vt->pen.y = MIN(y, vt->rows - 1);
    vt->wrap_due = false;
}

static void put_byte(Vt *vt, uint8_t ch)
{
    if (vt->wrap_due) {
        vt->pen.x = 0;
        line_feed(vt);
    }
    row_of(vt, vt->pen.y)[vt->pen.x] = cell_of(vt, ch);
    vt->wrap_due = vt->pen.x + 1 == vt->columns && !vt->no_wrap;
    if (vt->pen.x + 1 < vt->columns) {
        vt->pen.x++;
    }
}

static void put_unicode(Vt *vt, uint32_t unicode)
{
    int byte = cp437_of_unicode(unicode);
    put_byte(vt, byte < 0 ? '?' : (uint8_t)byte);
}

static void reset(Vt *vt)
{
    vt->pen = vt->saved = plain;
    vt->top = 0;
    vt->bottom = vt->rows - 1;
    vt->wrap_due = vt->cursor_hidden = vt->no_wrap = false;
    for (unsigned y = 0; y < vt->rows; y++) {
        erase(vt, y, 0, vt->columns);
    }
}

/* --- sequences --- */

/* Parameter n, `fallback` when it is missing or 0. */
static unsigned param(const Vt *vt, unsigned n, unsigned fallback)
{
    return n < vt->params && vt->param[n] ? vt->param[n] : fallback;
}

static void erase_display(Vt *vt)
{
    unsigned how = param(vt, 0, 0);
    for (unsigned y = 0; y < vt->rows; y++) {
        if (how == 2 || (how == 0 && y > vt->pen.y) || (how == 1 && y < vt->pen.y)) {
            erase(vt, y, 0, vt->columns);
        }
    }
    if (how == 0) {
        erase(vt, vt->pen.y, vt->pen.x, vt->columns);
    } else if (how == 1) {
        erase(vt, vt->pen.y, 0, vt->pen.x + 1);
    } else if (how == 3) {
        g_queue_clear_full(&vt->history, g_free);
    }
}

static void erase_line(Vt *vt)
{
    unsigned how = param(vt, 0, 0);
    erase(vt, vt->pen.y, how == 0 ? vt->pen.x : 0, how == 1 ? vt->pen.x + 1 : vt->columns);
}

/* Opens or closes `count` columns at the cursor. */
static void shift_row(Vt *vt, unsigned count, bool insert)
{
    TextCell *at = row_of(vt, vt->pen.y) + vt->pen.x;
    unsigned room = vt->columns - vt->pen.x;
    count = MIN(count, room);
    memmove(insert ? at + count : at, insert ? at : at + count, (room - count) * sizeof(*at));
    unsigned from = insert ? vt->pen.x : vt->columns - count;
    erase(vt, vt->pen.y, from, from + count);
}

/* ANSI numbers colours red, green, blue from bit 0; PC screens blue, green, red. */
static unsigned pc_colour(unsigned ansi)
{
    return (ansi & 2) | (ansi & 1) << 2 | (ansi >> 2 & 1);
}

static void set_attribute(Vt *vt, unsigned code)
{
    Pen *pen = &vt->pen;
    if (code == 0) {
        pen->attrs = 0;
        pen->fg = plain.fg;
        pen->bg = plain.bg;
    } else if (code == 1) {
        pen->attrs |= BOLD;
    } else if (code == 5) {
        pen->attrs |= BLINK;
    } else if (code == 7) {
        pen->attrs |= REVERSE;
    } else if (code == 8) {
        pen->attrs |= CONCEAL;
    } else if (code == 21 || code == 22) {
        pen->attrs &= ~(unsigned)BOLD;
    } else if (code == 25) {
        pen->attrs &= ~(unsigned)BLINK;
    } else if (code == 27) {
        pen->attrs &= ~(unsigned)REVERSE;
    } else if (code == 28) {
        pen->attrs &= ~(unsigned)CONCEAL;
    } else if (code >= 30 && code <= 37) {
        pen->fg = pc_colour(code - 30);
    } else if (code == 39) {
        pen->fg = plain.fg;
    } else if (code >= 40 && code <= 47) {
        pen->bg = pc_colour(code - 40);
    } else if (code == 49) {
        pen->bg = plain.bg;
    } else if (code >= 90 && code <= 97) {
        pen->fg = pc_colour(code - 90) | 8;
    } else if (code >= 100 && code <= 107) {
        pen->bg = pc_colour(code - 100) | 8;
    }
}

static void set_attributes(Vt *vt)
{
    if (vt->params == 0) {
        set_attribute(vt, 0);
    }
    for (unsigned n = 0; n < vt->params; n++) {
        if (vt->param[n] == 38 || vt->param[n] == 48) {
            return; /* 256 colours and more: there are 16 */
        }
        set_attribute(vt, vt->param[n]);
    }
}

static void set_region(Vt *vt)
{
    unsigned top = param(vt, 0, 1) - 1, bottom = MIN(param(vt, 1, vt->rows), vt->rows) - 1;
    if (top < bottom) {
        vt->top = top;
        vt->bottom = bottom;
        move_to(vt, 0, 0);
    }
}

static void set_mode(Vt *vt, bool on)
{
    for (unsigned n = 0; vt->private_mode && n < vt->params; n++) {
        if (vt->param[n] == 25) {
            vt->cursor_hidden = !on;
        } else if (vt->param[n] == 7) {
            vt->no_wrap = !on;
        }
    }
}

static void report(Vt *vt)
{
    char text[32];
    if (!vt->answer || vt->private_mode) {
        return;
    }
    if (param(vt, 0, 0) == 5) {
        vt->answer(vt->opaque, "\033[0n");
    } else if (param(vt, 0, 0) == 6) {
        snprintf(text, sizeof(text), "\033[%u;%uR", vt->pen.y + 1, vt->pen.x + 1);
        vt->answer(vt->opaque, text);
    }
}

static void edit(Vt *vt, char final)
{
    unsigned count = param(vt, 0, 1);
    bool inside = vt->pen.y >= vt->top && vt->pen.y <= vt->bottom;
    switch (final) {
    case '@':
        shift_row(vt, count, true);
        break;
    case 'P':
        shift_row(vt, count, false);
        break;
    case 'X':
        erase(vt, vt->pen.y, vt->pen.x, vt->pen.x + count);
        break;
    case 'L':
        if (inside) {
            scroll_down(vt, vt->pen.y, count);
        }
        break;
    case 'M':
        if (inside) {
            scroll_up(vt, vt->pen.y, count);
        }
        break;
    case 'S':
        scroll_up(vt, vt->top, count);
        break;
    case 'T':
        scroll_down(vt, vt->top, count);
        break;
    default:
        break;
    }
}

static void csi_done(Vt *vt, char final)
{
    Pen *pen = &vt->pen;
    unsigned count = param(vt, 0, 1);
    switch (final) {
    case 'A':
        move_to(vt, pen->x, pen->y - MIN(count, pen->y));
        break;
    case 'B':
    case 'e':
        move_to(vt, pen->x, pen->y + count);
        break;
    case 'C':
    case 'a':
        move_to(vt, pen->x + count, pen->y);
        break;
    case 'D':
        move_to(vt, pen->x - MIN(count, pen->x), pen->y);
        break;
    case 'E':
        move_to(vt, 0, pen->y + count);
        break;
    case 'F':
        move_to(vt, 0, pen->y - MIN(count, pen->y));
        break;
    case 'G':
    case '`':
        move_to(vt, count - 1, pen->y);
        break;
    case 'd':
        move_to(vt, pen->x, count - 1);
        break;
    case 'H':
    case 'f':
        move_to(vt, param(vt, 1, 1) - 1, count - 1);
        break;
    case 'J':
        erase_display(vt);
        break;
    case 'K':
        erase_line(vt);
        break;
    case 'm':
        set_attributes(vt);
        break;
    case 'n':
        report(vt);
        break;
    case 'r':
        set_region(vt);
        break;
    case 's':
        vt->saved = vt->pen;
        break;
    case 'u':
        vt->pen = vt->saved;
        break;
    case 'h':
    case 'l':
        set_mode(vt, final == 'h');
        break;
    default:
        edit(vt, final);
        break;
    }
}

static void csi_byte(Vt *vt, uint8_t byte)
{
    if (g_ascii_isdigit(byte)) {
        vt->params = MAX(vt->params, 1u);
        unsigned *value = &vt->param[vt->params - 1];
        *value = MIN(*value * 10 + (byte - '0'), (unsigned)PARAM_MAX);
    } else if (byte == ';' || byte == ':') {
        vt->params = MAX(vt->params, 1u);
        if (vt->params < PARAMS_MAX) {
            vt->param[vt->params++] = 0;
        }
    } else if (byte >= 0x3c && byte <= 0x3f) {
        vt->private_mode = true;
    } else if (byte >= 0x40 && byte <= 0x7e) {
        vt->state = VT_GROUND;
        csi_done(vt, (char)byte);
    }
}

static void escape_byte(Vt *vt, uint8_t byte)
{
    vt->state = VT_GROUND;
    switch (byte) {
    case '[':
        vt->state = VT_CSI;
        vt->private_mode = false;
        vt->params = 0;
        memset(vt->param, 0, sizeof(vt->param));
        break;
    case ']':
    case 'P':
    case 'X':
    case '^':
    case '_':
        vt->state = VT_STRING;
        break;
    case '(':
    case ')':
    case '#':
    case '%':
        vt->state = VT_ESCAPE_SKIP;
        break;
    case '7':
        vt->saved = vt->pen;
        break;
    case '8':
        vt->pen = vt->saved;
        vt->wrap_due = false;
        break;
    case 'D':
        line_feed(vt);
        break;
    case 'E':
        vt->pen.x = 0;
        line_feed(vt);
        break;
    case 'M':
        reverse_line_feed(vt);
        break;
    case 'c':
        reset(vt);
        break;
    default:
        break;
    }
}

/* --- bytes --- */

static void control(Vt *vt, uint8_t byte)
{
    switch (byte) {
    case '\b':
        move_to(vt, vt->pen.x - (vt->pen.x > 0), vt->pen.y);
        break;
    case '\t':
        move_to(vt, (vt->pen.x / TAB_WIDTH + 1) * TAB_WIDTH, vt->pen.y);
        break;
    case '\n':
    case '\v':
    case '\f':
        vt->wrap_due = false;
        line_feed(vt);
        break;
    case '\r':
        move_to(vt, 0, vt->pen.y);
        break;
    case 033:
        vt->state = VT_ESCAPE;
        break;
    default:
        break;
    }
}

/* A byte that is no part of UTF-8 is taken as code page 437. */
static void text_byte(Vt *vt, uint8_t byte)
{
    if (vt->more && (byte & 0xc0) == 0x80) {
        vt->code_point = vt->code_point << 6 | (byte & 0x3f);
        if (--vt->more == 0) {
            put_unicode(vt, vt->code_point);
        }
        return;
    }
    vt->more = 0;
    if (byte < 0x80) {
        put_byte(vt, byte);
    } else if (byte >= 0xc2 && byte <= 0xf4) {
        vt->more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
        vt->code_point = byte & (0x3fu >> vt->more);
    } else {
        put_byte(vt, byte);
    }
}

static void take_byte(Vt *vt, uint8_t byte)
{
    bool string = vt->state == VT_STRING || vt->state == VT_STRING_ESCAPE;
    if (byte < 0x20 && !string) {
        if (byte == 030 || byte == 032) {
            vt->state = VT_GROUND; /* CAN, SUB: the sequence is called off */
        }
        control(vt, byte);
        return;
    }
    switch (vt->state) {
    case VT_GROUND:
        if (byte != 0x7f) {
            text_byte(vt, byte);
        }
        break;
    case VT_ESCAPE:
        escape_byte(vt, byte);
        break;
    case VT_ESCAPE_SKIP:
        vt->state = VT_GROUND;
        break;
    case VT_CSI:
        csi_byte(vt, byte);
        break;
    case VT_STRING:
    case VT_STRING_ESCAPE:
        if (byte == '\a' || (vt->state == VT_STRING_ESCAPE && byte == '\\')) {
            vt->state = VT_GROUND;
        } else {
            vt->state = byte == 033 ? VT_STRING_ESCAPE : VT_STRING;
        }
        break;
    }
}

void vt_write(Vt *vt, const uint8_t *buf, size_t length)
{
    vt->view = 0;
    for (size_t n = 0; n < length; n++) {
        take_byte(vt, buf[n]);
    }
}
