/* qemu-img info, map, snapshot. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/info.h"
#include "main/img/img.h"
#include "value/json.h"

typedef struct Info {
    ImgOptions o;
    bool chain;
} Info;

static Error *info_option(void *opaque, int letter, const char *value)
{
    ((Info *)opaque)->chain = true;
    return NULL;
}

/* The images of a chain one by one, each without its own backing chain. */
static Error *info_chain_co(Info *info, Value *list)
{
    g_autofree char *filename = g_strdup(info->o.args[0]), *format = g_strdup(info->o.format);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    bool image_opts = info->o.image_opts;

    for (bool first = true; filename; first = false) {
        ImgDisk disk;
        if (!g_hash_table_add(seen, g_strdup(filename))) {
            return error_new("Backing file '%s' creates an infinite loop.", filename);
        }
        TRY(img_open_co(&info->o, filename, format, OPEN_NO_BACKING | OPEN_NO_IO, NULL, image_opts, &disk));
        if (info->o.json) {
            value_append(list, block_tree_value(disk.node));
        } else {
            printf("%s", first ? "" : "\n");
            g_autofree char *text = block_tree_text(disk.node);
            fputs(text, stdout);
        }
        g_free(filename);
        g_free(format);
        filename = info->chain ? block_full_backing_name(disk.node) : NULL;
        format = g_strdup(disk.node->backing_format);
        image_opts = false;
        img_close_co(&disk);
    }
    return NULL;
}

static int info_co(void *opaque)
{
    Info *info = opaque;
    g_autoptr(Value) list = value_list();
    Error *err = info_chain_co(info, list);
    if (err) {
        return img_result(err);
    }
    if (info->o.json) {
        g_autofree char *text = json_write(info->chain ? list : value_at(list, 0), true);
        printf("%s\n", text);
    }
    return 0;
}

int img_info(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_OUTPUT,
                                           IMG_LONG_FORCE_SHARE,
                                           { "format", required_argument, NULL, 'f' },
                                           { "backing-chain", no_argument, NULL,
                                             LONG_BACKING_CHAIN },
                                           { 0 } };
    Info info = { 0 };
    ImgParser parser = { command, ":hf:U", longs, info_option, &info };

    int done = img_parse(&parser, graph, &info.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    return info.o.arg_count == 1 ? img_run(graph, info_co, &info)
                                 : img_usage_error(error_new("Expecting one image file name"));
}

/* --- map --- */

typedef struct Map {
    ImgOptions o;
    uint64_t start, length;
} Map;

typedef struct MapEntry {
    uint64_t start, length, offset;
    unsigned depth, flags;
    BlockNode *file;
} MapEntry;

static Error *map_option(void *opaque, int letter, const char *value)
{
    Map *m = opaque;
    return img_parse_size(value, letter == LONG_START_OFFSET ? &m->start : &m->length);
}

enum { MAP_FLAGS = STATUS_DATA | STATUS_ZERO | STATUS_OFFSET | STATUS_ALLOCATED | STATUS_EOF | STATUS_COMPRESSED };

static bool entries_join(const MapEntry *a, const MapEntry *b)
{
    return a->flags == b->flags && a->depth == b->depth && a->file == b->file &&
           (!(a->flags & STATUS_OFFSET) || a->offset + a->length == b->offset);
}

static void print_entry_json(const MapEntry *e, bool first)
{
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
           ", \"depth\": %u, \"present\": %s, \"zero\": %s, "
           "\"data\": %s, \"compressed\": %s",
           first ? "[" : ",\n", e->start, e->length, e->depth,
           (e->flags & (STATUS_ALLOCATED | STATUS_EOF)) == STATUS_ALLOCATED ? "true" : "false",
           e->flags & STATUS_ZERO ? "true" : "false", e->flags & STATUS_DATA ? "true" : "false",
           e->flags & STATUS_COMPRESSED ? "true" : "false");
    if (e->flags & STATUS_OFFSET) {
        printf(", \"offset\": %" PRIu64, e->offset);
    }
    printf("}");
}

static Error *print_entry_human(const MapEntry *e)
{
    if ((e->flags & STATUS_DATA) && !(e->flags & STATUS_OFFSET)) {
        return error_new("Clusters in another file, encrypted or compressed ones have no place in "
                         "the image to show.");
    }
    if ((e->flags & (STATUS_DATA | STATUS_ZERO)) == STATUS_DATA) {
        g_autofree char *start = g_strdup_printf(e->start ? "0x%" PRIx64 : "0", e->start);
        g_autofree char *length = g_strdup_printf("0x%" PRIx64, e->length);
        g_autofree char *offset = g_strdup_printf(e->offset ? "0x%" PRIx64 : "0", e->offset);
        printf("%-16s%-16s%-16s%s\n", start, length, offset, e->file ? e->file->filename : "");
    }
    return NULL;
}

static Error *print_entry(const Map *m, const MapEntry *e, bool *first)
{
    if (m->o.json) {
        print_entry_json(e, *first);
        *first = false;
        return NULL;
    }
    return print_entry_human(e);
}

/* Holes of an external data file are found by mapping that file; for the image they are data. Programs compare this. */
static void forget_foreign_holes(BlockNode *node, MapEntry *e)
{
    unsigned hole = STATUS_DATA | STATUS_ZERO | STATUS_OFFSET;
    for (unsigned i = 0; i < e->depth && node; i++) {
        node = node_backing(node);
    }
    if (node && (e->flags & hole) == hole && node_child(node, "data-file") == e->file) {
        e->flags &= ~(unsigned)STATUS_ZERO;
    }
}

static Error *map_steps_co(const Map *m, BlockNode *node)
{
    uint64_t end =
        m->length > node->size - MIN(m->start, node->size) ? node->size : m->start + m->length;
    MapEntry current = { 0 };
    bool first = true;

    if (!m->o.json) {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
    for (uint64_t at = m->start; at < end;) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(node, NULL, at, end - at, &status, &depth);
        if (ret < 0) {
            return error_new_errno(ret, "Failed to read the map of '%s' at offset %" PRIu64,
                                   node->filename, at);
        }
        MapEntry e = { at, status.bytes, status.map, depth, status.flags & MAP_FLAGS, status.file };
        if (!(e.flags & STATUS_OFFSET)) {
            e.offset = 0;
            e.file = NULL;
        }
        forget_foreign_holes(node, &e);
        if (current.length && entries_join(&current, &e)) {
            current.length += e.length;
        } else {
            if (current.length) {
                TRY(print_entry(m, &current, &first));
            }
            current = e;
        }
        at += status.bytes;
    }
    if (current.length) {
        TRY(print_entry(m, &current, &first));
    }
    if (m->o.json) {
        printf("%s]\n", first ? "[" : "");
    }
    return NULL;
}

static int map_co(void *opaque)
{
    Map *m = opaque;
    ImgDisk disk;
    Error *err = img_open_co(&m->o, m->o.args[0], m->o.format, 0, NULL, m->o.image_opts, &disk);
    if (!err) {
        err = map_steps_co(m, disk.node);
        img_close_co(&disk);
    }
    return img_result(err);
}

int img_map(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS,
        IMG_LONG_IMAGE_OPTS,
        IMG_LONG_OUTPUT,
        IMG_LONG_FORCE_SHARE,
        { "start-offset", required_argument, NULL, LONG_START_OFFSET },
        { "max-length", required_argument, NULL, LONG_MAX_LENGTH },
        { "format", required_argument, NULL, 'f' },
        { 0 }
    };
    Map m = { .length = UINT64_MAX };
    ImgParser parser = { command, ":hf:s:l:U", longs, map_option, &m };

    int done = img_parse(&parser, graph, &m.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    return m.o.arg_count == 1 ? img_run(graph, map_co, &m)
                              : img_usage_error(error_new("Expecting one image file name"));
}

/* --- snapshot --- */

typedef struct Snapshot {
    ImgOptions o;
    int action;
    const char *name;
} Snapshot;

static Error *snapshot_option(void *opaque, int letter, const char *value)
{
    Snapshot *s = opaque;
    if (s->action) {
        return error_new("'-l', '-a', '-c' and '-d' are different actions: give one of them");
    }
    s->action = letter;
    s->name = value;
    return NULL;
}

static Error *snapshot_change_co(Snapshot *s, BlockNode *node)
{
    const BlockDriver *driver = node->driver;
    BlockSnapshot sn = { .name = (char *)s->name, .icount = 0 };
    gint64 now = g_get_real_time();

    if (!driver->snapshot_create_co) {
        return error_new("Could not %s snapshot '%s': -95 (Operation not supported): '%s' images "
                         "have no internal "
                         "snapshots",
                         s->action == 'c'   ? "create"
                         : s->action == 'a' ? "apply"
                                            : "delete",
                         s->name, driver->name);
    }
    switch (s->action) {
    case 'c':
        sn.date_sec = (uint64_t)(now / G_USEC_PER_SEC);
        sn.date_nsec = (uint32_t)(now % G_USEC_PER_SEC) * 1000;
        return driver->snapshot_create_co(node, &sn);
    case 'a':
        return driver->snapshot_apply_co(node, s->name);
    default:
        return driver->snapshot_delete_co(node, s->name);
    }
}

static int snapshot_co(void *opaque)
{
    Snapshot *s = opaque;
    bool list = s->action == 'l';
    ImgDisk disk;
    Error *err =
        img_open_co(&s->o, s->o.args[0], s->o.format, (list ? 0 : OPEN_WRITE) | OPEN_NO_BACKING,
                    NULL, s->o.image_opts, &disk);
    if (err) {
        return img_result(err);
    }
    if (!list) {
        err = snapshot_change_co(s, disk.node);
    } else if (disk.node->driver->snapshots) {
        g_autoptr(GPtrArray) snapshots = disk.node->driver->snapshots(disk.node);
        if (snapshots->len) {
            printf("Snapshot list:\n");
            g_autofree char *text = block_snapshots_text(snapshots);
            fputs(text, stdout);
        }
    }
    img_close_co(&disk);
    return img_result(err);
}

int img_snapshot(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS, IMG_LONG_IMAGE_OPTS, IMG_LONG_FORCE_SHARE, { 0 }
    };
    Snapshot s = { 0 };
    ImgParser parser = { command, ":hla:c:d:f:qU", longs, snapshot_option, &s };

    int done = img_parse(&parser, graph, &s.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (s.o.arg_count != 1) {
        return img_usage_error(error_new("Expecting one image file name"));
    }
    s.action = s.action ? s.action : 'l';
    return img_run(graph, snapshot_co, &s);
}
