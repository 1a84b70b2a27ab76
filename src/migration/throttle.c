/* Slows the guest down, so that it writes less memory than can be copied meanwhile. */
#include "migration/migration_priv.h"

static bool is_wanted(Vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->run_lock);
    bool wanted = vcpu->stop || vcpu->exit || !list_empty(&vcpu->work);
    pthread_mutex_unlock(&vcpu->run_lock);
    return wanted;
}

/* Sleeps on the CPU's thread for its share of each period, but keeps nobody waiting. */
static void nap(Vcpu *vcpu, void *opaque)
{
    enum { STEP_US = 2000 };

    for (gulong left = (gulong)(uintptr_t)opaque; left && !is_wanted(vcpu);) {
        gulong step = MIN(left, (gulong)STEP_US);
        g_usleep(step);
        left -= step;
    }
}

void migration_throttle(Machine *machine, int64_t *last_ns, unsigned percent)
{
    enum { PERIOD_US = 10000 };
    int64_t now = clock_now(machine->clocks, CLOCK_REALTIME_NS);

    if (!percent) {
        return;
    }
    /* The CPU runs for PERIOD_US between two naps. */
    uintptr_t length = (uintptr_t)PERIOD_US * percent / (100 - MIN(percent, 99u));
    if (*last_ns && now - *last_ns < (int64_t)(PERIOD_US + length) * 1000) {
        return;
    }
    *last_ns = now;
    for (guint n = 0; n < machine->vcpus->len; n++) {
        vcpu_run_async(g_ptr_array_index(machine->vcpus, n), nap, (void *)length);
    }
}
