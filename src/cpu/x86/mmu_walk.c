/*
 * Page walks: 32-bit (with PSE and PSE-36), PAE, 4-level and 5-level paging.
 * Intel SDM volume 3, chapter 4. Missing: shadow stacks.
 *
 * Accessed and dirty bits are set with a compare-and-swap on guest memory; when another CPU changed
 * the entry meanwhile, the walk starts again.
 */
#include "cpu/x86/mmu_priv.h"

#include <inttypes.h>

#include "base/log.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

enum {
    PTE_P = BIT(0),
    PTE_W = BIT(1),
    PTE_U = BIT(2),
    PTE_A = BIT(5),
    PTE_D = BIT(6),
    PTE_PS = BIT(7),
    PTE_G = BIT(8),
};
#define PTE_NX BIT64(63)

typedef struct Slot { /* where an entry lies */
    uint64_t pa;
    uint8_t *host; /* NULL: reached through mem_load */
    PhysPage page; /* a copy: looking up others may replace it */
} Slot;

/* Of an address that needs no more translation. */
static Slot slot_physical(X86Cpu *cpu, uint64_t pa)
{
    Slot slot = { .pa = x86_a20(cpu, pa) };
    slot.page = *mmu_phys_page(cpu, slot.pa);
    if (slot.page.host) {
        slot.host = slot.page.host + (slot.pa & (MEM_PAGE_SIZE - 1));
    }
    return slot;
}

/* False: nested page fault. */
static bool slot_at(X86Cpu *cpu, uint64_t pa, bool mark, Slot *ret_slot)
{
    if (mmu_is_nested(cpu)) {
        NestedPage page;
        if (!mmu_nested(cpu, pa, X86_WRITE, true, mark, &page)) {
            return false;
        }
        pa = page.pa | (pa & (MEM_PAGE_SIZE - 1));
    }
    *ret_slot = slot_physical(cpu, pa);
    return true;
}

static uint64_t slot_read(X86Cpu *cpu, const Slot *slot, unsigned size)
{
    uint64_t value = 0;
    if (slot->host) {
        return size == 8 ? atomic_load_explicit((_Atomic uint64_t *)(void *)slot->host,
                                                memory_order_relaxed)
                         : atomic_load_explicit((_Atomic uint32_t *)(void *)slot->host,
                                                memory_order_relaxed);
    }
    mem_load(cpu->as, slot->pa, size, &value);
    return value;
}

/* Sets bits in an entry that held `old`. False: it changed under our feet. */
static bool slot_mark(X86Cpu *cpu, const Slot *slot, unsigned size, uint64_t old, uint64_t bits)
{
    if ((old & bits) == bits) {
        return true;
    }
    if (!slot->host) {
        mem_store(cpu->as, slot->pa, size, old | bits);
        return true;
    }
    if (slot->page.readonly) {
        return true;
    }
    bool done;
    mmu_set_dirty(&slot->page);
    if (size == 8) {
        done = atomic_compare_exchange_strong((_Atomic uint64_t *)(void *)slot->host, &old,
                                              old | bits);
    } else {
        uint32_t old32 = (uint32_t)old;
        done = atomic_compare_exchange_strong((_Atomic uint32_t *)(void *)slot->host, &old32,
                                              old32 | (uint32_t)bits);
    }
    RamBlock *block = slot->page.block;
    uint64_t offset = slot->page.block_offset + (slot->pa & (MEM_PAGE_SIZE - 1));
    if (done && unlikely(block->flags[offset >> MEM_PAGE_BITS] & RAM_CODE)) {
        ram_written(block, offset, size);
    }
    return done;
}

static uint32_t fault_code(const X86Cpu *cpu, X86Access access, Privilege privilege, uint32_t bits)
{
    uint32_t code = WALK_FAULT | bits;
    if (access == X86_WRITE || access == X86_RMW) {
        code |= PF_W;
    }
    if (privilege == PRIV_USER) {
        code |= PF_U;
    }
    if (access == X86_EXEC &&
        (((cpu->efer & EFER_NXE) && (cpu->cr4 & CR4_PAE)) || (cpu->cr4 & CR4_SMEP))) {
        code |= PF_I;
    }
    return code;
}

/* Whether the protection key forbids it: PKRU is for pages of users, PKRS for the others (Intel SDM volume 3, 4.6.2). */
static bool key_forbids(const X86Cpu *cpu, const Walk *walk, bool write, Privilege privilege)
{
    bool user_page = walk->flags & WALK_U;
    if (!(cpu->cr4 & (user_page ? CR4_PKE : CR4_PKS)) || !(cpu->efer & EFER_LMA)) {
        return false;
    }
    unsigned rights = ((user_page ? cpu->pkru : cpu->pkrs) >> (2 * walk->pkey)) & 3;
    if (rights & 1) {
        return true;
    }
    return write && (rights & 2) && (privilege == PRIV_USER || (cpu->cr0 & CR0_WP));
}

uint32_t mmu_check_rights(const X86Cpu *cpu, const Walk *walk, X86Access access,
                          Privilege privilege)
{
    if (!(cpu->cr0 & CR0_PG)) {
        bool writes = access == X86_WRITE || access == X86_RMW;
        uint32_t forbids = writes ? WALK_NESTED_RO : access == X86_EXEC ? WALK_NESTED_NX : 0;
        return walk->flags & forbids ? WALK_FAULT : 0;
    }
    bool write = access == X86_WRITE || access == X86_RMW, user_page = walk->flags & WALK_U;
    bool denied = false;
    if (privilege == PRIV_USER) {
        denied = !user_page || (write && !(walk->flags & WALK_W));
    } else {
        denied = write && !(walk->flags & WALK_W) && (cpu->cr0 & CR0_WP);
        if (user_page) {
            denied |= access == X86_EXEC ? (cpu->cr4 & CR4_SMEP) != 0
                                         : (cpu->cr4 & CR4_SMAP) && privilege != PRIV_KERNEL_AC;
        }
    }
    denied |= access == X86_EXEC && (walk->flags & WALK_NX);
    /* Reached with remembered walks only: the tables will say that it is a nested fault. */
    denied |= (write && (walk->flags & WALK_NESTED_RO)) || (access == X86_EXEC && (walk->flags & WALK_NESTED_NX));
    uint32_t bits = PF_P;
    if (access != X86_EXEC && key_forbids(cpu, walk, write, privilege)) {
        denied = true;
        bits |= PF_PK;
    }
    return denied ? fault_code(cpu, access, privilege, bits) : 0;
}

/* What all walks share. */
typedef struct Walker {
    X86Cpu *cpu;
    uint64_t va;
    X86Access access;
    Privilege privilege;
    bool mark;
    uint32_t flags; /* WALK_W, _U, _NX gathered */
    /* 32-bit paging: the PDE is marked when the whole walk has succeeded, as the 386 does. */
    bool mark_pde;
    uint64_t pde;
    Slot pde_slot;
} Walker;
#define WALK_RETRY 1u /* an entry changed: start again */

static void gather(Walker *w, uint64_t entry)
{
    if (!(entry & PTE_W)) {
        w->flags &= ~WALK_W;
    }
    if (!(entry & PTE_U)) {
        w->flags &= ~WALK_U;
    }
    if (entry & PTE_NX) {
        w->flags |= WALK_NX;
    }
}

static uint32_t walk_fault(const Walker *w, uint32_t bits)
{
    return fault_code(w->cpu, w->access, w->privilege, bits);
}

/* The last level: rights, then accessed and dirty bits. */
static uint32_t finish(Walker *w, const Slot *slot, unsigned size, uint64_t entry, uint64_t frame,
                       unsigned page_bits, Walk *ret_walk)
{
    gather(w, entry);
    uint64_t mask = BIT64(page_bits) - 1;
    Walk walk = {
        .pa = (frame & ~mask) | (w->va & mask & ~(MEM_PAGE_SIZE - 1)),
        .flags = w->flags,
        .pkey = size == 8 ? (uint8_t)(entry >> 59 & 15) : 0,
    };
    if ((entry & PTE_G) && (w->cpu->cr4 & CR4_PGE)) {
        walk.flags |= WALK_G;
    }
    if (page_bits > MEM_PAGE_BITS) {
        walk.flags |= page_bits == 30 ? WALK_LARGE | WALK_HUGE : WALK_LARGE;
    }
    uint32_t error = mmu_check_rights(w->cpu, &walk, w->access, w->privilege);
    if (error) {
        return error;
    }
    if (w->mark) {
        bool write = w->access == X86_WRITE || w->access == X86_RMW;
        if (w->mark_pde && !slot_mark(w->cpu, &w->pde_slot, 4, w->pde, PTE_A)) {
            return WALK_RETRY;
        }
        if (!slot_mark(w->cpu, slot, size, entry, write ? PTE_A | PTE_D : PTE_A)) {
            return WALK_RETRY;
        }
        if (write) {
            walk.flags |= WALK_D;
        }
    }
    if (entry & PTE_D) {
        walk.flags |= WALK_D;
    }
    *ret_walk = walk;
    return 0;
}

/* 32-bit paging. */
static uint32_t walk_32(Walker *w, Walk *ret_walk)
{
    X86Cpu *cpu = w->cpu;
    uint32_t va = (uint32_t)w->va;
    Slot slot;
    if (!slot_at(cpu, (cpu->cr3 & 0xfffff000u) + (va >> 22) * 4, w->mark, &slot)) {
        return WALK_FAULT | WALK_NESTED_FAULT;
    }
    uint64_t pde = slot_read(cpu, &slot, 4);
    if (!(pde & PTE_P)) {
        return walk_fault(w, 0);
    }
    if ((pde & PTE_PS) && (cpu->cr4 & CR4_PSE)) {
        bool pse36 = x86_has(cpu, X86_FEAT_1_EDX, 17);
        unsigned width = MIN(cpu->phys_bits, 40u);
        uint64_t high = 0, reserved = BITS64(21, 13);
        if (pse36) {
            reserved = BIT64(21);
            if (width < 40) {
                reserved |= BITS64(20, 13) & ~(width > 32 ? BITS64(width - 32 + 12, 13) : 0);
            }
            high = (pde & BITS64(20, 13)) << 19;
        }
        if (pde & reserved) {
            return walk_fault(w, PF_P | PF_RSVD);
        }
        return finish(w, &slot, 4, pde, (pde & 0xffc00000u) | high, 22, ret_walk);
    }
    gather(w, pde);
    Slot pte_slot;
    if (!slot_at(cpu, (pde & 0xfffff000u) + (va >> 12 & 0x3ff) * 4, w->mark, &pte_slot)) {
        return WALK_FAULT | WALK_NESTED_FAULT;
    }
    uint64_t pte = slot_read(cpu, &pte_slot, 4);
    if (!(pte & PTE_P)) {
        return walk_fault(w, 0);
    }
    w->mark_pde = true;
    w->pde = pde;
    w->pde_slot = slot;
    return finish(w, &pte_slot, 4, pte, pte & 0xfffff000u, 12, ret_walk);
}

/* Reserved bits that every 64-bit entry has. */
static uint64_t reserved_64(const X86Cpu *cpu, bool long_mode)
{
    uint64_t reserved =
        long_mode ? BITS64(51, 0) & ~cpu->phys_mask : BITS64(62, 0) & ~cpu->phys_mask;
    if (!(cpu->efer & EFER_NXE)) {
        reserved |= PTE_NX;
    }
    return reserved;
}

static DirCache *dir_slot(X86Cpu *cpu, uint64_t va)
{
    return &x86_mmu(cpu)->dirs[(va >> 21 ^ va >> 29) & (DIR_SLOTS - 1)];
}

/* The last two levels of PAE and long-mode paging: `table` holds the page directory. */
static uint32_t walk_tables(Walker *w, uint64_t directory, uint64_t reserved, Walk *ret_walk)
{
    X86Cpu *cpu = w->cpu;
    uint64_t va = w->va;
    Slot slot;
    if (!slot_at(cpu, directory + (va >> 21 & 0x1ff) * 8, w->mark, &slot)) {
        return WALK_FAULT | WALK_NESTED_FAULT;
    }
    uint64_t pde = slot_read(cpu, &slot, 8);
    if (!(pde & PTE_P)) {
        return walk_fault(w, 0);
    }
    if (pde & reserved) {
        return walk_fault(w, PF_P | PF_RSVD);
    }
    if (pde & PTE_PS) {
        if (pde & BITS64(20, 13)) {
            return walk_fault(w, PF_P | PF_RSVD);
        }
        return finish(w, &slot, 8, pde, pde & cpu->phys_mask & ~0xfffull, 21, ret_walk);
    }
    gather(w, pde);
    if (w->mark && !slot_mark(cpu, &slot, 8, pde, PTE_A)) {
        return WALK_RETRY;
    }
    uint64_t table = pde & cpu->phys_mask & ~0xfffull;
    if (!slot_at(cpu, table + (va >> 12 & 0x1ff) * 8, w->mark, &slot)) {
        return WALK_FAULT | WALK_NESTED_FAULT;
    }
    if (w->mark && slot.host) {
        *dir_slot(cpu, va) = (DirCache) {
            .region = va >> 21,
            .table_pa = slot.pa & ~0xfffull,
            .table = slot.host - (slot.pa & 0xff8),
            .gen = x86_mmu(cpu)->dir_gen,
            .flags = w->flags,
        };
    }
    uint64_t pte = slot_read(cpu, &slot, 8);
    if (!(pte & PTE_P)) {
        return walk_fault(w, 0);
    }
    if (pte & reserved) {
        return walk_fault(w, PF_P | PF_RSVD);
    }
    return finish(w, &slot, 8, pte, pte & cpu->phys_mask & ~0xfffull, 12, ret_walk);
}

static uint64_t pdpte_reserved(const X86Cpu *cpu);

static uint32_t walk_pae(Walker *w, Walk *ret_walk)
{
    uint64_t pdpte = w->cpu->pdpte[w->va >> 30 & 3];
    if (!(pdpte & PTE_P)) {
        return walk_fault(w, 0);
    }
    if (pdpte & pdpte_reserved(w->cpu)) {
        return walk_fault(w, PF_P | PF_RSVD);
    }
    return walk_tables(w, pdpte & w->cpu->phys_mask & ~0xfffull, reserved_64(w->cpu, false),
                       ret_walk);
}

static uint32_t walk_long(Walker *w, Walk *ret_walk)
{
    X86Cpu *cpu = w->cpu;
    uint64_t table = cpu->cr3 & cpu->phys_mask & ~0xfffull, reserved = reserved_64(cpu, true);
    for (int shift = cpu->cr4 & CR4_LA57 ? 48 : 39; shift >= 30; shift -= 9) {
        Slot slot;
        if (!slot_at(cpu, table + (w->va >> shift & 0x1ff) * 8, w->mark, &slot)) {
            return WALK_FAULT | WALK_NESTED_FAULT;
        }
        uint64_t entry = slot_read(cpu, &slot, 8);
        if (!(entry & PTE_P)) {
            return walk_fault(w, 0);
        }
        bool large = entry & PTE_PS;
        if ((entry & reserved) ||
            (large && (shift != 30 || !x86_has(cpu, X86_FEAT_8000_0001_EDX, 26)))) {
            return walk_fault(w, PF_P | PF_RSVD);
        }
        if (large) {
            if (entry & BITS64(29, 13)) {
                return walk_fault(w, PF_P | PF_RSVD);
            }
            return finish(w, &slot, 8, entry, entry & cpu->phys_mask & ~0xfffull, 30, ret_walk);
        }
        gather(w, entry);
        if (w->mark && !slot_mark(cpu, &slot, 8, entry, PTE_A)) {
            return WALK_RETRY;
        }
        table = entry & cpu->phys_mask & ~0xfffull;
    }
    return walk_tables(w, table, reserved, ret_walk);
}

/* The page table of va's 2 MiB range is known: only the last level is read. */
static uint32_t walk_cached(Walker *w, const DirCache *dir, Walk *ret_walk)
{
    uint64_t index = w->va >> 12 & 0x1ff;
    Slot slot = { .pa = dir->table_pa + index * 8, .host = dir->table + index * 8 };
    slot.page = *mmu_phys_page(w->cpu, slot.pa);
    w->flags = dir->flags;
    uint64_t pte = slot_read(w->cpu, &slot, 8);
    if (!(pte & PTE_P)) {
        return walk_fault(w, 0);
    }
    if (pte & reserved_64(w->cpu, w->cpu->efer & EFER_LMA)) {
        return walk_fault(w, PF_P | PF_RSVD);
    }
    return finish(w, &slot, 8, pte, pte & w->cpu->phys_mask & ~0xfffull, 12, ret_walk);
}

static uint32_t walk_own(X86Cpu *cpu, uint64_t va, X86Access access, Privilege privilege, bool mark,
                         Walk *ret_walk)
{
    if (!(cpu->cr0 & CR0_PG)) {
        *ret_walk = (Walk) { .pa = va & ~(MEM_PAGE_SIZE - 1), .flags = WALK_W | WALK_U | WALK_D };
        return 0;
    }
    for (;;) {
        Walker w = { .cpu = cpu,
                     .va = va,
                     .access = access,
                     .privilege = privilege,
                     .mark = mark,
                     .flags = WALK_W | WALK_U };
        uint32_t error;
        if (!(cpu->cr4 & CR4_PAE)) {
            error = walk_32(&w, ret_walk);
        } else {
            const DirCache *dir = dir_slot(cpu, va);
            error = WALK_FAULT;
            if (mark && dir->region == va >> 21 && dir->gen == x86_mmu(cpu)->dir_gen) {
                error = walk_cached(&w, dir, ret_walk);
                w.flags = WALK_W | WALK_U;
            }
            /* A fault is reported only from the tables as they are now. */
            if (error & WALK_FAULT) {
                error = cpu->efer & EFER_LMA ? walk_long(&w, ret_walk) : walk_pae(&w, ret_walk);
            }
        }
        if (error != WALK_RETRY) {
            return error;
        }
    }
}

static uint32_t walk_both(X86Cpu *cpu, uint64_t va, X86Access access, Privilege privilege, bool mark, Walk *ret_walk)
{
    uint32_t error = walk_own(cpu, va, access, privilege, mark, ret_walk);
    if (likely(!mmu_is_nested(cpu)) || error) {
        return error;
    }
    NestedPage page;
    if (!mmu_nested(cpu, ret_walk->pa | (va & (MEM_PAGE_SIZE - 1)), access, false, mark, &page)) {
        return WALK_FAULT | WALK_NESTED_FAULT;
    }
    ret_walk->pa = page.pa;
    ret_walk->flags |= (page.writable ? 0 : WALK_NESTED_RO) | (page.executable ? 0 : WALK_NESTED_NX);
    if (!page.dirty) {
        ret_walk->flags &= ~(uint32_t)WALK_D; /* writes must mark it first */
    }
    return 0;
}

/* -d mmu */
static void log_walk(const X86Cpu *cpu, uint64_t va, X86Access access, uint32_t error, const Walk *walk)
{
    static const char *const names[] = { [X86_READ] = "read", [X86_WRITE] = "write", [X86_EXEC] = "fetch", [X86_RMW] = "update" };
    if (error) {
        log_printf("mmu %u: %s of 0x%016" PRIx64 ": fault 0x%x\n", cpu->vcpu->index, names[access], va, error & 0xffff);
    } else {
        log_printf("mmu %u: %s of 0x%016" PRIx64 ": at 0x%016" PRIx64 "\n", cpu->vcpu->index, names[access], va, walk->pa);
    }
}

uint32_t mmu_walk(X86Cpu *cpu, uint64_t va, X86Access access, Privilege privilege, bool mark, Walk *ret_walk)
{
    uint32_t error = walk_both(cpu, va, access, privilege, mark, ret_walk);
    if (log_enabled(LOG_MMU)) {
        log_walk(cpu, va, access, error, ret_walk);
    }
    return error;
}

static uint64_t pdpte_reserved(const X86Cpu *cpu)
{
    return (~cpu->phys_mask & ~0xfffull) | BITS64(8, 5) | BITS64(2, 1);
}

static void read_pdptes(X86Cpu *cpu, uint64_t cr3, uint64_t entries[4])
{
    uint64_t at = cr3 & 0xffffffe0u;
    if (mmu_is_nested(cpu)) {
        NestedPage page;
        if (!mmu_nested(cpu, at, X86_WRITE, true, true, &page)) {
            x86_svm_exit(cpu, SVM_EXIT_NPF, cpu->svm.npf_info, cpu->svm.npf_address, 0);
        }
        at = page.pa | (at & (MEM_PAGE_SIZE - 1));
    }
    for (unsigned n = 0; n < 4; n++) {
        entries[n] = x86_phys_load(cpu, at + n * 8, 8);
    }
}

static bool pdptes_valid(const X86Cpu *cpu, const uint64_t entries[4])
{
    for (unsigned n = 0; n < 4; n++) {
        if ((entries[n] & PTE_P) && (entries[n] & pdpte_reserved(cpu))) {
            return false;
        }
    }
    return true;
}

bool x86_load_pdptes(X86Cpu *cpu, uint64_t cr3)
{
    uint64_t entries[4];
    read_pdptes(cpu, cr3, entries);
    if (!pdptes_valid(cpu, entries)) {
        return false;
    }
    memcpy(cpu->pdpte, entries, sizeof(entries));
    return true;
}

bool x86_pdptes_valid(X86Cpu *cpu, uint64_t cr3)
{
    uint64_t entries[4];
    read_pdptes(cpu, cr3, entries);
    return pdptes_valid(cpu, entries);
}

void x86_load_any_pdptes(X86Cpu *cpu, uint64_t cr3)
{
    read_pdptes(cpu, cr3, cpu->pdpte);
}
