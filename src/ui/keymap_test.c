/* Layouts against what is printed on the keyboards. */
#include "ui/keymap.h"

static void check(const Keymap *keymap, uint32_t unicode, const char *name, unsigned modifiers)
{
    InputKey key;
    unsigned got;
    g_assert_true(keymap_find(keymap, unicode, &key, &got));
    g_assert_cmpstr(input_keys[key].name, ==, name);
    g_assert_cmpuint(got, ==, modifiers);
}

static void test_us(void)
{
    Keymap *keymap;
    InputKey key;
    unsigned modifiers;
    Error *err = keymap_new(NULL, &keymap);
    g_assert_null(err);
    check(keymap, 'a', "a", 0);
    check(keymap, 'Z', "z", KEYMAP_SHIFT);
    check(keymap, '|', "backslash", KEYMAP_SHIFT);
    check(keymap, '~', "grave_accent", KEYMAP_SHIFT);
    check(keymap, '"', "apostrophe", KEYMAP_SHIFT);
    check(keymap, '/', "slash", 0);
    for (uint32_t ch = 32; ch < 127; ch++) {
        g_assert_true(keymap_find(keymap, ch, &key, &modifiers));
    }
    g_assert_false(keymap_find(keymap, 0xe4, &key, &modifiers));
    keymap_free(keymap);
}

static void test_database(void)
{
    Keymap *keymap;
    g_autoptr(Error) err = keymap_new("de", &keymap);
    if (err) {
        g_test_skip(error_message(err));
        return;
    }
    check(keymap, 'z', "y", 0);
    check(keymap, 'Y', "z", KEYMAP_SHIFT);
    check(keymap, 0xe4, "apostrophe", 0);
    check(keymap, '@', "q", KEYMAP_ALTGR);
    check(keymap, '/', "7", KEYMAP_SHIFT);
    check(keymap, '<', "less", 0);
    keymap_free(keymap);
    for (const char *const *name = keymap_names; *name; name++) {
        g_assert_null(keymap_check(*name));
        Error *failed = keymap_new(*name, &keymap);
        g_assert_null(failed);
        keymap_free(keymap);
    }
}

static void test_unknown(void)
{
    g_autoptr(Error) err = keymap_check("dee");
    g_assert_cmpstr(error_message(err), ==, "there is no keyboard layout 'dee', did you mean 'de'?");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/keymap/us", test_us);
    g_test_add_func("/keymap/database", test_database);
    g_test_add_func("/keymap/unknown", test_unknown);
    return g_test_run();
}
