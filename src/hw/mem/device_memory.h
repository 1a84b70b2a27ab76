/*
 * The window of guest addresses for memory that is a device (-m slots=,maxmem=), and what sits in it. The board makes it;
 * devices take places in it under the machine lock.
 */
#ifndef OSTRICH_HW_MEM_DEVICE_MEMORY_H
#define OSTRICH_HW_MEM_DEVICE_MEMORY_H

#include "hostmem/hostmem.h"

#define DEVICE_MEMORY_SERVICE "device-memory"
enum { DEVICE_MEMORY_SLOTS = 256 };

/* A memory device in a slot: pc-dimm. */
typedef struct PcDimm {
    Device dev;
    uint64_t addr;   /* in guest memory; 0: chosen */
    uint64_t size;
    uint32_t node;
    int32_t slot;    /* -1: chosen */
    HostMemory *memory;
    RamBlock *block;
    MemRegion region;
    bool placed;
} PcDimm;

typedef struct DeviceMemory {
    Machine *machine;
    uint64_t base, size;
    uint64_t space;  /* how much may be plugged: maxmem - size */
    unsigned slots;
    MemRegion region;
    PcDimm *dimms[DEVICE_MEMORY_SLOTS];
    /* The board's: a device that came while the guest runs, one that shall go. */
    Error *(*plugged)(PcDimm *dimm);
    Error *(*unplug_request)(PcDimm *dimm);
    void (*unplugged)(Machine *machine, unsigned slot);
} DeviceMemory;

static inline DeviceMemory *device_memory_of(Machine *machine)
{
    return (DeviceMemory *)machine_service(machine, DEVICE_MEMORY_SERVICE);
}
/* Bytes of all memory devices, and of those of a node. */
uint64_t device_memory_plugged(const DeviceMemory *memory);
uint64_t device_memory_plugged_in(const DeviceMemory *memory, unsigned node);

#endif
