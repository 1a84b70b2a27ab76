/*
 * Loading segment registers and system tables, LAR, LSL, VERR, VERW; stacks and frames that far transfers
 * and interrupts share. Intel SDM volume 2 (MOV, LLDT, LTR, LAR, LSL, VERR), volume 3 chapters 3 and 5.
 */
#include "cpu/x86/seg.h"

#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"

/* --- descriptors --- */

bool desc_fetch(X86Cpu *cpu, uint16_t selector, Desc *ret_desc, uint64_t *ret_addr)
{
    uint64_t base = cpu->gdt.base;
    uint32_t limit = cpu->gdt.limit;
    if (selector & 4) {
        if (!(cpu->ldt.attr & SEG_P) || (cpu->ldt.sel & 0xfffc) == 0) {
            return false;
        }
        base = cpu->ldt.base;
        limit = cpu->ldt.limit;
    }
    if ((selector | 7u) > limit) {
        return false;
    }
    *ret_addr = base + (selector & 0xfff8);
    if (!(cpu->efer & EFER_LMA)) {
        *ret_addr = (uint32_t)*ret_addr;
    }
    uint64_t raw = x86_load_sys(cpu, *ret_addr, 8);
    *ret_desc = (Desc) { (uint32_t)raw, (uint32_t)(raw >> 32) };
    return true;
}

bool desc_fetch_upper(X86Cpu *cpu, uint16_t selector, uint32_t *ret_upper)
{
    bool local = selector & 4;
    uint64_t base = local ? cpu->ldt.base : cpu->gdt.base;
    uint32_t limit = local ? cpu->ldt.limit : cpu->gdt.limit;
    if ((selector & 0xfff8u) + 15 > limit) {
        return false;
    }
    uint64_t raw = x86_load_sys(cpu, base + (selector & 0xfff8) + 8, 8);
    *ret_upper = (uint32_t)raw;
    return (raw >> 40 & 0x1f) == 0; /* the type field of the second half must be 0 */
}

void desc_set_accessed(X86Cpu *cpu, uint64_t addr)
{
    uint8_t access = (uint8_t)x86_load_sys(cpu, addr + 5, 1);
    if (!(access & 1)) {
        x86_store_sys(cpu, addr + 5, access | 1, 1);
    }
}

void seg_from_desc(X86Seg *ret_seg, uint16_t selector, const Desc *desc)
{
    *ret_seg = (X86Seg) {
        .sel = selector,
        .attr = (uint16_t)(desc->hi >> 8 & 0xf0ff),
        .limit = desc_limit(desc),
        .base = desc_base(desc),
    };
}

void seg_set(X86Cpu *cpu, unsigned n, const X86Seg *seg)
{
    cpu->seg[n] = *seg;
    if (n == X86_FS) {
        x86_hot(cpu)->fs_base = seg->base;
    } else if (n == X86_GS) {
        x86_hot(cpu)->gs_base = seg->base;
    }
}

void seg_revoke(X86Cpu *cpu)
{
    static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };
    for (unsigned n = 0; n < ARRAY_SIZE(data); n++) {
        const X86Seg *seg = &cpu->seg[data[n]];
        bool conforming = (seg->attr & 12) == 12;
        if ((seg->attr & SEG_P) && !conforming && SEG_DPL(seg->attr) < cpu->cpl) {
            seg_set(cpu, data[n], &(X86Seg) { .base = seg->base });
        } else if (!(seg->attr & SEG_P) && (seg->sel & 0xfffc) == 0 && seg->sel) {
            cpu->seg[data[n]].sel = 0;
        }
    }
}

bool seg_contains(const X86Seg *seg, uint32_t offset, uint32_t length)
{
    uint64_t last = (uint64_t)offset + length - 1;
    if ((seg->attr & 12) == 4 && (seg->attr & SEG_S)) { /* expand-down */
        return offset > seg->limit && last <= (seg->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    }
    return last <= seg->limit;
}

bool x86_canonical(const X86Cpu *cpu, uint64_t va)
{
    unsigned shift = cpu->cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(va << shift) >> shift) == va;
}

/*
 * Bases of system tables and addresses in MSRs: what the processor could use with CR4.LA57 set is allowed
 * whether it is set or not.
 */
bool x86_canonical_widest(const X86Cpu *cpu, uint64_t va)
{
    unsigned shift = x86_has(cpu, X86_FEAT_7_ECX, 16) ? 7 : 16;
    return (uint64_t)((int64_t)(va << shift) >> shift) == va;
}

/* --- data and stack segments --- */

void x86_load_seg_real(X86Cpu *cpu, unsigned n, uint16_t selector)
{
    X86Seg seg = cpu->seg[n];
    seg.sel = selector;
    seg.base = (uint64_t)selector << 4;
    if (x86_hot(cpu)->rflags & X86_VM) {
        seg.limit = 0xffff;
        seg.attr = 0xf3;
    } else if (!(seg.attr & SEG_P)) { /* was null in protected mode */
        seg.limit = 0xffff;
        seg.attr = 0x93;
    } else {
        seg.attr = (uint16_t)((seg.attr & ~0xff) | 0x93);
    }
    seg_set(cpu, n, &seg);
    x86_mode_changed(cpu);
}

static void load_null(X86Cpu *cpu, unsigned n, uint16_t selector)
{
    if (n == X86_SS && (!mode64(cpu) || cpu->cpl == 3 || (selector & 3) != cpu->cpl)) {
        x86_gp(cpu, 0);
    }
    seg_set(cpu, n, &(X86Seg) { .sel = selector, .attr = (uint16_t)(n == X86_SS ? cpu->cpl << 5 : 0) });
    x86_mode_changed(cpu);
}

static void check_stack(X86Cpu *cpu, uint16_t selector, const Desc *desc)
{
    if ((selector & 3) != cpu->cpl || !desc_is_writable(desc) || desc_dpl(desc) != cpu->cpl) {
        x86_gp(cpu, selector & 0xfffc);
    }
    if (!desc_present(desc)) {
        x86_raise_error(cpu, EXC_SS, selector & 0xfffc);
    }
}

static void check_data(X86Cpu *cpu, uint16_t selector, const Desc *desc)
{
    unsigned rpl = selector & 3;
    bool readable = desc_is_data(desc) || (desc_is_code(desc) && (desc->hi & DESC_RW));
    bool by_level = !desc_is_conforming(desc);
    if (!readable || (by_level && (rpl > desc_dpl(desc) || cpu->cpl > desc_dpl(desc)))) {
        x86_gp(cpu, selector & 0xfffc);
    }
    if (!desc_present(desc)) {
        x86_raise_error(cpu, EXC_NP, selector & 0xfffc);
    }
}

void x86_load_seg(X86Cpu *cpu, unsigned n, uint16_t selector)
{
    if (real_or_vm86(cpu)) {
        x86_load_seg_real(cpu, n, selector);
        return;
    }
    if ((selector & 0xfffc) == 0) {
        load_null(cpu, n, selector);
        return;
    }
    Desc desc;
    uint64_t addr;
    if (!desc_fetch(cpu, selector, &desc, &addr)) {
        x86_gp(cpu, selector & 0xfffc);
    }
    if (n == X86_SS) {
        check_stack(cpu, selector, &desc);
    } else {
        check_data(cpu, selector, &desc);
    }
    desc_set_accessed(cpu, addr);
    X86Seg seg;
    seg_from_desc(&seg, selector, &desc);
    seg.attr |= 1;
    seg_set(cpu, n, &seg);
    x86_mode_changed(cpu);
}

/* --- LDTR and TR --- */

/* A system descriptor for LLDT and LTR, with the upper half in long mode. */
static Desc system_desc(X86Cpu *cpu, uint16_t selector, uint64_t *ret_addr, uint64_t *ret_base)
{
    Desc desc;
    uint32_t upper = 0;
    if ((selector & 4) || !desc_fetch(cpu, selector, &desc, ret_addr)) {
        x86_gp(cpu, selector & 0xfffc);
    }
    if ((cpu->efer & EFER_LMA) && !desc_fetch_upper(cpu, selector, &upper)) {
        x86_gp(cpu, selector & 0xfffc);
    }
    *ret_base = desc_base(&desc) | (uint64_t)upper << 32;
    return desc;
}

void x86_lldt(X86Cpu *cpu, uint16_t selector)
{
    if ((selector & 0xfffc) == 0) {
        cpu->ldt = (X86Seg) { .sel = selector };
        return;
    }
    uint64_t addr, base;
    Desc desc = system_desc(cpu, selector, &addr, &base);
    if ((desc.hi & DESC_S) || desc_type(&desc) != SYS_LDT || !x86_canonical_widest(cpu, base)) {
        x86_gp(cpu, selector & 0xfffc);
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_NP, selector & 0xfffc);
    }
    seg_from_desc(&cpu->ldt, selector, &desc);
    cpu->ldt.base = base;
}

void x86_ltr(X86Cpu *cpu, uint16_t selector)
{
    if ((selector & 0xfffc) == 0) {
        x86_gp(cpu, 0);
    }
    uint64_t addr, base;
    Desc desc = system_desc(cpu, selector, &addr, &base);
    unsigned type = desc_type(&desc);
    bool lma = cpu->efer & EFER_LMA;
    if ((desc.hi & DESC_S) || !(type == SYS_TSS32 || (type == SYS_TSS16 && !lma)) || !x86_canonical_widest(cpu, base)) {
        x86_gp(cpu, selector & 0xfffc);
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_NP, selector & 0xfffc);
    }
    x86_store_sys(cpu, addr + 4, desc.hi | BIT(9), 4); /* busy */
    desc.hi |= BIT(9);
    seg_from_desc(&cpu->tr, selector, &desc);
    cpu->tr.base = base;
}

/* --- looking at descriptors --- */

/* Common part: visible at CPL and RPL. */
static bool desc_visible(X86Cpu *cpu, uint16_t selector, Desc *ret_desc)
{
    uint64_t addr;
    if ((selector & 0xfffc) == 0 || !desc_fetch(cpu, selector, ret_desc, &addr)) {
        return false;
    }
    unsigned rpl = selector & 3, dpl = desc_dpl(ret_desc);
    return desc_is_conforming(ret_desc) || (cpu->cpl <= dpl && rpl <= dpl);
}

/* In long mode the busy and available TSS and LDT take 16 bytes. */
static bool upper_valid(X86Cpu *cpu, uint16_t selector)
{
    uint32_t upper;
    return !(cpu->efer & EFER_LMA) || desc_fetch_upper(cpu, selector, &upper);
}

static bool type_in(unsigned type, uint32_t set)
{
    return set >> type & 1;
}

bool x86_lar(X86Cpu *cpu, uint16_t selector, uint64_t *ret_value)
{
    static const uint32_t legacy = BIT(SYS_TSS16) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) | BIT(SYS_CALL16) |
                                   BIT(SYS_TASK) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY) | BIT(SYS_CALL32);
    static const uint32_t wide = BIT(SYS_LDT) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY) | BIT(SYS_CALL32);
    Desc desc;
    if (!desc_visible(cpu, selector, &desc)) {
        return false;
    }
    if (!(desc.hi & DESC_S) && (!type_in(desc_type(&desc), cpu->efer & EFER_LMA ? wide : legacy) ||
                                !upper_valid(cpu, selector))) {
        return false;
    }
    *ret_value = desc.hi & 0x00ffff00;
    return true;
}

bool x86_lsl(X86Cpu *cpu, uint16_t selector, uint64_t *ret_value)
{
    static const uint32_t legacy = BIT(SYS_TSS16) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) | BIT(SYS_TSS32) |
                                   BIT(SYS_TSS32_BUSY);
    static const uint32_t wide = BIT(SYS_LDT) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY);
    Desc desc;
    if (!desc_visible(cpu, selector, &desc)) {
        return false;
    }
    if (!(desc.hi & DESC_S) && (!type_in(desc_type(&desc), cpu->efer & EFER_LMA ? wide : legacy) ||
                                !upper_valid(cpu, selector))) {
        return false;
    }
    *ret_value = desc_limit(&desc);
    return true;
}

bool x86_verify(X86Cpu *cpu, uint16_t selector, bool write)
{
    Desc desc;
    if (!desc_visible(cpu, selector, &desc) || !(desc.hi & DESC_S)) {
        return false;
    }
    return write ? desc_is_writable(&desc) : desc_is_data(&desc) || (desc.hi & DESC_RW);
}

/* --- stacks from the TSS --- */

void tss_stack(X86Cpu *cpu, unsigned level, uint32_t extern_bit, uint16_t *ret_ss, uint64_t *ret_sp)
{
    bool wide = cpu->tr.attr & 8;
    unsigned at = wide ? 4 + level * 8 : 2 + level * 4;
    if (at + (wide ? 5 : 3) > cpu->tr.limit) {
        x86_raise_error(cpu, EXC_TS, (cpu->tr.sel & 0xfffc) | extern_bit);
    }
    *ret_sp = x86_load_sys(cpu, cpu->tr.base + at, wide ? 4 : 2);
    *ret_ss = (uint16_t)x86_load_sys(cpu, cpu->tr.base + at + (wide ? 4 : 2), 2);
}

uint64_t tss_stack64(X86Cpu *cpu, unsigned index, uint32_t extern_bit)
{
    unsigned at = 4 + index * 8; /* RSP0 at 4, IST1 at 36 */
    if (at + 7 > cpu->tr.limit) {
        x86_raise_error(cpu, EXC_TS, (cpu->tr.sel & 0xfffc) | extern_bit);
    }
    return x86_load_sys(cpu, cpu->tr.base + at, 8);
}

void x86_tss_stack(X86Cpu *cpu, unsigned level, uint16_t *ret_ss, uint64_t *ret_sp)
{
    if (cpu->efer & EFER_LMA) {
        *ret_sp = tss_stack64(cpu, level, 0);
        *ret_ss = (uint16_t)(level & 3);
    } else {
        tss_stack(cpu, level, 0, ret_ss, ret_sp);
    }
}

uint64_t stack_segment(X86Cpu *cpu, uint16_t selector, unsigned cpl, uint32_t extern_bit, X86Seg *ret_ss)
{
    uint32_t error = (selector & 0xfffc) | extern_bit;
    Desc desc;
    uint64_t addr;
    if ((selector & 0xfffc) == 0) {
        x86_raise_error(cpu, EXC_TS, extern_bit);
    }
    if (!desc_fetch(cpu, selector, &desc, &addr) || (selector & 3) != cpl || desc_dpl(&desc) != cpl ||
        !desc_is_writable(&desc)) {
        x86_raise_error(cpu, EXC_TS, error);
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_SS, error);
    }
    seg_from_desc(ret_ss, selector, &desc);
    ret_ss->attr |= 1;
    return addr;
}

/* --- frames --- */

static uint64_t mask_of_stack(const X86Cpu *cpu, const X86Seg *ss)
{
    if (mode64(cpu)) {
        return ~0ull;
    }
    return ss->attr & SEG_DB ? 0xffffffff : 0xffff;
}

void frame_begin(Frame *frame, X86Cpu *cpu, const X86Seg *ss, uint64_t sp, unsigned size, unsigned as_who)
{
    frame->cpu = cpu;
    frame->ss = *ss;
    frame->mask = mask_of_stack(cpu, ss);
    frame->sp = sp & frame->mask;
    frame->size = size;
    frame->as_who = as_who;
    frame->count = 0;
}

static uint64_t frame_linear(const Frame *frame, uint64_t sp)
{
    return frame->mask == ~0ull ? sp : (uint32_t)(frame->ss.base + sp);
}

static bool frame_fits(const Frame *frame, uint64_t sp)
{
    if (frame->mask == ~0ull) {
        return x86_canonical(frame->cpu, sp) && x86_canonical(frame->cpu, sp + frame->size - 1);
    }
    return seg_contains(&frame->ss, (uint32_t)sp, frame->size);
}

void frame_write(Frame *frame, unsigned vector, uint32_t error)
{
    X86Cpu *cpu = frame->cpu;
    uint64_t sp = frame->sp;
    for (unsigned n = 0; n < frame->count; n++) {
        sp = (sp - frame->size) & frame->mask;
        if (!frame_fits(frame, sp)) {
            x86_raise_error(cpu, vector, error);
        }
    }
    uint64_t bytes = (uint64_t)frame->count * frame->size;
    uint8_t image[FRAME_SLOTS * 8];
    if (((frame->sp - bytes) & frame->mask) + bytes - 1 <= frame->mask && frame->sp) {
        for (unsigned n = 0; n < frame->count; n++) {
            st_le(image + bytes - (n + 1) * frame->size, frame->slot[n], frame->size);
        }
        x86_store_bytes(cpu, frame_linear(frame, sp), image, (unsigned)bytes, frame->as_who);
    } else { /* the stack pointer wraps round */
        sp = frame->sp;
        for (unsigned n = 0; n < frame->count; n++) {
            sp = (sp - frame->size) & frame->mask;
            x86_check(cpu, frame_linear(frame, sp), frame->size, X86_WRITE, frame->as_who);
        }
        sp = frame->sp;
        for (unsigned n = 0; n < frame->count; n++) {
            sp = (sp - frame->size) & frame->mask;
            st_le(image, frame->slot[n], frame->size);
            x86_store_bytes(cpu, frame_linear(frame, sp), image, frame->size, frame->as_who);
        }
    }
    frame->sp = sp;
}

static void rsp_set(X86Cpu *cpu, uint64_t sp, uint64_t mask)
{
    uint64_t *rsp = &x86_gpr(cpu)[X86_RSP];
    if (mask == 0xffff) {
        *rsp = (*rsp & ~0xffffull) | (sp & 0xffff);
    } else {
        *rsp = sp & mask;
    }
}

void frame_set_rsp(const Frame *frame)
{
    rsp_set(frame->cpu, frame->sp, frame->mask);
}

uint64_t stack_peek_at(X86Cpu *cpu, uint64_t offset, unsigned size)
{
    const X86Seg *ss = &cpu->seg[X86_SS];
    uint64_t mask = mask_of_stack(cpu, ss), sp = (x86_gpr(cpu)[X86_RSP] + offset) & mask;
    if (mask == ~0ull) {
        if (!x86_canonical(cpu, sp)) {
            x86_raise_error(cpu, EXC_SS, 0);
        }
        return x86_load(cpu, sp, size);
    }
    if (!seg_contains(ss, (uint32_t)sp, size)) {
        x86_raise_error(cpu, EXC_SS, 0);
    }
    return x86_load(cpu, (uint32_t)(ss->base + sp), size);
}

uint64_t stack_peek(X86Cpu *cpu, unsigned n, unsigned size)
{
    return stack_peek_at(cpu, n * size, size);
}

void stack_set(X86Cpu *cpu, uint64_t sp)
{
    rsp_set(cpu, sp, mask_of_stack(cpu, &cpu->seg[X86_SS]));
}

/* --- I/O permission --- */

void x86_check_io(X86Cpu *cpu, uint16_t port, unsigned size)
{
    uint32_t mode = x86_hot(cpu)->mode;
    if (!(mode & X86_MODE_PE) || (!(mode & X86_MODE_VM86) && (mode & X86_MODE_IOPL_OK))) {
        return;
    }
    if (!(cpu->tr.attr & 8) || !(cpu->tr.attr & SEG_P) || cpu->tr.limit < 0x67) {
        x86_gp(cpu, 0);
    }
    uint32_t at = (uint32_t)x86_load_sys(cpu, cpu->tr.base + 0x66, 2) + port / 8u;
    if (at + 1 > cpu->tr.limit) {
        x86_gp(cpu, 0);
    }
    uint64_t bits = x86_load_sys(cpu, cpu->tr.base + at, 2) >> (port & 7);
    if (bits & ((1u << size) - 1)) {
        x86_gp(cpu, 0);
    }
}
