/* Plans a region. See region.h. */
#include "dbt/back/x86_64/region.h"

#include "dbt/back/x86_64/lower.h"
#include "dbt/back/x86_64/values.h"

#define HALF_SPACE (1ll << 46) /* of distances that can be told from each other */
enum { SPAN_MAX = 512, STRIDE_MAX = 512, HEAD = 1 /* value number of register 0 at the head */ };

typedef struct Candidate {
    uint8_t uop;
    Access access;
    Value base, index; /* number 0: no register */
} Candidate;

typedef struct Planner {
    Uop *uops;
    RegionPlan *plan;
    Values now, entry[UOP_MAX_PARTS];
    bool entered[UOP_MAX_PARTS];
    int64_t stride[16]; /* of registers at the head */
    bool affine[16], returned;
    Candidate candidate[REGION_MAX_UOPS];
    unsigned candidates;
    int64_t rel[REGION_MAX_UOPS]; /* of each use: its displacement, were the group's low 0 */
} Planner;

/* --- values of registers along the ways through the loop --- */

static void back_edge(Planner *p)
{
    for (unsigned r = 0; r < 16; r++) {
        const Value *v = &p->now.reg[r];
        bool same = v->number == HEAD + r && (!p->returned || v->offset == p->stride[r]);
        p->affine[r] = same && (!p->returned || p->affine[r]);
        p->stride[r] = v->offset;
    }
    p->returned = true;
}

static void enter(Planner *p, unsigned part)
{
    Values *e = &p->entry[part];
    if (!p->entered[part]) {
        p->entered[part] = true;
        *e = p->now;
        return;
    }
    for (unsigned r = 0; r < 16; r++) {
        if (e->reg[r].number != p->now.reg[r].number || e->reg[r].offset != p->now.reg[r].offset) {
            e->reg[r] = (Value){ p->now.next++, 0 };
        }
    }
}

static bool known_at_head(const Planner *p, unsigned reg, Value *ret)
{
    *ret = reg < 16 ? p->now.reg[reg] : (Value){ 0, 0 };
    return ret->number < HEAD + 16;
}

static void note_access(Planner *p, unsigned at)
{
    const Uop *u = &p->uops[at];
    Candidate *c = &p->candidate[p->candidates];
    if ((u->attr & UA_MEM) && u->asize == 8 && values_access(u, &c->access) &&
        known_at_head(p, c->access.base, &c->base) && known_at_head(p, c->access.index, &c->index)) {
        c->uop = (uint8_t)at;
        p->candidates++;
    }
}

static void follow(Planner *p)
{
    values_start(&p->now, HEAD, 8);
    p->entry[0] = p->now;
    uint32_t next = p->now.next;
    for (unsigned n = 0; n < p->plan->part_count; n++) {
        const UopPart *part = &p->plan->parts[n];
        p->now = p->entry[n];
        p->now.next = next;
        for (unsigned i = part->first; i < part->first + part->count; i++) {
            const Uop *u = &p->uops[i];
            if (u->attr & UA_INSIDE) {
                u->part == 0 ? back_edge(p) : enter(p, u->part);
            } else if (u->kind != UOP_LEA) {
                note_access(p, i);
            }
            if (u->kind != UOP_JMP) {
                values_after(&p->now, u);
            }
        }
        next = p->now.next;
    }
}

/* --- groups --- */

static bool fits(int64_t v)
{
    return v == (int32_t)v;
}

static HoistGroup shape_of(const Planner *p, const Candidate *c)
{
    unsigned b = c->base.number - HEAD, x = c->index.number - HEAD;
    bool has_base = c->base.number != 0, has_index = c->index.number != 0;
    int64_t by_index = has_index ? (int64_t)((uint64_t)p->stride[x] << c->access.scale) : 0;
    int64_t stride = (has_base ? p->stride[b] : 0) + by_index;
    bool ok = (!has_base || p->affine[b]) && (!has_index || p->affine[x]) && stride >= -STRIDE_MAX && stride <= STRIDE_MAX;
    return (HoistGroup){
        .base = has_base ? (uint8_t)b : UOP_NO_REG,
        .index = has_index ? (uint8_t)x : UOP_NO_REG,
        .scale = has_index ? (uint8_t)c->access.scale : 0,
        .base_moves = has_base && p->stride[b] != 0,
        .index_moves = has_index && p->stride[x] != 0,
        .stride = (int16_t)stride,
        .uses = ok, /* 0: not to be hoisted */
    };
}

static bool same_shape(const HoistGroup *g, const HoistGroup *h)
{
    return g->base == h->base && g->index == h->index && g->scale == h->scale;
}

/* The access at distance `at` from the group's registers joins. False: the group would grow too large. */
static bool join(HoistGroup *g, const Access *a, int64_t at, unsigned align)
{
    int64_t low = g->uses == 0 ? at : MIN(g->low, at), high = g->uses == 0 ? at + (int64_t)a->size : MAX(g->low + g->span, at + (int64_t)a->size);
    unsigned most = MAX(align, g->align);
    if (most != 0) { /* the lowest address shall be aligned when the access is: which of them differ is known */
        int64_t anchor = align != 0 ? at : g->low;
        if (align != 0 && g->align != 0 && ((at - g->low) & (MIN(align, g->align) - 1)) != 0) {
            return false;
        }
        low -= (low - anchor) & (most - 1);
        if ((g->align != 0 && ((g->low - low) & (g->align - 1)) != 0) || (g->stride & (int)(most - 1)) != 0) {
            return false;
        }
    }
    if (high - low > SPAN_MAX) {
        return false;
    }
    g->low = low;
    g->span = (uint16_t)(high - low);
    g->align = (uint8_t)most;
    g->write |= a->write;
    g->uses++;
    return true;
}

static void place(Planner *p, const Candidate *c)
{
    RegionPlan *plan = p->plan;
    HoistGroup shape = shape_of(p, c);
    const Uop *u = &p->uops[c->uop];
    if (shape.uses == 0) {
        return;
    }
    int64_t by_index = (int64_t)((uint64_t)c->index.offset << shape.scale);
    int64_t at = c->base.offset + by_index + c->access.disp;
    bool registers = shape.base != UOP_NO_REG || shape.index != UOP_NO_REG;
    if (registers ? !fits(at) || !fits(at - SPAN_MAX) || !fits(c->base.offset) || !fits(by_index)
                  : at < -HALF_SPACE || at >= HALF_SPACE) {
        return;
    }
    unsigned align = u->attr & UA_ALIGN ? u->mem_size : 0, n = 0;
    while (n < plan->group_count && !(same_shape(&plan->group[n], &shape) && join(&plan->group[n], &c->access, at, align))) {
        n++;
    }
    if (n == plan->group_count) {
        shape.uses = 0;
        if (n == HOIST_MAX || !join(&shape, &c->access, at, align)) {
            return;
        }
        shape.host = HOST_SPILLED;
        plan->group[plan->group_count++] = shape;
    }
    plan->use[c->uop].group = (uint8_t)(n + 1);
    p->rel[c->uop] = at - (shape.base_moves ? c->base.offset : 0) - (shape.index_moves ? by_index : 0);
}

static void make_groups(Planner *p)
{
    for (unsigned n = 0; n < p->candidates; n++) {
        place(p, &p->candidate[n]);
    }
    for (unsigned n = 0; n < p->candidates; n++) {
        unsigned at = p->candidate[n].uop;
        HoistUse *use = &p->plan->use[at];
        if (use->group == 0) {
            continue;
        }
        int64_t disp = p->rel[at] - p->plan->group[use->group - 1].low;
        if (fits(disp)) {
            use->disp = (int32_t)disp;
            p->uops[at].attr |= UA_HOISTED;
        } else {
            use->group = 0;
        }
    }
}

/* --- registers --- */

static void count_uses(const Uop *u, unsigned uses[16])
{
    if (u->attr & UA_MEM) {
        uses[u->base & 15] += u->base < 16;
        uses[u->index & 15] += u->index < 16;
    } else if ((u->attr & (UA_RM_R | UA_RM_W)) || u->kind == UOP_BMI) {
        uses[u->rm & 15]++;
    }
    if ((u->attr & (UA_REG_R | UA_REG_W)) || u->kind == UOP_MOVI || u->kind == UOP_LEA || u->kind == UOP_BSWAP) {
        uses[u->reg & 15]++;
    }
    if (u->kind == UOP_BMI) {
        uses[u->reg & 15]++;
        uses[u->vex_v & 15]++;
    }
}

static uint8_t take(RegionPlan *plan, uint8_t free_guests[], unsigned *count, unsigned in)
{
    if (*count == 0) {
        return HOST_SPILLED;
    }
    uint8_t guest = free_guests[--*count];
    plan->swap[plan->swap_count++] = (RegionSwap){ host_of_guest[guest], guest, (uint8_t)in };
    return host_of_guest[guest];
}

/*
 * Host registers whose guest registers the loop leaves alone: first for guest registers that live in memory, then for
 * the counter, then for groups. Instructions with operands of their own (MUL, shifts) need rax, rdx, rcx.
 */
static void give_registers(Planner *p, unsigned count)
{
    static const uint8_t evictable[] = { 3, 5, 6, 7, 12, 13, 14, 15 };
    unsigned uses[16] = { 0 }, free_count = 0;
    uint8_t free_guests[ARRAY_SIZE(evictable)];
    RegionPlan *plan = p->plan;
    for (unsigned i = 0; i < count; i++) {
        count_uses(&p->uops[i], uses);
        plan->vectors |= (p->uops[i].attr & UA_XMM) != 0;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(evictable); i++) {
        if (uses[evictable[i]] == 0) {
            free_guests[free_count++] = evictable[i];
        }
    }
    memcpy(plan->home, host_of_guest, sizeof(plan->home));
    for (unsigned n = 0; n < 4; n++) {
        unsigned best = 8;
        for (unsigned r = 8; r < 12; r++) {
            best = uses[r] > uses[best] ? r : best;
        }
        if (uses[best] != 0) {
            plan->home[best] = take(plan, free_guests, &free_count, best);
            plan->gain += plan->home[best] != HOST_SPILLED ? uses[best] : 0;
            uses[best] = 0;
        }
    }
    plan->counter = take(plan, free_guests, &free_count, SWAP_COUNTER);
    for (unsigned k = 0; k < plan->group_count; k++) {
        HoistGroup *best = NULL;
        for (unsigned n = 0; n < plan->group_count; n++) {
            HoistGroup *g = &plan->group[n];
            best = g->host == HOST_SPILLED && (best == NULL || g->uses > best->uses) ? g : best;
        }
        best->host = take(plan, free_guests, &free_count, SWAP_GROUP + (unsigned)(best - plan->group));
        if (best->host == HOST_SPILLED) {
            break;
        }
    }
}

/* A look before the loop for each group against one in each turn. */
static void weigh(RegionPlan *plan)
{
    plan->gain += 1;
    for (unsigned n = 0; n < plan->group_count; n++) {
        plan->gain += 5 + plan->group[n].uses;
    }
    plan->cost = (uint16_t)(8 + 15 * plan->group_count + 2 * plan->swap_count);
}

bool region_plan(Uop *uops, unsigned count, const UopPart *parts, unsigned part_count, RegionPlan *ret)
{
    Planner p = { .uops = uops, .plan = ret };
    memset(ret, 0, sizeof(*ret));
    if (count > REGION_MAX_UOPS) {
        return false;
    }
    ret->parts = parts;
    ret->part_count = part_count;
    follow(&p);
    make_groups(&p);
    give_registers(&p, count);
    weigh(ret);
    bool homes = false;
    for (unsigned n = 0; n < ret->swap_count; n++) {
        homes |= ret->swap[n].in < 16;
    }
    return homes || ret->group_count != 0;
}
