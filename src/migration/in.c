/* The destination side of a migration; see migration.h. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/backend.h"
#include "migration/in_priv.h"
#include "migration/multifd.h"
#include "net/announce.h"

/* --- the end: main loop --- */

/* Switches learn where the machine is now, even when it does not run yet: nobody else runs it any more. */
static void announce(const MigrationIn *in)
{
    const MigrationParams *params = &in->migration->params;
    AnnounceConf conf = { .initial = (uint64_t)params->announce_initial, .max = (uint64_t)params->announce_max,
                          .step = (uint64_t)params->announce_step, .rounds = (uint64_t)params->announce_rounds };

    net_announce(in->machine, &conf, NULL, NULL);
}

void migration_in_run_machine(MigrationIn *in)
{
    Machine *machine = in->machine;

    if (in->started) {
        return;
    }
    in->started = true;
    machine->stopped_suspended = in->state == RUN_STATE_SUSPENDED;
    if (machine->start_paused) {
        machine_set_state(machine, RUN_STATE_PAUSED);
    } else if (in->state == RUN_STATE_RUNNING || in->state == RUN_STATE_PRELAUNCH || in->state == RUN_STATE_INMIGRATE ||
               in->state == RUN_STATE_SUSPENDED) {
        machine_start(machine);
    } else {
        machine_set_state(machine, in->state);
    }
    announce(in);
}

static void fail(MigrationIn *in)
{
    Migration *migration = in->migration;

    g_free(migration->error);
    migration->error = g_strdup(error_message(in->err));
    migration_set_status(migration, MIGRATION_FAILED);
    error_report(error_prefix(g_steal_pointer(&in->err), "load of migration failed: "));
    in->machine->actions.no_shutdown = false;
    in->machine->exit_code = 1;
    machine_request_shutdown(in->machine, SHUTDOWN_HOST_ERROR);
}

static void ended(void *opaque)
{
    MigrationIn *in = opaque;
    Migration *migration = in->migration;

    if (in->err && loop_is_quitting(in->machine->loop)) {
        migration_set_status(migration, MIGRATION_FAILED); /* the user has ended the machine that was to get it */
    } else if (in->err) {
        fail(in);
    } else {
        migration_set_status(migration, MIGRATION_COMPLETED);
        migration_in_run_machine(in);
    }
    migration_in_free(migration);
}

/* --- the thread --- */

void migration_in_refuse(MigrationIn *in, const Error *why)
{
    uint8_t head[5] = { MSG_FAILED };
    const char *text = error_message(why);
    uint32_t length = (uint32_t)MIN(strlen(text), (size_t)MSG_TEXT_MAX);

    if (in->refused || !in->channel || !channel_two_way(in->channel)) {
        return;
    }
    in->refused = true;
    st32_le(head + 1, length);
    Error *err = channel_write(in->channel, head, sizeof(head));
    if (!err) {
        err = channel_write(in->channel, text, length);
    }
    error_free(err);
}

static MUST_USE Error *agree(MigrationIn *in)
{
    uint8_t byte = MSG_READY;

    TRY(channel_write(in->channel, &byte, 1));
    TRY(channel_read(in->channel, &byte, 1));
    return byte == MSG_GO ? NULL : error_new("the source gave no answer that can be understood");
}

/* Main loop. The source has given the disks up. */
static void take_disks(void *opaque)
{
    MigrationIn *in = opaque;
    bool later = in->migration->caps.late_block_activate && in->machine->start_paused; /* when the machine is started */

    in->err = later ? NULL : block_graph_set_active(machine_service(in->machine, BLOCK_SERVICE), true);
    in->err = in->err ? in->err : migration_bitmaps_load(in->migration, state_loader_bitmaps(in->loader));
}

static void give_back_disks(void *opaque)
{
    MigrationIn *in = opaque;
    error_free(block_graph_set_active(machine_service(in->machine, BLOCK_SERVICE), false));
}

static Error *read_postcopy(MigrationIn *in, StreamReader *r)
{
    if (r->kind == RECORD_ADVISE) {
        PostcopyIn *post = NULL;
        Error *err = in->postcopy ? error_new("the saved state is damaged: post-copy twice") : postcopy_in_new(in, r, &post);
        pthread_mutex_lock(&in->mutex);
        in->postcopy = post ? post : in->postcopy;
        pthread_mutex_unlock(&in->mutex);
        return err;
    }
    if (!in->postcopy) {
        return error_new("the saved state is damaged: post-copy without notice");
    }
    return r->kind == RECORD_DISCARD ? postcopy_in_discard(in->postcopy, r) : NULL;
}

/* Records that the loader leaves to us. */
static Error *read_more(void *opaque, StreamReader *r)
{
    MigrationIn *in = opaque;

    switch (r->kind) {
    case RECORD_CHANNELS:
        if (in->multifd) {
            return error_new("the saved state is damaged: connections of multifd twice");
        }
        return multifd_in_new(in->machine, state_loader_ram(in->loader), r, in->channel, in->listener, &in->tls, &in->multifd);
    case RECORD_SYNC:
        return in->multifd ? multifd_in_sync(in->multifd, r) : error_new("the saved state is damaged: a sync without multifd");
    case RECORD_ADVISE:
    case RECORD_DISCARD:
    case RECORD_RUN:
        return read_postcopy(in, r);
    default:
        return error_new("the saved state is damaged: a record of kind %u has no place there", r->kind);
    }
}

static Error *check_more(void *opaque)
{
    MigrationIn *in = opaque;
    return in->multifd ? multifd_in_check(in->multifd) : NULL;
}

Error *migration_in_take_disks(MigrationIn *in)
{
    main_call(&in->call, take_disks, in);
    if (in->err) {
        main_call(&in->call, give_back_disks, in);
    }
    return in->cancelled ? error_new("cancelled") : g_steal_pointer(&in->err);
}

static MUST_USE Error *load(MigrationIn *in)
{
    Machine *machine = in->machine;

    TRY(migration_tls_begin(&in->tls, machine, in->channel));
    TRY(state_loader_read(in->loader, &in->reader));
    if (in->reader.kind == RECORD_RUN) {
        return postcopy_in_run(in->postcopy);
    }
    lock_acquire(&machine->lock);
    Error *err = in->cancelled ? error_new("cancelled") : state_loader_finish(in->loader, &in->state);
    lock_release(&machine->lock);
    TRY(err);
    return migration_in_take_disks(in);
}

static void *thread_main(void *opaque)
{
    MigrationIn *in = opaque;

    in->err = load(in);
    if (in->err && in->channel) {
        multifd_in_fail(in->multifd);
        migration_in_refuse(in, in->err);
        if (in->refused) { /* a connection that is closed with bytes unread takes the answer with it */
            channel_drain(in->channel);
        }
    } else if (!in->err && state_loader_answers(in->loader)) {
        in->err = agree(in);
    }
    work_schedule(&in->done);
    return NULL;
}

/* --- life --- */

static void source_speaks(void *opaque)
{
    MigrationIn *in = opaque;
    migration_set_status(in->migration, MIGRATION_ACTIVE);
}

/* A program or a pipe may be there long before its first byte: until then the migration is being set up. */
static Error *read_first(void *opaque, void *data, size_t length)
{
    MigrationIn *in = opaque;

    TRY(channel_read(in->channel, data, length));
    if (!in->heard) {
        in->heard = true;
        main_call(&in->call, source_speaks, in);
    }
    return NULL;
}

static MUST_USE Error *begin(MigrationIn *in)
{
    in->loader = state_loader_new(in->machine);
    state_loader_set_more(in->loader, &(StateLoaderMore) { read_more, check_more, in });
    blocktime_free(g_steal_pointer(&in->migration->blocktime));
    if (in->migration->caps.postcopy && in->migration->caps.postcopy_blocktime) {
        in->migration->blocktime = blocktime_new(in->machine);
    }
    if (in->migration->caps.dirty_bitmaps) {
        state_loader_want_bitmaps(in->loader);
    }
    stream_reader_init(&in->reader, read_first, in);
    int rc = pthread_create(&in->thread, NULL, thread_main, in);
    if (rc) {
        return error_new_errno(rc, "cannot make the migration's thread");
    }
    in->thread_made = true;
    return NULL;
}

static void stop_waiting(MigrationIn *in)
{
    if (in->source) {
        loop_del_fd(g_steal_pointer(&in->source));
    }
}

static void stop_listening(MigrationIn *in)
{
    stop_waiting(in);
    if (in->listener >= 0) {
        channel_close_listener(in->listener);
        in->listener = -1;
    }
}

static void begin_or_fail(void *opaque)
{
    MigrationIn *in = opaque;
    Error *err = begin(in);

    if (err) { /* there is no thread; when there is, in->err is its to set */
        in->err = err;
        fail(in);
    }
}

static void connected(void *opaque, unsigned events)
{
    MigrationIn *in = opaque;
    int fd = accept4(in->listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0) {
        return; /* gone again */
    }
    if (in->migration->caps.multifd || in->migration->caps.postcopy) { /* the thread takes the others */
        stop_waiting(in);
    } else {
        stop_listening(in);
    }
    in->channel = channel_of_fd(fd);
    begin_or_fail(in);
}

Error *migration_in_start(Migration *migration, const char *uri)
{
    MigrationIn *in = g_new0(MigrationIn, 1);

    in->migration = migration;
    in->machine = migration->machine;
    in->listener = -1;
    pthread_mutex_init(&in->mutex, NULL);
    work_init(&in->begin, in->machine->loop, begin_or_fail, in);
    work_init(&in->done, in->machine->loop, ended, in);
    main_call_init(&in->call, in->machine->loop);
    migration->in = in;
    Error *err = migration_tls_prepare(migration, uri, true, &in->tls);
    if (!err) {
        err = channel_open_in(migration->machine, uri, &in->channel, &in->listener);
    }
    if (!err) {
        migration_set_status(migration, MIGRATION_SETUP);
        if (in->listener >= 0) {
            in->source = loop_add_fd(in->machine->loop, in->listener, LOOP_READ, connected, in);
        } else { /* what ends at once must not end the machine before its monitors are heard */
            work_schedule(&in->begin);
        }
    }
    if (err) {
        migration_in_free(migration);
    }
    return err;
}

Value *migration_in_addresses(const Migration *migration)
{
    Value *address = migration->in && migration->in->listener >= 0 ? channel_address(migration->in->listener) : NULL;
    Value *list = address ? value_list() : NULL;

    if (list) {
        value_append(list, address);
    }
    return list;
}

void migration_in_yank(Migration *migration)
{
    MigrationIn *in = migration->in;

    if (in) {
        pthread_mutex_lock(&in->mutex);
        if (in->channel) {
            channel_cancel(in->channel);
        }
        pthread_mutex_unlock(&in->mutex);
    }
}

static PostcopyIn *postcopy_of(const Migration *migration)
{
    MigrationIn *in = migration->in;

    if (!in) {
        return NULL;
    }
    pthread_mutex_lock(&in->mutex);
    PostcopyIn *post = in->postcopy;
    pthread_mutex_unlock(&in->mutex);
    return post;
}

Error *migration_in_recover(Migration *migration, const char *uri)
{
    PostcopyIn *post = postcopy_of(migration);
    return post ? postcopy_in_recover(post, uri)
                : error_new("No post-copy migration is paused here, so there is none to recover");
}

void migration_in_shutdown(Migration *migration)
{
    PostcopyIn *post = postcopy_of(migration);

    if (post && postcopy_in_is_paused(post)) {
        /* What CPUs do with zeroes for the rest of a moment must not reach the disks. */
        error_free(block_graph_set_active(machine_service(migration->machine, BLOCK_SERVICE), false));
        postcopy_in_abandon(post);
    }
}

void migration_in_free(Migration *migration)
{
    MigrationIn *in = migration->in;

    if (!in) {
        return;
    }
    migration->in = NULL;
    stop_waiting(in);
    if (in->thread_made) {
        in->cancelled = true;
        if (in->postcopy) {
            postcopy_in_abandon(in->postcopy);
        }
        pthread_mutex_lock(&in->mutex);
        if (in->channel) {
            channel_cancel(in->channel);
        }
        pthread_mutex_unlock(&in->mutex);
        main_call_abandon(&in->call);
        /* It may be waiting for the lock. */
        lock_release(&in->machine->lock);
        pthread_join(in->thread, NULL);
        lock_acquire(&in->machine->lock);
    }
    work_fini(&in->begin);
    work_fini(&in->done);
    main_call_fini(&in->call);
    multifd_in_free(in->multifd);
    postcopy_in_free(in->postcopy);
    pthread_mutex_destroy(&in->mutex);
    stop_listening(in);
    if (in->reader.record) {
        stream_reader_fini(&in->reader);
    }
    state_loader_free(in->loader);
    channel_free(in->channel);
    migration_tls_clear(&in->tls);
    error_free(in->err);
    g_free(in);
}
