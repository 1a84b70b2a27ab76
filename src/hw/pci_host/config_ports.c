/*
 * PCI configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2; 82441FX data sheet, 3.1).
 */
#include "hw/pci_host/config_ports.h"

#include "base/bits.h"

enum { CONFADD_ENABLE = 1u << 31, CONFADD_WRITABLE = 0x80ffffff };

static uint64_t address_read(void *opaque, uint64_t addr, unsigned size)
{
    PciConfigPorts *ports = container_of(opaque, PciConfigPorts, address);
    const PciResetPort *reset = machine_service(ports->dev->machine, PCI_RESET_PORT_SERVICE);
    if (size == 4 && addr == 0) {
        return ports->confadd;
    }
    if (size == 1 && addr == 1 && reset) {
        return reset->read(reset->opaque);
    }
    return size_mask(size);
}

static void address_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PciConfigPorts *ports = container_of(opaque, PciConfigPorts, address);
    const PciResetPort *reset = machine_service(ports->dev->machine, PCI_RESET_PORT_SERVICE);
    if (size == 4 && addr == 0) {
        ports->confadd = (uint32_t)value & CONFADD_WRITABLE;
    } else if (size == 1 && addr == 1 && reset) {
        reset->write(reset->opaque, (uint8_t)value);
    }
}

static const MemOps address_ops = { .read = address_read, .write = address_write, .min = 1, .max = 4 };

/* The lowest bits of the address are reserved; programs leave the byte's number there and then use the first data port. */
static uint32_t register_of(uint32_t confadd, uint64_t addr)
{
    return (confadd & 0xff) | (uint32_t)addr;
}

static uint64_t data_read(void *opaque, uint64_t addr, unsigned size)
{
    PciConfigPorts *ports = container_of(opaque, PciConfigPorts, data);
    uint32_t confadd = ports->confadd;
    if (!(confadd & CONFADD_ENABLE)) {
        return size_mask(size);
    }
    return pci_config_read(ports->root, (uint8_t)(confadd >> 16), (uint8_t)(confadd >> 8),
                           register_of(confadd, addr), size);
}

static void data_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PciConfigPorts *ports = container_of(opaque, PciConfigPorts, data);
    uint32_t confadd = ports->confadd;
    if (confadd & CONFADD_ENABLE) {
        pci_config_write(ports->root, (uint8_t)(confadd >> 16), (uint8_t)(confadd >> 8),
                         register_of(confadd, addr), (uint32_t)value, size);
    }
}

static const MemOps data_ops = { .read = data_read, .write = data_write, .min = 1, .max = 4 };

void pci_config_ports_init(PciConfigPorts *ports, Device *dev, PciBus *root)
{
    MemSystem *mem = dev->machine->mem;
    ports->dev = dev;
    ports->root = root;
    mem_region_init_io(&ports->address, mem, "pci-conf-idx", 4, &address_ops, &ports->address);
    mem_region_init_io(&ports->data, mem, "pci-conf-data", 4, &data_ops, &ports->data);
    device_region_own(dev, &ports->address);
    device_region_own(dev, &ports->data);
    mem_region_map(&dev->machine->io, 0xcf8, &ports->address, 0);
    mem_region_map(&dev->machine->io, 0xcfc, &ports->data, 0);
}
