/* Memory objects, against the host kernel's own view of the mappings. */
#include "hostmem/hostmem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

static Object *make(const char *type, ...)
{
    Object *obj = object_new(object_type_find(type));
    va_list args;

    va_start(args, type);
    for (const char *name; (name = va_arg(args, const char *));) {
        g_assert_null(object_set(obj, name, va_arg(args, const char *)));
    }
    va_end(args);
    return obj;
}

static Error *complete(Object *obj)
{
    return host_memory_type.complete(obj);
}

typedef struct Fixture {
    Lock lock;
    MemSystem *mem;
    Object *root;
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    lock_init(&f->lock, "machine", LOCK_RANK_MACHINE);
    f->mem = mem_system_new(&f->lock);
    f->root = object_new_container();
    lock_acquire(&f->lock);
}

static void teardown(Fixture *f, gconstpointer data)
{
    object_free(f->root);
    mem_system_free(f->mem);
    lock_release(&f->lock);
}

/* The line of the mapping at `host` in the kernel's list. */
static char *mapping(const void *host)
{
    g_autofree char *maps = NULL;
    g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    for (char **line = lines; *line; line++) {
        uint64_t first, last;
        if (sscanf(*line, "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", &first, &last) == 2 && first <= (uintptr_t)host &&
            (uintptr_t)host < last) {
            return g_strdup(*line);
        }
    }
    return NULL;
}

static void test_ram(Fixture *f, gconstpointer data)
{
    Object *obj = make("memory-backend-ram", "size", "3M", "merge", "off", NULL);
    HostMemory *memory = (HostMemory *)obj;
    RamBlock *block, *again;

    object_add_child(f->root, "m0", obj);
    g_assert_null(complete(obj));
    g_assert_false(host_memory_type.in_use(obj));
    g_assert_null(host_memory_take(memory, f->mem, &block));
    g_assert_cmpstr(block->name, ==, "m0");
    g_assert_cmpuint(block->size, ==, 3 * MiB);
    g_assert_true(host_memory_type.in_use(obj));
    g_autoptr(Error) err = host_memory_take(memory, f->mem, &again);
    g_assert_nonnull(strstr(error_message(err), "in use"));
    memset(block->host, 1, block->size);
    host_memory_give_back(memory, block);
    g_assert_false(host_memory_type.in_use(obj));
    memory->canonical_name = true;
    g_assert_null(host_memory_take(memory, f->mem, &block));
    g_assert_cmpstr(block->name, ==, "/m0");
    host_memory_give_back(memory, block);
}

static void test_file(Fixture *f, gconstpointer data)
{
    g_autofree char *path = NULL, *text = NULL;
    int fd = g_file_open_tmp("memory-XXXXXX", &path, NULL);
    Object *obj = make("memory-backend-file", "size", "1M", "mem-path", path, "share", "on", NULL);
    RamBlock *block;
    gsize size;

    close(fd);
    object_add_child(f->root, "m1", obj);
    g_assert_null(complete(obj));
    g_assert_null(host_memory_take((HostMemory *)obj, f->mem, &block));
    strcpy((char *)block->host + 4096, "in the file");
    host_memory_give_back((HostMemory *)obj, block);
    g_assert_true(g_file_get_contents(path, &text, &size, NULL));
    g_assert_cmpuint(size, ==, MiB);
    g_assert_cmpstr(text + 4096, ==, "in the file");
    unlink(path);
}

static void test_memfd(Fixture *f, gconstpointer data)
{
    Object *obj = make("memory-backend-memfd", "size", "1M", NULL);
    RamBlock *block;
    char there[12] = "";

    object_add_child(f->root, "m2", obj);
    g_assert_true(((HostMemory *)obj)->share);
    g_assert_null(complete(obj));
    g_assert_null(host_memory_take((HostMemory *)obj, f->mem, &block));
    g_autofree char *line = mapping(block->host);
    g_assert_nonnull(line);
    g_assert_nonnull(strstr(line, "rw-s"));
    strcpy((char *)block->host + 100, "by memory");
    g_assert_cmpint(pread(block->fd, there, 9, 100), ==, 9);
    g_assert_cmpstr(there, ==, "by memory");
    g_assert_cmpint(ftruncate(block->fd, 4096), ==, -1); /* sealed */
    host_memory_give_back((HostMemory *)obj, block);
}

static void refused(Object *obj, const char *why)
{
    g_autoptr(Error) err = complete(obj);
    g_assert_nonnull(err);
    if (!strstr(error_message(err), why)) {
        g_error("'%s' instead of '%s'", error_message(err), why);
    }
    object_free(obj);
}

static void test_refusals(Fixture *f, gconstpointer data)
{
    refused(make("memory-backend-ram", NULL), "'size'");
    refused(make("memory-backend-ram", "size", "1M", "prealloc", "on", "reserve", "off", NULL), "incompatible");
    refused(make("memory-backend-ram", "size", "1M", "policy", "bind", NULL), "host-nodes");
    refused(make("memory-backend-ram", "size", "1M", "policy", "bind", "host-nodes", "5-3", NULL), "not a range");
    refused(make("memory-backend-ram", "size", "1M", "policy", "bind", "host-nodes", "0-64", NULL), "not a range");
    refused(make("memory-backend-ram", "size", "1M", "host-nodes", "0", NULL), "policy default");
    refused(make("memory-backend-file", "size", "1M", NULL), "mem-path");
    refused(make("memory-backend-memfd", "size", "1M", "hugetlbsize", "2M", NULL), "hugetlb=on");
    refused(make("memory-backend-memfd", "size", "1M", "hugetlb", "on", "hugetlbsize", "3M", NULL), "power of two");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/hostmem/ram", Fixture, NULL, setup, test_ram, teardown);
    g_test_add("/hostmem/file", Fixture, NULL, setup, test_file, teardown);
    g_test_add("/hostmem/memfd", Fixture, NULL, setup, test_memfd, teardown);
    g_test_add("/hostmem/refusals", Fixture, NULL, setup, test_refusals, teardown);
    return g_test_run();
}
