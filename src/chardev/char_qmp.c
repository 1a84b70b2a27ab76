/* QMP commands about character devices. */
#include <string.h>

#include "chardev/chardev.h"
#include "chardev/ringbuf.h"
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"

static Chardevs *set_of(QmpContext *ctx)
{
    return machine_service(ctx->machine, "chardevs");
}

static bool front_open(const Chardev *chr)
{
    for (guint n = 0; n < chr->fronts->len; n++) {
        if (((const CharFront *)g_ptr_array_index(chr->fronts, n))->open) {
            return true;
        }
    }
    return false;
}

Error *qmp_query_chardev(QmpContext *ctx, const QmpQueryChardevArgs *args, Value **ret)
{
    *ret = value_list();
    for (Chardev *chr = NULL; (chr = chardev_next(set_of(ctx), chr));) {
        g_autofree char *name = chardev_describe(chr);
        Value *info = value_dict();
        value_put_bool(info, "frontend-open", front_open(chr));
        value_put_str(info, "filename", name);
        value_put_str(info, "label", chardev_id(chr));
        value_append(*ret, info);
    }
    return NULL;
}

Error *qmp_query_chardev_backends(QmpContext *ctx, const QmpQueryChardevBackendsArgs *args, Value **ret)
{
    *ret = value_list();
    SECTION_FOREACH (chardev_types, ChardevType, it) {
        Value *info = value_dict();
        value_put_str(info, "name", (*it)->name);
        value_append(*ret, info);
    }
    return NULL;
}

static MUST_USE Error *find_ringbuf(QmpContext *ctx, const char *id, Chardev **ret_chr)
{
    Chardev *chr = chardev_find(set_of(ctx), id);

    if (!chr) {
        return error_new("Device '%s' not found", id);
    }
    if (!chardev_is_ringbuf(chr)) {
        return error_new("'%s' keeps nothing to read: only a ringbuf does", id);
    }
    *ret_chr = chr;
    return NULL;
}

Error *qmp_ringbuf_write(QmpContext *ctx, const QmpRingbufWriteArgs *args, Value **ret)
{
    Chardev *chr = NULL;

    TRY(find_ringbuf(ctx, args->device, &chr));
    if (args->has_format && !strcmp(args->format, "base64")) {
        gsize length;
        g_autofree guchar *data = g_base64_decode(args->data, &length);
        ringbuf_put(chr, data, length);
    } else {
        ringbuf_put(chr, (const uint8_t *)args->data, strlen(args->data));
    }
    return NULL;
}

Error *qmp_ringbuf_read(QmpContext *ctx, const QmpRingbufReadArgs *args, Value **ret)
{
    Chardev *chr = NULL;

    TRY(find_ringbuf(ctx, args->device, &chr));
    if (args->size <= 0 || args->size > 16 << 20) {
        return error_new("size must be greater than zero and at most 16 MiB");
    }
    g_autofree uint8_t *data = g_malloc((gsize)args->size);
    size_t length = ringbuf_take(chr, data, (size_t)args->size);
    if (args->has_format && !strcmp(args->format, "base64")) {
        *ret = value_take_str(g_base64_encode(data, length));
    } else {
        /* What is no UTF-8 becomes U+FFFD. */
        *ret = value_take_str(g_utf8_make_valid((const char *)data, (gssize)length));
    }
    return NULL;
}

/* {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": ...}}, ...}} to option keys. */
static MUST_USE Error *backend_options(const char *id, const Value *backend, KeyValues **ret_kv)
{
    static const struct {
        const char *from, *to;
    } renamed[] = {
        { "addr.data.path", "path" },      { "addr.data.host", "host" },     { "addr.data.port", "port" },
        { "addr.data.abstract", "abstract" }, { "addr.data.tight", "tight" }, { "addr.data.to", "to" },
        { "addr.data.ipv4", "ipv4" },      { "addr.data.ipv6", "ipv6" },     { "addr.data.str", "fd" },
        { "remote.data.host", "host" },    { "remote.data.port", "port" },   { "local.data.host", "localaddr" },
        { "local.data.port", "localport" }, { "out", "path" },               { "in", "input-path" },
        { "device", "path" },
    };
    static const char *const dropped[] = { "addr.type", "remote.type", "local.type", "addr.data.numeric",
                                           "addr.data.keep-alive", "addr.data.mptcp", NULL };
    const Value *data = value_find(backend, "data");
    g_autoptr(KeyValues) flat = NULL;
    KeyValues *kv = keyvalues_new();

    keyvalues_add(kv, "backend", value_find_str(backend, "type"));
    keyvalues_add(kv, "id", id);
    *ret_kv = kv;
    if (!data) {
        return NULL;
    }
    TRY(keyvalues_from_value(data, &flat));
    for (guint n = 0; n < flat->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(flat->items, n);
        const char *key = item->key;
        if (g_strv_contains(dropped, key)) {
            continue;
        }
        for (size_t i = 0; i < ARRAY_SIZE(renamed); i++) {
            if (!strcmp(renamed[i].from, item->key)) {
                key = renamed[i].to;
            }
        }
        keyvalues_add(kv, key, item->value);
    }
    /* In QMP a socket is a server unless said otherwise, and does not wait. */
    if (!strcmp(value_find_str(backend, "type"), "socket")) {
        if (!keyvalues_has(kv, "server")) {
            keyvalues_add(kv, "server", "on");
        }
        if (!keyvalues_has(kv, "wait") && g_strcmp0(keyvalues_get(kv, "server"), "on") == 0) {
            keyvalues_add(kv, "wait", "off");
        }
    }
    return NULL;
}

static Value *added_value(Chardev *chr)
{
    g_autofree char *name = chardev_describe(chr);
    Value *value = value_dict();
    if (g_str_has_prefix(name, "pty:")) {
        value_put_str(value, "pty", name + 4);
    }
    return value;
}

Error *qmp_chardev_add(QmpContext *ctx, const QmpChardevAddArgs *args, Value **ret)
{
    g_autoptr(KeyValues) kv = NULL;
    Chardev *chr = NULL;

    TRY(backend_options(args->id, args->backend, &kv));
    TRY(chardev_add(set_of(ctx), kv, &chr));
    *ret = added_value(chr);
    return NULL;
}

Error *qmp_chardev_change(QmpContext *ctx, const QmpChardevChangeArgs *args, Value **ret)
{
    g_autoptr(KeyValues) kv = NULL;
    Chardev *chr = NULL;

    TRY(backend_options(args->id, args->backend, &kv));
    TRY(chardev_change(set_of(ctx), kv, &chr));
    *ret = added_value(chr);
    return NULL;
}

Error *qmp_chardev_remove(QmpContext *ctx, const QmpChardevRemoveArgs *args, Value **ret)
{
    return chardev_remove(set_of(ctx), args->id);
}

Error *qmp_chardev_send_break(QmpContext *ctx, const QmpChardevSendBreakArgs *args, Value **ret)
{
    Chardev *chr = chardev_find(set_of(ctx), args->id);

    if (!chr) {
        return error_new("Chardev '%s' not found", args->id);
    }
    char_back_event(chr, CHAR_EVENT_BREAK);
    return NULL;
}
