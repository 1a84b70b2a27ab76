/*
 * The 8254 programmable interval timer, as other parts of a PC use it. Machine lock.
 */
#ifndef OSTRICH_HW_TIMER_I8254_H
#define OSTRICH_HW_TIMER_I8254_H

#include "core/dev/dev.h"

#define I8254_SERVICE "i8254"
#define I8254_HZ 1193182

typedef struct I8254 I8254;

I8254 *i8254_of(Machine *machine); /* NULL when there is none */
/* The gate input of channel 2 (port 61h bit 0). Gates 0 and 1 are tied high. */
void i8254_set_gate(I8254 *pit, unsigned channel, bool level);
bool i8254_gate(const I8254 *pit, unsigned channel);
bool i8254_out(const I8254 *pit, unsigned channel);
unsigned i8254_mode(const I8254 *pit, unsigned channel);
/* Ticks of a period of the channel, 1 to 65536. */
uint32_t i8254_period(const I8254 *pit, unsigned channel);
/* Takes IRQ0 away from channel 0 (HPET legacy replacement). */
void i8254_set_irq_enabled(I8254 *pit, bool enabled);

#endif
