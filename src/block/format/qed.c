/*
 * Driver "qed": QEMU enhanced disk, as docs/interop/qed_spec of its makers describes it: a header,
 * an L1 table, L2 tables, clusters; offsets of 64 bits, zero for nothing, one for a cluster of
 * zeroes.
 *
 * The tables are written behind the data they point at, so an image never needs the check that the
 * format's NEED_CHECK bit asks for; when it is set the bit goes at the first clean close.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    HEADER = 64,
    MAGIC = 0x00444551,
    DEFAULT_CLUSTER = 64 * 1024,
    DEFAULT_TABLE = 4,
    FEATURE_BACKING = BIT(0),
    FEATURE_NEED_CHECK = BIT(1),
    FEATURE_RAW_BACKING = BIT(2),
    FEATURES_KNOWN = 7,
    F_CLUSTER = 4,
    F_TABLE = 8,
    F_HEADER = 12,
    F_FEATURES = 16,
    F_COMPAT = 24,
    F_AUTOCLEAR = 32,
    F_L1 = 40,
    F_SIZE = 48,
    F_BACKING_OFFSET = 56,
    F_BACKING_SIZE = 60,
    MAX_BACKING = 1023,
};

typedef struct Qed {
    MetaCache meta;
    BlockMap map;
    uint64_t features, l1, end;
    uint64_t entries; /* of a table */
    uint32_t table_bytes, header_size;
    CoMutex lock; /* guards the making of L2 tables */
} Qed;

static int qed_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= HEADER && ld32_le(data) == MAGIC ? 100 : 0;
}

/* --- tables --- */

static uint64_t header_bytes(const Qed *s)
{
    return s->header_size * s->map.block_size;
}

static bool offset_valid(const BlockNode *node, uint64_t offset)
{
    const Qed *s = node->state;
    return IS_ALIGNED(offset, s->map.block_size) && offset >= header_bytes(s) &&
           offset < INT64_MAX / 2;
}

static int entry_co(Qed *s, uint64_t table, uint64_t index, uint64_t *ret)
{
    uint8_t raw[8];
    int code = meta_get_co(&s->meta, table + 8 * index, raw, 8);
    *ret = ld64_le(raw);
    return code;
}

static int set_entry_co(Qed *s, uint64_t table, uint64_t index, uint64_t value)
{
    uint8_t raw[8];
    st64_le(raw, value);
    return meta_put_co(&s->meta, table + 8 * index, raw, 8);
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Qed *s = node->state;
    uint64_t l2, offset;
    int code = entry_co(s, s->l1, index / s->entries, &l2);

    if (code < 0 || !l2) {
        return code;
    }
    if (!offset_valid(node, l2)) {
        return -EIO;
    }
    code = entry_co(s, l2, index % s->entries, &offset);
    if (code < 0 || !offset) {
        return code;
    }
    if (offset == 1) {
        ret->kind = PLACE_ZERO;
        return 0;
    }
    ret->kind = PLACE_DATA;
    ret->offset = offset;
    return offset_valid(node, offset) ? 0 : -EIO;
}

/* To the end of the span of an L2 table that is not there. */
static int skip_co(BlockNode *node, uint64_t index, uint64_t *ret_count)
{
    Qed *s = node->state;
    uint64_t l2;
    int code = entry_co(s, s->l1, index / s->entries, &l2);
    *ret_count = code == 0 && !l2 ? s->entries - index % s->entries : 1;
    return code;
}

static int l2_for_co(BlockNode *node, uint64_t index, uint64_t *ret_l2);

/* Its table first, so that the clusters lie together. */
static int alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Qed *s = node->state;
    uint64_t l2;
    int code = l2_for_co(node, index, &l2);
    if (code < 0) {
        return code;
    }
    *ret = (BlockPlace) { .kind = PLACE_DATA, .offset = s->end };
    s->end += s->map.block_size;
    return 0;
}

/* The L2 table of a block; makes it, in the file at once: it is empty until something is put in. */
static int l2_for_co(BlockNode *node, uint64_t index, uint64_t *ret_l2)
{
    Qed *s = node->state;
    co_mutex_lock(&s->lock);
    int ret = entry_co(s, s->l1, index / s->entries, ret_l2);
    if (ret == 0 && !*ret_l2) {
        *ret_l2 = s->end;
        s->end += s->table_bytes;
        ret = node_write_zeroes_co(node->file->node, *ret_l2, s->table_bytes, 0);
        ret = ret < 0 ? ret : set_entry_co(s, s->l1, index / s->entries, *ret_l2);
    } else if (ret == 0 && !offset_valid(node, *ret_l2)) {
        ret = -EIO;
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

static int set_block_co(BlockNode *node, uint64_t index, uint64_t value)
{
    Qed *s = node->state;
    uint64_t l2;
    int ret = l2_for_co(node, index, &l2);
    return ret < 0 ? ret : set_entry_co(s, l2, index % s->entries, value);
}

static int link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    return set_block_co(node, index, place->offset);
}

static int zero_co(BlockNode *node, uint64_t index)
{
    BlockPlace place = { 0 };
    int ret = find_co(node, index, &place);
    if (ret < 0 || place.kind == PLACE_DATA) { /* its cluster stays, or it would leak */
        return ret < 0 ? ret : -ENOTSUP;
    }
    return set_block_co(node, index, 1);
}

/* --- opening --- */

/* iotests compare what it says. */
static Error *check_shape(BlockNode *node, const uint8_t *h)
{
    Qed *s = node->state;
    uint64_t cluster = ld32_le(h + F_CLUSTER), table = ld32_le(h + F_TABLE),
             size = ld64_le(h + F_SIZE);

    if (ld32_le(h) != MAGIC) {
        return error_new("Image not in QED format");
    }
    if (s->features & ~(uint64_t)FEATURES_KNOWN) {
        return error_new("Unsupported QED features: %" PRIx64,
                         s->features & ~(uint64_t)FEATURES_KNOWN);
    }
    if (!IS_POW2(cluster) || cluster < 4096 || cluster > 64 * MiB) {
        return error_new("QED cluster size is invalid");
    }
    if (!IS_POW2(table) || table > 16) {
        return error_new("QED table size is invalid");
    }
    blockmap_init(&s->map, cluster);
    s->table_bytes = (uint32_t)(table * cluster);
    s->entries = s->table_bytes / 8;
    uint64_t largest;
    if (__builtin_mul_overflow(s->entries * s->entries, cluster, &largest)) {
        largest = INT64_MAX;
    }
    s->l1 = ld64_le(h + F_L1);
    if (!IS_ALIGNED(size, 512ull) || size > MIN(largest, INT64_MAX)) {
        return error_new("QED image size is invalid");
    }
    s->header_size = ld32_le(h + F_HEADER);
    return !s->header_size || !offset_valid(node, s->l1) || s->l1 + s->table_bytes > node->file->node->size
               ? error_new("QED table offset is invalid") : NULL;
}

static Error *read_backing_co(BlockNode *node, const uint8_t *h)
{
    Qed *s = node->state;
    uint32_t offset = ld32_le(h + F_BACKING_OFFSET), length = ld32_le(h + F_BACKING_SIZE);
    char name[MAX_BACKING + 1] = "";

    if (!(s->features & FEATURE_BACKING)) {
        return NULL;
    }
    if (length > MAX_BACKING || offset < HEADER ||
        offset + (uint64_t)length > header_bytes(s)) {
        return error_new("QED backing file name is invalid");
    }
    int ret = node_pread_co(node->file->node, offset, length, name);
    if (ret < 0) {
        return error_new_errno(ret, "Failed to read the QED backing file name");
    }
    node->backing_filename = g_strdup(name);
    node->backing_format = s->features & FEATURE_RAW_BACKING ? g_strdup("raw") : NULL;
    return NULL;
}

static Error *qed_open_co(BlockNode *node, KeyValues *opts)
{
    Qed *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t h[HEADER];
    bool repair;

    TRY(block_take_bool(opts, "x-repair", false, &repair));
    int ret = file->size >= HEADER ? node_pread_co(file, 0, HEADER, h) : -EINVAL;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the QED header");
    }
    s->features = ld64_le(h + F_FEATURES);
    TRY(check_shape(node, h));
    TRY(read_backing_co(node, h));
    s->map.find_co = find_co;
    s->map.alloc_co = alloc_co;
    s->map.link_co = link_co;
    s->map.zero_co = zero_co;
    s->map.skip_co = skip_co;
    s->end = ALIGN_UP(file->size, s->map.block_size);
    co_mutex_init(&s->lock);
    meta_init(&s->meta, file);
    node->size = ld64_le(h + F_SIZE);
    node->limits.request_align = 512;
    node->limits.cluster_size = (uint32_t)s->map.block_size;
    return NULL;
}

static int qed_write_back_co(BlockNode *node)
{
    return meta_write_back_co(&((Qed *)node->state)->meta);
}

static int qed_flush_co(BlockNode *node)
{
    return meta_flush_co(&((Qed *)node->state)->meta);
}

static int write_features_co(BlockNode *node)
{
    Qed *s = node->state;
    uint8_t raw[8];
    st64_le(raw, s->features);
    return meta_put_co(&s->meta, F_FEATURES, raw, 8);
}

static void qed_close_co(BlockNode *node)
{
    Qed *s = node->state;
    if (!node->read_only) {
        meta_write_back_co(&s->meta);
    }
    meta_fini(&s->meta);
}

static bool qed_dirty_flag(BlockNode *node)
{
    return (((Qed *)node->state)->features & FEATURE_NEED_CHECK) != 0;
}

/* --- requests --- */

static int qed_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    return blockmap_preadv_co(&((Qed *)node->state)->map, node, offset, bytes, vec, at);
}

static int qed_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    return blockmap_pwritev_co(&((Qed *)node->state)->map, node, offset, bytes, vec, at);
}

static int qed_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return blockmap_write_zeroes_co(&((Qed *)node->state)->map, node, offset, bytes, flags);
}

static int qed_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Qed *)node->state)->map, node, offset, bytes, ret);
}

static Error *qed_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    Qed *s = node->state;
    uint8_t raw[8];

    if (prealloc != PREALLOC_OFF) {
        return error_new("Preallocation '%s' is not possible here",
                         block_preallocation_name(prealloc));
    }
    if (size < node->size) {
        return error_new("The image can grow but not shrink");
    }
    if (!IS_ALIGNED(size, 512ull) || size > INT64_MAX / 2 ||
        size / s->map.block_size > s->entries * s->entries) {
        return error_new("Invalid image size specified");
    }
    st64_le(raw, size);
    int ret = meta_put_co(&s->meta, F_SIZE, raw, 8);
    if (ret < 0) {
        return error_new_errno(ret, "The new size could not be written to the header");
    }
    node->size = size;
    return NULL;
}

/* The name lies where qed_create_co() puts it, in one write with the header: sectors are written whole. */
static Error *qed_set_backing_co(BlockNode *node, const char *filename, const char *format)
{
    Qed *s = node->state;
    uint8_t h[HEADER + MAX_BACKING + 1] = { 0 };
    size_t length = filename ? strlen(filename) : 0;
    uint64_t features = s->features & ~(uint64_t)(FEATURE_BACKING | FEATURE_RAW_BACKING);

    if (length > MIN(header_bytes(s) - HEADER, MAX_BACKING)) {
        return error_new("The backing file's name is too long: at most %" PRIu64 " bytes are possible",
                         MIN(header_bytes(s) - HEADER, MAX_BACKING));
    }
    int ret = qed_flush_co(node);
    ret = ret < 0 ? ret : node_pread_co(node->file->node, 0, HEADER, h);
    if (ret < 0) {
        return error_new_errno(ret, "The header could not be read");
    }
    if (filename) {
        features |= FEATURE_BACKING | (!g_strcmp0(format, "raw") ? FEATURE_RAW_BACKING : 0);
        memcpy(h + HEADER, filename, length);
    }
    st64_le(h + F_FEATURES, features);
    st32_le(h + F_BACKING_OFFSET, filename ? HEADER : 0);
    st32_le(h + F_BACKING_SIZE, (uint32_t)length);
    ret = node_pwrite_co(node->file->node, 0, HEADER + length, h, REQ_FUA);
    meta_forget(&s->meta, 0, sizeof(h));
    if (ret < 0) {
        return error_new_errno(ret, "The header could not be written");
    }
    s->features = features;
    g_free(node->backing_filename);
    g_free(node->backing_format);
    node->backing_filename = g_strdup(filename);
    node->backing_format = features & FEATURE_RAW_BACKING ? g_strdup("raw") : NULL;
    return NULL;
}

/* --- checking --- */

static Error *qed_check_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Qed *s = node->state;
    uint64_t step = s->map.block_size, tables = 0, l2;

    TRY(blockmap_check_co(&s->map, node, 0, step, check));
    uint64_t spans = check->total_clusters / s->entries + 1;
    for (uint64_t i = 0; i < MIN(spans, s->entries); i++) {
        tables += entry_co(s, s->l1, i, &l2) == 0 && l2;
    }
    uint64_t used =
        s->header_size + (1 + tables) * (s->table_bytes / step) + check->allocated_clusters;
    uint64_t whole = (node->file->node->size + step - 1) / step;
    check->leaks = !check->corruptions && whole > used ? whole - used : 0;
    check->compressed_clusters = 0;
    if ((s->features & FEATURE_NEED_CHECK) && !check->corruptions && !node->read_only) {
        s->features &= ~(uint64_t)FEATURE_NEED_CHECK;
        int ret = write_features_co(node);
        return ret < 0 ? error_new_errno(ret, "Could not write the header") : NULL;
    }
    return NULL;
}

/* --- creating --- */

static Error *check_create(uint64_t size, uint64_t cluster, uint64_t table)
{
    if (!IS_POW2(cluster) || cluster < 4096 || cluster > 64 * MiB) {
        return error_new("QED cluster size must be within range [4096, 67108864] and power of 2");
    }
    if (!IS_POW2(table) || table > 16) {
        return error_new("QED table size must be within range [1, 16] and power of 2");
    }
    uint64_t entries = table * cluster / 8, most;
    if (__builtin_mul_overflow(entries * entries, cluster, &most)) {
        most = INT64_MAX;
    }
    return size > MIN(most, INT64_MAX - 511)
               ? error_new("QED image size must be less than %" PRIu64 " bytes", most)
               : NULL;
}

static Error *qed_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                            KeyValues *opts)
{
    g_autofree char *backing = keyvalues_take(opts, "backing_file"),
                    *format = keyvalues_take(opts, "backing_fmt");
    uint64_t size, cluster, table, features = 0;
    bool as_given;
    uint8_t h[HEADER + MAX_BACKING + 1] = { 0 };
    size_t length = backing ? strlen(backing) : 0;

    TRY(block_take_disk_size(opts, &size, &as_given));
    TRY(block_take_size(opts, "cluster_size", DEFAULT_CLUSTER, &cluster));
    TRY(block_take_size(opts, "table_size", DEFAULT_TABLE, &table));
    table = table ? table : DEFAULT_TABLE;
    TRY(check_create(size, cluster, table));
    TRY(block_round_disk_size(&size, as_given));
    if (length > MAX_BACKING) {
        return error_new("The backing file's name is too long: at most %d bytes are possible",
                         MAX_BACKING);
    }
    if (backing) {
        features = FEATURE_BACKING | (format && !strcmp(format, "raw") ? FEATURE_RAW_BACKING : 0);
        st32_le(h + F_BACKING_OFFSET, HEADER);
        st32_le(h + F_BACKING_SIZE, (uint32_t)length);
        memcpy(h + HEADER, backing, length);
    }
    st32_le(h, MAGIC);
    st32_le(h + F_CLUSTER, (uint32_t)cluster);
    st32_le(h + F_TABLE, (uint32_t)table);
    st32_le(h + F_HEADER, 1);
    st64_le(h + F_FEATURES, features);
    st64_le(h + F_L1, cluster);
    st64_le(h + F_SIZE, ALIGN_UP(size, 512ull));
    int ret = node_pwrite_co(file, 0, HEADER + length, h, 0);
    ret = ret < 0 ? ret
                  : node_write_zeroes_co(file, HEADER + length,
                                         cluster * (1 + table) - HEADER - length, 0);
    return ret < 0 ? error_new_errno(ret, "Could not write the QED image") : NULL;
}

static const BlockOption qed_create_options[] = {
    { "backing_file", OPT_STR, "File name of a base image" },
    { "backing_fmt", OPT_STR, "Image format of the base image" },
    { "cluster_size", OPT_SIZE, "Cluster size (in bytes)" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { "table_size", OPT_SIZE, "Clusters in each table, L1 and L2" },
    { 0 },
};

BLOCK_DRIVER(qed, .name = "qed", .desc = "QEMU enhanced disk", .state_size = sizeof(Qed),
             .supports_backing = true, .create_options = qed_create_options, .probe = qed_probe,
             .repairs = true, .open_co = qed_open_co, .close_co = qed_close_co,
             .create_co = qed_create_co, .preadv_co = qed_preadv_co, .pwritev_co = qed_pwritev_co,
             .write_zeroes_co = qed_write_zeroes_co, .flush_co = qed_flush_co,
             .write_back_co = qed_write_back_co, .status_co = qed_status_co,
             .truncate_co = qed_truncate_co, .dirty_flag = qed_dirty_flag,
             .set_backing_co = qed_set_backing_co,
             .check_co = qed_check_co);
