/* QMP commands that change the graph: snapshots into overlays, sizes, recorded backing names. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/block_qmp.h"
#include "block/info.h"
#include "block/filter/quorum.h"
#include "block/job.h"
#include "block/node_priv.h"
#include "io/iothread.h"

Error *qmp_find_node(QmpContext *ctx, const char *name, BlockNode **ret)
{
    BlockBackend *blk = blk_find(qmp_graph(ctx), name);
    if (blk && !blk_node(blk)) {
        return error_new("Device '%s' has no medium", name);
    }
    BlockNode *node = blk ? blk_node(blk) : block_node_find(qmp_graph(ctx), name);
    if (!node) {
        return error_new("Cannot find device='%s' nor node-name='%s'", name, name);
    }
    *ret = node;
    return NULL;
}

Error *qmp_find_either(QmpContext *ctx, const char *device, const char *node_name, BlockNode **ret)
{
    if (!device == !node_name) {
        return error_new("Need exactly one of 'device' and 'node-name'");
    }
    return qmp_find_node(ctx, device ? device : node_name, ret);
}

typedef struct CoCall {
    QmpBlockFn *fn;
    void *opaque;
    Error *err;
} CoCall;

static void call_co(void *opaque)
{
    CoCall *call = opaque;
    call->err = call->fn(call->opaque);
}

Error *qmp_in_coroutine(QmpContext *ctx, QmpBlockFn *fn, void *opaque)
{
    CoCall call = { .fn = fn, .opaque = opaque };
    co_run(block_graph_loop(qmp_graph(ctx)), call_co, &call);
    return call.err;
}

/* --- overlays --- */

typedef struct OverlayCall {
    BlockGraph *graph;
    BlockNode *old, *overlay;
    const char *file, *format, *node_name;
    bool existing;
} OverlayCall;

static Error *put_overlay_co(BlockNode *old, BlockNode *overlay)
{
    if (overlay->backing || !list_empty(&overlay->parents)) {
        return error_new(overlay->backing ? "The overlay already has a backing image"
                                          : "The overlay is already in use");
    }
    if (!overlay->driver->supports_backing) {
        return error_new("The format of the overlay knows no backing files");
    }
    node_ref(old); /* for a moment nobody else has it */
    node_close_gate_co(old);
    /* The image stays as it is, and others may read it: nothing of it may be in memory only. */
    int ret = old->read_only ? 0 : node_flush_co(old);
    Error *err = ret < 0 ? error_new_errno(ret, "Could not flush '%s'", old->name) : node_replace(old, overlay, NULL);
    if (!err) {
        err = node_set_backing_co(overlay, old);
        if (err) {
            error_free(node_replace(overlay, old, NULL)); /* as it was */
        }
    }
    node_open_gate(old);
    node_unref_co(old);
    return err;
}

/* In a transaction: the overlay can be taken away again. */
typedef struct OverlayUndo {
    QmpContext ctx;
    BlockNode *old, *overlay; /* counted */
    bool undone;
} OverlayUndo;

static Error *take_overlay_away_co(void *opaque)
{
    OverlayUndo *u = opaque;
    node_close_gate_co(u->overlay);
    Error *err = node_set_backing_co(u->overlay, NULL);
    if (!err) {
        err = node_replace(u->overlay, u->old, NULL);
    }
    node_open_gate(u->overlay);
    return err;
}

static void undo_overlay(void *opaque)
{
    OverlayUndo *u = opaque;
    u->undone = true;
    error_free(qmp_in_coroutine(&u->ctx, take_overlay_away_co, u));
}

/* Nobody writes to what is below an overlay; other programs may read it from now on. */
static Error *stop_writing_co(void *opaque)
{
    OverlayUndo *u = opaque;
    return node_set_read_only_co(u->old, true);
}

static void forget_overlay(void *opaque)
{
    OverlayUndo *u = opaque;
    if (!u->undone && !u->old->read_only && !u->old->off && u->overlay->backing && u->overlay->backing->node == u->old) {
        error_free(qmp_in_coroutine(&u->ctx, stop_writing_co, u)); /* somebody else may write to it: then it stays */
    }
    node_unref(u->overlay);
    node_unref(u->old);
    g_free(u);
}

static void note_overlay(QmpContext *ctx, BlockNode *old, BlockNode *overlay)
{
    OverlayUndo *u = g_new0(OverlayUndo, 1);
    u->ctx = *ctx;
    u->old = node_ref(old);
    u->overlay = node_ref(overlay);
    qmp_undo_add(ctx, undo_overlay, forget_overlay, u);
}

static Error *snapshot_co(void *opaque)
{
    OverlayCall *call = opaque;

    if (call->old->off) { /* as if it had been there when its backing image was given up */
        TRY(node_give_up_co(call->overlay));
    } else if (call->overlay->off) {
        return error_new("The overlay '%s' is inactive: its users could not write to it", call->overlay->name);
    }
    return put_overlay_co(call->old, call->overlay);
}

Error *qmp_blockdev_snapshot(QmpContext *ctx, const QmpBlockdevSnapshotArgs *args, Value **ret)
{
    OverlayCall call = { .graph = qmp_graph(ctx) };
    TRY(qmp_find_node(ctx, args->node, &call.old));
    TRY(qmp_find_node(ctx, args->overlay, &call.overlay));
    TRY(qmp_in_coroutine(ctx, snapshot_co, &call));
    note_overlay(ctx, call.old, call.overlay);
    return NULL;
}

static Error *create_overlay_co(OverlayCall *call)
{
    const BlockDriver *driver;
    g_autoptr(KeyValues) opts = keyvalues_new();
    g_autofree char *size = g_strdup_printf("%" PRIu64, call->old->size);

    TRY(block_driver_lookup(call->format, &driver));
    g_autofree char *name = node_filename(call->old);
    keyvalues_set(opts, "size", size);
    keyvalues_set(opts, "backing_file", name);
    keyvalues_set(opts, "backing_fmt", call->old->driver->name);
    return block_create_co(call->graph, call->file, driver, opts);
}

static Error *snapshot_sync_co(void *opaque)
{
    OverlayCall *call = opaque;
    g_autoptr(KeyValues) opts = keyvalues_new();
    if (!call->existing) {
        TRY(create_overlay_co(call));
    }
    if (call->node_name) {
        keyvalues_set(opts, "node-name", call->node_name);
    }
    keyvalues_set(opts, "discard", call->old->unmap ? "unmap" : "ignore");
    TRY(block_open_file_co(call->graph, call->file, call->format,
                           OPEN_WRITE | OPEN_NO_BACKING | (call->old->no_flush ? OPEN_NO_FLUSH : 0) |
                               (call->old->direct ? OPEN_DIRECT : 0),
                           opts, &call->overlay));
    Error *err = put_overlay_co(call->old, call->overlay);
    if (err) {
        node_unref_co(call->overlay);
    }
    return err;
}

Error *qmp_blockdev_snapshot_sync(QmpContext *ctx, const QmpBlockdevSnapshotSyncArgs *args,
                                  Value **ret)
{
    OverlayCall call = { .graph = qmp_graph(ctx),
                         .file = args->snapshot_file,
                         .format = args->has_format ? args->format : "qcow2",
                         .node_name = args->snapshot_node_name,
                         .existing = args->has_mode && !strcmp(args->mode, "existing") };
    TRY(qmp_find_either(ctx, args->device, args->node_name, &call.old));
    if (call.node_name && block_node_find(call.graph, call.node_name)) {
        return error_new("Another node has the node-name for the overlay already");
    }
    TRY(qmp_in_coroutine(ctx, snapshot_sync_co, &call));
    note_overlay(ctx, call.old, call.overlay);
    node_unref(call.overlay); /* those who used the old node have it; without any, it goes when the transaction is over */
    return NULL;
}

/* --- children --- */

typedef struct ChildCall {
    BlockNode *parent, *node;
    const char *child;
} ChildCall;

static Error *change_child_co(void *opaque)
{
    const ChildCall *call = opaque;
    return call->child ? quorum_remove_child_co(call->parent, call->child)
                       : quorum_add_child_co(call->parent, call->node);
}

Error *qmp_x_blockdev_change(QmpContext *ctx, const QmpXBlockdevChangeArgs *args, Value **ret)
{
    ChildCall call = { .child = args->child };
    TRY(qmp_find_node(ctx, args->parent, &call.parent));
    if (args->has_child == args->has_node) {
        return error_new(args->has_child ? "'child' takes away and 'node' adds: give one of them"
                                         : "Say what to change: give 'child' or 'node'");
    }
    if (!quorum_is(call.parent)) {
        return error_new("The node %s does not support %s a child", call.parent->name,
                         call.child ? "removing" : "adding");
    }
    if (args->has_node) {
        call.node = block_node_find(qmp_graph(ctx), args->node);
        if (!call.node) {
            return error_new("Node '%s' not found", args->node);
        }
    }
    return qmp_in_coroutine(ctx, change_child_co, &call);
}

/* --- threads --- */

Error *qmp_x_blockdev_set_iothread(QmpContext *ctx, const QmpXBlockdevSetIothreadArgs *args, Value **ret)
{
    const char *id = value_get_str(args->iothread);
    IoThread *iothread = NULL;
    BlockNode *node = block_node_find(qmp_graph(ctx), args->node_name);

    if (!node) {
        return error_new("Cannot find node %s", args->node_name);
    }
    if (!id && value_kind(args->iothread) != VALUE_NULL) {
        return error_new("Invalid parameter type for 'iothread', expected: string or null");
    }
    if (id) {
        TRY(iothread_find(block_graph_objects(qmp_graph(ctx)), id, &iothread));
    }
    return block_node_set_thread(node, iothread, args->has_force && args->force);
}

/* --- internal snapshots --- */

typedef struct InternalCall {
    QmpContext ctx;
    BlockNode *node; /* counted */
    char *name;
} InternalCall;

/* By name, id, or both. NULL: there is none. */
static BlockSnapshot *find_snapshot(GPtrArray *all, const char *id, const char *name)
{
    for (guint n = 0; n < all->len; n++) {
        BlockSnapshot *one = g_ptr_array_index(all, n);
        if ((!id || !strcmp(one->id, id)) && (!name || !strcmp(one->name, name))) {
            return one;
        }
    }
    return NULL;
}

static Error *snapshot_node(QmpContext *ctx, const char *device, BlockNode **ret_node)
{
    TRY(qmp_find_node(ctx, device, ret_node));
    if ((*ret_node)->read_only) {
        return error_new("The device '%s' was opened for reading only", device);
    }
    return (*ret_node)->driver->snapshot_create_co
               ? NULL
               : error_new("Block format '%s' used by device '%s' does not support feature 'internal snapshots'",
                           (*ret_node)->driver->name, device);
}

static Error *take_internal_co(void *opaque)
{
    InternalCall *call = opaque;
    gint64 now = g_get_real_time();
    BlockSnapshot sn = { .name = call->name, .icount = UINT64_MAX };

    sn.date_sec = (uint64_t)(now / G_USEC_PER_SEC);
    sn.date_nsec = (uint32_t)(now % G_USEC_PER_SEC) * 1000;
    sn.vm_clock_ns = (uint64_t)clock_now(call->ctx.machine->clocks, CLOCK_VIRTUAL);
    node_close_gate_co(call->node);
    Error *err = call->node->driver->snapshot_create_co(call->node, &sn);
    node_open_gate(call->node);
    return err;
}

static Error *delete_internal_co(void *opaque)
{
    InternalCall *call = opaque;
    node_close_gate_co(call->node);
    Error *err = call->node->driver->snapshot_delete_co(call->node, call->name);
    node_open_gate(call->node);
    return err;
}

static void undo_internal(void *opaque)
{
    InternalCall *call = opaque;
    error_free(qmp_in_coroutine(&call->ctx, delete_internal_co, call));
}

static void forget_internal(void *opaque)
{
    InternalCall *call = opaque;
    node_unref(call->node);
    g_free(call->name);
    g_free(call);
}

Error *qmp_blockdev_snapshot_internal_sync(QmpContext *ctx, const QmpBlockdevSnapshotInternalSyncArgs *args, Value **ret)
{
    BlockNode *node;

    TRY(snapshot_node(ctx, args->device, &node));
    if (!args->name[0]) {
        return error_new("Name is empty");
    }
    g_autoptr(GPtrArray) all = node->driver->snapshots(node);
    if (find_snapshot(all, NULL, args->name)) {
        return error_new("There is a snapshot of name '%s' on device '%s' already",
                         args->name, args->device);
    }
    InternalCall *call = g_new0(InternalCall, 1);
    *call = (InternalCall) { .ctx = *ctx, .node = node_ref(node), .name = g_strdup(args->name) };
    Error *err = qmp_in_coroutine(ctx, take_internal_co, call);
    if (err) {
        forget_internal(call);
        return error_prefix(err, "Failed to create snapshot '%s' on device '%s': ", args->name, args->device);
    }
    call->ctx.undo = NULL;
    qmp_undo_add(ctx, undo_internal, forget_internal, call);
    return NULL;
}

Error *qmp_blockdev_snapshot_delete_internal_sync(QmpContext *ctx, const QmpBlockdevSnapshotDeleteInternalSyncArgs *args,
                                                  Value **ret)
{
    InternalCall call = { .ctx = *ctx };

    TRY(snapshot_node(ctx, args->device, &call.node));
    if (!args->has_id && !args->has_name) {
        return error_new("Say which snapshot: give 'name' or 'id'");
    }
    g_autoptr(GPtrArray) all = call.node->driver->snapshots(call.node);
    const BlockSnapshot *found = find_snapshot(all, args->has_id ? args->id : NULL, args->has_name ? args->name : NULL);
    if (!found) {
        return error_new("No snapshot has id '%s' and name '%s': not found on device '%s'",
                         args->has_id ? args->id : "null",
                         args->has_name ? args->name : "null", args->device);
    }
    call.name = found->id;
    Value *info = block_snapshot_value(found);
    Error *err = qmp_in_coroutine(ctx, delete_internal_co, &call);
    if (err) {
        value_free(info);
        return err;
    }
    *ret = info;
    return NULL;
}

/* --- size --- */

typedef struct SizeCall {
    BlockNode *node;
    uint64_t size;
} SizeCall;

static Error *resize_co(void *opaque)
{
    SizeCall *call = opaque;
    BlockEdge *root;

    TRY(block_root_attach(call->node, "block_resize", CLAIM_RESIZE, CLAIM_ALL, &root));
    Error *err = node_truncate_co(call->node, call->size, PREALLOC_OFF);
    block_root_detach(root);
    return err;
}

void qmp_node_resized(BlockGraph *graph, const BlockNode *node)
{
    for (BlockBackend *blk = NULL; (blk = blk_next(graph, blk));) {
        if (blk_node(blk) && node_reaches(blk_node(blk), node)) {
            blk_notify_resized(blk);
        }
    }
}

Error *qmp_block_resize(QmpContext *ctx, const QmpBlockResizeArgs *args, Value **ret)
{
    SizeCall call = { .size = (uint64_t)args->size };
    TRY(qmp_find_either(ctx, args->device, args->node_name, &call.node));
    if (args->size < 0) {
        return error_new("Parameter 'size' expects a >0 size");
    }
    TRY(qmp_in_coroutine(ctx, resize_co, &call));
    qmp_node_resized(qmp_graph(ctx), call.node);
    return NULL;
}

/* --- recorded names --- */

typedef struct NameCall {
    BlockNode *node;
    const char *name;
} NameCall;

/* Images below the top one are open for reading; this one is opened for writing meanwhile. */
static Error *backing_name_co(void *opaque)
{
    NameCall *call = opaque;
    BlockNode *node = call->node, *backing = node->backing ? node->backing->node : NULL;
    bool read_only = node->read_only;
    if (read_only) {
        TRY(node_set_read_only_co(node, false));
    }
    Error *err = node->driver->set_backing_co(node, call->name, backing ? backing->driver->name : NULL);
    if (!err) {
        g_clear_pointer(&node->implied_backing, g_free);
    }
    Error *back = read_only ? node_set_read_only_co(node, true) : NULL;
    if (err) {
        error_free(back);
    }
    return err ? err : back;
}

Error *qmp_change_backing_file(QmpContext *ctx, const QmpChangeBackingFileArgs *args, Value **ret)
{
    NameCall call = { .name = args->backing_file };
    BlockNode *device;
    TRY(qmp_find_node(ctx, args->device, &device));
    TRY(qmp_find_node(ctx, args->image_node_name, &call.node));
    if (!node_reaches(device, call.node)) {
        return error_new("'%s' is not in one chain with the image file", args->device);
    }
    if (call.node->off) {
        return error_new("Node '%s' is inactive: make it active before its image is changed", call.node->name);
    }
    if (!call.node->driver->set_backing_co) {
        return error_new("Node '%s' cannot record a backing file name", call.node->name);
    }
    return qmp_in_coroutine(ctx, backing_name_co, &call);
}

/* --- the whole graph --- */

static Value *claim_list(unsigned claims)
{
    Value *list = value_list();
    for (unsigned bit = 0; bit < CLAIM_BITS; bit++) {
        if (claims & BIT(bit)) {
            g_autofree char *name = g_strdelimit(g_strdup(block_claim_name(bit)), " ", '-');
            value_append(list, value_str(name));
        }
    }
    return list;
}

/* Everything gets a number when it is first met. */
static uint64_t graph_id(GHashTable *ids, Value *nodes, const void *what, const char *type, const char *name)
{
    uint64_t id = GPOINTER_TO_SIZE(g_hash_table_lookup(ids, what));
    if (id) {
        return id;
    }
    id = g_hash_table_size(ids) + 1;
    g_hash_table_insert(ids, (void *)what, GSIZE_TO_POINTER(id));
    Value *entry = value_dict();
    value_put(entry, "id", value_uint(id));
    value_put_str(entry, "type", type);
    value_put_str(entry, "name", name);
    value_append(nodes, entry);
    return id;
}

Error *qmp_x_debug_query_block_graph(QmpContext *ctx, const QmpXDebugQueryBlockGraphArgs *args, Value **ret)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(NULL, NULL);
    Value *nodes = value_list(), *edges = value_list();

    for (BlockNode *node = NULL; (node = block_node_next(qmp_graph(ctx), node));) {
        uint64_t child = graph_id(ids, nodes, node, "block-driver", node->name);
        LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
            Value *entry = value_dict();
            /* Who is no node: a job under its id, or a backend. */
            const char *type = job_find(qmp_graph(ctx), edge->name) ? "block-job" : "block-backend";
            value_put(entry, "parent", value_uint(edge->parent ? graph_id(ids, nodes, edge->parent, "block-driver", edge->parent->name)
                                                               : graph_id(ids, nodes, edge, type, edge->name)));
            value_put(entry, "child", value_uint(child));
            value_put_str(entry, "name", edge->parent ? edge->name : "root");
            value_put(entry, "perm", claim_list(edge->used));
            value_put(entry, "shared-perm", claim_list(edge->shared));
            value_append(edges, entry);
        }
    }
    *ret = value_dict();
    value_put(*ret, "nodes", nodes);
    value_put(*ret, "edges", edges);
    return NULL;
}

Error *qmp_block_set_write_threshold(QmpContext *ctx, const QmpBlockSetWriteThresholdArgs *args, Value **ret)
{
    BlockNode *node = block_node_find(qmp_graph(ctx), args->node_name);

    if (!node) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "there is no block node '%s'", args->node_name);
    }
    if (args->write_threshold < 0) {
        return error_new("write-threshold: %" G_GINT64_FORMAT " is not an offset in bytes, nor 0 for none", args->write_threshold);
    }
    node->write_threshold = (uint64_t)args->write_threshold;
    return NULL;
}
