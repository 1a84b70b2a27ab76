/*
 * Memory hot-plug registers of the PC machines, through which ACPI methods learn which memory devices there are, which
 * came, which shall go, and eject one. Embedded in the power management function, which maps the ports.
 */
#ifndef OSTRICH_HW_ACPI_MEMORY_HOTPLUG_H
#define OSTRICH_HW_ACPI_MEMORY_HOTPLUG_H

#include "hw/mem/device_memory.h"
#include "value/value.h"

#define ACPI_MEMORY_HOTPLUG_SERVICE "acpi-memory-hotplug"
enum { ACPI_MEMORY_HOTPLUG_PORT = 0xa00, ACPI_MEMORY_HOTPLUG_SIZE = 0x18 };

/* Arrays have an element for each slot. */
typedef struct AcpiMemoryHotplug {
    Device *dev;
    uint32_t selector;
    uint8_t events[DEVICE_MEMORY_SLOTS]; /* as in the status register, beside "enabled" */
    uint32_t source[DEVICE_MEMORY_SLOTS], status[DEVICE_MEMORY_SLOTS]; /* the operating system's last report */
    void (*raise)(void *opaque);
    void *opaque;
    MemRegion io;
} AcpiMemoryHotplug;

extern const StateField acpi_memory_hotplug_state[];

/* raise(opaque) sets the general-purpose event. io belongs to dev. */
void acpi_memory_hotplug_init(AcpiMemoryHotplug *hotplug, Device *dev, void (*raise)(void *opaque), void *opaque);
static inline AcpiMemoryHotplug *acpi_memory_hotplug_of(Machine *machine)
{
    return (AcpiMemoryHotplug *)machine_service(machine, ACPI_MEMORY_HOTPLUG_SERVICE);
}
void acpi_memory_hotplug_reset(AcpiMemoryHotplug *hotplug);
/* A device has come, shall go, has gone. */
void acpi_memory_hotplug_added(AcpiMemoryHotplug *hotplug, unsigned slot);
void acpi_memory_hotplug_request_eject(AcpiMemoryHotplug *hotplug, unsigned slot);
void acpi_memory_hotplug_removed(AcpiMemoryHotplug *hotplug, unsigned slot);
/* Appends every slot's last report to a list. */
void acpi_memory_hotplug_reports(const AcpiMemoryHotplug *hotplug, Value *list);

#endif
