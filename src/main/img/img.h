/*
 * qemu-img: what its commands share. A command parses its options, then works in a coroutine of the
 * program's only loop.
 */
#ifndef OSTRICH_MAIN_IMG_H
#define OSTRICH_MAIN_IMG_H

#include <getopt.h>
#include <stdio.h>

#include "block/node.h"

/* What many commands take. */
typedef struct ImgOptions {
    BlockGraph *graph;
    const char *format;     /* -f */
    const char *out_format; /* -O, -F */
    const char *cache;      /* -t */
    const char *src_cache;  /* -T */
    const char *output;     /* --output */
    bool image_opts, target_image_opts, force_share, quiet, json;
    bool helped;                  /* an option asked for help, which was printed */
    bool progress, progress_json; /* -p, --progress=json: a line of JSON a step */
    char **args; /* what follows the options */
    int arg_count;
} ImgOptions;

typedef struct ImgCommand {
    const char *name, *synopsis;
    int (*run)(const struct ImgCommand *command, BlockGraph *graph, int argc, char **argv);
} ImgCommand;

/* Options of one command: getopt's letters and long names beyond the common ones are handled by
 * `extra`. */
typedef struct ImgParser {
    const ImgCommand *command;
    const char *letters;        /* getopt string, of what the command takes */
    const struct option *longs; /* its long options; values above 255 for those without a letter */
    Error *(*extra)(void *opaque, int letter, const char *value); /* letters that are not common */
    void *opaque;
} ImgParser;

/* Values of long options that several commands have. */
enum {
    LONG_OUTPUT = 256,
    LONG_IMAGE_OPTS,
    LONG_TARGET_IMAGE_OPTS,
    LONG_OBJECT,
    LONG_BACKING_CHAIN,
    LONG_SHRINK,
    LONG_PREALLOCATION,
    LONG_TARGET_IS_ZERO,
    LONG_SALVAGE,
    LONG_START_OFFSET,
    LONG_MAX_LENGTH,
    LONG_SIZE,
    LONG_BITMAPS,
    LONG_SKIP_BROKEN,
    LONG_PROGRESS,
};
#define IMG_LONGS                                                                                  \
    { "help", no_argument, NULL, 'h' },                                                            \
    {                                                                                              \
        "object", required_argument, NULL, LONG_OBJECT                                             \
    }
#define IMG_LONG_IMAGE_OPTS                                                                        \
    {                                                                                              \
        "image-opts", no_argument, NULL, LONG_IMAGE_OPTS                                           \
    }
#define IMG_LONG_PROGRESS                                                                          \
    {                                                                                              \
        "progress", optional_argument, NULL, LONG_PROGRESS                                         \
    }
#define IMG_LONG_OUTPUT                                                                            \
    {                                                                                              \
        "output", required_argument, NULL, LONG_OUTPUT                                             \
    }
#define IMG_LONG_FORCE_SHARE                                                                       \
    {                                                                                              \
        "force-share", no_argument, NULL, 'U'                                                      \
    }

/* -1: go on; else the exit code (help, an error that was reported). */
int img_parse(const ImgParser *parser, BlockGraph *graph, ImgOptions *options, int argc,
              char **argv);
/* Reports and returns 1; NULL gives 0. */
int img_result(Error *err);
/* The error with the hint to read the help. */
int img_usage_error(Error *err);

/* Runs fn in a coroutine and returns its result. */
typedef int ImgFn(void *opaque);
int img_run(BlockGraph *graph, ImgFn *fn, void *opaque);

/* An open image with its claims. */
typedef struct ImgDisk {
    BlockNode *node;
    BlockEdge *root;
} ImgDisk;
/* flags: OPEN_*; cache: as -t and -T take it, NULL: writeback. */
Error *img_open_co(const ImgOptions *options, const char *filename, const char *format,
                   unsigned flags, const char *cache, bool image_opts, ImgDisk *ret_disk) MUST_USE;
/* "x-repair" for check. */
Error *img_open_with_co(const ImgOptions *options, const char *filename, const char *format,
                        unsigned flags, const char *cache, bool image_opts, const KeyValues *more,
                        ImgDisk *ret_disk) MUST_USE;
void img_close_co(ImgDisk *disk); /* accepts an empty one */

/* -l: NAME, snapshot.id=ID or snapshot.name=NAME becomes an option for img_open_with_co(); text NULL: nothing. */
Error *img_snapshot_option(const char *text, KeyValues *more) MUST_USE;
/* -r: sleeps as long as `bytes` more, since the first call, are more than `rate` allows (bytes a second; 0: no limit). */
typedef struct ImgPace {
    uint64_t rate, bytes;
    gint64 since; /* microseconds; 0: it has not begun */
} ImgPace;
void img_pace_co(ImgPace *pace, uint64_t bytes);
Error *img_parse_rate(const char *text, ImgPace *ret_pace) MUST_USE;
/* All persistent bitmaps of `from` that can be read; the rest is an error, or is left out with a warning. */
Error *img_copy_bitmaps(BlockNode *from, BlockNode *to, bool skip_broken) MUST_USE;
/* That this would work, before there is anything to copy. */
Error *img_check_bitmaps(BlockNode *from, bool skip_broken) MUST_USE;

Error *img_parse_size(const char *text, uint64_t *ret_bytes) MUST_USE;
/* "    (12.34/100%)" when progress is wanted; rate limited. */
void img_progress(const ImgOptions *options, uint64_t done, uint64_t total);
void img_progress_end(const ImgOptions *options);

/* --- options of images (options.c) --- */
/* The items of an -o; opts->help when it asks for it. */
Error *img_add_options(KeyValues *opts, const char *text) MUST_USE;
bool img_has_option(const BlockOption *options, const char *name);
/* Every option is one of the format's or of the file's. */
Error *img_check_create_options(const BlockDriver *driver, const KeyValues *opts) MUST_USE;
/* Help for -o; NULL format: raw. Where the file name is known, with what its protocol takes. */
Error *img_print_create_options(const char *format, const char *filename) MUST_USE;
Error *img_print_amend_options(const BlockDriver *driver) MUST_USE;

int img_amend(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_bitmap(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_bench(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_dd(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_create(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_info(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_convert(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_check(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_resize(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_compare(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_map(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_measure(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_snapshot(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_commit(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);
int img_rebase(const ImgCommand *command, BlockGraph *graph, int argc, char **argv);

#endif
