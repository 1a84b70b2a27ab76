/*
 * Names of PCI devices for people and firmware: `info pci`, `info qtree`, OpenFirmware path elements.
 *
 * Class codes: PCI Code and ID Assignment Specification; node names: PCI Bus Binding to IEEE 1275-1994, 2.5.
 */
#include <inttypes.h>

#include "base/endian.h"
#include "bus/pci_priv.h"

typedef struct ClassName {
    uint16_t class_code; /* base and sub class; sub class 0xff: any */
    const char *desc, *node;
} ClassName;

static const ClassName class_names[] = {
    { 0x0001, "VGA controller", "display" },
    { 0x0100, "SCSI controller", "scsi" },
    { 0x0101, "IDE controller", "ide" },
    { 0x0102, "Floppy controller", "fdc" },
    { 0x0103, "IPI controller", "ipi" },
    { 0x0104, "RAID controller", "raid" },
    { 0x0106, "SATA controller", NULL },
    { 0x0107, "SAS controller", NULL },
    { 0x0108, "NVM Express controller", NULL },
    { 0x0180, "Storage controller", NULL },
    { 0x0200, "Ethernet controller", "ethernet" },
    { 0x0201, "Token Ring controller", "token-ring" },
    { 0x0202, "FDDI controller", "fddi" },
    { 0x0203, "ATM controller", "atm" },
    { 0x0280, "Network controller", NULL },
    { 0x0300, "VGA controller", "display" },
    { 0x0301, "XGA controller", NULL },
    { 0x0302, "3D controller", NULL },
    { 0x0380, "Display controller", NULL },
    { 0x0400, "Video controller", "video" },
    { 0x0401, "Audio controller", "sound" },
    { 0x0402, "Phone", NULL },
    { 0x0403, "Audio controller", NULL },
    { 0x0480, "Multimedia controller", NULL },
    { 0x0500, "RAM controller", "memory" },
    { 0x0501, "Flash controller", "flash" },
    { 0x0580, "Memory controller", NULL },
    { 0x0600, "Host bridge", "host" },
    { 0x0601, "ISA bridge", "isa" },
    { 0x0602, "EISA bridge", "eisa" },
    { 0x0603, "MC bridge", "mca" },
    { 0x0604, "PCI bridge", "pci-bridge" },
    { 0x0605, "PCMCIA bridge", "pcmcia" },
    { 0x0606, "NUBUS bridge", "nubus" },
    { 0x0607, "CARDBUS bridge", "cardbus" },
    { 0x0608, "RACEWAY bridge", NULL },
    { 0x0680, "Bridge", NULL },
    { 0x0700, "Serial port", "serial" },
    { 0x0701, "Parallel port", "parallel" },
    { 0x0800, "Interrupt controller", "interrupt-controller" },
    { 0x0801, "DMA controller", "dma-controller" },
    { 0x0802, "Timer", "timer" },
    { 0x0803, "RTC", "rtc" },
    { 0x0900, "Keyboard", "keyboard" },
    { 0x0901, "Pen", "pen" },
    { 0x0902, "Mouse", "mouse" },
    { 0x0a00, "Dock station", "dock" },
    { 0x0b00, "i386 cpu", "cpu" },
    { 0x0c00, "Firewire controller", "firewire" },
    { 0x0c01, "Access bus controller", "access-bus" },
    { 0x0c02, "SSA controller", "ssa" },
    { 0x0c03, "USB controller", "usb" },
    { 0x0c04, "Fibre channel controller", "fibre-channel" },
    { 0x0c05, "SMBus", NULL },
};

static const ClassName *class_name(const PciDevice *pci)
{
    uint16_t code = ld16_le(pci->config + PCI_CLASS_DEVICE);
    for (size_t i = 0; i < ARRAY_SIZE(class_names); i++) {
        if (class_names[i].class_code == code) {
            return &class_names[i];
        }
    }
    return NULL;
}

static void class_desc(const PciDevice *pci, GString *out)
{
    const ClassName *name = class_name(pci);
    if (name) {
        g_string_append(out, name->desc);
    } else {
        g_string_append_printf(out, "Class %04x", ld16_le(pci->config + PCI_CLASS_DEVICE));
    }
}

char *pci_device_path(Device *dev)
{
    PciDevice *pci = pci_of(dev);
    const ClassName *name = class_name(pci);
    GString *out = g_string_new(NULL);
    if (name && name->node) {
        g_string_append(out, name->node);
    } else {
        g_string_append_printf(out, "pci%04x,%04x", ld16_le(pci->config + PCI_VENDOR_ID),
                               ld16_le(pci->config + PCI_DEVICE_ID));
    }
    g_string_append_printf(out, "@%x", PCI_SLOT(pci->devfn));
    if (PCI_FUNC(pci->devfn)) {
        g_string_append_printf(out, ",%x", PCI_FUNC(pci->devfn));
    }
    return g_string_free(out, FALSE);
}

char *pci_device_describe(Device *dev)
{
    PciDevice *pci = pci_of(dev);
    GString *out = g_string_new("class ");
    class_desc(pci, out);
    g_string_append_printf(out, ", addr %02x:%02x.%x, pci id %04x:%04x (sub %04x:%04x)\n", pci->bus->number,
                           PCI_SLOT(pci->devfn), PCI_FUNC(pci->devfn), ld16_le(pci->config + PCI_VENDOR_ID),
                           ld16_le(pci->config + PCI_DEVICE_ID), ld16_le(pci->config + PCI_SUBSYSTEM_VENDOR),
                           ld16_le(pci->config + PCI_SUBSYSTEM_ID));
    for (unsigned n = 0; n <= PCI_ROM_SLOT; n++) {
        const struct PciBar *bar = &pci->bar[n];
        if (bar->region) {
            g_string_append_printf(out, "bar %u: %s at 0x%" PRIx64 " [0x%" PRIx64 "]\n", n,
                                   bar->type & PCI_BAR_IO ? "i/o" : "mem", bar->addr, bar->addr + bar->size - 1);
        }
    }
    return g_string_free(out, FALSE);
}

static void describe_bar(GString *out, const PciDevice *pci, unsigned n)
{
    const struct PciBar *bar = &pci->bar[n];
    uint64_t last = bar->addr + bar->size - 1;
    g_string_append_printf(out, "      BAR%u: ", n);
    if (bar->type & PCI_BAR_IO) {
        g_string_append_printf(out, "I/O at 0x%04" PRIx64 " [0x%04" PRIx64 "].\n", bar->addr, last);
    } else {
        g_string_append_printf(out, "%d bit%s memory at 0x%08" PRIx64 " [0x%08" PRIx64 "].\n",
                               bar->type & PCI_BAR_MEM64 ? 64 : 32, bar->type & PCI_BAR_PREFETCH ? " prefetchable" : "",
                               bar->addr, last);
    }
}

/* Windows of a PCI-to-PCI bridge (type 1 header, 0x18 to 0x2f). */
static void describe_bridge(GString *out, const PciDevice *pci)
{
    const uint8_t *config = pci->config;
    uint32_t io_base = (config[0x1c] & 0xf0) << 8, io_limit = (config[0x1d] & 0xf0) << 8 | 0xfff;
    uint32_t mem_base = (ld16_le(config + 0x20) & 0xfff0u) << 16;
    uint32_t mem_limit = (ld16_le(config + 0x22) & 0xfff0u) << 16 | 0xfffff;
    uint64_t pref_base = (ld16_le(config + 0x24) & 0xfff0ull) << 16 | (uint64_t)ld32_le(config + 0x28) << 32;
    uint64_t pref_limit = (ld16_le(config + 0x26) & 0xfff0ull) << 16 | 0xfffff | (uint64_t)ld32_le(config + 0x2c) << 32;
    g_string_append_printf(out, "      BUS %d.\n      secondary bus %d.\n      subordinate bus %d.\n", config[0x18],
                           config[0x19], config[0x1a]);
    g_string_append_printf(out, "      IO range [0x%04x, 0x%04x]\n      memory range [0x%08x, 0x%08x]\n", io_base,
                           io_limit, mem_base, mem_limit);
    g_string_append_printf(out, "      prefetchable memory range [0x%08" PRIx64 ", 0x%08" PRIx64 "]\n", pref_base,
                           pref_limit);
}

static void describe_device(GString *out, const PciDevice *pci)
{
    const uint8_t *config = pci->config;
    g_string_append_printf(out, "  Bus %2d, device %3d, function %d:\n    ", pci->bus->number, PCI_SLOT(pci->devfn),
                           PCI_FUNC(pci->devfn));
    class_desc(pci, out);
    g_string_append_printf(out, ": PCI device %04x:%04x\n", ld16_le(config + PCI_VENDOR_ID),
                           ld16_le(config + PCI_DEVICE_ID));
    if (!pci->secondary) {
        g_string_append_printf(out, "      PCI subsystem %04x:%04x\n", ld16_le(config + PCI_SUBSYSTEM_VENDOR),
                               ld16_le(config + PCI_SUBSYSTEM_ID));
    }
    if (config[PCI_INTERRUPT_PIN]) {
        g_string_append_printf(out, "      IRQ %d, pin %c\n", config[PCI_INTERRUPT_LINE],
                               'A' + config[PCI_INTERRUPT_PIN] - 1);
    }
    if (pci->secondary) {
        describe_bridge(out, pci);
    }
    for (unsigned n = 0; n <= PCI_ROM_SLOT; n++) {
        if (pci->bar[n].region) {
            describe_bar(out, pci, n);
        }
    }
    const char *id = pci->dev.object.id;
    bool named = id && !g_str_has_prefix(id, "device[");
    g_string_append_printf(out, "      id \"%s\"\n", named ? id : "");
}

static void describe_bus(GString *out, const PciBus *bus)
{
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        if (bus->devices[devfn]) {
            describe_device(out, bus->devices[devfn]);
            if (bus->devices[devfn]->secondary) {
                describe_bus(out, bus->devices[devfn]->secondary);
            }
        }
    }
}

char *pci_describe(Machine *machine)
{
    PciBus *root = pci_bus_of(machine);
    if (!root) {
        return g_strdup("This machine has no PCI bus\n");
    }
    GString *out = g_string_new(NULL);
    describe_bus(out, root);
    return g_string_free(out, FALSE);
}
