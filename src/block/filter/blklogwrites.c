/*
 * Filter "blklogwrites": what is written is also appended to a log, in the form of Linux's dm-log-writes
 * (drivers/md/dm-log-writes, version 1), so that its tools can replay it up to any point. Little endian:
 *
 *     sector 0: magic, version, entries (u64 each), sector size (u32)
 *     then for each entry a sector: first sector, sectors, flags, bytes of inline data (u64 each),
 *     followed by the data, if it is a write
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/filter/filter.h"

#define LOG_MAGIC 0x6a736677736872ull
enum { LOG_VERSION = 1, LOG_FLUSH = 1, LOG_FUA = 2, LOG_DISCARD = 4, SUPER_BYTES = 28, ENTRY_BYTES = 32 };

typedef struct LogState {
    BlockEdge *log;
    uint32_t sector;
    uint64_t next, entries; /* where the next entry begins, in sectors; how many there are */
    uint64_t update_interval, since_update;
    CoMutex lock; /* the order of the log is that in which the lock was taken */
} LogState;

static int write_super_co(LogState *s)
{
    char *buffer = aligned_alloc(4096, ALIGN_UP(s->sector, 4096));
    if (!buffer) {
        return -ENOMEM;
    }
    memset(buffer, 0, s->sector);
    st64_le(buffer, LOG_MAGIC);
    st64_le(buffer + 8, LOG_VERSION);
    st64_le(buffer + 16, s->entries);
    st32_le(buffer + 24, s->sector);
    int ret = node_flush_co(s->log->node);
    if (ret >= 0) {
        ret = node_pwrite_co(s->log->node, 0, s->sector, buffer, REQ_FUA);
    }
    free(buffer);
    s->since_update = 0;
    return ret;
}

/* Appends an entry; `bytes` of vec (NULL: none) follow it. */
static int append_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                     unsigned flags)
{
    LogState *s = node->state;
    char *buffer = aligned_alloc(4096, ALIGN_UP(s->sector, 4096));
    if (!buffer) {
        return -ENOMEM;
    }
    memset(buffer, 0, s->sector);
    st64_le(buffer, offset / s->sector);
    st64_le(buffer + 8, bytes / s->sector);
    st64_le(buffer + 16, flags);
    co_mutex_lock(&s->lock);
    int ret = node_pwrite_co(s->log->node, s->next * s->sector, s->sector, buffer, 0);
    if (ret >= 0 && vec) {
        ret = node_pwritev_co(s->log->node, (s->next + 1) * s->sector, bytes, vec, at, 0);
    }
    if (ret >= 0) {
        s->next += 1 + (vec ? bytes / s->sector : 0);
        s->entries++;
        s->since_update++;
        if ((flags & (LOG_FLUSH | LOG_FUA)) || s->since_update >= s->update_interval) {
            ret = write_super_co(s);
        }
    }
    co_mutex_unlock(&s->lock);
    free(buffer);
    return ret;
}

/* --- opening --- */

static Error *read_at(LogState *s, uint64_t offset, size_t bytes, uint8_t *buffer)
{
    int ret = node_pread_co(s->log->node, offset, bytes, buffer);
    return ret < 0 ? error_new_errno(ret, "Could not read log") : NULL;
}

/* log-append: the new entries come behind those that are there. */
static Error *find_end(LogState *s, uint64_t asked_sector)
{
    uint8_t super[SUPER_BYTES], entry[ENTRY_BYTES];
    TRY(read_at(s, 0, sizeof(super), super));
    if (ld64_le(super) != LOG_MAGIC || ld64_le(super + 8) != LOG_VERSION) {
        return error_new("Invalid magic or version in the log's super block");
    }
    s->sector = ld32_le(super + 24);
    if (!IS_POW2(s->sector) || s->sector < 512 || s->sector > (1 << 23)) {
        return error_new("Invalid log sector size %u", s->sector);
    }
    if (asked_sector && asked_sector != s->sector) {
        return error_new("A log that is appended to keeps its sector size: leave out "
                         "log-sector-size or log-append");
    }
    uint64_t entries = ld64_le(super + 16), size = s->log->node->size;
    for (s->next = 1, s->entries = 0; s->entries < entries; s->entries++) {
        if (s->next >= size / s->sector) {
            return error_new("The log has fewer entries than it says");
        }
        TRY(read_at(s, s->next * s->sector, sizeof(entry), entry));
        uint64_t sectors = ld64_le(entry + 8), flags = ld64_le(entry + 16);
        if (sectors > size / s->sector) {
            return error_new("An entry of the log has a bad size");
        }
        s->next += 1 + (flags & LOG_DISCARD ? 0 : sectors);
    }
    return NULL;
}

static Error *log_open_co(BlockNode *node, KeyValues *opts)
{
    LogState *s = node->state;
    uint64_t sector;
    bool append;
    TRY(block_take_size(opts, "log-sector-size", 0, &sector));
    TRY(block_take_num(opts, "log-super-update-interval", 4096, &s->update_interval));
    TRY(block_take_bool(opts, "log-append", false, &append));
    TRY(filter_open(node));
    TRY(node_open_role_co(node, opts, "log", CHILD_FILE, false, &s->log));
    if (s->log->node->read_only) {
        return error_new("Log file is read-only");
    }
    if (!s->update_interval) {
        return error_new("Invalid log superblock update interval 0");
    }
    if (sector && (!IS_POW2(sector) || sector < 512 || sector > (1 << 23))) {
        return error_new("Invalid log sector size %" PRIu64, sector);
    }
    s->sector = sector ? (uint32_t)sector : 512;
    s->next = 1;
    if (append) {
        TRY(find_end(s, sector));
    } else {
        int ret = write_super_co(s);
        if (ret < 0) {
            return error_new_errno(ret, "Could not write the log's super block");
        }
    }
    co_mutex_init(&s->lock);
    node->limits.request_align = MAX(node->limits.request_align, s->sector);
    node->limits.discard_align = MAX(node->limits.discard_align, s->sector);
    return NULL;
}

static void log_close_co(BlockNode *node)
{
    LogState *s = node->state;
    if (s->since_update) {
        write_super_co(s);
    }
}

/* --- requests --- */

static int log_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    int ret = filter_pwritev_co(node, offset, bytes, vec, at, flags);
    return ret < 0 ? ret : append_co(node, offset, bytes, vec, at, flags & REQ_FUA ? LOG_FUA : 0);
}

static int log_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    LogState *s = node->state;
    int ret = filter_discard_co(node, offset, bytes);
    if (ret < 0 || bytes < s->sector) {
        return ret;
    }
    return append_co(node, offset, bytes - bytes % s->sector, NULL, 0, LOG_DISCARD);
}

static int log_flush_co(BlockNode *node)
{
    int ret = node_flush_co(filter_child(node));
    return ret < 0 ? ret : append_co(node, 0, 0, NULL, 0, LOG_FLUSH);
}

static const BlockOption log_options[] = {
    { "log", OPT_STR, "Where the log is written" },
    { "log-sector-size", OPT_SIZE, "Unit of the log (default: 512)" },
    { "log-append", OPT_BOOL, "Go on with a log that is there (default: off)" },
    { "log-super-update-interval", OPT_NUM, "Entries after which the log's head is brought up to date (default: 4096)" },
    { 0 },
};

/* Zeroes are written as such, so that the log has them. */
BLOCK_DRIVER(blklogwrites, .name = "blklogwrites", .desc = "Filter: writes are logged, as dm-log-writes does",
             .filter = true, .state_size = sizeof(LogState), .options = log_options,
             .open_co = log_open_co, .close_co = log_close_co, .preadv_co = filter_preadv_co,
             .pwritev_co = log_pwritev_co, .discard_co = log_discard_co, .flush_co = log_flush_co,
             .status_co = filter_status_co, .truncate_co = filter_truncate_co,
             .write_flags = REQ_FUA | REQ_WRITE_UNCHANGED);
