/*
 * Intel 82441FX PCI and memory controller (i440FX PMC): host bridge, PAM, SMRAM.
 *
 * Intel 440FX PCIset data sheet (order number 290549), 3.2: PCI configuration registers; 4.1: system
 * address map. RAM hides PCI below the top of memory; between 768 KiB and 1 MiB each 16 KiB segment (one of
 * 64 KiB at 0xf0000) reads from and writes to RAM or PCI as its PAM nibble says; the window of the VGA at
 * 0xa0000 belongs to PCI unless SMRAM is open. A CPU in system management mode looks through the
 * address space "smram-as", in which the RAM under that window is visible.
 * Missing: DRAM row boundaries and timings (stored, without effect); SMRAM's D_CLS.
 */
#include "hw/pci_host/i440fx.h"

#include "base/endian.h"
#include "hw/pci_host/config_ports.h"

enum { PAM0 = 0x59, PAM_REGS = 7, SMRAMC = 0x72 };
enum { PAM_READ = 1, PAM_WRITE = 2 };
enum { SMRAM_D_OPEN = 0x40, SMRAM_D_CLS = 0x20, SMRAM_D_LCK = 0x10, SMRAM_G_SMRAME = 0x08, SMRAM_C_BASE = 0x02 };
enum { SEGMENTS = 13, VGA_WINDOW = 0xa0000, VGA_WINDOW_SIZE = 0x20000 };

typedef struct I440fxHost I440fxHost;

/* A stretch of address space that PAM steers. With reads and writes enabled none of the views is mapped. */
typedef struct Segment {
    I440fxHost *host;
    uint32_t base, size;
    uint8_t reg, shift; /* its nibble */
    MemRegion pci;      /* both to PCI */
    MemRegion rom;      /* reads from RAM, writes to PCI */
    MemRegion split;    /* reads from PCI, writes to RAM */
} Segment;

/* Host side: the root bus and what it does to the machine's address space. */
struct I440fxHost {
    Device dev;
    uint64_t pci_hole64_size;
    PciBus bus;
    PciConfigPorts ports;
    MemRegion *ram;
    MemRegion ram_low, ram_high, pci_memory;
    MemRegion vga_window; /* PCI's, over RAM */
    MemRegion unclaimed;  /* below 1 MiB, what no PCI device decodes: otherwise RAM would shine through */
    MemRegion smram_root, smram_system, smram_window;
    AddressSpace *smram_as, *pci_as;
    Segment segments[SEGMENTS];
};

/* The function at 0:0.0. */
typedef struct I440fx {
    PciDevice pci;
    I440fxHost *host;
} I440fx;

/* --- memory --- */

/* Writes of a read-only segment go on to PCI; reads of a write-only one come from it. */
static uint64_t segment_read(void *opaque, uint64_t addr, unsigned size)
{
    Segment *segment = opaque;
    uint64_t value = UINT64_MAX;
    (void)mem_load(segment->host->pci_as, segment->base + addr, size, &value);
    return value;
}

static void segment_write_pci(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Segment *segment = opaque;
    (void)mem_store(segment->host->pci_as, segment->base + addr, size, value);
}

/* Main memory that consists of several blocks begins with one that covers all segments. */
static MemRegion *first_ram(MemRegion *ram)
{
    while (ram->kind == MEM_CONTAINER) {
        LIST_FOREACH (child, &ram->children, MemRegion, node) {
            if (child->offset == 0) {
                ram = child;
                break;
            }
        }
    }
    return ram;
}

static void segment_write_ram(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Segment *segment = opaque;
    MemRegion *ram = first_ram(segment->host->ram);
    uint64_t offset = ram->ram_offset + segment->base + addr;
    st_le(ram->ram->host + offset, value, size);
    ram_written(ram->ram, offset, size);
}

static const MemOps rom_ops = { .read = segment_read, .write = segment_write_pci, .min = 1, .max = 8 };
static const MemOps split_ops = { .read = segment_read, .write = segment_write_ram, .min = 1, .max = 8 };

static void init_segment(I440fxHost *host, unsigned n)
{
    Segment *segment = &host->segments[n];
    MemRegion *ram = first_ram(host->ram), *system = &host->dev.machine->memory;
    unsigned nibble = n + 1; /* the low nibble of PAM0 is reserved */
    segment->host = host;
    segment->base = n == 0 ? 0xf0000 : 0xc0000 + (n - 1) * 0x4000;
    segment->size = n == 0 ? 0x10000 : 0x4000;
    segment->reg = PAM0 + nibble / 2;
    segment->shift = nibble % 2 * 4;
    mem_region_init_alias(&segment->pci, "pam-pci", &host->pci_memory, segment->base, segment->size);
    mem_region_init_rom(&segment->rom, "pam-rom", ram->ram, ram->ram_offset + segment->base, segment->size, &rom_ops,
                        segment);
    mem_region_init_io(&segment->split, host->dev.machine->mem, "pam-split", segment->size, &split_ops, segment);
    MemRegion *views[] = { &segment->pci, &segment->rom, &segment->split };
    for (unsigned i = 0; i < ARRAY_SIZE(views); i++) {
        device_region_own(&host->dev, views[i]);
        mem_region_set_enabled(views[i], i == 0);
        mem_region_map(system, segment->base, views[i], 1);
    }
}

static void own_alias(I440fxHost *host, MemRegion *region, const char *name, MemRegion *target, uint64_t offset,
                      uint64_t size)
{
    mem_region_init_alias(region, name, target, offset, size);
    device_region_own(&host->dev, region);
}

static uint64_t unclaimed_read(void *opaque, uint64_t addr, unsigned size)
{
    return UINT64_MAX;
}

static void unclaimed_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
}

static const MemOps unclaimed_ops = { .read = unclaimed_read, .write = unclaimed_write, .min = 1, .max = 8 };

static void init_memory(I440fxHost *host, uint64_t below_4g)
{
    Machine *machine = host->dev.machine;
    MemRegion *system = &machine->memory;
    mem_region_init(&host->pci_memory, machine->mem, "pci", 0);
    device_region_own(&host->dev, &host->pci_memory);
    mem_region_map(system, 0, &host->pci_memory, -1);
    mem_region_init_io(&host->unclaimed, machine->mem, "pci-unclaimed", 0x60000, &unclaimed_ops, host);
    device_region_own(&host->dev, &host->unclaimed);
    mem_region_map(&host->pci_memory, VGA_WINDOW, &host->unclaimed, -1);
    host->pci_as = mem_as_new(machine->mem, "pci-memory", &host->pci_memory);

    own_alias(host, &host->ram_low, "ram-below-4g", host->ram, 0, below_4g);
    mem_region_map(system, 0, &host->ram_low, 0);
    if (host->ram->size > below_4g) {
        own_alias(host, &host->ram_high, "ram-above-4g", host->ram, below_4g, host->ram->size - below_4g);
        mem_region_map(system, 4 * GiB, &host->ram_high, 0);
    }
    own_alias(host, &host->vga_window, "smram-region", &host->pci_memory, VGA_WINDOW, VGA_WINDOW_SIZE);
    mem_region_map(system, VGA_WINDOW, &host->vga_window, 1);

    mem_region_init(&host->smram_root, machine->mem, "smram-view", 0);
    device_region_own(&host->dev, &host->smram_root);
    own_alias(host, &host->smram_system, "smram-system", system, 0, 0);
    own_alias(host, &host->smram_window, "smram-low", host->ram, VGA_WINDOW, VGA_WINDOW_SIZE);
    mem_region_set_enabled(&host->smram_window, false);
    mem_region_map(&host->smram_root, 0, &host->smram_system, 0);
    mem_region_map(&host->smram_root, VGA_WINDOW, &host->smram_window, 1);
    host->smram_as = mem_as_new(machine->mem, "smram", &host->smram_root);
    machine_set_service(machine, "smram-as", host->smram_as);
    for (unsigned n = 0; n < SEGMENTS; n++) {
        init_segment(host, n);
    }
}

static void update_memory(I440fx *fx)
{
    I440fxHost *host = fx->host;
    const uint8_t *config = fx->pci.config;
    MemSystem *mem = host->dev.machine->mem;
    mem_update_begin(mem);
    for (unsigned n = 0; n < SEGMENTS; n++) {
        Segment *segment = &host->segments[n];
        unsigned mode = (config[segment->reg] >> segment->shift) & (PAM_READ | PAM_WRITE);
        mem_region_set_enabled(&segment->pci, mode == 0);
        mem_region_set_enabled(&segment->rom, mode == PAM_READ);
        mem_region_set_enabled(&segment->split, mode == PAM_WRITE);
    }
    bool enabled = config[SMRAMC] & SMRAM_G_SMRAME;
    mem_region_set_enabled(&host->vga_window, !(enabled && (config[SMRAMC] & SMRAM_D_OPEN)));
    mem_region_set_enabled(&host->smram_window, enabled);
    mem_update_end(mem);
}

/* --- the function --- */

static void fx_config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    I440fx *fx = container_of(pci, I440fx, pci);
    if (addr > SMRAMC || addr + size <= PAM0) {
        return;
    }
    uint8_t *smramc = &pci->config[SMRAMC];
    if (*smramc & SMRAM_D_LCK) {
        /* Locked until reset: nothing but D_CLS can change any more, and the window is closed. */
        *smramc &= ~SMRAM_D_OPEN;
        pci->wmask[SMRAMC] = SMRAM_D_CLS;
    }
    update_memory(fx);
}

static void fx_reset(Device *dev)
{
    I440fx *fx = container_of(dev, I440fx, pci.dev);
    uint8_t *config = fx->pci.config;
    if (dev->machine->state != RUN_STATE_SUSPENDED) {
        /* Not when it wakes up from S3: firmware finds its way from what it shadowed before. */
        memset(config + PAM0, 0, PAM_REGS);
    }
    config[SMRAMC] = SMRAM_C_BASE;
    fx->pci.wmask[SMRAMC] = SMRAM_D_OPEN | SMRAM_D_CLS | SMRAM_D_LCK | SMRAM_G_SMRAME;
    update_memory(fx);
}

static Error *fx_plug(Device *dev)
{
    I440fx *fx = container_of(dev, I440fx, pci.dev);
    PciDevice *pci = &fx->pci;
    /* Memory and bus master are always on; command bits that the chip does not have read as zero. */
    st16_le(pci->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    st16_le(pci->wmask + PCI_COMMAND, 0x0140);
    st16_le(pci->config + PCI_STATUS, 0x0280);
    pci->wmask[PCI_INTERRUPT_LINE] = 0;
    pci->config_written = fx_config_written;
    return NULL;
}

static const StateField fx_state[] = {
    STATE_NOT(I440fx, host, "wiring"),
    { 0 },
};

static const PciIdent fx_ident = {
    .vendor = 0x8086, .device = 0x1237, .class_code = 0x060000, .revision = 2,
};

DEVICE_TYPE(i440fx, PCI_DEVICE_OBJECT("i440FX", I440fx, NULL), .desc = "Host bridge", .category = DEV_INTERNAL,
            .bus = &pci_bus_type, .pci = &fx_ident, .state = fx_state, .plug = fx_plug, .reset = fx_reset);

/* --- the host side --- */

static void host_reset(Device *dev)
{
    container_of(dev, I440fxHost, dev)->ports.confadd = 0;
}

static void host_unplug(Device *dev)
{
    I440fxHost *host = container_of(dev, I440fxHost, dev);
    mem_as_free(host->smram_as);
    mem_as_free(host->pci_as);
    if (host->bus.bus.type) {
        bus_fini(&host->bus.bus);
    }
}

static const Prop host_props[] = {
    PROP_SIZE("pci-hole64-size", I440fxHost, pci_hole64_size, 2 * GiB, .help = "least size of the 64-bit PCI window"),
    { 0 },
};

static const StateField host_state[] = {
    STATE_U32(I440fxHost, ports.confadd),
    STATE_NOT(I440fxHost, ports.dev, "wiring"), STATE_NOT(I440fxHost, ports.root, "wiring"),
    STATE_NOT(I440fxHost, ram, "saved as RAM"), STATE_NOT(I440fxHost, smram_as, "from the bridge's registers"),
    STATE_NOT(I440fxHost, pci_as, "wiring"), STATE_NOT(I440fxHost, segments, "from the bridge's registers"),
    { 0 },
};

DEVICE_TYPE(i440fx_host, DEVICE_OBJECT("i440FX-pcihost", I440fxHost, host_props), .desc = "i440FX PCI host",
            .category = DEV_INTERNAL, .state = host_state, .reset = host_reset, .unplug = host_unplug);

Error *i440fx_create(Machine *machine, MemRegion *ram, uint64_t below_4g, PciBus **ret_bus, MemRegion **ret_pci_memory)
{
    const DeviceType *host_type, *function_type;
    TRY(device_type_lookup("i440FX-pcihost", &host_type));
    TRY(device_type_lookup("i440FX", &function_type));
    I440fxHost *host = container_of(device_new(machine, host_type, NULL), I440fxHost, dev);
    TRY(device_plug(&host->dev, NULL));
    host->ram = ram;
    mem_update_begin(machine->mem);
    init_memory(host, below_4g);
    mem_update_end(machine->mem);
    pci_bus_init(&host->bus, machine, &host->dev, "pci.0", &host->pci_memory, &machine->io);
    pci_config_ports_init(&host->ports, &host->dev, &host->bus);
    machine_set_service(machine, "i440fx-pci-memory", &host->pci_memory);

    I440fx *fx = container_of(device_new(machine, function_type, NULL), I440fx, pci.dev);
    fx->host = host;
    fx->pci.devfn_opt = PCI_DEVFN(0, 0);
    TRY(device_plug(&fx->pci.dev, &host->bus.bus));
    *ret_bus = &host->bus;
    *ret_pci_memory = &host->pci_memory;
    return NULL;
}

MemRegion *i440fx_pci_memory(Machine *machine)
{
    return machine_service(machine, "i440fx-pci-memory");
}
