/*
 * Transactions on qcow2's metadata, and the quarantine of freed clusters.
 *
 * A snapshot changes the counts of all clusters and the flags in all L2 tables. In place, no order
 * of the writes has a valid image after each of them: a count of 1 without ENTRY_COPIED is an error
 * just as a count of 2 with it. So the new tables are written to clusters that were free before,
 * and one write of the header's first sector, which has the places of the L1 table, the refcount
 * table and the snapshot table, makes them the valid ones. A crash leaves the old state or the new
 * one; what belongs to the other leaks.
 *
 *     old: header -> L1 -> L2 ...        new: header -> L1' -> L2' ...
 *                 -> refcounts                       -> refcounts'
 */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/qcow2.h"

/* --- quarantine --- */

void qcow2_quarantine_add(Qcow2 *q, uint64_t cluster)
{
    Qcow2Quarantine *z = &q->quarantine;
    if (!z->bits) {
        z->bits = g_byte_array_new();
    }
    if (cluster / 8 >= z->bits->len) {
        guint old = z->bits->len;
        g_byte_array_set_size(z->bits, (guint)MAX(cluster / 8 + 1, (uint64_t)old * 2));
        memset(z->bits->data + old, 0, z->bits->len - old);
    }
    z->bits->data[cluster / 8] |= (uint8_t)(1u << cluster % 8);
    z->first = z->first < z->end ? MIN(z->first, cluster) : cluster;
    z->end = MAX(z->end, cluster + 1);
}

void qcow2_quarantine_clear(Qcow2 *q)
{
    Qcow2Quarantine *z = &q->quarantine;
    if (z->first < z->end) {
        q->free_hint = MIN(q->free_hint, z->first);
    }
    g_clear_pointer(&z->bits, g_byte_array_unref);
    z->first = z->end = 0;
}

void qcow2_quarantine_discard_co(Qcow2 *q)
{
    const Qcow2Quarantine *z = &q->quarantine;
    for (uint64_t c = z->first; c < z->end;) {
        uint64_t run = c;
        while (run < z->end && qcow2_quarantined(q, run)) {
            run++;
        }
        if (run > c) { /* only a hint */
            node_discard_co(q->file, c << q->cluster_bits, (run - c) << q->cluster_bits);
            q->node->write_generation++;
        }
        c = run + 1;
    }
}

/* --- transactions --- */

struct Qcow2Txn {
    uint64_t *l1, *reftable;
    uint32_t l1_size, reftable_size;
    uint64_t l1_offset, reftable_offset;
    uint64_t snapshots_offset, snapshots_bytes;
    uint64_t free_hint, size;
    bool reftable_placed;
};

static void txn_free(Qcow2Txn *txn)
{
    g_free(txn->l1);
    g_free(txn->reftable);
    g_free(txn);
}

int qcow2_txn_begin_co(Qcow2 *q)
{
    int ret = qcow2_settle_co(q);
    if (ret >= 0 && (q->freed->len || q->freed_written->len || q->quarantine.bits)) {
        ret = qcow2_settle_co(q); /* settling itself may have freed something */
    }
    if (ret < 0) {
        return ret;
    }
    q->txn = g_new(Qcow2Txn, 1);
    *q->txn = (Qcow2Txn) {
        .l1 = g_memdup2(q->l1, (size_t)q->l1_size * 8),
        .reftable = g_memdup2(q->reftable, (size_t)q->reftable_size * 8),
        .l1_size = q->l1_size,
        .reftable_size = q->reftable_size,
        .l1_offset = q->l1_offset,
        .reftable_offset = q->reftable_offset,
        .snapshots_offset = q->snapshots_offset,
        .snapshots_bytes = q->snapshots_bytes,
        .free_hint = q->free_hint,
        .size = q->node->size,
    };
    return 0;
}

void qcow2_txn_reftable_placed(Qcow2 *q)
{
    q->txn->reftable_placed = true;
}

static void empty_cache(Qcow2 *q, Qcow2Cache *cache)
{
    unsigned limit = cache->limit;
    bool barrier = cache->needs_barrier;
    qcow2_cache_fini(cache);
    qcow2_cache_init(cache, q, limit, barrier);
}

void qcow2_txn_abort_co(Qcow2 *q)
{
    Qcow2Txn *txn = q->txn;

    empty_cache(q, &q->l2_cache);
    empty_cache(q, &q->refcount_cache);
    g_free(q->l1);
    g_free(q->l1_dirty);
    g_free(q->reftable);
    q->l1 = g_steal_pointer(&txn->l1);
    q->l1_size = txn->l1_size;
    q->l1_offset = txn->l1_offset;
    q->l1_dirty = g_new0(bool, q->l1_size / 64 + 1);
    q->l1_any_dirty = false;
    q->reftable = g_steal_pointer(&txn->reftable);
    q->reftable_size = txn->reftable_size;
    q->reftable_offset = txn->reftable_offset;
    q->reftable_dirty = false;
    q->snapshots_offset = txn->snapshots_offset;
    q->snapshots_bytes = txn->snapshots_bytes;
    q->free_hint = txn->free_hint;
    q->node->size = txn->size;
    q->compressed_next = 0;
    g_array_set_size(q->freed, 0);
    g_array_set_size(q->freed_written, 0);
    q->freed_clusters = 0;
    q->decompressed_entry = 0;
    qcow2_quarantine_clear(q);
    txn_free(txn);
    q->txn = NULL;
    qcow2_snapshots_free(q);
    Error *err = qcow2_snapshots_read_co(q);
    if (err) {
        q->broken = true;
        error_free(err);
    }
}

/* One table that would be written in place: a new place for it. The old one is still counted. */
static int place_table_co(Qcow2 *q, Qcow2Cache *cache, Qcow2Table *table, uint64_t *ret_new)
{
    uint64_t got;
    int ret = qcow2_alloc_co(q, 1, 0, ret_new, &got);
    if (ret >= 0) {
        table->placed = true;
        qcow2_cache_move(cache, table, *ret_new);
    }
    return ret;
}

static Qcow2Table *unplaced(const Qcow2Cache *cache)
{
    LIST_FOREACH (table, &cache->lru, Qcow2Table, lru) {
        if (table->dirty && !table->placed) {
            return table;
        }
    }
    return NULL;
}

/* Which entry of `entries` refers to it. */
static int64_t reference_to(const uint64_t *entries, uint32_t count, uint64_t offset)
{
    for (uint32_t i = 0; i < count; i++) {
        if ((entries[i] & ENTRY_OFFSET) == offset) {
            return i;
        }
    }
    return -1;
}

/* L2 tables of the active tree that were changed. Shared ones never are: their flags do not change
 * while they are shared, and what unshares them leaves one reference. */
int qcow2_txn_place_l2_co(Qcow2 *q)
{
    for (uint32_t i = 0; i < q->l1_size; i++) {
        uint64_t offset = q->l1[i] & ENTRY_OFFSET;
        Qcow2Table *table =
            offset ? g_hash_table_lookup(q->l2_cache.by_offset, &offset) : NULL;
        if (table && table->dirty && !table->placed) {
            uint64_t place;
            int ret = place_table_co(q, &q->l2_cache, table, &place);
            if (ret >= 0) {
                qcow2_l1_set(q, i, place | (q->l1[i] & ~ENTRY_OFFSET));
                ret = qcow2_refcount_add_co(q, offset, q->cluster_size, -1);
            }
            if (ret < 0) {
                return ret;
            }
        }
    }
    return unplaced(&q->l2_cache) ? -EIO : 0;
}

/* The L1 table, as it is then. */
static int place_l1_co(Qcow2 *q)
{
    uint64_t offset, old = q->l1_offset, bytes = (uint64_t)q->l1_size * 8;
    if (!q->l1_any_dirty || !bytes) {
        return 0;
    }
    int ret = qcow2_alloc_exact_co(q, qcow2_clusters(q, bytes), &offset);
    if (ret >= 0) {
        q->l1_offset = offset;
        memset(q->l1_dirty, 1, q->l1_size / 64 + 1);
        ret = qcow2_refcount_add_co(q, old, (uint64_t)q->txn->l1_size * 8, -1);
    }
    return ret;
}

static int place_reftable_co(Qcow2 *q)
{
    uint64_t offset, old = q->reftable_offset, bytes = (uint64_t)q->reftable_size * 8;
    if (q->txn->reftable_placed) {
        return 0;
    }
    int ret = qcow2_alloc_exact_co(q, qcow2_clusters(q, bytes), &offset);
    if (ret >= 0 && !q->txn->reftable_placed) { /* allocating may have made it grow */
        q->reftable_offset = offset;
        q->txn->reftable_placed = true;
        ret = qcow2_refcount_add_co(q, old, bytes, -1);
    } else if (ret >= 0) {
        ret = qcow2_refcount_add_co(q, offset, bytes, -1);
    }
    return ret;
}

/* Last, since every other allocation changes counts; its own may touch more blocks. */
static int place_refcounts_co(Qcow2 *q)
{
    int ret = place_reftable_co(q);
    for (Qcow2Table *block; ret >= 0 && (block = unplaced(&q->refcount_cache));) {
        uint64_t place, old = block->offset;
        int64_t at = reference_to(q->reftable, q->reftable_size, old);
        if (at < 0) {
            return -EIO;
        }
        ret = place_table_co(q, &q->refcount_cache, block, &place);
        if (ret >= 0) {
            q->reftable[at] = place; /* its count may be in itself */
            ret = qcow2_refcount_add_co(q, old, q->cluster_size, -1);
        }
    }
    return ret;
}

static int write_tables_co(Qcow2 *q)
{
    int ret = qcow2_cache_write_co(&q->refcount_cache);
    if (ret >= 0) {
        ret = qcow2_write_reftable_co(q);
    }
    if (ret >= 0) {
        ret = qcow2_cache_write_co(&q->l2_cache);
    }
    if (ret >= 0 && q->l1_any_dirty) {
        ret = qcow2_l1_write_co(q);
    }
    return ret >= 0 ? node_flush_co(q->file) : ret;
}

/* The moment of truth. When it fails nobody knows which state is on the disk. */
static int switch_header_co(Qcow2 *q)
{
    enum { FROM = H_SIZE };
    uint8_t fields[H_V2_LENGTH - FROM];

    st64_be(fields, q->node->size);
    st32_be(fields + H_CRYPT - FROM, q->crypt_method);
    st32_be(fields + H_L1_SIZE - FROM, q->l1_size);
    st64_be(fields + H_L1_OFFSET - FROM, q->l1_offset);
    st64_be(fields + H_REFTABLE_OFFSET - FROM, q->reftable_offset);
    st32_be(fields + H_REFTABLE_CLUSTERS - FROM,
            (uint32_t)((uint64_t)q->reftable_size * 8 >> q->cluster_bits));
    st32_be(fields + H_SNAPSHOTS - FROM, q->snapshots->len);
    st64_be(fields + H_SNAPSHOTS_OFFSET - FROM, q->snapshots_offset);
    int ret = node_pwrite_co(q->file, FROM, sizeof(fields), fields, 0);
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    q->broken |= ret < 0;
    return ret;
}

static void forget_places(Qcow2Cache *cache)
{
    LIST_FOREACH (table, &cache->lru, Qcow2Table, lru) {
        table->placed = false;
    }
}

int qcow2_txn_commit_co(Qcow2 *q)
{
    int ret = q->broken ? -EIO : qcow2_txn_place_l2_co(q);
    if (ret >= 0) {
        ret = place_l1_co(q);
    }
    if (ret >= 0) {
        ret = place_refcounts_co(q);
    }
    if (ret >= 0) {
        ret = write_tables_co(q);
    }
    if (ret < 0) {
        qcow2_txn_abort_co(q);
        return ret;
    }
    ret = switch_header_co(q);
    forget_places(&q->l2_cache);
    forget_places(&q->refcount_cache);
    txn_free(q->txn);
    q->txn = NULL;
    if (ret >= 0 && q->pass_discard && q->node->unmap) {
        qcow2_quarantine_discard_co(q);
        ret = node_flush_co(q->file);
    }
    qcow2_quarantine_clear(q);
    return ret;
}
