/*
 * Nested page tables: guest physical to physical addresses. AMD64 manual volume 2, 15.25.
 *
 * The tables have the format of the host's paging mode when it entered the guest. Every access is one of user
 * level; reads of the guest's own page tables count as writes.
 */
#include "cpu/x86/mmu_priv.h"

#include "base/bits.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

enum { NPTE_P = BIT(0), NPTE_W = BIT(1), NPTE_U = BIT(2), NPTE_A = BIT(5), NPTE_D = BIT(6), NPTE_PS = BIT(7),
       NPTE_G = BIT(8) };
#define NPTE_NX BIT64(63)

typedef struct Nested {
    X86Cpu *cpu;
    uint64_t gpa, info; /* info: what EXITINFO1 says of this access besides why it failed */
    bool write, exec, tell_exec, mark; /* tell_exec: a fetch, and the error code says so */
    uint32_t rights; /* NPTE_W, NPTE_U of all levels */
    bool nx;
} Nested;

static bool fault(Nested *n, uint64_t why)
{
    if (n->mark) {
        n->cpu->svm.npf_info = n->info | SVM_NPF_U | why | (n->write ? SVM_NPF_W : 0) | (n->tell_exec ? SVM_NPF_I : 0);
        n->cpu->svm.npf_address = n->gpa;
    }
    return false;
}

static uint64_t reserved_bits(const X86Cpu *cpu)
{
    uint64_t bits = BITS64(51, 0) & ~cpu->phys_mask;
    return cpu->svm.host.efer & EFER_NXE ? bits : bits | NPTE_NX;
}

static void mark_entry(Nested *n, uint64_t at, unsigned size, uint64_t entry, uint64_t bits)
{
    if (n->mark && (entry & bits) != bits) {
        x86_phys_store(n->cpu, at, entry | bits, size);
    }
}

static bool leaf(Nested *n, uint64_t at, unsigned size, uint64_t entry, uint64_t frame, unsigned bits, NestedPage *ret)
{
    uint64_t mask = BIT64(bits) - 1;
    if (!(n->rights & NPTE_U) || (n->write && !(n->rights & NPTE_W)) || (n->exec && n->nx)) {
        return fault(n, SVM_NPF_P);
    }
    mark_entry(n, at, size, entry, n->write ? NPTE_A | NPTE_D : NPTE_A);
    *ret = (NestedPage) {
        .pa = (frame & ~mask) | (n->gpa & mask & ~(MEM_PAGE_SIZE - 1)),
        .writable = n->rights & NPTE_W,
        .executable = !n->nx,
        .dirty = n->write || (entry & NPTE_D),
    };
    return true;
}

static void gather(Nested *n, uint64_t entry)
{
    n->rights &= (uint32_t)entry;
    n->nx |= (entry & NPTE_NX) != 0;
}

/* PAE and long-mode tables, from the level whose entries cover 1 << shift bytes. */
static bool walk_64(Nested *n, uint64_t table, unsigned shift, NestedPage *ret)
{
    X86Cpu *cpu = n->cpu;
    uint64_t reserved = reserved_bits(cpu);
    for (;; shift -= 9) {
        uint64_t at = table + (n->gpa >> shift & 0x1ff) * 8, entry = x86_phys_load(cpu, at, 8);
        bool last = shift == 12 || (entry & NPTE_PS);
        if (!(entry & NPTE_P)) {
            return fault(n, 0);
        }
        if ((entry & reserved) || (shift > 30 && (entry & (NPTE_PS | NPTE_G))) || (last && shift > 12 && (entry & BITS64(shift - 1, 13))) ||
            (last && shift == 30 && !x86_has(cpu, X86_FEAT_8000_0001_EDX, 26))) {
            return fault(n, SVM_NPF_P | SVM_NPF_RSVD);
        }
        gather(n, entry);
        if (last) {
            return leaf(n, at, 8, entry, entry & cpu->phys_mask & ~0xfffull, shift, ret);
        }
        mark_entry(n, at, 8, entry, NPTE_A);
        table = entry & cpu->phys_mask & ~0xfffull;
    }
}

static bool walk_pae(Nested *n, NestedPage *ret)
{
    uint64_t pdpte = x86_phys_load(n->cpu, (n->cpu->svm.nested_cr3 & ~0x1full) + (n->gpa >> 30 & 3) * 8, 8);
    if (!(pdpte & NPTE_P) || n->gpa >> 32) {
        return fault(n, 0);
    }
    return walk_64(n, pdpte & n->cpu->phys_mask & ~0xfffull, 21, ret);
}

static bool walk_32(Nested *n, NestedPage *ret)
{
    X86Cpu *cpu = n->cpu;
    uint64_t at = (cpu->svm.nested_cr3 & 0xfffff000u) + (n->gpa >> 22 & 0x3ff) * 4;
    uint64_t entry = x86_phys_load(cpu, at, 4);
    if (!(entry & NPTE_P) || n->gpa >> 32) {
        return fault(n, 0);
    }
    gather(n, entry);
    if ((entry & NPTE_PS) && (cpu->svm.host.cr4 & CR4_PSE)) {
        return leaf(n, at, 4, entry, (entry & 0xffc00000u) | (entry & BITS64(20, 13)) << 19, 22, ret);
    }
    mark_entry(n, at, 4, entry, NPTE_A);
    at = (entry & 0xfffff000u) + (n->gpa >> 12 & 0x3ff) * 4;
    entry = x86_phys_load(cpu, at, 4);
    if (!(entry & NPTE_P)) {
        return fault(n, 0);
    }
    gather(n, entry);
    return leaf(n, at, 4, entry, entry & 0xfffff000u, 12, ret);
}

bool mmu_nested(X86Cpu *cpu, uint64_t gpa, X86Access access, bool table, bool mark, NestedPage *ret_page)
{
    const X86SvmHost *host = &cpu->svm.host;
    Nested n = {
        .cpu = cpu,
        .gpa = gpa,
        .info = table ? SVM_NPF_TABLE : SVM_NPF_FINAL,
        .write = access == X86_WRITE || access == X86_RMW,
        .exec = access == X86_EXEC,
        .tell_exec = access == X86_EXEC && ((host->efer & EFER_NXE) || (host->cr4 & CR4_SMEP)),
        .mark = mark,
        .rights = NPTE_W | NPTE_U,
    };
    if (host->efer & EFER_LMA) {
        unsigned top = host->cr4 & CR4_LA57 ? 48 : 39;
        if (gpa >> (top + 9)) {
            return fault(&n, 0);
        }
        return walk_64(&n, cpu->svm.nested_cr3 & cpu->phys_mask & ~0xfffull, top, ret_page);
    }
    return host->cr4 & CR4_PAE ? walk_pae(&n, ret_page) : walk_32(&n, ret_page);
}
