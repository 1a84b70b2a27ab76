/*
 * Driver "vpc": Virtual PC disk images (VHD), fixed and dynamic, as Microsoft's "Virtual Hard Disk
 * Image Format Specification" 1.0 has them. A dynamic image begins with a copy of the footer and
 * the dynamic header, then come the block allocation table and the blocks, each behind its sector
 * bitmap; the footer is the last sector of the file.
 *
 * The bitmaps are written as all present, and not looked at: blocks of images without a parent are
 * complete. Missing: differencing images, which are refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/endian.h"
#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    FOOTER = 512,
    DYNAMIC_HEADER = 1024,
    TYPE_FIXED = 2,
    TYPE_DYNAMIC = 3,
    TYPE_DIFFERENCING = 4,
    DEFAULT_BLOCK = 2 << 20,
    EPOCH_2000 = 946684800,
    /* footer */
    F_FEATURES = 8,
    F_VERSION = 12,
    F_DATA_OFFSET = 16,
    F_TIMESTAMP = 24,
    F_CREATOR = 28,
    F_CREATOR_VERSION = 32,
    F_CREATOR_OS = 36,
    F_ORIGINAL_SIZE = 40,
    F_CURRENT_SIZE = 48,
    F_CYLINDERS = 56,
    F_HEADS = 58,
    F_SECTORS = 59,
    F_TYPE = 60,
    F_CHECKSUM = 64,
    F_UUID = 68,
    /* dynamic header */
    D_DATA_OFFSET = 8,
    D_TABLE_OFFSET = 16,
    D_VERSION = 24,
    D_ENTRIES = 28,
    D_BLOCK_SIZE = 32,
    D_CHECKSUM = 36,
};
#define MAX_GEOMETRY_SECTORS (65535ull * 16 * 255)
#define MAX_SIZE             (0xff000000ull * 512) /* 2040 GiB */
#define ENTRY_NONE           0xffffffffu

typedef struct Vpc {
    bool fixed;
    uint8_t footer[FOOTER];
    MetaCache meta;
    BlockMap map;
    uint64_t table, end; /* end: where the next block goes */
    uint32_t entries, bitmap_size;
    bool footer_dirty;
} Vpc;

static int vpc_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= 8 && !memcmp(data, "conectix", 8) ? 100 : 0;
}

static uint32_t checksum(const uint8_t *data, size_t length, size_t field)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < length; i++) {
        sum += i >= field && i < field + 4 ? 0 : data[i];
    }
    return ~sum;
}

/* --- geometry: appendix "CHS calculation" of the specification --- */

typedef struct Geometry {
    uint16_t cylinders;
    uint8_t heads, sectors;
} Geometry;

static Geometry geometry_of(uint64_t total)
{
    uint64_t sectors, heads, tracks;

    total = MIN(total, MAX_GEOMETRY_SECTORS);
    if (total >= 65535ull * 16 * 63) {
        sectors = 255;
        heads = 16;
        tracks = total / sectors;
    } else {
        sectors = 17;
        tracks = total / sectors;
        heads = MAX((tracks + 1023) / 1024, 4);
        if (tracks >= heads * 1024 || heads > 16) {
            sectors = 31;
            heads = 16;
            tracks = total / sectors;
        }
        if (tracks >= heads * 1024) {
            sectors = 63;
            heads = 16;
            tracks = total / sectors;
        }
    }
    return (Geometry) { (uint16_t)(tracks / heads), (uint8_t)heads, (uint8_t)sectors };
}

static uint64_t geometry_sectors(Geometry g)
{
    return (uint64_t)g.cylinders * g.heads * g.sectors;
}

/* The smallest geometry that holds that many sectors. */
static Geometry geometry_for(uint64_t sectors)
{
    uint64_t tried = MIN(sectors, MAX_GEOMETRY_SECTORS);
    Geometry g = geometry_of(tried);
    while (geometry_sectors(g) < MIN(sectors, MAX_GEOMETRY_SECTORS)) {
        g = geometry_of(++tried);
    }
    return g;
}

/* --- opening --- */

/* Programs that write the exact size; the others mean the geometry. */
static bool size_is_exact(const uint8_t *footer)
{
    static const char exact[][5] = { "win ", "qem2", "d2v ", "tap", "CXS", "wa\0\0" };
    for (size_t i = 0; i < ARRAY_SIZE(exact); i++) {
        if (!memcmp(footer + F_CREATOR, exact[i], 4)) {
            return true;
        }
    }
    return false;
}

static Error *choose_size(BlockNode *node, KeyValues *opts)
{
    Vpc *s = node->state;
    g_autofree char *mode = keyvalues_take(opts, "force_size_calc");
    Geometry g = { ld16_be(s->footer + F_CYLINDERS), s->footer[F_HEADS], s->footer[F_SECTORS] };
    uint64_t by_geometry = geometry_sectors(g) * 512, current = ld64_be(s->footer + F_CURRENT_SIZE);
    bool exact = size_is_exact(s->footer) || geometry_sectors(g) == MAX_GEOMETRY_SECTORS;

    if (mode && strcmp(mode, "auto")) {
        bool current_size = !strcmp(mode, "current_size");
        exact = current_size || geometry_sectors(g) == MAX_GEOMETRY_SECTORS; /* which says "or more" */
        if (!current_size && strcmp(mode, "chs")) {
            return error_new("Invalid size calculation algorithm '%s': chs, current_size or auto "
                             "is expected",
                             mode);
        }
    }
    node->size = exact ? ALIGN_DOWN(current, 512ull) : by_geometry;
    return node->size > MAX_SIZE
               ? error_new("The VPC image is too large: %" PRIu64 " bytes", node->size)
               : NULL;
}

static bool footer_valid(const uint8_t *footer)
{
    return !memcmp(footer, "conectix", 8) &&
           ld32_be(footer + F_CHECKSUM) == checksum(footer, FOOTER, F_CHECKSUM);
}

/* At the end of the file, or the copy at its beginning when that was lost. */
static Error *read_footer_co(BlockNode *node)
{
    Vpc *s = node->state;
    BlockNode *file = node->file->node;
    uint64_t at[2] = { file->size >= FOOTER ? ALIGN_UP(file->size, 512ull) - FOOTER : 0, 0 };

    if (file->size < FOOTER) {
        return error_new("File too small for a VHD header"); /* iotests compare it */
    }
    for (unsigned i = 0; i < 2; i++) {
        int ret = node_pread_co(file, at[i], FOOTER, s->footer);
        if (ret < 0) {
            return error_new_errno(ret, "Unable to read the VPC footer");
        }
        if (footer_valid(s->footer)) {
            return NULL;
        }
    }
    return error_new("invalid VPC image");
}

static int vpc_find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vpc *s = node->state;
    uint8_t raw[4];
    int code = meta_get_co(&s->meta, s->table + 4 * index, raw, 4);
    uint32_t entry = ld32_be(raw);

    if (code < 0 || entry == ENTRY_NONE) {
        return code;
    }
    ret->kind = PLACE_DATA;
    ret->offset = (uint64_t)entry * 512 + s->bitmap_size;
    return entry < DYNAMIC_HEADER / 512 ? -EIO : 0;
}

static int vpc_alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vpc *s = node->state;
    if (s->end / 512 >= ENTRY_NONE) {
        return -EFBIG;
    }
    *ret = (BlockPlace) { .kind = PLACE_DATA, .offset = s->end + s->bitmap_size };
    s->end += s->bitmap_size + s->map.block_size;
    s->footer_dirty = true;
    return 0;
}

static int vpc_link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    Vpc *s = node->state;
    g_autofree uint8_t *bitmap = g_malloc(s->bitmap_size);
    uint8_t raw[4];

    memset(bitmap, 0xff, s->bitmap_size); /* over the old footer, in part */
    int ret =
        node_pwrite_co(node->file->node, place->offset - s->bitmap_size, s->bitmap_size, bitmap, 0);
    st32_be(raw, (uint32_t)((place->offset - s->bitmap_size) / 512));
    return ret < 0 ? ret : meta_put_co(&s->meta, s->table + 4 * index, raw, 4);
}

/* Behind the last block and its bitmap, wherever the footer says the file ends. */
static Error *find_end_co(BlockNode *node)
{
    Vpc *s = node->state;
    uint64_t file_end = ALIGN_UP(node->file->node->size, 512ull);
    uint64_t table_end = ALIGN_UP(s->table + 4ull * s->entries, 512ull);
    uint8_t last[8];

    /* The footer makes room for a block; other things at the end do not. */
    bool footer_last = file_end >= table_end + FOOTER &&
                       node_pread_co(node->file->node, file_end - FOOTER, 8, last) == 0 &&
                       !memcmp(last, "conectix", 8);
    s->end = MAX(table_end, footer_last ? file_end - FOOTER : file_end);
    return NULL;
}

static Error *open_dynamic_co(BlockNode *node)
{
    Vpc *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t h[DYNAMIC_HEADER];
    uint64_t at = ld64_be(s->footer + F_DATA_OFFSET);

    if (at > INT64_MAX - DYNAMIC_HEADER || at + DYNAMIC_HEADER > file->size ||
        node_pread_co(file, at, DYNAMIC_HEADER, h) < 0 || memcmp(h, "cxsparse", 8)) {
        return error_new("invalid VPC image: there is no dynamic header");
    }
    uint64_t block = ld32_be(h + D_BLOCK_SIZE);
    s->table = ld64_be(h + D_TABLE_OFFSET);
    s->entries = ld32_be(h + D_ENTRIES);
    if (!IS_POW2(block) || block < 512 || block > 256 * MiB) {
        return error_new("Invalid block size %" PRIu64, block);
    }
    if (s->table > INT64_MAX / 2 || !IS_ALIGNED(s->table, 512ull) ||
        s->table + 4ull * s->entries > file->size) {
        return error_new("The VPC image's block allocation table lies outside the file");
    }
    if ((uint64_t)s->entries * block < node->size) {
        return error_new("Page table too small");
    }
    blockmap_init(&s->map, block);
    s->map.find_co = vpc_find_co;
    s->map.alloc_co = vpc_alloc_co;
    s->map.link_co = vpc_link_co;
    s->bitmap_size = (uint32_t)ALIGN_UP((block / 512 + 7) / 8, 512ull);
    node->limits.cluster_size = (uint32_t)block;
    meta_init(&s->meta, file);
    return find_end_co(node);
}

static Error *vpc_open_co(BlockNode *node, KeyValues *opts)
{
    Vpc *s = node->state;

    TRY(read_footer_co(node));
    uint32_t type = ld32_be(s->footer + F_TYPE);
    TRY(choose_size(node, opts));
    node->limits.request_align = 512;
    s->fixed = type == TYPE_FIXED;
    if (s->fixed) {
        if (node->size > ALIGN_DOWN(node->file->node->size, 512ull) - FOOTER) {
            return error_new("The VPC image is shorter than its footer says");
        }
        return NULL;
    }
    return type == TYPE_DYNAMIC ? open_dynamic_co(node)
                                : error_new("unsupported VPC image (type %u: fixed or dynamic is "
                                            "supported)",
                                            type);
}

static int vpc_write_back_co(BlockNode *node)
{
    Vpc *s = node->state;
    if (s->fixed) {
        return 0;
    }
    if (s->footer_dirty) {
        s->footer_dirty = false;
        int ret = node_pwrite_co(node->file->node, s->end, FOOTER, s->footer, 0);
        if (ret < 0) {
            s->footer_dirty = true;
            return ret;
        }
    }
    return meta_write_back_co(&s->meta);
}

static int vpc_flush_co(BlockNode *node)
{
    int ret = vpc_write_back_co(node);
    return ret < 0 ? ret : node_flush_co(node->file->node);
}

static void vpc_close_co(BlockNode *node)
{
    Vpc *s = node->state;
    if (!node->read_only) {
        vpc_write_back_co(node);
    }
    meta_fini(&s->meta);
}

/* --- requests --- */

static int vpc_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    Vpc *s = node->state;
    return s->fixed ? node_preadv_co(node->file->node, offset, bytes, vec, at)
                    : blockmap_preadv_co(&s->map, node, offset, bytes, vec, at);
}

static int vpc_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    Vpc *s = node->state;
    return s->fixed ? node_pwritev_co(node->file->node, offset, bytes, vec, at, 0)
                    : blockmap_pwritev_co(&s->map, node, offset, bytes, vec, at);
}

static int vpc_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Vpc *s = node->state;
    return s->fixed ? node_write_zeroes_co(node->file->node, offset, bytes, flags)
                    : blockmap_write_zeroes_co(&s->map, node, offset, bytes, flags);
}

static int vpc_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    Vpc *s = node->state;
    if (!s->fixed) {
        return blockmap_status_co(&s->map, node, offset, bytes, ret);
    }
    *ret = (BlockStatus) { .flags = STATUS_DATA | STATUS_RECURSE | STATUS_OFFSET | STATUS_ALLOCATED,
                           .bytes = bytes,
                           .map = offset,
                           .file = node->file->node };
    return 0;
}

/* --- creating --- */

typedef struct VpcShape {
    uint64_t size;
    Geometry geometry;
    bool fixed, exact;
} VpcShape;

static void make_footer(uint8_t *f, const VpcShape *shape)
{
    uint64_t now = (uint64_t)time(NULL);
    memset(f, 0, FOOTER);
    memcpy(f, "conectix", 8);
    st32_be(f + F_FEATURES, 2);
    st32_be(f + F_VERSION, 0x10000);
    st64_be(f + F_DATA_OFFSET, shape->fixed ? UINT64_MAX : FOOTER);
    st32_be(f + F_TIMESTAMP, now > EPOCH_2000 ? (uint32_t)(now - EPOCH_2000) : 0);
    memcpy(f + F_CREATOR, shape->exact ? "qem2" : "qemu", 4); /* says which size counts */
    st32_be(f + F_CREATOR_VERSION, 0x50003);
    memcpy(f + F_CREATOR_OS, "Wi2k", 4);
    st64_be(f + F_ORIGINAL_SIZE, shape->size);
    st64_be(f + F_CURRENT_SIZE, shape->size);
    st16_be(f + F_CYLINDERS, shape->geometry.cylinders);
    f[F_HEADS] = shape->geometry.heads;
    f[F_SECTORS] = shape->geometry.sectors;
    st32_be(f + F_TYPE, shape->fixed ? TYPE_FIXED : TYPE_DYNAMIC);
    for (unsigned i = 0; i < 4; i++) {
        st32_be(f + F_UUID + 4 * i, g_random_int());
    }
    st32_be(f + F_CHECKSUM, checksum(f, FOOTER, F_CHECKSUM));
}

static int write_dynamic_co(BlockNode *file, const VpcShape *shape, const uint8_t *footer)
{
    uint8_t h[DYNAMIC_HEADER] = { 0 };
    uint32_t entries = (uint32_t)((shape->size + DEFAULT_BLOCK - 1) / DEFAULT_BLOCK);
    uint64_t table = FOOTER + DYNAMIC_HEADER, table_bytes = ALIGN_UP(4ull * entries, 512ull);
    g_autofree uint8_t *empty = g_try_malloc(MAX(table_bytes, 1)); /* 4 MiB for 2 TiB */

    if (!empty) {
        return -ENOMEM;
    }
    memset(empty, 0xff, table_bytes);
    memcpy(h, "cxsparse", 8);
    st64_be(h + D_DATA_OFFSET, UINT64_MAX);
    st64_be(h + D_TABLE_OFFSET, table);
    st32_be(h + D_VERSION, 0x10000);
    st32_be(h + D_ENTRIES, entries);
    st32_be(h + D_BLOCK_SIZE, DEFAULT_BLOCK);
    st32_be(h + D_CHECKSUM, checksum(h, sizeof(h), D_CHECKSUM));
    int ret = node_pwrite_co(file, 0, FOOTER, footer, 0);
    ret = ret < 0 ? ret : node_pwrite_co(file, FOOTER, sizeof(h), h, 0);
    ret = ret < 0 || !table_bytes ? ret : node_pwrite_co(file, table, table_bytes, empty, 0);
    return ret < 0 ? ret : node_pwrite_co(file, table + table_bytes, FOOTER, footer, 0);
}

static Error *take_shape(KeyValues *opts, VpcShape *shape)
{
    g_autofree char *subformat = keyvalues_take(opts, "subformat");
    uint64_t size;
    bool as_given;

    TRY(block_take_disk_size(opts, &size, &as_given));
    TRY(block_take_bool(opts, "force_size", false, &shape->exact));
    shape->fixed = subformat && !strcmp(subformat, "fixed");
    if (subformat && !shape->fixed && strcmp(subformat, "dynamic")) {
        return error_new("Invalid parameter '%s': dynamic or fixed is expected", subformat);
    }
    if (size > MAX_SIZE) {
        return error_new("VPC images can be 2040 GiB at most");
    }
    TRY(block_round_disk_size(&size, as_given));
    uint64_t sectors = size / 512;
    shape->geometry = geometry_for(sectors);
    if (shape->exact) {
        /* Readers that only look at the geometry shall see the size then, too. */
        shape->geometry = (Geometry) { 65535, 16, 255 };
        shape->size = size;
    } else {
        bool largest = geometry_sectors(shape->geometry) >= MAX_GEOMETRY_SECTORS;
        shape->size = largest ? sectors * 512 : geometry_sectors(shape->geometry) * 512;
        if (as_given && shape->size != size) { /* iotests compare it */
            return error_new("The requested image size cannot be represented in CHS geometry");
        }
    }
    return NULL;
}

static Error *vpc_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                            KeyValues *opts)
{
    uint8_t footer[FOOTER];
    VpcShape shape = { 0 };

    TRY(take_shape(opts, &shape));
    make_footer(footer, &shape);
    if (shape.fixed) {
        TRY(node_truncate_co(file, shape.size, PREALLOC_OFF));
    }
    int ret = shape.fixed ? node_pwrite_co(file, shape.size, FOOTER, footer, 0)
                          : write_dynamic_co(file, &shape, footer);
    return ret < 0 ? error_new_errno(ret, "Could not write the VPC image's header") : NULL;
}

static const BlockOption vpc_options[] = {
    { "force_size_calc", OPT_STR,
      "Which size counts: chs, current_size or auto (by the program that made the image)" },
    { 0 },
};
static const BlockOption vpc_create_options[] = {
    { "force_size", OPT_BOOL,
      "Keep the size as given, do not round it up to a whole number of cylinders" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { "subformat", OPT_STR, "Type of virtual hard disk format: dynamic (default) or fixed" },
    { 0 },
};

BLOCK_DRIVER(vpc, .name = "vpc", .desc = "Virtual PC disk image (VHD)", .state_size = sizeof(Vpc),
             .options = vpc_options, .create_options = vpc_create_options, .probe = vpc_probe,
             .open_co = vpc_open_co, .close_co = vpc_close_co, .create_co = vpc_create_co,
             .preadv_co = vpc_preadv_co, .pwritev_co = vpc_pwritev_co,
             .write_zeroes_co = vpc_write_zeroes_co, .flush_co = vpc_flush_co,
             .write_back_co = vpc_write_back_co, .status_co = vpc_status_co);
