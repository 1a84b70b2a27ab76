/*
 * pvpanic (docs/specs/pvpanic of the interface): one byte by which a guest says that its kernel died, as an I/O port or
 * in a PCI BAR. Reading tells which events are understood, writing reports them. The ISA form has an ACPI device (QEMU0001)
 * and the fw_cfg file etc/pvpanic-port, which the board makes from the service.
 */
#include "base/log.h"
#include "bus/isa.h"
#include "bus/pci.h"

enum { PANICKED = BIT(0), CRASH_LOADED = BIT(1), BAR_SIZE = 16 };

typedef struct PvpanicIsa {
    Device dev;
    uint16_t ioport;
    uint8_t events;
    MemRegion port;
} PvpanicIsa;

typedef struct PvpanicPci {
    PciDevice pci;
    uint8_t events;
    MemRegion bar;
} PvpanicPci;

static void report(Machine *machine, uint8_t events)
{
    if (events & ~(PANICKED | CRASH_LOADED)) {
        guest_error("pvpanic: unknown event 0x%02x", events & ~(PANICKED | CRASH_LOADED));
    }
    if (events & PANICKED) {
        machine_panicked(machine);
    } else if (events & CRASH_LOADED) {
        machine_crash_loaded(machine);
    }
}

/* --- ISA --- */

static uint64_t isa_read(void *opaque, uint64_t addr, unsigned size)
{
    return ((PvpanicIsa *)opaque)->events;
}

static void isa_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PvpanicIsa *panic = opaque;
    report(panic->dev.machine, (uint8_t)value);
}

static const MemOps isa_ops = { .read = isa_read, .write = isa_write, .max = 1 };

static Error *isa_plug(Device *dev)
{
    PvpanicIsa *panic = (PvpanicIsa *)dev;

    if (machine_service(dev->machine, ISA_PVPANIC_SERVICE)) {
        return error_new("there is a pvpanic device already");
    }
    machine_set_service(dev->machine, ISA_PVPANIC_SERVICE, &panic->ioport);
    device_region_io(dev, &panic->port, "pvpanic", 1, &isa_ops);
    isa_map_io(dev, &panic->port, panic->ioport);
    return NULL;
}

static void isa_unplug(Device *dev)
{
    if (machine_service(dev->machine, ISA_PVPANIC_SERVICE) == &((PvpanicIsa *)dev)->ioport) {
        machine_set_service(dev->machine, ISA_PVPANIC_SERVICE, NULL);
    }
}

static const Prop isa_props[] = {
    PROP_U16("ioport", PvpanicIsa, ioport, 0x505, .help = "its port"),
    PROP_U8("events", PvpanicIsa, events, PANICKED | CRASH_LOADED, .help = "bits of what is understood: 1 panic, 2 crash kernel"),
    { 0 },
};
static const StateField isa_state[] = { STATE_NOT(PvpanicIsa, port, "fixed"), { 0 } };

DEVICE_TYPE(pvpanic_isa, DEVICE_OBJECT("pvpanic", PvpanicIsa, isa_props), .desc = "Port for reporting a guest's panic",
            .category = DEV_MISC, .bus = &isa_bus_type, .state = isa_state, .plug = isa_plug, .unplug = isa_unplug);

/* --- PCI --- */

static uint64_t pci_read(void *opaque, uint64_t addr, unsigned size)
{
    return addr == 0 ? ((PvpanicPci *)opaque)->events : 0;
}

static void pci_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PvpanicPci *panic = opaque;
    if (addr == 0) {
        report(panic->pci.dev.machine, (uint8_t)value);
    }
}

static const MemOps pci_ops = { .read = pci_read, .write = pci_write, .max = 1 };

static Error *pci_plug(Device *dev)
{
    PvpanicPci *panic = container_of(dev, PvpanicPci, pci.dev);
    device_region_io(dev, &panic->bar, "pvpanic", BAR_SIZE, &pci_ops);
    pci_bar(&panic->pci, 0, PCI_BAR_MEM32, &panic->bar);
    return NULL;
}

static const Prop pci_props[] = {
    PROP_U8("events", PvpanicPci, events, PANICKED | CRASH_LOADED, .help = "bits of what is understood: 1 panic, 2 crash kernel"),
    { 0 },
};
static const StateField pci_state[] = { STATE_NOT(PvpanicPci, bar, "fixed"), { 0 } };
static const PciIdent pci_ident = { .vendor = 0x1b36, .device = 0x0011, .class_code = 0x088000, .revision = 1 };

DEVICE_TYPE(pvpanic_pci, PCI_DEVICE_OBJECT("pvpanic-pci", PvpanicPci, pci_props), .desc = "Register for reporting a guest's panic",
            .category = DEV_MISC, .bus = &pci_bus_type, .pci = &pci_ident, .state = pci_state, .plug = pci_plug);
