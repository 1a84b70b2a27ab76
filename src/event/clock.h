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
 * A second counter of guest time, made of another one of the host's (the TSC). It must neither gain on virtual time nor
 * lose when that stops and starts: so both of the host's counters are read at one instant, which switched() is told.
 */
typedef struct ClockFollower {
    uint64_t (*host)(void);
    /* From `host` on it runs or stands. Must not block. */
    void (*switched)(struct ClockFollower *follower, bool running, uint64_t host);
} ClockFollower;
/* One at a time, NULL: none. It is told at once how things are. Machine lock. */
void clocks_set_follower(Clocks *clocks, ClockFollower *follower);
/*
 * Takes virtual time from fn(opaque) instead of the host (qtest, instruction counting); NULL goes
 * back. Whoever moves that time calls clocks_virtual_moved().
 */
void clocks_set_virtual_source(Clocks *clocks, int64_t (*fn)(void *opaque), void *opaque);
void clocks_virtual_moved(Clocks *clocks);
/* Sets virtual time, for a loaded snapshot; the clock must be stopped. */
void clocks_set_virtual(Clocks *clocks, int64_t ns);

#endif
