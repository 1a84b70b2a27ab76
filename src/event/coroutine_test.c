#include "event/coroutine.h"

#include <unistd.h>

static Clocks *clocks;
static Loop *loop;

typedef struct Trace {
    GString *log;
    CoMutex mutex;
    CoRwLock rwlock;
    CoQueue queue;
    int live, fd;
    Coroutine *co;
} Trace;

static void run_until_done(Trace *trace)
{
    while (trace->live) {
        loop_run_once(loop, -1);
    }
}

static Trace *trace_new(void)
{
    Trace *trace = g_new0(Trace, 1);
    trace->log = g_string_new(NULL);
    co_mutex_init(&trace->mutex);
    co_rwlock_init(&trace->rwlock);
    co_queue_init(&trace->queue);
    return trace;
}

static void trace_free(Trace *trace)
{
    g_string_free(trace->log, TRUE);
    g_free(trace);
}

static void start(Trace *trace, CoFn *fn)
{
    trace->live++;
    co_start(loop, fn, trace);
}

static void inner_co(void *opaque)
{
    Trace *t = opaque;
    g_string_append_c(t->log, 'i');
    co_sleep_ns(CLOCK_REALTIME_NS, NS_PER_MS);
    g_string_append_c(t->log, 'I');
    t->live--;
}

static void outer_co(void *opaque)
{
    Trace *t = opaque;
    g_string_append_c(t->log, 'o');
    start(t, inner_co);
    g_assert_true(co_loop() == loop);
    g_string_append_c(t->log, 'O');
    t->live--;
}

static void test_nested(void)
{
    Trace *t = trace_new();
    start(t, outer_co);
    g_assert_cmpstr(t->log->str, ==, "oiO");
    g_assert_null(co_self());
    run_until_done(t);
    g_assert_cmpstr(t->log->str, ==, "oiOI");
    trace_free(t);
}

static void early_wake_co(void *opaque)
{
    Trace *t = opaque;
    co_wake(co_self());
    co_yield (); /* returns at once */
    t->co = co_self();
    g_string_append_c(t->log, 'a');
    co_yield ();
    g_string_append_c(t->log, 'b');
    t->live--;
}

static void test_wake_is_remembered(void)
{
    Trace *t = trace_new();
    start(t, early_wake_co);
    g_assert_cmpstr(t->log->str, ==, "a");
    loop_run_once(loop, 0); /* the left-over work item must not resume it */
    g_assert_cmpstr(t->log->str, ==, "a");
    co_wake(t->co);
    run_until_done(t);
    trace_free(t);
}

static void locker_co(void *opaque)
{
    Trace *t = opaque;
    co_mutex_lock(&t->mutex);
    g_string_append_c(t->log, '<');
    co_sleep_ns(CLOCK_REALTIME_NS, 1000);
    g_string_append_c(t->log, '>');
    co_mutex_unlock(&t->mutex);
    t->live--;
}

static void test_mutex(void)
{
    Trace *t = trace_new();
    for (int i = 0; i < 4; i++) {
        start(t, locker_co);
    }
    run_until_done(t);
    g_assert_cmpstr(t->log->str, ==, "<><><><>");
    trace_free(t);
}

static void reader_co(void *opaque)
{
    Trace *t = opaque;
    co_rwlock_read(&t->rwlock);
    g_string_append_c(t->log, 'r');
    co_sleep_ns(CLOCK_REALTIME_NS, 50000);
    g_string_append_c(t->log, 'R');
    co_rwlock_unlock(&t->rwlock);
    t->live--;
}

static void writer_co(void *opaque)
{
    Trace *t = opaque;
    co_rwlock_write(&t->rwlock);
    g_string_append_c(t->log, 'w');
    co_sleep_ns(CLOCK_REALTIME_NS, 50000);
    g_string_append_c(t->log, 'W');
    co_rwlock_unlock(&t->rwlock);
    t->live--;
}

static void test_rwlock(void)
{
    Trace *t = trace_new();
    start(t, reader_co);
    start(t, reader_co);
    start(t, writer_co);
    start(t, reader_co); /* must not overtake the writer */
    run_until_done(t);
    g_assert_cmpstr(t->log->str, ==, "rrRRwWrR");
    trace_free(t);
}

static int add_one(void *opaque)
{
    return *(int *)opaque + 1;
}

static void blocking_co(void *opaque)
{
    Trace *t = opaque;
    int value = 0;
    for (int i = 0; i < 50; i++) {
        value = co_blocking(add_one, &value);
    }
    g_assert_cmpint(value, ==, 50);
    t->live--;
}

static void test_blocking(void)
{
    Trace *t = trace_new();
    for (int i = 0; i < 100; i++) {
        start(t, blocking_co);
    }
    run_until_done(t);
    trace_free(t);
}

static void fd_co(void *opaque)
{
    Trace *t = opaque;
    char byte;
    co_wait_fd(t->fd, LOOP_READ);
    g_assert_cmpint(read(t->fd, &byte, 1), ==, 1);
    t->live--;
}

static void test_fd(void)
{
    Trace *t = trace_new();
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    t->fd = ends[0];
    start(t, fd_co);
    loop_run_once(loop, 0);
    g_assert_cmpint(t->live, ==, 1);
    g_assert_cmpint(write(ends[1], "x", 1), ==, 1);
    run_until_done(t);
    close(ends[0]);
    close(ends[1]);
    trace_free(t);
}

static void *waker_thread(void *opaque)
{
    Trace *t = opaque;
    for (int i = 0; i < 1000; i++) {
        co_wake(t->co);
    }
    return NULL;
}

static void woken_co(void *opaque)
{
    Trace *t = opaque;
    t->co = co_self();
    pthread_t thread;
    pthread_create(&thread, NULL, waker_thread, t);
    co_yield ();
    co_blocking((int (*)(void *))(void (*)(void))pthread_detach, (void *)thread);
    co_sleep_ns(CLOCK_REALTIME_NS, 20 * NS_PER_MS); /* the thread has ended by now */
    t->live--;
}

static void test_wake_from_threads(void)
{
    Trace *t = trace_new();
    start(t, woken_co);
    run_until_done(t);
    trace_free(t);
}

static int nap_call(void *opaque)
{
    g_usleep(15000);
    return 0;
}

static void tick(void *opaque)
{
    ((Trace *)opaque)->fd++;
}

static void napping_co(void *opaque)
{
    Trace *t = opaque;
    Timer timer;
    timer_init(&timer, loop, CLOCK_REALTIME_NS, tick, t);
    timer_set(&timer, 0);
    g_assert_true(co_in_place());
    co_blocking(nap_call, NULL);
    g_assert_cmpint(t->fd, ==, 0); /* in place: nobody else had a turn */
    co_blocking(nap_call, NULL);
    g_assert_false(co_in_place());
    co_blocking(nap_call, NULL);
    g_assert_cmpint(t->fd, ==, 1);
    timer_set(&timer, 0);
    co_blocking_long(nap_call, NULL);
    g_assert_cmpint(t->fd, ==, 2);
    timer_fini(&timer);
}

static void callback(void *opaque)
{
    Trace *t = opaque;
    co_run(loop, napping_co, t);
    t->live--;
}

/* What a callback waits for gives the others turns when it takes long. */
static void test_in_place(void)
{
    Trace *t = trace_new();
    t->live++;
    loop_defer(loop, callback, t);
    run_until_done(t);
    trace_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    clocks = clocks_new();
    loop = loop_new("test", clocks, NULL);
    g_test_add_func("/event/coroutine/nested", test_nested);
    g_test_add_func("/event/coroutine/early-wake", test_wake_is_remembered);
    g_test_add_func("/event/coroutine/mutex", test_mutex);
    g_test_add_func("/event/coroutine/rwlock", test_rwlock);
    g_test_add_func("/event/coroutine/blocking", test_blocking);
    g_test_add_func("/event/coroutine/fd", test_fd);
    g_test_add_func("/event/coroutine/wake-from-threads", test_wake_from_threads);
    g_test_add_func("/event/coroutine/in-place", test_in_place);
    int result = g_test_run();
    loop_free(loop);
    clocks_free(clocks);
    return result;
}
