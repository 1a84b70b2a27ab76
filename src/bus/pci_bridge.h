/*
 * PCI-to-PCI bridges: the part that all of them share. Embedded first in a bridge's device, whose class code
 * must be 0604h.
 */
#ifndef OSTRICH_BUS_PCI_BRIDGE_H
#define OSTRICH_BUS_PCI_BRIDGE_H

#include "bus/pci.h"

typedef struct PciBridge {
    PciDevice pci;
    PciBus bus;
    MemRegion memory, io; /* the secondary side */
    MemRegion window_mem, window_pref, window_io; /* of it, as seen on the primary side */
    MemRegion window_vga, window_vga_mono, window_vga_color;
    uint16_t control;     /* bridge control as it was last looked at */
} PciBridge;

/* In plug. The secondary bus is named after the device's id. Claims config_written. */
void pci_bridge_init(PciBridge *bridge);
/* In unplug. */
void pci_bridge_fini(PciBridge *bridge);

#endif
