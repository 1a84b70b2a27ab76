#include "hw/floppy/floppy.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "bus/isa_test_util.h"
#include "hw/test_util.h"

enum { SECTORS = 2880, DMA_ADDRESS = 0x8000 };

typedef struct Fixture {
    IsaFixture isa;
    BlockGraph *graph;
    BlockBackend *blk;
    char *path;
} Fixture;

static uint8_t pattern(unsigned sector, unsigned i)
{
    return (uint8_t)(sector * 7 + i);
}

static void make_image(Fixture *f)
{
    g_autofree uint8_t *data = g_malloc(SECTORS * 512);
    for (unsigned n = 0; n < SECTORS * 512; n++) {
        data[n] = pattern(n / 512, n % 512);
    }
    close(g_file_open_tmp("fdc-test-XXXXXX", &f->path, NULL));
    g_assert_true(g_file_set_contents(f->path, (char *)data, SECTORS * 512, NULL));
}

static void setup(Fixture *f, gconstpointer unused)
{
    Machine *machine;
    make_image(f);
    isa_fixture_setup(&f->isa, NULL);
    machine = f->isa.machine;
    f->graph = block_graph_new(machine->loop);
    machine_set_service(machine, BLOCK_SERVICE, f->graph);
    f->blk = test_drive(machine, f->graph, "fd0", f->path, OPEN_WRITE);
    isa_fixture_add(&f->isa, "i8257");
    isa_fixture_add(&f->isa, "isa-fdc");
    Device *drive = device_new(machine, device_type_find("floppy"), "floppy");
    device_set_str(drive, "drive", "fd0");
    error_never(device_plug(drive, bus_find(machine, "floppy-bus.0")));
}

static void teardown(Fixture *f, gconstpointer unused)
{
    Machine *machine = f->isa.machine;
    device_unplug(device_find(machine, "floppy"));
    blk_unref(f->blk);
    lock_release(&machine->lock);
    block_graph_free(f->graph);
    lock_acquire(&machine->lock);
    isa_fixture_teardown(&f->isa, NULL);
    g_unlink(f->path);
    g_free(f->path);
}

static void command(Fixture *f, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        g_assert_cmphex(inb(&f->isa, 0x3f4) & 0xc0, ==, 0x80);
        outb(&f->isa, 0x3f5, bytes[i]);
    }
}

#define COMMAND(f, ...) command(f, (const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ }))

/* Waits for the block layer's worker threads. */
static void wait_irq(Fixture *f)
{
    for (unsigned i = 0; i < 5000 && !f->isa.level[6]; i++) {
        isa_fixture_run(&f->isa);
        if (!f->isa.level[6]) {
            g_usleep(200);
        }
    }
    g_assert_cmpint(f->isa.level[6], ==, 1);
}

static void results(Fixture *f, uint8_t *bytes, unsigned count)
{
    int level = f->isa.level[6]; /* an interrupt lasts until the last byte is read */
    for (unsigned i = 0; i < count; i++) {
        g_assert_cmpint(f->isa.level[6], ==, level);
        g_assert_cmphex(inb(&f->isa, 0x3f4) & 0xd0, ==, 0xd0);
        bytes[i] = inb(&f->isa, 0x3f5);
    }
    g_assert_cmphex(inb(&f->isa, 0x3f4) & 0xf0, ==, 0x80);
}

static void program_dma(Fixture *f, uint8_t mode, unsigned bytes)
{
    outb(&f->isa, 0x0a, 6);
    outb(&f->isa, 0x0c, 0);
    outb(&f->isa, 0x04, DMA_ADDRESS & 0xff);
    outb(&f->isa, 0x04, DMA_ADDRESS >> 8);
    outb(&f->isa, 0x05, (bytes - 1) & 0xff);
    outb(&f->isa, 0x05, (bytes - 1) >> 8);
    outb(&f->isa, 0x81, 0);
    outb(&f->isa, 0x0b, mode | 2);
    outb(&f->isa, 0x0a, 2);
}

/* Reset, motor, data rate, SPECIFY, seek to a track. */
static void start(Fixture *f, uint8_t track)
{
    uint8_t r[2];
    outb(&f->isa, 0x3f2, 0x08);
    outb(&f->isa, 0x3f2, 0x1c);
    g_assert_cmpint(f->isa.level[6], ==, 1);
    for (unsigned unit = 0; unit < 4; unit++) {
        COMMAND(f, 0x08);
        results(f, r, 2);
        g_assert_cmphex(r[0], ==, 0xc0 | unit);
    }
    outb(&f->isa, 0x3f7, 0); /* 500 kbit/s */
    COMMAND(f, 0x03, 0xaf, 0x02);
    g_assert_cmphex(inb(&f->isa, 0x3f7) & 0x80, ==, 0x80); /* medium changed since power-on */
    /* A step clears that, a seek to where the head is does not. */
    const uint8_t stops[] = { 0, track + 1, track };
    for (unsigned i = 0; i < G_N_ELEMENTS(stops); i++) {
        COMMAND(f, 0x0f, 0, stops[i]);
        wait_irq(f);
        COMMAND(f, 0x08);
        results(f, r, 2);
        g_assert_cmphex(r[0], ==, 0x20);
        g_assert_cmpuint(r[1], ==, stops[i]);
        g_assert_cmphex(inb(&f->isa, 0x3f7) & 0x80, ==, i == 0 ? 0x80 : 0);
    }
    g_assert_cmphex(inb(&f->isa, 0x3f7) & 0x80, ==, 0);
}

static void test_read(Fixture *f, gconstpointer unused)
{
    static const uint8_t expect[7] = { 0x04, 0, 0, 2, 1, 4, 2 };
    uint8_t r[7], data[1024];
    start(f, 2);
    program_dma(f, 0x44, 1024);
    COMMAND(f, 0xe6, 0x04, 2, 1, 2, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmpmem(r, 7, expect, 7);
    (void)mem_read(f->isa.machine->as, DMA_ADDRESS, data, 1024);
    for (unsigned i = 0; i < 1024; i++) {
        g_assert_cmphex(data[i], ==, pattern((2 * 2 + 1) * 18 + 1 + i / 512, i % 512));
    }
}

static void test_multi_track(Fixture *f, gconstpointer unused)
{
    static const uint8_t expect[7] = { 0x00, 0, 0, 1, 0, 1, 2 };
    uint8_t r[7], byte;
    start(f, 0);
    program_dma(f, 0x44, 36 * 512);
    COMMAND(f, 0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmpmem(r, 7, expect, 7);
    (void)mem_read(f->isa.machine->as, DMA_ADDRESS + 35 * 512 + 5, &byte, 1);
    g_assert_cmphex(byte, ==, pattern(35, 5));
}

static void test_write(Fixture *f, gconstpointer unused)
{
    uint8_t r[7], data[512], back[512];
    memset(data, 0xa5, sizeof(data));
    start(f, 79);
    (void)mem_write(f->isa.machine->as, DMA_ADDRESS, data, 512);
    program_dma(f, 0x48, 512);
    COMMAND(f, 0xc5, 0x04, 79, 1, 18, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmphex(r[0], ==, 0x04);
    g_assert_cmphex(r[1], ==, 0);
    lock_release(&f->isa.machine->lock);
    g_assert_cmpint(blk_pread(f->blk, 2879 * 512, 512, back), ==, 0);
    lock_acquire(&f->isa.machine->lock);
    g_assert_cmpmem(back, 512, data, 512);
}

static void test_pio_and_errors(Fixture *f, gconstpointer unused)
{
    uint8_t r[7];
    start(f, 0);
    /* A sector that is not there; another data rate; a drive that is not there; nonsense. */
    COMMAND(f, 0xe6, 0x00, 0, 0, 19, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmphex(r[0], ==, 0x40);
    g_assert_cmphex(r[1], ==, 0x04);
    outb(&f->isa, 0x3f7, 2);
    COMMAND(f, 0x4a, 0x00);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmphex(r[1], ==, 0x01);
    outb(&f->isa, 0x3f7, 0);
    COMMAND(f, 0xe6, 0x01, 0, 0, 1, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmphex(r[0], ==, 0x41);
    COMMAND(f, 0x1f);
    results(f, r, 1);
    g_assert_cmphex(r[0], ==, 0x80);
    COMMAND(f, 0x10);
    results(f, r, 1);
    g_assert_cmphex(r[0], ==, 0x90);
    /* Without DMA: byte by byte, until the end of the track as the host cannot say where to stop. */
    COMMAND(f, 0x03, 0xaf, 0x03);
    COMMAND(f, 0x46, 0x00, 0, 0, 18, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmphex(inb(&f->isa, 0x3f4), ==, 0xf0);
        g_assert_cmphex(inb(&f->isa, 0x3f5), ==, pattern(17, i));
    }
    results(f, r, 7);
    g_assert_cmphex(r[1], ==, 0x80);
}

static void test_format(Fixture *f, gconstpointer unused)
{
    uint8_t r[7], ids[8] = { 5, 0, 1, 2, 5, 0, 3, 2 }, back[3 * 512];
    start(f, 5);
    (void)mem_write(f->isa.machine->as, DMA_ADDRESS, ids, sizeof(ids));
    program_dma(f, 0x48, sizeof(ids));
    COMMAND(f, 0x4d, 0x00, 2, 2, 0x54, 0xf6);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmphex(r[0], ==, 0);
    lock_release(&f->isa.machine->lock);
    g_assert_cmpint(blk_pread(f->blk, 5 * 36 * 512, sizeof(back), back), ==, 0);
    lock_acquire(&f->isa.machine->lock);
    g_assert_cmphex(back[0], ==, 0xf6);
    g_assert_cmphex(back[512], ==, pattern(5 * 36 + 1, 0));
    g_assert_cmphex(back[1535], ==, 0xf6);
}

/* Random writes to every register must leave the controller able to be reset. */
static void test_noise(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 20000; i++) {
        uint16_t port = 0x3f0 + g_test_rand_int_range(0, 8);
        if (port == 0x3f6) {
            continue;
        }
        if (g_test_rand_bit()) {
            outb(&f->isa, port, g_test_rand_int_range(0, 256));
        } else {
            inb(&f->isa, port);
        }
        if (i % 64 == 0) {
            program_dma(f, 0x44 | (i & 8), 1 + g_test_rand_int_range(0, 20000));
            isa_fixture_run(&f->isa);
        }
    }
    for (unsigned i = 0; i < 50; i++) {
        isa_fixture_run(&f->isa);
        g_usleep(200);
    }
    outb(&f->isa, 0x3f4, 0);
    outb(&f->isa, 0x3f2, 0x08);
    outb(&f->isa, 0x3f2, 0x1c);
    g_assert_cmphex(inb(&f->isa, 0x3f4), ==, 0x80);
}

static void save_and_load(Fixture *f)
{
    Machine *machine = f->isa.machine;
    static const char *const types[] = { "isa-fdc", "i8257" };
    GByteArray *states[2];
    Device *devs[2] = { NULL };

    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        for (unsigned i = 0; i < 2; i++) {
            devs[i] = !strcmp(device_type(dev)->object.name, types[i]) ? dev : devs[i];
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        states[i] = g_byte_array_new();
        device_save(devs[i], states[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        device_reset(devs[i]);
        error_never(device_load(devs[i], states[i]->data, states[i]->len));
        g_byte_array_unref(states[i]);
    }
}

/* A command under way goes on in a machine that was saved and loaded, and DMA waits for the machine to run. */
static void test_saved(Fixture *f, gconstpointer unused)
{
    uint8_t r[7], data[512], zero[512] = { 0 };
    start(f, 0);
    program_dma(f, 0x44, 512);
    COMMAND(f, 0xe6, 0x00, 0, 0, 3, 2, 18, 0x1b, 0xff);
    machine_stop(f->isa.machine, RUN_STATE_PAUSED);
    for (unsigned i = 0; i < 20; i++) {
        isa_fixture_run(&f->isa);
        g_usleep(200);
    }
    save_and_load(f);
    g_assert_cmpint(f->isa.level[6], ==, 0);
    (void)mem_read(f->isa.machine->as, DMA_ADDRESS, data, 512);
    g_assert_cmpmem(data, 512, zero, 512);
    machine_start(f->isa.machine);
    wait_irq(f);
    results(f, r, 7);
    g_assert_cmphex(r[0], ==, 0x00);
    (void)mem_read(f->isa.machine->as, DMA_ADDRESS, data, 512);
    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmphex(data[i], ==, pattern(2, i));
    }
    COMMAND(f, 0x03, 0xaf, 0x03);
    COMMAND(f, 0x46, 0x00, 0, 0, 18, 2, 18, 0x1b, 0xff);
    wait_irq(f);
    for (unsigned i = 0; i < 512; i++) {
        if (i == 200) {
            save_and_load(f);
        }
        g_assert_cmphex(inb(&f->isa, 0x3f5), ==, pattern(17, i));
    }
    results(f, r, 7);
    g_assert_cmphex(r[1], ==, 0x80);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/fdc/" name, Fixture, NULL, setup, fn, teardown)
    CASE("read", test_read);
    CASE("multi-track", test_multi_track);
    CASE("write", test_write);
    CASE("pio-and-errors", test_pio_and_errors);
    CASE("format", test_format);
    CASE("saved", test_saved);
    CASE("noise", test_noise);
    return g_test_run();
}
