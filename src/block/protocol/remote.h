/*
 * For protocols of a library whose calls block: they are made on a worker thread, with the data in one piece.
 */
#ifndef OSTRICH_BLOCK_PROTOCOL_REMOTE_H
#define OSTRICH_BLOCK_PROTOCOL_REMOTE_H

#include "block/node.h"

typedef struct RemoteCall {
    void *state; /* of the node */
    uint64_t offset, bytes;
    uint8_t *data; /* NULL: the call moves none */
} RemoteCall;
typedef int RemoteFn(void *call); /* RemoteCall *; 0 or -errno */

/* lock: of a connection that takes one call at a time; NULL: it takes many. */
int remote_call_co(BlockNode *node, CoMutex *lock, RemoteFn *fn, uint64_t offset, uint64_t bytes);
int remote_read_co(BlockNode *node, CoMutex *lock, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at);
int remote_write_co(BlockNode *node, CoMutex *lock, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at);

#endif
