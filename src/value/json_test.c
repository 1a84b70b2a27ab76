#include "value/json.h"

#include <string.h>

static char *round_trip(const char *text)
{
    Value *value = NULL;
    Error *err = json_parse(text, strlen(text), &value);
    if (err) {
        char *message = g_strdup(error_message(err));
        error_free(err);
        return message;
    }
    char *out = json_write(value, false);
    value_free(value);
    return out;
}

static void check(const char *in, const char *expected)
{
    g_autofree char *out = round_trip(in);
    g_assert_cmpstr(out, ==, expected);
}

static void test_values(void)
{
    check("{'execute':'stop',\"id\":[1,-2,3.5,true,null]}",
          "{\"execute\": \"stop\", \"id\": [1, -2, 3.5, true, null]}");
    check("18446744073709551615", "18446744073709551615");
    check("-9223372036854775808", "-9223372036854775808");
    check("\"\\u00e4\\uD83D\\uDE00\\n\\/\"", "\"\\u00E4\\uD83D\\uDE00\\n/\"");
    check("'it\\'s \"x\"'", "\"it's \\\"x\\\"\"");
    check(" [ ] ", "[]");
    check("1e3", "1000");
    check("0.1", "0.1");
}

static void test_errors(void)
{
    check("{\"a\":1,\"a\":2}", "JSON parse error at line 1, column 12: duplicate key");
    check("[1,]", "JSON parse error at line 1, column 4: expected a value");
    check("\"\\ud800\"", "JSON parse error at line 1, column 8: the second half of a surrogate pair is missing");
    check("01", "JSON parse error at line 1, column 3: a number must not start with 0");
    check("{}x", "JSON parse error at line 1, column 3: text after the end of the value");
    check("\"\xc3\"", "JSON parse error at line 1, column 2: the string is not valid UTF-8");
    check("\"\\u0000\"", "JSON parse error at line 1, column 8: \\u0000 is not allowed in strings");
    check("", "JSON parse error at line 1, column 1: expected a value");
}

static void test_depth(void)
{
    GString *deep = g_string_new(NULL);
    for (int n = 0; n < 100000; n++) {
        g_string_append_c(deep, '[');
    }
    g_autofree char *out = round_trip(deep->str);
    g_assert_true(g_str_has_suffix(out, "nested too deeply"));
    g_string_free(deep, TRUE);
}

static void log_emit(void *opaque, Value *value, Error *err)
{
    GString *out = opaque;
    if (err) {
        g_string_append(out, "<error>");
        error_free(err);
    } else {
        json_write_to(out, value, false);
        value_free(value);
    }
    g_string_append_c(out, ';');
}

static void stream_check(const char *in, size_t length, size_t chunk, const char *expected)
{
    GString *out = g_string_new(NULL);
    JsonStream *stream = json_stream_new(log_emit, out);
    for (size_t at = 0; at < length; at += chunk) {
        json_stream_feed(stream, in + at, MIN(chunk, length - at));
    }
    json_stream_end(stream);
    json_stream_free(stream);
    g_assert_cmpstr(out->str, ==, expected);
    g_string_free(out, TRUE);
}

static void test_stream(void)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "{\"a\":\"}\"}{\"b\":'\\''} 12 [1]\n\"x\"", "{\"a\": \"}\"};{\"b\": \"'\"};12;[1];\"x\";" },
        { "}\n{}", "<error>;{};" },
        { "{\"a\": \xff{}", "<error>;{};" },
        { "{\"a\": \"b\x01{}\n[]", "<error>;{};[];" },
        { "{'a': 'b\n{}", "<error>;{};" },
        { "%p{}", "<error>;{};" },
        { "{\"a\": ", "<error>;" },
        { "nonsense\n[]", "<error>;[];" },
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        size_t length = strlen(cases[n].in);
        stream_check(cases[n].in, length, 1, cases[n].out);
        stream_check(cases[n].in, length, 3, cases[n].out);
        stream_check(cases[n].in, length, length, cases[n].out);
    }
}

static void test_pretty(void)
{
    Value *value = NULL;
    const char *text = "{\"a\":[1,{}],\"b\":{\"c\":null}}";
    g_assert_null(json_parse(text, strlen(text), &value));
    g_autofree char *out = json_write(value, true);
    g_assert_cmpstr(out, ==,
                    "{\n    \"a\": [\n        1,\n        {\n        }\n    ],\n    \"b\": {\n        \"c\": null\n    }\n}");
    value_free(value);
}

static void drop(void *opaque, Value *value, Error *err)
{
    if (value) {
        /* What was read must be writable and read back as the same text. */
        g_autofree char *text = json_write(value, false);
        Value *again = NULL;
        g_assert_null(json_parse(text, strlen(text), &again));
        g_autofree char *second = json_write(again, false);
        g_assert_cmpstr(text, ==, second);
        value_free(again);
    }
    value_free(value);
    error_free(err);
}

/* Random damage to valid texts: nothing may crash, leak or loop (run with a sanitizer build). */
static void test_fuzz(void)
{
    static const char seed[] = "{\"execute\": \"x\", 'a': [1, -2.5e3, true, null, \"\\u12ab\\n\"], \"b\": {\"c\": {}}}";
    static const char alphabet[] = "{}[]\"',:\\u0129eE+-.tfn \n\xff\x80\xc3";

    for (int round = 0; round < 20000; round++) {
        char text[sizeof(seed)];
        memcpy(text, seed, sizeof(seed));
        for (int hits = g_random_int_range(0, 8); hits > 0; hits--) {
            text[g_random_int_range(0, sizeof(seed) - 1)] =
                alphabet[g_random_int_range(0, sizeof(alphabet) - 1)];
        }
        JsonStream *stream = json_stream_new(drop, NULL);
        size_t cut = (size_t)g_random_int_range(0, sizeof(seed));
        json_stream_feed(stream, text, cut);
        json_stream_feed(stream, text + cut, sizeof(seed) - 1 - cut);
        json_stream_end(stream);
        json_stream_free(stream);
    }
}

static void test_big_dict(void)
{
    g_autoptr(Value) dict = value_dict();
    for (int n = 0; n < 1000; n++) {
        g_autofree char *key = g_strdup_printf("k%d", n);
        value_put(dict, key, value_int(n));
    }
    value_remove(dict, "k500");
    g_assert_null(value_find(dict, "k500"));
    g_assert_cmpint(value_find_int(dict, "k999", -1), ==, 999);
    g_assert_cmpuint(value_length(dict), ==, 999);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/value/json/values", test_values);
    g_test_add_func("/value/json/errors", test_errors);
    g_test_add_func("/value/json/depth", test_depth);
    g_test_add_func("/value/json/stream", test_stream);
    g_test_add_func("/value/json/pretty", test_pretty);
    g_test_add_func("/value/json/fuzz", test_fuzz);
    g_test_add_func("/value/big-dict", test_big_dict);
    return g_test_run();
}
