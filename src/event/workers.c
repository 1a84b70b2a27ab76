/*
 * Worker threads for calls that block: a pool a loop, grown on demand up to a limit; a thread that
 * found nothing to do for a while ends, unless it is one of those to be kept.
 */
#include <errno.h>
#include <time.h>

#include "base/thread.h"
#include "event/loop_priv.h"

enum { IDLE_SECONDS = 10 };

typedef struct Job {
    int (*fn)(void *opaque);
    void (*done)(void *opaque, int result);
    void *opaque;
    int result;
    Work finished;
    WorkerPool *pool;
    ListNode node;
} Job;

struct WorkerPool {
    pthread_mutex_t lock;
    pthread_cond_t queued, ended;
    List jobs;
    unsigned threads, idle, waiting; /* waiting: jobs in the list */
    GArray *leaving;                 /* pthread_t of threads that have ended or are about to */
    unsigned min, max;
    bool stopping;
};

static WorkerPool *pool_new(unsigned min, unsigned max)
{
    WorkerPool *pool = g_new0(WorkerPool, 1);
    pthread_condattr_t attr;

    pool->min = min;
    pool->max = max;

    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->queued, &attr);
    pthread_cond_init(&pool->ended, NULL);
    pthread_condattr_destroy(&attr);
    list_init(&pool->jobs);
    pool->leaving = g_array_new(FALSE, FALSE, sizeof(pthread_t));
    return pool;
}

static WorkerPool *loop_pool(Loop *loop)
{
    lock_acquire(&loop->queue_lock);
    if (!loop->pool) {
        loop->pool = pool_new(loop->workers_min, loop->workers_max);
    }
    WorkerPool *pool = loop->pool;
    lock_release(&loop->queue_lock);
    return pool;
}

/* Waits for a job; NULL when the thread should end. Pool lock. */
static Job *pool_next(WorkerPool *pool)
{
    struct timespec deadline;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += IDLE_SECONDS;
    while (list_empty(&pool->jobs) && !pool->stopping) {
        pool->idle++;
        int err = pthread_cond_timedwait(&pool->queued, &pool->lock, &deadline);
        pool->idle--;
        if (err == ETIMEDOUT && list_empty(&pool->jobs)) {
            if (pool->threads > pool->min) {
                return NULL;
            }
            clock_gettime(CLOCK_MONOTONIC, &deadline);
            deadline.tv_sec += IDLE_SECONDS;
        }
    }
    if (list_empty(&pool->jobs)) {
        return NULL;
    }
    pool->waiting--;
    return container_of(list_pop(&pool->jobs), Job, node);
}

static void *worker_main(void *opaque)
{
    WorkerPool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    for (Job *job; (job = pool_next(pool));) {
        pthread_mutex_unlock(&pool->lock);
        job->result = job->fn(job->opaque);
        work_schedule(&job->finished);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_t self = pthread_self();
    g_array_append_val(pool->leaving, self);
    pool->threads--;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/*
 * Pool lock, which threads that leave need no more. They are waited for since libraries still tidy up in them what the program's
 * end tidies up, too.
 */
static void join_leaving(WorkerPool *pool)
{
    for (guint n = 0; n < pool->leaving->len; n++) {
        pthread_join(g_array_index(pool->leaving, pthread_t, n), NULL);
    }
    g_array_set_size(pool->leaving, 0);
}

/* Pool lock. Signals stay with the threads that handle them. */
static bool pool_grow(WorkerPool *pool)
{
    pthread_t thread;

    join_leaving(pool);
    if (thread_create(&thread, worker_main, pool)) {
        return false;
    }
    pool->threads++;
    return true;
}

static void job_done(void *opaque)
{
    Job *job = opaque;
    void (*done)(void *, int) = job->done;
    void *done_opaque = job->opaque;
    int result = job->result;
    g_free(job);
    done(done_opaque, result);
}

void loop_submit_blocking(Loop *loop, int (*fn)(void *opaque),
                          void (*done)(void *opaque, int result), void *opaque)
{
    WorkerPool *pool = loop_pool(loop);
    Job *job = g_new0(Job, 1);

    job->fn = fn;
    job->done = done;
    job->opaque = opaque;
    work_init(&job->finished, loop, job_done, job);
    pthread_mutex_lock(&pool->lock);
    list_append(&pool->jobs, &job->node);
    pool->waiting++;
    if (pool->waiting > pool->idle && pool->threads < pool->max && !pool_grow(pool) &&
        pool->threads == 0) {
        /* No thread at all can be had: do it here rather than never. */
        list_remove(&job->node);
        pool->waiting--;
        pthread_mutex_unlock(&pool->lock);
        job->result = fn(opaque);
        work_schedule(&job->finished);
        return;
    }
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_signal(&pool->queued); /* not before: who wakes up would find the lock taken */
}

/* Threads above a lower limit end when they find nothing to do. */
void workers_limit(WorkerPool *pool, unsigned min, unsigned max)
{
    pthread_mutex_lock(&pool->lock);
    pool->min = min;
    pool->max = max;
    while (pool->threads < min && pool_grow(pool)) {
    }
    pthread_mutex_unlock(&pool->lock);
}

void loop_set_workers(Loop *loop, unsigned min, unsigned max)
{
    loop->workers_min = min;
    loop->workers_max = max;
    if (min || loop->pool) {
        workers_limit(loop_pool(loop), min, max);
    }
}

void workers_free(WorkerPool *pool)
{
    if (!pool) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->queued);
    while (pool->threads) {
        pthread_cond_wait(&pool->ended, &pool->lock);
    }
    join_leaving(pool);
    pthread_mutex_unlock(&pool->lock);
    g_array_unref(pool->leaving);
    pthread_cond_destroy(&pool->queued);
    pthread_cond_destroy(&pool->ended);
    pthread_mutex_destroy(&pool->lock);
    g_free(pool);
}
