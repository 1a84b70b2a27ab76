/* The NBD client's handshake, and the listing of a server's exports. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/nbd/client_priv.h"

enum { REPLY_MAX = 64 * 1024, MAX_EXPORTS = 10000, MAX_CONTEXTS = 1000 };

typedef struct Reply {
    uint32_t type, length;
    uint8_t data[REPLY_MAX];
} Reply;

void nbd_info_clear(NbdInfo *info)
{
    g_free(info->name);
    g_free(info->description);
    if (info->contexts) {
        g_ptr_array_unref(info->contexts);
    }
    *info = (NbdInfo) { 0 };
}

/* -ECONNABORTED: the end came without TLS's own; image tests compare that. */
static Error *lost(int ret)
{
    if (ret == -ECONNABORTED) {
        return error_new("Failed to read option reply: Cannot read from TLS channel: "
                         "The TLS connection was non-properly terminated.");
    }
    return error_new_errno(ret, "The connection to the NBD server was lost in the handshake");
}

static Error *read_co(IoStream *ch, void *buffer, size_t bytes)
{
    int ret = stream_read_co(ch, buffer, bytes);
    return ret < 0 ? lost(ret) : NULL;
}

static Error *option_co(IoStream *ch, uint32_t option, const void *data, size_t length)
{
    uint8_t head[16];
    struct iovec iov[2] = { { head, sizeof(head) }, { (void *)data, length } };

    st64_be(head, NBD_OPT_MAGIC);
    st32_be(head + 8, option);
    st32_be(head + 12, (uint32_t)length);
    int ret = stream_writev_co(ch, iov, 2);
    return ret < 0 ? lost(ret) : NULL;
}

static Error *reply_co(IoStream *ch, uint32_t option, Reply *r)
{
    uint8_t head[20];
    TRY(read_co(ch, head, sizeof(head)));
    r->type = ld32_be(head + 12);
    r->length = ld32_be(head + 16);
    if (ld64_be(head) != NBD_REP_MAGIC || ld32_be(head + 8) != option || r->length > REPLY_MAX) {
        return error_new("The NBD server's answer to option %u is malformed", option);
    }
    return read_co(ch, r->data, r->length);
}

static bool is_error(const Reply *r)
{
    return (r->type & BIT(31)) != 0;
}

static const char *option_name(uint32_t option)
{
    static const char *const names[] = { [1] = "export name", [2] = "abort", [3] = "list", [5] = "starttls", [6] = "info",
                                         [7] = "go", [8] = "structured reply", [9] = "list meta context",
                                         [10] = "set meta context", [11] = "extended headers" };
    return option < ARRAY_SIZE(names) && names[option] ? names[option] : "unknown";
}

/* Image tests compare two of these. */
static Error *refusal(uint32_t cause, uint32_t option)
{
    static const char *const causes[] = {
        [1] = "the server does not know the option",
        [3] = "the server calls the request invalid",
        [4] = "the server's platform cannot do it",
        [7] = "the server is shutting down",
        [8] = "the server requires block sizes",
        [10] = "the server requires extended headers",
    };
    switch (cause) {
    case 2:
        return error_new("Denied by server for option %u (%s)", option, option_name(option));
    case 5:
        return error_hint(error_new("TLS negotiation required before option %u (%s)", option, option_name(option)),
                          "Did you forget a valid tls-creds?");
    case 6:
        return error_new("Requested export not available");
    default:
        return error_new("NBD option %u failed: %s", option,
                         cause < ARRAY_SIZE(causes) && causes[cause] ? causes[cause] : "unknown error");
    }
}

/* What the server said, made printable. */
static Error *server_error(const Reply *r, uint32_t option)
{
    Error *err = refusal(r->type & ~BIT(31), option);
    g_autofree char *said = g_strndup((const char *)r->data, MIN(r->length, 1024));
    for (char *p = said; *p; p++) {
        *p = g_ascii_isprint(*p) ? *p : '.';
    }
    return *said ? error_hint(err, "server reported: %s", said) : err;
}

static void append_string(GByteArray *out, const char *text)
{
    uint8_t length[4];
    st32_be(length, (uint32_t)strlen(text));
    g_byte_array_append(out, length, 4);
    g_byte_array_append(out, (const guint8 *)text, (guint)strlen(text));
}

/* --- the beginning --- */

/* *ret_fixed: options get replies. *ret_old: no options at all, info is filled. */
static Error *greet_co(IoStream *ch, bool *ret_fixed, bool *ret_old, bool *ret_no_zeroes,
                       NbdInfo *info)
{
    uint8_t hello[16], flags[2], answer[4], old[12 + 124];

    TRY(read_co(ch, hello, sizeof(hello)));
    if (ld64_be(hello) != NBD_MAGIC) {
        return error_new("This is not an NBD server: bad initial magic received");
    }
    *ret_old = ld64_be(hello + 8) == NBD_OLD_MAGIC;
    if (*ret_old) {
        TRY(read_co(ch, old, sizeof(old)));
        info->size = ld64_be(old);
        info->flags = (uint16_t)ld32_be(old + 8);
        return NULL;
    }
    if (ld64_be(hello + 8) != NBD_OPT_MAGIC) {
        return error_new("Bad server magic received");
    }
    TRY(read_co(ch, flags, sizeof(flags)));
    *ret_fixed = (ld16_be(flags) & NBD_FLAG_FIXED_NEWSTYLE) != 0;
    *ret_no_zeroes = (ld16_be(flags) & NBD_FLAG_NO_ZEROES) != 0;
    st32_be(answer, ld16_be(flags) & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES));
    int ret = stream_write_co(ch, answer, sizeof(answer));
    return ret < 0 ? lost(ret) : NULL;
}

/* An option that is acknowledged or not. */
static Error *simple_option_co(IoStream *ch, uint32_t option, Reply *r, bool *ret_ok)
{
    TRY(option_co(ch, option, NULL, 0));
    TRY(reply_co(ch, option, r));
    *ret_ok = r->type == NBD_REP_ACK;
    return NULL;
}

/* The best form of replies that the server knows. */
static Error *reply_form_co(IoStream *ch, Reply *r, NbdForm form, bool *ret_structured, bool *ret_extended)
{
    *ret_extended = *ret_structured = false;
    if (form >= NBD_FORM_EXTENDED) {
        TRY(simple_option_co(ch, NBD_OPT_EXTENDED_HEADERS, r, ret_extended));
        *ret_structured = *ret_extended;
    }
    return *ret_structured || form < NBD_FORM_STRUCTURED
               ? NULL
               : simple_option_co(ch, NBD_OPT_STRUCTURED_REPLY, r, ret_structured);
}

/* Everything that follows is encrypted. */
static Error *start_tls_co(IoStream *ch, Reply *r, bool fixed, const TlsUse *tls)
{
    bool ok;

    if (!tls) {
        return NULL;
    }
    if (!fixed) {
        return error_new("The server does not know STARTTLS, so the connection cannot be encrypted");
    }
    TRY(simple_option_co(ch, NBD_OPT_STARTTLS, r, &ok));
    return ok ? stream_start_tls_co(ch, tls) : server_error(r, NBD_OPT_STARTTLS);
}

/* Asks for the context of the connection, or, with context NULL, for the names of all. */
static Error *meta_context_co(IoStream *ch, Reply *r, const char *export, const char *context,
                              NbdInfo *info)
{
    uint32_t option = context ? NBD_OPT_SET_META_CONTEXT : NBD_OPT_LIST_META_CONTEXT;
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint8_t count[4];

    append_string(data, export);
    st32_be(count, context ? 1 : 0);
    g_byte_array_append(data, count, 4);
    if (context) {
        append_string(data, context);
    }
    TRY(option_co(ch, option, data->data, data->len));
    for (unsigned n = 0; n < MAX_CONTEXTS; n++) {
        TRY(reply_co(ch, option, r));
        if (r->type == NBD_REP_ACK || is_error(r)) {
            return NULL; /* without contexts then */
        }
        if (r->type != NBD_REP_META_CONTEXT || r->length < 5 || r->length > 4 + NBD_MAX_STRING) {
            return error_new("The NBD server's answer to option %u is malformed", option);
        }
        g_autofree char *name = g_strndup((const char *)r->data + 4, r->length - 4);
        if (!context) {
            g_ptr_array_add(info->contexts, g_steal_pointer(&name));
        } else if (!strcmp(name, context)) {
            info->has_context = true;
            info->context_id = ld32_be(r->data);
        }
    }
    return error_new("The NBD server has too many meta contexts");
}

/* --- the export --- */

static Error *take_info(const Reply *r, NbdInfo *info)
{
    const uint8_t *p = r->data;
    uint16_t type = r->length >= 2 ? ld16_be(p) : 0xffff;

    if (type == NBD_INFO_EXPORT && r->length == 12) {
        info->size = ld64_be(p + 2);
        info->flags = ld16_be(p + 10);
    } else if (type == NBD_INFO_BLOCK_SIZE && r->length == 14) {
        info->min_block = ld32_be(p + 2);
        info->preferred_block = ld32_be(p + 6);
        info->max_block = ld32_be(p + 10);
    } else if (type == NBD_INFO_DESCRIPTION && r->length <= 2 + NBD_MAX_STRING) {
        g_free(info->description);
        info->description = g_strndup((const char *)p + 2, r->length - 2);
    } else if (r->length < 2 || type == NBD_INFO_EXPORT || type == NBD_INFO_BLOCK_SIZE) {
        return error_new("The NBD server's description of the export is malformed");
    }
    return NULL;
}

/* NBD_OPT_INFO or NBD_OPT_GO. *ret_unknown: the server does not know the option. */
static Error *go_co(IoStream *ch, Reply *r, uint32_t option, const char *export, NbdInfo *info,
                    bool *ret_unknown)
{
    static const uint8_t wanted[] = { 0, 1, 0, NBD_INFO_BLOCK_SIZE };
    g_autoptr(GByteArray) data = g_byte_array_new();

    append_string(data, export);
    g_byte_array_append(data, wanted, sizeof(wanted));
    TRY(option_co(ch, option, data->data, data->len));
    *ret_unknown = false;
    for (unsigned n = 0; n < 100; n++) {
        TRY(reply_co(ch, option, r));
        if (r->type == NBD_REP_ACK) {
            return NULL;
        }
        if (r->type == NBD_REP_ERR_UNSUP) {
            *ret_unknown = true;
            return NULL;
        }
        if (is_error(r)) {
            return server_error(r, option);
        }
        if (r->type == NBD_REP_INFO) {
            TRY(take_info(r, info));
        }
    }
    return error_new("The NBD server does not come to an end describing the export");
}

static Error *export_name_co(IoStream *ch, const char *export, bool no_zeroes, NbdInfo *info)
{
    uint8_t answer[10 + 124];
    TRY(option_co(ch, NBD_OPT_EXPORT_NAME, export, strlen(export)));
    Error *err = read_co(ch, answer, no_zeroes ? 10 : sizeof(answer));
    if (err) {
        return error_prefix(err, "Export '%s': ", export);
    }
    info->size = ld64_be(answer);
    info->flags = ld16_be(answer + 8);
    return NULL;
}

static Error *check_info(NbdInfo *info)
{
    if (info->size > INT64_MAX) {
        return error_new("The export is too large: %" PRIu64 " bytes", info->size);
    }
    if (info->min_block &&
        (!IS_POW2(info->min_block) || info->min_block > 64 * KiB ||
         info->max_block < info->min_block || info->preferred_block < info->min_block ||
         !IS_ALIGNED(info->size, (uint64_t)info->min_block))) {
        return error_new("The block sizes of the export are invalid");
    }
    return NULL;
}

static Error *negotiate_co(IoStream *ch, const TlsUse *tls, Reply *r, NbdForm form,
                           const char *export, const char *context, NbdInfo *info)
{
    bool fixed = false, old = false, no_zeroes = false, unknown = true;

    TRY(greet_co(ch, &fixed, &old, &no_zeroes, info));
    TRY(start_tls_co(ch, r, fixed, tls));
    if (old) {
        return *export ? error_new("An old-style server has one export without a name: leave out "
                                   "the export name") : NULL;
    }
    if (fixed) {
        TRY(reply_form_co(ch, r, form, &info->structured, &info->extended));
        if (info->structured && context) {
            TRY(meta_context_co(ch, r, export, context, info));
        }
        TRY(go_co(ch, r, NBD_OPT_GO, export, info, &unknown));
    }
    return unknown ? export_name_co(ch, export, no_zeroes, info) : NULL;
}

Error *nbd_negotiate_co(IoStream *ch, const TlsUse *tls, NbdForm form, const char *export,
                        const char *context, NbdInfo *info)
{
    g_autofree Reply *r = g_new(Reply, 1);
    if (strlen(export) > NBD_MAX_STRING || (context && strlen(context) > NBD_MAX_STRING)) {
        return error_new("The export's name is too long");
    }
    info->name = g_strdup(export);
    Error *err = negotiate_co(ch, tls, r, form, export, context, info);
    err = err ? err : check_info(info);
    if (err) {
        nbd_info_clear(info);
    }
    return err;
}

/* --- listing --- */

static void info_free(void *opaque)
{
    nbd_info_clear(opaque);
    g_free(opaque);
}

static Error *take_name(const Reply *r, GPtrArray *infos)
{
    uint32_t length = r->length >= 4 ? ld32_be(r->data) : UINT32_MAX;
    if (r->type != NBD_REP_SERVER || length > r->length - 4 || length > NBD_MAX_STRING ||
        infos->len >= MAX_EXPORTS) {
        return error_new("The NBD server's list of exports is malformed");
    }
    NbdInfo *info = g_new0(NbdInfo, 1);
    info->name = g_strndup((const char *)r->data + 4, length);
    if (r->length > 4 + length) {
        info->description = g_strndup((const char *)r->data + 4 + length, r->length - 4 - length);
    }
    info->contexts = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(infos, info);
    return NULL;
}

static Error *list_names_co(IoStream *ch, Reply *r, GPtrArray *infos)
{
    TRY(option_co(ch, NBD_OPT_LIST, NULL, 0));
    for (;;) {
        TRY(reply_co(ch, NBD_OPT_LIST, r));
        if (r->type == NBD_REP_ACK) {
            return NULL;
        }
        if (is_error(r)) {
            return server_error(r, NBD_OPT_LIST);
        }
        TRY(take_name(r, infos));
    }
}

static Error *list_steps_co(IoStream *ch, const TlsUse *tls, Reply *r, GPtrArray *infos)
{
    bool fixed = false, old = false, no_zeroes, structured = false, extended = false,
         unknown = false;
    NbdInfo first = { 0 };

    TRY(greet_co(ch, &fixed, &old, &no_zeroes, &first));
    if (old || !fixed) {
        return error_new("The NBD server is too old to list its exports");
    }
    TRY(start_tls_co(ch, r, fixed, tls));
    TRY(reply_form_co(ch, r, NBD_FORM_EXTENDED, &structured, &extended));
    TRY(list_names_co(ch, r, infos));
    for (guint i = 0; i < infos->len && !unknown; i++) {
        NbdInfo *info = g_ptr_array_index(infos, i);
        info->structured = structured;
        info->extended = extended;
        TRY(go_co(ch, r, NBD_OPT_INFO, info->name, info, &unknown));
        if (structured && !unknown) {
            TRY(meta_context_co(ch, r, info->name, NULL, info));
        }
    }
    return option_co(ch, NBD_OPT_ABORT, NULL, 0);
}

Error *nbd_list_co(IoStream *ch, const TlsUse *tls, GPtrArray **ret_infos)
{
    g_autoptr(GPtrArray) infos = g_ptr_array_new_with_free_func(info_free);
    g_autofree Reply *r = g_new(Reply, 1);
    Error *err = list_steps_co(ch, tls, r, infos);
    stream_free(ch);
    if (!err) {
        *ret_infos = g_steal_pointer(&infos);
    }
    return err;
}
