/*
 * The soft TLB: filling, flushing, and the caches behind it. Walks are in mmu_walk.c, loads and stores in
 * mmu_access.c. See mmu_priv.h for how entries become invalid, DBT.md section 7 for the entry's contract.
 *
 * A write tag is granted only when nobody needs to hear of the write: the leaf PTE is dirty, the page is
 * RAM, holds no translated code, and all tracked dirty bits are set. Other threads take permission back
 * by clearing the bits first and then running x86_tlb_clean_range() on this CPU's thread.
 */
#include "cpu/x86/mmu.h"

#include "base/rcu.h"
#include "core/vm/debug.h"
#include "cpu/x86/mmu_priv.h"
#include "cpu/x86/sys.h"

#define PAGE_MASK (~(MEM_PAGE_SIZE - 1))

/* --- physical pages --- */

const PhysPage *mmu_phys_page(X86Cpu *cpu, uint64_t pa)
{
    uint64_t page = pa & PAGE_MASK, tag = page | x86_mmu(cpu)->phys_tag;
    PhysPage *slot = &x86_mmu(cpu)->phys[(pa >> MEM_PAGE_BITS) & (PHYS_SLOTS - 1)];
    if (likely(slot->page == tag)) {
        return slot;
    }
    MemHit hit;
    rcu_read_enter();
    mem_lookup(cpu->as, page, &hit);
    *slot = (PhysPage) { .page = tag };
    if (hit.host && hit.length >= MEM_PAGE_SIZE && IS_ALIGNED(hit.block_offset, MEM_PAGE_SIZE)) {
        slot->host = hit.host;
        slot->block = hit.block;
        slot->block_offset = hit.block_offset;
        slot->readonly = hit.readonly;
    }
    rcu_read_leave();
    return slot;
}

void mmu_phys_forget(X86Mmu *mmu)
{
    if (++mmu->phys_tag == PHYS_TAGS) {
        mmu->phys_tag = 0;
        for (unsigned n = 0; n < PHYS_SLOTS; n++) {
            mmu->phys[n].page = PHYS_NONE;
        }
    }
}

/* --- first-level TLB --- */

/* Keeps an entry that is about to be replaced. */
static void victim_add(X86Mmu *mmu, unsigned context, const X86Tlbe *e, unsigned index)
{
    if (e->rtag != X86_TLB_INVALID(index) || e->wtag != X86_TLB_INVALID(index)) {
        mmu->victim[mmu->next_victim++ & (VICTIMS - 1)] = (Victim) { *e, context };
    }
}

/* Swaps the page's entry back in. */
static bool victim_take(X86Cpu *cpu, uint64_t va_page, unsigned index, bool write)
{
    X86Mmu *mmu = x86_mmu(cpu);
    for (Victim *v = mmu->victim; v < mmu->victim + VICTIMS; v++) {
        if ((write ? v->entry.wtag : v->entry.rtag) == va_page && v->context == cpu->context) {
            X86Tlbe *e = &cpu->tlb[index], old = *e;
            *e = v->entry;
            v->entry = old; /* if it was invalid, no page matches it */
            return true;
        }
    }
    return false;
}

/* A large page's pieces may be cached: remember its 2 MiB (or 1 GiB) range. */
static void large_note(X86Mmu *mmu, uint64_t va, const Walk *walk, bool pse4m)
{
    TlbSpace *space = mmu->space;
    space->any_large = true;
    if (walk->flags & WALK_HUGE) {
        unsigned bit = mmu_huge_bit(va >> 30);
        space->huge_seen[bit >> 6] |= BIT64(bit & 63);
        return;
    }
    unsigned bit = mmu_large_bit(va >> 21);
    space->large_seen[bit >> 6] |= BIT64(bit & 63);
    if (pse4m) {
        bit = mmu_large_bit((va >> 21) ^ 1);
        space->large_seen[bit >> 6] |= BIT64(bit & 63);
    }
}

/* --- second level --- */

static L2Entry *l2_set(X86Mmu *mmu, uint64_t va)
{
    uint64_t vpn = va >> MEM_PAGE_BITS;
    return mmu->l2[(vpn ^ vpn >> 11) & (L2_SETS - 1)];
}

static bool l2_valid(const X86Mmu *mmu, const L2Entry *e)
{
    return e->gen == mmu->space->gen || e->gen == mmu->space->global_gen;
}

static const L2Entry *l2_find(X86Mmu *mmu, uint64_t va)
{
    const L2Entry *e = l2_set(mmu, va);
    for (unsigned way = 0; way < L2_WAYS; way++, e++) {
        if (e->va == va && l2_valid(mmu, e)) {
            return e;
        }
    }
    return NULL;
}

/*
 * Where a page goes: its own place, or, in turn, one that the current space has no use for. Most such places
 * are stale, but some belong to other spaces, so that taking always the first would lose those every time.
 */
static L2Entry *l2_place(X86Mmu *mmu, L2Entry *set, uint64_t va)
{
    for (unsigned way = 0; way < L2_WAYS; way++) {
        if (set[way].va == va && l2_valid(mmu, &set[way])) {
            return &set[way];
        }
    }
    unsigned next = mmu->l2_next[(set - mmu->l2[0]) / L2_WAYS]++;
    for (unsigned n = 0; n < L2_WAYS; n++) {
        L2Entry *e = &set[(next + n) & (L2_WAYS - 1)];
        if (!l2_valid(mmu, e)) {
            return e;
        }
    }
    return &set[next & (L2_WAYS - 1)];
}

static void l2_insert(X86Mmu *mmu, uint64_t va, const Walk *walk)
{
    L2Entry *e = l2_place(mmu, l2_set(mmu, va), va);
    *e = (L2Entry) {
        .va = va,
        .pa = walk->pa,
        .gen = walk->flags & WALK_G ? mmu->space->global_gen : mmu->space->gen,
        .flags = (uint16_t)walk->flags,
        .pkey = walk->pkey,
    };
}

void mmu_l2_remove(X86Mmu *mmu, uint64_t va)
{
    L2Entry *set = l2_set(mmu, va);
    for (unsigned way = 0; way < L2_WAYS; way++) {
        if (set[way].va == va && l2_valid(mmu, &set[way])) {
            set[way].gen = 0;
        }
    }
}

/* --- translation --- */

static Privilege privilege_of(const X86Cpu *cpu, unsigned as_who)
{
    if (as_who == X86_AS_SUPERVISOR) {
        return PRIV_KERNEL;
    }
    if (as_who == X86_AS_USER || cpu->cpl == 3) {
        return PRIV_USER;
    }
    return cpu->context == X86_CTX_KERNEL_AC ? PRIV_KERNEL_AC : PRIV_KERNEL;
}

/* Second level, then walk. Returns 0 or the page fault's error code. */
static uint32_t translate(X86Cpu *cpu, uint64_t va, X86Access access, Privilege privilege, Walk *ret_walk)
{
    X86Mmu *mmu = x86_mmu(cpu);
    uint64_t page = va & PAGE_MASK;
    const L2Entry *e = l2_find(mmu, page);
    if (e) {
        Walk walk = { e->pa, e->flags, e->pkey };
        bool write = access == X86_WRITE || access == X86_RMW;
        if (!mmu_check_rights(cpu, &walk, access, privilege) && (!write || (walk.flags & WALK_D))) {
            *ret_walk = walk;
            return 0;
        }
    }
    uint32_t error = mmu_walk(cpu, va, access, privilege, true, ret_walk);
    if (!error) {
        if (ret_walk->flags & WALK_LARGE) {
            large_note(mmu, va, ret_walk, !(cpu->cr4 & CR4_PAE));
        }
        l2_insert(mmu, page, ret_walk);
    } else if (e) {
        mmu_l2_remove(mmu, page);
    }
    return error;
}

static bool page_watched(const X86Cpu *cpu, uint64_t page)
{
    if (cpu->debug && debug_point_find(cpu->debug, page, MEM_PAGE_SIZE, DEBUG_READ)) {
        return true;
    }
    if (cpu->debug && debug_point_find(cpu->debug, page, MEM_PAGE_SIZE, DEBUG_WRITE)) {
        return true;
    }
    for (unsigned n = 0; n < 4; n++) {
        uint64_t dr7 = cpu->dr[7];
        unsigned rw = dr7 >> (16 + 4 * n) & 3;
        if ((dr7 >> (2 * n) & 3) && (rw & 1)) {
            unsigned length = (unsigned[]) { 1, 2, 8, 4 }[dr7 >> (18 + 4 * n) & 3];
            uint64_t start = cpu->dr[n] & ~(uint64_t)(length - 1);
            if ((start & PAGE_MASK) == page) {
                return true;
            }
        }
    }
    return false;
}

/* Whether writes to the page may go unnoticed; sets its dirty bits when it is being written. */
static bool grant_write(const PhysPage *page, bool writing)
{
    if (page->readonly) {
        return false;
    }
    RamBlock *block = page->block;
    uint64_t n = page->block_offset >> MEM_PAGE_BITS;
    uint8_t track = block->track;
    if (writing) {
        mmu_set_dirty(page);
    }
    uint8_t flags = atomic_load(&block->flags[n]);
    return !(flags & RAM_CODE) && (flags & track) == track;
}

/* Puts a translation into the first-level TLB. Returns whether the access may use page->host directly. */
static bool tlb_insert(X86Cpu *cpu, unsigned context, uint64_t va, const Walk *walk, const PhysPage *page,
                       bool write, Privilege privilege)
{
    X86Mmu *mmu = x86_mmu(cpu);
    uint64_t va_page = va & PAGE_MASK;
    unsigned index = (va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1);
    X86Tlbe *e = &x86_context_tlb(cpu, context)[index];
    bool direct_write = false;
    if (write || ((walk->flags & WALK_D) && !mmu_check_rights(cpu, walk, X86_WRITE, privilege))) {
        direct_write = grant_write(page, write);
    }
    bool watched = unlikely(mmu->watch) && page_watched(cpu, va_page);
    bool readable = !write || !mmu_check_rights(cpu, walk, X86_READ, privilege);
    if (e->rtag != va_page && e->wtag != va_page) {
        victim_add(mmu, context, e, index);
    } else if (e->host != (uint64_t)(uintptr_t)page->host) {
        mmu_sites_drop(cpu, context, va_page, MEM_PAGE_SIZE, false);
    }
    e->rtag = !watched && readable ? va_page : X86_TLB_INVALID(index);
    e->wtag = !watched && direct_write ? va_page : X86_TLB_INVALID(index);
    e->host = (uint64_t)(uintptr_t)page->host;
    e->meta = x86_a20(cpu, walk->pa) | (walk->flags & WALK_G ? X86_TLB_GLOBAL : 0) |
              (walk->flags & WALK_LARGE ? X86_TLB_LARGE : 0) | (walk->flags & WALK_NX ? X86_TLB_NX : 0);
    unsigned group = index >> GROUP_BITS;
    mmu->used[context].bits[group >> 6] |= BIT64(group & 63);
    if (!(walk->flags & WALK_G)) {
        mmu->used_local[context].bits[group >> 6] |= BIT64(group & 63);
    }
    return write ? direct_write : true;
}

static unsigned context_of(const X86Cpu *cpu, Privilege privilege)
{
    return privilege == PRIV_USER ? X86_CTX_USER : (unsigned)privilege;
}

/*
 * The work of x86_mmu_fill() without raising: 0 or the error code. *ret_host is NULL where the page has to
 * be reached otherwise; mmu->last then says what it is.
 */
static uint32_t fill(X86Cpu *cpu, uint64_t va, X86Access access, Privilege privilege, void **ret_host,
                     uint64_t *ret_pa)
{
    Walk walk;
    uint32_t error = translate(cpu, va, access, privilege, &walk);
    if (error) { /* a fault takes back what was cached for its page */
        mmu_sites_drop(cpu, context_of(cpu, privilege), va & PAGE_MASK, MEM_PAGE_SIZE, false);
        return error;
    }
    uint64_t pa = x86_a20(cpu, walk.pa), offset = va & (MEM_PAGE_SIZE - 1);
    const PhysPage *page = mmu_phys_page(cpu, pa);
    bool write = access == X86_WRITE || access == X86_RMW, direct = false;
    *ret_pa = pa + offset;
    if (page->host && access != X86_EXEC) {
        direct = tlb_insert(cpu, context_of(cpu, privilege), va, &walk, page, write, privilege);
    } else if (page->host) {
        direct = true;
    }
    *ret_host = direct ? page->host + offset : NULL;
    if (!direct) {
        x86_mmu(cpu)->last = *page;
    }
    return 0;
}

void *x86_mmu_fill(X86Cpu *cpu, uint64_t va, X86Access access, unsigned as_who, uint64_t *ret_pa)
{
    Privilege privilege = privilege_of(cpu, as_who);
    bool write = access == X86_WRITE || access == X86_RMW;
    if (access != X86_EXEC) {
        X86Tlbe *e = &x86_context_tlb(cpu, context_of(cpu, privilege))[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
        if ((write ? e->wtag : e->rtag) == (va & PAGE_MASK)) {
            uint64_t offset = va & (MEM_PAGE_SIZE - 1);
            *ret_pa = (e->meta & PAGE_MASK) + offset;
            return (void *)(uintptr_t)(e->host + offset);
        }
    }
    void *host;
    uint32_t error = fill(cpu, va, access, privilege, &host, ret_pa);
    if (error) {
        x86_raise_page_fault(cpu, va, error & ~WALK_FAULT);
    }
    return host;
}

bool x86_tlb_refill(X86Cpu *cpu, uint64_t va, bool write)
{
    uint64_t va_page = va & PAGE_MASK;
    unsigned index = (va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1);
    if (victim_take(cpu, va_page, index, write)) {
        return true;
    }
    void *host;
    uint64_t pa;
    if (fill(cpu, va, write ? X86_WRITE : X86_READ, privilege_of(cpu, X86_AS_CPL), &host, &pa) != 0) {
        return false;
    }
    return (write ? cpu->tlb[index].wtag : cpu->tlb[index].rtag) == va_page;
}

bool x86_mmu_probe(X86Cpu *cpu, uint64_t va, uint64_t *ret_pa, uint64_t *ret_flags)
{
    Walk walk;
    if (mmu_walk(cpu, va, X86_READ, PRIV_KERNEL_AC, false, &walk)) {
        return false;
    }
    *ret_pa = x86_a20(cpu, walk.pa) + (va & (MEM_PAGE_SIZE - 1));
    if (ret_flags) {
        *ret_flags = walk.flags;
    }
    return true;
}

/* --- instruction fetch --- */

static bool fetch_valid(const X86Mmu *mmu, const FetchEntry *e, uint64_t va_page)
{
    return e->va == va_page && e->epoch == mmu->fetch_epoch && (e->gen == mmu->space->gen || e->gen == mmu->space->global_gen);
}

/* NULL: page fault, code in *ret_error. */
static const FetchEntry *fetch_entry(X86Cpu *cpu, uint64_t va, uint32_t *ret_error)
{
    X86Mmu *mmu = x86_mmu(cpu);
    bool user = cpu->cpl == 3;
    uint64_t va_page = va & PAGE_MASK;
    FetchEntry *e = &mmu->fetch[user][(va >> MEM_PAGE_BITS) & (FETCH_SLOTS - 1)];
    if (likely(fetch_valid(mmu, e, va_page))) {
        return e;
    }
    Walk walk;
    uint32_t error = translate(cpu, va, X86_EXEC, user ? PRIV_USER : PRIV_KERNEL, &walk);
    if (error) {
        *ret_error = error & ~WALK_FAULT;
        return NULL;
    }
    uint64_t pa = x86_a20(cpu, walk.pa);
    *e = (FetchEntry) {
        .va = va_page,
        .gen = walk.flags & WALK_G ? mmu->space->global_gen : mmu->space->gen,
        .epoch = mmu->fetch_epoch,
        .pa = pa,
        .page = *mmu_phys_page(cpu, pa),
    };
    return e;
}

unsigned x86_fetch(X86Cpu *cpu, uint64_t va, uint8_t buf[15], uint64_t *ret_pa)
{
    uint32_t error;
    const FetchEntry *e = fetch_entry(cpu, va, &error);
    if (!e) {
        x86_raise_page_fault(cpu, va, error);
    }
    unsigned offset = va & (MEM_PAGE_SIZE - 1), count = MIN(15u, (unsigned)MEM_PAGE_SIZE - offset);
    *ret_pa = e->pa + offset;
    if (likely(e->page.host != NULL)) {
        memcpy(buf, e->page.host + offset, count);
    } else {
        mem_read(cpu->as, e->pa + offset, buf, count);
    }
    if (likely(count == 15)) {
        return 15;
    }
    uint64_t next = va + count;
    if (!(x86_hot(cpu)->mode & X86_MODE_CS64)) {
        next = (uint32_t)next;
    }
    e = fetch_entry(cpu, next, &error);
    if (e && e->page.host) {
        memcpy(buf + count, e->page.host, 15 - count);
        return 15;
    }
    if (e) { /* a device: read no more than is there to be decoded anyway */
        mem_read(cpu->as, e->pa, buf + count, 15 - count);
        return 15;
    }
    return count;
}

const uint8_t *x86_fetch_page(X86Cpu *cpu, uint64_t va, uint64_t *ret_pa, RamBlock **ret_block,
                              uint64_t *ret_offset)
{
    uint32_t error;
    const FetchEntry *e = fetch_entry(cpu, va, &error);
    if (!e) {
        x86_raise_page_fault(cpu, va, error);
    }
    *ret_pa = e->pa;
    *ret_block = e->page.block;
    *ret_offset = e->page.block_offset;
    return e->page.host;
}

bool x86_fetch_is_global(X86Cpu *cpu, uint64_t va)
{
    const X86Mmu *mmu = x86_mmu(cpu);
    const FetchEntry *e = &mmu->fetch[cpu->cpl == 3][(va >> MEM_PAGE_BITS) & (FETCH_SLOTS - 1)];
    return fetch_valid(mmu, e, va & PAGE_MASK) && e->gen == mmu->space->global_gen;
}

/* --- life --- */

/* Another thread changed the memory map: this CPU drops what it knows before its next instruction. */
static void map_listener(MemListener *listener, AddressSpace *as)
{
    X86Mmu *mmu = container_of(listener, X86Mmu, listener);
    X86Cpu *cpu = mmu->cpu;
    if (vcpu_self() == cpu->vcpu) {
        x86_mmu_map_changed(cpu);
    } else if (cpu->vcpu->exit_req) {
        vcpu_kick(cpu->vcpu, VCPU_REQ_TLB);
    } else {
        x86_mmu_map_changed(cpu);
    }
}

static SplitLock *split_lock_of(Machine *machine)
{
    SplitLock *lock = machine_service(machine, "x86-split-lock");
    if (!lock) {
        lock = g_new0(SplitLock, 1);
        pthread_mutex_init(&lock->mutex, NULL);
        machine_set_service(machine, "x86-split-lock", lock);
    }
    lock->users++;
    return lock;
}

static void split_lock_drop(X86Cpu *cpu)
{
    SplitLock *lock = cpu->split;
    cpu->split = NULL;
    if (lock && --lock->users == 0) {
        machine_set_service(cpu->vcpu->machine, "x86-split-lock", NULL);
        pthread_mutex_destroy(&lock->mutex);
        g_free(lock);
    }
}

void x86_mmu_new(X86Cpu *cpu)
{
    X86Mmu *mmu = g_new0(X86Mmu, 1);
    cpu->mmu = mmu;
    mmu->cpu = cpu;
    mmu->space = &mmu->spaces[0];
    mmu_space_clear(mmu, mmu->space);
    mmu->fetch_epoch = 1;
    mmu->dir_gen = 1;
    mmu->phys_tag = PHYS_TAGS - 1; /* so that the slots are emptied */
    mmu_phys_forget(mmu);
    for (unsigned n = 0; n < VICTIMS; n++) {
        mmu->victim[n].context = X86_CTX_COUNT;
    }
    for (unsigned context = 0; context < X86_CTX_COUNT; context++) {
        for (unsigned n = 0; n < X86_TLB_SIZE; n++) {
            mmu_entry_clear(&x86_context_tlb(cpu, context)[n], n);
        }
        for (unsigned n = 0; n < X86_SITES; n++) {
            mmu_site_clear(cpu, context, n);
        }
    }
    Machine *machine = cpu->vcpu->machine;
    if (machine) {
        cpu->split = split_lock_of(machine);
        if (machine->mem) {
            mmu->listener.changed = map_listener;
            mem_listener_add(machine->mem, &mmu->listener);
            mmu->listening = true;
        }
    }
}

void x86_mmu_free(X86Cpu *cpu)
{
    X86Mmu *mmu = cpu->mmu;
    if (mmu && mmu->listening) {
        mem_listener_remove(&mmu->listener);
    }
    split_lock_drop(cpu);
    g_free(mmu);
    cpu->mmu = NULL;
}

void x86_set_code_hooks(X86Cpu *cpu, const X86CodeHooks *hooks)
{
    x86_mmu(cpu)->hooks = *hooks;
}
