#include "block/protocol/file_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/node.h"

enum { USED_BASE = 100, UNSHARED_BASE = 200 };

static int lock_byte(int fd, off_t start, short type)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };
    int ret;
    do {
        ret = fcntl(fd, F_OFD_SETLK, &lock);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static bool byte_is_locked_by_other(int fd, off_t start)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool file_locks_work(int fd)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = USED_BASE, .l_len = 1
    };
    return fcntl(fd, F_OFD_GETLK, &lock) == 0;
}

/* Whether some descriptor of the process has the file open and locked; OFD locks name no process.
 */
static bool process_holds(const char *pid, const struct stat *file)
{
    g_autofree char *dir_name = g_strdup_printf("/proc/%s/fdinfo", pid);
    DIR *dir = opendir(dir_name);
    bool found = false;

    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        g_autofree char *fd_name = g_strdup_printf("/proc/%s/fd/%s", pid, entry->d_name);
        g_autofree char *info_name = g_strdup_printf("%s/%s", dir_name, entry->d_name);
        g_autofree char *info = NULL;
        struct stat st;
        found = entry->d_name[0] != '.' && stat(fd_name, &st) == 0 && st.st_ino == file->st_ino &&
                st.st_dev == file->st_dev && g_file_get_contents(info_name, &info, NULL, NULL) &&
                strstr(info, "OFDLCK");
    }
    if (dir) {
        closedir(dir);
    }
    return found;
}

/* "qemu-img (process 123)", or NULL when it cannot be seen. */
static char *find_holder(int fd)
{
    struct stat file;
    char *holder = NULL;
    DIR *dir = fstat(fd, &file) == 0 ? opendir("/proc") : NULL;

    for (struct dirent *entry; dir && !holder && (entry = readdir(dir));) {
        if (!g_ascii_isdigit(entry->d_name[0]) || atoi(entry->d_name) == (int)getpid() ||
            !process_holds(entry->d_name, &file)) {
            continue;
        }
        g_autofree char *comm_name = g_strdup_printf("/proc/%s/comm", entry->d_name), *comm = NULL;
        if (g_file_get_contents(comm_name, &comm, NULL, NULL)) {
            holder = g_strdup_printf("%s (process %s)", g_strstrip(comm), entry->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return holder;
}

static Error *conflict(int fd, const char *filename, bool shared, unsigned bit)
{
    g_autofree char *holder = find_holder(fd);
    Error *err =
        error_new("Failed to get %s\"%s\" lock", shared ? "shared " : "", block_claim_name(bit));
    err = error_hint(err, "Is another process using the image [%s]?", filename);
    return holder ? error_hint(err, "It is open in %s.", holder) : err;
}

static void unlock_bits(int fd, off_t base, unsigned bits)
{
    for (unsigned bit = 0; bit < CLAIM_BITS; bit++) {
        if (bits & BIT(bit)) {
            lock_byte(fd, base + bit, F_UNLCK);
        }
    }
}

static Error *lock_bits(int fd, const char *filename, off_t base, unsigned bits)
{
    for (unsigned bit = 0; bit < CLAIM_BITS; bit++) {
        if (!(bits & BIT(bit))) {
            continue;
        }
        int ret = lock_byte(fd, base + bit, F_RDLCK);
        if (ret < 0) {
            unlock_bits(fd, base, bits & (BIT(bit) - 1));
            return ret == -EAGAIN || ret == -EACCES
                       ? conflict(fd, filename, base == UNSHARED_BASE, bit)
                       : error_new_errno(ret, "Failed to lock byte %d of '%s'",
                                         (int)base + (int)bit, filename);
        }
    }
    return NULL;
}

static Error *look_for_conflicts(int fd, const char *filename, unsigned used, unsigned unshared)
{
    for (unsigned bit = 0; bit < CLAIM_BITS; bit++) {
        if ((used & BIT(bit)) && byte_is_locked_by_other(fd, UNSHARED_BASE + bit)) {
            return conflict(fd, filename, false, bit);
        }
    }
    for (unsigned bit = 0; bit < CLAIM_BITS; bit++) {
        if ((unshared & BIT(bit)) && byte_is_locked_by_other(fd, USED_BASE + bit)) {
            return conflict(fd, filename, true, bit);
        }
    }
    return NULL;
}

Error *file_locks_set(int fd, const char *filename, FileLocks *locks, unsigned used,
                      unsigned unshared)
{
    unsigned new_used = used & ~locks->used, new_unshared = unshared & ~locks->unshared;

    TRY(lock_bits(fd, filename, USED_BASE, new_used));
    Error *err = lock_bits(fd, filename, UNSHARED_BASE, new_unshared);
    if (!err) {
        err = look_for_conflicts(fd, filename, new_used, new_unshared);
        if (err) {
            unlock_bits(fd, UNSHARED_BASE, new_unshared);
        }
    }
    if (err) {
        unlock_bits(fd, USED_BASE, new_used);
        return err;
    }
    unlock_bits(fd, USED_BASE, locks->used & ~used);
    unlock_bits(fd, UNSHARED_BASE, locks->unshared & ~unshared);
    locks->used = used;
    locks->unshared = unshared;
    return NULL;
}
