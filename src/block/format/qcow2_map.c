/* From guest addresses to host addresses: L1, L2, subclusters. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "block/format/qcow2.h"
#include "block/node_priv.h"

static void emit_corrupted(Qcow2 *q, const char *text)
{
    BlockGraph *graph = q->node->graph;
    if (!graph->emit) {
        return;
    }
    Value *data = value_dict();
    value_put_str(data, "device", "");
    value_put_str(data, "node-name", q->node->name);
    value_put_str(data, "msg", text);
    value_put_bool(data, "fatal", !q->node->read_only);
    graph->emit(graph->hooks_opaque, "BLOCK_IMAGE_CORRUPTED", data);
}

/* From here on nothing is written any more; the image says so on the disk, if it has room for that.
 */
int qcow2_corrupt_co(Qcow2 *q, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!q->broken) {
        emit_corrupted(q, text);
        if (q->node->read_only) {
            log_printf("qcow2: Image is corrupt: %s; further non-fatal corruption events will be suppressed\n", text);
        } else {
            log_printf("qcow2: Marking image as corrupt: %s; further corruption events will be suppressed\n", text);
        }
    }
    if (!q->node->read_only && !q->broken) {
        q->broken = true;
        if (q->version >= 3 && !(q->incompatible & INCOMPAT_CORRUPT)) {
            q->incompatible |= INCOMPAT_CORRUPT;
            qcow2_write_header_u64_co(q, H_INCOMPATIBLE, q->incompatible);
        }
    }
    return -EIO;
}

void qcow2_compressed_range(const Qcow2 *q, uint64_t entry, uint64_t *ret_offset,
                            uint64_t *ret_bytes)
{
    unsigned size_bits = q->cluster_bits - 8, offset_bits = 62 - size_bits;
    uint64_t offset = entry & (BIT64(offset_bits) - 1);
    uint64_t sectors = ((entry >> offset_bits) & (BIT64(size_bits) - 1)) + 1;
    *ret_offset = offset;
    *ret_bytes = sectors * 512 - (offset & 511);
}

/* --- L2 tables --- */

uint64_t qcow2_l2_entry(const Qcow2 *q, const Qcow2Table *table, uint64_t index)
{
    return ld64_be(table->data + index * q->entry_size);
}

uint64_t qcow2_l2_bitmap(const Qcow2 *q, const Qcow2Table *table, uint64_t index)
{
    return q->subclusters ? ld64_be(table->data + index * q->entry_size + 8) : 0;
}

void qcow2_l2_set(Qcow2 *q, Qcow2Table *table, uint64_t index, uint64_t entry, uint64_t bitmap)
{
    st64_be(table->data + index * q->entry_size, entry);
    if (q->subclusters) {
        st64_be(table->data + index * q->entry_size + 8, bitmap);
    }
    qcow2_cache_dirty(&q->l2_cache, table);
}

static int check_table_offset_co(Qcow2 *q, uint64_t index, uint64_t offset)
{
    if (qcow2_in_cluster(q, offset)) {
        return qcow2_corrupt_co(q,
                                "L2 table offset %#" G_GINT64_MODIFIER "x unaligned (L1 index: %#" G_GINT64_MODIFIER "x)",
                                offset, index);
    }
    return 0;
}

int qcow2_l2_get_co(Qcow2 *q, uint64_t offset, Qcow2Table **ret)
{
    uint64_t index = qcow2_l1_index(q, offset);
    uint64_t at = index < q->l1_size ? q->l1[index] & ENTRY_OFFSET : 0;
    *ret = NULL;
    if (!at) {
        return 0;
    }
    int err = check_table_offset_co(q, index, at);
    return err < 0 ? err : qcow2_cache_get_co(&q->l2_cache, at, ret);
}

void qcow2_l1_set(Qcow2 *q, uint64_t index, uint64_t entry)
{
    q->l1[index] = entry;
    q->l1_dirty[index / 64] = true;
    q->l1_any_dirty = true;
    q->node->write_generation++;
}

int qcow2_l1_write_co(Qcow2 *q)
{
    uint8_t sector[512];
    for (uint32_t s = 0; s * 64 < q->l1_size; s++) {
        if (!q->l1_dirty[s]) {
            continue;
        }
        uint32_t count = MIN(64, q->l1_size - s * 64);
        for (uint32_t i = 0; i < count; i++) {
            st64_be(sector + i * 8, q->l1[s * 64 + i]);
        }
        qcow2_event_co(q, BLOCK_EVENT_L1_UPDATE);
        int ret = node_pwrite_co(q->file, q->l1_offset + s * 512, count * 8, sector, 0);
        if (ret < 0) {
            return ret;
        }
        q->l1_dirty[s] = false;
    }
    q->l1_any_dirty = false;
    return 0;
}

/* A table that no snapshot shares: made or copied if need be. */
int qcow2_l2_get_writable_co(Qcow2 *q, uint64_t offset, Qcow2Table **ret)
{
    uint64_t index = qcow2_l1_index(q, offset);
    if (index >= q->l1_size) {
        return -EINVAL;
    }
    uint64_t old = q->l1[index];
    if ((old & ENTRY_COPIED) && (old & ENTRY_OFFSET)) {
        return qcow2_l2_get_co(q, offset, ret);
    }
    int err = check_table_offset_co(q, index, old & ENTRY_OFFSET);
    if (err < 0) {
        return err;
    }
    uint64_t at, got;
    err = qcow2_alloc_co(q, 1, 0, &at, &got);
    if (err >= 0) {
        err = qcow2_cache_new_co(&q->l2_cache, at, ret);
    }
    if (err >= 0 && (old & ENTRY_OFFSET)) {
        Qcow2Table *from;
        qcow2_event_co(q, BLOCK_EVENT_L2_ALLOC_COW_READ);
        err = qcow2_cache_get_co(&q->l2_cache, old & ENTRY_OFFSET, &from);
        if (err >= 0) {
            memcpy((*ret)->data, from->data, q->cluster_size);
        }
    }
    if (err < 0) {
        return err; /* the cluster leaks; the image is consistent */
    }
    if (q->lazy) { /* so that only what the table will count is missing after a crash */
        err = qcow2_cache_write_co(&q->refcount_cache);
        if (err < 0) {
            return err;
        }
    }
    qcow2_event_co(q, BLOCK_EVENT_L2_ALLOC_WRITE);
    qcow2_l1_set(q, index, at | ENTRY_COPIED);
    if (old & ENTRY_OFFSET) {
        qcow2_free_later(q, old & ENTRY_OFFSET, q->cluster_size, false);
    }
    return 0;
}

/* --- lookup --- */

/* The kind of one mapping unit (a cluster, or a subcluster of it). */
static Qcow2Kind unit_kind(const Qcow2 *q, uint64_t entry, uint64_t bitmap, unsigned sub)
{
    if (entry & ENTRY_COMPRESSED) {
        return KIND_COMPRESSED;
    }
    if (q->subclusters) {
        bool allocated = bitmap >> sub & 1, zero = bitmap >> (32 + sub) & 1;
        return zero ? KIND_ZERO : allocated ? KIND_DATA : KIND_UNALLOCATED;
    }
    if (q->version >= 3 && (entry & ENTRY_ZERO)) {
        return KIND_ZERO;
    }
    return qcow2_has_cluster(q, entry) ? KIND_DATA : KIND_UNALLOCATED;
}

static int check_entry_co(Qcow2 *q, uint64_t offset, uint64_t entry, uint64_t bitmap)
{
    uint64_t host = entry & ENTRY_OFFSET;
    if (entry & ENTRY_COMPRESSED) {
        return 0;
    }
    if (qcow2_in_cluster(q, host)) {
        return qcow2_corrupt_co(q,
                                "the data cluster of guest offset %#" G_GINT64_MODIFIER
                                "x is not aligned (%#" G_GINT64_MODIFIER "x)",
                                offset, host);
    }
    if (qcow2_external(q) && qcow2_has_cluster(q, entry) && host != (offset & ~q->cluster_mask)) {
        return qcow2_corrupt_co(q,
                                "external data of guest offset %#" G_GINT64_MODIFIER
                                "x is said to be at %#" G_GINT64_MODIFIER "x",
                                offset, host);
    }
    if (q->subclusters && ((bitmap & bitmap >> 32 & UINT32_MAX) ||
                           (!qcow2_has_cluster(q, entry) && (uint32_t)bitmap))) {
        return qcow2_corrupt_co(q,
                                "the subclusters of guest offset %#" G_GINT64_MODIFIER
                                "x contradict each other "
                                "(%#" G_GINT64_MODIFIER "x)",
                                offset, bitmap);
    }
    return 0;
}

int qcow2_map_co(Qcow2 *q, uint64_t offset, uint64_t bytes, Qcow2Map *ret)
{
    Qcow2Table *table;
    /* A run ends with its table. */
    uint64_t table_bytes = q->l2_entries << q->cluster_bits;
    uint64_t left = MIN(bytes, table_bytes - offset % table_bytes);
    int err = qcow2_l2_get_co(q, offset, &table);

    if (err < 0) {
        return err;
    }
    *ret = (Qcow2Map) { .kind = KIND_UNALLOCATED, .bytes = left };
    if (!table) {
        return 0;
    }
    uint64_t index = qcow2_l2_index(q, offset), in = qcow2_in_cluster(q, offset), run = 0;
    while (run < left) {
        uint64_t entry = qcow2_l2_entry(q, table, index), bitmap = qcow2_l2_bitmap(q, table, index);
        err = check_entry_co(q, offset + run, entry, bitmap);
        if (err < 0) {
            return err;
        }
        unsigned sub = (unsigned)(in / q->unit_size);
        Qcow2Kind kind = unit_kind(q, entry, bitmap, sub);
        uint64_t host =
            qcow2_has_cluster(q, entry) && kind != KIND_COMPRESSED ? (entry & ENTRY_OFFSET) + in : 0;
        if (run == 0) {
            ret->kind = kind;
            ret->host = host;
            ret->entry = entry;
        } else if (kind != ret->kind || kind == KIND_COMPRESSED ||
                   (kind == KIND_DATA && host != ret->host + run) ||
                   (kind == KIND_ZERO && host != (ret->host ? ret->host + run : 0))) {
            break;
        }
        /* The rest of the cluster as far as it is of the same kind. */
        unsigned subs = q->subclusters ? QCOW2_SUBCLUSTERS : 1, end = sub + 1;
        while (end < subs && unit_kind(q, entry, bitmap, end) == kind) {
            end++;
        }
        run += end * q->unit_size - in;
        if (end < subs) {
            break;
        }
        in = 0;
        index++;
    }
    ret->bytes = MIN(run, left);
    return 0;
}

/* --- writes that are under way --- */

void qcow2_wait_allocations_co(Qcow2 *q, uint64_t first, uint64_t count)
{
restart:
    LIST_FOREACH (a, &q->allocations, Qcow2Allocation, node) {
        if (first < a->first + a->count && a->first < first + count) {
            co_mutex_unlock(&q->lock);
            co_queue_wait(&a->waiters);
            co_mutex_lock(&q->lock);
            goto restart;
        }
    }
}
