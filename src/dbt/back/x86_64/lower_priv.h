/* Between the lower files: the block under way, and what all of them need. */
#ifndef OSTRICH_DBT_BACK_LOWER_PRIV_H
#define OSTRICH_DBT_BACK_LOWER_PRIV_H

#include "dbt/back/x86_64/groups.h"
#include "dbt/back/x86_64/lower.h"
#include "dbt/ir/env.h"

/* A scratch register that has the value of a guest register whose home is memory. */
typedef struct LowerHeld {
    uint8_t host; /* H_RCX, H_R14 */
    uint8_t guest; /* 0: none */
} LowerHeld;

typedef struct Lower {
    const HostEnv *env;
    const LowerBlock *block;
    Asm *hot, *cold;
    Lowered *out;
    const Uop *u;
    unsigned index;
    uint8_t *hot_start;
    bool vec_checked, x87_checked;
    bool ended; /* the current uop has done the next one's work, the block's last */
    uint32_t direct;  /* groups whose rcx is what addresses on the host are beyond the guest's: bit n - 1 */
    int32_t stack_by; /* guest rsp is to be moved by this yet: members of groups need not wait for it */
    LowerHeld had, held; /* before the current uop, and behind it; who lowers a uop sets held where there is any */
    const uint8_t *home; /* as host_of_guest, of this block */
    const uint8_t *check;   /* of a region: where the pages of its hoisted accesses are looked up */
    const uint8_t *part[UOP_MAX_PARTS]; /* where its parts begin */
    unsigned parts_begun, later_count;
    /* What follows is not cleared. */
    AccessPlan plan[GROUPS_MAX_UOPS]; /* of each uop */
    struct {
        uint8_t *field;
        uint8_t part;
    } later[REGION_MAX_UOPS]; /* branches to parts */
} Lower;

static inline EncRm lower_env(int32_t disp)
{
    return enc_mem(H_RBP, disp);
}
/* Where a guest register lies in memory. */
static inline EncRm lower_slot(unsigned guest)
{
    return lower_env(ENV_GPR + 8 * guest);
}
static inline bool lower_spilled(const Lower *l, unsigned guest)
{
    return l->home[guest] == HOST_SPILLED;
}
/* The scratch register that holds a guest register before the current uop; 0: none does. */
static inline unsigned lower_had(const Lower *l, unsigned guest)
{
    return guest != 0 && l->had.guest == guest ? l->had.host : 0;
}
static inline void lower_get_guest(Lower *l, unsigned dst, unsigned guest)
{
    if (lower_spilled(l, guest)) {
        enc_load(l->hot, 8, dst, lower_slot(guest));
    } else {
        enc_mov(l->hot, 8, dst, l->home[guest]);
    }
}
/* The reg field names a register, not an extension of the opcode. */
static inline bool lower_has_reg(const Uop *u)
{
    return (u->attr & (UA_REG_R | UA_REG_W)) != 0;
}
static inline void lower_append_imm(Asm *a, const Uop *u)
{
    for (unsigned i = 0; i < u->imm_size; i++) {
        enc_u8(a, (uint8_t)(u->imm >> (8 * i)));
    }
}

/* --- lower.c: sites and exits --- */
uint32_t lower_new_site(Lower *l, unsigned kind);
/* call thunk; jmp retry; site. Returns the stub's run address. */
const uint8_t *lower_slow_stub(Lower *l, unsigned kind, const uint8_t *retry);
const uint8_t *lower_leave_stub(Lower *l, unsigned why, uint32_t payload);
/* A new exit to a known target with its cold stub; returns its number. */
unsigned lower_exit_stub(Lower *l, uint64_t target);
/* The same to the current instruction in a block without groups. */
unsigned lower_generic_exit(Lower *l);
void lower_interp(Lower *l);
/* The uops from `first` on, `count` of them. */
void lower_uops(Lower *l, unsigned first, unsigned count);

/* --- lower_region.c --- */
/* All of a region, behind its guard. */
void lower_region(Lower *l);
void lower_region_branch(Lower *l);
/* The hoisted operand of the current uop. */
EncRm lower_hoisted(Lower *l);
/* In cold code of a region, nothing elsewhere: registers as outside; where it may end up coming back, and then on at `to`. */
void lower_cold_out(Lower *l);
const uint8_t *lower_cold_back(Lower *l, const uint8_t *to);
/* Makes a vector unit's registers the host's. */
void lower_vectors_live(Lower *l);

/* --- lower_flags.c --- */
/* Makes the record of the flags that the current uop left. */
void lower_record(Lower *l);
/* True when the uop's code must leave EFLAGS alone. */
static inline bool lower_flags_live(const Uop *u)
{
    return (u->live_in & FL_ALL) != 0;
}

/* --- access.c: addresses and the soft TLB --- */
/* The linear address of the memory operand to r14 (or to `dst`, of the offset alone, for LEA). */
void lower_address(Lower *l, const Uop *u, unsigned dst);
/* Checks the memory operand of the current uop; the result addresses it, by rcx and perhaps r14. */
EncRm lower_access_mem(Lower *l, bool write);
/* Displacement of the TLB entry of the address in r14, to rcx; destroys flags. */
void lower_tlb_index(Lower *l);
/* Checks the address in r14. */
EncRm lower_check(Lower *l, unsigned size, bool write, bool align);
/* Stack access at guest rsp + disp. */
EncRm lower_access_stack(Lower *l, int32_t disp, unsigned size, bool write);
void lower_move_stack(Lower *l, int32_t by);
/* The same, and all that was put off. */
void lower_move_stack_now(Lower *l, int32_t by);
/* Frees r14 after a check. */
EncRm lower_without_r14(Lower *l, EncRm mem);
/* The same, for instructions that can have no REX: the operand is [rcx] alone. */
EncRm lower_only_rcx(Lower *l, EncRm mem);

/* --- lower_integer.c --- */
void lower_op(Lower *l);
void lower_div(Lower *l);
void lower_movi(Lower *l);
void lower_lea(Lower *l);
void lower_bswap(Lower *l);
void lower_shift_cl(Lower *l);
void lower_cmpxchg_pair(Lower *l);
void lower_bit_mem(Lower *l);
void lower_push(Lower *l);
void lower_push_mem(Lower *l);
/* Pushes what lies in the context's spare bytes. */
void lower_push_temp(Lower *l, unsigned size);
void lower_pop(Lower *l);
void lower_leave(Lower *l);

/* --- lower_vector.c --- */
void lower_vec(Lower *l);
void lower_x87(Lower *l);
void lower_fldcw(Lower *l);
void lower_bmi(Lower *l);

/* --- lower_system.c --- */
void lower_flag_if(Lower *l);
void lower_pushf(Lower *l);
void lower_rdtsc(Lower *l);
void lower_read_sel(Lower *l);
void lower_pause(Lower *l);
void lower_string(Lower *l);
void lower_flag_df(Lower *l);

/* --- lower_branch.c --- */
void lower_jcc(Lower *l);
void lower_jcxz(Lower *l);
/* jmp to a known target, with a poll when it goes backward or calls. */
void lower_jump(Lower *l, uint64_t target, bool poll);
void lower_call(Lower *l);
void lower_ret(Lower *l);
void lower_indirect(Lower *l);

#endif
