/* -object iothread: see iothread.h. */
#include "io/iothread.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/thread.h"

enum { WORKERS_MOST = 1024, POLL_DEFAULT_NS = 32768, WORKERS_DEFAULT = 64 };

static IoThread *of_object(const Object *obj)
{
    return container_of(obj, IoThread, object);
}

static void *thread_main(void *opaque)
{
    IoThread *iothread = opaque;
    g_autofree char *name = g_strdup_printf("IO %s", iothread->object.id);

    prctl(PR_SET_NAME, name, 0, 0, 0);
    loop_claim(iothread->loop);
    pthread_mutex_lock(&iothread->start_lock);
    iothread->thread_id = (int)syscall(SYS_gettid);
    iothread->started = true;
    pthread_cond_signal(&iothread->start);
    pthread_mutex_unlock(&iothread->start_lock);
    loop_run(iothread->loop);
    return NULL;
}

/* Returns when the thread has taken the loop over. Signals stay with the threads that handle them. */
static int start_thread(IoThread *iothread)
{
    int err = thread_create(&iothread->thread, thread_main, iothread);
    if (err) {
        return -err;
    }
    pthread_mutex_lock(&iothread->start_lock);
    while (!iothread->started) {
        pthread_cond_wait(&iothread->start, &iothread->start_lock);
    }
    pthread_mutex_unlock(&iothread->start_lock);
    return 0;
}

static Error *apply(IoThread *iothread)
{
    if (iothread->workers_min > iothread->workers_max) {
        return error_new("iothread '%s': thread-pool-min=%" G_GINT64_FORMAT " is more than thread-pool-max=%" G_GINT64_FORMAT,
                         iothread->object.id, iothread->workers_min, iothread->workers_max);
    }
    loop_set_poll(iothread->loop, iothread->poll_max_ns, (unsigned)iothread->poll_grow, (unsigned)iothread->poll_shrink);
    loop_set_batch(iothread->loop, (unsigned)iothread->aio_max_batch);
    loop_set_workers(iothread->loop, (unsigned)iothread->workers_min, (unsigned)iothread->workers_max);
    return NULL;
}

static Error *complete(Object *obj)
{
    IoThread *iothread = of_object(obj);
    Loop *main_loop = object_loop(obj);

    if (!main_loop || !loop_lock(main_loop)) {
        return error_new("iothread '%s': this program works in one thread, it has no use for more", obj->id);
    }
    pthread_mutex_init(&iothread->start_lock, NULL);
    pthread_cond_init(&iothread->start, NULL);
    iothread->loop = loop_new(obj->id, loop_clocks(main_loop), loop_lock(main_loop));
    TRY(apply(iothread));
    int ret = start_thread(iothread);
    return ret < 0 ? error_new_errno(ret, "iothread '%s': no thread can be made", obj->id) : NULL;
}

static bool in_use(const Object *obj)
{
    return of_object(obj)->users > 0;
}

/* The thread may be waiting for the lock that the caller holds. */
static void finalize(Object *obj)
{
    IoThread *iothread = of_object(obj);
    if (!iothread->loop) {
        return;
    }
    Lock *lock = loop_lock(iothread->loop);
    bool locked = lock_held(lock);
    if (iothread->started) {
        loop_quit(iothread->loop);
        if (locked) {
            lock_release(lock);
        }
        pthread_join(iothread->thread, NULL);
        if (locked) {
            lock_acquire(lock);
        }
        loop_claim(iothread->loop);
    }
    loop_free(iothread->loop);
    pthread_cond_destroy(&iothread->start);
    pthread_mutex_destroy(&iothread->start_lock);
}

static void changed(Object *obj, const Prop *prop)
{
    IoThread *iothread = of_object(obj);
    if (iothread->loop) {
        Error *err = apply(iothread);
        if (err) { /* the limits that were in force stay so */
            warn_report("%s", error_message(err));
            error_free(err);
        }
    }
}

#define LIVE(n, m, d, most, text) \
    PROP_(n, prop_i64, IoThread, m, .def = d, .min = 0, .max = most, .flags = PROP_RUNTIME, .changed = changed, .help = text)
static const Prop props[] = {
    LIVE("poll-max-ns", poll_max_ns, POLL_DEFAULT_NS, INT64_MAX, "Longest time of looking for events before sleeping; 0: none"),
    LIVE("poll-grow", poll_grow, 0, INT32_MAX, "Factor by which that time grows; 0: 2"),
    LIVE("poll-shrink", poll_shrink, 0, INT32_MAX, "Divisor by which it shrinks; 0: to nothing"),
    LIVE("aio-max-batch", aio_max_batch, 0, INT32_MAX, "Requests that io_uring gathers before they are submitted; 0: those of a round"),
    LIVE("thread-pool-min", workers_min, 0, WORKERS_MOST, "Worker threads that are kept"),
    LIVE("thread-pool-max", workers_max, WORKERS_DEFAULT, WORKERS_MOST, "Worker threads at most"),
    { 0 },
};
const ObjectType iothread_type = {
    .name = "iothread", .size = sizeof(IoThread), .props = props, .complete = complete, .in_use = in_use, .finalize = finalize,
};
OBJECT_REGISTER(&iothread_type);

Loop *iothread_get(IoThread *iothread)
{
    iothread->users++;
    return iothread->loop;
}

void iothread_put(IoThread *iothread)
{
    if (iothread) {
        assert(iothread->users);
        iothread->users--;
    }
}

Error *iothread_find(const Object *objects, const char *id, IoThread **ret_iothread)
{
    Object *obj = object_child(objects, id);
    if (!obj || !object_is_a(obj->type, &iothread_type)) {
        return error_new("Cannot find iothread object '%s'", id);
    }
    *ret_iothread = of_object(obj);
    return NULL;
}

Value *iothread_info(const IoThread *iothread)
{
    Value *info = value_dict();
    value_put_str(info, "id", iothread->object.id);
    value_put_int(info, "thread-id", iothread->thread_id);
    value_put_int(info, "poll-max-ns", iothread->poll_max_ns);
    value_put_int(info, "poll-grow", iothread->poll_grow);
    value_put_int(info, "poll-shrink", iothread->poll_shrink);
    value_put_int(info, "aio-max-batch", iothread->aio_max_batch);
    return info;
}
