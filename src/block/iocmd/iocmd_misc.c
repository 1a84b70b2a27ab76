/* qemu-io commands: the file itself, its map, break points, the program. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "block/info.h"
#include "block/iocmd/iocmd_priv.h"

/* --- opening and closing --- */

static Error *options_into(KeyValues *opts, const char *text)
{
    g_autoptr(KeyValues) more = NULL;
    TRY(keyvalues_parse(text, NULL, &more));
    for (guint i = 0; i < more->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(more->items, i);
        keyvalues_set(opts, item->key, item->value);
    }
    return NULL;
}

static Error *fill_opening(IoOpening *o, const IoArgs *args)
{
    if (args->flag['n']) {
        TRY(io_opening_set_cache(o, "none"));
    }
    if (args->flag['t']) {
        TRY(io_opening_set_cache(o, args->value['t']));
    }
    if (args->flag['d']) {
        TRY(io_opening_set_discard(o, args->value['d']));
    }
    if (args->flag['k']) {
        TRY(io_opening_set_aio(o, "native"));
    }
    if (args->flag['i']) {
        TRY(io_opening_set_aio(o, args->value['i']));
    }
    if (args->flag['o']) {
        TRY(options_into(o->opts, args->value['o']));
    }
    o->read_only = args->flag['r'];
    o->snapshot = args->flag['s'];
    o->copy_on_read = args->flag['C'];
    o->force_share = args->flag['U'];
    return NULL;
}

static int open_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    if (args->count == 0 && !args->flag['o']) {
        return io_usage(io, c);
    }
    if (io->node) {
        return io_fail(io, error_new("file open already, try 'help close'"));
    }
    IoOpening *o = g_new0(IoOpening, 1);
    o->opts = keyvalues_new();
    o->writethrough = true;
    o->filename = g_strdup(args->count ? args->text[0] : NULL);
    Error *err = fill_opening(o, args);
    if (err) {
        io_opening_free(o);
        return io_fail(io, err);
    }
    return io_session_open_co(io, o) ? 0 : -EINVAL;
}

static int close_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    if (!io->opening) {
        return io_fail(io, error_new("the disk of a machine cannot be closed here"));
    }
    io_session_fini_co(io);
    return 0;
}

/* The letters and -o say the same things: both at once would be a riddle. */
static Error *take_changes(const IoArgs *args, KeyValues *changes, bool *writethrough)
{
    IoOpening cache = { 0 };

    if (args->flag['r'] && args->flag['w']) {
        return error_new("Only one -r/-w option may be given");
    }
    if (args->flag['c']) {
        TRY(io_opening_set_cache(&cache, args->value['c']));
        *writethrough = cache.writethrough;
    }
    if (args->flag['o']) {
        TRY(options_into(changes, args->value['o']));
    }
    if (args->flag['r'] || args->flag['w']) {
        if (keyvalues_has(changes, "read-only")) {
            return error_new("Cannot set both -r/-w and 'read-only'");
        }
        keyvalues_set(changes, "read-only", args->flag['r'] ? "on" : "off");
    }
    if (args->flag['c']) {
        if (keyvalues_has(changes, "cache.direct") || keyvalues_has(changes, "cache.no-flush")) {
            return error_new("Cannot set both -c and the cache options");
        }
        keyvalues_set(changes, "cache.direct", cache.flags & OPEN_DIRECT ? "on" : "off");
        keyvalues_set(changes, "cache.no-flush", cache.flags & OPEN_NO_FLUSH ? "on" : "off");
    }
    return NULL;
}

/* What the session itself wants of the node must fit before it becomes read-only, and after it ceases to be. */
static Error *claim_writing(IoSession *io, bool write)
{
    unsigned used = io->root ? io->root->used : 0;
    if (!io->root || !io->opening) {
        return NULL;
    }
    used = write ? used | CLAIM_WRITE : used & ~(unsigned)(CLAIM_WRITE | CLAIM_RESIZE);
    return block_root_set_claims(io->root, used, io->root->shared);
}

static Error *change_node_co(IoSession *io, const IoArgs *args)
{
    g_autoptr(KeyValues) changes = keyvalues_new();
    bool writethrough = io->opening && io->opening->writethrough, was_read_only = io->node->read_only, read_only;

    TRY(take_changes(args, changes, &writethrough));
    g_autoptr(KeyValues) copy = keyvalues_copy(changes);
    TRY(block_take_bool(copy, "read-only", was_read_only, &read_only));
    if (read_only && !was_read_only) {
        TRY(claim_writing(io, false));
    }
    Error *err = node_reopen_keeping_co(io->node, changes);
    if (err && read_only && !was_read_only) {
        error_free(claim_writing(io, true));
    }
    if (!err && !read_only && was_read_only) {
        err = claim_writing(io, true);
    }
    if (!err && io->opening) {
        io->opening->writethrough = writethrough;
        io->opening->read_only = read_only;
    }
    return err;
}

static int reopen_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    Error *err = change_node_co(io, args);
    return err ? io_fail(io, err) : 0;
}

/* --- what there is --- */

static int length_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    g_autofree char *text = io_size_text((double)io->node->size);
    io_printf(io, "%s\n", text);
    return 0;
}

static int info_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    BlockNode *node = io->node;
    const BlockDriver *d = node->driver;
    g_autofree char *cluster = io_size_text(node->limits.cluster_size);
    g_autofree char *vm_state =
        io_size_text(d->vmstate_offset ? (double)d->vmstate_offset(node) : 0);
    g_autofree char *specific = block_specific_text(node);

    io_printf(io, "format name: %s\n", d->name);
    if (d->protocol) { /* has nothing of a format; its name stands for both */
        io_printf(io, "format name: %s\n", d->name);
        if (!d->truncate_co) {
            return 0;
        }
    }
    io_printf(io, "cluster size: %s\nvm state offset: %s\n", cluster, vm_state);
    io->print(io->opaque, specific);
    return 0;
}

/* The run at offset that is in this node, or not: its length. */
static int run_at_co(BlockNode *node, uint64_t offset, uint64_t bytes, bool *ret_allocated,
                     uint64_t *ret_length)
{
    uint64_t length = 0;
    bool allocated = false;

    while (length < bytes) {
        BlockStatus status;
        int ret = node_status_co(node, offset + length, bytes - length, &status);
        if (ret < 0) {
            return ret;
        }
        bool here = (status.flags & STATUS_ALLOCATED) != 0;
        if (length && here != allocated) {
            break;
        }
        allocated = here;
        length += status.bytes;
    }
    *ret_allocated = allocated;
    *ret_length = length;
    return 0;
}

static int alloc_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    uint64_t offset, bytes = 512, sum = 0;
    if (!io_parse_number(io, args->text[0], &offset) ||
        (args->count > 1 && !io_parse_number(io, args->text[1], &bytes))) {
        return -EINVAL;
    }
    bytes = MIN(bytes, io->node->size - MIN(offset, io->node->size));
    for (uint64_t at = offset; at < offset + bytes;) {
        bool allocated;
        uint64_t length;
        int ret = run_at_co(io->node, at, offset + bytes - at, &allocated, &length);
        if (ret < 0) {
            io_printf(io, "is_allocated failed: %s\n", strerror(-ret));
            return ret;
        }
        sum += allocated ? length : 0;
        at += length;
    }
    g_autofree char *where = io_size_text((double)offset);
    io_printf(io, "%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, bytes, where);
    return 0;
}

static int map_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    for (uint64_t at = 0; at < io->node->size;) {
        bool allocated;
        uint64_t length;
        int ret = run_at_co(io->node, at, io->node->size - at, &allocated, &length);
        if (ret < 0) {
            return io_fail(io, error_new_errno(ret, "Failed to get allocation status"));
        }
        g_autofree char *size = io_size_text((double)length), *where = io_size_text((double)at);
        io_printf(io, "%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n", size,
                  length, allocated ? "   " : "not", where, at);
        at += length;
    }
    return 0;
}

static int truncate_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    Preallocation prealloc = PREALLOC_OFF;
    uint64_t size;
    Error *err = args->flag['m'] ? block_parse_preallocation(args->value['m'], &prealloc) : NULL;

    if (err) {
        return io_fail(io, err);
    }
    if (!io_parse_number(io, args->text[0], &size)) {
        return -EINVAL;
    }
    err = node_truncate_co(io->node, size, prealloc);
    return err ? io_fail(io, err) : 0;
}

/* --- break points of a debugging filter --- */

static int break_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    int ret = node_debug_break(io->node, args->text[0], args->text[1]);
    if (ret < 0) {
        io_printf(io, "Could not set breakpoint: %s\n", strerror(-ret));
    }
    return ret;
}

static int remove_break_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    int ret = node_debug_remove_break(io->node, args->text[0]);
    if (ret < 0) {
        io_printf(io, "Could not remove breakpoint %s: %s\n", args->text[0], strerror(-ret));
    }
    return ret;
}

static int resume_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    int ret = node_debug_resume(io->node, args->text[0]);
    if (ret < 0) {
        io_printf(io, "Could not resume request: %s\n", strerror(-ret));
    }
    return ret;
}

static int wait_break_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    while (!node_debug_is_suspended(io->node, args->text[0])) {
        co_sleep_ns(CLOCK_REALTIME_NS, NS_PER_MS);
    }
    return 0;
}

/* --- the program --- */

static int sleep_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    char *end;
    errno = 0;
    long ms = strtol(args->text[0], &end, 0);
    if (errno || end == args->text[0] || *end || ms < 0 || ms > INT32_MAX) {
        io_printf(io, "%s is not a valid number\n", args->text[0]);
        return -EINVAL;
    }
    co_sleep_ns(CLOCK_REALTIME_NS, ms * NS_PER_MS);
    return 0;
}

static int sigraise_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    uint64_t number;
    if (!io_parse_number(io, args->text[0], &number)) {
        return -EINVAL;
    }
    if (number > (uint64_t)NSIG) {
        io_printf(io, "signal argument '%s' is too large to be a valid signal number\n",
                  args->text[0]);
        return -EINVAL;
    }
    io->print(io->opaque, ""); /* what was said before goes out first */
    raise((int)number);
    return 0;
}

static int abort_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    abort();
}

static int quit_co(IoSession *io, const IoCommand *c, const IoArgs *args)
{
    io->quit = true;
    return 0;
}

const IoCommand io_commands_misc[] = {
    { "abort", NULL, NULL, 0, 0, NULL, "end at once with abort(3), as in a crash", NULL, abort_co,
      .no_file = true },
    { "alloc", NULL, NULL, 1, 2, "offset [count]",
      "tell whether the file has data of its own at an offset",
      NULL, alloc_co },
    { "break", NULL, NULL, 2, 2, "event tag",
      "stop the next request at this event and give it a tag", NULL, break_co },
    { "close", "c", NULL, 0, 0, NULL, "close the file", NULL, close_co },
    { "info", "i", NULL, 0, 0, NULL, "tell about the file and its format", NULL, info_co },
    { "length", "l", NULL, 0, 0, NULL, "print the length of the file", NULL, length_co },
    { "map", NULL, NULL, 0, 0, "", "list which areas of the file are allocated", NULL, map_co },
    { "open", "o", "rsCnkUi:t:d:o:", 1, IO_UNLIMITED,
      "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "open a file",
      "\n Opens a file for the commands that follow.\n\n"
      " Example:\n 'open -n -o driver=raw /tmp/data' - a raw file, past the host's cache\n\n"
      " -r, -- only for reading\n"
      " -s, -- what is written is forgotten\n"
      " -C, -- what is read is copied into the overlay\n"
      " -n, -- past the host's cache, as -t none\n"
      " -U, -- others may use the file in any way\n"
      " -k, -- native AIO, as -i native\n"
      " -i, -- AIO mode (threads, native or io_uring)\n"
      " -t, -- cache mode\n"
      " -d, -- discard mode\n"
      " -o, -- options of the block driver\n",
      open_co, .no_file = true, .max_plain = 1 },
    { "quit", "q", NULL, 0, 0, NULL, "exit the program", NULL, quit_co, .no_file = true },
    { "remove_break", NULL, NULL, 1, 1, "tag", "remove the breakpoint that has this tag", NULL,
      remove_break_co },
    { "reopen", NULL, "c:ro:w", 0, IO_UNLIMITED, "[(-r|-w)] [-c cache] [-o options]",
      "open the same image again with other options",
      "\n Changes the options of the open image.\n\n"
      " Example:\n 'reopen -o discard=unmap' - discards reach the storage\n\n"
      " -r, -- only for reading\n"
      " -w, -- for writing\n"
      " -c, -- cache mode\n"
      " -o, -- options of the block driver, as for 'open'\n\n",
      reopen_co, .no_plain = true },
    { "resume", NULL, NULL, 1, 1, "tag", "let the stopped request with this tag go on",
                                         NULL, resume_co },
    { "sigraise", NULL, NULL, 1, 1, "signal", "raises a signal",
      "\n Raises the signal with this number.\n\n Example:\n 'sigraise 15' - raises SIGTERM\n\n",
      sigraise_co, .no_file = true },
    { "sleep", NULL, NULL, 1, 1, NULL, "wait as many milliseconds", NULL, sleep_co,
      .no_file = true },
    { "truncate", "t", "m:", 1, 3, "[-m prealloc_mode] off",
      "make the file end at the given offset", NULL, truncate_co,
      .claims = CLAIM_WRITE | CLAIM_RESIZE, .min_plain = 1, .max_plain = 1 },
    { "wait_break", NULL, NULL, 1, 1, "tag", "wait until the request with this tag is stopped",
                                             NULL,
      wait_break_co },
    { 0 },
};
