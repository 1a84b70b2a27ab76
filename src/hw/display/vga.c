/*
 * The VGA's registers: sequencer, graphics controller, CRTC, attribute controller, DAC, input status.
 *
 * IBM VGA technical reference; FreeVGA: "VGA Chipset Reference". Input status is derived from the CRTC's
 * timing and virtual time. Missing: the light pen, CRTC tests, the mono/colour switch sense of real monitors.
 */
#include "hw/display/vga.h"

#include "base/endian.h"

enum { MISC_COLOR_PORTS = 0x01 };
enum { ST1_DISPLAY_DISABLED = 0x01, ST1_VERTICAL_RETRACE = 0x08 };
enum { CR11_PROTECT = 0x80, CR7_LINE_COMPARE = 0x10 };

/* --- input status --- */

/* Pixels clocks a second of the clock that the miscellaneous output register selects. */
static uint64_t dot_clock(const Vga *vga)
{
    uint64_t clock = vga->misc & 4 ? 28322000 : 25175000;
    return vga->seq[SEQ_CLOCKING] & 8 ? clock / 2 : clock;
}

bool vga_retrace(Vga *vga, bool *ret_vertical)
{
    const uint8_t *cr = vga->crtc;
    uint64_t overflow = cr[CR_OVERFLOW];
    uint64_t chars = cr[CR_H_TOTAL] + 5u, shown = cr[CR_H_DISPLAY_END] + 1u;
    uint64_t lines = (cr[CR_V_TOTAL] | (overflow & 1) << 8 | (overflow & 0x20) << 4) + 2;
    uint64_t end = (cr[CR_V_DISPLAY_END] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1;
    uint64_t sync = cr[CR_V_SYNC_START] | (overflow & 4) << 6 | (overflow & 0x80) << 2;
    uint64_t length = ((cr[CR_V_SYNC_END] - sync) & 15);
    unsigned dots = vga->seq[SEQ_CLOCKING] & 1 ? 8 : 9;
    /* Time in character clocks; a frame has chars * lines of them. */
    __int128 now = clock_now(vga->dev->machine->clocks, CLOCK_VIRTUAL);
    uint64_t position = (uint64_t)(now * dot_clock(vga) / dots / NS_PER_SEC % (chars * lines));
    uint64_t line = position / chars;
    *ret_vertical = line >= sync && line < sync + MAX(length, 1u);
    return line >= end || position % chars >= shown;
}

static uint8_t status1(Vga *vga)
{
    bool vertical, disabled = vga_retrace(vga, &vertical);
    vga->attr_data = false;
    return (disabled ? ST1_DISPLAY_DISABLED : 0) | (vertical ? ST1_VERTICAL_RETRACE : 0);
}

/* --- attribute controller and DAC --- */

static void attr_write(Vga *vga, uint8_t value)
{
    static const uint8_t writable[AR_REGS - AR_MODE] = { 0xef, 0xff, 0x3f, 0x0f, 0x0f };
    unsigned index = vga->attr_index & 31;
    vga->attr_data = !vga->attr_data;
    if (vga->attr_data) {
        vga->redraw |= (vga->attr_index ^ value) & 0x20;
        vga->attr_index = value & 0x3f;
        return;
    }
    if (index >= AR_REGS) {
        return;
    }
    value &= index < AR_MODE ? 0x3f : writable[index - AR_MODE];
    if (vga->attr[index] != value) {
        vga->attr[index] = value;
        vga->colors_changed = true;
    }
}

static uint8_t dac_data_read(Vga *vga)
{
    uint8_t value = vga->palette[vga->dac_read * 3 + vga->dac_sub];
    if (++vga->dac_sub == 3) {
        vga->dac_sub = 0;
        vga->dac_read++;
    }
    return value;
}

static void dac_data_write(Vga *vga, uint8_t value)
{
    vga->dac_cache[vga->dac_sub] = value;
    if (++vga->dac_sub == 3) {
        uint8_t *entry = vga->palette + vga->dac_write++ * 3;
        vga->dac_sub = 0;
        if (memcmp(entry, vga->dac_cache, 3) != 0) {
            memcpy(entry, vga->dac_cache, 3);
            vga->colors_changed = true;
        }
    }
}

/* --- CRTC --- */

static void crtc_write(Vga *vga, uint8_t value)
{
    unsigned index = vga->crtc_index;
    if (index >= CR_REGS) {
        return;
    }
    if (index <= CR_OVERFLOW && (vga->crtc[CR_V_SYNC_END] & CR11_PROTECT)) {
        if (index == CR_OVERFLOW) {
            uint8_t *overflow = &vga->crtc[CR_OVERFLOW];
            *overflow = (*overflow & ~CR7_LINE_COMPARE) | (value & CR7_LINE_COMPARE);
        }
        return;
    }
    vga->crtc[index] = value;
}

/* --- ports --- */

static bool answers(const Vga *vga, uint16_t port)
{
    bool color = vga->misc & MISC_COLOR_PORTS;
    return port >= 0x3d0 ? color : port >= 0x3c0 || !color;
}

uint8_t vga_port_read(Vga *vga, uint16_t port)
{
    if (!answers(vga, port)) {
        return 0xff;
    }
    switch (port) {
    case 0x3c0:
        return vga->attr_data ? 0 : vga->attr_index;
    case 0x3c1:
        return (vga->attr_index & 31) < AR_REGS ? vga->attr[vga->attr_index & 31] : 0;
    case 0x3c2: /* input status 0: switch sense */
        return 0x10;
    case 0x3c3:
        return 1;
    case 0x3c4:
        return vga->seq_index;
    case 0x3c5:
        return vga->seq_index < SEQ_REGS ? vga->seq[vga->seq_index] : 0;
    case 0x3c6:
        return vga->dac_mask;
    case 0x3c7:
        return vga->dac_state;
    case 0x3c8:
        return vga->dac_write;
    case 0x3c9:
        return dac_data_read(vga);
    case 0x3ca:
        return vga->feature;
    case 0x3cc:
        return vga->misc;
    case 0x3ce:
        return vga->gc_index;
    case 0x3cf:
        return vga->gc_index < GC_REGS ? vga->gc[vga->gc_index] : 0;
    case 0x3b4:
    case 0x3d4:
        return vga->crtc_index;
    case 0x3b5:
    case 0x3d5:
        return vga->crtc_index < CR_REGS ? vga->crtc[vga->crtc_index] : 0;
    case 0x3ba:
    case 0x3da:
        return status1(vga);
    default:
        return 0xff;
    }
}

static void seq_write(Vga *vga, uint8_t value)
{
    static const uint8_t writable[SEQ_REGS] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
    if (vga->seq_index < SEQ_REGS) {
        vga->seq[vga->seq_index] = value & writable[vga->seq_index];
        vga_window_update(vga);
    }
}

static void gc_write(Vga *vga, uint8_t value)
{
    static const uint8_t writable[GC_REGS] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };
    if (vga->gc_index < GC_REGS) {
        vga->gc[vga->gc_index] = value & writable[vga->gc_index];
        vga_window_update(vga);
    }
}

void vga_port_write(Vga *vga, uint16_t port, uint8_t value)
{
    if (!answers(vga, port)) {
        return;
    }
    switch (port) {
    case 0x3c0:
        attr_write(vga, value);
        break;
    case 0x3c2:
        vga->misc = value & ~0x10;
        vga_window_update(vga);
        break;
    case 0x3c4:
        vga->seq_index = value & 7;
        break;
    case 0x3c5:
        seq_write(vga, value);
        break;
    case 0x3c6:
        vga->dac_mask = value;
        vga->colors_changed = true;
        break;
    case 0x3c7:
        vga->dac_read = value;
        vga->dac_sub = 0;
        vga->dac_state = 3;
        break;
    case 0x3c8:
        vga->dac_write = value;
        vga->dac_sub = 0;
        vga->dac_state = 0;
        break;
    case 0x3c9:
        dac_data_write(vga, value);
        break;
    case 0x3ce:
        vga->gc_index = value & 15;
        break;
    case 0x3cf:
        gc_write(vga, value);
        break;
    case 0x3b4:
    case 0x3d4:
        vga->crtc_index = value & 31;
        break;
    case 0x3b5:
    case 0x3d5:
        crtc_write(vga, value);
        break;
    case 0x3ba:
    case 0x3da:
        vga->feature = value & 0x10;
        break;
    default:
        break;
    }
}

/* Port ranges of the legacy regions, in the order of vga->ports. */
static const struct {
    uint16_t port, count;
} port_ranges[] = { { 0x3b4, 2 }, { 0x3ba, 1 }, { 0x3c0, 16 }, { 0x3d4, 2 }, { 0x3da, 1 } };

#define PORT_OPS(n)                                                                                \
    static uint64_t ports##n##_read(void *opaque, uint64_t addr, unsigned size)                    \
    {                                                                                              \
        return vga_port_read(opaque, port_ranges[n].port + addr);                                  \
    }                                                                                              \
    static void ports##n##_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)       \
    {                                                                                              \
        vga_port_write(opaque, port_ranges[n].port + addr, (uint8_t)value);                        \
    }
PORT_OPS(0)
PORT_OPS(1)
PORT_OPS(2)
PORT_OPS(3)
PORT_OPS(4)
static const MemOps port_ops[] = {
    { .read = ports0_read, .write = ports0_write, .min = 1, .max = 1 },
    { .read = ports1_read, .write = ports1_write, .min = 1, .max = 1 },
    { .read = ports2_read, .write = ports2_write, .min = 1, .max = 1 },
    { .read = ports3_read, .write = ports3_write, .min = 1, .max = 1 },
    { .read = ports4_read, .write = ports4_write, .min = 1, .max = 1 },
};

/* Index at 0x1ce, data at 0x1cf and 0x1d0: words at any of them. */
static uint64_t dispi_port_read(void *opaque, uint64_t addr, unsigned size)
{
    Vga *vga = opaque;
    return addr == 0 ? vga->vbe_index : vga_vbe_read(vga, vga->vbe_index);
}

static void dispi_port_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Vga *vga = opaque;
    if (addr == 0) {
        vga->vbe_index = (uint16_t)value;
    } else {
        vga_vbe_write(vga, vga->vbe_index, (uint16_t)value);
    }
}

static const MemOps dispi_port_ops = {
    .read = dispi_port_read, .write = dispi_port_write, .min = 1, .max = 2, .unaligned = true,
};

/* --- life --- */

Error *vga_init(Vga *vga, Device *dev, uint64_t vram_size)
{
    vga->dev = dev;
    TRY(device_region_ram(dev, &vga->vram_region, "vram", vram_size));
    vga->vram = vga->vram_region.ram;
    vga->colors = device_alloc(dev, 256 * sizeof(uint32_t));
    vga->dirty = device_alloc(dev, vram_size / MEM_PAGE_SIZE);
    ram_track(vga->vram, RAM_DIRTY_DISPLAY, true);
    vga->console = console_new(dev->machine, dev, 0, &vga_console_ops, vga);
    vga_reset(vga);
    return NULL;
}

void vga_map_legacy(Vga *vga, MemRegion *memory, MemRegion *io)
{
    MemSystem *mem = vga->dev->machine->mem;
    vga->legacy = true;
    for (unsigned i = 0; i < ARRAY_SIZE(port_ranges); i++) {
        mem_region_init_io(&vga->ports[i], mem, "vga", port_ranges[i].count, &port_ops[i], vga);
        device_region_own(vga->dev, &vga->ports[i]);
        mem_region_map(io, port_ranges[i].port, &vga->ports[i], 0);
    }
    mem_region_init_io(&vga->dispi_ports, mem, "vbe", 4, &dispi_port_ops, vga);
    device_region_own(vga->dev, &vga->dispi_ports);
    mem_region_map(io, 0x1ce, &vga->dispi_ports, 0);
    vga_window_init(vga);
    mem_region_map(memory, VGA_WINDOW_BASE, &vga->window, 1);
}

void vga_fini(Vga *vga)
{
    console_free(vga->console);
    vga->console = NULL;
    g_clear_pointer(&vga->cells, g_free);
}

void vga_reset(Vga *vga)
{
    vga->misc = vga->feature = 0;
    vga->seq_index = vga->gc_index = vga->crtc_index = vga->attr_index = 0;
    memset(vga->seq, 0, sizeof(vga->seq));
    memset(vga->gc, 0, sizeof(vga->gc));
    memset(vga->crtc, 0, sizeof(vga->crtc));
    memset(vga->attr, 0, sizeof(vga->attr));
    vga->attr_data = false;
    vga->dac_mask = 0xff;
    vga->dac_state = vga->dac_read = vga->dac_write = vga->dac_sub = 0;
    memset(vga->palette, 0, sizeof(vga->palette));
    vga->latch = 0;
    vga->vbe_index = 0;
    memset(vga->vbe, 0, sizeof(vga->vbe));
    vga->vbe[VBE_ID] = 0xb0c5;
    vga->redraw = vga->colors_changed = true;
    vga_window_update(vga);
}

void vga_loaded(Vga *vga)
{
    vga->redraw = vga->colors_changed = vga->font_changed = true;
    vga->seq_index &= 7;
    vga->gc_index &= 15;
    vga->crtc_index &= 31;
    vga->dac_sub %= 3;
    vga_vbe_write(vga, VBE_VIRT_WIDTH, vga->vbe[VBE_VIRT_WIDTH]); /* brings the set into range */
    vga_window_update(vga);
}

const StateField vga_state[] = {
    STATE_U8(Vga, misc),
    STATE_U8(Vga, feature),
    STATE_U8(Vga, seq_index),
    STATE_BYTES(Vga, seq),
    STATE_U8(Vga, gc_index),
    STATE_BYTES(Vga, gc),
    STATE_U8(Vga, crtc_index),
    STATE_BYTES(Vga, crtc),
    STATE_U8(Vga, attr_index),
    STATE_BYTES(Vga, attr),
    STATE_BOOL(Vga, attr_data),
    STATE_U8(Vga, dac_mask),
    STATE_U8(Vga, dac_state),
    STATE_U8(Vga, dac_read),
    STATE_U8(Vga, dac_write),
    STATE_RANGE(Vga, dac_sub, 0, 2),
    STATE_BYTES(Vga, dac_cache),
    STATE_BYTES(Vga, palette),
    STATE_U32(Vga, latch),
    STATE_U16(Vga, vbe_index),
    STATE_U16_ARRAY(Vga, vbe),
    STATE_NOT(Vga, dev, "wiring"),
    STATE_NOT(Vga, vram, "saved as RAM"),
    STATE_NOT(Vga, legacy, "configuration"),
    STATE_NOT(Vga, big_endian, "saved by the device"),
    STATE_NOT(Vga, vram_region, "fixed"),
    STATE_NOT(Vga, window, "fixed"),
    STATE_NOT(Vga, window_io, "fixed"),
    STATE_NOT(Vga, window_direct, "from the registers"),
    STATE_NOT(Vga, ports, "fixed"),
    STATE_NOT(Vga, dispi_ports, "fixed"),
    STATE_NOT(Vga, console, "host"),
    STATE_NOT(Vga, colors, "from the registers"),
    STATE_NOT(Vga, dirty, "host"),
    STATE_NOT(Vga, cells, "host"),
    STATE_NOT(Vga, cells_count, "host"),
    STATE_NOT(Vga, picture, "from the registers"),
    STATE_NOT(Vga, redraw, "host"),
    STATE_NOT(Vga, colors_changed, "host"),
    STATE_NOT(Vga, font_changed, "host"),
    STATE_NOT(Vga, cursor_at, "host"),
    STATE_NOT(Vga, blink_on, "host"),
    { 0 },
};
