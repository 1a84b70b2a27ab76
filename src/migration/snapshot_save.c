/*
 * Saving a snapshot while the guest runs: RAM is copied into the image, then what the guest wrote meanwhile, and again,
 * until so little is left that it can be copied within PAUSE_MS. Only for that, the devices and the images' own snapshots
 * the machine stands still; the snapshot is of that moment. A guest that writes faster than the image takes it is slowed
 * down, which keeps the pause short whatever it does.
 */
#include <string.h>
#include <time.h>

#include "event/coroutine.h"
#include "migration/snapshot_priv.h"

enum { PAUSE_MS = 20, PASSES_MAX = 40, THROTTLE_MAX = 99 };
#define SLICE      (1 * MiB)
#define ALWAYS_FIT (256 * KiB)
#define NAP_LOOK_NS (2 * NS_PER_MS)

typedef struct Save {
    Machine *machine;
    const SnapshotSet *set;
    const char *tag;
    Job *job; /* NULL: none */
    ImageStream image;
    StreamWriter writer;
    RamSaver *ram;
    unsigned throttle;
    int64_t naps;
    Timer napping; /* also while the host writes its cache to the disk, which may take seconds */
    double bandwidth; /* bytes a second */
    Error *err;
} Save;

static int64_t now_ns(const Save *save)
{
    return clock_now(save->machine->clocks, CLOCK_REALTIME_NS);
}

/* --- while the guest runs --- */

static MUST_USE Error *copy_pending_co(Save *save)
{
    while (save->ram->left > 0) {
        uint64_t before = save->writer.bytes;
        TRY(ram_saver_send(save->ram, &save->writer, SLICE));
        if (save->job) {
            if (!job_progress_co(save->job, save->writer.bytes - before)) {
                return error_new("cancelled");
            }
        } else {
            co_sleep_ns(CLOCK_REALTIME_NS, 0); /* the guest's devices have their turn */
        }
    }
    return NULL;
}

/* What reached the disk before the pause need not during it. */
static MUST_USE Error *flush_co(Save *save)
{
    TRY(image_stream_flush(&save->image));
    for (guint n = 0; n < save->set->nodes->len; n++) {
        SnapshotCall call = { .node = g_ptr_array_index(save->set->nodes, n) };
        TRY(snapshot_call(&call, SNAPSHOT_FLUSH));
    }
    return NULL;
}

static MUST_USE Error *one_pass_co(Save *save)
{
    int64_t start = now_ns(save);
    uint64_t before = save->writer.bytes;

    TRY(copy_pending_co(save));
    TRY(flush_co(save));
    if (save->writer.bytes - before >= SLICE) {
        save->bandwidth = (double)(save->writer.bytes - before) * NS_PER_SEC / (double)(now_ns(save) - start + 1);
    }
    ram_saver_sync(save->ram);
    return NULL;
}

static void nap(void *opaque)
{
    Save *save = opaque;

    migration_throttle(save->machine, &save->naps, save->throttle);
    timer_set(&save->napping, now_ns(save) + NAP_LOOK_NS);
}

/* Of the CPUs' time that the guest still has, half is taken. */
static void slow_down(Save *save)
{
    save->throttle = MIN(save->throttle + (100 - save->throttle + 1) / 2, THROTTLE_MAX);
    nap(save);
}

static MUST_USE Error *copy_live_co(Save *save)
{
    for (unsigned pass = 0; pass < PASSES_MAX; pass++) {
        uint64_t before = save->ram->left;
        TRY(one_pass_co(save));
        if ((double)(save->ram->left * MEM_PAGE_SIZE) <= MAX(save->bandwidth * PAUSE_MS / 1000, (double)ALWAYS_FIT)) {
            return NULL;
        }
        if (pass > 0 && save->ram->left > before / 2 && machine_running(save->machine)) {
            slow_down(save);
        }
    }
    return NULL;
}

/* --- while it stands still --- */

static MUST_USE Error *write_rest(Save *save, RunState state)
{
    StreamWriter *w = &save->writer;

    TRY(ram_saver_check(save->ram));
    TRY(state_write_devices(save->machine, state, w));
    ram_saver_sync(save->ram); /* the devices may have finished requests that write to RAM */
    TRY(ram_saver_send(save->ram, w, UINT64_MAX / 2));
    TRY(state_write_end(w, false));
    return image_stream_flush(&save->image);
}

static MUST_USE Error *create_all(Save *save)
{
    struct timespec now;
    BlockSnapshot snapshot = { .name = (char *)save->tag, .icount = UINT64_MAX };

    clock_gettime(CLOCK_REALTIME, &now);
    snapshot.date_sec = (uint64_t)now.tv_sec;
    snapshot.date_nsec = (uint32_t)now.tv_nsec;
    snapshot.vm_clock_ns = (uint64_t)clock_now(save->machine->clocks, CLOCK_VIRTUAL);
    for (guint n = 0; n < save->set->nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(save->set->nodes, n);
        snapshot.vm_state_size = node == save->set->state_node ? save->writer.bytes : 0;
        SnapshotCall call = { .node = node, .snapshot = &snapshot };
        Error *err = snapshot_call(&call, SNAPSHOT_CREATE);
        if (err) {
            return error_prefix(err, "Error while creating snapshot on '%s': ", node->name);
        }
    }
    return NULL;
}

static MUST_USE Error *save_stopped(Save *save, RunState state)
{
    TRY(write_rest(save, state));
    TRY(block_graph_flush(machine_service(save->machine, BLOCK_SERVICE)));
    return create_all(save);
}

static void stop_and_save(void *opaque)
{
    Save *save = opaque;
    Machine *machine = save->machine;
    RunState before = machine_hold(machine, RUN_STATE_SAVE_VM);

    save->err = save_stopped(save, before);
    machine_release(machine, before);
}

/* --- all of it --- */

static MUST_USE Error *write_head(Save *save)
{
    TRY(stream_write_header(&save->writer));
    return state_write_machine(save->machine, &save->writer);
}

static MUST_USE Error *save_all_co(Save *save)
{
    TRY(write_head(save));
    TRY(copy_live_co(save));
    snapshot_outside_co(save->machine, stop_and_save, save);
    return g_steal_pointer(&save->err);
}

Error *snapshot_save_co(Machine *machine, const SnapshotSet *set, const char *tag, Job *job)
{
    Migration *migration = migration_of(machine);
    Save save = { .machine = machine, .set = set, .tag = tag, .job = job };

    TRY(snapshot_check_free(machine));
    migration->snapshot = true;
    image_stream_init(&save.image, set->state_node, 0);
    stream_writer_init(&save.writer, image_stream_write, &save.image);
    save.ram = ram_saver_new(machine, true);
    if (job) {
        job->total = save.ram->total * MEM_PAGE_SIZE;
    }
    timer_init(&save.napping, machine->loop, CLOCK_REALTIME_NS, nap, &save);
    Error *err = save_all_co(&save);
    timer_fini(&save.napping);
    ram_saver_free(save.ram);
    stream_writer_fini(&save.writer);
    image_stream_fini(&save.image);
    migration->snapshot = false;
    return err;
}
