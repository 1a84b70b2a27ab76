/*
 * The record of the flags (ir/env.h): two or three stores behind an instruction whose flags may be read by code
 * that is not known yet. Where the operands do not suffice, LAHF and SETO.
 */
#include "dbt/back/x86_64/lower_priv.h"

typedef struct Recipe {
    FlagsRecord kind;
    uint8_t a, b; /* guest registers; b UOP_NO_REG: imm */
    int64_t imm;
} Recipe;

/* ALU operation n (ADD OR ADC SBB AND SUB XOR CMP) on register a and register b or imm. */
static bool alu_recipe(unsigned n, uint8_t a, uint8_t b, int64_t imm, Recipe *ret)
{
    static const uint8_t kinds[8] = { FLAGS_ADD, FLAGS_LOGIC, FLAGS_RAW, FLAGS_RAW, FLAGS_LOGIC, FLAGS_SUB, FLAGS_LOGIC, FLAGS_CMP };
    *ret = (Recipe){ .kind = kinds[n], .a = a, .b = b, .imm = imm };
    return kinds[n] != FLAGS_RAW && (a != b || kinds[n] == FLAGS_LOGIC || kinds[n] == FLAGS_CMP);
}

static bool group_recipe(const Uop *u, Recipe *ret)
{
    uint8_t code = (uint8_t)u->code;
    if (code == 0x80 || code == 0x81 || code == 0x83) {
        unsigned bits = 64 - 8 * u->imm_size;
        return alu_recipe(u->reg, u->rm, UOP_NO_REG, (int64_t)(u->imm << bits) >> bits, ret);
    }
    if ((code == 0xf6 || code == 0xf7) && u->reg == 3) {
        *ret = (Recipe){ .kind = FLAGS_NEG, .a = u->rm, .b = UOP_NO_REG };
        return true;
    }
    return false;
}

static bool register_recipe(const Uop *u, Recipe *ret)
{
    uint8_t code = (uint8_t)u->code;
    if (!lower_has_reg(u)) {
        return group_recipe(u, ret);
    }
    if (code < 0x40 && (code & 7) < 4) {
        bool to_reg = code & 2;
        return alu_recipe(code >> 3, to_reg ? u->reg : u->rm, to_reg ? u->rm : u->reg, 0, ret);
    }
    if (code == 0x84 || code == 0x85) {
        *ret = (Recipe){ .kind = u->reg == u->rm ? FLAGS_LOGIC : FLAGS_TEST, .a = u->rm, .b = u->reg };
        return true;
    }
    return false;
}

static bool recipe_of(const Uop *u, Recipe *ret)
{
    bool high = u->attr & (UA_REG_HIGH | UA_RM_HIGH);
    if (u->kind == UOP_BYTES && u->code < 0x40) {
        return alu_recipe(u->code >> 3, 0, UOP_NO_REG, u->disp, ret);
    }
    if (u->kind == UOP_BYTES && (u->code == 0xa8 || u->code == 0xa9)) {
        *ret = (Recipe){ .kind = FLAGS_TEST, .b = UOP_NO_REG, .imm = u->disp };
        return true;
    }
    if (u->kind != UOP_OP || (u->code & E_MAP) || high) {
        return false;
    }
    if (!(u->attr & UA_MEM)) {
        return register_recipe(u, ret);
    }
    /* With an operand in memory only what is left in a register counts: AND, OR, XOR to one. */
    uint8_t code = (uint8_t)u->code;
    return lower_has_reg(u) && code < 0x40 && (code & 6) == 2 && alu_recipe(code >> 3, u->reg, UOP_NO_REG, 0, ret) &&
           ret->kind == FLAGS_LOGIC;
}

static void store_guest(Lower *l, int32_t at, unsigned guest)
{
    unsigned from = l->home[guest];
    if (lower_spilled(l, guest)) {
        enc_load(l->hot, 8, H_RCX, lower_slot(guest));
        from = H_RCX;
    }
    enc_store(l->hot, 8, lower_env(at), from);
}

void lower_record(Lower *l)
{
    const Uop *u = l->u;
    Recipe r;
    if (!recipe_of(u, &r)) {
        enc_call(l->hot, l->env->flags_save);
        return;
    }
    uint32_t kind = r.kind | (uint32_t)__builtin_ctz(u->size) << 4;
    store_guest(l, l->env->flags_a, r.a);
    if (r.b != UOP_NO_REG && r.kind != FLAGS_LOGIC) {
        store_guest(l, l->env->flags_b, r.b);
    } else if (r.imm == (int32_t)((uint32_t)r.imm << 8) >> 8) {
        kind |= FLAGS_IMM | (uint32_t)r.imm << 8;
    } else {
        enc_store_imm(l->hot, 8, lower_env(l->env->flags_b), (int32_t)r.imm);
    }
    enc_store_imm(l->hot, 4, lower_env(l->env->flags_kind), (int32_t)kind);
}
