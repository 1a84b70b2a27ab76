/*
 * The cascaded pair of 8259A interrupt controllers. All functions: any thread.
 */
#ifndef OSTRICH_HW_INTC_I8259_H
#define OSTRICH_HW_INTC_I8259_H

#include "core/dev/dev.h"

#define I8259_SERVICE "i8259"

typedef struct I8259 I8259;

/* NULL when the machine has none. */
I8259 *i8259_of(Machine *machine);
/* Input n (0..15; 2 is the cascade and is ignored). An IrqFn; opaque is the I8259. */
void i8259_set_irq(void *pic, int n, int level);
/* Where INTR goes. It is driven with the controller's lock (rank IRQCHIP) held. */
void i8259_connect(I8259 *pic, IrqLine intr);
/* Whether an edge of input n has not been acknowledged, nor is it masked. */
bool i8259_edge_waits(I8259 *pic, int n);
/* Whether INTR is up. */
bool i8259_pending(I8259 *pic);
/* The two INTA cycles: acknowledges and gives the vector (the spurious one when nothing is pending). */
uint8_t i8259_take(I8259 *pic);

#endif
