/*
 * Which loop the requests of a node run in. Nodes that are connected, in any direction, are one piece: its devices and
 * exports may have at most one iothread between them, so that a piece can later get a lock of its own
 * (docs/decisions/0006-iothreads.md). Users without an iothread do not count.
 */
#include "block/backend_priv.h"
#include "io/iothread.h"

typedef struct Piece {
    GHashTable *seen;  /* BlockNode */
    GPtrArray *nodes;
} Piece;

static void piece_add(Piece *piece, BlockNode *node)
{
    if (node && g_hash_table_add(piece->seen, node)) {
        g_ptr_array_add(piece->nodes, node);
    }
}

static void piece_init(Piece *piece, BlockNode *node)
{
    piece->seen = g_hash_table_new(NULL, NULL);
    piece->nodes = g_ptr_array_new();
    piece_add(piece, node);
    for (guint i = 0; i < piece->nodes->len; i++) {
        BlockNode *at = g_ptr_array_index(piece->nodes, i);
        LIST_FOREACH (edge, &at->children, BlockEdge, in_parent) {
            piece_add(piece, edge->node);
        }
        LIST_FOREACH (edge, &at->parents, BlockEdge, in_child) {
            piece_add(piece, edge->parent);
        }
    }
}

static void piece_fini(Piece *piece)
{
    g_hash_table_unref(piece->seen);
    g_ptr_array_unref(piece->nodes);
}

/* The loop of an iothread that uses the piece; NULL: none does. */
static Loop *piece_loop(const Piece *piece, const BlockEdge *except)
{
    for (guint i = 0; i < piece->nodes->len; i++) {
        const BlockNode *node = g_ptr_array_index(piece->nodes, i);
        LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
            if (edge->loop && edge != except) {
                return edge->loop;
            }
        }
    }
    return NULL;
}

static Loop *loop_of_piece(BlockNode *node, const BlockEdge *except)
{
    Piece piece;
    piece_init(&piece, node);
    Loop *loop = piece_loop(&piece, except);
    piece_fini(&piece);
    return loop;
}

static Error *two_threads(void)
{
    return error_new("Cannot change iothread of active block backend");
}

Error *block_root_set_loop(BlockEdge *edge, Loop *loop)
{
    if (loop) {
        Loop *used = loop_of_piece(edge->node, edge);
        if (used && used != loop) {
            return two_threads();
        }
    }
    edge->loop = loop;
    return NULL;
}

Error *node_check_join(BlockNode *parent, BlockNode *child)
{
    Loop *above = loop_of_piece(parent, NULL), *below = above ? loop_of_piece(child, NULL) : NULL;
    return above && below && above != below ? two_threads() : NULL;
}

Loop *node_loop(const BlockNode *node)
{
    return node->iothread ? node->iothread->loop : node->graph->loop;
}

void node_forget_thread(BlockNode *node)
{
    iothread_put(node->iothread);
    node->iothread = NULL;
}

Error *block_node_set_thread(BlockNode *node, IoThread *iothread, bool force)
{
    Loop *loop = iothread ? iothread->loop : NULL;
    Piece piece;
    bool busy = false;

    piece_init(&piece, node);
    Loop *used = piece_loop(&piece, NULL);
    for (guint i = 0; i < piece.nodes->len; i++) {
        LIST_FOREACH (edge, &((BlockNode *)g_ptr_array_index(piece.nodes, i))->parents, BlockEdge, in_child) {
            busy |= !edge->parent;
        }
    }
    if (used && used != loop) {
        piece_fini(&piece);
        return two_threads();
    }
    if (busy && !force) {
        piece_fini(&piece);
        return error_hint(error_new("node '%s' is in use by a device, an export or a job", node->name),
                          "With force=true it is moved all the same.");
    }
    for (guint i = 0; i < piece.nodes->len; i++) {
        BlockNode *at = g_ptr_array_index(piece.nodes, i);
        node_forget_thread(at);
        at->iothread = iothread;
        if (iothread) {
            iothread_get(iothread);
        }
    }
    piece_fini(&piece);
    return NULL;
}

/* --- backends --- */

Loop *blk_loop(const BlockBackend *blk)
{
    return blk->loop ? blk->loop : blk->root ? node_loop(blk->root->node) : blk->graph->loop;
}

Error *blk_set_loop(BlockBackend *blk, Loop *loop)
{
    if (blk->root) {
        TRY(block_root_set_loop(blk->root, loop));
    }
    blk->loop = loop;
    return NULL;
}
