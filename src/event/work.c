/*
 * Deferred work: a lock-free stack that any thread pushes to; the loop turns it round into
 * first-come order. Cancelling takes the stack over in the same way and unlinks the item.
 */
#include "event/loop_priv.h"

void work_init(Work *work, Loop *loop, LoopFn *fn, void *opaque)
{
    *work = (Work) { .loop = loop, .fn = fn, .opaque = opaque };
}

void work_fini(Work *work)
{
    if (work->loop) {
        work_cancel(work);
        work->loop = NULL;
    }
}

void work_schedule(Work *work)
{
    Loop *loop = work->loop;

    if (atomic_exchange(&work->scheduled, true)) {
        return;
    }
    Work *head = atomic_load_explicit(&loop->incoming, memory_order_relaxed);
    do {
        work->next = head;
    } while (!atomic_compare_exchange_weak(&loop->incoming, &head, work));
    loop_kick(loop);
}

/* Appends the incoming stack, oldest first, to the taken list. Queue lock. */
static void work_take(Loop *loop)
{
    Work *stack = atomic_exchange(&loop->incoming, NULL), *fifo = NULL;

    while (stack) {
        Work *next = stack->next;
        stack->next = fifo;
        fifo = stack;
        stack = next;
    }
    Work **tail = &loop->taken;
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = fifo;
}

void work_cancel(Work *work)
{
    Loop *loop = work->loop;

    if (!atomic_load(&work->scheduled)) {
        return;
    }
    lock_acquire(&loop->queue_lock);
    work_take(loop);
    for (Work **at = &loop->taken; *at; at = &(*at)->next) {
        if (*at == work) {
            *at = work->next;
            atomic_store(&work->scheduled, false);
            break;
        }
    }
    lock_release(&loop->queue_lock);
}

bool work_pending(Loop *loop)
{
    lock_acquire(&loop->queue_lock);
    bool pending = atomic_load(&loop->incoming) || loop->taken;
    lock_release(&loop->queue_lock);
    return pending;
}

/* Callbacks may schedule more: some passes are made before descriptors get their turn again. */
bool work_run(Loop *loop)
{
    enum { PASSES = 16 };
    bool ran = false;

    for (int pass = 0; pass < PASSES && work_pending(loop); pass++) {
        lock_acquire(&loop->queue_lock);
        work_take(loop);
        /* What is scheduled from now on stays on the stack, unless a cancel takes it over. */
        unsigned budget = 1024;
        while (loop->taken && budget--) {
            Work *work = loop->taken;
            loop->taken = work->next;
            LoopFn *fn = work->fn;
            void *opaque = work->opaque;
            atomic_store(&work->scheduled, false);
            lock_release(&loop->queue_lock);
            fn(opaque);
            ran = true;
            lock_acquire(&loop->queue_lock);
        }
        lock_release(&loop->queue_lock);
    }
    return ran;
}

typedef struct Deferred {
    Work work;
    LoopFn *fn;
    void *opaque;
} Deferred;

static void deferred_run(void *opaque)
{
    Deferred *deferred = opaque;
    LoopFn *fn = deferred->fn;
    void *fn_opaque = deferred->opaque;
    g_free(deferred);
    fn(fn_opaque);
}

void loop_defer(Loop *loop, LoopFn *fn, void *opaque)
{
    Deferred *deferred = g_new0(Deferred, 1);
    deferred->fn = fn;
    deferred->opaque = opaque;
    work_init(&deferred->work, loop, deferred_run, deferred);
    work_schedule(&deferred->work);
}

void work_discard(Loop *loop)
{
    lock_acquire(&loop->queue_lock);
    work_take(loop);
    while (loop->taken) {
        Work *work = loop->taken;
        loop->taken = work->next;
        if (work->fn == deferred_run) {
            g_free(work->opaque);
        }
    }
    lock_release(&loop->queue_lock);
}
