/* qemu-io commands: requests that run beside the following commands. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/iocmd/iocmd_priv.h"

typedef struct IoAio {
    IoSession *io;
    bool write, zeroes, quiet, verbose, verify;
    uint8_t pattern;
    uint64_t offset, bytes;
    unsigned flags, count;
    struct iovec *iov;
    uint8_t *buffer;
    IoReport report;
} IoAio;

static void aio_free(IoAio *aio)
{
    io_buffer_free(aio->io, aio->buffer);
    g_free(aio->iov);
    g_free(aio);
}

static int aio_request_co(IoAio *aio)
{
    BlockNode *node = aio->io->node;
    BlockVec vec = { .iov = aio->iov, .count = aio->count };
    int ret = io_check_range(aio->io, aio->offset, aio->bytes);

    if (ret < 0) {
        return ret;
    }
    if (aio->zeroes) {
        return node_write_zeroes_co(node, aio->offset, aio->bytes, aio->flags);
    }
    return aio->write ? node_pwritev_co(node, aio->offset, aio->bytes, &vec, 0, aio->flags)
                      : node_preadv_co(node, aio->offset, aio->bytes, &vec, 0);
}

static void aio_show(IoAio *aio, int ret)
{
    IoSession *io = aio->io;
    if (ret < 0) {
        io_printf(io, "%s failed: %s\n", aio->write ? "aio_write" : "readv", strerror(-ret));
        return;
    }
    if (aio->verify) {
        io_verify(io, aio->buffer, aio->pattern, aio->offset, (size_t)aio->bytes);
    }
    if (aio->quiet) {
        return;
    }
    if (aio->verbose) {
        io_dump(io, aio->buffer, aio->offset, (size_t)aio->bytes);
    }
    io_report(io, &aio->report);
}

static void aio_co(void *opaque)
{
    IoAio *aio = opaque;
    IoSession *io = aio->io;

    aio_show(aio, aio_request_co(aio));
    aio_free(aio);
    if (--io->in_flight == 0) {
        co_queue_wake_all(&io->idle);
    }
}

static int aio_start(IoAio *aio)
{
    IoSession *io = aio->io;
    aio->report.offset = aio->offset;
    aio->report.asked = aio->report.done = aio->bytes;
    aio->report.start = io_now(io);
    io->in_flight++;
    co_start(block_graph_loop(io->graph), aio_co, aio);
    return 0;
}

static IoAio *aio_new(IoSession *io, const IoArgs *args, bool write)
{
    IoAio *aio = g_new0(IoAio, 1);
    aio->io = io;
    aio->write = write;
    aio->quiet = args->flag['q'];
    aio->report.machine = args->flag['C'];
    aio->report.verb = write ? "wrote" : "read";
    return aio;
}

/* Lengths and their buffer. */
static int aio_set_data(IoAio *aio, const IoArgs *args, uint8_t fill)
{
    aio->count = args->count - 1;
    aio->iov = io_parse_lengths(aio->io, args->text + 1, aio->count, &aio->bytes);
    if (!aio->iov) {
        return -EINVAL;
    }
    aio->buffer = io_buffer_new(aio->io, (size_t)aio->bytes, fill);
    if (!aio->buffer) {
        return -ENOMEM;
    }
    io_lay_out(aio->iov, aio->count, aio->buffer);
    return 0;
}

static int aio_read_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    if (args->flag['i']) {
        io_printf(io, "injecting invalid read request\n");
        return 0;
    }
    IoAio *aio = aio_new(io, args, false);
    aio->verify = args->flag['P'];
    aio->verbose = args->flag['v'];
    if ((aio->verify && !io_parse_pattern(io, args->value['P'], &aio->pattern)) ||
        !io_parse_number(io, args->text[0], &aio->offset) || aio_set_data(aio, args, 0xab) < 0) {
        aio_free(aio);
        return -EINVAL;
    }
    return aio_start(aio);
}

static int aio_write_flags(IoAio *aio, const IoArgs *args)
{
    const char *wrong = NULL;
    if (args->flag['u'] && !args->flag['z']) {
        wrong = "-u requires -z to be specified";
    } else if (args->flag['z'] && args->count != 2) {
        wrong = "-z supports only a single length parameter";
    } else if (args->flag['z'] && args->flag['P']) {
        wrong = "-z and -P cannot be specified at the same time";
    }
    if (wrong) {
        io_printf(aio->io, "%s\n", wrong);
        return -EINVAL;
    }
    bool through = aio->io->opening && aio->io->opening->writethrough;
    aio->zeroes = args->flag['z'];
    aio->flags = (args->flag['f'] || through ? REQ_FUA : 0) | (args->flag['u'] ? REQ_MAY_UNMAP : 0);
    aio->pattern = 0xcd;
    if (args->flag['P'] && !io_parse_pattern(aio->io, args->value['P'], &aio->pattern)) {
        return -EINVAL;
    }
    if (!io_parse_number(aio->io, args->text[0], &aio->offset)) {
        return -EINVAL;
    }
    if (aio->zeroes) {
        return io_parse_number(aio->io, args->text[1], &aio->bytes) ? 0 : -EINVAL;
    }
    return aio_set_data(aio, args, aio->pattern);
}

static int aio_write_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    if (args->flag['i']) {
        io_printf(io, "injecting invalid write request\n");
        return 0;
    }
    IoAio *aio = aio_new(io, args, true);
    if (aio_write_flags(aio, args) < 0) {
        aio_free(aio);
        return -EINVAL;
    }
    return aio_start(aio);
}

static int aio_flush_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    while (io->in_flight) {
        co_queue_wait(&io->idle);
    }
    return 0;
}

#define HELP_BESIDE                                                                                \
    " The request runs beside the next commands; aio_flush waits for it. Submitting it is all\n"   \
    " that this command can succeed or fail at.\n\n"                                               \
    " -C, -- statistics in a form for machines\n"                                                  \
    " -i, -- submit something invalid instead\n"                                                   \
    " -q, -- no statistics\n"

const IoCommand io_commands_aio[] = {
    { "aio_read", NULL, "CiqvP:", 2, IO_UNLIMITED, "[-Ciqv] [-P pattern] off len [len..]",
      "start reading and do not wait for the end",
      "\n Reads into as many buffers as there are lengths.\n\n"
      " Example:\n 'aio_read -v 512 1k 1k' - shows two kilobytes from byte 512 on\n\n" HELP_BESIDE
      " -P, -- compare what was read with this byte\n"
      " -v, -- show the data\n\n",
      aio_read_co, .min_plain = 2 },
    { "aio_write", NULL, "CfiquzP:", 2, IO_UNLIMITED, "[-Cfiquz] [-P pattern] off len [len..]",
      "start writing and do not wait for the end",
      "\n Writes from as many buffers as there are lengths.\n\n"
      " Example:\n 'aio_write 512 1k 1k' - writes two kilobytes from byte 512 on\n\n" HELP_BESIDE
      " -f, -- on stable storage when it completes\n"
      " -P, -- fill with this byte\n"
      " -u, -- with -z: the space may be freed\n"
      " -z, -- make the range read as zeroes\n\n",
      aio_write_co, .claims = CLAIM_WRITE, .min_plain = 2 },
    { "aio_flush", NULL, NULL, 0, 0, NULL, "wait for all aio requests that are under way", NULL,
      aio_flush_co },
    { 0 },
};
