/* QMP commands about dirty bitmaps. */
#include <string.h>

#include "block/bitmap.h"
#include "block/block_qmp.h"

static MUST_USE Error *find_bitmap(QmpContext *ctx, const char *node_name, const char *name,
                                   unsigned allow, BlockBitmap **ret)
{
    BlockNode *node;
    TRY(qmp_find_node(ctx, node_name, &node));
    return block_bitmap_get(node, name, allow, ret);
}

Error *qmp_block_dirty_bitmap_add(QmpContext *ctx, const QmpBlockDirtyBitmapAddArgs *args,
                                  Value **ret)
{
    BlockNode *node;
    BlockBitmap *b;
    TRY(qmp_find_node(ctx, args->node, &node));
    if (args->has_granularity && args->granularity <= 0) {
        return error_new("Granularity must be power of 2 and at least 512");
    }
    TRY(block_bitmap_new(node, args->name, args->has_granularity ? (uint64_t)args->granularity : 0,
                         args->has_persistent && args->persistent, &b));
    b->enabled = !(args->has_disabled && args->disabled);
    return NULL;
}

Error *qmp_block_dirty_bitmap_remove(QmpContext *ctx, const QmpBlockDirtyBitmapRemoveArgs *args,
                                     Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, BITMAP_ALLOW_INCONSISTENT, &b));
    block_bitmap_free(b);
    return NULL;
}

Error *qmp_block_dirty_bitmap_clear(QmpContext *ctx, const QmpBlockDirtyBitmapClearArgs *args,
                                    Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, 0, &b));
    block_bitmap_clear(b);
    return NULL;
}

Error *qmp_block_dirty_bitmap_enable(QmpContext *ctx, const QmpBlockDirtyBitmapEnableArgs *args,
                                     Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, 0, &b));
    b->enabled = true;
    return NULL;
}

Error *qmp_block_dirty_bitmap_disable(QmpContext *ctx, const QmpBlockDirtyBitmapDisableArgs *args,
                                      Value **ret)
{
    BlockBitmap *b;
    TRY(find_bitmap(ctx, args->node, args->name, BITMAP_ALLOW_READ_ONLY, &b));
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
