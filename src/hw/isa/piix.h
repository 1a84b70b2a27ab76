/*
 * The PIIX south bridges: 82371SB function 0 (ISA bridge) and 82371AB function 3 (power management,
 * SMBus). The IDE function is the device type "piix3-ide" (see hw/ide/).
 */
#ifndef OSTRICH_HW_ISA_PIIX_H
#define OSTRICH_HW_ISA_PIIX_H

#include "bus/isa.h"
#include "bus/pci.h"

/*
 * Plugs the ISA bridge at slot 1 function 0, makes the ISA bus below it ("isa.0", service "isa") and
 * takes over the root bus's INTx routing: PIRQA..D go to the ISA interrupts that the route registers
 * name. gsi: the 16 inputs of the interrupt controllers (copied).
 */
Error *piix3_create(Machine *machine, PciBus *bus, const IrqLine gsi[16], IsaBus **ret_isa) MUST_USE;

/*
 * Plugs the power-management function ("PIIX4_PM") at slot 1 function 3. sci: ACPI interrupt (ISA IRQ 9),
 * smi: raises SMI on the first CPU. Both are copied; smi may be NULL (no SMM).
 */
Error *piix4_pm_create(Machine *machine, PciBus *bus, const IrqLine *sci, const IrqLine *smi, Device **ret_pm) MUST_USE;
/* Adds an EEPROM of 256 bytes at SMBus address 0x50 + slot (SPD of a memory module). Bytes are copied. */
void piix4_pm_add_spd(Device *pm, unsigned slot, const uint8_t bytes[256]);

#endif
