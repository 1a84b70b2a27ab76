/* Break- and watchpoints of a debugger; see debug.h. */
#include "core/vm/debug.h"

#include <stdatomic.h>

#include "accel/accel.h"

const DebugPoint *debug_point_find(const DebugPoints *points, uint64_t addr, uint64_t length, DebugKind kind)
{
    for (guint n = 0; n < points->points->len; n++) {
        const DebugPoint *point = &g_array_index(points->points, DebugPoint, n);
        if (debug_point_meets(point, addr, length, kind)) {
            return point;
        }
    }
    return NULL;
}

void debug_hit(DebugPoints *points, Vcpu *vcpu, const DebugPoint *point)
{
    /* Of several CPUs that hit something at once, one is told about; the others meet their points again. */
    points->vcpu = vcpu;
    points->hit = *point;
    pthread_mutex_lock(&vcpu->run_lock);
    vcpu->stop = true;
    pthread_mutex_unlock(&vcpu->run_lock);
    atomic_fetch_or(vcpu->exit_req, VCPU_REQ_STOP);
    machine_request_stop(vcpu->machine, RUN_STATE_DEBUG);
}

static void tell_vcpu(Vcpu *vcpu, void *opaque)
{
    const AccelType *accel = vcpu->machine->accel_type;

    if (vcpu->ops->debug_changed) {
        vcpu->ops->debug_changed(vcpu, opaque);
    }
    if (accel && accel->debug_changed) {
        accel->debug_changed(vcpu);
    }
}

void debug_points_changed(Machine *machine, DebugPoints *points)
{
    for (guint n = 0; n < machine->vcpus->len; n++) {
        vcpu_run_sync(g_ptr_array_index(machine->vcpus, n), tell_vcpu, points);
    }
}
