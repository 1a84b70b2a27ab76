/*
 * The soft TLB: flushes and address spaces (PCID, SVM's ASID). See mmu_priv.h for how entries become
 * invalid.
 */
#include "cpu/x86/mmu.h"

#include "core/vm/debug.h"
#include "cpu/x86/mmu_priv.h"

#define PAGE_MASK (~(MEM_PAGE_SIZE - 1))

/* --- first level --- */

static void victims_flush(X86Mmu *mmu, unsigned context, bool keep_global)
{
    for (Victim *v = mmu->victim; v < mmu->victim + VICTIMS; v++) {
        if (v->context == context && !(keep_global && (v->entry.meta & X86_TLB_GLOBAL))) {
            v->context = X86_CTX_COUNT;
        }
    }
}

void mmu_site_clear(X86Cpu *cpu, unsigned context, unsigned n)
{
    X86Sites *sites = x86_context_sites(cpu, context);
    uint64_t nothing = (uint64_t)(uintptr_t)sites->nothing;
    sites->site[n] = (X86Site) { .tag = X86_SITE_TAG, .host = nothing, .addend = nothing - X86_SITE_TAG };
    sites->used[n >> 6] &= ~BIT64(n & 63);
}

void mmu_sites_drop(X86Cpu *cpu, unsigned context, uint64_t start, uint64_t length, bool by_host)
{
    X86Sites *sites = x86_context_sites(cpu, context);
    for (unsigned w = 0; w < ARRAY_SIZE(sites->used); w++) {
        for (uint64_t used = sites->used[w]; used; used &= used - 1) {
            unsigned n = w << 6 | (unsigned)__builtin_ctzll(used);
            if ((by_host ? sites->site[n].host : sites->site[n].tag) - start < length) {
                mmu_site_clear(cpu, context, n);
            }
        }
    }
}

static void sites_flush(X86Cpu *cpu, unsigned context, bool keep_global)
{
    X86Sites *sites = x86_context_sites(cpu, context);
    for (unsigned w = 0; w < ARRAY_SIZE(sites->used); w++) {
        for (uint64_t used = sites->used[w]; used; used &= used - 1) {
            unsigned n = w << 6 | (unsigned)__builtin_ctzll(used);
            if (!keep_global || !(sites->site[n].meta & X86_TLB_GLOBAL)) {
                mmu_site_clear(cpu, context, n);
            }
        }
    }
}

static void group_flush(X86Tlbe *tlb, unsigned group, bool keep_global)
{
    unsigned first = group << GROUP_BITS;
    for (unsigned n = first; n < first + (1u << GROUP_BITS); n++) {
        if (!keep_global || !(tlb[n].meta & X86_TLB_GLOBAL)) {
            mmu_entry_clear(&tlb[n], n);
        }
    }
}

/* Empties the groups of a context; keeps global pages when asked to. */
static void context_flush(X86Cpu *cpu, unsigned context, bool keep_global)
{
    X86Mmu *mmu = x86_mmu(cpu);
    victims_flush(mmu, context, keep_global);
    sites_flush(cpu, context, keep_global);
    TlbGroups *groups = keep_global ? &mmu->used_local[context] : &mmu->used[context];
    for (unsigned w = 0; w < GROUP_WORDS; w++) {
        for (uint64_t bits = groups->bits[w]; bits; bits &= bits - 1) {
            group_flush(x86_context_tlb(cpu, context), w << 6 | (unsigned)__builtin_ctzll(bits), keep_global);
        }
        groups->bits[w] = mmu->used_local[context].bits[w] = 0;
    }
}

static void contexts_flush(X86Cpu *cpu, bool keep_global)
{
    for (unsigned context = 0; context < X86_CTX_COUNT; context++) {
        context_flush(cpu, context, keep_global);
    }
}

static bool large_maybe(const TlbSpace *space, uint64_t va)
{
    if (!space->any_large) {
        return false;
    }
    unsigned bit = mmu_large_bit(va >> 21), huge = mmu_huge_bit(va >> 30);
    return (space->large_seen[bit >> 6] >> (bit & 63) & 1) || (space->huge_seen[huge >> 6] >> (huge & 63) & 1);
}

/* A generation that nothing carries yet. When the counter wraps, everything cached is forgotten. */
static uint32_t new_gen(X86Mmu *mmu)
{
    if (unlikely(++mmu->gen_counter >= UINT32_MAX - 1)) {
        memset(mmu->l2, 0, sizeof(mmu->l2));
        memset(mmu->fetch, 0, sizeof(mmu->fetch));
        memset(mmu->spaces, 0, sizeof(mmu->spaces));
        mmu->space->global_gen = 1;
        mmu->space->gen = 2;
        mmu->gen_counter = 3;
    }
    return mmu->gen_counter;
}

void mmu_space_clear(X86Mmu *mmu, TlbSpace *space)
{
    uint32_t global_gen = new_gen(mmu), gen = new_gen(mmu);
    *space = (TlbSpace) { .gen = gen, .global_gen = global_gen, .asid = space->asid, .root = space->root };
}

static void dirs_flush(X86Mmu *mmu)
{
    mmu->dir_gen++;
}

static void hook_unmapped(X86Cpu *cpu, uint64_t va, bool global)
{
    const X86CodeHooks *hooks = &x86_mmu(cpu)->hooks;
    cpu->map_changes++;
    if (hooks->unmapped) {
        hooks->unmapped(cpu, va, global);
    }
}

/* Empties what translated code looks into and what goes with it; what is behind lives by generations. */
static void front_flush(X86Cpu *cpu)
{
    contexts_flush(cpu, false);
    dirs_flush(x86_mmu(cpu));
    hook_unmapped(cpu, ~0ull, true);
}

void x86_tlb_flush_all(X86Cpu *cpu)
{
    X86Mmu *mmu = x86_mmu(cpu);
    mmu_space_clear(mmu, mmu->space);
    mmu->fetch_epoch++;
    front_flush(cpu);
}

/* --- PCIDs --- */

static PcidSlot *pcid_slot(X86Mmu *mmu, unsigned pcid)
{
    for (PcidSlot *slot = mmu->space->pcids; slot < mmu->space->pcids + PCID_SLOTS; slot++) {
        if (slot->used && slot->pcid == pcid) {
            return slot;
        }
    }
    return NULL;
}

static unsigned current_pcid(const X86Cpu *cpu)
{
    return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0;
}

void x86_tlb_flush_nonglobal(X86Cpu *cpu)
{
    X86Mmu *mmu = x86_mmu(cpu);
    contexts_flush(cpu, true);
    mmu->space->gen = new_gen(mmu);
    PcidSlot *slot = pcid_slot(mmu, current_pcid(cpu));
    if (slot) {
        slot->gen = mmu->space->gen;
    }
    dirs_flush(mmu);
    hook_unmapped(cpu, ~0ull, false);
}

/* A free one, or the one that was not selected for longest. */
static PcidSlot *oldest_pcid_slot(TlbSpace *space)
{
    PcidSlot *oldest = space->pcids;
    for (PcidSlot *slot = space->pcids; slot < space->pcids + PCID_SLOTS; slot++) {
        if (!slot->used) {
            return slot;
        }
        if (slot->stamp < oldest->stamp) {
            oldest = slot;
        }
    }
    return oldest;
}

void x86_tlb_select_pcid(X86Cpu *cpu, unsigned pcid, bool keep)
{
    X86Mmu *mmu = x86_mmu(cpu);
    PcidSlot *slot = pcid_slot(mmu, pcid);
    if (!slot) {
        slot = oldest_pcid_slot(mmu->space);
        *slot = (PcidSlot) { .pcid = pcid, .used = true, .gen = new_gen(mmu) };
    } else if (!keep) {
        slot->gen = new_gen(mmu);
    } else if (slot->gen == mmu->space->gen) {
        slot->stamp = ++mmu->stamp;
        dirs_flush(mmu); /* the tables may be others although the PCID is the same */
        return;
    }
    slot->stamp = ++mmu->stamp;
    mmu->space->gen = slot->gen;
    contexts_flush(cpu, true);
    dirs_flush(mmu);
    hook_unmapped(cpu, ~0ull, false);
}

void x86_tlb_flush_pcid(X86Cpu *cpu, unsigned pcid)
{
    X86Mmu *mmu = x86_mmu(cpu);
    if (pcid == current_pcid(cpu)) {
        x86_tlb_flush_nonglobal(cpu);
        return;
    }
    PcidSlot *slot = pcid_slot(mmu, pcid);
    if (slot) {
        slot->gen = new_gen(mmu);
    }
    dirs_flush(mmu);
}

void x86_tlb_flush_pcid_page(X86Cpu *cpu, unsigned pcid, uint64_t va)
{
    if (pcid == current_pcid(cpu)) {
        x86_tlb_flush_page(cpu, va);
    } else {
        x86_tlb_flush_pcid(cpu, pcid);
    }
}

void x86_tlb_flush_all_pcids(X86Cpu *cpu)
{
    X86Mmu *mmu = x86_mmu(cpu);
    memset(mmu->space->pcids, 0, sizeof(mmu->space->pcids));
    x86_tlb_flush_nonglobal(cpu);
}

/* --- SVM's address spaces --- */

/* Guests share what is left when the host has its own; another one's use of a space clears it. */
static TlbSpace *space_of(X86Mmu *mmu, uint32_t asid)
{
    return &mmu->spaces[asid ? 1 + asid % (SVM_ASIDS - 1) : 0];
}

void x86_tlb_select_asid(X86Cpu *cpu, uint32_t asid, uint64_t root)
{
    X86Mmu *mmu = x86_mmu(cpu);
    TlbSpace *space = space_of(mmu, asid);
    mmu->space = space;
    if (space->gen == 0 || space->asid != asid || space->root != root) {
        mmu_space_clear(mmu, space);
        space->asid = asid;
        space->root = root;
    }
    front_flush(cpu);
    x86_tlb_select_pcid(cpu, current_pcid(cpu), true);
}

void x86_tlb_flush_asid(X86Cpu *cpu, uint32_t asid)
{
    X86Mmu *mmu = x86_mmu(cpu);
    TlbSpace *space = space_of(mmu, asid);
    if (space == mmu->space) {
        x86_tlb_flush_all(cpu);
    } else {
        space->gen = 0;
    }
}

void x86_tlb_flush_all_asids(X86Cpu *cpu)
{
    X86Mmu *mmu = x86_mmu(cpu);
    for (TlbSpace *space = mmu->spaces; space < mmu->spaces + SVM_ASIDS; space++) {
        space->gen = space == mmu->space ? space->gen : 0;
    }
    x86_tlb_flush_all(cpu);
}

/* --- pages and ranges --- */

void x86_tlb_flush_page(X86Cpu *cpu, uint64_t va)
{
    X86Mmu *mmu = x86_mmu(cpu);
    uint64_t page = va & PAGE_MASK;
    if (large_maybe(mmu->space, va)) {
        x86_tlb_flush_all(cpu);
        return;
    }
    for (unsigned context = 0; context < X86_CTX_COUNT; context++) {
        X86Tlbe *e = &x86_context_tlb(cpu, context)[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
        if (e->rtag == page || e->wtag == page) {
            mmu_entry_clear(e, (va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1));
        }
        mmu_sites_drop(cpu, context, page, MEM_PAGE_SIZE, false);
    }
    for (Victim *v = mmu->victim; v < mmu->victim + VICTIMS; v++) {
        if (v->entry.rtag == page || v->entry.wtag == page) {
            v->context = X86_CTX_COUNT;
        }
    }
    for (unsigned user = 0; user < 2; user++) {
        FetchEntry *e = &mmu->fetch[user][(va >> MEM_PAGE_BITS) & (FETCH_SLOTS - 1)];
        if (e->va == page) {
            e->gen = 0;
        }
    }
    mmu_l2_remove(mmu, page);
    dirs_flush(mmu);
    hook_unmapped(cpu, page, true);
}

void x86_tlb_drop_rights(X86Cpu *cpu)
{
    x86_mmu(cpu)->watch = cpu->debug && cpu->debug->data;
    for (unsigned n = 0; n < 4; n++) {
        x86_mmu(cpu)->watch |= (cpu->dr[7] >> (2 * n) & 3) && (cpu->dr[7] >> (16 + 4 * n) & 1);
    }
    contexts_flush(cpu, false);
}

static void group_clean(X86Tlbe *tlb, unsigned group, uint64_t start, uint64_t length)
{
    unsigned first = group << GROUP_BITS;
    for (unsigned n = first; n < first + (1u << GROUP_BITS); n++) {
        if (tlb[n].host - start < length) {
            tlb[n].wtag = X86_TLB_INVALID(n);
        }
    }
}

void x86_tlb_clean_range(X86Cpu *cpu, RamBlock *block, uint64_t first, uint64_t count)
{
    X86Mmu *mmu = x86_mmu(cpu);
    uint64_t start = (uint64_t)(uintptr_t)block->host + (first << MEM_PAGE_BITS);
    uint64_t length = count << MEM_PAGE_BITS;
    for (Victim *v = mmu->victim; v < mmu->victim + VICTIMS; v++) {
        if (v->entry.host - start < length) {
            v->context = X86_CTX_COUNT;
        }
    }
    for (unsigned context = 0; context < X86_CTX_COUNT; context++) {
        mmu_sites_drop(cpu, context, start, length, true);
        for (unsigned w = 0; w < GROUP_WORDS; w++) {
            for (uint64_t bits = mmu->used[context].bits[w]; bits; bits &= bits - 1) {
                group_clean(x86_context_tlb(cpu, context), w << 6 | (unsigned)__builtin_ctzll(bits), start, length);
            }
        }
    }
}

void x86_tlb_clean_page(X86Cpu *cpu, RamBlock *block, uint64_t page_offset)
{
    x86_tlb_clean_range(cpu, block, page_offset >> MEM_PAGE_BITS, 1);
}

void x86_mmu_map_changed(X86Cpu *cpu)
{
    mmu_phys_forget(x86_mmu(cpu));
    x86_tlb_flush_all_asids(cpu);
}
