/*
 * Driver "nfs": a file of an NFS server, through libnfs, which is opened when first used; nothing is mounted.
 *
 * The library's blocking calls wait for a silent server without end, or leave it writing to what is gone when they give up.
 * So its other calls are used, on worker threads all the same: a call that was given up is forgotten when its answer comes.
 *
 * Missing: creating files; sparse files are written out in full.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <nfsc/libnfs.h>

#include "base/library.h"
#include "block/protocol/remote.h"

#define NFS_CALLS(C) \
    C(nfs_init_context) C(nfs_destroy_context) C(nfs_get_error) C(nfs_parse_url_incomplete) C(nfs_destroy_url) \
    C(nfs_mount_async) C(nfs_open_async) C(nfs_close_async) C(nfs_fstat64_async) C(nfs_pread_async) C(nfs_pwrite_async) \
    C(nfs_fsync_async) C(nfs_ftruncate_async) C(nfs_get_readmax) C(nfs_get_writemax) C(nfs_get_fd) C(nfs_which_events) \
    C(nfs_service)
typedef struct NfsApi {
    NFS_CALLS(LIBRARY_POINTER)
} NfsApi;
#define NFS_CALL(name) LIBRARY_CALL(NfsApi, name)
static const LibraryCall nfs_calls[] = { NFS_CALLS(NFS_CALL) };
static const Library nfs_library = { "the NFS library", "libnfs.so.13", "libnfs13", nfs_calls, G_N_ELEMENTS(nfs_calls) };

enum { DEFAULT_TIMEOUT = 60, TIMEOUT_MAX = 86400, POLL_MS = 100 };

typedef struct NfsState {
    NfsApi lib;
    struct nfs_context *context;
    struct nfsfh *file;
    char *host, *path;
    char *settings; /* of the library, as in its URLs: "uid=0&version=4" */
    uint64_t chunk, timeout; /* seconds; 0: none */
    bool writes, silent;     /* silent: the last call was not answered in time */
    RemoteLine line;
} NfsState;

/* --- calls: on a worker thread --- */

typedef struct NfsWait {
    int status;
    bool done, given_up;
    void (*take)(void *out, const void *data, int status); /* of a call that succeeded; NULL: nothing */
    void *out;     /* the caller's, who is gone when it has given up */
    uint8_t *sent; /* data of a write, owned */
} NfsWait;

static void wait_free(NfsWait *wait)
{
    g_free(wait->sent);
    g_free(wait);
}

static void answered(int status, struct nfs_context *context, void *data, void *opaque)
{
    NfsWait *wait = opaque;

    if (wait->given_up) {
        wait_free(wait);
        return;
    }
    wait->done = true;
    wait->status = status;
    if (status >= 0 && wait->take) {
        wait->take(wait->out, data, status);
    }
}

static NfsWait *wait_new(void (*take)(void *out, const void *data, int status), void *out)
{
    NfsWait *wait = g_new0(NfsWait, 1);
    wait->take = take;
    wait->out = out;
    return wait;
}

/* started: what the library's call said. 0 or more, or -errno. */
static int wait_answer(NfsState *s, NfsWait *wait, int started)
{
    int64_t end = s->timeout ? g_get_monotonic_time() + (int64_t)s->timeout * G_USEC_PER_SEC : INT64_MAX;
    int status = 0;

    if (started < 0) {
        wait_free(wait);
        return -EIO;
    }
    while (!wait->done && status == 0) {
        struct pollfd fd = { .fd = s->lib.nfs_get_fd(s->context), .events = (short)s->lib.nfs_which_events(s->context) };
        int ready = poll(&fd, 1, POLL_MS);
        if (s->lib.nfs_service(s->context, ready > 0 ? fd.revents : 0) < 0) {
            status = -EIO;
        } else if (g_get_monotonic_time() > end) {
            status = -ETIMEDOUT;
        }
    }
    s->silent = !wait->done && status == -ETIMEDOUT;
    if (!wait->done) {
        wait->given_up = true; /* the library has it */
        return status;
    }
    status = wait->status;
    wait_free(wait);
    return status;
}

/* --- connecting: on a worker thread --- */

static void take_file(void *out, const void *data, int status)
{
    *(struct nfsfh **)out = (struct nfsfh *)data;
}

static void take_facts(void *out, const void *data, int status)
{
    *(struct nfs_stat_64 *)out = *(const struct nfs_stat_64 *)data;
}

static int call_mount(NfsState *s, const char *directory)
{
    NfsWait *wait = wait_new(NULL, NULL);
    return wait_answer(s, wait, s->lib.nfs_mount_async(s->context, s->host, directory, answered, wait));
}

static int call_open(NfsState *s, const char *name)
{
    NfsWait *wait = wait_new(take_file, &s->file);
    return wait_answer(s, wait, s->lib.nfs_open_async(s->context, name, s->writes ? O_RDWR : O_RDONLY, answered, wait));
}

static int call_fstat(NfsState *s, struct nfs_stat_64 *facts)
{
    NfsWait *wait = wait_new(take_facts, facts);
    return wait_answer(s, wait, s->lib.nfs_fstat64_async(s->context, s->file, answered, wait));
}

static Error *nfs_error(const NfsState *s, const char *what)
{
    if (s->silent) {
        return error_new("NFS: %s: the server did not answer within %" PRIu64 " seconds", what, s->timeout);
    }
    return error_new("NFS: %s: %s", what, s->context ? s->lib.nfs_get_error(s->context) : "no memory");
}

/* The library takes its settings out of a URL only. */
static Error *use_settings(NfsState *s)
{
    g_autofree char *url = g_strdup_printf("nfs://?%s", s->settings);
    struct nfs_url *parsed = *s->settings ? s->lib.nfs_parse_url_incomplete(s->context, url) : NULL;
    if (!parsed && *s->settings) {
        return nfs_error(s, "could not use the options");
    }
    if (parsed) {
        s->lib.nfs_destroy_url(parsed);
    }
    return NULL;
}

typedef struct ConnectCall {
    NfsState *s;
    uint64_t size;
    Error *err;
} ConnectCall;

static Error *connect_steps(ConnectCall *call)
{
    NfsState *s = call->s;
    struct nfs_stat_64 facts;
    g_autofree char *directory = g_path_get_dirname(s->path), *name = g_path_get_basename(s->path);
    g_autofree char *file = g_strconcat("/", name, NULL);

    TRY(library_open(&nfs_library, &s->lib)); /* it may need more stack than coroutines have */
    s->context = s->lib.nfs_init_context();
    if (!s->context) {
        return nfs_error(s, "could not begin");
    }
    TRY(use_settings(s));
    if (call_mount(s, directory) < 0) {
        g_autofree char *what = g_strdup_printf("could not mount %s of %s", directory, s->host);
        return nfs_error(s, what);
    }
    if (call_open(s, file) < 0) {
        g_autofree char *what = g_strdup_printf("could not open '%s'", s->path);
        return nfs_error(s, what);
    }
    if (call_fstat(s, &facts) < 0 || facts.nfs_size > INT64_MAX) {
        return nfs_error(s, "could not read the file's size");
    }
    if (!S_ISREG(facts.nfs_mode)) {
        return error_new("NFS: '%s' is not a regular file", s->path);
    }
    call->size = facts.nfs_size;
    s->chunk = MAX(MIN(s->lib.nfs_get_readmax(s->context), s->lib.nfs_get_writemax(s->context)), 4096);
    return NULL;
}

static void hang_up(NfsState *s)
{
    if (s->file && !s->silent) {
        NfsWait *wait = wait_new(NULL, NULL);
        wait_answer(s, wait, s->lib.nfs_close_async(s->context, s->file, answered, wait));
    }
    if (s->context) {
        s->lib.nfs_destroy_context(s->context);
    }
    s->file = NULL;
    s->context = NULL;
}

static int connect_call(void *opaque)
{
    ConnectCall *call = opaque;
    call->err = connect_steps(call);
    if (call->err) {
        hang_up(call->s);
    }
    return 0;
}

static int hang_up_call(void *opaque)
{
    hang_up(opaque);
    return 0;
}

/* --- requests: on a worker thread --- */

typedef struct Piece {
    uint8_t *data;
    uint64_t bytes;
} Piece;

static void take_bytes(void *out, const void *data, int status)
{
    const Piece *piece = out;
    memcpy(piece->data, data, MIN((uint64_t)status, piece->bytes));
}

static int call_pread(NfsState *s, uint64_t offset, Piece piece)
{
    NfsWait *wait = wait_new(take_bytes, &piece);
    return wait_answer(s, wait, s->lib.nfs_pread_async(s->context, s->file, offset, piece.bytes, answered, wait));
}

static int call_pwrite(NfsState *s, uint64_t offset, Piece piece)
{
    NfsWait *wait = wait_new(NULL, NULL);
    wait->sent = g_memdup2(piece.data, piece.bytes);
    return wait_answer(s, wait, s->lib.nfs_pwrite_async(s->context, s->file, offset, piece.bytes, wait->sent, answered, wait));
}

static int read_call(void *opaque)
{
    RemoteCall *call = opaque;
    NfsState *s = call->state;
    for (uint64_t done = 0; done < call->bytes;) {
        Piece piece = { call->data + done, MIN(call->bytes - done, s->chunk) };
        int got = call_pread(s, call->offset + done, piece);
        if (got < 0) {
            return got;
        }
        if (got == 0) { /* the file has become shorter */
            memset(call->data + done, 0, (size_t)(call->bytes - done));
            break;
        }
        done += MIN((uint64_t)got, piece.bytes);
    }
    return 0;
}

static int write_call(void *opaque)
{
    RemoteCall *call = opaque;
    NfsState *s = call->state;
    for (uint64_t done = 0; done < call->bytes;) {
        Piece piece = { call->data + done, MIN(call->bytes - done, s->chunk) };
        int put = call_pwrite(s, call->offset + done, piece);
        if (put <= 0) {
            return put < 0 ? put : -EIO;
        }
        done += MIN((uint64_t)put, piece.bytes);
    }
    return 0;
}

static int flush_call(void *opaque)
{
    NfsState *s = ((RemoteCall *)opaque)->state;
    NfsWait *wait = wait_new(NULL, NULL);
    return MIN(wait_answer(s, wait, s->lib.nfs_fsync_async(s->context, s->file, answered, wait)), 0);
}

static int truncate_call(void *opaque)
{
    RemoteCall *call = opaque;
    NfsState *s = call->state;
    NfsWait *wait = wait_new(NULL, NULL);
    return MIN(wait_answer(s, wait, s->lib.nfs_ftruncate_async(s->context, s->file, call->offset, answered, wait)), 0);
}

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return remote_read_co(node, &((NfsState *)node->state)->line, read_call, offset, bytes, vec, at);
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    return remote_write_co(node, &((NfsState *)node->state)->line, write_call, offset, bytes, vec, at);
}

static int flush_co(BlockNode *node)
{
    return node->read_only ? 0 : remote_call_co(node, &((NfsState *)node->state)->line, flush_call, 0, 0);
}

static Error *truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    if (prealloc != PREALLOC_OFF) {
        return error_new("Preallocation '%s' is not possible here",
                         block_preallocation_name(prealloc));
    }
    int ret = remote_call_co(node, &((NfsState *)node->state)->line, truncate_call, size, 0);
    if (ret < 0) {
        return error_new_errno(ret, "Could not resize the file on the NFS server");
    }
    node->size = size;
    return NULL;
}

/* --- options --- */

static const struct {
    const char *option, *url, *setting; /* setting: in the library's URLs */
} settings[] = {
    { "user", "uid", "uid" },
    { "group", "gid", "gid" },
    { "tcp-syn-count", "tcp-syncnt", "tcp-syncnt" },
    { "readahead-size", "readahead", "readahead" },
    { "page-cache-size", "pagecache", "pagecache" },
    { "debug", "debug", "debug" },
    { "nfs-version", "version", "version" },
    { "nfs-port", "nfsport", "nfsport" },
    { "mount-port", "mountport", "mountport" },
    { "timeout", "timeout", NULL }, /* ours */
};

/* nfs://HOST/PATH[?uid=NUMBER&...] */
static Error *parse_filename(const char *filename, KeyValues *opts)
{
    g_autoptr(GError) gerr = NULL;
    g_autoptr(GUri) uri = g_uri_parse(filename, G_URI_FLAGS_NONE, &gerr);
    if (!uri || !g_uri_get_host(uri) || !*g_uri_get_host(uri) || strlen(g_uri_get_path(uri)) < 2) {
        return error_new("'%s' is not of the form nfs://HOST/PATH", filename);
    }
    keyvalues_set(opts, "server.host", g_uri_get_host(uri));
    keyvalues_set(opts, "path", g_uri_get_path(uri));
    g_auto(GStrv) parts = g_strsplit(g_uri_get_query(uri) ? g_uri_get_query(uri) : "", "&", -1);
    for (char **part = parts; *part; part++) {
        char *value = strchr(*part, '=');
        size_t i = 0;
        if (value) {
            *value++ = '\0';
        }
        while (i < ARRAY_SIZE(settings) && strcmp(settings[i].url, *part)) {
            i++;
        }
        if (i == ARRAY_SIZE(settings) || !value) {
            return error_new("'%s' is not known in a URI of NFS: uid, gid, tcp-syncnt, readahead, pagecache, debug, version, nfsport, "
                             "mountport and timeout are, each with =NUMBER", *part);
        }
        keyvalues_set(opts, settings[i].option, value);
    }
    return NULL;
}

static Error *take_options(NfsState *s, KeyValues *opts)
{
    g_autofree char *type = keyvalues_take(opts, "server.type");
    g_autoptr(GString) text = g_string_new(NULL);

    s->host = keyvalues_take(opts, "server.host");
    s->path = keyvalues_take(opts, "path");
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        uint64_t value;
        bool given = keyvalues_has(opts, settings[i].option);
        if (!settings[i].setting) {
            continue;
        }
        TRY(block_take_num(opts, settings[i].option, 0, &value));
        if (value > INT32_MAX) {
            return error_new("%s=%" PRIu64 " is out of range", settings[i].option, value);
        }
        if (given) {
            g_string_append_printf(text, "%s%s=%" PRIu64, text->len ? "&" : "", settings[i].setting, value);
        }
    }
    s->settings = g_strdup(text->str);
    TRY(block_take_num(opts, "timeout", DEFAULT_TIMEOUT, &s->timeout));
    if (s->timeout > TIMEOUT_MAX) {
        return error_new("nfs: timeout is at most %d seconds", TIMEOUT_MAX);
    }
    if (type && strcmp(type, "inet")) {
        return error_new("server.type=%s: only inet is known here", type);
    }
    if (!s->host || !s->path || *s->path != '/') {
        return error_new(s->host ? "nfs needs 'path', from the server's root" : "nfs needs 'server.host'");
    }
    return NULL;
}

/* --- opening --- */

static void release(void *opaque)
{
    NfsState *s = opaque;
    g_free(s->host);
    g_free(s->path);
    g_free(s->settings);
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts)
{
    NfsState *s = node->state;
    ConnectCall call = { .s = s };

    TRY(take_options(s, opts));
    s->writes = !node->read_only;
    remote_line_init(&s->line);
    co_blocking_long(connect_call, &call);
    TRY(call.err);
    node->size = call.size;
    node->limits.request_align = 1;
    node->limits.max_transfer = 1 << 20;
    node->filename = g_strdup_printf("nfs://%s%s", s->host, s->path);
    return NULL;
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    return remote_open_co(node, opts, open_steps_co, release);
}

static void close_co(BlockNode *node)
{
    remote_close_co(node, hang_up_call, release);
}

static const BlockOption options[] = {
    { "server.host", OPT_STR, "The server's name or address" },
    { "server.type", OPT_STR, "inet" },
    { "path", OPT_STR, "The file, from the server's root; the directory it is in is what is mounted" },
    { "user", OPT_NUM, "The user's number at the server (default: the program's)" },
    { "group", OPT_NUM, "The group's number (default: the program's)" },
    { "tcp-syn-count", OPT_NUM, "How often a connection is tried" },
    { "readahead-size", OPT_NUM, "Bytes that are read ahead (default: none)" },
    { "page-cache-size", OPT_NUM, "Pages of 4 KiB that the library keeps (default: none)" },
    { "debug", OPT_NUM, "How much the library tells" },
    { "nfs-version", OPT_NUM, "3 (default) or 4" },
    { "nfs-port", OPT_NUM, "The server's port, instead of asking there" },
    { "mount-port", OPT_NUM, "Likewise that of its mount service" },
    { "timeout", OPT_NUM, "Seconds until a call has failed (default: 60; 0: it waits as long as the server is silent)" },
    { 0 },
};

BLOCK_DRIVER(nfs, .name = "nfs", .desc = "A file of an NFS server", .state_size = sizeof(NfsState), .protocol = true,
             .extends = true, .parse_filename = parse_filename, .options = options, .open_co = open_co, .close_co = close_co,
             .preadv_co = preadv_co, .pwritev_co = pwritev_co, .flush_co = flush_co, .truncate_co = truncate_co,
             .allocated_size = remote_allocated_size);
