/*
 * A directory of the host as a FAT file system: what the files of this folder share. Private to the driver "vvfat".
 *
 * The volume is laid out when it is opened: every file and directory has a run of clusters of its own, so the tables follow
 * from the runs and are made as they are read. What is kept grows with the number of files, not with what they hold.
 *
 * Invariant: a sector that the guest has written is in the overlay and is never again read from anywhere else; so is
 * a sector of a host file before that file is changed or removed.
 */
#ifndef OSTRICH_BLOCK_PROTOCOL_VVFAT_H
#define OSTRICH_BLOCK_PROTOCOL_VVFAT_H

#include "block/node.h"

enum {
    FAT_SECTOR = 512,
    FAT_ENTRY = 32,      /* of a directory */
    FAT_MAX_DEPTH = 32,  /* of directories in each other */
    FAT_MAX_ITEMS = 1 << 17,
    FAT_NAME_MAX = 255,  /* units of UTF-16 */
    ATTR_READ_ONLY = 1,
    ATTR_LABEL = 8,
    ATTR_DIRECTORY = 16,
    ATTR_ARCHIVE = 32,
    ATTR_LONG_NAME = 15,
};

/* A file or directory, as it was laid out or last written back. */
typedef struct FatItem {
    char *path;      /* in the host's directory; "" is that directory itself */
    char *guest_path; /* the guest's name for it */
    bool directory;
    bool gone;       /* its sectors are in the overlay: the host's file is not read for it any more */
    uint32_t first;  /* cluster; 0: it has none */
    uint32_t clusters;
    uint64_t size;   /* of a file */
    GByteArray *entries; /* of a directory */
} FatItem;

typedef struct FatLayout {
    unsigned bits; /* 12, 16, 32 */
    bool floppy;
    uint64_t sectors;            /* of the disk */
    uint32_t start, volume;      /* the volume: first sector, how many */
    uint32_t heads, per_track;
    uint32_t reserved, fat_sectors, root_entries, root_sectors, per_cluster, clusters;
} FatLayout;

typedef struct Fat {
    char *dir;
    int dir_fd;
    bool rw;
    char label[12];
    FatLayout layout;
    GPtrArray *items; /* FatItem, those with clusters first, in their order; the root is `root` */
    FatItem *root;
    uint32_t with_clusters; /* how many of `items` have a run */
    /* The file that was read last; -1: none. */
    int open_fd;
    const FatItem *open_item;
    /* What the guest has written; without `rw` there is none. */
    int overlay_fd;
    uint8_t *written; /* a bit a sector */
    uint8_t *dirty;   /* since the host's directory was last brought up to date */
    bool changed;      /* `dirty` is not empty */
    GHashTable *known; /* by the guest's path: FatKnown; see commit.c */
} Fat;

static inline uint32_t fat_cluster_bytes(const FatLayout *l)
{
    return l->per_cluster * FAT_SECTOR;
}
/* The volume's sector where the data begin, and where a cluster does. */
static inline uint32_t fat_data_start(const FatLayout *l)
{
    return l->reserved + 2 * l->fat_sectors + l->root_sectors;
}
static inline uint64_t fat_cluster_sector(const FatLayout *l, uint32_t cluster)
{
    return l->start + fat_data_start(l) + (uint64_t)(cluster - 2) * l->per_cluster;
}

/* --- tree.c: the host's directory becomes items --- */
/* fat->dir_fd is open. With `bits` 0 the kind is chosen. Blocks. */
Error *fat_read_tree(Fat *fat, unsigned bits, bool floppy) MUST_USE;
void fat_free_tree(Fat *fat);
/* The 8.3 name's check sum that long names carry. */
uint8_t fat_name_sum(const uint8_t name[11]);

/* --- image.c: what the guest sees --- */
/* All of these block. 0 or -errno. */
int fat_read(Fat *fat, uint64_t sector, uint64_t count, uint8_t *data);
int fat_write(Fat *fat, uint64_t sector, uint64_t count, const uint8_t *data);
/* How many of the sectors, from the first on, are behind everything that has contents: 0 when that one is not. Any thread. */
uint64_t fat_free_run(const Fat *fat, uint64_t sector, uint64_t count);
/* The item's sectors go to the overlay, so that the host's file may change. */
int fat_let_go(Fat *fat, FatItem *item);

/* --- commit.c: what the guest has written goes to the host's directory --- */
/* Nothing happens when what is there is no file system without faults, as in the middle of a change. */
Error *fat_commit(Fat *fat) MUST_USE;
void fat_commit_init(Fat *fat); /* what is known of the items */

#endif
