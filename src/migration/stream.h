/*
 * The stream of a machine's state: a magic, a version, then records
 *
 *     kind u32 | payload length u32 | payload | CRC-32 u32 over the record's number, kind, length, payload
 *
 * all little endian. The number is counted, not sent, so that records cannot be lost or change places.
 * Nothing of a record is used before its sum is right, and no record is longer than RECORD_MAX.
 *
 * Threads: a writer or reader belongs to whoever uses it; no locks.
 */
#ifndef OSTRICH_MIGRATION_STREAM_H
#define OSTRICH_MIGRATION_STREAM_H

#include "base/error.h"

enum { STREAM_VERSION = 1 };
#define STREAM_MAGIC "OSTRICH machine\n" /* 16 bytes */
#define RECORD_MAX   (64 * MiB)

typedef enum RecordKind {
    RECORD_MACHINE = 1, /* what the two sides must have in common */
    RECORD_RAM,         /* pages of one RAM block */
    RECORD_CLOCK,       /* guest time and run state */
    RECORD_DEVICE,      /* one device: path, type, rows */
    RECORD_END,
    RECORD_BITMAP,     /* a dirty bitmap of a disk, see bitmaps.c */
    RECORD_UUID,       /* of the machine, which must be the same (16 bytes) */
    RECORD_RAM_PACKED, /* RECORD_RAM: unpacked length u32, the rest by zlib */
    RECORD_RAM_ZSTD,   /* the same by zstd */
    RECORD_CHANNELS,   /* more connections follow: count u32, token (multifd.h) */
    RECORD_CHANNEL,    /* the first of such a connection: number u32, token */
    RECORD_SYNC,       /* all pages before it come before all pages behind it, in every connection: number u32 */
    RECORD_ADVISE,     /* post-copy may follow (postcopy.h): token */
    RECORD_DISCARD,    /* block u32, then runs first page u64 and count u64: these come again after RECORD_RUN */
    RECORD_RUN,        /* devices are complete, RAM follows */
    RECORD_GO,         /* the answer to the destination's readiness */
    RECORD_RESUME,     /* the first after a broken connection: token */
    RECORD_LAST = RECORD_RESUME,
} RecordKind;

typedef struct StreamWriter {
    /* All of it, or an error. */
    Error *(*write)(void *opaque, const void *data, size_t length);
    void *opaque;
    uint32_t number;
    GByteArray *record; /* the one under construction */
    uint64_t bytes;     /* sent so far */
} StreamWriter;

void stream_writer_init(StreamWriter *w, Error *(*write)(void *opaque, const void *data, size_t length), void *opaque);
/* Appends to bytes, which stay the caller's. */
void stream_writer_init_array(StreamWriter *w, GByteArray *bytes);
void stream_writer_fini(StreamWriter *w);
Error *stream_write_header(StreamWriter *w) MUST_USE;
void stream_begin(StreamWriter *w, RecordKind kind);
void stream_put_u32(StreamWriter *w, uint32_t value);
void stream_put_u64(StreamWriter *w, uint64_t value);
void stream_put_str(StreamWriter *w, const char *text);
void stream_put(StreamWriter *w, const void *data, size_t length);
/* Bytes in the record so far. */
size_t stream_room_used(const StreamWriter *w);
Error *stream_end(StreamWriter *w) MUST_USE; /* sends the record */

typedef struct StreamReader {
    /* Exactly length bytes, or an error. */
    Error *(*read)(void *opaque, void *data, size_t length);
    void *opaque;
    uint32_t number;
    RecordKind kind;
    GByteArray *record;
    const uint8_t *at, *end; /* what is left of it */
    uint64_t bytes;
} StreamReader;

void stream_reader_init(StreamReader *r, Error *(*read)(void *opaque, void *data, size_t length), void *opaque);
/* A stream in memory, borrowed while it is read. */
typedef struct StreamBytes {
    const uint8_t *data;
    size_t length, at;
} StreamBytes;
void stream_reader_init_bytes(StreamReader *r, StreamBytes *bytes);
void stream_reader_fini(StreamReader *r);
Error *stream_read_header(StreamReader *r) MUST_USE;
Error *stream_next(StreamReader *r) MUST_USE; /* reads one record */
Error *stream_get_u32(StreamReader *r, uint32_t *ret_value) MUST_USE;
Error *stream_get_u64(StreamReader *r, uint64_t *ret_value) MUST_USE;
Error *stream_get_str(StreamReader *r, char **ret_text) MUST_USE; /* caller frees */
/* Borrowed until the next record. */
Error *stream_get(StreamReader *r, size_t length, const uint8_t **ret_data) MUST_USE;

#endif
