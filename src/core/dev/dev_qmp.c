/* QMP commands about objects and devices: the tree, properties, plugging. */
#include <string.h>

#include "core/dev/dev_qmp.h"
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"
#include "value/json.h"

/* --- device_add --- */

static MUST_USE Error *find_bus(Machine *machine, const DeviceType *type, const char *name, Bus **ret_bus)
{
    Bus *bus = bus_find(machine, name);
    const char *slash = strrchr(name, '/');

    if (!bus && slash) {
        bus = bus_find(machine, slash + 1); /* a path: its last part names the bus */
    }
    if (!bus) {
        return error_new("Bus '%s' not found", name);
    }
    if (type->bus && bus->type != type->bus) {
        return error_new("device '%s' does not fit on a bus of type %s", type->object.name, bus->type->name);
    }
    *ret_bus = bus;
    return NULL;
}

static MUST_USE Error *check_type(const DeviceType *type, bool hotplug)
{
    if (type->category == DEV_INTERNAL || type->object.abstract) {
        return error_new("Parameter 'driver' expects a pluggable device type");
    }
    if (hotplug && !type->hotplug) {
        return error_new("device '%s' can be added only before the machine starts", type->object.name);
    }
    return NULL;
}

static MUST_USE Error *set_all(Device *dev, const KeyValues *kv)
{
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        if (strcmp(item->key, "driver") && strcmp(item->key, "id") && strcmp(item->key, "bus")) {
            TRY(device_set(dev, item->key, item->value));
        }
    }
    return NULL;
}

Error *device_add_options(Machine *machine, const KeyValues *options, bool hotplug)
{
    g_autoptr(KeyValues) kv = keyvalues_copy(options);
    const char *driver = keyvalues_get(kv, "driver"), *id = keyvalues_get(kv, "id");
    const char *bus_name = keyvalues_get(kv, "bus");
    const DeviceType *type;
    Bus *bus = NULL;

    if (!driver) {
        return error_new("Parameter 'driver' is missing");
    }
    TRY(device_type_lookup(driver, &type));
    TRY(check_type(type, hotplug));
    if (id && object_child(object_container_at(machine->root, "/machine/peripheral"), id)) {
        return error_new("two devices would have the id '%s'", id);
    }
    if (bus_name) {
        TRY(find_bus(machine, type, bus_name, &bus));
    }
    Device *dev = device_new(machine, type, id);
    dev->hotplugged = hotplug;
    Error *err = set_all(dev, kv);
    if (err) {
        object_free(&dev->object);
        return err;
    }
    TRY(device_plug(dev, bus));
    if (hotplug) {
        device_reset(dev);
    }
    return NULL;
}

Error *qmp_device_add(QmpContext *ctx, const QmpDeviceAddArgs *args, Value **ret)
{
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_from_value(args->all, &kv));
    return device_add_options(ctx->machine, kv, true);
}

Error *qmp_device_del(QmpContext *ctx, const QmpDeviceDelArgs *args, Value **ret)
{
    Device *dev = device_find(ctx->machine, args->id);

    if (!dev) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", args->id);
    }
    if (!device_type(dev)->hotplug) {
        return error_new("device '%s' stays as long as the machine runs", device_type(dev)->object.name);
    }
    if (dev->unplugging) {
        return error_new("Device %s is already in the process of unplug", args->id);
    }
    return device_unplug_request(dev);
}

/* --- properties --- */

static Value *prop_default(const Prop *prop)
{
    if (prop->kind == &prop_enum) {
        for (const EnumName *name = prop->names; name && name->name; name++) {
            if (name->value == prop->def) {
                return value_str(name->name);
            }
        }
        return NULL;
    }
    switch (prop->kind->json) {
    case 'b':
        return value_bool(prop->def != 0);
    case 'i':
        return value_int(prop->def);
    default:
        return prop->def_str ? value_str(prop->def_str) : NULL;
    }
}

static void add_prop(void *opaque, const Prop *prop)
{
    Value *info = value_dict(), *fallback = prop_default(prop);

    value_put_str(info, "name", prop->name);
    value_put_str(info, "type", prop->kind->name);
    if (prop->help) {
        value_put_str(info, "description", prop->help);
    }
    if (fallback) {
        value_put(info, "default-value", fallback);
    }
    value_append(opaque, info);
}

Error *qmp_device_list_properties(QmpContext *ctx, const QmpDeviceListPropertiesArgs *args, Value **ret)
{
    const DeviceType *type = device_type_find(args->typename);

    if (!type) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", args->typename);
    }
    *ret = value_list();
    object_props_foreach(&type->object, add_prop, *ret);
    return NULL;
}

static const ObjectType *any_type(const char *name)
{
    const DeviceType *device = device_type_find(name);
    return device ? &device->object : object_type_find(name);
}

static bool family_props(const char *name, Value *list)
{
    SECTION_FOREACH (type_families, TypeFamily, it) {
        if ((*it)->props(name, add_prop, list)) {
            return true;
        }
    }
    return false;
}

Error *qmp_qom_list_properties(QmpContext *ctx, const QmpQomListPropertiesArgs *args, Value **ret)
{
    const ObjectType *type = any_type(args->typename);

    *ret = value_list();
    if (type) {
        object_props_foreach(type, add_prop, *ret);
    } else if (!family_props(args->typename, *ret)) {
        g_clear_pointer(ret, value_free);
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "Class '%s' not found", args->typename);
    }
    return NULL;
}

static bool implements(const ObjectType *type, const char *name)
{
    for (; type; type = type->parent) {
        if (!strcmp(type->name, name)) {
            return true;
        }
    }
    return !strcmp(name, "object");
}

/* What qom-list-types was asked for, and the answer so far. */
typedef struct TypeList {
    Value *list;
    const char *implements; /* NULL: all */
    bool concrete;          /* no abstract ones */
} TypeList;

static void append_type(const TypeList *types, const char *name, const char *parent, bool abstract)
{
    if (abstract && types->concrete) {
        return;
    }
    Value *info = value_dict();
    value_put_str(info, "name", name);
    if (abstract) {
        value_put_bool(info, "abstract", true);
    }
    if (parent) {
        value_put_str(info, "parent", parent);
    }
    value_append(types->list, info);
}

static void list_type(const TypeList *types, const ObjectType *type)
{
    if (!types->implements || implements(type, types->implements)) {
        append_type(types, type->name, type->parent ? type->parent->name : "object", type->abstract);
    }
}

/* What others derive from is in no section. */
static void list_with_parents(const TypeList *types, GHashTable *seen, const ObjectType *type)
{
    for (; type && g_hash_table_add(seen, (gpointer)type); type = type->parent) {
        list_type(types, type);
    }
}

static void list_family_member(void *opaque, const char *name, const char *parent, bool abstract)
{
    const TypeList *types = opaque;
    const ObjectType *known = any_type(parent);

    if (!types->implements || !strcmp(name, types->implements) || !strcmp(parent, types->implements) ||
        !strcmp(types->implements, "object") || (known && implements(known, types->implements))) {
        append_type(types, name, parent, abstract);
    }
}

Error *qmp_qom_list_types(QmpContext *ctx, const QmpQomListTypesArgs *args, Value **ret)
{
    TypeList types = { *ret = value_list(), args->has_implements ? args->implements : NULL,
                       args->has_abstract && !args->abstract };

    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    if (!types.implements || !strcmp(types.implements, "object")) {
        append_type(&types, "object", NULL, true);
    }
    SECTION_FOREACH (device_types, DeviceType, it) {
        list_with_parents(&types, seen, &(*it)->object);
    }
    SECTION_FOREACH (object_types, ObjectType, it) {
        list_with_parents(&types, seen, *it);
    }
    SECTION_FOREACH (type_families, TypeFamily, it) {
        (*it)->list(list_family_member, &types);
    }
    return NULL;
}

/* --- the tree --- */

static MUST_USE Error *resolve(QmpContext *ctx, const char *path, Object **ret_object)
{
    Object *object = object_resolve(ctx->machine->root, path);

    if (!object) {
        return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", path);
    }
    *ret_object = object;
    return NULL;
}

Error *qmp_qom_list(QmpContext *ctx, const QmpQomListArgs *args, Value **ret)
{
    Object *object = NULL;

    TRY(resolve(ctx, args->path, &object));
    *ret = value_list();
    Value *type = value_dict();
    value_put_str(type, "name", "type");
    value_put_str(type, "type", "string");
    value_append(*ret, type);
    LIST_FOREACH (child, &object->children, Object, sibling) {
        Value *info = value_dict();
        value_put_str(info, "name", child->id);
        value_put(info, "type", value_strf("child<%s>", child->type->name));
        value_append(*ret, info);
    }
    object_props_foreach(object->type, add_prop, *ret);
    return NULL;
}

/* The text form of a property as the JSON kind that clients expect. */
static Value *typed_value(const Prop *prop, const char *text)
{
    Value *value = NULL;
    bool b;

    if (!prop) { /* the text tells */
        bool number = *text && strspn(text, "0123456789") == strlen(text);
        if (*text == '[' || *text == '{') {
            Error *err = json_parse(text, strlen(text), &value);
            if (!err) {
                return value;
            }
            error_free(err);
        }
        return number ? value_uint(g_ascii_strtoull(text, NULL, 10))
               : !strcmp(text, "true") || !strcmp(text, "false") ? value_bool(*text == 't') : value_str(text);
    }
    if (prop->kind->json == 'b') {
        Error *err = parse_bool(text, &b);
        if (!err) {
            return value_bool(b);
        }
        error_free(err);
    } else if (prop->kind->json == 'i' || prop->kind->json == 'j') {
        Error *err = json_parse(text, strlen(text), &value);
        if (!err) {
            return value;
        }
        error_free(err);
        uint64_t number;
        err = parse_u64(text, &number);
        if (!err) {
            return value_uint(number);
        }
        error_free(err);
    }
    return value_str(text);
}

Error *qmp_qom_get(QmpContext *ctx, const QmpQomGetArgs *args, Value **ret)
{
    g_autofree char *text = NULL;
    Object *object = NULL;

    TRY(resolve(ctx, args->path, &object));
    if (!strcmp(args->property, "type")) {
        *ret = value_str(object->type->name);
        return NULL;
    }
    Object *child = object_child(object, args->property);
    if (child) {
        g_autofree char *path = object_path(child);
        *ret = value_str(path);
        return NULL;
    }
    TRY(object_get(object, args->property, &text));
    *ret = typed_value(object_prop_find(object->type, args->property), text ? text : "");
    return NULL;
}

Error *qmp_qom_set(QmpContext *ctx, const QmpQomSetArgs *args, Value **ret)
{
    g_autofree char *text = NULL;
    Object *object = NULL;
    bool b;

    TRY(resolve(ctx, args->path, &object));
    if (value_get_str(args->value)) {
        text = g_strdup(value_get_str(args->value));
    } else if (value_get_bool(args->value, &b)) {
        text = g_strdup(b ? "on" : "off");
    } else {
        text = json_write(args->value, false);
    }
    return object_set(object, args->property, text);
}

/* --- -object --- */

Error *object_add_options(Machine *machine, const KeyValues *options)
{
    return object_make(object_container_at(machine->root, "/objects"), options);
}

/* Numbers and truth values are not given as strings here, as the schema of each type would have it. */
static MUST_USE Error *check_kinds(const ObjectType *type, const Value *members)
{
    for (size_t n = 0; type && n < value_length(members); n++) {
        const char *name = value_key_at(members, n);
        const Prop *prop = object_prop_find(type, name);
        char kind = prop ? prop->kind->json : 's';
        if ((kind == 'i' || kind == 'b') && value_find_str(members, name)) {
            return error_new("Invalid parameter type for '%s', expected: %s", name, kind == 'i' ? "integer" : "boolean");
        }
    }
    return NULL;
}

Error *qmp_object_add(QmpContext *ctx, const QmpObjectAddArgs *args, Value **ret)
{
    g_autoptr(Value) members = value_copy(args->all);
    g_autoptr(KeyValues) kv = NULL;
    const Value *props = value_find(args->all, "props");

    /* Clients that find no type of their own for each object in the schema put the properties into a member of that name. */
    if (props && value_kind(props) == VALUE_DICT) {
        value_remove(members, "props");
        for (size_t n = 0; n < value_length(props); n++) {
            value_put(members, value_key_at(props, n), value_copy(value_item_at(props, n)));
        }
    }
    TRY(check_kinds(object_type_find(args->qom_type), members));
    TRY(keyvalues_from_value(members, &kv));
    return object_add_options(ctx->machine, kv);
}

Error *qmp_object_del(QmpContext *ctx, const QmpObjectDelArgs *args, Value **ret)
{
    Object *object = object_child(object_container_at(ctx->machine->root, "/objects"), args->id);

    if (!object) {
        return error_new("object '%s' not found", args->id);
    }
    for (const ObjectType *type = object->type; type; type = type->parent) {
        if (type->in_use && type->in_use(object)) {
            return error_new("object '%s' is in use, can not be deleted", args->id);
        }
    }
    object_unparent(object);
    return NULL;
}
