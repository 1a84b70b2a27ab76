/* Arithmetic on untrusted numbers: true and a result, or false on overflow. */
#ifndef OSTRICH_BASE_CHECKED_H
#define OSTRICH_BASE_CHECKED_H

#include "base/base.h"

static inline MUST_USE bool checked_add_u64(uint64_t a, uint64_t b, uint64_t *ret_sum)
{
    return !__builtin_add_overflow(a, b, ret_sum);
}

static inline MUST_USE bool checked_mul_u64(uint64_t a, uint64_t b, uint64_t *ret_product)
{
    return !__builtin_mul_overflow(a, b, ret_product);
}

/* Whether [start, start + length) lies inside [0, limit). */
static inline MUST_USE bool range_inside(uint64_t start, uint64_t length, uint64_t limit)
{
    return start <= limit && length <= limit - start;
}

#endif
