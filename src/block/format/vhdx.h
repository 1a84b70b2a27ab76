/* Driver "vhdx": the layout, as MS-VHDX names it, and what its files share. */
#ifndef OSTRICH_BLOCK_FORMAT_VHDX_H
#define OSTRICH_BLOCK_FORMAT_VHDX_H

#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    VHDX_HEADER = 4096, /* of which the checksum covers all */
    VHDX_REGION_TABLE = 65536,
    VHDX_METADATA_TABLE = 65536,
    VHDX_LOG_SECTOR = 4096,
    VHDX_HEADER_1 = 64 * 1024,
    VHDX_HEADER_2 = 128 * 1024,
    VHDX_REGION_1 = 192 * 1024,
    VHDX_REGION_2 = 256 * 1024,
    /* header */
    VH_CHECKSUM = 4,
    VH_SEQUENCE = 8,
    VH_FILE_GUID = 16,
    VH_DATA_GUID = 32,
    VH_LOG_GUID = 48,
    VH_LOG_VERSION = 64,
    VH_VERSION = 66,
    VH_LOG_LENGTH = 68,
    VH_LOG_OFFSET = 72,
    /* states of a block */
    BAT_NOT_PRESENT = 0,
    BAT_UNDEFINED = 1,
    BAT_ZERO = 2,
    BAT_UNMAPPED = 3,
    BAT_UNMAPPED_V095 = 5,
    BAT_FULLY_PRESENT = 6,
    BAT_PARTIALLY_PRESENT = 7,
    BAT_STATE = 7,
};
#define BAT_OFFSET    (~(uint64_t)(MiB - 1))
#define VHDX_MAX_SIZE (64ull << 40)

typedef struct VhdxGuid {
    uint8_t byte[16]; /* as on disk */
} VhdxGuid;
extern const VhdxGuid vhdx_guid_bat, vhdx_guid_metadata, vhdx_guid_file_parameters,
    vhdx_guid_disk_size, vhdx_guid_page83, vhdx_guid_logical_sector, vhdx_guid_physical_sector,
    vhdx_guid_parent_locator;
VhdxGuid vhdx_guid_new(void);

typedef struct Vhdx {
    MetaCache meta;
    BlockMap map;
    uint8_t header[VHDX_HEADER]; /* the current one */
    unsigned header_index;       /* 0 or 1: where it lies */
    bool header_changed;         /* this program has written it */
    bool replayed;               /* opening has played back the log */
    uint64_t bat, bat_entries, metadata, metadata_length;
    uint64_t chunk_ratio, end;
    uint32_t sector;
} Vhdx;

/* CRC-32C. The four bytes at `field` count as zero. */
uint32_t vhdx_checksum(const uint8_t *data, size_t length, size_t field);
/* Writes the header's contents over the older of the two, with the next sequence number. */
int vhdx_write_header_co(BlockNode *node);

/* Plays the log back when it is not empty; an error for an image that is opened read-only. */
Error *vhdx_replay_log_co(BlockNode *node) MUST_USE;
Error *vhdx_create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts);
extern const BlockOption vhdx_create_options[];

#endif
