/*
 * Interrupt lines: a wire from a device's output to somebody's input. Setting a level that the wire
 * already has is allowed and cheap. Threads: the lock of the sink's domain is taken by the sink.
 */
#ifndef OSTRICH_CORE_DEV_IRQ_H
#define OSTRICH_CORE_DEV_IRQ_H

#include "base/base.h"

typedef void IrqFn(void *opaque, int n, int level);

typedef struct IrqLine {
    IrqFn *fn;
    void *opaque;
    int n;
} IrqLine;

/* line may be NULL or unconnected: nothing happens. */
static inline void irq_set(const IrqLine *line, int level)
{
    if (line && line->fn) {
        line->fn(line->opaque, line->n, level);
    }
}

static inline void irq_pulse(const IrqLine *line)
{
    irq_set(line, 1);
    irq_set(line, 0);
}

static inline void irq_line_init(IrqLine *line, IrqFn *fn, void *opaque, int n)
{
    *line = (IrqLine) { fn, opaque, n };
}

#endif
