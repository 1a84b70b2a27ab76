/*
 * New qcow2 images: the smallest image that is one is written by hand, then opened and grown to its size like
 * any other, so that there is one piece of code that lays out tables.
 */
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/crypt/crypt.h"
#include "block/format/qcow2.h"

typedef struct CreateSpec {
    uint64_t size, cluster_size, refcount_bits;
    unsigned version;
    bool lazy_refcounts, extended_l2;
    uint8_t compression;
    Preallocation prealloc;
    char *backing_file, *backing_fmt;
    char *data_file; /* its name for the image; NULL: none */
    char *data_node; /* the node that is it already; NULL: it is made */
    bool data_file_raw;
    uint32_t crypt_method; /* 0: not encrypted */
    CryptCreate crypt;
} CreateSpec;

static Error *parse_compat(KeyValues *opts, unsigned *ret_version)
{
    g_autofree char *compat = keyvalues_take(opts, "compat");
    *ret_version = 3;
    if (compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"))) {
        *ret_version = 2;
    } else if (compat && strcmp(compat, "1.1") && strcmp(compat, "v3")) {
        return error_new("Invalid parameter '%s' for compat: 0.10 (v2) or 1.1 (v3) is expected",
                         compat);
    }
    return NULL;
}

static Error *parse_compression(KeyValues *opts, uint8_t *ret)
{
    g_autofree char *type = keyvalues_take(opts, "compression_type");
    *ret = COMPRESSION_ZLIB;
#if defined(HAVE_ZSTD)
    if (type && !strcmp(type, "zstd")) {
        *ret = COMPRESSION_ZSTD;
        return NULL;
    }
#endif
    return type && strcmp(type, "zlib")
               ? error_new("Invalid parameter '%s' for compression_type", type)
               : NULL;
}

static Error *parse_spec(KeyValues *opts, CreateSpec *spec)
{
    g_autofree char *prealloc = keyvalues_take(opts, "preallocation");

    TRY(parse_compat(opts, &spec->version));
    TRY(parse_compression(opts, &spec->compression));
    TRY(block_take_size(opts, "size", 0, &spec->size));
    spec->size = spec->size > INT64_MAX ? spec->size : ALIGN_UP(spec->size, 512);
    TRY(block_take_size(opts, "cluster_size", 65536, &spec->cluster_size));
    TRY(block_take_num(opts, "refcount_bits", 16, &spec->refcount_bits));
    TRY(block_take_bool(opts, "lazy_refcounts", false, &spec->lazy_refcounts));
    TRY(block_take_bool(opts, "extended_l2", false, &spec->extended_l2));
    if (prealloc) {
        TRY(block_parse_preallocation(prealloc, &spec->prealloc));
    }
    spec->backing_file = keyvalues_take(opts, "backing_file");
    spec->backing_fmt = keyvalues_take(opts, "backing_fmt");
    TRY(qcow2_crypt_take_create(opts, &spec->crypt_method, &spec->crypt));
    spec->data_file = keyvalues_take(opts, "data_file");
    spec->data_node = keyvalues_take(opts, "x-data-node");
    TRY(block_take_bool(opts, "data_file_raw", false, &spec->data_file_raw));
    return NULL;
}

static bool is_external(const CreateSpec *spec)
{
    return spec->data_file || spec->data_node;
}

static Error *check_spec(const CreateSpec *spec)
{
    if (!IS_POW2(spec->cluster_size) || spec->cluster_size < 512 || spec->cluster_size > 2 * MiB) {
        return error_new("Cluster size must be a power of two between 512 and 2048k");
    }
    if (!IS_POW2(spec->refcount_bits) || spec->refcount_bits > 64) {
        return error_new("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (spec->version < 3 && spec->refcount_bits != 16) {
        return error_new(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above "
            "(use version=v3 or greater)");
    }
    if (spec->version < 3 && spec->lazy_refcounts) {
        return error_new("Lazy refcounts only supported with compatibility level 1.1 and above "
                         "(use version=v3 or "
                         "greater)");
    }
    if (spec->extended_l2 && (spec->version < 3 || spec->cluster_size < 16 * KiB)) {
        return error_new("Extended L2 entries are only supported with compatibility level 1.1 and "
                         "above and cluster "
                         "sizes of at least 16k");
    }
    if (spec->compression && spec->version < 3) {
        return error_new("Compression other than zlib needs a qcow2 image of version 3: use "
                         "compat=1.1 (version=v3)");
    }
    if (spec->backing_file && spec->prealloc != PREALLOC_OFF && !spec->extended_l2) {
        return error_new("Backing file and preallocation can only be used at the same time if "
                         "extended_l2 is enabled");
    }
    if (is_external(spec) && spec->version < 3) {
        return error_new("A separate data file needs a qcow2 image of version 3: use compat=1.1 "
                         "(version=v3)");
    }
    if (spec->data_file_raw && !is_external(spec)) {
        return error_new("data-file-raw requires data-file");
    }
    if (spec->data_file_raw && spec->backing_file) {
        return error_new("data_file_raw excludes a backing file: leave out one of them");
    }
    if (spec->backing_fmt && !spec->backing_file) {
        return error_new("Backing format cannot be used without backing file");
    }
    return NULL;
}

/* Cluster 0 the header, 1 the refcount table, 2 a refcount block that counts the three. */
static Error *write_minimal_co(BlockNode *file, const CreateSpec *spec)
{
    BlockNode named = { .backing_filename = spec->backing_file,
                        .backing_format = spec->backing_fmt };
    unsigned bits = (unsigned)__builtin_ctzll(spec->cluster_size);
    Qcow2 q = { .node = &named,
                .version = spec->version,
                .cluster_bits = bits,
                .cluster_size = spec->cluster_size,
                .refcount_order = (unsigned)__builtin_ctzll(spec->refcount_bits),
                .header_length = spec->version >= 3 ? H_OUR_LENGTH : H_V2_LENGTH };
    g_autofree uint8_t *image = g_malloc0(3 * spec->cluster_size);
    uint64_t incompatible = (spec->compression ? INCOMPAT_COMPRESSION : 0) |
                            (is_external(spec) ? INCOMPAT_DATA_FILE : 0) |
                            (spec->extended_l2 ? INCOMPAT_EXTENDED_L2 : 0);
    Qcow2Extension data_file = { EXT_DATA_FILE, 0, (uint8_t *)spec->data_file };
    size_t end;

    st32_be(image + H_MAGIC, QCOW2_MAGIC);
    st32_be(image + H_VERSION, spec->version);
    st32_be(image + H_CLUSTER_BITS, bits);
    st64_be(image + H_REFTABLE_OFFSET, spec->cluster_size);
    st32_be(image + H_REFTABLE_CLUSTERS, 1);
    if (spec->version >= 3) {
        st64_be(image + H_INCOMPATIBLE, incompatible);
        st64_be(image + H_COMPATIBLE, spec->lazy_refcounts ? COMPAT_LAZY_REFCOUNTS : 0);
        st64_be(image + H_AUTOCLEAR, spec->data_file_raw ? AUTOCLEAR_RAW_DATA : 0);
        st32_be(image + H_REFCOUNT_ORDER, q.refcount_order);
        st32_be(image + H_LENGTH, q.header_length);
        image[H_COMPRESSION] = spec->compression;
    }
    q.extensions = g_ptr_array_new();
    if (spec->data_file) {
        data_file.length = (uint32_t)strlen(spec->data_file);
        g_ptr_array_add(q.extensions, &data_file);
    }
    Error *err = qcow2_put_variable_part(&q, image, &end);
    g_ptr_array_unref(q.extensions);
    TRY(err);
    st64_be(image + spec->cluster_size, 2 * spec->cluster_size);
    for (unsigned i = 0; i < 3; i++) {
        qcow2_refcount_write(&q, image + 2 * spec->cluster_size, i, 1);
    }
    int ret = node_pwrite_co(file, 0, 3 * spec->cluster_size, image, 0);
    return ret < 0 ? error_new_errno(ret, "The qcow2 header could not be written") : NULL;
}

static Error *create_spec_co(BlockGraph *graph, BlockNode *file, const CreateSpec *spec)
{
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *node;

    TRY(check_spec(spec));
    if (spec->data_file && !spec->data_node) {
        g_autoptr(KeyValues) none = keyvalues_new();
        keyvalues_set(none, "size", "0");
        TRY(block_create_co(graph, spec->data_file, block_driver_find("file"), none));
    }
    TRY(write_minimal_co(file, spec));
    keyvalues_set(opts, "driver", "qcow2");
    keyvalues_set(opts, "file", file->name);
    keyvalues_set(opts, "backing", "");
    keyvalues_set(opts, "cache.no-flush", "on");
    if (spec->data_node) {
        keyvalues_set(opts, "data-file", spec->data_node);
    }
    TRY(block_open_options_co(graph, opts, &node));
    Error *err = spec->crypt_method ? qcow2_crypt_make_co(node->state, spec->crypt_method, &spec->crypt) : NULL;
    if (!err) {
        err = node_truncate_co(node, spec->size, spec->prealloc);
    }
    if (!err && is_external(spec)) { /* as long as the disk, however little is in it */
        BlockNode *data = ((Qcow2 *)node->state)->data;
        err = data->size < spec->size ? node_truncate_co(data, spec->size, PREALLOC_OFF) : NULL;
    }
    node_unref_co(node);
    return err;
}

Error *qcow2_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                              KeyValues *opts)
{
    CreateSpec spec = { 0 };
    Error *err = parse_spec(opts, &spec);
    BlockNode *data = spec.data_node ? block_node_find(graph, spec.data_node) : NULL;
    if (data && !spec.data_file) { /* without a plain name it must be given whenever the image is opened */
        spec.data_file = node_plain_filename(data);
    }
    if (!err) {
        err = create_spec_co(graph, file, &spec);
    }
    g_free(spec.backing_file);
    g_free(spec.backing_fmt);
    g_free(spec.data_file);
    g_free(spec.data_node);
    crypt_create_clear(&spec.crypt);
    return err;
}
