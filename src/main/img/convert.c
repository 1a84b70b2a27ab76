/*
 * qemu-img convert: several coroutines, each with a buffer, take pieces of the source in turn.
 * Holes and zeroes are recognized by block status first, then in the data. Unless -W, pieces are
 * written in order, which keeps the target sequential; compression then runs ahead of the writing,
 * on all processors.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "main/img/img.h"

enum { PIECE = 2 << 20, MAX_COROUTINES = 16, MAX_SOURCES = 256 };

typedef struct Convert {
    ImgOptions o;
    const char *backing, *backing_format;
    KeyValues *opts;
    const char *snapshot;
    uint64_t sparse;
    unsigned coroutines;
    bool compress, no_create, out_of_order, salvage, target_is_zero, bitmaps, skip_broken_bitmaps;
    ImgPace pace;

    ImgDisk sources[MAX_SOURCES];
    unsigned source_count;
    uint64_t total;
    uint64_t total_data; /* of `total`, what is not zeroes: the measure of progress; 0: not counted */
    ImgDisk target;
    bool target_zeroed; /* the target reads as zeroes where nothing is written */
    uint32_t cluster;   /* of the target; with compression pieces are made of whole ones */

    uint64_t next; /* the first byte nobody has taken yet */
    uint64_t done;
    uint64_t write_turn; /* the piece that starts here may be written */
    CoQueue turns, finished;
    unsigned running;
    bool copy_range;   /* -C: data that lie as they are need not be read; off once the host could not copy them */
    bool sparse_given; /* -S */
    Error *err;
} Convert;

static Error *convert_option(void *opaque, int letter, const char *value)
{
    Convert *c = opaque;
    uint64_t number;

    switch (letter) {
    case 'O':
        c->o.out_format = value;
        return NULL;
    case 'B':
        c->backing = value;
        return NULL;
    case 'F':
        c->backing_format = value;
        return NULL;
    case 'c':
        c->compress = true;
        return NULL;
    case 'C':
        c->copy_range = true;
        return NULL;
    case 'n':
        c->no_create = true;
        return NULL;
    case 'W':
        c->out_of_order = true;
        return NULL;
    case 'S':
        c->sparse_given = true;
        TRY(img_parse_size(value, &c->sparse));
        return c->sparse % 512 || c->sparse > 16 * MiB
                   ? error_new("Invalid buffer size for sparse output specified. Valid sizes are "
                               "multiples of 512 up "
                               "to 16777216. Select 0 to disable sparse detection (fully allocates "
                               "output).")
                   : NULL;
    case 'm':
        TRY(img_parse_size(value, &number));
        c->coroutines = (unsigned)number;
        return number < 1 || number > MAX_COROUTINES
                   ? error_new("The number of coroutines (-m) has to be from 1 to %d",
                               MAX_COROUTINES)
                   : NULL;
    case 'l':
        c->snapshot = value;
        return NULL;
    case 'o':
        return img_add_options(c->opts, value);
    case 'r':
        return img_parse_rate(value, &c->pace);
    case LONG_BITMAPS:
        c->bitmaps = true;
        return NULL;
    case LONG_SKIP_BROKEN:
        c->skip_broken_bitmaps = true;
        return NULL;
    case LONG_SALVAGE:
        c->salvage = true;
        return NULL;
    case LONG_TARGET_IS_ZERO:
        c->target_is_zero = true;
        return NULL;
    case LONG_TARGET_IMAGE_OPTS:
        c->o.target_image_opts = true;
        return NULL;
    default:
        return error_new("-%c is not supported", letter);
    }
}

/* --- a piece --- */

typedef struct Piece {
    uint64_t offset, bytes;
    bool data; /* else zeroes */
    bool skip; /* the backing image of the target has it */
    BlockNode *from; /* where the data lie as they are; NULL: they do not */
    uint64_t from_offset;
} Piece;

static BlockNode *source_at(Convert *c, uint64_t offset, uint64_t *ret_offset)
{
    unsigned i = 0;
    while (i + 1 < c->source_count && offset >= c->sources[i].node->size) {
        offset -= c->sources[i++].node->size;
    }
    *ret_offset = offset;
    return c->sources[i].node;
}

/* When the disk is to be saved, an error is narrowed down to the sector that it is about, which counts as data. */
static int status_co(Convert *c, BlockNode *node, uint64_t inside, uint64_t *left, BlockStatus *ret_status,
                     unsigned *ret_depth)
{
    int ret = node_status_above_co(node, NULL, inside, *left, ret_status, ret_depth);
    while (ret < 0 && c->salvage && *left > 512) {
        *left = MAX(ALIGN_DOWN(*left / 4, 512), 512);
        ret = node_status_above_co(node, NULL, inside, *left, ret_status, ret_depth);
    }
    return ret;
}

static void warn_status(const Convert *c, uint64_t at, int ret)
{
    if (!c->o.quiet) {
        warn_report("error while reading block status at offset %" PRIu64 ": %s", at, strerror(-ret));
    }
}

/* What is at c->next, and how far it goes. Takes it. */
static int take_piece_co(Convert *c, Piece *piece)
{
    uint64_t inside, unit = c->compress ? c->cluster : 1;
    BlockNode *node = source_at(c, c->next, &inside);
    uint64_t left = MIN(node->size - inside, c->total - c->next);
    BlockStatus status = { .flags = STATUS_DATA, .bytes = left };
    unsigned depth = 0;
    uint64_t before = c->next;

    int ret = status_co(c, node, inside, &left, &status, &depth);
    if (ret < 0 && !c->salvage) {
        return ret;
    }
    if (c->next != before) { /* another coroutine was faster while this one waited */
        return -EAGAIN;
    }
    if (ret < 0) {
        warn_status(c, before, ret);
        status = (BlockStatus) { .flags = STATUS_DATA, .bytes = left };
    }
    piece->offset = c->next;
    piece->from = c->copy_range && (status.flags & STATUS_OFFSET) ? status.file : NULL;
    piece->from_offset = status.map;
    /* With -S 0 zeroes are written, too. */
    piece->data = !c->sparse || (!(status.flags & STATUS_ZERO) && (status.flags & STATUS_DATA));
    piece->skip = c->backing && (depth > 0 || !(status.flags & STATUS_ALLOCATED));
    piece->bytes = status.bytes;
    if (unit > 1) { /* whole clusters of the target */
        uint64_t start_cut = c->next % unit;
        if (piece->data || piece->bytes + start_cut < unit) {
            piece->data = true;
            piece->bytes =
                MIN(MAX(ALIGN_DOWN(MIN(piece->bytes, PIECE), unit), unit), c->total - c->next);
            piece->skip = false;
        } else if (c->next + piece->bytes != c->total) {
            piece->bytes = ALIGN_DOWN(piece->bytes, unit);
        }
    } else if (piece->data) {
        piece->bytes = MIN(piece->bytes, PIECE - c->next % PIECE);
    }
    c->next += piece->bytes;
    return 0;
}

static int read_piece_co(Convert *c, const Piece *piece, char *buffer)
{
    uint64_t at = piece->offset, left = piece->bytes;
    while (left) {
        uint64_t inside;
        BlockNode *node = source_at(c, at, &inside);
        uint64_t part = MIN(left, node->size - inside);
        int ret = node_pread_co(node, inside, part, buffer);
        if (ret < 0 && c->salvage) { /* sector by sector */
            for (uint64_t i = 0; i < part; i += 512) {
                uint64_t sector = MIN(512, part - i);
                ret = node_pread_co(node, inside + i, sector, buffer + i);
                if (ret < 0) {
                    memset(buffer + i, 0, (size_t)sector);
                    if (!c->o.quiet) {
                        warn_report("error while reading offset %" PRIu64 ": %s", at + i, strerror(-ret));
                    }
                }
            }
        } else if (ret < 0) {
            return ret;
        }
        at += part;
        left -= part;
        buffer += part;
    }
    return 0;
}

static int zero_target_co(Convert *c, uint64_t offset, uint64_t bytes)
{
    if (c->target_zeroed) {
        return 0;
    }
    return node_write_zeroes_co(c->target.node, offset, bytes, c->sparse ? REQ_MAY_UNMAP : 0);
}

/* Data in alternating runs of zeroes (of at least the sparse size) and the rest. */
static int write_sparse_co(Convert *c, uint64_t offset, uint64_t bytes, const char *buffer)
{
    uint64_t unit = c->sparse;
    for (uint64_t at = 0; at < bytes;) {
        uint64_t run = 0;
        bool zero = false;
        while (at + run < bytes) { /* units are aligned to the target, not to the piece */
            uint64_t step = MIN(unit - (offset + at + run) % unit, bytes - at - run);
            bool is_zero = block_buffer_is_zero(buffer + at + run, (size_t)step);
            if (run && is_zero != zero) {
                break;
            }
            zero = is_zero;
            run += step;
        }
        int ret = zero ? zero_target_co(c, offset + at, run)
                       : node_pwrite_co(c->target.node, offset + at, run, buffer + at, 0);
        if (ret < 0) {
            return ret;
        }
        at += run;
    }
    return 0;
}

/* The buffer has room for whole clusters: a source that ends in the middle of the target's last one
 * is padded. */
static int write_compressed_co(Convert *c, uint64_t offset, uint64_t bytes, char *buffer)
{
    uint64_t whole = MIN(ALIGN_UP(bytes, c->cluster), c->target.node->size - offset);
    memset(buffer + bytes, 0, (size_t)(whole - bytes));
    bytes = whole;
    while (bytes) {
        uint64_t part = MIN(bytes, c->cluster);
        int ret;
        if (c->target_zeroed && c->sparse && block_buffer_is_zero(buffer, (size_t)part)) {
            ret = 0;
        } else {
            ret = node_pwrite_co(c->target.node, offset, part, buffer, REQ_COMPRESSED);
        }
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
        buffer += part;
    }
    return 0;
}

static int write_piece_co(Convert *c, const Piece *piece, char *buffer)
{
    if (piece->skip) {
        return 0;
    }
    if (!piece->data) {
        return zero_target_co(c, piece->offset, piece->bytes);
    }
    if (c->compress) {
        return write_compressed_co(c, piece->offset, piece->bytes, buffer);
    }
    return c->sparse ? write_sparse_co(c, piece->offset, piece->bytes, buffer)
                     : node_pwrite_co(c->target.node, piece->offset, piece->bytes, buffer, 0);
}

/* By the host; where it cannot do that, as ever, and from then on. */
static int copy_piece_co(Convert *c, const Piece *piece, char *buffer)
{
    int ret = node_copy_range_co(c->target.node, piece->offset, piece->from, piece->from_offset, piece->bytes);
    if (ret != -ENOTSUP) {
        return ret;
    }
    c->copy_range = false;
    ret = read_piece_co(c, piece, buffer);
    return ret < 0 ? ret : write_piece_co(c, piece, buffer);
}

/* --- the coroutines --- */

static void fail(Convert *c, int ret, const char *what, uint64_t offset)
{
    if (!c->err) {
        c->err = error_new_errno(ret, "error while %s at byte %" PRIu64, what, offset);
    }
}

static void wait_turn_co(Convert *c, const Piece *piece)
{
    bool ordered = !c->out_of_order && !c->compress;
    while (ordered && !c->err && c->write_turn != piece->offset) {
        co_queue_wait(&c->turns);
    }
}

static void worker_co(void *opaque)
{
    Convert *c = opaque;
    size_t align = 4096, size = MAX(PIECE, (size_t)c->cluster);
    char *buffer = aligned_alloc(align, ALIGN_UP(size, align));

    while (!c->err && c->next < c->total) {
        Piece piece;
        int ret = take_piece_co(c, &piece);
        if (ret == -EAGAIN) {
            continue;
        }
        if (ret < 0) {
            fail(c, ret, "reading block status", c->next);
            break;
        }
        bool copies = piece.data && !piece.skip && piece.from;
        if (piece.data && !piece.skip && !copies) {
            ret = read_piece_co(c, &piece, buffer);
        }
        if (ret < 0) {
            fail(c, ret, "reading", piece.offset);
            break;
        }
        wait_turn_co(c, &piece);
        if (c->err) {
            break;
        }
        ret = copies ? copy_piece_co(c, &piece, buffer) : write_piece_co(c, &piece, buffer);
        if (ret < 0) {
            fail(c, ret, "writing", piece.offset);
            break;
        }
        if (piece.data && !piece.skip) {
            img_pace_co(&c->pace, piece.bytes);
        }
        c->write_turn = piece.offset + piece.bytes;
        co_queue_wake_all(&c->turns);
        if (!c->total_data || piece.data) {
            c->done += piece.bytes;
            img_progress(&c->o, c->done, c->total_data ? c->total_data : c->total);
        }
    }
    free(buffer);
    co_queue_wake_all(&c->turns);
    if (--c->running == 0) {
        co_queue_wake_all(&c->finished);
    }
}

/* Progress is told of the data: holes are no work. Where the status cannot be read, of everything; who saves a disk is told where. */
static void count_data_co(Convert *c)
{
    uint64_t data = 0;
    for (uint64_t at = 0; (c->o.progress || c->salvage) && at < c->total;) {
        uint64_t inside, left;
        BlockNode *node = source_at(c, at, &inside);
        BlockStatus status;
        unsigned depth;
        left = MIN(node->size - inside, c->total - at);
        int ret = status_co(c, node, inside, &left, &status, &depth);
        if (ret < 0) {
            if (!c->salvage) {
                return;
            }
            warn_status(c, at, ret);
            status = (BlockStatus) { .flags = STATUS_DATA, .bytes = left };
        }
        data += (status.flags & STATUS_DATA) && !(status.flags & STATUS_ZERO) ? status.bytes : 0;
        at += status.bytes;
    }
    c->total_data = data;
}

static Error *copy_co(Convert *c)
{
    count_data_co(c);
    co_queue_init(&c->turns);
    co_queue_init(&c->finished);
    c->running = c->coroutines;
    img_progress(&c->o, 0, MAX(c->total, 1));
    for (unsigned i = 0; i < c->coroutines; i++) {
        co_start(co_loop(), worker_co, c);
    }
    while (c->running) {
        co_queue_wait(&c->finished);
    }
    return c->err;
}

/* --- source and target --- */

static Error *open_sources_co(Convert *c)
{
    unsigned count = (unsigned)c->o.arg_count - 1;
    g_autoptr(KeyValues) more = keyvalues_new();
    TRY(img_snapshot_option(c->snapshot, more));
    if (count > MAX_SOURCES) {
        return error_new("Too many source images (at most %d)", MAX_SOURCES);
    }
    if (c->backing && count > 1) {
        return error_new("Having a backing file for the target makes no sense when concatenating "
                         "multiple input images");
    }
    for (unsigned i = 0; i < count; i++) {
        TRY(img_open_with_co(&c->o, c->o.args[i], c->o.format, 0, c->o.src_cache, c->o.image_opts,
                             more, &c->sources[i]));
        c->source_count++;
        if (i + 1 < count && c->sources[i].node->size == 0) {
            return error_new("'%s' is empty", c->o.args[i]);
        }
        c->total += c->sources[i].node->size;
    }
    return NULL;
}

static Error *create_target_co(Convert *c, const char *filename)
{
    const BlockDriver *driver;
    g_autofree char *size = g_strdup_printf("%" PRIu64, ALIGN_UP(c->total, 512));
    const char *format = c->o.out_format ? c->o.out_format : "raw";

    driver = block_driver_find(format);
    if (!driver) {
        return error_new("Unknown file format '%s'", format);
    }
    if (!driver->create_options || !driver->create_co) {
        return error_new("Format driver '%s' does not support image creation", format);
    }
    TRY(img_check_create_options(driver, c->opts));
    if (c->compress && !(driver->write_flags & REQ_COMPRESSED)) {
        return error_new("Compression not supported for this file format");
    }
    const char *prealloc = keyvalues_get(c->opts, "preallocation"), *encryption = keyvalues_get(c->opts, "encryption");
    if (c->compress && (keyvalues_has(c->opts, "encrypt.format") || (encryption && !strcmp(encryption, "on")))) {
        return error_new("An image cannot be compressed and encrypted: leave out one of them");
    }
    if (c->compress && prealloc && strcmp(prealloc, "off")) {
        return error_new("Compressed clusters cannot be preallocated: leave out -c or preallocation");
    }
    if (c->backing) {
        if (!c->backing_format && !keyvalues_has(c->opts, "backing_fmt")) {
            return error_new("Use of backing file requires explicit backing format");
        }
        keyvalues_set(c->opts, "backing_file", c->backing);
        if (c->backing_format) {
            keyvalues_set(c->opts, "backing_fmt", c->backing_format);
        }
    } else if (keyvalues_has(c->opts, "backing_file")) {
        c->backing = keyvalues_get(c->opts, "backing_file");
    }
    if (!keyvalues_has(c->opts, "size")) {
        keyvalues_set(c->opts, "size", size);
    }
    Error *err = block_create_co(c->o.graph, filename, driver, c->opts);
    return err ? error_prefix(err, "%s: the new image of format %s could not be made: ",
                                   filename, format) : NULL;
}

/* What opens the image that was made with these options. */
static KeyValues *key_secrets(const KeyValues *opts)
{
    KeyValues *more = keyvalues_new();
    for (guint i = 0; i < opts->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(opts->items, i);
        if (!strcmp(item->key, "key-secret") || !strcmp(item->key, "encrypt.key-secret")) {
            keyvalues_set(more, item->key, item->value);
        }
    }
    return more;
}

/* Whether a new image says that it reads as zeroes, wherever it lies. */
static bool shows_zeroes_co(BlockNode *node)
{
    enum { RUNS = 64 }; /* what has more is not asked further */
    uint64_t at = 0;
    for (unsigned i = 0; i < RUNS && at < node->size; i++) {
        BlockStatus status;
        unsigned depth;
        if (node_status_above_co(node, NULL, at, node->size - at, &status, &depth) < 0 || !(status.flags & STATUS_ZERO)) {
            return false;
        }
        at += status.bytes;
    }
    return at >= node->size;
}

static Error *open_target_co(Convert *c)
{
    const char *filename = c->o.args[c->o.arg_count - 1];
    /* A target that is not whole yet is worth nothing after a crash, so nothing is flushed until
     * the end. */
    unsigned flags = OPEN_WRITE;

    if (!c->no_create) {
        TRY(create_target_co(c, filename));
    }
    if (!c->o.cache) {
        flags |= OPEN_NO_FLUSH;
    }
    const char *format = c->o.target_image_opts ? NULL : c->o.out_format ? c->o.out_format : "raw";
    g_autoptr(KeyValues) more = c->no_create ? NULL : key_secrets(c->opts);
    TRY(img_open_with_co(&c->o, filename, format, flags, c->o.cache, c->o.target_image_opts, more, &c->target));
    BlockNode *node = c->target.node;
    if (node->size < c->total) {
        return error_new("'%s' is smaller than the source: %" PRIu64
                         " bytes are needed, it has %" PRIu64,
                         filename, c->total, node->size);
    }
    c->compress |= node->limits.compressed_only;
    c->cluster = node->limits.cluster_size ? node->limits.cluster_size : 65536;
    if (c->compress && !(node->driver->write_flags & REQ_COMPRESSED)) {
        return error_new("Compression not supported for this file format");
    }
    c->target_zeroed = c->target_is_zero || (!c->no_create && !node->backing && c->sparse && !node->encrypted &&
                                             (node_storage(node)->driver->extends || shows_zeroes_co(node)));
    return NULL;
}

/* Before anything is made: whether they can be kept. */
static Error *check_bitmaps(Convert *c)
{
    const char *format = c->o.out_format ? c->o.out_format : "raw";
    const BlockDriver *driver = block_driver_find(format);
    if (!c->bitmaps) {
        return NULL;
    }
    if (driver && !driver->can_store_bitmap && !c->o.target_image_opts) {
        return error_new("Format driver '%s' does not support bitmaps", format);
    }
    return img_check_bitmaps(c->sources[0].node, c->skip_broken_bitmaps);
}

static Error *finish_co(Convert *c)
{
    BlockNode *node = c->target.node;
    if (node->size > c->total && !c->target_zeroed && !c->no_create) {
        int ret = node_write_zeroes_co(node, c->total, node->size - c->total, REQ_MAY_UNMAP);
        if (ret < 0) {
            return error_new_errno(ret, "error while writing at byte %" PRIu64, c->total);
        }
    }
    int ret = node_flush_co(node);
    if (ret < 0) {
        return error_new_errno(ret, "error while writing");
    }
    return c->bitmaps ? img_copy_bitmaps(c->sources[0].node, node, c->skip_broken_bitmaps) : NULL;
}

static int convert_co(void *opaque)
{
    Convert *c = opaque;
    Error *err = open_sources_co(c);
    if (!err) {
        err = check_bitmaps(c);
    }
    if (!err) {
        err = open_target_co(c);
    }
    if (!err) {
        err = copy_co(c);
    }
    if (!err) {
        err = finish_co(c);
    }
    bool copied = !err;
    if (c->target.node) {
        img_close_co(&c->target);
    }
    for (unsigned i = 0; i < c->source_count; i++) {
        img_close_co(&c->sources[i]);
    }
    if (copied) {
        img_progress_end(&c->o);
    }
    return img_result(err);
}

int img_convert(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS, IMG_LONG_PROGRESS,
        IMG_LONG_IMAGE_OPTS,
        IMG_LONG_FORCE_SHARE,
        { "target-image-opts", no_argument, NULL, LONG_TARGET_IMAGE_OPTS },
        { "salvage", no_argument, NULL, LONG_SALVAGE },
        { "target-is-zero", no_argument, NULL, LONG_TARGET_IS_ZERO },
        { "bitmaps", no_argument, NULL, LONG_BITMAPS },
        { "skip-broken-bitmaps", no_argument, NULL, LONG_SKIP_BROKEN },
        { 0 }
    };
    g_autoptr(KeyValues) opts = keyvalues_new();
    g_autofree Convert *c = g_new0(Convert, 1);
    ImgParser parser = { command, ":hf:O:B:F:cCo:l:S:pt:T:qnm:r:WU", longs, convert_option, c };

    c->opts = opts;
    c->sparse = 4096;
    c->coroutines = 8;
    int done = img_parse(&parser, graph, &c->o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (opts->help) {
        return img_result(img_print_create_options(c->o.out_format, c->o.arg_count ? c->o.args[c->o.arg_count - 1] : NULL));
    }
    if (c->o.arg_count < 1) {
        return img_result(error_new("Give the images to read and the one to write"));
    }
    if (c->o.arg_count < 2) {
        return img_result(error_new("Must specify the name of the target image"));
    }
    if (c->target_is_zero && !c->no_create) {
        return img_result(error_new("--target-is-zero speaks of an image that exists: it needs -n"));
    }
    if (c->o.target_image_opts && !c->no_create) {
        return img_result(error_new("--target-image-opts describes an image that exists: it needs "
                                    "-n"));
    }
    if (c->copy_range && (c->compress || c->sparse_given)) { /* iotests compare it */
        return img_result(error_new("Cannot enable copy offloading when -%c is used", c->sparse_given ? 'S' : 'c'));
    }
    if (c->copy_range && c->salvage) { /* likewise */
        return img_result(error_new("Cannot use copy offloading in salvaging mode"));
    }
    if (c->skip_broken_bitmaps && !c->bitmaps) {
        return img_result(error_new("--skip-broken-bitmaps chooses among bitmaps: it needs "
                                    "--bitmaps"));
    }
    if (c->bitmaps && c->o.arg_count > 2) { /* iotests compare it */
        return img_result(error_new("--bitmaps copies from one image, not from several"));
    }
    if (c->backing && c->no_create) {
        return img_result(error_new("-B cannot be used with -n"));
    }
    return img_run(graph, convert_co, c);
}
