/*
 * Bochs VBE extension (DISPI interface, version 0xb0c5): high-resolution modes, banked and linear.
 *
 * Bochs: "VBE DISPI" interface description (vbe_display_api.txt). Whatever a guest writes is brought to a mode that
 * fits video memory, so drawing needs no further checks.
 */
#include "hw/display/vga.h"

enum { VBE_ID_FIRST = 0xb0c0, VBE_ID_LAST = 0xb0c5, VIRT_MAX = 0x3ff8 };

/* Bytes a line of `width` pixels takes. */
static uint32_t line_bytes(uint16_t bpp, uint32_t width)
{
    return bpp == 4 ? width / 2 : width * ((bpp + 7u) / 8);
}

uint32_t vga_vbe_pitch(const Vga *vga)
{
    return line_bytes(vga->vbe[VBE_BPP], vga->vbe[VBE_VIRT_WIDTH]);
}

static bool known_bpp(uint16_t bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Makes a consistent set of what the registers hold. */
static void settle(Vga *vga)
{
    uint16_t *vbe = vga->vbe;
    if (!known_bpp(vbe[VBE_BPP])) {
        vbe[VBE_BPP] = 8;
    }
    vbe[VBE_XRES] = CLAMP(vbe[VBE_XRES] & ~7, 8, VBE_MAX_XRES);
    vbe[VBE_VIRT_WIDTH] = CLAMP(vbe[VBE_VIRT_WIDTH] & ~7, vbe[VBE_XRES], VIRT_MAX);
    uint64_t lines = vga->vram->size / vga_vbe_pitch(vga);
    vbe[VBE_YRES] = CLAMP(vbe[VBE_YRES], 1, VBE_MAX_YRES);
    if (vbe[VBE_YRES] > lines) {
        vbe[VBE_YRES] = (uint16_t)MAX(lines, 1u);
    }
    vbe[VBE_VIRT_HEIGHT] = (uint16_t)MIN(lines, UINT16_MAX);
    vbe[VBE_X_OFFSET] = MIN(vbe[VBE_X_OFFSET], vbe[VBE_VIRT_WIDTH] - vbe[VBE_XRES]);
    vbe[VBE_Y_OFFSET] = MIN(vbe[VBE_Y_OFFSET], vbe[VBE_VIRT_HEIGHT] - vbe[VBE_YRES]);
}

static void enable(Vga *vga, uint16_t value)
{
    uint16_t *vbe = vga->vbe;
    bool was_on = vga_vbe_on(vga);
    if ((vbe[VBE_ENABLE] ^ value) & VBE_8BIT_DAC) {
        vga->colors_changed = true;
    }
    vbe[VBE_ENABLE] = value;
    if ((value & VBE_ENABLED) && !was_on) {
        vbe[VBE_VIRT_WIDTH] = 0;
        vbe[VBE_X_OFFSET] = vbe[VBE_Y_OFFSET] = 0;
        settle(vga);
        if (!(value & VBE_NOCLEAR)) {
            uint64_t bytes = (uint64_t)vga_vbe_pitch(vga) * vbe[VBE_YRES];
            bytes = MIN(bytes, vga->vram->size);
            memset(vga->vram->host, 0, bytes);
            ram_written(vga->vram, 0, bytes);
        }
    } else if (!(value & VBE_ENABLED)) {
        vbe[VBE_BANK] = 0;
        vbe[VBE_ENABLE] &= ~VBE_8BIT_DAC;
        vga->colors_changed = true;
    }
    vga_window_update(vga);
}

uint16_t vga_vbe_read(Vga *vga, unsigned reg)
{
    static const uint16_t caps[] = { [VBE_XRES] = VBE_MAX_XRES, [VBE_YRES] = VBE_MAX_YRES, [VBE_BPP] = 32 };
    if (reg == VBE_MEMORY_64K) {
        return (uint16_t)(vga->vram->size >> 16);
    }
    if (reg >= VBE_REGS) {
        return 0;
    }
    bool asks_caps = vga->vbe[VBE_ENABLE] & VBE_GETCAPS;
    return asks_caps && reg >= VBE_XRES && reg <= VBE_BPP ? caps[reg] : vga->vbe[reg];
}

void vga_vbe_write(Vga *vga, unsigned reg, uint16_t value)
{
    switch (reg) {
    case VBE_ID:
        if (value >= VBE_ID_FIRST && value <= VBE_ID_LAST) {
            vga->vbe[VBE_ID] = value;
        }
        break;
    case VBE_ENABLE:
        enable(vga, value);
        break;
    case VBE_BANK:
        vga->vbe[VBE_BANK] = value % MAX(vga->vram->size >> 16, 1u);
        vga_window_update(vga);
        break;
    case VBE_XRES:
    case VBE_YRES:
    case VBE_BPP:
    case VBE_VIRT_WIDTH:
    case VBE_X_OFFSET:
    case VBE_Y_OFFSET:
        vga->vbe[reg] = value;
        if (vga_vbe_on(vga)) {
            settle(vga);
            vga_window_update(vga);
        }
        break;
    default: /* the rest is read-only */
        break;
    }
}

uint32_t vga_vbe_array_read(Vga *vga, unsigned offset, unsigned size)
{
    uint32_t value = vga_vbe_read(vga, offset / 2);
    return size == 4 ? value | (uint32_t)vga_vbe_read(vga, offset / 2 + 1) << 16 : value >> (8 * (offset & 1));
}

void vga_vbe_array_write(Vga *vga, unsigned offset, uint32_t value, unsigned size)
{
    vga_vbe_write(vga, offset / 2, (uint16_t)value);
    if (size == 4) {
        vga_vbe_write(vga, offset / 2 + 1, (uint16_t)(value >> 16));
    }
}
