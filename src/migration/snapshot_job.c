/* The jobs snapshot-save, snapshot-load and snapshot-delete. */
#include <string.h>

#include "migration/snapshot_priv.h"
#include "schema/qmp_commands.h"

typedef struct SnapshotJob {
    Job job;
    Machine *machine;
    SnapshotSet set;
    char *tag;
    Error *err;
} SnapshotJob;

static SnapshotJob *snapshot_job_of(Job *job)
{
    return container_of(job, SnapshotJob, job);
}

static void clean_co(Job *job)
{
    SnapshotJob *own = snapshot_job_of(job);
    snapshot_set_clear(&own->set);
    g_clear_pointer(&own->tag, g_free);
}

/* Unlike savevm, the job replaces nothing. */
static MUST_USE Error *check_new(const SnapshotJob *own)
{
    for (guint n = 0; n < own->set.nodes->len; n++) {
        BlockSnapshot *found = snapshot_find(g_ptr_array_index(own->set.nodes, n), own->tag);
        if (found) {
            block_snapshot_free(found);
            return error_new("Snapshot '%s' exists in an image already: choose another tag, or "
                             "delete it", own->tag);
        }
    }
    return NULL;
}

static Error *save_co(Job *job)
{
    SnapshotJob *own = snapshot_job_of(job);
    TRY(check_new(own));
    return snapshot_save_co(own->machine, &own->set, own->tag, job);
}

static void load_outside(void *opaque)
{
    SnapshotJob *own = opaque;
    own->err = snapshot_load_set(own->machine, &own->set, own->tag);
}

static Error *load_co(Job *job)
{
    SnapshotJob *own = snapshot_job_of(job);
    job->total = 1;
    snapshot_outside_co(own->machine, load_outside, own);
    job->done = own->err ? 0 : 1;
    return g_steal_pointer(&own->err);
}

static Error *delete_co(Job *job)
{
    SnapshotJob *own = snapshot_job_of(job);
    bool found;
    job->total = 1;
    TRY(snapshot_delete_set(&own->set, own->tag, &found)); /* where there is none, nothing is left to do */
    job->done = 1;
    return NULL;
}

static const JobDriver save_driver = {
    .type = "snapshot-save", .size = sizeof(SnapshotJob), .no_block = true, .run_co = save_co, .clean_co = clean_co,
};
static const JobDriver load_driver = {
    .type = "snapshot-load", .size = sizeof(SnapshotJob), .no_block = true, .run_co = load_co, .clean_co = clean_co,
};
static const JobDriver delete_driver = {
    .type = "snapshot-delete", .size = sizeof(SnapshotJob), .no_block = true, .run_co = delete_co, .clean_co = clean_co,
};

static MUST_USE Error *start(QmpContext *ctx, const JobDriver *driver, const char *id, const char *tag, const char *vmstate,
                             const Value *devices)
{
    JobOptions options = { .id = id, .manual_dismiss = true };
    SnapshotSet set;
    Job *job;

    if (!*tag) {
        return error_new("'tag' expects the name of a snapshot");
    }
    TRY(snapshot_check_free(ctx->machine));
    TRY(snapshot_set_named(ctx->machine, devices, vmstate, &set));
    Error *err = job_new(machine_service(ctx->machine, BLOCK_SERVICE), driver, &options, &job);
    if (err) {
        snapshot_set_clear(&set);
        return err;
    }
    SnapshotJob *own = snapshot_job_of(job);
    own->machine = ctx->machine;
    own->set = set;
    own->tag = g_strdup(tag);
    job_start(job);
    return NULL;
}

Error *qmp_snapshot_save(QmpContext *ctx, const QmpSnapshotSaveArgs *args, Value **ret)
{
    return start(ctx, &save_driver, args->job_id, args->tag, args->vmstate, args->devices);
}

Error *qmp_snapshot_load(QmpContext *ctx, const QmpSnapshotLoadArgs *args, Value **ret)
{
    return start(ctx, &load_driver, args->job_id, args->tag, args->vmstate, args->devices);
}

Error *qmp_snapshot_delete(QmpContext *ctx, const QmpSnapshotDeleteArgs *args, Value **ret)
{
    return start(ctx, &delete_driver, args->job_id, args->tag, NULL, args->devices);
}
