/* What the files of the graph's core share. */
#ifndef OSTRICH_BLOCK_NODE_PRIV_H
#define OSTRICH_BLOCK_NODE_PRIV_H

#include "block/node.h"

struct BlockGraph {
    Loop *loop;
    Object *objects, *own_objects;
    List nodes;
    List backends; /* BlockBackend */
    List drives;   /* Drive */
    List exports;  /* Export */
    struct NbdServer *nbd_server; /* of nbd-server-start; NULL: not running */
    List jobs;     /* Job */
    List throttle_groups;
    unsigned next_name;
    bool lost;       /* see block_graph_lost() */
    _Atomic bool frozen; /* nothing is written any more: the machine has lost its memory */
    bool inactive;   /* another process writes to the images; see inactive.c */
    List creators;   /* Creator: coroutines that make images, which are not inactive for them */
    void (*debug_say)(void *opaque, const char *text); /* what a debugging filter tells; NULL: nobody listens */
    void *debug_say_opaque;
    unsigned closing; /* nodes being closed in coroutines of their own */
    void (*stop)(void *opaque);
    void (*emit)(void *opaque, const char *event, Value *data);
    void *hooks_opaque;
    struct Inlet *inlet;      /* completions of devices' requests are recorded or replayed; NULL: they are not */
    uint64_t recorded;        /* requests so far */
    int (*open_special)(void *opaque, const char *path, int flags);
    void *open_opaque;
};

struct NodeRequest {
    BlockNode *node;
    uint64_t offset, bytes;
    Coroutine *co;
    bool write, serialising;
    struct NodeRequest *waiting_for;
    CoQueue waiters;
    ListNode in_node;
};

/* Removes and returns the options that begin with prefix, without it. Never NULL. */
KeyValues *block_take_prefix(KeyValues *opts, const char *prefix);
bool block_has_prefix(const KeyValues *opts, const char *prefix);
/* read-only, cache.*, discard and the like, into the members of node that are named so. */
Error *block_take_common_options(BlockNode *node, KeyValues *opts) MUST_USE;
/* An error that names the first option that is left. */
Error *block_check_leftover(const KeyValues *opts, const BlockNode *node) MUST_USE;

/* Makes the node inactive, and what is below it as far as nobody else uses it. */
Error *node_give_up_co(BlockNode *node) MUST_USE;

/* For loops that yield: the usable node behind after, with a reference, in exchange for that on after. NULL begins and ends. */
BlockNode *node_next_held_co(BlockGraph *graph, BlockNode *after);

/* Brings the claims of the node's children in line with those on the node. */
Error *node_claims_update(BlockNode *node) MUST_USE;
void node_claims_collect(const BlockNode *node, const BlockEdge *except, unsigned *ret_used,
                         unsigned *ret_shared);

/* Whether the pieces that the two belong to may become one. */
Error *node_check_join(BlockNode *parent, BlockNode *child) MUST_USE;
void node_forget_thread(BlockNode *node);

/* A filter above a node that is there; the caller puts it in the node's place. */
Error *node_new_above_co(BlockNode *below, const BlockDriver *driver, const char *name,
                         BlockNode **ret_node) MUST_USE;

/* After the graph became active or inactive: what machines do not use yet, they do not forbid to others. */
Error *blk_claims_update_all(BlockGraph *graph) MUST_USE;
/* At the end: waits for their requests and takes the media out of all backends. */
void blk_detach_all(BlockGraph *graph);

/* Whether the coroutine makes an image: its nodes are active, whatever the graph is. */
bool block_is_creating(const BlockGraph *graph, const Coroutine *co);

/* What is behind "protocol:"; NULL: the name does not begin so. */
const char *block_skip_protocol(const char *name);
/* Turns a "filename" without a driver into the options of a protocol node. */
Error *block_options_from_filename(const char *filename, KeyValues *opts) MUST_USE;
/* A path that is looked for beside the image that names it. */
bool block_name_is_relative(const char *name);

/* The protocol that file names with "scheme:" in front mean; NULL: none. */
const BlockDriver *block_driver_for_scheme(const char *scheme);
const BlockDriver *block_probe(const uint8_t *data, size_t length, const char *filename);

#endif
