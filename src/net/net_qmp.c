/* QMP commands about the network. */
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
