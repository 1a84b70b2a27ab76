#include "base/lock.h"

#include <stdatomic.h>

/* The innermost lock this thread holds; the others hang on its `outer`. */
static THREAD_LOCAL Lock *innermost;

void lock_init(Lock *lock, const char *name, int rank)
{
    pthread_mutex_init(&lock->mutex, NULL);
    atomic_init(&lock->held, false);
    lock->name = name;
    lock->rank = rank;
    lock->outer = NULL;
}

void lock_fini(Lock *lock)
{
    assert(!lock->held);
    pthread_mutex_destroy(&lock->mutex);
}

static void lock_check_order(const Lock *lock)
{
    if (unlikely(innermost && innermost->rank >= lock->rank)) {
        g_error("lock order: '%s' taken under '%s'", lock->name, innermost->name);
    }
}

static void lock_taken(Lock *lock)
{
    lock->owner = pthread_self();
    atomic_store_explicit(&lock->held, true, memory_order_relaxed);
    lock->outer = innermost;
    innermost = lock;
}

static void lock_left(Lock *lock)
{
    Lock **at = &innermost;
    while (*at != lock) {
        assert(*at);
        at = &(*at)->outer;
    }
    *at = lock->outer;
    atomic_store_explicit(&lock->held, false, memory_order_relaxed);
}

void lock_acquire(Lock *lock)
{
    lock_check_order(lock);
    pthread_mutex_lock(&lock->mutex);
    lock_taken(lock);
}

bool lock_try(Lock *lock)
{
    if (pthread_mutex_trylock(&lock->mutex)) {
        return false;
    }
    lock_taken(lock);
    return true;
}

void lock_release(Lock *lock)
{
    lock_left(lock);
    pthread_mutex_unlock(&lock->mutex);
}

bool lock_held(const Lock *lock)
{
    for (const Lock *l = innermost; l; l = l->outer) {
        if (l == lock) {
            return true;
        }
    }
    return false;
}

void lock_wait(Lock *lock, pthread_cond_t *cond)
{
    assert(innermost == lock);
    lock_left(lock);
    pthread_cond_wait(cond, &lock->mutex);
    lock_taken(lock);
}
