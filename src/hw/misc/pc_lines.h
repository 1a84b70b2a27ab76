/*
 * Lines of a PC's board that several chips drive.
 */
#ifndef OSTRICH_HW_MISC_PC_LINES_H
#define OSTRICH_HW_MISC_PC_LINES_H

#include <stdatomic.h>

#include "core/vm/machine.h"

/* The board offers an IrqLine under this service; level 1: bit 20 of addresses passes. */
#define PC_A20_SERVICE "a20"
/* An IrqLine that a CPU raises at an unmasked x87 error with CR0.NE clear. Any thread. */
#define PC_FERR_SERVICE "ferr"

/* IrqLine[PC_GSI_COUNT]: the global system interrupts. Any thread; the sinks take their locks. */
#define PC_GSI_SERVICE "gsi"
#define PC_GSI_COUNT 24

/*
 * A PcEdgeWaits: whether an edge of a global system interrupt is still on its way to a CPU, so that another one would
 * be lost. Timers that count for a guest wait for it. Any thread.
 */
#define PC_EDGE_WAITS_SERVICE "gsi-edge-waits"

/* Of a timer that has more edges to give: `taken` runs once the edge is taken, on the thread of the CPU that did, with no lock held. */
typedef struct PcEdgeWatch {
    void (*taken)(void *opaque);
    void *opaque;
    _Atomic unsigned gsi;
    _Atomic bool armed;
    bool listed;
} PcEdgeWatch;

typedef struct PcEdgeWaits {
    bool (*fn)(void *opaque, unsigned gsi);
    void *opaque;
    void (*list)(void *opaque, PcEdgeWatch *watch); /* looks at it whenever a vector is taken. Machine lock. NULL: cannot */
} PcEdgeWaits;

static inline bool pc_edge_waits(Machine *machine, unsigned gsi)
{
    const PcEdgeWaits *waits = (const PcEdgeWaits *)machine_service(machine, PC_EDGE_WAITS_SERVICE);
    return waits && waits->fn(waits->opaque, gsi);
}

/*
 * For the edge that is sent next, or waits: arm first, so that a CPU that is quick is not missed. Until it is called, or
 * pc_edge_unwatch(). A watch lives as long as the machine. Machine lock.
 */
static inline void pc_edge_watch(Machine *machine, PcEdgeWatch *watch, unsigned gsi)
{
    const PcEdgeWaits *waits = (const PcEdgeWaits *)machine_service(machine, PC_EDGE_WAITS_SERVICE);
    if (!waits || !waits->list) {
        return;
    }
    if (!watch->listed) {
        watch->listed = true;
        waits->list(waits->opaque, watch);
    }
    atomic_store(&watch->gsi, gsi);
    atomic_store(&watch->armed, true);
}

static inline void pc_edge_unwatch(PcEdgeWatch *watch)
{
    atomic_store(&watch->armed, false);
}

/* Whoever changed its output last decides. Machine lock. */
static inline void pc_set_a20(Machine *machine, bool open)
{
    irq_set((IrqLine *)machine_service(machine, PC_A20_SERVICE), open);
}

#endif
