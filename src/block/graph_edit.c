/* Changes of the graph while it is in use. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/node_priv.h"

bool node_reaches(const BlockNode *node, const BlockNode *below)
{
    if (node == below) {
        return true;
    }
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        if (node_reaches(edge->node, below)) {
            return true;
        }
    }
    return false;
}

BlockNode *node_skip_filters(BlockNode *node)
{
    while (node_is_filter(node)) {
        node = node->file->node;
    }
    return node;
}

static void move_edge(BlockEdge *edge, BlockNode *to)
{
    edge->node->refs--; /* not the last one: the caller has one too */
    list_remove(&edge->in_child);
    edge->node = node_ref(to);
    list_append(&to->parents, &edge->in_child);
}

static bool moves(const BlockEdge *edge, const BlockNode *to, const BlockEdge *except)
{
    return edge != except && !(edge->parent && node_reaches(to, edge->parent));
}

static Error *check_users(const BlockNode *to)
{
    unsigned used, shared;
    node_claims_collect(to, NULL, &used, &shared);
    if (to->read_only && (used & (CLAIM_WRITE | CLAIM_RESIZE))) {
        return error_new("Node '%s' is read-only", to->name);
    }
    return NULL;
}

Error *node_replace(BlockNode *from, BlockNode *to, const BlockEdge *except)
{
    g_autoptr(GPtrArray) moved = g_ptr_array_new();

    node_ref(from);
    LIST_FOREACH (edge, &from->parents, BlockEdge, in_child) {
        if (moves(edge, to, except)) {
            g_ptr_array_add(moved, edge);
        }
    }
    for (guint i = 0; i < moved->len; i++) {
        move_edge(g_ptr_array_index(moved, i), to);
    }
    Error *err = check_users(to);
    if (!err) {
        error_free(node_claims_update(from)); /* asks for less */
        err = node_claims_update(to);
    }
    if (err) {
        for (guint i = 0; i < moved->len; i++) {
            move_edge(g_ptr_array_index(moved, i), from);
        }
        error_free(node_claims_update(to));
        error_free(node_claims_update(from));
    }
    node_unref(from);
    return err;
}

Error *node_set_backing_co(BlockNode *node, BlockNode *backing)
{
    BlockNode *old = node->backing ? node->backing->node : NULL;
    if (old == backing) {
        return NULL;
    }
    if (backing && !node->driver->supports_backing) {
        return error_new("The driver '%s' of node '%s' knows no backing files",
                         node->driver->name, node->name);
    }
    if (backing && node_reaches(backing, node)) {
        return error_new("Making '%s' the backing node of '%s' would create a cycle",
                         backing->name, node->name);
    }
    if (old) {
        node_ref(old); /* closing it must wait until the new one is there */
        node_detach_child_co(node->backing);
    }
    Error *err = NULL;
    if (backing) {
        err = node_attach_child(node, node_ref(backing), "backing", CHILD_BACKING, &node->backing);
        if (err) {
            backing->refs--;
        }
    }
    if (err && old) {
        error_free(node_attach_child(node, node_ref(old), "backing", CHILD_BACKING,
                                     &node->backing)); /* it was granted before */
    }
    if (old) {
        node_unref_co(old);
    }
    return err;
}

/* Above a file that is opened with or without O_DIRECT. */
static void alignment_changed(BlockNode *node)
{
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        BlockNode *parent = edge->parent;
        if (parent && parent->driver->filter && parent->file == edge) {
            parent->limits.request_align = MAX(node->limits.request_align, 1);
            parent->limits.memory_align = node->limits.memory_align;
            alignment_changed(parent);
        }
    }
}

Error *node_reopen_same_co(BlockNode *node)
{
    TRY(node->driver->reopen_co(node));
    alignment_changed(node);
    return node_claims_update(node);
}

static Error *reopen_co(BlockNode *node, bool read_only)
{
    bool old = node->read_only;
    node->read_only = read_only;
    Error *err = node->driver->reopen_co ? node->driver->reopen_co(node) : NULL;
    if (!err) {
        err = node_claims_update(node);
    }
    node->read_only = err ? old : read_only;
    return err;
}

/* The storage is writable before the format is, and longer. */
Error *node_set_read_only_co(BlockNode *node, bool read_only)
{
    if (node->read_only == read_only) {
        return NULL;
    }
    if (read_only) {
        unsigned used, shared;
        node_claims_collect(node, NULL, &used, &shared);
        if (used & CLAIM_WRITE) {
            return error_new("Node '%s' is being written to", node->name);
        }
        int ret = node_flush_co(node);
        if (ret < 0) {
            return error_new_errno(ret, "Could not flush '%s'", node->name);
        }
        TRY(reopen_co(node, true));
        return node->file ? node_set_read_only_co(node->file->node, true) : NULL;
    }
    if (node->file) {
        TRY(node_set_read_only_co(node->file->node, false));
    }
    return reopen_co(node, false);
}

/* --- commit --- */

enum { COMMIT_CHUNK = 1 << 20 };

static Error *commit_data_co(BlockNode *node, BlockNode *base, char *buffer)
{
    if (base->size < node->size) {
        TRY(node_truncate_co(base, node->size, PREALLOC_OFF));
    }
    for (uint64_t at = 0; at < node->size;) {
        BlockStatus status;
        int ret = node_status_co(node, at, MIN(COMMIT_CHUNK, node->size - at), &status);
        if (ret >= 0 && (status.flags & STATUS_ALLOCATED)) {
            if (status.flags & STATUS_ZERO) {
                ret = node_write_zeroes_co(base, at, status.bytes, 0);
            } else {
                ret = node_pread_co(node, at, status.bytes, buffer);
                ret = ret < 0 ? ret : node_pwrite_co(base, at, status.bytes, buffer, 0);
            }
        }
        if (ret < 0) {
            return error_new_errno(ret, "Committing failed at byte %" PRIu64, at);
        }
        at += status.bytes;
    }
    int ret = node_flush_co(base);
    if (ret < 0) {
        return error_new_errno(ret, "Could not flush the backing image");
    }
    return node->driver->make_empty_co && !node->read_only ? node->driver->make_empty_co(node) : NULL;
}

static Error *commit_claimed_co(BlockNode *node, BlockNode *base)
{
    BlockEdge *root;
    TRY(block_root_attach(base, "commit", 0, CLAIM_ALL, &root));
    char *buffer = aligned_alloc(4096, COMMIT_CHUNK);
    node_close_gate_co(node);
    Error *err = buffer ? commit_data_co(node, base, buffer) : error_new("Not enough memory");
    node_open_gate(node);
    free(buffer);
    block_root_detach(root);
    return err;
}

Error *block_commit_down_co(BlockNode *node)
{
    BlockNode *base = node->backing ? node->backing->node : NULL;
    if (!base) {
        return error_new_errno(ENOTSUP, "There is no backing image");
    }
    bool read_only = base->read_only;
    TRY(node_set_read_only_co(base, false));
    Error *err = commit_claimed_co(node, base);
    Error *back = read_only ? node_set_read_only_co(base, true) : NULL;
    if (err) {
        error_free(back);
        return err;
    }
    return back;
}
