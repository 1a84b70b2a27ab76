#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "block/test_util.h"

static char *make_file(BlockFixture *f, const char *name, size_t size)
{
    char *path = block_fixture_path(f, name);
    g_autofree char *data = g_malloc(size);
    for (size_t i = 0; i < size; i++) {
        data[i] = (char)(i * 7 + i / 512);
    }
    g_assert_true(g_file_set_contents(path, data, (gssize)size, NULL));
    return path;
}

static BlockNode *open_raw(BlockFixture *f, const char *path, unsigned flags)
{
    BlockNode *node;
    expect_ok(block_open_file(f->graph, path, "raw", flags, NULL, &node));
    return node;
}

static void done_count(void *opaque, int ret)
{
    g_assert_cmpint(ret, ==, 0);
    ++*(int *)opaque;
}

static void test_backend_io(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 65536);
    BlockNode *node = open_raw(f, path, OPEN_WRITE);
    BlockBackend *blk = blk_new(f->graph, "disk");
    char data[1024], back[1024], half[512];
    int done = 0;

    expect_ok(blk_insert(blk, node));
    node_unref(node);
    g_assert_cmpint(blk_length(blk), ==, 65536);
    memset(data, 'x', sizeof(data));
    struct iovec iov[2] = { { data, 100 }, { data + 100, 924 } },
                 read_iov[2] = { { back, 512 }, { half, 512 } };
    lock_acquire(&f->lock);
    blk_aio_pwritev(blk, 300, iov, 2, REQ_FUA, done_count, &done);
    blk_aio_write_zeroes(blk, 300 + 1024, 5000, REQ_MAY_UNMAP, done_count, &done);
    blk_aio_discard(blk, 8192, 4096, done_count, &done);
    blk_aio_flush(blk, done_count, &done);
    g_assert_cmpint(done, ==, 0);
    lock_release(&f->lock);
    while (done < 4) {
        loop_run_once(f->loop, -1);
    }
    lock_acquire(&f->lock);
    blk_aio_preadv(blk, 300, read_iov, 2, done_count, &done);
    blk_drain(blk);
    lock_release(&f->lock);
    g_assert_cmpint(done, ==, 5);
    g_assert_cmpmem(back, 512, data, 512);
    g_assert_cmpmem(half, 512, data, 512);
    g_assert_cmpint(blk_pread(blk, 299, 1, back), ==, 0);
    g_assert_cmpint(back[0], ==, (char)(299 * 7));
    g_assert_cmpint(blk_pread(blk, 300 + 1024 + 4999, 2, back), ==, 0);
    g_assert_cmpint(back[0], ==, 0);
    g_assert_cmpint(back[1], ==, (char)(6324 * 7 + 6324 / 512));
    blk_unref(blk);
}

static void test_direct_is_padded(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 65536 + 100), *contents = NULL;
    BlockNode *node;
    Error *err = block_open_file(f->graph, path, "raw", OPEN_WRITE | OPEN_DIRECT, NULL, &node);
    if (err) { /* tmpfs */
        error_free(err);
        g_test_skip("no O_DIRECT here");
        return;
    }
    BlockBackend *blk = blk_new(f->graph, NULL);
    char back[300];
    expect_ok(blk_insert(blk, node));
    g_assert_cmpint(blk_pwrite(blk, 5001, 7, "seven77"), ==, 0);
    g_assert_cmpint(blk_pread(blk, 5000, 9, back), ==, 0);
    g_assert_cmpmem(back + 1, 7, "seven77", 7);
    g_assert_cmpint(blk_pread(blk, 65536, 100, back), ==, 0);
    node_unref(node);
    blk_unref(blk);
    g_assert_true(g_file_get_contents(path, &contents, NULL, NULL));
    g_assert_cmpint(contents[5000], ==, (char)(5000 * 7 + 5000 / 512));
    g_assert_cmpint(contents[5008], ==, (char)(5008 * 7 + 5008 / 512));
}

/* Many requests at a time through the ring, more than it has entries. */
static void test_uring(BlockFixture *f, gconstpointer data)
{
    g_autofree char *path = make_file(f, "a.img", 1 << 20);
    g_autoptr(KeyValues) more = keyvalues_new();
    BlockNode *node;
    keyvalues_set(more, "file.aio", "io_uring");
    Error *err = block_open_file(f->graph, path, "raw", OPEN_WRITE, more, &node);
    if (err) {
        error_free(err);
        g_test_skip("no io_uring here");
        return;
    }
    BlockBackend *blk = blk_new(f->graph, NULL);
    expect_ok(blk_insert(blk, node));
    node_unref(node);
    enum { COUNT = 300 };
    g_autofree char *blocks = g_malloc(COUNT * 2048), *back = g_malloc(COUNT * 2048);
    int done = 0;
    for (int i = 0; i < COUNT * 2048; i++) {
        blocks[i] = (char)(i * 13 + i / 2048);
    }
    lock_acquire(&f->lock);
    for (int i = 0; i < COUNT; i++) {
        struct iovec iov = { blocks + i * 2048, 2048 };
        blk_aio_pwritev(blk, (uint64_t)i * 2048 + 3, &iov, 1, 0, done_count, &done);
    }
    blk_drain(blk);
    blk_aio_flush(blk, done_count, &done);
    blk_drain(blk);
    for (int i = 0; i < COUNT; i++) {
        struct iovec iov = { back + i * 2048, 2048 };
        blk_aio_preadv(blk, (uint64_t)i * 2048 + 3, &iov, 1, done_count, &done);
    }
    blk_drain(blk);
    lock_release(&f->lock);
    g_assert_cmpint(done, ==, 2 * COUNT + 1);
    g_assert_cmpmem(back, COUNT * 2048, blocks, COUNT * 2048);
    blk_unref(blk);
}

static void test_locks(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 4096);
    BlockNode *first = open_raw(f, path, OPEN_WRITE), *second;
    BlockBackend *blk = blk_new(f->graph, "d");

    expect_ok(blk_insert(blk, first));
    expect_ok(blk_attach_device(blk, "ide0", NULL, NULL, true, false));
    /* Another open file description in the same process conflicts as another process would. */
    second = open_raw(f, path, OPEN_WRITE);
    BlockBackend *other = blk_new(f->graph, "e");
    expect_ok(blk_insert(other, second));
    expect_error(blk_attach_device(other, "ide1", NULL, NULL, true, false),
                 "Failed to get \"write\" lock");
    expect_error(blk_attach_device(other, "ide1", NULL, NULL, false, false),
                 "Failed to get shared \"write\" lock");
    expect_error(blk_attach_device(blk, "ide2", NULL, NULL, true, false), "*in use*");
    blk_detach_device(blk);
    expect_ok(blk_attach_device(other, "ide1", NULL, NULL, true, true));
    expect_ok(blk_attach_device(blk, "ide0", NULL, NULL, true, true));
    blk_detach_device(blk);
    blk_detach_device(other);
    node_unref(first);
    node_unref(second);
    blk_unref(blk);
    blk_unref(other);
}

static void test_claims_in_graph(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 4096);
    BlockNode *node = open_raw(f, path, OPEN_WRITE);
    BlockEdge *a, *b;

    expect_ok(block_root_attach(node, "a", CLAIM_READ | CLAIM_WRITE, CLAIM_READ, &a));
    expect_error(block_root_attach(node, "b", CLAIM_WRITE, CLAIM_ALL, &b),
                 "*'write'*required by*'b'*unshared by*'a'*");
    expect_ok(block_root_set_claims(a, CLAIM_READ, CLAIM_READ));
    expect_error(block_root_attach(node, "b", CLAIM_WRITE, CLAIM_ALL, &b),
                 "*'write'*required by*'b'*unshared by*'a'*");
    expect_ok(block_root_attach(node, "b", CLAIM_READ, CLAIM_ALL, &b));
    block_root_detach(a);
    block_root_detach(b);
    node_unref(node);
}

static void test_probed_raw_is_guarded(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 4096);
    BlockNode *node;
    char back[4];

    expect_ok(block_open_file(f->graph, path, NULL, OPEN_WRITE, NULL, &node));
    g_assert_cmpstr(node->driver->name, ==, "raw");
    BlockBackend *blk = blk_new(f->graph, NULL);
    expect_ok(blk_insert(blk, node));
    g_assert_cmpint(blk_pwrite(blk, 0, 4, "abcd"), ==, 0);
    if (block_driver_find("qcow2")) {
        g_assert_cmpint(blk_pwrite(blk, 0, 8, "QFI\xfb\0\0\0\2"), ==, -EPERM);
    }
    g_assert_cmpint(blk_pread(blk, 0, 4, back), ==, 0);
    g_assert_cmpmem(back, 4, "abcd", 4);
    node_unref(node);
    blk_unref(blk);
}

static void test_messages(BlockFixture *f, gconstpointer unused)
{
    BlockNode *node;
    g_autofree char *path = make_file(f, "a.img", 4096);
    g_autoptr(KeyValues) more = keyvalues_new();

    expect_error(block_open_file(f->graph, "/nonexistent/x", NULL, 0, NULL, &node),
                 "Could not open '/nonexistent/x': No such file*");
    expect_error(block_open_file(f->graph, path, "rae", 0, NULL, &node),
                 "*Unknown driver 'rae', did you mean 'raw'?");
    expect_error(block_open_file(f->graph, "foo:bar", NULL, 0, NULL, &node),
                 "*Unknown protocol 'foo'");
    keyvalues_set(more, "ofset", "512");
    expect_error(block_open_file(f->graph, path, "raw", 0, more, &node),
                 "*'ofset', did you mean 'offset'?");
    keyvalues_remove(more, "ofset");
    keyvalues_set(more, "offset", "4k");
    keyvalues_set(more, "size", "1");
    expect_error(block_open_file(f->graph, path, "raw", 0, more, &node), "*has to be smaller*");
}

static void test_json_and_window(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 8192);
    g_autofree char *json = g_strdup_printf("json:{\"driver\":\"raw\",\"offset\":512,\"size\":1024,"
                                            "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
                                            path);
    BlockNode *node;
    char back[2];

    expect_ok(block_open_file(f->graph, json, NULL, 0, NULL, &node));
    g_assert_cmpuint(node->size, ==, 1024);
    BlockBackend *blk = blk_new(f->graph, NULL);
    expect_ok(blk_insert(blk, node));
    g_assert_cmpint(blk_pread(blk, 1, 2, back), ==, 0);
    g_assert_cmpint(back[0], ==, (char)(513 * 7 + 1));
    g_assert_cmpint(blk_pwrite(blk, 0, 2, back), ==, -EPERM);
    node_unref(node);
    blk_unref(blk);
}

/* --- error policy --- */

typedef struct Policy {
    int stops, done, last;
} Policy;

static void policy_stop(void *opaque)
{
    ((Policy *)opaque)->stops++;
}

static void policy_done(void *opaque, int ret)
{
    Policy *p = opaque;
    p->done++;
    p->last = ret;
}

static void test_error_policy(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 4096);
    BlockNode *node = open_raw(f, path, OPEN_WRITE);
    BlockBackend *blk = blk_new(f->graph, "d");
    Policy p = { 0 };
    char byte = 0;
    struct iovec iov = { &byte, 1 };

    block_graph_set_hooks(f->graph, policy_stop, NULL, &p);
    expect_ok(blk_insert(blk, node));
    expect_ok(blk_attach_device(blk, "dev", NULL, NULL, true, false));
    lock_acquire(&f->lock);
    blk_aio_preadv(blk, 4096, &iov, 1, policy_done, &p); /* beyond the end */
    blk_drain(blk);
    g_assert_cmpint(p.last, ==, -EIO);
    blk_set_on_error(blk, BLK_ON_ERROR_IGNORE, BLK_ON_ERROR_STOP);
    blk_aio_preadv(blk, 4096, &iov, 1, policy_done, &p);
    blk_drain(blk);
    g_assert_cmpint(p.last, ==, 0);
    g_assert_cmpint(p.done, ==, 2);
    BlkRequest *req = blk_aio_pwritev(blk, 4096, &iov, 1, 0, policy_done, &p);
    blk_drain(blk);
    g_assert_cmpint(p.done, ==, 2);
    g_assert_cmpint(p.stops, ==, 1);
    g_assert_cmpstr(blk_io_status(blk), ==, "failed");
    block_graph_resume(f->graph);
    blk_drain(blk);
    g_assert_cmpint(p.stops, ==, 2);
    blk_cancel(req);
    blk_drain(blk);
    g_assert_cmpint(p.done, ==, 3);
    g_assert_cmpint(p.last, ==, -ECANCELED);
    lock_release(&f->lock);
    blk_detach_device(blk);
    node_unref(node);
    blk_unref(blk);
}

/* A name belongs to one node, also while that is only being opened. */
static void test_names(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 65536);
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *node;

    keyvalues_set(opts, "driver", "raw");
    keyvalues_set(opts, "node-name", "one");
    keyvalues_set(opts, "file.driver", "file");
    keyvalues_set(opts, "file.node-name", "one");
    keyvalues_set(opts, "file.filename", path);
    expect_error(block_open_options(f->graph, opts, &node), "Duplicate nodes with node-name='one'");
    keyvalues_set(opts, "file.node-name", "two");
    expect_ok(block_open_options(f->graph, opts, &node));
    node_unref(node);
}

/* A node whose last user has gone flushes before it goes: meanwhile nobody may find it. */
static void test_closing(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = make_file(f, "a.img", 65536);
    g_autoptr(KeyValues) more = keyvalues_new();
    BlockNode *node;
    BlockBackend *blk = blk_new(f->graph, NULL);

    keyvalues_set(more, "node-name", "one");
    expect_ok(block_open_file(f->graph, path, "raw", OPEN_WRITE, more, &node));
    expect_ok(blk_insert(blk, node));
    g_assert_cmpint(blk_pwrite(blk, 0, 5, "hello"), ==, 0);
    blk_unref(blk);
    g_assert_true(block_node_find(f->graph, "one") == node);
    node_unref(node);
    g_assert_null(block_node_find(f->graph, "one"));
    expect_ok(block_open_file(f->graph, path, "raw", 0, more, &node)); /* the name is free */
    g_assert_true(block_node_find(f->graph, "one") == node);
    node_unref(node);
}

typedef struct CreateCall {
    BlockGraph *graph;
    const char *path;
    bool done;
    Error *err;
} CreateCall;

static void create_co(void *opaque)
{
    CreateCall *call = opaque;
    g_autoptr(KeyValues) opts = keyvalues_new();
    keyvalues_set(opts, "size", "1M");
    call->err = block_create_co(call->graph, call->path, block_driver_find("qcow2"), opts);
    call->done = true;
}

/* The graph is activated while an image is made: it stays so. */
static void test_create_in_between(BlockFixture *f, gconstpointer unused)
{
    g_autofree char *path = block_fixture_path(f, "a.qcow2");
    CreateCall call = { .graph = f->graph, .path = path };

    block_graph_begin_inactive(f->graph);
    lock_acquire(&f->lock);
    co_start(f->loop, create_co, &call);
    g_assert_false(call.done);
    lock_release(&f->lock);
    expect_ok(block_graph_set_active(f->graph, true));
    while (!call.done) {
        loop_run_once(f->loop, -1);
    }
    expect_ok(call.err);
    BlockNode *node = open_raw(f, path, OPEN_WRITE);
    g_assert_false(node->inactive);
    node_unref(node);
}

#define ADD(path, fn)                                                                              \
    g_test_add("/block/" path, BlockFixture, NULL, block_fixture_setup, fn, block_fixture_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("backend/io", test_backend_io);
    ADD("request/direct", test_direct_is_padded);
    ADD("file/uring", test_uring);
    ADD("file/locks", test_locks);
    ADD("claims", test_claims_in_graph);
    ADD("raw/guard", test_probed_raw_is_guarded);
    ADD("open/messages", test_messages);
    ADD("open/names", test_names);
    ADD("graph/closing", test_closing);
    ADD("graph/create-in-between", test_create_in_between);
    ADD("open/json", test_json_and_window);
    ADD("backend/error-policy", test_error_policy);
    return g_test_run();
}
