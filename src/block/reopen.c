/*
 * Reopening: nodes that are in use get other options. An option that is not given gets its default,
 * except those of a driver that it cannot change: they must be what they were, and stay.
 *
 * Nodes are done one after the other while nothing is under way on any of them; when one fails, those
 * before it get back what they had.
 */
#include <string.h>

#include "block/node_priv.h"

typedef struct Reopen {
    BlockNode *node; /* counted */
    KeyValues *opts; /* the driver's own */
    BlockNode flags; /* only what options say */
    bool sets_backing, closed;
    BlockNode *backing, *file; /* counted; new ones. NULL: none, stays as it is */
    /* for going back */
    BlockNode old_flags;
    BlockNode *old_backing, *old_file; /* counted */
    bool changed_options, changed_backing, changed_file;
} Reopen;

static void reopen_free(void *opaque)
{
    Reopen *r = opaque;
    keyvalues_free(r->opts);
    node_unref(r->backing);
    node_unref(r->file);
    node_unref(r->old_backing);
    node_unref(r->old_file);
    node_unref(r->node);
    g_free(r);
}

static void copy_flags(BlockNode *to, const BlockNode *from)
{
    to->read_only = from->read_only;
    to->force_share = from->force_share;
    to->direct = from->direct;
    to->no_flush = from->no_flush;
    to->unmap = from->unmap;
    to->detect_zeroes = from->detect_zeroes;
}

/* --- what is asked for --- */

/* inherits: from the flags of the parent, which names the node inline; NULL: named by itself. */
static Error *prepare_co(KeyValues *opts, BlockNode *node, const BlockNode *inherits, GPtrArray *list);

static Error *find_child(BlockGraph *graph, const char *name, BlockNode **ret)
{
    BlockNode *child = block_node_find(graph, name);
    if (!child) {
        return error_new("Cannot find device='' nor node-name='%s'", name);
    }
    *ret = child;
    return NULL;
}

static void inherit(KeyValues *opts, const char *key, const char *value)
{
    if (!keyvalues_has(opts, key)) {
        keyvalues_set(opts, key, value);
    }
}

/* Options of a child inline: of the child that is there. */
static Error *prepare_inline(BlockNode *child, const char *name, KeyValues *sub, const BlockNode *flags,
                             GPtrArray *list)
{
    const char *node_name = keyvalues_get(sub, "node-name");
    if (!child) {
        return error_new("Cannot change the option '%s'", name);
    }
    if (node_name && strcmp(node_name, child->name)) {
        return error_new("Cannot change the option '%s.node-name'", name);
    }
    keyvalues_remove(sub, "node-name");
    if (strcmp(name, "backing")) { /* storage is written to when what lies over it is */
        inherit(sub, "read-only", flags->read_only ? "on" : "off");
    }
    for (guint i = 0; i < list->len; i++) { /* asked for by itself */
        if (((Reopen *)g_ptr_array_index(list, i))->node == child) {
            return NULL;
        }
    }
    return prepare_co(sub, child, flags, list);
}

static Error *prepare_backing(Reopen *r, KeyValues *opts, GPtrArray *list)
{
    BlockNode *node = r->node, *now = node->backing ? node->backing->node : NULL, *wanted = NULL;
    g_autofree char *reference = keyvalues_take(opts, "backing");
    g_autoptr(KeyValues) sub = block_take_prefix(opts, "backing.");
    if (sub->items->len) {
        return prepare_inline(now, "backing", sub, &r->flags, list);
    }
    if (!reference) {
        return now ? error_new("backing is missing for '%s'", node->name) : NULL;
    }
    if (*reference) {
        TRY(find_child(node->graph, reference, &wanted));
    }
    if (wanted == now) {
        return NULL;
    }
    if (!node->driver->supports_backing) {
        return error_new("The driver '%s' of node '%s' knows no backing files",
                         node->driver->name, node->name);
    }
    if (wanted && node_reaches(wanted, node)) {
        return error_new("Making '%s' a backing child of '%s' would create a cycle", wanted->name, node->name);
    }
    r->sets_backing = true;
    r->backing = wanted ? node_ref(wanted) : NULL;
    r->old_backing = now ? node_ref(now) : NULL;
    return NULL;
}

static Error *prepare_file(Reopen *r, KeyValues *opts, const BlockNode *inherits, GPtrArray *list)
{
    BlockNode *node = r->node, *wanted;
    const char *name = node->file ? node->file->name : "file";
    g_autofree char *prefix = g_strconcat(name, ".", NULL), *reference = keyvalues_take(opts, name);
    g_autoptr(KeyValues) sub = block_take_prefix(opts, prefix);
    if (!node->file) {
        return reference || sub->items->len ? error_new("Cannot change the option '%s'", name) : NULL;
    }
    if (sub->items->len) {
        return prepare_inline(node->file->node, name, sub, &r->flags, list);
    }
    if (!reference) {
        return inherits ? NULL : error_new("Parameter '%s' is missing", name);
    }
    TRY(find_child(node->graph, reference, &wanted));
    if (wanted == node->file->node) {
        return NULL;
    }
    if (!node->driver->filter || !node->follows_size) {
        return error_new("Cannot change the option '%s'", name);
    }
    if (node_reaches(wanted, node)) {
        return error_new("Making '%s' a %s child of '%s' would create a cycle", wanted->name, name, node->name);
    }
    if (wanted->size != node->size) {
        return error_new("Node '%s' has another size than '%s'", wanted->name, node->file->node->name);
    }
    r->file = node_ref(wanted);
    r->old_file = node_ref(node->file->node);
    return NULL;
}

/* What the driver cannot change must be what it is. */
static Error *check_driver_options(const Reopen *r)
{
    if (r->node->driver->change_options_co) {
        return NULL;
    }
    for (guint i = 0; i < r->opts->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(r->opts->items, i);
        const char *now = keyvalues_get(r->node->options, item->key);
        if (!now && !strcmp(item->key, "filename")) {
            now = r->node->filename;
        }
        if (g_strcmp0(now, item->value)) {
            return error_new("Cannot change the option '%s'", item->key);
        }
    }
    return NULL;
}

static Error *prepare_co(KeyValues *opts, BlockNode *node, const BlockNode *inherits, GPtrArray *list)
{
    g_autofree char *driver = keyvalues_take(opts, "driver");
    if (driver && strcmp(driver, node->driver->name)) {
        return error_new("Cannot change the option 'driver'");
    }
    Reopen *r = g_new0(Reopen, 1);
    r->node = node_ref(node);
    copy_flags(&r->old_flags, node);
    copy_flags(&r->flags, node);
    g_ptr_array_add(list, r);
    if (inherits) {
        inherit(opts, "read-only", node->read_only ? "on" : "off");
        inherit(opts, "force-share", inherits->force_share ? "on" : "off");
        inherit(opts, "cache.direct", inherits->direct ? "on" : "off");
        inherit(opts, "cache.no-flush", inherits->no_flush ? "on" : "off");
        inherit(opts, "discard", node->unmap ? "unmap" : "ignore");
    }
    TRY(block_take_common_options(&r->flags, opts));
    TRY(prepare_backing(r, opts, list));
    TRY(prepare_file(r, opts, inherits, list));
    r->opts = keyvalues_copy(opts);
    return check_driver_options(r);
}

/* --- doing it --- */

static Error *change_file_co(BlockNode *node, BlockNode *wanted)
{
    BlockNode *old = node_ref(node->file->node);
    g_autofree char *name = g_strdup(node->file->name);
    BlockEdge *edge;
    Error *err = node_attach_child(node, node_ref(wanted), name, CHILD_FILTERED, &edge);
    if (err) {
        wanted->refs--;
    } else {
        node_detach_child_co(node->file);
        node->file = edge;
    }
    node_unref_co(old);
    return err;
}

/* Writing first, then the rest; the storage follows. */
static Error *set_flags_co(BlockNode *node, const BlockNode *flags)
{
    bool direct = node->direct;
    if (node->off || flags->off) {
        return error_new(node->off ? "Node '%s' is inactive: make it active before it is reopened"
                                   : "Node '%s' is made inactive by blockdev-set-active, not by reopening",
                         node->name);
    }
    if (flags->read_only != node->read_only) {
        TRY(node_set_read_only_co(node, flags->read_only));
    }
    copy_flags(node, flags);
    if (flags->direct != direct && node->driver->protocol && node->driver->reopen_co) {
        Error *err = node_reopen_same_co(node);
        if (err) {
            node->direct = direct;
            return err;
        }
    }
    return node_claims_update(node);
}

static Error *apply_co(Reopen *r)
{
    BlockNode *node = r->node;
    if (node->driver->change_options_co) {
        g_autoptr(KeyValues) opts = keyvalues_copy(r->opts);
        TRY(node->driver->change_options_co(node, opts));
        r->changed_options = true;
        TRY(block_check_leftover(opts, node));
    }
    TRY(set_flags_co(node, &r->flags));
    if (r->file) {
        TRY(change_file_co(node, r->file));
        r->changed_file = true;
    }
    if (r->sets_backing) {
        TRY(node_set_backing_co(node, r->backing));
        r->changed_backing = true;
    }
    return NULL;
}

static void go_back_co(Reopen *r)
{
    BlockNode *node = r->node;
    if (r->changed_backing) {
        error_free(node_set_backing_co(node, r->old_backing));
    }
    if (r->changed_file) {
        error_free(change_file_co(node, r->old_file));
    }
    error_free(set_flags_co(node, &r->old_flags));
    if (r->changed_options) {
        g_autoptr(KeyValues) opts = keyvalues_copy(node->options);
        error_free(node->driver->change_options_co(node, opts));
    }
}

static Error *apply_all_co(GPtrArray *list)
{
    guint i;
    Error *err = NULL;
    for (i = 0; i < list->len && !err; i++) {
        Reopen *r = g_ptr_array_index(list, i);
        int ret = node_flush_co(r->node);
        err = ret < 0 ? error_new_errno(ret, "Could not flush '%s'", r->node->name) : apply_co(r);
    }
    while (err && i--) {
        go_back_co(g_ptr_array_index(list, i));
    }
    for (i = 0; i < list->len && !err; i++) {
        Reopen *r = g_ptr_array_index(list, i);
        if (r->changed_options) {
            keyvalues_free(r->node->options);
            r->node->options = g_steal_pointer(&r->opts);
        }
    }
    return err;
}

/* Nodes above others come first: what is under way there needs the gates below. A node may stand in the list twice. */
static Reopen *next_to_close(GPtrArray *list)
{
    Reopen *next = NULL;
    for (guint i = 0; i < list->len; i++) {
        Reopen *r = g_ptr_array_index(list, i);
        if (r->node->gate_owner != co_self() && (!next || node_reaches(r->node, next->node))) {
            next = r;
        }
    }
    return next;
}

static Error *reopen_list_co(GPtrArray *list)
{
    for (Reopen *r; (r = next_to_close(list));) {
        node_close_gate_co(r->node);
        r->closed = true;
    }
    Error *err = apply_all_co(list);
    for (guint i = 0; i < list->len; i++) {
        Reopen *r = g_ptr_array_index(list, i);
        if (r->closed) {
            node_open_gate(r->node);
        }
    }
    return err;
}

/* --- with what is not given as it is --- */

static void set_flag(KeyValues *kv, const char *key, bool value)
{
    keyvalues_set(kv, key, value ? "on" : "off");
}

/* All that the node has now; children by name. */
static KeyValues *current_options(const BlockNode *node)
{
    static const char *const detect[] = { "off", "on", "unmap" };
    KeyValues *now = keyvalues_new();

    for (guint i = 0; i < node->options->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(node->options->items, i);
        g_autofree char *first = g_strndup(item->key, strcspn(item->key, "."));
        if (strcmp(first, "backing") && !node_child(node, first) && !g_str_has_prefix(item->key, "x-")) {
            keyvalues_add(now, item->key, item->value);
        }
    }
    set_flag(now, "read-only", node->read_only);
    set_flag(now, "force-share", node->force_share);
    set_flag(now, "cache.direct", node->direct);
    set_flag(now, "cache.no-flush", node->no_flush);
    keyvalues_set(now, "discard", node->unmap ? "unmap" : "ignore");
    keyvalues_set(now, "detect-zeroes", detect[node->detect_zeroes]);
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        keyvalues_set(now, edge->name, edge->node->name);
    }
    if (node->driver->supports_backing && !node->backing) {
        keyvalues_set(now, "backing", "");
    }
    return now;
}

/* Storage is used as what lies over it is, unless it is told otherwise. */
static void pass_cache_modes(KeyValues *changes, KeyValues *child)
{
    static const char *const keys[] = { "cache.direct", "cache.no-flush", "force-share" };
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *value = keyvalues_get(changes, keys[i]);
        if (value && !keyvalues_has(child, keys[i])) {
            keyvalues_set(child, keys[i], value);
        }
    }
}

/* Adds to `all` what node and the nodes below it shall have; takes `changes` apart. */
static Error *collect_changes(BlockNode *node, KeyValues *changes, GPtrArray *all)
{
    g_autoptr(KeyValues) wanted = current_options(node);
    g_autofree char *name = keyvalues_take(changes, "node-name");

    if (name && strcmp(name, node->name)) {
        return error_new("Cannot change the option 'node-name'");
    }
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        g_autofree char *prefix = g_strconcat(edge->name, ".", NULL);
        g_autoptr(KeyValues) sub = block_take_prefix(changes, prefix);
        if (edge->role != CHILD_BACKING) {
            pass_cache_modes(changes, sub);
        }
        if (sub->items->len) {
            TRY(collect_changes(edge->node, sub, all));
        }
    }
    for (guint i = 0; i < changes->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(changes->items, i);
        keyvalues_set(wanted, item->key, item->value);
    }
    keyvalues_set(wanted, "node-name", node->name);
    g_ptr_array_add(all, g_steal_pointer(&wanted));
    return NULL;
}

Error *node_reopen_keeping_co(BlockNode *node, const KeyValues *changes)
{
    g_autoptr(KeyValues) copy = keyvalues_copy(changes);
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)keyvalues_free);
    TRY(collect_changes(node, copy, all));
    return node_reopen_co(node->graph, (KeyValues *const *)all->pdata, all->len);
}

/* --- each as it is named --- */

Error *node_reopen_co(BlockGraph *graph, KeyValues *const *opts, size_t count)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(reopen_free);
    for (size_t i = 0; i < count; i++) {
        g_autofree char *name = keyvalues_take(opts[i], "node-name");
        if (!name) {
            return error_new("node-name not specified");
        }
        BlockNode *node = block_node_find(graph, name);
        if (!node) {
            return error_new("Failed to find node with node-name='%s'", name);
        }
        TRY(prepare_co(opts[i], node, NULL, list));
    }
    return reopen_list_co(list);
}
