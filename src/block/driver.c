/* The registry of drivers, and probing. */
#include <stdlib.h>
#include <string.h>

#include "block/node_priv.h"

const BlockDriver *block_driver_find(const char *name)
{
    SECTION_FOREACH (block_drivers, BlockDriver, it) {
        if (!strcmp((*it)->name, name)) {
            return *it;
        }
    }
    return NULL;
}

const BlockDriver *block_driver_for_scheme(const char *scheme)
{
    SECTION_FOREACH (block_drivers, BlockDriver, it) {
        const BlockDriver *d = *it;
        if (d->protocol && !strcmp(d->name, scheme)) {
            return d;
        }
        for (const char *const *s = d->schemes; s && *s; s++) {
            if (!strcmp(*s, scheme)) {
                return d;
            }
        }
    }
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const BlockDriver *const *)a)->name, (*(const BlockDriver *const *)b)->name);
}

const BlockDriver **block_drivers_sorted(void)
{
    size_t count = (size_t)(__stop_block_drivers - __start_block_drivers), n = 0;
    const BlockDriver **drivers = g_new0(const BlockDriver *, count + 1);
    SECTION_FOREACH (block_drivers, BlockDriver, it) {
        drivers[n++] = *it;
    }
    qsort(drivers, n, sizeof(*drivers), by_name);
    return drivers;
}

char *block_drivers_text(void)
{
    g_autofree const BlockDriver **drivers = block_drivers_sorted();
    GString *text = g_string_new(NULL);
    for (const BlockDriver **d = drivers; *d; d++) {
        g_string_append_printf(text, " %s", (*d)->name);
    }
    return g_string_free(text, FALSE);
}

Error *block_driver_lookup(const char *name, const BlockDriver **ret_driver)
{
    *ret_driver = block_driver_find(name);
    if (*ret_driver) {
        return NULL;
    }
    g_autofree const BlockDriver **drivers = block_drivers_sorted();
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const BlockDriver **d = drivers; *d; d++) {
        g_ptr_array_add(names, (void *)(*d)->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    return error_new("Unknown driver '%s'%s%s%s", name, near ? ", did you mean '" : "",
                     near ? near : "", near ? "'?" : "");
}

const BlockDriver *block_probe(const uint8_t *data, size_t length, const char *filename)
{
    const BlockDriver *best = NULL;
    int best_score = 0;

    SECTION_FOREACH (block_drivers, BlockDriver, it) {
        int score = (*it)->probe ? (*it)->probe(data, length, filename) : 0;
        if (score > best_score) {
            best = *it;
            best_score = score;
        }
    }
    return best;
}

void block_snapshot_free(BlockSnapshot *snapshot)
{
    if (snapshot) {
        g_free(snapshot->id);
        g_free(snapshot->name);
        g_free(snapshot);
    }
}

const char *block_claim_name(unsigned bit)
{
    static const char *const names[CLAIM_BITS] = { "consistent read", "write", "write unchanged",
                                                   "resize" };
    return names[bit];
}
