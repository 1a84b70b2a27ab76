/* qemu-img amend: options of an image that can be changed afterwards. */
#include <string.h>

#include "main/img/img.h"

enum { LONG_FORCE = 1000 };

typedef struct Amend {
    ImgOptions o;
    KeyValues *opts;
    bool force;
} Amend;

static Error *amend_option(void *opaque, int letter, const char *value)
{
    Amend *a = opaque;
    if (letter == LONG_FORCE) {
        a->force = true;
        return NULL;
    }
    return img_add_options(a->opts, value);
}

static Error *amend_steps_co(Amend *a, BlockNode *node)
{
    const BlockDriver *driver = node->driver;
    if (!driver->amend_co) {
        return error_new("Format driver '%s' does not support option amendment", driver->name);
    }
    for (guint i = 0; i < a->opts->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(a->opts->items, i);
        if (!img_has_option(driver->amend_options, item->key)) {
            return error_hint(error_new("Invalid parameter '%s'", item->key), "%s",
                              img_has_option(driver->create_options, item->key)
                                  ? "This option is only supported for image creation"
                                  : "See -o help.");
        }
    }
    return driver->amend_co(node, a->opts, a->force);
}

static int amend_co(void *opaque)
{
    Amend *a = opaque;
    ImgDisk disk;
    Error *err = img_open_co(&a->o, a->o.args[0], a->o.format, OPEN_WRITE, a->o.cache,
                             a->o.image_opts, &disk);
    if (err) {
        return img_result(err);
    }
    img_progress(&a->o, 0, 1);
    err = amend_steps_co(a, disk.node);
    if (!err) {
        img_progress_end(&a->o);
    }
    img_close_co(&disk);
    return img_result(err);
}

/* Without a format the image says which one is meant. */
static int amend_help_co(void *opaque)
{
    Amend *a = opaque;
    ImgDisk disk = { 0 };
    const BlockDriver *driver = NULL;
    Error *err = a->o.format ? block_driver_lookup(a->o.format, &driver)
                             : img_open_co(&a->o, a->o.args[0], NULL, OPEN_NO_BACKING | OPEN_NO_IO, NULL,
                                           a->o.image_opts, &disk);
    if (!err) {
        err = img_print_amend_options(driver ? driver : disk.node->driver);
    }
    img_close_co(&disk);
    return img_result(err);
}

int img_amend(const ImgCommand *command, BlockGraph *graph, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONGS, IMG_LONG_PROGRESS, IMG_LONG_IMAGE_OPTS, { "force", no_argument, NULL, LONG_FORCE }, { 0 }
    };
    g_autoptr(KeyValues) opts = keyvalues_new();
    Amend a = { .opts = opts };
    ImgParser parser = { command, ":ho:f:t:pq", longs, amend_option, &a };

    int done = img_parse(&parser, graph, &a.o, argc, argv);
    if (done >= 0) {
        return done;
    }
    if (opts->help && (a.o.format || a.o.arg_count == 1)) {
        return img_run(graph, amend_help_co, &a);
    }
    if (!opts->items->len && !opts->help) {
        return img_usage_error(error_new("amend changes options: give them with -o"));
    }
    if (a.o.arg_count != 1) {
        return img_result(error_new("Expecting one image file name"));
    }
    return img_run(graph, amend_co, &a);
}
