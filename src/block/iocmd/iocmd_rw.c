/* qemu-io commands: read, write, readv, writev, discard, flush. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/iocmd/iocmd_priv.h"

typedef struct IoRange {
    uint64_t offset, bytes;
} IoRange;

static bool parse_range(IoSession *io, const IoArgs *args, uint64_t limit, const char *hint,
                        IoRange *ret)
{
    IoRange range;
    if (!io_parse_number(io, args->text[0], &range.offset) ||
        !io_parse_number(io, args->text[1], &range.bytes)) {
        return false;
    }
    if (range.bytes > limit) {
        io_printf(io, "length cannot exceed %" PRIu64 "%s, given %s\n", limit, hint, args->text[1]);
        return false;
    }
    *ret = range;
    return true;
}

static int failed(IoSession *io, const char *what, int ret)
{
    io_printf(io, "%s failed: %s\n", what, strerror(-ret));
    return ret;
}

static void report(IoSession *io, const IoArgs *args, const char *verb, IoRange range,
                   int64_t start)
{
    if (!args->flag['q']) {
        io_report(io, &(IoReport) { .verb = verb,
                                    .offset = range.offset,
                                    .asked = range.bytes,
                                    .done = range.bytes,
                                    .start = start,
                                    .machine = args->flag['C'] });
    }
}

/* --- read --- */

typedef struct Verify {
    bool wanted;
    uint8_t pattern;
    uint64_t from, bytes;
} Verify;

static int parse_verify(IoSession *io, const IoCommand *c, const IoArgs *args, uint64_t bytes,
                        Verify *ret)
{
    Verify v = { .wanted = args->flag['P'] };
    if ((args->flag['l'] || args->flag['s']) && !v.wanted) {
        return io_usage(io, c);
    }
    if (v.wanted && !io_parse_pattern(io, args->value['P'], &v.pattern)) {
        return -EINVAL;
    }
    if ((args->flag['s'] && !io_parse_number(io, args->value['s'], &v.from)) ||
        (args->flag['l'] && !io_parse_number(io, args->value['l'], &v.bytes))) {
        return -EINVAL;
    }
    if (!args->flag['l']) {
        v.bytes = bytes - MIN(v.from, bytes);
    }
    if (v.from > bytes || v.bytes > bytes - v.from) {
        io_printf(io, "pattern verification range exceeds end of read data\n");
        return -EINVAL;
    }
    *ret = v;
    return 0;
}

static bool is_aligned(IoSession *io, const char *what, uint64_t value)
{
    if (IS_ALIGNED(value, 512)) {
        return true;
    }
    io_printf(io, "%" PRIu64 " is not a sector-aligned value for '%s'\n", value, what);
    return false;
}

static int read_range_co(IoSession *io, IoRange range, uint8_t *buffer, bool vm_state)
{
    if (vm_state) {
        return io->node->driver->vmstate_pread_co
                   ? io->node->driver->vmstate_pread_co(io->node, range.offset, range.bytes, buffer)
                   : -ENOTSUP;
    }
    int ret = io_check_range(io, range.offset, range.bytes);
    return ret < 0 ? ret : node_pread_co(io->node, range.offset, range.bytes, buffer);
}

static int show_read(IoSession *io, const IoArgs *args, const Verify *v, IoRange range,
                     const uint8_t *buffer, int64_t start)
{
    int ret = 0;
    if (v->wanted &&
        !io_verify(io, buffer + v->from, v->pattern, range.offset + v->from, (size_t)v->bytes)) {
        ret = -EINVAL;
    }
    if (args->flag['v'] && !args->flag['q']) {
        io_dump(io, buffer, range.offset, (size_t)range.bytes);
    }
    report(io, args, "read", range, start);
    return ret;
}

static int read_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    bool vm_state = args->flag['b'];
    IoRange range;
    Verify verify;

    if (!parse_range(io, args, IO_MAX_LENGTH, "", &range)) {
        return -EINVAL;
    }
    int ret = parse_verify(io, c, args, range.bytes, &verify);
    if (ret < 0) {
        return ret;
    }
    if (vm_state &&
        (!is_aligned(io, "offset", range.offset) || !is_aligned(io, "count", range.bytes))) {
        return -EINVAL;
    }
    uint8_t *buffer = io_buffer_new(io, (size_t)range.bytes, 0xab);
    if (!buffer) {
        return failed(io, "read", -ENOMEM);
    }
    int64_t start = io_now(io);
    ret = read_range_co(io, range, buffer, vm_state);
    ret = ret < 0 ? failed(io, "read", ret) : show_read(io, args, &verify, range, buffer, start);
    io_buffer_free(io, buffer);
    return ret;
}

/* --- write --- */

static int check_write_flags(IoSession *io, const IoArgs *args)
{
    const bool *f = args->flag;
    const char *wrong = NULL;

    if (f['b'] && f['z']) {
        wrong = "-b and -z cannot be specified at the same time";
    } else if (f['f'] && (f['b'] || f['c'])) {
        wrong = "-f and -b or -c cannot be specified at the same time";
    } else if (f['n'] && !f['z']) {
        wrong = "-n requires -z to be specified";
    } else if (f['u'] && !f['z']) {
        wrong = "-u requires -z to be specified";
    } else if (f['z'] + f['P'] + f['s'] > 1) {
        wrong = "Only one of -z, -P, and -s can be specified at the same time";
    }
    if (wrong) {
        io_printf(io, "%s\n", wrong);
        return -EINVAL;
    }
    return 0;
}

/* The file's contents over and over. */
static bool fill_from_file(IoSession *io, const char *path, uint8_t *buffer, size_t bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        io_complain(io, "%s: %s\n", path, strerror(errno));
        return false;
    }
    size_t got = fread(buffer, 1, bytes, file);
    bool error = ferror(file) != 0;
    fclose(file);
    if (error || (!got && bytes)) {
        io_complain(io, error ? "%s: could not be read\n" : "%s: file is empty\n", path);
        return false;
    }
    for (size_t at = got; at < bytes; at += got) {
        memcpy(buffer + at, buffer, MIN(got, bytes - at));
    }
    return true;
}

static unsigned request_flags(const IoSession *io, const IoArgs *args)
{
    bool through = io->opening && io->opening->writethrough;
    return (args->flag['f'] || through ? REQ_FUA : 0) | (args->flag['u'] ? REQ_MAY_UNMAP : 0) |
           (args->flag['n'] ? REQ_NO_FALLBACK : 0);
}

static int write_range_co(IoSession *io, const IoArgs *args, IoRange range, const uint8_t *buffer)
{
    if (args->flag['b']) {
        return io->node->driver->vmstate_pwrite_co
                   ? io->node->driver->vmstate_pwrite_co(io->node, range.offset, range.bytes,
                                                         buffer)
                   : -ENOTSUP;
    }
    int ret = io_check_range(io, range.offset, range.bytes);
    if (ret < 0) {
        return ret;
    }
    if (args->flag['z']) {
        return node_write_zeroes_co(io->node, range.offset, range.bytes, request_flags(io, args));
    }
    if (args->flag['c']) {
        return node_pwrite_co(io->node, range.offset, range.bytes, buffer, REQ_COMPRESSED);
    }
    return node_pwrite_co(io->node, range.offset, range.bytes, buffer, request_flags(io, args));
}

static int write_data_co(IoSession *io, const IoArgs *args, IoRange range, uint8_t pattern)
{
    uint8_t *buffer = NULL;
    if (!args->flag['z']) {
        buffer = io_buffer_new(io, (size_t)range.bytes, pattern);
        if (!buffer) {
            return failed(io, "write", -ENOMEM);
        }
        if (args->flag['s'] && !fill_from_file(io, args->value['s'], buffer, (size_t)range.bytes)) {
            io_buffer_free(io, buffer);
            return -EINVAL;
        }
    }
    int64_t start = io_now(io);
    int ret = write_range_co(io, args, range, buffer);
    io_buffer_free(io, buffer);
    if (ret < 0) {
        return failed(io, "write", ret);
    }
    report(io, args, "wrote", range, start);
    return 0;
}

static int write_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    uint8_t pattern = 0xcd;
    IoRange range;

    int ret = check_write_flags(io, args);
    if (ret < 0) {
        return ret;
    }
    if (args->flag['P'] && !io_parse_pattern(io, args->value['P'], &pattern)) {
        return -EINVAL;
    }
    bool large = args->flag['z'] && args->flag['n'];
    if (!parse_range(io, args, large ? (uint64_t)INT64_MAX & ~511ull : IO_MAX_LENGTH,
                     args->flag['z'] && !large ? " without -n" : "", &range)) {
        return -EINVAL;
    }
    if ((args->flag['b'] || args->flag['c']) &&
        (!is_aligned(io, "offset", range.offset) || !is_aligned(io, "count", range.bytes))) {
        return -EINVAL;
    }
    return write_data_co(io, args, range, pattern);
}

/* --- readv, writev --- */

typedef struct IoVector {
    IoRange range;
    struct iovec *iov;
    unsigned count;
    uint8_t *buffer, pattern;
} IoVector;

static int vector_init(IoSession *io, const IoArgs *args, uint8_t fill, IoVector *v)
{
    *v = (IoVector) { .count = args->count - 1, .pattern = fill };
    if (args->flag['P'] && !io_parse_pattern(io, args->value['P'], &v->pattern)) {
        return -EINVAL;
    }
    if (!io_parse_number(io, args->text[0], &v->range.offset)) {
        return -EINVAL;
    }
    v->iov = io_parse_lengths(io, args->text + 1, v->count, &v->range.bytes);
    if (!v->iov) {
        return -EINVAL;
    }
    v->buffer = io_buffer_new(io, (size_t)v->range.bytes, fill == 0xcd ? v->pattern : fill);
    if (!v->buffer) {
        g_free(v->iov);
        return -ENOMEM;
    }
    io_lay_out(v->iov, v->count, v->buffer);
    return 0;
}

static void vector_fini(IoSession *io, IoVector *v)
{
    io_buffer_free(io, v->buffer);
    g_free(v->iov);
}

static int readv_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    IoVector v;
    int ret = vector_init(io, args, 0xab, &v);
    if (ret < 0) {
        return ret;
    }
    BlockVec vec = { .iov = v.iov, .count = v.count };
    int64_t start = io_now(io);
    ret = io_check_range(io, v.range.offset, v.range.bytes);
    if (!ret) {
        ret = node_preadv_co(io->node, v.range.offset, v.range.bytes, &vec, 0);
    }
    if (ret < 0) {
        failed(io, "readv", ret);
    } else {
        Verify verify = { args->flag['P'], v.pattern, 0, v.range.bytes };
        ret = show_read(io, args, &verify, v.range, v.buffer, start);
    }
    vector_fini(io, &v);
    return ret;
}

static int writev_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    IoVector v;
    int ret = vector_init(io, args, 0xcd, &v);
    if (ret < 0) {
        return ret;
    }
    BlockVec vec = { .iov = v.iov, .count = v.count };
    int64_t start = io_now(io);
    ret = io_check_range(io, v.range.offset, v.range.bytes);
    if (!ret) {
        ret = node_pwritev_co(io->node, v.range.offset, v.range.bytes, &vec, 0,
                              request_flags(io, args));
    }
    if (ret < 0) {
        failed(io, "writev", ret);
    } else {
        report(io, args, "wrote", v.range, start);
    }
    vector_fini(io, &v);
    return ret;
}

/* --- discard, flush --- */

static int discard_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    IoRange range;
    if (!parse_range(io, args, IO_MAX_LENGTH, "", &range)) {
        return -EINVAL;
    }
    int64_t start = io_now(io);
    int ret = io_check_range(io, range.offset, range.bytes);
    if (!ret) {
        ret = node_discard_co(io->node, range.offset, range.bytes);
    }
    if (ret < 0) {
        return failed(io, "discard", ret);
    }
    report(io, args, "discard", range, start);
    return 0;
}

static int flush_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    return node_flush_co(io->node); /* the exit code says it; scripts compare what is printed */
}

#define HELP_REPORT                                                                                \
    " -C, -- statistics in a form for machines\n"                                                  \
    " -q, -- no statistics\n"

const IoCommand io_commands_rw[] = {
    { "read", "r", "abCl:pP:qrs:v", 2, IO_UNLIMITED,
      "[-abCqv] [-P pattern [-s off] [-l len]] off len",
      "read some bytes from an offset on",
      "\n Reads a range of the disk, and shows it with -v.\n\n"
      " Example:\n 'read -v 512 1k' - shows one kilobyte from byte 512 on\n\n"
      " -b, -- of the VM state instead of the disk\n"
      " -l, -- how many bytes are compared with the pattern\n"
      " -p, -- accepted, without effect\n"
      " -P, -- compare what was read with this byte\n"
      " -r, -- accepted: nothing wants to know buffers beforehand\n"
      " -s, -- where the comparison begins\n"
      " -v, -- show the data\n" HELP_REPORT "\n",
      read_co, .min_plain = 2, .max_plain = 2 },
    { "readv", NULL, "CqvP:", 2, IO_UNLIMITED, "[-Cqv] [-P pattern] off len [len..]",
      "read some bytes from an offset on",
      "\n Reads into as many buffers as there are lengths.\n\n"
      " Example:\n 'readv -v 512 1k 1k' - shows two kilobytes from byte 512 on\n\n"
      " -P, -- compare what was read with this byte\n"
      " -v, -- show the data\n" HELP_REPORT "\n",
      readv_co, .min_plain = 2 },
    { "write", "w", "bcCfnpP:qrs:uz", 2, IO_UNLIMITED,
      "[-bcCfnquz] [-P pattern | -s source_file] off len",
      "write some bytes from an offset on",
      "\n Writes a range of the disk, with the byte 0xcd unless told otherwise.\n\n"
      " Example:\n 'write 512 1k' - writes one kilobyte from byte 512 on\n\n"
      " -b, -- the VM state instead of the disk\n"
      " -c, -- compressed\n"
      " -f, -- on stable storage when it completes\n"
      " -n, -- with -z: fail rather than write zero bytes\n"
      " -p, -- accepted, without effect\n"
      " -P, -- fill with this byte\n"
      " -r, -- accepted: nothing wants to know buffers beforehand\n"
      " -s, -- fill with the contents of this file\n"
      " -u, -- with -z: the space may be freed\n"
      " -z, -- make the range read as zeroes\n" HELP_REPORT "\n",
      write_co, .claims = CLAIM_WRITE, .min_plain = 2, .max_plain = 2 },
    { "writev", NULL, "CfqP:", 2, IO_UNLIMITED, "[-Cfq] [-P pattern] off len [len..]",
      "write some bytes from an offset on",
      "\n Writes from as many buffers as there are lengths.\n\n"
      " Example:\n 'writev 512 1k 1k' - writes two kilobytes from byte 512 on\n\n"
      " -f, -- on stable storage when it completes\n"
      " -P, -- fill with this byte\n" HELP_REPORT "\n",
      writev_co, .claims = CLAIM_WRITE, .min_plain = 2 },
    { "discard", "d", "Cq", 2, IO_UNLIMITED, "[-Cq] off len",
      "discard some bytes from an offset on",
      "\n Tells the storage that a range is no longer needed.\n\n"
      " Example:\n 'discard 512 1k' - discards one kilobyte from byte 512 on\n\n" HELP_REPORT "\n",
      discard_co, .claims = CLAIM_WRITE, .min_plain = 2, .max_plain = 2 },
    { "flush", "f", NULL, 0, 0, NULL, "write to the disk all that is cached", NULL, flush_co },
    { 0 },
};
