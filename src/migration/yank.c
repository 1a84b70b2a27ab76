/*
 * yank: breaks a connection that hangs, of a block node, a chardev or a migration, so that whoever waits for it goes on with an
 * error. The commands run out of band, also while another command waits.
 */
#include <string.h>

#include "block/backend.h"
#include "chardev/chardev.h"
#include "migration/migration_priv.h"
#include "schema/qmp_commands.h"

/* A connection, found by what an instance names; NULL members: it is of another kind. */
typedef struct Target {
    BlockNode *node;
    Chardev *chr;
    Migration *migration;
} Target;

static void list_instance(Value *list, const char *type, const char *member, const char *name)
{
    Value *item = value_dict();

    value_put_str(item, "type", type);
    if (member) {
        value_put_str(item, member, name);
    }
    value_append(list, item);
}

static bool node_has_connection(const BlockNode *node)
{
    return node->driver && node->driver->yank && node->state && node->name;
}

Error *qmp_query_yank(QmpContext *ctx, const QmpQueryYankArgs *args, Value **ret)
{
    Machine *machine = ctx->machine;
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    Chardevs *chardevs = machine_service(machine, "chardevs");
    Migration *migration = migration_of(machine);

    *ret = value_list();
    for (BlockNode *node = NULL; graph && (node = block_node_next(graph, node));) {
        if (node_has_connection(node)) {
            list_instance(*ret, "block-node", "node-name", node->name);
        }
    }
    for (Chardev *chr = NULL; chardevs && (chr = chardev_next(chardevs, chr));) {
        if (chardev_type(chr)->disconnect) {
            list_instance(*ret, "chardev", "id", chardev_id(chr));
        }
    }
    if (migration && migration_busy(migration)) {
        list_instance(*ret, "migration", NULL, NULL);
    }
    return NULL;
}

/* Also one that is just being opened, which block_node_find() does not show. */
static BlockNode *find_node(BlockGraph *graph, const char *name)
{
    BlockNode *node = NULL;

    while (graph && (node = block_node_next(graph, node)) && !(node_has_connection(node) && !strcmp(node->name, name))) {
    }
    return graph ? node : NULL;
}

static MUST_USE Error *find_target(Machine *machine, const Value *instance, Target *target)
{
    const char *type = value_get_str(value_find(instance, "type")), *name = "";

    *target = (Target){ 0 };
    if (!strcmp(type, "block-node")) {
        BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
        name = value_get_str(value_find(instance, "node-name"));
        target->node = find_node(graph, name);
    } else if (!strcmp(type, "chardev")) {
        Chardevs *chardevs = machine_service(machine, "chardevs");
        name = value_get_str(value_find(instance, "id"));
        Chardev *chr = chardevs ? chardev_find(chardevs, name) : NULL;
        target->chr = chr && chardev_type(chr)->disconnect ? chr : NULL;
    } else {
        Migration *migration = migration_of(machine);
        target->migration = migration && migration_busy(migration) ? migration : NULL;
    }
    if (!target->node && !target->chr && !target->migration) {
        return error_hint(error_new_class(ERROR_DEVICE_NOT_FOUND, "yank: no connection of %s %s", type, name),
                          "query-yank lists those there are.");
    }
    return NULL;
}

/* All or none: first each is looked up. */
Error *qmp_yank(QmpContext *ctx, const QmpYankArgs *args, Value **ret)
{
    size_t count = value_length(args->instances);
    g_autofree Target *targets = g_new(Target, count);

    for (size_t n = 0; n < count; n++) {
        TRY(find_target(ctx->machine, value_at(args->instances, n), &targets[n]));
    }
    for (size_t n = 0; n < count; n++) {
        if (targets[n].node) {
            targets[n].node->driver->yank(targets[n].node);
        } else if (targets[n].chr) {
            chardev_type(targets[n].chr)->disconnect(targets[n].chr);
        } else {
            migration_out_yank(targets[n].migration);
            migration_in_yank(targets[n].migration);
        }
    }
    return NULL;
}
