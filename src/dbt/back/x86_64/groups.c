/*
 * Finds groups of accesses. See groups.h.
 *
 * Accesses whose base registers hold the same value (values.h), at a constant distance from each other,
 * belong together as long as the range they span stays small. The first of them is the leader: it checks the whole
 * range. Where the range straddles two pages, the block is left for a copy of the rest without groups.
 *
 * No access of a group can fault or reach anything but the leader's page, whatever the guest does: the distances are
 * constants. Pointers are given up only between blocks, so the page stays what the leader found it to be.
 */
#include "dbt/back/x86_64/groups.h"

#include "dbt/back/x86_64/lower.h"
#include "dbt/back/x86_64/values.h"

typedef struct Group {
    uint32_t number;   /* value number of the base; 0: none */
    uint32_t index;    /* of the index register; 0: none */
    uint8_t scale;
    int64_t low, high; /* offsets from these values */
    int64_t base_off;  /* the registers' own at the leader */
    uint8_t leader;
    uint8_t id, members;
    bool write;
} Group;

typedef struct Planner {
    const Uop *uops;
    unsigned count;
    AccessPlan *plan;
    bool keeps_flags, promotes;
    Values values;
    Group open[4];
    unsigned next_open, next_id;
    int64_t low[GROUPS_MAX + 1];
    int64_t *address; /* of each uop in a group: its offset */
} Planner;

/* --- accesses --- */

/* Groups take what no alignment is asked of, by a base register. */
static bool access_of(const Planner *p, const Uop *u, Access *ret)
{
    bool plain = !(u->attr & UA_MEM) || (!(u->attr & (UA_ALIGN | UA_HOISTED)) && u->base < 16 && u->asize == p->values.full);
    return plain && values_access(u, ret);
}

static void close_groups(Planner *p)
{
    memset(p->open, 0, sizeof(p->open));
}

static bool join(Planner *p, Group *g, unsigned index, const Access *a, int64_t at)
{
    int64_t low = MIN(g->low, at), high = MAX(g->high, at + (int64_t)a->size);
    bool promote = a->write && !g->write;
    if ((promote && !p->promotes) || high - low > GROUP_SPAN_MAX) {
        return false;
    }
    if (promote) {
        g->write = true;
        p->plan[g->leader].writes = true;
    }
    g->low = p->low[g->id] = low;
    g->high = high;
    g->members++;
    p->plan[index].group = g->id;
    p->address[index] = at;
    AccessPlan *leader = &p->plan[g->leader];
    leader->low = (int32_t)(low - g->base_off);
    leader->span = (uint16_t)(high - low);
    return true;
}

static uint32_t index_number(const Planner *p, const Access *a)
{
    return a->index < 16 ? p->values.reg[a->index].number : 0;
}

/* What the registers of the operand have been moved by. */
static int64_t moved(const Planner *p, const Access *a)
{
    int64_t by = p->values.reg[a->base].offset;
    return a->index < 16 ? by + (int64_t)((uint64_t)p->values.reg[a->index].offset << a->scale) : by;
}

static bool same_values(const Group *g, uint32_t base, uint32_t index, unsigned scale)
{
    return g->number == base && g->index == index && (index == 0 || g->scale == scale);
}

static void lead(Planner *p, unsigned index, const Access *a, int64_t at)
{
    const Uop *u = &p->uops[index];
    uint32_t base = p->values.reg[a->base].number, by_index = index_number(p, a);
    int64_t by = moved(p, a);
    if (((u->live_in & FL_ALL) && !p->keeps_flags) || p->next_id > GROUPS_MAX || at != (int32_t)at || by != (int32_t)by) {
        return;
    }
    Group *g = NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(p->open) && g == NULL; i++) {
        if (same_values(&p->open[i], base, by_index, a->scale)) {
            g = &p->open[i]; /* what it could not take starts a new one */
        }
    }
    if (g == NULL) {
        g = &p->open[p->next_open++ % ARRAY_SIZE(p->open)];
    }
    *g = (Group){ .number = base, .index = by_index, .scale = a->scale, .low = at, .high = at + (int64_t)a->size,
                  .base_off = by, .leader = index, .id = p->next_id++, .members = 1, .write = a->write };
    p->plan[index] = (AccessPlan){ .group = g->id, .leads = true };
    p->address[index] = p->low[g->id] = at;
}

static void place(Planner *p, unsigned index, const Access *a)
{
    int64_t at = moved(p, a) + a->disp;
    uint32_t base = p->values.reg[a->base].number, by_index = index_number(p, a);
    for (unsigned i = 0; i < ARRAY_SIZE(p->open); i++) {
        if (same_values(&p->open[i], base, by_index, a->scale) && join(p, &p->open[i], index, a, at)) {
            return;
        }
    }
    lead(p, index, a, at);
}

/* --- rcx between accesses --- */

static bool spilled(unsigned guest)
{
    return host_of_guest[guest & 15] == HOST_SPILLED;
}

/* Lowering the uop leaves rcx alone (its own access aside). */
static bool keeps_rcx(const Uop *u, bool in_group)
{
    bool has_reg = u->attr & (UA_REG_R | UA_REG_W);
    if (u->record) {
        return false;
    }
    switch (u->kind) {
    case UOP_NOP:
    case UOP_BYTES:
        return true;
    case UOP_JCC:
        return !(u->attr & UA_BACKWARD);
    case UOP_MOVI:
        return !spilled(u->reg);
    case UOP_LEA:
        return !(u->index < 16 && spilled(u->index));
    case UOP_PUSH:
    case UOP_POP:
        return in_group;
    case UOP_VEC:
        return u->attr & UA_MEM ? in_group : (u->attr & UA_REG_XMM) && !(u->attr & (UA_RM_R | UA_RM_W));
    case UOP_OP:
        if (u->attr & (UA_REG_HIGH | UA_RM_HIGH)) {
            return false;
        }
        return u->attr & UA_MEM ? in_group : !(has_reg && spilled(u->reg));
    default:
        return false;
    }
}

/* Lowering uses rcx before the access: PUSHF asks for the flags, the first instruction of a unit looks whether it is live. */
static bool loses_rcx_first(const Uop *u, uint32_t *units)
{
    uint32_t unit = u->attr & (UA_XMM | UA_X87) & ~*units;
    *units |= unit;
    return unit != 0 || u->kind == UOP_PUSHF;
}

/* No index, and a base that is in a host register and has no need to be truncated. */
static bool is_direct(const Planner *p, const Uop *u)
{
    bool stack = !(u->attr & UA_MEM);
    return p->values.full == 8 && (stack || (u->index == UOP_NO_REG && !spilled(u->base)));
}

/* Groups of one are none; the others learn where they lie and whether rcx still says so. */
static void finish(Planner *p, const uint8_t members[])
{
    uint8_t leader[GROUPS_MAX + 1] = { 0 };
    unsigned in_rcx = 0, most = 0;
    for (unsigned g = 1; g <= GROUPS_MAX; g++) {
        most = MAX(most, members[g]);
    }
    if (most < 2) {
        memset(p->plan, 0, p->count * sizeof(p->plan[0]));
        return;
    }
    uint32_t units = 0;
    for (unsigned i = 0; i < p->count; i++) {
        AccessPlan *plan = &p->plan[i];
        unsigned g = plan->group;
        if (g != 0 && members[g] < 2) {
            *plan = (AccessPlan){ 0 };
            g = 0;
        }
        bool lost = loses_rcx_first(&p->uops[i], &units);
        if (g != 0) {
            if (plan->leads) {
                leader[g] = i;
                plan->direct = true;
            }
            p->plan[leader[g]].direct &= is_direct(p, &p->uops[i]);
            plan->at = (int16_t)(p->address[i] - p->low[g]);
            plan->loaded = in_rcx == g && !lost;
            p->plan[leader[g]].keep |= !plan->leads && !plan->loaded;
            in_rcx = g;
        }
        if ((lost && g == 0) || !keeps_rcx(&p->uops[i], g != 0)) {
            in_rcx = 0;
        }
    }
}

/* Most blocks are short: without two accesses there is no group. */
static bool few_accesses(const Uop *uops, unsigned count)
{
    unsigned accesses = 0;
    for (unsigned i = 0; i < count && accesses < 2; i++) {
        const Uop *u = &uops[i];
        accesses += ((u->attr & UA_MEM) && u->kind != UOP_LEA) || u->kind == UOP_PUSH || u->kind == UOP_POP ||
                    u->kind == UOP_PUSHF || u->kind == UOP_CALL || u->kind == UOP_CALL_REG || u->kind == UOP_RET;
    }
    return accesses < 2;
}

void groups_plan(const Uop *uops, unsigned count, bool mode64, bool keeps_flags, bool promotes, AccessPlan *ret_plan)
{
    memset(ret_plan, 0, count * sizeof(*ret_plan));
    if (few_accesses(uops, count)) {
        return;
    }
    Planner p = { .keeps_flags = keeps_flags, .promotes = promotes, .uops = uops, .count = count, .plan = ret_plan, .next_id = 1 };
    uint8_t members[GROUPS_MAX + 1] = { 0 };
    int64_t address[GROUPS_MAX_UOPS];
    assert(count <= GROUPS_MAX_UOPS);
    p.address = address;
    values_start(&p.values, 1, mode64 ? 8 : 4);
    for (unsigned i = 0; i < count; i++) {
        const Uop *u = &uops[i];
        Access a;
        if (u->kind == UOP_INTERP || u->kind == UOP_FLAG_IF || u->kind == UOP_FLDCW || u->kind == UOP_LDMXCSR) {
            close_groups(&p); /* anything may happen there */
        } else if (access_of(&p, u, &a)) {
            place(&p, i, &a);
            members[ret_plan[i].group]++;
        }
        if (i + 1 < count) { /* nobody asks behind the end, where a call or jump leaves nothing known */
            values_after(&p.values, u);
        }
    }
    finish(&p, members);
}
