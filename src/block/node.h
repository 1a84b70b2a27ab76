/*
 * The block graph: nodes, their drivers, the request path.
 *
 * A node is one layer of an image: a file, a format over it, a filter. A driver is a const
 * descriptor. Edges carry claims: what the parent does with the child, and what it tolerates from
 * the child's other parents; opening fails where they conflict. The file driver turns claims into
 * locks that other processes see.
 *
 * Everything here runs on the graph's loop. Functions named _co run in a coroutine of that loop;
 * the others call them through co_run() where they must wait, so they are for start-up, tools and
 * the monitor, not for the data path. Nodes are counted: node_ref(), node_unref(); the last one
 * closes it.
 */
#ifndef OSTRICH_BLOCK_NODE_H
#define OSTRICH_BLOCK_NODE_H

#include "base/error.h"
#include "base/list.h"
#include "block/vec.h"
#include "event/coroutine.h"
#include "object/object.h"
#include "value/keyvalues.h"
#include "value/value.h"

typedef struct BlockGraph BlockGraph;
typedef struct BlockNode BlockNode;
typedef struct BlockEdge BlockEdge;
typedef struct BlockDriver BlockDriver;
typedef struct BlockBitmap BlockBitmap; /* bitmap.h */

/* --- claims --- */
enum {
    CLAIM_READ = BIT(0), /* expects consistent data */
    CLAIM_WRITE = BIT(1),
    CLAIM_WRITE_UNCHANGED = BIT(2), /* writes only what is there already */
    CLAIM_RESIZE = BIT(3),
    CLAIM_ALL = 15,
    CLAIM_BITS = 4,
};
const char *block_claim_name(unsigned bit); /* "consistent read", "write", ... */

typedef enum ChildRole {
    CHILD_FILE,     /* the storage of a format: data and metadata */
    CHILD_FILTERED, /* the same data, seen through the parent */
    CHILD_BACKING,  /* data where the parent has none */
} ChildRole;

struct BlockEdge {
    BlockNode *parent; /* NULL: a root, e.g. a backend */
    BlockNode *node;   /* the child; counted */
    char *name;        /* "file", "backing"; for a root what it is, for messages */
    ChildRole role;
    unsigned used, shared; /* CLAIM_* */
    unsigned also_used, not_shared; /* beyond what the role says: a test's wish */
    bool inactive_too; /* a root whose user bears it that writes fail while the node is inactive */
    Loop *loop; /* of a root whose user has an iothread; else NULL */
    ListNode in_parent, in_child;
};

/* --- options of drivers, for parsing, help and messages --- */
typedef enum BlockOptionKind { OPT_STR, OPT_BOOL, OPT_SIZE, OPT_NUM } BlockOptionKind;
typedef struct BlockOption {
    const char *name; /* NULL ends a table */
    BlockOptionKind kind;
    const char *help;
} BlockOption;

/* --- request flags --- */
enum {
    REQ_FUA = BIT(0),             /* on stable storage when it completes */
    REQ_MAY_UNMAP = BIT(1),       /* zeroes: may free the space */
    REQ_NO_FALLBACK = BIT(2),     /* zeroes: -ENOTSUP rather than writing zero bytes */
    REQ_COMPRESSED = BIT(3),      /* write: store compressed (a whole cluster) */
    REQ_WRITE_UNCHANGED = BIT(4), /* the guest sees no change (copy on read) */
};

/* --- block status --- */
enum {
    STATUS_DATA = BIT(0),      /* this node has data for the range */
    STATUS_ZERO = BIT(1),      /* it reads as zeroes */
    STATUS_OFFSET = BIT(2),    /* `map` tells where, in `file` */
    STATUS_ALLOCATED = BIT(3), /* decided here, not by the backing node */
    STATUS_COMPRESSED = BIT(4),
    STATUS_EOF = BIT(5),     /* beyond the end, of the node or of a backing node */
    STATUS_RAW = BIT(6),     /* `file` at `map` decides */
    STATUS_RECURSE = BIT(7), /* there may be holes at `map` of `file` */
};
typedef struct BlockStatus {
    unsigned flags;
    uint64_t bytes;  /* length of the run: 1 .. asked */
    uint64_t map;    /* with STATUS_OFFSET */
    BlockNode *file; /* with STATUS_OFFSET; borrowed */
} BlockStatus;

/* --- points that a request of a format passes, by the names that "blkdebug" has for them --- */
#define BLOCK_EVENTS(X)                                                                            \
    X(L1_UPDATE, l1_update) X(L1_GROW_ALLOC_TABLE, l1_grow_alloc_table)                            \
    X(L1_GROW_WRITE_TABLE, l1_grow_write_table)                                                    \
    X(L1_GROW_ACTIVATE_TABLE, l1_grow_activate_table) X(L2_LOAD, l2_load)                          \
    X(L2_UPDATE, l2_update) X(L2_UPDATE_COMPRESSED, l2_update_compressed)                          \
    X(L2_ALLOC_COW_READ, l2_alloc_cow_read) X(L2_ALLOC_WRITE, l2_alloc_write)                      \
    X(READ_AIO, read_aio) X(READ_BACKING_AIO, read_backing_aio)                                    \
    X(READ_COMPRESSED, read_compressed) X(WRITE_AIO, write_aio)                                    \
    X(WRITE_COMPRESSED, write_compressed) X(VMSTATE_LOAD, vmstate_load)                            \
    X(VMSTATE_SAVE, vmstate_save) X(COW_READ, cow_read) X(COW_WRITE, cow_write)                    \
    X(REFTABLE_LOAD, reftable_load) X(REFTABLE_GROW, reftable_grow)                                \
    X(REFTABLE_UPDATE, reftable_update) X(REFBLOCK_LOAD, refblock_load)                            \
    X(REFBLOCK_UPDATE, refblock_update) X(REFBLOCK_UPDATE_PART, refblock_update_part)              \
    X(REFBLOCK_ALLOC, refblock_alloc) X(REFBLOCK_ALLOC_HOOKUP, refblock_alloc_hookup)              \
    X(REFBLOCK_ALLOC_WRITE, refblock_alloc_write)                                                  \
    X(REFBLOCK_ALLOC_WRITE_BLOCKS, refblock_alloc_write_blocks)                                    \
    X(REFBLOCK_ALLOC_WRITE_TABLE, refblock_alloc_write_table)                                      \
    X(REFBLOCK_ALLOC_SWITCH_TABLE, refblock_alloc_switch_table) X(CLUSTER_ALLOC, cluster_alloc)    \
    X(CLUSTER_ALLOC_BYTES, cluster_alloc_bytes) X(CLUSTER_FREE, cluster_free)                      \
    X(FLUSH_TO_OS, flush_to_os) X(FLUSH_TO_DISK, flush_to_disk)                                    \
    X(PWRITEV_RMW_HEAD, pwritev_rmw_head) X(PWRITEV_RMW_AFTER_HEAD, pwritev_rmw_after_head)        \
    X(PWRITEV_RMW_TAIL, pwritev_rmw_tail) X(PWRITEV_RMW_AFTER_TAIL, pwritev_rmw_after_tail)        \
    X(PWRITEV, pwritev) X(PWRITEV_ZERO, pwritev_zero) X(PWRITEV_DONE, pwritev_done)                \
    X(EMPTY_IMAGE_PREPARE, empty_image_prepare) X(L1_SHRINK_WRITE_TABLE, l1_shrink_write_table)    \
    X(L1_SHRINK_FREE_L2_CLUSTERS, l1_shrink_free_l2_clusters) X(COR_WRITE, cor_write)              \
    X(CLUSTER_ALLOC_SPACE, cluster_alloc_space) X(NONE, none)
typedef enum BlockEvent {
#define BLOCK_EVENT_ITEM(upper, lower) BLOCK_EVENT_##upper,
    BLOCK_EVENTS(BLOCK_EVENT_ITEM)
#undef BLOCK_EVENT_ITEM
        BLOCK_EVENT_COUNT
} BlockEvent;
/* False: there is none of that name. */
bool block_event_find(const char *name, BlockEvent *ret_event);

/* --- image creation, information, checking --- */
typedef enum Preallocation {
    PREALLOC_OFF,
    PREALLOC_METADATA,
    PREALLOC_FALLOC,
    PREALLOC_FULL
} Preallocation;
Error *block_parse_preallocation(const char *text, Preallocation *ret) MUST_USE;
const char *block_preallocation_name(Preallocation p);

typedef struct BlockCheck {
    uint64_t corruptions, leaks, check_errors;
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t image_end, total_clusters, allocated_clusters, fragmented_clusters,
        compressed_clusters;
    void (*message)(void *opaque, const char *text); /* a line a finding; may be NULL */
    void *opaque;
} BlockCheck;
enum { CHECK_FIX_LEAKS = BIT(0), CHECK_FIX_ERRORS = BIT(1) };

typedef struct BlockSnapshot {
    char *id, *name;
    uint64_t vm_state_size, date_sec, vm_clock_ns, icount, disk_size;
    uint32_t date_nsec;
} BlockSnapshot;
void block_snapshot_free(BlockSnapshot *snapshot);

typedef struct BlockMeasure {
    uint64_t required, fully_allocated;
    bool has_bitmaps;  /* source and target can keep them */
    uint64_t bitmaps; /* what they need beside the rest */
} BlockMeasure;

typedef struct BlockLimits {
    uint32_t request_align; /* power of two, 1 or more */
    uint32_t memory_align;  /* of buffers; 1: any */
    uint32_t max_transfer;  /* bytes, 0: no limit */
    uint32_t zeroes_align;  /* below it write_zeroes falls back; 0: request_align */
    uint32_t discard_align; /* requests are cut there; smaller ones are dropped, but filters pass them on; 0: request_align */
    uint64_t max_zeroes;    /* bytes a call, 0: no limit */
    uint64_t max_discard;   /* likewise */
    uint32_t cluster_size;  /* for info and copying; 0: none */
    uint32_t own_size;      /* the least that can be its own above a backing node; 0: cluster_size */
    bool compressed_only;   /* writes must be REQ_COMPRESSED, and a cluster is written once */
} BlockLimits;

struct BlockDriver {
    const char *name, *desc;
    size_t state_size;
    bool protocol; /* has no file child */
    /* Further names that stand before the colon of a file name; NULL-terminated; may be NULL. */
    const char *const *schemes;
    /* Turns the whole file name into options; NULL: what is behind the colon is "filename". */
    Error *(*parse_filename)(const char *filename, KeyValues *opts);
    bool filter;   /* CHILD_FILTERED below */
    /* Options that decide what the node shows, NULL-terminated; "x." stands for all that begin so. They are part of
     * its name: see filename.c. */
    const char *const *deciding;
    char *(*make_filename)(BlockNode *node); /* a name of its own; NULL: it needs json: */
    /* What the first child is called; NULL: "file"; "": the driver opens its children itself. */
    const char *child_name;
    const char *filename_child; /* which one a plain "filename" names; NULL: the first */
    bool supports_backing;
    bool repairs; /* takes x-repair=on: opened for check -r */
    bool extends;                      /* writes beyond the end make it longer (files) */
    const BlockOption *options;        /* of open, without the common ones */
    const BlockOption *create_options; /* NULL: cannot create */
    const BlockOption *amend_options;  /* of amend_co */

    /* 0 to 100: how sure it is that the image is its own. */
    int (*probe)(const uint8_t *data, size_t length, const char *filename);
    /* The "file" child is open. Takes its options out of opts. On failure close is not called. */
    Error *(*open_co)(BlockNode *node, KeyValues *opts);
    void (*close_co)(BlockNode *node); /* flushes what it has */
    void (*yank)(BlockNode *node);     /* breaks connections to the outside; also while it opens, not from a coroutine */
    /* Makes an image; options as in create_options, with `size`. `file` is an open protocol node or
     * NULL for protocols. */
    Error *(*create_co)(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts);

    int (*preadv_co)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                     size_t at);
    int (*pwritev_co)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                      size_t at, unsigned flags);
    int (*write_zeroes_co)(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
    bool zeroes_parts; /* is asked about parts of limits.zeroes_align too, and may say -ENOTSUP */
    int (*discard_co)(BlockNode *node, uint64_t offset, uint64_t bytes);
    /* Takes bytes of another node's storage, past user space; -ENOTSUP: read and write them. NULL: likewise. */
    int (*copy_range_co)(BlockNode *node, uint64_t offset, BlockNode *from, uint64_t from_offset, uint64_t bytes);
    int (*flush_co)(BlockNode *node);      /* data and metadata to stable storage */
    int (*write_back_co)(BlockNode *node); /* caches to the child, no barrier needed; may be NULL */
    int (*status_co)(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status);
    Error *(*truncate_co)(BlockNode *node, uint64_t size, Preallocation prealloc);
    uint64_t write_flags, zero_flags; /* REQ_* it does itself */

    /* node->read_only is what it shall be; NULL: nothing to do. */
    Error *(*reopen_co)(BlockNode *node);
    /* The storage was another process's: how long is it now? Locks stay. */
    Error *(*refresh_co)(BlockNode *node);
    /* While nothing is under way: takes its options anew, as open_co does, out of opts. On failure nothing
     * has changed. NULL: what was given at first stays. */
    Error *(*change_options_co)(BlockNode *node, KeyValues *opts);
    Error *(*set_claims)(BlockNode *node, unsigned used, unsigned shared); /* may be NULL */
    int (*open_again)(BlockNode *node); /* another descriptor of the file, for reading; -errno. May be NULL */
    uint64_t (*allocated_size)(BlockNode *node); /* bytes on the host; NULL: the file child's */
    /* Facts for info: adds members to `data` ({"type":..., "data":{...}} is made around it). */
    void (*info)(BlockNode *node, Value *data);
    bool (*dirty_flag)(BlockNode *node);
    Error *(*check_co)(BlockNode *node, BlockCheck *check, unsigned fix);
    /* opts as for creating; size 0 and source NULL are allowed, not both. */
    Error *(*measure)(KeyValues *opts, uint64_t size, uint64_t data_bytes, BlockMeasure *ret);
    Error *(*set_backing_co)(BlockNode *node, const char *filename, const char *format);
    Error *(*make_empty_co)(BlockNode *node); /* everything from the backing node again */
    /* opts: of amend_options. force: also what may destroy data. */
    Error *(*amend_co)(BlockNode *node, KeyValues *opts, bool force);

    GPtrArray *(*snapshots)(BlockNode *node); /* BlockSnapshot *, owned by the caller */
    Error *(*snapshot_create_co)(BlockNode *node, const BlockSnapshot *snapshot);
    Error *(*snapshot_apply_co)(BlockNode *node, const char *id);
    Error *(*snapshot_delete_co)(BlockNode *node, const char *id);
    /* Persistent dirty bitmaps: the image can keep one more. NULL: it keeps none. */
    Error *(*can_store_bitmap)(BlockNode *node, const BlockBitmap *bitmap);

    int (*vmstate_pread_co)(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer);
    int (*vmstate_pwrite_co)(BlockNode *node, uint64_t offset, uint64_t bytes, const void *buffer);
    /*
     * For who reads the state beside the block layer: where a piece of it lies in the file of vmstate_open(), which gives a
     * descriptor of its own, or -errno. Both are valid until the state is written or its snapshot deleted. May be NULL.
     */
    int (*vmstate_map_co)(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *ret_host, uint64_t *ret_bytes);
    int (*vmstate_open)(BlockNode *node);
    /* Where the state of a virtual machine would begin, in the disk's own counting. */
    uint64_t (*vmstate_offset)(BlockNode *node);

    /* A parent has come to `event`: for a debugging filter. */
    void (*debug_event_co)(BlockNode *node, BlockEvent event);
    /* Break points: a request that comes to `event` stops there. */
    int (*debug_break)(BlockNode *node, const char *event, const char *tag);
    int (*debug_remove_break)(BlockNode *node, const char *tag);
    int (*debug_resume)(BlockNode *node, const char *tag);
    bool (*debug_is_suspended)(BlockNode *node, const char *tag);
};
SECTION_DECLARE(block_drivers, BlockDriver);
#define BLOCK_DRIVER(ident, ...)                                                                   \
    static const BlockDriver ident##_driver = { __VA_ARGS__ };                                     \
    SECTION_ENTRY(block_drivers, BlockDriver, &ident##_driver)
const BlockDriver *block_driver_find(const char *name);
/* The error names the nearest one. */
Error *block_driver_lookup(const char *name, const BlockDriver **ret_driver) MUST_USE;
const BlockDriver **block_drivers_sorted(void); /* NULL-terminated; caller frees the array */
/* Their names, each with a space before it. Caller frees. */
char *block_drivers_text(void);

typedef enum DetectZeroes { DETECT_ZEROES_OFF, DETECT_ZEROES_ON, DETECT_ZEROES_UNMAP } DetectZeroes;

enum { NODE_SECTOR = 512 };

typedef struct NodeRequest NodeRequest;

/* Called before a range of a node is changed; the change waits for it. */
typedef struct BeforeWrite {
    void (*fn)(struct BeforeWrite *hook, uint64_t offset, uint64_t bytes);
    void *opaque, *saved; /* of whoever set it */
    ListNode node;
} BeforeWrite;

struct BlockNode {
    BlockGraph *graph;
    const BlockDriver *driver;
    void *state;
    char *name;     /* node-name, or "#block<n>" */
    KeyValues *options; /* the driver's own, as given */
    char *filename; /* of the file below, as the user or the image named it; "" when there is none */
    char *implied_backing; /* the name of what was opened because backing_filename says so; NULL: nothing was */
    bool vmstate_busy; /* somebody reads it beside the block layer: no snapshot may be deleted */
    bool inserted; /* put above another node by a job: goes by its name */
    unsigned refs;
    bool read_only, force_share, no_flush, direct, probed;
    bool unmap; /* discard=unmap: discards reach the storage */
    bool no_io;     /* opened for its facts: no key is needed, no data can be read */
    bool encrypted;
    char *aio;  /* what files below shall use unless they are told otherwise ("x-aio"); NULL: threads */
    bool open, closing;
    bool inactive;     /* its storage can only be read until the graph is activated; see inactive.c */
    bool activated;    /* before its graph */
    bool off;          /* made inactive on its own: holds no locks, is only read; see inactive.c */
    bool extends;      /* writes beyond the end make it longer */
    bool ends_as_full; /* a format above that needs more than there is has run out of space */
    bool auto_read_only; /* opened for reading only where writing is not possible */
    bool follows_size; /* it is as long as its first child */
    bool hurry;        /* requests shall end without delay: somebody waits for all of them */
    DetectZeroes detect_zeroes;
    uint64_t size; /* bytes; whole sectors: beyond the end of a shorter file there are zeroes */
    BlockLimits limits;
    BlockEdge *file, *backing;               /* shorthands into `children` */
    char *backing_filename, *backing_format; /* as the image records them, or NULL */
    List children, parents;                  /* BlockEdge */

    struct IoThread *iothread; /* where requests of users without one run, counted; NULL: the graph's loop */

    List bitmaps;  /* BlockBitmap */
    List before_write; /* BeforeWrite */
    List requests; /* NodeRequest, in order of arrival */
    unsigned serialising;
    Coroutine *gate_owner; /* NULL: the gate is open */
    CoQueue gate;
    CoQueue drained;
    uint64_t write_generation, flushed_generation;
    uint64_t write_threshold; /* a write that ends behind it is told, once; 0: none */
    ListNode in_graph;
};

/* --- the graph --- */
BlockGraph *block_graph_new(Loop *loop);
/* The container of -object, where keys of encrypted images are looked up: the graph's own, or a borrowed one. */
Object *block_graph_objects(BlockGraph *graph);
void block_graph_set_objects(BlockGraph *graph, Object *objects);
/*
 * "secret,id=key0,file=..." or JSON: --object of programs without a machine. *ret_help is text to print instead of
 * going on when help was asked for, else NULL; caller frees.
 */
Error *block_graph_add_object(BlockGraph *graph, const char *text, char **ret_help) MUST_USE;
/* Closes what is left. Not from a callback. */
void block_graph_free(BlockGraph *graph);
Loop *block_graph_loop(const BlockGraph *graph);
/* Whether a node was closed that could not write all it had: the log says what. Programs that do one thing fail then. */
bool block_graph_lost(const BlockGraph *graph);
/* For close_co: takes err; NULL is fine. */
void node_note_loss(BlockNode *node, Error *err);
/* Who hears what debugging filters tell about their break points. */
void block_graph_on_debug(BlockGraph *graph, void (*say)(void *opaque, const char *text), void *opaque);
/* Open, and in use by somebody: a node that is being closed cannot be taken again. */
static inline bool node_is_usable(const BlockNode *node)
{
    return node->open && !node->closing;
}
/* Whether it may write to its storage and holds its locks; see inactive.c. */
bool node_is_active(const BlockNode *node);
BlockNode *block_node_find(BlockGraph *graph, const char *name);
BlockNode *block_node_next(BlockGraph *graph, BlockNode *after); /* NULL begins and ends */

/* --- threads (threads.c) --- */
/* For the user of a root; NULL: none. An error when what is connected with the node is used by another iothread. */
Error *block_root_set_loop(BlockEdge *edge, Loop *loop) MUST_USE;
/* Where requests run that nobody with an iothread makes. */
Loop *node_loop(const BlockNode *node);
/* For the node and all that is connected with it; NULL: the graph's. force: although somebody uses it. */
Error *block_node_set_thread(BlockNode *node, struct IoThread *iothread, bool force) MUST_USE;

/* --- opening --- */
/*
 * Options in dotted form: driver, node-name, read-only, force-share, cache.direct, cache.no-flush,
 * discard, detect-zeroes, file.*, backing.* or references by name (file=NODE, backing=NODE,
 * backing="" for none), and the driver's own. Without a driver the format is probed. What is
 * unknown is an error. opts stays the caller's. The caller owns the reference.
 */
Error *block_open_options(BlockGraph *graph, const KeyValues *opts, BlockNode **ret_node) MUST_USE;
Error *block_open_options_co(BlockGraph *graph, const KeyValues *opts,
                             BlockNode **ret_node) MUST_USE;
enum {
    OPEN_WRITE = BIT(0),
    OPEN_FORCE_SHARE = BIT(1),
    OPEN_NO_BACKING = BIT(2),
    OPEN_PROTOCOL = BIT(3), /* the file itself, no format */
    OPEN_NO_FLUSH = BIT(4),
    OPEN_DIRECT = BIT(5),
    OPEN_NO_IO = BIT(6), /* for info: an encrypted image needs no key */
};
/* By file name ("x.qcow2", "json:{...}", "file:x"); format NULL: probed. more may be NULL. */
Error *block_open_file(BlockGraph *graph, const char *filename, const char *format, unsigned flags,
                       const KeyValues *more, BlockNode **ret_node) MUST_USE;
Error *block_open_file_co(BlockGraph *graph, const char *filename, const char *format,
                          unsigned flags, const KeyValues *more, BlockNode **ret_node) MUST_USE;
BlockNode *node_ref(BlockNode *node);
void node_unref(
    BlockNode *node); /* accepts NULL; closes in a coroutine of its own when not in one */
void node_unref_co(BlockNode *node);
/* The name that would open the same again: plain, or "json:{...}". Caller frees. */
char *node_filename(BlockNode *node);
char *node_plain_filename(BlockNode *node); /* NULL: there is none */
Value *node_open_options(BlockNode *node);
bool node_has_deciding_options(const BlockNode *node);
/* Whether another backing node, or none, was given than the image names. */
bool node_backing_is_overridden(const BlockNode *node);
/* The backing node is what backing_filename says. */
void node_note_backing_name(BlockNode *node);
/* "file" and the like; borrowed, NULL: none */
BlockNode *node_child(const BlockNode *node, const char *name);
/* Where the data of the format lies: follows "file" to the protocol. */
BlockNode *node_storage(BlockNode *node);
/* The name a relative backing name is relative to, and the result. Caller frees. */
char *block_resolve_backing(const char *image, const char *backing);
uint64_t node_allocated_size(BlockNode *node); /* bytes on the host; UINT64_MAX: unknown */

/* --- edges --- */
Error *node_attach_child(BlockNode *parent, BlockNode *child, const char *name, ChildRole role,
                         BlockEdge **ret_edge) MUST_USE; /* takes the reference on success */
void node_detach_child_co(BlockEdge *edge);              /* gives up the reference */
/*
 * For open_co of drivers with further files: the child that opts name (NAME=NODE or NAME.x=...), or
 * else the file `filename` (NULL: none) as the image names it: a path, relative to the current
 * directory as in other programs; never a protocol or options. *ret_edge NULL: there is none.
 */
Error *node_open_child_co(BlockNode *node, KeyValues *opts, const char *name, const char *filename,
                          BlockEdge **ret_edge) MUST_USE;
/* The same for filters: any node, in any role; `format`: without a driver it is probed. The caller's
 * error when it is not given. */
Error *node_open_role_co(BlockNode *node, KeyValues *opts, const char *name, ChildRole role,
                         bool format, BlockEdge **ret_edge) MUST_USE;
/* A root edge: a backend, a job. Does not take the caller's reference. */
Error *block_root_attach(BlockNode *node, const char *what, unsigned used, unsigned shared,
                         BlockEdge **ret_edge) MUST_USE;
Error *block_root_set_claims(BlockEdge *edge, unsigned used, unsigned shared) MUST_USE;
void block_root_rename(BlockEdge *edge, const char *what); /* what messages call the user */
void block_root_detach(BlockEdge *edge); /* accepts NULL */

/*
 * Everybody who uses `from` uses `to` instead, except nodes of the chain that begins at `to` (and
 * what is listed as `except`, may be NULL). Nothing is under way on `from`: the caller has drained
 * it and not yielded since. The references move along.
 */
Error *node_replace(BlockNode *from, BlockNode *to, const BlockEdge *except) MUST_USE;
/* Puts another node, or NULL, under node as its backing node; takes no reference of the caller. */
Error *node_set_backing_co(BlockNode *node, BlockNode *backing) MUST_USE;
/* Shows what its one child shows (raw, which is a format, does not count). */
static inline bool node_is_filter(const BlockNode *node)
{
    return node->driver->filter && !node->driver->probe && node->file;
}
/* The first node below that is not a filter. */
BlockNode *node_skip_filters(BlockNode *node);
/* The next node of the chain: what a filter filters, or the backing node; NULL: none. */
static inline BlockNode *node_below(const BlockNode *node)
{
    const BlockEdge *edge = node_is_filter(node) ? node->file : node->backing;
    return edge ? edge->node : NULL;
}
/* The backing node, of what node filters; NULL: none. */
static inline BlockNode *node_backing(BlockNode *node)
{
    const BlockNode *format = node_skip_filters(node);
    return format->backing ? format->backing->node : NULL;
}
/* Reopens the node, and its storage, for writing or only for reading. */
Error *node_set_read_only_co(BlockNode *node, bool read_only) MUST_USE;
/* blockdev-reopen: other options for nodes that are in use, each with its "node-name"; used up. All or none. */
Error *node_reopen_co(BlockGraph *graph, KeyValues *const *opts, size_t count) MUST_USE;
/* The same for one node and those below it ("file.x"): what is not given stays as it is. */
Error *node_reopen_keeping_co(BlockNode *node, const KeyValues *changes) MUST_USE;
/* Opens the storage of a protocol node anew, after a flag has changed. */
Error *node_reopen_same_co(BlockNode *node) MUST_USE;
/* Whether `below` is node, or is reached from it. */
bool node_reaches(const BlockNode *node, const BlockNode *below);
/* Keeps requests of everybody but the calling coroutine from beginning on the node, and waits until
 * nothing is under way. One at a time; node_open_gate() ends it. */
void node_close_gate_co(BlockNode *node);
void node_open_gate(BlockNode *node);

/* --- requests: 0 or -errno --- */
int node_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                   size_t at);
int node_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                    size_t at, unsigned flags);
int node_pread_co(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer);
int node_pwrite_co(BlockNode *node, uint64_t offset, uint64_t bytes, const void *buffer,
                   unsigned flags);
int node_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int node_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes);
int node_flush_co(BlockNode *node);
/* The host copies from `from`, which nobody writes to; -ENOTSUP: it cannot between these two, nothing was done. */
int node_copy_range_co(BlockNode *node, uint64_t offset, BlockNode *from, uint64_t from_offset, uint64_t bytes);
/* Copies what the backing node shows in the range into the node itself; guests see no change. */
int node_populate_co(BlockNode *node, uint64_t offset, uint64_t bytes);
/* Of this node alone. */
int node_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status);
/*
 * Of the chain from node down to, not including, base (NULL: all of it). *ret_depth: at which layer
 * it was decided (0: node itself); flags has no STATUS_ALLOCATED when no layer above base decides.
 */
int node_status_above_co(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes,
                         BlockStatus *ret_status, unsigned *ret_depth);
Error *node_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc) MUST_USE;
/* Waits until no request is under way. */
void node_drain_co(BlockNode *node);

/* Says to a debugging filter right below, or to node itself if it is one, what is about to happen. */
static inline void node_debug_event_co(BlockNode *node, BlockEvent event)
{
    if (node->driver->debug_event_co) {
        node->driver->debug_event_co(node, event);
    }
}

/*
 * What the node itself has goes into its backing node, which is opened for writing meanwhile; then the node is emptied, where its
 * format can do that. Requests of others wait.
 */
Error *block_commit_down_co(BlockNode *node) MUST_USE;

/* --- break points --- */
/* Of the first node that has them, from node down through "file"; -ENOTSUP when there is none. */
int node_debug_break(BlockNode *node, const char *event, const char *tag);
int node_debug_remove_break(BlockNode *node, const char *tag);
int node_debug_resume(BlockNode *node, const char *tag);
bool node_debug_is_suspended(BlockNode *node, const char *tag);

/* --- creating --- */
/* What would hold an image of that name: "file", "nbd", ... */
Error *block_storage_driver(const char *filename, const BlockDriver **ret_driver) MUST_USE;
/* filename as for opening; opts: the format's and the protocol's create options, `size` among them.
 */
Error *block_create_co(BlockGraph *graph, const char *filename, const BlockDriver *driver,
                       const KeyValues *opts) MUST_USE;
/* What is announced of it before, without the end of the line. Caller frees. */
char *block_create_text(const BlockDriver *driver, const char *filename, KeyValues *opts);

/* --- helpers for drivers --- */
/* open(2), and /dev/fdset/N. A descriptor or -errno. */
int block_open_path(BlockGraph *graph, const char *path, int flags);
Error *block_take_bool(KeyValues *opts, const char *key, bool fallback, bool *ret_value) MUST_USE;
Error *block_take_size(KeyValues *opts, const char *key, uint64_t fallback,
                       uint64_t *ret_value) MUST_USE;
/*
 * "size" of a new image. Programs round it up to whole sectors; blockdev-create ("x-as-given") makes the very size or fails:
 * block_round_disk_size() once it is known to be one that the format can have.
 */
Error *block_take_disk_size(KeyValues *opts, uint64_t *ret_size, bool *ret_as_given) MUST_USE;
Error *block_round_disk_size(uint64_t *size, bool as_given) MUST_USE;
Error *block_take_num(KeyValues *opts, const char *key, uint64_t fallback,
                      uint64_t *ret_value) MUST_USE;
/* Text to bytes: 1024-based suffixes, fractions allowed (1.5G). */
Error *block_parse_size(const char *text, uint64_t *ret_bytes) MUST_USE;
#endif
