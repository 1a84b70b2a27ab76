/* Text of `info jit`. */
#include <inttypes.h>

#include "cpu/x86/tsc.h"
#include "dbt/run/engine.h"

/* What blocks leave to the interpreter most often. */
static void describe_interpreted(const Dbt *d, GString *t)
{
    enum { SHOWN = 12 };
    unsigned shown[SHOWN], count = 0;
    for (unsigned row = 1; row < x86_insn_count; row++) {
        unsigned at = count;
        while (at > 0 && d->interp_counts[shown[at - 1]] < d->interp_counts[row]) {
            at--;
        }
        if (d->interp_counts[row] == 0 || at == SHOWN) {
            continue;
        }
        count = MIN(count + 1, (unsigned)SHOWN);
        memmove(&shown[at + 1], &shown[at], (count - at - 1) * sizeof(shown[0]));
        shown[at] = row;
    }
    for (unsigned i = 0; i < count; i++) {
        static const char *const maps[4] = { "", "0f ", "0f38 ", "0f3a " };
        const X86Encoding *e = &x86_encodings[shown[i]];
        g_autofree char *name = g_strdup_printf("%s (%s%02x)", x86_insn_descs[shown[i]].mnemonic, maps[e->map & 3], e->opcode);
        g_string_append_printf(t, "  %-17s %" PRIu32 "\n", name, d->interp_counts[shown[i]]);
    }
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static void describe_code(const Dbt *d, GString *t)
{
    const DbtStats *s = &d->stats;
    size_t hot = d->cache.hot - d->cache.hot_start, cold = d->cache.cold - d->cache.hot_end;
    uint64_t ns = (uint64_t)((unsigned __int128)s->translate_ticks * 1000000000 / x86_tsc_hz(d->cpu));
    g_string_append_printf(t, "gen code size       %zu/%zu (%.1f %%)\n", hot + cold, d->cache.size, percent(hot + cold, d->cache.size));
    g_string_append_printf(t, "hot code            %zu bytes, cold %zu bytes\n", hot, cold);
    g_string_append_printf(t, "TB count            %u\n", d->block_count - 1 - d->stand_ins);
    g_string_append_printf(t, "TB translated       %" PRIu64 " (%" PRIu64 " instructions, %" PRIu64 " us)\n", s->blocks, s->insns,
                           ns / 1000);
    g_string_append_printf(t, "an instruction      %.0f ns to translate, %.1f bytes of code\n", (double)ns / (double)MAX(s->insns, 1u),
                           (double)s->code_bytes / (double)MAX(s->insns, 1u));
    g_string_append_printf(t, "hot blocks          %" PRIu64 ", sites given up %" PRIu64 ", jumps guessed %" PRIu64 "\n", s->hot, s->hot_plain, s->likely);
    g_string_append_printf(t, "regions             %" PRIu64 " (%" PRIu64 " instructions in %" PRIu64 " parts, %" PRIu64
                           " accesses hoisted), given up %" PRIu64 "\n",
                           s->regions, s->region_insns, s->region_parts, s->hoisted, s->regions_dropped);
    g_string_append_printf(t, "TB flush count      %" PRIu64 "\n", s->flushes);
    g_string_append_printf(t, "TB invalidate count %" PRIu64 "\n", s->invalidated);
}

/* How control gets from block to block: by links, by the jump cache, or by way of the loop. */
static void describe_ways(const Dbt *d, GString *t)
{
    static const char *const leave[LEAVE_KINDS] = {
        [LEAVE_LINK] = "unlinked branch", [LEAVE_POLL] = "request",        [LEAVE_GUARD] = "page guard",
        [LEAVE_INDIRECT] = "indirect",    [LEAVE_INTERP] = "interpreted end", [LEAVE_DISPATCH] = "slow path",
        [LEAVE_HOT] = "hot",
        [LEAVE_BUDGET] = "end of budget",
    };
    const DbtStats *s = &d->stats;
    uint32_t linked = 0, exits = d->exit_count, used = 0;
    for (uint32_t i = 0; i < exits; i++) {
        linked += d->exits[i].to != 0;
    }
    for (unsigned m = 0; m < d->mode_count; m++) {
        for (unsigned i = 0; i < 1 << JUMP_CACHE_BITS; i++) {
            used += d->low->jump_cache[m].code[i] != NULL;
        }
    }
    g_string_append_printf(t, "direct links        %" PRIu64 " made; %u of %u exits are linked (%.1f %%)\n", s->links, linked, exits,
                           percent(linked, exits));
    g_string_append_printf(t, "jump cache          %" PRIu64 " misses of code; the loop's %" PRIu64 " hits (%.1f %%); %u places used\n",
                           s->leave[LEAVE_INDIRECT], s->jump_hits, percent(s->jump_hits, s->jump_hits + s->jump_misses), used);
    g_string_append_printf(t, "entries to code     %" PRIu64 "\n", s->runs);
    for (unsigned i = 0; i < LEAVE_KINDS; i++) {
        g_string_append_printf(t, "left: %-13s %" PRIu64 "\n", leave[i], s->leave[i]);
    }
    g_string_append_printf(t, "gave way in PAUSE   %" PRIu64 ", slept %" PRIu64 "\n", s->yields, s->naps);
    g_string_append_printf(t, "code page lookups   %" PRIu64 "\n", s->fetches);
}

char *dbt_describe(Dbt *d)
{
    const DbtStats *s = &d->stats;
    GString *t = g_string_new("Translation buffer state:\n");
    describe_code(d, t);
    describe_ways(d, t);
    g_string_append_printf(t, "TLB misses          %" PRIu64 ", then %" PRIu64 "\n", s->refills, s->slow_miss);
    g_string_append_printf(t, "interpreted: blocks %" PRIu64 ", elsewhere %" PRIu64 "\n", s->slow_interp, s->interp_insns);
    describe_interpreted(d, t);
    if (d->check != NULL) {
        g_string_append_printf(t, "self-check: blocks  %" PRIu64 ", differences %" PRIu64 "\n", s->checks, s->check_differs);
    }
    return g_string_free(t, FALSE);
}
