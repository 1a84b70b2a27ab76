/* From uops to host code. See lower.h for the conventions. */
#include "dbt/back/x86_64/lower.h"

#include "dbt/ir/env.h"

typedef struct Lower {
    const HostEnv *env;
    const LowerBlock *block;
    Asm *hot, *cold;
    Lowered *out;
    const Uop *u;
    unsigned index;
    uint8_t *hot_start;
    bool vec_checked, x87_checked;
} Lower;

static EncRm env_at(int32_t disp)
{
    return enc_mem(H_RBP, disp);
}

static EncRm guest_slot(unsigned guest)
{
    return env_at(ENV_GPR + 8 * guest);
}

static bool spilled(unsigned guest)
{
    return host_of_guest[guest] == HOST_SPILLED;
}

static void get_guest(Asm *a, unsigned dst, unsigned guest)
{
    if (spilled(guest)) {
        enc_load(a, 8, dst, guest_slot(guest));
    } else {
        enc_mov(a, 8, dst, host_of_guest[guest]);
    }
}

/* --- sites and exits --- */

static uint32_t new_site(Lower *l, unsigned kind)
{
    assert(l->out->site_count < LOWER_MAX_SITES);
    unsigned n = l->out->site_count++;
    l->out->sites[n] = (LowerSite){ .uop = l->index, .kind = kind };
    return n;
}

static void close_sites(Lower *l)
{
    for (unsigned n = l->out->site_count; n-- > 0 && l->out->sites[n].uop == l->index;) {
        l->out->sites[n].resume = (uint32_t)(l->hot->p - l->hot_start);
    }
}

/* call thunk; jmp retry; site. Returns the stub's run address. */
static const uint8_t *slow_stub(Lower *l, unsigned kind, const uint8_t *retry)
{
    const uint8_t *stub = enc_here(l->cold);
    uint32_t site = new_site(l, kind);
    enc_call(l->cold, l->env->slow[kind]);
    enc_jmp(l->cold, retry);
    enc_u32(l->cold, l->block->first_site + site);
    return stub;
}

static unsigned new_exit(Lower *l, uint64_t target)
{
    assert(l->out->exit_count < LOWER_MAX_EXITS);
    unsigned n = l->out->exit_count++;
    l->out->exits[n] = (LowerExit){ .target = target, .uop = l->index };
    return n;
}

static const uint8_t *leave_stub(Lower *l, unsigned why, uint32_t payload)
{
    const uint8_t *stub = enc_here(l->cold);
    enc_call(l->cold, l->env->leave[why]);
    enc_u32(l->cold, payload);
    return stub;
}

static unsigned exit_stub(Lower *l, uint64_t target)
{
    unsigned n = new_exit(l, target);
    l->out->exits[n].stub = leave_stub(l, LEAVE_LINK, l->block->first_exit + n);
    return n;
}

/* --- addresses and the soft TLB --- */

/* The linear address of the memory operand to r14 (or to `dst`, of the offset alone, for LEA). */
static void address(Lower *l, const Uop *u, unsigned dst)
{
    Asm *a = l->hot;
    unsigned base = u->base < 16 ? host_of_guest[u->base] : ENC_ABS;
    unsigned index = u->index < 16 ? host_of_guest[u->index] : ENC_NONE;
    unsigned size = u->asize == 8 ? 8 : 4;
    if (u->base < 16 && spilled(u->base)) {
        enc_load(a, 8, H_R14, guest_slot(u->base));
        base = H_R14;
    }
    if (u->index < 16 && spilled(u->index)) {
        enc_load(a, 8, H_RCX, guest_slot(u->index));
        index = H_RCX;
    }
    if (base == ENC_ABS && index == ENC_NONE) {
        enc_mov_imm(a, dst, size == 4 ? (uint32_t)u->disp : (uint64_t)u->disp);
    } else if (index == ENC_NONE && u->disp == 0) {
        if (base != dst || size == 4) {
            enc_mov(a, size, dst, base);
        }
    } else {
        enc_lea(a, size, dst, enc_mem_index(base, index, u->scale, (int32_t)u->disp));
    }
}

static void add_segment(Lower *l, const Uop *u)
{
    if (u->seg == 0) {
        return;
    }
    EncRm base = env_at(u->seg == 1 ? ENV_FS_BASE : ENV_GS_BASE);
    if (u->live_in != 0) {
        enc_load(l->hot, 8, H_RCX, base);
        enc_lea(l->hot, 8, H_R14, enc_mem_index(H_R14, H_RCX, 0, 0));
    } else {
        enc_alu(l->hot, ALU_ADD, 8, H_R14, base);
    }
}

/* Section 7.1: r14 address -> page offset in r14, host page in rcx; destroys flags. */
static void check_plain(Lower *l, unsigned size, bool write, bool align)
{
    Asm *a = l->hot;
    const uint8_t *retry = enc_here(a);
    int32_t tag = write ? ENV_TLB_WRITE : ENV_TLB_READ;
    enc_mov(a, 4, H_RCX, H_R14);
    enc_shr_imm(a, 4, H_RCX, 12 - ENV_TLB_ENTRY_BITS);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), ((1 << ENV_TLB_BITS) - 1) << ENV_TLB_ENTRY_BITS);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)size);
    const uint8_t *stub = slow_stub(l, write ? SLOW_WRITE : 0, retry);
    enc_jcc(a, CC_A, stub);
    if (align) {
        enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_reg(H_R14)); /* test r14b, size - 1 */
        enc_u8(a, size - 1);
        enc_jcc(a, CC_NE, stub);
    }
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
}

/* The same with flags preserved, by PEXT. */
static void check_pext(Lower *l, unsigned size, bool write, bool align)
{
    Asm *a = l->hot;
    const uint8_t *retry = enc_here(a);
    const uint8_t *stub = slow_stub(l, SLOW_FLAGS | (write ? SLOW_WRITE : 0), retry);
    EncRm scaled = enc_mem_index(ENC_ABS, H_RCX, 3, 0);
    enc_pext(a, 4, H_RCX, H_R14, enc_abs(l->env->masks));
    enc_lea(a, 4, H_RCX, scaled);
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 2, write ? ENV_TLB_WRITE : ENV_TLB_READ));
    enc_op(a, 0xf7 | E_W, 2, enc_reg(H_RCX)); /* not */
    enc_lea(a, 8, H_RCX, enc_mem_index(H_RCX, H_R14, 0, size)); /* offset + size - 1 */
    enc_pext(a, 8, H_RCX, H_RCX, enc_abs(l->env->masks + 8));
    uint8_t *hit = enc_jrcxz(a);
    enc_jmp(a, stub);
    enc_here_rel8(a, hit);
    if (align) {
        enc_pext(a, 4, H_RCX, H_R14, enc_abs(l->env->masks + (size == 32 ? 40 : 24)));
        uint8_t *aligned = enc_jrcxz(a);
        enc_jmp(a, stub);
        enc_here_rel8(a, aligned);
    }
    enc_pext(a, 4, H_RCX, H_R14, enc_abs(l->env->masks));
    enc_lea(a, 4, H_RCX, scaled);
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 2, ENV_TLB_HOST));
    enc_pext(a, 4, H_R14, H_R14, enc_abs(l->env->masks + 16));
}

/* The same on hosts without PEXT. */
static void check_pushf(Lower *l, unsigned size, bool write, bool align)
{
    Asm *a = l->hot;
    const uint8_t *retry = enc_here(a);
    int32_t tag = write ? ENV_TLB_WRITE : ENV_TLB_READ;
    uint8_t *misaligned = NULL;
    enc_u8(a, 0x9c);
    enc_mov(a, 4, H_RCX, H_R14);
    if (align) {
        enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_reg(H_R14));
        enc_u8(a, size - 1);
        misaligned = enc_jcc8(a, CC_NE);
    }
    enc_shr_imm(a, 4, H_RCX, 12 - ENV_TLB_ENTRY_BITS);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), ((1 << ENV_TLB_BITS) - 1) << ENV_TLB_ENTRY_BITS);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)size);
    uint8_t *hit = enc_jcc8(a, CC_BE);
    enc_alu(a, ALU_ADD, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
    if (misaligned != NULL) {
        enc_here_rel8(a, misaligned);
    }
    enc_u8(a, 0x9d);
    enc_jmp(a, slow_stub(l, SLOW_FLAGS | (write ? SLOW_WRITE : 0), retry));
    enc_here_rel8(a, hit);
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
    enc_u8(a, 0x9d);
}

static EncRm check(Lower *l, unsigned size, bool write, bool align)
{
    if (l->u->live_in == 0) {
        check_plain(l, size, write, align);
    } else if (l->env->bmi2) {
        check_pext(l, size, write, align);
    } else {
        check_pushf(l, size, write, align);
    }
    return enc_mem_index(H_RCX, H_R14, 0, 0);
}

/* An address known now: index and tag are immediates. */
static EncRm check_constant(Lower *l, uint64_t va, unsigned size, bool write)
{
    Asm *a = l->hot;
    uint64_t page = va & ~0xfffull;
    int32_t entry = (int32_t)((va >> 12 & ((1 << ENV_TLB_BITS) - 1)) << ENV_TLB_ENTRY_BITS);
    int32_t tag = entry + (write ? ENV_TLB_WRITE : ENV_TLB_READ);
    const uint8_t *retry = enc_here(a);
    if (page == (uint64_t)(int32_t)page) {
        enc_op(a, 0x81 | E_W, ALU_CMP, env_at(tag));
        enc_u32(a, (uint32_t)page);
    } else {
        enc_mov_imm(a, H_R14, page);
        enc_alu(a, ALU_CMP, 8, H_R14, env_at(tag));
    }
    const uint8_t *stub = enc_here(l->cold);
    enc_mov_imm(l->cold, H_R14, va);
    slow_stub(l, SLOW_FLAGS | (write ? SLOW_WRITE : 0), retry);
    enc_jcc(a, CC_NE, stub);
    enc_load(a, 8, H_RCX, env_at(entry + ENV_TLB_HOST));
    return enc_mem(H_RCX, (int32_t)(va & 0xfff));
}

/* Checks the memory operand of the current uop; the result addresses it, by rcx and perhaps r14. */
static EncRm access_mem(Lower *l, bool write)
{
    const Uop *u = l->u;
    bool align = (u->attr & UA_ALIGN) != 0;
    if (u->base >= 16 && u->index >= 16 && u->seg == 0 && u->live_in == 0) {
        uint64_t va = u->asize == 8 ? (uint64_t)u->disp : (uint32_t)u->disp;
        bool aligned = !align || (va & (u->mem_size - 1)) == 0;
        if ((va & 0xfff) + u->mem_size <= 4096 && aligned) {
            return check_constant(l, va, u->mem_size, write);
        }
    }
    address(l, u, H_R14);
    add_segment(l, u);
    return check(l, u->mem_size, write, align);
}

/* Stack access at guest rsp + disp. */
static EncRm access_stack(Lower *l, int32_t disp, unsigned size, bool write)
{
    unsigned width = l->block->mode64 ? 8 : 4;
    if (disp == 0) {
        enc_mov(l->hot, width, H_R14, H_R13);
    } else {
        enc_lea(l->hot, width, H_R14, enc_mem(H_R13, disp));
    }
    return check(l, size, write, false);
}

static void move_stack(Lower *l, int32_t by)
{
    enc_lea(l->hot, l->block->mode64 ? 8 : 4, H_R13, enc_mem(H_R13, by));
}

/* Frees r14 after a check: the operand is [rcx] alone. */
static EncRm only_rcx(Lower *l, EncRm mem)
{
    if (mem.index == ENC_NONE) {
        return mem;
    }
    enc_lea(l->hot, 8, H_RCX, mem);
    return enc_mem(H_RCX, 0);
}

static void append_imm(Asm *a, const Uop *u)
{
    for (unsigned i = 0; i < u->imm_size; i++) {
        enc_u8(a, (uint8_t)(u->imm >> (8 * i)));
    }
}

/* --- UOP_OP --- */

static bool reg_is_register(const Uop *u)
{
    return (u->attr & (UA_REG_R | UA_REG_W)) != 0;
}

/* Byte registers: AH.. keep their numbers; the guest's rcx moves to ecx, which needs no REX. */
static unsigned high_operand(Lower *l, unsigned guest, bool high, unsigned *temp)
{
    if (guest == 1) {
        *temp = 1;
        return high ? 5 : 1;
    }
    assert(host_of_guest[guest] < 8 || !high);
    return host_of_guest[guest] + (high ? 4 : 0);
}

static void op_high(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    uint32_t code = (u->code & ~(E_BYTE_REG | E_BYTE_RM)) | E_HIGH;
    if (u->attr & UA_MEM) {
        EncRm mem = only_rcx(l, access_mem(l, (u->attr & UA_RM_W) != 0));
        enc_op(a, code, host_of_guest[u->reg] + 4, mem); /* never CH: see front */
        append_imm(a, u);
        return;
    }
    unsigned uses_rcx = 0;
    bool wide_reg = reg_is_register(u) && !(u->attr & UA_REG_HIGH) && !(u->code & E_BYTE_REG);
    unsigned rm = high_operand(l, u->rm, (u->attr & UA_RM_HIGH) != 0, &uses_rcx);
    unsigned reg = u->reg;
    if (wide_reg) { /* MOVZX, MOVSX: any register; through rcx where it would need REX */
        reg = spilled(u->reg) || host_of_guest[u->reg] >= 8 ? H_RCX : host_of_guest[u->reg];
    } else if (reg_is_register(u)) {
        reg = high_operand(l, u->reg, (u->attr & UA_REG_HIGH) != 0, &uses_rcx);
    }
    if (uses_rcx) {
        enc_mov(a, 8, H_RCX, H_R12);
    }
    enc_op(a, code, reg, enc_reg(rm));
    append_imm(a, u);
    if (wide_reg && reg == H_RCX) {
        enc_mov(a, u->size, host_of_guest[u->reg], H_RCX);
    } else if (uses_rcx && ((u->attr & UA_RM_W) || (u->attr & UA_REG_W))) {
        enc_mov(a, 8, H_R12, H_RCX);
    }
}

static void op_mem(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    EncRm mem = access_mem(l, (u->attr & UA_RM_W) != 0);
    if (!reg_is_register(u) || !spilled(u->reg)) {
        enc_op(a, u->code, reg_is_register(u) ? host_of_guest[u->reg] : u->reg, mem);
        append_imm(a, u);
        return;
    }
    if ((u->attr & UA_REG_R) || (u->attr & UA_RM_W)) {
        mem = only_rcx(l, mem);
    }
    if (u->attr & UA_REG_R) {
        enc_load(a, 8, H_R14, guest_slot(u->reg));
    }
    enc_op(a, u->code, H_R14, mem);
    append_imm(a, u);
    if (u->attr & UA_REG_W) {
        bool partial = u->size < 4 && !(u->attr & UA_REG_R);
        enc_store(a, partial ? u->size : 8, guest_slot(u->reg), H_R14);
    }
}

static void op_reg(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    unsigned reg = u->reg;
    bool reg_spilled = reg_is_register(u) && spilled(u->reg);
    if (reg_spilled) {
        reg = H_RCX;
        if ((u->attr & UA_REG_R) || u->size < 4) {
            enc_load(a, 8, H_RCX, guest_slot(u->reg));
        }
    } else if (reg_is_register(u)) {
        reg = host_of_guest[u->reg];
    }
    EncRm rm = spilled(u->rm) ? guest_slot(u->rm) : enc_reg(host_of_guest[u->rm]);
    bool through = rm.is_mem && ((u->attr & UA_NO_MEM_FORM) || ((u->attr & UA_RM_W) && u->size == 4));
    if (through) {
        enc_load(a, 8, H_R14, rm);
        rm = enc_reg(H_R14);
    }
    enc_op(a, u->code & ~E_LOCK, reg, rm);
    append_imm(a, u);
    if (through && (u->attr & UA_RM_W)) {
        enc_store(a, 8, guest_slot(u->rm), H_R14);
    }
    if (reg_spilled && (u->attr & UA_REG_W)) {
        enc_store(a, 8, guest_slot(u->reg), H_RCX);
    }
}

/* A trapping instruction: the interpreter raises what SIGFPE reported. Keeps flags. */
static void add_trap(Lower *l, const uint8_t *at)
{
    const uint8_t *stub = slow_stub(l, SLOW_FLAGS, at);
    LowerSite *site = &l->out->sites[l->out->site_count - 1];
    site->fault = (uint8_t *)at;
    site->stub = stub;
}

static void lower_op(Lower *l)
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

static void lower_div(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    EncRm rm;
    if (u->attr & UA_MEM) {
        rm = access_mem(l, false);
    } else if (u->attr & UA_RM_HIGH) {
        unsigned uses_rcx = 0;
        unsigned n = high_operand(l, u->rm, true, &uses_rcx);
        if (uses_rcx) {
            enc_mov(a, 8, H_RCX, H_R12);
        }
        rm = enc_reg(n);
    } else {
        rm = spilled(u->rm) ? guest_slot(u->rm) : enc_reg(host_of_guest[u->rm]);
    }
    add_trap(l, enc_here(a));
    enc_op(a, u->attr & UA_RM_HIGH ? (u->code & ~E_BYTE_RM) | E_HIGH : u->code, u->reg, rm);
}

/* --- other data movement --- */

static void lower_movi(Lower *l)
{
    const Uop *u = l->u;
    if (!spilled(u->reg)) {
        enc_mov_imm(l->hot, host_of_guest[u->reg], u->imm);
    } else if (u->imm == (uint64_t)(int32_t)u->imm) {
        enc_store_imm(l->hot, 8, guest_slot(u->reg), (int32_t)u->imm);
    } else {
        enc_mov_imm(l->hot, H_RCX, u->imm);
        enc_store(l->hot, 8, guest_slot(u->reg), H_RCX);
    }
}

static void lower_lea(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    if (u->size == 2 || u->asize < u->size) { /* the offset in full, then its low part */
        address(l, u, H_R14);
        if (spilled(u->reg)) {
            enc_store(a, u->size == 2 ? 2 : 8, guest_slot(u->reg), H_R14);
        } else {
            enc_mov(a, u->size == 8 ? 4 : u->size, host_of_guest[u->reg], H_R14);
        }
        return;
    }
    Uop copy = *u;
    copy.asize = u->size;
    if (spilled(u->reg)) {
        address(l, &copy, H_R14);
        enc_store(a, 8, guest_slot(u->reg), H_R14);
    } else {
        address(l, &copy, host_of_guest[u->reg]);
    }
}

static void lower_bswap(Lower *l)
{
    const Uop *u = l->u;
    unsigned reg = spilled(u->reg) ? H_RCX : host_of_guest[u->reg];
    if (spilled(u->reg)) {
        enc_load(l->hot, u->size, reg, guest_slot(u->reg));
    }
    enc_bswap(l->hot, u->size, reg);
    if (spilled(u->reg)) {
        enc_store(l->hot, 8, guest_slot(u->reg), reg);
    }
}

static void lower_shift_cl(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    unsigned reg = u->reg;
    if (reg_is_register(u)) { /* SHLD, SHRD; front sees to it that not both operands are in memory */
        reg = host_of_guest[u->reg];
        if (spilled(u->reg)) {
            enc_load(a, 8, H_R14, guest_slot(u->reg));
            reg = H_R14;
        }
    }
    EncRm rm;
    bool write_back = false;
    if (u->attr & UA_MEM) {
        enc_lea(a, 8, H_R14, access_mem(l, true));
        rm = enc_mem(H_R14, 0);
    } else if (!spilled(u->rm)) {
        rm = enc_reg(host_of_guest[u->rm] + (u->attr & UA_RM_HIGH ? 4 : 0));
    } else if (u->size == 4) {
        enc_load(a, 8, H_R14, guest_slot(u->rm));
        rm = enc_reg(H_R14);
        write_back = true;
    } else {
        rm = guest_slot(u->rm);
    }
    enc_mov(a, 4, H_RCX, H_R12);
    enc_op(a, u->attr & UA_RM_HIGH ? (u->code & ~E_BYTE_RM) | E_HIGH : u->code, reg, rm);
    if (write_back) {
        enc_store(a, 8, guest_slot(u->rm), H_R14);
    }
}

static void lower_cmpxchg_pair(Lower *l)
{
    Asm *a = l->hot;
    EncRm mem = access_mem(l, true);
    enc_lea(a, 8, H_R14, mem);
    enc_mov(a, 8, H_RCX, H_R12);
    enc_op(a, l->u->code, 1, enc_mem(H_R14, 0));
}

static void lower_push(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    EncRm mem = access_stack(l, -(int)u->size, u->size, true);
    if (u->reg == UOP_NO_REG) {
        enc_store_imm(a, u->size, mem, (int32_t)u->imm);
    } else if (spilled(u->reg)) {
        mem = only_rcx(l, mem);
        enc_load(a, 8, H_R14, guest_slot(u->reg));
        enc_store(a, u->size, mem, H_R14);
    } else {
        enc_store(a, u->size, mem, host_of_guest[u->reg]);
    }
    move_stack(l, -(int)u->size);
}

static void push_temp(Lower *l, unsigned size)
{
    EncRm mem = only_rcx(l, access_stack(l, -(int)size, size, true));
    enc_load(l->hot, 8, H_R14, env_at(l->env->temp));
    enc_store(l->hot, size, mem, H_R14);
    move_stack(l, -(int)size);
}

static void lower_push_mem(Lower *l)
{
    EncRm mem = access_mem(l, false);
    enc_load(l->hot, l->u->size, H_R14, mem);
    enc_store(l->hot, 8, env_at(l->env->temp), H_R14);
    push_temp(l, l->u->size);
}

static void lower_pop(Lower *l)
{
    const Uop *u = l->u;
    EncRm mem = access_stack(l, 0, u->size, false);
    if (spilled(u->reg)) {
        enc_load(l->hot, u->size, H_R14, mem);
        enc_store(l->hot, 8, guest_slot(u->reg), H_R14);
    } else {
        enc_load(l->hot, u->size, host_of_guest[u->reg], mem);
    }
    if (u->reg != 4) { /* POP rsp: the value stands */
        move_stack(l, u->size);
    }
}

static void lower_leave(Lower *l)
{
    unsigned size = l->u->size;
    enc_mov(l->hot, size, H_R14, H_R15);
    EncRm mem = check(l, size, false, false);
    enc_lea(l->hot, size, H_R13, enc_mem(H_R15, size));
    enc_load(l->hot, size, H_R15, mem);
}

static void lower_interp(Lower *l)
{
    uint32_t site = new_site(l, SLOW_INTERP);
    enc_call(l->hot, l->env->slow[SLOW_INTERP]);
    enc_u32(l->hot, l->block->first_site + site);
}

/* --- vectors --- */

/* Guest registers of a unit into the host's, once a block. */
static void unit_live(Lower *l, bool *checked, int32_t live_byte, const uint8_t *load)
{
    Asm *a = l->hot;
    if (*checked) {
        return;
    }
    *checked = true;
    if (l->u->live_in == 0) {
        enc_alu_imm(a, ALU_CMP, 1, env_at(live_byte), 0);
        enc_jcc(a, CC_E, enc_here(l->cold));
    } else {
        enc_op(a, 0xb6 | E_0F, H_RCX, env_at(live_byte));
        uint8_t *dead = enc_jrcxz(a);
        uint8_t *live = enc_jmp8(a);
        enc_here_rel8(a, dead);
        enc_jmp(a, enc_here(l->cold));
        enc_here_rel8(a, live);
    }
    enc_call(l->cold, load);
    enc_jmp(l->cold, enc_here(a));
}

static void units_live(Lower *l)
{
    if (l->u->attr & UA_XMM) {
        unit_live(l, &l->vec_checked, ENV_VEC_LIVE, l->env->vec_load);
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
    append_imm(l->hot, u);
}

static void lower_vec(Lower *l)
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
    bool gpr_reg = reg_is_register(u) && !(u->attr & UA_REG_XMM);
    if (u->attr & UA_MEM) { /* the reg field is a vector here, or a general register that is written */
        EncRm mem = access_mem(l, (u->attr & UA_RM_W) != 0);
        if (gpr_reg) {
            reg = spilled(u->reg) ? H_R14 : host_of_guest[u->reg];
        }
        vec_encode(l, reg, mem);
        if (gpr_reg && spilled(u->reg)) {
            enc_store(a, 8, guest_slot(u->reg), H_R14);
        }
        return;
    }
    EncRm rm = enc_reg(u->rm);
    bool gpr_rm = !(u->attr & UA_RM_XMM) && (u->attr & (UA_RM_R | UA_RM_W));
    if (gpr_rm) {
        rm = enc_reg(spilled(u->rm) ? H_R14 : host_of_guest[u->rm]);
        if (spilled(u->rm) && (u->attr & UA_RM_R)) {
            enc_load(a, 8, H_R14, guest_slot(u->rm));
        }
    }
    if (gpr_reg) {
        reg = spilled(u->reg) ? H_RCX : host_of_guest[u->reg];
    }
    vec_encode(l, reg, rm);
    if (gpr_rm && spilled(u->rm) && (u->attr & UA_RM_W)) {
        enc_store(a, 8, guest_slot(u->rm), H_R14);
    }
    if (gpr_reg && spilled(u->reg) && (u->attr & UA_REG_W)) {
        enc_store(a, 8, guest_slot(u->reg), H_RCX);
    }
}

static void lower_x87(Lower *l)
{
    const Uop *u = l->u;
    units_live(l);
    EncRm mem = { 0 };
    if (u->attr & UA_MEM) {
        mem = access_mem(l, (u->attr & UA_RM_W) != 0);
    }
    uint32_t site = new_site(l, SLOW_JUMP);
    l->out->sites[site].fault = enc_here(l->hot);
    if (u->attr & UA_MEM) {
        enc_op(l->hot, u->code, u->reg, mem);
    } else {
        enc_u8(l->hot, (uint8_t)u->code);
        enc_u8(l->hot, (uint8_t)u->imm);
    }
}

/* Control words that unmask exceptions are for the interpreter: translated code runs with all masked. */
static void lower_fldcw(Lower *l)
{
    Asm *a = l->hot;
    if (l->u->live_in != 0) {
        lower_interp(l);
        return;
    }
    units_live(l);
    EncRm mem = only_rcx(l, access_mem(l, false));
    if (l->u->kind == UOP_FLDCW) {
        enc_op(a, 0xb7 | E_0F, H_R14, mem); /* movzx r14d, word */
        enc_alu_imm(a, ALU_AND, 4, enc_reg(H_R14), 0x3f);
        enc_alu_imm(a, ALU_CMP, 4, enc_reg(H_R14), 0x3f);
    } else { /* also no reserved bits */
        enc_load(a, 4, H_R14, mem);
        enc_alu_imm(a, ALU_AND, 4, enc_reg(H_R14), (int32_t)0xffff1f80);
        enc_alu_imm(a, ALU_CMP, 4, enc_reg(H_R14), 0x1f80);
    }
    uint32_t site = new_site(l, SLOW_INTERP);
    enc_jcc(a, CC_NE, enc_here(l->cold));
    enc_call(l->cold, l->env->slow[SLOW_INTERP]);
    enc_u32(l->cold, l->block->first_site + site);
    l->u->kind == UOP_FLDCW ? enc_op(a, 0xd9, 5, mem) : enc_op(a, 0xae | E_0F, 2, mem);
}

/* dest is reg, or vex_v where reg is an extension. At most one scratch register is left beside memory. */
static void lower_bmi(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    bool reg_dest = (u->attr & UA_REG_W) != 0;
    bool mulx = (u->code & (E_MAP | 0xff)) == (E_0F38 | 0xf6);
    EncRm rm;
    unsigned temp = H_RCX;
    if (u->attr & UA_MEM) {
        rm = only_rcx(l, access_mem(l, false));
        temp = H_R14;
    } else {
        rm = spilled(u->rm) ? guest_slot(u->rm) : enc_reg(host_of_guest[u->rm]);
    }
    bool has_v = u->imm_size == 0; /* RORX has none */
    unsigned v = 0, reg = u->reg;
    if (has_v) {
        v = spilled(u->vex_v) ? H_R14 : host_of_guest[u->vex_v];
        if (spilled(u->vex_v) && reg_dest && !mulx) {
            enc_load(a, 8, H_R14, guest_slot(u->vex_v));
        }
    }
    if (reg_dest) {
        reg = spilled(u->reg) ? temp : host_of_guest[u->reg];
    }
    encode_vex(l, reg, v, rm);
    append_imm(a, u);
    if (reg_dest && spilled(u->reg)) {
        enc_store(a, 8, guest_slot(u->reg), temp);
    } else if (!reg_dest && spilled(u->vex_v)) {
        enc_store(a, 8, guest_slot(u->vex_v), H_R14);
    }
}

/* --- control --- */

/* CLI. */
static void lower_flag_if(Lower *l)
{
    if (l->u->live_in == 0) {
        enc_alu_imm(l->hot, ALU_AND, 4, env_at(ENV_RFLAGS), ~ENV_IF_FLAG);
    } else {
        lower_interp(l);
    }
}

static void lower_jcc(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    unsigned n = exit_stub(l, u->imm);
    LowerExit *exit = &l->out->exits[n];
    if (!(u->attr & UA_BACKWARD)) {
        exit->field = enc_jcc(a, u->cond, exit->stub);
        return;
    }
    uint8_t *over = enc_jcc8(a, u->cond ^ 1);
    const uint8_t *poll = leave_stub(l, LEAVE_POLL, l->block->first_exit + n);
    if (u->exit_live == 0) {
        enc_alu_imm(a, ALU_CMP, 4, env_at(ENV_EXIT_REQ), 0);
        exit->field = enc_jcc(a, CC_E, exit->stub);
        enc_jmp(a, poll);
    } else {
        enc_load(a, 4, H_RCX, env_at(ENV_EXIT_REQ));
        uint8_t *none = enc_jrcxz(a);
        enc_jmp(a, poll);
        enc_here_rel8(a, none);
        exit->field = enc_jmp(a, exit->stub);
    }
    enc_here_rel8(a, over);
}

/* jmp to a known target, with a poll when it goes backward or calls. */
static void jump(Lower *l, uint64_t target, bool poll)
{
    Asm *a = l->hot;
    unsigned n = exit_stub(l, target);
    if (poll) {
        const uint8_t *stub = leave_stub(l, LEAVE_POLL, l->block->first_exit + n);
        if (l->u->exit_live == 0) {
            enc_alu_imm(a, ALU_CMP, 4, env_at(ENV_EXIT_REQ), 0);
            enc_jcc(a, CC_NE, stub);
        } else {
            enc_load(a, 4, H_RCX, env_at(ENV_EXIT_REQ));
            uint8_t *none = enc_jrcxz(a);
            enc_jmp(a, stub);
            enc_here_rel8(a, none);
        }
    }
    l->out->exits[n].field = enc_jmp(a, l->out->exits[n].stub);
}

static void lower_jcxz(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    /* cond: 0 JrCXZ; 1 LOOP. The count register is the guest's rcx in r12. */
    if (u->cond == 1) {
        enc_lea(a, u->size, H_R12, enc_mem(H_R12, -1));
    }
    enc_mov(a, u->size, H_RCX, H_R12);
    uint8_t *zero = enc_jrcxz(a);
    if (u->cond == 1) {
        jump(l, u->imm, true);
        enc_here_rel8(a, zero);
    } else {
        uint8_t *over = enc_jmp8(a);
        enc_here_rel8(a, zero);
        jump(l, u->imm, true);
        enc_here_rel8(a, over);
    }
}

/* Pushes the return address `value`. */
static void push_return(Lower *l, uint64_t value)
{
    Asm *a = l->hot;
    unsigned size = l->u->size;
    EncRm mem = access_stack(l, -(int)size, size, true);
    if (size == 4 || value == (uint64_t)(int32_t)value) {
        enc_store_imm(a, size, mem, (int32_t)value);
    } else {
        mem = only_rcx(l, mem);
        enc_mov_imm(a, H_R14, value);
        enc_store(a, size, mem, H_R14);
    }
    move_stack(l, -(int)size);
}

/*
 * The same with flags untouched: what a function leaves in them may be read behind its return. PDEP makes the byte
 * offset of the entry, and the tag is compared as ~tag + address + 1 = 0.
 */
static void jump_indirect_keeping_flags(Lower *l, bool poll, const uint8_t *miss)
{
    Asm *a = l->hot;
    if (!l->env->bmi2) {
        enc_jmp(a, miss); /* the dispatcher keeps flags */
        return;
    }
    if (poll) {
        enc_load(a, 4, H_RCX, env_at(ENV_EXIT_REQ));
        uint8_t *quiet = enc_jrcxz(a);
        enc_jmp(a, miss);
        enc_here_rel8(a, quiet);
    }
    enc_pdep(a, 4, H_RCX, H_R14, enc_abs(l->env->masks + 48));
    enc_load(a, 8, H_RCX, enc_mem(H_RCX, (int32_t)l->env->jump_cache));
    enc_not(a, 8, H_RCX);
    enc_lea(a, 8, H_RCX, enc_mem_index(H_RCX, H_R14, 0, 1));
    uint8_t *hit = enc_jrcxz(a);
    enc_jmp(a, miss);
    enc_here_rel8(a, hit);
    enc_pdep(a, 4, H_RCX, H_R14, enc_abs(l->env->masks + 48));
    enc_jmp_mem(a, enc_mem(H_RCX, (int32_t)l->env->jump_cache + 8));
}

/* To the address in r14, by the jump cache. */
static void jump_indirect(Lower *l, bool poll)
{
    Asm *a = l->hot;
    const uint8_t *miss = leave_stub(l, LEAVE_INDIRECT, l->block->first_site + new_site(l, SLOW_JUMP));
    if (l->u->live_in != 0) {
        jump_indirect_keeping_flags(l, poll, miss);
        return;
    }
    if (poll) {
        enc_alu_imm(a, ALU_CMP, 4, env_at(ENV_EXIT_REQ), 0);
        enc_jcc(a, CC_NE, miss);
    }
    enc_mov(a, 4, H_RCX, H_R14);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), (1 << JUMP_CACHE_BITS) - 1);
    enc_shl_imm(a, 4, H_RCX, 4);
    enc_alu(a, ALU_CMP, 8, H_R14, enc_mem(H_RCX, (int32_t)l->env->jump_cache));
    enc_jcc(a, CC_NE, miss);
    enc_jmp_mem(a, enc_mem(H_RCX, (int32_t)l->env->jump_cache + 8));
}

static void lower_ret(Lower *l)
{
    const Uop *u = l->u;
    EncRm mem = access_stack(l, 0, u->size, false);
    enc_load(l->hot, u->size, H_R14, mem);
    move_stack(l, u->size + (int32_t)u->imm);
    jump_indirect(l, false);
}

static void lower_indirect(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    bool memory = u->kind == UOP_JMP_MEM || u->kind == UOP_CALL_MEM;
    bool call = u->kind == UOP_CALL_REG || u->kind == UOP_CALL_MEM;
    if (memory) {
        enc_load(a, u->size, H_R14, access_mem(l, false));
        if (call) {
            enc_store(a, 8, env_at(l->env->temp), H_R14);
        }
    }
    if (call) {
        push_return(l, u->imm);
        if (memory) {
            enc_load(a, 8, H_R14, env_at(l->env->temp));
        }
    }
    if (!memory) {
        get_guest(a, H_R14, u->reg);
        if (u->size == 4) {
            enc_mov(a, 4, H_R14, H_R14);
        }
    }
    jump_indirect(l, true);
}

static void lower_interp_end(Lower *l)
{
    uint32_t site = new_site(l, SLOW_INTERP);
    enc_call(l->hot, l->env->leave[LEAVE_INTERP]);
    enc_u32(l->hot, l->block->first_site + site);
}

static void lower_uop(Lower *l)
{
    const Uop *u = l->u;
    switch (u->kind) {
    case UOP_NOP:
        break;
    case UOP_OP:
        u->attr & UA_TRAPS ? lower_div(l) : lower_op(l);
        break;
    case UOP_MOVI:
        lower_movi(l);
        break;
    case UOP_LEA:
        lower_lea(l);
        break;
    case UOP_BYTES:
        append_imm(l->hot, u);
        break;
    case UOP_BSWAP:
        lower_bswap(l);
        break;
    case UOP_SHIFT_CL:
        lower_shift_cl(l);
        break;
    case UOP_CMPXCHG_PAIR:
        lower_cmpxchg_pair(l);
        break;
    case UOP_PUSH:
        lower_push(l);
        break;
    case UOP_PUSH_MEM:
        lower_push_mem(l);
        break;
    case UOP_POP:
        lower_pop(l);
        break;
    case UOP_LEAVE:
        lower_leave(l);
        break;
    case UOP_VEC:
        lower_vec(l);
        break;
    case UOP_X87:
        lower_x87(l);
        break;
    case UOP_FLDCW:
    case UOP_LDMXCSR:
        lower_fldcw(l);
        break;
    case UOP_BMI:
        lower_bmi(l);
        break;
    case UOP_FLAG_IF:
        lower_flag_if(l);
        break;
    case UOP_INTERP:
        lower_interp(l);
        break;
    case UOP_JCC:
        lower_jcc(l);
        break;
    case UOP_JCXZ:
        lower_jcxz(l);
        break;
    case UOP_JMP:
        jump(l, u->imm, (u->attr & UA_BACKWARD) != 0);
        break;
    case UOP_CALL:
        push_return(l, (uint64_t)u->disp);
        jump(l, u->imm, true);
        break;
    case UOP_RET:
        lower_ret(l);
        break;
    case UOP_JMP_REG:
    case UOP_JMP_MEM:
    case UOP_CALL_REG:
    case UOP_CALL_MEM:
        lower_indirect(l);
        break;
    case UOP_INTERP_END:
        lower_interp_end(l);
        break;
    }
}

/* The entry that other pages' blocks and the jump cache use: is the page still mapped as it was? */
static void lower_guard(Lower *l, uint32_t slot_index, uint32_t page_id)
{
    const LowerBlock *b = l->block;
    Asm *a = l->hot;
    const uint8_t *stub = leave_stub(l, LEAVE_GUARD, b->number);
    EncRm slot = enc_abs(l->env->slots + 4 * slot_index);
    if (b->flags_in == 0) {
        enc_op(a, 0x81, ALU_CMP, slot);
        enc_u32(a, page_id);
        enc_jcc(a, CC_NE, stub);
    } else {
        enc_load(a, 4, H_RCX, slot);
        enc_lea(a, 4, H_RCX, enc_mem(H_RCX, -(int32_t)page_id));
        uint8_t *same = enc_jrcxz(a);
        enc_jmp(a, stub);
        enc_here_rel8(a, same);
    }
}

void lower_block(const HostEnv *env, const LowerBlock *block, Asm *hot, Asm *cold, Lowered *out)
{
    Lower l = { .env = env, .block = block, .hot = hot, .cold = cold, .out = out };
    out->site_count = out->exit_count = 0;
    enc_align(hot, 16);
    l.hot_start = hot->p;
    out->guarded = enc_here(hot);
    l.u = &block->uops[0];
    lower_guard(&l, block->slot, block->page_id);
    out->entry = enc_here(hot);
    if (block->page_id2 != 0) { /* who links to a block of the same page has not looked at the other one */
        lower_guard(&l, block->slot2, block->page_id2);
    }
    for (l.index = 0; l.index < block->count; l.index++) {
        l.u = &block->uops[l.index];
        lower_uop(&l);
        close_sites(&l);
    }
    out->hot_end = enc_here(hot);
}
