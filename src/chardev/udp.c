/* -chardev udp: each write is a datagram to the peer, each datagram from it is input. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chardev/chardev_priv.h"
#include "io/net.h"

typedef struct Udp {
    Chardev chr;
    char *host, *port, *localaddr, *localport;
    int ipv4, ipv6;
    int fd;
    bool opened;
    LoopFd *source;
    uint8_t datagram[65536]; /* the part that the front end had no room for */
    size_t at, length;
} Udp;

static const Prop udp_props[] = {
    PROP_STR("host", Udp, host, .help = "peer's name or address (localhost)"),
    PROP_STR("port", Udp, port, .flags = PROP_REQUIRED, .help = "peer's port"),
    PROP_STR("localaddr", Udp, localaddr, .help = "own address"),
    PROP_STR("localport", Udp, localport, .help = "own port"),
    PROP_ON_OFF_AUTO("ipv4", Udp, ipv4, AUTO_AUTO, .help = "allow IPv4"),
    PROP_ON_OFF_AUTO("ipv6", Udp, ipv6, AUTO_AUTO, .help = "allow IPv6"),
    { 0 },
};

static void udp_drain(Udp *udp)
{
    while (udp->at < udp->length) {
        size_t count = MIN(char_back_room(&udp->chr), udp->length - udp->at);
        if (count == 0) {
            return;
        }
        udp->at += count;
        char_back_input(&udp->chr, udp->datagram + udp->at - count, count);
    }
}

static void udp_update(Udp *udp)
{
    loop_mod_fd(udp->source, udp->at == udp->length ? LOOP_READ : 0);
}

static void udp_ready(void *opaque, unsigned events)
{
    Udp *udp = opaque;
    ssize_t got = recv(udp->fd, udp->datagram, sizeof(udp->datagram), MSG_DONTWAIT);

    udp->at = 0;
    udp->length = got > 0 ? (size_t)got : 0; /* an error is the peer's "port unreachable" */
    udp_drain(udp);
    udp_update(udp);
}

static Error *udp_open(Chardev *chr)
{
    Udp *udp = (Udp *)chr;
    bool only4 = udp->ipv6 == AUTO_OFF || udp->ipv4 == AUTO_ON, only6 = udp->ipv4 == AUTO_OFF;
    NetAddress remote = { .host = udp->host && *udp->host ? udp->host : "localhost", .port = udp->port,
                          .only_ipv4 = only4, .only_ipv6 = only6 };
    NetAddress local = { .host = udp->localaddr, .port = udp->localport };

    if (!udp->port) {
        return error_new("port= is needed: where to send to");
    }
    TRY(net_udp(&local, &remote, &udp->fd));
    udp->opened = true;
    udp->source = loop_add_fd(chr->set->loop, udp->fd, LOOP_READ, udp_ready, udp);
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

static void udp_close(Chardev *chr)
{
    Udp *udp = (Udp *)chr;
    loop_del_fd(udp->source);
    if (udp->opened) {
        close(udp->fd);
    }
}

static ssize_t udp_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    size_t count = MIN(length, 65507); /* what a datagram holds */
    return send(((Udp *)chr)->fd, buf, count, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : (ssize_t)count;
}

static void udp_accept_input(Chardev *chr)
{
    Udp *udp = (Udp *)chr;
    udp_drain(udp);
    if (udp->source) {
        udp_update(udp);
    }
}

CHARDEV_TYPE(udp, .object = { .name = "chardev-udp", .parent = &chardev_object_type, .size = sizeof(Udp),
                              .props = udp_props },
             .name = "udp", .desc = "UDP datagrams", .open = udp_open, .close = udp_close,
             .write = udp_write, .accept_input = udp_accept_input);
