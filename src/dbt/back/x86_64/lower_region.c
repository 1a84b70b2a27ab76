/*
 * A loop as one piece of code (region.h):
 *
 *     guard, count of entries
 *     what the loop needs to the registers that it has free
 *     look: the pages of hoisted accesses, the number of turns       -> not all there: one turn in a block without groups
 *     head: the parts, one behind the other, with jumps between them -> ways out: registers as they were, then an exit
 *     a way back to the head counts the turn; when none is left: requests, then `look` again
 *
 * What leaves to C and comes back changes registers to what they are outside, and back.
 */
#include "dbt/back/x86_64/lower_priv.h"

/* --- registers that mean something else inside --- */

static EncRm swap_slot(const Lower *l, const RegionSwap *s)
{
    if (s->in == SWAP_COUNTER) {
        return lower_env(l->env->turns);
    }
    return s->in < 16 ? lower_slot(s->in) : lower_env(l->env->hoisted + 8 * (s->in - SWAP_GROUP));
}

/* All but rcx and r14 as outside; what only the loop wants is kept when it goes on. Leaves flags. */
static void swap_out(Lower *l, Asm *a, bool goes_on)
{
    const RegionPlan *r = l->block->region;
    for (unsigned n = 0; n < r->swap_count; n++) {
        const RegionSwap *s = &r->swap[n];
        if (goes_on || s->in < 16) {
            enc_store(a, 8, swap_slot(l, s), s->host);
        }
        enc_load(a, 8, s->host, lower_slot(s->guest));
    }
}

/* first: nothing was inside before. */
static void swap_in(Lower *l, Asm *a, bool first)
{
    const RegionPlan *r = l->block->region;
    for (unsigned n = 0; n < r->swap_count; n++) {
        const RegionSwap *s = &r->swap[n];
        if (first) {
            enc_store(a, 8, lower_slot(s->guest), s->host);
        }
        if (!first || s->in < 16) {
            enc_load(a, 8, s->host, swap_slot(l, s));
        }
    }
}

void lower_cold_out(Lower *l)
{
    if (l->block->region != NULL) {
        swap_out(l, l->cold, true);
    }
}

const uint8_t *lower_cold_back(Lower *l, const uint8_t *to)
{
    if (l->block->region == NULL) {
        return to;
    }
    const uint8_t *back = enc_here(l->cold);
    swap_in(l, l->cold, false);
    enc_jmp(l->cold, to);
    return back;
}

/* --- flags that live at the head, around the look at pages --- */

static void keep_flags(Lower *l, uint8_t live)
{
    Asm *a = l->hot;
    if (live == FL_C) {
        enc_op(a, 0x92 | E_0F, 0, lower_env(l->env->temp)); /* setc */
    } else if (live != 0) {
        enc_mov(a, 8, H_R14, H_RAX);
        enc_u8(a, 0x9f);                                       /* lahf */
        enc_op(a, 0x90 | E_0F | E_BYTE_RM, 0, enc_reg(H_RAX)); /* seto al */
        enc_store(a, 4, lower_env(l->env->temp), H_RAX);
        enc_mov(a, 8, H_RAX, H_R14);
    }
}

static void bring_flags(Lower *l, Asm *a, uint8_t live)
{
    if (live == FL_C) {
        enc_op(a, 0xba | E_0F, 4, lower_env(l->env->temp)); /* bt dword, 0 */
        enc_u8(a, 0);
    } else if (live != 0) {
        enc_mov(a, 8, H_R14, H_RAX);
        enc_load(a, 4, H_RAX, lower_env(l->env->temp));
        enc_alu_imm(a, ALU_ADD, 1, enc_reg(H_RAX), 0x7f); /* overflows when al was 1 */
        enc_u8(a, 0x9e);                                  /* sahf */
        enc_mov(a, 8, H_RAX, H_R14);
    }
}

/* --- the look at pages --- */

/* The registers of a group's addresses, or those of them that move, as an operand of lower_address(). */
static Uop group_operand(const HoistGroup *g, bool moving, int64_t disp)
{
    return (Uop){
        .attr = UA_MEM,
        .base = moving && !g->base_moves ? UOP_NO_REG : g->base,
        .index = moving && !g->index_moves ? UOP_NO_REG : g->index,
        .scale = g->scale,
        .asize = 8,
        .disp = disp,
    };
}

static EncRm group_home(const Lower *l, unsigned n)
{
    const HoistGroup *g = &l->block->region->group[n];
    return g->host != HOST_SPILLED ? enc_reg(g->host) : lower_env(l->env->hoisted + 8 * (int)n);
}

static EncRm counter_home(const Lower *l)
{
    unsigned counter = l->block->region->counter;
    return counter != HOST_SPILLED ? enc_reg(counter) : lower_env(l->env->turns);
}

/* Turns that the page of a group lasts, by the offset in r14, to the counter if they are fewer. */
static void limit_turns(Lower *l, const HoistGroup *g)
{
    Asm *a = l->hot;
    unsigned distance = (unsigned)(g->stride < 0 ? -g->stride : g->stride), shift = 0;
    if (distance == 0) {
        return;
    }
    while (1u << shift < distance) {
        shift++;
    }
    if (g->stride > 0) {
        enc_mov_imm(a, H_RCX, 4096u - g->span);
        enc_alu(a, ALU_SUB, 4, H_RCX, enc_reg(H_R14));
    } else {
        enc_mov(a, 4, H_RCX, H_R14);
    }
    if (shift != 0) {
        enc_shr_imm(a, 4, H_RCX, shift);
    }
    EncRm counter = counter_home(l);
    enc_alu(a, ALU_CMP, 4, H_RCX, counter);
    if (!counter.is_mem) {
        enc_op(a, 0x42 | E_0F, counter.reg, enc_reg(H_RCX)); /* cmovb */
    } else {
        uint8_t *more = enc_jcc8(a, CC_AE);
        enc_store(a, 4, counter, H_RCX);
        enc_here_rel8(a, more);
    }
}

static void look_up_group(Lower *l, unsigned n, const uint8_t *failed)
{
    Asm *a = l->hot;
    const HoistGroup *g = &l->block->region->group[n];
    Uop lowest = group_operand(g, false, g->low);
    l->had = (LowerHeld){ 0 };
    lower_address(l, &lowest, H_R14);
    lower_tlb_index(l);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, g->write ? ENV_TLB_WRITE : ENV_TLB_READ));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)g->span);
    enc_jcc(a, CC_A, failed);
    if (g->align != 0) {
        enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_reg(H_R14)); /* test r14b, align - 1 */
        enc_u8(a, g->align - 1u);
        enc_jcc(a, CC_NE, failed);
    }
    EncRm home = group_home(l, n);
    unsigned host = home.is_mem ? H_RCX : home.reg;
    enc_load(a, 8, host, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
    enc_alu(a, ALU_ADD, 8, host, enc_reg(H_R14));
    if (home.is_mem) {
        enc_store(a, 8, home, H_RCX);
    }
    limit_turns(l, g);
    if (g->base_moves || g->index_moves) {
        Uop moving = group_operand(g, true, 0);
        bool plain = g->base_moves && !g->index_moves && !lower_spilled(l, g->base);
        unsigned from = plain ? l->home[g->base] : H_R14;
        if (!plain) {
            lower_address(l, &moving, H_R14);
        }
        enc_op(a, 0x29 | E_W, from, home); /* sub */
    }
}

/* A miss, or a range on two pages: a turn without groups, of which the accesses bring pages in. */
static const uint8_t *failed_stub(Lower *l)
{
    Asm *c = l->cold;
    const uint8_t *stub = enc_here(c);
    uint8_t live = l->block->flags_in & FL_ALL;
    bring_flags(l, c, live);
    swap_out(l, c, false);
    uint8_t *field = enc_jmp(c, NULL);
    unsigned n = lower_generic_exit(l);
    l->out->exits[n].live = l->block->flags_in;
    l->out->exits[n].field = field;
    enc_patch_rel32(field, c->run_delta, l->out->exits[n].stub);
    return stub;
}

static void look_up(Lower *l)
{
    Asm *a = l->hot;
    const RegionPlan *r = l->block->region;
    uint8_t live = l->block->flags_in & FL_ALL;
    l->check = enc_here(a);
    keep_flags(l, live);
    EncRm counter = counter_home(l);
    if (counter.is_mem) {
        enc_store_imm(a, 8, counter, (int32_t)l->block->turns);
    } else {
        enc_mov_imm(a, counter.reg, l->block->turns);
    }
    const uint8_t *failed = r->group_count == 0 ? NULL : failed_stub(l);
    for (unsigned n = 0; n < r->group_count; n++) {
        look_up_group(l, n, failed);
    }
    if (l->block->turn_count != 0) {
        enc_op(a, 0x8b, H_RCX, counter);
        enc_store(a, 4, lower_env(l->env->turns_first), H_RCX);
    }
    bring_flags(l, a, live);
}

/* On trial: turns since the last look, to what was counted before. Leaves flags. */
static void count_turns(Lower *l, Asm *a)
{
    if (l->block->turn_count == 0) {
        return;
    }
    EncRm sum = enc_abs(l->block->turn_count);
    enc_op(a, 0x8b, H_R14, counter_home(l));
    enc_not(a, 4, H_R14);
    enc_load(a, 4, H_RCX, lower_env(l->env->turns_first));
    enc_lea(a, 4, H_R14, enc_mem_index(H_R14, H_RCX, 0, 1));
    enc_load(a, 4, H_RCX, sum);
    enc_lea(a, 4, H_RCX, enc_mem_index(H_RCX, H_R14, 0, 0));
    enc_store(a, 4, sum, H_RCX);
}

EncRm lower_hoisted(Lower *l)
{
    const Uop *u = l->u;
    const HoistUse *use = &l->block->region->use[l->index];
    const HoistGroup *g = &l->block->region->group[use->group - 1];
    EncRm home = group_home(l, use->group - 1u);
    unsigned moving = H_R14, scale = 0;
    bool one = g->base_moves != g->index_moves;
    unsigned guest = g->base_moves ? u->base : u->index;
    if (one && !lower_spilled(l, guest)) {
        moving = l->home[guest];
        scale = g->base_moves ? 0 : u->scale;
    } else if (g->base_moves || g->index_moves) {
        Uop operand = *u;
        operand.disp = 0;
        operand.base = g->base_moves ? u->base : UOP_NO_REG;
        operand.index = g->index_moves ? u->index : UOP_NO_REG;
        lower_address(l, &operand, H_R14);
    } else {
        moving = ENC_NONE;
    }
    unsigned host = home.reg;
    if (home.is_mem) {
        enc_load(l->hot, 8, H_RCX, home);
        host = H_RCX;
        l->had = (LowerHeld){ 0 };
    }
    return enc_mem_index(host, moving, scale, use->disp);
}

/* --- branches --- */

/* Jumps to `out` when something is asked. */
static void poll(Lower *l, Asm *a, const uint8_t *out)
{
    if (!(l->u->exit_live & FL_ALL)) {
        enc_alu_imm(a, ALU_CMP, 4, lower_env(ENV_EXIT_REQ), 0);
        enc_jcc(a, CC_NE, out);
    } else {
        enc_load(a, 4, H_RCX, lower_env(ENV_EXIT_REQ));
        uint8_t *none = enc_jrcxz(a);
        enc_jmp(a, out);
        enc_here_rel8(a, none);
    }
}

/* When no turn is left: back to the look at pages, unless something is asked. */
static const uint8_t *turns_over(Lower *l)
{
    Asm *c = l->cold;
    unsigned n = lower_exit_stub(l, l->u->imm); /* never linked: what is asked is answered at the head */
    const uint8_t *out = enc_here(c);
    swap_out(l, c, false);
    lower_leave_stub(l, LEAVE_POLL, l->block->first_exit + n);
    const uint8_t *stub = enc_here(c);
    count_turns(l, c);
    poll(l, c, out);
    l->out->exits[n].field = enc_jmp(c, l->check);
    return stub;
}

/* Counts a turn and begins the next. */
static void next_turn(Lower *l)
{
    Asm *a = l->hot;
    uint8_t live = l->u->exit_live & FL_ALL;
    const uint8_t *over = turns_over(l);
    EncRm counter = counter_home(l);
    if (live == 0) {
        enc_alu_imm(a, ALU_SUB, 4, counter, 1);
        enc_jcc(a, CC_NS, l->part[0]);
    } else if (live == FL_C) {
        enc_op(a, 0xff, 1, counter); /* dec: leaves CF */
        enc_jcc(a, CC_NS, l->part[0]);
    } else {
        enc_op(a, 0x8b, H_RCX, counter);
        enc_lea(a, 4, H_RCX, enc_mem(H_RCX, -1));
        enc_op(a, 0x89, H_RCX, counter);
        enc_lea(a, 4, H_RCX, enc_mem(H_RCX, 1));
        uint8_t *none = enc_jrcxz(a);
        enc_jmp(a, l->part[0]);
        enc_here_rel8(a, none);
    }
    enc_jmp(a, over);
}

/* The way to an exit of the region, in cold code. */
static const uint8_t *way_out(Lower *l)
{
    Asm *c = l->cold;
    const Uop *u = l->u;
    unsigned n = lower_exit_stub(l, u->imm);
    const uint8_t *out = u->attr & UA_BACKWARD ? lower_leave_stub(l, LEAVE_POLL, l->block->first_exit + n) : NULL;
    const uint8_t *stub = enc_here(c);
    count_turns(l, c);
    swap_out(l, c, false);
    if (out != NULL) {
        poll(l, c, out);
    }
    l->out->exits[n].field = enc_jmp(c, l->out->exits[n].stub);
    return stub;
}

static void to_part(Lower *l, unsigned part, uint8_t *field)
{
    assert(l->later_count < ARRAY_SIZE(l->later));
    l->later[l->later_count].field = field;
    l->later[l->later_count++].part = (uint8_t)part;
}

void lower_region_branch(Lower *l)
{
    const Uop *u = l->u;
    Asm *a = l->hot;
    bool always = u->kind == UOP_JMP;
    if (!(u->attr & UA_INSIDE)) {
        const uint8_t *out = way_out(l);
        always ? enc_jmp(a, out) : enc_jcc(a, u->cond, out);
    } else if (u->part != 0) {
        if (!always || u->part != l->parts_begun) { /* not what comes next anyway */
            to_part(l, u->part, always ? enc_jmp(a, NULL) : enc_jcc(a, u->cond, NULL));
        }
    } else if (always) {
        next_turn(l);
    } else {
        uint8_t *over = enc_jcc8(a, u->cond ^ 1);
        next_turn(l);
        enc_here_rel8(a, over);
    }
}

void lower_region(Lower *l)
{
    const RegionPlan *r = l->block->region;
    if (r->vectors) {
        lower_vectors_live(l);
    }
    swap_in(l, l->hot, true);
    look_up(l);
    enc_align(l->hot, 32);
    while (l->parts_begun < r->part_count) {
        const UopPart *part = &r->parts[l->parts_begun];
        l->part[l->parts_begun++] = enc_here(l->hot);
        l->held = (LowerHeld){ 0 };
        lower_uops(l, part->first, part->count);
    }
    for (unsigned n = 0; n < l->later_count; n++) {
        enc_patch_rel32(l->later[n].field, l->hot->run_delta, l->part[l->later[n].part]);
    }
}
