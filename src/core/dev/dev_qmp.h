/* Devices and objects from option lists: -device, -object, device_add, object-add. */
#ifndef OSTRICH_CORE_DEV_DEV_QMP_H
#define OSTRICH_CORE_DEV_DEV_QMP_H

#include "base/error.h"
#include "value/keyvalues.h"

typedef struct Machine Machine;

/* kv: driver, bus, id, properties. hotplug: the guest may be running; the device is reset. */
Error *device_add_options(Machine *machine, const KeyValues *kv, bool hotplug) MUST_USE;
/* kv: qom-type, id, properties. */
Error *object_add_options(Machine *machine, const KeyValues *kv) MUST_USE;

#endif
