/*
 * System instructions: tables, control and debug registers, MSRs, interrupt flag, CPUID, time,
 * halting, fast system calls. Privilege and CPUID features were checked before (interp.c). Intel
 * SDM volume 2; volume 3, chapters 2 and 20.
 */
#include <sys/random.h>

#include "core/vm/icount.h"
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/seg.h"
#include "cpu/x86/sys.h"

/* --- descriptor tables --- */

static void umip_check(X86Cpu *cpu)
{
    if (cpu->cr4 & CR4_UMIP && cpu->cpl != 0) {
        x86_gp(cpu, 0);
    }
}

static void store_table(X86Cpu *cpu, const X86Insn *insn, uint64_t base, uint32_t limit)
{
    unsigned size = mode64(cpu) ? 8 : 4;
    uint8_t buf[10];
    umip_check(cpu);
    uint64_t va = x86_ea(cpu, insn, size + 2, true);
    st16_le(buf, (uint16_t)limit);
    st64_le(buf + 2, base);
    x86_store_bytes(cpu, va, buf, size + 2, X86_AS_CPL);
}

void x86_op_sgdt(X86Cpu *cpu, const X86Insn *insn)
{
    store_table(cpu, insn, cpu->gdt.base, cpu->gdt.limit);
}

void x86_op_sidt(X86Cpu *cpu, const X86Insn *insn)
{
    store_table(cpu, insn, cpu->idt.base, cpu->idt.limit);
}

static uint64_t load_table(X86Cpu *cpu, const X86Insn *insn, uint32_t *ret_limit)
{
    bool wide = mode64(cpu);
    uint64_t va = x86_ea(cpu, insn, wide ? 10 : 6, false);
    uint16_t limit = (uint16_t)x86_load(cpu, va, 2);
    uint64_t base = x86_load(cpu, va + 2, wide ? 8 : 4);
    if (wide && !x86_canonical_widest(cpu, base)) {
        x86_gp(cpu, 0);
    }
    *ret_limit = limit;
    return !wide && insn->osize == 2 ? base & 0xffffff : base;
}

void x86_op_lgdt(X86Cpu *cpu, const X86Insn *insn)
{
    uint32_t limit;
    cpu->gdt.base = load_table(cpu, insn, &limit);
    cpu->gdt.limit = limit;
}

void x86_op_lidt(X86Cpu *cpu, const X86Insn *insn)
{
    uint32_t limit;
    cpu->idt.base = load_table(cpu, insn, &limit);
    cpu->idt.limit = limit;
}

void x86_op_sldt(X86Cpu *cpu, const X86Insn *insn)
{
    umip_check(cpu);
    operand_write(cpu, insn, 0, cpu->ldt.sel, insn->operand[0].size);
}

void x86_op_str(X86Cpu *cpu, const X86Insn *insn)
{
    umip_check(cpu);
    operand_write(cpu, insn, 0, cpu->tr.sel, insn->operand[0].size);
}

void x86_op_lldt(X86Cpu *cpu, const X86Insn *insn)
{
    x86_lldt(cpu, (uint16_t)operand_read(cpu, insn, 0, 2));
}

void x86_op_ltr(X86Cpu *cpu, const X86Insn *insn)
{
    x86_ltr(cpu, (uint16_t)operand_read(cpu, insn, 0, 2));
}

/* --- control and debug registers --- */

void x86_op_smsw(X86Cpu *cpu, const X86Insn *insn)
{
    umip_check(cpu);
    operand_write(cpu, insn, 0, cpu->cr0, insn->operand[0].size);
}

/* Writes the low four bits, and cannot clear PE. */
void x86_op_lmsw(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value = operand_read(cpu, insn, 0, 2);
    x86_write_cr(cpu, 0, (cpu->cr0 & ~14ull) | (value & 15));
    cpu->interp_stop = true;
}

void x86_op_clts(X86Cpu *cpu, const X86Insn *insn)
{
    cpu->cr0 &= ~(uint64_t)CR0_TS;
    x86_mode_changed(cpu);
}

void x86_op_mov_from_cr(X86Cpu *cpu, const X86Insn *insn)
{
    reg_write(cpu, &insn->operand[0], x86_read_cr(cpu, insn->operand[1].reg),
              insn->operand[0].size);
}

void x86_op_mov_to_cr(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value = reg_read(cpu, &insn->operand[1], insn->operand[1].size);
    cpu->interp_stop = true;
    x86_write_cr(cpu, insn->operand[0].reg, value);
}

void x86_op_mov_from_dr(X86Cpu *cpu, const X86Insn *insn)
{
    reg_write(cpu, &insn->operand[0], x86_read_dr(cpu, insn->operand[1].reg),
              insn->operand[0].size);
}

void x86_op_mov_to_dr(X86Cpu *cpu, const X86Insn *insn)
{
    cpu->interp_stop = true;
    x86_write_dr(cpu, insn->operand[0].reg,
                 reg_read(cpu, &insn->operand[1], insn->operand[1].size));
}

static void osxsave_check(X86Cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSXSAVE)) {
        x86_ud(cpu);
    }
}

static uint64_t edx_eax(X86Cpu *cpu)
{
    return x86_gpr(cpu)[X86_RDX] << 32 | (uint32_t)x86_gpr(cpu)[X86_RAX];
}

static void set_edx_eax(X86Cpu *cpu, uint64_t value)
{
    gpr_write(cpu, X86_RAX, (uint32_t)value, 8);
    gpr_write(cpu, X86_RDX, value >> 32, 8);
}

void x86_op_xgetbv(X86Cpu *cpu, const X86Insn *insn)
{
    uint32_t index = (uint32_t)x86_gpr(cpu)[X86_RCX];
    osxsave_check(cpu);
    /* XCR1: components in use. Saying that all enabled ones are is always right. */
    if (index > 1 || (index == 1 && !(cpu->features[X86_FEAT_D_1_EAX] & BIT(2)))) {
        x86_gp(cpu, 0);
    }
    set_edx_eax(cpu, cpu->xcr0);
}

void x86_op_xsetbv(X86Cpu *cpu, const X86Insn *insn)
{
    osxsave_check(cpu);
    x86_xsetbv(cpu, (uint32_t)x86_gpr(cpu)[X86_RCX], edx_eax(cpu));
    cpu->interp_stop = true;
}

void x86_op_rdpkru(X86Cpu *cpu, const X86Insn *insn)
{
    if (!(cpu->cr4 & CR4_PKE)) {
        x86_ud(cpu);
    }
    if ((uint32_t)x86_gpr(cpu)[X86_RCX] != 0) {
        x86_gp(cpu, 0);
    }
    set_edx_eax(cpu, (uint32_t)cpu->pkru);
}

void x86_op_wrpkru(X86Cpu *cpu, const X86Insn *insn)
{
    if (!(cpu->cr4 & CR4_PKE)) {
        x86_ud(cpu);
    }
    if ((uint32_t)x86_gpr(cpu)[X86_RCX] != 0 || (uint32_t)x86_gpr(cpu)[X86_RDX] != 0) {
        x86_gp(cpu, 0);
    }
    cpu->pkru = (uint32_t)x86_gpr(cpu)[X86_RAX];
    x86_tlb_drop_rights(cpu);
}

void x86_op_rdmsr(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value;
    x86_rdmsr(cpu, (uint32_t)x86_gpr(cpu)[X86_RCX], &value);
    set_edx_eax(cpu, value);
}

void x86_op_wrmsr(X86Cpu *cpu, const X86Insn *insn)
{
    x86_wrmsr(cpu, (uint32_t)x86_gpr(cpu)[X86_RCX], edx_eax(cpu));
    cpu->interp_stop = true;
}

/* --- segment bases --- */

static void fsgsbase_check(X86Cpu *cpu)
{
    if (!(cpu->cr4 & CR4_FSGSBASE)) {
        x86_ud(cpu);
    }
}

static void write_base(X86Cpu *cpu, const X86Insn *insn, unsigned seg)
{
    fsgsbase_check(cpu);
    uint64_t base = reg_read(cpu, &insn->operand[0], insn->operand[0].size);
    if (!x86_is_canonical(cpu, base)) {
        x86_gp(cpu, 0);
    }
    cpu->seg[seg].base = base;
    *(seg == X86_FS ? &x86_hot(cpu)->fs_base : &x86_hot(cpu)->gs_base) = base;
}

void x86_op_rdfsbase(X86Cpu *cpu, const X86Insn *insn)
{
    fsgsbase_check(cpu);
    reg_write(cpu, &insn->operand[0], x86_hot(cpu)->fs_base, insn->operand[0].size);
}

void x86_op_rdgsbase(X86Cpu *cpu, const X86Insn *insn)
{
    fsgsbase_check(cpu);
    reg_write(cpu, &insn->operand[0], x86_hot(cpu)->gs_base, insn->operand[0].size);
}

void x86_op_wrfsbase(X86Cpu *cpu, const X86Insn *insn)
{
    write_base(cpu, insn, X86_FS);
}

void x86_op_wrgsbase(X86Cpu *cpu, const X86Insn *insn)
{
    write_base(cpu, insn, X86_GS);
}

void x86_op_swapgs(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = cpu->seg[X86_GS].base;
    cpu->seg[X86_GS].base = base;
    x86_hot(cpu)->gs_base = base;
}

/* --- interrupt flag --- */

/* V86 with VME, or ring 3 with PVI, and IOPL too low: the virtual flag instead. Raises when
 * neither. */
static void virtual_if(X86Cpu *cpu, bool set)
{
    X86Hot *hot = x86_hot(cpu);
    bool vm86 = hot->mode & X86_MODE_VM86;
    bool allowed = vm86 ? cpu->cr4 & CR4_VME : cpu->cpl == 3 && cpu->cr4 & CR4_PVI;
    if (!allowed || (set && hot->rflags & X86_VIP)) {
        x86_gp(cpu, 0);
    }
    hot->rflags = (hot->rflags & ~(uint64_t)X86_VIF) | (set ? X86_VIF : 0);
}

void x86_op_cli(X86Cpu *cpu, const X86Insn *insn)
{
    X86Hot *hot = x86_hot(cpu);
    if (cpu->cpl <= iopl(cpu) || !(cpu->cr0 & CR0_PE)) {
        hot->rflags &= ~(uint64_t)X86_IF;
    } else {
        virtual_if(cpu, false);
    }
}

/* Interrupts wait until after the next instruction when they were off. */
void x86_op_sti(X86Cpu *cpu, const X86Insn *insn)
{
    X86Hot *hot = x86_hot(cpu);
    if (cpu->cpl > iopl(cpu) && cpu->cr0 & CR0_PE) {
        virtual_if(cpu, true);
        return;
    }
    if (!(hot->rflags & X86_IF)) {
        hot->rflags |= X86_IF;
        cpu->int_shadow = 1;
        x86_release_requests(cpu);
    }
    cpu->interp_stop = true;
}

void x86_op_stac(X86Cpu *cpu, const X86Insn *insn)
{
    x86_hot(cpu)->rflags |= X86_AC;
    x86_mode_changed(cpu);
    cpu->interp_stop = true;
}

void x86_op_clac(X86Cpu *cpu, const X86Insn *insn)
{
    x86_hot(cpu)->rflags &= ~(uint64_t)X86_AC;
    x86_mode_changed(cpu);
    cpu->interp_stop = true;
}

/* --- information --- */

void x86_op_cpuid(X86Cpu *cpu, const X86Insn *insn)
{
    static const uint8_t order[4] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX };
    uint64_t *gpr = x86_gpr(cpu);
    uint32_t regs[4];
    x86_cpuid(cpu, (uint32_t)gpr[X86_RAX], (uint32_t)gpr[X86_RCX], regs);
    for (unsigned i = 0; i < 4; i++) {
        gpr[order[i]] = regs[i];
    }
}

static void tsc_check(X86Cpu *cpu)
{
    if (cpu->cr4 & CR4_TSD && cpu->cpl != 0) {
        x86_gp(cpu, 0);
    }
}

void x86_op_rdtsc(X86Cpu *cpu, const X86Insn *insn)
{
    tsc_check(cpu);
    set_edx_eax(cpu, x86_tsc(cpu));
}

void x86_op_rdtscp(X86Cpu *cpu, const X86Insn *insn)
{
    tsc_check(cpu);
    set_edx_eax(cpu, x86_tsc(cpu));
    x86_gpr(cpu)[X86_RCX] = (uint32_t)cpu->tsc_aux;
}

/* No performance counters are offered, so every index names none. */
void x86_op_rdpmc(X86Cpu *cpu, const X86Insn *insn)
{
    x86_gp(cpu, 0);
}

void x86_op_rdpid(X86Cpu *cpu, const X86Insn *insn)
{
    reg_write(cpu, &insn->operand[0], (uint32_t)cpu->tsc_aux, insn->operand[0].size);
}

static void random_number(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t value = 0;
    bool ok = true;
    if (cpu->counted) {
        value = icount_random(cpu->vcpu->machine->icount);
    } else {
        ok = getrandom(&value, sizeof(value), GRND_NONBLOCK) == sizeof(value);
    }
    reg_write(cpu, &insn->operand[0], ok ? value : 0, insn->operand[0].size);
    flags_set(cpu, X86_ARITH, ok ? X86_CF : 0);
}

void x86_op_rdrand(X86Cpu *cpu, const X86Insn *insn)
{
    random_number(cpu, insn);
}

void x86_op_rdseed(X86Cpu *cpu, const X86Insn *insn)
{
    random_number(cpu, insn);
}

/* --- caches and TLB --- */

void x86_op_invd(X86Cpu *cpu, const X86Insn *insn) {}

void x86_op_wbinvd(X86Cpu *cpu, const X86Insn *insn) {}

void x86_op_wbnoinvd(X86Cpu *cpu, const X86Insn *insn) {}

void x86_op_serialize(X86Cpu *cpu, const X86Insn *insn)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* No limit is checked, and an address that is not canonical does nothing. */
void x86_op_invlpg(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t va = x86_ea_offset(cpu, insn);
    if (!mode64(cpu)) {
        va = (uint32_t)(va + cpu->seg[insn->seg].base);
    } else if (insn->seg == X86_FS || insn->seg == X86_GS) {
        va += cpu->seg[insn->seg].base;
    }
    if (x86_is_canonical(cpu, va)) {
        x86_tlb_flush_page(cpu, va);
    }
    cpu->interp_stop = true;
}

void x86_op_invpcid(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t type = reg_read(cpu, &insn->operand[0], insn->operand[0].size);
    uint64_t va = x86_ea(cpu, insn, 16, false);
    uint64_t low = x86_load(cpu, va, 8), address = x86_load(cpu, va + 8, 8);
    unsigned pcid = low & 0xfff;
    bool pcide = cpu->cr4 & CR4_PCIDE;
    if (type > 3 || (type < 2 && (low >> 12 || (!pcide && pcid != 0)))) {
        x86_gp(cpu, 0);
    }
    switch (type) {
    case 0:
        if (!x86_canonical_widest(cpu, address)) {
            x86_gp(cpu, 0);
        }
        x86_tlb_flush_pcid_page(cpu, pcid, address);
        break;
    case 1:
        x86_tlb_flush_pcid(cpu, pcid);
        break;
    case 2:
        x86_tlb_flush_all(cpu);
        break;
    default:
        x86_tlb_flush_all_pcids(cpu);
        break;
    }
    cpu->interp_stop = true;
}

/* --- waiting --- */

void x86_op_hlt(X86Cpu *cpu, const X86Insn *insn)
{
    hlt_now(cpu);
}

static void monitor_check(X86Cpu *cpu, uint32_t allowed_ecx)
{
    if (cpu->cpl != 0) {
        x86_ud(cpu);
    }
    if ((uint32_t)x86_gpr(cpu)[X86_RCX] & ~allowed_ecx) {
        x86_gp(cpu, 0);
    }
}

void x86_op_monitor(X86Cpu *cpu, const X86Insn *insn)
{
    monitor_check(cpu, 0);
    uint64_t offset = gpr_read(cpu, X86_RAX, insn->asize);
    x86_load(cpu, x86_linear(cpu, insn->seg, offset, 1, false), 1);
}

/*
 * MWAIT may wake at any time. Stores of other CPUs to the monitored line are not watched, so it
 * waits as HLT does only when nothing but an interrupt can be meant: a single CPU with interrupts
 * enabled.
 */
void x86_op_mwait(X86Cpu *cpu, const X86Insn *insn)
{
    monitor_check(cpu, 1);
    const Machine *machine = cpu->vcpu->machine;
    if (machine != NULL && machine->vcpus->len == 1 && x86_hot(cpu)->rflags & X86_IF) {
        hlt_now(cpu);
    }
}

/* --- system calls, SMM --- */

void x86_op_syscall(X86Cpu *cpu, const X86Insn *insn)
{
    x86_syscall(cpu, cpu->next_rip);
    x86_set_rip(cpu);
}

void x86_op_sysret(X86Cpu *cpu, const X86Insn *insn)
{
    x86_sysret(cpu, insn->osize);
    x86_set_rip(cpu);
    x86_release_requests(cpu);
}

void x86_op_sysenter(X86Cpu *cpu, const X86Insn *insn)
{
    x86_sysenter(cpu);
    x86_set_rip(cpu);
}

void x86_op_sysexit(X86Cpu *cpu, const X86Insn *insn)
{
    x86_sysexit(cpu, insn->osize);
    x86_set_rip(cpu);
}

void x86_op_rsm(X86Cpu *cpu, const X86Insn *insn)
{
    if (!cpu->smm) {
        x86_ud(cpu);
    }
    x86_rsm(cpu);
    x86_set_rip(cpu);
    x86_release_requests(cpu);
}
