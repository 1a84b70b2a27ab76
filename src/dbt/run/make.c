/* Making a block: translation, the record of what may leave it, and the claim on the bytes it came from. */
#include <inttypes.h>
#include <x86intrin.h>

#include "base/log.h"
#include "cpu/x86/codepage.h"
#include "cpu/x86/mmu.h"
#include "dbt/ir/env.h"
#include "dbt/run/blocks_priv.h"

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
            .uop = s->uop,
            .left = (uint8_t)(f->insn_count - insn),
            .exact_fault = u->kind == UOP_VEC && (u->attr & UA_X87) && (u->attr & UA_RM_W), /* tags change */
            .shadow = f->insns[insn].map == 0 && f->insns[insn].opcode == 0xfb && insn + 1 < f->insn_count,
            .trap = s->stub != NULL,
            .leads = (s->kind & SLOW_LEAD) != 0,
            .reads = (s->kind & SLOW_READS) != 0,
            .live = u->live_in,
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
            .live = e->live,
            .generic = e->generic,
        };
    }
    b->exit_count = d->lowered.exit_count;
}

/* A number follows the call: for whom it is. */
static bool number_follows(const Dbt *d, const X86Insn *insn, uint64_t at)
{
    const uint8_t *target = (const uint8_t *)(uintptr_t)(at + insn->length + (uint64_t)insn->imm);
    bool found = insn->map == 0 && insn->opcode == 0xe8 && target == d->env.slow[SLOW_INTERP];
    for (unsigned i = 0; i < LEAVE_KINDS && insn->map == 0 && insn->opcode == 0xe8; i++) {
        found |= target == d->env.leave[i];
    }
    return found;
}

static void list_host_code(const Dbt *d, GString *s, const uint8_t *code, const uint8_t *end)
{
    g_string_append_printf(s, "OUT: %p [size=%zu]\n", (const void *)code, (size_t)(end - code));
    while (code < end) {
        X86Insn insn;
        uint64_t at = (uintptr_t)code;
        if (x86_decode(&insn, code, (unsigned)MIN(end - code, 15), X86_MODE_CS64) != DECODE_OK) {
            g_string_append_printf(s, "0x%08" PRIx64 ":  .byte 0x%02x\n", at, *code++);
            continue;
        }
        x86_insn_list(s, &insn, at, at);
        code += insn.length;
        if (number_follows(d, &insn, at) && end - code >= 4) {
            uint32_t number;
            memcpy(&number, code, 4);
            g_string_append_printf(s, "0x%08" PRIx64 ":  .long %u\n", (uint64_t)(uintptr_t)code, number);
            code += 4;
        }
    }
    g_string_append_c(s, '\n');
}

/* All that is wanted of a block, in one piece: other vCPUs log too. */
static void log_block(Dbt *d, const DbtBlock *b)
{
    const FrontBlock *f = &d->front;
    GString *s = g_string_new(NULL);
    if (log_enabled(LOG_IN_ASM)) {
        g_string_append(s, "----------------\nIN: \n");
        for (unsigned i = 0; i < f->insn_count; i++) {
            uint64_t pc = f->pc + f->offset[i];
            x86_insn_list(s, &f->insns[i], pc, pc);
        }
        g_string_append_c(s, '\n');
    }
    if (log_enabled(LOG_OP | LOG_OP_OPT)) { /* with liveness: there is no other optimization of them */
        g_autofree char *text = uop_text(f->uops, f->uop_count);
        g_string_append_printf(s, "OP:\n%s\n", text);
    }
    if (log_enabled(LOG_OUT_ASM)) {
        list_host_code(d, s, dbt_run_at(d, b->guarded), d->lowered.hot_end);
    }
    log_printf("%s", s->str);
    g_string_free(s, TRUE);
}

/* The sites that a block took start with their budgets. */
static void start_sites(Dbt *d, DbtBlock *b)
{
    uint64_t now = __rdtsc();
    b->first_slot = d->next_site;
    b->slot_count = d->lowered.site_owners;
    for (unsigned i = 0; i < d->lowered.site_owners; i++) {
        d->site_time[d->next_site] = now;
        d->site_uop[d->next_site] = d->lowered.site_owner[i];
        d->low->budgets[d->next_site] = b->stage == DBT_TRIAL ? TRIAL_MISSES : SITE_BUDGET;
        d->next_site = d->next_site + 1 == X86_SITES ? ENV_SITE_FIRST : d->next_site + 1;
    }
}

/* The block ends in a jump to what the code does not say. */
static bool ends_indirect(const FrontBlock *f)
{
    UopKind kind = f->uops[f->uop_count - 1].kind;
    return f->part_count == 0 && (kind == UOP_RET || kind == UOP_JMP_REG || kind == UOP_JMP_MEM || kind == UOP_CALL_REG || kind == UOP_CALL_MEM);
}

/* True when something in the block could look at a site of its own, it is a loop, or its jump's target could be guessed. */
static bool gains_by_heat(const FrontBlock *f)
{
    if (ends_indirect(f)) {
        return true;
    }
    for (unsigned i = 0; i < f->uop_count; i++) {
        const Uop *u = &f->uops[i];
        bool loops = (u->attr & UA_BACKWARD) && u->imm == f->pc;
        if (((u->attr & UA_MEM) && u->kind != UOP_LEA && u->base != X86_RSP && (u->base < 16 || u->seg != 0)) || loops) {
            return true;
        }
    }
    return false;
}

static void count_region(Dbt *d)
{
    d->stats.regions++;
    d->stats.region_insns += d->front.insn_count;
    d->stats.region_parts += d->front.part_count;
    for (unsigned i = 0; i < d->front.uop_count; i++) {
        d->stats.hoisted += (d->front.uops[i].attr & UA_HOISTED) != 0;
    }
}

/* Turns of a loop between two looks at requests. */
enum { REGION_TURNS = 255, STRESS_TURNS = 3 };

static void emit(Dbt *d, DbtBlock *b, uint32_t number)
{
    const FrontBlock *f = &d->front;
    const DbtHeat *heat = NULL;
    bool looped = f->part_count != 0;
    static const uint64_t none[LOWER_PLAIN_WORDS], all[LOWER_PLAIN_WORDS] = { ~0ull, ~0ull, ~0ull };
    _Static_assert(LOWER_PLAIN_WORDS == 3, "all");
    const uint64_t *plain = all;
    b->stage = DBT_HOT;
    /* A kernel goes from one object to the next, and invalidates pages: it would lose by sites. */
    bool user = (f->mode & X86_MODE_CPL) == X86_MODE_CPL, stress = d->stress & DBT_STRESS_SITES;
    if ((user || stress) && !b->generic && b->map2 == 0 && gains_by_heat(f)) {
        heat = dbt_heat_of(d, f->pc, b->map);
        plain = heat != NULL && heat->looped == looped ? heat->plain : none;
        b->stage = stress ? DBT_HOT : heat != NULL ? heat->stage : DBT_COLD;
    }
    d->low->counters[number % DBT_COUNTERS] = b->stage == DBT_COLD ? HOT_ENTRIES : TRIAL_ENTRIES;
    if (looped) {
        b->region = true;
        b->proven = heat != NULL && heat->proven;
        b->cost = d->region.cost;
        b->gain = d->region.gain;
        d->low->counters[number % DBT_COUNTERS] = b->proven ? REGION_ENTRIES_LATER : REGION_ENTRIES;
        d->low->turns[number % DBT_TURN_COUNTS] = 0;
        count_region(d);
    }
    LowerBlock block = {
        .uops = f->uops,
        .count = f->uop_count,
        .flags_in = f->flags_in,
        .mode64 = (d->mode & X86_MODE_CS64) != 0,
        .generic = b->generic,
        .hot = b->stage != DBT_COLD,
        .counted = b->stage != DBT_HOT || looped,
        .region = looped ? &d->region : NULL,
        .turn_count = b->proven ? 0 : d->env.turn_counts + 4 * (number % DBT_TURN_COUNTS),
        .turns = stress ? STRESS_TURNS : REGION_TURNS,
        .next_site = d->next_site,
        .plain = plain,
        .promotes = plain != all && b->stage != DBT_COLD,
        .counts = d->cpu->counted ? f->insn_count : 0,
        .pc = f->pc,
        .offsets = f->offset,
        .number = number,
        .page_id = b->map,
        .slot = dbt_slot_of(f->pc),
        .page_id2 = b->map2,
        .slot2 = dbt_slot_of(f->pc + MEM_PAGE_SIZE),
        .first_site = d->site_count,
        .first_exit = d->exit_count,
        .counter = number % DBT_COUNTERS,
    };
    if (ends_indirect(f) && heat != NULL && b->stage == DBT_HOT) {
        memcpy(block.likely, heat->likely, sizeof(block.likely));
    }
    if (ends_indirect(f) && b->stage == DBT_TRIAL) {
        uint64_t *notes = d->low->notes[number % DBT_NOTES];
        memset(notes, 0, sizeof(d->low->notes[0]));
        block.notes = (uint32_t)(uintptr_t)notes;
    }
    Asm hot = code_cache_asm(&d->cache, d->cache.hot), cold = code_cache_asm(&d->cache, d->cache.cold);
    lower_block(&d->env, &block, &hot, &cold, &d->lowered);
    d->stats.code_bytes += (size_t)(hot.p - d->cache.write) - d->cache.hot + (size_t)(cold.p - d->cache.write) - d->cache.cold;
    d->cache.hot = (size_t)(hot.p - d->cache.write);
    d->cache.cold = (size_t)(cold.p - d->cache.write);
    start_sites(d, b);
    b->guarded = (uint32_t)(d->lowered.guarded - d->cache.run);
    b->entry = (uint32_t)(d->lowered.entry - d->cache.run);
    b->recorded = (uint32_t)(d->lowered.recorded - d->cache.run);
    b->first_site = block.first_site;
    b->first_exit = block.first_exit;
    record_sites(d, b, number);
    record_exits(d, b, number);
}

/* Of the bytes that the block covers, in its page. */
static unsigned first_byte(const FrontBlock *f)
{
    return (unsigned)((int)(f->pc & (MEM_PAGE_SIZE - 1)) + f->low);
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
uint32_t dbt_second_map(Dbt *d, uint64_t pc)
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
    uint32_t map = dbt_map_find(d, va, block->id + offset, host, block);
    if (map != 0) {
        dbt_set_slot(d, va, map);
    }
    return map;
}

static void list_on_page(Dbt *d, DbtBlock *b, uint32_t map)
{
    const CodeMap *m = &d->maps[map];
    DbtPage *page = dbt_page_find(d, m->ram, true);
    page->block = m->block;
    page->granules |= dbt_granules_of(b->offset, b->length);
    b->page_next = page->blocks;
    page->blocks = (uint32_t)(b - d->blocks);
}

/* The same for the bytes that were looked at around the block. */
static bool claim_ahead(Dbt *d, const FrontBlock *f, const CodeMap *m)
{
    for (unsigned n = 0; n < f->ahead_count; n++) {
        const FrontAhead *a = &f->ahead[n];
        if (!x86_code_add(d->cpu, CODE_DBT, m->block, m->ram - m->block->id + a->offset, a->length) ||
            memcmp(m->host + a->offset, a->bytes, a->length) != 0) {
            return false;
        }
    }
    return true;
}

/* From here on writes to the block's bytes are reported. False: they changed meanwhile, or may yet. */
static bool claim_bytes(Dbt *d, FrontBlock *f, uint32_t map, uint32_t map2, unsigned in_first, uint8_t bytes[32])
{
    const CodeMap *m = &d->maps[map], *m2 = &d->maps[map2];
    unsigned offset = first_byte(f);
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
    return same_bytes(f) && claim_ahead(d, f, m);
}

/* On the list of a page, for bytes that the block was not made from alone. */
static void add_stand_in(Dbt *d, uint32_t number, uint32_t map, unsigned offset, unsigned length)
{
    DbtBlock *b = &d->blocks[d->block_count++];
    d->stand_ins++;
    *b = (DbtBlock){ .map = map, .stands_for = number, .offset = offset, .length = length };
    list_on_page(d, b, map);
}

static uint32_t add_block(Dbt *d, const FrontBlock *f, uint32_t map, uint32_t map2, unsigned in_first)
{
    uint32_t number = d->block_count++;
    DbtBlock *b = &d->blocks[number];
    *b = (DbtBlock){ .pc = f->pc, .map = map, .map2 = map2, .offset = first_byte(f), .length = in_first,
                     .insn_count = f->insn_count, .flags_in = f->flags_in, .valid = true };
    list_on_page(d, b, map);
    if (map2 != 0) {
        add_stand_in(d, number, map2, 0, f->length - in_first);
    }
    for (unsigned n = 0; n < f->ahead_count; n++) {
        add_stand_in(d, number, map, f->ahead[n].offset, f->ahead[n].length);
    }
    return number;
}

/* For check.c: nothing but the last instruction is the interpreter's, and none reads the time or the x87 unit. */
static bool checkable(const FrontBlock *f, bool *ret_ends_interpreted)
{
    for (unsigned i = 0; i < f->uop_count; i++) {
        const Uop *u = &f->uops[i];
        *ret_ends_interpreted = u->kind == UOP_INTERP_END;
        if (u->kind == UOP_INTERP || u->kind == UOP_STRING || u->kind == UOP_BIT_MEM || u->kind == UOP_RDTSC || u->kind == UOP_X87 || u->kind == UOP_FLAG_IF ||
            u->kind == UOP_FLDCW || u->kind == UOP_LDMXCSR || (u->attr & UA_X87)) {
            return false;
        }
    }
    return !f->crossing && f->part_count == 0;
}

/* For profilers and debuggers of the host. */
static void name_code(Dbt *d, const DbtBlock *b)
{
    const uint8_t *code = dbt_run_at(d, b->guarded);
    size_t size = (size_t)(d->lowered.hot_end - code);
    if (unlikely(d->perf_map != NULL)) {
        fprintf(d->perf_map, "%" PRIx64 " %zx guest-%" PRIx64 "\n", (uint64_t)(uintptr_t)code, size, b->pc);
    }
    if (unlikely(d->gdb_jit != NULL)) {
        gdb_jit_add(d->gdb_jit, code, size, b->pc);
    }
}

static bool is_hot(void *opaque, uint64_t pc)
{
    Dbt *d = opaque;
    const DbtHeat *heat = dbt_heat_of(d, pc, d->making);
    return heat != NULL && heat->stage != DBT_COLD;
}

/* What is known to be hot code, and the head of a loop, becomes a region. */
static void make_region(Dbt *d, uint32_t map, bool never)
{
    FrontBlock *f = &d->front;
    d->making = map;
    const DbtHeat *heat = dbt_heat_of(d, f->pc, map);
    bool stress = d->stress & DBT_STRESS_SITES, hot = heat != NULL && heat->stage == DBT_HOT;
    if (never || d->check != NULL || (heat != NULL && heat->flat) || !(hot || stress)) {
        return;
    }
    if (!front_region(f, is_hot, d) || !region_plan(f->uops, f->uop_count, f->parts, f->part_count, &d->region)) {
        (void)front_translate(f);
    }
}

DbtBlock *dbt_make_block(Dbt *d, uint64_t pc, uint32_t map, bool generic)
{
    uint8_t bytes[32];
    uint32_t map2 = 0;
    const CodeMap *m = &d->maps[map];
    FrontBlock *f = &d->front;
    unsigned offset = pc & (MEM_PAGE_SIZE - 1);
    f->pc = pc;
    f->mode = d->mode;
    f->cpu = d->cpu;
    f->exact = d->cpu->debug != NULL;
    f->bytes = m->host + offset;
    f->available = (unsigned)MEM_PAGE_SIZE - offset;
    f->crossing = false;
    unsigned in_first = f->available;
    if (!front_translate(f)) {
        map2 = in_first < 15 ? dbt_second_map(d, pc) : 0;
        if (!read_crossing(d, f, map2, bytes)) {
            return NULL;
        }
    }
    make_region(d, map, generic || map2 != 0);
    in_first = f->part_count != 0 ? f->length : MIN(in_first, f->length);
    bool shared = dbt_group_lock(d);
    uint32_t number = 0;
    if (claim_bytes(d, f, map, map2, in_first, bytes)) {
        number = add_block(d, f, map, map2, in_first);
    }
    dbt_group_unlock(d, shared);
    if (number == 0) {
        return NULL;
    }
    DbtBlock *b = &d->blocks[number];
    b->generic = generic;
    b->checkable = checkable(f, &b->ends_interpreted);
    emit(d, b, number);
    uint32_t *bucket = dbt_bucket(d, pc, map);
    b->hash_next = *bucket;
    *bucket = number;
    d->stats.blocks++;
    d->stats.insns += f->insn_count;
    name_code(d, b);
    if (log_at(LOG_IN_ASM | LOG_OUT_ASM | LOG_OP | LOG_OP_OPT, d->front.pc)) {
        log_block(d, b);
    }
    return b;
}
