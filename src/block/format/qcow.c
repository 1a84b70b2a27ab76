/*
 * Driver "qcow": the first version of the format, with 48 bytes of header, a table of tables, clusters that may be packed with
 * deflate, and AES-128-CBC whose sectors are counted by the guest's address. All numbers are big-endian. A new image has
 * clusters of 4 KiB, or of 512 bytes over a backing file.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/crypt/crypt.h"
#include "block/format/blockmap.h"
#include "block/format/deflate.h"
#include "block/format/meta.h"

enum {
    MAGIC = 0x514649fb,
    HEADER = 48,
    F_VERSION = 4,
    F_BACKING = 8,
    F_BACKING_SIZE = 16,
    F_SIZE = 24,
    F_CLUSTER_BITS = 32,
    F_L2_BITS = 33,
    F_CRYPT = 36,
    F_L1 = 40,
    MAX_NAME = 1023,
};
#define PACKED BIT64(63)

typedef struct Qcow {
    MetaCache meta;
    BlockMap map;
    unsigned cluster_bits, l2_bits;
    uint64_t l1_offset, l1_size; /* entries */
    uint64_t end;                /* where the next cluster or table goes */
    CoMutex linking;
} Qcow;

static int probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= 8 && ld32_be(data) == MAGIC && ld32_be(data + F_VERSION) == 1 ? 100 : 0;
}

/* --- tables --- */

static int get_u64_co(Qcow *s, uint64_t offset, uint64_t *ret)
{
    uint8_t raw[8];
    int code = meta_get_co(&s->meta, offset, raw, 8);
    *ret = code < 0 ? 0 : ld64_be(raw);
    return code;
}

static int put_u64_co(Qcow *s, uint64_t offset, uint64_t value)
{
    uint8_t raw[8];
    st64_be(raw, value);
    return meta_put_co(&s->meta, offset, raw, 8);
}

/* *ret_table 0: there is none. */
static int find_table_co(Qcow *s, uint64_t index, uint64_t *ret_table)
{
    uint64_t l1_index = index >> s->l2_bits;

    *ret_table = 0;
    if (l1_index >= s->l1_size) {
        return -EIO;
    }
    int code = get_u64_co(s, s->l1_offset + 8 * l1_index, ret_table);
    return code < 0 || (IS_ALIGNED(*ret_table, 8ull) && *ret_table < INT64_MAX - MiB) ? code : -EIO;
}

static uint64_t entry_at(const Qcow *s, uint64_t table, uint64_t index)
{
    return table + 8 * (index & (BIT64(s->l2_bits) - 1));
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Qcow *s = node->state;
    uint64_t table, entry;

    int code = find_table_co(s, index, &table);
    if (code < 0 || !table) {
        return code;
    }
    code = get_u64_co(s, entry_at(s, table, index), &entry);
    if (code < 0 || !entry) {
        return code;
    }
    ret->kind = entry & PACKED ? PLACE_PACKED : PLACE_DATA;
    ret->offset = entry;
    return ret->kind == PLACE_PACKED || (IS_ALIGNED(entry, 512ull) && entry < INT64_MAX - MiB) ? 0 : -EIO;
}

static int skip_co(BlockNode *node, uint64_t index, uint64_t *ret_count)
{
    Qcow *s = node->state;
    uint64_t table;

    int code = find_table_co(s, index, &table);
    if (code == 0 && !table) {
        *ret_count = BIT64(s->l2_bits) - (index & (BIT64(s->l2_bits) - 1));
    }
    return code;
}

static int alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Qcow *s = node->state;
    uint64_t offset = ALIGN_UP(s->end, s->map.block_size);

    if (offset > INT64_MAX / 2) {
        return -EFBIG;
    }
    *ret = (BlockPlace) { .kind = PLACE_DATA, .offset = offset };
    s->end = offset + s->map.block_size;
    return 0;
}

/* A table full of zeroes is on the disk before anything points at it. */
static int make_table_co(BlockNode *node, uint64_t index, uint64_t *ret_table)
{
    Qcow *s = node->state;
    uint64_t offset = ALIGN_UP(s->end, MAX(s->map.block_size, 512ull)), bytes = 8ull << s->l2_bits;

    s->end = offset + bytes;
    int code = node_write_zeroes_co(node->file->node, offset, bytes, 0);
    code = code < 0 ? code : put_u64_co(s, s->l1_offset + 8 * (index >> s->l2_bits), offset);
    *ret_table = offset;
    return code;
}

static int link_entry_co(BlockNode *node, uint64_t index, uint64_t entry)
{
    Qcow *s = node->state;
    uint64_t table;

    co_mutex_lock(&s->linking);
    int code = find_table_co(s, index, &table);
    if (code == 0 && !table) {
        code = make_table_co(node, index, &table);
    }
    code = code < 0 ? code : put_u64_co(s, entry_at(s, table, index), entry);
    co_mutex_unlock(&s->linking);
    return code;
}

static int link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    return link_entry_co(node, index, place->offset);
}

/* --- packed clusters --- */

static int unpack_co(BlockNode *node, uint64_t index, const BlockPlace *place, uint8_t *data)
{
    Qcow *s = node->state;
    unsigned shift = 63 - s->cluster_bits;
    uint64_t offset = place->offset & (BIT64(shift) - 1), bytes = place->offset >> shift & (s->map.block_size - 1);
    g_autofree uint8_t *packed = g_try_malloc((gsize)MAX(bytes, 1));

    if (!packed) {
        return -ENOMEM;
    }
    if (!range_inside(offset, bytes, node->file->node->size)) {
        return -EIO;
    }
    DeflateCall call = { packed, data, (size_t)bytes, (size_t)s->map.block_size };
    int code = node_pread_co(node->file->node, offset, bytes, packed);
    return code < 0 ? code : co_blocking(deflate_unpack, &call);
}

/* `data` is a whole cluster. */
static int write_packed_co(BlockNode *node, uint64_t index, uint8_t *data, uint64_t inside)
{
    Qcow *s = node->state;
    unsigned shift = 63 - s->cluster_bits;
    size_t size = (size_t)s->map.block_size;
    g_autofree uint8_t *packed = g_try_malloc(size);
    DeflateCall call = { data, packed, size, size - 1 };

    int bytes = packed ? co_blocking(deflate_pack, &call) : -ENOMEM;
    if (bytes == -ENOSPC) {
        BLOCK_VEC_BUFFER(vec, data, (size_t)inside);
        return blockmap_pwritev_co(&s->map, node, index * size, inside, &vec, 0);
    }
    if (bytes < 0) {
        return bytes;
    }
    uint64_t offset = s->end;
    if (offset >> shift) {
        return -EFBIG;
    }
    s->end += (uint64_t)bytes;
    int code = node_pwrite_co(node->file->node, offset, (uint64_t)bytes, packed, 0);
    return code < 0 ? code : link_entry_co(node, index, PACKED | (uint64_t)bytes << shift | offset);
}

static int pwritev_packed_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    Qcow *s = node->state;
    uint64_t size = s->map.block_size;
    g_autofree uint8_t *data = g_try_malloc((gsize)size);

    if (!data) {
        return -ENOMEM;
    }
    if (s->map.crypt) {
        return -ENOTSUP;
    }
    while (bytes) {
        uint64_t part = MIN(bytes, size);
        if (offset % size || (part < size && offset + part != node->size)) {
            return -EINVAL;
        }
        memset(data, 0, (size_t)size);
        block_vec_to_buffer(vec, at, data, (size_t)part);
        int code = write_packed_co(node, offset / size, data, part);
        if (code < 0) {
            return code;
        }
        offset += part;
        bytes -= part;
        at += (size_t)part;
    }
    return 0;
}

/* --- opening --- */

static Error *use_header(BlockNode *node, const uint8_t *h)
{
    Qcow *s = node->state;
    uint64_t size = ld64_be(h + F_SIZE);

    if (ld32_be(h) != MAGIC) {
        return error_new("This is not a qcow image");
    }
    if (ld32_be(h + F_VERSION) != 1) {
        return error_new("qcow (v%u) does not support qcow version %u", 1, ld32_be(h + F_VERSION));
    }
    s->cluster_bits = h[F_CLUSTER_BITS];
    s->l2_bits = h[F_L2_BITS];
    if (size <= 1) {
        return error_new("A qcow disk of less than 2 bytes is not possible");
    }
    if (s->cluster_bits < 9 || s->cluster_bits > 16) {
        return error_new("Cluster size must be between 512 and 64k");
    }
    if (s->l2_bits < 9 - 3 || s->l2_bits > 16 - 3) {
        return error_new("L2 table size must be between 512 and 64k");
    }
    uint64_t covered = BIT64(s->cluster_bits + s->l2_bits);
    s->l1_size = size / covered + (size % covered != 0);
    s->l1_offset = ld64_be(h + F_L1);
    if (size > INT64_MAX || s->l1_size > INT32_MAX / 8) {
        return error_new("Image too large");
    }
    if (!IS_ALIGNED(s->l1_offset, 8ull) || s->l1_offset < HEADER || s->l1_offset > INT64_MAX / 2) {
        return error_new("The L1 table's offset is not possible");
    }
    node->size = size;
    return NULL;
}

static Error *read_backing_name_co(BlockNode *node, const uint8_t *h)
{
    uint64_t offset = ld64_be(h + F_BACKING);
    uint32_t length = ld32_be(h + F_BACKING_SIZE);
    char name[MAX_NAME + 1] = { 0 };

    if (!offset) {
        return NULL;
    }
    if (length > MAX_NAME) {
        return error_new("Backing file name too long");
    }
    int code = range_inside(offset, length, node->file->node->size) ? node_pread_co(node->file->node, offset, length, name)
                                                                   : -EINVAL;
    if (code < 0) {
        return error_new_errno(code, "Could not read the backing file name");
    }
    node->backing_filename = length ? g_strdup(name) : NULL;
    return NULL;
}

static Error *open_crypt(BlockNode *node, uint32_t method, KeyValues *opts)
{
    Qcow *s = node->state;
    g_autofree char *format = keyvalues_take(opts, "encrypt.format"), *secret = keyvalues_take(opts, "encrypt.key-secret");

    if (method > 1) {
        return error_new("The qcow header names an unknown encryption method");
    }
    if (format && strcmp(format, "aes")) {
        return error_new("Parameter 'encrypt.format' does not accept value '%s'", format);
    }
    if (!method) {
        return format ? error_new("The image is not encrypted, yet the options ask for encryption "
                                  "of format '%s'", format) : NULL;
    }
    node->encrypted = true;
    node->limits.request_align = CRYPT_SECTOR;
    return node->no_io ? NULL : crypt_open_aes(node->graph, secret, "encrypt.", &s->map.crypt);
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    Qcow *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t h[HEADER];

    int code = file->size >= HEADER ? node_pread_co(file, 0, HEADER, h) : -EINVAL;
    if (code < 0) {
        return error_new_errno(code, "Could not read the qcow header");
    }
    TRY(use_header(node, h));
    blockmap_init(&s->map, BIT64(s->cluster_bits));
    s->map.find_co = find_co;
    s->map.skip_co = skip_co;
    s->map.alloc_co = alloc_co;
    s->map.link_co = link_co;
    s->map.unpack_co = unpack_co;
    s->end = MAX(file->size, s->l1_offset + 8 * s->l1_size);
    node->limits.cluster_size = (uint32_t)s->map.block_size;
    co_mutex_init(&s->linking);
    TRY(read_backing_name_co(node, h));
    TRY(open_crypt(node, ld32_be(h + F_CRYPT), opts));
    meta_init(&s->meta, file);
    return NULL;
}

static int write_back_co(BlockNode *node)
{
    return meta_write_back_co(&((Qcow *)node->state)->meta);
}

static int flush_co(BlockNode *node)
{
    return meta_flush_co(&((Qcow *)node->state)->meta);
}

static void close_co(BlockNode *node)
{
    Qcow *s = node->state;

    if (!node->read_only) {
        meta_write_back_co(&s->meta);
    }
    meta_fini(&s->meta);
    block_crypt_free(s->map.crypt);
}

/* --- requests --- */

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return node->encrypted && node->no_io ? -EACCES
                                          : blockmap_preadv_co(&((Qcow *)node->state)->map, node, offset, bytes, vec, at);
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    return node->encrypted && node->no_io ? -EACCES
           : flags & REQ_COMPRESSED       ? pwritev_packed_co(node, offset, bytes, vec, at)
                                    : blockmap_pwritev_co(&((Qcow *)node->state)->map, node, offset, bytes, vec, at);
}

static int status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Qcow *)node->state)->map, node, offset, bytes, ret);
}

/* --- creation --- */

typedef struct Create {
    uint64_t size;
    char *backing, *backing_format, *secret;
    bool encrypted;
} Create;

static Error *take_create(KeyValues *opts, Create *c)
{
    g_autofree char *format = keyvalues_take(opts, "encrypt.format");
    bool legacy;

    TRY(block_take_size(opts, "size", 0, &c->size));
    TRY(block_take_bool(opts, "encryption", false, &legacy));
    c->backing = keyvalues_take(opts, "backing_file");
    c->backing_format = keyvalues_take(opts, "backing_fmt"); /* the image does not record it */
    c->secret = keyvalues_take(opts, "encrypt.key-secret");
    if (format && strcmp(format, "aes")) {
        return error_new("Parameter 'encrypt.format' does not accept value '%s'", format);
    }
    if (format && legacy) {
        return error_new("'encrypt.format' and its alias 'encryption' can't be used at the same time");
    }
    c->encrypted = legacy || format;
    if (c->secret && !c->encrypted) {
        return error_new("Parameter 'encrypt.format' is missing");
    }
    if (c->backing && strlen(c->backing) > MAX_NAME) {
        return error_new("Backing file name too long");
    }
    return !c->size ? error_new("A qcow disk cannot be empty: give a size above zero") : NULL;
}

static Error *write_image_co(BlockNode *file, const Create *c)
{
    unsigned cluster_bits = c->backing ? 9 : 12, l2_bits = c->backing ? 12 : 9;
    size_t name = c->backing ? strlen(c->backing) : 0;
    uint64_t l1 = ALIGN_UP(HEADER + (uint64_t)name, 8ull), covered = BIT64(cluster_bits + l2_bits);
    uint64_t entries = c->size / covered + (c->size % covered != 0);
    g_autofree uint8_t *h = g_malloc0((gsize)l1);

    if (c->size > INT64_MAX || entries > INT32_MAX / 8) {
        return error_new("Image too large");
    }
    st32_be(h, MAGIC);
    st32_be(h + F_VERSION, 1);
    st64_be(h + F_BACKING, name ? HEADER : 0);
    st32_be(h + F_BACKING_SIZE, (uint32_t)name);
    st64_be(h + F_SIZE, c->size);
    h[F_CLUSTER_BITS] = (uint8_t)cluster_bits;
    h[F_L2_BITS] = (uint8_t)l2_bits;
    st32_be(h + F_CRYPT, c->encrypted);
    st64_be(h + F_L1, l1);
    memcpy(h + HEADER, name ? c->backing : "", name);
    int code = node_pwrite_co(file, 0, l1, h, 0);
    code = code < 0 ? code : node_write_zeroes_co(file, l1, ALIGN_UP(8 * entries, 512ull), 0);
    return code < 0 ? error_new_errno(code, "Could not write the qcow header") : NULL;
}

static Error *create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts)
{
    Create c = { 0 };
    BlockCrypt *crypt = NULL;

    Error *err = take_create(opts, &c);
    if (!err && c.encrypted) { /* the key is not kept anywhere, but must be there */
        err = crypt_open_aes(graph, c.secret, "encrypt.", &crypt);
        block_crypt_free(crypt);
    }
    err = err ? err : write_image_co(file, &c);
    g_free(c.backing);
    g_free(c.backing_format);
    g_free(c.secret);
    return err;
}

static Error *make_empty_co(BlockNode *node)
{
    Qcow *s = node->state;
    BlockNode *file = node->file->node;
    uint64_t end = s->l1_offset + 8 * s->l1_size;

    int code = meta_flush_co(&s->meta);
    code = code < 0 ? code : node_write_zeroes_co(file, s->l1_offset, 8 * s->l1_size, 0);
    code = code < 0 ? code : node_flush_co(file);
    meta_fini(&s->meta);
    meta_init(&s->meta, file);
    if (code < 0) {
        return error_new_errno(code, "Could not empty '%s'", node->filename);
    }
    TRY(node_truncate_co(file, end, PREALLOC_OFF));
    s->end = end;
    return NULL;
}

static const BlockOption options[] = {
    { "encrypt.format", OPT_STR, "How the image is encrypted: aes (default: as it says)" },
    { "encrypt.key-secret", OPT_STR, "Id of the secret with the password that makes the AES key" },
    { 0 },
};
static const BlockOption create_options[] = {
    { "backing_file", OPT_STR, "File name of a base image" },
    { "backing_fmt", OPT_STR, "Image format of the backing file" },
    { "encrypt.format", OPT_STR, "Encrypt the image, format choices: 'aes'" },
    { "encrypt.key-secret", OPT_STR, "Id of the secret with the password that makes the AES key" },
    { "encryption", OPT_BOOL, "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};

BLOCK_DRIVER(qcow, .name = "qcow", .desc = "qcow image, version 1", .deciding = (const char *const[]) { "encrypt.", NULL }, .state_size = sizeof(Qcow), .supports_backing = true,
             .options = options, .create_options = create_options, .probe = probe, .open_co = open_co, .close_co = close_co,
             .create_co = create_co, .preadv_co = preadv_co, .pwritev_co = pwritev_co, .flush_co = flush_co,
             .write_back_co = write_back_co, .status_co = status_co, .make_empty_co = make_empty_co,
             .write_flags = REQ_COMPRESSED);
