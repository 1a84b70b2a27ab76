/*
 * -netdev dgram: each frame is a datagram, over UDP, to a multicast group, over unix sockets or an inherited socket. Frames
 * that the socket does not take at once are lost, as on a wire.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/sockets.h"

enum { FRAMES_A_ROUND = 64 };

typedef struct DgramPort {
    NetPort port;
    NetPortOps ops; /* with the kind that the user asked for */
    int fd;
    LoopFd *source;
    NetPeer to;
    char *unlink_path, *text;
    uint8_t frame[NET_FRAME_MAX];
} DgramPort;

static DgramPort *of_port(NetPort *port)
{
    return container_of(port, DgramPort, port);
}

static void dgram_watch(DgramPort *d)
{
    loop_mod_fd(d->source, net_congested(&d->port) ? 0 : LOOP_READ);
}

static void dgram_ready(void *opaque, unsigned events)
{
    DgramPort *d = opaque;

    for (unsigned n = 0; n < FRAMES_A_ROUND && !net_congested(&d->port); n++) {
        ssize_t got = recv(d->fd, d->frame, sizeof(d->frame), MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        if (got > 0) { /* an error is about a datagram that we sent: nobody was there */
            net_send(&d->port, d->frame, (size_t)got);
        }
    }
    dgram_watch(d);
}

static bool dgram_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    DgramPort *d = of_port(port);
    const struct sockaddr *to = d->to.length ? (const struct sockaddr *)&d->to.address : NULL;

    while (sendto(d->fd, frame, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, d->to.length) < 0 && errno == EINTR) {
    }
    return true;
}

static void dgram_drained(NetPort *port)
{
    dgram_watch(of_port(port));
}

static char *dgram_describe(NetPort *port)
{
    return g_strdup(of_port(port)->text);
}

static void dgram_destroy(NetPort *port)
{
    DgramPort *d = of_port(port);

    net_port_fini(port);
    loop_del_fd(d->source);
    close(d->fd);
    if (d->unlink_path) {
        unlink(d->unlink_path);
    }
    g_free(d->unlink_path);
    g_free(d->text);
    g_free(d);
}

NetPort *net_dgram_new(Machine *machine, const char *id, const char *kind, int fd, const NetPeer *to, const char *unlink_path, char *text)
{
    DgramPort *d = g_new0(DgramPort, 1);

    d->ops = (NetPortOps){ .kind = kind, .receive = dgram_receive, .drained = dgram_drained, .describe = dgram_describe, .destroy = dgram_destroy };
    d->fd = fd;
    d->to = *to;
    d->text = text;
    d->unlink_path = g_strdup(unlink_path);
    net_port_init(&d->port, machine, id, &d->ops, NULL);
    d->source = loop_add_fd(machine->loop, fd, LOOP_READ, dgram_ready, d);
    return &d->port;
}

static Error *by_address(Machine *machine, const char *id, const NetEnd *local, const NetEnd *remote, NetPort **ret_port)
{
    NetPeer to = { 0 };
    int fd = -1;
    bool by_path = remote->address.path;

    if (local->given && by_path != !!local->address.path) {
        return error_new("local and remote must be of the same type");
    }
    if (!by_path) {
        TRY(net_peer_of(&remote->address, &to));
    }
    bool group = net_peer_is_multicast(&to);
    if (!local->given && !group) {
        return error_new("local= is missing: where datagrams are received");
    }
    TRY(net_datagram(&local->address, &remote->address, &fd, &to));
    const NetAddress *l = &local->address, *r = &remote->address;
    char *text = by_path ? g_strdup_printf("udp=%s:%s", l->path, r->path)
                 : group ? g_strdup_printf("mcast=%s:%s", r->host, r->port)
                         : g_strdup_printf("udp=%s:%s/%s:%s", l->host, l->port, r->host, r->port);
    *ret_port = net_dgram_new(machine, id, "dgram", fd, &to, by_path && !l->abstract ? l->path : NULL, text);
    return NULL;
}

static Error *create_port(Machine *machine, const char *id, const NetEnd *local, const NetEnd *remote, NetPort **ret_port)
{
    NetPeer to = { 0 };
    int fd;

    if (remote->fd) {
        return error_new("remote.type=fd: only local can be a file descriptor");
    }
    if (!local->fd && !remote->given) {
        return local->given ? error_new("remote= is missing: where datagrams are sent to") : error_new("local= and remote= are missing");
    }
    if (!local->fd) {
        return by_address(machine, id, local, remote, ret_port);
    }
    if (remote->given) {
        TRY(net_peer_of(&remote->address, &to));
        if (!net_peer_is_multicast(&to)) {
            return error_new("remote: an address besides local.type=fd must be that of a multicast group");
        }
    }
    TRY(net_socket_take_fd(machine, local->fd, SOCK_DGRAM, &fd, NULL));
    *ret_port = net_dgram_new(machine, id, "dgram", fd, &to, NULL, g_strdup_printf("fd=%d", fd));
    return NULL;
}

static Error *dgram_create(Machine *machine, const char *id, KeyValues *kv, NetPort **ret_port)
{
    NetEnd local = { 0 }, remote = { 0 };

    Error *err = net_end_read(kv, "local", &local);
    if (!err) {
        err = net_end_read(kv, "remote", &remote);
    }
    if (!err) {
        err = keyvalues_check_used(kv, "dgram", NULL);
    }
    if (!err) {
        err = create_port(machine, id, &local, &remote, ret_port);
    }
    net_end_clear(&local);
    net_end_clear(&remote);
    return err;
}

static const NetdevOption options[] = {
    { "local", "address", "where datagrams are received: .type=inet (.host, .port), unix (.path) or fd (.str)" },
    { "remote", "address", "where they are sent to: .type=inet (.host, .port; a multicast group, too) or unix (.path)" },
    { NULL },
};
static const NetdevDriver driver = { "dgram", "frames as datagrams, to another emulator or a multicast group", options, dgram_create };
NETDEV_REGISTER(&driver);
