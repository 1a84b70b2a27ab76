/* qemu-img bitmap: persistent dirty bitmaps of an image; and what convert --bitmaps does with them. */
#include <inttypes.h>
#include <string.h>

#include "block/bitmap.h"
#include "main/img/img.h"

enum {
    ACT_ADD = 'a',
    ACT_REMOVE = 'r',
    ACT_CLEAR = 'c',
    ACT_ENABLE = 'e',
    ACT_DISABLE = 'd',
    ACT_MERGE = 'm',
    LONG_ADD = 1000,
    LONG_REMOVE,
    LONG_CLEAR,
    LONG_ENABLE,
    LONG_DISABLE,
    LONG_MERGE,
};

enum { MAX_ACTIONS = 64 };

typedef struct BitmapCommand {
    ImgOptions o;
    struct {
        char kind;
        const char *source; /* of a merge */
    } actions[MAX_ACTIONS];
    unsigned count;
    const char *source_file, *source_format;
    uint64_t granularity;
    bool adds;
} BitmapCommand;

static Error *add_action(BitmapCommand *c, char kind, const char *source)
{
    if (c->count == MAX_ACTIONS) {
        return error_new("Too many actions (at most %d)", MAX_ACTIONS);
    }
    c->actions[c->count].kind = kind;
    c->actions[c->count++].source = source;
    c->adds |= kind == ACT_ADD;
    return NULL;
}

static Error *bitmap_option(void *opaque, int letter, const char *value)
{
    BitmapCommand *c = opaque;
    switch (letter) {
    case LONG_ADD:
        return add_action(c, ACT_ADD, NULL);
    case LONG_REMOVE:
        return add_action(c, ACT_REMOVE, NULL);
    case LONG_CLEAR:
        return add_action(c, ACT_CLEAR, NULL);
    case LONG_ENABLE:
        return add_action(c, ACT_ENABLE, NULL);
    case LONG_DISABLE:
        return add_action(c, ACT_DISABLE, NULL);
    case LONG_MERGE:
        return add_action(c, ACT_MERGE, value);
    case 'b':
        c->source_file = value;
        return NULL;
    case 'F':
        c->source_format = value;
        return NULL;
    default: {
        Error *err = img_parse_size(value, &c->granularity);
        if (err) {
            error_free(err);
            return error_new("Invalid granularity specified");
        }
        return NULL;
    }
    }
}

static Error *merge(BitmapCommand *c, BlockNode *node, BlockNode *source, BlockBitmap *to,
                    const char *name)
{
    BlockBitmap *from;
    Error *err = block_bitmap_get(source, name, BITMAP_ALLOW_READ_ONLY, &from);
    return err ? err : block_bitmap_merge(to, from);
}

static Error *act(BitmapCommand *c, unsigned i, BlockNode *node, BlockNode *source)
{
    const char *name = c->o.args[1];
    char kind = c->actions[i].kind;
    BlockBitmap *b;

    if (kind == ACT_ADD) {
        TRY(block_bitmap_new(node, name, c->granularity, true, &b));
        return NULL;
    }
    TRY(block_bitmap_get(node, name, kind == ACT_REMOVE ? BITMAP_ALLOW_INCONSISTENT : 0, &b));
    switch (kind) {
    case ACT_REMOVE:
        block_bitmap_free(b);
        return NULL;
    case ACT_CLEAR:
        block_bitmap_clear(b);
        return NULL;
    case ACT_MERGE:
        return merge(c, node, source, b, c->actions[i].source);
    default:
        b->enabled = kind == ACT_ENABLE;
        return NULL;
    }
}

static int bitmap_co(void *opaque)
{
    BitmapCommand *c = opaque;
    ImgDisk disk = { 0 }, source = { 0 };
    Error *err = img_open_co(&c->o, c->o.args[0], c->o.format, OPEN_WRITE | OPEN_NO_BACKING, NULL,
                             c->o.image_opts, &disk);
    if (!err && c->source_file) {
        err = img_open_co(&c->o, c->source_file, c->source_format, OPEN_NO_BACKING, NULL, false,
                          &source);
    }
    for (unsigned i = 0; i < c->count && !err; i++) {
        err = act(c, i, disk.node, source.node ? source.node : disk.node);
        if (err) {
            static const char *const verbs[] = { ['a'] = "add",    ['r'] = "remove",
                                                 ['c'] = "clear",  ['e'] = "enable",
                                                 ['d'] = "disable", ['m'] = "merge" };
            err = error_prefix(err, "Operation %s on bitmap %s failed: ",
                               verbs[(int)c->actions[i].kind], c->o.args[1]);
        }
    }
    if (disk.node) {
        img_close_co(&disk);
    }
    if (source.node) {
        img_close_co(&source);
    }
    return img_result(err);
}

int img_bitmap(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONGS,
                                           IMG_LONG_IMAGE_OPTS,
                                           { "add", no_argument, NULL, LONG_ADD },
                                           { "remove", no_argument, NULL, LONG_REMOVE },
                                           { "clear", no_argument, NULL, LONG_CLEAR },
                                           { "enable", no_argument, NULL, LONG_ENABLE },
                                           { "disable", no_argument, NULL, LONG_DISABLE },
                                           { "merge", required_argument, NULL, LONG_MERGE },
                                           { "granularity", required_argument, NULL, 'g' },
                                           { "source-file", required_argument, NULL, 'b' },
                                           { "source-format", required_argument, NULL, 'F' },
                                           { 0 } };
    BitmapCommand c = { 0 };
    ImgParser parser = { command, ":hb:f:F:g:q", longs, bitmap_option, &c };

    int done = img_parse(&parser, graph, &c.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (c.o.arg_count != 2) {
        return img_usage_error(error_new("Give the image and the name of the bitmap"));
    }
    if (!c.count) {
        return img_usage_error(error_new("Say what to do: --add, --remove, --clear, --enable, "
                                         "--disable or --merge"));
    }
    if (c.granularity && !c.adds) {
        return img_usage_error(error_new("-g sets the granularity of a new bitmap: it needs --add"));
    }
    if (c.source_format && !c.source_file) {
        return img_usage_error(error_new("-F is the format of the -b file: it needs -b"));
    }
    return img_run(graph, bitmap_co, &c);
}

/* --- convert --bitmaps --- */

Error *img_check_bitmaps(BlockNode *from, bool skip_broken)
{
    LIST_FOREACH (b, &from->bitmaps, BlockBitmap, in_node) {
        if (b->persistent && b->inconsistent && !skip_broken) {
            /* iotests compare both lines */
            return error_hint(error_new("Cannot copy inconsistent bitmap '%s'", b->name),
                              "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it");
        }
    }
    return NULL;
}

static Error *copy_bitmap(BlockNode *to, const BlockBitmap *bitmap)
{
    BlockBitmap *copy;
    TRY(block_bitmap_new(to, bitmap->name, bitmap->granularity, true, &copy));
    TRY(block_bitmap_merge(copy, bitmap));
    copy->enabled = bitmap->enabled;
    return NULL;
}

Error *img_copy_bitmaps(BlockNode *from, BlockNode *to, bool skip_broken)
{
    TRY(img_check_bitmaps(from, skip_broken));
    LIST_FOREACH (b, &from->bitmaps, BlockBitmap, in_node) {
        if (b->persistent && b->inconsistent) {
            warn_report("Skipping inconsistent bitmap '%s'", b->name);
        } else if (b->persistent) {
            Error *err = copy_bitmap(to, b);
            if (err) {
                return error_prefix(err, "Bitmap %s could not be filled: ", b->name);
            }
        }
    }
    return NULL;
}
