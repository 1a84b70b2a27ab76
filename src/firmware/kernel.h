/*
 * Direct kernel boot: -kernel, -initrd, -append. The image is prepared here and handed to the guest through
 * fw_cfg; a small boot ROM copies it into place and starts it.
 */
#ifndef OSTRICH_FIRMWARE_KERNEL_H
#define OSTRICH_FIRMWARE_KERNEL_H

#include "core/vm/machine.h"

typedef struct KernelImage {
    uint8_t *data; /* the file, owned */
    size_t size;
    const char *path;
} KernelImage;

/* Recognizes Linux bzImage and zImage, Multiboot 1 and PVH ELF images. ram_below_4g: bytes from 0. */
Error *kernel_load(Machine *machine, uint64_t ram_below_4g) MUST_USE;

/* --- the formats, each: NULL and *ret_found = false when the image is of another kind --- */
Error *kernel_load_linux(Machine *machine, KernelImage *image, uint64_t ram_below_4g, bool *ret_found) MUST_USE;
Error *kernel_load_multiboot(Machine *machine, KernelImage *image, uint64_t ram_below_4g, bool *ret_found) MUST_USE;
Error *kernel_load_pvh(Machine *machine, KernelImage *image, uint64_t ram_below_4g, bool *ret_found) MUST_USE;
/* Reads a whole file; the error names what it was for. */
Error *kernel_read_file(const char *what, const char *path, uint8_t **ret_data, size_t *ret_size) MUST_USE;
/* Offers a boot ROM to the firmware and puts it first in the boot order. */
Error *kernel_add_rom(Machine *machine, const char *name, const uint8_t *rom, size_t size) MUST_USE;

#endif
