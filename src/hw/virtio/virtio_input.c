/*
 * virtio-input (virtio 1.2, 5.8): a keyboard, a mouse and a tablet. Events are those of Linux's evdev (type, code, value);
 * the driver learns from the configuration space which ones there are. A group of events for which the driver left no room is
 * dropped whole.
 */
#include <string.h>

#include "base/endian.h"
#include "bus/virtio.h"
#include "input/input.h"

enum { CFG_ID_NAME = 0x01, CFG_ID_SERIAL = 0x02, CFG_ID_DEVIDS = 0x03, CFG_PROP_BITS = 0x10, CFG_EV_BITS = 0x11, CFG_ABS_INFO = 0x12 };
enum { CONFIG_SELECT = 0, CONFIG_SUBSEL = 1, CONFIG_DATA_SIZE = 2, CONFIG_DATA = 8, DATA_MAX = 128, CONFIG_SIZE = CONFIG_DATA + DATA_MAX };
/* evdev */
enum { EV_SYN = 0x00, EV_KEY = 0x01, EV_REL = 0x02, EV_ABS = 0x03, EV_LED = 0x11, EV_REP = 0x14 };
enum { REL_X = 0, REL_Y = 1, REL_HWHEEL = 6, REL_WHEEL = 8, ABS_X = 0, ABS_Y = 1, LED_NUML = 0, LED_CAPSL = 1, LED_SCROLLL = 2 };
enum { BTN_LEFT = 0x110, BTN_RIGHT, BTN_MIDDLE, BTN_SIDE, BTN_EXTRA, BTN_TOUCH = 0x14a, BTN_GEAR_DOWN = 0x150, BTN_GEAR_UP = 0x151 };
enum { BUS_VIRTUAL = 0x06, VENDOR = 0x0627 };
enum { GROUP_MAX = 32, EVENT_BYTES = 8, QUEUE_SIZE = 64, STATUS_BUDGET = 256 };

typedef struct VirtioInputEvent {
    uint16_t type, code;
    uint32_t value;
} VirtioInputEvent;

typedef struct VirtioInput {
    VirtioDevice vdev;
    char *serial;
    bool wheel_axis;
    uint8_t select, subsel;
    uint8_t leds; /* BIT(LED_*) */
    InputHandler handler;
    Virtqueue *events;
    VirtioInputEvent group[GROUP_MAX]; /* what came since the last sync */
    unsigned count;
    bool lost; /* more came than there is room for */
    bool active;
} VirtioInput;

typedef struct VirtioInputKind {
    VirtioKind kind;
    const char *name;
    uint16_t product;
    bool keys, relative, absolute;
    InputHandlerOps ops;
} VirtioInputKind;

static VirtioInput *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioInput, vdev);
}

static const VirtioInputKind *kind_of(const VirtioInput *in)
{
    return container_of(in->vdev.kind, VirtioInputKind, kind);
}

/* --- the configuration space --- */

static uint8_t set_bit(uint8_t *bits, unsigned bit, uint8_t size)
{
    bits[bit / 8] |= (uint8_t)(1 << bit % 8);
    return (uint8_t)MAX(size, bit / 8 + 1);
}

static uint16_t button_code(const VirtioInput *in, InputButton button)
{
    static const uint16_t codes[INPUT_BTN_COUNT] = {
        [INPUT_BTN_LEFT] = BTN_LEFT, [INPUT_BTN_RIGHT] = BTN_RIGHT, [INPUT_BTN_MIDDLE] = BTN_MIDDLE, [INPUT_BTN_SIDE] = BTN_SIDE,
        [INPUT_BTN_EXTRA] = BTN_EXTRA, [INPUT_BTN_TOUCH] = BTN_TOUCH,
    };
    if (!in->wheel_axis && button == INPUT_BTN_WHEEL_UP) {
        return BTN_GEAR_UP;
    }
    return !in->wheel_axis && button == INPUT_BTN_WHEEL_DOWN ? BTN_GEAR_DOWN : codes[button];
}

static uint8_t key_bits(const VirtioInput *in, uint8_t *bits)
{
    const VirtioInputKind *kind = kind_of(in);
    uint8_t size = 0;

    for (unsigned key = 1; kind->keys && key < KEY_COUNT; key++) {
        if (input_keys[key].evdev && input_keys[key].evdev < DATA_MAX * 8) {
            size = set_bit(bits, input_keys[key].evdev, size);
        }
    }
    for (unsigned button = 0; !kind->keys && button < INPUT_BTN_COUNT; button++) {
        uint16_t code = button_code(in, button);
        if (code && (code != BTN_TOUCH || kind->absolute)) {
            size = set_bit(bits, code, size);
        }
    }
    return size;
}

/* The events of a type; the number of bytes that hold bits. */
static uint8_t event_bits(const VirtioInput *in, uint8_t type, uint8_t *bits)
{
    const VirtioInputKind *kind = kind_of(in);
    uint8_t size = 0;

    switch (type) {
    case EV_KEY:
        return key_bits(in, bits);
    case EV_REL:
        if (kind->relative) {
            size = set_bit(bits, REL_X, size);
            size = set_bit(bits, REL_Y, size);
        }
        if (!kind->keys && in->wheel_axis) {
            size = set_bit(bits, REL_HWHEEL, size);
            size = set_bit(bits, REL_WHEEL, size);
        }
        return size;
    case EV_ABS:
        return kind->absolute ? set_bit(bits, ABS_Y, set_bit(bits, ABS_X, 0)) : 0;
    case EV_REP: /* the driver repeats keys by itself */
        return kind->keys ? 1 : 0;
    case EV_LED:
        return kind->keys ? set_bit(bits, LED_SCROLLL, set_bit(bits, LED_CAPSL, set_bit(bits, LED_NUML, 0))) : 0;
    default:
        return 0;
    }
}

static uint8_t put_text(uint8_t *data, const char *text)
{
    size_t length = text ? MIN(strlen(text), (size_t)DATA_MAX) : 0;
    memcpy(data, text ? text : "", length);
    return (uint8_t)length;
}

static uint8_t selected(const VirtioInput *in, uint8_t *data)
{
    const VirtioInputKind *kind = kind_of(in);

    if (in->select != CFG_EV_BITS && in->select != CFG_ABS_INFO && in->subsel) {
        return 0;
    }
    switch (in->select) {
    case CFG_ID_NAME:
        return put_text(data, kind->name);
    case CFG_ID_SERIAL:
        return put_text(data, in->serial);
    case CFG_ID_DEVIDS:
        st16_le(data, BUS_VIRTUAL);
        st16_le(data + 2, VENDOR);
        st16_le(data + 4, kind->product);
        st16_le(data + 6, 1);
        return 8;
    case CFG_EV_BITS:
        return event_bits(in, in->subsel, data);
    case CFG_ABS_INFO:
        if (!kind->absolute || in->subsel > ABS_Y) {
            return 0;
        }
        st32_le(data + 4, INPUT_ABS_MAX); /* from 0; fuzz, flat and resolution unknown */
        return 20;
    default:
        return 0;
    }
}

static void get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioInput *in = of_vdev(vdev);

    memset(config, 0, CONFIG_SIZE);
    config[CONFIG_SELECT] = in->select;
    config[CONFIG_SUBSEL] = in->subsel;
    config[CONFIG_DATA_SIZE] = selected(in, config + CONFIG_DATA);
}

static void config_written(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    VirtioInput *in = of_vdev(vdev);

    if (offset == CONFIG_SELECT) {
        in->select = vdev->config[CONFIG_SELECT];
    }
    if (offset <= CONFIG_SUBSEL && offset + size > CONFIG_SUBSEL) {
        in->subsel = vdev->config[CONFIG_SUBSEL];
    }
}

/* --- events to the driver --- */

static void put(VirtioInput *in, uint16_t type, uint16_t code, uint32_t value)
{
    if (in->count == GROUP_MAX) {
        in->lost = true;
        return;
    }
    in->group[in->count++] = (VirtioInputEvent){ type, code, value };
}

static void put_button(VirtioInput *in, InputButton button, bool down)
{
    uint16_t code = button_code(in, button);

    if (code) {
        put(in, EV_KEY, code, down);
    } else if (down && in->wheel_axis) {
        bool sideways = button == INPUT_BTN_WHEEL_LEFT || button == INPUT_BTN_WHEEL_RIGHT;
        bool forward = button == INPUT_BTN_WHEEL_UP || button == INPUT_BTN_WHEEL_RIGHT;
        put(in, EV_REL, sideways ? REL_HWHEEL : REL_WHEEL, forward ? 1 : UINT32_MAX);
    }
}

static void take_event(void *opaque, const InputEvent *event)
{
    VirtioInput *in = opaque;

    switch (event->kind) {
    case INPUT_EVENT_KEY:
        if (event->key.key < KEY_COUNT && input_keys[event->key.key].evdev) {
            put(in, EV_KEY, input_keys[event->key.key].evdev, event->key.down);
        }
        break;
    case INPUT_EVENT_BTN:
        put_button(in, event->btn.button, event->btn.down);
        break;
    case INPUT_EVENT_REL:
        put(in, EV_REL, event->move.axis == INPUT_AXIS_X ? REL_X : REL_Y, (uint32_t)event->move.value);
        break;
    case INPUT_EVENT_ABS:
        put(in, EV_ABS, event->move.axis == INPUT_AXIS_X ? ABS_X : ABS_Y, (uint32_t)event->move.value);
        break;
    }
}

/* Fills a buffer of the driver with each event, or gives all buffers back. */
static void send_group(VirtioInput *in)
{
    VirtqElement *elems[GROUP_MAX];
    unsigned have = 0;

    while (have < in->count && (elems[have] = virtq_pop(in->events, sizeof(VirtqElement)))) {
        have++;
    }
    if (have < in->count) {
        while (have) {
            virtq_unpop(elems[--have]);
        }
        return;
    }
    for (unsigned i = 0; i < have; i++) {
        uint8_t bytes[EVENT_BYTES];
        st16_le(bytes, in->group[i].type);
        st16_le(bytes + 2, in->group[i].code);
        st32_le(bytes + 4, in->group[i].value);
        virtq_push(elems[i], (uint32_t)iov_from_buf(elems[i]->in, elems[i]->in_count, 0, bytes, sizeof(bytes)));
    }
    virtq_notify(in->events);
}

static void take_sync(void *opaque)
{
    VirtioInput *in = opaque;

    if (in->count) {
        put(in, EV_SYN, 0, 0);
    }
    if (in->count && !in->lost && virtio_ready(&in->vdev)) {
        send_group(in);
    }
    in->count = 0;
    in->lost = false;
}

/* --- queues --- */

static void set_active(VirtioInput *in)
{
    bool active = virtio_ready(&in->vdev);

    if (active && !in->active) {
        input_handler_activate(&in->handler);
    } else if (!active && in->active) {
        input_handler_deactivate(&in->handler);
    }
    in->active = active;
}

/* Buffers for events to come. A machine whose state was loaded comes here, too. */
static void events_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    set_active(of_vdev(vdev));
}

static void take_led(VirtioInput *in, const uint8_t bytes[EVENT_BYTES])
{
    uint16_t code = ld16_le(bytes + 2);

    if (ld16_le(bytes) == EV_LED && code <= LED_SCROLLL && kind_of(in)->keys) {
        in->leds = (uint8_t)(ld32_le(bytes + 4) ? in->leds | BIT(code) : in->leds & ~BIT(code));
        input_set_leds(in->handler.input, (in->leds & BIT(LED_NUML) ? INPUT_LED_NUM : 0) | (in->leds & BIT(LED_CAPSL) ? INPUT_LED_CAPS : 0) |
                                              (in->leds & BIT(LED_SCROLLL) ? INPUT_LED_SCROLL : 0));
    }
}

static void status_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtqElement *elem;

    for (unsigned n = 0; n < STATUS_BUDGET && (elem = virtq_pop(vq, sizeof(*elem))); n++) {
        uint8_t bytes[EVENT_BYTES];
        if (iov_to_buf(elem->out, elem->out_count, 0, bytes, sizeof(bytes)) == sizeof(bytes)) {
            take_led(of_vdev(vdev), bytes);
        }
        virtq_push(elem, 0);
    }
    virtq_notify(vq);
}

/* --- life --- */

/* The device gets the events once a driver runs it. */
static void status_changed(VirtioDevice *vdev, uint8_t old)
{
    set_active(of_vdev(vdev));
}

static void reset(VirtioDevice *vdev)
{
    VirtioInput *in = of_vdev(vdev);

    in->select = in->subsel = in->leds = 0;
    in->count = 0;
    in->lost = false;
    set_active(in);
}

static Error *plug(VirtioDevice *vdev)
{
    VirtioInput *in = of_vdev(vdev);

    if (in->serial && strlen(in->serial) > DATA_MAX) {
        return error_new("%s: the serial is longer than %d bytes", device_label(&vdev->dev), DATA_MAX);
    }
    in->events = virtio_add_queue(vdev, QUEUE_SIZE, events_notified);
    virtio_add_queue(vdev, QUEUE_SIZE, status_notified);
    input_handler_add(input_of(vdev->dev.machine), &in->handler, &kind_of(in)->ops, in);
    return NULL;
}

static void unplug(VirtioDevice *vdev)
{
    input_handler_remove(&of_vdev(vdev)->handler);
}

#define INPUT_KIND(name_, product_, mask_, ...)                                                    \
    { .kind = { .name = "virtio-input", .id = VIRTIO_ID_INPUT, .config_size = CONFIG_SIZE, .vectors = 2, .modern_only = true, .plug = plug, \
                .unplug = unplug, .reset = reset, .get_config = get_config, .config_written = config_written,  \
                .status_changed = status_changed },                                                \
      .name = name_, .product = product_, .ops = { .name = name_, .mask = mask_, .event = take_event, .sync = take_sync }, __VA_ARGS__ }
static const VirtioInputKind keyboard = INPUT_KIND("QEMU Virtio Keyboard", 1, INPUT_MASK_KEY, .keys = true);
static const VirtioInputKind mouse = INPUT_KIND("QEMU Virtio Mouse", 2, INPUT_MASK_BTN | INPUT_MASK_REL, .relative = true);
static const VirtioInputKind tablet = INPUT_KIND("QEMU Virtio Tablet", 3, INPUT_MASK_BTN | INPUT_MASK_ABS, .absolute = true);

#define SERIAL_PROP PROP_STR("serial", VirtioInput, serial, .help = "serial number that the guest sees")
static const Prop keyboard_props[] = { SERIAL_PROP, { 0 } };
static const Prop pointer_props[] = {
    SERIAL_PROP,
    PROP_BOOL("wheel-axis", VirtioInput, wheel_axis, true, .help = "the wheel is an axis; off: two buttons"),
    { 0 },
};
static const StateField state[] = {
    VIRTIO_STATE(VirtioInput), STATE_U8(VirtioInput, select), STATE_U8(VirtioInput, subsel), STATE_RANGE(VirtioInput, leds, 0, 7),
    STATE_NOT(VirtioInput, handler, "host"), STATE_NOT(VirtioInput, events, "a queue"),
    STATE_NOT(VirtioInput, group, "not sent until it is complete"), STATE_NOT(VirtioInput, count, "as group"),
    STATE_NOT(VirtioInput, lost, "as group"), STATE_NOT(VirtioInput, active, "looked up when the machine runs"), { 0 },
};

VIRTIO_PCI_TYPE_(virtio_keyboard, "virtio-keyboard-pci", "virtio-keyboard", keyboard.kind, VirtioInput, keyboard_props, state, DEV_INPUT,
                 "Virtio keyboard", virtio_pci_ident_keyboard);
VIRTIO_PCI_TYPE_(virtio_mouse, "virtio-mouse-pci", "virtio-mouse", mouse.kind, VirtioInput, pointer_props, state, DEV_INPUT,
                 "Virtio mouse", virtio_pci_ident_mouse);
VIRTIO_PCI_TYPE_(virtio_tablet, "virtio-tablet-pci", "virtio-tablet", tablet.kind, VirtioInput, pointer_props, state, DEV_INPUT,
                 "Virtio tablet", virtio_pci_ident_tablet);
