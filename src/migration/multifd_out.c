/* The source's threads of multifd; see multifd.h. */
#include <string.h>
#include <sys/random.h>

#include "migration/multifd.h"

typedef struct Sender {
    MultifdOut *out;
    unsigned index;
    Channel *channel;
    StreamWriter writer;
    pthread_t thread;
    bool made;
} Sender;

struct MultifdOut {
    Machine *machine;
    RamSaver *saver;
    const MigrationTls *tls;
    RamPacking packing;
    Sender *senders;
    uint8_t token[MULTIFD_TOKEN];
    uint32_t syncs;
    pthread_mutex_t mutex; /* of what follows, of the saver, and of senders[].channel while they are made */
    pthread_cond_t work, idle;
    unsigned count, busy;
    uint64_t bytes, until; /* all that was sent; the senders rest there */
    bool cancelled, ends;
    Error *err;
};

MultifdOut *multifd_out_new(Machine *machine, RamSaver *saver, const MigrationTls *tls)
{
    MultifdOut *out = g_new0(MultifdOut, 1);

    out->machine = machine;
    out->saver = saver;
    out->tls = tls;
    pthread_mutex_init(&out->mutex, NULL);
    pthread_cond_init(&out->work, NULL);
    pthread_cond_init(&out->idle, NULL);
    return out;
}

/* --- a sender's thread --- */

/* The next pages, when there are any to be sent now. The mutex is held. */
static bool take(MultifdOut *out, RamChunk *ret_chunk)
{
    return !out->err && out->bytes < out->until && ram_saver_take(out->saver, RAM_CHUNK_PAGES, ret_chunk);
}

static void send_chunk(Sender *sender, RamChunk *chunk)
{
    MultifdOut *out = sender->out;
    uint64_t before = sender->writer.bytes;

    pthread_mutex_unlock(&out->mutex);
    Error *err = ram_chunk_write(chunk, &sender->writer, &out->packing);
    pthread_mutex_lock(&out->mutex);
    out->bytes += sender->writer.bytes - before;
    ram_saver_count(out->saver, chunk);
    if (err && out->err) {
        error_free(err);
    } else if (err) {
        out->err = err;
    }
}

static void *sender_main(void *opaque)
{
    Sender *sender = opaque;
    MultifdOut *out = sender->out;
    RamChunk chunk;

    pthread_mutex_lock(&out->mutex);
    while (!out->ends) {
        while (!out->ends && take(out, &chunk)) {
            send_chunk(sender, &chunk);
        }
        if (--out->busy == 0) {
            pthread_cond_signal(&out->idle);
        }
        if (!out->ends) {
            pthread_cond_wait(&out->work, &out->mutex);
        }
        out->busy++;
    }
    out->busy--;
    pthread_cond_signal(&out->idle);
    pthread_mutex_unlock(&out->mutex);
    return NULL;
}

/* --- the migration's thread --- */

static MUST_USE Error *connect_one(MultifdOut *out, Sender *sender, unsigned index, const char *uri)
{
    Channel *channel;

    TRY(channel_open_out(out->machine, uri, &channel));
    *sender = (Sender) { .out = out, .index = index, .channel = channel };
    stream_writer_init(&sender->writer, channel_write, channel);
    pthread_mutex_lock(&out->mutex);
    out->count++;
    bool cancelled = out->cancelled;
    pthread_mutex_unlock(&out->mutex);
    if (cancelled) {
        return error_new("cancelled");
    }
    TRY(migration_tls_begin(out->tls, out->machine, channel));
    TRY(stream_write_header(&sender->writer));
    stream_begin(&sender->writer, RECORD_CHANNEL);
    stream_put_u32(&sender->writer, index);
    stream_put(&sender->writer, out->token, sizeof(out->token));
    TRY(stream_end(&sender->writer));
    pthread_mutex_lock(&out->mutex);
    out->bytes += sender->writer.bytes;
    out->busy++;
    pthread_mutex_unlock(&out->mutex);
    int rc = pthread_create(&sender->thread, NULL, sender_main, sender);
    sender->made = rc == 0;
    return rc ? error_new_errno(rc, "cannot make a thread of the migration") : NULL;
}

Error *multifd_out_connect(MultifdOut *out, StreamWriter *w, const MultifdOptions *options)
{
    if (getrandom(out->token, sizeof(out->token), 0) != sizeof(out->token)) {
        return error_new("the host gives no random numbers");
    }
    out->packing = options->packing;
    out->senders = g_new0(Sender, options->channels);
    stream_begin(w, RECORD_CHANNELS);
    stream_put_u32(w, options->channels);
    stream_put(w, out->token, sizeof(out->token));
    TRY(stream_end(w));
    for (unsigned n = 0; n < options->channels; n++) {
        Error *err = connect_one(out, &out->senders[n], n, options->uri);
        if (err) {
            return error_prefix(err, "connection %u of multifd: ", n + 1);
        }
    }
    return NULL;
}

static void wait_idle(MultifdOut *out)
{
    while (out->busy > 0) {
        pthread_cond_wait(&out->idle, &out->mutex);
    }
}

Error *multifd_out_send(MultifdOut *out, uint64_t budget)
{
    pthread_mutex_lock(&out->mutex);
    out->until = out->bytes + budget;
    pthread_cond_broadcast(&out->work);
    /* Before a sender has woken up, it is not busy: one that nobody has taken up is seen by what is left. */
    while (out->busy > 0 || (!out->err && out->saver->left > 0 && out->bytes < out->until)) {
        pthread_cond_wait(&out->idle, &out->mutex);
    }
    Error *err = g_steal_pointer(&out->err);
    pthread_mutex_unlock(&out->mutex);
    return err;
}

Error *multifd_out_sync(MultifdOut *out, StreamWriter *w)
{
    pthread_mutex_lock(&out->mutex);
    wait_idle(out);
    out->until = 0; /* nobody begins */
    pthread_mutex_unlock(&out->mutex);
    out->syncs++;
    for (unsigned n = 0; n < out->count; n++) {
        StreamWriter *writer = &out->senders[n].writer;
        stream_begin(writer, RECORD_SYNC);
        stream_put_u32(writer, out->syncs);
        TRY(stream_end(writer));
    }
    stream_begin(w, RECORD_SYNC);
    stream_put_u32(w, out->syncs);
    return stream_end(w);
}

uint64_t multifd_out_bytes(MultifdOut *out)
{
    pthread_mutex_lock(&out->mutex);
    uint64_t bytes = out->bytes;
    pthread_mutex_unlock(&out->mutex);
    return bytes;
}

void multifd_out_cancel(MultifdOut *out)
{
    if (!out) {
        return;
    }
    pthread_mutex_lock(&out->mutex);
    out->cancelled = true;
    for (unsigned n = 0; n < out->count; n++) {
        channel_cancel(out->senders[n].channel);
    }
    pthread_mutex_unlock(&out->mutex);
}

void multifd_out_free(MultifdOut *out)
{
    if (!out) {
        return;
    }
    pthread_mutex_lock(&out->mutex);
    out->ends = true;
    pthread_cond_broadcast(&out->work);
    pthread_mutex_unlock(&out->mutex);
    for (unsigned n = 0; n < out->count; n++) {
        Sender *sender = &out->senders[n];
        if (sender->made) {
            pthread_join(sender->thread, NULL);
        }
        stream_writer_fini(&sender->writer);
        channel_free(sender->channel);
    }
    error_free(out->err);
    pthread_cond_destroy(&out->work);
    pthread_cond_destroy(&out->idle);
    pthread_mutex_destroy(&out->mutex);
    g_free(out->senders);
    g_free(out);
}
