/*
 * PCI core: places on the bus, configuration space, BARs, INTx.
 *
 * PCI Local Bus Specification 3.0: 6.1 configuration space, 6.2.5 base addresses, 2.2.6 interrupts;
 * PCI-to-PCI Bridge Architecture 1.2, 9.1: interrupt pins behind bridges rotate by the slot number.
 * Missing: PERR#, SERR#, latency timers (nothing a guest can observe depends on them).
 */
#include "bus/pci.h"

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"
#include "bus/pci_priv.h"

/* --- "addr" --- */

static Error *addr_set(Object *obj, const Prop *prop, const char *text)
{
    char *end;
    unsigned long slot = strtoul(text, &end, 16), fn = 0;
    bool digits = end != text;
    if (digits && *end == '.') {
        const char *start = end + 1;
        fn = strtoul(start, &end, 16);
        digits = end != start;
    }
    if (strcmp(text, "-1") == 0) {
        *(int32_t *)prop_ptr(obj, prop) = -1;
        return NULL;
    }
    if (!digits || *end != '\0' || slot > 31 || fn > 7 || text[0] == '-') {
        return error_new("Property '%s.%s' doesn't take value '%s' (slot 0 to 1f and function 0 to 7, "
                         "hexadecimal, for example 06.0 or 6)",
                         obj->type->name, prop->name, text);
    }
    *(int32_t *)prop_ptr(obj, prop) = PCI_DEVFN(slot, fn);
    return NULL;
}

static char *addr_get(const Object *obj, const Prop *prop)
{
    int32_t devfn = *(int32_t *)prop_ptr(obj, prop);
    return devfn < 0 ? g_strdup("-1") : g_strdup_printf("%02x.%x", PCI_SLOT(devfn), PCI_FUNC(devfn));
}

static void addr_default(Object *obj, const Prop *prop)
{
    *(int32_t *)prop_ptr(obj, prop) = -1;
}

const PropKind prop_pci_addr = {
    .name = "int32", .set = addr_set, .get = addr_get, .set_default = addr_default, .json = 's',
};

static const Prop pci_device_props[] = {
    PROP_("addr", prop_pci_addr, PciDevice, devfn_opt, .def = -1,
          .help = "Slot, or slot and function, in hexadecimal: 06 or 06.0"),
    PROP_STR("romfile", PciDevice, romfile, .help = "option ROM image"),
    PROP_U32("romsize", PciDevice, romsize, UINT32_MAX, .help = "size of the ROM BAR, a power of two"),
    PROP_U32("rombar", PciDevice, rombar, 1, .help = "whether the option ROM has a BAR"),
    PROP_BOOL("multifunction", PciDevice, multifunction, false, .help = "on/off"),
    PROP_U32("acpi-index", PciDevice, acpi_index, 0, .help = "onboard index that ACPI reports"),
    { 0 },
};

const ObjectType pci_device_object_type = {
    .name = "pci-device", .parent = &device_object_type, .size = sizeof(PciDevice),
    .abstract = true, .props = pci_device_props,
};

/* --- places --- */

static bool slot_empty(const PciBus *bus, unsigned slot)
{
    for (unsigned fn = 0; fn < 8; fn++) {
        if (bus->devices[PCI_DEVFN(slot, fn)]) {
            return false;
        }
    }
    return true;
}

static Error *choose_devfn(PciBus *bus, PciDevice *pci)
{
    const char *label = device_label(&pci->dev);
    if (pci->devfn_opt < 0) {
        unsigned devfn = bus->devfn_min;
        while (devfn < 256 && !slot_empty(bus, PCI_SLOT(devfn))) {
            devfn += 8;
        }
        if (devfn >= 256) {
            return error_new("bus %s has no free slot left for %s", bus->bus.name, label);
        }
        pci->devfn = devfn;
        return NULL;
    }
    pci->devfn = pci->devfn_opt;
    PciDevice *other = bus->devices[pci->devfn];
    if (other) {
        return error_new("addr=%x.%x of %s is taken by %s,id=%s", PCI_SLOT(pci->devfn),
                         PCI_FUNC(pci->devfn), label, other->dev.object.type->name,
                         other->dev.object.id ? other->dev.object.id : "");
    }
    if (pci->devfn < bus->devfn_min) {
        return error_new("addr=%x.%x of %s belongs to the bus itself", PCI_SLOT(pci->devfn),
                         PCI_FUNC(pci->devfn), label);
    }
    return NULL;
}

/* Function 0 must say that there are others (6.2.1, header type). */
static Error *check_multifunction(PciBus *bus, PciDevice *pci)
{
    unsigned slot = PCI_SLOT(pci->devfn);
    if (PCI_FUNC(pci->devfn) != 0) {
        PciDevice *first = bus->devices[PCI_DEVFN(slot, 0)];
        if (first && !(first->config[PCI_HEADER_TYPE] & 0x80)) {
            return error_new("function %x.%x needs multifunction=on for the device at function 0 of the slot", slot,
                             PCI_FUNC(pci->devfn));
        }
        return NULL;
    }
    for (unsigned fn = 1; fn < 8 && !pci->multifunction; fn++) {
        if (bus->devices[PCI_DEVFN(slot, fn)]) {
            return error_new("%x.0 needs multifunction=on, because there is a device at %x.%x", slot, slot, fn);
        }
    }
    return NULL;
}

static void intx_line_set(void *opaque, int n, int level)
{
    pci_set_irq(opaque, level);
}

static void init_config(PciDevice *pci)
{
    const PciIdent *id = device_type(&pci->dev)->pci;
    uint8_t *config = pci->config, *wmask = pci->wmask;
    pci->config_size = id->express && pci->bus->express ? 4096 : 256;
    pci->cap_next = 0x40;
    st16_le(config + PCI_VENDOR_ID, id->vendor);
    st16_le(config + PCI_DEVICE_ID, id->device);
    config[PCI_REVISION] = id->revision;
    config[PCI_CLASS_PROG] = id->class_code & 0xff;
    st16_le(config + PCI_CLASS_DEVICE, id->class_code >> 8);
    bool bridge = id->class_code >> 8 == 0x0604;
    config[PCI_HEADER_TYPE] = (bridge ? 1 : 0) | (pci->multifunction ? 0x80 : 0);
    if (!bridge) {
        st16_le(config + PCI_SUBSYSTEM_VENDOR, id->subsystem_vendor ? id->subsystem_vendor : 0x1af4);
        st16_le(config + PCI_SUBSYSTEM_ID, id->subsystem_vendor ? id->subsystem : 0x1100);
    }
    config[PCI_INTERRUPT_PIN] = id->interrupt_pin;
    st16_le(wmask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | 0x140 |
                                     PCI_COMMAND_INTX_DISABLE);
    st16_le(pci->w1cmask + PCI_STATUS, 0xf900);
    wmask[PCI_CACHE_LINE] = 0xff;
    wmask[PCI_LATENCY] = id->express ? 0 : 0xff;
    wmask[PCI_INTERRUPT_LINE] = 0xff;
    memset(wmask + 0x40, 0xff, 256 - 0x40);
    if (pci->config_size > 256) {
        memset(wmask + 256, 0xff, pci->config_size - 256);
    }
}

static void init_dma(PciDevice *pci)
{
    Machine *machine = pci->dev.machine;
    g_autofree char *name = g_strdup_printf("%s bus master", device_label(&pci->dev));
    mem_region_init_alias(&pci->dma_root, name, &machine->memory, 0, 0);
    pci->dma_root.owner = &pci->dev;
    mem_region_set_enabled(&pci->dma_root, false);
    pci->dma = mem_as_new(machine->mem, device_label(&pci->dev), &pci->dma_root);
    mem_as_set_owner(pci->dma, &pci->dev);
}

static void pci_detach(Bus *base, Device *dev)
{
    PciBus *bus = container_of(base, PciBus, bus);
    PciDevice *pci = pci_of(dev);
    if (bus->devices[pci->devfn] != pci) {
        return;
    }
    if (bus->hotplug) {
        bus->hotplug(bus->hotplug_opaque, pci, false);
    }
    pci_set_irq(pci, 0);
    for (unsigned i = 0; i < PCI_ROM_SLOT; i++) {
        pci->bar[i].region = NULL; /* the device's own, gone already */
    }
    pci_rom_unload(pci);
    pci_msi_fini(pci);
    mem_as_free(pci->dma);
    pci->dma = NULL;
    mem_region_fini(&pci->dma_root);
    bus->devices[pci->devfn] = NULL;
}

static Error *pci_attach(Bus *base, Device *dev)
{
    PciBus *bus = container_of(base, PciBus, bus);
    PciDevice *pci = pci_of(dev);
    assert(device_type(dev)->pci && !pci->dma);
    if (dev->hotplugged && !bus->bus.hotplug) {
        return error_new("bus '%s' takes devices only before the machine starts", bus->bus.name);
    }
    TRY(choose_devfn(bus, pci));
    TRY(check_multifunction(bus, pci));
    if (pci->romsize != UINT32_MAX && !IS_POW2(pci->romsize)) {
        return error_new("romsize=%u does not fit: it has to be a power of two", pci->romsize);
    }
    pci->bus = bus;
    for (unsigned i = 0; i <= PCI_ROM_SLOT; i++) {
        pci->bar[i].addr = UINT64_MAX;
    }
    irq_line_init(&pci->intx, intx_line_set, pci, 0);
    init_config(pci);
    init_dma(pci);
    bus->devices[pci->devfn] = pci;
    Error *err = pci_rom_load(pci);
    if (err) {
        pci_detach(base, dev);
        return err;
    }
    if (bus->hotplug) {
        bus->hotplug(bus->hotplug_opaque, pci, true);
    }
    return NULL;
}

static bool pci_full(Bus *base)
{
    PciBus *bus = container_of(base, PciBus, bus);
    for (unsigned devfn = bus->devfn_min; devfn < 256; devfn += 8) {
        if (slot_empty(bus, PCI_SLOT(devfn))) {
            return false;
        }
    }
    return true;
}

/* --- INTx --- */

/* The wire a device's pin ends on, and the root bus. */
static PciBus *route_intx(PciDevice *pci, unsigned *ret_irq)
{
    unsigned pin = pci->config[PCI_INTERRUPT_PIN] - 1u;
    while (pci->bus->bridge) {
        pin = (pin + PCI_SLOT(pci->devfn)) & 3;
        pci = pci->bus->bridge;
    }
    PciBus *root = pci->bus;
    if (!root->map_irq || !root->set_irq) {
        return NULL;
    }
    *ret_irq = root->map_irq(root->irq_opaque, pci, pin & 3);
    assert(*ret_irq < ARRAY_SIZE(root->irq_count));
    return root;
}

static void update_intx(PciDevice *pci)
{
    bool on = pci->intx_level && !(ld16_le(pci->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
    if (on == pci->intx_asserted || pci->config[PCI_INTERRUPT_PIN] == 0) {
        return;
    }
    pci->intx_asserted = on;
    unsigned irq;
    PciBus *root = route_intx(pci, &irq);
    if (root) {
        root->irq_count[irq] += on ? 1 : -1;
        root->set_irq(root->irq_opaque, irq, root->irq_count[irq] != 0);
    }
}

void pci_set_irq(PciDevice *pci, int level)
{
    pci->intx_level = level != 0;
    if (pci->intx_level) {
        pci->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    } else {
        pci->config[PCI_STATUS] &= ~PCI_STATUS_INTERRUPT;
    }
    update_intx(pci);
}

IrqLine *pci_irq_line(PciDevice *pci)
{
    return &pci->intx;
}

void pci_notify(PciDevice *pci, int level)
{
    if (pci_msix_enabled(pci) || pci_msi_enabled(pci)) {
        if (level) {
            pci_msi_notify(pci, 0);
        }
    } else {
        pci_set_irq(pci, level);
    }
}

/* --- BARs --- */

static unsigned bar_offset(const PciDevice *pci, unsigned n)
{
    bool bridge = (pci->config[PCI_HEADER_TYPE] & 0x7f) == 1;
    return n == PCI_ROM_SLOT ? (bridge ? 0x38 : PCI_ROM) : PCI_BAR0 + 4 * n;
}

void pci_bar(PciDevice *pci, unsigned n, uint8_t type, MemRegion *region)
{
    struct PciBar *bar = &pci->bar[n];
    unsigned at = bar_offset(pci, n);
    assert(n <= PCI_ROM_SLOT && IS_POW2(region->size) && !bar->region);
    bar->region = region;
    bar->size = region->size;
    bar->type = type;
    bar->addr = UINT64_MAX;
    uint64_t mask = ~(region->size - 1);
    if (n == PCI_ROM_SLOT) {
        st32_le(pci->wmask + at, (uint32_t)mask | 1);
        return;
    }
    st32_le(pci->config + at, type);
    st32_le(pci->wmask + at, (uint32_t)mask & (type & PCI_BAR_IO ? ~3u : ~15u));
    if (type & PCI_BAR_MEM64) {
        assert(n + 1 < PCI_BARS);
        st32_le(pci->wmask + at + 4, (uint32_t)(mask >> 32));
    }
}

/*
 * Where the BAR decodes now, or ~0. Address 0 and ranges that reach the last byte of the space are not
 * decoded: the first is what an unconfigured BAR holds, the second what a BAR being sized holds.
 */
static uint64_t decoded_addr(const PciDevice *pci, unsigned n)
{
    const struct PciBar *bar = &pci->bar[n];
    unsigned at = bar_offset(pci, n);
    uint16_t command = ld16_le(pci->config + PCI_COMMAND);
    uint64_t addr = ld32_le(pci->config + at), limit = UINT32_MAX;
    if (bar->type & PCI_BAR_IO) {
        if (!(command & PCI_COMMAND_IO)) {
            return UINT64_MAX;
        }
        limit = 0x10000;
    } else if (!(command & PCI_COMMAND_MEMORY)) {
        return UINT64_MAX;
    }
    if (n == PCI_ROM_SLOT) {
        if (!(addr & 1)) {
            return UINT64_MAX;
        }
    } else if (bar->type & PCI_BAR_MEM64) {
        addr |= (uint64_t)ld32_le(pci->config + at + 4) << 32;
        limit = UINT64_MAX;
    }
    addr &= ~(bar->size - 1) & ~(uint64_t)(bar->type & PCI_BAR_IO ? 3 : 15);
    uint64_t last = addr + bar->size - 1;
    return addr == 0 || last < addr || last >= limit ? UINT64_MAX : addr;
}

void pci_update_mappings(PciDevice *pci)
{
    MemSystem *mem = pci->dev.machine->mem;
    mem_update_begin(mem);
    for (unsigned n = 0; n <= PCI_ROM_SLOT; n++) {
        struct PciBar *bar = &pci->bar[n];
        if (!bar->region) {
            continue;
        }
        uint64_t addr = decoded_addr(pci, n);
        if (addr == bar->addr) {
            continue;
        }
        if (bar->addr != UINT64_MAX) {
            mem_region_unmap(bar->region);
        }
        bar->addr = addr;
        if (addr != UINT64_MAX) {
            mem_region_map(bar->type & PCI_BAR_IO ? pci->bus->io : pci->bus->memory, addr, bar->region, 1);
        }
    }
    mem_region_set_enabled(&pci->dma_root, ld16_le(pci->config + PCI_COMMAND) & PCI_COMMAND_MASTER);
    mem_update_end(mem);
}

/* --- configuration space --- */

uint8_t pci_add_capability(PciDevice *pci, uint8_t id, uint8_t offset, uint8_t size)
{
    if (offset == 0) {
        offset = pci->cap_next;
        pci->cap_next = ALIGN_UP(offset + size, 4);
    } else {
        pci->cap_next = MAX(pci->cap_next, ALIGN_UP(offset + size, 4));
    }
    assert(offset >= 0x40 && offset + size <= 256);
    pci->config[offset] = id;
    pci->config[offset + 1] = pci->config[PCI_CAPABILITIES];
    pci->config[PCI_CAPABILITIES] = offset;
    pci->config[PCI_STATUS] |= PCI_STATUS_CAPS;
    /* Read-only until the owner says otherwise. */
    memset(pci->wmask + offset, 0, size);
    return offset;
}

static bool overlaps(uint32_t addr, unsigned size, uint32_t start, uint32_t length)
{
    return addr < start + length && start < addr + size;
}

static void device_config_write(PciDevice *pci, uint32_t addr, uint32_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i), *at = &pci->config[addr + i];
        uint8_t wmask = pci->wmask[addr + i], w1c = pci->w1cmask[addr + i];
        *at = (*at & ~wmask) | (byte & wmask);
        *at &= ~(byte & w1c);
    }
    if (overlaps(addr, size, PCI_BAR0, 24) || overlaps(addr, size, bar_offset(pci, PCI_ROM_SLOT), 4) ||
        overlaps(addr, size, PCI_COMMAND, 2)) {
        pci_update_mappings(pci);
        update_intx(pci);
    }
    pci_msi_written(pci, addr, size);
    if (pci->config_written) {
        pci->config_written(pci, addr, size);
    }
}

PciBus *pci_bus_by_number(PciBus *bus, uint8_t number)
{
    if (bus->number == number && (!bus->bridge || number != 0)) {
        return bus;
    }
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        PciDevice *bridge = bus->devices[devfn];
        /* Type 1 header: secondary bus number at 0x19, subordinate at 0x1a. */
        if (bridge && bridge->secondary && bridge->config[0x19] <= number && number <= bridge->config[0x1a] &&
            bridge->config[0x19] > bus->number) {
            return pci_bus_by_number(bridge->secondary, number);
        }
    }
    return NULL;
}

PciDevice *pci_find(PciBus *root, uint8_t number, uint8_t devfn)
{
    PciBus *bus = pci_bus_by_number(root, number);
    return bus ? bus->devices[devfn] : NULL;
}

uint32_t pci_config_read(PciBus *root, uint8_t bus, uint8_t devfn, uint32_t addr, unsigned size)
{
    PciDevice *pci = pci_find(root, bus, devfn);
    if (!pci || !pci->dev.plugged || addr + size > pci->config_size) {
        return (uint32_t)size_mask(size);
    }
    if (pci->config_read) {
        return pci->config_read(pci, addr, size);
    }
    return (uint32_t)ld_le(pci->config + addr, size);
}

void pci_config_write(PciBus *root, uint8_t bus, uint8_t devfn, uint32_t addr, uint32_t value, unsigned size)
{
    PciDevice *pci = pci_find(root, bus, devfn);
    if (pci && pci->dev.plugged && addr + size <= pci->config_size) {
        device_config_write(pci, addr, value, size);
    }
}

/* --- the bus --- */

/* Every writable bit of the header goes back to zero (6.2.2: a device comes out of reset disconnected). */
static void reset_device(PciDevice *pci)
{
    pci_set_irq(pci, 0);
    for (unsigned i = 0; i < 0x40; i++) {
        pci->config[i] &= ~(pci->wmask[i] | pci->w1cmask[i]);
    }
    pci_msi_reset(pci);
    pci_update_mappings(pci);
    if (pci->config_written) {
        pci->config_written(pci, 0, 0x40);
    }
}

static void pci_reset(Bus *base)
{
    PciBus *bus = container_of(base, PciBus, bus);
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        if (bus->devices[devfn]) {
            reset_device(bus->devices[devfn]);
        }
    }
}

/* A guest that runs is asked first, where there is a controller to ask it. */
static Error *pci_unplug_request(Device *dev)
{
    PciDevice *pci = pci_of(dev);
    PciBus *bus = pci->bus;
    if (!bus->request_unplug || !machine_running(dev->machine)) {
        device_unplug(dev);
        return NULL;
    }
    return bus->request_unplug(bus->hotplug_opaque, pci);
}

const BusType pci_bus_type = {
    .name = "PCI",
    .attach = pci_attach,
    .detach = pci_detach,
    .device_path = pci_device_path,
    .device_describe = pci_device_describe,
    .reset = pci_reset,
    .full = pci_full,
    .device_save = pci_device_save,
    .device_load = pci_device_load,
    .unplug_request = pci_unplug_request,
};

void pci_bus_init(PciBus *bus, Machine *machine, Device *parent, const char *name, MemRegion *memory, MemRegion *io)
{
    bus_init(&bus->bus, &pci_bus_type, machine, parent, name);
    bus->memory = memory;
    bus->io = io;
    machine_set_service(machine, "pci", bus);
}

PciBus *pci_bus_of(Machine *machine)
{
    return machine_service(machine, "pci");
}
