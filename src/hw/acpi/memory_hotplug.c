/*
 * Memory hot-plug registers that the machine's own ACPI tables use ("QEMU<->ACPI BIOS memory hotplug interface",
 * docs/specs of QEMU). A selector names a slot, which the others speak of:
 *     0x00 write: selector; read: address, low half     0x04 write: source of a report; read: address, high half
 *     0x08 write: status of a report; read: size, low   0x0c read: size, high        0x10 read: NUMA node
 *     0x14 read: status; write: control
 * A selector beyond the last slot makes everything read as ones.
 */
#include "hw/acpi/memory_hotplug.h"

#include "hw/acpi/ospm.h"

enum { REG_ADDR_LOW = 0x00, REG_ADDR_HIGH = 0x04, REG_SIZE_LOW = 0x08, REG_SIZE_HIGH = 0x0c, REG_NODE = 0x10, REG_STATUS = 0x14 };
enum { REG_SELECTOR = 0x00, REG_OST_SOURCE = 0x04, REG_OST_STATUS = 0x08 };
enum { STATUS_ENABLED = BIT(0), STATUS_INSERT = BIT(1), STATUS_REMOVE = BIT(2), CONTROL_EJECT = BIT(3) };

static const DeviceMemory *memory_of(const AcpiMemoryHotplug *hotplug)
{
    return device_memory_of(hotplug->dev->machine);
}

static unsigned slots(const AcpiMemoryHotplug *hotplug)
{
    const DeviceMemory *memory = memory_of(hotplug);
    return memory ? memory->slots : 0;
}

static PcDimm *selected(const AcpiMemoryHotplug *hotplug)
{
    PcDimm *dimm = memory_of(hotplug)->dimms[hotplug->selector];
    return dimm && !dimm->dev.unplugging ? dimm : NULL; /* one that was ejected is gone to the guest */
}

static uint64_t hotplug_read(void *opaque, uint64_t addr, unsigned size)
{
    AcpiMemoryHotplug *hotplug = opaque;
    if (hotplug->selector >= slots(hotplug)) {
        return UINT32_MAX;
    }
    const PcDimm *dimm = selected(hotplug);
    switch (addr) {
    case REG_ADDR_LOW:
        return dimm ? (uint32_t)dimm->addr : 0;
    case REG_ADDR_HIGH:
        return dimm ? dimm->addr >> 32 : 0;
    case REG_SIZE_LOW:
        return dimm ? (uint32_t)dimm->size : 0;
    case REG_SIZE_HIGH:
        return dimm ? dimm->size >> 32 : 0;
    case REG_NODE:
        return dimm ? dimm->node : 0;
    case REG_STATUS:
        return (dimm ? STATUS_ENABLED : 0) | hotplug->events[hotplug->selector];
    default:
        return UINT32_MAX;
    }
}

static OspmReport report_of(const AcpiMemoryHotplug *hotplug, unsigned slot)
{
    const PcDimm *dimm = memory_of(hotplug)->dimms[slot];
    return (OspmReport) { "DIMM", slot, dimm ? &dimm->dev : NULL, hotplug->source[slot], hotplug->status[slot] };
}

static void write_control(AcpiMemoryHotplug *hotplug, uint8_t value)
{
    uint8_t *events = &hotplug->events[hotplug->selector];
    PcDimm *dimm = selected(hotplug);
    if (value & STATUS_INSERT) {
        *events &= ~STATUS_INSERT;
    } else if (value & STATUS_REMOVE) {
        *events &= ~STATUS_REMOVE;
    } else if ((value & CONTROL_EJECT) && dimm) {
        *events = 0;
        device_unplug(&dimm->dev);
    }
}

static void hotplug_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    AcpiMemoryHotplug *hotplug = opaque;
    if (addr == REG_SELECTOR) {
        hotplug->selector = (uint32_t)value;
        return;
    }
    if (hotplug->selector >= slots(hotplug)) {
        return;
    }
    if (addr == REG_OST_SOURCE) {
        hotplug->source[hotplug->selector] = (uint32_t)value;
    } else if (addr == REG_OST_STATUS) {
        hotplug->status[hotplug->selector] = (uint32_t)value;
        OspmReport report = report_of(hotplug, hotplug->selector);
        ospm_reported(hotplug->dev->machine, &report);
    } else if (addr == REG_STATUS) {
        write_control(hotplug, (uint8_t)value);
    }
}

static const MemOps hotplug_ops = { .read = hotplug_read, .write = hotplug_write, .min = 4, .max = 4 };

static void raise_event(AcpiMemoryHotplug *hotplug, unsigned slot, uint8_t event)
{
    hotplug->events[slot] |= event;
    hotplug->raise(hotplug->opaque);
}

void acpi_memory_hotplug_added(AcpiMemoryHotplug *hotplug, unsigned slot)
{
    raise_event(hotplug, slot, STATUS_INSERT);
}

void acpi_memory_hotplug_request_eject(AcpiMemoryHotplug *hotplug, unsigned slot)
{
    raise_event(hotplug, slot, STATUS_REMOVE);
}

void acpi_memory_hotplug_removed(AcpiMemoryHotplug *hotplug, unsigned slot)
{
    hotplug->events[slot] = 0;
}

/* What came before a reset is found by the _STA of every slot after it. */
void acpi_memory_hotplug_reset(AcpiMemoryHotplug *hotplug)
{
    for (unsigned slot = 0; slot < DEVICE_MEMORY_SLOTS; slot++) {
        hotplug->events[slot] &= ~STATUS_INSERT;
    }
}

void acpi_memory_hotplug_reports(const AcpiMemoryHotplug *hotplug, Value *list)
{
    for (unsigned slot = 0; slot < slots(hotplug); slot++) {
        OspmReport report = report_of(hotplug, slot);
        value_append(list, ospm_report_value(&report));
    }
}

static void gone(void *opaque)
{
    AcpiMemoryHotplug *hotplug = opaque;
    machine_set_service(hotplug->dev->machine, ACPI_MEMORY_HOTPLUG_SERVICE, NULL);
}

void acpi_memory_hotplug_init(AcpiMemoryHotplug *hotplug, Device *dev, void (*raise)(void *opaque), void *opaque)
{
    hotplug->dev = dev;
    hotplug->raise = raise;
    hotplug->opaque = opaque;
    mem_region_init_io(&hotplug->io, dev->machine->mem, "acpi-memory-hotplug", ACPI_MEMORY_HOTPLUG_SIZE, &hotplug_ops, hotplug);
    mem_region_set_lock(&hotplug->io, &dev->machine->lock);
    device_region_own(dev, &hotplug->io);
    machine_set_service(dev->machine, ACPI_MEMORY_HOTPLUG_SERVICE, hotplug);
    device_on_unplug(dev, gone, hotplug);
}

const StateField acpi_memory_hotplug_state[] = {
    STATE_U32(AcpiMemoryHotplug, selector),
    STATE_U8_ARRAY(AcpiMemoryHotplug, events),
    STATE_U32_ARRAY(AcpiMemoryHotplug, source),
    STATE_U32_ARRAY(AcpiMemoryHotplug, status),
    STATE_NOT(AcpiMemoryHotplug, dev, "wiring"),
    STATE_NOT(AcpiMemoryHotplug, raise, "wiring"),
    STATE_NOT(AcpiMemoryHotplug, opaque, "wiring"),
    STATE_NOT(AcpiMemoryHotplug, io, "mapped by the owner"),
    { 0 },
};
