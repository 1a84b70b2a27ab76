/*
 * Tracking of code pages: see codepage.h, and DBT design, section 14 (self-modifying code).
 *
 * A page is armed while any client keeps any granule of it: RAM_CODE is set in the block's flags,
 * so no soft TLB gives out a write pointer, and each write comes here. Arming asks the other CPUs
 * to drop the write pointers they hold; until all have done so the page does not count as watched.
 */
#include "cpu/x86/codepage.h"

#include <pthread.h>

#include "core/vm/machine.h"
#include "cpu/x86/mmu.h"

typedef struct BlockPages {
    RamBlock *block;
    uint64_t id, pages;
    CodePage *page;
    struct BlockPages *next;
} BlockPages;

typedef struct CodePages {
    pthread_mutex_t lock; /* arming and disarming, blocks */
    _Atomic(BlockPages *) blocks;
    X86CodeWritten *written;
    void *opaque;
    Machine *machine;
    MemSystem *mem; /* whose code listener is set; NULL: not yet */
    unsigned refs;
} CodePages;

static void written_behind(void *opaque, RamBlock *block, uint64_t offset, uint64_t length);

static const char service[] = "x86-code-pages";

static uint64_t granule_mask(uint64_t offset, unsigned length)
{
    unsigned first = (offset & (MEM_PAGE_SIZE - 1)) >> CODE_GRANULE_BITS;
    unsigned last = ((offset & (MEM_PAGE_SIZE - 1)) + length - 1) >> CODE_GRANULE_BITS;
    return BITS64(MIN(last, 63), first);
}

static BlockPages *find_block(CodePages *code, RamBlock *block)
{
    for (BlockPages *b = atomic_load_explicit(&code->blocks, memory_order_acquire); b != NULL;
         b = b->next) {
        if (b->block == block && b->id == block->id && b->pages == block->size >> MEM_PAGE_BITS) {
            return b;
        }
    }
    return NULL;
}

static BlockPages *need_block(CodePages *code, RamBlock *block)
{
    BlockPages *b = find_block(code, block);
    if (likely(b != NULL)) {
        return b;
    }
    pthread_mutex_lock(&code->lock);
    b = find_block(code, block);
    if (b == NULL) {
        b = g_new0(BlockPages, 1);
        b->block = block;
        b->id = block->id;
        b->pages = block->size >> MEM_PAGE_BITS;
        b->page = g_new0(CodePage, b->pages);
        b->next = code->blocks;
        if (code->mem == NULL) {
            code->mem = block->mem;
            mem_set_code_listener(code->mem, written_behind, code);
        }
        atomic_store_explicit(&code->blocks, b, memory_order_release);
    }
    pthread_mutex_unlock(&code->lock);
    return b;
}

/* --- writes --- */

/* With the lock held: stops watching a page of which nothing is kept. */
static void maybe_disarm(RamBlock *block, CodePage *page, uint64_t offset)
{
    for (unsigned client = 0; client < CODE_CLIENTS; client++) {
        if (page->granules[client] != 0) {
            return;
        }
    }
    if (page->armed && page->waiting == 0) {
        page->armed = false;
        atomic_fetch_and(&block->flags[offset >> MEM_PAGE_BITS], (uint8_t)~RAM_CODE);
    }
}

static void page_written(CodePages *code, X86Cpu *cpu, RamBlock *block, uint64_t offset,
                         unsigned length)
{
    BlockPages *b = find_block(code, block);
    if (b == NULL) {
        return;
    }
    CodePage *page = &b->page[offset >> MEM_PAGE_BITS];
    uint64_t mask = granule_mask(offset, length);
    atomic_thread_fence(memory_order_seq_cst); /* the bytes come before the look at granules, as in x86_code_add() */
    bool interp = atomic_load(&page->granules[CODE_INTERP]) & mask;
    bool dbt = atomic_load(&page->granules[CODE_DBT]) & mask;
    if (interp) {
        atomic_fetch_add(&page->gen, 1);
        atomic_store(&page->granules[CODE_INTERP], 0);
        if (cpu != NULL) {
            cpu->interp_stop = true;
        }
    }
    if (dbt && code->written != NULL) {
        code->written(code->opaque, cpu, block, offset, length);
    }
    if (interp || dbt) {
        pthread_mutex_lock(&code->lock);
        maybe_disarm(block, page, offset);
        pthread_mutex_unlock(&code->lock);
    }
}

static void bytes_written(CodePages *code, X86Cpu *cpu, RamBlock *block, uint64_t offset,
                          uint64_t length)
{
    while (length != 0) {
        uint64_t part = MIN(length, MEM_PAGE_SIZE - (offset & (MEM_PAGE_SIZE - 1)));
        page_written(code, cpu, block, offset, (unsigned)part);
        offset += part;
        length -= part;
    }
}

static void written_by_cpu(X86Cpu *cpu, RamBlock *block, uint64_t offset, unsigned length)
{
    bytes_written(cpu->code, cpu, block, offset, length);
}

static void written_behind(void *opaque, RamBlock *block, uint64_t offset, uint64_t length)
{
    bytes_written(opaque, NULL, block, offset, length);
}

/* --- arming --- */

typedef struct Shootdown {
    CodePage *page;
    RamBlock *block;
    uint64_t offset;
} Shootdown;

static void give_up_pointers(Vcpu *vcpu, void *opaque)
{
    Shootdown *s = opaque;
    x86_tlb_clean_page(x86_cpu_of(vcpu), s->block, s->offset);
    atomic_fetch_sub(&s->page->waiting, 1);
    g_free(s);
}

static void arm(CodePages *code, X86Cpu *cpu, CodePage *page, RamBlock *block, uint64_t offset)
{
    offset &= ~(MEM_PAGE_SIZE - 1);
    page->armed = true;
    atomic_fetch_or(&block->flags[offset >> MEM_PAGE_BITS], RAM_CODE);
    x86_tlb_clean_page(cpu, block, offset);
    for (unsigned i = 0; code->machine != NULL && i < code->machine->vcpus->len; i++) {
        Vcpu *other = g_ptr_array_index(code->machine->vcpus, i);
        if (other != cpu->vcpu && other->arch != NULL && other->created) {
            Shootdown *s = g_new(Shootdown, 1);
            *s = (Shootdown) { page, block, offset };
            atomic_fetch_add(&page->waiting, 1);
            vcpu_run_async(other, give_up_pointers, s);
        }
    }
}

CodePage *x86_code_page(X86Cpu *cpu, RamBlock *block, uint64_t offset)
{
    x86_code_attach(cpu);
    return &need_block(cpu->code, block)->page[offset >> MEM_PAGE_BITS];
}

bool x86_code_add(X86Cpu *cpu, unsigned client, RamBlock *block, uint64_t offset, unsigned length)
{
    CodePage *page = x86_code_page(cpu, block, offset);
    CodePages *code = cpu->code;
    uint64_t mask = granule_mask(offset, length);
    if ((atomic_load(&page->granules[client]) & mask) != mask) {
        pthread_mutex_lock(&code->lock);
        atomic_fetch_or(&page->granules[client], mask);
        if (!page->armed) {
            arm(code, cpu, page, block, offset);
        }
        pthread_mutex_unlock(&code->lock);
    }
    return atomic_load(&page->waiting) == 0;
}

void x86_code_keep_only(X86Cpu *cpu, unsigned client, RamBlock *block, uint64_t offset,
                        uint64_t granules)
{
    CodePage *page = x86_code_page(cpu, block, offset);
    CodePages *code = cpu->code;
    pthread_mutex_lock(&code->lock);
    atomic_fetch_and(&page->granules[client], granules);
    maybe_disarm(block, page, offset);
    pthread_mutex_unlock(&code->lock);
}

/* --- life --- */

void x86_code_set_listener(X86Cpu *cpu, X86CodeWritten *written, void *opaque)
{
    x86_code_attach(cpu);
    CodePages *code = cpu->code;
    code->opaque = opaque;
    code->written = written;
}

void x86_code_set_hooks(X86Cpu *cpu, void (*unmapped)(X86Cpu *cpu, uint64_t va, bool global),
                        void (*context_selected)(X86Cpu *cpu))
{
    x86_code_attach(cpu);
    x86_set_code_hooks(cpu, &(X86CodeHooks) { written_by_cpu, unmapped, context_selected });
}

void x86_code_attach(X86Cpu *cpu)
{
    if (likely(cpu->code != NULL)) {
        return;
    }
    Machine *machine = cpu->vcpu->machine;
    CodePages *code = machine != NULL ? machine_service(machine, service) : NULL;
    if (code == NULL) {
        code = g_new0(CodePages, 1);
        pthread_mutex_init(&code->lock, NULL);
        code->machine = machine;
        if (machine != NULL) {
            machine_set_service(machine, service, code);
        }
    }
    code->refs++;
    cpu->code = code;
    x86_set_code_hooks(cpu, &(X86CodeHooks) { written_by_cpu, NULL, NULL });
}

void x86_code_detach(X86Cpu *cpu)
{
    CodePages *code = cpu->code;
    cpu->code = NULL;
    if (code == NULL || --code->refs != 0) {
        return;
    }
    if (code->machine != NULL) {
        machine_set_service(code->machine, service, NULL);
    }
    if (code->mem != NULL) {
        mem_set_code_listener(code->mem, NULL, NULL);
    }
    for (BlockPages *b = code->blocks, *next; b != NULL; b = next) {
        next = b->next;
        g_free(b->page);
        g_free(b);
    }
    pthread_mutex_destroy(&code->lock);
    g_free(code);
}
