/* Bit fields of integers. */
#ifndef OSTRICH_BASE_BITS_H
#define OSTRICH_BASE_BITS_H

#include "base/base.h"

/* Bits [start, start + length) of value; length 1 to 64. */
static inline uint64_t extract64(uint64_t value, unsigned start, unsigned length)
{
    return (value >> start) & (~0ull >> (64 - length));
}

static inline uint64_t deposit64(uint64_t value, unsigned start, unsigned length, uint64_t field)
{
    uint64_t mask = (~0ull >> (64 - length)) << start;
    return (value & ~mask) | ((field << start) & mask);
}

static inline uint64_t sign_extend64(uint64_t value, unsigned width)
{
    return (uint64_t)((int64_t)(value << (64 - width)) >> (64 - width));
}

/* Mask of the low size bytes; size 1 to 8. */
static inline uint64_t size_mask(unsigned size)
{
    return ~0ull >> (64 - 8 * size);
}

#endif
