/* Page walks in every paging mode, rights, accessed and dirty bits, the TLB. */
#include "cpu/x86/box_test.h"

#define MODEL "max"
enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX BIT64(63)
enum { T0 = 0x100000, T1 = 0x101000, T2 = 0x102000, T3 = 0x103000, T4 = 0x104000, PAGE = 0x200000 };

typedef struct Mode {
    const char *name;
    uint64_t cr4, efer;
    unsigned levels, entry; /* tables; bytes of an entry */
} Mode;
static const Mode modes[] = {
    { "32-bit", 0, 0, 2, 4 },
    { "pae", CR4_PAE, EFER_NXE, 3, 8 },
    { "4-level", CR4_PAE, EFER_NXE | EFER_LME | EFER_LMA, 4, 8 },
    { "5-level", CR4_PAE | CR4_LA57, EFER_NXE | EFER_LME | EFER_LMA, 5, 8 },
};
#define VA 0x00403000ull

/* One page at VA, every level's entry with these bits. Returns the leaf entry's address. */
static uint64_t map(Box *box, const Mode *mode, uint64_t upper, uint64_t leaf)
{
    unsigned shift = mode->entry == 8 ? 12 + 9 * (mode->levels - 1) : 22, bits = mode->entry == 8 ? 9 : 10;
    uint64_t table = T0;
    memset(box->block->host + T0, 0, 5 * 4096);
    for (unsigned level = 1; level < mode->levels; level++, shift -= bits) {
        uint64_t at = table + (VA >> shift & (BIT(bits) - 1)) * mode->entry;
        bool pdpte = mode->levels == 3 && level == 1;
        box_put(box, at, (table + 4096) | (pdpte ? P : upper), mode->entry);
        table += 4096;
    }
    uint64_t at = table + (VA >> 12 & (BIT(bits) - 1)) * mode->entry;
    box_put(box, at, PAGE | leaf, mode->entry);
    return at;
}

static void enter(Box *box, const Mode *mode, uint64_t cr4, unsigned cpl)
{
    X86Cpu *cpu = box->cpu;
    cpu->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET;
    cpu->cr4 = mode->cr4 | cr4;
    cpu->efer = mode->efer;
    cpu->cr3 = T0;
    cpu->cpl = cpl;
    x86_tlb_flush_all(cpu);
    if (mode->levels == 3) {
        g_assert_true(x86_load_pdptes(cpu, T0));
    }
    x86_mode_changed(cpu);
}

typedef struct Case {
    uint64_t upper, leaf; /* bits of the entries */
    uint64_t cr4;
    uint64_t flags;       /* RFLAGS */
    unsigned cpl;
    X86Access access;
    int error; /* -1: allowed */
} Case;
static const Case cases[] = {
    { P | W | U, P | W | U, 0, 0, 3, X86_READ, -1 },
    { P | W | U, P | W | U, 0, 0, 3, X86_WRITE, -1 },
    { P | W | U, P | U, 0, 0, 3, X86_READ, -1 },
    { P | W | U, P | U, 0, 0, 3, X86_WRITE, 7 },
    { P | U, P | W | U, 0, 0, 3, X86_WRITE, 7 },
    { P | W | U, P | W, 0, 0, 3, X86_READ, 5 },
    { P | W, P | W | U, 0, 0, 3, X86_READ, 5 },
    { P | W | U, 0, 0, 0, 3, X86_READ, 4 },
    { P | W | U, 0, 0, 0, 3, X86_WRITE, 6 },
    { 0, P | W | U, 0, 0, 0, X86_READ, 0 },
    { P | W | U, P, 0, 0, 0, X86_WRITE, 3 },
    { P | W | U, P | W, 0, 0, 0, X86_WRITE, -1 },
    { P | W | U, P | W | U, CR4_SMAP, 0, 0, X86_READ, 1 },
    { P | W | U, P | W | U, CR4_SMAP, X86_AC, 0, X86_READ, -1 },
    { P | W | U, P | W | U, CR4_SMAP, X86_AC, 0, X86_WRITE, -1 },
    { P | W | U, P | W, CR4_SMAP, 0, 0, X86_READ, -1 },
    { P | W | U, P | W | U, CR4_SMAP, 0, 3, X86_READ, -1 },
};

static void check_case(Box *box, const Mode *mode, const Case *c)
{
    X86Cpu *cpu = box->cpu;
    uint64_t pa;
    map(box, mode, c->upper, c->leaf);
    x86_hot(cpu)->rflags = 2 | c->flags;
    enter(box, mode, c->cr4, c->cpl);
    int vector = BOX_FAULT(box, x86_mmu_fill(cpu, VA + 0x123, c->access, X86_AS_CPL, &pa));
    if (c->error < 0) {
        g_assert_cmpint(vector, ==, -1);
        g_assert_cmphex(pa, ==, PAGE + 0x123);
    } else {
        g_assert_cmpint(vector, ==, EXC_PF);
        g_assert_cmphex(cpu->fault.error, ==, c->error);
        g_assert_cmphex(cpu->fault.next_rip, ==, VA + 0x123);
        if (mode->levels == 2) { /* a walk that fails leaves no trace in the directory */
            g_assert_cmphex(box_get(box, T0 + (VA >> 22) * 4, 4) & A, ==, 0);
        }
    }
}

static void test_rights(void)
{
    Box *box = box_new(MODEL);
    for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
        for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
            g_test_message("%s case %u", modes[m].name, n);
            check_case(box, &modes[m], &cases[n]);
        }
    }
    box_free(box);
}

static void test_accessed_dirty(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    for (unsigned m = 0; m < ARRAY_SIZE(modes); m++) {
        uint64_t leaf = map(box, &modes[m], P | W | U, P | W | U);
        enter(box, &modes[m], 0, 3);
        BOX_EXPECT(box, -1, x86_load(cpu, VA, 4));
        g_assert_cmphex(box_get(box, leaf, 4) & (A | D), ==, A);
        g_assert_cmphex(box_get(box, T0 + (m == 0 ? 4 : 0), 4) & A, ==, m == 1 ? 0 : A); /* PDPTEs have none */
        g_assert_null(x86_tlb_hit(cpu, VA, 4, true)); /* clean: the first write must be seen */
        g_assert_nonnull(x86_tlb_hit(cpu, VA, 4, false));
        BOX_EXPECT(box, -1, x86_store(cpu, VA, 0x1234, 4));
        g_assert_cmphex(box_get(box, leaf, 4) & (A | D), ==, A | D);
        g_assert_nonnull(x86_tlb_hit(cpu, VA, 4, true));
        g_assert_cmphex(box_get(box, PAGE, 4), ==, 0x1234);
    }
    box_free(box);
}

static void test_fetch(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint8_t bytes[15];
    uint64_t pa;
    const Mode *mode = &modes[2];
    map(box, mode, P | W | U, P | W | U);
    enter(box, mode, 0, 3);
    BOX_EXPECT(box, -1, x86_fetch(cpu, VA + 5, bytes, &pa));
    g_assert_cmphex(pa, ==, PAGE + 5);
    map(box, mode, P | W | U, P | W | U | NX);
    enter(box, mode, 0, 3);
    BOX_EXPECT(box, EXC_PF, x86_fetch(cpu, VA, bytes, &pa));
    g_assert_cmphex(cpu->fault.error, ==, 0x15);
    map(box, mode, P | W | U | NX, P | W | U);
    enter(box, mode, 0, 0);
    BOX_EXPECT(box, EXC_PF, x86_fetch(cpu, VA, bytes, &pa));
    g_assert_cmphex(cpu->fault.error, ==, 0x11);
    map(box, mode, P | W | U, P | W | U);
    enter(box, mode, CR4_SMEP, 0);
    BOX_EXPECT(box, EXC_PF, x86_fetch(cpu, VA, bytes, &pa));
    g_assert_cmphex(cpu->fault.error, ==, 0x11);
    /* The next page is missing: what there is comes without a fault. */
    enter(box, mode, 0, 0);
    volatile unsigned count = 0;
    BOX_EXPECT(box, -1, count = x86_fetch(cpu, VA + 0xffb, bytes, &pa));
    g_assert_cmpuint(count, ==, 5);
    box_free(box);
}

static void test_reserved(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint64_t pa;
    map(box, &modes[2], P | W | U, P | W | U | BIT64(45)); /* beyond 40 physical bits */
    enter(box, &modes[2], 0, 3);
    BOX_EXPECT(box, EXC_PF, x86_mmu_fill(cpu, VA, X86_READ, X86_AS_CPL, &pa));
    g_assert_cmphex(cpu->fault.error, ==, 0xd);
    map(box, &modes[2], P | W | U, P | W | U | NX);
    enter(box, &modes[2], 0, 3);
    cpu->efer &= ~(uint64_t)EFER_NXE;
    BOX_EXPECT(box, EXC_PF, x86_mmu_fill(cpu, VA, X86_WRITE, X86_AS_CPL, &pa));
    g_assert_cmphex(cpu->fault.error, ==, 0xf);
    /* A PDPTE with a reserved bit is refused at once. */
    map(box, &modes[1], P | W | U, P | W | U);
    box_put(box, T0 + 8, P | W, 8);
    g_assert_false(x86_load_pdptes(cpu, T0));
    box_free(box);
}

static void test_large(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint64_t pa;
    /* 2 MiB */
    map(box, &modes[2], P | W | U, 0);
    box_put(box, T2 + 8 * (VA >> 21 & 511), 0x200000 | P | W | U | PS, 8);
    enter(box, &modes[2], 0, 3);
    BOX_EXPECT(box, -1, x86_mmu_fill(cpu, VA, X86_WRITE, X86_AS_CPL, &pa));
    g_assert_cmphex(pa, ==, 0x200000 + (VA & 0x1fffff));
    g_assert_cmphex(box_get(box, T2 + 8 * (VA >> 21 & 511), 8) & (A | D), ==, A | D);
    /* INVLPG of another address in it takes all its pieces. */
    g_assert_nonnull(x86_tlb_hit(cpu, VA, 1, false));
    x86_tlb_flush_page(cpu, VA + 0x7000);
    g_assert_null(x86_tlb_hit(cpu, VA, 1, false));
    /* 4 MiB with PSE */
    map(box, &modes[0], P | W | U, 0);
    box_put(box, T0 + 4 * (VA >> 22), P | W | U | PS, 4);
    enter(box, &modes[0], CR4_PSE, 3);
    BOX_EXPECT(box, -1, x86_mmu_fill(cpu, VA, X86_READ, X86_AS_CPL, &pa));
    g_assert_cmphex(pa, ==, VA & 0x3fffff);
    /* without PSE the bit means nothing, and the entry leads to a table of zeros at 0 */
    enter(box, &modes[0], 0, 3);
    BOX_EXPECT(box, EXC_PF, x86_mmu_fill(cpu, VA, X86_READ, X86_AS_CPL, &pa));
    box_free(box);
}

static void test_flush(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    const Mode *mode = &modes[2];
    uint64_t leaf = map(box, mode, P | W | U, P | W | U | A | D);
    enter(box, mode, CR4_PGE, 3);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    box_put(box, leaf, 0, 8);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1)); /* still cached */
    x86_tlb_flush_page(cpu, VA);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    /* Global pages survive MOV CR3. */
    box_put(box, leaf, PAGE | P | W | U | A | D | G, 8);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    box_put(box, leaf, 0, 8);
    x86_tlb_flush_nonglobal(cpu);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    x86_tlb_flush_all(cpu);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    box_put(box, leaf, PAGE | P | W | U | A | D, 8);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    box_put(box, leaf, 0, 8);
    x86_tlb_flush_nonglobal(cpu);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    box_free(box);
}

static void test_pcid(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    const Mode *mode = &modes[2];
    uint64_t leaf = map(box, mode, P | W | U, P | W | U | A | D);
    enter(box, mode, CR4_PCIDE, 0);
    x86_tlb_select_pcid(cpu, 1, false);
    cpu->cr3 = T0 | 1;
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    box_put(box, leaf, 0, 8);
    cpu->cr3 = T0 | 2;
    x86_tlb_select_pcid(cpu, 2, false);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    cpu->cr3 = T0 | 1;
    x86_tlb_select_pcid(cpu, 1, true); /* kept */
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    x86_tlb_select_pcid(cpu, 1, false);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    box_free(box);
}

static void test_protection_keys(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    map(box, &modes[2], P | W | U, P | W | U | (uint64_t)5 << 59);
    enter(box, &modes[2], CR4_PKE, 3);
    cpu->pkru = 2 << 10; /* key 5: no writes */
    x86_tlb_drop_rights(cpu);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    BOX_EXPECT(box, EXC_PF, x86_store(cpu, VA, 0, 1));
    g_assert_cmphex(cpu->fault.error, ==, 0x27);
    cpu->pkru = 1 << 10;
    x86_tlb_drop_rights(cpu);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    g_assert_cmphex(cpu->fault.error, ==, 0x25);
    box_free(box);
}

static void test_protection_keys_of_supervisors(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    map(box, &modes[2], P | W, P | W | (uint64_t)5 << 59);
    enter(box, &modes[2], CR4_PKE | CR4_PKS, 0);
    cpu->pkru = 3 << 10; /* does not matter here */
    x86_wrmsr(cpu, 0x6e1, 2 << 10);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    cpu->cr0 &= ~(uint64_t)CR0_WP;
    x86_tlb_drop_rights(cpu);
    BOX_EXPECT(box, -1, x86_store(cpu, VA, 0, 1));
    cpu->cr0 |= CR0_WP;
    x86_tlb_drop_rights(cpu);
    BOX_EXPECT(box, EXC_PF, x86_store(cpu, VA, 0, 1));
    g_assert_cmphex(cpu->fault.error, ==, 0x23);
    x86_wrmsr(cpu, 0x6e1, 1 << 10);
    BOX_EXPECT(box, EXC_PF, x86_load(cpu, VA, 1));
    g_assert_cmphex(cpu->fault.error, ==, 0x21);
    cpu->cr4 &= ~(uint64_t)CR4_PKS;
    x86_tlb_drop_rights(cpu);
    BOX_EXPECT(box, -1, x86_load(cpu, VA, 1));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0x6e1, BIT64(32)));
    box_free(box);
}

static void test_crossing(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint64_t leaf = map(box, &modes[2], P | W | U, P | W | U);
    enter(box, &modes[2], 0, 3);
    box_put(box, PAGE + 0xffc, 0x11223344, 4);
    /* The second page is missing: nothing is written to the first. */
    BOX_EXPECT(box, EXC_PF, x86_store(cpu, VA + 0xffe, 0xaabbccdd, 4));
    g_assert_cmphex(cpu->fault.next_rip, ==, VA + 0x1000);
    g_assert_cmphex(box_get(box, PAGE + 0xffc, 4), ==, 0x11223344);
    box_put(box, leaf + 8, 0x210000 | P | W | U, 8);
    BOX_EXPECT(box, -1, x86_store(cpu, VA + 0xffe, 0xaabbccdd, 4));
    g_assert_cmphex(box_get(box, PAGE + 0xffe, 2), ==, 0xccdd);
    g_assert_cmphex(box_get(box, 0x210000, 2), ==, 0xaabb);
    volatile uint64_t value = 0;
    BOX_EXPECT(box, -1, value = x86_load(cpu, VA + 0xffe, 4));
    g_assert_cmphex(value, ==, 0xaabbccdd);
    box_free(box);
}

static void test_dirty_tracking(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint8_t bits[2];
    lock_acquire(&box->lock);
    ram_track(box->block, RAM_DIRTY_DISPLAY, true);
    ram_take_dirty(box->block, RAM_DIRTY_DISPLAY, 5, 2, bits);
    lock_release(&box->lock);
    x86_tlb_clean_range(cpu, box->block, 5, 2);
    BOX_EXPECT(box, -1, x86_load(cpu, 0x5000, 1));
    g_assert_null(x86_tlb_hit(cpu, 0x5000, 1, true));
    BOX_EXPECT(box, -1, x86_store(cpu, 0x5000, 1, 1));
    g_assert_nonnull(x86_tlb_hit(cpu, 0x5000, 1, true));
    lock_acquire(&box->lock);
    g_assert_true(ram_take_dirty(box->block, RAM_DIRTY_DISPLAY, 5, 2, bits));
    lock_release(&box->lock);
    g_assert_cmpuint(bits[0], ==, 1);
    g_assert_cmpuint(bits[1], ==, 0);
    x86_tlb_clean_range(cpu, box->block, 5, 2);
    g_assert_null(x86_tlb_hit(cpu, 0x5000, 1, true));
    box_free(box);
}

/* As translated code does: a site takes over the TLB's entry. */
static X86Site *keep_site(Box *box, uint64_t va, bool write)
{
    X86Cpu *cpu = box->cpu;
    X86Sites *sites = x86_context_sites(cpu, cpu->context);
    BOX_EXPECT(box, -1, write ? x86_store(cpu, va, 1, 1) : (void)x86_load(cpu, va, 1));
    g_assert_nonnull(x86_tlb_hit(cpu, va, 1, write));
    const X86Tlbe *e = &cpu->tlb[(va >> 12) & (X86_TLB_SIZE - 1)];
    uint64_t tag = write ? e->wtag : e->rtag;
    sites->site[70] = (X86Site){ tag, e->host, e->meta, e->host - tag };
    sites->used[70 >> 6] |= BIT64(70 & 63);
    return &sites->site[70];
}

#define SITE_GOES(write, event)                                                                    \
    do {                                                                                           \
        X86Site *site_ = keep_site(box, VA, write);                                                \
        event;                                                                                     \
        g_assert_cmphex(site_->tag, ==, X86_SITE_TAG);                                             \
    } while (0)

/* What takes a page from the TLB takes it from the sites. */
static void test_sites(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint64_t leaf = map(box, &modes[2], P | W | U, P | W | U | A | D);
    enter(box, &modes[2], CR4_PGE, 3);
    g_assert_cmphex(x86_context_sites(cpu, cpu->context)->site[70].tag, ==, X86_SITE_TAG);
    SITE_GOES(false, x86_tlb_flush_page(cpu, VA));
    SITE_GOES(false, x86_tlb_flush_nonglobal(cpu));
    box_put(box, leaf, PAGE | P | W | U | A | D | G, 8);
    X86Site *site = keep_site(box, VA, true);
    x86_tlb_flush_nonglobal(cpu);
    g_assert_cmphex(site->tag, ==, VA);
    SITE_GOES(true, x86_tlb_flush_all(cpu));
    SITE_GOES(true, x86_tlb_drop_rights(cpu));
    SITE_GOES(true, x86_tlb_clean_page(cpu, box->block, PAGE));
    /* Copy on write: the fault alone, and the new page behind it. */
    box_put(box, leaf, PAGE | P | U | A, 8);
    x86_tlb_flush_all(cpu);
    SITE_GOES(false, BOX_EXPECT(box, EXC_PF, x86_store(cpu, VA, 1, 1)));
    SITE_GOES(false, (box_put(box, leaf, (PAGE + 0x1000) | P | W | U | A | D, 8), x86_store(cpu, VA, 1, 1)));
    box_free(box);
}

enum { PLACES = 32 };

/* The page of VA, mapped every 2 MiB. */
static uint64_t place(unsigned n)
{
    return (VA & 0x1fffff) + n * 0x200000ull;
}

static unsigned places_hit(X86Cpu *cpu, bool write)
{
    unsigned hits = 0;
    for (unsigned n = 0; n < PLACES; n++) {
        hits += x86_tlb_hit(cpu, place(n), 1, write) != NULL;
    }
    return hits;
}

static void place_fill(Box *box, uint64_t va)
{
    BOX_EXPECT(box, -1, x86_store(box->cpu, va, 1, 1));
    BOX_EXPECT(box, -1, x86_load(box->cpu, va, 1));
}

static void places_fill(Box *box)
{
    for (unsigned n = 0; n < PLACES; n++) {
        place_fill(box, place(n));
    }
    g_assert_cmpuint(places_hit(box->cpu, false), ==, PLACES);
    g_assert_cmpuint(places_hit(box->cpu, true), ==, PLACES);
}

/* Flushes find entries wherever in the TLB they are. */
static void test_places(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    uint64_t leaf = map(box, &modes[2], P | W | U, P | W | U | A | D);
    for (unsigned n = 0; n < PLACES; n++) {
        box_put(box, T2 + 8 * n, T3 | P | W | U | A, 8);
    }
    enter(box, &modes[2], CR4_PGE, 3);
    places_fill(box);
    x86_tlb_clean_page(cpu, box->block, PAGE);
    g_assert_cmpuint(places_hit(cpu, false), ==, PLACES);
    g_assert_cmpuint(places_hit(cpu, true), ==, 0);
    places_fill(box);
    x86_tlb_flush_nonglobal(cpu);
    g_assert_cmpuint(places_hit(cpu, false) + places_hit(cpu, true), ==, 0);
    box_put(box, leaf, PAGE | P | W | U | A | D | G, 8);
    places_fill(box);
    x86_tlb_flush_nonglobal(cpu);
    g_assert_cmpuint(places_hit(cpu, true), ==, PLACES);
    x86_tlb_flush_all(cpu);
    g_assert_cmpuint(places_hit(cpu, false) + places_hit(cpu, true), ==, 0);
    box_free(box);
}

static void test_a20(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    volatile uint64_t value = 0;
    box_put(box, 0x500, 0x55, 1);
    box_put(box, 0x100500, 0xaa, 1);
    BOX_EXPECT(box, -1, value = x86_load(cpu, 0x100500, 1));
    g_assert_cmphex(value, ==, 0xaa);
    x86_set_a20(cpu, false);
    BOX_EXPECT(box, -1, value = x86_load(cpu, 0x100500, 1));
    g_assert_cmphex(value, ==, 0x55);
    box_free(box);
}

static void test_watch(void)
{
    Box *box = box_new(MODEL);
    X86Cpu *cpu = box->cpu;
    BOX_EXPECT(box, -1, {
        x86_write_dr(cpu, 0, 0x5004);
        x86_write_dr(cpu, 7, 0x000d0002); /* DR0: global, writes, 4 bytes */
        x86_load(cpu, 0x5004, 4);
    });
    g_assert_cmphex(cpu->debug_pending, ==, 0);
    BOX_EXPECT(box, -1, x86_store(cpu, 0x5000, 1, 4));
    g_assert_cmphex(cpu->debug_pending, ==, 0);
    BOX_EXPECT(box, -1, x86_store(cpu, 0x5006, 1, 1));
    g_assert_cmphex(cpu->debug_pending, ==, 1);
    box_free(box);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/mmu/rights", test_rights);
    g_test_add_func("/x86/mmu/accessed-dirty", test_accessed_dirty);
    g_test_add_func("/x86/mmu/fetch", test_fetch);
    g_test_add_func("/x86/mmu/reserved", test_reserved);
    g_test_add_func("/x86/mmu/large", test_large);
    g_test_add_func("/x86/mmu/flush", test_flush);
    g_test_add_func("/x86/mmu/pcid", test_pcid);
    g_test_add_func("/x86/mmu/protection-keys", test_protection_keys);
    g_test_add_func("/x86/mmu/protection-keys-of-supervisors", test_protection_keys_of_supervisors);
    g_test_add_func("/x86/mmu/crossing", test_crossing);
    g_test_add_func("/x86/mmu/dirty-tracking", test_dirty_tracking);
    g_test_add_func("/x86/mmu/sites", test_sites);
    g_test_add_func("/x86/mmu/places", test_places);
    g_test_add_func("/x86/mmu/a20", test_a20);
    g_test_add_func("/x86/mmu/watch", test_watch);
    return g_test_run();
}
