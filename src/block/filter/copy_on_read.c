/*
 * Filter "copy-on-read": what is read from a backing image becomes the image's own, so that it is
 * fetched once. Where the image cannot be written to, the filter only passes reads on. With "bottom",
 * only what is above that node's backing image is copied: the rest is read and left where it is.
 */
#include <errno.h>

#include "block/filter/filter.h"

typedef struct CorState {
    char *bottom; /* node name; NULL: the whole chain is copied */
} CorState;

/* The node that has the backing images, below other filters. */
static BlockNode *image_of(BlockNode *node)
{
    return node_skip_filters(filter_child(node));
}

static BlockNode *find_bottom(BlockNode *node, const char *name)
{
    for (BlockNode *n = filter_child(node); n; n = node_below(n)) {
        if (n->open && !g_strcmp0(n->name, name)) {
            return n;
        }
    }
    return NULL;
}

static Error *cor_open_co(BlockNode *node, KeyValues *opts)
{
    CorState *s = node->state;
    g_autofree char *bottom = keyvalues_take(opts, "bottom");
    TRY(filter_open(node));
    if (node->read_only && !node->inactive) { /* it writes */
        return error_new("Block node is read-only");
    }
    if (bottom) {
        BlockNode *below = find_bottom(node, bottom);
        if (!below) {
            return error_new("'bottom' names the node '%s', which does not exist", bottom);
        }
        if (node_is_filter(below)) {
            return error_new("'%s' is a filter; 'bottom' has to name a node that holds data",
                             bottom);
        }
        s->bottom = g_steal_pointer(&bottom);
    }
    return NULL;
}

static void cor_close_co(BlockNode *node)
{
    g_free(((CorState *)node->state)->bottom);
}

/* Copies the parts that come from above the base. */
static int populate_above_co(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes)
{
    BlockNode *image = image_of(node);
    while (bytes) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(image, base, offset, bytes, &status, &depth);
        if (ret >= 0 && (status.flags & STATUS_ALLOCATED) && depth) {
            ret = node_populate_co(image, offset, status.bytes);
        }
        if (ret < 0) {
            return ret;
        }
        offset += status.bytes;
        bytes -= status.bytes;
    }
    return 0;
}

static int cor_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    CorState *s = node->state;
    BlockNode *image = image_of(node), *bottom = s->bottom ? find_bottom(node, s->bottom) : NULL;
    int ret = 0;
    if (bottom && bottom->backing && !image->read_only) {
        ret = populate_above_co(node, bottom->backing->node, offset, bytes);
    } else if ((image->driver->supports_backing || image->driver->filter) && !image->read_only) {
        ret = node_populate_co(image, offset, bytes);
    }
    return ret < 0 ? ret : filter_preadv_co(node, offset, bytes, vec, at);
}

static const BlockOption cor_options[] = {
    { "bottom", OPT_STR, "Node name of the lowest image of the chain whose data is copied" },
    { 0 },
};

BLOCK_DRIVER(copy_on_read, .filter = true, .name = "copy-on-read",
             .desc = "Filter: data of backing images is kept once it was read", .deciding = (const char *const[]) { "bottom", NULL },
             .state_size = sizeof(CorState), .options = cor_options, .open_co = cor_open_co,
             .close_co = cor_close_co, .preadv_co = cor_preadv_co,
             FILTER_WRITES, .status_co = filter_status_co);
