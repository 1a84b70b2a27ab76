/*
 * Intel 8042 keyboard controller with a PS/2 auxiliary port (IBM PS/2 Technical Reference, keyboard and
 * auxiliary device controller; 8042AH data sheet), its keyboard and its mouse.
 *
 * The output buffer holds one byte; when the guest reads it, the next waiting byte moves up: first the
 * controller's own replies, then the keyboard's, then the mouse's. Bytes from the keyboard are translated
 * to set 1 while the command byte says so. The controller answers at once: IBF is never seen set.
 * Not modelled: security (passwords), keyboard lock.
 */
#include "bus/isa.h"
#include "hw/input/ps2.h"
#include "hw/misc/pc_lines.h"

enum { ST_OBF = 0x01, ST_SYS = 0x04, ST_COMMAND = 0x08, ST_UNLOCKED = 0x10, ST_AUX = 0x20 };
enum {
    CMD_KBD_INT = 0x01, CMD_AUX_INT = 0x02, CMD_SYS = 0x04, CMD_KBD_DISABLE = 0x10, CMD_AUX_DISABLE = 0x20,
    CMD_TRANSLATE = 0x40,
};
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_FULL = 0x10, OUT_AUX_FULL = 0x20 };
enum { RAM_BYTES = 32, REPLY_MAX = 4 };

/* Whose byte stands in the output buffer, and so which interrupt it raised. */
typedef enum Source { FROM_CONTROLLER, FROM_KBD, FROM_AUX } Source;

typedef struct I8042 {
    Device dev;
    uint8_t ram[RAM_BYTES];   /* byte 0 is the command byte */
    uint8_t command;          /* waits for its data byte; 0: none */
    bool wrote_command;       /* A2 of the last write */
    uint8_t output_port;
    bool full;                /* the output buffer holds a byte */
    uint8_t output, source;
    struct { uint8_t byte, source; } reply[REPLY_MAX];
    uint8_t replies;
    bool break_prefix;        /* translation saw 0xf0 */
    bool loading;
    Ps2Kbd kbd;
    Ps2Mouse mouse;
    uint32_t kbd_irq, mouse_irq;
    MemRegion data_port, command_port;
} I8042;

/* What the 8042 makes of set 2 codes 0..0x7f. */
static const uint8_t set2_to_set1[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

static void kbc_update_irqs(I8042 *kbc)
{
    bool aux = kbc->full && kbc->source == FROM_AUX;
    bool kbd = kbc->full && !aux;
    irq_set(isa_irq(&kbc->dev, kbc->kbd_irq), kbd && (kbc->ram[0] & CMD_KBD_INT));
    irq_set(isa_irq(&kbc->dev, kbc->mouse_irq), aux && (kbc->ram[0] & CMD_AUX_INT));
}

/* One byte from the keyboard; false when translation swallowed it. */
static bool kbc_translate(I8042 *kbc, uint8_t *byte)
{
    if (!(kbc->ram[0] & CMD_TRANSLATE)) {
        kbc->break_prefix = false;
        return true;
    }
    if (*byte == 0xf0) {
        kbc->break_prefix = true;
        return false;
    }
    uint8_t code = *byte < 0x80 ? set2_to_set1[*byte] : *byte == 0x83 ? 0x41 : *byte == 0x84 ? 0x54 : *byte;
    *byte = kbc->break_prefix ? code | 0x80 : code;
    kbc->break_prefix = false;
    return true;
}

static bool kbc_next(I8042 *kbc, uint8_t *ret_byte, uint8_t *ret_source)
{
    if (kbc->replies) {
        *ret_byte = kbc->reply[0].byte;
        *ret_source = kbc->reply[0].source;
        memmove(&kbc->reply[0], &kbc->reply[1], sizeof(kbc->reply) - sizeof(kbc->reply[0]));
        kbc->replies--;
        return true;
    }
    while (kbc->kbd.port.count && !(kbc->ram[0] & CMD_KBD_DISABLE)) {
        *ret_byte = ps2_port_get(&kbc->kbd.port);
        *ret_source = FROM_KBD;
        if (kbc_translate(kbc, ret_byte)) {
            return true;
        }
    }
    if (kbc->mouse.port.count && !(kbc->ram[0] & CMD_AUX_DISABLE)) {
        *ret_byte = ps2_port_get(&kbc->mouse.port);
        *ret_source = FROM_AUX;
        ps2_mouse_drained(&kbc->mouse);
        return true;
    }
    return false;
}

/* Fills an empty output buffer. Devices call it when they have something. */
static void kbc_load(void *opaque)
{
    I8042 *kbc = opaque;
    if (!kbc->full && !kbc->loading) {
        kbc->loading = true; /* the mouse may queue more while it is asked */
        kbc->full = kbc_next(kbc, &kbc->output, &kbc->source);
        kbc->loading = false;
    }
    kbc_update_irqs(kbc);
}

static void kbc_reply(I8042 *kbc, uint8_t byte, Source source)
{
    if (kbc->replies < REPLY_MAX) {
        kbc->reply[kbc->replies].byte = byte;
        kbc->reply[kbc->replies].source = source;
        kbc->replies++;
    }
    kbc_load(kbc);
}

static void kbc_set_output_port(I8042 *kbc, uint8_t value)
{
    uint8_t changed = kbc->output_port ^ value;
    kbc->output_port = value;
    if (changed & OUT_A20) {
        pc_set_a20(kbc->dev.machine, value & OUT_A20);
    }
    if (!(value & OUT_RESET)) {
        machine_request_reset(kbc->dev.machine, SHUTDOWN_GUEST_RESET);
    }
}

static uint8_t kbc_read_output_port(const I8042 *kbc)
{
    uint8_t value = kbc->output_port & ~(OUT_KBD_FULL | OUT_AUX_FULL);
    if (kbc->full) {
        value |= kbc->source == FROM_AUX ? OUT_AUX_FULL : OUT_KBD_FULL;
    }
    return value;
}

static void kbc_set_command_byte(I8042 *kbc, uint8_t value)
{
    kbc->ram[0] = value;
    kbc_load(kbc);
}

/* --- the command port --- */

static void kbc_command(I8042 *kbc, uint8_t command)
{
    kbc->command = 0;
    switch (command) {
    case 0x20 ... 0x3f:
        kbc_reply(kbc, kbc->ram[command & 31], FROM_CONTROLLER);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        kbc->command = command;
        break;
    case 0xa4: /* no password is installed */
        kbc_reply(kbc, 0xf1, FROM_CONTROLLER);
        break;
    case 0xa7:
        kbc_set_command_byte(kbc, kbc->ram[0] | CMD_AUX_DISABLE);
        break;
    case 0xa8:
        kbc_set_command_byte(kbc, kbc->ram[0] & ~CMD_AUX_DISABLE);
        break;
    case 0xa9: /* auxiliary and keyboard interface tests: lines are fine */
    case 0xab:
        kbc_reply(kbc, 0x00, FROM_CONTROLLER);
        break;
    case 0xaa:
        kbc->ram[0] |= CMD_SYS;
        kbc_reply(kbc, 0x55, FROM_CONTROLLER);
        break;
    case 0xad:
        kbc_set_command_byte(kbc, kbc->ram[0] | CMD_KBD_DISABLE);
        break;
    case 0xae:
        kbc_set_command_byte(kbc, kbc->ram[0] & ~CMD_KBD_DISABLE);
        break;
    case 0xc0: /* input port: not locked */
        kbc_reply(kbc, 0x80, FROM_CONTROLLER);
        break;
    case 0xd0:
        kbc_reply(kbc, kbc_read_output_port(kbc), FROM_CONTROLLER);
        break;
    case 0xdd:
        kbc_set_output_port(kbc, kbc->output_port & ~OUT_A20);
        break;
    case 0xdf:
        kbc_set_output_port(kbc, kbc->output_port | OUT_A20);
        break;
    case 0xe0: /* test inputs: both clocks high */
        kbc_reply(kbc, 0x03, FROM_CONTROLLER);
        break;
    case 0xf0 ... 0xff: /* pulses the output lines whose bit is 0 */
        if (!(command & OUT_RESET)) {
            machine_request_reset(kbc->dev.machine, SHUTDOWN_GUEST_RESET);
        }
        break;
    default:
        break;
    }
}

static void kbc_data(I8042 *kbc, uint8_t value)
{
    uint8_t command = kbc->command;
    kbc->command = 0;
    switch (command) {
    case 0x60:
        kbc_set_command_byte(kbc, value);
        break;
    case 0x61 ... 0x7f:
        kbc->ram[command & 31] = value;
        break;
    case 0xd1:
        kbc_set_output_port(kbc, value);
        break;
    case 0xd2:
        kbc_reply(kbc, value, FROM_KBD);
        break;
    case 0xd3:
        kbc_reply(kbc, value, FROM_AUX);
        break;
    case 0xd4:
        kbc->ram[0] &= ~CMD_AUX_DISABLE;
        ps2_mouse_write(&kbc->mouse, value);
        break;
    default: /* for the keyboard, whose interface this enables */
        kbc->ram[0] &= ~CMD_KBD_DISABLE;
        ps2_kbd_write(&kbc->kbd, value);
        break;
    }
    kbc_load(kbc);
}

static uint64_t data_read(void *opaque, uint64_t addr, unsigned size)
{
    I8042 *kbc = opaque;
    uint8_t value = kbc->output;
    kbc->full = false;
    kbc_update_irqs(kbc);
    kbc_load(kbc);
    return value;
}

static void data_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    I8042 *kbc = opaque;
    kbc->wrote_command = false;
    kbc_data(kbc, value);
}

static uint64_t status_read(void *opaque, uint64_t addr, unsigned size)
{
    I8042 *kbc = opaque;
    uint8_t value = ST_UNLOCKED | (kbc->ram[0] & CMD_SYS) | (kbc->wrote_command ? ST_COMMAND : 0);
    if (kbc->full) {
        value |= ST_OBF | (kbc->source == FROM_AUX ? ST_AUX : 0);
    }
    return value;
}

static void command_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    I8042 *kbc = opaque;
    kbc->wrote_command = true;
    kbc_command(kbc, value);
}

static const MemOps data_ops = { .read = data_read, .write = data_write, .max = 1 };
static const MemOps command_ops = { .read = status_read, .write = command_write, .max = 1 };

/* --- device --- */

static void i8042_gone(void *opaque)
{
    I8042 *kbc = opaque;
    ps2_kbd_fini(&kbc->kbd);
    ps2_mouse_fini(&kbc->mouse);
}

static Error *i8042_plug(Device *dev)
{
    I8042 *kbc = (I8042 *)dev;
    if (kbc->kbd_irq > 15 || kbc->mouse_irq > 15) {
        return error_new("%s: ISA interrupts are 0 to 15", device_label(dev));
    }
    device_region_io(dev, &kbc->data_port, "i8042.data", 1, &data_ops);
    device_region_io(dev, &kbc->command_port, "i8042.command", 1, &command_ops);
    isa_map_io(dev, &kbc->data_port, 0x60);
    isa_map_io(dev, &kbc->command_port, 0x64);
    ps2_kbd_init(&kbc->kbd, dev->machine, kbc_load, kbc);
    ps2_mouse_init(&kbc->mouse, dev->machine, kbc_load, kbc);
    device_on_unplug(dev, i8042_gone, kbc);
    return NULL;
}

static void i8042_reset(Device *dev)
{
    I8042 *kbc = (I8042 *)dev;
    memset(kbc->ram, 0, sizeof(kbc->ram));
    kbc->ram[0] = CMD_KBD_INT | CMD_AUX_INT;
    kbc->output_port = OUT_RESET | OUT_A20 | 0xcc;
    kbc->command = kbc->replies = 0;
    kbc->full = kbc->wrote_command = kbc->break_prefix = kbc->loading = false;
    ps2_kbd_reset(&kbc->kbd);
    ps2_mouse_reset(&kbc->mouse);
    kbc_update_irqs(kbc);
}

static const StateField state[] = {
    STATE_BYTES(I8042, ram),
    STATE_U8(I8042, command),
    STATE_BOOL(I8042, wrote_command),
    STATE_U8(I8042, output_port),
    STATE_BOOL(I8042, full),
    STATE_U8(I8042, output),
    STATE_RANGE(I8042, source, 0, 2),
    STATE_BYTES(I8042, reply),
    STATE_RANGE(I8042, replies, 0, REPLY_MAX),
    STATE_BOOL(I8042, break_prefix),
    STATE_NOT(I8042, loading, "only true within a call"),
    STATE_STRUCT(I8042, kbd, ps2_kbd_state),
    STATE_STRUCT(I8042, mouse, ps2_mouse_state),
    STATE_NOT(I8042, data_port, "fixed"),
    STATE_NOT(I8042, command_port, "fixed"),
    { 0 },
};

static const Prop props[] = {
    PROP_U32("kbd-irq", I8042, kbd_irq, 1, .help = "ISA interrupt of the keyboard"),
    PROP_U32("mouse-irq", I8042, mouse_irq, 12, .help = "ISA interrupt of the mouse"),
    { 0 },
};

DEVICE_TYPE(i8042, DEVICE_OBJECT("i8042", I8042, props), .desc = "8042 keyboard and mouse controller",
            .category = DEV_INPUT, .bus = &isa_bus_type, .state = state, .plug = i8042_plug, .reset = i8042_reset);
