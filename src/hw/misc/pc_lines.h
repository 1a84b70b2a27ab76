/*
 * Lines of a PC's board that several chips drive.
 */
#ifndef OSTRICH_HW_MISC_PC_LINES_H
#define OSTRICH_HW_MISC_PC_LINES_H

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
typedef struct PcEdgeWaits {
    bool (*fn)(void *opaque, unsigned gsi);
    void *opaque;
} PcEdgeWaits;

static inline bool pc_edge_waits(Machine *machine, unsigned gsi)
{
    const PcEdgeWaits *waits = (const PcEdgeWaits *)machine_service(machine, PC_EDGE_WAITS_SERVICE);
    return waits && waits->fn(waits->opaque, gsi);
}

/* Whoever changed its output last decides. Machine lock. */
static inline void pc_set_a20(Machine *machine, bool open)
{
    irq_set((IrqLine *)machine_service(machine, PC_A20_SERVICE), open);
}

#endif
