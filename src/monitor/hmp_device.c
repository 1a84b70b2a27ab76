/* HMP: devices, media, objects, character devices. */
#include <string.h>

#include "chardev/chardev.h"
#include "core/dev/dev_qmp.h"
#include "monitor/hmp_priv.h"
#include "net/user.h"
#include "value/json.h"

static void hmp_device_add(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(KeyValues) kv = NULL;
    Error *err = keyvalues_parse(args->text[0], "driver", &kv);

    if (!err && kv->help) {
        const char *driver = keyvalues_get(kv, "driver");
        const DeviceType *type = driver ? device_type_find(driver) : NULL;
        g_autofree char *text = type ? device_type_help(type) : device_types_help();
        hmp_printf(hmp, "%s", text);
        return;
    }
    hmp_error(hmp, err ? err : device_add_options(hmp->machine, kv, true));
}

static void hmp_device_del(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "device_del", hmp_dict("id", args->text[0], NULL), NULL);
}

static void hmp_eject(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], NULL);
    value_put_bool(request, "force", args->flag['f']);
    hmp_qmp(hmp, "eject", request, NULL);
}

static void hmp_change(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], "filename", args->text[1], "format", args->text[2],
                              "read-only-mode", args->text[3], NULL);
    value_put_bool(request, "force", args->flag['f']);
    hmp_qmp(hmp, "blockdev-change-medium", request, NULL);
}

static void hmp_object_add(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(KeyValues) kv = NULL;
    Error *err = keyvalues_parse(args->text[0], "qom-type", &kv);
    hmp_error(hmp, err ? err : object_add_options(hmp->machine, kv));
}

static void hmp_object_del(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "object-del", hmp_dict("id", args->text[0], NULL), NULL);
}

/* --- the object tree --- */

static void hmp_qom_list(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!args->text[0]) {
        hmp_printf(hmp, "/\n");
        return;
    }
    if (hmp_qmp(hmp, "qom-list", hmp_dict("path", args->text[0], NULL), &list)) {
        for (size_t n = 0; n < value_length(list); n++) {
            const Value *item = value_at(list, n);
            hmp_printf(hmp, "%s (%s)\n", value_find_str(item, "name"), value_find_str(item, "type"));
        }
    }
}

static void hmp_qom_get(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) value = NULL;

    if (hmp_qmp(hmp, "qom-get", hmp_dict("path", args->text[0], "property", args->text[1], NULL), &value)) {
        g_autofree char *text = json_write(value, true);
        hmp_printf(hmp, "%s\n", text);
    }
}

static void hmp_qom_set(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("path", args->text[0], "property", args->text[1], NULL), *value = NULL;

    if (args->flag['j']) {
        Error *err = json_parse(args->text[2], strlen(args->text[2]), &value);
        if (err) {
            hmp_error(hmp, err);
            value_free(request);
            return;
        }
    } else {
        value = value_str(args->text[2]);
    }
    value_put(request, "value", value);
    hmp_qmp(hmp, "qom-set", request, NULL);
}

/* --- character devices --- */

static void hmp_chardev_add(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(KeyValues) kv = NULL;
    Chardevs *set = machine_service(hmp->machine, "chardevs");
    Error *err = keyvalues_parse(args->text[0], "backend", &kv);
    hmp_error(hmp, err ? err : chardev_add(set, kv, NULL));
}

static void hmp_chardev_remove(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "chardev-remove", hmp_dict("id", args->text[0], NULL), NULL);
}

static void hmp_chardev_send_break(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "chardev-send-break", hmp_dict("id", args->text[0], NULL), NULL);
}

static void hmp_ringbuf_write(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "ringbuf-write", hmp_dict("device", args->text[0], "data", args->text[1], NULL), NULL);
}

static void hmp_ringbuf_read(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) text = NULL;
    Value *request = hmp_dict("device", args->text[0], NULL);

    value_put_int(request, "size", (int64_t)args->number[1]);
    if (!hmp_qmp(hmp, "ringbuf-read", request, &text)) {
        return;
    }
    for (const char *c = value_get_str(text); *c; c = g_utf8_next_char(c)) {
        gunichar code = g_utf8_get_char(c);
        if ((code < 32 && code != '\n' && code != '\t') || code == 127) {
            hmp_printf(hmp, "\\u%04X", code);
        } else {
            g_string_append_unichar(hmp->out, code);
        }
    }
    hmp_printf(hmp, "\n");
}

/* --- network --- */

/* [INTERFACE,...] [ID]; the pauses are those after a migration. */
static void hmp_announce_self(Hmp *hmp, const HmpArgs *args)
{
    static const char *const names[] = { "initial", "max", "rounds", "step" };
    Value *params = NULL;

    if (!hmp_qmp(hmp, "query-migrate-parameters", NULL, &params)) {
        return;
    }
    Value *request = value_dict();
    for (size_t n = 0; n < ARRAY_SIZE(names); n++) {
        g_autofree char *name = g_strconcat("announce-", names[n], NULL);
        value_put_int(request, names[n], value_find_int(params, name, 0));
    }
    value_free(params);
    if (args->text[0]) {
        g_auto(GStrv) names = g_strsplit(args->text[0], ",", -1);
        Value *list = value_list();
        for (char **name = names; *name; name++) {
            value_append(list, value_str(*name));
        }
        value_put(request, "interfaces", list);
    }
    if (args->text[1]) {
        value_put_str(request, "id", args->text[1]);
    }
    hmp_qmp(hmp, "announce-self", request, NULL);
}

static void hmp_set_link(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("name", args->text[0], NULL);
    bool up;
    Error *err = parse_bool(args->text[1], &up);

    if (err) {
        hmp_error(hmp, err);
        value_free(request);
        return;
    }
    value_put_bool(request, "up", up);
    hmp_qmp(hmp, "set_link", request, NULL);
}

static void hmp_netdev_add(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(KeyValues) kv = NULL;
    Error *err = keyvalues_parse(args->text[0], "type", &kv);
    hmp_error(hmp, err ? err : netdev_create(hmp->machine, kv));
}

static void hmp_netdev_del(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "netdev_del", hmp_dict("id", args->text[0], NULL), NULL);
}

/* A build without libslirp has no user network. */
#pragma weak user_net_add_forward
#pragma weak user_net_remove_forward

static bool user_net_missing(Hmp *hmp)
{
    if (!user_net_add_forward || !user_net_remove_forward) {
        hmp_error(hmp, error_new("this build has no user network"));
        return true;
    }
    return false;
}

/* hostfwd_add [id] forward */
static void hmp_hostfwd_add(Hmp *hmp, const HmpArgs *args)
{
    if (user_net_missing(hmp)) {
        return;
    }
    bool has_id = args->text[1] != NULL;
    hmp_error(hmp, user_net_add_forward(hmp->machine, has_id ? args->text[0] : NULL, args->text[has_id]));
}

static void hmp_hostfwd_remove(Hmp *hmp, const HmpArgs *args)
{
    if (user_net_missing(hmp)) {
        return;
    }
    bool has_id = args->text[1] != NULL;
    hmp_error(hmp, user_net_remove_forward(hmp->machine, has_id ? args->text[0] : NULL, args->text[has_id]));
}

static void hmp_chardev_change(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(KeyValues) kv = NULL;
    Chardev *chr = NULL;
    Error *err = keyvalues_parse(args->text[1], "backend", &kv);

    if (!err) {
        keyvalues_set(kv, "id", args->text[0]);
        err = chardev_change(machine_service(hmp->machine, "chardevs"), kv, &chr);
    }
    hmp_error(hmp, err);
}

static void hmp_getfd(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "getfd", hmp_dict("fdname", args->text[0], NULL), NULL);
}

static void hmp_closefd(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "closefd", hmp_dict("fdname", args->text[0], NULL), NULL);
}

const HmpCommand hmp_commands_device[] = {
    { "device_add", "S", "driver[,prop=value][,...]", "add a device, like -device", hmp_device_add, 'D' },
    { "device_del", "s", "device", "remove a device", hmp_device_del, 'd' },
    { "eject", "-fs", "[-f] device", "take out the medium (-f: although the guest locks it)",
                                     hmp_eject, 'b' },
    { "change", "-fss?ss", "[-f] device filename [format [read-only-mode]]", "change a removable medium", hmp_change, 'b' },
    { "object_add", "S", "[qom-type=]type,id=str[,prop=value][,...]", "create an object", hmp_object_add },
    { "object_del", "s", "id", "destroy an object", hmp_object_del },
    { "qom-list", "?s", "path", "list properties and children of an object", hmp_qom_list },
    { "qom-get", "ss", "path property", "print a property", hmp_qom_get },
    { "qom-set", "-jssS", "[-j] path property value", "set a property; with -j the value is JSON", hmp_qom_set },
    { "chardev-add", "s", "args", "add a character device, like -chardev", hmp_chardev_add },
    { "chardev-change", "ss", "id args", "put another back end in the place of a character device", hmp_chardev_change, 'h' },
    { "getfd", "s", "name", "take a descriptor that came with the command and give it a name", hmp_getfd },
    { "closefd", "s", "name", "close a descriptor of getfd", hmp_closefd },
    { "chardev-remove", "s", "id", "remove a character device", hmp_chardev_remove, 'h' },
    { "chardev-send-break", "s", "id", "send a break on a character device", hmp_chardev_send_break, 'h' },
    { "ringbuf_write", "sS", "device data", "write to a ring buffer character device", hmp_ringbuf_write, 'h' },
    { "ringbuf_read", "se", "device size", "read from a ring buffer character device", hmp_ringbuf_read, 'h' },
    { "netdev_add", "S", "[user|tap|socket|...],id=str[,prop=value][,...]", "add a host network device", hmp_netdev_add },
    { "netdev_del", "s", "id", "remove a host network device", hmp_netdev_del },
    { "hostfwd_add", "s?s", "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
      "redirect TCP or UDP connections from host to guest", hmp_hostfwd_add },
    { "hostfwd_remove", "s?s", "[netdev_id] [tcp|udp]:[hostaddr]:hostport", "remove a redirection", hmp_hostfwd_remove },
    { "announce_self", "?s?s", "[interfaces] [id]", "let the network cards announce themselves to the network", hmp_announce_self },
    { "set_link", "ss", "name on|off", "pull out or plug in the cable of a network card",
                                       hmp_set_link },
    { 0 },
};
