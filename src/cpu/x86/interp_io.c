/*
 * IN and OUT. The I/O permission is checked first (seg.h); ports are an address space of their own.
 */
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/svm.h"

static uint16_t port_of(X86Cpu *cpu, const X86Insn *insn, unsigned n)
{
    const X86Operand *o = &insn->operand[n];
    return o->kind == OPND_IMM ? (uint8_t)insn->imm : (uint16_t)x86_gpr(cpu)[X86_RDX];
}

void x86_op_in(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint16_t port = port_of(cpu, insn, 1);
    uint64_t value = size_mask(size);
    x86_check_io(cpu, port, size);
    x86_svm_check_io(cpu, insn, port, size);
    mem_load(cpu->io, port, size, &value);
    gpr_write(cpu, X86_RAX, value, size);
}

void x86_op_out(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[1].size;
    uint16_t port = port_of(cpu, insn, 0);
    x86_check_io(cpu, port, size);
    x86_svm_check_io(cpu, insn, port, size);
    mem_store(cpu->io, port, size, gpr_read(cpu, X86_RAX, size));
}
