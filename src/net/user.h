/* What the monitor asks of user networks. */
#ifndef OSTRICH_NET_USER_H
#define OSTRICH_NET_USER_H

#include "net/net.h"

/* id NULL: the first user network. forward as in hostfwd=; to remove, tcp|udp:[HOSTADDR]:HOSTPORT. */
Error *user_net_add_forward(Machine *machine, const char *id, const char *forward) MUST_USE;
Error *user_net_remove_forward(Machine *machine, const char *id, const char *forward) MUST_USE;
/* Text of info usernet. Caller frees. */
char *user_net_describe(Machine *machine);

#endif
