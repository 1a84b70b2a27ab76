/*
 * What an operating system reports of devices that come and go (ACPI 6.4, 6.3.5: _OST), as QMP tells it: the event
 * ACPI_DEVICE_OST, DEVICE_UNPLUG_GUEST_ERROR when it would not let a device go, query-acpi-ospm-status.
 */
#ifndef OSTRICH_HW_ACPI_OSPM_H
#define OSTRICH_HW_ACPI_OSPM_H

#include "core/dev/dev.h"
#include "value/value.h"

/* One slot's last report. type: "CPU", "DIMM". dev may be NULL: the slot is empty. */
typedef struct OspmReport {
    const char *type;
    unsigned slot;
    const Device *dev;
    uint32_t source, status;
} OspmReport;

/* Caller frees. */
Value *ospm_report_value(const OspmReport *report);
/* The guest has written it. True: it will not let the device go that it was asked for. */
bool ospm_reported(Machine *machine, const OspmReport *report);

#endif
