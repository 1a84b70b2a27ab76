/*
 * Stackful coroutines. A coroutine is entered on one loop's thread and never moves to another; code
 * that runs in one has the suffix _co.
 *
 *     co_start(loop, copy_co, job);                  any thread; begins on the loop's thread
 *     co_yield();                                    inside; until somebody calls co_wake()
 *     co_wake(co);                                   any thread; resumes it on its loop
 */
#ifndef OSTRICH_EVENT_COROUTINE_H
#define OSTRICH_EVENT_COROUTINE_H

#include "event/loop.h"

typedef struct Coroutine Coroutine;
typedef void CoFn(void *opaque);

/* Runs fn(opaque) as a coroutine. On the loop's own thread it starts at once, elsewhere deferred.
 */
void co_start(Loop *loop, CoFn *fn, void *opaque);
/*
 * Runs fn(opaque) as a coroutine and returns when it has finished; not inside a coroutine. On the
 * loop's thread outside a round (start-up, tools) this runs the loop meanwhile. Inside a callback
 * of the loop, blocking calls are made in place instead for the first 20 ms, so other callbacks run
 * only if fn must wait for their work or takes longer. A thread that does not run the loop holds the loop's lock, which is given up
 * while it waits.
 */
void co_run(Loop *loop, CoFn *fn, void *opaque);
/* Whether the running coroutine makes blocking calls in place now, in a co_run() inside a callback. */
bool co_in_place(void);
Coroutine *co_self(void); /* NULL outside */
Loop *co_loop(void);      /* of the running coroutine */
/* Suspends. A co_wake() that came before the yield makes it return at once (one wake is
 * remembered). */
void co_yield (void);
void co_wake(Coroutine *co);
void co_sleep_ns(ClockId clock, int64_t ns);
/* Runs a blocking call on a worker thread, yields meanwhile, returns its result. */
int co_blocking(int (*fn)(void *opaque), void *opaque);
/*
 * The same for a call that may take long by itself: a server's answer, a barrier, the derivation of a key. (co_blocking() may call
 * in place what a callback of the loop waits for by co_run(); this lets the loop, and with it the guest, go on in any case.)
 */
int co_blocking_long(int (*fn)(void *opaque), void *opaque);
/* Waits until fd is ready for LOOP_READ or LOOP_WRITE. */
void co_wait_fd(int fd, unsigned events);

/* Coroutine mutex and queue: for coroutines of one loop only. */
typedef struct CoQueue {
    List waiters;
} CoQueue;
void co_queue_init(CoQueue *queue);
void co_queue_wait(CoQueue *queue);
bool co_queue_wake_one(CoQueue *queue);
void co_queue_wake_all(CoQueue *queue);
bool co_queue_empty(const CoQueue *queue);

typedef struct CoMutex {
    Coroutine *owner;
    CoQueue queue;
} CoMutex;
void co_mutex_init(CoMutex *mutex);
void co_mutex_lock(CoMutex *mutex);
void co_mutex_unlock(CoMutex *mutex);

typedef struct CoRwLock {
    int readers; /* -1: a writer */
    CoQueue queue;
} CoRwLock;
void co_rwlock_init(CoRwLock *lock);
void co_rwlock_read(CoRwLock *lock);
void co_rwlock_write(CoRwLock *lock);
void co_rwlock_unlock(CoRwLock *lock);

#endif
