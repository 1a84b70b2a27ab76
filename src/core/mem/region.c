/* The tree of memory regions, and the address spaces that look at it. */
#include "core/mem/mem_priv.h"

#include <inttypes.h>
#include <stdatomic.h>

#include "base/checked.h"
#include "base/rcu.h"

MemSystem *mem_system_new(Lock *machine_lock)
{
    MemSystem *mem = g_new0(MemSystem, 1);
    mem->machine_lock = machine_lock;
    list_init(&mem->spaces);
    list_init(&mem->blocks);
    list_init(&mem->retired);
    list_init(&mem->listeners);
    return mem;
}

void mem_system_free(MemSystem *mem)
{
    if (!mem) {
        return;
    }
    LIST_FOREACH_SAFE (as, &mem->spaces, AddressSpace, node) {
        mem_as_free(as);
    }
    LIST_FOREACH_SAFE (block, &mem->retired, RamBlock, node) {
        ram_block_free(block);
    }
    LIST_FOREACH_SAFE (block, &mem->blocks, RamBlock, node) {
        ram_block_free(block);
    }
    rcu_call(g_free, atomic_exchange(&mem->ram_table, NULL));
    g_free(mem);
}

static void publish(MemSystem *mem)
{
    mem->changed = false;
    LIST_FOREACH (as, &mem->spaces, AddressSpace, node) {
        FlatMap *map = flat_map_build(as->root);
        FlatMap *old = atomic_exchange(&as->map, map);
        if (old) {
            rcu_call(g_free, old);
        }
        LIST_FOREACH (listener, &mem->listeners, MemListener, node) {
            listener->changed(listener, as);
        }
    }
}

void mem_changed(MemSystem *mem)
{
    mem->changed = true;
    if (mem->update_depth == 0) {
        publish(mem);
    }
}

void mem_update_begin(MemSystem *mem)
{
    mem->update_depth++;
}

void mem_update_end(MemSystem *mem)
{
    assert(mem->update_depth);
    if (--mem->update_depth == 0 && mem->changed) {
        publish(mem);
    }
}

void mem_listener_add(MemSystem *mem, MemListener *listener)
{
    list_append(&mem->listeners, &listener->node);
}

void mem_listener_remove(MemListener *listener)
{
    list_remove(&listener->node);
}

/* --- regions --- */

static void region_init(MemRegion *region, MemSystem *mem, MemKind kind, const char *name, uint64_t size)
{
    *region = (MemRegion) { .kind = kind, .mem = mem, .name = g_strdup(name), .size = size, .enabled = true };
    region->lock = mem->machine_lock;
    list_init(&region->children);
}

void mem_region_init(MemRegion *region, MemSystem *mem, const char *name, uint64_t size)
{
    region_init(region, mem, MEM_CONTAINER, name, size);
}

void mem_region_init_io(MemRegion *region, MemSystem *mem, const char *name, uint64_t size, const MemOps *ops,
                        void *opaque)
{
    region_init(region, mem, MEM_IO, name, size);
    region->ops = ops;
    region->opaque = opaque;
}

void mem_region_init_ram(MemRegion *region, const char *name, RamBlock *block, uint64_t offset, uint64_t size)
{
    assert(range_inside(offset, size, block->size));
    region_init(region, block->mem, MEM_RAM, name, size);
    region->ram = block;
    region->ram_offset = offset;
}

void mem_region_init_rom(MemRegion *region, const char *name, RamBlock *block, uint64_t offset, uint64_t size,
                         const MemOps *ops, void *opaque)
{
    mem_region_init_ram(region, name, block, offset, size);
    region->kind = MEM_ROM;
    region->ops = ops;
    region->opaque = opaque;
}

void mem_region_init_alias(MemRegion *region, const char *name, MemRegion *target, uint64_t offset,
                           uint64_t size)
{
    region_init(region, target->mem, MEM_ALIAS, name, size);
    region->target = target;
    region->target_offset = offset;
}

void mem_region_fini(MemRegion *region)
{
    if (!region->mem) {
        return;
    }
    mem_region_unmap(region);
    while (!list_empty(&region->children)) {
        mem_region_unmap(LIST_FIRST(&region->children, MemRegion, node));
    }
    g_free((char *)region->name);
    region->name = NULL;
    region->mem = NULL;
}

void mem_region_set_lock(MemRegion *region, Lock *lock)
{
    region->lock = lock;
}

void mem_region_map(MemRegion *parent, uint64_t offset, MemRegion *child, int priority)
{
    assert(parent->kind == MEM_CONTAINER && !child->mapped);
    child->parent = parent;
    child->offset = offset;
    child->priority = priority;
    child->mapped = true;
    ListNode *at = &parent->children.head;
    LIST_FOREACH (other, &parent->children, MemRegion, node) {
        if (priority >= other->priority) {
            at = &other->node;
            break;
        }
    }
    list_insert_before(at, &child->node);
    mem_changed(parent->mem);
}

void mem_region_unmap(MemRegion *child)
{
    if (child->mapped) {
        list_remove(&child->node);
        child->mapped = false;
        child->parent = NULL;
        mem_changed(child->mem);
    }
}

/* Whether a change of the region can show; regions outside any tree may still be an alias' target. */
static void region_changed(MemRegion *region)
{
    mem_changed(region->mem);
}

void mem_region_set_enabled(MemRegion *region, bool enabled)
{
    if (region->enabled != enabled) {
        region->enabled = enabled;
        region_changed(region);
    }
}

void mem_region_set_offset(MemRegion *region, uint64_t offset)
{
    if (region->offset != offset) {
        region->offset = offset;
        region_changed(region);
    }
}

void mem_region_set_size(MemRegion *region, uint64_t size)
{
    if (region->size != size) {
        region->size = size;
        region_changed(region);
    }
}

void mem_region_set_alias_offset(MemRegion *region, uint64_t offset)
{
    assert(region->kind == MEM_ALIAS);
    if (region->target_offset != offset) {
        region->target_offset = offset;
        region_changed(region);
    }
}

void mem_region_set_rom(MemRegion *region, bool rom)
{
    assert(region->kind == MEM_RAM || region->kind == MEM_ROM);
    MemKind kind = rom ? MEM_ROM : MEM_RAM;
    if (region->kind != kind) {
        region->kind = kind;
        region_changed(region);
    }
}

/* --- address spaces --- */

AddressSpace *mem_as_new(MemSystem *mem, const char *name, MemRegion *root)
{
    AddressSpace *as = g_new0(AddressSpace, 1);
    as->mem = mem;
    as->name = g_strdup(name);
    as->root = root;
    atomic_init(&as->map, flat_map_build(root));
    list_append(&mem->spaces, &as->node);
    return as;
}

static void as_free_late(void *ptr)
{
    AddressSpace *as = ptr;
    g_free(as->map);
    g_free(as->name);
    g_free(as);
}

void mem_as_free(AddressSpace *as)
{
    if (as) {
        list_remove(&as->node);
        rcu_call(as_free_late, as);
    }
}

const char *mem_as_name(const AddressSpace *as)
{
    return as->name;
}

void mem_as_set_owner(AddressSpace *as, void *owner)
{
    as->owner = owner;
}

/* --- text --- */

static const char *kind_name(const MemRegion *region)
{
    static const char *const names[] = { "container", "ram", "rom", "i/o", "alias" };
    return names[region->kind];
}

static void describe_region(GString *out, const MemRegion *region, uint64_t base, unsigned depth)
{
    uint64_t last = base + region->size - 1;
    g_string_append_printf(out, "%*s%016" PRIx64 "-%016" PRIx64 " (prio %d, %s): ", (int)depth * 2, "", base,
                           last, region->priority, kind_name(region));
    if (region->kind == MEM_ALIAS) {
        g_string_append_printf(out, "alias %s @%s %016" PRIx64 "-%016" PRIx64, region->name,
                               region->target->name, region->target_offset,
                               region->target_offset + region->size - 1);
    } else {
        g_string_append(out, region->name);
    }
    g_string_append(out, region->enabled ? "\n" : " [disabled]\n");
    LIST_FOREACH (child, &region->children, MemRegion, node) {
        describe_region(out, child, base + child->offset, depth + 1);
    }
}

char *mem_describe(MemSystem *mem, bool flat)
{
    GString *out = g_string_new(NULL);
    LIST_FOREACH (as, &mem->spaces, AddressSpace, node) {
        g_string_append_printf(out, "address-space: %s\n", as->name);
        if (!flat) {
            describe_region(out, as->root, 0, 1);
            continue;
        }
        rcu_read_enter();
        const FlatMap *map = as->map;
        for (unsigned i = 0; i < map->count; i++) {
            const FlatRange *range = &map->ranges[i];
            g_string_append_printf(out, "  %016" PRIx64 "-%016" PRIx64 " (%s): %s", range->start, range->last,
                                   kind_name(range->region), range->region->name);
            g_string_append_printf(out, range->offset ? " @%016" PRIx64 "\n" : "\n", range->offset);
        }
        rcu_read_leave();
    }
    return g_string_free(out, FALSE);
}
