/*
 * A CPU in an ELF core file: NT_PRSTATUS with the general registers (AMD64 ABI, as Linux lays it out), and the "QEMU"
 * note, where crash finds segments and control registers.
 */
#include <elf.h>
#include <string.h>

#include "base/endian.h"
#include "cpu/x86/core_note.h"
#include "cpu/x86/cpu.h"

enum { PRSTATUS_SIZE = 336, PR_PID = 32, PR_REG = 112 };

static void put_u32(GByteArray *out, uint32_t value)
{
    uint8_t bytes[4];
    st32_le(bytes, value);
    g_byte_array_append(out, bytes, sizeof(bytes));
}

static void put_u64(GByteArray *out, uint64_t value)
{
    put_u32(out, (uint32_t)value);
    put_u32(out, (uint32_t)(value >> 32));
}

static void put_note(GByteArray *notes, const char *name, uint32_t type, const uint8_t *desc, uint32_t length)
{
    static const uint8_t zeros[4];
    uint32_t name_length = (uint32_t)strlen(name) + 1;

    put_u32(notes, name_length);
    put_u32(notes, length);
    put_u32(notes, type);
    g_byte_array_append(notes, (const uint8_t *)name, name_length);
    g_byte_array_append(notes, zeros, -name_length & 3);
    g_byte_array_append(notes, desc, length);
    g_byte_array_append(notes, zeros, -length & 3);
}

static void put_prstatus(GByteArray *notes, X86Cpu *cpu, unsigned index)
{
    const X86Hot *hot = x86_hot(cpu);
    const uint64_t *gpr = x86_gpr(cpu);
    const uint64_t regs[] = {
        gpr[15], gpr[14], gpr[13], gpr[12], gpr[5], gpr[3], gpr[11], gpr[10], gpr[9], gpr[8], gpr[0], gpr[1], gpr[2], gpr[6], gpr[7],
        UINT64_MAX, hot->rip, cpu->seg[X86_CS].sel, hot->rflags, gpr[4], cpu->seg[X86_SS].sel,
        cpu->seg[X86_FS].base, cpu->seg[X86_GS].base, cpu->seg[X86_DS].sel, cpu->seg[X86_ES].sel, cpu->seg[X86_FS].sel, cpu->seg[X86_GS].sel,
    };
    uint8_t status[PRSTATUS_SIZE] = { 0 };

    st32_le(status + PR_PID, index + 1);
    for (size_t n = 0; n < ARRAY_SIZE(regs); n++) {
        st64_le(status + PR_REG + 8 * n, regs[n]);
    }
    put_note(notes, "CORE", NT_PRSTATUS, status, sizeof(status));
}

/* Selector, limit, the descriptor's second word, padding, base. */
static void put_segment(GByteArray *out, const X86Seg *seg)
{
    put_u32(out, seg->sel);
    put_u32(out, seg->limit);
    put_u32(out, (uint32_t)seg->attr << 8);
    put_u32(out, 0);
    put_u64(out, seg->base);
}

static void put_qemu_note(GByteArray *notes, X86Cpu *cpu)
{
    static const unsigned gpr_order[] = { 0, 3, 1, 2, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15 };
    static const unsigned seg_order[] = { X86_CS, X86_DS, X86_ES, X86_FS, X86_GS, X86_SS };
    enum { VERSION = 1, SIZE = 440 };
    const X86Hot *hot = x86_hot(cpu);
    const X86Seg gdt = { .limit = cpu->gdt.limit, .base = cpu->gdt.base }, idt = { .limit = cpu->idt.limit, .base = cpu->idt.base };
    const uint64_t cr[5] = { cpu->cr0, 0, cpu->cr2, cpu->cr3, cpu->cr4 };
    g_autoptr(GByteArray) state = g_byte_array_new();

    put_u32(state, VERSION);
    put_u32(state, SIZE);
    for (size_t n = 0; n < ARRAY_SIZE(gpr_order); n++) {
        put_u64(state, x86_gpr(cpu)[gpr_order[n]]);
    }
    put_u64(state, hot->rip);
    put_u64(state, hot->rflags);
    for (size_t n = 0; n < ARRAY_SIZE(seg_order); n++) {
        put_segment(state, &cpu->seg[seg_order[n]]);
    }
    put_segment(state, &cpu->ldt);
    put_segment(state, &cpu->tr);
    put_segment(state, &gdt);
    put_segment(state, &idt);
    for (size_t n = 0; n < ARRAY_SIZE(cr); n++) {
        put_u64(state, cr[n]);
    }
    put_u64(state, cpu->kernel_gs_base);
    assert(state->len == SIZE);
    put_note(notes, "QEMU", 0, state->data, state->len);
}

void x86_core_notes(Vcpu *vcpu, GByteArray *notes)
{
    put_prstatus(notes, x86_cpu_of(vcpu), vcpu->index);
    put_qemu_note(notes, x86_cpu_of(vcpu));
}
