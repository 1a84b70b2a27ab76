/*
 * Stack instructions. The stack pointer moves only after the last access that may fault.
 * Intel SDM volume 2; virtual-8086 and PVI rules of PUSHF, POPF: volume 3, 20.2 and 20.4.
 */
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/sys.h"

void x86_op_push(X86Cpu *cpu, const X86Insn *insn)
{
    const X86Operand *o = &insn->operand[0];
    unsigned size = insn->osize;
    if (o->kind != OPND_SEG) {
        x86_push(cpu, operand_read(cpu, insn, 0, size), size);
        return;
    }
    /* A selector is written as two bytes; the slot's upper part stays, but must be there. */
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP], mask = x86_stack_mask(cpu), to = (*rsp - size) & mask;
    unsigned width = size == 8 ? 8 : 2;
    uint64_t va = x86_linear(cpu, X86_SS, to, width, true);
    x86_linear(cpu, X86_SS, to + size - 1, 1, true);
    x86_store(cpu, va, cpu->seg[o->reg].sel, width);
    *rsp = (*rsp & ~mask) | to;
}

/* The address of a memory operand is formed with the stack pointer as it is after the pop. */
void x86_op_pop(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize;
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP], old = *rsp, to = old;
    uint64_t value = x86_pop_at(cpu, &to, size);
    if (insn->operand[0].kind == OPND_REG) {
        *rsp = to;
        reg_write(cpu, &insn->operand[0], value, size);
        return;
    }
    uint64_t offset;
    *rsp = to;
    offset = x86_ea_offset(cpu, insn);
    *rsp = old;
    x86_store(cpu, x86_linear(cpu, insn->seg, offset, size, true), value, size);
    *rsp = to;
}

void x86_op_pop_seg(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned seg = insn->operand[0].reg;
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP], to = *rsp, mask = x86_stack_mask(cpu);
    uint16_t selector =
        (uint16_t)x86_load(cpu, x86_linear(cpu, X86_SS, to & mask, insn->osize, false), 2);
    to = (to & ~mask) | ((to + insn->osize) & mask);
    x86_load_seg(cpu, seg, selector);
    *rsp = to; /* the width of the old stack, as its bits say */
    if (seg == X86_SS) {
        cpu->int_shadow = 1;
    }
    cpu->interp_stop = true;
}

void x86_op_pusha(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize;
    uint64_t *gpr = x86_gpr(cpu), to = gpr[X86_RSP];
    /* One after the other: a fault leaves those before it written, as in the processor. */
    for (unsigned reg = X86_RAX; reg <= X86_RDI; reg++) {
        x86_push_at(cpu, &to, gpr[reg], size);
    }
    gpr[X86_RSP] = to;
}

void x86_op_popa(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize;
    uint64_t *gpr = x86_gpr(cpu), to = gpr[X86_RSP];
    /* One after the other: a fault leaves those before it loaded, as in the processor. */
    for (int reg = X86_RDI; reg >= X86_RAX; reg--) {
        uint64_t value = x86_pop_at(cpu, &to, size);
        if (reg != X86_RSP) {
            gpr_write(cpu, (unsigned)reg, value, size);
        }
    }
    gpr[X86_RSP] = to;
}

/* V86 with IOPL below 3 and CR4.VME shows the virtual interrupt flag instead. */
void x86_op_pushf(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t flags = x86_hot(cpu)->rflags & ~(uint64_t)(X86_VM | X86_RF);
    if (x86_hot(cpu)->mode & X86_MODE_VM86 && iopl(cpu) < 3) {
        if (!(cpu->cr4 & CR4_VME) || insn->osize != 2) {
            x86_gp(cpu, 0);
        }
        flags = (flags & ~(uint64_t)X86_IF) | X86_IOPL | (flags & X86_VIF ? X86_IF : 0);
    }
    x86_push(cpu, flags, insn->osize);
}

/* POPF in V86 with CR4.VME and IOPL below 3: IF goes to VIF. */
static void popf_vme(X86Cpu *cpu, uint64_t value)
{
    X86Hot *hot = x86_hot(cpu);
    if (value & X86_TF || (value & X86_IF && hot->rflags & X86_VIP)) {
        x86_gp(cpu, 0);
    }
    uint64_t mask = X86_ARITH | X86_DF | X86_NT;
    hot->rflags = (hot->rflags & ~(mask | X86_VIF | X86_RF)) | (value & mask) |
                  (value & X86_IF ? X86_VIF : 0);
}

void x86_op_popf(X86Cpu *cpu, const X86Insn *insn)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP], to = *rsp;
    bool vm86 = hot->mode & X86_MODE_VM86;
    uint64_t value = x86_pop_at(cpu, &to, insn->osize);
    if (vm86 && iopl(cpu) < 3) {
        if (!(cpu->cr4 & CR4_VME) || insn->osize != 2) {
            x86_gp(cpu, 0);
        }
        popf_vme(cpu, value);
    } else {
        uint64_t mask = X86_ARITH | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID;
        if (cpu->cpl == 0 && !vm86) {
            mask |= X86_IOPL;
        }
        if (cpu->cpl <= iopl(cpu)) {
            mask |= X86_IF;
        }
        mask &= insn->osize == 2 ? 0xffff : 0xffffffff;
        hot->rflags = (hot->rflags & ~(mask | X86_RF)) | (value & mask);
    }
    *rsp = to;
    cpu->interp_stop = true;
    x86_mode_changed(cpu);
    if (hot->rflags & X86_IF) {
        x86_release_requests(cpu);
    }
}

void x86_op_enter(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize, level = insn->imm2 & 31;
    uint64_t *gpr = x86_gpr(cpu), mask = x86_stack_mask(cpu), to = gpr[X86_RSP], bp = gpr[X86_RBP];
    x86_push_at(cpu, &to, bp, size);
    uint64_t frame = to;
    if (level != 0) {
        for (unsigned i = 1; i < level; i++) {
            bp = (bp & ~mask) | ((bp - size) & mask);
            uint64_t value = x86_load(cpu, x86_linear(cpu, X86_SS, bp & mask, size, false), size);
            x86_push_at(cpu, &to, value, size);
        }
        x86_push_at(cpu, &to, frame, size);
    }
    to = (to & ~mask) | ((to - (uint16_t)insn->imm) & mask);
    /* The new top must be writable, though nothing is written there. */
    x86_check(cpu, x86_linear(cpu, X86_SS, to & mask, size, true), size, X86_WRITE, X86_AS_CPL);
    gpr_write(cpu, X86_RBP, frame, size);
    gpr[X86_RSP] = to;
}

void x86_op_leave(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t *gpr = x86_gpr(cpu), mask = x86_stack_mask(cpu);
    uint64_t to = (gpr[X86_RSP] & ~mask) | (gpr[X86_RBP] & mask);
    uint64_t value = x86_pop_at(cpu, &to, insn->osize);
    gpr[X86_RSP] = to;
    gpr_write(cpu, X86_RBP, value, insn->osize);
}
