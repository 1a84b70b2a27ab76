/* See encode.h. */
#include "dbt/back/x86_64/encode.h"

/* Bytes are written through a pointer of their own: the assembler's could be what they overwrite, as far as C knows. */
static inline uint8_t *put_u32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static inline uint8_t *put_modrm(uint8_t *p, unsigned reg, EncRm rm)
{
    unsigned r = (reg & 7) << 3;
    if (!rm.is_mem) {
        *p++ = 0xc0 | r | (rm.reg & 7);
        return p;
    }
    if (rm.base == ENC_ABS) { /* without base: SIB form, so that it is not RIP-relative */
        *p++ = r | 4;
        *p++ = rm.index == ENC_NONE ? 0x25 : (rm.scale << 6 | (rm.index & 7) << 3 | 5);
        return put_u32(p, rm.disp);
    }
    unsigned base = rm.base & 7;
    bool sib = rm.index != ENC_NONE || base == 4;
    unsigned mod = rm.disp == 0 && base != 5 ? 0 : rm.disp == (int8_t)rm.disp ? 0x40 : 0x80;
    *p++ = mod | r | (sib ? 4 : base);
    if (sib) {
        *p++ = rm.index == ENC_NONE ? 0x20 | base : (rm.scale << 6 | (rm.index & 7) << 3 | base);
    }
    if (mod == 0x40) {
        *p++ = (uint8_t)rm.disp;
    } else if (mod == 0x80) {
        p = put_u32(p, rm.disp);
    }
    return p;
}

static unsigned rex_xb(EncRm rm)
{
    if (!rm.is_mem) {
        return rm.reg >> 3;
    }
    return (rm.base < 16 ? rm.base >> 3 : 0) | (rm.index < 16 ? rm.index >> 3 << 1 : 0);
}

static uint8_t *put_prefixes(uint8_t *p, uint32_t op)
{
    if (op & E_LOCK) {
        *p++ = 0xf0;
    }
    if (op & E_66) {
        *p++ = 0x66;
    }
    if (op & E_F2) {
        *p++ = 0xf2;
    }
    if (op & E_F3) {
        *p++ = 0xf3;
    }
    return p;
}

void enc_op(Asm *a, uint32_t op, unsigned reg, EncRm rm)
{
    uint8_t *p = a->p;
    if (op & (E_LOCK | E_66 | E_F2 | E_F3)) {
        p = put_prefixes(p, op);
    }
    unsigned rex = (op & E_W ? 8 : 0) | (reg >> 3 & 1) << 2 | rex_xb(rm);
    bool low_byte = ((op & E_BYTE_REG) && reg >= 4) || ((op & E_BYTE_RM) && !rm.is_mem && rm.reg >= 4);
    if (op & E_HIGH) {
        assert(rex == 0);
    } else if (rex != 0 || low_byte) {
        *p++ = 0x40 | rex;
    }
    unsigned map = op & E_MAP;
    if (map != 0) {
        *p++ = 0x0f;
        if (map == E_0F38) {
            *p++ = 0x38;
        } else if (map == E_0F3A) {
            *p++ = 0x3a;
        }
    }
    *p++ = (uint8_t)op;
    a->p = put_modrm(p, reg, rm);
}

void enc_vex(Asm *a, unsigned map, unsigned pp, bool w, bool l, uint8_t opcode, unsigned reg, unsigned v, EncRm rm)
{
    unsigned xb = rex_xb(rm);
    unsigned last = (~v & 15) << 3 | (l ? 4 : 0) | pp;
    if (map == 1 && !w && xb == 0) {
        enc_u8(a, 0xc5);
        enc_u8(a, (reg < 8 ? 0x80 : 0) | last);
    } else {
        enc_u8(a, 0xc4);
        enc_u8(a, (reg < 8 ? 0x80 : 0) | (xb & 2 ? 0 : 0x40) | (xb & 1 ? 0 : 0x20) | map);
        enc_u8(a, (w ? 0x80 : 0) | last);
    }
    enc_u8(a, opcode);
    a->p = put_modrm(a->p, reg, rm);
}

/* Operand size as opcode bits: bytes use the even opcode. */
static uint32_t sized(uint32_t opcode, unsigned size)
{
    switch (size) {
    case 1:
        return (opcode & ~1u) | E_BYTE_REG | E_BYTE_RM;
    case 2:
        return opcode | E_66;
    case 8:
        return opcode | E_W;
    default:
        return opcode;
    }
}

void enc_mov(Asm *a, unsigned size, unsigned dst, unsigned src)
{
    enc_op(a, sized(0x8b, size), dst, enc_reg(src));
}

void enc_mov_imm(Asm *a, unsigned dst, uint64_t value)
{
    if (value == (uint32_t)value) {
        if (dst >= 8) {
            enc_u8(a, 0x41);
        }
        enc_u8(a, 0xb8 | (dst & 7));
        enc_u32(a, (uint32_t)value);
    } else if (value == (uint64_t)(int32_t)value) {
        enc_op(a, 0xc7 | E_W, 0, enc_reg(dst));
        enc_u32(a, (uint32_t)value);
    } else {
        enc_u8(a, dst >= 8 ? 0x49 : 0x48);
        enc_u8(a, 0xb8 | (dst & 7));
        enc_u64(a, value);
    }
}

void enc_load(Asm *a, unsigned size, unsigned dst, EncRm mem)
{
    enc_op(a, sized(0x8b, size), dst, mem);
}

void enc_store(Asm *a, unsigned size, EncRm mem, unsigned src)
{
    enc_op(a, sized(0x89, size), src, mem);
}

void enc_store_imm(Asm *a, unsigned size, EncRm mem, int32_t value)
{
    enc_op(a, sized(0xc7, size), 0, mem);
    if (size == 1) {
        enc_u8(a, (uint8_t)value);
    } else if (size == 2) {
        enc_u8(a, (uint8_t)value);
        enc_u8(a, (uint8_t)(value >> 8));
    } else {
        enc_u32(a, value);
    }
}

void enc_lea(Asm *a, unsigned size, unsigned dst, EncRm mem)
{
    enc_op(a, 0x8d | (size == 8 ? E_W : 0), dst, mem);
}

void enc_alu(Asm *a, unsigned alu, unsigned size, unsigned dst, EncRm src)
{
    enc_op(a, sized(alu << 3 | 3, size), dst, src);
}

void enc_alu_imm(Asm *a, unsigned alu, unsigned size, EncRm dst, int32_t value)
{
    if (size == 1) {
        enc_op(a, 0x80 | E_BYTE_RM, alu, dst);
        enc_u8(a, (uint8_t)value);
    } else if (value == (int8_t)value) {
        enc_op(a, sized(0x83, size), alu, dst);
        enc_u8(a, (uint8_t)value);
    } else if (!dst.is_mem && dst.reg == H_RAX && size >= 4) {
        if (size == 8) {
            enc_u8(a, 0x48);
        }
        enc_u8(a, alu << 3 | 5);
        enc_u32(a, value);
    } else {
        assert(size != 2);
        enc_op(a, sized(0x81, size), alu, dst);
        enc_u32(a, value);
    }
}

void enc_shr_imm(Asm *a, unsigned size, unsigned dst, unsigned count)
{
    enc_op(a, sized(0xc1, size), 5, enc_reg(dst));
    enc_u8(a, count);
}

void enc_shl_imm(Asm *a, unsigned size, unsigned dst, unsigned count)
{
    enc_op(a, sized(0xc1, size), 4, enc_reg(dst));
    enc_u8(a, count);
}

void enc_bswap(Asm *a, unsigned size, unsigned reg)
{
    unsigned rex = (size == 8 ? 8 : 0) | reg >> 3;
    if (rex != 0) {
        enc_u8(a, 0x40 | rex);
    }
    enc_u8(a, 0x0f);
    enc_u8(a, 0xc8 | (reg & 7));
}

void enc_pext(Asm *a, unsigned size, unsigned dst, unsigned src, EncRm mask)
{
    enc_vex(a, 2, 2, size == 8, false, 0xf5, dst, src, mask);
}

void enc_pdep(Asm *a, unsigned size, unsigned dst, unsigned src, EncRm mask)
{
    enc_vex(a, 2, 3, size == 8, false, 0xf5, dst, src, mask);
}

void enc_rorx(Asm *a, unsigned size, unsigned dst, unsigned src, unsigned count)
{
    enc_vex(a, 3, 3, size == 8, false, 0xf0, dst, 0, enc_reg(src));
    enc_u8(a, (uint8_t)count);
}

void enc_not(Asm *a, unsigned size, unsigned reg)
{
    enc_op(a, 0xf7 | (size == 8 ? E_W : 0), 2, enc_reg(reg));
}

void enc_push(Asm *a, unsigned reg)
{
    if (reg >= 8) {
        enc_u8(a, 0x41);
    }
    enc_u8(a, 0x50 | (reg & 7));
}

void enc_pop(Asm *a, unsigned reg)
{
    if (reg >= 8) {
        enc_u8(a, 0x41);
    }
    enc_u8(a, 0x58 | (reg & 7));
}

static uint8_t *rel32(Asm *a, const uint8_t *target)
{
    uint8_t *field = a->p;
    enc_u32(a, target == NULL ? 0 : (uint32_t)(target - (enc_here(a) + 4)));
    return field;
}

uint8_t *enc_jmp(Asm *a, const uint8_t *target)
{
    enc_u8(a, 0xe9);
    return rel32(a, target);
}

uint8_t *enc_jcc(Asm *a, unsigned cc, const uint8_t *target)
{
    enc_u8(a, 0x0f);
    enc_u8(a, 0x80 | cc);
    return rel32(a, target);
}

uint8_t *enc_call(Asm *a, const uint8_t *target)
{
    enc_u8(a, 0xe8);
    return rel32(a, target);
}

static uint8_t *rel8(Asm *a, uint8_t opcode)
{
    enc_u8(a, opcode);
    enc_u8(a, 0);
    return a->p - 1;
}

uint8_t *enc_jcc8(Asm *a, unsigned cc)
{
    return rel8(a, 0x70 | cc);
}

uint8_t *enc_jrcxz(Asm *a)
{
    return rel8(a, 0xe3);
}

uint8_t *enc_jmp8(Asm *a)
{
    return rel8(a, 0xeb);
}

void enc_jmp_mem(Asm *a, EncRm mem)
{
    enc_op(a, 0xff, 4, mem);
}

void enc_jmp_reg(Asm *a, unsigned reg)
{
    enc_op(a, 0xff, 4, enc_reg(reg));
}

void enc_align(Asm *a, unsigned alignment)
{
    static const uint8_t nops[9][9] = {
        { 0x90 },
        { 0x66, 0x90 },
        { 0x0f, 0x1f, 0x00 },
        { 0x0f, 0x1f, 0x40, 0x00 },
        { 0x0f, 0x1f, 0x44, 0x00, 0x00 },
        { 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00 },
        { 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00 },
        { 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00 },
        { 0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00 },
    };
    size_t gap = -(uintptr_t)enc_here(a) & (alignment - 1);
    while (gap != 0) {
        size_t n = MIN(gap, 9);
        memcpy(a->p, nops[n - 1], n);
        a->p += n;
        gap -= n;
    }
}
