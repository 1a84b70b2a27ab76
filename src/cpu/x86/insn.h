/*
 * A decoded x86 instruction. insn.tab is the single description of the instruction set; scripts/gen_x86_insn.py
 * makes from it the opcode enumeration, the decode tables, the flag effects, the interpreter's dispatch
 * table and the generator of random instructions. The decoder is pure: bytes and mode in, X86Insn out.
 */
#ifndef OSTRICH_CPU_X86_INSN_H
#define OSTRICH_CPU_X86_INSN_H

#include "base/base.h"

typedef enum X86OperandKind {
    OPND_NONE,
    OPND_REG,   /* general register: reg 0..15; with OPND_HIGH8 reg is 4..7 and stands for AH CH DH BH */
    OPND_MEM,   /* the instruction's memory operand */
    OPND_IMM,   /* insn->imm */
    OPND_IMM2,  /* insn->imm2 (ENTER, far pointers' selector, EXTRQ) */
    OPND_REL,   /* branch: insn->imm is the displacement from the next instruction */
    OPND_SEG,   /* segment register */
    OPND_CR,
    OPND_DR,
    OPND_XMM,   /* vector register 0..31; width by size 16, 32, 64 */
    OPND_MMX,
    OPND_ST,    /* x87 register */
    OPND_KREG,
} X86OperandKind;

typedef struct X86Operand {
    uint8_t kind;  /* X86OperandKind */
    uint8_t reg;
    uint8_t size;  /* bytes: 1 2 4 8 10 16 32 64; 6 and 10 for far pointers and table registers */
    uint8_t flags; /* OPND_READ, OPND_WRITE, OPND_HIGH8 */
} X86Operand;
enum { OPND_READ = 1, OPND_WRITE = 2, OPND_HIGH8 = 4 };

enum { /* X86Insn.prefixes */
    PFX_LOCK = BIT(0),
    PFX_REP = BIT(1),   /* F3 */
    PFX_REPNE = BIT(2), /* F2 */
    PFX_OPSIZE = BIT(3),
    PFX_ADDRSIZE = BIT(4),
    PFX_SEG = BIT(5),
    PFX_REX = BIT(6),
    PFX_REX_W = BIT(7),
    PFX_VEX = BIT(8),
    PFX_EVEX = BIT(9),
};
enum { X86_NO_REG = 0xff, X86_REG_RIP = 0x10 };

typedef struct X86InsnDesc X86InsnDesc;

typedef struct X86Insn {
    uint16_t op;        /* X86_OP_*: what it does, whatever the encoding */
    uint16_t prefixes;
    uint8_t length;     /* bytes, 1 to 15 */
    uint8_t osize;      /* operand size in bytes: 1, 2, 4, 8 */
    uint8_t asize;      /* address size: 2, 4, 8 */
    uint8_t operands;
    X86Operand operand[4]; /* in Intel order: destination first */
    /* The memory operand, when one of operand[] is OPND_MEM. */
    uint8_t seg;        /* X86_ES... effective */
    uint8_t base, index, scale; /* X86_NO_REG; base X86_REG_RIP: disp is from the next instruction; scale 0..3 */
    int64_t disp;       /* also moffs */
    int64_t imm, imm2;
    uint8_t cond;       /* condition code 0..15 of Jcc, SETcc, CMOVcc */
    uint8_t map, opcode, modrm; /* encoding: map 0 one byte (x87 too), 1 0F, 2 0F38, 3 0F3A */
    uint8_t vex_l, vex_v, evex_aaa, evex_b;
    uint8_t rex;        /* low four bits W R X B, whatever prefix carried them */
    uint8_t modrm_offset, imm_offset, opcode_offset; /* where in the bytes; 0: none */
    uint8_t bytes[15];
    const X86InsnDesc *desc;
} X86Insn;

/* Classes, for dispatching and for the generator of random tests. */
typedef enum X86Class {
    CLASS_INT, CLASS_BRANCH, CLASS_STRING, CLASS_STACK, CLASS_IO, CLASS_SEGMENT, CLASS_SYSTEM, CLASS_X87,
    CLASS_MMX, CLASS_SSE, CLASS_AVX, CLASS_BMI, CLASS_MISC,
} X86Class;

enum { /* X86InsnDesc.props */
    INSN_PRIV = BIT(0),      /* CPL 0 only */
    INSN_LOCKABLE = BIT(1),
    INSN_END = BIT(2),       /* ends a block: control transfer, or it may change the mode word */
    INSN_NO64 = BIT(3),
    INSN_ONLY64 = BIT(4),
    INSN_DEF64 = BIT(5),     /* operand size defaults to 64 bits in 64-bit mode */
    INSN_NATIVE = BIT(6),    /* user-level, may run as the host instruction with operands substituted */
    INSN_ALIGN = BIT(7),     /* memory operand must be aligned to its size: #GP */
    INSN_REP = BIT(8),
    INSN_X87_WAIT = BIT(9),  /* checks pending x87 exceptions */
    INSN_NO_LINEAR_MEM = BIT(10), /* the memory operand is an address only (LEA, NOP, INVLPG) */
    INSN_REAL_UD = BIT(11),  /* #UD outside protected mode or in V86 */
    INSN_ELSE = BIT(12),     /* without its feature it is BSF/BSR (TZCNT, LZCNT), not #UD */
    INSN_COND = BIT(13),     /* insn->cond says which flags it reads */
    INSN_VSIB = BIT(14),     /* insn->index is a vector register */
};

struct X86InsnDesc {
    const char *mnemonic;
    uint16_t op;
    uint8_t cls;             /* X86Class */
    uint16_t props;
    uint16_t flags_read;     /* X86_CF..X86_OF, X86_DF */
    uint16_t flags_written;  /* set, cleared or by result (not always, for shifts by CL: see flags_maybe); with
                              * those that are undefined but change on real processors */
    uint16_t flags_maybe;    /* written only sometimes (shift by zero): the old value lives on */
    uint16_t flags_undefined;
    uint8_t feature_word, feature_bit; /* X86_FEAT_*; 0xff: always there */
};

/* Rows of insn.tab, 1 to x86_insn_count - 1: descriptors and encodings (for the generator of random tests). */
typedef struct X86Encoding {
    uint8_t map, opcode, opcodes; /* opcodes: 8 with a register, 16 with a condition in the low bits */
    bool vex;
    uint8_t prefixes;             /* mandatory prefixes allowed: bit 0 none, 1 66, 2 F3, 3 F2 */
    uint8_t vex_l, wide;          /* 0xff: any, here and below */
    bool modrm;
    uint8_t mod, reg, rm;         /* mod: 0 memory, 1 register */
} X86Encoding;
extern const unsigned x86_insn_count;
extern const X86InsnDesc x86_insn_descs[];
extern const X86Encoding x86_encodings[];

enum { DECODE_OK = 0, DECODE_UD, DECODE_GP_LENGTH /* over 15 bytes */, DECODE_MORE /* bytes ran out */ };

/*
 * Decodes one instruction from bytes[0..available). mode: X86_MODE_* word. Invalid and privileged
 * encodings that are #UD in any case give DECODE_UD (with insn->length set for messages); feature and
 * privilege checks are the interpreter's.
 */
int x86_decode(X86Insn *ret_insn, const uint8_t *bytes, unsigned available, uint32_t mode);
/* Intel-syntax text for logs and the monitor's x/i. Returns buf. pc: address of the instruction. */
char *x86_insn_text(const X86Insn *insn, uint64_t pc, char *buf, size_t size);
/* A line of a listing: where it lies, the bytes, the text. */
void x86_insn_list(GString *s, const X86Insn *insn, uint64_t address, uint64_t pc);

#endif
