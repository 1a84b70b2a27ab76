/*
 * vCPU threads: kicking, queued work, and the pause protocol.
 *
 * Invariant 1: whoever wants a CPU's attention sets a bit of *exit_req first and then looks at `halted` and
 * `naps`; the CPU sets these first and then looks at *exit_req under run_lock. So no wake-up is lost.
 * Invariant 2: `stopped` is true only while the CPU's thread waits in vcpu_wait_until_runnable().
 */
#include "core/vm/vcpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/thread.h"
#include "core/vm/icount.h"
#include "core/vm/machine.h"
#include "core/vm/sandbox.h"

typedef struct VcpuWork {
    ListNode node;
    void (*fn)(Vcpu *vcpu, void *opaque);
    void *opaque;
    bool *done; /* of a waiter, guarded by run_lock; NULL: none */
} VcpuWork;

static THREAD_LOCAL Vcpu *current;

Vcpu *vcpu_self(void)
{
    return current;
}

void vcpu_init(Vcpu *vcpu, Machine *machine, unsigned index)
{
    vcpu->machine = machine;
    vcpu->index = index;
    pthread_mutex_init(&vcpu->run_lock, NULL);
    pthread_cond_init(&vcpu->wake, NULL);
    pthread_cond_init(&vcpu->stopped_cond, NULL);
    list_init(&vcpu->work);
    vcpu->stop = true;
}

Vcpu *vcpu_at(const Machine *machine, unsigned index)
{
    for (guint n = 0; n < machine->vcpus->len; n++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, n);
        if (vcpu->index == index) {
            return vcpu;
        }
    }
    return NULL;
}

void vcpu_enter(Vcpu *vcpu)
{
    GPtrArray *vcpus = vcpu->machine->vcpus;
    guint at = 0;
    while (at < vcpus->len && ((Vcpu *)g_ptr_array_index(vcpus, at))->index < vcpu->index) {
        at++;
    }
    g_ptr_array_insert(vcpus, (gint)at, vcpu);
}

void vcpu_leave(Vcpu *vcpu)
{
    g_ptr_array_remove(vcpu->machine->vcpus, vcpu);
}

void vcpu_fini(Vcpu *vcpu)
{
    if (vcpu->created) {
        pthread_mutex_lock(&vcpu->run_lock);
        vcpu->exit = true;
        pthread_mutex_unlock(&vcpu->run_lock);
        vcpu_kick(vcpu, VCPU_REQ_STOP);
        /* The thread may be waiting for the machine lock. */
        bool held = lock_held(&vcpu->machine->lock);
        if (held) {
            lock_release(&vcpu->machine->lock);
        }
        pthread_join(vcpu->thread, NULL);
        if (held) {
            lock_acquire(&vcpu->machine->lock);
        }
        vcpu->created = false;
        vcpu_run_queued(vcpu); /* others count on what they asked for, even of a CPU that goes */
    }
    if (vcpu->machine) {
        pthread_cond_destroy(&vcpu->stopped_cond);
        pthread_cond_destroy(&vcpu->wake);
        pthread_mutex_destroy(&vcpu->run_lock);
    }
}

static void wake_thread(Vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->run_lock);
    pthread_cond_broadcast(&vcpu->wake);
    pthread_mutex_unlock(&vcpu->run_lock);
}

void vcpu_kick(Vcpu *vcpu, uint32_t requests)
{
    const AccelType *accel = vcpu->machine->accel_type;

    atomic_fetch_or(vcpu->exit_req, requests);
    if ((requests & (VCPU_REQ_WORK | VCPU_REQ_STOP)) || atomic_load(&vcpu->halted) || atomic_load(&vcpu->naps)) {
        wake_thread(vcpu);
    }
    if (vcpu->machine->icount) {
        icount_kick(vcpu->machine->icount);
    }
    if (accel && accel->vcpu_kick && current != vcpu) {
        accel->vcpu_kick(vcpu);
    }
}

/* --- queued work --- */

static void queue_work(Vcpu *vcpu, void (*fn)(Vcpu *, void *), void *opaque, bool *done)
{
    VcpuWork *work = g_new0(VcpuWork, 1);
    work->fn = fn;
    work->opaque = opaque;
    work->done = done;
    pthread_mutex_lock(&vcpu->run_lock);
    list_append(&vcpu->work, &work->node);
    pthread_mutex_unlock(&vcpu->run_lock);
    vcpu_kick(vcpu, VCPU_REQ_WORK);
}

void vcpu_run_async(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque)
{
    queue_work(vcpu, fn, opaque, NULL);
}

void vcpu_run_sync(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque)
{
    bool done = false;

    if (current == vcpu || !vcpu->created) {
        fn(vcpu, opaque);
        return;
    }
    bool held = lock_held(&vcpu->machine->lock);
    queue_work(vcpu, fn, opaque, &done);
    /* The CPU may be waiting for the machine lock inside a device. */
    if (held) {
        lock_release(&vcpu->machine->lock);
    }
    pthread_mutex_lock(&vcpu->run_lock);
    while (!done) {
        pthread_cond_wait(&vcpu->stopped_cond, &vcpu->run_lock);
    }
    pthread_mutex_unlock(&vcpu->run_lock);
    if (held) {
        lock_acquire(&vcpu->machine->lock);
    }
}

void vcpu_run_queued(Vcpu *vcpu)
{
    atomic_fetch_and(vcpu->exit_req, ~(uint32_t)VCPU_REQ_WORK);
    pthread_mutex_lock(&vcpu->run_lock);
    for (ListNode *node; (node = list_pop(&vcpu->work));) {
        VcpuWork *work = container_of(node, VcpuWork, node);
        pthread_mutex_unlock(&vcpu->run_lock);
        work->fn(vcpu, work->opaque);
        pthread_mutex_lock(&vcpu->run_lock);
        if (work->done) {
            *work->done = true;
            pthread_cond_broadcast(&vcpu->stopped_cond);
        }
        g_free(work);
    }
    pthread_mutex_unlock(&vcpu->run_lock);
}

/* --- the thread --- */

/* -overcommit cpu-pm=on: HLT ends without a wake-up by the host, at the price of a busy host CPU. */
static void spin(Vcpu *vcpu)
{
    enum { ROUNDS = 1000 };
    for (unsigned n = 0; n < ROUNDS && atomic_load_explicit(vcpu->exit_req, memory_order_relaxed) == 0; n++) {
        sched_yield();
    }
}

static bool must_sleep(Vcpu *vcpu)
{
    if (vcpu->machine->icount) {
        return !icount_may_run(vcpu->machine->icount, vcpu); /* who may sees to idle time itself */
    }
    return atomic_load(&vcpu->halted) && !vcpu->ops->has_work(vcpu);
}

bool vcpu_wait_until_runnable(Vcpu *vcpu)
{
    bool go_on;

    pthread_mutex_lock(&vcpu->run_lock);
    for (;;) {
        if (!list_empty(&vcpu->work)) {
            pthread_mutex_unlock(&vcpu->run_lock);
            vcpu_run_queued(vcpu);
            pthread_mutex_lock(&vcpu->run_lock);
            continue;
        }
        if (vcpu->exit) {
            go_on = false;
            break;
        }
        if (vcpu->stop) {
            if (!vcpu->stopped) {
                vcpu->stopped = true;
                pthread_cond_broadcast(&vcpu->stopped_cond);
            }
            pthread_cond_wait(&vcpu->wake, &vcpu->run_lock);
            continue;
        }
        vcpu->stopped = false;
        if (must_sleep(vcpu)) {
            if (vcpu->machine->config->cpu_pm) {
                pthread_mutex_unlock(&vcpu->run_lock);
                spin(vcpu);
                pthread_mutex_lock(&vcpu->run_lock);
            } else {
                pthread_cond_wait(&vcpu->wake, &vcpu->run_lock);
            }
            continue;
        }
        go_on = true;
        break;
    }
    /* No work is left here: whoever queues more sets the bit after the work is in the list. */
    atomic_fetch_and(vcpu->exit_req, ~(uint32_t)(VCPU_REQ_STOP | VCPU_REQ_WORK | VCPU_REQ_RESET));
    pthread_mutex_unlock(&vcpu->run_lock);
    return go_on;
}

void vcpu_nap(Vcpu *vcpu, unsigned us)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += (long)us * 1000;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&vcpu->run_lock);
    atomic_store(&vcpu->naps, true);
    if (atomic_load(vcpu->exit_req) == 0) {
        pthread_cond_clockwait(&vcpu->wake, &vcpu->run_lock, CLOCK_MONOTONIC, &end);
    }
    atomic_store(&vcpu->naps, false);
    pthread_mutex_unlock(&vcpu->run_lock);
}

static void *vcpu_main(void *opaque)
{
    Vcpu *vcpu = opaque;
    g_autofree char *name = g_strdup_printf("CPU %u", vcpu->index);

    thread_keep_own_signals(NULL);
    pthread_setname_np(pthread_self(), name);
    current = vcpu;
    vcpu->thread_id = gettid();
    sandbox_enter_vcpu(vcpu);
    vcpu->machine->accel_type->vcpu_thread(vcpu);
    pthread_mutex_lock(&vcpu->run_lock);
    vcpu->stopped = true;
    pthread_cond_broadcast(&vcpu->stopped_cond);
    pthread_mutex_unlock(&vcpu->run_lock);
    return NULL;
}

void machine_launch_vcpus(Machine *machine)
{
    machine->launched = true;
    if (!machine->accel_type || !machine->accel_type->vcpu_thread) {
        return;
    }
    for (guint i = 0; i < machine->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, i);
        if (!vcpu->created) {
            vcpu->created = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu) == 0;
            if (!vcpu->created) {
                g_error("cannot make the thread of CPU %u", vcpu->index);
            }
        }
    }
}

void vcpu_stop_self(void)
{
    if (current) {
        pthread_mutex_lock(&current->run_lock);
        current->stop = true;
        pthread_mutex_unlock(&current->run_lock);
        atomic_fetch_or(current->exit_req, VCPU_REQ_STOP);
    }
}

void machine_pause_vcpus(Machine *machine)
{
    assert(!current);
    if (machine->pause_depth++) {
        return;
    }
    for (guint i = 0; i < machine->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, i);
        pthread_mutex_lock(&vcpu->run_lock);
        vcpu->stop = true;
        pthread_mutex_unlock(&vcpu->run_lock);
        vcpu_kick(vcpu, VCPU_REQ_STOP);
    }
    lock_release(&machine->lock);
    for (guint i = 0; i < machine->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, i);
        pthread_mutex_lock(&vcpu->run_lock);
        while (vcpu->created && !vcpu->stopped) {
            pthread_cond_wait(&vcpu->stopped_cond, &vcpu->run_lock);
        }
        pthread_mutex_unlock(&vcpu->run_lock);
    }
    lock_acquire(&machine->lock);
}

void machine_resume_vcpus(Machine *machine)
{
    assert(machine->pause_depth);
    if (--machine->pause_depth) {
        return;
    }
    for (guint i = 0; i < machine->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, i);
        pthread_mutex_lock(&vcpu->run_lock);
        vcpu->stop = false;
        vcpu->stopped = false;
        pthread_cond_broadcast(&vcpu->wake);
        pthread_mutex_unlock(&vcpu->run_lock);
    }
}
