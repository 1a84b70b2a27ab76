/*
 * The local APIC in x2APIC mode and the I/O APIC, register by register: Intel SDM volume 3, chapter 11, and data sheet 290566.
 * No CPU runs; what a CPU would take is asked of its local APIC.
 */
#include "cpu/x86/apic.h"
#include "cpu/x86/sys.h"
#include "hw/intc/ioapic.h"
#include "machine/x86/test_pc.h"

enum { X_TPR = 0x808, X_PPR = 0x80a, X_EOI = 0x80b, X_SVR = 0x80f, X_ESR = 0x828, X_ICR = 0x830, X_LVT_LINT0 = 0x835, X_LVT_LINT1 = 0x836,
       X_SELF_IPI = 0x83f };
enum { X2APIC_BASE = 0xfee00d00u, TO_SELF = 1 << 18, MASKED = 1 << 16, LEVEL = 1 << 15, REMOTE = 1 << 14, PENDING = 1 << 12 };

typedef struct Fixture {
    TestPc pc;
    Machine *machine;
    X86Apic *apic;
    IoApic *ioapic;
    bool ready;
} Fixture;

static bool put(Fixture *f, uint32_t msr, uint64_t value)
{
    return f->apic->ops->msr_write(f->apic, msr, value);
}

static uint64_t get(Fixture *f, uint32_t msr)
{
    uint64_t value = ~0ull;
    g_assert_true(f->apic->ops->msr_read(f->apic, msr, &value));
    return value;
}

static int take(Fixture *f)
{
    return f->apic->ops->take(f->apic);
}

static void set_up(Fixture *f, gconstpointer unused)
{
    f->ready = test_pc_setup(&f->pc);
    if (!f->ready) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    f->machine = f->pc.machine;
    X86Cpu *cpu = x86_cpu_of(g_ptr_array_index(f->machine->vcpus, 0));
    cpu->features[X86_FEAT_1_ECX] |= BIT(21); /* x2APIC */
    f->apic = cpu->apic;
    f->ioapic = ioapic_of(f->machine);
    g_assert_true(f->apic->ops->set_base(f->apic, X2APIC_BASE));
    g_assert_true(put(f, X_LVT_LINT0, MASKED));
    g_assert_true(put(f, X_SVR, 0x1ff));
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    if (f->ready) {
        g_rand_free(f->pc.rand);
        test_pc_tear_down(&f->pc);
    }
}

static void test_priorities(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    g_assert_true(put(f, X_SELF_IPI, 0x41));
    g_assert_true(put(f, X_ICR, TO_SELF | 0x51));
    g_assert_cmphex(take(f), ==, 0x51);
    g_assert_cmphex(get(f, X_PPR), ==, 0x50);
    g_assert_cmpint(take(f), ==, -1);
    g_assert_true(put(f, X_SELF_IPI, 0x5f)); /* of the class in service */
    g_assert_cmpint(take(f), ==, -1);
    g_assert_true(put(f, X_SELF_IPI, 0x60));
    g_assert_cmphex(take(f), ==, 0x60);
    g_assert_true(put(f, X_EOI, 0) && put(f, X_EOI, 0));
    g_assert_true(put(f, X_TPR, 0x50));
    g_assert_cmpint(take(f), ==, -1);
    g_assert_true(put(f, X_TPR, 0x4f));
    g_assert_cmphex(take(f), ==, 0x5f);
    g_assert_true(put(f, X_EOI, 0) && put(f, X_TPR, 0));
    g_assert_cmphex(take(f), ==, 0x41);
    g_assert_true(put(f, X_EOI, 0));
    g_assert_cmphex(get(f, X_PPR), ==, 0);
}

static void test_reserved(Fixture *f, gconstpointer unused)
{
    uint64_t value;
    if (!f->ready) {
        return;
    }
    static const uint8_t reserved[] = { 13, 16, 17, 20, 25, 31 };
    for (unsigned n = 0; n < ARRAY_SIZE(reserved); n++) {
        g_assert_false(put(f, X_ICR, TO_SELF | 0x41 | BIT64(reserved[n])));
    }
    g_assert_cmpint(take(f), ==, -1);
    g_assert_true(put(f, X_ICR, TO_SELF | PENDING | 0x41)); /* read only */
    g_assert_cmphex(get(f, X_ICR), ==, TO_SELF | 0x41);
    g_assert_cmphex(take(f), ==, 0x41);
    g_assert_false(put(f, X_PPR, 0) || put(f, X_EOI, 1) || put(f, X_ESR, 1) || put(f, X_TPR, 0x100) || put(f, X_SVR, BIT64(32)));
    g_assert_false(f->apic->ops->msr_read(f->apic, X_SELF_IPI, &value) || f->apic->ops->msr_read(f->apic, X_EOI, &value));
    g_assert_false(put(f, 0x831, 0)); /* the upper half of ICR has no register of its own */
    g_assert_true(put(f, X_LVT_LINT1, 0xffffffff));
    g_assert_cmphex(get(f, X_LVT_LINT1), ==, 0x1a7ff);
}

static void test_errors(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    g_assert_true(put(f, X_SELF_IPI, 0x0f));
    g_assert_cmphex(get(f, X_ESR), ==, 0); /* shown by a write */
    g_assert_true(put(f, X_ESR, 0));
    g_assert_cmphex(get(f, X_ESR), ==, 0x20); /* send illegal vector */
    g_assert_true(put(f, X_ESR, 0));
    g_assert_cmphex(get(f, X_ESR), ==, 0);
}

/* Turned off by software: entries are masked and stay so, nothing is accepted. */
static void test_disabled(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    g_assert_true(put(f, X_LVT_LINT1, 0x400) && put(f, X_SVR, 0xff));
    g_assert_cmphex(get(f, X_LVT_LINT1), ==, MASKED | 0x400);
    g_assert_true(put(f, X_LVT_LINT1, 0x400));
    g_assert_cmphex(get(f, X_LVT_LINT1), ==, MASKED | 0x400);
    g_assert_true(put(f, X_SELF_IPI, 0x41) && put(f, X_SVR, 0x1ff));
    g_assert_cmpint(take(f), ==, -1);
}

/* --- I/O APIC --- */

static void io_put(Fixture *f, unsigned reg, uint32_t value)
{
    (void)mem_store(f->machine->as, 0xfec00000, 4, reg);
    (void)mem_store(f->machine->as, 0xfec00010, 4, value);
}

static uint32_t io_get(Fixture *f, unsigned reg)
{
    uint64_t value = 0;
    (void)mem_store(f->machine->as, 0xfec00000, 4, reg);
    (void)mem_load(f->machine->as, 0xfec00010, 4, &value);
    return (uint32_t)value;
}

static void test_edges(Fixture *f, gconstpointer unused)
{
    enum { PIN = 20, LOW = 0x10 + 2 * PIN };
    if (!f->ready) {
        return;
    }
    io_put(f, LOW + 1, 0);
    io_put(f, LOW, MASKED | 0x45);
    ioapic_set_irq(f->ioapic, PIN, 1); /* while it is masked: lost */
    io_put(f, LOW, 0x45);
    g_assert_cmpint(take(f), ==, -1);
    ioapic_set_irq(f->ioapic, PIN, 1);
    g_assert_cmpint(take(f), ==, -1);
    ioapic_set_irq(f->ioapic, PIN, 0);
    ioapic_set_irq(f->ioapic, PIN, 1);
    g_assert_true(ioapic_edge_waits(f->ioapic, PIN));
    g_assert_cmphex(take(f), ==, 0x45);
    g_assert_false(ioapic_edge_waits(f->ioapic, PIN));
    g_assert_true(put(f, X_EOI, 0));
    io_put(f, LOW, 0xfffe0000 | MASKED | REMOTE | PENDING | 0x45); /* what is reserved and read only */
    g_assert_cmphex(io_get(f, LOW), ==, MASKED | 0x45);
    ioapic_set_irq(f->ioapic, PIN, 0);
}

static void test_levels(Fixture *f, gconstpointer unused)
{
    enum { PIN = 21, LOW = 0x10 + 2 * PIN };
    if (!f->ready) {
        return;
    }
    io_put(f, LOW + 1, 0);
    io_put(f, LOW, MASKED | LEVEL | 0x46);
    ioapic_set_irq(f->ioapic, PIN, 1); /* while it is masked: seen later */
    g_assert_cmpint(take(f), ==, -1);
    io_put(f, LOW, LEVEL | 0x46);
    g_assert_cmphex(io_get(f, LOW), ==, REMOTE | LEVEL | 0x46);
    g_assert_cmphex(take(f), ==, 0x46);
    g_assert_true(put(f, X_EOI, 0)); /* still up: again */
    g_assert_cmphex(take(f), ==, 0x46);
    ioapic_set_irq(f->ioapic, PIN, 0);
    g_assert_cmphex(io_get(f, LOW), ==, REMOTE | LEVEL | 0x46);
    g_assert_true(put(f, X_EOI, 0));
    g_assert_cmphex(io_get(f, LOW), ==, LEVEL | 0x46);
    g_assert_cmpint(take(f), ==, -1);
    io_put(f, 1, 0xffffffff); /* the version */
    g_assert_cmphex(io_get(f, 1), ==, 0x00170020);
    io_put(f, 0, 0xffffffff);
    g_assert_cmphex(io_get(f, 0), ==, 0x0f000000);
    g_assert_cmphex(io_get(f, 0xff), ==, 0);
    io_put(f, 0xff, 0xffffffff);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name, function) g_test_add("/pc/interrupt/" name, Fixture, NULL, set_up, function, tear_down)
    TEST("priorities", test_priorities);
    TEST("reserved", test_reserved);
    TEST("errors", test_errors);
    TEST("disabled", test_disabled);
    TEST("edges", test_edges);
    TEST("levels", test_levels);
    return g_test_run();
}
