/* qcow2 images: the header and its extensions, read and written. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
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

Error *qcow2_read_error(int ret, const char *what)
{
    return error_new_errno(ret, "Could not read qcow2 %s", what);
}

Error *qcow2_parse_header_co(Qcow2 *q)
{
    uint8_t h[H_OUR_LENGTH] = { 0 };
    int ret = node_pread_co(q->file, 0, sizeof(h), h);

    q->extensions = g_ptr_array_new_with_free_func(extension_free);
    if (ret < 0) {
        return qcow2_read_error(ret, "header");
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
        return qcow2_read_error(ret, "header");
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

/* --- writing the header --- */

int qcow2_write_header_u64_co(Qcow2 *q, unsigned field, uint64_t value)
{
    uint8_t data[8];
    st64_be(data, value);
    int ret = node_pwrite_co(q->file, field, 8, data, 0);
    return ret < 0 ? ret : node_flush_co(q->file);
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

Error *qcow2_set_backing_co(BlockNode *node, const char *filename, const char *format)
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
