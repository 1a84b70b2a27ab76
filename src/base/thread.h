/* Threads that leave signals to the main thread. */
#ifndef OSTRICH_BASE_THREAD_H
#define OSTRICH_BASE_THREAD_H

#include <pthread.h>
#include <signal.h>

#include "base/base.h"

/* The calling thread gets no signals but those that it raises itself: faults, refused system calls. */
void thread_keep_own_signals(sigset_t *ret_old); /* ret_old may be NULL */
/* pthread_create() of a thread that has called that. 0, or an error number. */
int thread_create(pthread_t *ret_thread, void *(*fn)(void *opaque), void *opaque);

#endif
