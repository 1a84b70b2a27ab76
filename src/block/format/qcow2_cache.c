/* The table caches of qcow2: write-back, least recently used out first. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2.h"

static void table_free(void *opaque)
{
    Qcow2Table *table = opaque;
    list_remove(&table->lru);
    free(table->data);
    g_free(table);
}

void qcow2_cache_init(Qcow2Cache *cache, Qcow2 *q, unsigned limit, bool needs_barrier)
{
    cache->q = q;
    cache->limit = limit;
    cache->needs_barrier = needs_barrier;
    cache->dirty = 0;
    cache->by_offset = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, table_free);
    list_init(&cache->lru);
}

void qcow2_cache_fini(Qcow2Cache *cache)
{
    if (cache->by_offset) {
        g_hash_table_destroy(cache->by_offset);
        cache->by_offset = NULL;
    }
}

static int table_write_co(Qcow2Cache *cache, Qcow2Table *table)
{
    Qcow2 *q = cache->q;
    qcow2_event_co(q, cache->needs_barrier ? BLOCK_EVENT_L2_UPDATE : BLOCK_EVENT_REFBLOCK_UPDATE_PART);
    int ret = node_pwrite_co(q->file, table->offset, q->cluster_size, table->data, 0);
    if (ret >= 0) {
        table->dirty = false;
        cache->dirty--;
    }
    return ret;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = (*(Qcow2Table *const *)a)->offset, y = (*(Qcow2Table *const *)b)->offset;
    return x < y ? -1 : x > y;
}

int qcow2_cache_write_co(Qcow2Cache *cache)
{
    if (!cache->dirty) {
        return 0;
    }
    g_autofree Qcow2Table **tables = g_new(Qcow2Table *, cache->dirty);
    unsigned count = 0;
    LIST_FOREACH (table, &cache->lru, Qcow2Table, lru) {
        if (table->dirty) {
            tables[count++] = table;
        }
    }
    qsort(tables, count, sizeof(*tables), by_offset);
    for (unsigned i = 0; i < count; i++) {
        int ret = table_write_co(cache, tables[i]);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Makes room for one more. The two most recent ones stay. */
static int make_room_co(Qcow2Cache *cache)
{
    while (g_hash_table_size(cache->by_offset) >= cache->limit) {
        Qcow2Table *oldest = LIST_FIRST(&cache->lru, Qcow2Table, lru);
        int ret = 0;
        if (oldest->dirty && cache->q->txn) {
            return 0; /* more than the limit rather than half of a transaction on the disk */
        }
        if (oldest->dirty) {
            /* All at once: the barrier is the expensive part. */
            ret = cache->needs_barrier ? qcow2_write_back_locked_co(cache->q)
                                       : table_write_co(cache, oldest);
        }
        if (ret < 0) {
            return ret;
        }
        oldest = LIST_FIRST(&cache->lru, Qcow2Table, lru); /* writing back may have dropped it */
        if (oldest && !oldest->dirty) {
            g_hash_table_remove(cache->by_offset, &oldest->offset);
        }
    }
    return 0;
}

static Qcow2Table *find(Qcow2Cache *cache, uint64_t offset)
{
    Qcow2Table *table = g_hash_table_lookup(cache->by_offset, &offset);
    if (table) {
        list_remove(&table->lru);
        list_append(&cache->lru, &table->lru);
    }
    return table;
}

static int add_co(Qcow2Cache *cache, uint64_t offset, Qcow2Table **ret)
{
    int err = make_room_co(cache);
    if (err < 0) {
        return err;
    }
    Qcow2Table *table = g_new0(Qcow2Table, 1);
    table->offset = offset;
    table->data = aligned_alloc(4096, ALIGN_UP(cache->q->cluster_size, 4096));
    if (!table->data) {
        g_free(table);
        return -ENOMEM;
    }
    g_hash_table_insert(cache->by_offset, &table->offset, table);
    list_append(&cache->lru, &table->lru);
    *ret = table;
    return 0;
}

int qcow2_cache_get_co(Qcow2Cache *cache, uint64_t offset, Qcow2Table **ret)
{
    *ret = find(cache, offset);
    if (*ret) {
        return 0;
    }
    if (offset >= cache->q->file->size) {
        return -EIO; /* cut off: its clusters must not read as zeroes */
    }
    int err = add_co(cache, offset, ret);
    if (err < 0) {
        return err;
    }
    qcow2_event_co(cache->q, cache->needs_barrier ? BLOCK_EVENT_L2_LOAD : BLOCK_EVENT_REFBLOCK_LOAD);
    err = node_pread_co(cache->q->file, offset, cache->q->cluster_size, (*ret)->data);
    if (err < 0) {
        qcow2_cache_drop(cache, offset);
    }
    return err;
}

int qcow2_cache_new_co(Qcow2Cache *cache, uint64_t offset, Qcow2Table **ret)
{
    *ret = find(cache, offset);
    if (!*ret) {
        int err = add_co(cache, offset, ret);
        if (err < 0) {
            return err;
        }
    }
    memset((*ret)->data, 0, cache->q->cluster_size);
    (*ret)->placed = cache->q->txn != NULL;
    qcow2_cache_dirty(cache, *ret);
    return 0;
}

void qcow2_cache_dirty(Qcow2Cache *cache, Qcow2Table *table)
{
    if (!table->dirty) {
        table->dirty = true;
        cache->dirty++;
        cache->q->node->write_generation++;
    }
}

void qcow2_cache_drop(Qcow2Cache *cache, uint64_t offset)
{
    Qcow2Table *table = g_hash_table_lookup(cache->by_offset, &offset);
    if (table) {
        cache->dirty -= table->dirty;
        g_hash_table_remove(cache->by_offset, &offset);
    }
}

void qcow2_cache_move(Qcow2Cache *cache, Qcow2Table *table, uint64_t offset)
{
    qcow2_cache_drop(cache, offset); /* what was there is free */
    g_hash_table_steal(cache->by_offset, &table->offset);
    table->offset = offset;
    g_hash_table_insert(cache->by_offset, &table->offset, table);
}
