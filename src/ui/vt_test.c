#include "ui/vt.h"

#include <string.h>

#include "ui/cp437.h"

typedef struct Fixture {
    Vt *vt;
    GString *answers;
} Fixture;

static void answer(void *opaque, const char *text)
{
    g_string_append(((Fixture *)opaque)->answers, text);
}

static void setup(Fixture *f, gconstpointer unused)
{
    f->answers = g_string_new(NULL);
    f->vt = vt_new(10, 4, answer, f);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    vt_free(f->vt);
    g_string_free(f->answers, TRUE);
}

static void feed(Fixture *f, const char *text)
{
    vt_write(f->vt, (const uint8_t *)text, strlen(text));
}

/* The rows joined with '|', blanks at the ends left out. */
static void check(Fixture *f, const char *expected)
{
    g_autoptr(GString) got = g_string_new(NULL);
    for (unsigned y = 0; y < vt_rows(f->vt); y++) {
        char row[16] = { 0 };
        for (unsigned x = 0; x < vt_columns(f->vt); x++) {
            row[x] = (char)vt_row(f->vt, y)[x].ch;
        }
        g_string_append_printf(got, "%s%s", y ? "|" : "", g_strchomp(row));
    }
    g_assert_cmpstr(got->str, ==, expected);
}

static void test_lines(Fixture *f, gconstpointer unused)
{
    feed(f, "one\r\ntwo\b\bx\ty");
    check(f, "one|txo     y||");
    feed(f, "\r\n0123456789AB");
    check(f, "one|txo     y|0123456789|AB");
    feed(f, "\r\nend");
    check(f, "txo     y|0123456789|AB|end");
    vt_scroll_view(f->vt, 99);
    check(f, "one|txo     y|0123456789|AB");
    vt_scroll_view(f->vt, -1);
    check(f, "txo     y|0123456789|AB|end");
}

static void test_cursor(Fixture *f, gconstpointer unused)
{
    unsigned x, y;
    feed(f, "\033[2;3Hab\033[A\033[3Dc\033[4;10Hz\033[99Bw\033[6n\033[5n");
    check(f, " c|  ab||         w");
    g_assert_cmpstr(f->answers->str, ==, "\033[4;10R\033[0n");
    g_assert_true(vt_cursor(f->vt, &x, &y));
    g_assert_cmpuint(x, ==, 9);
    feed(f, "\033[?25l");
    g_assert_false(vt_cursor(f->vt, &x, &y));
}

static void test_editing(Fixture *f, gconstpointer unused)
{
    feed(f, "abcdef\033[3G\033[2@\033[1;9Hx\033[3G\033[P");
    check(f, "ab cdefx|||");
    feed(f, "\033[K\r\n1\r\n2\r\n3\033[2;3r\033[3;1H\nN\033[2H\033[L");
    check(f, "ab||2|3");
    feed(f, "\033[2J");
    check(f, "|||");
}

static void test_colours(Fixture *f, gconstpointer unused)
{
    feed(f, "a\033[31;1mb\033[44mc\033[7md\033[0me\033[38;5;9mf");
    const TextCell *row = vt_row(f->vt, 0);
    g_assert_cmphex(row[0].attr, ==, 0x07);
    g_assert_cmphex(row[1].attr, ==, 0x0c);
    g_assert_cmphex(row[2].attr, ==, 0x1c);
    g_assert_cmphex(row[3].attr, ==, 0x41);
    g_assert_cmphex(row[4].attr, ==, 0x07);
    g_assert_cmpint(row[5].ch, ==, 'f');
}

static void test_characters(Fixture *f, gconstpointer unused)
{
    feed(f, "é─€\x84");
    const TextCell *row = vt_row(f->vt, 0);
    g_assert_cmphex(row[0].ch, ==, 0x82);
    g_assert_cmphex(row[1].ch, ==, 0xc4);
    g_assert_cmphex(row[2].ch, ==, '?');
    g_assert_cmphex(row[3].ch, ==, 0x84);
    for (unsigned ch = 1; ch < 256; ch++) {
        g_assert_cmpint(cp437_of_unicode(cp437_unicode[ch]), ==, ch);
    }
}

/* Whatever arrives, nothing breaks. */
static void test_noise(Fixture *f, gconstpointer unused)
{
    static const char pieces[] = "\033[;?0129AHJKLMPSTXrhlmnsu@]\\P\n\r\tabc\xc3\xa9\xff";
    uint64_t seed = 1;
    for (unsigned n = 0; n < 300000; n++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        vt_write(f->vt, (const uint8_t *)&pieces[(seed >> 33) % (sizeof(pieces) - 1)], 1);
        if (n % 997 == 0) {
            vt_scroll_view(f->vt, (int)(seed >> 60) - 8);
            (void)vt_row(f->vt, n % 4);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/vt/" name, Fixture, NULL, setup, fn, teardown)
    CASE("lines", test_lines);
    CASE("cursor", test_cursor);
    CASE("editing", test_editing);
    CASE("colours", test_colours);
    CASE("characters", test_characters);
    CASE("noise", test_noise);
    return g_test_run();
}
