/*
 * -netdev user: a network in user space by libslirp: DHCP, DNS, TFTP, NAT, forwarding; no privileges needed.
 *
 * libslirp wants a poll loop. Its descriptors become sources of ours: after everything that may change what
 * it waits for, refresh() asks for the set again and adds, changes and removes sources.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libslirp.h>

#include "base/library.h"
#include "base/log.h"
#include "chardev/chardev.h"
#include "net/user.h"

#define SLIRP_CALLS(C) \
    C(slirp_add_exec) C(slirp_add_guestfwd) C(slirp_add_hostfwd) C(slirp_cleanup) \
    C(slirp_connection_info) C(slirp_handle_timer) C(slirp_input) C(slirp_new) \
    C(slirp_pollfds_fill) C(slirp_pollfds_poll) C(slirp_remove_hostfwd) C(slirp_socket_can_recv) \
    C(slirp_socket_recv)

typedef struct SlirpApi {
    SLIRP_CALLS(LIBRARY_POINTER)
} SlirpApi;

#define SLIRP_CALL(name) LIBRARY_CALL(SlirpApi, name)
static const LibraryCall slirp_calls[] = { SLIRP_CALLS(SLIRP_CALL) };
static const Library slirp_library = { "the user network's library", "libslirp.so.0", "libslirp0", slirp_calls,
                                       G_N_ELEMENTS(slirp_calls) };

typedef struct UserSource {
    struct User *user;
    int fd;
    LoopFd *source;
    unsigned events;  /* LOOP_READ | LOOP_WRITE that are watched */
    int poll_events;  /* as libslirp asked */
    int revents;      /* what happened, for the poll under way */
    bool wanted;      /* seen by the fill under way */
} UserSource;

typedef struct UserTimer {
    struct User *user;
    Timer timer;
    SlirpTimerId id;
    void *cb_opaque;
    ListNode node;
} UserTimer;

typedef struct GuestFwd {
    struct User *user;
    CharFront chr;
    struct in_addr addr;
    int port;
    ListNode node;
} GuestFwd;

typedef struct User {
    NetPort port;
    SlirpApi lib;
    Slirp *slirp;
    GPtrArray *sources; /* UserSource, by the index that libslirp knows */
    GHashTable *by_fd;  /* fd -> UserSource */
    List timers, guestfwds;
    Work refresh_work, ready_work;
    Timer timeout;
    char *smb_dir;
    struct in_addr net, mask;
    bool restricted;
} User;

static const NetPortOps user_ops;

/* --- the poll set --- */

static int revents_of(unsigned events)
{
    return (events & LOOP_READ ? SLIRP_POLL_IN : 0) | (events & LOOP_WRITE ? SLIRP_POLL_OUT : 0) |
           (events & LOOP_HANGUP ? SLIRP_POLL_HUP : 0);
}

static int get_revents(int index, void *opaque)
{
    User *user = opaque;
    UserSource *source = index >= 0 && (guint)index < user->sources->len ? g_ptr_array_index(user->sources, index) : NULL;
    return source ? source->revents & (source->poll_events | SLIRP_POLL_HUP | SLIRP_POLL_ERR) : 0;
}

static void source_ready(void *opaque, unsigned events)
{
    UserSource *source = opaque;
    User *user = source->user;

    source->revents = revents_of(events);
    user->lib.slirp_pollfds_poll(user->slirp, 0, get_revents, user);
    for (guint i = 0; i < user->sources->len; i++) {
        ((UserSource *)g_ptr_array_index(user->sources, i))->revents = 0;
    }
    work_schedule(&user->refresh_work);
}

static void source_free(gpointer ptr)
{
    UserSource *source = ptr;
    loop_del_fd(source->source);
    g_free(source);
}

static int add_poll(int fd, int events, void *opaque)
{
    User *user = opaque;
    UserSource *source = g_hash_table_lookup(user->by_fd, GINT_TO_POINTER(fd));
    unsigned wanted = (events & (SLIRP_POLL_IN | SLIRP_POLL_PRI) ? LOOP_READ : 0u) | (events & SLIRP_POLL_OUT ? LOOP_WRITE : 0u);

    if (!source) {
        source = g_new0(UserSource, 1);
        source->user = user;
        source->fd = fd;
        source->events = wanted;
        source->source = loop_add_fd(user->port.machine->loop, fd, wanted, source_ready, source);
        g_hash_table_insert(user->by_fd, GINT_TO_POINTER(fd), source);
    } else if (source->events != wanted) {
        source->events = wanted;
        loop_mod_fd(source->source, wanted);
    }
    source->poll_events = events;
    source->wanted = true;
    g_ptr_array_add(user->sources, source);
    return (int)user->sources->len - 1;
}

static gboolean drop_unwanted(gpointer fd, gpointer ptr, gpointer opaque)
{
    UserSource *source = ptr;
    bool drop = !source->wanted;
    source->wanted = false;
    return drop;
}

static void refresh(void *opaque)
{
    User *user = opaque;
    uint32_t timeout = UINT32_MAX;

    g_ptr_array_set_size(user->sources, 0);
    user->lib.slirp_pollfds_fill(user->slirp, &timeout, add_poll, user);
    g_hash_table_foreach_remove(user->by_fd, drop_unwanted, NULL);
    if (timeout == UINT32_MAX) {
        timer_cancel(&user->timeout);
    } else {
        timer_set(&user->timeout, clock_now(user->port.machine->clocks, CLOCK_REALTIME_NS) + timeout * NS_PER_MS);
    }
}

static void timed_out(void *opaque)
{
    User *user = opaque;
    user->lib.slirp_pollfds_poll(user->slirp, 0, get_revents, user);
    work_schedule(&user->refresh_work);
}

/* --- what libslirp calls --- */

static ssize_t send_packet(const void *buf, size_t length, void *opaque)
{
    User *user = opaque;
    net_send(&user->port, buf, length);
    return (ssize_t)length;
}

static void report_guest_error(const char *message, void *opaque)
{
    guest_error("user network: %s", message);
}

static int64_t now(void *opaque)
{
    return clock_now(((User *)opaque)->port.machine->clocks, CLOCK_VIRTUAL);
}

static void timer_fired(void *opaque)
{
    UserTimer *timer = opaque;
    timer->user->lib.slirp_handle_timer(timer->user->slirp, timer->id, timer->cb_opaque);
    work_schedule(&timer->user->refresh_work);
}

static void *new_timer(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    User *user = opaque;
    UserTimer *timer = g_new0(UserTimer, 1);
    timer->user = user;
    timer->id = id;
    timer->cb_opaque = cb_opaque;
    timer_init(&timer->timer, machine_guest_loop(user->port.machine), CLOCK_VIRTUAL, timer_fired, timer);
    list_append(&user->timers, &timer->node);
    return timer;
}

static void free_timer(void *ptr, void *opaque)
{
    UserTimer *timer = ptr;
    list_remove(&timer->node);
    timer_fini(&timer->timer);
    g_free(timer);
}

static void modify_timer(void *ptr, int64_t expires_ms, void *opaque)
{
    timer_set(&((UserTimer *)ptr)->timer, expires_ms * NS_PER_MS);
}

static void ignore_fd(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
    work_schedule(&((User *)opaque)->refresh_work);
}

static const SlirpCb callbacks = {
    .send_packet = send_packet, .guest_error = report_guest_error, .clock_get_ns = now, .timer_free = free_timer,
    .timer_mod = modify_timer, .register_poll_fd = ignore_fd, .unregister_poll_fd = ignore_fd, .notify = notify,
    .timer_new_opaque = new_timer,
};

/* --- the port --- */

static void ready(void *opaque)
{
    net_port_ready(&((User *)opaque)->port);
}

/* Not on a CPU's thread: the library opens connections, which the system call filter leaves to the main loop. */
static bool user_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    User *user = container_of(port, User, port);
    if (vcpu_self()) {
        work_schedule(&user->ready_work);
        return false;
    }
    user->lib.slirp_input(user->slirp, frame, (int)length);
    work_schedule(&user->refresh_work);
    return true;
}

static char *user_describe(NetPort *port)
{
    User *user = container_of(port, User, port);
    return g_strdup_printf("net=%s,restrict=%s", inet_ntoa(user->net), user->restricted ? "on" : "off");
}

static void remove_tree(const char *dir)
{
    GDir *entries = g_dir_open(dir, 0, NULL);
    const char *name;
    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK)) {
            remove_tree(path);
        } else {
            g_unlink(path);
        }
    }
    if (entries) {
        g_dir_close(entries);
    }
    g_rmdir(dir);
}

static void user_destroy(NetPort *port)
{
    User *user = container_of(port, User, port);

    for (ListNode *node; (node = list_pop(&user->guestfwds));) {
        GuestFwd *fwd = container_of(node, GuestFwd, node);
        char_front_close(&fwd->chr);
        g_free(fwd);
    }
    work_fini(&user->refresh_work);
    work_fini(&user->ready_work);
    timer_fini(&user->timeout);
    g_hash_table_unref(user->by_fd);
    g_ptr_array_unref(user->sources);
    if (user->slirp) {
        user->lib.slirp_cleanup(user->slirp);
    }
    while (!list_empty(&user->timers)) {
        free_timer(LIST_FIRST(&user->timers, UserTimer, node), user);
    }
    if (user->smb_dir) {
        remove_tree(user->smb_dir);
        g_free(user->smb_dir);
    }
    net_port_fini(port);
    g_free(user);
}

static const NetPortOps user_ops = { .kind = "user", .receive = user_receive, .describe = user_describe, .destroy = user_destroy };

/* --- addresses --- */

static Error *parse_addr(const char *what, const char *text, struct in_addr *ret_addr)
{
    return inet_aton(text, ret_addr) ? NULL : error_new("%s: '%s' is not an IPv4 address", what, text);
}

/* "10.0.2.0/24", "10.0.2.0/255.255.255.0", or without a mask by the address class. */
static Error *parse_net(const char *text, struct in_addr *ret_net, struct in_addr *ret_mask)
{
    g_auto(GStrv) parts = g_strsplit(text, "/", 2);
    uint64_t bits;

    TRY(parse_addr("net", parts[0], ret_net));
    uint32_t host = ntohl(ret_net->s_addr);
    if (!parts[1]) {
        bits = host < 0x80000000 ? 8 : host < 0xc0000000 ? 12 : 16;
    } else if (strchr(parts[1], '.')) {
        TRY(parse_addr("net", parts[1], ret_mask));
        bits = (uint64_t)__builtin_popcount(ret_mask->s_addr);
    } else {
        TRY(parse_u64(parts[1], &bits));
    }
    if (bits < 4 || bits > 30) {
        return error_new("net: '%s' needs a mask of 4 to 30 bits", text);
    }
    ret_mask->s_addr = htonl(~0u << (32 - bits));
    ret_net->s_addr &= ret_mask->s_addr;
    return NULL;
}

static struct in_addr nth_host(const User *user, uint32_t n)
{
    return (struct in_addr) { htonl(ntohl(user->net.s_addr) | n) };
}

static Error *host_option(KeyValues *kv, const char *key, const User *user, uint32_t n, struct in_addr *ret_addr)
{
    const char *text = keyvalues_get(kv, key);
    *ret_addr = nth_host(user, n);
    if (text) {
        TRY(parse_addr(key, text, ret_addr));
        if ((ret_addr->s_addr & user->mask.s_addr) != user->net.s_addr) {
            return error_new("%s: %s does not lie in the network", key, text);
        }
    }
    return NULL;
}

/* --- forwarding: proto:[hostaddr]:hostport-[guestaddr]:guestport --- */

typedef struct Forward {
    bool udp;
    struct in_addr host_addr, guest_addr;
    uint16_t host_port, guest_port;
} Forward;

static Error *parse_port(const char *text, uint16_t *ret_port)
{
    uint64_t value;
    Error *err = parse_u64(text ? text : "", &value);
    if (err || value == 0 || value > 65535) {
        error_free(err);
        return error_new("'%s' is not a port number", text ? text : "");
    }
    *ret_port = (uint16_t)value;
    return NULL;
}

static Error *parse_end(const char *text, struct in_addr fallback, struct in_addr *ret_addr, uint16_t *ret_port)
{
    const char *colon = strrchr(text, ':');
    *ret_addr = fallback;
    if (!colon) {
        return error_new("'%s' should be [ADDRESS]:PORT", text);
    }
    if (colon > text) {
        g_autofree char *addr = g_strndup(text, (gsize)(colon - text));
        TRY(parse_addr("address", addr, ret_addr));
    }
    return parse_port(colon + 1, ret_port);
}

static Error *parse_protocol(const char **text, bool *ret_udp)
{
    if (g_str_has_prefix(*text, "tcp:") || g_str_has_prefix(*text, "udp:")) {
        *ret_udp = (*text)[0] == 'u';
        *text += 4;
    } else if (**text == ':') {
        *ret_udp = false;
        *text += 1;
    } else {
        return error_new("it should begin with 'tcp:' or 'udp:'");
    }
    return NULL;
}

static Error *parse_forward(const char *text, struct in_addr guest, Forward *ret_forward)
{
    const char *rest = text;
    Forward forward = { 0 };
    struct in_addr any = { INADDR_ANY };

    TRY(parse_protocol(&rest, &forward.udp));
    g_auto(GStrv) ends = g_strsplit(rest, "-", 2);
    if (!ends[0] || !ends[1]) {
        return error_new("it should be tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT");
    }
    TRY(parse_end(ends[0], any, &forward.host_addr, &forward.host_port));
    TRY(parse_end(ends[1], guest, &forward.guest_addr, &forward.guest_port));
    *ret_forward = forward;
    return NULL;
}

static Error *add_forward(User *user, const char *text)
{
    Forward forward;
    Error *err = parse_forward(text, nth_host(user, 15), &forward);
    if (err) {
        return error_prefix(err, "hostfwd '%s': ", text);
    }
    if (user->lib.slirp_add_hostfwd(user->slirp, forward.udp, forward.host_addr, forward.host_port, forward.guest_addr,
                          forward.guest_port) < 0) {
        return error_hint(error_new_errno(errno, "hostfwd '%s': cannot listen on host port %u", text, forward.host_port),
                          "See who has it with: ss -lntup 'sport = :%u'", forward.host_port);
    }
    work_schedule(&user->refresh_work);
    return NULL;
}

/* --- guestfwd: tcp:server:port-DEV or tcp:server:port-cmd:COMMAND --- */

static size_t fwd_can_receive(void *opaque)
{
    GuestFwd *fwd = opaque;
    return fwd->user->lib.slirp_socket_can_recv(fwd->user->slirp, fwd->addr, fwd->port);
}

static void fwd_receive(void *opaque, const uint8_t *buf, size_t length)
{
    GuestFwd *fwd = opaque;
    fwd->user->lib.slirp_socket_recv(fwd->user->slirp, fwd->addr, fwd->port, buf, (int)length);
    work_schedule(&fwd->user->refresh_work);
}
static const CharFrontOps fwd_ops = { .can_receive = fwd_can_receive, .receive = fwd_receive };

static ssize_t fwd_write(const void *buf, size_t length, void *opaque)
{
    char_write_all(&((GuestFwd *)opaque)->chr, buf, length);
    return (ssize_t)length;
}

static Error *add_char_forward(User *user, struct in_addr addr, uint16_t port, const char *device)
{
    Chardevs *set = machine_service(user->port.machine, "chardevs");
    Chardev *chr = NULL;
    g_autoptr(KeyValues) kv = NULL;

    if (set && g_str_has_prefix(device, "chardev:")) {
        chr = chardev_find(set, device + strlen("chardev:"));
        if (!chr) {
            return error_new("there is no chardev '%s'", device + strlen("chardev:"));
        }
    } else if (set) {
        g_autofree char *id = g_strdup_printf("guestfwd.%s.%u", user->port.name, port);
        bool monitor;
        TRY(chardev_parse_short(device, id, &kv, &monitor));
        TRY(chardev_add(set, kv, &chr));
    } else {
        return error_new("character devices are not set up");
    }
    GuestFwd *fwd = g_new0(GuestFwd, 1);
    fwd->user = user;
    fwd->port = htons(port);
    fwd->addr = addr;
    list_append(&user->guestfwds, &fwd->node);
    TRY(char_front_attach(&fwd->chr, chr));
    if (user->lib.slirp_add_guestfwd(user->slirp, fwd_write, fwd, &fwd->addr, port) < 0) {
        return error_new("the address is taken or lies outside the network");
    }
    char_front_open(&fwd->chr, &fwd_ops, fwd);
    return NULL;
}

static Error *add_guest_forward(User *user, const char *text)
{
    const char *rest = text, *dash = strchr(text, '-');
    struct in_addr addr;
    uint16_t port;
    bool udp;

    TRY(parse_protocol(&rest, &udp));
    if (udp || !dash || !dash[1]) {
        return error_new("it should be tcp:SERVER:PORT-DEVICE or tcp:SERVER:PORT-cmd:COMMAND");
    }
    g_autofree char *server = g_strndup(rest, (gsize)(dash - rest));
    TRY(parse_end(server, nth_host(user, 4), &addr, &port));
    if (!g_str_has_prefix(dash + 1, "cmd:")) {
        return add_char_forward(user, addr, port, dash + 1);
    }
    if (user->lib.slirp_add_exec(user->slirp, dash + 1 + strlen("cmd:"), &addr, port) < 0) {
        return error_new("the address is taken or lies outside the network");
    }
    return NULL;
}

/* --- smb: the host's smbd serves one directory --- */

static Error *start_smb(User *user, const char *dir, struct in_addr server)
{
    static const char *const places[] = { "/usr/sbin/smbd", "/usr/local/sbin/smbd", "/usr/local/samba/sbin/smbd" };
    static const int ports[] = { 139, 445 };
    const char *smbd = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(places) && !smbd; i++) {
        smbd = access(places[i], X_OK) == 0 ? places[i] : NULL;
    }
    if (!smbd) {
        return error_hint(error_new("smb: the program smbd was not found"), "Debian has it in the package samba.");
    }
    if (access(dir, R_OK | X_OK)) {
        return error_new_errno(errno, "smb: cannot read the directory '%s'", dir);
    }
    user->smb_dir = g_dir_make_tmp("ostrich-smb-XXXXXX", NULL);
    if (!user->smb_dir) {
        return error_new("smb: cannot make a temporary directory");
    }
    g_autofree char *config = g_build_filename(user->smb_dir, "smb.conf", NULL);
    g_autofree char *text = g_strdup_printf(
        "[global]\nprivate dir=%1$s\ninterfaces=127.0.0.1\nbind interfaces only=yes\npid directory=%1$s\nlock directory=%1$s\n"
        "state directory=%1$s\ncache directory=%1$s\nncalrpc dir=%1$s/ncalrpc\nlog file=%1$s/log.smbd\nsmb passwd file=%1$s/smbpasswd\n"
        "security=user\nmap to guest=Bad User\nload printers=no\nprinting=bsd\ndisable spoolss=yes\nusershare max shares=0\n"
        "[qemu]\npath=%2$s\nread only=no\nguest ok=yes\nforce user=%3$s\n",
        user->smb_dir, dir, g_get_user_name());
    if (!g_file_set_contents(config, text, -1, NULL)) {
        return error_new("smb: cannot write '%s'", config);
    }
    g_autofree char *command = g_strdup_printf("%s -l %s -s %s", smbd, user->smb_dir, config);
    for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
        if (user->lib.slirp_add_exec(user->slirp, command, &server, ports[i]) < 0) {
            return error_new("smb: the server's address %s lies outside the network", inet_ntoa(server));
        }
    }
    return NULL;
}

/* --- creation --- */

static Error *read_ipv6(KeyValues *kv, SlirpConfig *config)
{
    const char *prefix = keyvalues_get(kv, "ipv6-prefix"), *host = keyvalues_get(kv, "ipv6-host"), *dns = keyvalues_get(kv, "ipv6-dns");
    uint64_t length;

    TRY(keyvalues_get_u64(kv, "ipv6-prefixlen", 64, &length));
    if (length > 126) {
        return error_new("ipv6-prefixlen: 0 to 126 are possible");
    }
    config->vprefix_len = (uint8_t)length;
    if (inet_pton(AF_INET6, prefix ? prefix : "fec0::", &config->vprefix_addr6) != 1) {
        return error_new("ipv6-prefix: '%s' is not an IPv6 address", prefix);
    }
    config->vhost6 = config->vnameserver6 = config->vprefix_addr6;
    config->vhost6.s6_addr[15] |= 2;
    config->vnameserver6.s6_addr[15] |= 3;
    if (host && inet_pton(AF_INET6, host, &config->vhost6) != 1) {
        return error_new("ipv6-host: '%s' is not an IPv6 address", host);
    }
    if (dns && inet_pton(AF_INET6, dns, &config->vnameserver6) != 1) {
        return error_new("ipv6-dns: '%s' is not an IPv6 address", dns);
    }
    return NULL;
}

static Error *read_config(User *user, KeyValues *kv, SlirpConfig *config)
{
    bool ipv4, ipv6, only4 = keyvalues_has(kv, "ipv4"), only6 = keyvalues_has(kv, "ipv6");
    const char *net = keyvalues_get(kv, "net");

    config->version = SLIRP_CONFIG_VERSION_MAX;
    TRY(keyvalues_get_bool(kv, "ipv4", true, &ipv4));
    TRY(keyvalues_get_bool(kv, "ipv6", true, &ipv6));
    /* Switching one on without a word on the other means that one alone. */
    config->in_enabled = only4 || !only6 ? ipv4 : !ipv6;
    config->in6_enabled = only6 || !only4 ? ipv6 : !ipv4;
    if (!config->in_enabled && !config->in6_enabled) {
        return error_new("ipv4=off and ipv6=off leave no network");
    }
    TRY(keyvalues_get_bool(kv, "restrict", false, &user->restricted));
    config->restricted = user->restricted;
    TRY(parse_net(net ? net : "10.0.2.0/24", &user->net, &user->mask));
    config->vnetwork = user->net;
    config->vnetmask = user->mask;
    TRY(host_option(kv, "host", user, 2, &config->vhost));
    TRY(host_option(kv, "dns", user, 3, &config->vnameserver));
    TRY(host_option(kv, "dhcpstart", user, 15, &config->vdhcp_start));
    if (config->vhost.s_addr == config->vnameserver.s_addr) {
        return error_new("dns: it must have another address than host");
    }
    TRY(read_ipv6(kv, config));
    config->vhostname = keyvalues_get(kv, "hostname");
    config->tftp_path = keyvalues_get(kv, "tftp");
    config->tftp_server_name = keyvalues_get(kv, "tftp-server-name");
    config->bootfile = keyvalues_get(kv, "bootfile");
    config->vdomainname = keyvalues_get(kv, "domainname");
    if (config->tftp_path && access(config->tftp_path, R_OK)) {
        return error_new_errno(errno, "tftp: cannot read '%s'", config->tftp_path);
    }
    return NULL;
}

/* All values of an option that may be given several times. */
static Error *for_each_value(User *user, KeyValues *kv, const char *key, Error *(*fn)(User *user, const char *value))
{
    keyvalues_get(kv, key);
    for (guint i = 0; i < kv->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(kv->items, i);
        /* Lists in the JSON form arrive as "hostfwd.0", or "hostfwd.0.str". */
        if (!strcmp(item->key, key) || (g_str_has_prefix(item->key, key) && item->key[strlen(key)] == '.')) {
            TRY(fn(user, item->value));
        }
    }
    return NULL;
}

static Error *set_up(User *user, KeyValues *kv)
{
    SlirpConfig config = { 0 };
    g_autoptr(GPtrArray) search = g_ptr_array_new();
    struct in_addr smb_server;

    TRY(read_config(user, kv, &config));
    for (guint i = 0; i < kv->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(kv->items, i);
        if (g_str_has_prefix(item->key, "dnssearch")) {
            g_ptr_array_add(search, item->value);
        }
    }
    g_ptr_array_add(search, NULL);
    config.vdnssearch = search->len > 1 ? (const char **)search->pdata : NULL;
    TRY(library_open(&slirp_library, &user->lib));
    user->slirp = user->lib.slirp_new(&config, &callbacks, user);
    if (!user->slirp) {
        return error_new("libslirp refused the configuration");
    }
    TRY(for_each_value(user, kv, "hostfwd", add_forward));
    TRY(for_each_value(user, kv, "guestfwd", add_guest_forward));
    TRY(host_option(kv, "smbserver", user, 4, &smb_server));
    const char *smb = keyvalues_get(kv, "smb");
    return smb ? start_smb(user, smb, smb_server) : NULL;
}

static Error *user_create(Machine *machine, const char *id, KeyValues *kv, NetPort **ret_port)
{
    User *user = g_new0(User, 1);

    net_port_init(&user->port, machine, id, &user_ops, NULL);
    user->sources = g_ptr_array_new();
    user->by_fd = g_hash_table_new_full(NULL, NULL, NULL, source_free);
    list_init(&user->timers);
    list_init(&user->guestfwds);
    work_init(&user->refresh_work, machine->loop, refresh, user);
    work_init(&user->ready_work, machine->loop, ready, user);
    timer_init(&user->timeout, machine->loop, CLOCK_REALTIME_NS, timed_out, user);
    Error *err = set_up(user, kv);
    if (err) {
        user_destroy(&user->port);
        return err;
    }
    work_schedule(&user->refresh_work);
    *ret_port = &user->port;
    return NULL;
}

/* --- the monitor's side --- */

static Error *find_user(Machine *machine, const char *id, User **ret_user)
{
    for (NetPort *port = NULL; (port = net_port_next(machine, port));) {
        if (port->ops == &user_ops && (!id || !strcmp(port->name, id))) {
            *ret_user = container_of(port, User, port);
            return NULL;
        }
    }
    return id ? error_new("there is no user network '%s'", id) : error_new("there is no user network");
}

Error *user_net_add_forward(Machine *machine, const char *id, const char *forward)
{
    User *user = NULL;
    TRY(find_user(machine, id, &user));
    return add_forward(user, forward);
}

Error *user_net_remove_forward(Machine *machine, const char *id, const char *forward)
{
    User *user = NULL;
    const char *rest = forward;
    bool udp;
    struct in_addr any = { INADDR_ANY }, addr;
    uint16_t port;

    TRY(find_user(machine, id, &user));
    TRY(parse_protocol(&rest, &udp));
    TRY(parse_end(rest, any, &addr, &port));
    if (user->lib.slirp_remove_hostfwd(user->slirp, udp, addr, port)) {
        return error_new("there is no forwarding '%s'", forward);
    }
    work_schedule(&user->refresh_work);
    return NULL;
}

char *user_net_describe(Machine *machine)
{
    GString *out = g_string_new(NULL);
    for (NetPort *port = NULL; (port = net_port_next(machine, port));) {
        if (port->ops == &user_ops) {
            User *user = container_of(port, User, port);
            g_autofree char *text = user->lib.slirp_connection_info(user->slirp);
            g_string_append_printf(out, "%s:\n%s", port->name, text);
        }
    }
    return g_string_free(out, FALSE);
}

static const NetdevOption options[] = {
    { "ipv4", "bool", "IPv4 [on]" },
    { "ipv6", "bool", "IPv6 [on]" },
    { "net", "str", "network and mask [10.0.2.0/24]" },
    { "host", "str", "the host as the guest sees it [x.x.x.2]" },
    { "dns", "str", "name server [x.x.x.3]" },
    { "dhcpstart", "str", "first address that DHCP gives [x.x.x.15]" },
    { "restrict", "bool", "nothing of the outside, forwardings aside [off]" },
    { "hostname", "str", "host name that DHCP gives" },
    { "dnssearch", "str", "search domain; may be repeated" },
    { "domainname", "str", "domain name that DHCP gives" },
    { "ipv6-prefix", "str", "IPv6 network [fec0::]" },
    { "ipv6-prefixlen", "int", "its length [64]" },
    { "ipv6-host", "str", "the host [xxxx::2]" },
    { "ipv6-dns", "str", "name server [xxxx::3]" },
    { "tftp", "str", "directory that a built-in TFTP server offers" },
    { "tftp-server-name", "str", "name of the TFTP server in DHCP answers" },
    { "bootfile", "str", "file to boot, in DHCP answers" },
    { "hostfwd", "str", "tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT; may be repeated" },
    { "guestfwd", "str", "tcp:SERVER:PORT-DEVICE or -cmd:COMMAND; may be repeated" },
    { "smb", "str", "directory that the host's smbd offers" },
    { "smbserver", "str", "address of that server [x.x.x.4]" },
    { NULL },
};
static const NetdevDriver driver = { "user", "a network in user space with DHCP, DNS and NAT", options, user_create };
NETDEV_REGISTER(&driver);
