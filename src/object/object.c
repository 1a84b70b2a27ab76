/* Object life and the tree. */
#include "object/object.h"

#include <string.h>

#include "value/keyvalues.h"

const ObjectType *object_type_find(const char *name)
{
    SECTION_FOREACH (object_types, ObjectType, it) {
        if (!strcmp((*it)->name, name)) {
            return *it;
        }
    }
    return NULL;
}

bool object_is_a(const ObjectType *type, const ObjectType *ancestor)
{
    while (type && type != ancestor) {
        type = type->parent;
    }
    return type != NULL;
}

static void prop_set_default(void *opaque, const Prop *prop)
{
    if (prop->kind->set_default) {
        prop->kind->set_default(opaque, prop);
    }
}

static void prop_release(void *opaque, const Prop *prop)
{
    if (prop->kind->release) {
        prop->kind->release(opaque, prop);
    }
}

Object *object_new(const ObjectType *type)
{
    assert(type->size >= sizeof(Object) && !type->abstract);
    Object *obj = g_malloc0(type->size);
    obj->type = type;
    list_init(&obj->children);
    object_props_foreach(type, prop_set_default, obj);
    return obj;
}

void object_free(Object *obj)
{
    if (!obj) {
        return;
    }
    assert(!obj->parent);
    while (!list_empty(&obj->children)) {
        /* Last made goes first: later children may refer to earlier ones. */
        object_unparent(container_of(obj->children.head.prev, Object, sibling));
    }
    for (const ObjectType *type = obj->type; type; type = type->parent) {
        if (type->finalize) {
            type->finalize(obj);
        }
    }
    object_props_foreach(obj->type, prop_release, obj);
    g_free(obj->id);
    g_free(obj);
}

static char *free_name(Object *parent, const char *pattern)
{
    size_t stem = strlen(pattern) - strlen("[*]");
    for (unsigned n = 0;; n++) {
        g_autofree char *name = g_strdup_printf("%.*s[%u]", (int)stem, pattern, n);
        if (!object_child(parent, name)) {
            return g_steal_pointer(&name);
        }
    }
}

void object_add_child(Object *parent, const char *id, Object *child)
{
    assert(!child->parent);
    g_free(child->id);
    child->id = g_str_has_suffix(id, "[*]") ? free_name(parent, id) : g_strdup(id);
    child->parent = parent;
    list_append(&parent->children, &child->sibling);
}

void object_unparent(Object *obj)
{
    list_remove(&obj->sibling);
    obj->parent = NULL;
    object_free(obj);
}

Object *object_child(const Object *parent, const char *id)
{
    LIST_FOREACH (child, &parent->children, Object, sibling) {
        if (!strcmp(child->id, id)) {
            return child;
        }
    }
    return NULL;
}

/* Depth first; *count tells how many have that id. */
static void find_by_id(Object *obj, const char *id, Object **found, unsigned *count)
{
    if (obj->id && !strcmp(obj->id, id)) {
        *found = obj;
        ++*count;
    }
    LIST_FOREACH (child, &obj->children, Object, sibling) {
        find_by_id(child, id, found, count);
    }
}

Object *object_resolve(Object *root, const char *path)
{
    if (path[0] != '/') {
        Object *found = NULL;
        unsigned count = 0;
        find_by_id(root, path, &found, &count);
        return count == 1 ? found : NULL;
    }
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    Object *obj = root;
    for (char **part = parts; *part && obj; part++) {
        if (**part) {
            obj = object_child(obj, *part);
        }
    }
    return obj;
}

char *object_path(const Object *obj)
{
    if (!obj->parent) {
        return g_strdup("/");
    }
    g_autofree char *above = object_path(obj->parent);
    return g_strconcat(above[1] ? above : "", "/", obj->id, NULL);
}

static const ObjectType container_type = { .name = "container", .size = sizeof(Object) };
OBJECT_REGISTER(&container_type);

Object *object_new_container(void)
{
    return object_new(&container_type);
}

typedef struct RootObject {
    Object object;
    struct Loop *loop;
    void *owner;
} RootObject;
static const ObjectType root_type = { .name = "container", .size = sizeof(RootObject) };

Object *object_new_root(struct Loop *loop, void *owner)
{
    RootObject *root = (RootObject *)object_new(&root_type);
    root->loop = loop;
    root->owner = owner;
    return &root->object;
}

struct Loop *object_loop(const Object *obj)
{
    while (obj->parent) {
        obj = obj->parent;
    }
    return obj->type == &root_type ? container_of(obj, RootObject, object)->loop : NULL;
}

void *object_owner(const Object *obj)
{
    while (obj->parent || obj->scope) {
        obj = obj->parent ? obj->parent : obj->scope;
    }
    return obj->type == &root_type ? container_of(obj, RootObject, object)->owner : NULL;
}

Object *object_container_at(Object *root, const char *path)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    Object *obj = root;
    for (char **part = parts; *part; part++) {
        if (**part) {
            Object *child = object_child(obj, *part);
            if (!child) {
                child = object_new_container();
                object_add_child(obj, *part, child);
            }
            obj = child;
        }
    }
    return obj;
}

/* --- making one by options --- */

static Error *set_all(Object *obj, const KeyValues *options)
{
    for (guint n = 0; n < options->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(options->items, n);
        if (strcmp(item->key, "qom-type") && strcmp(item->key, "id")) {
            TRY(object_set(obj, item->key, item->value));
        }
    }
    for (const ObjectType *type = obj->type; type; type = type->parent) {
        if (type->complete) {
            return type->complete(obj);
        }
    }
    return NULL;
}

static MUST_USE Error *unknown_type(const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    SECTION_FOREACH (object_types, ObjectType, it) {
        if (!(*it)->abstract) {
            g_ptr_array_add(names, (gpointer)(*it)->name);
        }
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    return error_hint(error_new("invalid object type: %s%s%s%s", name, near ? ", did you mean '" : "", near ? near : "", near ? "'?" : ""),
                      "See -object help.");
}

Error *object_make(Object *container, const KeyValues *options)
{
    g_autoptr(KeyValues) kv = keyvalues_copy(options);
    const char *name = keyvalues_get(kv, "qom-type"), *id = keyvalues_get(kv, "id");
    const ObjectType *type = name ? object_type_find(name) : NULL;

    if (!type || type->abstract) {
        return unknown_type(name ? name : "none given");
    }
    if (!id) {
        return error_new("Parameter 'id' is missing");
    }
    if (object_child(container, id)) {
        return error_new("attempt to add duplicate property '%s' to object (type 'container')", id);
    }
    Object *obj = object_new(type);
    object_add_child(container, id, obj);
    Error *err = set_all(obj, kv);
    if (err) {
        object_unparent(obj);
        return err;
    }
    obj->realized = true;
    return NULL;
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

char *object_types_help(void)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    GString *out = g_string_new("List of user creatable objects:\n");

    SECTION_FOREACH (object_types, ObjectType, it) {
        if (!(*it)->abstract) {
            g_ptr_array_add(names, (gpointer)(*it)->name);
        }
    }
    g_ptr_array_sort(names, compare_names);
    for (guint n = 0; n < names->len; n++) {
        g_string_append_printf(out, "  %s\n", (char *)g_ptr_array_index(names, n));
    }
    return g_string_free(out, FALSE);
}

/* --- properties by name --- */

static void props_foreach(const ObjectType *leaf, const ObjectType *type, void (*fn)(void *opaque, const Prop *prop), void *opaque)
{
    if (type->parent) {
        props_foreach(leaf, type->parent, fn, opaque);
    }
    for (const Prop *prop = type->props; prop && prop->name; prop++) {
        if (type == leaf || object_prop_find(leaf, prop->name) == prop) {
            fn(opaque, prop);
        }
    }
}

void object_props_foreach(const ObjectType *type, void (*fn)(void *opaque, const Prop *prop), void *opaque)
{
    props_foreach(type, type, fn, opaque);
}

const Prop *object_prop_find(const ObjectType *type, const char *name)
{
    for (; type; type = type->parent) {
        for (const Prop *prop = type->props; prop && prop->name; prop++) {
            if (!strcmp(prop->name, name)) {
                return prop;
            }
        }
    }
    return NULL;
}

static void collect_name(void *opaque, const Prop *prop)
{
    g_ptr_array_add(opaque, (void *)prop->name);
}

static Error *unknown_prop(const Object *obj, const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    object_props_foreach(obj->type, collect_name, names);
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    if (near) {
        return error_new("Property '%s.%s' not found, did you mean '%s'?", obj->type->name, name, near);
    }
    return error_new("Property '%s.%s' not found", obj->type->name, name);
}

Error *object_set(Object *obj, const char *name, const char *text)
{
    const Prop *prop = object_prop_find(obj->type, name);
    if (!prop && obj->type->set_member && !obj->realized) {
        return obj->type->set_member(obj, name, text);
    }
    if (!prop) {
        return unknown_prop(obj, name);
    }
    if (prop->flags & PROP_READONLY) {
        return error_new("Property '%s.%s' can only be read", obj->type->name, name);
    }
    if (obj->realized && !(prop->flags & PROP_RUNTIME)) {
        return error_new("Property '%s.%s' cannot be changed once '%s' exists", obj->type->name, name,
                         obj->id ? obj->id : obj->type->name);
    }
    Error *err = prop->kind->set(obj, prop, text);
    if (err) {
        return error_prefix(err, "Property '%s.%s': ", obj->type->name, name);
    }
    if (obj->realized && prop->changed) {
        prop->changed(obj, prop);
    }
    return NULL;
}

Error *object_get(const Object *obj, const char *name, char **ret_text)
{
    const Prop *prop = object_prop_find(obj->type, name);
    if (!prop && obj->type->get_member) {
        return obj->type->get_member(obj, name, ret_text);
    }
    if (!prop) {
        return unknown_prop(obj, name);
    }
    *ret_text = prop->kind->get(obj, prop);
    return NULL;
}

/* --- help --- */

static int compare_props(gconstpointer a, gconstpointer b)
{
    const Prop *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void collect_shown(void *opaque, const Prop *prop)
{
    if (!(prop->flags & PROP_HIDDEN)) {
        g_ptr_array_add(opaque, (void *)prop);
    }
}

/* What the property is when nobody sets it, as text; NULL when that is nothing. */
static char *default_text(const ObjectType *type, const Prop *prop)
{
    g_autofree Object *obj = g_malloc0(type->size);
    obj->type = type;
    if (prop->kind->set_default) {
        prop->kind->set_default(obj, prop);
    }
    char *text = prop->kind->get(obj, prop);
    if (prop->kind->release) {
        prop->kind->release(obj, prop);
    }
    return text;
}

static void append_kind(GString *out, const Prop *prop)
{
    if (prop->names) {
        for (const EnumName *e = prop->names; e->name; e++) {
            g_string_append_printf(out, "%s%s", e == prop->names ? "" : "|", e->name);
        }
    } else if (prop->link) {
        g_string_append_printf(out, "link<%s>", prop->link->name);
    } else {
        g_string_append(out, prop->kind->name);
    }
}

char *object_props_help(const ObjectType *type)
{
    g_autoptr(GPtrArray) props = g_ptr_array_new();
    GString *out = g_string_new(NULL);

    object_props_foreach(type, collect_shown, props);
    g_ptr_array_sort(props, compare_props);
    for (guint i = 0; i < props->len; i++) {
        const Prop *prop = g_ptr_array_index(props, i);
        g_autofree char *def = prop->flags & PROP_REQUIRED ? NULL : default_text(type, prop);
        g_string_append_printf(out, "  %s=<", prop->name);
        append_kind(out, prop);
        g_string_append(out, ">");
        if (prop->help) {
            g_string_append_printf(out, "%*s - %s", MAX(1, 22 - (int)strlen(prop->name)), "", prop->help);
        }
        if (def && *def) {
            g_string_append_printf(out, " (default: %s)", def);
        }
        g_string_append_c(out, '\n');
    }
    return g_string_free(out, FALSE);
}
