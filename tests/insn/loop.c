/* Cases that are loops (--loops): what they count by, and what moves their pointers. */
#include "insn_fuzz.h"

#include <string.h>

#include "base/endian.h"

unsigned loop_step(Rng *rng, uint8_t *bytes)
{
    static const uint8_t regs[] = { X86_RBX, X86_RBP, X86_RSI, X86_RDI, 8, 9, 10, 11, 12, 13 };
    static const uint8_t steps[] = { 1, 2, 4, 8, 16, 32, 64, 3, 24, 0xff, 0xfe, 0xf8, 0xf0, 0x80 };
    unsigned reg = regs[rng_below(rng, ARRAY_SIZE(regs))], step = steps[rng_below(rng, ARRAY_SIZE(steps))];
    switch (rng_below(rng, 3)) {
    case 0: /* lea */
        bytes[0] = 0x48 | (reg >> 3) * 5;
        bytes[1] = 0x8d;
        bytes[2] = (uint8_t)(0x40 | (reg & 7) << 3 | (reg & 7));
        if ((reg & 7) == 4) {
            bytes[3] = 0x24;
            bytes[4] = (uint8_t)step;
            return 5;
        }
        break;
    case 1: /* inc, dec */
        bytes[0] = 0x48 | reg >> 3;
        bytes[1] = 0xff;
        bytes[2] = (uint8_t)(0xc0 | (step & 1) << 3 | (reg & 7));
        return 3;
    default: /* add, sub */
        bytes[0] = 0x48 | reg >> 3;
        bytes[1] = 0x83;
        bytes[2] = (uint8_t)((step & 2 ? 0xe8 : 0xc0) | (reg & 7));
        break;
    }
    bytes[3] = (uint8_t)step;
    return 4;
}

void loop_append(FuzzCase *c)
{
    uint8_t *p = c->code + c->length;
    memcpy(p, c->by_dec ? "\x41\xff\xcf" : "\x41\x83\xef\x01", c->by_dec ? 3 : 4);
    p += c->by_dec ? 3 : 4;
    memcpy(p, "\x0f\x85", 2);
    p += 6;
    c->length = (uint16_t)(p - c->code);
    st32_le(p - 4, 0u - c->length);
}
