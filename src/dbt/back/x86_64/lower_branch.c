/* Branches, calls and returns to host code, with polls of requests and probes of the jump cache. */
#include "dbt/back/x86_64/lower_priv.h"

/*
 * Where a block ends behind a backward branch, the branch itself leaves for what follows. False: something else
 * follows.
 */
static bool jcc_else_next(Lower *l)
{
    const Uop *u = l->u, *next = u + 1;
    if (l->index + 2 != l->block->count || next->kind != UOP_JMP || (next->attr & UA_BACKWARD)) {
        return false;
    }
    l->u = next;
    l->index++;
    unsigned n = lower_exit_stub(l, next->imm);
    l->out->exits[n].field = enc_jcc(l->hot, u->cond ^ 1, l->out->exits[n].stub);
    l->index--;
    l->u = u;
    l->ended = true;
    return true;
}

void lower_jcc(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    unsigned n = lower_exit_stub(l, u->imm);
    LowerExit *exit = &l->out->exits[n];
    if (!(u->attr & UA_BACKWARD)) {
        exit->field = enc_jcc(a, u->cond, exit->stub);
        l->held = l->had;
        return;
    }
    uint8_t *over = jcc_else_next(l) ? NULL : enc_jcc8(a, u->cond ^ 1);
    const uint8_t *poll = lower_leave_stub(l, LEAVE_POLL, l->block->first_exit + n);
    if (!(u->exit_live & FL_ALL)) {
        enc_alu_imm(a, ALU_CMP, 4, lower_env(ENV_EXIT_REQ), 0);
        exit->field = enc_jcc(a, CC_E, exit->stub);
        enc_jmp(a, poll);
    } else {
        enc_load(a, 4, H_RCX, lower_env(ENV_EXIT_REQ));
        uint8_t *none = enc_jrcxz(a);
        enc_jmp(a, poll);
        enc_here_rel8(a, none);
        exit->field = enc_jmp(a, exit->stub);
    }
    if (over != NULL) {
        enc_here_rel8(a, over);
    }
}

void lower_jump(Lower *l, uint64_t target, bool poll)
{
    Asm *a = l->hot;
    unsigned n = lower_exit_stub(l, target);
    if (poll) {
        const uint8_t *stub = lower_leave_stub(l, LEAVE_POLL, l->block->first_exit + n);
        if (!(l->u->exit_live & FL_ALL)) {
            enc_alu_imm(a, ALU_CMP, 4, lower_env(ENV_EXIT_REQ), 0);
            enc_jcc(a, CC_NE, stub);
        } else {
            enc_load(a, 4, H_RCX, lower_env(ENV_EXIT_REQ));
            uint8_t *none = enc_jrcxz(a);
            enc_jmp(a, stub);
            enc_here_rel8(a, none);
        }
    }
    l->out->exits[n].field = enc_jmp(a, l->out->exits[n].stub);
}

void lower_jcxz(Lower *l)
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
        lower_jump(l, u->imm, true);
        enc_here_rel8(a, zero);
    } else {
        uint8_t *over = enc_jmp8(a);
        enc_here_rel8(a, zero);
        lower_jump(l, u->imm, true);
        enc_here_rel8(a, over);
    }
}

/* Pushes the return address `value`. */
static void push_return(Lower *l, uint64_t value)
{
    Asm *a = l->hot;
    unsigned size = l->u->size;
    EncRm mem = lower_access_stack(l, -(int)size, size, true);
    if (size == 4 || value == (uint64_t)(int32_t)value) {
        enc_store_imm(a, size, mem, (int32_t)value);
    } else {
        mem = lower_without_r14(l, mem);
        enc_mov_imm(a, H_R14, value);
        enc_store(a, size, mem, H_R14);
    }
    lower_move_stack_now(l, -(int)size);
}

/* Notes the address in r14, for who will ask where the jump goes. */
static void note_target(Lower *l)
{
    Asm *a = l->hot;
    enc_load(a, 4, H_RCX, enc_abs(l->env->counters + 4 * l->block->counter));
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), LOWER_NOTES - 1);
    enc_store(a, 8, enc_mem_index(ENC_ABS, H_RCX, 3, (int32_t)l->block->notes), H_R14);
}

/*
 * To the addresses where the jump went before: each is one compare, and linked as the target of a direct branch. Those
 * behind it come first, they need no look at requests.
 */
static void try_likely(Lower *l, bool forward)
{
    Asm *a = l->hot;
    unsigned size = l->block->mode64 ? 8 : 4;
    uint64_t pc = l->block->pc + (uint64_t)(int64_t)l->block->offsets[l->u->insn];
    for (unsigned i = 0; i < LOWER_LIKELY && l->block->likely[i] != 0; i++) {
        uint64_t va = l->block->likely[i];
        if ((va > pc) != forward) {
            continue;
        }
        unsigned n = lower_exit_stub(l, va);
        l->out->exits[n].live = FL_RECORD;
        if (size == 4 || va == (uint64_t)(int32_t)va) {
            enc_alu_imm(a, ALU_CMP, size, enc_reg(H_R14), (int32_t)va);
        } else {
            enc_mov_imm(a, H_RCX, va);
            enc_alu(a, ALU_CMP, 8, H_R14, enc_reg(H_RCX));
        }
        l->out->exits[n].field = enc_jcc(a, CC_E, l->out->exits[n].stub);
    }
}

/* To the address in r14, by the jump cache. The flags are in the record. */
static void jump_indirect(Lower *l)
{
    Asm *a = l->hot;
    const uint8_t *miss = lower_leave_stub(l, LEAVE_INDIRECT, l->block->first_site + lower_new_site(l, SLOW_JUMP));
    try_likely(l, true);
    enc_alu_imm(a, ALU_CMP, 4, lower_env(ENV_EXIT_REQ), 0);
    enc_jcc(a, CC_NE, miss);
    if (l->block->notes != 0) {
        note_target(l);
    }
    try_likely(l, false);
    enc_mov(a, 4, H_RCX, H_R14); /* jump_cache_index() */
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), (1 << JUMP_CACHE_BITS) - 1);
    int32_t table = (int32_t)l->env->jump_cache;
    enc_alu(a, ALU_CMP, 8, H_R14, enc_mem_index(ENC_ABS, H_RCX, 3, table + (int32_t)offsetof(JumpCache, va)));
    enc_jcc(a, CC_NE, miss);
    enc_jmp_mem(a, enc_mem_index(ENC_ABS, H_RCX, 3, table + (int32_t)offsetof(JumpCache, code)));
}

void lower_ret(Lower *l)
{
    const Uop *u = l->u;
    EncRm mem = lower_access_stack(l, 0, u->size, false);
    enc_load(l->hot, u->size, H_R14, mem);
    lower_move_stack_now(l, u->size + (int32_t)u->imm);
    jump_indirect(l);
}

void lower_indirect(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    bool memory = u->kind == UOP_JMP_MEM || u->kind == UOP_CALL_MEM;
    bool call = u->kind == UOP_CALL_REG || u->kind == UOP_CALL_MEM;
    if (memory) {
        enc_load(a, u->size, H_R14, lower_access_mem(l, false));
        if (call) {
            enc_store(a, 8, lower_env(l->env->temp), H_R14);
        }
    }
    if (call) {
        push_return(l, u->imm);
        if (memory) {
            enc_load(a, 8, H_R14, lower_env(l->env->temp));
        }
    }
    if (!memory) {
        lower_get_guest(l, H_R14, u->reg);
        if (u->size == 4) {
            enc_mov(a, 4, H_R14, H_R14);
        }
    }
    jump_indirect(l);
}

void lower_call(Lower *l)
{
    uint64_t next = (uint64_t)l->u->disp;
    push_return(l, next);
    lower_jump(l, l->u->imm, l->u->imm < next); /* what goes forward comes to another poll, if only a return's */
}
