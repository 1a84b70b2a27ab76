/*
 * Hardware task switches with 16-bit and 32-bit TSS. Intel SDM volume 3, chapter 7.
 *
 * Steps that may fault for the old task come first; from the moment the task register is loaded, faults
 * belong to the new task, as on hardware.
 */
#include <stdatomic.h>

#include "cpu/x86/seg_priv.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

typedef struct TssDesc {
    uint16_t selector;
    uint64_t addr; /* of the descriptor */
    Desc desc;
    uint64_t base;
    uint32_t limit;
    bool wide; /* 32-bit */
} TssDesc;

/* What the fields of a task's state are, whatever the format. */
typedef struct TaskState {
    uint32_t cr3, eip, eflags, gpr[8];
    uint16_t seg[X86_SEG_COUNT], ldt, trap;
} TaskState;

static const uint8_t seg_order[] = { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS };

/* Fetches and checks the TSS descriptor that the switch goes to. bad: the vector of its faults. */
static TssDesc tss_fetch(X86Cpu *cpu, uint16_t selector, bool busy, unsigned bad, uint32_t extern_bit)
{
    TssDesc tss = { .selector = selector };
    uint32_t error = (selector & 0xfffc) | extern_bit;
    if ((selector & 4) || (selector & 0xfffc) == 0 || !desc_fetch(cpu, selector, &tss.desc, &tss.addr)) {
        x86_raise_error(cpu, bad, error);
    }
    unsigned type = desc_type(&tss.desc), want16 = busy ? SYS_TSS16_BUSY : SYS_TSS16,
             want32 = busy ? SYS_TSS32_BUSY : SYS_TSS32;
    if ((tss.desc.hi & DESC_S) || (type != want16 && type != want32)) {
        x86_raise_error(cpu, bad, error);
    }
    if (!desc_present(&tss.desc)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
    tss.wide = type & 8;
    tss.base = desc_base(&tss.desc);
    tss.limit = desc_limit(&tss.desc);
    if (tss.limit < (tss.wide ? 0x67u : 0x2bu)) {
        x86_raise_error(cpu, EXC_TS, error);
    }
    return tss;
}

static void save_state(X86Cpu *cpu, uint64_t next_rip, uint64_t flags)
{
    uint64_t base = cpu->tr.base;
    const uint64_t *gpr = x86_gpr(cpu);
    bool wide = cpu->tr.attr & 8;
    x86_check(cpu, base, wide ? 0x60 : 0x2a, X86_WRITE, X86_AS_SUPERVISOR);
    if (wide) {
        x86_store_sys(cpu, base + 0x20, next_rip, 4);
        x86_store_sys(cpu, base + 0x24, flags, 4);
        for (unsigned n = 0; n < 8; n++) {
            x86_store_sys(cpu, base + 0x28 + 4 * n, gpr[n], 4);
        }
        for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
            x86_store_sys(cpu, base + 0x48 + 4 * n, cpu->seg[seg_order[n]].sel, 2);
        }
    } else {
        x86_store_sys(cpu, base + 0x0e, next_rip, 2);
        x86_store_sys(cpu, base + 0x10, flags, 2);
        for (unsigned n = 0; n < 8; n++) {
            x86_store_sys(cpu, base + 0x12 + 2 * n, gpr[n], 2);
        }
        for (unsigned n = 0; n < 4; n++) {
            x86_store_sys(cpu, base + 0x22 + 2 * n, cpu->seg[seg_order[n]].sel, 2);
        }
    }
}

static TaskState load_state(X86Cpu *cpu, const TssDesc *tss)
{
    TaskState state = { 0 };
    uint64_t base = tss->base;
    x86_check(cpu, base, tss->wide ? 0x68 : 0x2c, X86_READ, X86_AS_SUPERVISOR);
    if (tss->wide) {
        state.cr3 = (uint32_t)x86_load_sys(cpu, base + 0x1c, 4);
        state.eip = (uint32_t)x86_load_sys(cpu, base + 0x20, 4);
        state.eflags = (uint32_t)x86_load_sys(cpu, base + 0x24, 4);
        for (unsigned n = 0; n < 8; n++) {
            state.gpr[n] = (uint32_t)x86_load_sys(cpu, base + 0x28 + 4 * n, 4);
        }
        for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
            state.seg[seg_order[n]] = (uint16_t)x86_load_sys(cpu, base + 0x48 + 4 * n, 2);
        }
        state.ldt = (uint16_t)x86_load_sys(cpu, base + 0x60, 2);
        state.trap = (uint16_t)x86_load_sys(cpu, base + 0x64, 2);
    } else {
        state.eip = (uint32_t)x86_load_sys(cpu, base + 0x0e, 2);
        state.eflags = (uint32_t)x86_load_sys(cpu, base + 0x10, 2);
        for (unsigned n = 0; n < 8; n++) {
            state.gpr[n] = (uint32_t)x86_load_sys(cpu, base + 0x12 + 2 * n, 2) | 0xffff0000;
        }
        for (unsigned n = 0; n < 4; n++) {
            state.seg[seg_order[n]] = (uint16_t)x86_load_sys(cpu, base + 0x22 + 2 * n, 2);
        }
        state.ldt = (uint16_t)x86_load_sys(cpu, base + 0x2a, 2);
    }
    return state;
}

static void set_busy(X86Cpu *cpu, uint64_t addr, bool busy)
{
    uint64_t access = x86_load_sys(cpu, addr + 5, 1);
    x86_store_sys(cpu, addr + 5, busy ? access | 2 : access & ~2ull, 1);
}

/* --- segments of the new task: faults are #TS (or #NP, #SS) in its context --- */

static void load_ldt(X86Cpu *cpu, uint16_t selector)
{
    cpu->ldt = (X86Seg) { .sel = selector };
    if ((selector & 0xfffc) == 0) {
        return;
    }
    Desc desc;
    uint64_t addr;
    if ((selector & 4) || !desc_fetch(cpu, selector, &desc, &addr) || (desc.hi & DESC_S) ||
        desc_type(&desc) != SYS_LDT || !desc_present(&desc)) {
        x86_raise_error(cpu, EXC_TS, selector & 0xfffc);
    }
    seg_from_desc(&cpu->ldt, selector, &desc);
}

static void load_one(X86Cpu *cpu, unsigned n, uint16_t selector, const Desc *desc, uint64_t addr)
{
    X86Seg seg;
    desc_set_accessed(cpu, addr);
    seg_from_desc(&seg, selector, desc);
    seg.attr |= 1;
    seg_set(cpu, n, &seg);
}

static Desc task_desc(X86Cpu *cpu, uint16_t selector, uint64_t *ret_addr)
{
    Desc desc;
    if ((selector & 0xfffc) == 0 || !desc_fetch(cpu, selector, &desc, ret_addr)) {
        x86_raise_error(cpu, EXC_TS, selector & 0xfffc);
    }
    return desc;
}

static void load_code(X86Cpu *cpu, uint16_t selector)
{
    uint64_t addr;
    Desc desc = task_desc(cpu, selector, &addr);
    unsigned rpl = selector & 3, dpl = desc_dpl(&desc);
    if (!desc_is_code(&desc) || (desc_is_conforming(&desc) ? dpl > rpl : dpl != rpl)) {
        x86_raise_error(cpu, EXC_TS, selector & 0xfffc);
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_NP, selector & 0xfffc);
    }
    load_one(cpu, X86_CS, selector, &desc, addr);
}

static void load_stack(X86Cpu *cpu, uint16_t selector)
{
    uint64_t addr;
    Desc desc = task_desc(cpu, selector, &addr);
    if (!desc_is_writable(&desc) || (selector & 3) != cpu->cpl || desc_dpl(&desc) != cpu->cpl) {
        x86_raise_error(cpu, EXC_TS, selector & 0xfffc);
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_SS, selector & 0xfffc);
    }
    load_one(cpu, X86_SS, selector, &desc, addr);
}

static void load_data(X86Cpu *cpu, unsigned n, uint16_t selector)
{
    if ((selector & 0xfffc) == 0) {
        return;
    }
    uint64_t addr;
    Desc desc = task_desc(cpu, selector, &addr);
    bool readable = desc_is_data(&desc) || (desc_is_code(&desc) && (desc.hi & DESC_RW));
    unsigned dpl = desc_dpl(&desc), rpl = selector & 3;
    if (!readable || (!desc_is_conforming(&desc) && (dpl < cpu->cpl || dpl < rpl))) {
        x86_raise_error(cpu, EXC_TS, selector & 0xfffc);
    }
    if (!desc_present(&desc)) {
        x86_raise_error(cpu, EXC_NP, selector & 0xfffc);
    }
    load_one(cpu, n, selector, &desc, addr);
}

static void load_segments(X86Cpu *cpu, const TaskState *state)
{
    /* Selectors first, unusable: a fault from here on finds a consistent new task. */
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        seg_set(cpu, n, &(X86Seg) { .sel = state->seg[n] });
    }
    cpu->ldt = (X86Seg) { .sel = state->ldt };
    cpu->cpl = state->eflags & X86_VM ? 3 : state->seg[X86_CS] & 3;
    x86_mode_changed(cpu);
    load_ldt(cpu, state->ldt);
    if (state->eflags & X86_VM) {
        for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
            x86_load_seg_real(cpu, n, state->seg[n]);
        }
        return;
    }
    load_code(cpu, state->seg[X86_CS]);
    load_stack(cpu, state->seg[X86_SS]);
    load_data(cpu, X86_ES, state->seg[X86_ES]);
    load_data(cpu, X86_DS, state->seg[X86_DS]);
    load_data(cpu, X86_FS, state->seg[X86_FS]);
    load_data(cpu, X86_GS, state->seg[X86_GS]);
    x86_mode_changed(cpu);
}

static void enter_task(X86Cpu *cpu, const TssDesc *tss, const TaskState *state)
{
    X86Hot *hot = x86_hot(cpu);
    if (tss->wide && (cpu->cr0 & CR0_PG)) {
        bool ok = !(cpu->cr4 & CR4_PAE) || x86_load_pdptes(cpu, state->cr3);
        cpu->cr3 = state->cr3;
        x86_tlb_flush_nonglobal(cpu);
        if (!ok) {
            x86_raise_error(cpu, EXC_TS, tss->selector & 0xfffc);
        }
    }
    hot->rip = state->eip;
    hot->rflags = (state->eflags & 0x3f7fd5) | BIT(1);
    for (unsigned n = 0; n < 8; n++) {
        x86_gpr(cpu)[n] = state->gpr[n];
    }
    cpu->dr[7] &= ~0x155ull; /* local breakpoints end with the task */
    x86_tlb_drop_rights(cpu);
    load_segments(cpu, state);
    if (hot->rflags & X86_IF) {
        x86_release_requests(cpu);
    }
    if (hot->rip > cpu->seg[X86_CS].limit) {
        x86_gp(cpu, 0);
    }
}

static void do_switch(X86Cpu *cpu, uint16_t selector, X86TaskSwitch kind, uint64_t next_rip, uint64_t flags,
                      bool has_error, uint32_t error, uint32_t extern_bit)
{
    if (x86_svm_intercepts(cpu, SVM_EXIT_TASK_SWITCH)) {
        uint64_t info = (kind == TASK_IRET ? BIT64(36) : 0) | (kind == TASK_JMP ? BIT64(38) : 0) |
                        (has_error ? BIT64(44) | error : 0) | (flags & X86_RF ? BIT64(48) : 0);
        x86_svm_exit(cpu, SVM_EXIT_TASK_SWITCH, selector, info, 0);
    }
    unsigned bad = kind == TASK_IRET ? EXC_TS : EXC_GP;
    TssDesc tss = tss_fetch(cpu, selector, kind == TASK_IRET, bad, extern_bit);
    TaskState state = load_state(cpu, &tss);
    bool nested = kind == TASK_CALL || kind == TASK_GATE;
    if (nested) {
        x86_check(cpu, tss.base, 2, X86_WRITE, X86_AS_SUPERVISOR);
    }
    if (kind == TASK_IRET) {
        flags &= ~(uint64_t)X86_NT;
    }
    save_state(cpu, next_rip, flags);
    if (kind == TASK_JMP || kind == TASK_IRET) {
        set_busy(cpu, cpu->gdt.base + (cpu->tr.sel & 0xfff8), false);
    }
    if (nested) {
        x86_store_sys(cpu, tss.base, cpu->tr.sel, 2);
        state.eflags |= X86_NT;
    }
    if (kind != TASK_IRET) {
        set_busy(cpu, tss.addr, true);
        tss.desc.hi |= BIT(9);
    }
    seg_from_desc(&cpu->tr, selector, &tss.desc);
    cpu->cr0 |= CR0_TS;
    enter_task(cpu, &tss, &state);
    if (has_error) {
        Frame frame;
        frame_begin(&frame, cpu, &cpu->seg[X86_SS], x86_gpr(cpu)[X86_RSP], tss.wide ? 4 : 2, X86_AS_CPL);
        frame_push(&frame, error);
        frame_write(&frame, EXC_SS, extern_bit);
        frame_set_rsp(&frame);
    }
    if (state.trap & 1) {
        cpu->debug_pending |= BIT(15);
        atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_DEBUG);
    }
}

void x86_task_switch(X86Cpu *cpu, uint16_t selector, X86TaskSwitch kind, uint64_t next_rip, bool has_error,
                     uint32_t error)
{
    do_switch(cpu, selector, kind, next_rip, x86_hot(cpu)->rflags, has_error, error, 0);
}

void task_gate(X86Cpu *cpu, uint16_t selector, uint64_t return_rip, uint64_t flags, bool has_error,
               uint32_t error, uint32_t extern_bit)
{
    do_switch(cpu, selector, TASK_GATE, return_rip, flags, has_error, error, extern_bit);
}

void task_transfer(X86Cpu *cpu, uint16_t selector, X86TaskSwitch kind, uint64_t next_rip)
{
    x86_task_switch(cpu, selector, kind, next_rip, false, 0);
}
