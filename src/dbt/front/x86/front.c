/* From x86 instructions to uops. See front.h. */
#include "dbt/front/x86/front.h"

#include "cpu/x86/sys.h"
#include "dbt/back/x86_64/encode.h"
#include "dbt/ir/env.h"

#define TAIL(member) ((int)offsetof(X86Tail, member) - (int)sizeof(X86Tail))
_Static_assert(TAIL(gpr) == ENV_GPR && TAIL(hot.exit_req) == ENV_EXIT_REQ && TAIL(hot.mode) == ENV_MODE &&
                   TAIL(hot.rflags) == ENV_RFLAGS && TAIL(hot.rip) == ENV_RIP && TAIL(hot.fs_base) == ENV_FS_BASE &&
                   TAIL(hot.gs_base) == ENV_GS_BASE && TAIL(hot.scratch) == ENV_RESUME,
               "context layout");
_Static_assert(sizeof(X86Tlbe) == 1 << ENV_TLB_ENTRY_BITS && X86_TLB_BITS == ENV_TLB_BITS &&
                   offsetof(X86Tlbe, wtag) == ENV_TLB_WRITE && offsetof(X86Tlbe, host) == ENV_TLB_HOST,
               "soft TLB layout");

bool front_mode_ok(uint32_t mode)
{
    if (mode & (X86_MODE_TF | X86_MODE_AC | X86_MODE_VM86)) {
        return false;
    }
    if (mode & X86_MODE_CS64) {
        return true;
    }
    return (mode & X86_MODE_CS32) && (mode & X86_MODE_SS32) && (mode & X86_MODE_FLAT) && (mode & X86_MODE_PE);
}

/* --- flags --- */

static uint8_t groups_read(unsigned flags)
{
    return (flags & X86_CF ? FL_C : 0) | (flags & (X86_ARITH & ~X86_CF) ? FL_OSZAP : 0);
}

static const uint8_t cond_reads[8] = { FL_OSZAP, FL_C, FL_OSZAP, FL_ALL, FL_OSZAP, FL_OSZAP, FL_OSZAP, FL_OSZAP };

static bool is_cond(const X86Insn *insn)
{
    if (insn->map == 0) {
        return (insn->opcode & 0xf0) == 0x70;
    }
    return insn->map == 1 && ((insn->opcode & 0xf0) == 0x40 || (insn->opcode & 0xf0) == 0x80 || (insn->opcode & 0xf0) == 0x90);
}

/* Shifts and rotates by an immediate: the count is known. */
static bool is_imm_shift(const X86Insn *insn)
{
    return (insn->map == 0 && (insn->opcode == 0xc0 || insn->opcode == 0xc1)) ||
           (insn->map == 1 && (insn->opcode == 0xa4 || insn->opcode == 0xac));
}

static void flag_effect(const X86Insn *insn, uint8_t *ret_uses, uint8_t *ret_defs)
{
    const X86InsnDesc *d = insn->desc;
    *ret_uses = is_cond(insn) ? cond_reads[insn->cond >> 1] : groups_read(d->flags_read);
    unsigned maybe = d->flags_maybe;
    if (is_imm_shift(insn) && (insn->imm & (insn->osize == 8 ? 63 : 31)) != 0) {
        maybe = 0;
    }
    unsigned sure = (d->flags_written | d->flags_undefined) & ~maybe;
    unsigned oszap = X86_ARITH & ~X86_CF;
    *ret_defs = (sure & X86_CF ? FL_C : 0) | ((sure & oszap) == oszap ? FL_OSZAP : 0);
}

/* --- building uops --- */

typedef struct Front {
    FrontBlock *b;
    X86Insn *insn;
    Uop *u;
    uint64_t next; /* pc of the next instruction */
} Front;

static bool mode64(const Front *f)
{
    return (f->b->mode & X86_MODE_CS64) != 0;
}

/* Opcode bits of the current operand size, for a non-byte instruction. */
static uint32_t width(const X86Insn *insn)
{
    return insn->osize == 2 ? E_66 : insn->osize == 8 ? E_W : 0;
}

static bool put_mem(Front *f)
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
    bool plain_segment = mode64(f) || (u->seg == 0 && insn->seg != X86_CS);
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
        return put_mem(f);
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

/* --- branches --- */

static uint64_t branch_target(Front *f)
{
    uint64_t target = f->next + (uint64_t)f->insn->imm;
    if (mode64(f)) {
        return target;
    }
    return f->insn->osize == 2 ? (uint16_t)target : (uint32_t)target;
}

static bool jump_size_ok(Front *f)
{
    return mode64(f) || f->insn->osize == 4;
}

static bool branch(Front *f, UopKind kind)
{
    if (!jump_size_ok(f)) {
        return false;
    }
    f->u->kind = kind;
    f->u->imm = branch_target(f);
    f->u->cond = f->insn->cond;
    f->u->size = mode64(f) ? 8 : 4;
    if (f->u->imm < f->next) {
        f->u->attr |= UA_BACKWARD;
    }
    return true;
}

static bool indirect(Front *f, UopKind memory, UopKind reg)
{
    Uop *u = f->u;
    if (!jump_size_ok(f)) {
        return false;
    }
    u->size = mode64(f) ? 8 : 4;
    u->imm = f->next;
    const X86Operand *o = &f->insn->operand[0];
    if (o->kind == OPND_MEM) {
        u->kind = memory;
        u->mem_size = u->size;
        u->attr |= UA_RM_R;
        return put_mem(f);
    }
    u->kind = reg;
    u->reg = o->reg;
    u->attr |= UA_REG_R;
    return reg != UOP_CALL_REG || o->reg != X86_RSP;
}

/* --- stack --- */

static bool stack_size_ok(Front *f)
{
    f->u->size = f->u->mem_size = f->insn->osize;
    return f->insn->osize == (mode64(f) ? 8 : 4);
}

static bool push_reg(Front *f, unsigned reg)
{
    f->u->kind = UOP_PUSH;
    f->u->reg = reg;
    f->u->attr |= UA_REG_R;
    return stack_size_ok(f);
}

static bool pop_reg(Front *f, unsigned reg)
{
    f->u->kind = UOP_POP;
    f->u->reg = reg;
    f->u->attr |= UA_REG_W;
    return stack_size_ok(f);
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
        return insn->opcode == 0xff && indirect(f, UOP_CALL_MEM, UOP_CALL_REG);
    case 4:
        return insn->opcode == 0xff && indirect(f, UOP_JMP_MEM, UOP_JMP_REG);
    case 6:
        if (insn->opcode != 0xff) {
            return false;
        }
        if (insn->operand[0].kind == OPND_REG) {
            return push_reg(f, insn->operand[0].reg);
        }
        f->u->kind = UOP_PUSH_MEM;
        f->u->attr |= UA_RM_R;
        return stack_size_ok(f) && put_mem(f);
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
    if (insn->operands == 0) { /* NOP */
        return !(insn->prefixes & PFX_REP);
    }
    u->reg = X86_RAX;
    u->rm = insn->operand[0].reg;
    u->attr = UA_REG_R | UA_REG_W | UA_RM_R | UA_RM_W | UA_NO_MEM_FORM;
    return op(f, 0x87 | width(insn), 0);
}

static bool map_one_byte(Front *f)
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
        return push_reg(f, insn->operand[0].reg);
    case 0x58 ... 0x5f:
        return pop_reg(f, insn->operand[0].reg);
    case 0x63:
        return mode64(f) && op_reg_rm(f, opcode, 0);
    case 0x68:
    case 0x6a:
        u->kind = UOP_PUSH;
        u->reg = UOP_NO_REG;
        u->imm = (uint64_t)insn->imm;
        return stack_size_ok(f);
    case 0x69:
        return op_reg_rm(f, opcode, imm_z(insn));
    case 0x6b:
        return op_reg_rm(f, opcode, 1);
    case 0x70 ... 0x7f:
        return branch(f, UOP_JCC);
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
    case 0x8d:
        u->kind = UOP_LEA;
        u->reg = insn->operand[0].reg;
        u->attr |= UA_REG_W;
        (void)put_mem(f);
        u->seg = 0;
        return insn->asize != 2;
    case 0x8f:
        return insn->operand[0].kind == OPND_REG && pop_reg(f, insn->operand[0].reg);
    case 0x90 ... 0x97:
        return xchg_rax(f);
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
        u->size = u->mem_size = mode64(f) ? 8 : 4;
        return jump_size_ok(f);
    case 0xc6:
        return (insn->modrm >> 3 & 7) == 0 && op_ext(f, opcode, 1);
    case 0xc7:
        return (insn->modrm >> 3 & 7) == 0 && op_ext(f, opcode, imm_z(insn));
    case 0xc9:
        u->kind = UOP_LEAVE;
        return stack_size_ok(f);
    case 0xd0:
    case 0xd1:
        return op_ext(f, opcode, 0);
    case 0xd2:
    case 0xd3:
        u->reg = insn->modrm >> 3 & 7;
        return put_rm(f, 0) && shift_cl(f, opcode);
    case 0xe2:
    case 0xe3:
        if (!branch(f, UOP_JCXZ) || insn->asize == 2) {
            return false;
        }
        u->cond = opcode == 0xe2 ? 1 : 0;
        u->size = insn->asize;
        return true;
    case 0xe8:
        u->disp = (int64_t)f->next;
        return branch(f, UOP_CALL);
    case 0xe9:
    case 0xeb:
        return branch(f, UOP_JMP);
    case 0xf6:
    case 0xf7:
        return group_f6(f);
    case 0xfa:
        if (!(f->b->mode & X86_MODE_IOPL_OK)) {
            return false;
        }
        u->kind = UOP_FLAG_IF;
        return true;
    case 0xfe:
    case 0xff:
        return group_ff(f);
    default:
        return false;
    }
}

static bool map_0f(Front *f)
{
    X86Insn *insn = f->insn;
    Uop *u = f->u;
    uint32_t code = insn->opcode | E_0F;
    switch (insn->opcode) {
    case 0x0d:
    case 0x18 ... 0x1f:
        return true; /* NOP and prefetches */
    case 0x40 ... 0x4f:
        u->attr |= UA_REG_R; /* the destination is kept when the condition fails */
        return op_reg_rm(f, code, 0);
    case 0x80 ... 0x8f:
        return branch(f, UOP_JCC);
    case 0x90 ... 0x9f:
        u->reg = 0;
        return put_rm(f, 0) && op(f, code, 0);
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb: /* the memory form addresses beyond its operand */
        u->attr |= UA_NO_MEM_FORM;
        return insn->operand[0].kind == OPND_REG && op_rm_reg(f, code, 0);
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
        return op_reg_rm(f, code | (insn->prefixes & PFX_REP ? E_F3 : 0), 0);
    case 0xc3:
        return !(insn->prefixes & (PFX_REP | PFX_REPNE)) && op_rm_reg(f, code, 0);
    case 0xc7:
        if ((insn->modrm >> 3 & 7) != 1 || insn->operand[0].kind != OPND_MEM || insn->osize == 8) {
            return false;
        }
        u->kind = UOP_CMPXCHG_PAIR;
        u->mem_size = 8;
        u->code = code | (insn->prefixes & PFX_LOCK ? E_LOCK : 0);
        u->attr |= UA_RM_R | UA_RM_W;
        return put_mem(f);
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

static bool map_0f38(Front *f)
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

/* --- vectors --- */

static bool vec_mode_ok(uint32_t mode, bool vex)
{
    if (vex && !(mode & X86_MODE_AVX)) {
        return false;
    }
    return !(mode & (X86_MODE_TS | X86_MODE_EM | FRONT_MODE_NO_VEC)) && (mode & X86_MODE_OSFXSR);
}

/* Implicit operands that lowering does not know. */
static bool vec_implicit(const X86Insn *insn)
{
    uint8_t opcode = insn->opcode;
    switch (insn->map) {
    case 1: /* MASKMOVDQU */
        return opcode == 0xf7 || opcode == 0x0f;
    case 2: /* gathers and masked moves, of which only parts may fault */
        return (insn->prefixes & PFX_VEX) &&
               ((opcode >= 0x90 && opcode <= 0x93) || (opcode >= 0x2c && opcode <= 0x2f) || opcode == 0x8c || opcode == 0x8e);
    default: /* PCMPxSTRx; VCVTPS2PH, which sets flags before its store faults */
        return (opcode >= 0x60 && opcode <= 0x63) || (opcode == 0x1d && insn->modrm < 0xc0);
    }
}

/* With a general register as the first operand: is it the r/m one? */
static bool gpr_is_rm(const X86Insn *insn)
{
    return (insn->map == 1 && insn->opcode == 0x7e) || (insn->map == 3 && insn->opcode >= 0x14 && insn->opcode <= 0x17);
}

/* The mandatory prefix that a VEX prefix implies. */
static uint32_t vex_prefix(const X86Insn *insn)
{
    static const uint32_t prefixes[4] = { 0, E_66, E_F3, E_F2 };
    unsigned n = 0;
    while (n < 12 && insn->bytes[n] != 0xc4 && insn->bytes[n] != 0xc5) {
        n++;
    }
    return prefixes[insn->bytes[n + (insn->bytes[n] == 0xc4 ? 2 : 1)] & 3];
}

/* Opcode, map and mandatory prefix as the assembler wants them. */
static uint32_t host_code(const X86Insn *insn)
{
    if (insn->prefixes & PFX_VEX) {
        return insn->opcode | (insn->map == 1 ? E_0F : insn->map == 2 ? E_0F38 : E_0F3A) | vex_prefix(insn);
    }
    return insn->opcode | (insn->map == 1 ? E_0F : insn->map == 2 ? E_0F38 : E_0F3A) | (insn->rex & 8 ? E_W : 0) |
           (insn->prefixes & PFX_REP ? E_F3 : insn->prefixes & PFX_REPNE ? E_F2 : insn->prefixes & PFX_OPSIZE ? E_66 : 0);
}

static bool vec(Front *f)
{
    X86Insn *insn = f->insn;
    Uop *u = f->u;
    bool vex = (insn->prefixes & PFX_VEX) != 0;
    if (!vec_mode_ok(f->b->mode, vex) || !(insn->desc->props & INSN_NATIVE) || insn->map == 0 || insn->map > 3 ||
        vec_implicit(insn)) {
        return false;
    }
    if (vex && insn->map == 1 && insn->opcode == 0x77) { /* VZEROUPPER, VZEROALL */
        u->kind = UOP_VEC;
        u->attr = UA_VEX | UA_XMM | UA_NO_MEM_FORM | (insn->vex_l ? UA_YMM : 0);
        u->code = 0x77 | E_0F;
        return true;
    }
    if (!vex && insn->map == 1 && insn->opcode == 0x77) { /* EMMS */
        u->kind = UOP_X87;
        u->attr = UA_X87;
        u->code = 0x0f;
        u->imm = 0x77;
        return !(f->b->mode & FRONT_MODE_NO_X87);
    }
    u->kind = UOP_VEC;
    u->attr = 0;
    u->reg = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
    u->rm = (insn->modrm & 7) | (insn->rex & 1) << 3;
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        uint16_t access = (o->flags & OPND_READ ? 1 : 0) | (o->flags & OPND_WRITE ? 2 : 0);
        switch (o->kind) {
        case OPND_XMM:
            u->attr |= UA_XMM;
            break;
        case OPND_MMX:
            u->attr |= UA_X87;
            break;
        case OPND_REG:
            if (i != 0 || gpr_is_rm(insn)) {
                u->rm = o->reg;
                u->attr |= access * UA_RM_R;
            } else {
                u->reg = o->reg;
                u->attr |= access * UA_REG_R;
            }
            break;
        case OPND_MEM:
            u->mem_size = o->size;
            u->attr |= access * UA_RM_R | (insn->desc->props & INSN_ALIGN && o->size >= 16 ? UA_ALIGN : 0);
            if (!put_mem(f)) {
                return false;
            }
            break;
        case OPND_IMM:
            u->imm_size = 1;
            break;
        default:
            return false;
        }
    }
    u->imm_size |= insn->map == 3;
    u->imm = insn->bytes[insn->length - 1];
    bool gpr_reg = (u->attr & (UA_REG_R | UA_REG_W)) != 0;
    u->attr = gpr_reg ? u->attr & ~UA_REG_XMM : u->attr | UA_REG_XMM;
    if (!(u->attr & (UA_RM_R | UA_RM_W))) {
        u->attr |= UA_RM_XMM;
    }
    if ((u->attr & UA_REG_R) && (u->attr & UA_MEM)) {
        return false;
    }
    if ((u->attr & UA_X87) && (f->b->mode & FRONT_MODE_NO_X87)) {
        return false;
    }
    u->attr |= insn->desc->cls == CLASS_SSE || insn->desc->cls == CLASS_AVX ? UA_XMM : 0;
    u->attr |= vex ? UA_VEX | (insn->vex_l ? UA_YMM : 0) : 0;
    u->code = host_code(insn);
    u->vex_v = insn->vex_v;
    u->vex_w = (insn->rex & 8) != 0;
    return true;
}

/* Loads are ordered on this host, so LFENCE is nothing; time is read by C. */
static bool fence(Front *f)
{
    Uop *u = f->u;
    unsigned which = f->insn->modrm >> 3 & 7;
    if (which == 5) {
        return true;
    }
    u->kind = UOP_BYTES;
    u->imm = 0x0f | 0xaeu << 8 | (uint32_t)(which == 6 ? 0xf0 : 0xf8) << 16;
    u->imm_size = 3;
    return true;
}

/* LDMXCSR, STMXCSR, with or without VEX. */
static bool mxcsr(Front *f)
{
    Uop *u = f->u;
    bool store = (f->insn->modrm >> 3 & 7) == 3;
    if (!vec_mode_ok(f->b->mode, (f->insn->prefixes & PFX_VEX) != 0)) {
        return false;
    }
    u->kind = store ? UOP_VEC : UOP_LDMXCSR;
    u->code = 0xae | E_0F;
    u->reg = store ? 3 : 2;
    u->mem_size = 4;
    u->attr = UA_XMM | (store ? UA_RM_W : UA_RM_R);
    return put_mem(f);
}

/* --- x87 --- */

static bool x87(Front *f)
{
    X86Insn *insn = f->insn;
    Uop *u = f->u;
    if (f->b->mode & (X86_MODE_TS | X86_MODE_EM | FRONT_MODE_NO_X87)) {
        return false;
    }
    unsigned ext = insn->modrm >> 3 & 7;
    u->kind = UOP_X87;
    u->code = insn->opcode;
    u->attr = UA_X87;
    if (insn->modrm >= 0xc0) {
        u->imm = insn->modrm;
        return insn->opcode != 0xdb || insn->modrm != 0xe3; /* FNINIT also clears what save_x87() keeps */
    }
    /* FLDENV, FNSTENV, FRSTOR, FNSAVE */
    if ((insn->opcode == 0xd9 && (ext == 4 || ext == 6)) || (insn->opcode == 0xdd && (ext == 4 || ext == 6))) {
        return false;
    }
    if (insn->opcode == 0xd9 && ext == 5) {
        u->kind = UOP_FLDCW;
    }
    u->reg = ext;
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        if (o->kind == OPND_MEM) {
            u->mem_size = o->size;
            u->attr |= (o->flags & OPND_READ ? UA_RM_R : 0) | (o->flags & OPND_WRITE ? UA_RM_W : 0);
        }
    }
    return put_mem(f);
}

/* --- VEX-encoded instructions on general registers --- */

static bool bmi(Front *f)
{
    X86Insn *insn = f->insn;
    Uop *u = f->u;
    bool dest_is_v = insn->map == 2 && insn->opcode == 0xf3; /* BLSR, BLSMSK, BLSI */
    bool mulx = insn->map == 2 && insn->opcode == 0xf6;
    if (!(insn->prefixes & PFX_VEX) || insn->vex_l || (insn->map != 2 && insn->map != 3)) {
        return false;
    }
    u->kind = UOP_BMI;
    u->attr = UA_VEX | UA_RM_R;
    u->reg = (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
    u->rm = (insn->modrm & 7) | (insn->rex & 1) << 3;
    u->vex_v = insn->vex_v;
    u->vex_w = (insn->rex & 8) != 0;
    u->size = u->mem_size = u->vex_w ? 8 : 4;
    u->code = host_code(insn);
    u->imm = insn->bytes[insn->length - 1];
    u->imm_size = insn->map == 3;
    if (!dest_is_v) {
        u->attr |= UA_REG_W;
    }
    if (mulx && ((u->reg & 12) == 8 || (u->vex_v & 12) == 8)) {
        return false; /* two results, and one is in memory */
    }
    if (u->vex_v > 15 || u->reg > 15) {
        return false;
    }
    return (insn->modrm >> 6) == 3 || put_mem(f);
}

/* --- blocks --- */

static bool has_feature(const Front *f)
{
    const X86InsnDesc *d = f->insn->desc;
    return d->feature_word == 0xff || x86_has(f->b->cpu, d->feature_word, d->feature_bit);
}

/*
 * VEX instructions that would do something else in the host's 64-bit code: VEX.W selects a general register's
 * size only there, VZEROALL has eight registers more, and so has the one that imm8[7:4] names.
 */
static bool vex_means_less(const X86Insn *insn)
{
    if (insn->desc->cls == CLASS_BMI) {
        return insn->rex & 8;
    }
    switch (insn->map << 8 | insn->opcode) {
    case 0x177:
        return true;
    case 0x12a:
    case 0x12c:
    case 0x12d:
    case 0x16e:
    case 0x17e:
    case 0x316:
    case 0x322:
    case 0x360:
    case 0x361:
        return insn->rex & 8;
    case 0x34a:
    case 0x34b:
    case 0x34c:
        return insn->bytes[insn->length - 1] & 0x80;
    default:
        return false;
    }
}

static bool native_insn(Front *f)
{
    X86Insn *insn = f->insn;
    if ((insn->prefixes & PFX_VEX) && !(f->b->mode & X86_MODE_CS64) && vex_means_less(insn)) {
        return false;
    }
    if (!has_feature(f) || (insn->prefixes & PFX_EVEX)) {
        return false;
    }
    if (insn->map == 1 && insn->opcode == 0xae && insn->modrm >= 0xe8 &&
        !(insn->prefixes & (PFX_REP | PFX_REPNE | PFX_OPSIZE | PFX_LOCK))) {
        return fence(f);
    }
    if (insn->map == 1 && insn->opcode == 0xae && !(insn->prefixes & (PFX_REP | PFX_REPNE | PFX_OPSIZE)) &&
        insn->modrm < 0xc0 && (insn->modrm >> 4 & 3) == 1) {
        return mxcsr(f);
    }
    bool general = (insn->map == 1 && (insn->opcode == 0xc3 || insn->opcode == 0xb8)) ||
                   (insn->map == 2 && insn->opcode >= 0xf0);
    if ((insn->desc->cls == CLASS_SSE || insn->desc->cls == CLASS_AVX) && !general) {
        return vec(f);
    }
    if (insn->desc->cls == CLASS_BMI && (insn->prefixes & PFX_VEX)) {
        return bmi(f);
    }
    if (insn->desc->cls == CLASS_MMX) {
        return vec(f);
    }
    if (insn->map == 0 && insn->opcode == 0x9b) { /* FWAIT: with all masked nothing is pending */
        return !(f->b->mode & (X86_MODE_TS | X86_MODE_EM | FRONT_MODE_NO_X87));
    }
    if (insn->desc->cls == CLASS_X87 && insn->map == 0 && insn->opcode >= 0xd8 && insn->opcode <= 0xdf) {
        return x87(f);
    }
    if ((insn->prefixes & PFX_VEX) || insn->desc->cls == CLASS_X87) {
        return false;
    }
    switch (insn->map) {
    case 0:
        return map_one_byte(f);
    case 1:
        return map_0f(f);
    case 2:
        return map_0f38(f);
    default:
        return false;
    }
}

static void reset_uop(Uop *u, unsigned insn)
{
    memset(u, 0, sizeof(*u));
    u->insn = insn;
    u->base = u->index = UOP_NO_REG;
}

static const uint8_t *bytes_at(const FrontBlock *b, uint64_t va, unsigned *ret_available)
{
    uint64_t offset = va - b->pc;
    if (offset < b->available && !b->crossing) {
        *ret_available = b->available - (unsigned)offset;
        return b->bytes + offset;
    }
    if ((va ^ b->pc) >> 12 == 0 && !b->crossing) { /* earlier on the page */
        *ret_available = (unsigned)(4096 - (va & 4095));
        return b->bytes - (b->pc - va);
    }
    return b->peek == NULL ? NULL : b->peek(b->opaque, va, ret_available);
}

/* Whether the code behind a call reads flags that the callee left. */
static bool return_reads_flags(const FrontBlock *b, uint64_t pc)
{
    uint8_t need = FL_ALL;
    for (unsigned n = 0; n < 3 && need != 0; n++) {
        X86Insn insn;
        uint8_t uses, defs;
        unsigned available;
        const uint8_t *code = bytes_at(b, pc, &available);
        if (code == NULL || x86_decode(&insn, code, available, b->mode) != DECODE_OK) {
            return false;
        }
        flag_effect(&insn, &uses, &defs);
        if (uses & need) {
            return true;
        }
        if (insn.desc->props & INSN_END) {
            return false;
        }
        need &= ~defs;
        pc += insn.length;
    }
    return false;
}

/*
 * Instructions that end a run of the interpreter, but mostly leave the mode alone: the run-time looks
 * whether the block may go on.
 */
static bool goes_on(const X86Insn *insn)
{
    if (insn->map == 0) { /* POPF, STI */
        return insn->opcode == 0x9d || insn->opcode == 0xfb;
    }
    /* SWAPGS, CLAC, STAC */
    return insn->map == 1 && insn->opcode == 0x01 && (insn->modrm == 0xf8 || insn->modrm == 0xca || insn->modrm == 0xcb);
}

/* Adds the uop of one instruction. True: the block ends with it. */
static bool add_insn(FrontBlock *b, X86Insn *insn, unsigned index, uint64_t next)
{
    Uop *u = &b->uops[b->uop_count++];
    Front f = { .b = b, .insn = insn, .u = u, .next = next };
    reset_uop(u, index);
    u->size = insn->operands > 0 && insn->operand[0].size <= 8 ? insn->operand[0].size : insn->osize;
    uint8_t uses, defs;
    flag_effect(insn, &uses, &defs);
    bool native = native_insn(&f);
    bool call = native && (u->kind == UOP_CALL || u->kind == UOP_CALL_REG || u->kind == UOP_CALL_MEM);
    bool keep_flags = call && !b->exact_flags && return_reads_flags(b, next);
    if (native && !keep_flags) {
        u->uses = uses;
        u->defs = defs;
        return uop_ends_block(u);
    }
    reset_uop(u, index);
    u->attr = keep_flags ? UA_KEEP_FLAGS : 0;
    u->uses = uses;
    u->defs = defs;
    u->kind = (insn->desc->props & INSN_END && !goes_on(insn)) || insn->desc->cls == CLASS_X87 ||
                      (insn->desc->cls == CLASS_SSE && insn->map == 1 && insn->opcode == 0xae)
                  ? UOP_INTERP_END
                  : UOP_INTERP;
    return uop_ends_block(u);
}

/* Looks a few instructions ahead: which flags may be read before they are written? */
static uint8_t exit_live(void *opaque, const Uop *uop, uint64_t target)
{
    const FrontBlock *b = opaque;
    uint8_t live = 0, need = FL_ALL;
    uint64_t pc = target;
    for (unsigned n = 0; n < 8 && need != 0; n++) {
        X86Insn insn;
        unsigned available;
        const uint8_t *code = bytes_at(b, pc, &available);
        if (code == NULL || x86_decode(&insn, code, available, b->mode) != DECODE_OK) {
            return uop->kind == UOP_CALL && n == 0 && !b->exact_flags ? 0 : live | need;
        }
        uint8_t uses, defs;
        flag_effect(&insn, &uses, &defs);
        live |= uses & need;
        need &= ~defs;
        pc += insn.length;
        if (insn.map == 0 && (insn.opcode == 0xe9 || insn.opcode == 0xeb)) {
            pc += (uint64_t)insn.imm;
            if (!(b->mode & X86_MODE_CS64)) {
                pc = (uint32_t)pc;
            }
        } else if (insn.map == 0 && (insn.opcode == 0xe8 || insn.opcode == 0xc3 || insn.opcode == 0xc2)) {
            return b->exact_flags ? live | need : live;
        } else if (insn.desc->props & INSN_END) {
            return live | need;
        }
    }
    return live | need;
}

bool front_translate(FrontBlock *b)
{
    b->insn_count = b->uop_count = b->length = 0;
    bool ended = false;
    unsigned limit = b->crossing ? 1 : FRONT_MAX_INSNS;
    while (b->insn_count < limit && !ended) {
        X86Insn *insn = &b->insns[b->insn_count];
        if (x86_decode(insn, b->bytes + b->length, b->available - b->length, b->mode) != DECODE_OK) {
            break;
        }
        b->offset[b->insn_count] = b->length;
        b->length += insn->length;
        uint64_t next = b->pc + b->length;
        ended = add_insn(b, insn, b->insn_count, b->mode & X86_MODE_CS64 ? next : (uint32_t)next);
        b->insn_count++;
        const Uop *u = &b->uops[b->uop_count - 1];
        if ((u->kind == UOP_JCC || u->kind == UOP_JCXZ) && (u->attr & UA_BACKWARD)) {
            break;
        }
    }
    if (b->insn_count == 0) {
        return false;
    }
    b->offset[b->insn_count] = b->length;
    if (!ended) {
        Uop *u = &b->uops[b->uop_count++];
        reset_uop(u, b->insn_count);
        u->kind = UOP_JMP;
        u->size = 8;
        u->imm = b->pc + b->length;
        if (!(b->mode & X86_MODE_CS64)) {
            u->imm = (uint32_t)u->imm;
        }
    }
    b->flags_in = uop_liveness(b->uops, b->uop_count, b->exact_flags ? FL_ALL : 0, exit_live, b);
    return true;
}
