/* Finding, making, linking and dropping blocks. See engine.h. */
#include <inttypes.h>
#include <stdatomic.h>
#include <time.h>

#include "base/log.h"
#include "cpu/x86/codepage.h"
#include "cpu/x86/mmu.h"
#include "dbt/ir/env.h"
#include "dbt/run/engine.h"

/* --- hashes --- */

static uint32_t hash64(uint64_t v, unsigned bits)
{
    return (uint32_t)((v * 0x9e3779b97f4a7c15ull) >> (64 - bits));
}

static uint32_t *block_bucket(Dbt *d, uint64_t pc, uint32_t map)
{
    return &d->hash[hash64(pc + ((uint64_t)map << 40), DBT_HASH_BITS)];
}

static DbtPage *page_find(Dbt *d, uint64_t ram, bool create)
{
    uint32_t i = hash64(ram >> MEM_PAGE_BITS, DBT_PAGE_BITS);
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

static uint32_t map_find(Dbt *d, uint64_t va, uint64_t ram, const uint8_t *host, RamBlock *block)
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

static uint32_t slot_of(uint64_t va)
{
    return (uint32_t)(va >> MEM_PAGE_BITS) & ((1 << PAGE_SLOT_BITS) - 1);
}

void dbt_unmapped(Dbt *d, uint64_t va)
{
    if (va == ~0ull) {
        if (d->slots_used) {
            memset(d->low->slots, 0, sizeof(d->low->slots));
            d->slots_used = false;
        }
    } else {
        d->low->slots[slot_of(va)] = 0;
    }
}

static void clear_jump_cache(Dbt *d, unsigned mode)
{
    for (unsigned i = 0; i < 1 << JUMP_CACHE_BITS; i++) {
        d->low->jump_cache[mode][i].va = ~0ull >> 2; /* no canonical address */
    }
    for (unsigned i = 0; i < 1 << DBT_ENTRY_BITS; i++) {
        d->entries[mode][i].va = ~0ull >> 2;
    }
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
        clear_jump_cache(d, n);
    }
    d->mode = mode;
    d->mode_index = n;
    *((uint8_t *)(x86_tail(cpu) + 1) + ENV_VEC_WIDE) = (mode & X86_MODE_AVX) != 0;
    d->env.jump_cache = (uint32_t)(uintptr_t)d->low->jump_cache[n];
}

/* --- linking --- */

static uint8_t *run_at(Dbt *d, uint32_t offset)
{
    return d->cache.run + offset;
}

static void patch(Dbt *d, const DbtExit *exit, const uint8_t *target)
{
    enc_patch_rel32(d->cache.write + exit->field, d->cache.run - d->cache.write, target);
}

void dbt_link(Dbt *d, uint32_t number, DbtBlock *to)
{
    DbtExit *exit = &d->exits[number];
    const DbtBlock *from = &d->blocks[exit->block];
    if (exit->to != 0 || !from->valid || to->pc != exit->target || d->maps[from->map].mode != d->maps[to->map].mode ||
        log_enabled(LOG_NOCHAIN)) {
        return;
    }
    patch(d, exit, run_at(d, from->map == to->map ? to->entry : to->guarded));
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
        patch(d, exit, run_at(d, exit->stub));
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
        patch(d, exit, run_at(d, exit->stub));
    }
}

/* --- dropping --- */

static uint64_t granules_of(unsigned offset, unsigned length)
{
    unsigned first = offset >> 6, last = MIN(offset + length - 1, 4095u) >> 6;
    return (~0ull >> (63 - last)) & (~0ull << first);
}

/* The entry from the jump cache becomes a way to the dispatcher, which finds another block. */
static void tombstone(Dbt *d, DbtBlock *b)
{
    Asm a = code_cache_asm(&d->cache, b->guarded);
    enc_call(&a, d->env.leave[LEAVE_GUARD]);
    enc_u32(&a, (uint32_t)(b - d->blocks));
}

static void drop_block(Dbt *d, DbtBlock *b)
{
    if (b->stands_for != 0) {
        b = &d->blocks[b->stands_for];
    }
    if (!b->valid) {
        return;
    }
    b->valid = false;
    unlink_incoming(d, b);
    unlink_outgoing(d, b);
    tombstone(d, b);
    uint32_t number = (uint32_t)(b - d->blocks);
    for (uint32_t *at = block_bucket(d, b->pc, b->map); *at != 0; at = &d->blocks[*at].hash_next) {
        if (*at == number) {
            *at = b->hash_next;
            break;
        }
    }
    d->stats.invalidated++;
}

/*
 * What vCPUs keep of a page is recorded for all of them together. The group's lock makes adding to the
 * record and to a vCPU's own list one step, so that nobody takes from the record what another just added.
 */
static bool group_lock(Dbt *d)
{
    bool shared = d->group->members->len > 1;
    if (shared) {
        pthread_mutex_lock(&d->group->lock);
    }
    return shared;
}

static void group_unlock(Dbt *d, bool shared)
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
    uint32_t *at = &page->blocks;
    while (*at != 0) {
        DbtBlock *b = &d->blocks[*at];
        if (b->offset < offset + length && offset < (unsigned)b->offset + b->length) {
            *at = b->page_next;
            drop_block(d, b);
            dropped = true;
        } else {
            granules |= granules_of(b->offset, b->length);
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
    bool shared = group_lock(d);
    DbtPage *page = page_find(d, ram, false);
    bool ours = page != NULL && (page->granules & granules_of(offset, length));
    if (!ours || drop_overlapping(d, page, offset, length)) {
        for (unsigned i = 0; i < d->group->members->len; i++) {
            const DbtPage *kept = page_find(g_ptr_array_index(d->group->members, i), ram, false);
            granules |= kept != NULL ? kept->granules : 0;
        }
        x86_code_keep_only(d->cpu, CODE_DBT, block, page_offset, granules);
    }
    group_unlock(d, shared);
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
    memset(d->hash, 0, sizeof(d->hash));
    memset(d->map_hash, 0, sizeof(d->map_hash));
    bool shared = group_lock(d);
    memset(d->pages, 0, sizeof(d->pages));
    group_unlock(d, shared);
    memset(d->low->slots, 0, sizeof(d->low->slots));
    for (unsigned m = 0; m < d->mode_count; m++) {
        clear_jump_cache(d, m);
    }
    d->block_count = d->map_count = 1;
    d->exit_count = d->site_count = d->fault_count = d->insn_count = d->page_count = 0;
    d->flush_wanted = false;
}

/* --- making --- */

static const uint8_t *peek(void *opaque, uint64_t va, unsigned *ret_available)
{
    Dbt *d = opaque;
    uint32_t n = d->low->slots[slot_of(va)];
    const CodeMap *m = &d->maps[n];
    if (n == 0 || m->va != (va & ~(MEM_PAGE_SIZE - 1)) || m->host == NULL) {
        return NULL;
    }
    *ret_available = (unsigned)(MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1)));
    return m->host + (va & (MEM_PAGE_SIZE - 1));
}

static bool room(Dbt *d)
{
    return code_cache_has_room(&d->cache, LOWER_HOT_MAX, LOWER_COLD_MAX) && d->block_count + 1 < DBT_MAX_BLOCKS &&
           d->exit_count + LOWER_MAX_EXITS < DBT_MAX_EXITS && d->site_count + LOWER_MAX_SITES < DBT_MAX_SITES &&
           d->fault_count + LOWER_MAX_SITES < DBT_MAX_FAULTS && d->insn_count + FRONT_MAX_INSNS < DBT_MAX_INSNS &&
           d->map_count < DBT_MAX_MAPS && d->page_count < (1 << DBT_PAGE_BITS) / 2;
}

static void record_sites(Dbt *d, DbtBlock *b, uint32_t number)
{
    const FrontBlock *f = &d->front;
    for (unsigned i = 0; i < d->lowered.site_count; i++) {
        const LowerSite *s = &d->lowered.sites[i];
        const Uop *u = &f->uops[s->uop];
        unsigned insn = u->insn;
        DbtSite *site = &d->sites[d->site_count++];
        *site = (DbtSite){
            .block = number,
            .resume = b->guarded + s->resume,
            .offset = f->offset[insn],
            .length = f->insns[insn].length,
            .exact_fault = u->kind == UOP_VEC && (u->attr & UA_X87) && (u->attr & UA_RM_W), /* tags change */
            .shadow = f->insns[insn].map == 0 && f->insns[insn].opcode == 0xfb && insn + 1 < f->insn_count,
            .keep_flags = (u->attr & UA_KEEP_FLAGS) != 0,
            .trap = s->stub != NULL,
            .align = u->attr & UA_ALIGN ? u->mem_size - 1 : 0,
        };
        if (s->kind == SLOW_JUMP) {
            bool call = u->kind == UOP_CALL_REG || u->kind == UOP_CALL_MEM;
            site->stack = call ? -(int)u->size : u->kind == UOP_RET ? (int32_t)(u->size + u->imm) : 0;
        }
        if ((s->kind & SLOW_INTERP) || f->crossing) {
            d->insns[d->insn_count] = f->insns[insn];
            site->insn = &d->insns[d->insn_count++];
            site->handler = x86_choose_handler(d->cpu, site->insn);
        }
        if (s->fault != NULL) {
            d->faults[d->fault_count++] = (DbtFault){
                .at = (uint32_t)(s->fault - d->cache.run),
                .stub = s->stub == NULL ? 0 : (uint32_t)(s->stub - d->cache.run),
                .site = d->site_count - 1,
            };
        }
    }
    b->site_count = d->lowered.site_count;
}

static void record_exits(Dbt *d, DbtBlock *b, uint32_t number)
{
    for (unsigned i = 0; i < d->lowered.exit_count; i++) {
        const LowerExit *e = &d->lowered.exits[i];
        d->exits[d->exit_count++] = (DbtExit){
            .target = e->target,
            .field = (uint32_t)(e->field - d->cache.write),
            .stub = (uint32_t)(e->stub - d->cache.run),
            .block = number,
        };
    }
    b->exit_count = d->lowered.exit_count;
}

static void log_block(Dbt *d, const DbtBlock *b)
{
    const FrontBlock *f = &d->front;
    if (log_enabled(LOG_IN_ASM)) {
        log_printf("IN: mode %08x\n", d->mode);
        for (unsigned i = 0; i < f->insn_count; i++) {
            char text[128];
            uint64_t pc = f->pc + f->offset[i];
            log_printf("0x%08" PRIx64 ":  %s\n", pc, x86_insn_text(&f->insns[i], pc, text, sizeof(text)));
        }
    }
    if (log_enabled(LOG_OP)) {
        g_autofree char *text = uop_text(f->uops, f->uop_count);
        log_printf("OP:\n%s", text);
    }
    if (log_enabled(LOG_OUT_ASM)) {
        GString *hex = g_string_new(NULL);
        const uint8_t *code = run_at(d, b->guarded);
        for (const uint8_t *p = code; p < d->lowered.hot_end; p++) {
            g_string_append_printf(hex, "%02x", *p);
        }
        log_printf("OUT: %p [size=%zu]\n%s\n", (const void *)code, (size_t)(d->lowered.hot_end - code), hex->str);
        g_string_free(hex, TRUE);
    }
}

static void emit(Dbt *d, DbtBlock *b, uint32_t number)
{
    const FrontBlock *f = &d->front;
    LowerBlock block = {
        .uops = f->uops,
        .count = f->uop_count,
        .flags_in = f->flags_in,
        .mode64 = (d->mode & X86_MODE_CS64) != 0,
        .pc = f->pc,
        .number = number,
        .page_id = b->map,
        .slot = slot_of(f->pc),
        .page_id2 = b->map2,
        .slot2 = slot_of(f->pc + MEM_PAGE_SIZE),
        .first_site = d->site_count,
        .first_exit = d->exit_count,
    };
    Asm hot = code_cache_asm(&d->cache, d->cache.hot), cold = code_cache_asm(&d->cache, d->cache.cold);
    lower_block(&d->env, &block, &hot, &cold, &d->lowered);
    d->cache.hot = (size_t)(hot.p - d->cache.write);
    d->cache.cold = (size_t)(cold.p - d->cache.write);
    b->guarded = (uint32_t)(d->lowered.guarded - d->cache.run);
    b->entry = (uint32_t)(d->lowered.entry - d->cache.run);
    b->first_site = block.first_site;
    b->first_exit = block.first_exit;
    record_sites(d, b, number);
    record_exits(d, b, number);
}

static bool same_bytes(const FrontBlock *f)
{
    for (unsigned i = 0; i < f->insn_count; i++) {
        if (memcmp(f->bytes + f->offset[i], f->insns[i].bytes, f->insns[i].length) != 0) {
            return false;
        }
    }
    return true;
}

/* Reads the instruction at the end of a page and the start of the next into `bytes`. */
static bool read_crossing(Dbt *d, FrontBlock *f, uint32_t map2, uint8_t bytes[32])
{
    unsigned first = f->available;
    if (map2 == 0 || first >= 15) {
        return false;
    }
    memcpy(bytes, f->bytes, first);
    memcpy(bytes + first, d->maps[map2].host, 15);
    f->bytes = bytes;
    f->available = first + 15;
    f->crossing = true;
    return front_translate(f) && f->length > first;
}

/* The second page of a crossing instruction at pc; 0: it cannot hold code for us. Raises. */
static uint32_t second_map(Dbt *d, uint64_t pc)
{
    uint64_t va = (pc | (MEM_PAGE_SIZE - 1)) + 1, pa, offset;
    RamBlock *block;
    if (!(d->mode & X86_MODE_CS64)) {
        va = (uint32_t)va;
    }
    const uint8_t *host = x86_fetch_page(d->cpu, va, &pa, &block, &offset);
    if (host == NULL || block == NULL) {
        return 0;
    }
    uint32_t map = map_find(d, va, block->id + offset, host, block);
    if (map != 0) {
        d->low->slots[slot_of(va)] = map;
        d->slots_used = true;
    }
    return map;
}

static void list_on_page(Dbt *d, DbtBlock *b, uint32_t map)
{
    const CodeMap *m = &d->maps[map];
    DbtPage *page = page_find(d, m->ram, true);
    page->block = m->block;
    page->granules |= granules_of(b->offset, b->length);
    b->page_next = page->blocks;
    page->blocks = (uint32_t)(b - d->blocks);
}

/* From here on writes to the block's bytes are reported. False: they changed meanwhile, or may yet. */
static bool claim_bytes(Dbt *d, FrontBlock *f, uint32_t map, uint32_t map2, unsigned in_first, uint8_t bytes[32])
{
    const CodeMap *m = &d->maps[map], *m2 = &d->maps[map2];
    unsigned offset = f->pc & (MEM_PAGE_SIZE - 1);
    if (!x86_code_add(d->cpu, CODE_DBT, m->block, m->ram - m->block->id + offset, in_first)) {
        return false;
    }
    if (map2 != 0) {
        if (!x86_code_add(d->cpu, CODE_DBT, m2->block, m2->ram - m2->block->id, f->length - in_first)) {
            return false;
        }
        memcpy(bytes, m->host + offset, in_first);
        memcpy(bytes + in_first, m2->host, 15);
    }
    return same_bytes(f);
}

static uint32_t add_block(Dbt *d, const FrontBlock *f, uint32_t map, uint32_t map2, unsigned in_first)
{
    uint32_t number = d->block_count++;
    DbtBlock *b = &d->blocks[number];
    *b = (DbtBlock){ .pc = f->pc, .map = map, .map2 = map2, .offset = f->pc & (MEM_PAGE_SIZE - 1), .length = in_first,
                     .insn_count = f->insn_count, .flags_in = f->flags_in, .valid = true };
    list_on_page(d, b, map);
    if (map2 != 0) {
        DbtBlock *other = &d->blocks[d->block_count++];
        *other = (DbtBlock){ .map = map2, .stands_for = number, .length = f->length - in_first };
        list_on_page(d, other, map2);
    }
    return number;
}

static DbtBlock *make_block(Dbt *d, uint64_t pc, uint32_t map)
{
    uint8_t bytes[32];
    uint32_t map2 = 0;
    const CodeMap *m = &d->maps[map];
    FrontBlock *f = &d->front;
    unsigned offset = pc & (MEM_PAGE_SIZE - 1);
    f->pc = pc;
    f->mode = d->mode;
    f->cpu = d->cpu;
    f->peek = peek;
    f->opaque = d;
    f->bytes = m->host + offset;
    f->available = (unsigned)MEM_PAGE_SIZE - offset;
    f->exact_flags = d->exact_flags || !(d->mode & X86_MODE_PG);
    f->crossing = false;
    unsigned in_first = f->available;
    if (!front_translate(f)) {
        map2 = in_first < 15 ? second_map(d, pc) : 0;
        if (!read_crossing(d, f, map2, bytes)) {
            return NULL;
        }
    }
    in_first = MIN(in_first, f->length);
    bool shared = group_lock(d);
    uint32_t number = 0;
    if (claim_bytes(d, f, map, map2, in_first, bytes)) {
        number = add_block(d, f, map, map2, in_first);
    }
    group_unlock(d, shared);
    if (number == 0) {
        return NULL;
    }
    DbtBlock *b = &d->blocks[number];
    emit(d, b, number);
    uint32_t *bucket = block_bucket(d, pc, map);
    b->hash_next = *bucket;
    *bucket = number;
    d->stats.blocks++;
    d->stats.insns += f->insn_count;
    if (log_enabled(LOG_IN_ASM | LOG_OUT_ASM | LOG_OP)) {
        log_block(d, b);
    }
    return b;
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

DbtBlock *dbt_find(Dbt *d)
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
    uint32_t map = map_find(d, page_va, ram_block->id + offset, host, ram_block);
    DbtBlock *b = NULL;
    for (uint32_t n = *block_bucket(d, pc, map); n != 0; n = d->blocks[n].hash_next) {
        if (d->blocks[n].pc == pc && d->blocks[n].map == map &&
            (d->blocks[n].map2 == 0 || d->blocks[n].map2 == second_map(d, pc))) {
            b = &d->blocks[n];
            break;
        }
    }
    if (b == NULL) {
        uint64_t start = now_ns();
        b = make_block(d, pc, map);
        d->stats.translate_ns += now_ns() - start;
        if (b == NULL) {
            return NULL;
        }
    }
    d->low->slots[slot_of(pc)] = map;
    d->slots_used = true;
    d->entries[d->mode_index][dbt_entry_index(pc)] = (JumpCacheEntry){ pc, run_at(d, b->guarded) };
    if (b->flags_in == 0 || d->exact_flags || !(d->mode & X86_MODE_PG)) {
        JumpCacheEntry *e = &d->low->jump_cache[d->mode_index][pc & ((1 << JUMP_CACHE_BITS) - 1)];
        e->va = pc;
        e->code = run_at(d, b->guarded);
    }
    return b;
}
