/* The boot ROMs, assembled from the sources beside this file. */
#ifndef OSTRICH_FIRMWARE_ROM_ROMS_H
#define OSTRICH_FIRMWARE_ROM_ROMS_H

#include "base/base.h"

extern const uint8_t rom_linuxboot[], rom_multiboot[], rom_pvh[];
extern const size_t rom_linuxboot_size, rom_multiboot_size, rom_pvh_size;

#endif
