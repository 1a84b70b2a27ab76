/* Making images: the file at its place, and the format in it. */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/node_priv.h"

/* A coroutine in block_create_co(). */
typedef struct Creator {
    Coroutine *co;
    ListNode in_graph;
} Creator;

bool block_is_creating(const BlockGraph *graph, const Coroutine *co)
{
    LIST_FOREACH (creator, &graph->creators, Creator, in_graph) {
        if (creator->co == co) {
            return true;
        }
    }
    return false;
}

static void pass_option(KeyValues *from, KeyValues *to, const char *key)
{
    g_autofree char *value = keyvalues_take(from, key);
    if (value) {
        keyvalues_set(to, key, value);
    }
}

/* What is left of an image that could not be made. */
static void remove_torso(const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        unlink(path);
    }
}

/* Where the protocol makes no files: what is there becomes the storage of the new image. */
static Error *format_existing_co(BlockGraph *graph, const char *filename, const BlockDriver *driver,
                                 const BlockDriver *storage, KeyValues *opts)
{
    static const char zeroes[NODE_SECTOR];
    BlockNode *file;
    BlockEdge *edge;
    uint64_t size = 0;

    if (!storage->pwritev_co) {
        return error_new("Protocol driver '%s' does not support image creation", storage->name);
    }
    if (driver->filter) {
        TRY(block_take_size(opts, "size", 0, &size));
    }
    TRY(block_open_file_co(graph, filename, NULL, OPEN_PROTOCOL | OPEN_WRITE, NULL, &file));
    Error *err = block_root_attach(file, "create", CLAIM_READ | (driver->filter ? CLAIM_WRITE : 0), CLAIM_ALL, &edge);
    if (!err) {
        if (file->size < size) {
            err = error_new("'%s' has %" PRIu64 " bytes, %" PRIu64 " are needed", filename, file->size, size);
        } else if (driver->filter) { /* so that it is not taken for what was there */
            int ret = node_pwrite_co(file, 0, MIN(file->size, sizeof(zeroes)), zeroes, 0);
            err = ret < 0 ? error_new_errno(ret, "Could not write to '%s'", filename) : NULL;
        } else {
            err = driver->create_co(graph, filename, file, opts);
        }
        block_root_detach(edge);
    }
    node_unref_co(file);
    return err;
}

static Error *parse_target(const char *filename, KeyValues *protocol, const BlockDriver **ret_driver)
{
    TRY(block_options_from_filename(filename, protocol));
    const char *name = keyvalues_get(protocol, "driver");
    return name ? block_driver_lookup(name, ret_driver)
                : error_new("'%s' does not say by its \"driver\" where the image shall be", filename);
}

Error *block_storage_driver(const char *filename, const BlockDriver **ret_driver)
{
    g_autoptr(KeyValues) protocol = keyvalues_new();
    return parse_target(filename, protocol, ret_driver);
}

static Error *create_image_co(BlockGraph *graph, const char *filename, const BlockDriver *driver,
                              const KeyValues *given)
{
    g_autoptr(KeyValues) opts = keyvalues_copy(given), protocol = keyvalues_new();

    if (!driver->create_co) {
        return error_new("Format driver '%s' does not support image creation", driver->name);
    }
    const BlockDriver *storage;
    TRY(parse_target(filename, protocol, &storage));
    const char *path = keyvalues_get(protocol, "filename");
    path = path ? path : filename; /* ssh://... */
    if (driver->protocol) {
        return driver->create_co(graph, path, NULL, opts);
    }
    if (!storage->create_co) {
        return format_existing_co(graph, filename, driver, storage, opts);
    }
    /* The format makes the file as long as it needs; raw passes size and preallocation through. */
    g_autoptr(KeyValues) file_opts = keyvalues_new();
    if (driver->filter) {
        static const char *const passed[] = { "size", "preallocation", "nocow",
                                              "extent_size_hint" };
        for (size_t i = 0; i < ARRAY_SIZE(passed); i++) {
            pass_option(opts, file_opts, passed[i]);
        }
    } else {
        keyvalues_set(file_opts, "size", "0");
        pass_option(opts, file_opts, "nocow");
        pass_option(opts, file_opts, "extent_size_hint");
    }
    TRY(storage->create_co(graph, path, NULL, file_opts));
    BlockNode *file = NULL;
    BlockEdge *edge;
    Error *err = block_open_file_co(graph, filename, NULL, OPEN_PROTOCOL | OPEN_WRITE | OPEN_NO_FLUSH, NULL, &file);
    if (!err) {
        err = block_root_attach(file, "create", CLAIM_READ, CLAIM_ALL, &edge);
    }
    if (!err) {
        err = driver->create_co(graph, filename, file, opts);
        block_root_detach(edge);
    }
    node_unref_co(file);
    if (err && !strcmp(storage->name, "file")) {
        remove_torso(path);
    }
    return err;
}

/* What is made is nobody else's, also while the images of the graph belong to another process. */
Error *block_create_co(BlockGraph *graph, const char *filename, const BlockDriver *driver, const KeyValues *given)
{
    Creator self = { .co = co_self() };
    list_append(&graph->creators, &self.in_graph);
    Error *err = create_image_co(graph, filename, driver, given);
    list_remove(&self.in_graph);
    return err;
}
