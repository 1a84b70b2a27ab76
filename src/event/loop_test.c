#include "event/loop.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

typedef struct Fixture {
    Clocks *clocks;
    Loop *loop;
    Lock lock;
    GString *log;
    pthread_t thread;
} Fixture;

static void fixture_setup(Fixture *f, gconstpointer unused)
{
    f->clocks = clocks_new();
    lock_init(&f->lock, "test", LOCK_RANK_MACHINE);
    f->loop = loop_new("test", f->clocks, &f->lock);
    f->log = g_string_new(NULL);
}

static void fixture_teardown(Fixture *f, gconstpointer unused)
{
    loop_free(f->loop);
    clocks_free(f->clocks);
    lock_fini(&f->lock);
    g_string_free(f->log, TRUE);
}

typedef struct Mark {
    Fixture *f;
    char letter;
} Mark;

static void mark(void *opaque)
{
    Mark *m = opaque;
    g_assert_true(lock_held(&m->f->lock));
    g_string_append_c(m->f->log, m->letter);
}

static void test_timer_order(Fixture *f, gconstpointer unused)
{
    Timer timers[20];
    Mark marks[20];
    int64_t now = clock_now(f->clocks, CLOCK_REALTIME_NS);

    for (int i = 0; i < 20; i++) {
        int place = i * 7 % 20;
        marks[i] = (Mark) { f, (char)('a' + place) };
        timer_init(&timers[i], f->loop, CLOCK_REALTIME_NS, mark, &marks[i]);
        timer_set(&timers[i], now + place * NS_PER_US * 50);
    }
    for (int i = 0; i < 20; i += 3) {
        timer_cancel(&timers[i]);
        g_assert_false(timer_armed(&timers[i]));
    }
    while (f->log->len < 13) {
        loop_run_once(f->loop, -1);
    }
    for (size_t i = 1; i < f->log->len; i++) {
        g_assert_cmpint(f->log->str[i - 1], <, f->log->str[i]);
    }
    g_assert_cmpint(clock_now(f->clocks, CLOCK_REALTIME_NS) - now, >=, 19 * 50 * NS_PER_US);
}

typedef struct Again {
    Timer timer;
    int count;
} Again;

static void again(void *opaque)
{
    Again *a = opaque;
    a->count++;
    timer_set(&a->timer, 0); /* in the past */
}

static void test_timer_in_the_past_waits_a_round(Fixture *f, gconstpointer unused)
{
    Again a = { .count = 0 };
    timer_init(&a.timer, f->loop, CLOCK_VIRTUAL, again, &a);
    timer_set(&a.timer, 0);
    g_assert_true(loop_run_once(f->loop, 0));
    g_assert_cmpint(a.count, ==, 1);
    g_assert_true(loop_run_once(f->loop, 0));
    g_assert_cmpint(a.count, ==, 2);
    timer_fini(&a.timer);
}

static int64_t source_time(void *opaque)
{
    return *(int64_t *)opaque;
}

static void test_virtual_stops_and_has_a_source(Fixture *f, gconstpointer unused)
{
    Mark m = { f, 'v' };
    Timer timer;

    clocks_set_running(f->clocks, false);
    int64_t standing = clock_now(f->clocks, CLOCK_VIRTUAL);
    timer_init(&timer, f->loop, CLOCK_VIRTUAL, mark, &m);
    timer_set(&timer, standing + 1000);
    g_assert_false(loop_run_once(f->loop, 2 * NS_PER_MS));
    g_assert_cmpint(clock_now(f->clocks, CLOCK_VIRTUAL), ==, standing);
    clocks_set_virtual(f->clocks, 5000 * NS_PER_SEC);
    g_assert_cmpint(clock_now(f->clocks, CLOCK_VIRTUAL), ==, 5000 * NS_PER_SEC);
    timer_set(&timer, 5000 * NS_PER_SEC + 1000);
    clocks_set_running(f->clocks, true);
    while (!f->log->len) {
        loop_run_once(f->loop, -1);
    }
    int64_t now = 77;
    clocks_set_virtual_source(f->clocks, source_time, &now);
    g_assert_cmpint(clock_now(f->clocks, CLOCK_VIRTUAL), ==, 77);
    timer_set(&timer, 100);
    g_assert_false(loop_run_once(f->loop, NS_PER_MS));
    now = 100;
    clocks_virtual_moved(f->clocks);
    g_assert_true(loop_run_once(f->loop, -1));
    g_assert_cmpstr(f->log->str, ==, "vv");
    clocks_set_virtual_source(f->clocks, NULL, NULL);
    timer_fini(&timer);
}

static void test_work_order_and_cancel(Fixture *f, gconstpointer unused)
{
    Mark marks[4];
    Work works[4];

    for (int i = 0; i < 4; i++) {
        marks[i] = (Mark) { f, (char)('a' + i) };
        work_init(&works[i], f->loop, mark, &marks[i]);
        work_schedule(&works[i]);
        work_schedule(&works[i]);
    }
    work_cancel(&works[1]);
    loop_defer(f->loop, mark, &marks[1]);
    loop_run_once(f->loop, -1);
    g_assert_cmpstr(f->log->str, ==, "acdb");
    loop_defer(f->loop, mark, &marks[0]); /* never run: loop_free releases it */
}

static void pipe_readable(void *opaque, unsigned events)
{
    Mark *m = opaque;
    g_string_append_printf(m->f->log, "%u", events);
}

static void test_fds(Fixture *f, gconstpointer unused)
{
    int ends[2];
    Mark m = { f, 0 };

    g_assert_cmpint(pipe(ends), ==, 0);
    LoopFd *source = loop_add_fd(f->loop, ends[0], LOOP_READ, pipe_readable, &m);
    g_assert_false(loop_run_once(f->loop, 0));
    g_assert_cmpint(write(ends[1], "x", 1), ==, 1);
    g_assert_true(loop_run_once(f->loop, -1));
    loop_mod_fd(source, 0);
    g_assert_false(loop_run_once(f->loop, 0));
    loop_mod_fd(source, LOOP_READ);
    close(ends[1]);
    g_assert_true(loop_run_once(f->loop, -1));
    loop_del_fd(source);
    close(ends[0]);
    g_assert_cmpstr(f->log->str, ==, "15");

    int file = open("/proc/self/exe", O_RDONLY);
    source = loop_add_fd(f->loop, file, LOOP_READ, pipe_readable, &m);
    g_assert_true(loop_run_once(f->loop, -1));
    loop_del_fd(source);
    close(file);
    g_assert_cmpstr(f->log->str, ==, "151");
}

/* --- threads: arming timers and work from outside wakes the loop --- */

typedef struct Ping {
    Fixture *f;
    Timer timer;
    Work work;
    int timers, works; /* under the lock */
} Ping;

static void ping_timer(void *opaque)
{
    Ping *p = opaque;
    p->timers++;
}

static void ping_work(void *opaque)
{
    Ping *p = opaque;
    p->works++;
}

static void *loop_thread(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

static void wait_for(Fixture *f, const int *counter, int value)
{
    for (;;) {
        lock_acquire(&f->lock);
        bool reached = *counter >= value;
        lock_release(&f->lock);
        if (reached) {
            return;
        }
        g_usleep(20);
    }
}

static void *pinger(void *opaque)
{
    Ping *p = opaque;
    for (int i = 0; i < 200; i++) {
        timer_set(&p->timer, clock_now(p->f->clocks, CLOCK_VIRTUAL) + 20000);
        wait_for(p->f, &p->timers, i + 1);
        work_schedule(&p->work);
        wait_for(p->f, &p->works, i + 1);
        lock_acquire(&p->f->lock);
        timer_set(&p->timer, 0);
        timer_cancel(&p->timer);
        work_schedule(&p->work);
        work_cancel(&p->work);
        g_assert_cmpint(p->timers, ==, i + 1);
        lock_release(&p->f->lock);
    }
    return NULL;
}

static void test_other_threads(Fixture *f, gconstpointer unused)
{
    enum { THREADS = 3 };
    Ping pings[THREADS] = { 0 };
    pthread_t loop, threads[THREADS];

    pthread_create(&loop, NULL, loop_thread, f->loop);
    for (int i = 0; i < THREADS; i++) {
        pings[i].f = f;
        timer_init(&pings[i].timer, f->loop, CLOCK_VIRTUAL, ping_timer, &pings[i]);
        work_init(&pings[i].work, f->loop, ping_work, &pings[i]);
        pthread_create(&threads[i], NULL, pinger, &pings[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    loop_quit(f->loop);
    pthread_join(loop, NULL);
}

/* --- blocking calls --- */

typedef struct Calls {
    _Atomic int running, peak;
    int done;
} Calls;

static int slow_call(void *opaque)
{
    Calls *calls = opaque;
    int now = atomic_fetch_add(&calls->running, 1) + 1;
    int peak = atomic_load(&calls->peak);
    while (now > peak && !atomic_compare_exchange_weak(&calls->peak, &peak, now)) {
    }
    g_usleep(2000);
    atomic_fetch_sub(&calls->running, 1);
    return 42;
}

static void slow_done(void *opaque, int result)
{
    Calls *calls = opaque;
    g_assert_cmpint(result, ==, 42);
    calls->done++;
}

static void test_blocking(Fixture *f, gconstpointer unused)
{
    Calls calls = { 0 };
    for (int i = 0; i < 64; i++) {
        loop_submit_blocking(f->loop, slow_call, slow_done, &calls);
    }
    while (calls.done < 64) {
        loop_run_once(f->loop, -1);
    }
    g_assert_cmpint(calls.peak, >, 1);
    g_assert_cmpint(calls.peak, <=, 16);
}

#define ADD(path, fn) g_test_add("/event/" path, Fixture, NULL, fixture_setup, fn, fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("timer/order", test_timer_order);
    ADD("timer/past", test_timer_in_the_past_waits_a_round);
    ADD("clock/virtual", test_virtual_stops_and_has_a_source);
    ADD("work", test_work_order_and_cancel);
    ADD("fd", test_fds);
    ADD("threads", test_other_threads);
    ADD("blocking", test_blocking);
    return g_test_run();
}
