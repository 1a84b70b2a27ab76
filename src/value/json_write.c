#include "value/json.h"

#include <math.h>
#include <string.h>

static void write_escape(GString *out, gunichar c)
{
    switch (c) {
    case '"':
        g_string_append(out, "\\\"");
        return;
    case '\\':
        g_string_append(out, "\\\\");
        return;
    case '\b':
        g_string_append(out, "\\b");
        return;
    case '\f':
        g_string_append(out, "\\f");
        return;
    case '\n':
        g_string_append(out, "\\n");
        return;
    case '\r':
        g_string_append(out, "\\r");
        return;
    case '\t':
        g_string_append(out, "\\t");
        return;
    }
    if (c >= 0x10000) {
        g_string_append_printf(out, "\\u%04X\\u%04X", 0xd800 + ((c - 0x10000) >> 10),
                               0xdc00 + ((c - 0x10000) & 0x3ff));
    } else if (c < 0x20 || c >= 0x7f) {
        g_string_append_printf(out, "\\u%04X", c);
    } else {
        g_string_append_c(out, (char)c);
    }
}

static void write_string(GString *out, const char *text)
{
    g_string_append_c(out, '"');
    while (*text) {
        gunichar c = g_utf8_get_char_validated(text, -1);
        if (c == (gunichar)-1 || c == (gunichar)-2) {
            write_escape(out, 0xfffd); /* a file name or guest text may hold anything */
            text++;
        } else {
            write_escape(out, c);
            text = g_utf8_next_char(text);
        }
    }
    g_string_append_c(out, '"');
}

/* The shortest of the usual precisions that reads back as the same number; JSON has no infinities. */
static void write_double(GString *out, double d)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    if (!isfinite(d)) {
        g_string_append(out, isnan(d) ? "null" : d < 0 ? "-1e999" : "1e999");
        return;
    }
    for (int precision = 15; precision <= 17; precision++) {
        char format[] = "%.15g";
        format[3] = (char)('0' + precision - 10);
        g_ascii_formatd(text, sizeof(text), format, d);
        if (g_ascii_strtod(text, NULL) == d) {
            break;
        }
    }
    g_string_append(out, text);
}

static void newline(GString *out, bool pretty, unsigned depth)
{
    if (pretty) {
        g_string_append_printf(out, "\n%*s", (int)(4 * depth), "");
    }
}

static void write_value(GString *out, const Value *value, bool pretty, unsigned depth);

static void write_list(GString *out, const Value *list, bool pretty, unsigned depth)
{
    size_t length = value_length(list);

    g_string_append_c(out, '[');
    for (size_t n = 0; n < length; n++) {
        if (n) {
            g_string_append(out, pretty ? "," : ", ");
        }
        newline(out, pretty, depth + 1);
        write_value(out, value_at(list, n), pretty, depth + 1);
    }
    newline(out, pretty, depth);
    g_string_append_c(out, ']');
}

static void write_dict(GString *out, const Value *dict, bool pretty, unsigned depth)
{
    size_t length = value_length(dict);

    g_string_append_c(out, '{');
    for (size_t n = 0; n < length; n++) {
        if (n) {
            g_string_append(out, pretty ? "," : ", ");
        }
        newline(out, pretty, depth + 1);
        write_string(out, value_key_at(dict, n));
        g_string_append(out, ": ");
        write_value(out, value_item_at(dict, n), pretty, depth + 1);
    }
    newline(out, pretty, depth);
    g_string_append_c(out, '}');
}

static void write_value(GString *out, const Value *value, bool pretty, unsigned depth)
{
    bool b = false;
    int64_t i;
    uint64_t u;
    double d;

    switch (value_kind(value)) {
    case VALUE_NULL:
        g_string_append(out, "null");
        break;
    case VALUE_BOOL:
        value_get_bool(value, &b);
        g_string_append(out, b ? "true" : "false");
        break;
    case VALUE_INT:
        value_get_int(value, &i);
        g_string_append_printf(out, "%" G_GINT64_FORMAT, (gint64)i);
        break;
    case VALUE_UINT:
        value_get_uint(value, &u);
        g_string_append_printf(out, "%" G_GUINT64_FORMAT, (guint64)u);
        break;
    case VALUE_DOUBLE:
        value_get_double(value, &d);
        write_double(out, d);
        break;
    case VALUE_STRING:
        write_string(out, value_get_str(value));
        break;
    case VALUE_LIST:
        write_list(out, value, pretty, depth);
        break;
    case VALUE_DICT:
        write_dict(out, value, pretty, depth);
        break;
    }
}

void json_write_to(GString *out, const Value *value, bool pretty)
{
    write_value(out, value, pretty, 0);
}

char *json_write(const Value *value, bool pretty)
{
    GString *out = g_string_new(NULL);
    json_write_to(out, value, pretty);
    return g_string_free(out, FALSE);
}
