/* qemu-img dd: a part of an image to a new one, in blocks. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "main/img/img.h"

typedef struct Dd {
    ImgOptions o;
    const char *in, *out;
    uint64_t block, count, skip;
    bool count_set;
} Dd;

static Error *dd_option(void *opaque, int letter, const char *value)
{
    Dd *dd = opaque;
    dd->o.out_format = value;
    return NULL;
}

static Error *dd_number(const char *key, const char *value, uint64_t *ret)
{
    Error *err = img_parse_size(value, ret);
    if (err) {
        error_free(err);
        return error_new("invalid number: '%s' (of '%s')", value, key);
    }
    return NULL;
}

static Error *dd_operand(Dd *dd, const char *text)
{
    const char *eq = strchr(text, '=');
    if (!eq) {
        return error_new("unrecognized operand %s", text);
    }
    g_autofree char *key = g_strndup(text, (gsize)(eq - text));
    const char *value = eq + 1;
    if (!strcmp(key, "if")) {
        dd->in = value;
    } else if (!strcmp(key, "of")) {
        dd->out = value;
    } else if (!strcmp(key, "bs")) {
        TRY(dd_number(key, value, &dd->block));
        if (!dd->block || dd->block > INT32_MAX) {
            return error_new("invalid number: '%s' (bs is 1 to %d)", value, INT32_MAX);
        }
    } else if (!strcmp(key, "count")) {
        TRY(dd_number(key, value, &dd->count));
        dd->count_set = true;
    } else if (!strcmp(key, "skip")) {
        TRY(dd_number(key, value, &dd->skip));
    } else {
        return error_new("unrecognized operand %s", text);
    }
    return NULL;
}

static Error *dd_copy_co(Dd *dd, BlockNode *in, BlockNode *out, uint64_t from, uint64_t bytes)
{
    size_t size = (size_t)dd->block;
    char *buffer = aligned_alloc(4096, ALIGN_UP(size, 4096));
    Error *err = buffer ? NULL : error_new("Not enough memory for blocks of %zu bytes", size);

    for (uint64_t at = 0; at < bytes && !err; at += size) {
        uint64_t part = MIN(size, bytes - at);
        int ret = node_pread_co(in, from + at, part, buffer);
        if (ret < 0) {
            err = error_new_errno(ret, "error while reading from input image file");
            break;
        }
        ret = node_pwrite_co(out, at, part, buffer, 0);
        if (ret < 0) {
            err = error_new_errno(ret, "error while writing to output image file");
        }
    }
    free(buffer);
    return err;
}

static Error *dd_create_co(Dd *dd, uint64_t size, ImgDisk *ret_out)
{
    const char *format = dd->o.out_format ? dd->o.out_format : "raw";
    const BlockDriver *driver;
    g_autoptr(KeyValues) opts = keyvalues_new();
    g_autofree char *text = g_strdup_printf("%" PRIu64, size);

    TRY(block_driver_lookup(format, &driver));
    keyvalues_set(opts, "size", text);
    TRY(block_create_co(dd->o.graph, dd->out, driver, opts));
    return img_open_co(&dd->o, dd->out, format, OPEN_WRITE | OPEN_NO_BACKING, NULL, false, ret_out);
}

static int dd_co(void *opaque)
{
    Dd *dd = opaque;
    ImgDisk in = { 0 }, out = { 0 };
    Error *err =
        img_open_co(&dd->o, dd->in, dd->o.format, 0, NULL, dd->o.image_opts, &in);
    if (err) {
        return img_result(err);
    }
    uint64_t size = in.node->size, from = dd->skip > size / dd->block ? size : dd->skip * dd->block;
    uint64_t bytes = size - from;
    if (dd->skip * dd->block > size) {
        warn_report("%s: ends before the offset of skip=", dd->in);
    }
    if (dd->count_set && dd->count <= bytes / dd->block) {
        bytes = dd->count * dd->block;
    }
    err = dd_create_co(dd, bytes, &out);
    if (!err) {
        err = dd_copy_co(dd, in.node, out.node, from, bytes);
    }
    if (out.node) {
        img_close_co(&out);
    }
    img_close_co(&in);
    return img_result(err);
}

int img_dd(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS, IMG_LONG_IMAGE_OPTS, IMG_LONG_FORCE_SHARE, { 0 }
    };
    Dd dd = { .block = 512 };
    ImgParser parser = { command, ":hf:O:U", longs, dd_option, &dd };

    int done = img_parse(&parser, graph, &dd.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    for (int i = 0; i < dd.o.arg_count; i++) {
        Error *err = dd_operand(&dd, dd.o.args[i]);
        if (err) {
            return img_result(err);
        }
    }
    if (!dd.in || !dd.out) {
        return img_result(error_new("Must specify both input and output file names"));
    }
    return img_run(graph, dd_co, &dd);
}
