/* The loop itself: epoll, fd sources, one round. Timers and deferred work have files of their own.
 */
#include "event/loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "event/loop_priv.h"

struct LoopFd {
    Loop *loop;
    int fd;
    unsigned events;
    bool in_epoll, always_ready; /* always_ready: a regular file, which epoll does not take */
    _Atomic bool dead;
    LoopFdFn *fn;
    void *opaque;
    ListNode node;  /* loop->sources or loop->dead_sources */
    ListNode ready; /* loop->always_ready */
};

/* --- waking --- */

/* Async-signal-safe. Cheap when the loop is awake. */
void loop_kick(Loop *loop)
{
    if (loop->kicked) {
        loop->kicked(loop->kicked_opaque);
        return;
    }
    if (atomic_exchange(&loop->sleeping, false)) {
        int saved = errno;
        uint64_t one = 1;
        ssize_t put = write(loop->event_fd, &one, sizeof(one));
        (void)put; /* EAGAIN: it is readable already */
        errno = saved;
    }
}

static void kick_seen(void *opaque, unsigned events)
{
    Loop *loop = opaque;
    uint64_t count;
    ssize_t got = read(loop->event_fd, &count, sizeof(count));
    (void)got;
}

static void clocks_moved(void *opaque)
{
    loop_kick(opaque);
}

/* --- life --- */

Loop *loop_new(const char *name, Clocks *clocks, Lock *lock)
{
    Loop *loop = g_new0(Loop, 1);

    loop->name = g_strdup(name);
    loop->clocks = clocks;
    loop->lock = lock;
    lock_init(&loop->queue_lock, "loop", LOCK_RANK_LOOP);
    list_init(&loop->due);
    list_init(&loop->sources);
    list_init(&loop->always_ready);
    list_init(&loop->dead_sources);
    list_init(&loop->exits);
    loop->workers_max = WORKERS_MAX;
    atomic_init(&loop->owner, pthread_self());
    loop->step_fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (loop->epoll_fd < 0 || loop->event_fd < 0) {
        g_error("cannot make an event loop: %s", g_strerror(errno));
    }
    loop->event_source = loop_add_fd(loop, loop->event_fd, LOOP_READ, kick_seen, loop);
    loop->watcher = (ClockWatcher) { .moved = clocks_moved, .opaque = loop };
    clocks_watch(clocks, &loop->watcher);
    return loop;
}

static void reap_sources(Loop *loop)
{
    lock_acquire(&loop->queue_lock);
    for (ListNode *node; (node = list_pop(&loop->dead_sources));) {
        g_free(container_of(node, LoopFd, node));
    }
    lock_release(&loop->queue_lock);
}

void loop_free(Loop *loop)
{
    if (!loop) {
        return;
    }
    for (ListNode *node; (node = list_pop(&loop->exits));) {
        LoopExit *exit = container_of(node, LoopExit, node);
        exit->fn(exit->opaque);
    }
    workers_free(loop->pool);
    clocks_unwatch(loop->clocks, &loop->watcher);
    loop_del_fd(loop->event_source);
    loop_del_fd(loop->step_source);
    reap_sources(loop);
    assert(list_empty(&loop->sources));
    timers_fini(loop);
    work_discard(loop);
    co_stacks_free(loop);
    close(loop->epoll_fd);
    close(loop->event_fd);
    lock_fini(&loop->queue_lock);
    g_free(loop->name);
    g_free(loop);
}

bool loop_is_mine(const Loop *loop)
{
    return pthread_equal(atomic_load(&loop->owner), pthread_self());
}

void loop_claim(Loop *loop)
{
    atomic_store(&loop->owner, pthread_self());
}

void loop_add_exit(Loop *loop, LoopExit *exit)
{
    list_append(&loop->exits, &exit->node);
}

void loop_remove_exit(LoopExit *exit)
{
    list_remove(&exit->node);
}

void loop_set_poll(Loop *loop, int64_t max_ns, unsigned grow, unsigned shrink)
{
    atomic_store(&loop->poll_max_ns, max_ns);
    atomic_store(&loop->poll_grow, grow ? grow : 2);
    atomic_store(&loop->poll_shrink, shrink);
}

void loop_set_batch(Loop *loop, unsigned batch)
{
    loop->batch = batch;
}

unsigned loop_batch(const Loop *loop)
{
    return loop->batch;
}

Clocks *loop_clocks(const Loop *loop)
{
    return loop->clocks;
}

Lock *loop_lock(const Loop *loop)
{
    return loop->lock;
}

/* --- descriptors --- */

static uint32_t to_epoll(unsigned events)
{
    return (events & LOOP_READ ? EPOLLIN : 0) | (events & LOOP_WRITE ? EPOLLOUT : 0);
}

static unsigned from_epoll(uint32_t got, unsigned wanted)
{
    unsigned events = 0;
    if (got & EPOLLIN) {
        events |= LOOP_READ;
    }
    if (got & EPOLLOUT) {
        events |= LOOP_WRITE;
    }
    if (got & (EPOLLHUP | EPOLLERR)) {
        /* The next read or write tells what happened. */
        events |= LOOP_HANGUP | (wanted & (LOOP_READ | LOOP_WRITE));
    }
    return events & (wanted | LOOP_HANGUP);
}

/* Brings epoll in line with source->events. A source that wants nothing is taken out. Queue lock.
 */
static void source_update(LoopFd *source)
{
    Loop *loop = source->loop;
    struct epoll_event event = { .events = to_epoll(source->events), .data.ptr = source };

    if (source->always_ready) {
        return;
    }
    if (!source->events) {
        if (source->in_epoll) {
            epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, &event);
            source->in_epoll = false;
        }
        return;
    }
    int op = source->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(loop->epoll_fd, op, source->fd, &event) == 0) {
        source->in_epoll = true;
    } else if (errno == EPERM) {
        source->always_ready = true;
        list_append(&loop->always_ready, &source->ready);
    } else {
        g_error("loop %s: cannot watch descriptor %d: %s", loop->name, source->fd,
                g_strerror(errno));
    }
}

LoopFd *loop_add_fd(Loop *loop, int fd, unsigned events, LoopFdFn *fn, void *opaque)
{
    LoopFd *source = g_new0(LoopFd, 1);
    source->loop = loop;
    source->fd = fd;
    source->events = events;
    source->fn = fn;
    source->opaque = opaque;
    lock_acquire(&loop->queue_lock);
    list_append(&loop->sources, &source->node);
    source_update(source);
    bool kick = source->always_ready;
    lock_release(&loop->queue_lock);
    if (kick) {
        loop_kick(loop);
    }
    return source;
}

void loop_mod_fd(LoopFd *source, unsigned events)
{
    Loop *loop = source->loop;
    lock_acquire(&loop->queue_lock);
    if (source->events != events) {
        source->events = events;
        source_update(source);
    }
    bool kick = source->always_ready && events;
    lock_release(&loop->queue_lock);
    if (kick) {
        loop_kick(loop);
    }
}

/*
 * The loop may have fetched an event that points here, so the memory goes only after the round that
 * could see it (reap_sources).
 */
void loop_del_fd(LoopFd *source)
{
    if (!source) {
        return;
    }
    Loop *loop = source->loop;
    lock_acquire(&loop->queue_lock);
    source->events = 0;
    source_update(source);
    list_remove(&source->ready);
    atomic_store(&source->dead, true);
    list_remove(&source->node);
    list_append(&loop->dead_sources, &source->node);
    lock_release(&loop->queue_lock);
}

static bool source_dispatch(LoopFd *source, uint32_t got)
{
    Loop *loop = source->loop;
    lock_acquire(&loop->queue_lock);
    unsigned wanted = source->events;
    unsigned events = atomic_load(&source->dead) || !wanted ? 0 : from_epoll(got, wanted);
    LoopFdFn *fn = source->fn;
    void *opaque = source->opaque;
    lock_release(&loop->queue_lock);
    if (events) {
        fn(opaque, events);
    }
    return events && source != loop->event_source;
}

/* Regular files: as ready as they ask for. Taken one by one, since handlers may remove any of them.
 */
static bool always_ready_run(Loop *loop)
{
    List turn;
    bool ran = false;

    list_init(&turn);
    lock_acquire(&loop->queue_lock);
    for (ListNode *node; (node = list_pop(&loop->always_ready));) {
        list_append(&turn, node);
    }
    for (ListNode *node; (node = list_pop(&turn));) {
        LoopFd *source = container_of(node, LoopFd, ready);
        list_append(&loop->always_ready, node);
        lock_release(&loop->queue_lock);
        ran |= source_dispatch(source, EPOLLIN | EPOLLOUT);
        lock_acquire(&loop->queue_lock);
    }
    lock_release(&loop->queue_lock);
    return ran;
}

static bool always_ready_wanted(Loop *loop)
{
    bool wanted = false;
    lock_acquire(&loop->queue_lock);
    LIST_FOREACH (source, &loop->always_ready, LoopFd, ready) {
        wanted |= source->events != 0;
    }
    lock_release(&loop->queue_lock);
    return wanted;
}

/* --- rounds --- */

enum { EVENT_BATCH = 64 };

static int wait_events(Loop *loop, struct epoll_event *events, int64_t timeout_ns)
{
    struct timespec ts = { timeout_ns / NS_PER_SEC, timeout_ns % NS_PER_SEC };
    int count =
        epoll_pwait2(loop->epoll_fd, events, EVENT_BATCH, timeout_ns < 0 ? NULL : &ts, NULL);
    if (count < 0 && errno == ENOSYS) { /* before Linux 5.11: milliseconds, rounded up */
        int64_t ms = timeout_ns < 0 ? -1 : MIN((timeout_ns + NS_PER_MS - 1) / NS_PER_MS, INT32_MAX);
        count = epoll_wait(loop->epoll_fd, events, EVENT_BATCH, (int)ms);
    }
    return MAX(count, 0);
}

/* How long this round may sleep; called after `sleeping` was set. */
static int64_t round_timeout(Loop *loop, int64_t limit)
{
    if (work_pending(loop) || always_ready_wanted(loop) || atomic_load(&loop->quit)) {
        return 0;
    }
    int64_t wait = timers_wait_ns(loop);
    if (limit >= 0 && (wait < 0 || limit < wait)) {
        wait = limit;
    }
    return wait;
}

/* --- polling: who schedules work for a loop that is awake need not wake it --- */

enum { POLL_FIRST_NS = 4000 };

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * (int64_t)NS_PER_SEC + ts.tv_nsec;
}

static int poll_events(Loop *loop, struct epoll_event *events, int64_t until)
{
    int count;
    do {
        count = wait_events(loop, events, 0);
    } while (count == 0 && !atomic_load(&loop->incoming) && !atomic_load(&loop->quit) && now_ns() < until);
    return count;
}

/* Events came after so long a wait. */
static void poll_adapt(Loop *loop, int64_t waited)
{
    int64_t max = atomic_load(&loop->poll_max_ns);
    unsigned shrink = atomic_load(&loop->poll_shrink);
    if (waited > max) {
        loop->poll_ns = shrink ? loop->poll_ns / shrink : 0;
    } else if (waited > loop->poll_ns) {
        loop->poll_ns = loop->poll_ns ? MIN(loop->poll_ns * atomic_load(&loop->poll_grow), max) : MIN((int64_t)POLL_FIRST_NS, max);
    }
    loop->poll_ns = MIN(loop->poll_ns, max);
}

static int sleep_for_events(Loop *loop, struct epoll_event *events, int64_t timeout_ns)
{
    atomic_store(&loop->sleeping, true);
    int64_t wait = timeout_ns == 0 ? 0 : round_timeout(loop, timeout_ns);
    int count = wait_events(loop, events, wait);
    atomic_store(&loop->sleeping, false);
    return count;
}

static int poll_or_sleep(Loop *loop, struct epoll_event *events, int64_t timeout_ns)
{
    int64_t wait = round_timeout(loop, timeout_ns), start = now_ns();
    int count = 0;
    if (loop->poll_ns && wait != 0) {
        int64_t most = wait < 0 ? loop->poll_ns : MIN(wait, loop->poll_ns);
        count = poll_events(loop, events, start + most);
    }
    if (count == 0) {
        count = sleep_for_events(loop, events, timeout_ns);
    }
    if (wait != 0) {
        poll_adapt(loop, now_ns() - start);
    }
    return count;
}

bool loop_run_once(Loop *loop, int64_t timeout_ns)
{
    struct epoll_event events[EVENT_BATCH];
    bool ran = false;

    atomic_store(&loop->owner, pthread_self());
    bool polls = timeout_ns != 0 && atomic_load_explicit(&loop->poll_max_ns, memory_order_relaxed);
    int count = polls ? poll_or_sleep(loop, events, timeout_ns) : sleep_for_events(loop, events, timeout_ns);

    if (loop->lock) {
        lock_acquire(loop->lock);
    }
    loop->depth++;
    for (int i = 0; i < count; i++) {
        ran |= source_dispatch(events[i].data.ptr, events[i].events);
    }
    ran |= always_ready_run(loop);
    ran |= timers_run(loop);
    ran |= work_run(loop);
    if (--loop->depth == 0) {
        reap_sources(loop); /* an outer round may hold events of these */
    }
    if (loop->lock) {
        lock_release(loop->lock);
    }
    return ran;
}

void loop_set_kicked(Loop *loop, LoopFn *kicked, void *opaque)
{
    loop->kicked_opaque = opaque;
    loop->kicked = kicked;
}

void loop_run_due(Loop *loop)
{
    atomic_store(&loop->owner, pthread_self());
    timers_run(loop);
    work_run(loop);
}

bool loop_has_work(Loop *loop)
{
    return work_pending(loop);
}

void loop_run(Loop *loop)
{
    /* The default slack of 50 us would delay every short guest timer. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    atomic_store(&loop->owner, pthread_self());
    while (!atomic_load(&loop->quit)) {
        loop_run_once(loop, -1);
    }
    atomic_store(&loop->quit, false);
}

bool loop_is_quitting(const Loop *loop)
{
    return atomic_load(&loop->quit);
}

void loop_quit(Loop *loop)
{
    atomic_store(&loop->quit, true);
    loop_kick(loop);
}
