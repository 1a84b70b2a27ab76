/*
 * -netdev, and the sugar over it:
 *
 *     -nic user,model=e1000,hostfwd=...  ->  -netdev user,id=nic.0,hostfwd=...
 *                                            -device e1000,netdev=nic.0
 *     -net nic -net user                 ->  the same by way of hub 0
 */
#include <string.h>

#include "cli/plan_priv.h"
#include "net/net.h"

Error *opt_netdev(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;

    plan->default_net = false;
    TRY(plan_add(plan->netdevs, arg, "type", &kv));
    const char *type = keyvalues_get(kv, "type");
    if (kv->help) {
        if (!type) {
            plan->print = netdev_help();
            return NULL;
        }
        return netdev_type_help(type, &plan->print);
    }
    if (!keyvalues_get(kv, "id")) {
        return error_new("Parameter 'id' is missing");
    }
    return NULL;
}

static char *nic_models_help(void)
{
    GString *out = g_string_new("Available NIC models:\n");
    g_autofree const DeviceType **types = device_types_sorted();

    for (const DeviceType **type = types; *type; type++) {
        if ((*type)->category == DEV_NETWORK && !(*type)->object.abstract) {
            g_string_append_printf(out, "%s\n", (*type)->object.name);
        }
    }
    return g_string_free(out, FALSE);
}

static MUST_USE Error *keep(Plan *plan, GPtrArray *list, const char *arg)
{
    g_autoptr(KeyValues) kv = NULL;

    plan->default_net = false;
    TRY(keyvalues_parse(arg, "type", &kv));
    const char *model = keyvalues_get(kv, "model");
    if (model && (!strcmp(model, "help") || !strcmp(model, "?"))) {
        plan->print = nic_models_help();
    } else if (kv->help) {
        plan->print = netdev_help();
    }
    g_ptr_array_add(list, g_strdup(arg));
    return NULL;
}

Error *opt_nic(Plan *plan, const Option *option, const char *arg)
{
    return keep(plan, plan->nics, arg);
}

Error *opt_net(Plan *plan, const Option *option, const char *arg)
{
    return keep(plan, plan->nets, arg);
}

static const char *next_model(void *opaque)
{
    const DeviceType ***cursor = opaque;
    while (**cursor && (**cursor)->category != DEV_NETWORK) {
        ++*cursor;
    }
    return **cursor ? (*(*cursor)++)->object.name : NULL;
}

static MUST_USE Error *model_device(Plan *plan, const char *model, const char **ret_driver)
{
    const MachineType *machine;

    TRY(machine_type_lookup(keyvalues_get(plan->machine, "type"), &machine));
    if (!model) {
        model = machine->default_nic ? machine->default_nic : "e1000";
    } else if (!strcmp(model, "virtio")) {
        model = "virtio-net-pci";
    }
    const DeviceType *type = device_type_find(model);
    if (!type || type->category != DEV_NETWORK) {
        g_autofree const DeviceType **types = device_types_sorted();
        const DeviceType **cursor = types;
        const char *near = nearest_name(model, next_model, &cursor);
        return error_new("Unsupported NIC model: %s%s%s%s (see -nic model=help)", model,
                         near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    *ret_driver = type->object.name;
    return NULL;
}

/* Takes the keys that belong to the card out of kv. */
static MUST_USE Error *card_of(Plan *plan, KeyValues *kv, const char *mac_key, const char *netdev,
                               KeyValues **ret_device)
{
    g_autofree char *model = keyvalues_take(kv, "model"), *mac = keyvalues_take(kv, mac_key);
    const char *driver;

    TRY(model_device(plan, model, &driver));
    KeyValues *device = plan_add_built(plan->board_devices, "driver", "%s,netdev=%s", driver, netdev);
    if (mac) {
        keyvalues_add(device, "mac", mac);
    }
    *ret_device = device;
    return NULL;
}

static MUST_USE Error *finish_nic(Plan *plan, const char *text, unsigned index)
{
    g_autofree char *fallback = g_strdup_printf("nic.%u", index);
    KeyValues *kv, *device;

    TRY(keyvalues_parse(text, "type", &kv));
    g_ptr_array_add(plan->netdevs, kv);
    if (!keyvalues_has(kv, "type")) {
        return error_new("Parameter 'type' is missing");
    }
    if (!keyvalues_has(kv, "id")) {
        keyvalues_add(kv, "id", fallback);
    }
    g_autofree char *id = g_strdup(keyvalues_get(kv, "id"));
    return card_of(plan, kv, "mac", id, &device);
}

/* Every -net is a port of hub 0. */
static MUST_USE Error *finish_old_nic(Plan *plan, KeyValues *kv, const char *port)
{
    g_autofree char *netdev = keyvalues_take(kv, "netdev"), *name = keyvalues_take(kv, "name");
    g_autofree char *addr = keyvalues_take(kv, "addr"), *vectors = keyvalues_take(kv, "vectors");
    KeyValues *device;

    if (!netdev) {
        plan_add_built(plan->netdevs, "type", "hubport,id=%s,hubid=0", port);
    }
    TRY(card_of(plan, kv, "macaddr", netdev ? netdev : port, &device));
    if (name) {
        keyvalues_add(device, "id", name);
    }
    if (addr) {
        keyvalues_add(device, "addr", addr);
    }
    if (vectors) {
        keyvalues_add(device, "vectors", vectors);
    }
    keyvalues_get(kv, "type");
    return keyvalues_check_used(kv, "-net nic", NULL);
}

static MUST_USE Error *finish_old_net(Plan *plan, const char *text, unsigned index)
{
    g_autofree char *port = g_strdup_printf("hub0port%u", index);
    g_autofree char *id = g_strdup_printf("net.%u", index);
    KeyValues *kv;

    TRY(keyvalues_parse(text, "type", &kv));
    const char *type = keyvalues_get(kv, "type");
    if (!type) {
        keyvalues_free(kv);
        return error_new("Parameter 'type' is missing");
    }
    if (!strcmp(type, "nic")) {
        Error *err = finish_old_nic(plan, kv, port);
        keyvalues_free(kv);
        return err;
    }
    g_ptr_array_add(plan->netdevs, kv);
    if (!strcmp(type, "hubport")) {
        return error_new("'hubport' needs -netdev");
    }
    g_autofree char *name = keyvalues_take(kv, "name");
    keyvalues_set(kv, "id", name ? name : id);
    plan_add_built(plan->netdevs, "type", "hubport,id=%s,hubid=0,netdev=%s", port, name ? name : id);
    return NULL;
}

static bool is_none(const char *text)
{
    return !strcmp(text, "none") || !strcmp(text, "type=none");
}

static bool has_user_network(void)
{
    SECTION_FOREACH (netdev_drivers, NetdevDriver, it) {
        if (!strcmp((*it)->name, "user")) {
            return true;
        }
    }
    return false;
}

Error *finish_net(Plan *plan)
{
    const MachineType *machine;

    TRY(machine_type_lookup(keyvalues_get(plan->machine, "type"), &machine));
    const char *nic = machine->default_nic;
    if (plan->default_net && !plan->config->no_defaults && nic && device_type_find(nic) &&
        has_user_network()) {
        g_ptr_array_add(plan->nics, g_strdup("user"));
    }
    for (guint n = 0; n < plan->nics->len; n++) {
        const char *text = g_ptr_array_index(plan->nics, n);
        Error *err = is_none(text) ? NULL : finish_nic(plan, text, n);
        if (err) {
            return error_prefix(err, "-nic %s: ", text);
        }
    }
    for (guint n = 0; n < plan->nets->len; n++) {
        const char *text = g_ptr_array_index(plan->nets, n);
        Error *err = is_none(text) ? NULL : finish_old_net(plan, text, n);
        if (err) {
            return error_prefix(err, "-net %s: ", text);
        }
    }
    return NULL;
}
