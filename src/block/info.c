/* Text forms of what formats tell of an image. */
#include "block/info.h"

#include <inttypes.h>
#include <string.h>

#include "block/node_priv.h"
#include "value/json.h"

static void append_item(GString *out, const char *name, const Value *item, unsigned depth);

static void append_members(GString *out, const Value *data, unsigned depth)
{
    bool list = value_kind(data) == VALUE_LIST;
    for (size_t i = 0; i < value_length(data); i++) {
        if (list) {
            g_autofree char *name = g_strdup_printf("[%zu]", i);
            append_item(out, name, value_at(data, i), depth);
        } else {
            g_autofree char *name = g_strdelimit(g_strdup(value_key_at(data, i)), "-", ' ');
            append_item(out, name, value_item_at(data, i), depth);
        }
    }
}

static void append_item(GString *out, const char *name, const Value *item, unsigned depth)
{
    g_string_append_printf(out, "%*s%s:", (int)(4 * depth), "", name);
    switch (value_kind(item)) {
    case VALUE_LIST:
    case VALUE_DICT:
        g_string_append_c(out, '\n');
        append_members(out, item, depth + 1);
        break;
    case VALUE_STRING:
        g_string_append_printf(out, " %s\n", value_get_str(item));
        break;
    default: {
        g_autofree char *text = json_write(item, false);
        g_string_append_printf(out, " %s\n", text);
        break;
    }
    }
}

static void append_specific(GString *out, BlockNode *node, unsigned depth)
{
    if (node->driver->info) {
        g_autoptr(Value) data = value_dict();
        g_string_append_printf(out, "%*sFormat specific information:\n", (int)(4 * depth), "");
        node->driver->info(node, data);
        append_members(out, data, depth + 1);
    }
}

char *block_specific_text(BlockNode *node)
{
    GString *out = g_string_new(NULL);
    append_specific(out, node, 0);
    return g_string_free(out, FALSE);
}

/* --- an image --- */

char *block_size_text(uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    unsigned unit = 0;
    double value = (double)bytes;
    while (value >= 999.5 && unit + 1 < ARRAY_SIZE(units)) { /* three digits at most */
        value /= 1024;
        unit++;
    }
    return g_strdup_printf("%0.3g %s", value, units[unit]);
}

char *block_snapshots_text(GPtrArray *snapshots)
{
    GString *out = g_string_new(NULL);
    g_string_append_printf(out, "%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT");
    for (guint i = 0; i < snapshots->len; i++) {
        const BlockSnapshot *sn = g_ptr_array_index(snapshots, i);
        g_autofree char *size = block_size_text(sn->vm_state_size);
        g_autoptr(GDateTime) date = g_date_time_new_from_unix_local((gint64)sn->date_sec);
        g_autofree char *when =
            date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
        uint64_t seconds = sn->vm_clock_ns / (uint64_t)NS_PER_SEC;
        g_autofree char *clock = g_strdup_printf(
            "%04u:%02u:%02u.%03u", (unsigned)(seconds / 3600), (unsigned)(seconds / 60 % 60),
            (unsigned)(seconds % 60), (unsigned)(sn->vm_clock_ns / 1000000 % 1000));
        g_autofree char *icount =
            sn->icount == UINT64_MAX ? g_strdup("--") : g_strdup_printf("%" PRIu64, sn->icount);
        g_string_append_printf(out, "%-7s %-16s %8s %19s %15s %10s\n", sn->id, sn->name, size, when, clock, icount);
    }
    return g_string_free(out, FALSE);
}

char *block_full_backing_name(const BlockNode *node)
{
    if (!node->backing_filename) {
        return NULL;
    }
    char *full = block_resolve_backing(node->filename, node->backing_filename);
    if (!*node->filename && block_name_is_relative(full)) {
        g_clear_pointer(&full, g_free); /* relative to what? */
    }
    return full;
}

Value *block_snapshot_value(const BlockSnapshot *sn)
{
    Value *item = value_dict();
    if (sn->icount != UINT64_MAX) {
        value_put(item, "icount", value_uint(sn->icount));
    }
    value_put_int(item, "vm-clock-nsec", (int64_t)(sn->vm_clock_ns % (uint64_t)NS_PER_SEC));
    value_put_str(item, "name", sn->name);
    value_put_int(item, "date-sec", (int64_t)sn->date_sec);
    value_put_int(item, "date-nsec", sn->date_nsec);
    value_put_int(item, "vm-clock-sec", (int64_t)(sn->vm_clock_ns / (uint64_t)NS_PER_SEC));
    value_put_str(item, "id", sn->id);
    value_put(item, "vm-state-size", value_uint(sn->vm_state_size));
    return item;
}

static Value *snapshots_value(BlockNode *node)
{
    if (!node->driver->snapshots) {
        return NULL;
    }
    g_autoptr(GPtrArray) snapshots = node->driver->snapshots(node);
    if (!snapshots->len) {
        return NULL;
    }
    Value *list = value_list();
    for (guint i = 0; i < snapshots->len; i++) {
        value_append(list, block_snapshot_value(g_ptr_array_index(snapshots, i)));
    }
    return list;
}

static Value *specific_value(BlockNode *node)
{
    if (!node->driver->info) {
        return NULL;
    }
    Value *specific = value_dict(), *data = value_dict();
    node->driver->info(node, data);
    value_put_str(specific, "type", node->driver->name);
    value_put(specific, "data", data);
    return specific;
}

Value *block_image_value(BlockNode *node)
{
    Value *info = value_dict(), *snapshots = snapshots_value(node),
          *specific = specific_value(node);
    g_autofree char *full = block_full_backing_name(node);
    uint64_t allocated = node_allocated_size(node);

    if (snapshots) {
        value_put(info, "snapshots", snapshots);
    }
    if (node->backing_format && node->backing_filename) {
        value_put_str(info, "backing-filename-format", node->backing_format);
    }
    value_put(info, "virtual-size", value_uint(node->size));
    g_autofree char *name = node_filename(node);
    value_put_str(info, "filename", name);
    if (node->limits.cluster_size) {
        value_put_int(info, "cluster-size", node->limits.cluster_size);
    }
    value_put_str(info, "format", node->driver->name);
    if (allocated != UINT64_MAX) {
        value_put(info, "actual-size", value_uint(allocated));
    }
    if (specific) {
        value_put(info, "format-specific", specific);
    }
    if (full) {
        value_put_str(info, "full-backing-filename", full);
    }
    if (node->backing_filename) {
        value_put_str(info, "backing-filename", node->backing_filename);
    }
    if (node->encrypted) {
        value_put_bool(info, "encrypted", true);
    }
    value_put_bool(info, "dirty-flag", node->driver->dirty_flag && node->driver->dirty_flag(node));
    return info;
}

Value *block_tree_value(BlockNode *node)
{
    Value *info = value_dict(), *children = value_list();
    value_put(info, "children", children);
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        Value *child = value_dict();
        value_put_str(child, "name", edge->name);
        value_put(child, "info", block_tree_value(edge->node));
        value_append(children, child);
    }
    g_autoptr(Value) own = block_image_value(node);
    for (size_t i = 0; i < value_length(own); i++) {
        value_put(info, value_key_at(own, i), value_copy(value_item_at(own, i)));
    }
    return info;
}

static void append_line(GString *out, unsigned depth, const char *format, ...) G_GNUC_PRINTF(3, 4);
static void append_line(GString *out, unsigned depth, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_string_append_printf(out, "%*s", (int)(4 * depth), "");
    g_string_append_vprintf(out, format, args);
    g_string_append_c(out, '\n');
    va_end(args);
}

static void append_backing(GString *out, const BlockNode *node, unsigned depth)
{
    g_autofree char *full = block_full_backing_name(node);
    bool other = full && strcmp(full, node->backing_filename);

    append_line(out, depth, "backing file: %s%s%s%s", node->backing_filename,
                !full ? " (cannot determine actual path)" : other ? " (actual path: " : "", other ? full : "",
                other ? ")" : "");
    if (node->backing_format) {
        append_line(out, depth, "backing file format: %s", node->backing_format);
    }
}

static void append_snapshots(GString *out, BlockNode *node, unsigned depth)
{
    g_autoptr(GPtrArray) snapshots = node->driver->snapshots ? node->driver->snapshots(node) : NULL;
    if (snapshots && snapshots->len) {
        g_autofree char *list = g_strchomp(block_snapshots_text(snapshots));
        g_auto(GStrv) lines = g_strsplit(list, "\n", -1);
        append_line(out, depth, "Snapshot list:");
        for (char **line = lines; *line; line++) {
            append_line(out, depth, "%s", *line);
        }
    }
}

/* A file is told of in other words than an image, when it is seen below one. */
static void append_image(GString *out, BlockNode *node, unsigned depth)
{
    g_autofree char *size = block_size_text(node->size), *name = node_filename(node);
    uint64_t allocated = node_allocated_size(node);
    g_autofree char *disk = allocated == UINT64_MAX ? g_strdup("unavailable") : block_size_text(allocated);
    bool file = depth && node->driver->protocol;

    append_line(out, depth, "%s: %s", file ? "filename" : "image", name);
    append_line(out, depth, "%s: %s", file ? "protocol type" : "file format", node->driver->name);
    append_line(out, depth, "%s: %s (%" PRIu64 " bytes)", file ? "file length" : "virtual size", size, node->size);
    append_line(out, depth, "disk size: %s", disk);
    if (node->driver->dirty_flag && node->driver->dirty_flag(node)) {
        append_line(out, depth, "cleanly shut down: no");
    }
    if (node->encrypted) {
        append_line(out, depth, "encrypted: yes");
    }
    if (node->limits.cluster_size) {
        append_line(out, depth, "cluster_size: %u", node->limits.cluster_size);
    }
    if (node->backing_filename) {
        append_backing(out, node, depth);
    }
    append_snapshots(out, node, depth);
    append_specific(out, node, depth);
}

char *block_image_text(BlockNode *node)
{
    GString *out = g_string_new(NULL);
    append_image(out, node, 0);
    return g_string_free(out, FALSE);
}

static void append_children(GString *out, BlockNode *node, const char *path, unsigned depth)
{
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        g_autofree char *below = g_strdup_printf("%s/%s", path, edge->name);
        append_line(out, depth, "Child node '%s':", below);
        append_image(out, edge->node, depth + 1);
        append_children(out, edge->node, below, depth + 1);
    }
}

char *block_tree_text(BlockNode *node)
{
    GString *out = g_string_new(NULL);
    append_image(out, node, 0);
    append_children(out, node, "", 0);
    return g_string_free(out, FALSE);
}
