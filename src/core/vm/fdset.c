#include "core/vm/fdset.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

typedef struct FdEntry {
    int64_t set; /* of a set, or -1 for a named one */
    char *name;  /* opaque text, or the name */
    int fd;
} FdEntry;

static void entry_free(gpointer data)
{
    FdEntry *entry = data;
    close(entry->fd);
    g_free(entry->name);
    g_free(entry);
}

/* All entries of the machine; made at the first call. */
static GPtrArray *entries_of(Machine *machine)
{
    GPtrArray *entries = machine_service(machine, "fdsets");
    if (!entries) {
        entries = g_ptr_array_new_with_free_func(entry_free);
        machine_set_service(machine, "fdsets", entries);
    }
    return entries;
}

void fdsets_free(Machine *machine)
{
    GPtrArray *entries = machine_service(machine, "fdsets");
    if (entries) {
        machine_set_service(machine, "fdsets", NULL);
        g_ptr_array_unref(entries);
    }
}

static void add_entry(Machine *machine, int64_t set, int fd, const char *name)
{
    FdEntry *entry = g_new0(FdEntry, 1);
    entry->set = set;
    entry->fd = fd;
    entry->name = g_strdup(name);
    g_ptr_array_add(entries_of(machine), entry);
}

static bool set_exists(Machine *machine, int64_t set)
{
    const GPtrArray *entries = entries_of(machine);
    for (guint n = 0; n < entries->len; n++) {
        if (((FdEntry *)g_ptr_array_index(entries, n))->set == set) {
            return true;
        }
    }
    return false;
}

Error *fdset_add(Machine *machine, int64_t set, int fd, const char *opaque, int64_t *ret_set)
{
    if (set < 0) {
        for (set = 0; set_exists(machine, set); set++) {
        }
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    add_entry(machine, set, fd, opaque);
    *ret_set = set;
    return NULL;
}

int fdset_open(Machine *machine, const char *path, int flags)
{
    const GPtrArray *entries = entries_of(machine);
    gint64 set;
    char *end;

    if (!g_str_has_prefix(path, "/dev/fdset/")) {
        return -ENOENT;
    }
    set = g_ascii_strtoll(path + 11, &end, 10);
    if (*end || end == path + 11) {
        return -EINVAL;
    }
    for (guint n = 0; n < entries->len; n++) {
        const FdEntry *entry = g_ptr_array_index(entries, n);
        if (entry->set == set && (fcntl(entry->fd, F_GETFL) & O_ACCMODE) == (flags & O_ACCMODE)) {
            int fd = fcntl(entry->fd, F_DUPFD_CLOEXEC, 0);
            return fd < 0 ? -errno : fd;
        }
    }
    return set_exists(machine, set) ? -EACCES : -ENOENT;
}

static gint find_named(Machine *machine, const char *name)
{
    const GPtrArray *entries = entries_of(machine);
    for (guint n = 0; n < entries->len; n++) {
        const FdEntry *entry = g_ptr_array_index(entries, n);
        if (entry->set < 0 && !strcmp(entry->name, name)) {
            return (gint)n;
        }
    }
    return -1;
}

int named_fd_take(Machine *machine, const char *name)
{
    gint index = find_named(machine, name);
    if (index < 0) {
        return -1;
    }
    FdEntry *entry = g_ptr_array_index(entries_of(machine), (guint)index);
    int fd = fcntl(entry->fd, F_DUPFD_CLOEXEC, 0);
    g_ptr_array_remove_index(entries_of(machine), (guint)index);
    return fd;
}

Error *machine_take_fd(Machine *machine, const char *text, int *ret_fd)
{
    char *end;
    int fd = named_fd_take(machine, text);

    if (fd < 0) {
        gint64 number = g_ascii_strtoll(text, &end, 10);
        if (end == text || *end || number < 0 || number > INT_MAX) {
            return error_new("there is no file descriptor named '%s'", text);
        }
        fd = (int)number;
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
            return error_new("%d is not an open file descriptor", fd);
        }
    }
    *ret_fd = fd;
    return NULL;
}

bool named_fd_close(Machine *machine, const char *name)
{
    gint index = find_named(machine, name);
    if (index >= 0) {
        g_ptr_array_remove_index(entries_of(machine), (guint)index);
    }
    return index >= 0;
}

void named_fd_put(Machine *machine, const char *name, int fd)
{
    named_fd_close(machine, name);
    add_entry(machine, -1, fd, name);
}

bool fdset_remove(Machine *machine, int64_t set, int64_t fd)
{
    GPtrArray *entries = entries_of(machine);
    bool found = false;

    for (guint n = entries->len; n-- > 0;) {
        const FdEntry *entry = g_ptr_array_index(entries, n);
        if (set >= 0 && entry->set == set && (fd < 0 || entry->fd == fd)) {
            g_ptr_array_remove_index(entries, n);
            found = true;
        }
    }
    return found;
}

/* The greatest number below `limit` that a set has; -1: none. */
static int64_t next_set(const GPtrArray *entries, int64_t limit)
{
    int64_t best = -1;
    for (guint n = 0; n < entries->len; n++) {
        const FdEntry *entry = g_ptr_array_index(entries, n);
        best = entry->set < limit ? MAX(best, entry->set) : best;
    }
    return best;
}

static Value *set_value(const GPtrArray *entries, int64_t number)
{
    Value *set = value_dict(), *fds = value_list();

    for (guint n = 0; n < entries->len; n++) {
        const FdEntry *entry = g_ptr_array_index(entries, n);
        if (entry->set == number) {
            Value *info = value_dict();
            value_put_int(info, "fd", entry->fd);
            if (entry->name) {
                value_put_str(info, "opaque", entry->name);
            }
            value_append(fds, info);
        }
    }
    value_put_int(set, "fdset-id", number);
    value_put(set, "fds", fds);
    return set;
}

Value *fdsets_describe(Machine *machine)
{
    const GPtrArray *entries = entries_of(machine);
    Value *list = value_list();

    for (int64_t set = INT64_MAX; (set = next_set(entries, set)) >= 0;) {
        value_append(list, set_value(entries, set));
    }
    return list;
}
