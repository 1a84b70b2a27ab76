/*
 * The FERR# latch of a PC: an unmasked x87 error with CR0.NE clear raises IRQ 13 until the guest writes
 * port 0xf0. The CPU drives the service "ferr", an IrqLine, from its own thread.
 */
#include "bus/isa.h"
#include "hw/misc/pc_lines.h"

typedef struct Ferr {
    Device dev;
    bool active;
    IrqLine input;
    MemRegion port;
} Ferr;

static void ferr_set(Ferr *ferr, bool active)
{
    ferr->active = active;
    irq_set(isa_irq(&ferr->dev, 13), active);
}

static void ferr_raise(void *opaque, int n, int level)
{
    Ferr *ferr = opaque;
    Lock *lock = &ferr->dev.machine->lock;
    bool held = lock_held(lock);
    if (!level) {
        return; /* only the port clears the latch */
    }
    if (!held) {
        lock_acquire(lock);
    }
    ferr_set(ferr, true);
    if (!held) {
        lock_release(lock);
    }
}

static uint64_t ferr_read(void *opaque, uint64_t addr, unsigned size)
{
    return 0xff;
}

static void ferr_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    ferr_set(opaque, false);
}

static const MemOps ops = { .read = ferr_read, .write = ferr_write, .max = 1 };

static Error *ferr_plug(Device *dev)
{
    Ferr *ferr = (Ferr *)dev;
    irq_line_init(&ferr->input, ferr_raise, ferr, 0);
    device_region_io(dev, &ferr->port, "ferr", 1, &ops);
    isa_map_io(dev, &ferr->port, 0xf0);
    machine_set_service(dev->machine, PC_FERR_SERVICE, &ferr->input);
    return NULL;
}

static void ferr_reset(Device *dev)
{
    ferr_set((Ferr *)dev, false);
}

static const StateField state[] = {
    STATE_BOOL(Ferr, active),
    STATE_NOT(Ferr, input, "wiring"),
    STATE_NOT(Ferr, port, "fixed"),
    { 0 },
};

DEVICE_TYPE(ferr, DEVICE_OBJECT("isa-ferr", Ferr, NULL), .desc = "x87 error latch", .category = DEV_INTERNAL,
            .bus = &isa_bus_type, .state = state, .plug = ferr_plug, .reset = ferr_reset);
