/* QMP commands about the network. */
#include "net/announce.h"
#include "net/net.h"
#include "schema/qmp_commands.h"

Error *qmp_netdev_add(QmpContext *ctx, const QmpNetdevAddArgs *args, Value **ret)
{
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_from_value(args->all, &kv));
    return netdev_create(ctx->machine, kv);
}

Error *qmp_netdev_del(QmpContext *ctx, const QmpNetdevDelArgs *args, Value **ret)
{
    return netdev_delete(ctx->machine, args->id);
}

Error *qmp_set_link(QmpContext *ctx, const QmpSetLinkArgs *args, Value **ret)
{
    return net_set_link(ctx->machine, args->name, args->up);
}

Error *qmp_announce_self(QmpContext *ctx, const QmpAnnounceSelfArgs *args, Value **ret)
{
    const struct {
        const char *name;
        int64_t value, max;
    } checks[] = {
        { "initial", args->initial, ANNOUNCE_MS_MAX }, { "max", args->max, ANNOUNCE_MS_MAX },
        { "rounds", args->rounds, ANNOUNCE_ROUNDS_MAX }, { "step", args->step, ANNOUNCE_STEP_MAX },
    };
    for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
        if (checks[i].value < 0 || checks[i].value > checks[i].max) {
            return error_new("%s: %" G_GINT64_FORMAT " is not within 0 to %" G_GINT64_FORMAT, checks[i].name, checks[i].value, checks[i].max);
        }
    }
    AnnounceConf conf = { (uint64_t)args->initial, (uint64_t)args->max, (uint64_t)args->step, (uint64_t)args->rounds };
    g_autoptr(GPtrArray) cards = g_ptr_array_new();
    for (size_t i = 0; args->has_interfaces && i < value_length(args->interfaces); i++) {
        g_ptr_array_add(cards, (void *)value_get_str(value_at(args->interfaces, i)));
    }
    g_ptr_array_add(cards, NULL);
    net_announce(ctx->machine, &conf, args->has_id ? args->id : NULL, args->has_interfaces ? (const char *const *)cards->pdata : NULL);
    return NULL;
}

Error *qmp_query_rx_filter(QmpContext *ctx, const QmpQueryRxFilterArgs *args, Value **ret)
{
    g_autoptr(Value) list = value_list();
    NetPort *only = args->has_name ? net_port_find(ctx->machine, args->name) : NULL;

    if (args->has_name && !only) {
        return error_new("there is no network card '%s'", args->name);
    }
    if (only && !only->ops->rx_filter) {
        return error_new("'%s' does not tell its filter: virtio cards do", args->name);
    }
    for (NetPort *port = NULL; (port = net_port_next(ctx->machine, port));) {
        if (port->ops->rx_filter && (!only || port == only)) {
            value_append(list, port->ops->rx_filter(port));
        }
    }
    *ret = g_steal_pointer(&list);
    return NULL;
}
