/* The destination of a post-copy migration; see postcopy.h. */
#include "migration/postcopy.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"
#include "migration/blocktime.h"
#include "migration/in_priv.h"

enum { WAITING_MAX = 4096 };

struct PostcopyIn {
    MigrationIn *in;
    const RamLoader *ram;
    uint8_t token[POSTCOPY_TOKEN];
    GPtrArray *missing; /* by block: a byte a page, or NULL */
    LazyRam *lazy;
    pthread_t starter; /* loads the devices and lets the machine run */
    bool starter_made;
    Error *refusal; /* the devices do not load */
    int wake;       /* an eventfd: look whether something was asked for */
    Work run_work, status_work; /* main loop */
    _Atomic unsigned status; /* to be shown */
    pthread_mutex_t send; /* of the channel's writing side and of its replacement */
    bool connected;
    GHashTable *waiting; /* pages that were asked for, block << 40 | page */
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    _Atomic bool committed; /* it says, or has said, that it is ready */
    _Atomic bool go;
    bool ended, abandoned, paused;
    Channel *recovered; /* a new connection, or */
    int listener;       /* where one comes */
};

/* --- what is missing --- */

Error *postcopy_in_discard(PostcopyIn *post, StreamReader *r)
{
    uint32_t number;

    TRY(stream_get_u32(r, &number));
    if (number >= post->ram->blocks->len) {
        return error_new("the saved state is damaged: memory number %u", number);
    }
    const RamBlock *block = g_ptr_array_index(post->ram->blocks, number);
    uint64_t pages = block->size >> MEM_PAGE_BITS;
    if (post->missing->len < post->ram->blocks->len) {
        g_ptr_array_set_size(post->missing, (gint)post->ram->blocks->len);
    }
    if (!post->missing->pdata[number]) {
        post->missing->pdata[number] = g_malloc0(pages);
    }
    for (uint64_t first, count, end = 0; r->at < r->end; end = first + count) {
        TRY(stream_get_u64(r, &first));
        TRY(stream_get_u64(r, &count));
        if (first < end || !range_inside(first, count, pages)) {
            return error_new("the saved state is damaged: pages outside of '%s'", block->name);
        }
        memset((uint8_t *)post->missing->pdata[number] + first, 1, count);
    }
    return NULL;
}

static uint32_t number_of(const PostcopyIn *post, const RamBlock *block)
{
    guint number = 0;
    g_ptr_array_find(post->ram->blocks, block, &number);
    return number;
}

/* --- saying --- */

/* The reader notices by itself when it cannot be said. */
static void say(PostcopyIn *post, const void *data, size_t length)
{
    if (post->connected) {
        error_free(channel_write(post->in->channel, data, length));
    }
}

static void say_wanted(PostcopyIn *post, uint64_t key)
{
    uint8_t bytes[13] = { MSG_WANTED };

    st32_le(bytes + 1, (uint32_t)(key >> 40));
    st64_le(bytes + 5, key & (BIT64(40) - 1));
    say(post, bytes, sizeof(bytes));
}

static void say_byte(PostcopyIn *post, uint8_t byte)
{
    pthread_mutex_lock(&post->send);
    say(post, &byte, 1);
    pthread_mutex_unlock(&post->send);
}

static gboolean is_here(gpointer key, gpointer value, gpointer opaque)
{
    PostcopyIn *post = opaque;
    uint64_t number = *(const gint64 *)key;
    const RamBlock *block = g_ptr_array_index(post->ram->blocks, number >> 40);
    return lazy_ram_is_present(post->lazy, block, number & (BIT64(40) - 1));
}

/* It may have come before the wait was noted. */
static void note_wait(Blocktime *blocktime, LazyRam *lazy, const RamBlock *block, uint64_t page, pid_t thread)
{
    blocktime_wait(blocktime, thread, block, page);
    if (lazy_ram_is_present(lazy, block, page)) {
        blocktime_came(blocktime, block, page, 1);
    }
}

static void placed(void *opaque, RamBlock *block, uint64_t first, uint64_t count)
{
    const PostcopyIn *post = opaque;

    if (post->in->migration->blocktime) {
        blocktime_came(post->in->migration->blocktime, block, first, count);
    }
}

/* The thread of lazy_ram. */
static void want(void *opaque, LazyRam *lazy, RamBlock *block, uint64_t page, pid_t thread)
{
    PostcopyIn *post = opaque;
    Blocktime *blocktime = post->in->migration->blocktime;
    gint64 key = (gint64)((uint64_t)number_of(post, block) << 40 | page);

    if (blocktime) {
        note_wait(blocktime, lazy, block, page, thread);
    }
    pthread_mutex_lock(&post->send);
    if (g_hash_table_size(post->waiting) >= WAITING_MAX) {
        g_hash_table_foreach_remove(post->waiting, is_here, post);
    }
    if (!g_hash_table_contains(post->waiting, &key)) {
        g_hash_table_add(post->waiting, g_memdup2(&key, sizeof(key)));
        say_wanted(post, (uint64_t)key);
    }
    pthread_mutex_unlock(&post->send);
}

static void failed(void *opaque, const Error *err)
{
}

static const LazyRamProvider provider = { .want = want, .placed = placed, .failed = failed };

/* --- the main loop's part --- */

static void show_status(void *opaque)
{
    PostcopyIn *post = opaque;
    migration_set_status(post->in->migration, (MigrationStatus)atomic_load(&post->status));
}

/* Later, since who holds the machine lock may be waiting for a page. */
static void set_status(PostcopyIn *post, MigrationStatus status)
{
    atomic_store(&post->status, status);
    work_schedule(&post->status_work);
}

static void run_now(void *opaque)
{
    PostcopyIn *post = opaque;
    migration_in_run_machine(post->in);
}

/* --- the thread that starts the machine --- */

static MUST_USE Error *load_devices(PostcopyIn *post)
{
    MigrationIn *in = post->in;
    Machine *machine = in->machine;

    lock_acquire(&machine->lock);
    Error *err = in->cancelled ? error_new("cancelled") : state_loader_finish(in->loader, &in->state);
    lock_release(&machine->lock);
    return err ? err : migration_in_take_disks(in);
}

static void *starter_main(void *opaque)
{
    PostcopyIn *post = opaque;
    Error *err = load_devices(post);

    pthread_mutex_lock(&post->mutex);
    post->refusal = err;
    bool committed = !err && !post->abandoned;
    post->committed = committed;
    pthread_mutex_unlock(&post->mutex);
    if (!committed) {
        pthread_mutex_lock(&post->send);
        if (err) {
            migration_in_refuse(post->in, err);
        }
        pthread_mutex_unlock(&post->send);
        return NULL;
    }
    say_byte(post, MSG_READY);
    pthread_mutex_lock(&post->mutex);
    while (!post->go && !post->abandoned) {
        pthread_cond_wait(&post->changed, &post->mutex);
    }
    bool go = post->go;
    pthread_mutex_unlock(&post->mutex);
    if (go) {
        work_schedule(&post->run_work);
    }
    return NULL;
}

/* --- the migration's thread: pages --- */

static void allow_to_go(PostcopyIn *post)
{
    pthread_mutex_lock(&post->mutex);
    post->go = true;
    pthread_cond_broadcast(&post->changed);
    pthread_mutex_unlock(&post->mutex);
}

static MUST_USE Error *read_record(PostcopyIn *post)
{
    StreamReader *r = &post->in->reader;
    uint32_t answers;

    TRY(stream_next(r));
    switch (r->kind) {
    case RECORD_RAM:
        return ram_loader_pages(post->ram, r);
    case RECORD_GO:
        if (!post->committed) {
            return error_new("the source lets the machine run before it is ready");
        }
        allow_to_go(post);
        return NULL;
    case RECORD_END:
        TRY(stream_get_u32(r, &answers));
        post->ended = true;
        return post->go ? NULL : error_new("the saved state is damaged: it ends before the machine may run");
    default:
        return error_new("the saved state is damaged: a record of kind %u has no place after the devices", r->kind);
    }
}

static bool pages_are_missing(const PostcopyIn *post)
{
    for (guint n = 0; n < post->missing->len; n++) {
        const RamBlock *block = g_ptr_array_index(post->ram->blocks, n);
        for (uint64_t page = 0; post->missing->pdata[n] && page < block->size >> MEM_PAGE_BITS; page++) {
            if (!lazy_ram_is_present(post->lazy, block, page)) {
                return true;
            }
        }
    }
    return false;
}

static MUST_USE Error *read_pages(PostcopyIn *post)
{
    while (!post->ended) {
        TRY(read_record(post));
    }
    if (pages_are_missing(post)) {
        post->ended = false;
        return error_new("the saved state is damaged: it ends before all pages are there");
    }
    return NULL;
}

/* --- another connection --- */

static void drop_connection(PostcopyIn *post, const Error *why)
{
    MigrationIn *in = post->in;

    error_report(error_new("the post-copy migration is paused: %s", error_message(why)));
    pthread_mutex_lock(&post->send);
    post->connected = false;
    pthread_mutex_lock(&in->mutex);
    Channel *old = g_steal_pointer(&in->channel);
    pthread_mutex_unlock(&in->mutex);
    pthread_mutex_unlock(&post->send);
    channel_free(old);
    pthread_mutex_lock(&post->mutex);
    post->paused = true;
    pthread_mutex_unlock(&post->mutex);
    set_status(post, MIGRATION_POSTCOPY_PAUSED);
}

static int accept_from(int listener)
{
    return listener >= 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
}

/* Where migrate-recover says, or where the first connection came. NULL: abandoned. */
static Channel *wait_for_another(PostcopyIn *post)
{
    Channel *channel = NULL;
    uint64_t count;

    for (;;) {
        pthread_mutex_lock(&post->mutex);
        struct pollfd fds[] = { { .fd = post->wake, .events = POLLIN }, { .fd = post->listener, .events = POLLIN },
                                { .fd = post->in->listener, .events = POLLIN } };
        bool abandoned = post->abandoned;
        channel = g_steal_pointer(&post->recovered);
        pthread_mutex_unlock(&post->mutex);
        if (channel || abandoned) {
            return channel;
        }
        poll(fds, ARRAY_SIZE(fds), -1); /* a descriptor of -1 is passed over */
        ssize_t got = fds[0].revents ? read(post->wake, &count, sizeof(count)) : 0;
        (void)got;
        int fd = fds[1].revents ? accept_from(fds[1].fd) : fds[2].revents ? accept_from(fds[2].fd) : -1;
        if (fd >= 0) {
            return channel_of_fd(fd);
        }
    }
}

static void put_missing(PostcopyIn *post, GByteArray *out)
{
    uint8_t head[5] = { MSG_MISSING }, size[8];

    st32_le(head + 1, post->ram->blocks->len);
    g_byte_array_append(out, head, sizeof(head));
    for (guint n = 0; n < post->ram->blocks->len; n++) {
        const RamBlock *block = g_ptr_array_index(post->ram->blocks, n);
        uint64_t pages = block->size >> MEM_PAGE_BITS;
        st64_le(size, pages);
        g_byte_array_append(out, size, sizeof(size));
        guint at = out->len;
        g_byte_array_set_size(out, at + (guint)((pages + 7) / 8));
        memset(out->data + at, 0, out->len - at);
        for (uint64_t page = 0; page < pages; page++) {
            if (!lazy_ram_is_present(post->lazy, block, page)) {
                out->data[at + page / 8] |= (uint8_t)(1u << page % 8);
            }
        }
    }
}

/* First what is missing, then what somebody waits for. */
static MUST_USE Error *answer_resume(PostcopyIn *post)
{
    g_autoptr(GByteArray) missing = g_byte_array_new();
    GHashTableIter at;
    gpointer key;

    put_missing(post, missing);
    pthread_mutex_lock(&post->send);
    Error *err = channel_write(post->in->channel, missing->data, missing->len);
    g_hash_table_foreach_remove(post->waiting, is_here, post);
    post->connected = true;
    g_hash_table_iter_init(&at, post->waiting);
    while (g_hash_table_iter_next(&at, &key, NULL)) {
        say_wanted(post, (uint64_t)*(const gint64 *)key);
    }
    pthread_mutex_unlock(&post->send);
    return err;
}

static MUST_USE Error *greet_again(PostcopyIn *post, Channel *channel)
{
    MigrationIn *in = post->in;
    const uint8_t *token;

    pthread_mutex_lock(&in->mutex);
    in->channel = channel;
    pthread_mutex_unlock(&in->mutex);
    TRY(migration_tls_begin(&in->tls, in->machine, channel));
    stream_reader_fini(&in->reader);
    stream_reader_init(&in->reader, channel_read, channel);
    TRY(stream_read_header(&in->reader));
    TRY(stream_next(&in->reader));
    if (in->reader.kind != RECORD_RESUME) {
        return error_new("the connection does not resume a migration");
    }
    TRY(stream_get(&in->reader, POSTCOPY_TOKEN, &token));
    if (memcmp(token, post->token, POSTCOPY_TOKEN)) {
        return error_new("the connection resumes another migration");
    }
    pthread_mutex_lock(&post->mutex);
    post->paused = false;
    if (post->listener >= 0) {
        channel_close_listener(post->listener);
        post->listener = -1;
    }
    pthread_mutex_unlock(&post->mutex);
    TRY(answer_resume(post));
    allow_to_go(post); /* the source does not resume what it has not let go */
    set_status(post, MIGRATION_POSTCOPY_ACTIVE);
    return NULL;
}

/* Until all pages are there. An error: abandoned, or the machine was not let go yet. */
static MUST_USE Error *bring_pages(PostcopyIn *post)
{
    Error *err = read_pages(post);

    for (;;) {
        pthread_mutex_lock(&post->mutex);
        bool hopeless = !post->committed || post->abandoned;
        post->abandoned |= err && hopeless;
        pthread_mutex_unlock(&post->mutex);
        if (!err || hopeless) {
            return err;
        }
        drop_connection(post, err);
        error_free(err);
        Channel *channel = wait_for_another(post);
        if (!channel) {
            return error_new("cancelled");
        }
        set_status(post, MIGRATION_POSTCOPY_RECOVER);
        err = greet_again(post, channel);
        err = err ? err : read_pages(post);
    }
}

static MUST_USE Error *make_lazy(PostcopyIn *post)
{
    post->lazy = lazy_ram_new(post->in->migration->lazy_host, &provider, post);
    for (guint n = 0; n < post->missing->len; n++) {
        RamBlock *block = g_ptr_array_index(post->ram->blocks, n);
        int ret = post->missing->pdata[n] ? lazy_ram_add(post->lazy, block, post->missing->pdata[n]) : 0;
        if (ret) {
            return error_new_errno(ret, "the memory '%s' cannot be loaded page by page", block->name);
        }
    }
    return lazy_ram_start(post->lazy);
}

Error *postcopy_in_run(PostcopyIn *post)
{
    TRY(make_lazy(post));
    state_loader_ram(post->in->loader)->lazy = post->lazy;
    set_status(post, MIGRATION_POSTCOPY_ACTIVE);
    post->connected = true;
    int rc = pthread_create(&post->starter, NULL, starter_main, post);
    if (rc) {
        return error_new_errno(rc, "cannot make a thread of the migration");
    }
    post->starter_made = true;
    Error *err = bring_pages(post);
    if (!err) {
        lazy_ram_end(post->lazy);
        say_byte(post, MSG_DONE);
    } else {
        postcopy_in_abandon(post);
    }
    pthread_join(post->starter, NULL);
    post->starter_made = false;
    if (post->refusal) {
        error_free(err);
        err = g_steal_pointer(&post->refusal);
    }
    return err;
}

/* --- life --- */

Error *postcopy_in_new(MigrationIn *in, StreamReader *r, PostcopyIn **ret_post)
{
    const uint8_t *token;

    TRY(stream_get(r, POSTCOPY_TOKEN, &token));
    if (!in->migration->caps.postcopy) {
        return error_hint(error_new("the source wants post-copy, which was not expected here"),
                          "Switch the migration capability postcopy-ram on at both sides.");
    }
    PostcopyIn *post = g_new0(PostcopyIn, 1);
    memcpy(post->token, token, POSTCOPY_TOKEN);
    post->in = in;
    post->ram = state_loader_ram(in->loader);
    post->missing = g_ptr_array_new_with_free_func(g_free);
    post->waiting = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    post->listener = -1;
    post->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    work_init(&post->run_work, in->machine->loop, run_now, post);
    work_init(&post->status_work, in->machine->loop, show_status, post);
    pthread_mutex_init(&post->send, NULL);
    pthread_mutex_init(&post->mutex, NULL);
    pthread_cond_init(&post->changed, NULL);
    *ret_post = post;
    return post->wake < 0 ? error_new_errno(errno, "cannot make an event descriptor") : NULL;
}

bool postcopy_in_is_paused(PostcopyIn *post)
{
    pthread_mutex_lock(&post->mutex);
    bool paused = post->paused;
    pthread_mutex_unlock(&post->mutex);
    return paused;
}

static void wake(PostcopyIn *post)
{
    uint64_t one = 1;
    ssize_t done = write(post->wake, &one, sizeof(one));
    (void)done;
}

Error *postcopy_in_recover(PostcopyIn *post, const char *uri)
{
    Channel *channel = NULL;
    int listener = -1;

    if (!postcopy_in_is_paused(post)) {
        return error_new("No post-copy migration is paused here, so there is none to recover");
    }
    TRY(channel_open_in(post->in->machine, uri, &channel, &listener));
    pthread_mutex_lock(&post->mutex);
    bool again = post->recovered || post->listener >= 0;
    if (!again) {
        post->recovered = channel;
        post->listener = listener;
    }
    pthread_mutex_unlock(&post->mutex);
    if (again) {
        channel_free(channel);
        if (listener >= 0) {
            channel_close_listener(listener);
        }
        return error_new("The post-copy migration waits for its new connection already");
    }
    wake(post);
    return NULL;
}

void postcopy_in_abandon(PostcopyIn *post)
{
    pthread_mutex_lock(&post->mutex);
    post->abandoned = true;
    pthread_cond_broadcast(&post->changed);
    pthread_mutex_unlock(&post->mutex);
    wake(post);
    if (post->lazy) {
        lazy_ram_fail(post->lazy, error_new("the migration was given up"));
    }
}

void postcopy_in_free(PostcopyIn *post)
{
    if (!post) {
        return;
    }
    state_loader_ram(post->in->loader)->lazy = NULL;
    lazy_ram_free(post->lazy);
    work_fini(&post->run_work);
    work_fini(&post->status_work);
    g_ptr_array_unref(post->missing);
    g_hash_table_unref(post->waiting);
    channel_free(post->recovered);
    if (post->listener >= 0) {
        channel_close_listener(post->listener);
    }
    if (post->wake >= 0) {
        close(post->wake);
    }
    pthread_cond_destroy(&post->changed);
    pthread_mutex_destroy(&post->mutex);
    pthread_mutex_destroy(&post->send);
    g_free(post);
}
