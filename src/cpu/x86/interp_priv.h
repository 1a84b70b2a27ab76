/*
 * Private to interp*.c: registers, flags, memory operands. Everything here is on the hot path.
 */
#ifndef OSTRICH_CPU_X86_INTERP_PRIV_H
#define OSTRICH_CPU_X86_INTERP_PRIV_H

#include "base/bits.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/mmu.h"
#include "x86_ops.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* --- registers --- */

static ALWAYS_INLINE uint64_t reg_read(X86Cpu *cpu, const X86Operand *o, unsigned size)
{
    const uint64_t *gpr = x86_gpr(cpu);
    switch (size) {
    case 1:
        return o->flags & OPND_HIGH8 ? (uint8_t)(gpr[o->reg - 4] >> 8) : (uint8_t)gpr[o->reg];
    case 2:
        return (uint16_t)gpr[o->reg];
    case 4:
        return (uint32_t)gpr[o->reg];
    default:
        return gpr[o->reg];
    }
}

/* Writes a register by number: 32-bit results clear the upper half. */
static ALWAYS_INLINE void gpr_write(X86Cpu *cpu, unsigned reg, uint64_t value, unsigned size)
{
    uint64_t *p = &x86_gpr(cpu)[reg];
    switch (size) {
    case 1:
        *p = (*p & ~0xffull) | (uint8_t)value;
        break;
    case 2:
        *p = (*p & ~0xffffull) | (uint16_t)value;
        break;
    case 4:
        *p = (uint32_t)value;
        break;
    default:
        *p = value;
        break;
    }
}

static ALWAYS_INLINE void reg_write(X86Cpu *cpu, const X86Operand *o, uint64_t value, unsigned size)
{
    if (size == 1 && o->flags & OPND_HIGH8) {
        uint64_t *p = &x86_gpr(cpu)[o->reg - 4];
        *p = (*p & ~0xff00ull) | (uint64_t)(uint8_t)value << 8;
    } else {
        gpr_write(cpu, o->reg, value, size);
    }
}

static ALWAYS_INLINE uint64_t gpr_read(X86Cpu *cpu, unsigned reg, unsigned size)
{
    return x86_gpr(cpu)[reg] & size_mask(size);
}

/* --- flags --- */

static ALWAYS_INLINE void flags_set(X86Cpu *cpu, uint64_t mask, uint64_t value)
{
    X86Hot *hot = x86_hot(cpu);
    hot->rflags = (hot->rflags & ~mask) | value;
}

static ALWAYS_INLINE uint64_t flag_parity(uint64_t result)
{
    return (uint64_t)!__builtin_parity((uint8_t)result) << 2;
}

/* ZF, SF, PF of a result, which has no bits above size. */
static ALWAYS_INLINE uint64_t flags_szp(uint64_t result, unsigned size)
{
    return (uint64_t)(result == 0) << 6 | (result >> (8 * size - 1)) << 7 | flag_parity(result);
}

static inline bool condition(const X86Cpu *cpu, unsigned cond)
{
    uint64_t f = x86_hot((X86Cpu *)cpu)->rflags;
    bool value;
    switch (cond >> 1) {
    case 0:
        value = f & X86_OF;
        break;
    case 1:
        value = f & X86_CF;
        break;
    case 2:
        value = f & X86_ZF;
        break;
    case 3:
        value = f & (X86_CF | X86_ZF);
        break;
    case 4:
        value = f & X86_SF;
        break;
    case 5:
        value = f & X86_PF;
        break;
    case 6:
        value = ((f >> 11) ^ (f >> 7)) & 1;
        break;
    default:
        value = (((f >> 11) ^ (f >> 7)) & 1) || (f & X86_ZF);
        break;
    }
    return value ^ (cond & 1);
}

/* --- memory --- */

static inline bool mode64(const X86Cpu *cpu)
{
    return x86_hot((X86Cpu *)cpu)->mode & X86_MODE_CS64;
}
static inline bool real_or_vm86(const X86Cpu *cpu)
{
    return (x86_hot((X86Cpu *)cpu)->mode & (X86_MODE_PE | X86_MODE_VM86)) != X86_MODE_PE;
}

/* Linear address of offset in a segment for an access; raises #GP or #SS. */
uint64_t x86_linear(X86Cpu *cpu, unsigned seg, uint64_t offset, unsigned size, bool write);
bool x86_is_canonical(const X86Cpu *cpu, uint64_t va);
static ALWAYS_INLINE bool canonical(const X86Cpu *cpu, uint64_t va)
{
    return likely((((va >> 47) + 1) & 0x1ffff) <= 1) || x86_is_canonical(cpu, va);
}

/* Offset of the memory operand in its segment. */
static ALWAYS_INLINE uint64_t operand_offset(X86Cpu *cpu, const X86Insn *insn)
{
    const uint64_t *gpr = x86_gpr(cpu);
    uint64_t a = (uint64_t)insn->disp;
    if (likely(insn->base < 16)) {
        a += gpr[insn->base];
    } else if (insn->base == X86_REG_RIP) {
        a += x86_hot(cpu)->rip + insn->length;
    }
    if (insn->index != X86_NO_REG) {
        a += gpr[insn->index & 15] << insn->scale;
    }
    return insn->asize == 8 ? a : insn->asize == 4 ? (uint32_t)a : (uint16_t)a;
}

/* x86_linear() with its usual cases in line: 64-bit without FS and GS, ordinary data segments. */
static ALWAYS_INLINE uint64_t linear(X86Cpu *cpu, unsigned n, uint64_t offset, unsigned size,
                                     bool write)
{
    uint32_t mode = x86_hot(cpu)->mode & (X86_MODE_CS64 | X86_MODE_AC);
    if (likely(mode == X86_MODE_CS64)) {
        if (likely(n < X86_FS && offset + size - 1 < 1ull << 47)) {
            return offset;
        }
    } else if (mode == 0) {
        const X86Seg *seg = &cpu->seg[n];
        uint64_t last = (uint64_t)(uint32_t)offset + size - 1;
        if (likely((seg->attr & (SEG_P | 14)) == (SEG_P | 2) && last <= seg->limit)) {
            return (uint32_t)(seg->base + offset);
        }
    }
    return x86_linear(cpu, n, offset, size, write);
}

static ALWAYS_INLINE uint64_t operand_address(X86Cpu *cpu, const X86Insn *insn, unsigned size,
                                              bool write)
{
    return linear(cpu, insn->seg, operand_offset(cpu, insn), size, write);
}

static ALWAYS_INLINE uint64_t mem_read_operand(X86Cpu *cpu, const X86Insn *insn, unsigned size)
{
    return x86_load(cpu, operand_address(cpu, insn, size, false), size);
}

static ALWAYS_INLINE void mem_write_operand(X86Cpu *cpu, const X86Insn *insn, uint64_t value,
                                            unsigned size)
{
    x86_store(cpu, operand_address(cpu, insn, size, true), value, size);
}

static ALWAYS_INLINE uint64_t operand_read(X86Cpu *cpu, const X86Insn *insn, unsigned n,
                                           unsigned size)
{
    const X86Operand *o = &insn->operand[n];
    if (likely(o->kind == OPND_REG)) {
        return reg_read(cpu, o, size);
    }
    if (o->kind == OPND_MEM) {
        return mem_read_operand(cpu, insn, size);
    }
    return (o->kind == OPND_IMM2 ? insn->imm2 : insn->imm) & size_mask(size);
}

static ALWAYS_INLINE void operand_write(X86Cpu *cpu, const X86Insn *insn, unsigned n,
                                        uint64_t value, unsigned size)
{
    const X86Operand *o = &insn->operand[n];
    if (likely(o->kind == OPND_REG)) {
        reg_write(cpu, o, value, size);
    } else {
        mem_write_operand(cpu, insn, value, size);
    }
}

/*
 * A read-modify-write of operand 0. rmw_begin() gives the old value with write permission checked;
 * rmw_end() stores and cannot fault. For LOCK on memory, rmw_end() answers false when another CPU
 * was faster: compute again from *old.
 */
typedef struct Rmw {
    void *host; /* NULL: a register, or store by address */
    uint64_t va;
    bool memory, locked, split;
} Rmw;

uint64_t x86_rmw_begin_memory(X86Cpu *cpu, const X86Insn *insn, unsigned size, Rmw *rmw);
bool x86_rmw_end_memory(X86Cpu *cpu, Rmw *rmw, uint64_t *old, uint64_t value, unsigned size);

static ALWAYS_INLINE uint64_t rmw_begin(X86Cpu *cpu, const X86Insn *insn, unsigned size, Rmw *rmw)
{
    const X86Operand *o = &insn->operand[0];
    if (likely(o->kind == OPND_REG)) {
        rmw->memory = false;
        return reg_read(cpu, o, size);
    }
    return x86_rmw_begin_memory(cpu, insn, size, rmw);
}

static ALWAYS_INLINE bool rmw_end(X86Cpu *cpu, const X86Insn *insn, Rmw *rmw, uint64_t *old,
                                  uint64_t value, unsigned size)
{
    if (likely(!rmw->memory)) {
        reg_write(cpu, &insn->operand[0], value, size);
        return true;
    }
    return x86_rmw_end_memory(cpu, rmw, old, value, size);
}

/* --- arithmetic --- */

typedef enum Alu {
    ALU_ADD,
    ALU_OR,
    ALU_ADC,
    ALU_SBB,
    ALU_AND,
    ALU_SUB,
    ALU_XOR,
    ALU_CMP,
    ALU_TEST
} Alu;

static ALWAYS_INLINE uint64_t alu_result(Alu alu, uint64_t a, uint64_t b, uint64_t carry)
{
    switch (alu) {
    case ALU_ADD:
        return a + b;
    case ALU_ADC:
        return a + b + carry;
    case ALU_SUB:
    case ALU_CMP:
        return a - b;
    case ALU_SBB:
        return a - b - carry;
    case ALU_OR:
        return a | b;
    case ALU_XOR:
        return a ^ b;
    default:
        return a & b;
    }
}

/* a, b and r have no bits above size. */
static ALWAYS_INLINE uint64_t alu_flags(Alu alu, uint64_t a, uint64_t b, uint64_t r, unsigned size)
{
    unsigned top = 8 * size - 1;
    uint64_t flags = flags_szp(r, size), carry, overflow;
    switch (alu) {
    case ALU_ADD:
    case ALU_ADC:
        carry = (a & b) | ((a | b) & ~r);
        overflow = (a ^ r) & (b ^ r);
        break;
    case ALU_SUB:
    case ALU_SBB:
    case ALU_CMP:
        carry = (~a & b) | ((~a | b) & r);
        overflow = (a ^ b) & (a ^ r);
        break;
    default:
        return flags;
    }
    return flags | (carry >> top & 1) | (overflow >> top & 1) << 11 | ((a ^ b ^ r) & X86_AF);
}

/* Instructions of privilege level 0. */
static inline void need_cpl0(X86Cpu *cpu)
{
    if (cpu->cpl != 0) {
        x86_gp(cpu, 0);
    }
}

static inline unsigned iopl(const X86Cpu *cpu)
{
    return x86_hot((X86Cpu *)cpu)->rflags >> 12 & 3;
}

/* A handler for a frequent form of an instruction, or NULL: interp_fast.c. */
X86Handler *x86_fast_handler(const X86Insn *insn);

static inline void hlt_now(X86Cpu *cpu)
{
    cpu->vcpu->halted = true;
    cpu->interp_stop = true;
}

#endif
