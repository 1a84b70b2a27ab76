/*
 * Queues and locks for coroutines of one loop. A lock is handed to the first waiter, so nobody
 * starves and nobody who comes later overtakes.
 */
#include "event/coroutine.h"

typedef struct CoWaiter {
    Coroutine *co;
    bool woken;
    bool writer; /* of CoRwLock */
    ListNode node;
} CoWaiter;

void co_queue_init(CoQueue *queue)
{
    list_init(&queue->waiters);
}

/* Not inlined: the compiler would warn that the list keeps the address of a local, which is the
 * idea. */
__attribute__((noinline)) static void waiter_wait(CoQueue *queue, CoWaiter *waiter)
{
    waiter->co = co_self();
    list_append(&queue->waiters, &waiter->node);
    while (!waiter->woken) {
        co_yield ();
    }
}

static void waiter_wake(CoWaiter *waiter)
{
    list_remove(&waiter->node);
    waiter->woken = true;
    co_wake(waiter->co);
}

void co_queue_wait(CoQueue *queue)
{
    CoWaiter waiter = { 0 };
    waiter_wait(queue, &waiter);
}

bool co_queue_wake_one(CoQueue *queue)
{
    CoWaiter *waiter = LIST_FIRST(&queue->waiters, CoWaiter, node);
    if (!waiter) {
        return false;
    }
    waiter_wake(waiter);
    return true;
}

void co_queue_wake_all(CoQueue *queue)
{
    while (co_queue_wake_one(queue)) {
    }
}

bool co_queue_empty(const CoQueue *queue)
{
    return list_empty(&queue->waiters);
}

void co_mutex_init(CoMutex *mutex)
{
    mutex->owner = NULL;
    co_queue_init(&mutex->queue);
}

void co_mutex_lock(CoMutex *mutex)
{
    assert(mutex->owner != co_self());
    if (mutex->owner) {
        co_queue_wait(&mutex->queue);
        assert(mutex->owner == co_self());
    } else {
        mutex->owner = co_self();
    }
}

void co_mutex_unlock(CoMutex *mutex)
{
    assert(mutex->owner == co_self());
    CoWaiter *next = LIST_FIRST(&mutex->queue.waiters, CoWaiter, node);
    mutex->owner = next ? next->co : NULL;
    if (next) {
        waiter_wake(next);
    }
}

void co_rwlock_init(CoRwLock *lock)
{
    lock->readers = 0;
    co_queue_init(&lock->queue);
}

/* Lets in the first waiter, and further readers behind a reader. */
static void rwlock_admit(CoRwLock *lock)
{
    for (CoWaiter *next; (next = LIST_FIRST(&lock->queue.waiters, CoWaiter, node));) {
        if (next->writer ? lock->readers != 0 : lock->readers < 0) {
            break;
        }
        lock->readers = next->writer ? -1 : lock->readers + 1;
        waiter_wake(next);
    }
}

static void rwlock_enter(CoRwLock *lock, bool writer)
{
    CoWaiter waiter = { .writer = writer };
    if (co_queue_empty(&lock->queue) && (writer ? lock->readers == 0 : lock->readers >= 0)) {
        lock->readers = writer ? -1 : lock->readers + 1;
    } else {
        waiter_wait(&lock->queue, &waiter);
    }
}

void co_rwlock_read(CoRwLock *lock)
{
    rwlock_enter(lock, false);
}

void co_rwlock_write(CoRwLock *lock)
{
    rwlock_enter(lock, true);
}

void co_rwlock_unlock(CoRwLock *lock)
{
    assert(lock->readers != 0);
    lock->readers = lock->readers < 0 ? 0 : lock->readers - 1;
    rwlock_admit(lock);
}
