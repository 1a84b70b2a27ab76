/*
 * -chardev pty: a pseudo terminal. Whoever opens its slave side is the peer; as nothing tells the master
 * when that happens, a hung-up master is looked at once a second.
 */
#include "chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Pty {
    Chardev chr;
    char *path; /* property: a symbolic link to make */
    char *slave;
    int master;
    bool linked;
    LoopFd *source;
    bool want_write;
    Timer check;
} Pty;

static const Prop pty_props[] = {
    PROP_STR("path", Pty, path, .help = "symbolic link to make for the terminal"),
    { 0 },
};

static void pty_update(Pty *pty);

static void pty_hangup(Pty *pty)
{
    loop_del_fd(pty->source);
    pty->source = NULL;
    char_back_event(&pty->chr, CHAR_EVENT_CLOSED);
    timer_set(&pty->check, clock_now(loop_clocks(pty->chr.set->loop), CLOCK_REALTIME_NS) + NS_PER_SEC);
}

static bool pty_has_peer(const Pty *pty)
{
    struct pollfd p = { .fd = pty->master, .events = POLLIN };
    return poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP);
}

static void pty_ready(void *opaque, unsigned events)
{
    Pty *pty = opaque;
    uint8_t buf[4096];

    if (events & LOOP_WRITE) {
        pty->want_write = false;
        char_back_writable(&pty->chr);
    }
    size_t room = MIN(char_back_room(&pty->chr), sizeof(buf));
    if (room > 0 && events & (LOOP_READ | LOOP_HANGUP)) {
        ssize_t got = read(pty->master, buf, room);
        if (got > 0) {
            char_back_input(&pty->chr, buf, (size_t)got);
        } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
            pty_hangup(pty);
            return;
        }
    } else if (events & LOOP_HANGUP) {
        pty_hangup(pty);
        return;
    }
    pty_update(pty);
}

static void pty_update(Pty *pty)
{
    unsigned events = (char_back_room(&pty->chr) ? LOOP_READ : 0) | (pty->want_write ? LOOP_WRITE : 0);

    if (!pty->chr.connected) {
        return;
    }
    if (pty->source) {
        loop_mod_fd(pty->source, events);
    } else {
        pty->source = loop_add_fd(pty->chr.set->loop, pty->master, events, pty_ready, pty);
    }
}

static void pty_check(void *opaque)
{
    Pty *pty = opaque;

    if (pty_has_peer(pty)) {
        char_back_event(&pty->chr, CHAR_EVENT_OPENED);
        pty_update(pty);
    } else {
        timer_set(&pty->check, clock_now(loop_clocks(pty->chr.set->loop), CLOCK_REALTIME_NS) + NS_PER_SEC);
    }
}

static Error *pty_open(Chardev *chr)
{
    Pty *pty = (Pty *)chr;
    char name[64];

    pty->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (pty->master < 0 || grantpt(pty->master) < 0 || unlockpt(pty->master) < 0 ||
        ptsname_r(pty->master, name, sizeof(name))) {
        return error_new_errno(errno, "chardev '%s': cannot make a pseudo terminal", chardev_id(chr));
    }
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave >= 0) {
        tty_make_raw(slave, false);
        close(slave);
    }
    pty->slave = g_strdup(name);
    if (pty->path) {
        if (symlink(name, pty->path) < 0) {
            return error_new_errno(errno, "chardev '%s': cannot make the link '%s'", chardev_id(chr),
                                   pty->path);
        }
        pty->linked = true;
    }
    /* Scripts read the name from this line; it must not get between what a monitor says on stdio. */
    FILE *out = chr->set->stdio_user ? stderr : stdout;
    fprintf(out, "char device redirected to %s (label %s)\n", name, chardev_id(chr));
    fflush(out);
    timer_init(&pty->check, chr->set->loop, CLOCK_REALTIME_NS, pty_check, pty);
    pty_check(pty);
    return NULL;
}

static void pty_close(Chardev *chr)
{
    Pty *pty = (Pty *)chr;

    timer_fini(&pty->check);
    loop_del_fd(pty->source);
    if (pty->master > 0) {
        close(pty->master);
    }
    if (pty->linked) {
        unlink(pty->path);
    }
    g_free(pty->slave);
}

static ssize_t pty_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    Pty *pty = (Pty *)chr;

    if (!chr->connected) {
        return (ssize_t)length;
    }
    ssize_t done = write(pty->master, buf, length);
    return done >= 0 ? done : errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static void pty_want_write(Chardev *chr)
{
    ((Pty *)chr)->want_write = true;
    pty_update((Pty *)chr);
}

static void pty_accept_input(Chardev *chr)
{
    pty_update((Pty *)chr);
}

static char *pty_describe(Chardev *chr)
{
    return g_strdup_printf("pty:%s", ((Pty *)chr)->slave);
}

CHARDEV_TYPE(pty, .object = { .name = "chardev-pty", .parent = &chardev_object_type, .size = sizeof(Pty),
                              .props = pty_props },
             .name = "pty", .desc = "a pseudo terminal", .open = pty_open, .close = pty_close,
             .write = pty_write, .want_write = pty_want_write, .accept_input = pty_accept_input,
             .describe = pty_describe);
