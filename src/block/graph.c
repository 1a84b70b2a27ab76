/* Nodes: naming, opening with their children, closing. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "block/backend.h"
#include "block/bitmap.h"
#include "block/export/export.h"
#include "block/nbd/server.h"
#include "block/job.h"
#include "block/node_priv.h"
#include "value/json.h"

/* Backing chains may not be deeper, so that a chain that bites its own tail ends. */
enum { MAX_DEPTH = 200, PROBE_BYTES = 2048 };

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
        if (node->open && !strcmp(node->name, name)) {
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

/* --- file names --- */

void block_graph_set_open_special(BlockGraph *graph, int (*fn)(void *opaque, const char *path, int flags), void *opaque)
{
    graph->open_special = fn;
    graph->open_opaque = opaque;
}

int block_open_path(BlockGraph *graph, const char *path, int flags)
{
    if (g_str_has_prefix(path, "/dev/fdset/")) {
        return graph->open_special ? graph->open_special(graph->open_opaque, path, flags) : -ENOENT;
    }
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static const char *skip_protocol(const char *name)
{
    const char *p = name;
    while (g_ascii_isalnum(*p) || *p == '+' || *p == '-' || *p == '.') {
        p++;
    }
    return p > name && *p == ':' ? p + 1 : NULL;
}

char *block_resolve_backing(const char *image, const char *backing)
{
    const char *slash = strrchr(image, '/');
    if (backing[0] == '/' || !slash || g_str_has_prefix(backing, "json:") ||
        skip_protocol(backing)) {
        return g_strdup(backing);
    }
    return g_strdup_printf("%.*s%s", (int)(slash + 1 - image), image, backing);
}

bool block_name_is_relative(const char *name)
{
    return name[0] != '/' && !g_str_has_prefix(name, "json:") && !skip_protocol(name);
}

/* Turns a "filename" without a driver into the options of a protocol node. */
static Error *options_from_filename(const char *filename, KeyValues *opts)
{
    struct stat st;
    const char *path = filename;

    if (g_str_has_prefix(filename, "json:")) {
        Value *value;
        g_autoptr(KeyValues) parsed = NULL;
        Error *err = json_parse(filename + 5, strlen(filename + 5), &value);
        if (err) {
            return error_prefix(err, "Could not parse the JSON options of '%s': ", filename);
        }
        err = keyvalues_from_value(value, &parsed);
        value_free(value);
        TRY(err);
        const char *driver = keyvalues_get(parsed, "driver"), *wanted = keyvalues_get(opts, "driver");
        if (wanted && driver && strcmp(wanted, driver)) {
            keyvalues_set(opts, "file.filename", filename); /* a format above it */
            return NULL;
        }
        for (guint i = 0; i < parsed->items->len; i++) {
            KeyValue *item = g_ptr_array_index(parsed->items, i);
            if (!keyvalues_has(opts, item->key)) {
                keyvalues_set(opts, item->key, item->value);
            }
        }
        return NULL;
    }
    const char *rest = skip_protocol(filename);
    if (rest && memchr(filename, '/', (size_t)(rest - filename)) == NULL) {
        g_autofree char *protocol = g_strndup(filename, (gsize)(rest - 1 - filename));
        const BlockDriver *driver = block_driver_for_scheme(protocol);
        if (!strcmp(protocol, "file")) {
            path = rest;
        } else if (driver) {
            keyvalues_set(opts, "driver", driver->name);
            if (driver->parse_filename) {
                return driver->parse_filename(filename, opts);
            }
            keyvalues_set(opts, "filename", rest);
            return NULL;
        } else {
            return error_new("Unknown protocol '%s'", protocol);
        }
    }
    bool device = stat(path, &st) == 0 && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode));
    keyvalues_set(opts, "driver", device ? "host_device" : "file");
    keyvalues_set(opts, "filename", path);
    return NULL;
}

/* --- opening --- */

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
    if (block_node_find(node->graph, name)) {
        return error_new("Duplicate nodes with node-name='%s'", name);
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

static void inherit_options(const BlockNode *node, KeyValues *child, bool read_only)
{
    inherit(child, "read-only", read_only);
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
        if (!keyvalues_has(sub, "discard") && (protocol || node->unmap)) {
            keyvalues_set(sub, "discard", "unmap");
        }
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
        if (skip_protocol(filename)) {
            return error_new("The image names '%s', which is not a plain path; give '%s' explicitly",
                             filename, name);
        }
        g_autoptr(KeyValues) sub = keyvalues_new();
        keyvalues_set(sub, "driver", "file");
        keyvalues_set(sub, "filename", filename);
        keyvalues_set(sub, "discard", "unmap");
        inherit_options(node, sub, node->read_only);
        Error *err = open_node_co(node->graph, sub, true, 1, &child);
        if (err) {
            return error_prefix(err, "Could not open '%s': ", filename);
        }
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
    node->inactive = node->graph->inactive && !node->read_only;
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
        TRY(options_from_filename(name, opts));
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

/* --- creating --- */

static void pass_option(KeyValues *from, KeyValues *to, const char *key)
{
    g_autofree char *value = keyvalues_take(from, key);
    if (value) {
        keyvalues_set(to, key, value);
    }
}

/* What is left of an image that could not be made. */
static void remove_torso(const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        unlink(path);
    }
}

/* Where the protocol makes no files: what is there becomes the storage of the new image. */
static Error *format_existing_co(BlockGraph *graph, const char *filename, const BlockDriver *driver,
                                 const BlockDriver *storage, KeyValues *opts)
{
    static const char zeroes[NODE_SECTOR];
    BlockNode *file;
    BlockEdge *edge;
    uint64_t size = 0;

    if (!storage->pwritev_co) {
        return error_new("Protocol driver '%s' does not support image creation", storage->name);
    }
    if (driver->filter) {
        TRY(block_take_size(opts, "size", 0, &size));
    }
    TRY(block_open_file_co(graph, filename, NULL, OPEN_PROTOCOL | OPEN_WRITE, NULL, &file));
    Error *err = block_root_attach(file, "create", CLAIM_READ | (driver->filter ? CLAIM_WRITE : 0), CLAIM_ALL, &edge);
    if (!err) {
        if (file->size < size) {
            err = error_new("'%s' has %" PRIu64 " bytes, %" PRIu64 " are needed", filename, file->size, size);
        } else if (driver->filter) { /* so that it is not taken for what was there */
            int ret = node_pwrite_co(file, 0, MIN(file->size, sizeof(zeroes)), zeroes, 0);
            err = ret < 0 ? error_new_errno(ret, "Could not write to '%s'", filename) : NULL;
        } else {
            err = driver->create_co(graph, filename, file, opts);
        }
        block_root_detach(edge);
    }
    node_unref_co(file);
    return err;
}

static Error *create_image_co(BlockGraph *graph, const char *filename, const BlockDriver *driver,
                              const KeyValues *given)
{
    g_autoptr(KeyValues) opts = keyvalues_copy(given), protocol = keyvalues_new();

    if (!driver->create_co) {
        return error_new("Format driver '%s' does not support image creation", driver->name);
    }
    TRY(options_from_filename(filename, protocol));
    const BlockDriver *storage;
    TRY(block_driver_lookup(keyvalues_get(protocol, "driver"), &storage));
    const char *path = keyvalues_get(protocol, "filename");
    path = path ? path : filename; /* ssh://... */
    if (driver->protocol) {
        return driver->create_co(graph, path, NULL, opts);
    }
    if (!storage->create_co) {
        return format_existing_co(graph, filename, driver, storage, opts);
    }
    /* The format makes the file as long as it needs; raw passes size and preallocation through. */
    g_autoptr(KeyValues) file_opts = keyvalues_new();
    if (driver->filter) {
        static const char *const passed[] = { "size", "preallocation", "nocow",
                                              "extent_size_hint" };
        for (size_t i = 0; i < ARRAY_SIZE(passed); i++) {
            pass_option(opts, file_opts, passed[i]);
        }
    } else {
        keyvalues_set(file_opts, "size", "0");
        pass_option(opts, file_opts, "nocow");
        pass_option(opts, file_opts, "extent_size_hint");
    }
    TRY(storage->create_co(graph, path, NULL, file_opts));
    BlockNode *file;
    TRY(block_open_file_co(graph, filename, NULL, OPEN_PROTOCOL | OPEN_WRITE | OPEN_NO_FLUSH, NULL,
                           &file));
    BlockEdge *edge;
    Error *err = block_root_attach(file, "create", CLAIM_READ, CLAIM_ALL, &edge);
    if (!err) {
        err = driver->create_co(graph, filename, file, opts);
        block_root_detach(edge);
    }
    node_unref_co(file);
    if (err && !strcmp(storage->name, "file")) {
        remove_torso(path);
    }
    return err;
}

/* What is made is nobody else's, also while the images of the graph belong to another process. */
Error *block_create_co(BlockGraph *graph, const char *filename, const BlockDriver *driver, const KeyValues *given)
{
    bool inactive = graph->inactive;
    graph->inactive = false;
    Error *err = create_image_co(graph, filename, driver, given);
    graph->inactive = inactive;
    return err;
}
