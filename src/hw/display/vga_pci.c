/*
 * "VGA" and "secondary-vga": the standard VGA as a PCI device, with its registers also in memory.
 *
 * Interface: QEMU's docs/specs/standard-vga. BAR0 is video memory, BAR2 (4 KiB): 0x000 EDID, 0x400 the VGA ports
 * 0x3c0 to 0x3df, 0x500 the DISPI registers as an array of words, 0x600 byte order of the frame buffer.
 * The secondary form has no ports and no window at 0xa0000, so a machine may have several.
 */
#include "base/bits.h"
#include "base/endian.h"
#include "bus/pci.h"
#include "hw/display/edid.h"
#include "hw/display/vga.h"

enum { MMIO_SIZE = 0x1000, MMIO_PORTS = 0x400, MMIO_DISPI = 0x500, MMIO_EXT = 0x600 };
enum { EXT_SIZE = 0, EXT_BYTE_ORDER = 4 };
#define ORDER_LITTLE 0x1e1e1e1eu
#define ORDER_BIG    0xbebebebeu

typedef struct VgaPci {
    PciDevice pci;
    Vga vga;
    uint32_t vgamem_mb, xres, yres, xmax, ymax, refresh_rate;
    bool has_mmio, has_edid, has_ext, global_vmstate;
    uint8_t edid[EDID_SIZE];
    MemRegion mmio;
} VgaPci;

static uint64_t ext_read(const VgaPci *card, uint64_t addr)
{
    if (!card->has_ext) {
        return 0xffffffff;
    }
    switch (addr) {
    case EXT_SIZE:
        return 8;
    case EXT_BYTE_ORDER:
        return card->vga.big_endian ? ORDER_BIG : ORDER_LITTLE;
    default:
        return 0;
    }
}

static uint64_t mmio_read(void *opaque, uint64_t addr, unsigned size)
{
    VgaPci *card = opaque;
    if (addr >= MMIO_EXT) {
        return addr < MMIO_EXT + 8 ? ext_read(card, addr - MMIO_EXT) : 0;
    }
    if (addr >= MMIO_DISPI) {
        return vga_vbe_array_read(&card->vga, (unsigned)(addr - MMIO_DISPI), size);
    }
    if (addr >= MMIO_PORTS && addr < MMIO_PORTS + 0x20) {
        uint64_t value = 0;
        for (unsigned i = 0; i < size; i++) {
            value |= (uint64_t)vga_port_read(&card->vga, 0x3c0 + (addr + i - MMIO_PORTS)) << (8 * i);
        }
        return value;
    }
    return card->has_edid && addr + size <= EDID_SIZE ? ld_le(card->edid + addr, size) : 0;
}

static void mmio_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    VgaPci *card = opaque;
    if (addr >= MMIO_EXT) {
        if (addr == MMIO_EXT + EXT_BYTE_ORDER && card->has_ext && (value == ORDER_BIG || value == ORDER_LITTLE)) {
            card->vga.big_endian = value == ORDER_BIG;
        }
    } else if (addr >= MMIO_DISPI) {
        vga_vbe_array_write(&card->vga, (unsigned)(addr - MMIO_DISPI), (uint32_t)value, size);
    } else if (addr >= MMIO_PORTS && addr < MMIO_PORTS + 0x20) {
        for (unsigned i = 0; i < size; i++) {
            vga_port_write(&card->vga, 0x3c0 + (addr + i - MMIO_PORTS), (uint8_t)(value >> (8 * i)));
        }
    }
}

static const MemOps mmio_ops = { .read = mmio_read, .write = mmio_write, .min = 1, .max = 4 };

static void build_edid(VgaPci *card)
{
    EdidInfo info = { .width = card->xres, .height = card->yres, .max_width = card->xmax, .max_height = card->ymax,
                      .refresh_mhz = card->refresh_rate };
    edid_build(&info, card->edid);
}

static Error *card_plug(Device *dev, bool legacy)
{
    VgaPci *card = container_of(dev, VgaPci, pci.dev);
    uint64_t vram = 1;
    if (card->vgamem_mb < 1 || card->vgamem_mb > 512) {
        return error_new("vgamem_mb is %u: must be 1 to 512", card->vgamem_mb);
    }
    while (vram < card->vgamem_mb) {
        vram *= 2;
    }
    if (card->xres == 0 || card->yres == 0) {
        card->xres = 1280;
        card->yres = 800;
    }
    TRY(vga_init(&card->vga, dev, vram * MiB));
    pci_bar(&card->pci, 0, PCI_BAR_PREFETCH, &card->vga.vram_region);
    if (card->has_mmio) {
        build_edid(card);
        mem_region_init_io(&card->mmio, dev->machine->mem, "vga-mmio", MMIO_SIZE, &mmio_ops, card);
        device_region_own(dev, &card->mmio);
        pci_bar(&card->pci, 2, PCI_BAR_MEM32, &card->mmio);
    }
    if (legacy) {
        vga_map_legacy(&card->vga, card->pci.bus->memory, card->pci.bus->io);
    }
    return NULL;
}

static Error *vga_plug(Device *dev)
{
    return card_plug(dev, true);
}

static Error *secondary_plug(Device *dev)
{
    container_of(dev, VgaPci, pci.dev)->has_mmio = true;
    return card_plug(dev, false);
}

static void card_reset(Device *dev)
{
    vga_reset(&container_of(dev, VgaPci, pci.dev)->vga);
}

static void card_unplug(Device *dev)
{
    vga_fini(&container_of(dev, VgaPci, pci.dev)->vga);
}

static Error *card_loaded(Device *dev)
{
    vga_loaded(&container_of(dev, VgaPci, pci.dev)->vga);
    return NULL;
}

#define COMMON_PROPS                                                                               \
    PROP_U32("vgamem_mb", VgaPci, vgamem_mb, 16, .help = "video memory, MiB (a power of two)"),    \
    PROP_BOOL("qemu-extended-regs", VgaPci, has_ext, true, .help = "on/off"),                      \
    PROP_BOOL("edid", VgaPci, has_edid, true, .help = "on/off"),                                   \
    PROP_U32("xres", VgaPci, xres, 0, .help = "preferred width"),                                  \
    PROP_U32("yres", VgaPci, yres, 0, .help = "preferred height"),                                 \
    PROP_U32("xmax", VgaPci, xmax, 0, .help = "largest width"),                                    \
    PROP_U32("ymax", VgaPci, ymax, 0, .help = "largest height"),                                   \
    PROP_U32("refresh_rate", VgaPci, refresh_rate, 0, .help = "thousandths of Hz"),                \
    PROP_BOOL("big-endian-framebuffer", VgaPci, vga.big_endian, false, .flags = PROP_RUNTIME)

static const Prop vga_props[] = {
    COMMON_PROPS,
    PROP_BOOL("mmio", VgaPci, has_mmio, true, .help = "on/off"),
    PROP_BOOL("global-vmstate", VgaPci, global_vmstate, false, .help = "accepted for old machine versions"),
    { 0 },
};
static const Prop secondary_props[] = { COMMON_PROPS, { 0 } };

static const StateField card_state[] = {
    STATE_STRUCT(VgaPci, vga, vga_state),
    STATE_BOOL(VgaPci, vga.big_endian),
    STATE_NOT(VgaPci, edid, "from the properties"),
    STATE_NOT(VgaPci, mmio, "fixed"),
    STATE_NOT(VgaPci, has_mmio, "configuration"),
    STATE_NOT(VgaPci, global_vmstate, "configuration"),
    { 0 },
};

static const PciIdent vga_ident = {
    .vendor = 0x1234, .device = 0x1111, .revision = 2, .class_code = 0x030000, .rom = "vgabios-stdvga.bin",
};
static const PciIdent secondary_ident = {
    .vendor = 0x1234, .device = 0x1111, .revision = 2, .class_code = 0x038000,
};

DEVICE_TYPE(vga_pci, PCI_DEVICE_OBJECT("VGA", VgaPci, vga_props), .category = DEV_DISPLAY, .bus = &pci_bus_type,
            .pci = &vga_ident, .state = card_state, .plug = vga_plug, .reset = card_reset, .unplug = card_unplug,
            .loaded = card_loaded);
DEVICE_TYPE(vga_secondary, PCI_DEVICE_OBJECT("secondary-vga", VgaPci, secondary_props), .category = DEV_DISPLAY,
            .bus = &pci_bus_type, .pci = &secondary_ident, .state = card_state, .plug = secondary_plug,
            .reset = card_reset, .unplug = card_unplug, .loaded = card_loaded);
