/* HMP: info virtio and its kin, over x-query-virtio*. */
#include <inttypes.h>
#include <string.h>

#include "monitor/hmp_priv.h"

static Value *queue_request(const HmpArgs *args)
{
    Value *request = hmp_dict("path", args->text[0], NULL);
    value_put(request, "queue", value_uint(args->number[1]));
    return request;
}

static void info_virtio(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "x-query-virtio", NULL, &list)) {
        return;
    }
    if (value_length(list) == 0) {
        hmp_printf(hmp, "the machine has no virtio devices\n");
    }
    for (size_t n = 0; n < value_length(list); n++) {
        hmp_printf(hmp, "%s [%s]\n", value_find_str(value_at(list, n), "path"), value_find_str(value_at(list, n), "name"));
    }
}

/* Lists of names a line each; what has no name as a number. */
static void print_names(Hmp *hmp, const char *title, const Value *dict)
{
    hmp_printf(hmp, "  %s:\n", title);
    for (size_t n = 0; n < value_length(dict); n++) {
        const Value *item = value_item_at(dict, n);
        if (value_kind(item) == VALUE_LIST) {
            for (size_t i = 0; i < value_length(item); i++) {
                hmp_printf(hmp, "    %s\n", value_get_str(value_at(item, i)));
            }
        } else {
            hmp_printf(hmp, "    %s: 0x%" PRIx64 "\n", value_key_at(dict, n), (uint64_t)value_find_int(dict, value_key_at(dict, n), 0));
        }
    }
}

static bool is_address(const char *name)
{
    return !strcmp(name, "vring-desc") || !strcmp(name, "vring-avail") || !strcmp(name, "vring-used");
}

/* The members that are single values, a line each, under the same names as in QMP. */
static void print_members(Hmp *hmp, const Value *dict)
{
    for (size_t n = 0; n < value_length(dict); n++) {
        const char *name = value_key_at(dict, n);
        const Value *item = value_item_at(dict, n);
        if (value_kind(item) == VALUE_STRING) {
            hmp_printf(hmp, "  %s: %s\n", name, value_get_str(item));
        } else if (value_kind(item) == VALUE_BOOL) {
            hmp_printf(hmp, "  %s: %s\n", name, value_find_bool(dict, name, false) ? "true" : "false");
        } else if (value_kind(item) == VALUE_INT) {
            int64_t number = value_find_int(dict, name, 0);
            hmp_printf(hmp, is_address(name) ? "  %s: 0x%016" PRIx64 "\n" : "  %s: %" PRId64 "\n", name, number);
        }
    }
}

static void info_virtio_status(Hmp *hmp, const HmpArgs *args)
{
    static const char *const lists[] = { "status", "guest-features", "host-features" };
    g_autoptr(Value) info = NULL;

    if (!hmp_qmp(hmp, "x-query-virtio-status", hmp_dict("path", args->text[0], NULL), &info)) {
        return;
    }
    hmp_printf(hmp, "%s:\n", args->text[0]);
    print_members(hmp, info);
    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        print_names(hmp, lists[n], value_find(info, lists[n]));
    }
}

static void info_virtio_queue_status(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (hmp_qmp(hmp, "x-query-virtio-queue-status", queue_request(args), &info)) {
        hmp_printf(hmp, "%s:\n", args->text[0]);
        print_members(hmp, info);
    }
}

static void info_virtio_vhost_queue_status(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "x-query-virtio-vhost-queue-status", queue_request(args), NULL);
}

static void info_virtio_queue_element(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;
    Value *request = queue_request(args);

    if (args->text[2]) {
        value_put(request, "index", value_uint(args->number[2]));
    }
    if (!hmp_qmp(hmp, "x-query-virtio-queue-element", request, &info)) {
        return;
    }
    hmp_printf(hmp, "%s:\n  name: %s\n  index: %" PRId64 "\n  descriptors:\n", args->text[0], value_find_str(info, "name"),
               value_find_int(info, "index", 0));
    const Value *descs = value_find(info, "descs");
    for (size_t n = 0; n < value_length(descs); n++) {
        const Value *desc = value_at(descs, n), *flags = value_find(desc, "flags");
        hmp_printf(hmp, "    addr 0x%" PRIx64 " len %" PRId64, (uint64_t)value_find_int(desc, "addr", 0), value_find_int(desc, "len", 0));
        for (size_t i = 0; i < value_length(flags); i++) {
            hmp_printf(hmp, "%s%s", i ? ", " : " (", value_get_str(value_at(flags, i)));
        }
        hmp_printf(hmp, value_length(flags) ? ")\n" : "\n");
    }
    hmp_printf(hmp, "  avail:\n");
    print_members(hmp, value_find(info, "avail"));
    hmp_printf(hmp, "  used:\n");
    print_members(hmp, value_find(info, "used"));
}

const HmpCommand hmp_info_virtio[] = {
    { "virtio", "", "", "list the virtio devices", info_virtio },
    { "virtio-status", "s", "path", "what a virtio device and its driver agreed on", info_virtio_status, 'p' },
    { "virtio-queue-status", "se", "path queue", "where a virtio queue is and how far", info_virtio_queue_status, 'p' },
    { "virtio-vhost-queue-status", "se", "path queue", "the same of a queue that vhost serves", info_virtio_vhost_queue_status, 'p' },
    { "virtio-queue-element", "se?e", "path queue [index]", "descriptors of a buffer in a virtio queue", info_virtio_queue_element, 'p' },
    { 0 },
};
