/*
 * ACPI methods by which a guest learns of PCI devices that come and go (ACPI 6.4, 6.3): the
 * registers of hw/acpi/pci_hotplug.h, a device object with _EJ0 for each slot whose device may
 * change, and the general-purpose event that tells. A bus with such slots has the name BSEL, its
 * number in the registers' selector; a bridge's methods are called by those of the bus that it is
 * on.
 */
#include "bus/pci.h"
#include "firmware/acpi.h"

enum { ACPI_PCI_HOTPLUG_PORT = 0xae00 };
#define LOCK "\\_SB.PCI0.BLCK"

static void slot_name(char name[5], unsigned slot)
{
    g_snprintf(name, 5, "S%02X_", slot * 8);
}

/* Whether guests hear of changes on the bus, or behind one of its bridges. */
static bool has_events(const PciBus *bus)
{
    bool events = bus->request_unplug != NULL;
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(bus->devices) && !events; devfn++) {
        const PciDevice *pci = bus->devices[devfn];
        events = pci && pci->secondary && has_events(pci->secondary);
    }
    return events;
}

static const PciBus *bridge_at(const PciBus *bus, unsigned devfn)
{
    const PciDevice *pci = bus->devices[devfn];
    return pci && pci->secondary && has_events(pci->secondary) ? pci->secondary : NULL;
}

/* A slot that is empty, or whose device may be taken out. */
static bool slot_changes(const PciBus *bus, unsigned slot)
{
    const PciDevice *pci = bus->devices[PCI_DEVFN(slot, 0)];
    return PCI_DEVFN(slot, 0) >= bus->devfn_min &&
           (!pci || (device_type(&pci->dev)->hotplug && !pci->secondary));
}

static void region(Aml *a, const char *name, unsigned offset, const char *first, const char *second)
{
    aml_op_region(a, name, AML_SYSTEM_IO, ACPI_PCI_HOTPLUG_PORT + offset, second ? 8 : 4);
    aml_field(a, name, 3);
    aml_field_entry(a, first, 32);
    if (second) {
        aml_field_entry(a, second, 32);
    }
    aml_end(a);
}

/* PCEJ(bus, slot): ejects what is in the slot. */
static void eject_method(Aml *a)
{
    aml_method(a, "PCEJ", 2, true);
    aml_acquire(a, LOCK);
    aml_store(a, AML_ARG0, "BNUM");
    aml_op(a, AML_STORE);
    aml_op(a, AML_SHIFT_LEFT);
    aml_op(a, AML_ONE);
    aml_op(a, AML_ARG1);
    aml_op(a, AML_ZERO);
    aml_path(a, "B0EJ");
    aml_release(a, LOCK);
    aml_return_int(a, 0);
    aml_end(a);
}

static void return_buffer(Aml *a, uint8_t byte)
{
    aml_op(a, AML_RETURN);
    aml_buffer(a, &byte, 1);
}

/*
 * PDSM(uuid, revision, function, bus, slot): device-specific methods of PCI (PCI Firmware 3.2, 4.6). Function 7 gives the number
 * by which an operating system names the device (acpi-index); function 0 says that it is there.
 */
static void index_method(Aml *a)
{
    static const uint8_t uuid[16] = { 0xd0, 0x37, 0xc9, 0xe5, 0x53, 0x35, 0x7a, 0x4d, 0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d };
    enum { FUNCTION_QUERY = 0, FUNCTION_NAME = 7, FUNCTIONS = 1 << FUNCTION_QUERY | 1 << FUNCTION_NAME };

    aml_method(a, "PDSM", 5, true);
    aml_if(a);
    aml_op(a, AML_LNOT);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG0);
    aml_buffer(a, uuid, sizeof(uuid));
    return_buffer(a, 0);
    aml_end(a);
    aml_acquire(a, LOCK);
    aml_store(a, AML_ARG3, "BNUM");
    aml_store(a, AML_ARG4, "PIDX");
    aml_op(a, AML_STORE);
    aml_path(a, "PIDX");
    aml_op(a, AML_LOCAL0);
    aml_release(a, LOCK);
    aml_if(a); /* a device without a number */
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_ZERO);
    return_buffer(a, 0);
    aml_end(a);
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG2);
    aml_int(a, FUNCTION_QUERY);
    return_buffer(a, FUNCTIONS);
    aml_end(a);
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG2);
    aml_int(a, FUNCTION_NAME);
    aml_op(a, AML_STORE);
    aml_package(a, 2);
    aml_int(a, 0);
    aml_string(a, "");
    aml_end(a);
    aml_op(a, AML_LOCAL1);
    aml_op(a, AML_STORE);
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_INDEX);
    aml_op(a, AML_LOCAL1);
    aml_op(a, AML_ZERO);
    aml_op(a, AML_ZERO);
    aml_op(a, AML_RETURN);
    aml_op(a, AML_LOCAL1);
    aml_end(a);
    return_buffer(a, 0);
    aml_end(a);
}

static void slot_device(Aml *a, unsigned slot)
{
    char name[5];
    slot_name(name, slot);
    aml_device(a, name);
    aml_name_int(a, "_SUN", slot);
    aml_name_int(a, "_ADR", slot << 16);
    aml_method(a, "_EJ0", 1, false);
    aml_path(a, "PCEJ");
    aml_path(a, "BSEL");
    aml_path(a, "_SUN");
    aml_end(a);
    aml_method(a, "_DSM", 4, true);
    aml_op(a, AML_RETURN);
    aml_path(a, "PDSM");
    aml_op(a, AML_ARG0);
    aml_op(a, AML_ARG1);
    aml_op(a, AML_ARG2);
    aml_path(a, "BSEL");
    aml_path(a, "_SUN");
    aml_end(a);
    aml_end(a);
}

/* DVNT(slots, what): notifies the slots' devices. */
static void notify_method(Aml *a, const PciBus *bus)
{
    aml_method(a, "DVNT", 2, false);
    for (unsigned slot = 0; slot < 32; slot++) {
        if (slot_changes(bus, slot)) {
            char name[5];
            slot_name(name, slot);
            aml_if(a);
            aml_op(a, AML_AND);
            aml_op(a, AML_ARG0);
            aml_int(a, BIT(slot));
            aml_op(a, AML_ZERO);
            aml_op(a, AML_NOTIFY);
            aml_path(a, name);
            aml_op(a, AML_ARG1);
            aml_end(a);
        }
    }
    aml_end(a);
}

static void notify_of(Aml *a, const char *slots, unsigned what)
{
    aml_path(a, "DVNT");
    aml_path(a, slots);
    aml_int(a, what);
}

/* Reads the events of the bus's own slots and passes them on. */
static void take_events(Aml *a)
{
    aml_op(a, AML_STORE);
    aml_path(a, "BSEL");
    aml_path(a, "BNUM");
    notify_of(a, "PCIU", ACPI_NOTIFY_DEVICE_CHECK);
    notify_of(a, "PCID", ACPI_NOTIFY_EJECT_REQUEST);
}

/* The slots of a bus, its bridges with theirs, and PCNT, which looks for events of all of them. */
static void bus_slots(Aml *a, const PciBus *bus)
{
    bool own = bus->request_unplug != NULL;
    char name[12];
    if (own) {
        aml_name_int(a, "BSEL", bus->hotplug_select);
        for (unsigned slot = 0; slot < 32; slot++) {
            if (slot_changes(bus, slot)) {
                slot_device(a, slot);
            }
        }
        notify_method(a, bus);
    }
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(bus->devices); devfn++) {
        const PciBus *behind = bridge_at(bus, devfn);
        if (behind) {
            g_snprintf(name, sizeof(name), "S%02X_", devfn);
            aml_device(a, name);
            aml_name_int(a, "_ADR", PCI_SLOT(devfn) << 16 | PCI_FUNC(devfn));
            bus_slots(a, behind);
            aml_end(a);
        }
    }
    aml_method(a, "PCNT", 0, false);
    if (own) {
        take_events(a);
    }
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(bus->devices); devfn++) {
        if (bridge_at(bus, devfn)) {
            g_snprintf(name, sizeof(name), "^S%02X_.PCNT", devfn);
            aml_path(a, name);
        }
    }
    aml_end(a);
}

void acpi_pci_hotplug_root(Aml *a, Machine *machine)
{
    const PciBus *root = pci_bus_of(machine);
    if (!root || !has_events(root)) {
        return;
    }
    region(a, "PCST", 0x00, "PCIU", "PCID");
    region(a, "SEJ", 0x08, "B0EJ", NULL);
    region(a, "BNMR", 0x10, "BNUM", "PIDX");
    aml_mutex(a, "BLCK");
    eject_method(a);
    index_method(a);
    bus_slots(a, root);

    aml_device(a, "PHPR");
    aml_name_eisaid(a, "_HID", "PNP0A06");
    aml_name_string(a, "_UID", "PCI hot-plug registers");
    aml_name_int(a, "_STA", 0xb);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_io(a, ACPI_PCI_HOTPLUG_PORT, ACPI_PCI_HOTPLUG_PORT, 1, 0x18);
    aml_resources_end(a);
    aml_end(a);
}

void acpi_pci_hotplug_event(Aml *a, Machine *machine)
{
    const PciBus *root = pci_bus_of(machine);
    if (!root || !has_events(root)) {
        return;
    }
    aml_method(a, "_E01", 0, false);
    aml_acquire(a, LOCK);
    aml_path(a, "\\_SB.PCI0.PCNT");
    aml_release(a, LOCK);
    aml_end(a);
}
