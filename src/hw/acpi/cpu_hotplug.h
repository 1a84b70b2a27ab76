/*
 * CPU hot-plug registers of the PC machines, through which ACPI methods and firmware learn which CPUs there are, which
 * came, which shall go, and eject one. Embedded in the power management function, which maps the ports.
 */
#ifndef OSTRICH_HW_ACPI_CPU_HOTPLUG_H
#define OSTRICH_HW_ACPI_CPU_HOTPLUG_H

#include "core/vm/machine.h"
#include "value/value.h"

#define ACPI_CPU_HOTPLUG_SERVICE "acpi-cpu-hotplug"
enum { ACPI_CPU_HOTPLUG_SIZE = 12, ACPI_CPU_HOTPLUG_MAX = 256 };

/* Arrays have an element for each place of a CPU. */
typedef struct AcpiCpuHotplug {
    Device *dev;
    uint32_t selector;
    uint8_t command;
    uint8_t events[ACPI_CPU_HOTPLUG_MAX]; /* as in the status register, beside "enabled" */
    uint32_t source[ACPI_CPU_HOTPLUG_MAX], status[ACPI_CPU_HOTPLUG_MAX]; /* the operating system's last report */
    void (*raise)(void *opaque);
    void *opaque;
    MemRegion io;
} AcpiCpuHotplug;

extern const StateField acpi_cpu_hotplug_state[];

/* raise(opaque) sets the general-purpose event. io belongs to dev. */
void acpi_cpu_hotplug_init(AcpiCpuHotplug *hotplug, Device *dev, void (*raise)(void *opaque), void *opaque);
static inline AcpiCpuHotplug *acpi_cpu_hotplug_of(Machine *machine)
{
    return (AcpiCpuHotplug *)machine_service(machine, ACPI_CPU_HOTPLUG_SERVICE);
}
void acpi_cpu_hotplug_reset(AcpiCpuHotplug *hotplug);
/* A CPU has come, shall go, has gone. */
void acpi_cpu_hotplug_added(AcpiCpuHotplug *hotplug, unsigned index);
void acpi_cpu_hotplug_request_eject(AcpiCpuHotplug *hotplug, unsigned index);
void acpi_cpu_hotplug_removed(AcpiCpuHotplug *hotplug, unsigned index);
/* Appends every place's last report to a list. */
void acpi_cpu_hotplug_reports(const AcpiCpuHotplug *hotplug, Value *list);

#endif
