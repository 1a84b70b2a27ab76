/* QMP commands about the balloon. */
#include "hw/virtio/virtio_balloon.h"
#include "schema/qmp_commands.h"

Error *qmp_query_balloon(QmpContext *ctx, const QmpQueryBalloonArgs *args, Value **ret)
{
    uint64_t actual;

    TRY(balloon_actual(ctx->machine, &actual));
    *ret = value_dict();
    value_put(*ret, "actual", value_uint(actual));
    return NULL;
}

Error *qmp_balloon(QmpContext *ctx, const QmpBalloonArgs *args, Value **ret)
{
    if (args->value <= 0) {
        return error_new("Parameter 'target' expects a size");
    }
    return balloon_set_target(ctx->machine, (uint64_t)args->value);
}
