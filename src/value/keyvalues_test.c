#include "value/keyvalues.h"

#include "value/json.h"

static void check(const char *in, const char *implied, const char *expected)
{
    KeyValues *kv = NULL;
    Error *err = keyvalues_parse(in, implied, &kv);
    if (err) {
        g_assert_cmpstr(error_message(err), ==, expected);
        error_free(err);
        return;
    }
    g_autofree char *out = keyvalues_format(kv, NULL);
    g_assert_cmpstr(out, ==, expected);
    keyvalues_free(kv);
}

static void test_parse(void)
{
    check("pc,accel=kvm", "type", "type=pc,accel=kvm");
    check("file=a,,b=c,if=none", NULL, "file=a,,b=c,if=none");
    check("server,nowait", NULL, "server=on,wait=off");
    check("a.b=1,a.c=2,a.b=3", NULL, "a.b=1,a.c=2,a.b=3");
    check("{\"driver\":\"e1000\",\"x\":{\"y\":[true,5]}}", "driver", "driver=e1000,x.y.0=on,x.y.1=5");
    check("{\"driver\":\"qcow2\",\"backing\":null}", "driver", "driver=qcow2,backing=");
    check("=x", NULL, "Invalid parameter '=x': the name before '=' is missing");
    check("", "type", "");
    check("{\"a\":", NULL, "JSON parse error at line 1, column 6: expected a value");
}

static void test_help(void)
{
    g_autoptr(KeyValues) kv = NULL;
    g_assert_null(keyvalues_parse("e1000,help", "driver", &kv));
    g_assert_true(kv->help);
    g_assert_cmpstr(keyvalues_get(kv, "driver"), ==, "e1000");
}

static void test_tree(void)
{
    g_autoptr(KeyValues) kv = NULL;
    g_autoptr(Value) tree = NULL;
    g_assert_null(keyvalues_parse("a.b=1,a.c.0=x,a.c.1=y,d=z", NULL, &kv));
    g_assert_null(keyvalues_to_value(kv, &tree));
    g_autofree char *text = json_write(tree, false);
    g_assert_cmpstr(text, ==, "{\"a\": {\"b\": \"1\", \"c\": [\"x\", \"y\"]}, \"d\": \"z\"}");

    g_autoptr(KeyValues) bad = NULL;
    Value *none = NULL;
    g_assert_null(keyvalues_parse("a=1,a.b=2", NULL, &bad));
    Error *err = keyvalues_to_value(bad, &none);
    g_assert_nonnull(err);
    error_free(err);
}

static void test_unused(void)
{
    static const char *const known[] = { "order", "once", "menu", NULL };
    g_autoptr(KeyValues) kv = NULL;
    g_assert_null(keyvalues_parse("order=c,oncee=d", NULL, &kv));
    keyvalues_get(kv, "order");
    Error *err = keyvalues_check_used(kv, "-boot", known);
    g_assert_cmpstr(error_message(err), ==, "-boot: unknown parameter 'oncee', did you mean 'once'?");
    error_free(err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/value/keyvalues/parse", test_parse);
    g_test_add_func("/value/keyvalues/help", test_help);
    g_test_add_func("/value/keyvalues/tree", test_tree);
    g_test_add_func("/value/keyvalues/unused", test_unused);
    return g_test_run();
}
