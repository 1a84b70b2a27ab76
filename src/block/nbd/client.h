/*
 * The NBD client's side of a connection: the handshake, and requests that many coroutines make over
 * one socket. The driver "nbd" and qemu-nbd use it.
 */
#ifndef OSTRICH_BLOCK_NBD_CLIENT_H
#define OSTRICH_BLOCK_NBD_CLIENT_H

#include "block/nbd/nbd_proto.h"
#include "block/nbd/server.h"
#include "block/vec.h"
#include "io/tls.h"

/* What the server said about an export. */
typedef struct NbdInfo {
    char *name, *description; /* description: NULL when there is none */
    uint64_t size;
    uint16_t flags;
    uint32_t min_block, preferred_block, max_block; /* 0: not said */
    bool structured, extended; /* how replies look; extended includes structured */
    GPtrArray *contexts; /* char *: of a listing */
    bool has_context;    /* the one that was asked for */
    uint32_t context_id;
} NbdInfo;
void nbd_info_clear(NbdInfo *info);

typedef struct NbdConnection NbdConnection;

/* On a worker thread, so the loop runs on. */
Error *nbd_connect_co(Loop *loop, const NbdAddress *address, IoStream **ret_stream) MUST_USE;
/*
 * context: the meta context to ask for, NULL for none. tls: NULL without. Takes the stream, also on
 * failure.
 */
Error *nbd_connection_new_co(Loop *loop, IoStream *stream, const TlsUse *tls, const char *export,
                             const char *context, NbdConnection **ret_connection) MUST_USE;
/* Says goodbye and waits for the reader. */
void nbd_connection_close_co(NbdConnection *connection); /* accepts NULL */
const NbdInfo *nbd_connection_info(const NbdConnection *connection);
/* It fails, with all commands under way; not only from coroutines. */
void nbd_connection_yank(NbdConnection *connection);
bool nbd_connection_is_broken(const NbdConnection *connection);
/* Lists the exports of a server: NbdInfo *, freed with the array. Takes the stream. */
Error *nbd_list_co(IoStream *stream, const TlsUse *tls, GPtrArray **ret_infos) MUST_USE;

typedef struct NbdExtent {
    uint64_t length, flags;
} NbdExtent;

/* 0, -errno of the server, or -ENOTCONN when the connection broke and it is not known what was
 * done. */
typedef struct NbdCommand {
    uint16_t type, flags;
    uint64_t offset, length; /* over 32 bits only where info->extended */
    const BlockVec *vec; /* of reads and writes, from `at` */
    size_t at;
    NbdExtent *extent; /* of block status: the first one; cut to the length */
} NbdCommand;
int nbd_command_co(NbdConnection *connection, const NbdCommand *command);

#endif
