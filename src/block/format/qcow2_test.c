/*
 * qcow2 against a model: random requests, several at a time, on images of many shapes; then the
 * same with a crash at any moment; then images with damaged metadata.
 */
#include "block/test_mem.h"

#include <stdlib.h>

enum { SECTOR = 512 };

typedef struct Shape {
    const char *name, *options;
    uint64_t size;
    bool backing;
} Shape;

static const Shape shapes[] = {
    { "default", "", 4 << 20, false },
    { "backing", "", 4 << 20, true },
    { "v2", "compat=0.10", 4 << 20, false },
    { "v2-backing", "compat=0.10,cluster_size=4k", 1 << 20, true },
    { "512", "cluster_size=512", 1 << 20, true },
    { "512-refcount-64", "cluster_size=512,refcount_bits=64", 2 << 20, false },
    { "refcount-1", "cluster_size=1k,refcount_bits=1", 1 << 20, false },
    { "refcount-2", "cluster_size=2k,refcount_bits=2", 1 << 20, true },
    { "2M", "cluster_size=2M", 8 << 20, false },
    { "subclusters", "extended_l2=on,cluster_size=16k", 2 << 20, false },
    { "subclusters-backing", "extended_l2=on,cluster_size=128k", 4 << 20, true },
    { "metadata", "preallocation=metadata,cluster_size=4k", 1 << 20, false },
};

typedef struct Image {
    BlockFixture *f;
    const Shape *shape;
    BlockNode *node;
    uint8_t *model;
    int running;
    bool allow_errors;
} Image;

static void fill_random(uint8_t *data, size_t bytes)
{
    uint32_t x = (uint32_t)g_test_rand_int() | 1;
    for (size_t i = 0; i < bytes; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        data[i] = (uint8_t)x;
    }
}

static const char *node_options(const Shape *shape)
{
    return shape->backing
               ? "driver=qcow2,discard=unmap,file.driver=test-mem,file.filename=img,backing.driver="
                 "raw,"
                 "backing.read-only=on,backing.file.driver=test-mem,backing.file.filename=base"
               : "driver=qcow2,discard=unmap,file.driver=test-mem,file.filename=img";
}

static void image_create(Image *image, BlockFixture *f, const Shape *shape)
{
    g_autofree char *options =
        g_strdup_printf("size=%" G_GUINT64_FORMAT "%s%s%s", shape->size, *shape->options ? "," : "",
                        shape->options, shape->backing ? ",backing_file=base,backing_fmt=raw" : "");
    *image = (Image) { .f = f, .shape = shape };
    image->model = g_malloc0(shape->size);
    expect_ok(create_text(f, "test-mem:img", "qcow2", options));
    if (shape->backing) {
        MemFile *base = mem_file("base");
        uint64_t base_size = shape->size * 3 / 4; /* shorter than the image */
        g_byte_array_set_size(base->data, (guint)base_size);
        fill_random(base->data->data, base_size);
        memcpy(image->model, base->data->data, base_size);
    }
    image->node = open_text(f, node_options(shape));
}

static void wait_closed(BlockFixture *f)
{
    while (block_node_next(f->graph, NULL)) {
        loop_run_once(f->loop, NS_PER_MS);
    }
}

static void image_free(Image *image)
{
    node_unref(image->node);
    wait_closed(image->f);
    g_free(image->model);
    g_clear_pointer(&mem_files, g_hash_table_destroy);
}

static void settle(Image *image)
{
    while (image->running) {
        loop_run_once(image->f->loop, -1);
    }
}

static void image_reopen(Image *image)
{
    node_unref(image->node);
    wait_closed(image->f);
    image->node = open_text(image->f, node_options(image->shape));
}

/* --- random requests --- */

typedef struct Op {
    Image *image;
    int kind;
    uint64_t offset, bytes;
    uint8_t *data;
} Op;

static int op_run_co(Op *op)
{
    BlockNode *node = op->image->node;
    switch (op->kind) {
    case 0:
    case 1:
    case 2:
        return node_pwrite_co(node, op->offset, op->bytes, op->data, 0);
    case 3:
        return node_write_zeroes_co(node, op->offset, op->bytes, 0);
    case 4:
        return node_write_zeroes_co(node, op->offset, op->bytes, REQ_MAY_UNMAP);
    case 5:
        return node_discard_co(node, op->offset, op->bytes);
    case 6:
        return node_flush_co(node);
    case 7:
        return node_pwrite_co(node, op->offset, op->bytes, op->data, REQ_COMPRESSED);
    default:
        return node_pread_co(node, op->offset, op->bytes, op->data);
    }
}

/* Discarded data may stay or become zero: the model learns which. */
static void learn_discard_co(Op *op)
{
    g_autofree uint8_t *now = g_malloc(op->bytes);
    g_assert_cmpint(node_pread_co(op->image->node, op->offset, op->bytes, now), ==, 0);
    uint8_t *model = op->image->model + op->offset;
    for (uint64_t i = 0; i < op->bytes; i += SECTOR) {
        g_assert_true(!memcmp(now + i, model + i, SECTOR) || block_buffer_is_zero(now + i, SECTOR));
    }
    memcpy(model, now, op->bytes);
}

static void op_co(void *opaque)
{
    Op *op = opaque;
    Image *image = op->image;
    uint8_t *model = image->model + op->offset;
    int ret = op_run_co(op);

    if (!image->allow_errors) {
        g_assert_cmpint(ret, ==, 0);
        if (op->kind <= 2 || op->kind == 7) {
            memcpy(model, op->data, op->bytes);
        } else if (op->kind <= 4) {
            memset(model, 0, op->bytes);
        } else if (op->kind == 5) {
            learn_discard_co(op);
        } else if (op->kind == 8) {
            g_assert_cmpmem(op->data, op->bytes, model, op->bytes);
        }
    }
    g_free(op->data);
    g_free(op);
    image->running--;
}

/* Up to `count` requests at a time on stripes of their own. */
static void random_batch(Image *image, int count)
{
    uint64_t stripe = ALIGN_DOWN(image->shape->size / (unsigned)count, SECTOR);
    for (int i = 0; i < count; i++) {
        Op *op = g_new0(Op, 1);
        uint64_t unit = g_test_rand_int() % 3 ? SECTOR : 1;
        uint64_t limit = g_test_rand_int() % 4 ? MIN(stripe, 32768) : stripe;
        op->image = image;
        op->kind = g_test_rand_int_range(0, 9);
        op->bytes = MAX(ALIGN_DOWN((uint64_t)g_test_rand_int_range(1, (int)limit + 1), unit), 1);
        op->offset =
            ALIGN_DOWN((uint64_t)g_test_rand_int_range(0, (int)(stripe - op->bytes) + 1), unit) +
            (unsigned)i * stripe;
        if (op->kind == 5) { /* learning compares sectors */
            op->offset = ALIGN_DOWN(op->offset, SECTOR);
            op->bytes = MAX(ALIGN_DOWN(op->bytes, SECTOR), SECTOR);
            op->offset = MIN(op->offset, (uint64_t)(unsigned)(i + 1) * stripe - SECTOR);
            op->offset = ALIGN_DOWN(op->offset, SECTOR);
        }
        if (op->kind == 7) {
            uint64_t cluster = image->node->limits.cluster_size;
            if (stripe < cluster || image->shape->size % cluster) {
                op->kind = 0;
            } else {
                op->bytes = cluster;
                op->offset = ALIGN_DOWN(op->offset, cluster);
                op->offset = MAX(op->offset, ALIGN_UP((unsigned)i * stripe, cluster));
                op->kind = op->offset + cluster <= (unsigned)(i + 1) * stripe ? 7 : 6;
            }
        }
        op->data = g_malloc(MAX(op->bytes, 1));
        if (op->kind == 7) {
            memset(op->data, g_test_rand_int_range(0, 256), op->bytes);
            fill_random(op->data, op->bytes / 4);
        } else if (g_test_rand_int() % 8) {
            fill_random(op->data, op->bytes);
        } else {
            memset(op->data, 0, op->bytes);
        }
        image->running++;
        lock_acquire(&image->f->lock);
        co_start(image->f->loop, op_co, op);
        lock_release(&image->f->lock);
    }
    settle(image);
}

static void verify(Image *image)
{
    g_autofree uint8_t *all = g_malloc(image->shape->size);
    BlockBackend *blk = blk_new(image->f->graph, NULL);
    expect_ok(blk_insert(blk, image->node));
    g_assert_cmpint(blk_pread(blk, 0, image->shape->size, all), ==, 0);
    blk_unref(blk);
    for (uint64_t i = 0; i < image->shape->size; i++) {
        if (all[i] != image->model[i]) {
            g_error("%s: byte %#lx is %02x, should be %02x", image->shape->name, (long)i, all[i],
                    image->model[i]);
        }
    }
}

static void expect_clean(Image *image, const char *when)
{
    BlockCheck check = check_node(image->f, image->node, 0);
    if (check.corruptions || check.leaks || check.check_errors) {
        g_error("%s, %s: %lu corruptions, %lu leaks, %lu errors", image->shape->name, when,
                (long)check.corruptions, (long)check.leaks, (long)check.check_errors);
    }
}

/* Whether another program agrees, when there is one: with OSTRICH_TEST_PEER=/usr/bin/qemu-img. */
static void ask_peer(Image *image)
{
    const char *peer = g_getenv("OSTRICH_TEST_PEER");
    if (!peer) {
        return;
    }
    g_autofree char *path = block_fixture_path(image->f, "peer.qcow2"), *out = NULL;
    GByteArray *data = mem_file("img")->data;
    int status;
    g_assert_true(g_file_set_contents(path, (char *)data->data, data->len, NULL));
    if (image->shape->backing) {
        g_autofree char *base = block_fixture_path(image->f, "base");
        g_assert_true(g_file_set_contents(base, "", 0, NULL));
    }
    const char *argv[] = { peer, "check", "-f", "qcow2", path, NULL };
    g_assert_true(
        g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out, NULL, &status, NULL));
    if (status) {
        g_error("%s: %s", image->shape->name, out);
    }
}

static void test_random(BlockFixture *f, gconstpointer data)
{
    Image image;
    image_create(&image, f, data);
    expect_clean(&image, "new");
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 12; i++) {
            random_batch(&image, g_test_rand_int_range(1, 9));
        }
        verify(&image);
        expect_clean(&image, "after requests");
        if (round % 3 == 2) {
            image_reopen(&image);
            ask_peer(&image);
            verify(&image);
        }
    }
    image_free(&image);
}

/* --- resizing, snapshots --- */

typedef struct StepCall {
    BlockNode *node;
    uint64_t size;
    const char *id;
    Error *err;
} StepCall;

static void truncate_call_co(void *opaque)
{
    StepCall *call = opaque;
    call->err = node_truncate_co(call->node, call->size, PREALLOC_OFF);
}

static void test_resize(BlockFixture *f, gconstpointer data)
{
    const Shape *shape = data;
    Image image;
    image_create(&image, f, shape);
    for (int i = 0; i < 10; i++) {
        random_batch(&image, 4);
    }
    uint64_t cut = shape->size / 2 + 3 * SECTOR;
    StepCall call = { .node = image.node, .size = cut };
    co_run(f->loop, truncate_call_co, &call);
    expect_ok(call.err);
    expect_clean(&image, "cut");
    call.size = shape->size;
    co_run(f->loop, truncate_call_co, &call);
    expect_ok(call.err);
    memset(image.model + cut, 0, shape->size - cut);
    verify(&image);
    random_batch(&image, 4);
    verify(&image);
    call.size = shape->size * 300; /* the L1 table and the refcount table move */
    co_run(f->loop, truncate_call_co, &call);
    expect_ok(call.err);
    verify(&image);
    random_batch(&image, 8);
    verify(&image);
    expect_clean(&image, "grown");
    image_reopen(&image);
    ask_peer(&image);
    image_free(&image);
}

static void snapshot_create_call_co(void *opaque)
{
    StepCall *call = opaque;
    BlockSnapshot sn = { .name = (char *)call->id };
    call->err = call->node->driver->snapshot_create_co(call->node, &sn);
}

static void snapshot_apply_call_co(void *opaque)
{
    StepCall *call = opaque;
    call->err = call->node->driver->snapshot_apply_co(call->node, call->id);
}

static void snapshot_delete_call_co(void *opaque)
{
    StepCall *call = opaque;
    call->err = call->node->driver->snapshot_delete_co(call->node, call->id);
}

typedef struct StateCall {
    BlockNode *node;
    uint8_t *data;
    uint64_t bytes;
    int ret;
} StateCall;

static void vmstate_call_co(void *opaque)
{
    StateCall *call = opaque;
    BlockNode *node = call->node;
    g_autofree uint8_t *back = g_malloc(call->bytes);
    uint64_t half = call->bytes / 2 + 77;
    BlockSnapshot sn = { .name = (char *)"state", .vm_state_size = call->bytes };

    g_assert_cmpint(node->driver->vmstate_pwrite_co(node, 0, half, call->data), ==, 0);
    g_assert_cmpint(
        node->driver->vmstate_pwrite_co(node, half, call->bytes - half, call->data + half), ==, 0);
    expect_ok(node->driver->snapshot_create_co(node, &sn));
    expect_ok(node->driver->snapshot_apply_co(node, "state"));
    g_assert_cmpint(node->driver->vmstate_pread_co(node, 0, call->bytes, back), ==, 0);
    g_assert_cmpmem(back, call->bytes, call->data, call->bytes);
    g_assert_cmpint(node->driver->vmstate_pwrite_co(node, 5, 5, "later"), ==, 0);
    expect_ok(node->driver->snapshot_apply_co(node, "state"));
    g_assert_cmpint(node->driver->vmstate_pread_co(node, 0, call->bytes, back), ==, 0);
    g_assert_cmpmem(back, call->bytes, call->data, call->bytes);
}

static void test_vmstate(BlockFixture *f, gconstpointer data)
{
    Image image;
    image_create(&image, f, data);
    random_batch(&image, 4);
    StateCall call = { .node = image.node, .bytes = 300001 };
    g_autofree uint8_t *state = g_malloc(call.bytes);
    fill_random(state, call.bytes);
    call.data = state;
    co_run(f->loop, vmstate_call_co, &call);
    verify(&image);
    expect_clean(&image, "state saved");
    image_reopen(&image);
    ask_peer(&image);
    image_free(&image);
}

static void test_snapshots(BlockFixture *f, gconstpointer data)
{
    const Shape *shape = data;
    Image image;
    image_create(&image, f, shape);
    for (int i = 0; i < 6; i++) {
        random_batch(&image, 4);
    }
    g_autofree uint8_t *first = g_memdup2(image.model, shape->size);
    StepCall call = { .node = image.node, .id = "one" };
    co_run(f->loop, snapshot_create_call_co, &call);
    if (g_str_has_prefix(shape->name, "refcount-")) { /* too narrow to share (much) */
        g_assert_true(call.err || strcmp(shape->name, "refcount-1"));
        error_free(call.err);
        expect_clean(&image, "snapshot refused");
        image_free(&image);
        return;
    }
    expect_ok(call.err);
    expect_clean(&image, "snapshot made");
    for (int i = 0; i < 6; i++) {
        random_batch(&image, 4);
    }
    verify(&image);
    expect_clean(&image, "written over a snapshot");
    call.id = "two";
    co_run(f->loop, snapshot_create_call_co, &call);
    expect_ok(call.err);
    random_batch(&image, 4);
    image_reopen(&image);
    ask_peer(&image);
    call = (StepCall) { .node = image.node, .id = "one" };
    co_run(f->loop, snapshot_apply_call_co, &call);
    expect_ok(call.err);
    memcpy(image.model, first, shape->size);
    verify(&image);
    expect_clean(&image, "went back");
    random_batch(&image, 4);
    co_run(f->loop, snapshot_delete_call_co, &call);
    expect_ok(call.err);
    expect_clean(&image, "deleted one");
    call.id = "two";
    co_run(f->loop, snapshot_delete_call_co, &call);
    expect_ok(call.err);
    verify(&image);
    expect_clean(&image, "deleted two");
    random_batch(&image, 4);
    image_reopen(&image);
    ask_peer(&image);
    verify(&image);
    image_free(&image);
}

/* --- failing writes --- */

static void test_write_errors(BlockFixture *f, gconstpointer data)
{
    Image image;
    image_create(&image, f, data);
    for (int i = 0; i < 40; i++) {
        image.allow_errors = true;
        mem_file("img")->fail_after = g_test_rand_int_range(0, 20);
        random_batch(&image, 4);
    }
    mem_file("img")->fail_after = -1;
    image_reopen(&image);
    BlockCheck check = check_node(f, image.node, 0);
    g_assert_cmpuint(check.corruptions, ==, 0);
    g_assert_cmpuint(check.check_errors, ==, 0);
    image_free(&image);
}

/* --- crashes --- */

/*
 * A crash keeps everything up to the last flush that had completed, and any subset of the sectors
 * written after it.
 */
static void replay_crash(const GByteArray *start, const GArray *log, guint upto, bool honour_flush,
                         GByteArray *out)
{
    guint durable = 0;
    for (guint i = 0; honour_flush && i < upto; i++) {
        const MemWrite *w = &g_array_index(log, MemWrite, i);
        durable = w->kind == MEM_FLUSH ? MAX(durable, (guint)w->offset) : durable;
    }
    g_byte_array_set_size(out, 0);
    g_byte_array_append(out, start->data, start->len);
    int luck = g_test_rand_int_range(0, 4); /* all, none, half of the writes, half of the sectors */
    for (guint i = 0; i < upto; i++) {
        const MemWrite *w = &g_array_index(log, MemWrite, i);
        if (w->kind == MEM_FLUSH) {
            continue;
        }
        if (w->kind != MEM_WRITE) {
            if (i < durable || (g_test_rand_int() & 1)) {
                mem_apply(out, w);
            }
            continue;
        }
        gsize bytes;
        const uint8_t *data = g_bytes_get_data(w->data, &bytes);
        bool whole = i < durable || luck == 0 || (luck == 2 && (g_test_rand_int() & 1));
        mem_grow(out, whole ? w->offset + bytes : 0);
        for (gsize at = 0; at < bytes; at += SECTOR) {
            gsize part = MIN(SECTOR, bytes - at);
            if (whole || (luck == 3 && (g_test_rand_int() & 1))) {
                mem_grow(out, w->offset + at + part);
                memcpy(out->data + w->offset + at, data + at, part);
            }
        }
    }
}

/* Corruptions in the image "crashed", which shall open in any case. */
static uint64_t crashed_corruptions(BlockFixture *f, const Shape *shape)
{
    g_autoptr(KeyValues) opts = NULL;
    BlockNode *node;
    expect_ok(keyvalues_parse(
        "driver=qcow2,read-only=on,backing=,file.driver=test-mem,file.filename=crashed", NULL,
        &opts));
    Error *err = block_open_options(f->graph, opts, &node);
    if (err) {
        error_free(err);
        return 1;
    }
    BlockCheck check = check_node(f, node, 0);
    node_unref(node);
    return check.corruptions + check.check_errors;
}

static uint64_t run_crashes(BlockFixture *f, const Shape *shape, bool honour_flush, int crashes)
{
    Image image;
    uint64_t corruptions = 0;

    image_create(&image, f, shape);
    random_batch(&image, 4);
    image_reopen(&image);
    MemFile *file = mem_file("img");
    g_autoptr(GByteArray) start = g_byte_array_new();
    g_byte_array_append(start, file->data->data, file->data->len);
    mem_file_record(file);
    for (int i = 0; i < 30; i++) {
        random_batch(&image, g_test_rand_int_range(1, 7));
    }
    GByteArray *crashed = mem_file("crashed")->data;
    for (int i = 0; i < crashes; i++) {
        guint upto = (guint)g_test_rand_int_range(0, (int)file->log->len + 1);
        replay_crash(start, file->log, upto, honour_flush, crashed);
        uint64_t found = crashed_corruptions(f, shape);
        if (found && honour_flush) {
            g_error("%s: a crash after %u of %u writes leaves %lu corruptions", shape->name, upto,
                    file->log->len, (long)found);
        }
        corruptions += found;
    }
    image_free(&image);
    return corruptions;
}

static void test_crash(BlockFixture *f, gconstpointer data)
{
    run_crashes(f, data, true, 150);
}

/* The test must be able to fail: without flushes it finds corruptions. */
static void test_crash_control(BlockFixture *f, gconstpointer data)
{
    uint64_t found = 0;
    for (int i = 0; i < 10 && !found; i++) {
        found = run_crashes(f, data, false, 60);
    }
    g_assert_cmpuint(found, >, 0);
}

/* --- hostile images --- */

static void hostile_co(void *opaque)
{
    BlockNode *node = opaque;
    uint8_t buffer[4096];
    for (int i = 0; i < 10; i++) {
        uint64_t at = node->size ? ((uint64_t)g_test_rand_int() << 12) % node->size : 0;
        node_pread_co(node, at, MIN(sizeof(buffer), node->size - at), buffer);
        node_pwrite_co(node, at, MIN(sizeof(buffer), node->size - at), buffer, 0);
        BlockStatus status;
        node_status_co(node, at, node->size - at, &status);
    }
    node_write_zeroes_co(node, 0, MIN(node->size, 1 << 20), REQ_MAY_UNMAP);
    node_flush_co(node);
}

static void test_hostile(BlockFixture *f, gconstpointer data)
{
    const Shape *shape = data;
    Image image;
    image_create(&image, f, shape);
    for (int i = 0; i < 6; i++) {
        random_batch(&image, 4);
    }
    StepCall call = { .node = image.node, .id = "s" };
    co_run(f->loop, snapshot_create_call_co, &call);
    error_free(call.err);
    image_reopen(&image);
    g_autoptr(GByteArray) good = g_byte_array_new();
    g_byte_array_append(good, mem_file("img")->data->data, mem_file("img")->data->len);
    GByteArray *bad = mem_file("crashed")->data;
    uint64_t metadata = MIN(good->len, 4 * (uint64_t)image.node->limits.cluster_size + 512);
    node_unref(image.node);
    image.node = NULL;
    wait_closed(f);
    for (int i = 0; i < 150; i++) {
        g_byte_array_set_size(bad, 0);
        g_byte_array_append(bad, good->data, good->len);
        for (int changes = g_test_rand_int_range(1, 5); changes; changes--) {
            uint64_t limit = g_test_rand_int() & 1 ? 120 : metadata;
            uint64_t at = (uint64_t)g_test_rand_int_range(0, (int)limit);
            bad->data[at] = (uint8_t)(g_test_rand_int() & 1 ? g_test_rand_int() : 0xff);
        }
        g_autoptr(KeyValues) opts = NULL;
        BlockNode *node;
        expect_ok(keyvalues_parse(
            "driver=qcow2,discard=unmap,backing=,file.driver=test-mem,file.filename=crashed", NULL,
            &opts));
        Error *err = block_open_options(f->graph, opts, &node);
        if (err) {
            error_free(err);
            continue;
        }
        co_run(f->loop, hostile_co, node);
        CheckCall check = { .node = node, .fix = i % 2 ? CHECK_FIX_ERRORS | CHECK_FIX_LEAKS : 0 };
        co_run(f->loop, check_call_co, &check);
        error_free(check.err);
        node_unref(node);
        wait_closed(f);
        if (bad->len > 64 << 20) { /* a sparse file in reality */
            g_byte_array_set_size(bad, 0);
        }
    }
    image_free(&image);
}

/* --- repair --- */

static void test_repair(BlockFixture *f, gconstpointer data)
{
    const Shape *shape = data;
    for (int pass = 0; pass < 2; pass++) {
        Image image;
        image_create(&image, f, shape);
        for (int i = 0; i < 6; i++) {
            random_batch(&image, 4);
        }
        image_reopen(&image);
        g_autofree uint8_t *model = g_memdup2(image.model, shape->size);
        uint64_t cluster = image.node->limits.cluster_size;
        node_unref(image.node);
        wait_closed(f);
        /* The first refcount block: all too high, or all zero. */
        memset(mem_file("img")->data->data + 2 * cluster, pass ? 0 : 0x03, cluster);
        g_autofree char *options = g_strconcat(node_options(shape), ",x-repair=on", NULL);
        image.node = open_text(f, options);
        BlockCheck check = check_node(f, image.node, 0);
        g_assert_cmpuint(pass ? check.corruptions : check.leaks + check.corruptions, >, 0);
        check = check_node(f, image.node, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
        g_assert_cmpuint(check.corruptions_fixed + check.leaks_fixed, >, 0);
        image_reopen(&image);
        expect_clean(&image, "repaired");
        g_assert_cmpmem(image.model, shape->size, model, shape->size);
        verify(&image);
        ask_peer(&image);
        random_batch(&image, 4);
        verify(&image);
        expect_clean(&image, "written after repair");
        image_free(&image);
    }
}

static void test_create_messages(BlockFixture *f, gconstpointer unused)
{
    expect_error(create_text(f, "test-mem:x", "qcow2", "size=1M,cluster_size=3k"),
                 "Cluster size must be*");
    expect_error(create_text(f, "test-mem:x", "qcow2", "size=1M,compat=0.10,refcount_bits=8"),
                 "Different refcount*");
    expect_error(create_text(f, "test-mem:x", "qcow2", "size=1M,extended_l2=on,cluster_size=4k"),
                 "Extended L2*16k*");
    expect_error(create_text(f, "test-mem:x", "qcow2", "size=4E,cluster_size=512"), "*too large*");
    expect_error(create_text(f, "test-mem:x", "qcow2", "size=1M,encrypt.format=luks"),
                 "*name its secret in *encrypt.key-secret*");
    g_clear_pointer(&mem_files, g_hash_table_destroy);
}

static void add(const char *what, const Shape *shape, void (*fn)(BlockFixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/block/qcow2/%s/%s", what, shape->name);
    g_test_add(path, BlockFixture, shape, block_fixture_setup, fn, block_fixture_teardown);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        add("random", &shapes[i], test_random);
        add("resize", &shapes[i], test_resize);
        add("snapshots", &shapes[i], test_snapshots);
        if (!g_str_has_prefix(shapes[i].name, "refcount-")) {
            add("vmstate", &shapes[i], test_vmstate);
        }
        add("write-errors", &shapes[i], test_write_errors);
        add("crash", &shapes[i], test_crash);
        add("hostile", &shapes[i], test_hostile);
        add("repair", &shapes[i], test_repair);
    }
    add("crash-control", &shapes[5], test_crash_control);
    g_test_add("/block/qcow2/create-messages", BlockFixture, NULL, block_fixture_setup,
               test_create_messages, block_fixture_teardown);
    return g_test_run();
}
