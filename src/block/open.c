/* Opening nodes: options that all have, children by name or by options, formats that are probed, backing images. */
#include <string.h>

#include "block/backend.h"
#include "block/node_priv.h"

/* Backing chains may not be deeper, so that a chain that bites its own tail ends. */
enum { MAX_DEPTH = 200, PROBE_BYTES = 2048 };

static Error *open_node_co(BlockGraph *graph, KeyValues *opts, bool protocol, unsigned depth,
                           BlockNode **ret_node);

Error *block_take_common_options(BlockNode *node, KeyValues *opts)
{
    node->unmap = false;
    node->detect_zeroes = DETECT_ZEROES_OFF;
    TRY(block_take_bool(opts, "read-only", false, &node->read_only));
    TRY(block_take_bool(opts, "auto-read-only", false, &node->auto_read_only));
    TRY(block_take_bool(opts, "force-share", false, &node->force_share));
    TRY(block_take_bool(opts, "cache.direct", false, &node->direct));
    TRY(block_take_bool(opts, "cache.no-flush", false, &node->no_flush));
    TRY(block_take_bool(opts, "x-no-io", false, &node->no_io));
    bool active;
    TRY(block_take_bool(opts, "active", true, &active));
    node->off = !active;
    node->aio = keyvalues_take(opts, "x-aio");
    if (node->force_share && !node->read_only) {
        return error_new("force-share=on can only be used with read-only images");
    }
    g_autofree char *discard = keyvalues_take(opts, "discard");
    if (discard) {
        if (!strcmp(discard, "unmap") || !strcmp(discard, "on")) {
            node->unmap = true;
        } else if (strcmp(discard, "ignore") && strcmp(discard, "off")) {
            return error_new("Invalid discard option '%s': ignore or unmap is expected", discard);
        }
    }
    g_autofree char *detect = keyvalues_take(opts, "detect-zeroes");
    if (detect) {
        static const char *const names[] = { "off", "on", "unmap" };
        unsigned i = 0;
        while (i < 3 && strcmp(detect, names[i])) {
            i++;
        }
        if (i == 3) {
            return error_new("Invalid detect-zeroes option '%s': off, on or unmap is expected",
                             detect);
        }
        node->detect_zeroes = (DetectZeroes)i;
        if (i == DETECT_ZEROES_UNMAP && !node->unmap) {
            return error_new(
                "detect-zeroes=unmap works by discarding: it needs discard=unmap");
        }
    }
    return NULL;
}

static Error *take_name(BlockNode *node, KeyValues *opts)
{
    g_autofree char *name = keyvalues_take(opts, "node-name");
    if (!name) {
        node->name = g_strdup_printf("#block%03u", node->graph->next_name++);
        return NULL;
    }
    if (!g_ascii_isalpha(name[0]) || strlen(name) > 31 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") !=
            strlen(name)) {
        return error_hint(error_new("Invalid node-name: '%s'", name), /* image tests compare this */
                          "A name is a letter, then letters, digits, '-', '.', '_'; at most 31 characters.");
    }
    LIST_FOREACH (other, &node->graph->nodes, BlockNode, in_graph) { /* also those that are just being opened */
        if (!other->closing && other->name && !strcmp(other->name, name)) {
            return error_new("Duplicate nodes with node-name='%s'", name); /* image tests compare this */
        }
    }
    node->name = g_steal_pointer(&name);
    return NULL;
}

static void inherit(KeyValues *child, const char *key, bool value)
{
    if (!keyvalues_has(child, key)) {
        keyvalues_set(child, key, value ? "on" : "off");
    }
}

/* discard=ignore is about what comes from above the node; below it, nothing of that is left. */
static void inherit_options(const BlockNode *node, KeyValues *child, bool read_only)
{
    if (!keyvalues_has(child, "discard")) {
        keyvalues_set(child, "discard", "unmap");
    }
    inherit(child, "read-only", read_only);
    if (node->off) {
        inherit(child, "active", false);
    }
    inherit(child, "force-share", node->force_share);
    inherit(child, "cache.direct", node->direct);
    inherit(child, "cache.no-flush", node->no_flush);
    if (node->aio && !keyvalues_has(child, "x-aio")) {
        keyvalues_set(child, "x-aio", node->aio);
    }
}

/* A child given by name ("file=NODE") or by options ("file.x=..."). NULL in *ret: neither was
 * given. */
static Error *child_from_options_co(BlockNode *node, KeyValues *opts, const char *name,
                                    bool protocol, bool read_only, unsigned depth, BlockNode **ret)
{
    g_autofree char *prefix = g_strconcat(name, ".", NULL);
    g_autofree char *reference = keyvalues_take(opts, name);
    g_autoptr(KeyValues) sub = block_take_prefix(opts, prefix);

    *ret = NULL;
    if (reference) {
        BlockNode *child = block_node_find(node->graph, reference);
        BlockBackend *drive = child ? NULL : blk_find(node->graph, reference); /* -drive id= */
        child = drive ? blk_node(drive) : child;
        if (sub->items->len) {
            return error_new("'%s' is given both as a reference and by options", name);
        }
        if (!child) {
            return error_new("Cannot find device='' nor node-name='%s'", reference);
        }
        *ret = node_ref(child);
        return NULL;
    }
    if (sub->items->len) {
        inherit_options(node, sub, read_only);
        return open_node_co(node->graph, sub, protocol, depth + 1, ret);
    }
    return NULL;
}

Error *node_open_child_co(BlockNode *node, KeyValues *opts, const char *name, const char *filename,
                          BlockEdge **ret_edge)
{
    BlockNode *child = NULL;
    *ret_edge = NULL;
    TRY(child_from_options_co(node, opts, name, true, node->read_only, 1, &child));
    if (!child && filename) {
        if (block_skip_protocol(filename)) {
            return error_new("The image names '%s', which is not a plain path; give '%s' explicitly",
                             filename, name);
        }
        g_autoptr(KeyValues) sub = keyvalues_new();
        keyvalues_set(sub, "driver", "file");
        keyvalues_set(sub, "filename", filename);
        inherit_options(node, sub, node->read_only);
        TRY(open_node_co(node->graph, sub, true, 1, &child));
    }
    if (!child) {
        return NULL;
    }
    Error *err = node_attach_child(node, child, name, CHILD_FILE, ret_edge);
    if (err) {
        node_unref_co(child);
    }
    return err;
}

static const char *first_child(const BlockNode *node)
{
    return node->driver && node->driver->child_name ? node->driver->child_name : "file";
}

static Error *open_file_co(BlockNode *node, KeyValues *opts, unsigned depth, BlockNode **ret_file)
{
    g_autofree char *filename = keyvalues_take(opts, "filename");
    const char *child = first_child(node);
    const char *named = node->driver && node->driver->filename_child ? node->driver->filename_child : child;
    g_autofree char *nested = g_strconcat(named, ".filename", NULL);

    if (filename) {
        if (keyvalues_has(opts, named) || keyvalues_has(opts, nested)) {
            return error_new("'filename' and '%s' cannot be given together", named);
        }
        keyvalues_set(opts, nested, filename);
    }
    TRY(child_from_options_co(node, opts, child, true, node->read_only, depth, ret_file));
    return *ret_file ? NULL : error_new("A block device must be specified for \"%s\"", child);
}

Error *node_open_role_co(BlockNode *node, KeyValues *opts, const char *name, ChildRole role,
                         bool format, BlockEdge **ret_edge)
{
    BlockNode *child;
    TRY(child_from_options_co(node, opts, name, !format, node->read_only, 1, &child));
    if (!child) {
        return error_new("A block device must be specified for \"%s\"", name);
    }
    Error *err = node_attach_child(node, child, name, role, ret_edge);
    if (err) {
        node_unref_co(child);
    }
    return err;
}

static Error *open_backing_co(BlockNode *node, KeyValues *opts, unsigned depth)
{
    const char *given = keyvalues_get(opts, "backing");
    BlockNode *backing = NULL;

    if (given && !*given) {
        keyvalues_remove(opts, "backing");
        return NULL;
    }
    const char *format = keyvalues_get(opts, "backing.driver");
    const BlockDriver *driver = format ? block_driver_find(format) : NULL;
    /* A format alone says how to read what the image names. */
    bool needs_file = !driver || (!driver->protocol && !(driver->child_name && !*driver->child_name));
    bool overridden = block_has_prefix(opts, "backing.file") || (format && !needs_file);
    if (!given && !node->backing_filename && !overridden) {
        /* Modes of a backing node that is not there. */
        keyvalues_remove(opts, "backing.force-share");
        keyvalues_remove(opts, "backing.read-only");
    }
    bool implied = !given && node->backing_filename && !overridden;
    if (!given && node->backing_filename) {
        if (!overridden) {
            g_autofree char *path = block_resolve_backing(node->filename, node->backing_filename);
            keyvalues_set(opts, "backing.filename", path);
            if (node->backing_format && !keyvalues_has(opts, "backing.driver") &&
                !g_str_has_prefix(path, "json:")) {
                keyvalues_set(opts, "backing.driver", node->backing_format);
            }
        }
    }
    Error *err = child_from_options_co(node, opts, "backing", false, true, depth, &backing);
    if (err) {
        /* Once is enough, however deep in the chain it happened. */
        return g_str_has_prefix(error_message(err), "Could not open backing file: ") ?
                   err :
                   error_prefix(err, "Could not open backing file: ");
    }
    if (!backing) {
        return NULL;
    }
    err = node_attach_child(node, backing, "backing", CHILD_BACKING, &node->backing);
    if (err) {
        node_unref_co(backing);
    } else if (implied) {
        node_note_backing_name(node);
    }
    return err;
}

/* The driver of a format over an open file, by its first bytes. */
static Error *probe_co(BlockNode *file, const BlockDriver **ret_driver)
{
    uint8_t data[PROBE_BYTES] = { 0 };
    size_t length = (size_t)MIN(file->size, sizeof(data));
    int ret = length ? node_pread_co(file, 0, length, data) : 0;

    if (ret < 0) {
        return error_new_errno(ret, "The image cannot be read to find out its format");
    }
    *ret_driver = block_probe(data, length, file->filename);
    return NULL;
}

static Error *open_format_co(BlockNode *node, KeyValues *opts, unsigned depth)
{
    BlockNode *file;

    if (node->driver && node->driver->child_name && !*node->driver->child_name) {
        return NULL;
    }
    TRY(open_file_co(node, opts, depth, &file));
    Error *err = NULL;
    if (!node->driver) {
        err = probe_co(file, &node->driver);
        node->probed = true;
    }
    node->filename = g_strdup(file->filename);
    if (!err) {
        err = node_attach_child(node, file, first_child(node),
                                node->driver->filter ? CHILD_FILTERED : CHILD_FILE, &node->file);
    }
    if (err) {
        node_unref_co(file);
        return err;
    }
    return NULL;
}

static Error *call_open_co(BlockNode *node, KeyValues *opts)
{
    const BlockDriver *driver = node->driver;

    node->state = driver->state_size ? g_malloc0(driver->state_size) : NULL;
    return driver->open_co(node, opts);
}

/* auto-read-only: for reading only, what cannot be opened for writing. The first error counts when that does not help. */
static Error *open_for_reading_co(BlockNode *node, Error *why, KeyValues **ret_opts)
{
    g_autoptr(KeyValues) again = keyvalues_copy(node->options);

    g_clear_pointer(&node->state, g_free);
    g_clear_pointer(&node->filename, g_free);
    node->read_only = true;
    Error *err = call_open_co(node, again);
    if (err) {
        node->read_only = false;
        error_free(err);
        return why;
    }
    error_free(why);
    *ret_opts = g_steal_pointer(&again);
    return NULL;
}

static Error *open_driver_co(BlockNode *node, KeyValues *opts, unsigned depth)
{
    const BlockDriver *driver = node->driver;
    g_autoptr(KeyValues) second = NULL;

    node->extends = driver->extends;
    node->options = keyvalues_copy(opts);
    node->activated = block_is_creating(node->graph, co_self());
    node->inactive = !node_is_active(node) && !node->read_only;
    node->read_only |= node->inactive;
    Error *err = call_open_co(node, opts);
    if (err && node->auto_read_only && !node->read_only && driver->protocol) {
        err = open_for_reading_co(node, err, &second);
        opts = second ? second : opts;
    }
    node->read_only &= !node->inactive;
    TRY(err);
    node->open = true;
    node->size = ALIGN_UP(node->size, (uint64_t)NODE_SECTOR);
    if (!node->limits.request_align) {
        node->limits.request_align = 1;
    }
    if (driver->supports_backing) {
        TRY(open_backing_co(node, opts, depth));
    } else if (keyvalues_has(opts, "backing") && !*keyvalues_get(opts, "backing")) {
        keyvalues_remove(opts, "backing"); /* "none" fits everybody */
    }
    TRY(block_check_leftover(opts, node));
    return node_claims_update(node);
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts, bool protocol, unsigned depth)
{
    g_autofree char *driver = keyvalues_take(opts, "driver");

    if (depth > MAX_DEPTH) {
        return error_new("The chain of images is longer than %d: does an image back itself?",
                         MAX_DEPTH);
    }
    if (driver) {
        TRY(block_driver_lookup(driver, &node->driver));
    }
    TRY(take_name(node, opts));
    TRY(block_take_common_options(node, opts));
    if (protocol && node->driver && !node->driver->protocol) {
        protocol = false; /* a format over a format */
    }
    if (!protocol && !(node->driver && node->driver->protocol)) {
        TRY(open_format_co(node, opts, depth));
    } else if (!node->driver) {
        return error_new("Must specify either driver or file");
    }
    return open_driver_co(node, opts, depth);
}

static BlockNode *node_new(BlockGraph *graph)
{
    BlockNode *node = g_new0(BlockNode, 1);
    node->graph = graph;
    node->refs = 1;
    list_init(&node->children);
    list_init(&node->parents);
    list_init(&node->bitmaps);
    list_init(&node->before_write);
    list_init(&node->requests);
    co_queue_init(&node->drained);
    co_queue_init(&node->gate);
    list_append(&graph->nodes, &node->in_graph);
    return node;
}

Error *node_new_above_co(BlockNode *below, const BlockDriver *driver, const char *name, BlockNode **ret_node)
{
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *node = node_new(below->graph);
    node->driver = driver;
    node->read_only = below->read_only;
    node->force_share = below->force_share;
    node->direct = below->direct;
    node->no_flush = below->no_flush;
    node->unmap = true;
    node->filename = g_strdup(below->filename);
    node->inserted = !name;
    if (name) {
        keyvalues_set(opts, "node-name", name);
    }
    Error *err = take_name(node, opts);
    if (!err) {
        err = node_attach_child(node, node_ref(below), first_child(node), CHILD_FILTERED, &node->file);
        below->refs -= err != NULL;
    }
    if (!err) {
        err = open_driver_co(node, opts, 0);
    }
    if (err) {
        node_unref_co(node);
        return err;
    }
    *ret_node = node;
    return NULL;
}

/* opts is used up. */
static Error *open_node_co(BlockGraph *graph, KeyValues *opts, bool protocol, unsigned depth,
                           BlockNode **ret_node)
{
    const char *filename = keyvalues_get(opts, "filename");

    /* A name alone: the protocol's driver for it; json: may bring a driver for the format. */
    if (filename && (g_str_has_prefix(filename, "json:") || (protocol && !keyvalues_has(opts, "driver")))) {
        g_autofree char *name = keyvalues_take(opts, "filename");
        TRY(block_options_from_filename(name, opts));
    }
    BlockNode *node = node_new(graph);
    Error *err = open_steps_co(node, opts, protocol, depth);
    if (err) {
        node_unref_co(node);
        return err;
    }
    if (!node->filename) {
        node->filename = g_strdup("");
    }
    *ret_node = node;
    return NULL;
}

Error *block_open_options_co(BlockGraph *graph, const KeyValues *opts, BlockNode **ret_node)
{
    g_autoptr(KeyValues) copy = keyvalues_copy(opts);
    return open_node_co(graph, copy, false, 0, ret_node);
}

Error *block_open_file_co(BlockGraph *graph, const char *filename, const char *format,
                          unsigned flags, const KeyValues *more, BlockNode **ret_node)
{
    g_autoptr(KeyValues) opts = more ? keyvalues_copy(more) : keyvalues_new();

    keyvalues_set(opts, "filename", filename);
    if (format) {
        keyvalues_set(opts, "driver", format);
    }
    inherit(opts, "read-only", !(flags & OPEN_WRITE));
    inherit(opts, "force-share", (flags & OPEN_FORCE_SHARE) != 0);
    inherit(opts, "cache.no-flush", (flags & OPEN_NO_FLUSH) != 0);
    inherit(opts, "cache.direct", (flags & OPEN_DIRECT) != 0);
    if (flags & OPEN_NO_BACKING) {
        keyvalues_set(opts, "backing", "");
    }
    if (flags & OPEN_NO_IO) {
        keyvalues_set(opts, "x-no-io", "on");
    }
    if (!keyvalues_has(opts, "discard")) {
        keyvalues_set(opts, "discard", "unmap");
    }
    return open_node_co(graph, opts, (flags & OPEN_PROTOCOL) != 0, 0, ret_node);
}

/* --- the same from outside coroutines --- */

typedef struct OpenCall {
    BlockGraph *graph;
    const char *filename, *format;
    unsigned flags;
    const KeyValues *opts;
    BlockNode *node;
    Error *err;
} OpenCall;

static void open_options_call_co(void *opaque)
{
    OpenCall *call = opaque;
    call->err = block_open_options_co(call->graph, call->opts, &call->node);
}

Error *block_open_options(BlockGraph *graph, const KeyValues *opts, BlockNode **ret_node)
{
    OpenCall call = { .graph = graph, .opts = opts };
    co_run(graph->loop, open_options_call_co, &call);
    TRY(call.err);
    *ret_node = call.node;
    return NULL;
}

static void open_file_call_co(void *opaque)
{
    OpenCall *call = opaque;
    call->err = block_open_file_co(call->graph, call->filename, call->format, call->flags,
                                   call->opts, &call->node);
}

Error *block_open_file(BlockGraph *graph, const char *filename, const char *format, unsigned flags,
                       const KeyValues *more, BlockNode **ret_node)
{
    OpenCall call = {
        .graph = graph, .filename = filename, .format = format, .flags = flags, .opts = more
    };
    co_run(graph->loop, open_file_call_co, &call);
    TRY(call.err);
    *ret_node = call.node;
    return NULL;
}
