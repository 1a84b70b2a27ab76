/* "isa-ide": one channel on the ISA bus, PIO only, as the adapters of the first AT disks. */
#include "bus/isa.h"
#include "hw/ide/ide.h"

typedef struct IsaIde {
    Device dev;
    uint32_t iobase, iobase2, irq;
    IdeBus ide;
    MemRegion command, control;
} IsaIde;

static void isa_ide_set_irq(void *host, int level)
{
    IsaIde *isa = host;
    irq_set(isa_irq(&isa->dev, isa->irq), level);
}

static const IdeHostOps isa_host_ops = { .set_irq = isa_ide_set_irq };

static Error *isa_ide_plug(Device *dev)
{
    IsaIde *isa = container_of(dev, IsaIde, dev);
    MemSystem *mem = dev->machine->mem;
    if (isa->irq > 15 || isa->iobase > 0xfff8 || isa->iobase2 > 0xffff) {
        return error_new("iobase, iobase2 or irq is out of range");
    }
    ide_bus_init(&isa->ide, dev->machine, dev, NULL, 0, IDE_UNITS, &isa_host_ops, isa);
    mem_region_init_io(&isa->command, mem, "ide-command", 8, &ide_command_ops, &isa->ide);
    mem_region_init_io(&isa->control, mem, "ide-control", 1, &ide_control_ops, &isa->ide);
    device_region_own(dev, &isa->command);
    device_region_own(dev, &isa->control);
    isa_map_io(dev, &isa->command, (uint16_t)isa->iobase);
    isa_map_io(dev, &isa->control, (uint16_t)isa->iobase2);
    return NULL;
}

static void isa_ide_reset(Device *dev)
{
    ide_channel_reset(&container_of(dev, IsaIde, dev)->ide);
}

static const Prop isa_ide_props[] = {
    PROP_U32("iobase", IsaIde, iobase, 0x1f0),
    PROP_U32("iobase2", IsaIde, iobase2, 0x3f6),
    PROP_U32("irq", IsaIde, irq, 14),
    { 0 },
};

static const StateField isa_ide_state[] = {
    STATE_STRUCT(IsaIde, ide, ide_bus_state),
    STATE_NOT(IsaIde, command, "fixed"),
    STATE_NOT(IsaIde, control, "fixed"),
    { 0 },
};

DEVICE_TYPE(isa_ide, DEVICE_OBJECT("isa-ide", IsaIde, isa_ide_props), .category = DEV_STORAGE, .bus = &isa_bus_type,
            .state = isa_ide_state, .plug = isa_ide_plug, .reset = isa_ide_reset);
