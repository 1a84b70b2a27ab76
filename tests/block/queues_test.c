/*
 * Eight queues of random reads, writes and zeroes at once, on a qcow2 image with a backing image in real
 * files, against a model. Queues own stripes that are not as long as clusters, so they meet in every
 * cluster, and each knows what its own sectors hold. In the end the image is read again, after closing
 * and opening, and judged by another program's check.
 *
 * usage: block-queues-test [--seconds N] (otherwise GLib's test options)
 */
#include <stdlib.h>
#include <string.h>

#include "block/test_util.h"

enum { QUEUES = 8, SECTOR = 512, STRIPE = 7 * SECTOR, STRIPES = 4096, DISK = STRIPE * STRIPES, DEFAULT_SECONDS = 4 };

static struct {
    int seconds;
} mode = { DEFAULT_SECONDS };

typedef struct Disk {
    BlockFixture *f;
    BlockNode *node;
    uint32_t model[DISK / SECTOR]; /* what a sector is filled with; 0: zeroes */
    unsigned running;
    int64_t end_ns;
    uint64_t requests;
    char *top, *base;
} Disk;

typedef struct Queue {
    Disk *d;
    unsigned number;
    uint64_t state; /* of the random numbers */
} Queue;

static uint32_t rnd(Queue *q, uint32_t below) /* xorshift64* */
{
    q->state ^= q->state >> 12;
    q->state ^= q->state << 25;
    q->state ^= q->state >> 27;
    return (uint32_t)((q->state * 0x2545f4914f6cdd1dull) >> 33) % below;
}

static void fill(uint32_t *data, uint32_t value)
{
    for (unsigned i = 0; i < SECTOR / 4; i++) {
        data[i] = value;
    }
}

static void verify(const Disk *d, const uint32_t *data, uint64_t sector, unsigned count)
{
    for (unsigned s = 0; s < count; s++) {
        for (unsigned i = 0; i < SECTOR / 4; i++) {
            if (data[s * SECTOR / 4 + i] != d->model[sector + s]) {
                g_error("sector %lu has %#x at %u, not %#x", (long)(sector + s), data[s * SECTOR / 4 + i], i * 4,
                        d->model[sector + s]);
            }
        }
    }
}

static void one_request_co(Queue *q, uint32_t *buffer)
{
    Disk *d = q->d;
    uint64_t stripe = rnd(q, STRIPES / QUEUES) * QUEUES + q->number;
    unsigned first = rnd(q, STRIPE / SECTOR), count = 1 + rnd(q, STRIPE / SECTOR - first), kind = rnd(q, 100);
    uint64_t sector = stripe * (STRIPE / SECTOR) + first, at = sector * SECTOR, bytes = count * SECTOR;
    int ret = 0;

    if (kind < 25) {
        ret = node_pread_co(d->node, at, bytes, buffer);
        verify(d, buffer, sector, ret < 0 ? 0 : count);
    } else if (kind < 90) {
        for (unsigned s = 0; s < count; s++) {
            d->model[sector + s] = rnd(q, UINT32_MAX);
            fill(buffer + s * SECTOR / 4, d->model[sector + s]);
        }
        ret = node_pwrite_co(d->node, at, bytes, buffer, kind < 30 ? REQ_FUA : 0);
    } else if (kind < 99) {
        memset(d->model + sector, 0, count * sizeof(*d->model));
        ret = node_write_zeroes_co(d->node, at, bytes, kind & 1 ? REQ_MAY_UNMAP : 0);
    } else {
        ret = node_flush_co(d->node);
    }
    g_assert_cmpint(ret, ==, 0);
    d->requests++;
}

static int64_t now_ns(const Disk *d)
{
    return clock_now(d->f->clocks, CLOCK_REALTIME_NS);
}

static void queue_co(void *opaque)
{
    Queue *q = opaque;
    uint32_t *buffer = aligned_alloc(4096, ALIGN_UP(STRIPE, 4096));
    while (now_ns(q->d) < q->d->end_ns) {
        one_request_co(q, buffer);
    }
    free(buffer);
    q->d->running--;
}

static void verify_all_co(void *opaque)
{
    Disk *d = opaque;
    uint32_t *buffer = aligned_alloc(4096, ALIGN_UP(STRIPE, 4096));
    for (unsigned i = 0; i < STRIPES; i++) {
        g_assert_cmpint(node_pread_co(d->node, (uint64_t)i * STRIPE, STRIPE, buffer), ==, 0);
        verify(d, buffer, (uint64_t)i * (STRIPE / SECTOR), STRIPE / SECTOR);
    }
    free(buffer);
}

/* --- images --- */

typedef struct CreateCall {
    Disk *d;
    const char *options;
    Error *err;
} CreateCall;

static void create_co(void *opaque)
{
    CreateCall *call = opaque;
    Disk *d = call->d;
    g_autoptr(KeyValues) opts = keyvalues_new(), more = NULL;
    g_autofree char *size = g_strdup_printf("%d", DISK);
    keyvalues_set(opts, "size", size);
    call->err = block_create_co(d->f->graph, d->base, block_driver_find("qcow2"), opts);
    if (!call->err) {
        call->err = keyvalues_parse(call->options, NULL, &more);
    }
    for (guint i = 0; !call->err && i < more->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(more->items, i);
        keyvalues_set(opts, item->key, item->value);
    }
    keyvalues_set(opts, "backing_file", d->base);
    keyvalues_set(opts, "backing_fmt", "qcow2");
    if (!call->err) {
        call->err = block_create_co(d->f->graph, d->top, block_driver_find("qcow2"), opts);
    }
}

static void open_image(Disk *d, const char *path)
{
    expect_ok(block_open_file(d->f->graph, path, "qcow2", OPEN_WRITE, NULL, &d->node));
}

static void close_image(Disk *d)
{
    node_unref(d->node);
    while (block_node_next(d->f->graph, NULL)) {
        loop_run_once(d->f->loop, NS_PER_MS);
    }
}

/* The backing image has something everywhere but in its last quarter. */
static void fill_base_co(void *opaque)
{
    Disk *d = opaque;
    uint32_t *buffer = aligned_alloc(4096, ALIGN_UP(STRIPE, 4096));
    for (uint64_t sector = 0; sector < DISK / SECTOR / 4 * 3; sector += STRIPE / SECTOR) {
        for (unsigned s = 0; s < STRIPE / SECTOR; s++) {
            d->model[sector + s] = (uint32_t)(sector + s) * 2654435761u | 1;
            fill(buffer + s * SECTOR / 4, d->model[sector + s]);
        }
        g_assert_cmpint(node_pwrite_co(d->node, sector * SECTOR, STRIPE, buffer, 0), ==, 0);
    }
    free(buffer);
}

static void judge(Disk *d)
{
    g_autofree char *peer = g_find_program_in_path("/usr/bin/qemu-img");
    if (peer) {
        const char *argv[] = { peer, "check", "-q", "-f", "qcow2", d->top, NULL };
        int status;
        g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, NULL, &status, NULL));
        g_assert_true(g_spawn_check_wait_status(status, NULL));
    }
}

static void test_queues(BlockFixture *f, gconstpointer options)
{
    Disk *d = g_new0(Disk, 1);
    Queue queues[QUEUES];
    d->f = f;
    d->top = block_fixture_path(f, "top.qcow2");
    d->base = block_fixture_path(f, "base.qcow2");
    CreateCall create = { d, options, NULL };
    co_run(f->loop, create_co, &create);
    expect_ok(create.err);
    open_image(d, d->base);
    co_run(f->loop, fill_base_co, d);
    close_image(d);
    open_image(d, d->top);
    d->running = QUEUES;
    d->end_ns = now_ns(d) + mode.seconds * NS_PER_SEC / 4;
    for (unsigned i = 0; i < QUEUES; i++) {
        queues[i] = (Queue) { d, i, ((uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int()) | 1 };
        co_start(f->loop, queue_co, &queues[i]);
    }
    while (d->running) {
        loop_run_once(f->loop, NS_PER_SEC);
    }
    g_test_message("%lu requests", (long)d->requests);
    co_run(f->loop, verify_all_co, d);
    close_image(d);
    open_image(d, d->top);
    co_run(f->loop, verify_all_co, d);
    close_image(d);
    judge(d);
    g_free(d->top);
    g_free(d->base);
    g_free(d);
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "--seconds")) {
        mode.seconds = atoi(argv[2]);
        argv[2] = argv[0];
        argv += 2;
        argc -= 2;
    }
    g_test_init(&argc, &argv, NULL);
    static const char *const shapes[] = { "cluster_size=64k", "cluster_size=4k", "cluster_size=64k,extended_l2=on",
                                          "cluster_size=512,lazy_refcounts=on" };
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        g_autofree char *path = g_strconcat("/block/queues/", shapes[i], NULL);
        g_test_add(path, BlockFixture, shapes[i], block_fixture_setup, test_queues, block_fixture_teardown);
    }
    return g_test_run();
}
