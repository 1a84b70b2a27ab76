/* QMP commands about file descriptors that come from outside. */
#include <fcntl.h>
#include <unistd.h>

#include "core/vm/fdset.h"
#include "monitor/monitor_priv.h"
#include "schema/qmp_commands.h"

static MUST_USE Error *take_sent(QmpContext *ctx, int *ret_fd)
{
    *ret_fd = ctx->monitor ? char_take_fd(&ctx->monitor->front) : -1;
    return *ret_fd < 0 ? error_new("No file descriptor supplied via SCM_RIGHTS") : NULL;
}

Error *qmp_getfd(QmpContext *ctx, const QmpGetfdArgs *args, Value **ret)
{
    int fd = -1;

    TRY(take_sent(ctx, &fd));
    if (g_ascii_isdigit(args->fdname[0])) {
        close(fd);
        return error_new("Parameter 'fdname' expects a name not starting with a digit");
    }
    named_fd_put(ctx->machine, args->fdname, fd);
    return NULL;
}

Error *qmp_closefd(QmpContext *ctx, const QmpClosefdArgs *args, Value **ret)
{
    return named_fd_close(ctx->machine, args->fdname) ? NULL : error_new("File descriptor named '%s' not found", args->fdname);
}

Error *qmp_add_fd(QmpContext *ctx, const QmpAddFdArgs *args, Value **ret)
{
    int64_t set = args->has_fdset_id ? args->fdset_id : -1;
    int fd = -1;

    if (args->has_fdset_id && set < 0) {
        return error_new("Parameter 'fdset-id' expects a non-negative value");
    }
    TRY(take_sent(ctx, &fd));
    TRY(fdset_add(ctx->machine, set, fd, args->has_opaque ? args->opaque : NULL, &set));
    *ret = value_dict();
    value_put_int(*ret, "fdset-id", set);
    value_put_int(*ret, "fd", fd);
    return NULL;
}

Error *qmp_remove_fd(QmpContext *ctx, const QmpRemoveFdArgs *args, Value **ret)
{
    bool found = !(args->has_fd && args->fd < 0) && fdset_remove(ctx->machine, args->fdset_id, args->has_fd ? args->fd : -1);
    g_autofree char *fd = args->has_fd ? g_strdup_printf(", fd:%" G_GINT64_FORMAT, args->fd) : g_strdup("");
    return found ? NULL : error_new("File descriptor named 'fdset-id:%" G_GINT64_FORMAT "%s' not found", args->fdset_id, fd);
}

Error *qmp_query_fdsets(QmpContext *ctx, const QmpQueryFdsetsArgs *args, Value **ret)
{
    *ret = fdsets_describe(ctx->machine);
    return NULL;
}
