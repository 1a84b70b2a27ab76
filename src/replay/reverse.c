/*
 * Going back in a replayed run: the machine is put to a saved state before the place and replayed up to it. States are
 * kept in memory: the first, and one each REVERSE_STEP instructions, further apart when there get too many.
 *
 * Everything runs to its end in the call; rounds of the main loop are made meanwhile.
 */
#include "replay/reverse.h"

#include "block/backend.h"
#include "core/vm/icount.h"
#include "migration/machine_state.h"
#include "replay/replay_priv.h"

enum { REVERSE_STEP = 100000000, STATES_MAX = 8 };

typedef struct Saved {
    uint64_t count;
    unsigned at; /* next event */
    IcountState icount;
    GByteArray *state;
} Saved;

static void saved_free(void *opaque)
{
    Saved *saved = opaque;
    g_byte_array_unref(saved->state);
    g_free(saved);
}

/* --- states --- */

static MUST_USE Error *write_state(Machine *machine, GByteArray *state)
{
    StreamWriter w;
    RamSaver *ram = ram_saver_new(machine, false);
    stream_writer_init_array(&w, state);
    Error *err = stream_write_header(&w);
    err = err ? err : state_write_machine(machine, &w);
    err = err ? err : state_write_devices(machine, RUN_STATE_PAUSED, &w);
    err = err ? err : ram_saver_send(ram, &w, UINT64_MAX / 2);
    err = err ? err : state_write_end(&w, false);
    stream_writer_fini(&w);
    ram_saver_free(ram);
    return err;
}

static void thin_out(Replay *replay)
{
    if (replay->saved->len < STATES_MAX) {
        return;
    }
    for (guint n = replay->saved->len - 2; n > 0; n -= MIN(n, 2)) {
        g_ptr_array_remove_index(replay->saved, n);
    }
    replay->save_step *= 2;
}

/* The machine stands still. */
static MUST_USE Error *save(Replay *replay)
{
    Machine *machine = replay->inlet.machine;
    Saved *saved = g_new0(Saved, 1);
    saved->state = g_byte_array_new();
    saved->count = icount_count(machine->icount);
    saved->at = replay->at;
    icount_save(machine->icount, &saved->icount);
    Error *err = write_state(machine, saved->state);
    if (err) {
        saved_free(saved);
        return err;
    }
    g_ptr_array_add(replay->saved, saved);
    thin_out(replay);
    return NULL;
}

static MUST_USE Error *restore(Replay *replay, const Saved *saved)
{
    Machine *machine = replay->inlet.machine;
    StreamReader r;
    StreamBytes bytes = { .data = saved->state->data, .length = saved->state->len };
    RunState state;
    machine_reset(machine, SHUTDOWN_NONE);
    StateLoader *loader = state_loader_new(machine);
    stream_reader_init_bytes(&r, &bytes);
    Error *err = state_loader_read(loader, &r);
    err = err ? err : state_loader_finish(loader, &state);
    stream_reader_fini(&r);
    state_loader_free(loader);
    if (!err) {
        icount_restore(machine->icount, &saved->icount);
        replay->at = saved->at;
        replay->ended = false;
    }
    return err;
}

/* The last one before the count; the first one exists. */
static Saved *state_before(Replay *replay, uint64_t count, guint *ret_index)
{
    guint index = 0;
    for (guint n = 0; n < replay->saved->len; n++) {
        const Saved *saved = g_ptr_array_index(replay->saved, n);
        if (saved->count < count) {
            index = n;
        }
    }
    *ret_index = index;
    return g_ptr_array_index(replay->saved, index);
}

/* --- running --- */

/* Until the count, or a point of the debugger, or something else stops the machine. */
static void run_to(Replay *replay, uint64_t count)
{
    Machine *machine = replay->inlet.machine;
    if (icount_count(machine->icount) >= count) {
        return;
    }
    replay->stop_at = count;
    machine_start(machine);
    while (machine_running(machine)) {
        lock_release(&machine->lock);
        loop_run_once(machine->loop, -1);
        lock_acquire(&machine->lock);
    }
    replay->stop_at = UINT64_MAX;
}

static void set_points(Replay *replay, DebugPoints *points)
{
    debug_points_changed(replay->inlet.machine, points && points->points->len ? points : NULL);
}

/* With no points, keeping states on the way. */
static MUST_USE Error *run_quietly(Replay *replay, uint64_t count)
{
    Machine *machine = replay->inlet.machine;
    for (;;) {
        const Saved *last = g_ptr_array_index(replay->saved, replay->saved->len - 1);
        uint64_t now = icount_count(machine->icount), next = last->count + replay->save_step;
        if (now >= next) {
            TRY(save(replay));
            continue;
        }
        run_to(replay, MIN(count, next));
        now = icount_count(machine->icount);
        if (now < MIN(count, next)) {
            return error_new("the replay stops at instruction %" G_GUINT64_FORMAT, now);
        }
        if (now >= count) {
            return NULL;
        }
    }
}

/* What was written to a disk is not taken back, and a request under way is not part of a state. */
static bool has_disks(Machine *machine)
{
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    for (BlockBackend *blk = NULL; graph && (blk = blk_next(graph, blk));) {
        if (blk_is_inserted(blk) && blk_device(blk)) {
            return true;
        }
    }
    return false;
}

bool reverse_possible(Machine *machine)
{
    const Replay *replay = replay_of(machine);
    return replay && replay->mode == REPLAY_PLAY && !has_disks(machine);
}

Error *reverse_begin(Machine *machine)
{
    Replay *replay = replay_of(machine);
    if (replay->saved) {
        return NULL;
    }
    replay->saved = g_ptr_array_new_with_free_func(saved_free);
    replay->save_step = REVERSE_STEP;
    return save(replay);
}

static MUST_USE Error *go_to(Replay *replay, uint64_t count)
{
    guint index;
    const Saved *from = state_before(replay, count + 1, &index);
    TRY(restore(replay, from));
    return count > from->count ? run_quietly(replay, count) : NULL;
}

Error *reverse_step_forward(Machine *machine, DebugPoints *points)
{
    Replay *replay = replay_of(machine);
    set_points(replay, NULL);
    run_to(replay, icount_count(machine->icount) + 1);
    set_points(replay, points);
    return NULL;
}

Error *reverse_step(Machine *machine, DebugPoints *points, bool *ret_begin)
{
    Replay *replay = replay_of(machine);
    uint64_t now = icount_count(machine->icount);
    const Saved *first = g_ptr_array_index(replay->saved, 0);
    *ret_begin = now <= first->count;
    if (*ret_begin) {
        return NULL;
    }
    set_points(replay, NULL);
    Error *err = go_to(replay, now - 1);
    set_points(replay, points);
    return err;
}

typedef struct Hit {
    bool found;
    uint64_t count; /* where to stop for it: before the instruction */
    Vcpu *vcpu;
    DebugPoint point;
} Hit;

/* The last hit from here to before `end`. */
static void last_hit(Replay *replay, DebugPoints *points, uint64_t end, Hit *hit)
{
    Machine *machine = replay->inlet.machine;
    set_points(replay, points);
    for (;;) {
        points->vcpu = NULL;
        run_to(replay, end);
        uint64_t now = icount_count(machine->icount);
        bool data = points->vcpu && points->hit.kind != DEBUG_EXEC;
        if (!points->vcpu || (!data && now >= end)) {
            return;
        }
        *hit = (Hit) { true, data ? now - 1 : now, points->vcpu, points->hit };
        if (now >= end) {
            return;
        }
        if (!data) { /* over the instruction */
            set_points(replay, NULL);
            run_to(replay, now + 1);
            set_points(replay, points);
        }
    }
}

Error *reverse_continue(Machine *machine, DebugPoints *points, bool *ret_begin)
{
    Replay *replay = replay_of(machine);
    uint64_t end = icount_count(machine->icount);
    guint index;
    Hit hit = { 0 };

    set_points(replay, NULL);
    TRY(go_to(replay, end)); /* keeps states on the way */
    state_before(replay, end, &index);
    for (;; index--) {
        const Saved *from = g_ptr_array_index(replay->saved, index);
        set_points(replay, NULL);
        TRY(restore(replay, from));
        if (from->count < end) {
            last_hit(replay, points, end, &hit);
        }
        if (hit.found || index == 0) {
            break;
        }
        end = from->count;
    }
    set_points(replay, NULL);
    const Saved *first = g_ptr_array_index(replay->saved, 0);
    Error *err = go_to(replay, hit.found ? hit.count : first->count);
    set_points(replay, points);
    points->vcpu = hit.found ? hit.vcpu : NULL;
    points->hit = hit.point;
    *ret_begin = !hit.found;
    return err;
}
