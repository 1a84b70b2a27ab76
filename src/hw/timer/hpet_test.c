#include "bus/isa_test_util.h"
#include "event/loop_priv.h"
#include "hw/misc/pc_lines.h"

#define HPET 0xfed00000ull

typedef struct Fixture {
    IsaFixture isa;
    IrqLine gsi[PC_GSI_COUNT];
    int level[PC_GSI_COUNT];
    unsigned rises[PC_GSI_COUNT];
} Fixture;

static void gsi_set(void *opaque, int n, int level)
{
    Fixture *f = opaque;
    f->rises[n] += level && !f->level[n];
    f->level[n] = level;
}

static void setup(Fixture *f, gconstpointer unused)
{
    isa_fixture_setup(&f->isa, NULL);
    for (int n = 0; n < PC_GSI_COUNT; n++) {
        irq_line_init(&f->gsi[n], gsi_set, f, n);
    }
    machine_set_service(f->isa.machine, PC_GSI_SERVICE, f->gsi);
    device_reset(device_add_builtin(f->isa.machine, "hpet", NULL));
}

static void teardown(Fixture *f, gconstpointer unused)
{
    isa_fixture_teardown(&f->isa, NULL);
}

static uint64_t get(Fixture *f, uint32_t reg, unsigned size)
{
    uint64_t value;
    (void)mem_load(f->isa.machine->as, HPET + reg, size, &value);
    return value;
}

static void set(Fixture *f, uint32_t reg, unsigned size, uint64_t value)
{
    (void)mem_store(f->isa.machine->as, HPET + reg, size, value);
}

static void test_counter(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(get(f, 0, 8), ==, 0x009896808086a201);
    g_assert_cmphex(get(f, 4, 4), ==, 10000000);
    set(f, 0xf0, 8, 0xfffffff0);
    set(f, 0x10, 4, 1);
    isa_fixture_advance(&f->isa, 320);
    g_assert_cmphex(get(f, 0xf0, 8), ==, 0x100000010);
    g_assert_cmphex(get(f, 0xf4, 4), ==, 1);
    set(f, 0xf0, 8, 5); /* not while it counts */
    g_assert_cmphex(get(f, 0xf0, 8), ==, 0x100000010);
    set(f, 0x10, 4, 0);
    isa_fixture_advance(&f->isa, 1000);
    g_assert_cmphex(get(f, 0xf0, 8), ==, 0x100000010);
}

static void test_one_shot(Fixture *f, gconstpointer unused)
{
    set(f, 0x10, 4, 1);
    set(f, 0x140, 4, 2 << 9 | 1 << 2 | 1 << 1); /* timer 2, level, input 2 */
    set(f, 0x148, 8, 100000);
    isa_fixture_advance(&f->isa, NS_PER_MS - 10);
    g_assert_cmpint(f->level[2], ==, 0);
    isa_fixture_advance(&f->isa, 20);
    g_assert_cmpint(f->level[2], ==, 1);
    g_assert_cmphex(get(f, 0x20, 4), ==, 4);
    set(f, 0x20, 4, 3); /* other timers' bits do nothing */
    g_assert_cmpint(f->level[2], ==, 1);
    set(f, 0x20, 4, 4);
    g_assert_cmpint(f->level[2], ==, 0);
    isa_fixture_pass(&f->isa, 10 * NS_PER_MS, NS_PER_MS);
    g_assert_cmpuint(f->rises[2], ==, 1);
}

static void test_periodic_legacy(Fixture *f, gconstpointer unused)
{
    isa_fixture_add(&f->isa, "isa-pit");
    isa_fixture_add(&f->isa, "mc146818rtc");
    set(f, 0x100, 4, 1 << 8 | 1 << 6 | 1 << 3 | 1 << 2);
    set(f, 0x108, 4, 100000);
    set(f, 0x108, 4, 200000);
    set(f, 0x10, 4, 3);
    g_assert_cmphex(get(f, 0x100, 4) & 1 << 6, ==, 0);
    f->isa.rises[0] = 0;
    isa_fixture_pass(&f->isa, 10 * NS_PER_MS + 100, NS_PER_MS / 4);
    g_assert_cmpuint(f->rises[0], ==, 5); /* at 1, 3, 5, 7, 9 ms */
    g_assert_cmpuint(get(f, 0x108, 4), ==, 1100000);
    isa_fixture_pass(&f->isa, NS_PER_SEC / 2, NS_PER_MS);
    g_assert_cmpuint(f->isa.rises[0], ==, 0); /* the 8254 no longer interrupts */
    set(f, 0x10, 4, 0);
    isa_fixture_pass(&f->isa, NS_PER_SEC / 2, NS_PER_MS);
    g_assert_cmpuint(f->isa.rises[0], >, 5);
}

/* What Linux leaves behind when it goes over to the local APIC's timer: no host timer, and nobody notices. */
static void test_periodic_unheard(Fixture *f, gconstpointer unused)
{
    set(f, 0x100, 4, 1 << 8 | 1 << 6 | 1 << 3 | 1 << 2);
    set(f, 0x108, 4, 100000);
    set(f, 0x108, 4, 200000);
    set(f, 0x10, 4, 3);
    isa_fixture_pass(&f->isa, 2 * NS_PER_MS, NS_PER_MS / 4);
    g_assert_cmpuint(f->rises[0], ==, 1);
    set(f, 0x100, 4, 1 << 8 | 1 << 3);
    g_assert_cmpint(timers_wait_ns(f->isa.machine->loop), ==, -1);
    isa_fixture_advance(&f->isa, 8 * NS_PER_MS + 100);
    g_assert_cmpuint(get(f, 0x108, 4), ==, 1100000);
    isa_fixture_advance(&f->isa, 2 * NS_PER_MS);
    set(f, 0x100, 4, 1 << 8 | 1 << 3 | 1 << 2); /* at 12 ms: the next edge is at 13 */
    g_assert_cmpuint(f->rises[0], ==, 1);
    isa_fixture_pass(&f->isa, 2 * NS_PER_MS, NS_PER_MS / 4);
    g_assert_cmpuint(f->rises[0], ==, 2);
    g_assert_cmpuint(get(f, 0x108, 4), ==, 1500000);
}

static bool busy(void *opaque, unsigned gsi)
{
    return gsi == 0 && *(bool *)opaque;
}

/* A CPU that takes nothing for a while gets the ticks of that time one by one afterwards, but not all of a long time. */
static void test_periodic_busy(Fixture *f, gconstpointer unused)
{
    bool waits = false;
    PcEdgeWaits service = { busy, &waits };
    machine_set_service(f->isa.machine, PC_EDGE_WAITS_SERVICE, &service);
    set(f, 0x100, 4, 1 << 8 | 1 << 6 | 1 << 3 | 1 << 2);
    set(f, 0x108, 4, 400000);
    set(f, 0x108, 4, 400000);
    set(f, 0x10, 4, 3);
    isa_fixture_advance(&f->isa, 4 * NS_PER_MS + 100);
    g_assert_cmpuint(f->rises[0], ==, 1);
    waits = true;
    isa_fixture_advance(&f->isa, 40 * NS_PER_MS);
    g_assert_cmpuint(f->rises[0], ==, 1);
    waits = false;
    isa_fixture_pass(&f->isa, 12 * NS_PER_MS, NS_PER_MS / 4);
    g_assert_cmpuint(f->rises[0], ==, 14); /* as many as 56 ms have */
    waits = true;
    isa_fixture_advance(&f->isa, NS_PER_SEC);
    unsigned before = f->rises[0];
    g_assert_cmpuint(before, ==, 15); /* who waits so long takes none: it is tried again */
    waits = false;
    isa_fixture_pass(&f->isa, 100 * NS_PER_MS, NS_PER_MS / 4);
    g_assert_cmpuint(f->rises[0] - before, <=, 62 + 25);
    g_assert_cmpuint(f->rises[0] - before, >=, 60 + 25);
    machine_set_service(f->isa.machine, PC_EDGE_WAITS_SERVICE, NULL);
}

/* A board whose CPU takes the edges one after the other when the test says so. */
typedef struct Taker {
    PcEdgeWaits service;
    PcEdgeWatch *watch;
    unsigned taken;
    Fixture *f;
} Taker;

static bool not_taken(void *opaque, unsigned gsi)
{
    const Taker *taker = opaque;
    return taker->f->rises[gsi] > taker->taken;
}

static void list_watch(void *opaque, PcEdgeWatch *watch)
{
    ((Taker *)opaque)->watch = watch;
}

/* The main loop comes once, late: the CPU gets all ticks of that time as fast as it takes them, without the loop. */
static void test_late_loop(Fixture *f, gconstpointer unused)
{
    Taker taker = { .f = f, .service = { not_taken, &taker, list_watch } };
    machine_set_service(f->isa.machine, PC_EDGE_WAITS_SERVICE, &taker.service);
    set(f, 0x100, 4, 1 << 8 | 1 << 6 | 1 << 3 | 1 << 2);
    set(f, 0x108, 4, 400000);
    set(f, 0x108, 4, 400000);
    set(f, 0x10, 4, 3);
    isa_fixture_advance(&f->isa, 40 * NS_PER_MS + 100);
    g_assert_cmpuint(f->rises[0], ==, 1);
    while (taker.watch && taker.watch->armed) {
        taker.taken++;
        taker.watch->armed = false;
        taker.watch->taken(taker.watch->opaque);
        g_assert_cmpuint(f->rises[0], <=, 10);
    }
    g_assert_cmpuint(f->rises[0], ==, 10);
    machine_set_service(f->isa.machine, PC_EDGE_WAITS_SERVICE, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/hpet/" name, Fixture, NULL, setup, fn, teardown)
    CASE("counter", test_counter);
    CASE("one-shot", test_one_shot);
    CASE("periodic-legacy", test_periodic_legacy);
    CASE("periodic-unheard", test_periodic_unheard);
    CASE("periodic-busy", test_periodic_busy);
    CASE("late-loop", test_late_loop);
    return g_test_run();
}
