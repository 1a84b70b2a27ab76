/*
 * Control transfers: near and far jumps, calls, returns, loops, interrupts, IRET.
 * Intel SDM volume 2. Segment changes are in seg*.c.
 */
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"

static void branch(X86Cpu *cpu, const X86Insn *insn)
{
    x86_jump(cpu, cpu->next_rip + (uint64_t)insn->imm, insn->osize);
}

void x86_op_jmp(X86Cpu *cpu, const X86Insn *insn)
{
    branch(cpu, insn);
}

void x86_op_jcc(X86Cpu *cpu, const X86Insn *insn)
{
    if (condition(cpu, insn->cond)) {
        branch(cpu, insn);
    }
}

void x86_op_jmp_ind(X86Cpu *cpu, const X86Insn *insn)
{
    x86_jump(cpu, x86_operand_get(cpu, insn, 0), insn->osize);
}

/* A bad target is found when the return address is already written, but rsp has not moved: as on
 * hosts. */
static void call(X86Cpu *cpu, const X86Insn *insn, uint64_t target)
{
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP], to = *rsp;
    x86_push_at(cpu, &to, cpu->next_rip, insn->osize);
    x86_jump(cpu, target, insn->osize);
    *rsp = to;
}

void x86_op_call(X86Cpu *cpu, const X86Insn *insn)
{
    call(cpu, insn, cpu->next_rip + (uint64_t)insn->imm);
}

void x86_op_call_ind(X86Cpu *cpu, const X86Insn *insn)
{
    call(cpu, insn, x86_operand_get(cpu, insn, 0));
}

void x86_op_ret(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP], to = *rsp, mask = x86_stack_mask(cpu);
    uint64_t target = x86_pop_at(cpu, &to, insn->osize);
    if (insn->operands != 0) {
        to = (to & ~mask) | ((to + (uint16_t)insn->imm) & mask);
    }
    x86_jump(cpu, target, insn->osize);
    *rsp = to;
}

/* --- loops --- */

static void loop(X86Cpu *cpu, const X86Insn *insn, bool condition)
{
    uint64_t left = (x86_gpr(cpu)[X86_RCX] - 1) & size_mask(insn->asize);
    if (left != 0 && condition) {
        branch(cpu, insn);
    }
    gpr_write(cpu, X86_RCX, left, insn->asize);
}

void x86_op_loop(X86Cpu *cpu, const X86Insn *insn)
{
    loop(cpu, insn, true);
}

void x86_op_loope(X86Cpu *cpu, const X86Insn *insn)
{
    loop(cpu, insn, x86_hot(cpu)->rflags & X86_ZF);
}

void x86_op_loopne(X86Cpu *cpu, const X86Insn *insn)
{
    loop(cpu, insn, !(x86_hot(cpu)->rflags & X86_ZF));
}

void x86_op_jcxz(X86Cpu *cpu, const X86Insn *insn)
{
    if (gpr_read(cpu, X86_RCX, insn->asize) == 0) {
        branch(cpu, insn);
    }
}

/* --- far transfers --- */

static void far_pointer(X86Cpu *cpu, const X86Insn *insn, uint16_t *ret_selector,
                        uint64_t *ret_offset)
{
    unsigned size = insn->osize;
    if (insn->operand[0].kind == OPND_IMM) {
        *ret_offset = (uint64_t)insn->imm & size_mask(size);
        *ret_selector = (uint16_t)insn->imm2;
        return;
    }
    uint64_t va = x86_ea(cpu, insn, size, false); /* alignment is that of the offset */
    uint64_t behind = x86_linear(cpu, insn->seg, x86_ea_offset(cpu, insn) + size, 2, false);
    *ret_offset = x86_load(cpu, va, size);
    *ret_selector = (uint16_t)x86_load(cpu, behind, 2);
}

void x86_op_jmp_far(X86Cpu *cpu, const X86Insn *insn)
{
    uint16_t selector;
    uint64_t offset;
    far_pointer(cpu, insn, &selector, &offset);
    x86_far_jmp(cpu, selector, offset, insn->osize, cpu->next_rip);
    x86_set_rip(cpu);
}

void x86_op_call_far(X86Cpu *cpu, const X86Insn *insn)
{
    uint16_t selector;
    uint64_t offset;
    far_pointer(cpu, insn, &selector, &offset);
    x86_far_call(cpu, selector, offset, insn->osize, cpu->next_rip);
    x86_set_rip(cpu);
}

void x86_op_retf(X86Cpu *cpu, const X86Insn *insn)
{
    x86_far_ret(cpu, insn->osize, insn->operands != 0 ? (uint16_t)insn->imm : 0);
    x86_set_rip(cpu);
}

void x86_op_iret(X86Cpu *cpu, const X86Insn *insn)
{
    x86_iret(cpu, insn->osize);
    x86_set_rip(cpu);
    x86_release_requests(cpu);
}

/* --- interrupts by instruction --- */

void x86_op_int(X86Cpu *cpu, const X86Insn *insn)
{
    x86_raise_soft(cpu, (uint8_t)insn->imm, cpu->next_rip);
}

void x86_op_int3(X86Cpu *cpu, const X86Insn *insn)
{
    x86_raise_soft(cpu, EXC_BP, cpu->next_rip);
}

void x86_op_into(X86Cpu *cpu, const X86Insn *insn)
{
    if (x86_hot(cpu)->rflags & X86_OF) {
        x86_raise_soft(cpu, EXC_OF, cpu->next_rip);
    }
}

/* A trap: the handler returns behind the instruction, and no privilege is checked. */
void x86_op_icebp(X86Cpu *cpu, const X86Insn *insn)
{
    x86_hot(cpu)->rip = cpu->next_rip;
    x86_raise_debug(cpu, 0);
}
