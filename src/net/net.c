/* Ports, links, delivery; network cards' common part. */
#include "net/net.h"

#include <string.h>

#include "core/vm/inlet.h"
#include "net/announce.h"
#include "net/filter.h"

#define SERVICE "net"
enum { WAITING_MAX = 1024, MACS = 256 };

typedef struct Net {
    List ports;
    unsigned macs_used[MACS / 32]; /* last octets given out or taken, from 0x56 */
    Machine *machine;
    MachineNotifier notifier;
} Net;

/* A card of a machine that stands still takes nothing: its state and memory may be on their way elsewhere. */
static bool stands_still(const NetPort *port)
{
    return !strcmp(port->ops->kind, "nic") && port->machine->vcpus->len > 0 && !machine_running(port->machine);
}

static void state_changed(MachineNotifier *notifier, MachineEvent event, void *data)
{
    Net *net = container_of(notifier, Net, notifier);

    if (event == MACHINE_EVENT_STATE && machine_running(net->machine)) {
        for (NetPort *port = NULL; (port = net_port_next(net->machine, port));) {
            net_port_ready(port);
        }
    }
}

static Net *net_of(Machine *machine)
{
    Net *net = machine_service(machine, SERVICE);
    if (!net) {
        net = g_new0(Net, 1);
        list_init(&net->ports);
        net->machine = machine;
        net->notifier.fn = state_changed;
        machine_notifier_add(machine, &net->notifier);
        machine_set_service(machine, SERVICE, net);
    }
    return net;
}

void net_port_init(NetPort *port, Machine *machine, const char *name, const NetPortOps *ops, void *opaque)
{
    *port = (NetPort) { .name = g_strdup(name), .machine = machine, .ops = ops, .opaque = opaque };
    g_queue_init(&port->waiting);
    list_init(&port->filters);
    list_append(&net_of(machine)->ports, &port->node);
}

bool net_congested(const NetPort *port)
{
    return port->peer && !g_queue_is_empty(&port->peer->waiting);
}

static void tell_drained(NetPort *port)
{
    if (port && port->ops->drained) {
        port->ops->drained(port);
    }
}

void net_port_flush_waiting(NetPort *port)
{
    if (!g_queue_is_empty(&port->waiting)) {
        g_queue_clear_full(&port->waiting, (GDestroyNotify)g_bytes_unref);
        tell_drained(port->peer);
    }
}

void net_unlink(NetPort *port)
{
    NetPort *peer = port->peer;

    if (peer) {
        port->peer = peer->peer = NULL;
        tell_drained(port);
        tell_drained(peer);
    }
}

void net_port_fini(NetPort *port)
{
    if (port->machine) {
        while (!list_empty(&port->filters)) {
            object_unparent(&container_of(port->filters.head.next, NetFilter, node)->object);
        }
        net_unlink(port);
        net_port_flush_waiting(port);
        list_remove(&port->node);
        g_free(port->name);
        port->machine = NULL;
    }
}

Error *net_link(NetPort *a, NetPort *b)
{
    NetPort *busy = a->peer ? a : b->peer ? b : NULL;
    if (busy) {
        return error_new("'%s' is connected to '%s' already", busy->name, busy->peer->name);
    }
    a->peer = b;
    b->peer = a;
    return NULL;
}

/* --- delivery --- */

static bool deliver(NetPort *to, const uint8_t *frame, size_t length)
{
    if (stands_still(to)) {
        return false;
    }
    to->delivering = true;
    bool taken = to->ops->receive(to, frame, length);
    to->delivering = false;
    return taken;
}

static bool is_card(const NetPort *port)
{
    return !strcmp(port->ops->kind, "nic");
}

static void give(NetPort *to, const uint8_t *frame, size_t length)
{
    if (!to->delivering && g_queue_is_empty(&to->waiting) && deliver(to, frame, length)) {
        return;
    }
    if (g_queue_get_length(&to->waiting) < WAITING_MAX) {
        g_queue_push_tail(&to->waiting, g_bytes_new(frame, length));
    }
}

void net_take(Machine *machine, const char *id, const uint8_t *data, size_t length)
{
    NetPort *to = net_port_find(machine, id);
    if (to && is_card(to) && length <= NET_FRAME_MAX) {
        give(to, data, length);
    }
}

void net_send(NetPort *port, const uint8_t *frame, size_t length)
{
    NetPort *to = port->peer;
    if (to && length <= NET_FRAME_MAX && !port->link_down && !to->link_down && !net_filters_take(port, to, frame, length)) {
        net_deliver(port, to, frame, length);
    }
}

void net_deliver(NetPort *from, NetPort *to, const uint8_t *frame, size_t length)
{
    if (from->link_down || to->link_down) {
        return;
    }
    if (is_card(to)) {
        if (!inlet_post(to->machine, INLET_NET, to->name, frame, length)) {
            give(to, frame, length);
        }
    } else if (!inlet_replays(to->machine)) { /* the answers are recorded: nothing is to be asked again */
        give(to, frame, length);
    }
}

void net_port_ready(NetPort *port)
{
    GBytes *frame;
    while (!port->delivering && (frame = g_queue_peek_head(&port->waiting))) {
        gsize length;
        const uint8_t *data = g_bytes_get_data(frame, &length);
        if (!deliver(port, data, length)) {
            return;
        }
        g_queue_pop_head(&port->waiting);
        g_bytes_unref(frame);
        if (g_queue_is_empty(&port->waiting)) {
            tell_drained(port->peer);
        }
    }
}

/* --- the list --- */

NetPort *net_port_next(Machine *machine, NetPort *after)
{
    List *ports = &net_of(machine)->ports;
    ListNode *node = after ? after->node.next : ports->head.next;
    return node == &ports->head ? NULL : container_of(node, NetPort, node);
}

NetPort *net_port_find(Machine *machine, const char *name)
{
    for (NetPort *port = NULL; (port = net_port_next(machine, port));) {
        if (!strcmp(port->name, name)) {
            return port;
        }
    }
    return NULL;
}

Error *net_set_link(Machine *machine, const char *name, bool up)
{
    NetPort *port = net_port_find(machine, name);
    if (!port) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", name);
    }
    NetPort *ends[] = { port, port->peer };
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        if (ends[i] && ends[i]->link_down == up) {
            ends[i]->link_down = !up;
            if (ends[i]->ops->link_changed) {
                ends[i]->ops->link_changed(ends[i]);
            }
        }
    }
    return NULL;
}

static void describe_port(GString *out, NetPort *port)
{
    g_autofree char *more = port->ops->describe ? port->ops->describe(port) : NULL;
    g_string_append_printf(out, "%s: index=0,type=%s%s%s\n", port->name, port->ops->kind, more ? "," : "", more ? more : "");
}

/* Each hub with its ports and what is plugged into them. */
static void hubs_describe(Machine *machine, GString *out)
{
    for (NetPort *first = NULL; (first = net_port_next(machine, first));) {
        const uint64_t *hub = net_hub_of(first);
        bool seen = !hub;
        for (NetPort *port = NULL; !seen && (port = net_port_next(machine, port)) != first;) {
            seen = net_hub_of(port) && *net_hub_of(port) == *hub;
        }
        if (seen) {
            continue;
        }
        g_string_append_printf(out, "hub %" G_GUINT64_FORMAT "\n", (guint64)*hub);
        for (NetPort *port = first; port; port = net_port_next(machine, port)) {
            if (net_hub_of(port) && *net_hub_of(port) == *hub) {
                g_string_append_printf(out, " \\ %s", port->name);
                g_string_append(out, port->peer ? ": " : "\n");
                if (port->peer) {
                    describe_port(out, port->peer);
                }
            }
        }
    }
}

char *net_describe(Machine *machine)
{
    GString *out = g_string_new(NULL);
    hubs_describe(machine, out);
    for (NetPort *port = NULL; (port = net_port_next(machine, port));) {
        if (net_hub_of(port) || (port->peer && net_hub_of(port->peer))) {
            continue;
        }
        bool card = !strcmp(port->ops->kind, "nic");
        if (card || !port->peer) {
            describe_port(out, port);
        }
        if (card && port->peer) {
            g_string_append(out, " \\ ");
            describe_port(out, port->peer);
        }
    }
    return g_string_free(out, FALSE);
}

void net_finish(Machine *machine)
{
    Net *net = machine_service(machine, SERVICE);
    net_announce_finish(machine);
    if (!net) {
        return;
    }
    LIST_FOREACH_SAFE (port, &net->ports, NetPort, node) {
        if (port->ops->destroy) {
            port->ops->destroy(port);
        }
    }
    if (list_empty(&net->ports)) {
        machine_set_service(machine, SERVICE, NULL);
        list_remove(&net->notifier.node);
        g_free(net);
    }
}

/* --- cards --- */

static const uint8_t first_mac[6] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };

static void note_mac(Net *net, const uint8_t mac[6])
{
    if (!memcmp(mac, first_mac, 5)) {
        unsigned n = (uint8_t)(mac[5] - first_mac[5]);
        net->macs_used[n / 32] |= BIT(n % 32);
    }
}

static void choose_mac(Net *net, MacAddress *mac)
{
    if (!mac->set) {
        unsigned n = 0;
        while (n < MACS - 1 && (net->macs_used[n / 32] & BIT(n % 32))) {
            n++;
        }
        memcpy(mac->octet, first_mac, 6);
        mac->octet[5] = (uint8_t)(first_mac[5] + n);
        mac->set = true;
    }
    note_mac(net, mac->octet);
}

Error *nic_attach(NicConf *conf, Device *dev, const NetPortOps *ops, void *opaque)
{
    NetPort *backend = NULL;

    if (conf->mac.set && (conf->mac.octet[0] & 1)) {
        return error_new("%s: the mac is a multicast address; the first octet must be even", device_label(dev));
    }
    if (conf->netdev && *conf->netdev) {
        backend = net_port_find(dev->machine, conf->netdev);
        if (!backend || !strcmp(backend->ops->kind, "nic")) {
            return error_new("Property '%s.netdev' can't find value '%s'", dev->object.type->name, conf->netdev);
        }
        if (backend->peer) {
            return error_new("%s: the netdev '%s' is in use by '%s' already", device_label(dev), conf->netdev, backend->peer->name);
        }
    }
    choose_mac(net_of(dev->machine), &conf->mac);
    g_autofree char *name = g_strdup(dev->object.parent && dev->object.parent->id &&
                                             !strcmp(dev->object.parent->id, "peripheral")
                                         ? dev->object.id
                                         : NULL);
    for (unsigned n = 0; !name; n++) {
        g_autofree char *candidate = g_strdup_printf("%s.%u", dev->object.type->name, n);
        if (!net_port_find(dev->machine, candidate)) {
            name = g_steal_pointer(&candidate);
        }
    }
    net_port_init(&conf->port, dev->machine, name, ops, opaque);
    return backend ? net_link(&conf->port, backend) : NULL;
}

void nic_detach(NicConf *conf)
{
    net_port_fini(&conf->port);
}

bool nic_is_broadcast(const uint8_t *frame)
{
    static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    return !memcmp(frame, all, 6);
}

bool nic_is_multicast(const uint8_t *frame)
{
    return frame[0] & 1;
}
