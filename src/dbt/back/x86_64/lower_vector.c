/* Vector, x87 and VEX-encoded general instructions to host code: the guest's registers are the host's. */
#include "dbt/back/x86_64/lower_priv.h"

/* Guest registers of a unit into the host's, once a block. */
static void unit_live(Lower *l, bool *checked, int32_t live_byte, const uint8_t *load)
{
    Asm *a = l->hot;
    if (*checked) {
        return;
    }
    *checked = true;
    l->had = (LowerHeld){ 0 }; /* rcx is lost here */
    if (!lower_flags_live(l->u)) {
        enc_alu_imm(a, ALU_CMP, 1, lower_env(live_byte), 0);
        enc_jcc(a, CC_E, enc_here(l->cold));
    } else {
        enc_op(a, 0xb6 | E_0F, H_RCX, lower_env(live_byte));
        uint8_t *dead = enc_jrcxz(a);
        uint8_t *live = enc_jmp8(a);
        enc_here_rel8(a, dead);
        enc_jmp(a, enc_here(l->cold));
        enc_here_rel8(a, live);
    }
    enc_call(l->cold, load);
    enc_jmp(l->cold, enc_here(a));
}

void lower_vectors_live(Lower *l)
{
    unit_live(l, &l->vec_checked, ENV_VEC_LIVE, l->env->vec_load);
}

static void units_live(Lower *l)
{
    if (l->u->attr & UA_XMM) {
        lower_vectors_live(l);
    }
    if (l->u->attr & UA_X87) {
        unit_live(l, &l->x87_checked, ENV_X87_LIVE, l->env->x87_load);
    }
}

static void encode_vex(Lower *l, unsigned reg, unsigned v, EncRm rm)
{
    const Uop *u = l->u;
    unsigned pp = u->code & E_66 ? 1 : u->code & E_F3 ? 2 : u->code & E_F2 ? 3 : 0;
    enc_vex(l->hot, (u->code & E_MAP) >> 8, pp, u->vex_w, (u->attr & UA_YMM) != 0, (uint8_t)u->code, reg, v, rm);
}

static void vec_encode(Lower *l, unsigned reg, EncRm rm)
{
    const Uop *u = l->u;
    if (u->attr & UA_VEX) {
        encode_vex(l, reg, u->vex_v, rm);
    } else {
        enc_op(l->hot, u->code, reg, rm);
    }
    lower_append_imm(l->hot, u);
}

void lower_vec(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    units_live(l);
    if (u->attr & UA_NO_MEM_FORM) { /* VZEROUPPER has no operands */
        enc_u8(a, 0xc5);
        enc_u8(a, u->attr & UA_YMM ? 0xfc : 0xf8);
        enc_u8(a, (uint8_t)u->code);
        return;
    }
    unsigned reg = u->reg;
    bool gpr_reg = lower_has_reg(u) && !(u->attr & UA_REG_XMM);
    if (u->attr & UA_MEM) { /* the reg field is a vector here, or a general register that is written */
        EncRm mem = lower_access_mem(l, (u->attr & UA_RM_W) != 0);
        if (gpr_reg) {
            reg = lower_spilled(l, u->reg) ? H_R14 : l->home[u->reg];
        }
        vec_encode(l, reg, mem);
        if (gpr_reg && lower_spilled(l, u->reg)) {
            enc_store(a, 8, lower_slot(u->reg), H_R14);
        }
        return;
    }
    EncRm rm = enc_reg(u->rm);
    bool gpr_rm = !(u->attr & UA_RM_XMM) && (u->attr & (UA_RM_R | UA_RM_W));
    if (gpr_rm) {
        rm = enc_reg(lower_spilled(l, u->rm) ? H_R14 : l->home[u->rm]);
        if (lower_spilled(l, u->rm) && (u->attr & UA_RM_R)) {
            enc_load(a, 8, H_R14, lower_slot(u->rm));
        }
    }
    if (gpr_reg) {
        reg = lower_spilled(l, u->reg) ? H_RCX : l->home[u->reg];
    }
    vec_encode(l, reg, rm);
    if (gpr_rm && lower_spilled(l, u->rm) && (u->attr & UA_RM_W)) {
        enc_store(a, 8, lower_slot(u->rm), H_R14);
    }
    if (gpr_reg && lower_spilled(l, u->reg) && (u->attr & UA_REG_W)) {
        enc_store(a, 8, lower_slot(u->reg), H_RCX);
    }
}

void lower_x87(Lower *l)
{
    const Uop *u = l->u;
    units_live(l);
    EncRm mem = { 0 };
    if (u->attr & UA_MEM) {
        mem = lower_access_mem(l, (u->attr & UA_RM_W) != 0);
    }
    uint32_t site = lower_new_site(l, SLOW_JUMP);
    l->out->sites[site].fault = enc_here(l->hot);
    if (u->attr & UA_MEM) {
        enc_op(l->hot, u->code, u->reg, mem);
    } else {
        enc_u8(l->hot, (uint8_t)u->code);
        enc_u8(l->hot, (uint8_t)u->imm);
    }
}

/* Control words that unmask exceptions are for the interpreter: translated code runs with all masked. */
void lower_fldcw(Lower *l)
{
    Asm *a = l->hot;
    if (lower_flags_live(l->u)) {
        lower_interp(l);
        return;
    }
    units_live(l);
    EncRm mem = lower_without_r14(l, lower_access_mem(l, false));
    if (l->u->kind == UOP_FLDCW) {
        enc_op(a, 0xb7 | E_0F, H_R14, mem); /* movzx r14d, word */
        enc_alu_imm(a, ALU_AND, 4, enc_reg(H_R14), 0x3f);
        enc_alu_imm(a, ALU_CMP, 4, enc_reg(H_R14), 0x3f);
    } else { /* also no reserved bits */
        enc_load(a, 4, H_R14, mem);
        enc_alu_imm(a, ALU_AND, 4, enc_reg(H_R14), (int32_t)0xffff1f80);
        enc_alu_imm(a, ALU_CMP, 4, enc_reg(H_R14), 0x1f80);
    }
    uint32_t site = lower_new_site(l, SLOW_INTERP);
    enc_jcc(a, CC_NE, enc_here(l->cold));
    enc_call(l->cold, l->env->slow[SLOW_INTERP]);
    enc_u32(l->cold, l->block->first_site + site);
    l->u->kind == UOP_FLDCW ? enc_op(a, 0xd9, 5, mem) : enc_op(a, 0xae | E_0F, 2, mem);
}

/* dest is reg, or vex_v where reg is an extension. At most one scratch register is left beside memory. */
void lower_bmi(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    bool reg_dest = (u->attr & UA_REG_W) != 0;
    bool mulx = (u->code & (E_MAP | 0xff)) == (E_0F38 | 0xf6);
    EncRm rm;
    unsigned temp = H_RCX;
    if (u->attr & UA_MEM) {
        rm = lower_without_r14(l, lower_access_mem(l, false));
        temp = H_R14;
    } else {
        rm = lower_spilled(l, u->rm) ? lower_slot(u->rm) : enc_reg(l->home[u->rm]);
    }
    bool has_v = u->imm_size == 0; /* RORX has none */
    unsigned v = 0, reg = u->reg;
    if (has_v) {
        v = lower_spilled(l, u->vex_v) ? H_R14 : l->home[u->vex_v];
        if (lower_spilled(l, u->vex_v) && reg_dest && !mulx) {
            enc_load(a, 8, H_R14, lower_slot(u->vex_v));
        }
    }
    if (reg_dest) {
        reg = lower_spilled(l, u->reg) ? temp : l->home[u->reg];
    }
    encode_vex(l, reg, v, rm);
    lower_append_imm(a, u);
    if (reg_dest && lower_spilled(l, u->reg)) {
        enc_store(a, 8, lower_slot(u->reg), temp);
    } else if (!reg_dest && lower_spilled(l, u->vex_v)) {
        enc_store(a, 8, lower_slot(u->vex_v), H_R14);
    }
}
