#include "core/dev/dev.h"

#include <string.h>

#include "core/vm/machine.h"

typedef struct Toy {
    Device dev;
    uint32_t limit;
    uint32_t ctrl, status, data[4];
    uint8_t fifo[8];
    uint64_t writes;
    RegBank bank;
    MemRegion mmio;
    bool fail;
} Toy;

static const BusType toy_bus_type = { .name = "TOY" };

static void ctrl_wrote(void *dev, const Reg *reg, uint64_t old, uint64_t raw)
{
    Toy *toy = dev;
    toy->writes++;
    toy->status |= 2;
}

static const Reg toy_regs[] = {
    REG32(Toy, 0x0, ctrl, .ro = 0xffff0000, .reset = 0xabcd0000, .wrote = ctrl_wrote),
    REG32(Toy, 0x4, status, .reset = 1, .w1c = 2),
    { .name = "data", .addr = 0x10, .size = 4, .offset = offsetof(Toy, data), .count = 4 },
    { 0 },
};
static const Prop toy_props[] = {
    PROP_U32("limit", Toy, limit, 7, .max = 100),
    PROP_BOOL("fail", Toy, fail, false),
    { 0 },
};
static const StateField toy_state[] = {
    STATE_RANGE(Toy, writes, 0, 1000),
    STATE_U8_ARRAY(Toy, fifo),
    STATE_NOT(Toy, bank, "made by plug"),
    STATE_NOT(Toy, mmio, "made by plug"),
    { 0 },
};

static Error *toy_plug(Device *dev)
{
    Toy *toy = container_of(dev, Toy, dev);
    device_regs(dev, &toy->bank, &toy->mmio, "toy", toy_regs, 0x100);
    mem_region_map(&dev->machine->memory, 0x1000, &toy->mmio, 0);
    return toy->fail ? error_new("toy: told to fail") : NULL;
}
DEVICE_TYPE(toy, DEVICE_OBJECT("test-toy", Toy, toy_props), .desc = "Toy", .category = DEV_MISC, .bus = &toy_bus_type,
            .regs = toy_regs, .state = toy_state, .plug = toy_plug, .hotplug = true);

static const MachineType test_machine = { .name = "test", .desc = "test machine" };

typedef struct Fixture {
    Machine *machine;
    Bus bus;
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    f->machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&f->machine->lock);
    bus_init(&f->bus, &toy_bus_type, f->machine, NULL, NULL);
}

static void teardown(Fixture *f, gconstpointer data)
{
    bus_fini(&f->bus);
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

static Toy *add_toy(Fixture *f, const char *id)
{
    Device *dev = device_new(f->machine, device_type_find("test-toy"), id);
    g_assert_null(device_plug(dev, NULL));
    return container_of(dev, Toy, dev);
}

static void test_registers(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "t0");
    uint64_t value;
    g_assert_cmpstr(f->bus.name, ==, "toy.0");
    mem_load(f->machine->as, 0x1000, 4, &value);
    g_assert_cmphex(value, ==, 0xabcd0000);
    mem_store(f->machine->as, 0x1000, 4, 0x12345678);
    mem_load(f->machine->as, 0x1000, 4, &value);
    g_assert_cmphex(value, ==, 0xabcd5678);
    g_assert_cmphex(toy->status, ==, 3);
    mem_store(f->machine->as, 0x1004, 1, 3); /* bit 1 is cleared, bit 0 is written */
    g_assert_cmphex(toy->status, ==, 1);
    mem_store(f->machine->as, 0x1019, 1, 0x77);
    g_assert_cmphex(toy->data[2], ==, 0x7700);
    device_reset(&toy->dev);
    g_assert_cmphex(toy->data[2], ==, 0);
    g_autofree char *dump = regs_dump(toy_regs, toy);
    g_assert_nonnull(strstr(dump, "ctrl = 0xabcd0000"));
}

static void test_failures(Fixture *f, gconstpointer data)
{
    const DeviceType *type;
    uint64_t value;
    add_toy(f, "t0");
    Device *twin = device_new(f->machine, device_type_find("test-toy"), "t0");
    Error *err = device_plug(twin, NULL);
    g_assert_nonnull(strstr(error_message(err), "'t0' already"));
    error_free(err);
    device_unplug(device_find(f->machine, "t0"));
    Device *bad = device_new(f->machine, device_type_find("test-toy"), "t1");
    device_set_str(bad, "fail", "on");
    err = device_plug(bad, NULL);
    g_assert_cmpstr(error_message(err), ==, "toy: told to fail");
    error_free(err);
    g_assert_null(device_find(f->machine, "t1"));
    g_assert_cmpint(mem_load(f->machine->as, 0x1000, 4, &value), ==, MEM_UNASSIGNED);
    err = device_type_lookup("test-toi", &type);
    g_assert_nonnull(strstr(error_message(err), "did you mean 'test-toy'"));
    error_free(err);
}

static void test_state(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "t0");
    g_autoptr(GByteArray) saved = g_byte_array_new();
    toy->ctrl = 5;
    toy->fifo[3] = 9;
    toy->writes = 12;
    device_save(&toy->dev, saved);
    device_reset(&toy->dev);
    toy->fifo[3] = 0;
    toy->writes = 0;
    g_assert_null(device_load(&toy->dev, saved->data, saved->len));
    g_assert_true(toy->ctrl == 5 && toy->fifo[3] == 9 && toy->writes == 12);
    for (guint cut = 0; cut < saved->len; cut++) {
        Error *err = device_load(&toy->dev, saved->data, cut);
        g_assert_nonnull(err);
        error_free(err);
    }
    toy->writes = 5000;
    g_byte_array_set_size(saved, 0);
    device_save(&toy->dev, saved);
    Error *err = device_load(&toy->dev, saved->data, saved->len);
    g_assert_nonnull(strstr(error_message(err), "outside 0 to 1000"));
    error_free(err);
}

static void test_texts(Fixture *f, gconstpointer data)
{
    add_toy(f, "t0");
    g_autofree char *help = device_types_help();
    g_assert_nonnull(strstr(help, "Misc devices:\n"));
    g_assert_nonnull(strstr(help, "name \"test-toy\", bus TOY, desc \"Toy\"\n"));
    g_autofree char *tree = device_tree_describe(f->machine);
    g_assert_nonnull(strstr(tree, "dev: test-toy, id \"t0\"\n"));
    g_assert_nonnull(strstr(tree, "limit = 7\n"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name, fn) g_test_add("/core/dev/" name, Fixture, NULL, setup, fn, teardown)
    TEST("registers", test_registers);
    TEST("failures", test_failures);
    TEST("state", test_state);
    TEST("texts", test_texts);
    return g_test_run();
}
