/* qcow2: what was freed, and the order in which metadata reaches the disk (the invariants stand in qcow2.h). */
#include "block/format/qcow2.h"

/* --- what was freed --- */

void qcow2_free_later(Qcow2 *q, uint64_t offset, uint64_t bytes, bool discard)
{
    if (!bytes) {
        return;
    }
    q->freed_clusters += qcow2_clusters(q, bytes);
    if (q->freed->len) {
        Qcow2Range *last = &g_array_index(q->freed, Qcow2Range, q->freed->len - 1);
        if (last->offset + last->bytes == offset && last->discard == discard &&
            !qcow2_in_cluster(q, offset)) {
            last->bytes += bytes;
            return;
        }
    }
    Qcow2Range range = { offset, bytes, discard };
    g_array_append_val(q->freed, range);
}

void qcow2_free_entry_later(Qcow2 *q, uint64_t entry, bool discard)
{
    if (entry & ENTRY_COMPRESSED) {
        uint64_t offset, bytes;
        qcow2_compressed_range(q, entry, &offset, &bytes);
        qcow2_free_later(q, offset, bytes, discard);
    } else if (qcow2_external(q)) {
        return; /* not counted; see qcow2_discard_external_co() */
    } else if (entry & ENTRY_OFFSET) {
        qcow2_free_later(q, entry & ENTRY_OFFSET, q->cluster_size, discard);
    }
}

/* Puts the clusters of the range that are free now into quarantine. */
static int quarantine_free_co(Qcow2 *q, const Qcow2Range *range)
{
    uint64_t end = (range->offset + range->bytes - 1) >> q->cluster_bits, count;
    for (uint64_t c = range->offset >> q->cluster_bits; c <= end; c++) {
        int ret = qcow2_get_refcount_co(q, c, &count);
        if (ret < 0) {
            return ret;
        }
        if (!count) {
            qcow2_quarantine_add(q, c);
        }
    }
    return 0;
}

/* What was freed and is known to be unreferenced on stable storage. */
static int apply_freed_co(Qcow2 *q)
{
    int ret = 0;
    if (q->freed_written->len) {
        qcow2_event_co(q, BLOCK_EVENT_CLUSTER_FREE);
    }
    bool pass = q->pass_discard && q->node->unmap;
    GArray *freed = q->freed_written;
    q->freed_written = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    for (guint i = 0; i < freed->len && ret >= 0; i++) {
        Qcow2Range *range = &g_array_index(freed, Qcow2Range, i);
        ret = qcow2_refcount_add_co(q, range->offset, range->bytes, -1);
        if (ret >= 0 && range->discard && pass) {
            ret = quarantine_free_co(q, range);
        }
    }
    g_array_free(freed, TRUE);
    qcow2_quarantine_discard_co(q);
    return ret;
}

/* --- write-back --- */

/* A flush of the file; with it, what was freed before the last write-back is free. */
static int barrier_co(Qcow2 *q)
{
    int ret = q->data != q->file ? node_flush_co(q->data) : 0;
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    if (ret >= 0) {
        qcow2_quarantine_clear(q);
    }
    return ret >= 0 && q->freed_written->len ? apply_freed_co(q) : ret;
}

static int write_counts_co(Qcow2 *q)
{
    int ret = qcow2_cache_write_co(&q->refcount_cache);
    if (ret >= 0 && q->reftable_dirty) {
        ret = barrier_co(q);
        if (ret >= 0) {
            ret = qcow2_write_reftable_co(q);
        }
    }
    return ret;
}

/* Lazy refcounts: from now on the counts on the disk may be wrong, and whoever opens the image
 * after a crash counts anew. */
static int set_dirty_co(Qcow2 *q, bool mapping)
{
    if (!mapping || (q->incompatible & INCOMPAT_DIRTY)) {
        return 0;
    }
    int ret = qcow2_write_header_u64_co(q, H_INCOMPATIBLE, q->incompatible | INCOMPAT_DIRTY);
    if (ret >= 0) {
        q->incompatible |= INCOMPAT_DIRTY;
        q->counts_behind = true;
    }
    return ret;
}

/* The counts on the disk are right again. */
static int clear_dirty_co(Qcow2 *q)
{
    uint64_t clean = q->incompatible & ~(uint64_t)INCOMPAT_DIRTY;
    if (!q->counts_behind || q->broken) {
        return 0;
    }
    int ret = qcow2_write_header_u64_co(q, H_INCOMPATIBLE, clean);
    if (ret >= 0) {
        q->incompatible = clean;
        q->counts_behind = false;
    }
    return ret;
}

int qcow2_write_back_locked_co(Qcow2 *q)
{
    int ret;
    if (q->broken) {
        return -EIO;
    }
    if (q->txn) {
        return 0;
    }
    bool mapping = q->l2_cache.dirty || q->l1_any_dirty;
    ret = q->lazy ? set_dirty_co(q, mapping) : write_counts_co(q);
    if (ret >= 0 && mapping) {
        ret = barrier_co(q); /* counts and data before tables */
    }
    if (ret >= 0) {
        ret = qcow2_cache_write_co(&q->l2_cache);
    }
    if (ret >= 0 && q->l1_any_dirty) {
        ret = node_flush_co(q->file);
        if (ret >= 0) {
            ret = qcow2_l1_write_co(q);
        }
    }
    if (ret >= 0 && q->freed->len) {
        g_array_append_vals(q->freed_written, q->freed->data, q->freed->len);
        g_array_set_size(q->freed, 0);
        q->freed_clusters = 0;
        q->node->write_generation++; /* so that the next flush gets to barrier_co() */
    }
    return ret;
}

int qcow2_give_back_co(Qcow2 *q)
{
    int ret = qcow2_write_back_locked_co(q);
    return ret >= 0 ? barrier_co(q) : ret;
}

int qcow2_settle_co(Qcow2 *q)
{
    bool lazy = q->lazy;
    if (q->txn) {
        return 0;
    }
    q->lazy = false;
    int ret = qcow2_give_back_co(q);
    if (ret >= 0) {
        ret = qcow2_write_back_locked_co(q);
    }
    if (ret >= 0) {
        ret = barrier_co(q);
    }
    if (ret >= 0) {
        ret = clear_dirty_co(q);
    }
    q->lazy = lazy;
    return ret;
}

int qcow2_write_back_co(BlockNode *node)
{
    Qcow2 *q = node->state;
    co_mutex_lock(&q->lock);
    int ret = qcow2_write_back_locked_co(q);
    co_mutex_unlock(&q->lock);
    return ret;
}
