/*
 * Driver "vhdx": Hyper-V disk images, as MS-VHDX has them: two headers of which the newer counts, a
 * region table, a metadata table, a block allocation table, blocks, and a log.
 *
 * The log of an image that was not closed is played back. Changes made here do not need it: a
 * table's sector is written in one piece, behind the data it points at. Missing: differencing
 * images.
 */
#include "block/format/vhdx.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"

/* The first three fields of a GUID are little endian. */
#define GUID(a, b, c, d0, d1, d2, d3, d4, d5, d6, d7)                                              \
    {                                                                                              \
        {                                                                                          \
            (uint8_t)(a), (uint8_t)((a) >> 8), (uint8_t)((a) >> 16), (uint8_t)((a) >> 24),         \
                (uint8_t)(b), (uint8_t)((b) >> 8), (uint8_t)(c), (uint8_t)((c) >> 8), d0, d1, d2,  \
                d3, d4, d5, d6, d7                                                                 \
        }                                                                                          \
    }
const VhdxGuid vhdx_guid_bat =
    GUID(0x2dc27766u, 0xf623, 0x4200, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08);
const VhdxGuid vhdx_guid_metadata =
    GUID(0x8b7ca206u, 0x4790, 0x4b9a, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e);
const VhdxGuid vhdx_guid_file_parameters =
    GUID(0xcaa16737u, 0xfa36, 0x4d43, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b);
const VhdxGuid vhdx_guid_disk_size =
    GUID(0x2fa54224u, 0xcd1b, 0x4876, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8);
const VhdxGuid vhdx_guid_page83 =
    GUID(0xbeca12abu, 0xb2e6, 0x4523, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46);
const VhdxGuid vhdx_guid_logical_sector =
    GUID(0x8141bf1du, 0xa96f, 0x4709, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f);
const VhdxGuid vhdx_guid_physical_sector =
    GUID(0xcda348c7u, 0x445d, 0x4471, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56);
const VhdxGuid vhdx_guid_parent_locator =
    GUID(0xa8d35f2du, 0xb30b, 0x454d, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c);

VhdxGuid vhdx_guid_new(void)
{
    VhdxGuid guid;
    for (unsigned i = 0; i < 16; i += 4) {
        st32_le(guid.byte + i, g_random_int());
    }
    guid.byte[7] = (guid.byte[7] & 0x0f) | 0x40; /* RFC 4122: random */
    guid.byte[8] = (guid.byte[8] & 0x3f) | 0x80;
    return guid;
}

uint32_t vhdx_checksum(const uint8_t *data, size_t length, size_t field)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < length; i++) {
        crc ^= i >= field && i < field + 4 ? 0 : data[i];
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
        }
    }
    return ~crc;
}

static int vhdx_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= 8 && !memcmp(data, "vhdxfile", 8) ? 100 : 0;
}

/* --- blocks --- */

/* Every chunk_ratio blocks the table has an entry for a sector bitmap. */
static uint64_t entry_offset(const Vhdx *s, uint64_t index)
{
    return s->bat + 8 * (index + index / s->chunk_ratio);
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vhdx *s = node->state;
    uint8_t raw[8];
    int code = meta_get_co(&s->meta, entry_offset(s, index), raw, 8);
    uint64_t entry = ld64_le(raw);

    if (code < 0) {
        return code;
    }
    switch (entry & BAT_STATE) {
    case BAT_NOT_PRESENT:
    case BAT_UNDEFINED:
    case BAT_ZERO:
    case BAT_UNMAPPED:
    case BAT_UNMAPPED_V095:
        ret->kind = PLACE_ZERO;
        return 0;
    case BAT_FULLY_PRESENT:
        ret->kind = PLACE_DATA;
        ret->offset = entry & BAT_OFFSET;
        return ret->offset >= MiB && ret->offset <= INT64_MAX / 2 ? 0 : -EIO;
    default:
        return -EIO;
    }
}

static int alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vhdx *s = node->state;
    *ret = (BlockPlace) { .kind = PLACE_DATA, .offset = s->end };
    s->end += s->map.block_size;
    return 0;
}

static int link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    Vhdx *s = node->state;
    uint8_t raw[8];
    st64_le(raw, place->offset | BAT_FULLY_PRESENT);
    return meta_put_co(&s->meta, entry_offset(s, index), raw, 8);
}

/* --- headers --- */

static bool header_valid(const uint8_t *h)
{
    return !memcmp(h, "head", 4) &&
           vhdx_checksum(h, VHDX_HEADER, VH_CHECKSUM) == ld32_le(h + VH_CHECKSUM) &&
           ld16_le(h + VH_VERSION) == 1;
}

static Error *read_headers_co(BlockNode *node)
{
    static const uint64_t places[2] = { VHDX_HEADER_1, VHDX_HEADER_2 };
    Vhdx *s = node->state;
    bool found = false;

    if (node->file->node->size < MiB) {
        return error_new("VHDX header invalid: the file is too short");
    }
    for (unsigned i = 0; i < 2; i++) {
        uint8_t h[VHDX_HEADER];
        if (node_pread_co(node->file->node, places[i], sizeof(h), h) == 0 && header_valid(h) &&
            (!found || ld64_le(h + VH_SEQUENCE) > ld64_le(s->header + VH_SEQUENCE))) {
            memcpy(s->header, h, sizeof(h));
            s->header_index = i;
            found = true;
        }
    }
    return found ? NULL : error_new("Neither of the two VHDX headers is valid");
}

int vhdx_write_header_co(BlockNode *node)
{
    Vhdx *s = node->state;
    st64_le(s->header + VH_SEQUENCE, ld64_le(s->header + VH_SEQUENCE) + 1);
    st32_le(s->header + VH_CHECKSUM, vhdx_checksum(s->header, VHDX_HEADER, VH_CHECKSUM));
    s->header_index ^= 1;
    int ret = node_pwrite_co(node->file->node, s->header_index ? VHDX_HEADER_2 : VHDX_HEADER_1,
                             VHDX_HEADER, s->header, 0);
    return ret < 0 ? ret : node_flush_co(node->file->node);
}

/* Before the first change: says that the file, and what a guest sees of it, are others now. */
static int announce_change_co(BlockNode *node)
{
    Vhdx *s = node->state;
    VhdxGuid file = vhdx_guid_new(), data = vhdx_guid_new();
    if (s->header_changed) {
        return 0;
    }
    s->header_changed = true;
    memcpy(s->header + VH_FILE_GUID, &file, 16);
    memcpy(s->header + VH_DATA_GUID, &data, 16);
    return vhdx_write_header_co(node);
}

/* --- regions and metadata --- */

static bool is_guid(const uint8_t *at, const VhdxGuid *guid)
{
    return !memcmp(at, guid, sizeof(*guid));
}

static Error *use_regions(BlockNode *node, const uint8_t *t)
{
    Vhdx *s = node->state;
    uint64_t file_size = node->file->node->size;

    for (uint32_t i = 0; i < ld32_le(t + 8); i++) {
        const uint8_t *e = t + 16 + 32 * (size_t)i;
        uint64_t offset = ld64_le(e + 16), length = ld32_le(e + 24);
        if (offset < MiB || offset > file_size || length > file_size - offset ||
            !IS_ALIGNED(offset, MiB)) {
            return error_new("A region of the VHDX image lies outside the file");
        }
        if (is_guid(e, &vhdx_guid_bat)) {
            s->bat = offset;
            s->bat_entries = length / 8;
        } else if (is_guid(e, &vhdx_guid_metadata)) {
            s->metadata = offset;
            s->metadata_length = length;
        } else if (ld32_le(e + 28) & 1) {
            return error_new("The VHDX image has a required region that is not known");
        }
    }
    return s->bat && s->metadata ? NULL : error_new("The VHDX image has no block allocation table");
}

static Error *read_regions_co(BlockNode *node)
{
    g_autofree uint8_t *t = g_malloc(VHDX_REGION_TABLE);
    static const uint64_t places[2] = { VHDX_REGION_1, VHDX_REGION_2 };

    for (unsigned i = 0; i < 2; i++) {
        if (node_pread_co(node->file->node, places[i], VHDX_REGION_TABLE, t) == 0 &&
            !memcmp(t, "regi", 4) && ld32_le(t + 8) <= 2047 &&
            vhdx_checksum(t, VHDX_REGION_TABLE, 4) == ld32_le(t + 4)) {
            return use_regions(node, t);
        }
    }
    return error_new("The VHDX image's region tables are invalid");
}

typedef struct VhdxFacts {
    uint64_t disk_size;
    uint32_t block_size, flags, logical, physical;
} VhdxFacts;

static Error *item_co(BlockNode *node, uint64_t offset, uint32_t length, void *to, size_t bytes)
{
    Vhdx *s = node->state;
    if (offset < VHDX_METADATA_TABLE || length < bytes || offset + length > s->metadata_length) {
        return error_new("The VHDX image's metadata are invalid");
    }
    int ret = node_pread_co(node->file->node, s->metadata + offset, bytes, to);
    return ret < 0 ? error_new_errno(ret, "Could not read the VHDX image's metadata") : NULL;
}

static Error *take_item_co(BlockNode *node, const uint8_t *e, VhdxFacts *facts)
{
    uint64_t offset = ld32_le(e + 16);
    uint32_t length = ld32_le(e + 20), flags = ld32_le(e + 24);
    uint8_t raw[8];

    if (is_guid(e, &vhdx_guid_file_parameters)) {
        TRY(item_co(node, offset, length, raw, 8));
        facts->block_size = ld32_le(raw);
        facts->flags = ld32_le(raw + 4);
    } else if (is_guid(e, &vhdx_guid_disk_size)) {
        TRY(item_co(node, offset, length, raw, 8));
        facts->disk_size = ld64_le(raw);
    } else if (is_guid(e, &vhdx_guid_logical_sector)) {
        TRY(item_co(node, offset, length, raw, 4));
        facts->logical = ld32_le(raw);
    } else if (is_guid(e, &vhdx_guid_physical_sector)) {
        TRY(item_co(node, offset, length, raw, 4));
        facts->physical = ld32_le(raw);
    } else if ((flags & 4) && !is_guid(e, &vhdx_guid_page83) &&
               !is_guid(e, &vhdx_guid_parent_locator)) {
        return error_new("The VHDX image has required metadata that are not known");
    }
    return NULL;
}

static Error *read_metadata_co(BlockNode *node, VhdxFacts *facts)
{
    Vhdx *s = node->state;
    g_autofree uint8_t *t = g_malloc(VHDX_METADATA_TABLE);

    if (s->metadata_length < VHDX_METADATA_TABLE ||
        node_pread_co(node->file->node, s->metadata, VHDX_METADATA_TABLE, t) < 0 ||
        memcmp(t, "metadata", 8) || ld16_le(t + 10) > 2047) {
        return error_new("The VHDX image's metadata table is invalid");
    }
    for (unsigned i = 0; i < ld16_le(t + 10); i++) {
        TRY(take_item_co(node, t + 32 + 32 * (size_t)i, facts));
    }
    if (facts->flags & 2) {
        return error_new("VHDX images with a parent are not supported");
    }
    if (!IS_POW2(facts->block_size) || facts->block_size < MiB || facts->block_size > 256 * MiB) {
        return error_new("The VHDX image's block size %u is invalid", facts->block_size);
    }
    if ((facts->logical != 512 && facts->logical != 4096) ||
        (facts->physical != 512 && facts->physical != 4096)) {
        return error_new("The VHDX image's sector size is invalid");
    }
    return facts->disk_size > VHDX_MAX_SIZE ||
                   !IS_ALIGNED(facts->disk_size, (uint64_t)facts->logical)
               ? error_new("The VHDX image's size %" PRIu64 " is invalid", facts->disk_size)
               : NULL;
}

static Error *use_facts(BlockNode *node, const VhdxFacts *facts)
{
    Vhdx *s = node->state;
    uint64_t blocks = (facts->disk_size + facts->block_size - 1) / facts->block_size;

    blockmap_init(&s->map, facts->block_size);
    s->map.find_co = find_co;
    s->map.alloc_co = alloc_co;
    s->map.link_co = link_co;
    s->chunk_ratio = (1ull << 23) * facts->logical / facts->block_size;
    if (blocks && blocks + (blocks - 1) / s->chunk_ratio > s->bat_entries) {
        return error_new("The VHDX image's block allocation table is too small");
    }
    s->end = ALIGN_UP(node->file->node->size, MiB);
    node->size = facts->disk_size;
    node->limits.request_align = facts->logical;
    node->limits.cluster_size = facts->block_size;
    return NULL;
}

/* --- the driver --- */

static Error *vhdx_open_co(BlockNode *node, KeyValues *opts)
{
    Vhdx *s = node->state;
    VhdxFacts facts = { 0 };
    uint8_t identifier[8];
    bool repair;

    TRY(block_take_bool(opts, "x-repair", false, &repair));
    int ret =
        node->file->node->size >= 8 ? node_pread_co(node->file->node, 0, 8, identifier) : -EINVAL;
    if (ret < 0 || !vhdx_probe(identifier, 8, "")) {
        return error_new("Image not in VHDX format");
    }
    TRY(read_headers_co(node));
    TRY(vhdx_replay_log_co(node));
    TRY(read_regions_co(node));
    TRY(read_metadata_co(node, &facts));
    TRY(use_facts(node, &facts));
    meta_init(&s->meta, node->file->node);
    return NULL;
}

static int vhdx_write_back_co(BlockNode *node)
{
    return meta_write_back_co(&((Vhdx *)node->state)->meta);
}

static int vhdx_flush_co(BlockNode *node)
{
    return meta_flush_co(&((Vhdx *)node->state)->meta);
}

static void vhdx_close_co(BlockNode *node)
{
    Vhdx *s = node->state;
    if (!node->read_only) {
        meta_write_back_co(&s->meta);
    }
    meta_fini(&s->meta);
}

static int vhdx_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at)
{
    return blockmap_preadv_co(&((Vhdx *)node->state)->map, node, offset, bytes, vec, at);
}

static int vhdx_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at, unsigned flags)
{
    int ret = announce_change_co(node);
    return ret < 0 ? ret
                   : blockmap_pwritev_co(&((Vhdx *)node->state)->map, node, offset, bytes, vec, at);
}

static int vhdx_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret = announce_change_co(node);
    return ret < 0
               ? ret
               : blockmap_write_zeroes_co(&((Vhdx *)node->state)->map, node, offset, bytes, flags);
}

static int vhdx_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Vhdx *)node->state)->map, node, offset, bytes, ret);
}

static Error *vhdx_check_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Vhdx *s = node->state;
    check->corruptions_fixed += fix && s->replayed; /* when it was opened */
    s->replayed = s->replayed && !fix;
    TRY(blockmap_check_co(&s->map, node, 0, MiB, check));
    check->total_clusters = check->allocated_clusters = check->fragmented_clusters = 0;
    return NULL;
}

BLOCK_DRIVER(vhdx, .name = "vhdx", .desc = "Hyper-V disk image", .state_size = sizeof(Vhdx),
             .repairs = true, .create_options = vhdx_create_options, .probe = vhdx_probe,
             .open_co = vhdx_open_co, .close_co = vhdx_close_co, .create_co = vhdx_create_co,
             .preadv_co = vhdx_preadv_co, .pwritev_co = vhdx_pwritev_co,
             .write_zeroes_co = vhdx_write_zeroes_co, .flush_co = vhdx_flush_co,
             .write_back_co = vhdx_write_back_co, .status_co = vhdx_status_co,
             .check_co = vhdx_check_co);
