/*
 * A "pc" with every PCI device that needs no back end, against random accesses to ports, configuration space and
 * memory. Nothing is expected but survival; run it under the sanitizers for its worth.
 *
 * Then the state: what such a machine saves, a fresh one loads and saves again the same, byte for byte; and whatever
 * random bytes are put into a saved device, the machine that loads them survives.
 */
#include "bus/pci.h"
#include "machine/x86/test_pc.h"
#include "ui/console.h"

enum { ROUNDS = 400000, HOSTILE_TURNS = 10000 };

/* Large pictures take long and prove nothing more. */
static void look(TestPc *noise)
{
    for (unsigned n = 0; n < console_count(noise->machine); n++) {
        Console *console = console_find(noise->machine, n);
        if (console && console->surface->width * console->surface->height < 1000000) {
            console_refresh(console);
        }
    }
}

static void test_noise(void)
{
    TestPc noise = { 0 };
    if (!test_pc_setup(&noise)) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        test_pc_access(&noise);
        if (round % 64 == 0) {
            lock_release(&noise.machine->lock);
            loop_run_once(noise.machine->loop, 0);
            lock_acquire(&noise.machine->lock);
        }
        if (round % 5000 == 0) {
            look(&noise);
        }
        if (round % 20000 == 19999) {
            machine_reset(noise.machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
        }
    }
    g_autofree char *text = pci_describe(noise.machine);
    g_assert_nonnull(strstr(text, "8086:1237"));
    g_rand_free(noise.rand);
    test_pc_tear_down(&noise);
}

/* --- state --- */

/* Each device by itself, so that a difference has a name. */
static unsigned compare_devices(Machine *a, Machine *b)
{
    unsigned devices = 0;
    Device *other = NULL;
    for (Device *dev = NULL; (dev = machine_device_next(a, dev));) {
        g_autoptr(GByteArray) x = g_byte_array_new(), y = g_byte_array_new();
        other = machine_device_next(b, other);
        device_save(dev, x);
        device_save(other, y);
        if (x->len != y->len || memcmp(x->data, y->data, x->len)) {
            guint at = 0;
            while (at < x->len && at < y->len && x->data[at] == y->data[at]) {
                at++;
            }
            g_autoptr(GString) near = g_string_new(NULL);
            for (guint i = at > 60 ? at - 60 : 0; i < MIN(at + 20, x->len); i++) {
                g_string_append_c(near, g_ascii_isprint(x->data[i]) ? (char)x->data[i] : ' ');
            }
            g_error("%s: saved again, byte %u of %u differs (%02x, %02x): near '%s'", dev->object.type->name, at, x->len,
                    at < x->len ? x->data[at] : 0, at < y->len ? y->data[at] : 0, near->str);
        }
        devices++;
    }
    return devices;
}

/* The noise may have ejected cards. */
static void unplug_what_went(Machine *one, Machine *two)
{
    for (Device *dev = machine_device_next(two, NULL), *next; dev; dev = next) {
        g_autofree char *path = object_path(&dev->object);
        next = machine_device_next(two, dev);
        if (!device_find(one, path)) {
            device_unplug(dev);
        }
    }
}

static void test_saved(void)
{
    TestPc one = { .everything = true };
    int64_t now = 0;
    if (!test_pc_setup(&one)) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    for (unsigned turn = 0; turn < 8; turn++) {
        test_pc_noise(&one, 2000 * turn, &now);
        TestPc two = { .everything = true, .rand = one.rand };
        g_autoptr(GByteArray) first = test_pc_save(one.machine);
        lock_release(&one.machine->lock);
        g_assert_true(test_pc_setup(&two));
        unplug_what_went(one.machine, two.machine);
        error_never(test_pc_load(two.machine, first));
        g_autoptr(GByteArray) second = test_pc_save(two.machine);
        unsigned devices = compare_devices(one.machine, two.machine);
        if (first->len != second->len || memcmp(first->data, second->data, first->len)) {
            g_error("saved again, the machine is not the same");
        }
        if (turn == 0) {
            g_test_message("%u devices, %u bytes", devices, first->len);
        }
        test_pc_tear_down(&two);
        lock_acquire(&one.machine->lock);
    }
    g_rand_free(one.rand);
    test_pc_tear_down(&one);
}

/* Rows of a random device with random bytes in them: refused or taken, and the machine goes on. */
static void test_hostile(void)
{
    TestPc noise = { .everything = true };
    int64_t now = 0;
    unsigned refused = 0;
    if (!test_pc_setup(&noise)) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    for (unsigned turn = 0; turn < HOSTILE_TURNS; turn++) {
        Device *dev = g_queue_peek_nth(noise.machine->device_order, test_pc_dice(&noise, g_queue_get_length(noise.machine->device_order)));
        g_autoptr(GByteArray) rows = g_byte_array_new();
        device_save(dev, rows);
        for (unsigned n = test_pc_dice(&noise, 4) + 1; n > 0 && rows->len > 4; n--) {
            rows->data[4 + test_pc_dice(&noise, rows->len - 4)] = (uint8_t)g_rand_int(noise.rand);
        }
        Error *err = device_load(dev, rows->data, rows->len);
        refused += err != NULL;
        if (err) { /* the real program ends here */
            error_free(err);
            machine_reset(noise.machine, SHUTDOWN_NONE);
        }
        test_pc_noise(&noise, 20, &now);
    }
    g_test_message("%u of %d were refused", refused, HOSTILE_TURNS);
    g_rand_free(noise.rand);
    test_pc_tear_down(&noise);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pc/saved", test_saved);
    g_test_add_func("/pc/hostile", test_hostile);
    g_test_add_func("/pc/noise", test_noise);
    return g_test_run();
}
