/* Addresses of NBD servers and clients, as options spell them. */
#include <stdlib.h>
#include <string.h>

#include "block/nbd/server.h"

static Error *take_inet(KeyValues *opts, NbdAddress *a)
{
    static const char *const unsupported[] = { "keep-alive", "mptcp", "numeric" };
    bool flag;

    a->host = keyvalues_take(opts, "host");
    a->port = keyvalues_take(opts, "port");
    if (!a->host || !a->port) {
        return error_new("Parameter '%s' is missing", a->host ? "port" : "host");
    }
    uint64_t to;
    TRY(block_take_num(opts, "to", 0, &to));
    if (to > 65535) {
        return error_new("Parameter 'to' expects a port number");
    }
    for (size_t i = 0; i < ARRAY_SIZE(unsupported); i++) {
        TRY(block_take_bool(opts, unsupported[i], false, &flag));
        if (flag) {
            return error_new("%s=on is not supported for NBD", unsupported[i]);
        }
    }
    bool ipv4, ipv6, no_ipv4 = keyvalues_has(opts, "ipv4"), no_ipv6 = keyvalues_has(opts, "ipv6");
    TRY(block_take_bool(opts, "ipv4", true, &ipv4));
    TRY(block_take_bool(opts, "ipv6", true, &ipv6));
    if (!ipv4 && !ipv6) {
        return error_new("ipv4=off and ipv6=off leave no protocol");
    }
    a->net = (NetAddress) { .host = a->host,
                            .port = a->port,
                            .port_to = (unsigned)to,
                            .only_ipv4 = !ipv6 || (no_ipv4 && !no_ipv6 && ipv4),
                            .only_ipv6 = !ipv4 || (no_ipv6 && !no_ipv4 && ipv6),
                            .backlog = 128 };
    return NULL;
}

static Error *take_unix(KeyValues *opts, NbdAddress *a)
{
    bool abstract, tight;
    a->path = keyvalues_take(opts, "path");
    if (!a->path) {
        return error_new("Parameter 'path' is missing");
    }
    TRY(block_take_bool(opts, "abstract", false, &abstract));
    TRY(block_take_bool(opts, "tight", true, &tight));
    a->net = (NetAddress) { .path = a->path, .abstract = abstract, .tight = tight, .backlog = 128 };
    return NULL;
}

static Error *take_fd(KeyValues *opts, NbdAddress *a)
{
    g_autofree char *text = keyvalues_take(opts, "str");
    char *end;
    long fd = text ? strtol(text, &end, 10) : -1;
    if (!text || !g_ascii_isdigit(*text) || *end || fd > 65535) {
        return error_new("Parameter 'str' expects the number of a file descriptor");
    }
    a->fd = (int)fd;
    return NULL;
}

Error *nbd_address_take(KeyValues *opts, NbdAddress *ret_address)
{
    g_autofree char *type = keyvalues_take(opts, "type");
    NbdAddress a = { .fd = -1 };
    Error *err;

    if (!type) {
        return error_new("Parameter 'type' is missing");
    }
    if (!strcmp(type, "inet")) {
        err = take_inet(opts, &a);
    } else if (!strcmp(type, "unix")) {
        err = take_unix(opts, &a);
    } else if (!strcmp(type, "fd")) {
        err = take_fd(opts, &a);
    } else {
        err = error_new("Parameter 'type' does not accept value '%s': inet, unix or fd is expected",
                        type);
    }
    if (!err && opts->items->len) {
        const KeyValue *item = g_ptr_array_index(opts->items, 0);
        err = error_new("Parameter '%s' is unknown or has no place here", item->key);
    }
    if (err) {
        nbd_address_clear(&a);
        return err;
    }
    *ret_address = a;
    return NULL;
}

void nbd_address_clear(NbdAddress *a)
{
    g_free(a->path);
    g_free(a->host);
    g_free(a->port);
    *a = (NbdAddress) { .fd = -1 };
}
