/*
 * Changing what a qcow2 image is: its version, its refcount width, its flags. Also the writing of
 * a whole new refcount structure, which repair uses too.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/bitmap.h"
#include "block/format/qcow2.h"

/* --- a new refcount structure --- */

void qcow2_forget_refcount_structure(const Qcow2 *q, uint32_t *refs, uint64_t count)
{
    uint64_t bytes = (uint64_t)q->reftable_size * 8;
    uint64_t last = bytes ? (q->reftable_offset + bytes - 1) >> q->cluster_bits : 0;
    for (uint64_t i = q->reftable_offset >> q->cluster_bits; bytes && i <= last && i < count; i++) {
        refs[i] -= refs[i] != 0;
    }
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        uint64_t cluster = q->reftable[i] >> q->cluster_bits;
        if (q->reftable[i] && !qcow2_in_cluster(q, q->reftable[i]) && cluster < count) {
            refs[cluster] -= refs[cluster] != 0;
        }
    }
}

/* The cluster behind the last one of the structure that the header names. */
static uint64_t structure_end(const Qcow2 *q)
{
    uint64_t end = q->reftable_offset + (uint64_t)q->reftable_size * 8;
    for (uint32_t i = 0; i < q->reftable_size; i++) {
        end = MAX(end, q->reftable[i] + (q->reftable[i] ? q->cluster_size : 0));
    }
    return qcow2_clusters(q, end);
}

/* What the new structure counts, and where it lies itself: [first, end). */
typedef struct NewCounts {
    const uint32_t *refs;
    uint64_t first, end;
} NewCounts;

static int write_block_co(Qcow2 *q, const NewCounts *n, uint64_t block, uint64_t at,
                          uint8_t *buffer)
{
    uint64_t per_block = q->cluster_size * 8 >> q->refcount_order;
    memset(buffer, 0, q->cluster_size);
    for (uint64_t e = 0; e < per_block; e++) {
        uint64_t cluster = block * per_block + e;
        uint64_t refs = cluster < n->first ? n->refs[cluster] : cluster < n->end;
        if (refs > qcow2_max_refcount(q)) {
            return -EOVERFLOW;
        }
        qcow2_refcount_write(q, buffer, e, refs);
    }
    return node_pwrite_co(q->file, at, q->cluster_size, buffer, 0);
}

/* The place of the table and the width of its counts: one write. */
static int switch_co(Qcow2 *q)
{
    uint8_t h[H_V3_LENGTH];
    size_t end = q->version >= 3 ? H_V3_LENGTH : H_V2_LENGTH;
    int ret = node_flush_co(q->file);
    if (ret >= 0) {
        ret = node_pread_co(q->file, 0, sizeof(h), h);
    }
    st64_be(h + H_REFTABLE_OFFSET, q->reftable_offset);
    st32_be(h + H_REFTABLE_CLUSTERS, (uint32_t)((uint64_t)q->reftable_size * 8 >> q->cluster_bits));
    st32_be(h + H_REFCOUNT_ORDER, q->refcount_order);
    if (ret >= 0) {
        ret = node_pwrite_co(q->file, H_REFTABLE_OFFSET, end - H_REFTABLE_OFFSET,
                             h + H_REFTABLE_OFFSET, 0);
    }
    return ret >= 0 ? node_flush_co(q->file) : ret;
}

/*
 * Behind the last cluster in use: [blocks][table]. Blocks of stretches without references are
 * written too: they cost little and keep it simple.
 */
int qcow2_replace_refcounts_co(Qcow2 *q, const uint32_t *refs, uint64_t count, unsigned order)
{
    uint64_t per_block = q->cluster_size * 8 >> order, blocks = 1, table = 1;
    unsigned old_order = q->refcount_order;
    NewCounts n = { .refs = refs, .first = count };

    while (n.first > 1 && !refs[n.first - 1]) {
        n.first--;
    }
    n.first = MAX(n.first, MIN(structure_end(q), count)); /* the old one is valid until the header says otherwise */
    for (;;) {
        uint64_t need = (n.first + blocks + table + per_block - 1) / per_block;
        uint64_t need_table = (need * 8 + q->cluster_size - 1) >> q->cluster_bits;
        if (need <= blocks && need_table <= table) {
            break;
        }
        blocks = MAX(need, blocks);
        table = MAX(need_table, table);
    }
    if (table << q->cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
        return -EFBIG;
    }
    n.end = n.first + blocks + table;
    uint64_t entries = (table << q->cluster_bits) / 8;
    g_autofree uint64_t *reftable = g_new0(uint64_t, entries);
    g_autofree uint8_t *buffer = g_malloc(q->cluster_size);
    int ret = 0;
    q->refcount_order = order;
    for (uint64_t b = 0; b < blocks && ret >= 0; b++) {
        reftable[b] = (n.first + b) << q->cluster_bits;
        ret = write_block_co(q, &n, b, reftable[b], buffer);
    }
    qcow2_cache_fini(&q->refcount_cache);
    qcow2_cache_init(&q->refcount_cache, q, q->refcount_cache.limit, false);
    if (ret < 0) {
        q->refcount_order = old_order;
        return ret;
    }
    g_free(q->reftable);
    q->reftable = g_steal_pointer(&reftable);
    q->reftable_size = (uint32_t)entries;
    q->reftable_offset = (n.first + blocks) << q->cluster_bits;
    q->reftable_dirty = false;
    q->free_hint = 0;
    q->fresh = MAX(q->fresh, n.end << q->cluster_bits);
    ret = qcow2_write_reftable_co(q);
    if (ret >= 0) {
        ret = switch_co(q);
    }
    q->broken |= ret < 0; /* memory and disk may differ now */
    return ret;
}

/* --- amend --- */

typedef struct Amend {
    unsigned version;
    uint64_t size, refcount_bits;
    bool lazy, size_set, lazy_set;
    const char *data_file; /* NULL: as it is */
    bool data_file_raw;
} Amend;

static Error *take_version(Qcow2 *q, KeyValues *opts, Amend *a)
{
    g_autofree char *compat = keyvalues_take(opts, "compat");
    a->version = q->version;
    if (!compat) {
        return NULL;
    }
    if (!strcmp(compat, "0.10") || !strcmp(compat, "v2")) {
        a->version = 2;
    } else if (!strcmp(compat, "1.1") || !strcmp(compat, "v3")) {
        a->version = 3;
    } else {
        return error_new("Unknown compatibility level %s", compat);
    }
    return NULL;
}

/* Options of creation that an image cannot change. */
static Error *refuse_fixed(Qcow2 *q, KeyValues *opts)
{
    static const struct {
        const char *key, *what;
    } fixed[] = {
        { "backing_file", "backing file" },
        { "backing_fmt", "backing format" },
        { "cluster_size", "cluster size" },
        { "preallocation", "preallocation mode" },
        { "compression_type", "compression type" },
        { "extended_l2", "L2 table format" },
        { "encryption", "encryption flag" },
    };
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
        if (keyvalues_has(opts, fixed[i].key)) {
            return !strcmp(fixed[i].key, "backing_file") || !strcmp(fixed[i].key, "backing_fmt")
                       ? error_hint(error_new("Cannot amend the %s", fixed[i].what),
                                    "You can use 'qemu-img rebase' instead.")
                       : error_new("Changing the %s is not supported", fixed[i].what);
        }
    }
    return NULL;
}

/* The name may change, as that of a backing file may, and the promise that the file is readable by itself may be taken
 * back. To give it later, all that the file does not have would have to be written to it. */
static Error *take_data_file(Qcow2 *q, KeyValues *opts, Amend *a)
{
    a->data_file = keyvalues_get(opts, "data_file");
    if (a->data_file && !qcow2_external(q)) {
        return error_new("The image keeps its data itself: data_file is for images that were made with one");
    }
    TRY(block_take_bool(opts, "data_file_raw", qcow2_raw_external(q), &a->data_file_raw));
    return a->data_file_raw && !qcow2_raw_external(q)
               ? error_new("data_file_raw can only be chosen when an image is made")
               : NULL;
}

static Error *take_options(Qcow2 *q, KeyValues *opts, Amend *a)
{
    TRY(refuse_fixed(q, opts));
    TRY(take_data_file(q, opts, a));
    TRY(take_version(q, opts, a));
    a->size_set = keyvalues_has(opts, "size");
    a->lazy_set = keyvalues_has(opts, "lazy_refcounts");
    TRY(block_take_size(opts, "size", 0, &a->size));
    TRY(block_take_num(opts, "refcount_bits", 1u << q->refcount_order, &a->refcount_bits));
    TRY(block_take_bool(opts, "lazy_refcounts", (q->compatible & COMPAT_LAZY_REFCOUNTS) != 0,
                        &a->lazy));
    if (!IS_POW2(a->refcount_bits) || a->refcount_bits > 64) {
        return error_new("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (a->version < 3 && a->refcount_bits != 16) {
        return error_new("Refcount widths other than 16 bits require compatibility level 1.1 or "
                         "above (use compat=1.1 or greater)");
    }
    if (a->version < 3 && a->lazy && a->lazy_set) {
        return error_new("Lazy refcounts only supported with compatibility level 1.1 and above "
                         "(use compat=1.1 or greater)");
    }
    return NULL;
}

static int write_version_co(Qcow2 *q)
{
    g_autofree uint8_t *old = g_malloc0(q->cluster_size), *h = g_malloc0(q->cluster_size);
    size_t end;
    int ret = node_pread_co(q->file, 0, q->cluster_size, old);
    if (ret < 0) {
        return ret;
    }
    memcpy(h, old, H_V2_LENGTH);
    st32_be(h + H_VERSION, q->version);
    if (q->version >= 3) {
        st64_be(h + H_INCOMPATIBLE, q->incompatible);
        st64_be(h + H_COMPATIBLE, q->compatible);
        st64_be(h + H_AUTOCLEAR, q->autoclear);
        st32_be(h + H_REFCOUNT_ORDER, q->refcount_order);
        st32_be(h + H_LENGTH, q->header_length);
    }
    Error *err = qcow2_put_variable_part(q, h, &end);
    if (err) {
        error_free(err);
        return -ENOSPC;
    }
    ret = node_pwrite_co(q->file, 0, q->cluster_size, h, 0);
    return ret >= 0 ? node_flush_co(q->file) : ret;
}

static Error *upgrade_co(Qcow2 *q)
{
    q->version = 3;
    q->header_length = H_OUR_LENGTH;
    int ret = write_version_co(q);
    if (ret < 0) {
        q->version = 2;
        q->header_length = H_V2_LENGTH;
    }
    return ret < 0 ? error_new_errno(ret, "Failed to turn the image into version 3") : NULL;
}

static Error *check_downgrade(Qcow2 *q)
{
    uint64_t foreign = q->incompatible & ~(uint64_t)INCOMPAT_DIRTY;
    if (q->refcount_order != 4) {
        return error_new("compat=0.10 requires refcount_bits=16");
    }
    if (foreign) {
        return error_new("Cannot downgrade an image with incompatible features set");
    }
    if (q->snapshots->len) {
        return error_new("Cannot downgrade an image that has snapshots; delete them first");
    }
    LIST_FOREACH (b, &q->node->bitmaps, BlockBitmap, in_node) {
        if (b->persistent) {
            return error_new("Cannot downgrade an image that has persistent bitmaps");
        }
    }
    return NULL;
}

static Error *downgrade_co(Qcow2 *q)
{
    TRY(check_downgrade(q));
    int ret = qcow2_expand_zeroes_co(q);
    q->lazy = false;
    co_mutex_lock(&q->lock);
    if (ret >= 0) {
        ret = qcow2_settle_co(q);
    }
    if (ret >= 0) {
        q->version = 2;
        q->header_length = H_V2_LENGTH;
        q->compatible = q->autoclear = 0;
        ret = write_version_co(q);
    }
    co_mutex_unlock(&q->lock);
    return ret < 0 ? error_new_errno(ret, "Failed to turn the image into version 2") : NULL;
}

static Error *change_width_co(Qcow2 *q, unsigned order)
{
    uint64_t count = qcow2_clusters(q, MAX(q->file->size, q->fresh)), value;
    uint32_t *refs;
    int ret = qcow2_settle_co(q);
    if (count > BIT64(30) || !(refs = calloc(MAX(count, 1), sizeof(*refs)))) {
        return error_new("The image is too large to change the refcount width");
    }
    for (uint64_t i = 0; i < count && ret >= 0; i++) {
        ret = qcow2_get_refcount_co(q, i, &value);
        if (ret >= 0 && value > (order < 5 ? BIT64(1u << order) - 1 : UINT32_MAX)) {
            free(refs);
            return error_new("Cannot decrease refcount entry width to %u bits: Cluster at offset "
                             "%#" PRIx64 " has a refcount of %" PRIu64,
                             1u << order, i << q->cluster_bits, value);
        }
        refs[i] = (uint32_t)value;
    }
    if (ret >= 0) {
        qcow2_forget_refcount_structure(q, refs, count);
        ret = qcow2_replace_refcounts_co(q, refs, count, order);
    }
    free(refs);
    return ret < 0 ? error_new_errno(ret, "Could not change the refcount width") : NULL;
}

static Error *set_lazy_co(Qcow2 *q, bool lazy)
{
    uint64_t now = lazy ? COMPAT_LAZY_REFCOUNTS : 0;
    int ret = 0;
    if (now != q->compatible) {
        ret = qcow2_settle_co(q); /* nothing may rest on the dirty bit */
    }
    if (ret >= 0 && now != q->compatible) {
        ret = qcow2_write_header_u64_co(q, H_COMPATIBLE, now);
    }
    if (ret >= 0) {
        q->compatible = now;
        q->lazy = lazy;
    }
    return ret < 0 ? error_new_errno(ret, "Could not update the qcow2 header") : NULL;
}

/* "": the image names none. */
static Error *set_data_file_co(Qcow2 *q, const char *name)
{
    Qcow2Extension *ext = (Qcow2Extension *)qcow2_find_extension(q, EXT_DATA_FILE);
    if (!ext) {
        ext = g_new0(Qcow2Extension, 1);
        ext->type = EXT_DATA_FILE;
        g_ptr_array_add(q->extensions, ext);
    }
    Qcow2Extension old = *ext;
    ext->data = (uint8_t *)g_strdup(name);
    ext->length = (uint32_t)strlen(name);
    Error *err = qcow2_rewrite_header_co(q);
    if (err) {
        g_free(ext->data);
        *ext = old;
    } else {
        g_free(old.data);
    }
    return err;
}

static Error *amend_data_file_co(Qcow2 *q, const Amend *a)
{
    int ret = 0;
    if (qcow2_raw_external(q) && !a->data_file_raw) {
        ret = qcow2_write_header_u64_co(q, H_AUTOCLEAR, q->autoclear & ~(uint64_t)AUTOCLEAR_RAW_DATA);
        q->autoclear &= ret < 0 ? UINT64_MAX : ~(uint64_t)AUTOCLEAR_RAW_DATA;
    }
    if (ret < 0) {
        return error_new_errno(ret, "Could not update the qcow2 header");
    }
    return a->data_file ? set_data_file_co(q, a->data_file) : NULL;
}

Error *qcow2_amend_co(BlockNode *node, KeyValues *opts, bool force)
{
    Qcow2 *q = node->state;
    Amend a = { 0 };
    Error *err = NULL;

    TRY(take_options(q, opts, &a));
    TRY(qcow2_crypt_amend_co(q, opts, force));
    co_mutex_lock(&q->lock);
    err = amend_data_file_co(q, &a);
    co_mutex_unlock(&q->lock);
    TRY(err);
    unsigned order = (unsigned)__builtin_ctzll(a.refcount_bits);
    if (a.version > q->version) {
        TRY(upgrade_co(q));
    }
    if (order != q->refcount_order) {
        co_mutex_lock(&q->lock);
        err = change_width_co(q, order);
        co_mutex_unlock(&q->lock);
        TRY(err);
    }
    if (q->version >= 3 && a.version >= 3 && a.lazy_set) {
        co_mutex_lock(&q->lock);
        err = set_lazy_co(q, a.lazy);
        co_mutex_unlock(&q->lock);
        TRY(err);
    }
    if (a.size_set && a.size != node->size) {
        TRY(node_truncate_co(node, a.size, PREALLOC_OFF));
    }
    return a.version < q->version ? downgrade_co(q) : NULL;
}
