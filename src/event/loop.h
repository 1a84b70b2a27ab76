/*
 * Event loops: file descriptors, timers, deferred work. A loop belongs to the thread that calls
 * loop_run() or loop_run_once().
 *
 * A loop may have a domain lock: its callbacks run with that lock held, and it is released while
 * the loop sleeps. The main loop has the machine lock; the vCPU threads take the same lock for
 * devices. Rule: timers, fd handlers and work of one loop never run at the same time.
 *
 * loop_add_fd, loop_mod_fd, loop_del_fd, timer_set, timer_cancel, work_schedule: any thread. When
 * timer_cancel(), work_cancel() or loop_del_fd() returns on the loop's own thread, or to a caller
 * that holds the loop's lock, the callback is not running and will not run. Callbacks may finish
 * their own timer, work or source.
 */
#ifndef OSTRICH_EVENT_LOOP_H
#define OSTRICH_EVENT_LOOP_H

#include "base/list.h"
#include "base/lock.h"
#include "event/clock.h"

typedef struct Loop Loop;

typedef void LoopFn(void *opaque);

/* lock may be NULL; lock and clocks are borrowed until loop_free(). */
Loop *loop_new(const char *name, Clocks *clocks, Lock *lock);
/* Nothing may be registered any more, except finished work. */
void loop_free(Loop *loop);
/* Runs until loop_quit(). The caller does not hold the loop's lock. */
void loop_run(Loop *loop);
/* Waits for one round of events, at most timeout_ns (negative: no limit). True when something ran.
 */
bool loop_run_once(Loop *loop, int64_t timeout_ns);
/* Any thread, also from a signal handler. */
void loop_quit(Loop *loop);
bool loop_is_quitting(const Loop *loop);
bool loop_is_mine(const Loop *loop); /* whether the calling thread runs it */
/* The calling thread will run the loop, which another one made. */
void loop_claim(Loop *loop);
/*
 * Before it sleeps the loop looks for events for up to max_ns (0: not at all). The time adapts: it grows by the factor
 * `grow` (0: 2) when events come soon, and is divided by `shrink` (0: back to nothing) when they do not. Any thread, with
 * the loop's lock.
 */
void loop_set_poll(Loop *loop, int64_t max_ns, unsigned grow, unsigned shrink);
/* Worker threads that are kept, and how many there may be. */
void loop_set_workers(Loop *loop, unsigned min, unsigned max);
/* Requests that an engine with batches gathers before it submits them; 0: those of a round. */
void loop_set_batch(Loop *loop, unsigned batch);
unsigned loop_batch(const Loop *loop);

/* fn(opaque) is called by loop_free(), before anything goes: for what is kept for each loop. Guarded by the loop's lock. */
typedef struct LoopExit {
    LoopFn *fn;
    void *opaque;
    ListNode node;
} LoopExit;
void loop_add_exit(Loop *loop, LoopExit *exit);
void loop_remove_exit(LoopExit *exit);
Clocks *loop_clocks(const Loop *loop);
Lock *loop_lock(const Loop *loop);

/* --- file descriptors (level triggered) --- */
typedef struct LoopFd LoopFd;

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 };
typedef void LoopFdFn(void *opaque, unsigned events);

/* fd stays the caller's; loop_del_fd() before closing it. events: LOOP_READ | LOOP_WRITE, or 0 for
 * now. */
LoopFd *loop_add_fd(Loop *loop, int fd, unsigned events, LoopFdFn *fn, void *opaque);
void loop_mod_fd(LoopFd *source, unsigned events);
void loop_del_fd(LoopFd *source); /* accepts NULL */

/* --- timers: one shot, embedded in their owner --- */
typedef struct Timer {
    Loop *loop;
    LoopFn *fn;
    void *opaque;
    int64_t expires; /* ns on `clock`; meaningful while armed */
    ClockId clock;
    bool armed;
    size_t slot;   /* the loop's: place in its heap, 0: not there */
    ListNode node; /* the loop's: due in the current round */
} Timer;

void timer_init(Timer *timer, Loop *loop, ClockId clock, LoopFn *fn, void *opaque);
void timer_fini(Timer *timer); /* cancels; accepts a zeroed timer */
/* Arms, or moves, to an absolute time in ns; a time that has passed fires on the next round. */
void timer_set(Timer *timer, int64_t expires);
void timer_cancel(Timer *timer);
/* When the clock's next timer is due; INT64_MAX: there is none. */
int64_t loop_next_timer(Loop *loop, ClockId clock);
/* Runs what is due now, from inside a callback: for whoever moves virtual time by hand. */
void loop_run_timers(Loop *loop);
/*
 * A loop that nobody waits on: its owner is told by kicked() (any thread, perhaps under locks: must not
 * block) when there is something to do, and does it by loop_run_due(), timers first, with the loop's lock
 * held.
 */
void loop_set_kicked(Loop *loop, LoopFn *kicked, void *opaque);
void loop_run_due(Loop *loop);
bool loop_has_work(Loop *loop); /* deferred work waits */
static inline bool timer_armed(const Timer *timer)
{
    return __atomic_load_n(&timer->armed, __ATOMIC_RELAXED);
}

/* --- deferred work: runs once on the loop's thread however often it was scheduled before --- */
typedef struct Work {
    Loop *loop;
    LoopFn *fn;
    void *opaque;
    struct Work *next; /* the loop's */
    _Atomic bool scheduled;
} Work;

void work_init(Work *work, Loop *loop, LoopFn *fn, void *opaque);
void work_fini(Work *work); /* cancels; accepts a zeroed one */
void work_schedule(Work *work);
void work_cancel(Work *work);
/* A one-off: runs fn(opaque) on the loop's thread. */
void loop_defer(Loop *loop, LoopFn *fn, void *opaque);

/* --- worker threads for blocking calls --- */
/* Runs fn(opaque) on a worker thread, then done(opaque, result) on the loop's thread. */
void loop_submit_blocking(Loop *loop, int (*fn)(void *opaque),
                          void (*done)(void *opaque, int result), void *opaque);

#endif
