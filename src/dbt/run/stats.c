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
        g_string_append_printf(t, "  %-17s %" PRIu32 "\n", x86_insn_descs[shown[i]].mnemonic, d->interp_counts[shown[i]]);
    }
}

char *dbt_describe(Dbt *d)
{
    static const char *const leave[LEAVE_KINDS] = {
        [LEAVE_LINK] = "unlinked branch", [LEAVE_POLL] = "request",        [LEAVE_GUARD] = "page guard",
        [LEAVE_INDIRECT] = "indirect",    [LEAVE_INTERP] = "interpreted end", [LEAVE_DISPATCH] = "slow path",
        [LEAVE_HOT] = "hot",
        [LEAVE_BUDGET] = "end of budget",
    };
    const DbtStats *s = &d->stats;
    GString *t = g_string_new("Translation buffer state:\n");
    size_t hot = d->cache.hot - d->cache.hot_start, cold = d->cache.cold - d->cache.hot_end;
    g_string_append_printf(t, "gen code size       %zu/%zu\n", hot + cold, d->cache.size);
    g_string_append_printf(t, "TB count            %u\n", d->block_count - 1 - d->stand_ins);
    g_string_append_printf(t, "TB translated       %" PRIu64 " (%" PRIu64 " instructions, %" PRIu64 " us)\n", s->blocks,
                           s->insns, (uint64_t)((unsigned __int128)s->translate_ticks * 1000000 / x86_tsc_hz(d->cpu)));
    g_string_append_printf(t, "hot code            %zu bytes, cold %zu bytes\n", hot, cold);
    g_string_append_printf(t, "hot blocks          %" PRIu64 ", sites given up %" PRIu64 "\n", s->hot, s->hot_plain);
    g_string_append_printf(t, "direct links        %" PRIu64 "\n", s->links);
    g_string_append_printf(t, "TB flush count      %" PRIu64 "\n", s->flushes);
    g_string_append_printf(t, "TB invalidate count %" PRIu64 "\n", s->invalidated);
    g_string_append_printf(t, "entries to code     %" PRIu64 "\n", s->runs);
    for (unsigned i = 0; i < LEAVE_KINDS; i++) {
        g_string_append_printf(t, "left: %-13s %" PRIu64 "\n", leave[i], s->leave[i]);
    }
    g_string_append_printf(t, "gave way in PAUSE   %" PRIu64 "\n", s->yields);
    g_string_append_printf(t, "code page lookups   %" PRIu64 "\n", s->fetches);
    g_string_append_printf(t, "TLB misses          %" PRIu64 ", then %" PRIu64 "\n", s->refills, s->slow_miss);
    g_string_append_printf(t, "interpreted: blocks %" PRIu64 ", elsewhere %" PRIu64 "\n", s->slow_interp, s->interp_insns);
    describe_interpreted(d, t);
    if (d->check != NULL) {
        g_string_append_printf(t, "self-check: blocks  %" PRIu64 ", differences %" PRIu64 "\n", s->checks, s->check_differs);
    }
    return g_string_free(t, FALSE);
}
