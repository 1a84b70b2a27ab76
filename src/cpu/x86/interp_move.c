/*
 * Moves: MOV, MOVZX, XCHG, LEA, CMOVcc, SETcc, XLAT, and instructions without visible effect.
 */
#include "core/vm/icount.h"
#include "cpu/x86/interp_priv.h"

static ALWAYS_INLINE void move(X86Cpu *cpu, const X86Insn *insn, unsigned size)
{
    operand_write(cpu, insn, 0, operand_read(cpu, insn, 1, size), size);
}

void x86_op_mov(X86Cpu *cpu, const X86Insn *insn)
{
    switch (insn->operand[0].size) {
    case 1:
        move(cpu, insn, 1);
        break;
    case 2:
        move(cpu, insn, 2);
        break;
    case 4:
        move(cpu, insn, 4);
        break;
    default:
        move(cpu, insn, 8);
        break;
    }
}

void x86_op_movzx(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value =
        insn->operand[1].size == 1 ? operand_read(cpu, insn, 1, 1) : operand_read(cpu, insn, 1, 2);
    reg_write(cpu, &insn->operand[0], value, insn->operand[0].size);
}

void x86_op_movsx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned from = insn->operand[1].size;
    uint64_t value = sign_extend64(operand_read(cpu, insn, 1, from), 8 * from);
    reg_write(cpu, &insn->operand[0], value, insn->operand[0].size);
}

void x86_op_movsxd(X86Cpu *cpu, const X86Insn *insn)
{
    x86_op_movsx(cpu, insn);
}

void x86_op_lea(X86Cpu *cpu, const X86Insn *insn)
{
    reg_write(cpu, &insn->operand[0], x86_ea_offset(cpu, insn), insn->operand[0].size);
}

void x86_op_xchg(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw), b = reg_read(cpu, &insn->operand[1], size), old;
    do {
        old = a;
    } while (unlikely(!rmw_end(cpu, insn, &rmw, &a, b, size)));
    reg_write(cpu, &insn->operand[1], old, size);
}

void x86_op_cmovcc(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t value = operand_read(cpu, insn, 1, size); /* read, and faults, in any case */
    if (!condition(cpu, insn->cond)) {
        value = reg_read(cpu, &insn->operand[0], size); /* the upper half is cleared all the same */
    }
    reg_write(cpu, &insn->operand[0], value, size);
}

void x86_op_setcc(X86Cpu *cpu, const X86Insn *insn)
{
    operand_write(cpu, insn, 0, condition(cpu, insn->cond), 1);
}

void x86_op_xlat(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t mask = size_mask(insn->asize);
    uint64_t offset = (x86_gpr(cpu)[X86_RBX] + (uint8_t)x86_gpr(cpu)[X86_RAX]) & mask;
    gpr_write(cpu, X86_RAX, x86_load(cpu, x86_linear(cpu, insn->seg, offset, 1, false), 1), 1);
}

void x86_op_nop(X86Cpu *cpu, const X86Insn *insn) {}

void x86_op_pause(X86Cpu *cpu, const X86Insn *insn)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (cpu->counted) {
        icount_yield(cpu->vcpu);
    }
}

void x86_op_fence(X86Cpu *cpu, const X86Insn *insn)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* CLFLUSH, CLFLUSHOPT, CLWB: caches are not modelled; the address is checked as by a load. */
void x86_op_clflush(X86Cpu *cpu, const X86Insn *insn)
{
    x86_load(cpu, x86_ea(cpu, insn, 1, false), 1);
}

void x86_op_movdir64b(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t buf[64];
    uint64_t source = x86_ea(cpu, insn, 64, false);
    uint64_t offset = gpr_read(cpu, insn->operand[0].reg, insn->asize);
    uint64_t target = x86_linear(cpu, X86_ES, offset, 64, true);
    if (target & 63) {
        x86_gp(cpu, 0);
    }
    x86_load_bytes(cpu, source, buf, sizeof(buf), X86_AS_CPL);
    x86_store_bytes(cpu, target, buf, sizeof(buf), X86_AS_CPL);
}

/* The cache line at rAX. */
void x86_op_clzero(X86Cpu *cpu, const X86Insn *insn)
{
    static const uint8_t zeros[64];
    uint64_t offset = gpr_read(cpu, X86_RAX, insn->asize) & ~63ull;
    uint64_t va = x86_linear(cpu, insn->seg, offset, sizeof(zeros), true);
    x86_store_bytes(cpu, va, zeros, sizeof(zeros), X86_AS_CPL);
}

void x86_op_bound(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize;
    uint64_t va = x86_ea(cpu, insn, size, false); /* alignment is that of a bound */
    x86_linear(cpu, insn->seg, x86_ea_offset(cpu, insn) + size, size, false);
    int64_t index = (int64_t)sign_extend64(reg_read(cpu, &insn->operand[0], size), 8 * size);
    int64_t low = (int64_t)sign_extend64(x86_load(cpu, va, size), 8 * size);
    if (index < low || index > (int64_t)sign_extend64(x86_load(cpu, va + size, size), 8 * size)) {
        x86_raise(cpu, EXC_BR);
    }
}

/* UD0, UD1, UD2. */
void x86_op_ud(X86Cpu *cpu, const X86Insn *insn)
{
    x86_ud(cpu);
}
