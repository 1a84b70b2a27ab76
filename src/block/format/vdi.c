/*
 * Driver "vdi": VirtualBox disk images, version 1.1, dynamic and static. The header, a map with a
 * 32-bit block number for each block of 1 MiB (or another size), and the blocks.
 *
 * The format is known from the documentation of its fields in public descriptions of the format.
 * Missing: differencing and undo images, which are refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    HEADER_SIZE = 512,
    SIGNATURE = (int)0xbeda107f,
    VERSION = 0x00010001,
    TYPE_DYNAMIC = 1,
    TYPE_STATIC = 2,
    DEFAULT_BLOCK = 1 << 20,
    MAX_BLOCKS = 0x1fffff80, /* so that the map ends below 2 GiB */
    /* fields */
    F_SIGNATURE = 0x40,
    F_VERSION = 0x44,
    F_HEADER_SIZE = 0x48,
    F_TYPE = 0x4c,
    F_MAP = 0x154,
    F_DATA = 0x158,
    F_SECTOR_SIZE = 0x168,
    F_DISK_SIZE = 0x170,
    F_BLOCK_SIZE = 0x178,
    F_BLOCK_EXTRA = 0x17c,
    F_BLOCKS = 0x180,
    F_ALLOCATED = 0x184,
    F_UUID = 0x188,
    F_UUID_SNAPSHOT = 0x198,
    F_UUID_LINK = 0x1a8,
    F_UUID_PARENT = 0x1b8,
};
#define ENTRY_NONE 0xffffffffu
#define ENTRY_ZERO 0xfffffffeu

typedef struct Vdi {
    MetaCache meta;
    BlockMap map;
    uint64_t map_offset, data_offset;
    uint32_t blocks, allocated; /* allocated: the next free block number */
    bool header_dirty;
} Vdi;

static int vdi_probe(const uint8_t *data, size_t length, const char *filename)
{
    return length >= HEADER_SIZE && ld32_le(data + F_SIGNATURE) == (uint32_t)SIGNATURE ? 100 : 0;
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vdi *s = node->state;
    uint8_t raw[4];
    int ret_code = meta_get_co(&s->meta, s->map_offset + 4 * index, raw, 4);
    uint32_t entry = ld32_le(raw);

    if (ret_code < 0) {
        return ret_code;
    }
    if (entry == ENTRY_NONE || entry == ENTRY_ZERO) {
        ret->kind = entry == ENTRY_ZERO ? PLACE_ZERO : PLACE_NONE;
        return 0;
    }
    if (entry >= s->blocks) {
        return -EIO;
    }
    ret->kind = PLACE_DATA;
    ret->offset = s->data_offset + entry * s->map.block_size;
    return 0;
}

static int alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vdi *s = node->state;
    if (s->allocated >= s->blocks) {
        return -ENOSPC; /* the header lied about how many there are */
    }
    *ret = (BlockPlace) { .kind = PLACE_DATA,
                          .offset = s->data_offset + s->allocated++ * s->map.block_size };
    s->header_dirty = true;
    return 0;
}

static int link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    Vdi *s = node->state;
    uint8_t raw[4];
    st32_le(raw, (uint32_t)((place->offset - s->data_offset) / s->map.block_size));
    return meta_put_co(&s->meta, s->map_offset + 4 * index, raw, 4);
}

/* --- opening --- */

/* Where the parts lie: of no interest to who wants the facts alone. */
static Error *check_places(const uint8_t *h, uint64_t file_size)
{
    uint64_t map_end = ld32_le(h + F_MAP) + 4ull * ld32_le(h + F_BLOCKS);

    if (!IS_ALIGNED(ld32_le(h + F_MAP), 512u) || ld32_le(h + F_MAP) < HEADER_SIZE) {
        return error_new("The VDI block map starts at 0x%x: it has to lie behind the header, on a "
                         "sector boundary",
                         ld32_le(h + F_MAP));
    }
    if (!IS_ALIGNED(ld32_le(h + F_DATA), 512u) || ld32_le(h + F_DATA) < map_end) {
        return error_new("The VDI data starts at 0x%x: it has to lie behind the block map, on a "
                         "sector boundary", ld32_le(h + F_DATA));
    }
    return map_end > file_size ? error_new("The VDI image's block map lies outside the file") : NULL;
}

/* iotests compare what it says of sizes. */
static Error *check_header(const uint8_t *h)
{
    uint64_t size = ld64_le(h + F_DISK_SIZE), block = ld32_le(h + F_BLOCK_SIZE);
    uint32_t type = ld32_le(h + F_TYPE), blocks = ld32_le(h + F_BLOCKS);
    static const uint8_t nobody[16];

    if (ld32_le(h + F_SIGNATURE) != (uint32_t)SIGNATURE) {
        return error_new("This is not a VDI image (its signature is %08x)",
                         ld32_le(h + F_SIGNATURE));
    }
    if (ld32_le(h + F_VERSION) != VERSION) {
        return error_new("VDI version %u.%u is not known here, only 1.1 is",
                         ld32_le(h + F_VERSION) >> 16,
                         ld32_le(h + F_VERSION) & 0xffff);
    }
    if (type != TYPE_DYNAMIC && type != TYPE_STATIC) {
        return error_new("unsupported VDI image (type %u: dynamic or static is supported)", type);
    }
    if (memcmp(h + F_UUID_LINK, nobody, 16) || memcmp(h + F_UUID_PARENT, nobody, 16)) {
        return error_new("unsupported VDI image (it is based on another image)");
    }
    if (ld32_le(h + F_SECTOR_SIZE) != 512) {
        return error_new("unsupported VDI image (sector size %u is not 512)",
                         ld32_le(h + F_SECTOR_SIZE));
    }
    if (!IS_POW2(block) || block < 4096 || block > 64 * MiB) {
        return error_new("unsupported VDI image (block size %" PRIu64 " is not 1048576)", block);
    }
    if (ld32_le(h + F_BLOCK_EXTRA)) {
        return error_new("unsupported VDI image (blocks with %u bytes of their own in front)", ld32_le(h + F_BLOCK_EXTRA));
    }
    if (size > MAX_BLOCKS * block) {
        return error_new("Unsupported VDI image size (size is 0x%" PRIx64 ", max supported is 0x%" PRIx64 ")", size,
                         MAX_BLOCKS * block);
    }
    if (size > blocks * block) {
        return error_new("unsupported VDI image (disk size %" PRIu64 ", image bitmap has room for %" PRIu64 ")", size,
                         blocks * block);
    }
    return blocks > MAX_BLOCKS ? error_new("unsupported VDI image (too many blocks %u, max is %u)", blocks, MAX_BLOCKS) : NULL;
}

/* The header's count is not believed: a block that is in use must never be given out again. */
static int count_blocks_co(BlockNode *node)
{
    Vdi *s = node->state;
    uint64_t end = node->file->node->size;
    uint64_t used = end > s->data_offset
                        ? (end - s->data_offset + s->map.block_size - 1) / s->map.block_size
                        : 0;
    s->allocated = (uint32_t)MAX(s->allocated, MIN(used, UINT32_MAX));
    return 0;
}

static Error *vdi_open_co(BlockNode *node, KeyValues *opts)
{
    Vdi *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t h[HEADER_SIZE];

    int ret = file->size >= HEADER_SIZE ? node_pread_co(file, 0, HEADER_SIZE, h) : -EINVAL;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the VDI header");
    }
    TRY(check_header(h));
    if (!node->no_io) {
        TRY(check_places(h, file->size));
    }
    blockmap_init(&s->map, ld32_le(h + F_BLOCK_SIZE));
    s->map.find_co = find_co;
    s->map.alloc_co = alloc_co;
    s->map.link_co = link_co;
    s->map.holes = ld32_le(h + F_TYPE) == TYPE_STATIC;
    s->map_offset = ld32_le(h + F_MAP);
    s->data_offset = ld32_le(h + F_DATA);
    s->blocks = ld32_le(h + F_BLOCKS);
    s->allocated = MIN(ld32_le(h + F_ALLOCATED), s->blocks);
    count_blocks_co(node);
    meta_init(&s->meta, file);
    node->size = ALIGN_UP(ld64_le(h + F_DISK_SIZE), 512ull);
    node->size = MIN(node->size, s->blocks * s->map.block_size);
    node->limits.request_align = 512;
    node->limits.cluster_size = (uint32_t)s->map.block_size;
    return NULL;
}

static int vdi_write_back_co(BlockNode *node)
{
    Vdi *s = node->state;
    uint8_t raw[4];

    if (s->header_dirty) {
        st32_le(raw, MIN(s->allocated, s->blocks));
        int ret = meta_put_co(&s->meta, F_ALLOCATED, raw, 4);
        if (ret < 0) {
            return ret;
        }
        s->header_dirty = false;
    }
    return meta_write_back_co(&s->meta);
}

static int vdi_flush_co(BlockNode *node)
{
    int ret = vdi_write_back_co(node);
    return ret < 0 ? ret : node_flush_co(node->file->node);
}

static void vdi_close_co(BlockNode *node)
{
    Vdi *s = node->state;
    if (!node->read_only) {
        vdi_write_back_co(node);
    }
    meta_fini(&s->meta);
}

/* --- requests --- */

static int vdi_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    return blockmap_preadv_co(&((Vdi *)node->state)->map, node, offset, bytes, vec, at);
}

static int vdi_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    return blockmap_pwritev_co(&((Vdi *)node->state)->map, node, offset, bytes, vec, at);
}

static int vdi_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return blockmap_write_zeroes_co(&((Vdi *)node->state)->map, node, offset, bytes, flags);
}

static int vdi_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Vdi *)node->state)->map, node, offset, bytes, ret);
}

static Error *vdi_check_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Vdi *s = node->state;
    if (fix) {
        return error_new("The format driver 'vdi' does not support repairing images");
    }
    TRY(blockmap_check_co(&s->map, node, s->data_offset, s->map.block_size, check));
    check->total_clusters = check->allocated_clusters = check->fragmented_clusters = 0;
    return NULL;
}

/* --- creating --- */

static void make_header(uint8_t *h, uint64_t size, bool is_static, uint32_t blocks,
                        uint64_t map_bytes)
{
    static const char text[] = "<<< Ostrich VM Virtual Disk Image >>>\n";
    uint32_t random[8];

    memcpy(h, text, sizeof(text));
    st32_le(h + F_SIGNATURE, (uint32_t)SIGNATURE);
    st32_le(h + F_VERSION, VERSION);
    st32_le(h + F_HEADER_SIZE, 0x180);
    st32_le(h + F_TYPE, is_static ? TYPE_STATIC : TYPE_DYNAMIC);
    st32_le(h + F_MAP, HEADER_SIZE);
    st32_le(h + F_DATA, (uint32_t)(HEADER_SIZE + map_bytes));
    st32_le(h + F_SECTOR_SIZE, 512);
    st64_le(h + F_DISK_SIZE, size);
    st32_le(h + F_BLOCK_SIZE, DEFAULT_BLOCK);
    st32_le(h + F_BLOCKS, blocks);
    st32_le(h + F_ALLOCATED, is_static ? blocks : 0);
    for (unsigned i = 0; i < ARRAY_SIZE(random); i++) {
        random[i] = g_random_int();
    }
    memcpy(h + F_UUID, random, 32); /* of the image and of its last snapshot */
}

static Error *write_map_co(BlockNode *file, uint32_t blocks, uint64_t map_bytes, bool is_static)
{
    enum { CHUNK = 64 * 1024 };
    g_autofree uint8_t *chunk = g_malloc(CHUNK);

    for (uint64_t at = 0; at < map_bytes; at += CHUNK) {
        uint64_t part = MIN(map_bytes - at, CHUNK);
        for (uint64_t i = 0; i < part; i += 4) {
            uint64_t index = (at + i) / 4;
            st32_le(chunk + i, is_static && index < blocks ? (uint32_t)index
                               : index < blocks            ? ENTRY_NONE
                                                           : 0);
        }
        int ret = node_pwrite_co(file, HEADER_SIZE + at, part, chunk, 0);
        if (ret < 0) {
            return error_new_errno(ret, "Error writing the block map");
        }
    }
    return NULL;
}

static Error *vdi_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                            KeyValues *opts)
{
    uint8_t h[HEADER_SIZE] = { 0 };
    uint64_t size;
    bool is_static;

    TRY(block_take_size(opts, "size", 0, &size));
    keyvalues_remove(opts, "x-as-given");
    TRY(block_take_bool(opts, "static", false, &is_static));
    g_autofree char *preallocation = keyvalues_take(opts, "preallocation"); /* as blockdev-create says it */
    if (preallocation) {
        Preallocation kind;
        TRY(block_parse_preallocation(preallocation, &kind));
        if (kind > PREALLOC_METADATA) {
            return error_new("Preallocation '%s' is not possible here: off or metadata is", preallocation);
        }
        is_static = kind == PREALLOC_METADATA;
    }
    if (size > (uint64_t)MAX_BLOCKS * DEFAULT_BLOCK) {
        return error_new("Unsupported VDI image size (size is 0x%" PRIx64
                         ", max supported is 0x%" PRIx64 ")",
                         size, (uint64_t)MAX_BLOCKS * DEFAULT_BLOCK);
    }
    uint32_t blocks = (uint32_t)((size + DEFAULT_BLOCK - 1) / DEFAULT_BLOCK);
    uint64_t map_bytes = ALIGN_UP(4ull * blocks, 512ull);
    make_header(h, size, is_static, blocks, map_bytes);
    int ret = node_pwrite_co(file, 0, sizeof(h), h, 0);
    if (ret < 0) {
        return error_new_errno(ret, "Error writing header");
    }
    TRY(write_map_co(file, blocks, map_bytes, is_static));
    return is_static
               ? node_truncate_co(file, HEADER_SIZE + map_bytes + (uint64_t)blocks * DEFAULT_BLOCK,
                                  PREALLOC_OFF)
               : NULL;
}

static const BlockOption vdi_create_options[] = {
    { "size", OPT_SIZE, "Virtual disk size" },
    { "static", OPT_BOOL, "Make a static image, with all blocks allocated" },
    { 0 },
};

BLOCK_DRIVER(vdi, .name = "vdi", .desc = "VirtualBox disk image", .state_size = sizeof(Vdi),
             .create_options = vdi_create_options, .probe = vdi_probe, .open_co = vdi_open_co,
             .close_co = vdi_close_co, .create_co = vdi_create_co, .preadv_co = vdi_preadv_co,
             .pwritev_co = vdi_pwritev_co, .write_zeroes_co = vdi_write_zeroes_co,
             .flush_co = vdi_flush_co, .write_back_co = vdi_write_back_co,
             .status_co = vdi_status_co, .check_co = vdi_check_co);
