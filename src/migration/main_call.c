/* Calls from a migration's thread to the main loop; see migration_priv.h. */
#include "migration/migration_priv.h"

static void run_call(void *opaque)
{
    MainCall *call = opaque;

    call->fn(call->opaque);
    pthread_mutex_lock(&call->mutex);
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->mutex);
}

void main_call_init(MainCall *call, Loop *loop)
{
    pthread_mutex_init(&call->mutex, NULL);
    pthread_cond_init(&call->cond, NULL);
    work_init(&call->work, loop, run_call, call);
}

void main_call_fini(MainCall *call)
{
    work_fini(&call->work);
    pthread_cond_destroy(&call->cond);
    pthread_mutex_destroy(&call->mutex);
}

void main_call(MainCall *call, void (*fn)(void *opaque), void *opaque)
{
    call->fn = fn;
    call->opaque = opaque;
    pthread_mutex_lock(&call->mutex);
    call->done = false;
    pthread_mutex_unlock(&call->mutex);
    work_schedule(&call->work);
    pthread_mutex_lock(&call->mutex);
    while (!call->done && !call->abandoned) {
        pthread_cond_wait(&call->cond, &call->mutex);
    }
    pthread_mutex_unlock(&call->mutex);
}

void main_call_abandon(MainCall *call)
{
    pthread_mutex_lock(&call->mutex);
    call->abandoned = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->mutex);
}
