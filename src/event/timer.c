/* Timers: a binary heap a clock, and the list of those that fire in the current round. */
#include "event/loop_priv.h"

#include <sys/timerfd.h>
#include <unistd.h>

static void heap_place(TimerHeap *heap, size_t slot, Timer *timer)
{
    heap->at[slot] = timer;
    timer->slot = slot;
}

static void heap_up(TimerHeap *heap, size_t slot, Timer *timer)
{
    while (slot > 1 && heap->at[slot / 2]->expires > timer->expires) {
        heap_place(heap, slot, heap->at[slot / 2]);
        slot /= 2;
    }
    heap_place(heap, slot, timer);
}

static void heap_down(TimerHeap *heap, size_t slot, Timer *timer)
{
    for (;;) {
        size_t child = slot * 2;
        if (child > heap->count) {
            break;
        }
        if (child < heap->count && heap->at[child + 1]->expires < heap->at[child]->expires) {
            child++;
        }
        if (heap->at[child]->expires >= timer->expires) {
            break;
        }
        heap_place(heap, slot, heap->at[child]);
        slot = child;
    }
    heap_place(heap, slot, timer);
}

static void heap_insert(TimerHeap *heap, Timer *timer)
{
    if (heap->count + 1 >= heap->capacity) {
        heap->capacity = MAX(16, heap->capacity * 2);
        heap->at = g_renew(Timer *, heap->at, heap->capacity);
    }
    heap->count++;
    heap_up(heap, heap->count, timer);
}

static void heap_remove(TimerHeap *heap, Timer *timer)
{
    size_t slot = timer->slot;
    Timer *last = heap->at[heap->count--];

    timer->slot = 0;
    if (last == timer) {
        return;
    }
    if (slot > 1 && heap->at[slot / 2]->expires > last->expires) {
        heap_up(heap, slot, last);
    } else {
        heap_down(heap, slot, last);
    }
}

/* Takes it out of the heap or the due list, whichever holds it. Queue lock. */
static void timer_unlink(Timer *timer)
{
    if (timer->slot) {
        heap_remove(&timer->loop->timers[timer->clock], timer);
    } else {
        list_remove(&timer->node);
    }
    __atomic_store_n(&timer->armed, false, __ATOMIC_RELAXED);
}

static void step_seen(void *opaque, unsigned events)
{
    Loop *loop = opaque;
    uint64_t count;
    ssize_t got = read(loop->step_fd, &count, sizeof(count)); /* ECANCELED: the clock was set */
    (void)got;
}

/* The host's wall clock may be set while a loop sleeps: a far-off timer descriptor tells. */
static void watch_wall_clock(Loop *loop)
{
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd < 0) {
        return;
    }
    struct itimerspec far = { .it_value.tv_sec = INT32_MAX };
    timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL);
    lock_acquire(&loop->queue_lock);
    bool first = loop->step_fd < 0;
    if (first) {
        loop->step_fd = fd;
    }
    lock_release(&loop->queue_lock);
    if (first) {
        loop->step_source = loop_add_fd(loop, fd, LOOP_READ, step_seen, loop);
    } else {
        close(fd);
    }
}

void timer_init(Timer *timer, Loop *loop, ClockId clock, LoopFn *fn, void *opaque)
{
    *timer = (Timer) { .loop = loop, .clock = clock, .fn = fn, .opaque = opaque };
    if (clock == CLOCK_HOST) {
        lock_acquire(&loop->queue_lock);
        bool watched = loop->step_fd >= 0;
        lock_release(&loop->queue_lock);
        if (!watched) {
            watch_wall_clock(loop);
        }
    }
}

void timer_fini(Timer *timer)
{
    if (timer->loop) {
        timer_cancel(timer);
        timer->loop = NULL;
    }
}

void timer_set(Timer *timer, int64_t expires)
{
    Loop *loop = timer->loop;
    TimerHeap *heap = &loop->timers[timer->clock];

    lock_acquire(&loop->queue_lock);
    if (timer->armed) {
        timer_unlink(timer);
    }
    timer->expires = expires;
    __atomic_store_n(&timer->armed, true, __ATOMIC_RELAXED);
    heap_insert(heap, timer);
    bool first = timer->slot == 1;
    lock_release(&loop->queue_lock);
    if (first) {
        loop_kick(loop);
    }
}

void timer_cancel(Timer *timer)
{
    Loop *loop = timer->loop;
    lock_acquire(&loop->queue_lock);
    if (timer->armed) {
        timer_unlink(timer);
    }
    lock_release(&loop->queue_lock);
}

/* Moves what has expired to the due list, so that a timer set in the past by a callback waits a
 * round. */
static void timers_collect(Loop *loop)
{
    for (int clock = 0; clock < CLOCK_COUNT; clock++) {
        TimerHeap *heap = &loop->timers[clock];
        if (!heap->count) {
            continue;
        }
        int64_t now = clock_now(loop->clocks, clock);
        while (heap->count && heap->at[1]->expires <= now) {
            Timer *timer = heap->at[1];
            heap_remove(heap, timer);
            list_append(&loop->due, &timer->node);
        }
    }
}

bool timers_run(Loop *loop)
{
    bool ran = false;

    lock_acquire(&loop->queue_lock);
    timers_collect(loop);
    for (ListNode *node; (node = list_pop(&loop->due));) {
        Timer *timer = container_of(node, Timer, node);
        LoopFn *fn = timer->fn;
        void *opaque = timer->opaque;
        __atomic_store_n(&timer->armed, false, __ATOMIC_RELAXED);
        lock_release(&loop->queue_lock);
        fn(opaque);
        ran = true;
        lock_acquire(&loop->queue_lock);
    }
    lock_release(&loop->queue_lock);
    return ran;
}

void loop_run_timers(Loop *loop)
{
    timers_run(loop);
}

int64_t loop_next_timer(Loop *loop, ClockId clock)
{
    const TimerHeap *heap = &loop->timers[clock];

    lock_acquire(&loop->queue_lock);
    int64_t expires = heap->count ? heap->at[1]->expires : INT64_MAX;
    lock_release(&loop->queue_lock);
    return expires;
}

int64_t timers_wait_ns(Loop *loop)
{
    int64_t wait = -1;

    lock_acquire(&loop->queue_lock);
    for (int clock = 0; clock < CLOCK_COUNT; clock++) {
        TimerHeap *heap = &loop->timers[clock];
        if (!heap->count) {
            continue;
        }
        int64_t left;
        if (__builtin_sub_overflow(heap->at[1]->expires, clock_now(loop->clocks, clock), &left)) {
            continue; /* centuries away */
        }
        if (left > 0 && !clock_advances(loop->clocks, clock)) {
            continue;
        }
        left = MAX(left, 0);
        wait = wait < 0 ? left : MIN(wait, left);
    }
    lock_release(&loop->queue_lock);
    return wait;
}

void timers_fini(Loop *loop)
{
    for (int clock = 0; clock < CLOCK_COUNT; clock++) {
        assert(loop->timers[clock].count == 0);
        g_free(loop->timers[clock].at);
    }
    if (loop->step_fd >= 0) {
        close(loop->step_fd);
    }
}
