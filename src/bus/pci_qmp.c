/* query-pci: buses, devices, their regions, as a tree. */
#include "base/endian.h"
#include "bus/pci.h"
#include "schema/qmp_commands.h"

static unsigned config16(const PciDevice *pci, unsigned at)
{
    return pci->config[at] | pci->config[at + 1] << 8;
}

static Value *region_value(const PciDevice *pci, unsigned n)
{
    const struct PciBar *bar = &pci->bar[n];
    Value *region = value_dict();

    value_put_int(region, "bar", n);
    value_put(region, "size", value_uint(bar->size));
    value_put(region, "address", bar->addr == UINT64_MAX ? value_int(-1) : value_uint(bar->addr));
    if (n != PCI_ROM_SLOT && bar->type & PCI_BAR_IO) {
        value_put_str(region, "type", "io");
    } else {
        value_put_bool(region, "prefetch", bar->type & PCI_BAR_PREFETCH);
        value_put_bool(region, "mem_type_64", bar->type & PCI_BAR_MEM64);
        value_put_str(region, "type", "memory");
    }
    return region;
}

static Value *device_value(const PciDevice *pci, unsigned bus)
{
    Value *info = value_dict(), *class_info = value_dict(), *id = value_dict(), *regions = value_list();
    unsigned class_code = config16(pci, PCI_CLASS_DEVICE);

    value_put_int(info, "bus", bus);
    value_put_int(info, "slot", PCI_SLOT(pci->devfn));
    value_put_int(info, "function", PCI_FUNC(pci->devfn));
    value_put_int(class_info, "class", class_code);
    if (device_type(&pci->dev)->desc) {
        value_put_str(class_info, "desc", device_type(&pci->dev)->desc);
    }
    value_put(info, "class_info", class_info);
    value_put_int(id, "device", config16(pci, PCI_DEVICE_ID));
    value_put_int(id, "vendor", config16(pci, PCI_VENDOR_ID));
    value_put_int(id, "subsystem", config16(pci, PCI_SUBSYSTEM_ID));
    value_put_int(id, "subsystem-vendor", config16(pci, PCI_SUBSYSTEM_VENDOR));
    value_put(info, "id", id);
    if (pci->config[PCI_INTERRUPT_PIN]) {
        value_put_int(info, "irq", pci->config[PCI_INTERRUPT_LINE]);
        value_put_int(info, "irq_pin", pci->config[PCI_INTERRUPT_PIN]);
    }
    value_put_str(info, "qdev_id", pci->dev.object.id ? pci->dev.object.id : "");
    for (unsigned n = 0; n <= PCI_ROM_SLOT; n++) {
        if (pci->bar[n].size) {
            value_append(regions, region_value(pci, n));
        }
    }
    value_put(info, "regions", regions);
    return info;
}

Error *qmp_query_pci(QmpContext *ctx, const QmpQueryPciArgs *args, Value **ret)
{
    PciBus *root = pci_bus_of(ctx->machine);

    *ret = value_list();
    if (!root) {
        return NULL;
    }
    Value *bus = value_dict(), *devices = value_list();
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        if (root->devices[devfn]) {
            value_append(devices, device_value(root->devices[devfn], root->number));
        }
    }
    value_put_int(bus, "bus", root->number);
    value_put(bus, "devices", devices);
    value_append(*ret, bus);
    return NULL;
}
