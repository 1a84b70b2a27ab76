/*
 * virtio-net (virtio 1.2, 5.1): receive, transmit and control queues; merged receive buffers, MAC and VLAN
 * filters, promiscuity, several queue pairs. Checksum and segmentation offloads are not offered: the back ends
 * carry plain frames.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/endian.h"
#include "bus/virtio.h"
#include "net/net.h"
#include "value/json.h"

enum { F_MAC = 5, F_MRG_RXBUF = 15, F_STATUS = 16, F_CTRL_VQ = 17, F_CTRL_RX = 18, F_CTRL_VLAN = 19, F_CTRL_RX_EXTRA = 20,
       F_GUEST_ANNOUNCE = 21, F_CTRL_MAC_ADDR = 23, F_MTU = 3, F_SPEED_DUPLEX = 63 };
enum { HEADER = 10, HEADER_MRG = 12, CONFIG = 24, LINK_UP = 1, ANNOUNCE = 2, DUPLEX_UNKNOWN = 0xff };
enum { CTRL_RX = 0, CTRL_MAC = 1, CTRL_VLAN = 2, CTRL_ANNOUNCE = 3 };
enum { RX_PROMISC = 0, RX_ALLMULTI = 1, RX_ALLUNI = 2, RX_NOMULTI = 3, RX_NOUNI = 4, RX_NOBCAST = 5 };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1, VLAN_ADD = 0, VLAN_DEL = 1, ANNOUNCE_ACK = 0 };
enum { MAC_TABLE = 64, TX_BUDGET = 256, VLANS = 4096 };

typedef struct MacList {
    uint32_t count;
    uint8_t overflow;
    uint8_t mac[MAC_TABLE][6];
} MacList;

typedef struct VirtioNet {
    VirtioDevice vdev;
    NicConf nic;
    uint16_t rx_size, tx_size, mtu;
    bool mrg_rxbuf, ctrl_vq, ctrl_rx, ctrl_vlan, ctrl_mac, status, guest_announce;
    uint8_t announcing; /* the driver was told to announce itself and did not say yet that it did */
    uint32_t speed;
    Virtqueue *rx, *tx, *ctrl;
    Work transmit;
    uint8_t mac[6]; /* as the guest may change it */
    uint8_t promisc, allmulti, alluni, nomulti, nouni, nobcast;
    MacList unicast, multicast;
    uint32_t vlans[VLANS / 32];
    bool filter_watched; /* query-rx-filter told it, and it has not changed since */
    uint8_t frame[NET_FRAME_MAX]; /* one that is going out */
} VirtioNet;

static VirtioNet *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioNet, vdev);
}

static unsigned header_size(const VirtioNet *net)
{
    return virtio_has(&net->vdev, F_MRG_RXBUF) || virtio_has(&net->vdev, VIRTIO_F_VERSION_1) ? HEADER_MRG : HEADER;
}

/* --- receiving --- */

static bool listed(const MacList *list, const uint8_t *mac)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (!memcmp(list->mac[i], mac, 6)) {
            return true;
        }
    }
    return list->overflow;
}

static bool wanted(const VirtioNet *net, const uint8_t *frame, size_t length)
{
    if (net->promisc) {
        return true;
    }
    if (length < 14) {
        return false;
    }
    if (virtio_has(&net->vdev, F_CTRL_VLAN) && length >= 18 && ld16_be(frame + 12) == 0x8100) {
        unsigned vlan = ld16_be(frame + 14) & 0xfff;
        if (!(net->vlans[vlan / 32] & BIT(vlan % 32))) {
            return false;
        }
    }
    if (nic_is_broadcast(frame)) {
        return !net->nobcast;
    }
    if (nic_is_multicast(frame)) {
        return !net->nomulti && (net->allmulti || listed(&net->multicast, frame));
    }
    return !net->nouni && (net->alluni || !memcmp(frame, net->mac, 6) || listed(&net->unicast, frame));
}

enum { RX_BUFFERS = 64 };

/* Takes buffers until header and frame fit; false: not enough, nothing was taken. */
static bool take_buffers(VirtioNet *net, size_t total, VirtqElement *elems[RX_BUFFERS], unsigned *ret_count)
{
    bool merge = virtio_has(&net->vdev, F_MRG_RXBUF);
    size_t room = 0;
    unsigned count = 0;

    while (room < total && count < RX_BUFFERS) {
        VirtqElement *elem = virtq_pop(net->rx, sizeof(*elem));
        if (!elem) {
            break;
        }
        elems[count++] = elem;
        room += elem->in_bytes;
        if (!merge) {
            break;
        }
    }
    *ret_count = count;
    return room >= total;
}

static void give_back(VirtqElement *elems[RX_BUFFERS], unsigned count)
{
    while (count) {
        virtq_unpop(elems[--count]);
    }
}

static bool receive(NetPort *port, const uint8_t *frame, size_t length)
{
    VirtioNet *net = port->opaque;
    VirtqElement *elems[RX_BUFFERS];
    uint32_t written[RX_BUFFERS];
    uint8_t header[HEADER_MRG] = { 0 };
    unsigned count, head = header_size(net);
    bool merge = virtio_has(&net->vdev, F_MRG_RXBUF);

    if (!virtio_ready(&net->vdev) || !wanted(net, frame, length)) {
        return true; /* dropped */
    }
    if (!take_buffers(net, head + length, elems, &count)) {
        bool hopeless = count > 0 && (!merge || count == RX_BUFFERS);
        give_back(elems, count);
        if (hopeless) {
            virtio_break(&net->vdev, "receive buffers too small for a frame of %zu bytes", length);
            return true;
        }
        /*
         * Looking told the driver where to notify from. What it added before it saw that, it did not tell of: so
         * look once more behind a barrier.
         */
        atomic_thread_fence(memory_order_seq_cst);
        if (!take_buffers(net, head + length, elems, &count)) {
            give_back(elems, count);
            return false;
        }
    }
    st16_le(header + 10, (uint16_t)count);
    size_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t at = 0;
        if (i == 0) {
            at = iov_from_buf(elems[i]->in, elems[i]->in_count, 0, header, head);
        }
        size_t part = iov_from_buf(elems[i]->in, elems[i]->in_count, at, frame + done, length - done);
        done += part;
        written[i] = (uint32_t)(at + part);
    }
    virtq_push_all(elems, written, count);
    virtq_notify(net->rx);
    return true;
}

static void rx_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    net_port_ready(&of_vdev(vdev)->nic.port);
}

static void link_changed(NetPort *port)
{
    virtio_config_changed(&((VirtioNet *)port->opaque)->vdev);
}

static char *describe(NetPort *port)
{
    VirtioNet *net = port->opaque;
    const uint8_t *m = net->mac;
    return g_strdup_printf("model=%s,macaddr=%02x:%02x:%02x:%02x:%02x:%02x", net->vdev.dev.object.type->name, m[0], m[1], m[2],
                           m[3], m[4], m[5]);
}

static const uint8_t *current_mac(NetPort *port)
{
    return ((VirtioNet *)port->opaque)->mac;
}

static void announce(NetPort *port)
{
    VirtioNet *net = port->opaque;

    if (virtio_ready(&net->vdev) && virtio_has(&net->vdev, F_GUEST_ANNOUNCE) && virtio_has(&net->vdev, F_CTRL_VQ)) {
        net->announcing = 1;
        virtio_config_changed(&net->vdev);
    }
}

/* --- what is taken in, for people --- */

static const char *taken(bool all, bool none)
{
    return none ? "none" : all ? "all" : "normal";
}

static Value *mac_value(const uint8_t *m)
{
    return value_strf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

static Value *mac_list_value(const MacList *list)
{
    Value *value = value_list();
    for (uint32_t i = 0; i < list->count; i++) {
        value_append(value, mac_value(list->mac[i]));
    }
    return value;
}

static Value *vlans_value(const VirtioNet *net)
{
    Value *value = value_list();
    for (unsigned vlan = 0; vlan < VLANS; vlan++) {
        if (net->vlans[vlan / 32] & BIT(vlan % 32)) {
            value_append(value, value_int(vlan));
        }
    }
    return value;
}

static Value *rx_filter(NetPort *port)
{
    VirtioNet *net = port->opaque;
    Value *value = value_dict();

    value_put_str(value, "name", port->name);
    value_put_bool(value, "promiscuous", net->promisc);
    value_put_str(value, "multicast", taken(net->allmulti, net->nomulti));
    value_put_str(value, "unicast", taken(net->alluni, net->nouni));
    value_put_str(value, "vlan", taken(!virtio_has(&net->vdev, F_CTRL_VLAN), false));
    value_put_bool(value, "broadcast-allowed", !net->nobcast);
    value_put_bool(value, "multicast-overflow", net->multicast.overflow);
    value_put_bool(value, "unicast-overflow", net->unicast.overflow);
    value_put(value, "main-mac", mac_value(net->mac));
    value_put(value, "vlan-table", vlans_value(net));
    value_put(value, "unicast-table", mac_list_value(&net->unicast));
    value_put(value, "multicast-table", mac_list_value(&net->multicast));
    net->filter_watched = true;
    return value;
}

/* One event until somebody looks, since a guest may change its filter all the time. */
static void filter_changed(VirtioNet *net)
{
    Device *dev = &net->vdev.dev;
    g_autoptr(Value) data = value_dict();

    if (!net->filter_watched) {
        return;
    }
    net->filter_watched = false;
    value_put_str(data, "name", net->nic.port.name);
    value_put(data, "path", value_take_str(object_path(&dev->object)));
    g_autofree char *json = json_write(data, false);
    machine_emit(dev->machine, "NIC_RX_FILTER_CHANGED", json);
}

static const NetPortOps port_ops = { .kind = "nic", .receive = receive, .link_changed = link_changed, .mac = current_mac,
                                     .announce = announce, .rx_filter = rx_filter, .describe = describe };

/* --- transmitting: on the main loop, so that a burst goes out at once --- */

static void tx_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    virtq_set_notification(vq, false);
    work_schedule(&of_vdev(vdev)->transmit);
}

static void send_one(VirtioNet *net, VirtqElement *elem)
{
    unsigned head = header_size(net);
    size_t length = elem->out_bytes > head ? elem->out_bytes - head : 0;
    if (length && length <= sizeof(net->frame)) {
        iov_to_buf(elem->out, elem->out_count, head, net->frame, length);
        net_send(&net->nic.port, net->frame, length);
    }
}

static void transmit(void *opaque)
{
    VirtioNet *net = opaque;
    VirtqElement *elem;
    unsigned budget = TX_BUDGET;

    if (!machine_running(net->vdev.dev.machine)) {
        return; /* virtio_pci_resumed() comes back to it */
    }

    while (budget && (elem = virtq_pop(net->tx, sizeof(*elem)))) {
        send_one(net, elem);
        virtq_push(elem, 0);
        budget--;
    }
    if (budget < TX_BUDGET) {
        virtq_notify(net->tx);
    }
    if (budget == 0) {
        work_schedule(&net->transmit);
        return;
    }
    virtq_set_notification(net->tx, true);
    if (!virtq_empty(net->tx)) {
        virtq_set_notification(net->tx, false);
        work_schedule(&net->transmit);
    }
}

/* --- the control queue: class, command, data; one status byte back --- */

static bool set_mac_list(MacList *list, const VirtqElement *elem, size_t *at)
{
    uint8_t count[4];
    if (iov_to_buf(elem->out, elem->out_count, *at, count, 4) != 4) {
        return false;
    }
    uint32_t n = ld32_le(count);
    if ((elem->out_bytes - *at - 4) / 6 < n) {
        return false;
    }
    list->count = MIN(n, (uint32_t)MAC_TABLE);
    list->overflow = n > MAC_TABLE;
    iov_to_buf(elem->out, elem->out_count, *at + 4, list->mac, list->count * 6);
    *at += 4 + (size_t)n * 6;
    return true;
}

static bool control_mac(VirtioNet *net, uint8_t command, const VirtqElement *elem)
{
    size_t at = 2;
    if (command == MAC_ADDR_SET) {
        return elem->out_bytes == 8 && iov_to_buf(elem->out, elem->out_count, 2, net->mac, 6) == 6;
    }
    return command == MAC_TABLE_SET && set_mac_list(&net->unicast, elem, &at) && set_mac_list(&net->multicast, elem, &at);
}

static bool control_rx(VirtioNet *net, uint8_t command, const VirtqElement *elem)
{
    uint8_t *const modes[] = { &net->promisc, &net->allmulti, &net->alluni, &net->nomulti, &net->nouni, &net->nobcast };
    uint8_t on;
    if (command >= ARRAY_SIZE(modes) || iov_to_buf(elem->out, elem->out_count, 2, &on, 1) != 1) {
        return false;
    }
    *modes[command] = on != 0;
    return true;
}

static bool control_vlan(VirtioNet *net, uint8_t command, const VirtqElement *elem)
{
    uint8_t id[2];
    if (command > VLAN_DEL || iov_to_buf(elem->out, elem->out_count, 2, id, 2) != 2 || ld16_le(id) >= VLANS) {
        return false;
    }
    unsigned vlan = ld16_le(id);
    if (command == VLAN_ADD) {
        net->vlans[vlan / 32] |= BIT(vlan % 32);
    } else {
        net->vlans[vlan / 32] &= ~BIT(vlan % 32);
    }
    return true;
}

static bool control_announce(VirtioNet *net, uint8_t command)
{
    if (command != ANNOUNCE_ACK || !net->announcing) {
        return false;
    }
    net->announcing = 0;
    return true;
}

static bool carry_out(VirtioNet *net, const uint8_t *head, const VirtqElement *elem)
{
    switch (head[0]) {
    case CTRL_RX:
        return control_rx(net, head[1], elem);
    case CTRL_MAC:
        return control_mac(net, head[1], elem);
    case CTRL_VLAN:
        return control_vlan(net, head[1], elem);
    case CTRL_ANNOUNCE:
        return control_announce(net, head[1]);
    default:
        return false;
    }
}

static bool control(VirtioNet *net, const VirtqElement *elem)
{
    uint8_t head[2];
    if (iov_to_buf(elem->out, elem->out_count, 0, head, 2) != 2 || !carry_out(net, head, elem)) {
        return false;
    }
    if (head[0] != CTRL_ANNOUNCE) {
        filter_changed(net);
    }
    return true;
}

static void ctrl_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtioNet *net = of_vdev(vdev);
    VirtqElement *elem;

    while ((elem = virtq_pop(vq, sizeof(*elem)))) {
        uint8_t answer = control(net, elem) ? 0 : 1;
        virtq_push(elem, (uint32_t)iov_from_buf(elem->in, elem->in_count, 0, &answer, 1));
    }
    virtq_notify(vq);
}

/* --- configuration, life --- */

static void get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioNet *net = of_vdev(vdev);
    memset(config, 0, CONFIG);
    memcpy(config, net->mac, 6);
    st16_le(config + 6, (net->nic.port.link_down ? 0 : LINK_UP) | (net->announcing ? ANNOUNCE : 0));
    st16_le(config + 8, 1);
    st16_le(config + 10, net->mtu);
    st32_le(config + 12, net->speed);
    config[16] = DUPLEX_UNKNOWN;
}

/* Legacy drivers write the address, modern ones use the control queue. */
static void config_written(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    if (!virtio_has(vdev, VIRTIO_F_VERSION_1) && offset < 6) {
        memcpy(of_vdev(vdev)->mac, vdev->config, 6);
    }
}

static void reset(VirtioDevice *vdev)
{
    VirtioNet *net = of_vdev(vdev);
    work_cancel(&net->transmit);
    net_port_flush_waiting(&net->nic.port);
    memcpy(net->mac, net->nic.mac.octet, 6);
    net->announcing = 0;
    net->promisc = 1;
    net->allmulti = net->alluni = net->nomulti = net->nouni = net->nobcast = 0;
    net->unicast.count = net->multicast.count = 0;
    net->unicast.overflow = net->multicast.overflow = 0;
    memset(net->vlans, 0, sizeof(net->vlans));
}

/* Without the control queue's filters the card takes everything; with them the driver says what. */
static void features_chosen(VirtioDevice *vdev)
{
    VirtioNet *net = of_vdev(vdev);
    if (!virtio_has(vdev, F_CTRL_VLAN)) {
        memset(net->vlans, 0xff, sizeof(net->vlans));
    }
}

static void status_changed(VirtioDevice *vdev, uint8_t old)
{
    if (virtio_ready(vdev) && !(old & VIRTIO_DRIVER_OK)) {
        net_port_ready(&of_vdev(vdev)->nic.port);
    }
}

static Error *plug(VirtioDevice *vdev)
{
    VirtioNet *net = of_vdev(vdev);
    uint16_t sizes[] = { net->rx_size, net->tx_size };

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (!IS_POW2(sizes[i]) || sizes[i] < 64 || sizes[i] > VIRTIO_QUEUE_SIZE_MAX) {
            return error_new("%s: queue sizes are powers of two from 64 to %d", device_label(&vdev->dev), VIRTIO_QUEUE_SIZE_MAX);
        }
    }
    device_work_init(&vdev->dev, &net->transmit, transmit);
    TRY(nic_attach(&net->nic, &vdev->dev, &port_ops, net));
    vdev->host_features = BIT64(F_MAC);
    vdev->host_features |= net->mrg_rxbuf ? BIT64(F_MRG_RXBUF) : 0;
    vdev->host_features |= net->status ? BIT64(F_STATUS) : 0;
    vdev->host_features |= net->mtu ? BIT64(F_MTU) : 0;
    vdev->host_features |= net->speed != UINT32_MAX ? BIT64(F_SPEED_DUPLEX) : 0;
    net->rx = virtio_add_queue(vdev, net->rx_size, rx_notified);
    net->tx = virtio_add_queue(vdev, net->tx_size, tx_notified);
    if (net->ctrl_vq) {
        vdev->host_features |= BIT64(F_CTRL_VQ);
        vdev->host_features |= net->ctrl_rx ? BIT64(F_CTRL_RX) | BIT64(F_CTRL_RX_EXTRA) : 0;
        vdev->host_features |= net->ctrl_vlan ? BIT64(F_CTRL_VLAN) : 0;
        vdev->host_features |= net->ctrl_mac ? BIT64(F_CTRL_MAC_ADDR) : 0;
        vdev->host_features |= net->guest_announce ? BIT64(F_GUEST_ANNOUNCE) : 0;
        net->ctrl = virtio_add_queue(vdev, 64, ctrl_notified);
    }
    reset(vdev);
    return NULL;
}

static void unplug(VirtioDevice *vdev)
{
    nic_detach(&of_vdev(vdev)->nic);
}

static const VirtioKind kind = { .name = "virtio-net", .id = VIRTIO_ID_NET, .config_size = CONFIG, .plug = plug, .unplug = unplug,
                                 .reset = reset, .get_config = get_config, .config_written = config_written,
                                 .features_chosen = features_chosen, .status_changed = status_changed };

static const Prop props[] = {
    NIC_CONF_PROPS(VirtioNet, nic, vdev.dev),
    PROP_U16("rx_queue_size", VirtioNet, rx_size, 256, .help = "Entries of the receive queue"),
    PROP_U16("tx_queue_size", VirtioNet, tx_size, 256, .help = "Entries of the transmit queue"),
    PROP_U16("host_mtu", VirtioNet, mtu, 0, .help = "Largest packet the guest should send; 0: not said"),
    PROP_U32("speed", VirtioNet, speed, UINT32_MAX, .help = "Megabits a second that the guest is told"),
    PROP_BOOL("mrg_rxbuf", VirtioNet, mrg_rxbuf, true),
    PROP_BOOL("status", VirtioNet, status, true),
    PROP_BOOL("ctrl_vq", VirtioNet, ctrl_vq, true),
    PROP_BOOL("ctrl_rx", VirtioNet, ctrl_rx, true),
    PROP_BOOL("ctrl_vlan", VirtioNet, ctrl_vlan, true),
    PROP_BOOL("ctrl_mac_addr", VirtioNet, ctrl_mac, true),
    PROP_BOOL("guest_announce", VirtioNet, guest_announce, true, .help = "the driver announces itself when it is asked to"),
    { 0 },
};

static const StateField mac_list_state[] = {
    STATE_RANGE(MacList, count, 0, MAC_TABLE),
    STATE_U8(MacList, overflow),
    STATE_BYTES(MacList, mac),
    { 0 },
};
static const StateField state[] = {
    VIRTIO_STATE(VirtioNet), STATE_BYTES(VirtioNet, mac), STATE_U8(VirtioNet, promisc), STATE_U8(VirtioNet, allmulti),
    STATE_U8(VirtioNet, alluni), STATE_U8(VirtioNet, nomulti), STATE_U8(VirtioNet, nouni), STATE_U8(VirtioNet, nobcast),
    STATE_STRUCT(VirtioNet, unicast, mac_list_state), STATE_STRUCT(VirtioNet, multicast, mac_list_state),
    STATE_U32_ARRAY(VirtioNet, vlans), STATE_U8(VirtioNet, announcing), STATE_NOT(VirtioNet, frame, "used inside one call"),
    STATE_NOT(VirtioNet, filter_watched, "of the monitor"), STATE_NOT(VirtioNet, transmit, "rescheduled when the machine runs"),
    STATE_NOT(VirtioNet, nic, "configuration"), STATE_NOT(VirtioNet, rx, "a queue"), STATE_NOT(VirtioNet, tx, "a queue"),
    STATE_NOT(VirtioNet, ctrl, "a queue"), { 0 },
};

VIRTIO_PCI_DEVICE(virtio_net, "virtio-net", "virtio-net", kind, VirtioNet, props, state, DEV_NETWORK, "Virtio network card",
                  virtio_pci_ident_net);
