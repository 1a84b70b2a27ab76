/* See values.h. */
#include "dbt/back/x86_64/values.h"

#include "dbt/back/x86_64/encode.h"

enum { GUEST_RAX = 0, GUEST_RCX = 1, GUEST_RDX = 2, GUEST_RSP = 4, GUEST_RBP = 5 };

void values_fresh(Values *v, unsigned reg)
{
    v->reg[reg] = (Value){ v->next++, 0 };
}

void values_fresh_all(Values *v)
{
    for (unsigned r = 0; r < 16; r++) {
        v->reg[r] = (Value){ v->next + r, 0 };
    }
    v->next += 16;
}

void values_start(Values *v, uint32_t first, unsigned full)
{
    v->next = first;
    v->full = full;
    values_fresh_all(v);
}

static int64_t sign_extended(const Uop *u)
{
    unsigned bits = 64 - 8 * u->imm_size;
    return (int64_t)(u->imm << bits) >> bits;
}

/* reg = reg + constant, reg = other + constant: true when it was one of these. */
static bool derives(Values *v, const Uop *u)
{
    uint8_t code = (uint8_t)u->code;
    if (u->size != v->full || (u->attr & UA_MEM && u->kind != UOP_LEA)) {
        return false;
    }
    if (u->kind == UOP_LEA) {
        if (u->base >= 16 || u->index < 16 || u->asize != v->full) {
            return false;
        }
        v->reg[u->reg] = (Value){ v->reg[u->base].number, v->reg[u->base].offset + u->disp };
        return true;
    }
    if (u->kind != UOP_OP || (u->code & E_MAP)) {
        return false;
    }
    bool has_reg = u->attr & (UA_REG_R | UA_REG_W);
    if (!has_reg && (code == 0x81 || code == 0x83) && (u->reg == 0 || u->reg == 5)) {
        int64_t by = sign_extended(u);
        v->reg[u->rm].offset += u->reg == 0 ? by : -by;
        return true;
    }
    if (!has_reg && code == 0xff && u->reg < 2) { /* INC, DEC */
        v->reg[u->rm].offset += u->reg == 0 ? 1 : -1;
        return true;
    }
    if (has_reg && (code == 0x89 || code == 0x8b)) {
        unsigned to = code == 0x89 ? u->rm : u->reg, from = code == 0x89 ? u->reg : u->rm;
        v->reg[to] = v->reg[from];
        return true;
    }
    return false;
}

/* UOP_BYTES on rax: CMP and TEST leave it, so do fences and what sets CF. False: rax and rdx are unknown. */
static bool derives_rax(Values *v, const Uop *u)
{
    switch (u->code) {
    case 0:    /* fences */
    case 0x3c:
    case 0x3d: /* CMP */
    case 0xa8:
    case 0xa9: /* TEST */
    case 0x9e: /* SAHF */
    case 0xf5:
    case 0xf8:
    case 0xf9: /* CMC, CLC, STC */
        return true;
    case 0x05: /* ADD, SUB */
    case 0x2d:
        v->reg[GUEST_RAX].offset += u->code == 0x05 ? u->disp : -u->disp;
        return u->size == v->full;
    default:
        return false;
    }
}

static bool writes_rax_rdx(const Uop *u)
{
    uint8_t code = (uint8_t)u->code;
    switch (u->kind) {
    case UOP_BYTES:
    case UOP_CMPXCHG_PAIR:
    case UOP_RDTSC:
    case UOP_X87: /* FNSTSW AX */
        return true;
    case UOP_OP: /* MUL, IMUL, DIV, IDIV; CMPXCHG */
        return (!(u->code & E_MAP) && (code & 0xfe) == 0xf6 && u->reg >= 4) ||
               ((u->code & E_MAP) == E_0F && (code & 0xfe) == 0xb0);
    default:
        return false;
    }
}

void values_after(Values *v, const Uop *u)
{
    switch (u->kind) {
    case UOP_PUSH:
    case UOP_PUSH_MEM:
    case UOP_PUSHF:
        v->reg[GUEST_RSP].offset -= u->size;
        return;
    case UOP_POP:
        v->reg[GUEST_RSP].offset += u->size;
        values_fresh(v, u->reg);
        return;
    case UOP_LEAVE:
        v->reg[GUEST_RSP] = (Value){ v->reg[GUEST_RBP].number, v->reg[GUEST_RBP].offset + u->size };
        values_fresh(v, GUEST_RBP);
        return;
    case UOP_NOP:
    case UOP_PAUSE:
    case UOP_JCC:
        return;
    case UOP_OP:
    case UOP_MOVI:
    case UOP_LEA:
    case UOP_BYTES:
    case UOP_BSWAP:
    case UOP_SHIFT_CL:
    case UOP_CMPXCHG_PAIR:
    case UOP_VEC:
    case UOP_X87:
    case UOP_BMI:
    case UOP_RDTSC:
    case UOP_READ_SEL:
        break;
    default:
        values_fresh_all(v);
        return;
    }
    if (u->kind == UOP_BYTES ? derives_rax(v, u) : derives(v, u)) {
        return;
    }
    if (writes_rax_rdx(u)) {
        values_fresh(v, GUEST_RAX);
        values_fresh(v, GUEST_RDX);
    }
    if (u->kind == UOP_RDTSC) {
        values_fresh(v, GUEST_RCX);
    }
    if ((u->attr & UA_REG_W) || u->kind == UOP_MOVI || u->kind == UOP_BMI) {
        values_fresh(v, u->reg & 15);
    }
    if (u->kind == UOP_BMI) {
        values_fresh(v, u->vex_v & 15);
    }
    if ((u->attr & UA_RM_W) && !(u->attr & UA_MEM)) {
        values_fresh(v, u->rm & 15);
    }
}

bool values_access(const Uop *u, Access *ret)
{
    if (u->kind == UOP_PUSHF && (u->live_in & FL_ALL)) {
        return false; /* the interpreter's */
    }
    switch (u->kind) {
    case UOP_PUSH:
    case UOP_PUSHF:
    case UOP_CALL:
    case UOP_CALL_REG:
        *ret = (Access){ .base = GUEST_RSP, .index = UOP_NO_REG, .size = u->size, .disp = -(int64_t)u->size, .write = true };
        return true;
    case UOP_POP:
    case UOP_RET:
        *ret = (Access){ .base = GUEST_RSP, .index = UOP_NO_REG, .size = u->size };
        return true;
    case UOP_OP:
    case UOP_SHIFT_CL:
    case UOP_BMI:
        break;
    case UOP_VEC: /* MMX stores have a rule of their own */
        if ((u->attr & UA_X87) && (u->attr & UA_RM_W)) {
            return false;
        }
        break;
    default:
        return false;
    }
    if (!(u->attr & UA_MEM) || u->seg != 0 || u->mem_size == 0 || u->mem_size > 32) {
        return false;
    }
    *ret = (Access){ .base = u->base, .index = u->index, .scale = u->scale, .size = u->mem_size, .disp = u->disp,
                     .write = (u->attr & UA_RM_W) != 0 || u->kind == UOP_SHIFT_CL };
    return true;
}
