/*
 * Driver "vhdx": the log. It is a ring of entries; the active sequence is the run of entries with
 * rising sequence numbers that ends with the newest one. Playing it back writes the sectors that
 * the entries describe to their places.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/vhdx.h"

enum {
    ENTRY_HEADER = 64,
    DESCRIPTOR = 32,
    E_CHECKSUM = 4,
    E_LENGTH = 8,
    E_TAIL = 12,
    E_SEQUENCE = 16,
    E_DESCRIPTORS = 24,
    E_GUID = 32,
    E_FLUSHED = 48,
    E_LAST = 56,
    MAX_LOG = 64 << 20,
};

typedef struct LogEntry {
    uint64_t sequence;
    uint32_t at, length, tail, descriptors;
    uint64_t last_offset; /* how long the file must be */
} LogEntry;

typedef struct Log {
    BlockNode *node;
    uint64_t offset;
    uint32_t length;
    uint8_t *data; /* all of it */
} Log;

static void copy_out(const Log *log, uint32_t at, void *to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        size_t from = (at + done) % log->length, part = MIN(bytes - done, log->length - from);
        memcpy((uint8_t *)to + done, log->data + from, part);
        done += part;
    }
}

/* The entry as it lies there, made straight; NULL: none. Caller frees. */
static uint8_t *read_entry(const Log *log, uint32_t at, LogEntry *ret)
{
    Vhdx *s = log->node->state;
    uint8_t h[ENTRY_HEADER];

    copy_out(log, at, h, sizeof(h));
    uint32_t length = ld32_le(h + E_LENGTH), count = ld32_le(h + E_DESCRIPTORS);
    uint64_t table =
        ALIGN_UP(ENTRY_HEADER + (uint64_t)count * DESCRIPTOR, (uint64_t)VHDX_LOG_SECTOR);
    if (memcmp(h, "loge", 4) || memcmp(h + E_GUID, s->header + VH_LOG_GUID, 16) ||
        !ld64_le(h + E_SEQUENCE) || !length || length > log->length ||
        !IS_ALIGNED(length, (uint32_t)VHDX_LOG_SECTOR) || table > length ||
        ld32_le(h + E_TAIL) >= log->length ||
        !IS_ALIGNED(ld32_le(h + E_TAIL), (uint32_t)VHDX_LOG_SECTOR)) {
        return NULL;
    }
    uint8_t *data = g_malloc(length);
    copy_out(log, at, data, length);
    if (vhdx_checksum(data, length, E_CHECKSUM) != ld32_le(h + E_CHECKSUM)) {
        g_free(data);
        return NULL;
    }
    *ret = (LogEntry) { ld64_le(h + E_SEQUENCE), at,    length,
                        ld32_le(h + E_TAIL),     count, ld64_le(h + E_LAST) };
    return data;
}

/* The newest entry whose tail leads through valid entries to itself. */
static bool find_active(const Log *log, LogEntry *ret_head)
{
    bool found = false;
    for (uint32_t at = 0; at < log->length; at += VHDX_LOG_SECTOR) {
        LogEntry e;
        g_autofree uint8_t *data = read_entry(log, at, &e);
        if (data && (!found || e.sequence > ret_head->sequence)) {
            *ret_head = e;
            found = true;
        }
    }
    return found;
}

/* --- playing back --- */

static int play_data_co(const Log *log, const uint8_t *descriptor, const uint8_t *sector,
                        uint64_t sequence)
{
    uint8_t data[VHDX_LOG_SECTOR];
    uint64_t offset = ld64_le(descriptor + 16);

    if (memcmp(sector, "data", 4) || ld64_le(descriptor + 24) != sequence ||
        ld32_le(sector + 4) != sequence >> 32 || ld32_le(sector + 4092) != (uint32_t)sequence ||
        !IS_ALIGNED(offset, (uint64_t)VHDX_LOG_SECTOR) || offset > INT64_MAX / 2) {
        return -EINVAL;
    }
    memcpy(data, descriptor + 8, 8); /* leading bytes */
    memcpy(data + 8, sector + 8, 4084);
    memcpy(data + 4092, descriptor + 4, 4); /* trailing bytes */
    return node_pwrite_co(log->node->file->node, offset, sizeof(data), data, 0);
}

static int play_zero_co(const Log *log, const uint8_t *descriptor, uint64_t sequence)
{
    uint64_t length = ld64_le(descriptor + 8), offset = ld64_le(descriptor + 16);
    if (ld64_le(descriptor + 24) != sequence || offset > INT64_MAX / 2 || length > 1 << 30 ||
        !IS_ALIGNED(offset | length, (uint64_t)VHDX_LOG_SECTOR)) {
        return -EINVAL;
    }
    return length ? node_write_zeroes_co(log->node->file->node, offset, length, 0) : 0;
}

static int play_entry_co(const Log *log, const LogEntry *e, const uint8_t *data)
{
    uint64_t at =
        ALIGN_UP(ENTRY_HEADER + (uint64_t)e->descriptors * DESCRIPTOR, (uint64_t)VHDX_LOG_SECTOR);
    BlockNode *file = log->node->file->node;
    int ret = 0;

    for (uint32_t i = 0; i < e->descriptors && ret == 0; i++) {
        const uint8_t *d = data + ENTRY_HEADER + (size_t)i * DESCRIPTOR;
        if (!memcmp(d, "desc", 4) && at + VHDX_LOG_SECTOR <= e->length) {
            ret = play_data_co(log, d, data + at, e->sequence);
            at += VHDX_LOG_SECTOR;
        } else if (!memcmp(d, "zero", 4)) {
            ret = play_zero_co(log, d, e->sequence);
        } else {
            ret = -EINVAL;
        }
    }
    if (ret == 0 && e->last_offset > file->size && e->last_offset < 1ull << 50 &&
        node_storage(file)->driver->extends) {
        Error *err = node_truncate_co(file, e->last_offset, PREALLOC_OFF);
        ret = err ? -EIO : 0;
        error_free(err);
    }
    return ret;
}

static Error *play_co(const Log *log, const LogEntry *head)
{
    uint32_t at = head->tail;
    for (uint64_t previous = 0;;) {
        LogEntry e;
        g_autofree uint8_t *data = read_entry(log, at, &e);
        if (!data || (previous && e.sequence != previous + 1)) {
            return error_new("The VHDX image's log is corrupt");
        }
        int ret = play_entry_co(log, &e, data);
        if (ret < 0) {
            return error_new_errno(ret, "The VHDX image's log could not be played back");
        }
        if (e.sequence == head->sequence) {
            return NULL;
        }
        previous = e.sequence;
        at = (at + e.length) % log->length;
    }
}

static Error *finish_co(BlockNode *node)
{
    Vhdx *s = node->state;
    int ret = node_flush_co(node->file->node);
    memset(s->header + VH_LOG_GUID, 0, 16); /* an empty log */
    ret = ret < 0 ? ret : vhdx_write_header_co(node);
    return ret < 0 ? error_new_errno(ret, "Could not write the VHDX header") : NULL;
}

static Error *replay_loaded_co(Log *log)
{
    LogEntry head;
    if (!find_active(log, &head)) {
        return finish_co(log->node);
    }
    TRY(play_co(log, &head));
    return finish_co(log->node);
}

Error *vhdx_replay_log_co(BlockNode *node)
{
    static const uint8_t nobody[16];
    Vhdx *s = node->state;
    Log log = { .node = node,
                .offset = ld64_le(s->header + VH_LOG_OFFSET),
                .length = ld32_le(s->header + VH_LOG_LENGTH) };

    if (!memcmp(s->header + VH_LOG_GUID, nobody, 16)) {
        return NULL;
    }
    if (ld16_le(s->header + VH_LOG_VERSION)) {
        return error_new("Unsupported version of the VHDX log");
    }
    if (!log.length || log.length > MAX_LOG || !IS_ALIGNED(log.length, (uint32_t)MiB) ||
        log.offset < MiB || log.offset > INT64_MAX / 2 ||
        log.offset + log.length > node->file->node->size) {
        return error_new("The VHDX image's log lies outside the file");
    }
    if (node->no_io) {
        return NULL;
    }
    if (node->read_only) { /* iotests compare what it says */
        return error_hint(
            error_new("VHDX image file '%s' opened read-only, but contains a log that "
                      "needs to be replayed",
                      node->filename),
            "To replay the log, run:\nqemu-img check -r all '%s'", node->filename);
    }
    g_autofree uint8_t *data = g_try_malloc(log.length);
    int ret = data ? node_pread_co(node->file->node, log.offset, log.length, data) : -ENOMEM;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the VHDX image's log");
    }
    log.data = data;
    ((Vhdx *)node->state)->replayed = true;
    return replay_loaded_co(&log);
}
