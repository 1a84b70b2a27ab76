#include "chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { READY_BYTES = 4096 }; /* what a pipe takes without waiting once it is ready */

/* Regular files and some devices are always ready, and epoll refuses them. */
static bool can_poll(int fd)
{
    struct epoll_event event = { .events = 0 };
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    bool ok = epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;

    if (epoll >= 0) {
        close(epoll);
    }
    return ok;
}

static void input_ended(CharPump *pump)
{
    Chardev *chr = pump->chr;

    pump->eof = true;
    loop_del_fd(pump->in_source);
    pump->in_source = NULL;
    if (pump->ended) {
        pump->ended(chr);
    } else {
        char_back_event(chr, CHAR_EVENT_CLOSED);
    }
}

/* One chunk of what fits. False: no room or no more input for now. */
static bool read_chunk(CharPump *pump)
{
    uint8_t buf[4096];
    size_t room = MIN(char_back_room(pump->chr), sizeof(buf));

    if (room == 0 || pump->eof) {
        return false;
    }
    ssize_t got = read(pump->in, buf, room);
    if (got > 0) {
        char_back_input(pump->chr, buf, (size_t)got);
        return true;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        input_ended(pump);
    }
    return false;
}

static void on_readable(void *opaque, unsigned events)
{
    CharPump *pump = opaque;

    if (char_back_room(pump->chr) == 0) {
        /* Not just masked: a hang-up would be reported for ever. */
        loop_del_fd(pump->in_source);
        pump->in_source = NULL;
    } else {
        read_chunk(pump);
    }
}

static void read_unpolled(void *opaque)
{
    CharPump *pump = opaque;

    if (read_chunk(pump)) {
        work_schedule(&pump->read_work);
    }
}

static void on_writable(void *opaque, unsigned events)
{
    CharPump *pump = opaque;

    loop_del_fd(pump->out_source);
    pump->out_source = NULL;
    pump->credit = READY_BYTES;
    char_back_writable(pump->chr);
}

void pump_start(CharPump *pump, Chardev *chr, int in, int out)
{
    if (out >= 0 && out == in) {
        out = fcntl(in, F_DUPFD_CLOEXEC, 0); /* a descriptor has one source */
    }
    pump->chr = chr;
    pump->in = in;
    pump->out = out;
    pump->eof = in < 0;
    pump->in_polls = in >= 0 && can_poll(in);
    pump->out_polls = out >= 0 && can_poll(out);
    work_init(&pump->read_work, chr->set->loop, read_unpolled, pump);
}

void pump_stop(CharPump *pump)
{
    if (!pump->chr) {
        return;
    }
    loop_del_fd(pump->in_source);
    loop_del_fd(pump->out_source);
    work_fini(&pump->read_work);
    if (!pump->keep_open) {
        if (pump->in >= 0) {
            close(pump->in);
        }
        if (pump->out >= 0) {
            close(pump->out);
        }
    }
    *pump = (CharPump) { .in = -1, .out = -1 };
}

/*
 * The descriptor may be a blocking one that others share: only what it surely takes is written. Another thread, of a CPU, does not ask
 * (its filter has no poll()), but has the main loop say when there is room.
 */
static bool has_room(CharPump *pump)
{
    struct pollfd ready = { .fd = pump->out, .events = POLLOUT };

    if (pump->credit == 0 && loop_is_mine(pump->chr->set->loop) && poll(&ready, 1, 0) > 0 && ready.revents & (POLLOUT | POLLERR | POLLHUP)) {
        pump->credit = READY_BYTES;
    }
    return pump->credit > 0;
}

ssize_t pump_write(CharPump *pump, const uint8_t *buf, size_t length)
{
    if (pump->out < 0) {
        return (ssize_t)length;
    }
    if (pump->out_polls) {
        if (!has_room(pump)) {
            return 0;
        }
        length = MIN(length, pump->credit);
        pump->credit -= (unsigned)length;
    }
    ssize_t done;
    do {
        done = write(pump->out, buf, length);
    } while (done < 0 && errno == EINTR);
    if (done < 0) {
        return errno == EAGAIN ? 0 : -errno;
    }
    return done;
}

void pump_want_write(CharPump *pump)
{
    if (!pump->out_source && pump->out >= 0 && pump->out_polls) {
        pump->out_source = loop_add_fd(pump->chr->set->loop, pump->out, LOOP_WRITE, on_writable, pump);
    }
}

void pump_accept_input(CharPump *pump)
{
    if (pump->eof || pump->in < 0) {
        return;
    }
    if (!pump->in_polls) {
        work_schedule(&pump->read_work);
    } else if (!pump->in_source) {
        pump->in_source = loop_add_fd(pump->chr->set->loop, pump->in, LOOP_READ, on_readable, pump);
    }
}
