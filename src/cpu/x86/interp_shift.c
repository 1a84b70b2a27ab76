/*
 * Shifts, rotates, bit tests and scans, byte swaps, population counts, CRC32, BMI1 and BMI2.
 * Intel SDM volume 2. Undefined flags are as current Intel processors leave them: AF is cleared by
 * shifts, OF of multi-bit shifts is computed as for one bit.
 */
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/sys.h"

/* --- rotates: only CF and OF change --- */

typedef enum Rotate { ROTATE_ROL, ROTATE_ROR, ROTATE_RCL, ROTATE_RCR } Rotate;

static uint64_t rotate_carry(uint64_t a, unsigned bits, unsigned count, bool left, bool *carry)
{
    uint64_t mask = ~0ull >> (64 - bits);
    for (; count != 0; count--) { /* at most 64 rounds */
        bool out = left ? a >> (bits - 1) & 1 : a & 1;
        a = left ? (a << 1 | *carry) & mask : a >> 1 | (uint64_t)*carry << (bits - 1);
        *carry = out;
    }
    return a;
}

static uint64_t rotate_value(uint64_t a, unsigned bits, unsigned count)
{
    uint64_t mask = ~0ull >> (64 - bits);
    count &= bits - 1;
    return count == 0 ? a : ((a << count) | (a >> (bits - count))) & mask;
}

static ALWAYS_INLINE void rotate(X86Cpu *cpu, const X86Insn *insn, Rotate op)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    unsigned count = operand_read(cpu, insn, 1, 1) & (size == 8 ? 63 : 31);
    bool carry = x86_hot(cpu)->rflags & X86_CF;
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw), r;
    switch (op) {
    case ROTATE_ROL:
        r = rotate_value(a, bits, count);
        carry = r & 1;
        break;
    case ROTATE_ROR:
        r = rotate_value(a, bits, bits - (count & (bits - 1)));
        carry = r >> (bits - 1) & 1;
        break;
    default:
        r = rotate_carry(a, bits, size < 4 ? count % (bits + 1) : count, op == ROTATE_RCL, &carry);
        break;
    }
    rmw_end(cpu, insn, &rmw, &a, r, size);
    if (count == 0) {
        return;
    }
    bool top = r >> (bits - 1) & 1;
    bool overflow =
        op == ROTATE_ROL || op == ROTATE_RCL ? top ^ carry : top ^ (r >> (bits - 2) & 1);
    flags_set(cpu, X86_CF | X86_OF, (carry ? X86_CF : 0) | (overflow ? X86_OF : 0));
}

void x86_op_rol(X86Cpu *cpu, const X86Insn *insn)
{
    rotate(cpu, insn, ROTATE_ROL);
}

void x86_op_ror(X86Cpu *cpu, const X86Insn *insn)
{
    rotate(cpu, insn, ROTATE_ROR);
}

void x86_op_rcl(X86Cpu *cpu, const X86Insn *insn)
{
    rotate(cpu, insn, ROTATE_RCL);
}

void x86_op_rcr(X86Cpu *cpu, const X86Insn *insn)
{
    rotate(cpu, insn, ROTATE_RCR);
}

/* --- shifts --- */

void x86_op_shl(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    unsigned count = operand_read(cpu, insn, 1, 1) & (size == 8 ? 63 : 31);
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw), r = (a << count) & size_mask(size);
    rmw_end(cpu, insn, &rmw, &a, r, size);
    if (count != 0) {
        uint64_t carry = count <= bits ? a >> (bits - count) & 1 : 0;
        flags_set(cpu, X86_ARITH,
                  flags_szp(r, size) | carry | (carry ^ (r >> (bits - 1) & 1)) << 11);
    }
}

void x86_op_shr(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    unsigned count = operand_read(cpu, insn, 1, 1) & (size == 8 ? 63 : 31);
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw), r = a >> count;
    rmw_end(cpu, insn, &rmw, &a, r, size);
    if (count != 0) {
        uint64_t before = a >> (count - 1); /* one step from the result */
        flags_set(cpu, X86_ARITH,
                  flags_szp(r, size) | (before & 1) | (before >> (bits - 1) & 1) << 11);
    }
}

void x86_op_sar(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    unsigned count = operand_read(cpu, insn, 1, 1) & (size == 8 ? 63 : 31);
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw);
    int64_t wide = (int64_t)sign_extend64(a, bits);
    uint64_t r = (uint64_t)(wide >> count) & size_mask(size);
    rmw_end(cpu, insn, &rmw, &a, r, size);
    if (count != 0) {
        flags_set(cpu, X86_ARITH, flags_szp(r, size) | (uint64_t)(wide >> (count - 1) & 1));
    }
}

/* For 16 bits and counts over 16 the value shifted in is the destination again, as Intel processors
 * do. */
static void double_shift(X86Cpu *cpu, const X86Insn *insn, bool left)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    unsigned count = operand_read(cpu, insn, 2, 1) & (size == 8 ? 63 : 31);
    uint64_t fill = reg_read(cpu, &insn->operand[1], size), r, carry;
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw);
    if (count == 0) {
        rmw_end(cpu, insn, &rmw, &a, a, size);
        return;
    }
    unsigned __int128 wide;
    if (left) {
        wide = size == 2 ? (unsigned __int128)a << 32 | fill << 16 | a
                         : (unsigned __int128)a << bits | fill;
        unsigned total = size == 2 ? 48 : 2 * bits;
        carry = (uint64_t)(wide >> (total - count)) & 1;
        r = (uint64_t)(wide >> (total - bits - count)) & size_mask(size);
    } else {
        wide = (unsigned __int128)fill << bits | a;
        if (size == 2) {
            wide |= (unsigned __int128)a << 32;
        }
        carry = (uint64_t)(wide >> (count - 1)) & 1;
        r = (uint64_t)(wide >> count) & size_mask(size);
    }
    rmw_end(cpu, insn, &rmw, &a, r, size);
    uint64_t overflow =
        left ? carry ^ (r >> (bits - 1) & 1) : ((r >> (bits - 1)) ^ (r >> (bits - 2))) & 1;
    flags_set(cpu, X86_ARITH, flags_szp(r, size) | carry | overflow << 11);
}

void x86_op_shld(X86Cpu *cpu, const X86Insn *insn)
{
    double_shift(cpu, insn, true);
}

void x86_op_shrd(X86Cpu *cpu, const X86Insn *insn)
{
    double_shift(cpu, insn, false);
}

/* --- bit tests --- */

typedef enum BitOp { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT } BitOp;

/* With a register index the bit may lie far from the operand: it moves by whole operands. */
static void bit_op(X86Cpu *cpu, const X86Insn *insn, BitOp op)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    X86Insn moved;
    uint64_t index = operand_read(cpu, insn, 1, size), a, old;
    if (insn->operand[0].kind == OPND_MEM && insn->operand[1].kind == OPND_REG) {
        int64_t far = (int64_t)sign_extend64(index, bits) >> __builtin_ctz(bits);
        moved = *insn;
        moved.disp += far * (int64_t)size;
        insn = &moved;
    }
    uint64_t bit = 1ull << (index & (bits - 1));
    if (op == BIT_TEST) {
        old = operand_read(cpu, insn, 0, size);
    } else {
        Rmw rmw;
        uint64_t r;
        a = rmw_begin(cpu, insn, size, &rmw);
        do {
            old = a;
            r = op == BIT_SET ? a | bit : op == BIT_RESET ? a & ~bit : a ^ bit;
        } while (unlikely(!rmw_end(cpu, insn, &rmw, &a, r, size)));
    }
    flags_set(cpu, X86_CF, old & bit ? X86_CF : 0);
}

void x86_op_bt(X86Cpu *cpu, const X86Insn *insn)
{
    bit_op(cpu, insn, BIT_TEST);
}

void x86_op_bts(X86Cpu *cpu, const X86Insn *insn)
{
    bit_op(cpu, insn, BIT_SET);
}

void x86_op_btr(X86Cpu *cpu, const X86Insn *insn)
{
    bit_op(cpu, insn, BIT_RESET);
}

void x86_op_btc(X86Cpu *cpu, const X86Insn *insn)
{
    bit_op(cpu, insn, BIT_COMPLEMENT);
}

/* --- scans and counts --- */

/* A zero source leaves the destination (32-bit forms too) and sets ZF; other flags as on Intel
 * hosts. */
static void bit_scan(X86Cpu *cpu, const X86Insn *insn, bool reverse)
{
    unsigned size = insn->operand[0].size;
    uint64_t a = operand_read(cpu, insn, 1, size);
    if (a == 0) {
        flags_set(cpu, X86_ARITH, X86_ZF | X86_PF);
        return;
    }
    uint64_t r = reverse ? 63 - (unsigned)__builtin_clzll(a) : (unsigned)__builtin_ctzll(a);
    reg_write(cpu, &insn->operand[0], r, size);
    flags_set(cpu, X86_ARITH, flag_parity(r));
}

void x86_op_bsf(X86Cpu *cpu, const X86Insn *insn)
{
    bit_scan(cpu, insn, false);
}

void x86_op_bsr(X86Cpu *cpu, const X86Insn *insn)
{
    bit_scan(cpu, insn, true);
}

static void count_zeros(X86Cpu *cpu, const X86Insn *insn, bool leading)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    uint64_t a = operand_read(cpu, insn, 1, size), r = bits;
    if (a != 0) {
        r = leading ? (unsigned)__builtin_clzll(a) - (64 - bits) : (unsigned)__builtin_ctzll(a);
    }
    reg_write(cpu, &insn->operand[0], r, size);
    flags_set(cpu, X86_ARITH, (a == 0 ? X86_CF : 0) | (r == 0 ? X86_ZF : 0));
}

void x86_op_tzcnt(X86Cpu *cpu, const X86Insn *insn)
{
    if (x86_has(cpu, X86_FEAT_7_EBX, 3)) {
        count_zeros(cpu, insn, false);
    } else {
        bit_scan(cpu, insn, false);
    }
}

void x86_op_lzcnt(X86Cpu *cpu, const X86Insn *insn)
{
    if (x86_has(cpu, X86_FEAT_8000_0001_ECX, 5)) {
        count_zeros(cpu, insn, true);
    } else {
        bit_scan(cpu, insn, true);
    }
}

void x86_op_popcnt(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t a = operand_read(cpu, insn, 1, size);
    reg_write(cpu, &insn->operand[0], (unsigned)__builtin_popcountll(a), size);
    flags_set(cpu, X86_ARITH, a == 0 ? X86_ZF : 0);
}

void x86_op_bswap(X86Cpu *cpu, const X86Insn *insn)
{
    const X86Operand *o = &insn->operand[0];
    uint64_t a = x86_gpr(cpu)[o->reg];
    /* The 16-bit form is undefined; processors clear the register's low half. */
    uint64_t r = o->size == 8   ? __builtin_bswap64(a)
                 : o->size == 4 ? __builtin_bswap32((uint32_t)a)
                                : 0;
    reg_write(cpu, o, r, o->size);
}

void x86_op_movbe(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t a = operand_read(cpu, insn, 1, size);
    operand_write(cpu, insn, 0, __builtin_bswap64(a) >> (64 - 8 * size), size);
}

/* CRC-32C, polynomial 11EDC6F41, reflected. */
void x86_op_crc32(X86Cpu *cpu, const X86Insn *insn)
{
    uint32_t crc = (uint32_t)x86_gpr(cpu)[insn->operand[0].reg];
    unsigned size = insn->operand[1].size;
    uint64_t data = operand_read(cpu, insn, 1, size);
    for (unsigned i = 0; i < size; i++) {
        crc ^= (uint8_t)(data >> (8 * i));
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        }
    }
    x86_gpr(cpu)[insn->operand[0].reg] = crc;
}

/* --- BMI --- */

static void vex_check(X86Cpu *cpu)
{
    if (real_or_vm86(cpu)) {
        x86_ud(cpu);
    }
}

static void logic_result(X86Cpu *cpu, const X86Insn *insn, uint64_t r, bool carry)
{
    unsigned size = insn->operand[0].size;
    r &= size_mask(size);
    reg_write(cpu, &insn->operand[0], r, size);
    flags_set(cpu, X86_ARITH, (flags_szp(r, size) & ~(uint64_t)X86_PF) | (carry ? X86_CF : 0));
}

void x86_op_andn(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    uint64_t b = operand_read(cpu, insn, 2, size);
    logic_result(cpu, insn, ~reg_read(cpu, &insn->operand[1], size) & b, false);
}

void x86_op_blsr(X86Cpu *cpu, const X86Insn *insn)
{
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, insn->operand[1].size);
    logic_result(cpu, insn, a & (a - 1), a == 0);
}

void x86_op_blsmsk(X86Cpu *cpu, const X86Insn *insn)
{
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, insn->operand[1].size);
    logic_result(cpu, insn, a ^ (a - 1), a == 0);
}

void x86_op_blsi(X86Cpu *cpu, const X86Insn *insn)
{
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, insn->operand[1].size);
    logic_result(cpu, insn, a & -a, a != 0);
}

void x86_op_bextr(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, size), control = reg_read(cpu, &insn->operand[2], size);
    unsigned start = control & 0xff, length = control >> 8 & 0xff;
    uint64_t r = start < 64 ? a >> start : 0;
    if (length < 64) {
        r &= (1ull << length) - 1;
    }
    reg_write(cpu, &insn->operand[0], r, size);
    flags_set(cpu, X86_ARITH, r == 0 ? X86_ZF : 0);
}

void x86_op_bzhi(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, size);
    unsigned n = reg_read(cpu, &insn->operand[2], size) & 0xff;
    logic_result(cpu, insn, n < bits ? a & ((1ull << n) - 1) : a, n > bits - 1);
}

void x86_op_pdep(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    uint64_t mask = operand_read(cpu, insn, 2, size), a = reg_read(cpu, &insn->operand[1], size),
             r = 0;
    for (; mask != 0; mask &= mask - 1, a >>= 1) {
        r |= a & 1 ? mask & -mask : 0;
    }
    reg_write(cpu, &insn->operand[0], r, size);
}

void x86_op_pext(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, n = 0;
    vex_check(cpu);
    uint64_t mask = operand_read(cpu, insn, 2, size), a = reg_read(cpu, &insn->operand[1], size),
             r = 0;
    for (; mask != 0; mask &= mask - 1, n++) {
        r |= (uint64_t)((a & mask & -mask) != 0) << n;
    }
    reg_write(cpu, &insn->operand[0], r, size);
}

void x86_op_mulx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    uint64_t a = gpr_read(cpu, X86_RDX, size), b = operand_read(cpu, insn, 2, size);
    unsigned __int128 product = (unsigned __int128)a * b;
    reg_write(cpu, &insn->operand[1], (uint64_t)product, size);
    reg_write(cpu, &insn->operand[0], (uint64_t)(product >> (8 * size)), size);
}

void x86_op_shlx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, size);
    reg_write(cpu, &insn->operand[0],
              a << (reg_read(cpu, &insn->operand[2], size) & (8 * size - 1)), size);
}

void x86_op_shrx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, size);
    reg_write(cpu, &insn->operand[0],
              a >> (reg_read(cpu, &insn->operand[2], size) & (8 * size - 1)), size);
}

void x86_op_sarx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    vex_check(cpu);
    int64_t a = (int64_t)sign_extend64(operand_read(cpu, insn, 1, size), 8 * size);
    reg_write(cpu, &insn->operand[0],
              (uint64_t)(a >> (reg_read(cpu, &insn->operand[2], size) & (8 * size - 1))), size);
}

void x86_op_rorx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, bits = 8 * size;
    vex_check(cpu);
    uint64_t a = operand_read(cpu, insn, 1, size);
    reg_write(cpu, &insn->operand[0], rotate_value(a, bits, bits - (insn->imm & (bits - 1))), size);
}
