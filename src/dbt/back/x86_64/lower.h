/*
 * From uops to host code (DBT.md sections 5 to 9), one pass, block by block.
 *
 * Registers: rbp points at the context (ir/env.h), rcx and r14 are scratch, guest registers live where
 * host_of_guest[] says; r8 to r11 of the guest stay in memory. EFLAGS hold the guest's arithmetic flags
 * wherever they are live. The stack pointer is the C stack, 16-byte aligned between instructions.
 *
 * Hot code and cold code (slow paths, exits) go to two areas within reach of each other and the thunks.
 */
#ifndef OSTRICH_DBT_BACK_LOWER_H
#define OSTRICH_DBT_BACK_LOWER_H

#include "dbt/back/x86_64/encode.h"
#include "dbt/back/x86_64/region.h"
#include "dbt/ir/uop.h"

enum { HOST_SPILLED = 0x80 };
extern const uint8_t host_of_guest[16];

/* How a slow path was entered; argument of the engine's slow function. */
enum {
    SLOW_WRITE = 1,
    SLOW_FLAGS = 2, /* EFLAGS were live */
    SLOW_INTERP = 4,
    SLOW_KINDS = 5,
    SLOW_LEAD = 16, /* of a site: a group's check; what it cannot have goes on in a copy without groups */
    SLOW_READS = 32, /* besides: the leader itself reads, it checks for others that write */
    SLOW_JUMP = 8, /* not a slow path: a jump whose target is not in the jump cache */
};
/* Why JIT code was left: the low byte of what the entry thunk returns; the payload lies above bit 32. */
enum {
    LEAVE_LINK,     /* payload: exit number; may be linked */
    LEAVE_POLL,     /* payload: exit number; exit_req was set */
    LEAVE_GUARD,    /* payload: block number; its page may be mapped elsewhere */
    LEAVE_INDIRECT, /* hot.rip holds the target; payload: site number of the jump */
    LEAVE_INTERP,   /* payload: site number; interpret it and go on anywhere */
    LEAVE_DISPATCH, /* hot.rip is right */
    LEAVE_HOT,      /* payload: block number; it was entered often */
    LEAVE_BUDGET,   /* payload: block number; it is longer than the budget, from which it was taken nevertheless */
    LEAVE_KINDS,
};

/* Thunks of string instructions (thunks_string.c): an index of these. */
enum {
    STRING_ONCE = 1,  /* no REP */
    STRING_MOVES = 2, /* MOVS, else STOS */
    STRING_LONG = 4,  /* 64-bit addresses, else 32 */
    STRING_SHIFT = 3, /* from here on: log2 of the element's size */
    STRING_KINDS = 32,
};

/* Addresses of the generated thunks, and what code needs to know about the vCPU's tables. */
typedef struct HostEnv {
    const uint8_t *slow[SLOW_KINDS];
    const uint8_t *slow_va[SLOW_FLAGS]; /* the same for checks whose address is in r14 */
    const uint8_t *site_miss[SLOW_FLAGS]; /* looks into the TLB for the site at rbp + ecx first */
    const uint8_t *leave[LEAVE_KINDS];
    const uint8_t *vec_load, *x87_load;
    const uint8_t *flags_load, *flags_save; /* EFLAGS from the record; the record from EFLAGS, rcx is lost */
    const uint8_t *pushf, *rdtsc; /* give what PUSHF pushes, what RDTSC reads (ecx 0: it faults) in r14 */
    const uint8_t *string[STRING_KINDS]; /* rcx: 0 when it is done, else the interpreter goes on with it */
    const uint8_t *yield; /* called when `pauses` has come to 0; keeps flags and guest registers */
    uint8_t *enter;
    uint32_t slots;      /* 32-bit address of the page-id table */
    uint32_t jump_cache; /* of the current mode's jump cache: JumpCache */
    uint32_t counters;   /* 32-bit address of how often each block may yet be entered before it is hot */
    uint32_t turn_counts; /* and of how many turns the loops of regions made, while somebody wants to know */
    uint32_t budgets;    /* the same of the misses of each site before somebody looks */
    uint32_t masks;      /* 32-bit address of pext masks: TLB index, ~0xfff, 0xfff */
    int32_t sites_used; /* context-relative: bits of the sites that have a page */
    int32_t tlb; /* context-relative: where the current context pointer is kept */
    int32_t temp, vec, mxcsr, fx; /* context-relative: 8 spare bytes, vector registers, MXCSR, XSAVE area of x87 */
    int32_t flags_kind, flags_a, flags_b; /* the record of the flags */
    int32_t hosts;         /* where groups of accesses lie: GROUPS_MAX addresses */
    int32_t hoisted, turns; /* of a region: HOIST_MAX addresses, and the counter of its turns, where no register is left */
    int32_t turns_first;   /* of a region on trial: the counter after the look at pages */
    int32_t pauses;        /* how many PAUSE until the host CPU is given away */
    int32_t budget;        /* 64 bits: instructions that may still be begun */
    int32_t held, tsc_aux; /* requests that wait for IF; IA32_TSC_AUX */
    int32_t selectors, selector_stride;
    bool bmi2, avx;
} HostEnv;
enum { JUMP_CACHE_BITS = 15, PAGE_SLOT_BITS = 13 };
/*
 * Where indirect jumps find the code of an address, by its low bits: a multiplication spreads no better and lengthens
 * what a mispredicted jump waits for. 0 as an address that is not in it: see jump_cache_clear().
 */
typedef struct JumpCache {
    uint64_t va[1 << JUMP_CACHE_BITS];
    const uint8_t *code[1 << JUMP_CACHE_BITS];
} JumpCache;
static inline uint32_t jump_cache_index(uint64_t va)
{
    return (uint32_t)va & ((1u << JUMP_CACHE_BITS) - 1);
}

/* What lowering tells about a block. */
typedef struct LowerSite { /* where a guest instruction may leave to C and come back */
    uint32_t resume;       /* run address of what follows the instruction, as an offset from the hot start */
    uint8_t uop;           /* index of the uop */
    uint8_t kind;          /* SLOW_* */
    uint8_t *fault;        /* run address of a trapping instruction, or NULL */
    const uint8_t *stub;   /* run address of its slow path; NULL: kept for its address alone (x87) */
} LowerSite;
typedef struct LowerExit {
    uint8_t *field;        /* write address of the rel32 that linking patches */
    const uint8_t *stub;   /* run address of what it says when not linked */
    uint64_t target;
    uint8_t uop;
    uint8_t live;          /* as exit_live of uops */
    bool generic;          /* goes to a block without groups */
} LowerExit;

enum { LOWER_MAX_SITES = 3 * REGION_MAX_UOPS, LOWER_MAX_EXITS = 2 * REGION_MAX_UOPS };
typedef struct Lowered {
    uint8_t *guarded, *entry; /* run addresses */
    uint8_t *recorded;        /* where to come in when the record holds the flags; the same as guarded unless they are read */
    uint8_t *hot_end;
    unsigned site_count, exit_count;
    uint16_t next_site;       /* behind those that the block took */
    uint16_t site_owners;
    uint8_t site_owner[LOWER_MAX_SITES]; /* their uops */
    LowerSite sites[LOWER_MAX_SITES];
    LowerExit exits[LOWER_MAX_EXITS];
} Lowered;

enum { LOWER_PLAIN_WORDS = (REGION_MAX_UOPS + 63) / 64 };
/* How many addresses an indirect jump compares its target with, and how many of a block on trial are noted. */
enum { LOWER_LIKELY = 2, LOWER_NOTES = 32 };
typedef struct LowerBlock {
    const Uop *uops;
    unsigned count;
    uint8_t flags_in;    /* live at entry */
    bool mode64;
    bool generic;        /* no groups */
    bool counted;        /* says when it was entered often: LEAVE_HOT when the counter is used up */
    bool hot;            /* its accesses have sites of their own, from next_site on */
    bool promotes;       /* see groups_plan() */
    uint16_t next_site;
    const uint64_t *plain; /* LOWER_PLAIN_WORDS of bits: not that of uop n */
    uint64_t pc;
    const RegionPlan *region; /* the uops are a region; NULL: a block */
    unsigned turns;      /* of a region: at most so many before it looks for requests */
    uint32_t turn_count; /* 32-bit address of where it counts all its turns, for who asks whether it pays; 0: it does not */
    const int16_t *offsets; /* of each guest instruction from pc */
    unsigned counts;     /* instructions to take from the budget at the entry; 0: there is none */
    uint32_t number;     /* of the block: payload of guard exits */
    uint32_t page_id;
    uint32_t slot;       /* index in the page-id table */
    uint32_t page_id2, slot2; /* of the second page of an instruction that crosses; 0: none */
    uint32_t first_site, first_exit; /* numbers of the block's first ones */
    uint32_t counter;    /* index of its counter */
    uint32_t notes;      /* 32-bit address of LOWER_NOTES words where its indirect jump notes where it went; 0: nowhere */
    uint64_t likely[LOWER_LIKELY]; /* where it goes most of the time; 0: none */
} LowerBlock;

/* Upper bounds of the bytes that a block may need in each area. */
enum { LOWER_HOT_MAX = REGION_MAX_UOPS * 160, LOWER_COLD_MAX = REGION_MAX_UOPS * 320 };
void lower_block(const HostEnv *env, const LowerBlock *block, Asm *hot, Asm *cold, Lowered *ret_lowered);

/* thunks.c: generates entry, exit and slow-path thunks. slow_fn(opaque, va, return_address, kind) gives
 * the address to go on at. */
typedef const uint8_t *SlowFn(void *opaque, uint64_t va, const uint8_t *return_address, uint64_t kind);
/* Called first where flags are dead: true when the entry was brought in from a cache. */
typedef bool RefillFn(void *opaque, uint64_t va, bool write);
/* The flags that the record says. */
typedef uint64_t FlagsFn(void *opaque);
typedef void YieldFn(void *opaque);
/* A site has used up its budget of misses; return_address as for SlowFn. */
typedef void MissedFn(void *opaque, uint64_t site, const uint8_t *return_address);
typedef struct HostCalls {
    YieldFn *yield;
    SlowFn *slow;
    RefillFn *refill;
    MissedFn *missed;
    FlagsFn *flags, *pushf, *rdtsc; /* rdtsc: says in the spare bytes whether it is allowed */
    void *opaque;
} HostCalls;
void thunks_emit(HostEnv *env, Asm *a, const HostCalls *calls);
/* Enters translated code; returns LEAVE_* with its payload. */
typedef uint64_t EnterFn(void *context, const uint8_t *code);
/* Site number behind a slow path's return address. */
/* From a slow path's return address to where a group's leader goes that cannot have its page. */
enum { LOWER_LEAD_ELSEWHERE = 9 };
static inline uint32_t lower_site_at(const uint8_t *return_address, unsigned kind)
{
    uint32_t site;
    memcpy(&site, return_address + (kind & SLOW_INTERP ? 0 : 5), 4);
    return site;
}

#endif
