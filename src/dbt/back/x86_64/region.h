/*
 * What is decided about a loop before it is lowered: which accesses can be checked before it, and what the host
 * registers hold that it does not need for the guest's.
 *
 * An access is hoisted when its address moves by the same distance in each turn, or not at all. Hoisted accesses at
 * constant distances from each other make a group. Before the loop the page of each group is looked up, and how many
 * turns it will last; the least of these numbers goes to the counter.
 */
#ifndef OSTRICH_DBT_BACK_REGION_H
#define OSTRICH_DBT_BACK_REGION_H

#include "dbt/ir/uop.h"

enum { HOIST_MAX = 8, REGION_MAX_UOPS = 160, REGION_MAX_SWAPS = 8 };

typedef struct HoistGroup {
    uint8_t base, index, scale; /* guest registers at the head: UOP_NO_REG, none */
    bool write;
    bool base_moves, index_moves; /* else its value at the head is part of the host address */
    uint8_t align;     /* the lowest address is to be aligned to so many bytes; 0: not */
    uint16_t span;     /* bytes from the lowest address */
    int16_t stride;    /* of a turn */
    int64_t low;       /* lowest address: base + (index << scale) + low */
    uint8_t uses;
    uint8_t host;      /* register that holds the host's address, less the registers that move; HOST_SPILLED */
} HoistGroup;

typedef struct HoistUse {
    uint8_t group;     /* + 1; 0: not hoisted */
    int32_t disp;      /* from the group's host address and the registers that move */
} HoistUse;

/* A host register that is the home of `guest` outside, and inside holds something else, which lies at `slot` else. */
typedef struct RegionSwap {
    uint8_t host, guest;
    uint8_t in;        /* guest register; SWAP_COUNTER, SWAP_GROUP + n */
} RegionSwap;
enum { SWAP_COUNTER = 16, SWAP_GROUP = 17 };

typedef struct RegionPlan {
    const UopPart *parts;
    unsigned part_count, group_count, swap_count;
    HoistGroup group[HOIST_MAX];
    HoistUse use[REGION_MAX_UOPS];
    RegionSwap swap[REGION_MAX_SWAPS];
    uint8_t home[16];  /* as host_of_guest */
    uint8_t counter;   /* host register, or HOST_SPILLED */
    bool vectors;
    uint16_t cost, gain; /* of entering it, and in each turn: about how many host instructions */
} RegionPlan;

/* Sets UA_HOISTED where it applies. False: a region would gain nothing. */
bool region_plan(Uop *uops, unsigned count, const UopPart *parts, unsigned part_count, RegionPlan *ret_plan);

#endif
