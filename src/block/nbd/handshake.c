/*
 * The NBD server's side of the handshake: options until the client has chosen an export. A client
 * is dropped when it breaks the framing; everything else it asks wrongly gets an error reply.
 */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "block/nbd/server_priv.h"
#include "io/tls.h"

enum { OPTION_MAX = 64 * 1024, MAX_QUERIES = 1024 };

typedef struct Option {
    uint32_t id, length;
    uint8_t data[OPTION_MAX];
} Option;

/* --- replies --- */

static int reply_co(NbdClient *c, const Option *o, uint32_t type, const void *data, size_t length)
{
    uint8_t head[20];
    struct iovec iov[2] = { { head, sizeof(head) }, { (void *)data, length } };

    st64_be(head, NBD_REP_MAGIC);
    st32_be(head + 8, o->id);
    st32_be(head + 12, type);
    st32_be(head + 16, (uint32_t)length);
    return stream_writev_co(c->stream, iov, 2);
}

static int ack_co(NbdClient *c, const Option *o)
{
    return reply_co(c, o, NBD_REP_ACK, NULL, 0);
}

static int PRINTF(4, 5) error_co(NbdClient *c, const Option *o, uint32_t type, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return reply_co(c, o, type, text, MIN(strlen(text), NBD_MAX_STRING));
}

static int invalid_co(NbdClient *c, const Option *o)
{
    return error_co(c, o, NBD_REP_ERR_INVALID, "the option's data are malformed");
}

/* --- reading out of an option --- */

typedef struct Cursor {
    const uint8_t *at;
    size_t left;
} Cursor;

static bool take_u32(Cursor *cur, uint32_t *ret)
{
    if (cur->left < 4) {
        return false;
    }
    *ret = ld32_be(cur->at);
    cur->at += 4;
    cur->left -= 4;
    return true;
}

/* A counted string; without NUL bytes. Caller frees. */
static char *take_string(Cursor *cur)
{
    uint32_t length;
    if (!take_u32(cur, &length) || length > cur->left || length > NBD_MAX_STRING ||
        memchr(cur->at, 0, length)) {
        return NULL;
    }
    char *text = g_strndup((const char *)cur->at, length);
    cur->at += length;
    cur->left -= length;
    return text;
}

/* --- options --- */

static int list_co(NbdClient *c, const Option *o)
{
    if (o->length) {
        return invalid_co(c, o);
    }
    for (NbdExport *e = NULL; (e = nbd_export_next(c->server->graph, e));) {
        g_autoptr(GByteArray) data = g_byte_array_new();
        uint8_t length[4];
        st32_be(length, (uint32_t)strlen(e->name));
        g_byte_array_append(data, length, 4);
        g_byte_array_append(data, (const guint8 *)e->name, (guint)strlen(e->name));
        if (e->description) {
            g_byte_array_append(data, (const guint8 *)e->description,
                                (guint)strlen(e->description));
        }
        export_ref(&e->export); /* it must be there to find the next one */
        int ret = reply_co(c, o, NBD_REP_SERVER, data->data, data->len);
        bool gone = e->export.stopping;
        export_unref(&e->export);
        if (gone || ret < 0) {
            return ret < 0 ? ret : ack_co(c, o);
        }
    }
    return ack_co(c, o);
}

static int info_co(NbdClient *c, const Option *o, uint16_t type, const void *data, size_t length)
{
    g_autofree uint8_t *whole = g_malloc(2 + length);
    st16_be(whole, type);
    memcpy(whole + 2, data, length);
    return reply_co(c, o, NBD_REP_INFO, whole, 2 + length);
}

static void choose(NbdClient *c, NbdExport *e)
{
    export_ref(&e->export);
    c->export = e;
    if (g_strcmp0(c->contexts_of, e->name)) { /* chosen for another export */
        memset(c->contexts, 0, sizeof(c->contexts));
    }
}

static int send_info_co(NbdClient *c, const Option *o, const NbdExport *e)
{
    uint8_t sizes[12], facts[10];
    int ret = info_co(c, o, NBD_INFO_NAME, e->name, strlen(e->name));

    if (ret == 0 && e->description) {
        ret = info_co(c, o, NBD_INFO_DESCRIPTION, e->description, strlen(e->description));
    }
    st32_be(sizes, 1);
    st32_be(sizes + 4, 4096);
    st32_be(sizes + 8, NBD_MAX_BUFFER);
    if (ret == 0) {
        ret = info_co(c, o, NBD_INFO_BLOCK_SIZE, sizes, sizeof(sizes));
    }
    st64_be(facts, nbd_export_size(e));
    st16_be(facts + 8, nbd_export_flags(e, c, o->id == NBD_OPT_INFO));
    return ret == 0 ? info_co(c, o, NBD_INFO_EXPORT, facts, sizeof(facts)) : ret;
}

/* 1: the client goes on to use the export. */
static int info_or_go_co(NbdClient *c, const Option *o)
{
    Cursor cur = { o->data, o->length };
    g_autofree char *name = take_string(&cur);

    if (!name || cur.left < 2 || cur.left - 2 != 2u * ld16_be(cur.at)) {
        return invalid_co(c, o);
    }
    NbdExport *e = nbd_export_find(c->server->graph, name);
    if (!e) {
        return error_co(c, o, NBD_REP_ERR_UNKNOWN, "export '%.80s%s' not present", name,
                        strlen(name) > 80 ? "..." : "");
    }
    export_ref(&e->export);
    int ret = send_info_co(c, o, e);
    ret = ret == 0 ? ack_co(c, o) : ret;
    if (ret == 0 && o->id == NBD_OPT_GO && !e->export.stopping) {
        choose(c, e);
        ret = 1;
    }
    export_unref(&e->export);
    return ret;
}

static int export_name_co(NbdClient *c, const Option *o)
{
    uint8_t reply[8 + 2 + 124] = { 0 };
    Cursor cur = { o->data, o->length };

    if (o->length > NBD_MAX_STRING || c->extended) {
        return -EPROTO; /* this option has no error reply */
    }
    g_autofree char *name = g_strndup((const char *)cur.at, cur.left);
    NbdExport *e = nbd_export_find(c->server->graph, name);
    if (!e) {
        return -ENOENT;
    }
    choose(c, e);
    st64_be(reply, nbd_export_size(e));
    st16_be(reply + 8, nbd_export_flags(e, c, false));
    int ret = stream_write_co(c->stream, reply, c->no_zeroes ? 10 : sizeof(reply));
    return ret < 0 ? ret : 1;
}

static int structured_co(NbdClient *c, const Option *o)
{
    if (o->length) {
        return invalid_co(c, o);
    }
    if (c->extended) {
        return error_co(c, o, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are on already");
    }
    if (c->structured) {
        return error_co(c, o, NBD_REP_ERR_INVALID, "structured replies are on already");
    }
    c->structured = true;
    return ack_co(c, o);
}

static int extended_co(NbdClient *c, const Option *o)
{
    if (o->length) {
        return invalid_co(c, o);
    }
    if (c->extended) {
        return error_co(c, o, NBD_REP_ERR_INVALID, "extended headers are on already");
    }
    c->structured = c->extended = true;
    return ack_co(c, o);
}

/* --- meta contexts --- */

char *nbd_context_name(const NbdExport *e, unsigned context)
{
    if (context == CONTEXT_ALLOCATION) {
        return g_strdup("base:allocation");
    }
    if (context == CONTEXT_DEPTH) {
        return e->allocation_depth ? g_strdup("qemu:allocation-depth") : NULL;
    }
    context -= CONTEXT_BITMAPS;
    return context < e->bitmap_count
               ? g_strdup_printf("qemu:dirty-bitmap:%s", e->bitmaps[context]->name)
               : NULL;
}

/* In a list what ends with a colon stands for all that begins with it. */
static bool query_matches(const char *query, const char *name, bool list)
{
    size_t length = strlen(query);
    return !strcmp(query, name) ||
           (list && length && query[length - 1] == ':' && g_str_has_prefix(name, query));
}

static bool take_queries(Cursor *cur, const NbdExport *e, bool list, bool wanted[CONTEXT_COUNT])
{
    uint32_t count;
    if (!take_u32(cur, &count) || count > MAX_QUERIES) {
        return false;
    }
    for (unsigned k = 0; list && !count && k < CONTEXT_COUNT; k++) {
        wanted[k] = true;
    }
    while (count--) {
        g_autofree char *query = take_string(cur);
        if (!query) {
            return false;
        }
        for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
            g_autofree char *context = nbd_context_name(e, k);
            wanted[k] |= context && query_matches(query, context, list);
        }
    }
    return cur->left == 0;
}

static int meta_context_co(NbdClient *c, const Option *o)
{
    bool list = o->id == NBD_OPT_LIST_META_CONTEXT, wanted[CONTEXT_COUNT] = { false };
    Cursor cur = { o->data, o->length };
    g_autofree char *name = take_string(&cur);

    if (!list) {
        memset(c->contexts, 0, sizeof(c->contexts));
        g_clear_pointer(&c->contexts_of, g_free);
    }
    if (!c->structured) {
        return error_co(c, o, NBD_REP_ERR_INVALID,
                        "meta contexts need structured replies, which were not negotiated");
    }
    if (!name) {
        return invalid_co(c, o);
    }
    NbdExport *e = nbd_export_find(c->server->graph, name);
    if (!e) {
        return error_co(c, o, NBD_REP_ERR_UNKNOWN, "export '%.80s%s' not present", name,
                        strlen(name) > 80 ? "..." : "");
    }
    if (!take_queries(&cur, e, list, wanted)) {
        return invalid_co(c, o);
    }
    for (unsigned k = 0; k < CONTEXT_COUNT; k++) {
        g_autofree char *context = wanted[k] ? nbd_context_name(e, k) : NULL;
        if (!context) {
            continue;
        }
        g_autofree uint8_t *data = g_malloc(4 + strlen(context));
        st32_be(data, list ? 0 : k);
        memcpy(data + 4, context, strlen(context));
        int ret = reply_co(c, o, NBD_REP_META_CONTEXT, data, 4 + strlen(context));
        if (ret < 0) {
            return ret;
        }
    }
    if (!list) {
        memcpy(c->contexts, wanted, sizeof(wanted));
        c->contexts_of = g_steal_pointer(&name);
    }
    return ack_co(c, o);
}

/* --- the exchange --- */

/* Reads and drops what is too much. */
static int skip_co(NbdClient *c, Option *o)
{
    for (uint32_t left = o->length; left;) {
        uint32_t part = MIN(left, OPTION_MAX);
        int ret = stream_read_co(c->stream, o->data, part);
        if (ret < 0) {
            return ret;
        }
        left -= part;
    }
    return 0;
}

/* Takes err. Image tests compare the words. */
static void tell_failure(Error *err)
{
    error_report(error_prefix(err, "option negotiation failed: "));
}

static int read_option_co(NbdClient *c, Option *o, bool *ret_too_big)
{
    uint8_t head[16];
    int ret = stream_read_co(c->stream, head, sizeof(head));
    if (ret == -ECONNABORTED && c->tls) {
        tell_failure(error_new("Failed to read opts magic: Cannot read from TLS channel: "
                               "The TLS connection was non-properly terminated."));
    }
    if (ret < 0) {
        return ret;
    }
    o->id = ld32_be(head + 8);
    o->length = ld32_be(head + 12);
    if (ld64_be(head) != NBD_OPT_MAGIC || o->length > NBD_MAX_BUFFER) {
        return -EPROTO;
    }
    *ret_too_big = o->length > OPTION_MAX;
    return *ret_too_big ? skip_co(c, o) : stream_read_co(c->stream, o->data, o->length);
}

static int start_tls_co(NbdClient *c, const Option *o)
{
    const NbdServerOptions *options = &c->server->options;
    TlsUse use = { .keys = options->tls_keys, .objects = block_graph_objects(c->server->graph), .authz = options->tls_authz };

    if (o->length) {
        return invalid_co(c, o);
    }
    if (!options->tls_keys) {
        return error_co(c, o, NBD_REP_ERR_POLICY, "TLS not configured");
    }
    if (c->tls) {
        return error_co(c, o, NBD_REP_ERR_INVALID, "TLS is on already");
    }
    int ret = ack_co(c, o);
    if (ret < 0) {
        return ret;
    }
    Error *err = stream_start_tls_co(c->stream, &use);
    if (err) {
        tell_failure(err);
        stream_shutdown(c->stream); /* before what the client sent meanwhile makes the end a reset */
        return -EACCES;
    }
    c->tls = true;
    return 0;
}

static int option_co(NbdClient *c, const Option *o)
{
    if (c->server->options.tls_keys && !c->tls && o->id != NBD_OPT_STARTTLS && o->id != NBD_OPT_ABORT) {
        return o->id == NBD_OPT_EXPORT_NAME ? -EACCES /* this option has no error reply */
                                            : error_co(c, o, NBD_REP_ERR_TLS_REQD, "Option 0x%x not permitted before TLS", o->id);
    }
    switch (o->id) {
    case NBD_OPT_EXPORT_NAME:
        return export_name_co(c, o);
    case NBD_OPT_ABORT:
        ack_co(c, o);
        return -ECONNABORTED;
    case NBD_OPT_LIST:
        return list_co(c, o);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return info_or_go_co(c, o);
    case NBD_OPT_STRUCTURED_REPLY:
        return structured_co(c, o);
    case NBD_OPT_EXTENDED_HEADERS:
        return extended_co(c, o);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return meta_context_co(c, o);
    case NBD_OPT_STARTTLS:
        return start_tls_co(c, o);
    default:
        return error_co(c, o, NBD_REP_ERR_UNSUP, "option %u is not supported", o->id);
    }
}

static int greet_co(NbdClient *c)
{
    uint8_t hello[18], answer[4];

    st64_be(hello, NBD_MAGIC);
    st64_be(hello + 8, NBD_OPT_MAGIC);
    st16_be(hello + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    int ret = stream_write_co(c->stream, hello, sizeof(hello));
    ret = ret < 0 ? ret : stream_read_co(c->stream, answer, sizeof(answer));
    if (ret < 0) {
        return ret;
    }
    uint32_t flags = ld32_be(answer);
    c->no_zeroes = (flags & NBD_FLAG_NO_ZEROES) != 0;
    return flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) ? -EPROTO : 0;
}

int nbd_handshake_co(NbdClient *c)
{
    g_autofree Option *o = g_new(Option, 1);
    int ret = greet_co(c);

    while (ret == 0) {
        bool too_big;
        ret = read_option_co(c, o, &too_big);
        if (ret == 0) {
            ret = too_big ? error_co(c, o, NBD_REP_ERR_TOO_BIG, "the option is too long")
                          : option_co(c, o);
        }
    }
    return ret < 0 ? ret : 0;
}
