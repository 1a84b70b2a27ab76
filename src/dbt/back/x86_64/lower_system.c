/*
 * Instructions of the system that code executes often: inline, or by C called with few registers saved. With flags
 * live the interpreter takes them.
 */
#include "dbt/back/x86_64/lower_priv.h"

/* An interpreted instruction, out of line. Returns its run address; it comes back behind the current uop. */
static const uint8_t *interp_stub(Lower *l)
{
    uint32_t site = lower_new_site(l, SLOW_INTERP);
    const uint8_t *stub = enc_here(l->cold);
    enc_call(l->cold, l->env->slow[SLOW_INTERP]);
    enc_u32(l->cold, l->block->first_site + site);
    return stub;
}

/* True when an instruction of the same block follows: interrupts wait for it behind STI. */
static bool another_follows(const Lower *l)
{
    const LowerBlock *b = l->block;
    if (l->index + 1 >= b->count) {
        return false;
    }
    const Uop *next = &l->u[1];
    uint64_t at = b->pc + b->offsets[next->insn];
    return next->kind != UOP_JMP || next->imm != (b->mode64 ? at : (uint32_t)at); /* what ends a block jumps to where it ends */
}

void lower_flag_if(Lower *l)
{
    Asm *a = l->hot;
    if (lower_flags_live(l->u) || (l->u->imm && !another_follows(l))) {
        lower_interp(l);
    } else if (l->u->imm) { /* requests that waited for this are for the run-time */
        enc_alu_imm(a, ALU_CMP, 4, lower_env(l->env->held), 0);
        enc_jcc(a, CC_NE, interp_stub(l));
        enc_alu_imm(a, ALU_OR, 4, lower_env(ENV_RFLAGS), ENV_IF_FLAG);
    } else {
        enc_alu_imm(a, ALU_AND, 4, lower_env(ENV_RFLAGS), ~ENV_IF_FLAG);
    }
}

void lower_pushf(Lower *l)
{
    if (lower_flags_live(l->u)) {
        lower_interp(l);
        return;
    }
    enc_call(l->hot, l->env->pushf);
    enc_store(l->hot, 8, lower_env(l->env->temp), H_R14);
    lower_push_temp(l, l->u->size);
}

/* The thunk's answer is in r14; ecx is 0 when this must fault. */
void lower_rdtsc(Lower *l)
{
    Asm *a = l->hot;
    if (lower_flags_live(l->u)) {
        lower_interp(l);
        return;
    }
    enc_call(a, l->env->rdtsc);
    enc_op(a, 0x85, H_RCX, enc_reg(H_RCX));
    enc_jcc(a, CC_E, interp_stub(l));
    enc_mov(a, 4, H_RAX, H_R14);
    enc_shr_imm(a, 8, H_R14, 32);
    enc_mov(a, 4, H_RDX, H_R14);
    if (l->u->imm) {
        enc_load(a, 4, H_R12, lower_env(l->env->tsc_aux));
    }
}

/* A spinning guest whose other CPU's thread has no host CPU would spin through its whole time slice. */
void lower_pause(Lower *l)
{
    Asm *a = l->hot;
    EncRm left = lower_env(l->env->pauses);
    const uint8_t *stub = enc_here(l->cold);
    enc_u8(a, 0xf3);
    enc_u8(a, 0x90);
    if (lower_flags_live(l->u)) {
        enc_load(a, 4, H_RCX, left);
        enc_lea(a, 4, H_RCX, enc_mem(H_RCX, -1));
        enc_store(a, 4, left, H_RCX);
        uint8_t *none = enc_jrcxz(a);
        uint8_t *some = enc_jmp8(a);
        enc_here_rel8(a, none);
        enc_jmp(a, stub);
        enc_here_rel8(a, some);
    } else {
        enc_alu_imm(a, ALU_SUB, 4, left, 1);
        enc_jcc(a, CC_E, stub);
    }
    enc_call(l->cold, l->env->yield);
    enc_jmp(l->cold, enc_here(a));
}

void lower_read_sel(Lower *l)
{
    const Uop *u = l->u;
    unsigned reg = lower_spilled(l, u->reg) ? H_RCX : l->home[u->reg];
    enc_op(l->hot, 0xb7 | E_0F, reg, lower_env(l->env->selectors + (int32_t)(u->imm * (unsigned)l->env->selector_stride)));
    if (lower_spilled(l, u->reg)) {
        enc_store(l->hot, 8, lower_slot(u->reg), H_RCX);
    }
}

void lower_flag_df(Lower *l)
{
    EncRm flags = lower_env(ENV_RFLAGS);
    if (lower_flags_live(l->u)) {
        lower_interp(l);
    } else if (l->u->imm) {
        enc_alu_imm(l->hot, ALU_OR, 4, flags, ENV_DF_FLAG);
    } else {
        enc_alu_imm(l->hot, ALU_AND, 4, flags, ~ENV_DF_FLAG);
    }
}

/* The thunk leaves to the interpreter what is not plain. */
void lower_string(Lower *l)
{
    Asm *a = l->hot;
    const Uop *u = l->u;
    if (lower_flags_live(u)) {
        lower_interp(l);
        return;
    }
    unsigned kind = (u->imm ? 0 : STRING_ONCE) | (u->attr & UA_RM_R ? STRING_MOVES : 0) | (u->asize == 8 ? STRING_LONG : 0);
    enc_call(a, l->env->string[kind | (unsigned)__builtin_ctz(u->size) << STRING_SHIFT]);
    enc_op(a, 0x85, H_RCX, enc_reg(H_RCX)); /* test */
    enc_jcc(a, CC_NE, interp_stub(l));
}
