/* From uops to host code: sites, exits, and a block from its guard to its end. See lower.h for the conventions. */
#include "dbt/back/x86_64/lower_priv.h"

/* --- sites and exits --- */

uint32_t lower_new_site(Lower *l, unsigned kind)
{
    assert(l->out->site_count < LOWER_MAX_SITES);
    unsigned n = l->out->site_count++;
    l->out->sites[n] = (LowerSite){ .uop = l->index, .kind = kind };
    return n;
}

/* Who comes back behind the current uop from C finds there what the scratch registers are said to hold. */
static void close_sites(Lower *l)
{
    uint32_t resume = (uint32_t)(l->hot->p - l->hot_start);
    unsigned n = l->out->site_count;
    bool loads = l->held.guest != 0;
    if (n > 0 && l->out->sites[n - 1].uop == l->index && (loads || l->block->region != NULL)) {
        const uint8_t *back = lower_cold_back(l, enc_here(l->hot)), *stub = loads ? enc_here(l->cold) : back;
        if (loads) {
            enc_load(l->cold, 8, l->held.host, lower_slot(l->held.guest));
            enc_jmp(l->cold, back);
        }
        resume = (uint32_t)(stub - (l->hot_start + l->hot->run_delta));
    }
    while (n-- > 0 && l->out->sites[n].uop == l->index) {
        l->out->sites[n].resume = resume;
    }
}

const uint8_t *lower_slow_stub(Lower *l, unsigned kind, const uint8_t *retry)
{
    const uint8_t *back = lower_cold_back(l, retry), *stub = enc_here(l->cold);
    lower_cold_out(l);
    uint32_t site = lower_new_site(l, kind);
    enc_call(l->cold, l->env->slow[kind]);
    enc_jmp(l->cold, back);
    enc_u32(l->cold, l->block->first_site + site);
    return stub;
}

static unsigned lower_new_exit(Lower *l, uint64_t target)
{
    assert(l->out->exit_count < LOWER_MAX_EXITS);
    unsigned n = l->out->exit_count++;
    l->out->exits[n] = (LowerExit){ .target = target, .uop = l->index, .live = l->u->exit_live };
    return n;
}

const uint8_t *lower_leave_stub(Lower *l, unsigned why, uint32_t payload)
{
    const uint8_t *stub = enc_here(l->cold);
    enc_call(l->cold, l->env->leave[why]);
    enc_u32(l->cold, payload);
    return stub;
}

unsigned lower_exit_stub(Lower *l, uint64_t target)
{
    unsigned n = lower_new_exit(l, target);
    l->out->exits[n].stub = lower_leave_stub(l, LEAVE_LINK, l->block->first_exit + n);
    return n;
}

unsigned lower_generic_exit(Lower *l)
{
    uint64_t pc = l->block->pc + l->block->offsets[l->u->insn];
    unsigned n = lower_exit_stub(l, l->block->mode64 ? pc : (uint32_t)pc);
    l->out->exits[n].live = l->u->live_in;
    l->out->exits[n].generic = true;
    return n;
}

void lower_interp(Lower *l)
{
    uint32_t site = lower_new_site(l, SLOW_INTERP);
    enc_call(l->hot, l->env->slow[SLOW_INTERP]);
    enc_u32(l->hot, l->block->first_site + site);
}

static void lower_interp_end(Lower *l)
{
    uint32_t site = lower_new_site(l, SLOW_INTERP);
    enc_call(l->hot, l->env->leave[LEAVE_INTERP]);
    enc_u32(l->hot, l->block->first_site + site);
}

/* Neither looks at the guest's rsp nor can leave the block, so that PUSH and POP before it may put off moving rsp. */
static bool ignores_stack(const Lower *l)
{
    const Uop *u = l->u;
    const AccessPlan *plan = &l->plan[l->index];
    bool member = plan->group != 0 && !plan->leads, reg_is_rsp = lower_has_reg(u) && (u->reg & 15) == 4;
    switch (u->kind) {
    case UOP_NOP:
    case UOP_BYTES:
        return true;
    case UOP_MOVI:
        return u->reg != 4;
    case UOP_LEA:
        return u->reg != 4 && u->base != 4 && u->index != 4;
    case UOP_OP:
        return !(u->attr & UA_TRAPS) && !reg_is_rsp && (u->attr & UA_MEM ? member : u->rm != 4);
    case UOP_PUSH:
    case UOP_POP:
        return member && u->reg != 4;
    case UOP_CALL: /* moves it itself, before anything else */
    case UOP_RET:
        return member;
    default:
        return false;
    }
}

static void lower_uop(Lower *l)
{
    const Uop *u = l->u;
    switch (u->kind) {
    case UOP_NOP:
        l->held = l->had;
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
        lower_append_imm(l->hot, u);
        l->held = l->had;
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
    case UOP_BIT_MEM:
        lower_bit_mem(l);
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
    case UOP_FLAG_DF:
        lower_flag_df(l);
        break;
    case UOP_STRING:
        lower_string(l);
        break;
    case UOP_PUSHF:
        lower_pushf(l);
        break;
    case UOP_RDTSC:
        lower_rdtsc(l);
        break;
    case UOP_PAUSE:
        lower_pause(l);
        break;
    case UOP_READ_SEL:
        lower_read_sel(l);
        break;
    case UOP_INTERP:
        lower_interp(l);
        break;
    case UOP_JCC:
        l->block->region != NULL ? lower_region_branch(l) : lower_jcc(l);
        break;
    case UOP_JCXZ:
        lower_jcxz(l);
        break;
    case UOP_JMP:
        if (l->block->region != NULL) {
            lower_region_branch(l);
            break;
        }
        lower_jump(l, u->imm, (u->attr & UA_BACKWARD) != 0);
        break;
    case UOP_CALL:
        lower_call(l);
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
    const uint8_t *stub = lower_leave_stub(l, LEAVE_GUARD, b->number);
    EncRm slot = enc_abs(l->env->slots + 4 * slot_index);
    if (!(b->flags_in & FL_ALL)) {
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

/* Counts the block's entries; when there were enough the run-time makes it again, better. */
static void lower_counter(Lower *l)
{
    Asm *a = l->hot;
    EncRm counter = enc_abs(l->env->counters + 4 * l->block->counter);
    const uint8_t *stub = lower_leave_stub(l, LEAVE_HOT, l->block->number);
    if (!(l->block->flags_in & FL_ALL)) {
        enc_alu_imm(a, ALU_SUB, 4, counter, 1);
        enc_jcc(a, CC_S, stub);
    } else {
        enc_load(a, 4, H_RCX, counter);
        uint8_t *often = enc_jrcxz(a);
        enc_lea(a, 4, H_RCX, enc_mem(H_RCX, -1));
        enc_store(a, 4, counter, H_RCX);
        uint8_t *not_yet = enc_jmp8(a);
        enc_here_rel8(a, often);
        enc_jmp(a, stub);
        enc_here_rel8(a, not_yet);
    }
}

/* Takes the block's instructions from the budget, or leaves. A block that counts has no way out but its end. */
static void lower_budget(Lower *l)
{
    const LowerBlock *b = l->block;
    Asm *a = l->hot;
    EncRm budget = lower_env(l->env->budget);
    const uint8_t *stub = lower_leave_stub(l, LEAVE_BUDGET, b->number);
    if (!(b->flags_in & FL_ALL)) {
        enc_alu_imm(a, ALU_SUB, 8, budget, (int32_t)b->counts);
        enc_jcc(a, CC_S, stub);
    } else {
        enc_load(a, 8, H_RCX, budget);
        enc_lea(a, 8, H_RCX, enc_mem(H_RCX, -(int32_t)b->counts));
        enc_store(a, 8, budget, H_RCX);
        enc_op(a, 0xb6 | E_0F, H_RCX, lower_env(l->env->budget + 7)); /* its sign */
        uint8_t *enough = enc_jrcxz(a);
        enc_jmp(a, stub);
        enc_here_rel8(a, enough);
    }
}

void lower_uops(Lower *l, unsigned first, unsigned count)
{
    const LowerBlock *b = l->block;
    assert(first + count <= ARRAY_SIZE(l->plan));
    if (b->generic) {
        memset(l->plan + first, 0, count * sizeof(l->plan[0]));
    } else {
        groups_plan(b->uops + first, count, b->mode64, l->env->bmi2, b->promotes, l->plan + first);
    }
    for (l->index = first; l->index < first + count && !l->ended; l->index++) {
        l->u = &b->uops[l->index];
        l->had = l->held;
        l->held = (LowerHeld){ 0 };
        if (l->stack_by != 0 && !ignores_stack(l)) {
            lower_move_stack_now(l, 0);
        }
        lower_uop(l);
        if (l->u->record) {
            lower_record(l);
            l->held = (LowerHeld){ 0 };
        }
        close_sites(l);
    }
}

void lower_block(const HostEnv *env, const LowerBlock *block, Asm *hot, Asm *cold, Lowered *out)
{
    Lower l;
    memset(&l, 0, offsetof(Lower, plan));
    l.env = env;
    l.block = block;
    l.hot = hot;
    l.cold = cold;
    l.out = out;
    l.home = block->region != NULL ? block->region->home : host_of_guest;
    out->site_count = out->exit_count = 0;
    out->next_site = block->next_site;
    out->site_owners = 0;
    enc_align(hot, 16);
    l.hot_start = hot->p;
    out->guarded = enc_here(hot);
    l.u = &block->uops[0];
    lower_guard(&l, block->slot, block->page_id);
    out->recorded = out->guarded;
    if (block->flags_in & FL_ALL) {
        out->recorded = enc_here(cold);
        enc_call(cold, env->flags_load);
        enc_jmp(cold, out->guarded);
    }
    out->entry = enc_here(hot);
    if (block->page_id2 != 0) { /* who links to a block of the same page has not looked at the other one */
        lower_guard(&l, block->slot2, block->page_id2);
    }
    if (block->counted) {
        lower_counter(&l);
    }
    if (block->counts != 0) {
        lower_budget(&l);
    }
    if (block->region != NULL) {
        lower_region(&l);
    } else {
        lower_uops(&l, 0, block->count);
    }
    out->hot_end = enc_here(hot);
}
