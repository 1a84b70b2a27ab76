/* query-replay, replay-break, replay-delete-break, replay-seek. */
#include "core/vm/icount.h"
#include "replay/replay_priv.h"
#include "schema/qmp_commands.h"

Error *qmp_query_replay(QmpContext *ctx, const QmpQueryReplayArgs *args, Value **ret)
{
    Machine *machine = ctx->machine;
    const Replay *replay = replay_of(machine);
    static const char *const modes[] = { "none", "record", "play" };

    *ret = value_dict();
    value_put_int(*ret, "icount", machine->icount ? (int64_t)icount_count(machine->icount) : 0);
    value_put_str(*ret, "mode", modes[replay ? replay->mode : REPLAY_NONE]);
    if (replay) {
        value_put_str(*ret, "filename", replay->path);
    }
    return NULL;
}

static MUST_USE Error *playing(Machine *machine, int64_t icount, Replay **ret_replay)
{
    Replay *replay = replay_of(machine);
    if (!replay || replay->mode != REPLAY_PLAY) {
        return error_new("Only a replay can stop at an instruction: start with rr=replay");
    }
    if (icount < 0 || (uint64_t)icount < icount_count(machine->icount)) {
        return error_new("that instruction was executed before: a breakpoint has to lie ahead");
    }
    *ret_replay = replay;
    return NULL;
}

Error *qmp_replay_break(QmpContext *ctx, const QmpReplayBreakArgs *args, Value **ret)
{
    Replay *replay;
    TRY(playing(ctx->machine, args->icount, &replay));
    replay->stop_at = (uint64_t)args->icount;
    icount_look(ctx->machine->icount);
    return NULL;
}

Error *qmp_replay_delete_break(QmpContext *ctx, const QmpReplayDeleteBreakArgs *args, Value **ret)
{
    Replay *replay = replay_of(ctx->machine);
    if (!replay || replay->mode != REPLAY_PLAY) {
        return error_new("Breakpoints of this kind exist in a replay only: start with rr=replay");
    }
    replay->stop_at = UINT64_MAX;
    return NULL;
}

Error *qmp_replay_seek(QmpContext *ctx, const QmpReplaySeekArgs *args, Value **ret)
{
    Replay *replay;
    TRY(playing(ctx->machine, args->icount, &replay));
    replay->stop_at = (uint64_t)args->icount;
    machine_start(ctx->machine);
    return NULL;
}
