/*
 * The VGA's memory window: planes, latches, write modes, and the shortcut for linear modes.
 *
 * IBM VGA technical reference; FreeVGA: "Accessing the VGA Display Memory". While a chained mode writes plain
 * bytes, the window is an alias of video memory and accesses cost nothing. RAM enable (bit 1 of the
 * miscellaneous output register) does not close the window: firmware written for this adapter, GRUB's, leaves
 * it 0 and writes text.
 */
#include "base/endian.h"
#include "hw/display/vga.h"

enum { SEQ4_ODD_EVEN_OFF = 0x04, SEQ4_CHAIN4 = 0x08, GC5_ODD_EVEN = 0x10, GC5_READ_COMPARE = 0x08 };

/* A bit for each plane to a byte for each plane. */
static uint32_t planes(unsigned bits)
{
    return ((bits & 1) | (bits & 2) << 7 | (bits & 4) << 14 | (uint32_t)(bits & 8) << 21) * 0xff;
}

static bool chain4(const Vga *vga)
{
    return (vga->seq[SEQ_MEMORY_MODE] & SEQ4_CHAIN4) || vga_linear(vga);
}

/* Where the window lies in [0, 128 KiB) of the region. */
static void window_range(const Vga *vga, uint32_t *ret_base, uint32_t *ret_size)
{
    static const struct {
        uint32_t base, size;
    } maps[] = { { 0, 0x20000 }, { 0, 0x10000 }, { 0x10000, 0x8000 }, { 0x18000, 0x8000 } };
    unsigned map = vga_linear(vga) ? 1 : (vga->gc[GC_MISC] >> 2) & 3;
    *ret_base = maps[map].base;
    *ret_size = maps[map].size;
}

static uint64_t bank_offset(const Vga *vga)
{
    return vga_vbe_on(vga) ? (uint64_t)vga->vbe[VBE_BANK] << 16 : 0;
}

/* A window address to a CPU address in video memory; false: not decoded. */
static bool decode(const Vga *vga, uint64_t *addr)
{
    uint32_t base, size;
    window_range(vga, &base, &size);
    if (*addr < base || *addr >= base + size) {
        return false;
    }
    *addr = *addr - base + bank_offset(vga);
    return true;
}

static uint64_t window_read(void *opaque, uint64_t addr, unsigned size)
{
    Vga *vga = opaque;
    uint64_t unit;
    unsigned plane;
    if (!decode(vga, &addr)) {
        return 0xff;
    }
    if (chain4(vga)) {
        unit = addr >> 2;
        plane = addr & 3;
    } else if (vga->gc[GC_MODE] & GC5_ODD_EVEN) {
        unit = addr >> 1;
        plane = (vga->gc[GC_READ_MAP] & 2) | (addr & 1);
    } else {
        unit = addr;
        plane = vga->gc[GC_READ_MAP] & 3;
    }
    if (unit >= vga->vram->size / 4) {
        return 0xff;
    }
    vga->latch = ld32_le(vga->vram->host + unit * 4);
    if (chain4(vga) || !(vga->gc[GC_MODE] & GC5_READ_COMPARE)) {
        return (vga->latch >> (8 * plane)) & 0xff;
    }
    uint32_t differ = (vga->latch ^ planes(vga->gc[GC_COLOR_COMPARE])) & planes(vga->gc[GC_COLOR_DONT_CARE]);
    differ |= differ >> 16;
    return (uint8_t)~(differ | differ >> 8);
}

/* What the write mode makes of a byte, for all planes. */
static uint32_t written_value(const Vga *vga, uint8_t value)
{
    const uint8_t *gc = vga->gc;
    unsigned rotate = gc[GC_DATA_ROTATE] & 7, bits = gc[GC_BIT_MASK];
    uint8_t rotated = value >> rotate | value << (8 - rotate);
    uint32_t data;
    switch (gc[GC_MODE] & 3) {
    case 0: {
        uint32_t enable = planes(gc[GC_ENABLE_SET_RESET]);
        data = (rotated * 0x01010101u & ~enable) | (planes(gc[GC_SET_RESET]) & enable);
        break;
    }
    case 1:
        return vga->latch;
    case 2:
        data = planes(value);
        break;
    default:
        data = planes(gc[GC_SET_RESET]);
        bits &= rotated;
        break;
    }
    switch ((gc[GC_DATA_ROTATE] >> 3) & 3) {
    case 1:
        data &= vga->latch;
        break;
    case 2:
        data |= vga->latch;
        break;
    case 3:
        data ^= vga->latch;
        break;
    default:
        break;
    }
    uint32_t wide = bits * 0x01010101u;
    return (data & wide) | (vga->latch & ~wide);
}

static void window_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Vga *vga = opaque;
    unsigned enabled = vga_linear(vga) ? 0xf : vga->seq[SEQ_MAP_MASK] & 0xf;
    uint64_t unit;
    if (!decode(vga, &addr)) {
        return;
    }
    if (chain4(vga)) {
        unit = addr >> 2;
        enabled &= BIT(addr & 3);
    } else if (!(vga->seq[SEQ_MEMORY_MODE] & SEQ4_ODD_EVEN_OFF)) {
        unit = addr >> 1;
        enabled &= addr & 1 ? 0xa : 0x5;
    } else {
        unit = addr;
        vga->font_changed |= enabled & 4;
    }
    if (unit >= vga->vram->size / 4 || enabled == 0) {
        return;
    }
    uint32_t data = vga_linear(vga) ? (uint8_t)value * 0x01010101u : written_value(vga, (uint8_t)value);
    uint32_t mask = planes(enabled);
    uint8_t *at = vga->vram->host + unit * 4;
    st32_le(at, (ld32_le(at) & ~mask) | (data & mask));
    ram_written(vga->vram, unit * 4, 4);
}

static const MemOps window_ops = { .read = window_read, .write = window_write, .min = 1, .max = 1 };

/* Whether bytes go through unchanged. */
static bool plain(const Vga *vga)
{
    const uint8_t *gc = vga->gc;
    return vga_linear(vga) ||
           ((vga->seq[SEQ_MEMORY_MODE] & SEQ4_CHAIN4) && (vga->seq[SEQ_MAP_MASK] & 0xf) == 0xf &&
            (gc[GC_MODE] & 0xb) == 0 && gc[GC_DATA_ROTATE] == 0 && (gc[GC_ENABLE_SET_RESET] & 0xf) == 0 &&
            gc[GC_BIT_MASK] == 0xff);
}

void vga_window_update(Vga *vga)
{
    if (!vga->legacy) {
        return;
    }
    uint32_t base, size;
    MemRegion *direct = &vga->window_direct;
    uint64_t offset = bank_offset(vga);
    window_range(vga, &base, &size);
    bool on = plain(vga) && offset + size <= vga->vram->size;
    if (direct->enabled == on && (!on || (direct->offset == base && direct->size == size &&
                                          direct->target_offset == offset))) {
        return;
    }
    mem_update_begin(vga->dev->machine->mem);
    if (on) {
        mem_region_set_offset(direct, base);
        mem_region_set_size(direct, size);
        mem_region_set_alias_offset(direct, offset);
    }
    mem_region_set_enabled(direct, on);
    mem_update_end(vga->dev->machine->mem);
}

/* The window's region is a container: the shortcut lies over the callbacks. */
void vga_window_init(Vga *vga)
{
    MemSystem *mem = vga->dev->machine->mem;
    mem_region_init(&vga->window, mem, "vga-window", VGA_WINDOW_SIZE);
    mem_region_init_io(&vga->window_io, mem, "vga-planes", VGA_WINDOW_SIZE, &window_ops, vga);
    mem_region_init_alias(&vga->window_direct, "vga-direct", &vga->vram_region, 0, 0x10000);
    mem_region_set_enabled(&vga->window_direct, false);
    device_region_own(vga->dev, &vga->window_direct);
    device_region_own(vga->dev, &vga->window_io);
    device_region_own(vga->dev, &vga->window);
    mem_region_map(&vga->window, 0, &vga->window_io, 0);
    mem_region_map(&vga->window, 0, &vga->window_direct, 1);
}
