/* Channels of state streams; see channel.h. */
#include "migration/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/net.h"
#include "io/spawn.h"
#include "core/vm/fdset.h"
#include "value/keyvalues.h"
#include "value/value.h"

struct Channel {
    int fd;
    int cancel[2];  /* a pipe: readable when cancelled */
    SpawnedProgram program; /* of exec: */
    bool has_program;
    _Atomic bool cancelled;
    bool socket, regular;
    TlsSession *tls; /* NULL: not encrypted */
};

Channel *channel_of_fd(int fd)
{
    Channel *channel = g_new0(Channel, 1);
    struct stat st;

    channel->fd = fd;
    if (pipe2(channel->cancel, O_CLOEXEC | O_NONBLOCK) < 0) {
        channel->cancel[0] = channel->cancel[1] = -1; /* then it cannot be cancelled while it waits */
    }
    if (fstat(fd, &st) == 0) {
        channel->socket = S_ISSOCK(st.st_mode);
        channel->regular = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return channel;
}

static int wait_for_program(Channel *channel)
{
    if (!channel->has_program) {
        return 0;
    }
    channel->has_program = false;
    return spawn_wait(&channel->program);
}

void channel_free(Channel *channel)
{
    if (!channel) {
        return;
    }
    tls_session_free(channel->tls);
    if (channel->fd >= 0) {
        close(channel->fd);
    }
    if (channel->has_program && channel->cancelled) {
        spawn_abandon(&channel->program); /* it may run for as long as it likes */
    } else {
        wait_for_program(channel);
    }
    close(channel->cancel[0]);
    close(channel->cancel[1]);
    g_free(channel);
}

void channel_cancel(Channel *channel)
{
    channel->cancelled = true;
    ssize_t done = write(channel->cancel[1], "", 1);
    (void)done; /* a full pipe is readable, too */
}

bool channel_two_way(const Channel *channel)
{
    return channel->socket;
}

/* --- moving bytes --- */

static MUST_USE Error *wait_ready(Channel *channel, short events)
{
    struct pollfd fds[2] = { { .fd = channel->fd, .events = events }, { .fd = channel->cancel[0], .events = POLLIN } };

    while (poll(fds, 2, -1) < 0) {
        if (errno != EINTR) {
            return error_new_errno(errno, "cannot wait for the channel");
        }
    }
    return fds[1].revents ? error_new("cancelled") : NULL;
}

Error *channel_start_tls(Channel *channel, Machine *machine, const TlsUse *use)
{
    bool done = false;

    if (!channel->socket) {
        return error_new("TLS needs a socket");
    }
    TRY(tls_session_new(use->keys, channel->fd, use->hostname, &channel->tls));
    for (;;) {
        TRY(tls_session_handshake(channel->tls, &done));
        if (done) {
            break;
        }
        TRY(wait_ready(channel, tls_session_waits_to_write(channel->tls) ? POLLOUT : POLLIN));
    }
    if (!use->authz) {
        return NULL;
    }
    lock_acquire(&machine->lock);
    Error *err = tls_authorize(use, channel->tls);
    lock_release(&machine->lock);
    return err;
}

/* Like write() and read(), with -errno. */
static ssize_t put_some(Channel *channel, const void *data, size_t length)
{
    if (channel->tls) {
        return tls_session_write(channel->tls, data, length);
    }
    ssize_t done = write(channel->fd, data, length);
    return done < 0 ? -errno : done;
}

static ssize_t get_some(Channel *channel, void *data, size_t length)
{
    if (channel->tls) {
        return tls_session_read(channel->tls, data, length);
    }
    ssize_t done = read(channel->fd, data, length);
    return done < 0 ? -errno : done;
}

Error *channel_write(void *opaque, const void *data, size_t length)
{
    Channel *channel = opaque;
    const char *at = data;

    while (length > 0) {
        if (!channel->regular) {
            TRY(wait_ready(channel, POLLOUT));
        }
        ssize_t done = put_some(channel, at, length);
        if (done < 0 && done != -EINTR && done != -EAGAIN) {
            return error_new_errno((int)done, "writing the state failed");
        }
        if (done > 0) {
            at += done;
            length -= (size_t)done;
        }
    }
    return NULL;
}

Error *channel_read(void *opaque, void *data, size_t length)
{
    Channel *channel = opaque;
    char *at = data;

    while (length > 0) {
        if (!channel->regular && !(channel->tls && tls_session_pending(channel->tls))) {
            TRY(wait_ready(channel, POLLIN));
        }
        ssize_t done = get_some(channel, at, length);
        if (done == 0) {
            return error_new("the saved state ends too early");
        }
        if (done < 0 && done != -EINTR && done != -EAGAIN) {
            return error_new_errno((int)done, "reading the state failed");
        }
        if (done > 0) {
            at += done;
            length -= (size_t)done;
        }
    }
    return NULL;
}

bool channel_has_input_within(const Channel *channel, int ms)
{
    struct pollfd fds[] = { { .fd = channel->fd, .events = POLLIN }, { .fd = channel->cancel[0], .events = POLLIN } };
    return !channel->tls && poll(fds, ARRAY_SIZE(fds), ms) > 0 && (fds[0].revents & POLLIN);
}

bool channel_has_input(const Channel *channel)
{
    return channel_has_input_within(channel, 0);
}

Error *channel_accept(Channel *first, int listener, Channel **ret_channel)
{
    struct pollfd fds[] = { { .fd = listener, .events = POLLIN }, { .fd = first->cancel[0], .events = POLLIN },
                            { .fd = first->fd, .events = POLLRDHUP } };

    for (;;) {
        if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR) {
            return error_new_errno(errno, "cannot wait for a connection");
        }
        int fd = fds[0].revents ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0) {
            *ret_channel = channel_of_fd(fd);
            return NULL;
        }
        if (fds[1].revents) {
            return error_new("cancelled");
        }
        if (fds[2].revents) {
            return error_new("the source is gone before all its connections were there");
        }
    }
}

void channel_drain(Channel *channel)
{
    char scratch[4096];
    Error *err;

    do {
        err = channel_read(channel, scratch, sizeof(scratch));
    } while (!err);
    error_free(err);
}

Error *channel_finish(Channel *channel)
{
    if (channel->regular && fdatasync(channel->fd) < 0 && errno != EINVAL) {
        return error_new_errno(errno, "writing the state failed");
    }
    if (channel->has_program) {
        close(channel->fd);
        channel->fd = -1;
        int status = wait_for_program(channel);
        if (!WIFEXITED(status) || WEXITSTATUS(status)) {
            return error_new("the command that takes the state failed");
        }
    }
    return NULL;
}

/* --- opening --- */

/* The command's standard input (out) or output is the channel; a socket pair would let it answer, a pipe does not. */
static MUST_USE Error *open_exec(Machine *machine, const char *command, bool out, Channel **ret_channel)
{
    Spawner *spawner = machine_service(machine, SPAWNER_SERVICE);
    SpawnedProgram program;
    int fds[2];

    if (machine->sandboxed && !spawner) {
        return error_new("the system call filter lets no programs be started (-sandbox spawn=deny)");
    }
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return error_new_errno(errno, "cannot make a pipe");
    }
    int ours = out ? 1 : 0;
    Error *err = spawn_shell(spawner, command, fds[!ours], !ours, &program);
    close(fds[!ours]);
    if (err) {
        close(fds[ours]);
        return err;
    }
    *ret_channel = channel_of_fd(fds[ours]);
    (*ret_channel)->program = program;
    (*ret_channel)->has_program = true;
    return NULL;
}

static MUST_USE Error *open_fd(Machine *machine, const char *name, Channel **ret_channel)
{
    char *end;
    int fd = named_fd_take(machine, name);

    if (fd < 0) {
        long number = strtol(name, &end, 10);
        if (*name < '0' || *name > '9' || *end || number > INT32_MAX || fcntl((int)number, F_GETFD) < 0) {
            return error_new("File descriptor named '%s' has not been found", name);
        }
        fd = (int)number;
    }
    *ret_channel = channel_of_fd(fd);
    return NULL;
}

static MUST_USE Error *open_file(const char *text, bool out, Channel **ret_channel)
{
    const char *option = g_strrstr(text, ",offset=");
    g_autofree char *path = option ? g_strndup(text, (gsize)(option - text)) : g_strdup(text);
    uint64_t offset = 0;

    if (option) {
        TRY(parse_size(option + strlen(",offset="), 1, &offset));
    }
    int fd = open(path, (out ? O_WRONLY | O_CREAT | (option ? 0 : O_TRUNC) : O_RDONLY) | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_new_errno(errno, "cannot open '%s'", path);
    }
    if (offset > INT64_MAX || lseek(fd, (off_t)offset, SEEK_SET) < 0) {
        if (offset) {
            close(fd);
            return error_new("'%s': cannot go to offset %" G_GUINT64_FORMAT, path, offset);
        }
    }
    *ret_channel = channel_of_fd(fd);
    return NULL;
}

/* host:port[,to=N][,ipv4=on]: the address of tcp:. Strings are cut out of `text`. */
static MUST_USE Error *tcp_address(char *text, NetAddress *ret_address)
{
    char *colon = strrchr(text, ':');

    if (!colon || !colon[1]) {
        return error_new("tcp:%s: HOST:PORT is needed", text);
    }
    *colon = '\0';
    size_t length = strlen(text);
    if (length > 1 && text[0] == '[' && text[length - 1] == ']') {
        text[length - 1] = '\0';
        text++;
    }
    *ret_address = (NetAddress) { .host = *text ? text : NULL, .port = colon + 1 };
    return NULL;
}

bool channel_takes_many(const char *uri)
{
    return g_str_has_prefix(uri, "tcp:") || g_str_has_prefix(uri, "unix:");
}

typedef enum Scheme { SCHEME_TCP, SCHEME_UNIX, SCHEME_FD, SCHEME_EXEC, SCHEME_FILE } Scheme;

static MUST_USE Error *parse_uri(const char *uri, Scheme *ret_scheme, const char **ret_rest)
{
    static const char *const names[] = { "tcp:", "unix:", "fd:", "exec:", "file:" };

    for (unsigned n = 0; n < ARRAY_SIZE(names); n++) {
        if (g_str_has_prefix(uri, names[n])) {
            *ret_scheme = (Scheme)n;
            *ret_rest = uri + strlen(names[n]);
            return NULL;
        }
    }
    return error_hint(error_new("migration knows no such protocol: %s", uri),
                      "Possible are tcp:HOST:PORT, unix:PATH, fd:NAME, exec:COMMAND, file:PATH.");
}

static MUST_USE Error *open_other(Machine *machine, Scheme scheme, const char *rest, bool out, Channel **ret_channel)
{
    if (scheme == SCHEME_FD) {
        return open_fd(machine, rest, ret_channel);
    }
    return scheme == SCHEME_EXEC ? open_exec(machine, rest, out, ret_channel) : open_file(rest, out, ret_channel);
}

static MUST_USE Error *socket_address(Scheme scheme, char *rest, NetAddress *ret_address)
{
    if (scheme == SCHEME_TCP) {
        return tcp_address(rest, ret_address);
    }
    *ret_address = (NetAddress) { .path = rest };
    return NULL;
}

Error *channel_check(const char *uri)
{
    Scheme scheme;
    const char *rest;
    NetAddress address;

    TRY(parse_uri(uri, &scheme, &rest));
    g_autofree char *copy = g_strdup(rest);
    return scheme == SCHEME_TCP ? tcp_address(copy, &address) : NULL;
}

Error *channel_open_out(Machine *machine, const char *uri, Channel **ret_channel)
{
    Scheme scheme;
    const char *rest;
    NetAddress address;
    int fd;

    TRY(parse_uri(uri, &scheme, &rest));
    if (scheme != SCHEME_TCP && scheme != SCHEME_UNIX) {
        return open_other(machine, scheme, rest, true, ret_channel);
    }
    g_autofree char *copy = g_strdup(rest);
    TRY(socket_address(scheme, copy, &address));
    TRY(net_connect(&address, false, &fd));
    *ret_channel = channel_of_fd(fd);
    return NULL;
}

struct Value *channel_address(int listener)
{
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_storage room;
    } address = { 0 };
    socklen_t length = sizeof(address);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(listener, &address.any, &length) < 0) {
        return NULL;
    }
    if (address.any.sa_family != AF_UNIX &&
        getnameinfo(&address.any, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV)) {
        return NULL;
    }
    struct Value *value = value_dict();
    value_put_str(value, "type", address.any.sa_family == AF_UNIX ? "unix" : "inet");
    if (address.any.sa_family == AF_UNIX) {
        value_put_str(value, "path", address.local.sun_path);
    } else {
        value_put_str(value, "host", host);
        value_put_str(value, "port", port);
    }
    return value;
}

void channel_close_listener(int listener)
{
    struct sockaddr_un name = { 0 };
    socklen_t length = sizeof(name) - 1;

    if (getsockname(listener, (struct sockaddr *)&name, &length) == 0 && name.sun_family == AF_UNIX && name.sun_path[0]) {
        unlink(name.sun_path);
    }
    close(listener);
}

Error *channel_open_in(Machine *machine, const char *uri, Channel **ret_channel, int *ret_listener)
{
    Scheme scheme;
    const char *rest;
    NetAddress address;

    TRY(parse_uri(uri, &scheme, &rest));
    if (scheme != SCHEME_TCP && scheme != SCHEME_UNIX) {
        *ret_listener = -1;
        return open_other(machine, scheme, rest, false, ret_channel);
    }
    g_autofree char *copy = g_strdup(rest);
    TRY(socket_address(scheme, copy, &address));
    *ret_channel = NULL;
    return net_listen(&address, ret_listener);
}
