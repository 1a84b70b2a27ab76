/*
 * Announcing the machine's cards, so that switches learn where they are now: after a migration, or when QMP's announce-self
 * asks. A RARP request (RFC 903) with each card's address is sent, and a driver that can announce more is told to.
 */
#include <string.h>

#include "base/endian.h"
#include "net/announce.h"
#include "net/net.h"

enum { RARP_FRAME = 60, ETHERTYPE_RARP = 0x8035, ETHERTYPE_IPV4 = 0x0800, RARP_REQUEST = 3, HARDWARE_ETHERNET = 1 };

typedef struct Announcer {
    Machine *machine;
    char *id;
    char **cards; /* NULL: all */
    AnnounceConf conf;
    uint64_t round;
    Timer timer;
    ListNode node;
} Announcer;

static List *announcers(Machine *machine)
{
    List *list = machine_service(machine, "announce");

    if (!list) {
        list = g_new0(List, 1);
        list_init(list);
        machine_set_service(machine, "announce", list);
    }
    return list;
}

static void announcer_free(Announcer *a)
{
    timer_fini(&a->timer);
    list_remove(&a->node);
    g_strfreev(a->cards);
    g_free(a->id);
    g_free(a);
}

static void send_rarp(NetPort *port, const uint8_t mac[6])
{
    uint8_t frame[RARP_FRAME] = { 0 };

    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    st16_be(frame + 12, ETHERTYPE_RARP);
    st16_be(frame + 14, HARDWARE_ETHERNET);
    st16_be(frame + 16, ETHERTYPE_IPV4);
    frame[18] = 6;
    frame[19] = 4;
    st16_be(frame + 20, RARP_REQUEST);
    memcpy(frame + 22, mac, 6);
    memcpy(frame + 32, mac, 6);
    net_send(port, frame, sizeof(frame));
}

static void announce_once(const Announcer *a)
{
    for (NetPort *port = NULL; (port = net_port_next(a->machine, port));) {
        if (!port->ops->mac || (a->cards && !g_strv_contains((const char *const *)a->cards, port->name))) {
            continue;
        }
        send_rarp(port, port->ops->mac(port));
        if (port->ops->announce) {
            port->ops->announce(port);
        }
    }
}

/* The pauses between rounds grow by `step` up to `max`. */
static void next_round(void *opaque)
{
    Announcer *a = opaque;

    announce_once(a);
    if (++a->round >= a->conf.rounds) {
        announcer_free(a);
        return;
    }
    uint64_t pause = MIN(a->conf.initial + (a->round - 1) * a->conf.step, a->conf.max);
    timer_set(&a->timer, clock_now(a->machine->clocks, CLOCK_REALTIME_NS) + (int64_t)pause * NS_PER_MS);
}

void net_announce(Machine *machine, const AnnounceConf *conf, const char *id, const char *const *cards)
{
    LIST_FOREACH_SAFE (old, announcers(machine), Announcer, node) {
        if (!g_strcmp0(old->id, id)) {
            announcer_free(old);
        }
    }
    if (conf->rounds == 0) {
        return;
    }
    Announcer *a = g_new0(Announcer, 1);
    a->machine = machine;
    a->id = g_strdup(id);
    a->cards = g_strdupv((char **)cards);
    a->conf = *conf;
    timer_init(&a->timer, machine->loop, CLOCK_REALTIME_NS, next_round, a);
    list_append(announcers(machine), &a->node);
    next_round(a);
}

void net_announce_finish(Machine *machine)
{
    List *list = announcers(machine);

    LIST_FOREACH_SAFE (a, list, Announcer, node) {
        announcer_free(a);
    }
    machine_set_service(machine, "announce", NULL);
    g_free(list);
}
