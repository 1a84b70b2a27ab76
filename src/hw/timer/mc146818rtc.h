/*
 * The MC146818 real-time clock and its CMOS memory, as boards use it. Machine lock.
 */
#ifndef OSTRICH_HW_TIMER_MC146818RTC_H
#define OSTRICH_HW_TIMER_MC146818RTC_H

#include "core/vm/machine.h"

#define RTC_SERVICE "rtc"

typedef struct Rtc Rtc;

Rtc *rtc_of(Machine *machine); /* NULL when there is none */
/* Battery-backed bytes 0x0e..0x7f (0x32 is the century). What the board writes survives reset. */
uint8_t rtc_get_memory(const Rtc *rtc, uint8_t index);
void rtc_set_memory(Rtc *rtc, uint8_t index, uint8_t value);
/* The guest's clock, seconds since 1970 as if it counted UTC. */
int64_t rtc_guest_seconds(Rtc *rtc);
/* Where the interrupt goes instead of ISA IRQ 8 (HPET legacy replacement); an empty line: back. */
void rtc_set_irq_enabled(Rtc *rtc, bool enabled);
/* Reads and acknowledges register C, as if the guest had. */
void rtc_ack(Rtc *rtc);

#endif
