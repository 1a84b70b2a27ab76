/* The migration service: state, parameters, capabilities; see migration.h. */
#include <string.h>
#include <unistd.h>

#include "migration/dirty_rate.h"
#include "migration/lazy_load.h"
#include "migration/lazy_ram.h"
#include "migration/migration_priv.h"
#include "migration/snapshot.h"
#include "schema/qmp_commands.h"

const char *migration_status_name(MigrationStatus status)
{
    static const char *const names[] = { "none",   "setup",          "cancelling", "cancelled", "active",
                                         "postcopy-active", "postcopy-paused", "postcopy-recover", "pre-switchover", "device", "completed",  "failed" };
    return names[status];
}

Migration *migration_of(Machine *machine)
{
    return machine_service(machine, MIGRATION_SERVICE);
}

DirtyRate *dirty_rate_of(Machine *machine)
{
    return migration_of(machine)->dirty_rate;
}

void migration_set_status(Migration *migration, MigrationStatus status)
{
    if (migration->status == status) {
        return;
    }
    migration->status = status;
    if (migration->caps.events) {
        g_autofree char *json = g_strdup_printf("{\"status\": \"%s\"}", migration_status_name(status));
        machine_emit(migration->machine, "MIGRATION", json);
    }
}

bool migration_busy(const Migration *migration)
{
    return migration->out || migration->in || migration->snapshot;
}

static const SnapshotOps snapshot_ops = { snapshot_save, snapshot_load, snapshot_delete, snapshot_describe };

static void machine_ends(MachineNotifier *notifier, MachineEvent event, void *data)
{
    Migration *migration = container_of(notifier, Migration, notifier);
    if (event == MACHINE_EVENT_SHUTDOWN) {
        migration_in_shutdown(migration);
    }
}

Error *migration_init(Machine *machine)
{
    Migration *migration = g_new0(Migration, 1);

    migration->machine = machine;
    migration_params_init(&migration->params);
    migration->lazy_host = lazy_ram_open_host();
    migration->dirty_rate = dirty_rate_new(machine);
    migration->notifier.fn = machine_ends;
    machine_notifier_add(machine, &migration->notifier);
    machine_set_service(machine, MIGRATION_SERVICE, migration);
    machine_set_service(machine, "snapshots", (void *)&snapshot_ops);
    return NULL;
}

void migration_free(Machine *machine)
{
    Migration *migration = migration_of(machine);

    if (!migration) {
        return;
    }
    lock_acquire(&machine->lock);
    migration_out_cancel(migration);
    lock_release(&machine->lock);
    while (migration->out) {
        loop_run_once(machine->loop, 10 * NS_PER_MS);
    }
    lock_acquire(&machine->lock);
    migration_in_free(migration);
    lazy_load_drop(machine);
    dirty_rate_free(migration->dirty_rate);
    blocktime_free(migration->blocktime);
    memory_snapshot_free(g_steal_pointer(&migration->memory));
    machine_set_service(machine, MIGRATION_SERVICE, NULL);
    list_remove(&migration->notifier.node);
    lock_release(&machine->lock);
    value_free(migration->params.bitmap_mapping);
    g_free(migration->error);
    for (unsigned n = 0; n < MIGRATION_TLS_PARAMS; n++) {
        g_free(migration->tls[n]);
    }
    if (migration->lazy_host >= 0) {
        close(migration->lazy_host);
    }
    g_free(migration);
}

Error *migration_incoming(Machine *machine, const char *uri)
{
    Migration *migration = migration_of(machine);

    machine_set_state(machine, RUN_STATE_INMIGRATE);
    if (!strcmp(uri, "defer")) {
        return NULL;
    }
    migration->in_started = true;
    migration->outgoing = false;
    return migration_in_start(migration, uri);
}

/* --- commands --- */

Error *qmp_migrate(QmpContext *ctx, const QmpMigrateArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    RunState state = ctx->machine->state;

    if (args->blk || args->inc) {
        return error_hint(error_new("disks are not moved with the machine here"), "Use drive-mirror or blockdev-mirror.");
    }
    if (args->resume) {
        return migration_out_resume(migration, args->uri);
    }
    if (migration_busy(migration)) {
        return error_new("A migration is under way: wait for its end, or cancel it");
    }
    if (state == RUN_STATE_INMIGRATE) {
        return error_new("The machine waits for an incoming migration itself");
    }
    if (state == RUN_STATE_POSTMIGRATE) {
        return error_new("The machine was migrated away already: let it run again ('cont') before "
                         "the next migration");
    }
    return migration_out_start(migration, args->uri);
}

Error *qmp_migrate_cancel(QmpContext *ctx, const QmpMigrateCancelArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    if (migration_out_is_gone(migration)) {
        return error_hint(error_new("The machine runs at the destination already, so the migration cannot be cancelled"),
                          "migrate-pause breaks the connection.");
    }
    migration_out_cancel(migration);
    return NULL;
}

Error *qmp_migrate_start_postcopy(QmpContext *ctx, const QmpMigrateStartPostcopyArgs *args, Value **ret)
{
    return migration_out_start_postcopy(migration_of(ctx->machine));
}

Error *qmp_migrate_pause(QmpContext *ctx, const QmpMigratePauseArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    if (migration->status != MIGRATION_POSTCOPY_ACTIVE) {
        return error_new("Only a migration whose status is postcopy-active can be paused; it is: %s",
                         migration_status_name(migration->status));
    }
    migration_out_yank(migration);
    migration_in_yank(migration);
    return NULL;
}

Error *qmp_migrate_recover(QmpContext *ctx, const QmpMigrateRecoverArgs *args, Value **ret)
{
    return migration_in_recover(migration_of(ctx->machine), args->uri);
}

Error *qmp_migrate_continue(QmpContext *ctx, const QmpMigrateContinueArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);
    if (strcmp(args->state, migration_status_name(migration->status))) {
        return error_new("That does not fit the state of the migration, which is: %s",
                         migration_status_name(migration->status));
    }
    return migration_out_continue(migration);
}

Error *qmp_migrate_incoming(QmpContext *ctx, const QmpMigrateIncomingArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    if (ctx->machine->state != RUN_STATE_INMIGRATE) {
        return error_new("The machine does not wait for a migration: start it with '-incoming "
                         "defer'");
    }
    if (migration->in_started) {
        return error_new("The incoming migration was started before, it starts only once");
    }
    migration->outgoing = false;
    TRY(migration_in_start(migration, args->uri));
    migration->in_started = true;
    return NULL;
}
