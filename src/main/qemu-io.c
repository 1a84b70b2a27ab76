/*
 * qemu-io: single requests to a disk, from -c options or from standard input. The commands are in
 * block/iocmd.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/version.h"
#include "block/iocmd/iocmd.h"

typedef struct IoProgram {
    IoSession session;
    IoOpening *opening;
    GPtrArray *commands; /* of -c; borrowed */
    GPtrArray *objects;  /* of --object; borrowed */
    char **args;
    int arg_count;
    bool image_opts, misalign;
    int result;
} IoProgram;

static const char usage[] = "Usage: qemu-io [OPTIONS]... [-c STRING]... [file]\n"
                            "Makes single requests to a disk image\n"
                            "\n"
                            "  --object OBJECTDEF   define an object such as 'secret'\n"
                            "  --image-opts         file is an option string\n"
                            "  -c, --cmd STRING     execute a command, with its arguments\n"
                            "  -f, --format FMT     the format of the image\n"
                            "  -r, --read-only      open for reading only\n"
                            "  -s, --snapshot       write to a temporary overlay\n"
                            "  -n, --nocache        past the host's cache, short for -t none\n"
                            "  -C, --copy-on-read   copy what is read into the overlay\n"
                            "  -m, --misalign       use buffers that are not aligned\n"
                            "  -k, --native-aio     use Linux AIO (as -i native)\n"
                            "  -i, --aio=MODE       AIO mode (threads, native or io_uring)\n"
                            "  -t, --cache=MODE     cache mode of the image\n"
                            "  -d, --discard=MODE   discard mode of the image\n"
                            "  -U, --force-share    others may use the image in any way\n"
                            "  -h, --help           display this help and exit\n"
                            "  -V, --version        output version information and exit\n"
                            "\n"
                            "See 'qemu-io -c help' for the commands.\n";

enum { LONG_OBJECT = 256, LONG_IMAGE_OPTS };

static const struct option longs[] = {
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { "cmd", required_argument, NULL, 'c' },
    { "format", required_argument, NULL, 'f' },
    { "read-only", no_argument, NULL, 'r' },
    { "snapshot", no_argument, NULL, 's' },
    { "nocache", no_argument, NULL, 'n' },
    { "copy-on-read", no_argument, NULL, 'C' },
    { "misalign", no_argument, NULL, 'm' },
    { "native-aio", no_argument, NULL, 'k' },
    { "aio", required_argument, NULL, 'i' },
    { "cache", required_argument, NULL, 't' },
    { "discard", required_argument, NULL, 'd' },
    { "trace", required_argument, NULL, 'T' },
    { "force-share", no_argument, NULL, 'U' },
    { "object", required_argument, NULL, LONG_OBJECT },
    { "image-opts", no_argument, NULL, LONG_IMAGE_OPTS },
    { 0 },
};

static Error *set_flag(IoProgram *p, int letter)
{
    IoOpening *o = p->opening;
    switch (letter) {
    case 'r':
        o->read_only = true;
        return NULL;
    case 's':
        o->snapshot = true;
        return NULL;
    case 'C':
        o->copy_on_read = true;
        return NULL;
    case 'm':
        p->misalign = true;
        return NULL;
    case 'U':
        o->force_share = true;
        return NULL;
    case 'n':
        return io_opening_set_cache(o, "none");
    case 'k':
        return io_opening_set_aio(o, "native");
    default:
        p->image_opts = true;
        return NULL;
    }
}

static Error *set_option(IoProgram *p, int letter, const char *value)
{
    switch (letter) {
    case 'c':
        g_ptr_array_add(p->commands, (void *)value);
        return NULL;
    case 'f':
        keyvalues_set(p->opening->opts, "driver", value);
        return NULL;
    case 'i':
        return io_opening_set_aio(p->opening, value);
    case 't':
        return io_opening_set_cache(p->opening, value);
    case 'd':
        return io_opening_set_discard(p->opening, value);
    case 'T':
        return error_new("--trace: trace events are accesses to devices, and this program has none: leave it out");
    case LONG_OBJECT:
        g_ptr_array_add(p->objects, (void *)value);
        return NULL;
    default:
        return set_flag(p, letter);
    }
}

/* -1: go on, else the exit code. */
static int parse_options(IoProgram *p, int argc, char **argv)
{
    int letter;
    while ((letter = getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U", longs, NULL)) != -1) {
        if (letter == 'h' || letter == '?') {
            fputs(usage, stdout);
            return letter == '?';
        }
        if (letter == 'V') {
            printf("qemu-io version %s (Ostrich %s)\n", COMPAT_VERSION, OSTRICH_VERSION);
            return 0;
        }
        Error *err = set_option(p, letter, optarg);
        if (err) {
            error_report(err);
            return 1;
        }
    }
    p->args = argv + optind;
    p->arg_count = argc - optind;
    if (p->arg_count > 1) {
        fputs(usage, stdout);
        return 1;
    }
    if (p->image_opts && keyvalues_has(p->opening->opts, "driver")) {
        error_report(error_new("--image-opts names the format itself (driver=): leave out -f"));
        return 1;
    }
    return -1;
}

/* --- running --- */

static void print(void *opaque, const char *text)
{
    if (*text) {
        fputs(text, stdout);
    } else {
        fflush(stdout);
    }
}

static void complain(void *opaque, const char *text)
{
    fputs(text, stderr);
}

static void report(void *opaque, Error *err)
{
    error_report(err);
}

static bool open_file_co(IoProgram *p)
{
    IoOpening *o = g_steal_pointer(&p->opening);
    if (!p->image_opts) {
        o->filename = g_strdup(p->args[0]);
        return io_session_open_co(&p->session, o);
    }
    g_autoptr(KeyValues) given = NULL;
    Error *err = keyvalues_parse(p->args[0], NULL, &given);
    if (err) {
        error_report(err);
        io_opening_free(o);
        return false;
    }
    for (guint i = 0; i < given->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(given->items, i);
        keyvalues_set(o->opts, item->key, item->value);
    }
    return io_session_open_co(&p->session, o);
}

/* A line of standard input while the loop runs on; false at the end. */
static bool read_line_co(GString *line)
{
    g_string_truncate(line, 0);
    for (;;) {
        char c;
        co_wait_fd(STDIN_FILENO, LOOP_READ);
        ssize_t got = read(STDIN_FILENO, &c, 1);
        if (got <= 0) {
            return line->len > 0;
        }
        if (c == '\n') {
            return true;
        }
        g_string_append_c(line, c);
    }
}

static void interactive_co(IoSession *session)
{
    g_autoptr(GString) line = g_string_new(NULL);
    do {
        printf("qemu-io> ");
        fflush(stdout);
        if (!read_line_co(line)) {
            break;
        }
        io_command_co(session, line->str);
    } while (!session->quit);
}

static void program_co(void *opaque)
{
    IoProgram *p = opaque;
    IoSession *session = &p->session;

    session->misalign = p->misalign;
    if (p->arg_count && !open_file_co(p)) {
        p->result = 1;
        return;
    }
    for (guint i = 0; i < p->commands->len && !session->quit; i++) {
        if (io_command_co(session, g_ptr_array_index(p->commands, i)) < 0) {
            p->result = 1;
        }
    }
    if (!p->commands->len) {
        interactive_co(session);
    }
    io_session_fini_co(session);
}

/* -1: go on, else the exit code. */
static int make_objects(IoProgram *p, BlockGraph *graph)
{
    for (guint i = 0; i < p->objects->len; i++) {
        g_autofree char *help = NULL;
        Error *err = block_graph_add_object(graph, g_ptr_array_index(p->objects, i), &help);
        if (err) {
            error_report(err);
            return 1;
        }
        if (help) {
            fputs(help, stdout);
            return 0;
        }
    }
    return -1;
}

static int run(IoProgram *p)
{
    Clocks *clocks = clocks_new();
    Loop *loop = loop_new("main", clocks, NULL);
    BlockGraph *graph = block_graph_new(loop);

    io_session_init(&p->session, graph);
    p->session.print = print;
    p->session.complain = complain;
    p->session.report = report;
    int result = make_objects(p, graph);
    if (result < 0) {
        co_run(loop, program_co, p);
        result = p->result;
    }
    block_graph_free(graph);
    loop_free(loop);
    clocks_free(clocks);
    return result;
}

int main(int argc, char **argv)
{
    IoProgram p = { .opening = g_new0(IoOpening, 1), .commands = g_ptr_array_new(), .objects = g_ptr_array_new() };

    error_set_program("qemu-io");
    p.opening->opts = keyvalues_new();
    p.opening->writethrough = true;
    int result = parse_options(&p, argc, argv);
    if (result < 0) {
        result = run(&p);
    }
    io_opening_free(p.opening);
    g_ptr_array_unref(p.commands);
    g_ptr_array_unref(p.objects);
    return result;
}
