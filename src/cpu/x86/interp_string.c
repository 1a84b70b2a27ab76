/*
 * String instructions and INS/OUTS, with REP. Registers are up to date after every element, so a
 * fault or an interrupt leaves the instruction restartable: it then stays at its own address. Intel
 * SDM volume 1, 7.3.9; volume 2, REP.
 *
 * MOVS, and STOS forward, work by runs inside a page of the source and of the destination when both
 * are plain RAM.
 */
#include <stdatomic.h>
#include <string.h>

#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/svm.h"

enum {
    ELEMENTS_PER_POLL = 4096,
    ELEMENTS_COUNTED = 65536, /* of one counted instruction, whatever the TLB holds */
};

typedef struct Repeat {
    uint64_t mask;  /* of the address size */
    uint64_t flags; /* of the last comparison: committed at the end; faults and traps before leave
                       the flags alone */
    bool compared, paused;
    unsigned size;
    int64_t step;
    bool repeated;
} Repeat;

static Repeat repeat_of(X86Cpu *cpu, const X86Insn *insn)
{
    return (Repeat) {
        .mask = size_mask(insn->asize),
        .size = insn->osize,
        .step = x86_hot(cpu)->rflags & X86_DF ? -(int64_t)insn->osize : (int64_t)insn->osize,
        .repeated = insn->prefixes & (PFX_REP | PFX_REPNE),
    };
}

static ALWAYS_INLINE void advance(X86Cpu *cpu, const X86Insn *insn, unsigned reg, int64_t by)
{
    gpr_write(cpu, reg, x86_gpr(cpu)[reg] + (uint64_t)by, insn->asize);
}

static ALWAYS_INLINE uint64_t source_address(X86Cpu *cpu, const X86Insn *insn, const Repeat *r)
{
    return x86_linear(cpu, insn->seg, x86_gpr(cpu)[X86_RSI] & r->mask, r->size, false);
}

static ALWAYS_INLINE uint64_t target_address(X86Cpu *cpu, const Repeat *r, bool write)
{
    return x86_linear(cpu, X86_ES, x86_gpr(cpu)[X86_RDI] & r->mask, r->size, write);
}

typedef bool Element(X86Cpu *cpu, const X86Insn *insn,
                     Repeat *r); /* false: the condition ends REP */

static bool must_pause(X86Cpu *cpu, unsigned done)
{
    uint32_t requests = atomic_load_explicit(&x86_hot(cpu)->exit_req, memory_order_relaxed);
    bool stop = cpu->interp_stop;
    if (cpu->counted) { /* a pause counts as an instruction: not for what comes at any moment, or depends on who executes */
        requests &= ~(uint32_t)(VCPU_REQ_WORK | VCPU_REQ_STOP | VCPU_REQ_RESET);
        stop = false;
    }
    return requests != 0 || x86_hot(cpu)->rflags & X86_TF || stop || done >= ELEMENTS_PER_POLL;
}

/* Runs elements until rCX is used up, the condition ends it, or somebody wants the CPU. */
static ALWAYS_INLINE void repeat_elements(X86Cpu *cpu, const X86Insn *insn, Repeat *r,
                                          Element *element)
{
    if (!r->repeated) {
        element(cpu, insn, r);
        return;
    }
    for (unsigned done = 0;;) {
        uint64_t left = x86_gpr(cpu)[X86_RCX] & r->mask;
        if (left == 0) {
            gpr_write(cpu, X86_RCX, 0, MAX(insn->asize, 2));
            return;
        }
        bool go_on = element(cpu, insn, r);
        gpr_write(cpu, X86_RCX, left - 1, insn->asize);
        if (!go_on || left == 1) {
            return;
        }
        if (must_pause(cpu, ++done)) {
            r->paused = true;
            cpu->next_rip = x86_hot(cpu)->rip;
            cpu->interp_stop = true;
            return;
        }
    }
}

/*
 * With 32-bit addresses in 64-bit mode the upper halves of registers go even when the first element
 * faults: rCX of all, the pointers of MOVS and STOS, and theirs even when there is nothing to do.
 */
static void truncate_registers(X86Cpu *cpu, const X86Insn *insn, const Repeat *r, bool source,
                               bool target)
{
    uint64_t *gpr = x86_gpr(cpu);
    if (insn->asize == 4 && r->repeated) {
        gpr[X86_RCX] = (uint32_t)gpr[X86_RCX];
        gpr[X86_RSI] = source ? (uint32_t)gpr[X86_RSI] : gpr[X86_RSI];
        gpr[X86_RDI] = target ? (uint32_t)gpr[X86_RDI] : gpr[X86_RDI];
    }
}

static ALWAYS_INLINE void repeat(X86Cpu *cpu, const X86Insn *insn, Repeat *r, Element *element)
{
    repeat_elements(cpu, insn, r, element);
    if (r->compared && !r->paused) {
        flags_set(cpu, X86_ARITH, r->flags);
    }
}

/* --- MOVS --- */

static bool movs_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    uint64_t value = x86_load(cpu, source_address(cpu, insn, r), r->size);
    x86_store(cpu, target_address(cpu, r, true), value, r->size);
    advance(cpu, insn, X86_RSI, r->step);
    advance(cpu, insn, X86_RDI, r->step);
    return true;
}

/* Bytes from an offset up to where its address, its page or the address size ends. */
static uint64_t room(uint64_t va, uint64_t offset, uint64_t mask)
{
    uint64_t page = MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1));
    uint64_t wrap = mask - offset; /* one less than there is: never reaches the last byte */
    return MIN(page, wrap);
}

/* Whether [offset, offset + length) lies inside a segment as its first element did. */
static bool segment_holds(X86Cpu *cpu, unsigned n, uint64_t offset, uint64_t length)
{
    const X86Seg *seg = &cpu->seg[n];
    if (mode64(cpu)) {
        return true;
    }
    return (seg->attr & (8 | 4)) == 4 ? false : offset + length - 1 <= seg->limit;
}

/* A forward run by host pointers; the count of elements done, 0 when the slow way must be gone. */
static uint64_t movs_run(X86Cpu *cpu, const X86Insn *insn, const Repeat *r, uint64_t left)
{
    uint64_t from = x86_gpr(cpu)[X86_RSI] & r->mask, to = x86_gpr(cpu)[X86_RDI] & r->mask;
    uint64_t source = x86_linear(cpu, insn->seg, from, r->size, false);
    const uint8_t *s = x86_tlb_hit(cpu, source, r->size, false);
    if (s == NULL) { /* a fault there comes before one of the target */
        return 0;
    }
    uint64_t target = x86_linear(cpu, X86_ES, to, r->size, true);
    uint64_t bytes = MIN(room(source, from, r->mask), room(target, to, r->mask));
    uint64_t count = MIN(left, bytes / r->size);
    bytes = count * r->size;
    if (count < 2 || !segment_holds(cpu, insn->seg, from, bytes) ||
        !segment_holds(cpu, X86_ES, to, bytes)) {
        return 0;
    }
    uint8_t *t = x86_tlb_hit(cpu, target, 1, true);
    if (t == NULL) {
        return 0;
    }
    if (t > s && t < s + bytes) { /* a pattern that grows: element by element */
        for (uint64_t i = 0; i < bytes; i += r->size) {
            st_le(t + i, ld_le(s + i, r->size), r->size);
        }
    } else {
        memmove(t, s, bytes);
    }
    advance(cpu, insn, X86_RSI, (int64_t)bytes);
    advance(cpu, insn, X86_RDI, (int64_t)bytes);
    return count;
}

/* Elements from an address downward that lie in its page, and in the address size without its very first one. */
static uint64_t elements_down(uint64_t va, uint64_t offset, unsigned size)
{
    uint64_t in_page = va & (MEM_PAGE_SIZE - 1);
    return in_page + size > MEM_PAGE_SIZE ? 0 : MIN(in_page / size + 1, offset / size);
}

/* The same downward: kernels that unpack themselves move so. */
static uint64_t movs_run_down(X86Cpu *cpu, const X86Insn *insn, const Repeat *r, uint64_t left)
{
    uint64_t from = x86_gpr(cpu)[X86_RSI] & r->mask, to = x86_gpr(cpu)[X86_RDI] & r->mask;
    uint64_t source = x86_linear(cpu, insn->seg, from, r->size, false);
    const uint8_t *s = x86_tlb_hit(cpu, source, r->size, false);
    if (s == NULL) {
        return 0;
    }
    uint64_t target = x86_linear(cpu, X86_ES, to, r->size, true);
    uint64_t count = MIN(left, MIN(elements_down(source, from, r->size), elements_down(target, to, r->size)));
    uint64_t bytes = count * r->size, below = bytes - r->size;
    if (count < 2 || !segment_holds(cpu, insn->seg, from - below, bytes) || !segment_holds(cpu, X86_ES, to - below, bytes)) {
        return 0;
    }
    uint8_t *t = x86_tlb_hit(cpu, target, r->size, true);
    if (t == NULL) {
        return 0;
    }
    if (t < s && s < t + bytes) { /* a pattern that grows: element by element */
        for (uint64_t i = 0; i < bytes; i += r->size) {
            st_le(t - i, ld_le(s - i, r->size), r->size);
        }
    } else {
        memmove(t - below, s - below, bytes);
    }
    advance(cpu, insn, X86_RSI, -(int64_t)bytes);
    advance(cpu, insn, X86_RDI, -(int64_t)bytes);
    return count;
}

/* --- STOS --- */

static bool stos_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    x86_store(cpu, target_address(cpu, r, true), gpr_read(cpu, X86_RAX, r->size), r->size);
    advance(cpu, insn, X86_RDI, r->step);
    return true;
}

static void fill(uint8_t *t, uint64_t value, unsigned size, uint64_t bytes)
{
    if (size == 1 || value << (64 - 8 * size) == ((uint8_t)value * 0x0101010101010101ull) << (64 - 8 * size)) {
        memset(t, (uint8_t)value, bytes); /* clearing memory above all */
        return;
    }
    for (uint64_t i = 0; i < bytes; i += size) {
        st_le(t + i, value, size);
    }
}

static uint64_t stos_run(X86Cpu *cpu, const X86Insn *insn, const Repeat *r, uint64_t left)
{
    uint64_t to = x86_gpr(cpu)[X86_RDI] & r->mask;
    uint64_t target = x86_linear(cpu, X86_ES, to, r->size, true);
    uint64_t count = MIN(left, room(target, to, r->mask) / r->size), bytes = count * r->size;
    if (count < 2 || !segment_holds(cpu, X86_ES, to, bytes)) {
        return 0;
    }
    uint8_t *t = x86_tlb_hit(cpu, target, 1, true);
    if (t == NULL) {
        return 0;
    }
    fill(t, gpr_read(cpu, X86_RAX, r->size), r->size, bytes);
    advance(cpu, insn, X86_RDI, (int64_t)bytes);
    return count;
}

/* --- REP by runs --- */

typedef uint64_t Run(X86Cpu *cpu, const X86Insn *insn, const Repeat *r, uint64_t left);

static ALWAYS_INLINE void repeat_runs(X86Cpu *cpu, const X86Insn *insn, Element *element, Run *up, Run *down,
                                      bool source)
{
    Repeat r = repeat_of(cpu, insn);
    Run *run = r.step < 0 ? down : up;
    truncate_registers(cpu, insn, &r, source, true);
    if (!r.repeated || run == NULL || x86_hot(cpu)->rflags & X86_TF) {
        repeat(cpu, insn, &r, element);
        return;
    }
    uint64_t most = cpu->counted ? ELEMENTS_COUNTED : ~0ull;
    for (unsigned pieces = 0;;) { /* runs and single elements */
        uint64_t left = x86_gpr(cpu)[X86_RCX] & r.mask;
        if (left == 0) {
            gpr_write(cpu, X86_RCX, 0, MAX(insn->asize, 2));
            return;
        }
        uint64_t done = run(cpu, insn, &r, MIN(left, most));
        if (done == 0) { /* one the slow way: it fills the TLB, faults, or reaches a device */
            element(cpu, insn, &r);
            done = 1;
        }
        gpr_write(cpu, X86_RCX, left - done, insn->asize);
        most -= done;
        if (left != done && (most == 0 || must_pause(cpu, cpu->counted ? 0 : ++pieces))) {
            cpu->next_rip = x86_hot(cpu)->rip;
            cpu->interp_stop = true;
            return;
        }
    }
}

void x86_op_movs(X86Cpu *cpu, const X86Insn *insn)
{
    repeat_runs(cpu, insn, movs_element, movs_run, movs_run_down, true);
}

void x86_op_stos(X86Cpu *cpu, const X86Insn *insn)
{
    repeat_runs(cpu, insn, stos_element, stos_run, NULL, false);
}

/* --- LODS, SCAS, CMPS --- */

static bool lods_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    gpr_write(cpu, X86_RAX, x86_load(cpu, source_address(cpu, insn, r), r->size), r->size);
    advance(cpu, insn, X86_RSI, r->step);
    return true;
}

void x86_op_lods(X86Cpu *cpu, const X86Insn *insn)
{
    Repeat r = repeat_of(cpu, insn);
    truncate_registers(cpu, insn, &r, false, false);
    repeat(cpu, insn, &r, lods_element);
}

static ALWAYS_INLINE bool compare(Repeat *repeat, const X86Insn *insn, uint64_t a, uint64_t b)
{
    unsigned size = repeat->size;
    uint64_t r = (a - b) & size_mask(size);
    unsigned top = 8 * size - 1;
    uint64_t carry = (~a & b) | ((~a | b) & r), overflow = (a ^ b) & (a ^ r);
    repeat->flags = flags_szp(r, size) | (carry >> top & 1) | (overflow >> top & 1) << 11 |
                    ((a ^ b ^ r) & X86_AF);
    repeat->compared = true;
    return insn->prefixes & PFX_REPNE ? r != 0 : r == 0;
}

static bool scas_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    uint64_t b = x86_load(cpu, target_address(cpu, r, false), r->size);
    advance(cpu, insn, X86_RDI, r->step);
    return compare(r, insn, gpr_read(cpu, X86_RAX, r->size), b);
}

void x86_op_scas(X86Cpu *cpu, const X86Insn *insn)
{
    Repeat r = repeat_of(cpu, insn);
    truncate_registers(cpu, insn, &r, false, false);
    repeat(cpu, insn, &r, scas_element);
}

static bool cmps_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    uint64_t b =
        x86_load(cpu, target_address(cpu, r, false), r->size); /* hosts read the target first */
    uint64_t a = x86_load(cpu, source_address(cpu, insn, r), r->size);
    advance(cpu, insn, X86_RSI, r->step);
    advance(cpu, insn, X86_RDI, r->step);
    return compare(r, insn, a, b);
}

void x86_op_cmps(X86Cpu *cpu, const X86Insn *insn)
{
    Repeat r = repeat_of(cpu, insn);
    truncate_registers(cpu, insn, &r, false, false);
    repeat(cpu, insn, &r, cmps_element);
}

/* --- INS, OUTS --- */

static bool ins_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    uint64_t target = target_address(cpu, r, true), value = size_mask(r->size);
    x86_check(cpu, target, r->size, X86_WRITE, X86_AS_CPL); /* before the device sees the read */
    mem_load(cpu->io, (uint16_t)x86_gpr(cpu)[X86_RDX], r->size, &value);
    x86_store(cpu, target, value, r->size);
    advance(cpu, insn, X86_RDI, r->step);
    return true;
}

static bool outs_element(X86Cpu *cpu, const X86Insn *insn, Repeat *r)
{
    uint64_t value = x86_load(cpu, source_address(cpu, insn, r), r->size);
    mem_store(cpu->io, (uint16_t)x86_gpr(cpu)[X86_RDX], r->size, value);
    advance(cpu, insn, X86_RSI, r->step);
    return true;
}

void x86_op_ins(X86Cpu *cpu, const X86Insn *insn)
{
    Repeat r = repeat_of(cpu, insn);
    x86_check_io(cpu, (uint16_t)x86_gpr(cpu)[X86_RDX], r.size);
    x86_svm_check_io(cpu, insn, (uint16_t)x86_gpr(cpu)[X86_RDX], r.size);
    repeat(cpu, insn, &r, ins_element);
}

void x86_op_outs(X86Cpu *cpu, const X86Insn *insn)
{
    Repeat r = repeat_of(cpu, insn);
    x86_check_io(cpu, (uint16_t)x86_gpr(cpu)[X86_RDX], r.size);
    x86_svm_check_io(cpu, insn, (uint16_t)x86_gpr(cpu)[X86_RDX], r.size);
    repeat(cpu, insn, &r, outs_element);
}
