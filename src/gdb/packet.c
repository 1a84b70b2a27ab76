/* Packets of gdb's remote protocol; see packet.h. GDB manual, E.1. */
#include "gdb/packet.h"

#include <string.h>

static int digit(char c)
{
    return g_ascii_xdigit_value(c);
}

static void append(GdbReader *reader, uint8_t byte)
{
    if (reader->length < GDB_PACKET_MAX) {
        reader->text[reader->length++] = (char)byte;
    } else {
        reader->overflow = true;
    }
}

static GdbInput idle_byte(GdbReader *reader, uint8_t byte)
{
    switch (byte) {
    case '$':
        reader->state = GDB_BODY;
        reader->length = 0;
        reader->sum = 0;
        reader->overflow = false;
        return GDB_MORE;
    case '+':
        return GDB_ACK;
    case '-':
        return GDB_NACK;
    case 3:
        return GDB_INTERRUPT;
    default:
        return GDB_MORE; /* noise on the line */
    }
}

static GdbInput end_of_packet(GdbReader *reader, uint8_t byte)
{
    int low = digit((char)byte);
    reader->state = GDB_IDLE;
    reader->text[reader->length] = '\0';
    bool good = low >= 0 && reader->sent_sum != 0xff && (reader->sent_sum << 4 | low) == reader->sum && !reader->overflow;
    return good ? GDB_PACKET : GDB_BAD;
}

GdbInput gdb_reader_byte(GdbReader *reader, uint8_t byte)
{
    switch (reader->state) {
    case GDB_IDLE:
        return idle_byte(reader, byte);
    case GDB_SUM1: {
        int high = digit((char)byte);
        reader->sent_sum = high < 0 ? 0xff : (uint8_t)high;
        reader->state = GDB_SUM2;
        return GDB_MORE;
    }
    case GDB_SUM2:
        return end_of_packet(reader, byte);
    default:
        break;
    }
    if (byte == '#') {
        reader->state = GDB_SUM1;
        return GDB_MORE;
    }
    reader->sum = (uint8_t)(reader->sum + byte);
    if (reader->state == GDB_ESCAPED) {
        append(reader, byte ^ 0x20);
        reader->state = GDB_BODY;
    } else if (byte == '}') {
        reader->state = GDB_ESCAPED;
    } else {
        append(reader, byte);
    }
    return GDB_MORE;
}

void gdb_frame(GString *out, const char *payload, size_t length)
{
    uint8_t sum = 0;
    size_t start = out->len + 1;

    g_string_append_c(out, '$');
    for (size_t i = 0; i < length; i++) {
        if (strchr("$#}*", payload[i]) && payload[i]) {
            g_string_append_c(out, '}');
            g_string_append_c(out, payload[i] ^ 0x20);
        } else {
            g_string_append_c(out, payload[i]);
        }
    }
    for (size_t i = start; i < out->len; i++) {
        sum = (uint8_t)(sum + (uint8_t)out->str[i]);
    }
    g_string_append_printf(out, "#%02x", sum);
}

void gdb_put_hex(GString *out, const void *data, size_t length)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < length; i++) {
        g_string_append_printf(out, "%02x", bytes[i]);
    }
}

size_t gdb_take_hex(const char **text, uint8_t *ret_data, size_t max)
{
    size_t count = 0;
    while (count < max && digit((*text)[0]) >= 0 && digit((*text)[1]) >= 0) {
        ret_data[count++] = (uint8_t)(digit((*text)[0]) << 4 | digit((*text)[1]));
        *text += 2;
    }
    return count;
}

bool gdb_take_number(const char **text, uint64_t *ret_value)
{
    const char *at = *text;
    uint64_t value = 0;
    while (digit(*at) >= 0) {
        value = value << 4 | (uint64_t)digit(*at++);
    }
    if (at == *text) {
        return false;
    }
    *text = at;
    *ret_value = value;
    return true;
}
