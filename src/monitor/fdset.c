#include "monitor/fdset.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "monitor/monitor_priv.h"
#include "schema/qmp_commands.h"

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

static MUST_USE Error *take_sent(QmpContext *ctx, int *ret_fd)
{
    *ret_fd = ctx->monitor ? char_take_fd(&ctx->monitor->front) : -1;
    return *ret_fd < 0 ? error_new("No file descriptor supplied via SCM_RIGHTS") : NULL;
}

Error *qmp_getfd(QmpContext *ctx, const QmpGetfdArgs *args, Value **ret)
{
    int fd = -1;

    TRY(take_sent(ctx, &fd));
    if (g_ascii_isdigit(args->fdname[0])) {
        close(fd);
        return error_new("Parameter 'fdname' expects a name not starting with a digit");
    }
    gint old = find_named(ctx->machine, args->fdname);
    if (old >= 0) {
        g_ptr_array_remove_index(entries_of(ctx->machine), (guint)old);
    }
    add_entry(ctx->machine, -1, fd, args->fdname);
    return NULL;
}

Error *qmp_closefd(QmpContext *ctx, const QmpClosefdArgs *args, Value **ret)
{
    gint index = find_named(ctx->machine, args->fdname);

    if (index < 0) {
        return error_new("File descriptor named '%s' not found", args->fdname);
    }
    g_ptr_array_remove_index(entries_of(ctx->machine), (guint)index);
    return NULL;
}

Error *qmp_add_fd(QmpContext *ctx, const QmpAddFdArgs *args, Value **ret)
{
    int64_t set = args->has_fdset_id ? args->fdset_id : -1;
    int fd = -1;

    if (args->has_fdset_id && set < 0) {
        return error_new("Parameter 'fdset-id' expects a non-negative value");
    }
    TRY(take_sent(ctx, &fd));
    TRY(fdset_add(ctx->machine, set, fd, args->has_opaque ? args->opaque : NULL, &set));
    *ret = value_dict();
    value_put_int(*ret, "fdset-id", set);
    value_put_int(*ret, "fd", fd);
    return NULL;
}

Error *qmp_remove_fd(QmpContext *ctx, const QmpRemoveFdArgs *args, Value **ret)
{
    GPtrArray *entries = entries_of(ctx->machine);
    bool found = false;

    for (guint n = entries->len; n-- > 0;) {
        const FdEntry *entry = g_ptr_array_index(entries, n);
        if (args->fdset_id >= 0 && entry->set == args->fdset_id && (!args->has_fd || entry->fd == args->fd)) {
            g_ptr_array_remove_index(entries, n);
            found = true;
        }
    }
    g_autofree char *fd = args->has_fd ? g_strdup_printf(", fd:%" G_GINT64_FORMAT, args->fd) : g_strdup("");
    return found ? NULL : error_new("File descriptor named 'fdset-id:%" G_GINT64_FORMAT "%s' not found", args->fdset_id, fd);
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

Error *qmp_query_fdsets(QmpContext *ctx, const QmpQueryFdsetsArgs *args, Value **ret)
{
    const GPtrArray *entries = entries_of(ctx->machine);

    *ret = value_list();
    for (int64_t set = INT64_MAX; (set = next_set(entries, set)) >= 0;) {
        value_append(*ret, set_value(entries, set));
    }
    return NULL;
}
