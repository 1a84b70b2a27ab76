/*
 * Connections of one client to one export: as many as the load and the server allow. Commands are
 * spread over them; when the last one breaks a new one is made, and commands may wait for it. All of
 * it runs on the graph's loop.
 */
#ifndef OSTRICH_BLOCK_NBD_POOL_H
#define OSTRICH_BLOCK_NBD_POOL_H

#include "block/nbd/client.h"

enum { NBD_POOL_MAX = 16 };

/* Where to; borrowed while the pool is open. */
typedef struct NbdTarget {
    NbdAddress address;
    const char *export, *context; /* context: the meta context to ask for */
    const TlsUse *tls;            /* NULL: without */
    /* Connections at once, where the server says that its clients see each other's flushes; 1 is
     * used otherwise. */
    unsigned connections;
    int64_t reconnect_delay; /* ns for which commands wait for a broken connection */
    const bool *closing;     /* once true nobody waits any more */
} NbdTarget;

typedef struct NbdPool NbdPool;

/* open_timeout: ns for which failing attempts are repeated. *ret_pool is set from the beginning, for nbd_pool_yank() only. */
Error *nbd_pool_open_co(Loop *loop, const NbdTarget *target, int64_t open_timeout,
                        NbdPool **ret_pool) MUST_USE;
/* Breaks all connections, also one that is being made; not only from coroutines. */
void nbd_pool_yank(NbdPool *pool);
void nbd_pool_close_co(NbdPool *pool); /* accepts NULL; no command is under way */
/* Of the first connection; later ones are to the same export or are not used. */
const NbdInfo *nbd_pool_info(const NbdPool *pool);
/* 0, -errno of the server, or -EIO when there is no connection. */
int nbd_pool_command_co(NbdPool *pool, const NbdCommand *command);

#endif
