/*
 * Vector instructions that are done in C: those with memory accessed element by element (MASKMOVQ,
 * MASKMOVDQU, VMASKMOV, VPMASKMOV, gathers; an element that is masked off cannot fault), EMMS, VZEROALL
 * and VZEROUPPER.
 */
#include "cpu/x86/mmu.h"
#include "cpu/x86/native_priv.h"

void fpu_enter_mmx(X86Cpu *cpu)
{
    fpu_set_fsw(cpu, cpu->fx.fsw & (uint16_t)~FSW_TOP);
    cpu->fx.ftw = 0xff;
}

/* Bits above those a VEX instruction of this length writes become zero. */
static void clear_above(X86Vec *vec, unsigned bytes)
{
    memset(vec->b + bytes, 0, sizeof(*vec) - bytes);
}

static unsigned vector_bytes(const X86Insn *insn)
{
    return insn->vex_l ? 32 : 16;
}

static unsigned vvvv(X86Cpu *cpu, const X86Insn *insn)
{
    return insn->vex_v & (x86_hot(cpu)->mode & X86_MODE_CS64 ? 15 : 7);
}

/*
 * Byte masks; the address is [rDI]. The manual leaves open whether bytes that are masked off can fault;
 * Intel's processors check all of the operand, the upper half first.
 */
static void mask_move_bytes(X86Cpu *cpu, const X86Insn *insn, const uint8_t *data, const uint8_t *mask, unsigned count)
{
    X86Insn at = *insn;
    at.base = X86_RDI;
    at.index = X86_NO_REG;
    at.disp = 0;
    uint64_t va[2];
    for (unsigned half = count; half; half -= 8) {
        va[half / 8 - 1] = fpu_ea_at(cpu, &at, half - 8, 8, true);
        fpu_check_ac(cpu, va[half / 8 - 1], 8);
        x86_check(cpu, va[half / 8 - 1], 8, X86_WRITE, X86_AS_CPL);
    }
    for (unsigned i = 0; i < count; i++) {
        if (mask[i] & 0x80) {
            x86_store(cpu, va[i / 8] + i % 8, data[i], 1);
        }
    }
}

static void op_maskmovdqu(X86Cpu *cpu, const X86Insn *insn)
{
    mask_move_bytes(cpu, insn, cpu->vec[native_modrm_reg(insn)].b, cpu->vec[native_modrm_rm(insn)].b, 16);
}

static void op_maskmovq(X86Cpu *cpu, const X86Insn *insn)
{
    fpu_enter_mmx(cpu); /* even when the store faults */
    mask_move_bytes(cpu, insn, cpu->fx.st[insn->modrm >> 3 & 7], cpu->fx.st[insn->modrm & 7], 8);
}

void fpu_op_emms(X86Cpu *cpu, const X86Insn *insn)
{
    fpu_enter_mmx(cpu);
    cpu->fx.ftw = 0;
}

/* --- element masks in a vector register --- */
static bool element_selected(const X86Vec *mask, unsigned i, unsigned size)
{
    return mask->b[i * size + size - 1] & 0x80;
}

/*
 * Address of a masked operand. Canonical form is required of the whole as soon as one element is
 * selected; elements follow each other linearly, whatever the address size. False: none is selected.
 */
static bool masked_address(X86Cpu *cpu, const X86Insn *insn, const X86Vec *mask, unsigned size, bool write,
                           uint64_t *ret_va)
{
    for (unsigned i = 0; i < vector_bytes(insn) / size; i++) {
        if (element_selected(mask, i, size)) {
            *ret_va = x86_ea(cpu, insn, vector_bytes(insn), write);
            return true;
        }
    }
    return false;
}

static uint64_t element_address(X86Cpu *cpu, uint64_t va, unsigned offset)
{
    va += offset;
    return x86_hot(cpu)->mode & X86_MODE_CS64 ? va : (uint32_t)va;
}

static void op_maskmov_load(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->opcode == 0x2d || (insn->opcode == 0x8c && (insn->rex & 8)) ? 8 : 4;
    const X86Vec *mask = &cpu->vec[vvvv(cpu, insn)];
    X86Vec result = { 0 };
    uint64_t va = 0;
    bool any = masked_address(cpu, insn, mask, size, false, &va);
    for (unsigned i = 0; any && i < vector_bytes(insn) / size; i++) {
        if (element_selected(mask, i, size)) {
            st_le(result.b + i * size, x86_load(cpu, element_address(cpu, va, i * size), size), size);
        }
    }
    cpu->vec[native_modrm_reg(insn)] = result;
}

static void op_maskmov_store(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned size = insn->opcode == 0x2f || (insn->opcode == 0x8e && (insn->rex & 8)) ? 8 : 4;
    const X86Vec *mask = &cpu->vec[vvvv(cpu, insn)], *data = &cpu->vec[native_modrm_reg(insn)];
    unsigned count = vector_bytes(insn) / size;
    uint64_t va;
    if (!masked_address(cpu, insn, mask, size, true, &va)) {
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        if (element_selected(mask, i, size)) {
            x86_check(cpu, element_address(cpu, va, i * size), size, X86_WRITE, X86_AS_CPL);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        if (element_selected(mask, i, size)) {
            x86_store(cpu, element_address(cpu, va, i * size), ld_le(data->b + i * size, size), size);
        }
    }
}

/*
 * Gathers commit element by element: a fault leaves the elements before it loaded and their masks clear,
 * so that the instruction can be restarted.
 */
static void op_gather(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t sib = insn->bytes[insn->modrm_offset + 1];
    unsigned dest = native_modrm_reg(insn), mask_reg = vvvv(cpu, insn);
    unsigned index_reg = (sib >> 3 & 7) | (insn->rex & 2) << 2, scale = sib >> 6;
    if (insn->asize == 2 || dest == mask_reg || dest == index_reg || mask_reg == index_reg) {
        x86_ud(cpu);
    }
    unsigned size = insn->rex & 8 ? 8 : 4, index_size = insn->opcode & 1 ? 8 : 4;
    unsigned count = vector_bytes(insn) / MAX(size, index_size);
    X86Vec *mask = &cpu->vec[mask_reg], *vec = &cpu->vec[dest];
    const X86Vec *index = &cpu->vec[index_reg];
    X86Insn at = *insn;
    at.index = X86_NO_REG;
    /* The mask is made whole first: an element is all ones or all zeros. */
    unsigned mask_bytes = vector_bytes(insn);
    for (unsigned i = 0; i < mask_bytes / size; i++) {
        memset(mask->b + i * size, element_selected(mask, i, size) ? 0xff : 0, size);
    }
    clear_above(mask, mask_bytes);
    for (unsigned i = 0; i < count; i++) {
        if (element_selected(mask, i, size)) {
            int64_t offset = index_size == 8 ? (int64_t)index->q[i] : (int32_t)index->d[i];
            uint64_t va = fpu_ea_at(cpu, &at, (int64_t)((uint64_t)offset << scale), size, false);
            st_le(vec->b + i * size, x86_load(cpu, va, size), size);
            memset(mask->b + i * size, 0, size);
            clear_above(vec, vector_bytes(insn));
        }
    }
    clear_above(vec, count * size);
    clear_above(mask, 0);
}

static void op_vzero(X86Cpu *cpu, const X86Insn *insn)
{
    unsigned count = x86_hot(cpu)->mode & X86_MODE_CS64 ? 16 : 8;
    for (unsigned i = 0; i < count; i++) {
        clear_above(&cpu->vec[i], insn->vex_l ? 0 : 16);
    }
}

static X86Handler *vector_0f38(uint8_t opcode)
{
    switch (opcode) {
    case 0x2c:
    case 0x2d:
    case 0x8c:
        return op_maskmov_load;
    case 0x2e:
    case 0x2f:
    case 0x8e:
        return op_maskmov_store;
    case 0x90:
    case 0x91:
    case 0x92:
    case 0x93:
        return op_gather;
    default:
        return NULL;
    }
}

X86Handler *fpu_vector_special(const X86Insn *insn)
{
    bool vex = insn->prefixes & PFX_VEX;
    if (insn->map == 1 && insn->opcode == 0x77) {
        return vex ? op_vzero : fpu_op_emms;
    }
    if (insn->map == 1 && insn->opcode == 0xf7) {
        return insn->desc->cls == CLASS_MMX ? op_maskmovq : op_maskmovdqu;
    }
    return vex && insn->map == 2 ? vector_0f38(insn->opcode) : NULL;
}
