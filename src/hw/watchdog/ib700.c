/*
 * iBASE 700 single board computer's watchdog: writing port 0x443 starts it, with 30 seconds less two for each step of
 * the low four bits; writing port 0x441 stops it. Nothing can be read back.
 */
#include "bus/isa.h"

enum { PORT_STOP = 0x441, PORT_START = 0x443 };

typedef struct Ib700 {
    Device dev;
    Timer timer;
    MemRegion stop, start;
} Ib700;

static uint64_t ib700_read(void *opaque, uint64_t addr, unsigned size)
{
    return 0xff;
}

static void ib700_stop(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    timer_cancel(&((Ib700 *)opaque)->timer);
}

static void ib700_start(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Ib700 *dog = opaque;
    int64_t seconds = 30 - 2 * (int64_t)(value & 0xf);
    timer_set(&dog->timer, clock_now(dog->dev.machine->clocks, CLOCK_VIRTUAL) + seconds * NS_PER_SEC);
}

static const MemOps stop_ops = { .read = ib700_read, .write = ib700_stop, .max = 1 };
static const MemOps start_ops = { .read = ib700_read, .write = ib700_start, .max = 1 };

static void ib700_expired(void *opaque)
{
    machine_watchdog_expired(((Device *)opaque)->machine);
}

static Error *ib700_plug(Device *dev)
{
    Ib700 *dog = (Ib700 *)dev;
    device_timer_init(dev, &dog->timer, CLOCK_VIRTUAL, ib700_expired);
    device_region_io(dev, &dog->stop, "ib700-stop", 1, &stop_ops);
    device_region_io(dev, &dog->start, "ib700-start", 1, &start_ops);
    isa_map_io(dev, &dog->stop, PORT_STOP);
    isa_map_io(dev, &dog->start, PORT_START);
    return NULL;
}

static void ib700_reset(Device *dev)
{
    timer_cancel(&((Ib700 *)dev)->timer);
}

static const StateField state[] = {
    STATE_TIMER(Ib700, timer),
    STATE_NOT(Ib700, stop, "fixed"),
    STATE_NOT(Ib700, start, "fixed"),
    { 0 },
};

DEVICE_TYPE(ib700, DEVICE_OBJECT("ib700", Ib700, NULL), .desc = "iBASE 700 watchdog", .category = DEV_WATCHDOG,
            .bus = &isa_bus_type, .state = state, .plug = ib700_plug, .reset = ib700_reset);
