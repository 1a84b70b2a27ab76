#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "base/endian.h"
#include "hw/ide/ide.h"
#include "hw/isa/piix.h"
#include "hw/test_util.h"

/* A machine with memory, the PIIX south bridge, a disk on ide.0 and a CD on ide.1. */
typedef struct Fixture {
    PciFixture pc;
    IsaBus *isa;
    Device *ide;
    int irq[16];
    char *dir, *disk, *cd;
} Fixture;

enum { RAM_SIZE = 4 << 20, DISK_SECTORS = 4096, CD_BLOCKS = 512, BM_BASE = 0xc000 };

static void gsi_set(void *opaque, int n, int level)
{
    ((Fixture *)opaque)->irq[n] = level;
}

static void add_named(Fixture *f, const char *type, const char *id, const char *bus, const char *path, unsigned flags)
{
    BlockBackend *blk = test_drive(f->pc.machine, f->pc.graph, id, path, flags);
    Device *dev = device_new(f->pc.machine, device_type_find(type), id);
    device_set_str(dev, "drive", id);
    error_never(device_plug(dev, bus_find(f->pc.machine, bus)));
    blk_unref(blk);
}

static void add_drive(Fixture *f, const char *type, const char *bus, const char *path, unsigned flags)
{
    add_named(f, type, type, bus, path, flags);
}

static void out(Fixture *f, uint16_t port, uint32_t value, unsigned size)
{
    (void)mem_store(f->pc.machine->io_as, port, size, value);
}

static uint32_t in(Fixture *f, uint16_t port, unsigned size)
{
    uint64_t value = 0;
    (void)mem_load(f->pc.machine->io_as, port, size, &value);
    return (uint32_t)value;
}

static void pci_out(Fixture *f, unsigned devfn, unsigned reg, uint32_t value, unsigned size)
{
    out(f, 0xcf8, 0x80000000 | devfn << 8 | (reg & ~3u), 4);
    out(f, 0xcfc + (reg & 3), value, size);
}

static void setup(Fixture *f, gconstpointer data)
{
    IrqLine gsi[16];
    f->dir = g_dir_make_tmp("ide-test-XXXXXX", NULL);
    f->disk = test_image(f->dir, "disk", DISK_SECTORS * 512);
    f->cd = test_image(f->dir, "cd", CD_BLOCKS * 2048);
    pci_fixture_setup(&f->pc, RAM_SIZE);
    for (unsigned n = 0; n < 16; n++) {
        irq_line_init(&gsi[n], gsi_set, f, (int)n);
    }
    error_never(piix3_create(f->pc.machine, f->pc.pci, gsi, &f->isa));
    f->ide = device_new(f->pc.machine, device_type_find("piix3-ide"), NULL);
    device_set_str(f->ide, "addr", "1.1");
    error_never(device_plug(f->ide, &f->pc.pci->bus));
    add_drive(f, "ide-hd", "ide.0", f->disk, OPEN_WRITE);
    add_drive(f, "ide-cd", "ide.1", f->cd, 0);
    pci_out(f, PCI_DEVFN(1, 1), 0x20, BM_BASE, 4);
    pci_out(f, PCI_DEVFN(1, 1), 0x04, 5, 2);
}

static void teardown(Fixture *f, gconstpointer data)
{
    pci_fixture_teardown(&f->pc);
    g_unlink(f->disk);
    g_unlink(f->cd);
    g_rmdir(f->dir);
    g_free(f->disk);
    g_free(f->cd);
    g_free(f->dir);
}

/* Lets the loop run until the drive is not busy. */
static uint8_t wait_ready(Fixture *f, uint16_t base)
{
    for (unsigned i = 0; i < 1000; i++) {
        uint8_t status = in(f, base + 7, 1);
        if (!(status & ATA_BSY)) {
            return status;
        }
        lock_release(&f->pc.machine->lock);
        loop_run_once(f->pc.machine->loop, 10 * NS_PER_MS);
        lock_acquire(&f->pc.machine->lock);
    }
    g_error("the drive stays busy");
}

static void command28(Fixture *f, uint32_t lba, uint8_t count, uint8_t command)
{
    out(f, 0x1f6, 0xe0 | lba >> 24, 1);
    out(f, 0x1f2, count, 1);
    out(f, 0x1f3, lba, 1);
    out(f, 0x1f4, lba >> 8, 1);
    out(f, 0x1f5, lba >> 16, 1);
    out(f, 0x1f7, command, 1);
}

static void test_identify(Fixture *f, gconstpointer data)
{
    uint16_t words[256];
    out(f, 0x3f6, ATA_SRST, 1);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, ATA_BSY);
    out(f, 0x3f6, 0, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    g_assert_cmphex(in(f, 0x1f4, 1) | in(f, 0x1f5, 1) << 8, ==, 0);
    out(f, 0x1f6, 0xa0, 1);
    out(f, 0x1f7, 0xec, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x58);
    for (unsigned i = 0; i < 256; i++) {
        words[i] = in(f, 0x1f0, 2);
    }
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x50);
    g_assert_cmpuint(words[60] | words[61] << 16, ==, DISK_SECTORS);
    g_assert_cmpuint(words[100], ==, DISK_SECTORS);
    g_assert_cmphex(words[27], ==, 'Q' << 8 | 'E');
    /* No second drive. */
    out(f, 0x1f6, 0xb0, 1);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0);
    out(f, 0x1f7, 0xec, 1);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0);
    out(f, 0x176, 0xb0, 1); /* nor one beside the CD drive, whose signature must not be seen twice */
    g_assert_cmphex(in(f, 0x174, 1) | in(f, 0x175, 1) << 8, ==, 0);
    out(f, 0x176, 0xa0, 1);
    g_assert_cmphex(in(f, 0x174, 1) | in(f, 0x175, 1) << 8, ==, 0xeb14);
    out(f, 0x1f6, 0xa0, 1);
    out(f, 0x1f7, 0xa1, 1);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x51);
    g_assert_cmphex(in(f, 0x1f1, 1), ==, ATA_ABRT);
}

static void test_pio(Fixture *f, gconstpointer data)
{
    for (unsigned multiple = 0; multiple < 2; multiple++) {
        command28(f, 100, 20, multiple ? 0xc4 : 0x20);
        for (unsigned at = 0; at < 20 * 512; at += 4) {
            if (at % 512 == 0) {
                g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x58);
            }
            uint32_t value = in(f, 0x1f0, 4);
            for (unsigned i = 0; i < 4; i++) {
                g_assert_cmphex((uint8_t)(value >> (8 * i)), ==, test_pattern(100 * 512 + at + i));
            }
        }
        g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x50);
        g_assert_cmphex(in(f, 0x1f3, 1), ==, 119);
    }
    command28(f, 7, 3, 0x30);
    for (unsigned at = 0; at < 3 * 512; at += 2) {
        if (at % 512 == 0) {
            g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x58);
        }
        out(f, 0x1f0, at * 7, 2);
    }
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    command28(f, 0, 0, 0xe7);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(f->disk, &content, NULL, NULL));
    for (unsigned at = 0; at < 3 * 512; at += 2) {
        g_assert_cmphex(ld16_le(content + 7 * 512 + at), ==, (uint16_t)(at * 7));
    }
    g_assert_cmphex((uint8_t)content[10 * 512], ==, test_pattern(10 * 512));
    /* Beyond the end. */
    command28(f, DISK_SECTORS - 1, 2, 0x20);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x51);
    g_assert_cmphex(in(f, 0x1f1, 1), ==, ATA_IDNF);
}

static void prd(Fixture *f, unsigned n, uint32_t addr, uint32_t length, bool last)
{
    uint8_t *at = f->pc.block->host + 0x1000 + n * 8;
    st32_le(at, addr);
    st16_le(at + 4, (uint16_t)length);
    st16_le(at + 6, last ? 0x8000 : 0);
}

static void test_dma(Fixture *f, gconstpointer data)
{
    /* Ten sectors in pieces that do not end on sectors. */
    prd(f, 0, 0x10002, 1000, false);
    prd(f, 1, 0x20000, 3000, false);
    prd(f, 2, 0x30000, 1120, true);
    out(f, BM_BASE + 4, 0x1000, 4);
    out(f, BM_BASE + 2, 0x06, 1);
    out(f, BM_BASE, 0x08, 1);
    command28(f, 50, 10, 0xc8);
    g_assert_cmphex(in(f, 0x3f6, 1) & ATA_BSY, ==, ATA_BSY);
    out(f, BM_BASE, 0x09, 1);
    g_assert_cmphex(in(f, BM_BASE + 2, 1) & 1, ==, 1);
    while (!f->irq[14]) {
        lock_release(&f->pc.machine->lock);
        loop_run_once(f->pc.machine->loop, 10 * NS_PER_MS);
        lock_acquire(&f->pc.machine->lock);
    }
    g_assert_cmphex(in(f, BM_BASE + 2, 1) & 7, ==, 4);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x50);
    g_assert_false(f->irq[14]);
    out(f, BM_BASE, 0, 1);
    const uint8_t *ram = f->pc.block->host;
    for (unsigned i = 0; i < 5120; i++) {
        uint8_t got = i < 1000 ? ram[0x10002 + i] : i < 4000 ? ram[0x20000 + i - 1000] : ram[0x30000 + i - 4000];
        g_assert_cmphex(got, ==, test_pattern(50 * 512 + i));
    }
    /* Back to another place. */
    out(f, BM_BASE + 2, 0x06, 1);
    command28(f, 1000, 10, 0xca);
    out(f, BM_BASE, 0x01, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    out(f, BM_BASE, 0, 1);
    command28(f, 0, 0, 0xe7);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(f->disk, &content, NULL, NULL));
    g_assert_cmpmem(content + 1000 * 512, 5120, content + 50 * 512, 5120);
    /* A list that is too short. */
    prd(f, 0, 0x10000, 512, true);
    out(f, BM_BASE + 2, 0x06, 1);
    command28(f, 0, 2, 0xc8);
    out(f, BM_BASE, 0x09, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0) & ATA_ERR, ==, 0);
    g_assert_cmphex(in(f, BM_BASE + 2, 1) & 7, ==, 0);
    out(f, BM_BASE, 0, 1);
    /* Descriptors that point at nothing, and thousands of small ones. */
    for (unsigned n = 0; n < 4096; n++) {
        prd(f, n, n % 3 ? 0x40000 + n * 2 : 0xf0000000, 2, n == 4095);
    }
    command28(f, 0, 16, 0xc8);
    out(f, BM_BASE, 0x09, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    out(f, BM_BASE, 0, 1);
    g_assert_cmphex(ram[0x40002], ==, test_pattern(2));
    g_assert_cmphex(ram[0x40000 + 4001 * 2], ==, test_pattern(4001 * 2));
}

static void send_packet(Fixture *f, const uint8_t packet[12], uint16_t limit)
{
    out(f, 0x176, 0xa0, 1);
    out(f, 0x171, 0, 1);
    out(f, 0x174, limit, 1);
    out(f, 0x175, limit >> 8, 1);
    out(f, 0x177, 0xa0, 1);
    g_assert_cmphex(wait_ready(f, 0x170) & ATA_DRQ, ==, ATA_DRQ);
    g_assert_cmphex(in(f, 0x172, 1), ==, ATAPI_CD);
    for (unsigned i = 0; i < 12; i += 2) {
        out(f, 0x170, ld16_le(packet + i), 2);
    }
}

/* Takes all data of a command; the bytes. */
static unsigned take_data(Fixture *f, uint8_t *to, unsigned max)
{
    unsigned have = 0;
    while (wait_ready(f, 0x170) & ATA_DRQ) {
        unsigned bytes = in(f, 0x174, 1) | in(f, 0x175, 1) << 8;
        g_assert_cmphex(in(f, 0x172, 1), ==, ATAPI_IO);
        for (unsigned i = 0; i < bytes; i += 2) {
            uint16_t word = in(f, 0x170, 2);
            g_assert_cmpuint(have + 2, <=, max);
            st16_le(to + have, word);
            have += 2;
        }
    }
    g_assert_cmphex(in(f, 0x172, 1), ==, 3);
    return have;
}

static void test_atapi(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buffer = g_malloc(400 * 2352);
    out(f, 0x376, ATA_SRST, 1);
    out(f, 0x376, 0, 1);
    wait_ready(f, 0x170);
    g_assert_cmphex(in(f, 0x174, 1) | in(f, 0x175, 1) << 8, ==, 0xeb14);
    send_packet(f, (uint8_t[12]) { 0x12, 0, 0, 0, 36 }, 0xfffe);
    g_assert_cmpuint(take_data(f, buffer, 512), ==, 36);
    g_assert_cmpmem(buffer + 8, 4, "QEMU", 4);
    send_packet(f, (uint8_t[12]) { 0x25 }, 0xfffe);
    g_assert_cmpuint(take_data(f, buffer, 512), ==, 8);
    g_assert_cmpuint(ld32_be(buffer), ==, CD_BLOCKS - 1);
    /* 100 blocks, in pieces of 3000 bytes. */
    send_packet(f, (uint8_t[12]) { 0x28, 0, 0, 0, 0, 5, 0, 0, 100 }, 3000);
    g_assert_cmpuint(take_data(f, buffer, 400 * 2352), ==, 100 * 2048);
    for (unsigned i = 0; i < 100 * 2048; i++) {
        g_assert_cmphex(buffer[i], ==, test_pattern(5 * 2048 + i));
    }
    /* Raw blocks. */
    send_packet(f, (uint8_t[12]) { 0xbe, 0, 0, 0, 0, 7, 0, 0, 70, 0xf8 }, 0xfffe);
    g_assert_cmpuint(take_data(f, buffer, 400 * 2352), ==, 70 * 2352);
    for (unsigned n = 0; n < 70; n++) {
        const uint8_t *raw = buffer + n * 2352;
        g_assert_cmphex(raw[15], ==, 1);
        g_assert_cmphex(raw[13], ==, 0x02 + (n + 7) / 75);
        g_assert_cmphex(raw[16 + 9], ==, test_pattern((7 + n) * 2048 + 9));
    }
    /* Beyond the end, and what the drive says then. */
    send_packet(f, (uint8_t[12]) { 0x28, 0, 0, 0, 2, 0, 0, 0, 1 }, 0xfffe);
    g_assert_cmphex(wait_ready(f, 0x170) & ATA_ERR, ==, ATA_ERR);
    g_assert_cmphex(in(f, 0x171, 1) >> 4, ==, 5);
    send_packet(f, (uint8_t[12]) { 0x03, 0, 0, 0, 18 }, 0xfffe);
    g_assert_cmpuint(take_data(f, buffer, 512), ==, 18);
    g_assert_cmphex(buffer[12], ==, 0x21);
    /* The tray. */
    send_packet(f, (uint8_t[12]) { 0x1b, 0, 0, 0, 2 }, 0xfffe);
    g_assert_cmphex(wait_ready(f, 0x170) & ATA_ERR, ==, 0);
    send_packet(f, (uint8_t[12]) { 0x00 }, 0xfffe);
    g_assert_cmphex(in(f, 0x171, 1) >> 4, ==, 2);
    send_packet(f, (uint8_t[12]) { 0x1b, 0, 0, 0, 3 }, 0xfffe);
    send_packet(f, (uint8_t[12]) { 0x00 }, 0xfffe);
    g_assert_cmphex(in(f, 0x171, 1) >> 4, ==, 6);
    send_packet(f, (uint8_t[12]) { 0x00 }, 0xfffe);
    g_assert_cmphex(wait_ready(f, 0x170) & ATA_ERR, ==, 0);
}

/* A reset while a request is under way: the drive stays busy until it is back, then shows its signature. */
static void test_reset_in_flight(Fixture *f, gconstpointer data)
{
    command28(f, 0, 0, 0x20);
    g_assert_cmphex(in(f, 0x3f6, 1) & ATA_BSY, ==, ATA_BSY);
    out(f, 0x3f6, ATA_SRST, 1);
    out(f, 0x3f6, 0, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    g_assert_cmphex(in(f, 0x1f2, 1), ==, 1);
    command28(f, 0, 8, 0x20);
    device_reset(f->ide);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x50);
    command28(f, 3, 1, 0x20);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x58);
    g_assert_cmphex(in(f, 0x1f0, 2) & 0xff, ==, test_pattern(3 * 512));
}

/* The engine is stopped under one drive's transfer and started for the other: that one stalls, the first completes. */
static void test_two_drives(Fixture *f, gconstpointer data)
{
    g_autofree char *second = test_image(f->dir, "second", DISK_SECTORS * 512);
    add_named(f, "ide-hd", "second", "ide.0", second, OPEN_WRITE);
    g_unlink(second);
    prd(f, 0, 0x10000, 0, true);
    out(f, BM_BASE + 4, 0x1000, 4);
    command28(f, 64, 128, 0xc8);
    out(f, BM_BASE, 0x09, 1);
    out(f, BM_BASE, 0x08, 1);
    out(f, 0x1f6, 0xf0, 1);
    out(f, 0x1f2, 1, 1);
    out(f, 0x1f7, 0xc8, 1);
    out(f, BM_BASE, 0x09, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    out(f, 0x1f6, 0xe0, 1);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x50);
    for (unsigned i = 0; i < 65536; i++) {
        g_assert_cmphex(f->pc.block->host[0x10000 + i], ==, test_pattern(64 * 512 + i));
    }
    out(f, BM_BASE, 0, 1);
}

/* Saved in the middle of a PIO transfer, of a disk and a CD. */
static void test_state(Fixture *f, gconstpointer data)
{
    Device *disk = device_find(f->pc.machine, "ide-hd"), *cd = device_find(f->pc.machine, "ide-cd");
    g_autoptr(GByteArray) of_disk = g_byte_array_new(), of_cd = g_byte_array_new(), of_ide = g_byte_array_new();
    command28(f, 200, 40, 0xc4);
    wait_ready(f, 0x1f0);
    for (unsigned i = 0; i < 512 * 17; i += 4) {
        in(f, 0x1f0, 4);
    }
    send_packet(f, (uint8_t[12]) { 0x28, 0, 0, 0, 0, 5, 0, 0, 100 }, 3000);
    wait_ready(f, 0x170);
    for (unsigned i = 0; i < 1000; i += 4) {
        in(f, 0x170, 4);
    }
    device_save(disk, of_disk);
    device_save(cd, of_cd);
    device_save(f->ide, of_ide);
    device_reset(f->ide);
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x50);
    error_never(device_load(f->ide, of_ide->data, of_ide->len));
    error_never(device_load(disk, of_disk->data, of_disk->len));
    error_never(device_load(cd, of_cd->data, of_cd->len));
    for (unsigned i = 512 * 17; i < 512 * 40; i += 4) {
        g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x58);
        g_assert_cmphex(in(f, 0x1f0, 4) & 0xff, ==, test_pattern(200 * 512 + i));
    }
    g_assert_cmphex(in(f, 0x1f7, 1), ==, 0x50);
    for (unsigned i = 1000; i < 100 * 2048; i += 4) {
        g_assert_cmphex(wait_ready(f, 0x170) & ATA_DRQ, ==, ATA_DRQ);
        g_assert_cmphex(in(f, 0x170, 4) & 0xff, ==, test_pattern(5 * 2048 + i));
    }
    g_assert_cmphex(wait_ready(f, 0x170) & (ATA_DRQ | ATA_ERR), ==, 0);
    /* Streams that somebody damaged never lead outside the buffer. */
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());
    for (unsigned i = 0; i < 300; i++) {
        GByteArray *stream = i % 2 ? of_disk : of_cd;
        unsigned tail = g_rand_int_range(rand, 0, 2000), at = stream->len - 1 - tail % stream->len;
        uint8_t was = stream->data[at];
        stream->data[at] = (uint8_t)g_rand_int(rand);
        error_free(device_load(i % 2 ? disk : cd, stream->data, stream->len));
        for (unsigned n = 0; n < 200; n++) {
            in(f, i % 2 ? 0x1f0 : 0x170, 4);
        }
        wait_ready(f, i % 2 ? 0x1f0 : 0x170);
        stream->data[at] = was;
        device_reset(f->ide);
    }
}

/* Whatever a guest does with the ports must be survived. */
static void test_noise(Fixture *f, gconstpointer data)
{
    static const uint16_t bases[] = { 0x1f0, 0x170, BM_BASE, 0x3f6, 0x376 };
    static const uint8_t commands[] = { 0xa0, 0x20, 0x30, 0xc8, 0xca, 0xc4, 0xc5, 0x25, 0x35, 0xec, 0xa1, 0xb0, 0x06, 0x08, 0x90 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());
    for (unsigned i = 0; i < RAM_SIZE; i += 4) {
        st32_le(f->pc.block->host + i, g_rand_int(rand));
    }
    for (unsigned i = 0; i < 60000; i++) {
        uint16_t base = bases[g_rand_int_range(rand, 0, 5)];
        unsigned reg = base >= 0x3f0 && base < BM_BASE ? 0 : base == 0x376 ? 0 : g_rand_int_range(rand, 0, base == BM_BASE ? 16 : 8);
        unsigned size = 1u << g_rand_int_range(rand, 0, 3);
        uint32_t value = g_rand_int(rand);
        if (base < 0x200 && reg == 7 && g_rand_boolean(rand)) {
            value = commands[g_rand_int_range(rand, 0, sizeof(commands))];
        } else if (base < 0x200 && reg >= 4 && g_rand_boolean(rand)) {
            value &= 0xe0; /* low addresses now and then */
        }
        if (g_rand_int_range(rand, 0, 3)) {
            out(f, base + reg, value, size);
        } else {
            in(f, base + reg, size);
        }
        if (i % 5 == 0) {
            lock_release(&f->pc.machine->lock);
            loop_run_once(f->pc.machine->loop, 0);
            lock_acquire(&f->pc.machine->lock);
        }
    }
    device_reset(f->ide);
    command28(f, 3, 1, 0x20);
    g_assert_cmphex(wait_ready(f, 0x1f0), ==, 0x58);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add("/ide/" #name, Fixture, NULL, setup, test_##name, teardown)
    ADD(identify);
    ADD(pio);
    ADD(dma);
    ADD(atapi);
    ADD(reset_in_flight);
    ADD(two_drives);
    ADD(state);
    ADD(noise);
    return g_test_run();
}
