/*
 * A 16550A at the ports of COM1 to COM4.
 */
#include "bus/isa.h"
#include "hw/char/uart16550.h"

enum { PORTS = 4 };
#define NEXT_SERVICE "isa-serial-next"

typedef struct IsaSerial {
    Device dev;
    Uart uart;
    uint32_t index, iobase, irq;
    uint8_t wakeup;
} IsaSerial;

static Error *isa_serial_plug(Device *dev)
{
    static const uint16_t iobase[PORTS] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
    static const uint8_t irq[PORTS] = { 4, 3, 4, 3 };
    IsaSerial *serial = (IsaSerial *)dev;
    if (!char_front_attached(&serial->uart.chr)) {
        return error_new("%s: needs a character device: give chardev=ID", device_label(dev));
    }
    if (serial->index == UINT32_MAX) {
        serial->index = GPOINTER_TO_UINT(machine_service(dev->machine, NEXT_SERVICE));
    }
    if (serial->index >= PORTS) {
        return error_new("%s: a PC has serial ports 0 to %d, there is no %u", device_label(dev), PORTS - 1, serial->index);
    }
    machine_set_service(dev->machine, NEXT_SERVICE, GUINT_TO_POINTER(serial->index + 1));
    if (serial->iobase == UINT32_MAX) {
        serial->iobase = iobase[serial->index];
    }
    if (serial->irq == UINT32_MAX) {
        serial->irq = irq[serial->index];
    }
    if (serial->iobase > 0x10000 - UART_PORTS || serial->irq > 15) {
        return error_new("%s: iobase is at most 0xfff8 and irq at most 15", device_label(dev));
    }
    serial->uart.wakes = serial->wakeup;
    uart_init(&serial->uart, dev, *isa_irq(dev, serial->irq));
    isa_map_io(dev, &serial->uart.ports, serial->iobase);
    return NULL;
}

static void isa_serial_reset(Device *dev)
{
    uart_reset(&((IsaSerial *)dev)->uart);
}

static Error *isa_serial_loaded(Device *dev)
{
    uart_loaded(&((IsaSerial *)dev)->uart);
    return NULL;
}

static const StateField state[] = {
    STATE_STRUCT(IsaSerial, uart, uart_state),
    { 0 },
};

static const Prop props[] = {
    PROP_U32("index", IsaSerial, index, UINT32_MAX, .help = "0 to 3: COM1 to COM4; default: the next free one"),
    PROP_U32("iobase", IsaSerial, iobase, UINT32_MAX, .help = "first port; default: by index"),
    PROP_U32("irq", IsaSerial, irq, UINT32_MAX, .help = "ISA interrupt; default: by index"),
    PROP_CHARDEV("chardev", IsaSerial, uart.chr, .help = "the line's other end"),
    PROP_U32("baudbase", IsaSerial, uart.baudbase, 115200, .help = "bits a second at divisor 1", .flags = PROP_HIDDEN),
    PROP_U8("wakeup", IsaSerial, wakeup, 0, .help = "input wakes a suspended machine"),
    { 0 },
};

static const IsaIdent ident = { .fw_name = "serial", .iobase = offsetof(IsaSerial, iobase) };

DEVICE_TYPE(isa_serial, DEVICE_OBJECT("isa-serial", IsaSerial, props), .desc = "16550A serial port",
            .category = DEV_INPUT, .bus = &isa_bus_type, .extra = &ident, .state = state, .plug = isa_serial_plug,
            .reset = isa_serial_reset, .loaded = isa_serial_loaded);
