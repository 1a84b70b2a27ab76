/* QMP commands about dirty bitmaps. */
#include <string.h>

#include "base/endian.h"
#include "block/bitmap.h"
#include "block/block_qmp.h"

static MUST_USE Error *find_bitmap(QmpContext *ctx, const char *node_name, const char *name,
                                   unsigned allow, BlockBitmap **ret)
{
    BlockNode *node;
    TRY(qmp_find_node(ctx, node_name, &node));
    return block_bitmap_get(node, name, allow, ret);
}

/* --- taking back --- */

/* What a bitmap was before a command of a transaction. */
typedef struct BitmapUndo {
    BlockBitmap *bitmap;
    uint64_t *bits; /* NULL: they were not changed */
    bool enabled;
    BlockNode *node; /* of a bitmap that was removed, or added */
} BitmapUndo;

static BitmapUndo *undo_new(BlockBitmap *b, bool with_bits)
{
    BitmapUndo *u = g_new0(BitmapUndo, 1);
    u->bitmap = b;
    u->bits = with_bits ? block_bitmap_save(b) : NULL;
    u->enabled = b->enabled;
    return u;
}

static void undo_change(void *opaque)
{
    BitmapUndo *u = opaque;
    u->bitmap->enabled = u->enabled;
    if (u->bits) {
        block_bitmap_restore(u->bitmap, u->bits);
    }
}

static void undo_add(void *opaque)
{
    block_bitmap_free(((BitmapUndo *)opaque)->bitmap);
}

static void undo_forget(void *opaque)
{
    BitmapUndo *u = opaque;
    g_free(u->bits);
    g_free(u);
}

static void undo_remove(void *opaque)
{
    BitmapUndo *u = opaque;
    list_prepend(&u->node->bitmaps, &u->bitmap->in_node);
    u->bitmap = NULL;
}

/* Only now the bitmap really goes. */
static void forget_remove(void *opaque)
{
    block_bitmap_free(((BitmapUndo *)opaque)->bitmap);
    undo_forget(opaque);
}

/* --- the commands --- */

Error *qmp_block_dirty_bitmap_add(QmpContext *ctx, const QmpBlockDirtyBitmapAddArgs *args,
                                  Value **ret)
{
    BlockNode *node;
    BlockBitmap *b;
    TRY(qmp_find_node(ctx, args->node, &node));
    if (args->has_granularity && args->granularity <= 0) {
        return error_new("The granularity has to be a power of two, 512 or more");
    }
    TRY(block_bitmap_new(node, args->name, args->has_granularity ? (uint64_t)args->granularity : 0,
                         args->has_persistent && args->persistent, &b));
    b->enabled = !(args->has_disabled && args->disabled);
    qmp_undo_add(ctx, undo_add, undo_forget, undo_new(b, false));
    return NULL;
}

Error *qmp_block_dirty_bitmap_remove(QmpContext *ctx, const QmpBlockDirtyBitmapRemoveArgs *args,
                                     Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, BITMAP_ALLOW_INCONSISTENT, &b));
    BitmapUndo *u = undo_new(b, false);
    u->node = b->node;
    list_remove(&b->in_node);
    qmp_undo_add(ctx, undo_remove, forget_remove, u);
    return NULL;
}

Error *qmp_block_dirty_bitmap_clear(QmpContext *ctx, const QmpBlockDirtyBitmapClearArgs *args,
                                    Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, 0, &b));
    qmp_undo_add(ctx, undo_change, undo_forget, undo_new(b, true));
    block_bitmap_clear(b);
    return NULL;
}

Error *qmp_block_dirty_bitmap_enable(QmpContext *ctx, const QmpBlockDirtyBitmapEnableArgs *args,
                                     Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, 0, &b));
    qmp_undo_add(ctx, undo_change, undo_forget, undo_new(b, false));
    b->enabled = true;
    return NULL;
}

Error *qmp_block_dirty_bitmap_disable(QmpContext *ctx, const QmpBlockDirtyBitmapDisableArgs *args,
                                      Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, BITMAP_ALLOW_READ_ONLY, &b));
    qmp_undo_add(ctx, undo_change, undo_forget, undo_new(b, false));
    b->enabled = false;
    return NULL;
}

/* A source: a name on the same node, or {"node":..., "name":...}. */
static MUST_USE Error *merge_source(QmpContext *ctx, const char *node, const Value *source,
                                    BlockBitmap **ret)
{
    const char *name = value_get_str(source);
    if (!name) {
        node = value_find_str(source, "node");
        name = value_find_str(source, "name");
    }
    return name && node ? find_bitmap(ctx, node, name, BITMAP_ALLOW_READ_ONLY, ret)
                        : error_new("Invalid parameter 'bitmaps'");
}

Error *qmp_block_dirty_bitmap_merge(QmpContext *ctx, const QmpBlockDirtyBitmapMergeArgs *args,
                                    Value **ret)
{
    BlockBitmap *to, *from;
    TRY(find_bitmap(ctx, args->node, args->target, 0, &to));
    g_autofree uint64_t *before = block_bitmap_save(to);
    qmp_undo_add(ctx, undo_change, undo_forget, undo_new(to, true));
    for (size_t i = 0; i < value_length(args->bitmaps); i++) {
        Error *err = merge_source(ctx, args->node, value_at(args->bitmaps, i), &from);
        if (!err) {
            err = block_bitmap_merge(to, from);
        }
        if (err) { /* all of them or none */
            block_bitmap_restore(to, before);
            return err;
        }
    }
    return NULL;
}

/* Of the runs that are dirty: equal for bitmaps that say the same. For tests. */
Error *qmp_x_debug_block_dirty_bitmap_sha256(QmpContext *ctx, const QmpXDebugBlockDirtyBitmapSha256Args *args, Value **ret)
{
    BlockBitmap *b;

    TRY(find_bitmap(ctx, args->node, args->name, BITMAP_ALLOW_READ_ONLY, &b));
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    for (uint64_t at = 0, bytes; block_bitmap_next(b, at, UINT64_MAX, &at, &bytes); at += bytes) {
        uint8_t run[16];
        st64_le(run, at);
        st64_le(run + 8, bytes);
        g_checksum_update(sum, run, sizeof(run));
    }
    *ret = value_dict();
    value_put_str(*ret, "sha256", g_checksum_get_string(sum));
    return NULL;
}
