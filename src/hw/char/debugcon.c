/*
 * A debug console: every byte written to the port goes to a chardev; reading gives `readback`, by which
 * firmware finds out that it is there.
 */
#include "bus/isa.h"
#include "chardev/chardev.h"

typedef struct DebugCon {
    Device dev;
    CharFront chr;
    uint32_t iobase, readback;
    MemRegion port;
} DebugCon;

static uint64_t debugcon_read(void *opaque, uint64_t addr, unsigned size)
{
    DebugCon *con = opaque;
    return con->readback;
}

static void debugcon_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    DebugCon *con = opaque;
    uint8_t byte = value;
    char_write_all(&con->chr, &byte, 1);
}

static const MemOps ops = { .read = debugcon_read, .write = debugcon_write, .max = 1 };
static const CharFrontOps front = { .can_receive = NULL };

static void debugcon_gone(void *opaque)
{
    char_front_close(&((DebugCon *)opaque)->chr);
}

static Error *debugcon_plug(Device *dev)
{
    DebugCon *con = (DebugCon *)dev;
    if (!char_front_attached(&con->chr)) {
        return error_new("%s: needs a character device: give chardev=ID", device_label(dev));
    }
    if (con->iobase > 0xffff) {
        return error_new("%s: iobase is at most 0xffff", device_label(dev));
    }
    device_region_io(dev, &con->port, "debugcon", 1, &ops);
    isa_map_io(dev, &con->port, con->iobase);
    char_front_open(&con->chr, &front, con);
    device_on_unplug(dev, debugcon_gone, con);
    return NULL;
}

static const Prop props[] = {
    PROP_U32("iobase", DebugCon, iobase, 0xe9, .help = "port"),
    PROP_CHARDEV("chardev", DebugCon, chr, .help = "where the bytes go"),
    PROP_U32("readback", DebugCon, readback, 0xe9, .help = "what reading the port gives"),
    { 0 },
};

static const StateField state[] = {
    STATE_NOT(DebugCon, port, "fixed"),
    { 0 },
};

DEVICE_TYPE(debugcon, DEVICE_OBJECT("isa-debugcon", DebugCon, props), .desc = "Debug console port",
            .category = DEV_MISC, .bus = &isa_bus_type, .state = state, .plug = debugcon_plug);
