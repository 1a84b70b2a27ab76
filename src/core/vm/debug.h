/*
 * What a debugger asks of the CPUs: to stop before an instruction or after an access. One debugger a machine.
 *
 * The points change only while every vCPU stands still; whoever changes them calls debug_points_changed().
 * A vCPU that meets a point stops by itself and asks the main loop to stop the machine (state debug).
 */
#ifndef OSTRICH_CORE_VM_DEBUG_H
#define OSTRICH_CORE_VM_DEBUG_H

#include "core/vm/machine.h"

typedef enum DebugKind { DEBUG_EXEC, DEBUG_WRITE, DEBUG_READ, DEBUG_ACCESS } DebugKind;

typedef struct DebugPoint {
    DebugKind kind;
    uint64_t addr, length; /* linear addresses */
} DebugPoint;

struct DebugPoints {
    GArray *points; /* DebugPoint */
    unsigned data;  /* how many are not DEBUG_EXEC */
    /* The last hit, told by the vCPU before it stops. */
    Vcpu *vcpu;
    DebugPoint hit;
};

static inline bool debug_point_meets(const DebugPoint *point, uint64_t addr, uint64_t length, DebugKind kind)
{
    bool kinds = point->kind == kind || (point->kind == DEBUG_ACCESS && kind != DEBUG_EXEC);
    return kinds && addr < point->addr + point->length && point->addr < addr + length;
}
/* The point that an access of this kind meets, or NULL. */
const DebugPoint *debug_point_find(const DebugPoints *points, uint64_t addr, uint64_t length, DebugKind kind);
/* On the vCPU's thread: it stops at its next poll point, and then the machine. */
void debug_hit(DebugPoints *points, Vcpu *vcpu, const DebugPoint *point);

/* Main loop, vCPUs stand still. points NULL: no debugger any more. */
void debug_points_changed(Machine *machine, DebugPoints *points);

#endif
