/* Shared by the files of core/mem. */
#ifndef OSTRICH_CORE_MEM_MEM_PRIV_H
#define OSTRICH_CORE_MEM_MEM_PRIV_H

#include "core/mem/mem.h"

/* One contiguous piece of an address space. Ranges of a map are sorted and disjoint; last is inclusive. */
typedef struct FlatRange {
    uint64_t start, last;
    MemRegion *region; /* terminal: RAM, ROM or I/O */
    uint64_t offset;   /* in region, of `start` */
} FlatRange;

typedef struct FlatMap {
    unsigned count;
    FlatRange ranges[];
} FlatMap;

struct AddressSpace {
    MemSystem *mem;
    char *name;
    MemRegion *root;
    void *owner;
    FlatMap *_Atomic map; /* read inside an rcu section */
    ListNode node;
};

/* All blocks, for readers on any thread. */
typedef struct RamTable {
    unsigned count;
    RamBlock *blocks[];
} RamTable;

struct MemSystem {
    Lock *machine_lock;
    unsigned update_depth;
    bool changed;
    List spaces, blocks, listeners;
    List retired; /* RamBlock, see ram_block_retire() */
    RamTable *_Atomic ram_table; /* of both; read inside an rcu section */
    uint64_t next_ram_id;
    void (*code_fn)(void *opaque, RamBlock *block, uint64_t offset, uint64_t length);
    void *code_opaque;
    void (*clean_fn)(void *opaque, RamBlock *block, uint64_t first, uint64_t count);
    void *clean_opaque;
    MemTraceFn *_Atomic trace_fn; /* NULL: nobody listens */
    void *trace_opaque;           /* set once, before trace_fn */
};

FlatMap *flat_map_build(const MemRegion *root);
/* The range that holds addr, or NULL. */
const FlatRange *flat_map_find(const FlatMap *map, uint64_t addr);
void mem_changed(MemSystem *mem);
/* Publishes ram_table anew. */
void ram_blocks_changed(MemSystem *mem);

#endif
