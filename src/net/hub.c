/*
 * Hubs: every frame that comes in at one port goes out at all others. Ports with the same hubid make one hub.
 * -net joins cards and back ends on hub 0.
 */
#include <string.h>

#include "net/net.h"

typedef struct HubPort {
    NetPort port;
    uint64_t hub;
} HubPort;

static bool hub_receive(NetPort *port, const uint8_t *frame, size_t length);
static void hub_destroy(NetPort *port);

static char *hub_describe(NetPort *port)
{
    return g_strdup_printf("hubid=%" G_GUINT64_FORMAT, container_of(port, HubPort, port)->hub);
}

static const NetPortOps hub_ops = { .kind = "hubport", .receive = hub_receive, .describe = hub_describe, .destroy = hub_destroy };

const uint64_t *net_hub_of(const NetPort *port)
{
    return port->ops == &hub_ops ? &container_of(port, HubPort, port)->hub : NULL;
}

static bool hub_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    const HubPort *from = container_of(port, HubPort, port);
    for (NetPort *other = NULL; (other = net_port_next(port->machine, other));) {
        if (other != port && other->ops == &hub_ops && container_of(other, HubPort, port)->hub == from->hub) {
            net_send(other, frame, length);
        }
    }
    return true;
}

static void hub_destroy(NetPort *port)
{
    net_port_fini(port);
    g_free(container_of(port, HubPort, port));
}

static Error *hub_create(Machine *machine, const char *id, KeyValues *kv, NetPort **ret_port)
{
    uint64_t hub;
    const char *netdev = keyvalues_get(kv, "netdev");
    if (!keyvalues_has(kv, "hubid")) {
        return error_new("hubid= is missing");
    }
    TRY(keyvalues_get_u64(kv, "hubid", 0, &hub));
    NetPort *peer = netdev ? net_port_find(machine, netdev) : NULL;
    if (netdev && !peer) {
        return error_new("there is no netdev '%s'", netdev);
    }
    HubPort *port = g_new0(HubPort, 1);
    port->hub = hub;
    net_port_init(&port->port, machine, id, &hub_ops, NULL);
    Error *err = peer ? net_link(&port->port, peer) : NULL;
    if (err) {
        hub_destroy(&port->port);
        return err;
    }
    *ret_port = &port->port;
    return NULL;
}

static const NetdevOption options[] = {
    { "hubid", "int", "number of the hub" },
    { "netdev", "str", "ID of a back end to connect to the hub" },
    { NULL },
};
static const NetdevDriver driver = { "hubport", "a port of a hub that joins several cards and back ends", options, hub_create };
NETDEV_REGISTER(&driver);
