#include "base/error.h"

#include <errno.h>

static void test_prefix_and_hint(void)
{
    Error *err = error_new_errno(-ENOENT, "cannot open '%s'", "x.img");
    err = error_hint(error_prefix(err, "drive0: "), "Create it with qemu-img create.");
    g_assert_cmpstr(error_message(err), ==, "drive0: cannot open 'x.img': No such file or directory");
    g_assert_cmpstr(error_hint_text(err), ==, "Create it with qemu-img create.");
    g_assert_cmpint(error_errno(err), ==, ENOENT);
    error_free(err);
}

static void test_nearest(void)
{
    const char *const names[] = { "virtio-blk-pci", "virtio-net-pci", "e1000", NULL };
    g_assert_cmpstr(nearest_in("virtio-bkl-pci", names), ==, "virtio-blk-pci");
    g_assert_cmpstr(nearest_in("e100", names), ==, "e1000");
    g_assert_null(nearest_in("usb-tablet", names));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/error/prefix-and-hint", test_prefix_and_hint);
    g_test_add_func("/base/error/nearest", test_nearest);
    return g_test_run();
}
