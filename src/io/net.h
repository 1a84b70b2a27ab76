/* Sockets: addresses, listening, connecting. */
#ifndef OSTRICH_IO_NET_H
#define OSTRICH_IO_NET_H

#include "base/error.h"

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
Error *net_udp(const NetAddress *local, const NetAddress *remote, int *ret_fd) MUST_USE;
/* "127.0.0.1:4444" of the socket's own or the peer's end. Caller frees. */
char *net_name(int fd, bool peer);

#endif
