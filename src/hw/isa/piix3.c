/*
 * Intel 82371SB (PIIX3), function 0: PCI-to-ISA bridge, PCI interrupt steering, reset control.
 *
 * 82371SB data sheet (order number 290550), 2.2: registers of function 0; 2.5.5: reset control register.
 * PIRQ[A:D]# join the ISA interrupts of the same number: an interrupt input is high while either side
 * drives it.
 * Missing: positive decode and chip select registers (stored, without effect), APM timers.
 */
#include "base/endian.h"
#include "hw/isa/piix.h"
#include "hw/pci_host/config_ports.h"

enum { PIRQRC = 0x60, PIRQRC_DISABLE = 0x80 };
enum { RC_RCPU = 0x04, RC_SRST = 0x02 };

typedef struct Piix3 {
    PciDevice pci;
    IsaBus isa;
    IrqLine gsi[16];
    uint16_t isa_level, pci_level; /* of each interrupt */
    uint8_t pirq_level;            /* of PIRQA..D */
    uint8_t reset_control;
    PciResetPort reset_port;
} Piix3;

/* --- interrupts --- */

static void drive(Piix3 *piix, unsigned n)
{
    irq_set(&piix->gsi[n], ((piix->isa_level | piix->pci_level) >> n) & 1);
}

static void isa_irq_set(void *opaque, int n, int level)
{
    Piix3 *piix = opaque;
    piix->isa_level = (piix->isa_level & ~BIT(n)) | (level ? BIT(n) : 0);
    drive(piix, n);
}

/* Routes all four PIRQs anew. */
static void update_pirqs(Piix3 *piix)
{
    uint16_t old = piix->pci_level, level = 0;
    for (unsigned pirq = 0; pirq < 4; pirq++) {
        uint8_t route = piix->pci.config[PIRQRC + pirq];
        if ((piix->pirq_level & BIT(pirq)) && !(route & PIRQRC_DISABLE)) {
            level |= BIT(route & 15);
        }
    }
    piix->pci_level = level;
    for (unsigned n = 0; n < 16; n++) {
        if ((old ^ level) & BIT(n)) {
            drive(piix, n);
        }
    }
}

/* The board's wiring: INTA of slot 1 is PIRQA, and each further slot rotates by one. */
static unsigned map_irq(void *opaque, PciDevice *pci, unsigned pin)
{
    return (pin + PCI_SLOT(pci->devfn) - 1) & 3;
}

static void set_pirq(void *opaque, unsigned pirq, int level)
{
    Piix3 *piix = opaque;
    piix->pirq_level = (piix->pirq_level & ~BIT(pirq)) | (level ? BIT(pirq) : 0);
    update_pirqs(piix);
}

/* --- reset control, port 0xcf9 --- */

static uint8_t reset_control_read(void *opaque)
{
    return ((Piix3 *)opaque)->reset_control;
}

static void reset_control_write(void *opaque, uint8_t value)
{
    Piix3 *piix = opaque;
    /* The reset happens when RCPU goes from 0 to 1. */
    if ((value & RC_RCPU) && !(piix->reset_control & RC_RCPU)) {
        machine_request_reset(piix->pci.dev.machine, SHUTDOWN_GUEST_RESET);
    }
    piix->reset_control = value & RC_SRST;
}

/* --- the function --- */

static void piix3_config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    if (addr < PIRQRC + 4 && PIRQRC < addr + size) {
        update_pirqs(container_of(pci, Piix3, pci));
    }
}

static void piix3_reset(Device *dev)
{
    static const uint8_t defaults[][2] = {
        { 0x4c, 0x4d }, /* IORT: ISA I/O recovery timer */
        { 0x4e, 0x03 }, /* XBCS: X-bus chip selects */
        { 0x60, 0x80 }, { 0x61, 0x80 }, { 0x62, 0x80 }, { 0x63, 0x80 }, /* PIRQRC[A:D] */
        { 0x69, 0x02 }, /* TOM: top of memory */
        { 0x70, 0x80 }, /* MBIRQ0 */
        { 0x76, 0x0c }, { 0x77, 0x0c }, /* MBDMA */
        { 0x78, 0x02 }, /* PCSC */
        { 0xa0, 0x08 }, /* SMICNTL */
        { 0xa8, 0x0f }, /* FTMR */
    };
    Piix3 *piix = container_of(dev, Piix3, pci.dev);
    memset(piix->pci.config + 0x40, 0, 256 - 0x40);
    for (size_t i = 0; i < ARRAY_SIZE(defaults); i++) {
        piix->pci.config[defaults[i][0]] = defaults[i][1];
    }
    piix->reset_control = 0;
    update_pirqs(piix);
}

static Error *piix3_plug(Device *dev)
{
    Piix3 *piix = container_of(dev, Piix3, pci.dev);
    PciDevice *pci = &piix->pci;
    st16_le(pci->config + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    st16_le(pci->wmask + PCI_COMMAND, 0x0108);
    st16_le(pci->config + PCI_STATUS, 0x0200);
    pci->config_written = piix3_config_written;

    isa_bus_init(&piix->isa, dev->machine, dev, pci->bus->memory, pci->bus->io);
    for (unsigned n = 0; n < 16; n++) {
        irq_line_init(&piix->isa.irqs[n], isa_irq_set, piix, n);
    }
    pci->bus->map_irq = map_irq;
    pci->bus->set_irq = set_pirq;
    pci->bus->irq_opaque = piix;
    piix->reset_port = (PciResetPort) { reset_control_read, reset_control_write, piix };
    machine_set_service(dev->machine, PCI_RESET_PORT_SERVICE, &piix->reset_port);
    return NULL;
}

static void piix3_unplug(Device *dev)
{
    Piix3 *piix = container_of(dev, Piix3, pci.dev);
    if (piix->isa.bus.type) {
        bus_fini(&piix->isa.bus);
    }
}

static const StateField piix3_state[] = {
    STATE_U16(Piix3, isa_level),
    STATE_U16(Piix3, pci_level),
    STATE_U8(Piix3, pirq_level),
    STATE_U8(Piix3, reset_control),
    STATE_NOT(Piix3, isa, "saves itself"),
    STATE_NOT(Piix3, gsi, "wiring"),
    STATE_NOT(Piix3, reset_port, "wiring"),
    { 0 },
};

static const PciIdent piix3_ident = { .vendor = 0x8086, .device = 0x7000, .class_code = 0x060100 };

DEVICE_TYPE(piix3, PCI_DEVICE_OBJECT("PIIX3", Piix3, NULL), .desc = "ISA bridge", .category = DEV_INTERNAL,
            .bus = &pci_bus_type, .pci = &piix3_ident, .state = piix3_state, .plug = piix3_plug,
            .reset = piix3_reset, .unplug = piix3_unplug);

Error *piix3_create(Machine *machine, PciBus *bus, const IrqLine gsi[16], IsaBus **ret_isa)
{
    const DeviceType *type;
    TRY(device_type_lookup("PIIX3", &type));
    Piix3 *piix = container_of(device_new(machine, type, NULL), Piix3, pci.dev);
    memcpy(piix->gsi, gsi, sizeof(piix->gsi));
    piix->pci.devfn_opt = PCI_DEVFN(1, 0);
    piix->pci.multifunction = true;
    TRY(device_plug(&piix->pci.dev, &bus->bus));
    *ret_isa = &piix->isa;
    return NULL;
}
