/* qemu-img compare, commit, rebase. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "main/img/img.h"

enum { PIECE = 1 << 20 };

/* Whether the range of the chain reads as zeroes for sure; how far that, or the opposite, goes. */
static int zero_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, bool *ret_zero,
                          uint64_t *ret_run)
{
    BlockStatus status;
    unsigned depth;
    int ret = node_status_above_co(node, NULL, offset, bytes, &status, &depth);
    if (ret >= 0) {
        *ret_zero = (status.flags & STATUS_ZERO) != 0;
        *ret_run = status.bytes;
    }
    return ret;
}

/* --- compare --- */

typedef struct Compare {
    ImgOptions o;
    bool strict;
} Compare;

static Error *compare_option(void *opaque, int letter, const char *value)
{
    Compare *c = opaque;
    if (letter == 's') {
        c->strict = true;
    } else {
        c->o.out_format = value;
    }
    return NULL;
}

/* The first byte that differs, or `bytes`. */
static uint64_t first_difference(const char *a, const char *b, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += 512) {
        size_t part = (size_t)MIN(512, bytes - at);
        if (memcmp(a + at, b + at, part)) {
            while (a[at] == b[at]) {
                at++;
            }
            return at;
        }
    }
    return bytes;
}

static int mismatch(const Compare *c, uint64_t offset)
{
    if (!c->o.quiet) {
        printf("Content mismatch at offset %" PRIu64 "!\n", offset);
    }
    return 1;
}

static int io_failed(int ret, const char *filename, uint64_t offset)
{
    img_result(
        error_new_errno(ret, "Error while reading offset %" PRIu64 " of %s", offset, filename));
    return 4;
}

/* The second side, read while the first one is. */
typedef struct SideRead {
    BlockNode *node;
    uint64_t offset, bytes;
    char *buffer;
    int result;
    bool done;
    CoQueue ended;
} SideRead;

static void side_read_co(void *opaque)
{
    SideRead *side = opaque;
    side->result = node_pread_co(side->node, side->offset, side->bytes, side->buffer);
    side->done = true;
    co_queue_wake_all(&side->ended);
}

static void read_both_co(BlockNode *nodes[2], uint64_t offset, uint64_t bytes, char *buffers[2], int ret_results[2])
{
    SideRead side = { .node = nodes[1], .offset = offset, .bytes = bytes, .buffer = buffers[1] };
    co_queue_init(&side.ended);
    co_start(co_loop(), side_read_co, &side);
    ret_results[0] = node_pread_co(nodes[0], offset, bytes, buffers[0]);
    while (!side.done) {
        co_queue_wait(&side.ended);
    }
    ret_results[1] = side.result;
}

static int compare_range_co(Compare *c, BlockNode *a, BlockNode *b, uint64_t end, char *buffers[2])
{
    for (uint64_t at = 0; at < end;) {
        bool zero[2];
        uint64_t run[2], bytes = end - at;
        BlockNode *nodes[2] = { a, b };
        for (int i = 0; i < 2; i++) {
            int ret = zero_status_co(nodes[i], at, bytes, &zero[i], &run[i]);
            if (ret < 0) {
                return io_failed(ret, c->o.args[i], at);
            }
        }
        bytes = MIN(run[0], run[1]);
        if (c->strict && zero[0] != zero[1]) {
            if (!c->o.quiet) {
                printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", at);
            }
            return 1;
        }
        if (!(zero[0] && zero[1])) {
            bytes = MIN(bytes, PIECE);
            int results[2];
            read_both_co(nodes, at, bytes, buffers, results);
            for (int i = 0; i < 2; i++) {
                if (results[i] < 0) {
                    return io_failed(results[i], c->o.args[i], at);
                }
            }
            uint64_t same = first_difference(buffers[0], buffers[1], bytes);
            if (same < bytes) {
                return mismatch(c, at + same);
            }
        }
        at += bytes;
        img_progress(&c->o, at, end);
    }
    return 0;
}

/* What the longer image has beyond the other must be zeroes. */
static int compare_rest_co(Compare *c, BlockNode *longer, const char *name, uint64_t from, char *buffer)
{
    for (uint64_t at = from; at < longer->size;) {
        bool zero;
        uint64_t run;
        int ret = zero_status_co(longer, at, longer->size - at, &zero, &run);
        if (ret < 0) {
            return io_failed(ret, name, at);
        }
        if (!zero) {
            run = MIN(run, PIECE);
            ret = node_pread_co(longer, at, run, buffer);
            if (ret < 0) {
                return io_failed(ret, name, at);
            }
            for (uint64_t i = 0; i < run; i++) {
                if (buffer[i]) {
                    return mismatch(c, at + i);
                }
            }
        }
        at += run;
    }
    return 0;
}

static int compare_nodes_co(Compare *c, BlockNode *a, BlockNode *b)
{
    uint64_t common = MIN(a->size, b->size);
    char *buffers[2] = { malloc(PIECE), malloc(PIECE) };
    int code = 0;

    if (a->size != b->size && c->strict) {
        if (!c->o.quiet) {
            printf("Strict mode: Image size mismatch!\n");
        }
        code = 1;
    }
    if (!code) {
        code = compare_range_co(c, a, b, common, buffers);
    }
    if (!code && a->size != b->size) {
        if (!c->o.quiet) {
            printf("Warning: Image size mismatch!\n");
        }
        code = compare_rest_co(c, a->size > b->size ? a : b, c->o.args[a->size < b->size], common, buffers[0]);
    }
    if (!code && !c->o.quiet) {
        printf("Images are identical.\n");
    }
    free(buffers[0]);
    free(buffers[1]);
    return code;
}

static int compare_co(void *opaque)
{
    Compare *c = opaque;
    ImgDisk a, b;
    Error *err =
        img_open_co(&c->o, c->o.args[0], c->o.format, 0, c->o.src_cache, c->o.image_opts, &a);
    if (err) {
        img_result(err);
        return 2;
    }
    err = img_open_co(&c->o, c->o.args[1], c->o.out_format, 0, c->o.src_cache, c->o.image_opts, &b);
    if (err) {
        img_close_co(&a);
        img_result(err);
        return 2;
    }
    int code = compare_nodes_co(c, a.node, b.node);
    img_close_co(&a);
    img_close_co(&b);
    return code;
}

int img_compare(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS, IMG_LONG_PROGRESS, IMG_LONG_IMAGE_OPTS, IMG_LONG_FORCE_SHARE, { 0 }
    };
    Compare c = { 0 };
    ImgParser parser = { command, ":hf:F:T:pqsU", longs, compare_option, &c };

    int done = img_parse(&parser, graph, &c.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (c.o.arg_count != 2) {
        return img_usage_error(error_new("Give two images to compare"));
    }
    return img_run(graph, compare_co, &c);
}

/* --- copying what layers have --- */

/* Copies to `to` what is decided in the layers from `top` to, not including, `below` (NULL: all).
 */
static Error *copy_layers_co(const ImgOptions *o, BlockNode *top, BlockNode *below, BlockNode *to, ImgPace *pace)
{
    g_autofree char *buffer = g_malloc(PIECE);
    uint64_t end = MIN(top->size, to->size);

    for (uint64_t at = 0; at < end;) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(top, below, at, end - at, &status, &depth);
        uint64_t bytes = status.bytes;
        if (ret >= 0 && (status.flags & STATUS_ALLOCATED)) {
            if (status.flags & STATUS_ZERO) {
                ret = node_write_zeroes_co(to, at, bytes, REQ_MAY_UNMAP);
            } else {
                bytes = MIN(bytes, PIECE);
                ret = node_pread_co(top, at, bytes, buffer);
                if (ret >= 0) {
                    ret = node_pwrite_co(to, at, bytes, buffer, 0);
                }
                img_pace_co(pace, bytes);
            }
        }
        if (ret < 0) {
            return error_new_errno(ret, "Block job failed");
        }
        at += bytes;
        img_progress(o, at, end);
    }
    return NULL;
}

/* --- commit --- */

typedef struct Commit {
    ImgOptions o;
    const char *base;
    bool keep;
    ImgPace pace;
} Commit;

static Error *commit_option(void *opaque, int letter, const char *value)
{
    Commit *c = opaque;
    if (letter == 'b') {
        c->base = value;
        c->keep = true; /* the layers between would no longer fit */
    } else if (letter == 'd') {
        c->keep = true;
    } else if (letter == 'r') {
        return img_parse_rate(value, &c->pace);
    } else {
        return error_new("-%c is not supported", letter);
    }
    return NULL;
}

/* By the name that the overlay records, or by one that leads to the same file from where the overlay is. */
static bool is_backing(const BlockNode *overlay, const BlockNode *node, const char *name)
{
    if (!g_strcmp0(overlay->backing_filename, name)) {
        return true;
    }
    g_autofree char *path = block_resolve_backing(overlay->filename, name);
    char *wanted = realpath(path, NULL), *there = realpath(node->filename, NULL);
    bool same = wanted && there ? !strcmp(wanted, there) : !strcmp(path, node->filename);
    free(wanted);
    free(there);
    return same;
}

static Error *find_base(const Commit *c, BlockNode *top, BlockNode **ret_base)
{
    BlockNode *node = top->backing ? top->backing->node : NULL;
    if (!node) {
        return error_new("The image has no backing file to commit to");
    }
    for (BlockNode *overlay = top; c->base && node && !is_backing(overlay, node, c->base);) {
        overlay = node;
        node = node->backing ? node->backing->node : NULL;
    }
    if (!node) {
        return error_new("Did not find '%s' in the backing chain of '%s'", c->base, top->filename);
    }
    *ret_base = node;
    return NULL;
}

static Error *copy_to_base_co(Commit *c, BlockNode *top, BlockNode *base)
{
    BlockEdge *edge;

    /* What the layers above show does not change. */
    TRY(block_root_attach(base, "commit", CLAIM_READ | CLAIM_WRITE_UNCHANGED, CLAIM_ALL, &edge));
    Error *err = base->size < top->size ? node_truncate_co(base, top->size, PREALLOC_OFF) : NULL;
    if (!err) {
        err = copy_layers_co(&c->o, top, base, base, &c->pace);
    }
    int ret = err ? 0 : node_flush_co(base);
    block_root_detach(edge);
    return ret < 0 ? error_new_errno(ret, "Could not flush '%s'", base->filename) : err;
}

static Error *commit_into_co(Commit *c, ImgDisk *top, BlockNode *base)
{
    TRY(node_set_read_only_co(base, false));
    Error *err = copy_to_base_co(c, top->node, base);
    Error *back = node_set_read_only_co(base, true);
    if (err) {
        error_free(back);
        return err;
    }
    return back;
}

static Error *commit_steps_co(Commit *c, ImgDisk *top)
{
    BlockNode *base;
    TRY(find_base(c, top->node, &base));
    TRY(commit_into_co(c, top, base));
    if (!c->keep && top->node->driver->make_empty_co) {
        TRY(top->node->driver->make_empty_co(top->node));
    }
    return NULL;
}

static int commit_co(void *opaque)
{
    Commit *c = opaque;
    ImgDisk top;
    Error *err = img_open_co(&c->o, c->o.args[0], c->o.format, OPEN_WRITE, c->o.cache, c->o.image_opts, &top);
    if (err) {
        return img_result(err);
    }
    img_progress(&c->o, 0, 1);
    err = commit_steps_co(c, &top);
    img_close_co(&top);
    if (!err) {
        img_progress_end(&c->o);
        if (!c->o.quiet) {
            printf("Image committed.\n");
        }
    }
    return img_result(err);
}

int img_commit(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS, IMG_LONG_PROGRESS, IMG_LONG_IMAGE_OPTS, { 0 } };
    Commit c = { 0 };
    ImgParser parser = { command, ":hf:t:b:dpqr:", longs, commit_option, &c };

    int done = img_parse(&parser, graph, &c.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    return c.o.arg_count == 1 ? img_run(graph, commit_co, &c)
                              : img_usage_error(error_new("Expecting one image file name"));
}

/* --- rebase --- */

typedef struct Rebase {
    ImgOptions o;
    const char *backing, *backing_format;
    bool unsafe, compress;
} Rebase;

static Error *rebase_option(void *opaque, int letter, const char *value)
{
    Rebase *r = opaque;
    if (letter == 'b') {
        r->backing = value;
    } else if (letter == 'F') {
        r->backing_format = value;
    } else if (letter == 'c') {
        r->compress = true;
    } else {
        r->unsafe = true;
    }
    return NULL;
}

static int read_padded_co(BlockNode *node, uint64_t at, uint64_t bytes, char *buffer)
{
    if (!node) {
        memset(buffer, 0, (size_t)bytes);
        return 0;
    }
    return node_pread_co(node, at, bytes, buffer);
}

/* Where the image itself decides nothing and the old and new backing differ, it gets the old
 * contents. */
static Error *keep_contents_co(Rebase *r, BlockNode *node, BlockNode *old, BlockNode *new_backing)
{
    uint64_t step = r->compress ? node->limits.cluster_size : 65536, piece = MAX(PIECE, step);
    g_autofree char *was = g_malloc(piece), *will = g_malloc(piece);

    for (uint64_t at = 0; at < node->size;) {
        BlockStatus status;
        int ret = node_status_co(node, at, node->size - at, &status);
        uint64_t bytes = status.bytes;
        if (ret >= 0 && !(status.flags & STATUS_ALLOCATED)) {
            bytes = MIN(bytes, piece);
            ret = read_padded_co(old, at, bytes, was);
            if (ret >= 0) {
                ret = read_padded_co(new_backing, at, bytes, will);
            }
            for (uint64_t i = 0; ret >= 0 && i < bytes;) {
                uint64_t unit = MIN(step - (at + i) % step, bytes - i);
                bool whole = (at + i) % step == 0 && (unit == step || at + i + unit == node->size);
                if (memcmp(was + i, will + i, (size_t)unit)) {
                    bool nothing = !old || at + i >= old->size; /* what the old one wrote stays data */
                    ret = nothing
                              ? node_write_zeroes_co(node, at + i, unit, 0)
                              : node_pwrite_co(node, at + i, unit, was + i, r->compress && whole ? REQ_COMPRESSED : 0);
                }
                i += unit;
            }
        }
        if (ret < 0) {
            return error_new_errno(ret, "error while rebasing at byte %" PRIu64, at);
        }
        at += bytes;
        img_progress(&r->o, at, node->size);
    }
    return NULL;
}

static Error *rebase_safe_co(Rebase *r, BlockNode *node)
{
    ImgDisk new_backing = { 0 };
    if (r->backing && *r->backing) {
        g_autofree char *path = block_resolve_backing(node->filename, r->backing);
        Error *err =
            img_open_co(&r->o, path, r->backing_format, 0, r->o.src_cache, false, &new_backing);
        if (err) {
            return error_prefix(err, "The new backing file '%s' does not open: ", r->backing);
        }
    }
    Error *err =
        keep_contents_co(r, node, node->backing ? node->backing->node : NULL, new_backing.node);
    if (new_backing.node) {
        img_close_co(&new_backing);
    }
    int ret = err ? 0 : node_flush_co(node);
    return ret < 0 ? error_new_errno(ret, "Could not flush '%s'", node->filename) : err;
}

static Error *rebase_steps_co(Rebase *r, BlockNode *node)
{
    if (r->compress && !(node->driver->write_flags & REQ_COMPRESSED)) {
        return error_new("Compression not supported for this file format"); /* iotests compare it */
    }
    if (!node->driver->set_backing_co) {
        return error_new("Could not change the backing file to '%s': '%s' images have none",
                         r->backing, node->driver->name);
    }
    if (*r->backing && !r->backing_format) {
        return error_new("Could not change the backing file to '%s': backing format must be specified", r->backing);
    }
    if (r->backing_format && !block_driver_find(r->backing_format)) {
        return error_new("There is no image format '%s'", r->backing_format);
    }
    if (!r->unsafe) {
        TRY(rebase_safe_co(r, node));
    }
    Error *err = node->driver->set_backing_co(node, r->backing, r->backing_format);
    return err ? error_prefix(err, "Could not change the backing file to '%s': ", r->backing)
               : NULL;
}

static int rebase_co(void *opaque)
{
    Rebase *r = opaque;
    ImgDisk disk;
    Error *err = img_open_co(&r->o, r->o.args[0], r->o.format,
                             OPEN_WRITE | (r->unsafe ? OPEN_NO_BACKING : 0), r->o.cache,
                             r->o.image_opts, &disk);
    if (err) {
        return img_result(err);
    }
    img_progress(&r->o, 0, 1);
    err = rebase_steps_co(r, disk.node);
    img_close_co(&disk);
    if (!err) {
        img_progress_end(&r->o);
    }
    return img_result(err);
}

int img_rebase(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS, IMG_LONG_PROGRESS, IMG_LONG_IMAGE_OPTS, IMG_LONG_FORCE_SHARE, { "compress", no_argument, NULL, 'c' }, { 0 }
    };
    Rebase r = { 0 };
    ImgParser parser = { command, ":hf:F:b:ucpt:T:qU", longs, rebase_option, &r };

    int done = img_parse(&parser, graph, &r.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (r.o.arg_count != 1) {
        return img_usage_error(error_new("Expecting one image file name"));
    }
    if (!r.backing) {
        return img_usage_error(error_new("Use backing file (-b) option"));
    }
    return img_run(graph, rebase_co, &r);
}
