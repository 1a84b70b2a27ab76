/* qcow2 images: the header, opening, closing, facts about them. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "block/bitmap.h"
#include "block/crypt/crypt.h"
#include "block/format/qcow2.h"

static const struct {
    uint8_t type, bit;
    const char *name;
} feature_names[] = {
    { 0, 0, "dirty bit" },        { 0, 1, "corrupt bit" },         { 0, 2, "external data file" },
    { 0, 3, "compression type" }, { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
    { 2, 0, "bitmaps" },          { 2, 1, "raw external data" },
};
enum { FEATURE_BYTES = 48 };

static int qcow2_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= 8 && ld32_be(data) == QCOW2_MAGIC && ld32_be(data + 4) >= 2 ? 100 : 0;
}

static void extension_free(void *opaque)
{
    Qcow2Extension *ext = opaque;
    g_free(ext->data);
    g_free(ext);
}

/* --- reading the header --- */

static Error *check_features(Qcow2 *q, const uint8_t *table, size_t length)
{
    uint64_t unknown = q->incompatible & ~(uint64_t)INCOMPAT_KNOWN, nameless = 0;
    GString *names = g_string_new(NULL);

    for (unsigned bit = 0; bit < 64; bit++) {
        if (!(unknown >> bit & 1)) {
            continue;
        }
        const char *name = NULL;
        size_t name_length = 0;
        for (size_t i = 0; table && i + 2 < length && !name; i += FEATURE_BYTES) { /* the last one may be cut off */
            name = table[i] == 0 && table[i + 1] == bit ? (const char *)table + i + 2 : NULL;
            name_length = name ? strnlen(name, MIN(length - i - 2, 46)) : 0;
        }
        if (name && g_utf8_validate_len(name, name_length, NULL)) {
            g_string_append_printf(names, "%s%.*s", names->len ? ", " : "", (int)name_length, name);
        } else {
            nameless |= 1ull << bit;
        }
    }
    if (nameless) {
        g_string_append_printf(names, "%sUnknown incompatible feature: %" PRIx64, names->len ? ", " : "", nameless);
    }
    Error *err = unknown ? error_new("Unsupported qcow2 feature(s): %s", names->str) : NULL;
    g_string_free(names, TRUE);
    return err;
}

static Error *check_header(Qcow2 *q, const uint8_t *h)
{
    q->crypt_method = ld32_be(h + H_CRYPT);
    if (q->cluster_bits < QCOW2_MIN_CLUSTER_BITS || q->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return error_new("Cluster size 2^%u is outside of what qcow2 allows", q->cluster_bits);
    }
    if (q->version >= 3 && (q->header_length < H_V3_LENGTH ||
                            q->header_length > BIT64(q->cluster_bits) || q->header_length % 8)) {
        return error_new("qcow2 header length %u is not possible", q->header_length);
    }
    if (q->refcount_order > 6) {
        return error_new("The header asks for reference counts of more than 64 bits");
    }
    if (q->crypt_method > CRYPT_LUKS) {
        return error_new("Unsupported encryption method %u", q->crypt_method);
    }
    if ((q->incompatible & INCOMPAT_EXTENDED_L2) && q->cluster_bits < 14) {
        return error_new("Extended L2 entries need clusters of at least 16k");
    }
    if (!(q->incompatible & INCOMPAT_COMPRESSION) && q->compression) {
        return error_new("The compression type is set but its feature bit is not");
    }
    if ((q->incompatible & INCOMPAT_COMPRESSION) && !q->compression) {
        return error_new("The feature bit of the compression type is set, but the type is zlib, which needs none");
    }
    if (q->compression > COMPRESSION_ZSTD) {
        return error_new("Unknown compression type: %u", q->compression);
    }
#if !defined(HAVE_ZSTD)
    if (q->compression == COMPRESSION_ZSTD) {
        return error_new("The image is compressed with zstd, which this build lacks");
    }
#endif
    return NULL;
}

static void derive_geometry(Qcow2 *q)
{
    q->cluster_size = BIT64(q->cluster_bits);
    q->cluster_mask = q->cluster_size - 1;
    q->subclusters = (q->incompatible & INCOMPAT_EXTENDED_L2) != 0;
    q->entry_size = q->subclusters ? 16 : 8;
    q->l2_entries = q->cluster_size / q->entry_size;
    q->unit_size = q->subclusters ? q->cluster_size / QCOW2_SUBCLUSTERS : q->cluster_size;
}

static Error *parse_extensions(Qcow2 *q, const uint8_t *cluster, size_t end)
{
    size_t at = q->header_length;
    const uint8_t *features = NULL;
    size_t features_length = 0;

    while (at + 8 <= end) {
        uint32_t type = ld32_be(cluster + at), length = ld32_be(cluster + at + 4);
        at += 8;
        if (type == EXT_END) {
            break;
        }
        if (length > end - at) {
            return error_new("Header extension %#x is too large", type);
        }
        if (type == EXT_BACKING_FORMAT) {
            if (length >= 64) {
                return error_new("The name of the backing format is too long (%u bytes)", length);
            }
            g_free(q->node->backing_format);
            q->node->backing_format = g_strndup((const char *)cluster + at, length);
        } else if (type == EXT_FEATURES) {
            features = cluster + at;
            features_length = length;
        } else {
            Qcow2Extension *ext = g_new0(Qcow2Extension, 1);
            *ext = (Qcow2Extension) { type, length, g_memdup2(cluster + at, length) };
            g_ptr_array_add(q->extensions, ext);
        }
        at += ALIGN_UP((size_t)length, 8);
    }
    return check_features(q, features, features_length);
}

static Error *parse_backing_name(Qcow2 *q, const uint8_t *cluster)
{
    uint64_t offset = ld64_be(cluster + H_BACKING_OFFSET);
    uint32_t length = ld32_be(cluster + H_BACKING_SIZE);

    if (!offset) {
        return NULL;
    }
    if (length > 1023 || !range_inside(offset, length, q->cluster_size)) {
        return error_new("Backing file name too long");
    }
    q->node->backing_filename = g_strndup((const char *)cluster + offset, length);
    return NULL;
}

static Error *read_error(int ret, const char *what)
{
    return error_new_errno(ret, "Could not read qcow2 %s", what);
}

static Error *parse_header_co(Qcow2 *q)
{
    uint8_t h[H_OUR_LENGTH] = { 0 };
    int ret = node_pread_co(q->file, 0, sizeof(h), h);

    if (ret < 0) {
        return read_error(ret, "header");
    }
    if (ld32_be(h) != QCOW2_MAGIC) {
        return error_new("This is not a qcow2 image");
    }
    q->version = ld32_be(h + H_VERSION);
    if (q->version < 2 || q->version > 3) {
        return error_new("qcow2 version %u is not known here, only 2 and 3 are", q->version);
    }
    q->cluster_bits = ld32_be(h + H_CLUSTER_BITS);
    q->header_length = H_V2_LENGTH;
    q->refcount_order = 4;
    if (q->version >= 3) {
        q->incompatible = ld64_be(h + H_INCOMPATIBLE);
        q->compatible = ld64_be(h + H_COMPATIBLE);
        q->autoclear = ld64_be(h + H_AUTOCLEAR);
        q->refcount_order = ld32_be(h + H_REFCOUNT_ORDER);
        q->header_length = ld32_be(h + H_LENGTH);
        q->compression = q->header_length > H_COMPRESSION ? h[H_COMPRESSION] : 0;
    }
    TRY(check_header(q, h));
    derive_geometry(q);
    g_autofree uint8_t *cluster = g_try_malloc(q->cluster_size);
    ret = cluster ? node_pread_co(q->file, 0, q->cluster_size, cluster) : -ENOMEM;
    if (ret < 0) {
        return read_error(ret, "header");
    }
    uint64_t names = ld64_be(cluster + H_BACKING_OFFSET);
    TRY(parse_extensions(q, cluster,
                         names && names < q->cluster_size ? (size_t)names : q->cluster_size));
    TRY(parse_backing_name(q, cluster));
    q->node->size = ld64_be(h + H_SIZE);
    q->l1_size = ld32_be(h + H_L1_SIZE);
    q->l1_offset = ld64_be(h + H_L1_OFFSET);
    q->reftable_offset = ld64_be(h + H_REFTABLE_OFFSET);
    uint64_t reftable_bytes = (uint64_t)ld32_be(h + H_REFTABLE_CLUSTERS) << q->cluster_bits;
    if (reftable_bytes > QCOW2_MAX_REFTABLE_BYTES) {
        return error_new("Image too large: its refcount table has more than 8 MiB");
    }
    q->reftable_size = (uint32_t)(reftable_bytes / 8);
    return NULL;
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

int qcow2_write_header_u64_co(Qcow2 *q, unsigned field, uint64_t value)
{
    uint8_t data[8];
    st64_be(data, value);
    int ret = node_pwrite_co(q->file, field, 8, data, 0);
    return ret < 0 ? ret : node_flush_co(q->file);
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

const Qcow2Extension *qcow2_find_extension(const Qcow2 *q, uint32_t type)
{
    for (guint i = 0; i < q->extensions->len; i++) {
        const Qcow2Extension *ext = g_ptr_array_index(q->extensions, i);
        if (ext->type == type) {
            return ext;
        }
    }
    return NULL;
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
    TRY(parse_header_co(q));
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
    q->extensions = g_ptr_array_new_with_free_func(extension_free);
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

/* --- writing the header --- */

static size_t put_extension(uint8_t *at, size_t room, uint32_t type, const void *data,
                            uint32_t length)
{
    size_t bytes = 8 + ALIGN_UP((size_t)length, 8);
    if (bytes + 8 > room) { /* the end marker must fit too */
        return 0;
    }
    memset(at, 0, bytes);
    st32_be(at, type);
    st32_be(at + 4, length);
    if (length) {
        memcpy(at + 8, data, length);
    }
    return bytes;
}

static size_t put_features(uint8_t *at, size_t room)
{
    uint8_t table[ARRAY_SIZE(feature_names) * FEATURE_BYTES] = { 0 };
    for (size_t i = 0; i < ARRAY_SIZE(feature_names); i++) {
        table[i * FEATURE_BYTES] = feature_names[i].type;
        table[i * FEATURE_BYTES + 1] = feature_names[i].bit;
        strcpy((char *)table + i * FEATURE_BYTES + 2, feature_names[i].name);
    }
    return put_extension(at, room, EXT_FEATURES, table, sizeof(table));
}

/* The one of the bitmaps comes last, and in front of the backing name there is room for it, so that
 * it can come without anything being moved. */
enum { BITMAPS_ROOM = 32 };

/* The order of extensions: where data and keys are, names of features, bitmaps, what other programs put there. */
enum { PLACE_DATA, PLACE_BITMAPS, PLACE_UNKNOWN };

static int extension_place(const Qcow2Extension *ext)
{
    return ext->type == EXT_DATA_FILE || ext->type == EXT_CRYPTO ? PLACE_DATA
           : ext->type == EXT_BITMAPS                            ? PLACE_BITMAPS
                                                                 : PLACE_UNKNOWN;
}

static Error *put_extensions(Qcow2 *q, uint8_t *cluster, size_t limit, int place, size_t *at)
{
    for (guint i = 0; i < q->extensions->len; i++) {
        const Qcow2Extension *ext = g_ptr_array_index(q->extensions, i);
        if (extension_place(ext) != place || (ext->type == EXT_DATA_FILE && !ext->length)) {
            continue;
        }
        size_t put = put_extension(cluster + *at, limit - MIN(limit, *at), ext->type, ext->data,
                                   ext->length);
        if (!put) {
            return error_new("The header extensions do not fit into the first cluster");
        }
        *at += put;
    }
    return NULL;
}

/* Everything behind the fixed fields: extensions, the end mark, the backing name. `cluster` has the
 * fields. */
Error *qcow2_put_variable_part(Qcow2 *q, uint8_t *cluster, size_t *ret_end)
{
    const char *format = q->node->backing_format, *backing = q->node->backing_filename;
    size_t at = q->header_length, name_length = backing ? strlen(backing) : 0;
    size_t limit = q->cluster_size - MIN(q->cluster_size, name_length);

    memset(cluster + at, 0, q->cluster_size - at);
    if (format && backing) {
        size_t put = put_extension(cluster + at, limit - MIN(limit, at), EXT_BACKING_FORMAT, format,
                                   (uint32_t)strlen(format));
        at += put;
        if (!put) {
            return error_new("The backing file name is too long for the header");
        }
    }
    TRY(put_extensions(q, cluster, limit, PLACE_DATA, &at));
    if (q->version >= 3) { /* only names: left out when the rest would not fit */
        size_t needed = at + BITMAPS_ROOM;
        at += put_features(cluster + at, limit - MIN(limit, needed));
    }
    size_t before = at;
    TRY(put_extensions(q, cluster, limit, PLACE_BITMAPS, &at));
    TRY(put_extensions(q, cluster, limit, PLACE_UNKNOWN, &at));
    at += 8; /* EXT_END */
    if (q->version >= 3 && at == before + 8 && at + BITMAPS_ROOM + name_length <= q->cluster_size) {
        at += BITMAPS_ROOM;
    }
    if (name_length > 1023 || at + name_length > q->cluster_size) {
        return error_new("Backing file name '%s' is too long", backing);
    }
    st64_be(cluster + H_BACKING_OFFSET, backing ? at : 0);
    st32_be(cluster + H_BACKING_SIZE, (uint32_t)name_length);
    memcpy(cluster + at, backing ? backing : "", name_length);
    *ret_end = at + name_length;
    return NULL;
}

/*
 * Only what differs, and so that a crash leaves the old header or the new one where that is
 * possible: a change inside one sector is whole or absent; an extension that is added at the end
 * mark (a word of zeroes) begins to exist when its first word is written, last.
 */
static int write_difference_co(Qcow2 *q, const uint8_t *old, const uint8_t *now)
{
    uint64_t first = 0, end = q->cluster_size;
    while (first < end && !memcmp(old + first, now + first, 8)) {
        first += 8;
    }
    while (end > first && !memcmp(old + end - 8, now + end - 8, 8)) {
        end -= 8;
    }
    if (first == end) {
        return 0;
    }
    bool at_end_mark = first >= q->header_length && !ld64_be(old + first);
    if (first / 512 == (end - 1) / 512 || !at_end_mark) {
        return node_pwrite_co(q->file, first, end - first, now + first, 0);
    }
    int ret = node_pwrite_co(q->file, first + 8, end - first - 8, now + first + 8, 0);
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    return ret >= 0 ? node_pwrite_co(q->file, first, 8, now + first, 0) : ret;
}

Error *qcow2_rewrite_header_co(Qcow2 *q)
{
    g_autofree uint8_t *old = g_malloc0(q->cluster_size), *now = g_malloc0(q->cluster_size);
    size_t end;
    int ret = node_pread_co(q->file, 0, q->cluster_size, old);

    if (ret >= 0) {
        memcpy(now, old, q->header_length);
        TRY(qcow2_put_variable_part(q, now, &end));
        ret = write_difference_co(q, old, now);
    }
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    return ret < 0 ? error_new_errno(ret, "The changed qcow2 header could not be written") : NULL;
}

static Error *qcow2_set_backing_co(BlockNode *node, const char *filename, const char *format)
{
    Qcow2 *q = node->state;
    g_autofree char *old_name = node->backing_filename, *old_format = node->backing_format;

    node->backing_filename = filename && *filename ? g_strdup(filename) : NULL;
    node->backing_format = format && *format ? g_strdup(format) : NULL;
    co_mutex_lock(&q->lock);
    Error *err = qcow2_rewrite_header_co(q);
    co_mutex_unlock(&q->lock);
    if (err) {
        g_free(node->backing_filename);
        g_free(node->backing_format);
        node->backing_filename = g_steal_pointer(&old_name);
        node->backing_format = g_steal_pointer(&old_format);
    }
    return err;
}

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
