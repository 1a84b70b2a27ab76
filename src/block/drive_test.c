#include "block/drive.h"

#include <errno.h>
#include <string.h>

#include "block/test_mem.h"
#include "block/throttle.h"

static int warnings;

static void count_warning(const char *text)
{
    warnings++;
}

static Error *drive_new(BlockFixture *f, const char *text, Drive **ret)
{
    g_autoptr(KeyValues) kv = NULL;
    expect_ok(keyvalues_parse(text, NULL, &kv));
    return block_drive_new(f->graph, kv, DRIVE_IF_IDE, false, count_warning, ret);
}

static char *make_image(BlockFixture *f)
{
    char *path = block_fixture_path(f, "d.img");
    g_autofree char *data = g_malloc0(65536);
    memset(data, 'd', 4096);
    g_assert_true(g_file_set_contents(path, data, 65536, NULL));
    return path;
}

static void finish(BlockFixture *f)
{
    block_drives_free(f->graph);
}

static void expect_drive_error(BlockFixture *f, const char *text, const char *pattern)
{
    Drive *drive;
    g_autofree char *path = make_image(f);
    g_autofree char *whole = g_strdup_printf("file=%s,format=raw,%s", path, text);
    expect_error(drive_new(f, whole, &drive), pattern);
}

static void test_places(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_image(f);
    g_autofree char *ro = g_strdup_printf("file=%s,format=raw,readonly=on", path);
    g_autofree char *cd = g_strdup_printf("%s,media=cdrom,index=2", ro);
    g_autofree char *named = g_strdup_printf("%s,if=none,id=mine,serial=s1", ro);
    Drive *a, *b, *c, *d, *e;

    expect_ok(drive_new(f, ro, &a));
    g_assert_cmpstr(a->id, ==, "ide0-hd0");
    expect_ok(drive_new(f, cd, &b));
    g_assert_cmpstr(b->id, ==, "ide1-cd0");
    g_assert_true(b->cdrom && b->bus == 1 && b->unit == 0);
    expect_ok(drive_new(f, ro, &c));
    g_assert_cmpstr(c->id, ==, "ide0-hd1");
    expect_ok(drive_new(f, named, &d));
    g_assert_cmpstr(d->serial, ==, "s1");
    g_assert_true(blk_find(f->graph, "mine") == d->blk);
    expect_ok(drive_new(f, "if=floppy", &e)); /* empty */
    g_assert_cmpstr(e->id, ==, "floppy0");
    g_assert_false(blk_is_inserted(e->blk));
    g_assert_cmpint(blk_length(e->blk), ==, -ENOMEDIUM);
    g_assert_true(block_drive_get(f->graph, DRIVE_IF_IDE, 1, 0) == b);
    g_assert_cmpuint(block_drive_buses(f->graph, DRIVE_IF_IDE), ==, 2);
    Drive *again;
    expect_error(drive_new(f, cd, &again), "drive with bus=1, unit=0 (index=2) exists");
    expect_error(drive_new(f, named, &again), "There is a device with id*");
    expect_error(block_drives_check_claimed(f->graph),
                 "machine type does not support if=ide,bus=0,unit=0*");
    finish(f);
}

static void test_options(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_image(f);
    g_autofree char *text = g_strdup_printf(
        "file=%s,cache=writethrough,werror=stop,rerror=ignore,discard=unmap,aio=threads", path);
    Drive *drive;

    warnings = 0;
    expect_ok(drive_new(f, text, &drive));
    g_assert_cmpint(warnings, ==, 1); /* the format was guessed */
    g_assert_false(blk_write_cache(drive->blk));
    g_assert_true(blk_on_error(drive->blk, false) == BLK_ON_ERROR_STOP);
    g_assert_true(blk_on_error(drive->blk, true) == BLK_ON_ERROR_IGNORE);
    g_assert_true(blk_node(drive->blk)->unmap);
    finish(f);
    expect_drive_error(f, "cache=fast", "invalid cache option*");
    expect_drive_error(f, "if=idee", "unsupported bus type 'idee', did you mean 'ide'?");
    expect_drive_error(f, "media=tape", "'tape' invalid media*");
    expect_drive_error(f, "werror=panic", "'panic' is no way to treat a write error");
    expect_drive_error(f, "rerror=enospc", "'enospc' is no way to treat a read error");
    expect_drive_error(f, "iops=100,iops_rd=100", "*total values and read/write values*");
    expect_drive_error(f, "throttling.bps-total-max=1", "*goes with its steady limit*");
    expect_drive_error(f, "iops_size=1", "iops_size counts for iops limits*");
    expect_drive_error(f, "copy-on-read=on,readonly=on", "copy-on-read=on needs*");
    expect_drive_error(f, "reedonly=on", "*'reedonly'*");
    expect_drive_error(f, "detect-zeroes=unmap", "*needs discard=unmap");
    expect_drive_error(f, "index=1,unit=2", "'index' says the same as*");
    expect_drive_error(f, "aio=native", "aio=native was specified*");
    g_assert_null(block_drive_next(f->graph, NULL));
    g_assert_null(blk_next(f->graph, NULL));
}

/* The overlay is made although the images belong to another process (-incoming). */
static void test_inactive_snapshot(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_image(f);
    g_autofree char *text = g_strdup_printf("file=%s,format=raw,snapshot=on", path);
    Drive *drive;

    block_graph_begin_inactive(f->graph);
    expect_ok(drive_new(f, text, &drive));
    g_assert_cmpstr(blk_node(drive->blk)->driver->name, ==, "qcow2");
    finish(f);
}

static void test_snapshot(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_image(f), *contents = NULL;
    g_autofree char *text = g_strdup_printf("file=%s,format=raw,snapshot=on", path);
    Drive *drive;
    char back[8];

    expect_ok(drive_new(f, text, &drive));
    g_assert_false(blk_is_readonly(drive->blk));
    g_assert_cmpint(blk_length(drive->blk), ==, 65536);
    g_assert_cmpint(blk_pwrite(drive->blk, 4, 4, "over"), ==, 0);
    g_assert_cmpint(blk_pread(drive->blk, 0, 8, back), ==, 0);
    g_assert_cmpmem(back, 8, "ddddover", 8);
    finish(f);
    g_assert_true(g_file_get_contents(path, &contents, NULL, NULL));
    g_assert_cmpmem(contents, 8, "dddddddd", 8);
}

/* --- limits, copy on read --- */

static int reads_left;

static void read_done(void *opaque, int ret)
{
    g_assert_cmpint(ret, ==, 0);
    reads_left--;
}

/* How long so many reads of 4 KiB take, in milliseconds. */
static int64_t time_reads(BlockFixture *f, BlockBackend *blk, int count)
{
    static char buffer[4096];
    struct iovec iov = { buffer, sizeof(buffer) };
    gint64 start = g_get_monotonic_time();
    reads_left = count;
    lock_acquire(&f->lock);
    for (int i = 0; i < count; i++) {
        blk_aio_preadv(blk, 0, &iov, 1, read_done, NULL);
    }
    lock_release(&f->lock);
    while (reads_left) {
        loop_run_once(f->loop, NS_PER_MS);
    }
    return (g_get_monotonic_time() - start) / 1000;
}

static void test_throttle(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_image(f);
    g_autofree char *slow = g_strdup_printf("file=%s,format=raw,if=none,id=a,iops=100", path);
    g_autofree char *burst = g_strdup_printf(
        "file=%s,format=raw,if=none,id=b,throttling.bps-read=40960,throttling.bps-read-max=409600",
        path);
    ThrottleConfig none = { 0 };
    Drive *a, *b;
    expect_ok(drive_new(f, slow, &a));
    expect_ok(drive_new(f, burst, &b));
    /* Ten at once, then one each 10 ms. */
    g_assert_cmpint(time_reads(f, a->blk, 40), >=, 280);
    /* 100 at once by the burst, then 10 a second. */
    g_assert_cmpint(time_reads(f, b->blk, 103), >=, 150);
    g_assert_cmpstr(throttle_group_name(blk_throttle(b->blk)), ==, "b");
    blk_set_throttle(b->blk, NULL, &none);
    g_assert_null(blk_throttle(b->blk));
    blk_set_throttle(b->blk, "a", &none); /* a member of the other's group */
    g_assert_cmpuint(throttle_group_config(blk_throttle(b->blk))->buckets[THROTTLE_OPS_TOTAL].avg,
                     ==, 100);
    finish(f);
}

static void test_copy_on_read(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *base = make_image(f), *top = block_fixture_path(f, "top.qcow2");
    g_autofree char *opts =
        g_strdup_printf("size=65536,cluster_size=4k,backing_file=%s,backing_fmt=raw", base);
    g_autofree char *text =
        g_strdup_printf("file=%s,format=qcow2,if=none,id=c,copy-on-read=on", top);
    Drive *drive;
    char buffer[4096];
    expect_ok(create_text(f, top, "qcow2", opts));
    expect_ok(drive_new(f, text, &drive));
    BlockNode *filter = blk_node(drive->blk);
    g_assert_cmpstr(filter->driver->name, ==, "copy-on-read");
    g_assert_cmpint(blk_pread(drive->blk, 100, 4096, buffer), ==, 0);
    g_assert_true(buffer[0] == 'd' && buffer[4095] == 0);
    /* The overlay has two clusters of its own now. */
    BlockCheck check = check_node(f, filter->file->node, 0);
    g_assert_cmpuint(check.allocated_clusters, ==, 2);
    g_assert_cmpuint(check.corruptions + check.leaks, ==, 0);
    finish(f);
}

/* --- removable media --- */

typedef struct Tray {
    bool open, locked;
    int loads, unloads, requests;
} Tray;

static void tray_changed(void *opaque, bool loaded)
{
    Tray *t = opaque;
    *(loaded ? &t->loads : &t->unloads) += 1;
    t->open = !loaded;
}

static void tray_eject_request(void *opaque, bool force)
{
    ((Tray *)opaque)->requests++;
}

static bool tray_is_open(void *opaque)
{
    return ((Tray *)opaque)->open;
}

static bool tray_is_locked(void *opaque)
{
    return ((Tray *)opaque)->locked;
}

static void test_media(BlockFixture *f, gconstpointer unused)
{
    static const BlkDeviceOps ops = { tray_changed, tray_eject_request, tray_is_open,
                                      tray_is_locked, NULL };
    g_autofree char *path = make_image(f);
    Tray tray = { 0 };
    DriveRef ref = { .name = g_strdup("cd"), .blk = NULL };
    Drive *drive;
    BlockNode *node;

    expect_ok(drive_new(f, "if=none,id=cd,media=cdrom", &drive));
    expect_ok(drive_ref_attach(&ref, f->graph, "ide-cd0", &ops, &tray, true, false, true, false));
    expect_ok(block_open_file(f->graph, path, "raw", 0, NULL, &node));
    expect_ok(blk_change(ref.blk, node, false));
    node_unref(node);
    g_assert_cmpint(tray.loads, ==, 1);
    g_assert_false(tray.open);
    tray.locked = true;
    expect_error(blk_eject(ref.blk, false), "*locked*");
    g_assert_cmpint(tray.requests, ==, 1);
    expect_ok(blk_eject(ref.blk, true));
    g_assert_true(tray.open);
    g_assert_false(blk_is_inserted(ref.blk));
    drive_ref_detach(&ref);
    g_free(ref.name);
    ref = (DriveRef) { .name = (char *)"cb" };
    expect_error(drive_ref_attach(&ref, f->graph, "x", NULL, NULL, false, true, false, false),
                 "*'cb', did you mean 'cd'?");
    ref.name = NULL;
    expect_error(drive_ref_attach(&ref, f->graph, "x", NULL, NULL, false, true, false, false),
                 "drive property not set");
    finish(f);
}

#define ADD(path, fn)                                                                              \
    g_test_add("/block/drive/" path, BlockFixture, NULL, block_fixture_setup, fn,                  \
               block_fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("places", test_places);
    ADD("options", test_options);
    ADD("snapshot", test_snapshot);
    ADD("throttle", test_throttle);
    ADD("copy-on-read", test_copy_on_read);
    ADD("inactive-snapshot", test_inactive_snapshot);
    ADD("media", test_media);
    return g_test_run();
}
