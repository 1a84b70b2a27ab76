/*
 * Reading and writing of guest data.
 *
 * A write goes in place where the cluster is the image's own (ENTRY_COPIED) and holds data there.
 * Anything else is given a place first: as many clusters as possible in one run, the parts of the
 * first and last mapping unit that the guest does not write are filled in (copied from what was
 * there), and the L2 entries follow when the data is written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2.h"

/* Bounds the clusters that one allocating step takes, and so how long others wait for it. */
enum { MAX_STEP = 8 << 20 };

/* --- reading --- */

static int read_backing_co(Qcow2 *q, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    if (!q->node->backing) {
        block_vec_zero(vec, at, (size_t)bytes);
        return 0;
    }
    qcow2_event_co(q, BLOCK_EVENT_READ_BACKING_AIO);
    return node_preadv_co(q->node->backing->node, offset, bytes, vec, at);
}

static int read_run_co(Qcow2 *q, const Qcow2Map *map, uint64_t offset, const BlockVec *vec,
                       size_t at)
{
    switch (map->kind) {
    case KIND_DATA:
        qcow2_event_co(q, BLOCK_EVENT_READ_AIO);
        return q->crypt ? qcow2_read_encrypted_co(q, offset, map->host, map->bytes, vec, at)
                        : node_preadv_co(q->data, map->host, map->bytes, vec, at);
    case KIND_COMPRESSED:
        return qcow2_read_compressed_co(q, map->entry, qcow2_in_cluster(q, offset), map->bytes, vec,
                                        at);
    case KIND_UNALLOCATED:
        return read_backing_co(q, offset, map->bytes, vec, at);
    default:
        block_vec_zero(vec, at, (size_t)map->bytes);
        return 0;
    }
}

int qcow2_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                    size_t at)
{
    Qcow2 *q = node->state;
    while (bytes) {
        Qcow2Map map;
        co_mutex_lock(&q->lock);
        int ret = qcow2_map_co(q, offset, bytes, &map);
        co_mutex_unlock(&q->lock);
        if (ret >= 0) {
            ret = read_run_co(q, &map, offset, vec, at);
        }
        if (ret < 0) {
            return ret;
        }
        offset += map.bytes;
        bytes -= map.bytes;
        at += (size_t)map.bytes;
    }
    return 0;
}

/* --- writing: what a step does --- */

typedef struct Step {
    uint64_t offset, bytes; /* of the guest's data */
    uint64_t host;          /* of the data */
    bool allocates;
    /* With allocates: */
    Qcow2Allocation clusters;
    uint64_t host_cluster;         /* of the first cluster */
    bool keeps_place;              /* the clusters were there, only their units are new */
    uint64_t fill_head, fill_tail; /* bytes before and behind the data that must be filled in */
    bool fill_zero;                /* with zeroes rather than with what was there */
} Step;

/* Whether the cluster may be written where it is, once its units are marked. */
static bool has_own_place(const Qcow2 *q, uint64_t entry)
{
    return !(entry & ENTRY_COMPRESSED) && (entry & ENTRY_COPIED) && qcow2_has_cluster(q, entry);
}

/* Whether a cluster of zeroes with a place of its own, right behind that of the data, is written next: both take one
 * write then, as an allocation that keeps its places. */
static bool goes_on_with_zeroes(const Qcow2 *q, const Step *step, const Qcow2Map *data, const Qcow2Table *table,
                                uint64_t covered)
{
    uint64_t next = step->offset + covered;
    if (q->subclusters || covered != data->bytes || covered >= step->bytes || !qcow2_l2_index(q, next)) {
        return false;
    }
    uint64_t entry = qcow2_l2_entry(q, table, qcow2_l2_index(q, next));
    return has_own_place(q, entry) && (entry & ENTRY_OFFSET) == data->host + covered;
}

/* In place: as far as own data goes on contiguously. False when the first unit is not of that sort.
 */
static int plan_in_place_co(Qcow2 *q, Step *step, bool *ret_planned)
{
    Qcow2Map map;
    Qcow2Table *table;
    int ret = qcow2_map_co(q, step->offset, step->bytes, &map);

    *ret_planned = false;
    if (ret < 0 || map.kind != KIND_DATA || !has_own_place(q, map.entry)) {
        return ret;
    }
    ret = qcow2_l2_get_co(q, step->offset, &table);
    if (ret < 0) {
        return ret;
    }
    if (!(q->l1[qcow2_l1_index(q, step->offset)] & ENTRY_COPIED)) {
        return 0; /* the table is shared, so its flags speak for another */
    }
    /* The map does not look at ENTRY_COPIED of the clusters behind the first. */
    uint64_t index = qcow2_l2_index(q, step->offset),
             covered = q->cluster_size - qcow2_in_cluster(q, step->offset);
    while (covered < map.bytes && has_own_place(q, qcow2_l2_entry(q, table, ++index))) {
        covered += q->cluster_size;
    }
    if (goes_on_with_zeroes(q, step, &map, table, covered)) {
        return 0;
    }
    step->bytes = MIN(map.bytes, covered);
    step->host = map.host;
    *ret_planned = true;
    return 0;
}

/* How many clusters from the first on need a place of the same sort. */
static int count_alike_co(Qcow2 *q, uint64_t offset, uint64_t max, bool own_place,
                          uint64_t *ret_count, uint64_t *ret_entry, bool *ret_had_data)
{
    Qcow2Table *table;
    uint64_t index = qcow2_l2_index(q, offset);
    int ret = qcow2_l2_get_co(q, offset, &table);

    if (ret < 0) {
        return ret;
    }
    bool shared_table = table && !(q->l1[qcow2_l1_index(q, offset)] & ENTRY_COPIED);
    *ret_entry = table && !shared_table ? qcow2_l2_entry(q, table, index) : 0;
    *ret_had_data = table && (shared_table || (*ret_entry & (ENTRY_COMPRESSED | ENTRY_OFFSET)));
    max = MIN(max, q->l2_entries - index);
    uint64_t count = 1;
    for (; count < max && table; count++) {
        uint64_t entry = qcow2_l2_entry(q, table, index + count);
        if (!shared_table && has_own_place(q, entry) != own_place) {
            break;
        }
        if (own_place &&
            (entry & ENTRY_OFFSET) != (*ret_entry & ENTRY_OFFSET) + (count << q->cluster_bits)) {
            break;
        }
        *ret_had_data |= (entry & (ENTRY_COMPRESSED | ENTRY_OFFSET)) != 0;
    }
    *ret_count = table ? count : max;
    return 0;
}

/*
 * What must be filled in around the data. In clusters that keep their place, and in new ones that
 * replace nothing, the unit is the mapping unit; where old data is replaced it is the whole
 * cluster.
 */
static void plan_fill(Qcow2 *q, Step *step, uint64_t fresh_before, bool had_data)
{
    uint64_t unit = step->keeps_place || !had_data ? q->unit_size : q->cluster_size;
    uint64_t end = step->offset + step->bytes;

    step->fill_head = step->offset % unit;
    step->fill_tail = (unit - end % unit) % unit;
    step->fill_zero = false;
    if (!step->keeps_place && !had_data && !q->node->backing) {
        step->fill_zero = true;
        if (step->host_cluster >= fresh_before && q->file->extends && !qcow2_external(q) && !q->crypt) {
            step->fill_head = step->fill_tail = 0; /* the file has zeroes there */
        }
    }
}

static int keep_data_around_co(Qcow2 *q, Step *step)
{
    Qcow2Map first, last;
    int ret = qcow2_map_co(q, step->offset, 1, &first);
    if (ret >= 0) {
        ret = qcow2_map_co(q, step->offset + step->bytes - 1, 1, &last);
    }
    if (ret >= 0 && first.kind == KIND_DATA) {
        step->fill_head = 0;
    }
    if (ret >= 0 && last.kind == KIND_DATA) {
        step->fill_tail = 0;
    }
    return ret;
}

static int plan_allocation_co(Qcow2 *q, Step *step)
{
    uint64_t in = qcow2_in_cluster(q, step->offset), entry, count;
    uint64_t wanted_clusters = qcow2_clusters(q, MIN(in + step->bytes, MAX_STEP));
    bool had_data, own;
    Qcow2Map map;

    int ret = qcow2_map_co(q, step->offset, 1, &map);
    if (ret < 0) {
        return ret;
    }
    own = has_own_place(q, map.entry) && (q->l1[qcow2_l1_index(q, step->offset)] & ENTRY_COPIED);
    ret = count_alike_co(q, step->offset, wanted_clusters, own, &count, &entry, &had_data);
    if (ret < 0) {
        return ret;
    }
    uint64_t fresh_before = q->fresh;
    step->keeps_place = own;
    if (own) {
        step->host_cluster = entry & ENTRY_OFFSET;
    } else if (qcow2_external(q)) {
        step->host_cluster = step->offset - in;
    } else {
        ret = qcow2_alloc_co(q, count, 0, &step->host_cluster, &count);
        if (ret < 0) {
            return ret;
        }
    }
    step->bytes = MIN(step->bytes, (count << q->cluster_bits) - in);
    step->host = step->host_cluster + in;
    step->allocates = true;
    step->clusters.first = step->offset >> q->cluster_bits;
    step->clusters.count = count;
    plan_fill(q, step, fresh_before, had_data);
    if (own && !q->subclusters) { /* what surrounds the guest's data in clusters of data is there already */
        ret = keep_data_around_co(q, step);
        if (ret < 0) {
            return ret;
        }
    }
    if (own && q->subclusters && step->bytes > q->cluster_size - in) {
        /* Units in the middle may be of any sort: a cluster at a time keeps it simple. */
        step->bytes = q->cluster_size - in;
        step->clusters.count = 1;
        plan_fill(q, step, fresh_before, had_data);
    }
    co_queue_init(&step->clusters.waiters);
    list_append(&q->allocations, &step->clusters.node);
    return 0;
}

/* --- writing: the data --- */

/* What the guest would read there now, or zeroes. */
static int read_fill_co(Qcow2 *q, const Step *step, uint64_t offset, uint64_t bytes, void *buffer)
{
    uint64_t inside = offset < q->node->size ? MIN(bytes, q->node->size - offset) : 0;
    memset((char *)buffer + inside, 0, (size_t)(bytes - inside));
    if (step->fill_zero) {
        memset(buffer, 0, (size_t)inside);
        return 0;
    }
    BLOCK_VEC_BUFFER(vec, buffer, (size_t)inside);
    return inside ? qcow2_preadv_co(q->node, offset, inside, &vec, 0) : 0;
}

static int write_data_co(Qcow2 *q, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return q->crypt ? qcow2_write_encrypted_co(q, guest, host, bytes, vec, at)
                    : node_pwritev_co(q->data, host, bytes, vec, at, 0);
}

/* [head][the guest's data][tail] in one write. */
static int write_filled_co(Qcow2 *q, const Step *step, const BlockVec *vec, size_t at)
{
    size_t align = MAX(q->data->limits.memory_align, 64);
    char *head =
        step->fill_head ? aligned_alloc(align, ALIGN_UP((size_t)step->fill_head, align)) : NULL;
    char *tail =
        step->fill_tail ? aligned_alloc(align, ALIGN_UP((size_t)step->fill_tail, align)) : NULL;
    g_autofree struct iovec *iov = g_new(struct iovec, vec->count + 2);
    unsigned count = 0;
    size_t covered;
    int ret = (step->fill_head && !head) || (step->fill_tail && !tail) ? -ENOMEM : 0;

    if ((head || tail) && !step->fill_zero) {
        qcow2_event_co(q, BLOCK_EVENT_COW_READ);
    }
    if (ret >= 0 && head) {
        ret = read_fill_co(q, step, step->offset - step->fill_head, step->fill_head, head);
        iov[count++] = (struct iovec) { head, (size_t)step->fill_head };
    }
    count += block_vec_slice(vec, at, (size_t)step->bytes, iov + count, vec->count, &covered);
    if (ret >= 0 && tail) {
        ret = read_fill_co(q, step, step->offset + step->bytes, step->fill_tail, tail);
        iov[count++] = (struct iovec) { tail, (size_t)step->fill_tail };
    }
    if (ret >= 0) {
        BlockVec whole = { iov, count };
        if (head || tail) {
            qcow2_event_co(q, BLOCK_EVENT_COW_WRITE);
        }
        qcow2_event_co(q, BLOCK_EVENT_WRITE_AIO);
        ret = write_data_co(q, step->offset - step->fill_head, step->host - step->fill_head,
                            step->fill_head + step->bytes + step->fill_tail, &whole, 0);
    }
    free(head);
    free(tail);
    return ret;
}

/* --- writing: the tables --- */

static uint64_t unit_mask(const Qcow2 *q, uint64_t from, uint64_t to)
{
    unsigned first = (unsigned)(from / q->unit_size), last = (unsigned)((to - 1) / q->unit_size);
    return BITS64(last, first);
}

static int link_clusters_co(Qcow2 *q, const Step *step)
{
    uint64_t guest = step->clusters.first << q->cluster_bits;
    uint64_t from = step->offset - step->fill_head,
             to = step->offset + step->bytes + step->fill_tail;
    Qcow2Table *table;
    int ret = qcow2_l2_get_writable_co(q, guest, &table);

    for (uint64_t i = 0; ret >= 0 && i < step->clusters.count; i++, guest += q->cluster_size) {
        uint64_t index = qcow2_l2_index(q, guest),
                 host = step->host_cluster + (i << q->cluster_bits);
        uint64_t old = qcow2_l2_entry(q, table, index), bitmap = 0;
        if (q->subclusters) {
            uint64_t mask =
                unit_mask(q, MAX(from, guest) - guest, MIN(to, guest + q->cluster_size) - guest);
            bitmap = old & ENTRY_COMPRESSED ? 0 : qcow2_l2_bitmap(q, table, index);
            bitmap = (bitmap | mask) & ~(mask << 32);
        }
        qcow2_l2_set(q, table, index, host | ENTRY_COPIED, bitmap);
        if (!step->keeps_place) {
            qcow2_free_entry_later(q, old, false);
        }
    }
    return ret;
}

static int finish_allocation_co(Qcow2 *q, Step *step, int ret)
{
    co_mutex_lock(&q->lock);
    if (ret >= 0) {
        ret = q->broken ? -EIO : link_clusters_co(q, step);
    }
    if (ret < 0 && !step->keeps_place && !q->broken && !qcow2_external(q)) { /* nobody refers to them */
        qcow2_refcount_add_co(q, step->host_cluster, step->clusters.count << q->cluster_bits, -1);
    }
    list_remove(&step->clusters.node);
    co_mutex_unlock(&q->lock);
    co_queue_wake_all(&step->clusters.waiters);
    return ret;
}

static int plan_step_co(Qcow2 *q, Step *step)
{
    bool in_place;

    co_mutex_lock(&q->lock);
    qcow2_wait_allocations_co(q, step->offset >> q->cluster_bits,
                              qcow2_clusters(q, qcow2_in_cluster(q, step->offset) + step->bytes));
    int ret = q->broken ? -EIO : plan_in_place_co(q, step, &in_place);
    if (ret >= 0 && !in_place) { /* the table comes before its clusters on the disk: a later shrink of the file hits data first */
        Qcow2Table *table;
        ret = qcow2_l2_get_writable_co(q, step->offset, &table);
    }
    if (ret >= 0 && !in_place) {
        ret = plan_allocation_co(q, step);
    }
    co_mutex_unlock(&q->lock);
    return ret;
}

int qcow2_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                     size_t at, unsigned flags)
{
    Qcow2 *q = node->state;

    if (flags & REQ_COMPRESSED) {
        return qcow2_write_compressed_co(q, offset, bytes, vec, at);
    }
    while (bytes) {
        Step step = { .offset = offset, .bytes = bytes };
        int ret = plan_step_co(q, &step);
        if (ret < 0) {
            return ret;
        }
        if (step.allocates) {
            ret = finish_allocation_co(q, &step, write_filled_co(q, &step, vec, at));
        } else {
            qcow2_event_co(q, BLOCK_EVENT_WRITE_AIO);
            ret = write_data_co(q, step.offset, step.host, step.bytes, vec, at);
        }
        if (ret < 0) {
            return ret;
        }
        offset += step.bytes;
        bytes -= step.bytes;
        at += (size_t)step.bytes;
    }
    return 0;
}

/* --- zeroes, discard --- */

/* Calls fn for each cluster of the range, whose table is writable. Lock held. */
typedef int EntryFn(Qcow2 *q, Qcow2Table *table, uint64_t index, void *opaque);

static int for_clusters_co(Qcow2 *q, uint64_t offset, uint64_t bytes, bool skip_empty, EntryFn *fn,
                           void *opaque)
{
    uint64_t cluster = offset >> q->cluster_bits, end = cluster + qcow2_clusters(q, bytes);
    int ret = q->broken ? -EIO : 0;

    while (cluster < end && ret >= 0) {
        uint64_t guest = cluster << q->cluster_bits;
        uint64_t stop = MIN(end, (cluster / q->l2_entries + 1) * q->l2_entries);
        uint64_t l1_index = qcow2_l1_index(q, guest);
        if (skip_empty && (l1_index >= q->l1_size || !(q->l1[l1_index] & ENTRY_OFFSET))) {
            cluster = stop;
            continue;
        }
        qcow2_wait_allocations_co(q, cluster, stop - cluster);
        Qcow2Table *table;
        ret = qcow2_l2_get_writable_co(q, guest, &table);
        for (; cluster < stop && ret >= 0; cluster++) {
            ret = fn(q, table, cluster % q->l2_entries, opaque);
        }
    }
    return ret;
}

static int zero_entry(Qcow2 *q, Qcow2Table *table, uint64_t index, void *opaque)
{
    bool unmap = *(bool *)opaque;
    uint64_t old = qcow2_l2_entry(q, table, index);
    bool keep = !unmap && has_own_place(q, old);
    uint64_t entry = keep ? (old & (ENTRY_OFFSET | ENTRY_COPIED)) : 0, bitmap = 0;

    if (q->subclusters) {
        bitmap = (uint64_t)UINT32_MAX << 32;
    } else {
        entry |= ENTRY_ZERO;
    }
    if (entry != old || bitmap != qcow2_l2_bitmap(q, table, index)) {
        qcow2_l2_set(q, table, index, entry, bitmap);
        if (!keep) {
            qcow2_free_entry_later(q, old, true);
        }
    }
    return 0;
}

/* Version 2 has no zero clusters: what is not there reads as zeroes, when there is no backing node.
 */
static int zero_v2_co(Qcow2 *q, uint64_t offset, uint64_t bytes, unsigned flags)
{
    if (q->node->backing) {
        return -ENOTSUP;
    }
    bool whole = !qcow2_in_cluster(q, offset) &&
                 (!qcow2_in_cluster(q, bytes) || offset + bytes == q->node->size);
    if (whole && (flags & REQ_MAY_UNMAP)) {
        return qcow2_unmap_co(q, offset, bytes, true);
    }
    while (bytes) { /* only where nothing is allocated */
        Qcow2Map map;
        co_mutex_lock(&q->lock);
        int ret = qcow2_map_co(q, offset, bytes, &map);
        co_mutex_unlock(&q->lock);
        if (ret < 0) {
            return ret;
        }
        if (map.kind != KIND_UNALLOCATED) {
            return -ENOTSUP;
        }
        offset += map.bytes;
        bytes -= map.bytes;
    }
    return 0;
}

/* The external file follows: always where it must be readable by itself, else as a favour. */
static int clear_external_co(Qcow2 *q, uint64_t offset, uint64_t bytes, bool zero, bool unmap)
{
    if (!qcow2_external(q) || offset >= q->data->size) {
        return 0;
    }
    bytes = MIN(bytes, q->data->size - offset);
    if (qcow2_raw_external(q)) {
        return zero ? node_write_zeroes_co(q->data, offset, bytes, unmap ? REQ_MAY_UNMAP : 0) : 0;
    }
    if (unmap && q->pass_discard && q->node->unmap) {
        node_discard_co(q->data, offset, bytes);
    }
    return 0;
}

/* 1: the image itself has no data in the range, which is part of one cluster. */
static int has_no_data_co(Qcow2 *q, uint64_t offset, uint64_t bytes, bool *ret_zero)
{
    Qcow2Map map;
    co_mutex_lock(&q->lock);
    int ret = qcow2_map_co(q, offset, bytes, &map);
    co_mutex_unlock(&q->lock);
    *ret_zero = map.kind == KIND_ZERO;
    return ret < 0 ? ret : map.bytes >= bytes && (map.kind == KIND_UNALLOCATED || map.kind == KIND_ZERO);
}

/* Whether the range, a part of one cluster, reads as zeroes. */
static int reads_zero_co(Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    BlockStatus status;
    unsigned depth;
    bool zero;

    if (offset >= q->node->size || !bytes) {
        return 1;
    }
    bytes = MIN(bytes, q->node->size - offset);
    int ret = has_no_data_co(q, offset, bytes, &zero);
    if (ret <= 0 || zero || !q->node->backing) {
        return ret;
    }
    while (bytes) {
        ret = node_status_above_co(q->node->backing->node, NULL, offset, bytes, &status, &depth);
        if (ret < 0 || !(status.flags & STATUS_ZERO)) {
            return MIN(ret, 0);
        }
        offset += status.bytes;
        bytes -= status.bytes;
    }
    return 1;
}

/* A part of a cluster becomes all of it when the rest reads as zeroes: nothing needs to be written then. Nobody else is in
 * the cluster meanwhile. */
static int extend_zeroes_co(Qcow2 *q, uint64_t *offset, uint64_t *bytes)
{
    uint64_t head = qcow2_in_cluster(q, *offset), end = *offset + *bytes;
    uint64_t tail = end == q->node->size ? 0 : (q->cluster_size - qcow2_in_cluster(q, end)) & q->cluster_mask;
    if (!head && !tail) {
        return 0;
    }
    int ret = reads_zero_co(q, *offset - head, head);
    if (ret > 0) {
        ret = reads_zero_co(q, end, tail);
    }
    if (ret > 0) {
        bool zero;
        ret = has_no_data_co(q, *offset, MIN(*bytes, q->cluster_size - head), &zero);
    }
    if (ret <= 0) {
        return ret < 0 ? ret : -ENOTSUP;
    }
    *offset -= head;
    *bytes += head + tail;
    return 0;
}

int qcow2_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Qcow2 *q = node->state;
    bool unmap = (flags & REQ_MAY_UNMAP) != 0;

    if (q->version < 3) {
        return zero_v2_co(q, offset, bytes, flags);
    }
    int ret = extend_zeroes_co(q, &offset, &bytes);
    if (ret < 0) {
        return ret;
    }
    co_mutex_lock(&q->lock);
    ret = for_clusters_co(q, offset, bytes, false, zero_entry, &unmap);
    co_mutex_unlock(&q->lock);
    return ret >= 0 ? clear_external_co(q, offset, bytes, true, unmap) : ret;
}

/* How clusters are given back. */
typedef struct Unmap {
    bool full;   /* the backing node shows through again; else they read as zeroes */
    bool covers; /* also where only the backing node has something */
} Unmap;

static int unmap_entry(Qcow2 *q, Qcow2Table *table, uint64_t index, void *opaque)
{
    const Unmap *unmap = opaque;
    uint64_t old = qcow2_l2_entry(q, table, index), old_bitmap = qcow2_l2_bitmap(q, table, index);
    uint64_t entry = 0, bitmap = 0;

    if (!unmap->full) { /* reads as zeroes from now on, whatever is put below later */
        if (!old && !old_bitmap && !unmap->covers) {
            return 0; /* nothing here to give back */
        }
        if (q->node->backing || q->version >= 3) {
            entry = q->subclusters || q->version < 3 ? 0 : ENTRY_ZERO;
            bitmap = q->subclusters ? (uint64_t)UINT32_MAX << 32 : 0;
        }
    }
    if (entry == old && bitmap == old_bitmap) {
        return 0;
    }
    qcow2_l2_set(q, table, index, entry, bitmap);
    qcow2_free_entry_later(q, old, true);
    return 0;
}

static int unmap_range_co(Qcow2 *q, uint64_t offset, uint64_t bytes, Unmap unmap)
{
    co_mutex_lock(&q->lock);
    int ret = for_clusters_co(q, offset, bytes, !unmap.covers, unmap_entry, &unmap);
    co_mutex_unlock(&q->lock);
    return ret;
}

int qcow2_unmap_co(Qcow2 *q, uint64_t offset, uint64_t bytes, bool full)
{
    return unmap_range_co(q, offset, bytes, (Unmap) { .full = full });
}

/* What was discarded reads as zeroes, not as what the backing node has there; behind its end nothing needs to say so. */
static int discard_range_co(Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    uint64_t below = q->node->backing ? ALIGN_UP(q->node->backing->node->size, q->cluster_size) : 0;
    uint64_t covered = offset < below ? MIN(bytes, below - offset) : 0;
    int ret = covered ? unmap_range_co(q, offset, covered, (Unmap) { .covers = true }) : 0;
    return ret >= 0 && bytes > covered ? unmap_range_co(q, offset + covered, bytes - covered, (Unmap) { 0 }) : ret;
}

int qcow2_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2 *q = node->state;
    if (q->version < 3 && node->backing) {
        return -ENOTSUP; /* could only uncover old data */
    }
    if (qcow2_raw_external(q)) { /* what reads as zeroes here must do so there */
        return qcow2_write_zeroes_co(node, offset, bytes, REQ_MAY_UNMAP);
    }
    int ret = discard_range_co(q, offset, bytes);
    return ret >= 0 ? clear_external_co(q, offset, bytes, false, true) : ret;
}

/* --- for version 2 --- */

/* Zero clusters become what version 2 knows: nothing, or written zeroes. */
int qcow2_expand_zeroes_co(Qcow2 *q)
{
    uint64_t end = q->l1_size * q->l2_entries << q->cluster_bits;
    g_autofree char *zeroes = g_try_malloc0(q->cluster_size);
    int ret = zeroes ? 0 : -ENOMEM;

    for (uint64_t at = 0; at < end && ret >= 0;) {
        Qcow2Map map;
        co_mutex_lock(&q->lock);
        ret = qcow2_map_co(q, at, end - at, &map);
        co_mutex_unlock(&q->lock);
        if (ret >= 0 && map.kind == KIND_ZERO) {
            map.bytes = q->cluster_size;
            BLOCK_VEC_BUFFER(vec, zeroes, (size_t)q->cluster_size);
            ret = q->node->backing_filename ? qcow2_pwritev_co(q->node, at, map.bytes, &vec, 0, 0)
                                            : qcow2_unmap_co(q, at, map.bytes, true);
        }
        at += map.bytes;
    }
    return ret;
}

/* --- preallocation --- */

typedef struct Prealloc {
    uint64_t host, clusters; /* what is allocated and not yet placed */
    uint64_t left;           /* clusters to come */
    uint64_t end;            /* of the range */
} Prealloc;

static int prealloc_entry(Qcow2 *q, Qcow2Table *table, uint64_t index, void *opaque)
{
    Prealloc *p = opaque;
    if ((qcow2_l2_entry(q, table, index) & ENTRY_COMPRESSED) ||
        qcow2_has_cluster(q, qcow2_l2_entry(q, table, index))) {
        p->left--;
        return 0;
    }
    if (qcow2_external(q)) {
        p->host = p->end - (p->left << q->cluster_bits);
        p->clusters = 1;
    } else if (!p->clusters) {
        int ret =
            qcow2_alloc_co(q, MIN(p->left, MAX_STEP >> q->cluster_bits), 0, &p->host, &p->clusters);
        if (ret < 0) {
            return ret;
        }
    }
    qcow2_l2_set(q, table, index, p->host | ENTRY_COPIED, q->subclusters ? UINT32_MAX : 0);
    p->host += q->cluster_size;
    p->clusters--;
    p->left--;
    return 0;
}

int qcow2_preallocate_co(Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    Prealloc p = { .left = qcow2_clusters(q, bytes) };
    p.end = offset + (p.left << q->cluster_bits);
    co_mutex_lock(&q->lock);
    int ret = for_clusters_co(q, offset, bytes, false, prealloc_entry, &p);
    if (p.clusters && !q->broken) {
        qcow2_refcount_add_co(q, p.host, p.clusters << q->cluster_bits, -1);
    }
    co_mutex_unlock(&q->lock);
    return ret;
}

/* --- status --- */

/* Preallocated clusters may be holes of the file; asking about each is only worth it then. Of an image's tables, one of each
 * kind may be nearly empty without that. */
static bool has_many_holes(Qcow2 *q)
{
    enum { TABLES = 5 }; /* header, refcount table and block, L1 and L2 table */
    if (q->holes == HOLES_UNKNOWN) {
        uint64_t real = node_allocated_size(q->data), tables = qcow2_external(q) ? 0 : MIN(TABLES * q->cluster_size, MiB);
        bool many = real != UINT64_MAX && real + tables < q->data->size - q->data->size / 10;
        q->holes = many ? HOLES_MANY : HOLES_FEW;
    }
    return q->holes == HOLES_MANY;
}

int qcow2_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    Qcow2 *q = node->state;
    Qcow2Map map;

    co_mutex_lock(&q->lock);
    int ret = qcow2_map_co(q, offset, bytes, &map);
    uint64_t total = ret < 0 ? 0 : map.bytes;
    while (ret >= 0 && total < bytes) { /* runs go on over table borders */
        Qcow2Map next;
        ret = qcow2_map_co(q, offset + total, bytes - total, &next);
        if (ret < 0 || next.kind != map.kind ||
            (map.kind == KIND_DATA && next.host != map.host + total) ||
            (map.kind == KIND_ZERO && (map.host != 0) != (next.host != 0)) ||
            (map.kind == KIND_ZERO && map.host && next.host != map.host + total)) {
            break;
        }
        total += next.bytes;
    }
    co_mutex_unlock(&q->lock);
    if (ret < 0) {
        return ret;
    }
    static const unsigned flags[] = {
        [KIND_UNALLOCATED] = 0,
        [KIND_ZERO] = STATUS_ZERO | STATUS_ALLOCATED,
        [KIND_DATA] = STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET,
        [KIND_COMPRESSED] = STATUS_DATA | STATUS_ALLOCATED | STATUS_COMPRESSED,
    };
    *ret_status = (BlockStatus) { .flags = flags[map.kind], .bytes = total };
    if (q->crypt) { /* what the file has there is not what the guest sees */
        ret_status->flags &= ~STATUS_OFFSET;
        return 0;
    }
    if (map.kind == KIND_DATA && has_many_holes(q)) {
        ret_status->flags |= STATUS_RECURSE;
    }
    if (map.kind == KIND_DATA || (map.kind == KIND_ZERO && map.host)) {
        ret_status->flags |= STATUS_OFFSET;
        ret_status->map = map.host;
        ret_status->file = q->data;
    }
    return 0;
}
