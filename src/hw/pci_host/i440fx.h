/*
 * Intel 82441FX (i440FX PMC): host bridge, root PCI bus, memory map of a PC with it.
 *
 * Services it sets: "pci" (the root bus), "smram-as" (AddressSpace *: what a CPU in SMM sees).
 */
#ifndef OSTRICH_HW_PCI_HOST_I440FX_H
#define OSTRICH_HW_PCI_HOST_I440FX_H

#include "bus/pci.h"

/*
 * ram: one RAM region with all of the machine's memory (not mapped by the caller; lives as long as the
 * machine). Its first below_4g bytes appear at 0, the rest at 4 GiB. What RAM does not cover below 4 GiB
 * belongs to PCI: *ret_pci_memory is the container to map the firmware ROM (top of 4 GiB and its alias
 * below 1 MiB) and ISA memory in; i440FX's PAM registers decide what is seen at 0xc0000..0xfffff.
 */
Error *i440fx_create(Machine *machine, MemRegion *ram, uint64_t below_4g, PciBus **ret_bus,
                     MemRegion **ret_pci_memory) MUST_USE;
/* Where the firmware and the ACPI tables find the 32-bit hole: [below_4g, 0xfec00000). */
MemRegion *i440fx_pci_memory(Machine *machine);

#endif
