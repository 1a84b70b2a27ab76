/* Announcing the machine's cards to the network. Threads: the machine lock. */
#ifndef OSTRICH_NET_ANNOUNCE_H
#define OSTRICH_NET_ANNOUNCE_H

#include "core/vm/machine.h"

typedef struct AnnounceConf {
    uint64_t initial, max, step; /* milliseconds: the first pause, the longest, how much each grows; at most ANNOUNCE_MS_MAX */
    uint64_t rounds;             /* 0: none */
} AnnounceConf;
enum { ANNOUNCE_MS_MAX = 100000, ANNOUNCE_ROUNDS_MAX = 1000, ANNOUNCE_STEP_MAX = 10000 };

/* The first round at once; takes the place of what is under way with the same id (NULL is one). cards, copied: names, NULL: all. */
void net_announce(Machine *machine, const AnnounceConf *conf, const char *id, const char *const *cards);
void net_announce_finish(Machine *machine);

#endif
