/*
 * PCI: configuration space, BARs, interrupts (INTx, MSI, MSI-X), option ROMs, buses and bridges.
 */
#ifndef OSTRICH_BUS_PCI_H
#define OSTRICH_BUS_PCI_H

#include "core/vm/machine.h"

extern const BusType pci_bus_type;

#define PCI_BARS 6
#define PCI_ROM_SLOT 6
#define PCI_DEVFN(slot, fn) ((uint8_t)((slot) << 3 | (fn)))
#define PCI_SLOT(devfn) ((devfn) >> 3)
#define PCI_FUNC(devfn) ((devfn) & 7)

/* Configuration space offsets used by devices. */
enum {
    PCI_VENDOR_ID = 0x00, PCI_DEVICE_ID = 0x02, PCI_COMMAND = 0x04, PCI_STATUS = 0x06, PCI_REVISION = 0x08,
    PCI_CLASS_PROG = 0x09, PCI_CLASS_DEVICE = 0x0a, PCI_CACHE_LINE = 0x0c, PCI_LATENCY = 0x0d, PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10, PCI_SUBSYSTEM_VENDOR = 0x2c, PCI_SUBSYSTEM_ID = 0x2e, PCI_ROM = 0x30, PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c, PCI_INTERRUPT_PIN = 0x3d,
};
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4, PCI_COMMAND_INTX_DISABLE = 0x400 };
enum { PCI_BAR_IO = 1, PCI_BAR_MEM32 = 0, PCI_BAR_MEM64 = 4, PCI_BAR_PREFETCH = 8 };

typedef struct PciBus PciBus;
typedef struct PciDevice PciDevice;

/* Embedded first in every PCI device. Properties addr, multifunction, romfile, rombar, romsize, acpi-index are
 * in pci_device_props; a device's type uses PCI_DEVICE_OBJECT() so that they are inherited. */
struct PciDevice {
    Device dev;
    PciBus *bus;
    int32_t devfn_opt; /* "addr": slot[.fn], -1 auto */
    uint8_t devfn;
    bool multifunction;
    char *romfile;
    uint32_t rombar;
    uint32_t romsize, acpi_index;
    uint32_t config_size;     /* 256, or 4096 for express */
    uint8_t config[4096], wmask[4096], w1cmask[4096];
    struct PciBar {
        MemRegion *region;
        uint64_t size, addr;  /* addr ~0: not mapped */
        uint8_t type;         /* PCI_BAR_* */
    } bar[PCI_BARS + 1];
    MemRegion rom;
    RamBlock *rom_block;
    MemRegion dma_root;       /* bus master view: alias of memory, enabled by PCI_COMMAND_MASTER */
    AddressSpace *dma;        /* for the device's own accesses */
    uint8_t cap_next;         /* where the next capability goes */
    bool intx_level;          /* of the pin, as the device drives it */
    bool intx_asserted;       /* counted at the root: level and not disabled */
    IrqLine intx;
    PciBus *secondary;        /* behind a bridge; else NULL */
    uint16_t msi_cap, msix_cap;
    struct PciMsix *msix;
    /* Hooks, set in plug; may be NULL. Called with the machine lock. */
    uint32_t (*config_read)(PciDevice *pci, uint32_t addr, unsigned size);
    void (*config_written)(PciDevice *pci, uint32_t addr, unsigned size); /* config[] holds the new value */
};

extern const ObjectType pci_device_object_type;
/* "addr": slot[.function], hexadecimal; int32_t, -1 lets the bus choose. */
extern const PropKind prop_pci_addr;
#define PCI_DEVICE_OBJECT(nm, tp, pr) .object = { .name = nm, .parent = &pci_device_object_type, .size = sizeof(tp), .c_type = #tp, .props = pr }

/* region belongs to the device (device_region_io etc.); its size must be a power of two. In plug. */
void pci_bar(PciDevice *pci, unsigned n, uint8_t type, MemRegion *region);
/* Adds a capability of `size` bytes; 0 as offset: next free place. Returns its offset. */
uint8_t pci_add_capability(PciDevice *pci, uint8_t id, uint8_t offset, uint8_t size);
/* INTx level of the device's pin. Any thread that holds the machine lock. */
void pci_set_irq(PciDevice *pci, int level);
IrqLine *pci_irq_line(PciDevice *pci); /* the same as a line */

Error *pci_msi_init(PciDevice *pci, unsigned vectors) MUST_USE;
bool pci_msi_enabled(const PciDevice *pci);
/* table and pending bits in a 4 KiB-multiple exclusive BAR that this makes. */
Error *pci_msix_init(PciDevice *pci, unsigned vectors, unsigned bar) MUST_USE;
bool pci_msix_enabled(const PciDevice *pci);
/* Sends message n by MSI-X or MSI, whichever is enabled; masked ones stay pending. Any thread. */
void pci_msi_notify(PciDevice *pci, unsigned vector);
/* INTx, MSI or MSI-X vector 0: what the guest chose. For devices with one interrupt. */
void pci_notify(PciDevice *pci, int level);

struct PciBus {
    Bus bus;
    MemRegion *memory, *io;
    PciDevice *devices[256];
    uint8_t number;           /* secondary bus number (0 for the root) */
    PciDevice *bridge;        /* NULL: root */
    uint8_t devfn_min;
    bool express;
    /* Of the root: pin (0..3) of a slot to an interrupt input, and setting it. */
    unsigned (*map_irq)(void *opaque, PciDevice *pci, unsigned pin);
    void (*set_irq)(void *opaque, unsigned irq, int level);
    void *irq_opaque;
    int irq_count[32];
    /* Asked and told when a device comes or goes on a bus that guests hot-plug; may be NULL. */
    void (*hotplug)(void *opaque, PciDevice *pci, bool added);
    Error *(*request_unplug)(void *opaque, PciDevice *pci);
    void *hotplug_opaque;
    uint8_t hotplug_select;   /* number of the bus for the hot-plug registers and methods */
};

/* Root bus; service "pci". */
void pci_bus_init(PciBus *bus, Machine *machine, Device *parent, const char *name, MemRegion *memory, MemRegion *io);
PciBus *pci_bus_of(Machine *machine);
PciDevice *pci_find(PciBus *root, uint8_t bus, uint8_t devfn);
/* Configuration access as the host bridge makes it: bus/devfn/register; all ones when nobody is there. */
uint32_t pci_config_read(PciBus *root, uint8_t bus, uint8_t devfn, uint32_t addr, unsigned size);
void pci_config_write(PciBus *root, uint8_t bus, uint8_t devfn, uint32_t addr, uint32_t value, unsigned size);
/* Maps and unmaps BARs and the ROM after config[] was changed by other means than a guest's write. */
void pci_update_mappings(PciDevice *pci);
/* Text of info pci. Caller frees. */
char *pci_describe(Machine *machine);

/* DMA by the device: refused (MEM_ERROR) while bus mastering is off or when it would hit its own registers. */
static inline MemResult pci_dma_read(PciDevice *pci, uint64_t addr, void *buf, uint64_t length)
{
    return mem_read(pci->dma, addr, buf, length);
}
static inline MemResult pci_dma_write(PciDevice *pci, uint64_t addr, const void *buf, uint64_t length)
{
    return mem_write(pci->dma, addr, buf, length);
}

/*
 * Message-signalled interrupt delivery: a store of data at addr 0xfeexxxxx reaches the local APICs. The
 * board (or its interrupt controllers) sets the machine's service "msi" to an MsiSink; without one,
 * devices offer no MSI capabilities. Any thread.
 */
typedef struct MsiSink {
    void (*send)(void *opaque, uint64_t addr, uint32_t data);
    void *opaque;
} MsiSink;
void msi_send(Machine *machine, uint64_t addr, uint32_t data);
bool msi_available(Machine *machine);

#endif
