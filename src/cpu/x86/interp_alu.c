/*
 * Addition, subtraction, logic, compare, increment, negation, carry chains, flags instructions and
 * decimal adjustments. Intel SDM volume 2. Flags that the manual leaves undefined are as current
 * Intel processors leave them: AF is cleared by logic.
 */
#include "cpu/x86/interp_priv.h"

static ALWAYS_INLINE void alu_sized(X86Cpu *cpu, const X86Insn *insn, Alu alu, unsigned size)
{
    uint64_t b = operand_read(cpu, insn, 1, size), a, r;
    uint64_t carry = x86_hot(cpu)->rflags & X86_CF;
    if (alu == ALU_CMP || alu == ALU_TEST) {
        a = operand_read(cpu, insn, 0, size);
        r = alu_result(alu, a, b, carry) & size_mask(size);
    } else {
        Rmw rmw;
        a = rmw_begin(cpu, insn, size, &rmw);
        uint64_t old;
        do {
            old = a;
            r = alu_result(alu, a, b, carry) & size_mask(size);
        } while (unlikely(!rmw_end(cpu, insn, &rmw, &a, r, size)));
        a = old;
    }
    flags_set(cpu, X86_ARITH, alu_flags(alu, a, b, r, size));
}

#define ALU(name, alu)                                                                             \
    void x86_op_##name(X86Cpu *cpu, const X86Insn *insn)                                           \
    {                                                                                              \
        switch (insn->operand[0].size) {                                                           \
        case 1:                                                                                    \
            alu_sized(cpu, insn, alu, 1);                                                          \
            break;                                                                                 \
        case 2:                                                                                    \
            alu_sized(cpu, insn, alu, 2);                                                          \
            break;                                                                                 \
        case 4:                                                                                    \
            alu_sized(cpu, insn, alu, 4);                                                          \
            break;                                                                                 \
        default:                                                                                   \
            alu_sized(cpu, insn, alu, 8);                                                          \
            break;                                                                                 \
        }                                                                                          \
    }
ALU(add, ALU_ADD)
ALU(or, ALU_OR)
ALU(adc, ALU_ADC)
ALU(sbb, ALU_SBB)
ALU(and, ALU_AND)
ALU(sub, ALU_SUB)
ALU(xor, ALU_XOR)
ALU(cmp, ALU_CMP)
ALU(test, ALU_TEST)
#undef ALU

/* INC, DEC, NEG, NOT: one operand. */
typedef enum Unary { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT } Unary;

static ALWAYS_INLINE void unary(X86Cpu *cpu, const X86Insn *insn, Unary op)
{
    unsigned size = insn->operand[0].size;
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw), old, r;
    do {
        old = a;
        r = (op == UNARY_INC   ? a + 1
             : op == UNARY_DEC ? a - 1
             : op == UNARY_NEG ? -a
                               : ~a) &
            size_mask(size);
    } while (unlikely(!rmw_end(cpu, insn, &rmw, &a, r, size)));
    if (op == UNARY_INC) {
        flags_set(cpu, X86_ARITH & ~X86_CF,
                  alu_flags(ALU_ADD, old, 1, r, size) & ~(uint64_t)X86_CF);
    } else if (op == UNARY_DEC) {
        flags_set(cpu, X86_ARITH & ~X86_CF,
                  alu_flags(ALU_SUB, old, 1, r, size) & ~(uint64_t)X86_CF);
    } else if (op == UNARY_NEG) {
        flags_set(cpu, X86_ARITH, alu_flags(ALU_SUB, 0, old, r, size));
    }
}

void x86_op_inc(X86Cpu *cpu, const X86Insn *insn)
{
    unary(cpu, insn, UNARY_INC);
}

void x86_op_dec(X86Cpu *cpu, const X86Insn *insn)
{
    unary(cpu, insn, UNARY_DEC);
}

void x86_op_neg(X86Cpu *cpu, const X86Insn *insn)
{
    unary(cpu, insn, UNARY_NEG);
}

void x86_op_not(X86Cpu *cpu, const X86Insn *insn)
{
    unary(cpu, insn, UNARY_NOT);
}

void x86_op_xadd(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t b = reg_read(cpu, &insn->operand[1], size), old, r;
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw);
    if (!rmw.memory) { /* with the same register twice the sum wins */
        r = (a + b) & size_mask(size);
        reg_write(cpu, &insn->operand[1], a, size);
        reg_write(cpu, &insn->operand[0], r, size);
        flags_set(cpu, X86_ARITH, alu_flags(ALU_ADD, a, b, r, size));
        return;
    }
    do {
        old = a;
        r = (a + b) & size_mask(size);
    } while (unlikely(!rmw_end(cpu, insn, &rmw, &a, r, size)));
    reg_write(cpu, &insn->operand[1], old, size);
    flags_set(cpu, X86_ARITH, alu_flags(ALU_ADD, old, b, r, size));
}

void x86_op_cmpxchg(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t expect = gpr_read(cpu, X86_RAX, size), value = reg_read(cpu, &insn->operand[1], size),
             old, r;
    Rmw rmw;
    uint64_t a = rmw_begin(cpu, insn, size, &rmw);
    if (!rmw.memory) {
        r = (expect - a) & size_mask(size);
        if (a == expect) {
            reg_write(cpu, &insn->operand[0], value, size);
        } else {
            gpr_write(cpu, X86_RAX, a, size);
        }
        flags_set(cpu, X86_ARITH, alu_flags(ALU_CMP, expect, a, r, size));
        return;
    }
    do { /* memory is written in any case: with its old value on failure */
        old = a;
    } while (unlikely(!rmw_end(cpu, insn, &rmw, &a, old == expect ? value : old, size)));
    r = (expect - old) & size_mask(size);
    if (old != expect) {
        gpr_write(cpu, X86_RAX, old, size);
    }
    flags_set(cpu, X86_ARITH, alu_flags(ALU_CMP, expect, old, r, size));
}

static bool compare_exchange_wide(X86Cpu *cpu, uint64_t va, unsigned half, const uint64_t expect[2],
                                  const uint64_t value[2], uint64_t ret_old[2])
{
    x86_check(cpu, va, 2 * half, X86_RMW, X86_AS_CPL);
    x86_split_lock(cpu);
    ret_old[0] = x86_load(cpu, va, half);
    ret_old[1] = x86_load(cpu, va + half, half);
    bool equal = ret_old[0] == expect[0] && ret_old[1] == expect[1];
    const uint64_t *store = equal ? value : ret_old;
    x86_store(cpu, va, store[0], half);
    x86_store(cpu, va + half, store[1], half);
    x86_split_unlock(cpu);
    return equal;
}

/* An aligned 16-byte exchange; the host's cmpxchg16b where it has one. */
static bool compare_exchange_16(void *host, const uint64_t expect[2], const uint64_t value[2],
                                uint64_t ret_old[2])
{
#if defined(__x86_64__)
    bool equal;
    uint64_t lo = expect[0], hi = expect[1];
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(equal), "+m"(*(unsigned __int128 *)host), "+a"(lo), "+d"(hi)
                     : "b"(value[0]), "c"(value[1])
                     : "memory");
    ret_old[0] = lo;
    ret_old[1] = hi;
    return equal;
#else
    unsigned __int128 old = (unsigned __int128)expect[1] << 64 | expect[0];
    unsigned __int128 new = (unsigned __int128)value[1] << 64 | value[0];
    bool equal = __atomic_compare_exchange_n((unsigned __int128 *)host, &old, new, false,
                                             __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    ret_old[0] = (uint64_t)old;
    ret_old[1] = (uint64_t)(old >> 64);
    return equal;
#endif
}

void x86_op_cmpxchg8b(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size, half = size / 2;
    if (size == 16 && (x86_ea_offset(cpu, insn) + cpu->seg[insn->seg].base) & 15) { /* before #SS */
        x86_gp(cpu, 0);
    }
    uint64_t va = x86_ea(cpu, insn, size, true), old[2];
    uint64_t expect[2] = { gpr_read(cpu, X86_RAX, half), gpr_read(cpu, X86_RDX, half) };
    uint64_t value[2] = { gpr_read(cpu, X86_RBX, half), gpr_read(cpu, X86_RCX, half) };
    bool equal;
    void *host = x86_atomic_ptr(cpu, va, size);
    if (host == NULL) {
        equal = compare_exchange_wide(cpu, va, half, expect, value, old);
    } else if (size == 16) {
        equal = compare_exchange_16(host, expect, value, old);
    } else {
        uint64_t seen = expect[1] << 32 | expect[0];
        equal = __atomic_compare_exchange_n((uint64_t *)host, &seen, value[1] << 32 | value[0],
                                            false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        old[0] = (uint32_t)seen;
        old[1] = seen >> 32;
    }
    if (!equal) {
        gpr_write(cpu, X86_RAX, old[0], half);
        gpr_write(cpu, X86_RDX, old[1], half);
    }
    flags_set(cpu, X86_ZF, equal ? X86_ZF : 0);
}

void x86_op_adcx(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t a = reg_read(cpu, &insn->operand[0], size), b = operand_read(cpu, insn, 1, size);
    uint64_t r = (a + b + (x86_hot(cpu)->rflags & X86_CF)) & size_mask(size);
    reg_write(cpu, &insn->operand[0], r, size);
    flags_set(cpu, X86_CF, ((a & b) | ((a | b) & ~r)) >> (8 * size - 1) & 1);
}

void x86_op_adox(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t a = reg_read(cpu, &insn->operand[0], size), b = operand_read(cpu, insn, 1, size);
    uint64_t r = (a + b + (x86_hot(cpu)->rflags >> 11 & 1)) & size_mask(size);
    reg_write(cpu, &insn->operand[0], r, size);
    flags_set(cpu, X86_OF, (((a & b) | ((a | b) & ~r)) >> (8 * size - 1) & 1) << 11);
}

/* --- flags --- */

void x86_op_clc(X86Cpu *cpu, const X86Insn *insn)
{
    flags_set(cpu, X86_CF, 0);
}

void x86_op_stc(X86Cpu *cpu, const X86Insn *insn)
{
    flags_set(cpu, X86_CF, X86_CF);
}

void x86_op_cmc(X86Cpu *cpu, const X86Insn *insn)
{
    x86_hot(cpu)->rflags ^= X86_CF;
}

void x86_op_cld(X86Cpu *cpu, const X86Insn *insn)
{
    flags_set(cpu, X86_DF, 0);
}

void x86_op_std(X86Cpu *cpu, const X86Insn *insn)
{
    flags_set(cpu, X86_DF, X86_DF);
}

enum { AH_FLAGS = X86_SF | X86_ZF | X86_AF | X86_PF | X86_CF };

/* In 64-bit mode LAHF and SAHF have a feature bit of their own. */
static void check_lahf(X86Cpu *cpu)
{
    if (mode64(cpu) && !(cpu->features[X86_FEAT_8000_0001_ECX] & 1)) {
        x86_ud(cpu);
    }
}

void x86_op_sahf(X86Cpu *cpu, const X86Insn *insn)
{
    check_lahf(cpu);
    flags_set(cpu, AH_FLAGS, x86_gpr(cpu)[X86_RAX] >> 8 & AH_FLAGS);
}

void x86_op_lahf(X86Cpu *cpu, const X86Insn *insn)
{
    check_lahf(cpu);
    uint64_t *rax = &x86_gpr(cpu)[X86_RAX];
    *rax = (*rax & ~0xff00ull) | ((x86_hot(cpu)->rflags & AH_FLAGS) | 2) << 8;
}

void x86_op_salc(X86Cpu *cpu, const X86Insn *insn)
{
    gpr_write(cpu, X86_RAX, x86_hot(cpu)->rflags & X86_CF ? 0xff : 0, 1);
}

/* --- decimal adjustment --- */

static void decimal_adjust(X86Cpu *cpu, bool subtract)
{
    uint64_t flags = x86_hot(cpu)->rflags;
    uint8_t old = (uint8_t)x86_gpr(cpu)[X86_RAX], al = old;
    bool carry = false, adjust = (old & 15) > 9 || flags & X86_AF;
    if (adjust) {
        al = subtract ? al - 6 : al + 6;
        carry = (flags & X86_CF) || (subtract ? old < 6 : old > 0xf9);
    }
    if (old > 0x99 || flags & X86_CF) {
        al = subtract ? al - 0x60 : al + 0x60;
        carry = true;
    }
    gpr_write(cpu, X86_RAX, al, 1);
    flags_set(cpu, X86_ARITH, flags_szp(al, 1) | (carry ? X86_CF : 0) | (adjust ? X86_AF : 0));
}

void x86_op_daa(X86Cpu *cpu, const X86Insn *insn)
{
    decimal_adjust(cpu, false);
}

void x86_op_das(X86Cpu *cpu, const X86Insn *insn)
{
    decimal_adjust(cpu, true);
}

static void ascii_adjust(X86Cpu *cpu, int by)
{
    uint16_t ax = (uint16_t)x86_gpr(cpu)[X86_RAX];
    bool adjust = (ax & 15) > 9 || x86_hot(cpu)->rflags & X86_AF;
    if (adjust) {
        ax = (uint16_t)(ax + by);
    }
    ax &= 0xff0f;
    gpr_write(cpu, X86_RAX, ax, 2);
    flags_set(cpu, X86_ARITH, flags_szp(ax & 0xff, 1) | (adjust ? X86_AF | X86_CF : 0));
}

void x86_op_aaa(X86Cpu *cpu, const X86Insn *insn)
{
    ascii_adjust(cpu, 0x106);
}

void x86_op_aas(X86Cpu *cpu, const X86Insn *insn)
{
    ascii_adjust(cpu, -0x106);
}

void x86_op_aam(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t base = (uint8_t)insn->imm, al = (uint8_t)x86_gpr(cpu)[X86_RAX];
    if (base == 0) {
        x86_raise(cpu, EXC_DE);
    }
    gpr_write(cpu, X86_RAX, (uint64_t)(al / base) << 8 | al % base, 2);
    flags_set(cpu, X86_ARITH, flags_szp(al % base, 1));
}

void x86_op_aad(X86Cpu *cpu, const X86Insn *insn)
{
    uint16_t ax = (uint16_t)x86_gpr(cpu)[X86_RAX];
    uint8_t b = (uint8_t)((ax >> 8) * (uint8_t)insn->imm), a = (uint8_t)ax, r = (uint8_t)(a + b);
    gpr_write(cpu, X86_RAX, r, 2);
    flags_set(cpu, X86_ARITH, alu_flags(ALU_ADD, a, b, r, 1)); /* an addition inside */
}
