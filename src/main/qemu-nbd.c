/* qemu-nbd: serves a disk image by NBD, or attaches it to a device of the kernel. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/drive.h"
#include "main/nbd/nbd.h"

static Loop *signal_loop; /* for the handler; set before it is installed */

static void quit_on_signal(int number)
{
    loop_quit(signal_loop);
}

Error *nbd_program_address(const NbdProgram *p, NbdAddress *ret_address)
{
    g_autoptr(KeyValues) opts = keyvalues_new();

    if (p->socket) {
        keyvalues_set(opts, "type", "unix");
        keyvalues_set(opts, "path", p->socket);
    } else {
        keyvalues_set(opts, "type", "inet");
        keyvalues_set(opts, "host", p->bind ? p->bind : p->list ? "localhost" : "0.0.0.0");
        keyvalues_set(opts, "port", p->port ? p->port : "10809");
    }
    return nbd_address_take(opts, ret_address);
}

/* --- the image --- */

static Error *snapshot_option(NbdProgram *p)
{
    const char *text = p->snapshot;
    if (!text) {
        return NULL;
    }
    g_autoptr(KeyValues) parsed = NULL;
    if (g_str_has_prefix(text, "snapshot.")) {
        TRY(keyvalues_parse(text, NULL, &parsed));
        const char *id = keyvalues_get(parsed, "snapshot.id");
        text = id ? id : keyvalues_get(parsed, "snapshot.name");
        if (!text) {
            return error_new("Failed to load snapshot: snapshot.id or snapshot.name is expected");
        }
    }
    keyvalues_set(p->open_opts, "x-snapshot", text);
    return NULL;
}

static Error *open_file(NbdProgram *p, BlockNode **ret_node)
{
    bool writes = !p->read_only && !p->overlay;

    TRY(snapshot_option(p));
    if (!p->image_opts) {
        unsigned flags = (writes ? OPEN_WRITE : 0) | (p->direct ? OPEN_DIRECT : 0) |
                         (p->no_flush ? OPEN_NO_FLUSH : 0);
        return block_open_file(p->graph, p->filename, NULL, flags, p->open_opts, ret_node);
    }
    g_autoptr(KeyValues) opts = NULL;
    TRY(keyvalues_parse(p->filename, NULL, &opts));
    for (guint i = 0; i < p->open_opts->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(p->open_opts->items, i);
        keyvalues_set(opts, item->key, item->value);
    }
    keyvalues_set(opts, "read-only", writes ? "off" : "on");
    keyvalues_set(opts, "cache.direct", p->direct ? "on" : "off");
    keyvalues_set(opts, "cache.no-flush", p->no_flush ? "on" : "off");
    if (!keyvalues_has(opts, "discard")) {
        keyvalues_set(opts, "discard", "unmap");
    }
    return block_open_options(p->graph, opts, ret_node);
}

/* The window of the image from an offset on. */
static Error *add_offset(NbdProgram *p, BlockNode **node)
{
    g_autofree char *offset = g_strdup_printf("%" PRIu64, p->offset);
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *window;

    if (p->offset >= (*node)->size) {
        return error_new("Offset (%" PRIu64 ") has to be smaller than the image size (%" PRIu64 ")",
                         p->offset, (*node)->size);
    }
    keyvalues_set(opts, "driver", "raw");
    keyvalues_set(opts, "offset", offset);
    keyvalues_set(opts, "file", (*node)->name);
    keyvalues_set(opts, "read-only", (*node)->read_only ? "on" : "off");
    keyvalues_set(opts, "discard", "unmap");
    TRY(block_open_options(p->graph, opts, &window));
    node_unref(*node);
    *node = window;
    return NULL;
}

static Error *open_image(NbdProgram *p)
{
    Error *err = open_file(p, &p->node);
    if (err) {
        return error_prefix(err, "The image '%s' does not open: ", p->filename);
    }
    if (p->overlay) {
        TRY(block_temporary_overlay(p->graph, &p->node));
    } else if (p->node->probed && !p->node->read_only && !strcmp(p->node->driver->name, "raw")) {
        warn_report("Image format was not specified for '%s' and probing guessed raw.\n"
                    "         Automatically detecting the format is dangerous for raw images, "
                    "write operations on block 0 will be restricted.\n"
                    "         Specify the 'raw' format explicitly to remove the restrictions.",
                    p->filename);
    }
    return p->offset ? add_offset(p, &p->node) : NULL;
}

/* --- the server --- */

static void client_gone(void *opaque, bool negotiated)
{
    NbdProgram *p = opaque;
    if (negotiated && !p->persistent && !nbd_server_clients(nbd_server_of(p->graph))) {
        loop_quit(p->loop);
    }
}

/* A socket that a service manager has made: descriptor 3. */
static Error *activated_socket(int *ret_fd)
{
    const char *pid = g_getenv("LISTEN_PID"), *fds = g_getenv("LISTEN_FDS");
    *ret_fd = -1;
    if (!pid || !fds || strtol(pid, NULL, 10) != getpid()) {
        return NULL;
    }
    if (strcmp(fds, "1")) {
        return error_new("Socket activation with %s sockets is not supported, one is", fds);
    }
    fcntl(3, F_SETFD, FD_CLOEXEC);
    fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK);
    *ret_fd = 3;
    return NULL;
}

static Error *start_listening(NbdProgram *p)
{
    int fd;
    TRY(activated_socket(&fd));
    if (fd >= 0 && (p->bind || p->port || p->socket)) {
        return error_new("-p, -b and -k cannot be used with socket activation");
    }
    if (fd < 0) {
        NbdAddress address;
        TRY(nbd_program_address(p, &address));
        Error *err = net_listen(&address.net, &fd);
        nbd_address_clear(&address);
        TRY(err);
    }
    nbd_server_listen(nbd_server_of(p->graph), fd);
    return NULL;
}

static Error *make_export(NbdProgram *p)
{
    g_autoptr(TlsKeys) keys = NULL;
    if (p->tls_creds) {
        TRY(tls_keys_get(block_graph_objects(p->graph), p->tls_creds, true, &keys));
    }
    NbdServerOptions options = { .max_connections = p->shared,
                                 .handshake_seconds = p->handshake_seconds,
                                 .tls_keys = keys,
                                 .tls_authz = p->tls_authz,
                                 .client_gone = client_gone,
                                 .opaque = p };
    g_autoptr(KeyValues) opts = keyvalues_new();
    NbdServer *server;
    Export *export;

    TRY(nbd_server_start(p->graph, &options, &server));
    keyvalues_set(opts, "type", "nbd");
    keyvalues_set(opts, "id", "qemu-nbd-export");
    keyvalues_set(opts, "node-name", p->node->name);
    keyvalues_set(opts, "name", p->name ? p->name : "");
    keyvalues_set(opts, "writable", p->node->read_only || p->read_only ? "off" : "on");
    keyvalues_set(opts, "writethrough", p->writethrough ? "on" : "off");
    keyvalues_set(opts, "allocation-depth", p->allocation_depth ? "on" : "off");
    if (p->description) {
        keyvalues_set(opts, "description", p->description);
    }
    for (guint i = 0; i < p->bitmaps->len; i++) {
        g_autofree char *key = g_strdup_printf("bitmaps.%u", i);
        /* the last one comes first, as clients are used to */
        keyvalues_set(opts, key, g_ptr_array_index(p->bitmaps, p->bitmaps->len - 1 - i));
    }
    return export_add(p->graph, opts, &export);
}

static Error *write_pid_file(const char *path)
{
    g_autofree char *text = g_strdup_printf("%ld\n", (long)getpid());
    GError *gerr = NULL;
    if (g_file_set_contents(path, text, -1, &gerr)) {
        return NULL;
    }
    Error *err = error_new("Failed to store pid file: %s", gerr->message);
    g_error_free(gerr);
    return err;
}

static void attach_co(void *opaque)
{
    NbdProgram *p = opaque;
    p->err = nbd_device_attach_co(p);
}

static Error *start_serving(NbdProgram *p)
{
    TRY(open_image(p));
    TRY(make_export(p));
    if (p->device) {
        co_run(p->loop, attach_co, p);
        TRY(g_steal_pointer(&p->err));
        printf("NBD device %s is now connected to %s\n", p->device, p->filename);
        fflush(stdout);
    } else {
        TRY(start_listening(p));
    }
    return p->pid_file ? write_pid_file(p->pid_file) : NULL;
}

/* --- going to the background --- */

static void redirect_standard_files(void)
{
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; null >= 0 && fd < 3; fd++) {
        dup2(null, fd);
    }
    if (null > 2) {
        close(null);
    }
}

/* In the parent it does not return: the exit code tells whether the server came up. */
static int fork_server(void)
{
    int ready[2];
    char byte;

    if (pipe2(ready, O_CLOEXEC) < 0) {
        error_report(error_new_errno(errno, "cannot make a pipe"));
        exit(EXIT_FAILURE);
    }
    pid_t pid = fork();
    if (pid < 0) {
        error_report(error_new_errno(errno, "Failed to fork"));
        exit(EXIT_FAILURE);
    }
    if (pid == 0) {
        close(ready[0]);
        setsid();
        return ready[1];
    }
    close(ready[1]);
    _exit(read(ready[0], &byte, 1) == 1 ? 0 : EXIT_FAILURE);
}

static void tell_parent(NbdProgram *p, int ready)
{
    if (!p->verbose) {
        redirect_standard_files();
    }
    ssize_t put = write(ready, "", 1);
    (void)put;
    close(ready);
}

/* --- the program --- */

static void stop_co(void *opaque)
{
    NbdProgram *p = opaque;
    nbd_server_stop_all_co(p->graph);
}

static void install_signals(Loop *loop)
{
    static const int numbers[] = { SIGTERM, SIGINT, SIGHUP };
    struct sigaction action = { .sa_handler = quit_on_signal };
    signal_loop = loop;
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        sigaction(numbers[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

static int serve(NbdProgram *p, int ready)
{
    Error *err = start_serving(p);
    bool listening = !err;

    if (!err) {
        if (ready >= 0) {
            tell_parent(p, ready);
        }
        loop_run(p->loop);
        err = g_steal_pointer(&p->err);
    }
    co_run(p->loop, stop_co, p);
    node_unref(p->node);
    if (listening && p->socket) {
        unlink(p->socket);
    }
    if (err) {
        error_report(err);
        return EXIT_FAILURE;
    }
    return 0;
}

/* -1: go on, else the exit code. */
static int make_objects(NbdProgram *p)
{
    for (guint i = 0; i < p->objects->len; i++) {
        g_autofree char *help = NULL;
        Error *err = block_graph_add_object(p->graph, g_ptr_array_index(p->objects, i), &help);
        if (err) {
            error_report(err);
            return EXIT_FAILURE;
        }
        if (help) {
            fputs(help, stdout);
            return 0;
        }
    }
    return -1;
}

static int run(NbdProgram *p)
{
    int ready = -1;
    if (p->device) {
        Error *err = nbd_device_open(p->device, &p->device_fd);
        if (err) {
            error_report(err);
            return EXIT_FAILURE;
        }
    }
    if (!p->list && (p->fork || (p->device && !p->verbose))) {
        ready = fork_server();
    }
    Clocks *clocks = clocks_new();
    p->loop = loop_new("main", clocks, NULL);
    p->graph = block_graph_new(p->loop);
    install_signals(p->loop);
    int result = make_objects(p);
    if (result < 0) {
        result = p->list ? nbd_list_exports(p) : serve(p, ready);
    }
    block_graph_free(p->graph);
    loop_free(p->loop);
    clocks_free(clocks);
    return result;
}

int main(int argc, char **argv)
{
    NbdProgram p = { .open_opts = keyvalues_new(), .objects = g_ptr_array_new(),
                     .bitmaps = g_ptr_array_new(), .device_fd = -1 };

    error_set_program("qemu-nbd");
    int result = nbd_parse_options(&p, argc, argv);
    if (result < 0) {
        result = p.disconnect ? nbd_device_disconnect(p.disconnect) : run(&p);
    }
    keyvalues_free(p.open_opts);
    g_ptr_array_unref(p.objects);
    g_ptr_array_unref(p.bitmaps);
    return result;
}
