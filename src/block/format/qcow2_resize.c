/* qcow2: growing, shrinking, preallocation, emptying, the L1 table, and how much room an image will need. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "block/crypt/crypt.h"
#include "block/format/qcow2.h"

/* --- growing the L1 table --- */

static Error *move_l1_co(Qcow2 *q, uint64_t *table, uint32_t entries, uint64_t offset)
{
    g_autofree uint8_t *data = g_malloc(MAX((size_t)entries * 8, 1));
    uint8_t fields[12];

    for (uint32_t i = 0; i < entries; i++) {
        st64_be(data + i * 8, table[i]);
    }
    int ret = qcow2_write_back_locked_co(q); /* also the new refcounts */
    if (ret >= 0) {
        qcow2_event_co(q, BLOCK_EVENT_L1_GROW_WRITE_TABLE);
        ret = node_pwrite_co(q->file, offset, (uint64_t)entries * 8, data, 0);
    }
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    st32_be(fields, entries);
    st64_be(fields + 4, offset);
    if (ret >= 0) {
        qcow2_event_co(q, BLOCK_EVENT_L1_GROW_ACTIVATE_TABLE);
        ret = node_pwrite_co(q->file, H_L1_SIZE, sizeof(fields), fields, 0);
    }
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    return ret < 0 ? error_new_errno(ret, "Could not write the L1 table") : NULL;
}

Error *qcow2_grow_l1_co(Qcow2 *q, uint64_t entries)
{
    uint64_t offset;

    if (entries <= q->l1_size) {
        return NULL;
    }
    if (entries * 8 > QCOW2_MAX_L1_BYTES) {
        return error_new("The image size is too large for file format 'qcow2' (try using a larger "
                         "cluster size)");
    }
    qcow2_event_co(q, BLOCK_EVENT_L1_GROW_ALLOC_TABLE);
    int ret = qcow2_alloc_exact_co(q, qcow2_clusters(q, entries * 8), &offset);
    if (ret < 0) {
        return error_new_errno(ret, "Could not allocate space for the L1 table");
    }
    g_autofree uint64_t *table = g_new0(uint64_t, entries);
    memcpy(table, q->l1, (size_t)q->l1_size * 8);
    TRY(move_l1_co(q, table, (uint32_t)entries, offset));
    if (q->l1_size) {
        qcow2_free_later(q, q->l1_offset, (uint64_t)q->l1_size * 8, false);
    }
    g_free(q->l1);
    g_free(q->l1_dirty);
    q->l1 = g_steal_pointer(&table);
    q->l1_size = (uint32_t)entries;
    q->l1_offset = offset;
    q->l1_dirty = g_new0(bool, entries / 64 + 1);
    q->l1_any_dirty = false;
    return NULL;
}

/* --- zeroes where the disk gets longer --- */

static int write_zero_bytes_co(Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    size_t size = (size_t)MIN(bytes, 1 << 20);
    g_autofree char *zeroes = g_malloc0(size);
    while (bytes) {
        size_t part = (size_t)MIN(bytes, size);
        BLOCK_VEC_BUFFER(vec, zeroes, part);
        int ret = qcow2_pwritev_co(q->node, offset, part, &vec, 0, 0);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
    }
    return 0;
}

/*
 * [from, to) must read as zeroes. In the cluster that the old end cuts, there may be old data;
 * behind it, only a longer backing image can shine through.
 */
static int zero_new_part_co(Qcow2 *q, uint64_t from, uint64_t to)
{
    uint64_t cut_end = MIN(ALIGN_UP(from, q->cluster_size), to);
    uint64_t backing = q->node->backing ? q->node->backing->node->size : 0;
    Qcow2Map map;
    int ret = 0;

    if (cut_end > from) {
        co_mutex_lock(&q->lock);
        ret = qcow2_map_co(q, from, cut_end - from, &map);
        co_mutex_unlock(&q->lock);
        bool old_data =
            map.kind == KIND_DATA || map.kind == KIND_COMPRESSED || map.bytes < cut_end - from;
        if (ret >= 0 && (old_data || (map.kind == KIND_UNALLOCATED && backing > from))) {
            ret = write_zero_bytes_co(q, from, cut_end - from);
        }
    }
    uint64_t end = MIN(to, backing);
    if (ret >= 0 && end > cut_end) {
        uint64_t whole_end = ALIGN_UP(end, q->cluster_size);
        ret = qcow2_write_zeroes_co(q->node, cut_end, MIN(whole_end, to) - cut_end, 0);
        if (ret == -ENOTSUP) {
            ret = write_zero_bytes_co(q, cut_end, end - cut_end);
        }
    }
    return ret;
}

/* --- growing --- */

/* Clusters of L2 tables and refcount blocks for so much data. */
static uint64_t metadata_clusters(const Qcow2 *q, uint64_t data_clusters)
{
    uint64_t l2 = (data_clusters + q->l2_entries - 1) / q->l2_entries + 1;
    uint64_t per_block = q->cluster_size * 8 >> q->refcount_order;
    return l2 + (data_clusters + l2) / MAX(per_block - 1, 1) + 2;
}

static Error *preallocate_co(Qcow2 *q, uint64_t from, uint64_t to, Preallocation prealloc)
{
    uint64_t start = ALIGN_DOWN(from, q->cluster_size), clusters = qcow2_clusters(q, to - start);
    uint64_t end = q->fresh + ((clusters + metadata_clusters(q, clusters)) << q->cluster_bits);

    if (qcow2_external(q)) {
        TRY(node_truncate_co(q->data, to, prealloc == PREALLOC_METADATA ? PREALLOC_OFF : prealloc));
        int done = qcow2_preallocate_co(q, start, to - start);
        return done < 0 ? error_new_errno(done, "Could not preallocate") : NULL;
    }
    if (prealloc != PREALLOC_METADATA && end > q->file->size) {
        TRY(node_truncate_co(q->file, end, prealloc));
    }
    int ret = qcow2_preallocate_co(q, start, to - start);
    if (ret >= 0) {
        ret = qcow2_write_back_co(q->node);
    }
    if (ret < 0) {
        return error_new_errno(ret, "Could not preallocate");
    }
    if (prealloc != PREALLOC_METADATA || q->file->size < q->fresh) {
        TRY(node_truncate_co(q->file, q->fresh, PREALLOC_OFF));
    }
    return NULL;
}

static Error *set_size_co(Qcow2 *q, uint64_t size)
{
    int ret = qcow2_write_header_u64_co(q, H_SIZE, size);
    if (ret < 0) {
        return error_new_errno(ret, "The new size could not be written to the header");
    }
    q->node->size = size;
    return NULL;
}

static Error *grow_co(Qcow2 *q, uint64_t size, Preallocation prealloc)
{
    uint64_t old = q->node->size;

    co_mutex_lock(&q->lock);
    Error *err = qcow2_grow_l1_co(q, qcow2_l1_needed(q, size));
    co_mutex_unlock(&q->lock);
    TRY(err);
    q->node->size = size; /* so that the new part can be written */
    int ret = zero_new_part_co(q, old, size);
    if (ret >= 0 && prealloc != PREALLOC_OFF) {
        err = preallocate_co(q, old, size, prealloc);
    }
    if (ret >= 0 && !err) {
        ret = qcow2_write_back_co(q->node);
    }
    if (ret >= 0 && !err) { /* else the backing node could shine through the new part */
        ret = node_flush_co(q->file);
    }
    q->node->size = old;
    if (ret < 0) {
        return error_new_errno(ret, "Failed to prepare the new part of the disk");
    }
    TRY(err);
    return set_size_co(q, size);
}

/* --- shrinking --- */

/* L2 tables that describe nothing any more. */
static void drop_l2_tables(Qcow2 *q, uint64_t from_index)
{
    for (uint64_t i = from_index; i < q->l1_size; i++) {
        if (q->l1[i] & ENTRY_OFFSET) {
            qcow2_free_later(q, q->l1[i] & ENTRY_OFFSET, q->cluster_size, true);
            qcow2_l1_set(q, i, 0);
        }
    }
}

/* Cuts off what is free at the end of the file. */
static Error *cut_file_co(Qcow2 *q)
{
    uint64_t cluster = qcow2_clusters(q, q->file->size), count = 0;
    int ret = 0;

    while (cluster > 1 && ret >= 0) {
        ret = qcow2_get_refcount_co(q, cluster - 1, &count);
        if (ret < 0 || count) {
            break;
        }
        cluster--;
    }
    if (ret < 0) {
        return error_new_errno(ret, "Failed to find the end of the image");
    }
    uint64_t end = cluster << q->cluster_bits;
    if (q->file->extends && end < q->file->size) {
        TRY(node_truncate_co(q->file, end, PREALLOC_OFF));
        q->fresh = end;
    }
    return NULL;
}

static Error *shrink_co(Qcow2 *q, uint64_t size)
{
    uint64_t from = ALIGN_UP(size, q->cluster_size), old = q->node->size;
    int ret = 0;

    if (q->snapshots->len) {
        return error_new("Can't shrink an image which has snapshots");
    }
    if (from < old) {
        ret = qcow2_unmap_co(q, from, old - from, true);
    }
    if (ret < 0) {
        return error_new_errno(ret, "The clusters behind the new end could not be given back");
    }
    co_mutex_lock(&q->lock);
    qcow2_event_co(q, BLOCK_EVENT_L1_SHRINK_FREE_L2_CLUSTERS);
    drop_l2_tables(q, qcow2_l1_needed(q, size));
    qcow2_event_co(q, BLOCK_EVENT_L1_SHRINK_WRITE_TABLE);
    ret = qcow2_settle_co(q);
    co_mutex_unlock(&q->lock);
    if (ret < 0) {
        return error_new_errno(ret, "Failed to write metadata");
    }
    TRY(set_size_co(q, size));
    if (qcow2_raw_external(q)) {
        TRY(node_truncate_co(q->data, size, PREALLOC_OFF));
    }
    co_mutex_lock(&q->lock);
    Error *err = cut_file_co(q);
    co_mutex_unlock(&q->lock);
    return err;
}

Error *qcow2_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    Qcow2 *q = node->state;

    if (size % 512) {
        return error_new("The new size must be a multiple of 512");
    }
    if (qcow2_raw_external(q) && prealloc == PREALLOC_OFF && size > node->size) {
        prealloc = PREALLOC_METADATA; /* all of it is the file's */
    }
    if (q->snapshots->len && q->version < 3) {
        return error_new("Can't resize a v2 image which has snapshots");
    }
    if (size < node->size) {
        return prealloc == PREALLOC_OFF
                   ? shrink_co(q, size)
                   : error_new("An image that gets smaller has nothing to preallocate: leave out "
                               "the preallocation");
    }
    return grow_co(q, size, prealloc);
}

Error *qcow2_make_empty_co(BlockNode *node)
{
    Qcow2 *q = node->state;
    int ret = qcow2_unmap_co(q, 0, node->size, true);

    co_mutex_lock(&q->lock);
    qcow2_event_co(q, BLOCK_EVENT_EMPTY_IMAGE_PREPARE);
    if (ret >= 0) {
        drop_l2_tables(q, 0);
        ret = qcow2_settle_co(q);
    }
    Error *err =
        ret < 0 ? error_new_errno(ret, "Could not empty '%s'", node->filename) : cut_file_co(q);
    co_mutex_unlock(&q->lock);
    return err;
}

/* --- measuring --- */

static Error *crypt_header_bytes(KeyValues *opts, uint64_t *ret_bytes)
{
    CryptCreate create;
    uint32_t method;

    TRY(qcow2_crypt_take_create(opts, &method, &create));
    *ret_bytes = method == CRYPT_LUKS ? luks_header_size(&create.spec) : 0;
    crypt_create_clear(&create);
    return NULL;
}

Error *qcow2_measure(KeyValues *opts, uint64_t size, uint64_t data_bytes, BlockMeasure *ret)
{
    uint64_t cluster, refcount_bits;
    bool extended;
    TRY(block_take_size(opts, "cluster_size", 65536, &cluster));
    TRY(block_take_num(opts, "refcount_bits", 16, &refcount_bits));
    TRY(block_take_bool(opts, "extended_l2", false, &extended));
    if (!IS_POW2(cluster) || cluster < 512 || cluster > 2 * MiB || !IS_POW2(refcount_bits) ||
        refcount_bits > 64) {
        return error_new("Cluster size must be a power of two between 512 and 2048k");
    }
    uint64_t entries = cluster / (extended ? 16 : 8),
             clusters = size / cluster + (size % cluster != 0);
    uint64_t l2 = (clusters + entries - 1) / entries;
    uint64_t l1 = (l2 * 8 + cluster - 1) / cluster;
    uint64_t crypt;
    TRY(crypt_header_bytes(opts, &crypt));
    uint64_t fixed = 1 + MAX(l1, 1) + l2 + clusters + (crypt + cluster - 1) / cluster, blocks = 0, table = 0;
    for (uint64_t before = 1; before != blocks + table;) {
        before = blocks + table;
        blocks = (fixed + before + cluster * 8 / refcount_bits - 1) / (cluster * 8 / refcount_bits);
        table = (blocks * 8 + cluster - 1) / cluster;
    }
    uint64_t metadata = (fixed - clusters + blocks + table) * cluster;
    *ret = (BlockMeasure) { .required = metadata + data_bytes,
                            .fully_allocated = metadata + clusters * cluster };
    return NULL;
}
