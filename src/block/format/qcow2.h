/*
 * qcow2, versions 2 and 3 (docs: the public "QCOW2 image format" specification). Folder-private.
 *
 * Reliability: what the image holds on the disk is consistent at every moment, except that clusters
 * may be counted and not used (leaks). The rules, kept by qcow2_write_back_co():
 *
 * Invariant 1: a cluster's refcount is on stable storage before anything that refers to the
 * cluster. Invariant 2: a refcount block is on stable storage before the refcount table that refers
 * to it; an L2 table before the L1 entry; data before the L2 entry. Invariant 3: a refcount goes
 * down only when what referred to it is gone from stable storage: such clusters wait in `freed`,
 * then in `freed_written`. So refcount blocks may be written at any time, L2 tables after a
 * barrier, L1 entries after another. Invariant 4: a free cluster is not used anew before its
 * discard is on stable storage: until then it is in quarantine. Invariant 5: what must change in
 * many places at once (snapshots) is written beside the old metadata and takes its place with one
 * write of the header's first sector: see qcow2_txn.c.
 *
 * Locking: `lock` guards all metadata; it is held while tables are read or written, not during
 * data. An allocating write registers its clusters in `allocations`, so that others wait for it.
 */
#ifndef OSTRICH_BLOCK_QCOW2_H
#define OSTRICH_BLOCK_QCOW2_H

#include "block/config.h"
#include "block/node.h"

enum {
    QCOW2_MAGIC = 0x514649fb,
    QCOW2_MIN_CLUSTER_BITS = 9,
    QCOW2_MAX_CLUSTER_BITS = 21,
    QCOW2_MAX_L1_BYTES = 32 << 20,
    QCOW2_MAX_REFTABLE_BYTES = 8 << 20,
    QCOW2_MAX_SNAPSHOTS = 65536,
    QCOW2_MAX_SNAPSHOT_BYTES = 64 << 20,
    QCOW2_SUBCLUSTERS = 32,
};

/* Header fields by offset. */
enum {
    H_MAGIC = 0,
    H_VERSION = 4,
    H_BACKING_OFFSET = 8,
    H_BACKING_SIZE = 16,
    H_CLUSTER_BITS = 20,
    H_SIZE = 24,
    H_CRYPT = 32,
    H_L1_SIZE = 36,
    H_L1_OFFSET = 40,
    H_REFTABLE_OFFSET = 48,
    H_REFTABLE_CLUSTERS = 56,
    H_SNAPSHOTS = 60,
    H_SNAPSHOTS_OFFSET = 64,
    H_V2_LENGTH = 72,
    H_INCOMPATIBLE = 72,
    H_COMPATIBLE = 80,
    H_AUTOCLEAR = 88,
    H_REFCOUNT_ORDER = 96,
    H_LENGTH = 100,
    H_V3_LENGTH = 104,
    H_COMPRESSION = 104,
    H_OUR_LENGTH = 112,
};

enum {
    INCOMPAT_DIRTY = BIT(0),
    INCOMPAT_CORRUPT = BIT(1),
    INCOMPAT_DATA_FILE = BIT(2),
    INCOMPAT_COMPRESSION = BIT(3),
    INCOMPAT_EXTENDED_L2 = BIT(4),
    INCOMPAT_KNOWN = 31
};
enum { COMPAT_LAZY_REFCOUNTS = BIT(0) };
enum { AUTOCLEAR_BITMAPS = BIT(0), AUTOCLEAR_RAW_DATA = BIT(1) };
enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = 0xe2792aca,
    EXT_FEATURES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_CRYPTO = 0x0537be77,
    EXT_DATA_FILE = 0x44415441
};
enum { COMPRESSION_ZLIB = 0, COMPRESSION_ZSTD = 1 };
enum { CRYPT_AES = 1, CRYPT_LUKS = 2 };

#define ENTRY_COPIED     BIT64(63) /* refcount is exactly 1 */
#define ENTRY_COMPRESSED BIT64(62)
#define ENTRY_ZERO       BIT64(0)
#define ENTRY_OFFSET     BITS64(55, 9)

/* A cached table: an L2 table or a refcount block, one cluster. */
typedef struct Qcow2Table {
    uint64_t offset;
    uint8_t *data; /* as on disk, big endian */
    bool dirty;
    bool placed; /* in a transaction: its place is new */
    ListNode lru;
} Qcow2Table;

typedef struct Qcow2Cache {
    struct Qcow2 *q;
    GHashTable *by_offset;
    List lru; /* least recently used first */
    unsigned limit, dirty;
    bool needs_barrier; /* a table may be written only after a flush of the file (L2) */
} Qcow2Cache;

typedef struct Qcow2Range {
    uint64_t offset, bytes;
    bool discard; /* tell the file */
} Qcow2Range;

/* Clusters with a count of 0 that must not be used yet: a bit each. */
typedef struct Qcow2Quarantine {
    GByteArray *bits;
    uint64_t first, end; /* of the set ones; first >= end: none */
} Qcow2Quarantine;

/* What the image was before a transaction. */
typedef struct Qcow2Txn Qcow2Txn;

/* Clusters of the guest that a write is giving new places. */
typedef struct Qcow2Allocation {
    uint64_t first, count; /* guest cluster numbers */
    CoQueue waiters;
    ListNode node;
} Qcow2Allocation;

typedef struct Qcow2Extension {
    uint32_t type, length;
    uint8_t *data;
} Qcow2Extension;

typedef struct Qcow2Snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    uint32_t vm_state_size_32;
    BlockSnapshot info;
    uint8_t *extra; /* beyond what is known */
    uint32_t extra_size;
} Qcow2Snapshot;

typedef struct Qcow2 {
    BlockNode *node, *file;
    BlockNode *data; /* where guest data is: file, or the external data file */
    unsigned version, cluster_bits, refcount_order;
    uint64_t cluster_size, cluster_mask;
    unsigned entry_size; /* of L2: 8, or 16 with subclusters */
    uint64_t l2_entries;
    bool subclusters;
    uint64_t unit_size; /* what one L2 entry or one of its subclusters maps */
    uint64_t incompatible, compatible, autoclear;
    uint32_t header_length;
    uint32_t crypt_method;    /* CRYPT_*, 0: none */
    struct Qcow2Crypt *crypt; /* NULL: not encrypted */
    uint8_t compression;
    GPtrArray *extensions; /* Qcow2Extension *, without backing format and features */

    uint64_t *l1; /* host order */
    uint32_t l1_size;
    uint64_t l1_offset;
    bool *l1_dirty; /* a flag a sector of 64 entries */
    bool l1_any_dirty;

    uint64_t *reftable;     /* host order */
    uint32_t reftable_size; /* entries */
    uint64_t reftable_offset;
    bool reftable_dirty;

    Qcow2Cache l2_cache, refcount_cache;
    CoMutex lock;
    List allocations;
    GArray *freed, *freed_written; /* Qcow2Range */
    uint64_t freed_clusters;
    Qcow2Quarantine quarantine;
    Qcow2Txn *txn; /* NULL: none */
    uint64_t free_hint;       /* no free cluster below this number */
    uint64_t fresh;           /* nothing was ever written at or above this host offset */
    uint64_t compressed_next; /* where the next compressed cluster may begin; 0: in a new cluster */
    bool pass_discard, broken;
    bool lazy;          /* refcounts are written when the image is closed; the dirty bit says so */
    bool counts_behind; /* we have set it */
    enum {
        HOLES_UNKNOWN,
        HOLES_FEW,
        HOLES_MANY
    } holes; /* of the file: MANY when clusters are preallocated */
    unsigned check_overlaps; /* OVERLAP_* */

    struct Qcow2Bitmaps *bitmaps; /* what the disk has; NULL: none */
    GArray *snapshots; /* Qcow2Snapshot */
    uint64_t snapshots_offset, snapshots_bytes;

    uint64_t decompressed_entry; /* the L2 entry whose cluster is in `decompressed`; 0: none */
    uint8_t *decompressed;
} Qcow2;

/* What a guest address maps to. */
typedef enum Qcow2Kind { KIND_UNALLOCATED, KIND_ZERO, KIND_DATA, KIND_COMPRESSED } Qcow2Kind;
typedef struct Qcow2Map {
    Qcow2Kind kind;
    uint64_t bytes; /* of this kind, contiguous on the host for data */
    uint64_t host;  /* data: of the address itself; zero: of a cluster kept, or 0 */
    uint64_t entry; /* the L2 entry of the first cluster */
} Qcow2Map;

/* With an external data file: guest data is at its own offset there, and not counted. */
static inline bool qcow2_external(const Qcow2 *q)
{
    return (q->incompatible & INCOMPAT_DATA_FILE) != 0;
}
/* ... which must be readable by itself. */
static inline bool qcow2_raw_external(const Qcow2 *q)
{
    return qcow2_external(q) && (q->autoclear & AUTOCLEAR_RAW_DATA);
}
/* Whether an L2 entry that is not compressed has a cluster. In an external file, that may be 0. */
static inline bool qcow2_has_cluster(const Qcow2 *q, uint64_t entry)
{
    return (entry & ENTRY_OFFSET) || (qcow2_external(q) && (entry & ENTRY_COPIED));
}

/* For a debugging filter below. */
static inline void qcow2_event_co(Qcow2 *q, BlockEvent event)
{
    node_debug_event_co(q->file, event);
}

/* --- arithmetic --- */
static inline uint64_t qcow2_in_cluster(const Qcow2 *q, uint64_t offset)
{
    return offset & q->cluster_mask;
}
static inline uint64_t qcow2_clusters(const Qcow2 *q, uint64_t bytes)
{
    return (bytes >> q->cluster_bits) + ((bytes & q->cluster_mask) != 0);
}
static inline uint64_t qcow2_l2_index(const Qcow2 *q, uint64_t offset)
{
    return (offset >> q->cluster_bits) % q->l2_entries;
}
static inline uint64_t qcow2_l1_index(const Qcow2 *q, uint64_t offset)
{
    return (offset >> q->cluster_bits) / q->l2_entries;
}
/* L1 entries that a disk of this size needs. */
static inline uint64_t qcow2_l1_needed(const Qcow2 *q, uint64_t size)
{
    return (qcow2_clusters(q, size) + q->l2_entries - 1) / q->l2_entries;
}

/* --- qcow2_cache.c --- */
void qcow2_cache_init(Qcow2Cache *cache, Qcow2 *q, unsigned limit, bool needs_barrier);
void qcow2_cache_fini(Qcow2Cache *cache);
/* *ret is valid until the second next call on the same cache. */
int qcow2_cache_get_co(Qcow2Cache *cache, uint64_t offset, Qcow2Table **ret);
/* A table full of zeroes that is not read from the disk. */
int qcow2_cache_new_co(Qcow2Cache *cache, uint64_t offset, Qcow2Table **ret);
void qcow2_cache_dirty(Qcow2Cache *cache, Qcow2Table *table);
/* All dirty tables, no barrier. */
int qcow2_cache_write_co(Qcow2Cache *cache);
/* Gives a table of the cache another place. */
void qcow2_cache_move(Qcow2Cache *cache, Qcow2Table *table, uint64_t offset);
void qcow2_cache_drop(Qcow2Cache *cache, uint64_t offset); /* forget, even when dirty */

/* --- qcow2_refcount.c (lock held) --- */
uint64_t qcow2_max_refcount(const Qcow2 *q);
uint64_t qcow2_refcount_read(const Qcow2 *q, const void *block, uint64_t index);
void qcow2_refcount_write(const Qcow2 *q, void *block, uint64_t index, uint64_t value);
int qcow2_get_refcount_co(Qcow2 *q, uint64_t cluster, uint64_t *ret_count);
/* Up to `clusters` contiguous ones, at least 1, preferably at `wanted` (0: anywhere). */
int qcow2_alloc_co(Qcow2 *q, uint64_t clusters, uint64_t wanted, uint64_t *ret_offset,
                   uint64_t *ret_clusters);
/* Exactly that many. */
int qcow2_alloc_exact_co(Qcow2 *q, uint64_t clusters, uint64_t *ret_offset);
int qcow2_alloc_compressed_co(Qcow2 *q, uint64_t bytes, uint64_t *ret_offset);
/*
 * delta: +1 or -1 for each cluster that [offset, offset + bytes) touches, at once (see invariant
 * 3); 0 only looks whether +1 would fit, else -EOVERFLOW.
 */
int qcow2_refcount_add_co(Qcow2 *q, uint64_t offset, uint64_t bytes, int delta);
/* --- qcow2_write_back.c (lock held) --- */
/* Later, when nothing on the disk refers to it. */
void qcow2_free_later(Qcow2 *q, uint64_t offset, uint64_t bytes, bool discard);
/* The data of an L2 entry. */
void qcow2_free_entry_later(Qcow2 *q, uint64_t entry, bool discard);
/* All metadata to the file, in order. */
int qcow2_write_back_locked_co(Qcow2 *q);
int qcow2_write_back_co(BlockNode *node);
/* The same and a barrier: what was freed before is free. */
int qcow2_give_back_co(Qcow2 *q);
/* Also waits for stable storage and gives back what was freed. */
int qcow2_settle_co(Qcow2 *q);
/* --- qcow2_overlap.c (lock held) --- */
/* Whether [offset, offset + bytes) is metadata; marks the image as corrupt if so. */
int qcow2_check_overlap_co(Qcow2 *q, uint64_t offset, uint64_t bytes);
/* What new clusters are compared with: option overlap-check. */
enum {
    OVERLAP_HEADER = BIT(0),
    OVERLAP_ACTIVE_L1 = BIT(1),
    OVERLAP_ACTIVE_L2 = BIT(2),
    OVERLAP_REFCOUNT_TABLE = BIT(3),
    OVERLAP_REFCOUNT_BLOCK = BIT(4),
    OVERLAP_SNAPSHOT_TABLE = BIT(5),
    OVERLAP_INACTIVE_L1 = BIT(6),
    OVERLAP_BITMAP_DIRECTORY = BIT(7),
    OVERLAP_CONSTANT = OVERLAP_HEADER | OVERLAP_ACTIVE_L1 | OVERLAP_REFCOUNT_TABLE | OVERLAP_SNAPSHOT_TABLE |
                       OVERLAP_BITMAP_DIRECTORY,
    OVERLAP_CACHED = OVERLAP_CONSTANT | OVERLAP_ACTIVE_L2 | OVERLAP_REFCOUNT_BLOCK | OVERLAP_INACTIVE_L1,
};
int qcow2_write_reftable_co(Qcow2 *q);

/* --- qcow2_txn.c (lock held) --- */
void qcow2_quarantine_add(Qcow2 *q, uint64_t cluster);
void qcow2_quarantine_clear(Qcow2 *q); /* all of it, after a flush */
static inline bool qcow2_quarantined(const Qcow2 *q, uint64_t cluster)
{
    const Qcow2Quarantine *z = &q->quarantine;
    return cluster >= z->first && cluster < z->end && (z->bits->data[cluster / 8] >> cluster % 8 & 1);
}
/* Tells the file about every run of clusters in quarantine. */
void qcow2_quarantine_discard_co(Qcow2 *q);
/*
 * From begin to commit, all changes of refcounts, L2 tables, the L1 table and the snapshot table
 * stay in memory or go to places that were free before; nothing is written back. Commit makes them
 * valid at once, or fails and leaves the old state; abort does the latter.
 */
int qcow2_txn_begin_co(Qcow2 *q);
/* Gives changed L2 tables their places, before something else refers to them. */
int qcow2_txn_place_l2_co(Qcow2 *q);
int qcow2_txn_commit_co(Qcow2 *q);
void qcow2_txn_abort_co(Qcow2 *q);
/* For table_grow_co(): the refcount table has a new place already. */
void qcow2_txn_reftable_placed(Qcow2 *q);

/* --- qcow2_map.c (lock held) --- */
int qcow2_map_co(Qcow2 *q, uint64_t offset, uint64_t bytes, Qcow2Map *ret);
int qcow2_l2_get_co(Qcow2 *q, uint64_t offset, Qcow2Table **ret); /* *ret NULL: no table */
int qcow2_l2_get_writable_co(Qcow2 *q, uint64_t offset, Qcow2Table **ret);
void qcow2_l1_set(Qcow2 *q, uint64_t index, uint64_t entry);
int qcow2_l1_write_co(Qcow2 *q); /* dirty parts, no barrier */
uint64_t qcow2_l2_entry(const Qcow2 *q, const Qcow2Table *table, uint64_t index);
uint64_t qcow2_l2_bitmap(const Qcow2 *q, const Qcow2Table *table, uint64_t index);
void qcow2_l2_set(Qcow2 *q, Qcow2Table *table, uint64_t index, uint64_t entry, uint64_t bitmap);
/* Host range of a compressed entry; the size is rounded up to sectors. */
void qcow2_compressed_range(const Qcow2 *q, uint64_t entry, uint64_t *ret_offset,
                            uint64_t *ret_bytes);
int qcow2_corrupt_co(Qcow2 *q, const char *fmt, ...) PRINTF(2, 3); /* -EIO */
void qcow2_wait_allocations_co(Qcow2 *q, uint64_t first, uint64_t count);

/* --- qcow2_io.c --- */
int qcow2_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                    size_t at);
int qcow2_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                     size_t at, unsigned flags);
int qcow2_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int qcow2_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes);
int qcow2_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status);
/* full: the backing node shows through again. */
int qcow2_unmap_co(Qcow2 *q, uint64_t offset, uint64_t bytes, bool full);
int qcow2_expand_zeroes_co(Qcow2 *q);
/* Gives every unallocated cluster of the range a place without writing data. */
int qcow2_preallocate_co(Qcow2 *q, uint64_t offset, uint64_t bytes);

/* --- qcow2_compress.c --- */
int qcow2_read_compressed_co(Qcow2 *q, uint64_t entry, uint64_t in_cluster, uint64_t bytes,
                             const BlockVec *vec, size_t at);
int qcow2_write_compressed_co(Qcow2 *q, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                              size_t at);

/* --- qcow2_crypt.c --- */
Error *qcow2_crypt_open_co(Qcow2 *q, KeyValues *opts) MUST_USE;
void qcow2_crypt_free(Qcow2 *q);
/* Data of an encrypted image; all addresses are multiples of 512. */
int qcow2_read_encrypted_co(Qcow2 *q, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec, size_t at);
int qcow2_write_encrypted_co(Qcow2 *q, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec, size_t at);
/* Where the LUKS header lies; false: there is none. */
bool qcow2_crypt_header(const Qcow2 *q, uint64_t *ret_offset, uint64_t *ret_bytes);
void qcow2_crypt_info(const Qcow2 *q, Value *data);
typedef struct CryptCreate CryptCreate; /* block/crypt/crypt.h */
Error *qcow2_crypt_take_create(KeyValues *opts, uint32_t *ret_method, CryptCreate *ret_create) MUST_USE;
/* Makes an empty image encrypted. */
Error *qcow2_crypt_make_co(Qcow2 *q, uint32_t method, const CryptCreate *create) MUST_USE;
Error *qcow2_crypt_amend_co(Qcow2 *q, KeyValues *opts, bool force) MUST_USE;

/* --- qcow2_header.c --- */
/* Header, extensions and backing name, checked. */
Error *qcow2_parse_header_co(Qcow2 *q) MUST_USE;
Error *qcow2_read_error(int ret, const char *what);
Error *qcow2_set_backing_co(BlockNode *node, const char *filename, const char *format);
const Qcow2Extension *qcow2_find_extension(const Qcow2 *q, uint32_t type);
int qcow2_write_header_u64_co(Qcow2 *q, unsigned field, uint64_t value);
Error *qcow2_rewrite_header_co(Qcow2 *q) MUST_USE; /* extensions and backing name too */
/* Extensions, end mark and backing name behind the fields that are in `cluster` already. */
Error *qcow2_put_variable_part(Qcow2 *q, uint8_t *cluster, size_t *ret_end) MUST_USE;

/* --- qcow2_create.c --- */
Error *qcow2_create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts);

/* --- qcow2_check.c --- */
Error *qcow2_check_co(BlockNode *node, BlockCheck *check, unsigned fix);

/* --- qcow2_resize.c --- */
Error *qcow2_grow_l1_co(Qcow2 *q, uint64_t entries) MUST_USE;
Error *qcow2_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc);
Error *qcow2_make_empty_co(BlockNode *node);
Error *qcow2_measure(KeyValues *opts, uint64_t size, uint64_t data_bytes, BlockMeasure *ret);

/* --- qcow2_amend.c --- */
Error *qcow2_amend_co(BlockNode *node, KeyValues *opts, bool force);
/* A new refcount structure behind the last cluster in use: refs[i] references to cluster i, of
 * `order`. One write of the header makes it the valid one. Lock held. */
int qcow2_replace_refcounts_co(Qcow2 *q, const uint32_t *refs, uint64_t count, unsigned order);
/* Takes the references that the structure itself makes out of refs. */
void qcow2_forget_refcount_structure(const Qcow2 *q, uint32_t *refs, uint64_t count);

/* --- qcow2_bitmap.c --- */
Error *qcow2_bitmaps_load_co(Qcow2 *q) MUST_USE;
Error *qcow2_bitmaps_store_co(Qcow2 *q) MUST_USE;
/* The image can be written to from now on. */
Error *qcow2_bitmaps_reopened_co(Qcow2 *q) MUST_USE;
void qcow2_bitmaps_free(Qcow2 *q);
bool qcow2_bitmap_directory_meets(const Qcow2 *q, uint64_t offset, uint64_t bytes);
Error *qcow2_can_store_bitmap(BlockNode *node, const BlockBitmap *bitmap);
Value *qcow2_bitmaps_info(Qcow2 *q);

/* --- qcow2_snapshot.c --- */
Error *qcow2_snapshots_read_co(Qcow2 *q) MUST_USE;
void qcow2_snapshots_free(Qcow2 *q);
GPtrArray *qcow2_snapshots(BlockNode *node);
Error *qcow2_snapshot_show_co(Qcow2 *q, const char *id) MUST_USE;
uint64_t qcow2_vmstate_offset(BlockNode *node);
int qcow2_vmstate_pread_co(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer);
int qcow2_vmstate_map_co(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *ret_host, uint64_t *ret_bytes);
int qcow2_vmstate_open(BlockNode *node);
int qcow2_vmstate_pwrite_co(BlockNode *node, uint64_t offset, uint64_t bytes, const void *buffer);
Error *qcow2_snapshot_create_co(BlockNode *node, const BlockSnapshot *snapshot);
Error *qcow2_snapshot_apply_co(BlockNode *node, const char *id);
Error *qcow2_snapshot_delete_co(BlockNode *node, const char *id);

#endif
