/* qcow2: guards metadata against writes that an image with errors would bring (option overlap-check). */
#include "block/format/qcow2.h"

static bool ranges_meet(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return b && b_bytes && a < b + b_bytes && b < a + a_bytes;
}

static bool meets_snapshot_l1(const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    for (guint i = 0; q->snapshots && i < q->snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(q->snapshots, Qcow2Snapshot, i);
        if (ranges_meet(offset, bytes, sn->l1_offset, (uint64_t)sn->l1_size * 8)) {
            return true;
        }
    }
    return false;
}

static bool meets_refcount_block(const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        if (ranges_meet(offset, bytes, q->reftable[i], q->cluster_size)) {
            return true;
        }
    }
    return false;
}

static bool meets_l2_table(const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    for (uint32_t i = 0; i < q->l1_size; i++) {
        if (ranges_meet(offset, bytes, q->l1[i] & ENTRY_OFFSET, q->cluster_size)) {
            return true;
        }
    }
    return false;
}

static const char *overlapping(const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    unsigned mask = q->check_overlaps;
    uint64_t crypt_offset, crypt_bytes;

    if ((mask & OVERLAP_HEADER) && offset < q->cluster_size) {
        return "qcow2_header";
    }
    if ((mask & OVERLAP_ACTIVE_L1) && ranges_meet(offset, bytes, q->l1_offset, (uint64_t)q->l1_size * 8)) {
        return "active L1 table";
    }
    if ((mask & OVERLAP_ACTIVE_L2) && meets_l2_table(q, offset, bytes)) {
        return "active L2 table";
    }
    if ((mask & OVERLAP_REFCOUNT_TABLE) && ranges_meet(offset, bytes, q->reftable_offset, (uint64_t)q->reftable_size * 8)) {
        return "refcount table";
    }
    if ((mask & OVERLAP_REFCOUNT_BLOCK) && meets_refcount_block(q, offset, bytes)) {
        return "refcount block";
    }
    if ((mask & OVERLAP_SNAPSHOT_TABLE) && ranges_meet(offset, bytes, q->snapshots_offset, q->snapshots_bytes)) {
        return "snapshot table";
    }
    if ((mask & OVERLAP_INACTIVE_L1) && meets_snapshot_l1(q, offset, bytes)) {
        return "inactive L1 table";
    }
    if ((mask & OVERLAP_BITMAP_DIRECTORY) && qcow2_bitmap_directory_meets(q, offset, bytes)) {
        return "bitmap directory";
    }
    if (mask && qcow2_crypt_header(q, &crypt_offset, &crypt_bytes) && ranges_meet(offset, bytes, crypt_offset, crypt_bytes)) {
        return "encryption header";
    }
    return NULL;
}

int qcow2_check_overlap_co(Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    const char *what = q->check_overlaps ? overlapping(q, offset, bytes) : NULL;
    if (!what) {
        return 0;
    }
    return qcow2_corrupt_co(q, "Preventing invalid write on metadata (overlaps with %s)", what);
}
