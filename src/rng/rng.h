/*
 * Sources of random numbers for guests: -object rng-builtin (the host kernel's generator) and rng-random (a file or
 * device). A device reads through an RngReader of its own.
 *
 * Threads: the machine lock.
 */
#ifndef OSTRICH_RNG_RNG_H
#define OSTRICH_RNG_RNG_H

#include "event/loop.h"
#include "object/object.h"

typedef struct RngSource {
    Object object;
    unsigned readers;
} RngSource;

typedef struct RngSourceType {
    ObjectType object;
    /* At most `size` bytes to `buf`. 0: none now, ask again when *ret_wait_fd (-1: never) can be read. */
    size_t (*read)(RngSource *source, void *buf, size_t size, int *ret_wait_fd);
} RngSourceType;

extern const ObjectType rng_source_type; /* abstract */

typedef struct RngReader {
    RngSource *source; /* NULL: the host kernel's generator */
    Loop *loop;
    LoopFd *wait;
    int wait_fd;
    void (*ready)(void *opaque);
    void *opaque;
} RngReader;

/* `source` may be NULL and outlives the reader: while it has readers it cannot be deleted. */
void rng_reader_init(RngReader *reader, RngSource *source, Loop *loop, void (*ready)(void *opaque), void *opaque);
void rng_reader_fini(RngReader *reader); /* also of a zeroed one */
/* Bytes put into buf, at most size. 0: none now; ready() is called from the loop when there are some again. */
size_t rng_read(RngReader *reader, void *buf, size_t size);

#endif
