#include "bus/isa_test_util.h"
#include "hw/misc/pc_lines.h"
#include "hw/timer/i8254.h"
#include "hw/timer/mc146818rtc.h"

#define TICKS(n) ((int64_t)(n) * NS_PER_SEC / I8254_HZ + 1)

static void pit_program(IsaFixture *f, unsigned channel, unsigned mode, uint16_t count)
{
    outb(f, 0x43, channel << 6 | 0x30 | mode << 1);
    outb(f, 0x40 + channel, count);
    outb(f, 0x40 + channel, count >> 8);
}

static uint16_t pit_count(IsaFixture *f, unsigned channel)
{
    outb(f, 0x43, channel << 6);
    uint8_t low = inb(f, 0x40 + channel);
    return inb(f, 0x40 + channel) << 8 | low;
}

static void test_pit_rate(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "isa-pit");
    pit_program(f, 0, 2, 11932); /* 100 Hz */
    f->rises[0] = 0;
    isa_fixture_pass(f, NS_PER_SEC, NS_PER_MS);
    g_assert_cmpuint(f->rises[0], >=, 99);
    g_assert_cmpuint(f->rises[0], <=, 100);
}

static bool busy(void *opaque, unsigned gsi)
{
    return *(bool *)opaque;
}

/* Edges that a busy CPU has no room for come when it has. */
static void test_pit_busy(IsaFixture *f, gconstpointer unused)
{
    bool waits = false;
    PcEdgeWaits service = { busy, &waits };
    machine_set_service(f->machine, PC_EDGE_WAITS_SERVICE, &service);
    isa_fixture_add(f, "isa-pit");
    pit_program(f, 0, 2, 4773); /* 250 Hz */
    f->rises[0] = 0;
    isa_fixture_pass(f, 10 * NS_PER_MS, NS_PER_MS);
    g_assert_cmpuint(f->rises[0], ==, 2);
    waits = true;
    isa_fixture_pass(f, 50 * NS_PER_MS, NS_PER_MS);
    g_assert_cmpuint(f->rises[0], ==, 2);
    waits = false;
    isa_fixture_pass(f, 10 * NS_PER_MS, NS_PER_MS / 4);
    g_assert_cmpuint(f->rises[0], >=, 16);
    g_assert_cmpuint(f->rises[0], <=, 17);
    machine_set_service(f->machine, PC_EDGE_WAITS_SERVICE, NULL);
}

/* A board whose CPU takes the edges one after the other when the test says so. */
typedef struct Taker {
    PcEdgeWaits service;
    PcEdgeWatch *watch;
    unsigned taken;
    IsaFixture *f;
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

/* The main loop comes once, late: the CPU gets all edges of that time as fast as it takes them, without the loop. */
static void test_pit_late_loop(IsaFixture *f, gconstpointer unused)
{
    Taker taker = { .f = f, .service = { not_taken, &taker, list_watch } };
    machine_set_service(f->machine, PC_EDGE_WAITS_SERVICE, &taker.service);
    isa_fixture_add(f, "isa-pit");
    pit_program(f, 0, 2, 4773); /* 250 Hz */
    f->rises[0] = 0;
    isa_fixture_advance(f, 41 * NS_PER_MS);
    g_assert_cmpuint(f->rises[0], ==, 1);
    while (taker.watch && taker.watch->armed) {
        taker.taken++;
        taker.watch->armed = false;
        taker.watch->taken(taker.watch->opaque);
        g_assert_cmpuint(f->rises[0], <=, 10);
    }
    g_assert_cmpuint(f->rises[0], ==, 10);
    machine_set_service(f->machine, PC_EDGE_WAITS_SERVICE, NULL);
}

static void test_pit_count(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "isa-pit");
    pit_program(f, 0, 2, 1000);
    isa_fixture_advance(f, TICKS(101));
    g_assert_cmpuint(pit_count(f, 0), ==, 900);
    isa_fixture_advance(f, TICKS(1000));
    g_assert_cmpuint(pit_count(f, 0), <=, 900);
    g_assert_cmpuint(pit_count(f, 0), >=, 898);
    /* One shot, BCD. */
    outb(f, 0x43, 0x31);
    outb(f, 0x40, 0x00);
    outb(f, 0x40, 0x10);
    g_assert_cmpint(f->level[0], ==, 0);
    isa_fixture_advance(f, TICKS(1));
    uint16_t count = pit_count(f, 0);
    g_assert_true(count == 0x1000 || count == 0x0999);
    isa_fixture_advance(f, TICKS(1001));
    g_assert_cmpint(f->level[0], ==, 1);
    g_assert_cmphex(pit_count(f, 0), >, 0x9990);
}

static void test_pit_read_back(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "isa-pit");
    pit_program(f, 1, 3, 18);
    isa_fixture_advance(f, TICKS(2));
    outb(f, 0x43, 0xc4); /* status and count of counter 1 */
    g_assert_cmphex(inb(f, 0x41) & 0x7f, ==, 0x36);
    g_assert_cmpuint(inb(f, 0x41), <=, 18);
    g_assert_cmpuint(inb(f, 0x41), ==, 0);
}

static void test_speaker_gate(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "isa-pit");
    isa_fixture_add(f, "isa-pcspk");
    outb(f, 0x61, 0);
    pit_program(f, 2, 0, 1193);
    isa_fixture_advance(f, NS_PER_MS * 10);
    g_assert_cmphex(inb(f, 0x61) & 0x20, ==, 0); /* the gate is closed */
    outb(f, 0x61, 1);
    isa_fixture_advance(f, NS_PER_MS / 2);
    g_assert_cmphex(inb(f, 0x61) & 0x20, ==, 0);
    isa_fixture_advance(f, NS_PER_MS);
    g_assert_cmphex(inb(f, 0x61) & 0x21, ==, 0x21);
    uint8_t refresh = inb(f, 0x61) & 0x10;
    isa_fixture_advance(f, 15085);
    g_assert_cmphex(inb(f, 0x61) & 0x10, !=, refresh);
}

static uint8_t cmos(IsaFixture *f, uint8_t index)
{
    outb(f, 0x70, index);
    return inb(f, 0x71);
}

static void set_cmos(IsaFixture *f, uint8_t index, uint8_t value)
{
    outb(f, 0x70, index);
    outb(f, 0x71, value);
}

static void test_rtc_date(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "mc146818rtc");
    static const uint8_t expect[][2] = { { 0, 0x40 }, { 2, 0x46 }, { 4, 0x01 }, { 6, 0x01 }, { 7, 0x09 },
                                         { 8, 0x09 }, { 9, 0x01 }, { 0x32, 0x20 } };
    for (unsigned i = 0; i < ARRAY_SIZE(expect); i++) {
        g_assert_cmphex(cmos(f, expect[i][0]), ==, expect[i][1]);
    }
    isa_fixture_advance(f, 20 * NS_PER_SEC);
    g_assert_cmphex(cmos(f, 0), ==, 0x00);
    g_assert_cmphex(cmos(f, 2), ==, 0x47);
    /* 12-hour binary mode, set while stopped; New Year's Eve. */
    set_cmos(f, 0x0b, 0x84);
    set_cmos(f, 0, 59);
    set_cmos(f, 2, 59);
    set_cmos(f, 4, 0x80 | 11);
    set_cmos(f, 7, 31);
    set_cmos(f, 8, 12);
    set_cmos(f, 9, 99);
    set_cmos(f, 0x32, 19);
    isa_fixture_advance(f, 5 * NS_PER_SEC);
    g_assert_cmpuint(cmos(f, 0), ==, 59);
    set_cmos(f, 0x0b, 0x04);
    isa_fixture_advance(f, NS_PER_SEC);
    g_assert_cmpuint(cmos(f, 0), ==, 0);
    g_assert_cmpuint(cmos(f, 4), ==, 12);
    g_assert_cmpuint(cmos(f, 7), ==, 1);
    g_assert_cmpuint(cmos(f, 8), ==, 1);
    g_assert_cmpuint(cmos(f, 9), ==, 0);
    g_assert_cmpuint(cmos(f, 0x32), ==, 20);
}

static void test_rtc_interrupts(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "mc146818rtc");
    set_cmos(f, 0x0b, 0x12); /* update ended */
    isa_fixture_pass(f, 3 * NS_PER_SEC, NS_PER_SEC / 4);
    g_assert_cmpint(f->level[8], ==, 1);
    g_assert_cmphex(cmos(f, 0x0c), ==, 0xd0); /* the periodic flag goes up without its interrupt */
    g_assert_cmphex(cmos(f, 0x0c), ==, 0x00);
    g_assert_cmpint(f->level[8], ==, 0);
    set_cmos(f, 0x0b, 0x42); /* periodic, 1024 Hz */
    f->rises[8] = 0;
    for (unsigned i = 0; i < 1024; i++) {
        isa_fixture_pass(f, NS_PER_SEC / 1024, NS_PER_SEC / 4096);
        if (f->level[8]) {
            g_assert_cmphex(cmos(f, 0x0c) & 0xc0, ==, 0xc0);
        }
    }
    g_assert_cmpuint(f->rises[8], >=, 1020);
    set_cmos(f, 0x0b, 0x22); /* alarm at second 10 of any minute */
    set_cmos(f, 1, 0x10);
    set_cmos(f, 3, 0xff);
    set_cmos(f, 5, 0xc0);
    cmos(f, 0x0c);
    f->rises[8] = 0;
    isa_fixture_pass(f, 61 * NS_PER_SEC, NS_PER_SEC);
    g_assert_cmpuint(f->rises[8], ==, 1);
    g_assert_cmphex(cmos(f, 0x0c) & 0xa0, ==, 0xa0);
    g_assert_cmpuint(cmos(f, 0x0d), ==, 0x80);
}

static void test_rtc_uip(IsaFixture *f, gconstpointer unused)
{
    isa_fixture_add(f, "mc146818rtc");
    isa_fixture_advance(f, NS_PER_SEC - 100 * NS_PER_US);
    g_assert_cmphex(cmos(f, 0x0a), ==, 0xa6);
    isa_fixture_advance(f, 100 * NS_PER_US);
    g_assert_cmphex(cmos(f, 0x0a), ==, 0x26);
    set_cmos(f, 0x70, 0x5a);
    g_assert_cmphex(cmos(f, 0x70), ==, 0x5a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define CASE(name, fn) g_test_add("/pc-timers/" name, IsaFixture, NULL, isa_fixture_setup, fn, isa_fixture_teardown)
    CASE("pit-rate", test_pit_rate);
    CASE("pit-busy", test_pit_busy);
    CASE("pit-late-loop", test_pit_late_loop);
    CASE("pit-count", test_pit_count);
    CASE("pit-read-back", test_pit_read_back);
    CASE("speaker-gate", test_speaker_gate);
    CASE("rtc-date", test_rtc_date);
    CASE("rtc-interrupts", test_rtc_interrupts);
    CASE("rtc-uip", test_rtc_uip);
    return g_test_run();
}
