/* qemu-img: options, opening, progress, text forms. */
#include "main/img/img.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "value/json.h"

int img_result(Error *err)
{
    if (err) {
        error_report(err);
        return 1;
    }
    return 0;
}

int img_usage_error(Error *err)
{
    return img_result(error_hint(err, "Try 'qemu-img --help' for more information"));
}

static const char *next_long(void *opaque)
{
    const struct option **cursor = opaque;
    return (*cursor)->name ? (*cursor)++->name : NULL;
}

static Error *unknown_option(const ImgParser *parser, const char *typed)
{
    const struct option *cursor = parser->longs;
    const char *near =
        g_str_has_prefix(typed, "--") ? nearest_name(typed + 2, next_long, &cursor) : NULL;
    if (near) {
        return error_new("unrecognized option '%s', did you mean '--%s'?", typed, near);
    }
    return typed[0] == '-' && typed[1] && !typed[2] ? error_new("invalid option -- '%c'", typed[1])
                                                    : error_new("unrecognized option '%s'", typed);
}

/* Of one command: it has a help of its own. */
static int command_usage_error(const ImgParser *parser, Error *err)
{
    g_autofree char *name = g_strdup_printf("qemu-img %s", parser->command->name);
    error_set_program(name);
    int ret = img_result(error_hint(err, "Try '%s --help' for more information", name));
    error_set_program("qemu-img");
    return ret;
}

static Error *add_object(ImgOptions *o, const char *text)
{
    g_autofree char *help = NULL;

    TRY(block_graph_add_object(o->graph, text, &help));
    if (help) {
        fputs(help, stdout);
        o->helped = true;
    }
    return NULL;
}

static Error *common_option(const ImgParser *parser, ImgOptions *o, int letter, const char *value)
{
    switch (letter) {
    case 'f':
        o->format = value;
        return NULL;
    case 't':
        o->cache = value;
        return NULL;
    case 'T':
        o->src_cache = value;
        return NULL;
    case 'U':
        o->force_share = true;
        return NULL;
    case 'q':
        o->quiet = true;
        return NULL;
    case 'p':
        o->progress = true;
        return NULL;
    case LONG_PROGRESS:
        if (value && strcmp(value, "json")) {
            return error_new("--progress must be used alone or with json as argument.");
        }
        o->progress = true;
        o->progress_json = value != NULL;
        return NULL;
    case LONG_IMAGE_OPTS:
        o->image_opts = true;
        return NULL;
    case LONG_OUTPUT:
        if (strcmp(value, "json") && strcmp(value, "human")) {
            return error_new("--output must be used with human or json as argument.");
        }
        o->json = !strcmp(value, "json");
        return NULL;
    case LONG_OBJECT:
        return add_object(o, value);
    default:
        return parser->extra(parser->opaque, letter, value);
    }
}

/* What getopt points at when it does not know an option. */
static const char *bad_option(int argc, char **argv, int index_before, char buffer[3])
{
    if (optopt && optopt < 256) {
        buffer[0] = '-';
        buffer[1] = (char)optopt;
        buffer[2] = 0;
        return buffer;
    }
    return argv[MAX(optind - 1, 0)];
}

int img_parse(const ImgParser *parser, BlockGraph *graph, ImgOptions *options, int argc,
              char **argv)
{
    char buffer[3];

    *options = (ImgOptions) { .graph = graph };
    opterr = 0;
    optind = 0;
    for (;;) {
        int before = optind;
        int letter = getopt_long(argc, argv, parser->letters, parser->longs, NULL);
        if (letter == -1) {
            break;
        }
        if (letter == 'h') {
            printf("usage: qemu-img %s\n", parser->command->synopsis);
            return 0;
        }
        if (letter == ':') {
            return command_usage_error(parser, error_new("the option '%s' needs a value",
                                                         bad_option(argc, argv, before, buffer)));
        }
        if (letter == '?') {
            return command_usage_error(parser, unknown_option(parser, bad_option(argc, argv, before, buffer)));
        }
        Error *err = common_option(parser, options, letter, optarg);
        if (err) {
            return img_result(err);
        }
        if (options->helped) {
            return 0;
        }
    }
    options->args = argv + optind;
    options->arg_count = argc - optind;
    if (options->progress && options->quiet) {
        options->progress = false;
    }
    return -1;
}

/* --- running --- */

typedef struct ImgRun {
    ImgFn *fn;
    void *opaque;
    int result;
} ImgRun;

static void run_co(void *opaque)
{
    ImgRun *run = opaque;
    run->result = run->fn(run->opaque);
}

int img_run(BlockGraph *graph, ImgFn *fn, void *opaque)
{
    ImgRun run = { .fn = fn, .opaque = opaque };
    co_run(block_graph_loop(graph), run_co, &run);
    return run.result == 0 && block_graph_lost(graph) ? 1 : run.result;
}

/* --- opening --- */

static Error *cache_flags(const char *cache, unsigned *flags)
{
    if (!cache || !strcmp(cache, "writeback") || !strcmp(cache, "writethrough")) {
        return NULL;
    }
    if (!strcmp(cache, "none") || !strcmp(cache, "off") || !strcmp(cache, "directsync")) {
        *flags |= OPEN_DIRECT;
    } else if (!strcmp(cache, "unsafe")) {
        *flags |= OPEN_NO_FLUSH;
    } else {
        return error_new("This is not a cache mode: %s", cache);
    }
    return NULL;
}

static Error *open_node_co(const ImgOptions *options, const char *filename, const char *format,
                           unsigned flags, bool image_opts, const KeyValues *more,
                           BlockNode **ret_node)
{
    if (!image_opts) {
        return block_open_file_co(options->graph, filename, format, flags, more, ret_node);
    }
    g_autoptr(KeyValues) opts = NULL;
    if (format) {
        return error_new("--image-opts names the format itself (driver=): leave out --format");
    }
    TRY(keyvalues_parse(filename, NULL, &opts));
    keyvalues_set(opts, "read-only", flags & OPEN_WRITE ? "off" : "on");
    if (flags & OPEN_FORCE_SHARE) {
        keyvalues_set(opts, "force-share", "on");
    }
    if (!keyvalues_has(opts, "discard")) {
        keyvalues_set(opts, "discard", "unmap");
    }
    if (flags & OPEN_NO_BACKING) {
        keyvalues_set(opts, "backing", "");
    }
    if (flags & OPEN_NO_IO) {
        keyvalues_set(opts, "x-no-io", "on");
    }
    return block_open_options_co(options->graph, opts, ret_node);
}

/* -U and what the options themselves say must agree. */
static Error *check_share_option(const char *text)
{
    g_autoptr(KeyValues) opts = NULL;
    bool share;
    TRY(keyvalues_parse(text, NULL, &opts));
    TRY(block_take_bool(opts, "force-share", true, &share));
    return share ? NULL : error_new("--force-share/-U conflicts with image options");
}

static void warn_guessed(const BlockNode *node)
{
    if (node->probed && !strcmp(node->driver->name, "raw")) {
        fprintf(stderr,
                "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
                "         Automatically detecting the format is dangerous for raw images, write "
                "operations on block 0 "
                "will be restricted.\n"
                "         Specify the 'raw' format explicitly to remove the restrictions.\n",
                node->filename);
    }
}

Error *img_open_with_co(const ImgOptions *options, const char *filename, const char *format,
                        unsigned flags, const char *cache, bool image_opts, const KeyValues *more,
                        ImgDisk *ret_disk)
{
    ImgDisk disk = { 0 };
    bool writes = (flags & OPEN_WRITE) != 0;

    if (options->force_share && !writes) {
        flags |= OPEN_FORCE_SHARE;
    }
    if (format) {
        const BlockDriver *driver = block_driver_find(format);
        if (!driver) {
            return error_new("Could not open '%s': Unknown driver '%s'", filename, format);
        }
    }
    TRY(cache_flags(cache, &flags));
    if (image_opts && options->force_share) {
        TRY(check_share_option(filename));
    }
    Error *err = open_node_co(options, filename, format, flags, image_opts, more, &disk.node);
    if (err) {
        return error_prefix(err, "Could not open '%s': ", filename);
    }
    if (writes) {
        warn_guessed(disk.node);
    }
    err = block_root_attach(
        disk.node, "qemu-img", CLAIM_READ | (writes ? CLAIM_WRITE | CLAIM_RESIZE : 0),
        flags & OPEN_FORCE_SHARE ? CLAIM_ALL : CLAIM_READ | CLAIM_WRITE_UNCHANGED, &disk.root);
    if (err) {
        node_unref_co(disk.node);
        return error_prefix(err, "Could not open '%s': ", filename);
    }
    *ret_disk = disk;
    return NULL;
}

Error *img_open_co(const ImgOptions *options, const char *filename, const char *format,
                   unsigned flags, const char *cache, bool image_opts, ImgDisk *ret_disk)
{
    return img_open_with_co(options, filename, format, flags, cache, image_opts, NULL, ret_disk);
}

void img_close_co(ImgDisk *disk)
{
    block_root_detach(disk->root);
    node_unref_co(disk->node);
    *disk = (ImgDisk) { 0 };
}

/* --- text --- */

Error *img_parse_size(const char *text, uint64_t *ret_bytes)
{
    Error *err = block_parse_size(text, ret_bytes);
    if (err) {
        error_free(err);
        return error_hint(
            error_new("Invalid image size specified. You may use k, M, G, T, P or E suffixes for"),
            "qemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    }
    return *ret_bytes > INT64_MAX ? error_new("Image size must be less than 8 EiB!") : NULL;
}

void img_progress(const ImgOptions *options, uint64_t done, uint64_t total)
{
    static int64_t last; /* the program has one progress line */
    static double shown;
    if (!options->progress) {
        return;
    }
    int64_t now = g_get_monotonic_time();
    double percent = total ? 100.0 * (double)done / (double)total : 100.0;
    bool edge = done == 0 || done == total;
    if (!edge && (options->progress_json ? now - last < 100000 : percent < shown + 1)) {
        return;
    }
    last = now;
    shown = percent;
    if (options->progress_json) {
        printf("{\"done\": %" PRIu64 ", \"total\": %" PRIu64 "}\n", done, total);
        fflush(stdout);
        return;
    }
    printf("    (%3.2f/100%%)\r", percent);
    fflush(stdout);
}

void img_progress_end(const ImgOptions *options)
{
    if (options->progress && !options->progress_json) {
        img_progress(options, 1, 1);
        putchar('\n');
    }
}

/* --- what several commands can do --- */

Error *img_snapshot_option(const char *text, KeyValues *more)
{
    g_autoptr(KeyValues) parsed = NULL;
    if (!text) {
        return NULL;
    }
    if (!g_str_has_prefix(text, "snapshot.")) {
        keyvalues_set(more, "x-snapshot", text);
        return NULL;
    }
    TRY(keyvalues_parse(text, NULL, &parsed));
    const char *name = keyvalues_get(parsed, "snapshot.id");
    name = name ? name : keyvalues_get(parsed, "snapshot.name");
    if (!name) {
        return error_new("Failed in parsing snapshot param '%s'", text);
    }
    keyvalues_set(more, "x-snapshot", name);
    return NULL;
}

Error *img_parse_rate(const char *text, ImgPace *ret_pace)
{
    uint64_t rate;
    Error *err = img_parse_size(text, &rate);
    if (err || !rate || rate > INT64_MAX / 1000000) {
        error_free(err);
        return error_new("'%s' is no rate: bytes a second are expected, as in 10M", text);
    }
    ret_pace->rate = rate;
    return NULL;
}

void img_pace_co(ImgPace *pace, uint64_t bytes)
{
    if (!pace->rate) {
        return;
    }
    gint64 now = g_get_monotonic_time();
    pace->since = pace->since ? pace->since : now;
    pace->bytes += bytes;
    double due = (double)pace->since + (double)pace->bytes * 1e6 / (double)pace->rate;
    if (due > (double)now) {
        co_sleep_ns(CLOCK_REALTIME_NS, (int64_t)((due - (double)now) * 1e3));
    }
}
