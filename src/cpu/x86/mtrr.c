/*
 * Memory type range registers and the page attribute table. Intel SDM volume 3, sections 11.11 and 11.12.
 */
#include "cpu/x86/mtrr.h"

#include "cpu/x86/sys.h"

enum { /* MSR numbers */
    MSR_MTRRCAP = 0xfe,
    MSR_PHYSBASE0 = 0x200,
    MSR_FIX64K = 0x250,
    MSR_DEF_TYPE = 0x2ff,
};

static const uint32_t fixed_index[11] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                          0x26b, 0x26c, 0x26d, 0x26e, 0x26f };

static bool type_valid(uint8_t type, bool pat)
{
    return type == 0 || type == 1 || type == 4 || type == 5 || type == 6 || (pat && type == 7);
}

static bool types_valid(uint64_t value, bool pat)
{
    for (unsigned n = 0; n < 8; n++) {
        if (!type_valid((uint8_t)(value >> (8 * n)), pat)) {
            return false;
        }
    }
    return true;
}

bool x86_pat_valid(uint64_t value)
{
    return types_valid(value, true);
}

void x86_mtrr_reset(X86Cpu *cpu)
{
    cpu->mtrr_def = 0;
    memset(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
    memset(cpu->mtrr_base, 0, sizeof(cpu->mtrr_base));
    memset(cpu->mtrr_mask, 0, sizeof(cpu->mtrr_mask));
}

static int fixed_of(uint32_t index)
{
    for (unsigned n = 0; n < ARRAY_SIZE(fixed_index); n++) {
        if (fixed_index[n] == index) {
            return (int)n;
        }
    }
    return -1;
}

static bool is_variable(uint32_t index)
{
    return index >= MSR_PHYSBASE0 && index < MSR_PHYSBASE0 + 2 * X86_MTRR_VARIABLE;
}

bool x86_mtrr_read(const X86Cpu *cpu, uint32_t index, uint64_t *ret_value)
{
    int fixed = fixed_of(index);
    if (!x86_has(cpu, X86_FEAT_1_EDX, 12)) {
        return false;
    }
    if (index == MSR_MTRRCAP) {
        *ret_value = X86_MTRR_VARIABLE | BIT(8) | BIT(10); /* fixed ranges, write-combining */
    } else if (index == MSR_DEF_TYPE) {
        *ret_value = cpu->mtrr_def;
    } else if (fixed >= 0) {
        *ret_value = cpu->mtrr_fixed[fixed];
    } else if (is_variable(index)) {
        unsigned n = (index - MSR_PHYSBASE0) / 2;
        *ret_value = index & 1 ? cpu->mtrr_mask[n] : cpu->mtrr_base[n];
    } else {
        return false;
    }
    return true;
}

bool x86_mtrr_write(X86Cpu *cpu, uint32_t index, uint64_t value)
{
    int fixed = fixed_of(index);
    if (!x86_has(cpu, X86_FEAT_1_EDX, 12)) {
        return false;
    }
    if (index == MSR_DEF_TYPE) {
        if ((value & ~0xcffull) || !type_valid((uint8_t)value, false)) {
            return false;
        }
        cpu->mtrr_def = value;
        return true;
    }
    if (fixed >= 0) {
        if (!types_valid(value, false)) {
            return false;
        }
        cpu->mtrr_fixed[fixed] = value;
        return true;
    }
    if (!is_variable(index) || (value & ~(cpu->phys_mask | 0xfff))) {
        return false;
    }
    unsigned n = (index - MSR_PHYSBASE0) / 2;
    if (index & 1) {
        if (value & 0x7ff) {
            return false;
        }
        cpu->mtrr_mask[n] = value;
    } else {
        if ((value & 0xf00) || !type_valid((uint8_t)value, false)) {
            return false;
        }
        cpu->mtrr_base[n] = value;
    }
    return true;
}
