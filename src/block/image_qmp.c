/* QMP commands that make images and change their options. */
#include <string.h>

#include "block/block_qmp.h"
#include "block/job.h"
#include "block/node_priv.h"

/* --- creating images --- */

typedef struct CreateJob {
    Job job;
    Value *options;
} CreateJob;

/* QMP writes names with dashes; what -o takes has underscores in some places, and one name of its own. */
static void rename_options(const BlockOption *known, KeyValues *opts)
{
    for (; known && known->name; known++) {
        g_autofree char *dashed = g_strdelimit(g_strdup(known->name), "_", '-');
        g_autofree char *value = strcmp(dashed, known->name) ? keyvalues_take(opts, dashed) : NULL;
        if (value) {
            keyvalues_set(opts, known->name, value);
        }
    }
    g_autofree char *version = keyvalues_take(opts, "version");
    if (version) {
        keyvalues_set(opts, "compat", version);
    }
}

/* "file", "data-file": the name of a node, or a node to open for this. NULL: not given. */
static Error *take_node_co(Job *job, const char *key, KeyValues *opts, BlockNode **ret_node)
{
    g_autofree char *name = keyvalues_take(opts, key), *prefix = g_strconcat(key, ".", NULL);
    g_autoptr(KeyValues) given = block_take_prefix(opts, prefix);
    *ret_node = NULL;
    if (!name && given->items->len) {
        return block_open_options_co(job->graph, given, ret_node);
    }
    if (!name) {
        return NULL;
    }
    BlockNode *node = block_node_find(job->graph, name);
    if (!node) {
        return error_new("Cannot find device='%s' nor node-name='%s'", name, name);
    }
    TRY(block_node_activate(node)); /* after a migration: what is made new is nobody else's */
    *ret_node = node_ref(node);
    return NULL;
}

static Error *create_in_node_co(Job *job, const BlockDriver *driver, BlockNode *node, KeyValues *opts)
{
    BlockEdge *edge;
    if (node->read_only) {
        return error_new("Node '%s' is read-only", node->name);
    }
    /* The format's own node, which lays out the tables, asks for the rest. */
    TRY(block_root_attach(node, "create", CLAIM_READ, CLAIM_ALL, &edge));
    Error *err = driver->create_co(job->graph, node->filename, node, opts);
    block_root_detach(edge);
    return err;
}

/* Everything but the file itself: nodes that the options name go on to the driver as "x-...-node". */
static Error *create_in_file_co(Job *job, const BlockDriver *driver, KeyValues *opts)
{
    BlockNode *file, *data;
    Error *err = NULL;

    TRY(take_node_co(job, "file", opts, &file));
    if (!file) {
        return error_new("Driver '%s' needs a file to create an image in", driver->name);
    }
    err = take_node_co(job, "data-file", opts, &data);
    if (!err) {
        rename_options(driver->create_options, opts);
        keyvalues_set(opts, "x-as-given", "on");
        if (data) {
            keyvalues_set(opts, "x-data-node", data->name);
        }
        err = create_in_node_co(job, driver, file, opts);
        node_unref_co(data);
    }
    node_unref_co(file);
    return err;
}

static Error *create_run_co(Job *job)
{
    const Value *options = ((CreateJob *)job)->options;
    const char *driver_name = value_find_str(options, "driver");
    const BlockDriver *driver;
    g_autoptr(KeyValues) opts = NULL;

    TRY(block_driver_lookup(driver_name ? driver_name : "", &driver));
    if (!driver->create_co) {
        return error_new("Driver '%s' does not support blockdev-create", driver->name);
    }
    TRY(keyvalues_from_value(options, &opts));
    keyvalues_remove(opts, "driver");
    if (driver->protocol) {
        rename_options(driver->create_options, opts);
        g_autofree char *filename = keyvalues_take(opts, "filename");
        return filename ? driver->create_co(job->graph, filename, NULL, opts)
                        : error_new("Driver '%s' needs the name of the file to create", driver->name);
    }
    Error *err = create_in_file_co(job, driver, opts);
    job->done = job->total = 1;
    return err;
}

static void create_clean_co(Job *job)
{
    value_free(((CreateJob *)job)->options);
}

static const JobDriver create_driver = { .type = "create",
                                         .no_block = true,
                                         .size = sizeof(CreateJob),
                                         .run_co = create_run_co,
                                         .clean_co = create_clean_co };

Error *qmp_blockdev_create(QmpContext *ctx, const QmpBlockdevCreateArgs *args, Value **ret)
{
    JobOptions o = { .id = args->job_id, .manual_dismiss = true };
    Job *job;
    TRY(job_new(qmp_graph(ctx), &create_driver, &o, &job));
    ((CreateJob *)job)->options = value_copy(args->options);
    job_start(job);
    return NULL;
}

/* --- changing an image's options --- */

typedef struct AmendJob {
    Job job;
    BlockNode *node;
    Value *options;
    bool force;
} AmendJob;

static Error *amend_run_co(Job *job)
{
    const AmendJob *j = (AmendJob *)job;
    const BlockDriver *driver = j->node->driver;
    g_autoptr(KeyValues) opts = NULL;
    BlockEdge *edge;

    TRY(keyvalues_from_value(j->options, &opts));
    g_autofree char *wanted = keyvalues_take(opts, "driver");
    if (g_strcmp0(wanted, driver->name)) {
        return error_new("The options are for '%s', but the node's driver is '%s'", wanted ? wanted : "", driver->name);
    }
    rename_options(driver->amend_options, opts);
    TRY(block_root_attach(j->node, "amend", CLAIM_READ | CLAIM_WRITE | CLAIM_RESIZE, CLAIM_ALL, &edge));
    Error *err = driver->amend_co(j->node, opts, j->force);
    block_root_detach(edge);
    job->done = job->total = 1;
    return err;
}

static void amend_clean_co(Job *job)
{
    value_free(((AmendJob *)job)->options);
    node_unref_co(((AmendJob *)job)->node);
}

static const JobDriver amend_driver = {
    .type = "amend", .size = sizeof(AmendJob), .no_block = true, .run_co = amend_run_co, .clean_co = amend_clean_co
};

Error *qmp_x_blockdev_amend(QmpContext *ctx, const QmpXBlockdevAmendArgs *args, Value **ret)
{
    JobOptions o = { .id = args->job_id, .manual_dismiss = true };
    BlockNode *node = block_node_find(qmp_graph(ctx), args->node_name);
    Job *job;

    if (!node) {
        return error_new("Cannot find device='' nor node-name='%s'", args->node_name);
    }
    if (!node->driver->amend_co) {
        return error_new("Driver '%s' has no options that can be changed", node->driver->name);
    }
    TRY(job_new(qmp_graph(ctx), &amend_driver, &o, &job));
    AmendJob *j = (AmendJob *)job;
    j->node = node_ref(node);
    j->options = value_copy(args->options);
    j->force = args->has_force && args->force;
    job_start(job);
    return NULL;
}
