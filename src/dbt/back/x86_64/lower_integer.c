/* Instructions on general registers to host code. */
#include "dbt/back/x86_64/lower_priv.h"

/* --- UOP_OP --- */

/* Byte registers: AH.. keep their numbers; the guest's rcx moves to ecx, which needs no REX. */
static unsigned high_operand(Lower *l, unsigned guest, bool high, unsigned *temp)
{
    if (guest == 1) {
        *temp = 1;
        return high ? 5 : 1;
    }
    assert(l->home[guest] < 8 || !high);
    return l->home[guest] + (high ? 4 : 0);
}

static void op_high(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    uint32_t code = (u->code & ~(E_BYTE_REG | E_BYTE_RM)) | E_HIGH;
    if (u->attr & UA_MEM) {
        EncRm mem = lower_only_rcx(l, lower_access_mem(l, (u->attr & UA_RM_W) != 0));
        enc_op(a, code, l->home[u->reg] + 4, mem); /* never CH: see front */
        lower_append_imm(a, u);
        return;
    }
    unsigned uses_rcx = 0;
    bool wide_reg = lower_has_reg(u) && !(u->attr & UA_REG_HIGH) && !(u->code & E_BYTE_REG);
    unsigned rm = high_operand(l, u->rm, (u->attr & UA_RM_HIGH) != 0, &uses_rcx);
    unsigned reg = u->reg;
    if (wide_reg) { /* MOVZX, MOVSX: any register; through rcx where it would need REX */
        reg = lower_spilled(l, u->reg) || l->home[u->reg] >= 8 ? H_RCX : l->home[u->reg];
    } else if (lower_has_reg(u)) {
        reg = high_operand(l, u->reg, (u->attr & UA_REG_HIGH) != 0, &uses_rcx);
    }
    if (uses_rcx) {
        enc_mov(a, 8, H_RCX, H_R12);
    }
    enc_op(a, code, reg, enc_reg(rm));
    lower_append_imm(a, u);
    if (wide_reg && reg == H_RCX) {
        enc_mov(a, u->size, l->home[u->reg], H_RCX);
    } else if (uses_rcx && ((u->attr & UA_RM_W) || (u->attr & UA_REG_W))) {
        enc_mov(a, 8, H_R12, H_RCX);
    }
}

static void op_mem(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    EncRm mem = lower_access_mem(l, (u->attr & UA_RM_W) != 0);
    if (!lower_has_reg(u) || !lower_spilled(l, u->reg)) {
        enc_op(a, u->code, lower_has_reg(u) ? l->home[u->reg] : u->reg, mem);
        lower_append_imm(a, u);
        return;
    }
    bool keeps = (u->attr & UA_REG_R) || u->size < 4; /* some of what the register holds */
    if (keeps || (u->attr & UA_RM_W)) {
        mem = lower_without_r14(l, mem);
    }
    if (keeps) {
        enc_load(a, 8, H_R14, lower_slot(u->reg));
    }
    enc_op(a, u->code, H_R14, mem);
    lower_append_imm(a, u);
    if (u->attr & UA_REG_W) {
        enc_store(a, 8, lower_slot(u->reg), H_R14);
        l->held = (LowerHeld){ H_R14, u->reg };
    }
}

/* XOR or SUB of a register whose home is memory with itself: 0, whatever it was. */
static bool is_zeroing(const Lower *l, const Uop *u)
{
    uint8_t code = (uint8_t)u->code;
    return !(u->code & E_MAP) && (code == 0x31 || code == 0x33 || code == 0x29 || code == 0x2b) && u->size >= 4 &&
           u->reg == u->rm && lower_spilled(l, u->reg);
}

/*
 * OP pinned, spilled as the form that reads its source from memory: 0 when there is none. Only operations whose two
 * directions are one bit apart.
 */
static uint32_t from_memory_form(const Uop *u)
{
    uint8_t code = (uint8_t)u->code;
    if ((u->code & (E_MAP | E_LOCK)) || !((code < 0x40 && (code & 7) < 2) || code == 0x88 || code == 0x89)) {
        return 0;
    }
    uint32_t form = (u->code & ~(E_BYTE_REG | E_BYTE_RM)) | 2;
    return u->code & E_BYTE_RM ? form | E_BYTE_REG : form;
}

/* The r/m operand of a register form; *ret_through: r14 was loaded with it and is to be stored when it changes. */
static EncRm rm_operand(Lower *l, bool reg_is_rcx, bool *ret_through)
{
    const Uop *u = l->u;
    *ret_through = false;
    if (!lower_spilled(l, u->rm)) {
        return enc_reg(l->home[u->rm]);
    }
    unsigned had = lower_had(l, u->rm);
    bool writes = (u->attr & UA_RM_W) != 0;
    if (!writes && reg_is_rcx && u->reg == u->rm && (u->attr & UA_REG_R)) {
        return enc_reg(H_RCX);
    }
    if (had != 0 && !writes && !(reg_is_rcx && had == H_RCX)) {
        return enc_reg(had);
    }
    /* A store of less than the register would hold up the next load of all of it. */
    if ((u->attr & UA_NO_MEM_FORM) || (writes && (u->size <= 4 || (had == H_R14 && (u->attr & UA_RM_R))))) {
        *ret_through = true;
        if (had != H_R14 && ((u->attr & (UA_RM_R | UA_NO_MEM_FORM)) || u->size < 4)) {
            enc_load(l->hot, 8, H_R14, lower_slot(u->rm));
        }
        return enc_reg(H_R14);
    }
    return lower_slot(u->rm);
}

static void op_reg(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    unsigned reg = u->reg;
    bool reg_spilled = lower_has_reg(u) && lower_spilled(l, u->reg), through;
    if (lower_has_reg(u) && is_zeroing(l, u)) {
        enc_op(a, u->code & ~E_W, H_R14, enc_reg(H_R14)); /* for the flags, too */
        enc_store(a, 8, lower_slot(u->reg), H_R14);
        l->held = (LowerHeld){ H_R14, u->reg };
        return;
    }
    if (reg_spilled && !lower_spilled(l, u->rm) && from_memory_form(u) != 0) {
        unsigned had = lower_had(l, u->reg);
        uint32_t code = from_memory_form(u);
        enc_op(a, had ? code | (u->code & E_BYTE_REG ? E_BYTE_RM : 0) : code, l->home[u->rm],
               had ? enc_reg(had) : lower_slot(u->reg));
        l->held = l->had;
        return;
    }
    EncRm rm = rm_operand(l, reg_spilled, &through);
    if (reg_spilled) {
        reg = H_RCX;
        if (((u->attr & UA_REG_R) || u->size < 4) && lower_had(l, u->reg) != H_RCX) {
            enc_load(a, 8, H_RCX, lower_slot(u->reg));
        }
    } else if (lower_has_reg(u)) {
        reg = l->home[u->reg];
    }
    enc_op(a, u->code & ~E_LOCK, reg, rm);
    lower_append_imm(a, u);
    if (!reg_spilled && !lower_spilled(l, u->rm)) {
        l->held = l->had;
    }
    if (reg_spilled && (u->attr & UA_REG_W)) {
        enc_store(a, 8, lower_slot(u->reg), H_RCX);
        l->held = (LowerHeld){ H_RCX, u->reg };
    }
    if (through && (u->attr & UA_RM_W)) { /* last: XADD of a register to itself is a sum */
        enc_store(a, 8, lower_slot(u->rm), H_R14);
        l->held = (LowerHeld){ H_R14, u->rm };
    }
}

/* A trapping instruction: the interpreter raises what SIGFPE reported. Keeps flags. */
static void add_trap(Lower *l, const uint8_t *at)
{
    const uint8_t *stub = lower_slow_stub(l, SLOW_FLAGS, at);
    LowerSite *site = &l->out->sites[l->out->site_count - 1];
    site->fault = (uint8_t *)at;
    site->stub = stub;
}

void lower_op(Lower *l)
{
    const Uop *u = l->u;
    if (u->attr & (UA_REG_HIGH | UA_RM_HIGH)) {
        op_high(l);
    } else if (u->attr & UA_MEM) {
        op_mem(l);
    } else {
        op_reg(l);
    }
}

void lower_div(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    EncRm rm;
    if (u->attr & UA_MEM) {
        rm = lower_access_mem(l, false);
    } else if (u->attr & UA_RM_HIGH) {
        unsigned uses_rcx = 0;
        unsigned n = high_operand(l, u->rm, true, &uses_rcx);
        if (uses_rcx) {
            enc_mov(a, 8, H_RCX, H_R12);
        }
        rm = enc_reg(n);
    } else {
        rm = lower_spilled(l, u->rm) ? lower_slot(u->rm) : enc_reg(l->home[u->rm]);
    }
    add_trap(l, enc_here(a));
    enc_op(a, u->attr & UA_RM_HIGH ? (u->code & ~E_BYTE_RM) | E_HIGH : u->code, u->reg, rm);
}

/* --- other data movement --- */

void lower_movi(Lower *l)
{
    const Uop *u = l->u;
    if (!lower_spilled(l, u->reg)) {
        enc_mov_imm(l->hot, l->home[u->reg], u->imm);
        l->held = l->had;
    } else if (u->imm == (uint64_t)(int32_t)u->imm) {
        enc_store_imm(l->hot, 8, lower_slot(u->reg), (int32_t)u->imm);
    } else {
        enc_mov_imm(l->hot, H_RCX, u->imm);
        enc_store(l->hot, 8, lower_slot(u->reg), H_RCX);
    }
}

void lower_lea(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    if (u->size == 2 || u->asize < u->size) { /* the offset in full, then its low part */
        lower_address(l, u, H_R14);
        if (lower_spilled(l, u->reg)) {
            enc_store(a, u->size == 2 ? 2 : 8, lower_slot(u->reg), H_R14);
        } else {
            enc_mov(a, u->size == 8 ? 4 : u->size, l->home[u->reg], H_R14);
        }
        return;
    }
    Uop copy = *u;
    copy.asize = u->size;
    if (lower_spilled(l, u->reg)) {
        lower_address(l, &copy, H_R14);
        enc_store(a, 8, lower_slot(u->reg), H_R14);
        l->held = (LowerHeld){ H_R14, u->reg };
    } else {
        lower_address(l, &copy, l->home[u->reg]);
    }
}

void lower_bswap(Lower *l)
{
    const Uop *u = l->u;
    unsigned reg = lower_spilled(l, u->reg) ? H_RCX : l->home[u->reg];
    if (lower_spilled(l, u->reg)) {
        enc_load(l->hot, u->size, reg, lower_slot(u->reg));
    }
    enc_bswap(l->hot, u->size, reg);
    if (lower_spilled(l, u->reg)) {
        enc_store(l->hot, 8, lower_slot(u->reg), reg);
    }
}

void lower_shift_cl(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    unsigned reg = u->reg;
    if (lower_has_reg(u)) { /* SHLD, SHRD; front sees to it that not both operands are in memory */
        reg = l->home[u->reg];
        if (lower_spilled(l, u->reg)) {
            enc_load(a, 8, H_R14, lower_slot(u->reg));
            reg = H_R14;
        }
    }
    EncRm rm;
    bool write_back = false;
    if (u->attr & UA_MEM) {
        enc_lea(a, 8, H_R14, lower_access_mem(l, true));
        rm = enc_mem(H_R14, 0);
    } else if (!lower_spilled(l, u->rm)) {
        rm = enc_reg(l->home[u->rm] + (u->attr & UA_RM_HIGH ? 4 : 0));
    } else if (u->size == 4) {
        enc_load(a, 8, H_R14, lower_slot(u->rm));
        rm = enc_reg(H_R14);
        write_back = true;
    } else {
        rm = lower_slot(u->rm);
    }
    enc_mov(a, 4, H_RCX, H_R12);
    enc_op(a, u->attr & UA_RM_HIGH ? (u->code & ~E_BYTE_RM) | E_HIGH : u->code, reg, rm);
    if (write_back) {
        enc_store(a, 8, lower_slot(u->rm), H_R14);
    }
}

void lower_cmpxchg_pair(Lower *l)
{
    Asm *a = l->hot;
    EncRm mem = lower_access_mem(l, true);
    enc_lea(a, 8, H_R14, mem);
    enc_mov(a, 8, H_RCX, H_R12);
    enc_op(a, l->u->code, 1, enc_mem(H_R14, 0));
}

/* The register's upper bits choose the word: it is added to the address first, then the host's instruction has the rest. */
void lower_bit_mem(Lower *l)
{
    Asm *a = l->hot;
    const Uop *u = l->u;
    if (lower_flags_live(u)) {
        lower_interp(l);
        return;
    }
    unsigned shift = u->size == 8 ? 3 : 2;
    EncRm bit = lower_spilled(l, u->reg) ? lower_slot(u->reg) : enc_reg(l->home[u->reg]);
    lower_address(l, u, H_R14);
    enc_op(a, u->size == 8 ? 0x8b | E_W : 0x63 | E_W, H_RCX, bit); /* mov, movsxd */
    enc_op(a, 0xc1 | E_W, 7, enc_reg(H_RCX));                      /* sar */
    enc_u8(a, (uint8_t)(shift + 3));
    enc_lea(a, u->asize, H_R14, enc_mem_index(H_R14, H_RCX, shift, 0));
    EncRm word = lower_without_r14(l, lower_check(l, u->size, (u->attr & UA_RM_W) != 0, false));
    enc_op(a, 0x8b, H_R14, bit);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_R14), (int32_t)(8 * u->size - 1));
    enc_op(a, u->code, H_R14, word);
}

void lower_push(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    EncRm mem = lower_access_stack(l, -(int)u->size, u->size, true);
    if (u->reg == UOP_NO_REG) {
        enc_store_imm(a, u->size, mem, (int32_t)u->imm);
    } else if (lower_spilled(l, u->reg)) {
        mem = lower_without_r14(l, mem);
        enc_load(a, 8, H_R14, lower_slot(u->reg));
        enc_store(a, u->size, mem, H_R14);
    } else {
        enc_store(a, u->size, mem, l->home[u->reg]);
    }
    lower_move_stack(l, -(int)u->size);
}

void lower_push_temp(Lower *l, unsigned size)
{
    EncRm mem = lower_without_r14(l, lower_access_stack(l, -(int)size, size, true));
    enc_load(l->hot, 8, H_R14, lower_env(l->env->temp));
    enc_store(l->hot, size, mem, H_R14);
    lower_move_stack(l, -(int)size);
}

void lower_push_mem(Lower *l)
{
    EncRm mem = lower_access_mem(l, false);
    enc_load(l->hot, l->u->size, H_R14, mem);
    enc_store(l->hot, 8, lower_env(l->env->temp), H_R14);
    lower_push_temp(l, l->u->size);
}

void lower_pop(Lower *l)
{
    const Uop *u = l->u;
    EncRm mem = lower_access_stack(l, 0, u->size, false);
    if (lower_spilled(l, u->reg)) {
        enc_load(l->hot, u->size, H_R14, mem);
        enc_store(l->hot, 8, lower_slot(u->reg), H_R14);
    } else {
        enc_load(l->hot, u->size, l->home[u->reg], mem);
    }
    if (u->reg != 4) { /* POP rsp: the value stands */
        lower_move_stack(l, u->size);
    }
}

void lower_leave(Lower *l)
{
    unsigned size = l->u->size;
    enc_mov(l->hot, size, H_R14, H_R15);
    EncRm mem = lower_check(l, size, false, false);
    enc_lea(l->hot, size, H_R13, enc_mem(H_R15, size));
    enc_load(l->hot, size, H_R15, mem);
}
