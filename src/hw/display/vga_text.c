/*
 * VGA text modes: characters, fonts in plane 2, cursor, blinking.
 *
 * FreeVGA: "VGA Text Mode Operation". Each cell's last appearance is kept, so a refresh draws only what differs.
 */
#include "base/endian.h"
#include "hw/display/vga.h"

enum { CURSOR_BLINK_NS = 267 * NS_PER_MS, TEXT_BLINK_NS = 533 * NS_PER_MS }; /* 16 and 32 frames of 60 Hz, halved */
enum { AR10_MONO = 0x02, AR10_LINE_GRAPHICS = 0x04, AR10_BLINK = 0x08, CURSOR_OFF = 0x20 };
enum { CELL_CURSOR = 1 << 16, CELL_HIDDEN = 1 << 17, CELL_UNKNOWN = 1 << 30 };

typedef struct TextState {
    Vga *vga;
    const VgaPicture *picture;
    uint32_t colors[16];
    bool blinking;    /* attribute bit 7 blinks instead of brightening the background */
    bool hidden;      /* blinking characters are in their dark phase */
    int cursor;       /* CRTC address of a visible cursor, or -1 */
} TextState;

static uint8_t font_row(const TextState *text, uint32_t font, unsigned ch, unsigned row)
{
    uint64_t at = ((uint64_t)(font + ch * 32 + row) & 0xffff) * 4 + 2;
    return text->vga->vram->host[at];
}

static bool cursor_covers(const Vga *vga, unsigned row)
{
    unsigned start = vga->crtc[CR_CURSOR_START] & 31, end = vga->crtc[CR_CURSOR_END] & 31;
    return row >= start && row <= end;
}

/* One row of dots of a cell, leftmost in bit 8 (nine wide; the ninth is bit 0). */
static unsigned cell_dots(const TextState *text, uint32_t cell, unsigned row)
{
    const Vga *vga = text->vga;
    const VgaPicture *picture = text->picture;
    unsigned ch = cell & 0xff, attr = cell >> 8 & 0xff;
    unsigned dots = font_row(text, attr & 8 ? picture->font_a : picture->font_b, ch, row) << 1;
    if ((vga->attr[AR_MODE] & AR10_LINE_GRAPHICS) && ch >= 0xc0 && ch <= 0xdf) {
        dots |= dots >> 1 & 1;
    }
    if ((vga->attr[AR_MODE] & AR10_MONO) && (attr & 7) == 1 && row == (vga->crtc[CR_UNDERLINE] & 31u)) {
        dots = 0x1ff;
    }
    if (cell & CELL_HIDDEN) {
        dots = 0;
    }
    if ((cell & CELL_CURSOR) && cursor_covers(vga, row)) {
        dots = 0x1ff;
    }
    return dots;
}

static void draw_cell(const TextState *text, uint32_t cell, uint32_t x, uint32_t y)
{
    const VgaPicture *picture = text->picture;
    Surface *surface = text->vga->console->surface;
    unsigned attr = cell >> 8 & 0xff;
    uint32_t fg = text->colors[attr & 15];
    uint32_t bg = text->colors[attr >> 4 & (text->blinking ? 7 : 15)];
    unsigned repeat = picture->cell_width >= 16 ? 2 : 1;
    for (unsigned row = 0; row < picture->cell_height; row++) {
        unsigned dots = cell_dots(text, cell, row / picture->row_repeat);
        uint32_t *to = (uint32_t *)surface_row(surface, y * picture->cell_height + row) + x * picture->cell_width;
        for (unsigned i = 0; i < picture->cell_width; i++) {
            to[i] = dots >> (8 - i / repeat) & 1 ? fg : bg;
        }
    }
}

static uint32_t look_of_cell(const TextState *text, uint32_t ma)
{
    const Vga *vga = text->vga;
    uint32_t unit = ld32_le(vga->vram->host + (vga_unit(vga, ma, 0) & 0xffff) * 4ull);
    uint32_t cell = unit & 0xffff;
    if ((int)ma == text->cursor) {
        cell |= CELL_CURSOR;
    }
    if (text->hidden && (cell & 0x8000)) {
        cell |= CELL_HIDDEN;
    }
    return cell;
}

static void prepare_cells(Vga *vga, uint32_t count, bool all)
{
    if (vga->cells_count != count) {
        vga->cells = g_renew(uint32_t, vga->cells, count);
        vga->cells_count = count;
        all = true;
    }
    for (uint32_t i = 0; i < count && all; i++) {
        vga->cells[i] = CELL_UNKNOWN;
    }
}

void vga_draw_text(Vga *vga, const VgaPicture *picture, bool all)
{
    int64_t now = clock_now(vga->dev->machine->clocks, CLOCK_VIRTUAL);
    bool cursor_on = !(vga->crtc[CR_CURSOR_START] & CURSOR_OFF) && (now / CURSOR_BLINK_NS) % 2 == 0;
    TextState text = { .vga = vga, .picture = picture, .blinking = vga->attr[AR_MODE] & AR10_BLINK };
    text.hidden = text.blinking && (now / TEXT_BLINK_NS) % 2 != 0;
    text.cursor = cursor_on ? vga->crtc[CR_CURSOR_HIGH] << 8 | vga->crtc[CR_CURSOR_LOW] : -1;
    for (unsigned i = 0; i < 16; i++) {
        text.colors[i] = vga_attr_color(vga, i & vga->attr[AR_PLANE_ENABLE]);
    }
    prepare_cells(vga, picture->columns * picture->rows, all);
    for (uint32_t y = 0; y < picture->rows; y++) {
        uint32_t first = picture->columns, last = 0;
        for (uint32_t x = 0; x < picture->columns; x++) {
            uint32_t *was = &vga->cells[y * picture->columns + x];
            uint32_t cell = look_of_cell(&text, (picture->start + y * picture->pitch + x) & 0xffff);
            if (cell != *was) {
                *was = cell;
                draw_cell(&text, cell, x, y);
                first = MIN(first, x);
                last = x;
            }
        }
        if (first < picture->columns) {
            console_update(vga->console, first * picture->cell_width, y * picture->cell_height,
                           (last - first + 1) * picture->cell_width, picture->cell_height);
        }
    }
}
