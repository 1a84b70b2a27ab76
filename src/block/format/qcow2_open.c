/* qcow2 images: opening and closing, options, facts; the driver. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "block/bitmap.h"
#include "block/crypt/crypt.h"
#include "block/format/qcow2.h"

static int qcow2_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= 8 && ld32_be(data) == QCOW2_MAGIC && ld32_be(data + 4) >= 2 ? 100 : 0;
}

/* --- reading the tables --- */

static Error *check_table_place(Qcow2 *q, const char *name, uint64_t offset, uint64_t entries)
{
    uint64_t end;
    if (qcow2_in_cluster(q, offset) || !checked_add_u64(offset, entries * 8, &end) ||
        end > INT64_MAX) {
        return error_new("%s table offset invalid", name);
    }
    return NULL;
}

static Error *read_table_co(Qcow2 *q, const char *name, uint64_t offset, uint32_t entries,
                            uint64_t **ret_table)
{
    size_t bytes = (size_t)entries * 8;
    g_autofree uint64_t *table = g_try_malloc0(MAX(bytes, 8));
    int ret = table ? 0 : -ENOMEM;

    TRY(check_table_place(q, name, offset, entries));
    if (ret >= 0 && bytes) {
        ret = node_pread_co(q->file, offset, bytes, table);
    }
    if (ret < 0) {
        return error_new_errno(ret, "Could not read %s table", name);
    }
    for (uint32_t i = 0; i < entries; i++) {
        table[i] = ld64_be(&table[i]);
    }
    *ret_table = g_steal_pointer(&table);
    return NULL;
}

static Error *read_tables_co(Qcow2 *q)
{
    BlockNode *node = q->node;

    if (node->size > INT64_MAX) {
        return error_new("The disk size %" PRIu64 " is not possible", node->size);
    }
    if ((uint64_t)q->l1_size * 8 > QCOW2_MAX_L1_BYTES) {
        return error_new("Active L1 table too large");
    }
    if (qcow2_l1_needed(q, node->size) > QCOW2_MAX_L1_BYTES / 8) {
        return error_new("Image is too big");
    }
    if (qcow2_l1_needed(q, node->size) > q->l1_size) {
        return error_new("L1 table is too small");
    }
    if (!q->reftable_size) {
        return error_new("Image does not contain a reference count table");
    }
    TRY(read_table_co(q, "Active L1", q->l1_offset, q->l1_size, &q->l1));
    qcow2_event_co(q, BLOCK_EVENT_REFTABLE_LOAD);
    TRY(read_table_co(q, "Reference count", q->reftable_offset, q->reftable_size, &q->reftable));
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        q->reftable[i] &= ~(uint64_t)511;
    }
    q->l1_dirty = g_new0(bool, q->l1_size / 64 + 1);
    return NULL;
}

static Error *cache_limits(Qcow2 *q, KeyValues *opts, unsigned *ret_l2, unsigned *ret_refcount)
{
    uint64_t covering = qcow2_l1_needed(q, q->node->size) << q->cluster_bits, l2, refcount, both;
    bool both_set = keyvalues_has(opts, "cache-size"),
         l2_set = keyvalues_has(opts, "l2-cache-size"), refcount_set = keyvalues_has(opts, "refcount-cache-size");
    uint64_t entry;

    /* Tables are cached whole; the option says what is read at once elsewhere, and here only what is possible. */
    TRY(block_take_size(opts, "l2-cache-entry-size", q->cluster_size, &entry));
    if (!IS_POW2(entry) || entry < 512 || entry > q->cluster_size) {
        return error_new("L2 cache entry size must be a power of two between 512 and the cluster size (%" PRIu64 ")", q->cluster_size);
    }

    TRY(block_take_size(opts, "l2-cache-size", MIN(32 * MiB, covering), &l2));
    TRY(block_take_size(opts, "refcount-cache-size", 1 * MiB, &refcount));
    TRY(block_take_size(opts, "cache-size", 0, &both));
    if (both_set && l2_set && refcount_set) {
        return error_new("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    }
    if (both_set && l2_set && l2 > both) {
        return error_new("l2-cache-size may not exceed cache-size");
    }
    if (both_set && refcount_set && refcount > both) {
        return error_new("refcount-cache-size may not exceed cache-size");
    }
    if (both_set && l2_set) {
        refcount = both - l2;
    } else if (both_set) {
        l2 = both > refcount ? both - refcount : 0;
    }
    *ret_l2 = (unsigned)CLAMP(l2 >> q->cluster_bits, 4, 1 << 20);
    *ret_refcount = (unsigned)CLAMP(refcount >> q->cluster_bits, 4, 1 << 20);
    return NULL;
}

/* A template under either name, and switches of single structures beside it. */
static Error *overlap_options(Qcow2 *q, KeyValues *opts)
{
    static const struct {
        const char *name;
        unsigned mask;
    } templates[] = { { "none", 0 }, { "constant", OVERLAP_CONSTANT }, { "cached", OVERLAP_CACHED }, { "all", OVERLAP_CACHED } },
      parts[] = { { "main-header", OVERLAP_HEADER },
                  { "active-l1", OVERLAP_ACTIVE_L1 },
                  { "active-l2", OVERLAP_ACTIVE_L2 },
                  { "refcount-table", OVERLAP_REFCOUNT_TABLE },
                  { "refcount-block", OVERLAP_REFCOUNT_BLOCK },
                  { "snapshot-table", OVERLAP_SNAPSHOT_TABLE },
                  { "inactive-l1", OVERLAP_INACTIVE_L1 },
                  { "bitmap-directory", OVERLAP_BITMAP_DIRECTORY } };
    g_autofree char *brief = keyvalues_take(opts, "overlap-check"), *full = keyvalues_take(opts, "overlap-check.template");
    const char *chosen = full ? full : brief ? brief : "cached";
    size_t n = 0;

    if (brief && full && strcmp(brief, full)) {
        return error_new("Conflicting values for qcow2 options 'overlap-check' ('%s') and 'overlap-check.template' ('%s')", brief,
                         full);
    }
    while (n < ARRAY_SIZE(templates) && strcmp(templates[n].name, chosen)) {
        n++;
    }
    if (n == ARRAY_SIZE(templates)) {
        return error_new("Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any of the following: "
                         "none, constant, cached, all", chosen);
    }
    q->check_overlaps = templates[n].mask;
    for (n = 0; n < ARRAY_SIZE(parts); n++) {
        g_autofree char *key = g_strconcat("overlap-check.", parts[n].name, NULL);
        bool on;
        TRY(block_take_bool(opts, key, (q->check_overlaps & parts[n].mask) != 0, &on));
        q->check_overlaps = on ? q->check_overlaps | parts[n].mask : q->check_overlaps & ~parts[n].mask;
    }
    return NULL;
}

static Error *parse_options(Qcow2 *q, KeyValues *opts, bool *ret_repair, unsigned *ret_l2, unsigned *ret_refcount)
{
    bool marked = (q->compatible & COMPAT_LAZY_REFCOUNTS) != 0;
    TRY(cache_limits(q, opts, ret_l2, ret_refcount));
    TRY(block_take_bool(opts, "lazy-refcounts", marked, &q->lazy));
    if (q->lazy && q->version < 3) {
        return error_new("Lazy refcounts require a qcow2 image with at least compatibility level 1.1");
    }
    TRY(block_take_bool(opts, "pass-discard-request", q->node->unmap, &q->pass_discard));
    TRY(block_take_bool(opts, "x-repair", false, ret_repair));
    return overlap_options(q, opts);
}

static Error *take_options(Qcow2 *q, KeyValues *opts, bool *ret_repair)
{
    unsigned l2 = 0, refcount = 0;
    TRY(parse_options(q, opts, ret_repair, &l2, &refcount));
    qcow2_cache_init(&q->l2_cache, q, l2, true);
    qcow2_cache_init(&q->refcount_cache, q, refcount, false);
    return NULL;
}

/* --- opening and closing --- */

static void qcow2_release(Qcow2 *q)
{
    qcow2_cache_fini(&q->l2_cache);
    qcow2_cache_fini(&q->refcount_cache);
    qcow2_snapshots_free(q);
    qcow2_bitmaps_free(q);
    qcow2_crypt_free(q);
    g_clear_pointer(&q->extensions, g_ptr_array_unref);
    qcow2_quarantine_clear(q);
    g_clear_pointer(&q->freed, g_array_unref);
    g_clear_pointer(&q->freed_written, g_array_unref);
    g_clear_pointer(&q->l1, g_free);
    g_clear_pointer(&q->l1_dirty, g_free);
    g_clear_pointer(&q->reftable, g_free);
    g_clear_pointer(&q->decompressed, g_free);
}

static void say_repaired(void *opaque, const char *text)
{
    log_printf("%s\n", text);
}

/* What an image must be before it is written to. */
static Error *prepare_writing_co(Qcow2 *q, bool repair)
{
    if ((q->incompatible & INCOMPAT_CORRUPT) && !repair) {
        return error_hint(error_new("The qcow2 image is marked as corrupt: open it read-only, or "
                                    "repair it with qemu-img check -r all"),
                          "qemu-img check -r all may repair it.");
    }
    uint64_t kept = q->autoclear & (AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_DATA);
    if (q->autoclear != kept) { /* data that we do not keep up to date */
        q->autoclear = kept;
        int ret = qcow2_write_header_u64_co(q, H_AUTOCLEAR, kept);
        if (ret < 0) {
            return error_new_errno(ret, "The changed qcow2 header could not be written");
        }
    }
    if ((q->incompatible & INCOMPAT_DIRTY) && !repair) {
        BlockCheck check = { .message = say_repaired };
        TRY(qcow2_check_co(q->node, &check, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS));
        if (check.check_errors || check.corruptions > check.corruptions_fixed) {
            return error_new("Could not repair dirty image");
        }
    }
    return NULL;
}

/* x-snapshot=NAME: the disk as it was then, for reading. */
static Error *show_snapshot_co(Qcow2 *q, KeyValues *opts)
{
    g_autofree char *name = keyvalues_take(opts, "x-snapshot");
    if (!name) {
        return NULL;
    }
    if (!q->node->read_only) {
        return error_new("A snapshot can only be opened for reading");
    }
    return qcow2_snapshot_show_co(q, name);
}

static Error *open_data_file_co(Qcow2 *q, KeyValues *opts)
{
    const Qcow2Extension *ext = qcow2_find_extension(q, EXT_DATA_FILE);
    g_autofree char *name =
        ext && ext->length ? g_strndup((const char *)ext->data, ext->length) : NULL;
    BlockEdge *edge;

    q->data = q->file;
    TRY(node_open_child_co(q->node, opts, "data-file", qcow2_external(q) ? name : NULL, &edge));
    if (!qcow2_external(q)) {
        return edge ? error_new("'data-file' can only be set for images with an external data file") : NULL;
    }
    if (!edge) {
        return error_new("'data-file' is required for this image");
    }
    q->data = edge->node;
    if (qcow2_raw_external(q) && q->node->backing_filename) {
        return error_new("A raw external data file and a backing file exclude each other");
    }
    return NULL;
}

static Error *open_steps_co(BlockNode *node, Qcow2 *q, KeyValues *opts)
{
    bool repair;
    TRY(qcow2_parse_header_co(q));
    TRY(open_data_file_co(q, opts));
    TRY(take_options(q, opts, &repair));
    TRY(qcow2_crypt_open_co(q, opts));
    TRY(read_tables_co(q));
    TRY(qcow2_snapshots_read_co(q));
    TRY(show_snapshot_co(q, opts));
    q->fresh = ALIGN_UP(q->file->size, q->cluster_size);
    node->limits.cluster_size = (uint32_t)q->cluster_size;
    node->limits.own_size = (uint32_t)q->unit_size;
    node->limits.zeroes_align = (uint32_t)q->cluster_size;
    node->limits.discard_align = (uint32_t)q->cluster_size;
    node->limits.max_transfer = 64 << 20;
    node->limits.max_zeroes = 1ull << 40;
    if (!node->read_only) {
        TRY(prepare_writing_co(q, repair));
    }
    return repair ? NULL : qcow2_bitmaps_load_co(q);
}

static Error *qcow2_open_co(BlockNode *node, KeyValues *opts)
{
    Qcow2 *q = node->state;

    q->node = node;
    q->file = node->file->node;
    q->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    q->freed_written = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    list_init(&q->allocations);
    co_mutex_init(&q->lock);
    Error *err = open_steps_co(node, q, opts);
    if (err) {
        qcow2_release(q);
    }
    return err;
}

static void qcow2_close_co(BlockNode *node)
{
    Qcow2 *q = node->state;
    if (!node->read_only && !q->broken) {
        co_mutex_lock(&q->lock);
        Error *err = qcow2_bitmaps_store_co(q);
        qcow2_settle_co(q);
        co_mutex_unlock(&q->lock);
        node_note_loss(node, err);
    }
    qcow2_release(q);
}

static Error *qcow2_change_options_co(BlockNode *node, KeyValues *opts)
{
    Qcow2 *q = node->state, wanted = *q;
    unsigned l2 = 0, refcount = 0;
    bool repair;
    TRY(parse_options(&wanted, opts, &repair, &l2, &refcount));
    q->lazy = wanted.lazy;
    q->pass_discard = wanted.pass_discard;
    q->check_overlaps = wanted.check_overlaps;
    q->l2_cache.limit = l2;
    q->refcount_cache.limit = refcount;
    return NULL;
}

static Error *qcow2_reopen_co(BlockNode *node)
{
    Qcow2 *q = node->state;
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        b->read_only = node->read_only;
    }
    if (!node->read_only) {
        TRY(prepare_writing_co(q, false));
        return qcow2_bitmaps_reopened_co(q);
    }
    co_mutex_lock(&q->lock);
    node->read_only = false; /* for the last time */
    Error *err = qcow2_bitmaps_store_co(q);
    int ret = q->broken ? 0 : qcow2_settle_co(q);
    node->read_only = true;
    co_mutex_unlock(&q->lock);
    if (!err && ret < 0) {
        err = error_new_errno(ret, "Could not write the metadata of '%s'", node->filename);
    }
    return err;
}

static int qcow2_flush_co(BlockNode *node)
{
    Qcow2 *q = node->state;
    int ret = q->data != q->file ? node_flush_co(q->data) : 0;
    return ret >= 0 ? node_flush_co(q->file) : ret;
}

/* --- facts --- */

static void qcow2_info(BlockNode *node, Value *data)
{
    const Qcow2 *q = node->state;
    value_put_str(data, "compat", q->version >= 3 ? "1.1" : "0.10");
    value_put_str(data, "compression-type", q->compression == COMPRESSION_ZSTD ? "zstd" : "zlib");
    if (q->version < 3) {
        value_put_int(data, "refcount-bits", 16);
        qcow2_crypt_info(q, data);
        return;
    }
    value_put_bool(data, "lazy-refcounts", (q->compatible & COMPAT_LAZY_REFCOUNTS) != 0);
    Value *bitmaps = qcow2_bitmaps_info(node->state);
    if (bitmaps) {
        value_put(data, "bitmaps", bitmaps);
    }
    value_put_int(data, "refcount-bits", 1 << q->refcount_order);
    qcow2_crypt_info(q, data);
    if (qcow2_external(q)) {
        const Qcow2Extension *ext = qcow2_find_extension(q, EXT_DATA_FILE);
        if (ext && ext->length) {
            g_autofree char *name = g_strndup((const char *)ext->data, ext->length);
            value_put_str(data, "data-file", name);
        }
        value_put_bool(data, "data-file-raw", qcow2_raw_external(q));
    }
    value_put_bool(data, "corrupt", (q->incompatible & INCOMPAT_CORRUPT) != 0);
    value_put_bool(data, "extended-l2", q->subclusters);
}

static bool qcow2_dirty_flag(BlockNode *node)
{
    const Qcow2 *q = node->state;
    return (q->incompatible & INCOMPAT_DIRTY) != 0;
}

static const BlockOption qcow2_options[] = {
    { "cache-size", OPT_SIZE, "Bytes of all metadata caches" },
    { "l2-cache-size", OPT_SIZE, "Bytes of the cache of L2 tables" },
    { "l2-cache-entry-size", OPT_SIZE, "A power of two from 512 to the cluster size; tables are cached whole" },
    { "refcount-cache-size", OPT_SIZE, "Bytes of the cache of refcount blocks" },
    { "lazy-refcounts", OPT_BOOL, "Refcounts may be updated late" },
    { "overlap-check", OPT_STR,
      "Guard metadata against wrong writes: none, constant, cached, all" },
    { "overlap-check.template", OPT_STR, "The same" },
    { "overlap-check.main-header", OPT_BOOL, "Beside the template" },
    { "overlap-check.active-l1", OPT_BOOL, "Beside the template" },
    { "overlap-check.active-l2", OPT_BOOL, "Beside the template" },
    { "overlap-check.refcount-table", OPT_BOOL, "Beside the template" },
    { "overlap-check.refcount-block", OPT_BOOL, "Beside the template" },
    { "overlap-check.snapshot-table", OPT_BOOL, "Beside the template" },
    { "overlap-check.inactive-l1", OPT_BOOL, "Beside the template" },
    { "overlap-check.bitmap-directory", OPT_BOOL, "Beside the template" },
    { "encrypt.format", OPT_STR, "How the image is encrypted: aes or luks (default: as it says)" },
    { "encrypt.key-secret", OPT_STR, "ID of secret providing qcow AES key or LUKS passphrase" },
    { "pass-discard-request", OPT_BOOL, "Tell the storage what the guest discards" },
    { 0 },
};

static const BlockOption qcow2_create_options[] = {
    { "backing_file", OPT_STR, "File name of a base image" },
    { "backing_fmt", OPT_STR, "Image format of the base image" },
    { "cluster_size", OPT_SIZE, "qcow2 cluster size" },
    { "compat", OPT_STR, "Compatibility level (v2 [0.10] or v3 [1.1])" },
    { "compression_type", OPT_STR, "Compression method used for image cluster compression" },
    { "data_file", OPT_STR, "File name of an external data file" },
    { "data_file_raw", OPT_BOOL, "The external data file must stay valid as a raw image" },
    CRYPT_LUKS_OPTIONS("encrypt."),
    { "encrypt.format", OPT_STR, "Encrypt the image, format choices: 'aes', 'luks'" },
    { "encrypt.key-secret", OPT_STR, "ID of secret providing qcow AES key or LUKS passphrase" },
    { "encryption", OPT_BOOL,
      "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)" },
    { "extended_l2", OPT_BOOL, "Extended L2 tables" },
    { "lazy_refcounts", OPT_BOOL, "Postpone refcount updates" },
    { "preallocation", OPT_STR,
      "Preallocation mode (allowed values: off, metadata, falloc, full)" },
    { "refcount_bits", OPT_NUM, "Width of a reference count entry in bits" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};

static const BlockOption qcow2_amend_options[] = {
    { "backing_file", OPT_STR, "File name of a base image" },
    { "backing_fmt", OPT_STR, "Image format of the base image" },
    { "compat", OPT_STR, "Compatibility level (v2 [0.10] or v3 [1.1])" },
    { "data_file", OPT_STR, "File name of an external data file" },
    { "data_file_raw", OPT_BOOL, "The external data file must stay valid as a raw image" },
    CRYPT_AMEND_OPTIONS("encrypt."),
    { "lazy_refcounts", OPT_BOOL, "Postpone refcount updates" },
    { "refcount_bits", OPT_NUM, "Width of a reference count entry in bits" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};

BLOCK_DRIVER(qcow2, .name = "qcow2", .desc = "qcow2 image, versions 2 and 3", .deciding = (const char *const[]) { "encrypt.", "x-snapshot", NULL },
             .state_size = sizeof(Qcow2), .supports_backing = true, .repairs = true, .options = qcow2_options,
             .create_options = qcow2_create_options, .amend_options = qcow2_amend_options, .probe = qcow2_probe, .open_co = qcow2_open_co,
             .close_co = qcow2_close_co, .create_co = qcow2_create_co, .preadv_co = qcow2_preadv_co,
             .pwritev_co = qcow2_pwritev_co, .write_zeroes_co = qcow2_write_zeroes_co, .zeroes_parts = true,
             .discard_co = qcow2_discard_co, .write_back_co = qcow2_write_back_co,
             .status_co = qcow2_status_co, .truncate_co = qcow2_truncate_co, .info = qcow2_info,
             .flush_co = qcow2_flush_co, .dirty_flag = qcow2_dirty_flag, .check_co = qcow2_check_co, .measure = qcow2_measure,
             .set_backing_co = qcow2_set_backing_co, .make_empty_co = qcow2_make_empty_co,
             .snapshots = qcow2_snapshots, .snapshot_create_co = qcow2_snapshot_create_co,
             .snapshot_apply_co = qcow2_snapshot_apply_co,
             .snapshot_delete_co = qcow2_snapshot_delete_co,
             .amend_co = qcow2_amend_co, .reopen_co = qcow2_reopen_co, .change_options_co = qcow2_change_options_co,
              .can_store_bitmap = qcow2_can_store_bitmap,
             .vmstate_pread_co = qcow2_vmstate_pread_co,
             .vmstate_pwrite_co = qcow2_vmstate_pwrite_co,
             .vmstate_map_co = qcow2_vmstate_map_co, .vmstate_open = qcow2_vmstate_open,
             .vmstate_offset = qcow2_vmstate_offset, .write_flags = REQ_COMPRESSED);
