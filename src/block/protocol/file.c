/*
 * Drivers "file", "host_device" and "host_cdrom": a file or a device of the host. Calls that may block run
 * on worker threads, or go through io_uring with aio=io_uring and aio=native; reads of what the
 * page cache holds are made in place.
 *
 * Missing: pr-manager, media change of host CD drives.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "block/node.h"
#include "block/protocol/file_lock.h"
#include "block/protocol/uring.h"

typedef struct FileState {
    int fd;
    bool device, locking;
    bool no_punch, no_zero_range, no_nowait;
    FileLocks locks;
    FileUring *uring; /* NULL: worker threads */
    uint64_t data_from, data_to; /* where data is, as was seen last */
} FileState;

/* --- data --- */

enum {
    IOV_PART = 64,
    READ_IN_PLACE = 128 * KiB, /* copying more takes longer than a thread's help, and the loop would stand still meanwhile */
};

typedef struct FileCall {
    int fd;
    uint64_t offset, bytes;
    struct iovec iov[IOV_PART];
    int iov_count;
    int mode; /* of fallocate */
} FileCall;

static int call_readv(void *opaque)
{
    FileCall *call = opaque;
    ssize_t got;
    do {
        got = preadv2(call->fd, call->iov, call->iov_count, (off_t)call->offset, 0);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : (int)got;
}

static int call_writev(void *opaque)
{
    FileCall *call = opaque;
    ssize_t put;
    do {
        put = pwritev2(call->fd, call->iov, call->iov_count, (off_t)call->offset, 0);
    } while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : (int)put;
}

static int call_fallocate(void *opaque)
{
    FileCall *call = opaque;
    int ret;
    do {
        ret = fallocate(call->fd, call->mode, (off_t)call->offset, (off_t)call->bytes);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int call_sync(void *opaque)
{
    FileCall *call = opaque;
    return fdatasync(call->fd) < 0 ? -errno : 0;
}

/* What the page cache has is read without a thread. */
static int read_cached(FileState *s, FileCall *call)
{
    if (s->no_nowait) {
        return -EAGAIN;
    }
    ssize_t got = preadv2(call->fd, call->iov, call->iov_count, (off_t)call->offset, RWF_NOWAIT);
    if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
        s->no_nowait = true;
    }
    return got <= 0 ? -EAGAIN : (int)got;
}

/* Through the ring if there is one that has room, else on a worker thread. */
static int rw_co(FileState *s, FileCall *call, bool write)
{
    int ret = -EAGAIN;
    if (s->uring) {
        ret = file_uring_rw_co(s->uring, call->fd, write, call->iov, call->iov_count, call->offset);
    }
    return ret == -EAGAIN ? co_blocking(write ? call_writev : call_readv, call) : ret;
}

static int file_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at)
{
    FileState *s = node->state;
    FileCall call = { .fd = s->fd };

    while (bytes) {
        size_t part;
        call.offset = offset;
        call.iov_count =
            (int)block_vec_slice(vec, at, (size_t)MIN(bytes, 1 << 30), call.iov, IOV_PART, &part);
        int ret = part <= READ_IN_PLACE ? read_cached(s, &call) : -EAGAIN;
        if (ret == -EAGAIN) {
            ret = rw_co(s, &call, false);
        }
        if (ret < 0) {
            return ret;
        }
        if (ret == 0) { /* the file is shorter than thought */
            block_vec_zero(vec, at, (size_t)bytes);
            return 0;
        }
        offset += (unsigned)ret;
        at += (size_t)ret;
        bytes -= (unsigned)ret;
    }
    return 0;
}

static int file_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at, unsigned flags)
{
    FileState *s = node->state;
    FileCall call = { .fd = s->fd };

    while (bytes) {
        size_t part;
        call.offset = offset;
        call.iov_count =
            (int)block_vec_slice(vec, at, (size_t)MIN(bytes, 1 << 30), call.iov, IOV_PART, &part);
        int ret = rw_co(s, &call, true);
        if (ret <= 0) {
            return ret < 0 ? ret : -EIO;
        }
        offset += (unsigned)ret;
        at += (size_t)ret;
        bytes -= (unsigned)ret;
    }
    return 0;
}

static int file_flush_co(BlockNode *node)
{
    FileState *s = node->state;
    FileCall call = { .fd = s->fd };
    int ret = s->uring ? file_uring_sync_co(s->uring, s->fd) : -EAGAIN;
    return ret == -EAGAIN ? co_blocking_long(call_sync, &call) : ret;
}

static bool unsupported(int ret)
{
    return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENODEV || ret == -EINVAL ||
           ret == -EPERM || ret == -ENOTTY;
}

static int fallocate_co(FileState *s, int mode, uint64_t offset, uint64_t bytes)
{
    FileCall call = { .fd = s->fd, .mode = mode, .offset = offset, .bytes = bytes };
    return co_blocking_long(call_fallocate, &call);
}

typedef struct CopyCall {
    int from, to;
    uint64_t from_offset, offset, bytes;
} CopyCall;

static int call_copy(void *opaque)
{
    CopyCall *call = opaque;
    off_t in = (off_t)call->from_offset, out = (off_t)call->offset;

    for (uint64_t left = call->bytes; left;) {
        ssize_t done = copy_file_range(call->from, &in, call->to, &out, (size_t)MIN(left, 1u << 30), 0);
        if (done <= 0 && errno == EINTR && done < 0) {
            continue;
        }
        if (done <= 0) { /* another kind of file system, or the end of a file that is padded: reading knows */
            return done == 0 || errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP || errno == EBADF
                       ? -ENOTSUP : -errno;
        }
        left -= (uint64_t)done;
    }
    return 0;
}

static Error *file_open_co(BlockNode *node, KeyValues *opts);

static int file_copy_range_co(BlockNode *node, uint64_t offset, BlockNode *from, uint64_t from_offset, uint64_t bytes)
{
    if (from->driver->open_co != file_open_co) {
        return -ENOTSUP;
    }
    CopyCall call = { ((FileState *)from->state)->fd, ((FileState *)node->state)->fd, from_offset, offset, bytes };
    int ret = co_blocking(call_copy, &call);
    if (ret == 0) {
        node->size = MAX(node->size, offset + bytes);
    }
    return ret;
}

/* After what may have made holes: until then it is not wrong to say "data". */
static void forget_data(FileState *s)
{
    s->data_from = s->data_to = 0;
}

static int file_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    FileState *s = node->state;
    int ret = -ENOTSUP;

    if (offset >= node->size && !s->device) {
        /* Beyond the end: a hole. Not by ftruncate(): a write further behind may be under way. */
        return bytes && pwrite(s->fd, "", 1, (off_t)(offset + bytes - 1)) < 0 ? -errno : 0;
    }
    if ((flags & REQ_MAY_UNMAP) && !s->no_punch && offset + bytes <= node->size) {
        ret = fallocate_co(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
        s->no_punch = unsupported(ret);
    }
    if (unsupported(ret) && !s->no_zero_range) {
        ret = fallocate_co(s, FALLOC_FL_ZERO_RANGE, offset, bytes);
        s->no_zero_range = unsupported(ret);
    }
    if (unsupported(ret) && !s->no_punch && !s->device && offset + bytes <= node->size) {
        ret = fallocate_co(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
        s->no_punch = unsupported(ret);
    }
    forget_data(s);
    return unsupported(ret) ? -ENOTSUP : ret;
}

static int call_discard_device(void *opaque)
{
    FileCall *call = opaque;
    uint64_t range[2] = { call->offset, call->bytes };
    return ioctl(call->fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

static int file_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    FileState *s = node->state;
    int ret;

    if (s->device) {
        FileCall call = { .fd = s->fd, .offset = offset, .bytes = bytes };
        ret = co_blocking_long(call_discard_device, &call);
    } else if (s->no_punch) {
        return -ENOTSUP;
    } else {
        ret = fallocate_co(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
        s->no_punch = unsupported(ret);
    }
    forget_data(s);
    return unsupported(ret) ? -ENOTSUP : ret;
}

/*
 * Holes by SEEK_DATA and SEEK_HOLE. Where data ends takes tmpfs time in proportion to its length, so that is remembered: who asks
 * piece by piece would wait a minute for 2 GiB. If another process makes a hole there meanwhile, it is read as data.
 */
static int file_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    FileState *s = node->state;
    *ret_status = (BlockStatus) { .flags = STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET,
                                  .bytes = bytes,
                                  .map = offset,
                                  .file = node };
    if (offset >= s->data_from && offset < s->data_to) {
        ret_status->bytes = MIN(bytes, s->data_to - offset);
        return 0;
    }
    off_t data = s->device ? -1 : lseek(s->fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && (s->device || errno != ENXIO)) {
        return 0; /* not known: data */
    }
    if (data < 0 || (uint64_t)data > offset) {
        ret_status->flags = STATUS_ZERO | STATUS_ALLOCATED | STATUS_OFFSET;
        if (data > 0) {
            ret_status->bytes = MIN(bytes, (uint64_t)data - offset);
        }
        return 0;
    }
    off_t hole = lseek(s->fd, (off_t)offset, SEEK_HOLE);
    if (hole > 0 && (uint64_t)hole > offset) { /* the end of the file may be in the middle of a block */
        uint64_t run = ALIGN_UP((uint64_t)hole, (uint64_t)MAX(node->limits.request_align, 1)) - offset;
        ret_status->bytes = MIN(bytes, run);
        s->data_from = offset;
        s->data_to = offset + run;
    }
    return 0;
}

/* --- size --- */

typedef struct GrowCall {
    int fd;
    uint64_t from, to;
    Preallocation prealloc;
} GrowCall;

static int write_zeroes_full(int fd, uint64_t from, uint64_t to)
{
    g_autofree char *zeroes = g_malloc0(1 << 20);
    while (from < to) {
        ssize_t put = pwrite(fd, zeroes, (size_t)MIN(to - from, 1 << 20), (off_t)from);
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        from += put > 0 ? (uint64_t)put : 0;
    }
    return fdatasync(fd) < 0 ? -errno : 0;
}

static int call_grow(void *opaque)
{
    GrowCall *call = opaque;
    if (call->to > call->from && call->prealloc == PREALLOC_FALLOC) {
        int err = posix_fallocate(call->fd, (off_t)call->from, (off_t)(call->to - call->from));
        return -err;
    }
    if (call->to > call->from && call->prealloc == PREALLOC_FULL) {
        return write_zeroes_full(call->fd, call->from, call->to);
    }
    return ftruncate(call->fd, (off_t)call->to) < 0 ? -errno : 0;
}

/*
 * The first block of an empty file that grows is allocated: with O_DIRECT, some file systems tell the alignment they need
 * only where there is a block. What cannot be written there will be told later.
 */
static void allocate_first_block(int fd, uint64_t size)
{
    static const char zeroes[4096];
    ssize_t put = pwrite(fd, zeroes, (size_t)MIN(size, sizeof(zeroes)), 0);
    (void)put;
}

static Error *grow_co(const char *filename, int fd, uint64_t from, uint64_t to,
                      Preallocation prealloc)
{
    if (prealloc == PREALLOC_METADATA) {
        return error_new("Preallocation '%s' is not possible here",
                         block_preallocation_name(prealloc));
    }
    if (prealloc != PREALLOC_OFF && to < from) {
        return error_new("Preallocation can only be used for growing images");
    }
    GrowCall call = { .fd = fd, .from = from, .to = to, .prealloc = prealloc };
    int ret = co_blocking_long(call_grow, &call);
    if (ret < 0) {
        int undone = ftruncate(fd, (off_t)from);
        (void)undone;
        return error_new_errno(ret, "Could not resize file '%s'", filename);
    }
    if (from == 0 && to > 0 && prealloc == PREALLOC_OFF) {
        allocate_first_block(fd, to);
    }
    return NULL;
}

static Error *file_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    FileState *s = node->state;
    if (s->device) {
        return size <= node->size ? NULL : error_new("A host device cannot be made larger than it "
                                                     "is");
    }
    TRY(grow_co(node->filename, s->fd, node->size, size, prealloc));
    forget_data(s);
    node->size = size;
    return NULL;
}

static uint64_t file_allocated_size(BlockNode *node)
{
    FileState *s = node->state;
    struct stat st;
    return fstat(s->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : UINT64_MAX;
}

/* --- opening --- */

static Error *device_geometry(BlockNode *node, FileState *s)
{
    uint64_t size;
    int sector = 512;

    if (ioctl(s->fd, BLKGETSIZE64, &size) < 0) {
        off_t end = lseek(s->fd, 0, SEEK_END);
        if (end < 0) {
            return error_new_errno(errno, "Could not get the size of '%s'", node->filename);
        }
        size = (uint64_t)end;
    } else if (ioctl(s->fd, BLKSSZGET, &sector) < 0) {
        sector = 512;
    }
    node->size = size;
    if (node->direct) {
        node->limits.request_align = (uint32_t)sector;
        node->limits.memory_align = 4096;
    }
    return NULL;
}

/* With O_DIRECT: what the file system says it wants, else the safe value. */
static void direct_alignment(BlockNode *node, FileState *s)
{
    node->limits.request_align = 4096;
    node->limits.memory_align = 4096;
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(s->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && IS_POW2(stx.stx_dio_offset_align) &&
        stx.stx_dio_offset_align <= 65536) {
        node->limits.request_align = stx.stx_dio_offset_align;
        node->limits.memory_align = MAX(stx.stx_dio_mem_align, 1);
    }
#endif
}

static Error *file_geometry(BlockNode *node, FileState *s)
{
    struct stat st;

    if (fstat(s->fd, &st) < 0) {
        return error_new_errno(errno, "Could not stat '%s'", node->filename);
    }
    s->device = S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode);
    if (s->device != g_str_has_prefix(node->driver->name, "host_")) {
        return error_new(s->device ? "'%s' driver requires '%s' to be a regular file"
                                   : "'%s' driver requires '%s' to be either a character or block device",
                         node->driver->name, node->filename);
    }
    if (s->device) {
        return device_geometry(node, s);
    }
    if (!S_ISREG(st.st_mode)) {
        return error_new("'file' driver requires '%s' to be a regular file", node->filename);
    }
    node->size = (uint64_t)st.st_size;
    if (node->direct) {
        direct_alignment(node, s);
    }
    return NULL;
}

static Error *check_aio(BlockNode *node, KeyValues *opts)
{
    g_autofree char *given = keyvalues_take(opts, "aio");
    const char *aio = given ? given : node->aio;
    FileState *s = node->state;
    if (!aio || !strcmp(aio, "threads")) {
        return NULL;
    }
    if (strcmp(aio, "native") && strcmp(aio, "io_uring")) {
        return error_new("Invalid parameter 'aio=%s': threads, native or io_uring is expected",
                         aio);
    }
    if (!strcmp(aio, "native") && !node->direct) {
        return error_new(
            "aio=native was specified, but it requires cache.direct=on, which was not specified.");
    }
    Error *err = file_uring_new(block_graph_loop(node->graph), &s->uring);
    return err ? error_prefix(err, "aio=%s: ", aio) : NULL;
}

static Error *take_locking(KeyValues *opts, FileState *s)
{
    g_autofree char *locking = keyvalues_take(opts, "locking");
    s->locking = !locking || strcmp(locking, "off");
    if (locking && strcmp(locking, "auto") && strcmp(locking, "on") && strcmp(locking, "off")) {
        return error_new("Invalid parameter 'locking=%s': auto, on or off is expected", locking);
    }
    if (s->locking && !file_locks_work(s->fd)) {
        if (locking && !strcmp(locking, "on")) {
            return error_new("This file system has no open file description locks");
        }
        s->locking = false;
    }
    return NULL;
}

static Error *file_prepare(BlockNode *node, FileState *s, KeyValues *opts)
{
    TRY(take_locking(opts, s));
    TRY(check_aio(node, opts));
    TRY(file_geometry(node, s));
    node->limits.max_transfer = 1 << 30;
    return NULL;
}

static Error *file_open_co(BlockNode *node, KeyValues *opts)
{
    FileState *s = node->state;
    g_autofree char *filename = keyvalues_take(opts, "filename");

    if (!filename) {
        return error_new("The '%s' block driver requires a file name", node->driver->name);
    }
    node->filename = g_strdup(filename);
    /* A CD drive without a disc opens only so. */
    int extra = (node->direct ? O_DIRECT : 0) | (strcmp(node->driver->name, "host_cdrom") ? 0 : O_NONBLOCK);
    s->fd = block_open_path(node->graph, filename, (node->read_only ? O_RDONLY : O_RDWR) | extra);
    if (s->fd < 0) {
        return error_new_errno(s->fd, "Could not open '%s'", filename);
    }
    Error *err = file_prepare(node, s, opts);
    if (err) {
        file_uring_free(s->uring);
        close(s->fd);
    }
    return err;
}

static void file_close_co(BlockNode *node)
{
    FileState *s = node->state;
    file_uring_free(s->uring);
    close(s->fd);
}

/* A second description of the same file, with the other access mode; locks belong to descriptions. */
static Error *file_reopen_co(BlockNode *node)
{
    FileState *s = node->state;
    bool special = g_str_has_prefix(node->filename, "/dev/fdset/"); /* the client decides what may be opened */
    g_autofree char *path = special ? g_strdup(node->filename) : g_strdup_printf("/proc/self/fd/%d", s->fd);
    int fd = block_open_path(node->graph, path, (node->read_only ? O_RDONLY : O_RDWR) | (node->direct ? O_DIRECT : 0));
    if (fd < 0) {
        return error_new_errno(fd, "Could not reopen '%s'", node->filename);
    }
    if (dup3(fd, s->fd, O_CLOEXEC) < 0) { /* gives up the locks: the claims are set anew */
        close(fd);
        return error_new_errno(errno, "Could not reopen '%s'", node->filename);
    }
    close(fd);
    forget_data(s);
    memset(&s->locks, 0, sizeof(s->locks));
    if (!s->device) {
        node->limits.request_align = node->limits.memory_align = 1;
    }
    TRY(file_geometry(node, s)); /* another process may have made it longer, see block/inactive.c */
    node->size = ALIGN_UP(node->size, (uint64_t)NODE_SECTOR);
    return NULL;
}

static Error *file_refresh_co(BlockNode *node)
{
    FileState *s = node->state;
    forget_data(s);
    TRY(file_geometry(node, s));
    node->size = ALIGN_UP(node->size, (uint64_t)NODE_SECTOR);
    return NULL;
}

static Error *file_set_claims(BlockNode *node, unsigned used, unsigned shared)
{
    FileState *s = node->state;
    if (!s->locking || node->force_share) {
        return NULL;
    }
    return file_locks_set(s->fd, node->filename, &s->locks, used, CLAIM_ALL & ~shared);
}

/* --- creating --- */

/* A new file is emptied only once its locks say that nobody uses it. */
static Error *create_locked_co(int fd, const char *filename, uint64_t size, Preallocation prealloc,
                               bool nocow)
{
    FileLocks locks = { 0 };
    if (file_locks_work(fd)) {
        TRY(file_locks_set(fd, filename, &locks, CLAIM_WRITE | CLAIM_RESIZE,
                           CLAIM_READ | CLAIM_WRITE | CLAIM_RESIZE));
    }
    if (ftruncate(fd, 0) < 0) {
        return error_new_errno(errno, "Could not clear '%s'", filename);
    }
    if (nocow) { /* best effort, as only some file systems copy on write */
        int attr = 0;
        if (ioctl(fd, FS_IOC_GETFLAGS, &attr) == 0) {
            attr |= FS_NOCOW_FL;
            (void)!ioctl(fd, FS_IOC_SETFLAGS, &attr);
        }
    }
    return grow_co(filename, fd, 0, size, prealloc);
}

static Error *file_create_co(BlockGraph *graph, const char *filename, BlockNode *file,
                             KeyValues *opts)
{
    uint64_t size, hint;
    bool nocow;
    Preallocation prealloc = PREALLOC_OFF;

    TRY(block_take_size(opts, "size", 0, &size));
    TRY(block_take_size(opts, "extent_size_hint", 0, &hint));
    TRY(block_take_bool(opts, "nocow", false, &nocow));
    g_autofree char *mode = keyvalues_take(opts, "preallocation");
    if (mode) {
        TRY(block_parse_preallocation(mode, &prealloc));
    }
    int fd = open(filename, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        return error_new_errno(errno, "Could not create '%s'", filename);
    }
    Error *err = create_locked_co(fd, filename, size, prealloc, nocow);
    close(fd);
    return err;
}

static const BlockOption file_options[] = {
    { "filename", OPT_STR, "Name of the file" },
    { "aio", OPT_STR, "How requests are made: threads, native, io_uring" },
    { "locking", OPT_STR, "Locks between processes: auto, on, off (default: auto)" },
    { 0 },
};
static const BlockOption file_create_options[] = {
    { "extent_size_hint", OPT_SIZE, "Extent size hint for the image file, 0 to disable" },
    { "nocow", OPT_BOOL, "Turn off copy-on-write (valid only on btrfs)" },
    { "preallocation", OPT_STR, "What to allocate beforehand: off, falloc or full" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};

/* A description of its own: without O_DIRECT, for somebody who only reads. */
static int file_open_again(BlockNode *node)
{
    const FileState *f = node->state;
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", f->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

BLOCK_DRIVER(file, .name = "file", .desc = "File of the host", .deciding = (const char *const[]) { "filename", NULL }, .state_size = sizeof(FileState),
             .protocol = true, .extends = true, .options = file_options,
             .create_options = file_create_options, .open_co = file_open_co,
             .close_co = file_close_co, .create_co = file_create_co, .preadv_co = file_preadv_co,
             .pwritev_co = file_pwritev_co, .write_zeroes_co = file_write_zeroes_co,
             .copy_range_co = file_copy_range_co, .discard_co = file_discard_co, .flush_co = file_flush_co, .status_co = file_status_co,
             .truncate_co = file_truncate_co, .set_claims = file_set_claims, .reopen_co = file_reopen_co, .refresh_co = file_refresh_co,
             .open_again = file_open_again, .allocated_size = file_allocated_size);

BLOCK_DRIVER(host_device, .name = "host_device", .desc = "Block device of the host", .deciding = (const char *const[]) { "filename", NULL },
             .state_size = sizeof(FileState), .protocol = true, .options = file_options,
             .open_co = file_open_co, .close_co = file_close_co, .preadv_co = file_preadv_co,
             .pwritev_co = file_pwritev_co, .write_zeroes_co = file_write_zeroes_co,
             .discard_co = file_discard_co, .flush_co = file_flush_co, .status_co = file_status_co,
             .truncate_co = file_truncate_co, .set_claims = file_set_claims, .reopen_co = file_reopen_co, .refresh_co = file_refresh_co,
             .allocated_size = file_allocated_size);

BLOCK_DRIVER(host_cdrom, .name = "host_cdrom", .desc = "CD drive of the host", .deciding = (const char *const[]) { "filename", NULL },
             .state_size = sizeof(FileState), .protocol = true, .options = file_options,
             .open_co = file_open_co, .close_co = file_close_co, .preadv_co = file_preadv_co,
             .pwritev_co = file_pwritev_co, .write_zeroes_co = file_write_zeroes_co,
             .discard_co = file_discard_co, .flush_co = file_flush_co, .status_co = file_status_co,
             .truncate_co = file_truncate_co, .set_claims = file_set_claims, .reopen_co = file_reopen_co, .refresh_co = file_refresh_co,
             .allocated_size = file_allocated_size);
