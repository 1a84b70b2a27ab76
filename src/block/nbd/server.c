/* The NBD server: sockets, clients' lives, exports. */
#include "block/nbd/server.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/nbd/server_priv.h"
#include "block/node_priv.h"

typedef struct Listener {
    NbdServer *server;
    int fd;
    LoopFd *source;
    ListNode in_server;
} Listener;

/* --- clients --- */

static bool is_full(const NbdServer *s)
{
    return s->options.max_connections && s->client_count >= s->options.max_connections;
}

/* While no more clients are wanted they wait in the socket's queue. */
static void update_listeners(NbdServer *s)
{
    LIST_FOREACH (l, &s->listeners, Listener, in_server) {
        loop_mod_fd(l->source, is_full(s) || s->stopping ? 0 : LOOP_READ);
    }
}

static void handshake_too_slow(void *opaque)
{
    stream_shutdown(((NbdClient *)opaque)->stream);
}

static void client_free(NbdClient *client)
{
    timer_fini(&client->handshake_limit);
    stream_free(client->stream);
    g_free(client->contexts_of);
    g_free(client);
}

typedef struct ServeCall {
    NbdClient *client;
    Coroutine *waiter;
    bool done;
} ServeCall;

static void serve_there_co(void *opaque)
{
    ServeCall *call = opaque;
    nbd_serve_co(call->client);
    call->done = true;
    co_wake(call->waiter);
}

/* In the loop of the export's iothread, if it has one; the handshake, which chooses the export, was here. */
static void serve_co(NbdClient *client)
{
    ServeCall call = { client, co_self(), false };
    Loop *here = co_loop(), *there = export_loop(&client->export->export);

    if (there == here) {
        nbd_serve_co(client);
        return;
    }
    stream_set_loop(client->stream, there);
    co_start(there, serve_there_co, &call);
    while (!call.done) {
        co_yield ();
    }
    stream_set_loop(client->stream, here);
}

static void client_co(void *opaque)
{
    NbdClient *client = opaque;
    NbdServer *s = client->server;

    int ret = nbd_handshake_co(client);
    timer_cancel(&client->handshake_limit);
    if (ret == 0) {
        serve_co(client);
    }
    bool negotiated = client->export != NULL;
    if (client->export) {
        export_unref(&client->export->export);
    }
    list_remove(&client->in_server);
    s->client_count--;
    client_free(client);
    update_listeners(s);
    if (s->options.client_gone) {
        s->options.client_gone(s->options.opaque, negotiated);
    }
}

void nbd_server_adopt(NbdServer *s, int fd)
{
    Loop *loop = block_graph_loop(s->graph);
    NbdClient *client = g_new0(NbdClient, 1);
    int one = 1;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on unix sockets */
    client->server = s;
    client->stream = stream_new(loop, fd);
    co_mutex_init(&client->sending);
    co_queue_init(&client->slots);
    timer_init(&client->handshake_limit, loop, CLOCK_REALTIME_NS, handshake_too_slow, client);
    if (s->options.handshake_seconds) {
        timer_set(&client->handshake_limit, clock_now(loop_clocks(loop), CLOCK_REALTIME_NS) +
                                                s->options.handshake_seconds * NS_PER_SEC);
    }
    list_append(&s->clients, &client->in_server);
    s->client_count++;
    update_listeners(s);
    co_start(loop, client_co, client);
}

static void listener_ready(void *opaque, unsigned events)
{
    Listener *l = opaque;
    if (is_full(l->server) || l->server->stopping) {
        return;
    }
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        nbd_server_adopt(l->server, fd);
    }
}

/* --- the server --- */

NbdServer *nbd_server_of(BlockGraph *graph)
{
    return graph->nbd_server;
}

unsigned nbd_server_clients(const NbdServer *s)
{
    return s->client_count;
}

Error *nbd_server_start(BlockGraph *graph, const NbdServerOptions *options, NbdServer **ret_server)
{
    if (graph->nbd_server) {
        return error_new("NBD server already running");
    }
    NbdServer *s = g_new0(NbdServer, 1);
    s->graph = graph;
    s->options = *options;
    tls_keys_ref(s->options.tls_keys);
    s->options.tls_authz = g_strdup(options->tls_authz);
    list_init(&s->listeners);
    list_init(&s->clients);
    graph->nbd_server = s;
    *ret_server = s;
    return NULL;
}

void nbd_server_listen(NbdServer *s, int fd)
{
    Listener *l = g_new0(Listener, 1);
    l->server = s;
    l->fd = fd;
    l->source = loop_add_fd(block_graph_loop(s->graph), fd, LOOP_READ, listener_ready, l);
    list_append(&s->listeners, &l->in_server);
    update_listeners(s);
}

static void drop_listeners(NbdServer *s)
{
    for (Listener *l; (l = LIST_FIRST(&s->listeners, Listener, in_server));) {
        list_remove(&l->in_server);
        loop_del_fd(l->source);
        close(l->fd);
        g_free(l);
    }
}

void nbd_server_stop_all_co(BlockGraph *graph)
{
    NbdServer *s = graph->nbd_server;
    if (!s) {
        return;
    }
    s->stopping = true;
    drop_listeners(s);
    for (NbdExport *e; (e = nbd_export_next(graph, NULL));) {
        export_stop(&e->export);
    }
    LIST_FOREACH (client, &s->clients, NbdClient, in_server) {
        stream_shutdown(client->stream);
    }
    while (s->client_count) {
        co_sleep_ns(CLOCK_REALTIME_NS, 100 * NS_PER_US);
    }
    graph->nbd_server = NULL;
    tls_keys_unref(s->options.tls_keys);
    g_free((char *)s->options.tls_authz);
    g_free(s);
}

/* --- exports --- */

NbdExport *nbd_export_next(BlockGraph *graph, NbdExport *after)
{
    Export *e = after ? &after->export : NULL;
    while ((e = export_next(graph, e)) && (e->kind != &nbd_export_kind || e->stopping)) {
    }
    return e ? container_of(e, NbdExport, export) : NULL;
}

NbdExport *nbd_export_find(BlockGraph *graph, const char *name)
{
    NbdExport *e = NULL;
    while ((e = nbd_export_next(graph, e)) && strcmp(e->name, name)) {
    }
    return e;
}

uint64_t nbd_export_size(const NbdExport *e)
{
    return e->export.node->size;
}

uint16_t nbd_export_flags(const NbdExport *e, const NbdClient *client, bool only_info)
{
    const NbdServer *s = client->server;
    bool contexts = only_info;
    unsigned flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    if (e->export.writable) {
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    } else {
        flags |= NBD_FLAG_READ_ONLY;
    }
    /* All clients go through one node, so a flush by one covers the writes of all. */
    if (s->options.max_connections != 1) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
        contexts |= client->contexts[k];
    }
    if (client->extended && contexts) {
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    }
    return (uint16_t)(flags | (client->structured ? NBD_FLAG_SEND_DF : 0));
}

static Error *check_text(const char *what, const char *text)
{
    return strlen(text) > NBD_MAX_STRING
               ? error_new("%s is too long: at most %d bytes are possible", what, NBD_MAX_STRING)
               : NULL;
}

/* By name, in the node or in its backing chain. */
static BlockBitmap *find_bitmap(BlockNode *node, const char *name)
{
    BlockBitmap *found = NULL;
    for (; node && !found; node = node->backing ? node->backing->node : NULL) {
        found = block_bitmap_find(node, name);
    }
    return found;
}

/* other: of a node that was named, which need not be the export's. */
static Error *take_bitmap(NbdExport *e, BlockNode *node, const char *name, bool other)
{
    BlockBitmap *bitmap = find_bitmap(node, name);
    if (!bitmap) {
        return error_new("Bitmap '%s' is not found", name);
    }
    TRY(block_bitmap_check(bitmap, BITMAP_ALLOW_READ_ONLY));
    if (!other && !e->export.writable && !e->export.node->read_only && bitmap->enabled) {
        return error_new("Enabled bitmap '%s' incompatible with readonly export", name);
    }
    if (e->bitmap_count == NBD_MAX_BITMAPS) {
        return error_new("An export can have %d bitmaps at most", NBD_MAX_BITMAPS);
    }
    bitmap->busy = true;
    e->bitmaps[e->bitmap_count++] = bitmap;
    return NULL;
}

static void release_bitmaps(NbdExport *e)
{
    while (e->bitmap_count) {
        e->bitmaps[--e->bitmap_count]->busy = false;
    }
}

/* bitmaps.N=NAME, or bitmaps.N.node and bitmaps.N.name. */
static Error *take_bitmaps(NbdExport *e, KeyValues *opts)
{
    Error *err = NULL;
    for (unsigned i = 0; !err; i++) {
        g_autofree char *plain = g_strdup_printf("bitmaps.%u", i),
                        *node_key = g_strdup_printf("bitmaps.%u.node", i),
                        *name_key = g_strdup_printf("bitmaps.%u.name", i);
        g_autofree char *name = keyvalues_take(opts, plain), *of = keyvalues_take(opts, node_key);
        BlockNode *node = of ? block_node_find(e->export.graph, of) : e->export.node;
        name = name ? name : keyvalues_take(opts, name_key);
        if (!name && !of) {
            break;
        }
        err = !node   ? error_new("Cannot find device='' nor node-name='%s'", of)
              : !name ? error_new("Parameter 'name' is missing")
                      : take_bitmap(e, node, name, of != NULL);
    }
    if (err) {
        release_bitmaps(e);
    }
    return err;
}

static Error *nbd_export_start(Export *export, KeyValues *opts)
{
    NbdExport *e = container_of(export, NbdExport, export);
    g_autofree char *name = keyvalues_take(opts, "name"),
                    *text = keyvalues_take(opts, "description");

    if (!export->graph->nbd_server) {
        return error_new("NBD server not running");
    }
    if (!name) {
        name = g_strdup(export->node->name);
    }
    TRY(check_text("The export's name", name));
    TRY(check_text("The export's description", text ? text : ""));
    if (nbd_export_find(export->graph, name)) {
        return error_new("There is an NBD export of the name '%s' already", name);
    }
    TRY(block_take_bool(opts, "allocation-depth", false, &e->allocation_depth));
    TRY(take_bitmaps(e, opts));
    e->name = g_steal_pointer(&name);
    e->description = g_steal_pointer(&text);
    return NULL;
}

static void nbd_export_stop(Export *export)
{
    NbdServer *s = export->graph->nbd_server;
    if (!s) {
        return;
    }
    LIST_FOREACH (client, &s->clients, NbdClient, in_server) {
        if (client->export && &client->export->export == export) {
            stream_shutdown(client->stream);
        }
    }
}

static void nbd_export_release(Export *export)
{
    NbdExport *e = container_of(export, NbdExport, export);
    release_bitmaps(e);
    g_free(e->name);
    g_free(e->description);
}

const ExportKind nbd_export_kind = {
    .name = "nbd",
    .size = sizeof(NbdExport),
    .start = nbd_export_start,
    .stop = nbd_export_stop,
    .release = nbd_export_release,
};
EXPORT_KIND(nbd_export_kind);

/* --- errors on the wire --- */

static const struct {
    int host;
    uint32_t wire;
} errors[] = {
    { EPERM, NBD_EPERM },     { EROFS, NBD_EPERM },         { EACCES, NBD_EPERM },
    { EIO, NBD_EIO },         { ENOMEM, NBD_ENOMEM },       { ENOSPC, NBD_ENOSPC },
    { EDQUOT, NBD_ENOSPC },   { EFBIG, NBD_ENOSPC },        { EOVERFLOW, NBD_EOVERFLOW },
    { ENOTSUP, NBD_ENOTSUP }, { ESHUTDOWN, NBD_ESHUTDOWN }, { EINVAL, NBD_EINVAL },
};

uint32_t nbd_error_to_wire(int err)
{
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (errors[i].host == -err) {
            return errors[i].wire;
        }
    }
    return NBD_EINVAL;
}

int nbd_error_from_wire(uint32_t error)
{
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        if (errors[i].wire == error) {
            return -errors[i].host;
        }
    }
    return -EINVAL;
}
