/*
 * A byte stream over a socket, for coroutines of one loop: one may read while another writes. Input
 * is buffered, so that small messages cost no call each. With TLS the bytes pass a session that a
 * module provides.
 *
 * stream_shutdown() makes both directions fail, so that whoever waits in them comes back; the
 * stream is freed when nobody does.
 */
#ifndef OSTRICH_IO_STREAM_H
#define OSTRICH_IO_STREAM_H

#include <sys/uio.h>

#include "event/coroutine.h"

typedef struct IoStream IoStream;

/* What transforms the bytes; each returns like recv() and send(), with -errno, -EAGAIN to wait. */
typedef struct IoStreamFilter {
    ssize_t (*read)(void *opaque, void *buffer, size_t bytes);
    ssize_t (*write)(void *opaque, const void *buffer, size_t bytes);
    void (*close)(void *opaque); /* says goodbye as far as that does not wait, and frees opaque */
} IoStreamFilter;

/* Takes fd, which is non-blocking. */
IoStream *stream_new(Loop *loop, int fd);
/* Coroutines of another loop use it from now on; nobody waits for it. Both loops have the same lock, which the caller holds. */
void stream_set_loop(IoStream *ch, Loop *loop);
void stream_free(IoStream *stream); /* accepts NULL */
int stream_fd(const IoStream *stream);
/* From now on; what was read ahead would be lost, so that must be empty: false if it is not. */
bool stream_set_filter(IoStream *stream, const IoStreamFilter *filter, void *opaque);
/* All of it, or -ECONNRESET when the other side is gone, or another -errno. */
int stream_read_co(IoStream *stream, void *buffer, size_t bytes);
int stream_write_co(IoStream *stream, const void *buffer, size_t bytes);
/* iov is changed. */
int stream_writev_co(IoStream *stream, struct iovec *iov, unsigned count);
/* Waits for LOOP_READ or LOOP_WRITE; -ECONNRESET after a shutdown. For filters' handshakes. */
int stream_wait_co(IoStream *stream, unsigned event);
void stream_shutdown(IoStream *stream);

#endif
