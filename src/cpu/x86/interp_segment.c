/*
 * Instructions that read and load segment registers and examine descriptors.
 * Intel SDM volume 2; what loading means is in seg_load.c.
 */
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"

/* To a register the upper bits are cleared; to memory two bytes are written. */
void x86_op_mov_from_seg(X86Cpu *cpu, const X86Insn *insn)
{
    operand_write(cpu, insn, 0, cpu->seg[insn->operand[1].reg].sel, insn->operand[0].size);
}

void x86_op_mov_to_seg(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned seg = insn->operand[0].reg;
    x86_load_seg(cpu, seg, (uint16_t)operand_read(cpu, insn, 1, 2));
    if (seg == X86_SS) {
        cpu->int_shadow = 1;
    }
    cpu->interp_stop = true; /* the mode word may have changed */
}

static void load_far(X86Cpu *cpu, const X86Insn *insn, unsigned seg)
{
    unsigned size = insn->osize;
    uint64_t va = x86_ea(cpu, insn, size + 2, false);
    uint64_t offset = x86_load(cpu, va, size);
    x86_load_seg(cpu, seg, (uint16_t)x86_load(cpu, va + size, 2));
    reg_write(cpu, &insn->operand[0], offset, size);
    cpu->interp_stop = true;
}

void x86_op_les(X86Cpu *cpu, const X86Insn *insn)
{
    load_far(cpu, insn, X86_ES);
}

void x86_op_lds(X86Cpu *cpu, const X86Insn *insn)
{
    load_far(cpu, insn, X86_DS);
}

void x86_op_lss(X86Cpu *cpu, const X86Insn *insn)
{
    load_far(cpu, insn, X86_SS);
}

void x86_op_lfs(X86Cpu *cpu, const X86Insn *insn)
{
    load_far(cpu, insn, X86_FS);
}

void x86_op_lgs(X86Cpu *cpu, const X86Insn *insn)
{
    load_far(cpu, insn, X86_GS);
}

void x86_op_lar(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value;
    bool ok = x86_lar(cpu, (uint16_t)operand_read(cpu, insn, 1, 2), &value);
    if (ok) {
        reg_write(cpu, &insn->operand[0], value, insn->operand[0].size);
    }
    flags_set(cpu, X86_ZF, ok ? X86_ZF : 0);
}

void x86_op_lsl(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value;
    bool ok = x86_lsl(cpu, (uint16_t)operand_read(cpu, insn, 1, 2), &value);
    if (ok) {
        reg_write(cpu, &insn->operand[0], value, insn->operand[0].size);
    }
    flags_set(cpu, X86_ZF, ok ? X86_ZF : 0);
}

void x86_op_verr(X86Cpu *cpu, const X86Insn *insn)
{
    bool ok = x86_verify(cpu, (uint16_t)operand_read(cpu, insn, 0, 2), false);
    flags_set(cpu, X86_ZF, ok ? X86_ZF : 0);
}

void x86_op_verw(X86Cpu *cpu, const X86Insn *insn)
{
    bool ok = x86_verify(cpu, (uint16_t)operand_read(cpu, insn, 0, 2), true);
    flags_set(cpu, X86_ZF, ok ? X86_ZF : 0);
}

/* Memory that need not change is not written, and need not be writable. */
void x86_op_arpl(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t a = operand_read(cpu, insn, 0, 2), rpl = reg_read(cpu, &insn->operand[1], 2) & 3;
    bool lower = (a & 3) < rpl;
    if (lower) {
        Rmw rmw;
        a = rmw_begin(cpu, insn, 2, &rmw);
        rmw_end(cpu, insn, &rmw, &a, (a & ~3ull) | rpl, 2);
    }
    flags_set(cpu, X86_ZF, lower ? X86_ZF : 0);
}
