/*
 * Internal snapshots of qcow2. A snapshot is a copy of the L1 table; each tree counts once in the
 * refcounts of the L2 tables and clusters it reaches.
 *
 * Creating, applying and deleting are transactions (qcow2_txn.c): all of it happens, or nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/format/qcow2.h"

enum { SNAPSHOT_FIXED = 40, SNAPSHOT_EXTRA = 24 };

static void snapshot_clear(void *opaque)
{
    Qcow2Snapshot *sn = opaque;
    g_free(sn->info.id);
    g_free(sn->info.name);
    g_free(sn->extra);
}

void qcow2_snapshots_free(Qcow2 *q)
{
    g_clear_pointer(&q->snapshots, g_array_unref);
}

/* --- the table on the disk --- */

static Error *parse_snapshot(Qcow2 *q, const uint8_t *p, size_t room, Qcow2Snapshot *sn,
                             size_t *ret_bytes)
{
    if (room < SNAPSHOT_FIXED) {
        return error_new("Snapshot table is cut off");
    }
    *sn = (Qcow2Snapshot) { .l1_offset = ld64_be(p), .l1_size = ld32_be(p + 8) };
    uint32_t id_length = ld16_be(p + 12), name_length = ld16_be(p + 14), extra = ld32_be(p + 36);
    uint64_t bytes = SNAPSHOT_FIXED + (uint64_t)extra + id_length + name_length;
    if (extra > 1024 || bytes > room) {
        return error_new("Snapshot table entry is too large");
    }
    sn->info.date_sec = ld32_be(p + 16);
    sn->info.date_nsec = ld32_be(p + 20);
    sn->info.vm_clock_ns = ld64_be(p + 24);
    sn->info.vm_state_size = sn->vm_state_size_32 = ld32_be(p + 32);
    sn->info.disk_size = q->node->size;
    sn->info.icount = UINT64_MAX;
    const uint8_t *e = p + SNAPSHOT_FIXED;
    if (extra >= 8) {
        sn->info.vm_state_size = ld64_be(e);
    }
    if (extra >= 16) {
        sn->info.disk_size = ld64_be(e + 8);
    }
    if (extra >= 24) {
        sn->info.icount = ld64_be(e + 16);
    }
    if (extra > SNAPSHOT_EXTRA) {
        sn->extra_size = extra - SNAPSHOT_EXTRA;
        sn->extra = g_memdup2(e + SNAPSHOT_EXTRA, sn->extra_size);
    }
    sn->info.id = g_strndup((const char *)e + extra, id_length);
    sn->info.name = g_strndup((const char *)e + extra + id_length, name_length);
    *ret_bytes = (size_t)MIN(ALIGN_UP(bytes, 8), room); /* the last one need not be padded */
    return NULL;
}

static Error *check_snapshot(Qcow2 *q, const Qcow2Snapshot *sn)
{
    uint64_t end;
    if ((uint64_t)sn->l1_size * 8 > QCOW2_MAX_L1_BYTES || qcow2_in_cluster(q, sn->l1_offset) ||
        !checked_add_u64(sn->l1_offset, (uint64_t)sn->l1_size * 8, &end) || end > INT64_MAX ||
        sn->info.disk_size > INT64_MAX) {
        return error_new("Snapshot '%s' has an impossible L1 table", sn->info.name);
    }
    return NULL;
}

static Error *parse_table(Qcow2 *q, const uint8_t *data, size_t length, uint32_t count,
                          size_t *ret_used)
{
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        Qcow2Snapshot sn;
        size_t bytes = 0;
        TRY(parse_snapshot(q, data + at, length - at, &sn, &bytes));
        g_array_append_val(q->snapshots, sn);
        TRY(check_snapshot(q, &sn));
        at += bytes;
    }
    *ret_used = at;
    return NULL;
}

Error *qcow2_snapshots_read_co(Qcow2 *q)
{
    uint8_t h[H_V2_LENGTH];
    q->snapshots = g_array_new(FALSE, FALSE, sizeof(Qcow2Snapshot));
    g_array_set_clear_func(q->snapshots, snapshot_clear);
    int ret = node_pread_co(q->file, 0, sizeof(h), h);
    if (ret < 0) {
        return error_new_errno(ret, "The qcow2 header cannot be read");
    }
    uint32_t count = ld32_be(h + H_SNAPSHOTS);
    uint64_t offset = ld64_be(h + H_SNAPSHOTS_OFFSET);
    if (!count) {
        return NULL;
    }
    if (count > QCOW2_MAX_SNAPSHOTS || qcow2_in_cluster(q, offset) || offset >= q->file->size) {
        return error_new("Snapshot table offset or length is not possible");
    }
    size_t length = (size_t)MIN(q->file->size - offset,
                                MIN(QCOW2_MAX_SNAPSHOT_BYTES, (uint64_t)count * 133000));
    g_autofree uint8_t *data = g_try_malloc(length);
    ret = data ? node_pread_co(q->file, offset, length, data) : -ENOMEM;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read snapshots");
    }
    size_t used;
    TRY(parse_table(q, data, length, count, &used));
    q->snapshots_offset = offset;
    q->snapshots_bytes = used;
    return NULL;
}

static void put_snapshot(GByteArray *out, const Qcow2Snapshot *sn)
{
    uint8_t p[SNAPSHOT_FIXED + SNAPSHOT_EXTRA];
    static const uint8_t padding[8];

    st64_be(p, sn->l1_offset);
    st32_be(p + 8, sn->l1_size);
    st16_be(p + 12, (uint16_t)strlen(sn->info.id));
    st16_be(p + 14, (uint16_t)strlen(sn->info.name));
    st32_be(p + 16, (uint32_t)sn->info.date_sec);
    st32_be(p + 20, sn->info.date_nsec);
    st64_be(p + 24, sn->info.vm_clock_ns);
    st32_be(p + 32, (uint32_t)MIN(sn->info.vm_state_size, UINT32_MAX));
    st32_be(p + 36, SNAPSHOT_EXTRA + sn->extra_size);
    st64_be(p + 40, sn->info.vm_state_size);
    st64_be(p + 48, sn->info.disk_size);
    st64_be(p + 56, sn->info.icount);
    g_byte_array_append(out, p, sizeof(p));
    g_byte_array_append(out, sn->extra, sn->extra_size);
    g_byte_array_append(out, (const uint8_t *)sn->info.id, (guint)strlen(sn->info.id));
    g_byte_array_append(out, (const uint8_t *)sn->info.name, (guint)strlen(sn->info.name));
    g_byte_array_append(out, padding, (8 - out->len % 8) % 8);
}

/* A new table; the transaction's end makes it the valid one. */
static int write_table_co(Qcow2 *q)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint64_t offset = 0;
    int ret = 0;

    for (guint i = 0; i < q->snapshots->len; i++) {
        put_snapshot(out, &g_array_index(q->snapshots, Qcow2Snapshot, i));
    }
    if (out->len > QCOW2_MAX_SNAPSHOT_BYTES) {
        return -EFBIG;
    }
    if (out->len) {
        ret = qcow2_alloc_exact_co(q, qcow2_clusters(q, out->len), &offset);
    }
    if (ret >= 0 && out->len) {
        ret = node_pwrite_co(q->file, offset, out->len, out->data, 0);
    }
    if (ret >= 0) {
        ret = qcow2_refcount_add_co(q, q->snapshots_offset, q->snapshots_bytes, -1);
    }
    if (ret >= 0) {
        q->snapshots_offset = offset;
        q->snapshots_bytes = out->len;
    }
    return ret;
}

/* --- walking a tree --- */

/* L1 entries of a snapshot, host order; *ret is the caller's. */
static int read_l1_co(Qcow2 *q, uint64_t offset, uint32_t entries, uint64_t **ret)
{
    g_autofree uint64_t *l1 = g_try_malloc0(MAX((size_t)entries * 8, 8));
    int err = l1 ? 0 : -ENOMEM;
    if (err >= 0 && entries) {
        err = node_pread_co(q->file, offset, (uint64_t)entries * 8, l1);
    }
    if (err < 0) {
        return err;
    }
    for (uint32_t i = 0; i < entries; i++) {
        l1[i] = ld64_be(&l1[i]);
    }
    *ret = g_steal_pointer(&l1);
    return 0;
}

static int count_entry_co(Qcow2 *q, uint64_t entry, int delta)
{
    if (entry & ENTRY_COMPRESSED) {
        uint64_t offset, bytes;
        qcow2_compressed_range(q, entry, &offset, &bytes);
        return qcow2_refcount_add_co(q, offset, bytes, delta);
    }
    return entry & ENTRY_OFFSET
               ? qcow2_refcount_add_co(q, entry & ENTRY_OFFSET, q->cluster_size, delta)
               : 0;
}

/* One L2 table and what it refers to. */
static int count_table_co(Qcow2 *q, uint64_t l2, int delta)
{
    Qcow2Table *table;
    g_autofree uint8_t *copy = g_try_malloc(q->cluster_size); /* counting may drop the table */
    int ret = copy ? qcow2_cache_get_co(&q->l2_cache, l2, &table) : -ENOMEM;

    if (ret >= 0) {
        memcpy(copy, table->data, q->cluster_size);
    }
    for (uint64_t e = 0; e < q->l2_entries && ret >= 0; e++) {
        ret = count_entry_co(q, ld64_be(copy + e * q->entry_size), delta);
    }
    return ret >= 0 ? qcow2_refcount_add_co(q, l2, q->cluster_size, delta) : ret;
}

/* Adds delta to the count of every table and cluster that the tree reaches. */
static int count_tree_co(Qcow2 *q, const uint64_t *l1, uint32_t entries, int delta)
{
    int ret = 0;
    for (uint32_t i = 0; i < entries && ret >= 0; i++) {
        uint64_t l2 = l1[i] & ENTRY_OFFSET;
        if (l2 && qcow2_in_cluster(q, l2)) {
            return qcow2_corrupt_co(q, "L2 table at %#" PRIx64 " is not aligned", l2);
        }
        ret = l2 ? count_table_co(q, l2, delta) : 0;
    }
    return ret;
}

/* ENTRY_COPIED of the active tree: cleared everywhere, or set where the count is 1. */
static int flag_entries_co(Qcow2 *q, uint64_t l2, bool by_count)
{
    Qcow2Table *table;
    int ret = qcow2_cache_get_co(&q->l2_cache, l2, &table);
    for (uint64_t e = 0; e < q->l2_entries && ret >= 0; e++) {
        uint64_t entry = qcow2_l2_entry(q, table, e), count = 0;
        if ((entry & ENTRY_COMPRESSED) || !(entry & ENTRY_OFFSET)) {
            continue;
        }
        if (by_count) {
            ret = qcow2_get_refcount_co(q, (entry & ENTRY_OFFSET) >> q->cluster_bits, &count);
        }
        uint64_t flagged = count == 1 ? entry | ENTRY_COPIED : entry & ~ENTRY_COPIED;
        if (ret >= 0 && flagged != entry) {
            qcow2_l2_set(q, table, e, flagged, qcow2_l2_bitmap(q, table, e));
        }
    }
    return ret;
}

static int flag_tree_co(Qcow2 *q, bool by_count)
{
    int ret = 0;
    for (uint32_t i = 0; i < q->l1_size && ret >= 0; i++) {
        uint64_t l2 = q->l1[i] & ENTRY_OFFSET, count = 0;
        if (!l2) {
            continue;
        }
        if (by_count) {
            ret = qcow2_get_refcount_co(q, l2 >> q->cluster_bits, &count);
        }
        if (ret >= 0) {
            ret = flag_entries_co(q, l2, by_count);
        }
        uint64_t flagged = count == 1 ? q->l1[i] | ENTRY_COPIED : q->l1[i] & ~ENTRY_COPIED;
        if (ret >= 0 && flagged != q->l1[i]) {
            qcow2_l1_set(q, i, flagged);
        }
    }
    return ret;
}

/* --- finding --- */

/* By id first, then by name. -1: none. */
static int find_snapshot(const Qcow2 *q, const char *id)
{
    for (guint i = 0; i < q->snapshots->len; i++) {
        if (!strcmp(g_array_index(q->snapshots, Qcow2Snapshot, i).info.id, id)) {
            return (int)i;
        }
    }
    for (guint i = 0; i < q->snapshots->len; i++) {
        if (!strcmp(g_array_index(q->snapshots, Qcow2Snapshot, i).info.name, id)) {
            return (int)i;
        }
    }
    return -1;
}

GPtrArray *qcow2_snapshots(BlockNode *node)
{
    Qcow2 *q = node->state;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)block_snapshot_free);
    for (guint i = 0; i < q->snapshots->len; i++) {
        BlockSnapshot *copy =
            g_memdup2(&g_array_index(q->snapshots, Qcow2Snapshot, i).info, sizeof(BlockSnapshot));
        copy->id = g_strdup(copy->id);
        copy->name = g_strdup(copy->name);
        g_ptr_array_add(list, copy);
    }
    return list;
}

/* --- looking at one --- */

Error *qcow2_snapshot_show_co(Qcow2 *q, const char *id)
{
    int at = find_snapshot(q, id);
    uint64_t *l1;
    if (at < 0) {
        return error_new("Failed to load snapshot: Can't find snapshot '%s'", id);
    }
    const Qcow2Snapshot *sn = &g_array_index(q->snapshots, Qcow2Snapshot, at);
    if (qcow2_l1_needed(q, sn->info.disk_size) > sn->l1_size) {
        return error_new("Snapshot '%s': L1 table is too small", id);
    }
    int ret = read_l1_co(q, sn->l1_offset, sn->l1_size, &l1);
    if (ret < 0) {
        return error_new_errno(ret, "Failed to load snapshot '%s'", id);
    }
    g_free(q->l1);
    g_free(q->l1_dirty);
    q->l1 = l1;
    q->l1_size = sn->l1_size;
    q->l1_offset = sn->l1_offset;
    q->l1_dirty = g_new0(bool, q->l1_size / 64 + 1);
    q->node->size = sn->info.disk_size;
    return NULL;
}

/* --- the state of the machine: guest clusters behind the last L2 table of the disk --- */

enum { MAX_VM_STATE = 16 << 20 }; /* MiB */

static uint64_t vmstate_base(const Qcow2 *q)
{
    return (qcow2_l1_needed(q, q->node->size) * q->l2_entries) << q->cluster_bits;
}

uint64_t qcow2_vmstate_offset(BlockNode *node)
{
    return vmstate_base(node->state);
}

/* Of an encrypted image only whole sectors can be read and written. */
static int read_sectors_co(Qcow2 *q, uint64_t at, uint64_t bytes, void *buffer)
{
    uint64_t from = ALIGN_DOWN(at, 512ull), to = ALIGN_UP(at + bytes, 512ull);
    g_autofree uint8_t *whole = g_try_malloc((gsize)(to - from));
    BLOCK_VEC_BUFFER(vec, whole, (size_t)(to - from));

    int ret = whole ? qcow2_preadv_co(q->node, from, to - from, &vec, 0) : -ENOMEM;
    if (ret >= 0) {
        memcpy(buffer, whole + (at - from), (size_t)bytes);
    }
    return ret;
}

static int write_sectors_co(Qcow2 *q, uint64_t at, uint64_t bytes, const void *buffer)
{
    uint64_t from = ALIGN_DOWN(at, 512ull), to = ALIGN_UP(at + bytes, 512ull);
    g_autofree uint8_t *whole = g_try_malloc((gsize)(to - from));
    BLOCK_VEC_BUFFER(vec, whole, (size_t)(to - from));

    int ret = whole ? 0 : -ENOMEM;
    if (ret >= 0 && from < at) {
        ret = read_sectors_co(q, from, 512, whole);
    }
    if (ret >= 0 && to > at + bytes) {
        ret = read_sectors_co(q, to - 512, 512, whole + (to - 512 - from));
    }
    if (ret >= 0) {
        memcpy(whole + (at - from), buffer, (size_t)bytes);
        ret = qcow2_pwritev_co(q->node, from, to - from, &vec, 0, 0);
    }
    return ret;
}

int qcow2_vmstate_pread_co(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer)
{
    Qcow2 *q = node->state;
    BLOCK_VEC_BUFFER(vec, buffer, (size_t)bytes);
    if (!range_inside(offset, bytes, (uint64_t)MAX_VM_STATE * MiB)) {
        return -EFBIG;
    }
    qcow2_event_co(q, BLOCK_EVENT_VMSTATE_LOAD);
    uint64_t at = vmstate_base(q) + offset;
    return q->crypt ? read_sectors_co(q, at, bytes, buffer) : qcow2_preadv_co(node, at, bytes, &vec, 0);
}

int qcow2_vmstate_map_co(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *ret_host, uint64_t *ret_bytes)
{
    Qcow2 *q = node->state;
    Qcow2Map map;

    if (q->crypt || !q->data->driver->open_again) {
        return -ENOTSUP;
    }
    co_mutex_lock(&q->lock);
    int ret = qcow2_map_co(q, vmstate_base(q) + offset, bytes, &map);
    co_mutex_unlock(&q->lock);
    if (ret < 0 || map.kind != KIND_DATA || map.bytes == 0) {
        return ret < 0 ? ret : -ENOTSUP;
    }
    *ret_host = map.host;
    *ret_bytes = MIN(map.bytes, bytes);
    return 0;
}

int qcow2_vmstate_open(BlockNode *node)
{
    BlockNode *data = ((Qcow2 *)node->state)->data;
    return data->driver->open_again(data);
}

int qcow2_vmstate_pwrite_co(BlockNode *node, uint64_t offset, uint64_t bytes, const void *buffer)
{
    Qcow2 *q = node->state;
    BLOCK_VEC_BUFFER(vec, buffer, (size_t)bytes);
    if (!range_inside(offset, bytes, (uint64_t)MAX_VM_STATE * MiB)) {
        return -EFBIG;
    }
    uint64_t at = vmstate_base(q) + offset;
    co_mutex_lock(&q->lock);
    Error *err = qcow2_grow_l1_co(q, qcow2_l1_needed(q, at + bytes));
    co_mutex_unlock(&q->lock);
    if (err) {
        error_free(err);
        return -EFBIG;
    }
    node->write_generation++;
    qcow2_event_co(q, BLOCK_EVENT_VMSTATE_SAVE);
    return q->crypt ? write_sectors_co(q, at, bytes, buffer) : qcow2_pwritev_co(node, at, bytes, &vec, 0, 0);
}

/* --- creating --- */

static char *next_id(const Qcow2 *q)
{
    unsigned long highest = 0;
    for (guint i = 0; i < q->snapshots->len; i++) {
        highest =
            MAX(highest, strtoul(g_array_index(q->snapshots, Qcow2Snapshot, i).info.id, NULL, 10));
    }
    return g_strdup_printf("%lu", highest + 1);
}

/* Clears the flags, counts the tree once more, writes the copy of the L1 table. */
static int copy_tree_co(Qcow2 *q, uint64_t *ret_l1)
{
    uint64_t offset = 0;
    g_autofree uint8_t *data = g_malloc(MAX((size_t)q->l1_size * 8, 1));
    int ret = flag_tree_co(q, false);
    if (ret >= 0) {
        ret = qcow2_txn_place_l2_co(q);
    }
    if (ret >= 0) {
        ret = count_tree_co(q, q->l1, q->l1_size, 1);
    }
    if (ret >= 0) {
        ret = qcow2_alloc_exact_co(q, MAX(qcow2_clusters(q, (uint64_t)q->l1_size * 8), 1), &offset);
    }
    for (uint32_t i = 0; i < q->l1_size; i++) {
        st64_be(data + i * 8, q->l1[i]);
    }
    if (ret >= 0) {
        ret = node_pwrite_co(q->file, offset, (uint64_t)q->l1_size * 8, data, 0);
    }
    *ret_l1 = offset;
    return ret;
}

/* The end of a transaction: `ret` is how it went so far. */
static Error *finish_co(Qcow2 *q, int ret, const char *verb, const char *name)
{
    if (ret >= 0) {
        ret = qcow2_txn_commit_co(q);
    } else {
        qcow2_txn_abort_co(q);
    }
    return ret < 0 ? error_new_errno(ret, "Could not %s snapshot '%s'", verb, name) : NULL;
}

static Error *begin_co(Qcow2 *q)
{
    int ret = qcow2_txn_begin_co(q);
    return ret < 0 ? error_new_errno(ret, "Could not write the image's metadata") : NULL;
}

static Error *create_locked_co(Qcow2 *q, const BlockSnapshot *info)
{
    uint64_t l1;
    if (q->snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        return error_new("Could not create snapshot '%s': too many snapshots", info->name);
    }
    if (qcow2_external(q)) {
        return error_new("Could not create snapshot '%s': Operation not supported", info->name); /* iotests compare it */
    }
    if (strlen(info->name) > UINT16_MAX) {
        return error_new("The name of the snapshot is too long");
    }
    TRY(begin_co(q));
    int ret = copy_tree_co(q, &l1);
    if (ret >= 0) {
        Qcow2Snapshot sn = { .l1_offset = l1, .l1_size = q->l1_size, .info = *info };
        sn.info.id =
            info->id && !(find_snapshot(q, info->id) >= 0) ? g_strdup(info->id) : next_id(q);
        sn.info.name = g_strdup(info->name);
        sn.info.disk_size = q->node->size;
        g_array_append_val(q->snapshots, sn);
        ret = write_table_co(q);
    }
    return finish_co(q, ret, "create", info->name);
}

Error *qcow2_snapshot_create_co(BlockNode *node, const BlockSnapshot *snapshot)
{
    Qcow2 *q = node->state;
    co_mutex_lock(&q->lock);
    Error *err = create_locked_co(q, snapshot);
    co_mutex_unlock(&q->lock);
    if (!err && snapshot->vm_state_size) { /* only the snapshot needs it from now on */
        int ret = qcow2_unmap_co(q, vmstate_base(q),
                                 ALIGN_UP(snapshot->vm_state_size, q->cluster_size), true);
        err = ret < 0 ? error_new_errno(ret, "Could not give back the space of the machine's state")
                      : NULL;
    }
    return err;
}

/* --- going back --- */

static int replace_tree_co(Qcow2 *q, const Qcow2Snapshot *sn)
{
    g_autofree uint64_t *l1 = NULL;
    g_autofree uint64_t *old = g_memdup2(q->l1, (size_t)q->l1_size * 8);
    int ret = read_l1_co(q, sn->l1_offset, sn->l1_size, &l1);

    if (ret >= 0) {
        ret = count_tree_co(q, l1, sn->l1_size, 1);
    }
    for (uint32_t i = 0; i < q->l1_size && ret >= 0; i++) {
        qcow2_l1_set(q, i, i < sn->l1_size ? l1[i] & ~ENTRY_COPIED : 0);
    }
    if (ret >= 0) {
        ret = count_tree_co(q, old, q->l1_size, -1);
    }
    return ret >= 0 ? flag_tree_co(q, true) : ret;
}

static Error *apply_locked_co(Qcow2 *q, const char *id)
{
    int at = find_snapshot(q, id);
    if (at < 0) {
        return error_new_errno(ENOENT, "Could not apply snapshot '%s': Failed to load snapshot",
                               id);
    }
    const Qcow2Snapshot *sn = &g_array_index(q->snapshots, Qcow2Snapshot, at);
    TRY(qcow2_grow_l1_co(q, MAX(sn->l1_size, qcow2_l1_needed(q, sn->info.disk_size))));
    TRY(begin_co(q));
    int ret = replace_tree_co(q, sn);
    q->node->size = sn->info.disk_size;
    q->decompressed_entry = 0;
    return finish_co(q, ret, "apply", id);
}

Error *qcow2_snapshot_apply_co(BlockNode *node, const char *id)
{
    Qcow2 *q = node->state;
    co_mutex_lock(&q->lock);
    Error *err = apply_locked_co(q, id);
    co_mutex_unlock(&q->lock);
    return err;
}

/* --- deleting --- */

static Error *delete_locked_co(Qcow2 *q, const char *id)
{
    int at = find_snapshot(q, id);
    g_autofree uint64_t *l1 = NULL;
    if (at < 0) {
        return error_new("Could not delete snapshot '%s': snapshot not found", id);
    }
    TRY(begin_co(q));
    Qcow2Snapshot *sn = &g_array_index(q->snapshots, Qcow2Snapshot, at);
    uint64_t l1_offset = sn->l1_offset;
    uint32_t l1_size = sn->l1_size;
    int ret = read_l1_co(q, l1_offset, l1_size, &l1);
    if (ret >= 0) {
        g_array_remove_index(q->snapshots, (guint)at);
        ret = write_table_co(q);
    }
    if (ret >= 0) {
        ret = count_tree_co(q, l1, l1_size, -1);
    }
    if (ret >= 0) {
        ret = qcow2_refcount_add_co(q, l1_offset, (uint64_t)l1_size * 8, -1);
    }
    if (ret >= 0) {
        ret = flag_tree_co(q, true);
    }
    return finish_co(q, ret, "delete", id);
}

Error *qcow2_snapshot_delete_co(BlockNode *node, const char *id)
{
    Qcow2 *q = node->state;
    if (node->vmstate_busy) {
        return error_hint(error_new("the machine's memory is still being loaded from '%s'", node->name),
                          "Snapshots of the image can be deleted when that is done, in some seconds.");
    }
    co_mutex_lock(&q->lock);
    Error *err = delete_locked_co(q, id);
    co_mutex_unlock(&q->lock);
    return err;
}
