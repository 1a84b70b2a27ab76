/*
 * Loads and stores that the first-level TLB does not serve: page crossings, devices, pages with translated
 * code, watched pages, accesses of the processor itself, and locked operations.
 */
#include "core/vm/debug.h"
#include "cpu/x86/mmu_priv.h"
#include "cpu/x86/sys.h"

#define OFFSET(va) ((unsigned)((va) & (MEM_PAGE_SIZE - 1)))

uint64_t x86_phys_load(X86Cpu *cpu, uint64_t pa, unsigned size)
{
    uint64_t value = 0;
    pa = x86_a20(cpu, pa);
    const PhysPage *page = mmu_phys_page(cpu, pa);
    if (page->host && OFFSET(pa) + size <= MEM_PAGE_SIZE) {
        return ld_le(page->host + OFFSET(pa), size);
    }
    mem_load(cpu->as, pa, size, &value);
    return value;
}

/* RAM that somebody watches: dirty bits first, then the bytes, then the translator hears of it. */
static void ram_store(X86Cpu *cpu, const PhysPage *page, unsigned offset, const void *bytes, unsigned length)
{
    RamBlock *block = page->block;
    uint64_t at = page->block_offset + offset;
    mmu_set_dirty(page);
    if (length == 8 && IS_ALIGNED(offset, 8)) { /* aligned stores are seen whole by other CPUs */
        uint64_t value;
        memcpy(&value, bytes, 8);
        atomic_store_explicit((_Atomic uint64_t *)(void *)(page->host + offset), value, memory_order_release);
    } else if (length == 4 && IS_ALIGNED(offset, 4)) {
        uint32_t value;
        memcpy(&value, bytes, 4);
        atomic_store_explicit((_Atomic uint32_t *)(void *)(page->host + offset), value, memory_order_release);
    } else {
        memcpy(page->host + offset, bytes, length);
    }
    if (atomic_load(&block->flags[at >> MEM_PAGE_BITS]) & RAM_CODE) {
        const X86CodeHooks *hooks = &x86_mmu(cpu)->hooks;
        if (hooks->written) {
            hooks->written(cpu, block, at, length);
        } else {
            ram_written(block, at, length);
        }
    }
}

void x86_phys_store(X86Cpu *cpu, uint64_t pa, uint64_t value, unsigned size)
{
    pa = x86_a20(cpu, pa);
    PhysPage page = *mmu_phys_page(cpu, pa);
    if (page.host && !page.readonly && OFFSET(pa) + size <= MEM_PAGE_SIZE) {
        uint8_t bytes[8];
        st_le(bytes, value, size);
        ram_store(cpu, &page, OFFSET(pa), bytes, size);
    } else {
        mem_store(cpu->as, pa, size, value);
    }
}

/* Pieces of a device access that crosses a page, or of an odd length: the largest aligned powers of two. */
static unsigned piece(uint64_t pa, unsigned length)
{
    unsigned size = 8;
    while (size > length || !IS_ALIGNED(pa, size)) {
        size >>= 1;
    }
    return size;
}

static void phys_read(X86Cpu *cpu, uint64_t pa, uint8_t *buf, unsigned length)
{
    if (IS_POW2(length) && length <= 8) {
        uint64_t value = ~0ull;
        mem_load(cpu->as, pa, length, &value);
        st_le(buf, value, length);
        return;
    }
    while (length) {
        unsigned size = piece(pa, length);
        uint64_t value = ~0ull;
        mem_load(cpu->as, pa, size, &value);
        st_le(buf, value, size);
        buf += size, pa += size, length -= size;
    }
}

static void phys_write(X86Cpu *cpu, uint64_t pa, const PhysPage *page, const uint8_t *buf, unsigned length)
{
    if (page->host && !page->readonly) {
        ram_store(cpu, page, OFFSET(pa), buf, length);
        return;
    }
    if (IS_POW2(length) && length <= 8) {
        mem_store(cpu->as, pa, length, ld_le(buf, length));
        return;
    }
    while (length) {
        unsigned size = piece(pa, length);
        mem_store(cpu->as, pa, size, ld_le(buf, size));
        buf += size, pa += size, length -= size;
    }
}

/* Data breakpoints: noted now, reported as a trap after the instruction. */
static void watch(X86Cpu *cpu, uint64_t va, unsigned length, unsigned rw)
{
    if (unlikely(x86_mmu(cpu)->watch)) {
        uint64_t bits = x86_debug_match(cpu, va, length, rw);
        if (bits) {
            cpu->debug_pending |= bits;
            atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_DEBUG);
        }
        const DebugPoint *point =
            cpu->debug ? debug_point_find(cpu->debug, va, length, rw == X86_READ ? DEBUG_READ : DEBUG_WRITE) : NULL;
        if (point) {
            debug_hit((DebugPoints *)cpu->debug, cpu->vcpu, point);
        }
    }
}

static uint64_t next_page(const X86Cpu *cpu, uint64_t va, unsigned as_who)
{
    uint64_t next = (va & ~(MEM_PAGE_SIZE - 1)) + MEM_PAGE_SIZE;
    uint32_t mode = x86_hot((X86Cpu *)cpu)->mode;
    bool wide = as_who == X86_AS_CPL ? mode & X86_MODE_CS64 : mode & X86_MODE_LMA;
    return wide ? next : (uint32_t)next;
}

/* One part of an access: its host address, or where it is physically. */
typedef struct Part {
    uint8_t *host;
    uint64_t pa;
    PhysPage page;
    unsigned length;
} Part;

static void part_resolve(X86Cpu *cpu, Part *part, uint64_t va, unsigned length, X86Access access,
                         unsigned as_who)
{
    part->length = length;
    part->host = x86_mmu_fill(cpu, va, access, as_who, &part->pa);
    if (!part->host) {
        part->page = x86_mmu(cpu)->last;
    }
}

static void part_read(X86Cpu *cpu, const Part *part, uint8_t *buf)
{
    if (part->host) {
        memcpy(buf, part->host, part->length);
    } else {
        phys_read(cpu, part->pa, buf, part->length);
    }
}

static void part_write(X86Cpu *cpu, const Part *part, const uint8_t *buf)
{
    if (part->host) {
        memcpy(part->host, buf, part->length);
    } else {
        phys_write(cpu, part->pa, &part->page, buf, part->length);
    }
}

static unsigned resolve(X86Cpu *cpu, Part part[2], uint64_t va, unsigned length, X86Access access,
                        unsigned as_who)
{
    unsigned first = MIN(length, (unsigned)MEM_PAGE_SIZE - OFFSET(va));
    part_resolve(cpu, &part[0], va, first, access, as_who);
    if (first == length) {
        return 1;
    }
    part_resolve(cpu, &part[1], next_page(cpu, va, as_who), length - first, access, as_who);
    return 2;
}

void x86_load_bytes(X86Cpu *cpu, uint64_t va, void *buf, unsigned length, unsigned as_who)
{
    Part part[2];
    if (length == 0) {
        return;
    }
    unsigned count = resolve(cpu, part, va, length, X86_READ, as_who);
    part_read(cpu, &part[0], buf);
    if (count == 2) {
        part_read(cpu, &part[1], (uint8_t *)buf + part[0].length);
    }
    watch(cpu, va, length, X86_READ);
}

void x86_store_bytes(X86Cpu *cpu, uint64_t va, const void *buf, unsigned length, unsigned as_who)
{
    Part part[2];
    if (length == 0) {
        return;
    }
    unsigned count = resolve(cpu, part, va, length, X86_WRITE, as_who);
    watch(cpu, va, length, X86_WRITE);
    if (count == 2) {
        part_write(cpu, &part[1], (const uint8_t *)buf + part[0].length);
    }
    part_write(cpu, &part[0], buf);
}

uint64_t x86_load_slow(X86Cpu *cpu, uint64_t va, unsigned size, unsigned as_who)
{
    if (likely(OFFSET(va) + size <= MEM_PAGE_SIZE)) {
        uint64_t pa;
        uint8_t *host = x86_mmu_fill(cpu, va, X86_READ, as_who, &pa);
        watch(cpu, va, size, X86_READ);
        if (likely(host != NULL)) {
            return ld_le(host, size);
        }
        uint64_t value = size_mask(size);
        mem_load(cpu->as, pa, size, &value);
        return value;
    }
    uint8_t bytes[8];
    x86_load_bytes(cpu, va, bytes, size, as_who);
    return ld_le(bytes, size);
}

void x86_store_slow(X86Cpu *cpu, uint64_t va, uint64_t value, unsigned size, unsigned as_who)
{
    uint8_t bytes[8];
    if (likely(OFFSET(va) + size <= MEM_PAGE_SIZE)) {
        uint64_t pa;
        uint8_t *host = x86_mmu_fill(cpu, va, X86_WRITE, as_who, &pa);
        watch(cpu, va, size, X86_WRITE);
        if (likely(host != NULL)) {
            st_le(host, value, size);
            return;
        }
        PhysPage page = x86_mmu(cpu)->last;
        st_le(bytes, value, size);
        phys_write(cpu, pa, &page, bytes, size);
        return;
    }
    st_le(bytes, value, size);
    x86_store_bytes(cpu, va, bytes, size, as_who);
}

uint64_t x86_load_sys(X86Cpu *cpu, uint64_t va, unsigned size)
{
    X86Tlbe *e = &x86_context_tlb(cpu, X86_CTX_KERNEL)[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
    uint64_t offset = va - e->rtag;
    if (likely(offset <= MEM_PAGE_SIZE - size)) {
        return ld_le((void *)(uintptr_t)(e->host + offset), size);
    }
    return x86_load_slow(cpu, va, size, X86_AS_SUPERVISOR);
}

void x86_store_sys(X86Cpu *cpu, uint64_t va, uint64_t value, unsigned size)
{
    X86Tlbe *e = &x86_context_tlb(cpu, X86_CTX_KERNEL)[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
    uint64_t offset = va - e->wtag;
    if (likely(offset <= MEM_PAGE_SIZE - size)) {
        st_le((void *)(uintptr_t)(e->host + offset), value, size);
        return;
    }
    x86_store_slow(cpu, va, value, size, X86_AS_SUPERVISOR);
}

void x86_check(X86Cpu *cpu, uint64_t va, unsigned length, X86Access access, unsigned as_who)
{
    uint64_t pa;
    while (length) {
        unsigned part = MIN(length, (unsigned)MEM_PAGE_SIZE - OFFSET(va));
        x86_mmu_fill(cpu, va, access, as_who, &pa);
        length -= part;
        if (length) {
            va = next_page(cpu, va, as_who);
        }
    }
}

void *x86_atomic_ptr(X86Cpu *cpu, uint64_t va, unsigned size)
{
    void *host = x86_tlb_hit(cpu, va, size, true);
    if (likely(host != NULL)) {
        return host;
    }
    uint64_t pa;
    if (OFFSET(va) + size > MEM_PAGE_SIZE) {
        x86_check(cpu, va, size, X86_RMW, X86_AS_CPL);
        return NULL;
    }
    host = x86_mmu_fill(cpu, va, X86_RMW, X86_AS_CPL, &pa);
    if (host) {
        watch(cpu, va, size, X86_WRITE);
    }
    return host;
}

void x86_split_lock(X86Cpu *cpu)
{
    if (cpu->split) {
        pthread_mutex_lock(&((SplitLock *)cpu->split)->mutex);
    }
}

void x86_split_unlock(X86Cpu *cpu)
{
    if (cpu->split) {
        pthread_mutex_unlock(&((SplitLock *)cpu->split)->mutex);
    }
}
