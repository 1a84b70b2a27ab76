#include "object/object.h"

#include <string.h>

typedef struct Toy {
    Object object;
    uint32_t count;
    uint64_t size;
    bool on;
    char *label;
    int color;
    uint32_t bits;
    Object *friend;
} Toy;

static const EnumName colors[] = { { "red", 1 }, { "green", 2 }, { NULL, 0 } };
static const ObjectType toy_type;
static const Prop toy_props[] = {
    PROP_U32("count", Toy, count, 3, .min = 1, .max = 10, .help = "how many"),
    PROP_SIZE("size", Toy, size, 4096),
    PROP_BOOL("on", Toy, on, true),
    PROP_STR("label", Toy, label, .def_str = "none"),
    PROP_ENUM("color", Toy, color, colors, 2),
    PROP_BIT32("fast", Toy, bits, 5, true),
    PROP_("friend", prop_link, Toy, friend, .link = &toy_type),
    { 0 },
};
static const ObjectType toy_type = { .name = "toy", .size = sizeof(Toy), .props = toy_props };

static void expect_error(Error *err, const char *part)
{
    g_assert_nonnull(err);
    if (!strstr(error_message(err), part)) {
        g_error("'%s' lacks '%s'", error_message(err), part);
    }
    error_free(err);
}

static void test_props(void)
{
    Toy *toy = (Toy *)object_new(&toy_type);
    g_assert_cmpuint(toy->count, ==, 3);
    g_assert_cmpstr(toy->label, ==, "none");
    g_assert_cmphex(toy->bits, ==, 0x20);
    g_assert_null(object_set(&toy->object, "size", "1.5M"));
    g_assert_cmpuint(toy->size, ==, 1536 * KiB);
    g_assert_null(object_set(&toy->object, "color", "red"));
    g_assert_cmpint(toy->color, ==, 1);
    expect_error(object_set(&toy->object, "count", "11"), "1 to 10");
    expect_error(object_set(&toy->object, "count", "1x"), "not a number");
    expect_error(object_set(&toy->object, "colour", "red"), "did you mean 'color'");
    expect_error(object_set(&toy->object, "color", "blue"), "'red', 'green'");
    expect_error(object_set(&toy->object, "size", "99999999999G"), "too large");
    g_autofree char *help = object_props_help(&toy_type);
    g_assert_nonnull(strstr(help, "count=<uint32>"));
    g_assert_nonnull(strstr(help, "(default: 3)"));
    object_free(&toy->object);
}

static void test_tree(void)
{
    Object *root = object_new_container();
    Object *a = object_new(&toy_type), *b = object_new(&toy_type);
    object_add_child(object_container_at(root, "/machine/unattached"), "device[*]", a);
    object_add_child(object_container_at(root, "/machine/unattached"), "device[*]", b);
    g_autofree char *path = object_path(b);
    g_assert_cmpstr(path, ==, "/machine/unattached/device[1]");
    g_assert_true(object_resolve(root, path) == b);
    g_assert_true(object_resolve(root, "device[0]") == a);
    g_assert_null(object_set(b, "friend", "device[0]"));
    g_assert_true(((Toy *)b)->friend == a);
    expect_error(object_set(b, "friend", "/machine"), "not a toy");
    object_free(root);
}

static void test_texts(void)
{
    uint8_t mac[6], uuid[16];
    char text[37];
    g_assert_null(parse_mac("52:54:00:12:34:56", mac));
    g_assert_cmphex(mac[5], ==, 0x56);
    expect_error(parse_mac("52:54:00:12:34", mac), "MAC");
    g_assert_null(parse_uuid("12345678-9abc-def0-1234-56789abcdef0", uuid));
    format_uuid(uuid, text);
    g_assert_cmpstr(text, ==, "12345678-9abc-def0-1234-56789abcdef0");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/object/props", test_props);
    g_test_add_func("/object/tree", test_tree);
    g_test_add_func("/object/texts", test_texts);
    return g_test_run();
}
