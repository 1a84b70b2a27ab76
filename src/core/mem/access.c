/* Reads, writes and lookups through an address space. */
#include <stdatomic.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/rcu.h"
#include "core/mem/mem_priv.h"

void mem_lookup(AddressSpace *as, uint64_t addr, MemHit *ret_hit)
{
    const FlatMap *map = atomic_load_explicit(&as->map, memory_order_acquire);
    const FlatRange *range = flat_map_find(map, addr);

    if (!range) {
        *ret_hit = (MemHit) { .length = MEM_PAGE_SIZE - (addr & (MEM_PAGE_SIZE - 1)) };
        /* A hole ends where the next range begins. */
        for (unsigned i = 0; i < map->count; i++) {
            if (map->ranges[i].start > addr) {
                ret_hit->length = MIN(ret_hit->length, map->ranges[i].start - addr);
                break;
            }
        }
        return;
    }
    MemRegion *region = range->region;
    uint64_t offset = range->offset + (addr - range->start);
    *ret_hit = (MemHit) { .region = region, .offset = offset, .length = range->last - addr + 1 };
    if (ret_hit->length == 0) {
        ret_hit->length = UINT64_MAX; /* the whole 2^64 */
    }
    if (region->ram) {
        ret_hit->block = region->ram;
        ret_hit->block_offset = region->ram_offset + offset;
        ret_hit->host = region->ram->host + ret_hit->block_offset;
        ret_hit->readonly = region->kind == MEM_ROM;
    }
}

/* The hit for an access; regions outlive it (devices leave only while vCPUs stand still). */
static void lookup(AddressSpace *as, uint64_t addr, MemHit *ret_hit)
{
    rcu_read_enter();
    mem_lookup(as, addr, ret_hit);
    rcu_read_leave();
}

void mem_walk(AddressSpace *as, void (*fn)(void *opaque, uint64_t start, const MemHit *hit), void *opaque)
{
    rcu_read_enter();
    const FlatMap *map = atomic_load_explicit(&as->map, memory_order_acquire);
    for (unsigned i = 0; i < map->count; i++) {
        MemHit hit;
        mem_lookup(as, map->ranges[i].start, &hit);
        fn(opaque, map->ranges[i].start, &hit);
    }
    rcu_read_leave();
}

/* --- I/O callbacks --- */

static bool enter_domain(MemRegion *region)
{
    if (!region->lock || lock_held(region->lock)) {
        return false;
    }
    lock_acquire(region->lock);
    return true;
}

static void leave_domain(MemRegion *region, bool entered)
{
    if (entered) {
        lock_release(region->lock);
    }
}

static uint64_t swap_for(const MemOps *ops, uint64_t value, unsigned size)
{
    return ops->big_endian ? __builtin_bswap64(value) >> (64 - 8 * size) : value;
}

/* The largest access that the callbacks take and that is aligned at offset, at most `left` bytes. */
static unsigned piece_size(const MemOps *ops, uint64_t offset, unsigned left)
{
    unsigned max = ops->max ? ops->max : 4, size = MIN(left, max);
    size = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
    if (!ops->unaligned) {
        while (offset & (size - 1)) {
            size >>= 1;
        }
    }
    return size;
}

static uint64_t read_piece(MemRegion *region, uint64_t offset, unsigned size)
{
    const MemOps *ops = region->ops;
    unsigned min = ops->min ? ops->min : 1;

    if (size >= min) {
        return swap_for(ops, ops->read(region->opaque, offset, size), size) & size_mask(size);
    }
    uint64_t start = ALIGN_DOWN(offset, (uint64_t)min);
    uint64_t whole = swap_for(ops, ops->read(region->opaque, start, min), min);
    return whole >> (8 * (offset - start)) & size_mask(size);
}

static void write_piece(MemRegion *region, uint64_t offset, uint64_t value, unsigned size)
{
    const MemOps *ops = region->ops;
    unsigned min = ops->min ? ops->min : 1;

    value &= size_mask(size);
    if (size >= min) {
        ops->write(region->opaque, offset, swap_for(ops, value, size), size);
        return;
    }
    uint64_t start = ALIGN_DOWN(offset, (uint64_t)min);
    ops->write(region->opaque, start, swap_for(ops, value << (8 * (offset - start)), min), min);
}

static void tell_trace(MemRegion *region, uint64_t offset, unsigned size, uint64_t value, bool write)
{
    MemTraceFn *fn = region->mem ? atomic_load_explicit(&region->mem->trace_fn, memory_order_acquire) : NULL;
    if (unlikely(fn != NULL)) {
        fn(region->mem->trace_opaque, region, offset, size, value, write);
    }
}

void mem_set_trace(MemSystem *mem, MemTraceFn *fn, void *opaque)
{
    mem->trace_opaque = opaque;
    atomic_store_explicit(&mem->trace_fn, fn, memory_order_release);
}

MemResult mem_region_load(MemRegion *region, uint64_t offset, unsigned size, uint64_t *ret_value)
{
    if (region->ram) {
        *ret_value = range_inside(offset, size, region->size)
                         ? ld_le(region->ram->host + region->ram_offset + offset, size)
                         : size_mask(size);
        return MEM_OK;
    }
    if (!region->ops || !region->ops->read) {
        *ret_value = size_mask(size);
        return MEM_UNASSIGNED;
    }
    bool entered = enter_domain(region);
    uint64_t value = 0;
    for (unsigned done = 0; done < size;) {
        unsigned piece = piece_size(region->ops, offset + done, size - done);
        value |= read_piece(region, offset + done, piece) << (8 * done);
        done += piece;
    }
    leave_domain(region, entered);
    tell_trace(region, offset, size, value, false);
    *ret_value = value;
    return MEM_OK;
}

MemResult mem_region_store(MemRegion *region, uint64_t offset, unsigned size, uint64_t value)
{
    if (region->kind == MEM_RAM) {
        if (range_inside(offset, size, region->size)) {
            st_le(region->ram->host + region->ram_offset + offset, value, size);
            ram_written(region->ram, region->ram_offset + offset, size);
        }
        return MEM_OK;
    }
    if (!region->ops || !region->ops->write) {
        return MEM_UNASSIGNED;
    }
    tell_trace(region, offset, size, value & size_mask(size), true);
    bool entered = enter_domain(region);
    for (unsigned done = 0; done < size;) {
        unsigned piece = piece_size(region->ops, offset + done, size - done);
        write_piece(region, offset + done, value >> (8 * done), piece);
        done += piece;
    }
    leave_domain(region, entered);
    return MEM_OK;
}

/* --- single accesses --- */

static bool refused(AddressSpace *as, const MemHit *hit)
{
    if (as->owner && hit->region && !hit->region->ram && hit->region->owner == as->owner) {
        guest_error("%s: DMA into the device's own registers refused", as->name);
        return true;
    }
    return false;
}

MemResult mem_load(AddressSpace *as, uint64_t addr, unsigned size, uint64_t *ret_value)
{
    MemHit hit;
    lookup(as, addr, &hit);
    if (hit.length < size) {
        uint8_t buf[8];
        MemResult result = mem_read(as, addr, buf, size);
        *ret_value = ld_le(buf, size);
        return result;
    }
    if (hit.host) {
        *ret_value = ld_le(hit.host, size);
        return MEM_OK;
    }
    if (!hit.region || refused(as, &hit)) {
        *ret_value = size_mask(size);
        return hit.region ? MEM_ERROR : MEM_UNASSIGNED;
    }
    return mem_region_load(hit.region, hit.offset, size, ret_value);
}

MemResult mem_store(AddressSpace *as, uint64_t addr, unsigned size, uint64_t value)
{
    MemHit hit;
    lookup(as, addr, &hit);
    if (hit.length < size) {
        uint8_t buf[8];
        st_le(buf, value, size);
        return mem_write(as, addr, buf, size);
    }
    if (!hit.region || refused(as, &hit)) {
        return hit.region ? MEM_ERROR : MEM_UNASSIGNED;
    }
    return mem_region_store(hit.region, hit.offset, size, value);
}

/* --- any length --- */

/* Size of the next I/O access of a long transfer. */
static unsigned io_step(uint64_t addr, uint64_t left)
{
    unsigned size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    while (addr & (size - 1)) {
        size >>= 1;
    }
    return size;
}

MemResult mem_read(AddressSpace *as, uint64_t addr, void *buf, uint64_t length)
{
    uint8_t *out = buf;
    MemResult worst = MEM_OK;

    while (length) {
        MemHit hit;
        lookup(as, addr, &hit);
        uint64_t step = MIN(length, hit.length);
        if (hit.host) {
            memcpy(out, hit.host, step);
        } else if (!hit.region || refused(as, &hit)) {
            memset(out, 0xff, step);
            worst = hit.region ? MEM_ERROR : MEM_UNASSIGNED;
        } else {
            step = io_step(addr, step);
            uint64_t value;
            MemResult result = mem_region_load(hit.region, hit.offset, (unsigned)step, &value);
            worst = result ? result : worst;
            st_le(out, value, (unsigned)step);
        }
        out += step;
        addr += step;
        length -= step;
    }
    return worst;
}

static MemResult write_range(AddressSpace *as, uint64_t addr, const void *buf, uint64_t length, bool into_rom)
{
    const uint8_t *in = buf;
    MemResult worst = MEM_OK;

    while (length) {
        MemHit hit;
        lookup(as, addr, &hit);
        uint64_t step = MIN(length, hit.length);
        if (hit.host && (!hit.readonly || into_rom)) {
            memcpy(hit.host, in, step);
            ram_written(hit.block, hit.block_offset, step);
        } else if (!hit.region || refused(as, &hit)) {
            worst = hit.region ? MEM_ERROR : MEM_UNASSIGNED;
        } else {
            step = io_step(addr, step);
            MemResult result = mem_region_store(hit.region, hit.offset, (unsigned)step, ld_le(in, (unsigned)step));
            worst = result ? result : worst;
        }
        in += step;
        addr += step;
        length -= step;
    }
    return worst;
}

MemResult mem_write(AddressSpace *as, uint64_t addr, const void *buf, uint64_t length)
{
    return write_range(as, addr, buf, length, false);
}

void mem_write_rom(AddressSpace *as, uint64_t addr, const void *buf, uint64_t length)
{
    write_range(as, addr, buf, length, true);
}

/* --- direct access --- */

void *mem_map(AddressSpace *as, uint64_t addr, uint64_t *length, bool write)
{
    MemHit hit;
    lookup(as, addr, &hit);
    if (!hit.host || (write && hit.readonly)) {
        return NULL;
    }
    *length = MIN(*length, hit.length);
    return hit.host;
}

void mem_unmap(AddressSpace *as, void *host, uint64_t length, uint64_t written)
{
    if (written) {
        uint64_t offset;
        RamBlock *block = ram_block_of(as->mem, host, &offset);
        ram_written(block, offset, MIN(written, length));
    }
}
