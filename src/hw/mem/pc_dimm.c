/*
 * Memory as a device: a memory object (-object memory-backend-*) at a place in the window for such devices. The guest
 * learns of it by ACPI (hw/acpi/memory_hotplug.c). It comes while vCPUs stand still; it goes when the guest has agreed.
 */
#include "base/checked.h"
#include "hw/mem/device_memory.h"
#include "schema/qmp_commands.h"

/* Places begin where large pages do; whoever needs more says so by the size of the module. */
enum { DIMM_ALIGN_MIN = 2 * 1024 * 1024 };
#define DIMM_ALIGN_MAX (128 * MiB)

static PcDimm *dimm_of(Device *dev)
{
    return container_of(dev, PcDimm, dev);
}

uint64_t device_memory_plugged_in(const DeviceMemory *memory, unsigned node)
{
    uint64_t bytes = 0;
    for (unsigned slot = 0; slot < memory->slots; slot++) {
        const PcDimm *dimm = memory->dimms[slot];
        bytes += dimm && dimm->node == node ? dimm->size : 0;
    }
    return bytes;
}

uint64_t device_memory_plugged(const DeviceMemory *memory)
{
    uint64_t bytes = 0;
    for (unsigned slot = 0; slot < memory->slots; slot++) {
        bytes += memory->dimms[slot] ? memory->dimms[slot]->size : 0;
    }
    return bytes;
}

/* --- places --- */

static MUST_USE Error *choose_slot(const DeviceMemory *memory, PcDimm *dimm)
{
    if (dimm->slot >= (int32_t)memory->slots) {
        return error_new("slot=%d: this machine has slots from 0 to %u", dimm->slot, memory->slots - 1);
    }
    for (unsigned slot = 0; dimm->slot < 0 && slot < memory->slots; slot++) {
        if (!memory->dimms[slot]) {
            dimm->slot = (int32_t)slot;
        }
    }
    if (dimm->slot < 0) {
        return error_new("all %u memory slots are taken; -m slots= makes more", memory->slots);
    }
    return memory->dimms[dimm->slot] ? error_new("slot %d is taken", dimm->slot) : NULL;
}

static const PcDimm *overlapping(const DeviceMemory *memory, uint64_t addr, uint64_t size)
{
    for (unsigned slot = 0; slot < memory->slots; slot++) {
        const PcDimm *other = memory->dimms[slot];
        if (other && addr < other->addr + other->size && other->addr < addr + size) {
            return other;
        }
    }
    return NULL;
}

static MUST_USE Error *choose_address(const DeviceMemory *memory, PcDimm *dimm)
{
    uint64_t align = DIMM_ALIGN_MIN;
    while (align < DIMM_ALIGN_MAX && dimm->size % (2 * align) == 0) {
        align *= 2;
    }
    if (dimm->addr) {
        if (dimm->addr % DIMM_ALIGN_MIN || dimm->addr < memory->base ||
            !range_inside(dimm->addr - memory->base, dimm->size, memory->size)) {
            return error_new("addr=0x%" G_GINT64_MODIFIER "x: memory devices lie from 0x%" G_GINT64_MODIFIER "x to 0x%"
                             G_GINT64_MODIFIER "x, at multiples of 2 MiB", dimm->addr, memory->base, memory->base + memory->size);
        }
        const PcDimm *other = overlapping(memory, dimm->addr, dimm->size);
        return other ? error_new("addr=0x%" G_GINT64_MODIFIER "x: '%s' lies there", dimm->addr, device_label(&other->dev)) : NULL;
    }
    for (uint64_t at = memory->base; range_inside(at - memory->base, dimm->size, memory->size);) {
        const PcDimm *other = overlapping(memory, at, dimm->size);
        if (!other) {
            dimm->addr = at;
            return NULL;
        }
        at = ALIGN_UP(other->addr + other->size, align);
    }
    return error_new("no hole between the memory devices has room for %" G_GUINT64_FORMAT " MiB", dimm->size / MiB);
}

static MUST_USE Error *check_size(const DeviceMemory *memory, const PcDimm *dimm)
{
    uint64_t plugged = device_memory_plugged(memory);
    if (dimm->size % DIMM_ALIGN_MIN) {
        return error_new("the size of a memory device is a multiple of 2 MiB; object '%s' has %" G_GUINT64_FORMAT " bytes",
                         dimm->memory->object.id, dimm->size);
    }
    if (dimm->size > memory->space - MIN(plugged, memory->space)) {
        return error_new("%" G_GUINT64_FORMAT " MiB are too much: -m maxmem= leaves %" G_GUINT64_FORMAT " MiB", dimm->size / MiB,
                         (memory->space - MIN(plugged, memory->space)) / MiB);
    }
    return NULL;
}

/* --- the device --- */

static Error *dimm_plug(Device *dev)
{
    PcDimm *dimm = dimm_of(dev);
    Machine *machine = dev->machine;
    DeviceMemory *memory = device_memory_of(machine);

    if (!memory) {
        return error_hint(error_new("this machine has no slots for memory"), "-m SIZE,slots=N,maxmem=SIZE makes them.");
    }
    if (!dimm->memory) {
        return error_new("memdev is missing: the object that the memory comes from");
    }
    if (dimm->node >= MAX(machine->config->numa.count, 1u)) {
        return error_new("node=%u: the highest NUMA node is %u", dimm->node, MAX(machine->config->numa.count, 1u) - 1);
    }
    dimm->size = dimm->memory->size;
    TRY(check_size(memory, dimm));
    TRY(choose_slot(memory, dimm));
    TRY(choose_address(memory, dimm));
    TRY(host_memory_take(dimm->memory, machine->mem, &dimm->block));
    memory->dimms[dimm->slot] = dimm;
    dimm->placed = true;
    mem_region_init_ram(&dimm->region, device_label(dev), dimm->block, 0, dimm->size);
    device_region_own(dev, &dimm->region);
    mem_region_map(&memory->region, dimm->addr - memory->base, &dimm->region, 0);
    return memory->plugged(dimm);
}

static void dimm_unplug(Device *dev)
{
    PcDimm *dimm = dimm_of(dev);
    DeviceMemory *memory = device_memory_of(dev->machine);

    if (!dimm->block) {
        return;
    }
    mem_region_fini(&dimm->region);
    host_memory_give_back(dimm->memory, dimm->block);
    dimm->block = NULL;
    if (memory && dimm->placed) {
        memory->dimms[dimm->slot] = NULL;
        memory->unplugged(dev->machine, (unsigned)dimm->slot);
    }
}

static Error *dimm_unplug_request(Device *dev)
{
    return device_memory_of(dev->machine)->unplug_request(dimm_of(dev));
}

static const Prop props[] = {
    PROP_U64("addr", PcDimm, addr, 0, .help = "guest address; 0: chosen"),
    PROP_U32("node", PcDimm, node, 0, .help = "NUMA node"),
    PROP_I32("slot", PcDimm, slot, -1, .help = "slot; -1: chosen"),
    PROP_U64("size", PcDimm, size, 0, .flags = PROP_READONLY, .help = "bytes"),
    PROP_LINK("memdev", PcDimm, memory, host_memory_type, .help = "object that the memory comes from"),
    { 0 },
};

static const StateField state[] = {
    STATE_NOT(PcDimm, block, "saved as RAM"),
    STATE_NOT(PcDimm, placed, "set by plug"),
    { 0 },
};

DEVICE_TYPE(pc_dimm, DEVICE_OBJECT("pc-dimm", PcDimm, props), .desc = "DIMM memory module", .category = DEV_MISC, .state = state,
            .hotplug = true, .plug_still = true, .plug = dimm_plug, .unplug = dimm_unplug, .unplug_request = dimm_unplug_request);

/* --- QMP --- */

Error *qmp_query_memory_devices(QmpContext *ctx, const QmpQueryMemoryDevicesArgs *args, Value **ret)
{
    const DeviceMemory *memory = device_memory_of(ctx->machine);

    *ret = value_list();
    for (unsigned slot = 0; memory && slot < memory->slots; slot++) {
        const PcDimm *dimm = memory->dimms[slot];
        if (!dimm) {
            continue;
        }
        Value *info = value_dict(), *data = value_dict();
        if (dimm->dev.object.parent == object_resolve(ctx->machine->root, "/machine/peripheral")) {
            value_put_str(data, "id", dimm->dev.object.id);
        }
        value_put(data, "addr", value_uint(dimm->addr));
        value_put_int(data, "slot", dimm->slot);
        value_put_int(data, "node", dimm->node);
        value_put(data, "memdev", value_take_str(object_path(&dimm->memory->object)));
        value_put_bool(data, "hotplugged", dimm->dev.hotplugged);
        value_put_bool(data, "hotpluggable", true);
        value_put(data, "size", value_uint(dimm->size));
        value_put_str(info, "type", "dimm");
        value_put(info, "data", data);
        value_append(*ret, info);
    }
    return NULL;
}

Error *qmp_query_memory_size_summary(QmpContext *ctx, const QmpQueryMemorySizeSummaryArgs *args, Value **ret)
{
    const DeviceMemory *memory = device_memory_of(ctx->machine);
    *ret = value_dict();
    value_put(*ret, "base-memory", value_uint(ctx->machine->config->ram_size));
    value_put(*ret, "plugged-memory", value_uint(memory ? device_memory_plugged(memory) : 0));
    return NULL;
}
