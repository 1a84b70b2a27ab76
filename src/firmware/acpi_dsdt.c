/*
 * The DSDT of an i440FX PC: the PCI root with its windows and interrupt routing, the PIIX3's PIRQ links, ISA
 * devices, sleep states. PIRQ route registers are 0x60..0x63 of the ISA bridge (function 0 of
 * slot 1); slot s, pin p goes to link (s - 1 + p) mod 4, and slot 1 is the chipset itself.
 */
#include <string.h>

#include "bus/isa.h"
#include "firmware/acpi.h"

static void name_package(Aml *a, const char *name, const uint8_t values[4])
{
    aml_name(a, name);
    aml_package(a, 4);
    for (int i = 0; i < 4; i++) {
        aml_int(a, values[i]);
    }
    aml_end(a);
}

static void sleep_states(Aml *a, const AcpiPcInfo *info)
{
    if (info->s3) {
        name_package(a, "\\_S3", (const uint8_t[]) { 1, 1, 0, 0 });
    }
    if (info->s4) {
        name_package(a, "\\_S4", (const uint8_t[]) { info->s4_type, info->s4_type, 0, 0 });
    }
    name_package(a, "\\_S5", (const uint8_t[]) { 0, 0, 0, 0 });
}

/* --- interrupt routing --- */

static void routing_table(Aml *a)
{
    static const char *const links[] = { "LNKA", "LNKB", "LNKC", "LNKD" };
    aml_name(a, "_PRT");
    aml_package(a, 31 * 4);
    for (unsigned slot = 1; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            /* The power management function's pin A is the SCI. */
            aml_path(a, slot == 1 && pin == 0 ? "LNKS" : links[(slot - 1 + pin) & 3]);
            aml_int(a, 0);
            aml_end(a);
        }
    }
    aml_end(a);
}

static void irq_buffer_method(Aml *a, const char *prq)
{
    /* _CRS: the current route, bit 7 of the register means "not routed". */
    static const uint32_t none = 0;
    aml_method(a, "_CRS", 0, true);
    aml_name(a, "BUF0");
    aml_resources(a);
    aml_res_irq_extended(a, &none, 1);
    aml_resources_end(a);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_path(a, "BUF0");
    aml_int(a, 5);
    aml_path(a, "IRQN");
    aml_if(a);
    aml_op(a, AML_LLESS);
    aml_path(a, prq);
    aml_int(a, 0x80);
    aml_op(a, AML_STORE);
    aml_path(a, prq);
    aml_path(a, "IRQN");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_path(a, "BUF0");
    aml_end(a);
}

static void link_device(Aml *a, const char *name, unsigned uid, const char *prq)
{
    static const uint32_t choices[] = { 5, 10, 11 };

    aml_device(a, name);
    aml_name_eisaid(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", uid);
    aml_name(a, "_PRS");
    aml_resources(a);
    aml_res_irq_extended(a, choices, ARRAY_SIZE(choices));
    aml_resources_end(a);
    irq_buffer_method(a, prq);

    aml_method(a, "_STA", 0, false);
    aml_if(a);
    aml_op(a, AML_AND);
    aml_path(a, prq);
    aml_int(a, 0x80);
    aml_op(a, AML_ZERO);
    aml_return_int(a, 9);
    aml_end(a);
    aml_return_int(a, 0xb);
    aml_end(a);

    aml_method(a, "_DIS", 0, false);
    aml_op(a, AML_OR);
    aml_path(a, prq);
    aml_int(a, 0x80);
    aml_path(a, prq);
    aml_end(a);

    aml_method(a, "_SRS", 1, true);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_op(a, AML_ARG0);
    aml_int(a, 5);
    aml_path(a, "IRQS");
    aml_op(a, AML_STORE);
    aml_path(a, "IRQS");
    aml_path(a, prq);
    aml_end(a);
    aml_end(a);
}

/* The SCI, always interrupt 9. */
static void sci_link(Aml *a)
{
    static const uint32_t sci = 9;
    static const char *const names[] = { "_PRS", "_CRS" };
    aml_device(a, "LNKS");
    aml_name_eisaid(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", 4);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        aml_name(a, names[i]);
        aml_resources(a);
        aml_res_irq_extended(a, &sci, 1);
        aml_resources_end(a);
    }
    aml_method(a, "_SRS", 1, false);
    aml_end(a);
    aml_method(a, "_DIS", 0, false);
    aml_end(a);
    aml_method(a, "_STA", 0, false);
    aml_return_int(a, 0xb);
    aml_end(a);
    aml_end(a);
}

/* --- ISA devices --- */

static bool has_part(const AcpiPcInfo *info, const char *part)
{
    return info->ports && g_strv_contains(info->ports, part);
}

static void begin_isa(Aml *a, const char *name, const char *hid)
{
    aml_device(a, name);
    aml_name_eisaid(a, "_HID", hid);
}

static void pvpanic_device(Aml *a, uint16_t port)
{
    aml_device(a, "PEVT");
    aml_name_string(a, "_HID", "QEMU0001");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_io(a, port, port, 1, 1);
    aml_resources_end(a);
    aml_name_int(a, "_STA", 0xf);
    aml_op_region(a, "PEOR", AML_SYSTEM_IO, port, 1);
    aml_field(a, "PEOR", 1);
    aml_field_entry(a, "PEPT", 8);
    aml_end(a);
    aml_end(a);
}

static void isa_devices(Aml *a, Machine *machine, const AcpiPcInfo *info)
{
    static const struct {
        const char *name;
        uint16_t port;
        uint8_t irq;
    } serial[] = { { "COM1", 0x3f8, 4 }, { "COM2", 0x2f8, 3 }, { "COM3", 0x3e8, 4 }, { "COM4", 0x2e8, 3 } };

    begin_isa(a, "RTC", "PNP0B00");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_io(a, 0x70, 0x70, 1, 8);
    aml_res_irq(a, BIT(8));
    aml_resources_end(a);
    aml_end(a);

    if (has_part(info, "KBD")) {
        begin_isa(a, "KBD", "PNP0303");
        aml_name_int(a, "_STA", 0xf);
        aml_name(a, "_CRS");
        aml_resources(a);
        aml_res_io(a, 0x60, 0x60, 1, 1);
        aml_res_io(a, 0x64, 0x64, 1, 1);
        aml_res_irq(a, BIT(1));
        aml_resources_end(a);
        aml_end(a);
        begin_isa(a, "MOU", "PNP0F13");
        aml_name_int(a, "_STA", 0xf);
        aml_name(a, "_CRS");
        aml_resources(a);
        aml_res_irq(a, BIT(12));
        aml_resources_end(a);
        aml_end(a);
    }
    if (has_part(info, "FDC0")) {
        begin_isa(a, "FDC0", "PNP0700");
        aml_name(a, "_CRS");
        aml_resources(a);
        aml_res_io(a, 0x3f2, 0x3f2, 0, 4);
        aml_res_io(a, 0x3f7, 0x3f7, 0, 1);
        aml_res_irq(a, BIT(6));
        aml_res_dma(a, BIT(2));
        aml_resources_end(a);
        aml_end(a);
    }
    if (has_part(info, "LPT1")) {
        begin_isa(a, "LPT1", "PNP0400");
        aml_name_int(a, "_UID", 1);
        aml_name(a, "_CRS");
        aml_resources(a);
        aml_res_io(a, 0x378, 0x378, 8, 8);
        aml_res_irq(a, BIT(7));
        aml_resources_end(a);
        aml_end(a);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(serial); i++) {
        if (has_part(info, serial[i].name)) {
            begin_isa(a, serial[i].name, "PNP0501");
            aml_name_int(a, "_UID", i + 1);
            aml_name(a, "_CRS");
            aml_resources(a);
            aml_res_io(a, serial[i].port, serial[i].port, 0, 8);
            aml_res_irq(a, (uint16_t)BIT(serial[i].irq));
            aml_resources_end(a);
            aml_end(a);
        }
    }
    const uint16_t *pvpanic = machine_service(machine, ISA_PVPANIC_SERVICE);
    if (pvpanic) {
        pvpanic_device(a, *pvpanic);
    }
}

/* --- the PCI root --- */

static void root_windows(Aml *a, const AcpiPcInfo *info)
{
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_word(a, AML_RES_BUS, 0, 0xff);
    aml_res_io(a, 0xcf8, 0xcf8, 1, 8);
    aml_res_word(a, AML_RES_IO, 0, 0x0cf7);
    aml_res_word(a, AML_RES_IO, 0x0d00, 0xffff);
    aml_res_dword(a, AML_RES_MEMORY, 0xa0000, 0xbffff, true);
    aml_res_dword(a, AML_RES_MEMORY, (uint32_t)info->pci_hole_start, (uint32_t)(info->pci_hole_end - 1), false);
    if (info->pci_hole64_start) {
        aml_res_qword(a, AML_RES_MEMORY, info->pci_hole64_start, info->pci_hole64_end - 1, true);
    }
    aml_resources_end(a);
}

static void pci_root(Aml *a, Machine *machine, const AcpiPcInfo *info)
{
    aml_device(a, "PCI0");
    aml_name_eisaid(a, "_HID", "PNP0A03");
    aml_name_int(a, "_ADR", 0);
    aml_name_int(a, "_UID", 0);
    root_windows(a, info);
    routing_table(a);

    aml_device(a, "ISA");
    aml_name_int(a, "_ADR", 0x10000);
    aml_op_region(a, "P40C", AML_PCI_CONFIG, 0x60, 4);
    isa_devices(a, machine, info);
    aml_end(a);

    aml_device(a, "PX13"); /* power management function */
    aml_name_int(a, "_ADR", 0x10003);
    aml_end(a);
    acpi_pci_hotplug_root(a, machine);
    aml_end(a);
}

static void pirq_links(Aml *a)
{
    static const char *const links[] = { "LNKA", "LNKB", "LNKC", "LNKD" };
    static const char *const routes[] = { "PRQ0", "PRQ1", "PRQ2", "PRQ3" };

    aml_scope(a, "\\_SB");
    aml_field(a, "PCI0.ISA.P40C", 1);
    for (int i = 0; i < 4; i++) {
        aml_field_entry(a, routes[i], 8);
    }
    aml_end(a);
    for (unsigned i = 0; i < 4; i++) {
        link_device(a, links[i], i, routes[i]);
    }
    sci_link(a);
    aml_end(a);
}

static void hpet_device(Aml *a)
{
    aml_device(a, "HPET");
    aml_name_eisaid(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_memory32(a, 0xfed00000, 0x400, false);
    aml_resources_end(a);
    aml_end(a);
}

static void fw_cfg_device(Aml *a)
{
    aml_device(a, "FWCF");
    aml_name_string(a, "_HID", "QEMU0002");
    aml_name_int(a, "_STA", 0xb);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_res_io(a, 0x510, 0x510, 1, 12);
    aml_resources_end(a);
    aml_end(a);
}

void acpi_pc_dsdt(Machine *machine, const AcpiPcInfo *info, AcpiTables *tables)
{
    Aml aml, *a = &aml;

    aml_init(a, tables->blob);
    aml_scope(a, "\\_SB");
    pci_root(a, machine, info);
    if (info->hpet) {
        hpet_device(a);
    }
    fw_cfg_device(a);
    aml_end(a);
    pirq_links(a);
    acpi_cpus(a, machine);
    acpi_memory(a, machine);
    sleep_states(a, info);
    aml_scope(a, "\\_GPE");
    aml_name_string(a, "_HID", "ACPI0006");
    acpi_pci_hotplug_event(a, machine);
    acpi_cpus_event(a, machine);
    acpi_memory_event(a, machine);
    aml_end(a);
    aml_fini(a);
}
