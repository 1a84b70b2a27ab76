/*
 * Operands of instructions: effective addresses with the checks of segmentation, read-modify-write
 * with and without LOCK, stack accesses, near branches. Intel SDM volume 1, 3.7 (addressing),
 * volume 3, 5.3 (limits), 3.3.7.1 (canonical addresses), 8.1 (LOCK).
 */
#include "cpu/x86/interp_priv.h"

bool x86_is_canonical(const X86Cpu *cpu, uint64_t va)
{
    unsigned bits = cpu->cr4 & CR4_LA57 ? 57 : 48;
    return sign_extend64(va, bits) == va;
}

static NORETURN void raise_limit(X86Cpu *cpu, unsigned seg)
{
    x86_raise_error(cpu, seg == X86_SS ? EXC_SS : EXC_GP, 0);
}

/* Type and limit of a segment in legacy and compatibility mode. */
static void check_segment(X86Cpu *cpu, unsigned n, uint32_t offset, unsigned size, bool write)
{
    const X86Seg *seg = &cpu->seg[n];
    uint32_t last = offset + size - 1;
    if (!real_or_vm86(cpu)) {
        unsigned type = seg->attr & SEG_TYPE;
        if (!(seg->attr & SEG_P)) { /* a null selector */
            raise_limit(cpu, n);
        }
        if (write ? (type & 8) || !(type & 2) : (type & 8) && !(type & 2)) {
            x86_gp(cpu, 0);
        }
    }
    if ((seg->attr & (8 | 4)) == 4) { /* expand-down: limit is the last offset that is outside */
        uint32_t top = seg->attr & SEG_DB ? 0xffffffff : 0xffff;
        if (offset <= seg->limit || last < offset || last > top) {
            raise_limit(cpu, n);
        }
    } else if (last > seg->limit ||
               (last < offset && seg->limit != 0xffffffff)) { /* 4 GiB: wraps */
        raise_limit(cpu, n);
    }
}

static uint64_t linear64(X86Cpu *cpu, unsigned seg, uint64_t offset, unsigned size)
{
    uint64_t va = offset;
    if (unlikely(seg == X86_FS)) {
        va += x86_hot(cpu)->fs_base;
    } else if (unlikely(seg == X86_GS)) {
        va += x86_hot(cpu)->gs_base;
    }
    uint64_t end = va + size - 1;
    if (likely((((va >> 47) + 1) & 0x1ffff) <= 1 && ((end ^ va) >> 47) == 0)) {
        return va;
    }
    if (!x86_is_canonical(cpu, va) || !x86_is_canonical(cpu, end)) {
        raise_limit(cpu, seg);
    }
    return va;
}

/* CR0.AM, EFLAGS.AC and CPL 3: #AC. Vector operands have rules of their own. */
static uint64_t aligned(X86Cpu *cpu, uint64_t va, unsigned size)
{
    if (size <= 8 && IS_POW2(size) && va & (size - 1)) {
        x86_raise_error(cpu, EXC_AC, 0);
    }
    return va;
}

uint64_t x86_linear(X86Cpu *cpu, unsigned seg, uint64_t offset, unsigned size, bool write)
{
    uint32_t mode = x86_hot(cpu)->mode;
    if (mode & X86_MODE_CS64) {
        uint64_t va = linear64(cpu, seg, offset, size);
        return unlikely(mode & X86_MODE_AC) ? aligned(cpu, va, size) : va;
    }
    offset = (uint32_t)offset;
    if (likely(mode & X86_MODE_FLAT && seg < X86_FS)) {
        if (likely(!(write && seg == X86_CS) && offset <= 0xfffffffful - (size - 1))) {
            return unlikely(mode & X86_MODE_AC) ? aligned(cpu, offset, size) : offset;
        }
    }
    check_segment(cpu, seg, (uint32_t)offset, size, write);
    uint64_t va = (uint32_t)(cpu->seg[seg].base + offset);
    return unlikely(mode & X86_MODE_AC) ? aligned(cpu, va, size) : va;
}

uint64_t x86_ea_offset(X86Cpu *cpu, const X86Insn *insn)
{
    return operand_offset(cpu, insn);
}

uint64_t x86_ea(X86Cpu *cpu, const X86Insn *insn, unsigned size, bool write)
{
    return operand_address(cpu, insn, size, write);
}

uint64_t x86_operand_get(X86Cpu *cpu, const X86Insn *insn, unsigned n)
{
    return operand_read(cpu, insn, n, insn->operand[n].size);
}

void x86_operand_set(X86Cpu *cpu, const X86Insn *insn, unsigned n, uint64_t value)
{
    operand_write(cpu, insn, n, value, insn->operand[n].size);
}

/* --- read-modify-write --- */

static uint64_t atomic_read(const void *p, unsigned size)
{
    switch (size) {
    case 1:
        return __atomic_load_n((const uint8_t *)p, __ATOMIC_SEQ_CST);
    case 2:
        return __atomic_load_n((const uint16_t *)p, __ATOMIC_SEQ_CST);
    case 4:
        return __atomic_load_n((const uint32_t *)p, __ATOMIC_SEQ_CST);
    default:
        return __atomic_load_n((const uint64_t *)p, __ATOMIC_SEQ_CST);
    }
}

#define EXCHANGE(bits)                                                                             \
    {                                                                                              \
        uint##bits##_t expected = (uint##bits##_t) * old;                                          \
        bool done =                                                                                \
            __atomic_compare_exchange_n((uint##bits##_t *)p, &expected, (uint##bits##_t)value,     \
                                        false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                \
        *old = expected;                                                                           \
        return done;                                                                               \
    }
static bool atomic_exchange_if(void *p, uint64_t *old, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        EXCHANGE(8)
    case 2:
        EXCHANGE(16)
    case 4:
        EXCHANGE(32)
    default:
        EXCHANGE(64)
    }
}

uint64_t x86_rmw_begin_memory(X86Cpu *cpu, const X86Insn *insn, unsigned size, Rmw *rmw)
{
    uint64_t va = operand_address(cpu, insn, size, true);
    rmw->memory = true;
    rmw->va = va;
    rmw->locked = insn->prefixes & PFX_LOCK || insn->op == X86_OP_XCHG;
    rmw->split = false;
    if (unlikely(rmw->locked)) {
        rmw->host = x86_atomic_ptr(cpu, va, size);
        if (likely(rmw->host != NULL)) {
            return atomic_read(rmw->host, size);
        }
        x86_check(cpu, va, size, X86_RMW, X86_AS_CPL);
        x86_split_lock(cpu);
        rmw->split = true;
        return x86_load(cpu, va, size);
    }
    rmw->host = x86_tlb_hit(cpu, va, size, true);
    if (likely(rmw->host != NULL)) {
        return ld_le(rmw->host, size);
    }
    x86_check(cpu, va, size, X86_RMW, X86_AS_CPL);
    return x86_load(cpu, va, size);
}

bool x86_rmw_end_memory(X86Cpu *cpu, Rmw *rmw, uint64_t *old, uint64_t value, unsigned size)
{
    if (rmw->host != NULL) {
        if (unlikely(rmw->locked)) {
            return atomic_exchange_if(rmw->host, old, value, size);
        }
        st_le(rmw->host, value, size);
        return true;
    }
    x86_store(cpu, rmw->va, value, size);
    if (rmw->split) {
        x86_split_unlock(cpu);
    }
    return true;
}

/* --- stack --- */

uint64_t x86_stack_mask(const X86Cpu *cpu)
{
    uint32_t mode = x86_hot((X86Cpu *)cpu)->mode;
    return mode & X86_MODE_CS64 ? ~0ull : mode & X86_MODE_SS32 ? 0xffffffff : 0xffff;
}

/* The bits of rsp that the stack does not use stay. */
static ALWAYS_INLINE uint64_t stack_moved(uint64_t rsp, uint64_t to, uint64_t mask)
{
    return (rsp & ~mask) | (to & mask);
}

void x86_push_at(X86Cpu *cpu, uint64_t *rsp, uint64_t value, unsigned size)
{
    uint64_t mask = x86_stack_mask(cpu), to = (*rsp - size) & mask;
    x86_store(cpu, linear(cpu, X86_SS, to, size, true), value, size);
    *rsp = stack_moved(*rsp, to, mask);
}

uint64_t x86_pop_at(X86Cpu *cpu, uint64_t *rsp, unsigned size)
{
    uint64_t mask = x86_stack_mask(cpu), from = *rsp & mask;
    uint64_t value = x86_load(cpu, linear(cpu, X86_SS, from, size, false), size);
    *rsp = stack_moved(*rsp, from + size, mask);
    return value;
}

void x86_push(X86Cpu *cpu, uint64_t value, unsigned size)
{
    x86_push_at(cpu, &x86_gpr(cpu)[X86_RSP], value, size);
}

uint64_t x86_pop(X86Cpu *cpu, unsigned size)
{
    return x86_pop_at(cpu, &x86_gpr(cpu)[X86_RSP], size);
}

/* --- near branches --- */

void x86_jump(X86Cpu *cpu, uint64_t rip, unsigned osize)
{
    if (mode64(cpu)) {
        if (unlikely(!canonical(cpu, rip))) {
            x86_gp(cpu, 0);
        }
    } else {
        rip = osize == 2 ? (uint16_t)rip : (uint32_t)rip;
        if (unlikely(rip > cpu->seg[X86_CS].limit)) {
            x86_gp(cpu, 0);
        }
    }
    cpu->next_rip = rip;
}
