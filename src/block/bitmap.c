/* Dirty bitmaps: see bitmap.h. */
#include "block/bitmap.h"

#include <inttypes.h>
#include <string.h>

#include "block/node_priv.h"

static uint64_t bits_for(const BlockBitmap *b, uint64_t size)
{
    return size / b->granularity + (size % b->granularity != 0);
}

uint64_t block_bitmap_bits(const BlockBitmap *b)
{
    return bits_for(b, b->size);
}

static size_t words_for(uint64_t bits)
{
    return (size_t)(bits / 64 + 1);
}

BlockBitmap *block_bitmap_find(const BlockNode *node, const char *name)
{
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        if (b->name && !strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

Error *block_bitmap_check(const BlockBitmap *b, unsigned allow)
{
    if (b->busy && !(allow & BITMAP_ALLOW_BUSY)) {
        return error_new("Bitmap '%s' is busy: another operation holds it until that operation ends",
                         b->name);
    }
    if (b->read_only && !(allow & BITMAP_ALLOW_READ_ONLY)) {
        return error_new("Bitmap '%s' is readonly and cannot be modified", b->name);
    }
    if (b->inconsistent && !(allow & BITMAP_ALLOW_INCONSISTENT)) {
        return error_hint(error_new("Bitmap '%s' was not saved cleanly, so its content cannot be "
                                    "trusted", b->name),
                          "block-dirty-bitmap-remove takes such a bitmap out of the image");
    }
    return NULL;
}

Error *block_bitmap_get(const BlockNode *node, const char *name, unsigned allow, BlockBitmap **ret)
{
    BlockBitmap *b = block_bitmap_find(node, name);
    if (!b) {
        return error_new("Dirty bitmap '%s' not found", name);
    }
    TRY(block_bitmap_check(b, allow));
    *ret = b;
    return NULL;
}

uint32_t block_bitmap_default_granularity(const BlockNode *node)
{
    return node->limits.cluster_size ? MIN(MAX(4096, node->limits.cluster_size), 65536) : 65536;
}

static Error *check_new(const BlockNode *node, const char *name, uint64_t granularity,
                        bool persistent)
{
    if (granularity && (granularity < 512 || !IS_POW2(granularity) || granularity > BIT64(31))) {
        return error_new(granularity < 512 || granularity > BIT64(31)
                             ? "Granularity must be at least 512 and at most 2 GiB"
                             : "Granularity must be a power of 2");
    }
    if (!name) {
        return NULL;
    }
    if (!*name) {
        return error_new("A bitmap needs a name of at least one character");
    }
    if (strlen(name) > BITMAP_MAX_NAME) {
        return error_new("Bitmap name too long: %.40s...", name);
    }
    if (block_bitmap_find(node, name)) {
        return error_new("Bitmap already exists: %s", name);
    }
    if (persistent && !node->driver->can_store_bitmap) {
        return error_hint(error_new("Cannot store dirty bitmaps in node '%s' of format %s",
                                    node->name, node->driver->name),
                          "Persistent bitmaps need a qcow2 image.");
    }
    return NULL;
}

Error *block_bitmap_new(BlockNode *node, const char *name, uint64_t granularity, bool persistent,
                        BlockBitmap **ret)
{
    TRY(check_new(node, name, granularity, persistent));
    BlockBitmap *b = g_new0(BlockBitmap, 1);
    b->granularity = (uint32_t)(granularity ? granularity : block_bitmap_default_granularity(node));
    b->node = node;
    b->size = node->size;
    b->enabled = true;
    b->persistent = persistent;
    b->bits = g_try_new0(uint64_t, words_for(block_bitmap_bits(b)));
    if (!b->bits) {
        g_free(b);
        return error_new("Not enough memory for a dirty bitmap of '%s'", node->name);
    }
    b->name = g_strdup(name);
    list_prepend(&node->bitmaps, &b->in_node); /* queries show the newest first */
    Error *err = persistent ? node->driver->can_store_bitmap(node, b) : NULL;
    if (err) {
        block_bitmap_free(b);
        return err;
    }
    *ret = b;
    return NULL;
}

void block_bitmap_free(BlockBitmap *b)
{
    if (b) {
        list_remove(&b->in_node);
        g_free(b->name);
        g_free(b->bits);
        g_free(b);
    }
}

void block_bitmaps_free(BlockNode *node)
{
    for (BlockBitmap *b; (b = LIST_FIRST(&node->bitmaps, BlockBitmap, in_node));) {
        block_bitmap_free(b);
    }
}

/* --- bits --- */

uint64_t block_bitmap_count(const BlockBitmap *b)
{
    uint64_t bits = block_bitmap_bits(b), bytes = b->dirty * b->granularity;
    if (bits && b->size % b->granularity && (b->bits[(bits - 1) / 64] >> (bits - 1) % 64 & 1)) {
        bytes -= b->granularity - b->size % b->granularity;
    }
    return bytes;
}

bool block_bitmap_is_dirty(const BlockBitmap *b, uint64_t offset)
{
    uint64_t bit = offset / b->granularity;
    return offset < b->size && (b->bits[bit / 64] >> bit % 64 & 1);
}

/* The bits of one word that lie in [first, last]. */
static uint64_t word_mask(uint64_t word, uint64_t first, uint64_t last)
{
    uint64_t low = word == first / 64 ? first % 64 : 0, high = word == last / 64 ? last % 64 : 63;
    return (UINT64_MAX >> (63 - high)) & (UINT64_MAX << low);
}

static void change(BlockBitmap *b, uint64_t offset, uint64_t bytes, bool set)
{
    if (!bytes || offset >= b->size) {
        return;
    }
    bytes = MIN(bytes, b->size - offset);
    uint64_t first = offset / b->granularity, last = (offset + bytes - 1) / b->granularity;
    for (uint64_t w = first / 64; w <= last / 64; w++) {
        uint64_t mask = word_mask(w, first, last), old = b->bits[w];
        b->bits[w] = set ? old | mask : old & ~mask;
        b->dirty += (uint64_t)__builtin_popcountll(b->bits[w]);
        b->dirty -= (uint64_t)__builtin_popcountll(old);
    }
}

void block_bitmap_set(BlockBitmap *b, uint64_t offset, uint64_t bytes)
{
    change(b, offset, bytes, true);
}

void block_bitmap_reset(BlockBitmap *b, uint64_t offset, uint64_t bytes)
{
    change(b, offset, bytes, false);
}

void block_bitmap_clear(BlockBitmap *b)
{
    memset(b->bits, 0, words_for(block_bitmap_bits(b)) * sizeof(*b->bits));
    b->dirty = 0;
}

/* The first bit at or behind `bit` that is `value`; `end` when there is none. */
static uint64_t find_bit(const BlockBitmap *b, uint64_t bit, uint64_t end, bool value)
{
    while (bit < end) {
        uint64_t word = b->bits[bit / 64];
        word = (value ? word : ~word) & (UINT64_MAX << bit % 64);
        if (word) {
            return MIN((bit & ~(uint64_t)63) + (uint64_t)__builtin_ctzll(word), end);
        }
        bit = (bit & ~(uint64_t)63) + 64;
    }
    return end;
}

bool block_bitmap_next(const BlockBitmap *b, uint64_t offset, uint64_t max, uint64_t *ret_offset,
                       uint64_t *ret_bytes)
{
    uint64_t end = block_bitmap_bits(b), most = MAX(max / b->granularity, 1);
    if (offset >= b->size) { /* that may lie inside the last bit */
        return false;
    }
    uint64_t first = b->dirty ? find_bit(b, offset / b->granularity, end, true) : end;
    if (first >= end) {
        return false;
    }
    uint64_t stop = find_bit(b, first, first + MIN(most, end - first), false);
    *ret_offset = first * b->granularity;
    *ret_bytes = MIN(stop * b->granularity, b->size) - *ret_offset;
    return true;
}

void block_bitmap_recount(BlockBitmap *b)
{
    uint64_t bits = block_bitmap_bits(b);
    b->dirty = 0;
    for (size_t w = 0; w < words_for(bits); w++) {
        if (w == bits / 64) {
            b->bits[w] &= bits % 64 ? UINT64_MAX >> (64 - bits % 64) : 0;
        }
        b->dirty += (uint64_t)__builtin_popcountll(b->bits[w]);
    }
}

Error *block_bitmap_merge(BlockBitmap *to, const BlockBitmap *from)
{
    uint64_t at, bytes;
    if (to->size != from->size) {
        return error_new("Bitmaps are of different sizes (destination size is %" PRIu64
                         " and source size is %" PRIu64 ") and can't be merged",
                         to->size, from->size);
    }
    for (uint64_t pos = 0; block_bitmap_next(from, pos, UINT64_MAX, &at, &bytes); pos = at + bytes) {
        block_bitmap_set(to, at, bytes);
    }
    return NULL;
}

uint64_t *block_bitmap_save(const BlockBitmap *b)
{
    return g_memdup2(b->bits, words_for(block_bitmap_bits(b)) * sizeof(*b->bits));
}

void block_bitmap_restore(BlockBitmap *b, const uint64_t *bits)
{
    memcpy(b->bits, bits, words_for(block_bitmap_bits(b)) * sizeof(*b->bits));
    block_bitmap_recount(b);
}

/* --- the request path --- */

void block_bitmaps_mark(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        if (b->enabled) {
            block_bitmap_set(b, offset, bytes);
        }
    }
}

void block_bitmaps_resize(BlockNode *node)
{
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        size_t old = words_for(block_bitmap_bits(b)), now = words_for(bits_for(b, node->size));
        b->bits = g_renew(uint64_t, b->bits, MAX(old, now));
        if (now > old) {
            memset(b->bits + old, 0, (now - old) * sizeof(*b->bits));
        }
        b->size = node->size;
        block_bitmap_recount(b);
    }
}

/* --- as QMP shows them --- */

/* The newest first. */
Value *block_bitmaps_value(const BlockNode *node)
{
    Value *list = value_list();
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        Value *v = value_dict();
        if (b->name) {
            value_put_str(v, "name", b->name);
        }
        value_put_bool(v, "recording", b->enabled && !b->inconsistent);
        value_put_bool(v, "persistent", b->persistent);
        if (b->inconsistent) {
            value_put_bool(v, "inconsistent", true);
        }
        value_put_bool(v, "busy", b->busy);
        value_put(v, "count", value_uint(block_bitmap_count(b)));
        value_put_int(v, "granularity", b->granularity);
        value_append(list, v);
    }
    return list;
}
