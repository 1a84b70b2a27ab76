#include "firmware/fw_cfg.h"

#include <string.h>

#include "base/endian.h"

static const MachineType test_machine = { .name = "test", .desc = "test machine" };

typedef struct Fixture {
    Machine *machine;
    RamBlock *ram;
    MemRegion region;
    FwCfg *fw;
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    f->machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&f->machine->lock);
    g_assert_null(ram_block_new(f->machine->mem, "ram", 64 * KiB, NULL, &f->ram));
    mem_region_init_ram(&f->region, "ram", f->ram, 0, 64 * KiB);
    mem_region_map(&f->machine->memory, 0, &f->region, 0);
    f->fw = fw_cfg_create(f->machine);
}

static void teardown(Fixture *f, gconstpointer data)
{
    mem_region_fini(&f->region);
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

static uint8_t data_port(Fixture *f)
{
    uint64_t value;
    mem_load(f->machine->io_as, 0x511, 1, &value);
    return (uint8_t)value;
}

static void test_ports(Fixture *f, gconstpointer data)
{
    uint64_t value;
    char signature[5] = { 0 };
    mem_store(f->machine->io_as, 0x510, 2, FW_CFG_SIGNATURE);
    for (int i = 0; i < 4; i++) {
        signature[i] = (char)data_port(f);
    }
    g_assert_cmpstr(signature, ==, "QEMU");
    g_assert_cmphex(data_port(f), ==, 0);
    mem_load(f->machine->io_as, 0x514, 4, &value);
    g_assert_cmphex(value, ==, 0x554d4551); /* "QEMU", first byte lowest */
    mem_load(f->machine->io_as, 0x518, 4, &value);
    g_assert_cmphex(value, ==, 0x47464320);
}

/* Runs one descriptor; returns the control word afterwards. */
static uint32_t dma(Fixture *f, uint32_t control, uint32_t length, uint64_t addr)
{
    uint8_t *d = f->ram->host + 0x100;
    st32_be(d, control);
    st32_be(d + 4, length);
    st64_be(d + 8, addr);
    mem_store(f->machine->io_as, 0x514, 4, 0);
    mem_store(f->machine->io_as, 0x518, 4, __builtin_bswap32(0x100));
    return ld32_be(d);
}

static void test_files_by_dma(Fixture *f, gconstpointer data)
{
    g_assert_null(fw_cfg_add_file(f->fw, "opt/b", "bbbb", 4));
    g_assert_null(fw_cfg_add_file(f->fw, "etc/a", "aa", 2));
    g_assert_cmphex(dma(f, FW_CFG_FILE_DIR << 16 | 8 | 2, 4 + 128, 0x1000), ==, 0);
    g_assert_cmpuint(ld32_be(f->ram->host + 0x1000), ==, 2);
    g_assert_cmpstr((char *)f->ram->host + 0x1000 + 4 + 8, ==, "etc/a");
    uint16_t key = ld16_be(f->ram->host + 0x1000 + 4 + 64 + 4);
    g_assert_cmphex(dma(f, (uint32_t)key << 16 | 8 | 2, 6, 0x2000), ==, 0);
    g_assert_cmpmem(f->ram->host + 0x2000, 6, "bbbb\0\0", 6);
    /* Skip, then read the rest without selecting again. */
    dma(f, (uint32_t)key << 16 | 8 | 4, 3, 0);
    g_assert_cmphex(dma(f, 2, 1, 0x3000), ==, 0);
    g_assert_cmphex(f->ram->host[0x3000], ==, 'b');
}

static void test_refusals(Fixture *f, gconstpointer data)
{
    g_assert_null(fw_cfg_add_file(f->fw, "etc/a", "aa", 2));
    g_assert_cmphex(dma(f, FW_CFG_FILE_FIRST << 16 | 8 | 16, 2, 0x2000), ==, 1); /* read-only */
    g_assert_cmphex(dma(f, FW_CFG_FILE_FIRST << 16 | 8 | 2, 0xffffffff, 0x2000), ==, 1); /* leaves memory */
    Error *err = fw_cfg_add_user_item(f->fw, "name=opt/x");
    g_assert_nonnull(err);
    error_free(err);
    err = fw_cfg_add_user_item(f->fw, "name=opt/x,string=hello");
    g_assert_null(err);
    size_t length;
    g_assert_cmpmem(fw_cfg_file_data(f->fw, "opt/x", &length), 5, "hello", 5);
    g_assert_cmpuint(length, ==, 5);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name, fn) g_test_add("/firmware/fw_cfg/" name, Fixture, NULL, setup, fn, teardown)
    TEST("ports", test_ports);
    TEST("files-by-dma", test_files_by_dma);
    TEST("refusals", test_refusals);
    return g_test_run();
}
