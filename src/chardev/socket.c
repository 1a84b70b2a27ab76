/*
 * -chardev socket: TCP or unix sockets, as server (one client at a time) or client (optionally
 * reconnecting), plain or telnet, with TLS or without. Missing: websocket and tn3270, which are refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "chardev/chardev_priv.h"
#include "base/log.h"
#include "io/net.h"
#include "io/tls.h"
#include "chardev/telnet.h"

#define MAX_FDS 16

typedef struct SocketBack {
    Chardev chr;
    /* properties */
    char *host, *port, *path, *fd_name, *tls_creds, *tls_authz;
    uint32_t to;
    bool abstract, tight, server, telnet, websocket, tn3270, nodelay, delay;
    int wait, ipv4, ipv6;
    uint32_t reconnect, reconnect_ms;
    /* state */
    int listen_fd, fd; /* -1: none */
    bool bound_path, connecting;
    LoopFd *listen_source, *source;
    bool want_write;
    TlsKeys *tls_keys; /* NULL: without TLS */
    TlsSession *tls;   /* of the connection */
    bool handshaking;
    Telnet telnet_state;
    bool telnet_half; /* one of the two bytes of an escaped 0xff is sent */
    Timer retry;
    int fds[MAX_FDS];
    unsigned fd_count;
} SocketBack;

static const Prop socket_props[] = {
    PROP_STR("host", SocketBack, host, .help = "name or address"),
    PROP_STR("port", SocketBack, port, .help = "TCP port or service name"),
    PROP_U32("to", SocketBack, to, 0, .max = 65535, .help = "try ports up to this one"),
    PROP_STR("path", SocketBack, path, .help = "path of a unix socket"),
    PROP_BOOL("abstract", SocketBack, abstract, false, .help = "the path is a name without a file"),
    PROP_BOOL("tight", SocketBack, tight, true, .help = "the abstract name is not padded"),
    PROP_STR("fd", SocketBack, fd_name, .help = "number of an inherited socket"),
    PROP_BOOL("server", SocketBack, server, false, .help = "wait for a client instead of connecting"),
    PROP_ON_OFF_AUTO("wait", SocketBack, wait, AUTO_AUTO, .help = "do not start before a client has connected"),
    PROP_BOOL("telnet", SocketBack, telnet, false, .help = "speak telnet"),
    PROP_BOOL("tn3270", SocketBack, tn3270, false, .flags = PROP_HIDDEN),
    PROP_BOOL("websocket", SocketBack, websocket, false, .flags = PROP_HIDDEN),
    PROP_STR("tls-creds", SocketBack, tls_creds, .help = "ID of the TLS credentials; without, nothing is encrypted"),
    PROP_STR("tls-authz", SocketBack, tls_authz, .help = "ID of the object that says which clients may come in"),
    PROP_BOOL("nodelay", SocketBack, nodelay, false, .help = "send small pieces at once"),
    PROP_BOOL("delay", SocketBack, delay, true, .flags = PROP_HIDDEN),
    PROP_ON_OFF_AUTO("ipv4", SocketBack, ipv4, AUTO_AUTO, .help = "allow IPv4"),
    PROP_ON_OFF_AUTO("ipv6", SocketBack, ipv6, AUTO_AUTO, .help = "allow IPv6"),
    PROP_U32("reconnect", SocketBack, reconnect, 0, .help = "seconds until a lost connection is tried again"),
    PROP_U32("reconnect-ms", SocketBack, reconnect_ms, 0, .help = "the same in milliseconds"),
    { 0 },
};

static void socket_update(SocketBack *s);
static void socket_listen_again(SocketBack *s);

static Loop *socket_loop(const SocketBack *s)
{
    return s->chr.set->loop;
}

static NetAddress socket_address(const SocketBack *s)
{
    return (NetAddress) {
        .path = s->path,
        .abstract = s->abstract,
        .tight = s->tight,
        .host = s->host,
        .port = s->port,
        .port_to = s->to,
        .only_ipv4 = s->ipv6 == AUTO_OFF || (s->ipv4 == AUTO_ON && s->ipv6 != AUTO_ON),
        .only_ipv6 = s->ipv4 == AUTO_OFF || (s->ipv6 == AUTO_ON && s->ipv4 != AUTO_ON),
    };
}

static int64_t socket_retry_ns(const SocketBack *s)
{
    return s->reconnect_ms ? s->reconnect_ms * NS_PER_MS : s->reconnect * NS_PER_SEC;
}

static void socket_retry_later(SocketBack *s)
{
    timer_set(&s->retry, clock_now(loop_clocks(socket_loop(s)), CLOCK_REALTIME_NS) + socket_retry_ns(s));
}

static void drop_fds(SocketBack *s)
{
    while (s->fd_count > 0) {
        close(s->fds[--s->fd_count]);
    }
}

/* The connection is gone: tell the front end, wait for the next client or try again. */
static void socket_lost(SocketBack *s)
{
    if (s->fd < 0) {
        return;
    }
    loop_del_fd(s->source);
    s->source = NULL;
    g_clear_pointer(&s->tls, tls_session_free);
    close(s->fd);
    s->fd = -1;
    s->connecting = s->want_write = s->telnet_half = s->handshaking = false;
    drop_fds(s);
    if (s->chr.connected) {
        char_back_event(&s->chr, CHAR_EVENT_CLOSED);
    }
    if (s->listen_fd >= 0) {
        socket_listen_again(s);
    } else if (!s->server && socket_retry_ns(s)) {
        socket_retry_later(s);
    }
}

static ssize_t send_some(SocketBack *s, const uint8_t *buf, size_t length)
{
    ssize_t done;

    if (s->tls) {
        done = tls_session_write(s->tls, buf, length);
    } else {
        done = send(s->fd, buf, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        done = done < 0 ? -errno : done;
    }
    return done == -EAGAIN || done == -EINTR ? 0 : done;
}

/* The connection can be used. */
static void socket_up(SocketBack *s)
{
    if (s->telnet) {
        s->telnet_state = (Telnet) { 0 };
        if (send_some(s, telnet_hello, sizeof(telnet_hello)) < 0) {
            socket_lost(s);
            return;
        }
    }
    char_back_event(&s->chr, CHAR_EVENT_OPENED);
    socket_update(s);
}

static const Object *socket_objects(const SocketBack *s)
{
    return object_container_at(s->chr.set->container->parent, "/objects");
}

static void socket_refuse(SocketBack *s, Error *err)
{
    log_printf("chardev '%s': %s\n", chardev_id(&s->chr), error_message(err));
    error_free(err);
    socket_lost(s);
}

/* Goes on when the socket is ready. */
static void socket_handshake(SocketBack *s)
{
    TlsUse use = { .objects = socket_objects(s), .authz = s->tls_authz };
    bool done = false;

    Error *err = tls_session_handshake(s->tls, &done);
    if (!err && done) {
        err = tls_authorize(&use, s->tls);
    }
    if (err) {
        socket_refuse(s, err);
        return;
    }
    s->handshaking = !done;
    if (done) {
        socket_up(s);
    } else {
        socket_update(s);
    }
}

static void socket_connected(SocketBack *s)
{
    int one = 1;

    s->connecting = false;
    if (!s->path && (s->nodelay || !s->delay)) {
        setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    if (!s->tls_keys) {
        socket_up(s);
        return;
    }
    Error *err = tls_session_new(s->tls_keys, s->fd, s->server ? NULL : s->host, &s->tls);
    if (err) {
        socket_refuse(s, err);
    } else {
        s->handshaking = true;
        socket_handshake(s);
    }
}

static void keep_fds(SocketBack *s, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t n = 0; n < count; n++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + n * sizeof(int), sizeof(int));
            if (s->fd_count < MAX_FDS) {
                s->fds[s->fd_count++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static ssize_t socket_receive(SocketBack *s, uint8_t *buf, size_t size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = { buf, size };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
    };
    if (s->tls) {
        return tls_session_read(s->tls, buf, size);
    }
    ssize_t got = recvmsg(s->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

    if (got > 0) {
        keep_fds(s, &msg);
    }
    return got < 0 ? -errno : got;
}

static void socket_input(SocketBack *s)
{
    uint8_t buf[4096];
    size_t room = MIN(char_back_room(&s->chr), sizeof(buf));

    if (room == 0) {
        return;
    }
    ssize_t got = socket_receive(s, buf, room);
    if (got == 0 || (got < 0 && got != -EAGAIN && got != -EINTR)) {
        socket_lost(s);
    } else if (got > 0) {
        unsigned breaks = 0;
        size_t length = s->telnet ? telnet_filter(&s->telnet_state, buf, (size_t)got, &breaks) : (size_t)got;
        char_back_input(&s->chr, buf, length);
        while (breaks-- > 0) {
            char_back_event(&s->chr, CHAR_EVENT_BREAK);
        }
    }
}

/* What the session has read already shows on the socket no more. */
static void socket_input_decrypted(SocketBack *s)
{
    while (s->tls && !s->handshaking && tls_session_pending(s->tls) && char_back_room(&s->chr)) {
        socket_input(s);
    }
}

static void socket_connect_done(SocketBack *s)
{
    if (net_connect_result(s->fd) < 0) {
        socket_lost(s);
    } else {
        socket_connected(s);
    }
}

static void socket_ready(void *opaque, unsigned events)
{
    SocketBack *s = opaque;

    if (s->connecting) {
        socket_connect_done(s);
        return;
    }
    if (s->handshaking) {
        socket_handshake(s);
        return;
    }
    if (events & LOOP_WRITE) {
        s->want_write = false;
        char_back_writable(&s->chr);
    }
    if (s->fd >= 0 && events & (LOOP_READ | LOOP_HANGUP)) {
        if (char_back_room(&s->chr) > 0) {
            socket_input(s);
            socket_input_decrypted(s);
        } else if (events & LOOP_HANGUP) {
            socket_lost(s); /* both directions are closed, and nobody can take the rest */
        }
    }
    socket_update(s);
}

static void socket_update(SocketBack *s)
{
    unsigned events;

    if (s->fd < 0) {
        return;
    }
    if (s->connecting) {
        events = LOOP_WRITE;
    } else if (s->handshaking) {
        events = tls_session_waits_to_write(s->tls) ? LOOP_WRITE : LOOP_READ;
    } else {
        events = (char_back_room(&s->chr) ? LOOP_READ : 0) | (s->want_write ? LOOP_WRITE : 0);
    }
    if (s->source) {
        loop_mod_fd(s->source, events);
    } else {
        s->source = loop_add_fd(socket_loop(s), s->fd, events, socket_ready, s);
    }
}

static void socket_take_client(SocketBack *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        loop_del_fd(s->listen_source);
        s->listen_source = NULL;
        s->fd = fd;
        socket_connected(s);
    }
}

static void socket_accept(void *opaque, unsigned events)
{
    socket_take_client(opaque);
}

static void socket_listen_again(SocketBack *s)
{
    if (!s->listen_source) {
        s->listen_source = loop_add_fd(socket_loop(s), s->listen_fd, LOOP_READ, socket_accept, s);
    }
}

static void socket_retry(void *opaque)
{
    SocketBack *s = opaque;
    NetAddress address = socket_address(s);
    Error *err = net_connect(&address, true, &s->fd);

    if (err) {
        error_free(err); /* the next try comes */
        s->fd = -1;
        socket_retry_later(s);
        return;
    }
    s->connecting = true;
    socket_update(s);
}

static char *socket_describe(Chardev *chr)
{
    SocketBack *s = (SocketBack *)chr;
    const char *state = s->fd < 0 || s->connecting ? "disconnected:" : "";
    const char *server = s->server ? ",server=on" : "";

    if (s->path) {
        return g_strdup_printf("%sunix:%s%s", state, s->path, server);
    }
    if (!s->port) {
        return g_strdup_printf("%sfd:%s%s", state, s->fd_name ? s->fd_name : "?", server);
    }
    const char *scheme = s->telnet ? "telnet" : "tcp";
    g_autofree char *own = s->listen_fd >= 0 ? net_name(s->listen_fd, false)
                                             : g_strdup_printf("%s:%s", s->host ? s->host : "", s->port);
    if (*state || !s->server) {
        return g_strdup_printf("%s%s:%s%s", state, scheme, own, server);
    }
    g_autofree char *peer = net_name(s->fd, true);
    return g_strdup_printf("%s:%s%s <-> %s", scheme, own, server, peer);
}

static MUST_USE Error *socket_wait_for_client(SocketBack *s)
{
    g_autofree char *name = socket_describe(&s->chr);

    fprintf(stderr, "waiting until somebody connects to %s\n", name);
    while (s->fd < 0) {
        struct pollfd p = { .fd = s->listen_fd, .events = POLLIN };
        if (poll(&p, 1, -1) < 0 && errno != EINTR) {
            return error_new_errno(errno, "chardev '%s': waiting for a client", chardev_id(&s->chr));
        }
        if (p.revents) {
            socket_take_client(s);
        }
    }
    return NULL;
}

static MUST_USE Error *socket_adopt(SocketBack *s)
{
    uint64_t number;
    int listening = 0;
    socklen_t length = sizeof(listening);

    TRY(parse_u64(s->fd_name, &number));
    int fd = (int)MIN(number, INT32_MAX);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0) {
        return error_new_errno(errno, "chardev '%s': fd=%s is no socket", chardev_id(&s->chr), s->fd_name);
    }
    if (s->server != (listening != 0)) {
        return error_new("chardev '%s': the socket fd=%s is %s, so server=%s is needed", chardev_id(&s->chr),
                         s->fd_name, listening ? "listening" : "connected", listening ? "on" : "off");
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    *(listening ? &s->listen_fd : &s->fd) = fd;
    return NULL;
}

static MUST_USE Error *socket_check_options(const SocketBack *s)
{
    int ways = (s->path != NULL) + (s->port != NULL) + (s->fd_name != NULL);

    if (ways == 0 && s->host) {
        return error_new("host= needs port=");
    }
    if (ways != 1) {
        return error_new("chardev: socket: one of path, fd, or host and port is needed%s",
                         ways ? ", not several" : "");
    }
    if (!s->server && s->wait == AUTO_ON) {
        return error_new("wait= is for server=on: this socket connects by itself");
    }
    if (s->server && (s->reconnect || s->reconnect_ms)) {
        return error_new("reconnect= is for sockets that connect, not for server=on");
    }
    if (s->websocket || s->tn3270) {
        return error_new("chardev: socket: %s is not supported yet", s->websocket ? "websocket" : "tn3270");
    }
    return s->tls_authz && !s->tls_creds ? error_new("'tls-authz' option requires 'tls-creds' option") : NULL;
}

static MUST_USE Error *socket_open_server(SocketBack *s)
{
    NetAddress address = socket_address(s);

    if (!s->fd_name) {
        TRY(net_listen(&address, &s->listen_fd));
        s->bound_path = s->path && !s->abstract;
    }
    if (s->wait != AUTO_OFF) {
        return socket_wait_for_client(s);
    }
    socket_listen_again(s);
    return NULL;
}

static Error *socket_open(Chardev *chr)
{
    SocketBack *s = (SocketBack *)chr;
    NetAddress address = socket_address(s);

    s->listen_fd = s->fd = -1;
    timer_init(&s->retry, socket_loop(s), CLOCK_REALTIME_NS, socket_retry, s);
    TRY(socket_check_options(s));
    if (s->tls_creds) {
        TRY(tls_keys_get(socket_objects(s), s->tls_creds, s->server, &s->tls_keys));
    }
    if (s->fd_name) {
        TRY(socket_adopt(s));
    }
    if (s->server) {
        return socket_open_server(s);
    }
    if (socket_retry_ns(s) && s->fd < 0) {
        socket_retry(s);
        return NULL;
    }
    if (s->fd < 0) {
        TRY(net_connect(&address, false, &s->fd));
    }
    socket_connected(s);
    return NULL;
}

static void socket_close(Chardev *chr)
{
    SocketBack *s = (SocketBack *)chr;

    timer_fini(&s->retry);
    loop_del_fd(s->source);
    loop_del_fd(s->listen_source);
    drop_fds(s);
    tls_session_free(s->tls);
    tls_keys_unref(s->tls_keys);
    if (s->fd >= 0) {
        close(s->fd);
    }
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
    }
    if (s->bound_path) {
        unlink(s->path);
    }
}

/* 0xff is the telnet escape and goes out doubled. */
static ssize_t telnet_send(SocketBack *s, const uint8_t *buf, size_t length)
{
    static const uint8_t pair[2] = { 0xff, 0xff };
    size_t done = 0;

    while (done < length) {
        ssize_t sent;
        if (buf[done] == 0xff) {
            sent = send_some(s, pair, s->telnet_half ? 1 : 2);
            if (sent > 0) {
                s->telnet_half = !s->telnet_half && sent == 1;
                sent = s->telnet_half ? 0 : 1;
            }
        } else {
            const uint8_t *escape = memchr(buf + done, 0xff, length - done);
            sent = send_some(s, buf + done, escape ? (size_t)(escape - buf) - done : length - done);
        }
        if (sent <= 0) {
            return done ? (ssize_t)done : sent;
        }
        done += (size_t)sent;
    }
    return (ssize_t)done;
}

static ssize_t socket_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    SocketBack *s = (SocketBack *)chr;

    if (!chr->connected) {
        return (ssize_t)length;
    }
    /* A broken connection shows on the reading side too, where it is taken down. */
    return s->telnet ? telnet_send(s, buf, length) : send_some(s, buf, length);
}

static void socket_want_write(Chardev *chr)
{
    ((SocketBack *)chr)->want_write = true;
    socket_update((SocketBack *)chr);
}

static void socket_accept_input(Chardev *chr)
{
    SocketBack *s = (SocketBack *)chr;
    if (s->source) {
        socket_input_decrypted(s);
        socket_update(s);
    }
}

static void socket_disconnect(Chardev *chr)
{
    socket_lost((SocketBack *)chr);
}

static int socket_take_fd(Chardev *chr)
{
    SocketBack *s = (SocketBack *)chr;

    if (s->fd_count == 0) {
        return -1;
    }
    int fd = s->fds[0];
    memmove(s->fds, s->fds + 1, --s->fd_count * sizeof(int));
    return fd;
}

static int socket_take_socket(Chardev *chr)
{
    SocketBack *s = (SocketBack *)chr;

    if (s->fd < 0 || !chr->connected || s->tls || s->telnet) {
        return -1;
    }
    int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0) {
        socket_lost(s);
    }
    return fd;
}

CHARDEV_TYPE(socket, .object = { .name = "chardev-socket", .parent = &chardev_object_type,
                                 .size = sizeof(SocketBack), .props = socket_props },
             .name = "socket", .desc = "a TCP or unix socket", .open = socket_open, .close = socket_close,
             .write = socket_write, .want_write = socket_want_write, .accept_input = socket_accept_input,
             .disconnect = socket_disconnect, .describe = socket_describe, .take_fd = socket_take_fd,
             .take_socket = socket_take_socket);
