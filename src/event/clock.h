/*
 * The four clocks. Every reading of time in the program goes through here, so that a run can be
 * paused, stepped and replayed.
 *
 * realtime    monotonic host time; runs always; not seen by the guest
 * virtual     guest time; stands still while the machine is stopped
 * host        wall-clock time of the host (since 1970); may jump; for the RTC
 * virtual-rt  as virtual, but also runs while deterministic mode holds virtual back
 */
#ifndef OSTRICH_EVENT_CLOCK_H
#define OSTRICH_EVENT_CLOCK_H

#include "base/base.h"

typedef enum ClockId {
    CLOCK_REALTIME_NS, /* "realtime" */
    CLOCK_VIRTUAL,
    CLOCK_HOST,
    CLOCK_VIRTUAL_RT,
    CLOCK_COUNT,
} ClockId;

typedef struct Clocks Clocks;

/* A machine has one; programs without a machine use clocks_new() and leave virtual running. */
Clocks *clocks_new(void);
void clocks_free(Clocks *clocks);
/* Nanoseconds. Any thread, no lock. */
int64_t clock_now(const Clocks *clocks, ClockId id);
/* Starts and stops the virtual clocks (initially running). Machine lock. Timers are re-armed. */
void clocks_set_running(Clocks *clocks, bool running);
/*
 * Takes virtual time from fn(opaque) instead of the host (qtest, instruction counting); NULL goes
 * back. Whoever moves that time calls clocks_virtual_moved().
 */
void clocks_set_virtual_source(Clocks *clocks, int64_t (*fn)(void *opaque), void *opaque);
void clocks_virtual_moved(Clocks *clocks);
/* Sets virtual time, for a loaded snapshot; the clock must be stopped. */
void clocks_set_virtual(Clocks *clocks, int64_t ns);

#endif
