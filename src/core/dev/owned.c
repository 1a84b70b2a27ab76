/* What a device owns: released by the core in reverse order. */
#include "core/dev/dev_priv.h"

static Owned *own(Device *dev, void *ptr, void (*release)(Owned *owned))
{
    Owned *owned = g_new0(Owned, 1);
    owned->ptr = ptr;
    owned->release = release;
    list_prepend(&dev->owned, &owned->node);
    return owned;
}

void device_release_owned(Device *dev)
{
    ListNode *node;
    while ((node = list_pop(&dev->owned))) {
        Owned *owned = container_of(node, Owned, node);
        owned->release(owned);
        g_free(owned);
    }
}

static void release_memory(Owned *owned)
{
    g_free(owned->ptr);
}

void *device_alloc(Device *dev, size_t size)
{
    return own(dev, g_malloc0(size), release_memory)->ptr;
}

static void release_timer(Owned *owned)
{
    timer_fini(owned->ptr);
}

void device_timer_init(Device *dev, Timer *timer, ClockId clock, LoopFn *fn)
{
    timer_init(timer, clock == CLOCK_VIRTUAL ? machine_guest_loop(dev->machine) : dev->machine->loop, clock, fn, dev);
    own(dev, timer, release_timer);
}

static void release_work(Owned *owned)
{
    work_fini(owned->ptr);
}

void device_work_init(Device *dev, Work *work, LoopFn *fn)
{
    work_init(work, machine_guest_loop(dev->machine), fn, dev);
    own(dev, work, release_work);
}

static void release_region(Owned *owned)
{
    mem_region_fini(owned->ptr);
}

void device_region_own(Device *dev, MemRegion *region)
{
    region->owner = dev;
    own(dev, region, release_region);
}

void device_region_io(Device *dev, MemRegion *region, const char *name, uint64_t size, const MemOps *ops)
{
    mem_region_init_io(region, dev->machine->mem, name, size, ops, dev);
    device_region_own(dev, region);
}

static void release_block(Owned *owned)
{
    ram_block_free(owned->ptr);
}

Error *device_region_ram(Device *dev, MemRegion *region, const char *name, uint64_t size)
{
    RamBlock *block;
    g_autofree char *path = object_path(&dev->object);
    g_autofree char *block_name = g_strconcat(path, "/", name, NULL);
    TRY(ram_block_new(dev->machine->mem, block_name, size, NULL, &block));
    own(dev, block, release_block);
    mem_region_init_ram(region, name, block, 0, size);
    device_region_own(dev, region);
    return NULL;
}

static void release_bank(Owned *owned)
{
    reg_bank_fini(owned->ptr);
}

void device_regs(Device *dev, RegBank *bank, MemRegion *region, const char *name, const Reg *regs,
                 uint32_t size)
{
    reg_bank_init(bank, regs, dev, name, size);
    own(dev, bank, release_bank);
    mem_region_init_io(region, dev->machine->mem, name, size, &reg_bank_ops, bank);
    device_region_own(dev, region);
}

static void release_call(Owned *owned)
{
    owned->fn(owned->ptr);
}

void device_on_unplug(Device *dev, void (*fn)(void *opaque), void *opaque)
{
    own(dev, opaque, release_call)->fn = fn;
}
