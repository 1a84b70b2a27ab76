/*
 * The hand-written parts of translated code: entering it, leaving it, and calling C from it. They are
 * generated at start-up because they contain addresses.
 */
#include "dbt/back/x86_64/thunks_priv.h"

const uint8_t host_of_guest[16] = {
    H_RAX, H_R12, H_RDX, H_RBX, H_R13, H_R15, H_RSI, H_RDI,
    HOST_SPILLED, HOST_SPILLED, HOST_SPILLED, HOST_SPILLED, H_R8, H_R9, H_R10, H_R11,
};

static EncRm env_at(int32_t disp)
{
    return enc_mem(H_RBP, disp);
}

static void save_gprs(Asm *a)
{
    for (unsigned r = 0; r < 16; r++) {
        if (host_of_guest[r] != HOST_SPILLED) {
            enc_store(a, 8, env_at(ENV_GPR + 8 * r), host_of_guest[r]);
        }
    }
}

static void load_gprs(Asm *a)
{
    for (unsigned r = 0; r < 16; r++) {
        if (host_of_guest[r] != HOST_SPILLED) {
            enc_load(a, 8, host_of_guest[r], env_at(ENV_GPR + 8 * r));
        }
    }
}

/* EFLAGS to hot.rflags; after save_gprs: destroys rax and rcx. */
static void save_flags(Asm *a)
{
    enc_u8(a, 0x9f);                                    /* lahf */
    enc_op(a, 0x90 | E_0F | E_BYTE_RM, 0, enc_reg(H_RAX)); /* seto al */
    enc_op(a, 0xb6 | E_0F, H_RCX, enc_reg(H_RAX));      /* movzx ecx, al */
    enc_shl_imm(a, 4, H_RCX, 11);
    enc_op(a, 0xb6 | E_0F, H_RAX, enc_reg(4));          /* movzx eax, ah */
    enc_alu(a, ALU_OR, 4, H_RCX, enc_reg(H_RAX));
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), ENV_ARITH_FLAGS);
    enc_load(a, 4, H_RAX, env_at(ENV_RFLAGS));
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RAX), ~ENV_ARITH_FLAGS);
    enc_alu(a, ALU_OR, 4, H_RAX, enc_reg(H_RCX));
    enc_store(a, 4, env_at(ENV_RFLAGS), H_RAX);
}

/* Destroys rax and rcx. */
static void eax_to_flags(Asm *a)
{
    enc_mov(a, 4, H_RCX, H_RAX);
    enc_shr_imm(a, 4, H_RCX, 11);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), 1);
    enc_op(a, 0x88 | E_HIGH, H_RAX, enc_reg(4));      /* mov ah, al */
    enc_alu_imm(a, ALU_ADD, 1, enc_reg(H_RCX), 0x7f); /* overflows when cl was 1 */
    enc_u8(a, 0x9e);                                  /* sahf */
}

/* hot.rflags to EFLAGS; before load_gprs. */
static void load_flags(Asm *a)
{
    enc_load(a, 4, H_RAX, env_at(ENV_RFLAGS));
    eax_to_flags(a);
}

static void move_vectors(Asm *a, const HostEnv *env, bool load, bool wide)
{
    for (unsigned i = 0; i < 16; i++) {
        EncRm home = env_at(env->vec + 64 * (int)i);
        if (wide) {
            enc_vex(a, 1, 0, false, true, load ? 0x10 : 0x11, i, 0, home); /* vmovups */
        } else {
            enc_op(a, (load ? 0x10 : 0x11) | E_0F, i, home); /* movups */
        }
    }
}

/* All vector registers, in the width that the guest has; leaves flags when they are to be kept. */
static void move_all_vectors(Asm *a, const HostEnv *env, bool load)
{
    if (!env->avx) {
        move_vectors(a, env, load, false);
        return;
    }
    enc_op(a, 0xb6 | E_0F, H_RCX, env_at(ENV_VEC_WIDE));
    uint8_t *narrow = enc_jrcxz(a);
    uint8_t *wide = enc_jmp(a, NULL);
    enc_here_rel8(a, narrow);
    move_vectors(a, env, load, false);
    uint8_t *done = enc_jmp(a, NULL);
    enc_patch_rel32(wide, a->run_delta, enc_here(a));
    move_vectors(a, env, load, true);
    if (!load) {
        enc_u8(a, 0xc5); /* vzeroupper, for the C code that follows */
        enc_u8(a, 0xf8);
        enc_u8(a, 0x77);
    }
    enc_patch_rel32(done, a->run_delta, enc_here(a));
}

/*
 * The x87 state alone goes through XSAVE, whose image is the CPU's own. The address of the last
 * instruction becomes the host's; the engine translates it back. Data address and opcode stay what they were.
 */
enum { FX_FOP = 6, FX_FDP = 16, FX_HEADER = 512 };

static void x87_mask(Asm *a)
{
    enc_mov_imm(a, H_RAX, 1);
    enc_mov_imm(a, H_RDX, 0);
}

static void save_x87(Asm *a, const HostEnv *env)
{
    enc_load(a, 1, H_RAX, env_at(ENV_X87_LIVE));
    enc_store(a, 1, env_at(ENV_X87_WAS), H_RAX);
    enc_op(a, 0x84 | E_BYTE_REG | E_BYTE_RM, H_RAX, enc_reg(H_RAX));
    uint8_t *none = enc_jcc(a, CC_E, NULL);
    enc_load(a, 8, H_RSI, env_at(env->fx + FX_FDP));
    enc_load(a, 2, H_RDI, env_at(env->fx + FX_FOP));
    x87_mask(a);
    enc_op(a, 0xae | E_0F | E_W, 4, env_at(env->fx)); /* xsave64 */
    enc_store(a, 8, env_at(env->fx + FX_FDP), H_RSI);
    enc_store(a, 2, env_at(env->fx + FX_FOP), H_RDI);
    enc_store_imm(a, 1, env_at(ENV_X87_LIVE), 0);
    enc_u8(a, 0xdb); /* fninit, for C */
    enc_u8(a, 0xe3);
    enc_patch_rel32(none, a->run_delta, enc_here(a));
}

/* Destroys rax and rdx. */
static void load_x87(Asm *a, const HostEnv *env)
{
    x87_mask(a);
    enc_store_imm(a, 8, env_at(env->fx + FX_HEADER), 1); /* the image holds x87 */
    enc_op(a, 0xae | E_0F | E_W, 5, env_at(env->fx));    /* xrstor64 */
    enc_store_imm(a, 1, env_at(ENV_X87_LIVE), 1);
}

/* Puts live guest vectors away and gives C its MXCSR; remembers in ENV_VEC_WAS whether there were any. */
static void save_vectors(Asm *a, const HostEnv *env)
{
    enc_load(a, 1, H_RAX, env_at(ENV_VEC_LIVE));
    enc_store(a, 1, env_at(ENV_VEC_WAS), H_RAX);
    enc_op(a, 0x84 | E_BYTE_REG | E_BYTE_RM, H_RAX, enc_reg(H_RAX));
    uint8_t *none = enc_jcc(a, CC_E, NULL);
    move_all_vectors(a, env, false);
    enc_op(a, 0xae | E_0F, 3, env_at(env->mxcsr)); /* stmxcsr */
    enc_op(a, 0xae | E_0F, 2, enc_abs(env->masks + 32)); /* ldmxcsr */
    enc_store_imm(a, 1, env_at(ENV_VEC_LIVE), 0);
    enc_patch_rel32(none, a->run_delta, enc_here(a));
}

/* Leaves flags and all registers but rcx. */
static void load_vectors(Asm *a, const HostEnv *env)
{
    enc_op(a, 0xae | E_0F, 2, env_at(env->mxcsr));
    move_all_vectors(a, env, true);
    enc_store_imm(a, 1, env_at(ENV_VEC_LIVE), 1);
}

static const uint8_t saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void emit_enter(HostEnv *env, Asm *a)
{
    env->enter = enc_here(a);
    for (unsigned i = 0; i < ARRAY_SIZE(saved); i++) {
        enc_push(a, saved[i]);
    }
    enc_alu_imm(a, ALU_SUB, 8, enc_reg(H_RSP), 8);
    enc_mov(a, 8, H_RBP, H_RDI);
    enc_store(a, 8, env_at(ENV_RESUME), H_RSI);
    load_flags(a);
    load_gprs(a);
    enc_jmp_mem(a, env_at(ENV_RESUME));
}

/* Tail of every leave thunk: rax is the result's low half, the payload lies in ENV_PAYLOAD. */
static void emit_return(Asm *a, unsigned why)
{
    enc_load(a, 4, H_RAX, env_at(ENV_PAYLOAD));
    enc_shl_imm(a, 8, H_RAX, 32);
    if (why != 0) {
        enc_alu_imm(a, ALU_OR, 8, enc_reg(H_RAX), why);
    }
    enc_alu_imm(a, ALU_ADD, 8, enc_reg(H_RSP), 8);
    for (unsigned i = ARRAY_SIZE(saved); i-- > 0;) {
        enc_pop(a, saved[i]);
    }
    enc_u8(a, 0xc3);
}

static void emit_leave(HostEnv *env, Asm *a, unsigned why)
{
    enc_align(a, 16);
    env->leave[why] = enc_here(a);
    if (why == LEAVE_INDIRECT) {
        enc_store(a, 8, env_at(ENV_RIP), H_R14);
    }
    if (why != LEAVE_DISPATCH) { /* called; the payload follows the call */
        enc_pop(a, H_RCX);
        enc_load(a, 4, H_RCX, enc_mem(H_RCX, 0));
        enc_store(a, 4, env_at(ENV_PAYLOAD), H_RCX);
    }
    save_gprs(a);
    save_flags(a);
    save_vectors(a, env);
    save_x87(a, env);
    emit_return(a, why);
}

/* Guest registers that a C function may destroy. */
static const uint8_t volatile_regs[] = { H_RAX, H_RDX, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11 };

/* Calls C from a thunk that code called, with all guest registers kept; the result is in rax until restore_light(). */
static void call_light(const HostEnv *env, Asm *a, uintptr_t fn)
{
    enc_mov_imm(a, H_RAX, fn);
    enc_op(a, 0xff, 2, enc_reg(H_RAX));
    enc_alu_imm(a, ALU_CMP, 1, env_at(ENV_VEC_WAS), 0);
    uint8_t *none = enc_jcc(a, CC_E, NULL);
    load_vectors(a, env);
    enc_patch_rel32(none, a->run_delta, enc_here(a));
}

static void save_light(const HostEnv *env, Asm *a)
{
    for (unsigned i = 0; i < ARRAY_SIZE(volatile_regs); i++) {
        enc_push(a, volatile_regs[i]);
    }
    enc_alu_imm(a, ALU_SUB, 8, enc_reg(H_RSP), 8);
    save_vectors(a, env);
}

/* Leaves flags. */
static void restore_light(Asm *a)
{
    enc_lea(a, 8, H_RSP, enc_mem(H_RSP, 8));
    for (unsigned i = ARRAY_SIZE(volatile_regs); i-- > 0;) {
        enc_pop(a, volatile_regs[i]);
    }
}

void thunks_call_refill(const HostEnv *env, Asm *a, const HostCalls *calls, bool write)
{
    save_light(env, a);
    enc_mov_imm(a, H_RDI, (uintptr_t)calls->opaque);
    enc_mov(a, 8, H_RSI, H_R14);
    enc_mov_imm(a, H_RDX, write);
    call_light(env, a, (uintptr_t)calls->refill);
    enc_op(a, 0x84 | E_BYTE_REG | E_BYTE_RM, H_RAX, enc_reg(H_RAX));
    restore_light(a);
}

/* The common miss: the page's translation is known, only its place in the TLB was taken. */
static void emit_refill(HostEnv *env, Asm *a, unsigned kind, const HostCalls *calls)
{
    thunks_call_refill(env, a, calls, kind & SLOW_WRITE);
    uint8_t *failed = enc_jcc8(a, CC_E);
    enc_u8(a, 0xc3);
    enc_here_rel8(a, failed);
}

/* The record of the flags from EFLAGS, and back. */
static void emit_flags(HostEnv *env, Asm *a, const HostCalls *calls)
{
    enc_align(a, 16);
    env->flags_save = enc_here(a);
    enc_mov(a, 8, H_RCX, H_RAX);
    enc_u8(a, 0x9f);                                       /* lahf */
    enc_op(a, 0x90 | E_0F | E_BYTE_RM, 0, enc_reg(H_RAX)); /* seto al */
    enc_store(a, 2, env_at(env->flags_a), H_RAX);
    enc_mov(a, 8, H_RAX, H_RCX);
    enc_store_imm(a, 4, env_at(env->flags_kind), FLAGS_RAW);
    enc_u8(a, 0xc3);
    enc_align(a, 16);
    env->flags_load = enc_here(a);
    save_light(env, a);
    enc_mov_imm(a, H_RDI, (uintptr_t)calls->opaque);
    call_light(env, a, (uintptr_t)calls->flags);
    eax_to_flags(a);
    restore_light(a);
    enc_u8(a, 0xc3);
}

/* Calls C for a value in r14; ecx: the context's spare bytes. */
static const uint8_t *emit_value(HostEnv *env, Asm *a, FlagsFn *fn, void *opaque)
{
    enc_align(a, 16);
    const uint8_t *thunk = enc_here(a);
    save_light(env, a);
    enc_mov_imm(a, H_RDI, (uintptr_t)opaque);
    call_light(env, a, (uintptr_t)fn);
    enc_mov(a, 8, H_R14, H_RAX);
    enc_load(a, 4, H_RCX, env_at(env->temp));
    restore_light(a);
    enc_u8(a, 0xc3);
    return thunk;
}

static void emit_yield(HostEnv *env, Asm *a, const HostCalls *calls)
{
    enc_align(a, 16);
    const uint8_t *inner = enc_here(a);
    save_light(env, a);
    enc_mov_imm(a, H_RDI, (uintptr_t)calls->opaque);
    call_light(env, a, (uintptr_t)calls->yield);
    restore_light(a);
    enc_u8(a, 0xc3);
    env->yield = enc_here(a);
    enc_u8(a, 0x9c); /* pushfq */
    enc_call(a, inner);
    enc_u8(a, 0x9d); /* popfq */
    enc_u8(a, 0xc3);
}

static void emit_slow(HostEnv *env, Asm *a, unsigned kind, const HostCalls *calls)
{
    enc_align(a, 16);
    env->slow[kind] = enc_here(a);
    if (kind < SLOW_FLAGS) { /* the check left the page offset in r14, the entry's displacement in rcx */
        enc_alu(a, ALU_ADD, 8, H_R14,
                enc_mem_index(H_RBP, H_RCX, 0, kind & SLOW_WRITE ? ENV_TLB_WRITE : ENV_TLB_READ));
        env->slow_va[kind] = enc_here(a);
        emit_refill(env, a, kind, calls);
    }
    enc_pop(a, H_RCX);
    enc_store(a, 8, env_at(ENV_PAYLOAD), H_RCX);
    save_gprs(a);
    save_flags(a);
    save_vectors(a, env);
    save_x87(a, env);
    enc_mov_imm(a, H_RDI, (uintptr_t)calls->opaque);
    enc_mov(a, 8, H_RSI, H_R14);
    enc_load(a, 8, H_RDX, env_at(ENV_PAYLOAD));
    enc_mov_imm(a, H_RCX, kind);
    enc_mov_imm(a, H_RAX, (uintptr_t)calls->slow);
    enc_op(a, 0xff, 2, enc_reg(H_RAX));
    enc_store(a, 8, env_at(ENV_RESUME), H_RAX);
    enc_load(a, 8, H_RBP, env_at(env->tlb)); /* STAC and the like select another context */
    enc_alu_imm(a, ALU_CMP, 1, env_at(ENV_VEC_WAS), 0);
    uint8_t *none = enc_jcc(a, CC_E, NULL);
    load_vectors(a, env);
    enc_patch_rel32(none, a->run_delta, enc_here(a));
    enc_alu_imm(a, ALU_CMP, 1, env_at(ENV_X87_WAS), 0);
    none = enc_jcc(a, CC_E, NULL);
    load_x87(a, env);
    enc_patch_rel32(none, a->run_delta, enc_here(a));
    load_flags(a);
    load_gprs(a);
    enc_jmp_mem(a, env_at(ENV_RESUME));
}

/*
 * A look at a site failed: r14 is the address, rbp + ecx the site, flags are dead. Where the TLB has the page the site
 * takes it over and the caller tries again; where the site has it already the access crosses pages. C hears of sites
 * that miss often.
 */
static void emit_site_miss(HostEnv *env, Asm *a, unsigned kind, const HostCalls *calls)
{
    enc_align(a, 16);
    env->site_miss[kind] = enc_here(a);
    EncRm tag = enc_mem_index(H_RBP, H_RCX, 0, ENV_SITE_TAG);
    enc_push(a, H_RAX);
    enc_push(a, H_RDX);
    enc_mov(a, 4, H_RAX, H_R14);
    enc_shr_imm(a, 4, H_RAX, 12 - ENV_TLB_ENTRY_BITS);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RAX), ((1 << ENV_TLB_BITS) - 1) << ENV_TLB_ENTRY_BITS);
    enc_load(a, 8, H_RDX, enc_mem_index(H_RBP, H_RAX, 0, kind & SLOW_WRITE ? ENV_TLB_WRITE : ENV_TLB_READ));
    enc_alu(a, ALU_CMP, 8, H_RDX, tag);
    uint8_t *crosses = enc_jcc8(a, CC_E);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_reg(H_RDX));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4095);
    enc_lea(a, 8, H_R14, enc_mem_index(H_R14, H_RDX, 0, 0));
    uint8_t *missed = enc_jcc8(a, CC_A);
    enc_store(a, 8, tag, H_RDX);
    enc_load(a, 8, H_RDX, enc_mem_index(H_RBP, H_RAX, 0, ENV_TLB_HOST));
    enc_load(a, 8, H_RAX, enc_mem_index(H_RBP, H_RAX, 0, ENV_TLB_META));
    enc_store(a, 8, enc_mem_index(H_RBP, H_RCX, 0, ENV_SITE_HOST), H_RDX);
    enc_store(a, 8, enc_mem_index(H_RBP, H_RCX, 0, ENV_SITE_META), H_RAX);
    enc_alu(a, ALU_SUB, 8, H_RDX, tag);
    enc_store(a, 8, enc_mem_index(H_RBP, H_RCX, 0, ENV_SITE_ADDEND), H_RDX);
    enc_alu_imm(a, ALU_SUB, 4, enc_reg(H_RCX), ENV_SITES);
    enc_shr_imm(a, 4, H_RCX, ENV_SITE_BITS);
    enc_op(a, 0xab | E_0F, H_RCX, env_at(env->sites_used)); /* bts */
    enc_pop(a, H_RDX);
    enc_pop(a, H_RAX);
    enc_alu_imm(a, ALU_SUB, 4, enc_mem_index(ENC_ABS, H_RCX, 2, (int32_t)env->budgets), 1);
    uint8_t *often = enc_jcc(a, CC_S, NULL);
    enc_u8(a, 0xc3);
    enc_here_rel8(a, crosses);
    enc_here_rel8(a, missed);
    enc_pop(a, H_RDX);
    enc_pop(a, H_RAX);
    enc_jmp(a, env->slow_va[kind]);
    enc_patch_rel32(often, a->run_delta, enc_here(a));
    enc_store(a, 8, env_at(ENV_PAYLOAD), H_RCX);
    save_light(env, a);
    enc_mov_imm(a, H_RDI, (uintptr_t)calls->opaque);
    enc_load(a, 8, H_RSI, env_at(ENV_PAYLOAD));
    enc_load(a, 8, H_RDX, enc_mem(H_RSP, 8 * (ARRAY_SIZE(volatile_regs) + 1)));
    call_light(env, a, (uintptr_t)calls->missed);
    restore_light(a);
    enc_u8(a, 0xc3);
}

void thunks_emit(HostEnv *env, Asm *a, const HostCalls *calls)
{
    emit_enter(env, a);
    for (unsigned why = 0; why < LEAVE_KINDS; why++) {
        emit_leave(env, a, why);
    }
    for (unsigned kind = 0; kind < SLOW_KINDS; kind++) {
        emit_slow(env, a, kind, calls);
    }
    emit_site_miss(env, a, 0, calls);
    emit_site_miss(env, a, SLOW_WRITE, calls);
    emit_flags(env, a, calls);
    emit_yield(env, a, calls);
    thunks_emit_string(env, a, calls);
    env->pushf = emit_value(env, a, calls->pushf, calls->opaque);
    env->rdtsc = emit_value(env, a, calls->rdtsc, calls->opaque);
    enc_align(a, 16);
    env->vec_load = enc_here(a); /* touches neither flags nor guest registers */
    load_vectors(a, env);
    enc_u8(a, 0xc3);
    enc_align(a, 16);
    env->x87_load = enc_here(a); /* the same */
    enc_store(a, 8, env_at(ENV_GPR), H_RAX);
    enc_store(a, 8, env_at(ENV_GPR + 16), H_RDX);
    load_x87(a, env);
    enc_load(a, 8, H_RAX, env_at(ENV_GPR));
    enc_load(a, 8, H_RDX, env_at(ENV_GPR + 16));
    enc_u8(a, 0xc3);
}
