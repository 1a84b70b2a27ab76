/* The short syntax of -serial and its relatives, rewritten to the canonical options of -chardev. */
#include "chardev/chardev.h"

#include <stdio.h>
#include <string.h>

static KeyValues *start(const char *backend, const char *id)
{
    KeyValues *kv = keyvalues_new();
    keyvalues_add(kv, "backend", backend);
    keyvalues_add(kv, "id", id);
    return kv;
}

static MUST_USE Error *add_options(KeyValues *kv, const char *text)
{
    g_autoptr(KeyValues) more = NULL;

    TRY(keyvalues_parse(text, NULL, &more));
    for (guint n = 0; n < more->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(more->items, n);
        keyvalues_add(kv, item->key, item->value);
    }
    return NULL;
}

/* "host:port", "[v6]:port", ":port" at the front of text; *ret_rest is what follows, from a comma on. */
static MUST_USE Error *split_host_port(const char *text, const char *terminators, char **ret_host,
                                       char **ret_port, const char **ret_rest)
{
    const char *host = text, *host_end, *colon;

    if (*text == '[') {
        host++;
        host_end = strchr(host, ']');
        colon = host_end ? host_end + 1 : NULL;
    } else {
        host_end = colon = strchr(host, ':');
    }
    if (!colon || *colon != ':') {
        return error_new("'%s': expected HOST:PORT", text);
    }
    size_t port_length = strcspn(colon + 1, terminators);
    *ret_host = g_strndup(host, host_end - host);
    *ret_port = g_strndup(colon + 1, port_length);
    *ret_rest = colon + 1 + port_length;
    return NULL;
}

static MUST_USE Error *parse_tcp(const char *text, const char *flavour, const char *id, KeyValues **ret_kv)
{
    g_autofree char *host = NULL, *port = NULL;
    const char *rest;
    g_autoptr(KeyValues) kv = start("socket", id);

    TRY(split_host_port(text, ",", &host, &port, &rest));
    keyvalues_add(kv, "host", host);
    keyvalues_add(kv, "port", port);
    TRY(add_options(kv, *rest ? rest + 1 : ""));
    if (flavour) {
        keyvalues_add(kv, flavour, "on");
    }
    *ret_kv = g_steal_pointer(&kv);
    return NULL;
}

static MUST_USE Error *parse_unix(const char *text, const char *id, KeyValues **ret_kv)
{
    g_autoptr(KeyValues) rest = NULL;
    g_autoptr(KeyValues) kv = start("socket", id);

    TRY(keyvalues_parse(text, "path", &rest));
    for (guint n = 0; n < rest->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(rest->items, n);
        keyvalues_add(kv, item->key, item->value);
    }
    *ret_kv = g_steal_pointer(&kv);
    return NULL;
}

/* udp:[HOST]:PORT[@[LOCALADDR]:LOCALPORT] */
static MUST_USE Error *parse_udp(const char *text, const char *id, KeyValues **ret_kv)
{
    g_autofree char *host = NULL, *port = NULL, *local_host = NULL, *local_port = NULL;
    const char *rest;
    g_autoptr(KeyValues) kv = start("udp", id);

    TRY(split_host_port(text, "@,", &host, &port, &rest));
    if (*host) {
        keyvalues_add(kv, "host", host);
    }
    keyvalues_add(kv, "port", port);
    if (*rest == '@') {
        TRY(split_host_port(rest + 1, ",", &local_host, &local_port, &rest));
        if (*local_host) {
            keyvalues_add(kv, "localaddr", local_host);
        }
        keyvalues_add(kv, "localport", local_port);
    }
    *ret_kv = g_steal_pointer(&kv);
    return NULL;
}

/* vc, vc:800x600, vc:80Cx24C */
static MUST_USE Error *parse_vc(const char *text, const char *id, KeyValues **ret_kv)
{
    unsigned width, height;
    char c1 = 0, c2 = 0;
    g_autoptr(KeyValues) kv = start("vc", id);

    if (*text) {
        bool cells = sscanf(text, "%u%cx%u%c", &width, &c1, &height, &c2) == 4 && c1 == 'C' && c2 == 'C';
        if (!cells && sscanf(text, "%ux%u", &width, &height) != 2) {
            return error_new("vc:%s: expected a size as 800x600 or 80Cx24C", text);
        }
        g_autofree char *w = g_strdup_printf("%u", width), *h = g_strdup_printf("%u", height);
        keyvalues_add(kv, cells ? "cols" : "width", w);
        keyvalues_add(kv, cells ? "rows" : "height", h);
    }
    *ret_kv = g_steal_pointer(&kv);
    return NULL;
}

static KeyValues *with_path(const char *backend, const char *id, const char *path)
{
    KeyValues *kv = start(backend, id);
    keyvalues_add(kv, "path", path);
    return kv;
}

/* If text is "PREFIX..." gives what follows. */
static const char *after(const char *text, const char *prefix)
{
    return g_str_has_prefix(text, prefix) ? text + strlen(prefix) : NULL;
}

static MUST_USE Error *parse_one(const char *text, const char *id, KeyValues **ret_kv)
{
    static const char *const plain[] = { "null", "stdio", "pty", "msmouse", "wctablet", "braille", "testdev", NULL };
    const char *rest;

    if (g_strv_contains(plain, text)) {
        *ret_kv = start(text, id);
    } else if (!strcmp(text, "vc") || (rest = after(text, "vc:"))) {
        return parse_vc(text[2] ? text + 3 : "", id, ret_kv);
    } else if ((rest = after(text, "pty:"))) {
        *ret_kv = with_path("pty", id, rest);
    } else if ((rest = after(text, "file:"))) {
        *ret_kv = with_path("file", id, rest);
    } else if ((rest = after(text, "pipe:"))) {
        *ret_kv = with_path("pipe", id, rest);
    } else if ((rest = after(text, "tcp:"))) {
        return parse_tcp(rest, NULL, id, ret_kv);
    } else if ((rest = after(text, "telnet:"))) {
        return parse_tcp(rest, "telnet", id, ret_kv);
    } else if ((rest = after(text, "websocket:"))) {
        return parse_tcp(rest, "websocket", id, ret_kv);
    } else if ((rest = after(text, "tn3270:"))) {
        return parse_tcp(rest, "tn3270", id, ret_kv);
    } else if ((rest = after(text, "unix:"))) {
        return parse_unix(rest, id, ret_kv);
    } else if ((rest = after(text, "udp:"))) {
        return parse_udp(rest, id, ret_kv);
    } else if (g_str_has_prefix(text, "/dev/parport") || g_str_has_prefix(text, "/dev/ppi")) {
        *ret_kv = with_path("parallel", id, text);
    } else if (g_str_has_prefix(text, "/dev/")) {
        *ret_kv = with_path("serial", id, text);
    } else {
        static const char *const known[] = { "null", "none", "stdio", "mon:stdio", "pty", "vc", "file:", "pipe:",
                                             "tcp:", "telnet:", "unix:", "udp:", "chardev:", "/dev/", NULL };
        const char *near = nearest_in(text, known);
        return error_new("'%s' is no character device%s%s%s", text, near ? ", did you mean '" : "",
                         near ? near : "", near ? "'?" : "");
    }
    return NULL;
}

Error *chardev_parse_short(const char *text, const char *id, KeyValues **ret_kv, bool *ret_monitor)
{
    const char *rest;

    *ret_monitor = false;
    if (!strcmp(text, "none")) {
        *ret_kv = NULL;
        return NULL;
    }
    if ((rest = after(text, "chardev:"))) {
        *ret_kv = keyvalues_new();
        keyvalues_add(*ret_kv, "id", rest);
        return NULL;
    }
    rest = after(text, "mon:");
    TRY(parse_one(rest ? rest : text, id, ret_kv));
    if (rest) {
        keyvalues_add(*ret_kv, "mux", "on");
        if (!strcmp(rest, "stdio")) {
            keyvalues_add(*ret_kv, "signal", "off");
        }
        *ret_monitor = true;
    }
    return NULL;
}
