/* The source side of a migration; see migration.h. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/backend.h"
#include "migration/out_priv.h"

/* Bandwidth is given out in slices of this length. */
#define SLICE_NS (50 * NS_PER_MS)
enum { UNLIMITED_SLICE = 64 * MiB };

/* --- the thread's steps --- */

Error *out_check_cancelled(const MigrationOut *out)
{
    return out->cancelled ? error_new("cancelled") : NULL;
}

/* The other connections, when there are to be any; they are not cancelled meanwhile. */
static MUST_USE Error *set_up_multifd(MigrationOut *out)
{
    const MigrationParams *params = &out->migration->params;
    int64_t level = params->multifd_compression == PACK_ZSTD ? params->multifd_zstd_level : params->multifd_zlib_level;
    MultifdOptions options = { .uri = out->uri, .channels = (unsigned)params->multifd_channels,
                               .packing = { .method = params->multifd_compression, .level = (int)level } };

    if (!out->migration->caps.multifd) {
        return NULL;
    }
    pthread_mutex_lock(&out->mutex);
    out->multifd = multifd_out_new(out->machine, out->saver, &out->tls);
    pthread_mutex_unlock(&out->mutex);
    TRY(out_check_cancelled(out));
    return multifd_out_connect(out->multifd, &out->writer, &options);
}

static MUST_USE Error *set_up(MigrationOut *out)
{
    Machine *machine = out->machine;
    const MigrationCaps *caps = &out->migration->caps;
    int64_t start = out_now_ns(out);

    TRY(stream_write_header(&out->writer));
    lock_acquire(&machine->lock);
    out->saver = ram_saver_new(machine, true);
    if (caps->ignore_shared) {
        ram_saver_skip_shared(out->saver);
    }
    out->saver->packing = (RamPacking) { .method = caps->compress ? PACK_ZLIB : PACK_NONE, .level = (int)out->migration->params.compress_level };
    Error *err = out->cancelled ? NULL : state_write_machine(machine, &out->writer);
    if (!err && caps->validate_uuid) {
        err = state_write_uuid(machine, &out->writer);
    }
    lock_release(&machine->lock);
    TRY(err);
    TRY(set_up_multifd(out));
    if (out->postcopy) {
        TRY(postcopy_out_advise(out->postcopy));
    }
    out->migration->stats.total = out->saver->total * MEM_PAGE_SIZE;
    out->migration->stats.setup_ms = (out_now_ns(out) - start) / NS_PER_MS;
    out->measured_at = out->synced_at = out_now_ns(out);
    return out_check_cancelled(out);
}

/* From the second pass on, since the first one knows no page yet. It may get another size while it goes on. */
static MUST_USE Error *set_up_xbzrle(MigrationOut *out)
{
    uint64_t bytes = (uint64_t)out->migration->params.xbzrle_cache_size;

    if (!out->migration->caps.xbzrle || (out->xbzrle && xbzrle_cache_bytes(out->xbzrle) == bytes)) {
        return NULL;
    }
    Xbzrle *fresh;
    TRY(xbzrle_new(bytes, &fresh));
    if (out->xbzrle) {
        *xbzrle_stats(fresh) = *xbzrle_stats(out->xbzrle);
    }
    xbzrle_free(out->xbzrle);
    out->xbzrle = out->saver->packing.xbzrle = fresh;
    return NULL;
}

/* What was sent so far comes before what follows. */
static MUST_USE Error *end_pass(MigrationOut *out)
{
    return out->multifd ? multifd_out_sync(out->multifd, &out->writer) : NULL;
}

static void sync_dirty(MigrationOut *out)
{
    Migration *migration = out->migration;
    int64_t now = out_now_ns(out);

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
    out_consider_throttle(out, found);
    out_end_xbzrle_pass(out);
    out->synced_at = now;
    out->synced_bytes = out_bytes(out);
}

/* Bytes that may be sent with the machine stopped. */
static uint64_t allowed_rest(const MigrationOut *out)
{
    double seconds = (double)out->migration->params.downtime_limit / 1000;
    return (uint64_t)(out->bandwidth * seconds);
}

Error *out_read_refusal(MigrationOut *out, uint8_t message)
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
    return message == MSG_READY ? channel_write(out->channel, &go, 1) : out_read_refusal(out, message);
}

/* What the destination says before the end can only be that it refuses. */
static MUST_USE Error *check_refused(MigrationOut *out)
{
    uint8_t message;

    if (!channel_two_way(out->channel) || !channel_has_input(out->channel)) {
        return NULL;
    }
    TRY(channel_read(out->channel, &message, 1));
    return out_read_refusal(out, message);
}

void out_pace(MigrationOut *out, int64_t start, uint64_t bytes, const int64_t *limit)
{
    int64_t rate = *limit, due = rate ? (int64_t)((double)bytes / (double)rate * NS_PER_SEC) : 0;

    while (!out->cancelled && out_now_ns(out) - start < due && *limit == rate) {
        g_usleep((gulong)MIN(due - (out_now_ns(out) - start), 10 * NS_PER_MS) / 1000 + 1);
    }
}

static MUST_USE Error *send_pages(MigrationOut *out, uint64_t budget)
{
    return out->multifd ? multifd_out_send(out->multifd, budget) : ram_saver_send(out->saver, &out->writer, budget);
}

/* One slice, then a pause if it was sent before its time was over; it may have been larger than it should, since a record is never cut. */
static MUST_USE Error *send_slice(MigrationOut *out)
{
    int64_t limit = out->migration->params.max_bandwidth, start = out_now_ns(out);
    uint64_t budget = limit ? MAX((uint64_t)limit * SLICE_NS / NS_PER_SEC, 1u) : UNLIMITED_SLICE;
    uint64_t before = out_bytes(out);

    migration_throttle(out->machine, &out->naps, out->migration->stats.throttle);
    TRY(set_up_xbzrle(out));
    TRY(send_pages(out, budget));
    out_pace(out, start, out_bytes(out) - before, &out->migration->params.max_bandwidth);
    out_update_stats(out);
    TRY(check_refused(out));
    return out_check_cancelled(out);
}

/* RAM until the rest may be sent with the machine stopped. */
static MUST_USE Error *send_live(MigrationOut *out)
{
    int64_t start = out_now_ns(out);

    while (out->saver->left > 0 && !postcopy_out_asked(out->postcopy)) {
        TRY(send_slice(out));
    }
    /* A short first pass leaves the average only. */
    out->bandwidth = MAX(out->bandwidth, (double)out_bytes(out) / ((double)(out_now_ns(out) - start + 1) / NS_PER_SEC));
    for (;;) {
        TRY(end_pass(out));
        sync_dirty(out);
        out_update_stats(out);
        if (out->saver->left * MEM_PAGE_SIZE <= allowed_rest(out) || postcopy_out_asked(out->postcopy)) {
            return NULL;
        }
        while (out->saver->left > 0 && !postcopy_out_asked(out->postcopy)) {
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
    out->stopped_at = out_now_ns(out);
    out->state = machine_hold(machine, RUN_STATE_FINISH_MIGRATE);
}

static void save_devices(void *opaque)
{
    MigrationOut *out = opaque;
    StreamWriter writer;

    if (out->cancelled) {
        return;
    }
    out->devices = g_byte_array_new();
    stream_writer_init_array(&writer, out->devices);
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

    stats->total_ms = out_now_ns(out) / NS_PER_MS - stats->start_ms;
    stats->remaining = out->saver ? out->saver->left * MEM_PAGE_SIZE : 0;
    stats->throttle = 0;
    bool let_go = postcopy_out_let_go(out->postcopy);
    if (!out->err || let_go) {
        if (!let_go) {
            stats->downtime_ms = (out_now_ns(out) - out->stopped_at) / NS_PER_MS;
        }
        machine_release_still(out->machine, RUN_STATE_POSTMIGRATE);
        migration_set_status(migration, out->err ? MIGRATION_FAILED : MIGRATION_COMPLETED);
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
    out_set_status(out, MIGRATION_PRE_SWITCHOVER);
    pthread_mutex_lock(&out->mutex);
    while (!out->go_on && !out->cancelled) {
        pthread_cond_wait(&out->cond, &out->mutex);
    }
    pthread_mutex_unlock(&out->mutex);
    return out_check_cancelled(out);
}

static MUST_USE Error *switch_over(MigrationOut *out)
{
    uint64_t live = out_bytes(out);

    main_call(&out->call, stop_machine, out);
    TRY(out_check_cancelled(out));
    if (out->migration->caps.pause_before_switchover) {
        TRY(await_continue(out));
    }
    out_set_status(out, MIGRATION_DEVICE);
    main_call(&out->call, save_devices, out);
    TRY(g_steal_pointer(&out->err));
    TRY(out_check_cancelled(out));
    TRY(channel_write(out->channel, out->devices->data, out->devices->len));
    out->writer.bytes += out->devices->len;
    if (postcopy_out_asked(out->postcopy)) {
        return postcopy_out_run(out->postcopy);
    }
    while (out->saver->left > 0) {
        TRY(send_pages(out, UNLIMITED_SLICE));
    }
    TRY(end_pass(out));
    out->migration->stats.downtime_bytes = out_bytes(out) - live;
    return state_write_end(&out->writer, channel_two_way(out->channel));
}

/* Who connects may have to wait for an answer: not the main loop. */
static MUST_USE Error *connect_channel(MigrationOut *out)
{
    Channel *channel = out->channel;

    if (!channel) {
        TRY(channel_open_out(out->machine, out->uri, &channel));
        pthread_mutex_lock(&out->mutex);
        out->channel = channel;
        pthread_mutex_unlock(&out->mutex);
    }
    stream_writer_init(&out->writer, channel_write, channel);
    TRY(out_check_cancelled(out));
    return migration_tls_begin(&out->tls, out->machine, channel);
}

static MUST_USE Error *send_all(MigrationOut *out)
{
    TRY(connect_channel(out));
    TRY(set_up(out));
    out_set_status(out, MIGRATION_ACTIVE);
    TRY(send_live(out));
    TRY(switch_over(out));
    out_update_stats(out);
    if (postcopy_out_let_go(out->postcopy)) {
        return NULL;
    }
    if (channel_two_way(out->channel)) {
        TRY(agree(out));
    }
    return channel_finish(out->channel);
}

/* Why the destination refuses says more than that it has closed a connection; it may come a moment later. */
static Error *prefer_refusal(MigrationOut *out, Error *err)
{
    uint8_t message = 0;

    if (out->cancelled || !out->channel || postcopy_out_asked(out->postcopy) || !channel_two_way(out->channel) ||
        !channel_has_input_within(out->channel, 1000)) {
        return err;
    }
    Error *unread = channel_read(out->channel, &message, 1);
    if (unread || message != MSG_FAILED) {
        error_free(unread);
        return err;
    }
    error_free(err);
    return out_read_refusal(out, message);
}

static void *thread_main(void *opaque)
{
    MigrationOut *out = opaque;
    Error *err = send_all(out);

    err = err ? prefer_refusal(out, err) : NULL;
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
    Channel *channel = NULL;
    MigrationTls tls;

    if (migration->caps.multifd && !channel_takes_many(uri)) {
        return error_new("multifd makes several connections, which works with tcp: and unix: only");
    }
    TRY(migration_tls_prepare(migration, uri, false, &tls));
    Error *err = channel_takes_many(uri) ? channel_check(uri) : channel_open_out(migration->machine, uri, &channel);
    if (err) {
        migration_tls_clear(&tls);
        return err;
    }
    MigrationOut *out = g_new0(MigrationOut, 1);
    out->migration = migration;
    out->machine = migration->machine;
    out->channel = channel;
    out->uri = g_strdup(uri);
    out->postcopy = migration->caps.postcopy ? postcopy_out_new(out) : NULL;
    out->tls = tls;
    pthread_mutex_init(&out->mutex, NULL);
    pthread_cond_init(&out->cond, NULL);
    work_init(&out->done, out->machine->loop, finished, out);
    main_call_init(&out->call, out->machine->loop);
    migration->out = out;
    migration->outgoing = true;
    migration->stats = (MigrationStats) { .start_ms = out_now_ns(out) / NS_PER_MS };
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

static void break_connections(MigrationOut *out)
{
    pthread_mutex_lock(&out->mutex);
    if (out->channel) {
        channel_cancel(out->channel);
    }
    multifd_out_cancel(out->multifd);
    pthread_mutex_unlock(&out->mutex);
}

void migration_out_cancel(Migration *migration)
{
    MigrationOut *out = migration->out;

    if (!out || out->cancelled) {
        return;
    }
    pthread_mutex_lock(&out->mutex);
    bool let_go = postcopy_out_let_go(out->postcopy);
    out->cancelled = !let_go;
    pthread_cond_signal(&out->cond);
    pthread_mutex_unlock(&out->mutex);
    if (!let_go) {
        migration_set_status(migration, MIGRATION_CANCELLING);
    }
    if (out->postcopy) {
        postcopy_out_abandon(out->postcopy);
    }
    break_connections(out);
}

bool migration_out_is_gone(const Migration *migration)
{
    return migration->out && postcopy_out_let_go(migration->out->postcopy);
}

Error *migration_out_start_postcopy(Migration *migration)
{
    MigrationOut *out = migration->out;

    if (!out) {
        return error_new("No migration is under way that could become a post-copy one");
    }
    if (!out->postcopy && migration->caps.dirty_bitmaps) {
        return NULL; /* bitmaps move while the machine is stopped: nothing is left for later */
    }
    if (!out->postcopy) {
        return error_hint(error_new("The migration was started without post-copy"),
                          "The capability postcopy-ram is switched on before it, at both sides.");
    }
    if (!channel_takes_many(out->uri) && !channel_two_way(out->channel)) {
        return error_new("Post-copy needs a connection in both directions: tcp:, unix: or the fd: of a socket");
    }
    postcopy_out_ask(out->postcopy);
    return NULL;
}

Error *migration_out_resume(Migration *migration, const char *uri)
{
    return migration->out && migration->out->postcopy ? postcopy_out_resume(migration->out->postcopy, uri)
                                                      : error_new("No migration is paused, so there is none to resume");
}

void migration_out_yank(Migration *migration)
{
    if (migration->out) {
        break_connections(migration->out);
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
    multifd_out_free(out->multifd);
    postcopy_out_free(out->postcopy);
    ram_saver_free(out->saver);
    xbzrle_free(out->xbzrle);
    g_free(out->uri);
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
