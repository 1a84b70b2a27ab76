/*
 * Driver "nbd": a disk behind an NBD server. The pool has the connections, and makes new ones when
 * they break.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/nbd/pool.h"

typedef struct NbdState {
    NbdTarget target; /* its texts are the driver's own: */
    char *export, *context, *tls_hostname;
    TlsUse tls;
    TlsKeys *tls_keys;  /* NULL: without TLS */
    bool dirty_context; /* x-dirty-bitmap: its flags mean other things */
    NbdPool *pool;
    NbdInfo info; /* texts not used */
} NbdState;

enum { MAX_DELAY = 3600 * 24 };

static int command_co(BlockNode *node, const NbdCommand *cmd)
{
    return nbd_pool_command_co(((NbdState *)node->state)->pool, cmd);
}

/* --- requests --- */

static int nbd_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    NbdState *s = node->state;
    /* The size may not be a multiple of the alignment that is assumed. */
    uint64_t inside = MIN(bytes, s->info.size - MIN(offset, s->info.size));
    NbdCommand cmd = {
        .type = NBD_CMD_READ, .offset = offset, .length = inside, .vec = vec, .at = at
    };
    int ret = inside ? command_co(node, &cmd) : 0;
    if (ret == 0 && inside < bytes) {
        block_vec_zero(vec, at + (size_t)inside, (size_t)(bytes - inside));
    }
    return ret;
}

static int finish_fua_co(BlockNode *node, unsigned flags)
{
    NbdState *s = node->state;
    NbdCommand flush = { .type = NBD_CMD_FLUSH };
    return (flags & REQ_FUA) && !(s->info.flags & NBD_FLAG_SEND_FUA) &&
                   (s->info.flags & NBD_FLAG_SEND_FLUSH)
               ? command_co(node, &flush)
               : 0;
}

static uint16_t fua_flag(const NbdState *s, unsigned flags)
{
    return (flags & REQ_FUA) && (s->info.flags & NBD_FLAG_SEND_FUA) ? NBD_CMD_FLAG_FUA : 0;
}

static int nbd_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    NbdState *s = node->state;
    NbdCommand cmd = { .type = NBD_CMD_WRITE,
                       .flags = fua_flag(s, flags),
                       .offset = offset,
                       .length = bytes,
                       .vec = vec,
                       .at = at };
    int ret = command_co(node, &cmd);
    return ret < 0 ? ret : finish_fua_co(node, flags);
}

static int nbd_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    NbdState *s = node->state;
    bool fast = (flags & REQ_NO_FALLBACK) != 0;

    if (!(s->info.flags & NBD_FLAG_SEND_WRITE_ZEROES) ||
        (fast && !(s->info.flags & NBD_FLAG_SEND_FAST_ZERO))) {
        return -ENOTSUP;
    }
    NbdCommand cmd = { .type = NBD_CMD_WRITE_ZEROES,
                       .flags = fua_flag(s, flags) |
                                (flags & REQ_MAY_UNMAP ? 0 : NBD_CMD_FLAG_NO_HOLE) |
                                (fast ? NBD_CMD_FLAG_FAST_ZERO : 0),
                       .offset = offset,
                       .length = bytes };
    int ret = command_co(node, &cmd);
    return ret < 0 ? ret : finish_fua_co(node, flags);
}

/* Of commands without data. */
static uint64_t largest_length(const BlockNode *node)
{
    const NbdState *s = node->state;
    return ALIGN_DOWN(s->info.extended ? (uint64_t)INT64_MAX : INT32_MAX,
                      (uint64_t)node->limits.request_align);
}

static int nbd_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    NbdState *s = node->state;
    if (!(s->info.flags & NBD_FLAG_SEND_TRIM)) {
        return -ENOTSUP;
    }
    while (bytes) {
        uint64_t part = MIN(bytes, largest_length(node));
        NbdCommand cmd = { .type = NBD_CMD_TRIM, .offset = offset, .length = part };
        int ret = command_co(node, &cmd);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
    }
    return 0;
}

static int nbd_flush_co(BlockNode *node)
{
    NbdState *s = node->state;
    NbdCommand cmd = { .type = NBD_CMD_FLUSH };
    return s->info.flags & NBD_FLAG_SEND_FLUSH ? command_co(node, &cmd) : 0;
}

static int nbd_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    NbdState *s = node->state;
    BlockStatus status = { .flags = STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET,
                           .bytes = bytes,
                           .map = offset,
                           .file = node };
    if (s->info.has_context && offset < s->info.size) {
        NbdExtent extent = { 0 };
        uint64_t inside = MIN(bytes, s->info.size - offset);
        NbdCommand cmd = { .type = NBD_CMD_BLOCK_STATUS,
                           .flags = NBD_CMD_FLAG_REQ_ONE,
                           .offset = offset,
                           .length = MIN(inside, largest_length(node)),
                           .extent = &extent };
        int ret = command_co(node, &cmd);
        if (ret < 0) {
            return ret;
        }
        bool hole = extent.flags & NBD_STATE_HOLE, zero = extent.flags & NBD_STATE_ZERO;
        status.bytes = extent.length == inside ? bytes : extent.length;
        /* A hole need not be zeroes: what is there is read. With another context bit 0, where it is set, stands for
         * nowhere, and bit 1 for zeroes, whatever they mean there. */
        bool data = !hole || (!zero && !s->dirty_context);
        status.flags = (data ? STATUS_DATA : 0) | (zero ? STATUS_ZERO : 0);
        status.flags |= status.flags ? STATUS_OFFSET | STATUS_ALLOCATED : 0;
    }
    *ret_status = status;
    return 0;
}

static Error *nbd_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    if (size == node->size) {
        return NULL;
    }
    return error_new(size > node->size ? "Cannot grow NBD nodes" : "Cannot resize NBD nodes");
}

/* --- file names --- */

/* host:port, [v6]:port, host. */
static Error *take_host(const char *text, KeyValues *opts)
{
    const char *port = strrchr(text, ':');
    const char *close = strrchr(text, ']');

    if (port && close && port < close) {
        port = NULL;
    }
    g_autofree char *host = port ? g_strndup(text, (gsize)(port - text)) : g_strdup(text);
    size_t length = strlen(host);
    if (host[0] == '[' && length > 2 && host[length - 1] == ']') {
        memmove(host, host + 1, length - 2);
        host[length - 2] = 0;
    }
    keyvalues_set(opts, "server.type", "inet");
    keyvalues_set(opts, "server.host", *host ? host : "localhost");
    keyvalues_set(opts, "server.port", port && port[1] ? port + 1 : NBD_DEFAULT_PORT);
    return NULL;
}

/* nbd:unix:PATH[:exportname=NAME], nbd:HOST:PORT[:exportname=NAME] */
static Error *parse_old_form(const char *text, KeyValues *opts)
{
    static const char mark[] = ":exportname=";
    const char *name = strstr(text, mark);
    g_autofree char *where = name ? g_strndup(text, (gsize)(name - text)) : g_strdup(text);

    if (name && name[strlen(mark)]) {
        keyvalues_set(opts, "export", name + strlen(mark));
    }
    if (g_str_has_prefix(where, "unix:")) {
        if (!where[5]) {
            return error_new("File name '%s' names no socket", text);
        }
        keyvalues_set(opts, "server.type", "unix");
        keyvalues_set(opts, "server.path", where + 5);
        return NULL;
    }
    if (!strchr(where, ':')) {
        return error_new("No port in the NBD address '%s': HOST:PORT is expected", where);
    }
    return take_host(where, opts);
}

/* The only parameter there is: socket=PATH. */
static Error *take_query(const char *query, char **ret_socket)
{
    if (!query || !g_str_has_prefix(query, "socket=") || strchr(query, '&') || !query[7]) {
        return error_new("A URI of the form nbd+unix:///NAME?socket=PATH is expected");
    }
    *ret_socket = g_uri_unescape_string(query + 7, NULL);
    return *ret_socket ? NULL : error_new("The socket's path in the URI is malformed");
}

/* nbd[+tcp]://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH */
static Error *parse_uri(const char *filename, bool is_unix, KeyValues *opts)
{
    const char *rest = strstr(filename, "://") + 3, *slash = strchr(rest, '/');
    const char *query = strchr(rest, '?');
    const char *end = query ? query : rest + strlen(rest);

    slash = slash && slash < end ? slash : NULL;
    g_autofree char *where = g_strndup(rest, (gsize)((slash ? slash : end) - rest));
    g_autofree char *path = slash ? g_strndup(slash + 1, (gsize)(end - slash - 1)) : g_strdup("");
    g_autofree char *name = g_uri_unescape_string(path, NULL);
    if (!name) {
        return error_new("The export's name in '%s' is malformed", filename);
    }
    if (*name) {
        keyvalues_set(opts, "export", name);
    }
    if (is_unix) {
        g_autofree char *socket = NULL;
        if (*where) {
            return error_new("A URI nbd+unix://... has no host");
        }
        TRY(take_query(query ? query + 1 : NULL, &socket));
        keyvalues_set(opts, "server.type", "unix");
        keyvalues_set(opts, "server.path", socket);
        return NULL;
    }
    return query ? error_new("A URI nbd://... has no parameters") : take_host(where, opts);
}

static Error *nbd_parse_filename(const char *filename, KeyValues *opts)
{
    static const char *const keys[] = { "host", "port", "path", "export", "server.type" };

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        if (keyvalues_has(opts, keys[i])) {
            return error_new("'%s' and a file name cannot be specified at the same time", keys[i]);
        }
    }
    if (strstr(filename, "://")) {
        return parse_uri(filename, g_str_has_prefix(filename, "nbd+unix:"), opts);
    }
    return parse_old_form(filename + strlen("nbd:"), opts);
}

/* The name that would open the same again. Caller frees. */
static char *make_filename(const NbdState *s)
{
    g_autofree char *name = g_uri_escape_string(s->export, "/", FALSE);
    const NbdAddress *address = &s->target.address;
    if (address->path) {
        return *name ? g_strdup_printf("nbd+unix:///%s?socket=%s", name, address->path)
                     : g_strdup_printf("nbd+unix://?socket=%s", address->path);
    }
    if (address->fd >= 0) {
        return g_strdup("");
    }
    bool v6 = strchr(address->host, ':') != NULL;
    return g_strdup_printf("nbd://%s%s%s:%s%s%s", v6 ? "[" : "", address->host, v6 ? "]" : "",
                           address->port, *name ? "/" : "", name);
}

/* --- opening --- */

/* The old flat keys and the new "server." ones. */
static Error *take_address(KeyValues *opts, NbdAddress *ret_address)
{
    g_autoptr(KeyValues) server = keyvalues_new();
    g_autofree char *host = keyvalues_take(opts, "host"), *port = keyvalues_take(opts, "port"),
                    *path = keyvalues_take(opts, "path");

    for (guint i = 0; i < opts->items->len;) {
        const KeyValue *item = g_ptr_array_index(opts->items, i);
        if (g_str_has_prefix(item->key, "server.")) {
            g_autofree char *key = g_strdup(item->key), *value = keyvalues_take(opts, key);
            keyvalues_set(server, key + strlen("server."), value);
        } else {
            i++;
        }
    }
    if ((host || path) && server->items->len) {
        return error_new("'server' and '%s' cannot be used at the same time",
                         host ? "host" : "path");
    }
    if (host && path) {
        return error_new("'path' means a local socket and 'host' the network: give one of them");
    }
    if (host) {
        keyvalues_set(server, "type", "inet");
        keyvalues_set(server, "host", host);
        keyvalues_set(server, "port", port ? port : NBD_DEFAULT_PORT);
    } else if (path) {
        keyvalues_set(server, "type", "unix");
        keyvalues_set(server, "path", path);
    } else if (!server->items->len) {
        return error_new("one of path and host must be specified");
    }
    return nbd_address_take(server, ret_address);
}

static Error *take_tls(BlockNode *node, KeyValues *opts)
{
    NbdState *s = node->state;
    g_autofree char *creds = keyvalues_take(opts, "tls-creds");

    s->tls_hostname = keyvalues_take(opts, "tls-hostname");
    if (!creds) {
        return s->tls_hostname ? error_new("tls-hostname needs tls-creds") : NULL;
    }
    TRY(tls_keys_get(block_graph_objects(node->graph), creds, false, &s->tls_keys));
    s->tls = (TlsUse) { .keys = s->tls_keys,
                        .hostname = s->tls_hostname ? s->tls_hostname : s->target.address.host };
    s->target.tls = &s->tls;
    return NULL;
}

static Error *take_options(BlockNode *node, KeyValues *opts, int64_t *ret_open_timeout)
{
    NbdState *s = node->state;
    uint64_t reconnect, timeout, connections;

    TRY(take_address(opts, &s->target.address));
    s->export = keyvalues_take(opts, "export");
    s->export = s->export ? s->export : g_strdup("");
    s->context = keyvalues_take(opts, "x-dirty-bitmap");
    s->dirty_context = s->context != NULL;
    TRY(take_tls(node, opts));
    TRY(block_take_num(opts, "reconnect-delay", 0, &reconnect));
    TRY(block_take_num(opts, "open-timeout", 0, &timeout));
    TRY(block_take_num(opts, "multi-conn", 1, &connections));
    if (reconnect > MAX_DELAY || timeout > MAX_DELAY) {
        return error_new("reconnect-delay and open-timeout may be %d seconds at most", MAX_DELAY);
    }
    if (connections > NBD_POOL_MAX) {
        return error_new("multi-conn may be %d at most", NBD_POOL_MAX);
    }
    s->target.export = s->export;
    s->target.context = s->context;
    s->target.connections = (unsigned)connections;
    s->target.reconnect_delay = (int64_t)reconnect * NS_PER_SEC;
    s->target.closing = &node->closing;
    *ret_open_timeout = (int64_t)timeout * NS_PER_SEC;
    return NULL;
}

static Error *use_info(BlockNode *node)
{
    NbdState *s = node->state;
    const NbdInfo *info = &s->info;

    s->info = *nbd_pool_info(s->pool);
    if (!node->read_only && (info->flags & NBD_FLAG_READ_ONLY)) {
        return error_new("request on write denied without write permission");
    }
    if (s->dirty_context && !info->has_context) {
        return error_new("the server does not offer x-dirty-bitmap %s: not found", s->context);
    }
    node->size = info->size;
    node->limits.request_align = info->min_block                  ? info->min_block
                                 : IS_ALIGNED(info->size, 512ull) ? 512
                                                                  : 1;
    uint32_t max = info->max_block ? MIN(info->max_block, NBD_MAX_BUFFER) : NBD_MAX_BUFFER;
    node->limits.max_transfer =
        MAX(ALIGN_DOWN(max, node->limits.request_align), node->limits.request_align);
    node->limits.max_zeroes = largest_length(node);
    return NULL;
}

static void nbd_close_co(BlockNode *node)
{
    NbdState *s = node->state;
    nbd_pool_close_co(s->pool);
    nbd_address_clear(&s->target.address);
    g_free(s->export);
    g_free(s->context);
    g_free(s->tls_hostname);
    tls_keys_unref(s->tls_keys);
}

static Error *nbd_open_co(BlockNode *node, KeyValues *opts)
{
    NbdState *s = node->state;
    int64_t timeout;

    s->target.address.fd = -1;
    Error *err = take_options(node, opts, &timeout);
    if (!err) {
        err = nbd_pool_open_co(block_graph_loop(node->graph), &s->target, timeout, &s->pool);
    }
    if (!err) {
        err = use_info(node);
    }
    if (err) {
        nbd_close_co(node);
        return err;
    }
    node->filename = make_filename(s);
    return NULL;
}

static void nbd_yank(BlockNode *node)
{
    NbdState *s = node->state;

    if (s->pool) {
        nbd_pool_yank(s->pool);
    }
}

static uint64_t nbd_allocated_size(BlockNode *node)
{
    return UINT64_MAX;
}

static const BlockOption nbd_options[] = {
    { "host", OPT_STR, "The server's name or address" },
    { "port", OPT_STR, "The server's port (default: 10809)" },
    { "path", OPT_STR, "The server's unix socket" },
    { "server", OPT_STR, "server.type=inet, unix or fd, with the parts of the address" },
    { "export", OPT_STR, "The name of the export (default: empty)" },
    { "tls-creds", OPT_STR, "ID of the TLS credentials; without, the connection is not encrypted" },
    { "tls-hostname", OPT_STR, "The name that the server's certificate must have (default: the host)" },
    { "x-dirty-bitmap", OPT_STR, "A meta context whose extents are shown instead of allocation" },
    { "reconnect-delay", OPT_NUM,
      "Seconds for which requests wait for a broken connection (default: 0)" },
    { "open-timeout", OPT_NUM, "Seconds for which opening tries to connect (default: 0)" },
    { "multi-conn", OPT_NUM,
      "Connections at most, where the server lets clients share (default: 1)" },
    { 0 },
};

static const char *const nbd_schemes[] = { "nbd+tcp", "nbd+unix", NULL };

BLOCK_DRIVER(nbd, .name = "nbd", .desc = "Network block device", .deciding = (const char *const[]) { "host", "port", "path", "export", "tls-creds", "tls-hostname", "server.", NULL }, .state_size = sizeof(NbdState),
             .protocol = true, .schemes = nbd_schemes, .parse_filename = nbd_parse_filename,
             .options = nbd_options, .open_co = nbd_open_co, .close_co = nbd_close_co,
             .preadv_co = nbd_preadv_co, .pwritev_co = nbd_pwritev_co,
             .write_zeroes_co = nbd_write_zeroes_co, .discard_co = nbd_discard_co,
             .flush_co = nbd_flush_co, .status_co = nbd_status_co, .truncate_co = nbd_truncate_co,
             .allocated_size = nbd_allocated_size, .yank = nbd_yank, .write_flags = REQ_FUA, .zero_flags = REQ_FUA);
