/* What loops need from the clocks: to hear that virtual time started, stopped or jumped. */
#ifndef OSTRICH_EVENT_CLOCK_PRIV_H
#define OSTRICH_EVENT_CLOCK_PRIV_H

#include "base/list.h"
#include "event/clock.h"

typedef struct ClockWatcher {
    void (*moved)(void *opaque); /* any thread, under the clocks' own lock: must not block */
    void *opaque;
    ListNode node;
} ClockWatcher;

void clocks_watch(Clocks *clocks, ClockWatcher *watcher);
void clocks_unwatch(Clocks *clocks, ClockWatcher *watcher);
/* Whether waiting on the host brings the clock forward: false for stopped or sourced virtual time.
 */
bool clock_advances(const Clocks *clocks, ClockId id);

#endif
