/* Nodes: finding, counting and closing them; the graph they are in. */
#include <string.h>

#include "base/log.h"
#include "block/backend.h"
#include "block/bitmap.h"
#include "block/export/export.h"
#include "block/nbd/server.h"
#include "block/job.h"
#include "block/node_priv.h"

BlockGraph *block_graph_new(Loop *loop)
{
    BlockGraph *graph = g_new0(BlockGraph, 1);
    graph->loop = loop;
    list_init(&graph->nodes);
    list_init(&graph->backends);
    list_init(&graph->drives);
    list_init(&graph->exports);
    list_init(&graph->jobs);
    list_init(&graph->throttle_groups);
    list_init(&graph->creators);
    return graph;
}

Loop *block_graph_loop(const BlockGraph *graph)
{
    return graph->loop;
}

void block_graph_on_debug(BlockGraph *graph, void (*say)(void *opaque, const char *text), void *opaque)
{
    graph->debug_say = say;
    graph->debug_say_opaque = opaque;
}

BlockNode *block_node_find(BlockGraph *graph, const char *name)
{
    LIST_FOREACH (node, &graph->nodes, BlockNode, in_graph) {
        if (node_is_usable(node) && !strcmp(node->name, name)) {
            return node;
        }
    }
    return NULL;
}

BlockNode *block_node_next(BlockGraph *graph, BlockNode *after)
{
    ListNode *next = after ? after->in_graph.next : graph->nodes.head.next;
    return next == &graph->nodes.head ? NULL : container_of(next, BlockNode, in_graph);
}

BlockNode *node_next_held_co(BlockGraph *graph, BlockNode *after)
{
    BlockNode *next = after;
    do {
        next = block_node_next(graph, next);
    } while (next && !node_is_usable(next));
    if (next) {
        node_ref(next); /* first: closing the other may take its time */
    }
    node_unref_co(after);
    return next;
}

BlockNode *node_child(const BlockNode *node, const char *name)
{
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        if (!strcmp(edge->name, name)) {
            return edge->node;
        }
    }
    return NULL;
}

BlockNode *node_storage(BlockNode *node)
{
    while (node->file) {
        node = node->file->node;
    }
    return node;
}

uint64_t node_allocated_size(BlockNode *node)
{
    if (node->driver->allocated_size) {
        return node->driver->allocated_size(node);
    }
    return node->file ? node_allocated_size(node->file->node) : UINT64_MAX;
}

/* --- references --- */

BlockNode *node_ref(BlockNode *node)
{
    node->refs++;
    return node;
}

static void node_free(BlockNode *node)
{
    list_remove(&node->in_graph);
    block_bitmaps_free(node);
    node_forget_thread(node);
    g_free(node->state);
    g_free(node->name);
    g_free(node->filename);
    g_free(node->implied_backing);
    g_free(node->aio);
    g_free(node->backing_filename);
    g_free(node->backing_format);
    keyvalues_free(node->options);
    g_free(node);
}

bool block_graph_lost(const BlockGraph *graph)
{
    return graph->lost;
}

void node_note_loss(BlockNode *node, Error *err)
{
    if (err) {
        log_printf("%s: '%s': %s\n", node->driver->name, node->filename, error_message(err));
        node->graph->lost = true;
        error_free(err);
    }
}

static void node_close_co(BlockNode *node)
{
    node->closing = node->hurry = true;
    node_drain_co(node);
    node->read_only |= node->off; /* not a word to an image that is not ours */
    if (node->open) {
        int ret = node->read_only ? 0 : node_flush_co(node);
        node->graph->lost |= ret < 0; /* whoever wanted to know why has flushed it before */
        node->open = false;
        if (node->driver->close_co) {
            node->driver->close_co(node);
        }
    }
    for (BlockEdge *edge; (edge = LIST_FIRST(&node->children, BlockEdge, in_parent));) {
        node_detach_child_co(edge);
    }
    node_free(node);
}

void node_unref_co(BlockNode *node)
{
    if (node && --node->refs == 0) {
        node_close_co(node);
    }
}

static void close_later_co(void *opaque)
{
    BlockNode *node = opaque;
    BlockGraph *graph = node->graph;
    node_close_co(node);
    graph->closing--;
}

void node_unref(BlockNode *node)
{
    if (!node || --node->refs) {
        return;
    }
    if (co_self()) {
        node_close_co(node);
    } else {
        node->closing = true;
        node->graph->closing++;
        co_start(node->graph->loop, close_later_co, node);
    }
}

static BlockNode *unused_node(BlockGraph *graph)
{
    LIST_FOREACH (node, &graph->nodes, BlockNode, in_graph) {
        if (!node->closing && list_empty(&node->parents)) {
            return node;
        }
    }
    return NULL;
}

/* The end of the program: whoever still has a reference will not use it any more. */
static void close_all_co(void *opaque)
{
    BlockGraph *graph = opaque;
    nbd_server_stop_all_co(graph);
    exports_stop_all_co(graph);
    LIST_FOREACH (node, &graph->nodes, BlockNode, in_graph) {
        node->hurry = true; /* limits hold back no longer */
    }
    jobs_cancel_all_co(graph);
    blk_detach_all(graph);
    do {
        for (BlockNode *node; (node = unused_node(graph));) {
            node->refs = 0;
            node_close_co(node);
        }
        co_sleep_ns(CLOCK_REALTIME_NS, graph->closing ? 50 * NS_PER_US : 0);
    } while (graph->closing || unused_node(graph));
}

void block_graph_set_objects(BlockGraph *graph, Object *objects)
{
    graph->objects = objects;
}

Object *block_graph_objects(BlockGraph *graph)
{
    if (!graph->objects) {
        graph->objects = graph->own_objects = object_new_container();
    }
    return graph->objects;
}

Error *block_graph_add_object(BlockGraph *graph, const char *text, char **ret_help)
{
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(text, "qom-type", &kv));
    const char *name = keyvalues_get(kv, "qom-type");
    *ret_help = NULL;
    if (kv->help || (name && !strcmp(name, "help"))) {
        const ObjectType *type = name ? object_type_find(name) : NULL;
        *ret_help = type ? object_props_help(type) : object_types_help();
        return NULL;
    }
    return object_make(block_graph_objects(graph), kv);
}

void block_graph_free(BlockGraph *graph)
{
    if (graph) {
        co_run(graph->loop, close_all_co, graph);
        object_free(graph->own_objects);
        g_free(graph);
    }
}
