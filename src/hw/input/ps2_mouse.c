/*
 * PS/2 mouse with the IntelliMouse wheel (id 3) and five-button (id 4) extensions: all commands, stream
 * and remote mode, wrap mode, 2:1 scaling. The sample rate is kept and reported; packets go out when
 * events come and the queue has room, whatever the rate.
 */
#include "hw/input/ps2.h"

enum { REPLY_ACK = 0xfa, REPLY_RESEND = 0xfe, REPLY_ERROR = 0xfc, REPLY_BAT_OK = 0xaa };
enum { PACKET_LIMIT = 24 };
enum { MOVE_MAX = 0x7fff };

static void mouse_defaults(Ps2Mouse *mouse)
{
    mouse->rate = 100;
    mouse->resolution = 2;
    mouse->enabled = mouse->remote = mouse->scaling = false;
}

void ps2_mouse_reset(Ps2Mouse *mouse)
{
    ps2_port_reset(&mouse->port);
    mouse_defaults(mouse);
    mouse->id = mouse->command = mouse->knock = 0;
    mouse->wrap = false;
    mouse->dx = mouse->dy = mouse->dz = 0;
    mouse->buttons = mouse->sent_buttons = 0;
}

/* 2:1 scaling of the data sheet. */
static int mouse_scale(int delta)
{
    static const int8_t small[] = { 0, 1, 1, 3, 6, 9 };
    int size = abs(delta);
    int scaled = size <= 5 ? small[size] : 2 * size;
    return CLAMP(delta < 0 ? -scaled : scaled, -255, 255);
}

static int take(int32_t *sum, int low, int high)
{
    int part = CLAMP(*sum, low, high);
    *sum -= part;
    return part;
}

static void mouse_put_packet(Ps2Mouse *mouse, bool scaling)
{
    int limit = scaling ? 127 : 255;
    int dx = take(&mouse->dx, -limit, limit), dy = take(&mouse->dy, -limit, limit);
    if (scaling) {
        dx = mouse_scale(dx);
        dy = mouse_scale(dy);
    }
    uint8_t packet[4] = { 0x08 | (mouse->buttons & 7) | (dx < 0) << 4 | (dy < 0) << 5, dx, dy };
    if (mouse->id == 3) {
        packet[3] = take(&mouse->dz, -127, 127);
    } else if (mouse->id == 4) {
        packet[3] = (take(&mouse->dz, -7, 7) & 15) | (mouse->buttons & 0x18) << 1;
    } else {
        mouse->dz = 0;
    }
    mouse->sent_buttons = mouse->buttons;
    ps2_port_put_all(&mouse->port, packet, mouse->id ? 4 : 3);
}

static bool mouse_has_news(const Ps2Mouse *mouse)
{
    return mouse->dx || mouse->dy || mouse->dz || mouse->buttons != mouse->sent_buttons;
}

void ps2_mouse_drained(Ps2Mouse *mouse)
{
    while (mouse->enabled && !mouse->remote && !mouse->wrap && mouse_has_news(mouse) &&
           mouse->port.count + 4 <= PACKET_LIMIT) {
        mouse_put_packet(mouse, mouse->scaling);
    }
}

/* --- events --- */

static void mouse_button(Ps2Mouse *mouse, InputButton button, bool down)
{
    static const uint8_t bits[INPUT_BTN_COUNT] = {
        [INPUT_BTN_LEFT] = 1, [INPUT_BTN_RIGHT] = 2, [INPUT_BTN_MIDDLE] = 4, [INPUT_BTN_SIDE] = 8, [INPUT_BTN_EXTRA] = 16,
    };
    if (bits[button]) {
        mouse->buttons = down ? mouse->buttons | bits[button] : mouse->buttons & ~bits[button];
    } else if (down && button == INPUT_BTN_WHEEL_UP) {
        mouse->dz--;
    } else if (down && button == INPUT_BTN_WHEEL_DOWN) {
        mouse->dz++;
    }
}

static void mouse_event(void *opaque, const InputEvent *event)
{
    Ps2Mouse *mouse = opaque;
    if (!mouse->enabled) {
        return;
    }
    if (event->kind == INPUT_EVENT_BTN) {
        mouse_button(mouse, event->btn.button, event->btn.down);
    } else {
        int32_t *sum = event->move.axis == INPUT_AXIS_X ? &mouse->dx : &mouse->dy;
        int delta = CLAMP(event->move.value, -MOVE_MAX, MOVE_MAX);
        /* A screen's y grows downwards, a mouse's away from the user. */
        *sum = CLAMP(*sum + (event->move.axis == INPUT_AXIS_X ? delta : -delta), -MOVE_MAX, MOVE_MAX);
    }
}

static void mouse_sync(void *opaque)
{
    Ps2Mouse *mouse = opaque;
    if (mouse->buttons && mouse->machine->state == RUN_STATE_SUSPENDED) {
        machine_request_wakeup(mouse->machine, WAKE_OTHER);
    }
    ps2_mouse_drained(mouse);
}

/* --- commands --- */

/* Setting the rate to 200, 100, 80 makes it a wheel mouse; 200, 200, 80 after that a five-button one. */
static void mouse_knock(Ps2Mouse *mouse, uint8_t rate)
{
    if (rate == 80 && mouse->knock == 2) {
        mouse->id = 3;
    } else if (rate == 80 && mouse->knock == 3 && mouse->id >= 3) {
        mouse->id = 4;
    }
    if (rate == 100 && mouse->knock == 1) {
        mouse->knock = 2;
    } else if (rate == 200) {
        mouse->knock = mouse->knock == 1 ? 3 : 1;
    } else {
        mouse->knock = 0;
    }
}

static void mouse_status(Ps2Mouse *mouse)
{
    Ps2Port *port = &mouse->port;
    uint8_t buttons = (mouse->buttons & 1) << 2 | (mouse->buttons & 2) >> 1 | (mouse->buttons & 4) >> 1;
    ps2_port_put(port, REPLY_ACK);
    ps2_port_put(port, mouse->remote << 6 | mouse->enabled << 5 | mouse->scaling << 4 | buttons);
    ps2_port_put(port, mouse->resolution);
    ps2_port_put(port, mouse->rate);
}

static void mouse_parameter(Ps2Mouse *mouse, uint8_t command, uint8_t value)
{
    if (command == 0xe8) {
        if (value > 3) {
            ps2_port_put(&mouse->port, REPLY_ERROR);
            return;
        }
        mouse->resolution = value;
    } else {
        mouse->rate = value;
        mouse_knock(mouse, value);
    }
    ps2_port_put(&mouse->port, REPLY_ACK);
}

static void mouse_command(Ps2Mouse *mouse, uint8_t byte)
{
    Ps2Port *port = &mouse->port;
    switch (byte) {
    case 0xe6:
    case 0xe7:
        mouse->scaling = byte == 0xe7;
        break;
    case 0xe8:
    case 0xf3:
        mouse->command = byte;
        break;
    case 0xe9:
        mouse_status(mouse);
        return;
    case 0xea:
        mouse->remote = false;
        break;
    case 0xeb:
        ps2_port_put(port, REPLY_ACK);
        mouse_put_packet(mouse, false);
        return;
    case 0xec:
        mouse->wrap = false;
        break;
    case 0xee:
        mouse->wrap = true;
        break;
    case 0xf0:
        mouse->remote = true;
        break;
    case 0xf2:
        ps2_port_put(port, REPLY_ACK);
        ps2_port_put(port, mouse->id);
        return;
    case 0xf4:
        mouse->enabled = true;
        break;
    case 0xf5:
        mouse->enabled = false;
        break;
    case 0xf6:
        mouse_defaults(mouse);
        break;
    case 0xfe:
        ps2_port_put(port, port->last);
        return;
    case 0xff:
        ps2_mouse_reset(mouse);
        ps2_port_put(port, REPLY_ACK);
        ps2_port_put(port, REPLY_BAT_OK);
        ps2_port_put(port, mouse->id);
        return;
    default:
        ps2_port_put(port, REPLY_RESEND);
        return;
    }
    ps2_port_put(port, REPLY_ACK);
}

void ps2_mouse_write(Ps2Mouse *mouse, uint8_t byte)
{
    uint8_t command = mouse->command;
    mouse->command = 0;
    if (command) {
        mouse_parameter(mouse, command, byte);
    } else if (mouse->wrap && byte != 0xec && byte != 0xff) {
        ps2_port_put(&mouse->port, byte);
    } else {
        mouse_command(mouse, byte);
    }
}

/* --- life --- */

static const InputHandlerOps mouse_ops = {
    .name = "QEMU PS/2 Mouse", .mask = INPUT_MASK_BTN | INPUT_MASK_REL, .event = mouse_event, .sync = mouse_sync,
};

void ps2_mouse_init(Ps2Mouse *mouse, Machine *machine, void (*ready)(void *opaque), void *opaque)
{
    mouse->machine = machine;
    mouse->port.ready = ready;
    mouse->port.opaque = opaque;
    input_handler_add(input_of(machine), &mouse->input, &mouse_ops, mouse);
}

void ps2_mouse_fini(Ps2Mouse *mouse)
{
    input_handler_remove(&mouse->input);
}

const StateField ps2_mouse_state[] = {
    STATE_STRUCT(Ps2Mouse, port, ps2_port_state),
    STATE_RANGE(Ps2Mouse, id, 0, 4),
    STATE_U8(Ps2Mouse, command),
    STATE_U8(Ps2Mouse, rate),
    STATE_U8(Ps2Mouse, resolution),
    STATE_U8(Ps2Mouse, knock),
    STATE_BOOL(Ps2Mouse, enabled),
    STATE_BOOL(Ps2Mouse, remote),
    STATE_BOOL(Ps2Mouse, wrap),
    STATE_BOOL(Ps2Mouse, scaling),
    STATE_U8(Ps2Mouse, buttons),
    STATE_U8(Ps2Mouse, sent_buttons),
    STATE_INT(Ps2Mouse, dx),
    STATE_INT(Ps2Mouse, dy),
    STATE_INT(Ps2Mouse, dz),
    STATE_NOT(Ps2Mouse, machine, "wiring"),
    STATE_NOT(Ps2Mouse, input, "host"),
    { 0 },
};
