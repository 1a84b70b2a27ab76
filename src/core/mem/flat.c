/*
 * From the tree of regions to a flat map.
 *
 * The tree is rendered from the highest priority down; a piece of address space that is taken stays taken.
 * Positions are computed in 128 bits, because an alias may begin before address 0 and a region may end at
 * 2^64.
 */
#include "core/mem/mem_priv.h"

typedef __int128 Wide;

static Wide region_size(const MemRegion *region)
{
    return region->size ? (Wide)region->size : (Wide)1 << 64;
}

/* Puts [start, end) of region (its byte 0 is at base) wherever nothing lies yet. */
static void add_uncovered(GArray *ranges, MemRegion *region, Wide base, Wide start, Wide end)
{
    guint i = 0;

    while (start < end) {
        while (i < ranges->len && (Wide)g_array_index(ranges, FlatRange, i).last < start) {
            i++;
        }
        const FlatRange *next = i < ranges->len ? &g_array_index(ranges, FlatRange, i) : NULL;
        if (next && (Wide)next->start <= start) {
            start = (Wide)next->last + 1;
            continue;
        }
        Wide stop = next && (Wide)next->start < end ? (Wide)next->start : end;
        FlatRange range = { (uint64_t)start, (uint64_t)(stop - 1), region, (uint64_t)(start - base) };
        g_array_insert_val(ranges, i, range);
        start = stop;
    }
}

static void render(GArray *ranges, MemRegion *region, Wide base, Wide clip_start, Wide clip_end, unsigned depth)
{
    if (!region->enabled || depth > 64) {
        return;
    }
    clip_start = MAX(clip_start, base);
    clip_end = MIN(clip_end, base + region_size(region));
    if (clip_start >= clip_end) {
        return;
    }
    switch (region->kind) {
    case MEM_ALIAS:
        /* The target's own position does not matter: only its content is shown. */
        render(ranges, region->target, base - (Wide)region->target_offset, clip_start, clip_end, depth + 1);
        break;
    case MEM_CONTAINER:
        LIST_FOREACH (child, &region->children, MemRegion, node) {
            render(ranges, child, base + (Wide)child->offset, clip_start, clip_end, depth + 1);
        }
        break;
    default:
        add_uncovered(ranges, region, base, clip_start, clip_end);
        break;
    }
}

FlatMap *flat_map_build(const MemRegion *root)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(FlatRange));
    render(ranges, (MemRegion *)root, 0, 0, (Wide)1 << 64, 0);

    FlatMap *map = g_malloc(sizeof(FlatMap) + ranges->len * sizeof(FlatRange));
    map->count = 0;
    for (guint i = 0; i < ranges->len; i++) {
        const FlatRange *range = &g_array_index(ranges, FlatRange, i);
        FlatRange *prev = map->count ? &map->ranges[map->count - 1] : NULL;
        if (prev && prev->region == range->region && prev->last + 1 == range->start &&
            prev->offset + (range->start - prev->start) == range->offset) {
            prev->last = range->last;
        } else {
            map->ranges[map->count++] = *range;
        }
    }
    return map;
}

const FlatRange *flat_map_find(const FlatMap *map, uint64_t addr)
{
    unsigned low = 0, high = map->count;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        const FlatRange *range = &map->ranges[mid];
        if (addr < range->start) {
            high = mid;
        } else if (addr > range->last) {
            low = mid + 1;
        } else {
            return range;
        }
    }
    return NULL;
}
