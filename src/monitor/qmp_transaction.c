/* The QMP command "transaction": several commands, all of which have an effect or none. */
#include <string.h>

#include "monitor/monitor_priv.h"
#include "schema/qmp_commands.h"

/* Commands that can be taken back. */
static const char *const actions[] = { "blockdev-snapshot",
                                       "blockdev-snapshot-sync",
                                       "blockdev-backup",
                                       "drive-backup",
                                       "block-dirty-bitmap-add",
                                       "block-dirty-bitmap-remove",
                                       "block-dirty-bitmap-clear",
                                       "block-dirty-bitmap-enable",
                                       "block-dirty-bitmap-disable",
                                       "block-dirty-bitmap-merge",
                                       "blockdev-snapshot-internal-sync",
                                       "abort",
                                       NULL };

static MUST_USE Error *run_action(QmpContext *ctx, const Value *action)
{
    const char *type = value_find_str(action, "type");
    Value *ret = NULL;

    if (!g_strv_contains(actions, type)) {
        const char *near = nearest_in(type, actions);
        return error_new("Invalid transaction action '%s'%s%s%s", type,
                         near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    if (!strcmp(type, "abort")) {
        return error_new("Transaction aborted using Abort action");
    }
    Error *err = monitor_run_qmp(ctx, type, value_find(action, "data"), &ret);
    value_free(ret);
    return err;
}

static void finish(GArray *undo, bool success)
{
    for (guint i = undo->len; i-- > 0;) {
        QmpUndo *entry = &g_array_index(undo, QmpUndo, i);
        if (!success) {
            entry->undo(entry->opaque);
        }
        entry->forget(entry->opaque);
    }
    g_array_unref(undo);
}

Error *qmp_transaction(QmpContext *ctx, const QmpTransactionArgs *args, Value **ret)
{
    const char *mode =
        args->has_properties ? value_find_str(args->properties, "completion-mode") : NULL;
    Error *err = NULL;

    ctx->grouped = !g_strcmp0(mode, "grouped");
    ctx->group = NULL;
    ctx->undo = g_array_new(FALSE, FALSE, sizeof(QmpUndo));
    for (size_t i = 0; i < value_length(args->actions) && !err; i++) {
        err = run_action(ctx, value_at(args->actions, i));
    }
    GArray *undo = ctx->undo;
    ctx->undo = NULL;
    ctx->grouped = false;
    ctx->group = NULL;
    finish(undo, !err);
    return err;
}
