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
    bool in_saved_state;
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

typedef enum BlkOp { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZEROES } BlkOp;

enum { INLINE_IOV = 4 };

struct BlkRequest {
    BlockBackend *blk;
    BlkOp op;
    unsigned flags;
    uint64_t offset, bytes;
    BlockVec vec;
    struct iovec inline_iov[INLINE_IOV], *iov;
    BlkDone *done;
    void *opaque;
    int ret;
    bool cancelled, started;
    bool held;
    int64_t start_ns;
    uint64_t number; /* of all requests, where completions are recorded */
    bool finished;   /* its completion waits for its place among the guest's instructions */
    bool awaited;    /* counted in the inlet's awaited */
    uint8_t *copy;   /* of the data: the guest's memory changes where it completes; NULL: it is used itself */
    struct iovec copy_iov; /* vec, then */
    BlockVec guest;        /* what vec was */
    ListNode node; /* in blk->requests or blk->held */
};

/* Ends it: done() is called. */
void blk_request_complete(BlkRequest *req);

/* --- backend_replay.c; without a recording they do nothing and say false --- */
/* Before it is started. */
void blk_replay_begin(BlkRequest *req);
/* It waits for the machine to run again. */
void blk_replay_held(BlkRequest *req);
/* It has its result. True: it completes later. */
bool blk_replay_finished(BlkRequest *req);
/* Completes what is under way when all of it has finished; false: not yet. */
bool blk_replay_drained(BlockBackend *blk);

void blk_emit(BlockBackend *blk, const char *event, Value *data);

#endif
