/*
 * Byte streams for coroutines. The socket stays registered with the loop: a handler that finds
 * nobody waiting takes its event out of the set, so a busy connection is registered once.
 */
#include "io/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 8192 };

struct IoStream {
    int fd;
    LoopFd *source;
    unsigned events;
    Coroutine *reader, *writer; /* who waits */
    bool down;
    const IoStreamFilter *filter; /* may be NULL */
    void *filter_opaque;
    size_t at, end; /* of what is in the buffer */
    char buffer[BUFFER];
};

static void set_events(IoStream *ch, unsigned events)
{
    if (ch->events != events) {
        ch->events = events;
        loop_mod_fd(ch->source, events);
    }
}

static void stream_ready(void *opaque, unsigned events)
{
    IoStream *ch = opaque;
    Coroutine *reader = events & (LOOP_READ | LOOP_HANGUP) ? ch->reader : NULL;
    Coroutine *writer = events & (LOOP_WRITE | LOOP_HANGUP) ? ch->writer : NULL;
    unsigned unused = (!ch->reader ? LOOP_READ : 0) | (!ch->writer ? LOOP_WRITE : 0);

    set_events(ch, ch->events & ~unused);
    if (reader) {
        ch->reader = NULL;
    }
    if (writer) {
        ch->writer = NULL;
    }
    /* Either may free the stream once the other is gone, so it is not touched any more. */
    if (reader) {
        co_wake(reader);
    }
    if (writer) {
        co_wake(writer);
    }
}

IoStream *stream_new(Loop *loop, int fd)
{
    IoStream *ch = g_new0(IoStream, 1);
    ch->fd = fd;
    ch->source = loop_add_fd(loop, fd, 0, stream_ready, ch);
    return ch;
}

void stream_set_loop(IoStream *ch, Loop *loop)
{
    assert(!ch->reader && !ch->writer);
    loop_del_fd(ch->source);
    ch->events = 0;
    ch->source = loop_add_fd(loop, ch->fd, 0, stream_ready, ch);
}

void stream_free(IoStream *ch)
{
    if (ch) {
        if (ch->filter) {
            ch->filter->close(ch->filter_opaque);
        }
        loop_del_fd(ch->source);
        close(ch->fd);
        g_free(ch);
    }
}

int stream_fd(const IoStream *ch)
{
    return ch->fd;
}

bool stream_set_filter(IoStream *ch, const IoStreamFilter *filter, void *opaque)
{
    if (ch->at != ch->end) {
        return false;
    }
    ch->filter = filter;
    ch->filter_opaque = opaque;
    return true;
}

int stream_wait_co(IoStream *ch, unsigned event)
{
    if (ch->down) {
        return -ECONNRESET;
    }
    Coroutine **waiter = event == LOOP_READ ? &ch->reader : &ch->writer;
    *waiter = co_self();
    set_events(ch, ch->events | event);
    co_yield ();
    *waiter = NULL; /* also when something else woke it */
    return ch->down ? -ECONNRESET : 0;
}

void stream_shutdown(IoStream *ch)
{
    if (ch->down) {
        return;
    }
    ch->down = true;
    shutdown(ch->fd, SHUT_RDWR);
    Coroutine *reader = ch->reader, *writer = ch->writer;
    ch->reader = ch->writer = NULL;
    if (reader) {
        co_wake(reader);
    }
    if (writer) {
        co_wake(writer);
    }
}

/* --- reading --- */

/* Something between 1 and `bytes`, or -errno. */
static ssize_t read_some_co(IoStream *ch, void *buffer, size_t bytes)
{
    for (;;) {
        ssize_t got;
        if (ch->filter) {
            got = ch->filter->read(ch->filter_opaque, buffer, bytes);
        } else {
            got = recv(ch->fd, buffer, bytes, MSG_DONTWAIT);
            got = got < 0 ? -errno : got;
        }
        if (got > 0) {
            return got;
        }
        if (got == 0) {
            return -ECONNRESET;
        }
        if (got == -EAGAIN) {
            int ret = stream_wait_co(ch, LOOP_READ);
            if (ret < 0) {
                return ret;
            }
        } else if (got != -EINTR) {
            return got;
        }
    }
}

int stream_read_co(IoStream *ch, void *buffer, size_t bytes)
{
    char *to = buffer;
    while (bytes) {
        if (ch->at < ch->end) {
            size_t part = MIN(bytes, ch->end - ch->at);
            memcpy(to, ch->buffer + ch->at, part);
            ch->at += part;
            to += part;
            bytes -= part;
            continue;
        }
        bool direct = bytes >= BUFFER;
        ssize_t got = direct ? read_some_co(ch, to, bytes) : read_some_co(ch, ch->buffer, BUFFER);
        if (got < 0) {
            return (int)got;
        }
        if (direct) {
            to += got;
            bytes -= (size_t)got;
        } else {
            ch->at = 0;
            ch->end = (size_t)got;
        }
    }
    return 0;
}

/* --- writing --- */

static ssize_t write_some(IoStream *ch, const struct iovec *iov, unsigned count)
{
    if (ch->filter) {
        return ch->filter->write(ch->filter_opaque, iov[0].iov_base, iov[0].iov_len);
    }
    struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = MIN(count, 64) };
    ssize_t put = sendmsg(ch->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    return put < 0 ? -errno : put;
}

int stream_writev_co(IoStream *ch, struct iovec *iov, unsigned count)
{
    for (;;) {
        while (count && !iov->iov_len) {
            iov++;
            count--;
        }
        if (!count) {
            return 0;
        }
        ssize_t put = ch->down ? -ECONNRESET : write_some(ch, iov, count);
        if (put == -EAGAIN) {
            int ret = stream_wait_co(ch, LOOP_WRITE);
            if (ret < 0) {
                return ret;
            }
        } else if (put < 0 && put != -EINTR) {
            return (int)put;
        }
        for (; put > 0; iov++, count--) {
            size_t part = MIN((size_t)put, iov->iov_len);
            iov->iov_base = (char *)iov->iov_base + part;
            iov->iov_len -= part;
            put -= (ssize_t)part;
            if (iov->iov_len) {
                break;
            }
        }
    }
}

int stream_write_co(IoStream *ch, const void *buffer, size_t bytes)
{
    struct iovec iov = { (void *)buffer, bytes };
    return stream_writev_co(ch, &iov, 1);
}
