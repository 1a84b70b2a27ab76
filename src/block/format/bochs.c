/*
 * Driver "bochs": growing images of Bochs, versions 1 and 2, for reading. A header, a catalog with
 * the number of each extent's place or none, and the extents, each behind a bitmap of its sectors.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    HEADER = 512,
    SECTOR = 512,
    F_TYPE = 32,
    F_SUBTYPE = 48,
    F_VERSION = 64,
    F_HEADER = 68,
    F_CATALOG = 72,
    F_BITMAP = 76,
    F_EXTENT = 80,
    F_DISK_V1 = 84,
    F_DISK_V2 = 88,
    VERSION_1 = 0x10000,
    VERSION_2 = 0x20000,
};
#define ENTRY_NONE 0xffffffffu

typedef struct Bochs {
    MetaCache meta;
    BlockMap map;
    uint64_t catalog, data, extent_sectors, bitmap_bytes, slot_bytes;
    uint32_t entries;
} Bochs;

static int bochs_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= HEADER && !strncmp((const char *)data, "Bochs Virtual HD Image", 32) &&
                   !strncmp((const char *)data + F_TYPE, "Redolog", 16) &&
                   !strncmp((const char *)data + F_SUBTYPE, "Growing", 16) &&
                   (ld32_le(data + F_VERSION) == VERSION_1 ||
                    ld32_le(data + F_VERSION) == VERSION_2)
               ? 100
               : 0;
}

/* A block is a sector. */
static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Bochs *s = node->state;
    uint64_t extent = index / s->extent_sectors, in = index % s->extent_sectors;
    uint8_t raw[4];

    ret->kind = PLACE_ZERO;
    if (extent >= s->entries) {
        return 0;
    }
    int code = meta_get_co(&s->meta, s->catalog + 4 * extent, raw, 4);
    if (code < 0 || ld32_le(raw) == ENTRY_NONE) {
        return code;
    }
    uint64_t slot = s->data + ld32_le(raw) * s->slot_bytes;
    if (slot > INT64_MAX / 2 || slot >= node->file->node->size) {
        return -EIO;
    }
    code = meta_get_co(&s->meta, ALIGN_DOWN(slot + in / 8, 4ull), raw, 4);
    if (code == 0 && (raw[(slot + in / 8) % 4] & BIT(in % 8))) {
        *ret = (BlockPlace) { .kind = PLACE_DATA, .offset = slot + s->bitmap_bytes + in * SECTOR };
    }
    return code;
}

/* To the end of an extent that is not there. */
static int skip_co(BlockNode *node, uint64_t index, uint64_t *ret_count)
{
    Bochs *s = node->state;
    uint64_t extent = index / s->extent_sectors;
    uint8_t raw[4] = { 0xff, 0xff, 0xff, 0xff };
    int code = extent < s->entries ? meta_get_co(&s->meta, s->catalog + 4 * extent, raw, 4) : 0;
    bool absent = code == 0 && ld32_le(raw) == ENTRY_NONE;
    *ret_count = absent ? s->extent_sectors - index % s->extent_sectors : 1;
    return code;
}

/* Every extent has a place of its own, so a small file does not make a large disk of many pieces. */
static Error *check_catalog_co(const Bochs *s, BlockNode *file)
{
    uint64_t slots = (file->size - s->data) / s->slot_bytes + 1;
    g_autofree uint8_t *seen = g_try_malloc0(slots / 8 + 1), *table = g_try_malloc(MAX(4 * (gsize)s->entries, 4));
    int ret = seen && table ? 0 : -ENOMEM;
    if (ret >= 0 && s->entries) {
        ret = node_pread_co(file, s->catalog, 4ull * s->entries, table);
    }
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the catalog of the Bochs image");
    }
    for (uint32_t i = 0; i < s->entries; i++) {
        uint64_t slot = ld32_le(table + 4 * (size_t)i);
        if (slot == ENTRY_NONE || slot >= slots) {
            continue; /* reading there fails */
        }
        if (seen[slot / 8] & BIT(slot % 8)) {
            return error_new("Two extents of the Bochs image share a place");
        }
        seen[slot / 8] |= (uint8_t)BIT(slot % 8);
    }
    return NULL;
}

static Error *bochs_open_co(BlockNode *node, KeyValues *opts)
{
    Bochs *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t h[HEADER];

    if (!node->read_only) {
        return error_new("Block format 'bochs' is for reading only (use read-only=on)");
    }
    int ret = file->size >= HEADER ? node_pread_co(file, 0, HEADER, h) : -EINVAL;
    if (ret < 0 || !bochs_probe(h, HEADER, "")) {
        return error_new("This is not a Bochs image");
    }
    uint64_t disk = ld64_le(h + (ld32_le(h + F_VERSION) == VERSION_1 ? F_DISK_V1 : F_DISK_V2));
    uint64_t extent = ld32_le(h + F_EXTENT), bitmap = ld32_le(h + F_BITMAP);
    s->catalog = ld32_le(h + F_HEADER);
    s->entries = ld32_le(h + F_CATALOG);
    s->data = s->catalog + 4ull * s->entries;
    if (!bitmap || !IS_POW2(extent) || extent < SECTOR || extent > 8 * MiB || s->catalog % 4 ||
        s->entries > 0x100000 || s->data > file->size) {
        return error_new("The Bochs image's header is invalid");
    }
    s->extent_sectors = extent / SECTOR;
    s->bitmap_bytes = ALIGN_UP(bitmap, (uint64_t)SECTOR);
    s->slot_bytes = s->bitmap_bytes + extent;
    if (s->bitmap_bytes * 8 < s->extent_sectors || disk > INT64_MAX / 2 ||
        disk / extent > s->entries) {
        return error_new("Catalog size %u is too small for this disk size", s->entries);
    }
    TRY(check_catalog_co(s, file));
    blockmap_init(&s->map, SECTOR);
    s->map.find_co = find_co;
    s->map.skip_co = skip_co;
    meta_init(&s->meta, file);
    node->size = ALIGN_DOWN(disk, (uint64_t)SECTOR);
    node->limits.request_align = SECTOR;
    return NULL;
}

static void bochs_close_co(BlockNode *node)
{
    meta_fini(&((Bochs *)node->state)->meta);
}

static int bochs_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    return blockmap_preadv_co(&((Bochs *)node->state)->map, node, offset, bytes, vec, at);
}

static int bochs_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Bochs *)node->state)->map, node, offset, bytes, ret);
}

BLOCK_DRIVER(bochs, .name = "bochs", .desc = "Bochs growing image (for reading)",
             .state_size = sizeof(Bochs), .probe = bochs_probe, .open_co = bochs_open_co,
             .close_co = bochs_close_co, .preadv_co = bochs_preadv_co,
             .status_co = bochs_status_co);
