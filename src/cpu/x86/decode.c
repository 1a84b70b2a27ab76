/*
 * The x86 instruction decoder: bytes and mode in, X86Insn out (decode_common.c has a short way). It walks the trees that
 * scripts/gen_x86_insn.py made from insn.tab; nothing here knows a particular instruction, except
 * that 90 with REX.B is an exchange.
 *
 * Intel SDM volume 2, chapter 2 (formats) and appendix A (opcode maps). EVEX instructions are
 * measured, and refused: AVX-512 is not offered to guests.
 */
#include "cpu/x86/insn.h"

#include <string.h>

#include "base/endian.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/decode_priv.h"

enum { MAX_LENGTH = 15 };

typedef struct Decoder {
    uint8_t buf[48];    /* the bytes, zeros behind: reading on is harmless and found at the end */
    unsigned pos, seen; /* seen: bytes that mattered for choosing the row */
    unsigned osize, asize, default_size;
    bool mode64, opsize, rep, repne, lock, seg_given;
    uint8_t seg, rex, vex_pp, vex_l, vex_v;
    bool has_rex, vex, evex;
    uint8_t map, opcode, modrm;
} Decoder;

enum { P_NONE, P_SEG, P_OPSIZE, P_ADDRSIZE, P_LOCK, P_REPNE, P_REP, P_REX };

static const uint8_t prefix_class[256] = {
    [0x26] = P_SEG,  [0x2e] = P_SEG,   [0x36] = P_SEG,    [0x3e] = P_SEG,
    [0x64] = P_SEG,  [0x65] = P_SEG,   [0x66] = P_OPSIZE, [0x67] = P_ADDRSIZE,
    [0xf0] = P_LOCK, [0xf2] = P_REPNE, [0xf3] = P_REP,    [0x40 ... 0x4f] = P_REX,
};

static void seg_prefix(Decoder *d, uint8_t byte)
{
    if (byte >= 0x64) {
        d->seg = byte == 0x64 ? X86_FS : X86_GS;
        d->seg_given = true;
    } else if (!d->mode64) {
        d->seg = byte >> 3 & 3;
        d->seg_given = true;
    }
}

/* False: more than fifteen bytes of prefixes. */
static bool read_prefixes(Decoder *d, uint16_t *flags)
{
    for (;;) {
        uint8_t byte = d->buf[d->pos];
        switch (prefix_class[byte]) {
        case P_NONE:
            return true;
        case P_REX:
            if (!d->mode64) {
                return true;
            }
            d->rex = byte & 15;
            d->has_rex = true;
            d->pos++;
            if (d->pos >= MAX_LENGTH) {
                return false;
            }
            if (prefix_class[d->buf[d->pos]] == P_NONE) {
                return true;
            }
            d->rex = 0; /* only the byte right before the opcode counts */
            d->has_rex = false;
            continue;
        case P_SEG:
            seg_prefix(d, byte);
            *flags |= PFX_SEG;
            break;
        case P_OPSIZE:
            d->opsize = true;
            *flags |= PFX_OPSIZE;
            break;
        case P_ADDRSIZE:
            *flags |= PFX_ADDRSIZE;
            break;
        case P_LOCK:
            d->lock = true;
            *flags |= PFX_LOCK;
            break;
        case P_REPNE:
            d->repne = true;
            d->rep = false;
            break;
        case P_REP:
            d->rep = true;
            d->repne = false;
            break;
        }
        d->pos++;
        if (d->pos >= MAX_LENGTH) {
            return false;
        }
    }
}

/* C4, C5 and 62 are prefixes in 64-bit mode, and elsewhere when a register form follows. */
static bool read_vex(Decoder *d)
{
    uint8_t first = d->buf[d->pos], b1 = d->buf[d->pos + 1];
    if (first != 0xc4 && first != 0xc5 && first != 0x62) {
        return false;
    }
    d->seen = d->pos + 2;
    if (!d->mode64 && b1 < 0xc0) {
        return false;
    }
    if (first == 0xc5) {
        d->rex = (~b1 >> 5) & 4;
        d->map = 1;
        d->vex_v = (~b1 >> 3) & 15;
        d->vex_l = b1 >> 2 & 1;
        d->vex_pp = b1 & 3;
        d->pos += 2;
    } else if (first == 0xc4) {
        uint8_t b2 = d->buf[d->pos + 2];
        d->rex = ((~b1 >> 5) & 7) | (b2 >> 4 & 8);
        d->map = b1 & 31;
        d->vex_v = (~b2 >> 3) & 15;
        d->vex_l = b2 >> 2 & 1;
        d->vex_pp = b2 & 3;
        d->pos += 3;
    } else {
        d->evex = true;
        d->map = b1 & 7;
        d->pos += 4;
    }
    if (!d->mode64) {
        d->rex &= 8;
    }
    d->vex = true;
    d->opcode = d->buf[d->pos++];
    d->seen = d->pos;
    return true;
}

static void read_opcode(Decoder *d, X86Insn *insn)
{
    insn->opcode_offset = d->pos;
    d->opcode = d->buf[d->pos++];
    if (d->opcode == 0x0f) {
        d->map = 1;
        d->opcode = d->buf[d->pos++];
        if (d->opcode == 0x38 || d->opcode == 0x3a) {
            d->map = d->opcode == 0x38 ? 2 : 3;
            d->opcode = d->buf[d->pos++];
        }
        insn->opcode_offset = d->pos - 1;
    }
    d->seen = d->pos;
}

static unsigned find_row(Decoder *d)
{
    unsigned e = x86_decode_root[d->vex][d->map][d->opcode];
    while (e & 0x8000) {
        const uint16_t *node = &x86_decode_tree[e & 0x7fff];
        unsigned i = 0;
        switch (node[0]) {
        case DIM_MODE:
            i = d->mode64;
            break;
        case DIM_PREFIX:
            i = d->vex_pp;
            break;
        case DIM_MOD:
            i = d->buf[d->pos] >= 0xc0;
            d->seen = d->pos + 1;
            break;
        case DIM_REG:
            i = d->buf[d->pos] >> 3 & 7;
            d->seen = d->pos + 1;
            break;
        case DIM_RM:
            i = d->buf[d->pos] & 7;
            d->seen = d->pos + 1;
            break;
        case DIM_LENGTH:
            i = d->vex_l;
            break;
        case DIM_WIDE:
            i = d->rex >> 3;
            break;
        }
        e = node[1 + i];
    }
    return e;
}

static const uint8_t base16[8] = { X86_RBX, X86_RBX, X86_RBP, X86_RBP,
                                   X86_RSI, X86_RDI, X86_RBP, X86_RBX };
static const uint8_t index16[8] = { X86_RSI,    X86_RDI,    X86_RSI,    X86_RDI,
                                    X86_NO_REG, X86_NO_REG, X86_NO_REG, X86_NO_REG };

static void read_address16(Decoder *d, X86Insn *insn)
{
    unsigned mod = d->modrm >> 6, rm = d->modrm & 7;
    insn->base = base16[rm];
    insn->index = index16[rm];
    if (mod == 0 && rm == 6) {
        insn->base = X86_NO_REG;
        insn->disp = (int16_t)ld16_le(d->buf + d->pos);
        d->pos += 2;
    } else if (mod == 1) {
        insn->disp = (int8_t)d->buf[d->pos++];
    } else if (mod == 2) {
        insn->disp = (int16_t)ld16_le(d->buf + d->pos);
        d->pos += 2;
    }
}

static void read_address32(Decoder *d, X86Insn *insn, bool vsib)
{
    unsigned mod = d->modrm >> 6, rm = d->modrm & 7;
    bool disp32 = mod == 2;
    if (rm == 4) {
        uint8_t sib = d->buf[d->pos++];
        unsigned index = (sib >> 3 & 7) | (d->rex << 2 & 8);
        insn->scale = sib >> 6;
        insn->index = index == 4 && !vsib ? X86_NO_REG : index;
        if ((sib & 7) == 5 && mod == 0) {
            disp32 = true;
        } else {
            insn->base = (sib & 7) | (d->rex << 3 & 8);
        }
    } else if (rm == 5 && mod == 0) {
        disp32 = true;
        insn->base = d->mode64 ? X86_REG_RIP : X86_NO_REG;
    } else {
        insn->base = rm | (d->rex << 3 & 8);
    }
    if (disp32) {
        insn->disp = (int32_t)ld32_le(d->buf + d->pos);
        d->pos += 4;
    } else if (mod == 1) {
        insn->disp = (int8_t)d->buf[d->pos++];
    }
}

static unsigned operand_size(const Decoder *d, unsigned code, bool memory)
{
    if (code < SZ_V) {
        return code;
    }
    switch (code) {
    case SZ_V:
        return d->osize;
    case SZ_Z:
        return MIN(d->osize, 4);
    case SZ_Y:
        return d->rex & 8 && d->mode64 ? 8 : 4;
    case SZ_M:
        return d->mode64 ? 8 : 4;
    case SZ_U:
        return memory ? 2 : d->osize;
    case SZ_I:
        return memory ? 1 : 4;
    case SZ_J:
        return memory ? 2 : 4;
    case SZ_P:
        return d->osize + 2;
    case SZ_S:
        return d->mode64 ? 10 : 6;
    case SZ_A:
        return 2 * d->osize;
    case SZ_C:
        return d->rex & 8 && d->mode64 ? 16 : 8;
    case SZ_X:
        return 16 << d->vex_l;
    case SZ_H:
        return 8 << d->vex_l;
    case SZ_K:
        return 4 << d->vex_l;
    default:
        return 2 << d->vex_l;
    }
}

static unsigned vector_size(const Decoder *d, unsigned code)
{
    return code == SZ_X ? 16u << d->vex_l : code == 32 ? 32 : 16;
}

static void set_reg(const Decoder *d, X86Operand *o, unsigned reg, unsigned size)
{
    o->kind = OPND_REG;
    o->reg = reg;
    o->size = size;
    if (size == 1 && !d->has_rex && !d->vex && reg >= 4) {
        o->flags |= OPND_HIGH8;
    }
}

static void set_vector(const Decoder *d, X86Operand *o, unsigned reg, unsigned code)
{
    o->kind = OPND_XMM;
    o->reg = reg;
    o->size = vector_size(d, code);
}

static int64_t read_signed(Decoder *d, unsigned size)
{
    const uint8_t *p = d->buf + d->pos;
    d->pos += size;
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

static void set_imm(Decoder *d, X86Insn *insn, X86Operand *o, unsigned size, unsigned bytes,
                    bool sign)
{
    unsigned at = d->pos;
    int64_t value = read_signed(d, bytes);
    if (!sign) {
        value &= ~0ull >> (64 - 8 * bytes);
    }
    o->size = size;
    if (insn->imm_offset != 0) {
        o->kind = OPND_IMM2;
        insn->imm2 = value;
    } else {
        o->kind = OPND_IMM;
        insn->imm = value;
        insn->imm_offset = at;
    }
}

static void set_memory(const Decoder *d, X86Operand *o, unsigned code)
{
    o->kind = OPND_MEM;
    o->size = operand_size(d, code, true);
}

/* Fills one operand; false: there is no such register. */
static bool read_operand(Decoder *d, X86Insn *insn, X86Operand *o, const X86OperandSpec *spec)
{
    unsigned code = spec->size;
    unsigned rm = (d->modrm & 7) | (d->rex << 3 & 8);
    unsigned reg = (d->modrm >> 3 & 7) | (d->rex << 1 & 8);
    bool memory = d->modrm < 0xc0;

    switch (spec->source) {
    case SRC_E:
        if (memory) {
            set_memory(d, o, code);
        } else {
            set_reg(d, o, rm, operand_size(d, code, false));
        }
        break;
    case SRC_R:
    case SRC_RM_REG:
        set_reg(d, o, rm, operand_size(d, code, false));
        break;
    case SRC_G:
        set_reg(d, o, reg, operand_size(d, code, false));
        break;
    case SRC_Z:
        set_reg(d, o, (d->opcode & 7) | (d->rex << 3 & 8), operand_size(d, code, false));
        break;
    case SRC_B:
        set_reg(d, o, d->vex_v & (d->mode64 ? 15 : 7), operand_size(d, code, false));
        break;
    case SRC_FIXED:
        set_reg(d, o, spec->reg, operand_size(d, code, false));
        break;
    case SRC_M:
    case SRC_VSIB:
        set_memory(d, o, code);
        break;
    case SRC_V:
        set_vector(d, o, reg, code);
        break;
    case SRC_W:
        if (memory) {
            set_memory(d, o, code);
            break;
        }
        __attribute__((fallthrough));
    case SRC_U:
        set_vector(d, o, rm, code);
        break;
    case SRC_H:
        set_vector(d, o, d->vex_v & (d->mode64 ? 15 : 7), code);
        break;
    case SRC_L:
        set_vector(d, o, d->buf[d->pos++] >> 4 & (d->mode64 ? 15 : 7), code);
        break;
    case SRC_XMM0:
        set_vector(d, o, 0, 16);
        break;
    case SRC_Q:
        if (memory) {
            set_memory(d, o, code);
            break;
        }
        __attribute__((fallthrough));
    case SRC_N:
        o->kind = OPND_MMX;
        o->reg = d->modrm & 7;
        o->size = 8;
        break;
    case SRC_P:
        o->kind = OPND_MMX;
        o->reg = d->modrm >> 3 & 7;
        o->size = 8;
        break;
    case SRC_S:
        o->kind = OPND_SEG;
        o->reg = d->modrm >> 3 & 7;
        o->size = 2;
        return o->reg < X86_SEG_COUNT;
    case SRC_SEG:
        o->kind = OPND_SEG;
        o->reg = spec->reg;
        o->size = 2;
        break;
    case SRC_C:
        o->kind = OPND_CR;
        o->reg = reg;
        o->size = operand_size(d, code, false);
        return BIT(reg) & (BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(8));
    case SRC_D:
        o->kind = OPND_DR;
        o->reg = reg;
        o->size = operand_size(d, code, false);
        return reg < 8;
    case SRC_T:
        o->kind = OPND_ST;
        o->reg = d->modrm & 7;
        o->size = 10;
        break;
    case SRC_ST0:
        o->kind = OPND_ST;
        o->size = 10;
        break;
    case SRC_IMM:
        set_imm(d, insn, o, code, code, false);
        break;
    case SRC_IMM_S:
        set_imm(d, insn, o, d->osize, 1, true);
        break;
    case SRC_IMM_Z:
        set_imm(d, insn, o, d->osize, MIN(d->osize, 4), true);
        break;
    case SRC_IMM_V:
        set_imm(d, insn, o, d->osize, d->osize, true);
        break;
    case SRC_ONE:
        o->kind = OPND_IMM;
        o->size = 1;
        insn->imm = 1;
        break;
    case SRC_REL:
        o->kind = OPND_REL;
        o->size = d->osize;
        insn->imm_offset = d->pos;
        insn->imm = read_signed(d, code == 1 ? 1 : MIN(d->osize, 4));
        break;
    case SRC_MOFFS:
        set_memory(d, o, code);
        insn->disp = read_signed(d, d->asize);
        if (d->asize < 8) {
            insn->disp &= ~0ull >> (64 - 8 * d->asize);
        }
        break;
    case SRC_FAR:
        set_imm(d, insn, o, d->osize, d->osize, false);
        set_imm(d, insn, ++o, 2, 2, false);
        insn->operands++;
        o->flags = OPND_READ;
        break;
    }
    return true;
}

/* An EVEX instruction's length, as far as it can be known without its table. */
static void skip_evex(Decoder *d, X86Insn *insn)
{
    d->modrm = d->buf[d->pos++];
    if (d->modrm < 0xc0) {
        read_address32(d, insn, true);
    }
    bool imm = d->map == 3 ||
               (d->map == 1 && ((d->opcode >= 0x70 && d->opcode <= 0x73) || d->opcode == 0xc2 ||
                                (d->opcode >= 0xc4 && d->opcode <= 0xc6)));
    d->pos += imm;
}

static int refuse(const Decoder *d, X86Insn *insn, unsigned pos, unsigned available)
{
    insn->op = 0;
    insn->desc = &x86_insn_descs[0];
    insn->operands = 0;
    insn->length = MIN(pos, MAX_LENGTH);
    if (MAX(pos, d->seen) > available) {
        return available < MAX_LENGTH ? DECODE_MORE : DECODE_GP_LENGTH;
    }
    return DECODE_UD;
}

static void choose_sizes(Decoder *d, const X86Row *row)
{
    unsigned osize = d->default_size;
    if (d->mode64) {
        if (d->rex & 8 || row->flags & ROW_FORCE64) {
            osize = 8;
        } else if (d->opsize) {
            osize = 2;
        } else {
            osize = row->flags & ROW_DEF64 ? 8 : 4;
        }
    } else if (d->opsize) {
        osize = 6 - osize;
    }
    if (row->flags & (ROW_BYTE | ROW_Z)) {
        osize = row->flags & ROW_BYTE ? 1 : MIN(osize, 4);
    }
    d->osize = osize;
}

int x86_decode_any(X86Insn *insn, const uint8_t *bytes, unsigned available, uint32_t mode)
{
    Decoder d;
    available = MIN(available, MAX_LENGTH);
    memset(&d.buf[8], 0, sizeof(d) - 8);
    memset(insn, 0, sizeof(*insn));
    if (likely(available == MAX_LENGTH)) {
        memcpy(d.buf, bytes, MAX_LENGTH);
    } else {
        memset(d.buf, 0, 8);
        memcpy(d.buf, bytes, available);
    }
    d.mode64 = mode & X86_MODE_CS64;
    d.default_size = mode & (X86_MODE_CS64 | X86_MODE_CS32) ? 4 : 2;
    d.seg = X86_DS;

    uint16_t flags = 0;
    if (unlikely(!read_prefixes(&d, &flags))) {
        return refuse(&d, insn, MAX_LENGTH + 1, available);
    }
    d.asize = d.mode64 ? 8 : d.default_size;
    if (flags & PFX_ADDRSIZE) {
        d.asize = d.mode64 ? 4 : 6 - d.asize;
    }
    insn->asize = d.asize;
    insn->base = insn->index = X86_NO_REG;

    if (unlikely(read_vex(&d))) {
        if (d.evex || d.map < 1 || d.map > 3) {
            skip_evex(&d, insn);
            return refuse(&d, insn, d.pos, available);
        }
        if (d.has_rex || d.opsize || d.rep || d.repne || d.lock) {
            return refuse(&d, insn, d.pos, available);
        }
        insn->opcode_offset = d.pos - 1;
        flags |= PFX_VEX;
    } else {
        d.vex_pp = d.repne ? 3 : d.rep ? 2 : d.opsize;
        read_opcode(&d, insn);
    }

    unsigned id = find_row(&d);
    if (unlikely(id == 0)) {
        return refuse(&d, insn, d.seen, available);
    }
    if (unlikely(d.opcode == 0x90 && d.map == 0 && d.rex & 1 && !d.rep)) {
        d.opcode = 0x91; /* row of the exchanges: register 0 with REX.B */
        id = find_row(&d);
        d.opcode = 0x90;
    }
    const X86Row *row = &x86_rows[id];
    insn->desc = &x86_insn_descs[id];
    insn->op = insn->desc->op;
    insn->seg = d.seg;
    choose_sizes(&d, row);
    insn->osize = d.osize;

    if (row->flags & ROW_MODRM) {
        insn->modrm_offset = d.pos;
        insn->modrm = d.modrm = d.buf[d.pos++];
        if (d.modrm < 0xc0 && !(row->flags & ROW_RM_REG)) {
            if (d.asize == 2) {
                read_address16(&d, insn);
            } else {
                read_address32(&d, insn, insn->desc->props & INSN_VSIB);
            }
            if (!d.seg_given && (insn->base == X86_RSP || insn->base == X86_RBP)) {
                insn->seg = X86_SS;
            }
        }
    }
    insn->operands = row->operands;
    bool valid = true;
    for (unsigned i = 0; i < row->operands; i++) {
        X86Operand *o = &insn->operand[i];
        o->flags = row->access >> (2 * i) & 3;
        valid &= read_operand(&d, insn, o, &x86_operand_specs[row->operand[i]]);
    }

    insn->prefixes = flags | (d.rep ? PFX_REP : 0) | (d.repne ? PFX_REPNE : 0) |
                     (d.has_rex ? PFX_REX : 0) | (d.rex & 8 ? PFX_REX_W : 0);
    insn->cond = d.opcode & 15;
    insn->map = d.map;
    insn->opcode = d.opcode;
    insn->vex_l = d.vex_l;
    insn->vex_v = d.vex_v;
    insn->rex = d.rex;
    if (unlikely(d.pos > available)) {
        return refuse(&d, insn, d.pos, available);
    }
    if (unlikely(d.lock) && (!(row->flags & ROW_LOCK) || insn->operand[0].kind != OPND_MEM)) {
        valid = false;
    }
    if (unlikely(d.vex) && d.vex_v != 0 && !(row->flags & ROW_VVVV)) {
        valid = false;
    }
    if (unlikely(insn->desc->props & INSN_VSIB) && (d.modrm & 7) != 4) {
        valid = false;
    }
    insn->length = d.pos;
    memcpy(insn->bytes, d.buf, MAX_LENGTH);
    return likely(valid) ? DECODE_OK : refuse(&d, insn, d.pos, available);
}
