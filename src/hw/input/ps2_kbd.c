/*
 * PS/2 keyboard: scan code sets 1, 2 and 3, all commands of the IBM PS/2 Technical Reference.
 *
 * Repeats come from the host, which sends a held key again and again; the typematic rate is kept but not
 * used. Not modelled: the shift codes that a keyboard adds around cursor keys while Num Lock is on.
 */
#include "hw/input/ps2.h"

enum { REPLY_ACK = 0xfa, REPLY_RESEND = 0xfe, REPLY_BAT_OK = 0xaa, REPLY_ECHO = 0xee };
enum { MOD_CTRL = 3, MOD_SHIFT = 12, MOD_ALT = 48 };
enum { KEY_MODE_BREAK = 1, KEY_MODE_TYPEMATIC = 2 };
/* Keys that find the queue this full are lost, as in a keyboard's own buffer; replies still fit. */
enum { KEY_LIMIT = 64 };

void ps2_port_reset(Ps2Port *port)
{
    port->head = port->count = 0;
}

void ps2_port_put_all(Ps2Port *port, const uint8_t *bytes, unsigned count)
{
    bool was_empty = port->count == 0;
    if (port->count + count > PS2_QUEUE) {
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        port->data[(port->head + port->count++) % PS2_QUEUE] = bytes[i];
    }
    if (was_empty) {
        port->ready(port->opaque);
    }
}

void ps2_port_put(Ps2Port *port, uint8_t byte)
{
    ps2_port_put_all(port, &byte, 1);
}

uint8_t ps2_port_get(Ps2Port *port)
{
    if (port->count) {
        port->last = port->data[port->head % PS2_QUEUE];
        port->head = (port->head + 1) % PS2_QUEUE;
        port->count--;
    }
    return port->last;
}

/* --- keys to scan codes --- */

static void put_bytes(Ps2Kbd *kbd, const uint8_t *bytes, unsigned count)
{
    if (kbd->port.count + count <= KEY_LIMIT) {
        ps2_port_put_all(&kbd->port, bytes, count);
    }
}

#define PUT(kbd, ...) put_bytes(kbd, (const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ }))

static void put_set1(Ps2Kbd *kbd, uint16_t code, bool down)
{
    uint8_t byte = down ? code & 0x7f : code | 0x80;
    if (code >> 8) {
        PUT(kbd, 0xe0, byte);
    } else {
        PUT(kbd, byte);
    }
}

static void put_set2(Ps2Kbd *kbd, uint16_t code, bool down)
{
    if (code >> 8) {
        if (down) {
            PUT(kbd, 0xe0, code & 0xff);
        } else {
            PUT(kbd, 0xe0, 0xf0, code & 0xff);
        }
    } else if (down) {
        PUT(kbd, code);
    } else {
        PUT(kbd, 0xf0, code);
    }
}

static void put_set3(Ps2Kbd *kbd, uint8_t code, bool down)
{
    if (down) {
        PUT(kbd, code);
    } else if (kbd->key_mode[code] & KEY_MODE_BREAK) {
        PUT(kbd, 0xf0, code);
    }
}

/* Pause has no break code; with Ctrl it is Break. */
static void put_pause(Ps2Kbd *kbd, bool down)
{
    if (!down) {
        return;
    }
    bool ctrl = kbd->modifiers & MOD_CTRL;
    if (kbd->scan_set == 1) {
        if (ctrl) {
            PUT(kbd, 0xe0, 0x46, 0xe0, 0xc6);
        } else {
            PUT(kbd, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
        }
    } else if (ctrl) {
        PUT(kbd, 0xe0, 0x7e, 0xe0, 0xf0, 0x7e);
    } else {
        PUT(kbd, 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
    }
}

/* Print Screen: SysRq with Alt; a bare code with Ctrl or Shift; else wrapped in a shift. */
static void put_print(Ps2Kbd *kbd, bool down)
{
    bool set1 = kbd->scan_set == 1;
    if (kbd->modifiers & MOD_ALT) {
        set1 ? put_set1(kbd, 0x54, down) : put_set2(kbd, 0x84, down);
    } else if (kbd->modifiers & (MOD_CTRL | MOD_SHIFT)) {
        set1 ? put_set1(kbd, 0xe037, down) : put_set2(kbd, 0xe07c, down);
    } else if (set1 && down) {
        PUT(kbd, 0xe0, 0x2a, 0xe0, 0x37);
    } else if (set1) {
        PUT(kbd, 0xe0, 0xb7, 0xe0, 0xaa);
    } else if (down) {
        PUT(kbd, 0xe0, 0x12, 0xe0, 0x7c);
    } else {
        PUT(kbd, 0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12);
    }
}

static void track_modifiers(Ps2Kbd *kbd, InputKey key, bool down)
{
    static const InputKey keys[] = { KEY_CTRL, KEY_CTRL_R, KEY_SHIFT, KEY_SHIFT_R, KEY_ALT, KEY_ALT_R };
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (keys[i] == key) {
            kbd->modifiers = down ? kbd->modifiers | BIT(i) : kbd->modifiers & ~BIT(i);
        }
    }
}

static void kbd_event(void *opaque, const InputEvent *event)
{
    Ps2Kbd *kbd = opaque;
    InputKey key = event->key.key;
    bool down = event->key.down;
    const InputKeyInfo *info = &input_keys[key];
    track_modifiers(kbd, key, down);
    if (down && kbd->machine->state == RUN_STATE_SUSPENDED) {
        machine_request_wakeup(kbd->machine, WAKE_OTHER);
    }
    if (!kbd->enabled) {
        return;
    }
    if (kbd->scan_set == 3) {
        if (info->set3) {
            put_set3(kbd, info->set3, down);
        }
    } else if (key == KEY_PAUSE) {
        put_pause(kbd, down);
    } else if (key == KEY_PRINT) {
        put_print(kbd, down);
    } else if (kbd->scan_set == 1) {
        put_set1(kbd, info->set1, down);
    } else if (info->set2) {
        put_set2(kbd, info->set2, down);
    }
}

/* --- commands --- */

static void kbd_defaults(Ps2Kbd *kbd)
{
    kbd->rate = 0x2b; /* 10.9 characters a second after 500 ms */
    kbd->scan_set = 2;
    memset(kbd->key_mode, KEY_MODE_TYPEMATIC, sizeof(kbd->key_mode));
    static const InputKey both[] = { KEY_CTRL, KEY_SHIFT, KEY_SHIFT_R, KEY_ALT, KEY_CAPS_LOCK };
    for (unsigned i = 0; i < ARRAY_SIZE(both); i++) {
        kbd->key_mode[input_keys[both[i]].set3] = KEY_MODE_BREAK;
    }
}

static void kbd_set_leds(Ps2Kbd *kbd, uint8_t leds)
{
    kbd->leds = leds & 7;
    input_set_leds(input_of(kbd->machine), kbd->leds);
}

void ps2_kbd_reset(Ps2Kbd *kbd)
{
    kbd->command = 0;
    kbd->modifiers = 0;
    kbd->enabled = true;
    ps2_port_reset(&kbd->port);
    kbd_defaults(kbd);
    kbd_set_leds(kbd, 0);
}

static void kbd_set_modes(Ps2Kbd *kbd, uint8_t command)
{
    static const uint8_t modes[] = { KEY_MODE_TYPEMATIC, KEY_MODE_BREAK, 0, KEY_MODE_TYPEMATIC | KEY_MODE_BREAK };
    memset(kbd->key_mode, modes[command - 0xf7], sizeof(kbd->key_mode));
}

/* The byte after a command that takes one. */
static void kbd_parameter(Ps2Kbd *kbd, uint8_t command, uint8_t value)
{
    switch (command) {
    case 0xed:
        kbd_set_leds(kbd, value);
        break;
    case 0xf0:
        if (value == 0) {
            ps2_port_put(&kbd->port, REPLY_ACK);
            ps2_port_put(&kbd->port, kbd->scan_set);
            return;
        }
        if (value > 3) {
            ps2_port_put(&kbd->port, REPLY_RESEND);
            return;
        }
        kbd->scan_set = value;
        break;
    case 0xf3:
        kbd->rate = value;
        break;
    case 0xfb:
        kbd->key_mode[value] = KEY_MODE_TYPEMATIC;
        break;
    case 0xfc:
        kbd->key_mode[value] = KEY_MODE_BREAK;
        break;
    default: /* 0xfd */
        kbd->key_mode[value] = 0;
        break;
    }
    ps2_port_put(&kbd->port, REPLY_ACK);
}

static void kbd_command(Ps2Kbd *kbd, uint8_t byte)
{
    Ps2Port *port = &kbd->port;
    switch (byte) {
    case 0xee:
        ps2_port_put(port, REPLY_ECHO);
        return;
    case 0xfe:
        ps2_port_put(port, port->last);
        return;
    case 0xff:
        ps2_kbd_reset(kbd);
        ps2_port_put(port, REPLY_ACK);
        ps2_port_put(port, REPLY_BAT_OK);
        return;
    case 0xed:
    case 0xf0:
    case 0xf3:
    case 0xfb ... 0xfd:
        kbd->command = byte;
        break;
    case 0xf2: /* identify */
        ps2_port_put(port, REPLY_ACK);
        ps2_port_put(port, 0xab);
        ps2_port_put(port, 0x83);
        return;
    case 0xf4:
        ps2_port_reset(port);
        kbd->enabled = true;
        break;
    case 0xf5:
        ps2_port_reset(port);
        kbd_defaults(kbd);
        kbd->enabled = false;
        break;
    case 0xf6:
        ps2_port_reset(port);
        kbd_defaults(kbd);
        kbd->enabled = true;
        break;
    case 0xf7 ... 0xfa:
        kbd_set_modes(kbd, byte);
        break;
    default:
        ps2_port_put(port, REPLY_RESEND);
        return;
    }
    ps2_port_put(port, REPLY_ACK);
}

void ps2_kbd_write(Ps2Kbd *kbd, uint8_t byte)
{
    uint8_t command = kbd->command;
    kbd->command = 0;
    /* A command byte instead of a parameter abandons the command before. */
    if (command && byte < 0xed) {
        kbd_parameter(kbd, command, byte);
    } else {
        kbd_command(kbd, byte);
    }
}

/* --- life --- */

static const InputHandlerOps kbd_ops = { .name = "QEMU PS/2 Keyboard", .mask = INPUT_MASK_KEY, .event = kbd_event };

void ps2_kbd_init(Ps2Kbd *kbd, Machine *machine, void (*ready)(void *opaque), void *opaque)
{
    kbd->machine = machine;
    kbd->port.ready = ready;
    kbd->port.opaque = opaque;
    input_handler_add(input_of(machine), &kbd->input, &kbd_ops, kbd);
    input_handler_activate(&kbd->input);
}

void ps2_kbd_fini(Ps2Kbd *kbd)
{
    input_handler_remove(&kbd->input);
}

const StateField ps2_port_state[] = {
    STATE_BYTES(Ps2Port, data),
    STATE_RANGE(Ps2Port, head, 0, PS2_QUEUE - 1),
    STATE_RANGE(Ps2Port, count, 0, PS2_QUEUE),
    STATE_U8(Ps2Port, last),
    STATE_NOT(Ps2Port, ready, "wiring"),
    STATE_NOT(Ps2Port, opaque, "wiring"),
    { 0 },
};

const StateField ps2_kbd_state[] = {
    STATE_STRUCT(Ps2Kbd, port, ps2_port_state),
    STATE_RANGE(Ps2Kbd, scan_set, 1, 3),
    STATE_U8(Ps2Kbd, command),
    STATE_U8(Ps2Kbd, rate),
    STATE_U8(Ps2Kbd, leds),
    STATE_BOOL(Ps2Kbd, enabled),
    STATE_U8(Ps2Kbd, modifiers),
    STATE_BYTES(Ps2Kbd, key_mode),
    STATE_NOT(Ps2Kbd, machine, "wiring"),
    STATE_NOT(Ps2Kbd, input, "host"),
    { 0 },
};
