/*
 * Finds the innermost loop that begins at an address: basic blocks of one page that are reached from there and lead back.
 *
 * First all targets of branches are collected, as far as they go; they cut the code into pieces. A walk in depth then
 * orders the pieces so that each comes behind those that lead to it, the way back to the head aside, which is always
 * a backward branch: code before the head belongs to a loop around this one. What does not lead back is outside, a
 * branch to it leaves the region. A second cycle is left where it closes; when it is hot itself it is an inner loop,
 * and this one no innermost.
 */
#include "dbt/front/x86/front_priv.h"

enum { MAX_PIECES = 48, MAX_DISTANCE = 1024, OUTSIDE = 0xff };

typedef struct Piece {
    int start, end;     /* from the head */
    uint8_t next[2];    /* pieces: the branch's target, and what follows; OUTSIDE */
    bool seen, done, good;
    bool cycle;         /* something leads back to it */
} Piece;

typedef struct Loop {
    FrontBlock *b;
    Piece piece[MAX_PIECES];
    unsigned count;
    uint8_t order[MAX_PIECES]; /* last first */
    unsigned ordered;
} Loop;

static uint64_t address(const FrontBlock *b, int at)
{
    return b->pc + (uint64_t)(int64_t)at;
}

static bool decode(const Loop *l, int at, X86Insn *insn)
{
    const FrontBlock *b = l->b;
    int page = (int)(b->pc & 4095);
    return at >= -MAX_DISTANCE && at < MAX_DISTANCE && at + page >= 0 && at + page < 4096 &&
           x86_decode(insn, b->bytes + at, (unsigned)(4096 - (at + page)), b->mode) == DECODE_OK;
}

/* A direct jump or conditional branch within reach; *ret_target: from the head. */
static bool is_branch(const X86Insn *insn, int at, bool *ret_always, int *ret_target)
{
    bool jcc = (insn->map == 0 && (insn->opcode & 0xf0) == 0x70) || (insn->map == 1 && (insn->opcode & 0xf0) == 0x80);
    bool jmp = insn->map == 0 && (insn->opcode == 0xe9 || insn->opcode == 0xeb);
    int64_t target = at + (int)insn->length + insn->imm;
    *ret_always = jmp;
    *ret_target = target > -MAX_DISTANCE && target < MAX_DISTANCE ? (int)target : MAX_DISTANCE;
    return jcc || jmp;
}

static unsigned piece_at(const Loop *l, int start)
{
    for (unsigned n = 0; n < l->count; n++) {
        if (l->piece[n].start == start) {
            return n;
        }
    }
    return OUTSIDE;
}

static void add_piece(Loop *l, int start)
{
    if (l->count < MAX_PIECES && start < MAX_DISTANCE && piece_at(l, start) == OUTSIDE) {
        l->piece[l->count++] = (Piece){ .start = start, .next = { OUTSIDE, OUTSIDE } };
    }
}

static void find_starts(Loop *l)
{
    for (unsigned n = 0; n < l->count; n++) {
        int at = l->piece[n].start;
        X86Insn insn;
        for (unsigned i = 0; i < FRONT_MAX_INSNS && decode(l, at, &insn); i++, at += (int)insn.length) {
            bool always;
            int target;
            if (is_branch(&insn, at, &always, &target)) {
                add_piece(l, target);
                if (!always) {
                    add_piece(l, at + (int)insn.length);
                }
                break;
            }
            if (insn.desc->props & INSN_END) {
                break;
            }
        }
    }
}

/* Where each piece ends, and what comes then. */
static void find_ends(Loop *l)
{
    for (unsigned n = 0; n < l->count; n++) {
        Piece *p = &l->piece[n];
        int at = p->start;
        X86Insn insn;
        for (unsigned i = 0; i < FRONT_MAX_INSNS && decode(l, at, &insn); i++) {
            bool always;
            int target;
            bool branch = is_branch(&insn, at, &always, &target);
            int next = at + (int)insn.length;
            if (branch) {
                p->next[0] = (uint8_t)piece_at(l, target);
            } else if (insn.desc->props & INSN_END) {
                break;
            }
            at = next;
            if (branch || piece_at(l, at) != OUTSIDE) {
                p->next[1] = branch && always ? OUTSIDE : (uint8_t)piece_at(l, at);
                break;
            }
        }
        p->end = at;
        for (unsigned k = 0; k < 2; k++) {
            p->next[k] = p->next[k] == 0 && at <= 0 ? OUTSIDE : p->next[k];
        }
    }
}

/* Pieces that lead back to the head, in post-order. */
static void walk(Loop *l, unsigned n)
{
    Piece *p = &l->piece[n];
    p->seen = true;
    for (unsigned k = 0; k < 2; k++) {
        unsigned next = p->next[k];
        if (next == OUTSIDE) {
            continue;
        }
        if (next == 0) {
            p->good = true;
        } else if (l->piece[next].seen && !l->piece[next].done) {
            l->piece[next].cycle = true;
            p->next[k] = OUTSIDE;
        } else {
            if (!l->piece[next].seen) {
                walk(l, next);
            }
            p->good |= l->piece[next].good;
        }
    }
    p->done = true;
    if (p->good) {
        l->order[l->ordered++] = (uint8_t)n;
    }
}

static bool uop_ok(const Uop *u)
{
    switch (u->kind) {
    case UOP_NOP:
    case UOP_OP:
    case UOP_MOVI:
    case UOP_LEA:
    case UOP_BYTES:
    case UOP_BSWAP:
    case UOP_SHIFT_CL:
    case UOP_BMI:
    case UOP_JCC:
    case UOP_JMP:
        return true;
    case UOP_VEC:
        return !(u->attr & UA_X87);
    default:
        return false;
    }
}

/* A branch of the piece: inside when what it leads to is good. */
static void set_way(const Loop *l, Uop *u, unsigned next, const uint8_t part_of[MAX_PIECES])
{
    if (next != OUTSIDE && l->piece[next].good) {
        u->attr |= UA_INSIDE;
        u->part = part_of[next];
    }
}

static bool translate_piece(Loop *l, const Piece *p, const uint8_t part_of[MAX_PIECES])
{
    FrontBlock *b = l->b;
    int at = p->start;
    UopPart *part = &b->parts[b->part_count++];
    part->first = (uint16_t)b->uop_count;
    bool jumps = false;
    while (at < p->end) {
        X86Insn *insn = &b->insns[b->insn_count];
        if (b->insn_count == FRONT_MAX_INSNS || !decode(l, at, insn)) {
            return false;
        }
        b->offset[b->insn_count] = (int16_t)at;
        at += (int)insn->length;
        front_add_insn(b, insn, b->insn_count, address(b, at));
        b->insn_count++;
        Uop *u = &b->uops[b->uop_count - 1];
        if (!uop_ok(u)) {
            return false;
        }
        if (u->kind == UOP_JCC || u->kind == UOP_JMP) {
            set_way(l, u, p->next[0], part_of);
            jumps = u->kind == UOP_JMP;
        }
    }
    b->low = MIN(b->low, p->start);
    b->length = (unsigned)MAX((int)b->length, p->end);
    if (!jumps) {
        Uop *u = &b->uops[b->uop_count++];
        front_reset_uop(u, b->insn_count - 1);
        u->kind = UOP_JMP;
        u->size = 8;
        u->imm = address(b, p->end);
        set_way(l, u, p->next[1], part_of);
    }
    part->count = (uint16_t)(b->uop_count - part->first);
    return true;
}

bool front_region(FrontBlock *b, FrontIsLoop *is_loop, void *opaque)
{
    Loop l = { .b = b, .count = 1, .piece = { { .next = { OUTSIDE, OUTSIDE } } } };
    if (!(b->mode & X86_MODE_CS64) || b->crossing || b->exact || b->cpu->counted) {
        return false;
    }
    find_starts(&l);
    find_ends(&l);
    walk(&l, 0);
    bool nested = false;
    for (unsigned n = 1; n < l.count; n++) {
        nested |= l.piece[n].cycle && l.piece[n].good && is_loop(opaque, address(b, l.piece[n].start));
    }
    if (!l.piece[0].good || nested || l.ordered > UOP_MAX_PARTS) {
        return false;
    }
    uint8_t part_of[MAX_PIECES];
    for (unsigned n = 0; n < l.ordered; n++) {
        part_of[l.order[l.ordered - 1 - n]] = (uint8_t)n;
    }
    b->insn_count = b->uop_count = b->length = b->ahead_count = b->part_count = 0;
    b->low = 0;
    for (unsigned n = l.ordered; n-- > 0;) {
        if (!translate_piece(&l, &l.piece[l.order[n]], part_of)) {
            return false;
        }
    }
    b->length -= (unsigned)b->low; /* b->low is not positive */
    b->flags_in = uop_region_liveness(b->uops, b->parts, b->part_count, front_exit_live, b);
    return true;
}
