/*
 * A VGA with the Bochs VBE extension (DISPI), without its bus: embedded in a PCI or ISA device.
 *
 * Video memory is kept as 32-bit units: unit n holds byte n of planes 0 to 3. Chained addressing (chain 4,
 * odd/even) is kept compact: CPU address a is byte a of that array in chain 4, and plane a & 1 of unit
 * a / 2 in odd/even mode, so that linear modes and the linear frame buffer are the same bytes.
 */
#ifndef OSTRICH_HW_DISPLAY_VGA_H
#define OSTRICH_HW_DISPLAY_VGA_H

#include "core/vm/machine.h"
#include "ui/console.h"

enum { VGA_WINDOW_BASE = 0xa0000, VGA_WINDOW_SIZE = 0x20000, VGA_LEGACY_UNITS = 0x10000 };

/* Sequencer, graphics controller, CRTC and attribute controller registers by their data-sheet names. */
enum { SEQ_RESET, SEQ_CLOCKING, SEQ_MAP_MASK, SEQ_CHAR_MAP, SEQ_MEMORY_MODE, SEQ_REGS };
enum {
    GC_SET_RESET, GC_ENABLE_SET_RESET, GC_COLOR_COMPARE, GC_DATA_ROTATE, GC_READ_MAP, GC_MODE, GC_MISC,
    GC_COLOR_DONT_CARE, GC_BIT_MASK, GC_REGS,
};
enum {
    CR_H_TOTAL, CR_H_DISPLAY_END, CR_H_BLANK_START, CR_H_BLANK_END, CR_H_SYNC_START, CR_H_SYNC_END, CR_V_TOTAL,
    CR_OVERFLOW, CR_PRESET_ROW, CR_MAX_SCAN, CR_CURSOR_START, CR_CURSOR_END, CR_START_HIGH, CR_START_LOW,
    CR_CURSOR_HIGH, CR_CURSOR_LOW, CR_V_SYNC_START, CR_V_SYNC_END, CR_V_DISPLAY_END, CR_OFFSET, CR_UNDERLINE,
    CR_V_BLANK_START, CR_V_BLANK_END, CR_MODE, CR_LINE_COMPARE, CR_REGS,
};
enum { AR_MODE = 0x10, AR_OVERSCAN, AR_PLANE_ENABLE, AR_PEL_PANNING, AR_COLOR_SELECT, AR_REGS };

/* DISPI registers. */
enum {
    VBE_ID, VBE_XRES, VBE_YRES, VBE_BPP, VBE_ENABLE, VBE_BANK, VBE_VIRT_WIDTH, VBE_VIRT_HEIGHT, VBE_X_OFFSET,
    VBE_Y_OFFSET, VBE_MEMORY_64K, VBE_REGS,
};
enum { VBE_ENABLED = 0x01, VBE_GETCAPS = 0x02, VBE_8BIT_DAC = 0x20, VBE_LFB = 0x40, VBE_NOCLEAR = 0x80 };
enum { VBE_MAX_XRES = 16000, VBE_MAX_YRES = 12000 };

/* What the last refresh drew; a difference means that everything is drawn again. */
typedef struct VgaPicture {
    enum { VGA_BLANK, VGA_TEXT, VGA_GRAPHICS, VGA_LINEAR } kind;
    uint32_t width, height;   /* pixels */
    uint32_t start, pitch;    /* units; bytes when linear */
    uint32_t bpp;             /* linear */
    uint32_t cell_width, cell_height, columns, rows; /* text */
    uint32_t line_compare;
    uint32_t row_repeat;      /* scan lines that a row of the picture fills */
    uint32_t max_scan;        /* scan lines of a character row */
    uint32_t shift;           /* graphics: 0 planar, 1 interleaved, 2 256 colours */
    uint32_t pan;
    uint32_t font_a, font_b;
    uint32_t cursor;          /* its shape */
    uint32_t modes;           /* CR17, CR14, AR10, SEQ1: everything else that changes the picture */
} VgaPicture;

typedef struct Vga {
    Device *dev;
    RamBlock *vram;
    bool legacy;        /* has the ports and the window */

    uint8_t misc, feature;
    uint8_t seq_index, seq[8];
    uint8_t gc_index, gc[16];
    uint8_t crtc_index, crtc[32];
    uint8_t attr_index, attr[32];
    bool attr_data;     /* the next write to 0x3c0 is data */
    uint8_t dac_mask, dac_state, dac_read, dac_write, dac_sub, dac_cache[3];
    uint8_t palette[768];
    uint32_t latch;
    uint16_t vbe_index, vbe[VBE_REGS];
    bool big_endian;

    MemRegion vram_region, window, window_io, window_direct;
    MemRegion ports[5], dispi_ports;

    Console *console;
    uint32_t *colors;          /* 256, x8r8g8b8, of the DAC */
    uint8_t *dirty;            /* a byte a page */
    uint32_t *cells;           /* text: what is on the surface */
    uint32_t cells_count;
    VgaPicture picture;
    bool redraw, colors_changed, font_changed;
    int cursor_at;             /* cell that shows the cursor; -1: none */
    bool blink_on;
} Vga;

extern const StateField vga_state[];

/* Makes video memory (vram_region, size a power of two of at least 256 KiB) and the console. */
Error *vga_init(Vga *vga, Device *dev, uint64_t vram_size) MUST_USE;
/* The ports and the window at 0xa0000 in these containers. */
void vga_map_legacy(Vga *vga, MemRegion *memory, MemRegion *io);
void vga_fini(Vga *vga);
void vga_reset(Vga *vga);
void vga_loaded(Vga *vga);

/* Port 0x3b0 to 0x3df; DISPI registers by number. */
uint8_t vga_port_read(Vga *vga, uint16_t port);
void vga_port_write(Vga *vga, uint16_t port, uint8_t value);
uint16_t vga_vbe_read(Vga *vga, unsigned reg);
void vga_vbe_write(Vga *vga, unsigned reg, uint16_t value);
/* The registers as an array of words in memory; an access of four bytes reaches two. */
uint32_t vga_vbe_array_read(Vga *vga, unsigned offset, unsigned size);
void vga_vbe_array_write(Vga *vga, unsigned offset, uint32_t value, unsigned size);

/* --- between the files of the VGA --- */
static inline bool vga_vbe_on(const Vga *vga)
{
    return vga->vbe[VBE_ENABLE] & VBE_ENABLED;
}
static inline bool vga_linear(const Vga *vga)
{
    return vga_vbe_on(vga) && vga->vbe[VBE_BPP] >= 8;
}
uint32_t vga_vbe_pitch(const Vga *vga); /* bytes a line */
void vga_window_init(Vga *vga);
void vga_window_update(Vga *vga);       /* after a register that bears on addressing was written */
bool vga_retrace(Vga *vga, bool *ret_vertical);
extern const ConsoleOps vga_console_ops;
/* A text mode's picture. */
void vga_draw_text(Vga *vga, const VgaPicture *picture, bool all);
/* Unit of video memory for CRTC address ma in scan line ra of its character row. */
uint32_t vga_unit(const Vga *vga, uint32_t ma, uint32_t ra);
uint32_t vga_attr_color(const Vga *vga, unsigned index); /* x8r8g8b8 of an attribute value */

#endif
