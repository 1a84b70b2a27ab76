/* qemu-img check. Exit codes: 0 good, 1 could not check, 2 corrupt, 3 leaks only, 63 no check for
 * the format. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "main/img/img.h"
#include "value/json.h"

typedef struct Check {
    ImgOptions o;
    unsigned fix;
} Check;

static Error *check_option(void *opaque, int letter, const char *value)
{
    Check *c = opaque;
    if (!strcmp(value, "leaks")) {
        c->fix = CHECK_FIX_LEAKS;
    } else if (!strcmp(value, "all")) {
        c->fix = CHECK_FIX_LEAKS | CHECK_FIX_ERRORS;
    } else {
        return error_new("-r repairs 'leaks' or 'all', not: %s", value);
    }
    return NULL;
}

static void print_line(void *opaque, const char *text)
{
    fprintf(stderr, "%s\n", text);
}

static void print_json(const Check *c, const BlockNode *node, const BlockCheck *r)
{
    static const struct {
        const char *name;
        size_t offset;
    } optional[] = {
        { "corruptions-fixed", offsetof(BlockCheck, corruptions_fixed) },
        { "leaks", offsetof(BlockCheck, leaks) },
        { "compressed-clusters", offsetof(BlockCheck, compressed_clusters) },
        { "corruptions", offsetof(BlockCheck, corruptions) },
        { "fragmented-clusters", offsetof(BlockCheck, fragmented_clusters) },
        { "allocated-clusters", offsetof(BlockCheck, allocated_clusters) },
        { "leaks-fixed", offsetof(BlockCheck, leaks_fixed) },
    };
    g_autoptr(Value) out = value_dict();
    if (r->image_end) {
        value_put(out, "image-end-offset", value_uint(r->image_end));
    }
    if (r->total_clusters) {
        value_put(out, "total-clusters", value_uint(r->total_clusters));
    }
    value_put(out, "check-errors", value_uint(r->check_errors));
    for (size_t i = 0; i < ARRAY_SIZE(optional); i++) {
        uint64_t number = *(const uint64_t *)((const char *)r + optional[i].offset);
        if (number) {
            value_put(out, optional[i].name, value_uint(number));
        }
    }
    value_put_str(out, "filename", c->o.args[0]);
    value_put_str(out, "format", node->driver->name);
    g_autofree char *text = json_write(out, true);
    printf("%s\n", text);
}

static void print_human(const BlockCheck *r)
{
    if (!r->corruptions && !r->leaks && !r->check_errors) {
        printf("No errors were found on the image.\n");
    }
    if (r->corruptions) {
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               r->corruptions);
    }
    if (r->leaks) {
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               r->leaks);
    }
    if (r->check_errors) {
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", r->check_errors);
    }
    if (r->total_clusters && r->allocated_clusters) {
        printf("%" PRIu64 "/%" PRIu64
               " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               r->allocated_clusters, r->total_clusters,
               100.0 * (double)r->allocated_clusters / (double)r->total_clusters,
               100.0 * (double)r->fragmented_clusters / (double)r->allocated_clusters,
               100.0 * (double)r->compressed_clusters / (double)r->allocated_clusters);
    }
    if (r->image_end) {
        printf("Image end offset: %" PRIu64 "\n", r->image_end);
    }
}

static BlockCheck empty_result(const Check *c)
{
    return (BlockCheck) { .message = c->o.quiet ? NULL : print_line };
}

/* Repairs, then looks again so that what is reported is what is left. */
static Error *check_and_repair_co(Check *c, BlockNode *node, BlockCheck *r)
{
    *r = empty_result(c);
    TRY(node->driver->check_co(node, r, c->fix));
    if (!r->corruptions_fixed && !r->leaks_fixed) {
        return NULL;
    }
    uint64_t leaks = r->leaks_fixed, corruptions = r->corruptions_fixed;
    if (!c->o.json && !c->o.quiet) {
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               leaks, corruptions);
    }
    *r = empty_result(c);
    TRY(node->driver->check_co(node, r, 0));
    r->leaks_fixed = leaks;
    r->corruptions_fixed = corruptions;
    return NULL;
}

static int check_exit_code(const BlockCheck *r)
{
    return r->check_errors ? 1 : r->corruptions ? 2 : r->leaks ? 3 : 0;
}

static int check_node_co(Check *c, BlockNode *node)
{
    BlockCheck result;
    if (!node->driver->check_co) {
        img_result(error_new("This image format does not support checks"));
        return 63;
    }
    Error *err = check_and_repair_co(c, node, &result);
    if (err) {
        img_result(error_prefix(err, "Check failed: "));
        return 1;
    }
    if (c->o.json) {
        print_json(c, node, &result);
    } else if (!c->o.quiet) {
        print_human(&result);
    }
    return check_exit_code(&result);
}

static int check_co(void *opaque)
{
    Check *c = opaque;
    g_autoptr(KeyValues) more = keyvalues_new();
    ImgDisk disk;
    const char *format = c->o.format;

    unsigned flags = OPEN_NO_BACKING | (c->fix ? OPEN_WRITE : 0);
    if (c->fix && !c->o.image_opts) {
        /* The option is the format's own, so the format must be known first. */
        ImgDisk probe;
        Error *err = img_open_co(&c->o, c->o.args[0], format, OPEN_NO_BACKING | OPEN_NO_IO, c->o.src_cache,
                                 false, &probe);
        if (err) {
            return img_result(err);
        }
        format = probe.node->driver->name;
        if (probe.node->driver->repairs) {
            keyvalues_set(more, "x-repair", "on");
        }
        img_close_co(&probe);
    }
    Error *err = img_open_with_co(&c->o, c->o.args[0], format, flags, c->o.src_cache,
                                  c->o.image_opts, more, &disk);
    if (err) {
        return img_result(err);
    }
    int code = check_node_co(c, disk.node);
    img_close_co(&disk);
    return code;
}

int img_check(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_OUTPUT,
                                           IMG_LONG_FORCE_SHARE,
                                           { "format", required_argument, NULL, 'f' },
                                           { "repair", required_argument, NULL, 'r' },
                                           { 0 } };
    Check c = { 0 };
    ImgParser parser = { command, ":hf:r:T:qU", longs, check_option, &c };

    int done = img_parse(&parser, graph, &c.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    return c.o.arg_count == 1 ? img_run(graph, check_co, &c)
                              : img_usage_error(error_new("Expecting one image file name"));
}
