/*
 * The decoder's short way: most instructions have few prefixes, an opcode of the one-byte or the 0F map, and operands of
 * common kinds. What is not like that is left to x86_decode_any(); where both know an instruction they say the same,
 * which decode_test.c holds them to. Translating new code is decoding to a good part, hence two of them.
 *
 * Two legacy prefixes, REX, opcode, ModRM, SIB, displacement and immediate never come to more than fifteen bytes.
 */
#include <string.h>

#include "base/endian.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/decode_priv.h"
#include "cpu/x86/insn.h"

enum { MAX_LENGTH = 15, LEGACY_PREFIXES = 2 };

typedef struct Common {
    const uint8_t *bytes;
    unsigned pos;
    unsigned rex, osize;
    bool mode64, has_rex;
    uint8_t modrm, opcode;
    uint8_t rm, reg; /* of ModRM, with their bits of REX */
} Common;

typedef struct Prefixes {
    uint16_t flags;
    uint8_t seg;
} Prefixes;

/* False: there is more than these. */
static ALWAYS_INLINE bool read_prefixes(Common *c, Prefixes *ret)
{
    uint16_t flags = 0;
    uint8_t seg = X86_DS;
    for (unsigned n = 0;; n++) {
        uint8_t byte = c->bytes[c->pos];
        if (c->mode64 && (byte & 0xf0) == 0x40) {
            c->rex = byte & 15;
            c->has_rex = true;
            flags |= PFX_REX | (byte & 8 ? PFX_REX_W : 0);
            c->pos++;
            break;
        }
        if (byte == 0x66) {
            flags |= PFX_OPSIZE;
        } else if (byte == 0xf3) {
            flags = (flags & ~PFX_REPNE) | PFX_REP;
        } else if (byte == 0xf2) {
            flags = (flags & ~PFX_REP) | PFX_REPNE;
        } else if (byte == 0x64 || byte == 0x65) {
            flags |= PFX_SEG;
            seg = byte == 0x64 ? X86_FS : X86_GS;
        } else {
            break;
        }
        if (n == LEGACY_PREFIXES) {
            return false;
        }
        c->pos++;
    }
    ret->flags = flags;
    ret->seg = seg;
    return true;
}

/* Prefixes and VEX, where an opcode is expected: not for us. */
static const bool uncommon[256] = {
    [0x26] = true, [0x2e] = true, [0x36] = true, [0x3e] = true, [0x62] = true, [0x64 ... 0x67] = true, [0xc4] = true,
    [0xc5] = true, [0xf0] = true, [0xf2] = true, [0xf3] = true,
};

/* The row; 0: for x86_decode_any(). */
static ALWAYS_INLINE unsigned find_row(const Common *c, unsigned map, unsigned pp)
{
    unsigned e = x86_decode_root[0][map][c->opcode];
    while (e & 0x8000) {
        const uint16_t *node = &x86_decode_tree[e & 0x7fff];
        uint8_t next = c->bytes[c->pos];
        unsigned i;
        switch (node[0]) {
        case DIM_MODE:
            i = c->mode64;
            break;
        case DIM_PREFIX:
            i = pp;
            break;
        case DIM_MOD:
            i = next >= 0xc0;
            break;
        case DIM_REG:
            i = next >> 3 & 7;
            break;
        case DIM_RM:
            i = next & 7;
            break;
        case DIM_WIDE:
            i = c->rex >> 3;
            break;
        default:
            return 0;
        }
        e = node[1 + i];
    }
    return e;
}

static ALWAYS_INLINE unsigned choose_size(const Common *c, unsigned row_flags, bool opsize, bool code32)
{
    if (row_flags & ROW_BYTE) {
        return 1;
    }
    unsigned size;
    if (!c->mode64) {
        size = code32 != opsize ? 4 : 2;
    } else if (c->rex & 8 || row_flags & ROW_FORCE64) {
        size = 8;
    } else if (opsize) {
        size = 2;
    } else {
        size = row_flags & ROW_DEF64 ? 8 : 4;
    }
    return row_flags & ROW_Z ? MIN(size, 4) : size;
}

static ALWAYS_INLINE void read_address(Common *c, X86Insn *insn)
{
    unsigned mod = c->modrm >> 6, rm = c->modrm & 7, base = rm | (c->rex << 3 & 8);
    const uint8_t *p = c->bytes;
    if (rm == 4) {
        uint8_t sib = p[c->pos++];
        unsigned index = (sib >> 3 & 7) | (c->rex << 2 & 8);
        insn->scale = sib >> 6;
        if (index != 4) {
            insn->index = index;
        }
        base = (sib & 7) | (c->rex << 3 & 8);
        if ((sib & 7) == 5 && mod == 0) {
            base = X86_NO_REG;
            mod = 2;
        }
    } else if (rm == 5 && mod == 0) {
        base = c->mode64 ? X86_REG_RIP : X86_NO_REG;
        mod = 2;
    }
    insn->base = base;
    if (mod == 1) {
        insn->disp = (int8_t)p[c->pos++];
    } else if (mod == 2) {
        insn->disp = (int32_t)ld32_le(p + c->pos);
        c->pos += 4;
    }
}

/* Bytes of an operand in a general register or memory; 0: not one of the common codes. */
static ALWAYS_INLINE unsigned operand_size(const Common *c, unsigned code)
{
    if (code < SZ_V) {
        return code;
    }
    switch (code) {
    case SZ_V:
        return c->osize;
    case SZ_Z:
        return MIN(c->osize, 4);
    case SZ_Y:
        return c->rex & 8 ? 8 : 4;
    case SZ_M:
        return c->mode64 ? 8 : 4;
    default:
        return 0;
    }
}

static ALWAYS_INLINE int64_t read_signed(Common *c, unsigned size)
{
    const uint8_t *p = c->bytes + c->pos;
    c->pos += size;
    switch (size) {
    case 1:
        return (int8_t)*p;
    case 2:
        return (int16_t)ld16_le(p);
    case 4:
        return (int32_t)ld32_le(p);
    default:
        return (int64_t)ld64_le(p);
    }
}

static ALWAYS_INLINE void set_reg(const Common *c, X86Operand *o, unsigned reg, unsigned size)
{
    o->kind = OPND_REG;
    o->reg = reg;
    o->size = size;
    if (size == 1 && !c->has_rex && reg >= 4) {
        o->flags |= OPND_HIGH8;
    }
}

static ALWAYS_INLINE void set_vector(X86Operand *o, unsigned reg, unsigned code)
{
    o->kind = OPND_XMM;
    o->reg = reg;
    o->size = code == 32 ? 32 : 16;
}

static ALWAYS_INLINE void set_imm(Common *c, X86Insn *insn, X86Operand *o, unsigned size, unsigned bytes)
{
    o->kind = OPND_IMM;
    o->size = size;
    insn->imm_offset = c->pos;
    insn->imm = read_signed(c, bytes);
}

/* False: not one of the common kinds. */
static ALWAYS_INLINE bool read_operand(Common *c, X86Insn *insn, X86Operand *o, const X86OperandSpec *spec)
{
    unsigned code = spec->size, size = operand_size(c, code);
    unsigned rm = c->rm, reg = c->reg;
    bool memory = c->modrm < 0xc0, vector = spec->source == SRC_V || spec->source == SRC_W || spec->source == SRC_U;
    if (size == 0 && !vector) {
        return false;
    }
    switch (spec->source) {
    case SRC_E:
        if (!memory) {
            set_reg(c, o, rm, size);
            return true;
        }
        __attribute__((fallthrough));
    case SRC_M:
        o->kind = OPND_MEM;
        o->size = size;
        return true;
    case SRC_R:
        set_reg(c, o, rm, size);
        return true;
    case SRC_G:
        set_reg(c, o, reg, size);
        return true;
    case SRC_Z:
        set_reg(c, o, (c->opcode & 7) | (c->rex << 3 & 8), size);
        return true;
    case SRC_FIXED:
        set_reg(c, o, spec->reg, size);
        return true;
    case SRC_V:
        set_vector(o, reg, code);
        return true;
    case SRC_W:
        if (memory) {
            o->kind = OPND_MEM;
            o->size = size;
            return size != 0;
        }
        __attribute__((fallthrough));
    case SRC_U:
        set_vector(o, rm, code);
        return true;
    case SRC_IMM_S:
        if (insn->imm_offset != 0) {
            return false;
        }
        set_imm(c, insn, o, c->osize, 1);
        return true;
    case SRC_IMM_Z:
        set_imm(c, insn, o, c->osize, MIN(c->osize, 4));
        return true;
    case SRC_IMM_V:
        set_imm(c, insn, o, c->osize, c->osize);
        return true;
    case SRC_IMM:
        if (code != 1 || insn->imm_offset != 0) {
            return false;
        }
        set_imm(c, insn, o, 1, 1);
        insn->imm &= 0xff;
        return true;
    case SRC_ONE:
        o->kind = OPND_IMM;
        o->size = 1;
        insn->imm = 1;
        return true;
    case SRC_REL:
        o->kind = OPND_REL;
        o->size = c->osize;
        insn->imm_offset = c->pos;
        insn->imm = read_signed(c, code == 1 ? 1 : MIN(c->osize, 4));
        return true;
    default:
        return false;
    }
}

/* True when it was one of the common ones. */
static bool decode_common(X86Insn *insn, const uint8_t *bytes, uint32_t mode)
{
    memset(insn, 0, sizeof(*insn));
    memcpy(insn->bytes, bytes, MAX_LENGTH);
    Common c = { .bytes = insn->bytes, .mode64 = (mode & X86_MODE_CS64) != 0 };
    Prefixes prefixes;
    if (!read_prefixes(&c, &prefixes)) {
        return false;
    }
    unsigned map = 0;
    c.opcode = c.bytes[c.pos++];
    if (c.opcode == 0x0f) {
        map = 1;
        c.opcode = c.bytes[c.pos++];
        if ((c.opcode & 0xfd) == 0x38) {
            return false;
        }
    } else if (uncommon[c.opcode] || (c.mode64 && (c.opcode & 0xf0) == 0x40) || c.opcode == 0x90) {
        return false;
    }
    insn->opcode_offset = c.pos - 1;
    bool opsize = prefixes.flags & PFX_OPSIZE;
    unsigned id = find_row(&c, map, prefixes.flags & PFX_REPNE ? 3 : prefixes.flags & PFX_REP ? 2 : opsize);
    if (unlikely(id == 0)) {
        return false;
    }
    const X86Row *row = &x86_rows[id];
    const X86InsnDesc *desc = &x86_insn_descs[id];
    insn->osize = c.osize = choose_size(&c, row->flags, opsize, mode & X86_MODE_CS32);
    insn->base = insn->index = X86_NO_REG;
    insn->seg = prefixes.seg;
    if (row->flags & ROW_MODRM) {
        insn->modrm_offset = c.pos;
        insn->modrm = c.modrm = c.bytes[c.pos++];
        c.rm = (c.modrm & 7) | (c.rex << 3 & 8);
        c.reg = (c.modrm >> 3 & 7) | (c.rex << 1 & 8);
        if (c.modrm < 0xc0 && !(row->flags & ROW_RM_REG)) {
            read_address(&c, insn);
            if (!(prefixes.flags & PFX_SEG) && (insn->base == X86_RSP || insn->base == X86_RBP)) {
                insn->seg = X86_SS;
            }
        }
    }
    insn->operands = row->operands;
    for (unsigned i = 0; i < row->operands; i++) {
        X86Operand *o = &insn->operand[i];
        o->flags = row->access >> (2 * i) & 3;
        if (!read_operand(&c, insn, o, &x86_operand_specs[row->operand[i]])) {
            return false;
        }
    }
    insn->desc = desc;
    insn->op = desc->op;
    insn->asize = c.mode64 ? 8 : 4;
    insn->prefixes = prefixes.flags;
    insn->cond = c.opcode & 15;
    insn->map = map;
    insn->opcode = c.opcode;
    insn->vex_l = insn->vex_v = 0;
    insn->rex = c.rex;
    insn->length = c.pos;
    return true;
}

int x86_decode(X86Insn *insn, const uint8_t *bytes, unsigned available, uint32_t mode)
{
    if (likely(available >= MAX_LENGTH && (mode & (X86_MODE_CS64 | X86_MODE_CS32)) && decode_common(insn, bytes, mode))) {
        return DECODE_OK;
    }
    return x86_decode_any(insn, bytes, available, mode);
}
