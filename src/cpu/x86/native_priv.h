/*
 * Host stubs: see native.c. Private to the FPU files of this folder.
 */
#ifndef OSTRICH_CPU_X86_NATIVE_PRIV_H
#define OSTRICH_CPU_X86_NATIVE_PRIV_H

#include "cpu/x86/fpu.h"

/*
 * Runs one instruction on the guest's registers. mem: what its memory operand designates. flags: guest
 * RFLAGS. Returns the host's flags after it when the stub has STUB_FLAGS_OUT.
 */
typedef uint64_t NativeFn(X86Cpu *cpu, void *mem, uint64_t flags);

enum { /* NativeStub.props */
    STUB_WAITS = BIT(0),      /* a pending x87 exception comes first */
    STUB_X87 = BIT(1),        /* records FIP, FDP and FOP */
    STUB_FLAGS_OUT = BIT(2),
    STUB_MXCSR = BIT(3),      /* may raise SIMD floating-point exceptions */
    STUB_MEM_WRITE = BIT(4),
    STUB_ALIGN = BIT(5),      /* #GP unless the memory operand is aligned to its size */
    STUB_UD = BIT(6),         /* absent from the CPU model or from the host */
    STUB_FX = BIT(7),         /* goes through the whole x87 state */
    STUB_MMX = BIT(8),        /* MMX registers only */
    STUB_NO_AC = BIT(10),     /* not subject to alignment checks */
    STUB_NEW = BIT(9),        /* never run: the host may not know it */
};

#define NATIVE_STUB_MAX 512 /* bytes of the longest stub, generously */

typedef struct NativeStub {
    uint64_t key; /* 0: empty slot */
    NativeFn *run;
    X86Handler *handler; /* done in C instead of run */
    uint32_t mode_set, mode_clear; /* bits of the mode word that must be so, else native_refuse() */
    uint16_t flags_mask;           /* of RFLAGS, STUB_FLAGS_OUT */
    uint16_t props;
    uint8_t mem_size; /* 0: no memory operand */
} NativeStub;

/* The stub of an instruction, built when it is new. Valid until the next call. */
const NativeStub *native_stub(X86Cpu *cpu, const X86Insn *insn);
typedef enum NativeOutcome {
    NATIVE_DONE,
    NATIVE_SIMD_EXCEPTION, /* nothing is committed but MXCSR */
    NATIVE_INVALID,        /* the host has no such instruction */
} NativeOutcome;
/* Runs a stub that is new or of which SIMD exceptions may be unmasked. */
NativeOutcome native_run_guarded(X86Cpu *cpu, const NativeStub *stub, void *mem, uint64_t flags, uint64_t *ret_flags);

/* Which C handler an encoding of the FPU classes needs instead of a stub; NULL: none. */
X86Handler *fpu_special_handler(const X86Insn *insn);
X86Handler *fpu_x87_special(const X86Insn *insn);
X86Handler *fpu_vector_special(const X86Insn *insn);
X86Handler fpu_op_emms;

/* The parts of an encoding as the host needs them. */
unsigned native_pp(const X86Insn *insn); /* 0 none, 1 66, 2 F3, 3 F2 */
static inline unsigned native_modrm_reg(const X86Insn *insn)
{
    return (insn->modrm >> 3 & 7) | (insn->rex & 4) << 1;
}
static inline unsigned native_modrm_rm(const X86Insn *insn)
{
    return (insn->modrm & 7) | (insn->rex & 1) << 3;
}
static inline bool native_has_mem(const X86Insn *insn)
{
    return insn->modrm_offset && (insn->modrm & 0xc0) != 0xc0;
}

/* MXCSR bits that exist, for the #GP of LDMXCSR and FXRSTOR. */
#define MXCSR_MASK    0xffffu
#define MXCSR_DEFAULT 0x1f80u
/* FSW */
enum { FSW_FLAGS = 0x3f, FSW_SF = 0x40, FSW_ES = 0x80, FSW_TOP = 0x3800, FSW_B = 0x8000 };

/* Sets or clears the summary bits ES and B from the flags and masks. */
void fpu_update_summary(X86Cpu *cpu);
/* Turns st[] and the tags so that they fit the TOP in `fsw`, the physical registers staying where they are. */
void fpu_set_fsw(X86Cpu *cpu, uint16_t fsw);
/* What every MMX instruction does to the x87 state: TOP = 0, all registers in use. */
void fpu_enter_mmx(X86Cpu *cpu);
/* Full tag word from the abridged one and the registers. */
uint16_t fpu_full_tags(const X86Cpu *cpu);
/* Abridged tag byte from a full tag word. */
uint8_t fpu_abridged_tags(uint16_t full);
/* Reports the pending x87 exception: #MF, or FERR# (then it may return: the exception is ignored). */
void fpu_raise_pending(X86Cpu *cpu);
/* #GP unless the memory operand is aligned to `size`; comes before #SS and #GP for the address. */
void fpu_check_alignment(X86Cpu *cpu, const X86Insn *insn, unsigned size);
/* Linear address of `offset` bytes behind the memory operand, checked for `size` bytes; the sum wraps at the
 * address size. Never #AC: that is fpu_check_ac()'s, as vector and x87 operands have alignments of their own. */
uint64_t fpu_ea_at(X86Cpu *cpu, const X86Insn *insn, int64_t offset, unsigned size, bool write);
void fpu_check_ac(X86Cpu *cpu, uint64_t va, unsigned align);
/* Lets FERR# follow the exception summary downwards. */
void fpu_ferr_update(X86Cpu *cpu);

#endif
