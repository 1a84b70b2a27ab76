/*
 * Private to mmu*.c: what the MMU keeps besides the soft TLB itself.
 *
 * Validity by generation: a cached entry carries the generation that was current when it was made. Global
 * pages carry global_gen, others that of their address space (PCID). A flush takes a new generation, so it
 * costs nothing for the big caches; only the first-level TLBs, which translated code looks into without
 * such a check, are emptied entry by entry (but only the groups that were used).
 */
#ifndef OSTRICH_CPU_X86_MMU_PRIV_H
#define OSTRICH_CPU_X86_MMU_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/bits.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/svm.h"

enum { /* rights and attributes of a translation */
    WALK_W = 1,      /* R/W bits of all levels */
    WALK_U = 2,      /* U/S bits of all levels */
    WALK_NX = 4,     /* XD bit of any level */
    WALK_G = 8,
    WALK_D = 16,     /* the leaf is dirty (or there is no paging) */
    WALK_LARGE = 32, /* from a page of more than 4 KiB */
    WALK_HUGE = 64,  /* 1 GiB */
    WALK_NESTED_RO = 128, /* nested page tables forbid writes */
    WALK_NESTED_NX = 256, /* and execution */
};
typedef struct Walk {
    uint64_t pa; /* of the 4 KiB page; A20 not applied */
    uint32_t flags;
    uint8_t pkey;
} Walk;

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16, PF_PK = 32 };

/* Who accesses: rights depend on this and on the control registers. */
typedef enum Privilege { PRIV_KERNEL = X86_CTX_KERNEL, PRIV_KERNEL_AC, PRIV_USER } Privilege;

typedef struct L2Entry {
    uint64_t va; /* page address */
    uint64_t pa;
    uint32_t gen;
    uint16_t flags;
    uint8_t pkey;
} L2Entry;
enum { L2_SETS = 2048, L2_WAYS = 4 };

typedef struct DirCache { /* where the page table of a 2 MiB range lies */
    uint64_t region;      /* va >> 21 */
    uint64_t table_pa;
    uint8_t *table;       /* host address or NULL */
    uint64_t gen;         /* of dir_gen */
    uint32_t flags;       /* WALK_W, _U, _NX gathered so far */
} DirCache;
enum { DIR_SLOTS = 256 };

typedef struct PhysPage {
    uint64_t page; /* physical address, with X86Mmu.phys_tag in the low bits; PHYS_NONE */
    uint8_t *host; /* NULL: not RAM or ROM as a whole */
    RamBlock *block;
    uint64_t block_offset;
    bool readonly;
} PhysPage;
enum { PHYS_SLOTS = 8192, PHYS_TAGS = 0xfff };
#define PHYS_NONE 0xfffull /* a tag that is never current */

typedef struct FetchEntry {
    uint64_t va;
    uint32_t gen, epoch;
    uint64_t pa;
    PhysPage page;
} FetchEntry;
enum { FETCH_SLOTS = 256 };

enum { PCID_SLOTS = 8 };

/* Which groups of 16 entries of a first-level TLB hold anything: what a flush has to look at. */
enum { GROUP_BITS = 4, GROUP_WORDS = X86_TLB_SIZE >> GROUP_BITS >> 6 };
typedef struct TlbGroups {
    uint64_t bits[GROUP_WORDS];
} TlbGroups;

typedef struct PcidSlot {
    uint16_t pcid;
    bool used;
    uint32_t gen;
    uint64_t stamp;
} PcidSlot;

/* What was last pushed out of a first-level TLB: pages that compete for one entry. */
typedef struct Victim {
    X86Tlbe entry;
    uint32_t context; /* X86_CTX_COUNT: free */
} Victim;
enum { VICTIMS = 8 };

/*
 * What one address-space identifier (ASID) of SVM has cached; 0 is the host's. A generation belongs to one
 * space only, so that entries of others lie beside the current one's and match nothing.
 */
typedef struct TlbSpace {
    uint32_t gen, global_gen; /* 0: nothing cached */
    uint32_t asid;
    uint64_t root;            /* as x86_tlb_select_asid() was told */
    PcidSlot pcids[PCID_SLOTS];
    /* Ranges of 2 MiB (1 GiB) of which pieces of large pages may be cached: a Bloom filter. */
    uint64_t large_seen[64], huge_seen[2];
    bool any_large;
} TlbSpace;

typedef struct X86Mmu {
    Victim victim[VICTIMS];
    unsigned next_victim;
    TlbGroups used[X86_CTX_COUNT];
    TlbGroups used_local[X86_CTX_COUNT]; /* those with pages that are not global */
    TlbSpace *space;                     /* the current one */
    TlbSpace spaces[SVM_ASIDS];
    uint32_t gen_counter;
    uint64_t dir_gen;
    uint32_t fetch_epoch;
    uint64_t stamp;                      /* of PcidSlot */
    uint64_t phys_tag;                   /* moves on with each change of the memory map */
    bool watch;                          /* DR7 has data breakpoints on */
    L2Entry l2[L2_SETS][L2_WAYS];
    uint8_t l2_next[L2_SETS];
    DirCache dirs[DIR_SLOTS];
    PhysPage phys[PHYS_SLOTS];
    FetchEntry fetch[2][FETCH_SLOTS]; /* supervisor, user */
    X86CodeHooks hooks;
    MemListener listener;
    X86Cpu *cpu;
    bool listening;
    PhysPage last; /* of the last x86_mmu_fill() that returned NULL */
} X86Mmu;

typedef struct SplitLock {
    pthread_mutex_t mutex;
    unsigned users; /* CPUs; machine lock, or before they run */
} SplitLock;

static inline X86Mmu *x86_mmu(X86Cpu *cpu)
{
    return cpu->mmu;
}

static inline uint64_t x86_a20(const X86Cpu *cpu, uint64_t pa)
{
    return cpu->a20 ? pa : pa & ~BIT64(20);
}

static inline void mmu_entry_clear(X86Tlbe *e, unsigned index)
{
    e->rtag = e->wtag = X86_TLB_INVALID(index);
    e->host = 0;
    e->meta = 0;
}

/* Of a 2 MiB (1 GiB) range: its bit in TlbSpace.large_seen (huge_seen). */
static inline unsigned mmu_large_bit(uint64_t region)
{
    return (unsigned)((region * 0x9e3779b97f4a7c15ull) >> 52);
}
static inline unsigned mmu_huge_bit(uint64_t region)
{
    return mmu_large_bit(region) & 127;
}

/* Looks up a physical page (A20 applied by the caller). The result lives until the next map change. */
const PhysPage *mmu_phys_page(X86Cpu *cpu, uint64_t pa);
/* Sets the dirty bits of a RAM page before it is written. */
static inline void mmu_set_dirty(const PhysPage *page)
{
    RamBlock *block = page->block;
    uint64_t n = page->block_offset >> MEM_PAGE_BITS;
    uint8_t track = block->track;
    if ((block->flags[n] & track) != track) {
        atomic_fetch_or(&block->flags[n], track);
    }
}

/*
 * Walks the page tables for an access; sets accessed and dirty bits when `mark`. Returns 0, or the error
 * code of the page fault with bit 31 set.
 */
uint32_t mmu_walk(X86Cpu *cpu, uint64_t va, X86Access access, Privilege privilege, bool mark, Walk *ret_walk);
/* Whether a translation allows the access; else the error code with bit 31 set. */
uint32_t mmu_check_rights(const X86Cpu *cpu, const Walk *walk, X86Access access, Privilege privilege);
#define WALK_FAULT BIT(31)
/* With WALK_FAULT: a nested page fault; cpu->svm.npf_* say which. */
#define WALK_NESTED_FAULT BIT(30)

/* Empties a site of translated code. */
void mmu_site_clear(X86Cpu *cpu, unsigned context, unsigned n);
/* Empties the sites that lie in [start, start + length), by address or by host address. */
void mmu_sites_drop(X86Cpu *cpu, unsigned context, uint64_t start, uint64_t length, bool by_host);
/* Takes a page out of the second level, for the current space. */
void mmu_l2_remove(X86Mmu *mmu, uint64_t va_page);
/* Forgets the map of physical pages. */
void mmu_phys_forget(X86Mmu *mmu);
/* Gives a space generations of its own, in which nothing is cached. */
void mmu_space_clear(X86Mmu *mmu, TlbSpace *space);

typedef struct NestedPage {
    uint64_t pa;
    bool writable, executable, dirty;
} NestedPage;
static inline bool mmu_is_nested(const X86Cpu *cpu)
{
    return unlikely(cpu->svm.guest && cpu->svm.nested_paging);
}
/* Translates a guest's physical address. table: of one of its page tables. False: nested page fault. */
bool mmu_nested(X86Cpu *cpu, uint64_t gpa, X86Access access, bool table, bool mark, NestedPage *ret_page);

#endif
