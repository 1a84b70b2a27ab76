/*
 * Multiplication and division. Intel SDM volume 2. Flags that the manual leaves undefined are as
 * current Intel processors leave them: SF and PF by the low half of a product, ZF and AF clear;
 * divisions keep all.
 */
#include "cpu/x86/interp_priv.h"

static void product_flags(X86Cpu *cpu, uint64_t low, unsigned size, bool overflow)
{
    uint64_t flags = flags_szp(low, size) & ~(uint64_t)X86_ZF;
    flags_set(cpu, X86_ARITH, flags | (overflow ? X86_CF | X86_OF : 0));
}

/* AX, or rDX:rAX. */
static void write_wide(X86Cpu *cpu, uint64_t low, uint64_t high, unsigned size)
{
    if (size == 1) {
        gpr_write(cpu, X86_RAX, high << 8 | (uint8_t)low, 2);
    } else {
        gpr_write(cpu, X86_RAX, low, size);
        gpr_write(cpu, X86_RDX, high, size);
    }
}

void x86_op_mul(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t a = gpr_read(cpu, X86_RAX, size), b = operand_read(cpu, insn, 0, size);
    unsigned __int128 product = (unsigned __int128)a * b;
    uint64_t low = (uint64_t)product & size_mask(size);
    uint64_t high = (uint64_t)(product >> (8 * size)) & size_mask(size);
    write_wide(cpu, low, high & size_mask(size), size);
    product_flags(cpu, low, size, high != 0);
}

static uint64_t signed_product(uint64_t a, uint64_t b, unsigned size, uint64_t *ret_high,
                               bool *ret_overflow)
{
    __int128 product =
        (__int128)(int64_t)sign_extend64(a, 8 * size) * (int64_t)sign_extend64(b, 8 * size);
    uint64_t low = (uint64_t)product & size_mask(size);
    *ret_high = (uint64_t)(product >> (8 * size)) & size_mask(size);
    *ret_overflow = product != (__int128)(int64_t)sign_extend64(low, 8 * size);
    return low;
}

void x86_op_imul1(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t high;
    bool overflow;
    uint64_t b = operand_read(cpu, insn, 0, size);
    uint64_t low = signed_product(gpr_read(cpu, X86_RAX, size), b, size, &high, &overflow);
    write_wide(cpu, low, high, size);
    product_flags(cpu, low, size, overflow);
}

static void imul_to_reg(X86Cpu *cpu, const X86Insn *insn, uint64_t a, uint64_t b)
{
    unsigned size = insn->operand[0].size;
    uint64_t high;
    bool overflow;
    uint64_t low = signed_product(a, b, size, &high, &overflow);
    reg_write(cpu, &insn->operand[0], low, size);
    product_flags(cpu, low, size, overflow);
}

void x86_op_imul2(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t b = operand_read(cpu, insn, 1, size);
    imul_to_reg(cpu, insn, reg_read(cpu, &insn->operand[0], size), b);
}

void x86_op_imul3(X86Cpu *cpu, const X86Insn *insn)
{
    imul_to_reg(cpu, insn, operand_read(cpu, insn, 1, insn->operand[1].size), (uint64_t)insn->imm);
}

static unsigned __int128 dividend(X86Cpu *cpu, unsigned size)
{
    if (size == 1) {
        return gpr_read(cpu, X86_RAX, 2);
    }
    return (unsigned __int128)gpr_read(cpu, X86_RDX, size) << (8 * size) |
           gpr_read(cpu, X86_RAX, size);
}

void x86_op_div(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t divisor = operand_read(cpu, insn, 0, size);
    unsigned __int128 a = dividend(cpu, size);
    if (divisor == 0 || (uint64_t)(a >> (8 * size)) >= divisor) {
        x86_raise(cpu, EXC_DE);
    }
    if (size <= 4) {
        write_wide(cpu, (uint64_t)a / divisor, (uint64_t)a % divisor, size);
    } else {
        write_wide(cpu, (uint64_t)(a / divisor), (uint64_t)(a % divisor), size);
    }
}

void x86_op_idiv(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    int64_t divisor = (int64_t)sign_extend64(operand_read(cpu, insn, 0, size), bits);
    unsigned __int128 raw = dividend(cpu, size);
    __int128 a =
        size == 8 ? (__int128)raw : (__int128)(int64_t)sign_extend64((uint64_t)raw, 2 * bits);
    bool negative = (a < 0) != (divisor < 0);
    unsigned __int128 ua = a < 0 ? -(unsigned __int128)a : (unsigned __int128)a;
    uint64_t ud = divisor < 0 ? -(uint64_t)divisor : (uint64_t)divisor;
    if (ud == 0 || ua >> bits >= ud) {
        x86_raise(cpu, EXC_DE);
    }
    uint64_t quotient = (uint64_t)(ua / ud), remainder = (uint64_t)(ua % ud);
    uint64_t limit = 1ull << (bits - 1);
    if (quotient > limit - (negative ? 0 : 1)) {
        x86_raise(cpu, EXC_DE);
    }
    quotient = negative ? -quotient : quotient;
    remainder = a < 0 ? -remainder : remainder;
    write_wide(cpu, quotient & size_mask(size), remainder & size_mask(size), size);
}

void x86_op_cbw(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize;
    gpr_write(cpu, X86_RAX, sign_extend64(gpr_read(cpu, X86_RAX, size / 2), 4 * size), size);
}

void x86_op_cwd(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->osize;
    bool negative = gpr_read(cpu, X86_RAX, size) >> (8 * size - 1);
    gpr_write(cpu, X86_RDX, negative ? ~0ull : 0, size);
}
