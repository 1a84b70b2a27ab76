/*
 * Assembler for x86-64 hosts: appends single instructions to a buffer. It knows encodings (Intel SDM
 * volume 2), not meanings; lowering decides what to emit.
 *
 * Code may be written through another mapping than it runs from: `p` is where bytes go, enc_here() the
 * address they will have.
 */
#ifndef OSTRICH_DBT_BACK_ENCODE_H
#define OSTRICH_DBT_BACK_ENCODE_H

#include <string.h>

#include "base/base.h"

enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

typedef struct Asm {
    uint8_t *p;
    ptrdiff_t run_delta; /* run address minus write address */
} Asm;

/* The r/m operand: a register, or memory [base + index << scale + disp]; base ENC_ABS: 32-bit address. */
typedef struct EncRm {
    uint8_t is_mem, reg;
    uint8_t base, index, scale; /* index ENC_NONE: none */
    int32_t disp;
} EncRm;
enum { ENC_NONE = 0xff, ENC_ABS = 0xfe };

/* An opcode: the byte, its map and mandatory prefixes, and what its register fields mean. */
enum {
    E_0F = 1 << 8,
    E_0F38 = 2 << 8,
    E_0F3A = 3 << 8,
    E_MAP = 3 << 8,
    E_66 = 1 << 10,
    E_F2 = 1 << 11,
    E_F3 = 1 << 12,
    E_W = 1 << 13,
    E_BYTE_REG = 1 << 14, /* the reg field names a byte register */
    E_BYTE_RM = 1 << 15,  /* so does r/m when it is a register */
    E_LOCK = 1 << 16,
    E_HIGH = 1 << 17,     /* byte registers 4 to 7 are AH CH DH BH: no REX may appear */
};

static inline EncRm enc_reg(unsigned reg)
{
    return (EncRm){ .reg = reg };
}
static inline EncRm enc_mem(unsigned base, int32_t disp)
{
    return (EncRm){ .is_mem = 1, .base = base, .index = ENC_NONE, .disp = disp };
}
static inline EncRm enc_mem_index(unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    return (EncRm){ .is_mem = 1, .base = base, .index = index, .scale = scale, .disp = disp };
}
static inline EncRm enc_abs(uint32_t address)
{
    return (EncRm){ .is_mem = 1, .base = ENC_ABS, .index = ENC_NONE, .disp = (int32_t)address };
}

static inline uint8_t *enc_here(const Asm *a)
{
    return a->p + a->run_delta;
}
static inline void enc_u8(Asm *a, uint8_t v)
{
    *a->p++ = v;
}
static inline void enc_u32(Asm *a, uint32_t v)
{
    memcpy(a->p, &v, 4);
    a->p += 4;
}
static inline void enc_u64(Asm *a, uint64_t v)
{
    memcpy(a->p, &v, 8);
    a->p += 8;
}

/* Any instruction with a ModRM byte; an immediate is appended by the caller. */
void enc_op(Asm *a, uint32_t op, unsigned reg, EncRm rm);
/* VEX-encoded, W and L in their places, pp: 0 none, 1 66, 2 F3, 3 F2; map 1 to 3. */
void enc_vex(Asm *a, unsigned map, unsigned pp, bool w, bool l, uint8_t opcode, unsigned reg, unsigned v, EncRm rm);

/* size 4 or 8 unless noted. */
void enc_mov(Asm *a, unsigned size, unsigned dst, unsigned src);
void enc_mov_imm(Asm *a, unsigned dst, uint64_t value); /* shortest form; leaves flags */
void enc_load(Asm *a, unsigned size, unsigned dst, EncRm mem);
void enc_store(Asm *a, unsigned size, EncRm mem, unsigned src);
void enc_store_imm(Asm *a, unsigned size, EncRm mem, int32_t value);
void enc_lea(Asm *a, unsigned size, unsigned dst, EncRm mem);
/* ADD OR ADC SBB AND SUB XOR CMP by number 0..7. */
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
void enc_alu(Asm *a, unsigned alu, unsigned size, unsigned dst, EncRm src);
void enc_alu_imm(Asm *a, unsigned alu, unsigned size, EncRm dst, int32_t value);
void enc_shr_imm(Asm *a, unsigned size, unsigned dst, unsigned count);
void enc_shl_imm(Asm *a, unsigned size, unsigned dst, unsigned count);
void enc_bswap(Asm *a, unsigned size, unsigned reg);
void enc_rorx(Asm *a, unsigned size, unsigned dst, unsigned src, unsigned count);
void enc_pext(Asm *a, unsigned size, unsigned dst, unsigned src, EncRm mask);
void enc_pdep(Asm *a, unsigned size, unsigned dst, unsigned src, EncRm mask);
void enc_not(Asm *a, unsigned size, unsigned reg); /* leaves flags */
void enc_push(Asm *a, unsigned reg);
void enc_pop(Asm *a, unsigned reg);
/* Branches with rel32; return where the displacement lies, for enc_patch_rel32. target NULL: 0 for now. */
uint8_t *enc_jmp(Asm *a, const uint8_t *target);
uint8_t *enc_jcc(Asm *a, unsigned cc, const uint8_t *target);
uint8_t *enc_call(Asm *a, const uint8_t *target);
/* rel8 forms; forward ones are completed with enc_here_rel8. */
uint8_t *enc_jcc8(Asm *a, unsigned cc);
uint8_t *enc_jrcxz(Asm *a);
uint8_t *enc_jmp8(Asm *a);
static inline void enc_here_rel8(Asm *a, uint8_t *field)
{
    ptrdiff_t distance = a->p - (field + 1);
    assert(distance >= -128 && distance < 128);
    *field = (uint8_t)distance;
}
void enc_jmp_mem(Asm *a, EncRm mem);
void enc_jmp_reg(Asm *a, unsigned reg);
void enc_align(Asm *a, unsigned alignment); /* with long NOPs */
/* field: write address of a rel32; target: run address. */
static inline void enc_patch_rel32(uint8_t *field, ptrdiff_t run_delta, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (field + run_delta + 4));
    __atomic_store((int32_t *)field, &rel, __ATOMIC_RELAXED);
}

#endif
