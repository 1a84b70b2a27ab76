/*
 * Coroutines over contexts: starting, suspending, waking, the stack pool.
 *
 * Invariant 1: a coroutine is entered only from outside a yield of itself, on its loop's thread.
 * Invariant 2: `woken` is set by any thread; only the loop's thread clears it, when the coroutine
 *              consumes the wake. `work` brings a suspended coroutine back.
 */
#include "event/coroutine.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "event/context.h"
#include "event/loop_priv.h"

enum { STACK_SIZE = 256 * 1024, STACKS_KEPT = 64 };

/* Lies at the low end of the stack memory, just above the guard page. */
struct CoStack {
    CoStack *next;
};

/* What a callback of the loop waits for holds the loop and its lock for no longer. */
enum { IN_PLACE_US = 20000 };

struct Coroutine {
    Loop *loop;
    CoFn *fn;
    void *opaque;
    Context context, *caller;
    Coroutine *outer; /* the coroutine that started or resumed this one */
    CoStack *stack;
    Work work;
    _Atomic bool woken;
    bool suspended, finished;
    int64_t in_place_until; /* blocking calls are made on the spot before that time: see co_run(); 0: never */
};

static THREAD_LOCAL Coroutine *running;

/* --- stacks --- */

static size_t guard_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static CoStack *stack_get(Loop *loop)
{
    CoStack *stack = loop->free_stacks;
    if (stack) {
        loop->free_stacks = stack->next;
        loop->free_stack_count--;
        return stack;
    }
    size_t guard = guard_size();
    char *memory = mmap(NULL, STACK_SIZE + guard, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE)) {
        g_error("no memory for a coroutine's stack: %s", g_strerror(errno));
    }
    return (CoStack *)(memory + guard);
}

static void stack_unmap(CoStack *stack)
{
    size_t guard = guard_size();
    munmap((char *)stack - guard, STACK_SIZE + guard);
}

static void stack_put(Loop *loop, CoStack *stack)
{
    if (loop->free_stack_count < STACKS_KEPT) {
        stack->next = loop->free_stacks;
        loop->free_stacks = stack;
        loop->free_stack_count++;
    } else {
        stack_unmap(stack);
    }
}

void co_stacks_free(Loop *loop)
{
    for (CoStack *stack; (stack = loop->free_stacks);) {
        loop->free_stacks = stack->next;
        stack_unmap(stack);
    }
}

/* --- entering and leaving --- */

static void co_main(void *opaque)
{
    Coroutine *co = opaque;
    context_entered(co->caller);
    co->fn(co->opaque);
    co->finished = true;
    context_leave(&co->context, co->caller);
}

static void co_free(Coroutine *co)
{
    work_fini(&co->work);
    context_fini(&co->context);
    stack_put(co->loop, co->stack);
    g_free(co);
}

static void co_enter(Coroutine *co)
{
    Context thread_context = { 0 };

    assert(loop_is_mine(co->loop));
    co->outer = running;
    co->caller = running ? &running->context : &thread_context;
    co->suspended = false;
    running = co;
    context_switch(co->caller, &co->context);
    running = co->outer;
    if (co->finished) {
        co_free(co);
    }
}

static void co_resume(void *opaque)
{
    Coroutine *co = opaque;
    if (co->suspended && atomic_exchange(&co->woken, false)) {
        co_enter(co);
    }
}

static void co_begin(void *opaque)
{
    Coroutine *co = opaque;
    context_make(&co->context, (char *)(co->stack = stack_get(co->loop)) + sizeof(CoStack),
                 STACK_SIZE - sizeof(CoStack), co_main, co);
    work_init(&co->work, co->loop, co_resume, co);
    co_enter(co);
}

void co_start(Loop *loop, CoFn *fn, void *opaque)
{
    Coroutine *co = g_new0(Coroutine, 1);
    co->loop = loop;
    co->fn = fn;
    co->opaque = opaque;
    /* With a domain lock, being the thread is not enough: it may be outside a callback. */
    if (loop_is_mine(loop) && (!loop->lock || lock_held(loop->lock))) {
        co_begin(co);
    } else {
        loop_defer(loop, co_begin, co);
    }
}

typedef struct CoRun {
    CoFn *fn;
    void *opaque;
    bool done, in_place;
    pthread_cond_t *ended; /* another thread waits, with the loop's lock */
} CoRun;

static void run_co(void *opaque)
{
    CoRun *run = opaque;
    running->in_place_until = run->in_place ? g_get_monotonic_time() + IN_PLACE_US : 0;
    run->fn(run->opaque);
    run->done = true;
    if (run->ended) {
        pthread_cond_signal(run->ended);
    }
}

/* From a thread that does not run the loop and holds its lock, which the wait gives up. */
static void run_elsewhere(Loop *loop, CoRun *run)
{
    pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

    assert(loop->lock && lock_held(loop->lock));
    run->ended = &ended;
    co_start(loop, run_co, run);
    while (!run->done) {
        lock_wait(loop->lock, &ended);
    }
    pthread_cond_destroy(&ended);
}

void co_run(Loop *loop, CoFn *fn, void *opaque)
{
    bool locked = loop->lock && lock_held(loop->lock);
    CoRun run = { .fn = fn, .opaque = opaque };

    assert(!running);
    if (!loop_is_mine(loop)) {
        run_elsewhere(loop, &run);
        return;
    }
    run.in_place = loop->depth > 0;
    if (loop->lock && !locked) {
        lock_acquire(loop->lock);
    }
    co_start(loop, run_co, &run);
    while (!run.done) {
        if (loop->lock) {
            lock_release(loop->lock);
        }
        loop_run_once(loop, -1);
        if (loop->lock) {
            lock_acquire(loop->lock);
        }
    }
    if (loop->lock && !locked) {
        lock_release(loop->lock);
    }
}

Coroutine *co_self(void)
{
    return running;
}

/* Once its time is up, it stays so. */
bool co_in_place(void)
{
    if (running->in_place_until && g_get_monotonic_time() > running->in_place_until) {
        running->in_place_until = 0;
    }
    return running->in_place_until != 0;
}

Loop *co_loop(void)
{
    return running->loop;
}

void co_yield (void)
{
    Coroutine *co = running;
    assert(co);
    if (atomic_exchange(&co->woken, false)) {
        return;
    }
    co->suspended = true;
    context_switch(&co->context, co->caller);
}

void co_wake(Coroutine *co)
{
    if (!atomic_exchange(&co->woken, true)) {
        work_schedule(&co->work);
    }
}

/* --- waiting for the loop's events --- */

typedef struct CoWait {
    Coroutine *co;
    bool done;
    int result;
    int (*fn)(void *opaque);
    void *opaque;
} CoWait;

static void wait_over(CoWait *wait)
{
    wait->done = true;
    /* On the loop's own thread and outside coroutines the detour over the work queue is not needed.
     */
    if (!running && wait->co->suspended) {
        co_enter(wait->co);
    } else {
        co_wake(wait->co);
    }
}

static void wait_for(CoWait *wait)
{
    while (!wait->done) {
        co_yield ();
    }
}

static void slept(void *opaque)
{
    wait_over(opaque);
}

void co_sleep_ns(ClockId clock, int64_t ns)
{
    CoWait wait = { .co = running };
    Timer timer;
    timer_init(&timer, running->loop, clock, slept, &wait);
    timer_set(&timer, clock_now(running->loop->clocks, clock) + ns);
    wait_for(&wait);
    timer_fini(&timer);
}

static int call_blocking(void *opaque)
{
    CoWait *wait = opaque;
    return wait->fn(wait->opaque);
}

static void call_done(void *opaque, int result)
{
    CoWait *wait = opaque;
    wait->result = result;
    wait_over(wait);
}

int co_blocking(int (*fn)(void *opaque), void *opaque)
{
    return co_in_place() ? fn(opaque) : co_blocking_long(fn, opaque);
}

int co_blocking_long(int (*fn)(void *opaque), void *opaque)
{
    CoWait wait = { .co = running, .fn = fn, .opaque = opaque };
    loop_submit_blocking(running->loop, call_blocking, call_done, &wait);
    wait_for(&wait);
    return wait.result;
}

typedef struct CoFdWait {
    CoWait wait;
    LoopFd *source;
} CoFdWait;

static void fd_ready(void *opaque, unsigned events)
{
    CoFdWait *wait = opaque;
    loop_mod_fd(wait->source, 0);
    wait_over(&wait->wait);
}

void co_wait_fd(int fd, unsigned events)
{
    CoFdWait wait = { .wait.co = running };
    wait.source = loop_add_fd(running->loop, fd, events, fd_ready, &wait);
    wait_for(&wait.wait);
    loop_del_fd(wait.source);
}
