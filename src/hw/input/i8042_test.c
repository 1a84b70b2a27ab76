#include "bus/isa_test_util.h"
#include "input/input.h"

static uint8_t reply(IsaFixture *f)
{
    g_assert_cmphex(inb(f, 0x64) & 1, ==, 1);
    return inb(f, 0x60);
}

static void to_mouse(IsaFixture *f, uint8_t byte)
{
    outb(f, 0x64, 0xd4);
    outb(f, 0x60, byte);
}

static void kbc_setup(IsaFixture *f)
{
    isa_fixture_add(f, "i8042");
    machine_set_state(f->machine, RUN_STATE_RUNNING);
}

static void test_controller(IsaFixture *f, gconstpointer unused)
{
    kbc_setup(f);
    outb(f, 0x64, 0xaa);
    g_assert_cmphex(reply(f), ==, 0x55);
    outb(f, 0x64, 0x60);
    outb(f, 0x60, 0x65); /* keyboard interrupt, translation, mouse off */
    outb(f, 0x64, 0x20);
    g_assert_cmphex(reply(f), ==, 0x65);
    outb(f, 0x64, 0xd0);
    g_assert_cmphex(reply(f) & 3, ==, 3);
    outb(f, 0x64, 0xd3);
    outb(f, 0x60, 0x12);
    g_assert_cmphex(inb(f, 0x64) & 0x21, ==, 0x21);
    g_assert_cmphex(reply(f), ==, 0x12);
    g_assert_cmphex(inb(f, 0x64) & 1, ==, 0);
}

static void test_keyboard(IsaFixture *f, gconstpointer unused)
{
    Input *input;
    kbc_setup(f);
    input = input_of(f->machine);
    outb(f, 0x60, 0xff);
    g_assert_cmphex(reply(f), ==, 0xfa);
    g_assert_cmphex(reply(f), ==, 0xaa);
    outb(f, 0x60, 0xf2);
    g_assert_cmphex(reply(f), ==, 0xfa);
    g_assert_cmphex(reply(f), ==, 0xab);
    g_assert_cmphex(reply(f), ==, 0x83);
    input_send_key(input, NULL, KEY_A, true);
    g_assert_cmpint(f->level[1], ==, 1);
    g_assert_cmphex(reply(f), ==, 0x1c);
    g_assert_cmpint(f->level[1], ==, 0);
    input_send_key(input, NULL, KEY_A, false);
    g_assert_cmphex(reply(f), ==, 0xf0);
    g_assert_cmphex(reply(f), ==, 0x1c);
    outb(f, 0x64, 0x60);
    outb(f, 0x60, 0x41); /* translated to set 1 */
    input_send_key(input, NULL, KEY_RIGHT, true);
    input_send_key(input, NULL, KEY_RIGHT, false);
    g_assert_cmphex(reply(f), ==, 0xe0);
    g_assert_cmphex(reply(f), ==, 0x4d);
    g_assert_cmphex(reply(f), ==, 0xe0);
    g_assert_cmphex(reply(f), ==, 0xcd);
    outb(f, 0x60, 0xed);
    g_assert_cmphex(reply(f), ==, 0xfa);
    outb(f, 0x60, 0x04);
    g_assert_cmphex(reply(f), ==, 0xfa);
    g_assert_cmpuint(input_leds(input), ==, INPUT_LED_CAPS);
    g_assert_cmphex(inb(f, 0x64) & 1, ==, 0);
}

/* Every key comes out in set 1 as the table says, by way of set 2 and the controller's translation. */
static void test_translation(IsaFixture *f, gconstpointer unused)
{
    kbc_setup(f);
    outb(f, 0x64, 0x60);
    outb(f, 0x60, 0x41);
    for (unsigned key = 1; key < KEY_COUNT; key++) {
        const InputKeyInfo *info = &input_keys[key];
        if (!info->set2 || key == KEY_PAUSE || key == KEY_PRINT || (info->set2 & 0xff) > 0x84) {
            continue;
        }
        input_send_key(input_of(f->machine), NULL, key, true);
        if (info->set2 >> 8) {
            g_assert_cmphex(reply(f), ==, 0xe0);
        }
        g_assert_cmphex(reply(f), ==, info->set1 & 0xff);
        input_send_key(input_of(f->machine), NULL, key, false);
        while (inb(f, 0x64) & 1) {
            inb(f, 0x60);
        }
    }
}

static void test_mouse(IsaFixture *f, gconstpointer unused)
{
    static const uint8_t knock[] = { 200, 100, 80 };
    Input *input;
    kbc_setup(f);
    input = input_of(f->machine);
    outb(f, 0x64, 0x60);
    outb(f, 0x60, 0x03);
    to_mouse(f, 0xff);
    g_assert_cmphex(reply(f), ==, 0xfa);
    g_assert_cmphex(reply(f), ==, 0xaa);
    g_assert_cmphex(reply(f), ==, 0x00);
    for (unsigned i = 0; i < ARRAY_SIZE(knock); i++) {
        to_mouse(f, 0xf3);
        g_assert_cmphex(reply(f), ==, 0xfa);
        to_mouse(f, knock[i]);
        g_assert_cmphex(reply(f), ==, 0xfa);
    }
    to_mouse(f, 0xf2);
    g_assert_cmphex(reply(f), ==, 0xfa);
    g_assert_cmphex(reply(f), ==, 0x03);
    to_mouse(f, 0xf4);
    g_assert_cmphex(reply(f), ==, 0xfa);
    input_send_rel(input, NULL, INPUT_AXIS_X, -3);
    input_send_rel(input, NULL, INPUT_AXIS_Y, 300);
    input_send_btn(input, NULL, INPUT_BTN_LEFT, true);
    input_send_btn(input, NULL, INPUT_BTN_WHEEL_UP, true);
    input_sync(input);
    g_assert_cmpint(f->level[12], ==, 1);
    static const uint8_t expect[] = { 0x39, 0xfd, 0x01, 0xff, 0x29, 0x00, 0xd3, 0x00 };
    for (unsigned i = 0; i < ARRAY_SIZE(expect); i++) {
        g_assert_cmphex(reply(f), ==, expect[i]);
    }
    g_assert_cmphex(inb(f, 0x64) & 1, ==, 0);
}

static void test_queue(IsaFixture *f, gconstpointer unused)
{
    static const InputKey keys[] = { KEY_CTRL, KEY_ALT, KEY_DELETE };
    kbc_setup(f);
    input_queue_keys(input_of(f->machine), keys, 3, 50);
    g_assert_cmphex(reply(f), ==, 0x14);
    g_assert_cmphex(reply(f), ==, 0x11);
    g_assert_cmphex(reply(f), ==, 0xe0);
    g_assert_cmphex(reply(f), ==, 0x71);
    g_assert_cmphex(inb(f, 0x64) & 1, ==, 0);
    isa_fixture_advance(f, 60 * NS_PER_MS);
    g_assert_cmphex(reply(f), ==, 0xe0);
    g_assert_cmphex(reply(f), ==, 0xf0);
    g_assert_cmphex(reply(f), ==, 0x71);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/i8042/" name, IsaFixture, NULL, isa_fixture_setup, fn, isa_fixture_teardown)
    CASE("controller", test_controller);
    CASE("keyboard", test_keyboard);
    CASE("translation", test_translation);
    CASE("mouse", test_mouse);
    CASE("queue", test_queue);
    return g_test_run();
}
