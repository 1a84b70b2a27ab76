/*
 * The translator's run-time of one vCPU: its blocks, where they are linked, the code they came from, and
 * the loop that runs them (DBT.md sections 8 to 10, 14).
 *
 * Everything here belongs to the vCPU's own thread. Blocks are never moved or reused before the whole
 * cache is emptied, so numbers stay good until then; dbt_flush() happens only between blocks.
 */
#ifndef OSTRICH_DBT_RUN_ENGINE_H
#define OSTRICH_DBT_RUN_ENGINE_H

#include <stdio.h>

#include "cpu/x86/interp.h"
#include "dbt/back/x86_64/lower.h"
#include "dbt/front/x86/front.h"
#include "dbt/run/cache.h"
#include "dbt/run/gdb_jit.h"

/*
 * A guest page as code sees it: where it is mapped, what lies there, in which mode. Its number is the
 * page id that guards compare (0 is none).
 */
typedef struct CodeMap {
    uint64_t va;     /* of the page */
    uint64_t ram;    /* ram address of the page */
    uint32_t mode;
    uint32_t next;   /* in the hash chain */
    const uint8_t *host;
    RamBlock *block;
} CodeMap;

/*
 * A block that was entered often is made again with sites for its accesses, on trial: those that miss too often lose
 * theirs. What passed the trial is made a last time, and counts no more.
 */
typedef enum DbtStage { DBT_COLD, DBT_TRIAL, DBT_HOT } DbtStage;

typedef struct DbtBlock {
    uint64_t pc;
    uint32_t map;          /* CodeMap number */
    uint32_t map2;         /* of the second page of its only instruction; 0: none */
    uint32_t stands_for;   /* on a page's list for bytes beside the block's own: the block itself; else 0 */
    uint32_t hash_next, page_next; /* block numbers */
    uint32_t incoming;     /* first exit that is linked here, + 1 */
    uint32_t first_exit, first_site;
    uint32_t guarded, entry, recorded; /* offsets in the cache: see Lowered */
    uint16_t offset, length; /* bytes of the page covered */
    uint16_t exit_count, site_count;
    uint16_t insn_count;
    bool valid;
    bool generic;          /* made without groups, for where those do not work */
    uint8_t stage;         /* DbtStage */
    bool region;
    bool proven;           /* it pays, as far as one could see */
    uint16_t cost, gain;   /* of a region: RegionPlan */
    uint64_t counted_from; /* TSC when its counter was set, 0: when it was made */
    uint16_t first_slot, slot_count; /* sites that it owns (X86Site) */
    bool checkable, ends_interpreted; /* check.c: all is translated; all but its last instruction */
    uint8_t flags_in;
} DbtBlock;

typedef struct DbtExit {
    uint64_t target;
    uint32_t field;    /* offset of the rel32 */
    uint32_t stub;     /* offset of what it says when not linked */
    uint32_t block;    /* the one it belongs to */
    uint32_t to;       /* block it is linked to; 0: not linked */
    uint32_t incoming_next;
    uint8_t live;      /* FL_*: what EFLAGS and the record hold there */
    bool generic;      /* to a block that is */
} DbtExit;

typedef struct DbtSite {
    uint32_t block;
    uint32_t resume;   /* offset in the cache */
    int16_t offset;    /* of the instruction from the block's pc */
    uint8_t length;
    uint8_t uop;
    uint8_t left;      /* instructions of the block from this one to its end */
    bool trap;
    bool leads;        /* the check of a group of accesses */
    bool reads;        /* of such a check for writing: the instruction itself reads */
    bool shadow;       /* STI that is not its block's last instruction */
    uint8_t live;      /* FL_*: groups that EFLAGS hold; FL_RECORD: the record has them all */
    bool exact_fault;  /* its faults have side effects: the interpreter runs it when the fast path fails */
    uint8_t align;     /* mask of address bits that must be 0 */
    int32_t stack;     /* of a jump: what it added to rsp */
    const X86Insn *insn; /* for those that the interpreter runs; NULL: decode it when needed */
    X86Handler *handler;
} DbtSite;

typedef struct DbtFault { /* an instruction that may raise SIGFPE, or whose address the x87 unit remembers */
    uint32_t at, stub; /* offsets; in ascending order of at; stub 0: x87 */
    uint32_t site;
} DbtFault;

/* Blocks that came from a page of RAM. */
typedef struct DbtPage {
    uint64_t ram;      /* ram address + 1; 0: free */
    RamBlock *block;
    uint64_t granules; /* bit n: bytes 64n..64n+63 are covered by a valid block */
    uint32_t blocks;   /* first one, by page_next */
    uint32_t writes;   /* invalidations seen */
} DbtPage;

typedef struct DbtStats {
    uint64_t blocks, insns, links, flushes, invalidated, translate_ticks, yields, naps;
    uint64_t checks, check_differs;
    uint64_t hot, hot_plain, likely, code_bytes;
    uint64_t regions, region_insns, region_parts, hoisted, regions_dropped;
    uint64_t jump_hits, jump_misses; /* of the loop: code looks by itself first */
    uint64_t leave[LEAVE_KINDS], slow_miss, refills, slow_interp, interp_insns, fetches, runs;
} DbtStats;

/* What is known of the blocks at an address besides their code; may be forgotten. */
typedef struct DbtHeat {
    uint64_t pc;
    uint64_t plain[LOWER_PLAIN_WORDS]; /* bit n: the access of uop n goes to other pages all the time */
    uint32_t map;
    uint8_t stage; /* DbtStage of the next one there */
    bool looped;   /* `plain` is of a region */
    bool flat;     /* a region did not pay */
    bool proven;   /* it did */
    uint64_t likely[LOWER_LIKELY]; /* where its indirect jump goes; 0: none */
} DbtHeat;

enum { DBT_MODES = 8, DBT_HASH_BITS = 18, DBT_MAP_HASH_BITS = 12, DBT_PAGE_BITS = 16, DBT_HEAT_BITS = 13 };
enum { DBT_MAX_BLOCKS = 1 << 20, DBT_MAX_EXITS = 1 << 21, DBT_MAX_SITES = 1 << 22, DBT_MAX_FAULTS = 1 << 18,
       DBT_MAX_MAPS = 1 << 18, DBT_MAX_INSNS = 1 << 20 };

/* There are 2 GiB of addresses for this of all vCPUs, so blocks share counters, which then count a little early. */
enum { DBT_COUNTERS = 1 << 17, DBT_TURN_COUNTS = 1 << 12, DBT_NOTES = 1 << 9 };

typedef struct DbtLow { /* tables that code reaches with 32-bit addresses */
    uint64_t masks[8];
    int32_t counters[DBT_COUNTERS]; /* entries before a block is hot; of block n at n modulo DBT_COUNTERS */
    uint32_t turns[DBT_TURN_COUNTS]; /* of regions on trial; likewise */
    uint64_t notes[DBT_NOTES][LOWER_NOTES]; /* where the indirect jumps of blocks on trial went; likewise */
    int32_t budgets[X86_SITES];
    uint32_t slots[1 << PAGE_SLOT_BITS];
    JumpCache jump_cache[DBT_MODES];
} DbtLow;

typedef struct Dbt Dbt;
typedef struct DbtCheck DbtCheck;
/* The translators of a machine: a write to code must reach all of them. */
typedef struct DbtGroup {
    pthread_mutex_t lock;
    GPtrArray *members; /* Dbt * */
} DbtGroup;

struct Dbt {
    X86Cpu *cpu;
    DbtGroup *group;
    CodeCache cache;
    HostEnv env;
    DbtLow *low;
    jmp_buf jmp;
    uint32_t modes[DBT_MODES];
    unsigned mode_count, mode_index; /* index of the mode being run */
    uint32_t mode;                   /* its key */

    DbtBlock *blocks;  /* [0] is none */
    DbtExit *exits;
    DbtSite *sites;
    DbtFault *faults;
    CodeMap *maps;
    X86Insn *insns;
    uint32_t stand_ins; /* of block_count: those that only stand for others */
    uint32_t block_count, exit_count, site_count, fault_count, map_count, insn_count;
    uint32_t hash[1 << DBT_HASH_BITS];
    uint32_t map_hash[1 << DBT_MAP_HASH_BITS];
    DbtPage pages[1 << DBT_PAGE_BITS];
    uint32_t page_count;
    uint64_t slots_used[1 << (PAGE_SLOT_BITS - 6)], slots_local[1 << (PAGE_SLOT_BITS - 6)]; /* bit n: slot n; its page is not global */
    bool flush_wanted;
    DbtHeat heat[1 << DBT_HEAT_BITS];
    uint64_t paused_since, paused_last; /* TSC: when a row of PAUSE began, and its last look at the host */
    uint64_t site_time[X86_SITES]; /* TSC when its budget was filled */
    uint8_t site_uop[X86_SITES];
    uint16_t next_site;
    DbtStats stats;
    uint32_t *interp_counts; /* of each row of insn.tab, how often the interpreter executed it for a block */
    FILE *perf_map;        /* owned; NULL: none */
    GdbJit *gdb_jit;       /* the same */
    DbtCheck *check;       /* NULL: no self-check */
    uint32_t stress;       /* DBT_STRESS_*; debugging */
    uint32_t stress_turns;
    DbtBlock *found;       /* what dbt_find() found last */
    FrontBlock front;
    Lowered lowered;
    RegionPlan region;
    uint32_t making; /* mapping of the code under way */
};

void dbt_group_init(DbtGroup *group);
void dbt_group_fini(DbtGroup *group);
Error *dbt_new(X86Cpu *cpu, DbtGroup *group, size_t cache_size, bool split, Dbt **ret_dbt) MUST_USE;
void dbt_free(Dbt *dbt);
/* Hears of writes to code and of mappings that go; part of dbt_new(). */
void dbt_listen(Dbt *dbt);
/* Runs the CPU until it halts, or something is asked of its thread (false). */
void dbt_run(Dbt *dbt);

static inline uint8_t dbt_env_byte(X86Cpu *cpu, int env)
{
    return *((uint8_t *)(x86_tail(cpu) + 1) + env);
}

/* --- blocks.c --- */
/* The block for hot.rip in the mode word, translated if need be; NULL: interpret an instruction. Raises. */
DbtBlock *dbt_find(Dbt *dbt);
/* The same for a block without groups of accesses. */
DbtBlock *dbt_find_generic(Dbt *dbt);
/* The mode word with the translator's own bits. */
uint32_t dbt_mode(X86Cpu *cpu);
void dbt_select_mode(Dbt *dbt);
/* The block left because it was entered often. If it was within a short time it goes, and the next one there will be of the next stage. */
void dbt_heat(Dbt *dbt, uint32_t block);
void dbt_link(Dbt *dbt, uint32_t exit, DbtBlock *to);
void dbt_flush(Dbt *dbt);
/* Bytes of RAM changed: blocks made from them go. */
void dbt_code_written(Dbt *dbt, RamBlock *block, uint64_t offset, uint64_t length);
/* va ~0: all pages, or all that are not global. */
void dbt_unmapped(Dbt *dbt, uint64_t va, bool global);
/* --- flags.c, slow.c --- */
SlowFn dbt_slow;
RefillFn dbt_refill;
MissedFn dbt_missed; /* blocks.c */
FlagsFn dbt_flags, dbt_pushf, dbt_rdtsc;
/* hot.rflags from the record, and the record from hot.rflags. */
void dbt_flags_from_record(Dbt *dbt);
void dbt_record_flags(Dbt *dbt);
/* After x87 registers were live in translated code: makes FIP a guest address again. */
void dbt_fix_fip(Dbt *dbt);
/* Executes the instruction of a site, wherever that leads. */
void dbt_interpret_site(Dbt *dbt, uint32_t site);
/* An indirect jump went to hot.rip: raises #GP at the jump if that is no address. */
void dbt_check_jump(Dbt *dbt, uint32_t site);
void dbt_catch_signals(void);
void dbt_set_current(Dbt *dbt);
/* Counted instructions: gives back what a block took for the site's instruction and those behind it, or takes it again. */
static inline void dbt_give_back(Dbt *dbt, const DbtSite *site)
{
    dbt->cpu->jit.budget += dbt->cpu->counted ? site->left : 0;
}
static inline void dbt_take_again(Dbt *dbt, const DbtSite *site)
{
    dbt->cpu->jit.budget -= dbt->cpu->counted ? site->left : 0;
}
/* --- check.c --- */
void dbt_check_init(Dbt *dbt, uint32_t every);
void dbt_check_free(Dbt *dbt);
/* Around a block's run. rip: where it left to; flags: hot.rflags is exact. */
void dbt_check_before(Dbt *dbt, const DbtBlock *block);
void dbt_check_after(Dbt *dbt, uint64_t rip, bool flags);
void dbt_check_disarm(Dbt *dbt);
/* --- likely.c --- */
/* The indirect jump at the end of a block that was on trial: where does it go? */
void dbt_choose_likely(Dbt *dbt, uint32_t block, DbtHeat *heat);
/* For stress: it went there once. False: that is known, or there is no room. */
bool dbt_add_likely(DbtHeat *heat, uint64_t va);
/* --- stress.c --- */
enum {
    DBT_STRESS_POLL = 1,       /* something is asked at every poll */
    DBT_STRESS_UNLINKED = 2,   /* blocks are not linked: each leaves to the loop */
    DBT_STRESS_TLB = 4,        /* the soft TLB is empty whenever code is entered */
    DBT_STRESS_FLUSH = 8,      /* the code cache is emptied often */
    DBT_STRESS_DEAD_FLAGS = 16, /* flags that liveness takes for dead are inverted */
    DBT_STRESS_SITES = 32,     /* all blocks are hot, kernels' too */
    DBT_STRESS_ALL = 63,
};
/* Before code is entered, and after it was left with these flags exact (FL_*). */
void dbt_stress_before(Dbt *dbt);
/* At each turn of the loop. */
void dbt_stress_turn(Dbt *dbt);
void dbt_stress_flags(Dbt *dbt, uint8_t exact);
/* A jump of a block went to hot.rip: so it will the next time (blocks.c). */
void dbt_stress_jump(Dbt *dbt, uint32_t site);
/* --- stats.c --- */
char *dbt_describe(Dbt *dbt);

#endif
