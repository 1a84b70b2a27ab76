/* The parts of an ELF file that loading a kernel needs; 32 and 64 bit, little endian. */
#ifndef OSTRICH_FIRMWARE_ELF_H
#define OSTRICH_FIRMWARE_ELF_H

#include "base/error.h"

typedef struct ElfSegment {
    uint32_t type; /* ELF_LOAD, ELF_NOTE */
    uint64_t offset, vaddr, paddr, file_size, mem_size;
} ElfSegment;
enum { ELF_LOAD = 1, ELF_NOTE = 4 };

typedef struct ElfImage {
    bool is64;
    uint16_t machine;
    uint64_t entry;
    GArray *segments; /* ElfSegment */
} ElfImage;

bool elf_is(const uint8_t *data, size_t size);
/* All offsets are checked against size. */
Error *elf_parse(const char *path, const uint8_t *data, size_t size, ElfImage *ret_image) MUST_USE;
void elf_fini(ElfImage *image);
/* The loadable segments as one piece of memory from *ret_start; at most `limit` bytes. Caller frees. */
Error *elf_flatten(const char *path, const uint8_t *data, const ElfImage *image, uint64_t limit, uint8_t **ret_memory,
                   uint64_t *ret_start, uint64_t *ret_size) MUST_USE;

/* Where an address of the program (its entry point, say) is loaded. */
uint64_t elf_physical(const ElfImage *image, uint64_t addr);

#endif
