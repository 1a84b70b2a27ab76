/* The inside of a backend. */
#ifndef OSTRICH_BLOCK_BACKEND_PRIV_H
#define OSTRICH_BLOCK_BACKEND_PRIV_H

#include <pthread.h>

#include "block/backend.h"
#include "block/node_priv.h"

struct BlockBackend {
    BlockGraph *graph;
    unsigned refs;
    char *name;
    BlockEdge *root; /* NULL: no medium */
    Loop *loop;      /* NULL: the node's or the graph's */
    char *device;    /* label; NULL: none attached */
    const BlkDeviceOps *ops;
    void *ops_opaque;
    bool writes, share_rw, write_cache;
    bool read_only; /* of a drive without a medium */
    BlkOnError on_read_error, on_write_error;
    const char *io_status;
    BlkStats stats;
    struct ThrottleGroup *throttle; /* NULL: no limits */
    bool no_wait;                   /* draining: limits do not hold requests back */
    List requests; /* BlkRequest: under way */
    List held;     /* BlkRequest: failed, to be made again when the machine runs */
    pthread_cond_t idle;
    ListNode node_in_graph;
};

void blk_emit(BlockBackend *blk, const char *event, Value *data);

#endif
