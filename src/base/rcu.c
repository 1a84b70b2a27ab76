/*
 * Epochs: a global count, and per thread the count it saw when it entered its section (0: outside).
 * A callback queued at epoch E may run when no thread is inside a section entered at or before E.
 *
 * Invariant 1: a reader publishes its epoch before it loads any protected pointer (full fence).
 * Invariant 2: the collector advances the epoch before it looks at the readers.
 */
#include "base/rcu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

typedef struct RcuReader {
    _Atomic uint64_t epoch;
    unsigned depth;
    struct RcuReader *next;
} RcuReader;

typedef struct RcuCall {
    void (*fn)(void *);
    void *ptr;
    struct RcuCall *next;
} RcuCall;

/* One domain a process: memory reclamation has no owner above it. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t queued, drained;
    _Atomic uint64_t epoch;
    RcuReader *readers;
    RcuCall *calls, **calls_tail;
    uint64_t submitted, done;
    bool running;
    pthread_key_t key;
} rcu = { .lock = PTHREAD_MUTEX_INITIALIZER,
          .queued = PTHREAD_COND_INITIALIZER,
          .drained = PTHREAD_COND_INITIALIZER,
          .epoch = 1 };
static pthread_once_t rcu_once = PTHREAD_ONCE_INIT;
static THREAD_LOCAL RcuReader *self;

static void reader_gone(void *opaque)
{
    RcuReader *reader = opaque;
    pthread_mutex_lock(&rcu.lock);
    RcuReader **at = &rcu.readers;
    while (*at != reader) {
        at = &(*at)->next;
    }
    *at = reader->next;
    pthread_mutex_unlock(&rcu.lock);
    g_free(reader);
}

static void rcu_start(void)
{
    pthread_key_create(&rcu.key, reader_gone);
    rcu.calls_tail = &rcu.calls;
}

static RcuReader *reader_register(void)
{
    pthread_once(&rcu_once, rcu_start);
    RcuReader *reader = g_new0(RcuReader, 1);
    pthread_mutex_lock(&rcu.lock);
    reader->next = rcu.readers;
    rcu.readers = reader;
    pthread_mutex_unlock(&rcu.lock);
    pthread_setspecific(rcu.key, reader);
    return self = reader;
}

void rcu_read_enter(void)
{
    RcuReader *reader = self ? self : reader_register();
    if (reader->depth++ == 0) {
        atomic_store_explicit(&reader->epoch, atomic_load_explicit(&rcu.epoch, memory_order_relaxed),
                              memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
    }
}

void rcu_read_leave(void)
{
    assert(self && self->depth);
    if (--self->depth == 0) {
        atomic_store_explicit(&self->epoch, 0, memory_order_release);
    }
}

static bool readers_before(uint64_t epoch)
{
    for (RcuReader *r = rcu.readers; r; r = r->next) {
        uint64_t seen = atomic_load_explicit(&r->epoch, memory_order_acquire);
        if (seen && seen <= epoch) {
            return true;
        }
    }
    return false;
}

static void *collector(void *unused)
{
    pthread_mutex_lock(&rcu.lock);
    for (;;) {
        while (!rcu.calls) {
            pthread_cond_wait(&rcu.queued, &rcu.lock);
        }
        RcuCall *batch = rcu.calls;
        rcu.calls = NULL;
        rcu.calls_tail = &rcu.calls;
        uint64_t epoch = atomic_fetch_add(&rcu.epoch, 1);
        while (readers_before(epoch)) {
            pthread_mutex_unlock(&rcu.lock);
            usleep(200);
            pthread_mutex_lock(&rcu.lock);
        }
        pthread_mutex_unlock(&rcu.lock);
        uint64_t count = 0;
        while (batch) {
            RcuCall *call = batch;
            batch = call->next;
            call->fn(call->ptr);
            g_free(call);
            count++;
        }
        pthread_mutex_lock(&rcu.lock);
        rcu.done += count;
        pthread_cond_broadcast(&rcu.drained);
    }
    return NULL;
}

void rcu_call(void (*free_fn)(void *ptr), void *ptr)
{
    pthread_once(&rcu_once, rcu_start);
    RcuCall *call = g_new0(RcuCall, 1);
    call->fn = free_fn;
    call->ptr = ptr;
    pthread_mutex_lock(&rcu.lock);
    *rcu.calls_tail = call;
    rcu.calls_tail = &call->next;
    rcu.submitted++;
    if (!rcu.running) {
        pthread_t thread;
        rcu.running = pthread_create(&thread, NULL, collector, NULL) == 0;
        if (rcu.running) {
            pthread_detach(thread);
        }
    }
    pthread_cond_signal(&rcu.queued);
    pthread_mutex_unlock(&rcu.lock);
}

void rcu_barrier(void)
{
    assert(!self || self->depth == 0);
    pthread_once(&rcu_once, rcu_start);
    pthread_mutex_lock(&rcu.lock);
    uint64_t target = rcu.submitted;
    while (rcu.done < target) {
        pthread_cond_wait(&rcu.drained, &rcu.lock);
    }
    pthread_mutex_unlock(&rcu.lock);
}
