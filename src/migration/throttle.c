/* Slows the guest down, so that it writes less memory than can be copied meanwhile. */
#include "migration/migration_priv.h"

enum { STEP_US = 2000 };

/* Sleeps on the CPU's thread for its share of each period, but keeps nobody waiting: other work is done in between. */
static void nap(Vcpu *vcpu, void *opaque)
{
    gulong left = (gulong)(uintptr_t)opaque;
    bool stops = false, busy = false;

    while (left && !stops && !busy) {
        gulong step = MIN(left, (gulong)STEP_US);
        g_usleep(step);
        left -= step;
        pthread_mutex_lock(&vcpu->run_lock);
        stops = vcpu->stop || vcpu->exit;
        busy = !list_empty(&vcpu->work);
        pthread_mutex_unlock(&vcpu->run_lock);
    }
    if (left && !stops) {
        vcpu_run_async(vcpu, nap, (void *)(uintptr_t)left);
    }
}

void migration_throttle(Machine *machine, int64_t *next_ns, unsigned percent)
{
    enum { PERIOD_US = 10000 };
    int64_t now = clock_now(machine->clocks, CLOCK_REALTIME_NS);

    if (!percent) {
        return;
    }
    /* The CPU runs for PERIOD_US between two naps. */
    uintptr_t length = (uintptr_t)PERIOD_US * percent / (100 - MIN(percent, 99u));
    if (now < *next_ns) {
        return;
    }
    *next_ns = now + (int64_t)(PERIOD_US + length) * 1000;
    for (guint n = 0; n < machine->vcpus->len; n++) {
        vcpu_run_async(g_ptr_array_index(machine->vcpus, n), nap, (void *)length);
    }
}
