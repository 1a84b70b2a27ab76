/* Disks in blocks: requests taken apart into blocks. */
#include "block/format/blockmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/crypt/crypt.h"

enum { MAX_JOINED = 16 << 20 }; /* bytes of blocks that lie together and are moved at once */

typedef struct Adding {
    uint64_t index;
    CoQueue waiters;
    ListNode in_map;
} Adding;

void blockmap_init(BlockMap *map, uint64_t block_size)
{
    *map = (BlockMap) { .block_size = block_size };
    list_init(&map->adding);
}

static BlockNode *place_file(const BlockNode *node, const BlockPlace *place)
{
    return place->file ? place->file : node->file->node;
}

/* A piece of a request inside one block. */
typedef struct Piece {
    uint64_t index, in;
    size_t bytes;
} Piece;

static Piece first_piece(const BlockMap *map, uint64_t offset, uint64_t bytes)
{
    uint64_t in = offset % map->block_size;
    return (Piece) { offset / map->block_size, in, (size_t)MIN(bytes, map->block_size - in) };
}

static Adding *is_being_added(BlockMap *map, uint64_t index)
{
    LIST_FOREACH (a, &map->adding, Adding, in_map) {
        if (a->index == index) {
            return a;
        }
    }
    return NULL;
}

static void wait_for_adding_co(BlockMap *map, uint64_t index)
{
    for (Adding *a; (a = is_being_added(map, index));) {
        co_queue_wait(&a->waiters);
    }
}

static int find_co(BlockMap *map, BlockNode *node, uint64_t index, BlockPlace *place)
{
    *place = (BlockPlace) { 0 };
    if (!list_empty(&map->adding)) {
        wait_for_adding_co(map, index);
    }
    return map->find_co(node, index, place);
}

/* --- data --- */

static int read_data_co(BlockMap *map, BlockNode *node, const Piece *piece, const BlockPlace *place, const BlockVec *vec,
                        size_t at)
{
    BlockNode *file = place_file(node, place);
    if (!map->crypt) {
        return node_preadv_co(file, place->offset + piece->in, piece->bytes, vec, at);
    }
    g_autofree uint8_t *data = g_try_malloc(piece->bytes);
    int ret = data ? node_pread_co(file, place->offset + piece->in, piece->bytes, data) : -ENOMEM;
    ret = ret < 0 ? ret : block_decrypt_co(map->crypt, piece->index * map->block_size + piece->in, data, piece->bytes);
    if (ret == 0) {
        block_vec_from_buffer(vec, at, data, piece->bytes);
    }
    return ret;
}

static int write_data_co(BlockMap *map, BlockNode *node, const Piece *piece, const BlockPlace *place, const BlockVec *vec,
                         size_t at)
{
    BlockNode *file = place_file(node, place);
    if (!map->crypt) {
        return node_pwritev_co(file, place->offset + piece->in, piece->bytes, vec, at, 0);
    }
    g_autofree uint8_t *data = g_try_malloc(piece->bytes);
    if (!data) {
        return -ENOMEM;
    }
    block_vec_to_buffer(vec, at, data, piece->bytes);
    int ret = block_encrypt_co(map->crypt, piece->index * map->block_size + piece->in, data, piece->bytes);
    return ret < 0 ? ret : node_pwrite_co(file, place->offset + piece->in, piece->bytes, data, 0);
}

/* --- reading --- */

static int read_backing_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    BlockNode *backing = node->backing ? node->backing->node : NULL;
    uint64_t inside = backing ? MIN(bytes, backing->size - MIN(offset, backing->size)) : 0;

    if (inside < bytes) {
        block_vec_zero(vec, at + (size_t)inside, (size_t)(bytes - inside));
    }
    return inside ? node_preadv_co(backing, offset, inside, vec, at) : 0;
}

static int read_packed_co(BlockMap *map, BlockNode *node, const Piece *piece,
                          const BlockPlace *place, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc(map->block_size);
    if (!data) {
        return -ENOMEM;
    }
    int ret = map->unpack_co(node, piece->index, place, data);
    if (ret == 0) {
        block_vec_from_buffer(vec, at, data + piece->in, piece->bytes);
    }
    return ret;
}

/* What a request moves: a part of it goes with each piece. */
typedef struct Transfer {
    const BlockVec *vec;
    size_t at;
    unsigned flags;
} Transfer;
/* `left`: bytes of the request from the piece on, for who can do more at once. Sets piece->bytes to what was done. */
typedef int PieceFn(BlockMap *map, BlockNode *node, Piece *piece, uint64_t left, const Transfer *t);

static int for_pieces_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes, Transfer t, PieceFn *fn)
{
    while (bytes) {
        Piece piece = first_piece(map, offset, bytes);
        int ret = fn(map, node, &piece, bytes, &t);
        if (ret < 0) {
            return ret;
        }
        offset += piece.bytes;
        bytes -= piece.bytes;
        t.at += piece.bytes;
    }
    return 0;
}

static bool continues(const BlockPlace *a, const BlockPlace *b, uint64_t distance)
{
    return a->kind == b->kind && a->file == b->file &&
           (a->kind != PLACE_DATA || a->offset + distance == b->offset) && a->kind != PLACE_PACKED;
}

/* Blocks that lie one behind the other, or are all nowhere, make one longer piece. */
static int join_co(BlockMap *map, BlockNode *node, Piece *piece, uint64_t left, const BlockPlace *place)
{
    uint64_t end = MIN(left, MAX_JOINED), index = piece->index;
    while (place->kind != PLACE_PACKED && piece->bytes < end && !is_being_added(map, ++index)) {
        BlockPlace next = { 0 };
        int ret = map->find_co(node, index, &next);
        if (ret < 0) {
            return ret;
        }
        if (!continues(place, &next, (index - piece->index) * map->block_size)) {
            break;
        }
        piece->bytes = (size_t)MIN(left, piece->bytes + map->block_size);
    }
    return 0;
}

static int read_piece_co(BlockMap *map, BlockNode *node, Piece *piece, uint64_t left, const Transfer *t)
{
    BlockPlace place;
    int ret = find_co(map, node, piece->index, &place);
    ret = ret < 0 ? ret : join_co(map, node, piece, left, &place);
    if (ret < 0) {
        return ret;
    }
    switch (place.kind) {
    case PLACE_DATA:
        return read_data_co(map, node, piece, &place, t->vec, t->at);
    case PLACE_PACKED:
        return read_packed_co(map, node, piece, &place, t->vec, t->at);
    case PLACE_NONE:
        return read_backing_co(node, piece->index * map->block_size + piece->in, piece->bytes, t->vec, t->at);
    default:
        block_vec_zero(t->vec, t->at, piece->bytes);
        return 0;
    }
}

int blockmap_preadv_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                       const BlockVec *vec, size_t at)
{
    node_debug_event_co(node->file->node, BLOCK_EVENT_READ_AIO);
    return for_pieces_co(map, node, offset, bytes, (Transfer) { vec, at, 0 }, read_piece_co);
}

/* --- writing --- */

/* A new block of which the request covers a part, over what is seen below or what a packed block has. */
static int write_filled_co(BlockMap *map, BlockNode *node, const Piece *piece, const BlockPlace *old,
                           const BlockPlace *place, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc0(map->block_size);
    uint64_t start = piece->index * map->block_size;
    int ret = data ? 0 : -ENOMEM;

    if (ret == 0 && old->kind == PLACE_PACKED) {
        ret = map->unpack_co(node, piece->index, old, data);
    } else if (ret == 0 && old->kind == PLACE_NONE) {
        BLOCK_VEC_BUFFER(below, data, (size_t)map->block_size);
        ret = read_backing_co(node, start, MIN(map->block_size, node->size - MIN(start, node->size)), &below, 0);
    }
    if (ret < 0) {
        return ret;
    }
    block_vec_to_buffer(vec, at, data + piece->in, piece->bytes);
    Piece all = { piece->index, 0, (size_t)map->block_size };
    BLOCK_VEC_BUFFER(whole, data, (size_t)map->block_size);
    return write_data_co(map, node, &all, place, &whole, 0);
}

/* Formats make room behind the end of the file. A file holds zeroes where it grows, and is made to
 * hold the whole block; elsewhere they are written. */
static int clear_rest_co(BlockMap *map, BlockNode *node, const Piece *piece,
                         const BlockPlace *place)
{
    BlockNode *file = place_file(node, place);
    uint64_t behind = place->offset + piece->in + piece->bytes;
    uint64_t end = place->offset + map->block_size;

    if (node_storage(file)->driver->extends) {
        behind = MAX(behind, file->size);
        return behind < end ? node_write_zeroes_co(file, behind, end - behind, 0) : 0;
    }
    int ret = node_write_zeroes_co(file, place->offset, piece->in, 0);
    return ret < 0 ? ret : node_write_zeroes_co(file, behind, end - behind, 0);
}

static int write_new_co(BlockMap *map, BlockNode *node, const Piece *piece, const BlockPlace *old,
                        const BlockVec *vec, size_t at)
{
    BlockPlace place = *old;
    bool filled = old->kind == PLACE_PACKED || map->crypt || (node->backing && old->kind != PLACE_ZERO);

    int ret = map->alloc_co ? map->alloc_co(node, piece->index, &place) : -ENOTSUP;
    if (ret < 0) {
        return ret;
    }
    if (filled && piece->bytes < map->block_size) {
        ret = write_filled_co(map, node, piece, old, &place, vec, at);
    } else {
        ret = write_data_co(map, node, piece, &place, vec, at);
        if (ret == 0 && piece->bytes < map->block_size) {
            ret = clear_rest_co(map, node, piece, &place);
        }
    }
    return ret < 0 ? ret : map->link_co(node, piece->index, &place);
}

static int write_piece_co(BlockMap *map, BlockNode *node, Piece *piece, uint64_t left, const Transfer *t)
{
    BlockPlace place;
    int ret = find_co(map, node, piece->index, &place);
    if (ret < 0) {
        return ret;
    }
    if (place.kind == PLACE_DATA) {
        ret = join_co(map, node, piece, left, &place);
        return ret < 0 ? ret : write_data_co(map, node, piece, &place, t->vec, t->at);
    }
    /* find_co() may have waited: nothing does from here to the entry in the list. */
    wait_for_adding_co(map, piece->index);
    Adding adding = { .index = piece->index };
    co_queue_init(&adding.waiters);
    list_append(&map->adding, &adding.in_map);
    ret = map->find_co(node, piece->index, &place);
    if (ret == 0 && place.kind == PLACE_DATA) { /* somebody was faster */
        ret = write_data_co(map, node, piece, &place, t->vec, t->at);
    } else if (ret == 0) {
        ret = write_new_co(map, node, piece, &place, t->vec, t->at);
    }
    list_remove(&adding.in_map);
    co_queue_wake_all(&adding.waiters);
    return ret;
}

int blockmap_pwritev_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                        const BlockVec *vec, size_t at)
{
    node_debug_event_co(node->file->node, BLOCK_EVENT_WRITE_AIO);
    return for_pieces_co(map, node, offset, bytes, (Transfer) { vec, at, 0 }, write_piece_co);
}

static int zero_piece_co(BlockMap *map, BlockNode *node, Piece *piece, uint64_t left, const Transfer *t)
{
    BlockPlace place;
    int ret = find_co(map, node, piece->index, &place);
    if (ret < 0 || place.kind == PLACE_ZERO || (place.kind == PLACE_NONE && !node->backing)) {
        return ret;
    }
    uint64_t end = MIN((piece->index + 1) * map->block_size, node->size);
    bool whole = piece->in == 0 && piece->index * map->block_size + piece->bytes == end;
    if (whole && map->zero_co && (place.kind == PLACE_NONE || (t->flags & REQ_MAY_UNMAP))) {
        return map->zero_co(node, piece->index);
    }
    if (place.kind != PLACE_DATA || map->crypt) {
        return -ENOTSUP;
    }
    return node_write_zeroes_co(place_file(node, &place), place.offset + piece->in, piece->bytes,
                                t->flags & ~(unsigned)REQ_FUA);
}

int blockmap_write_zeroes_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                             unsigned flags)
{
    return for_pieces_co(map, node, offset, bytes, (Transfer) { .flags = flags }, zero_piece_co);
}

/* --- status --- */

enum { STATUS_BLOCKS = 4096 }; /* looked at in one call */

/* Large images are mostly empty: whole tables are skipped. At least 1. */
static int skip_co(BlockMap *map, BlockNode *node, uint64_t index, const BlockPlace *place,
                   uint64_t *ret_count)
{
    *ret_count = 1;
    int ret = map->skip_co && (place->kind == PLACE_NONE || place->kind == PLACE_ZERO)
                  ? map->skip_co(node, index, ret_count)
                  : 0;
    *ret_count = MAX(*ret_count, 1);
    return ret;
}

int blockmap_status_co(BlockMap *map, BlockNode *node, uint64_t offset, uint64_t bytes,
                       BlockStatus *ret_status)
{
    Piece piece = first_piece(map, offset, bytes);
    BlockPlace first, next;
    int ret = find_co(map, node, piece.index, &first);
    if (ret < 0) {
        return ret;
    }
    uint64_t run = piece.bytes, index = piece.index;
    for (unsigned n = 1; run < bytes && n < STATUS_BLOCKS; n++) {
        uint64_t skipped;
        ret = skip_co(map, node, index, &first, &skipped);
        index += skipped;
        run = MIN(bytes, run + (skipped - 1) * map->block_size);
        if (ret == 0 && run < bytes) {
            ret = find_co(map, node, index, &next);
        }
        if (ret < 0) {
            return ret;
        }
        if (run == bytes || !continues(&first, &next, (index - piece.index) * map->block_size)) {
            break;
        }
        run = MIN(bytes, run + map->block_size);
    }
    *ret_status = (BlockStatus) { .bytes = run };
    switch (first.kind) {
    case PLACE_NONE:
        ret_status->flags = !node->driver->supports_backing ? STATUS_ZERO | STATUS_ALLOCATED
                            : node->backing                 ? 0
                                                            : STATUS_ZERO;
        break;
    case PLACE_ZERO:
        ret_status->flags = STATUS_ZERO | STATUS_ALLOCATED;
        break;
    case PLACE_PACKED:
        ret_status->flags = STATUS_DATA | STATUS_ALLOCATED | STATUS_COMPRESSED;
        break;
    case PLACE_DATA:
        ret_status->flags =
            STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET | (map->holes ? STATUS_RECURSE : 0);
        if (map->crypt) { /* what the file has there is not what the guest sees */
            ret_status->flags = STATUS_DATA | STATUS_ALLOCATED;
        }
        ret_status->map = first.offset + piece.in;
        ret_status->file = place_file(node, &first);
        break;
    }
    return 0;
}

/* --- checking --- */

static void PRINTF(2, 3) say(BlockCheck *check, const char *fmt, ...)
{
    if (check->message) {
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        check->message(check->opaque, text);
    }
}

Error *blockmap_check_co(BlockMap *map, BlockNode *node, uint64_t first, uint64_t step,
                         BlockCheck *check)
{
    uint64_t count = node->size / map->block_size + (node->size % map->block_size != 0);
    uint64_t end = node->file->node->size, slots = end > first ? (end - first) / step + 1 : 1;
    g_autofree uint8_t *seen = g_try_malloc0((gsize)(slots / 8 + 1));
    uint64_t last = 0;

    if (!seen) {
        return error_new("Not enough memory for the check");
    }
    check->total_clusters = count;
    for (uint64_t i = 0, step_count = 1; i < count; i += step_count) {
        BlockPlace place = { 0 };
        int ret = map->find_co(node, i, &place);
        ret = ret < 0 ? ret : skip_co(map, node, i, &place, &step_count);
        step_count = ret < 0 ? 1 : step_count;
        if (ret < 0) {
            check->check_errors++;
            if (check->check_errors > 100) {
                return NULL;
            }
            continue;
        }
        if (place.kind != PLACE_DATA) {
            continue;
        }
        check->allocated_clusters++;
        uint64_t slot = place.offset >= first ? (place.offset - first) / step : slots;
        if (slot >= slots || place.offset >= end) {
            say(check, "ERROR: block %" PRIu64 " lies outside the file (offset 0x%" PRIx64 ")", i,
                place.offset);
            check->corruptions++;
        } else if (seen[slot / 8] & BIT(slot % 8)) {
            say(check, "ERROR: block %" PRIu64 " shares offset 0x%" PRIx64 " with another", i,
                place.offset);
            check->corruptions++;
        } else {
            seen[slot / 8] |= (uint8_t)BIT(slot % 8);
        }
        check->fragmented_clusters += last && place.offset != last + map->block_size;
        last = place.offset;
    }
    return NULL;
}
