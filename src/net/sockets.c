/* Addresses and descriptors of network back ends over sockets. */
#include "net/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/vm/fdset.h"

void net_end_clear(NetEnd *end)
{
    for (size_t i = 0; i < ARRAY_SIZE(end->texts); i++) {
        g_free(end->texts[i]);
    }
    g_free(end->fd);
    *end = (NetEnd){ 0 };
}

static void own_texts(NetEnd *end)
{
    const char **used[] = { &end->address.path, &end->address.host, &end->address.port };
    for (size_t i = 0; i < ARRAY_SIZE(used); i++) {
        *used[i] = end->texts[i] = g_strdup(*used[i]);
    }
    end->fd = g_strdup(end->fd);
}

void net_end_copy(NetEnd *to, const NetEnd *from)
{
    *to = *from;
    own_texts(to);
}

Error *net_end_parse(const char *text, NetEnd *ret_end)
{
    const char *colon = strrchr(text, ':');
    if (!colon || !colon[1]) {
        return error_new("'%s' is no address: HOST:PORT is wanted", text);
    }
    g_autofree char *host = g_strndup(text, (size_t)(colon - text));
    size_t length = strlen(host);
    if (length >= 2 && host[0] == '[' && host[length - 1] == ']') { /* an IPv6 address */
        host[length - 1] = 0;
        memmove(host, host + 1, length - 1);
    }
    NetEnd end = { .address = { .host = *host ? host : NULL, .port = colon + 1 }, .given = true };
    net_end_copy(ret_end, &end);
    return NULL;
}

/* --- PREFIX.type=... --- */

static const char *get(KeyValues *kv, const char *prefix, const char *name)
{
    g_autofree char *key = g_strdup_printf("%s.%s", prefix, name);
    return keyvalues_get(kv, key);
}

static Error *get_bool(KeyValues *kv, const char *prefix, const char *name, bool fallback, bool *ret_b)
{
    g_autofree char *key = g_strdup_printf("%s.%s", prefix, name);
    return keyvalues_get_bool(kv, key, fallback, ret_b);
}

static bool is_numeric(const char *host)
{
    uint8_t binary[16];
    return inet_pton(AF_INET, host, binary) == 1 || inet_pton(AF_INET6, host, binary) == 1;
}

static Error *read_inet(KeyValues *kv, const char *prefix, NetEnd *end)
{
    const char *to = get(kv, prefix, "to");
    g_autofree char *to_key = g_strdup_printf("%s.to", prefix);
    uint64_t port_to;
    bool numeric, mptcp, ipv4, ipv6, has4 = get(kv, prefix, "ipv4"), has6 = get(kv, prefix, "ipv6");

    end->address.host = get(kv, prefix, "host");
    end->address.port = get(kv, prefix, "port");
    if (!end->address.host || !end->address.port) {
        return error_new("Parameter '%s.%s' is missing", prefix, end->address.host ? "port" : "host");
    }
    TRY(keyvalues_get_u64(kv, to_key, 0, &port_to));
    if (to && (port_to == 0 || port_to > 65535)) {
        return error_new("%s.to=%s is no port", prefix, to);
    }
    end->address.port_to = (unsigned)port_to;
    TRY(get_bool(kv, prefix, "numeric", false, &numeric));
    if (numeric && !is_numeric(end->address.host)) {
        return error_new("%s.host: '%s' is no numeric address, which %s.numeric=on asks for", prefix, end->address.host, prefix);
    }
    TRY(get_bool(kv, prefix, "keep-alive", false, &end->keep_alive));
    TRY(get_bool(kv, prefix, "mptcp", false, &mptcp));
    if (mptcp) {
        return error_new("%s.mptcp=on: multipath TCP is not supported", prefix);
    }
    TRY(get_bool(kv, prefix, "ipv4", !has6, &ipv4));
    TRY(get_bool(kv, prefix, "ipv6", !has4, &ipv6));
    if (!ipv4 && !ipv6 && has4 && has6) {
        return error_new("%s.ipv4=off and %s.ipv6=off leave nothing", prefix, prefix);
    }
    end->address.only_ipv4 = has4 || has6 ? (has4 ? ipv4 : !ipv6) && !(has6 && ipv6) : false;
    end->address.only_ipv6 = has4 || has6 ? (has6 ? ipv6 : !ipv4) && !(has4 && ipv4) : false;
    return NULL;
}

static Error *read_unix(KeyValues *kv, const char *prefix, NetEnd *end)
{
    end->address.path = get(kv, prefix, "path");
    if (!end->address.path || !*end->address.path) {
        return error_new("Parameter '%s.path' is missing", prefix);
    }
    TRY(get_bool(kv, prefix, "abstract", false, &end->address.abstract));
    return get_bool(kv, prefix, "tight", true, &end->address.tight);
}

Error *net_end_read(KeyValues *kv, const char *prefix, NetEnd *ret_end)
{
    const char *type = get(kv, prefix, "type");
    NetEnd end = { .given = true };

    if (!type) {
        g_autofree char *start = g_strdup_printf("%s.", prefix);
        for (guint i = 0; i < kv->items->len; i++) {
            if (g_str_has_prefix(((KeyValue *)g_ptr_array_index(kv->items, i))->key, start)) {
                return error_new("Parameter '%stype' is missing", start);
            }
        }
        *ret_end = (NetEnd){ 0 };
        return NULL;
    }
    if (!strcmp(type, "inet")) {
        TRY(read_inet(kv, prefix, &end));
    } else if (!strcmp(type, "unix")) {
        TRY(read_unix(kv, prefix, &end));
    } else if (!strcmp(type, "fd")) {
        end.fd = (char *)get(kv, prefix, "str");
        if (!end.fd) {
            return error_new("Parameter '%s.str' is missing", prefix);
        }
    } else {
        return error_new("%s.type=%s: the types are inet, unix and fd", prefix, type);
    }
    net_end_copy(ret_end, &end);
    return NULL;
}

Error *net_socket_take_fd(Machine *machine, const char *text, int type, int *ret_fd, int *ret_type)
{
    int fd, actual = 0;
    socklen_t length = sizeof(actual);

    TRY(machine_take_fd(machine, text, &fd));
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &actual, &length) < 0) {
        int err = errno;
        close(fd);
        return error_new_errno(err, "file descriptor '%s' is no socket", text);
    }
    if (type ? actual != type : actual != SOCK_STREAM && actual != SOCK_DGRAM) {
        close(fd);
        return error_new("file descriptor '%s' is a socket of the wrong type", text);
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    *ret_fd = fd;
    if (ret_type) {
        *ret_type = actual;
    }
    return NULL;
}
