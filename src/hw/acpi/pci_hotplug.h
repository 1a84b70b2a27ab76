/*
 * PCI hot-plug registers of the PC machines, through which ACPI methods learn which slots gained or lost
 * a device and eject one. Embedded in the power management function, which maps the ports.
 */
#ifndef OSTRICH_HW_ACPI_PCI_HOTPLUG_H
#define OSTRICH_HW_ACPI_PCI_HOTPLUG_H

#include "bus/pci.h"

enum { ACPI_PCI_HOTPLUG_SIZE = 0x18 };

typedef struct AcpiPciHotplug {
    Device *dev;
    PciBus *root;
    bool enabled;
    uint32_t up, down;  /* slots with an event that the guest has not read */
    uint32_t asked;     /* slots that the user wants empty; a reset empties them */
    uint32_t selector;  /* bus: 0 is the root, others have no slots here */
    uint8_t index_slot; /* whose acpi-index is asked for */
    void (*raise)(void *opaque);
    void *opaque;
    MemRegion io;
} AcpiPciHotplug;

extern const StateField acpi_pci_hotplug_state[];

/* raise(opaque) sets the general-purpose event. io belongs to dev. enabled: the root bus may be changed. */
void acpi_pci_hotplug_init(AcpiPciHotplug *hotplug, Device *dev, PciBus *root, bool enabled,
                           void (*raise)(void *opaque), void *opaque);
void acpi_pci_hotplug_reset(AcpiPciHotplug *hotplug);

#endif
