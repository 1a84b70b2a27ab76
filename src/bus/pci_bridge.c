/*
 * PCI-to-PCI bridges: PCI-to-PCI Bridge Architecture Specification 1.2, 3.2 (type 1 configuration header).
 *
 * What devices behind the bridge decode lies in two containers; the windows of the bridge are aliases of them in the
 * parent bus. Missing: the ISA enable bit, positive decode of VGA palette snooping, error forwarding.
 */
#include "bus/pci_bridge.h"

#include "base/endian.h"

enum {
    BUS_PRIMARY = 0x18, BUS_SECONDARY = 0x19, BUS_SUBORDINATE = 0x1a, IO_BASE = 0x1c, IO_LIMIT = 0x1d,
    SECONDARY_STATUS = 0x1e, MEM_BASE = 0x20, MEM_LIMIT = 0x22, PREF_BASE = 0x24, PREF_LIMIT = 0x26,
    PREF_BASE_UPPER = 0x28, PREF_LIMIT_UPPER = 0x2c, BRIDGE_CONTROL = 0x3e,
};
enum { CONTROL_VGA = 0x08, CONTROL_RESET = 0x40 };
enum { VGA_MEM = 0xa0000, VGA_MEM_SIZE = 0x20000 };

/* Shows [base, limit] of the secondary side at the same addresses of the primary, or nothing. */
static void place(MemRegion *parent, MemRegion *window, bool on, uint64_t base, uint64_t limit)
{
    bool mapped = window->mapped;
    on = on && base <= limit;
    if (mapped && (!on || window->offset != base)) {
        mem_region_unmap(window);
        mapped = false;
    }
    if (on) {
        mem_region_set_alias_offset(window, base);
        mem_region_set_size(window, limit - base + 1);
        if (!mapped) {
            mem_region_map(parent, base, window, 1);
        }
    }
}

static void update_windows(PciBridge *bridge)
{
    PciDevice *pci = &bridge->pci;
    const uint8_t *config = pci->config;
    uint16_t command = ld16_le(config + PCI_COMMAND);
    bool mem = command & PCI_COMMAND_MEMORY, io = command & PCI_COMMAND_IO;
    bool vga = ld16_le(config + BRIDGE_CONTROL) & CONTROL_VGA;
    uint64_t pref_base = (ld16_le(config + PREF_BASE) & 0xfff0ull) << 16, pref_limit;
    pref_base |= (uint64_t)ld32_le(config + PREF_BASE_UPPER) << 32;
    pref_limit = (ld16_le(config + PREF_LIMIT) & 0xfff0ull) << 16 | 0xfffff;
    pref_limit |= (uint64_t)ld32_le(config + PREF_LIMIT_UPPER) << 32;

    mem_update_begin(pci->dev.machine->mem);
    place(pci->bus->memory, &bridge->window_mem, mem, (ld16_le(config + MEM_BASE) & 0xfff0ull) << 16,
          (ld16_le(config + MEM_LIMIT) & 0xfff0ull) << 16 | 0xfffff);
    place(pci->bus->memory, &bridge->window_pref, mem, pref_base, pref_limit);
    place(pci->bus->io, &bridge->window_io, io, (config[IO_BASE] & 0xf0u) << 8, (config[IO_LIMIT] & 0xf0u) << 8 | 0xfff);
    place(pci->bus->memory, &bridge->window_vga, mem && vga, VGA_MEM, VGA_MEM + VGA_MEM_SIZE - 1);
    place(pci->bus->io, &bridge->window_vga_mono, io && vga, 0x3b0, 0x3bb);
    place(pci->bus->io, &bridge->window_vga_color, io && vga, 0x3c0, 0x3df);
    mem_update_end(pci->dev.machine->mem);
}

static void bridge_config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    PciBridge *bridge = container_of(pci, PciBridge, pci);
    if (addr >= 0x40) {
        return;
    }
    uint16_t control = ld16_le(pci->config + BRIDGE_CONTROL), old = bridge->control;
    bridge->control = control;
    bridge->bus.number = pci->config[BUS_SECONDARY];
    update_windows(bridge);
    if ((control & CONTROL_RESET) && !(old & CONTROL_RESET)) {
        bus_reset(&bridge->bus.bus);
    }
}

static void init_header(PciDevice *pci)
{
    uint8_t *config = pci->config, *wmask = pci->wmask;
    memset(wmask + BUS_PRIMARY, 0xff, 4); /* bus numbers, latency timer */
    wmask[IO_BASE] = wmask[IO_LIMIT] = 0xf0;
    st16_le(config + SECONDARY_STATUS, 0x0220);
    st16_le(pci->w1cmask + SECONDARY_STATUS, 0xf900);
    st16_le(wmask + MEM_BASE, 0xfff0);
    st16_le(wmask + MEM_LIMIT, 0xfff0);
    st16_le(wmask + PREF_BASE, 0xfff0);
    st16_le(wmask + PREF_LIMIT, 0xfff0);
    config[PREF_BASE] = config[PREF_LIMIT] = 1; /* 64-bit */
    memset(wmask + PREF_BASE_UPPER, 0xff, 8);
    st16_le(wmask + BRIDGE_CONTROL, 0x0f5f);
}

void pci_bridge_init(PciBridge *bridge)
{
    PciDevice *pci = &bridge->pci;
    MemSystem *mem = pci->dev.machine->mem;
    const char *name = pci->dev.object.parent == object_resolve(pci->dev.machine->root, "/machine/peripheral")
                           ? pci->dev.object.id : NULL;
    init_header(pci);
    mem_region_init(&bridge->memory, mem, "bridge-memory", 0);
    mem_region_init(&bridge->io, mem, "bridge-io", 64 * KiB);
    device_region_own(&pci->dev, &bridge->memory);
    device_region_own(&pci->dev, &bridge->io);
    MemRegion *windows[] = { &bridge->window_mem,  &bridge->window_pref,     &bridge->window_vga,
                             &bridge->window_io,   &bridge->window_vga_mono, &bridge->window_vga_color };
    for (unsigned i = 0; i < ARRAY_SIZE(windows); i++) {
        mem_region_init_alias(windows[i], "bridge-window", i < 3 ? &bridge->memory : &bridge->io, 0, 0x1000);
        device_region_own(&pci->dev, windows[i]);
    }
    bus_init(&bridge->bus.bus, &pci_bus_type, pci->dev.machine, &pci->dev, name);
    bridge->bus.memory = &bridge->memory;
    bridge->bus.io = &bridge->io;
    bridge->bus.bridge = pci;
    bridge->bus.express = pci->bus->express;
    pci->secondary = &bridge->bus;
    pci->config_written = bridge_config_written;
}

void pci_bridge_fini(PciBridge *bridge)
{
    bridge->pci.secondary = NULL;
    if (bridge->bus.bus.type) {
        bus_fini(&bridge->bus.bus);
    }
}
