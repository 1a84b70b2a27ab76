/*
 * Parallel NOR flash with the Intel command set. The board makes the device "cfi.pflash01", sets its properties, plugs it, and maps
 * its region.
 */
#ifndef OSTRICH_HW_BLOCK_PFLASH_CFI01_H
#define OSTRICH_HW_BLOCK_PFLASH_CFI01_H

#include "core/vm/machine.h"

typedef struct Pflash Pflash;

/*
 * A flash of `size` bytes in sectors of `sector` bytes, its content in the drive. name: of its memory ("system.flash0"), also the
 * child of /machine. is_secure: with secure=on the flash obeys commands only while this says so (system management mode).
 */
Error *pflash_create(Machine *machine, const char *name, const char *drive, uint64_t size, uint32_t sector,
                     bool (*is_secure)(void *opaque), void *opaque, Pflash **ret_flash) MUST_USE;
/* Borrowed. */
MemRegion *pflash_region(Pflash *flash);
/* What the guest would read in the array. */
const uint8_t *pflash_content(const Pflash *flash);

#endif
