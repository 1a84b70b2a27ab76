/* Branches and the stack as uops: what the opcode maps of integer.c have in common. See front_priv.h. */
#include "dbt/front/x86/front_priv.h"

/* --- branches --- */

static uint64_t branch_target(Front *f)
{
    uint64_t target = f->next + (uint64_t)f->insn->imm;
    if (front_mode64(f)) {
        return target;
    }
    return f->insn->osize == 2 ? (uint16_t)target : (uint32_t)target;
}

bool front_jump_size_ok(Front *f)
{
    return front_mode64(f) || f->insn->osize == 4;
}

bool front_branch(Front *f, UopKind kind)
{
    if (!front_jump_size_ok(f)) {
        return false;
    }
    f->u->kind = kind;
    f->u->imm = branch_target(f);
    f->u->cond = f->insn->cond;
    f->u->size = front_mode64(f) ? 8 : 4;
    if (f->u->imm < f->next) {
        f->u->attr |= UA_BACKWARD;
    }
    return true;
}

bool front_indirect(Front *f, UopKind memory, UopKind reg)
{
    Uop *u = f->u;
    if (!front_jump_size_ok(f)) {
        return false;
    }
    u->size = front_mode64(f) ? 8 : 4;
    u->imm = f->next;
    const X86Operand *o = &f->insn->operand[0];
    if (o->kind == OPND_MEM) {
        u->kind = memory;
        u->mem_size = u->size;
        u->attr |= UA_RM_R;
        return front_put_mem(f);
    }
    u->kind = reg;
    u->reg = o->reg;
    u->attr |= UA_REG_R;
    return reg != UOP_CALL_REG || o->reg != X86_RSP;
}

/* --- stack --- */

bool front_stack_size_ok(Front *f)
{
    f->u->size = f->u->mem_size = f->insn->osize;
    return f->insn->osize == (front_mode64(f) ? 8 : 4);
}

bool front_push_reg(Front *f, unsigned reg)
{
    f->u->kind = UOP_PUSH;
    f->u->reg = reg;
    f->u->attr |= UA_REG_R;
    return front_stack_size_ok(f);
}

bool front_pop_reg(Front *f, unsigned reg)
{
    f->u->kind = UOP_POP;
    f->u->reg = reg;
    f->u->attr |= UA_REG_W;
    return front_stack_size_ok(f);
}
