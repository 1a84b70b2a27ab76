/*
 * Back ends with little behind them: null, file (output to a file, optionally input from another),
 * pipe (a pair of named pipes, or one for both directions).
 */
#include "chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct FileBack {
    Chardev chr;
    char *path, *input_path;
    bool append;
    CharPump pump;
} FileBack;

static void file_close(Chardev *chr)
{
    pump_stop(&((FileBack *)chr)->pump);
}

static ssize_t file_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    return pump_write(&((FileBack *)chr)->pump, buf, length);
}

static void file_want_write(Chardev *chr)
{
    pump_want_write(&((FileBack *)chr)->pump);
}

static void file_accept_input(Chardev *chr)
{
    pump_accept_input(&((FileBack *)chr)->pump);
}

/* --- null --- */

static Error *null_open(Chardev *chr)
{
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

CHARDEV_TYPE(null, .object = { .name = "chardev-null", .parent = &chardev_object_type, .size = sizeof(Chardev) },
             .name = "null", .desc = "nothing: output vanishes", .open = null_open);

/* --- file --- */

static const Prop file_props[] = {
    PROP_STR("path", FileBack, path, .flags = PROP_REQUIRED, .help = "file that output is written to"),
    PROP_STR("input-path", FileBack, input_path, .help = "file that input is read from"),
    PROP_BOOL("append", FileBack, append, false, .help = "keep what the file holds and add to it"),
    { 0 },
};

static int open_path(const Chardev *chr, const char *path, int flags)
{
    const ChardevHooks *hooks = &chr->set->hooks;

    if (g_str_has_prefix(path, "/dev/fdset/") && hooks->open_special) {
        int fd = hooks->open_special(hooks->opaque, path, flags);
        errno = fd < 0 ? -fd : 0;
        return fd < 0 ? -1 : fd;
    }
    return open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
}

static Error *file_open(Chardev *chr)
{
    FileBack *f = (FileBack *)chr;
    int flags = O_WRONLY | O_CREAT | (f->append ? O_APPEND : O_TRUNC);

    if (!f->path) {
        return error_new("chardev: file: no path given (path=FILE)");
    }
    int out = open_path(chr, f->path, flags);
    if (out < 0) {
        return error_new_errno(errno, "Could not open '%s'", f->path);
    }
    int in = -1;
    if (f->input_path) {
        in = open_path(chr, f->input_path, O_RDONLY | O_NONBLOCK);
        if (in < 0) {
            int err = errno;
            close(out);
            return error_new_errno(err, "Could not open '%s'", f->input_path);
        }
    }
    pump_start(&f->pump, chr, in, out);
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

CHARDEV_TYPE(file, .object = { .name = "chardev-file", .parent = &chardev_object_type,
                               .size = sizeof(FileBack), .props = file_props },
             .name = "file", .desc = "output to a file", .open = file_open, .close = file_close,
             .write = file_write, .want_write = file_want_write, .accept_input = file_accept_input);

/* --- pipe --- */

static const Prop pipe_props[] = {
    PROP_STR("path", FileBack, path, .flags = PROP_REQUIRED,
             .help = "PATH.in is read and PATH.out written, or PATH for both"),
    { 0 },
};

static Error *pipe_open(Chardev *chr)
{
    FileBack *f = (FileBack *)chr;

    if (!f->path) {
        return error_new("chardev: pipe: no path given (path=FILE)");
    }
    g_autofree char *in_path = g_strconcat(f->path, ".in", NULL);
    g_autofree char *out_path = g_strconcat(f->path, ".out", NULL);
    /* O_RDWR: opening does not wait for the other side, and its going away is no end of input. */
    int in = open(in_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int out = open(out_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (in < 0 || out < 0) {
        if (in >= 0) {
            close(in);
        }
        if (out >= 0) {
            close(out);
        }
        in = out = open(f->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (in < 0) {
            return error_hint(error_new_errno(errno, "Could not open '%s'", f->path),
                              "Make the pipes first: mkfifo %s %s", in_path, out_path);
        }
    }
    pump_start(&f->pump, chr, in, out);
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

CHARDEV_TYPE(pipe, .object = { .name = "chardev-pipe", .parent = &chardev_object_type,
                               .size = sizeof(FileBack), .props = pipe_props },
             .name = "pipe", .desc = "named pipes", .open = pipe_open, .close = file_close,
             .write = file_write, .want_write = file_want_write, .accept_input = file_accept_input);
