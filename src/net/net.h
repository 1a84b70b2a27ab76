/*
 * Networks: Ethernet ports, each linked to at most one peer. A network card of the guest is one end, a host
 * back end (-netdev) or a hub the other.
 *
 * Threads: the machine lock. A frame that the receiver cannot take now waits in its queue, which is bounded;
 * what comes on top is dropped, as on a wire.
 */
#ifndef OSTRICH_NET_NET_H
#define OSTRICH_NET_NET_H

#include "core/vm/machine.h"
#include "value/keyvalues.h"
#include "value/value.h"

typedef struct NetPort NetPort;

enum { NET_FRAME_MAX = 65536 + 64 };

typedef struct NetPortOps {
    const char *kind; /* "nic", "user", "hubport", ...: as info network shows it */
    /* Takes a frame, or says false: then net_port_ready() is called when it could. */
    bool (*receive)(NetPort *port, const uint8_t *frame, size_t length);
    /* The peer took the last of what waited for it, or is gone: net_congested() is false again. May be NULL. */
    void (*drained)(NetPort *port);
    void (*link_changed)(NetPort *port); /* port->link_down is set; may be NULL */
    const uint8_t *(*mac)(NetPort *port); /* cards: the address in use; NULL: no card */
    void (*announce)(NetPort *port);     /* cards: asks the driver to announce itself, if it can; may be NULL */
    Value *(*rx_filter)(NetPort *port);  /* cards: what they take in, as query-rx-filter tells it; NULL: they do not say */
    char *(*describe)(NetPort *port);    /* the rest of its line in info network; may be NULL */
    void (*destroy)(NetPort *port);      /* frees a back end; NULL for ports that are embedded */
} NetPortOps;

struct NetPort {
    char *name;
    Machine *machine;
    const NetPortOps *ops;
    void *opaque;
    NetPort *peer;
    bool link_down, delivering;
    GQueue waiting; /* GBytes * for this port */
    List filters;   /* NetFilter */
    ListNode node;  /* in the machine's list */
};

/* name is copied. The port appears in info network. */
void net_port_init(NetPort *port, Machine *machine, const char *name, const NetPortOps *ops, void *opaque);
void net_port_fini(NetPort *port); /* unlinks; accepts a zeroed one */
Error *net_link(NetPort *a, NetPort *b) MUST_USE;
void net_unlink(NetPort *port);
/* Sends a frame to the port's peer; dropped when there is none, or a link is down. */
void net_send(NetPort *port, const uint8_t *frame, size_t length);
/* Frames that the port sent wait already: who has more, and can wait, waits for drained(). */
bool net_congested(const NetPort *port);
/* What net_send() does behind the filters. */
void net_deliver(NetPort *from, NetPort *to, const uint8_t *frame, size_t length);
/* The handler of INLET_NET. */
void net_take(Machine *machine, const char *id, const uint8_t *data, size_t length);
/* The port can take frames again: delivers what waits. */
void net_port_ready(NetPort *port);
void net_port_flush_waiting(NetPort *port); /* drops what waits (reset) */
NetPort *net_port_find(Machine *machine, const char *name);
NetPort *net_port_next(Machine *machine, NetPort *after);
Error *net_set_link(Machine *machine, const char *name, bool up) MUST_USE;
/* Text of info network. Caller frees. */
char *net_describe(Machine *machine);
/* The number of the hub it is a port of; NULL: of none. */
const uint64_t *net_hub_of(const NetPort *port);

/* --- back ends --- */
typedef struct NetdevOption {
    const char *name, *kind, *help; /* kind: "str", "bool", "size", "int"; name NULL ends */
} NetdevOption;

typedef struct NetdevDriver {
    const char *name, *desc;
    const NetdevOption *options;
    /* Reads its options from kv with the getters (what nobody reads is an error afterwards). */
    Error *(*create)(Machine *machine, const char *id, KeyValues *kv, NetPort **ret_port);
} NetdevDriver;
SECTION_DECLARE(netdev_drivers, NetdevDriver);
#define NETDEV_REGISTER(driver) SECTION_ENTRY(netdev_drivers, NetdevDriver, driver)

/* -netdev TYPE,id=ID,...: kv has "type" and "id". Everything is checked before anything is made. */
Error *netdev_create(Machine *machine, KeyValues *kv) MUST_USE;
Error *netdev_delete(Machine *machine, const char *id) MUST_USE;
char *netdev_help(void);                       /* -netdev help; caller frees */
Error *netdev_type_help(const char *type, char **ret_text) MUST_USE;
void net_finish(Machine *machine);             /* deletes all back ends */

/* --- cards --- */
typedef struct NicConf {
    MacAddress mac;
    char *netdev;
    NetPort port;
} NicConf;
#define NIC_CONF_PROPS(t, m, d)                                                                    \
    PROP_("mac", prop_mac, t, m.mac, .help = "Ethernet address; unset: the next from 52:54:00:12:34:56"),  \
    PROP_STR("netdev", t, m.netdev, .help = "The -netdev (by its id) at the other end"),                 \
    PROP_("bootindex", prop_i32, t, d.bootindex, .def = -1)

/* In plug: chooses the address, links to the back end. opaque: for the ops. */
Error *nic_attach(NicConf *conf, Device *dev, const NetPortOps *ops, void *opaque) MUST_USE;
void nic_detach(NicConf *conf); /* in unplug; accepts one that was never attached */
/* Whether a frame is for a card with this address: broadcast, own, multicast (the card filters further). */
bool nic_is_broadcast(const uint8_t *frame);
bool nic_is_multicast(const uint8_t *frame);

#endif
