/*
 * x87 instructions that are done in C: control, environment and whole-state ones. SDM volume 1, 8.1.10
 * (the environment's four layouts) and volume 2.
 */
#include "cpu/x86/mmu.h"
#include "cpu/x86/native_priv.h"

enum { FCW_MASK = 0x1f3f, FCW_ONE = 0x40 };

void fpu_update_summary(X86Cpu *cpu)
{
    X86Fx *fx = &cpu->fx;
    if (fx->fsw & FSW_FLAGS & ~fx->fcw) {
        fx->fsw |= FSW_ES | FSW_B;
    } else {
        fx->fsw &= (uint16_t)~(FSW_ES | FSW_B);
        fpu_ferr_update(cpu);
    }
}

void fpu_set_fsw(X86Cpu *cpu, uint16_t fsw)
{
    X86Fx *fx = &cpu->fx;
    unsigned turn = ((fsw & FSW_TOP) - (fx->fsw & FSW_TOP)) >> 11 & 7;
    if (turn) {
        uint8_t old[8][16];
        memcpy(old, fx->st, sizeof(old));
        for (unsigned i = 0; i < 8; i++) {
            memcpy(fx->st[i], old[(i + turn) & 7], 16);
        }
    }
    fx->fsw = fsw;
}

static unsigned tag_of(const uint8_t *st)
{
    uint64_t mantissa = ld64_le(st);
    unsigned exponent = ld16_le(st + 8) & 0x7fff;
    if (exponent == 0) {
        return mantissa ? 2 : 1;
    }
    return exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

uint16_t fpu_full_tags(const X86Cpu *cpu)
{
    const X86Fx *fx = &cpu->fx;
    unsigned top = (fx->fsw & FSW_TOP) >> 11, full = 0;
    for (unsigned i = 0; i < 8; i++) {
        unsigned tag = fx->ftw >> i & 1 ? tag_of(fx->st[(i - top) & 7]) : 3;
        full |= tag << 2 * i;
    }
    return (uint16_t)full;
}

uint8_t fpu_abridged_tags(uint16_t full)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        tags |= ((full >> 2 * i & 3) != 3) << i;
    }
    return (uint8_t)tags;
}

/* --- control --- */
static void op_fninit(X86Cpu *cpu, const X86Insn *insn)
{
    X86Fx *fx = &cpu->fx;
    fpu_set_fsw(cpu, 0);
    fx->fcw = 0x37f;
    fx->ftw = 0;
    fx->fop = 0;
    fx->fip = fx->fdp = 0;
    cpu->fcs = cpu->fds = 0;
    fpu_ferr_update(cpu);
}

static void op_fnclex(X86Cpu *cpu, const X86Insn *insn)
{
    cpu->fx.fsw &= 0x7f00;
    fpu_ferr_update(cpu);
}

/* FNENI, FNDISI, FNSETPM: no-operations since the 80387. */
static void op_x87_nop(X86Cpu *cpu, const X86Insn *insn)
{
}

static void op_fldcw(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t va = x86_ea(cpu, insn, 2, false);
    cpu->fx.fcw = (x86_load(cpu, va, 2) & FCW_MASK) | FCW_ONE;
    fpu_update_summary(cpu);
}

static void op_fnstcw(X86Cpu *cpu, const X86Insn *insn)
{
    x86_store(cpu, x86_ea(cpu, insn, 2, true), cpu->fx.fcw, 2);
}

static void op_fnstsw(X86Cpu *cpu, const X86Insn *insn)
{
    x86_store(cpu, x86_ea(cpu, insn, 2, true), cpu->fx.fsw, 2);
}

static void op_fnstsw_ax(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t *rax = &x86_gpr(cpu)[X86_RAX];
    *rax = (*rax & ~0xffffull) | cpu->fx.fsw;
}

void x86_op_fwait(X86Cpu *cpu, const X86Insn *insn)
{
    uint32_t both = X86_MODE_MP | X86_MODE_TS;
    if ((x86_hot(cpu)->mode & both) == both) {
        x86_raise(cpu, EXC_NM);
    }
    if (cpu->fx.fsw & FSW_ES) {
        fpu_raise_pending(cpu);
    }
}

/* --- environment --- */
static bool wide_layout(const X86Insn *insn)
{
    return insn->osize != 2;
}

/* Address of the operand. As in Intel's processors its first word is tried first, its last byte then. */
static uint64_t env_address(X86Cpu *cpu, const X86Insn *insn, unsigned size, bool write)
{
    uint64_t va = x86_ea(cpu, insn, size, write);
    fpu_check_ac(cpu, va, wide_layout(insn) ? 4 : 2);
    x86_check(cpu, va, wide_layout(insn) ? 4 : 2, write ? X86_WRITE : X86_READ, X86_AS_CPL);
    x86_check(cpu, fpu_ea_at(cpu, insn, size - 1, 1, write), 1, write ? X86_WRITE : X86_READ, X86_AS_CPL);
    return va;
}

static bool real_layout(const X86Cpu *cpu)
{
    uint32_t mode = x86_hot((X86Cpu *)cpu)->mode;
    return !(mode & X86_MODE_PE) || (mode & X86_MODE_VM86);
}
static unsigned env_size(const X86Insn *insn)
{
    return wide_layout(insn) ? 28 : 14;
}

/* The seven words of the environment, each 16 or 32 bits wide. */
static void env_pack(const X86Cpu *cpu, bool wide, uint8_t *buf)
{
    const X86Fx *fx = &cpu->fx;
    uint32_t word[7] = { 0xffff0000 | fx->fcw, 0xffff0000 | fx->fsw, 0xffff0000 | fpu_full_tags(cpu) };
    if (real_layout(cpu)) {
        uint32_t ip = (uint32_t)fx->fip + ((uint32_t)cpu->fcs << 4), dp = (uint32_t)fx->fdp + ((uint32_t)cpu->fds << 4);
        uint32_t high = wide ? 0xffff0000 : 0xf0000;
        word[3] = (wide ? 0xffff0000 : 0) | (ip & 0xffff);
        word[4] = (ip & high) >> 4 | (fx->fop & 0x7ff);
        word[5] = (wide ? 0xffff0000 : 0) | (dp & 0xffff);
        word[6] = (dp & high) >> 4;
    } else {
        word[3] = (uint32_t)fx->fip;
        word[4] = cpu->fcs | (uint32_t)(fx->fop & 0x7ff) << 16;
        word[5] = (uint32_t)fx->fdp;
        word[6] = 0xffff0000 | cpu->fds;
    }
    for (unsigned i = 0; i < 7; i++) {
        if (wide) {
            st32_le(buf + 4 * i, word[i]);
        } else {
            st16_le(buf + 2 * i, (uint16_t)word[i]);
        }
    }
}

static void env_unpack_pointers(X86Cpu *cpu, bool wide, const uint32_t word[7])
{
    X86Fx *fx = &cpu->fx;
    if (real_layout(cpu)) {
        uint32_t high = wide ? 0x0ffff000 : 0xf000;
        fx->fip = (word[3] & 0xffff) | (word[4] & high) << 4;
        fx->fdp = (word[5] & 0xffff) | (word[6] & high) << 4;
        fx->fop = word[4] & 0x7ff;
        cpu->fcs = cpu->fds = 0;
        return;
    }
    fx->fip = word[3];
    fx->fdp = word[5];
    cpu->fcs = (uint16_t)word[4];
    cpu->fds = (uint16_t)word[6];
    fx->fop = wide ? word[4] >> 16 & 0x7ff : 0;
    if (cpu->features[X86_FEAT_7_EBX] & BIT(13)) {
        cpu->fcs = cpu->fds = 0;
    }
}

static void env_unpack(X86Cpu *cpu, bool wide, const uint8_t *buf)
{
    uint32_t word[7];
    for (unsigned i = 0; i < 7; i++) {
        word[i] = wide ? ld32_le(buf + 4 * i) : ld16_le(buf + 2 * i);
    }
    cpu->fx.fcw = (word[0] & FCW_MASK) | FCW_ONE;
    fpu_set_fsw(cpu, (uint16_t)word[1]);
    cpu->fx.ftw = fpu_abridged_tags((uint16_t)word[2]);
    env_unpack_pointers(cpu, wide, word);
    fpu_update_summary(cpu);
}

static void op_fnstenv(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t buf[28];
    unsigned size = env_size(insn);
    uint64_t va = env_address(cpu, insn, size, true);
    env_pack(cpu, wide_layout(insn), buf);
    x86_store_bytes(cpu, va, buf, size, X86_AS_CPL);
    cpu->fx.fcw |= FSW_FLAGS;
    fpu_update_summary(cpu);
}

static void op_fldenv(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t buf[28];
    unsigned size = env_size(insn);
    x86_load_bytes(cpu, env_address(cpu, insn, size, false), buf, size, X86_AS_CPL);
    env_unpack(cpu, wide_layout(insn), buf);
}

static void op_fnsave(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t buf[28 + 80];
    unsigned env = env_size(insn), size = env + 80;
    uint64_t va = env_address(cpu, insn, size, true);
    env_pack(cpu, wide_layout(insn), buf);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(buf + env + 10 * i, cpu->fx.st[i], 10);
    }
    x86_store_bytes(cpu, va, buf, size, X86_AS_CPL);
    op_fninit(cpu, insn);
}

static void op_frstor(X86Cpu *cpu, const X86Insn *insn)
{
    uint8_t buf[28 + 80];
    unsigned env = env_size(insn), size = env + 80;
    x86_load_bytes(cpu, env_address(cpu, insn, size, false), buf, size, X86_AS_CPL);
    env_unpack(cpu, wide_layout(insn), buf);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(cpu->fx.st[i], buf + env + 10 * i, 10);
    }
}

static X86Handler *x87_memory(const X86Insn *insn)
{
    switch (insn->opcode << 8 | (insn->modrm >> 3 & 7)) {
    case 0xd904:
        return op_fldenv;
    case 0xd905:
        return op_fldcw;
    case 0xd906:
        return op_fnstenv;
    case 0xd907:
        return op_fnstcw;
    case 0xdd04:
        return op_frstor;
    case 0xdd06:
        return op_fnsave;
    case 0xdd07:
        return op_fnstsw;
    default:
        return NULL;
    }
}

X86Handler *fpu_x87_special(const X86Insn *insn)
{
    if (native_has_mem(insn)) {
        return x87_memory(insn);
    }
    switch (insn->opcode << 8 | insn->modrm) {
    case 0xdbe0:
    case 0xdbe1:
    case 0xdbe4:
        return op_x87_nop;
    case 0xdbe2:
        return op_fnclex;
    case 0xdbe3:
        return op_fninit;
    case 0xdfe0:
        return op_fnstsw_ax;
    default:
        return NULL;
    }
}
