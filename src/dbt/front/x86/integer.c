/*
 * Instructions on general registers as uops: the one-byte map, 0F and 0F 38. Where the host executes the same
 * opcode, only the operands are taken apart; branches and stack (control.c) and shifts by CL have uops of their own.
 */
#include "dbt/front/x86/front_priv.h"

/* --- operands --- */

/* Opcode bits of the current operand size, for a non-byte instruction. */
static uint32_t width(const X86Insn *insn)
{
    return insn->osize == 2 ? E_66 : insn->osize == 8 ? E_W : 0;
}

bool front_put_mem(Front *f)
{
    const X86Insn *insn = f->insn;
    Uop *u = f->u;
    u->attr |= UA_MEM;
    u->base = insn->base == X86_REG_RIP ? UOP_NO_REG : insn->base;
    u->index = insn->index;
    u->scale = insn->scale;
    u->disp = insn->disp;
    u->asize = insn->asize;
    u->seg = insn->seg == X86_FS ? 1 : insn->seg == X86_GS ? 2 : 0;
    if (insn->base == X86_REG_RIP) {
        u->disp += f->next;
    }
    /* In 32-bit code FS, GS have limits, and CS cannot be written. */
    bool plain_segment = front_mode64(f) || (u->seg == 0 && insn->seg != X86_CS);
    return insn->asize != 2 && plain_segment;
}

static unsigned put_reg(const X86Operand *o, uint16_t high, Uop *u)
{
    if (o->flags & OPND_HIGH8) {
        u->attr |= high;
        return o->reg & 3;
    }
    return o->reg;
}

static void put_reg_field(Front *f, unsigned n)
{
    const X86Operand *o = &f->insn->operand[n];
    f->u->reg = put_reg(o, UA_REG_HIGH, f->u);
    f->u->attr |= (o->flags & OPND_READ ? UA_REG_R : 0) | (o->flags & OPND_WRITE ? UA_REG_W : 0);
    if (o->size == 1) {
        f->u->code |= E_BYTE_REG;
    }
}

static bool put_rm(Front *f, unsigned n)
{
    const X86Operand *o = &f->insn->operand[n];
    f->u->attr |= (o->flags & OPND_READ ? UA_RM_R : 0) | (o->flags & OPND_WRITE ? UA_RM_W : 0);
    f->u->mem_size = o->size;
    if (o->kind == OPND_MEM) {
        return front_put_mem(f);
    }
    f->u->rm = put_reg(o, UA_RM_HIGH, f->u);
    if (o->size == 1) {
        f->u->code |= E_BYTE_RM;
    }
    return true;
}

/* High-byte operands that lowering has no registers for: with memory only AH, DH, BH stores. */
static bool high_ok(const Uop *u)
{
    if (!(u->attr & (UA_REG_HIGH | UA_RM_HIGH))) {
        return true;
    }
    if (u->attr & UA_MEM) {
        return u->reg != X86_RCX;
    }
    /* A guest register that is no byte register without REX only appears as the wide side of MOVZX. */
    return true;
}

static bool op(Front *f, uint32_t code, unsigned imm_size)
{
    f->u->kind = UOP_OP;
    f->u->code |= code;
    f->u->imm_size = imm_size;
    f->u->imm = (uint64_t)f->insn->imm;
    if (f->insn->prefixes & PFX_LOCK) {
        if (!(f->u->attr & UA_MEM)) {
            return false;
        }
        f->u->code |= E_LOCK;
    }
    return high_ok(f->u);
}

/* op r/m, reg and op reg, r/m; the operand size decides between byte and other forms by bit 0. */
static bool op_rm_reg(Front *f, uint32_t code, unsigned imm_size)
{
    put_reg_field(f, 1);
    return put_rm(f, 0) && op(f, code | (f->u->size == 1 ? 0 : width(f->insn)), imm_size);
}

static bool op_reg_rm(Front *f, uint32_t code, unsigned imm_size)
{
    put_reg_field(f, 0);
    return put_rm(f, 1) && op(f, code | (f->u->size == 1 ? 0 : width(f->insn)), imm_size);
}

static bool op_ext(Front *f, uint32_t code, unsigned imm_size)
{
    f->u->reg = f->insn->modrm >> 3 & 7;
    return put_rm(f, 0) && op(f, code | (f->u->size == 1 ? 0 : width(f->insn)), imm_size);
}

/* An instruction on rax, rdx and flags alone: its own bytes without prefixes that mean nothing. */
static bool bytes(Front *f, unsigned imm_size)
{
    const X86Insn *insn = f->insn;
    unsigned n = 0;
    uint64_t code = 0;
    if (insn->osize == 2) {
        code |= 0x66ull << (8 * n++);
    } else if (insn->osize == 8 && (insn->rex & 8)) {
        code |= 0x48ull << (8 * n++);
    }
    code |= (uint64_t)insn->opcode << (8 * n++);
    for (unsigned i = 0; i < imm_size; i++) {
        code |= ((uint64_t)insn->imm >> (8 * i) & 0xff) << (8 * n++);
    }
    f->u->kind = UOP_BYTES;
    f->u->code = insn->opcode;
    f->u->disp = insn->imm;
    f->u->imm = code;
    f->u->imm_size = n;
    return true;
}

static unsigned imm_z(const X86Insn *insn)
{
    return insn->osize == 2 ? 2 : 4;
}

static bool shift_cl(Front *f, uint32_t code)
{
    Uop *u = f->u;
    u->kind = UOP_SHIFT_CL;
    u->code |= code | (u->size == 1 ? 0 : width(f->insn));
    bool reg_spilled = (u->attr & UA_REG_R) && u->reg >= 8 && u->reg < 12;
    bool rm_memory = (u->attr & UA_MEM) || (u->rm >= 8 && u->rm < 12);
    if (f->insn->prefixes & PFX_LOCK) {
        return false;
    }
    return !(reg_spilled && rm_memory) && !((u->attr & UA_RM_HIGH) && u->rm == X86_RCX);
}

static bool movi(Front *f, unsigned reg, uint64_t value)
{
    f->u->kind = UOP_MOVI;
    f->u->reg = reg;
    f->u->attr |= UA_REG_W;
    f->u->imm = value;
    return true;
}

/* --- the opcode maps --- */

static bool group_f6(Front *f)
{
    const X86Insn *insn = f->insn;
    switch (insn->modrm >> 3 & 7) {
    case 0:
    case 1:
        return op_ext(f, insn->opcode, insn->opcode == 0xf6 ? 1 : imm_z(insn));
    case 6:
    case 7:
        f->u->attr |= UA_TRAPS;
        return op_ext(f, insn->opcode, 0) && !(f->u->attr & UA_MEM && f->u->attr & UA_RM_HIGH);
    default:
        return op_ext(f, insn->opcode, 0);
    }
}

static bool group_ff(Front *f)
{
    const X86Insn *insn = f->insn;
    switch (insn->modrm >> 3 & 7) {
    case 0:
    case 1:
        return op_ext(f, insn->opcode, 0);
    case 2:
        return insn->opcode == 0xff && front_indirect(f, UOP_CALL_MEM, UOP_CALL_REG);
    case 4:
        return insn->opcode == 0xff && front_indirect(f, UOP_JMP_MEM, UOP_JMP_REG);
    case 6:
        if (insn->opcode != 0xff) {
            return false;
        }
        if (insn->operand[0].kind == OPND_REG) {
            return front_push_reg(f, insn->operand[0].reg);
        }
        f->u->kind = UOP_PUSH_MEM;
        f->u->attr |= UA_RM_R;
        return front_stack_size_ok(f) && front_put_mem(f);
    default:
        return false;
    }
}

static bool mov_imm(Front *f)
{
    const X86Insn *insn = f->insn;
    const X86Operand *o = &insn->operand[0];
    if (insn->osize == 4 || insn->osize == 8) {
        return movi(f, o->reg, insn->osize == 4 ? (uint32_t)insn->imm : (uint64_t)insn->imm);
    }
    f->u->reg = 0;
    return put_rm(f, 0) && op(f, 0xc7 | E_66, 2);
}

static bool moffs(Front *f)
{
    const X86Insn *insn = f->insn;
    unsigned mem = insn->opcode < 0xa2 ? 1 : 0;
    put_reg_field(f, !mem);
    uint32_t code = insn->opcode < 0xa2 ? 0x8a : 0x88;
    return put_rm(f, mem) && op(f, code | (insn->opcode & 1) | (f->u->size == 1 ? 0 : width(insn)), 0);
}

static bool xchg_rax(Front *f)
{
    const X86Insn *insn = f->insn;
    Uop *u = f->u;
    if (insn->operands == 0) { /* NOP, PAUSE */
        if (insn->prefixes & PFX_REP) {
            if (f->b->cpu->counted) {
                return false; /* it gives the turn away */
            }
            u->kind = UOP_PAUSE;
        }
        return true;
    }
    u->reg = X86_RAX;
    u->rm = insn->operand[0].reg;
    u->attr = UA_REG_R | UA_REG_W | UA_RM_R | UA_RM_W | UA_NO_MEM_FORM;
    return op(f, 0x87 | width(insn), 0);
}

/* STOS and MOVS by flat segments. */
static bool string(Front *f, bool moves)
{
    const X86Insn *insn = f->insn;
    Uop *u = f->u;
    bool repeated = insn->prefixes & (PFX_REP | PFX_REPNE);
    bool flat = front_mode64(f) ? insn->seg != X86_FS && insn->seg != X86_GS : insn->seg == X86_DS || insn->seg == X86_SS || insn->seg == X86_ES;
    if (insn->asize == 2 || (moves && !flat) || f->b->cpu->counted) {
        return false; /* counted: how many elements one instruction may do is the interpreter's business */
    }
    u->kind = UOP_STRING;
    u->size = insn->osize;
    u->asize = insn->asize;
    u->imm = repeated;
    u->attr = UA_RM_W | (moves ? UA_RM_R : 0);
    return repeated || insn->asize == (front_mode64(f) ? 8 : 4); /* a fault keeps the upper halves only without REP */
}

bool front_one_byte(Front *f)
{
    X86Insn *insn = f->insn;
    Uop *u = f->u;
    uint8_t opcode = insn->opcode;
    if (opcode < 0x40) {
        switch (opcode & 7) {
        case 0:
        case 1:
            return op_rm_reg(f, opcode, 0);
        case 2:
        case 3:
            return op_reg_rm(f, opcode, 0);
        case 4:
            return bytes(f, 1);
        case 5:
            return bytes(f, imm_z(insn));
        default:
            return false;
        }
    }
    switch (opcode) {
    case 0x40 ... 0x4f:
        u->reg = opcode >> 3 & 1;
        return put_rm(f, 0) && op(f, 0xff | width(insn), 0);
    case 0x50 ... 0x57:
        return front_push_reg(f, insn->operand[0].reg);
    case 0x58 ... 0x5f:
        return front_pop_reg(f, insn->operand[0].reg);
    case 0x63:
        return front_mode64(f) && op_reg_rm(f, opcode, 0);
    case 0x68:
    case 0x6a:
        u->kind = UOP_PUSH;
        u->reg = UOP_NO_REG;
        u->imm = (uint64_t)insn->imm;
        return front_stack_size_ok(f);
    case 0x69:
        return op_reg_rm(f, opcode, imm_z(insn));
    case 0x6b:
        return op_reg_rm(f, opcode, 1);
    case 0x70 ... 0x7f:
        return front_branch(f, UOP_JCC);
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
        return op_ext(f, opcode, 1);
    case 0x82:
        return op_ext(f, 0x80, 1);
    case 0x81:
        return op_ext(f, opcode, imm_z(insn));
    case 0x84:
    case 0x85:
    case 0x88:
    case 0x89:
        return op_rm_reg(f, opcode, 0);
    case 0x86:
    case 0x87:
        u->attr |= UA_NO_MEM_FORM;
        return op_rm_reg(f, opcode, 0);
    case 0x8a:
    case 0x8b:
        return op_reg_rm(f, opcode, 0);
    case 0x8c: /* the registers are written in full, but for those of 16 bits */
        u->kind = UOP_READ_SEL;
        u->reg = insn->operand[0].reg;
        u->imm = insn->operand[1].reg;
        u->attr |= UA_REG_W;
        return insn->operand[0].kind == OPND_REG && insn->osize != 2 && u->imm < 6;
    case 0x8d:
        u->kind = UOP_LEA;
        u->reg = insn->operand[0].reg;
        u->attr |= UA_REG_W;
        (void)front_put_mem(f);
        u->seg = 0;
        return insn->asize != 2;
    case 0x8f:
        return insn->operand[0].kind == OPND_REG && front_pop_reg(f, insn->operand[0].reg);
    case 0x90 ... 0x97:
        return xchg_rax(f);
    case 0x9c:
        u->kind = UOP_PUSHF;
        return front_stack_size_ok(f);
    case 0x98:
    case 0x99:
    case 0x9e:
    case 0x9f:
    case 0xf5:
    case 0xf8:
    case 0xf9:
        return bytes(f, 0);
    case 0xa0 ... 0xa3:
        return moffs(f);
    case 0xa4:
    case 0xa5:
    case 0xaa:
    case 0xab:
        return string(f, opcode < 0xa8);
    case 0xa8:
        return bytes(f, 1);
    case 0xa9:
        return bytes(f, imm_z(insn));
    case 0xb0 ... 0xb7:
        u->reg = 0;
        return put_rm(f, 0) && op(f, 0xc6, 1);
    case 0xb8 ... 0xbf:
        return mov_imm(f);
    case 0xc2:
    case 0xc3:
        u->kind = UOP_RET;
        u->imm = opcode == 0xc2 ? (uint16_t)insn->imm : 0;
        u->size = u->mem_size = front_mode64(f) ? 8 : 4;
        return front_jump_size_ok(f);
    case 0xc6:
        return (insn->modrm >> 3 & 7) == 0 && op_ext(f, opcode, 1);
    case 0xc7:
        return (insn->modrm >> 3 & 7) == 0 && op_ext(f, opcode, imm_z(insn));
    case 0xc9:
        u->kind = UOP_LEAVE;
        return front_stack_size_ok(f);
    case 0xd0:
    case 0xd1:
        return op_ext(f, opcode, 0);
    case 0xd2:
    case 0xd3:
        u->reg = insn->modrm >> 3 & 7;
        return put_rm(f, 0) && shift_cl(f, opcode);
    case 0xe2:
    case 0xe3:
        if (!front_branch(f, UOP_JCXZ) || insn->asize == 2) {
            return false;
        }
        u->cond = opcode == 0xe2 ? 1 : 0;
        u->size = insn->asize;
        return true;
    case 0xe8:
        u->disp = (int64_t)f->next;
        return front_branch(f, UOP_CALL);
    case 0xe9:
    case 0xeb:
        return front_branch(f, UOP_JMP);
    case 0xf6:
    case 0xf7:
        return group_f6(f);
    case 0xfa:
    case 0xfb:
        u->kind = UOP_FLAG_IF;
        u->imm = opcode & 1;
        return f->b->mode & X86_MODE_IOPL_OK;
    case 0xfc:
    case 0xfd:
        u->kind = UOP_FLAG_DF;
        u->imm = opcode & 1;
        return true;
    case 0xfe:
    case 0xff:
        return group_ff(f);
    default:
        return false;
    }
}

/* BT and the like of a register: in memory they address beyond their operand. */
static bool bit_test(Front *f, uint32_t code)
{
    const X86Insn *insn = f->insn;
    Uop *u = f->u;
    u->attr |= UA_NO_MEM_FORM;
    if (insn->operand[0].kind == OPND_REG) {
        return op_rm_reg(f, code, 0);
    }
    u->kind = UOP_BIT_MEM;
    u->size = insn->osize;
    u->code = code | width(insn) | (insn->prefixes & PFX_LOCK ? E_LOCK : 0);
    put_reg_field(f, 1);
    return insn->osize != 2 && insn->asize == (front_mode64(f) ? 8 : 4) && put_rm(f, 0) && u->seg == 0;
}

bool front_0f(Front *f)
{
    X86Insn *insn = f->insn;
    Uop *u = f->u;
    uint32_t code = insn->opcode | E_0F;
    switch (insn->opcode) {
    case 0x01: /* RDTSCP */
        u->kind = UOP_RDTSC;
        u->imm = 1;
        return insn->modrm == 0xf9 && !f->b->cpu->counted; /* the time is exact in the interpreter only */
    case 0x0d:
    case 0x18 ... 0x1f:
        return true; /* NOP and prefetches */
    case 0x31:
        u->kind = UOP_RDTSC;
        return !f->b->cpu->counted;
    case 0x40 ... 0x4f:
        u->attr |= UA_REG_R; /* the destination is kept when the condition fails */
        return op_reg_rm(f, code, 0);
    case 0x80 ... 0x8f:
        return front_branch(f, UOP_JCC);
    case 0x90 ... 0x9f:
        u->reg = 0;
        return put_rm(f, 0) && op(f, code, 0);
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb:
        return bit_test(f, code);
    case 0xba:
        return op_ext(f, code, 1);
    case 0xa4:
    case 0xac:
        return op_rm_reg(f, code, 1);
    case 0xa5:
    case 0xad:
        put_reg_field(f, 1);
        return put_rm(f, 0) && shift_cl(f, code);
    case 0xaf:
        u->attr |= UA_REG_R;
        return op_reg_rm(f, code, 0);
    case 0xb0:
    case 0xb1:
        return op_rm_reg(f, code, 0);
    case 0xc0:
    case 0xc1:
        if (!op_rm_reg(f, code, 0)) {
            return false;
        }
        return (u->attr & UA_MEM) || u->reg != u->rm || (u->reg & 12) != 8; /* a spilled one twice */
    case 0xb6:
    case 0xb7:
    case 0xbe:
    case 0xbf:
        put_reg_field(f, 0);
        return put_rm(f, 1) && op(f, code | width(insn), 0);
    case 0xb8:
        return (insn->prefixes & PFX_REP) && op_reg_rm(f, code | E_F3, 0);
    case 0xbc:
    case 0xbd:
        u->attr |= UA_REG_R; /* BSF, BSR of 0 leave it */
        return op_reg_rm(f, code | (insn->prefixes & PFX_REP && front_has_feature(f) ? E_F3 : 0), 0);
    case 0xc3:
        return !(insn->prefixes & (PFX_REP | PFX_REPNE)) && op_rm_reg(f, code, 0);
    case 0xc7:
        if ((insn->modrm >> 3 & 7) != 1 || insn->operand[0].kind != OPND_MEM) {
            return false;
        }
        u->kind = UOP_CMPXCHG_PAIR;
        u->mem_size = insn->osize == 8 ? 16 : 8;
        u->code = code | (insn->prefixes & PFX_LOCK ? E_LOCK : 0) | (insn->osize == 8 ? E_W : 0);
        u->attr |= insn->osize == 8 ? UA_ALIGN : 0;
        u->attr |= UA_RM_R | UA_RM_W;
        return front_put_mem(f);
    case 0xc8 ... 0xcf:
        if (insn->osize == 2) {
            return false;
        }
        u->kind = UOP_BSWAP;
        u->reg = insn->operand[0].reg;
        u->size = insn->osize;
        u->attr |= UA_REG_R | UA_REG_W;
        return true;
    default:
        return false;
    }
}

bool front_0f38(Front *f)
{
    X86Insn *insn = f->insn;
    if (insn->opcode != 0xf0 && insn->opcode != 0xf1) {
        return false;
    }
    uint32_t code = insn->opcode | E_0F38;
    if (insn->prefixes & PFX_REPNE) { /* CRC32 */
        put_reg_field(f, 0);
        f->u->attr |= UA_REG_R;
        f->u->size = insn->operand[0].size;
        unsigned from = insn->operand[1].size;
        return put_rm(f, 1) && !(f->u->attr & UA_RM_HIGH) && op(f, code | E_F2 | (from == 2 ? E_66 : 0) | (insn->rex & 8 ? E_W : 0), 0);
    }
    return insn->opcode == 0xf0 ? op_reg_rm(f, code, 0) : op_rm_reg(f, code, 0); /* MOVBE */
}
