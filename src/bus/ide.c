/* The IDE bus: places for drives. */
#include "bus/ide.h"

static const Prop ide_device_props[] = {
    PROP_U32("unit", IdeDevice, unit, UINT32_MAX, .help = "0 or 1"),
    { 0 },
};

const ObjectType ide_device_object_type = {
    .name = "ide-device", .parent = &device_object_type, .size = sizeof(IdeDevice), .abstract = true,
    .props = ide_device_props,
};

static Error *ide_attach(Bus *bus, Device *dev)
{
    IdeBus *ide = container_of(bus, IdeBus, bus);
    IdeDevice *drive = container_of(dev, IdeDevice, dev);
    if (drive->unit == UINT32_MAX) {
        drive->unit = 0;
        while (drive->unit + 1 < ide->units && ide->drives[drive->unit]) {
            drive->unit++;
        }
    }
    if (drive->unit >= ide->units) {
        return error_new("Can't create IDE unit %u, bus supports only %u units", drive->unit, ide->units);
    }
    if (ide->drives[drive->unit]) {
        return error_new("IDE unit %u is in use", drive->unit);
    }
    drive->channel = ide;
    ide->drives[drive->unit] = drive;
    return NULL;
}

static void ide_detach(Bus *bus, Device *dev)
{
    IdeBus *ide = container_of(bus, IdeBus, bus);
    IdeDevice *drive = container_of(dev, IdeDevice, dev);
    if (ide->drives[drive->unit] == drive) {
        ide->drives[drive->unit] = NULL;
    }
}

static bool ide_full(Bus *bus)
{
    IdeBus *ide = container_of(bus, IdeBus, bus);
    for (unsigned unit = 0; unit < ide->units; unit++) {
        if (!ide->drives[unit]) {
            return false;
        }
    }
    return true;
}

static char *ide_device_path(Device *dev)
{
    IdeDevice *drive = container_of(dev, IdeDevice, dev);
    return g_strdup_printf("drive@%x/disk@%x", drive->channel->index, drive->unit);
}

const BusType ide_bus_type = {
    .name = "IDE",
    .attach = ide_attach,
    .detach = ide_detach,
    .device_path = ide_device_path,
    .full = ide_full,
};

void ide_bus_init(IdeBus *ide, Machine *machine, Device *parent, const char *name, unsigned index, unsigned units,
                  const IdeHostOps *ops, void *host)
{
    bus_init(&ide->bus, &ide_bus_type, machine, parent, name);
    ide->index = index;
    ide->serial_base = index * units;
    ide->units = units;
    ide->ops = ops;
    ide->host = host;
}
