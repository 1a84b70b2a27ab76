/*
 * The NBD server: listens, lets clients negotiate, and serves exports of the kind "nbd". The
 * protocol is the fixed newstyle of proto.md with simple and structured replies and meta contexts.
 * Everything runs on the graph's loop.
 */
#ifndef OSTRICH_BLOCK_NBD_SERVER_H
#define OSTRICH_BLOCK_NBD_SERVER_H

#include "block/export/export.h"
#include "crypto/tls.h"
#include "io/net.h"

typedef struct NbdServer NbdServer;

enum { NBD_HANDSHAKE_SECONDS = 10 }; /* usually */

typedef struct NbdServerOptions {
    unsigned max_connections;   /* 0: no limit */
    unsigned handshake_seconds; /* for a client to choose an export; 0: no limit */
    /* Clients must use TLS; NULL: they cannot. The server takes a reference, and copies the ID. */
    TlsKeys *tls_keys;
    const char *tls_authz; /* who may come in; NULL: all that TLS accepts */
    /* After a client is gone; may be NULL. negotiated: it had got as far as using an export. */
    void (*client_gone)(void *opaque, bool negotiated);
    void *opaque;
} NbdServerOptions;

/* The graph has one server at most: graph->nbd_server. */
Error *nbd_server_start(BlockGraph *graph, const NbdServerOptions *options,
                        NbdServer **ret_server) MUST_USE;
/* Takes fd, a listening socket that does not block. */
void nbd_server_listen(NbdServer *server, int fd);
/* A client that is connected already; takes fd. */
void nbd_server_adopt(NbdServer *server, int fd);
NbdServer *nbd_server_of(BlockGraph *graph); /* NULL: not running */
unsigned nbd_server_clients(const NbdServer *server);
/* Ends the server with its exports and clients. In a coroutine. */
void nbd_server_stop_all_co(BlockGraph *graph); /* accepts a graph without one */

/* An address as QMP and -blockdev have it: "type"-dependent keys below prefix ("server."). What it
 * points to stays in opts' texts, so it is copied. */
typedef struct NbdAddress {
    NetAddress net;
    char *path, *host, *port;
    int fd; /* "fd" type; -1: none */
} NbdAddress;
Error *nbd_address_take(KeyValues *opts, NbdAddress *ret_address) MUST_USE;
void nbd_address_clear(NbdAddress *address);

#endif
