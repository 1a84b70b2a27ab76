/*
 * The compressed clusters of qcow and qcow2: raw deflate streams with a window of 4 KiB. Both calls may take
 * long, so they belong on a worker thread; they are functions for co_blocking().
 */
#ifndef OSTRICH_BLOCK_FORMAT_DEFLATE_H
#define OSTRICH_BLOCK_FORMAT_DEFLATE_H

#include <stddef.h>

typedef struct DeflateCall {
    const void *from;
    void *to;
    size_t from_bytes, to_bytes;
} DeflateCall;

/* Fills all of `to`: 0, -EIO for a stream that does not, -ENOMEM. call: DeflateCall. */
int deflate_unpack(void *call);
/* The number of bytes made, -ENOSPC when `to` is too small for them, -ENOMEM. call: DeflateCall. */
int deflate_pack(void *call);

#endif
