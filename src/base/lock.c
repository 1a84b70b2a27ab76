#include "base/lock.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

enum { STARVED_NS = 1000000 };

/* The innermost lock this thread holds; the others hang on its `outer`. */
static THREAD_LOCAL Lock *innermost;

void lock_init(Lock *lock, const char *name, int rank)
{
    pthread_mutex_init(&lock->mutex, NULL);
    pthread_mutex_init(&lock->gate, NULL);
    atomic_init(&lock->starving, false);
    atomic_init(&lock->held, false);
    lock->name = name;
    lock->rank = rank;
    lock->outer = NULL;
}

void lock_fini(Lock *lock)
{
    assert(!lock->held);
    pthread_mutex_destroy(&lock->gate);
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

static void deadline_after(struct timespec *ret_when, long ns)
{
    clock_gettime(CLOCK_REALTIME, ret_when);
    ret_when->tv_nsec += ns;
    if (ret_when->tv_nsec >= 1000000000) {
        ret_when->tv_nsec -= 1000000000;
        ret_when->tv_sec++;
    }
}

/* Behind the gate there is one thread only, and those that passed before it closed. */
static void acquire_starved(Lock *lock)
{
    pthread_mutex_lock(&lock->gate);
    atomic_store(&lock->starving, true);
    pthread_mutex_lock(&lock->mutex);
    atomic_store(&lock->starving, false);
    pthread_mutex_unlock(&lock->gate);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void acquire_contended(Lock *lock)
{
    struct timespec starved;
    uint64_t began = lock_profile_is_on() ? now_ns() : 0;

    if (atomic_load(&lock->starving)) {
        pthread_mutex_lock(&lock->gate);
        pthread_mutex_unlock(&lock->gate);
    }
    deadline_after(&starved, STARVED_NS);
    /* Not clocklock, which ThreadSanitizer does not see; when somebody sets the clock the wait is longer or shorter. */
    if (pthread_mutex_timedlock(&lock->mutex, &starved) == ETIMEDOUT) {
        acquire_starved(lock);
    }
    if (began) {
        lock_profile_note(lock->name, now_ns() - began);
    }
}

void lock_acquire(Lock *lock)
{
    lock_check_order(lock);
    if (atomic_load_explicit(&lock->starving, memory_order_relaxed) || pthread_mutex_trylock(&lock->mutex)) {
        acquire_contended(lock);
    }
    lock_taken(lock);
}

bool lock_try(Lock *lock)
{
    if (atomic_load_explicit(&lock->starving, memory_order_relaxed) || pthread_mutex_trylock(&lock->mutex)) {
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
