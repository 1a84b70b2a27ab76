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

char *block_specific_text(BlockNode *node)
{
    if (!node->driver->info) {
        return g_strdup("");
    }
    GString *out = g_string_new("Format specific information:\n");
    g_autoptr(Value) data = value_dict();
    node->driver->info(node, data);
    append_members(out, data, 1);
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

char *block_image_text(BlockNode *node)
{
    GString *out = g_string_new(NULL);
    g_autofree char *size = block_size_text(node->size), *full = block_full_backing_name(node);
    g_autofree char *name = node_filename(node);
    uint64_t allocated = node_allocated_size(node);
    g_autofree char *disk =
        allocated == UINT64_MAX ? g_strdup("unavailable") : block_size_text(allocated);

    g_string_append_printf(out, "image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\ndisk size: %s\n",
           name, node->driver->name, size, node->size, disk);
    if (node->driver->dirty_flag && node->driver->dirty_flag(node)) {
        g_string_append_printf(out, "cleanly shut down: no\n");
    }
    if (node->encrypted) {
        g_string_append_printf(out, "encrypted: yes\n");
    }
    if (node->limits.cluster_size) {
        g_string_append_printf(out, "cluster_size: %u\n", node->limits.cluster_size);
    }
    if (node->backing_filename) {
        g_string_append_printf(out, "backing file: %s", node->backing_filename);
        if (!full) {
            g_string_append(out, " (cannot determine actual path)");
        } else if (strcmp(full, node->backing_filename)) {
            g_string_append_printf(out, " (actual path: %s)", full);
        }
        g_string_append_printf(out, "\n");
        if (node->backing_format) {
            g_string_append_printf(out, "backing file format: %s\n", node->backing_format);
        }
    }
    if (node->driver->snapshots) {
        g_autoptr(GPtrArray) snapshots = node->driver->snapshots(node);
        if (snapshots->len) {
            g_string_append_printf(out, "Snapshot list:\n");
            g_autofree char *list = block_snapshots_text(snapshots);
            g_string_append(out, list);
        }
    }
    g_autofree char *specific = block_specific_text(node);
    g_string_append_printf(out, "%s", specific);
    return g_string_free(out, FALSE);
}
