#include "bus/isa_test_util.h"
#include "chardev/chardev.h"

typedef struct Fixture {
    IsaFixture isa;
    Chardevs *set;
} Fixture;

static void setup(Fixture *f, gconstpointer unused)
{
    KeyValues *kv;
    isa_fixture_setup(&f->isa, NULL);
    Machine *machine = f->isa.machine;
    f->set = chardevs_new(object_container_at(machine->root, "/chardevs"), machine->loop);
    machine_set_service(machine, "chardevs", f->set);
    error_never(keyvalues_parse("null,id=c", "backend", &kv));
    error_never(chardev_add(f->set, kv, NULL));
    keyvalues_free(kv);
    Device *dev = device_new(machine, device_type_find("isa-serial"), NULL);
    device_set_str(dev, "chardev", "c");
    error_never(device_plug(dev, &f->isa.isa.bus));
    device_reset(dev);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    for (Device *dev; (dev = machine_device_next(f->isa.machine, NULL));) {
        device_unplug(dev);
    }
    chardevs_free(f->set);
    isa_fixture_teardown(&f->isa, NULL);
}

static uint8_t get(Fixture *f, unsigned reg)
{
    return inb(&f->isa, 0x3f8 + reg);
}

static void put(Fixture *f, unsigned reg, uint8_t value)
{
    outb(&f->isa, 0x3f8 + reg, value);
}

static void test_registers(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(get(f, 5), ==, 0x60);
    g_assert_cmphex(get(f, 2), ==, 0x01);
    g_assert_cmphex(get(f, 6), ==, 0xb0);
    put(f, 7, 0x5a);
    g_assert_cmphex(get(f, 7), ==, 0x5a);
    put(f, 1, 0xff);
    g_assert_cmphex(get(f, 1), ==, 0x0f);
    put(f, 3, 0x83);
    put(f, 0, 0x01);
    put(f, 1, 0x00);
    g_assert_cmphex(get(f, 0), ==, 0x01);
    put(f, 3, 0x03);
    g_assert_cmphex(get(f, 1), ==, 0x0f);
    put(f, 2, 0x01);
    g_assert_cmphex(get(f, 2) & 0xc0, ==, 0xc0);
}

static void test_transmit_interrupt(Fixture *f, gconstpointer unused)
{
    put(f, 1, 0x02);
    g_assert_cmpint(f->isa.level[4], ==, 1);
    g_assert_cmphex(get(f, 2), ==, 0x02); /* reading acknowledges */
    g_assert_cmpint(f->isa.level[4], ==, 0);
    g_assert_cmphex(get(f, 2), ==, 0x01);
    put(f, 0, 'x');
    g_assert_cmpint(f->isa.level[4], ==, 1);
    g_assert_cmphex(get(f, 5), ==, 0x60);
}

static void test_loopback(Fixture *f, gconstpointer unused)
{
    put(f, 4, 0x10);
    get(f, 6);
    put(f, 1, 0x0d);
    put(f, 0, 'a');
    g_assert_cmphex(get(f, 2), ==, 0x04);
    g_assert_cmphex(get(f, 5), ==, 0x61);
    put(f, 0, 'b'); /* nobody took the first: overrun */
    g_assert_cmphex(get(f, 2), ==, 0x06);
    g_assert_cmphex(get(f, 5) & 0x02, ==, 0x02);
    g_assert_cmphex(get(f, 0), ==, 'b');
    g_assert_cmpint(f->isa.level[4], ==, 0);
    put(f, 4, 0x1f); /* outputs come back as inputs, and their change interrupts */
    g_assert_cmphex(get(f, 2), ==, 0x00);
    g_assert_cmphex(get(f, 6), ==, 0xfb);
    g_assert_cmphex(get(f, 6), ==, 0xf0);
    g_assert_cmpint(f->isa.level[4], ==, 0);
}

static void test_fifo(Fixture *f, gconstpointer unused)
{
    put(f, 4, 0x10);
    get(f, 6);
    put(f, 3, 0x83);
    put(f, 0, 12);
    put(f, 3, 0x03);
    put(f, 2, 0x81); /* trigger at 8 */
    put(f, 1, 0x01);
    for (unsigned i = 0; i < 7; i++) {
        put(f, 0, i);
    }
    g_assert_cmpint(f->isa.level[4], ==, 0);
    isa_fixture_advance(&f->isa, 5 * NS_PER_MS); /* four characters at 9600 bits a second */
    g_assert_cmphex(get(f, 2), ==, 0xcc);
    g_assert_cmphex(get(f, 0), ==, 0);
    g_assert_cmphex(get(f, 2), ==, 0xc1);
    put(f, 0, 7);
    put(f, 0, 8);
    g_assert_cmphex(get(f, 2), ==, 0xc4);
    for (unsigned i = 1; i < 9; i++) {
        g_assert_cmphex(get(f, 0), ==, i);
    }
    g_assert_cmphex(get(f, 5), ==, 0x60);
    for (unsigned i = 0; i < 17; i++) {
        put(f, 0, i);
    }
    g_assert_cmphex(get(f, 5) & 0x02, ==, 0x02);
    put(f, 2, 0x83);
    g_assert_cmphex(get(f, 5), ==, 0x60);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/serial/" name, Fixture, NULL, setup, fn, teardown)
    CASE("registers", test_registers);
    CASE("transmit-interrupt", test_transmit_interrupt);
    CASE("loopback", test_loopback);
    CASE("fifo", test_fifo);
    return g_test_run();
}
