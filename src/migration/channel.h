/*
 * Where a stream goes to or comes from, by its URI: tcp:HOST:PORT, unix:PATH, fd:NAME-or-NUMBER,
 * exec:COMMAND, file:PATH[,offset=N].
 *
 * Threads: opening and closing on the main loop; reading and writing on the thread that moves the stream.
 * channel_cancel() makes a blocked read or write return an error, from any thread.
 */
#ifndef OSTRICH_MIGRATION_CHANNEL_H
#define OSTRICH_MIGRATION_CHANNEL_H

#include "core/vm/machine.h"
#include "io/tls.h"

typedef struct Channel Channel;

Error *channel_check(const char *uri) MUST_USE; /* whether it can be understood */
/* Whether several connections can be made there. */
bool channel_takes_many(const char *uri);
/* A connection to somewhere; blocks while it connects. */
Error *channel_open_out(Machine *machine, const char *uri, Channel **ret_channel) MUST_USE;
/* What can be opened at once; for tcp: and unix: a listening descriptor instead of a channel. */
Error *channel_open_in(Machine *machine, const char *uri, Channel **ret_channel, int *ret_listener) MUST_USE;
Channel *channel_of_fd(int fd); /* takes it */
/* A socket in the file system goes with it. */
void channel_close_listener(int listener);
struct Value *channel_address(int listener); /* as QMP's SocketAddress; NULL: it cannot be had */
/*
 * Encrypts what follows; on the thread that moves the stream, waits for the handshake. The machine's lock is taken for the
 * question who may come in.
 */
Error *channel_start_tls(Channel *channel, Machine *machine, const TlsUse *use) MUST_USE;
/* Accepts NULL. */
void channel_free(Channel *channel);
void channel_cancel(Channel *channel);
/* Whether answers can come back (sockets). */
bool channel_two_way(const Channel *channel);

/* For stream_writer_init() and stream_reader_init(): opaque is the channel. */
Error *channel_write(void *opaque, const void *data, size_t length) MUST_USE;
Error *channel_read(void *opaque, void *data, size_t length) MUST_USE;
/* Whether the other side has said something that was not read yet; false where that cannot be known (TLS). */
bool channel_has_input(const Channel *channel);
/* The same, waiting for it no longer than that; not once it is cancelled. */
bool channel_has_input_within(const Channel *channel, int ms);
/* Waits for one more connection; fails when `first`, the one that it belongs to, is cancelled or is closed by the other side. */
Error *channel_accept(Channel *first, int listener, Channel **ret_channel) MUST_USE;
/* Reads and forgets what comes until the other side closes. */
void channel_drain(Channel *channel);
/* All was written: a file's data reach the disk, a command ends well. */
Error *channel_finish(Channel *channel) MUST_USE;

#endif
