/*
 * Far jumps, calls and returns, call gates, IRET. Intel SDM volume 2, the pseudo code of JMP, CALL, RET,
 * IRET; AMD64 manual volume 3 for the long-mode forms.
 */
#include "cpu/x86/seg_priv.h"

#include <inttypes.h>

#include "base/log.h"
#include "cpu/x86/sys.h"

static uint32_t sel_error(uint16_t selector)
{
    return selector & 0xfffc;
}

static uint64_t offset_mask(unsigned osize)
{
    return osize == 8 ? ~0ull : osize == 4 ? 0xffffffff : 0xffff;
}

/*
 * The target lies in the code segment (canonical in 64-bit code). Returns it: a 64-bit offset into a
 * segment that is not 64-bit loses its upper half before the check, as processors do.
 */
static uint64_t check_target(X86Cpu *cpu, const Desc *cs, uint64_t offset)
{
    if ((cpu->efer & EFER_LMA) && (cs->hi & DESC_L)) {
        if (!x86_canonical(cpu, offset)) {
            x86_gp(cpu, 0);
        }
        return offset;
    }
    if ((uint32_t)offset > desc_limit(cs)) {
        x86_gp(cpu, 0);
    }
    return (uint32_t)offset;
}

static void load_cs(X86Cpu *cpu, uint16_t selector, unsigned cpl, const Desc *desc)
{
    X86Seg cs;
    seg_from_desc(&cs, (uint16_t)((selector & ~3u) | cpl), desc);
    cs.attr |= 1;
    cpu->seg[X86_CS] = cs;
    cpu->cpl = (uint8_t)cpl;
}

static Desc fetch_nonnull(X86Cpu *cpu, uint16_t selector, uint64_t *ret_addr)
{
    Desc desc;
    if (sel_error(selector) == 0) {
        x86_gp(cpu, 0);
    }
    if (!desc_fetch(cpu, selector, &desc, ret_addr)) {
        x86_gp(cpu, sel_error(selector));
    }
    return desc;
}

/* L and D both set means nothing in long mode. */
static void check_long_bits(X86Cpu *cpu, uint16_t selector, const Desc *desc)
{
    if ((cpu->efer & EFER_LMA) && (desc->hi & DESC_L) && (desc->hi & DESC_DB)) {
        x86_gp(cpu, sel_error(selector));
    }
}

/* A code segment reached directly (not through a gate) keeps the privilege level. */
static void check_direct(X86Cpu *cpu, uint16_t selector, const Desc *desc)
{
    unsigned dpl = desc_dpl(desc), rpl = selector & 3;
    check_long_bits(cpu, selector, desc);
    if (desc_is_conforming(desc) ? dpl > cpu->cpl : rpl > cpu->cpl || dpl != cpu->cpl) {
        x86_gp(cpu, sel_error(selector));
    }
    if (!desc_present(desc)) {
        x86_raise_error(cpu, EXC_NP, sel_error(selector));
    }
}

/* --- gates --- */

typedef struct CallGate {
    uint16_t selector;
    uint64_t offset;
    unsigned params, size; /* parameters to copy; bytes of a push */
    Desc cs;
    uint64_t cs_addr;
} CallGate;

static CallGate gate_read(X86Cpu *cpu, uint16_t selector, const Desc *gate)
{
    bool lma = cpu->efer & EFER_LMA;
    unsigned dpl = desc_dpl(gate);
    if (dpl < cpu->cpl || dpl < (selector & 3u)) {
        x86_gp(cpu, sel_error(selector));
    }
    CallGate call = {
        .selector = gate->lo >> 16,
        .offset = gate->lo & 0xffff,
        .params = lma ? 0 : gate->hi & 31,
        .size = desc_type(gate) == SYS_CALL16 ? 2 : 4,
    };
    if (call.size == 4) {
        call.offset |= gate->hi & 0xffff0000;
    }
    if (lma) {
        uint32_t upper;
        if (!desc_fetch_upper(cpu, selector, &upper)) {
            x86_gp(cpu, sel_error(selector));
        }
        call.offset |= (uint64_t)upper << 32;
        call.size = 8;
    }
    if (!desc_present(gate)) {
        x86_raise_error(cpu, EXC_NP, sel_error(selector));
    }
    call.cs = fetch_nonnull(cpu, call.selector, &call.cs_addr);
    if (!desc_is_code(&call.cs) || desc_dpl(&call.cs) > cpu->cpl ||
        (lma && (call.cs.hi & (DESC_L | DESC_DB)) != DESC_L)) {
        x86_gp(cpu, sel_error(call.selector));
    }
    return call;
}

static void gate_present(X86Cpu *cpu, const CallGate *call)
{
    if (!desc_present(&call->cs)) {
        x86_raise_error(cpu, EXC_NP, sel_error(call->selector));
    }
}

static void gate_enter(X86Cpu *cpu, const CallGate *call, unsigned cpl)
{
    load_cs(cpu, call->selector, cpl, &call->cs);
    x86_hot(cpu)->rip = call->offset;
    x86_mode_changed(cpu);
}

static void jump_gate(X86Cpu *cpu, uint16_t selector, const Desc *gate)
{
    CallGate call = gate_read(cpu, selector, gate);
    if (!desc_is_conforming(&call.cs) && desc_dpl(&call.cs) != cpu->cpl) {
        x86_gp(cpu, sel_error(call.selector));
    }
    gate_present(cpu, &call);
    check_target(cpu, &call.cs, call.offset);
    desc_set_accessed(cpu, call.cs_addr);
    gate_enter(cpu, &call, cpu->cpl);
}

/* To a more privileged level in legacy mode: new stack, parameters copied. */
static void call_gate_inner(X86Cpu *cpu, const CallGate *call, unsigned cpl, uint64_t next_rip)
{
    uint16_t ss_sel;
    uint64_t sp, params[31];
    X86Seg ss;
    tss_stack(cpu, cpl, 0, &ss_sel, &sp);
    uint64_t ss_addr = stack_segment(cpu, ss_sel, cpl, 0, &ss);
    for (unsigned n = 0; n < call->params; n++) {
        params[n] = stack_peek(cpu, n, call->size);
    }
    Frame frame;
    frame_begin(&frame, cpu, &ss, sp, call->size, cpu->cpl == 3 ? X86_AS_SUPERVISOR : X86_AS_CPL);
    frame_push(&frame, cpu->seg[X86_SS].sel);
    frame_push(&frame, x86_gpr(cpu)[X86_RSP]);
    for (unsigned n = call->params; n-- > 0;) {
        frame_push(&frame, params[n]);
    }
    frame_push(&frame, cpu->seg[X86_CS].sel);
    frame_push(&frame, next_rip);
    check_target(cpu, &call->cs, call->offset);
    desc_set_accessed(cpu, call->cs_addr);
    desc_set_accessed(cpu, ss_addr);
    frame_write(&frame, EXC_SS, sel_error(ss_sel));
    seg_set(cpu, X86_SS, &ss);
    frame_set_rsp(&frame);
    gate_enter(cpu, call, cpl);
}

static void call_gate_inner64(X86Cpu *cpu, const CallGate *call, unsigned cpl, uint64_t next_rip)
{
    uint64_t rsp = tss_stack64(cpu, cpl, 0);
    uint64_t slots[4] = { next_rip, cpu->seg[X86_CS].sel, x86_gpr(cpu)[X86_RSP], cpu->seg[X86_SS].sel };
    if (!x86_canonical(cpu, rsp) || !x86_canonical(cpu, rsp - sizeof(slots))) {
        x86_raise_error(cpu, EXC_SS, 0);
    }
    check_target(cpu, &call->cs, call->offset);
    desc_set_accessed(cpu, call->cs_addr);
    x86_store_bytes(cpu, rsp - sizeof(slots), slots, sizeof(slots), X86_AS_SUPERVISOR);
    x86_gpr(cpu)[X86_RSP] = rsp - sizeof(slots);
    seg_set(cpu, X86_SS, &(X86Seg) { .sel = (uint16_t)cpl, .attr = (uint16_t)(cpl << 5) });
    gate_enter(cpu, call, cpl);
}

static void call_gate(X86Cpu *cpu, uint16_t selector, const Desc *gate, uint64_t next_rip)
{
    CallGate call = gate_read(cpu, selector, gate);
    gate_present(cpu, &call);
    unsigned dpl = desc_dpl(&call.cs);
    if (!desc_is_conforming(&call.cs) && dpl < cpu->cpl) {
        if (cpu->efer & EFER_LMA) {
            call_gate_inner64(cpu, &call, dpl, next_rip);
        } else {
            call_gate_inner(cpu, &call, dpl, next_rip);
        }
        return;
    }
    Frame frame;
    frame_begin(&frame, cpu, &cpu->seg[X86_SS], x86_gpr(cpu)[X86_RSP], call.size, X86_AS_CPL);
    frame_push(&frame, cpu->seg[X86_CS].sel);
    frame_push(&frame, next_rip);
    check_target(cpu, &call.cs, call.offset);
    desc_set_accessed(cpu, call.cs_addr);
    frame_write(&frame, EXC_SS, 0);
    frame_set_rsp(&frame);
    gate_enter(cpu, &call, cpu->cpl);
}

/* What a far JMP or CALL meets that is no code segment. */
static void system_transfer(X86Cpu *cpu, uint16_t selector, const Desc *desc, bool call, uint64_t next_rip)
{
    unsigned type = desc_type(desc), dpl = desc_dpl(desc);
    bool lma = cpu->efer & EFER_LMA;
    if (desc->hi & DESC_S) {
        x86_gp(cpu, sel_error(selector));
    }
    if (type == SYS_CALL32 || (type == SYS_CALL16 && !lma)) {
        if (call) {
            call_gate(cpu, selector, desc, next_rip);
        } else {
            jump_gate(cpu, selector, desc);
        }
        return;
    }
    bool task = type == SYS_TSS16 || type == SYS_TSS32 || type == SYS_TASK;
    if (lma || !task || dpl < cpu->cpl || dpl < (selector & 3u)) {
        x86_gp(cpu, sel_error(selector));
    }
    if (type == SYS_TASK) {
        if (!desc_present(desc)) {
            x86_raise_error(cpu, EXC_NP, sel_error(selector));
        }
        selector = desc->lo >> 16;
    }
    task_transfer(cpu, selector, call ? TASK_CALL : TASK_JMP, next_rip);
}

/* -d pcall. A return's target is on the stack and not looked up for this. */
static void log_transfer(X86Cpu *cpu, const char *what, uint16_t selector, uint64_t offset)
{
    if (!log_enabled(LOG_PCALL)) {
        return;
    }
    log_printf("pcall %u: far %s from %04x:%016" PRIx64, cpu->vcpu->index, what, cpu->seg[X86_CS].sel, x86_hot(cpu)->rip);
    if (selector || offset) {
        log_printf(" to %04x:%016" PRIx64, selector, offset);
    }
    log_printf("\n");
}

/* --- JMP and CALL --- */

void x86_far_jmp(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned osize, uint64_t next_rip)
{
    log_transfer(cpu, "jump", selector, offset);
    offset &= offset_mask(osize);
    if (real_or_vm86(cpu)) {
        if (offset > cpu->seg[X86_CS].limit) {
            x86_gp(cpu, 0);
        }
        x86_hot(cpu)->rip = offset;
        x86_load_seg_real(cpu, X86_CS, selector);
        return;
    }
    uint64_t addr;
    Desc desc = fetch_nonnull(cpu, selector, &addr);
    if (!desc_is_code(&desc)) {
        system_transfer(cpu, selector, &desc, false, next_rip);
        return;
    }
    check_direct(cpu, selector, &desc);
    offset = check_target(cpu, &desc, offset);
    desc_set_accessed(cpu, addr);
    load_cs(cpu, selector, cpu->cpl, &desc);
    x86_hot(cpu)->rip = offset;
    x86_mode_changed(cpu);
}

void x86_far_call(X86Cpu *cpu, uint16_t selector, uint64_t offset, unsigned osize, uint64_t next_rip)
{
    log_transfer(cpu, "call", selector, offset);
    offset &= offset_mask(osize);
    bool legacy = real_or_vm86(cpu);
    Desc desc = { 0 };
    uint64_t addr = 0;
    if (!legacy) {
        desc = fetch_nonnull(cpu, selector, &addr);
        if (!desc_is_code(&desc)) {
            system_transfer(cpu, selector, &desc, true, next_rip);
            return;
        }
        check_direct(cpu, selector, &desc);
    }
    Frame frame;
    frame_begin(&frame, cpu, &cpu->seg[X86_SS], x86_gpr(cpu)[X86_RSP], osize, X86_AS_CPL);
    frame_push(&frame, cpu->seg[X86_CS].sel);
    frame_push(&frame, next_rip);
    if (legacy) {
        if (offset > cpu->seg[X86_CS].limit) {
            x86_gp(cpu, 0);
        }
        frame_write(&frame, EXC_SS, 0);
        frame_set_rsp(&frame);
        x86_hot(cpu)->rip = offset;
        x86_load_seg_real(cpu, X86_CS, selector);
        return;
    }
    offset = check_target(cpu, &desc, offset);
    desc_set_accessed(cpu, addr);
    frame_write(&frame, EXC_SS, 0);
    frame_set_rsp(&frame);
    load_cs(cpu, selector, cpu->cpl, &desc);
    x86_hot(cpu)->rip = offset;
    x86_mode_changed(cpu);
}

/* --- returns --- */

/* The code segment that RET or IRET goes back to. */
static Desc return_segment(X86Cpu *cpu, uint16_t selector, uint64_t *ret_addr)
{
    Desc desc = fetch_nonnull(cpu, selector, ret_addr);
    unsigned rpl = selector & 3, dpl = desc_dpl(&desc);
    if (!desc_is_code(&desc) || rpl < cpu->cpl || (desc_is_conforming(&desc) ? dpl > rpl : dpl != rpl)) {
        x86_gp(cpu, sel_error(selector));
    }
    check_long_bits(cpu, selector, &desc);
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_NP, sel_error(selector));
    }
    return desc;
}

/* The stack segment that is popped with it. */
static uint64_t return_stack(X86Cpu *cpu, uint16_t selector, unsigned rpl, const Desc *cs, X86Seg *ret_ss)
{
    Desc desc;
    uint64_t addr;
    if (sel_error(selector) == 0) {
        bool to64 = (cpu->efer & EFER_LMA) && (cs->hi & DESC_L);
        if (!to64 || rpl == 3) {
            x86_gp(cpu, 0);
        }
        *ret_ss = (X86Seg) { .sel = selector, .attr = (uint16_t)(rpl << 5) };
        return 0;
    }
    if (!desc_fetch(cpu, selector, &desc, &addr) || (selector & 3u) != rpl || !desc_is_writable(&desc) ||
        desc_dpl(&desc) != rpl) {
        x86_gp(cpu, sel_error(selector));
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_SS, sel_error(selector));
    }
    seg_from_desc(ret_ss, selector, &desc);
    ret_ss->attr |= 1;
    return addr;
}

/* Loads CS and SS:RSP of an outer level (or the same, for IRET in 64-bit mode). */
static void leave_to(X86Cpu *cpu, uint16_t cs_sel, const Desc *cs, uint64_t cs_addr, const X86Seg *ss,
                     uint64_t ss_addr, uint64_t rip, uint64_t sp)
{
    unsigned rpl = cs_sel & 3;
    desc_set_accessed(cpu, cs_addr);
    if (ss_addr) {
        desc_set_accessed(cpu, ss_addr);
    }
    bool outer = rpl > cpu->cpl;
    load_cs(cpu, cs_sel, rpl, cs);
    seg_set(cpu, X86_SS, ss);
    x86_hot(cpu)->rip = rip;
    x86_mode_changed(cpu);
    stack_set(cpu, sp);
    if (outer) {
        seg_revoke(cpu);
        x86_mode_changed(cpu);
    }
}

void x86_far_ret(X86Cpu *cpu, unsigned osize, uint16_t pop_bytes)
{
    log_transfer(cpu, "return", 0, 0);
    uint64_t rip = stack_peek(cpu, 0, osize);
    uint16_t selector = (uint16_t)stack_peek(cpu, 1, osize);
    uint64_t rsp = x86_gpr(cpu)[X86_RSP];
    if (real_or_vm86(cpu)) {
        if (rip > cpu->seg[X86_CS].limit) {
            x86_gp(cpu, 0);
        }
        stack_set(cpu, rsp + 2 * osize + pop_bytes);
        x86_hot(cpu)->rip = rip;
        x86_load_seg_real(cpu, X86_CS, selector);
        return;
    }
    uint64_t addr;
    Desc desc = return_segment(cpu, selector, &addr);
    unsigned rpl = selector & 3;
    if (rpl == cpu->cpl) {
        rip = check_target(cpu, &desc, rip);
        desc_set_accessed(cpu, addr);
        stack_set(cpu, rsp + 2 * osize + pop_bytes);
        load_cs(cpu, selector, rpl, &desc);
        x86_hot(cpu)->rip = rip;
        x86_mode_changed(cpu);
        return;
    }
    uint64_t sp = stack_peek_at(cpu, 2 * osize + pop_bytes, osize);
    uint16_t ss_sel = (uint16_t)stack_peek_at(cpu, 3 * osize + pop_bytes, osize);
    X86Seg ss;
    uint64_t ss_addr = return_stack(cpu, ss_sel, rpl, &desc, &ss);
    rip = check_target(cpu, &desc, rip);
    leave_to(cpu, selector, &desc, addr, &ss, ss_addr, rip, sp + pop_bytes);
}

/* --- IRET --- */

enum { IRET_FLAGS = X86_ARITH | X86_TF | X86_DF | X86_NT | X86_RF | X86_AC | X86_ID };

static void set_flags(X86Cpu *cpu, uint64_t value, uint64_t mask, unsigned osize)
{
    X86Hot *hot = x86_hot(cpu);
    if (osize == 2) {
        mask &= 0xffff;
    }
    hot->rflags = (hot->rflags & ~mask) | (value & mask) | BIT(1);
    if (hot->rflags & X86_IF) {
        x86_release_requests(cpu);
    }
}

static void iret_real(X86Cpu *cpu, unsigned osize)
{
    uint64_t rip = stack_peek(cpu, 0, osize);
    uint16_t selector = (uint16_t)stack_peek(cpu, 1, osize);
    uint64_t flags = stack_peek(cpu, 2, osize);
    if (rip > cpu->seg[X86_CS].limit) {
        x86_gp(cpu, 0);
    }
    stack_set(cpu, x86_gpr(cpu)[X86_RSP] + 3 * osize);
    x86_hot(cpu)->rip = rip;
    uint64_t mask = IRET_FLAGS | X86_IF;
    if (!(x86_hot(cpu)->mode & X86_MODE_VM86)) {
        mask |= X86_IOPL;
    }
    set_flags(cpu, flags, mask, osize);
    x86_load_seg_real(cpu, X86_CS, selector);
}

/* IRET in virtual-8086 mode below IOPL 3, with CR4.VME: the virtual interrupt flag stands for IF. */
static void iret_vme(X86Cpu *cpu, unsigned osize)
{
    X86Hot *hot = x86_hot(cpu);
    if (!(cpu->cr4 & CR4_VME) || osize != 2) {
        x86_gp(cpu, 0);
    }
    uint64_t rip = stack_peek(cpu, 0, 2);
    uint16_t selector = (uint16_t)stack_peek(cpu, 1, 2);
    uint64_t flags = stack_peek(cpu, 2, 2);
    if (((flags & X86_IF) && (hot->rflags & X86_VIP)) || (flags & X86_TF)) {
        x86_gp(cpu, 0);
    }
    if (rip > cpu->seg[X86_CS].limit) {
        x86_gp(cpu, 0);
    }
    stack_set(cpu, x86_gpr(cpu)[X86_RSP] + 6);
    hot->rip = rip;
    set_flags(cpu, flags, IRET_FLAGS, 2);
    hot->rflags = (hot->rflags & ~(uint64_t)X86_VIF) | (flags & X86_IF ? X86_VIF : 0);
    x86_load_seg_real(cpu, X86_CS, selector);
}

static void iret_to_vm86(X86Cpu *cpu, uint64_t rip, uint16_t cs, uint64_t flags)
{
    static const uint8_t order[] = { X86_ES, X86_DS, X86_FS, X86_GS };
    uint64_t sp = stack_peek(cpu, 3, 4);
    uint16_t ss = (uint16_t)stack_peek(cpu, 4, 4), data[4];
    for (unsigned n = 0; n < 4; n++) {
        data[n] = (uint16_t)stack_peek(cpu, 5 + n, 4);
    }
    if ((rip & 0xffffffff) > 0xffff) {
        x86_gp(cpu, 0);
    }
    set_flags(cpu, flags, IRET_FLAGS | X86_IF | X86_IOPL | X86_VM | X86_VIF | X86_VIP, 4);
    cpu->cpl = 3;
    for (unsigned n = 0; n < 4; n++) {
        x86_load_seg_real(cpu, order[n], data[n]);
    }
    x86_load_seg_real(cpu, X86_SS, ss);
    x86_gpr(cpu)[X86_RSP] = (uint32_t)sp;
    x86_hot(cpu)->rip = rip & 0xffff;
    x86_load_seg_real(cpu, X86_CS, cs);
}

static void iret_task(X86Cpu *cpu)
{
    uint16_t link = (uint16_t)x86_load_sys(cpu, cpu->tr.base, 2);
    x86_task_switch(cpu, link, TASK_IRET, cpu->next_rip, false, 0);
}

static uint64_t iret_mask(const X86Cpu *cpu)
{
    uint64_t mask = IRET_FLAGS;
    unsigned iopl = (x86_hot((X86Cpu *)cpu)->rflags & X86_IOPL) >> 12;
    if (cpu->cpl <= iopl) {
        mask |= X86_IF;
    }
    if (cpu->cpl == 0) {
        mask |= X86_IOPL | X86_VIF | X86_VIP;
    }
    return mask;
}

static void iret_protected(X86Cpu *cpu, unsigned osize)
{
    uint64_t rip = stack_peek(cpu, 0, osize);
    uint16_t selector = (uint16_t)stack_peek(cpu, 1, osize);
    uint64_t flags = stack_peek(cpu, 2, osize), rsp = x86_gpr(cpu)[X86_RSP];
    if (osize == 4 && (flags & X86_VM) && cpu->cpl == 0 && !(cpu->efer & EFER_LMA)) {
        iret_to_vm86(cpu, rip, selector, flags);
        return;
    }
    uint64_t addr, mask = iret_mask(cpu);
    Desc desc = return_segment(cpu, selector, &addr);
    unsigned rpl = selector & 3;
    if (rpl == cpu->cpl && !mode64(cpu)) {
        rip = check_target(cpu, &desc, rip);
        desc_set_accessed(cpu, addr);
        stack_set(cpu, rsp + 3 * osize);
        load_cs(cpu, selector, rpl, &desc);
        x86_hot(cpu)->rip = rip;
        set_flags(cpu, flags, mask, osize);
        x86_mode_changed(cpu);
        return;
    }
    uint64_t sp = stack_peek(cpu, 3, osize);
    uint16_t ss_sel = (uint16_t)stack_peek(cpu, 4, osize);
    X86Seg ss;
    uint64_t ss_addr = return_stack(cpu, ss_sel, rpl, &desc, &ss);
    rip = check_target(cpu, &desc, rip);
    leave_to(cpu, selector, &desc, addr, &ss, ss_addr, rip, sp);
    set_flags(cpu, flags, mask, osize);
    x86_mode_changed(cpu);
}

void x86_iret(X86Cpu *cpu, unsigned osize)
{
    log_transfer(cpu, "interrupt return", 0, 0);
    uint32_t mode = x86_hot(cpu)->mode;
    if (!(mode & X86_MODE_PE)) {
        iret_real(cpu, osize);
    } else if (mode & X86_MODE_VM86) {
        if (mode & X86_MODE_IOPL_OK) {
            iret_real(cpu, osize);
        } else {
            iret_vme(cpu, osize);
        }
    } else if (x86_hot(cpu)->rflags & X86_NT) {
        if (cpu->efer & EFER_LMA) {
            x86_gp(cpu, 0);
        }
        iret_task(cpu);
    } else {
        iret_protected(cpu, osize);
    }
    cpu->nmi_blocked = false;
    x86_release_requests(cpu);
}

/* --- POPF, and everything that writes flags like it --- */

void x86_write_flags(X86Cpu *cpu, uint64_t value, uint64_t mask)
{
    X86Hot *hot = x86_hot(cpu);
    unsigned iopl = (hot->rflags & X86_IOPL) >> 12;
    uint64_t allowed = X86_ARITH | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID;
    if (cpu->cpl == 0) {
        allowed |= X86_IOPL;
    }
    if (cpu->cpl <= iopl) {
        allowed |= X86_IF;
    }
    mask &= allowed;
    hot->rflags = ((hot->rflags & ~mask) | (value & mask) | BIT(1)) & ~(uint64_t)X86_RF;
    if (hot->rflags & X86_IF) {
        x86_release_requests(cpu);
    }
    x86_mode_changed(cpu);
}
