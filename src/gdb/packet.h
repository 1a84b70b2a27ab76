/*
 * Packets of gdb's remote protocol: $payload#checksum, acknowledged by + or -, escapes in binary data.
 * Plain data in, packets out; knows no machine.
 */
#ifndef OSTRICH_GDB_PACKET_H
#define OSTRICH_GDB_PACKET_H

#include "base/base.h"

enum { GDB_PACKET_MAX = 16384 };

typedef enum GdbInput {
    GDB_MORE,      /* nothing complete yet */
    GDB_PACKET,    /* text and length hold one, with a good sum */
    GDB_BAD,       /* one with a wrong sum, or too long */
    GDB_INTERRUPT, /* the byte 3 between packets */
    GDB_ACK,
    GDB_NACK,
} GdbInput;

typedef struct GdbReader {
    enum { GDB_IDLE, GDB_BODY, GDB_ESCAPED, GDB_SUM1, GDB_SUM2 } state;
    char text[GDB_PACKET_MAX + 1]; /* unescaped, ends with a zero byte */
    size_t length;
    uint8_t sum, sent_sum;
    bool overflow;
} GdbReader;

GdbInput gdb_reader_byte(GdbReader *reader, uint8_t byte);

/* $...# with sum around a payload; bytes that need it are escaped. Appends to out. */
void gdb_frame(GString *out, const char *payload, size_t length);

/* Hex digits: two a byte. */
void gdb_put_hex(GString *out, const void *data, size_t length);
/* Reads up to `max` bytes; *text moves behind them. How many there were. */
size_t gdb_take_hex(const char **text, uint8_t *ret_data, size_t max);
/* A number in hex without prefix; false: there is none. */
bool gdb_take_number(const char **text, uint64_t *ret_value);

#endif
