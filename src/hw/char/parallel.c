/*
 * A parallel printer port in standard mode (IEEE 1284 compatibility mode): data, status, control. A byte
 * goes to the chardev when the guest strobes it; the printer then acknowledges at once.
 * Not modelled: EPP and ECP.
 */
#include "bus/isa.h"
#include "chardev/chardev.h"

enum { PORTS = 3 };
enum { S_ERROR = 0x08, S_SELECT = 0x10, S_PAPER_OUT = 0x20, S_ACK = 0x40, S_BUSY = 0x80 }; /* ERROR, ACK, BUSY: low when active */
enum { C_STROBE = 0x01, C_INIT = 0x04, C_IRQ = 0x10, C_REVERSE = 0x20 };
#define NEXT_SERVICE "isa-parallel-next"

typedef struct Parallel {
    Device dev;
    CharFront chr;
    uint8_t data, control, status;
    bool irq_pending;
    uint32_t index, iobase, irq;
    MemRegion ports;
} Parallel;

static void parallel_update_irq(Parallel *port)
{
    irq_set(isa_irq(&port->dev, port->irq), port->irq_pending);
}

/* The printer has the byte: BUSY falls and ACK pulses, which interrupts if the guest wants. */
static void parallel_send(Parallel *port)
{
    char_write_all(&port->chr, &port->data, 1);
    if (port->control & C_IRQ) {
        port->irq_pending = true;
    }
}

static uint64_t parallel_read(void *opaque, uint64_t addr, unsigned size)
{
    Parallel *port = opaque;
    switch (addr) {
    case 0:
        return port->control & C_REVERSE ? 0xff : port->data;
    case 1: {
        /* Each look finds the other level of ACK, so that polling drivers see its pulse. */
        uint8_t value = port->status;
        port->irq_pending = false;
        port->status ^= port->status & S_BUSY ? 0 : S_ACK;
        parallel_update_irq(port);
        return value;
    }
    case 2:
        return port->control | 0xc0;
    default:
        return 0xff;
    }
}

static void parallel_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Parallel *port = opaque;
    if (addr == 0) {
        port->data = value;
    } else if (addr == 2) {
        uint8_t old = port->control;
        port->control = value & 0x3f;
        if (!(value & C_INIT)) {
            port->status = S_ERROR | S_SELECT | S_ACK | S_BUSY;
        } else if ((value & C_STROBE) && !(old & C_STROBE)) {
            port->status &= ~S_BUSY;
        } else if (!(value & C_STROBE) && (old & C_STROBE)) {
            port->status |= S_BUSY | S_ACK;
            parallel_send(port);
        }
    }
    parallel_update_irq(port);
}

static const MemOps ops = { .read = parallel_read, .write = parallel_write, .max = 1 };
static const CharFrontOps front = { .can_receive = NULL };

static void parallel_gone(void *opaque)
{
    char_front_close(&((Parallel *)opaque)->chr);
}

static Error *parallel_plug(Device *dev)
{
    static const uint16_t iobase[PORTS] = { 0x378, 0x278, 0x3bc };
    Parallel *port = (Parallel *)dev;
    if (!char_front_attached(&port->chr)) {
        return error_new("%s: needs a character device: give chardev=ID", device_label(dev));
    }
    if (port->index == UINT32_MAX) {
        port->index = GPOINTER_TO_UINT(machine_service(dev->machine, NEXT_SERVICE));
    }
    if (port->index >= PORTS) {
        return error_new("%s: a PC has parallel ports 0 to %d, there is no %u", device_label(dev), PORTS - 1, port->index);
    }
    machine_set_service(dev->machine, NEXT_SERVICE, GUINT_TO_POINTER(port->index + 1));
    if (port->iobase == UINT32_MAX) {
        port->iobase = iobase[port->index];
    }
    if (port->iobase > 0xfffc || port->irq > 15) {
        return error_new("%s: iobase is at most 0xfffc and irq at most 15", device_label(dev));
    }
    device_region_io(dev, &port->ports, "parallel", 3, &ops);
    isa_map_io(dev, &port->ports, port->iobase);
    char_front_open(&port->chr, &front, port);
    device_on_unplug(dev, parallel_gone, port);
    return NULL;
}

static void parallel_reset(Device *dev)
{
    Parallel *port = (Parallel *)dev;
    port->data = 0xff;
    port->control = C_INIT | 0x08;
    port->status = S_ERROR | S_SELECT | S_ACK | S_BUSY;
    port->irq_pending = false;
    parallel_update_irq(port);
}

static const StateField state[] = {
    STATE_U8(Parallel, data), STATE_U8(Parallel, control), STATE_U8(Parallel, status), STATE_BOOL(Parallel, irq_pending),
    STATE_NOT(Parallel, ports, "fixed"),
    { 0 },
};

static const Prop props[] = {
    PROP_U32("index", Parallel, index, UINT32_MAX, .help = "0 to 2: LPT1 to LPT3; default: the next free one"),
    PROP_U32("iobase", Parallel, iobase, UINT32_MAX, .help = "first port; default: by index"),
    PROP_U32("irq", Parallel, irq, 7, .help = "ISA interrupt"),
    PROP_CHARDEV("chardev", Parallel, chr, .help = "the printer"),
    { 0 },
};

static const IsaIdent ident = { .fw_name = "parallel", .iobase = offsetof(Parallel, iobase) };

DEVICE_TYPE(parallel, DEVICE_OBJECT("isa-parallel", Parallel, props), .desc = "Parallel printer port",
            .category = DEV_INPUT, .bus = &isa_bus_type, .extra = &ident, .state = state, .plug = parallel_plug,
            .reset = parallel_reset);
