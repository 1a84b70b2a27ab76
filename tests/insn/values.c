/*
 * Random values that find faults: extremes, edges of pages, every class of floating-point number.
 */
#include "insn_fuzz.h"

#include <string.h>

#include "base/endian.h"

uint64_t rng_next(Rng *rng)
{
    uint64_t z = (rng->s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static uint64_t value_integer(Rng *rng)
{
    static const uint64_t edges[] = {
        0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
        0x7fffffffffffffff, 0x8000000000000000, ~0ull, ~1ull, 0xffffffff80000000, 0x5555555555555555,
        0x8000000080000000, 0xff00ff00ff00ff00,
    };
    switch (rng_below(rng, 6)) {
    case 0:
    case 1:
        return edges[rng_below(rng, ARRAY_SIZE(edges))];
    case 2:
        return rng_below(rng, 72);
    case 3:
        return rng_next(rng) & 0xffffffff;
    case 4:
        return rng_next(rng) >> rng_below(rng, 64);
    default:
        return rng_next(rng);
    }
}

/* An address in or near the data pages. */
static uint64_t value_pointer(Rng *rng)
{
    unsigned kind = rng_below(rng, 20);
    if (kind < 12) {
        return FUZZ_DATA + 512 + (rng_below(rng, FUZZ_DATA_SIZE - 1024) & (rng_chance(rng, 60) ? ~15u : ~0u));
    }
    if (kind < 15) {
        return FUZZ_DATA + 4096 - 64 + rng_below(rng, 128);
    }
    if (kind < 17) {
        return FUZZ_RO - rng_below(rng, 128);
    }
    if (kind < 18) {
        return FUZZ_RO + FUZZ_RO_SIZE - rng_below(rng, 96);
    }
    if (kind < 19) {
        return FUZZ_DATA + rng_below(rng, 64) - 16;
    }
    return rng_chance(rng, 50) ? 0x7ffffffffff0ull + rng_below(rng, 32) : value_integer(rng);
}

/* Up to 64 bytes before, or a few behind, a border: between the writable pages, to the read-only one, to nothing. */
static uint64_t value_edge(Rng *rng)
{
    static const uint64_t borders[] = { FUZZ_DATA, FUZZ_DATA + 4096, FUZZ_DATA + 4096, FUZZ_RO, FUZZ_RO, FUZZ_RO + FUZZ_RO_SIZE };
    uint64_t at = borders[rng_below(rng, ARRAY_SIZE(borders))];
    unsigned back = rng_below(rng, 65);
    return rng_chance(rng, 30) ? at - (back & ~15u) : rng_chance(rng, 10) ? at + back : at - back;
}

static uint64_t value_double(Rng *rng)
{
    static const uint64_t list[] = {
        0x0000000000000000, 0x3ff0000000000000, 0x3ff8000000000000, 0x400921fb54442d18, 0x7fefffffffffffff,
        0x0010000000000000, 0x0000000000000001, 0x000fffffffffffff, 0x7ff0000000000000, 0x7ff8000000000000,
        0x7ff0000000000001, 0x7ff4000000000000, 0x41dfffffffc00000, 0x41e0000000000000, 0x43e0000000000000,
        0x40e0000000000000, 0x3fe0000000000000, 0x36a0000000000000, 0x380fffffffffffff, 0x47efffffe0000000,
        0x4004000000000000, 0x3ca0000000000000, 0x7fe0000000000000, 0x0020000000000000,
    };
    uint64_t v = list[rng_below(rng, ARRAY_SIZE(list))];
    switch (rng_below(rng, 5)) {
    case 0:
        v = (rng_next(rng) & 0x000fffffffffffff) | (uint64_t)(1023 - 64 + rng_below(rng, 128)) << 52;
        break;
    case 1:
        v = rng_next(rng);
        break;
    }
    return v | (uint64_t)rng_below(rng, 2) << 63;
}

static uint32_t value_float(Rng *rng)
{
    static const uint32_t list[] = {
        0x00000000, 0x3f800000, 0x3fc00000, 0x40490fdb, 0x7f7fffff, 0x00800000, 0x00000001, 0x007fffff,
        0x7f800000, 0x7fc00000, 0x7f800001, 0x7fa00000, 0x4f000000, 0x4effffff, 0x5f000000, 0x47000000,
        0x3f000000, 0x40200000, 0x33800000, 0x7f000000, 0x01000000, 0x477fe000, 0x387fc000, 0x33000000,
    };
    uint32_t v = list[rng_below(rng, ARRAY_SIZE(list))];
    switch (rng_below(rng, 5)) {
    case 0:
        v = (rng_next(rng) & 0x7fffff) | (127 - 32 + rng_below(rng, 64)) << 23;
        break;
    case 1:
        v = (uint32_t)rng_next(rng);
        break;
    }
    return v | rng_below(rng, 2) << 31;
}

static void value_f80(Rng *rng, uint8_t out[10])
{
    static const struct { uint64_t mantissa; uint16_t exponent; } list[] = {
        { 0, 0 },                            /* zero */
        { 1, 0 },                            /* denormal */
        { 0x7fffffffffffffff, 0 },
        { 0x8000000000000000, 0 },           /* pseudo-denormal */
        { 0x8000000000000000, 1 },
        { 0x8000000000000000, 0x3fff },      /* 1 */
        { 0xc000000000000000, 0x3fff },
        { 0xc90fdaa22168c235, 0x4000 },
        { 0xffffffffffffffff, 0x7ffe },      /* largest */
        { 0x8000000000000000, 0x7fff },      /* infinity */
        { 0xc000000000000000, 0x7fff },      /* quiet */
        { 0xa000000000000000, 0x7fff },      /* signalling */
        { 0x0000000000000000, 0x7fff },      /* pseudo-infinity */
        { 0x4000000000000001, 0x7fff },      /* pseudo-NaN */
        { 0x4000000000000001, 0x3fff },      /* unnormal */
        { 0x8000000000000000, 0x401e },      /* 2^31 */
        { 0x8000000000000000, 0x403e },      /* 2^63 */
        { 0x8000000000000000, 0x400e },
        { 0xffffff0000000000, 0x407e },      /* near the largest float */
        { 0xfffffffffffff800, 0x43fe },
        { 0x8000000000000000, 0x3c01 },
        { 0x9502f900000000ff, 0x401c },
        { 0xa000000000000000, 0x4002 },      /* 10 */
    };
    unsigned n = rng_below(rng, ARRAY_SIZE(list));
    uint64_t mantissa = list[n].mantissa;
    unsigned exponent = list[n].exponent;
    switch (rng_below(rng, 4)) {
    case 0:
        mantissa = rng_next(rng) | 1ull << 63;
        exponent = 0x3fff - 40 + rng_below(rng, 110);
        break;
    case 1:
        mantissa = rng_next(rng) | (rng_chance(rng, 80) ? 1ull << 63 : 0);
        exponent = rng_next(rng) & 0x7fff;
        break;
    }
    st64_le(out, mantissa);
    st16_le(out + 8, (uint16_t)(exponent | rng_below(rng, 2) << 15));
}

static void value_block(Rng *rng, uint8_t out[16])
{
    unsigned kind = rng_below(rng, 8);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t v;
        switch (kind) {
        case 0:
        case 1:
            v = value_double(rng);
            break;
        case 2:
        case 3:
            v = value_float(rng) | (uint64_t)value_float(rng) << 32;
            break;
        case 4:
            v = (rng_below(rng, 128)) | (uint64_t)rng_below(rng, 128) << 32;
            break;
        case 5:
            v = rng_chance(rng, 50) ? value_pointer(rng) : value_integer(rng);
            break;
        default:
            v = rng_next(rng);
            break;
        }
        st64_le(out + 8 * i, v);
    }
    if (kind == 7) {
        value_f80(rng, out);
    }
}

void gen_template(unsigned n, uint8_t *data)
{
    Rng rng = { 0x746d706c + n };
    for (unsigned i = 0; i < FUZZ_DATA_SIZE; i += 16) {
        value_block(&rng, data + i);
    }
}

void gen_readonly(uint8_t *data)
{
    Rng rng = { 0x726f };
    for (unsigned i = 0; i < FUZZ_RO_SIZE; i += 16) {
        value_block(&rng, data + i);
    }
}

static void value_x87(Rng *rng, uint8_t *fx)
{
    unsigned fcw = 0x37f, fsw = rng_next(rng) & 0x4700;
    if (rng_chance(rng, 40)) {
        fcw = (rng_next(rng) & 0xf3f) | 0x40;
    }
    if (rng_chance(rng, 30)) {
        fcw |= 0x3f;
    }
    if (rng_chance(rng, 30)) {
        fsw |= rng_next(rng) & 0x7f & (rng_chance(rng, 70) ? fcw | 0x40 : 0x7f);
    }
    if (rng_chance(rng, 50)) {
        fsw |= rng_below(rng, 8) << 11;
    }
    if (fsw & ~fcw & 0x3f) {
        fsw |= 0x8080;
    }
    st16_le(fx, (uint16_t)fcw);
    st16_le(fx + 2, (uint16_t)fsw);
    fx[4] = rng_chance(rng, 40) ? 0xff : rng_chance(rng, 20) ? 0 : (uint8_t)rng_next(rng);
    st16_le(fx + 6, rng_next(rng) & 0x7ff);
    st64_le(fx + 8, rng_next(rng) & 0x7fffffff);
    st64_le(fx + 16, rng_next(rng) & 0x7fffffff);
    for (unsigned i = 0; i < 8; i++) {
        value_f80(rng, fx + 32 + 16 * i);
        if (rng_chance(rng, 15)) { /* as MMX leaves it */
            st64_le(fx + 32 + 16 * i, rng_next(rng));
            st16_le(fx + 32 + 16 * i + 8, 0xffff);
        }
    }
}

static void value_mxcsr(Rng *rng, uint8_t *fx)
{
    uint32_t mxcsr = 0x1f80;
    if (rng_chance(rng, 40)) {
        mxcsr |= rng_next(rng) & 0xe07f;
    }
    if (rng_chance(rng, 15)) {
        mxcsr = rng_next(rng) & 0xffff;
        mxcsr |= rng_chance(rng, 50) ? 0x1000 : 0; /* inexact would end nearly everything */
    }
    st32_le(fx + 24, mxcsr);
}

void value_state(Rng *rng, bool code32, bool edge, unsigned ac_percent, FuzzState *s)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < 16; i++) {
        s->gpr[i] = rng_chance(rng, 15) ? value_pointer(rng) : value_integer(rng);
    }
    static const uint8_t pointers[] = { X86_RBX, X86_RBP, X86_RSI, X86_RDI, 12, 13 };
    for (unsigned i = 0; i < ARRAY_SIZE(pointers); i++) {
        s->gpr[pointers[i]] = edge ? value_edge(rng) : value_pointer(rng);
    }
    s->gpr[X86_RSP] = rng_chance(rng, 90) ? FUZZ_DATA + 1024 + 8 * rng_below(rng, 700) : value_pointer(rng);
    if (edge && rng_chance(rng, 40)) {
        s->gpr[X86_RSP] = value_edge(rng) & (rng_chance(rng, 70) ? ~7ull : ~0ull);
    }
    if (rng_chance(rng, 70)) {
        s->gpr[X86_RCX] = rng_chance(rng, 50) ? rng_below(rng, 40) : rng_below(rng, 4) * 16;
    }
    if (rng_chance(rng, 70)) {
        s->gpr[10] = rng_chance(rng, 50) ? rng_below(rng, 100) - 32ull : rng_below(rng, 8) * 16 - 64ull;
    }
    for (unsigned i = 0; code32 && i < 16; i++) {
        s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
    }
    s->rflags = 0x202 | (rng_next(rng) & X86_ARITH) | (rng_chance(rng, 15) ? X86_DF : 0) |
                (rng_chance(rng, ac_percent) ? X86_AC : 0);
    value_x87(rng, s->xsave);
    value_mxcsr(rng, s->xsave);
    st32_le(s->xsave + 28, 0xffff);
    for (unsigned i = 0; i < 16; i++) {
        value_block(rng, s->xsave + 160 + 16 * i);
        value_block(rng, s->xsave + 576 + 16 * i);
    }
    st64_le(s->xsave + 512, 7);
}
