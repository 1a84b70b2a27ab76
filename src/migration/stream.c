/* Records of a state stream; see stream.h. */
#include "migration/stream.h"

#include <string.h>
#include <zlib.h>

#include "base/endian.h"

enum { HEAD = 8, SUM = 4, NAME_MAX_BYTES = 4096 };

static uint32_t sum_of(uint32_t number, const uint8_t *record, size_t length)
{
    uint8_t bytes[4];
    st32_le(bytes, number);
    return (uint32_t)crc32_z(crc32_z(0, bytes, 4), record, length);
}

/* --- writing --- */

void stream_writer_init(StreamWriter *w, Error *(*write)(void *opaque, const void *data, size_t length), void *opaque)
{
    *w = (StreamWriter) { .write = write, .opaque = opaque, .record = g_byte_array_new() };
}

static Error *append(void *opaque, const void *data, size_t length)
{
    g_byte_array_append(opaque, data, (guint)length);
    return NULL;
}

void stream_writer_init_array(StreamWriter *w, GByteArray *bytes)
{
    stream_writer_init(w, append, bytes);
}

void stream_writer_fini(StreamWriter *w)
{
    g_clear_pointer(&w->record, g_byte_array_unref);
}

static MUST_USE Error *send_bytes(StreamWriter *w, const void *data, size_t length)
{
    TRY(w->write(w->opaque, data, length));
    w->bytes += length;
    return NULL;
}

Error *stream_write_header(StreamWriter *w)
{
    uint8_t head[20];
    memcpy(head, STREAM_MAGIC, 16);
    st32_le(head + 16, STREAM_VERSION);
    return send_bytes(w, head, sizeof(head));
}

void stream_begin(StreamWriter *w, RecordKind kind)
{
    g_byte_array_set_size(w->record, 0);
    stream_put_u32(w, kind);
    stream_put_u32(w, 0); /* the length, known at the end */
}

void stream_put(StreamWriter *w, const void *data, size_t length)
{
    g_byte_array_append(w->record, data, (guint)length);
}

void stream_put_u32(StreamWriter *w, uint32_t value)
{
    uint8_t bytes[4];
    st32_le(bytes, value);
    stream_put(w, bytes, 4);
}

void stream_put_u64(StreamWriter *w, uint64_t value)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    stream_put(w, bytes, 8);
}

void stream_put_str(StreamWriter *w, const char *text)
{
    size_t length = strlen(text);
    stream_put_u32(w, (uint32_t)length);
    stream_put(w, text, length);
}

size_t stream_room_used(const StreamWriter *w)
{
    return w->record->len - HEAD;
}

Error *stream_end(StreamWriter *w)
{
    if (stream_room_used(w) > RECORD_MAX) {
        return error_new("a part of the saved state has %zu bytes, %llu are possible", stream_room_used(w),
                         (unsigned long long)RECORD_MAX);
    }
    st32_le(w->record->data + 4, (uint32_t)stream_room_used(w));
    stream_put_u32(w, sum_of(w->number++, w->record->data, w->record->len));
    return send_bytes(w, w->record->data, w->record->len);
}

/* --- reading --- */

void stream_reader_init(StreamReader *r, Error *(*read)(void *opaque, void *data, size_t length), void *opaque)
{
    *r = (StreamReader) { .read = read, .opaque = opaque, .record = g_byte_array_new() };
}

static Error *take(void *opaque, void *data, size_t length)
{
    StreamBytes *bytes = opaque;
    if (bytes->length - bytes->at < length) {
        return error_new("the saved state ends too early");
    }
    memcpy(data, bytes->data + bytes->at, length);
    bytes->at += length;
    return NULL;
}

void stream_reader_init_bytes(StreamReader *r, StreamBytes *bytes)
{
    stream_reader_init(r, take, bytes);
}

void stream_reader_fini(StreamReader *r)
{
    g_clear_pointer(&r->record, g_byte_array_unref);
}

static MUST_USE Error *receive(StreamReader *r, void *data, size_t length)
{
    TRY(r->read(r->opaque, data, length));
    r->bytes += length;
    return NULL;
}

Error *stream_read_header(StreamReader *r)
{
    uint8_t head[20];
    TRY(receive(r, head, sizeof(head)));
    if (memcmp(head, STREAM_MAGIC, 16)) {
        return error_new("this is not the saved state of a machine");
    }
    uint32_t version = ld32_le(head + 16);
    if (version == 0 || version > STREAM_VERSION) {
        return error_new("the saved state has version %u, this program knows up to %u", version, STREAM_VERSION);
    }
    return NULL;
}

/* The buffer grows as bytes arrive, not as a length claims. */
static MUST_USE Error *receive_record(StreamReader *r, uint32_t length)
{
    size_t done = r->record->len;
    for (size_t left = length; left > 0;) {
        size_t piece = MIN(left, 1 * MiB);
        g_byte_array_set_size(r->record, (guint)(done + piece));
        TRY(receive(r, r->record->data + done, piece));
        done += piece;
        left -= piece;
    }
    return NULL;
}

Error *stream_next(StreamReader *r)
{
    g_byte_array_set_size(r->record, HEAD);
    TRY(receive(r, r->record->data, HEAD));
    uint32_t length = ld32_le(r->record->data + 4);
    if (length > RECORD_MAX) {
        return error_new("the saved state is damaged: a record of %u bytes", length);
    }
    TRY(receive_record(r, length + SUM));
    if (sum_of(r->number, r->record->data, HEAD + length) != ld32_le(r->record->data + HEAD + length)) {
        return error_new("the saved state is damaged: the sum of record %u is wrong", r->number);
    }
    r->number++;
    r->kind = (RecordKind)ld32_le(r->record->data);
    r->at = r->record->data + HEAD;
    r->end = r->at + length;
    return NULL;
}

Error *stream_get(StreamReader *r, size_t length, const uint8_t **ret_data)
{
    if ((size_t)(r->end - r->at) < length) {
        return error_new("the saved state is damaged: record %u is too short", r->number - 1);
    }
    *ret_data = r->at;
    r->at += length;
    return NULL;
}

Error *stream_get_u32(StreamReader *r, uint32_t *ret_value)
{
    const uint8_t *data;
    TRY(stream_get(r, 4, &data));
    *ret_value = ld32_le(data);
    return NULL;
}

Error *stream_get_u64(StreamReader *r, uint64_t *ret_value)
{
    const uint8_t *data;
    TRY(stream_get(r, 8, &data));
    *ret_value = ld64_le(data);
    return NULL;
}

/* What messages may show: no control characters, no half ones. */
static bool name_is_text(const uint8_t *data, uint32_t length)
{
    for (uint32_t n = 0; n < length; n++) {
        if (data[n] < ' ' || data[n] == 0x7f) {
            return false;
        }
    }
    return length <= NAME_MAX_BYTES && g_utf8_validate((const char *)data, length, NULL);
}

Error *stream_get_str(StreamReader *r, char **ret_text)
{
    uint32_t length;
    const uint8_t *data;
    TRY(stream_get_u32(r, &length));
    TRY(stream_get(r, length, &data));
    if (!name_is_text(data, length)) {
        return error_new("the saved state is damaged: record %u has a name that is no text", r->number - 1);
    }
    *ret_text = g_strndup((const char *)data, length);
    return NULL;
}
