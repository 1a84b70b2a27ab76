/*
 * PCI configuration mechanism #1: CONFADD at port 0xcf8, CONFDATA at 0xcfc. Embedded in a host bridge.
 * Byte accesses to port 0xcf9 belong to the south bridge's reset control register; CONFADD answers only
 * to double words, so both share the address.
 */
#ifndef OSTRICH_HW_PCI_HOST_CONFIG_PORTS_H
#define OSTRICH_HW_PCI_HOST_CONFIG_PORTS_H

#include "bus/pci.h"

/* The reset control register; the south bridge sets the service PCI_RESET_PORT_SERVICE to one. */
#define PCI_RESET_PORT_SERVICE "port-cf9"
typedef struct PciResetPort {
    uint8_t (*read)(void *opaque);
    void (*write)(void *opaque, uint8_t value);
    void *opaque;
} PciResetPort;

typedef struct PciConfigPorts {
    Device *dev;
    PciBus *root;
    uint32_t confadd;
    MemRegion address, data;
} PciConfigPorts;

/* Maps the ports in the machine's I/O space; the regions belong to dev. */
void pci_config_ports_init(PciConfigPorts *ports, Device *dev, PciBus *root);

#endif
