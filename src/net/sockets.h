/*
 * Ethernet over sockets, what -netdev socket, stream and dgram share. On a stream each frame is preceded by its length,
 * 32 bits, big-endian; a datagram is a frame.
 */
#ifndef OSTRICH_NET_SOCKETS_H
#define OSTRICH_NET_SOCKETS_H

#include "io/net.h"
#include "net/net.h"

/* An address as PREFIX.type=inet|unix|fd,... says it. The texts are its own. */
typedef struct NetEnd {
    NetAddress address;
    char *fd; /* instead of an address */
    bool keep_alive, given;
    char *texts[4]; /* what address points to */
} NetEnd;

Error *net_end_read(KeyValues *kv, const char *prefix, NetEnd *ret_end) MUST_USE;
/* "HOST:PORT"; HOST may be empty. */
Error *net_end_parse(const char *text, NetEnd *ret_end) MUST_USE;
void net_end_copy(NetEnd *to, const NetEnd *from);
void net_end_clear(NetEnd *end); /* accepts a zeroed one */

typedef struct NetStreamConf {
    const NetPortOps *ops; /* net_stream_ops or net_socket_stream_ops */
    NetEnd end;            /* the port copies it */
    int fd;                /* a connected or listening socket, which the port takes; -1: use `end` */
    bool server;
    uint32_t reconnect_s;  /* 0: a lost connection stays lost */
} NetStreamConf;
extern const NetPortOps net_stream_ops, net_socket_stream_ops;
Error *net_stream_new(Machine *machine, const char *id, const NetStreamConf *conf, NetPort **ret_port) MUST_USE;

/* fd is taken. unlink_path, copied: a file to remove at the end, or NULL. text: for info network, taken. */
NetPort *net_dgram_new(Machine *machine, const char *id, const char *kind, int fd, const NetPeer *to, const char *unlink_path, char *text);

/* Takes what fd= names; an error unless it is a socket of that type (SOCK_STREAM, SOCK_DGRAM), 0: of either. */
Error *net_socket_take_fd(Machine *machine, const char *text, int type, int *ret_fd, int *ret_type) MUST_USE;

#endif
