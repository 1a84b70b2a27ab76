/*
 * A port by which a test ends the emulator: writing v exits with status (v << 1) | 1, never 0.
 */
#include "bus/isa.h"

typedef struct DebugExit {
    Device dev;
    uint32_t iobase, iosize;
    MemRegion ports;
} DebugExit;

static uint64_t debugexit_read(void *opaque, uint64_t addr, unsigned size)
{
    return 0;
}

static void debugexit_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    DebugExit *exit = opaque;
    exit->dev.machine->exit_code = (int)(value << 1 & 0xff) | 1;
    machine_request_shutdown(exit->dev.machine, SHUTDOWN_GUEST_SHUTDOWN);
}

static const MemOps ops = { .read = debugexit_read, .write = debugexit_write };

static Error *debugexit_plug(Device *dev)
{
    DebugExit *exit = (DebugExit *)dev;
    if (exit->iosize == 0 || exit->iosize > 0x100 || exit->iobase > 0x10000 - exit->iosize) {
        return error_new("%s: iosize is 1 to 256 and the ports must end at 0xffff", device_label(dev));
    }
    device_region_io(dev, &exit->ports, "isa-debug-exit", exit->iosize, &ops);
    isa_map_io(dev, &exit->ports, exit->iobase);
    return NULL;
}

static const Prop props[] = {
    PROP_U32("iobase", DebugExit, iobase, 0x501, .help = "first port"),
    PROP_U32("iosize", DebugExit, iosize, 2, .help = "how many ports"),
    { 0 },
};

static const StateField state[] = {
    STATE_NOT(DebugExit, ports, "fixed"),
    { 0 },
};

DEVICE_TYPE(debugexit, DEVICE_OBJECT("isa-debug-exit", DebugExit, props), .desc = "Port that ends the emulator",
            .category = DEV_MISC, .bus = &isa_bus_type, .state = state, .plug = debugexit_plug);
