/*
 * For protocols of a library whose calls block: they are made on a worker thread, with the data in one piece.
 *
 * A server that is dead costs each request of the guest its time-out once, and the end of the program one time-out: what waited
 * for a call that timed out has waited long enough, and a node that is being closed asks a silent server nothing more.
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

/* Opening and closing. What the steps took out of the options is released when they fail. */
Error *remote_open_co(BlockNode *node, KeyValues *opts, Error *(*steps_co)(BlockNode *node, KeyValues *opts),
                      void (*release)(void *state)) MUST_USE;
void remote_close_co(BlockNode *node, RemoteFn *hang_up, void (*release)(void *state)); /* hang_up gets the state */
uint64_t remote_allocated_size(BlockNode *node); /* servers do not tell */

/* A connection that takes one call at a time. */
typedef struct RemoteLine {
    CoMutex lock;
    unsigned timeouts; /* calls so far that the server did not answer in time */
    bool silent;       /* the last one was such a call */
} RemoteLine;

void remote_line_init(RemoteLine *line);
/* line NULL: the connection takes many calls at a time. */
int remote_call_co(BlockNode *node, RemoteLine *line, RemoteFn *fn, uint64_t offset, uint64_t bytes);
int remote_read_co(BlockNode *node, RemoteLine *line, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at);
int remote_write_co(BlockNode *node, RemoteLine *line, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at);

#endif
