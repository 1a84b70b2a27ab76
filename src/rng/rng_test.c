/* Sources of random numbers. */
#include "rng/rng.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "event/clock.h"

typedef struct Fixture {
    Clocks *clocks;
    Loop *loop;
    unsigned ready;
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    f->clocks = clocks_new();
    f->loop = loop_new("test", f->clocks, NULL);
}

static void teardown(Fixture *f, gconstpointer data)
{
    loop_free(f->loop);
    clocks_free(f->clocks);
}

static void on_ready(void *opaque)
{
    ((Fixture *)opaque)->ready++;
}

static Object *make(const char *type, const char *filename)
{
    Object *obj = object_new(object_type_find(type));
    if (filename) {
        g_assert_null(object_set(obj, "filename", filename));
    }
    return obj;
}

static void test_builtin(Fixture *f, gconstpointer data)
{
    Object *obj = make("rng-builtin", NULL);
    RngReader reader, plain;
    uint8_t a[64] = { 0 }, b[64] = { 0 };

    rng_reader_init(&reader, (RngSource *)obj, f->loop, on_ready, f);
    rng_reader_init(&plain, NULL, f->loop, on_ready, f);
    g_assert_true(rng_source_type.in_use(obj));
    g_assert_cmpuint(rng_read(&reader, a, sizeof(a)), ==, sizeof(a));
    g_assert_cmpuint(rng_read(&plain, b, sizeof(b)), ==, sizeof(b));
    g_assert_cmpint(memcmp(a, b, sizeof(a)), !=, 0);
    rng_reader_fini(&reader);
    rng_reader_fini(&plain);
    g_assert_false(rng_source_type.in_use(obj));
    object_free(obj);
}

/* A pipe that has nothing yet: the reader is told when it has. */
static void test_waits(Fixture *f, gconstpointer data)
{
    g_autofree char *dir = g_dir_make_tmp("rng-XXXXXX", NULL), *path = g_build_filename(dir, "fifo", NULL);
    RngReader reader;
    char buf[8] = "";

    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    Object *obj = make("rng-random", path);
    g_assert_null(obj->type->complete(obj));
    FILE *in = fopen(path, "w");
    rng_reader_init(&reader, (RngSource *)obj, f->loop, on_ready, f);
    g_assert_cmpuint(rng_read(&reader, buf, 4), ==, 0);
    loop_run_once(f->loop, 0);
    g_assert_cmpuint(f->ready, ==, 0);
    fputs("abcd", in);
    fflush(in);
    while (!f->ready) {
        loop_run_once(f->loop, -1);
    }
    g_assert_cmpuint(rng_read(&reader, buf, 4), ==, 4);
    g_assert_cmpstr(buf, ==, "abcd");
    g_assert_cmpuint(rng_read(&reader, buf, 4), ==, 0);
    rng_reader_fini(&reader); /* while it waits */
    object_free(obj);
    fclose(in);
    unlink(path);
    rmdir(dir);
}

static void test_missing(Fixture *f, gconstpointer data)
{
    Object *obj = make("rng-random", "/nonexistent/source");
    g_autoptr(Error) err = obj->type->complete(obj);
    g_assert_nonnull(strstr(error_message(err), "/nonexistent/source"));
    object_free(obj);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/rng/builtin", Fixture, NULL, setup, test_builtin, teardown);
    g_test_add("/rng/waits", Fixture, NULL, setup, test_waits, teardown);
    g_test_add("/rng/missing", Fixture, NULL, setup, test_missing, teardown);
    return g_test_run();
}
