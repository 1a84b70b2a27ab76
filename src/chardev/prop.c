/* The chardev property of devices: an id becomes an attached CharFront. */
#include "chardev/chardev.h"
#include "core/vm/machine.h"

static Chardevs *set_of(Object *obj)
{
    if (object_is_a(obj->type, &device_object_type)) {
        return machine_service(((Device *)obj)->machine, "chardevs");
    }
    while (obj->parent) {
        obj = obj->parent;
    }
    /* An -object: the set is known to the container of all chardevs. */
    Object *container = object_child(obj, "chardevs");
    Object *first = container ? LIST_FIRST(&container->children, Object, sibling) : NULL;
    return first ? ((Chardev *)first)->set : NULL;
}

static Error *chardev_prop_set(Object *obj, const Prop *prop, const char *text)
{
    CharFront *front = prop_ptr(obj, prop);
    Chardevs *set = set_of(obj);
    Chardev *chr = set ? chardev_find(set, text) : NULL;

    if (!chr) {
        return error_new("Property '%s.%s' can't find value '%s': there is no chardev with that id",
                         obj->type->name, prop->name, text);
    }
    if (front->chr == chr) {
        return NULL;
    }
    char_front_close(front);
    TRY(char_front_attach(front, chr));
    front->guest = true;
    return NULL;
}

static char *chardev_prop_get(const Object *obj, const Prop *prop)
{
    const CharFront *front = prop_ptr(obj, prop);
    return g_strdup(front->chr ? chardev_id(front->chr) : "");
}

static void chardev_prop_default(Object *obj, const Prop *prop)
{
    *(CharFront *)prop_ptr(obj, prop) = (CharFront) { 0 };
}

static void chardev_prop_release(Object *obj, const Prop *prop)
{
    char_front_close(prop_ptr(obj, prop));
}

const PropKind prop_chardev = {
    .name = "str",
    .set = chardev_prop_set,
    .get = chardev_prop_get,
    .set_default = chardev_prop_default,
    .release = chardev_prop_release,
    .json = 's',
};
