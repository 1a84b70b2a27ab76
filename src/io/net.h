/* Sockets: addresses, listening, connecting. */
#ifndef OSTRICH_IO_NET_H
#define OSTRICH_IO_NET_H

#include <sys/socket.h>

#include "base/error.h"

struct addrinfo;
struct sockaddr_un;

typedef struct NetAddress {
    const char *path;   /* unix socket, or NULL for TCP */
    bool abstract, tight;
    const char *host, *port;
    unsigned port_to;   /* highest port to try; 0: only `port` */
    bool only_ipv4, only_ipv6;
    unsigned backlog;   /* of listening; 0: 1 */
} NetAddress;

/* Close-on-exec, non-blocking descriptors. */
Error *net_listen(const NetAddress *address, int *ret_fd) MUST_USE;
/* Blocks until connected unless async: then the connection may still be under way (poll for writing). */
Error *net_connect(const NetAddress *address, bool async, int *ret_fd) MUST_USE;
/* 0 or -errno: how the connection that was under way ended, once the socket can be written. */
int net_connect_result(int fd);
Error *net_udp(const NetAddress *local, const NetAddress *remote, int *ret_fd) MUST_USE;
/*
 * A datagram socket that is bound but not connected; *ret_to is where to send. Both addresses are unix paths, or neither
 * is. A multicast address as the remote one: the socket joins the group and hears its own datagrams, and `local` says by its host
 * which interface they leave through.
 */
typedef struct NetPeer {
    struct sockaddr_storage address;
    socklen_t length; /* 0: none */
} NetPeer;
Error *net_datagram(const NetAddress *local, const NetAddress *remote, int *ret_fd, NetPeer *ret_to) MUST_USE;
bool net_peer_is_multicast(const NetPeer *peer);
/* The same for a socket that exists. */
Error *net_peer_of(const NetAddress *remote, NetPeer *ret_peer) MUST_USE;
/* What address stands for; the caller calls freeaddrinfo(). */
Error *net_resolve(const NetAddress *address, int type, bool passive, const char *port, struct addrinfo **ret_list) MUST_USE;
Error *net_unix_address(const NetAddress *address, struct sockaddr_un *un, socklen_t *ret_length) MUST_USE;
/* "127.0.0.1:4444" of the socket's own or the peer's end. Caller frees. */
char *net_name(int fd, bool peer);

#endif
