/*
 * ACPI table headers, the loader script, FADT, MADT, HPET, RSDT, RSDP (ACPI 6.4 chapter 5). The script's
 * commands have 128 bytes: allocate a file, add a file's address to a pointer, compute a checksum.
 */
#include "firmware/acpi.h"

#include <string.h>

#include "base/endian.h"
#include "cpu/x86/vcpu_x86.h"
#include "firmware/fw_cfg.h"

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE   "etc/acpi/rsdp"

enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3, LOADER_ENTRY = 128, LOADER_NAME = 56 };
enum { HEADER_LENGTH = 36, HEADER_CHECKSUM = 9 };

void acpi_tables_init(AcpiTables *tables)
{
    tables->blob = g_byte_array_new();
    tables->loader = g_byte_array_new();
    tables->offsets = g_array_new(FALSE, FALSE, sizeof(uint32_t));
}

void acpi_tables_fini(AcpiTables *tables)
{
    g_byte_array_unref(tables->blob);
    g_byte_array_unref(tables->loader);
    g_array_unref(tables->offsets);
}

void acpi_put(AcpiTables *tables, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    g_byte_array_append(tables->blob, bytes, size);
}

/* --- the loader script --- */

static uint8_t *loader_entry(AcpiTables *tables, uint32_t command)
{
    guint at = tables->loader->len;
    g_byte_array_set_size(tables->loader, at + LOADER_ENTRY);
    uint8_t *entry = tables->loader->data + at;
    memset(entry, 0, LOADER_ENTRY);
    st32_le(entry, command);
    return entry;
}

static void loader_allocate(AcpiTables *tables, const char *file, uint32_t align, bool low)
{
    uint8_t *entry = loader_entry(tables, LOADER_ALLOCATE);
    g_strlcpy((char *)entry + 4, file, LOADER_NAME);
    st32_le(entry + 4 + LOADER_NAME, align);
    entry[4 + LOADER_NAME + 4] = low ? 2 : 1;
}

static void loader_pointer(AcpiTables *tables, const char *file, uint32_t offset, unsigned size,
                           const char *target)
{
    uint8_t *entry = loader_entry(tables, LOADER_ADD_POINTER);
    g_strlcpy((char *)entry + 4, file, LOADER_NAME);
    g_strlcpy((char *)entry + 4 + LOADER_NAME, target, LOADER_NAME);
    st32_le(entry + 4 + 2 * LOADER_NAME, offset);
    entry[4 + 2 * LOADER_NAME + 4] = (uint8_t)size;
}

static void loader_checksum(AcpiTables *tables, const char *file, uint32_t offset, uint32_t start,
                            uint32_t length)
{
    uint8_t *entry = loader_entry(tables, LOADER_ADD_CHECKSUM);
    g_strlcpy((char *)entry + 4, file, LOADER_NAME);
    st32_le(entry + 4 + LOADER_NAME, offset);
    st32_le(entry + 4 + LOADER_NAME + 4, start);
    st32_le(entry + 4 + LOADER_NAME + 8, length);
}

void acpi_pointer(AcpiTables *tables, guint offset, unsigned size, uint32_t target)
{
    st_le(tables->blob->data + offset, target, size);
    loader_pointer(tables, TABLES_FILE, offset, size, TABLES_FILE);
}

/* --- tables --- */

guint acpi_table_begin(AcpiTables *tables, const char signature[4], uint8_t revision)
{
    while (tables->blob->len % 8) {
        acpi_put(tables, 0, 1);
    }
    guint start = tables->blob->len;
    g_byte_array_append(tables->blob, (const uint8_t *)signature, 4);
    acpi_put(tables, 0, 4); /* length */
    acpi_put(tables, revision, 1);
    acpi_put(tables, 0, 1); /* checksum */
    g_byte_array_append(tables->blob, (const uint8_t *)"OSTRCHOSTRCHPC", 14);
    acpi_put(tables, 1, 4); /* OEM revision */
    g_byte_array_append(tables->blob, (const uint8_t *)"OSTR", 4);
    acpi_put(tables, 1, 4);
    assert(tables->blob->len - start == HEADER_LENGTH);
    return start;
}

void acpi_table_end(AcpiTables *tables, guint start)
{
    uint32_t length = tables->blob->len - start;
    st32_le(tables->blob->data + start + 4, length);
    loader_checksum(tables, TABLES_FILE, start + HEADER_CHECKSUM, start, length);
}

void acpi_table_list(AcpiTables *tables, guint start)
{
    uint32_t offset = start;
    g_array_append_val(tables->offsets, offset);
}

static guint build_facs(AcpiTables *tables)
{
    while (tables->blob->len % 64) {
        acpi_put(tables, 0, 1);
    }
    guint start = tables->blob->len;
    g_byte_array_append(tables->blob, (const uint8_t *)"FACS", 4);
    acpi_put(tables, 64, 4);
    g_byte_array_set_size(tables->blob, start + 64);
    memset(tables->blob->data + start + 8, 0, 56);
    return start;
}

/* Generic address structure in system I/O space. */
static void put_gas_io(AcpiTables *tables, uint64_t port, unsigned bytes)
{
    acpi_put(tables, port ? 1 : 0, 1);
    acpi_put(tables, port ? bytes * 8 : 0, 1);
    acpi_put(tables, 0, 1);
    acpi_put(tables, port ? MIN(bytes, 4u) == 1 ? 1 : MIN(bytes, 4u) == 2 ? 2 : 3 : 0, 1);
    acpi_put(tables, port, 8);
}

static void build_fadt(AcpiTables *tables, const AcpiPcInfo *info, guint facs, guint dsdt)
{
    enum { WBINVD = BIT(0), PROC_C1 = BIT(2), SLP_BUTTON = BIT(5), RTC_S4 = BIT(7), TMR_VAL_EXT = BIT(8),
           RESET_REG_SUP = BIT(10), USE_PLATFORM_CLOCK = BIT(15) };
    guint start = acpi_table_begin(tables, "FACP", 3);

    acpi_put(tables, 0, 4); /* FIRMWARE_CTRL, patched below */
    acpi_put(tables, 0, 4); /* DSDT */
    acpi_put(tables, 1, 1); /* reserved (interrupt model) */
    acpi_put(tables, 0, 1); /* preferred profile */
    acpi_put(tables, 9, 2); /* SCI_INT */
    acpi_put(tables, 0xb2, 4); /* SMI_CMD */
    acpi_put(tables, 0xf1, 1); /* ACPI_ENABLE */
    acpi_put(tables, 0xf0, 1); /* ACPI_DISABLE */
    acpi_put(tables, 0, 2);    /* S4BIOS_REQ, PSTATE_CNT */
    acpi_put(tables, info->pm_base, 4);     /* PM1a_EVT */
    acpi_put(tables, 0, 4);
    acpi_put(tables, info->pm_base + 4, 4); /* PM1a_CNT */
    acpi_put(tables, 0, 4);
    acpi_put(tables, 0, 4);                 /* PM2 */
    acpi_put(tables, info->pm_base + 8, 4); /* PM_TMR */
    acpi_put(tables, info->gpe_base, 4);    /* GPE0 */
    acpi_put(tables, 0, 4);
    acpi_put(tables, 4, 1); /* lengths: PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, GPE0, GPE1 */
    acpi_put(tables, 2, 1);
    acpi_put(tables, 0, 1);
    acpi_put(tables, 4, 1);
    acpi_put(tables, info->gpe_bytes, 1);
    acpi_put(tables, 0, 1);
    acpi_put(tables, 0, 2);     /* GPE1_BASE, CST_CNT */
    acpi_put(tables, 0xfff, 2); /* P_LVL2_LAT: no C2 */
    acpi_put(tables, 0xfff, 2); /* P_LVL3_LAT: no C3 */
    acpi_put(tables, 0, 4);     /* FLUSH_SIZE, FLUSH_STRIDE */
    acpi_put(tables, 0, 4);     /* DUTY_*, DAY_ALRM, MON_ALRM */
    acpi_put(tables, 0x32, 1);  /* CENTURY */
    acpi_put(tables, 0x3, 2);   /* IAPC_BOOT_ARCH: legacy devices, 8042 */
    acpi_put(tables, 0, 1);
    acpi_put(tables, WBINVD | PROC_C1 | SLP_BUTTON | RTC_S4 | RESET_REG_SUP | USE_PLATFORM_CLOCK, 4);
    put_gas_io(tables, 0xcf9, 1); /* RESET_REG */
    acpi_put(tables, 0x0f, 1);    /* RESET_VALUE */
    acpi_put(tables, 0, 3);
    acpi_put(tables, 0, 8); /* X_FIRMWARE_CTRL: the 32-bit one counts */
    guint x_dsdt = tables->blob->len;
    acpi_put(tables, 0, 8);
    put_gas_io(tables, info->pm_base, 4);
    put_gas_io(tables, 0, 0);
    put_gas_io(tables, info->pm_base + 4, 2);
    put_gas_io(tables, 0, 0);
    put_gas_io(tables, 0, 0);
    put_gas_io(tables, info->pm_base + 8, 4);
    put_gas_io(tables, info->gpe_base, info->gpe_bytes);
    put_gas_io(tables, 0, 0);
    acpi_pointer(tables, start + 36, 4, facs);
    acpi_pointer(tables, start + 40, 4, dsdt);
    acpi_pointer(tables, x_dsdt, 8, dsdt);
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

unsigned acpi_local_apic(uint8_t entry[ACPI_LOCAL_APIC_MAX], uint32_t uid, uint32_t apic_id, bool enabled)
{
    memset(entry, 0, ACPI_LOCAL_APIC_MAX);
    if (apic_id < 255) {
        entry[1] = 8;
        entry[2] = (uint8_t)uid;
        entry[3] = (uint8_t)apic_id;
        entry[4] = enabled;
    } else {
        entry[0] = 9; /* local x2APIC */
        entry[1] = 16;
        st32_le(entry + 4, apic_id);
        entry[8] = enabled;
        st32_le(entry + 12, uid);
    }
    return entry[1];
}

/* Every place of a CPU: a guest makes room for those that may come. */
static void put_cpus(AcpiTables *tables, const Machine *machine)
{
    for (unsigned index = 0; index < machine->config->max_cpus; index++) {
        uint8_t entry[ACPI_LOCAL_APIC_MAX];
        const Vcpu *vcpu = vcpu_at(machine, index);
        unsigned length = acpi_local_apic(entry, index, x86_apic_id_of(machine, index), vcpu != NULL);
        g_byte_array_append(tables->blob, entry, length);
    }
}

static void put_override(AcpiTables *tables, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    acpi_put(tables, 2, 1);
    acpi_put(tables, 10, 1);
    acpi_put(tables, 0, 1); /* bus ISA */
    acpi_put(tables, irq, 1);
    acpi_put(tables, gsi, 4);
    acpi_put(tables, flags, 2);
}

static void build_madt(AcpiTables *tables, Machine *machine, const AcpiPcInfo *info)
{
    enum { ACTIVE_HIGH_LEVEL = 0xd };
    static const uint8_t level_irqs[] = { 5, 9, 10, 11 };
    guint start = acpi_table_begin(tables, "APIC", 3);

    acpi_put(tables, 0xfee00000, 4);
    acpi_put(tables, 1, 4); /* PC-AT compatible: there are 8259s */
    put_cpus(tables, machine);
    if (info->ioapic) {
        acpi_put(tables, 1, 1);
        acpi_put(tables, 12, 1);
        acpi_put(tables, 0, 2); /* id, reserved */
        acpi_put(tables, 0xfec00000, 4);
        acpi_put(tables, 0, 4);
        put_override(tables, 0, 2, 0);
        for (size_t i = 0; i < ARRAY_SIZE(level_irqs); i++) {
            put_override(tables, level_irqs[i], level_irqs[i], ACTIVE_HIGH_LEVEL);
        }
    }
    acpi_put(tables, 4, 1); /* NMI on LINT1 of every CPU */
    acpi_put(tables, 6, 1);
    acpi_put(tables, 0xff, 1);
    acpi_put(tables, 0, 2);
    acpi_put(tables, 1, 1);
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

static void build_hpet(AcpiTables *tables)
{
    guint start = acpi_table_begin(tables, "HPET", 1);
    acpi_put(tables, 0x8086a201, 4);
    acpi_put(tables, 0, 4); /* address space: memory */
    acpi_put(tables, 0xfed00000, 8);
    acpi_put(tables, 0, 4);
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

/* Windows ACPI emulated devices table: timer and RTC behave well. */
static void build_waet(AcpiTables *tables)
{
    guint start = acpi_table_begin(tables, "WAET", 1);
    acpi_put(tables, BIT(1), 4); /* the PM timer needs one read only */
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

static Error *append_user_table(AcpiTables *tables, const char *argument)
{
    const char *file = g_str_has_prefix(argument, "file=") ? argument + strlen("file=") : argument;
    g_autofree char *content = NULL;
    g_autoptr(GError) gerr = NULL;
    gsize length;

    if (!g_file_get_contents(file, &content, &length, &gerr)) {
        return error_new("-acpitable: cannot read '%s': %s", file, gerr->message);
    }
    if (length < HEADER_LENGTH || ld32_le(content + 4) != length) {
        return error_new("-acpitable: '%s' is not an ACPI table: its header gives another length", file);
    }
    guint start = acpi_table_begin(tables, "USER", 1);
    g_byte_array_set_size(tables->blob, start);
    g_byte_array_append(tables->blob, (const uint8_t *)content, (guint)length);
    tables->blob->data[start + HEADER_CHECKSUM] = 0;
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
    return NULL;
}

static guint build_rsdt(AcpiTables *tables)
{
    guint start = acpi_table_begin(tables, "RSDT", 1);
    for (guint i = 0; i < tables->offsets->len; i++) {
        guint at = tables->blob->len;
        acpi_put(tables, 0, 4);
        acpi_pointer(tables, at, 4, g_array_index(tables->offsets, uint32_t, i));
    }
    acpi_table_end(tables, start);
    return start;
}

static Error *add_rsdp(AcpiTables *tables, FwCfg *fw, guint rsdt)
{
    uint8_t rsdp[20] = "RSD PTR ";
    memcpy(rsdp + 9, "OSTRCH", 6);
    st32_le(rsdp + 16, rsdt);
    loader_pointer(tables, RSDP_FILE, 16, 4, TABLES_FILE);
    loader_checksum(tables, RSDP_FILE, 8, 0, sizeof(rsdp));
    return fw_cfg_add_file(fw, RSDP_FILE, rsdp, sizeof(rsdp));
}

/* Firmware knows the file's size by the time that it has the tables built anew: that may not change by a few bytes. */
static void pad(GByteArray *blob)
{
    guint length = blob->len, whole = ALIGN_UP(length + 256, 4096u);

    g_byte_array_set_size(blob, whole);
    memset(blob->data + length, 0, whole - length);
}

Error *acpi_build_pc(Machine *machine, const AcpiPcInfo *info)
{
    AcpiTables tables;
    Error *err = NULL;

    acpi_tables_init(&tables);
    loader_allocate(&tables, RSDP_FILE, 16, true);
    loader_allocate(&tables, TABLES_FILE, 64, false);
    guint facs = build_facs(&tables);
    guint dsdt = acpi_table_begin(&tables, "DSDT", 1);
    acpi_pc_dsdt(machine, info, &tables);
    acpi_table_end(&tables, dsdt);
    build_fadt(&tables, info, facs, dsdt);
    build_madt(&tables, machine, info);
    if (info->hpet) {
        build_hpet(&tables);
    }
    build_waet(&tables);
    acpi_numa(&tables, machine, info);
    for (guint i = 0; !err && i < machine->config->acpi_tables->len; i++) {
        err = append_user_table(&tables, machine->config->acpi_tables->pdata[i]);
    }
    if (!err) {
        err = add_rsdp(&tables, machine->fw_cfg, build_rsdt(&tables));
    }
    if (!err) {
        pad(tables.blob);
        err = fw_cfg_add_file(machine->fw_cfg, TABLES_FILE, tables.blob->data, tables.blob->len);
    }
    if (!err) {
        err = fw_cfg_add_file(machine->fw_cfg, ACPI_LOADER_FILE, tables.loader->data, tables.loader->len);
    }
    acpi_tables_fini(&tables);
    return err;
}
