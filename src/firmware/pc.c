#include "firmware/pc.h"

#include <string.h>

#include "base/endian.h"
#include "cpu/x86/vcpu_x86.h"
#include "firmware/bootorder.h"
#include "firmware/fw_cfg.h"
#include "firmware/kernel.h"

/* --- memory map: address (64), length (64), type (32) --- */

enum { E820_RAM = 1, E820_RESERVED = 2, E820_ENTRY = 20 };

static void e820_add(GByteArray *map, uint64_t start, uint64_t length, uint32_t type)
{
    uint8_t entry[E820_ENTRY];
    if (length) {
        st64_le(entry, start);
        st64_le(entry + 8, length);
        st32_le(entry + 16, type);
        g_byte_array_append(map, entry, sizeof(entry));
    }
}

static Error *publish_memory_map(Machine *machine, const PcFirmwareInfo *info)
{
    g_autoptr(GByteArray) map = g_byte_array_new();
    e820_add(map, 0, info->ram_below_4g, E820_RAM);
    e820_add(map, 4 * GiB, info->ram_above_4g, E820_RAM);
    return fw_cfg_add_file(machine->fw_cfg, "etc/e820", map->data, map->len);
}

/* --- boot options --- */

static Error *add_number_file(FwCfg *fw, const char *name, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    return fw_cfg_add_file(fw, name, bytes, size);
}

/* The picture's kind is told by its first bytes. */
static Error *add_splash(Machine *machine)
{
    const MachineConfig *config = machine->config;
    g_autofree char *path = NULL;
    g_autofree uint8_t *data = NULL;
    size_t size;

    if (config->boot_splash_time >= 0) {
        TRY(add_number_file(machine->fw_cfg, "etc/boot-menu-wait", (uint64_t)config->boot_splash_time, 2));
    }
    if (!config->boot_splash) {
        return NULL;
    }
    TRY(machine_find_file(machine, config->boot_splash, &path));
    TRY(kernel_read_file("-boot splash", path, &data, &size));
    bool jpeg = size > 2 && data[0] == 0xff && data[1] == 0xd8, bmp = size > 2 && data[0] == 'B' && data[1] == 'M';
    if (!jpeg && !bmp) {
        return error_new("-boot splash: '%s' is neither a JPEG nor a BMP picture", path);
    }
    return fw_cfg_add_file(machine->fw_cfg, jpeg ? "bootsplash.jpg" : "bootsplash.bmp", data, size);
}

static Error *add_boot_options(Machine *machine)
{
    const MachineConfig *config = machine->config;
    FwCfg *fw = machine->fw_cfg;

    fw_cfg_set_u16(fw, FW_CFG_BOOT_MENU, config->boot_menu);
    TRY(add_splash(machine));
    /* All ones: do not try again. */
    return add_number_file(fw, "etc/boot-fail-wait", (uint64_t)config->boot_reboot_timeout, 4);
}

/* The BIOS of a display adapter without a ROM BAR (ISA): the adapter names its image. */
static Error *add_vga_rom(Machine *machine)
{
    const char *file = machine_service(machine, "vga-rom");
    g_autofree char *path = NULL, *name = NULL;
    g_autofree uint8_t *data = NULL;
    size_t size;
    if (!file) {
        return NULL;
    }
    TRY(machine_find_file(machine, file, &path));
    TRY(kernel_read_file("VGA BIOS", path, &data, &size));
    name = g_strconcat("vgaroms/", file, NULL);
    return fw_cfg_add_file(machine->fw_cfg, name, data, size);
}

static Error *add_option_roms(Machine *machine)
{
    TRY(add_vga_rom(machine));
    for (guint i = 0; i < machine->config->option_roms->len; i++) {
        g_autofree char *path = NULL;
        g_autofree uint8_t *data = NULL;
        size_t size;
        TRY(machine_find_file(machine, machine->config->option_roms->pdata[i], &path));
        TRY(kernel_read_file("-option-rom", path, &data, &size));
        g_autofree char *base = g_path_get_basename(path);
        g_autofree char *name = g_strconcat("genroms/", base, NULL);
        TRY(fw_cfg_add_file(machine->fw_cfg, name, data, size));
    }
    return NULL;
}

static Error *add_user_items(Machine *machine)
{
    for (guint i = 0; i < machine->config->fw_cfg_items->len; i++) {
        TRY(fw_cfg_add_user_item(machine->fw_cfg, machine->config->fw_cfg_items->pdata[i]));
    }
    return NULL;
}

/* Bits 7: a state exists; low bits: its SLP_TYP. */
static Error *add_system_states(Machine *machine, const PcFirmwareInfo *info)
{
    uint8_t states[6] = { 128, 0, 0, 129, 130, 128 };
    states[3] = info->acpi.s3 ? 0x81 : 1;
    states[4] = (info->acpi.s4 ? 0x80 : 0) | info->acpi.s4_type;
    return fw_cfg_add_file(machine->fw_cfg, "etc/system-states", states, sizeof(states));
}

static void forget_boot_order(void *machine)
{
    bootorder_free(machine);
}

Error *pc_firmware_begin(Machine *machine, const PcFirmwareInfo *info)
{
    const MachineConfig *config = machine->config;
    FwCfg *fw = machine->fw_cfg;

    device_on_unplug((Device *)fw, forget_boot_order, machine);
    fw_cfg_set_bytes(fw, FW_CFG_UUID, config->uuid.byte, 16);
    fw_cfg_set_u64(fw, FW_CFG_RAM_SIZE, info->ram_below_4g + info->ram_above_4g);
    fw_cfg_set_u16(fw, FW_CFG_NOGRAPHIC, !config->graphics);
    fw_cfg_set_u16(fw, FW_CFG_NB_CPUS, (uint16_t)config->cpus);
    fw_cfg_set_u16(fw, FW_CFG_MAX_CPUS, (uint16_t)(x86_apic_id_of(machine, config->max_cpus - 1) + 1));
    fw_cfg_set_u32(fw, FW_CFG_IRQ0_OVERRIDE, 1);
    fw_cfg_set_u16(fw, FW_CFG_BOOT_DEVICE, 0);
    TRY(publish_memory_map(machine, info));
    if (info->reserved_end) {
        TRY(add_number_file(fw, "etc/reserved-memory-end", info->reserved_end, 8));
    }
    TRY(add_boot_options(machine));
    return add_user_items(machine);
}

Error *pc_firmware_refresh(Machine *machine, const PcFirmwareInfo *info)
{
    return machine->config->acpi ? acpi_build_pc(machine, &info->acpi) : NULL;
}

Error *pc_firmware_finish(Machine *machine, const PcFirmwareInfo *info)
{
    SmbiosInfo smbios = info->smbios;

    smbios.ram_below_4g = info->ram_below_4g;
    smbios.ram_above_4g = info->ram_above_4g;
    TRY(smbios_build(machine, &smbios));
    if (machine->config->acpi) {
        TRY(acpi_build_pc(machine, &info->acpi));
        TRY(add_system_states(machine, info));
    }
    TRY(add_option_roms(machine));
    if (machine->config->kernel) {
        TRY(kernel_load(machine, info->ram_below_4g));
    } else if (machine->config->initrd) {
        return error_new("-initrd needs a kernel: give -kernel too");
    } else if (machine->config->append) {
        return error_new("-append needs a kernel: give -kernel too");
    }
    return bootorder_publish(machine);
}
