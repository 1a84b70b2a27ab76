/* qemu-img create, resize, measure. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/bitmap.h"
#include "main/img/img.h"

typedef struct Create {
    ImgOptions o;
    const char *backing, *backing_format;
    bool unsafe;
    KeyValues *opts;
    const BlockDriver *driver;
} Create;

static Error *create_option(void *opaque, int letter, const char *value)
{
    Create *c = opaque;
    switch (letter) {
    case 'b':
        c->backing = value;
        return NULL;
    case 'F':
        c->backing_format = value;
        return NULL;
    case 'u':
        c->unsafe = true;
        return NULL;
    default:
        return img_add_options(c->opts, value);
    }
}

/* Size and existence of the backing image. */
static Error *look_at_backing_co(Create *c, const char *filename, const char *backing,
                                 const char *format)
{
    g_autofree char *path = block_resolve_backing(filename, backing);
    bool size_given = keyvalues_has(c->opts, "size");

    if (c->unsafe) {
        return size_given ? NULL : error_new("Image creation needs a size parameter");
    }
    BlockNode *node;
    Error *err = block_open_file_co(c->o.graph, path, format, OPEN_FORCE_SHARE, NULL, &node);
    if (err) {
        return error_hint(err, "Could not open backing image.");
    }
    if (!format) {
        err = error_hint(error_new("Backing file specified without backing format"),
                         "Detected format of %s.", node->driver->name);
    }
    if (!size_given) {
        g_autofree char *size = g_strdup_printf("%" PRIu64, node->size);
        keyvalues_set(c->opts, "size", size);
    }
    node_unref_co(node);
    return err;
}

static Error *round_size(KeyValues *opts)
{
    uint64_t size;
    TRY(block_parse_size(keyvalues_get(opts, "size"), &size));
    if (size > INT64_MAX - 511) {
        return error_new("Image size must be less than 8 EiB!");
    }
    g_autofree char *text = g_strdup_printf("%" PRIu64, ALIGN_UP(size, 512));
    keyvalues_set(opts, "size", text);
    return NULL;
}

static Error *create_steps_co(Create *c)
{
    const char *filename = c->o.args[0], *format = c->o.format ? c->o.format : "raw";

    c->driver = block_driver_find(format);
    if (!c->driver) {
        Error *err = block_driver_lookup(format, &c->driver);
        error_free(err);
        return error_new("Unknown file format '%s'", format);
    }
    if (!c->driver->create_options) {
        return error_new("Format driver '%s' does not support image creation", format);
    }
    TRY(img_check_create_options(c->driver, c->opts));
    if (c->backing) {
        if (!c->driver->supports_backing) {
            return error_new("Images of format '%s' cannot have a backing file", format);
        }
        keyvalues_set(c->opts, "backing_file", c->backing);
    }
    if (c->backing_format) {
        if (!block_driver_find(c->backing_format)) {
            return error_new("Unknown backing file format '%s'", c->backing_format);
        }
        keyvalues_set(c->opts, "backing_fmt", c->backing_format);
    }
    const char *backing = keyvalues_get(c->opts, "backing_file");
    if (backing && !strcmp(backing, filename)) {
        return error_new(
            "The image would overwrite its own backing file: give it another name");
    }
    if (c->o.arg_count > 1) {
        uint64_t size;
        TRY(img_parse_size(c->o.args[1], &size));
        g_autofree char *text = g_strdup_printf("%" PRIu64, size);
        keyvalues_set(c->opts, "size", text);
    }
    if (backing && *backing) {
        TRY(look_at_backing_co(c, filename, backing, keyvalues_get(c->opts, "backing_fmt")));
    }
    if (!keyvalues_has(c->opts, "size")) {
        return error_new("Image creation needs a size parameter");
    }
    if (!c->o.quiet) {
        g_autofree char *line = block_create_text(c->driver, filename, c->opts);
        puts(line);
        fflush(stdout);
    }
    TRY(round_size(c->opts));
    return block_create_co(c->o.graph, filename, c->driver, c->opts);
}

static int create_co(void *opaque)
{
    Create *c = opaque;
    Error *err = create_steps_co(c);
    /* A size that is not one is said without the file, as it came from the command line. */
    bool plain = err && g_str_has_prefix(error_message(err), "Invalid image size");
    return img_result(err && !plain ? error_prefix(err, "%s: ", c->o.args[0]) : err);
}

/* Negative sizes look like options; QEMU says the same. */
int img_create(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS, { 0 } };
    g_autoptr(KeyValues) opts = keyvalues_new();
    Create c = { .opts = opts };
    ImgParser parser = { command, ":hf:b:F:o:uq", longs, create_option, &c };

    int done = img_parse(&parser, graph, &c.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (opts->help) {
        return img_result(img_print_create_options(c.o.format, c.o.arg_count ? c.o.args[0] : NULL));
    }
    if (c.o.arg_count < 1) {
        return img_usage_error(error_new("Give the file name of the image"));
    }
    if (c.o.arg_count > 2) {
        return img_usage_error(error_new("Unexpected argument: %s", c.o.args[2]));
    }
    return img_run(graph, create_co, &c);
}

/* --- resize --- */

typedef struct Resize {
    ImgOptions o;
    bool shrink;
    Preallocation prealloc;
    const char *size;
} Resize;

static Error *resize_option(void *opaque, int letter, const char *value)
{
    Resize *r = opaque;
    if (letter == LONG_SHRINK) {
        r->shrink = true;
        return NULL;
    }
    return block_parse_preallocation(value, &r->prealloc);
}

/* "+10M", "-10M" and "10M". */
static Error *new_size(const Resize *r, uint64_t old, uint64_t *ret_size)
{
    char sign = r->size[0];
    uint64_t amount, size;

    TRY(img_parse_size(sign == '+' || sign == '-' ? r->size + 1 : r->size, &amount));
    if (sign == '-' && amount > old) {
        return error_new("The new size has to be more than zero");
    }
    size = sign == '+' ? old + amount : sign == '-' ? old - amount : amount;
    if (size == 0) {
        return error_new("The new size has to be more than zero");
    }
    *ret_size = ALIGN_UP(size, 512);
    return *ret_size > INT64_MAX ? error_new("Image size must be less than 8 EiB!") : NULL;
}

static Error *resize_steps_co(Resize *r, ImgDisk *disk)
{
    uint64_t size;
    TRY(new_size(r, disk->node->size, &size));
    if (size < disk->node->size && !r->shrink) {
        return error_hint(error_new("--shrink says that the end of the image may be lost."),
                          "qemu-img: warning: Shrinking an image will delete all data beyond the "
                          "shrunken image's "
                          "end. Before performing such an operation, make sure there is no "
                          "important data there.");
    }
    TRY(node_truncate_co(disk->node, size, r->prealloc));
    int ret = node_flush_co(disk->node);
    if (ret < 0) {
        return error_new_errno(ret, "Could not flush '%s'", disk->node->filename);
    }
    if (!r->o.quiet) {
        printf("Image resized.\n");
    }
    return NULL;
}

static int resize_co(void *opaque)
{
    Resize *r = opaque;
    ImgDisk disk = { 0 };
    Error *err =
        img_open_co(&r->o, r->o.args[0], r->o.format, OPEN_WRITE, NULL, r->o.image_opts, &disk);
    if (!err) {
        err = resize_steps_co(r, &disk);
        img_close_co(&disk);
    }
    return img_result(err);
}

int img_resize(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS,
                                           IMG_LONG_IMAGE_OPTS,
                                           { "preallocation", required_argument, NULL,
                                             LONG_PREALLOCATION },
                                           { "shrink", no_argument, NULL, LONG_SHRINK },
                                           { 0 } };
    Resize r = { 0 };
    ImgParser parser = { command, ":hf:q", longs, resize_option, &r };

    /* The last argument may be "-10M", which is no option. */
    if (argc < 3) {
        int done = img_parse(&parser, graph, &r.o, argc, argv);
        return done >= 0 ? done : img_usage_error(error_new("Not enough arguments"));
    }
    r.size = argv[--argc];
    int done = img_parse(&parser, graph, &r.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (r.o.arg_count != 1) {
        return img_usage_error(error_new("Give the file name of the image and its size"));
    }
    return img_run(graph, resize_co, &r);
}

/* --- measure --- */

typedef struct Measure {
    ImgOptions o;
    const char *size, *snapshot;
    KeyValues *opts;
} Measure;

static Error *measure_option(void *opaque, int letter, const char *value)
{
    Measure *m = opaque;
    switch (letter) {
    case LONG_SIZE:
        m->size = value;
        return NULL;
    case 'O':
        m->o.out_format = value;
        return NULL;
    case 'l':
        m->snapshot = value;
        return NULL;
    default:
        return img_add_options(m->opts, value);
    }
}

/* Bytes of the clusters that hold data. */
static Error *count_data_co(BlockNode *node, uint64_t cluster, uint64_t *ret_bytes)
{
    uint64_t bytes = 0, counted_to = 0;
    for (uint64_t at = 0; at < node->size;) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(node, NULL, at, node->size - at, &status, &depth);
        if (ret < 0) {
            return error_new_errno(ret, "The image does not tell which blocks it allocates");
        }
        if ((status.flags & STATUS_DATA) && !(status.flags & STATUS_ZERO)) {
            uint64_t from = MAX(ALIGN_DOWN(at, cluster), counted_to),
                     to = ALIGN_UP(at + status.bytes, cluster);
            bytes += to > from ? to - from : 0;
            counted_to = MAX(counted_to, to);
        }
        at += status.bytes;
    }
    *ret_bytes = bytes;
    return NULL;
}

/* Data, tables and the directory, in clusters of the target. */
static uint64_t count_bitmaps(const BlockNode *node, uint64_t cluster)
{
    uint64_t bytes = 0, directory = 0;
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        if (b->persistent && !b->inconsistent) {
            uint64_t clusters = ALIGN_UP((block_bitmap_bits(b) + 7) / 8, cluster) / cluster;
            bytes += clusters * cluster + ALIGN_UP(clusters * 8, cluster);
            directory += ALIGN_UP(24 + strlen(b->name), 8);
        }
    }
    return bytes + ALIGN_UP(directory, cluster);
}

static Error *measure_steps_co(Measure *m, BlockMeasure *ret)
{
    const BlockDriver *driver;
    uint64_t size = 0, data = 0, cluster = 65536, bitmaps = 0;
    bool has_bitmaps = false;

    TRY(block_driver_lookup(m->o.out_format ? m->o.out_format : "raw", &driver));
    if (!driver->measure) {
        return error_new("Format driver '%s' does not support measurement", driver->name);
    }
    if (keyvalues_has(m->opts, "cluster_size")) {
        TRY(block_parse_size(keyvalues_get(m->opts, "cluster_size"), &cluster));
        if (!IS_POW2(cluster)) {
            return error_new("Cluster size must be a power of two between 512 and 2048k");
        }
    }
    if (m->size) {
        TRY(img_parse_size(m->size, &size));
    } else {
        ImgDisk disk;
        g_autoptr(KeyValues) more = keyvalues_new();
        TRY(img_snapshot_option(m->snapshot, more));
        TRY(img_open_with_co(&m->o, m->o.args[0], m->o.format, 0, NULL, m->o.image_opts, more, &disk));
        size = disk.node->size;
        const char *compat = keyvalues_get(m->opts, "compat");
        bool old = compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
        has_bitmaps = disk.node->driver->can_store_bitmap && driver->can_store_bitmap && !old;
        bitmaps = has_bitmaps ? count_bitmaps(disk.node, cluster) : 0;
        Error *err = count_data_co(disk.node, cluster, &data);
        img_close_co(&disk);
        TRY(err);
    }
    TRY(driver->measure(m->opts, size, data, ret));
    ret->has_bitmaps = has_bitmaps;
    ret->bitmaps = bitmaps;
    return NULL;
}

static int measure_co(void *opaque)
{
    Measure *m = opaque;
    BlockMeasure result;
    Error *err = measure_steps_co(m, &result);
    if (err) {
        return img_result(err);
    }
    if (m->o.json) {
        printf("{\n");
        if (result.has_bitmaps) {
            printf("    \"bitmaps\": %" PRIu64 ",\n", result.bitmaps);
        }
        printf("    \"required\": %" PRIu64 ",\n    \"fully-allocated\": %" PRIu64 "\n}\n",
               result.required, result.fully_allocated);
    } else {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", result.required,
               result.fully_allocated);
        if (result.has_bitmaps) {
            printf("bitmaps size: %" PRIu64 "\n", result.bitmaps);
        }
    }
    return 0;
}

int img_measure(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_OUTPUT,
                                           IMG_LONG_FORCE_SHARE,
                                           { "size", required_argument, NULL, LONG_SIZE },
                                           { 0 } };
    g_autoptr(KeyValues) opts = keyvalues_new();
    Measure m = { .opts = opts };
    ImgParser parser = { command, ":hf:O:o:l:U", longs, measure_option, &m };

    int done = img_parse(&parser, graph, &m.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (!m.size && m.o.arg_count != 1) {
        return img_usage_error(error_new("Either --size N or one filename must be specified."));
    }
    if (m.size && m.snapshot) {
        return img_usage_error(error_new("-l names a snapshot of an image, but --size is given instead of one"));
    }
    if (m.size && m.o.arg_count) {
        return img_usage_error(error_new("--size N cannot be used together with a filename."));
    }
    return img_run(graph, measure_co, &m);
}
