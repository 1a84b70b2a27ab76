/*
 * Guest physical memory: RAM blocks, a tree of regions, address spaces.
 *
 * A region is RAM, ROM, I/O (callbacks), an alias of a part of another region, or a container of
 * regions with priorities. An address space looks at one root. A change of the tree builds a new
 * immutable flat map and publishes it with one pointer swap; readers take no lock (base/rcu.h).
 *
 * Threads: the tree changes under the machine lock; between mem_update_begin() and mem_update_end()
 * changes are gathered into one. Reads, writes and lookups: any thread. An I/O callback runs with its
 * region's lock held: the machine lock unless mem_region_set_lock() said otherwise.
 */
#ifndef OSTRICH_CORE_MEM_MEM_H
#define OSTRICH_CORE_MEM_MEM_H

#include "base/error.h"
#include "base/list.h"
#include "base/lock.h"

typedef struct MemSystem MemSystem;
typedef struct RamBlock RamBlock;
typedef struct MemRegion MemRegion;
typedef struct AddressSpace AddressSpace;

#define MEM_PAGE_BITS 12
#define MEM_PAGE_SIZE (1ull << MEM_PAGE_BITS)

/* --- the system: one a machine --- */
MemSystem *mem_system_new(Lock *machine_lock);
void mem_system_free(MemSystem *mem);
void mem_update_begin(MemSystem *mem);
void mem_update_end(MemSystem *mem);
/* Listeners are told, under the machine lock, after each published change (soft TLBs flush). */
typedef struct MemListener {
    void (*changed)(struct MemListener *listener, AddressSpace *as);
    ListNode node;
} MemListener;
void mem_listener_add(MemSystem *mem, MemListener *listener);
void mem_listener_remove(MemListener *listener);

/* --- RAM --- */
/*
 * Per-page flags, one byte a page, changed with atomic operations. A set DIRTY bit means "written since
 * the client last looked". A page may be written without telling anybody (a soft TLB may hold a direct
 * write pointer) only while every enabled dirty client's bit is set and CODE is clear.
 */
enum {
    RAM_DIRTY_DISPLAY = 1 << 0,
    RAM_DIRTY_MIGRATION = 1 << 1,
    RAM_DIRTY_SNAPSHOT = 1 << 2, /* snapshots in memory */
    RAM_DIRTY_RATE = 1 << 3,     /* how fast the guest writes */
    RAM_CODE = 1 << 7, /* holds bytes that were translated */
};

struct RamBlock {
    MemSystem *mem;
    char *name;
    uint8_t *host;          /* constant for the block's life; page aligned */
    uint64_t size;          /* bytes, multiple of the page size */
    uint64_t id;            /* ram address of byte 0: blocks have disjoint page-aligned ranges */
    _Atomic uint8_t *flags; /* one per page */
    _Atomic uint8_t track;  /* dirty clients that are enabled */
    int fd;                 /* memfd or file, -1: anonymous */
    bool shared, nonvolatile;
    _Atomic unsigned refs;  /* 1 of whom it belongs to */
    ListNode node;
};

/* Where the host takes the pages from on a NUMA machine: set_mempolicy(2). */
typedef enum RamPolicy { RAM_POLICY_DEFAULT, RAM_POLICY_PREFERRED, RAM_POLICY_BIND, RAM_POLICY_INTERLEAVE } RamPolicy;

typedef struct RamOptions {
    const char *path; /* file or directory (hugetlbfs) to map; NULL: anonymous, or fd */
    int fd;           /* > 0: map this file, which the block owns when ram_block_new() succeeds */
    bool share, prealloc, readonly;
    bool merge;       /* KSM may merge equal pages */
    bool no_dump;     /* not in core dumps */
    bool no_reserve;  /* MAP_NORESERVE */
    int policy;       /* RamPolicy */
    uint64_t nodes;   /* of the policy: bits of host nodes */
} RamOptions;

/* options may be NULL. The error says how much was asked for and how much the host has. */
Error *ram_block_new(MemSystem *mem, const char *name, uint64_t size, const RamOptions *options,
                     RamBlock **ret_block) MUST_USE;
void ram_block_free(RamBlock *block); /* takes it out of the machine; the memory stays while others have references */
RamBlock *ram_block_ref(RamBlock *block); /* any thread */
void ram_block_unref(RamBlock *block);
/*
 * For memory that the guest could let a device write to: its name and its bytes are given up now, but its addresses stay
 * its own until the machine goes, because a transfer may still be under way.
 */
void ram_block_retire(RamBlock *block);
/* Blocks in order of creation; NULL ends. */
RamBlock *ram_block_next(MemSystem *mem, RamBlock *after);
/*
 * After bytes were written behind the CPUs' back (DMA, loaders): sets the dirty bits and, where pages
 * hold translated code, calls the code listener.
 */
void ram_written(RamBlock *block, uint64_t offset, uint64_t length);
/* Called by ram_written() for pages with RAM_CODE; set once by the translator. Any thread. */
void mem_set_code_listener(MemSystem *mem, void (*fn)(void *opaque, RamBlock *block, uint64_t offset, uint64_t length),
                           void *opaque);
/* Turns a dirty client on or off. Machine lock. Turning it on leaves all pages dirty. */
void ram_track(RamBlock *block, uint8_t client, bool on);
/*
 * Copies a client's bits for pages [first, first + count) to ret_bits (1 byte a page, 0 or 1) and clears
 * them; soft TLBs drop their write pointers to those pages before this returns (through the hook that
 * the accelerator set with mem_set_clean_hook). True when any was set.
 */
bool ram_take_dirty(RamBlock *block, uint8_t client, uint64_t first, uint64_t count, uint8_t *ret_bits);
/* Clears the client's bit of one page that ram_take_dirty() found and no CPU has run since. */
void ram_clear_dirty(RamBlock *block, uint8_t client, uint64_t page);
void mem_set_clean_hook(MemSystem *mem, void (*fn)(void *opaque, RamBlock *block, uint64_t first, uint64_t count),
                        void *opaque);

/* --- regions --- */
typedef enum MemResult { MEM_OK = 0, MEM_UNASSIGNED, MEM_ERROR } MemResult;

/*
 * addr is the offset in the region; size 1, 2, 4 or 8. The core splits and joins accesses to the sizes
 * that `min` and `max` allow, keeps them aligned unless `unaligned`, and passes little-endian values. A
 * read narrower than `min` reads the whole and picks its bytes; a write narrower than `min` passes zeros
 * in the other bytes. An access that is refused reads all ones.
 */
typedef struct MemOps {
    uint64_t (*read)(void *opaque, uint64_t addr, unsigned size);
    void (*write)(void *opaque, uint64_t addr, uint64_t value, unsigned size);
    uint8_t min, max; /* sizes the callbacks take; 0 means 1 and 4 */
    bool unaligned;
    bool big_endian;
} MemOps;

typedef enum MemKind { MEM_CONTAINER, MEM_RAM, MEM_ROM, MEM_IO, MEM_ALIAS } MemKind;

struct MemRegion {
    const char *name; /* owned */
    MemKind kind;
    bool enabled, mapped;
    int priority;
    uint64_t size;    /* bytes; 0 stands for 2^64 */
    uint64_t offset;  /* in the parent */
    MemRegion *parent;
    List children;    /* of a container, by descending priority */
    ListNode node;
    const MemOps *ops; /* MEM_IO; of MEM_ROM: takes the writes, may be NULL */
    void *opaque;
    RamBlock *ram; /* MEM_RAM, MEM_ROM */
    uint64_t ram_offset;
    MemRegion *target; /* MEM_ALIAS */
    uint64_t target_offset;
    MemSystem *mem;
    Lock *lock; /* domain of the callbacks; NULL: none is taken */
    void *owner; /* the Device, for info mtree and mem_as_set_owner(); may be NULL */
};

/* size 0 means the whole 64-bit space. name is copied. ops, opaque, block and target are borrowed. */
void mem_region_init(MemRegion *region, MemSystem *mem, const char *name, uint64_t size);
void mem_region_init_io(MemRegion *region, MemSystem *mem, const char *name, uint64_t size, const MemOps *ops,
                        void *opaque);
void mem_region_init_ram(MemRegion *region, const char *name, RamBlock *block, uint64_t offset, uint64_t size);
/* Reads come from the block; writes go to ops, or nowhere when it is NULL. */
void mem_region_init_rom(MemRegion *region, const char *name, RamBlock *block, uint64_t offset, uint64_t size,
                         const MemOps *ops, void *opaque);
void mem_region_init_alias(MemRegion *region, const char *name, MemRegion *target, uint64_t offset,
                           uint64_t size);
void mem_region_fini(MemRegion *region); /* unmaps; accepts a zeroed one */
/* NULL: the callbacks need no lock. */
void mem_region_set_lock(MemRegion *region, Lock *lock);
/* Higher priority hides lower; among equals the one added last wins. */
void mem_region_map(MemRegion *parent, uint64_t offset, MemRegion *child, int priority);
void mem_region_unmap(MemRegion *child); /* accepts one that is not mapped */
void mem_region_set_enabled(MemRegion *region, bool enabled);
void mem_region_set_offset(MemRegion *region, uint64_t offset);
void mem_region_set_size(MemRegion *region, uint64_t size);
void mem_region_set_alias_offset(MemRegion *region, uint64_t offset);
/* ROM <-> RAM (shadowing, flash in array mode): whether writes reach the block. */
void mem_region_set_rom(MemRegion *region, bool rom);

/* Hears of every access to an I/O region, on the thread that makes it; the region's lock may be held. NULL: of none. */
typedef void MemTraceFn(void *opaque, MemRegion *region, uint64_t offset, unsigned size, uint64_t value, bool write);
void mem_set_trace(MemSystem *mem, MemTraceFn *fn, void *opaque);

/* --- address spaces --- */
/* root and name are borrowed. */
AddressSpace *mem_as_new(MemSystem *mem, const char *name, MemRegion *root);
void mem_as_free(AddressSpace *as);
const char *mem_as_name(const AddressSpace *as);
/* The device whose DMA goes through it: accesses that would reach I/O regions of that owner are refused. */
void mem_as_set_owner(AddressSpace *as, void *owner);

/* Any length; crosses regions. Unassigned reads give all ones. */
MemResult mem_read(AddressSpace *as, uint64_t addr, void *buf, uint64_t length);
MemResult mem_write(AddressSpace *as, uint64_t addr, const void *buf, uint64_t length);
/* One access of 1, 2, 4 or 8 bytes, seen by an I/O callback as such (the core splits as needed). */
MemResult mem_load(AddressSpace *as, uint64_t addr, unsigned size, uint64_t *ret_value);
MemResult mem_store(AddressSpace *as, uint64_t addr, unsigned size, uint64_t value);
/* Writes also into ROM (loaders, firmware images). */
void mem_write_rom(AddressSpace *as, uint64_t addr, const void *buf, uint64_t length);

/*
 * Direct access to RAM for DMA. Gives a host pointer and how much of *length lies behind it
 * contiguously (at least 1), or NULL where the address is not RAM (or is ROM and write is set). After
 * writing, mem_unmap(..., written) marks the bytes; call it in any case.
 */
void *mem_map(AddressSpace *as, uint64_t addr, uint64_t *length, bool write);
void mem_unmap(AddressSpace *as, void *host, uint64_t length, uint64_t written);

/* What lies at an address, for soft TLBs, KVM slots and `info mtree -f`. */
typedef struct MemHit {
    MemRegion *region; /* the terminal region, NULL: unassigned */
    uint64_t offset;   /* in it */
    uint64_t length;   /* bytes to the end of this flat range */
    uint8_t *host;     /* RAM and ROM: the byte, else NULL */
    RamBlock *block;   /* RAM and ROM */
    uint64_t block_offset;
    bool readonly;     /* writes do not go to `host` */
} MemHit;
/* Inside an rcu section, or with the machine lock held: the hit stays valid until it ends. */
void mem_lookup(AddressSpace *as, uint64_t addr, MemHit *ret_hit);
/* Calls fn for each flat range in address order. */
void mem_walk(AddressSpace *as, void (*fn)(void *opaque, uint64_t start, const MemHit *hit), void *opaque);
/* The RAM block that holds a host pointer, or NULL. Any thread; the caller sees to it that the block stays. */
RamBlock *ram_block_of(MemSystem *mem, const void *host, uint64_t *ret_offset);
/* I/O access to a looked-up region with its lock taken. */
MemResult mem_region_load(MemRegion *region, uint64_t offset, unsigned size, uint64_t *ret_value);
MemResult mem_region_store(MemRegion *region, uint64_t offset, unsigned size, uint64_t value);

/* Text of `info mtree` (flat: the flat maps). Caller frees. */
char *mem_describe(MemSystem *mem, bool flat);

#endif
