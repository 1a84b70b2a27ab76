/*
 * The -machine options that every board has, as properties of MachineConfig; "type" and "accel" are taken out before.
 * Machines as types of objects, for introspection: "pc-i440fx-7.2-machine".
 */
#include <string.h>

#include "core/dev/dev_qmp.h"
#include "core/vm/machine.h"

const Prop machine_common_props[] = {
    PROP_BOOL("acpi", MachineConfig, acpi, true, .help = "ACPI tables and power management"),
    PROP_STR("append", MachineConfig, append, .help = "command line of the kernel"),
    PROP_STR("dtb", MachineConfig, dtb, .help = "device tree for the kernel"),
    PROP_BOOL("dump-guest-core", MachineConfig, dump_guest_core, true, .help = "guest memory goes into core dumps"),
    PROP_STR("firmware", MachineConfig, firmware, .help = "file of the firmware"),
    PROP_BOOL("graphics", MachineConfig, graphics, true, .help = "the machine has a display"),
    PROP_BOOL("hmat", MachineConfig, numa.hmat, false, .help = "tables of the speed of memory between NUMA nodes"),
    PROP_BOOL("hpet", MachineConfig, hpet, true, .help = "high precision event timer"),
    PROP_BOOL("i8042", MachineConfig, i8042, true, .help = "keyboard controller"),
    PROP_STR("initrd", MachineConfig, initrd, .help = "initial RAM disk of the kernel"),
    PROP_STR("kernel", MachineConfig, kernel, .help = "kernel that is started without a boot loader"),
    PROP_BOOL("mem-merge", MachineConfig, ram_options.merge, true, .help = "memory may be merged by KSM"),
    PROP_STR("memory-backend", MachineConfig, memory_backend, .help = "id of the memory object that is RAM"),
    PROP_BOOL("pic", MachineConfig, pic, true, .help = "8259 interrupt controllers"),
    PROP_BOOL("pit", MachineConfig, pit, true, .help = "8254 timer"),
    PROP_ON_OFF_AUTO("smm", MachineConfig, smm, AUTO_AUTO, .help = "system management mode"),
    PROP_BOOL("usb", MachineConfig, usb, false, .help = "a USB controller"),
    PROP_ON_OFF_AUTO("vmport", MachineConfig, vmport, AUTO_AUTO, .help = "VMware's back door port"),
    { 0 },
};

static const char SUFFIX[] = "-machine";

static void list_machines(TypeListFn *fn, void *opaque)
{
    fn(opaque, "machine", "object", true);
    SECTION_FOREACH (machine_types, MachineType, it) {
        g_autofree char *name = g_strconcat((*it)->name, SUFFIX, NULL);
        fn(opaque, name, "machine", false);
    }
}

static void each_prop(const Prop *props, void (*fn)(void *opaque, const Prop *prop), void *opaque)
{
    for (const Prop *prop = props; prop && prop->name; prop++) {
        fn(opaque, prop);
    }
}

static bool list_machine_props(const char *name, void (*fn)(void *opaque, const Prop *prop), void *opaque)
{
    static const Prop accel = { .name = "accel", .kind = &prop_str, .help = "accelerators to try, separated by ':'" };
    const MachineType *type = NULL;

    if (strcmp(name, "machine")) {
        if (!g_str_has_suffix(name, SUFFIX)) {
            return false;
        }
        g_autofree char *plain = g_strndup(name, strlen(name) - strlen(SUFFIX));
        type = machine_type_find(plain);
        if (!type || strcmp(type->name, plain)) {
            return false;
        }
    }
    fn(opaque, &accel);
    each_prop(machine_common_props, fn, opaque);
    each_prop(type ? type->props : NULL, fn, opaque);
    return true;
}

static const TypeFamily machines = { list_machines, list_machine_props };
SECTION_ENTRY(type_families, TypeFamily, &machines);
