/*
 * Memory objects of the host: -object memory-backend-ram, -file, -memfd. An object describes memory; it becomes a RamBlock
 * when the machine's main memory or a device takes it, and can be taken by one at a time.
 *
 * Threads: the machine lock.
 */
#ifndef OSTRICH_HOSTMEM_HOSTMEM_H
#define OSTRICH_HOSTMEM_HOSTMEM_H

#include "core/mem/mem.h"
#include "core/vm/machine.h"

typedef struct HostMemory {
    Object object;
    uint64_t size;
    bool share, prealloc, merge, dump, reserve;
    bool canonical_name; /* the block is called by the object's path instead of its id */
    char *host_nodes;
    int policy;
    bool taken;
} HostMemory;

typedef struct HostMemoryType {
    ObjectType object;
    /* Fills what is special to the kind. A descriptor in options->fd belongs to the caller. */
    Error *(*describe)(HostMemory *memory, RamOptions *options);
} HostMemoryType;

extern const ObjectType host_memory_type; /* abstract */

/* The object of that id, when it is one of memory. */
Error *host_memory_find(Machine *machine, const char *id, HostMemory **ret_memory) MUST_USE;
/* Bits of the host's NUMA nodes it is to come from. */
uint64_t host_memory_nodes(const HostMemory *memory);
/* Makes the block. Errors: taken already, no memory, the kind's own. The object cannot be deleted until it is given back. */
Error *host_memory_take(HostMemory *memory, MemSystem *mem, RamBlock **ret_block) MUST_USE;
void host_memory_give_back(HostMemory *memory, RamBlock *block);

/* The machine's main memory: by -machine memory-backend=, else by -m, -mem-path and -mem-prealloc. */
Error *main_memory_new(Machine *machine, const char *id, uint64_t size, RamBlock **ret_block) MUST_USE;

#endif
