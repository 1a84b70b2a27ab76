/*
 * CPU hot-plug registers that the machine's own ACPI tables and firmware use ("QEMU<->ACPI BIOS CPU hotplug interface",
 * docs/specs of QEMU; the interface that it calls modern). A selector names a place, which the others speak of:
 *     0x00 write: selector; read: command data 2
 *     0x04 read: status; write: control        0x05 write: command        0x08 command data
 * A selector beyond the last place makes everything read as 0, and other writes go nowhere.
 */
#include "hw/acpi/cpu_hotplug.h"

#include "hw/acpi/ospm.h"

enum { REG_SELECTOR = 0x00, REG_STATUS = 0x04, REG_COMMAND = 0x05, REG_DATA = 0x08 };
enum { STATUS_ENABLED = BIT(0), STATUS_INSERT = BIT(1), STATUS_REMOVE = BIT(2), STATUS_FIRMWARE_EJECTS = BIT(4) };
enum { CONTROL_EJECT = BIT(3) };
enum { COMMAND_NEXT_EVENT, COMMAND_OST_SOURCE, COMMAND_OST_STATUS, COMMAND_CPU_ID };

static unsigned places(const AcpiCpuHotplug *hotplug)
{
    return MIN(hotplug->dev->machine->config->max_cpus, (unsigned)ACPI_CPU_HOTPLUG_MAX);
}

static Vcpu *selected(const AcpiCpuHotplug *hotplug)
{
    return vcpu_at(hotplug->dev->machine, hotplug->selector);
}

static uint32_t read_data(const AcpiCpuHotplug *hotplug)
{
    Vcpu *vcpu = selected(hotplug);
    switch (hotplug->command) {
    case COMMAND_NEXT_EVENT:
        return hotplug->selector;
    case COMMAND_CPU_ID:
        return vcpu ? vcpu->apic_id : 0;
    default:
        return 0;
    }
}

static uint64_t hotplug_read(void *opaque, uint64_t addr, unsigned size)
{
    AcpiCpuHotplug *hotplug = opaque;
    if (hotplug->selector >= places(hotplug)) {
        return 0;
    }
    unsigned shift = 8 * (addr & 3);
    if (addr == REG_STATUS) {
        const Vcpu *vcpu = selected(hotplug);
        /* One that was ejected is gone to the guest, though it may take a moment. */
        return (vcpu && !vcpu->dev.unplugging ? STATUS_ENABLED : 0) | hotplug->events[hotplug->selector];
    }
    return (addr & ~3u) == REG_DATA ? read_data(hotplug) >> shift : 0;
}

/* The first place with an event from the selected one on, else from the start; unchanged when there is none. */
static void select_next_event(AcpiCpuHotplug *hotplug)
{
    unsigned count = places(hotplug);
    for (unsigned n = 0; n < count; n++) {
        unsigned index = (hotplug->selector + n) % count;
        if (hotplug->events[index] & (STATUS_INSERT | STATUS_REMOVE)) {
            hotplug->selector = index;
            return;
        }
    }
}

static void write_control(AcpiCpuHotplug *hotplug, uint8_t value)
{
    uint8_t *events = &hotplug->events[hotplug->selector];
    Vcpu *vcpu = selected(hotplug);
    if (value & STATUS_INSERT) {
        *events &= ~STATUS_INSERT;
    } else if (value & STATUS_REMOVE) {
        *events &= ~STATUS_REMOVE;
    } else if (value & CONTROL_EJECT) {
        if (vcpu && vcpu->index != 0) {
            *events = 0;
            device_unplug(&vcpu->dev);
        }
    } else if (value & STATUS_FIRMWARE_EJECTS) {
        *events |= STATUS_FIRMWARE_EJECTS;
    }
}

static OspmReport report_of(const AcpiCpuHotplug *hotplug, unsigned index)
{
    const Vcpu *vcpu = vcpu_at(hotplug->dev->machine, index);
    return (OspmReport) { "CPU", index, vcpu ? &vcpu->dev : NULL, hotplug->source[index], hotplug->status[index] };
}

static void write_data(AcpiCpuHotplug *hotplug, uint32_t value)
{
    if (hotplug->command == COMMAND_OST_SOURCE) {
        hotplug->source[hotplug->selector] = value;
    } else if (hotplug->command == COMMAND_OST_STATUS) {
        hotplug->status[hotplug->selector] = value;
        OspmReport report = report_of(hotplug, hotplug->selector);
        ospm_reported(hotplug->dev->machine, &report);
    }
}

static void hotplug_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    AcpiCpuHotplug *hotplug = opaque;
    if (addr == REG_SELECTOR && size == 4) {
        hotplug->selector = (uint32_t)value;
    }
    if (hotplug->selector >= places(hotplug)) {
        return;
    }
    if (addr == REG_STATUS) {
        write_control(hotplug, (uint8_t)value);
    } else if (addr == REG_COMMAND) {
        hotplug->command = (uint8_t)value;
        if (hotplug->command == COMMAND_NEXT_EVENT) {
            select_next_event(hotplug);
        }
    } else if (addr == REG_DATA && size == 4) {
        write_data(hotplug, (uint32_t)value);
    }
}

static const MemOps hotplug_ops = { .read = hotplug_read, .write = hotplug_write, .min = 1, .max = 4 };

static void raise_event(AcpiCpuHotplug *hotplug, unsigned index, uint8_t event)
{
    hotplug->events[index] |= event;
    hotplug->raise(hotplug->opaque);
}

void acpi_cpu_hotplug_added(AcpiCpuHotplug *hotplug, unsigned index)
{
    raise_event(hotplug, index, STATUS_INSERT);
}

void acpi_cpu_hotplug_request_eject(AcpiCpuHotplug *hotplug, unsigned index)
{
    raise_event(hotplug, index, STATUS_REMOVE);
}

void acpi_cpu_hotplug_removed(AcpiCpuHotplug *hotplug, unsigned index)
{
    hotplug->events[index] = 0;
}

/* What the guest had not taken in before a reset, it finds in its tables afterwards. */
void acpi_cpu_hotplug_reset(AcpiCpuHotplug *hotplug)
{
    for (unsigned index = 0; index < ACPI_CPU_HOTPLUG_MAX; index++) {
        hotplug->events[index] &= ~(STATUS_INSERT | STATUS_FIRMWARE_EJECTS);
    }
}

void acpi_cpu_hotplug_reports(const AcpiCpuHotplug *hotplug, Value *list)
{
    for (unsigned index = 0; index < places(hotplug); index++) {
        OspmReport report = report_of(hotplug, index);
        value_append(list, ospm_report_value(&report));
    }
}

static void gone(void *opaque)
{
    AcpiCpuHotplug *hotplug = opaque;
    machine_set_service(hotplug->dev->machine, ACPI_CPU_HOTPLUG_SERVICE, NULL);
}

void acpi_cpu_hotplug_init(AcpiCpuHotplug *hotplug, Device *dev, void (*raise)(void *opaque), void *opaque)
{
    hotplug->dev = dev;
    hotplug->raise = raise;
    hotplug->opaque = opaque;
    mem_region_init_io(&hotplug->io, dev->machine->mem, "acpi-cpu-hotplug", ACPI_CPU_HOTPLUG_SIZE, &hotplug_ops, hotplug);
    mem_region_set_lock(&hotplug->io, &dev->machine->lock);
    device_region_own(dev, &hotplug->io);
    machine_set_service(dev->machine, ACPI_CPU_HOTPLUG_SERVICE, hotplug);
    device_on_unplug(dev, gone, hotplug);
}

const StateField acpi_cpu_hotplug_state[] = {
    STATE_U32(AcpiCpuHotplug, selector),
    STATE_U8(AcpiCpuHotplug, command),
    STATE_U8_ARRAY(AcpiCpuHotplug, events),
    STATE_U32_ARRAY(AcpiCpuHotplug, source),
    STATE_U32_ARRAY(AcpiCpuHotplug, status),
    STATE_NOT(AcpiCpuHotplug, dev, "wiring"),
    STATE_NOT(AcpiCpuHotplug, raise, "wiring"),
    STATE_NOT(AcpiCpuHotplug, opaque, "wiring"),
    STATE_NOT(AcpiCpuHotplug, io, "mapped by the owner"),
    { 0 },
};
