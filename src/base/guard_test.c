/* Guarded memory, of files that are shortened under it. */
#include "base/guard.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 64 * 1024 };

static uint8_t *map(int *ret_fd)
{
    *ret_fd = memfd_create("guard", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(*ret_fd, SIZE), ==, 0);
    uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
    g_assert(memory != MAP_FAILED);
    return memory;
}

static void test_shortened(void)
{
    int fd;
    uint8_t *memory = map(&fd);

    g_assert_true(guard_add(memory, SIZE));
    memset(memory, 5, SIZE);
    g_assert_false(guard_is_lost(memory));
    g_assert_cmpint(ftruncate(fd, 4096), ==, 0);
    g_assert_cmpint(memory[100], ==, 5);
    g_assert_false(guard_is_lost(memory));
    g_assert_cmpint(*(volatile uint8_t *)(memory + SIZE - 1), ==, 0);
    g_assert_true(guard_is_lost(memory));
    memory[SIZE - 1] = 7;
    g_assert_cmpint(memory[SIZE - 1], ==, 7);
    guard_remove(memory);
    munmap(memory, SIZE);
    close(fd);
}

/* What is not guarded ends the program, as ever. */
static void test_others(void)
{
    if (g_test_subprocess()) {
        int fd, other;
        uint8_t *memory = map(&fd), *guarded = map(&other);
        guard_add(guarded, SIZE);
        guard_add(memory, SIZE);
        guard_remove(memory);
        if (ftruncate(fd, 0) == 0) {
            *(volatile uint8_t *)memory = 1;
        }
        _exit(0);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
}

static void test_many(void)
{
    static uint8_t dummy[600];
    unsigned made = 0;

    while (made < sizeof(dummy) && guard_add(&dummy[made], 1)) {
        made++;
    }
    g_assert_cmpuint(made, >=, 256);
    g_assert_cmpuint(made, <, sizeof(dummy));
    for (unsigned i = 0; i < made; i++) {
        guard_remove(&dummy[i]);
    }
    g_assert_true(guard_add(dummy, 1));
    guard_remove(dummy);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guard/shortened", test_shortened);
    g_test_add_func("/guard/others", test_others);
    g_test_add_func("/guard/many", test_many);
    return g_test_run();
}
