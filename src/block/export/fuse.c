/*
 * Exports of the kind "fuse": the node is a regular file, mounted over an existing regular file. libfuse speaks to the
 * kernel (its low-level interface, fuse_lowlevel.h); each request is a coroutine on the export's loop.
 *
 * The kernel caches no data (direct_io), since the node has other users. Whoever uses the mounted file from
 * inside this program would wait for himself, so the mount point is looked at once only, before it is mounted over.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/library.h"
#include "block/export/export.h"

#define FUSE_CALLS(C) \
    C(fuse_session_new) C(fuse_session_mount) C(fuse_session_unmount) C(fuse_session_destroy) C(fuse_session_fd) \
    C(fuse_session_receive_buf) C(fuse_session_process_buf) C(fuse_session_exit) C(fuse_session_exited) \
    C(fuse_req_userdata) C(fuse_reply_err) C(fuse_reply_attr) C(fuse_reply_open) C(fuse_reply_buf) \
    C(fuse_reply_write) C(fuse_reply_statfs) C(fuse_reply_lseek) C(fuse_opt_free_args) C(fuse_opt_add_arg)
typedef struct FuseApi {
    FUSE_CALLS(LIBRARY_POINTER)
} FuseApi;
#define FUSE_CALL(name) LIBRARY_CALL(FuseApi, name)
static const LibraryCall fuse_calls[] = { FUSE_CALLS(FUSE_CALL) };
static const Library fuse_library = { "the FUSE library", "libfuse3.so.3", "libfuse3-3", fuse_calls,
                                      G_N_ELEMENTS(fuse_calls) };

enum { MAX_IN_FLIGHT = 64, MAX_RECEIVED = 16 /* in one round of the loop */, BLOCK = 512 };

typedef enum AllowOther { ALLOW_OFF, ALLOW_ON, ALLOW_AUTO } AllowOther;

typedef struct FuseExport {
    Export export;
    FuseApi lib;
    char *mountpoint; /* as it was given */
    char *canonical;  /* no links in the directory's part */
    struct fuse_session *session;
    LoopFd *source;        /* NULL: not mounted any more */
    struct fuse_buf input; /* the request that is being looked at; memory of one that is kept goes with it */
    bool growable, allow_other;
    unsigned in_flight;
    unsigned resizes; /* that need a claim which the export does not have */
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct timespec accessed, modified;
} FuseExport;

typedef struct FuseRequest {
    FuseExport *fuse;
    fuse_req_t req;
    void (*run_co)(struct FuseRequest *r); /* replies */
    uint64_t offset, length;
    int mode; /* of fallocate and lseek */
    const void *data;
    void *memory; /* data are in it */
    struct stat attr;
    int attr_set; /* FUSE_SET_ATTR_* */
} FuseRequest;

static const ExportKind fuse_export_kind;
/* The only way from a request of the library to its export; the library is never closed. */
static __typeof__(fuse_req_userdata) *req_userdata;

static BlockNode *node_of(const FuseExport *f)
{
    return f->export.node;
}

/* --- requests in general --- */

static void listen_again(FuseExport *f)
{
    if (f->source) {
        loop_mod_fd(f->source, f->in_flight < MAX_IN_FLIGHT ? LOOP_READ : 0);
    }
}

static void request_co(void *opaque)
{
    FuseRequest *r = opaque;
    FuseExport *f = r->fuse;

    r->run_co(r);
    if (r->memory && !f->input.mem) {
        f->input.mem = r->memory;
    } else {
        free(r->memory);
    }
    g_free(r);
    f->in_flight--;
    listen_again(f);
    export_unref(&f->export);
}

static void start_request(const FuseRequest *request)
{
    FuseRequest *r = g_new(FuseRequest, 1);
    FuseExport *f = request->fuse;

    *r = *request;
    f->in_flight++;
    export_ref(&f->export);
    listen_again(f);
    co_start(export_loop(&f->export), request_co, r);
}

static void reply(FuseRequest *r, int result)
{
    r->fuse->lib.fuse_reply_err(r->req, result < 0 ? -result : 0);
}

/* --- what the file is --- */

static struct stat attributes(const FuseExport *f)
{
    uint64_t allocated = node_allocated_size(node_of(f)), size = node_of(f)->size;
    return (struct stat) {
        .st_ino = FUSE_ROOT_ID,
        .st_mode = f->mode,
        .st_nlink = 1,
        .st_uid = f->uid,
        .st_gid = f->gid,
        .st_size = (off_t)size,
        .st_blksize = 4096,
        .st_blocks = (blkcnt_t)((allocated == UINT64_MAX ? size : allocated) / BLOCK),
        .st_atim = f->accessed,
        .st_mtim = f->modified,
        .st_ctim = f->modified,
    };
}

static void getattr_co(FuseRequest *r)
{
    struct stat now = attributes(r->fuse);
    r->fuse->lib.fuse_reply_attr(r->req, &now, 1);
}

static void statfs_co(FuseRequest *r)
{
    struct stat now = attributes(r->fuse);
    uint64_t blocks = node_of(r->fuse)->size / BLOCK;
    uint64_t used = MIN((uint64_t)now.st_blocks, blocks);
    struct statvfs facts = { .f_bsize = BLOCK,
                             .f_frsize = BLOCK,
                             .f_blocks = blocks,
                             .f_bfree = blocks - used,
                             .f_bavail = blocks - used,
                             .f_files = 1,
                             .f_namemax = 255 };
    r->fuse->lib.fuse_reply_statfs(r->req, &facts);
}

/* --- size --- */

/* Only while it happens the export claims to change the size, unless it may grow at any time. */
static int claim_resize(FuseExport *f)
{
    if (!f->growable && f->resizes++ == 0) {
        Error *err = block_root_set_claims(f->export.root, CLAIM_READ | CLAIM_WRITE | CLAIM_RESIZE, CLAIM_ALL & ~CLAIM_RESIZE);
        if (err) {
            error_free(err);
            f->resizes--;
            return -EBUSY;
        }
    }
    return 0;
}

static void unclaim_resize(FuseExport *f)
{
    if (!f->growable && --f->resizes == 0) {
        error_free(block_root_set_claims(f->export.root, CLAIM_READ | CLAIM_WRITE, CLAIM_ALL & ~CLAIM_RESIZE));
    }
}

static int resize_co(FuseExport *f, uint64_t size, Preallocation prealloc)
{
    if (size > INT64_MAX - BLOCK) {
        return -EFBIG;
    }
    int ret = claim_resize(f);
    if (ret < 0) {
        return ret;
    }
    Error *err = node_truncate_co(node_of(f), size, prealloc);
    unclaim_resize(f);
    ret = err ? -EIO : 0;
    error_free(err);
    return ret;
}

/* Only bigger: somebody else may have been quicker. */
static int grow_co(FuseExport *f, uint64_t size, Preallocation prealloc)
{
    return size > node_of(f)->size ? resize_co(f, size, prealloc) : 0;
}

/* --- attributes --- */

/* What may not be set; 0 when all may. */
static int check_attributes(const FuseRequest *r)
{
    const FuseExport *f = r->fuse;
    int set = r->attr_set;

    if ((set & FUSE_SET_ATTR_SIZE) && !f->export.writable) {
        return -EACCES;
    }
    if ((set & FUSE_SET_ATTR_MODE) && !f->export.writable && (r->attr.st_mode & 0222)) {
        return -EROFS;
    }
    /* Without allow_other the kernel lets nobody else in whatever the owner is. */
    return (set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) && !f->allow_other ? -ENOTSUP : 0;
}

static void set_times(const FuseRequest *r)
{
    FuseExport *f = r->fuse;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (r->attr_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW)) {
        f->accessed = r->attr_set & FUSE_SET_ATTR_ATIME_NOW ? now : r->attr.st_atim;
    }
    if (r->attr_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)) {
        f->modified = r->attr_set & FUSE_SET_ATTR_MTIME_NOW ? now : r->attr.st_mtim;
    }
}

static void setattr_co(FuseRequest *r)
{
    FuseExport *f = r->fuse;
    int ret = check_attributes(r);

    if (ret == 0 && (r->attr_set & FUSE_SET_ATTR_SIZE)) {
        ret = resize_co(f, (uint64_t)r->attr.st_size, PREALLOC_OFF);
    }
    if (ret < 0) {
        reply(r, ret);
        return;
    }
    if (r->attr_set & FUSE_SET_ATTR_MODE) {
        f->mode = S_IFREG | (r->attr.st_mode & 07777);
    }
    f->uid = r->attr_set & FUSE_SET_ATTR_UID ? r->attr.st_uid : f->uid;
    f->gid = r->attr_set & FUSE_SET_ATTR_GID ? r->attr.st_gid : f->gid;
    set_times(r);
    getattr_co(r);
}

/* --- data --- */

static void read_co(FuseRequest *r)
{
    FuseExport *f = r->fuse;
    uint64_t size = node_of(f)->size;
    uint64_t bytes = r->offset < size ? MIN(r->length, size - r->offset) : 0;
    void *buffer = NULL;

    if (bytes && posix_memalign(&buffer, 4096, bytes)) {
        reply(r, -ENOMEM);
        return;
    }
    int ret = bytes ? node_pread_co(node_of(f), r->offset, bytes, buffer) : 0;
    if (ret < 0) {
        reply(r, ret);
    } else {
        f->lib.fuse_reply_buf(r->req, buffer, bytes);
    }
    free(buffer);
}

static unsigned write_flags(const FuseExport *f)
{
    return f->export.writethrough ? REQ_FUA : 0;
}

static void write_co(FuseRequest *r)
{
    FuseExport *f = r->fuse;
    uint64_t bytes = r->length;
    int ret = f->export.writable ? 0 : -EACCES;

    if (ret == 0 && r->offset > INT64_MAX - bytes) {
        ret = -EFBIG;
    }
    if (ret == 0 && f->growable) {
        ret = grow_co(f, r->offset + bytes, PREALLOC_OFF);
    }
    uint64_t size = node_of(f)->size;
    if (ret == 0 && bytes && r->offset >= size) {
        ret = -EIO;
    }
    if (ret == 0 && bytes) { /* what lies behind the end is left out, which the writer sees */
        bytes = MIN(bytes, size - r->offset);
        ret = node_pwrite_co(node_of(f), r->offset, bytes, r->data, write_flags(f));
    }
    if (ret < 0) {
        reply(r, ret);
    } else {
        f->lib.fuse_reply_write(r->req, bytes);
    }
}

static void flush_co(FuseRequest *r)
{
    reply(r, r->fuse->export.writable ? node_flush_co(node_of(r->fuse)) : 0);
}

/* The range as far as it lies inside the file. */
static int zero_co(FuseExport *f, uint64_t offset, uint64_t length, unsigned flags)
{
    uint64_t size = node_of(f)->size;
    length = offset < size ? MIN(length, size - offset) : 0;
    return length ? node_write_zeroes_co(node_of(f), offset, length, flags | write_flags(f)) : 0;
}

static void fallocate_co(FuseRequest *r)
{
    FuseExport *f = r->fuse;
    bool keep = (r->mode & FALLOC_FL_KEEP_SIZE) != 0;
    int ret = 0;

    if (!f->export.writable) {
        reply(r, -EACCES);
        return;
    }
    if (r->length > INT64_MAX || r->offset > INT64_MAX - r->length) {
        reply(r, -EFBIG);
        return;
    }
    uint64_t end = r->offset + r->length;
    switch (r->mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0: /* what the file has already is there: writing to it takes what room it takes */
        ret = keep ? (end > node_of(f)->size ? -EOPNOTSUPP : 0) : grow_co(f, end, PREALLOC_FALLOC);
        break;
    case FALLOC_FL_PUNCH_HOLE:
        ret = keep ? zero_co(f, r->offset, r->length, REQ_MAY_UNMAP) : -EOPNOTSUPP;
        break;
    case FALLOC_FL_ZERO_RANGE:
        ret = keep ? 0 : grow_co(f, end, PREALLOC_OFF);
        ret = ret < 0 ? ret : zero_co(f, r->offset, r->length, 0);
        break;
    default:
        ret = -EOPNOTSUPP;
    }
    reply(r, ret);
}

/* SEEK_DATA and SEEK_HOLE; there is a hole at the end. */
static void lseek_co(FuseRequest *r)
{
    FuseExport *f = r->fuse;
    uint64_t at = r->offset, size = node_of(f)->size;

    if (at >= size) {
        reply(r, -ENXIO);
        return;
    }
    while (at < size) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(node_of(f), NULL, at, size - at, &status, &depth);
        if (ret < 0) {
            reply(r, ret);
            return;
        }
        bool hole = (status.flags & STATUS_ZERO) != 0;
        if (hole == (r->mode == SEEK_HOLE)) {
            break;
        }
        at += status.bytes;
    }
    if (at >= size && r->mode == SEEK_DATA) {
        reply(r, -ENXIO);
        return;
    }
    f->lib.fuse_reply_lseek(r->req, (off_t)MIN(at, size));
}

/* --- what libfuse calls, in the loop --- */

static FuseRequest request_of(fuse_req_t req, void (*run_co)(FuseRequest *r))
{
    return (FuseRequest) { .fuse = req_userdata(req), .req = req, .run_co = run_co };
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, getattr_co);
    start_request(&r);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
    FuseRequest r = request_of(req, statfs_co);
    start_request(&r);
}

static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, setattr_co);
    r.attr = *attr;
    r.attr_set = set;
    start_request(&r);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    FuseExport *f = req_userdata(req);
    info->direct_io = 1;
    f->lib.fuse_reply_open(req, info);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, read_co);
    r.offset = (uint64_t)offset;
    r.length = size;
    start_request(&r);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, write_co);
    r.offset = (uint64_t)offset;
    r.length = size;
    r.data = data;
    r.memory = g_steal_pointer(&r.fuse->input.mem); /* the data are in it */
    start_request(&r);
}

static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, flush_co);
    start_request(&r);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *info)
{
    on_flush(req, ino, info);
}

static void on_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, fallocate_co);
    r.offset = (uint64_t)offset;
    r.length = (uint64_t)length;
    r.mode = mode;
    start_request(&r);
}

static void on_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *info)
{
    FuseRequest r = request_of(req, lseek_co);
    r.offset = (uint64_t)offset;
    r.mode = whence;
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        r.fuse->lib.fuse_reply_err(req, EINVAL);
        return;
    }
    start_request(&r);
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    FuseExport *f = req_userdata(req);
    f->lib.fuse_reply_err(req, ENOENT); /* a file has nothing in it */
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .flush = on_flush,
    .fsync = on_fsync,
    .fallocate = on_fallocate,
    .lseek = on_lseek,
    .statfs = on_statfs,
};

/* --- the session --- */

static void readable(void *opaque, unsigned events)
{
    FuseExport *f = opaque;

    export_ref(&f->export);
    for (unsigned n = 0; n < MAX_RECEIVED && f->source && f->in_flight < MAX_IN_FLIGHT; n++) {
        int ret = f->lib.fuse_session_receive_buf(f->session, &f->input);
        if (ret == -EINTR) {
            continue;
        }
        if (ret <= 0) {
            break;
        }
        f->lib.fuse_session_process_buf(f->session, &f->input);
    }
    if (f->lib.fuse_session_exited(f->session)) { /* unmounted by somebody */
        export_stop(&f->export);
    }
    export_unref(&f->export);
}

/* What the mount point must be. */
static Error *check_mountpoint(FuseExport *f)
{
    g_autofree char *directory = g_path_get_dirname(f->mountpoint), *name = g_path_get_basename(f->mountpoint);
    char *real = realpath(directory, NULL);
    struct stat facts;

    f->canonical = real ? g_build_filename(real, name, NULL) : g_strdup(f->mountpoint);
    free(real);
    for (Export *e = NULL; (e = export_next(f->export.graph, e));) {
        if (e->kind == &fuse_export_kind && !e->stopping &&
            !strcmp(container_of(e, FuseExport, export)->canonical, f->canonical)) {
            return error_new("There already is a FUSE export on '%s'", f->mountpoint);
        }
    }
    if (stat(f->mountpoint, &facts) < 0) {
        return error_new_errno(errno, "Failed to stat '%s'", f->mountpoint);
    }
    return S_ISREG(facts.st_mode) ? NULL : error_new("'%s' is not a regular file", f->mountpoint);
}

static void end_session(FuseExport *f)
{
    if (f->session) {
        f->lib.fuse_session_destroy(f->session);
        f->session = NULL;
    }
}

static Error *mount_as(FuseExport *f, bool allow_other)
{
    g_autofree char *options = g_strdup_printf("fsname=%s,default_permissions%s", f->export.id, allow_other ? ",allow_other" : "");
    const char *words[] = { "fuse", "-o", options };
    struct fuse_args args = { 0 };

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        f->lib.fuse_opt_add_arg(&args, words[i]);
    }
    f->session = f->lib.fuse_session_new(&args, &operations, sizeof(operations), f);
    f->lib.fuse_opt_free_args(&args);
    if (!f->session) {
        return error_new("The FUSE library did not make a session");
    }
    if (f->lib.fuse_session_mount(f->session, f->mountpoint)) {
        end_session(f);
        return error_hint(error_new("'%s' could not be mounted over", f->mountpoint),
                          "The kernel must have FUSE (/dev/fuse); users other than root need the program fusermount3.");
    }
    f->allow_other = allow_other;
    return NULL;
}

static Error *mount_export(FuseExport *f, AllowOther allow)
{
    Error *err = mount_as(f, allow != ALLOW_OFF);
    if (err && allow == ALLOW_AUTO) {
        error_free(err);
        err = mount_as(f, false);
    }
    TRY(err);
    int fd = f->lib.fuse_session_fd(f->session);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    f->source = loop_add_fd(export_loop(&f->export), fd, LOOP_READ, readable, f);
    return NULL;
}

/* --- the export --- */

static Error *take_allow_other(KeyValues *opts, AllowOther *ret_allow)
{
    g_autofree char *text = keyvalues_take(opts, "allow-other");
    static const char *const names[] = { [ALLOW_OFF] = "off", [ALLOW_ON] = "on", [ALLOW_AUTO] = "auto" };

    *ret_allow = ALLOW_AUTO;
    for (unsigned i = 0; text && i < ARRAY_SIZE(names); i++) {
        if (!strcmp(text, names[i])) {
            *ret_allow = i;
            return NULL;
        }
    }
    return text ? error_new("Parameter 'allow-other' does not accept value '%s': off, on or auto is expected", text) : NULL;
}

static Error *start(FuseExport *f, KeyValues *opts)
{
    AllowOther allow;

    f->mountpoint = keyvalues_take(opts, "mountpoint");
    if (!f->mountpoint) {
        return error_new("Parameter 'mountpoint' is missing");
    }
    TRY(take_allow_other(opts, &allow));
    TRY(block_take_bool(opts, "growable", false, &f->growable));
    if (opts->items->len) {
        return NULL; /* refused by the caller, before anything is mounted */
    }
    if (f->growable && f->export.writable) {
        TRY(block_root_set_claims(f->export.root, CLAIM_READ | CLAIM_WRITE | CLAIM_RESIZE, CLAIM_ALL & ~CLAIM_RESIZE));
    } else {
        f->growable = false;
    }
    if (prctl(PR_GET_SECCOMP) > 0) {
        return error_hint(error_new("the system call filter lets this program mount nothing"),
                          "Export with qemu-storage-daemon, or start with -sandbox off.");
    }
    TRY(check_mountpoint(f));
    TRY(library_open(&fuse_library, &f->lib));
    req_userdata = f->lib.fuse_req_userdata;
    f->uid = getuid();
    f->gid = getgid();
    return mount_export(f, allow);
}

static void release(FuseExport *f)
{
    end_session(f);
    free(f->input.mem);
    g_free(f->mountpoint);
    g_free(f->canonical);
}

static Error *fuse_export_start(Export *export, KeyValues *opts)
{
    FuseExport *f = container_of(export, FuseExport, export);

    f->mode = S_IFREG | S_IRUSR | (export->writable ? S_IWUSR : 0);
    clock_gettime(CLOCK_REALTIME, &f->modified);
    f->accessed = f->modified;
    Error *err = start(f, opts);
    if (err) {
        release(f);
    }
    return err;
}

static void fuse_export_stop(Export *export)
{
    FuseExport *f = container_of(export, FuseExport, export);
    LoopFd *source = g_steal_pointer(&f->source);

    if (source) {
        loop_del_fd(source);
        f->lib.fuse_session_exit(f->session);
        f->lib.fuse_session_unmount(f->session);
    }
}

static void fuse_export_release(Export *export)
{
    fuse_export_stop(export); /* when starting failed later on */
    release(container_of(export, FuseExport, export));
}

static const ExportKind fuse_export_kind = {
    .name = "fuse",
    .size = sizeof(FuseExport),
    .start = fuse_export_start,
    .stop = fuse_export_stop,
    .release = fuse_export_release,
};
EXPORT_KIND(fuse_export_kind);
