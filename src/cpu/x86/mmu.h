/*
 * Guest memory as the CPU sees it: page walks, the soft TLB, loads and stores.
 *
 * Addresses are linear (segment base added, limits checked by the caller) unless said otherwise. All
 * accessors may raise page faults (exc.h).
 */
#ifndef OSTRICH_CPU_X86_MMU_H
#define OSTRICH_CPU_X86_MMU_H

#include "base/endian.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/exc.h"

typedef enum X86Access { X86_READ, X86_WRITE, X86_EXEC, X86_RMW } X86Access;

/* Who asks: an access of the program at its CPL, or of the processor itself (descriptor tables, TSS). */
enum { X86_AS_CPL = 0, X86_AS_SUPERVISOR = 1, X86_AS_USER = 2 };

/*
 * Slow path: walks, sets A/D, checks rights, fills the TLB of the context, raises. Returns the host address
 * of va (valid for the bytes up to the end of its page), or NULL when the page has to be reached by
 * x86_phys_load/store at *ret_pa: MMIO, ROM writes, pages with code (then the caller stores and calls
 * x86_code_written()).
 */
void *x86_mmu_fill(X86Cpu *cpu, uint64_t va, X86Access access, unsigned as_who, uint64_t *ret_pa);
/*
 * Brings a page into the TLB of the context; true when its entry then allows the access. Raises nothing:
 * where there is a fault, x86_mmu_fill() says so. For translated code's misses.
 */
bool x86_tlb_refill(X86Cpu *cpu, uint64_t va, bool write);
/* Walk without side effects or faults. */
bool x86_mmu_probe(X86Cpu *cpu, uint64_t va, uint64_t *ret_pa, uint64_t *ret_flags);

uint64_t x86_load_slow(X86Cpu *cpu, uint64_t va, unsigned size, unsigned as_who);
void x86_store_slow(X86Cpu *cpu, uint64_t va, uint64_t value, unsigned size, unsigned as_who);

static inline void *x86_tlb_hit(X86Cpu *cpu, uint64_t va, unsigned size, bool write)
{
    X86Tlbe *e = &cpu->tlb[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
    uint64_t off = va - (write ? e->wtag : e->rtag);
    return likely(off <= MEM_PAGE_SIZE - size) ? (void *)(e->host + off) : NULL;
}

/* size 1, 2, 4, 8 (constant at the call for speed); any alignment; little endian. */
static inline uint64_t x86_load(X86Cpu *cpu, uint64_t va, unsigned size)
{
    void *p = x86_tlb_hit(cpu, va, size, false);
    return likely(p != NULL) ? ld_le(p, size) : x86_load_slow(cpu, va, size, X86_AS_CPL);
}
static inline void x86_store(X86Cpu *cpu, uint64_t va, uint64_t value, unsigned size)
{
    void *p = x86_tlb_hit(cpu, va, size, true);
    if (likely(p != NULL)) {
        st_le(p, value, size);
    } else {
        x86_store_slow(cpu, va, value, size, X86_AS_CPL);
    }
}
/* Accesses of the processor itself: supervisor rights whatever the CPL. */
uint64_t x86_load_sys(X86Cpu *cpu, uint64_t va, unsigned size);
void x86_store_sys(X86Cpu *cpu, uint64_t va, uint64_t value, unsigned size);
/* Any length up to 4096, may cross one page boundary; checks both pages before anything is written. */
void x86_load_bytes(X86Cpu *cpu, uint64_t va, void *buf, unsigned length, unsigned as_who);
void x86_store_bytes(X86Cpu *cpu, uint64_t va, const void *buf, unsigned length, unsigned as_who);
/* Raises now if a write (access X86_WRITE or X86_RMW) or read of these bytes would fault. */
void x86_check(X86Cpu *cpu, uint64_t va, unsigned length, X86Access access, unsigned as_who);
/*
 * For a locked or implicitly locked read-modify-write: a host pointer to do it on atomically, or NULL for
 * MMIO, code pages and page-crossing operands (then do it by load and store under x86_split_lock()).
 */
void *x86_atomic_ptr(X86Cpu *cpu, uint64_t va, unsigned size);
/* Keeps other vCPUs' locked operations of this kind out. No fault may be raised in between. */
void x86_split_lock(X86Cpu *cpu);
void x86_split_unlock(X86Cpu *cpu);

/* Instruction bytes: raises the fetch's faults for the first byte only when it cannot give any byte. Returns
 * the count of bytes read, up to 15; *ret_pa is the physical address of the first. */
unsigned x86_fetch(X86Cpu *cpu, uint64_t va, uint8_t buf[15], uint64_t *ret_pa);
/* Where code of this linear address lies: host pointer to its page's bytes, NULL when not in RAM/ROM. Raises. */
const uint8_t *x86_fetch_page(X86Cpu *cpu, uint64_t va, uint64_t *ret_pa, RamBlock **ret_block, uint64_t *ret_offset);

/* After x86_fetch_page(): its translation outlives a flush of what is not global. */
bool x86_fetch_is_global(X86Cpu *cpu, uint64_t va);

/* Flushes; contexts follow the rules of the architecture. Own thread. */
void x86_tlb_flush_all(X86Cpu *cpu);                 /* global pages too: CR0.PG, CR4.PGE/PAE/SMEP.., A20, SMM */
void x86_tlb_flush_nonglobal(X86Cpu *cpu);           /* MOV CR3 */
void x86_tlb_flush_page(X86Cpu *cpu, uint64_t va);   /* INVLPG */
/*
 * SVM: to the address space of a guest, by its ASID, or of the host (0); CR3 and CR4 are that one's already.
 * What others have cached stays, unseen, until they are selected again; it goes when the nested page tables
 * are others than then (root). The flushes above and below are the current space's.
 */
void x86_tlb_select_asid(X86Cpu *cpu, uint32_t asid, uint64_t root);
void x86_tlb_flush_asid(X86Cpu *cpu, uint32_t asid); /* global pages too */
void x86_tlb_flush_all_asids(X86Cpu *cpu);
/* Withholds write permission (code or dirty tracking started) of a RAM page. Own thread. */
void x86_tlb_clean_page(X86Cpu *cpu, RamBlock *block, uint64_t page_offset);
/* The same for pages [first, first + count) of a block. Own thread. */
void x86_tlb_clean_range(X86Cpu *cpu, RamBlock *block, uint64_t first, uint64_t count);
/* PKRU, PKRS, or the data breakpoints, changed: cached rights go, translations stay. */
void x86_tlb_drop_rights(X86Cpu *cpu);
/* CR3 was loaded with bit 63 or a PCID: selects the address space. keep: its cached entries stay. */
void x86_tlb_select_pcid(X86Cpu *cpu, unsigned pcid, bool keep);
/* INVPCID types 0 to 2 of the manual for one PCID (type 3 is flush_nonglobal of all, see below). */
void x86_tlb_flush_pcid(X86Cpu *cpu, unsigned pcid);
void x86_tlb_flush_pcid_page(X86Cpu *cpu, unsigned pcid, uint64_t va);
void x86_tlb_flush_all_pcids(X86Cpu *cpu); /* but global pages stay */
/* Loads the PAE page-directory pointers from cr3. False: a reserved bit is set; nothing was changed. */
bool x86_load_pdptes(X86Cpu *cpu, uint64_t cr3);
/* Whether that would do. */
bool x86_pdptes_valid(X86Cpu *cpu, uint64_t cr3);
/* The same without the check: an entry with reserved bits faults when it is used (VMRUN). */
void x86_load_any_pdptes(X86Cpu *cpu, uint64_t cr3);
/* Made and freed with the CPU. */
void x86_mmu_new(X86Cpu *cpu);
void x86_mmu_free(X86Cpu *cpu);
/* Physical accesses of 1, 2, 4, 8 bytes through cpu->as with the A20 gate, side effects of writes included. */
uint64_t x86_phys_load(X86Cpu *cpu, uint64_t pa, unsigned size);
void x86_phys_store(X86Cpu *cpu, uint64_t pa, uint64_t value, unsigned size);
/* Memory map of the machine changed. Own thread. */
void x86_mmu_map_changed(X86Cpu *cpu);

/* The translator's hooks for pages with RAM_CODE; they stay NULL when it is not there. */
typedef struct X86CodeHooks {
    /* Bytes of a page with code were written by this CPU. */
    void (*written)(X86Cpu *cpu, RamBlock *block, uint64_t offset, unsigned length);
    /* The mapping of a code page may have changed: va ~0 stands for all (global says if global ones too). */
    void (*unmapped)(X86Cpu *cpu, uint64_t va, bool global);
    void (*context_selected)(X86Cpu *cpu);
} X86CodeHooks;
void x86_set_code_hooks(X86Cpu *cpu, const X86CodeHooks *hooks);

#endif
