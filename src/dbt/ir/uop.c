/* Micro-operations: their table, flag liveness, verifier and text form. See uop.h. */
#include <inttypes.h>

#include "dbt/ir/uop.h"

enum { HAS_REG = 1, HAS_IMM = 2, SIDE = 4, TARGET = 8, STACK = 16, MEM = 32, INDIRECT = 64, CODE = 128 };

static const struct {
    const char *name;
    uint8_t traits;
} table[UOP_KINDS] = {
    [UOP_NOP] = { "nop", 0 },
    [UOP_OP] = { "op", HAS_REG | CODE },
    [UOP_MOVI] = { "movi", HAS_REG | HAS_IMM },
    [UOP_LEA] = { "lea", HAS_REG | MEM },
    [UOP_BYTES] = { "bytes", HAS_IMM },
    [UOP_BSWAP] = { "bswap", HAS_REG },
    [UOP_SHIFT_CL] = { "shift_cl", HAS_REG | CODE },
    [UOP_CMPXCHG_PAIR] = { "cmpxchg_pair", MEM | CODE },
    [UOP_BIT_MEM] = { "bit_mem", HAS_REG | MEM | CODE },
    [UOP_PUSH] = { "push", HAS_REG | STACK },
    [UOP_PUSH_MEM] = { "push_mem", MEM | STACK },
    [UOP_POP] = { "pop", HAS_REG | STACK },
    [UOP_LEAVE] = { "leave", STACK },
    [UOP_VEC] = { "vec", HAS_REG | CODE },
    [UOP_X87] = { "x87", CODE },
    [UOP_FLDCW] = { "fldcw", MEM },
    [UOP_LDMXCSR] = { "ldmxcsr", MEM },
    [UOP_BMI] = { "bmi", HAS_REG | CODE },
    [UOP_FLAG_IF] = { "flag_if", HAS_IMM },
    [UOP_FLAG_DF] = { "flag_df", HAS_IMM },
    [UOP_STRING] = { "string", HAS_IMM },
    [UOP_PUSHF] = { "pushf", STACK },
    [UOP_RDTSC] = { "rdtsc", HAS_IMM },
    [UOP_PAUSE] = { "pause", 0 },
    [UOP_READ_SEL] = { "read_sel", HAS_REG | HAS_IMM },
    [UOP_INTERP] = { "interp", 0 },
    [UOP_JCC] = { "jcc", TARGET | SIDE },
    [UOP_JCXZ] = { "jcxz", TARGET | SIDE },
    [UOP_JMP] = { "jmp", TARGET },
    [UOP_CALL] = { "call", TARGET | STACK },
    [UOP_RET] = { "ret", STACK | INDIRECT },
    [UOP_JMP_REG] = { "jmp_reg", HAS_REG | INDIRECT },
    [UOP_JMP_MEM] = { "jmp_mem", MEM | INDIRECT },
    [UOP_CALL_REG] = { "call_reg", HAS_REG | STACK | INDIRECT },
    [UOP_CALL_MEM] = { "call_mem", MEM | STACK | INDIRECT },
    [UOP_INTERP_END] = { "interp_end", 0 },
};

static bool touches_memory(const Uop *u)
{
    return u->kind != UOP_LEA && ((u->attr & UA_MEM) || (table[u->kind].traits & STACK));
}

bool uop_clobbers(const Uop *u)
{
    return touches_memory(u) || (table[u->kind].traits & INDIRECT) || u->kind == UOP_FLAG_IF || u->kind == UOP_FLAG_DF ||
           u->kind == UOP_STRING || u->kind == UOP_RDTSC || u->kind == UOP_VEC || u->kind == UOP_X87;
}

typedef struct Pending { /* exits whose targets have not been asked about yet: flags are intact so far */
    unsigned at[64], count;
    uint8_t groups; /* that they may need and that nobody else keeps alive */
} Pending;

static void pending_add(Pending *p, unsigned at, uint8_t *live)
{
    if (p->count == ARRAY_SIZE(p->at)) {
        *live |= FL_ALL;
        p->groups = 0;
        return;
    }
    p->groups |= FL_ALL & ~*live;
    if (p->groups != 0) {
        p->at[p->count++] = at;
    }
}

/* Flags will not stay intact up to the pending exits: what do their targets need? Returns what is live. */
static uint8_t pending_ask(Pending *p, Uop *uops, UopExitLive *exit_live, void *opaque)
{
    uint8_t live = 0;
    for (unsigned k = 0; k < p->count; k++) {
        Uop *exit = &uops[p->at[k]];
        exit->exit_live = exit_live(opaque, exit, exit->imm);
        live |= exit->exit_live;
    }
    *p = (Pending){ 0 };
    return live;
}

/* Before the uop, EFLAGS are not what they are at the exits. */
static bool breaks_pending(const Uop *u)
{
    return uop_clobbers(u) || u->writes != 0 || u->kind == UOP_INTERP;
}

static bool ends_in_record(const Uop *u)
{
    return (table[u->kind].traits & INDIRECT) || u->kind == UOP_INTERP_END;
}

/* What is live before the uop, from what is live behind it. */
static uint8_t live_before(Uop *u, uint8_t live)
{
    if (u->kind == UOP_INTERP || u->kind == UOP_INTERP_END) { /* reads the record, and makes it anew itself */
        return (live & (u->defs == FL_ALL ? 0 : FL_ALL | FL_RECORD) & ~u->defs) | (u->uses ? FL_RECORD : 0);
    }
    if (u->kind == UOP_PUSHF) {
        return live | FL_RECORD;
    }
    u->record = (live & FL_RECORD) && u->writes != 0;
    if (u->record) {
        live = (live & ~FL_RECORD) | FL_ALL; /* all groups are recorded, those it leaves alone too */
    }
    return (live & ~u->defs) | u->uses;
}

uint8_t uop_liveness(Uop *uops, unsigned count, UopExitLive *exit_live, void *opaque)
{
    uint8_t live = FL_RECORD;
    Pending pending = { 0 };
    for (unsigned i = count; i-- > 0;) {
        Uop *u = &uops[i];
        u->exit_live = FL_ALL;
        if (ends_in_record(u)) {
            live = FL_RECORD;
        } else if (table[u->kind].traits & TARGET) {
            if (uop_ends_block(u)) {
                live = 0;
            }
            if (u->attr & UA_INSIDE) {
                u->exit_live = exit_live(opaque, u, u->imm);
                live |= u->exit_live;
            } else if (!(u->attr & UA_BACKWARD) || (exit_live(opaque, u, u->imm) != 0)) {
                pending_add(&pending, i, &live);
            } else {
                u->exit_live = 0;
            }
        }
        if ((pending.groups & ~u->defs) && (i == 0 || breaks_pending(u))) {
            live |= pending_ask(&pending, uops, exit_live, opaque);
        }
        live = live_before(u, live);
        pending.groups &= ~(u->defs | live);
        if (pending.groups == 0) {
            pending.count = 0;
        }
        u->live_in = live | pending.groups;
    }
    return count == 0 ? FL_RECORD : uops[0].live_in;
}

typedef struct Region {
    UopExitLive *exit_live;
    void *opaque;
    uint8_t live[UOP_MAX_PARTS]; /* at the head of each part */
} Region;

static uint8_t region_exit_live(void *opaque, const Uop *u, uint64_t target)
{
    Region *r = opaque;
    return u->attr & UA_INSIDE ? r->live[u->part] : r->exit_live(r->opaque, u, target);
}

/* Back edges need what is live at the head, which is known in the end: it only grows from turn to turn. */
uint8_t uop_region_liveness(Uop *uops, const UopPart *parts, unsigned part_count, UopExitLive *exit_live, void *opaque)
{
    Region r = { .exit_live = exit_live, .opaque = opaque };
    uint8_t head;
    do {
        head = r.live[0];
        for (unsigned n = part_count; n-- > 0;) {
            uint8_t live = uop_liveness(uops + parts[n].first, parts[n].count, region_exit_live, &r);
            r.live[n] = n == 0 ? live | head : live;
        }
    } while (r.live[0] != head);
    return head;
}

const char *uop_verify(const Uop *uops, unsigned count)
{
    if (count == 0) {
        return "empty block";
    }
    for (unsigned i = 0; i < count; i++) {
        const Uop *u = &uops[i];
        if (u->kind >= UOP_KINDS) {
            return "unknown kind";
        }
        if (uop_ends_block(u) != (i == count - 1)) {
            return "a block has one end, its last uop";
        }
        if ((table[u->kind].traits & MEM) && !(u->attr & UA_MEM)) {
            return "memory operand missing";
        }
        if ((table[u->kind].traits & CODE) && u->code == 0 && u->kind != UOP_OP) {
            return "opcode missing";
        }
        if ((u->attr & UA_MEM) && u->kind != UOP_LEA && u->mem_size == 0) {
            return "access without size";
        }
        if ((u->attr & (UA_REG_R | UA_REG_W)) && u->reg > 15) {
            return "register out of range";
        }
        if (i > 0 && u->insn < uops[i - 1].insn) {
            return "instructions out of order";
        }
    }
    return NULL;
}

static const char *const reg_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static void text_mem(GString *s, const Uop *u)
{
    static const char *const segs[] = { "", "fs:", "gs:" };
    g_string_append_printf(s, " %s[", segs[u->seg % 3]);
    if (u->base < 16) {
        g_string_append_printf(s, "%s+", reg_names[u->base]);
    }
    if (u->index < 16) {
        g_string_append_printf(s, "%s*%d+", reg_names[u->index], 1 << u->scale);
    }
    g_string_append_printf(s, "0x%" PRIx64 "].%u", (uint64_t)u->disp, u->mem_size);
}

static void text_uop(GString *s, const Uop *u)
{
    static const char *const groups[] = { "-", "c", "o", "co", "r", "cr", "or", "cor" };
    uint8_t traits = table[u->kind].traits;
    g_string_append_printf(s, "%2u %s.%u", u->insn, table[u->kind].name, u->size);
    if (traits & CODE) {
        g_string_append_printf(s, " %x", u->code);
    }
    if (u->attr & (UA_REG_R | UA_REG_W)) {
        g_string_append_printf(s, " %s%s", u->attr & UA_REG_XMM ? "x" : "", reg_names[u->reg & 15]);
    } else if (traits & CODE) {
        g_string_append_printf(s, " /%u", u->reg);
    }
    if (u->attr & UA_MEM) {
        text_mem(s, u);
    } else if (u->attr & (UA_RM_R | UA_RM_W)) {
        g_string_append_printf(s, " %s%s", u->attr & UA_RM_XMM ? "x" : "", reg_names[u->rm & 15]);
    }
    if (u->imm_size || (traits & (HAS_IMM | TARGET))) {
        g_string_append_printf(s, " 0x%" PRIx64, u->imm);
    }
    if (u->kind == UOP_JCC) {
        g_string_append_printf(s, " cc%u", u->cond);
    }
    g_string_append_printf(s, " use=%s def=%s live=%s%s\n", groups[u->uses & 3], groups[u->defs & 3],
                           groups[u->live_in & 7], u->record ? " record" : "");
}

char *uop_text(const Uop *uops, unsigned count)
{
    GString *s = g_string_new(NULL);
    for (unsigned i = 0; i < count; i++) {
        text_uop(s, &uops[i]);
    }
    return g_string_free(s, FALSE);
}
