/*
 * "bochs-display": a frame buffer with the DISPI registers and nothing of a VGA.
 *
 * Interface: QEMU's docs/specs/standard-vga (the secondary form) with 32-bit modes only. BAR0 is video memory, BAR2
 * (4 KiB): 0x000 EDID, 0x500 DISPI registers, 0x600 byte order.
 */
#include "base/endian.h"
#include "bus/pci.h"
#include "hw/display/edid.h"
#include "hw/display/vga.h"

enum { MMIO_SIZE = 0x1000, MMIO_DISPI = 0x500, MMIO_EXT = 0x600, DISPI_BYTES = 2 * (VBE_MEMORY_64K + 1) };
#define ORDER_LITTLE 0x1e1e1e1eu
#define ORDER_BIG    0xbebebebeu

typedef struct BochsDisplay {
    PciDevice pci;
    Vga vga; /* only its DISPI half is used */
    uint64_t vgamem;
    bool has_edid;
    uint32_t xres, yres, xmax, ymax, refresh_rate;
    uint8_t edid[EDID_SIZE];
    MemRegion mmio;
} BochsDisplay;

static uint64_t mmio_read(void *opaque, uint64_t addr, unsigned size)
{
    BochsDisplay *card = opaque;
    if (addr >= MMIO_DISPI && addr < MMIO_DISPI + DISPI_BYTES) {
        return vga_vbe_read(&card->vga, (unsigned)(addr - MMIO_DISPI) / 2);
    }
    if (addr >= MMIO_EXT) {
        return addr == MMIO_EXT ? 8 : addr == MMIO_EXT + 4 ? (card->vga.big_endian ? ORDER_BIG : ORDER_LITTLE) : 0;
    }
    return card->has_edid && addr + size <= EDID_SIZE ? ld_le(card->edid + addr, size) : 0;
}

static void mmio_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    BochsDisplay *card = opaque;
    if (addr >= MMIO_DISPI && addr < MMIO_DISPI + DISPI_BYTES) {
        unsigned reg = (unsigned)(addr - MMIO_DISPI) / 2;
        vga_vbe_write(&card->vga, reg, reg == VBE_BPP ? 32 : (uint16_t)value);
    } else if (addr == MMIO_EXT + 4 && (value == ORDER_BIG || value == ORDER_LITTLE)) {
        card->vga.big_endian = value == ORDER_BIG;
    }
}

static const MemOps mmio_ops = { .read = mmio_read, .write = mmio_write, .min = 1, .max = 4 };

static Error *bochs_plug(Device *dev)
{
    BochsDisplay *card = container_of(dev, BochsDisplay, pci.dev);
    uint64_t vram = 4 * MiB;
    if (card->vgamem < 4 * MiB || card->vgamem > 256 * MiB) {
        return error_new("bochs-display: video memory too %s (4 MiB to 256 MiB)", card->vgamem < 4 * MiB ? "small" : "big");
    }
    while (vram < card->vgamem) {
        vram *= 2;
    }
    TRY(vga_init(&card->vga, dev, vram));
    EdidInfo info = { .width = card->xres, .height = card->yres, .max_width = card->xmax, .max_height = card->ymax,
                      .refresh_mhz = card->refresh_rate };
    edid_build(&info, card->edid);
    pci_bar(&card->pci, 0, PCI_BAR_PREFETCH, &card->vga.vram_region);
    mem_region_init_io(&card->mmio, dev->machine->mem, "bochs-display-mmio", MMIO_SIZE, &mmio_ops, card);
    device_region_own(dev, &card->mmio);
    pci_bar(&card->pci, 2, PCI_BAR_MEM32, &card->mmio);
    return NULL;
}

static void bochs_reset(Device *dev)
{
    Vga *vga = &container_of(dev, BochsDisplay, pci.dev)->vga;
    vga_reset(vga);
    vga->vbe[VBE_BPP] = 32;
}

static void bochs_unplug(Device *dev)
{
    vga_fini(&container_of(dev, BochsDisplay, pci.dev)->vga);
}

static Error *bochs_loaded(Device *dev)
{
    vga_loaded(&container_of(dev, BochsDisplay, pci.dev)->vga);
    return NULL;
}

static const Prop bochs_props[] = {
    PROP_SIZE("vgamem", BochsDisplay, vgamem, 16 * MiB, .help = "video memory (a power of two)"),
    PROP_BOOL("edid", BochsDisplay, has_edid, true, .help = "on/off"),
    PROP_U32("xres", BochsDisplay, xres, 1280, .help = "preferred width"),
    PROP_U32("yres", BochsDisplay, yres, 800, .help = "preferred height"),
    PROP_U32("xmax", BochsDisplay, xmax, 0, .help = "largest width"),
    PROP_U32("ymax", BochsDisplay, ymax, 0, .help = "largest height"),
    PROP_U32("refresh_rate", BochsDisplay, refresh_rate, 0, .help = "thousandths of Hz"),
    PROP_BOOL("big-endian-framebuffer", BochsDisplay, vga.big_endian, false, .flags = PROP_RUNTIME),
    { 0 },
};

static const StateField bochs_state[] = {
    STATE_STRUCT(BochsDisplay, vga, vga_state),
    STATE_BOOL(BochsDisplay, vga.big_endian),
    STATE_NOT(BochsDisplay, edid, "from the properties"),
    STATE_NOT(BochsDisplay, mmio, "fixed"),
    { 0 },
};

static const PciIdent bochs_ident = {
    .vendor = 0x1234, .device = 0x1111, .class_code = 0x038000, .rom = "vgabios-bochs-display.bin", .revision = 2,
};

DEVICE_TYPE(bochs_display, PCI_DEVICE_OBJECT("bochs-display", BochsDisplay, bochs_props), .category = DEV_DISPLAY,
            .bus = &pci_bus_type, .pci = &bochs_ident, .state = bochs_state, .plug = bochs_plug, .reset = bochs_reset,
            .unplug = bochs_unplug, .loaded = bochs_loaded);
