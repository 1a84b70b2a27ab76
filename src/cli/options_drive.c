/*
 * -drive and its short forms. A drive with an interface becomes "-drive if=none,id=..." and the device
 * that the interface stands for:
 *
 *     -hda disk.img  ->  -drive if=none,id=ide0-hd0,file=disk.img
 *                        -device ide-hd,drive=ide0-hd0,bus=ide.0,unit=0
 */
#include <string.h>

#include "block/node.h"

#include "cli/plan_priv.h"

typedef enum Interface { IF_IDE, IF_SCSI, IF_FLOPPY, IF_PFLASH, IF_MTD, IF_SD, IF_VIRTIO, IF_NONE } Interface;

static const char *const interface_names[] = { "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "none", NULL };

/* Units a bus: a drive without position takes the next free one. */
static unsigned units_per_bus(Interface interface)
{
    return interface == IF_IDE ? 2 : interface == IF_SCSI ? 7 : 0;
}

static const MachineType *machine_of(Plan *plan)
{
    const char *name = keyvalues_get(plan->machine, "type");

    if (name) {
        return machine_type_find(name);
    }
    SECTION_FOREACH (machine_types, MachineType, it) {
        if ((*it)->is_default) {
            return *it;
        }
    }
    return NULL;
}

static MUST_USE Error *interface_of(Plan *plan, const char *text, Interface *ret)
{
    if (!text) {
        const MachineType *type = machine_of(plan);
        text = type && type->block_default ? type->block_default : "ide";
    }
    for (int n = 0; interface_names[n]; n++) {
        if (!strcmp(interface_names[n], text)) {
            *ret = (Interface)n;
            return NULL;
        }
    }
    const char *near = nearest_in(text, interface_names);
    return error_new("unsupported bus type '%s'%s%s%s", text, near ? ", did you mean '" : "", near ? near : "",
                     near ? "'?" : "");
}

typedef struct Position {
    Interface interface;
    unsigned bus, unit;
    bool cdrom;
} Position;

static bool position_taken(const Plan *plan, const Position *position)
{
    g_autofree char *wanted = g_strdup_printf("%s:%u:%u", interface_names[position->interface], position->bus,
                                              position->unit);
    for (guint n = 0; n < plan->drives->len; n++) {
        if (g_strcmp0(keyvalues_get(g_ptr_array_index(plan->drives, n), "x-position"), wanted) == 0) {
            return true;
        }
    }
    return false;
}

static MUST_USE Error *find_position(Plan *plan, KeyValues *drive, Position *position)
{
    g_autofree char *index_text = g_strdup(keyvalues_get(drive, "index"));
    bool placed = keyvalues_has(drive, "index") || keyvalues_has(drive, "unit");
    unsigned per_bus = units_per_bus(position->interface);
    uint64_t index, bus, unit;

    TRY(keyvalues_get_u64(drive, "index", 0, &index));
    TRY(keyvalues_get_u64(drive, "bus", 0, &bus));
    TRY(keyvalues_get_u64(drive, "unit", 0, &unit));
    if (index_text) {
        if (keyvalues_has(drive, "bus") || keyvalues_has(drive, "unit")) {
            return error_new("'index' says the same as 'bus' and 'unit': give either the one or "
                             "the others");
        }
        bus = per_bus ? index / per_bus : 0;
        unit = per_bus ? index % per_bus : index;
    }
    if (per_bus && unit >= per_bus) {
        return error_new("unit %u too big (max is %u)", (unsigned)unit, per_bus - 1);
    }
    position->bus = (unsigned)MIN(bus, 255);
    position->unit = (unsigned)MIN(unit, 255);
    while (!placed && position_taken(plan, position)) {
        position->unit++;
        if (per_bus && position->unit >= per_bus) {
            position->unit = 0;
            position->bus++;
        }
    }
    if (position_taken(plan, position)) {
        return error_new("drive with bus=%u, unit=%u (index=%u) exists", position->bus, position->unit,
                         position->bus * per_bus + position->unit);
    }
    return NULL;
}

static char *default_id(const Position *position)
{
    const char *name = interface_names[position->interface];

    if (units_per_bus(position->interface)) {
        return g_strdup_printf("%s%u-%s%u", name, position->bus, position->cdrom ? "cd" : "hd", position->unit);
    }
    return g_strdup_printf("%s%u", name, position->unit);
}

/* The keys of -drive that the device takes, not the image. */
static void move_to_device(KeyValues *drive, KeyValues *device, const char *key, const char *as)
{
    g_autofree char *value = keyvalues_take(drive, key);
    if (value) {
        keyvalues_add(device, as, value);
    }
}

static MUST_USE Error *add_device(Plan *plan, KeyValues *drive, const Position *position, const char *id)
{
    KeyValues *device = NULL;

    switch (position->interface) {
    case IF_IDE:
        device = plan_add_built(plan->board_devices, "driver", "%s,bus=ide.%u,unit=%u,drive=%s",
                                position->cdrom ? "ide-cd" : "ide-hd", position->bus, position->unit, id);
        move_to_device(drive, device, "serial", "serial");
        break;
    case IF_FLOPPY:
        plan_add_built(plan->board_devices, "driver", "floppy,unit=%u,drive=%s", position->unit, id);
        break;
    case IF_VIRTIO:
        device = plan_add_built(plan->devices, "driver", "virtio-blk-pci,drive=%s", id);
        move_to_device(drive, device, "serial", "serial");
        move_to_device(drive, device, "addr", "addr");
        break;
    case IF_SCSI:
        return error_new("machine type does not support if=scsi,bus=%u,unit=%u", position->bus, position->unit);
    case IF_MTD:
    case IF_SD:
        return error_new("machine type does not support if=%s,bus=%u,unit=%u", interface_names[position->interface],
                         position->bus, position->unit);
    case IF_PFLASH: /* the board looks for it by its id */
    case IF_NONE:
        break;
    }
    return NULL;
}

Error *plan_add_drive(Plan *plan, KeyValues *drive)
{
    Position position = { 0 };
    g_autofree char *interface = keyvalues_take(drive, "if");
    g_autofree char *media = keyvalues_take(drive, "media");

    TRY(interface_of(plan, interface, &position.interface));
    if (media && strcmp(media, "disk") && strcmp(media, "cdrom")) {
        return error_new("'%s' invalid media: disk or cdrom", media);
    }
    position.cdrom = media && !strcmp(media, "cdrom");
    TRY(find_position(plan, drive, &position));
    g_autofree char *where = g_strdup_printf("%s:%u:%u", interface_names[position.interface], position.bus,
                                             position.unit);
    keyvalues_remove(drive, "index");
    keyvalues_remove(drive, "bus");
    keyvalues_remove(drive, "unit");
    if (!keyvalues_has(drive, "id")) {
        g_autofree char *id = default_id(&position);
        keyvalues_prepend(drive, "id", id);
    }
    keyvalues_prepend(drive, "if", position.interface == IF_PFLASH ? "pflash" : "none");
    if (position.interface == IF_PFLASH) {
        g_autofree char *unit = g_strdup_printf("%u", position.unit);
        keyvalues_add(drive, "unit", unit);
    }
    if (position.cdrom) {
        keyvalues_set(drive, "media", "cdrom");
    }
    if (plan->snapshot && !keyvalues_has(drive, "snapshot")) {
        keyvalues_add(drive, "snapshot", "on");
    }
    if (plan_find(plan->drives, keyvalues_get(drive, "id"))) {
        return error_new("Duplicate ID '%s' for drive", keyvalues_get(drive, "id"));
    }
    keyvalues_add(drive, "x-position", where);
    g_ptr_array_add(plan->drives, keyvalues_copy(drive));
    KeyValues *added = g_ptr_array_index(plan->drives, plan->drives->len - 1);
    return add_device(plan, added, &position, keyvalues_get(added, "id"));
}

/* Drives are placed when all are known: -machine may come behind, and positions that are given go first. */
static void defer(Plan *plan, KeyValues *drive)
{
    keyvalues_add(drive, "x-deferred", "on");
    g_ptr_array_add(plan->drives, drive);
}

Error *opt_drive(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *drive;

    TRY(keyvalues_parse(arg, NULL, &drive));
    const char *format = keyvalues_get(drive, "format");
    if (!g_strcmp0(format, "help") || !g_strcmp0(format, "?")) {
        g_autofree char *names = block_drivers_text();
        plan->print = g_strdup_printf("Supported formats:%s\nSupported formats (read-only):%s\n", names, names);
        keyvalues_free(drive);
        return NULL;
    }
    if (drive->help) {
        keyvalues_free(drive);
        plan->print = g_strdup("-drive options: file, format, if, bus, unit, index, media, id, cache, aio, readonly,\n"
                               "  snapshot, discard, detect-zeroes, werror, rerror, serial, throttling.*, and those\n"
                               "  of the image's driver\n");
        return NULL;
    }
    drive->typed = g_strdup(arg);
    defer(plan, drive);
    return NULL;
}

Error *opt_disk(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *drive = keyvalues_new();
    keyvalues_add(drive, "file", arg);
    keyvalues_add(drive, "index", option->aux);
    keyvalues_add(drive, "media", "disk");
    defer(plan, drive);
    return NULL;
}

Error *opt_cdrom(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *drive = keyvalues_new();
    keyvalues_add(drive, "file", arg);
    keyvalues_add(drive, "index", "2");
    keyvalues_add(drive, "media", "cdrom");
    keyvalues_add(drive, "readonly", "on");
    defer(plan, drive);
    return NULL;
}

Error *opt_floppy(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *drive = keyvalues_new();
    keyvalues_add(drive, "if", "floppy");
    keyvalues_add(drive, "index", option->aux);
    keyvalues_add(drive, "file", arg);
    defer(plan, drive);
    return NULL;
}

Error *opt_pflash(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *drive = keyvalues_new();
    keyvalues_add(drive, "if", option->aux);
    keyvalues_add(drive, "file", arg);
    defer(plan, drive);
    return NULL;
}

Error *opt_snapshot(Plan *plan, const Option *option, const char *arg)
{
    plan->snapshot = true;
    return NULL;
}

Error *opt_blockdev(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;

    TRY(plan_add(plan->blockdevs, arg, "driver", &kv));
    if (!keyvalues_get(kv, "driver")) {
        return error_new("Parameter 'driver' is missing");
    }
    return NULL;
}

static bool has_position(const KeyValues *drive)
{
    return keyvalues_has(drive, "index") || keyvalues_has(drive, "unit");
}

static bool any_floppy(Plan *plan)
{
    for (guint n = 0; n < plan->board_devices->len; n++) {
        if (!strcmp(keyvalues_get(g_ptr_array_index(plan->board_devices, n), "driver"), "floppy")) {
            return true;
        }
    }
    return false;
}

static void add_default_drives(Plan *plan)
{
    const MachineType *type = machine_of(plan);
    Position cdrom = { .interface = IF_IDE, .bus = 1, .unit = 0 };
    bool has_ide = type && g_strcmp0(type->block_default, "ide") == 0;

    if (plan->default_cdrom && has_ide && !position_taken(plan, &cdrom) && !plan_find(plan->drives, "ide1-cd0")) {
        plan_add_built(plan->drives, NULL, "if=none,id=ide1-cd0,readonly=on,media=cdrom");
        plan_add_built(plan->board_devices, "driver", "ide-cd,bus=ide.1,unit=0,drive=ide1-cd0");
    }
    if (plan->default_floppy && !any_floppy(plan) && !plan_find(plan->drives, "floppy0")) {
        plan_add_built(plan->drives, NULL, "if=none,id=floppy0");
        plan_add_built(plan->board_devices, "driver", "floppy,unit=0,drive=floppy0");
    }
}

/* Floppy drives need their controller, once and first. */
static void add_floppy_controller(Plan *plan)
{
    for (guint n = 0; n < plan->devices->len; n++) {
        if (!strcmp(keyvalues_get(g_ptr_array_index(plan->devices, n), "driver"), "isa-fdc")) {
            return;
        }
    }
    for (guint n = 0; n < plan->board_devices->len; n++) {
        if (!strcmp(keyvalues_get(g_ptr_array_index(plan->board_devices, n), "driver"), "floppy")) {
            KeyValues *fdc = keyvalues_new();
            keyvalues_add(fdc, "driver", "isa-fdc");
            g_ptr_array_insert(plan->board_devices, (gint)n, fdc);
            return;
        }
    }
    for (guint n = 0; n < plan->devices->len; n++) {
        if (!strcmp(keyvalues_get(g_ptr_array_index(plan->devices, n), "driver"), "floppy")) {
            plan_add_built(plan->board_devices, "driver", "isa-fdc");
            return;
        }
    }
}

Error *finish_drives(Plan *plan)
{
    g_autoptr(GPtrArray) given = g_steal_pointer(&plan->drives);

    plan->drives = g_ptr_array_new_with_free_func((GDestroyNotify)keyvalues_free);
    for (int pass = 0; pass < 2; pass++) {
        for (guint n = 0; n < given->len; n++) {
            KeyValues *drive = g_ptr_array_index(given, n);
            if (has_position(drive) == (pass == 0)) {
                g_autoptr(KeyValues) copy = keyvalues_copy(drive);
                keyvalues_remove(copy, "x-deferred");
                g_autofree char *text = copy->typed ? g_strdup(copy->typed) : keyvalues_format(copy, NULL);
                Error *err = plan_add_drive(plan, copy);
                if (err) {
                    return error_prefix(err, "-drive %s: ", text);
                }
            }
        }
    }
    add_default_drives(plan);
    add_floppy_controller(plan);
    for (guint n = 0; n < plan->drives->len; n++) {
        keyvalues_remove(g_ptr_array_index(plan->drives, n), "x-position");
    }
    return NULL;
}
