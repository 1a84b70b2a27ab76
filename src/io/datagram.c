/* Datagram sockets with a peer that is told with every datagram: UDP, multicast groups, unix sockets. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/net.h"

Error *net_peer_of(const NetAddress *remote, NetPeer *ret_peer)
{
    NetPeer peer = { 0 };

    if (remote->path) {
        struct sockaddr_un un;
        TRY(net_unix_address(remote, &un, &peer.length));
        memcpy(&peer.address, &un, sizeof(un));
    } else {
        struct addrinfo *list = NULL;
        TRY(net_resolve(remote, SOCK_DGRAM, false, remote->port, &list));
        memcpy(&peer.address, list->ai_addr, list->ai_addrlen);
        peer.length = list->ai_addrlen;
        freeaddrinfo(list);
    }
    *ret_peer = peer;
    return NULL;
}

bool net_peer_is_multicast(const NetPeer *peer)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)&peer->address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&peer->address;

    return peer->length && ((in->sin_family == AF_INET && IN_MULTICAST(ntohl(in->sin_addr.s_addr))) ||
                            (in6->sin6_family == AF_INET6 && IN6_IS_ADDR_MULTICAST(&in6->sin6_addr)));
}

/* Several programs of one host may be in the group. */
static Error *join(int fd, const NetPeer *group, const NetPeer *local)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)&group->address;
    int one = 1;

    if (in->sin_family != AF_INET) {
        return error_new("multicast needs an IPv4 address");
    }
    struct ip_mreq request = { .imr_multiaddr = in->sin_addr };
    if (local->length && local->address.ss_family == AF_INET) {
        request.imr_interface = ((const struct sockaddr_in *)&local->address)->sin_addr;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (const struct sockaddr *)&group->address, group->length) < 0) {
        return error_new_errno(errno, "cannot bind to the multicast address");
    }
    if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof(request)) < 0) {
        return error_new_errno(errno, "cannot join the multicast group");
    }
    if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &one, sizeof(one)) < 0 ||
        (request.imr_interface.s_addr != INADDR_ANY &&
         setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request.imr_interface, sizeof(request.imr_interface)) < 0)) {
        return error_new_errno(errno, "cannot choose the interface of the multicast group");
    }
    return NULL;
}

static Error *bind_local(int fd, const NetAddress *local, const NetPeer *own)
{
    int one = 1;
    struct stat st;

    /* What a socket of an earlier run left; another kind of file is not ours to remove. */
    if (local->path && !local->abstract && lstat(local->path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(local->path) < 0) {
        return error_new_errno(errno, "cannot replace the socket '%s'", local->path);
    }
    if (!local->path) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (bind(fd, (const struct sockaddr *)&own->address, own->length) < 0) {
        return local->path ? error_new_errno(errno, "cannot bind to '%s'", local->path)
                           : error_new_errno(errno, "cannot bind to %s:%s", local->host ? local->host : "", local->port);
    }
    return NULL;
}

Error *net_datagram(const NetAddress *local, const NetAddress *remote, int *ret_fd, NetPeer *ret_to)
{
    NetPeer to = { 0 }, own = { 0 };

    TRY(net_peer_of(remote, &to));
    if (local->path || local->host || local->port) {
        NetAddress named = *local;
        named.port = local->port ? local->port : "0";
        named.only_ipv4 |= to.address.ss_family == AF_INET;
        named.only_ipv6 |= to.address.ss_family == AF_INET6;
        TRY(net_peer_of(&named, &own));
    }
    int fd = socket(to.address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return error_new_errno(errno, "cannot make a datagram socket");
    }
    Error *err = net_peer_is_multicast(&to) ? join(fd, &to, &own) : own.length ? bind_local(fd, local, &own) : NULL;
    if (err) {
        close(fd);
        return err;
    }
    *ret_fd = fd;
    *ret_to = to;
    return NULL;
}
