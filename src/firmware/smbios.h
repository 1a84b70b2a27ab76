/*
 * SMBIOS tables (DSP0134): what dmidecode shows in the guest.
 */
#ifndef OSTRICH_FIRMWARE_SMBIOS_H
#define OSTRICH_FIRMWARE_SMBIOS_H

#include "core/vm/machine.h"

typedef struct SmbiosInfo {
    const char *manufacturer, *product, *version; /* of the system, when -smbios type=1 says nothing */
    uint64_t ram_below_4g, ram_above_4g;
    uint32_t cpuid_signature, cpuid_features; /* leaf 1: eax, edx */
} SmbiosInfo;

/* Checks an argument of -smbios without building anything. */
Error *smbios_check_option(const char *argument) MUST_USE;
/* Builds the tables and adds the fw_cfg files etc/smbios/smbios-tables and -anchor. */
Error *smbios_build(Machine *machine, const SmbiosInfo *info) MUST_USE;

#endif
