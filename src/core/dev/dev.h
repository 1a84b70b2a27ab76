/*
 * Devices: one file, one const descriptor (docs/hacking/adding-a-device.md).
 *
 *     typedef struct Toy { Device dev; ... } Toy;
 *     DEVICE_TYPE(toy, .name = "toy", .desc = "Toy", .category = DEV_MISC, .bus = &isa_bus_type,
 *                 .size = sizeof(Toy), .props = props, .state = state, .plug = toy_plug, .reset = toy_reset);
 *
 * Life: device_new() allocates and sets defaults; properties are set; device_plug() asks the bus for a
 * place (bus->type->attach) and calls type->plug, all or nothing; reset follows; device_unplug() takes it
 * down again. What the device made with the device_*() constructors below (regions, timers, work) is
 * owned by the core and taken down after type->unplug; memory from device_alloc() too.
 *
 * Threads: everything runs with the machine lock held, unless a region or timer has a domain of its own.
 */
#ifndef OSTRICH_CORE_DEV_DEV_H
#define OSTRICH_CORE_DEV_DEV_H

#include "core/dev/irq.h"
#include "core/dev/regs.h"
#include "core/dev/state.h"
#include "core/mem/mem.h"
#include "event/loop.h"
#include "object/object.h"

typedef struct Machine Machine;
typedef struct Device Device;
typedef struct DeviceType DeviceType;
typedef struct Bus Bus;
typedef struct BusType BusType;

/* The groups of -device help, in its order. */
typedef enum DevCategory {
    DEV_BRIDGE,
    DEV_USB,
    DEV_STORAGE,
    DEV_NETWORK,
    DEV_INPUT,
    DEV_DISPLAY,
    DEV_SOUND,
    DEV_MISC,
    DEV_CPU,
    DEV_WATCHDOG,
    DEV_CATEGORIES,
    DEV_INTERNAL = DEV_CATEGORIES, /* made by boards only, not in help */
} DevCategory;
const char *dev_category_name(DevCategory category); /* "Controller/Bridge/Hub", "USB", "Storage", ... */

/* Identity in PCI configuration space; here because it is plain data of the descriptor (see bus/pci.h). */
typedef struct PciIdent {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: base, sub, programming interface */
    uint8_t revision;
    uint8_t interrupt_pin; /* 0 none, 1 INTA */
    const char *rom;       /* default romfile or NULL */
    bool express;
} PciIdent;

struct DeviceType {
    ObjectType object; /* filled by DEVICE_TYPE's convenience below; name, size, props live here */
    const char *desc;
    const char *alias;
    DevCategory category;
    const BusType *bus; /* the kind of bus it sits on; NULL: directly on the machine */
    const PciIdent *pci;
    const StateField *state;
    uint32_t state_version, state_min_version; /* 0 counts as 1 */
    const Reg *regs;      /* reset, saved and dumped by the core (banks are the device's own business) */
    bool hotplug;         /* may come and go while the guest runs */
    bool plug_still;      /* plug is called while all vCPUs stand still */
    Error *(*plug)(Device *dev);
    void (*reset)(Device *dev);
    void (*unplug)(Device *dev);  /* undoes plug; must accept a device whose plug failed half way */
    Error *(*unplug_request)(Device *dev); /* NULL: unplugged at once */
    Error *(*loaded)(Device *dev); /* after state was loaded; may be NULL */
    void (*saving)(Device *dev);   /* before state is saved; may be NULL */
    /* The machine is about to run, after a stop, save or load: what was put off meanwhile. May be NULL. */
    void (*resumed)(Device *dev);
    /* Interrupt controllers: how often each input interrupted; fills at most max, gives the number of inputs. */
    unsigned (*irq_counts)(Device *dev, uint64_t *ret_counts, unsigned max);
    char *(*describe)(Device *dev); /* its state as text for the monitor, where registers do not say it; may be NULL */
    const char *boot_unit; /* what is booted is a part of it: "disk@0,0" of a controller with one disk; NULL: the device */
    const void *extra;             /* for the device's own bus or family */
};

struct Device {
    Object object;
    Machine *machine;
    Bus *bus;          /* where it sits, NULL: none */
    ListNode bus_node; /* in bus->devices */
    List buses;        /* that it provides */
    List owned;        /* what the core takes down */
    bool plugged, hotplugged, unplugging;
    int32_t bootindex; /* -1: none */
};

static inline const DeviceType *device_type(const Device *dev)
{
    return container_of(dev->object.type, DeviceType, object);
}
/* The id the user gave, or the type's name: for messages. */
const char *device_label(const Device *dev);

extern const ObjectType device_object_type; /* parent of all device types */
SECTION_DECLARE(device_types, DeviceType);
#define DEVICE_TYPE(ident, ...)                                                                    \
    static const DeviceType ident##_type_ = { __VA_ARGS__ };                                       \
    SECTION_ENTRY(device_types, DeviceType, &ident##_type_)
/* The rows that every descriptor has; `nm`, `tp` (the struct) and `pr` (property table or NULL). */
#define DEVICE_OBJECT(nm, tp, pr) .object = { .name = nm, .parent = &device_object_type, .size = sizeof(tp), .c_type = #tp, .props = pr }

/* --- buses --- */
struct BusType {
    const char *name; /* "PCI", "ISA", "IDE": as -device help shows */
    /* Checks the address properties and gives the device its place. Undone by detach. */
    Error *(*attach)(Bus *bus, Device *dev);
    void (*detach)(Bus *bus, Device *dev);
    char *(*device_path)(Device *dev);     /* OpenFirmware path element for bootorder; may be NULL */
    char *(*device_describe)(Device *dev); /* extra lines of info qtree; may be NULL */
    void (*reset)(Bus *bus);               /* after the devices on it; may be NULL */
    bool (*full)(Bus *bus);                /* no place left: the next bus is looked at; may be NULL */
    /* What the bus keeps for each device (configuration space); saved behind the device's own. May be NULL. */
    void (*device_save)(Device *dev, GByteArray *out);
    Error *(*device_load)(Device *dev, const uint8_t **data, const uint8_t *end);
    /* Asked when the type has no unplug_request of its own; NULL: unplugged at once. */
    Error *(*unplug_request)(Device *dev);
};

struct Bus {
    const BusType *type;
    char *name; /* "pci.0", "ide.1", or "<id>.<n>" below a device with an id */
    Device *parent; /* NULL: the machine's */
    Machine *machine;
    List devices;
    ListNode node; /* in parent->buses or machine->buses */
    bool hotplug;
};

/* Embedded in the provider. name NULL: made from the parent's id and index ("<id>.0"), else "<type>.<n>". */
void bus_init(Bus *bus, const BusType *type, Machine *machine, Device *parent, const char *name);
void bus_fini(Bus *bus);
/* Depth first over the machine's buses. NULL ends. */
Bus *bus_find(Machine *machine, const char *name);
Bus *bus_find_for(Machine *machine, const BusType *type); /* the first that has room */

/* --- life --- */
const DeviceType *device_type_find(const char *name_or_alias);
/* With the message that names the nearest type. */
Error *device_type_lookup(const char *name_or_alias, const DeviceType **ret_type) MUST_USE;
/* All types sorted by name; NULL-terminated; caller frees the array. */
const DeviceType **device_types_sorted(void);

/* id may be NULL. Compat and -global defaults of the machine are applied. */
Device *device_new(Machine *machine, const DeviceType *type, const char *id);
Error *device_set(Device *dev, const char *prop, const char *text) MUST_USE;
/* For boards: property values that cannot fail. */
void device_set_u64(Device *dev, const char *prop, uint64_t value);
void device_set_str(Device *dev, const char *prop, const char *text);
/*
 * bus NULL: found by type. On failure the device is freed. On success the tree owns it. A device that is part of another
 * one has been made that one's child before.
 */
Error *device_plug(Device *dev, Bus *bus) MUST_USE;
/* Boards: new, plug, abort with the message on failure (for parts that cannot fail). */
Device *device_add_builtin(Machine *machine, const char *type, Bus *bus);
void device_unplug(Device *dev);
Error *device_unplug_request(Device *dev) MUST_USE;
/* Children first, then the device. */
void device_reset(Device *dev);
void bus_reset(Bus *bus);
Device *device_find(Machine *machine, const char *id_or_path);

/* --- what a device may own; all of it is taken down by the core --- */
void *device_alloc(Device *dev, size_t size); /* zeroed */
void device_timer_init(Device *dev, Timer *timer, ClockId clock, LoopFn *fn);     /* opaque = dev */
void device_work_init(Device *dev, Work *work, LoopFn *fn);
void device_region_io(Device *dev, MemRegion *region, const char *name, uint64_t size, const MemOps *ops);
Error *device_region_ram(Device *dev, MemRegion *region, const char *name, uint64_t size) MUST_USE;
void device_region_own(Device *dev, MemRegion *region); /* one initialized otherwise */
void device_regs(Device *dev, RegBank *bank, MemRegion *region, const char *name, const Reg *regs, uint32_t size);
/* Calls fn(dev) when the device goes. */
void device_on_unplug(Device *dev, void (*fn)(void *opaque), void *opaque);

/* --- saved state of one device: registers, state rows --- */
void device_save(Device *dev, GByteArray *out);
Error *device_load(Device *dev, const uint8_t *data, size_t length) MUST_USE;
/* The two halves of it: a whole machine fills in every device before the first one acts on it. */
Error *device_load_rows(Device *dev, const uint8_t *data, size_t length) MUST_USE;
Error *device_load_finish(Device *dev) MUST_USE;

/* Text of info qtree, -device help, -device NAME,help. Caller frees. */
char *device_tree_describe(Machine *machine);
char *device_types_help(void);
char *device_type_help(const DeviceType *type);

#endif
