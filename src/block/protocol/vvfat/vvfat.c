/*
 * Driver "vvfat": a directory of the host as a disk with a FAT file system. With rw=on, what the guest changes is
 * kept beside it and goes to the directory when the guest flushes and its file system is without faults.
 *
 * Requests run on a worker thread, one at a time. What others change in the directory meanwhile is not seen, but for
 * what is in files.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "block/protocol/vvfat/vvfat.h"

typedef struct FatState {
    Fat fat;
    CoMutex lock;
} FatState;

/* "fat:[rw:][floppy:][12:|16:|32:]DIRECTORY" */
static Error *vvfat_parse_filename(const char *filename, KeyValues *opts)
{
    static const struct {
        const char *word, *key, *value;
    } words[] = { { "rw:", "rw", "on" },          { "floppy:", "floppy", "on" },  { "12:", "fat-type", "12" },
                  { "16:", "fat-type", "16" },    { "32:", "fat-type", "32" } };
    const char *rest = strchr(filename, ':') + 1;

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (g_str_has_prefix(rest, words[i].word)) {
            keyvalues_set(opts, words[i].key, words[i].value);
            rest += strlen(words[i].word);
            i = (size_t)-1; /* in any order */
        }
    }
    if (!*rest) {
        return error_new("'%s' names no directory: fat:[rw:][floppy:][12:|16:|32:]DIRECTORY is expected", filename);
    }
    keyvalues_set(opts, "dir", rest);
    return NULL;
}

/* --- requests --- */

typedef struct FatCall {
    Fat *fat;
    uint64_t sector, count;
    uint8_t *data;
    Error *err;
} FatCall;

static int call_read(void *opaque)
{
    FatCall *call = opaque;
    return fat_read(call->fat, call->sector, call->count, call->data);
}

static int call_write(void *opaque)
{
    FatCall *call = opaque;
    return fat_write(call->fat, call->sector, call->count, call->data);
}

static int call_commit(void *opaque)
{
    FatCall *call = opaque;
    call->err = fat_commit(call->fat);
    return 0;
}

static int call_co(FatState *s, int (*fn)(void *opaque), FatCall *call)
{
    call->fat = &s->fat;
    co_mutex_lock(&s->lock);
    int ret = co_blocking(fn, call);
    co_mutex_unlock(&s->lock);
    return ret;
}

static int vvfat_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    FatCall call = { .sector = offset / FAT_SECTOR, .count = bytes / FAT_SECTOR, .data = data };
    int ret = data ? call_co(node->state, call_read, &call) : -ENOMEM;
    if (ret == 0) {
        block_vec_from_buffer(vec, at, data, (size_t)bytes);
    }
    return ret;
}

static int vvfat_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    FatCall call = { .sector = offset / FAT_SECTOR, .count = bytes / FAT_SECTOR, .data = data };
    if (!data) {
        return -ENOMEM;
    }
    block_vec_to_buffer(vec, at, data, (size_t)bytes);
    return call_co(node->state, call_write, &call);
}

static int commit_co(BlockNode *node)
{
    FatState *s = node->state;
    FatCall call = { 0 };
    if (!s->fat.changed) {
        return 0;
    }
    call_co(s, call_commit, &call);
    if (call.err) {
        warn_report("%s: %s", s->fat.dir, error_message(call.err));
        error_free(call.err);
        return -EIO;
    }
    return 0;
}

static int vvfat_flush_co(BlockNode *node)
{
    return commit_co(node);
}

static int vvfat_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    const FatState *s = node->state;
    uint64_t free_sectors = fat_free_run(&s->fat, offset / FAT_SECTOR, bytes / FAT_SECTOR);
    *ret_status = (BlockStatus) { .flags = STATUS_ALLOCATED | (free_sectors ? STATUS_ZERO : STATUS_DATA),
                                  .bytes = free_sectors ? free_sectors * FAT_SECTOR : bytes };
    return 0;
}

static uint64_t vvfat_allocated_size(BlockNode *node)
{
    return UINT64_MAX;
}

/* --- opening --- */

static void release(Fat *fat)
{
    fat_free_tree(fat);
    g_clear_pointer(&fat->known, g_hash_table_unref);
    int fds[] = { fat->dir_fd, fat->open_fd, fat->overlay_fd };
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    g_clear_pointer(&fat->dir, g_free);
    g_clear_pointer(&fat->written, g_free);
    g_clear_pointer(&fat->dirty, g_free);
}

static Error *take_options(Fat *fat, KeyValues *opts, uint64_t *ret_bits, bool *ret_floppy)
{
    g_autofree char *label = keyvalues_take(opts, "label");

    fat->dir = keyvalues_take(opts, "dir");
    TRY(block_take_num(opts, "fat-type", 0, ret_bits));
    TRY(block_take_bool(opts, "floppy", false, ret_floppy));
    TRY(block_take_bool(opts, "rw", false, &fat->rw));
    if (!fat->dir) {
        return error_new("vvfat needs 'dir', the directory to show");
    }
    if (*ret_bits && *ret_bits != 12 && *ret_bits != 16 && *ret_bits != 32) {
        return error_new("fat-type is 12, 16 or 32, not %" PRIu64, *ret_bits);
    }
    if (*ret_floppy && *ret_bits > 12) {
        return error_new("A floppy disk has FAT12: fat-type=%" PRIu64 " does not go with floppy=on", *ret_bits);
    }
    if (label && strlen(label) > 11) {
        return error_new("The label '%s' is longer than 11 bytes", label);
    }
    g_strlcpy(fat->label, label ? label : "QEMU VVFAT", sizeof(fat->label));
    return NULL;
}

/* A file without a name for what the guest writes. */
static Error *open_overlay(Fat *fat)
{
    uint64_t bytes = fat->layout.sectors / 8 + 1;
    fat->overlay_fd = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fat->overlay_fd < 0) {
        return error_new_errno(errno, "Could not make a file in %s for what is written", g_get_tmp_dir());
    }
    fat->written = g_try_malloc0((gsize)bytes);
    fat->dirty = g_try_malloc0((gsize)bytes);
    return fat->written && fat->dirty ? NULL : error_new("Not enough memory");
}

typedef struct OpenCall {
    Fat *fat;
    unsigned bits;
    bool floppy;
    Error *err;
} OpenCall;

static Error *open_steps(OpenCall *call)
{
    Fat *fat = call->fat;
    fat->dir_fd = open(fat->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fat->dir_fd < 0) {
        return error_new_errno(errno, "Could not open the directory '%s'", fat->dir);
    }
    TRY(fat_read_tree(fat, call->bits, call->floppy));
    if (fat->rw) {
        TRY(open_overlay(fat));
        fat_commit_init(fat);
    }
    return NULL;
}

static int call_open(void *opaque)
{
    OpenCall *call = opaque;
    call->err = open_steps(call);
    return 0;
}

static Error *check_access(BlockNode *node, Fat *fat)
{
    if (!node->read_only && !fat->rw) {
        return error_hint(error_new("'%s' is shown for reading only", fat->dir),
                          "read-only=on suits that; rw=on (fat:rw:DIRECTORY) has the directory changed.");
    }
    fat->rw = !node->read_only;
    return NULL;
}

static Error *vvfat_open_co(BlockNode *node, KeyValues *opts)
{
    FatState *s = node->state;
    OpenCall call = { .fat = &s->fat };
    uint64_t bits = 0;

    s->fat.dir_fd = s->fat.open_fd = s->fat.overlay_fd = -1;
    Error *err = take_options(&s->fat, opts, &bits, &call.floppy);
    err = err ? err : check_access(node, &s->fat);
    if (!err) {
        call.bits = (unsigned)bits;
        co_blocking(call_open, &call);
        err = call.err;
    }
    if (err) {
        release(&s->fat);
        return err;
    }
    co_mutex_init(&s->lock);
    node->filename = g_strdup_printf("fat:%s", s->fat.dir);
    node->size = s->fat.layout.sectors * FAT_SECTOR;
    node->limits.request_align = FAT_SECTOR;
    node->limits.max_transfer = 4 * MiB;
    return NULL;
}

static void vvfat_close_co(BlockNode *node)
{
    FatState *s = node->state;
    if (commit_co(node) == 0 && s->fat.changed) {
        warn_report("%s: what the guest wrote last is lost, as its file system was left with faults", s->fat.dir);
    }
    release(&s->fat);
}

static const char *const vvfat_schemes[] = { "fat", NULL };
static const BlockOption vvfat_options[] = {
    { "dir", OPT_STR, "The directory to show" },
    { "fat-type", OPT_NUM, "12, 16 or 32 (default: 16, and 12 for floppy disks)" },
    { "floppy", OPT_BOOL, "A floppy disk instead of a hard disk (default: off)" },
    { "label", OPT_STR, "The volume's label, at most 11 bytes (default: QEMU VVFAT)" },
    { "rw", OPT_BOOL, "What the guest writes goes to the directory (default: off)" },
    { 0 },
};

BLOCK_DRIVER(vvfat, .name = "vvfat", .desc = "A directory as a disk with a FAT file system", .state_size = sizeof(FatState),
             .protocol = true, .schemes = vvfat_schemes, .parse_filename = vvfat_parse_filename, .options = vvfat_options,
             .open_co = vvfat_open_co, .close_co = vvfat_close_co, .preadv_co = vvfat_preadv_co,
             .pwritev_co = vvfat_pwritev_co, .flush_co = vvfat_flush_co, .status_co = vvfat_status_co,
             .allocated_size = vvfat_allocated_size);
