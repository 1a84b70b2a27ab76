/*
 * From x86 instructions to uops: reads a superblock, a run of instructions of one page that goes on
 * behind conditional branches that are not taken, and says what each does. What this file does not know
 * becomes UOP_INTERP, so adding an instruction to the interpreter is enough to run it.
 */
#ifndef OSTRICH_DBT_FRONT_X86_H
#define OSTRICH_DBT_FRONT_X86_H

#include "cpu/x86/cpu.h"
#include "cpu/x86/insn.h"
#include "dbt/ir/uop.h"

enum { FRONT_BLOCK_INSNS = 48, FRONT_MAX_INSNS = 128, FRONT_MAX_UOPS = FRONT_MAX_INSNS + UOP_MAX_PARTS };
/* Translator's mode bits: MXCSR, or the x87 control word, has unmasked exceptions; the interpreter runs them. */
#define FRONT_MODE_NO_VEC BIT(31)
#define FRONT_MODE_NO_X87 BIT(30)

/* Bytes of the page outside the block that were looked at, to know which flags an exit must keep. */
typedef struct FrontAhead {
    uint16_t offset, length; /* from the page's start */
    uint8_t bytes[60];
} FrontAhead;
enum { FRONT_MAX_AHEAD = 12 };

typedef struct FrontBlock {
    uint64_t pc;
    uint32_t mode;
    const X86Cpu *cpu; /* for its features */
    const uint8_t *bytes; /* at pc */
    unsigned available;   /* to the end of the page */
    bool crossing;        /* bytes are a copy of one instruction that lies on two pages */
    bool exact;           /* exits keep all flags: somebody may look at them there */

    unsigned insn_count, uop_count;
    unsigned length;      /* bytes covered */
    uint8_t flags_in;
    unsigned ahead_count;
    FrontAhead ahead[FRONT_MAX_AHEAD];
    int low;              /* where the bytes covered begin, from pc: negative in a region */
    unsigned part_count;  /* of a region; 0: a block */
    UopPart parts[UOP_MAX_PARTS];
    int16_t offset[FRONT_MAX_INSNS + 1]; /* of each instruction, from pc */
    X86Insn insns[FRONT_MAX_INSNS];
    Uop uops[FRONT_MAX_UOPS];
} FrontBlock;

/* True for modes that translate() takes. */
bool front_mode_ok(uint32_t mode);
/* Fills the block from pc, mode, cpu, bytes. False: the first instruction must be interpreted (it
 * crosses the page, or is invalid). */
bool front_translate(FrontBlock *block);
/* Fills it with the innermost loop that begins at pc, of up to some hundred instructions. False: there is none. */
typedef bool FrontIsLoop(void *opaque, uint64_t pc); /* the code there is known to run often */
bool front_region(FrontBlock *block, FrontIsLoop *is_loop, void *opaque);

#endif
