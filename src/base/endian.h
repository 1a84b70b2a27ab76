/* Explicit-endian access to byte buffers of any alignment. */
#ifndef OSTRICH_BASE_ENDIAN_H
#define OSTRICH_BASE_ENDIAN_H

#include <string.h>

#include "base/base.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#define ENDIAN_LE(bits, v) __builtin_bswap##bits(v)
#define ENDIAN_BE(bits, v) (v)
#else
#define ENDIAN_LE(bits, v) (v)
#define ENDIAN_BE(bits, v) __builtin_bswap##bits(v)
#endif

#define ENDIAN_ACCESSORS(bits)                                                                     \
    static inline uint##bits##_t ld##bits##_le(const void *p)                                      \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return ENDIAN_LE(bits, v);                                                                 \
    }                                                                                              \
    static inline uint##bits##_t ld##bits##_be(const void *p)                                      \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return ENDIAN_BE(bits, v);                                                                 \
    }                                                                                              \
    static inline void st##bits##_le(void *p, uint##bits##_t v)                                    \
    {                                                                                              \
        v = ENDIAN_LE(bits, v);                                                                    \
        memcpy(p, &v, sizeof(v));                                                                  \
    }                                                                                              \
    static inline void st##bits##_be(void *p, uint##bits##_t v)                                    \
    {                                                                                              \
        v = ENDIAN_BE(bits, v);                                                                    \
        memcpy(p, &v, sizeof(v));                                                                  \
    }
ENDIAN_ACCESSORS(16)
ENDIAN_ACCESSORS(32)
ENDIAN_ACCESSORS(64)
#undef ENDIAN_ACCESSORS

/* size 1, 2, 4 or 8 bytes, little endian. */
static inline uint64_t ld_le(const void *p, unsigned size)
{
    switch (size) {
    case 1:
        return *(const uint8_t *)p;
    case 2:
        return ld16_le(p);
    case 4:
        return ld32_le(p);
    default:
        return ld64_le(p);
    }
}

static inline void st_le(void *p, uint64_t v, unsigned size)
{
    switch (size) {
    case 1:
        *(uint8_t *)p = (uint8_t)v;
        break;
    case 2:
        st16_le(p, (uint16_t)v);
        break;
    case 4:
        st32_le(p, (uint32_t)v);
        break;
    default:
        st64_le(p, v);
        break;
    }
}

#endif
