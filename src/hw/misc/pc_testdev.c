/*
 * What kvm-unit-tests expect of "pc-testdev": a storage port at 0xe0 and again, by bytes, at 0xe8, a page-flush port at 0xe4, ports
 * 0x2000.. that drive interrupt inputs, 64 KiB of plain device memory at 0xff000000.
 */
#include "bus/isa.h"
#include "base/endian.h"

enum { IRQ_PORTS = 24, MEMORY_SIZE = 0x10000 };

typedef struct PcTestDev {
    Device dev;
    uint8_t storage[4];
    uint8_t *memory;
    MemRegion storage_ports, byte_ports, flush_ports, irq_ports, window;
} PcTestDev;

static uint64_t storage_read(void *opaque, uint64_t addr, unsigned size)
{
    PcTestDev *test = opaque;
    return size <= 4 && addr <= 4 - size ? ld_le(test->storage + addr, size) : ~0ull;
}

static void storage_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PcTestDev *test = opaque;
    if (size <= 4 && addr <= 4 - size) {
        st_le(test->storage + addr, value, size);
    }
}

static uint64_t nothing_read(void *opaque, uint64_t addr, unsigned size)
{
    return 0;
}

/* The written address's page has been changed by somebody: nothing is cached here that could be stale. */
static void nothing_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
}

static void irq_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PcTestDev *test = opaque;
    irq_set(isa_irq(&test->dev, addr), value != 0);
}

static uint64_t window_read(void *opaque, uint64_t addr, unsigned size)
{
    PcTestDev *test = opaque;
    return ld_le(test->memory + addr, size);
}

static void window_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PcTestDev *test = opaque;
    st_le(test->memory + addr, value, size);
}

static const MemOps storage_ops = { .read = storage_read, .write = storage_write };
/* The same storage, a byte at a time. */
static const MemOps byte_ops = { .read = storage_read, .write = storage_write, .max = 1 };
static const MemOps flush_ops = { .read = nothing_read, .write = nothing_write };
static const MemOps irq_ops = { .read = nothing_read, .write = irq_write, .max = 1 };
static const MemOps window_ops = { .read = window_read, .write = window_write, .max = 8 };

static Error *testdev_plug(Device *dev)
{
    PcTestDev *test = (PcTestDev *)dev;
    test->memory = device_alloc(dev, MEMORY_SIZE);
    device_region_io(dev, &test->storage_ports, "pc-testdev-ioport", 4, &storage_ops);
    device_region_io(dev, &test->flush_ports, "pc-testdev-flush-page", 4, &flush_ops);
    device_region_io(dev, &test->irq_ports, "pc-testdev-irq-line", IRQ_PORTS, &irq_ops);
    device_region_io(dev, &test->window, "pc-testdev-iomem", MEMORY_SIZE, &window_ops);
    isa_map_io(dev, &test->storage_ports, 0xe0);
    isa_map_io(dev, &test->flush_ports, 0xe4);
    device_region_io(dev, &test->byte_ports, "pc-testdev-ioport-byte", 4, &byte_ops);
    isa_map_io(dev, &test->byte_ports, 0xe8);
    isa_map_io(dev, &test->irq_ports, 0x2000);
    isa_map_memory(dev, &test->window, 0xff000000);
    return NULL;
}

static const StateField state[] = {
    STATE_BYTES(PcTestDev, storage),
    STATE_NOT(PcTestDev, memory, "scratch of a test"),
    STATE_NOT(PcTestDev, storage_ports, "fixed"),
    STATE_NOT(PcTestDev, flush_ports, "fixed"),
    STATE_NOT(PcTestDev, irq_ports, "fixed"),
    STATE_NOT(PcTestDev, window, "fixed"),
    { 0 },
};

DEVICE_TYPE(pc_testdev, DEVICE_OBJECT("pc-testdev", PcTestDev, NULL), .desc = "Helper of kvm-unit-tests",
            .category = DEV_MISC, .bus = &isa_bus_type, .state = state, .plug = testdev_plug);
