#include "hw/acpi/ospm.h"

#include "core/vm/machine.h"
#include "hw/acpi/cpu_hotplug.h"
#include "hw/acpi/memory_hotplug.h"
#include "schema/qmp_commands.h"
#include "value/json.h"

/* Sources: notifications that ask for an ejection; statuses of these. */
enum { NOTIFY_EJECT_REQUEST = 3, OSPM_EJECTION = 0x103, EJECTION_IN_PROGRESS = 0x84 };

Value *ospm_report_value(const OspmReport *report)
{
    Value *info = value_dict();
    if (report->dev && report->dev->object.parent &&
        report->dev->object.parent == object_resolve(report->dev->machine->root, "/machine/peripheral")) {
        value_put_str(info, "device", report->dev->object.id);
    }
    value_put(info, "slot", value_strf("%u", report->slot));
    value_put_str(info, "slot-type", report->type);
    value_put_int(info, "source", report->source);
    value_put_int(info, "status", report->status);
    return info;
}

static void emit(Machine *machine, const char *event, Value *data)
{
    g_autofree char *json = json_write(data, false);
    machine_emit(machine, event, json);
    value_free(data);
}

bool ospm_reported(Machine *machine, const OspmReport *report)
{
    bool ejection = report->source == NOTIFY_EJECT_REQUEST || report->source == OSPM_EJECTION;
    Value *data = value_dict();

    value_put(data, "info", ospm_report_value(report));
    emit(machine, "ACPI_DEVICE_OST", data);
    if (!ejection || report->status == 0 || report->status == EJECTION_IN_PROGRESS || !report->dev) {
        return false;
    }
    data = value_dict();
    if (report->dev->object.id) {
        value_put_str(data, "device", report->dev->object.id);
    }
    value_put(data, "path", value_take_str(object_path(&report->dev->object)));
    emit(machine, "DEVICE_UNPLUG_GUEST_ERROR", data);
    return true;
}

Error *qmp_query_acpi_ospm_status(QmpContext *ctx, const QmpQueryAcpiOspmStatusArgs *args, Value **ret)
{
    const AcpiCpuHotplug *cpus = acpi_cpu_hotplug_of(ctx->machine);
    const AcpiMemoryHotplug *memory = acpi_memory_hotplug_of(ctx->machine);
    if (!cpus && !memory) {
        return error_new("this machine has no ACPI device that an operating system could report to");
    }
    *ret = value_list();
    if (memory) {
        acpi_memory_hotplug_reports(memory, *ret);
    }
    if (cpus) {
        acpi_cpu_hotplug_reports(cpus, *ret);
    }
    return NULL;
}
