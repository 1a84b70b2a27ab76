/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT. Intel SDM volume 2; AMD64 manual volume 3 for the legacy-mode
 * SYSCALL, which only AMD processors have (Intel's raise #UD outside 64-bit mode).
 */
#include <stdatomic.h>

#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"

enum { FLAT_CODE = SEG_P | SEG_S | 0xb | SEG_G, FLAT_DATA = SEG_P | SEG_S | 3 | SEG_G | SEG_DB };

static void set_flat(X86Cpu *cpu, unsigned n, uint16_t selector, unsigned dpl, uint16_t attr)
{
    seg_set(cpu, n, &(X86Seg) {
        .sel = selector,
        .attr = (uint16_t)(attr | dpl << 5),
        .limit = 0xffffffff,
    });
}

static bool is_intel(const X86Cpu *cpu)
{
    return strcmp(cpu->vendor, "GenuineIntel") == 0;
}

void x86_syscall(X86Cpu *cpu, uint64_t next_rip)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t *gpr = x86_gpr(cpu);
    bool lma = cpu->efer & EFER_LMA;
    if (!(cpu->efer & EFER_SCE) || !(cpu->cr0 & CR0_PE) || (!mode64(cpu) && is_intel(cpu))) {
        x86_ud(cpu);
    }
    uint16_t cs = (uint16_t)(cpu->star >> 32);
    gpr[X86_RCX] = lma ? next_rip : (uint32_t)next_rip;
    if (lma) {
        gpr[11] = hot->rflags & ~(uint64_t)X86_RF;
        hot->rip = mode64(cpu) ? cpu->lstar : cpu->cstar;
        hot->rflags = (hot->rflags & ~(cpu->sfmask | X86_RF)) | BIT(1);
        set_flat(cpu, X86_CS, cs & 0xfffc, 0, FLAT_CODE | SEG_L);
    } else {
        hot->rip = (uint32_t)cpu->star;
        hot->rflags &= ~(uint64_t)(X86_IF | X86_RF | X86_VM);
        set_flat(cpu, X86_CS, cs & 0xfffc, 0, FLAT_CODE | SEG_DB);
    }
    set_flat(cpu, X86_SS, (uint16_t)(cs + 8) & 0xfffc, 0, FLAT_DATA);
    cpu->cpl = 0;
    x86_mode_changed(cpu);
}

void x86_sysret(X86Cpu *cpu, unsigned osize)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t *gpr = x86_gpr(cpu);
    bool lma = cpu->efer & EFER_LMA;
    if (!(cpu->efer & EFER_SCE) || !(cpu->cr0 & CR0_PE) || (!mode64(cpu) && is_intel(cpu))) {
        x86_ud(cpu);
    }
    if (cpu->cpl != 0 || (osize == 8 && is_intel(cpu) && !x86_canonical(cpu, gpr[X86_RCX]))) {
        x86_gp(cpu, 0);
    }
    uint16_t base = (uint16_t)(cpu->star >> 48);
    if (osize == 8) {
        set_flat(cpu, X86_CS, (uint16_t)(base + 16) | 3, 3, FLAT_CODE | SEG_L);
        hot->rip = gpr[X86_RCX];
    } else {
        set_flat(cpu, X86_CS, base | 3, 3, FLAT_CODE | SEG_DB);
        hot->rip = (uint32_t)gpr[X86_RCX];
    }
    if (lma) {
        hot->rflags = (gpr[11] & 0x3c7fd7) | BIT(1);
    } else {
        hot->rflags |= X86_IF;
    }
    set_flat(cpu, X86_SS, (uint16_t)(base + 8) | 3, 3, FLAT_DATA);
    cpu->cpl = 3;
    x86_mode_changed(cpu);
    if (hot->rflags & X86_TF) { /* the step ends here, not behind the next instruction */
        cpu->debug_pending |= BIT(14);
        atomic_fetch_or(&hot->exit_req, VCPU_REQ_DEBUG);
    }
    if (hot->rflags & X86_IF) {
        x86_release_requests(cpu);
    }
}

void x86_sysenter(X86Cpu *cpu)
{
    X86Hot *hot = x86_hot(cpu);
    bool lma = cpu->efer & EFER_LMA;
    uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;
    if (!(cpu->cr0 & CR0_PE) || cs == 0) {
        x86_gp(cpu, 0);
    }
    hot->rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
    set_flat(cpu, X86_CS, cs, 0, lma ? FLAT_CODE | SEG_L : FLAT_CODE | SEG_DB);
    set_flat(cpu, X86_SS, (uint16_t)(cs + 8), 0, FLAT_DATA);
    cpu->cpl = 0;
    x86_gpr(cpu)[X86_RSP] = lma ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    hot->rip = lma ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    x86_mode_changed(cpu);
}

void x86_sysexit(X86Cpu *cpu, unsigned osize)
{
    const uint64_t *gpr = x86_gpr(cpu);
    uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;
    if (cs == 0 || !(cpu->cr0 & CR0_PE) || cpu->cpl != 0) {
        x86_gp(cpu, 0);
    }
    bool wide = osize == 8;
    if (wide && (!x86_canonical(cpu, gpr[X86_RCX]) || !x86_canonical(cpu, gpr[X86_RDX]))) {
        x86_gp(cpu, 0);
    }
    set_flat(cpu, X86_CS, (uint16_t)(cs + (wide ? 32 : 16)) | 3, 3, FLAT_CODE | (wide ? SEG_L : SEG_DB));
    set_flat(cpu, X86_SS, (uint16_t)(cs + (wide ? 40 : 24)) | 3, 3, FLAT_DATA);
    x86_hot(cpu)->rip = wide ? gpr[X86_RDX] : (uint32_t)gpr[X86_RDX];
    x86_gpr(cpu)[X86_RSP] = wide ? gpr[X86_RCX] : (uint32_t)gpr[X86_RCX];
    cpu->cpl = 3;
    x86_mode_changed(cpu);
}
