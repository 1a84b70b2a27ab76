#include <glib/gstdio.h>

#include "base/endian.h"
#include "bus/pci.h"
#include "hw/display/edid.h"
#include "hw/display/vga.h"

typedef struct Fixture {
    Machine *machine;
    PciBus bus;
    Device *dev;
    Console *console;
    DisplayListener listener;
    unsigned switched, updated;
} Fixture;

static const MachineType test_machine = { .name = "test", .desc = "test machine" };

static void switched(DisplayListener *listener, Console *console)
{
    container_of(listener, Fixture, listener)->switched++;
}

static void updated(DisplayListener *listener, Console *console, unsigned x, unsigned y, unsigned width, unsigned height)
{
    g_assert_cmpuint(x + width, <=, console->surface->width);
    g_assert_cmpuint(y + height, <=, console->surface->height);
    container_of(listener, Fixture, listener)->updated++;
}

static const DisplayListenerOps listener_ops = { .name = "test", .switched = switched, .updated = updated };

static void setup(Fixture *f, gconstpointer data)
{
    f->machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&f->machine->lock);
    pci_bus_init(&f->bus, f->machine, NULL, "pci.0", &f->machine->memory, &f->machine->io);
    f->dev = device_new(f->machine, device_type_find("VGA"), NULL);
    device_set_str(f->dev, "romfile", "");
    device_set_str(f->dev, "vgamem_mb", "4");
    g_assert_null(device_plug(f->dev, NULL));
    f->console = console_find(f->machine, 0);
    f->listener.ops = &listener_ops;
    display_listener_add(f->machine, &f->listener);
    pci_config_write(&f->bus, 0, 0, PCI_BAR0, 0xfd000000, 4);
    pci_config_write(&f->bus, 0, 0, PCI_BAR0 + 8, 0xfe000000, 4);
    pci_config_write(&f->bus, 0, 0, PCI_COMMAND, 3, 2);
}

static void teardown(Fixture *f, gconstpointer data)
{
    bus_fini(&f->bus.bus);
    g_assert_null(console_find(f->machine, 0));
    display_listener_remove(&f->listener);
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

static void out(Fixture *f, uint16_t port, uint32_t value, unsigned size)
{
    (void)mem_store(f->machine->io_as, port, size, value);
}

static uint32_t in(Fixture *f, uint16_t port, unsigned size)
{
    uint64_t value = 0;
    (void)mem_load(f->machine->io_as, port, size, &value);
    return (uint32_t)value;
}

static void poke(Fixture *f, uint64_t addr, uint32_t value, unsigned size)
{
    (void)mem_store(f->machine->as, addr, size, value);
}

static uint32_t peek(Fixture *f, uint64_t addr, unsigned size)
{
    uint64_t value = 0;
    (void)mem_load(f->machine->as, addr, size, &value);
    return (uint32_t)value;
}

static void indexed(Fixture *f, uint16_t port, unsigned index, uint8_t value)
{
    out(f, port, index | value << 8, 2);
}

static void attribute(Fixture *f, unsigned index, uint8_t value)
{
    in(f, 0x3da, 1);
    out(f, 0x3c0, index, 1);
    out(f, 0x3c0, value, 1);
}

static void set_crtc(Fixture *f, const uint8_t *values)
{
    indexed(f, 0x3d4, 0x11, 0);
    for (unsigned i = 0; i < 25; i++) {
        indexed(f, 0x3d4, i, values[i]);
    }
}

/* A palette in which DAC entry n is (n, n, n) and attribute n is entry n. */
static void common(Fixture *f)
{
    out(f, 0x3c8, 0, 1);
    for (unsigned i = 0; i < 256; i++) {
        for (unsigned c = 0; c < 3; c++) {
            out(f, 0x3c9, i & 63, 1);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        attribute(f, i, i);
    }
    attribute(f, 0x12, 0x0f);
    in(f, 0x3da, 1);
    out(f, 0x3c0, 0x20, 1);
}

static uint32_t grey(unsigned n)
{
    uint8_t eight = (uint8_t)((n & 63) << 2 | (n & 1) * 3);
    return eight * 0x010101u;
}

static uint32_t pixel(Fixture *f, unsigned x, unsigned y)
{
    g_assert_cmpuint(x, <, f->console->surface->width);
    g_assert_cmpuint(y, <, f->console->surface->height);
    return ((uint32_t *)surface_row(f->console->surface, y))[x] & 0xffffff;
}

static void mode_text(Fixture *f)
{
    static const uint8_t crtc[25] = { 0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0,
                                      0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff };
    out(f, 0x3c2, 0x67, 1);
    indexed(f, 0x3c4, 1, 0);
    indexed(f, 0x3c4, 2, 3);
    indexed(f, 0x3c4, 3, 0);
    indexed(f, 0x3c4, 4, 2);
    set_crtc(f, crtc);
    indexed(f, 0x3ce, 5, 0x10);
    indexed(f, 0x3ce, 6, 0x0e);
    indexed(f, 0x3ce, 8, 0xff);
    attribute(f, 0x10, 0x0c);
    common(f);
}

static void load_font(Fixture *f)
{
    indexed(f, 0x3c4, 2, 4);
    indexed(f, 0x3c4, 4, 7);
    indexed(f, 0x3ce, 5, 0);
    indexed(f, 0x3ce, 6, 0);
    for (unsigned ch = 0; ch < 256; ch++) {
        for (unsigned row = 0; row < 16; row++) {
            poke(f, 0xa0000 + ch * 32 + row, ch ^ row, 1);
        }
    }
    indexed(f, 0x3c4, 2, 3);
    indexed(f, 0x3c4, 4, 2);
    indexed(f, 0x3ce, 5, 0x10);
    indexed(f, 0x3ce, 6, 0x0e);
}

static void test_text(Fixture *f, gconstpointer data)
{
    TextScreen text = { 0 };
    mode_text(f);
    load_font(f);
    for (unsigned i = 0; i < 80 * 25; i++) {
        poke(f, 0xb8000 + i * 2, 0x1700 | ' ', 2);
    }
    poke(f, 0xb8000 + (3 * 80 + 10) * 2, 0x2a00 | 'A', 2);
    g_assert_cmphex(peek(f, 0xb8000 + (3 * 80 + 10) * 2, 2), ==, 0x2a41);
    indexed(f, 0x3d4, 0x0e, (3 * 80 + 11) >> 8);
    indexed(f, 0x3d4, 0x0f, (3 * 80 + 11) & 0xff);
    console_refresh(f->console);
    g_assert_cmpuint(f->console->surface->width, ==, 720);
    g_assert_cmpuint(f->console->surface->height, ==, 400);
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned x = 0; x < 8; x++) {
            unsigned bit = ('A' ^ row) >> (7 - x) & 1;
            g_assert_cmphex(pixel(f, 90 + x, 48 + row), ==, grey(bit ? 0xa : 2));
        }
        g_assert_cmphex(pixel(f, 98, 48 + row), ==, grey(2));
    }
    g_assert_true(console_text(f->console, &text));
    g_assert_cmpuint(text.columns, ==, 80);
    g_assert_cmpuint(text.rows, ==, 25);
    g_assert_cmpuint(text.cells[3 * 80 + 10].ch, ==, 'A');
    g_assert_cmpint(text.cursor_x, ==, 11);
    g_assert_cmpint(text.cursor_y, ==, 3);
    text_screen_free(&text);
    unsigned before = f->updated;
    console_refresh(f->console);
    console_refresh(f->console);
    g_assert_cmpuint(f->updated, <=, before + 2); /* nothing but the cursor */
    out(f, 0x3c2, 0x65, 1); /* RAM enable off: firmware without a VGA BIOS leaves it so and writes text */
    poke(f, 0xb8000, 0x1700 | 'B', 2);
    g_assert_cmphex(peek(f, 0xb8000, 2), ==, 0x1742);
    console_refresh(f->console);
    g_assert_cmpuint(f->updated, >, before);
    g_assert_cmphex(pixel(f, 1, 0), ==, grey('B' >> 6 & 1 ? 7 : 1));
}

static void test_planar(Fixture *f, gconstpointer data)
{
    static const uint8_t crtc[25] = { 0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0,
                                      0xea, 0x8c, 0xdf, 0x28, 0, 0xe7, 0x04, 0xe3, 0xff };
    out(f, 0x3c2, 0xe3, 1);
    indexed(f, 0x3c4, 1, 1);
    indexed(f, 0x3c4, 2, 15);
    indexed(f, 0x3c4, 4, 6);
    set_crtc(f, crtc);
    indexed(f, 0x3ce, 5, 2); /* write mode 2 */
    indexed(f, 0x3ce, 6, 5);
    attribute(f, 0x10, 1);
    common(f);
    indexed(f, 0x3ce, 8, 0x10);
    peek(f, 0xa0000 + 80 * 5 + 2, 1);
    poke(f, 0xa0000 + 80 * 5 + 2, 9, 1);
    console_refresh(f->console);
    g_assert_cmpuint(f->console->surface->width, ==, 640);
    g_assert_cmpuint(f->console->surface->height, ==, 480);
    g_assert_cmphex(pixel(f, 19, 5), ==, grey(9));
    g_assert_cmphex(pixel(f, 18, 5), ==, 0);
    /* Read modes. */
    indexed(f, 0x3ce, 4, 3);
    g_assert_cmphex(peek(f, 0xa0000 + 80 * 5 + 2, 1), ==, 0x10);
    indexed(f, 0x3ce, 4, 1);
    g_assert_cmphex(peek(f, 0xa0000 + 80 * 5 + 2, 1), ==, 0);
    indexed(f, 0x3ce, 2, 9);
    indexed(f, 0x3ce, 7, 15);
    indexed(f, 0x3ce, 5, 8);
    g_assert_cmphex(peek(f, 0xa0000 + 80 * 5 + 2, 1), ==, 0x10);
    /* Latches: write mode 1 copies all planes. */
    indexed(f, 0x3ce, 5, 1);
    peek(f, 0xa0000 + 80 * 5 + 2, 1);
    poke(f, 0xa0000 + 80 * 7, 0, 1);
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 3, 7), ==, grey(9));
    /* Xor with set/reset in write mode 0. */
    indexed(f, 0x3ce, 5, 0);
    indexed(f, 0x3ce, 3, 0x18);
    indexed(f, 0x3ce, 0, 6);
    indexed(f, 0x3ce, 1, 15);
    indexed(f, 0x3ce, 8, 0xff);
    peek(f, 0xa0000 + 80 * 7, 1);
    poke(f, 0xa0000 + 80 * 7, 0, 1);
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 3, 7), ==, grey(15));
    g_assert_cmphex(pixel(f, 4, 7), ==, grey(6));
}

static void mode_13h(Fixture *f)
{
    static const uint8_t crtc[25] = { 0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0,
                                      0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff };
    out(f, 0x3c2, 0x63, 1);
    indexed(f, 0x3c4, 1, 1);
    indexed(f, 0x3c4, 2, 15);
    indexed(f, 0x3c4, 4, 0xe);
    set_crtc(f, crtc);
    indexed(f, 0x3ce, 0, 0);
    indexed(f, 0x3ce, 1, 0);
    indexed(f, 0x3ce, 3, 0);
    indexed(f, 0x3ce, 5, 0x40);
    indexed(f, 0x3ce, 6, 5);
    indexed(f, 0x3ce, 8, 0xff);
    attribute(f, 0x10, 0x41);
    common(f);
}

static void test_mode_13h(Fixture *f, gconstpointer data)
{
    MemHit hit;
    mode_13h(f);
    mem_lookup(f->machine->as, 0xa0000, &hit);
    g_assert_nonnull(hit.host); /* plain memory */
    poke(f, 0xa0000 + 320 * 10 + 33, 77, 1);
    console_refresh(f->console);
    g_assert_cmpuint(f->console->surface->width, ==, 640);
    g_assert_cmpuint(f->console->surface->height, ==, 400);
    g_assert_cmphex(pixel(f, 66, 20), ==, grey(77));
    g_assert_cmphex(pixel(f, 67, 21), ==, grey(77));
    g_assert_cmphex(pixel(f, 68, 20), ==, 0);
    /* Unchained ("mode X"): plane 1 of unit 80 * 10 + 8 is the same pixel. */
    indexed(f, 0x3c4, 4, 6);
    indexed(f, 0x3d4, 0x14, 0);
    indexed(f, 0x3d4, 0x17, 0xe3);
    indexed(f, 0x3c4, 2, 2);
    mem_lookup(f->machine->as, 0xa0000, &hit);
    g_assert_null(hit.host);
    poke(f, 0xa0000 + 80 * 10 + 8, 99, 1);
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 66, 20), ==, grey(99));
    /* Page flip by the start address. */
    indexed(f, 0x3d4, 0x0c, 0x03);
    indexed(f, 0x3d4, 0x0d, 0x20); /* 800 units: 10 rows */
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 66, 0), ==, grey(99));
}

static void dispi(Fixture *f, unsigned reg, uint16_t value)
{
    out(f, 0x1ce, reg, 2);
    out(f, 0x1cf, value, 2);
}

static uint16_t dispi_read(Fixture *f, unsigned reg)
{
    out(f, 0x1ce, reg, 2);
    return (uint16_t)in(f, 0x1d0, 2);
}

static void set_vbe(Fixture *f, unsigned width, unsigned height, unsigned bpp)
{
    dispi(f, VBE_ENABLE, 0);
    dispi(f, VBE_XRES, width);
    dispi(f, VBE_YRES, height);
    dispi(f, VBE_BPP, bpp);
    dispi(f, VBE_ENABLE, VBE_ENABLED | VBE_LFB);
}

static void test_vbe(Fixture *f, gconstpointer data)
{
    common(f);
    out(f, 0x3c2, 0x63, 1);
    g_assert_cmphex(dispi_read(f, VBE_ID), ==, 0xb0c5);
    g_assert_cmpuint(dispi_read(f, VBE_MEMORY_64K), ==, 64);
    set_vbe(f, 800, 600, 32);
    poke(f, 0xfd000000 + (800 * 2 + 605) * 4, 0x123456, 4);
    console_refresh(f->console);
    g_assert_cmpuint(f->console->surface->width, ==, 800);
    g_assert_cmphex(pixel(f, 605, 2), ==, 0x123456);
    g_assert_true(f->console->surface->borrowed);
    unsigned before = f->updated;
    console_refresh(f->console);
    g_assert_cmpuint(f->updated, ==, before);
    poke(f, 0xfd000000, 1, 4);
    console_refresh(f->console);
    g_assert_cmpuint(f->updated, ==, before + 1);
    set_vbe(f, 640, 480, 16);
    dispi(f, VBE_BANK, 1);
    poke(f, 0xa0000, 0xf81f, 2); /* byte 65536: row 51, pixel 128 */
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 128, 51), ==, 0xff00ff);
    set_vbe(f, 640, 480, 24);
    poke(f, 0xfd000000 + 640 * 3 + 6, 0xa1b2c3, 4);
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 2, 1), ==, 0xa1b2c3);
    set_vbe(f, 640, 480, 8);
    poke(f, 0xfd000000 + 640 + 1, 42, 1);
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 1, 1), ==, grey(42));
    /* A virtual screen, panned. */
    dispi(f, VBE_VIRT_WIDTH, 1024);
    dispi(f, VBE_X_OFFSET, 16);
    dispi(f, VBE_Y_OFFSET, 3);
    poke(f, 0xfd000000 + 1024 * 4 + 20, 43, 1);
    console_refresh(f->console);
    g_assert_cmphex(pixel(f, 4, 1), ==, grey(43));
    /* Through the memory BAR, with nonsense that is brought into range. */
    poke(f, 0xfe000500 + 2 * VBE_XRES, 65535, 2);
    poke(f, 0xfe000500 + 2 * VBE_YRES, 65535, 2);
    g_assert_cmpuint(peek(f, 0xfe000500 + 2 * VBE_XRES, 2), ==, 16000);
    console_refresh(f->console);
    g_assert_cmphex(peek(f, 0xfe000000, 4), ==, 0xffffff00);
    g_assert_cmphex(peek(f, 0xfe000604, 4), ==, 0x1e1e1e1e);
    dispi(f, VBE_ENABLE, VBE_GETCAPS);
    g_assert_cmpuint(dispi_read(f, VBE_BPP), ==, 32);
}

static void test_dump(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "vga-test.ppm", NULL), *content = NULL;
    size_t length;
    set_vbe(f, 320, 200, 32);
    poke(f, 0xfd000000, 0x112233, 4);
    g_assert_null(console_dump(f->console, path, IMAGE_PPM));
    g_assert_true(g_file_get_contents(path, &content, &length, NULL));
    g_assert_cmpmem(content, 18, "P6\n320 200\n255\n\x11\x22\x33", 18);
    g_assert_cmpuint(length, ==, 15 + 320 * 200 * 3);
    g_unlink(path);
    g_autoptr(GByteArray) png = g_byte_array_new();
    g_assert_null(surface_encode(f->console->surface, IMAGE_PNG, png));
    g_assert_cmpmem(png->data, 8, "\x89PNG\r\n\x1a\n", 8);
}

static void test_edid(Fixture *f, gconstpointer data)
{
    uint8_t edid[EDID_SIZE];
    edid_build(&(EdidInfo) { .width = 1920, .height = 1080 }, edid);
    for (unsigned block = 0; block < 2; block++) {
        uint8_t sum = 0;
        for (unsigned i = 0; i < 128; i++) {
            sum += edid[block * 128 + i];
        }
        g_assert_cmphex(sum, ==, 0);
    }
    g_assert_cmpuint(edid[56] | (edid[58] & 0xf0) << 4, ==, 1920);
    g_assert_cmpuint(edid[59] | (edid[61] & 0xf0) << 4, ==, 1080);
}

static void test_retrace(Fixture *f, gconstpointer data)
{
    mode_13h(f);
    unsigned seen = 0;
    clocks_set_running(f->machine->clocks, true);
    int64_t start = g_get_monotonic_time();
    while (seen != 3 && g_get_monotonic_time() - start < 2000000) {
        seen |= in(f, 0x3da, 1) & 8 ? 1 : 2;
    }
    g_assert_cmpuint(seen, ==, 3);
}

static void test_noise(Fixture *f, gconstpointer data)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());
    for (unsigned i = 0; i < 30000; i++) {
        unsigned kind = g_rand_int_range(rand, 0, 10);
        uint32_t value = g_rand_int(rand);
        unsigned size = 1u << g_rand_int_range(rand, 0, 3);
        if (kind < 5) {
            out(f, 0x3c0 + g_rand_int_range(rand, 0, 32), value, size);
        } else if (kind == 5) {
            dispi(f, g_rand_int_range(rand, 0, 12), kind & 1 ? value & 0x3ff : value);
        } else if (kind == 6) {
            poke(f, 0xa0000 + (value & 0x1ffff), value >> 3, size);
        } else if (kind == 7) {
            peek(f, 0xa0000 + (value & 0x1ffff), size);
        } else if (kind == 8) {
            poke(f, 0xfe000000 + (value & 0xfff), value >> 9, size);
        } else {
            in(f, 0x3b0 + g_rand_int_range(rand, 0, 48), size);
        }
        if (i % 300 == 0) {
            TextScreen text = { 0 };
            out(f, 0x3c0, 0x20, 1);
            /* Large pictures take long to draw and prove nothing more. */
            dispi(f, VBE_XRES, g_rand_int_range(rand, 0, 700));
            dispi(f, VBE_YRES, g_rand_int_range(rand, 0, 500));
            console_refresh(f->console);
            console_text(f->console, &text);
            text_screen_free(&text);
        }
    }
    device_reset(f->dev);
    mode_13h(f);
    console_refresh(f->console);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add("/vga/" #name, Fixture, NULL, setup, test_##name, teardown)
    ADD(text);
    ADD(planar);
    ADD(mode_13h);
    ADD(vbe);
    ADD(dump);
    ADD(edid);
    ADD(retrace);
    ADD(noise);
    return g_test_run();
}
