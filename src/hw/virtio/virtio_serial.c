/*
 * virtio-serial (virtio 1.2, 5.3): a bus of ports over pairs of queues, with a control channel. virtconsole is a
 * console port (hvc0), virtserialport a named stream. Port 0 has queues 0 and 1, control 2 and 3, port n from 4 + 2 (n - 1).
 */
#include <string.h>

#include "base/endian.h"
#include "bus/virtio.h"
#include "chardev/chardev.h"

enum { F_SIZE = 0, F_MULTIPORT = 1 };
enum { DEVICE_READY = 0, DEVICE_ADD = 1, DEVICE_REMOVE = 2, PORT_READY = 3, CONSOLE_PORT = 4, RESIZE = 5, PORT_OPEN = 6, PORT_NAME = 7 };
enum { CONFIG = 12, CONTROL = 8, PORTS_MAX = 31, QUEUE_SIZE = 128, PENDING_MAX = 512, NAME_MAX_BYTES = 1024, SAVED_MAX = 1 << 20, WRITE_BUFFER = 4096 };
#define NO_PORT UINT32_MAX

typedef struct VirtioSerial VirtioSerial;

typedef struct SerialBus {
    Bus bus;
    VirtioSerial *serial;
} SerialBus;

typedef struct SerialPort {
    Device dev;
    CharFront chr;
    char *name;
    uint32_t nr;
    bool console;
    VirtioSerial *serial;
    Virtqueue *in, *out; /* to the guest, from the guest */
    bool host_open, guest_open;
    VirtqElement *held; /* partly written to the back end */
    uint64_t held_done;
} SerialPort;

struct VirtioSerial {
    VirtioDevice vdev;
    SerialBus ports_bus;
    uint32_t max_ports;
    SerialPort *port[PORTS_MAX];
    Virtqueue *ctrl_in, *ctrl_out;
    GQueue pending; /* GBytes: control messages that found no buffer */
    GByteArray *saved; /* these in a saved state: length (u16) and content of each */
    bool driver_ready;
};

static VirtioSerial *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioSerial, vdev);
}

/* --- control messages to the guest --- */

static bool put_control(VirtioSerial *serial, const uint8_t *data, size_t length)
{
    VirtqElement *elem = virtq_pop(serial->ctrl_in, sizeof(*elem));
    if (!elem) {
        return false;
    }
    virtq_push(elem, (uint32_t)iov_from_buf(elem->in, elem->in_count, 0, data, length));
    virtq_notify(serial->ctrl_in);
    return true;
}

static void flush_control(VirtioSerial *serial)
{
    GBytes *message;
    while ((message = g_queue_peek_head(&serial->pending))) {
        gsize length;
        const uint8_t *data = g_bytes_get_data(message, &length);
        if (!put_control(serial, data, length)) {
            return;
        }
        g_bytes_unref(g_queue_pop_head(&serial->pending));
    }
}

static void send_control(VirtioSerial *serial, uint32_t id, uint16_t event, uint16_t value, const char *text)
{
    size_t extra = text ? strlen(text) + 1 : 0;
    g_autofree uint8_t *message = g_malloc(CONTROL + extra);

    if (!serial->driver_ready || !virtio_has(&serial->vdev, F_MULTIPORT)) {
        return;
    }
    st32_le(message, id);
    st16_le(message + 4, event);
    st16_le(message + 6, value);
    if (text) {
        memcpy(message + CONTROL, text, extra);
    }
    if ((!g_queue_is_empty(&serial->pending) || !put_control(serial, message, CONTROL + extra)) &&
        g_queue_get_length(&serial->pending) < PENDING_MAX) {
        g_queue_push_tail(&serial->pending, g_bytes_new(message, CONTROL + extra));
    }
}

/* --- data --- */

static void finish_held(SerialPort *port)
{
    virtq_push(port->held, 0);
    port->held = NULL;
    port->held_done = 0;
    virtq_notify(port->out);
}

/* Passes what the guest wrote to the back end; stops when that takes no more. */
static void drain_port(SerialPort *port)
{
    uint8_t buffer[WRITE_BUFFER];

    for (;;) {
        if (!port->held) {
            port->held = virtq_pop(port->out, sizeof(*port->held));
            if (!port->held) {
                return;
            }
        }
        VirtqElement *elem = port->held;
        size_t length = iov_to_buf(elem->out, elem->out_count, port->held_done, buffer, sizeof(buffer));
        if (length) {
            size_t taken = char_write(&port->chr, buffer, length);
            port->held_done += taken;
            if (taken < length) {
                return; /* writable() goes on */
            }
        }
        if (port->held_done >= elem->out_bytes) {
            finish_held(port);
        }
    }
}

static SerialPort *port_of_queue(VirtioSerial *serial, const Virtqueue *vq)
{
    for (unsigned i = 0; i < PORTS_MAX; i++) {
        SerialPort *port = serial->port[i];
        if (port && (port->in == vq || port->out == vq)) {
            return port;
        }
    }
    return NULL;
}

static void out_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    SerialPort *port = port_of_queue(of_vdev(vdev), vq);
    VirtqElement *elem;

    if (port) {
        drain_port(port);
        return;
    }
    while ((elem = virtq_pop(vq, sizeof(*elem)))) {
        virtq_push(elem, 0); /* nobody is there */
    }
    virtq_notify(vq);
}

static void in_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    SerialPort *port = port_of_queue(of_vdev(vdev), vq);
    if (port) {
        char_accept_input(&port->chr);
    }
}

static bool guest_listens(const SerialPort *port)
{
    VirtioDevice *vdev = &port->serial->vdev;
    return virtio_ready(vdev) && (port->guest_open || port->console || !virtio_has(vdev, F_MULTIPORT));
}

static size_t chr_can_receive(void *opaque)
{
    SerialPort *port = opaque;
    return guest_listens(port) && !virtq_empty(port->in) ? WRITE_BUFFER : 0;
}

static void chr_receive(void *opaque, const uint8_t *buf, size_t length)
{
    SerialPort *port = opaque;
    size_t done = 0;
    VirtqElement *elem;

    while (done < length && (elem = virtq_pop(port->in, sizeof(*elem)))) {
        size_t part = iov_from_buf(elem->in, elem->in_count, 0, buf + done, length - done);
        virtq_push(elem, (uint32_t)part);
        done += part;
    }
    virtq_notify(port->in);
}

static void set_host_open(SerialPort *port, bool open)
{
    if (port->host_open != open) {
        port->host_open = open;
        send_control(port->serial, port->nr, PORT_OPEN, open, NULL);
    }
}

static void chr_event(void *opaque, CharEvent event)
{
    if (event == CHAR_EVENT_OPENED || event == CHAR_EVENT_CLOSED) {
        set_host_open(opaque, event == CHAR_EVENT_OPENED);
    }
}

static void chr_writable(void *opaque)
{
    drain_port(opaque);
}
static const CharFrontOps chr_ops = { .can_receive = chr_can_receive, .receive = chr_receive, .event = chr_event, .writable = chr_writable };

/* --- control messages from the guest --- */

static void announce_port(SerialPort *port)
{
    send_control(port->serial, port->nr, DEVICE_ADD, 1, NULL);
}

static void port_ready(SerialPort *port)
{
    VirtioSerial *serial = port->serial;
    if (port->console) {
        send_control(serial, port->nr, CONSOLE_PORT, 1, NULL);
    }
    if (port->name) {
        send_control(serial, port->nr, PORT_NAME, 1, port->name);
    }
    if (port->host_open) {
        send_control(serial, port->nr, PORT_OPEN, 1, NULL);
    }
}

static void guest_opened(SerialPort *port, bool open)
{
    Machine *machine = port->dev.machine;
    if (port->guest_open == open) {
        return;
    }
    port->guest_open = open;
    g_autofree char *json = g_strdup_printf("{\"id\": \"%s\", \"open\": %s}", device_label(&port->dev), open ? "true" : "false");
    machine_emit(machine, "VSERPORT_CHANGE", json);
    if (open) {
        char_accept_input(&port->chr);
    }
}

static void handle_control(VirtioSerial *serial, const uint8_t message[CONTROL])
{
    uint32_t id = ld32_le(message);
    uint16_t event = ld16_le(message + 4), value = ld16_le(message + 6);

    if (event == DEVICE_READY) {
        serial->driver_ready = value != 0;
        for (unsigned i = 0; value && i < PORTS_MAX; i++) {
            if (serial->port[i]) {
                announce_port(serial->port[i]);
            }
        }
        return;
    }
    SerialPort *port = id < PORTS_MAX ? serial->port[id] : NULL;
    if (port && event == PORT_READY && value) {
        port_ready(port);
    } else if (port && event == PORT_OPEN) {
        guest_opened(port, value != 0);
    }
}

static void ctrl_out_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    uint8_t message[CONTROL];
    VirtqElement *elem;
    while ((elem = virtq_pop(vq, sizeof(*elem)))) {
        if (iov_to_buf(elem->out, elem->out_count, 0, message, CONTROL) == CONTROL) {
            handle_control(of_vdev(vdev), message);
        }
        virtq_push(elem, 0);
    }
    virtq_notify(vq);
}

static void ctrl_in_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    flush_control(of_vdev(vdev));
}

/* --- the controller --- */

static void get_config(VirtioDevice *vdev, uint8_t *config)
{
    memset(config, 0, CONFIG);
    st32_le(config + 4, of_vdev(vdev)->max_ports);
}

static void reset(VirtioDevice *vdev)
{
    VirtioSerial *serial = of_vdev(vdev);
    serial->driver_ready = false;
    g_queue_clear_full(&serial->pending, (GDestroyNotify)g_bytes_unref);
    for (unsigned i = 0; i < PORTS_MAX; i++) {
        SerialPort *port = serial->port[i];
        if (port) {
            if (port->held) {
                virtq_discard(port->held);
                port->held = NULL;
            }
            port->held_done = 0;
            guest_opened(port, false);
        }
    }
}

/* What of a buffer went out already is remembered; the buffer is taken again. */
static void saving(VirtioDevice *vdev)
{
    VirtioSerial *serial = of_vdev(vdev);
    for (unsigned i = 0; i < PORTS_MAX; i++) {
        if (serial->port[i] && serial->port[i]->held) {
            virtq_unpop(g_steal_pointer(&serial->port[i]->held));
        }
    }
    g_clear_pointer(&serial->saved, g_byte_array_unref);
    for (GList *at = serial->pending.head; at; at = at->next) {
        gsize length;
        const uint8_t *data = g_bytes_get_data(at->data, &length);
        uint8_t head[2];
        st16_le(head, (uint16_t)length);
        serial->saved = serial->saved ? serial->saved : g_byte_array_new();
        g_byte_array_append(serial->saved, head, 2);
        g_byte_array_append(serial->saved, data, (guint)length);
    }
}

static Error *loaded(VirtioDevice *vdev)
{
    VirtioSerial *serial = of_vdev(vdev);
    g_autoptr(GByteArray) saved = g_steal_pointer(&serial->saved);

    g_queue_clear_full(&serial->pending, (GDestroyNotify)g_bytes_unref);
    for (size_t at = 0; saved && at < saved->len;) {
        size_t length = at + 2 <= saved->len ? ld16_le(saved->data + at) : 0;
        if (length < CONTROL || at + 2 + length > saved->len) {
            return error_new("%s: the saved control messages are damaged", device_label(&vdev->dev));
        }
        g_queue_push_tail(&serial->pending, g_bytes_new(saved->data + at + 2, length));
        at += 2 + length;
    }
    return NULL;
}

static Error *attach(Bus *bus, Device *dev);
static void detach(Bus *bus, Device *dev);
static const BusType serial_bus_type = { .name = "virtio-serial-bus", .attach = attach, .detach = detach };

static Error *plug(VirtioDevice *vdev)
{
    VirtioSerial *serial = of_vdev(vdev);

    if (serial->max_ports < 1 || serial->max_ports > PORTS_MAX) {
        return error_new("%s: max_ports must be 1 to %d", device_label(&vdev->dev), PORTS_MAX);
    }
    g_queue_init(&serial->pending);
    serial->ports_bus.serial = serial;
    bus_init(&serial->ports_bus.bus, &serial_bus_type, vdev->dev.machine, &vdev->dev, NULL);
    serial->ports_bus.bus.hotplug = true;
    vdev->host_features = BIT64(F_MULTIPORT);
    virtio_add_queue(vdev, QUEUE_SIZE, in_notified);
    virtio_add_queue(vdev, QUEUE_SIZE, out_notified);
    serial->ctrl_in = virtio_add_queue(vdev, 32, ctrl_in_notified);
    serial->ctrl_out = virtio_add_queue(vdev, 32, ctrl_out_notified);
    for (unsigned i = 1; i < serial->max_ports; i++) {
        virtio_add_queue(vdev, QUEUE_SIZE, in_notified);
        virtio_add_queue(vdev, QUEUE_SIZE, out_notified);
    }
    return NULL;
}

static void unplug(VirtioDevice *vdev)
{
    reset(vdev);
    g_clear_pointer(&of_vdev(vdev)->saved, g_byte_array_unref);
}

static const VirtioKind kind = { .name = "virtio-serial", .id = VIRTIO_ID_CONSOLE, .config_size = CONFIG, .vectors = 2, .plug = plug,
                                 .unplug = unplug, .reset = reset, .saving = saving, .loaded = loaded,
                                 .get_config = get_config };

static const Prop serial_props[] = {
    PROP_U32("max_ports", VirtioSerial, max_ports, PORTS_MAX, .help = "Ports that the bus has room for"),
    { 0 },
};
static const StateField serial_state[] = {
    VIRTIO_STATE(VirtioSerial),
    STATE_BOOL(VirtioSerial, driver_ready),
    STATE_NOT(VirtioSerial, ports_bus, "made by plug"), STATE_NOT(VirtioSerial, port, "they save themselves"),
    STATE_NOT(VirtioSerial, ctrl_in, "a queue"), STATE_NOT(VirtioSerial, ctrl_out, "a queue"),
    STATE_NOT(VirtioSerial, pending, "as saved"),
    STATE_BUFFER(VirtioSerial, saved, SAVED_MAX, 1),
    { 0 },
};
VIRTIO_PCI_DEVICE(virtio_serial, "virtio-serial", "virtio-serial", kind, VirtioSerial, serial_props, serial_state, DEV_INPUT,
                  "Virtio serial bus", virtio_pci_ident_console);

/* --- ports --- */

static Error *attach(Bus *bus, Device *dev)
{
    VirtioSerial *serial = container_of(bus, SerialBus, bus)->serial;
    SerialPort *port = container_of(dev, SerialPort, dev);
    uint32_t first = port->console ? 0 : 1; /* port 0 is for a console, as old drivers expect it */

    if (port->nr == NO_PORT) {
        for (port->nr = first; port->nr < serial->max_ports && serial->port[port->nr]; port->nr++) {
        }
    }
    if (port->nr >= serial->max_ports) {
        return error_new("%s: the bus '%s' has no port %u (max_ports=%u)", device_label(dev), bus->name, port->nr, serial->max_ports);
    }
    if (serial->port[port->nr]) {
        return error_new("%s: port %u of '%s' is taken", device_label(dev), port->nr, bus->name);
    }
    if (port->nr == 0 && !port->console) {
        return error_new("%s: port 0 is for a virtconsole", device_label(dev));
    }
    if (port->name && strlen(port->name) > NAME_MAX_BYTES) {
        return error_new("%s: the name of a port has at most %d bytes", device_label(dev), NAME_MAX_BYTES);
    }
    for (unsigned i = 0; port->name && i < PORTS_MAX; i++) {
        if (serial->port[i] && serial->port[i]->name && !strcmp(serial->port[i]->name, port->name)) {
            return error_new("%s: there is a port with the name '%s' already", device_label(dev), port->name);
        }
    }
    unsigned queue = port->nr == 0 ? 0 : 4 + 2 * (port->nr - 1);
    port->serial = serial;
    port->in = &serial->vdev.queue[queue];
    port->out = &serial->vdev.queue[queue + 1];
    serial->port[port->nr] = port;
    return NULL;
}

static void detach(Bus *bus, Device *dev)
{
    VirtioSerial *serial = container_of(bus, SerialBus, bus)->serial;
    SerialPort *port = container_of(dev, SerialPort, dev);
    if (port->held) {
        virtq_discard(port->held);
        port->held = NULL;
    }
    serial->port[port->nr] = NULL;
    send_control(serial, port->nr, DEVICE_REMOVE, 1, NULL);
}

static Error *port_plug(Device *dev)
{
    SerialPort *port = container_of(dev, SerialPort, dev);
    announce_port(port);
    port->host_open = !char_front_attached(&port->chr);
    char_front_open(&port->chr, &chr_ops, port);
    return NULL;
}

static void port_unplug(Device *dev)
{
    char_front_close(&container_of(dev, SerialPort, dev)->chr);
}

#define PORT_PROPS                                                                                 \
    PROP_CHARDEV("chardev", SerialPort, chr),                                                      \
    PROP_STR("name", SerialPort, name, .help = "Name that the guest finds the port by"),           \
    PROP_U32("nr", SerialPort, nr, NO_PORT, .help = "Port number; unset: the next free one")
static const Prop port_props[] = {
    PORT_PROPS,
    PROP_BOOL("console", SerialPort, console, false, .flags = PROP_HIDDEN),
    { 0 },
};
static const Prop console_props[] = {
    PORT_PROPS,
    PROP_BOOL("console", SerialPort, console, true, .flags = PROP_HIDDEN),
    { 0 },
};
static const StateField port_state[] = {
    STATE_BOOL(SerialPort, guest_open),
    STATE_NOT(SerialPort, serial, "the bus"),
    STATE_NOT(SerialPort, in, "a queue of the controller"),
    STATE_NOT(SerialPort, out, "a queue of the controller"),
    STATE_NOT(SerialPort, host_open, "the back end's"),
    STATE_NOT(SerialPort, held, "given back before saving"),
    STATE_INT(SerialPort, held_done),
    { 0 },
};

DEVICE_TYPE(virtserialport, DEVICE_OBJECT("virtserialport", SerialPort, port_props), .desc = "Port of a virtio serial bus",
            .category = DEV_INPUT, .bus = &serial_bus_type, .state = port_state, .hotplug = true, .plug = port_plug, .unplug = port_unplug);
DEVICE_TYPE(virtconsole, DEVICE_OBJECT("virtconsole", SerialPort, console_props), .desc = "Virtio console",
            .category = DEV_INPUT, .bus = &serial_bus_type, .state = port_state, .hotplug = true, .plug = port_plug, .unplug = port_unplug);
