/*
 * Running vector and x87 instructions: checks, memory operands, exceptions, and what the host supports.
 *
 * Intel SDM volume 1 chapters 8 (x87) and 11 (SSE), volume 2 section 2.4 (exception classes), volume 3
 * section 2.5 (CR0.EM, MP, TS, NE). A pending x87 exception is reported before the next waiting
 * instruction: #MF, or with CR0.NE = 0 the FERR# line and the wait for the interrupt that it causes.
 */
#include "cpu/x86/native_priv.h"

#include "cpu/x86/mmu.h"
#include "cpu/x86/sys.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

void x86_fpu_reset(X86Cpu *cpu, bool init)
{
    if (init) {
        return;
    }
    memset(&cpu->fx, 0, sizeof(cpu->fx));
    memset(cpu->vec, 0, sizeof(cpu->vec));
    memset(cpu->opmask, 0, sizeof(cpu->opmask));
    cpu->fx.fcw = 0x40;
    cpu->fx.ftw = 0xff;
    cpu->fx.mxcsr = MXCSR_DEFAULT;
    cpu->fx.mxcsr_mask = MXCSR_MASK;
    cpu->fcs = cpu->fds = 0;
}

void x86_fpu_set_ferr(X86Cpu *cpu, const IrqLine *line)
{
    cpu->ferr = line;
}

void fpu_ferr_update(X86Cpu *cpu)
{
    if (cpu->ferr && !(cpu->fx.fsw & FSW_ES)) {
        irq_set(cpu->ferr, 0);
    }
}

/* --- checks --- */
void fpu_raise_pending(X86Cpu *cpu)
{
    if (x86_hot(cpu)->mode & X86_MODE_NE) {
        x86_raise(cpu, EXC_MF);
    }
    irq_set(cpu->ferr, 1);
    /* The processor waits in front of this instruction for the interrupt; with interrupts off there is
     * nothing to wait for and the exception is ignored, as with IGNNE#. */
    if (cpu->ferr && (x86_hot(cpu)->rflags & X86_IF)) {
        x86_leave(cpu);
    }
}

static inline void check_pending(X86Cpu *cpu)
{
    if (unlikely(cpu->fx.fsw & FSW_ES)) {
        fpu_raise_pending(cpu);
    }
}

void x86_fpu_check_x87(X86Cpu *cpu, bool wait)
{
    if (x86_hot(cpu)->mode & (X86_MODE_EM | X86_MODE_TS)) {
        x86_raise(cpu, EXC_NM);
    }
    if (wait) {
        check_pending(cpu);
    }
}

void x86_fpu_check_mmx(X86Cpu *cpu)
{
    if (x86_hot(cpu)->mode & X86_MODE_EM) {
        x86_ud(cpu);
    }
    x86_fpu_check_x87(cpu, true);
}

void x86_fpu_check_sse(X86Cpu *cpu)
{
    uint32_t mode = x86_hot(cpu)->mode;
    if ((mode & (X86_MODE_EM | X86_MODE_OSFXSR)) != X86_MODE_OSFXSR) {
        x86_ud(cpu);
    }
    if (mode & X86_MODE_TS) {
        x86_raise(cpu, EXC_NM);
    }
}

void x86_fpu_check_avx(X86Cpu *cpu)
{
    uint32_t mode = x86_hot(cpu)->mode, need = X86_MODE_OSXSAVE | X86_MODE_AVX | X86_MODE_PE;
    if ((mode & (need | X86_MODE_VM86)) != need) {
        x86_ud(cpu);
    }
    if (mode & X86_MODE_TS) {
        x86_raise(cpu, EXC_NM);
    }
}

/* The mode word forbids the instruction: finds out why, and raises that. */
static NORETURN void native_refuse(X86Cpu *cpu, const X86Insn *insn, const NativeStub *stub)
{
    uint32_t mode = x86_hot(cpu)->mode;
    if ((mode & stub->mode_set) != stub->mode_set || (mode & stub->mode_clear & X86_MODE_VM86)) {
        x86_ud(cpu);
    }
    if ((mode & X86_MODE_EM) && insn->desc->cls != CLASS_X87) {
        x86_ud(cpu);
    }
    x86_raise(cpu, EXC_NM);
}

/* --- running --- */

/* An x87 instruction other than the control ones leaves its own address: replaces the host's by the guest's. */
static void record_pointers(X86Cpu *cpu, const X86Insn *insn, const NativeStub *stub, uint64_t old_fip,
                            uint64_t old_fdp)
{
    X86Fx *fx = &cpu->fx;
    if (fx->fip - (uintptr_t)stub->run >= NATIVE_STUB_MAX) {
        return; /* the host did not touch it */
    }
    bool selectors = !(cpu->features[X86_FEAT_7_EBX] & BIT(13));
    fx->fip = x86_hot(cpu)->rip;
    cpu->fcs = selectors ? cpu->seg[X86_CS].sel : 0;
    if (fx->fsw & FSW_ES) {
        fx->fop = (uint16_t)((insn->opcode & 7) << 8 | insn->modrm);
    }
    bool every = !(cpu->features[X86_FEAT_7_EBX] & BIT(6)); /* else FDP is for unmasked exceptions only */
    if (stub->mem_size && (every || (fx->fsw & FSW_ES))) {
        fx->fdp = x86_ea_offset(cpu, insn);
        cpu->fds = selectors ? cpu->seg[insn->seg].sel : 0;
    } else {
        fx->fdp = old_fdp;
    }
}

static uint64_t run_guarded(X86Cpu *cpu, const NativeStub *stub, void *mem, uint64_t flags)
{
    uint64_t result;
    switch (native_run_guarded(cpu, stub, mem, flags, &result)) {
    case NATIVE_DONE:
        return result;
    case NATIVE_INVALID:
        x86_ud(cpu);
    default:
        if (stub->props & STUB_FX) {
            fpu_enter_mmx(cpu); /* comes before the conversion */
        }
        x86_raise(cpu, x86_hot(cpu)->mode & X86_MODE_OSXMMEXCPT ? EXC_XM : EXC_UD);
    }
}

static bool wants_guard(const X86Cpu *cpu, const NativeStub *stub)
{
    return (stub->props & STUB_NEW) ||
           ((stub->props & STUB_MXCSR) && (cpu->fx.mxcsr & MXCSR_DEFAULT) != MXCSR_DEFAULT);
}

/* A pending exception that is ignored (CR0.NE = 0) must not stop the host: taken out for one instruction. */
static uint16_t hide_pending(X86Cpu *cpu)
{
    uint16_t pending = cpu->fx.fsw & ~cpu->fx.fcw & FSW_FLAGS;
    cpu->fx.fsw &= (uint16_t)~(pending | FSW_ES | FSW_B);
    return pending;
}

static void stub_run(X86Cpu *cpu, const X86Insn *insn, const NativeStub *stub, void *mem)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t old_fip = cpu->fx.fip, old_fdp = cpu->fx.fdp, flags = hot->rflags & X86_ARITH;
    uint16_t ignored = unlikely((cpu->fx.fsw & FSW_ES) && (stub->props & STUB_FX)) ? hide_pending(cpu) : 0;
    flags = unlikely(wants_guard(cpu, stub)) ? run_guarded(cpu, stub, mem, flags) : stub->run(cpu, mem, flags);
    if (stub->props & STUB_FLAGS_OUT) {
        hot->rflags = (hot->rflags & ~(uint64_t)stub->flags_mask) | (flags & stub->flags_mask);
    }
    if (stub->props & STUB_X87) {
        record_pointers(cpu, insn, stub, old_fip, old_fdp);
    }
    if (unlikely(ignored)) {
        cpu->fx.fsw |= ignored;
        fpu_update_summary(cpu);
    }
}

/* Operands behind no direct pointer: not mapped yet, crossing pages, MMIO, ROM, watched. */
static void run_buffered(X86Cpu *cpu, const X86Insn *insn, const NativeStub *stub, uint64_t va)
{
    uint8_t buf[64] __attribute__((aligned(64))) = { 0 };
    unsigned size = stub->mem_size;
    if (stub->props & STUB_MEM_WRITE) {
        x86_check(cpu, va, size, X86_WRITE, X86_AS_CPL);
        stub_run(cpu, insn, stub, buf);
        x86_store_bytes(cpu, va, buf, size, X86_AS_CPL);
    } else {
        x86_load_bytes(cpu, va, buf, size, X86_AS_CPL);
        stub_run(cpu, insn, stub, buf);
    }
}

/* VCVTPS2PH: its floating-point exceptions come before those of the store. */
static void run_converting_store(X86Cpu *cpu, const X86Insn *insn, const NativeStub *stub)
{
    uint8_t buf[64] __attribute__((aligned(64)));
    stub_run(cpu, insn, stub, buf);
    x86_store_bytes(cpu, fpu_ea_at(cpu, insn, 0, stub->mem_size, true), buf, stub->mem_size, X86_AS_CPL);
}

/*
 * An x87 store of 10 bytes, or one of which exceptions are unmasked: any but the inexact result keeps the value from being
 * stored, and then the address is never looked at. If it is, a fault there leaves the x87 state alone.
 */
static void run_x87_store(X86Cpu *cpu, const X86Insn *insn, const NativeStub *stub)
{
    uint8_t buf[64] __attribute__((aligned(64))) = { 0 };
    struct { uint8_t bytes[offsetof(X86Fx, xmm)]; } before, after;
    uint16_t fcs = cpu->fcs, fds = cpu->fds;
    memcpy(&before, &cpu->fx, sizeof(before));
    stub_run(cpu, insn, stub, buf);
    if (cpu->fx.fsw & ~cpu->fx.fcw & 0x1f) {
        return;
    }
    memcpy(&after, &cpu->fx, sizeof(after));
    uint16_t new_fcs = cpu->fcs, new_fds = cpu->fds;
    memcpy(&cpu->fx, &before, sizeof(before));
    cpu->fcs = fcs;
    cpu->fds = fds;
    unsigned size = stub->mem_size;
    uint64_t va = x86_ea(cpu, insn, size, true);
    if (size == 10) { /* two stores; the second may fault */
        fpu_check_ac(cpu, va, 8);
        x86_store(cpu, va, ld64_le(buf), 8);
        x86_store(cpu, va + 8, ld16_le(buf + 8), 2);
    } else {
        x86_store_bytes(cpu, va, buf, size, X86_AS_CPL);
    }
    memcpy(&cpu->fx, &after, sizeof(after));
    cpu->fcs = new_fcs;
    cpu->fds = new_fds;
}

uint64_t fpu_ea_at(X86Cpu *cpu, const X86Insn *insn, int64_t offset, unsigned size, bool write)
{
    X86Insn at = *insn;
    at.disp += offset;
    if (unlikely(x86_hot(cpu)->mode & X86_MODE_AC) && size > 1) {
        /* Both ends as bytes, which are always aligned. */
        uint64_t va = x86_ea(cpu, &at, 1, write);
        at.disp += size - 1;
        x86_ea(cpu, &at, 1, write);
        return va;
    }
    return x86_ea(cpu, &at, size, write);
}

void fpu_check_ac(X86Cpu *cpu, uint64_t va, unsigned align)
{
    if (unlikely(x86_hot(cpu)->mode & X86_MODE_AC) && (va & (align - 1))) {
        x86_raise_error(cpu, EXC_AC, 0);
    }
}

/* Misalignment comes before a non-canonical address, which may be #SS. */
void fpu_check_alignment(X86Cpu *cpu, const X86Insn *insn, unsigned size)
{
    if ((x86_ea_offset(cpu, insn) + cpu->seg[insn->seg].base) & (size - 1)) {
        x86_gp(cpu, 0);
    }
}

void x86_op_native(X86Cpu *cpu, const X86Insn *insn)
{
    const NativeStub *stub = native_stub(cpu, insn);
    uint32_t mode = x86_hot(cpu)->mode;
    if (unlikely(stub->props & STUB_UD)) {
        x86_ud(cpu);
    }
    if (unlikely(((mode & stub->mode_set) ^ stub->mode_set) | (mode & stub->mode_clear))) {
        native_refuse(cpu, insn, stub);
    }
    if (stub->props & STUB_WAITS) {
        check_pending(cpu);
    }
    if (stub->handler) {
        stub->handler(cpu, insn);
        return;
    }
    unsigned size = stub->mem_size;
    if (!size) {
        stub_run(cpu, insn, stub, NULL);
        return;
    }
    bool write = stub->props & STUB_MEM_WRITE;
    if (write && (stub->props & STUB_MMX)) {
        fpu_set_fsw(cpu, cpu->fx.fsw & (uint16_t)~FSW_TOP); /* even when the store faults */
    }
    if (write && (stub->props & STUB_X87) && (size == 10 || (cpu->fx.fcw & FSW_FLAGS) != FSW_FLAGS)) {
        run_x87_store(cpu, insn, stub);
        return;
    }
    if (write && (stub->props & STUB_MXCSR)) {
        run_converting_store(cpu, insn, stub);
        return;
    }
    if (stub->props & STUB_ALIGN) {
        fpu_check_alignment(cpu, insn, size);
    }
    uint64_t va = stub->props & STUB_NO_AC ? fpu_ea_at(cpu, insn, 0, size, write) : x86_ea(cpu, insn, size, write);
    if (size == 10) {
        fpu_check_ac(cpu, va, 8);
    }
    void *host = x86_tlb_hit(cpu, va, size, write);
    if (likely(host != NULL)) {
        stub_run(cpu, insn, stub, host);
    } else {
        run_buffered(cpu, insn, stub, va);
    }
}

X86Handler *fpu_special_handler(const X86Insn *insn)
{
    return insn->desc->cls == CLASS_X87 ? fpu_x87_special(insn) : fpu_vector_special(insn);
}

void x86_op_maskmovq(X86Cpu *cpu, const X86Insn *insn)
{
    x86_op_native(cpu, insn);
}
void x86_op_maskmovdqu(X86Cpu *cpu, const X86Insn *insn)
{
    x86_op_native(cpu, insn);
}
void x86_op_gather(X86Cpu *cpu, const X86Insn *insn)
{
    x86_op_native(cpu, insn);
}

/* --- what the host has --- */
#ifdef __x86_64__
static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}
#endif

void x86_fpu_supported_features(uint32_t ret_features[X86_FEAT_WORDS])
{
    memset(ret_features, 0, sizeof(ret_features[0]) * X86_FEAT_WORDS);
#ifdef __x86_64__
    uint32_t a, b, c, d;
    __cpuid(1, a, b, c, d);
    bool avx = (c >> 27 & 1) && (c >> 28 & 1) && (host_xcr0() & 6) == 6;
    /* x87, MMX, FXSR, SSE, SSE2 belong to every 64-bit host. */
    ret_features[X86_FEAT_1_EDX] = BIT(0) | BIT(23) | BIT(24) | BIT(25) | BIT(26);
    /* SSE3, PCLMULQDQ, SSSE3, SSE4.1, SSE4.2, AES from the host; XSAVE is done here. */
    ret_features[X86_FEAT_1_ECX] = (c & (BIT(0) | BIT(1) | BIT(9) | BIT(19) | BIT(20) | BIT(25))) | BIT(26);
    if (avx) {
        ret_features[X86_FEAT_1_ECX] |= c & (BIT(12) | BIT(28) | BIT(29)); /* FMA, AVX, F16C */
    }
    /* FDP_EXCPTN_ONLY and ZERO_FCS_FDS are ways to behave; both are known. */
    ret_features[X86_FEAT_7_EBX] = BIT(6) | BIT(13);
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        ret_features[X86_FEAT_7_EBX] |= b & (BIT(29) | (avx ? BIT(5) : 0));             /* SHA, AVX2 */
        ret_features[X86_FEAT_7_ECX] |= c & (BIT(8) | (avx ? BIT(9) | BIT(10) : 0)); /* GFNI, VAES, VPCLMUL */
    }
    ret_features[X86_FEAT_D_1_EAX] = 0xf; /* XSAVEOPT, XSAVEC, XGETBV(1), XSAVES */
    ret_features[X86_FEAT_8000_0001_EDX] = BIT(0) | BIT(23) | BIT(24) | BIT(25);
#endif
}
