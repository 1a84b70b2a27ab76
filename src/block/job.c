/* Jobs: states, verbs, events. See job.h. */
#include "block/job.h"

#include <errno.h>
#include <string.h>

#include "block/node_priv.h"

enum { POLL_NS = 5 * 1000 * 1000 };

const char *job_status_name(JobStatus status)
{
    static const char *const names[] = { "undefined", "created", "running",  "paused",
                                         "ready",     "standby", "waiting",  "pending",
                                         "aborting",  "concluded", "null" };
    return names[status];
}

JobGroup *job_group_new(void)
{
    JobGroup *group = g_new0(JobGroup, 1);
    group->refs = 1;
    return group;
}

void job_group_seal(JobGroup *group)
{
    group->sealed = true;
}

void job_group_unref(JobGroup *group)
{
    if (group && --group->refs == 0) {
        g_free(group);
    }
}

static void emit(Job *job, const char *event, Value *data)
{
    BlockGraph *graph = job->graph;
    bool wanted = !job->internal && !(job->driver->no_block && g_str_has_prefix(event, "BLOCK_JOB"));
    if (graph->emit && wanted) {
        graph->emit(graph->hooks_opaque, event, data);
    } else {
        value_free(data);
    }
}

static void set_status(Job *job, JobStatus status)
{
    if (job->status == status) {
        return;
    }
    job->status = status;
    Value *data = value_dict();
    value_put_str(data, "id", job->id);
    value_put_str(data, "status", job_status_name(status));
    emit(job, "JOB_STATUS_CHANGE", data);
}

static Value *event_data(const Job *job)
{
    Value *data = value_dict();
    value_put_str(data, "type", job->driver->type);
    value_put_str(data, "device", job->id);
    value_put(data, "len", value_uint(job->total));
    value_put(data, "offset", value_uint(job->done));
    value_put(data, "speed", value_uint(job->speed));
    return data;
}

Job *job_next(BlockGraph *graph, Job *after)
{
    ListNode *next = after ? after->in_graph.next : graph->jobs.head.next;
    return next == &graph->jobs.head ? NULL : container_of(next, Job, in_graph);
}

Job *job_find(BlockGraph *graph, const char *id)
{
    for (Job *job = NULL; (job = job_next(graph, job));) {
        if (!strcmp(job->id, id)) {
            return job;
        }
    }
    return NULL;
}

Error *job_check_active(const BlockNode *node)
{
    return node->off ? error_new("Node '%s' is inactive: make it active before a job works on it", node->name) : NULL;
}

Error *job_new(BlockGraph *graph, const JobDriver *driver, const JobOptions *o, Job **ret)
{
    const char *id = o->id ? o->id : o->device;
    if (!id || !*id) {
        return error_new("This job gets no id by itself: give 'job-id'");
    }
    if (!g_ascii_isalpha(id[0])) {
        return error_new("Invalid job ID '%s'", id);
    }
    if (job_find(graph, id)) {
        return error_new("Job ID '%s' already in use", id);
    }
    Job *job = g_malloc0(driver->size);
    job->driver = driver;
    job->graph = graph;
    job->id = g_strdup(id);
    job->speed = o->speed;
    job->auto_finalize = !o->manual_finalize;
    job->auto_dismiss = !o->manual_dismiss;
    job->io_status = "ok";
    if (o->group) {
        job->group = o->group;
        job->group->refs++;
        job->group->jobs++;
        job->group->manual |= o->manual_finalize;
    }
    list_append(&graph->jobs, &job->in_graph);
    set_status(job, JOB_CREATED);
    *ret = job;
    return NULL;
}

static void job_free(Job *job)
{
    set_status(job, JOB_NULL);
    list_remove(&job->in_graph);
    job_group_unref(job->group);
    error_free(job->err);
    g_free(job->id);
    g_free(job);
}

void job_drop(Job *job)
{
    if (job) {
        if (job->group) {
            job->group->jobs--;
        }
        job_free(job);
    }
}

/* --- for drivers --- */

static bool shall_end(Job *job)
{
    if (job->group && job->group->failed) {
        job->cancelled = job->force_cancel = true;
    }
    return job->cancelled && (job->force_cancel || !job->ready);
}

/* Waits are short, so that a verb is noticed soon whatever the job waits for. */
void job_wait_co(Job *job, int64_t ns)
{
    bool cancelled = job->cancelled, complete = job->complete_asked;
    unsigned pauses = job->pause_count;
    job->busy = false;
    while (ns > 0 && !shall_end(job) && job->cancelled == cancelled && job->complete_asked == complete &&
           job->pause_count == pauses) {
        int64_t step = MIN(ns, POLL_NS);
        co_sleep_ns(CLOCK_REALTIME_NS, step);
        ns -= step;
    }
    job->busy = true;
}

/* The state is what the job will do, also before it has noticed: clients see it before the command's answer. */
static void leave_pause(Job *job)
{
    if (job->status == JOB_PAUSED || job->status == JOB_STANDBY) {
        set_status(job, job->before_pause);
    }
}

bool job_pause_point_co(Job *job)
{
    if (job->pause_count && !shall_end(job)) {
        job->before_pause = job->status;
        set_status(job, job->ready ? JOB_STANDBY : JOB_PAUSED);
        job->busy = false;
        while (job->pause_count && !shall_end(job)) {
            co_sleep_ns(CLOCK_REALTIME_NS, POLL_NS);
        }
        job->busy = true;
        leave_pause(job);
    }
    return !shall_end(job);
}

bool job_progress_co(Job *job, uint64_t bytes)
{
    job->done += bytes;
    job->total = MAX(job->total, job->done);
    if (job->speed) {
        job_wait_co(job, (int64_t)((double)bytes * 1e9 / (double)job->speed));
    } else {
        co_sleep_ns(CLOCK_REALTIME_NS, 0); /* the guest has its turn */
    }
    return job_pause_point_co(job);
}

void job_set_ready(Job *job)
{
    if (!job->ready) {
        job->ready = true;
        set_status(job, JOB_READY);
        emit(job, "BLOCK_JOB_READY", event_data(job));
    }
}

bool job_error_co(Job *job, BlkOnError policy, bool is_read, int error, bool *ret_ignore)
{
    bool stop = policy == BLK_ON_ERROR_STOP ||
                (policy == BLK_ON_ERROR_ENOSPC && error == -ENOSPC);
    Value *data = value_dict();
    *ret_ignore = policy == BLK_ON_ERROR_IGNORE;
    value_put_str(data, "device", job->id);
    value_put_str(data, "operation", is_read ? "read" : "write");
    value_put_str(data, "action", *ret_ignore ? "ignore" : stop ? "stop" : "report");
    emit(job, "BLOCK_JOB_ERROR", data);
    if (!stop) {
        return false;
    }
    job->io_status = error == -ENOSPC ? "nospace" : "failed";
    job->io_stopped = true;
    if (!job->user_paused) { /* a command ends this pause too */
        job->user_paused = true;
        job->pause_count++;
    }
    return job_pause_point_co(job);
}

/* --- the life of a job --- */

static void end_well(Job *job)
{
    emit(job, "BLOCK_JOB_COMPLETED", event_data(job));
}

static void end_badly(Job *job)
{
    Value *data = event_data(job);
    if (job->err) {
        value_put_str(data, "error", error_message(job->err));
    }
    emit(job, job->err ? "BLOCK_JOB_COMPLETED" : "BLOCK_JOB_CANCELLED", data);
}

/* One that fails takes the others with it. */
static bool group_lost(Job *job)
{
    if (job->group && job->group->failed) {
        job->cancelled = job->force_cancel = true;
    }
    return job->cancelled;
}

static void wait_for_group_co(Job *job)
{
    JobGroup *group = job->group;
    if (!group) {
        return;
    }
    group->waiting++;
    job->busy = false;
    while ((!group->sealed || group->waiting < group->jobs) && !group_lost(job)) {
        co_sleep_ns(CLOCK_REALTIME_NS, POLL_NS);
    }
    job->busy = true;
}

static void wait_for_finalize_co(Job *job)
{
    bool manual = job->group ? job->group->manual : !job->auto_finalize;
    set_status(job, JOB_PENDING);
    if (!manual) {
        return;
    }
    Value *data = value_dict();
    value_put_str(data, "type", job->driver->type);
    value_put_str(data, "id", job->id);
    emit(job, "BLOCK_JOB_PENDING", data);
    job->busy = false;
    while (!job->finalize_asked && !(job->group && job->group->finalize_asked) && !group_lost(job)) {
        co_sleep_ns(CLOCK_REALTIME_NS, POLL_NS);
    }
    job->busy = true;
}

static void job_main_co(void *opaque)
{
    Job *job = opaque;
    const JobDriver *driver = job->driver;

    job->busy = true;
    set_status(job, JOB_RUNNING);
    job->err = job_pause_point_co(job) ? driver->run_co(job) : NULL;
    bool bad = job->err || shall_end(job);
    if (shall_end(job)) { /* the user does not want to know any more why it stood still */
        g_clear_pointer(&job->err, error_free);
    }
    if (!bad) {
        bool was_cancelled = job->cancelled; /* a ready mirror that is told to end without a switch */
        set_status(job, JOB_WAITING);
        wait_for_group_co(job);
        if (!job->cancelled || was_cancelled) {
            wait_for_finalize_co(job);
        }
        bad = job->cancelled && !was_cancelled;
        if (!bad && driver->commit_co) {
            job->err = driver->commit_co(job);
            bad = job->err != NULL;
        }
    }
    if (bad) {
        if (job->group) {
            job->group->failed = true;
        }
        set_status(job, JOB_ABORTING);
        if (driver->abort_co) {
            driver->abort_co(job);
        }
    }
    if (driver->clean_co) {
        driver->clean_co(job);
    }
    bad ? end_badly(job) : end_well(job);
    job->busy = false;
    set_status(job, JOB_CONCLUDED);
    if (job->auto_dismiss) {
        job_free(job);
    }
}

void job_start(Job *job)
{
    co_start(job->graph->loop, job_main_co, job);
}

/* --- verbs --- */

static Error *check_verb(const Job *job, const char *verb, bool allowed)
{
    return allowed ? NULL
                   : error_new("Job '%s' in state '%s' cannot accept command verb '%s'", job->id,
                               job_status_name(job->status), verb);
}

static bool is_active(const Job *job)
{
    return job->status >= JOB_CREATED && job->status <= JOB_STANDBY;
}

Error *job_pause(Job *job)
{
    TRY(check_verb(job, "pause", is_active(job)));
    if (job->user_paused) {
        return error_new("Job is already paused");
    }
    job->user_paused = true;
    job->pause_count++;
    return NULL;
}

Error *job_resume(Job *job)
{
    TRY(check_verb(job, "resume", is_active(job)));
    if (!job->user_paused) {
        return error_new("The job was not paused by a command, so there is nothing to resume");
    }
    job->user_paused = job->io_stopped = false;
    job->io_status = "ok";
    if (!--job->pause_count) {
        leave_pause(job);
    }
    return NULL;
}

Error *job_cancel(Job *job, bool force)
{
    TRY(check_verb(job, "cancel", job->status <= JOB_PENDING));
    job->cancelled = true;
    job->force_cancel |= force;
    if (job->user_paused) {
        job->user_paused = job->io_stopped = false;
        job->pause_count--;
    }
    leave_pause(job);
    return NULL;
}

Error *job_complete(Job *job)
{
    TRY(check_verb(job, "complete", job->status == JOB_READY));
    if (!job->driver->can_complete || !job->driver->can_complete(job) || job->cancelled) {
        return error_new("The job '%s' is not at a point where it can be completed", job->id);
    }
    job->complete_asked = true;
    return NULL;
}

Error *job_finalize(Job *job)
{
    TRY(check_verb(job, "finalize", job->status == JOB_PENDING));
    job->finalize_asked = true;
    if (job->group) {
        job->group->finalize_asked = true;
    }
    return NULL;
}

Error *job_dismiss(Job *job)
{
    TRY(check_verb(job, "dismiss", job->status == JOB_CONCLUDED));
    job_free(job);
    return NULL;
}

Error *job_set_speed(Job *job, uint64_t speed)
{
    TRY(check_verb(job, "set-speed", is_active(job)));
    job->speed = speed;
    return NULL;
}

void jobs_cancel_all_co(BlockGraph *graph)
{
    for (Job *job = NULL; (job = job_next(graph, job));) {
        job->cancelled = job->force_cancel = job->auto_dismiss = true;
        job->pause_count = 0;
    }
    for (Job *job; (job = job_next(graph, NULL));) {
        if (job->status == JOB_CONCLUDED) {
            job_free(job);
        } else {
            co_sleep_ns(CLOCK_REALTIME_NS, POLL_NS);
        }
    }
}
