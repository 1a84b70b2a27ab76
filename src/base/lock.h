/*
 * Mutexes with an owner and a written order (docs/hacking/locking.md).
 *
 * Not recursive: taking a lock that the thread holds is an assertion failure, and so is taking a lock
 * whose rank is not above every lock the thread holds already.
 *
 * Whoever comes takes a free lock, even past sleepers, because handing it over to a thread that must wake up first
 * costs both of them. A thread that got nothing for STARVED_NS closes the gate: newcomers wait behind it, so a
 * thread that takes and gives the lock without end keeps nobody out for long.
 */
#ifndef OSTRICH_BASE_LOCK_H
#define OSTRICH_BASE_LOCK_H

#include <pthread.h>

#include "base/base.h"

/* Locks are taken in ascending rank. Gaps are for locks of subsystems. */
enum {
    LOCK_RANK_MACHINE = 10,  /* the main lock domain: most devices and the main loop's handlers */
    LOCK_RANK_DEVICE = 20,   /* a device with a domain of its own */
    LOCK_RANK_IRQCHIP = 30,  /* interrupt controllers */
    LOCK_RANK_MEM = 40,      /* memory map changes */
    LOCK_RANK_CODE = 50,     /* translated code, page by page */
    LOCK_RANK_LOOP = 60,     /* an event loop's queues */
    LOCK_RANK_LEAF = 100,    /* may be taken anywhere; nothing is taken under it */
};

typedef struct Lock {
    pthread_mutex_t mutex;
    pthread_mutex_t gate;  /* held by the starved thread that is next */
    _Atomic bool starving; /* somebody holds the gate */
    pthread_t owner;
    _Atomic bool held;
    int rank;
    const char *name;
    struct Lock *outer; /* the lock the owner took before this one */
} Lock;

void lock_init(Lock *lock, const char *name, int rank);
void lock_fini(Lock *lock);
void lock_acquire(Lock *lock);
bool lock_try(Lock *lock);
void lock_release(Lock *lock);
/* Whether the calling thread holds it. */
bool lock_held(const Lock *lock);
/* Waits on cond with the lock released meanwhile; the lock must be the innermost one held. */
void lock_wait(Lock *lock, pthread_cond_t *cond);

/*
 * How often, and how long, threads waited for locks, by the locks' names. Of the whole process, off at first; what is taken
 * without waiting costs and counts nothing. Any thread.
 */
enum { LOCK_PROFILE_MAX = 64 };
typedef struct LockProfile {
    const char *name;
    uint64_t waits, wait_ns;
} LockProfile;
void lock_profile_set(bool on);
bool lock_profile_is_on(void);
void lock_profile_reset(void);
/* ret_rows has LOCK_PROFILE_MAX rows; how many were filled. */
size_t lock_profile_read(LockProfile *ret_rows);
/* lock.c: a wait that ended. */
void lock_profile_note(const char *name, uint64_t wait_ns);

#endif
