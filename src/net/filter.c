/* The row of filters of a back end, and what all filters have. */
#include "net/filter.h"

#include <string.h>

static const NetFilterType *type_of(const NetFilter *filter)
{
    return container_of(filter->object.type, const NetFilterType, object);
}

static bool sees(const NetFilter *filter, bool sent)
{
    return filter->on && filter->queue != (sent ? NET_FILTER_RX : NET_FILTER_TX);
}

/* --- frames on their way --- */

/* From `node` on. */
static bool row_takes(NetPort *port, ListNode *node, bool sent, const uint8_t *frame, size_t length)
{
    while (node != &port->filters.head) {
        NetFilter *filter = container_of(node, NetFilter, node);
        ListNode *next = sent ? node->next : node->prev;
        if (sees(filter, sent) && type_of(filter)->take(filter, sent, frame, length)) {
            return true;
        }
        node = next;
    }
    return false;
}

bool net_filters_take(NetPort *from, NetPort *to, const uint8_t *frame, size_t length)
{
    return row_takes(from, from->filters.head.next, true, frame, length) || row_takes(to, to->filters.head.prev, false, frame, length);
}

void net_filter_pass(NetFilter *filter, bool sent, const uint8_t *frame, size_t length)
{
    NetPort *port = filter->port, *from = sent ? port : port->peer, *to = sent ? port->peer : port;

    if (!port->peer || row_takes(port, sent ? filter->node.next : filter->node.prev, sent, frame, length) ||
        (sent && row_takes(to, to->filters.head.prev, false, frame, length))) {
        return;
    }
    net_deliver(from, to, frame, length);
}

/* --- a filter's place --- */

static Error *find_place(NetFilter *filter, NetPort *port, ListNode **ret_before)
{
    const char *position = filter->position ? filter->position : "tail";
    bool before = g_strcmp0(filter->insert, "before") == 0;

    if (filter->insert && !before && strcmp(filter->insert, "behind")) {
        return error_new("insert=%s: before or behind is wanted", filter->insert);
    }
    if (!strcmp(position, "head") || !strcmp(position, "tail")) {
        *ret_before = *position == 'h' ? port->filters.head.next : &port->filters.head;
        return NULL;
    }
    if (!g_str_has_prefix(position, "id=")) {
        return error_new("position=%s: head, tail or id=FILTER is wanted", position);
    }
    LIST_FOREACH(other, &port->filters, NetFilter, node) {
        if (!strcmp(other->object.id, position + 3)) {
            *ret_before = before ? &other->node : other->node.next;
            return NULL;
        }
    }
    return error_new("position=%s: '%s' has no such filter", position, filter->netdev);
}

Error *net_filter_attach(NetFilter *filter)
{
    Machine *machine = object_owner(&filter->object);
    NetPort *port = filter->netdev && machine ? net_port_find(machine, filter->netdev) : NULL;
    ListNode *before = NULL;

    if (!filter->netdev) {
        return error_new("netdev= is missing: the back end whose frames are filtered");
    }
    if (!port || !port->ops->destroy) {
        return error_new("there is no netdev '%s'", filter->netdev);
    }
    TRY(find_place(filter, port, &before));
    filter->port = port;
    list_insert_before(before, &filter->node);
    return NULL;
}

void net_filter_detach(NetFilter *filter)
{
    if (filter->port) {
        list_remove(&filter->node);
        filter->port = NULL;
    }
}

static void status_changed(Object *object, const Prop *prop)
{
    NetFilter *filter = (NetFilter *)object;

    if (filter->port && type_of(filter)->status_changed) {
        type_of(filter)->status_changed(filter);
    }
}

/* --- properties of all --- */

static Error *set_status(Object *object, const Prop *prop, const char *text)
{
    if (strcmp(text, "on") && strcmp(text, "off")) {
        return error_new("status=%s: on or off is wanted", text);
    }
    *(bool *)prop_ptr(object, prop) = text[1] == 'n';
    return NULL;
}

static char *get_status(const Object *object, const Prop *prop)
{
    return g_strdup(*(bool *)prop_ptr(object, prop) ? "on" : "off");
}

static void default_status(Object *object, const Prop *prop)
{
    *(bool *)prop_ptr(object, prop) = true;
}

static const PropKind status_kind = { .name = "str", .set = set_status, .get = get_status, .set_default = default_status, .json = 's' };
static const EnumName queue_names[] = { { "all", NET_FILTER_ALL }, { "rx", NET_FILTER_RX }, { "tx", NET_FILTER_TX }, { NULL, 0 } };
static const Prop props[] = {
    PROP_STR("netdev", NetFilter, netdev, .help = "ID of the back end"),
    PROP_ENUM("queue", NetFilter, queue, queue_names, NET_FILTER_ALL, .help = "rx: what is sent to the back end; tx: what it sends; all"),
    PROP_("status", status_kind, NetFilter, on, .flags = PROP_RUNTIME, .changed = status_changed, .help = "on; off: frames pass untouched"),
    PROP_STR("position", NetFilter, position, .help = "head, tail, or id=FILTER [tail]"),
    PROP_STR("insert", NetFilter, insert, .help = "with position=id=...: before or behind that filter [behind]"),
    { 0 },
};
const ObjectType net_filter_object_type = { .name = "netfilter", .size = sizeof(NetFilter), .abstract = true, .late = true, .props = props };
