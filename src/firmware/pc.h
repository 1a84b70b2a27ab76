/*
 * Everything that a PC's firmware finds in fw_cfg: memory map, boot options, ACPI, SMBIOS, kernel.
 */
#ifndef OSTRICH_FIRMWARE_PC_H
#define OSTRICH_FIRMWARE_PC_H

#include "firmware/acpi.h"
#include "firmware/smbios.h"

typedef struct PcFirmwareInfo {
    uint64_t ram_below_4g, ram_above_4g;
    uint64_t reserved_end; /* addresses for memory that may come end there; 0: none */
    AcpiPcInfo acpi;
    SmbiosInfo smbios; /* its memory fields are filled from the above */
} PcFirmwareInfo;

/* In the board's build, after fw_cfg_create(): what does not depend on devices. */
Error *pc_firmware_begin(Machine *machine, const PcFirmwareInfo *info) MUST_USE;
/* In the board's finish, when all devices are there. */
Error *pc_firmware_finish(Machine *machine, const PcFirmwareInfo *info) MUST_USE;
/* The tables anew, for the boot to come, after CPUs or memory have come or gone. */
Error *pc_firmware_refresh(Machine *machine, const PcFirmwareInfo *info) MUST_USE;

#endif
