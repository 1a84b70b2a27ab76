/*
 * -netdev stream, and the streams of -netdev socket: frames over one connection, each preceded by its length. A server takes
 * one connection at a time; a client may try again when it is lost. A peer that sends a length that no frame has is
 * disconnected.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/sockets.h"
#include "value/json.h"

enum { LENGTH_BYTES = 4, MESSAGE_MAX = LENGTH_BYTES + NET_FRAME_MAX, READS_A_ROUND = 4 };

typedef struct StreamPort {
    NetPort port;
    Loop *loop;
    NetEnd end;
    bool server, own_listener; /* the listening socket has a path that goes with it */
    uint32_t reconnect_s;
    int listen_fd, fd; /* -1: none */
    LoopFd *listen_source, *source;
    bool connecting, failed;
    Timer retry;
    char *text;
    size_t in_length, out_at, out_length;
    uint8_t in[2 * MESSAGE_MAX]; /* what came and is no whole message yet */
    uint8_t out[MESSAGE_MAX];    /* the rest of the message that the socket did not take */
} StreamPort;

static void stream_update(StreamPort *s);

static StreamPort *of_port(NetPort *port)
{
    return container_of(port, StreamPort, port);
}

static bool says_events(const StreamPort *s)
{
    return s->port.ops == &net_stream_ops;
}

static void set_text(StreamPort *s, char *text)
{
    g_free(s->text);
    s->text = text;
}

/* --- events --- */

static Value *address_value(const StreamPort *s)
{
    Value *addr = value_dict();
    struct sockaddr_storage storage;
    socklen_t length = sizeof(storage);

    if (s->end.fd) {
        value_put_str(addr, "type", "fd");
        value_put_str(addr, "str", s->end.fd);
    } else if (s->end.address.path) {
        value_put_str(addr, "type", "unix");
        value_put_str(addr, "path", s->end.address.path);
    } else {
        g_autofree char *name = net_name(s->fd, true), *host = NULL;
        char *colon = strrchr(name, ':');
        bool bracket = name[0] == '[';
        host = g_strndup(name + bracket, colon ? (size_t)(colon - name) - 2 * bracket : strlen(name));
        value_put_str(addr, "type", "inet");
        value_put_str(addr, "host", host);
        value_put_str(addr, "port", colon ? colon + 1 : "");
        if (getpeername(s->fd, (struct sockaddr *)&storage, &length) == 0) {
            value_put(addr, storage.ss_family == AF_INET6 ? "ipv6" : "ipv4", value_bool(true));
        }
    }
    return addr;
}

static void emit(StreamPort *s, const char *event, Value *addr)
{
    g_autoptr(Value) data = value_dict();

    value_put_str(data, "netdev-id", s->port.name);
    if (addr) {
        value_put(data, "addr", addr);
    }
    g_autofree char *json = json_write(data, false);
    machine_emit(s->port.machine, event, json);
}

/* --- one connection --- */

static void stream_connected(StreamPort *s)
{
    int one = 1;

    s->connecting = s->failed = false;
    s->in_length = s->out_at = s->out_length = 0;
    if (s->end.keep_alive) {
        setsockopt(s->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    }
    g_autofree char *name = net_name(s->fd, true);
    if (s->end.fd) {
        set_text(s, says_events(s) ? g_strdup_printf("fd:%s", s->end.fd) : g_strdup_printf("socket: fd=%s", s->end.fd));
    } else if (!says_events(s)) {
        set_text(s, g_strdup_printf(s->server ? "socket: connection from %s" : "socket: connect to %s", name));
    } else {
        set_text(s, s->end.address.path ? g_strdup_printf("unix:%s", s->end.address.path) : g_strdup_printf("tcp:%s", name));
    }
    if (says_events(s)) {
        emit(s, "NETDEV_STREAM_CONNECTED", address_value(s));
    }
    stream_update(s);
}

static void arm_retry(StreamPort *s)
{
    if (!s->server && s->reconnect_s) {
        timer_set(&s->retry, clock_now(loop_clocks(s->loop), CLOCK_REALTIME_NS) + (int64_t)s->reconnect_s * NS_PER_SEC);
    }
}

static void close_connection(StreamPort *s)
{
    loop_del_fd(s->source);
    s->source = NULL;
    close(s->fd);
    s->fd = -1;
}

static void stream_disconnected(StreamPort *s)
{
    bool was_connecting = s->connecting;

    close_connection(s);
    s->connecting = false;
    s->failed = was_connecting;
    set_text(s, g_strdup(was_connecting ? "connection error" : ""));
    net_port_flush_waiting(&s->port);
    if (says_events(s) && !was_connecting) {
        emit(s, "NETDEV_STREAM_DISCONNECTED", NULL);
    }
    if (s->listen_source) {
        loop_mod_fd(s->listen_source, LOOP_READ);
    }
    arm_retry(s);
}

/* Delivers the whole messages at the front. False: the peer does not speak this protocol. */
static bool take_messages(StreamPort *s)
{
    size_t at = 0;

    while (s->in_length - at >= LENGTH_BYTES && !net_congested(&s->port)) {
        uint32_t length = ld32_be(s->in + at);
        if (length > NET_FRAME_MAX) {
            return false;
        }
        if (s->in_length - at < LENGTH_BYTES + length) {
            break;
        }
        if (length) {
            net_send(&s->port, s->in + at + LENGTH_BYTES, length);
        }
        at += LENGTH_BYTES + length;
    }
    memmove(s->in, s->in + at, s->in_length - at);
    s->in_length -= at;
    return true;
}

static void stream_read(StreamPort *s)
{
    for (unsigned n = 0; n < READS_A_ROUND && !net_congested(&s->port) && s->in_length < sizeof(s->in); n++) {
        ssize_t got = recv(s->fd, s->in + s->in_length, sizeof(s->in) - s->in_length, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        if (got > 0) {
            s->in_length += (size_t)got;
        }
        if (got <= 0 || !take_messages(s)) {
            stream_disconnected(s);
            return;
        }
    }
}

static void stream_write(StreamPort *s)
{
    ssize_t put = send(s->fd, s->out + s->out_at, s->out_length - s->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (put < 0 && errno != EAGAIN && errno != EINTR) {
        stream_disconnected(s); /* nobody reads while the guest takes nothing: this side has to see it */
        return;
    }
    if (put > 0) {
        s->out_at += (size_t)put;
    }
    if (s->out_at == s->out_length) {
        s->out_at = s->out_length = 0;
        net_port_ready(&s->port);
    }
}

static void finish_connect(StreamPort *s)
{
    if (net_connect_result(s->fd) < 0) {
        stream_disconnected(s);
    } else {
        stream_connected(s);
    }
}

static void stream_ready(void *opaque, unsigned events)
{
    StreamPort *s = opaque;

    if (s->connecting) {
        if (events & (LOOP_WRITE | LOOP_HANGUP)) {
            finish_connect(s);
        }
        return;
    }
    if (events & LOOP_WRITE && s->out_length) {
        stream_write(s);
    }
    if (s->source && events & (LOOP_READ | LOOP_HANGUP)) {
        stream_read(s);
    }
    stream_update(s);
}

static void stream_update(StreamPort *s)
{
    if (s->source) {
        loop_mod_fd(s->source, (s->connecting || s->out_length ? LOOP_WRITE : 0) |
                                   (s->connecting || net_congested(&s->port) ? 0 : LOOP_READ));
    }
}

static void adopt(StreamPort *s, int fd, bool connecting)
{
    s->fd = fd;
    s->connecting = connecting;
    s->source = loop_add_fd(s->loop, fd, connecting ? LOOP_WRITE : LOOP_READ, stream_ready, s);
}

/* --- coming to a connection --- */

static void stream_accept(void *opaque, unsigned events)
{
    StreamPort *s = opaque;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        loop_mod_fd(s->listen_source, 0);
        adopt(s, fd, false);
        stream_connected(s);
    }
}

static Error *stream_connect(StreamPort *s)
{
    int fd = -1;

    TRY(net_connect(&s->end.address, true, &fd));
    adopt(s, fd, true);
    return NULL;
}

static void try_again(void *opaque)
{
    StreamPort *s = opaque;
    Error *err = s->fd < 0 ? stream_connect(s) : NULL;

    if (err) {
        error_free(err);
        arm_retry(s);
    }
}

static Error *stream_listen(StreamPort *s, int fd)
{
    if (fd < 0) {
        TRY(net_listen(&s->end.address, &fd));
        s->own_listener = s->end.address.path && !s->end.address.abstract;
    }
    s->listen_fd = fd;
    s->listen_source = loop_add_fd(s->loop, fd, LOOP_READ, stream_accept, s);
    return NULL;
}

static Error *stream_start(StreamPort *s, int fd)
{
    int listening = 0;
    socklen_t length = sizeof(listening);

    if (fd >= 0) {
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    }
    if (s->server && (fd < 0 || listening)) {
        return stream_listen(s, fd);
    }
    if (fd >= 0) {
        if (listening) {
            close(fd);
            return error_new("file descriptor '%s' listens, which needs server=on", s->end.fd);
        }
        adopt(s, fd, false);
        stream_connected(s);
        return NULL;
    }
    Error *err = stream_connect(s);
    if (err && (s->reconnect_s || says_events(s))) { /* the machine starts without; QMP clients look at the events */
        set_text(s, g_strdup("connection error"));
        error_free(err);
        arm_retry(s);
        return NULL;
    }
    return err;
}

/* --- the port --- */

static bool stream_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    StreamPort *s = of_port(port);
    uint8_t head[LENGTH_BYTES];
    struct iovec parts[] = { { head, sizeof(head) }, { (void *)frame, length } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

    if (s->fd < 0 || s->connecting) {
        return true; /* nobody is at the other end of the wire */
    }
    if (s->out_length) {
        return false;
    }
    st32_be(head, (uint32_t)length);
    ssize_t put = sendmsg(s->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno != EAGAIN && errno != EINTR) {
        return true; /* the reading side will see that the connection is gone */
    }
    size_t done = put > 0 ? (size_t)put : 0;
    if (done < LENGTH_BYTES + length) {
        memcpy(s->out, head, LENGTH_BYTES);
        memcpy(s->out + LENGTH_BYTES, frame, length);
        s->out_at = done;
        s->out_length = LENGTH_BYTES + length;
        stream_update(s);
    }
    return true;
}

/* The guest took what waited: what came meanwhile is next. */
static void stream_drained(NetPort *port)
{
    StreamPort *s = of_port(port);

    if (s->source && !s->connecting && !take_messages(s)) {
        stream_disconnected(s);
    }
    stream_update(s);
}

static char *stream_describe(NetPort *port)
{
    return g_strdup(of_port(port)->text ? of_port(port)->text : "");
}

static void stream_destroy(NetPort *port)
{
    StreamPort *s = of_port(port);

    net_port_fini(port);
    timer_fini(&s->retry);
    if (s->fd >= 0) {
        close_connection(s);
    }
    if (s->listen_fd >= 0) {
        loop_del_fd(s->listen_source);
        close(s->listen_fd);
        if (s->own_listener) {
            unlink(s->end.address.path);
        }
    }
    net_end_clear(&s->end);
    g_free(s->text);
    g_free(s);
}

#define STREAM_OPS(name)                                                                           \
    { .kind = name, .receive = stream_receive, .drained = stream_drained, .describe = stream_describe, .destroy = stream_destroy }
const NetPortOps net_stream_ops = STREAM_OPS("stream"), net_socket_stream_ops = STREAM_OPS("socket");

Error *net_stream_new(Machine *machine, const char *id, const NetStreamConf *conf, NetPort **ret_port)
{
    StreamPort *s = g_new0(StreamPort, 1);

    s->fd = s->listen_fd = -1;
    s->loop = machine->loop;
    s->server = conf->server;
    s->reconnect_s = conf->reconnect_s;
    net_end_copy(&s->end, &conf->end);
    net_port_init(&s->port, machine, id, conf->ops, NULL);
    timer_init(&s->retry, s->loop, CLOCK_REALTIME_NS, try_again, s);
    Error *err = stream_start(s, conf->fd);
    if (err) {
        stream_destroy(&s->port);
        return err;
    }
    *ret_port = &s->port;
    return NULL;
}

static Error *read_options(Machine *machine, KeyValues *kv, NetStreamConf *conf)
{
    uint64_t reconnect;

    TRY(net_end_read(kv, "addr", &conf->end));
    TRY(keyvalues_get_bool(kv, "server", false, &conf->server));
    TRY(keyvalues_get_u64(kv, "reconnect", 0, &reconnect));
    TRY(keyvalues_check_used(kv, "stream", NULL));
    if (!conf->end.given) {
        return error_new("Parameter 'addr' is missing");
    }
    if (reconnect > UINT32_MAX || (reconnect && (conf->server || conf->end.fd))) {
        return error_new("reconnect= is for clients with an address, a number of seconds");
    }
    conf->reconnect_s = (uint32_t)reconnect;
    return conf->end.fd ? net_socket_take_fd(machine, conf->end.fd, SOCK_STREAM, &conf->fd, NULL) : NULL;
}

static Error *stream_create(Machine *machine, const char *id, KeyValues *kv, NetPort **ret_port)
{
    NetStreamConf conf = { .ops = &net_stream_ops, .fd = -1 };
    Error *err = read_options(machine, kv, &conf);

    if (!err) {
        err = net_stream_new(machine, id, &conf, ret_port);
    }
    net_end_clear(&conf.end);
    return err;
}

static const NetdevOption options[] = {
    { "addr", "address", ".type=inet (.host, .port, .to, .numeric, .keep-alive, .ipv4, .ipv6), unix (.path, .abstract, .tight) or fd (.str)" },
    { "server", "bool", "wait for a connection instead of making one [off]" },
    { "reconnect", "int", "seconds until a client tries again; 0: it does not [0]" },
    { NULL },
};
static const NetdevDriver driver = { "stream", "frames over a connection to another emulator or a program", options, stream_create };
NETDEV_REGISTER(&driver);
