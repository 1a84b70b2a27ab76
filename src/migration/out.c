/* The source side of a migration; see migration.h. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/backend.h"
#include "migration/migration_priv.h"

/* Bandwidth is given out in slices of this length. */
#define SLICE_NS (50 * NS_PER_MS)
enum { UNLIMITED_SLICE = 64 * MiB };

struct MigrationOut {
    Migration *migration;
    Machine *machine;
    Channel *channel;
    StreamWriter writer;
    MigrationTls tls;
    RamSaver *saver;
    pthread_t thread;
    bool thread_made;
    _Atomic bool cancelled;
    Error *err;
    Work done; /* scheduled by the thread as its last act */
    MainCall call;
    pthread_mutex_t mutex; /* of go_on */
    pthread_cond_t cond;
    bool go_on;
    /* main loop */
    bool stopped;      /* the machine stands still for us */
    RunState state;    /* before that */
    int64_t stopped_at;
    GByteArray *devices; /* their records */
    /* measuring */
    int64_t measured_at, synced_at;
    uint64_t measured_bytes, synced_bytes;
    double bandwidth;  /* bytes a second */
    int64_t naps;
};

static int64_t now_ns(const MigrationOut *out)
{
    return clock_now(out->machine->clocks, CLOCK_REALTIME_NS);
}

static void set_status(MigrationOut *out, MigrationStatus status)
{
    lock_acquire(&out->machine->lock);
    if (out->migration->status != MIGRATION_CANCELLING) {
        migration_set_status(out->migration, status);
    }
    lock_release(&out->machine->lock);
}

/* --- statistics --- */

static void update_stats(MigrationOut *out)
{
    MigrationStats *stats = &out->migration->stats;
    int64_t now = now_ns(out);

    stats->remaining = out->saver->left * MEM_PAGE_SIZE;
    stats->transferred = out->writer.bytes;
    stats->zero_pages = out->saver->zero_pages;
    stats->data_pages = out->saver->data_pages;
    if (now - out->measured_at >= 100 * NS_PER_MS) {
        double seconds = (double)(now - out->measured_at) / NS_PER_SEC;
        out->bandwidth = (double)(out->writer.bytes - out->measured_bytes) / seconds;
        stats->mbps = out->bandwidth * 8 / 1e6;
        out->measured_at = now;
        out->measured_bytes = out->writer.bytes;
    }
    if (out->bandwidth > 0) {
        stats->expected_downtime_ms = (int64_t)((double)stats->remaining / out->bandwidth * 1000);
    }
}

/* --- auto-converge: the guest gets less of the CPUs' time --- */

/* More than the trigger's share of what was sent was written again: slow down further. */
static void consider_throttle(MigrationOut *out, uint64_t dirtied)
{
    const MigrationParams *params = &out->migration->params;
    MigrationStats *stats = &out->migration->stats;
    uint64_t sent = out->writer.bytes - out->synced_bytes;

    if (!out->migration->caps.auto_converge || stats->passes < 2 ||
        dirtied * MEM_PAGE_SIZE * 100 < sent * (uint64_t)params->throttle_trigger) {
        return;
    }
    unsigned next = stats->throttle ? stats->throttle + (unsigned)params->throttle_increment
                                    : (unsigned)params->throttle_initial;
    stats->throttle = MIN(next, (unsigned)params->max_throttle);
}

/* --- the thread's steps --- */

static MUST_USE Error *check_cancelled(const MigrationOut *out)
{
    return out->cancelled ? error_new("cancelled") : NULL;
}

static MUST_USE Error *set_up(MigrationOut *out)
{
    Machine *machine = out->machine;
    int64_t start = now_ns(out);

    TRY(stream_write_header(&out->writer));
    lock_acquire(&machine->lock);
    out->saver = ram_saver_new(machine, true);
    out->saver->pack_level = out->migration->caps.compress ? (int)out->migration->params.compress_level : 0;
    Error *err = out->cancelled ? NULL : state_write_machine(machine, &out->writer);
    if (!err && out->migration->caps.validate_uuid) {
        err = state_write_uuid(machine, &out->writer);
    }
    lock_release(&machine->lock);
    TRY(err);
    out->migration->stats.total = out->saver->total * MEM_PAGE_SIZE;
    out->migration->stats.setup_ms = (now_ns(out) - start) / NS_PER_MS;
    out->measured_at = out->synced_at = now_ns(out);
    return check_cancelled(out);
}

static void sync_dirty(MigrationOut *out)
{
    Migration *migration = out->migration;
    int64_t now = now_ns(out);

    lock_acquire(&out->machine->lock);
    uint64_t found = ram_saver_sync(out->saver);
    migration->stats.passes++;
    if (migration->caps.events) {
        g_autofree char *json = g_strdup_printf("{\"pass\": %" G_GUINT64_FORMAT "}", migration->stats.passes);
        machine_emit(out->machine, "MIGRATION_PASS", json);
    }
    lock_release(&out->machine->lock);
    double seconds = (double)MAX(now - out->synced_at, NS_PER_MS) / NS_PER_SEC;
    migration->stats.dirty_rate = (uint64_t)((double)found / seconds);
    consider_throttle(out, found);
    out->synced_at = now;
    out->synced_bytes = out->writer.bytes;
}

/* Bytes that may be sent with the machine stopped. */
static uint64_t allowed_rest(const MigrationOut *out)
{
    double seconds = (double)out->migration->params.downtime_limit / 1000;
    return (uint64_t)(out->bandwidth * seconds);
}

static MUST_USE Error *read_refusal(MigrationOut *out, uint8_t message)
{
    uint8_t bytes[4];
    char text[MSG_TEXT_MAX + 1];

    if (message != MSG_FAILED) {
        return error_new("the destination gave no answer that can be understood");
    }
    TRY(channel_read(out->channel, bytes, 4));
    uint32_t length = ld32_le(bytes);
    if (length > MSG_TEXT_MAX) {
        return error_new("the destination gave no answer that can be understood");
    }
    TRY(channel_read(out->channel, text, length));
    text[length] = '\0';
    return error_new("the destination refuses: %s", text);
}

/* The destination's answer, over a socket. */
static MUST_USE Error *agree(MigrationOut *out)
{
    uint8_t message, go = MSG_GO;

    TRY(channel_read(out->channel, &message, 1));
    return message == MSG_READY ? channel_write(out->channel, &go, 1) : read_refusal(out, message);
}

/* What the destination says before the end can only be that it refuses. */
static MUST_USE Error *check_refused(MigrationOut *out)
{
    uint8_t message;

    if (!channel_two_way(out->channel) || !channel_has_input(out->channel)) {
        return NULL;
    }
    TRY(channel_read(out->channel, &message, 1));
    return read_refusal(out, message);
}

/* One slice, then a pause if it was sent before its time was over. */
static MUST_USE Error *send_slice(MigrationOut *out)
{
    int64_t limit = out->migration->params.max_bandwidth, start = now_ns(out);
    uint64_t budget = limit ? MAX((uint64_t)limit * SLICE_NS / NS_PER_SEC, 1u) : UNLIMITED_SLICE;
    uint64_t before = out->writer.bytes;

    migration_throttle(out->machine, &out->naps, out->migration->stats.throttle);
    TRY(ram_saver_send(out->saver, &out->writer, budget));
    if (limit) {
        /* A record may be larger than the budget: the pause is for what was really sent. */
        int64_t due = (int64_t)((double)(out->writer.bytes - before) / (double)limit * NS_PER_SEC);
        while (!out->cancelled && now_ns(out) - start < due && out->migration->params.max_bandwidth == limit) {
            g_usleep((gulong)MIN(due - (now_ns(out) - start), 10 * NS_PER_MS) / 1000 + 1);
        }
    }
    update_stats(out);
    TRY(check_refused(out));
    return check_cancelled(out);
}

/* RAM until the rest may be sent with the machine stopped. */
static MUST_USE Error *send_live(MigrationOut *out)
{
    int64_t start = now_ns(out);

    while (out->saver->left > 0) {
        TRY(send_slice(out));
    }
    /* A short first pass leaves the average only. */
    out->bandwidth = MAX(out->bandwidth, (double)out->writer.bytes / ((double)(now_ns(out) - start + 1) / NS_PER_SEC));
    for (;;) {
        sync_dirty(out);
        update_stats(out);
        if (out->saver->left * MEM_PAGE_SIZE <= allowed_rest(out)) {
            return NULL;
        }
        while (out->saver->left > 0) {
            TRY(send_slice(out));
        }
    }
}

/* --- main loop: stopping, saving, going on --- */

static void stop_machine(void *opaque)
{
    MigrationOut *out = opaque;
    Machine *machine = out->machine;

    if (out->cancelled || out->stopped) {
        return;
    }
    out->stopped = true;
    out->stopped_at = now_ns(out);
    out->state = machine_hold(machine, RUN_STATE_FINISH_MIGRATE);
}

static Error *collect(void *opaque, const void *data, size_t length)
{
    MigrationOut *out = opaque;
    g_byte_array_append(out->devices, data, (guint)length);
    return NULL;
}

static void save_devices(void *opaque)
{
    MigrationOut *out = opaque;
    StreamWriter writer;

    if (out->cancelled) {
        return;
    }
    out->devices = g_byte_array_new();
    stream_writer_init(&writer, collect, out);
    writer.number = out->writer.number;
    out->err = ram_saver_check(out->saver);
    out->err = out->err ? out->err : state_write_devices(out->machine, out->state, &writer);
    out->err = out->err ? out->err : migration_bitmaps_write(out->migration, &writer);
    out->writer.number = writer.number;
    stream_writer_fini(&writer);
    if (!out->err) {
        out->err = block_graph_set_active(machine_service(out->machine, BLOCK_SERVICE), false);
    }
    if (!out->err) {
        ram_saver_sync(out->saver); /* saving may have finished requests that write to RAM */
    }
}

static void run_on(MigrationOut *out)
{
    Machine *machine = out->machine;

    if (!out->stopped) {
        return;
    }
    out->stopped = false;
    Error *err = block_graph_set_active(machine_service(machine, BLOCK_SERVICE), true);
    if (err) {
        error_report(error_prefix(err, "the machine stays paused: "));
        machine_release_still(machine, RUN_STATE_PAUSED);
        return;
    }
    machine_release(machine, out->state);
}

static void finished(void *opaque)
{
    MigrationOut *out = opaque;
    Migration *migration = out->migration;
    MigrationStats *stats = &migration->stats;

    stats->total_ms = now_ns(out) / NS_PER_MS - stats->start_ms;
    stats->remaining = out->saver ? out->saver->left * MEM_PAGE_SIZE : 0;
    stats->throttle = 0;
    if (!out->err) {
        stats->downtime_ms = (now_ns(out) - out->stopped_at) / NS_PER_MS;
        machine_release_still(out->machine, RUN_STATE_POSTMIGRATE);
        migration_set_status(migration, MIGRATION_COMPLETED);
    } else {
        run_on(out);
        if (!out->cancelled) {
            g_free(migration->error);
            migration->error = g_strdup(error_message(out->err));
        }
        migration_set_status(migration, out->cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
    }
    migration_out_free(migration);
}

/* --- the end --- */

static MUST_USE Error *await_continue(MigrationOut *out)
{
    set_status(out, MIGRATION_PRE_SWITCHOVER);
    pthread_mutex_lock(&out->mutex);
    while (!out->go_on && !out->cancelled) {
        pthread_cond_wait(&out->cond, &out->mutex);
    }
    pthread_mutex_unlock(&out->mutex);
    return check_cancelled(out);
}

static MUST_USE Error *switch_over(MigrationOut *out)
{
    main_call(&out->call, stop_machine, out);
    TRY(check_cancelled(out));
    if (out->migration->caps.pause_before_switchover) {
        TRY(await_continue(out));
        set_status(out, MIGRATION_DEVICE); /* clients know this state as what follows the pause */
    }
    main_call(&out->call, save_devices, out);
    TRY(g_steal_pointer(&out->err));
    TRY(check_cancelled(out));
    TRY(channel_write(out->channel, out->devices->data, out->devices->len));
    out->writer.bytes += out->devices->len;
    TRY(ram_saver_send(out->saver, &out->writer, UINT64_MAX / 2));
    return state_write_end(&out->writer, channel_two_way(out->channel));
}

static MUST_USE Error *send_all(MigrationOut *out)
{
    TRY(migration_tls_begin(&out->tls, out->machine, out->channel));
    TRY(set_up(out));
    set_status(out, MIGRATION_ACTIVE);
    TRY(send_live(out));
    TRY(switch_over(out));
    update_stats(out);
    if (channel_two_way(out->channel)) {
        TRY(agree(out));
    }
    return channel_finish(out->channel);
}

static void *thread_main(void *opaque)
{
    MigrationOut *out = opaque;
    Error *err = send_all(out);

    if (err) {
        error_free(out->err);
        out->err = err;
    }
    work_schedule(&out->done);
    return NULL;
}

/* --- life --- */

Error *migration_out_start(Migration *migration, const char *uri)
{
    Channel *channel;

    MigrationTls tls;
    TRY(migration_tls_prepare(migration, uri, false, &tls));
    Error *err = channel_open_out(migration->machine, uri, &channel);
    if (err) {
        migration_tls_clear(&tls);
        return err;
    }
    MigrationOut *out = g_new0(MigrationOut, 1);
    out->migration = migration;
    out->machine = migration->machine;
    out->channel = channel;
    out->tls = tls;
    stream_writer_init(&out->writer, channel_write, channel);
    pthread_mutex_init(&out->mutex, NULL);
    pthread_cond_init(&out->cond, NULL);
    work_init(&out->done, out->machine->loop, finished, out);
    main_call_init(&out->call, out->machine->loop);
    migration->out = out;
    migration->stats = (MigrationStats) { .start_ms = now_ns(out) / NS_PER_MS };
    g_clear_pointer(&migration->error, g_free);
    migration_set_status(migration, MIGRATION_SETUP);
    int rc = pthread_create(&out->thread, NULL, thread_main, out);
    if (rc) {
        migration_set_status(migration, MIGRATION_FAILED);
        migration_out_free(migration);
        return error_new_errno(rc, "cannot make the migration's thread");
    }
    out->thread_made = true;
    return NULL;
}

void migration_out_cancel(Migration *migration)
{
    MigrationOut *out = migration->out;

    if (!out || out->cancelled) {
        return;
    }
    migration_set_status(migration, MIGRATION_CANCELLING);
    pthread_mutex_lock(&out->mutex);
    out->cancelled = true;
    pthread_cond_signal(&out->cond);
    pthread_mutex_unlock(&out->mutex);
    channel_cancel(out->channel);
}

void migration_out_yank(Migration *migration)
{
    if (migration->out) {
        channel_cancel(migration->out->channel);
    }
}

Error *migration_out_continue(Migration *migration)
{
    MigrationOut *out = migration->out;

    if (!out || migration->status != MIGRATION_PRE_SWITCHOVER) {
        return error_new("That does not fit the state of the migration, which is: %s",
                         migration_status_name(migration->status));
    }
    pthread_mutex_lock(&out->mutex);
    out->go_on = true;
    pthread_cond_signal(&out->cond);
    pthread_mutex_unlock(&out->mutex);
    return NULL;
}

void migration_out_free(Migration *migration)
{
    MigrationOut *out = migration->out;

    if (!out) {
        return;
    }
    migration->out = NULL;
    if (out->thread_made) {
        main_call_abandon(&out->call);
        pthread_join(out->thread, NULL);
    }
    work_fini(&out->done);
    main_call_fini(&out->call);
    ram_saver_free(out->saver);
    stream_writer_fini(&out->writer);
    channel_free(out->channel);
    migration_tls_clear(&out->tls);
    if (out->devices) {
        g_byte_array_unref(out->devices);
    }
    error_free(out->err);
    pthread_cond_destroy(&out->cond);
    pthread_mutex_destroy(&out->mutex);
    g_free(out);
}
