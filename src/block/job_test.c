/* Jobs on qcow2 chains in memory, while a guest writes: contents against a model. */
#include "block/test_mem.h"

#include "block/bitmap.h"
#include "block/job.h"

#include <stdlib.h>

enum { DISK = 2 << 20, SECTOR = 512 };

typedef struct Disk {
    BlockFixture *f;
    BlockBackend *blk;
    BlockNode *base, *mid, *active; /* base <- mid <- active */
    uint8_t *model, *then;          /* now, and when the backup began */
    bool stop;
    int running;
    GString *events;
} Disk;

static void note_event(void *opaque, const char *event, Value *data)
{
    Disk *d = opaque;
    const char *status = value_find_str(data, "status");
    g_string_append_printf(d->events, "%s%s%s ", event, status ? ":" : "", status ? status : "");
    value_free(data);
}

static void fill_random(uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)g_test_rand_int();
    }
}

static void write_all(BlockNode *node, BlockFixture *f, uint64_t offset, uint64_t bytes,
                      const uint8_t *data)
{
    BlockBackend *blk = blk_new(f->graph, NULL);
    expect_ok(blk_insert(blk, node));
    g_assert_cmpint(blk_pwrite(blk, offset, bytes, data), ==, 0);
    blk_unref(blk);
}

static uint8_t *read_all(BlockNode *node, BlockFixture *f)
{
    uint8_t *data = g_malloc(DISK);
    BlockBackend *blk = blk_new(f->graph, NULL);
    expect_ok(blk_insert(blk, node));
    g_assert_cmpint(blk_pread(blk, 0, DISK, data), ==, 0);
    blk_unref(blk);
    return data;
}

static BlockNode *make_layer(Disk *d, const char *name, const char *backing)
{
    g_autofree char *file = g_strconcat("test-mem:", name, NULL);
    g_autofree char *create = backing ? g_strdup_printf("size=%d,backing_file=test-mem:%s,"
                                                        "backing_fmt=qcow2",
                                                        DISK, backing)
                                      : g_strdup_printf("size=%d", DISK);
    g_autofree char *open =
        g_strdup_printf("driver=qcow2,node-name=%s,discard=unmap,file.driver=test-mem,"
                        "file.filename=%s%s%s",
                        name, name, backing ? ",backing=" : "", backing ? backing : "");
    expect_ok(create_text(d->f, file, "qcow2", create));
    return open_text(d->f, open);
}

static void put_random(Disk *d, BlockNode *node)
{
    g_autofree uint8_t *data = g_malloc(DISK / 8);
    for (int i = 0; i < 6; i++) {
        uint64_t at = (uint64_t)g_test_rand_int_range(0, DISK / 8 * 7 / SECTOR) * SECTOR;
        uint64_t bytes = (uint64_t)g_test_rand_int_range(1, DISK / 8 / SECTOR) * SECTOR;
        fill_random(data, bytes);
        write_all(node, d->f, at, bytes, data);
        memcpy(d->model + at, data, bytes);
    }
}

static void disk_begin(Disk *d, BlockFixture *f)
{
    *d = (Disk) { .f = f, .model = g_malloc0(DISK), .events = g_string_new(NULL) };
    block_graph_set_hooks(f->graph, NULL, note_event, d);
    d->base = make_layer(d, "base", NULL);
    put_random(d, d->base);
    d->mid = make_layer(d, "mid", "base");
    put_random(d, d->mid);
    d->active = make_layer(d, "active", "mid");
    put_random(d, d->active);
    d->blk = blk_new(f->graph, "drive0");
    expect_ok(blk_insert(d->blk, d->active));
    expect_ok(blk_attach_device(d->blk, "disk", NULL, NULL, true, false));
}

/* What the job did to the graph is what the drive shows. */
static void disk_end(Disk *d)
{
    g_autofree uint8_t *now = read_all(blk_node(d->blk), d->f);
    g_assert_cmpmem(now, DISK, d->model, DISK);
    block_graph_set_hooks(d->f->graph, NULL, NULL, NULL);
    blk_detach_device(d->blk);
    blk_unref(d->blk);
    node_unref(d->active);
    node_unref(d->mid);
    node_unref(d->base);
    while (block_node_next(d->f->graph, NULL)) {
        loop_run_once(d->f->loop, NS_PER_MS);
    }
    g_free(d->model);
    g_free(d->then);
    g_string_free(d->events, TRUE);
    g_clear_pointer(&mem_files, g_hash_table_destroy);
}

/* --- the guest --- */

static void guest_co(void *opaque)
{
    Disk *d = opaque;
    uint8_t data[16 * SECTOR];
    while (!d->stop) {
        BlockNode *node = blk_node(d->blk);
        uint64_t at = (uint64_t)g_test_rand_int_range(0, DISK / SECTOR - 16) * SECTOR;
        uint64_t bytes = (uint64_t)g_test_rand_int_range(1, 17) * SECTOR;
        fill_random(data, bytes);
        if (g_test_rand_int() % 4 == 0) {
            memset(data, 0, bytes);
            g_assert_cmpint(node_write_zeroes_co(node, at, bytes, REQ_MAY_UNMAP), ==, 0);
        } else {
            g_assert_cmpint(node_pwrite_co(node, at, bytes, data, 0), ==, 0);
        }
        memcpy(d->model + at, data, bytes);
        co_sleep_ns(CLOCK_REALTIME_NS, 100000);
    }
    d->running--;
}

static void guest_start(Disk *d)
{
    d->running = 1;
    d->stop = false;
    lock_acquire(&d->f->lock);
    co_start(d->f->loop, guest_co, d);
    lock_release(&d->f->lock);
}

static void guest_stop(Disk *d)
{
    d->stop = true;
    while (d->running) {
        loop_run_once(d->f->loop, NS_PER_MS);
    }
}

static Job *the_job(Disk *d)
{
    return job_next(d->f->graph, NULL);
}

static void run_until(Disk *d, JobStatus status)
{
    for (int i = 0; the_job(d) && the_job(d)->status != status; i++) {
        g_assert_cmpint(i, <, 200000);
        loop_run_once(d->f->loop, NS_PER_MS);
    }
}

/* Starting must happen where the loop's coroutines may. */
typedef struct Start {
    BlockGraph *graph;
    const CopySpec *copy;
    const ChainSpec *chain;
    Error *(*copy_fn)(BlockGraph *graph, const CopySpec *spec);
    Error *(*chain_fn)(BlockGraph *graph, const ChainSpec *spec);
} Start;

static void start_co(void *opaque)
{
    Start *s = opaque;
    expect_ok(s->copy ? s->copy_fn(s->graph, s->copy) : s->chain_fn(s->graph, s->chain));
}

static void start_copy(Disk *d, Error *(*fn)(BlockGraph *, const CopySpec *), const CopySpec *spec)
{
    Start s = { .graph = d->f->graph, .copy = spec, .copy_fn = fn };
    co_run(d->f->loop, start_co, &s);
}

static void start_chain(Disk *d, Error *(*fn)(BlockGraph *, const ChainSpec *),
                        const ChainSpec *spec)
{
    Start s = { .graph = d->f->graph, .chain = spec, .chain_fn = fn };
    co_run(d->f->loop, start_co, &s);
}

static void check_all(Disk *d)
{
    for (BlockNode *node = NULL; (node = block_node_next(d->f->graph, node));) {
        if (!strcmp(node->driver->name, "qcow2")) {
            BlockCheck check = check_node(d->f, node, 0);
            g_assert_cmpuint(check.corruptions + check.check_errors, ==, 0);
        }
    }
}

/* --- the tests --- */

static void test_mirror(BlockFixture *f, gconstpointer data)
{
    bool pivot = GPOINTER_TO_INT(data) & 1, active = GPOINTER_TO_INT(data) & 2;
    Disk d;
    disk_begin(&d, f);
    BlockNode *target = make_layer(&d, "target", NULL);
    CopySpec spec = { .job = { .device = "drive0" },
                      .source = d.active,
                      .target = node_ref(target),
                      .filter_name = active ? "the-filter" : NULL,
                      .write_blocking = active,
                      .sync = JOB_SYNC_FULL };
    guest_start(&d);
    start_copy(&d, job_mirror, &spec);
    run_until(&d, JOB_READY);
    for (int i = 0; i < 50; i++) {
        loop_run_once(f->loop, NS_PER_MS);
    }
    g_assert_true((block_node_find(f->graph, "the-filter") != NULL) == active);
    if (pivot) {
        expect_ok(job_complete(the_job(&d)));
    } else {
        guest_stop(&d);
        expect_ok(job_cancel(the_job(&d), false));
    }
    run_until(&d, JOB_UNDEFINED);
    guest_stop(&d);
    g_assert_true(blk_node(d.blk) == (pivot ? target : d.active));
    g_autofree uint8_t *copy = read_all(target, f);
    g_assert_cmpmem(copy, DISK, d.model, DISK);
    g_assert_cmpstr(d.events->str, ==,
                    "JOB_STATUS_CHANGE:created JOB_STATUS_CHANGE:running JOB_STATUS_CHANGE:ready "
                    "BLOCK_JOB_READY JOB_STATUS_CHANGE:waiting JOB_STATUS_CHANGE:pending "
                    "BLOCK_JOB_COMPLETED JOB_STATUS_CHANGE:concluded JOB_STATUS_CHANGE:null ");
    check_all(&d);
    node_unref(target);
    disk_end(&d);
}

static void test_cancel(BlockFixture *f, gconstpointer data)
{
    Disk d;
    disk_begin(&d, f);
    BlockNode *target = make_layer(&d, "target", NULL);
    CopySpec spec = { .job = { .device = "drive0", .speed = 100000 },
                      .source = d.active,
                      .target = target,
                      .sync = JOB_SYNC_FULL };
    start_copy(&d, job_mirror, &spec);
    expect_ok(job_pause(the_job(&d)));
    run_until(&d, JOB_PAUSED);
    expect_error(job_pause(the_job(&d)), "*already paused");
    expect_error(job_complete(the_job(&d)), "*in state 'paused' cannot accept*'complete'");
    expect_ok(job_resume(the_job(&d)));
    run_until(&d, JOB_RUNNING);
    expect_ok(job_cancel(the_job(&d), true));
    run_until(&d, JOB_UNDEFINED);
    g_assert_true(strstr(d.events->str, "BLOCK_JOB_CANCELLED") != NULL);
    disk_end(&d);
}

static void test_backup(BlockFixture *f, gconstpointer data)
{
    JobSync sync = (JobSync)GPOINTER_TO_INT(data);
    Disk d;
    disk_begin(&d, f);
    BlockNode *target = make_layer(&d, "target", NULL);
    CopySpec spec = { .job = { .device = "drive0" },
                      .source = d.active,
                      .target = node_ref(target),
                      .sync = sync };
    d.then = g_memdup2(d.model, DISK);
    if (sync == JOB_SYNC_BITMAP) { /* the rest is there from an earlier backup */
        expect_ok(block_bitmap_new(d.active, "b", 4096, false, &spec.bitmap));
        write_all(target, f, 0, DISK, d.then);
        put_random(&d, d.active);
        g_assert_cmpuint(block_bitmap_count(spec.bitmap), >, 0);
        memcpy(d.then, d.model, DISK);
    } else if (sync == JOB_SYNC_TOP) {
        expect_ok(node_set_backing_co(target, d.mid));
    }
    start_copy(&d, job_backup, &spec);
    guest_start(&d);
    run_until(&d, JOB_UNDEFINED);
    guest_stop(&d);
    g_autofree uint8_t *copy = read_all(target, f);
    g_assert_cmpmem(copy, DISK, d.then, DISK);
    if (sync == JOB_SYNC_BITMAP) { /* exactly what was written since */
        for (uint64_t at = 0; at < DISK; at += 4096) {
            if (memcmp(d.model + at, d.then + at, 4096)) {
                g_assert_true(block_bitmap_is_dirty(spec.bitmap, at));
            }
        }
        g_assert_false(spec.bitmap->busy);
    }
    check_all(&d);
    node_unref(target);
    disk_end(&d);
}

static void test_stream(BlockFixture *f, gconstpointer data)
{
    bool to_base = GPOINTER_TO_INT(data);
    Disk d;
    disk_begin(&d, f);
    ChainSpec spec = { .job = { .device = "drive0" },
                       .active = d.active,
                       .base = to_base ? d.base : NULL };
    guest_start(&d);
    start_chain(&d, job_stream, &spec);
    run_until(&d, JOB_UNDEFINED);
    guest_stop(&d);
    g_assert_true((d.active->backing ? d.active->backing->node : NULL) == spec.base);
    g_assert_cmpstr(d.active->backing_filename, ==, to_base ? "base" : NULL);
    check_all(&d);
    disk_end(&d);
}

static void test_commit(BlockFixture *f, gconstpointer data)
{
    bool whole = GPOINTER_TO_INT(data); /* active into base, else mid into base */
    Disk d;
    disk_begin(&d, f);
    ChainSpec spec = { .job = { .device = "drive0" },
                       .active = d.active,
                       .top = whole ? d.active : d.mid,
                       .base = d.base };
    guest_start(&d);
    start_chain(&d, job_commit, &spec);
    if (whole) {
        run_until(&d, JOB_READY);
        expect_ok(job_complete(the_job(&d)));
    }
    run_until(&d, JOB_UNDEFINED);
    guest_stop(&d);
    g_assert_true(whole ? blk_node(d.blk) == d.base : d.active->backing->node == d.base);
    check_all(&d);
    disk_end(&d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define JOB_TEST(path, data, fn)                                                                   \
    g_test_add("/block/job/" path, BlockFixture, GINT_TO_POINTER(data), block_fixture_setup, fn,   \
               block_fixture_teardown)
    JOB_TEST("mirror/pivot", 1, test_mirror);
    JOB_TEST("mirror/cancel-ready", 0, test_mirror);
    JOB_TEST("mirror/active-pivot", 3, test_mirror);
    JOB_TEST("mirror/active-cancel", 2, test_mirror);
    JOB_TEST("cancel", 0, test_cancel);
    JOB_TEST("backup/full", JOB_SYNC_FULL, test_backup);
    JOB_TEST("backup/bitmap", JOB_SYNC_BITMAP, test_backup);
    JOB_TEST("stream/all", 0, test_stream);
    JOB_TEST("stream/base", 1, test_stream);
    JOB_TEST("commit/active", 1, test_commit);
    JOB_TEST("commit/middle", 0, test_commit);
    return g_test_run();
}
