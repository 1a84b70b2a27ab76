/*
 * What scripts/gen_x86_insn.py makes of insn.tab for the decoder.
 */
#ifndef OSTRICH_CPU_X86_DECODE_PRIV_H
#define OSTRICH_CPU_X86_DECODE_PRIV_H

#include "cpu/x86/insn.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Where an operand comes from: the letters of insn.tab. */
enum {
    SRC_E,
    SRC_G,
    SRC_M,
    SRC_R,
    SRC_Z,
    SRC_B, /* general registers and memory */
    SRC_V,
    SRC_W,
    SRC_U,
    SRC_H,
    SRC_L,
    SRC_P,
    SRC_Q,
    SRC_N, /* vectors */
    SRC_S,
    SRC_C,
    SRC_D,
    SRC_T, /* segment, control, debug, x87 registers */
    SRC_IMM,
    SRC_IMM_S,
    SRC_IMM_Z,
    SRC_IMM_V,
    SRC_REL,
    SRC_MOFFS,
    SRC_FAR,
    SRC_VSIB,
    SRC_FIXED,
    SRC_ONE,
    SRC_ST0,
    SRC_XMM0,
    SRC_RM_REG,
    SRC_SEG,
};

/* Sizes that depend on prefixes and mode; smaller numbers are bytes. */
enum {
    SZ_V = 0x80,
    SZ_Z,
    SZ_Y,
    SZ_M,
    SZ_U,
    SZ_I,
    SZ_J,
    SZ_P,
    SZ_S,
    SZ_A,
    SZ_C,
    SZ_X,
    SZ_H,
    SZ_K,
    SZ_E,
};

typedef struct X86OperandSpec {
    uint8_t source, size, reg;
} X86OperandSpec;

enum {
    ROW_MODRM = BIT(0),
    ROW_BYTE = BIT(1), /* operand size is 1 */
    ROW_DEF64 = BIT(2),
    ROW_FORCE64 = BIT(3), /* ignores 66 in 64-bit mode */
    ROW_Z = BIT(4),       /* operand size is at most 4 */
    ROW_VVVV = BIT(5),    /* uses VEX.vvvv */
    ROW_RM_REG = BIT(6),  /* modrm.rm is a register whatever mod says */
    ROW_LOCK = BIT(7),
};

typedef struct X86Row {
    uint8_t operand[4]; /* into x86_operand_specs */
    uint8_t operands;
    uint8_t access; /* OPND_READ, OPND_WRITE: two bits an operand */
    uint8_t flags;  /* ROW_* */
} X86Row;

/* Nodes of the tree: kind, then its children: a row, or 0x8000 | index of a node; 0 is invalid. */
enum { DIM_MODE, DIM_PREFIX, DIM_MOD, DIM_REG, DIM_RM, DIM_LENGTH, DIM_WIDE };

extern const X86OperandSpec x86_operand_specs[];
extern const X86Row x86_rows[];
extern const uint16_t x86_decode_root[2][4][256]; /* [VEX][map][opcode] */
extern const uint16_t x86_decode_tree[];

/* Decodes every instruction; x86_decode() takes a short way for most. */
int x86_decode_any(X86Insn *ret_insn, const uint8_t *bytes, unsigned available, uint32_t mode);

#endif
