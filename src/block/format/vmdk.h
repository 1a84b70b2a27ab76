/* Driver "vmdk": what its files share. */
#ifndef OSTRICH_BLOCK_FORMAT_VMDK_H
#define OSTRICH_BLOCK_FORMAT_VMDK_H

#include "block/format/blockmap.h"
#include "block/format/meta.h"

enum {
    VMDK_MAGIC = 0x564d444b, /* "KDMV" */
    VMDK_HEADER = 512,
    VMDK_MAX_DESCRIPTOR = 64 * 1024,
    VMDK_MAX_EXTENTS = 1024,
    VMDK_GT_ENTRIES = 512,
    VMDK_GRAIN = 65536, /* of new images */
    VMDK_FLAG_NEWLINES = BIT(0),
    VMDK_FLAG_REDUNDANT = BIT(1),
    VMDK_FLAG_ZEROED_GRAIN = BIT(2),
    VMDK_FLAG_COMPRESSED = BIT(16),
    VMDK_FLAG_MARKERS = BIT(17),
    /* fields of the sparse header */
    H_VERSION = 4,
    H_FLAGS = 8,
    H_CAPACITY = 12,
    H_GRAIN = 20,
    H_DESC_OFFSET = 28,
    H_DESC_SIZE = 36,
    H_GT_ENTRIES = 44,
    H_RGD = 48,
    H_GD = 56,
    H_OVERHEAD = 64,
    H_CHECK = 73,
    H_COMPRESSION = 77,
};
#define VMDK_GD_AT_END UINT64_MAX

typedef enum VmdkExtentKind { EXTENT_FLAT, EXTENT_ZERO, EXTENT_SPARSE } VmdkExtentKind;

typedef struct VmdkExtent {
    VmdkExtentKind kind;
    BlockNode *file;      /* borrowed from the child; NULL: zeroes */
    uint64_t start, size; /* bytes of the disk */
    uint64_t flat_offset;
    /* sparse */
    uint64_t grain, gd, rgd; /* bytes; rgd 0: none */
    uint64_t gt_entries, end;
    unsigned version, flags;
    MetaCache meta;
} VmdkExtent;

typedef struct Vmdk {
    BlockMap map;
    VmdkExtent *extents;
    unsigned count;
    char *descriptor, *create_type;
    uint64_t descriptor_offset, descriptor_size; /* of its place in the image's file */
    uint32_t cid, parent_cid;
    bool cid_changed, compressed;
    bool parent_checked, parent_differs; /* the backing image, when it was read first */
    CoMutex lock; /* guards the making of grain tables */
} Vmdk;

/* --- descriptors --- */
/* The value of a key, without quotes; NULL: not there. Caller frees. */
char *vmdk_descriptor_value(const char *descriptor, const char *key);
/* An extent line: what it says, or NULL at the end. */
typedef struct VmdkExtentLine {
    char access[16], type[16], name[512];
    char text[1024]; /* the line */
    uint64_t sectors, offset;
    bool valid;
} VmdkExtentLine;
/* *cursor moves on; false at the end. */
bool vmdk_next_extent(const char **cursor, VmdkExtentLine *ret_line);

/* --- opening (vmdk_open.c) --- */
/* Finds the extents and the descriptor; what it leaves behind when it fails is the caller's to free. */
Error *vmdk_open_image_co(BlockNode *node) MUST_USE;

/* --- creating --- */
Error *vmdk_create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts);
extern const BlockOption vmdk_create_options[];

#endif
