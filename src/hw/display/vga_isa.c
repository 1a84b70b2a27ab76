/*
 * "isa-vga": the standard VGA on the ISA bus. Its linear frame buffer lies at 0xe0000000, as Bochs has it.
 */
#include "bus/isa.h"
#include "hw/display/vga.h"

enum { LFB_BASE = 0xe0000000u };

typedef struct VgaIsa {
    Device dev;
    Vga vga;
    uint32_t vgamem_mb;
} VgaIsa;


static Error *isa_vga_plug(Device *dev)
{
    VgaIsa *card = container_of(dev, VgaIsa, dev);
    IsaBus *isa = isa_bus_of(dev->machine);
    if (!IS_POW2(card->vgamem_mb) || card->vgamem_mb > 256) {
        return error_new("vgamem_mb is %u: must be a power of two up to 256", card->vgamem_mb);
    }
    TRY(vga_init(&card->vga, dev, card->vgamem_mb * MiB));
    vga_map_legacy(&card->vga, isa->memory, isa->io);
    isa_map_memory(dev, &card->vga.vram_region, LFB_BASE);
    /* No ROM BAR: firmware gets the BIOS as a file. */
    machine_set_service(dev->machine, "vga-rom", (void *)"vgabios-isavga.bin");
    return NULL;
}

static void isa_vga_reset(Device *dev)
{
    vga_reset(&container_of(dev, VgaIsa, dev)->vga);
}

static void isa_vga_unplug(Device *dev)
{
    vga_fini(&container_of(dev, VgaIsa, dev)->vga);
}

static Error *isa_vga_loaded(Device *dev)
{
    vga_loaded(&container_of(dev, VgaIsa, dev)->vga);
    return NULL;
}

static const Prop isa_vga_props[] = {
    PROP_U32("vgamem_mb", VgaIsa, vgamem_mb, 8, .help = "video memory, MiB (a power of two)"),
    { 0 },
};

static const StateField isa_vga_state[] = { STATE_STRUCT(VgaIsa, vga, vga_state), { 0 } };

DEVICE_TYPE(vga_isa, DEVICE_OBJECT("isa-vga", VgaIsa, isa_vga_props), .category = DEV_DISPLAY, .bus = &isa_bus_type,
            .state = isa_vga_state, .plug = isa_vga_plug, .reset = isa_vga_reset, .unplug = isa_vga_unplug,
            .loaded = isa_vga_loaded);
