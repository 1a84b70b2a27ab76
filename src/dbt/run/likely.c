/*
 * Where the indirect jumps and returns of hot blocks go. A block on trial notes its jump's targets; when one or two of
 * them are nearly all there is, the block is made with compares for them, whose branches are linked like direct ones.
 */
#include "dbt/run/engine.h"

typedef struct Count {
    uint64_t va;
    unsigned times;
} Count;

/* What the target of an exit may be: the fetch there raises nothing that the jump itself had to raise. */
static bool usable(uint64_t va)
{
    return va != 0 && va == (uint64_t)((int64_t)(va << 16) >> 16);
}

static unsigned count_notes(const uint64_t *notes, Count counts[LOWER_NOTES])
{
    unsigned kinds = 0;
    for (unsigned i = 0; i < LOWER_NOTES; i++) {
        unsigned k = 0;
        while (k < kinds && counts[k].va != notes[i]) {
            k++;
        }
        if (k == kinds) {
            counts[kinds++] = (Count){ .va = notes[i] };
        }
        counts[k].times++;
    }
    return kinds;
}

/* Most frequent first. */
static int compare_counts(const void *a, const void *b)
{
    const Count *left = a, *right = b;
    return left->times < right->times ? 1 : left->times > right->times ? -1 : 0;
}

void dbt_choose_likely(Dbt *d, uint32_t number, DbtHeat *heat)
{
    Count counts[LOWER_NOTES];
    unsigned kinds = count_notes(d->low->notes[number % DBT_NOTES], counts), noted = 0, covered = 0, chosen = 0;
    qsort(counts, kinds, sizeof(counts[0]), compare_counts);
    memset(heat->likely, 0, sizeof(heat->likely));
    for (unsigned k = 0; k < kinds; k++) {
        if (!usable(counts[k].va)) {
            continue; /* 0: not noted, the block was left before */
        }
        noted += counts[k].times;
        if (chosen < LOWER_LIKELY && counts[k].times > 1) {
            heat->likely[chosen++] = counts[k].va;
            covered += counts[k].times;
        }
    }
    if (chosen == 0 || 8 * covered < 7 * noted) { /* the compares would be for nothing too often */
        memset(heat->likely, 0, sizeof(heat->likely));
        return;
    }
    d->stats.likely++;
}

bool dbt_add_likely(DbtHeat *heat, uint64_t va)
{
    for (unsigned i = 0; i < LOWER_LIKELY && usable(va) && heat->likely[i] != va; i++) {
        if (heat->likely[i] == 0) {
            heat->likely[i] = va;
            return true;
        }
    }
    return false;
}
