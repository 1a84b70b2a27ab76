/*
 * PCI hot-plug registers that the machine's own ACPI tables use (an interface between this program
 * and the AML it hands out; the layout is the one that firmware and other emulators document): 0x00
 * PCI_UP    slots with a new device; a read takes the events 0x04 PCI_DOWN  slots whose device
 * shall go; a read takes the events 0x08 EJECT     write: slots to eject; read: features 0x0c RMV
 * slots whose device may go 0x10 BSEL      which bus the others speak of 0x14 AIDX      write:
 * slot; read: its acpi-index
 */
#include "hw/acpi/pci_hotplug.h"

enum {
    REG_UP = 0x00,
    REG_DOWN = 0x04,
    REG_EJECT = 0x08,
    REG_RMV = 0x0c,
    REG_BSEL = 0x10,
    REG_AIDX = 0x14
};
enum { FEATURE_ACPI_INDEX = 2 };

static AcpiPciHotplug *of_machine(Machine *machine)
{
    return machine_service(machine, ACPI_PCI_HOTPLUG_SERVICE);
}

static bool has_events(const PciBus *bus)
{
    return bus->request_unplug != NULL;
}

/* The bus with that number among `bus` and those behind its bridges; NULL: none. */
static PciBus *find_bus(PciBus *bus, uint32_t select)
{
    if (has_events(bus) && bus->hotplug_select == select) {
        return bus;
    }
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(bus->devices); devfn++) {
        PciDevice *pci = bus->devices[devfn];
        PciBus *found = pci && pci->secondary ? find_bus(pci->secondary, select) : NULL;
        if (found) {
            return found;
        }
    }
    return NULL;
}

static uint32_t removable_slots(const PciBus *bus)
{
    uint32_t slots = 0;
    for (unsigned slot = 0; slot < 32; slot++) {
        PciDevice *pci = bus->devices[PCI_DEVFN(slot, 0)];
        if (!pci || device_type(&pci->dev)->hotplug) {
            slots |= BIT(slot);
        }
    }
    return slots;
}

/* Ejects all functions of the slot. */
static void eject_slot(AcpiPciHotplug *hotplug, PciBus *bus, unsigned slot)
{
    hotplug->asked[bus->hotplug_select] &= ~BIT(slot);
    for (int fn = 7; fn >= 0; fn--) {
        PciDevice *pci = bus->devices[PCI_DEVFN(slot, fn)];
        if (pci && device_type(&pci->dev)->hotplug) {
            device_unplug(&pci->dev);
        }
    }
}

static uint32_t take(uint32_t *events)
{
    uint32_t value = *events;
    *events = 0;
    return value;
}

static uint64_t hotplug_read(void *opaque, uint64_t addr, unsigned size)
{
    AcpiPciHotplug *hotplug = opaque;
    if (addr == REG_BSEL) {
        return hotplug->selector;
    }
    PciBus *bus = find_bus(hotplug->root, hotplug->selector);
    if (!bus) {
        return 0;
    }
    switch (addr) {
    case REG_UP:
        return take(&hotplug->up[bus->hotplug_select]);
    case REG_DOWN:
        return take(&hotplug->down[bus->hotplug_select]);
    case REG_EJECT:
        return FEATURE_ACPI_INDEX;
    case REG_RMV:
        return removable_slots(bus);
    case REG_AIDX: {
        PciDevice *pci = bus->devices[PCI_DEVFN(hotplug->index_slot, 0)];
        return pci ? pci->acpi_index : 0;
    }
    default:
        return 0;
    }
}

static void hotplug_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    AcpiPciHotplug *hotplug = opaque;
    PciBus *bus;
    switch (addr) {
    case REG_EJECT:
        bus = find_bus(hotplug->root, hotplug->selector);
        for (unsigned slot = 0; slot < 32 && bus; slot++) {
            if (value & BIT(slot)) {
                eject_slot(hotplug, bus, slot);
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

static const MemOps hotplug_ops = {
    .read = hotplug_read, .write = hotplug_write, .min = 4, .max = 4
};

static void bus_changed(void *opaque, PciDevice *pci, bool added)
{
    AcpiPciHotplug *hotplug = opaque;
    unsigned select = pci->bus->hotplug_select, slot = PCI_SLOT(pci->devfn);
    if (added && pci->dev.hotplugged) {
        hotplug->up[select] |= BIT(slot);
        hotplug->raise(hotplug->opaque);
    } else if (!added) {
        hotplug->up[select] &= ~BIT(slot);
        hotplug->down[select] &= ~BIT(slot);
    }
}

/* The guest answers by ejecting the slot. */
static Error *request_eject(void *opaque, PciDevice *pci)
{
    AcpiPciHotplug *hotplug = opaque;
    unsigned select = pci->bus->hotplug_select, slot = PCI_SLOT(pci->devfn);
    hotplug->asked[select] |= BIT(slot);
    hotplug->down[select] |= BIT(slot);
    hotplug->raise(hotplug->opaque);
    return NULL;
}

static void watch(AcpiPciHotplug *hotplug, PciBus *bus, unsigned select)
{
    bus->hotplug = bus_changed;
    bus->request_unplug = request_eject;
    bus->hotplug_opaque = hotplug;
    bus->hotplug_select = (uint8_t)select;
    bus->bus.hotplug = true;
}

static void forget(PciBus *bus)
{
    bus->hotplug = NULL;
    bus->request_unplug = NULL;
    bus->hotplug_opaque = NULL;
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(bus->devices); devfn++) {
        PciDevice *pci = bus->devices[devfn];
        if (pci && pci->secondary) {
            forget(pci->secondary);
        }
    }
}

/* Buses outlive their hot-plug controller when a machine is taken down. */
static void forget_all(void *opaque)
{
    AcpiPciHotplug *hotplug = opaque;
    forget(hotplug->root);
    machine_set_service(hotplug->dev->machine, ACPI_PCI_HOTPLUG_SERVICE, NULL);
}

void acpi_pci_hotplug_init(AcpiPciHotplug *hotplug, Device *dev, PciBus *root, bool on_root,
                           bool behind_bridges, void (*raise)(void *opaque), void *opaque)
{
    hotplug->dev = dev;
    hotplug->root = root;
    hotplug->behind_bridges = behind_bridges;
    hotplug->raise = raise;
    hotplug->opaque = opaque;
    mem_region_init_io(&hotplug->io, dev->machine->mem, "acpi-pci-hotplug", ACPI_PCI_HOTPLUG_SIZE,
                       &hotplug_ops, hotplug);
    device_region_own(dev, &hotplug->io);
    if (on_root) {
        watch(hotplug, root, 0);
    }
    machine_set_service(dev->machine, ACPI_PCI_HOTPLUG_SERVICE, hotplug);
    device_on_unplug(dev, forget_all, hotplug);
}

/* Numbers the buses below; returns the next free number. */
static unsigned watch_bridges(AcpiPciHotplug *hotplug, PciBus *bus, unsigned next)
{
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(bus->devices); devfn++) {
        PciDevice *pci = bus->devices[devfn];
        if (pci && pci->secondary && next < ACPI_PCI_HOTPLUG_BUSES) {
            watch(hotplug, pci->secondary, next);
            next = watch_bridges(hotplug, pci->secondary, next + 1);
        }
    }
    return next;
}

void acpi_pci_hotplug_ready(Machine *machine)
{
    AcpiPciHotplug *hotplug = of_machine(machine);
    if (hotplug && hotplug->behind_bridges) {
        watch_bridges(hotplug, hotplug->root, 1);
    }
}

void acpi_pci_hotplug_reset(AcpiPciHotplug *hotplug)
{
    hotplug->selector = 0;
    hotplug->index_slot = 0;
    for (unsigned select = 0; select < ACPI_PCI_HOTPLUG_BUSES; select++) {
        hotplug->up[select] = hotplug->down[select] = 0;
        PciBus *bus = hotplug->asked[select] ? find_bus(hotplug->root, select) : NULL;
        for (unsigned slot = 0; slot < 32 && bus; slot++) {
            if (hotplug->asked[select] & BIT(slot)) { /* a reset completes what was asked for */
                eject_slot(hotplug, bus, slot);
            }
        }
        hotplug->asked[select] = 0;
    }
}

const StateField acpi_pci_hotplug_state[] = {
    STATE_U32_ARRAY(AcpiPciHotplug, up),
    STATE_U32_ARRAY(AcpiPciHotplug, down),
    STATE_U32_ARRAY(AcpiPciHotplug, asked),
    STATE_U32(AcpiPciHotplug, selector),
    STATE_U8(AcpiPciHotplug, index_slot),
    STATE_NOT(AcpiPciHotplug, dev, "wiring"),
    STATE_NOT(AcpiPciHotplug, root, "wiring"),
    STATE_NOT(AcpiPciHotplug, behind_bridges, "configuration"),
    STATE_NOT(AcpiPciHotplug, raise, "wiring"),
    STATE_NOT(AcpiPciHotplug, opaque, "wiring"),
    STATE_NOT(AcpiPciHotplug, io, "mapped by the owner"),
    { 0 },
};
