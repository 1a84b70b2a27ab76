#include "io/net.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int backlog(const NetAddress *address)
{
    return address->backlog ? (int)address->backlog : 1;
}

/* --- unix sockets --- */

Error *net_unix_address(const NetAddress *address, struct sockaddr_un *un, socklen_t *ret_length)
{
    size_t length = strlen(address->path);
    size_t prefix = address->abstract ? 1 : 0;

    memset(un, 0, sizeof(*un));
    un->sun_family = AF_UNIX;
    if (length + prefix + (address->abstract ? 0 : 1) > sizeof(un->sun_path)) {
        return error_new("UNIX socket path '%s' is too long: at most %zu bytes are possible", address->path,
                         sizeof(un->sun_path) - 1);
    }
    memcpy(un->sun_path + prefix, address->path, length);
    *ret_length = address->abstract && address->tight
                      ? (socklen_t)(offsetof(struct sockaddr_un, sun_path) + prefix + length)
                      : (socklen_t)sizeof(*un);
    return NULL;
}

static MUST_USE Error *unix_socket(const NetAddress *address, bool listening, int *ret_fd)
{
    struct sockaddr_un un;
    socklen_t length = 0;

    TRY(net_unix_address(address, &un, &length));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return error_new_errno(errno, "cannot make a socket");
    }
    if (listening && !address->abstract && unlink(address->path) < 0 && errno != ENOENT) {
        int err = errno;
        close(fd);
        return error_new_errno(err, "cannot remove the old socket %s", address->path);
    }
    int rc = listening ? bind(fd, (struct sockaddr *)&un, length) : connect(fd, (struct sockaddr *)&un, length);
    if (rc < 0 || (listening && listen(fd, backlog(address)) < 0)) {
        int err = errno;
        close(fd);
        return error_new_errno(err, listening ? "cannot listen at %s" : "Failed to connect to '%s'",
                               address->path);
    }
    *ret_fd = fd;
    return NULL;
}

/* --- who holds a port: the listening socket's inode, then the process with a descriptor of it --- */

static unsigned long listening_inode(const char *table, unsigned port)
{
    unsigned long found = 0;
    char line[512];
    FILE *file = fopen(table, "re");

    while (file && fgets(line, sizeof(line), file)) {
        unsigned local_port, state;
        unsigned long inode;
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*s %*s %lu", &local_port,
                   &state, &inode) == 3 &&
            local_port == port && state == 10 /* LISTEN */) {
            found = inode;
        }
    }
    if (file) {
        fclose(file);
    }
    return found;
}

static bool process_has_socket(const char *pid, unsigned long inode)
{
    g_autofree char *dir_name = g_strdup_printf("/proc/%s/fd", pid);
    g_autofree char *wanted = g_strdup_printf("socket:[%lu]", inode);
    DIR *dir = opendir(dir_name);
    struct dirent *entry;
    bool found = false;

    while (dir && !found && (entry = readdir(dir))) {
        char target[64];
        ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        if (length > 0) {
            target[length] = 0;
            found = !strcmp(target, wanted);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return found;
}

/* "process 123 (nc)", or NULL when it cannot be found out. */
static char *port_holder(unsigned port)
{
    unsigned long inode = listening_inode("/proc/net/tcp", port);
    char *found = NULL;
    struct dirent *entry;

    if (!inode) {
        inode = listening_inode("/proc/net/tcp6", port);
    }
    DIR *proc = inode ? opendir("/proc") : NULL;
    while (proc && !found && (entry = readdir(proc))) {
        if (g_ascii_isdigit(entry->d_name[0]) && process_has_socket(entry->d_name, inode)) {
            g_autofree char *comm_path = g_strdup_printf("/proc/%s/comm", entry->d_name);
            g_autofree char *comm = NULL;
            if (g_file_get_contents(comm_path, &comm, NULL, NULL)) {
                g_strchomp(comm);
            }
            found = g_strdup_printf("process %s (%s)", entry->d_name, comm ? comm : "?");
        }
    }
    if (proc) {
        closedir(proc);
    }
    return found;
}

/* --- internet sockets --- */

Error *net_resolve(const NetAddress *address, int type, bool passive, const char *port, struct addrinfo **ret_list)
{
    struct addrinfo hints = {
        .ai_flags = (passive ? AI_PASSIVE : 0) | AI_ADDRCONFIG,
        .ai_family = address->only_ipv4 ? AF_INET : address->only_ipv6 ? AF_INET6 : AF_UNSPEC,
        .ai_socktype = type,
    };
    const char *host = address->host && *address->host ? address->host : NULL;
    int rc = getaddrinfo(host, port, &hints, ret_list);

    if (rc == EAI_NONAME || rc == EAI_ADDRFAMILY) {
        hints.ai_flags &= ~AI_ADDRCONFIG; /* no network but loopback */
        rc = getaddrinfo(host, port, &hints, ret_list);
    }
    if (rc) {
        return error_new("address resolution failed for %s:%s: %s", host ? host : "", port, gai_strerror(rc));
    }
    return NULL;
}

static int listen_on(const NetAddress *address, const struct addrinfo *info)
{
    int one = 1;
    int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC, info->ai_protocol);

    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, backlog(address)) < 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

static int listen_port(const NetAddress *address, const char *port, Error **ret_err)
{
    struct addrinfo *list = NULL;
    int fd = -EADDRNOTAVAIL;

    *ret_err = net_resolve(address, SOCK_STREAM, true, port, &list);
    if (*ret_err) {
        return -EINVAL;
    }
    for (struct addrinfo *info = list; info && fd < 0; info = info->ai_next) {
        fd = listen_on(address, info);
        if (fd == -EADDRINUSE) {
            break; /* the same port over the other protocol is another service */
        }
    }
    freeaddrinfo(list);
    return fd;
}

static MUST_USE Error *tcp_listen(const NetAddress *address, int *ret_fd)
{
    unsigned first = (unsigned)strtoul(address->port, NULL, 10);
    unsigned last = MAX(first, address->port_to);
    int fd = -EINVAL;

    for (unsigned port = first; port <= last && fd < 0; port++) {
        g_autofree char *text = port == first ? g_strdup(address->port) : g_strdup_printf("%u", port);
        Error *err = NULL;
        fd = listen_port(address, text, &err);
        if (err) {
            return err;
        }
        if (fd < 0 && fd != -EADDRINUSE) {
            break;
        }
    }
    if (fd < 0) {
        g_autofree char *holder = fd == -EADDRINUSE ? port_holder(first) : NULL;
        Error *err = error_new_errno(fd, "Failed to listen on %s:%s", address->host ? address->host : "",
                                     address->port);
        return holder ? error_hint(err, "The port is held by %s.", holder) : err;
    }
    *ret_fd = fd;
    return NULL;
}

static int connect_one(const struct addrinfo *info, bool async)
{
    int flags = SOCK_CLOEXEC | (async ? SOCK_NONBLOCK : 0);
    int fd = socket(info->ai_family, info->ai_socktype | flags, info->ai_protocol);

    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, info->ai_addr, info->ai_addrlen) < 0 && errno != EINPROGRESS) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

static MUST_USE Error *tcp_connect(const NetAddress *address, bool async, int *ret_fd)
{
    struct addrinfo *list = NULL;
    int fd = -EINVAL;

    TRY(net_resolve(address, SOCK_STREAM, false, address->port, &list));
    for (struct addrinfo *info = list; info && fd < 0; info = info->ai_next) {
        fd = connect_one(info, async);
    }
    freeaddrinfo(list);
    if (fd < 0) {
        return error_new_errno(fd, "Failed to connect to '%s:%s'", address->host ? address->host : "localhost",
                               address->port);
    }
    *ret_fd = fd;
    return NULL;
}

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

Error *net_listen(const NetAddress *address, int *ret_fd)
{
    TRY(address->path ? unix_socket(address, true, ret_fd) : tcp_listen(address, ret_fd));
    set_nonblocking(*ret_fd);
    return NULL;
}

Error *net_connect(const NetAddress *address, bool async, int *ret_fd)
{
    TRY(address->path ? unix_socket(address, false, ret_fd) : tcp_connect(address, async, ret_fd));
    set_nonblocking(*ret_fd);
    return NULL;
}

Error *net_udp(const NetAddress *local, const NetAddress *remote, int *ret_fd)
{
    struct addrinfo *to = NULL, *from = NULL;

    TRY(net_resolve(remote, SOCK_DGRAM, false, remote->port, &to));
    int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    NetAddress own = *local;
    own.only_ipv4 = to->ai_family == AF_INET;
    own.only_ipv6 = to->ai_family == AF_INET6;
    Error *err = fd < 0 ? error_new_errno(errno, "cannot make a UDP socket")
                        : net_resolve(&own, SOCK_DGRAM, true, own.port ? own.port : "0", &from);
    if (!err && bind(fd, from->ai_addr, from->ai_addrlen) < 0) {
        err = error_new_errno(errno, "cannot send from %s:%s", own.host ? own.host : "",
                              own.port ? own.port : "0");
    }
    if (!err && connect(fd, to->ai_addr, to->ai_addrlen) < 0) {
        err = error_new_errno(errno, "Failed to connect socket to %s:%s", remote->host, remote->port);
    }
    freeaddrinfo(to);
    if (from) {
        freeaddrinfo(from);
    }
    if (err) {
        if (fd >= 0) {
            close(fd);
        }
        return err;
    }
    *ret_fd = fd;
    return NULL;
}

int net_connect_result(int fd)
{
    int err = 0;
    socklen_t length = sizeof(err);

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &length) < 0 ? -errno : -err;
}

char *net_name(int fd, bool peer)
{
    struct sockaddr_storage storage;
    socklen_t length = sizeof(storage);
    struct sockaddr *sa = (struct sockaddr *)&storage;
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if ((peer ? getpeername(fd, sa, &length) : getsockname(fd, sa, &length)) < 0) {
        return g_strdup("unknown");
    }
    if (getnameinfo(sa, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV)) {
        return g_strdup("unknown");
    }
    return g_strdup_printf(strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}
