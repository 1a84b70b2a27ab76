/*
 * The I/O APIC. All functions: any thread.
 */
#ifndef OSTRICH_HW_INTC_IOAPIC_H
#define OSTRICH_HW_INTC_IOAPIC_H

#include "core/dev/dev.h"

#define IOAPIC_SERVICE "ioapic"
#define IOAPIC_PINS 24

typedef struct IoApic IoApic;

IoApic *ioapic_of(Machine *machine); /* NULL when there is none */
/* Input pin; an IrqFn, opaque is the IoApic. */
void ioapic_set_irq(void *ioapic, int pin, int level);
/* Whether a CPU has yet to take the vector that the edge input sends, unless it is masked. */
bool ioapic_edge_waits(IoApic *ioapic, unsigned pin);
/* Changes of the inputs go to fn(opaque, pin, level) instead; NULL: no longer. For tests. Machine lock. */
void ioapic_intercept(IoApic *ioapic, IrqFn *fn, void *opaque);
/* A local APIC ended a level-triggered vector. */
void ioapic_eoi(IoApic *ioapic, uint8_t vector);

#endif
