/*
 * From video memory to pixels.
 *
 * A refresh works out from the registers what picture is shown (VgaPicture). When that or the colours
 * changed, everything is drawn; otherwise only the rows whose pages of video memory were written. 32-bit linear modes
 * are not drawn at all: the surface is video memory itself.
 */
#include "base/endian.h"
#include "hw/display/vga.h"

enum { SEQ1_HALF_CLOCK = 0x08, SEQ1_SCREEN_OFF = 0x20, SEQ1_8_DOTS = 0x01 };
enum { GC5_SHIFT_INTERLEAVE = 0x20, GC5_SHIFT_256 = 0x40, GC6_GRAPHICS = 0x01 };
enum { AR_INDEX_PALETTE_ON = 0x20, AR10_INTERNAL_PALETTE = 0x80 };
enum { CR17_ROW0 = 0x01, CR17_ROW1 = 0x02, CR17_WRAP = 0x20, CR17_BYTE = 0x40, CR14_DOUBLE_WORD = 0x40 };

/* --- addresses --- */

/*
 * The CRTC turns its counter into a plane address by mode: bytes, words or double words, with the low
 * bits of the row scan counter in address bits 13 and 14 for CGA and Hercules layouts. Chained memory is
 * compact here, so the address of a word mode is halved again, and of a double-word mode quartered.
 */
uint32_t vga_unit(const Vga *vga, uint32_t ma, uint32_t ra)
{
    uint8_t mode = vga->crtc[CR_MODE];
    unsigned shift = vga->crtc[CR_UNDERLINE] & CR14_DOUBLE_WORD ? 2 : mode & CR17_BYTE ? 0 : 1;
    uint32_t addr = ma << shift;
    if (shift == 1) {
        addr |= (ma >> (mode & CR17_WRAP ? 15 : 13)) & 1;
    }
    if (!(mode & CR17_ROW0)) {
        addr = (addr & ~(1u << 13)) | (ra & 1) << 13;
    }
    if (!(mode & CR17_ROW1)) {
        addr = (addr & ~(1u << 14)) | (ra & 2) << 13;
    }
    return shift == 2 ? addr >> 2 : shift == 1 ? addr >> 1 : addr;
}

static uint32_t load_unit(const Vga *vga, uint32_t unit)
{
    uint64_t at = (uint64_t)unit * 4;
    return at + 4 <= vga->vram->size ? ld32_le(vga->vram->host + at) : 0;
}

/* --- colours --- */

static void update_colors(Vga *vga)
{
    bool wide = vga_vbe_on(vga) && (vga->vbe[VBE_ENABLE] & VBE_8BIT_DAC);
    for (unsigned i = 0; i < 256; i++) {
        const uint8_t *entry = vga->palette + i * 3;
        uint32_t color = 0;
        for (unsigned c = 0; c < 3; c++) {
            uint8_t six = entry[c] & 63;
            /* The two new low bits repeat the old lowest one. */
            color = color << 8 | (wide ? entry[c] : (uint8_t)(six << 2 | (six & 1) * 3));
        }
        vga->colors[i] = color;
    }
}

static uint32_t dac_color(const Vga *vga, uint8_t index)
{
    return vga->colors[index & vga->dac_mask];
}

uint32_t vga_attr_color(const Vga *vga, unsigned index)
{
    uint8_t value = vga->attr[index & 15], select = vga->attr[AR_COLOR_SELECT];
    if (vga->attr[AR_MODE] & AR10_INTERNAL_PALETTE) {
        value = (value & 0x0f) | (select & 0x0f) << 4;
    } else {
        value = (value & 0x3f) | (select & 0x0c) << 4;
    }
    return dac_color(vga, value);
}

/* --- what is shown --- */

static void linear_picture(const Vga *vga, VgaPicture *picture)
{
    const uint16_t *vbe = vga->vbe;
    picture->kind = VGA_LINEAR;
    picture->width = vbe[VBE_XRES];
    picture->height = vbe[VBE_YRES];
    picture->bpp = vbe[VBE_BPP];
    picture->pitch = vga_vbe_pitch(vga);
    picture->start = vbe[VBE_Y_OFFSET] * picture->pitch + vbe[VBE_X_OFFSET] * ((picture->bpp + 7) / 8);
    picture->row_repeat = 1;
    picture->modes = vga->big_endian;
}

static void vga_geometry(const Vga *vga, VgaPicture *picture)
{
    const uint8_t *cr = vga->crtc;
    uint32_t overflow = cr[CR_OVERFLOW];
    uint32_t chars = cr[CR_H_DISPLAY_END] + 1;
    uint32_t lines = (cr[CR_V_DISPLAY_END] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1;
    bool half = vga->seq[SEQ_CLOCKING] & SEQ1_HALF_CLOCK, doubled = cr[CR_MAX_SCAN] & 0x80;
    picture->columns = chars;
    picture->start = cr[CR_START_HIGH] << 8 | cr[CR_START_LOW];
    picture->pitch = cr[CR_OFFSET] * 2;
    picture->line_compare = cr[CR_LINE_COMPARE] | (overflow & 0x10) << 4 | (cr[CR_MAX_SCAN] & 0x40) << 3;
    picture->max_scan = (cr[CR_MAX_SCAN] & 0x1f) + 1;
    picture->row_repeat = doubled ? 2 : 1;
    picture->pan = vga->attr[AR_PEL_PANNING] | (cr[CR_PRESET_ROW] & 0x7f) << 8;
    picture->modes = cr[CR_MODE] | cr[CR_UNDERLINE] << 8 | vga->attr[AR_MODE] << 16 |
                     (uint32_t)vga->seq[SEQ_CLOCKING] << 24;
    picture->height = lines;
    if (picture->kind == VGA_TEXT) {
        picture->cursor = cr[CR_CURSOR_START] << 8 | cr[CR_CURSOR_END];
        picture->cell_width = half ? 16 : vga->seq[SEQ_CLOCKING] & SEQ1_8_DOTS ? 8 : 9;
        picture->cell_height = picture->max_scan * picture->row_repeat;
        picture->rows = MAX(lines / picture->cell_height, 1u);
        picture->width = chars * picture->cell_width;
        picture->height = picture->rows * picture->cell_height;
    } else {
        picture->width = chars * (half ? 16 : 8);
    }
    if (vga_vbe_on(vga)) { /* planar VBE mode: size and start come from DISPI */
        picture->width = vga->vbe[VBE_XRES];
        picture->height = vga->vbe[VBE_YRES];
        picture->columns = picture->width / 8;
        picture->pitch = vga_vbe_pitch(vga) / 4;
        picture->start = vga->vbe[VBE_Y_OFFSET] * picture->pitch + vga->vbe[VBE_X_OFFSET] / 8;
        picture->line_compare = UINT32_MAX;
        picture->max_scan = picture->row_repeat = 1;
        picture->pan = 0;
    }
}

/* Two character maps of plane 2: bits 0, 1, 4 and 2, 3, 5 of the character map select register. */
static void font_maps(const Vga *vga, VgaPicture *picture)
{
    static const uint16_t map_base[8] = { 0x0000, 0x4000, 0x8000, 0xc000, 0x2000, 0x6000, 0xa000, 0xe000 };
    uint8_t select = vga->seq[SEQ_CHAR_MAP];
    picture->font_b = map_base[(select & 3) | (select & 0x10) >> 2];
    picture->font_a = map_base[(select >> 2 & 3) | (select & 0x20) >> 3];
}

static VgaPicture current_picture(const Vga *vga)
{
    VgaPicture picture;
    memset(&picture, 0, sizeof(picture)); /* compared as bytes */
    if (vga_linear(vga)) {
        linear_picture(vga, &picture);
        return picture;
    }
    bool on = (vga->attr_index & AR_INDEX_PALETTE_ON) && !(vga->seq[SEQ_CLOCKING] & SEQ1_SCREEN_OFF);
    if (!on || !vga->legacy) {
        picture.kind = VGA_BLANK;
    } else if ((vga->gc[GC_MISC] & GC6_GRAPHICS) || vga_vbe_on(vga)) {
        picture.kind = VGA_GRAPHICS;
        picture.shift = vga->gc[GC_MODE] & GC5_SHIFT_256          ? 2
                        : vga->gc[GC_MODE] & GC5_SHIFT_INTERLEAVE ? 1
                                                                  : 0;
        vga_geometry(vga, &picture);
    } else {
        picture.kind = VGA_TEXT;
        vga_geometry(vga, &picture);
        font_maps(vga, &picture);
    }
    return picture;
}

/* --- dirty pages --- */

/* Fetches the bits of the pages that hold [start, start + length); true when any was set. */
static bool take_dirty(Vga *vga, uint64_t start, uint64_t length)
{
    uint64_t end = MIN(start + length, vga->vram->size);
    if (start >= end) {
        return false;
    }
    uint64_t first = start / MEM_PAGE_SIZE, last = (end - 1) / MEM_PAGE_SIZE;
    return ram_take_dirty(vga->vram, RAM_DIRTY_DISPLAY, first, last - first + 1, vga->dirty + first);
}

static bool bytes_dirty(const Vga *vga, uint64_t start, uint64_t length)
{
    uint64_t end = MIN(start + length, vga->vram->size);
    for (uint64_t page = start / MEM_PAGE_SIZE; page * MEM_PAGE_SIZE < end; page++) {
        if (vga->dirty[page]) {
            return true;
        }
    }
    return false;
}

/* Tells listeners about rows [*first, end) if there are any; *first is reset. */
static void flush_rows(Vga *vga, int *first, uint32_t end)
{
    if (*first >= 0) {
        console_update(vga->console, 0, (unsigned)*first, vga->picture.width, end - (uint32_t)*first);
        *first = -1;
    }
}

/* --- linear modes --- */

static uint32_t rgb565(uint16_t p)
{
    uint32_t r = p >> 11, g = p >> 5 & 63, b = p & 31;
    return (r << 3 | r >> 2) << 16 | (g << 2 | g >> 4) << 8 | (b << 3 | b >> 2);
}

static uint32_t rgb555(uint16_t p)
{
    uint32_t r = p >> 10 & 31, g = p >> 5 & 31, b = p & 31;
    return (r << 3 | r >> 2) << 16 | (g << 3 | g >> 2) << 8 | (b << 3 | b >> 2);
}

static void linear_row(const Vga *vga, const VgaPicture *picture, const uint8_t *from, uint32_t *to)
{
    bool big = vga->big_endian;
    for (uint32_t x = 0; x < picture->width; x++) {
        switch (picture->bpp) {
        case 8:
            to[x] = dac_color(vga, from[x]);
            break;
        case 15:
            to[x] = rgb555(big ? ld16_be(from + x * 2) : ld16_le(from + x * 2));
            break;
        case 16:
            to[x] = rgb565(big ? ld16_be(from + x * 2) : ld16_le(from + x * 2));
            break;
        case 24:
            to[x] = big ? (uint32_t)from[x * 3] << 16 | from[x * 3 + 1] << 8 | from[x * 3 + 2]
                        : (uint32_t)from[x * 3 + 2] << 16 | from[x * 3 + 1] << 8 | from[x * 3];
            break;
        default:
            to[x] = big ? ld32_be(from + x * 4) : ld32_le(from + x * 4);
            break;
        }
    }
}

static void draw_linear(Vga *vga, bool all)
{
    const VgaPicture *picture = &vga->picture;
    Surface *surface = vga->console->surface;
    uint64_t row_bytes = (uint64_t)picture->width * ((picture->bpp + 7) / 8);
    uint64_t span = (uint64_t)(picture->height - 1) * picture->pitch + row_bytes;
    if (picture->start + span > vga->vram->size) {
        return; /* settle() keeps it inside */
    }
    bool any = take_dirty(vga, picture->start, span);
    int first = -1;
    for (uint32_t y = 0; y < picture->height && (all || any); y++) {
        uint64_t at = picture->start + (uint64_t)y * picture->pitch;
        if (all || bytes_dirty(vga, at, row_bytes)) {
            first = first < 0 ? (int)y : first;
            if (!surface->borrowed) {
                linear_row(vga, picture, vga->vram->host + at, surface_row(surface, y));
            }
        } else {
            flush_rows(vga, &first, y);
        }
    }
    flush_rows(vga, &first, picture->height);
}

/* --- VGA graphics modes --- */

/* Eight pixels of a unit of four planes. */
static void planar_unit(const uint32_t colors[16], uint32_t unit, uint8_t enabled, uint32_t to[8])
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t bits = unit >> (7 - i);
        unsigned index = (bits & 1) | (bits >> 7 & 2) | (bits >> 14 & 4) | (bits >> 21 & 8);
        to[i] = colors[index & enabled];
    }
}

/* Two bits a pixel in planes 0 and 1 (CGA), with planes 2 and 3 above them. */
static void interleaved_unit(const uint32_t colors[16], uint32_t unit, uint8_t enabled, uint32_t to[8])
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t low = unit >> (i < 4 ? 0 : 8), high = unit >> (i < 4 ? 16 : 24);
        unsigned shift = 6 - 2 * (i & 3);
        to[i] = colors[((low >> shift & 3) | (high >> shift & 3) << 2) & enabled];
    }
}

static void byte_unit(const Vga *vga, uint32_t unit, uint32_t to[8])
{
    for (unsigned i = 0; i < 8; i++) {
        to[i] = dac_color(vga, unit >> (i / 2 * 8) & 0xff);
    }
}

/* A row of picture->width pixels, panned. */
static void graphics_row(const Vga *vga, const uint32_t colors[16], uint32_t ma, uint32_t ra, uint32_t *to)
{
    const VgaPicture *picture = &vga->picture;
    bool vbe = vga_vbe_on(vga);
    unsigned repeat = !vbe && (vga->seq[SEQ_CLOCKING] & SEQ1_HALF_CLOCK) ? 2 : 1;
    uint8_t enabled = vga->attr[AR_PLANE_ENABLE] & 15;
    unsigned skip = vbe ? 0 : (vga->attr[AR_PEL_PANNING] & 7) * repeat;
    uint32_t out = 0, pixels[8];
    ma += vbe ? 0 : (vga->crtc[CR_PRESET_ROW] >> 5) & 3;
    for (uint32_t n = 0; out < picture->width; n++) {
        uint32_t unit = load_unit(vga, vbe ? ma + n : vga_unit(vga, (ma + n) & 0xffff, ra) & 0xffff);
        switch (picture->shift) {
        case 0:
            planar_unit(colors, unit, enabled, pixels);
            break;
        case 1:
            interleaved_unit(colors, unit, enabled, pixels);
            break;
        default:
            byte_unit(vga, unit, pixels);
            break;
        }
        for (unsigned i = 0; i < 8 * repeat && out < picture->width; i++) {
            if (skip) {
                skip--;
            } else {
                to[out++] = pixels[i / repeat];
            }
        }
    }
}

static void draw_graphics(Vga *vga, bool all)
{
    const VgaPicture *picture = &vga->picture;
    Surface *surface = vga->console->surface;
    uint64_t span = vga_vbe_on(vga) ? vga->vram->size : MIN(vga->vram->size, VGA_LEGACY_UNITS * 4);
    if (!take_dirty(vga, 0, span) && !all) {
        return;
    }
    uint32_t colors[16], ma = picture->start, ra = (vga->crtc[CR_PRESET_ROW] & 0x1f) % picture->max_scan;
    if (vga_vbe_on(vga)) {
        ra = 0;
    }
    for (unsigned i = 0; i < 16; i++) {
        colors[i] = vga_attr_color(vga, i);
    }
    int first = -1;
    uint32_t last_ma = UINT32_MAX, last_ra = 0;
    for (uint32_t y = 0; y < picture->height; y++) {
        uint32_t *row = surface_row(surface, y);
        uint64_t at = vga_vbe_on(vga) ? (uint64_t)ma * 4 : (uint64_t)(vga_unit(vga, ma & 0xffff, ra) & 0xffff) * 4;
        /* A row may wrap at the end of the planes; then its place says nothing. */
        uint64_t bytes = (picture->columns + 4) * 4;
        if (all || at + bytes > span || bytes_dirty(vga, at, bytes)) {
            if (ma == last_ma && ra == last_ra && y > 0) {
                memcpy(row, surface_row(surface, y - 1), picture->width * sizeof(uint32_t));
            } else {
                graphics_row(vga, colors, ma, ra, row);
            }
            last_ma = ma;
            last_ra = ra;
            first = first < 0 ? (int)y : first;
        } else {
            last_ma = UINT32_MAX;
            flush_rows(vga, &first, y);
        }
        if ((y + 1) % picture->row_repeat == 0 && ++ra >= picture->max_scan) {
            ra = 0;
            ma += picture->pitch;
        }
        if (y == picture->line_compare) {
            ma = ra = 0;
        }
    }
    flush_rows(vga, &first, picture->height);
}

/* --- the whole --- */

/* Makes the console's surface fit the picture; false: no memory. */
static bool fit_surface(Vga *vga, const VgaPicture *picture)
{
    Surface *surface = vga->console->surface;
    bool direct = picture->kind == VGA_LINEAR && picture->bpp == 32 && !vga->big_endian && picture->start % 4 == 0;
    uint8_t *data = direct ? vga->vram->host + picture->start : NULL;
    if (surface->width == picture->width && surface->height == picture->height && surface->borrowed == direct &&
        (!direct || (surface->data == data && surface->stride == picture->pitch))) {
        return true;
    }
    surface = direct ? surface_new_borrowed(picture->width, picture->height, picture->pitch, PIXMAN_x8r8g8b8, data)
                     : surface_new(picture->width, picture->height);
    if (!surface) {
        return false;
    }
    console_switch(vga->console, surface);
    return true;
}

static void draw_blank(Vga *vga, bool all)
{
    Surface *surface = vga->console->surface;
    if (all) {
        for (unsigned y = 0; y < surface->height; y++) {
            memset(surface_row(surface, y), 0, surface->width * sizeof(uint32_t));
        }
        console_update(vga->console, 0, 0, surface->width, surface->height);
    }
}

static void vga_refresh(void *opaque)
{
    Vga *vga = opaque;
    VgaPicture picture = current_picture(vga);
    bool changed = memcmp(&picture, &vga->picture, sizeof(picture)) != 0;
    bool all = vga->redraw || changed || vga->colors_changed;
    if (vga->colors_changed || changed) {
        update_colors(vga);
    }
    if (picture.kind == VGA_BLANK) { /* a black picture of the size before */
        picture.width = vga->console->surface->width;
        picture.height = vga->console->surface->height;
        if (!fit_surface(vga, &picture)) {
            return;
        }
        changed = vga->picture.kind != VGA_BLANK;
        all = vga->redraw || changed;
    } else if (changed && !fit_surface(vga, &picture)) {
        return; /* no memory: tried again at the next refresh */
    }
    vga->picture = picture;
    vga->redraw = vga->colors_changed = false;
    switch (picture.kind) {
    case VGA_TEXT:
        all |= take_dirty(vga, 0, VGA_LEGACY_UNITS * 4) && vga->font_changed;
        vga->font_changed = false;
        vga_draw_text(vga, &vga->picture, all);
        break;
    case VGA_GRAPHICS:
        draw_graphics(vga, all);
        break;
    case VGA_LINEAR:
        draw_linear(vga, all);
        break;
    default:
        draw_blank(vga, all);
        break;
    }
}

static void vga_invalidate(void *opaque)
{
    ((Vga *)opaque)->redraw = true;
}

static bool vga_text(void *opaque, TextScreen *ret_text)
{
    Vga *vga = opaque;
    VgaPicture picture = current_picture(vga);
    if (picture.kind != VGA_TEXT) {
        return false;
    }
    ret_text->columns = picture.columns;
    ret_text->rows = picture.rows;
    ret_text->cells = g_new(TextCell, (size_t)picture.columns * picture.rows);
    uint32_t cursor = vga->crtc[CR_CURSOR_HIGH] << 8 | vga->crtc[CR_CURSOR_LOW];
    ret_text->cursor_x = ret_text->cursor_y = -1;
    for (uint32_t y = 0; y < picture.rows; y++) {
        for (uint32_t x = 0; x < picture.columns; x++) {
            uint32_t ma = (picture.start + y * picture.pitch + x) & 0xffff;
            uint32_t unit = load_unit(vga, vga_unit(vga, ma, 0) & 0xffff);
            ret_text->cells[y * picture.columns + x] = (TextCell) { unit & 0xff, unit >> 8 & 0xff };
            if (ma == cursor && !(vga->crtc[CR_CURSOR_START] & 0x20)) {
                ret_text->cursor_x = (int)x;
                ret_text->cursor_y = (int)y;
            }
        }
    }
    return true;
}

const ConsoleOps vga_console_ops = { .refresh = vga_refresh, .invalidate = vga_invalidate, .text = vga_text };
