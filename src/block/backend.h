/*
 * A block backend: what a disk device of the guest talks to. It stands between the device and a
 * node of the graph, and stays when the medium is changed.
 *
 * Requests: blk_aio_*() may be called by any thread that holds the machine lock. `done` runs later
 * on the backend's loop (the main loop, unless an iothread's was chosen) with the machine lock held,
 * never inside the call. The elements of iov are
 * copied; the memory they point to is borrowed until done. Errors first meet the backend's
 * werror/rerror policy: what the policy says to ignore completes with 0, and what it says to stop
 * for stays inside the backend, the machine is stopped, and the request is made again when it runs
 * on. So a device reports what it gets to the guest.
 *
 * blk_cancel() asks; done still runs, with -ECANCELED or the result. blk_drain() returns when
 * nothing is under way; on the main loop it runs rounds of the loop, on a vCPU thread it gives up
 * the lock meanwhile, so a device prefers to remember that it no longer wants a completion.
 */
#ifndef OSTRICH_BLOCK_BACKEND_H
#define OSTRICH_BLOCK_BACKEND_H

#include <errno.h>

#include "block/latency.h"
#include "block/node.h"
#include "object/object.h"

typedef struct BlockBackend BlockBackend;
typedef struct BlkRequest BlkRequest;
typedef struct Machine Machine;
typedef void BlkDone(void *opaque, int ret); /* 0 or -errno */

#define BLOCK_SERVICE "block" /* machine_service(): the BlockGraph */

/* --- life --- */
/* name: the drive's id or NULL. No medium at first. The caller owns the reference. */
BlockBackend *blk_new(BlockGraph *graph, const char *name);
BlockBackend *blk_ref(BlockBackend *blk);
void blk_unref(BlockBackend *blk);             /* accepts NULL */
const char *blk_name(const BlockBackend *blk); /* "" when it has none */
void blk_forget_name(BlockBackend *blk); /* it is found by it no more */
BlockBackend *blk_find(BlockGraph *graph, const char *name);
BlockBackend *blk_next(BlockGraph *graph, BlockBackend *after);

/* --- medium --- */
/* Takes the place of the old medium, if any; NULL: none. Does not take the caller's reference. */
Error *blk_insert(BlockBackend *blk, BlockNode *node) MUST_USE;
BlockNode *blk_node(const BlockBackend *blk); /* borrowed; NULL: no medium */
bool blk_is_inserted(const BlockBackend *blk);
bool blk_is_readonly(const BlockBackend *blk);
/* Bytes, or -ENOMEDIUM. */
int64_t blk_length(const BlockBackend *blk);
uint32_t blk_request_align(const BlockBackend *blk); /* 1 .. : what costs no read-modify-write */
bool blk_write_cache(const BlockBackend *blk);
/* The device's saved state has the whole content, and the device writes it back: a snapshot of the machine needs none of the image. */
void blk_set_in_saved_state(BlockBackend *blk, bool on);
bool blk_is_in_saved_state(const BlockBackend *blk);
/* Off: each write is on stable storage when it completes. */
void blk_set_write_cache(BlockBackend *blk, bool on);

/* --- threads --- */
/*
 * Requests run in this loop, which has the graph's lock; NULL: in the node's (block_node_set_loop()), else in the graph's.
 * Fails when the images below are in use by another iothread. Nothing is under way.
 */
Error *blk_set_loop(BlockBackend *blk, Loop *loop) MUST_USE;
Loop *blk_loop(const BlockBackend *blk);

/* --- the device --- */
typedef struct BlkDeviceOps {
    void (*changed)(void *opaque,
                    bool loaded); /* medium came or went; may be NULL: not removable */
    void (*eject_request)(void *opaque,
                          bool force); /* somebody wants the medium out; may be NULL */
    bool (*tray_open)(void *opaque);   /* may be NULL: no tray */
    bool (*locked)(void *opaque);      /* by the guest; may be NULL */
    void (*resized)(void *opaque);     /* may be NULL */
} BlkDeviceOps;
/* ops and opaque are borrowed until blk_detach_device(). label: for messages (the device's id or
 * path). */
Error *blk_attach_device(BlockBackend *blk, const char *label, const BlkDeviceOps *ops,
                         void *opaque, bool writes, bool share_rw) MUST_USE;
/* Waits for its requests, so call it from the main loop. */
void blk_detach_device(BlockBackend *blk);
const char *blk_device(const BlockBackend *blk); /* label; NULL: no device */
/* By the device's path, the end of it (the id), or those of the part that has the drive. */
BlockBackend *blk_find_device(BlockGraph *graph, const char *text);
/* As clients know it: the id of a device that has one, else the label. NULL: no device. */
const char *blk_device_id(const BlockBackend *blk);
bool blk_has_tray(const BlockBackend *blk);
bool blk_is_removable(const BlockBackend *blk);
bool blk_tray_is_open(const BlockBackend *blk);
bool blk_is_locked(const BlockBackend *blk);
/* The guest opened or closed the tray. */
void blk_tray_moved(BlockBackend *blk, bool open);
/* The monitor's hand. Asks the guest when it holds the tray and force is not given; nothing to do where there is none. */
Error *blk_open_tray(BlockBackend *blk, bool force) MUST_USE;
void blk_close_tray(BlockBackend *blk);
/* The medium, while the tray is open or where there is none. node is not taken. */
Error *blk_take_out(BlockBackend *blk) MUST_USE;
Error *blk_put_in(BlockBackend *blk, BlockNode *node) MUST_USE;
/* The monitor's eject: opens the tray, takes the medium out; asks the guest when it holds the medium and force is not given. */
Error *blk_eject(BlockBackend *blk, bool force) MUST_USE;
/* The monitor's change: opens the tray, puts node (not taken) in, closes it. */
Error *blk_change(BlockBackend *blk, BlockNode *node, bool force) MUST_USE;
/* After node_truncate_co() of its node by the monitor. */
void blk_notify_resized(BlockBackend *blk);

/* --- requests --- */
BlkRequest *blk_aio_preadv(BlockBackend *blk, uint64_t offset, const struct iovec *iov,
                           unsigned count, BlkDone *done, void *opaque);
/* flags: REQ_FUA */
BlkRequest *blk_aio_pwritev(BlockBackend *blk, uint64_t offset, const struct iovec *iov,
                            unsigned count, unsigned flags, BlkDone *done, void *opaque);
BlkRequest *blk_aio_flush(BlockBackend *blk, BlkDone *done, void *opaque);
BlkRequest *blk_aio_discard(BlockBackend *blk, uint64_t offset, uint64_t bytes, BlkDone *done,
                            void *opaque);
/* flags: REQ_FUA, REQ_MAY_UNMAP */
BlkRequest *blk_aio_write_zeroes(BlockBackend *blk, uint64_t offset, uint64_t bytes, unsigned flags,
                                 BlkDone *done, void *opaque);
void blk_cancel(BlkRequest *request);
void blk_drain(BlockBackend *blk);
/* Requests that failed and wait for the machine to run again; blk_drain() does not wait for them. */
bool blk_has_held(const BlockBackend *blk);
/*
 * For saving the machine: they complete with BLK_RETURNED, inside the call. The device keeps what it needs to make them again
 * when the machine runs, here or where it is loaded. (With record and replay they stay.)
 */
enum { BLK_RETURNED = -ERESTART };
void blk_return_held(BlockBackend *blk);
/* They complete with -ECANCELED, soon: blk_drain() waits for that. */
void blk_abandon_held(BlockBackend *blk);
bool blk_busy(const BlockBackend *blk); /* requests are under way */

/* For tools, start-up and the monitor: see co_run(). Errors are returned whatever the policy. */
int blk_pread(BlockBackend *blk, uint64_t offset, uint64_t bytes, void *buffer);
int blk_pwrite(BlockBackend *blk, uint64_t offset, uint64_t bytes, const void *buffer);
int blk_flush(BlockBackend *blk);

/* --- errors --- */
typedef enum BlkOnError {
    BLK_ON_ERROR_REPORT,
    BLK_ON_ERROR_IGNORE,
    BLK_ON_ERROR_ENOSPC,
    BLK_ON_ERROR_STOP
} BlkOnError;
Error *blk_parse_on_error(const char *text, bool is_read, BlkOnError *ret) MUST_USE;
const char *blk_on_error_name(BlkOnError policy);
void blk_set_on_error(BlockBackend *blk, BlkOnError read, BlkOnError write);
BlkOnError blk_on_error(const BlockBackend *blk, bool is_read);
/* ok, failed, nospace: the last error that stopped the machine. */
const char *blk_io_status(const BlockBackend *blk);
/*
 * The machine's side: stop() is called (machine lock) when a policy says so; emit() gets QMP events
 * (BLOCK_IO_ERROR, DEVICE_TRAY_MOVED, BLOCK_IMAGE_CORRUPTED) and takes data. Either may be NULL.
 */
void block_graph_set_hooks(BlockGraph *graph, void (*stop)(void *opaque),
                           void (*emit)(void *opaque, const char *event, Value *data),
                           void *opaque);
/*
 * Opens names that are no paths (/dev/fdset/N): a descriptor or -errno, -ENOENT: there is no such set. NULL: none can be opened.
 */
void block_graph_set_open_special(BlockGraph *graph, int (*fn)(void *opaque, const char *path, int flags), void *opaque);
/* The machine runs again: makes the held requests once more. */
void block_graph_resume(BlockGraph *graph);
/* Writes back and flushes every node: before exit, migration, on stop. */
Error *block_graph_flush(BlockGraph *graph) MUST_USE;
/*
 * Gives the images up to another process (flushed, no locks, nothing is written any more), or takes them, with what that
 * process has written. Main loop, the machine stands still. graph may be NULL. When taking fails the machine must not run;
 * it may be tried again.
 */
Error *block_graph_set_active(BlockGraph *graph, bool active) MUST_USE;
/* From now on every write fails, also one that has begun above: what the guest would write is not its own any more. Any thread. */
void block_graph_freeze(BlockGraph *graph);
/* The images belong to another process until they are taken. Before any is opened. */
void block_graph_begin_inactive(BlockGraph *graph);
/* One node with what is below it, or all (NULL), whatever the machine does. */
Error *block_nodes_set_active_co(BlockGraph *graph, BlockNode *node, bool active) MUST_USE;
/* Takes one image, and what it is made of, before the others; nothing to do in an active graph. */
Error *block_node_activate(BlockNode *node) MUST_USE;

/*
 * A machine whose input is recorded or replayed: requests complete where the recording says, on a vCPU's thread. machine
 * is borrowed; before there are requests.
 */
void block_graph_set_inlet(BlockGraph *graph, Machine *machine);

/* --- limits --- */
struct ThrottleConfig;
struct ThrottleGroup;
/* Joins the group and sets its limits; config without limits: leaves it. */
void blk_set_throttle(BlockBackend *blk, const char *group, const struct ThrottleConfig *config);
struct ThrottleGroup *blk_throttle(const BlockBackend *blk); /* borrowed; NULL: none */

/* --- statistics --- */
typedef struct BlkStats {
    uint64_t read_bytes, write_bytes, unmap_bytes;
    uint64_t read_ops, write_ops, flush_ops, unmap_ops;
    uint64_t failed_reads, failed_writes, failed_flushes, failed_unmaps;
    uint64_t invalid_reads, invalid_writes, invalid_flushes,
        invalid_unmaps; /* counted by devices */
    int64_t read_ns, write_ns, flush_ns, unmap_ns;
    int64_t last_access_ns; /* CLOCK_REALTIME_NS; 0: never */
    uint64_t write_end;     /* highest byte written + 1 */
    LatencyHistogram latency[LATENCY_KINDS];
} BlkStats;
BlkStats *blk_stats(BlockBackend *blk);

/* --- the property of devices: drive=ID or node name --- */
typedef struct DriveRef {
    char *name;        /* owned; NULL: unset */
    BlockBackend *blk; /* after drive_ref_attach(); counted */
} DriveRef;
extern const PropKind prop_drive; /* DriveRef */
#define PROP_DRIVE(n, t, m, ...) PROP_(n, prop_drive, t, m, ##__VA_ARGS__)
/*
 * Finds or makes the backend and attaches the device. With an unset name and `optional`, an empty
 * backend is made (a CD-ROM drive). A read-only medium under a device that writes is an error
 * unless read_only_ok. writes: the device may write at all.
 */
Error *drive_ref_attach(DriveRef *ref, BlockGraph *graph, const char *label,
                        const BlkDeviceOps *ops, void *opaque, bool optional, bool writes,
                        bool read_only_ok, bool share_rw) MUST_USE;
void drive_ref_detach(DriveRef *ref);

#endif
