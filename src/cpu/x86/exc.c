/*
 * Raising and delivering exceptions and interrupts.
 * Intel SDM volume 3, chapters 6 (interrupts and exceptions) and 20 (8086 emulation).
 * Missing: shadow stacks, user interrupts.
 *
 * Delivery changes nothing before its last possible fault: stack slots are checked, then written, then
 * registers change. A fault during delivery comes back to x86_deliver_fault(), which combines the two.
 */
#include "cpu/x86/exc.h"

#include <stdatomic.h>

#include "base/log.h"
#include "core/vm/machine.h"
#include "cpu/x86/mmu_priv.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

/* --- raising --- */

static NORETURN void jump(X86Cpu *cpu, int how)
{
    assert(cpu->fault_jmp != NULL);
    longjmp(*cpu->fault_jmp, how);
}

void x86_raise(X86Cpu *cpu, unsigned vector)
{
    cpu->fault.vector = (uint8_t)vector;
    cpu->fault.has_error = cpu->fault.soft = cpu->fault.is_int = false;
    cpu->fault.dr6 = 0;
    jump(cpu, X86_JMP_FAULT);
}

void x86_raise_error(X86Cpu *cpu, unsigned vector, uint32_t error)
{
    cpu->fault.vector = (uint8_t)vector;
    cpu->fault.has_error = true;
    cpu->fault.soft = cpu->fault.is_int = false;
    cpu->fault.error = error;
    cpu->fault.dr6 = 0;
    jump(cpu, X86_JMP_FAULT);
}

void x86_raise_page_fault(X86Cpu *cpu, uint64_t va, uint32_t error)
{
    if (unlikely(error & WALK_NESTED_FAULT)) {
        x86_svm_exit(cpu, SVM_EXIT_NPF, cpu->svm.npf_info, cpu->svm.npf_address, 0);
    }
    cpu->fault.next_rip = va; /* faults return to rip: the field is free for CR2 */
    x86_raise_error(cpu, EXC_PF, error);
}

/*
 * INT3 and INTO share their vectors with INT 3 and INT 4 but ignore IOPL in virtual-8086 mode. The last
 * but one byte of the instruction tells them apart: CD is no prefix, so only INT n has it there.
 */
static bool is_int_n(X86Cpu *cpu, unsigned vector, uint64_t next_rip)
{
    if (vector != EXC_BP && vector != EXC_OF) {
        return true;
    }
    if (!(x86_hot(cpu)->mode & X86_MODE_VM86) || next_rip - x86_hot(cpu)->rip < 2) {
        return false;
    }
    return x86_load(cpu, (uint32_t)(cpu->seg[X86_CS].base + next_rip - 2), 1) == 0xcd;
}

void x86_raise_soft(X86Cpu *cpu, unsigned vector, uint64_t next_rip)
{
    bool is_int = is_int_n(cpu, vector, next_rip);
    cpu->fault.vector = (uint8_t)vector;
    cpu->fault.has_error = false;
    cpu->fault.soft = true;
    cpu->fault.is_int = is_int;
    cpu->fault.next_rip = next_rip;
    cpu->fault.dr6 = 0;
    jump(cpu, X86_JMP_FAULT);
}

void x86_raise_debug(X86Cpu *cpu, uint64_t dr6_bits)
{
    cpu->fault.vector = EXC_DB;
    cpu->fault.has_error = cpu->fault.soft = cpu->fault.is_int = false;
    cpu->fault.dr6 = dr6_bits;
    jump(cpu, X86_JMP_FAULT);
}

void x86_leave(X86Cpu *cpu)
{
    jump(cpu, X86_JMP_LEAVE);
}

/* --- delivery --- */

typedef struct Event {
    uint8_t vector;
    bool has_error, soft, is_int, external;
    uint32_t error;
    uint64_t return_rip;
    uint64_t flags; /* as pushed: RF for faults */
} Event;

static uint32_t ext(const Event *event)
{
    return event->soft ? 0 : 1;
}

static uint32_t idt_error(const Event *event)
{
    return event->vector * 8u + 2 + ext(event);
}

static void deliver_real(X86Cpu *cpu, const Event *event)
{
    if (event->vector * 4u + 3 > cpu->idt.limit) {
        x86_gp(cpu, idt_error(event));
    }
    uint32_t entry = (uint32_t)x86_load_sys(cpu, (uint32_t)(cpu->idt.base + event->vector * 4u), 4);
    Frame frame;
    frame_begin(&frame, cpu, &cpu->seg[X86_SS], x86_gpr(cpu)[X86_RSP], 2, X86_AS_CPL);
    frame_push(&frame, event->flags);
    frame_push(&frame, cpu->seg[X86_CS].sel);
    frame_push(&frame, event->return_rip);
    frame_write(&frame, EXC_SS, 0);
    frame_set_rsp(&frame);
    x86_load_seg_real(cpu, X86_CS, (uint16_t)(entry >> 16));
    X86Hot *hot = x86_hot(cpu);
    hot->rip = entry & 0xffff;
    hot->rflags &= ~(uint64_t)(X86_IF | X86_TF | X86_AC | X86_RF);
    x86_mode_changed(cpu);
}

/* INT n in virtual-8086 mode with CR4.VME and the redirection bit clear: through the task's own table. */
static void deliver_vme(X86Cpu *cpu, const Event *event)
{
    X86Hot *hot = x86_hot(cpu);
    uint32_t entry = (uint32_t)x86_load(cpu, event->vector * 4u, 4);
    bool virtual_if = (hot->rflags & X86_IOPL) != X86_IOPL;
    uint64_t flags = event->flags;
    if (virtual_if) {
        flags = (flags & ~(uint64_t)X86_IF) | X86_IOPL | (flags & X86_VIF ? X86_IF : 0);
    }
    Frame frame;
    frame_begin(&frame, cpu, &cpu->seg[X86_SS], x86_gpr(cpu)[X86_RSP], 2, X86_AS_CPL);
    frame_push(&frame, flags);
    frame_push(&frame, cpu->seg[X86_CS].sel);
    frame_push(&frame, event->return_rip);
    frame_write(&frame, EXC_SS, 0);
    frame_set_rsp(&frame);
    x86_load_seg_real(cpu, X86_CS, (uint16_t)(entry >> 16));
    hot->rip = entry & 0xffff;
    hot->rflags &= ~(uint64_t)(X86_TF | X86_NT | X86_RF | (virtual_if ? X86_VIF : X86_IF));
    x86_mode_changed(cpu);
}

/* True: redirected. Raises #GP when the program may not use INT n. */
static bool vm86_redirected(X86Cpu *cpu, const Event *event)
{
    bool iopl3 = (x86_hot(cpu)->rflags & X86_IOPL) == X86_IOPL;
    if ((cpu->cr4 & CR4_VME) && cpu->tr.limit >= 0x67) {
        uint32_t map = (uint32_t)x86_load_sys(cpu, cpu->tr.base + 0x66, 2);
        if (map >= 32 && map - 32 + event->vector / 8u <= cpu->tr.limit) {
            uint64_t byte = x86_load_sys(cpu, cpu->tr.base + map - 32 + event->vector / 8u, 1);
            if (!(byte >> (event->vector & 7) & 1)) {
                deliver_vme(cpu, event);
                return true;
            }
        }
    }
    if (!iopl3) {
        x86_gp(cpu, 0);
    }
    return false;
}

static Desc gate_fetch(X86Cpu *cpu, const Event *event, unsigned size, uint32_t *ret_upper)
{
    uint32_t at = event->vector * size;
    if (at + size - 1 > cpu->idt.limit) {
        x86_gp(cpu, idt_error(event));
    }
    uint64_t low = x86_load_sys(cpu, cpu->idt.base + at, 8);
    Desc gate = { (uint32_t)low, (uint32_t)(low >> 32) };
    if (size == 16) {
        *ret_upper = (uint32_t)x86_load_sys(cpu, cpu->idt.base + at + 8, 4);
    }
    return gate;
}

static void gate_check(X86Cpu *cpu, const Event *event, const Desc *gate)
{
    if (event->soft && desc_dpl(gate) < cpu->cpl) {
        x86_gp(cpu, idt_error(event));
    }
    if (!desc_present(gate)) {
        x86_raise_error(cpu, EXC_NP, idt_error(event));
    }
}

/* The handler's code segment; returns its privilege level. */
static unsigned handler_segment(X86Cpu *cpu, const Event *event, uint16_t selector, Desc *ret_desc,
                                uint64_t *ret_addr)
{
    uint32_t error = (selector & 0xfffc) | ext(event);
    if ((selector & 0xfffc) == 0) {
        x86_gp(cpu, ext(event));
    }
    if (!desc_fetch(cpu, selector, ret_desc, ret_addr) || !desc_is_code(ret_desc) ||
        desc_dpl(ret_desc) > cpu->cpl) {
        x86_gp(cpu, error);
    }
    bool lma = cpu->efer & EFER_LMA;
    if (lma && (ret_desc->hi & (DESC_L | DESC_DB)) != DESC_L) {
        x86_gp(cpu, error);
    }
    if (!desc_present(ret_desc)) {
        x86_raise_error(cpu, EXC_NP, error);
    }
    unsigned dpl = desc_is_conforming(ret_desc) ? cpu->cpl : desc_dpl(ret_desc);
    if ((x86_hot(cpu)->mode & X86_MODE_VM86) && (desc_is_conforming(ret_desc) || dpl != 0)) {
        x86_gp(cpu, error);
    }
    return dpl;
}

static void enter_handler(X86Cpu *cpu, uint16_t selector, const Desc *desc, unsigned cpl, uint64_t rip,
                          bool trap_gate)
{
    X86Hot *hot = x86_hot(cpu);
    X86Seg cs;
    seg_from_desc(&cs, (uint16_t)((selector & ~3u) | cpl), desc);
    cs.attr |= 1;
    cpu->seg[X86_CS] = cs;
    cpu->cpl = (uint8_t)cpl;
    hot->rip = rip;
    hot->rflags &= ~(uint64_t)(X86_TF | X86_VM | X86_RF | X86_NT | (trap_gate ? 0 : X86_IF));
    x86_mode_changed(cpu);
}

static void push_event(Frame *frame, X86Cpu *cpu, const Event *event)
{
    frame_push(frame, event->flags);
    frame_push(frame, cpu->seg[X86_CS].sel);
    frame_push(frame, event->return_rip);
    if (event->has_error) {
        frame_push(frame, event->error);
    }
}

/* To an inner ring: the stack comes from the TSS, the old one is pushed; from V86 the segments too. */
static void deliver_inner(X86Cpu *cpu, const Event *event, uint16_t selector, const Desc *cs_desc, unsigned cpl,
                          uint32_t offset, unsigned size, bool trap_gate)
{
    uint16_t ss_sel;
    uint64_t sp;
    X86Seg ss;
    bool vm86 = x86_hot(cpu)->mode & X86_MODE_VM86;
    tss_stack(cpu, cpl, ext(event), &ss_sel, &sp);
    uint64_t ss_addr = stack_segment(cpu, ss_sel, cpl, ext(event), &ss);
    Frame frame;
    frame_begin(&frame, cpu, &ss, sp, size, cpu->cpl == 3 ? X86_AS_SUPERVISOR : X86_AS_CPL);
    if (vm86) {
        frame_push(&frame, cpu->seg[X86_GS].sel);
        frame_push(&frame, cpu->seg[X86_FS].sel);
        frame_push(&frame, cpu->seg[X86_DS].sel);
        frame_push(&frame, cpu->seg[X86_ES].sel);
    }
    frame_push(&frame, cpu->seg[X86_SS].sel);
    frame_push(&frame, x86_gpr(cpu)[X86_RSP]);
    push_event(&frame, cpu, event);
    if (offset > desc_limit(cs_desc)) {
        x86_gp(cpu, ext(event));
    }
    frame_write(&frame, EXC_SS, (ss_sel & 0xfffc) | ext(event));
    desc_set_accessed(cpu, ss_addr);
    if (vm86) {
        for (unsigned n = X86_ES; n < X86_SEG_COUNT; n++) {
            if (n != X86_CS && n != X86_SS) {
                seg_set(cpu, n, &(X86Seg) { 0 });
            }
        }
    }
    seg_set(cpu, X86_SS, &ss);
    frame_set_rsp(&frame);
    enter_handler(cpu, selector, cs_desc, cpl, offset, trap_gate);
}

static void deliver_protected(X86Cpu *cpu, const Event *event)
{
    Desc gate = gate_fetch(cpu, event, 8, NULL);
    unsigned type = desc_type(&gate);
    if ((gate.hi & DESC_S) || !(type == 5 || type == 6 || type == 7 || type == 14 || type == 15)) {
        x86_gp(cpu, idt_error(event));
    }
    gate_check(cpu, event, &gate);
    uint16_t selector = gate.lo >> 16;
    if (type == 5) {
        task_gate(cpu, selector, event->return_rip, event->flags, event->has_error, event->error, ext(event));
        return;
    }
    Desc desc;
    uint64_t addr;
    unsigned cpl = handler_segment(cpu, event, selector, &desc, &addr), size = type & 8 ? 4 : 2;
    uint32_t offset = (gate.lo & 0xffff) | (size == 4 ? gate.hi & 0xffff0000 : 0);
    desc_set_accessed(cpu, addr);
    if (cpl < cpu->cpl) {
        deliver_inner(cpu, event, selector, &desc, cpl, offset, size, type & 1);
        return;
    }
    Frame frame;
    frame_begin(&frame, cpu, &cpu->seg[X86_SS], x86_gpr(cpu)[X86_RSP], size, X86_AS_CPL);
    push_event(&frame, cpu, event);
    if (offset > desc_limit(&desc)) {
        x86_gp(cpu, ext(event));
    }
    frame_write(&frame, EXC_SS, ext(event));
    frame_set_rsp(&frame);
    enter_handler(cpu, selector, &desc, cpl, offset, type & 1);
}

static void deliver_long(X86Cpu *cpu, const Event *event)
{
    uint32_t upper;
    Desc gate = gate_fetch(cpu, event, 16, &upper);
    unsigned type = desc_type(&gate), ist = gate.hi & 7;
    if ((gate.hi & DESC_S) || (type != 14 && type != 15)) {
        x86_gp(cpu, idt_error(event));
    }
    gate_check(cpu, event, &gate);
    uint16_t selector = gate.lo >> 16;
    uint64_t offset = (gate.lo & 0xffff) | (gate.hi & 0xffff0000) | (uint64_t)upper << 32;
    Desc desc;
    uint64_t addr, rsp = x86_gpr(cpu)[X86_RSP];
    unsigned cpl = handler_segment(cpu, event, selector, &desc, &addr);
    bool inner = cpl < cpu->cpl;
    if (ist || inner) {
        rsp = tss_stack64(cpu, ist ? ist + 3 : cpl, ext(event));
    }
    rsp &= ~15ull;
    uint64_t slots[6], *slot = slots;
    if (event->has_error) {
        *slot++ = event->error;
    }
    *slot++ = event->return_rip;
    *slot++ = cpu->seg[X86_CS].sel;
    *slot++ = event->flags;
    *slot++ = x86_gpr(cpu)[X86_RSP];
    *slot++ = cpu->seg[X86_SS].sel;
    unsigned bytes = (unsigned)((char *)slot - (char *)slots);
    if (!x86_canonical(cpu, rsp) || !x86_canonical(cpu, rsp - bytes)) {
        x86_raise_error(cpu, EXC_SS, ext(event));
    }
    if (!x86_canonical(cpu, offset)) {
        x86_gp(cpu, ext(event));
    }
    desc_set_accessed(cpu, addr);
    x86_store_bytes(cpu, rsp - bytes, slots, bytes, inner ? X86_AS_SUPERVISOR : X86_AS_CPL);
    x86_gpr(cpu)[X86_RSP] = rsp - bytes;
    if (inner) {
        seg_set(cpu, X86_SS, &(X86Seg) { .sel = (uint16_t)cpl, .attr = (uint16_t)(cpl << 5) });
    }
    enter_handler(cpu, selector, &desc, cpl, offset, type & 1);
}

static void deliver(X86Cpu *cpu, const Event *event)
{
    if (!(cpu->cr0 & CR0_PE)) {
        deliver_real(cpu, event);
    } else if (cpu->efer & EFER_LMA) {
        deliver_long(cpu, event);
    } else {
        if (event->is_int && (x86_hot(cpu)->mode & X86_MODE_VM86) && vm86_redirected(cpu, event)) {
            return;
        }
        deliver_protected(cpu, event);
    }
}

static void log_event(X86Cpu *cpu, const Event *event)
{
    const X86Hot *hot = x86_hot(cpu);
    const uint64_t *gpr = x86_gpr(cpu);
    log_printf("cpu %u: v=%02x e=%04x i=%d cpl=%u IP=%04x:%016" PRIx64 " SP=%04x:%016" PRIx64 " CR2=%016" PRIx64
               " RAX=%016" PRIx64 " flags=%08x\n",
               cpu->vcpu->index, event->vector, event->has_error ? event->error : 0, event->soft, cpu->cpl,
               cpu->seg[X86_CS].sel, hot->rip, cpu->seg[X86_SS].sel, gpr[X86_RSP], cpu->cr2, gpr[X86_RAX],
               (uint32_t)hot->rflags);
}

/* --- from cpu->fault --- */

static bool is_fault(const X86Cpu *cpu)
{
    return !cpu->fault.soft && !(cpu->fault.vector == EXC_DB && !(cpu->fault.dr6 & BIT(13))) &&
           cpu->fault.vector != EXC_DF && cpu->fault.vector != EXC_MC;
}

static Event event_of_fault(X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    Event event = {
        .vector = cpu->fault.vector,
        .has_error = cpu->fault.has_error && (cpu->cr0 & CR0_PE),
        .soft = cpu->fault.soft,
        .is_int = cpu->fault.is_int,
        .error = cpu->fault.error,
        .return_rip = cpu->fault.soft ? cpu->fault.next_rip : hot->rip,
        .flags = hot->rflags | (is_fault(cpu) ? X86_RF : 0),
    };
    if (event.vector == EXC_PF && !event.soft) {
        cpu->cr2 = cpu->fault.next_rip;
    } else if (event.vector == EXC_DB && !event.soft) {
        uint64_t bits = cpu->fault.dr6 | cpu->debug_pending; /* what waited behind MOV SS comes along */
        cpu->debug_pending = 0;
        cpu->dr[6] = (bits ? cpu->dr[6] & ~15ull : cpu->dr[6]) | bits;
        cpu->dr[7] &= ~(uint64_t)BIT(13);
    }
    return event;
}

static bool contributory(unsigned vector)
{
    return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

/* What a fault during delivery of `first` becomes: the vector to deliver, or -1 for shutdown. */
static int combine(const Event *first, unsigned second)
{
    bool benign = first->soft || first->external;
    bool severe = contributory(second) || second == EXC_PF;
    if (!benign && first->vector == EXC_DF && severe) {
        return -1;
    }
    if (!benign && ((contributory(first->vector) && contributory(second)) ||
                    (first->vector == EXC_PF && severe))) {
        return EXC_DF;
    }
    return (int)second;
}

static void triple_fault(X86Cpu *cpu)
{
    if (log_enabled(LOG_CPU_RESET | LOG_INT)) {
        log_printf("cpu %u: triple fault at %04x:%016" PRIx64 "\n", cpu->vcpu->index, cpu->seg[X86_CS].sel,
                   x86_hot(cpu)->rip);
    }
    if (x86_svm_intercepts(cpu, SVM_EXIT_SHUTDOWN)) {
        cpu->svm.delivering = 0;
        x86_svm_leave(cpu, SVM_EXIT_SHUTDOWN, 0, 0, 0);
        return;
    }
    cpu->shutdown = true;
    cpu->vcpu->halted = true;
    if (cpu->vcpu->machine) {
        machine_request_reset(cpu->vcpu->machine, SHUTDOWN_GUEST_RESET);
    }
}

/* The event as SVM's EXITINTINFO tells it. */
static uint64_t event_info(const Event *event)
{
    enum { TYPE_INTR = 0, TYPE_NMI = 2, TYPE_EXCEPTION = 3, TYPE_SOFT = 4 };
    bool by_insn = event->soft && (event->is_int || (event->vector != EXC_BP && event->vector != EXC_OF));
    unsigned type = event->external ? (event->vector == EXC_NMI ? TYPE_NMI : TYPE_INTR)
                    : by_insn       ? TYPE_SOFT
                                    : TYPE_EXCEPTION;
    return event->vector | type << 8 | (event->has_error ? BIT(11) | (uint64_t)event->error << 32 : 0) | BIT64(31);
}

/* Exceptions are intercepted before anything is made of them, also while another event is being delivered. */
bool x86_svm_take_exception(X86Cpu *cpu)
{
    unsigned vector = cpu->fault.vector;
    bool soft = cpu->fault.soft;
    if (!cpu->svm.guest || vector >= 32 || (soft && (cpu->fault.is_int || (vector != EXC_BP && vector != EXC_OF))) ||
        !x86_svm_intercepts(cpu, SVM_EXIT_EXCEPTION + vector)) {
        return false;
    }
    uint64_t address = vector == EXC_PF ? cpu->fault.next_rip : 0;
    if (vector == EXC_DB) {
        cpu->dr[6] |= cpu->fault.dr6;
    }
    x86_svm_leave(cpu, SVM_EXIT_EXCEPTION + vector, cpu->fault.has_error ? cpu->fault.error : 0, address,
                  soft ? cpu->fault.next_rip : 0);
    return true;
}

/* Delivers, and what its faults become, until one is taken or the CPU shuts down. */
static void deliver_combined(X86Cpu *cpu, Event first)
{
    jmp_buf *outer = cpu->fault_jmp;
    jmp_buf here;
    volatile Event event = first;
    cpu->fault_jmp = &here;
    int how = setjmp(here);
    if (how == X86_JMP_LEAVE) { /* a nested page fault, say: the host runs now */
        cpu->fault_jmp = outer;
        return;
    }
    if (how == X86_JMP_FAULT) {
        Event failed = event;
        if (x86_svm_take_exception(cpu)) {
            cpu->fault_jmp = outer;
            return;
        }
        int vector = combine(&failed, cpu->fault.vector);
        if (log_enabled(LOG_INT)) {
            log_printf("cpu %u: %02x while %02x was delivered, e=%04x\n", cpu->vcpu->index, cpu->fault.vector,
                       failed.vector, cpu->fault.has_error ? cpu->fault.error : 0);
        }
        if (vector < 0) {
            cpu->fault_jmp = outer;
            triple_fault(cpu);
            return;
        }
        if (vector == EXC_DF && cpu->fault.vector != EXC_DF) {
            if (cpu->fault.vector == EXC_PF) {
                cpu->cr2 = cpu->fault.next_rip;
            }
            cpu->fault.vector = EXC_DF;
            cpu->fault.has_error = true;
            cpu->fault.error = 0;
            if (x86_svm_take_exception(cpu)) {
                cpu->fault_jmp = outer;
                return;
            }
            event = (Event) { .vector = EXC_DF, .has_error = cpu->cr0 & CR0_PE, .return_rip = x86_hot(cpu)->rip,
                              .flags = x86_hot(cpu)->rflags };
        } else {
            event = event_of_fault(cpu);
        }
    }
    Event now = event;
    if (log_enabled(LOG_INT)) {
        log_event(cpu, &now);
    }
    if (cpu->svm.guest) {
        cpu->svm.delivering = event_info(&now);
    }
    if (cpu->branch.control & 1) {
        cpu->branch.int_from = cpu->branch.from;
        cpu->branch.int_to = cpu->branch.to;
    }
    deliver(cpu, &now);
    cpu->svm.delivering = 0;
    cpu->fault_jmp = outer;
}

void x86_deliver_fault(X86Cpu *cpu)
{
    cpu->int_shadow = 0;
    cpu->vcpu->halted = false; /* a single step over HLT */
    if (unlikely(cpu->svm.guest) && x86_svm_take_exception(cpu)) {
        return;
    }
    deliver_combined(cpu, event_of_fault(cpu));
}

void x86_deliver_interrupt(X86Cpu *cpu, unsigned vector, bool nmi)
{
    const X86Hot *hot = x86_hot(cpu);
    cpu->vcpu->halted = false;
    cpu->shutdown = false;
    cpu->int_shadow = 0;
    if (nmi) {
        cpu->nmi_blocked = true;
    }
    deliver_combined(cpu, (Event) {
        .vector = (uint8_t)vector,
        .external = true,
        .return_rip = hot->rip,
        .flags = hot->rflags,
    });
}

void x86_deliver_injected(X86Cpu *cpu, uint64_t info, uint64_t next_rip)
{
    const X86Hot *hot = x86_hot(cpu);
    unsigned type = info >> 8 & 7, vector = info & 0xff;
    bool soft = type == 4 || (type == 3 && (vector == EXC_BP || vector == EXC_OF));
    bool behind = soft && next_rip && x86_has(cpu, X86_FEAT_SVM, SVM_FEAT_NRIPS);
    if (type == 2) {
        cpu->nmi_blocked = true;
    }
    cpu->int_shadow = 0;
    deliver_combined(cpu, (Event) {
        .vector = type == 2 ? EXC_NMI : (uint8_t)vector,
        .has_error = (info & BIT(11)) && type == 3 && (cpu->cr0 & CR0_PE),
        .external = type == 0 || type == 2,
        .soft = soft,
        .is_int = type == 4,
        .error = (uint32_t)(info >> 32),
        .return_rip = behind ? next_rip : hot->rip,
        .flags = hot->rflags,
    });
}
