/* Images that take part in a snapshot, and the machine's state in one of them; see snapshot_priv.h. */
#include <errno.h>
#include <string.h>

#include "block/backend.h"
#include "block/export/export.h"
#include "block/node.h"
#include "event/coroutine.h"
#include "migration/snapshot_priv.h"

#define VMSTATE_BUFFER (1 * MiB)

/* --- which images --- */

GPtrArray *snapshot_written_nodes(Machine *machine)
{
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    GPtrArray *nodes = g_ptr_array_new();

    for (BlockBackend *blk = NULL; graph && (blk = blk_next(graph, blk));) {
        if (blk_is_inserted(blk) && !blk_is_readonly(blk) && !blk_is_in_saved_state(blk) &&
            !g_ptr_array_find(nodes, blk_node(blk), NULL)) {
            g_ptr_array_add(nodes, blk_node(blk));
        }
    }
    return nodes;
}

/* Below filters. Of a drive the user knows the name. */
static MUST_USE Error *add_node(SnapshotSet *set, BlockNode *node)
{
    const char *name = node->name;

    node = node_skip_filters(node);
    if (!node->driver->snapshot_create_co || !node->driver->vmstate_pwrite_co || node->read_only || !node_is_active(node)) {
        for (BlockBackend *blk = NULL; (blk = blk_next(node->graph, blk));) {
            name = blk_node(blk) == node && *blk_name(blk) ? blk_name(blk) : name;
        }
        return error_new("Device '%s' is writable but does not support snapshots", name);
    }
    if (!g_ptr_array_find(set->nodes, node, NULL)) {
        g_ptr_array_add(set->nodes, node_ref(node));
    }
    return NULL;
}

/* What lies over everything else, and what others write to through exports. */
static void add_others(BlockGraph *graph, GPtrArray *nodes)
{
    for (BlockNode *node = NULL; graph && (node = block_node_next(graph, node));) {
        if ((list_empty(&node->parents) || export_writes(node)) && !node->read_only && !g_ptr_array_find(nodes, node, NULL)) {
            g_ptr_array_add(nodes, node);
        }
    }
}

static void release_node(void *opaque)
{
    co_self() ? node_unref_co(opaque) : node_unref(opaque);
}

Error *snapshot_set_all(Machine *machine, SnapshotSet *ret_set)
{
    g_autoptr(GPtrArray) nodes = snapshot_written_nodes(machine);
    SnapshotSet set = { .nodes = g_ptr_array_new_with_free_func(release_node) };
    add_others(machine_service(machine, BLOCK_SERVICE), nodes);
    Error *err = nodes->len ? NULL : error_new(SNAPSHOT_NOWHERE);

    for (guint n = 0; n < nodes->len && !err; n++) {
        err = add_node(&set, g_ptr_array_index(nodes, n));
    }
    if (err) {
        snapshot_set_clear(&set);
        return err;
    }
    set.state_node = g_ptr_array_index(set.nodes, 0);
    *ret_set = set;
    return NULL;
}

static bool is_in_saved_state(BlockGraph *graph, const BlockNode *node)
{
    for (BlockBackend *blk = NULL; (blk = blk_next(graph, blk));) {
        if (blk_is_in_saved_state(blk) && blk_node(blk) == node) {
            return true;
        }
    }
    return false;
}

static MUST_USE Error *add_named(BlockGraph *graph, SnapshotSet *set, const char *name)
{
    BlockNode *node = block_node_find(graph, name);
    if (node && !node->driver->snapshot_create_co && is_in_saved_state(graph, node)) {
        return NULL; /* a flash's raw image: its content is in the machine's state */
    }
    return node ? add_node(set, node) : error_new("there is no block node '%s' to take a snapshot of", name);
}

Error *snapshot_set_named(Machine *machine, const Value *names, const char *state_name, SnapshotSet *ret_set)
{
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    SnapshotSet set = { .nodes = g_ptr_array_new_with_free_func(release_node) };
    Error *err = value_length(names) ? NULL : error_new("'devices' must name at least one block node");

    for (size_t n = 0; n < value_length(names) && !err; n++) {
        err = add_named(graph, &set, value_get_str(value_at(names, n)));
    }
    if (!err && set.nodes->len == 0) {
        err = error_new("none of 'devices' can have a snapshot");
    }
    if (!err && state_name) {
        set.state_node = block_node_find(graph, state_name);
        if (!set.state_node || !g_ptr_array_find(set.nodes, set.state_node, NULL)) {
            err = error_new("the node for the machine's state, '%s', is not one of 'devices'", state_name);
        }
    }
    if (err) {
        snapshot_set_clear(&set);
        return err;
    }
    *ret_set = set;
    return NULL;
}

void snapshot_set_clear(SnapshotSet *set)
{
    g_clear_pointer(&set->nodes, g_ptr_array_unref);
    set->state_node = NULL;
}

BlockSnapshot *snapshot_find(BlockNode *node, const char *tag)
{
    g_autoptr(GPtrArray) all = node->driver->snapshots(node);
    BlockSnapshot *found = NULL;

    for (guint n = 0; n < all->len; n++) {
        BlockSnapshot *one = g_ptr_array_index(all, n);
        if (!found && (!strcmp(one->name, tag) || !strcmp(one->id, tag))) {
            found = g_memdup2(one, sizeof(*one));
            found->id = g_strdup(one->id);
            found->name = g_strdup(one->name);
        }
    }
    return found;
}

/* --- one call of a driver --- */

static void create_co(void *opaque)
{
    SnapshotCall *call = opaque;
    call->err = call->node->driver->snapshot_create_co(call->node, call->snapshot);
}

static void apply_co(void *opaque)
{
    SnapshotCall *call = opaque;
    call->err = call->node->driver->snapshot_apply_co(call->node, call->id);
}

static void delete_co(void *opaque)
{
    SnapshotCall *call = opaque;
    call->err = call->node->driver->snapshot_delete_co(call->node, call->id);
}

static void write_co(void *opaque)
{
    SnapshotCall *call = opaque;
    call->ret = call->node->driver->vmstate_pwrite_co(call->node, call->offset, call->length, call->buffer);
}

static void read_co(void *opaque)
{
    SnapshotCall *call = opaque;
    call->ret = call->node->driver->vmstate_pread_co(call->node, call->offset, call->length, call->buffer);
}

static void flush_co(void *opaque)
{
    SnapshotCall *call = opaque;
    call->ret = node_flush_co(call->node);
}

Error *snapshot_call(SnapshotCall *call, SnapshotVerb verb)
{
    static CoFn *const fns[] = { create_co, apply_co, delete_co, write_co, read_co, flush_co };

    if (co_self()) {
        fns[verb](call);
    } else {
        co_run(block_graph_loop(call->node->graph), fns[verb], call);
    }
    return call->err ? call->err : call->ret < 0 ? error_new_errno(call->ret, "the machine's state in the image") : NULL;
}

Error *snapshot_delete_set(const SnapshotSet *set, const char *tag, bool *ret_found)
{
    for (guint n = 0; n < set->nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(set->nodes, n);
        BlockSnapshot *old = snapshot_find(node, tag);
        if (!old) {
            continue;
        }
        SnapshotCall call = { .node = node, .id = old->id };
        Error *err = snapshot_call(&call, SNAPSHOT_DELETE);
        block_snapshot_free(old);
        if (err) {
            return error_prefix(err, "Error while deleting snapshot on device '%s': ", node->name);
        }
        *ret_found = true;
    }
    return NULL;
}

/* --- the stream in the image --- */

void image_stream_init(ImageStream *s, BlockNode *node, uint64_t size)
{
    *s = (ImageStream) { .node = node, .size = size, .buffer = g_malloc(VMSTATE_BUFFER) };
}

void image_stream_fini(ImageStream *s)
{
    g_clear_pointer(&s->buffer, g_free);
}

Error *image_stream_flush(ImageStream *s)
{
    SnapshotCall call = { .node = s->node, .offset = s->offset, .buffer = s->buffer, .length = s->used };
    if (s->used == 0) {
        return NULL;
    }
    TRY(snapshot_call(&call, SNAPSHOT_WRITE));
    s->offset += s->used;
    s->used = 0;
    return NULL;
}

Error *image_stream_write(void *opaque, const void *data, size_t length)
{
    ImageStream *s = opaque;
    const uint8_t *from = data;

    while (length > 0) {
        size_t piece = MIN(length, VMSTATE_BUFFER - s->used);
        memcpy(s->buffer + s->used, from, piece);
        s->used += piece;
        from += piece;
        length -= piece;
        if (s->used == VMSTATE_BUFFER) {
            TRY(image_stream_flush(s));
        }
    }
    return NULL;
}

static MUST_USE Error *fill_stream(ImageStream *s)
{
    size_t want = (size_t)MIN(s->size - s->offset, VMSTATE_BUFFER);
    SnapshotCall call = { .node = s->node, .offset = s->offset, .buffer = s->buffer, .length = want };
    if (want == 0) {
        return error_new("the saved state ends too early");
    }
    TRY(snapshot_call(&call, SNAPSHOT_READ));
    s->offset += want;
    s->used = want;
    s->at = 0;
    return NULL;
}

Error *image_stream_read(void *opaque, void *data, size_t length)
{
    ImageStream *s = opaque;
    uint8_t *to = data;

    while (length > 0) {
        if (s->at == s->used) {
            TRY(fill_stream(s));
        }
        size_t piece = MIN(length, s->used - s->at);
        memcpy(to, s->buffer + s->at, piece);
        s->at += piece;
        to += piece;
        length -= piece;
    }
    return NULL;
}
