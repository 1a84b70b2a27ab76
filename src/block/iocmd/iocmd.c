/* qemu-io commands: the session, finding a command and taking its line apart. */
#include "block/iocmd/iocmd.h"

#include <errno.h>
#include <string.h>

#include "block/drive.h"
#include "block/iocmd/iocmd_priv.h"

static const IoCommand *const tables[] = { io_commands_rw, io_commands_aio, io_commands_misc };

/* --- opening --- */

void io_opening_free(IoOpening *opening)
{
    if (opening) {
        g_free(opening->filename);
        keyvalues_free(opening->opts);
        g_free(opening);
    }
}

Error *io_opening_set_cache(IoOpening *opening, const char *mode)
{
    static const struct {
        const char *name;
        unsigned flags;
        bool writethrough;
    } modes[] = {
        { "none", OPEN_DIRECT, false },      { "off", OPEN_DIRECT, false },
        { "writeback", 0, false },           { "writethrough", 0, true },
        { "directsync", OPEN_DIRECT, true }, { "unsafe", OPEN_NO_FLUSH, false },
    };
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        if (!strcmp(mode, modes[i].name)) {
            opening->flags = modes[i].flags;
            opening->writethrough = modes[i].writethrough;
            return NULL;
        }
    }
    return error_new("Invalid cache option: %s", mode);
}

Error *io_opening_set_discard(IoOpening *opening, const char *mode)
{
    bool unmap = !strcmp(mode, "on") || !strcmp(mode, "unmap");
    if (!unmap && strcmp(mode, "off") && strcmp(mode, "ignore")) {
        return error_new("Invalid discard option: %s", mode);
    }
    keyvalues_set(opening->opts, "discard", unmap ? "unmap" : "ignore");
    return NULL;
}

Error *io_opening_set_aio(IoOpening *opening, const char *mode)
{
    if (strcmp(mode, "threads") && strcmp(mode, "native") && strcmp(mode, "io_uring")) {
        return error_new("Invalid aio option: %s", mode);
    }
    keyvalues_set(opening->opts, "x-aio", mode);
    return NULL;
}

static Error *open_node_co(IoSession *io, const IoOpening *opening, BlockNode **ret_node)
{
    bool writes = !opening->read_only && !opening->snapshot;

    if (opening->force_share && !opening->read_only) {
        return error_new("force-share=on can only be used with read-only images");
    }
    if (opening->filename) {
        return block_open_file_co(io->graph, opening->filename, NULL,
                                  opening->flags | (writes ? OPEN_WRITE : 0) |
                                      (opening->force_share ? OPEN_FORCE_SHARE : 0),
                                  opening->opts, ret_node);
    }
    g_autoptr(KeyValues) opts = keyvalues_copy(opening->opts);
    if (!keyvalues_has(opts, "read-only")) {
        keyvalues_set(opts, "read-only", writes ? "off" : "on");
    }
    if (!keyvalues_has(opts, "discard")) {
        keyvalues_set(opts, "discard", "unmap");
    }
    if (opening->force_share) {
        keyvalues_set(opts, "force-share", "on");
    }
    if (opening->flags & OPEN_DIRECT) {
        keyvalues_set(opts, "cache.direct", "on");
    }
    if (opening->flags & OPEN_NO_FLUSH) {
        keyvalues_set(opts, "cache.no-flush", "on");
    }
    return block_open_options_co(io->graph, opts, ret_node);
}

/* Copies what is read into the overlay: a node between. */
static Error *copy_on_read_co(IoSession *io, BlockNode **node)
{
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *filter;

    if ((*node)->read_only) {
        return error_new("Can't use copy-on-read on read-only device");
    }
    keyvalues_set(opts, "driver", "copy-on-read");
    keyvalues_set(opts, "file", (*node)->name);
    keyvalues_set(opts, "read-only", (*node)->read_only ? "on" : "off");
    TRY(block_open_options_co(io->graph, opts, &filter));
    node_unref_co(*node);
    *node = filter;
    return NULL;
}

static Error *open_layers_co(IoSession *io, const IoOpening *opening, BlockNode **ret_node)
{
    BlockNode *node;
    TRY(open_node_co(io, opening, &node));
    Error *err = opening->snapshot ? block_temporary_overlay(io->graph, &node) : NULL;
    if (!err && opening->copy_on_read) {
        err = copy_on_read_co(io, &node);
    }
    if (!err) {
        err = block_root_attach(node, "qemu-io", CLAIM_READ | (node->read_only ? 0 : CLAIM_WRITE),
                                CLAIM_ALL, &io->root);
    }
    if (err) {
        node_unref_co(node);
        return err;
    }
    *ret_node = node;
    return NULL;
}

static void say_debug(void *opaque, const char *text)
{
    IoSession *io = opaque;
    io->print(io->opaque, text);
}

/* -U and what the options themselves say must agree. */
static Error *check_share_option(const IoOpening *opening)
{
    g_autoptr(KeyValues) copy = keyvalues_copy(opening->opts);
    bool share;
    TRY(block_take_bool(copy, "force-share", true, &share));
    return share || !opening->force_share ? NULL : error_new("-U conflicts with image options");
}

bool io_session_open_co(IoSession *io, IoOpening *opening)
{
    Error *err = check_share_option(opening);
    if (err) {
        io->report(io->opaque, err);
        io_opening_free(opening);
        return false;
    }
    err = open_layers_co(io, opening, &io->node);
    if (err) {
        const char *name = opening->filename;
        io->report(io->opaque,
                   error_prefix(err, "can't open%s%s: ", name ? " device " : "", name ? name : ""));
        io_opening_free(opening);
        return false;
    }
    block_graph_on_debug(io->graph, say_debug, io);
    io->opening = opening;
    if (io->node->probed && !io->node->read_only && !strcmp(io->node->driver->name, "raw")) {
        warn_report("Image format was not specified for '%s' and probing guessed raw.\n"
                    "         Automatically detecting the format is dangerous for raw images, "
                    "write operations on block 0 will be restricted.\n"
                    "         Specify the 'raw' format explicitly to remove the restrictions.",
                    io->node->filename);
    }
    return true;
}

void io_session_init(IoSession *io, BlockGraph *graph)
{
    *io = (IoSession) { .graph = graph };
    co_queue_init(&io->idle);
}

void io_session_fini_co(IoSession *io)
{
    while (io->in_flight) {
        co_queue_wait(&io->idle);
    }
    if (io->opening) {
        block_root_detach(io->root);
        node_unref_co(io->node);
        io_opening_free(io->opening);
        io->opening = NULL;
    }
    block_graph_on_debug(io->graph, NULL, NULL);
    io->root = NULL;
    io->node = NULL;
}

/* --- command lines --- */

void io_print_synopsis(IoSession *io, const IoCommand *command)
{
    io_printf(io, "%s %s%s-- %s\n", command->name, command->synopsis ? command->synopsis : "",
              command->synopsis ? " " : "", command->summary);
}

int io_usage(IoSession *io, const IoCommand *command)
{
    io_print_synopsis(io, command);
    return -EINVAL;
}

static const IoCommand *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        for (const IoCommand *c = tables[i]; c->name; c++) {
            if (!strcmp(c->name, name) || (c->alias && !strcmp(c->alias, name))) {
                return c;
            }
        }
    }
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const IoCommand *const *)a)->name, (*(const IoCommand *const *)b)->name);
}

static int help_co(IoSession *io, const IoCommand *self, const IoArgs *args)
{
    if (args->count) {
        const IoCommand *c = find_command(args->text[0]);
        if (!c) {
            io_printf(io, "command %s not found\n", args->text[0]);
            return -EINVAL;
        }
        io_print_synopsis(io, c);
        if (c->help) {
            io->print(io->opaque, c->help);
        }
        return 0;
    }
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        for (const IoCommand *c = tables[i]; c->name; c++) {
            g_ptr_array_add(all, (void *)c);
        }
    }
    g_ptr_array_add(all, (void *)self);
    g_ptr_array_sort(all, by_name);
    for (guint i = 0; i < all->len; i++) {
        io_print_synopsis(io, g_ptr_array_index(all, i));
    }
    io_printf(io, "\n'help COMMAND' tells more about one of them.\n");
    return 0;
}

static const IoCommand help_command = { .name = "help",
                                        .alias = "?",
                                        .max = 1,
                                        .synopsis = "[command]",
                                        .summary = "list the commands, or tell about one",
                                        .run_co = help_co,
                                        .no_file = true };

/* One word with options: "-Cq", "-P5", "-P". *at moves on when the value is the next word. */
static bool take_options(IoSession *io, const IoCommand *c, char **words, unsigned *at,
                         IoArgs *args)
{
    for (const char *p = words[*at] + 1; *p; p++) {
        const char *known = g_ascii_isalnum(*p) ? strchr(c->letters, *p) : NULL;
        if (!known) {
            io_complain(io, "%s: invalid option -- '%c'\n", c->name, *p);
            return false;
        }
        args->flag[(unsigned char)*p] = true;
        if (known[1] == ':') {
            if (!p[1] && !words[*at + 1]) {
                io_complain(io, "%s: option requires an argument -- '%c'\n", c->name, *p);
                return false;
            }
            args->value[(unsigned char)*p] = p[1] ? p + 1 : words[++*at];
            return true;
        }
    }
    return true;
}

static bool parse_words(IoSession *io, const IoCommand *c, char **words, IoArgs *args)
{
    bool plain = !c->letters;
    for (unsigned i = 1; words[i]; i++) {
        if (!plain && !strcmp(words[i], "--")) {
            plain = true;
        } else if (!plain && words[i][0] == '-' && words[i][1]) {
            if (!take_options(io, c, words, &i, args)) {
                return false;
            }
        } else {
            args->text[args->count++] = words[i];
        }
    }
    return true;
}

static bool check_count(IoSession *io, const IoCommand *c, unsigned count)
{
    if (count >= c->min && count <= c->max) {
        return true;
    }
    g_autofree char *expected = c->max == IO_UNLIMITED ? g_strdup_printf("at least %u", c->min)
                                : c->min == c->max
                                    ? g_strdup_printf("%u", c->min)
                                    : g_strdup_printf("between %u and %u", c->min, c->max);
    io_complain(io, "bad argument count %u to %s, expected %s arguments\n", count, c->name,
                expected);
    return false;
}

/* What the command wants to do with the node, as far as the root does not claim it already. */
static Error *claim(IoSession *io, const IoCommand *c)
{
    if (!c->claims) {
        return NULL;
    }
    if (io->node->read_only) {
        return error_new("Block node is read-only");
    }
    if (io->claimed) {
        return NULL;
    }
    unsigned used = io->root->used | c->claims;
    return used == io->root->used ? NULL : block_root_set_claims(io->root, used, io->root->shared);
}

static int run_words_co(IoSession *io, char **words)
{
    const IoCommand *c = !strcmp(words[0], "help") || !strcmp(words[0], "?")
                             ? &help_command
                             : find_command(words[0]);
    if (!c) {
        io_complain(io, "command \"%s\" not found\n", words[0]);
        return -EINVAL;
    }
    if (!c->no_file && !io->node) {
        io_complain(io, "no file open, try 'help open'\n");
        return -EINVAL;
    }
    g_autofree char **text = g_new0(char *, g_strv_length(words) + 1);
    IoArgs args = { .text = text };
    if (!check_count(io, c, g_strv_length(words) - 1)) {
        return -EINVAL;
    }
    if (!c->no_file) {
        Error *err = claim(io, c);
        if (err) {
            return io_fail(io, err);
        }
    }
    if (!parse_words(io, c, words, &args) || args.count < c->min_plain ||
        (c->max_plain && args.count > c->max_plain) || (c->no_plain && args.count)) {
        return io_usage(io, c);
    }
    return c->run_co(io, c, &args);
}

int io_command_co(IoSession *io, const char *line)
{
    g_auto(GStrv) words = g_strsplit_set(line, " ", -1);
    unsigned n = 0;
    for (unsigned i = 0; words[i]; i++) { /* without the empty ones */
        if (*words[i]) {
            char *word = words[i];
            words[i] = words[n];
            words[n++] = word;
        }
    }
    g_autofree char **compact = g_new0(char *, n + 1);
    memcpy(compact, words, n * sizeof(*words));
    return n ? run_words_co(io, compact) : 0;
}
