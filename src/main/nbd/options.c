/* qemu-nbd: the command line. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/version.h"
#include "main/nbd/nbd.h"

static const char usage[] =
    "Usage: qemu-nbd [OPTIONS] FILE\n"
    "  or:  qemu-nbd -L [OPTIONS]\n"
    "Serves a disk image over the network block device protocol\n"
    "\n"
    "  -h, --help                display this help and exit\n"
    "  -V, --version             output version information and exit\n"
    "\n"
    "Connection:\n"
    "  -p, --port=PORT           port to listen on (default 10809)\n"
    "  -b, --bind=ADDRESS        address to listen on (default 0.0.0.0)\n"
    "  -k, --socket=PATH         unix socket to listen on\n"
    "  -e, --shared=NUM          how many clients at once (default 1, 0: any number)\n"
    "  -t, --persistent          stay when the last client has gone\n"
    "  --handshake-limit=N       seconds for a client to choose an export (default 10,\n"
    "                            0: no limit)\n"
    "  -v, --verbose             keep messages on the terminal\n"
    "  -x, --export-name=NAME    name of the export (default: empty)\n"
    "  -D, --description=TEXT    description of the export\n"
    "\n"
    "Part of the image, and what is told of it:\n"
    "  -o, --offset=OFFSET       where in the image the export begins\n"
    "  -A, --allocation-depth    tell in which layer data lie\n"
    "  -B, --bitmap=NAME         tell what a dirty bitmap holds (may be repeated)\n"
    "\n"
    "General:\n"
    "  -L, --list                list the exports of another server\n"
    "  --object TYPE,id=ID,...   define an object such as 'secret'\n"
    "  --tls-creds=ID            use TLS with the credentials of an object\n"
    "  --tls-authz=ID            let in only whom this object allows\n"
    "  --tls-hostname=NAME       with -L: the name that the server's certificate must have\n"
    "  --fork                    go to the background once the server runs\n"
    "  --selinux-label=LABEL     label of the listening socket\n"
    "  --pid-file=PATH           write the server's process id to a file\n"
    "\n"
    "The kernel's client:\n"
    "  -c, --connect=DEV         attach FILE to the device DEV (/dev/nbd0)\n"
    "  -d, --disconnect          detach the device that stands for FILE\n"
    "\n"
    "Image:\n"
    "  -f, --format=FORMAT       format of the image (raw, qcow2, ...)\n"
    "  -r, --read-only           serve it for reading only\n"
    "  -s, --snapshot            what is written is forgotten at the end\n"
    "  -l, --load-snapshot=NAME  serve an internal snapshot, for reading only:\n"
    "                            NAME, snapshot.id=ID or snapshot.name=NAME\n"
    "  -n, --nocache             past the host's cache\n"
    "      --cache=MODE          none, writeback (default), writethrough, directsync, unsafe\n"
    "      --aio=MODE            native, io_uring or threads\n"
    "      --discard=MODE        ignore or unmap\n"
    "      --detect-zeroes=MODE  off, on or unmap\n"
    "      --image-opts          FILE is an option string\n";

enum {
    LONG_CACHE = 256,
    LONG_AIO,
    LONG_DISCARD,
    LONG_DETECT,
    LONG_OBJECT,
    LONG_TLS_CREDS,
    LONG_TLS_AUTHZ,
    LONG_TLS_HOSTNAME,
    LONG_IMAGE_OPTS,
    LONG_FORK,
    LONG_PID_FILE,
    LONG_SELINUX,
    LONG_HANDSHAKE
};

static const struct option longs[] = {
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { "port", required_argument, NULL, 'p' },
    { "bind", required_argument, NULL, 'b' },
    { "socket", required_argument, NULL, 'k' },
    { "shared", required_argument, NULL, 'e' },
    { "persistent", no_argument, NULL, 't' },
    { "verbose", no_argument, NULL, 'v' },
    { "export-name", required_argument, NULL, 'x' },
    { "description", required_argument, NULL, 'D' },
    { "offset", required_argument, NULL, 'o' },
    { "allocation-depth", no_argument, NULL, 'A' },
    { "bitmap", required_argument, NULL, 'B' },
    { "list", no_argument, NULL, 'L' },
    { "object", required_argument, NULL, LONG_OBJECT },
    { "tls-creds", required_argument, NULL, LONG_TLS_CREDS },
    { "tls-authz", required_argument, NULL, LONG_TLS_AUTHZ },
    { "tls-hostname", required_argument, NULL, LONG_TLS_HOSTNAME },
    { "trace", required_argument, NULL, 'T' },
    { "fork", no_argument, NULL, LONG_FORK },
    { "pid-file", required_argument, NULL, LONG_PID_FILE },
    { "selinux-label", required_argument, NULL, LONG_SELINUX },
    { "handshake-limit", required_argument, NULL, LONG_HANDSHAKE },
    { "connect", required_argument, NULL, 'c' },
    { "disconnect", no_argument, NULL, 'd' },
    { "format", required_argument, NULL, 'f' },
    { "read-only", no_argument, NULL, 'r' },
    { "snapshot", no_argument, NULL, 's' },
    { "load-snapshot", required_argument, NULL, 'l' },
    { "nocache", no_argument, NULL, 'n' },
    { "cache", required_argument, NULL, LONG_CACHE },
    { "aio", required_argument, NULL, LONG_AIO },
    { "discard", required_argument, NULL, LONG_DISCARD },
    { "detect-zeroes", required_argument, NULL, LONG_DETECT },
    { "image-opts", no_argument, NULL, LONG_IMAGE_OPTS },
    { 0 },
};

static Error *set_cache(NbdProgram *p, const char *mode)
{
    bool none = !strcmp(mode, "none") || !strcmp(mode, "off"), direct = !strcmp(mode, "directsync");
    p->direct = none || direct;
    p->writethrough = direct || !strcmp(mode, "writethrough");
    p->no_flush = !strcmp(mode, "unsafe");
    return p->direct || p->writethrough || p->no_flush || !strcmp(mode, "writeback")
               ? NULL
               : error_new("Invalid cache mode `%s'", mode);
}

static bool one_of(const char *text, const char *a, const char *b, const char *c)
{
    return !strcmp(text, a) || !strcmp(text, b) || (c && !strcmp(text, c));
}

static Error *set_mode(NbdProgram *p, int letter, const char *mode)
{
    switch (letter) {
    case LONG_AIO:
        keyvalues_set(p->open_opts, "x-aio", mode);
        return one_of(mode, "native", "io_uring", "threads")
                   ? NULL
                   : error_new("Invalid aio mode '%s'", mode);
    case LONG_DISCARD: {
        bool unmap = one_of(mode, "unmap", "on", NULL);
        keyvalues_set(p->open_opts, "discard", unmap ? "unmap" : "ignore");
        return unmap || one_of(mode, "ignore", "off", NULL)
                   ? NULL
                   : error_new("'%s' is no discard mode: use ignore (off) or unmap (on)", mode);
    }
    default:
        keyvalues_set(p->open_opts, "detect-zeroes", mode);
        return one_of(mode, "off", "on", "unmap")
                   ? NULL
                   : error_new("Failed to parse detect_zeroes mode: invalid parameter value: %s",
                               mode);
    }
}

static Error *set_numbers(NbdProgram *p, int letter, const char *value)
{
    char *end;
    unsigned long number = strtoul(value, &end, 0);
    bool valid = g_ascii_isdigit(value[0]) && !*end;

    switch (letter) {
    case 'e':
        p->shared = (unsigned)number;
        return valid && number <= INT32_MAX ? NULL
                                            : error_new("'%s' is no number of clients for -e",
                                                        value);
    case LONG_HANDSHAKE:
        p->handshake_seconds = (unsigned)number;
        return valid && number <= INT32_MAX
                   ? NULL
                   : error_new("--handshake-limit expects seconds, not '%s'", value);
    case 'p':
        p->port = value;
        return valid && number >= 1 && number <= 65535
                   ? NULL
                   : error_new("Invalid port number '%s'", value);
    default: {
        Error *err = block_parse_size(value, &p->offset);
        if (!err && p->offset <= INT64_MAX) {
            return NULL;
        }
        error_free(err);
        return error_new("Invalid offset '%s'", value);
    }
    }
}

static Error *set_text(NbdProgram *p, int letter, const char *value)
{
    switch (letter) {
    case 'b':
        p->bind = value;
        return NULL;
    case 'k':
        p->socket = value;
        return value[0] == '/' ? NULL : error_new("the path of the socket has to start with '/'");
    case 'x':
        p->name = value;
        return NULL;
    case 'D':
        p->description = value;
        return NULL;
    case 'B':
        g_ptr_array_add(p->bitmaps, (void *)value);
        return NULL;
    case 'c':
        p->device = value;
        return NULL;
    case 'f':
        keyvalues_set(p->open_opts, "driver", value);
        return NULL;
    case 'l':
        p->snapshot = value;
        p->read_only = true;
        return NULL;
    default:
        p->pid_file = value;
        return NULL;
    }
}

static void set_flag(NbdProgram *p, int letter)
{
    switch (letter) {
    case 't':
        p->persistent = true;
        break;
    case 'v':
        p->verbose = true;
        break;
    case 'A':
        p->allocation_depth = true;
        break;
    case 'L':
        p->list = true;
        break;
    case 'r':
        p->read_only = true;
        break;
    case 's':
        p->overlay = true;
        break;
    case 'n':
        p->direct = true;
        break;
    case LONG_IMAGE_OPTS:
        p->image_opts = true;
        break;
    default:
        p->fork = true;
        break;
    }
}

/* What sockets that this thread makes from now on are labelled with; see attr/sockcreate in selinux(8)'s kernel interface. */
static Error *set_socket_label(const char *label)
{
    static const char path[] = "/proc/thread-self/attr/sockcreate";
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t put = fd < 0 ? -1 : write(fd, label, strlen(label) + 1);
    int code = errno;
    if (fd >= 0) {
        close(fd);
    }
    return put < 0 ? error_new_errno(code, "--selinux-label=%s: the kernel does not take it", label) : NULL;
}

static Error *set_option(NbdProgram *p, int letter, const char *value)
{
    switch (letter) {
    case LONG_CACHE:
        return set_cache(p, value);
    case LONG_AIO:
    case LONG_DISCARD:
    case LONG_DETECT:
        return set_mode(p, letter, value);
    case 'e':
    case 'p':
    case 'o':
    case LONG_HANDSHAKE:
        return set_numbers(p, letter, value);
    case LONG_OBJECT:
        g_ptr_array_add(p->objects, (void *)value);
        return NULL;
    case LONG_TLS_CREDS:
        p->tls_creds = value;
        return NULL;
    case LONG_TLS_AUTHZ:
        p->tls_authz = value;
        return NULL;
    case LONG_TLS_HOSTNAME:
        p->tls_hostname = value;
        return NULL;
    case LONG_SELINUX:
        return set_socket_label(value);
    case 'T':
        return error_new("--trace: trace events are accesses to devices, and this program has none: leave it out");
    default:
        if (value) {
            return set_text(p, letter, value);
        }
        set_flag(p, letter);
        return NULL;
    }
}

static int usage_error(Error *err)
{
    error_report(err);
    fprintf(stderr, "Try `qemu-nbd --help' for more information.\n");
    return EXIT_FAILURE;
}

static Error *check_list(const NbdProgram *p, int arg_count)
{
    if (arg_count) {
        return error_new("-L asks a server for its exports: leave out the file name");
    }
    if (p->name || p->description || p->bitmaps->len || p->read_only || p->overlay || p->persistent ||
        p->device || p->disconnect || p->allocation_depth || p->shared != 1) {
        return error_new("-L asks a server for its exports: leave out the settings of an image");
    }
    if (p->tls_authz) {
        return error_new("--tls-authz checks clients, and -L is one: leave out --tls-authz");
    }
    return p->fork ? error_new("-L ends by itself: leave out --fork") : NULL;
}

static Error *check_device(const NbdProgram *p)
{
    if (p->device && (p->name || p->bind || p->port || p->socket)) {
        return error_new(
            "A device is attached through a private connection: -c cannot be used with "
            "-x, -b, -p or -k");
    }
    if (p->tls_hostname) {
        return error_new("TLS hostname is only required with export list");
    }
    if (p->tls_authz && !p->tls_creds) {
        return error_new("--tls-authz needs --tls-creds");
    }
    if (p->device && p->tls_creds) {
        return error_new("A host device (-c) speaks without TLS: leave out --tls-creds");
    }
    return p->snapshot && p->overlay ? error_new("-l and -s cannot be used together") : NULL;
}

int nbd_parse_options(NbdProgram *p, int argc, char **argv)
{
    bool disconnect = false;
    int letter;

    p->shared = 1;
    p->handshake_seconds = NBD_HANDSHAKE_SECONDS;
    while ((letter = getopt_long(argc, argv, "hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L", longs, NULL)) !=
           -1) {
        if (letter == '?') {
            fprintf(stderr, "qemu-nbd: Try `qemu-nbd --help' for more information.\n");
            return EXIT_FAILURE;
        }
        if (letter == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (letter == 'V') {
            printf("qemu-nbd %s (Ostrich %s)\n", COMPAT_VERSION, OSTRICH_VERSION);
            return 0;
        }
        disconnect |= letter == 'd';
        Error *err = letter == 'd' ? NULL : set_option(p, letter, optarg);
        if (err) {
            error_report(err);
            return EXIT_FAILURE;
        }
    }
    if (!p->list && argc - optind != 1) {
        return usage_error(error_new("Give the file name of one image"));
    }
    p->filename = argv[optind];
    p->disconnect = disconnect ? p->filename : NULL;
    Error *err = p->list ? check_list(p, argc - optind) : check_device(p);
    if (!err && p->image_opts && keyvalues_has(p->open_opts, "driver")) {
        err = error_new("--image-opts names the format itself (driver=): leave out -f");
    }
    if (err) {
        error_report(err);
        return EXIT_FAILURE;
    }
    return -1;
}
