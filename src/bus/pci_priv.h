/* Shared by the files of the PCI core. */
#ifndef OSTRICH_BUS_PCI_PRIV_H
#define OSTRICH_BUS_PCI_PRIV_H

#include "bus/pci.h"

enum { PCI_STATUS_INTERRUPT = 0x08, PCI_STATUS_CAPS = 0x10 };
enum { PCI_CAP_MSI = 0x05, PCI_CAP_MSIX = 0x11 };

/* Loads the romfile into the ROM BAR; nothing to do without one. */
Error *pci_rom_load(PciDevice *pci) MUST_USE;
void pci_rom_unload(PciDevice *pci);

/* After a configuration write of [addr, addr + size). */
void pci_msi_written(PciDevice *pci, uint32_t addr, unsigned size);
void pci_msi_reset(PciDevice *pci);
void pci_msi_fini(PciDevice *pci);

/* MSI-X table and pending bits; NULL without. */
uint8_t *pci_msix_memory(PciDevice *pci, uint32_t *ret_table_size, uint8_t **ret_pba, uint32_t *ret_pba_size);

void pci_device_save(Device *dev, GByteArray *out);
Error *pci_device_load(Device *dev, const uint8_t **data, const uint8_t *end) MUST_USE;

char *pci_device_path(Device *dev);
char *pci_device_describe(Device *dev);
/* The bus with that number below (or at) root; NULL when there is none. */
PciBus *pci_bus_by_number(PciBus *root, uint8_t number);

static inline PciDevice *pci_of(Device *dev)
{
    return container_of(dev, PciDevice, dev);
}

#endif
