/*
 * Processors in the DSDT (ACPI 6.4, 8.4; 6.3 for those that come and go): a device for each place of a CPU, whose _STA,
 * _MAT, _EJ0 and _OST go through the registers of hw/acpi/cpu_hotplug.h, and the method that the general-purpose event
 * calls. Without these registers only the CPUs that there are have devices.
 */
#include "cpu/x86/vcpu_x86.h"
#include "firmware/acpi.h"
#include "hw/acpi/cpu_hotplug.h"

enum { ACPI_CPU_HOTPLUG_PORT = 0xaf00, COMMAND_NEXT_EVENT = 0, COMMAND_OST_SOURCE = 1, COMMAND_OST_STATUS = 2 };

static const AcpiPlaces cpu_places = { .mutex = "CLCK", .select = "CSEL", .enabled = "CPEN", .name = "C%03X" };

static void registers(Aml *a)
{
    aml_op_region(a, "CREG", AML_SYSTEM_IO, ACPI_CPU_HOTPLUG_PORT, ACPI_CPU_HOTPLUG_SIZE);
    aml_field(a, "CREG", 1 | AML_WRITE_AS_ZEROS);
    aml_field_entry(a, NULL, 32);
    aml_field_entry(a, "CPEN", 1); /* enabled */
    aml_field_entry(a, "CINS", 1); /* came */
    aml_field_entry(a, "CRMV", 1); /* shall go */
    aml_field_entry(a, "CEJ0", 1); /* ejects */
    aml_field_entry(a, NULL, 4);
    aml_field_entry(a, "CCMD", 8);
    aml_end(a);
    aml_field(a, "CREG", 3);
    aml_field_entry(a, "CSEL", 32);
    aml_field_entry(a, NULL, 32);
    aml_field_entry(a, "CDAT", 32);
    aml_end(a);
    aml_mutex(a, "CLCK");
}

/* CEJE(cpu): ejects it. */
static void eject_method(Aml *a)
{
    aml_method(a, "CEJE", 1, true);
    aml_acquire(a, "CLCK");
    aml_store(a, AML_ARG0, "CSEL");
    aml_store_int(a, 1, "CEJ0");
    aml_release(a, "CLCK");
    aml_end(a);
}

/* COST(cpu, source, status): passes on what _OST was given. */
static void report_method(Aml *a)
{
    aml_method(a, "COST", 3, true);
    aml_acquire(a, "CLCK");
    aml_store(a, AML_ARG0, "CSEL");
    aml_store_int(a, COMMAND_OST_SOURCE, "CCMD");
    aml_store(a, AML_ARG1, "CDAT");
    aml_store_int(a, COMMAND_OST_STATUS, "CCMD");
    aml_store(a, AML_ARG2, "CDAT");
    aml_release(a, "CLCK");
    aml_end(a);
}

/* Inside CSCN: if the selected CPU has that event, tells of it and takes it. */
static void take_event(Aml *a, const char *event, unsigned what)
{
    aml_if(a);
    aml_path(a, event);
    aml_path(a, "CTFY");
    aml_path(a, "CDAT");
    aml_int(a, what);
    aml_store_int(a, 1, event);
    aml_set_local0(a, 1);
    aml_end(a);
}

/* CSCN: tells of all events. */
static void scan_method(Aml *a)
{
    aml_method(a, "CSCN", 0, true);
    aml_acquire(a, "CLCK");
    aml_store_int(a, 0, "CSEL");
    aml_set_local0(a, 1);
    aml_while(a);
    aml_op(a, AML_LOCAL0);
    aml_set_local0(a, 0);
    aml_store_int(a, COMMAND_NEXT_EVENT, "CCMD");
    take_event(a, "CINS", ACPI_NOTIFY_DEVICE_CHECK);
    take_event(a, "CRMV", ACPI_NOTIFY_EJECT_REQUEST);
    aml_end(a);
    aml_release(a, "CLCK");
    aml_end(a);
}

static void call_with(Aml *a, const char *method, unsigned index)
{
    aml_path(a, method);
    aml_int(a, index);
}

static void changing_methods(Aml *a, const Machine *machine, unsigned index)
{
    uint8_t entry[ACPI_LOCAL_APIC_MAX];
    unsigned length = acpi_local_apic(entry, index, x86_apic_id_of(machine, index), true);

    aml_method(a, "_STA", 0, false);
    aml_op(a, AML_RETURN);
    call_with(a, "CSTA", index);
    aml_end(a);
    aml_name(a, "_MAT");
    aml_buffer(a, entry, length);
    if (index != 0) {
        aml_method(a, "_EJ0", 1, false);
        call_with(a, "CEJE", index);
        aml_end(a);
    }
    aml_method(a, "_OST", 3, false);
    call_with(a, "COST", index);
    aml_op(a, AML_ARG0);
    aml_op(a, AML_ARG1);
    aml_end(a);
}

void acpi_cpus(Aml *a, Machine *machine)
{
    bool changing = acpi_cpu_hotplug_of(machine) != NULL;
    unsigned places = changing ? machine->config->max_cpus : machine->vcpus->len;

    aml_device(a, "\\_SB.CPUS");
    aml_name_string(a, "_HID", "ACPI0010"); /* a container of processors */
    aml_name_eisaid(a, "_CID", "PNP0A05");
    if (changing) {
        registers(a);
        acpi_status_method(a, &cpu_places, "CSTA");
        eject_method(a);
        report_method(a);
    }
    for (unsigned index = 0; index < places; index++) {
        char name[5];
        g_snprintf(name, sizeof(name), cpu_places.name, index);
        aml_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", index);
        if (numa_node_of_cpu(machine->config, index) >= 0) {
            aml_name_int(a, "_PXM", (uint64_t)numa_node_of_cpu(machine->config, index));
        }
        if (changing) {
            changing_methods(a, machine, index);
        }
        aml_end(a);
    }
    if (changing) {
        acpi_notify_method(a, &cpu_places, "CTFY", places);
        scan_method(a);
        aml_device(a, "CRES");
        aml_name_eisaid(a, "_HID", "PNP0A06");
        aml_name_string(a, "_UID", "CPU hot-plug registers");
        aml_name_int(a, "_STA", 0xb);
        aml_name(a, "_CRS");
        aml_resources(a);
        aml_res_io(a, ACPI_CPU_HOTPLUG_PORT, ACPI_CPU_HOTPLUG_PORT, 1, ACPI_CPU_HOTPLUG_SIZE);
        aml_resources_end(a);
        aml_end(a);
    }
    aml_end(a);
}

void acpi_cpus_event(Aml *a, Machine *machine)
{
    if (acpi_cpu_hotplug_of(machine)) {
        aml_method(a, "_E02", 0, false);
        aml_path(a, "\\_SB.CPUS.CSCN");
        aml_end(a);
    }
}
