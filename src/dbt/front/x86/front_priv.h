/* Between the files of this folder: an instruction on its way to a uop. */
#ifndef OSTRICH_DBT_FRONT_X86_PRIV_H
#define OSTRICH_DBT_FRONT_X86_PRIV_H

#include "dbt/back/x86_64/encode.h"
#include "dbt/front/x86/front.h"

typedef struct Front {
    FrontBlock *b;
    X86Insn *insn;
    Uop *u;
    uint64_t next; /* pc of the next instruction */
} Front;

static inline bool front_mode64(const Front *f)
{
    return (f->b->mode & X86_MODE_CS64) != 0;
}

/* The guest has the feature that the instruction belongs to. */
bool front_has_feature(const Front *f);

/* --- front.c --- */
void front_reset_uop(Uop *u, unsigned insn);
/* Adds the uop of one instruction. True: the block ends with it. */
bool front_add_insn(FrontBlock *b, X86Insn *insn, unsigned index, uint64_t next);

/* The functions below fill f->u; false: the interpreter is to execute the instruction. */

/* --- integer.c --- */
/* The memory operand as r/m. */
bool front_put_mem(Front *f);
bool front_one_byte(Front *f);
bool front_0f(Front *f);
bool front_0f38(Front *f);

/* --- control.c --- */
/* The operand size is one that jumps, or pushes and pops, are translated for; the latter sets it. */
bool front_jump_size_ok(Front *f);
bool front_stack_size_ok(Front *f);
bool front_branch(Front *f, UopKind kind);
/* A jump or call whose target the operand holds, by its kind there. */
bool front_indirect(Front *f, UopKind memory, UopKind reg);
bool front_push_reg(Front *f, unsigned reg);
bool front_pop_reg(Front *f, unsigned reg);

/* --- vector.c --- */
bool front_vec(Front *f);
bool front_mxcsr(Front *f);
bool front_fence(Front *f);
bool front_x87(Front *f);
bool front_bmi(Front *f);

/* --- flags.c --- */
typedef struct FlagEffect {
    uint8_t uses, defs, writes; /* as in Uop */
} FlagEffect;
FlagEffect front_flag_effect(const X86Insn *insn);
UopExitLive front_exit_live;

#endif
