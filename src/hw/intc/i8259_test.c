#include "hw/intc/i8259.h"

#include "bus/isa_test_util.h"

static void init_pair(IsaFixture *f, uint8_t icw4)
{
    static const uint16_t ports[2] = { 0x20, 0xa0 };
    for (unsigned n = 0; n < 2; n++) {
        outb(f, ports[n], 0x11);
        outb(f, ports[n] + 1, n ? 0x70 : 0x08);
        outb(f, ports[n] + 1, n ? 2 : 4);
        outb(f, ports[n] + 1, icw4);
        outb(f, ports[n] + 1, 0);
    }
}

static I8259 *pic_setup(IsaFixture *f, uint8_t icw4)
{
    isa_fixture_add(f, "isa-i8259");
    init_pair(f, icw4);
    return i8259_of(f->machine);
}

static void pulse(I8259 *pic, int n)
{
    i8259_set_irq(pic, n, 1);
    i8259_set_irq(pic, n, 0);
}

static void test_nesting(IsaFixture *f, gconstpointer unused)
{
    I8259 *pic = pic_setup(f, 1);
    g_assert_false(i8259_pending(pic));
    pulse(pic, 3);
    g_assert_true(i8259_pending(pic));
    g_assert_cmpuint(i8259_take(pic), ==, 0x0b);
    pulse(pic, 4); /* lower priority: waits for the end of 3 */
    g_assert_false(i8259_pending(pic));
    pulse(pic, 9); /* the slave's come in at priority 2 */
    g_assert_cmpuint(i8259_take(pic), ==, 0x71);
    outb(f, 0x20, 0x0b);
    g_assert_cmphex(inb(f, 0x20), ==, 0x0c);
    outb(f, 0xa0, 0x20);
    outb(f, 0x20, 0x20);
    g_assert_false(i8259_pending(pic));
    outb(f, 0x20, 0x20);
    g_assert_cmpuint(i8259_take(pic), ==, 0x0c);
}

/* Before the last ICW there is no vector to give: a timer that ticks early must not interrupt. */
static void test_uninitialized(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "isa-i8259");
    I8259 *pic = i8259_of(f->machine);
    pulse(pic, 0);
    g_assert_false(i8259_pending(pic));
    outb(f, 0x21, 0); /* OCW1 is taken, but changes nothing yet */
    g_assert_false(i8259_pending(pic));
    outb(f, 0x20, 0x11);
    pulse(pic, 0);
    outb(f, 0x21, 0x08);
    outb(f, 0x21, 4);
    g_assert_false(i8259_pending(pic));
    outb(f, 0x21, 1);
    g_assert_true(i8259_pending(pic));
    g_assert_cmpuint(i8259_take(pic), ==, 0x08);
}

static void test_slave_queue(IsaFixture *f, gconstpointer unused)
{
    I8259 *pic = pic_setup(f, 1);
    pulse(pic, 12);
    pulse(pic, 8);
    g_assert_cmpuint(i8259_take(pic), ==, 0x70);
    outb(f, 0xa0, 0x20);
    outb(f, 0x20, 0x20);
    g_assert_cmpuint(i8259_take(pic), ==, 0x74);
}

static void test_level(IsaFixture *f, gconstpointer unused)
{
    I8259 *pic = pic_setup(f, 1);
    outb(f, 0x4d1, 0xff);
    g_assert_cmphex(inb(f, 0x4d1), ==, 0xde);
    i8259_set_irq(pic, 11, 1);
    g_assert_cmpuint(i8259_take(pic), ==, 0x73);
    outb(f, 0xa0, 0x20);
    outb(f, 0x20, 0x20);
    g_assert_cmpuint(i8259_take(pic), ==, 0x73); /* still asserted */
    i8259_set_irq(pic, 11, 0);
    outb(f, 0xa0, 0x20);
    outb(f, 0x20, 0x20);
    g_assert_false(i8259_pending(pic));
    g_assert_cmpuint(i8259_take(pic), ==, 0x0f); /* spurious */
}

static void test_mask_poll_auto(IsaFixture *f, gconstpointer unused)
{
    I8259 *pic = pic_setup(f, 3); /* automatic EOI */
    outb(f, 0x21, 0x02);
    pulse(pic, 1);
    g_assert_false(i8259_pending(pic));
    outb(f, 0x21, 0x00);
    g_assert_true(i8259_pending(pic));
    outb(f, 0x20, 0x0c); /* poll */
    g_assert_cmphex(inb(f, 0x20), ==, 0x81);
    g_assert_false(i8259_pending(pic));
    outb(f, 0x20, 0x0b);
    g_assert_cmphex(inb(f, 0x20), ==, 0);
}

static void test_rotation(IsaFixture *f, gconstpointer unused)
{
    I8259 *pic = pic_setup(f, 1);
    outb(f, 0x20, 0xc3); /* 3 lowest: 4 is highest */
    pulse(pic, 1);
    pulse(pic, 5);
    g_assert_cmpuint(i8259_take(pic), ==, 0x0d);
    outb(f, 0x20, 0xa0); /* rotate on EOI: 5 becomes lowest */
    pulse(pic, 5);
    pulse(pic, 6);
    g_assert_cmpuint(i8259_take(pic), ==, 0x0e);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/i8259/" name, IsaFixture, NULL, isa_fixture_setup, fn, isa_fixture_teardown)
    CASE("uninitialized", test_uninitialized);
    CASE("nesting", test_nesting);
    CASE("slave-queue", test_slave_queue);
    CASE("level", test_level);
    CASE("mask-poll-auto", test_mask_poll_auto);
    CASE("rotation", test_rotation);
    return g_test_run();
}
