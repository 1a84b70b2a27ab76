/*
 * PCI hot-plug registers of the PC machines, through which ACPI methods learn which slots gained or lost
 * a device and eject one. Embedded in the power management function, which maps the ports.
 */
#ifndef OSTRICH_HW_ACPI_PCI_HOTPLUG_H
#define OSTRICH_HW_ACPI_PCI_HOTPLUG_H

#include "bus/pci.h"

#define ACPI_PCI_HOTPLUG_SERVICE "acpi-pci-hotplug"
enum { ACPI_PCI_HOTPLUG_SIZE = 0x18, ACPI_PCI_HOTPLUG_BUSES = 64 };

/* Arrays have an element for each bus: 0 is the root, then those behind bridges, in the order of slots. */
typedef struct AcpiPciHotplug {
    Device *dev;
    PciBus *root;
    bool behind_bridges;
    uint32_t up[ACPI_PCI_HOTPLUG_BUSES], down[ACPI_PCI_HOTPLUG_BUSES]; /* slots with an event that the guest has not read */
    uint32_t asked[ACPI_PCI_HOTPLUG_BUSES]; /* slots that the user wants empty; a reset empties them */
    uint32_t selector;                      /* the bus of which the registers speak */
    uint8_t index_slot;                     /* whose acpi-index is asked for */
    void (*raise)(void *opaque);
    void *opaque;
    MemRegion io;
} AcpiPciHotplug;

extern const StateField acpi_pci_hotplug_state[];

/* raise(opaque) sets the general-purpose event. io belongs to dev. on_root, behind_bridges: which buses may be changed. */
void acpi_pci_hotplug_init(AcpiPciHotplug *hotplug, Device *dev, PciBus *root, bool on_root, bool behind_bridges,
                           void (*raise)(void *opaque), void *opaque);
/* When all cold-plugged devices are there, before the tables are built: takes in the buses behind bridges. */
void acpi_pci_hotplug_ready(Machine *machine);
void acpi_pci_hotplug_reset(AcpiPciHotplug *hotplug);

#endif
