/*
 * The clocks. Virtual time is monotonic host time plus an offset while it runs, and a constant
 * while it stands; both live behind a sequence count so that readers take no lock.
 */
#include "event/clock.h"

#include <stdatomic.h>
#include <time.h>

#include "base/lock.h"
#include "event/clock_priv.h"

typedef int64_t ClockSource(void *opaque);

struct Clocks {
    _Atomic unsigned sequence; /* odd: a change is under way */
    _Atomic bool running;
    _Atomic int64_t base; /* running: add host time; standing: the time itself */
    ClockSource *_Atomic source;
    void *_Atomic source_opaque;
    Lock lock; /* writers, watchers, follower */
    ClockFollower *follower;
    List watchers;
};

static int64_t host_now(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

Clocks *clocks_new(void)
{
    Clocks *clocks = g_new0(Clocks, 1);
    lock_init(&clocks->lock, "clocks", LOCK_RANK_LEAF);
    list_init(&clocks->watchers);
    atomic_init(&clocks->base, -host_now(CLOCK_MONOTONIC));
    atomic_init(&clocks->running, true);
    return clocks;
}

void clocks_free(Clocks *clocks)
{
    if (clocks) {
        assert(list_empty(&clocks->watchers));
        lock_fini(&clocks->lock);
        g_free(clocks);
    }
}

typedef struct ClockState {
    bool running;
    int64_t base;
    ClockSource *source;
    void *source_opaque;
} ClockState;

static ClockState clock_state(const Clocks *clocks)
{
    for (;;) {
        unsigned before = atomic_load_explicit(&clocks->sequence, memory_order_acquire);
        ClockState state = {
            .running = atomic_load_explicit(&clocks->running, memory_order_acquire),
            .base = atomic_load_explicit(&clocks->base, memory_order_acquire),
            .source = atomic_load_explicit(&clocks->source, memory_order_acquire),
            .source_opaque = atomic_load_explicit(&clocks->source_opaque, memory_order_acquire),
        };
        unsigned after = atomic_load_explicit(&clocks->sequence, memory_order_relaxed);
        if (likely(before == after && !(before & 1))) {
            return state;
        }
    }
}

static int64_t state_virtual(const ClockState *state)
{
    return state->running ? state->base + host_now(CLOCK_MONOTONIC) : state->base;
}

int64_t clock_now(const Clocks *clocks, ClockId id)
{
    switch (id) {
    case CLOCK_HOST:
        return host_now(CLOCK_REALTIME);
    case CLOCK_VIRTUAL: {
        ClockState state = clock_state(clocks);
        return state.source ? state.source(state.source_opaque) : state_virtual(&state);
    }
    case CLOCK_VIRTUAL_RT: {
        ClockState state = clock_state(clocks);
        return state_virtual(&state);
    }
    default:
        return host_now(CLOCK_MONOTONIC);
    }
}

bool clock_advances(const Clocks *clocks, ClockId id)
{
    switch (id) {
    case CLOCK_VIRTUAL: {
        ClockState state = clock_state(clocks);
        return state.running && !state.source;
    }
    case CLOCK_VIRTUAL_RT:
        return atomic_load(&clocks->running);
    default:
        return true;
    }
}

/* The body between these two writes base, running or source. */
static void change_begin(Clocks *clocks)
{
    lock_acquire(&clocks->lock);
    atomic_fetch_add(&clocks->sequence, 1);
}

static void change_end(Clocks *clocks)
{
    atomic_fetch_add(&clocks->sequence, 1);
    LIST_FOREACH (watcher, &clocks->watchers, ClockWatcher, node) {
        watcher->moved(watcher->opaque);
    }
    lock_release(&clocks->lock);
}

typedef struct Instant {
    int64_t ns;
    uint64_t count; /* the follower's */
} Instant;

/*
 * The thread may lose its processor between two readings: of some tries the one counts in which the follower's counter, read
 * before and after the clock, moved least.
 */
static Instant read_instant(const ClockFollower *follower)
{
    enum { TRIES = 8 };
    Instant best = { 0 };
    uint64_t least = UINT64_MAX;

    if (!follower) {
        return (Instant){ .ns = host_now(CLOCK_MONOTONIC) };
    }
    for (unsigned n = 0; n < TRIES; n++) {
        uint64_t before = follower->host();
        int64_t ns = host_now(CLOCK_MONOTONIC);
        uint64_t width = follower->host() - before;
        if (width < least) {
            least = width;
            best = (Instant){ ns, before + width / 2 };
        }
    }
    return best;
}

void clocks_set_running(Clocks *clocks, bool running)
{
    if (atomic_load(&clocks->running) == running) {
        return;
    }
    change_begin(clocks);
    Instant now = read_instant(clocks->follower);
    atomic_store(&clocks->base, atomic_load(&clocks->base) + (running ? -now.ns : now.ns));
    atomic_store(&clocks->running, running);
    if (clocks->follower) {
        clocks->follower->switched(clocks->follower, running, now.count);
    }
    change_end(clocks);
}

void clocks_set_follower(Clocks *clocks, ClockFollower *follower)
{
    lock_acquire(&clocks->lock);
    clocks->follower = follower;
    if (follower) {
        follower->switched(follower, atomic_load(&clocks->running), follower->host());
    }
    lock_release(&clocks->lock);
}

void clocks_set_virtual_source(Clocks *clocks, int64_t (*fn)(void *opaque), void *opaque)
{
    change_begin(clocks);
    atomic_store(&clocks->source_opaque, opaque);
    atomic_store(&clocks->source, fn);
    change_end(clocks);
}

void clocks_set_virtual(Clocks *clocks, int64_t ns)
{
    assert(!atomic_load(&clocks->running));
    change_begin(clocks);
    atomic_store(&clocks->base, ns);
    change_end(clocks);
}

void clocks_virtual_moved(Clocks *clocks)
{
    lock_acquire(&clocks->lock);
    LIST_FOREACH (watcher, &clocks->watchers, ClockWatcher, node) {
        watcher->moved(watcher->opaque);
    }
    lock_release(&clocks->lock);
}

void clocks_watch(Clocks *clocks, ClockWatcher *watcher)
{
    lock_acquire(&clocks->lock);
    list_append(&clocks->watchers, &watcher->node);
    lock_release(&clocks->lock);
}

void clocks_unwatch(Clocks *clocks, ClockWatcher *watcher)
{
    lock_acquire(&clocks->lock);
    list_remove(&watcher->node);
    lock_release(&clocks->lock);
}
