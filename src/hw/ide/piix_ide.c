/*
 * "piix3-ide" and "piix4-ide": the IDE function of the PIIX south bridges, two channels at the legacy ports.
 *
 * 82371SB data sheet (order number 290550), 2.3: registers of function 1. IDETIM's decode enable bits switch a
 * channel's ports; timings are stored without effect.
 */
#include "base/endian.h"
#include "bus/isa.h"
#include "hw/ide/bmdma.h"

enum { IDETIM = 0x40, IDETIM_DECODE = 0x8000, CHANNELS = 2 };

static const struct {
    uint16_t command, control;
    unsigned irq;
} legacy[CHANNELS] = { { 0x1f0, 0x3f6, 14 }, { 0x170, 0x376, 15 } };

typedef struct PiixIde {
    PciDevice pci;
    BmDma channel[CHANNELS];
    MemRegion bus_master;
    MemRegion command[CHANNELS], control[CHANNELS];
} PiixIde;

static uint64_t bus_master_read(void *opaque, uint64_t addr, unsigned size)
{
    PiixIde *piix = opaque;
    return bmdma_read(&piix->channel[addr / BMDMA_SIZE], addr % BMDMA_SIZE, size);
}

static void bus_master_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PiixIde *piix = opaque;
    bmdma_write(&piix->channel[addr / BMDMA_SIZE], addr % BMDMA_SIZE, (uint32_t)value, size);
}

static const MemOps bus_master_ops = { .read = bus_master_read, .write = bus_master_write, .min = 1, .max = 4 };

static void update_decode(PiixIde *piix)
{
    mem_update_begin(piix->pci.dev.machine->mem);
    for (unsigned n = 0; n < CHANNELS; n++) {
        bool on = ld16_le(piix->pci.config + IDETIM + 2 * n) & IDETIM_DECODE;
        mem_region_set_enabled(&piix->command[n], on);
        mem_region_set_enabled(&piix->control[n], on);
    }
    mem_update_end(piix->pci.dev.machine->mem);
}

static void piix_ide_config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    if (addr < IDETIM + 4 && IDETIM < addr + size) {
        update_decode(container_of(pci, PiixIde, pci));
    }
}

static void piix_ide_reset(Device *dev)
{
    PiixIde *piix = container_of(dev, PiixIde, pci.dev);
    memset(piix->pci.config + 0x40, 0, 256 - 0x40);
    /* Firmware that does not know this chip finds both channels decoded, as a PC has them. */
    st16_le(piix->pci.config + IDETIM, IDETIM_DECODE);
    st16_le(piix->pci.config + IDETIM + 2, IDETIM_DECODE);
    update_decode(piix);
    for (unsigned n = 0; n < CHANNELS; n++) {
        bmdma_reset(&piix->channel[n]);
    }
}

static Error *piix_ide_plug(Device *dev)
{
    PiixIde *piix = container_of(dev, PiixIde, pci.dev);
    PciDevice *pci = &piix->pci;
    MemSystem *mem = dev->machine->mem;
    st16_le(pci->config + PCI_STATUS, 0x0280);
    pci->config_written = piix_ide_config_written;
    mem_region_init_io(&piix->bus_master, mem, "piix-bmdma", CHANNELS * BMDMA_SIZE, &bus_master_ops, piix);
    device_region_own(dev, &piix->bus_master);
    pci_bar(pci, 4, PCI_BAR_IO, &piix->bus_master);
    for (unsigned n = 0; n < CHANNELS; n++) {
        BmDma *channel = &piix->channel[n];
        IrqLine *irq = isa_irq(dev, legacy[n].irq);
        if (!irq) {
            return error_new("%s: needs an ISA bus for its interrupts", device_label(dev));
        }
        channel->irq = *irq;
        bmdma_init(channel, pci, dev, n, NULL);
        mem_region_init_io(&piix->command[n], mem, "ide-command", 8, &ide_command_ops, &channel->ide);
        mem_region_init_io(&piix->control[n], mem, "ide-control", 1, &ide_control_ops, &channel->ide);
        device_region_own(dev, &piix->command[n]);
        device_region_own(dev, &piix->control[n]);
        mem_region_map(pci->bus->io, legacy[n].command, &piix->command[n], 0);
        mem_region_map(pci->bus->io, legacy[n].control, &piix->control[n], 0);
    }
    return NULL;
}

static const StateField piix_ide_state[] = {
    STATE_STRUCT_ARRAY(PiixIde, channel, bmdma_state),
    STATE_NOT(PiixIde, bus_master, "fixed"),
    STATE_NOT(PiixIde, command, "from the registers"),
    STATE_NOT(PiixIde, control, "from the registers"),
    { 0 },
};

static Error *piix_ide_loaded(Device *dev)
{
    update_decode(container_of(dev, PiixIde, pci.dev));
    return NULL;
}

static const PciIdent piix3_ident = { .vendor = 0x8086, .device = 0x7010, .class_code = 0x010180 };
static const PciIdent piix4_ident = { .vendor = 0x8086, .device = 0x7111, .class_code = 0x010180 };

DEVICE_TYPE(piix3_ide, PCI_DEVICE_OBJECT("piix3-ide", PiixIde, NULL), .category = DEV_STORAGE, .bus = &pci_bus_type,
            .pci = &piix3_ident, .state = piix_ide_state, .plug = piix_ide_plug, .reset = piix_ide_reset,
            .loaded = piix_ide_loaded);
DEVICE_TYPE(piix4_ide, PCI_DEVICE_OBJECT("piix4-ide", PiixIde, NULL), .category = DEV_STORAGE, .bus = &pci_bus_type,
            .pci = &piix4_ident, .state = piix_ide_state, .plug = piix_ide_plug, .reset = piix_ide_reset,
            .loaded = piix_ide_loaded);
