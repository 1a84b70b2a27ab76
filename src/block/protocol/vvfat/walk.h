/* The file system as the guest has left it. Private to the driver "vvfat". */
#ifndef OSTRICH_BLOCK_PROTOCOL_VVFAT_WALK_H
#define OSTRICH_BLOCK_PROTOCOL_VVFAT_WALK_H

#include "block/protocol/vvfat/vvfat.h"

typedef struct FatSeen {
    char *path; /* the guest's name for it, in UTF-8, without a slash in front */
    bool directory;
    uint32_t first; /* cluster; 0: none */
    uint64_t size;
    uint16_t date, time; /* of the last write, as FAT has them */
} FatSeen;

typedef struct Walk {
    Fat *fat;
    GPtrArray *seen;   /* FatSeen; a directory comes before what is in it */
    GHashTable *paths; /* of `seen`, borrowed */
    uint8_t *used;     /* clusters that a chain has */
    uint8_t window[2 * FAT_SECTOR]; /* of the table, from sector window_at on; 0: nothing */
    uint64_t window_at;
} Walk;

/* False: there are faults, or it cannot be read. fat_walk_fini() in either case. Blocks. */
bool fat_walk(Walk *walk, Fat *fat);
void fat_walk_fini(Walk *walk);
/* Of a chain that the walk has found good: whether the guest has written there since the last commit. */
bool fat_chain_is_dirty(Walk *walk, uint32_t first);
/* Reads a cluster and says which is next; 0: it cannot be read. */
uint32_t fat_read_chain(Walk *walk, uint32_t cluster, uint8_t *data);

#endif
