/*
 * Driver "parallels": Parallels Desktop disk images, "WithoutFreeSpace" (version 2, entries count
 * sectors) and "WithouFreSpacExt" (entries count clusters). A header of 64 bytes, the allocation
 * table, the clusters. The layout is that of docs/interop/parallels of the format's public
 * description.
 *
 * Missing: the format extension with dirty bitmaps; an image that has one loses it when written to.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    HEADER = 64,
    VERSION = 2,
    IN_USE = 0x746f6e59,
    DEFAULT_CLUSTER = 1 << 20,
    F_VERSION = 16,
    F_HEADS = 20,
    F_CYLINDERS = 24,
    F_TRACKS = 28, /* cluster size in sectors */
    F_ENTRIES = 32,
    F_SECTORS = 36,
    F_IN_USE = 44,
    F_DATA = 48,
    F_FLAGS = 52,
    F_EXTENSION = 56,
};
static const char magic[] = "WithoutFreeSpace", magic_ext[] = "WithouFreSpacExt";

typedef struct Parallels {
    MetaCache meta;
    BlockMap map;
    uint32_t entries;
    uint64_t multiplier; /* bytes an entry counts */
    uint64_t data, end;
    bool was_in_use, marked;
} Parallels;

static int parallels_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= HEADER && (!memcmp(data, magic, 16) || !memcmp(data, magic_ext, 16)) &&
                   ld32_le(data + F_VERSION) == VERSION
               ? 100
               : 0;
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Parallels *s = node->state;
    uint8_t raw[4];

    if (index >= s->entries) {
        return 0;
    }
    int code = meta_get_co(&s->meta, HEADER + 4 * index, raw, 4);
    uint64_t entry = ld32_le(raw);
    if (code < 0 || !entry) {
        return code;
    }
    ret->kind = PLACE_DATA;
    ret->offset = entry * s->multiplier;
    return ret->offset < s->data ? -EIO : 0;
}

/* Says in the header that the table may not be up to date. */
static int mark_in_use_co(BlockNode *node, bool in_use)
{
    Parallels *s = node->state;
    uint8_t raw[4];
    st32_le(raw, in_use ? IN_USE : 0);
    int ret = meta_put_co(&s->meta, F_IN_USE, raw, 4);
    s->marked = ret == 0 ? in_use : s->marked;
    return ret;
}

static int alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Parallels *s = node->state;
    if (index >= s->entries || s->end / s->multiplier > UINT32_MAX) {
        return -ENOSPC;
    }
    *ret = (BlockPlace) { .kind = PLACE_DATA, .offset = s->end };
    s->end += s->map.block_size;
    return s->marked ? 0 : mark_in_use_co(node, true);
}

static int link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    Parallels *s = node->state;
    uint8_t raw[4];
    st32_le(raw, (uint32_t)(place->offset / s->multiplier));
    return meta_put_co(&s->meta, HEADER + 4 * index, raw, 4);
}

static Error *use_header(BlockNode *node, const uint8_t *h)
{
    Parallels *s = node->state;
    BlockNode *file = node->file->node;
    bool ext = !memcmp(h, magic_ext, 16);
    uint64_t tracks = ld32_le(h + F_TRACKS);
    uint64_t sectors = ext ? ld64_le(h + F_SECTORS) : ld32_le(h + F_SECTORS);

    if (!parallels_probe(h, HEADER, "")) {
        return error_new("This is not a Parallels image");
    }
    if (!tracks || tracks > 128 * MiB / 512) {
        return error_new("Invalid image: %s sectors per track", tracks ? "Too many" : "Zero");
    }
    s->entries = ld32_le(h + F_ENTRIES);
    s->data = ld32_le(h + F_DATA) * 512ull;
    if (sectors > INT64_MAX / 512 || s->entries > INT32_MAX / 4 ||
        HEADER + 4ull * s->entries > file->size) {
        return error_new("Invalid image: the allocation table is too large");
    }
    uint64_t table_end = ALIGN_UP(HEADER + 4ull * s->entries, 512ull);
    s->data = s->data ? s->data : table_end;
    if (s->data < HEADER + 4ull * s->entries) {
        return error_new("Invalid image: the data begin inside the allocation table");
    }
    if (sectors > s->entries * tracks) {
        return error_new("Invalid image: the allocation table is too small for the disk");
    }
    blockmap_init(&s->map, tracks * 512);
    s->map.find_co = find_co;
    s->map.alloc_co = alloc_co;
    s->map.link_co = link_co;
    s->multiplier = ext ? s->map.block_size : 512;
    s->was_in_use = ld32_le(h + F_IN_USE) == IN_USE;
    node->size = sectors * 512;
    /* New clusters lie where entries can say it. */
    s->end = ALIGN_UP(MAX(file->size, s->data), 512ull);
    if (ext) {
        s->end = (s->end + s->multiplier - 1) / s->multiplier * s->multiplier;
    } else {
        uint64_t behind = s->end - s->data;
        s->end = s->data + (behind + s->map.block_size - 1) / s->map.block_size * s->map.block_size;
    }
    return NULL;
}

static Error *parallels_open_co(BlockNode *node, KeyValues *opts)
{
    Parallels *s = node->state;
    uint8_t h[HEADER];

    int ret =
        node->file->node->size >= HEADER ? node_pread_co(node->file->node, 0, HEADER, h) : -EINVAL;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the Parallels header");
    }
    TRY(use_header(node, h));
    bool repair;
    TRY(block_take_bool(opts, "x-repair", false, &repair));
    if (s->was_in_use && !node->read_only && !repair) {
        return error_new("parallels: Image was not closed correctly; cannot be opened read/write");
    }
    node->limits.request_align = 512;
    meta_init(&s->meta, node->file->node);
    return NULL;
}

static int parallels_write_back_co(BlockNode *node)
{
    return meta_write_back_co(&((Parallels *)node->state)->meta);
}

static int parallels_flush_co(BlockNode *node)
{
    return meta_flush_co(&((Parallels *)node->state)->meta);
}

/* The table is up to date: the header says so. */
static int settle_co(BlockNode *node)
{
    Parallels *s = node->state;
    int ret = meta_write_back_co(&s->meta);
    if (ret == 0 && s->marked) {
        ret = mark_in_use_co(node, false);
        ret = ret < 0 ? ret : meta_write_back_co(&s->meta);
    }
    return ret;
}

static Error *parallels_reopen_co(BlockNode *node)
{
    int ret = node->read_only ? settle_co(node) : 0;
    return ret < 0 ? error_new_errno(ret, "Could not write the metadata of '%s'", node->filename) : NULL;
}

static void parallels_close_co(BlockNode *node)
{
    Parallels *s = node->state;
    if (!node->read_only) {
        settle_co(node);
    }
    meta_fini(&s->meta);
}

static int parallels_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes,
                               const BlockVec *vec, size_t at)
{
    return blockmap_preadv_co(&((Parallels *)node->state)->map, node, offset, bytes, vec, at);
}

static int parallels_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes,
                                const BlockVec *vec, size_t at, unsigned flags)
{
    return blockmap_pwritev_co(&((Parallels *)node->state)->map, node, offset, bytes, vec, at);
}

static int parallels_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     unsigned flags)
{
    return blockmap_write_zeroes_co(&((Parallels *)node->state)->map, node, offset, bytes, flags);
}

static int parallels_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Parallels *)node->state)->map, node, offset, bytes, ret);
}

/* Clusters behind the last one in use are leaks. */
static Error *check_leaks_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Parallels *s = node->state;
    uint64_t end = s->data, size = node->file->node->size;

    for (uint64_t i = 0; i < check->total_clusters; i++) {
        BlockPlace place = { 0 };
        if (find_co(node, i, &place) == 0 && place.kind == PLACE_DATA && place.offset < size) {
            end = MAX(end, place.offset + s->map.block_size);
        }
    }
    check->image_end = end;
    if (size <= end) {
        return NULL;
    }
    uint64_t leaked = (size - end + s->map.block_size - 1) / s->map.block_size;
    if (fix & CHECK_FIX_LEAKS) {
        TRY(node_truncate_co(node->file->node, end, PREALLOC_OFF));
        s->end = end;
        check->leaks_fixed += leaked;
    } else {
        check->leaks += leaked;
    }
    return NULL;
}

static Error *parallels_check_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Parallels *s = node->state;

    if (s->was_in_use && !s->marked) {
        if (check->message) {
            check->message(check->opaque, fix & CHECK_FIX_ERRORS
                                              ? "Repairing image was not closed correctly"
                                              : "ERROR image was not closed correctly");
        }
        if (fix & CHECK_FIX_ERRORS) {
            int ret = mark_in_use_co(node, false);
            ret = ret < 0 ? ret : parallels_flush_co(node);
            if (ret < 0) {
                return error_new_errno(ret, "Could not write the header");
            }
            s->was_in_use = false;
            check->corruptions_fixed++;
        } else {
            check->corruptions++;
        }
    }
    uint64_t step = s->multiplier == 512 ? 512 : s->map.block_size;
    TRY(blockmap_check_co(&s->map, node, s->multiplier == 512 ? 0 : s->data % step, step, check));
    return check->corruptions ? NULL : check_leaks_co(node, check, fix);
}

static Error *parallels_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                                  KeyValues *opts)
{
    uint64_t size, cluster;
    bool as_given;

    TRY(block_take_disk_size(opts, &size, &as_given));
    TRY(block_take_size(opts, "cluster_size", DEFAULT_CLUSTER, &cluster));
    if (!IS_ALIGNED(cluster, 512ull) && cluster < UINT32_MAX) { /* iotests compare the three */
        return error_new("Cluster size must be a multiple of 512 bytes");
    }
    if (cluster > 128 * MiB) {
        return error_new("Cluster size is too large");
    }
    if (!cluster || size > INT64_MAX / 2 || (size + cluster - 1) / cluster > INT32_MAX / 4) {
        return error_new("Image size is too large for this cluster size");
    }
    TRY(block_round_disk_size(&size, as_given));
    uint64_t entries = (size + cluster - 1) / cluster;
    uint64_t data = ALIGN_UP(HEADER + 4 * entries, cluster);
    if (!IS_POW2(cluster)) {
        data = (HEADER + 4 * entries + cluster - 1) / cluster * cluster;
    }
    uint8_t h[HEADER] = { 0 };
    memcpy(h, magic_ext, 16);
    st32_le(h + F_VERSION, VERSION);
    st32_le(h + F_HEADS, 16);
    st32_le(h + F_CYLINDERS, (uint32_t)(size / 512 / 16 / 32));
    st32_le(h + F_TRACKS, (uint32_t)(cluster / 512));
    st32_le(h + F_ENTRIES, (uint32_t)entries);
    st64_le(h + F_SECTORS, size / 512);
    st32_le(h + F_DATA, (uint32_t)(data / 512));
    int ret = node_pwrite_co(file, 0, sizeof(h), h, 0);
    ret = ret < 0 ? ret : node_write_zeroes_co(file, sizeof(h), data - sizeof(h), 0);
    return ret < 0 ? error_new_errno(ret, "The Parallels image could not be written") : NULL;
}

static const BlockOption parallels_create_options[] = {
    { "cluster_size", OPT_SIZE, "Bytes in a cluster of the image" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};

BLOCK_DRIVER(parallels, .name = "parallels", .desc = "Parallels disk image",
             .state_size = sizeof(Parallels), .create_options = parallels_create_options,
             .probe = parallels_probe, .supports_backing = true, .repairs = true,
             .open_co = parallels_open_co, .close_co = parallels_close_co, .reopen_co = parallels_reopen_co,
             .create_co = parallels_create_co, .preadv_co = parallels_preadv_co,
             .pwritev_co = parallels_pwritev_co, .write_zeroes_co = parallels_write_zeroes_co,
             .flush_co = parallels_flush_co, .write_back_co = parallels_write_back_co,
             .status_co = parallels_status_co, .check_co = parallels_check_co);
