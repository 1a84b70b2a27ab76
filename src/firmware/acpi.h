/*
 * ACPI tables for the guest: built into one blob, with a script that tells the firmware how to place and
 * patch it (the table loader of fw_cfg).
 */
#ifndef OSTRICH_FIRMWARE_ACPI_H
#define OSTRICH_FIRMWARE_ACPI_H

#include "core/vm/machine.h"
#include "firmware/aml.h"

typedef struct AcpiTables {
    GByteArray *blob;   /* file etc/acpi/tables */
    GByteArray *loader; /* file etc/table-loader */
    GArray *offsets;    /* uint32_t: tables that the RSDT names */
} AcpiTables;

/* What differs between PCs. */
#define ACPI_LOADER_FILE "etc/table-loader" /* the script by which firmware places the tables: selected before the tables */

typedef struct AcpiPcInfo {
    uint64_t pci_hole_start, pci_hole_end;     /* 32-bit window, end exclusive */
    /* Firmware calls them fixed: the tables are built for what it has programmed when it selects ACPI_LOADER_FILE. */
    uint64_t pci_hole64_start, pci_hole64_end; /* 0: none */
    bool hpet, smm, s3, s4, ioapic;
    uint16_t pm_base, gpe_base;
    uint8_t gpe_bytes;
    uint8_t s4_type; /* SLP_TYP of S4 */
    const char *const *ports; /* NULL-terminated ISA parts that exist: "COM1", "LPT1", "FDC0", "KBD" */
} AcpiPcInfo;

/* Builds everything and adds the fw_cfg files; -acpitable ones come along. */
Error *acpi_build_pc(Machine *machine, const AcpiPcInfo *info) MUST_USE;

/* --- for the builders --- */
void acpi_tables_init(AcpiTables *tables);
void acpi_tables_fini(AcpiTables *tables);
/* Begins a table; its length, checksum and place in the RSDT are handled by acpi_table_end(). */
guint acpi_table_begin(AcpiTables *tables, const char signature[4], uint8_t revision);
void acpi_table_end(AcpiTables *tables, guint start);
/* Puts it into the RSDT, where operating systems look for it. */
void acpi_table_list(AcpiTables *tables, guint start);
void acpi_put(AcpiTables *tables, uint64_t value, unsigned size);
/* The field of `size` bytes at offset holds an offset in the blob that becomes an address. */
void acpi_pointer(AcpiTables *tables, guint offset, unsigned size, uint32_t target);
void acpi_pc_dsdt(Machine *machine, const AcpiPcInfo *info, AcpiTables *tables);
enum { ACPI_NOTIFY_DEVICE_CHECK = 1, ACPI_NOTIFY_EJECT_REQUEST = 3 };
/* A MADT entry of a CPU, as its _MAT gives it, too; returns its length. */
enum { ACPI_LOCAL_APIC_MAX = 16 };
unsigned acpi_local_apic(uint8_t ret_entry[ACPI_LOCAL_APIC_MAX], uint32_t uid, uint32_t apic_id, bool enabled);
/* Registers behind a mutex show the place whose number is in one of them. */
typedef struct AcpiPlaces {
    const char *mutex, *select, *enabled; /* enabled: the bit that says whether something is there */
    const char *name;                     /* of a place's device, a format for its number */
} AcpiPlaces;
/* METHOD(place): what its _STA gives. */
void acpi_status_method(Aml *a, const AcpiPlaces *places, const char *method);
/* METHOD(place, what): notifies its device. */
void acpi_notify_method(Aml *a, const AcpiPlaces *places, const char *method, unsigned count);
/* Processors, and what their hot-plug event runs inside \_GPE. */
void acpi_cpus(Aml *a, Machine *machine);
void acpi_cpus_event(Aml *a, Machine *machine);
/* The same of memory slots. */
void acpi_memory(Aml *a, Machine *machine);
void acpi_memory_event(Aml *a, Machine *machine);
/* SRAT, SLIT, HMAT of a machine with NUMA nodes. */
void acpi_numa(AcpiTables *tables, Machine *machine, const AcpiPcInfo *info);
/* PCI hot-plug, when the root bus has it: inside the root's device, and inside \_GPE. */
void acpi_pci_hotplug_root(Aml *a, Machine *machine);
void acpi_pci_hotplug_event(Aml *a, Machine *machine);

#endif
