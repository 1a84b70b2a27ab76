/*
 * JSON text (RFC 8259) to values and back, with the two liberties of the QMP dialect: strings may be in
 * single quotes, and \' is an escape. Depth, size and number of tokens are bounded, so hostile input
 * ends in an error, never in a deep recursion or an endless buffer.
 */
#ifndef OSTRICH_VALUE_JSON_H
#define OSTRICH_VALUE_JSON_H

#include "value/value.h"

enum {
    JSON_MAX_DEPTH = 1024,
    JSON_MAX_SIZE = 64 << 20, /* bytes of one value in a stream */
};

/* One value with nothing but white space around it. The error names line and column. */
Error *json_parse(const char *text, size_t length, Value **ret_value) MUST_USE;

/*
 * A stream of values. emit() is called once a value, with the value (which it then owns) or with the
 * error that it owns. After text without sense the parser goes on at the next line or object; a control character or a byte 0xff,
 * which are never part of a value, give an error and let it begin anew at once.
 */
typedef struct JsonStream JsonStream;
typedef void JsonEmit(void *opaque, Value *value, Error *err);
JsonStream *json_stream_new(JsonEmit *emit, void *opaque);
void json_stream_free(JsonStream *stream);
void json_stream_feed(JsonStream *stream, const char *data, size_t length);
/* End of input: a value that is still incomplete gives an error; a bare number is finished. */
void json_stream_end(JsonStream *stream);

/* ASCII only: other characters become \u escapes. Compact: one line, ", " and ": ". Caller frees. */
char *json_write(const Value *value, bool pretty);
void json_write_to(GString *out, const Value *value, bool pretty);

#endif
