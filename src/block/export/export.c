/* Exports in general: making, finding, ending them. */
#include "block/export/export.h"

#include <string.h>

#include "block/backend.h"
#include "block/node_priv.h"
#include "io/iothread.h"

static Error *find_kind(const char *name, const ExportKind **ret_kind)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    SECTION_FOREACH (export_kinds, ExportKind, it) {
        if (!strcmp((*it)->name, name)) {
            *ret_kind = *it;
            return NULL;
        }
        g_ptr_array_add(names, (void *)(*it)->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    return error_new("Parameter 'type' does not accept value '%s'%s%s%s", name,
                     near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static bool id_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}

Export *export_find(BlockGraph *graph, const char *id)
{
    LIST_FOREACH (e, &graph->exports, Export, in_graph) {
        if (!strcmp(e->id, id)) {
            return e;
        }
    }
    return NULL;
}

Export *export_next(BlockGraph *graph, Export *after)
{
    ListNode *next = after ? after->in_graph.next : graph->exports.head.next;
    return next == &graph->exports.head ? NULL : container_of(next, Export, in_graph);
}

static Error *find_node(BlockGraph *graph, const char *name, BlockNode **ret_node)
{
    BlockNode *node = block_node_find(graph, name);
    if (!node) {
        BlockBackend *blk = blk_find(graph, name);
        node = blk ? blk_node(blk) : NULL;
    }
    *ret_node = node;
    return node ? NULL : error_new("Cannot find device='' nor node-name='%s'", name);
}

Loop *export_loop(const Export *e)
{
    return e->iothread ? e->iothread->loop : node_loop(e->node);
}

/* Without fixed-iothread, a node that another iothread uses stays there, and so does its export. */
static Error *take_iothread(Export *e, KeyValues *opts)
{
    g_autofree char *id = keyvalues_take(opts, "iothread");
    IoThread *iothread;
    bool fixed;

    TRY(block_take_bool(opts, "fixed-iothread", false, &fixed));
    if (!id) {
        return fixed ? error_new("fixed-iothread needs iothread") : NULL;
    }
    TRY(iothread_find(block_graph_objects(e->graph), id, &iothread));
    Error *err = block_root_set_loop(e->root, iothread->loop);
    if (err && !fixed) {
        error_free(err);
        return NULL;
    }
    TRY(err);
    e->iothread = iothread;
    iothread_get(iothread);
    return NULL;
}

/* Devices that came by migration tolerated its writes. */
static void detach(Export *e)
{
    block_root_detach(e->root);
    iothread_put(e->iothread);
    error_free(blk_claims_update_all(e->graph)); /* nobody else writes who could be told */
}

/* Everything but the registration. */
static Error *export_start(Export *e, KeyValues *opts)
{
    TRY(block_take_bool(opts, "writable", false, &e->writable));
    TRY(block_take_bool(opts, "writethrough", false, &e->writethrough));
    if (e->writable && e->node->read_only) {
        return error_new("Cannot export read-only node as writable");
    }
    bool inactive_too;
    TRY(block_take_bool(opts, "allow-inactive", false, &inactive_too));
    if (!inactive_too) {
        TRY(block_node_activate(e->node)); /* the source of a migration may write here, or wait for us to */
    }
    TRY(block_root_attach(e->node, "export", 0, CLAIM_ALL, &e->root));
    e->root->inactive_too = inactive_too;
    Error *err = take_iothread(e, opts);
    if (!err) {
        err = block_root_set_claims(e->root, CLAIM_READ | (e->writable ? CLAIM_WRITE : 0),
                                    CLAIM_ALL & ~CLAIM_RESIZE);
    }
    if (!err) {
        err = e->kind->start(e, opts);
    }
    if (!err && opts->items->len) {
        const KeyValue *item = g_ptr_array_index(opts->items, 0);
        err = error_new("Parameter '%s' is unknown or has no place here", item->key);
        e->kind->release(e);
    }
    if (err) {
        detach(e);
    }
    return err;
}

Error *export_add(BlockGraph *graph, const KeyValues *given, Export **ret_export)
{
    g_autoptr(KeyValues) opts = keyvalues_copy(given);
    g_autofree char *type = keyvalues_take(opts, "type"), *id = keyvalues_take(opts, "id"),
                    *name = keyvalues_take(opts, "node-name");
    const ExportKind *kind;
    BlockNode *node;

    if (!type || !id || !name) {
        return error_new("Parameter '%s' is missing", !type ? "type" : !id ? "id" : "node-name");
    }
    TRY(find_kind(type, &kind));
    if (!id_wellformed(id)) {
        return error_new("Invalid block export id");
    }
    if (export_find(graph, id)) {
        return error_new("Block export id '%s' is already in use", id);
    }
    TRY(find_node(graph, name, &node));
    Export *e = g_malloc0(kind->size);
    e->kind = kind;
    e->graph = graph;
    e->id = g_steal_pointer(&id);
    e->node = node_ref(node);
    e->refs = 1;
    Error *err = export_start(e, opts);
    if (err) {
        node_unref(e->node);
        g_free(e->id);
        g_free(e);
        return err;
    }
    list_append(&graph->exports, &e->in_graph);
    *ret_export = e;
    return NULL;
}

void export_ref(Export *e)
{
    e->refs++;
}

void export_unref(Export *e)
{
    if (--e->refs) {
        return;
    }
    BlockGraph *graph = e->graph;
    Value *data = value_dict();
    value_put_str(data, "id", e->id);
    e->kind->release(e);
    list_remove(&e->in_graph);
    detach(e);
    node_unref(e->node);
    g_free(e->id);
    g_free(e);
    if (graph->emit) {
        graph->emit(graph->hooks_opaque, "BLOCK_EXPORT_DELETED", data);
    } else {
        value_free(data);
    }
}

bool export_is_used(const Export *e)
{
    return e->refs > (e->stopping ? 0 : 1);
}

void export_stop(Export *e)
{
    if (!e->stopping) {
        e->stopping = true;
        e->kind->stop(e);
        export_unref(e);
    }
}

bool export_writes(const BlockNode *node)
{
    LIST_FOREACH (e, &node->graph->exports, Export, in_graph) {
        if (e->node == node && e->writable) {
            return true;
        }
    }
    return false;
}

static Export *on_medium_of(BlockGraph *graph, const BlockBackend *blk)
{
    for (Export *e = NULL; (e = export_next(graph, e));) {
        if (e->medium_of == blk && !e->stopping) {
            return e;
        }
    }
    return NULL;
}

void exports_medium_gone(BlockGraph *graph, const BlockBackend *blk)
{
    for (Export *e; (e = on_medium_of(graph, blk));) {
        export_stop(e);
    }
}

static Export *running(BlockGraph *graph)
{
    for (Export *e = NULL; (e = export_next(graph, e));) {
        if (!e->stopping) {
            return e;
        }
    }
    return NULL;
}

void exports_stop_all_co(BlockGraph *graph)
{
    for (Export *e; (e = running(graph));) {
        export_stop(e);
    }
    while (!list_empty(&graph->exports)) {
        co_sleep_ns(CLOCK_REALTIME_NS, 100 * NS_PER_US);
    }
}
