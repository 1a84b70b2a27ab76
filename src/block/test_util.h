/* For the tests of the block layer: a loop, a graph, scratch files. */
#ifndef OSTRICH_BLOCK_TEST_UTIL_H
#define OSTRICH_BLOCK_TEST_UTIL_H

#include <glib/gstdio.h>

#include "block/backend.h"

typedef struct BlockFixture {
    Clocks *clocks;
    Loop *loop;
    Lock lock;
    BlockGraph *graph;
    char *dir;
} BlockFixture;

static inline void block_fixture_setup(BlockFixture *f, gconstpointer unused)
{
    f->clocks = clocks_new();
    lock_init(&f->lock, "test", LOCK_RANK_MACHINE);
    f->loop = loop_new("test", f->clocks, &f->lock);
    f->graph = block_graph_new(f->loop);
    f->dir = g_dir_make_tmp("block-test-XXXXXX", NULL);
}

static inline void block_fixture_teardown(BlockFixture *f, gconstpointer unused)
{
    block_graph_free(f->graph);
    loop_free(f->loop);
    clocks_free(f->clocks);
    lock_fini(&f->lock);
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir));) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_unlink(path);
    }
    g_rmdir(f->dir);
    g_free(f->dir);
}

static inline char *block_fixture_path(BlockFixture *f, const char *name)
{
    return g_build_filename(f->dir, name, NULL);
}

/* Fails the test with the message. */
static inline void expect_ok(Error *err)
{
    if (err) {
        g_error("%s", error_message(err));
    }
}

static inline void expect_error(Error *err, const char *pattern)
{
    g_assert_nonnull(err);
    if (!g_pattern_match_simple(pattern, error_message(err))) {
        g_error("message '%s' is not like '%s'", error_message(err), pattern);
    }
    error_free(err);
}

#endif
