/*
 * Vector, x87 and VEX-encoded general instructions as uops: the host executes them on the same registers, so
 * what is sorted out here is where general registers and memory take part, and what must be interpreted.
 */
#include "dbt/front/x86/front_priv.h"

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

bool front_vec(Front *f)
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
            if (!front_put_mem(f)) {
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
bool front_fence(Front *f)
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
bool front_mxcsr(Front *f)
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
    return front_put_mem(f);
}
/* --- x87 --- */

bool front_x87(Front *f)
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
    return front_put_mem(f);
}

/* --- VEX-encoded instructions on general registers --- */

bool front_bmi(Front *f)
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
    return (insn->modrm >> 6) == 3 || front_put_mem(f);
}
