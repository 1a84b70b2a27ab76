/* Memory that is brought when it is touched: by threads, by the kernel, in the background, or not at all. */
#include "migration/lazy_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/rcu.h"

enum { PAGES = 4096, THREADS = 4 };

typedef struct Fixture {
    int host;
    Lock lock;
    MemSystem *mem;
    RamBlock *block;
    LazyRam *ram;
    _Atomic unsigned wanted, failed, ended;
    _Atomic bool may_fill;
    bool damaged; /* page 7 cannot be had */
} Fixture;

/* Every fourth page is zero, the others have their number everywhere. */
static void content_of(uint64_t page, uint64_t *ret_words)
{
    for (unsigned n = 0; n < MEM_PAGE_SIZE / 8; n++) {
        ret_words[n] = page % 4 ? page : 0;
    }
}

static void bring(Fixture *f, LazyRam *ram, RamBlock *block, uint64_t page)
{
    uint64_t words[MEM_PAGE_SIZE / 8];

    if (page == 7 && f->damaged) {
        lazy_ram_fail(ram, error_new("page 7 is lost"));
    } else if (page % 4 == 0) {
        lazy_ram_place_zero(ram, block, page, 1);
    } else {
        content_of(page, words);
        lazy_ram_place(ram, block, page, 1, words);
    }
}

static void want(void *opaque, LazyRam *ram, RamBlock *block, uint64_t page, pid_t thread)
{
    Fixture *f = opaque;
    f->wanted++;
    bring(f, ram, block, page);
}

static Error *fill(void *opaque, LazyRam *ram)
{
    Fixture *f = opaque;
    while (!f->may_fill && !lazy_ram_is_over(ram)) {
        g_usleep(1000);
    }
    for (uint64_t page = 0; page < PAGES && !lazy_ram_is_over(ram); page++) {
        if (page % 4 && !lazy_ram_is_present(ram, f->block, page)) {
            bring(f, ram, f->block, page);
        }
    }
    return NULL;
}

static void failed(void *opaque, const Error *err)
{
    Fixture *f = opaque;
    g_assert_cmpstr(error_message(err), ==, "page 7 is lost");
    f->failed++;
}

static void ended(void *opaque)
{
    ((Fixture *)opaque)->ended++;
}

static const LazyRamProvider provider = { .want = want, .fill = fill, .failed = failed, .ended = ended };

static bool begin(Fixture *f, const uint8_t *missing)
{
    f->host = lazy_ram_open_host();
    if (f->host < 0) {
        g_test_skip("this host has no userfaultfd");
        return false;
    }
    lock_init(&f->lock, "machine", LOCK_RANK_MACHINE);
    f->mem = mem_system_new(&f->lock);
    Error *err = ram_block_new(f->mem, "ram", PAGES * MEM_PAGE_SIZE, NULL, &f->block);
    g_assert_null(err);
    memset(f->block->host, 0xee, f->block->size);
    f->ram = lazy_ram_new(f->host, &provider, f);
    g_assert_cmpint(lazy_ram_add(f->ram, f->block, missing), ==, 0);
    err = lazy_ram_start(f->ram);
    g_assert_null(err);
    return true;
}

static void finish(Fixture *f)
{
    lazy_ram_free(f->ram);
    mem_system_free(f->mem);
    lock_fini(&f->lock);
    close(f->host);
}

static void check_page(const Fixture *f, uint64_t page)
{
    uint64_t words[MEM_PAGE_SIZE / 8];
    content_of(page, words);
    g_assert_cmpmem(f->block->host + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE, words, MEM_PAGE_SIZE);
}

static void *toucher(void *opaque)
{
    Fixture *f = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)(uintptr_t)pthread_self());
    for (unsigned n = 0; n < 2000; n++) {
        check_page(f, (uint64_t)g_rand_int_range(rand, 0, PAGES));
    }
    return NULL;
}

static void test_threads(void)
{
    Fixture f = { 0 };
    pthread_t threads[THREADS];

    if (!begin(&f, NULL)) {
        return;
    }
    for (unsigned n = 0; n < THREADS; n++) {
        g_assert_cmpint(pthread_create(&threads[n], NULL, toucher, &f), ==, 0);
    }
    while (f.wanted == 0) {
        g_usleep(100);
    }
    f.may_fill = true;
    for (unsigned n = 0; n < THREADS; n++) {
        pthread_join(threads[n], NULL);
    }
    lazy_ram_wait(f.ram);
    for (uint64_t page = 0; page < PAGES; page++) {
        check_page(&f, page);
    }
    g_assert_cmpuint(f.wanted, >, 0);
    g_assert_cmpuint(f.wanted, ==, lazy_ram_faults(f.ram));
    finish(&f);
    g_assert_cmpuint(f.ended, ==, 1);
    g_assert_cmpuint(f.failed, ==, 0);
}

/* What a write to a page keeps of its content; reads and writes of the kernel. */
static void test_kernel(void)
{
    Fixture f = { 0 };
    int pipes[2];
    char text[8];

    if (!begin(&f, NULL)) {
        return;
    }
    g_assert_cmpint(pipe(pipes), ==, 0);
    g_assert_cmpint(write(pipes[1], f.block->host + 5 * MEM_PAGE_SIZE, 8), ==, 8);
    g_assert_cmpint(read(pipes[0], text, 8), ==, 8);
    g_assert_cmpmem(text, 8, "\5\0\0\0\0\0\0", 8);
    g_assert_cmpint(write(pipes[1], "ostrich", 8), ==, 8);
    g_assert_cmpint(read(pipes[0], f.block->host + 9 * MEM_PAGE_SIZE, 8), ==, 8);
    g_assert_cmpmem(f.block->host + 9 * MEM_PAGE_SIZE, 16, "ostrich\0\t\0\0\0\0\0\0", 16);
    g_assert_cmpuint(f.wanted, ==, 2);
    close(pipes[0]);
    close(pipes[1]);
    finish(&f);
}

/* A page that the guest gave up is zero afterwards, though it was placed before. */
static void test_discarded(void)
{
    static const uint8_t zeroes[MEM_PAGE_SIZE];
    Fixture f = { 0 };
    uint8_t *page;

    if (!begin(&f, NULL)) {
        return;
    }
    page = f.block->host + 6 * MEM_PAGE_SIZE;
    check_page(&f, 6);
    g_assert_cmpint(madvise(page, MEM_PAGE_SIZE, MADV_DONTNEED), ==, 0);
    g_assert_cmpmem(page, MEM_PAGE_SIZE, zeroes, MEM_PAGE_SIZE);
    finish(&f);
}

static void test_part(void)
{
    Fixture f = { .may_fill = false };
    uint8_t missing[PAGES] = { 0 };

    missing[5] = 1;
    if (!begin(&f, missing)) {
        return;
    }
    g_assert_cmpint(f.block->host[4 * MEM_PAGE_SIZE], ==, 0xee);
    g_assert_true(lazy_ram_is_present(f.ram, f.block, 4));
    g_assert_false(lazy_ram_is_present(f.ram, f.block, 5));
    check_page(&f, 5);
    while (!lazy_ram_is_present(f.ram, f.block, 5)) { /* it is noted after whoever waited was woken */
        g_usleep(100);
    }
    finish(&f);
}

static void test_failure(void)
{
    static const uint8_t zeroes[MEM_PAGE_SIZE];
    Fixture f = { .damaged = true };

    if (!begin(&f, NULL)) {
        return;
    }
    check_page(&f, 6);
    g_assert_cmpmem(f.block->host + 7 * MEM_PAGE_SIZE, MEM_PAGE_SIZE, zeroes, MEM_PAGE_SIZE);
    g_assert_cmpuint(f.failed, ==, 1);
    lazy_ram_wait(f.ram);
    g_assert_true(lazy_ram_is_over(f.ram));
    finish(&f);
    g_assert_cmpuint(f.failed, ==, 1);
}

/* The owner gives up in the middle. */
static void test_freed_early(void)
{
    Fixture f = { 0 };

    if (begin(&f, NULL)) {
        check_page(&f, 1);
        finish(&f);
        g_assert_cmpuint(f.ended, ==, 1);
    }
}

static void test_refused(void)
{
    Fixture f = { 0 };
    RamOptions shared = { .share = true };
    RamBlock *block;

    if (begin(&f, NULL)) {
        Error *err = ram_block_new(f.mem, "shared", MEM_PAGE_SIZE, &shared, &block);
        g_assert_null(err);
        g_assert_cmpint(lazy_ram_add(f.ram, block, NULL), ==, -EINVAL);
        finish(&f);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lazy-ram/threads", test_threads);
    g_test_add_func("/lazy-ram/kernel", test_kernel);
    g_test_add_func("/lazy-ram/discarded", test_discarded);
    g_test_add_func("/lazy-ram/part", test_part);
    g_test_add_func("/lazy-ram/failure", test_failure);
    g_test_add_func("/lazy-ram/freed-early", test_freed_early);
    g_test_add_func("/lazy-ram/refused", test_refused);
    return g_test_run();
}
