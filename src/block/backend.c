/* Block backends: life, medium, the device's side. Requests are in backend_io.c. */
#include <errno.h>
#include <string.h>

#include "block/backend_priv.h"
#include "block/export/export.h"
#include "block/throttle.h"

BlockBackend *blk_new(BlockGraph *graph, const char *name)
{
    BlockBackend *blk = g_new0(BlockBackend, 1);
    blk->graph = graph;
    blk->refs = 1;
    blk->name = g_strdup(name ? name : "");
    blk->write_cache = true;
    blk->on_read_error = BLK_ON_ERROR_REPORT;
    blk->on_write_error = BLK_ON_ERROR_ENOSPC;
    blk->io_status = "ok";
    list_init(&blk->requests);
    list_init(&blk->held);
    pthread_cond_init(&blk->idle, NULL);
    list_append(&graph->backends, &blk->node_in_graph);
    return blk;
}

BlockBackend *blk_ref(BlockBackend *blk)
{
    blk->refs++;
    return blk;
}

void blk_unref(BlockBackend *blk)
{
    if (!blk || --blk->refs) {
        return;
    }
    assert(!blk->device && list_empty(&blk->requests));
    block_root_detach(blk->root);
    throttle_group_unref(blk->throttle);
    list_remove(&blk->node_in_graph);
    pthread_cond_destroy(&blk->idle);
    for (unsigned kind = 0; kind < LATENCY_KINDS; kind++) {
        error_free(latency_set(&blk->stats.latency[kind], NULL));
    }
    g_free(blk->name);
    g_free(blk);
}

const char *blk_name(const BlockBackend *blk)
{
    return blk->name;
}

BlockBackend *blk_next(BlockGraph *graph, BlockBackend *after)
{
    ListNode *next = after ? after->node_in_graph.next : graph->backends.head.next;
    return next == &graph->backends.head ? NULL : container_of(next, BlockBackend, node_in_graph);
}

void blk_forget_name(BlockBackend *blk)
{
    g_free(blk->name);
    blk->name = g_strdup("");
}

BlockBackend *blk_find(BlockGraph *graph, const char *name)
{
    for (BlockBackend *blk = NULL; (blk = blk_next(graph, blk));) {
        if (blk->name[0] && !strcmp(blk->name, name)) {
            return blk;
        }
    }
    return NULL;
}

void blk_detach_all(BlockGraph *graph)
{
    for (ListNode *node; (node = list_pop(&graph->backends));) {
        BlockBackend *blk = container_of(node, BlockBackend, node_in_graph);
        blk_abandon_held(blk);
        blk_drain(blk);
        block_root_detach(blk->root);
        blk->root = NULL;
    }
}

/* --- medium --- */

static unsigned wanted_claims(const BlockBackend *blk, const BlockNode *node)
{
    return CLAIM_READ | (blk->device && blk->writes && !node->read_only ? CLAIM_WRITE : 0);
}

static unsigned shared_claims(const BlockBackend *blk)
{
    if (blk->graph->inactive) { /* the machine stands still: its disks are not used yet */
        return CLAIM_ALL;
    }
    return blk->device && !blk->share_rw ? CLAIM_ALL & ~(unsigned)CLAIM_WRITE : CLAIM_ALL;
}

/* The source of a migration may still write to its copy here when the machine begins to run: it goes soon, and then
 * export.c asks for what is due. */
static unsigned shared_with_exports(const BlockBackend *blk)
{
    unsigned shared = shared_claims(blk);
    return export_writes(blk->root->node) ? shared | CLAIM_WRITE : shared;
}

Error *blk_claims_update_all(BlockGraph *graph)
{
    LIST_FOREACH (blk, &graph->backends, BlockBackend, node_in_graph) {
        if (blk->root) {
            TRY(block_root_set_claims(blk->root, wanted_claims(blk, blk->root->node), shared_with_exports(blk)));
        }
    }
    return NULL;
}

/* What messages call the backend. */
static const char *edge_name(const BlockBackend *blk)
{
    return blk->device ? blk->device : blk->name[0] ? blk->name : "block device";
}

Error *blk_insert(BlockBackend *blk, BlockNode *node)
{
    BlockEdge *edge = NULL;
    if (node) {
        TRY(block_root_attach(node, edge_name(blk), wanted_claims(blk, node), shared_claims(blk), &edge));
        Error *err = block_root_set_loop(edge, blk->loop);
        if (err) {
            block_root_detach(edge);
            return err;
        }
    }
    /* Requests under way hold the old node until they are through. */
    bool had_medium = blk->root != NULL;
    block_root_detach(blk->root);
    blk->root = edge;
    if (had_medium) {
        exports_medium_gone(blk->graph, blk);
    }
    return NULL;
}

BlockNode *blk_node(const BlockBackend *blk)
{
    return blk->root ? blk->root->node : NULL;
}

bool blk_is_inserted(const BlockBackend *blk)
{
    return blk->root != NULL;
}

bool blk_is_readonly(const BlockBackend *blk)
{
    return blk->root ? blk->root->node->read_only : blk->read_only;
}

int64_t blk_length(const BlockBackend *blk)
{
    return blk->root ? (int64_t)blk->root->node->size : -ENOMEDIUM;
}

uint32_t blk_request_align(const BlockBackend *blk)
{
    return blk->root ? blk->root->node->limits.request_align : 1;
}

bool blk_write_cache(const BlockBackend *blk)
{
    return blk->write_cache;
}

void blk_set_write_cache(BlockBackend *blk, bool on)
{
    blk->write_cache = on;
}

void blk_set_in_saved_state(BlockBackend *blk, bool on)
{
    blk->in_saved_state = on;
}

bool blk_is_in_saved_state(const BlockBackend *blk)
{
    return blk->in_saved_state;
}

void blk_set_throttle(BlockBackend *blk, const char *group, const ThrottleConfig *config)
{
    ThrottleGroup *old = blk->throttle;
    blk->throttle = NULL;
    if (throttle_is_limited(config) || group) {
        blk->throttle = throttle_group_get(blk->graph, group ? group : blk->name);
        if (throttle_is_limited(config) || blk->throttle == old) {
            throttle_group_set(blk->throttle, config);
        }
    }
    throttle_group_unref(old);
}

ThrottleGroup *blk_throttle(const BlockBackend *blk)
{
    return blk->throttle;
}

BlkStats *blk_stats(BlockBackend *blk)
{
    return &blk->stats;
}

/* --- device --- */

Error *blk_attach_device(BlockBackend *blk, const char *label, const BlkDeviceOps *ops,
                         void *opaque, bool writes, bool share_rw)
{
    if (blk->device) {
        return error_new("Drive '%s' is already in use by another device ('%s')", blk->name,
                         blk->device);
    }
    blk->device = g_strdup(label);
    blk->ops = ops;
    blk->ops_opaque = opaque;
    blk->writes = writes;
    blk->share_rw = share_rw;
    if (blk->root) {
        block_root_rename(blk->root, label);
        Error *err = block_root_set_claims(blk->root, wanted_claims(blk, blk->root->node),
                                           shared_claims(blk));
        if (err) {
            g_clear_pointer(&blk->device, g_free);
            block_root_rename(blk->root, edge_name(blk));
            return err;
        }
    }
    return NULL;
}

void blk_detach_device(BlockBackend *blk)
{
    if (!blk->device) {
        return;
    }
    blk_abandon_held(blk);
    blk_drain(blk);
    g_clear_pointer(&blk->device, g_free);
    blk->ops = NULL;
    error_free(blk_set_loop(blk, NULL)); /* cannot fail */
    if (blk->root) {
        /* Asks for less than before: cannot fail. */
        error_free(block_root_set_claims(blk->root, wanted_claims(blk, blk->root->node),
                                         shared_claims(blk)));
    }
}

const char *blk_device(const BlockBackend *blk)
{
    return blk->device;
}

/* Whether the path, or the end of it, is what the text says. */
static bool ends_with_path(const char *path, size_t length, const char *text)
{
    size_t part = strlen(text);
    return part && part <= length && !memcmp(path + length - part, text, part) &&
           (part == length || path[length - part - 1] == '/');
}

BlockBackend *blk_find_device(BlockGraph *graph, const char *text)
{
    static const char virtio_part[] = "/virtio-backend"; /* of a virtio disk on a transport: this is how clients know it */

    for (BlockBackend *blk = NULL; (blk = blk_next(graph, blk));) {
        size_t length = blk->device ? strlen(blk->device) : 0;
        size_t whole = length && g_str_has_suffix(blk->device, virtio_part) ? length - strlen(virtio_part) : length;
        if (length && (ends_with_path(blk->device, length, text) || ends_with_path(blk->device, whole, text))) {
            return blk;
        }
    }
    return NULL;
}

const char *blk_device_id(const BlockBackend *blk)
{
    static const char with_id[] = "/machine/peripheral/";
    size_t length = strlen(with_id);

    if (blk->device && !strncmp(blk->device, with_id, length) && !strchr(blk->device + length, '/')) {
        return blk->device + length;
    }
    return blk->device;
}

bool blk_has_tray(const BlockBackend *blk)
{
    return blk->ops && blk->ops->tray_open;
}

bool blk_is_removable(const BlockBackend *blk)
{
    return !blk->device || (blk->ops && blk->ops->changed);
}

bool blk_tray_is_open(const BlockBackend *blk)
{
    return blk_has_tray(blk) && blk->ops->tray_open(blk->ops_opaque);
}

bool blk_is_locked(const BlockBackend *blk)
{
    return blk->ops && blk->ops->locked && blk->ops->locked(blk->ops_opaque);
}

void blk_tray_moved(BlockBackend *blk, bool open)
{
    Value *data = value_dict();
    value_put_str(data, "device", blk->name);
    value_put_str(data, "id", blk->device ? blk_device_id(blk) : "");
    value_put_bool(data, "tray-open", open);
    blk_emit(blk, "DEVICE_TRAY_MOVED", data);
}

static void notify_changed(BlockBackend *blk, bool loaded)
{
    if (blk->ops && blk->ops->changed) {
        bool was_open = blk_tray_is_open(blk);
        blk->ops->changed(blk->ops_opaque, loaded);
        if (blk_has_tray(blk) && blk_tray_is_open(blk) != was_open) {
            blk_tray_moved(blk, !was_open);
        }
    }
}

static Error *check_removable(BlockBackend *blk)
{
    return blk_is_removable(blk) ? NULL : error_new("Device '%s' has a fixed medium: it is not "
                                                    "removable", blk->name);
}

Error *blk_open_tray(BlockBackend *blk, bool force)
{
    TRY(check_removable(blk));
    if (!blk_has_tray(blk) || blk_tray_is_open(blk)) {
        return NULL;
    }
    if (blk_is_locked(blk)) {
        if (blk->ops->eject_request) {
            blk->ops->eject_request(blk->ops_opaque, force);
        }
        if (!force) {
            return error_new("Device '%s' is locked by the guest, which was asked to let go: "
                             "repeat the command once its tray is open, or use force",
                             blk->name);
        }
    }
    notify_changed(blk, false);
    return NULL;
}

void blk_close_tray(BlockBackend *blk)
{
    if (blk_has_tray(blk) && blk_tray_is_open(blk)) {
        notify_changed(blk, true);
    }
}

Error *blk_take_out(BlockBackend *blk)
{
    if (blk->root) {
        TRY(blk_insert(blk, NULL));
        if (!blk_has_tray(blk)) {
            notify_changed(blk, false);
        }
    }
    return NULL;
}

Error *blk_put_in(BlockBackend *blk, BlockNode *node)
{
    TRY(blk_insert(blk, node));
    if (!blk_has_tray(blk)) {
        notify_changed(blk, true);
    }
    return NULL;
}

Error *blk_eject(BlockBackend *blk, bool force)
{
    TRY(blk_open_tray(blk, force));
    return blk_take_out(blk);
}

Error *blk_change(BlockBackend *blk, BlockNode *node, bool force)
{
    TRY(blk_eject(blk, force));
    Error *err = blk_put_in(blk, node);
    blk_close_tray(blk);
    return err;
}

void blk_notify_resized(BlockBackend *blk)
{
    if (blk->ops && blk->ops->resized) {
        blk->ops->resized(blk->ops_opaque);
    }
}

/* --- hooks --- */

void block_graph_set_hooks(BlockGraph *graph, void (*stop)(void *opaque),
                           void (*emit)(void *opaque, const char *event, Value *data), void *opaque)
{
    graph->stop = stop;
    graph->emit = emit;
    graph->hooks_opaque = opaque;
}

void blk_emit(BlockBackend *blk, const char *event, Value *data)
{
    if (blk->graph->emit) {
        blk->graph->emit(blk->graph->hooks_opaque, event, data);
    } else {
        value_free(data);
    }
}

/* --- the property --- */

static DriveRef *drive_ref(const Object *obj, const Prop *prop)
{
    return (DriveRef *)((char *)obj + prop->offset);
}

static Error *drive_prop_set(Object *obj, const Prop *prop, const char *text)
{
    DriveRef *ref = drive_ref(obj, prop);
    g_free(ref->name);
    ref->name = text[0] ? g_strdup(text) : NULL;
    return NULL;
}

static char *drive_prop_get(const Object *obj, const Prop *prop)
{
    const DriveRef *ref = drive_ref(obj, prop);
    return g_strdup(ref->name ? ref->name : "");
}

static void drive_prop_default(Object *obj, const Prop *prop)
{
    *drive_ref(obj, prop) = (DriveRef) { 0 };
}

static void drive_prop_release(Object *obj, const Prop *prop)
{
    DriveRef *ref = drive_ref(obj, prop);
    drive_ref_detach(ref);
    g_clear_pointer(&ref->name, g_free);
}

const PropKind prop_drive = {
    .name = "str",
    .set = drive_prop_set,
    .get = drive_prop_get,
    .set_default = drive_prop_default,
    .release = drive_prop_release,
    .json = 's',
};

static Error *find_backend(BlockGraph *graph, const char *name, BlockBackend **ret_blk)
{
    BlockBackend *blk = blk_find(graph, name);
    if (blk) {
        *ret_blk = blk_ref(blk);
        return NULL;
    }
    BlockNode *node = block_node_find(graph, name);
    if (!node) {
        g_autoptr(GPtrArray) names = g_ptr_array_new();
        for (BlockBackend *b = NULL; (b = blk_next(graph, b));) {
            g_ptr_array_add(names, b->name);
        }
        for (BlockNode *n = NULL; (n = block_node_next(graph, n));) {
            g_ptr_array_add(names, n->name);
        }
        g_ptr_array_add(names, NULL);
        const char *near = nearest_in(name, (const char *const *)names->pdata);
        return error_new("Property 'drive' can't find value '%s'%s%s%s", name,
                         near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    blk = blk_new(graph, NULL);
    Error *err = blk_insert(blk, node);
    if (err) {
        blk_unref(blk);
        return err;
    }
    *ret_blk = blk;
    return NULL;
}

Error *drive_ref_attach(DriveRef *ref, BlockGraph *graph, const char *label,
                        const BlkDeviceOps *ops, void *opaque, bool optional, bool writes,
                        bool read_only_ok, bool share_rw)
{
    BlockBackend *blk = NULL;

    if (ref->name) {
        TRY(find_backend(graph, ref->name, &blk));
    } else if (optional) {
        blk = blk_new(graph, NULL);
    } else {
        return error_new("drive property not set");
    }
    Error *err = NULL;
    if (!optional && !blk_is_inserted(blk)) {
        err = error_new("Device needs media, but drive is empty");
    } else if (writes && !read_only_ok && blk_is_readonly(blk)) {
        err = error_new("Block node is read-only");
    } else {
        err = blk_attach_device(blk, label, ops, opaque, writes, share_rw);
    }
    if (err) {
        blk_unref(blk);
        return err;
    }
    ref->blk = blk;
    return NULL;
}

void drive_ref_detach(DriveRef *ref)
{
    if (ref->blk) {
        blk_detach_device(ref->blk);
        blk_unref(ref->blk);
        ref->blk = NULL;
    }
}
