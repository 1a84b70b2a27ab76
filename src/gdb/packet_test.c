/* Packets as gdb sends them, worked by hand from the manual. */
#include "gdb/packet.h"

#include <string.h>

static GdbInput feed(GdbReader *reader, const char *bytes, size_t length)
{
    GdbInput last = GDB_MORE;
    for (size_t i = 0; i < length; i++) {
        last = gdb_reader_byte(reader, (uint8_t)bytes[i]);
    }
    return last;
}

static void test_read(void)
{
    g_autofree GdbReader *reader = g_new0(GdbReader, 1);
    g_assert_cmpint(feed(reader, "$g#67", 5), ==, GDB_PACKET);
    g_assert_cmpstr(reader->text, ==, "g");
    g_assert_cmpint(feed(reader, "$g#66", 5), ==, GDB_BAD);
    g_assert_cmpint(feed(reader, "$g#zz", 5), ==, GDB_BAD);
    g_assert_cmpint(feed(reader, "+", 1), ==, GDB_ACK);
    g_assert_cmpint(feed(reader, "-", 1), ==, GDB_NACK);
    g_assert_cmpint(feed(reader, "\003", 1), ==, GDB_INTERRUPT);
    /* An escaped '#' in binary data: '}' and the byte with bit 5 turned over. */
    g_assert_cmpint(feed(reader, "$X}\003#d8", 7), ==, GDB_PACKET);
    g_assert_cmpstr(reader->text, ==, "X#");
    g_assert_cmpuint(reader->length, ==, 2);
}

static void test_too_long(void)
{
    g_autofree GdbReader *reader = g_new0(GdbReader, 1);
    gdb_reader_byte(reader, '$');
    uint8_t sum = 0;
    for (unsigned i = 0; i < GDB_PACKET_MAX + 1; i++) {
        gdb_reader_byte(reader, 'a');
        sum = (uint8_t)(sum + 'a');
    }
    g_autofree char *end = g_strdup_printf("#%02x", sum);
    g_assert_cmpint(feed(reader, end, 3), ==, GDB_BAD);
    g_assert_cmpint(feed(reader, "$g#67", 5), ==, GDB_PACKET);
}

static void test_write(void)
{
    g_autoptr(GString) out = g_string_new(NULL);
    gdb_frame(out, "OK", 2);
    g_assert_cmpstr(out->str, ==, "$OK#9a");
    g_string_truncate(out, 0);
    gdb_frame(out, "a}b", 3);
    g_assert_cmpstr(out->str, ==, "$a}]b#9d");
}

static void test_numbers(void)
{
    const char *text = "1f,aBc";
    uint64_t value;
    uint8_t bytes[4];
    g_assert_true(gdb_take_number(&text, &value));
    g_assert_cmpuint(value, ==, 0x1f);
    g_assert_cmpint(*text, ==, ',');
    g_assert_false(gdb_take_number(&text, &value));
    text++;
    g_assert_cmpuint(gdb_take_hex(&text, bytes, 4), ==, 1);
    g_assert_cmpuint(bytes[0], ==, 0xab);
    g_assert_cmpstr(text, ==, "c");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/gdb/packet/read", test_read);
    g_test_add_func("/gdb/packet/too-long", test_too_long);
    g_test_add_func("/gdb/packet/write", test_write);
    g_test_add_func("/gdb/packet/numbers", test_numbers);
    return g_test_run();
}
