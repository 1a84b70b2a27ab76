/*
 * What the guest has made of the file system goes to the host's directory. A file that changed is written beside its place
 * under another name, made durable, and moved there; one that moved is moved; what is gone goes last. So a crash leaves
 * each file as it was or as it shall be. No symbolic link of the host is followed on the way.
 *
 * `known` says what the directory has of the guest's tree; it follows each single step, so that a commit which
 * failed can be tried again.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/protocol/vvfat/walk.h"

typedef struct FatKnown {
    char *host; /* path in the host's directory */
    bool directory;
    uint32_t first;
    uint64_t size;
    FatItem *item; /* whose sectors are read from there; NULL: they are in the overlay */
} FatKnown;

static void known_free(gpointer opaque)
{
    FatKnown *known = opaque;
    g_free(known->host);
    g_free(known);
}

static FatKnown *know(Fat *fat, const char *path, const char *host, bool directory, uint32_t first, uint64_t size)
{
    FatKnown *known = g_new0(FatKnown, 1);
    known->host = g_strdup(host);
    known->directory = directory;
    known->first = first;
    known->size = size;
    g_hash_table_replace(fat->known, g_strdup(path), known);
    return known;
}

void fat_commit_init(Fat *fat)
{
    fat->known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, known_free);
    for (guint i = 0; i < fat->items->len; i++) {
        FatItem *item = g_ptr_array_index(fat->items, i);
        FatKnown *known = know(fat, item->guest_path, item->path, item->directory, item->first, item->size);
        known->item = item->directory ? NULL : item;
    }
}

/* --- places in the host's directory --- */

/* The directory that `path` is in, opened without following links, and the last part of the path. */
static Error *open_parent(const Fat *fat, const char *path, int *ret_fd, const char **ret_name)
{
    int fd = openat(fat->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (const char *slash; fd >= 0 && (slash = strchr(path, '/')); path = slash + 1) {
        g_autofree char *part = g_strndup(path, (gsize)(slash - path));
        int below = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int code = errno;
        close(fd);
        if (below < 0) {
            return error_new_errno(code, "Could not enter '%s' to change it (links are not followed)", part);
        }
        fd = below;
    }
    if (fd < 0) {
        return error_new_errno(errno, "Could not open the directory");
    }
    *ret_fd = fd;
    *ret_name = path;
    return NULL;
}

/* Where the guest's path belongs: in the host's directory of what it is in. Caller frees. */
static char *host_path(const Fat *fat, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) {
        return g_strdup(path);
    }
    g_autofree char *parent = g_strndup(path, (gsize)(slash - path));
    const FatKnown *known = g_hash_table_lookup(fat->known, parent);
    return g_strconcat(known ? known->host : parent, slash, NULL);
}

static Error *let_go(Fat *fat, FatKnown *known)
{
    int ret = known && known->item ? fat_let_go(fat, known->item) : 0;
    if (ret == 0 && known) {
        known->item = NULL;
    }
    return ret < 0 ? error_new_errno(ret, "Could not keep the sectors of '%s'", known->host) : NULL;
}

/* --- single steps --- */

static Error *make_directory(Fat *fat, const FatSeen *seen)
{
    int fd;
    const char *name;
    g_autofree char *host = host_path(fat, seen->path);
    TRY(open_parent(fat, host, &fd, &name));
    int ret = mkdirat(fd, name, 0777) < 0 && errno != EEXIST ? -errno : 0;
    close(fd);
    if (ret < 0) {
        return error_new_errno(ret, "Could not make the directory '%s'", host);
    }
    know(fat, seen->path, host, true, seen->first, 0);
    return NULL;
}

static int write_all(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes) {
        ssize_t put = write(fd, data, bytes);
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        data += put > 0 ? put : 0;
        bytes -= put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static int copy_out(Walk *w, const FatSeen *seen, int fd)
{
    size_t cluster = fat_cluster_bytes(&w->fat->layout);
    g_autofree uint8_t *data = g_malloc(cluster);
    uint64_t left = seen->size;
    for (uint32_t at = seen->first; left;) {
        at = fat_read_chain(w, at, data);
        int ret = at ? write_all(fd, data, (size_t)MIN(left, cluster)) : -EIO;
        if (ret < 0) {
            return ret;
        }
        left -= MIN(left, cluster);
    }
    return 0;
}

static void set_times(int fd, const FatSeen *seen)
{
    struct tm tm = { .tm_year = (seen->date >> 9) + 80, .tm_mon = (seen->date >> 5 & 15) - 1, .tm_mday = seen->date & 31,
                     .tm_hour = seen->time >> 11, .tm_min = seen->time >> 5 & 63, .tm_sec = (seen->time & 31) * 2, .tm_isdst = -1 };
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = mktime(&tm) } };
    if (seen->date && times[1].tv_sec != (time_t)-1) {
        futimens(fd, times);
    }
}

/* Under a name that nobody has, with the old file's rights if there is one. Caller frees *ret_name. */
static int make_beside(int dir, const char *name, char **ret_name)
{
    struct stat st;
    bool old = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
    for (int tries = 0; tries < 100; tries++) {
        char *beside = g_strdup_printf(".%08x.ostrich-new", g_random_int());
        int fd = openat(dir, beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, old ? st.st_mode & 0777 : 0666);
        if (fd >= 0 || errno != EEXIST) {
            *ret_name = beside;
            return fd < 0 ? -errno : fd;
        }
        g_free(beside);
    }
    return -EEXIST;
}

static int write_beside(Walk *w, const FatSeen *seen, int dir, const char *name, char **ret_name)
{
    int fd = make_beside(dir, name, ret_name);
    if (fd < 0) {
        return fd;
    }
    int ret = copy_out(w, seen, fd);
    set_times(fd, seen);
    ret = ret == 0 && fsync(fd) < 0 ? -errno : ret;
    close(fd);
    if (ret < 0) {
        unlinkat(dir, *ret_name, 0);
    }
    return ret;
}

/* New contents. What somebody else has put there under the name is left alone. */
static Error *write_file(Walk *w, const FatSeen *seen)
{
    Fat *fat = w->fat;
    FatKnown *known = g_hash_table_lookup(fat->known, seen->path);
    g_autofree char *host = known ? g_strdup(known->host) : host_path(fat, seen->path), *beside = NULL;
    int fd;
    const char *name;

    TRY(let_go(fat, known));
    TRY(open_parent(fat, host, &fd, &name));
    int ret = write_beside(w, seen, fd, name, &beside);
    if (ret == 0 && renameat2(fd, beside, fd, name, known ? 0 : RENAME_NOREPLACE) < 0) {
        ret = -errno;
        unlinkat(fd, beside, 0);
    }
    close(fd);
    if (ret < 0) {
        return error_new_errno(ret, "Could not write '%s'", host);
    }
    know(fat, seen->path, host, false, seen->first, seen->size);
    return NULL;
}

static Error *move_file(Fat *fat, const char *from, FatKnown *known, const FatSeen *to)
{
    int old_fd, new_fd;
    const char *old_name, *new_name;
    g_autofree char *host = host_path(fat, to->path);

    TRY(open_parent(fat, known->host, &old_fd, &old_name));
    Error *err = open_parent(fat, host, &new_fd, &new_name);
    if (err) {
        close(old_fd);
        return err;
    }
    int ret = renameat2(old_fd, old_name, new_fd, new_name, RENAME_NOREPLACE) < 0 ? -errno : 0;
    close(old_fd);
    close(new_fd);
    if (ret < 0) {
        return error_new_errno(ret, "Could not move '%s' to '%s'", known->host, host);
    }
    FatItem *item = known->item;
    if (item) { /* the same file by its new name */
        g_free(item->path);
        item->path = g_strdup(host);
    }
    g_hash_table_remove(fat->known, from);
    know(fat, to->path, host, false, to->first, to->size)->item = item;
    return NULL;
}

/* A directory in which the host has something that the guest has not stays. */
static Error *remove_known(Fat *fat, const char *path)
{
    FatKnown *known = g_hash_table_lookup(fat->known, path);
    int fd;
    const char *name;
    TRY(let_go(fat, known));
    TRY(open_parent(fat, known->host, &fd, &name));
    int ret = unlinkat(fd, name, known->directory ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
    close(fd);
    if (ret < 0 && ret != -ENOENT && ret != -ENOTEMPTY && ret != -EEXIST) {
        return error_new_errno(ret, "Could not remove '%s'", known->host);
    }
    g_hash_table_remove(fat->known, path);
    return NULL;
}

/* --- all of them --- */

static bool is_unchanged(Walk *w, const FatSeen *seen, const FatKnown *known)
{
    return known && known->directory == seen->directory &&
           (seen->directory ||
            (known->size == seen->size && (!seen->size || (known->first == seen->first && !fat_chain_is_dirty(w, seen->first)))));
}

/* The path of a file that has the same clusters and is nowhere in the guest's tree any more; NULL: there is none. */
static const char *moved_from(Walk *w, GHashTable *by_first, const FatSeen *seen)
{
    const char *path = seen->size ? g_hash_table_lookup(by_first, GUINT_TO_POINTER(seen->first)) : NULL;
    const FatKnown *known = path ? g_hash_table_lookup(w->fat->known, path) : NULL;
    return known && known->size == seen->size && !fat_chain_is_dirty(w, seen->first) ? path : NULL;
}

/* Files of the host that the guest has no more where they were. Keys are borrowed from `known`. */
static GHashTable *missing_files(Walk *w)
{
    GHashTable *by_first = g_hash_table_new(NULL, NULL);
    GHashTableIter iter;
    gpointer path, value;
    g_hash_table_iter_init(&iter, w->fat->known);
    while (g_hash_table_iter_next(&iter, &path, &value)) {
        const FatKnown *known = value;
        if (!known->directory && known->first && !g_hash_table_contains(w->paths, path)) {
            g_hash_table_insert(by_first, GUINT_TO_POINTER(known->first), path);
        }
    }
    return by_first;
}

/* The guest may have a directory where there was a file, or the other way round: the old one goes first. */
static Error *clear_way(Walk *w, const FatSeen *seen)
{
    const FatKnown *known = g_hash_table_lookup(w->fat->known, seen->path);
    return known && known->directory != seen->directory ? remove_known(w->fat, seen->path) : NULL;
}

static Error *bring_up(Walk *w, const FatSeen *seen, GHashTable *missing)
{
    Fat *fat = w->fat;
    TRY(clear_way(w, seen));
    const FatKnown *known = g_hash_table_lookup(fat->known, seen->path);
    if (is_unchanged(w, seen, known)) {
        return NULL;
    }
    if (seen->directory) {
        return make_directory(fat, seen);
    }
    const char *from = known ? NULL : moved_from(w, missing, seen);
    if (!from) {
        return write_file(w, seen);
    }
    g_hash_table_remove(missing, GUINT_TO_POINTER(seen->first));
    g_autofree char *path = g_strdup(from);
    return move_file(fat, path, g_hash_table_lookup(fat->known, path), seen);
}

static int deepest_first(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)b, *(char *const *)a); /* what is in a directory has its path as a beginning */
}

static Error *remove_missing(Walk *w)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer path;
    g_hash_table_iter_init(&iter, w->fat->known);
    while (g_hash_table_iter_next(&iter, &path, NULL)) {
        if (*(char *)path && !g_hash_table_contains(w->paths, path)) {
            g_ptr_array_add(paths, g_strdup(path));
        }
    }
    g_ptr_array_sort(paths, deepest_first);
    for (guint i = 0; i < paths->len; i++) {
        TRY(remove_known(w->fat, g_ptr_array_index(paths, i)));
    }
    return NULL;
}

static Error *commit_walk(Walk *w)
{
    Fat *fat = w->fat;
    g_autoptr(GHashTable) missing = missing_files(w);
    for (guint i = 0; i < w->seen->len; i++) {
        TRY(bring_up(w, g_ptr_array_index(w->seen, i), missing));
    }
    TRY(remove_missing(w));
    if (fsync(fat->dir_fd) < 0) {
        return error_new_errno(errno, "Could not flush the directory");
    }
    memset(fat->dirty, 0, (size_t)(fat->layout.sectors / 8 + 1));
    fat->changed = false;
    return NULL;
}

Error *fat_commit(Fat *fat)
{
    Walk walk;
    Error *err = NULL;

    if (fat_walk(&walk, fat)) {
        err = commit_walk(&walk);
    }
    fat_walk_fini(&walk);
    return err;
}
