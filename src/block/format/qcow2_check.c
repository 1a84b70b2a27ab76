/*
 * qcow2 check and repair: every reference is counted anew and compared with the refcounts.
 *
 * Repair: wrong counts are put right in place. If a cluster in use is said to be free, the whole
 * refcount structure is written anew behind the last used cluster, since the old one cannot be
 * trusted to find free space. Entries that point nowhere sensible are reported and left.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/format/qcow2.h"

typedef struct Checker {
    Qcow2 *q;
    BlockCheck *out;
    uint32_t *refs; /* references found, by host cluster */
    uint64_t count; /* clusters of the file */
    bool rebuild; /* the refcount structure cannot be put right where it is */
    uint64_t low_counts, high_counts; /* how many clusters have a count that is wrong */
    uint64_t wrong_flags, bad_blocks;
    uint64_t next_expected; /* where the next cluster of a table lies when nothing is fragmented */
} Checker;

static void say(Checker *c, const char *fmt, ...) PRINTF(2, 3);
static void say(Checker *c, const char *fmt, ...)
{
    if (c->out->message) {
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        c->out->message(c->out->opaque, text);
    }
}

static void refer(Checker *c, uint64_t offset, uint64_t bytes)
{
    Qcow2 *q = c->q;
    uint64_t end;
    if (!bytes) {
        return;
    }
    if (!checked_add_u64(offset, bytes, &end) || (end - 1) >> q->cluster_bits >= c->count) {
        say(c,
            "ERROR: counting reference for region exceeding the end of the file by one cluster or "
            "more: offset 0x%" PRIx64 " size 0x%" PRIx64,
            offset, bytes);
        c->out->corruptions++;
        return;
    }
    for (uint64_t i = offset >> q->cluster_bits; i <= (end - 1) >> q->cluster_bits; i++) {
        if (c->refs[i] < UINT32_MAX) {
            c->refs[i]++;
        }
    }
}

/* --- the trees --- */

/* What it says is said after the counts: see walk_flags_co(). */
static void check_copied(Checker *c, uint64_t offset, uint64_t entry)
{
    uint64_t count = 0;
    if (qcow2_get_refcount_co(c->q, offset >> c->q->cluster_bits, &count) < 0) {
        c->out->check_errors++;
        return;
    }
    c->wrong_flags += (count == 1) != ((entry & ENTRY_COPIED) != 0);
}

static void check_data_entry(Checker *c, uint64_t entry, bool active)
{
    Qcow2 *q = c->q;
    uint64_t host = entry & ENTRY_OFFSET;

    if (entry & ENTRY_COMPRESSED) {
        uint64_t offset, bytes;
        qcow2_compressed_range(q, entry, &offset, &bytes);
        /* The size is in sectors, so the last one may only seem to reach behind the end of the
         * file. */
        if (offset < q->file->size && offset + bytes > q->file->size) {
            bytes = q->file->size - offset;
        }
        refer(c, offset, bytes);
        if (active) {
            c->out->allocated_clusters++;
            c->out->compressed_clusters++;
            c->out->fragmented_clusters++; /* always read by itself */
        }
        return;
    }
    if (qcow2_external(q)) { /* not counted */
        if (active && qcow2_has_cluster(q, entry)) {
            c->out->allocated_clusters++;
        }
        return;
    }
    if (!host) {
        return;
    }
    if (qcow2_in_cluster(q, host)) {
        say(c, "ERROR offset=%" PRIx64 ": Cluster is not properly aligned; L2 entry corrupted.",
            host);
        c->out->corruptions++;
        return;
    }
    if (active) {
        c->out->allocated_clusters++;
        if (c->next_expected && c->next_expected != host) {
            c->out->fragmented_clusters++;
        }
        c->next_expected = host + q->cluster_size;
        check_copied(c, host, entry);
    }
    refer(c, host, q->cluster_size);
}

static void check_l2(Checker *c, uint64_t offset, bool active, uint8_t *buffer)
{
    Qcow2 *q = c->q;
    if (node_pread_co(q->file, offset, q->cluster_size, buffer) < 0) {
        c->out->check_errors++;
        return;
    }
    c->next_expected = 0;
    for (uint64_t e = 0; e < q->l2_entries; e++) {
        check_data_entry(c, ld64_be(buffer + e * q->entry_size), active);
    }
}

static void check_tree(Checker *c, const uint64_t *l1, uint32_t entries, bool active)
{
    Qcow2 *q = c->q;
    g_autofree uint8_t *buffer = g_malloc(q->cluster_size);

    for (uint32_t i = 0; i < entries; i++) {
        uint64_t l2 = l1[i] & ENTRY_OFFSET;
        if (!l2) {
            continue;
        }
        if (qcow2_in_cluster(q, l2)) {
            say(c, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted",
                l2);
            c->out->corruptions++;
            continue;
        }
        refer(c, l2, q->cluster_size);
        if (active) {
            check_copied(c, l2, l1[i]);
        }
        if (l2 >> q->cluster_bits < c->count) {
            check_l2(c, l2, active, buffer);
        }
    }
}

static void check_snapshot_trees(Checker *c)
{
    Qcow2 *q = c->q;
    refer(c, q->snapshots_offset, q->snapshots_bytes);
    for (guint i = 0; i < q->snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(q->snapshots, Qcow2Snapshot, i);
        uint64_t bytes = (uint64_t)sn->l1_size * 8;
        g_autofree uint64_t *l1 = g_try_malloc0(MAX(bytes, 8));
        refer(c, sn->l1_offset, bytes);
        if (!l1 || (bytes && node_pread_co(q->file, sn->l1_offset, bytes, l1) < 0)) {
            c->out->check_errors++;
            continue;
        }
        for (uint32_t e = 0; e < sn->l1_size; e++) {
            l1[e] = ld64_be(&l1[e]);
        }
        check_tree(c, l1, sn->l1_size, false);
    }
}

static void check_crypt_header(Checker *c)
{
    uint64_t offset, bytes;
    if (qcow2_crypt_header(c->q, &offset, &bytes)) {
        refer(c, offset, bytes);
    }
}

static void check_bitmaps(Checker *c)
{
    Qcow2 *q = c->q;
    for (guint i = 0; i < q->extensions->len; i++) {
        const Qcow2Extension *ext = g_ptr_array_index(q->extensions, i);
        if (ext->type != EXT_BITMAPS || ext->length < 24 || !(q->autoclear & AUTOCLEAR_BITMAPS)) {
            continue;
        }
        uint64_t bytes = ld64_be(ext->data + 8), at = ld64_be(ext->data + 16);
        refer(c, at, bytes);
        g_autofree uint8_t *dir = bytes <= 64 * MiB ? g_try_malloc(MAX(bytes, 1)) : NULL;
        if (!dir || node_pread_co(q->file, at, bytes, dir) < 0) {
            c->out->check_errors++;
            continue;
        }
        for (uint64_t p = 0; p + 24 <= bytes;) {
            uint64_t table = ld64_be(dir + p), entries = ld32_be(dir + p + 8);
            refer(c, table, entries * 8);
            for (uint64_t e = 0; e < entries; e++) {
                uint8_t entry[8];
                if (node_pread_co(q->file, table + e * 8, 8, entry) < 0) {
                    c->out->check_errors++;
                    break;
                }
                refer(c, ld64_be(entry) & ENTRY_OFFSET,
                      ld64_be(entry) & ENTRY_OFFSET ? q->cluster_size : 0);
            }
            p += ALIGN_UP(24 + (uint64_t)ld16_be(dir + p + 18) + ld32_be(dir + p + 20), 8);
        }
    }
}

/* --- the refcount structure itself --- */

static void check_refcount_blocks(Checker *c)
{
    Qcow2 *q = c->q;
    refer(c, q->reftable_offset, (uint64_t)q->reftable_size * 8);
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        uint64_t offset = q->reftable[i];
        if (!offset) {
            continue;
        }
        if (qcow2_in_cluster(q, offset) || offset >> q->cluster_bits >= c->count) {
            say(c, "ERROR refcount block %u is %s", i,
                qcow2_in_cluster(q, offset) ? "not cluster aligned; refcount table entry corrupted"
                                            : "outside image");
            c->bad_blocks++;
            c->rebuild = true;
            continue;
        }
        refer(c, offset, q->cluster_size);
        if (c->refs[offset >> q->cluster_bits] != 1) {
            say(c, "ERROR refcount block %u refcount=%u", i, c->refs[offset >> q->cluster_bits]);
            c->bad_blocks++;
            c->rebuild = true;
        }
    }
}

/* Whether the block is there and is no other's: what else it may be has been reported. */
static bool block_is_sound(const Checker *c, uint64_t index)
{
    const Qcow2 *q = c->q;
    uint64_t offset = index < q->reftable_size ? q->reftable[index] : 0;
    return offset && !qcow2_in_cluster(q, offset) && offset >> q->cluster_bits < c->count &&
           c->refs[offset >> q->cluster_bits] == 1;
}

static void compare_cluster(Checker *c, uint64_t cluster, uint64_t count)
{
    uint64_t refs = cluster < c->count ? c->refs[cluster] : 0;
    if (count || refs) {
        c->out->image_end = (cluster + 1) << c->q->cluster_bits;
    }
    if (count == refs) {
        return;
    }
    *(count < refs ? &c->low_counts : &c->high_counts) += 1;
    c->rebuild |= !count;
    say(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
        count < refs ? "ERROR" : "Leaked", cluster, count, refs);
}

/* Block by block; clusters beyond the end of the file are looked at only where a sound block counts
 * them. */
static void compare(Checker *c)
{
    Qcow2 *q = c->q;
    uint64_t per_block = q->cluster_size * 8 >> q->refcount_order;
    uint64_t blocks = MAX(q->reftable_size, (c->count + per_block - 1) / per_block);

    for (uint64_t b = 0; b < blocks; b++) {
        Qcow2Table *block = NULL;
        uint64_t first = b * per_block, end = first + per_block;
        if (block_is_sound(c, b)) {
            if (qcow2_cache_get_co(&q->refcount_cache, q->reftable[b], &block) < 0) {
                c->out->check_errors++;
                continue;
            }
        } else {
            end = MIN(end, c->count);
        }
        for (uint64_t i = first; i < end; i++) {
            compare_cluster(c, i, block ? qcow2_refcount_read(q, block->data, i - first) : 0);
        }
    }
}

/* --- repair --- */

static int correct_block_co(Checker *c, Qcow2Table *block, uint64_t first, uint64_t entries, bool raise)
{
    Qcow2 *q = c->q;
    for (uint64_t e = 0; e < entries; e++) {
        uint64_t cluster = first + e, refs = cluster < c->count ? c->refs[cluster] : 0;
        uint64_t count = qcow2_refcount_read(q, block->data, e);
        if (raise ? count >= refs : count <= refs) {
            continue;
        }
        if (refs > qcow2_max_refcount(q)) {
            return -EOVERFLOW;
        }
        say(c, "Repairing cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, cluster, count, refs);
        qcow2_refcount_write(q, block->data, e, refs);
        qcow2_cache_dirty(&q->refcount_cache, block);
    }
    return 0;
}

/* In place; what is raised is on the disk before anything is lowered. */
static int correct_counts_co(Checker *c, bool raise)
{
    Qcow2 *q = c->q;
    uint64_t per_block = q->cluster_size * 8 >> q->refcount_order;
    int ret = 0;

    for (uint32_t b = 0; b < q->reftable_size && ret >= 0; b++) {
        Qcow2Table *block;
        if (!q->reftable[b]) {
            continue;
        }
        ret = qcow2_cache_get_co(&q->refcount_cache, q->reftable[b], &block);
        if (ret >= 0) {
            ret = correct_block_co(c, block, b * per_block, per_block, raise);
        }
    }
    q->free_hint = 0;
    return ret >= 0 ? qcow2_write_back_locked_co(q) : ret;
}

/* Where a cluster of the old structure lies, unless something else is there. */
static void say_given_back(Checker *c, uint64_t offset)
{
    uint64_t cluster = offset >> c->q->cluster_bits;
    if (!qcow2_in_cluster(c->q, offset) && cluster < c->count && !c->refs[cluster]) {
        say(c, "Repairing cluster %" PRIu64 " refcount=1 reference=0", cluster);
    }
}

static int rebuild_co(Checker *c)
{
    Qcow2 *q = c->q;
    g_autofree uint64_t *old = g_memdup2(q->reftable, q->reftable_size * sizeof(*old));
    uint64_t table = q->reftable_offset, entries = q->reftable_size;

    say(c, "Rebuilding refcount structure");
    qcow2_forget_refcount_structure(q, c->refs, c->count);
    int ret = qcow2_replace_refcounts_co(q, c->refs, c->count, q->refcount_order);
    for (uint64_t i = 0; ret >= 0 && i < qcow2_clusters(q, entries * 8); i++) {
        say_given_back(c, table + (i << q->cluster_bits));
    }
    for (uint64_t i = 0; ret >= 0 && i < entries; i++) {
        if (old[i]) {
            say_given_back(c, old[i]);
        }
    }
    return ret;
}

/* Whether the entry's flag agrees with the count; *entry becomes right. */
static int flag_agrees_co(Checker *c, uint64_t *entry, uint64_t *ret_count)
{
    int ret = qcow2_get_refcount_co(c->q, (*entry & ENTRY_OFFSET) >> c->q->cluster_bits, ret_count);
    uint64_t right = *ret_count == 1 ? *entry | ENTRY_COPIED : *entry & ~ENTRY_COPIED;
    if (ret < 0 || right == *entry) {
        return ret < 0 ? ret : 1;
    }
    *entry = right;
    return 0;
}

static int walk_flags_in_table_co(Checker *c, uint64_t l2, bool fix)
{
    Qcow2 *q = c->q;
    Qcow2Table *table;
    int ret = qcow2_cache_get_co(&q->l2_cache, l2, &table);
    for (uint64_t e = 0; e < q->l2_entries && ret >= 0; e++) {
        uint64_t entry = qcow2_l2_entry(q, table, e), was = entry, host = entry & ENTRY_OFFSET, count;
        if ((entry & ENTRY_COMPRESSED) || !host || qcow2_in_cluster(q, host) || qcow2_external(q)) {
            continue;
        }
        ret = flag_agrees_co(c, &entry, &count);
        if (ret == 0) {
            say(c, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, fix ? "Repairing" : "ERROR",
                was, count);
            c->wrong_flags++;
            if (fix) {
                qcow2_l2_set(q, table, e, entry, qcow2_l2_bitmap(q, table, e));
            }
        }
    }
    return ret;
}

/* Says which flags are wrong, now that the counts are what they will be. */
static int walk_flags_co(Checker *c, bool fix)
{
    Qcow2 *q = c->q;
    int ret = 0;

    c->wrong_flags = 0;
    for (uint32_t i = 0; i < q->l1_size && ret >= 0; i++) {
        uint64_t entry = q->l1[i], l2 = entry & ENTRY_OFFSET, count;
        if (!l2 || qcow2_in_cluster(q, l2) || l2 >> q->cluster_bits >= c->count) {
            continue;
        }
        ret = flag_agrees_co(c, &entry, &count);
        if (ret == 0) {
            say(c, "%s OFLAG_COPIED L2 cluster: l1_index=%u l1_entry=%" PRIx64 " refcount=%" PRIu64,
                fix ? "Repairing" : "ERROR", i, q->l1[i], count);
            c->wrong_flags++;
            if (fix) {
                qcow2_l1_set(q, i, entry);
            }
        }
        if (ret >= 0) {
            ret = walk_flags_in_table_co(c, l2, fix);
        }
    }
    return ret >= 0 && fix ? qcow2_settle_co(q) : ret;
}

static int repair_counts_co(Checker *c, unsigned fix)
{
    BlockCheck *out = c->out;
    bool low = c->low_counts || c->rebuild;
    int ret = 0;

    if ((fix & CHECK_FIX_ERRORS) && c->rebuild) {
        ret = rebuild_co(c);
    } else if ((fix & CHECK_FIX_ERRORS) && low) {
        ret = correct_counts_co(c, true);
        if (ret >= 0) {
            ret = node_flush_co(c->q->file);
        }
        if (ret >= 0) {
            ret = correct_counts_co(c, false);
        }
    } else if (c->high_counts && !low && (fix & CHECK_FIX_LEAKS)) {
        ret = correct_counts_co(c, false);
    } else {
        return 0;
    }
    if (ret >= 0) {
        out->corruptions_fixed += c->low_counts + c->bad_blocks;
        out->leaks_fixed += c->high_counts;
    }
    return ret;
}

/* After the counts, which the flags follow. */
static int check_flags_co(Checker *c, unsigned fix)
{
    BlockCheck *out = c->out;
    bool repair = (fix & CHECK_FIX_ERRORS) || (fix && !out->corruptions);
    if (out->check_errors || (!c->wrong_flags && !out->corruptions_fixed && !out->leaks_fixed)) {
        out->corruptions += c->wrong_flags;
        return 0;
    }
    int ret = walk_flags_co(c, repair);
    out->corruptions += c->wrong_flags;
    out->corruptions_fixed += ret >= 0 && repair ? c->wrong_flags : 0;
    return ret;
}

static int mark_clean_co(Qcow2 *q)
{
    uint64_t wanted = q->incompatible & ~(uint64_t)(INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
    int ret = node_flush_co(q->file);
    if (ret >= 0 && wanted != q->incompatible) {
        ret = qcow2_write_header_u64_co(q, H_INCOMPATIBLE, wanted);
    }
    if (ret >= 0) {
        q->incompatible = wanted;
    }
    return ret;
}

static Error *check_locked_co(Checker *c, unsigned fix)
{
    Qcow2 *q = c->q;
    BlockCheck *out = c->out;

    int ret = q->broken || q->node->read_only ? 0 : qcow2_settle_co(q);
    c->count = qcow2_clusters(q, q->file->size);
    if (c->count > BIT64(30)) {
        return error_new("The image file is too large to check (%" PRIu64 " clusters)", c->count);
    }
    c->refs = calloc(MAX(c->count, 1), sizeof(*c->refs));
    if (!c->refs) {
        return error_new("Not enough memory to check the image");
    }
    out->total_clusters = qcow2_clusters(q, q->node->size);
    refer(c, 0, q->cluster_size);
    check_tree(c, q->l1, q->l1_size, true);
    refer(c, q->l1_offset, (uint64_t)q->l1_size * 8);
    check_snapshot_trees(c);
    check_bitmaps(c);
    check_crypt_header(c);
    check_refcount_blocks(c);
    compare(c);
    out->corruptions += c->low_counts + c->bad_blocks;
    out->leaks += c->high_counts;
    if (ret >= 0 && fix && !out->check_errors) {
        q->broken = false;
        ret = repair_counts_co(c, fix);
    }
    if (ret >= 0) {
        ret = check_flags_co(c, fix);
    }
    if (ret >= 0 && fix && !out->check_errors && out->corruptions == out->corruptions_fixed) {
        ret = mark_clean_co(q);
    }
    return ret < 0 ? error_new_errno(ret, "Could not repair the image") : NULL;
}

Error *qcow2_check_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Checker c = { .q = node->state, .out = check };
    co_mutex_lock(&c.q->lock);
    Error *err = check_locked_co(&c, fix);
    co_mutex_unlock(&c.q->lock);
    free(c.refs);
    return err;
}
