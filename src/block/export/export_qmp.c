/* QMP commands about exports and the NBD server. */
#include <string.h>

#include "block/backend.h"
#include "block/export/export.h"
#include "block/nbd/server_priv.h"
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"

static BlockGraph *graph_of(QmpContext *ctx)
{
    return machine_service(ctx->machine, BLOCK_SERVICE);
}

/* --- the server --- */

/* {"type": ..., "data": {...}}, or the members of data beside type. */
static Error *take_address(const Value *addr, NbdAddress *ret_address)
{
    g_autoptr(KeyValues) opts = NULL;
    const char *type = value_find_str(addr, "type");
    const Value *data = value_find(addr, "data");

    if (value_kind(addr) != VALUE_DICT || !type) {
        return error_new("Parameter 'addr' expects an object with 'type' and 'data'");
    }
    TRY(keyvalues_from_value(data ? data : addr, &opts));
    keyvalues_set(opts, "type", type);
    return nbd_address_take(opts, ret_address);
}

Error *qmp_nbd_server_start(QmpContext *ctx, const QmpNbdServerStartArgs *args, Value **ret)
{
    NbdServerOptions options = { .max_connections = (unsigned)args->max_connections,
                                 .handshake_seconds = NBD_HANDSHAKE_SECONDS };
    NbdAddress address;
    NbdServer *server;
    int fd = -1;

    g_autoptr(TlsKeys) keys = NULL;
    if (args->has_tls_creds) {
        TRY(tls_keys_get(block_graph_objects(graph_of(ctx)), args->tls_creds, true, &keys));
    } else if (args->has_tls_authz) {
        return error_new("tls-authz needs tls-creds");
    }
    options.tls_keys = keys;
    options.tls_authz = args->has_tls_authz ? args->tls_authz : NULL;
    if (args->max_connections < 0 || args->max_connections > INT32_MAX) {
        return error_new("Parameter 'max-connections' is out of range");
    }
    if (nbd_server_of(graph_of(ctx))) {
        return error_new("NBD server already running");
    }
    TRY(take_address(args->addr, &address));
    Error *err = address.fd >= 0
                     ? error_new("A server cannot listen on a file descriptor by number")
                     : net_listen(&address.net, &fd);
    nbd_address_clear(&address);
    TRY(err);
    TRY(nbd_server_start(graph_of(ctx), &options, &server));
    nbd_server_listen(server, fd);
    return NULL;
}

static void stop_co(void *opaque)
{
    nbd_server_stop_all_co(opaque);
}

Error *qmp_nbd_server_stop(QmpContext *ctx, const QmpNbdServerStopArgs *args, Value **ret)
{
    BlockGraph *graph = graph_of(ctx);
    if (!nbd_server_of(graph)) {
        return error_new("NBD server not running");
    }
    co_run(block_graph_loop(graph), stop_co, graph);
    return NULL;
}

/* --- exports --- */

Error *qmp_block_export_add(QmpContext *ctx, const QmpBlockExportAddArgs *args, Value **ret)
{
    g_autoptr(KeyValues) opts = NULL;
    Export *export;
    TRY(keyvalues_from_value(args->all, &opts));
    return export_add(graph_of(ctx), opts, &export);
}

/* The short form: the id is the name, and a read-only node gives a read-only export. */
Error *qmp_nbd_server_add(QmpContext *ctx, const QmpNbdServerAddArgs *args, Value **ret)
{
    BlockGraph *graph = graph_of(ctx);
    g_autoptr(KeyValues) opts = keyvalues_new();
    const char *name = args->has_name ? args->name : args->device;
    BlockBackend *blk = blk_find(graph, args->device);
    BlockNode *node = blk ? blk_node(blk) : block_node_find(graph, args->device);
    Export *export;

    if (!node) {
        return error_new(blk ? "Device '%s' has no medium"
                             : "Cannot find device=\'%s\' nor node-name=\'%s\'",
                         args->device, args->device);
    }
    keyvalues_set(opts, "type", "nbd");
    keyvalues_set(opts, "id", name);
    keyvalues_set(opts, "node-name", node->name);
    keyvalues_set(opts, "name", name);
    keyvalues_set(opts, "writable", args->writable && !node->read_only ? "on" : "off");
    if (args->has_description) {
        keyvalues_set(opts, "description", args->description);
    }
    if (args->has_bitmap) {
        keyvalues_set(opts, "bitmaps.0", args->bitmap);
    }
    TRY(export_add(graph, opts, &export));
    export->medium_of = blk;
    return NULL;
}

static Error *stop_export(Export *export, const char *mode)
{
    if (export_is_used(export) && g_strcmp0(mode, "hard") != 0) {
        return error_hint(error_new("export '%s' still in use", export->id),
                          "mode='hard' throws the clients out");
    }
    export_stop(export);
    return NULL;
}

Error *qmp_block_export_del(QmpContext *ctx, const QmpBlockExportDelArgs *args, Value **ret)
{
    Export *export = export_find(graph_of(ctx), args->id);
    if (!export) {
        return error_new("Export '%s' is not found", args->id);
    }
    if (export->stopping) {
        return error_new("Export '%s' is on its way out already", args->id);
    }
    return stop_export(export, args->has_mode ? args->mode : NULL);
}

Error *qmp_nbd_server_remove(QmpContext *ctx, const QmpNbdServerRemoveArgs *args, Value **ret)
{
    NbdExport *e = nbd_export_find(graph_of(ctx), args->name);
    if (!e) {
        return error_new("Export '%s' is not found", args->name);
    }
    return stop_export(&e->export, args->has_mode ? args->mode : NULL);
}

Error *qmp_query_block_exports(QmpContext *ctx, const QmpQueryBlockExportsArgs *args, Value **ret)
{
    g_autoptr(GPtrArray) exports = g_ptr_array_new();
    for (Export *e = NULL; (e = export_next(graph_of(ctx), e));) {
        g_ptr_array_add(exports, e);
    }
    *ret = value_list();
    for (guint n = exports->len; n-- > 0;) { /* the newest first: image tests compare it */
        const Export *e = g_ptr_array_index(exports, n);
        Value *info = value_dict();
        value_put_str(info, "node-name", e->node->name);
        value_put_bool(info, "shutting-down", e->stopping);
        value_put_str(info, "type", e->kind->name);
        value_put_str(info, "id", e->id);
        value_append(*ret, info);
    }
    return NULL;
}
