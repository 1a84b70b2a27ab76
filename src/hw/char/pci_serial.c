/*
 * 16550A ports on PCI: one, two or four in BAR 0, eight I/O ports each, sharing INTA
 * (docs/specs/pci-serial of the interface; drivers find them by their class).
 */
#include "bus/pci.h"
#include "hw/char/uart16550.h"

enum { PORTS_MAX = 4 };

typedef struct PciSerial {
    PciDevice pci;
    Uart uart[PORTS_MAX];
    uint8_t prog_if;
    uint8_t levels;   /* of the ports' interrupts */
    MemRegion bar;
} PciSerial;

static unsigned serial_ports(const PciSerial *serial)
{
    static const uint8_t ports[] = { 1, 2, 4 };
    return ports[device_type(&serial->pci.dev)->pci->device - 2];
}

static void serial_irq(void *opaque, int n, int level)
{
    PciSerial *serial = opaque;
    serial->levels = level ? serial->levels | BIT(n) : serial->levels & ~BIT(n);
    pci_set_irq(&serial->pci, serial->levels != 0);
}

static Error *pci_serial_plug(Device *dev)
{
    PciSerial *serial = container_of(dev, PciSerial, pci.dev);
    unsigned ports = serial_ports(serial);
    mem_region_init(&serial->bar, dev->machine->mem, "pci-serial", UART_PORTS * ports);
    device_region_own(dev, &serial->bar);
    for (unsigned n = 0; n < ports; n++) {
        if (!char_front_attached(&serial->uart[n].chr)) {
            return error_new("%s: port %u needs a character device: give chardev%s", device_label(dev), n + 1,
                             ports == 1 ? "=ID" : "1=ID, chardev2=ID, ...");
        }
        serial->uart[n].baudbase = 115200;
        uart_init(&serial->uart[n], dev, (IrqLine) { serial_irq, serial, (int)n });
        mem_region_map(&serial->bar, n * UART_PORTS, &serial->uart[n].ports, 0);
    }
    serial->pci.config[PCI_CLASS_PROG] = serial->prog_if;
    pci_bar(&serial->pci, 0, PCI_BAR_IO, &serial->bar);
    return NULL;
}

static void pci_serial_reset(Device *dev)
{
    PciSerial *serial = container_of(dev, PciSerial, pci.dev);
    for (unsigned n = 0; n < serial_ports(serial); n++) {
        uart_reset(&serial->uart[n]);
    }
}

static Error *pci_serial_loaded(Device *dev)
{
    PciSerial *serial = container_of(dev, PciSerial, pci.dev);
    for (unsigned n = 0; n < serial_ports(serial); n++) {
        uart_loaded(&serial->uart[n]);
    }
    return NULL;
}

static const StateField state[] = {
    STATE_STRUCT_ARRAY(PciSerial, uart, uart_state),
    STATE_U8(PciSerial, levels),
    STATE_NOT(PciSerial, bar, "fixed"),
    { 0 },
};

#define COMMON_PROPS PROP_U8("prog_if", PciSerial, prog_if, 0x02, .help = "programming interface of the class code")

static const Prop props_1[] = { PROP_CHARDEV("chardev", PciSerial, uart[0].chr), COMMON_PROPS, { 0 } };
static const Prop props_2[] = {
    PROP_CHARDEV("chardev1", PciSerial, uart[0].chr), PROP_CHARDEV("chardev2", PciSerial, uart[1].chr), COMMON_PROPS, { 0 },
};
static const Prop props_4[] = {
    PROP_CHARDEV("chardev1", PciSerial, uart[0].chr), PROP_CHARDEV("chardev2", PciSerial, uart[1].chr),
    PROP_CHARDEV("chardev3", PciSerial, uart[2].chr), PROP_CHARDEV("chardev4", PciSerial, uart[3].chr), COMMON_PROPS, { 0 },
};

#define IDENT(id)                                                                                  \
    { .vendor = 0x1b36, .device = id, .class_code = 0x070002, .revision = 1, .interrupt_pin = 1 }
static const PciIdent ident_1 = IDENT(0x0002), ident_2 = IDENT(0x0003), ident_4 = IDENT(0x0004);

#define PCI_SERIAL(ident, nm, table, id, text)                                                     \
    DEVICE_TYPE(ident, PCI_DEVICE_OBJECT(nm, PciSerial, table), .desc = text, .category = DEV_INPUT, \
                .bus = &pci_bus_type, .pci = id, .state = state, .plug = pci_serial_plug,          \
                .reset = pci_serial_reset, .loaded = pci_serial_loaded)
PCI_SERIAL(pci_serial, "pci-serial", props_1, &ident_1, "16550A serial port");
PCI_SERIAL(pci_serial_2x, "pci-serial-2x", props_2, &ident_2, "two 16550A serial ports");
PCI_SERIAL(pci_serial_4x, "pci-serial-4x", props_4, &ident_4, "four 16550A serial ports");
