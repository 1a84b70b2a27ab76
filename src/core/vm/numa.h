/*
 * NUMA nodes of the guest: which memory and which CPUs belong together, how far apart they are (-numa, set-numa-node).
 * Plain data of the machine's configuration: the board lays memory out by it and firmware tells the guest.
 */
#ifndef OSTRICH_CORE_VM_NUMA_H
#define OSTRICH_CORE_VM_NUMA_H

#include "base/error.h"

typedef struct MachineConfig MachineConfig;
typedef struct KeyValues KeyValues; /* value/keyvalues.h */

enum { NUMA_NODES = 128, NUMA_CPUS = 256, NUMA_DISTANCE_LOCAL = 10, NUMA_DISTANCE_REMOTE = 20, NUMA_UNREACHABLE = 255 };
enum { NUMA_CACHE_LEVELS = 3 };

/* A cache on the memory's side (HMAT). */
typedef struct NumaCache {
    bool set;
    uint64_t size;
    unsigned level, associativity, policy; /* as in ACPI */
    uint16_t line;
} NumaCache;

typedef struct NumaNode {
    bool present, has_cpu;
    uint64_t size;  /* bytes of main memory */
    char *memdev;   /* object that it comes from; NULL: a part of all main memory */
    int initiator;  /* node whose CPUs reach it best, -1: none told */
    uint8_t distance[NUMA_NODES]; /* 0: not told */
    NumaCache cache[NUMA_CACHE_LEVELS];
} NumaNode;

/* Latencies (ns) or bandwidths (MiB/s) between nodes. */
typedef struct NumaRate {
    unsigned hierarchy, type; /* as in ACPI */
    uint16_t initiator, target;
    uint64_t value;
} NumaRate;

typedef struct Numa {
    unsigned count; /* the highest node + 1 */
    bool hmat;
    bool distances; /* some were given */
    NumaNode *nodes[NUMA_NODES];
    int16_t cpu_node[NUMA_CPUS]; /* of each place of a CPU, -1: none */
    GArray *rates;               /* NumaRate */
} Numa;

void numa_init(Numa *numa);
void numa_fini(Numa *numa);
/* One -numa: "type" (or the first word) is node, cpu, dist, hmat-lb, hmat-cache. mem_option: whether mem= is possible. */
Error *numa_configure(MachineConfig *config, const KeyValues *options, bool mem_option) MUST_USE;
/*
 * When all have been given: fills in what was left to choose, and checks. size_of gives the bytes of a memory object.
 */
Error *numa_complete(MachineConfig *config, Error *(*size_of)(void *opaque, const char *memdev, uint64_t *ret_size),
                     void *opaque) MUST_USE;
/* What all figures of that kind are multiples of. */
uint64_t numa_rate_unit(const Numa *numa, unsigned hierarchy, unsigned type);
/* The node of a CPU's place; -1: the machine has no nodes. */
int numa_node_of_cpu(const MachineConfig *config, unsigned index);

#endif
