#include "core/mem/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/rcu.h"

typedef struct Toy {
    uint64_t last_addr, last_value, value;
    unsigned last_size, reads, writes;
} Toy;

static uint64_t toy_read(void *opaque, uint64_t addr, unsigned size)
{
    Toy *toy = opaque;
    toy->reads++;
    toy->last_addr = addr;
    toy->last_size = size;
    return toy->value >> (8 * (addr & 7));
}

static void toy_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Toy *toy = opaque;
    toy->writes++;
    toy->last_addr = addr;
    toy->last_size = size;
    toy->last_value = value;
}

static const MemOps toy_ops = { .read = toy_read, .write = toy_write };
static const MemOps toy_ops_wide = { .read = toy_read, .write = toy_write, .min = 4, .max = 8 };

typedef struct Fixture {
    Lock lock;
    MemSystem *mem;
    MemRegion root, io;
    AddressSpace *as;
    RamBlock *ram;
    MemRegion ram_region;
    Toy toy;
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    lock_init(&f->lock, "machine", LOCK_RANK_MACHINE);
    f->mem = mem_system_new(&f->lock);
    mem_region_init(&f->root, f->mem, "root", 0);
    f->as = mem_as_new(f->mem, "as", &f->root);
    g_assert_null(ram_block_new(f->mem, "ram", 64 * KiB, NULL, &f->ram));
    mem_region_init_ram(&f->ram_region, "ram", f->ram, 0, 64 * KiB);
    mem_region_init_io(&f->io, f->mem, "io", 0x1000, data ? data : &toy_ops, &f->toy);
    mem_region_map(&f->root, 0, &f->ram_region, 0);
}

static void teardown(Fixture *f, gconstpointer data)
{
    mem_region_fini(&f->io);
    mem_region_fini(&f->ram_region);
    mem_region_fini(&f->root);
    mem_system_free(f->mem);
    rcu_barrier();
    lock_fini(&f->lock);
}

static void test_priority(Fixture *f, gconstpointer data)
{
    uint64_t value;
    mem_region_map(&f->root, 0x4000, &f->io, 1);
    f->toy.value = 0x11223344;
    g_assert_cmpint(mem_load(f->as, 0x4000, 4, &value), ==, MEM_OK);
    g_assert_cmphex(value, ==, 0x11223344);
    mem_region_set_enabled(&f->io, false);
    g_assert_cmpint(mem_store(f->as, 0x4000, 4, 0xabcd), ==, MEM_OK);
    g_assert_cmphex(f->ram->host[0x4000], ==, 0xcd);
    g_assert_cmpuint(f->toy.writes, ==, 0);
    g_assert_cmpint(mem_load(f->as, 64 * KiB, 2, &value), ==, MEM_UNASSIGNED);
    g_assert_cmphex(value, ==, 0xffff);
}

static void test_alias(Fixture *f, gconstpointer data)
{
    MemRegion alias;
    uint64_t value;
    mem_region_init_alias(&alias, "top", &f->ram_region, 0xf000, 0x1000);
    mem_region_map(&f->root, 0xfffff000, &alias, 0);
    f->ram->host[0xf123] = 0x5a;
    mem_load(f->as, 0xfffff123, 1, &value);
    g_assert_cmphex(value, ==, 0x5a);
    mem_region_set_alias_offset(&alias, 0xe000);
    f->ram->host[0xe123] = 0xa5;
    mem_load(f->as, 0xfffff123, 1, &value);
    g_assert_cmphex(value, ==, 0xa5);
    mem_region_fini(&alias);
}

static void test_splitting(Fixture *f, gconstpointer data)
{
    uint64_t value;
    mem_region_map(&f->root, 0x10000, &f->io, 0);
    f->toy.value = 0x8877665544332211;
    mem_load(f->as, 0x10000, 8, &value); /* two accesses of 4 */
    g_assert_cmphex(value, ==, 0x8877665544332211);
    g_assert_cmpuint(f->toy.reads, ==, 2);
    mem_store(f->as, 0x10003, 2, 0xaabb); /* odd address: two bytes */
    g_assert_cmpuint(f->toy.writes, ==, 2);
    g_assert_cmphex(f->toy.last_addr, ==, 4);
    g_assert_cmphex(f->toy.last_value, ==, 0xaa);
}

static void test_narrow(Fixture *f, gconstpointer data)
{
    uint64_t value;
    mem_region_map(&f->root, 0x10000, &f->io, 0);
    f->toy.value = 0x11223344;
    mem_load(f->as, 0x10002, 1, &value);
    g_assert_cmphex(value, ==, 0x22);
    g_assert_cmpuint(f->toy.last_size, ==, 4);
    mem_store(f->as, 0x10001, 1, 0x7f);
    g_assert_cmphex(f->toy.last_value, ==, 0x7f00);
}

static void test_rom_and_dirty(Fixture *f, gconstpointer data)
{
    uint8_t bits[16];
    mem_region_set_rom(&f->ram_region, true);
    mem_write(f->as, 0x100, "abcd", 4);
    g_assert_cmphex(f->ram->host[0x100], ==, 0);
    mem_write_rom(f->as, 0x100, "abcd", 4);
    g_assert_cmpmem(f->ram->host + 0x100, 4, "abcd", 4);
    mem_region_set_rom(&f->ram_region, false);

    ram_track(f->ram, RAM_DIRTY_DISPLAY, true);
    g_assert_true(ram_take_dirty(f->ram, RAM_DIRTY_DISPLAY, 0, 16, bits));
    g_assert_false(ram_take_dirty(f->ram, RAM_DIRTY_DISPLAY, 0, 16, bits));
    mem_write(f->as, 0x2fff, "xy", 2);
    g_assert_true(ram_take_dirty(f->ram, RAM_DIRTY_DISPLAY, 0, 16, bits));
    g_assert_true(!bits[1] && bits[2] && bits[3] && !bits[4]);
}

static void test_own_registers(Fixture *f, gconstpointer data)
{
    mem_region_map(&f->root, 0x10000, &f->io, 0);
    f->io.owner = f;
    mem_as_set_owner(f->as, f);
    g_assert_cmpint(mem_store(f->as, 0x10000, 4, 1), ==, MEM_ERROR);
    g_assert_cmpuint(f->toy.writes, ==, 0);
}

typedef struct Seeker {
    Fixture *f;
    _Atomic bool end;
    pthread_t thread;
} Seeker;

/* As devices' threads do with their requests. What belongs to no block is looked for in all of them. */
static void *seek(void *opaque)
{
    Seeker *seeker = opaque;
    uint64_t offset;
    while (!seeker->end) {
        g_assert_true(ram_block_of(seeker->f->mem, seeker->f->ram->host + 1, &offset) == seeker->f->ram);
        g_assert_null(ram_block_of(seeker->f->mem, seeker, &offset));
    }
    return NULL;
}

static void test_blocks_come_and_go(Fixture *f, gconstpointer data)
{
    enum { OTHERS = 64, ROUNDS = 5000 };
    Seeker seekers[2] = { { .f = f }, { .f = f } };
    RamBlock *others[OTHERS];

    for (unsigned n = 0; n < OTHERS; n++) {
        g_assert_null(ram_block_new(f->mem, "another", 4 * KiB, NULL, &others[n]));
    }
    for (unsigned n = 0; n < ARRAY_SIZE(seekers); n++) {
        pthread_create(&seekers[n].thread, NULL, seek, &seekers[n]);
    }
    for (unsigned n = 0; n < ROUNDS; n++) {
        ram_block_free(others[n % OTHERS]);
        g_assert_null(ram_block_new(f->mem, "another", 4 * KiB, NULL, &others[n % OTHERS]));
    }
    for (unsigned n = 0; n < ARRAY_SIZE(seekers); n++) {
        seekers[n].end = true;
        pthread_join(seekers[n].thread, NULL);
    }
}

static void test_too_much_ram(Fixture *f, gconstpointer data)
{
    RamBlock *block;
    Error *err = ram_block_new(f->mem, "huge", BIT64(45), NULL, &block);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_message(err), "MiB"));
    error_free(err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name, fn, data) g_test_add("/core/mem/" name, Fixture, data, setup, fn, teardown)
    TEST("priority", test_priority, NULL);
    TEST("alias", test_alias, NULL);
    TEST("splitting", test_splitting, NULL);
    TEST("narrow", test_narrow, &toy_ops_wide);
    TEST("rom-and-dirty", test_rom_and_dirty, NULL);
    TEST("own-registers", test_own_registers, NULL);
    TEST("blocks-come-and-go", test_blocks_come_and_go, NULL);
    TEST("too-much-ram", test_too_much_ram, NULL);
    return g_test_run();
}
