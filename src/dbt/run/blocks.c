/* Finding, linking and dropping blocks. See engine.h. */
#include <inttypes.h>
#include <stdatomic.h>
#include <x86intrin.h>

#include "base/log.h"
#include "core/vm/debug.h"
#include "cpu/x86/codepage.h"
#include "cpu/x86/mmu.h"
#include "dbt/ir/env.h"
#include "dbt/run/blocks_priv.h"

/* TSC ticks between misses of a site from which on it pays. */
enum { SITE_MISS_TICKS = 600 };
/* And between entries of a block up to which it is hot. */
enum { HOT_TICKS = 300 };

/* --- hashes --- */

static uint32_t hash64(uint64_t v, unsigned bits)
{
    return (uint32_t)((v * 0x9e3779b97f4a7c15ull) >> (64 - bits));
}

/* Blocks of a page lie side by side: who looks for one has looked for its neighbours a moment ago. */
uint32_t *dbt_bucket(Dbt *d, uint64_t pc, uint32_t map)
{
    enum { PAGE_BUCKET_BITS = 6 };
    uint32_t page = map & ((1u << (DBT_HASH_BITS - PAGE_BUCKET_BITS)) - 1);
    return &d->hash[page << PAGE_BUCKET_BITS | hash64(pc & (MEM_PAGE_SIZE - 1), PAGE_BUCKET_BITS)];
}

/* Here too, sixteen pages at a time: not all, because the runs of two RAM blocks could come to lie behind each other. */
DbtPage *dbt_page_find(Dbt *d, uint64_t ram, bool create)
{
    enum { RUN_BITS = 4 };
    uint64_t page = ram >> MEM_PAGE_BITS;
    uint32_t i = hash64(page >> RUN_BITS, DBT_PAGE_BITS - RUN_BITS) << RUN_BITS | (page & ((1 << RUN_BITS) - 1));
    for (;;) {
        DbtPage *p = &d->pages[i];
        if (p->ram == ram + 1) {
            return p;
        }
        if (p->ram == 0) {
            if (!create) {
                return NULL;
            }
            p->ram = ram + 1;
            d->page_count++;
            return p;
        }
        i = (i + 1) & ((1 << DBT_PAGE_BITS) - 1);
    }
}

/* --- maps and slots --- */

uint32_t dbt_map_find(Dbt *d, uint64_t va, uint64_t ram, const uint8_t *host, RamBlock *block)
{
    uint32_t *bucket = &d->map_hash[hash64(va ^ ram << 20 ^ d->mode, DBT_MAP_HASH_BITS)];
    for (uint32_t n = *bucket; n != 0; n = d->maps[n].next) {
        const CodeMap *m = &d->maps[n];
        if (m->va == va && m->ram == ram && m->mode == d->mode) {
            return n;
        }
    }
    if (d->map_count == DBT_MAX_MAPS) {
        return 0;
    }
    uint32_t n = d->map_count++;
    d->maps[n] = (CodeMap){ .va = va, .ram = ram, .mode = d->mode, .next = *bucket, .host = host, .block = block };
    *bucket = n;
    return n;
}

void dbt_set_slot(Dbt *d, uint64_t va, uint32_t map)
{
    uint32_t n = dbt_slot_of(va);
    if (d->low->slots[n] == map) {
        return;
    }
    d->low->slots[n] = map;
    d->slots_used[n >> 6] |= BIT64(n & 63);
    if (x86_fetch_is_global(d->cpu, va)) {
        d->slots_local[n >> 6] &= ~BIT64(n & 63);
    } else {
        d->slots_local[n >> 6] |= BIT64(n & 63);
    }
}

void dbt_unmapped(Dbt *d, uint64_t va, bool global)
{
    if (va != ~0ull) {
        d->low->slots[dbt_slot_of(va)] = 0;
        return;
    }
    for (unsigned w = 0; w < ARRAY_SIZE(d->slots_used); w++) {
        uint64_t gone = d->slots_used[w] & (global ? ~0ull : d->slots_local[w]);
        d->slots_used[w] &= ~gone;
        for (; gone != 0; gone &= gone - 1) {
            d->low->slots[w << 6 | (unsigned)__builtin_ctzll(gone)] = 0;
        }
    }
}

/* No address is in it: those that are 0 would be looked up elsewhere, but for the first. */
static void jump_cache_clear(JumpCache *cache)
{
    memset(cache, 0, sizeof(*cache));
    cache->va[0] = ~0ull >> 2; /* no canonical address */
}

uint32_t dbt_mode(X86Cpu *cpu)
{
    uint32_t mode = x86_hot(cpu)->mode;
    if ((cpu->fx.mxcsr & 0x1f80) != 0x1f80) {
        mode |= FRONT_MODE_NO_VEC;
    }
    if ((cpu->fx.fcw & 0x3f) != 0x3f || (cpu->fx.fsw & 0x80)) {
        mode |= FRONT_MODE_NO_X87;
    }
    return mode;
}

void dbt_select_mode(Dbt *d)
{
    X86Cpu *cpu = d->cpu;
    uint32_t mode = dbt_mode(cpu);
    if (likely(mode == d->mode && d->mode_count != 0)) {
        return;
    }
    unsigned n = 0;
    while (n < d->mode_count && d->modes[n] != mode) {
        n++;
    }
    if (n == d->mode_count) {
        if (n == DBT_MODES) { /* rare: forget everything rather than manage more */
            dbt_flush(d);
            d->mode_count = n = 0;
        }
        d->modes[n] = mode;
        d->mode_count++;
        d->low->jump_cache[n].va[0] = ~0ull >> 2; /* the rest is clear: see dbt_flush() */
    }
    d->mode = mode;
    d->mode_index = n;
    *((uint8_t *)(x86_tail(cpu) + 1) + ENV_VEC_WIDE) = (mode & X86_MODE_AVX) != 0;
    d->env.jump_cache = (uint32_t)(uintptr_t)&d->low->jump_cache[n];
}

/* --- linking --- */

static void patch(Dbt *d, const DbtExit *exit, const uint8_t *target)
{
    enc_patch_rel32(d->cache.write + exit->field, d->cache.run - d->cache.write, target);
}

enum { LINK_STUB_MAX = 32 };

/* The guard of a block's page for an exit whose flags are in EFLAGS alone; when it fails the exit is not linked. */
static void guard_keeping_flags(Dbt *d, Asm *a, const DbtExit *exit, const DbtBlock *to)
{
    enc_load(a, 4, H_RCX, enc_abs(d->env.slots + 4 * dbt_slot_of(to->pc)));
    enc_lea(a, 4, H_RCX, enc_mem(H_RCX, -(int32_t)to->map));
    uint8_t *same = enc_jrcxz(a);
    enc_jmp(a, dbt_run_at(d, exit->stub));
    enc_here_rel8(a, same);
    enc_jmp(a, dbt_run_at(d, to->entry));
}

/*
 * Where an exit goes on in a block, by where the flags are. A block's own guards need the record, because another
 * block may be what is mapped there.
 */
static const uint8_t *way_in(Dbt *d, const DbtExit *exit, const DbtBlock *to, bool same_page)
{
    uint8_t wanted = to->flags_in & ~exit->live;
    bool guards = !same_page || to->map2 != 0;
    const uint8_t *direct = dbt_run_at(d, same_page ? to->entry : to->guarded);
    if (exit->live & FL_RECORD) {
        return wanted & FL_ALL ? dbt_run_at(d, to->recorded) : direct;
    }
    if (!(wanted & FL_RECORD) && !guards) {
        return direct;
    }
    const uint8_t *stub = dbt_run_at(d, (uint32_t)d->cache.cold);
    Asm cold = code_cache_asm(&d->cache, d->cache.cold);
    if ((wanted & FL_RECORD) || to->map2 != 0) { /* what EFLAGS hold goes to the record */
        enc_call(&cold, d->env.flags_save);
        enc_jmp(&cold, direct);
    } else {
        guard_keeping_flags(d, &cold, exit, to);
    }
    d->cache.cold = (size_t)(cold.p - d->cache.write);
    return stub;
}

void dbt_link(Dbt *d, uint32_t number, DbtBlock *to)
{
    DbtExit *exit = &d->exits[number];
    const DbtBlock *from = &d->blocks[exit->block];
    if (exit->to != 0 || !from->valid || to->pc != exit->target || d->maps[from->map].mode != d->maps[to->map].mode ||
        log_enabled(LOG_NOCHAIN) || d->check != NULL || (d->stress & DBT_STRESS_UNLINKED) || !code_cache_has_room(&d->cache, 0, LINK_STUB_MAX)) {
        return;
    }
    patch(d, exit, way_in(d, exit, to, from->map == to->map));
    exit->to = (uint32_t)(to - d->blocks);
    exit->incoming_next = to->incoming;
    to->incoming = number + 1;
    d->stats.links++;
}

static void unlink_incoming(Dbt *d, DbtBlock *b)
{
    for (uint32_t n = b->incoming; n != 0;) {
        DbtExit *exit = &d->exits[n - 1];
        n = exit->incoming_next;
        exit->to = 0;
        patch(d, exit, dbt_run_at(d, exit->stub));
    }
    b->incoming = 0;
}

/* Takes the outgoing links of a block off the lists of their targets. */
static void unlink_outgoing(Dbt *d, DbtBlock *b)
{
    for (uint32_t i = b->first_exit; i < b->first_exit + b->exit_count; i++) {
        DbtExit *exit = &d->exits[i];
        if (exit->to == 0) {
            continue;
        }
        uint32_t *at = &d->blocks[exit->to].incoming;
        while (*at != 0 && *at != i + 1) {
            at = &d->exits[*at - 1].incoming_next;
        }
        if (*at != 0) {
            *at = exit->incoming_next;
        }
        exit->to = 0;
        patch(d, exit, dbt_run_at(d, exit->stub));
    }
}

/* --- dropping --- */

/* The entry from the jump cache becomes a way to the dispatcher, which finds another block. */
static void tombstone(Dbt *d, DbtBlock *b)
{
    Asm a = code_cache_asm(&d->cache, b->guarded);
    enc_call(&a, d->env.leave[LEAVE_GUARD]);
    enc_u32(&a, (uint32_t)(b - d->blocks));
}

/* What an entry of a page's list is about. */
static DbtBlock *listed_block(Dbt *d, DbtBlock *b)
{
    return b->stands_for != 0 ? &d->blocks[b->stands_for] : b;
}

static void drop_block(Dbt *d, DbtBlock *b)
{
    if (!b->valid) {
        return;
    }
    b->valid = false;
    unlink_incoming(d, b);
    unlink_outgoing(d, b);
    tombstone(d, b);
    uint32_t number = (uint32_t)(b - d->blocks);
    for (uint32_t *at = dbt_bucket(d, b->pc, b->map); *at != 0; at = &d->blocks[*at].hash_next) {
        if (*at == number) {
            *at = b->hash_next;
            break;
        }
    }
    d->stats.invalidated++;
}

/* --- hot blocks --- */

static uint32_t heat_slot(uint64_t pc, uint32_t map)
{
    return hash64(pc ^ (uint64_t)map << 40, DBT_HEAT_BITS);
}

const DbtHeat *dbt_heat_of(const Dbt *d, uint64_t pc, uint32_t map)
{
    const DbtHeat *heat = &d->heat[heat_slot(pc, map)];
    return heat->map == map && heat->pc == pc ? heat : NULL;
}

static DbtHeat *heat_make(Dbt *d, const DbtBlock *b, DbtStage stage)
{
    DbtHeat *heat = &d->heat[heat_slot(b->pc, b->map)];
    if (heat->map != b->map || heat->pc != b->pc) {
        *heat = (DbtHeat){ .pc = b->pc, .map = b->map };
    }
    heat->stage = stage;
    if (heat->looped != b->region) {
        heat->looped = b->region;
        memset(heat->plain, 0, sizeof(heat->plain));
    }
    return heat;
}

/* A region was entered so often: was there enough to do in it each time, by a third more than what it costs? */
static void region_counted(Dbt *d, DbtBlock *b)
{
    uint32_t number = (uint32_t)(b - d->blocks);
    DbtHeat *heat = heat_make(d, b, DBT_HOT);
    if (b->proven) {
        heat->proven = false;
    } else {
        uint64_t turns = (uint64_t)d->low->turns[number % DBT_TURN_COUNTS] + REGION_ENTRIES;
        heat->proven = 3 * turns * b->gain >= 4ull * REGION_ENTRIES * b->cost;
        heat->flat = !heat->proven;
        d->stats.regions_dropped += heat->flat;
    }
    drop_block(d, b);
}

void dbt_heat(Dbt *d, uint32_t number)
{
    DbtBlock *b = &d->blocks[number];
    uint64_t now = __rdtsc();
    if (b->region) {
        if (b->valid) {
            region_counted(d, b);
        }
    } else if (b->stage == DBT_COLD && (b->counted_from == 0 || now - b->counted_from > (uint64_t)HOT_ENTRIES * HOT_TICKS)) {
        b->counted_from = now;
        d->low->counters[number % DBT_COUNTERS] = HOT_ENTRIES;
    } else if (b->valid) {
        DbtHeat *heat = heat_make(d, b, b->stage + 1);
        if (b->stage == DBT_TRIAL) {
            dbt_choose_likely(d, number, heat);
        }
        drop_block(d, b);
        d->stats.hot += b->stage == DBT_TRIAL;
    }
}

void dbt_stress_jump(Dbt *d, uint32_t site)
{
    DbtBlock *b = &d->blocks[d->sites[site].block];
    if (b->valid && !b->region && !b->generic && b->map2 == 0 && dbt_add_likely(heat_make(d, b, DBT_HOT), x86_hot(d->cpu)->rip)) {
        drop_block(d, b);
    }
}

static void set_plain(Dbt *d, DbtHeat *heat, unsigned uop)
{
    uint64_t *word = &heat->plain[uop / 64], bit = BIT64(uop % 64);
    d->stats.hot_plain += !(*word & bit);
    *word |= bit;
}

/* The sites that have used up half their budgets go with the one that has used up all. */
static void drop_bad_sites(Dbt *d, const DbtBlock *b, DbtHeat *heat)
{
    unsigned n = b->first_slot;
    for (unsigned i = 0; i < b->slot_count; i++) {
        if (d->low->budgets[n] < TRIAL_MISSES / 2) {
            set_plain(d, heat, d->site_uop[n]);
        }
        n = n + 1 == X86_SITES ? ENV_SITE_FIRST : n + 1;
    }
}

/*
 * A site that misses all the time costs more than a look into the TLB: the block is made anew with the latter. What
 * is left of the old one's run does no harm, and its exits lead to the new one.
 */
void dbt_missed(void *opaque, uint64_t n, const uint8_t *return_address)
{
    Dbt *d = opaque;
    uint64_t now = __rdtsc(), elapsed = now - d->site_time[n];
    d->site_time[n] = now;
    const DbtSite *site = &d->sites[lower_site_at(return_address, 0)];
    DbtBlock *b = &d->blocks[site->block];
    bool trial = b->stage == DBT_TRIAL, often = trial || elapsed < (uint64_t)SITE_BUDGET * SITE_MISS_TICKS;
    if (n >= ENV_SITE_FIRST && often && b->valid) {
        DbtHeat *heat = heat_make(d, b, b->stage);
        set_plain(d, heat, site->uop);
        if (trial) {
            drop_bad_sites(d, b, heat);
        }
        drop_block(d, b);
    }
    d->low->budgets[n] = SITE_BUDGET;
}

/*
 * What vCPUs keep of a page is recorded for all of them together. The group's lock makes adding to the
 * record and to a vCPU's own list one step, so that nobody takes from the record what another just added.
 */
bool dbt_group_lock(Dbt *d)
{
    bool shared = d->group->members->len > 1;
    if (shared) {
        pthread_mutex_lock(&d->group->lock);
    }
    return shared;
}

void dbt_group_unlock(Dbt *d, bool shared)
{
    if (shared) {
        pthread_mutex_unlock(&d->group->lock);
    }
}

/* Drops the blocks of a page that overlap the bytes; true when there were any. */
static bool drop_overlapping(Dbt *d, DbtPage *page, unsigned offset, unsigned length)
{
    uint64_t granules = 0;
    bool dropped = false;
    for (uint32_t n = page->blocks; n != 0; n = d->blocks[n].page_next) {
        DbtBlock *b = &d->blocks[n];
        if (b->offset < offset + length && offset < (unsigned)b->offset + b->length) {
            drop_block(d, listed_block(d, b));
            dropped = true;
        }
    }
    for (uint32_t *at = &page->blocks; *at != 0;) {
        DbtBlock *b = &d->blocks[*at];
        if (!listed_block(d, b)->valid) {
            *at = b->page_next;
        } else {
            granules |= dbt_granules_of(b->offset, b->length);
            at = &b->page_next;
        }
    }
    page->granules = granules;
    page->writes += dropped;
    return dropped;
}

static void page_written(Dbt *d, RamBlock *block, uint64_t page_offset, unsigned offset, unsigned length)
{
    uint64_t ram = block->id + page_offset, granules = 0;
    bool shared = dbt_group_lock(d);
    DbtPage *page = dbt_page_find(d, ram, false);
    bool ours = page != NULL && (page->granules & dbt_granules_of(offset, length));
    if (!ours || drop_overlapping(d, page, offset, length)) {
        for (unsigned i = 0; i < d->group->members->len; i++) {
            const DbtPage *kept = dbt_page_find(g_ptr_array_index(d->group->members, i), ram, false);
            granules |= kept != NULL ? kept->granules : 0;
        }
        x86_code_keep_only(d->cpu, CODE_DBT, block, page_offset, granules);
    }
    dbt_group_unlock(d, shared);
}

void dbt_code_written(Dbt *d, RamBlock *block, uint64_t offset, uint64_t length)
{
    while (length != 0) {
        unsigned in_page = offset & (MEM_PAGE_SIZE - 1);
        uint64_t chunk = MIN(length, MEM_PAGE_SIZE - in_page);
        page_written(d, block, offset - in_page, in_page, (unsigned)chunk);
        offset += chunk;
        length -= chunk;
    }
}

void dbt_flush(Dbt *d)
{
    if (d->block_count > 1) {
        d->stats.flushes++;
    }
    code_cache_reset(&d->cache);
    if (d->gdb_jit != NULL) {
        gdb_jit_clear(d->gdb_jit);
    }
    if (d->block_count > 1) { /* else they are clear, and most of their memory was never touched */
        memset(d->hash, 0, sizeof(d->hash));
        memset(d->heat, 0, sizeof(d->heat));
        bool shared = dbt_group_lock(d);
        memset(d->pages, 0, sizeof(d->pages));
        dbt_group_unlock(d, shared);
    }
    memset(d->map_hash, 0, sizeof(d->map_hash));
    dbt_unmapped(d, ~0ull, true);
    for (unsigned m = 0; m < d->mode_count; m++) {
        jump_cache_clear(&d->low->jump_cache[m]);
    }
    d->block_count = d->map_count = 1;
    d->exit_count = d->site_count = d->fault_count = d->insn_count = d->page_count = d->stand_ins = 0;
    d->flush_wanted = false;
}

/* --- finding --- */

static bool room(Dbt *d)
{
    return code_cache_has_room(&d->cache, LOWER_HOT_MAX, LOWER_COLD_MAX) && d->block_count + 2 + FRONT_MAX_AHEAD < DBT_MAX_BLOCKS &&
           d->exit_count + LOWER_MAX_EXITS < DBT_MAX_EXITS && d->site_count + LOWER_MAX_SITES < DBT_MAX_SITES &&
           d->fault_count + LOWER_MAX_SITES < DBT_MAX_FAULTS && d->insn_count + FRONT_MAX_INSNS < DBT_MAX_INSNS &&
           d->map_count < DBT_MAX_MAPS && d->page_count < (1 << DBT_PAGE_BITS) / 2;
}

static DbtBlock *find(Dbt *d, bool generic)
{
    X86Cpu *cpu = d->cpu;
    uint64_t pc = x86_hot(cpu)->rip, pa, offset;
    RamBlock *ram_block;
    const uint8_t *host = x86_fetch_page(cpu, pc, &pa, &ram_block, &offset);
    d->stats.fetches++;
    if (host == NULL || ram_block == NULL) {
        return NULL;
    }
    if (unlikely(!room(d))) {
        dbt_flush(d);
    }
    uint64_t page_va = pc & ~(MEM_PAGE_SIZE - 1);
    if (unlikely(cpu->debug != NULL) && debug_point_find(cpu->debug, page_va, MEM_PAGE_SIZE, DEBUG_EXEC)) {
        return NULL; /* the interpreter stops there */
    }
    uint32_t map = dbt_map_find(d, page_va, ram_block->id + offset, host, ram_block);
    DbtBlock *b = NULL;
    for (uint32_t n = *dbt_bucket(d, pc, map); n != 0; n = d->blocks[n].hash_next) {
        if (d->blocks[n].pc == pc && d->blocks[n].map == map && d->blocks[n].generic == generic &&
            (d->blocks[n].map2 == 0 || d->blocks[n].map2 == dbt_second_map(d, pc))) {
            b = &d->blocks[n];
            break;
        }
    }
    if (b == NULL) {
        uint64_t start = __rdtsc();
        b = dbt_make_block(d, pc, map, generic);
        d->stats.translate_ticks += __rdtsc() - start;
        if (b == NULL) {
            return NULL;
        }
    }
    dbt_set_slot(d, pc, map);
    d->found = b;
    if (generic || d->check != NULL || log_enabled(LOG_NOCHAIN)) {
        return b;
    }
    JumpCache *cache = &d->low->jump_cache[d->mode_index];
    uint32_t n = jump_cache_index(pc);
    cache->va[n] = pc;
    cache->code[n] = dbt_run_at(d, b->recorded);
    return b;
}

DbtBlock *dbt_find(Dbt *d)
{
    return find(d, false);
}

DbtBlock *dbt_find_generic(Dbt *d)
{
    return find(d, true);
}
