/*
 * Memory slots in the DSDT (ACPI 6.4, 9.11 and 6.3): a device for each slot, whose methods go through the registers of
 * hw/acpi/memory_hotplug.h, and the method that the general-purpose event calls.
 */
#include "firmware/acpi.h"
#include "hw/acpi/memory_hotplug.h"

static const AcpiPlaces slot_places = { .mutex = "MLCK", .select = "MSEL", .enabled = "MENA", .name = "MP%02X" };

static void registers(Aml *a)
{
    aml_op_region(a, "MREG", AML_SYSTEM_IO, ACPI_MEMORY_HOTPLUG_PORT, ACPI_MEMORY_HOTPLUG_SIZE);
    aml_field(a, "MREG", 3);
    aml_field_entry(a, "MADL", 32); /* address */
    aml_field_entry(a, "MADH", 32);
    aml_field_entry(a, "MSZL", 32); /* size */
    aml_field_entry(a, "MSZH", 32);
    aml_field_entry(a, "MNOD", 32);
    aml_end(a);
    aml_field(a, "MREG", 1 | AML_WRITE_AS_ZEROS);
    aml_field_entry(a, NULL, 0x14 * 8);
    aml_field_entry(a, "MENA", 1); /* enabled */
    aml_field_entry(a, "MINS", 1); /* came */
    aml_field_entry(a, "MRMV", 1); /* shall go */
    aml_field_entry(a, "MEJT", 1); /* ejects */
    aml_end(a);
    aml_field(a, "MREG", 3); /* as they are written */
    aml_field_entry(a, "MSEL", 32);
    aml_field_entry(a, "MOSR", 32);
    aml_field_entry(a, "MOST", 32);
    aml_end(a);
    aml_mutex(a, "MLCK");
}

static void begin(Aml *a, const char *name, unsigned arguments)
{
    aml_method(a, name, arguments, true);
    aml_acquire(a, "MLCK");
    aml_store(a, AML_ARG0, "MSEL");
}

static void node_method(Aml *a)
{
    begin(a, "MPXM", 1);
    aml_op(a, AML_STORE);
    aml_path(a, "MNOD");
    aml_op(a, AML_LOCAL0);
    aml_release(a, "MLCK");
    aml_op(a, AML_RETURN);
    aml_op(a, AML_LOCAL0);
    aml_end(a);
}

static void eject_method(Aml *a)
{
    begin(a, "MEJE", 1);
    aml_store(a, AML_ONE, "MEJT");
    aml_release(a, "MLCK");
    aml_end(a);
}

static void report_method(Aml *a)
{
    begin(a, "MOSM", 3);
    aml_store(a, AML_ARG1, "MOSR");
    aml_store(a, AML_ARG2, "MOST");
    aml_release(a, "MLCK");
    aml_end(a);
}

static void add(Aml *a, const char *x, const char *y, const char *sum)
{
    aml_op(a, AML_ADD);
    aml_path(a, x);
    aml_path(a, y);
    aml_path(a, sum);
}

/* Where a quad-word descriptor keeps its fields, in bytes from its start. */
enum { QWORD_MINIMUM = 14, QWORD_MAXIMUM = 22, QWORD_LENGTH = 38 };

static void field(Aml *a, unsigned offset, const char *name)
{
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_path(a, "MR64");
    aml_int(a, offset);
    aml_path(a, name);
}

/* MCRS(slot): its range. The sum of two halves may carry, and the last byte is one less than the end. */
static void resources_method(Aml *a)
{
    begin(a, "MCRS", 1);
    aml_name(a, "MR64");
    aml_resources(a);
    aml_res_qword(a, AML_RES_MEMORY, 0, 0xfffffffffffffffe, true);
    aml_resources_end(a);
    field(a, QWORD_MINIMUM, "MINL");
    field(a, QWORD_MINIMUM + 4, "MINH");
    field(a, QWORD_MAXIMUM, "MAXL");
    field(a, QWORD_MAXIMUM + 4, "MAXH");
    field(a, QWORD_LENGTH, "LENL");
    field(a, QWORD_LENGTH + 4, "LENH");
    static const char *const copies[][2] = { { "MADL", "MINL" }, { "MADH", "MINH" }, { "MSZL", "LENL" }, { "MSZH", "LENH" } };
    for (size_t n = 0; n < ARRAY_SIZE(copies); n++) {
        aml_op(a, AML_STORE);
        aml_path(a, copies[n][0]);
        aml_path(a, copies[n][1]);
    }
    add(a, "MINL", "LENL", "MAXL");
    add(a, "MINH", "LENH", "MAXH");
    aml_if(a);
    aml_op(a, AML_LLESS);
    aml_path(a, "MAXL");
    aml_path(a, "MINL");
    aml_op(a, AML_INCREMENT);
    aml_path(a, "MAXH");
    aml_end(a);
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_path(a, "MAXL");
    aml_op(a, AML_ZERO);
    aml_op(a, AML_SUBTRACT);
    aml_path(a, "MAXH");
    aml_op(a, AML_ONE);
    aml_path(a, "MAXH");
    aml_end(a);
    aml_op(a, AML_SUBTRACT);
    aml_path(a, "MAXL");
    aml_op(a, AML_ONE);
    aml_path(a, "MAXL");
    aml_release(a, "MLCK");
    aml_op(a, AML_RETURN);
    aml_path(a, "MR64");
    aml_end(a);
}

static void take_event(Aml *a, const char *event, unsigned what)
{
    aml_if(a);
    aml_path(a, event);
    aml_path(a, "MTFY");
    aml_op(a, AML_LOCAL0);
    aml_int(a, what);
    aml_store(a, AML_ONE, event);
    aml_end(a);
}

/* MSCN: looks at all slots. */
static void scan_method(Aml *a, unsigned slots)
{
    aml_method(a, "MSCN", 0, true);
    aml_acquire(a, "MLCK");
    aml_set_local0(a, 0);
    aml_while(a);
    aml_op(a, AML_LLESS);
    aml_op(a, AML_LOCAL0);
    aml_int(a, slots);
    aml_store(a, AML_LOCAL0, "MSEL");
    take_event(a, "MINS", ACPI_NOTIFY_DEVICE_CHECK);
    take_event(a, "MRMV", ACPI_NOTIFY_EJECT_REQUEST);
    aml_op(a, AML_INCREMENT);
    aml_op(a, AML_LOCAL0);
    aml_end(a);
    aml_release(a, "MLCK");
    aml_end(a);
}

static void returning(Aml *a, const char *name, const char *method, unsigned slot)
{
    aml_method(a, name, 0, false);
    aml_op(a, AML_RETURN);
    aml_path(a, method);
    aml_int(a, slot);
    aml_end(a);
}

static void slot_device(Aml *a, unsigned slot)
{
    char name[5];
    g_snprintf(name, sizeof(name), slot_places.name, slot);
    aml_device(a, name);
    aml_name_eisaid(a, "_HID", "PNP0C80");
    aml_name_int(a, "_UID", slot);
    returning(a, "_STA", "MSTA", slot);
    returning(a, "_CRS", "MCRS", slot);
    returning(a, "_PXM", "MPXM", slot);
    aml_method(a, "_EJ0", 1, false);
    aml_path(a, "MEJE");
    aml_int(a, slot);
    aml_end(a);
    aml_method(a, "_OST", 3, false);
    aml_path(a, "MOSM");
    aml_int(a, slot);
    aml_op(a, AML_ARG0);
    aml_op(a, AML_ARG1);
    aml_end(a);
    aml_end(a);
}

static const DeviceMemory *memory_with_events(Machine *machine)
{
    return acpi_memory_hotplug_of(machine) ? device_memory_of(machine) : NULL;
}

void acpi_memory(Aml *a, Machine *machine)
{
    const DeviceMemory *memory = memory_with_events(machine);
    if (!memory) {
        return;
    }
    aml_device(a, "\\_SB.MHPC");
    aml_name_eisaid(a, "_HID", "PNP0A06");
    aml_name_string(a, "_UID", "Memory hot-plug");
    aml_name_int(a, "_STA", 0xb);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_io(a, ACPI_MEMORY_HOTPLUG_PORT, ACPI_MEMORY_HOTPLUG_PORT, 1, ACPI_MEMORY_HOTPLUG_SIZE);
    aml_resources_end(a);
    registers(a);
    acpi_status_method(a, &slot_places, "MSTA");
    node_method(a);
    eject_method(a);
    report_method(a);
    resources_method(a);
    for (unsigned slot = 0; slot < memory->slots; slot++) {
        slot_device(a, slot);
    }
    acpi_notify_method(a, &slot_places, "MTFY", memory->slots);
    scan_method(a, memory->slots);
    aml_end(a);
}

void acpi_memory_event(Aml *a, Machine *machine)
{
    if (memory_with_events(machine)) {
        aml_method(a, "_E03", 0, false);
        aml_path(a, "\\_SB.MHPC.MSCN");
        aml_end(a);
    }
}
