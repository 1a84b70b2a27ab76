/* Driver "snapshot-access": the moment that a "copy-before-write" node below keeps, to be read (and, piece by piece, given up). */
#include <errno.h>

#include "block/filter/copy_before_write.h"
#include "block/filter/filter.h"

static Error *access_open_co(BlockNode *node, KeyValues *opts)
{
    /* Its users do not write, whoever writes below. */
    TRY(node_open_role_co(node, opts, "file", CHILD_FILTERED, true, &node->file));
    BlockNode *child = filter_child(node);
    if (!cbw_is(child)) {
        return error_new("Node '%s' keeps no moment: 'copy-before-write' does", child->name);
    }
    node->size = child->size;
    node->limits = child->limits;
    return NULL;
}

static int access_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return cbw_snapshot_preadv_co(filter_child(node), offset, bytes, vec, at);
}

static int access_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    return cbw_snapshot_status_co(filter_child(node), offset, bytes, ret_status);
}

static int access_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return cbw_snapshot_discard_co(filter_child(node), offset, bytes);
}

static int access_refuse_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                            unsigned flags)
{
    return -ENOTSUP;
}

static int access_flush_co(BlockNode *node)
{
    return 0;
}

/* Not a filter: it does not show what its child shows. */
BLOCK_DRIVER(snapshot_access, .name = "snapshot-access", .desc = "The moment that copy-before-write keeps", .child_name = "",
             .open_co = access_open_co, .preadv_co = access_preadv_co, .pwritev_co = access_refuse_co,
             .discard_co = access_discard_co, .flush_co = access_flush_co, .status_co = access_status_co);
