/*
 * The ISA bus: ports, memory windows and interrupt lines of devices that have no configuration space.
 * Conflicts between devices are the user's to avoid, as on a real board.
 */
#include "bus/isa.h"

#include "base/log.h"

#define ISA_SERVICE "isa"

/* OpenFirmware names an ISA device by its kind and first port, four digits: "fdc@03f0". */
static char *isa_device_path(Device *dev)
{
    const IsaIdent *ident = device_type(dev)->extra;
    if (!ident || !ident->fw_name) {
        return g_strdup(dev->object.type->name);
    }
    uint32_t port = *(const uint32_t *)((const char *)dev + ident->iobase);
    return g_strdup_printf("%s@%04x", ident->fw_name, port);
}

static char *isa_device_describe(Device *dev)
{
    const IsaIdent *ident = device_type(dev)->extra;
    if (!ident || !ident->fw_name) {
        return NULL;
    }
    return g_strdup_printf("isa port 0x%x\n", *(const uint32_t *)((const char *)dev + ident->iobase));
}

const BusType isa_bus_type = {
    .name = "ISA",
    .device_path = isa_device_path,
    .device_describe = isa_device_describe,
};

void isa_bus_init(IsaBus *isa, Machine *machine, Device *parent, MemRegion *memory, MemRegion *io)
{
    bus_init(&isa->bus, &isa_bus_type, machine, parent, "isa.0");
    isa->memory = memory;
    isa->io = io;
    machine_set_service(machine, ISA_SERVICE, isa);
}

IsaBus *isa_bus_of(Machine *machine)
{
    return machine_service(machine, ISA_SERVICE);
}

IrqLine *isa_irq(Device *dev, unsigned n)
{
    IsaBus *isa = isa_bus_of(dev->machine);
    return isa && n < ARRAY_SIZE(isa->irqs) ? &isa->irqs[n] : NULL;
}

void isa_map_io(Device *dev, MemRegion *region, uint16_t port)
{
    IsaBus *isa = isa_bus_of(dev->machine);
    mem_region_map(isa->io, port, region, 0);
}

void isa_map_memory(Device *dev, MemRegion *region, uint32_t address)
{
    IsaBus *isa = isa_bus_of(dev->machine);
    mem_region_map(isa->memory, address, region, 1);
}
