/*
 * The JSON reader: a recursive descent over a complete text, and a splitter that finds where each value
 * of a stream ends. Recursion is bounded by JSON_MAX_DEPTH.
 */
#include "value/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct Parser {
    const char *text, *at, *end;
    unsigned depth;
} Parser;

static MUST_USE Error *parse_error(const Parser *p, const char *what)
{
    unsigned line = 1, column = 1;
    for (const char *c = p->text; c < p->at; c++) {
        column++;
        if (*c == '\n') {
            line++;
            column = 1;
        }
    }
    return error_new("JSON parse error at line %u, column %u: %s", line, column, what);
}

static void skip_space(Parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')) {
        p->at++;
    }
}

static MUST_USE Error *parse_hex4(Parser *p, unsigned *ret_code)
{
    unsigned code = 0;

    if (p->end - p->at < 4) {
        return parse_error(p, "a \\u escape needs four hexadecimal digits");
    }
    for (int n = 0; n < 4; n++) {
        int digit = g_ascii_xdigit_value(p->at[n]);
        if (digit < 0) {
            return parse_error(p, "a \\u escape needs four hexadecimal digits");
        }
        code = code << 4 | (unsigned)digit;
    }
    p->at += 4;
    *ret_code = code;
    return NULL;
}

/* p->at is behind "\u". */
static MUST_USE Error *parse_unicode_escape(Parser *p, GString *out)
{
    unsigned code, low;

    TRY(parse_hex4(p, &code));
    if (code >= 0xd800 && code < 0xdc00) {
        if (p->end - p->at < 2 || p->at[0] != '\\' || p->at[1] != 'u') {
            return parse_error(p, "the second half of a surrogate pair is missing");
        }
        p->at += 2;
        TRY(parse_hex4(p, &low));
        if (low < 0xdc00 || low > 0xdfff) {
            return parse_error(p, "the second half of a surrogate pair is not one");
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
        return parse_error(p, "the first half of a surrogate pair is missing");
    } else if (code == 0) {
        return parse_error(p, "\\u0000 is not allowed in strings");
    }
    g_string_append_unichar(out, code);
    return NULL;
}

static MUST_USE Error *parse_escape(Parser *p, GString *out)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";

    if (p->at == p->end) {
        return parse_error(p, "the string does not end");
    }
    char c = *p->at++;
    if (c == 'u') {
        return parse_unicode_escape(p, out);
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (!found) {
        p->at--;
        return parse_error(p, "unknown escape in string");
    }
    g_string_append_c(out, to[found - from]);
    return NULL;
}

/* A run of bytes without escapes, which must be valid UTF-8. */
static MUST_USE Error *parse_plain(Parser *p, char quote, GString *out)
{
    const char *start = p->at;

    while (p->at < p->end && *p->at != quote && *p->at != '\\') {
        if ((unsigned char)*p->at < 0x20) {
            return parse_error(p, "control character in string");
        }
        p->at++;
    }
    if (!g_utf8_validate(start, p->at - start, NULL)) {
        p->at = start;
        return parse_error(p, "the string is not valid UTF-8");
    }
    g_string_append_len(out, start, p->at - start);
    return NULL;
}

static MUST_USE Error *parse_string(Parser *p, char **ret_text)
{
    char quote = *p->at++;
    g_autoptr(GString) out = g_string_new(NULL);

    for (;;) {
        TRY(parse_plain(p, quote, out));
        if (p->at == p->end) {
            return parse_error(p, "the string does not end");
        }
        if (*p->at++ == quote) {
            break;
        }
        TRY(parse_escape(p, out));
    }
    *ret_text = g_string_free(g_steal_pointer(&out), FALSE);
    return NULL;
}

static bool digits(Parser *p)
{
    const char *start = p->at;
    while (p->at < p->end && g_ascii_isdigit(*p->at)) {
        p->at++;
    }
    return p->at > start;
}

static Value *number_value(const char *text, bool integer)
{
    char *end;

    if (integer) {
        errno = 0;
        int64_t i = g_ascii_strtoll(text, &end, 10);
        if (errno == 0) {
            return value_int(i);
        }
        errno = 0;
        uint64_t u = g_ascii_strtoull(text, &end, 10);
        if (errno == 0 && text[0] != '-') {
            return value_uint(u);
        }
    }
    return value_double(g_ascii_strtod(text, &end));
}

static MUST_USE Error *parse_number(Parser *p, Value **ret_value)
{
    const char *start = p->at;
    bool integer = true;

    if (*p->at == '-') {
        p->at++;
    }
    const char *first = p->at;
    if (!digits(p)) {
        return parse_error(p, "expected a digit");
    }
    if (*first == '0' && p->at - first > 1) {
        return parse_error(p, "a number must not start with 0");
    }
    if (p->at < p->end && *p->at == '.') {
        p->at++;
        integer = false;
        if (!digits(p)) {
            return parse_error(p, "expected a digit after the decimal point");
        }
    }
    if (p->at < p->end && (*p->at == 'e' || *p->at == 'E')) {
        p->at++;
        integer = false;
        if (p->at < p->end && (*p->at == '+' || *p->at == '-')) {
            p->at++;
        }
        if (!digits(p)) {
            return parse_error(p, "expected a digit in the exponent");
        }
    }
    g_autofree char *text = g_strndup(start, p->at - start);
    *ret_value = number_value(text, integer);
    return NULL;
}

static MUST_USE Error *parse_word(Parser *p, Value **ret_value)
{
    const char *start = p->at;
    while (p->at < p->end && g_ascii_isalnum(*p->at)) {
        p->at++;
    }
    size_t length = p->at - start;
    if (length == 4 && !memcmp(start, "true", 4)) {
        *ret_value = value_bool(true);
    } else if (length == 5 && !memcmp(start, "false", 5)) {
        *ret_value = value_bool(false);
    } else if (length == 4 && !memcmp(start, "null", 4)) {
        *ret_value = value_null();
    } else {
        p->at = start;
        return parse_error(p, "expected a value");
    }
    return NULL;
}

static MUST_USE Error *parse_value(Parser *p, Value **ret_value);

static MUST_USE Error *parse_list(Parser *p, Value **ret_value)
{
    g_autoptr(Value) list = value_list();

    p->at++;
    skip_space(p);
    if (p->at < p->end && *p->at == ']') {
        p->at++;
        *ret_value = g_steal_pointer(&list);
        return NULL;
    }
    for (;;) {
        Value *item;
        TRY(parse_value(p, &item));
        value_append(list, item);
        skip_space(p);
        if (p->at < p->end && *p->at == ',') {
            p->at++;
        } else if (p->at < p->end && *p->at == ']') {
            p->at++;
            break;
        } else {
            return parse_error(p, "expected ',' or ']' in array");
        }
    }
    *ret_value = g_steal_pointer(&list);
    return NULL;
}

static MUST_USE Error *parse_member(Parser *p, Value *dict)
{
    g_autofree char *key = NULL;
    Value *item;

    skip_space(p);
    if (p->at == p->end || (*p->at != '"' && *p->at != '\'')) {
        return parse_error(p, "expected a string as key of an object");
    }
    TRY(parse_string(p, &key));
    skip_space(p);
    if (p->at == p->end || *p->at != ':') {
        return parse_error(p, "expected ':' after the key");
    }
    p->at++;
    if (value_find(dict, key)) {
        return parse_error(p, "duplicate key");
    }
    TRY(parse_value(p, &item));
    value_put(dict, key, item);
    return NULL;
}

static MUST_USE Error *parse_dict(Parser *p, Value **ret_value)
{
    g_autoptr(Value) dict = value_dict();

    p->at++;
    skip_space(p);
    if (p->at < p->end && *p->at == '}') {
        p->at++;
        *ret_value = g_steal_pointer(&dict);
        return NULL;
    }
    for (;;) {
        TRY(parse_member(p, dict));
        skip_space(p);
        if (p->at < p->end && *p->at == ',') {
            p->at++;
        } else if (p->at < p->end && *p->at == '}') {
            p->at++;
            break;
        } else {
            return parse_error(p, "expected ',' or '}' in object");
        }
    }
    *ret_value = g_steal_pointer(&dict);
    return NULL;
}

static MUST_USE Error *parse_container(Parser *p, Value **ret_value)
{
    if (++p->depth > JSON_MAX_DEPTH) {
        return parse_error(p, "nested too deeply");
    }
    TRY(*p->at == '{' ? parse_dict(p, ret_value) : parse_list(p, ret_value));
    p->depth--;
    return NULL;
}

static Error *parse_value(Parser *p, Value **ret_value)
{
    skip_space(p);
    if (p->at == p->end) {
        return parse_error(p, "expected a value");
    }
    switch (*p->at) {
    case '{':
    case '[':
        return parse_container(p, ret_value);
    case '"':
    case '\'': {
        char *text;
        TRY(parse_string(p, &text));
        *ret_value = value_take_str(text);
        return NULL;
    }
    case '-':
    case '0' ... '9':
        return parse_number(p, ret_value);
    default:
        return parse_word(p, ret_value);
    }
}

Error *json_parse(const char *text, size_t length, Value **ret_value)
{
    Parser p = { .text = text, .at = text, .end = text + length };
    g_autoptr(Value) value = NULL;

    TRY(parse_value(&p, &value));
    skip_space(&p);
    if (p.at != p.end) {
        return parse_error(&p, "text after the end of the value");
    }
    *ret_value = g_steal_pointer(&value);
    return NULL;
}

/*
 * The splitter knows only brackets, strings and white space. A value ends when the brackets balance, or,
 * for a bare word or number, before the byte that cannot belong to it.
 */
struct JsonStream {
    JsonEmit *emit;
    void *opaque;
    GString *text;
    unsigned depth;
    char quote; /* inside a string: which one ends it */
    bool escaped, bare;
    bool skipping; /* after an error, until the end of the line */
};

JsonStream *json_stream_new(JsonEmit *emit, void *opaque)
{
    JsonStream *stream = g_new0(JsonStream, 1);
    stream->emit = emit;
    stream->opaque = opaque;
    stream->text = g_string_new(NULL);
    return stream;
}

void json_stream_free(JsonStream *stream)
{
    if (stream) {
        g_string_free(stream->text, TRUE);
        g_free(stream);
    }
}

static void stream_reset(JsonStream *stream)
{
    g_string_truncate(stream->text, 0);
    if (stream->text->allocated_len > 1 << 20) {
        g_string_free(stream->text, TRUE);
        stream->text = g_string_new(NULL);
    }
    stream->depth = 0;
    stream->quote = 0;
    stream->escaped = stream->bare = false;
}

static void stream_fail(JsonStream *stream, Error *err)
{
    stream_reset(stream);
    stream->skipping = true;
    stream->emit(stream->opaque, NULL, err);
}

/* A character that no value contains: what came before is given up, what follows is read. */
static void stream_restart(JsonStream *stream, char c)
{
    stream_reset(stream);
    stream->skipping = false;
    stream->emit(stream->opaque, NULL, error_new("JSON parse error, stray byte 0x%02x", (unsigned char)c));
}

static void stream_value_done(JsonStream *stream)
{
    Value *value = NULL;
    g_autofree char *text = g_strndup(stream->text->str, stream->text->len);
    size_t length = stream->text->len;

    stream_reset(stream);
    Error *err = json_parse(text, length, &value);
    stream->emit(stream->opaque, value, err);
}

static void stream_byte_in_string(JsonStream *stream, char c)
{
    if (stream->escaped) {
        stream->escaped = false;
    } else if (c == '\\') {
        stream->escaped = true;
    } else if (c == stream->quote) {
        stream->quote = 0;
        if (stream->depth == 0) {
            stream_value_done(stream);
        }
    }
}

static bool is_bare(char c)
{
    return g_ascii_isalnum(c) || c == '-' || c == '+' || c == '.';
}

static void stream_close(JsonStream *stream)
{
    if (stream->depth == 0) {
        stream_fail(stream, error_new("JSON parse error, stray closing bracket"));
    } else if (--stream->depth == 0) {
        stream_value_done(stream);
    }
}

static void stream_byte(JsonStream *stream, char c)
{
    bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';

    if (stream->bare && !is_bare(c)) {
        stream_value_done(stream);
    }
    if (space && stream->text->len == 0) {
        return;
    }
    if ((unsigned char)c < 0x20 && (!space || stream->quote)) {
        stream_restart(stream, c);
        return;
    }
    if (stream->text->len >= JSON_MAX_SIZE) {
        stream_fail(stream, error_new("JSON text is longer than %d bytes", JSON_MAX_SIZE));
        return;
    }
    g_string_append_c(stream->text, c);
    if (stream->quote) {
        stream_byte_in_string(stream, c);
    } else if (c == '"' || c == '\'') {
        stream->quote = c;
    } else if (c == '{' || c == '[') {
        if (++stream->depth > JSON_MAX_DEPTH) {
            stream_fail(stream, error_new("JSON nested deeper than %d levels", JSON_MAX_DEPTH));
        }
    } else if (c == '}' || c == ']') {
        stream_close(stream);
    } else if (stream->depth == 0) {
        if (is_bare(c)) {
            stream->bare = true;
        } else {
            stream_fail(stream, error_new("JSON parse error, stray '%c'", g_ascii_isprint(c) ? c : '?'));
        }
    }
}

void json_stream_feed(JsonStream *stream, const char *data, size_t length)
{
    for (size_t n = 0; n < length; n++) {
        if ((unsigned char)data[n] == 0xff) {
            stream_restart(stream, data[n]);
            continue;
        }
        stream->skipping &= data[n] != '\n' && data[n] != '{';
        if (!stream->skipping) {
            stream_byte(stream, data[n]);
        }
    }
}

void json_stream_end(JsonStream *stream)
{
    if (stream->bare || stream->text->len > 0) {
        stream_value_done(stream);
    }
}
