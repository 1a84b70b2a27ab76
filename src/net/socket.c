/*
 * -netdev socket: the older way to say what stream and dgram do.
 *
 *     listen=HOST:PORT, connect=HOST:PORT        a stream
 *     mcast=GROUP:PORT[,localaddr=HOST]          datagrams to a multicast group
 *     udp=HOST:PORT,localaddr=HOST:PORT          datagrams to a peer
 *     fd=FD[,mcast=GROUP:PORT]                   a socket that exists
 */
#include <string.h>
#include <sys/socket.h>

#include "net/sockets.h"

typedef struct SocketOptions {
    const char *fd, *listen, *connect, *mcast, *udp, *localaddr;
} SocketOptions;

static Error *new_stream(Machine *machine, const char *id, const SocketOptions *o, NetPort **ret_port)
{
    NetStreamConf conf = { .ops = &net_socket_stream_ops, .fd = -1, .server = o->listen };
    const char *text = o->listen ? o->listen : o->connect;

    TRY(net_end_parse(text, &conf.end));
    Error *err = net_stream_new(machine, id, &conf, ret_port);
    net_end_clear(&conf.end);
    return err;
}

static Error *group_of(const char *text, NetPeer *ret_peer)
{
    NetEnd end = { 0 };

    TRY(net_end_parse(text, &end));
    Error *err = net_peer_of(&end.address, ret_peer);
    net_end_clear(&end);
    if (!err && !net_peer_is_multicast(ret_peer)) {
        err = error_new("mcast: '%s' is not the address of a multicast group", text);
    }
    return err;
}

static Error *new_datagrams(Machine *machine, const char *id, const SocketOptions *o, NetPort **ret_port)
{
    NetEnd local = { 0 }, remote = { 0 };
    NetPeer to = { 0 };
    int fd = -1;
    Error *err = net_end_parse(o->mcast ? o->mcast : o->udp, &remote);

    if (!err && o->mcast) {
        err = group_of(o->mcast, &to);
        local.address.host = o->localaddr;
    } else if (!err) {
        err = net_end_parse(o->localaddr, &local);
    }
    if (!err) {
        err = net_datagram(&local.address, &remote.address, &fd, &to);
    }
    if (!err) {
        char *text = g_strdup_printf("socket: %s=%s", o->mcast ? "mcast" : "udp", o->mcast ? o->mcast : o->udp);
        *ret_port = net_dgram_new(machine, id, "socket", fd, &to, NULL, text);
    }
    net_end_clear(&local);
    net_end_clear(&remote);
    return err;
}

static Error *from_fd(Machine *machine, const char *id, const SocketOptions *o, NetPort **ret_port)
{
    NetStreamConf conf = { .ops = &net_socket_stream_ops, .fd = -1, .server = true, .end = { .fd = (char *)o->fd, .given = true } };
    NetPeer to = { 0 };
    int type;

    if (o->mcast) {
        TRY(group_of(o->mcast, &to));
    }
    TRY(net_socket_take_fd(machine, o->fd, o->mcast ? SOCK_DGRAM : 0, &conf.fd, &type));
    if (type == SOCK_STREAM) {
        return net_stream_new(machine, id, &conf, ret_port);
    }
    *ret_port = net_dgram_new(machine, id, "socket", conf.fd, &to, NULL, g_strdup_printf("socket: fd=%s", o->fd));
    return NULL;
}

static Error *check(const SocketOptions *o)
{
    unsigned ways = !!o->listen + !!o->connect + !!o->mcast + !!o->udp;

    if (o->fd ? ways > !!o->mcast : ways != 1) {
        return error_new("give one of listen=, connect=, mcast= and udp=, or fd= (with mcast= or alone)");
    }
    if (o->udp && !o->localaddr) {
        return error_new("udp= needs localaddr=, the address where datagrams are received");
    }
    if (o->localaddr && (o->fd || !(o->udp || o->mcast))) {
        return error_new("localaddr= is for mcast= and udp=");
    }
    return NULL;
}

static Error *socket_create(Machine *machine, const char *id, KeyValues *kv, NetPort **ret_port)
{
    SocketOptions o = { keyvalues_get(kv, "fd"), keyvalues_get(kv, "listen"), keyvalues_get(kv, "connect"), keyvalues_get(kv, "mcast"),
                        keyvalues_get(kv, "udp"), keyvalues_get(kv, "localaddr") };

    TRY(keyvalues_check_used(kv, "socket", NULL));
    TRY(check(&o));
    return o.fd ? from_fd(machine, id, &o, ret_port)
         : o.listen || o.connect ? new_stream(machine, id, &o, ret_port) : new_datagrams(machine, id, &o, ret_port);
}

static const NetdevOption options[] = {
    { "fd", "str", "a socket: the number of an inherited one, or the name of one that came with getfd" },
    { "listen", "str", "[HOST]:PORT where one connection is taken" },
    { "connect", "str", "HOST:PORT to connect to" },
    { "mcast", "str", "GROUP:PORT: datagrams to a multicast group" },
    { "udp", "str", "HOST:PORT: datagrams to a peer" },
    { "localaddr", "str", "mcast: the interface's address; udp: HOST:PORT where datagrams are received" },
    { NULL },
};
static const NetdevDriver driver = { "socket", "a link to another emulator (older form of stream and dgram)", options, socket_create };
NETDEV_REGISTER(&driver);
