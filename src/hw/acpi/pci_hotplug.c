/*
 * PCI hot-plug registers that the machine's own ACPI tables use (an interface between this program and the
 * AML it hands out; the layout is the one that firmware and other emulators document):
 *   0x00 PCI_UP    slots with a new device; a read takes the events
 *   0x04 PCI_DOWN  slots whose device shall go; a read takes the events
 *   0x08 EJECT     write: slots to eject; read: features
 *   0x0c RMV       slots whose device may go
 *   0x10 BSEL      which bus the others speak of
 *   0x14 AIDX      write: slot; read: its acpi-index
 */
#include "hw/acpi/pci_hotplug.h"

enum { REG_UP = 0x00, REG_DOWN = 0x04, REG_EJECT = 0x08, REG_RMV = 0x0c, REG_BSEL = 0x10, REG_AIDX = 0x14 };
enum { FEATURE_ACPI_INDEX = 2 };

static uint32_t removable_slots(AcpiPciHotplug *hotplug)
{
    uint32_t slots = 0;
    for (unsigned slot = 0; slot < 32; slot++) {
        PciDevice *pci = hotplug->root->devices[PCI_DEVFN(slot, 0)];
        if (!pci || device_type(&pci->dev)->hotplug) {
            slots |= BIT(slot);
        }
    }
    return slots;
}

/* Ejects all functions of the slot. */
static void eject_slot(AcpiPciHotplug *hotplug, unsigned slot)
{
    hotplug->asked &= ~BIT(slot);
    for (int fn = 7; fn >= 0; fn--) {
        PciDevice *pci = hotplug->root->devices[PCI_DEVFN(slot, fn)];
        if (pci && device_type(&pci->dev)->hotplug) {
            device_unplug(&pci->dev);
        }
    }
}

static uint64_t hotplug_read(void *opaque, uint64_t addr, unsigned size)
{
    AcpiPciHotplug *hotplug = opaque;
    uint32_t value = 0;
    if (hotplug->selector != 0) {
        return addr == REG_BSEL ? hotplug->selector : 0;
    }
    switch (addr) {
    case REG_UP:
        value = hotplug->up;
        hotplug->up = 0;
        return value;
    case REG_DOWN:
        value = hotplug->down;
        hotplug->down = 0;
        return value;
    case REG_EJECT:
        return FEATURE_ACPI_INDEX;
    case REG_RMV:
        return removable_slots(hotplug);
    case REG_AIDX: {
        PciDevice *pci = hotplug->root->devices[PCI_DEVFN(hotplug->index_slot, 0)];
        return pci ? pci->acpi_index : 0;
    }
    default:
        return 0;
    }
}

static void hotplug_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    AcpiPciHotplug *hotplug = opaque;
    switch (addr) {
    case REG_EJECT:
        for (unsigned slot = 0; slot < 32 && hotplug->selector == 0; slot++) {
            if (value & BIT(slot)) {
                eject_slot(hotplug, slot);
            }
        }
        break;
    case REG_BSEL:
        hotplug->selector = (uint32_t)value;
        break;
    case REG_AIDX:
        hotplug->index_slot = value & 31;
        break;
    default:
        break;
    }
}

static const MemOps hotplug_ops = { .read = hotplug_read, .write = hotplug_write, .min = 4, .max = 4 };

static void root_changed(void *opaque, PciDevice *pci, bool added)
{
    AcpiPciHotplug *hotplug = opaque;
    if (added && pci->dev.hotplugged) {
        hotplug->up |= BIT(PCI_SLOT(pci->devfn));
        hotplug->raise(hotplug->opaque);
    } else if (!added) {
        hotplug->up &= ~BIT(PCI_SLOT(pci->devfn));
        hotplug->down &= ~BIT(PCI_SLOT(pci->devfn));
    }
}

/* The guest answers by ejecting the slot. */
static Error *request_eject(void *opaque, PciDevice *pci)
{
    AcpiPciHotplug *hotplug = opaque;
    hotplug->asked |= BIT(PCI_SLOT(pci->devfn));
    hotplug->down |= BIT(PCI_SLOT(pci->devfn));
    hotplug->raise(hotplug->opaque);
    return NULL;
}

/* The bus outlives its hot-plug controller when a machine is taken down. */
static void forget_root(void *opaque)
{
    PciBus *root = ((AcpiPciHotplug *)opaque)->root;
    root->hotplug = NULL;
    root->request_unplug = NULL;
    root->hotplug_opaque = NULL;
}

void acpi_pci_hotplug_init(AcpiPciHotplug *hotplug, Device *dev, PciBus *root, bool enabled,
                           void (*raise)(void *opaque), void *opaque)
{
    hotplug->dev = dev;
    hotplug->root = root;
    hotplug->enabled = enabled;
    hotplug->raise = raise;
    hotplug->opaque = opaque;
    mem_region_init_io(&hotplug->io, dev->machine->mem, "acpi-pci-hotplug", ACPI_PCI_HOTPLUG_SIZE, &hotplug_ops,
                       hotplug);
    device_region_own(dev, &hotplug->io);
    if (enabled) {
        root->hotplug = root_changed;
        root->request_unplug = request_eject;
        root->hotplug_opaque = hotplug;
        root->bus.hotplug = true;
        device_on_unplug(dev, forget_root, hotplug);
    }
}

void acpi_pci_hotplug_reset(AcpiPciHotplug *hotplug)
{
    hotplug->up = hotplug->down = hotplug->selector = 0;
    hotplug->index_slot = 0;
    for (unsigned slot = 0; slot < 32; slot++) {
        if (hotplug->asked & BIT(slot)) { /* a reset completes what was asked for */
            eject_slot(hotplug, slot);
        }
    }
    hotplug->asked = 0;
}

const StateField acpi_pci_hotplug_state[] = {
    STATE_U32(AcpiPciHotplug, up),
    STATE_U32(AcpiPciHotplug, down),
    STATE_U32(AcpiPciHotplug, asked),
    STATE_U32(AcpiPciHotplug, selector),
    STATE_U8(AcpiPciHotplug, index_slot),
    STATE_NOT(AcpiPciHotplug, dev, "wiring"),
    STATE_NOT(AcpiPciHotplug, root, "wiring"),
    STATE_NOT(AcpiPciHotplug, enabled, "configuration"),
    STATE_NOT(AcpiPciHotplug, raise, "wiring"),
    STATE_NOT(AcpiPciHotplug, opaque, "wiring"),
    STATE_NOT(AcpiPciHotplug, io, "mapped by the owner"),
    { 0 },
};
