/*
 * The name of a node: what would open the same again.
 *
 * A protocol's name is its file name or URL. A format has the name of the file below, as long as nothing else is
 * needed to open it; otherwise the name is "json:" and all options that decide what the node shows. Options of how
 * it is used (read-only, cache, node-name) are no part of a name.
 */
#include <string.h>

#include "block/node_priv.h"
#include "value/json.h"

static bool is_deciding(const BlockDriver *driver, const char *key)
{
    for (const char *const *d = driver->deciding; d && *d; d++) {
        if (g_str_has_suffix(*d, ".") ? g_str_has_prefix(key, *d) : !strcmp(key, *d)) {
            return true;
        }
    }
    return false;
}

bool node_has_deciding_options(const BlockNode *node)
{
    for (guint i = 0; node->options && i < node->options->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(node->options->items, i);
        if (is_deciding(node->driver, item->key)) {
            return true;
        }
    }
    return false;
}

void node_note_backing_name(BlockNode *node)
{
    g_clear_pointer(&node->implied_backing, g_free);
    node->implied_backing = node->backing ? node_filename(node->backing->node) : NULL;
}

bool node_backing_is_overridden(const BlockNode *node)
{
    if (node->no_io || !node->driver->supports_backing) {
        return false; /* opened for its own facts */
    }
    if (!node->backing) {
        return node->backing_filename != NULL;
    }
    if (!node->backing_filename) {
        return true;
    }
    g_autofree char *implied = node->implied_backing ? g_strdup(node->implied_backing)
                                                     : block_resolve_backing(node->filename, node->backing_filename);
    g_autofree char *name = node_filename(node->backing->node);
    return strcmp(implied, name) != 0;
}

char *node_plain_filename(BlockNode *node)
{
    const BlockDriver *driver = node->driver;

    if (driver->make_filename) {
        return driver->make_filename(node);
    }
    if (driver->protocol) {
        return node->filename && *node->filename ? g_strdup(node->filename) : NULL;
    }
    if (node->inserted && node->file) {
        return node_plain_filename(node->file->node);
    }
    if (!node->file || (driver->filter && !driver->probe) || node_has_deciding_options(node) ||
        node_backing_is_overridden(node)) {
        return NULL;
    }
    BlockNode *below = node->file->node;
    return below->driver->protocol || below->driver->make_filename ? node_plain_filename(below) : NULL;
}

/* The child that a debugging driver is about comes before its name, others behind it: as other programs write it. */
static void put_children(BlockNode *node, Value *options, bool first)
{
    const BlockDriver *d = node->driver;
    const char *main = d->filename_child ? d->filename_child : d->child_name ? d->child_name : "";

    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        if (edge->role != CHILD_BACKING && !strcmp(edge->name, main) == first) {
            value_put(options, edge->name, node_open_options(edge->node));
        }
    }
}

Value *node_open_options(BlockNode *node)
{
    Value *options = value_dict();

    if (node->inserted && node->file) {
        value_free(options);
        return node_open_options(node->file->node);
    }
    if (node_backing_is_overridden(node)) {
        value_put(options, "backing", node->backing ? node_open_options(node->backing->node) : value_null());
    }
    put_children(node, options, true);
    value_put_str(options, "driver", node->driver->name);
    put_children(node, options, false);
    for (guint i = 0; node->options && i < node->options->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(node->options->items, i);
        if (is_deciding(node->driver, item->key)) {
            value_put_str(options, item->key, item->value);
        }
    }
    return options;
}

char *node_filename(BlockNode *node)
{
    char *plain = node_plain_filename(node);
    if (plain) {
        return plain;
    }
    g_autoptr(Value) options = node_open_options(node);
    g_autofree char *text = json_write(options, false);
    return g_strconcat("json:", text, NULL);
}
