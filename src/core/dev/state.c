/*
 * Saved state as bytes. Each row: name length (u8), name, kind (u8), element size (u32), count (u32), then
 * the elements, little endian. A struct's elements are sequences of rows that end with an empty name; a buffer
 * begins with its length (u32).
 * On load rows are found by name; a row that the stream lacks keeps its reset value when it is newer than
 * the stream, and an unknown row is an error.
 */
#include "core/dev/state.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

static void put_u32(GByteArray *out, uint32_t value)
{
    uint8_t bytes[4];
    st32_le(bytes, value);
    g_byte_array_append(out, bytes, 4);
}

static void put_u64(GByteArray *out, uint64_t value)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    g_byte_array_append(out, bytes, 8);
}

static void save_element(const StateField *field, const void *at, GByteArray *out)
{
    switch (field->kind) {
    case STATE_KIND_TIMER: {
        const Timer *timer = at;
        put_u64(out, timer_armed(timer) ? (uint64_t)timer->expires : UINT64_MAX);
        break;
    }
    case STATE_KIND_STRUCT:
        state_save(field->fields, at, out);
        break;
    case STATE_KIND_POINTER:
        state_save(field->fields, *(void *const *)at, out);
        break;
    case STATE_KIND_BUFFER: {
        const GByteArray *buffer = *(GByteArray *const *)at;
        put_u32(out, buffer ? buffer->len : 0);
        if (buffer) {
            g_byte_array_append(out, buffer->data, buffer->len);
        }
        break;
    }
    default:
        g_byte_array_append(out, at, field->size);
        break;
    }
}

void state_save(const StateField *fields, const void *base, GByteArray *out)
{
    static const uint8_t end = 0;
    for (const StateField *field = fields; field && field->name; field++) {
        if (field->not_state) {
            continue;
        }
        uint8_t head[2] = { (uint8_t)strlen(field->name), (uint8_t)field->kind };
        g_byte_array_append(out, &head[0], 1);
        g_byte_array_append(out, (const uint8_t *)field->name, head[0]);
        g_byte_array_append(out, &head[1], 1);
        put_u32(out, field->size);
        put_u32(out, field->count);
        for (uint32_t i = 0; i < MAX(field->count, 1u); i++) {
            save_element(field, (const char *)base + field->offset + (size_t)i * field->size, out);
        }
    }
    g_byte_array_append(out, &end, 1);
}

static Error *truncated(const char *who)
{
    return error_new("%s: the saved state ends too early", who);
}

static Error *check_range(const char *who, const StateField *field, const uint8_t *bytes)
{
    if (field->kind == STATE_KIND_BOOL && *bytes > 1) {
        return error_new("%s: saved '%s' is not a truth value", who, field->name);
    }
    if (field->max > field->min && field->kind <= STATE_KIND_U64) {
        uint64_t value = ld_le(bytes, field->size);
        if (value < field->min || value > field->max) {
            return error_new("%s: saved '%s' is %" PRIu64 ", outside %" PRIu64 " to %" PRIu64, who, field->name,
                             value, field->min, field->max);
        }
    }
    return NULL;
}

static Error *load_buffer(const char *who, const StateField *field, GByteArray **buffer, const uint8_t **data, const uint8_t *end)
{
    if (end - *data < 4) {
        return truncated(who);
    }
    uint32_t length = ld32_le(*data);
    *data += 4;
    if (length > field->max) {
        return error_new("%s: saved '%s' has %u bytes, more than %" PRIu64, who, field->name, length, field->max);
    }
    if ((size_t)(end - *data) < length) {
        return truncated(who);
    }
    g_clear_pointer(buffer, g_byte_array_unref);
    if (length) {
        *buffer = g_byte_array_append(g_byte_array_sized_new(length), *data, length);
    }
    *data += length;
    return NULL;
}

static Error *load_element(const char *who, const StateField *field, void *at, const uint8_t **data,
                           const uint8_t *end)
{
    size_t size = field->kind == STATE_KIND_TIMER ? 8 : field->size;

    if (field->kind == STATE_KIND_STRUCT) {
        return state_load(who, field->fields, at, data, end);
    }
    if (field->kind == STATE_KIND_POINTER) {
        return state_load(who, field->fields, *(void **)at, data, end);
    }
    if (field->kind == STATE_KIND_BUFFER) {
        return load_buffer(who, field, at, data, end);
    }
    if ((size_t)(end - *data) < size) {
        return truncated(who);
    }
    TRY(check_range(who, field, *data));
    if (field->kind == STATE_KIND_TIMER) {
        int64_t expires = (int64_t)ld64_le(*data);
        if (expires == -1) {
            timer_cancel(at);
        } else {
            timer_set(at, expires);
        }
    } else if (!field->equal) {
        memcpy(at, *data, size);
    } else if (memcmp(at, *data, size)) {
        return error_new("%s: '%s' is not the same in the saved state and in this machine", who, field->name);
    }
    *data += size;
    return NULL;
}

static const StateField *find_row(const StateField *fields, const char *name, size_t length)
{
    for (const StateField *field = fields; field && field->name; field++) {
        if (!field->not_state && strlen(field->name) == length && !memcmp(field->name, name, length)) {
            return field;
        }
    }
    return NULL;
}

/* Rows that every stream has. */
static unsigned old_rows(const StateField *fields)
{
    unsigned count = 0;
    for (const StateField *field = fields; field && field->name; field++) {
        count += !field->not_state && !field->since;
    }
    return count;
}

static Error *unknown_row(const char *who, const char *name, size_t length)
{
    for (size_t n = 0; n < length; n++) {
        if (!g_ascii_isprint(name[n])) {
            return error_new("%s: the saved state is damaged: a row whose name is no text", who);
        }
    }
    return error_new("%s: the saved state has '%.*s', which this version does not know", who, (int)length, name);
}

Error *state_load(const char *who, const StateField *fields, void *base, const uint8_t **data,
                  const uint8_t *end)
{
    unsigned missing = old_rows(fields);
    for (;;) {
        if (*data >= end) {
            return truncated(who);
        }
        size_t length = *(*data)++;
        if (length == 0) {
            return missing == 0 ? NULL : error_new("%s: the saved state lacks %u rows", who, missing);
        }
        if ((size_t)(end - *data) < length + 9) {
            return truncated(who);
        }
        const char *name = (const char *)*data;
        const StateField *field = find_row(fields, name, length);
        const uint8_t *head = *data + length;
        if (!field) {
            return unknown_row(who, name, length);
        }
        if (head[0] != field->kind || ld32_le(head + 1) != field->size || ld32_le(head + 5) != field->count) {
            return error_new("%s: saved '%s' has another shape", who, field->name);
        }
        if (!field->since && missing-- == 0) {
            return error_new("%s: saved '%s' is there twice", who, field->name);
        }
        *data = head + 9;
        for (uint32_t i = 0; i < MAX(field->count, 1u); i++) {
            TRY(load_element(who, field, (char *)base + field->offset + (size_t)i * field->size, data, end));
        }
    }
}
