/*
 * Jobs: long operations on nodes that can be watched, paused and cancelled. A job is one coroutine
 * of the graph's loop. Its states are QMP's:
 *
 *     created -> running -> [ready] -> waiting -> pending -> concluded -> null
 *                  |  paused/standby     `-> aborting ----------^
 *
 * A driver's run_co() does the work and calls job_pause_point_co() between pieces; commit_co() makes
 * the result valid when the job is finalized, abort_co() takes it back; clean_co() runs in any case.
 */
#ifndef OSTRICH_BLOCK_JOB_H
#define OSTRICH_BLOCK_JOB_H

#include "block/backend.h"

typedef struct Job Job;

typedef enum JobStatus {
    JOB_UNDEFINED,
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
} JobStatus;

typedef struct JobDriver {
    const char *type; /* "mirror" */
    size_t size;      /* of the struct that begins with Job */
    bool no_block;    /* no job of one node: BLOCK_JOB events and query-block-jobs leave it out */
    bool (*can_complete)(const Job *job); /* NULL: job-complete means nothing to it */
    Error *(*run_co)(Job *job);
    Error *(*commit_co)(Job *job); /* may be NULL, like the next ones */
    void (*abort_co)(Job *job);
    void (*clean_co)(Job *job);
} JobDriver;

/* Jobs that end well together, or not at all. Counted. */
typedef struct JobGroup {
    unsigned refs, jobs, waiting; /* jobs: that have not ended; waiting: of those, for the others */
    bool sealed;                  /* no more will come */
    bool failed, finalize_asked, manual;
} JobGroup;
JobGroup *job_group_new(void);
void job_group_seal(JobGroup *group);
void job_group_unref(JobGroup *group); /* accepts NULL */

struct Job {
    const JobDriver *driver;
    BlockGraph *graph;
    char *id;
    JobStatus status, before_pause;
    unsigned pause_count;
    bool user_paused, cancelled, force_cancel, complete_asked, finalize_asked, ready, busy;
    bool auto_finalize, auto_dismiss, internal;
    bool io_stopped;       /* paused by an error */
    const char *io_status; /* "ok", "failed", "nospace" */
    uint64_t done, total;
    uint64_t speed; /* bytes a second, 0: no limit */
    int64_t slice_start, slice_done;
    Error *err;
    JobGroup *group; /* NULL: none */
    Coroutine *co; /* while it waits for somebody */
    bool waiting;
    ListNode in_graph;
};

typedef struct JobOptions {
    const char *id; /* NULL: device */
    const char *device;
    uint64_t speed;
    bool manual_finalize, manual_dismiss;
    JobGroup *group; /* borrowed; NULL: none */
} JobOptions;

/* Owned by the graph until it is dismissed. The caller fills its own members, then starts it. */
Error *job_new(BlockGraph *graph, const JobDriver *driver, const JobOptions *options,
               Job **ret_job) MUST_USE;
void job_start(Job *job);
void job_drop(Job *job); /* instead of starting it */

/* For drivers. False: the job shall end now. */
bool job_pause_point_co(Job *job);
/* Sleeps as the speed demands after `bytes`; counts them as done. */
bool job_progress_co(Job *job, uint64_t bytes);
void job_set_ready(Job *job); /* BLOCK_JOB_READY */
/* Waits for a verb (complete, cancel) or for `ns`. */
void job_wait_co(Job *job, int64_t ns);
/*
 * The error policy: true: try again (perhaps after a pause), false: give up. With "ignore" the
 * caller goes on as if all were well: *ret_ignore.
 */
bool job_error_co(Job *job, BlkOnError policy, bool is_read, int error, bool *ret_ignore);

/* --- verbs --- */
Job *job_find(BlockGraph *graph, const char *id);
/* No job works on an inactive node: its filters would be active, and what it copies may change under it. */
Error *job_check_active(const BlockNode *node) MUST_USE;
Job *job_next(BlockGraph *graph, Job *after);
Error *job_pause(Job *job) MUST_USE;
Error *job_resume(Job *job) MUST_USE;
Error *job_cancel(Job *job, bool force) MUST_USE;
Error *job_complete(Job *job) MUST_USE;
Error *job_finalize(Job *job) MUST_USE;
Error *job_dismiss(Job *job) MUST_USE;
Error *job_set_speed(Job *job, uint64_t speed) MUST_USE;
const char *job_status_name(JobStatus status);
/* Cancels what is left: the end of the program. */
void jobs_cancel_all_co(BlockGraph *graph);

/* --- the jobs --- */
typedef enum JobSync { JOB_SYNC_TOP, JOB_SYNC_FULL, JOB_SYNC_NONE, JOB_SYNC_BITMAP } JobSync;
typedef enum BitmapSync { BITMAP_ON_SUCCESS, BITMAP_NEVER, BITMAP_ALWAYS } BitmapSync;

typedef struct CopySpec {
    JobOptions job;
    BlockNode *source, *target; /* the target's reference is taken */
    JobSync sync;
    uint64_t granularity;
    BlkOnError on_source_error, on_target_error;
    /* mirror */
    BlockNode *replaces; /* NULL: source */
    BlockNode *base;     /* NULL, or the target is this node of the source's own chain: a commit */
    /* backup */
    BlockBitmap *bitmap;
    BitmapSync bitmap_mode;
    bool compress;
    /* both */
    const char *filter_name; /* of the job's node; NULL: none is needed */
    bool write_blocking;     /* mirror: the guest's writes go to the target at once */
    bool keep_allocated;     /* zeroes are written so that they have space */
    uint64_t buf_size;       /* bytes of a copy; 0: any */
} CopySpec;
Error *job_mirror(BlockGraph *graph, const CopySpec *spec) MUST_USE;
Error *job_backup(BlockGraph *graph, const CopySpec *spec) MUST_USE;

typedef struct ChainSpec {
    JobOptions job;
    BlockNode *active, *top, *base; /* of the chain; base of stream may be NULL */
    const char *backing_file;       /* to record; NULL: base's name */
    const char *filter_name;        /* of the job's node; NULL: none */
    BlkOnError on_error;
} ChainSpec;
Error *job_commit(BlockGraph *graph, const ChainSpec *spec) MUST_USE;
Error *job_stream(BlockGraph *graph, const ChainSpec *spec) MUST_USE;
#endif
