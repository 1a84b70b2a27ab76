/* Snapshots inside disk images: what the monitor's commands and -loadvm do; see snapshot.h. */
#include "migration/snapshot.h"

#include <string.h>

#include "block/info.h"
#include "block/node.h"
#include "event/coroutine.h"
#include "migration/lazy_load.h"
#include "migration/snapshot_priv.h"

Error *snapshot_check_free(Machine *machine)
{
    const Migration *migration = migration_of(machine);
    if ((migration && migration_busy(migration)) || machine->state == RUN_STATE_INMIGRATE) {
        return error_new("A migration is under way: wait for its end, or cancel it");
    }
    lazy_load_finish(machine); /* of the snapshot that was loaded last */
    return NULL;
}

/* --- from a coroutine to the main loop and back --- */

typedef struct Outside {
    void (*fn)(void *opaque);
    void *opaque;
    Coroutine *co;
} Outside;

static void run_outside(void *opaque)
{
    Outside *outside = opaque;
    outside->fn(outside->opaque);
    co_wake(outside->co);
}

void snapshot_outside_co(Machine *machine, void (*fn)(void *opaque), void *opaque)
{
    Outside outside = { fn, opaque, co_self() };
    loop_defer(machine->loop, run_outside, &outside);
    co_yield ();
}

/* --- saving --- */

typedef struct Saving {
    Machine *machine;
    const char *tag;
    SnapshotSet set;
    bool done;
    Error *err;
} Saving;

static MUST_USE Error *save_co(Saving *saving)
{
    bool found;

    TRY(snapshot_check_free(saving->machine));
    TRY(snapshot_delete_set(&saving->set, saving->tag, &found));
    return snapshot_save_co(saving->machine, &saving->set, saving->tag, NULL);
}

static void saving_co(void *opaque)
{
    Saving *saving = opaque;
    saving->err = save_co(saving);
    saving->done = true;
}

/* The loop goes on, and the guest with it, though this waits. */
Error *snapshot_save(Machine *machine, const char *tag)
{
    g_autoptr(GDateTime) date = g_date_time_new_now_local();
    g_autofree char *name = tag ? g_strdup(tag) : g_date_time_format(date, "vm-%Y%m%d%H%M%S");
    Saving saving = { .machine = machine, .tag = name };

    TRY(snapshot_set_all(machine, &saving.set));
    co_start(machine->loop, saving_co, &saving);
    while (!saving.done) {
        lock_release(&machine->lock);
        loop_run_once(machine->loop, -1);
        lock_acquire(&machine->lock);
    }
    snapshot_set_clear(&saving.set);
    return saving.err;
}

/* --- loading --- */

static MUST_USE Error *read_state(Machine *machine, BlockNode *node, uint64_t size, RunState *ret_state)
{
    Error *lazy_err;
    if (lazy_load_state(machine, node, size, ret_state, &lazy_err)) {
        return lazy_err;
    }
    ImageStream s;
    StateLoader *loader = state_loader_new(machine);
    StreamReader r;

    image_stream_init(&s, node, size);
    stream_reader_init(&r, image_stream_read, &s);
    Error *err = state_loader_read(loader, &r);
    err = err ? err : state_loader_finish(loader, ret_state);
    stream_reader_fini(&r);
    state_loader_free(loader);
    image_stream_fini(&s);
    return err;
}

/* All images must have it before any of them is touched. */
static MUST_USE Error *check_everywhere(const SnapshotSet *set, const char *tag, uint64_t *ret_size)
{
    for (guint n = 0; n < set->nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(set->nodes, n);
        BlockSnapshot *found = snapshot_find(node, tag);
        if (!found) {
            return error_new("Snapshot '%s' does not exist in one or more devices", tag);
        }
        if (node == set->state_node) {
            *ret_size = found->vm_state_size;
        }
        block_snapshot_free(found);
    }
    return *ret_size ? NULL : error_hint(error_new("This is a disk-only snapshot."), "Revert to it offline using qemu-img.");
}

static MUST_USE Error *apply_everywhere(const SnapshotSet *set, const char *tag)
{
    for (guint n = 0; n < set->nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(set->nodes, n);
        BlockSnapshot *found = snapshot_find(node, tag);
        SnapshotCall call = { .node = node, .id = found ? found->id : tag };
        Error *err = snapshot_call(&call, SNAPSHOT_APPLY);
        block_snapshot_free(found);
        if (err) {
            return error_prefix(err, "Could not go back to snapshot '%s' on '%s': ",
                                     tag, node->name);
        }
    }
    return NULL;
}

static MUST_USE Error *load_stopped(Machine *machine, const SnapshotSet *set, const char *tag, uint64_t size, RunState *ret_state)
{
    TRY(apply_everywhere(set, tag));
    machine_reset(machine, SHUTDOWN_NONE);
    return read_state(machine, set->state_node, size, ret_state);
}

void snapshot_go_on(Machine *machine, RunState loaded)
{
    machine->stopped_suspended = loaded == RUN_STATE_SUSPENDED;
    if (machine->starting) { /* -loadvm: started as any other */
        machine->start_paused &= !machine->goes_on;
        machine_release_still(machine, RUN_STATE_PRELAUNCH);
    } else {
        machine_release(machine, RUN_STATE_PAUSED);
    }
}

Error *snapshot_load_set(Machine *machine, const SnapshotSet *set, const char *tag)
{
    uint64_t size = 0;
    RunState state;

    TRY(snapshot_check_free(machine));
    TRY(check_everywhere(set, tag, &size));
    machine_hold(machine, RUN_STATE_RESTORE_VM);
    Error *err = load_stopped(machine, set, tag, size, &state);
    if (err) {
        machine_release_still(machine, RUN_STATE_PAUSED);
        return err;
    }
    snapshot_go_on(machine, state);
    return NULL;
}

Error *snapshot_load(Machine *machine, const char *tag)
{
    SnapshotSet set;

    TRY(snapshot_set_all(machine, &set));
    Error *err = snapshot_load_set(machine, &set, tag);
    snapshot_set_clear(&set);
    return err;
}

/* --- the others --- */

Error *snapshot_delete(Machine *machine, const char *tag)
{
    SnapshotSet set;
    bool found = false;

    lazy_load_finish(machine);
    TRY(snapshot_set_all(machine, &set));
    Error *err = snapshot_delete_set(&set, tag, &found);
    snapshot_set_clear(&set);
    return err ? err : found ? NULL : error_new("Snapshot '%s' not found", tag);
}

/* Those of the first image, under no id: each image has its own. */
Error *snapshot_describe(Machine *machine, char **ret_text)
{
    SnapshotSet set;
    Error *err = snapshot_set_all(machine, &set);

    if (err) {
        error_free(err);
        return error_new(SNAPSHOT_NOWHERE);
    }
    g_autoptr(GPtrArray) all = set.state_node->driver->snapshots(set.state_node);
    snapshot_set_clear(&set);
    for (guint n = 0; n < all->len; n++) {
        BlockSnapshot *one = g_ptr_array_index(all, n);
        g_free(one->id);
        one->id = g_strdup("--");
    }
    g_autofree char *table = block_snapshots_text(all);
    *ret_text = all->len ? g_strconcat("List of snapshots present on all disks:\n", table, NULL)
                         : g_strdup("No image has a snapshot.\n");
    return NULL;
}
