/*
 * The inside of an event loop, shared by the files of this folder.
 *
 * Invariant 1: callbacks run on the loop's thread, with the domain lock held if there is one.
 * Invariant 2: `queue_lock` guards timers, fd sources and the taken work lists; no callback runs
 * under it. Invariant 3: whoever adds something to do adds it first and calls loop_kick() after;
 * the loop sets `sleeping` first and looks for something to do after. So one of them sees the
 * other.
 */
#ifndef OSTRICH_EVENT_LOOP_PRIV_H
#define OSTRICH_EVENT_LOOP_PRIV_H

#include <stdatomic.h>

#include "event/clock_priv.h"
#include "event/loop.h"

typedef struct TimerHeap {
    Timer **at; /* 1-based binary heap by expiry */
    size_t count, capacity;
} TimerHeap;

typedef struct WorkerPool WorkerPool;
typedef struct CoStack CoStack;

struct Loop {
    char *name;
    Clocks *clocks;
    Lock *lock; /* the domain's; may be NULL */
    ClockWatcher watcher;
    Lock queue_lock;
    _Atomic(pthread_t) owner;
    _Atomic bool quit, sleeping;
    unsigned
        depth; /* rounds under way: 2 when a callback waits in co_run(); the loop's thread only */
    int epoll_fd, event_fd;
    int step_fd; /* timerfd that reports jumps of the wall clock; -1 until a host timer is set */

    TimerHeap timers[CLOCK_COUNT];
    List due; /* timers that expired in this round and have not run yet */

    _Atomic(Work *) incoming; /* newest first */
    Work *taken;              /* oldest first */

    List sources, always_ready, dead_sources;
    LoopFd *event_source, *step_source;

    WorkerPool *pool; /* made on first use, by any thread */
    unsigned workers_min, workers_max;
    unsigned batch;
    List exits; /* LoopExit */
    /* Polling: what loop_set_poll() allows, and the time that is tried now. */
    _Atomic int64_t poll_max_ns;
    _Atomic unsigned poll_grow, poll_shrink;
    int64_t poll_ns;

    LoopFn *kicked; /* NULL: the loop's thread waits in epoll */
    void *kicked_opaque;

    CoStack *free_stacks; /* of finished coroutines; the loop's thread only */
    unsigned free_stack_count;
};

void loop_kick(Loop *loop);
enum { WORKERS_MAX = 16 };
void workers_free(WorkerPool *pool);
void workers_limit(WorkerPool *pool, unsigned min, unsigned max);
void co_stacks_free(Loop *loop);

/* timers */
void timers_fini(Loop *loop);
bool timers_run(Loop *loop);
/* Nanoseconds until the next timer; 0 when one is due, -1 when none. */
int64_t timers_wait_ns(Loop *loop);

/* deferred work */
bool work_pending(Loop *loop);
bool work_run(Loop *loop);
void work_discard(Loop *loop);

#endif
