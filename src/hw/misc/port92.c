/*
 * System control port A (0x92) of PS/2 and later: bit 0 pulses the CPU reset line, bit 1 drives the A20
 * gate. The A20 output goes to the machine's service "a20", an IrqLine.
 */
#include "bus/isa.h"
#include "hw/misc/pc_lines.h"

typedef struct Port92 {
    Device dev;
    uint8_t control;
    MemRegion port;
} Port92;

enum { P92_RESET = BIT(0), P92_A20 = BIT(1) };

static uint64_t port92_read(void *opaque, uint64_t addr, unsigned size)
{
    Port92 *p = opaque;
    return p->control;
}

static void port92_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Port92 *p = opaque;
    uint8_t old = p->control;
    p->control = value;
    if ((old ^ value) & P92_A20) {
        pc_set_a20(p->dev.machine, value & P92_A20);
    }
    if (value & ~old & P92_RESET) {
        machine_request_reset(p->dev.machine, SHUTDOWN_GUEST_RESET);
    }
}

static const MemOps ops = { .read = port92_read, .write = port92_write, .max = 1 };

static Error *port92_plug(Device *dev)
{
    Port92 *p = (Port92 *)dev;
    device_region_io(dev, &p->port, "port92", 1, &ops);
    isa_map_io(dev, &p->port, 0x92);
    return NULL;
}

static void port92_reset(Device *dev)
{
    ((Port92 *)dev)->control = 0;
}

static const StateField state[] = {
    STATE_U8(Port92, control),
    STATE_NOT(Port92, port, "fixed"),
    { 0 },
};

DEVICE_TYPE(port92, DEVICE_OBJECT("port92", Port92, NULL), .desc = "System control port A", .category = DEV_INTERNAL,
            .bus = &isa_bus_type, .state = state, .plug = port92_plug, .reset = port92_reset);
