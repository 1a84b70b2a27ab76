/* The source of a post-copy migration; see postcopy.h. */
#include "migration/postcopy.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

#include "base/endian.h"
#include "migration/out_priv.h"

enum { WANTED_MAX = 1024, PUSH_PAGES = 64, WANTED_PAGES = 8 };

typedef struct Wanted {
    uint32_t block;
    uint64_t page;
} Wanted;

struct PostcopyOut {
    MigrationOut *out;
    uint8_t token[POSTCOPY_TOKEN];
    _Atomic bool asked, let_go;
    bool ended; /* RECORD_END was sent in this connection */
    int64_t push_at; /* not before that */
    pthread_t hearer; /* reads what the destination says */
    bool hearer_made;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    Wanted wanted[WANTED_MAX]; /* a ring; one that is lost comes with the others */
    unsigned wanted_at, wanted_count;
    bool ready, done, abandoned, paused;
    Error *lost;      /* why the connection is of no use any more */
    Channel *resumed; /* a new one */
};

PostcopyOut *postcopy_out_new(MigrationOut *out)
{
    PostcopyOut *post = g_new0(PostcopyOut, 1);

    post->out = out;
    pthread_mutex_init(&post->mutex, NULL);
    pthread_cond_init(&post->changed, NULL);
    return post;
}

void postcopy_out_free(PostcopyOut *post)
{
    if (post) {
        channel_free(post->resumed);
        error_free(post->lost);
        pthread_cond_destroy(&post->changed);
        pthread_mutex_destroy(&post->mutex);
        g_free(post);
    }
}

void postcopy_out_ask(PostcopyOut *post)
{
    atomic_store(&post->asked, true);
}

bool postcopy_out_asked(const PostcopyOut *post)
{
    return post && atomic_load(&((PostcopyOut *)post)->asked);
}

bool postcopy_out_let_go(const PostcopyOut *post)
{
    return post && atomic_load(&((PostcopyOut *)post)->let_go);
}

Error *postcopy_out_advise(PostcopyOut *post)
{
    StreamWriter *w = &post->out->writer;

    if (getrandom(post->token, sizeof(post->token), 0) != sizeof(post->token)) {
        return error_new("the host gives no random numbers");
    }
    stream_begin(w, RECORD_ADVISE);
    stream_put(w, post->token, sizeof(post->token));
    return stream_end(w);
}

/* --- hearing: a thread while there is a connection --- */

static MUST_USE Error *hear_wanted(PostcopyOut *post)
{
    uint8_t bytes[12];

    TRY(channel_read(post->out->channel, bytes, sizeof(bytes)));
    pthread_mutex_lock(&post->mutex);
    post->wanted[(post->wanted_at + post->wanted_count) % WANTED_MAX] = (Wanted) { ld32_le(bytes), ld64_le(bytes + 4) };
    if (post->wanted_count < WANTED_MAX) {
        post->wanted_count++;
    } else {
        post->wanted_at = (post->wanted_at + 1) % WANTED_MAX;
    }
    pthread_cond_signal(&post->changed);
    pthread_mutex_unlock(&post->mutex);
    return NULL;
}

static void note(PostcopyOut *post, bool *what)
{
    pthread_mutex_lock(&post->mutex);
    *what = true;
    pthread_cond_signal(&post->changed);
    pthread_mutex_unlock(&post->mutex);
}

static void *hearer_main(void *opaque)
{
    PostcopyOut *post = opaque;
    uint8_t message;
    Error *err = NULL;

    while (!err && !post->done) {
        err = channel_read(post->out->channel, &message, 1);
        if (!err && message == MSG_WANTED) {
            err = hear_wanted(post);
        } else if (!err && message == MSG_READY) {
            note(post, &post->ready);
        } else if (!err && message == MSG_DONE) {
            note(post, &post->done);
        } else if (!err) {
            err = out_read_refusal(post->out, message);
        }
    }
    pthread_mutex_lock(&post->mutex);
    if (err && !post->lost) {
        post->lost = g_steal_pointer(&err);
        pthread_cond_signal(&post->changed);
    }
    pthread_mutex_unlock(&post->mutex);
    error_free(err);
    return NULL;
}

static MUST_USE Error *begin_hearing(PostcopyOut *post)
{
    int rc = pthread_create(&post->hearer, NULL, hearer_main, post);

    post->hearer_made = rc == 0;
    return rc ? error_new_errno(rc, "cannot make a thread of the migration") : NULL;
}

static void end_hearing(PostcopyOut *post)
{
    if (post->hearer_made) {
        channel_cancel(post->out->channel);
        pthread_join(post->hearer, NULL);
        post->hearer_made = false;
    }
}

/* --- sending --- */

static MUST_USE Error *send_some(PostcopyOut *post, unsigned limit)
{
    MigrationOut *out = post->out;
    RamChunk chunk;

    if (ram_saver_take(out->saver, limit, &chunk)) {
        uint64_t before = out->writer.bytes;
        TRY(ram_chunk_write(&chunk, &out->writer, NULL));
        ram_saver_count(out->saver, &chunk);
        out->migration->stats.postcopy_bytes += out->writer.bytes - before;
        out_update_stats(out);
    }
    return NULL;
}

/* A page that was sent before is under way. */
static MUST_USE Error *send_wanted(PostcopyOut *post, Wanted wanted)
{
    post->out->migration->stats.postcopy_requests++;
    if (!ram_saver_is_pending(post->out->saver, wanted.block, wanted.page)) {
        return NULL;
    }
    ram_saver_go_to(post->out->saver, wanted.block, wanted.page);
    return send_some(post, WANTED_PAGES);
}

static MUST_USE Error *send_pushed(PostcopyOut *post)
{
    MigrationOut *out = post->out;
    int64_t limit = out->migration->params.max_postcopy_bandwidth, now = out_now_ns(out);
    uint64_t before = out->writer.bytes;

    TRY(send_some(post, PUSH_PAGES));
    uint64_t sent = out->writer.bytes - before;
    post->push_at = limit ? now + (int64_t)((double)sent / (double)limit * NS_PER_SEC) : 0;
    return NULL;
}

static MUST_USE Error *send_mark(PostcopyOut *post, RecordKind kind)
{
    stream_begin(&post->out->writer, kind);
    return stream_end(&post->out->writer);
}

static MUST_USE Error *send_go(PostcopyOut *post)
{
    MigrationOut *out = post->out;

    pthread_mutex_lock(&out->mutex);
    bool cancelled = out->cancelled;
    atomic_store(&post->let_go, !cancelled); /* from here on it may run there, whether or not this arrives */
    pthread_mutex_unlock(&out->mutex);
    if (cancelled) {
        return error_new("cancelled");
    }
    TRY(send_mark(post, RECORD_GO));
    out->migration->stats.downtime_ms = (out_now_ns(out) - out->stopped_at) / NS_PER_MS;
    return NULL;
}

static MUST_USE Error *send_end(PostcopyOut *post)
{
    post->ended = true;
    return state_write_end(&post->out->writer, false);
}

typedef enum Step { STEP_WANTED, STEP_GO, STEP_PUSH, STEP_END, STEP_DONE, STEP_LOST } Step;

/* What is to be done next; waits for it. */
static Step next_step(PostcopyOut *post, Wanted *ret_wanted, Error **ret_lost)
{
    MigrationOut *out = post->out;

    for (;;) {
        bool let_go = atomic_load(&post->let_go);
        if (post->done) {
            return STEP_DONE;
        }
        if (post->lost || post->abandoned || (out->cancelled && !let_go)) {
            *ret_lost = post->lost ? g_steal_pointer(&post->lost) : error_new("cancelled");
            return STEP_LOST;
        }
        if (post->ready && !let_go) {
            return STEP_GO;
        }
        if (post->wanted_count > 0) {
            *ret_wanted = post->wanted[post->wanted_at];
            post->wanted_at = (post->wanted_at + 1) % WANTED_MAX;
            post->wanted_count--;
            return STEP_WANTED;
        }
        int64_t wait = post->push_at - out_now_ns(out);
        if (out->saver->left > 0 && wait <= 0) {
            return STEP_PUSH;
        }
        if (out->saver->left == 0 && let_go && !post->ended) {
            return STEP_END;
        }
        if (out->saver->left > 0) {
            gint64 until = g_get_real_time() * 1000 + MIN(wait, 100 * NS_PER_MS);
            struct timespec limit = { until / NS_PER_SEC, until % NS_PER_SEC };
            pthread_cond_timedwait(&post->changed, &post->mutex, &limit);
        } else {
            pthread_cond_wait(&post->changed, &post->mutex);
        }
    }
}

/* Until all is done or the connection is of no use. */
static MUST_USE Error *serve(PostcopyOut *post)
{
    Wanted wanted = { 0 };
    Error *lost = NULL;

    for (;;) {
        pthread_mutex_lock(&post->mutex);
        Step step = next_step(post, &wanted, &lost);
        pthread_mutex_unlock(&post->mutex);
        switch (step) {
        case STEP_WANTED:
            TRY(send_wanted(post, wanted));
            break;
        case STEP_GO:
            TRY(send_go(post));
            break;
        case STEP_PUSH:
            TRY(send_pushed(post));
            break;
        case STEP_END:
            TRY(send_end(post));
            break;
        case STEP_DONE:
            return NULL;
        case STEP_LOST:
            return lost;
        }
    }
}

/* --- another connection --- */

/* Bits of what the destination misses; every page else is there. */
static MUST_USE Error *take_missing(PostcopyOut *post)
{
    RamSaver *saver = post->out->saver;
    uint8_t head[5], size[8];

    TRY(channel_read(post->out->channel, head, sizeof(head)));
    if (head[0] != MSG_MISSING) {
        return out_read_refusal(post->out, head[0]);
    }
    if (ld32_le(head + 1) != saver->blocks->len) {
        return error_new("the destination has other memory");
    }
    for (unsigned n = 0; n < saver->blocks->len; n++) {
        TRY(channel_read(post->out->channel, size, sizeof(size)));
        uint64_t pages = ld64_le(size), bytes = (ram_saver_pages(saver, n) + 7) / 8;
        if (pages != ram_saver_pages(saver, n)) {
            return error_new("the destination has other memory");
        }
        g_autofree uint8_t *bits = g_malloc(bytes);
        TRY(channel_read(post->out->channel, bits, bytes));
        ram_saver_set_pending(saver, n, bits);
    }
    return NULL;
}

static MUST_USE Error *greet_again(PostcopyOut *post)
{
    MigrationOut *out = post->out;
    uint64_t bytes = out->writer.bytes;

    TRY(migration_tls_begin(&out->tls, out->machine, out->channel));
    stream_writer_fini(&out->writer);
    stream_writer_init(&out->writer, channel_write, out->channel);
    out->writer.bytes = bytes;
    TRY(stream_write_header(&out->writer));
    stream_begin(&out->writer, RECORD_RESUME);
    stream_put(&out->writer, post->token, sizeof(post->token));
    TRY(stream_end(&out->writer));
    TRY(take_missing(post));
    return begin_hearing(post);
}

static void replace_channel(MigrationOut *out, Channel *channel)
{
    pthread_mutex_lock(&out->mutex);
    Channel *old = out->channel;
    out->channel = channel;
    pthread_mutex_unlock(&out->mutex);
    channel_free(old);
}

/* Waits for migrate resume=true. False: abandoned. */
static bool wait_for_another(PostcopyOut *post, const Error *why)
{
    MigrationOut *out = post->out;

    end_hearing(post);
    replace_channel(out, NULL);
    error_report(error_new("the post-copy migration is paused: %s", error_message(why)));
    pthread_mutex_lock(&post->mutex);
    g_clear_pointer(&post->lost, error_free);
    post->wanted_count = 0;
    post->ended = post->ready = false;
    post->paused = true;
    pthread_mutex_unlock(&post->mutex);
    out_set_status(out, MIGRATION_POSTCOPY_PAUSED);
    pthread_mutex_lock(&post->mutex);
    while (!post->resumed && !post->abandoned) {
        pthread_cond_wait(&post->changed, &post->mutex);
    }
    bool goes_on = !post->abandoned;
    Channel *channel = g_steal_pointer(&post->resumed);
    post->paused = false;
    pthread_mutex_unlock(&post->mutex);
    replace_channel(out, channel);
    return goes_on;
}

/* --- all of it --- */

Error *postcopy_out_run(PostcopyOut *post)
{
    MigrationOut *out = post->out;

    TRY(ram_saver_send_small(out->saver, &out->writer, POSTCOPY_EAGER_MAX));
    TRY(ram_saver_send_discard(out->saver, &out->writer, POSTCOPY_EAGER_MAX));
    TRY(send_mark(post, RECORD_RUN));
    out_set_status(out, MIGRATION_POSTCOPY_ACTIVE);
    Error *err = begin_hearing(post);
    err = err ? err : serve(post);
    while (err && atomic_load(&post->let_go)) {
        if (!wait_for_another(post, err)) {
            break;
        }
        error_free(err);
        out_set_status(out, MIGRATION_POSTCOPY_RECOVER);
        err = greet_again(post);
        if (!err) {
            out_set_status(out, MIGRATION_POSTCOPY_ACTIVE);
            err = serve(post);
        }
    }
    end_hearing(post);
    return err;
}

Error *postcopy_out_resume(PostcopyOut *post, const char *uri)
{
    Channel *channel;

    pthread_mutex_lock(&post->mutex);
    bool paused = post->paused && !post->resumed;
    pthread_mutex_unlock(&post->mutex);
    if (!paused) {
        return error_new("No migration is paused, so there is none to resume");
    }
    TRY(channel_open_out(post->out->machine, uri, &channel));
    pthread_mutex_lock(&post->mutex);
    post->resumed = channel;
    pthread_cond_signal(&post->changed);
    pthread_mutex_unlock(&post->mutex);
    return NULL;
}

void postcopy_out_abandon(PostcopyOut *post)
{
    note(post, &post->abandoned);
}
