#include "bus/isa_test_util.h"

static uint32_t moved;

static uint32_t transfer(void *opaque, unsigned channel, uint32_t pos, uint32_t count)
{
    IsaFixture *f = opaque;
    static const uint8_t text[] = "0123456789abcdef";
    uint32_t bytes = MIN(count - pos, 16u);
    f->isa.dma_ops->to_memory(f->isa.dma, channel, text, pos, bytes);
    moved = pos + bytes;
    return moved;
}

static void program(IsaFixture *f, uint32_t address, uint16_t count, uint8_t mode)
{
    outb(f, 0x0a, 4 | 2);
    outb(f, 0x0c, 0);
    outb(f, 0x04, address);
    outb(f, 0x04, address >> 8);
    outb(f, 0x05, count - 1);
    outb(f, 0x05, (count - 1) >> 8);
    outb(f, 0x81, address >> 16);
    outb(f, 0x0b, mode | 2);
}

static void test_transfer(IsaFixture *f, gconstpointer unused)
{
    uint8_t bytes[32];
    isa_fixture_add(f, "i8257");
    f->isa.dma_ops->register_channel(f->isa.dma, 2, transfer, f);
    program(f, 0x2fff8, 24, 0x44);
    f->isa.dma_ops->set_dreq(f->isa.dma, 2, true);
    isa_fixture_run(f);
    g_assert_cmphex(inb(f, 0x08), ==, 0x40); /* requested, but masked */
    outb(f, 0x0a, 2);
    isa_fixture_run(f);
    g_assert_cmpuint(moved, ==, 24);
    g_assert_cmphex(inb(f, 0x08), ==, 0x44); /* terminal count */
    g_assert_cmphex(inb(f, 0x0f), ==, 0xff); /* masked itself */
    /* The address wraps inside its 64 KiB page. */
    g_assert_cmpint(mem_read(f->machine->as, 0x2fff8, bytes, 8), ==, MEM_OK);
    g_assert_cmpint(memcmp(bytes, "01234567", 8), ==, 0);
    g_assert_cmpint(mem_read(f->machine->as, 0x20000, bytes, 16), ==, MEM_OK);
    g_assert_cmpint(memcmp(bytes, "89abcdef01234567", 16), ==, 0);
}

static void test_autoinit(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "i8257");
    f->isa.dma_ops->register_channel(f->isa.dma, 2, transfer, f);
    g_assert_false(f->isa.dma_ops->has_autoinit(f->isa.dma, 2));
    program(f, 0x1000, 16, 0x54);
    g_assert_true(f->isa.dma_ops->has_autoinit(f->isa.dma, 2));
    outb(f, 0x0a, 2);
    f->isa.dma_ops->set_dreq(f->isa.dma, 2, true);
    lock_release(&f->machine->lock);
    loop_run_once(f->machine->loop, 0);
    lock_acquire(&f->machine->lock);
    f->isa.dma_ops->set_dreq(f->isa.dma, 2, false);
    outb(f, 0x0c, 0);
    g_assert_cmphex(inb(f, 0x05), ==, 15); /* loaded again */
    g_assert_cmphex(inb(f, 0x0f) & 4, ==, 0);
    isa_fixture_run(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/i8237/" name, IsaFixture, NULL, isa_fixture_setup, fn, isa_fixture_teardown)
    CASE("transfer", test_transfer);
    CASE("autoinit", test_autoinit);
    return g_test_run();
}
