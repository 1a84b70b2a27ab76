/*
 * Random instruction sequences, run by the host's processor and by an engine of ours (the interpreter or
 * the translator) from the same state, and compared. See docs/hacking/insn-fuzz.md.
 *
 * A case is made from one 64-bit number alone, so a failure is reproduced by --one.
 */
#ifndef TESTS_INSN_INSN_FUZZ_H
#define TESTS_INSN_INSN_FUZZ_H

#include "cpu/x86/cpu.h"
#include "cpu/x86/insn.h"

/* Addresses, the same in the native child and in the guest; below 2 GiB for 32-bit code. */
#define FUZZ_CODE      0x20000000ull /* FUZZ_BATCH slots; readable and executable */
#define FUZZ_SLOT      512u
#define FUZZ_DATA      0x21000000ull /* writable pages, then a read-only one; what is around is not mapped */
#define FUZZ_DATA_SIZE 8192u
#define FUZZ_RO        (FUZZ_DATA + FUZZ_DATA_SIZE)
#define FUZZ_RO_SIZE   4096u
#define FUZZ_EXIT32    (FUZZ_CODE + FUZZ_BATCH * FUZZ_SLOT) /* a page: the way back from 32-bit code */
#define FUZZ_GS_BASE   (FUZZ_DATA + 0x800)
#define FUZZ_LINE      64u
#define FUZZ_LINES     (FUZZ_DATA_SIZE / FUZZ_LINE)

enum { FUZZ_BATCH = 256, FUZZ_INSNS = 20, FUZZ_TEMPLATES = 16, FUZZ_XSAVE = 832 };

/* How a run ended. */
enum { FUZZ_END = 0x100, FUZZ_HANG = 0x101, FUZZ_CRASH = 0x102 };

typedef struct FuzzState {
    uint8_t xsave[FUZZ_XSAVE] __attribute__((aligned(64))); /* standard format: x87, SSE, AVX */
    uint64_t gpr[16];
    uint64_t rip, rflags;
    uint32_t vector; /* exception, or FUZZ_END: ran to the end */
    uint32_t error;
    uint64_t cr2;
} FuzzState;

typedef struct FuzzInsn {
    uint8_t bytes[15];
    uint8_t length;
    int8_t target;          /* branches: index of the instruction to go to, -1: not patched */
    uint8_t target_offset, target_size; /* of the displacement in bytes[] */
    bool returns;           /* RET, or an indirect jump */
    uint8_t rip_offset;     /* of a rip-relative displacement in bytes[], 0: none */
    uint32_t rip_target;
    uint16_t undefined;     /* flags that are undefined before this instruction */
} FuzzInsn;

typedef struct FuzzCase {
    uint64_t seed;
    bool code32;
    bool edge; /* pointers stand close to where pages end */
    bool flags_open; /* some instruction leaves flags undefined */
    bool cold; /* the guest starts with an empty TLB and clean page tables */
    bool loop, by_dec; /* r15 times, counted by SUB or DEC */
    uint8_t count;
    uint8_t template;
    uint16_t undefined; /* flags that are undefined at the end */
    uint16_t length;    /* of code, without the jump that leads to the exit */
    uint16_t total;     /* with it */
    FuzzInsn insn[FUZZ_INSNS];
    uint16_t offset[FUZZ_INSNS + 1];
    uint8_t code[FUZZ_SLOT];
    FuzzState in;
} FuzzCase;

typedef struct FuzzResult {
    FuzzState out;
    unsigned lines; /* of memory that changed */
    struct { uint16_t line; uint8_t bytes[FUZZ_LINE]; } line[FUZZ_LINES];
} FuzzResult;

/* --- values.c --- */
typedef struct Rng { uint64_t s; } Rng;
uint64_t rng_next(Rng *rng);
static inline unsigned rng_below(Rng *rng, unsigned n)
{
    return (unsigned)((rng_next(rng) >> 32) * n >> 32);
}
static inline bool rng_chance(Rng *rng, unsigned percent)
{
    return rng_below(rng, 100) < percent;
}
/* Fills in registers, flags, x87 and vector state. edge: pointers are close to where pages end. */
void value_state(Rng *rng, bool code32, bool edge, unsigned ac_percent, FuzzState *ret_state);
/* Contents of the writable pages and of the read-only one. */
void gen_template(unsigned n, uint8_t *data);
void gen_readonly(uint8_t *data);

/* --- gen.c --- */
typedef struct FuzzGen FuzzGen;
/* classes: BIT(X86Class)s; features: the words both sides have; ac_percent: how often EFLAGS.AC is set. */
FuzzGen *gen_new(uint32_t classes, const uint32_t features[X86_FEAT_WORDS], bool code32,
                 unsigned ac_percent, unsigned *ret_skipped);
void gen_free(FuzzGen *gen);
unsigned gen_rows(const FuzzGen *gen);
/* Rows that occurred in cases so far. */
unsigned gen_covered(const FuzzGen *gen);
void gen_case(FuzzGen *gen, uint64_t seed, FuzzCase *ret_case);
/* Works out the undefined flags again after insn[] changed; false: one of them is read now. */
bool gen_follow_flags(FuzzCase *c);
/* Lays out insn[] into code[] for a slot, and a jump to fuzz_exit_address() behind it. */
void gen_assemble(FuzzCase *c, unsigned slot);
/* This vector register is never written and starts with nothing but ones, for XINUSE's sake. */
enum { FUZZ_XSAVE_VEC = 7 };
#define FUZZ_CLASS_XSAVE (BIT(31) | BIT(CLASS_SSE) | BIT(CLASS_AVX) | BIT(CLASS_X87))
/* Cases become loops. */
void gen_set_loops(FuzzGen *gen);
/* Names of --class; bits are BIT(X86Class). 0 when unknown. */
uint32_t gen_class_of(const char *name);

/* --- loop.c --- */
enum { LOOP_COUNTER = 15 }; /* register; no instruction of such a case writes it */
/* An instruction that moves a pointer by a constant: in a loop its accesses are checked beforehand. Returns its length. */
unsigned loop_step(Rng *rng, uint8_t *bytes);
/* A branch back to the first instruction, and what it counts. */
void loop_append(FuzzCase *c);

/* --- native.c: the host's processor, in a child process --- */
/* Where a case goes at its end. The guest has nothing there: a page fault that stands for the end. */
uint64_t fuzz_exit_address(bool code32);
/* What lies at FUZZ_EXIT32; the guest may read it but not execute it. */
void fuzz_exit_code(uint8_t code[16]);
typedef struct FuzzNative FuzzNative;
FuzzNative *native_new(void);
void native_free(FuzzNative *native);
/* Runs a batch; false: the child died at case *ret_died (it was started again). */
bool native_run(FuzzNative *native, const FuzzCase *cases, unsigned count, const FuzzResult **ret_results,
                unsigned *ret_died);

/* --- guest.c: our CPU --- */
typedef struct FuzzGuest FuzzGuest;
struct InsnEngine;
FuzzGuest *guest_new(const struct InsnEngine *engine);
void guest_free(FuzzGuest *guest);
const uint32_t *guest_features(const FuzzGuest *guest);
void guest_load_code(FuzzGuest *guest, const FuzzCase *cases, unsigned count);
void guest_run(FuzzGuest *guest, const FuzzCase *c, unsigned slot, FuzzResult *ret_result);

/* --- compare.c --- */
/* True when equal. text: differences are described there; may be NULL. */
bool compare_results(const FuzzCase *c, unsigned slot, const FuzzResult *native, const FuzzResult *ours, GString *text);
void compare_print_case(const FuzzCase *c, GString *text);

#endif
