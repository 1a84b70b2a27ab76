/*
 * Eight queues of random reads, writes and zeroes at once, on a qcow2 image with a backing image in real
 * files, against a model. Queues own stripes that are not as long as clusters, so they meet in every
 * cluster, and each knows what its own sectors hold. In the end the image is read again, after closing
 * and opening, and judged by another program's check. In some tests the queues belong to the main loop and two iothreads
 * in turns.
 *
 * usage: block-queues-test [--seconds N] (otherwise GLib's test options)
 */
#include <stdlib.h>
#include <string.h>

#include "block/test_util.h"
#include "io/iothread.h"

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
    KeyValues *open_options; /* NULL: none */
} Disk;

typedef struct Shape {
    const char *name, *options;
    unsigned iothreads;
    bool uring;
} Shape;

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
    expect_ok(block_open_file(d->f->graph, path, "qcow2", OPEN_WRITE, d->open_options, &d->node));
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

static bool still_running(Disk *d)
{
    lock_acquire(&d->f->lock);
    bool running = d->running > 0;
    lock_release(&d->f->lock);
    return running;
}

static IoThread *make_iothread(Object *objects, unsigned n)
{
    g_autoptr(KeyValues) options = keyvalues_new();
    g_autofree char *id = g_strdup_printf("io%u", n);
    IoThread *iothread;
    keyvalues_set(options, "qom-type", "iothread");
    keyvalues_set(options, "id", id);
    keyvalues_set(options, "aio-max-batch", n & 1 ? "3" : "0");
    expect_ok(object_make(objects, options));
    expect_ok(iothread_find(objects, id, &iothread));
    return iothread;
}

static void run_queues(Disk *d, const Shape *shape)
{
    Queue queues[QUEUES];
    Loop *loops[QUEUES + 1] = { d->f->loop };
    Object *root = object_new_root(d->f->loop, NULL);

    for (unsigned i = 0; i < shape->iothreads; i++) {
        loops[1 + i] = make_iothread(root, i)->loop;
    }
    d->running = QUEUES;
    d->end_ns = now_ns(d) + mode.seconds * NS_PER_SEC / 4;
    for (unsigned i = 0; i < QUEUES; i++) {
        queues[i] = (Queue) { d, i, ((uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int()) | 1 };
        co_start(loops[i % (1 + shape->iothreads)], queue_co, &queues[i]);
    }
    while (still_running(d)) {
        loop_run_once(d->f->loop, 10 * NS_PER_MS);
    }
    lock_acquire(&d->f->lock);
    object_free(root);
    lock_release(&d->f->lock);
}

static bool has_uring(Disk *d)
{
    BlockNode *node;
    Error *err = block_open_file(d->f->graph, d->base, "raw", 0, d->open_options, &node);
    if (!err) {
        node_unref(node);
    }
    error_free(err);
    return !err;
}

static void test_queues(BlockFixture *f, gconstpointer opaque)
{
    const Shape *shape = opaque;
    const char *options = shape->options;
    Disk *d = g_new0(Disk, 1);
    d->f = f;
    d->top = block_fixture_path(f, "top.qcow2");
    d->base = block_fixture_path(f, "base.qcow2");
    CreateCall create = { d, options, NULL };
    co_run(f->loop, create_co, &create);
    expect_ok(create.err);
    if (shape->uring) {
        d->open_options = keyvalues_new();
        keyvalues_set(d->open_options, "x-aio", "io_uring");
        if (!has_uring(d)) {
            g_clear_pointer(&d->open_options, keyvalues_free);
            g_test_skip("no io_uring");
            goto out;
        }
    }
    open_image(d, d->base);
    co_run(f->loop, fill_base_co, d);
    close_image(d);
    open_image(d, d->top);
    run_queues(d, shape);
    g_test_message("%lu requests", (long)d->requests);
    co_run(f->loop, verify_all_co, d);
    close_image(d);
    open_image(d, d->top);
    co_run(f->loop, verify_all_co, d);
    close_image(d);
    judge(d);
    keyvalues_free(d->open_options);
out:
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
    static const Shape shapes[] = {
        { "cluster_size=64k", "cluster_size=64k" },
        { "cluster_size=4k", "cluster_size=4k" },
        { "cluster_size=64k,extended_l2=on", "cluster_size=64k,extended_l2=on" },
        { "cluster_size=512,lazy_refcounts=on", "cluster_size=512,lazy_refcounts=on" },
        { "iothreads", "cluster_size=4k", .iothreads = 2 },
        { "iothreads-io_uring", "cluster_size=64k", .iothreads = 2, .uring = true },
    };
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        g_autofree char *path = g_strconcat("/block/queues/", shapes[i].name, NULL);
        g_test_add(path, BlockFixture, &shapes[i], block_fixture_setup, test_queues, block_fixture_teardown);
    }
    return g_test_run();
}
