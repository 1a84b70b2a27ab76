#include "base/thread.h"

void thread_keep_own_signals(sigset_t *ret_old)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    sigset_t blocked;

    sigfillset(&blocked);
    for (size_t n = 0; n < ARRAY_SIZE(own); n++) {
        sigdelset(&blocked, own[n]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, ret_old);
}

int thread_create(pthread_t *ret_thread, void *(*fn)(void *opaque), void *opaque)
{
    sigset_t old;

    thread_keep_own_signals(&old);
    int err = pthread_create(ret_thread, NULL, fn, opaque);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err;
}
