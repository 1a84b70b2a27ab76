/* -drive: keys to node options and a backend; places of drives; the temporary overlay of
 * snapshot=on. */
#include "block/drive.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "block/backend_priv.h"
#include "block/throttle.h"

static const struct {
    const char *name, *id_prefix;
    unsigned units; /* a bus; 0: one bus, no limit */
    bool media_in_id;
} interfaces[DRIVE_INTERFACES] = {
    [DRIVE_IF_NONE] = { "none", "none", 0, true },
    [DRIVE_IF_IDE] = { "ide", "ide", 2, true },
    [DRIVE_IF_SCSI] = { "scsi", "scsi", 7, true },
    [DRIVE_IF_FLOPPY] = { "floppy", "floppy", 0, false },
    [DRIVE_IF_PFLASH] = { "pflash", "pflash", 0, false },
    [DRIVE_IF_MTD] = { "mtd", "mtd", 0, false },
    [DRIVE_IF_SD] = { "sd", "sd", 0, false },
    [DRIVE_IF_VIRTIO] = { "virtio", "virtio", 0, false },
    [DRIVE_IF_XEN] = { "xen", "xen", 0, false },
};

const char *drive_interface_name(DriveInterface interface)
{
    return interfaces[interface].name;
}

Error *drive_interface_parse(const char *name, DriveInterface *ret_interface)
{
    const char *names[DRIVE_INTERFACES + 1] = { NULL };
    for (int i = 0; i < DRIVE_INTERFACES; i++) {
        if (!strcmp(name, interfaces[i].name)) {
            *ret_interface = (DriveInterface)i;
            return NULL;
        }
        names[i] = interfaces[i].name;
    }
    const char *near = nearest_in(name, names);
    return error_new("unsupported bus type '%s'%s%s%s", name, near ? ", did you mean '" : "",
                     near ? near : "", near ? "'?" : "");
}

/* --- finding --- */

Drive *block_drive_next(BlockGraph *graph, Drive *after)
{
    ListNode *next = after ? after->node.next : graph->drives.head.next;
    return next == &graph->drives.head ? NULL : container_of(next, Drive, node);
}

Drive *block_drive_get(BlockGraph *graph, DriveInterface interface, unsigned bus, unsigned unit)
{
    for (Drive *d = NULL; (d = block_drive_next(graph, d));) {
        if (d->interface == interface && d->bus == bus && d->unit == unit) {
            return d;
        }
    }
    return NULL;
}

Drive *block_drive_of(const BlockBackend *blk)
{
    for (Drive *d = NULL; (d = block_drive_next(blk->graph, d));) {
        if (d->blk == blk) {
            return d;
        }
    }
    return NULL;
}

Drive *block_drive_find(BlockGraph *graph, const char *id)
{
    for (Drive *d = NULL; (d = block_drive_next(graph, d));) {
        if (!strcmp(d->id, id)) {
            return d;
        }
    }
    return NULL;
}

unsigned block_drive_buses(BlockGraph *graph, DriveInterface interface)
{
    unsigned buses = 0;
    for (Drive *d = NULL; (d = block_drive_next(graph, d));) {
        if (d->interface == interface) {
            buses = MAX(buses, d->bus + 1);
        }
    }
    return buses;
}

Error *block_drives_check_claimed(BlockGraph *graph)
{
    for (Drive *d = NULL; (d = block_drive_next(graph, d));) {
        if (d->interface != DRIVE_IF_NONE && !d->claimed && !d->is_default && !blk_device(d->blk)) {
            return error_new("machine type does not support if=%s,bus=%u,unit=%u (drive '%s')",
                             interfaces[d->interface].name, d->bus, d->unit, d->id);
        }
    }
    return NULL;
}

void block_drive_free(Drive *drive)
{
    if (drive) {
        list_remove(&drive->node);
        blk_unref(drive->blk);
        g_free(drive->id);
        g_free(drive->serial);
        g_free(drive);
    }
}

void block_drives_free(BlockGraph *graph)
{
    for (Drive *d; (d = block_drive_next(graph, NULL));) {
        block_drive_free(d);
    }
}

/* --- the keys --- */

/* What a -drive says, in one place. */
typedef struct DriveSpec {
    char *file, *format;
    DriveInterface interface;
    bool cdrom, read_only, read_only_set, snapshot, writethrough;
    bool index_set, unit_set;
    uint64_t index, bus, unit;
    BlkOnError rerror, werror;
    bool copy_on_read;
    char *group; /* of throttling; NULL: of its own */
    ThrottleConfig throttle;
} DriveSpec;

static void spec_clear(DriveSpec *spec)
{
    g_free(spec->file);
    g_free(spec->format);
    g_free(spec->group);
}

static Error *take_cache(KeyValues *kv, DriveSpec *spec)
{
    static const struct {
        const char *name;
        bool direct, no_flush, writethrough;
    } modes[] = {
        { "none", true, false, false },       { "off", true, false, false },
        { "writeback", false, false, false }, { "writethrough", false, false, true },
        { "directsync", true, false, true },  { "unsafe", false, true, false },
    };
    g_autofree char *cache = keyvalues_take(kv, "cache");
    bool writeback;

    for (size_t i = 0; cache && i < ARRAY_SIZE(modes); i++) {
        if (!strcmp(cache, modes[i].name)) {
            spec->writethrough = modes[i].writethrough;
            if (!keyvalues_has(kv, "cache.direct")) {
                keyvalues_set(kv, "cache.direct", modes[i].direct ? "on" : "off");
            }
            if (!keyvalues_has(kv, "cache.no-flush")) {
                keyvalues_set(kv, "cache.no-flush", modes[i].no_flush ? "on" : "off");
            }
            break;
        }
        if (i + 1 == ARRAY_SIZE(modes)) {
            return error_new(
                "invalid cache option '%s': none, writeback, writethrough, directsync or unsafe "
                "is expected",
                cache);
        }
    }
    TRY(block_take_bool(kv, "cache.writeback", !spec->writethrough, &writeback));
    spec->writethrough = !writeback;
    return NULL;
}

/* bps, bps_rd, iops_max, ... and group: the old names of throttling.* */
static void rename_throttle_keys(KeyValues *kv)
{
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        static const char *const suffixes[][2] = { { "", "" },
                                                   { "_max", "-max" },
                                                   { "_max_length", "-max-length" } };
        for (size_t n = 0; n < ARRAY_SIZE(suffixes); n++) {
            g_autofree char *old = g_strconcat(throttle_legacy_name(i), suffixes[n][0], NULL);
            g_autofree char *now =
                g_strconcat("throttling.", throttle_bucket_name(i), suffixes[n][1], NULL);
            g_autofree char *value = keyvalues_take(kv, old);
            if (value) {
                keyvalues_set(kv, now, value);
            }
        }
    }
    static const char *const others[][2] = { { "iops_size", "throttling.iops-size" },
                                             { "group", "throttling.group" } };
    for (size_t n = 0; n < ARRAY_SIZE(others); n++) {
        g_autofree char *value = keyvalues_take(kv, others[n][0]);
        if (value) {
            keyvalues_set(kv, others[n][1], value);
        }
    }
}

static Error *take_throttle(KeyValues *kv, DriveSpec *spec)
{
    rename_throttle_keys(kv);
    spec->group = keyvalues_take(kv, "throttling.group");
    TRY(throttle_take_config(kv, "throttling.", &spec->throttle));
    return block_take_bool(kv, "copy-on-read", false, &spec->copy_on_read);
}

static Error *take_policies(KeyValues *kv, DriveSpec *spec)
{
    g_autofree char *rerror = keyvalues_take(kv, "rerror"), *werror = keyvalues_take(kv, "werror");
    spec->rerror = BLK_ON_ERROR_REPORT;
    spec->werror = BLK_ON_ERROR_ENOSPC;
    if (rerror) {
        TRY(blk_parse_on_error(rerror, true, &spec->rerror));
    }
    if (werror) {
        TRY(blk_parse_on_error(werror, false, &spec->werror));
    }
    return NULL;
}

static Error *take_place(KeyValues *kv, DriveSpec *spec)
{
    spec->index_set = keyvalues_has(kv, "index");
    spec->unit_set = keyvalues_has(kv, "unit");
    bool bus_set = keyvalues_has(kv, "bus");
    TRY(block_take_num(kv, "index", 0, &spec->index));
    TRY(block_take_num(kv, "bus", 0, &spec->bus));
    TRY(block_take_num(kv, "unit", 0, &spec->unit));
    if (spec->index_set && (bus_set || spec->unit_set)) {
        return error_new("'index' says the same as 'bus' and 'unit': give either the one or the "
                         "others");
    }
    if (spec->index > 65535 || spec->bus > 255 || spec->unit > 65535) {
        return error_new("index, bus or unit is too large");
    }
    return NULL;
}

static Error *take_spec(KeyValues *kv, DriveInterface default_interface, bool snapshot,
                        DriveSpec *spec)
{
    g_autofree char *interface = keyvalues_take(kv, "if"), *media = keyvalues_take(kv, "media");

    spec->interface = default_interface;
    if (interface) {
        TRY(drive_interface_parse(interface, &spec->interface));
    }
    if (media && !strcmp(media, "cdrom")) {
        spec->cdrom = true;
    } else if (media && strcmp(media, "disk")) {
        return error_new("'%s' invalid media: disk or cdrom is expected", media);
    }
    spec->file = keyvalues_take(kv, "file");
    spec->format = keyvalues_take(kv, "format");
    TRY(take_place(kv, spec));
    TRY(take_policies(kv, spec));
    TRY(take_throttle(kv, spec));
    TRY(take_cache(kv, spec));
    g_autofree char *old_name = keyvalues_take(kv, "readonly");
    if (old_name) {
        keyvalues_set(kv, "read-only", old_name);
    }
    TRY(block_take_bool(kv, "read-only", spec->cdrom, &spec->read_only));
    TRY(block_take_bool(kv, "snapshot", snapshot && !spec->cdrom, &spec->snapshot));
    g_autofree char *aio = keyvalues_take(kv, "aio");
    if (aio) {
        keyvalues_set(kv, "x-aio", aio);
    }
    return NULL;
}

/* --- the place --- */

static Error *choose_place(BlockGraph *graph, DriveSpec *spec)
{
    unsigned units = interfaces[spec->interface].units;

    if (spec->index_set) {
        spec->bus = units ? spec->index / units : 0;
        spec->unit = units ? spec->index % units : spec->index;
    } else if (!spec->unit_set) {
        while (block_drive_get(graph, spec->interface, (unsigned)spec->bus, (unsigned)spec->unit)) {
            spec->unit++;
            if (units && spec->unit >= units) {
                spec->unit = 0;
                spec->bus++;
            }
        }
    }
    if (units && spec->unit >= units) {
        return error_new("unit %u too big (max is %u)", (unsigned)spec->unit, units - 1);
    }
    if (block_drive_get(graph, spec->interface, (unsigned)spec->bus, (unsigned)spec->unit)) {
        return error_new("drive with bus=%u, unit=%u (index=%u) exists", (unsigned)spec->bus,
                         (unsigned)spec->unit,
                         (unsigned)(units ? spec->bus * units + spec->unit : spec->unit));
    }
    return NULL;
}

static char *make_id(const DriveSpec *spec)
{
    const char *prefix = interfaces[spec->interface].id_prefix;
    const char *media =
        interfaces[spec->interface].media_in_id ? (spec->cdrom ? "-cd" : "-hd") : "";
    return interfaces[spec->interface].units
               ? g_strdup_printf("%s%u%s%u", prefix, (unsigned)spec->bus, media,
                                 (unsigned)spec->unit)
               : g_strdup_printf("%s%s%u", prefix, media, (unsigned)spec->unit);
}

/* --- the medium --- */

typedef struct OverlayCall {
    BlockGraph *graph;
    BlockNode *backing, *node;
    Error *err;
} OverlayCall;

static Error *overlay_co(OverlayCall *call, const char *path)
{
    g_autoptr(KeyValues) create = keyvalues_new(), opts = keyvalues_new();
    const BlockDriver *qcow2;
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, call->backing->size);

    TRY(block_driver_lookup("qcow2", &qcow2));
    keyvalues_set(create, "size", size);
    TRY(block_create_co(call->graph, path, qcow2, create));
    keyvalues_set(opts, "driver", "qcow2");
    keyvalues_set(opts, "file.driver", "file");
    keyvalues_set(opts, "file.filename", path);
    keyvalues_set(opts, "backing", call->backing->name);
    keyvalues_set(opts, "cache.no-flush", "on"); /* it does not survive a crash anyway */
    keyvalues_set(opts, "discard", "unmap");
    return block_open_options_co(call->graph, opts, &call->node);
}

static void overlay_call_co(void *opaque)
{
    OverlayCall *call = opaque;
    const char *tmp = g_getenv("TMPDIR");
    g_autofree char *path = g_build_filename(tmp && *tmp ? tmp : "/var/tmp", "vl.XXXXXX", NULL);
    int fd = g_mkstemp(path);

    if (fd < 0) {
        call->err = error_new_errno(errno, "Could not create the temporary file '%s'", path);
        return;
    }
    close(fd);
    call->err = overlay_co(call, path);
    unlink(path);
}

Error *block_temporary_overlay(BlockGraph *graph, BlockNode **node)
{
    OverlayCall call = { .graph = graph, .backing = *node };
    if (co_self()) {
        overlay_call_co(&call);
    } else {
        co_run(graph->loop, overlay_call_co, &call);
    }
    if (call.err) {
        return error_prefix(call.err, "snapshot=on: ");
    }
    node_unref(*node);
    *node = call.node;
    return NULL;
}

static Error *open_medium(BlockGraph *graph, KeyValues *kv, const DriveSpec *spec,
                          void (*warn)(const char *), BlockNode **ret_node)
{
    bool read_only = spec->read_only || spec->snapshot;
    BlockNode *node;

    keyvalues_set(kv, "read-only", read_only ? "on" : "off");
    if (!keyvalues_has(kv, "discard")) {
        keyvalues_set(kv, "discard", "ignore");
    }
    if (spec->file) {
        TRY(block_open_file(graph, spec->file, spec->format, read_only ? 0 : OPEN_WRITE, kv,
                            &node));
    } else {
        if (spec->format && !keyvalues_has(kv, "driver")) {
            keyvalues_set(kv, "driver", spec->format);
        }
        TRY(block_open_options(graph, kv, &node));
    }
    if (spec->snapshot) {
        Error *err = block_temporary_overlay(graph, &node);
        if (err) {
            node_unref(node);
            return err;
        }
    } else if (node->probed && !read_only && !strcmp(node->driver->name, "raw") && warn) {
        g_autofree char *text = g_strdup_printf(
            "Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write "
            "operations on block 0 "
            "will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.",
            node->filename);
        warn(text);
    }
    *ret_node = node;
    return NULL;
}

/* A filter above the medium; *node is replaced. */
static Error *add_copy_on_read(BlockGraph *graph, BlockNode **node)
{
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *filter;
    if ((*node)->read_only) {
        return error_new("copy-on-read=on needs an image that can be written to");
    }
    keyvalues_set(opts, "driver", "copy-on-read");
    keyvalues_set(opts, "file", (*node)->name);
    keyvalues_set(opts, "discard", (*node)->unmap ? "unmap" : "ignore");
    TRY(block_open_options(graph, opts, &filter));
    node_unref(*node);
    *node = filter;
    return NULL;
}

static bool has_medium(const KeyValues *kv, const DriveSpec *spec)
{
    return (spec->file && spec->file[0]) || keyvalues_has(kv, "driver") ||
           block_has_prefix(kv, "file.") || keyvalues_has(kv, "filename");
}

static Error *drive_medium(BlockGraph *graph, KeyValues *kv, const DriveSpec *spec,
                           BlockBackend *blk, void (*warn)(const char *))
{
    BlockNode *node;

    blk_set_write_cache(blk, !spec->writethrough);
    blk_set_on_error(blk, spec->rerror, spec->werror);
    blk->read_only = spec->read_only;
    if (!has_medium(kv, spec)) {
        return NULL;
    }
    TRY(open_medium(graph, kv, spec, warn, &node));
    Error *err = spec->copy_on_read ? add_copy_on_read(graph, &node) : NULL;
    if (!err) {
        err = blk_insert(blk, node);
    }
    node_unref(node);
    return err;
}

static Error *drive_make(BlockGraph *graph, KeyValues *kv, DriveSpec *spec,
                         DriveInterface default_interface, bool snapshot,
                         void (*warn)(const char *), Drive **ret_drive)
{
    g_autofree char *id = keyvalues_take(kv, "id"), *serial = keyvalues_take(kv, "serial");

    TRY(take_spec(kv, default_interface, snapshot, spec));
    TRY(choose_place(graph, spec));
    if (!id) {
        id = make_id(spec);
    }
    if (blk_find(graph, id) || block_node_find(graph, id)) {
        return error_new("There is a device with id '%s' already: choose another id", id);
    }
    BlockBackend *blk = blk_new(graph, id);
    if (throttle_is_limited(&spec->throttle) || spec->group) {
        blk_set_throttle(blk, spec->group ? spec->group : id, &spec->throttle);
    }
    Error *err = drive_medium(graph, kv, spec, blk, warn);
    if (err) {
        blk_unref(blk);
        return err;
    }
    Drive *drive = g_new0(Drive, 1);
    drive->id = g_steal_pointer(&id);
    drive->serial = g_steal_pointer(&serial);
    drive->blk = blk;
    drive->interface = spec->interface;
    drive->bus = (unsigned)spec->bus;
    drive->unit = (unsigned)spec->unit;
    drive->cdrom = spec->cdrom;
    list_append(&graph->drives, &drive->node);
    *ret_drive = drive;
    return NULL;
}

Error *block_drive_new(BlockGraph *graph, const KeyValues *kv, DriveInterface default_interface,
                       bool snapshot, void (*warn)(const char *text), Drive **ret_drive)
{
    g_autoptr(KeyValues) copy = keyvalues_copy(kv);
    DriveSpec spec = { 0 };
    Error *err = drive_make(graph, copy, &spec, default_interface, snapshot, warn, ret_drive);
    spec_clear(&spec);
    return err;
}
