/* qemu-img bench: many requests of one sort, several at a time, and how long they took. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "main/img/img.h"

enum { LONG_FLUSH_INTERVAL = 1000, LONG_PATTERN, LONG_NO_DRAIN };

typedef struct Bench {
    ImgOptions o;
    uint64_t count, depth, offset, size, step, flush_interval, pattern;
    bool write, no_drain;
    const char *aio;

    BlockNode *node;
    uint64_t started, running, at;
    bool flushing;
    int ret;
    CoQueue ended, go_on;
} Bench;

static Error *number(const char *what, const char *text, uint64_t max, uint64_t *ret)
{
    Error *err = img_parse_size(text, ret);
    if (err || *ret > max) {
        error_free(err);
        return error_new("Invalid %s specified", what);
    }
    return NULL;
}

static Error *bench_option(void *opaque, int letter, const char *value)
{
    Bench *b = opaque;
    switch (letter) {
    case 'c':
        return number("request count", value, INT32_MAX, &b->count);
    case 'd':
        return number("queue depth", value, INT32_MAX, &b->depth);
    case 'o':
        return number("offset", value, INT64_MAX, &b->offset);
    case 's':
        return number("buffer size", value, INT32_MAX, &b->size);
    case 'S':
        return number("step size", value, INT32_MAX, &b->step);
    case 'w':
        b->write = true;
        return NULL;
    case 'n':
        b->aio = "native";
        return NULL;
    case 'i':
        b->aio = value;
        return NULL;
    case LONG_FLUSH_INTERVAL:
        return number("flush interval", value, INT32_MAX, &b->flush_interval);
    case LONG_PATTERN:
        return number("pattern byte", value, 255, &b->pattern);
    default:
        b->no_drain = true;
        return NULL;
    }
}

/* Flushes after each n-th request; with draining, nothing else is under way meanwhile. */
static int flush_co(Bench *b)
{
    b->flushing = true;
    while (!b->no_drain && b->running > 1) {
        co_queue_wait(&b->ended);
    }
    int ret = node_flush_co(b->node);
    b->flushing = false;
    co_queue_wake_all(&b->go_on);
    return ret;
}

static void worker_co(void *opaque)
{
    Bench *b = opaque;
    size_t align = 4096;
    char *buffer = aligned_alloc(align, ALIGN_UP((size_t)b->size, align));
    memset(buffer, (int)b->pattern, (size_t)b->size);

    while (b->started < b->count && b->ret >= 0) {
        while (b->flushing && !b->no_drain) {
            b->running--;
            co_queue_wake_all(&b->ended);
            co_queue_wait(&b->go_on);
            b->running++;
        }
        if (b->started >= b->count) {
            break;
        }
        uint64_t at = b->at, n = ++b->started;
        b->at += b->step;
        if (b->at > b->node->size - b->size) {
            b->at = b->node->size > b->size ? b->at % (b->node->size - b->size + 1) : 0;
        }
        int ret = b->write ? node_pwrite_co(b->node, at, b->size, buffer, 0)
                           : node_pread_co(b->node, at, b->size, buffer);
        if (ret >= 0 && b->flush_interval && n % b->flush_interval == 0) {
            ret = flush_co(b);
        }
        b->ret = MIN(b->ret, ret);
    }
    free(buffer);
    b->running--;
    co_queue_wake_all(&b->ended);
}

static int bench_co(void *opaque)
{
    Bench *b = opaque;
    ImgDisk disk;
    g_autoptr(KeyValues) more = keyvalues_new();
    if (b->aio) {
        keyvalues_set(more, "x-aio", b->aio);
    }
    if (b->write && b->o.force_share) {
        return img_result(error_new("Could not open '%s': force-share=on can only be used with read-only images", b->o.args[0]));
    }
    Error *err = img_open_with_co(&b->o, b->o.args[0], b->o.format, b->write ? OPEN_WRITE : 0,
                                  b->o.cache, b->o.image_opts, more, &disk);
    if (err) {
        return img_result(err);
    }
    b->node = disk.node;
    b->at = b->offset;
    if (b->size > b->node->size || b->offset > b->node->size - b->size) {
        img_close_co(&disk);
        return img_result(error_new("The image is too small for the requests"));
    }
    printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64
           " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
           b->count, b->write ? "write" : "read", b->size, b->depth, b->offset, b->step);
    if (b->flush_interval) {
        printf("Sending flush every %" PRIu64 " %srequests\n", b->flush_interval,
               b->no_drain ? "" : "serialised ");
    }
    gint64 start = g_get_monotonic_time();
    b->running = MIN(b->depth, b->count);
    co_queue_init(&b->ended);
    co_queue_init(&b->go_on);
    for (uint64_t i = 0, n = b->running; i < n; i++) {
        co_start(co_loop(), worker_co, b);
    }
    while (b->running) {
        co_queue_wait(&b->ended);
    }
    double seconds = (double)(g_get_monotonic_time() - start) / 1e6;
    img_close_co(&disk);
    if (b->ret < 0) {
        return img_result(error_new_errno(b->ret, "Failed request"));
    }
    printf("Run completed in %3.3f seconds.\n", seconds);
    return 0;
}

int img_bench(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE,
                                           { "flush-interval", required_argument, NULL,
                                             LONG_FLUSH_INTERVAL },
                                           { "pattern", required_argument, NULL, LONG_PATTERN },
                                           { "no-drain", no_argument, NULL, LONG_NO_DRAIN },
                                           { 0 } };
    Bench b = { .count = 75000, .depth = 64, .size = 4096 };
    ImgParser parser = { command, ":hc:d:f:ni:o:qs:S:t:wU", longs, bench_option, &b };

    int done = img_parse(&parser, graph, &b.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (b.o.arg_count != 1) {
        return img_usage_error(error_new("Expecting one image file name"));
    }
    if (!b.write && b.flush_interval) {
        return img_result(error_new("--flush-interval counts writes: it needs -w"));
    }
    if (b.flush_interval && b.flush_interval < b.depth) {
        return img_result(error_new("--flush-interval has to be at least the depth (-d)"));
    }
    if (!b.size || !b.depth) {
        return img_result(error_new("Buffer size and queue depth must be at least 1"));
    }
    b.step = b.step ? b.step : b.size;
    return img_run(graph, bench_co, &b);
}
