/*
 * The firmware configuration device: numbered items and named files that firmware reads at boot.
 */
#ifndef OSTRICH_FIRMWARE_FW_CFG_H
#define OSTRICH_FIRMWARE_FW_CFG_H

#include "core/vm/machine.h"

typedef struct FwCfg FwCfg;

/* Selector keys (docs/specs/fw_cfg of the interface). */
enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH = 0x8000,
    FW_CFG_ACPI_TABLES = 0x8000,
    FW_CFG_SMBIOS_ENTRIES = 0x8001,
    FW_CFG_IRQ0_OVERRIDE = 0x8002,
    FW_CFG_E820_TABLE = 0x8003,
    FW_CFG_HPET = 0x8004,
};

/* The device at ports 0x510..0x51b with DMA; sets machine->fw_cfg. */
FwCfg *fw_cfg_create(Machine *machine);

/* Items: the bytes are copied; a key that exists already is replaced. */
void fw_cfg_set_bytes(FwCfg *fw, uint16_t key, const void *data, size_t length);
/* The same of what g_malloc() gave, which is the device's from then on. */
void fw_cfg_give_bytes(FwCfg *fw, uint16_t key, void *data, size_t length);
void fw_cfg_set_u16(FwCfg *fw, uint16_t key, uint16_t value);
void fw_cfg_set_u32(FwCfg *fw, uint16_t key, uint32_t value);
void fw_cfg_set_u64(FwCfg *fw, uint16_t key, uint64_t value);
void fw_cfg_set_str(FwCfg *fw, uint16_t key, const char *text); /* with its final zero */

/*
 * Files: at most 55 characters of name. The same name again replaces the content. New files may be added
 * until the guest first runs; keys follow the order of names.
 */
Error *fw_cfg_add_file(FwCfg *fw, const char *name, const void *data, size_t length) MUST_USE;
/* select is called when the guest selects the file, before it reads. */
Error *fw_cfg_add_file_callback(FwCfg *fw, const char *name, const void *data, size_t length,
                                void (*select)(void *opaque), void (*written)(void *opaque, size_t offset, size_t length),
                                void *opaque, bool writable) MUST_USE;
/*
 * Called whenever the guest selects the file, before it reads; a file that takes its place, also one that select itself adds, is not
 * watched any more. No effect where there is no such file.
 */
void fw_cfg_on_select(FwCfg *fw, const char *name, void (*select)(void *opaque), void *opaque);
/* The file's bytes, borrowed; NULL when there is none. */
uint8_t *fw_cfg_file_data(FwCfg *fw, const char *name, size_t *ret_length);
/* -fw_cfg name=NAME,file=PATH or name=NAME,string=TEXT. */
Error *fw_cfg_add_user_item(FwCfg *fw, const char *argument) MUST_USE;

#endif
