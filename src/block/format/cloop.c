/*
 * Driver "cloop": compressed loop images, version 2, for reading: after 128 bytes of shell script
 * the block size, the number of blocks, their offsets, and the blocks, packed with zlib. All big
 * endian.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#include "base/endian.h"
#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum { F_BLOCK_SIZE = 128, F_BLOCKS = 132, F_OFFSETS = 136 };
#define MAX_BLOCK (64 * MiB)

typedef struct Cloop {
    MetaCache meta;
    BlockMap map;
    uint64_t cached; /* index + 1 of what is in `data`; 0: nothing */
    uint8_t *data;
    CoMutex lock;
} Cloop;

static int cloop_probe(const uint8_t *data, size_t length, const char *filename)
{
    static const char script[] =
        "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 "
        "/dev/cloop $1\n";
    size_t n = MIN(length, strlen(script));
    return n && !memcmp(data, script, n) ? 2 : 0;
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Cloop *s = node->state;
    uint8_t raw[8];
    int code = meta_get_co(&s->meta, F_OFFSETS + 8 * index, raw, 8);
    ret->kind = PLACE_PACKED;
    ret->offset = ld64_be(raw);
    return code;
}

static int unpack_co(BlockNode *node, uint64_t index, const BlockPlace *place, uint8_t *data)
{
    Cloop *s = node->state;
    uint8_t raw[8];
    uLongf length = (uLongf)s->map.block_size;
    int code = meta_get_co(&s->meta, F_OFFSETS + 8 * (index + 1), raw, 8);
    uint64_t end = ld64_be(raw);

    if (code < 0) {
        return code;
    }
    if (end <= place->offset || end - place->offset > 2 * s->map.block_size + 64 ||
        end > node->file->node->size) {
        return -EIO;
    }
    size_t bytes = (size_t)(end - place->offset);
    g_autofree uint8_t *packed = g_try_malloc(bytes);
    code = packed ? node_pread_co(node->file->node, place->offset, bytes, packed) : -ENOMEM;
    if (code < 0) {
        return code;
    }
    return uncompress(data, &length, packed, (uLong)bytes) == Z_OK && length == s->map.block_size
               ? 0
               : -EIO;
}

/* The last block is kept, since readers ask for much less than one. */
static int unpack_cached_co(BlockNode *node, uint64_t index, const BlockPlace *place, uint8_t *data)
{
    Cloop *s = node->state;
    int ret = 0;
    co_mutex_lock(&s->lock);
    if (s->cached != index + 1) {
        s->data = s->data ? s->data : g_try_malloc(s->map.block_size);
        s->cached = 0;
        ret = s->data ? unpack_co(node, index, place, s->data) : -ENOMEM;
        s->cached = ret < 0 ? 0 : index + 1;
    }
    if (ret == 0) {
        memcpy(data, s->data, s->map.block_size);
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

static Error *cloop_open_co(BlockNode *node, KeyValues *opts)
{
    Cloop *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t raw[8];

    if (!node->read_only) {
        return error_new("Block format 'cloop' is for reading only (use read-only=on)");
    }
    int ret = file->size >= F_OFFSETS ? node_pread_co(file, F_BLOCK_SIZE, 8, raw) : -EINVAL;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the cloop header");
    }
    uint64_t block = ld32_be(raw), count = ld32_be(raw + 4);
    if (!block || block % 512 || block > MAX_BLOCK) {
        return error_new("block_size %" PRIu64 " must be a multiple of 512, at most 64 MiB", block);
    }
    if (F_OFFSETS + 8 * (count + 1) > file->size) {
        return error_new("The cloop image's offsets lie outside the file");
    }
    blockmap_init(&s->map, block);
    s->map.find_co = find_co;
    s->map.unpack_co = unpack_cached_co;
    co_mutex_init(&s->lock);
    meta_init(&s->meta, file);
    node->size = count * block;
    node->limits.request_align = 512;
    return NULL;
}

static void cloop_close_co(BlockNode *node)
{
    Cloop *s = node->state;
    meta_fini(&s->meta);
    g_free(s->data);
}

static int cloop_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    return blockmap_preadv_co(&((Cloop *)node->state)->map, node, offset, bytes, vec, at);
}

BLOCK_DRIVER(cloop, .name = "cloop", .desc = "Compressed loop image (for reading)",
             .state_size = sizeof(Cloop), .probe = cloop_probe, .open_co = cloop_open_co,
             .close_co = cloop_close_co, .preadv_co = cloop_preadv_co);
