/*
 * Images while another process writes to them: before a machine has arrived by migration, and after it has left.
 *
 * In an inactive graph nodes hold no locks and their storage is open for reading only, though for their users they are what
 * they were made as; nobody makes requests, as the machine stands still. Opened so, a format has read metadata that the other
 * side goes on changing: activation reads it anew.
 */
#include "block/backend.h"
#include "block/bitmap.h"
#include "block/node_priv.h"

#include <stdatomic.h>
#include <string.h>

/* A driver's work on a node as if it were read-only, which it is for the storage but not for the node's users. */
static Error *as_read_only_co(BlockNode *node, Error *(*fn)(BlockNode *node))
{
    node->read_only = true;
    Error *err = fn ? fn(node) : NULL;
    node->read_only = false;
    return err;
}

/* --- giving up --- */

static Error *deactivate_one_co(BlockNode *node)
{
    if (node->read_only || node->inactive) {
        return NULL;
    }
    int ret = node_flush_co(node);
    if (ret < 0) {
        return error_new_errno(ret, "Could not flush '%s'", node->name);
    }
    TRY(as_read_only_co(node, node->driver->reopen_co));
    node->inactive = true;
    return NULL;
}

/* Formats write their last metadata before the storage can no longer be written to. */
static Error *deactivate_co(BlockGraph *graph)
{
    for (unsigned protocols = 0; protocols < 2; protocols++) {
        for (BlockNode *node = NULL; (node = node_next_held_co(graph, node));) {
            Error *err = node->driver->protocol == protocols ? deactivate_one_co(node) : NULL;
            if (err) {
                node_unref_co(node);
                return err;
            }
        }
    }
    graph->inactive = true;
    LIST_FOREACH (node, &graph->nodes, BlockNode, in_graph) {
        node->activated = false;
        TRY(node_claims_update(node)); /* gives the locks up: cannot fail */
    }
    return blk_claims_update_all(graph);
}

/* --- taking --- */

static void drop_stored_bitmaps(BlockNode *node)
{
    LIST_FOREACH_SAFE (bitmap, &node->bitmaps, BlockBitmap, in_node) {
        if (bitmap->persistent) {
            block_bitmap_free(bitmap);
        }
    }
}

/* Children that the driver opened itself come again with its options. */
static void detach_own_children_co(BlockNode *node)
{
    LIST_FOREACH_SAFE (edge, &node->children, BlockEdge, in_parent) {
        if (edge != node->file && edge != node->backing) {
            node_detach_child_co(edge);
        }
    }
}

/* Closes the format without a word to the image, and opens it again over the same storage. */
static Error *reread_co(BlockNode *node)
{
    const BlockDriver *driver = node->driver;
    g_autoptr(KeyValues) opts = keyvalues_copy(node->options);
    bool read_only = node->read_only; /* it may have become a backing image meanwhile */

    node->read_only = true;
    driver->close_co(node);
    node->read_only = read_only;
    detach_own_children_co(node);
    drop_stored_bitmaps(node);
    g_clear_pointer(&node->backing_filename, g_free);
    g_clear_pointer(&node->backing_format, g_free);
    if (driver->state_size) {
        memset(node->state, 0, driver->state_size);
    }
    node->open = false;
    TRY(driver->open_co(node, opts));
    node->open = true;
    return NULL;
}

static Error *activate_one_co(BlockNode *node)
{
    if (!node->inactive) {
        return NULL;
    }
    node->inactive = false;
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        TRY(activate_one_co(edge->node));
    }
    bool format = !node->driver->protocol && !node->driver->filter && node->driver->close_co;
    if (format) {
        TRY(reread_co(node));
    } else if (node->driver->reopen_co) {
        TRY(node->driver->reopen_co(node));
    }
    return node_claims_update(node);
}

static Error *activate_co(BlockGraph *graph)
{
    graph->inactive = false;
    for (BlockNode *node = NULL; (node = node_next_held_co(graph, node));) {
        Error *err = activate_one_co(node);
        if (err) {
            err = error_prefix(err, "Could not activate '%s': ", node->name);
            node_unref_co(node);
            return err;
        }
    }
    LIST_FOREACH (node, &graph->nodes, BlockNode, in_graph) {
        TRY(node_claims_update(node)); /* locks of those that only read */
    }
    return blk_claims_update_all(graph);
}

/* --- one node and what is below it --- */

static void mark_activated(BlockNode *node)
{
    node->activated = true;
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        mark_activated(edge->node);
    }
}

typedef struct NodeCall {
    BlockNode *node;
    Error *err;
} NodeCall;

static void activate_node_co(void *opaque)
{
    NodeCall *call = opaque;
    mark_activated(call->node);
    call->err = activate_one_co(call->node);
    if (!call->err) {
        call->err = node_claims_update(call->node);
    }
}

Error *block_node_activate(BlockNode *node)
{
    NodeCall call = { .node = node };

    if (!node->graph->inactive || node->activated) {
        return NULL;
    }
    if (co_self()) {
        activate_node_co(&call);
    } else {
        co_run(node->graph->loop, activate_node_co, &call);
    }
    return call.err ? error_prefix(call.err, "Could not activate '%s': ", node->name) : NULL;
}

/* --- for the machine --- */

typedef struct Call {
    BlockGraph *graph;
    bool active;
    Error *err;
} Call;

static void set_active_co(void *opaque)
{
    Call *call = opaque;
    call->err = call->active ? activate_co(call->graph) : deactivate_co(call->graph);
}

Error *block_graph_set_active(BlockGraph *graph, bool active)
{
    Call call = { .graph = graph, .active = active };

    if (!graph || graph->inactive == !active) {
        return NULL;
    }
    co_run(graph->loop, set_active_co, &call);
    if (call.err && !active) { /* what was given up already: it was ours before */
        Call back = { .graph = graph, .active = true };
        co_run(graph->loop, set_active_co, &back);
        error_free(back.err);
    }
    return call.err;
}

void block_graph_freeze(BlockGraph *graph)
{
    atomic_store(&graph->frozen, true);
}

void block_graph_begin_inactive(BlockGraph *graph)
{
    graph->inactive = true;
}
