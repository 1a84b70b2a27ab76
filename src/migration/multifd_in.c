/* The destination's threads of multifd; see multifd.h. */
#include <stdatomic.h>
#include <string.h>

#include "migration/multifd.h"

typedef struct Receiver {
    MultifdIn *in;
    Channel *channel;
    StreamReader reader;
    pthread_t thread;
    bool made;
} Receiver;

struct MultifdIn {
    const RamLoader *loader;
    Machine *machine;
    const MigrationTls *tls;
    uint8_t token[MULTIFD_TOKEN];
    unsigned count;
    Receiver *receivers;
    bool seen[MULTIFD_MAX]; /* their numbers */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned arrived;    /* at the sync that comes next, of the receivers and the first connection */
    uint32_t syncs;      /* that all have passed */
    bool ends;
    Error *err;
    _Atomic bool failed; /* err is set */
};

/* --- syncs: everybody waits for everybody --- */

static MUST_USE Error *copy_failure(const MultifdIn *in)
{
    return in->ends ? error_new("cancelled") : in->err ? error_new("%s", error_message(in->err)) : NULL;
}

static MUST_USE Error *meet(MultifdIn *in, StreamReader *r)
{
    uint32_t number;

    TRY(stream_get_u32(r, &number));
    pthread_mutex_lock(&in->mutex);
    Error *err = number == in->syncs + 1 ? NULL : error_new("the saved state is damaged: a pass that is not the next one");
    if (!err && ++in->arrived == in->count + 1) {
        in->arrived = 0;
        in->syncs++;
        pthread_cond_broadcast(&in->changed);
    }
    while (!err && in->syncs < number) {
        err = copy_failure(in);
        if (!err) {
            pthread_cond_wait(&in->changed, &in->mutex);
        }
    }
    pthread_mutex_unlock(&in->mutex);
    return err;
}

Error *multifd_in_sync(MultifdIn *in, StreamReader *r)
{
    return meet(in, r);
}

Error *multifd_in_check(MultifdIn *in)
{
    if (!atomic_load(&in->failed)) {
        return NULL;
    }
    pthread_mutex_lock(&in->mutex);
    Error *err = copy_failure(in);
    pthread_mutex_unlock(&in->mutex);
    return err;
}

/* --- a receiver's thread --- */

static MUST_USE Error *greet(Receiver *receiver)
{
    MultifdIn *in = receiver->in;
    StreamReader *r = &receiver->reader;
    uint32_t number;
    const uint8_t *token;

    TRY(migration_tls_begin(in->tls, in->machine, receiver->channel));
    TRY(stream_read_header(r));
    TRY(stream_next(r));
    if (r->kind != RECORD_CHANNEL) {
        return error_new("a connection of multifd does not say which one it is");
    }
    TRY(stream_get_u32(r, &number));
    TRY(stream_get(r, MULTIFD_TOKEN, &token));
    pthread_mutex_lock(&in->mutex);
    bool known = number < in->count && !in->seen[number] && !memcmp(token, in->token, MULTIFD_TOKEN);
    if (known) {
        in->seen[number] = true;
    }
    pthread_mutex_unlock(&in->mutex);
    return known ? NULL : error_new("a connection of multifd belongs to another migration");
}

static MUST_USE Error *read_record(Receiver *receiver)
{
    StreamReader *r = &receiver->reader;

    TRY(stream_next(r));
    switch (r->kind) {
    case RECORD_RAM:
        return ram_loader_pages(receiver->in->loader, r);
    case RECORD_RAM_PACKED:
    case RECORD_RAM_ZSTD:
        return ram_loader_packed(receiver->in->loader, r);
    case RECORD_SYNC:
        return meet(receiver->in, r);
    default:
        return error_new("a connection of multifd has a record of kind %u", r->kind);
    }
}

static void note_failure(MultifdIn *in, Error *err)
{
    pthread_mutex_lock(&in->mutex);
    if (!in->err) {
        in->err = g_steal_pointer(&err);
        atomic_store(&in->failed, true);
        pthread_cond_broadcast(&in->changed);
    }
    pthread_mutex_unlock(&in->mutex);
    error_free(err);
}

void multifd_in_fail(MultifdIn *in)
{
    if (in) {
        note_failure(in, error_new("the migration has failed"));
    }
}

/* The source closes it when all is over; nobody asks for the error then. */
static void fail(Receiver *receiver, Error *err)
{
    note_failure(receiver->in, err);
    channel_drain(receiver->channel);
}

static void *receiver_main(void *opaque)
{
    Receiver *receiver = opaque;
    Error *err = greet(receiver);

    while (!err) {
        err = read_record(receiver);
    }
    fail(receiver, err);
    return NULL;
}

/* --- the migration's thread --- */

static MUST_USE Error *take_connections(MultifdIn *in, Channel *first, int listener)
{
    for (unsigned n = 0; n < in->count; n++) {
        Receiver *receiver = &in->receivers[n];
        receiver->in = in;
        TRY(channel_accept(first, listener, &receiver->channel));
        stream_reader_init(&receiver->reader, channel_read, receiver->channel);
        int rc = pthread_create(&receiver->thread, NULL, receiver_main, receiver);
        receiver->made = rc == 0;
        if (rc) {
            return error_new_errno(rc, "cannot make a thread of the migration");
        }
    }
    return NULL;
}

Error *multifd_in_new(Machine *machine, const RamLoader *loader, StreamReader *r, Channel *first, int listener, const MigrationTls *tls,
                      MultifdIn **ret_in)
{
    uint32_t count;
    const uint8_t *token;

    TRY(stream_get_u32(r, &count));
    TRY(stream_get(r, MULTIFD_TOKEN, &token));
    if (count == 0 || count > MULTIFD_MAX) {
        return error_new("the saved state is damaged: %u connections of multifd", count);
    }
    if (listener < 0) {
        return error_hint(error_new("the source sends through several connections, which was not expected here"),
                          "Switch the migration capability multifd on at both sides.");
    }
    MultifdIn *in = g_new0(MultifdIn, 1);
    in->machine = machine;
    in->loader = loader;
    in->tls = tls;
    in->count = count;
    memcpy(in->token, token, MULTIFD_TOKEN);
    in->receivers = g_new0(Receiver, count);
    pthread_mutex_init(&in->mutex, NULL);
    pthread_cond_init(&in->changed, NULL);
    Error *err = take_connections(in, first, listener);
    if (err) {
        multifd_in_free(in);
        return err;
    }
    *ret_in = in;
    return NULL;
}

void multifd_in_free(MultifdIn *in)
{
    if (!in) {
        return;
    }
    pthread_mutex_lock(&in->mutex);
    in->ends = true;
    pthread_cond_broadcast(&in->changed);
    pthread_mutex_unlock(&in->mutex);
    for (unsigned n = 0; n < in->count; n++) {
        Receiver *receiver = &in->receivers[n];
        if (receiver->made) {
            channel_cancel(receiver->channel);
            pthread_join(receiver->thread, NULL);
        }
        if (receiver->channel) {
            stream_reader_fini(&receiver->reader);
            channel_free(receiver->channel);
        }
    }
    error_free(in->err);
    pthread_cond_destroy(&in->changed);
    pthread_mutex_destroy(&in->mutex);
    g_free(in->receivers);
    g_free(in);
}
