/* Devices and objects from option lists: -device, -object, device_add, object-add. */
#ifndef OSTRICH_CORE_DEV_DEV_QMP_H
#define OSTRICH_CORE_DEV_DEV_QMP_H

#include "base/error.h"
#include "object/object.h"
#include "value/keyvalues.h"

typedef struct Machine Machine;

/* kv: driver, bus, id, properties. hotplug: the guest may be running; the device is reset. */
Error *device_add_options(Machine *machine, const KeyValues *kv, bool hotplug) MUST_USE;
/* kv: qom-type, id, properties. */
Error *object_add_options(Machine *machine, const KeyValues *kv) MUST_USE;

/*
 * Types that introspection shows and that are no ObjectType of their own, as they come from another table: machines,
 * CPU models. list() calls back for each; props() for each property of the type of that name, false when it is none.
 */
typedef void TypeListFn(void *opaque, const char *name, const char *parent, bool abstract);
typedef struct TypeFamily {
    void (*list)(TypeListFn *fn, void *opaque);
    bool (*props)(const char *name, void (*fn)(void *opaque, const Prop *prop), void *opaque);
} TypeFamily;
SECTION_DECLARE(type_families, TypeFamily);

#endif
