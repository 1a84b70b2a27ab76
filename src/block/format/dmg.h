/*
 * Disk images of macOS (UDIF). A trailer says where the guest's data and its descriptions lie: an XML property list, or a
 * resource fork. Each description ("mish") is a list of chunks, of any length, packed or not. Private to the driver.
 */
#ifndef OSTRICH_BLOCK_FORMAT_DMG_H
#define OSTRICH_BLOCK_FORMAT_DMG_H

#include "block/node.h"

enum {
    DMG_SECTOR = 512,
    DMG_ZERO = 0,
    DMG_RAW = 1,
    DMG_IGNORE = 2, /* not in use by the file system: reads as zeroes */
};
#define DMG_ADC 0x80000004u
#define DMG_ZLIB 0x80000005u
#define DMG_BZIP2 0x80000006u
#define DMG_LZFSE 0x80000007u
#define DMG_LZMA 0x80000008u
#define DMG_MAX_CHUNK (64 * MiB) /* of packed ones, on either side */

typedef struct DmgChunk {
    uint64_t sector, count; /* of the disk */
    uint64_t offset, bytes; /* in the file */
    uint32_t type;
} DmgChunk;

/*
 * The chunks in the order of the disk: they do not overlap, lie inside the disk and, where they have data, inside the
 * file. *ret_size: of the disk, in bytes. The caller owns *ret_chunks.
 */
Error *dmg_read_table_co(BlockNode *file, GArray **ret_chunks, uint64_t *ret_size) MUST_USE;

/* A chunk in `from` into `to`, which it must fill; packed with ADC, Apple's byte-wise code. 0 or -EIO. */
int dmg_unpack_adc(const uint8_t *from, size_t from_bytes, uint8_t *to, size_t to_bytes);

#endif
