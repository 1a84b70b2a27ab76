/* Sleep and wake-up through the registers, with the real-time clock as the owner of the blocks. */
#include "hw/acpi/pm.h"

#include "bus/isa_test_util.h"

enum { PM_BASE = 0xb000, STS = PM_BASE, EN = PM_BASE + 2, CNT = PM_BASE + 4 };
enum { S3 = 1 << PM1_SLP_TYP_SHIFT | PM1_SLP_EN };

typedef struct Fixture {
    IsaFixture isa;
    AcpiPm pm;
    IrqLine sci;
    int sci_level;
    GString *events;
} Fixture;

static void sci_changed(void *opaque, int n, int level)
{
    ((Fixture *)opaque)->sci_level = level;
}

static void event_came(void *opaque, const char *event, const char *json)
{
    Fixture *f = opaque;
    g_string_append_printf(f->events, "%s ", event);
}

static void setup(Fixture *f, gconstpointer unused)
{
    isa_fixture_setup(&f->isa, NULL);
    Device *dev = isa_fixture_add(&f->isa, "mc146818rtc");
    irq_line_init(&f->sci, sci_changed, f, 0);
    acpi_pm_init(&f->pm, dev, &(AcpiPmOptions) { .s4_type = 2 }, f->sci);
    mem_region_map(&f->isa.machine->io, PM_BASE, &f->pm.io, 0);
    machine_start(f->isa.machine);
    f->events = g_string_new(NULL);
    machine_set_emitter(f->isa.machine, event_came, f);
    acpi_pm_set_sci_enabled(&f->pm, true);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    g_string_free(f->events, TRUE);
    isa_fixture_teardown(&f->isa, NULL);
}

static uint16_t inw(Fixture *f, uint16_t port)
{
    uint64_t value = 0;
    (void)mem_load(f->isa.machine->io_as, port, 2, &value);
    return (uint16_t)value;
}

static void outw(Fixture *f, uint16_t port, uint16_t value)
{
    (void)mem_store(f->isa.machine->io_as, port, 2, value);
}

/* The timer's bit comes every 2.3 s. */
static uint16_t status(Fixture *f)
{
    return inw(f, STS) & ~PM1_TMR;
}

static void set_cmos(Fixture *f, uint8_t index, uint8_t value)
{
    outb(&f->isa, 0x70, index);
    outb(&f->isa, 0x71, value);
}

/* The alarm, enabled, at second 45 of the minute; the clock stands at 40. */
static void set_alarm(Fixture *f)
{
    set_cmos(f, 1, 0x45);
    set_cmos(f, 3, 0xff);
    set_cmos(f, 5, 0xff);
    set_cmos(f, 0x0b, 0x22);
}

static void sleep_s3(Fixture *f)
{
    outw(f, CNT, inw(f, CNT) | S3);
    isa_fixture_run(&f->isa);
}

static void test_alarm(Fixture *f, gconstpointer unused)
{
    set_alarm(f);
    outw(f, EN, PM1_RTC);
    sleep_s3(f);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_SUSPENDED);
    isa_fixture_pass(&f->isa, 4 * NS_PER_SEC, NS_PER_SEC / 2);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_SUSPENDED);
    isa_fixture_pass(&f->isa, 2 * NS_PER_SEC, NS_PER_SEC / 2);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmphex(status(f), ==, PM1_WAK | PM1_RTC);
    g_assert_cmpstr(f->events->str, ==, "SUSPEND WAKEUP ");
}

/* Awake, the alarm is an event like others; it also ends a sleep that begins later. */
static void test_alarm_before_sleep(Fixture *f, gconstpointer unused)
{
    set_alarm(f);
    isa_fixture_pass(&f->isa, 6 * NS_PER_SEC, NS_PER_SEC / 2);
    g_assert_cmphex(status(f), ==, PM1_RTC);
    g_assert_cmpint(f->sci_level, ==, 0);
    outw(f, EN, PM1_RTC);
    g_assert_cmpint(f->sci_level, ==, 1);
    sleep_s3(f);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmpstr(f->events->str, ==, "SUSPEND WAKEUP ");
    g_assert_cmphex(status(f), ==, PM1_WAK | PM1_RTC);
}

static void test_disabled(Fixture *f, gconstpointer unused)
{
    set_alarm(f);
    sleep_s3(f);
    isa_fixture_pass(&f->isa, 6 * NS_PER_SEC, NS_PER_SEC / 2);
    machine_request_powerdown(f->isa.machine);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_SUSPENDED);
    outw(f, STS, 0xffff);
    machine_request_wakeup(f->isa.machine, WAKE_OTHER);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmphex(status(f), ==, PM1_WAK | PM1_PWRBTN);
    machine_request_wakeup(f->isa.machine, WAKE_OTHER); /* of no effect on a machine that is awake */
    isa_fixture_run(&f->isa);
    g_assert_cmpstr(f->events->str, ==, "SUSPEND POWERDOWN WAKEUP ");
}

static void test_power_button(Fixture *f, gconstpointer unused)
{
    outw(f, EN, PM1_PWRBTN);
    sleep_s3(f);
    machine_stop(f->isa.machine, RUN_STATE_PAUSED);
    machine_start(f->isa.machine);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_SUSPENDED);
    machine_request_powerdown(f->isa.machine);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(f->isa.machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmphex(status(f), ==, PM1_WAK | PM1_PWRBTN);
    g_assert_cmpstr(f->events->str, ==, "SUSPEND STOP RESUME POWERDOWN WAKEUP ");
}

/* In S3, and in S3 while stopped by the user. */
static void test_reset(Fixture *f, gconstpointer unused)
{
    Machine *machine = f->isa.machine;
    sleep_s3(f);
    machine_request_reset(machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmpuint(machine->pause_depth, ==, 0);
    sleep_s3(f);
    machine_stop(machine, RUN_STATE_PAUSED);
    machine_request_reset(machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_PRELAUNCH);
    machine_start(machine);
    g_assert_cmpint(machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmpuint(machine->pause_depth, ==, 0);
    g_assert_cmpstr(f->events->str, ==, "SUSPEND RESET SUSPEND STOP RESET RESUME ");
}

/* What comes while a machine is held (saved, dumped, ...) is done when it is released. */
static void test_held(Fixture *f, gconstpointer unused)
{
    Machine *machine = f->isa.machine;
    RunState before = machine_hold(machine, RUN_STATE_SAVE_VM);
    g_assert_cmpint(before, ==, RUN_STATE_RUNNING);
    machine_request_reset(machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    machine_stop(machine, RUN_STATE_PAUSED);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_SAVE_VM);
    machine_release(machine, before);
    g_assert_cmpint(machine->state, ==, RUN_STATE_PAUSED);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_PRELAUNCH);

    before = machine_hold(machine, RUN_STATE_SAVE_VM);
    RunState outer = machine_hold(machine, RUN_STATE_FINISH_MIGRATE);
    machine_start(machine);
    machine_release(machine, outer);
    g_assert_cmpint(machine->state, ==, RUN_STATE_SAVE_VM);
    g_assert_cmpuint(machine->pause_depth, ==, 1);
    machine_release(machine, before);
    g_assert_cmpint(machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmpuint(machine->pause_depth, ==, 0);

    sleep_s3(f);
    before = machine_hold(machine, RUN_STATE_SAVE_VM);
    g_assert_cmpint(before, ==, RUN_STATE_SUSPENDED);
    machine_request_wakeup(machine, WAKE_OTHER);
    isa_fixture_run(&f->isa);
    machine_release(machine, before);
    g_assert_cmpint(machine->state, ==, RUN_STATE_SUSPENDED);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_RUNNING);
    g_assert_cmpuint(machine->pause_depth, ==, 0);
    g_assert_cmpstr(f->events->str, ==, "STOP RESET RESUME SUSPEND STOP RESUME WAKEUP ");
}

/* -no-shutdown: the machine that is off can be reset and started. */
static void test_off(Fixture *f, gconstpointer unused)
{
    Machine *machine = f->isa.machine;
    machine->actions.no_shutdown = true;
    outw(f, CNT, inw(f, CNT) | PM1_SLP_EN);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_SHUTDOWN);
    machine_request_reset(machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_PRELAUNCH);
    machine_start(machine);
    g_assert_cmpuint(machine->pause_depth, ==, 0);
    machine_request_shutdown(machine, SHUTDOWN_HOST_SIGNAL); /* ends the program: no event STOP */
    isa_fixture_run(&f->isa);
    g_assert_cmpint(machine->state, ==, RUN_STATE_SHUTDOWN);
    g_assert_cmpstr(f->events->str, ==, "SHUTDOWN STOP RESET RESUME SHUTDOWN ");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(Fixture *f, gconstpointer unused);
    } tests[] = {
        { "/acpi-pm/alarm", test_alarm },
        { "/acpi-pm/alarm-before-sleep", test_alarm_before_sleep },
        { "/acpi-pm/disabled", test_disabled },
        { "/acpi-pm/power-button", test_power_button },
        { "/acpi-pm/reset", test_reset },
        { "/acpi-pm/held", test_held },
        { "/acpi-pm/off", test_off },
    };
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        g_test_add(tests[i].name, Fixture, NULL, setup, tests[i].fn, teardown);
    }
    return g_test_run();
}
