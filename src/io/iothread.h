/*
 * -object iothread: a thread with an event loop of its own, for devices and exports.
 *
 * The loop shares the main loop's lock (docs/decisions/0006-iothreads.md): what runs in it is never at work at the same
 * time as devices, monitors or the main loop, but sleeps, polls and worker threads are its own. Threads: that lock, unless
 * said otherwise.
 */
#ifndef OSTRICH_IO_IOTHREAD_H
#define OSTRICH_IO_IOTHREAD_H

#include <pthread.h>

#include "event/loop.h"
#include "object/object.h"
#include "value/value.h"

typedef struct IoThread {
    Object object;
    int64_t poll_max_ns, poll_grow, poll_shrink, aio_max_batch, workers_min, workers_max;
    Loop *loop; /* NULL until complete */
    pthread_t thread;
    int thread_id;
    unsigned users;
    bool started;
    pthread_mutex_t start_lock;
    pthread_cond_t start;
} IoThread;

extern const ObjectType iothread_type;

/* A user of the loop: the object cannot be deleted meanwhile. */
Loop *iothread_get(IoThread *iothread);
void iothread_put(IoThread *iothread); /* accepts NULL */
/* By id below `objects`, or an error that says that there is none. */
Error *iothread_find(const Object *objects, const char *id, IoThread **ret_iothread) MUST_USE;
/* As query-iothreads shows it. */
Value *iothread_info(const IoThread *iothread);

#endif
