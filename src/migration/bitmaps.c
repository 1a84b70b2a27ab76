/*
 * Dirty bitmaps that move with the machine (capability dirty-bitmaps), one record each:
 *
 *     node alias | bitmap alias | size u64 | granularity u32 | flags u32 | bits, 8 in a byte
 *
 * Aliases are the names of the drive or node and of the bitmap, or what the parameter block-bitmap-mapping says; then others
 * stay behind. The machine stands still on both sides: bitmaps are few and small beside RAM.
 */
#include <string.h>

#include "block/backend.h"
#include "block/bitmap.h"
#include "migration/migration_priv.h"

enum { FLAG_ENABLED = 1, FLAG_PERSISTENT = 2, FLAGS = 3 };

/* --- names --- */

/* The entry of a list of { key: value, ... }; NULL: none. */
static const Value *entry_with(const Value *list, const char *key, const char *value)
{
    for (size_t n = 0; n < value_length(list); n++) {
        if (!g_strcmp0(value_find_str(value_at(list, n), key), value)) {
            return value_at(list, n);
        }
    }
    return NULL;
}

static const char *drive_of(BlockGraph *graph, const BlockNode *node)
{
    for (BlockBackend *blk = NULL; (blk = blk_next(graph, blk));) {
        if (blk_node(blk) == node && blk_name(blk) && *blk_name(blk)) {
            return blk_name(blk);
        }
    }
    return NULL;
}

static MUST_USE Error *default_alias(BlockGraph *graph, const BlockBitmap *bitmap, const char **ret_alias)
{
    const char *drive = drive_of(graph, bitmap->node);

    if (!drive && (!bitmap->node->name || bitmap->node->name[0] == '#')) {
        return error_new("the dirty bitmap '%s' is on a node without a name, which the destination could not find", bitmap->name);
    }
    *ret_alias = drive ? drive : bitmap->node->name;
    return NULL;
}

/* *ret_node_alias NULL: it stays behind. */
static MUST_USE Error *aliases_of(Migration *migration, BlockGraph *graph, const BlockBitmap *bitmap, const char **ret_node_alias,
                                  const char **ret_alias)
{
    const Value *mapping = migration->params.bitmap_mapping;

    *ret_node_alias = NULL;
    *ret_alias = bitmap->name;
    if (!mapping) {
        return default_alias(graph, bitmap, ret_node_alias);
    }
    const Value *node = entry_with(mapping, "node-name", bitmap->node->name);
    const Value *entry = node ? entry_with(value_find(node, "bitmaps"), "name", bitmap->name) : NULL;
    if (entry) {
        *ret_node_alias = value_find_str(node, "alias");
        *ret_alias = value_find_str(entry, "alias");
    }
    return NULL;
}

/* --- out --- */

static size_t bytes_of(uint64_t size, uint32_t granularity)
{
    return (size_t)((size / granularity + (size % granularity != 0) + 7) / 8);
}

static void put_bits(const BlockBitmap *bitmap, StreamWriter *w)
{
    size_t length = bytes_of(bitmap->size, bitmap->granularity);
    g_autofree uint8_t *bytes = g_malloc0(length + 1);
    uint64_t at, run;

    for (uint64_t from = 0; block_bitmap_next(bitmap, from, UINT64_MAX, &at, &run); from = at + run) {
        for (uint64_t bit = at / bitmap->granularity; bit * bitmap->granularity < at + run; bit++) {
            bytes[bit / 8] |= (uint8_t)(1u << bit % 8);
        }
    }
    stream_put(w, bytes, length);
}

static MUST_USE Error *write_bitmap(Migration *migration, BlockGraph *graph, const BlockBitmap *bitmap, StreamWriter *w)
{
    const char *node_alias, *alias;

    TRY(aliases_of(migration, graph, bitmap, &node_alias, &alias));
    if (!node_alias) {
        return NULL;
    }
    TRY(block_bitmap_check(bitmap, BITMAP_ALLOW_READ_ONLY));
    stream_begin(w, RECORD_BITMAP);
    stream_put_str(w, node_alias);
    stream_put_str(w, alias);
    stream_put_u64(w, bitmap->size);
    stream_put_u32(w, bitmap->granularity);
    stream_put_u32(w, (bitmap->enabled ? FLAG_ENABLED : 0) | (bitmap->persistent ? FLAG_PERSISTENT : 0));
    put_bits(bitmap, w);
    return stream_end(w);
}

Error *migration_bitmaps_write(Migration *migration, StreamWriter *w)
{
    BlockGraph *graph = machine_service(migration->machine, BLOCK_SERVICE);

    if (!migration->caps.dirty_bitmaps || !graph) {
        return NULL;
    }
    for (BlockNode *node = NULL; (node = block_node_next(graph, node));) {
        LIST_FOREACH (bitmap, &node->bitmaps, BlockBitmap, in_node) {
            if (bitmap->name) {
                TRY(write_bitmap(migration, graph, bitmap, w));
            }
        }
    }
    return NULL;
}

/* --- in --- */

typedef struct Incoming {
    char *node_alias, *alias;
    uint64_t size;
    uint32_t granularity, flags;
    const uint8_t *bits;
} Incoming;

static MUST_USE Error *find_place(Migration *migration, Incoming *in, BlockNode **ret_node, const char **ret_name)
{
    BlockGraph *graph = machine_service(migration->machine, BLOCK_SERVICE);
    const Value *mapping = migration->params.bitmap_mapping, *entry = NULL;
    const char *name = in->node_alias;
    bool persistent;

    *ret_name = in->alias;
    if (mapping) {
        const Value *node = entry_with(mapping, "alias", in->node_alias);
        entry = node ? entry_with(value_find(node, "bitmaps"), "alias", in->alias) : NULL;
        if (!entry) {
            return error_new("'block-bitmap-mapping' has no place for the dirty bitmap '%s' of '%s'", in->alias, in->node_alias);
        }
        name = value_find_str(node, "node-name");
        *ret_name = value_find_str(entry, "name");
    }
    const Value *transform = entry ? value_find(entry, "transform") : NULL;
    if (transform && value_find(transform, "persistent")) {
        persistent = value_find_bool(transform, "persistent", false);
        in->flags = (in->flags & ~(uint32_t)FLAG_PERSISTENT) | (persistent ? FLAG_PERSISTENT : 0);
    }
    BlockBackend *blk = mapping ? NULL : blk_find(graph, name);
    *ret_node = blk && blk_is_inserted(blk) ? blk_node(blk) : block_node_find(graph, name);
    return *ret_node ? NULL : error_new("there is no node '%s' for the dirty bitmap '%s'", name, in->alias);
}

static void set_bits(BlockBitmap *bitmap, const uint8_t *bytes)
{
    uint64_t bits = block_bitmap_bits(bitmap);

    block_bitmap_clear(bitmap);
    for (uint64_t bit = 0; bit < bits; bit++) {
        if (bytes[bit / 8] >> bit % 8 & 1) {
            uint64_t at = bit * bitmap->granularity;
            block_bitmap_set(bitmap, at, MIN((uint64_t)bitmap->granularity, bitmap->size - at));
        }
    }
}

/* On shared storage a persistent one may have come with the image. */
static MUST_USE Error *place_bitmap(Migration *migration, Incoming *in)
{
    BlockNode *node;
    const char *name;

    TRY(find_place(migration, in, &node, &name));
    BlockBitmap *bitmap = block_bitmap_find(node, name);
    if (bitmap && (bitmap->busy || bitmap->granularity != in->granularity)) {
        return error_new("the node '%s' has another dirty bitmap '%s'", node->name, name);
    }
    if (!bitmap) {
        TRY(block_bitmap_new(node, name, in->granularity, in->flags & FLAG_PERSISTENT, &bitmap));
    }
    if (bitmap->size != in->size) {
        return error_new("the dirty bitmap '%s' is of a disk of %" G_GUINT64_FORMAT " bytes, '%s' has %" G_GUINT64_FORMAT, name, in->size,
                         node->name, bitmap->size);
    }
    bitmap->inconsistent = false;
    bitmap->enabled = in->flags & FLAG_ENABLED;
    set_bits(bitmap, in->bits);
    return NULL;
}

static MUST_USE Error *parse(StreamReader *r, Incoming *in)
{
    TRY(stream_get_str(r, &in->node_alias));
    TRY(stream_get_str(r, &in->alias));
    TRY(stream_get_u64(r, &in->size));
    TRY(stream_get_u32(r, &in->granularity));
    TRY(stream_get_u32(r, &in->flags));
    if (in->granularity < BITMAP_MIN_GRANULARITY || (in->granularity & (in->granularity - 1)) || in->flags & ~(uint32_t)FLAGS) {
        return error_new("the saved state is damaged: a dirty bitmap of %u bytes a bit", in->granularity);
    }
    return stream_get(r, bytes_of(in->size, in->granularity), &in->bits);
}

Error *migration_bitmaps_load(Migration *migration, const GPtrArray *records)
{
    for (guint n = 0; n < records->len; n++) {
        const GByteArray *bytes = g_ptr_array_index(records, n);
        StreamReader r = { .at = bytes->data, .end = bytes->data + bytes->len };
        Incoming in = { 0 };
        Error *err = parse(&r, &in);
        err = err ? err : r.at == r.end ? place_bitmap(migration, &in) : error_new("the saved state is damaged: a dirty bitmap is too long");
        g_free(in.node_alias);
        g_free(in.alias);
        TRY(err);
    }
    return NULL;
}
