/*
 * Images while another process writes to them: before a machine has arrived by migration, and after it has left.
 *
 * In an inactive graph nodes hold no locks and their storage is open for reading only, though for their users they are what
 * they were made as; nobody makes requests, as the machine stands still. Opened so, a format has read metadata that the other
 * side goes on changing: activation reads it anew.
 *
 * A single node can be inactive too (`off`), with what is below it: for reading it stays in use, so its gate is closed while it
 * changes. Writes to it fail, those above it must be inactive or bear that, and running the machine makes all nodes active.
 */
#include "block/backend.h"
#include "block/bitmap.h"
#include "block/job.h"
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
    if (node->open && driver->close_co) { /* else the last attempt failed */
        driver->close_co(node);
    }
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

/* --- single nodes --- */

bool node_is_active(const BlockNode *node)
{
    return !node->off && (!node->graph->inactive || node->activated);
}

/* Those below the node, each with a reference: the list may change while somebody waits. */
static GPtrArray *hold_children(const BlockNode *node)
{
    GPtrArray *held = g_ptr_array_new();
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        g_ptr_array_add(held, node_ref(edge->node));
    }
    return held;
}

/* On each of them, until one fails. */
static Error *for_children_co(BlockNode *node, Error *(*fn)(BlockNode *child))
{
    g_autoptr(GPtrArray) held = hold_children(node);
    Error *err = NULL;

    for (guint n = 0; n < held->len; n++) {
        BlockNode *child = g_ptr_array_index(held, n);
        err = err ? err : fn(child);
        node_unref_co(child);
    }
    return err;
}

/* Another process may have made it longer, also where it stayed active. */
static Error *look_at_storage_co(BlockNode *node)
{
    return node->driver->refresh_co ? node->driver->refresh_co(node) : NULL;
}

/* Storage is opened for writing before it is locked; a format is locked before it is read. */
static Error *take_locked_co(BlockNode *node)
{
    node->off = false;
    if (!node->driver->protocol && !node->driver->filter) {
        TRY(node_claims_update(node));
        TRY(for_children_co(node, look_at_storage_co));
        TRY(reread_co(node));
    } else if (node->inactive && node->driver->reopen_co) {
        TRY(node->driver->reopen_co(node));
    }
    TRY(node_claims_update(node));
    node->inactive = false;
    return NULL;
}

static void fall_back_co(BlockNode *node)
{
    node->off = true;
    if (node->inactive && node->open && node->driver->protocol) {
        error_free(as_read_only_co(node, node->driver->reopen_co));
    }
    error_free(node_claims_update(node)); /* gives up only */
}

static Error *take_one_co(BlockNode *node)
{
    if (!node->off) { /* it may have been inactive with its graph */
        return node_is_active(node) ? activate_one_co(node) : NULL;
    }
    node_close_gate_co(node);
    Error *err = node->off ? take_locked_co(node) : NULL;
    if (err) {
        fall_back_co(node);
    }
    node_open_gate(node);
    return err;
}

static bool has_active_parent(const BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        if (edge->parent && node_is_active(edge->parent)) {
            return true;
        }
    }
    return false;
}

/* A job, or a device or export that writes or counts on it that nobody else does. */
static bool has_user(const BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        if (!edge->parent && !edge->inactive_too &&
            ((edge->used & (CLAIM_WRITE | CLAIM_WRITE_UNCHANGED | CLAIM_RESIZE)) || !(edge->shared & CLAIM_WRITE) ||
             job_find(node->graph, edge->name))) {
            return true;
        }
    }
    return false;
}

static Error *give_up_if_unused_co(BlockNode *node)
{
    return has_active_parent(node) || has_user(node) ? NULL : node_give_up_co(node);
}

Error *node_give_up_co(BlockNode *node)
{
    if (node->off) {
        return NULL;
    }
    if (has_active_parent(node)) {
        return error_new("Node has active parent node"); /* image tests compare this and the next */
    }
    if (has_user(node)) {
        return error_new("Failed to inactivate node: Operation not permitted");
    }
    node_close_gate_co(node);
    Error *err = deactivate_one_co(node);
    if (!err) {
        node->off = true;
        node->activated = false;
        err = node_claims_update(node);
    }
    node_open_gate(node);
    TRY(err);
    return for_children_co(node, give_up_if_unused_co);
}

/* Below first. What was taken in vain is given up again. */
static Error *take_co(BlockNode *node)
{
    g_autoptr(GPtrArray) below = hold_children(node), was_off = g_ptr_array_new();
    Error *err = NULL;

    for (guint n = 0; n < below->len; n++) {
        BlockNode *child = g_ptr_array_index(below, n);
        if (child->off) {
            g_ptr_array_add(was_off, child);
        }
        err = err ? err : take_co(child);
    }
    err = err ? err : take_one_co(node);
    for (guint n = 0; err && n < was_off->len; n++) {
        error_free(give_up_if_unused_co(g_ptr_array_index(was_off, n)));
    }
    for (guint n = 0; n < below->len; n++) {
        node_unref_co(g_ptr_array_index(below, n));
    }
    return err;
}

static Error *give_up_all_co(BlockGraph *graph)
{
    for (BlockNode *node = NULL; (node = node_next_held_co(graph, node));) {
        Error *err = has_active_parent(node) ? NULL : node_give_up_co(node); /* else it goes with its parent */
        if (err) {
            node_unref_co(node);
            return err;
        }
    }
    return NULL;
}

static Error *activate_co(BlockGraph *graph)
{
    graph->inactive = false;
    for (BlockNode *node = NULL; (node = node_next_held_co(graph, node));) {
        Error *err = take_co(node);
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
    call->err = take_co(call->node);
    if (!call->err) {
        call->err = node_claims_update(call->node);
    }
}

Error *block_node_activate(BlockNode *node)
{
    NodeCall call = { .node = node };

    if (node_is_active(node)) {
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

static bool any_off(const BlockGraph *graph)
{
    LIST_FOREACH (node, &graph->nodes, BlockNode, in_graph) {
        if (node->off) {
            return true;
        }
    }
    return false;
}

static void set_active_co(void *opaque)
{
    Call *call = opaque;
    call->err = call->active ? activate_co(call->graph) : deactivate_co(call->graph);
}

Error *block_graph_set_active(BlockGraph *graph, bool active)
{
    Call call = { .graph = graph, .active = active };

    if (!graph || (graph->inactive == !active && !(active && any_off(graph)))) {
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

Error *block_nodes_set_active_co(BlockGraph *graph, BlockNode *node, bool active)
{
    if (!node) {
        return active ? activate_co(graph) : give_up_all_co(graph);
    }
    if (!active) {
        return node_give_up_co(node);
    }
    NodeCall call = { .node = node };
    activate_node_co(&call);
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
