/*
 * Time on a machine that stops, starts, is saved and loaded: the TSC goes with virtual time, and no timer's interrupt is lost
 * or comes late. No CPU runs; what a CPU would take is asked of its local APIC.
 */
#include "cpu/x86/apic.h"
#include "cpu/x86/sys.h"
#include "cpu/x86/tsc.h"
#include "machine/x86/test_pc.h"

enum { VECTOR = 0x40, MSR_EOI = 0x80b, MSR_SVR = 0x80f, MSR_LVT_TIMER = 0x832, MSR_LVT_LINT0 = 0x835, MSR_INITIAL = 0x838, MSR_DIVIDE = 0x83e };
enum { X2APIC_BASE = 0xfee00d00u, DEADLINE_MODE = 2 << 17 };

typedef struct Fixture {
    TestPc pc;
    Machine *machine;
    X86Cpu *cpu;
    X86Apic *apic;
    bool ready;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    f->ready = test_pc_setup(&f->pc);
    if (!f->ready) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    f->machine = f->pc.machine;
    f->cpu = x86_cpu_of(g_ptr_array_index(f->machine->vcpus, 0));
    f->apic = f->cpu->apic;
    clocks_set_virtual_source(f->machine->clocks, NULL, NULL);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    if (f->ready) {
        machine_stop(f->machine, RUN_STATE_PAUSED);
        g_rand_free(f->pc.rand);
        test_pc_tear_down(&f->pc);
    }
}

static int64_t virtual_ns(const Fixture *f)
{
    return clock_now(f->machine->clocks, CLOCK_VIRTUAL);
}

/* --- two counters --- */

static void dawdle(MachineNotifier *notifier, MachineEvent event, void *data)
{
    if (event == MACHINE_EVENT_STATE) {
        g_usleep(2000);
    }
}

/* By how much the TSC is ahead of virtual time, in ns; the machine stands still. */
static int64_t lead(const Fixture *f)
{
    return (int64_t)((unsigned __int128)x86_tsc(f->cpu) * NS_PER_SEC / x86_tsc_hz(f->cpu)) - virtual_ns(f);
}

static void test_tsc_stops_with_virtual_time(Fixture *f, gconstpointer unused)
{
    enum { STOPS = 20 };
    MachineNotifier slow = { .fn = dawdle };

    if (!f->ready) {
        return;
    }
    machine_notifier_add(f->machine, &slow);
    int64_t first = lead(f);
    for (unsigned n = 0; n < STOPS; n++) {
        machine_start(f->machine);
        machine_stop(f->machine, RUN_STATE_PAUSED);
    }
    g_assert_cmpint(ABS(lead(f) - first), <, STOPS * 20 * NS_PER_US);
    list_remove(&slow.node);
}

/* --- timers across saving and loading --- */

static void write_apic(Fixture *f, uint32_t msr, uint64_t value)
{
    g_assert_true(f->apic->ops->msr_write(f->apic, msr, value));
}

static void enable_apic(Fixture *f, uint32_t mode)
{
    f->cpu->features[X86_FEAT_1_ECX] |= BIT(21) | BIT(24); /* x2APIC, TSC deadline */
    g_assert_true(f->apic->ops->set_base(f->apic, X2APIC_BASE));
    write_apic(f, MSR_SVR, 0x1ff);
    write_apic(f, MSR_LVT_LINT0, 0x10000); /* nothing of the 8259 */
    write_apic(f, MSR_LVT_TIMER, VECTOR | mode);
    write_apic(f, MSR_DIVIDE, 0xb);
}

/* Saves, resets, and loads again. */
static void go_through_a_stream(Fixture *f)
{
    machine_stop(f->machine, RUN_STATE_PAUSED);
    g_autoptr(GByteArray) bytes = test_pc_save(f->machine);
    machine_reset(f->machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    error_never(test_pc_load(f->machine, bytes));
    g_assert_false(f->apic->ops->pending(f->apic));
    machine_start(f->machine);
}

static void run_loop(Fixture *f)
{
    lock_release(&f->machine->lock);
    loop_run_once(f->machine->loop, NS_PER_MS);
    lock_acquire(&f->machine->lock);
}

/* Runs the main loop until the APIC has an interrupt or so much guest time is over. */
static bool interrupted_within(Fixture *f, int64_t ns)
{
    int64_t end = virtual_ns(f) + ns;
    while (!f->apic->ops->pending(f->apic) && virtual_ns(f) < end) {
        run_loop(f);
    }
    return f->apic->ops->pending(f->apic);
}

/* The deadline is a value of the TSC, which is another one between reset and loading. */
static void test_deadline(Fixture *f, gconstpointer unused)
{
    const uint64_t day = 24 * 3600;

    if (!f->ready) {
        return;
    }
    machine_start(f->machine);
    enable_apic(f, DEADLINE_MODE);
    x86_tsc_write(f->cpu, day * x86_tsc_hz(f->cpu));
    f->apic->ops->set_tsc_deadline(f->apic, x86_tsc(f->cpu) + x86_tsc_hz(f->cpu) / 2);
    go_through_a_stream(f);
    g_assert_true(interrupted_within(f, 3600 * NS_PER_SEC));
    g_assert_cmpuint(x86_tsc(f->cpu) / x86_tsc_hz(f->cpu), <, day + 600);
    g_assert_cmpuint(f->cpu->tsc_deadline, ==, 0);
}

/* The guest sets its counter forward, over the deadline. */
static void test_deadline_jumped_over(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    machine_start(f->machine);
    enable_apic(f, DEADLINE_MODE);
    uint64_t day = 24 * 3600 * x86_tsc_hz(f->cpu);
    f->apic->ops->set_tsc_deadline(f->apic, x86_tsc(f->cpu) + day);
    g_assert_false(interrupted_within(f, 5 * NS_PER_MS));
    x86_tsc_write(f->cpu, x86_tsc(f->cpu) + day);
    g_assert_true(interrupted_within(f, 600 * NS_PER_SEC));
}

/* The time is over, but the main loop was elsewhere when the machine was stopped. */
static void test_one_shot_that_is_due(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    machine_start(f->machine);
    enable_apic(f, 0);
    write_apic(f, MSR_INITIAL, NS_PER_MS); /* divided by one: ns */
    g_usleep(3000);
    go_through_a_stream(f);
    g_assert_true(interrupted_within(f, 600 * NS_PER_SEC));
}

/* A new entry in the vector table of a timer that has run out does not take its interrupt away; and there is only one. */
static void test_one_shot_and_a_new_vector(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    machine_start(f->machine);
    enable_apic(f, 0);
    write_apic(f, MSR_INITIAL, NS_PER_MS);
    g_usleep(3000);
    write_apic(f, MSR_LVT_TIMER, VECTOR + 1);
    g_assert_cmpint(f->apic->ops->take(f->apic), ==, VECTOR);
    f->apic->ops->msr_write(f->apic, MSR_EOI, 0);
    g_assert_false(interrupted_within(f, 5 * NS_PER_MS));
}

/* Whether the first 8259 has a request of IRQ0, within so much guest time. */
static bool irq0_requested(Fixture *f, int64_t ns)
{
    int64_t end = virtual_ns(f) + ns;
    uint64_t irr;

    (void)mem_store(f->machine->io_as, 0x20, 1, 0x0a); /* OCW3: read IRR */
    do {
        run_loop(f);
        (void)mem_load(f->machine->io_as, 0x20, 1, &irr);
    } while (!(irr & 1) && virtual_ns(f) < end);
    return irr & 1;
}

/* Counter 0 of the 8254 counts 55 ms once, and the first 8259 forgets what it was asked before. */
static void start_pit(Fixture *f)
{
    static const struct {
        uint8_t port, value;
    } writes[] = { { 0x43, 0x30 }, { 0x20, 0x11 }, { 0x21, 0x08 }, { 0x21, 0x04 }, { 0x21, 0x01 }, { 0x40, 0xff }, { 0x40, 0xff } };

    for (unsigned n = 0; n < ARRAY_SIZE(writes); n++) {
        (void)mem_store(f->machine->io_as, writes[n].port, 1, writes[n].value);
    }
}

/* As old kernels use it. */
static void test_pit_that_is_due(Fixture *f, gconstpointer unused)
{
    if (!f->ready) {
        return;
    }
    machine_start(f->machine);
    do {
        start_pit(f);
    } while (irq0_requested(f, 0)); /* on a busy host the time may be over by now */
    g_usleep(60000);
    go_through_a_stream(f);
    g_assert_true(irq0_requested(f, 600 * NS_PER_SEC));
}

#define TEST(name, function) g_test_add(name, Fixture, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("/pc-time/tsc-stops-with-virtual-time", test_tsc_stops_with_virtual_time);
    TEST("/pc-time/deadline", test_deadline);
    TEST("/pc-time/deadline-jumped-over", test_deadline_jumped_over);
    TEST("/pc-time/one-shot-that-is-due", test_one_shot_that_is_due);
    TEST("/pc-time/one-shot-and-a-new-vector", test_one_shot_and_a_new_vector);
    TEST("/pc-time/pit-that-is-due", test_pit_that_is_due);
    return g_test_run();
}
