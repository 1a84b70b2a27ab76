/* Between blocks.c and make.c. */
#ifndef OSTRICH_DBT_RUN_BLOCKS_PRIV_H
#define OSTRICH_DBT_RUN_BLOCKS_PRIV_H

#include "dbt/run/engine.h"

/* The page-id slot of an address. */
static inline uint32_t dbt_slot_of(uint64_t va)
{
    return (uint32_t)(va >> MEM_PAGE_BITS) & ((1 << PAGE_SLOT_BITS) - 1);
}
static inline uint8_t *dbt_run_at(Dbt *d, uint32_t offset)
{
    return d->cache.run + offset;
}
/* Granules that bytes of a page touch. */
static inline uint64_t dbt_granules_of(unsigned offset, unsigned length)
{
    unsigned first = offset >> 6, last = MIN(offset + length - 1, 4095u) >> 6;
    return (~0ull >> (63 - last)) & (~0ull << first);
}
/* The page is mapped there now: blocks made for the mapping may run. */
void dbt_set_slot(Dbt *d, uint64_t va, uint32_t map);
/* Head of the hash chain. */
uint32_t *dbt_bucket(Dbt *d, uint64_t pc, uint32_t map);
/* The record of a page of RAM; NULL when there is none and it is not to be made. */
DbtPage *dbt_page_find(Dbt *d, uint64_t ram, bool create);
/* Entries after which a block is tried with sites, and of a trial; misses that a site may have in the latter. */
enum { HOT_ENTRIES = 4000, TRIAL_ENTRIES = 4000, TRIAL_MISSES = TRIAL_ENTRIES / 32 };
/* Entries of a region on trial, and until it is to stand another. */
enum { REGION_ENTRIES = 4000, REGION_ENTRIES_LATER = 1 << 20 };
/* Later on: misses of a site after which somebody looks at the clock. */
enum { SITE_BUDGET = 64 };
/* What is known of a block that is to be made; NULL: nothing. */
const DbtHeat *dbt_heat_of(const Dbt *d, uint64_t pc, uint32_t map);
/* The number of a mapping in the current mode, made if need be; 0: no room. */
uint32_t dbt_map_find(Dbt *d, uint64_t va, uint64_t ram, const uint8_t *host, RamBlock *block);
/* See blocks.c; false: there is nobody to lock out. */
bool dbt_group_lock(Dbt *d);
void dbt_group_unlock(Dbt *d, bool shared);
/* The second page of a crossing instruction at pc; 0: it cannot hold code for us. Raises. */
uint32_t dbt_second_map(Dbt *d, uint64_t pc);
/* Translates; NULL: interpret the instruction at pc. Raises. */
DbtBlock *dbt_make_block(Dbt *d, uint64_t pc, uint32_t map, bool generic);

#endif
