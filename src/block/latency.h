/* How long requests of a disk took, counted in intervals that the user chose. Machine lock. */
#ifndef OSTRICH_BLOCK_LATENCY_H
#define OSTRICH_BLOCK_LATENCY_H

#include "base/error.h"
#include "value/value.h"

enum { LATENCY_READ, LATENCY_WRITE, LATENCY_FLUSH, LATENCY_KINDS };

typedef struct LatencyHistogram {
    size_t count;      /* of boundaries; 0: nothing is counted */
    int64_t *boundary; /* ns, ascending */
    uint64_t *bin;     /* count + 1: below the first, between two, from the last on */
} LatencyHistogram;

/* Starts at zero with a list of numbers; NULL: counts no more. */
Error *latency_set(LatencyHistogram *histogram, const Value *boundaries) MUST_USE;
void latency_note(LatencyHistogram *histogram, int64_t ns);
Value *latency_value(const LatencyHistogram *histogram); /* NULL: nothing is counted */

#endif
