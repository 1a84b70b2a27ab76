/* Refcounts of qcow2: reading, allocating, changing. What is freed, and when, is in qcow2_write_back.c. */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/format/qcow2.h"

/* Host clusters beyond this are not given out: an L2 entry has 56 bits. */
#define MAX_HOST_OFFSET BIT64(56)

uint64_t qcow2_max_refcount(const Qcow2 *q)
{
    return q->refcount_order == 6 ? INT64_MAX : BIT64(1u << q->refcount_order) - 1;
}

uint64_t qcow2_refcount_read(const Qcow2 *q, const void *block, uint64_t index)
{
    const uint8_t *p = block;
    unsigned bits = 1u << q->refcount_order;
    switch (q->refcount_order) {
    case 3:
        return p[index];
    case 4:
        return ld16_be(p + index * 2);
    case 5:
        return ld32_be(p + index * 4);
    case 6:
        return ld64_be(p + index * 8);
    default: { /* the first one is in the low bits */
        uint64_t bit = index * bits;
        return p[bit / 8] >> (bit % 8) & ((1u << bits) - 1);
    }
    }
}

void qcow2_refcount_write(const Qcow2 *q, void *block, uint64_t index, uint64_t value)
{
    uint8_t *p = block;
    unsigned bits = 1u << q->refcount_order;
    switch (q->refcount_order) {
    case 3:
        p[index] = (uint8_t)value;
        break;
    case 4:
        st16_be(p + index * 2, (uint16_t)value);
        break;
    case 5:
        st32_be(p + index * 4, (uint32_t)value);
        break;
    case 6:
        st64_be(p + index * 8, value);
        break;
    default: {
        uint64_t bit = index * bits;
        unsigned mask = ((1u << bits) - 1) << (bit % 8);
        p[bit / 8] = (uint8_t)((p[bit / 8] & ~mask) | (value << (bit % 8) & mask));
        break;
    }
    }
}

static uint64_t block_entries(const Qcow2 *q)
{
    return q->cluster_size * 8 >> q->refcount_order;
}

/* The block with the cluster's count; *ret NULL when there is none. */
static int block_get_co(Qcow2 *q, uint64_t cluster, Qcow2Table **ret)
{
    uint64_t index = cluster / block_entries(q);
    *ret = NULL;
    if (index >= q->reftable_size || !q->reftable[index]) {
        return 0;
    }
    uint64_t offset = q->reftable[index];
    if (qcow2_in_cluster(q, offset)) {
        return qcow2_corrupt_co(q, "Refblock offset %#" G_GINT64_MODIFIER "x unaligned (reftable index: %#" G_GINT64_MODIFIER "x)",
                                offset, (uint64_t)index);
    }
    return qcow2_cache_get_co(&q->refcount_cache, offset, ret);
}

int qcow2_get_refcount_co(Qcow2 *q, uint64_t cluster, uint64_t *ret_count)
{
    Qcow2Table *block;
    int ret = block_get_co(q, cluster, &block);
    if (ret >= 0) {
        *ret_count = block ? qcow2_refcount_read(q, block->data, cluster % block_entries(q)) : 0;
    }
    return ret;
}

/* --- growing --- */

int qcow2_write_reftable_co(Qcow2 *q)
{
    size_t bytes = (size_t)q->reftable_size * 8;
    g_autofree uint8_t *data = g_try_malloc(MAX(bytes, 1));
    if (!data) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        st64_be(data + i * 8, q->reftable[i]);
    }
    qcow2_event_co(q, BLOCK_EVENT_REFBLOCK_ALLOC_HOOKUP);
    int ret = node_pwrite_co(q->file, q->reftable_offset, bytes, data, 0);
    if (ret >= 0) {
        q->reftable_dirty = false;
    }
    return ret;
}

/* A refcount block that lies in the first cluster it describes, which is free since nothing
 * describes it. */
static int refcount_block_create_co(Qcow2 *q, uint64_t cluster, Qcow2Table **ret)
{
    uint64_t index = cluster / block_entries(q), offset = cluster << q->cluster_bits;
    qcow2_event_co(q, BLOCK_EVENT_REFBLOCK_ALLOC);
    int err = qcow2_check_overlap_co(q, offset, q->cluster_size);
    if (err >= 0) {
        err = qcow2_cache_new_co(&q->refcount_cache, offset, ret);
    }
    if (err < 0) {
        return err;
    }
    qcow2_event_co(q, BLOCK_EVENT_REFBLOCK_ALLOC_WRITE);
    qcow2_refcount_write(q, (*ret)->data, cluster % block_entries(q), 1);
    q->reftable[index] = offset;
    q->reftable_dirty = true;
    q->fresh = MAX(q->fresh, offset + q->cluster_size);
    return 0;
}

static int write_new_table_co(Qcow2 *q, uint64_t offset, uint64_t old_offset, uint32_t old_entries)
{
    uint8_t fields[12];
    if (q->txn) { /* commit writes it */
        qcow2_txn_reftable_placed(q);
        return qcow2_refcount_add_co(q, old_offset, (uint64_t)old_entries * 8, -1);
    }
    qcow2_event_co(q, BLOCK_EVENT_REFBLOCK_ALLOC_WRITE_BLOCKS);
    int ret = qcow2_cache_write_co(&q->refcount_cache);
    if (ret >= 0) {
        qcow2_event_co(q, BLOCK_EVENT_REFBLOCK_ALLOC_WRITE_TABLE);
        ret = qcow2_write_reftable_co(q);
    }
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    if (ret < 0) {
        return ret;
    }
    st64_be(fields, offset);
    st32_be(fields + 8, (uint32_t)((uint64_t)q->reftable_size * 8 >> q->cluster_bits));
    qcow2_event_co(q, BLOCK_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
    ret = node_pwrite_co(q->file, H_REFTABLE_OFFSET, sizeof(fields), fields, 0);
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    if (ret >= 0) {
        qcow2_free_later(q, old_offset, (uint64_t)old_entries * 8, false);
    }
    return ret;
}

/*
 * A longer refcount table. It is put behind everything the old one can describe, together with the
 * refcount blocks for the place where it lies itself:
 *
 *     first: [new blocks][new table]
 */
static int table_grow_co(Qcow2 *q, uint64_t min_entries)
{
    uint64_t entries = block_entries(q), per_cluster = q->cluster_size / 8;
    uint64_t first = (uint64_t)q->reftable_size * entries;
    uint64_t wanted = MAX(min_entries + 1, (uint64_t)q->reftable_size * 3 / 2);
    uint64_t table_clusters, blocks = 1;

    for (;;) { /* the blocks must describe themselves and the table */
        table_clusters = (wanted + blocks + per_cluster - 1) / per_cluster;
        uint64_t needed = (blocks + table_clusters + entries - 1) / entries;
        if (needed <= blocks) {
            break;
        }
        blocks = needed;
    }
    uint64_t new_size = table_clusters * per_cluster;
    if (new_size * 8 > QCOW2_MAX_REFTABLE_BYTES ||
        (first + blocks + table_clusters) << q->cluster_bits > MAX_HOST_OFFSET) {
        return -EFBIG;
    }
    uint64_t *table = g_try_new0(uint64_t, new_size), *old = q->reftable,
             old_offset = q->reftable_offset;
    uint32_t old_size = q->reftable_size;
    if (!table) {
        return -ENOMEM;
    }
    if (old_size) {
        memcpy(table, old, (size_t)old_size * 8);
    }
    q->reftable = table;
    q->reftable_size = (uint32_t)new_size;
    q->reftable_offset = (first + blocks) << q->cluster_bits;
    int ret = 0;
    for (uint64_t i = 0; i < blocks && ret >= 0; i++) {
        Qcow2Table *block;
        uint64_t base = first + i * entries;
        ret = qcow2_cache_new_co(&q->refcount_cache, (first + i) << q->cluster_bits, &block);
        table[old_size + i] = (first + i) << q->cluster_bits;
        for (uint64_t c = 0; ret >= 0 && c < entries && base + c < first + blocks + table_clusters;
             c++) {
            qcow2_refcount_write(q, block->data, c, 1);
        }
    }
    q->fresh = MAX(q->fresh, (first + blocks + table_clusters) << q->cluster_bits);
    if (ret >= 0) {
        ret = write_new_table_co(q, q->reftable_offset, old_offset, old_size);
    }
    if (ret < 0) { /* the header may name either; the image is not written to any more */
        q->broken = true;
    }
    g_free(old);
    return ret;
}

/* The block for the cluster, made if need be. */
static int block_need_co(Qcow2 *q, uint64_t cluster, Qcow2Table **ret)
{
    uint64_t index = cluster / block_entries(q);
    if (index >= q->reftable_size) {
        int err = table_grow_co(q, index);
        if (err < 0) {
            return err;
        }
    }
    int err = block_get_co(q, cluster, ret);
    if (err >= 0 && !*ret) {
        err = refcount_block_create_co(q, cluster, ret);
    }
    return err;
}

/* --- allocating --- */

enum { FREED_CLUSTERS_KEPT = 8192, FREED_RANGES_KEPT = 1024 };

static bool is_free(const Qcow2 *q, const Qcow2Table *block, uint64_t index, uint64_t cluster)
{
    return qcow2_refcount_read(q, block->data, index) == 0 && !qcow2_quarantined(q, cluster);
}

/* Marks free clusters from `cluster` on as used once, until one is not free or the count is
 * reached. */
static int take_run_co(Qcow2 *q, uint64_t cluster, uint64_t max, uint64_t *ret_taken)
{
    uint64_t entries = block_entries(q), taken = 0;
    while (taken < max) {
        Qcow2Table *block;
        uint64_t at = cluster + taken;
        if (at >= MAX_HOST_OFFSET >> q->cluster_bits) {
            break;
        }
        int ret = block_need_co(q, at, &block);
        if (ret < 0) {
            return taken ? (*ret_taken = taken, 0) : ret;
        }
        uint64_t index = at % entries, before = taken;
        while (taken < max && index < entries && is_free(q, block, index, cluster + taken)) {
            qcow2_refcount_write(q, block->data, index++, 1);
            taken++;
        }
        if (taken != before) {
            qcow2_cache_dirty(&q->refcount_cache, block);
        }
        if (index < entries) {
            break; /* the next one is in use, perhaps by a new block itself */
        }
    }
    *ret_taken = taken;
    return 0;
}

/* The first free cluster at or above the hint. */
static int find_free_co(Qcow2 *q, uint64_t *ret_cluster)
{
    uint64_t entries = block_entries(q);
    for (uint64_t cluster = q->free_hint;;) {
        Qcow2Table *block;
        int ret = block_get_co(q, cluster, &block);
        if (ret < 0) {
            return ret;
        }
        if (!block) {
            ret = block_need_co(q, cluster, &block); /* takes this cluster itself, or one above */
            if (ret < 0) {
                return ret;
            }
        }
        for (uint64_t index = cluster % entries; index < entries; index++, cluster++) {
            if (is_free(q, block, index, cluster)) {
                q->free_hint = cluster;
                *ret_cluster = cluster;
                return 0;
            }
        }
    }
}

int qcow2_alloc_co(Qcow2 *q, uint64_t clusters, uint64_t wanted, uint64_t *ret_offset,
                   uint64_t *ret_clusters)
{
    uint64_t first = wanted >> q->cluster_bits, taken = 0;
    int ret = 0;

    qcow2_event_co(q, BLOCK_EVENT_CLUSTER_ALLOC);
    if (q->broken) {
        return -EIO;
    }
    if (!q->txn && (q->freed_clusters > FREED_CLUSTERS_KEPT || q->freed->len > FREED_RANGES_KEPT)) {
        ret = qcow2_give_back_co(q);
    }
    if (ret >= 0 && wanted) {
        ret = take_run_co(q, first, clusters, &taken);
    }
    while (ret >= 0 && !taken) {
        ret = find_free_co(q, &first);
        if (ret >= 0) {
            ret = take_run_co(q, first, clusters, &taken);
        }
        if (ret >= 0 && taken) {
            q->free_hint = first + taken;
        } else if (ret >= 0 && first >= MAX_HOST_OFFSET >> q->cluster_bits) {
            ret = -ENOSPC;
        }
    }
    if (ret < 0) {
        return ret;
    }
    *ret_offset = first << q->cluster_bits;
    *ret_clusters = taken;
    ret = qcow2_check_overlap_co(q, *ret_offset, taken << q->cluster_bits);
    q->fresh = MAX(q->fresh, (first + taken) << q->cluster_bits);
    return ret;
}

/*
 * A run behind everything that is described so far, together with the refcount blocks for it.
 * Needed where a block describes few clusters, since new blocks would lie in the middle of any long
 * run.
 *
 *     first: [new blocks][the run]
 */
static int alloc_behind_co(Qcow2 *q, uint64_t clusters, uint64_t *ret_offset)
{
    uint64_t entries = block_entries(q), index = q->reftable_size, blocks;
    int ret = 0;

    while (index && !q->reftable[index - 1]) {
        index--;
    }
    for (blocks = 1; blocks * entries < blocks + clusters; blocks++) {
    }
    if (index + blocks > q->reftable_size) {
        ret = table_grow_co(q, index + blocks);
        return ret < 0
                   ? ret
                   : alloc_behind_co(q, clusters, ret_offset); /* the table took some of the room */
    }
    uint64_t first = index * entries;
    if ((first + blocks + clusters) << q->cluster_bits > MAX_HOST_OFFSET) {
        return -ENOSPC;
    }
    for (uint64_t i = 0; i < blocks && ret >= 0; i++) {
        Qcow2Table *block;
        ret = qcow2_cache_new_co(&q->refcount_cache, (first + i) << q->cluster_bits, &block);
        for (uint64_t c = 0; ret >= 0 && c < entries && i * entries + c < blocks + clusters; c++) {
            qcow2_refcount_write(q, block->data, c, 1);
        }
        if (ret >= 0) {
            q->reftable[index + i] = (first + i) << q->cluster_bits;
            q->reftable_dirty = true;
        }
    }
    if (ret < 0) {
        return ret;
    }
    *ret_offset = (first + blocks) << q->cluster_bits;
    ret = qcow2_check_overlap_co(q, *ret_offset, clusters << q->cluster_bits);
    q->fresh = MAX(q->fresh, *ret_offset + (clusters << q->cluster_bits));
    return ret;
}

int qcow2_alloc_exact_co(Qcow2 *q, uint64_t clusters, uint64_t *ret_offset)
{
    uint64_t offset, got;
    int ret = qcow2_alloc_co(q, clusters, 0, &offset, &got);

    if (ret < 0) {
        return ret;
    }
    if (got == clusters) {
        *ret_offset = offset;
        return 0;
    }
    ret = qcow2_refcount_add_co(q, offset, got << q->cluster_bits, -1);
    return ret < 0 ? ret : alloc_behind_co(q, clusters, ret_offset);
}

/* Compressed clusters lie byte by byte behind each other; they share host clusters. */
int qcow2_alloc_compressed_co(Qcow2 *q, uint64_t bytes, uint64_t *ret_offset)
{
    uint64_t offset = q->compressed_next, count = 0;
    int ret;

    qcow2_event_co(q, BLOCK_EVENT_CLUSTER_ALLOC_BYTES);
    if (offset) {
        ret = qcow2_get_refcount_co(q, offset >> q->cluster_bits, &count);
        if (ret < 0) {
            return ret;
        }
        if (count == 0 || count >= qcow2_max_refcount(q)) {
            offset = 0;
        }
    }
    uint64_t room = offset ? q->cluster_size - qcow2_in_cluster(q, offset) : 0;
    if (!offset || room < bytes) {
        uint64_t fresh, got;
        uint64_t wanted = offset ? (offset | q->cluster_mask) + 1 : 0;
        ret = qcow2_alloc_co(q, 1, wanted, &fresh, &got);
        if (ret < 0) {
            return ret;
        }
        if (!offset || fresh != wanted) { /* not adjacent: begin in the new one */
            *ret_offset = fresh;
            q->compressed_next = bytes < q->cluster_size ? fresh + bytes : 0;
            return 0;
        }
        /* The part in the old cluster is one more reference to it. */
    }
    ret = qcow2_refcount_add_co(q, offset, 1, 1);
    if (ret < 0) {
        return ret;
    }
    *ret_offset = offset;
    q->compressed_next = offset + bytes;
    if (!qcow2_in_cluster(q, q->compressed_next)) {
        q->compressed_next = 0;
    }
    return 0;
}

/* --- changing counts --- */

static int add_one_co(Qcow2 *q, uint64_t cluster, int delta)
{
    Qcow2Table *block;
    int ret = block_get_co(q, cluster, &block);
    if (ret < 0) {
        return ret;
    }
    uint64_t index = cluster % block_entries(q);
    uint64_t count = block ? qcow2_refcount_read(q, block->data, index) : 0;
    if (count == 0) {
        return qcow2_corrupt_co(q, "cluster %" G_GUINT64_FORMAT " is %s but its refcount is 0",
                                cluster, delta < 0 ? "freed" : "shared");
    }
    if (delta >= 0 && count >= qcow2_max_refcount(q)) {
        return -EOVERFLOW;
    }
    if (!delta) {
        return 0;
    }
    count += (uint64_t)(int64_t)delta;
    qcow2_refcount_write(q, block->data, index, count);
    qcow2_cache_dirty(&q->refcount_cache, block);
    if (count == 0) {
        uint64_t offset = cluster << q->cluster_bits;
        q->free_hint = MIN(q->free_hint, cluster);
        if (q->compressed_next && (q->compressed_next >> q->cluster_bits) == cluster) {
            q->compressed_next = 0;
        }
        qcow2_cache_drop(&q->l2_cache, offset);
        if (offset != block->offset) {
            qcow2_cache_drop(&q->refcount_cache, offset);
        }
        q->decompressed_entry = 0;
        if (q->txn) {
            qcow2_quarantine_add(q, cluster); /* the old state still needs it */
        }
    }
    return 0;
}

int qcow2_refcount_add_co(Qcow2 *q, uint64_t offset, uint64_t bytes, int delta)
{
    uint64_t end;
    if (!bytes) {
        return 0;
    }
    if (!checked_add_u64(offset, bytes, &end) || end > MAX_HOST_OFFSET) {
        return -EINVAL;
    }
    uint64_t first = offset >> q->cluster_bits, last = (end - 1) >> q->cluster_bits;
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        int ret = add_one_co(q, cluster, delta);
        if (ret < 0) {
            if (delta > 0) { /* undo, so that a failed growth leaves no leak */
                for (uint64_t undo = first; undo < cluster && add_one_co(q, undo, -1) >= 0;
                     undo++) {
                }
            }
            return ret;
        }
    }
    return 0;
}
