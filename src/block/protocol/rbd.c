/*
 * Driver "rbd": an image of a Ceph cluster, through librbd and librados, which are opened when first used and take calls
 * from many threads at once.
 *
 * Missing: creating images, encryption by librbd, the map of what is allocated.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <rados/librados.h>
#include <rbd/librbd.h>

#include "base/library.h"
#include "block/protocol/remote.h"
#include "crypto/secret.h"

#define RADOS_CALLS(C) \
    C(rados_create) C(rados_conf_read_file) C(rados_conf_set) C(rados_connect) C(rados_shutdown) C(rados_ioctx_create) \
    C(rados_ioctx_destroy) C(rados_ioctx_set_namespace)
#define RBD_CALLS(C) \
    C(rbd_open) C(rbd_open_read_only) C(rbd_close) C(rbd_get_size) C(rbd_resize) C(rbd_read) C(rbd_write) C(rbd_discard) \
    C(rbd_write_zeroes) C(rbd_flush)
typedef struct RadosApi {
    RADOS_CALLS(LIBRARY_POINTER)
} RadosApi;
typedef struct RbdApi {
    RBD_CALLS(LIBRARY_POINTER)
} RbdApi;
#define RADOS_CALL(name) LIBRARY_CALL(RadosApi, name)
#define RBD_CALL(name) LIBRARY_CALL(RbdApi, name)
static const LibraryCall rados_calls[] = { RADOS_CALLS(RADOS_CALL) };
static const LibraryCall rbd_calls[] = { RBD_CALLS(RBD_CALL) };
static const Library rados_library = { "Ceph's RADOS library", "librados.so.2", "librados2", rados_calls, G_N_ELEMENTS(rados_calls) };
static const Library rbd_library = { "Ceph's RBD library", "librbd.so.1", "librbd1", rbd_calls, G_N_ELEMENTS(rbd_calls) };

typedef struct RbdState {
    RadosApi rados;
    RbdApi lib;
    rados_t cluster;
    rados_ioctx_t pool_context;
    rbd_image_t image;
    char *pool, *space, *name, *snapshot, *conf, *user, *settings, *key;
    bool writes;
} RbdState;

/* --- texts --- */

/* Up to the first of `ends`, with backslashes taken out; *ret_end is that character, and the text goes on behind it. */
static char *take_part(const char **text, const char *ends, char *ret_end)
{
    GString *part = g_string_new(NULL);
    while (**text && !strchr(ends, **text)) {
        *text += **text == '\\' && (*text)[1];
        g_string_append_c(part, *(*text)++);
    }
    *ret_end = **text;
    *text += **text != '\0';
    return g_string_free(part, FALSE);
}

/* --- connecting: on a worker thread --- */

/* "name=value:name=value", of the cluster's configuration; colons of values have a backslash before them. */
static Error *use_settings(RbdState *s)
{
    const char *rest = s->settings ? s->settings : "";
    while (*rest) {
        char end;
        g_autofree char *name = take_part(&rest, ":", &end);
        char *value = strchr(name, '=');
        if (!value) {
            return error_new("rbd: '%s' is no setting: NAME=VALUE is expected", name);
        }
        *value++ = '\0';
        if (s->rados.rados_conf_set(s->cluster, name, value) < 0) {
            return error_new("rbd: Ceph knows no setting '%s', or not with the value '%s'", name, value);
        }
    }
    return NULL;
}

static Error *connect_steps(RbdState *s)
{
    TRY(library_open(&rados_library, &s->rados)); /* they need more stack than coroutines have */
    TRY(library_open(&rbd_library, &s->lib));
    int ret = s->rados.rados_create(&s->cluster, s->user);
    if (ret < 0) {
        s->cluster = NULL;
        return error_new_errno(ret, "rbd: could not begin");
    }
    ret = s->rados.rados_conf_read_file(s->cluster, s->conf); /* NULL: at the usual places, if there is one */
    if (ret < 0 && s->conf) {
        return error_new_errno(ret, "rbd: could not read the configuration '%s'", s->conf);
    }
    TRY(use_settings(s));
    if (s->key && s->rados.rados_conf_set(s->cluster, "key", s->key) < 0) {
        return error_new("rbd: Ceph does not take the key");
    }
    ret = s->rados.rados_connect(s->cluster);
    if (ret < 0) {
        return error_hint(error_new_errno(ret, "rbd: could not connect to the cluster"),
                          "Where it is stands in ceph.conf, in the file that 'conf' names, or in the setting mon_host.");
    }
    ret = s->rados.rados_ioctx_create(s->cluster, s->pool, &s->pool_context);
    if (ret < 0) {
        s->pool_context = NULL;
        return error_new_errno(ret, "rbd: could not open the pool '%s'", s->pool);
    }
    if (s->space) {
        s->rados.rados_ioctx_set_namespace(s->pool_context, s->space);
    }
    ret = (s->writes ? s->lib.rbd_open : s->lib.rbd_open_read_only)(s->pool_context, s->name, &s->image, s->snapshot);
    if (ret < 0) {
        s->image = NULL;
        return error_new_errno(ret, "rbd: could not open the image '%s' of '%s'", s->name, s->pool);
    }
    return NULL;
}

static void hang_up(RbdState *s)
{
    if (s->image) {
        s->lib.rbd_close(s->image);
    }
    if (s->pool_context) {
        s->rados.rados_ioctx_destroy(s->pool_context);
    }
    if (s->cluster) {
        s->rados.rados_shutdown(s->cluster);
    }
}

typedef struct ConnectCall {
    RbdState *s;
    uint64_t size;
    Error *err;
} ConnectCall;

static int connect_call(void *opaque)
{
    ConnectCall *call = opaque;
    call->err = connect_steps(call->s);
    if (!call->err && (call->s->lib.rbd_get_size(call->s->image, &call->size) < 0 || call->size > INT64_MAX)) {
        call->err = error_new("rbd: could not read the image's size");
    }
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

/* --- requests: on worker threads --- */

static int read_call(void *opaque)
{
    RemoteCall *call = opaque;
    RbdState *s = call->state;
    ssize_t got = s->lib.rbd_read(s->image, call->offset, call->bytes, (char *)call->data);
    if (got >= 0 && (uint64_t)got < call->bytes) { /* the image has become shorter */
        memset(call->data + got, 0, (size_t)(call->bytes - (uint64_t)got));
    }
    return got < 0 ? (int)got : 0;
}

static int write_call(void *opaque)
{
    RemoteCall *call = opaque;
    RbdState *s = call->state;
    ssize_t put = s->lib.rbd_write(s->image, call->offset, call->bytes, (char *)call->data);
    return put < 0 ? (int)put : (uint64_t)put < call->bytes ? -EIO : 0;
}

static int zero_call(void *opaque)
{
    RemoteCall *call = opaque;
    RbdState *s = call->state;
    ssize_t done = s->lib.rbd_write_zeroes(s->image, call->offset, call->bytes, 0, 0);
    return done < 0 ? (int)done : 0;
}

static int discard_call(void *opaque)
{
    RemoteCall *call = opaque;
    RbdState *s = call->state;
    return MIN(s->lib.rbd_discard(s->image, call->offset, call->bytes), 0);
}

static int flush_call(void *opaque)
{
    RbdState *s = ((RemoteCall *)opaque)->state;
    return MIN(s->lib.rbd_flush(s->image), 0);
}

static int resize_call(void *opaque)
{
    RemoteCall *call = opaque;
    RbdState *s = call->state;
    return MIN(s->lib.rbd_resize(s->image, call->offset), 0);
}

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return remote_read_co(node, NULL, read_call, offset, bytes, vec, at);
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    return remote_write_co(node, NULL, write_call, offset, bytes, vec, at);
}

static int write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return remote_call_co(node, NULL, zero_call, offset, bytes);
}

static int discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return remote_call_co(node, NULL, discard_call, offset, bytes);
}

static int flush_co(BlockNode *node)
{
    return node->read_only ? 0 : remote_call_co(node, NULL, flush_call, 0, 0);
}

static Error *truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    if (prealloc != PREALLOC_OFF) {
        return error_new("Preallocation '%s' is not possible here",
                         block_preallocation_name(prealloc));
    }
    int ret = remote_call_co(node, NULL, resize_call, size, 0);
    if (ret < 0) {
        return error_new_errno(ret, "Could not resize the RBD image");
    }
    node->size = size;
    return NULL;
}

/* --- options --- */

/* rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:id=USER][:conf=FILE][:NAME=VALUE...] */
static Error *parse_filename(const char *filename, KeyValues *opts)
{
    const char *rest = strchr(filename, ':') + 1;
    char end;
    g_autofree char *pool = take_part(&rest, "/:", &end);
    if (end != '/' || !*pool) {
        return error_new("'%s' is not of the form rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:NAME=VALUE...]", filename);
    }
    keyvalues_set(opts, "pool", pool);
    g_autofree char *name = take_part(&rest, "/@:", &end);
    if (end == '/') {
        keyvalues_set(opts, "namespace", name);
        g_free(name);
        name = take_part(&rest, "@:", &end);
    }
    keyvalues_set(opts, "image", name);
    if (end == '@') {
        g_autofree char *snapshot = take_part(&rest, ":", &end);
        keyvalues_set(opts, "snapshot", snapshot);
    }
    g_autoptr(GString) more = g_string_new(NULL);
    while (*rest) {
        const char *start = rest;
        g_autofree char *part = take_part(&rest, ":", &end);
        if (g_str_has_prefix(part, "id=")) {
            keyvalues_set(opts, "user", part + 3);
        } else if (g_str_has_prefix(part, "conf=")) {
            keyvalues_set(opts, "conf", part + 5);
        } else {
            g_string_append_len(more, start, rest - start); /* as it is, with its colon */
        }
    }
    if (more->len) {
        keyvalues_set(opts, "settings", more->str);
    }
    return NULL;
}

static Error *take_options(BlockNode *node, RbdState *s, KeyValues *opts)
{
    g_autofree char *secret = keyvalues_take(opts, "key-secret");
    s->pool = keyvalues_take(opts, "pool");
    s->space = keyvalues_take(opts, "namespace");
    s->name = keyvalues_take(opts, "image");
    s->snapshot = keyvalues_take(opts, "snapshot");
    s->conf = keyvalues_take(opts, "conf");
    s->user = keyvalues_take(opts, "user");
    s->settings = keyvalues_take(opts, "settings");
    if (!s->pool || !s->name) {
        return error_new("rbd needs '%s'", s->pool ? "image" : "pool");
    }
    if (s->snapshot && s->writes) {
        return error_new("A snapshot of RBD is for reading only: use read-only=on");
    }
    return secret ? secret_get_text(block_graph_objects(node->graph), secret, &s->key) : NULL;
}

/* --- opening --- */

static void release(void *opaque)
{
    RbdState *s = opaque;
    char *texts[] = { s->pool, s->space, s->name, s->snapshot, s->conf, s->user, s->settings };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        g_free(texts[i]);
    }
    secret_free_text(s->key);
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts)
{
    RbdState *s = node->state;
    ConnectCall call = { .s = s };

    s->writes = !node->read_only;
    TRY(take_options(node, s, opts));
    co_blocking_long(connect_call, &call);
    TRY(call.err);
    node->size = call.size;
    node->limits.request_align = 1;
    node->limits.max_transfer = 4 * MiB;
    node->limits.max_zeroes = node->limits.max_discard = 1 * GiB;
    node->filename = g_strdup_printf("rbd:%s/%s%s%s%s%s", s->pool, s->space ? s->space : "", s->space ? "/" : "", s->name,
                                     s->snapshot ? "@" : "", s->snapshot ? s->snapshot : "");
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
    { "pool", OPT_STR, "The pool" },
    { "namespace", OPT_STR, "The namespace in the pool (default: none)" },
    { "image", OPT_STR, "The image's name" },
    { "snapshot", OPT_STR, "A snapshot of it, for reading" },
    { "conf", OPT_STR, "Ceph's configuration file (default: at the usual places)" },
    { "user", OPT_STR, "The user's id, without \"client.\"" },
    { "key-secret", OPT_STR, "The secret object with the user's key" },
    { "settings", OPT_STR, "Of Ceph's configuration: NAME=VALUE:NAME=VALUE" },
    { 0 },
};

BLOCK_DRIVER(rbd, .name = "rbd", .desc = "An image of a Ceph cluster", .state_size = sizeof(RbdState), .protocol = true,
             .parse_filename = parse_filename, .options = options, .open_co = open_co, .close_co = close_co,
             .preadv_co = preadv_co, .pwritev_co = pwritev_co, .write_zeroes_co = write_zeroes_co, .discard_co = discard_co,
             .flush_co = flush_co, .truncate_co = truncate_co, .allocated_size = remote_allocated_size);
