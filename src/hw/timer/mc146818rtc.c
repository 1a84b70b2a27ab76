/*
 * Motorola MC146818A real-time clock with 128 bytes of CMOS memory, as PCs have it: index port 0x70,
 * data port 0x71, century at 0x32, IRQ 8.
 *
 * The date is an offset to a host clock (-rtc clock=), computed when somebody looks. Periodic, alarm and
 * update-ended interrupts come from timers on the same clock, which are armed only while their interrupt
 * is enabled or somebody may poll for the flag. Update in progress is seen in the last 244 us of a
 * second. With -rtc driftfix=slew, periodic interrupts that the guest missed are delivered again.
 * Not modelled: square wave output, daylight saving (bit DSE is kept), power failure (VRT is always 1).
 */
#include "hw/timer/mc146818rtc.h"

#include <time.h>

#include "bus/isa.h"
#include "hw/acpi/pm.h"
#include "schema/qmp_commands.h"

enum {
    R_SECONDS = 0, R_SECONDS_ALARM = 1, R_MINUTES = 2, R_MINUTES_ALARM = 3, R_HOURS = 4, R_HOURS_ALARM = 5,
    R_WEEKDAY = 6, R_DAY = 7, R_MONTH = 8, R_YEAR = 9, R_A = 10, R_B = 11, R_C = 12, R_D = 13, R_CENTURY = 0x32,
    RTC_BYTES = 128,
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_32K = 0x20, A_RATE = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_DM = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VRT = 0x80 };

#define UIP_NS (8 * NS_PER_SEC / TICK_HZ)
#define TICK_HZ 32768
/* Missed periodic interrupts that slewing remembers, and how fast it gives them back. */
enum { SLEW_MAX = 1000 };

struct Rtc {
    Device dev;
    uint8_t memory[RTC_BYTES];
    uint8_t index;
    bool set_mode;        /* the time stands in memory[], not in offset (SET, or no time base) */
    int64_t offset;       /* ns: the guest's time = clock + offset */
    int64_t checked_until; /* guest second up to which alarms and updates were looked at */
    int64_t periodic_next; /* ns on the clock */
    int64_t flags_read;    /* ns on the clock, when register C was read last */
    uint32_t missed;      /* periodic interrupts owed, driftfix=slew */
    bool irq_disabled;
    Timer periodic, update;
    ClockId clock;
    bool slew;
    int32_t base_year;
    uint32_t iobase, irq;
    MemRegion ports;
    MachineNotifier notifier;
};

/* --- calendar --- */

/* Days since 1970-01-01 of a proleptic Gregorian date (month 1..12). */
static int64_t days_of_date(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    unsigned of_era = (unsigned)(year - era * 400);
    unsigned of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int64_t clock_ns(const Rtc *rtc)
{
    return clock_now(rtc->dev.machine->clocks, rtc->clock);
}

static int64_t guest_ns(const Rtc *rtc)
{
    return clock_ns(rtc) + rtc->offset;
}

static int64_t floor_seconds(int64_t ns)
{
    return ns / NS_PER_SEC - (ns % NS_PER_SEC < 0);
}

static uint8_t rtc_encode(const Rtc *rtc, unsigned value)
{
    return rtc->memory[R_B] & B_DM ? value : (value / 10 % 10) << 4 | value % 10;
}

static unsigned rtc_decode(const Rtc *rtc, uint8_t value)
{
    return rtc->memory[R_B] & B_DM ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t rtc_encode_hour(const Rtc *rtc, unsigned hour)
{
    if (rtc->memory[R_B] & B_24H) {
        return rtc_encode(rtc, hour);
    }
    return rtc_encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static unsigned rtc_decode_hour(const Rtc *rtc, uint8_t value)
{
    if (rtc->memory[R_B] & B_24H) {
        return rtc_decode(rtc, value);
    }
    return rtc_decode(rtc, value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

static bool rtc_running(const Rtc *rtc)
{
    return (rtc->memory[R_A] & A_DIVIDER) <= A_DIVIDER_32K;
}

/* Writes the date of a guest second into the time bytes. */
static void rtc_store_time(Rtc *rtc, int64_t seconds)
{
    time_t t = seconds;
    struct tm tm;
    if (!gmtime_r(&t, &tm)) {
        return;
    }
    int year = tm.tm_year + 1900 - rtc->base_year;
    rtc->memory[R_SECONDS] = rtc_encode(rtc, tm.tm_sec);
    rtc->memory[R_MINUTES] = rtc_encode(rtc, tm.tm_min);
    rtc->memory[R_HOURS] = rtc_encode_hour(rtc, tm.tm_hour);
    rtc->memory[R_WEEKDAY] = rtc_encode(rtc, tm.tm_wday + 1);
    rtc->memory[R_DAY] = rtc_encode(rtc, tm.tm_mday);
    rtc->memory[R_MONTH] = rtc_encode(rtc, tm.tm_mon + 1);
    rtc->memory[R_YEAR] = rtc_encode(rtc, ((year % 100) + 100) % 100);
    rtc->memory[R_CENTURY] = rtc_encode(rtc, (year / 100 % 100 + 100) % 100);
}

/* The guest second that the time bytes mean. */
static int64_t rtc_stored_time(const Rtc *rtc)
{
    const uint8_t *m = rtc->memory;
    int64_t year = rtc->base_year + rtc_decode(rtc, m[R_CENTURY]) * 100 + rtc_decode(rtc, m[R_YEAR]);
    unsigned month = CLAMP(rtc_decode(rtc, m[R_MONTH]), 1, 12);
    int64_t days = days_of_date(year, month, rtc_decode(rtc, m[R_DAY]));
    return days * 86400 + rtc_decode_hour(rtc, m[R_HOURS]) * 3600 + rtc_decode(rtc, m[R_MINUTES]) * 60 +
           rtc_decode(rtc, m[R_SECONDS]);
}

int64_t rtc_guest_seconds(Rtc *rtc)
{
    return rtc->set_mode ? rtc_stored_time(rtc) : floor_seconds(guest_ns(rtc));
}

/* --- interrupts --- */

static void rtc_update_irq(Rtc *rtc)
{
    uint8_t *c = &rtc->memory[R_C];
    bool active = *c & rtc->memory[R_B] & (C_PF | C_AF | C_UF);
    *c = active ? *c | C_IRQF : *c & ~C_IRQF;
    if (!rtc->irq_disabled) {
        irq_set(isa_irq(&rtc->dev, rtc->irq), active);
    }
}

/* ns between periodic interrupts; 0: off. */
static int64_t rtc_period(const Rtc *rtc)
{
    unsigned rate = rtc->memory[R_A] & A_RATE;
    if (rate == 0 || !rtc_running(rtc)) {
        return 0;
    }
    if (rate <= 2) {
        rate += 7; /* at 32.768 kHz, rates 1 and 2 are 256 and 128 Hz */
    }
    return (int64_t)(NS_PER_SEC << (rate - 1)) / TICK_HZ;
}

static void rtc_arm_periodic(Rtc *rtc)
{
    int64_t period = rtc_period(rtc);
    if (!period || !(rtc->memory[R_B] & B_PIE)) {
        timer_cancel(&rtc->periodic);
        rtc->missed = 0;
        return;
    }
    if (timer_armed(&rtc->periodic)) {
        return;
    }
    /* In step with the divider chain, which counts the guest's time. */
    int64_t now = guest_ns(rtc);
    rtc->periodic_next = (now / period + 1) * period - rtc->offset;
    timer_set(&rtc->periodic, rtc->periodic_next);
}

/* Another rate: the next interrupt is one new period after the last one, so that guests which switch often lose no time. */
static void rtc_change_period(Rtc *rtc, int64_t old)
{
    bool armed = timer_armed(&rtc->periodic);
    int64_t last = rtc->periodic_next - old, period = rtc_period(rtc), now = clock_ns(rtc);

    timer_cancel(&rtc->periodic);
    rtc_arm_periodic(rtc);
    if (armed && old && timer_armed(&rtc->periodic)) {
        rtc->periodic_next = last + (MAX(now - last, 0) / period + 1) * period;
        timer_set(&rtc->periodic, rtc->periodic_next);
    }
}

static void rtc_periodic(void *opaque)
{
    Rtc *rtc = opaque;
    int64_t period = rtc_period(rtc), now = clock_ns(rtc);
    if (!period) {
        return;
    }
    if (rtc->slew && (rtc->memory[R_C] & C_PF) && rtc->missed < SLEW_MAX) {
        rtc->missed++; /* the guest has not taken the last one; rtc_ack() gives this one then */
    }
    rtc->memory[R_C] |= C_PF;
    rtc_update_irq(rtc);
    rtc->periodic_next += period;
    if (rtc->periodic_next <= now) {
        int64_t late = (now - rtc->periodic_next) / period + 1;
        rtc->missed = rtc->slew ? MIN(rtc->missed + late, SLEW_MAX) : 0;
        rtc->periodic_next += late * period;
    }
    timer_set(&rtc->periodic, rtc->periodic_next);
}

/* Whether an alarm byte matches: the two top bits set mean "any". */
static bool alarm_matches(uint8_t alarm, uint8_t value)
{
    return (alarm & 0xc0) == 0xc0 || alarm == value;
}

static bool rtc_alarm_at(const Rtc *rtc, int64_t second)
{
    unsigned of_day = (unsigned)(((second % 86400) + 86400) % 86400);
    return alarm_matches(rtc->memory[R_SECONDS_ALARM], rtc_encode(rtc, of_day % 60)) &&
           alarm_matches(rtc->memory[R_MINUTES_ALARM], rtc_encode(rtc, of_day / 60 % 60)) &&
           alarm_matches(rtc->memory[R_HOURS_ALARM], rtc_encode_hour(rtc, of_day / 3600));
}

/* Whether the bytes name a time that exists; keeps the search below short. */
static bool rtc_alarm_possible(const Rtc *rtc)
{
    bool second = false, minute = false, hour = false;
    for (unsigned i = 0; i < 60; i++) {
        second |= alarm_matches(rtc->memory[R_SECONDS_ALARM], rtc_encode(rtc, i));
        minute |= alarm_matches(rtc->memory[R_MINUTES_ALARM], rtc_encode(rtc, i));
        hour |= i < 24 && alarm_matches(rtc->memory[R_HOURS_ALARM], rtc_encode_hour(rtc, i));
    }
    return second && minute && hour;
}

/* The next second after `from` at which the alarm goes off; at most a day ahead. */
static int64_t rtc_next_alarm(const Rtc *rtc, int64_t from)
{
    if (!rtc_alarm_possible(rtc)) {
        return INT64_MAX;
    }
    for (int64_t second = from + 1; second <= from + 86400;) {
        unsigned of_day = (unsigned)(((second % 86400) + 86400) % 86400);
        if (!alarm_matches(rtc->memory[R_HOURS_ALARM], rtc_encode_hour(rtc, of_day / 3600))) {
            second += 3600 - of_day % 3600;
        } else if (!alarm_matches(rtc->memory[R_MINUTES_ALARM], rtc_encode(rtc, of_day / 60 % 60))) {
            second += 60 - of_day % 60;
        } else if (rtc_alarm_at(rtc, second)) {
            return second;
        } else {
            second++;
        }
    }
    return INT64_MAX;
}

/* Sets the update and alarm flags for the seconds that have ended since the last look. */
static void rtc_catch_up(Rtc *rtc)
{
    if (rtc->set_mode || !rtc_running(rtc)) {
        return;
    }
    int64_t now = floor_seconds(guest_ns(rtc));
    if (now > rtc->checked_until) {
        rtc->memory[R_C] |= C_UF;
        if (!(rtc->memory[R_C] & C_AF) && rtc_next_alarm(rtc, rtc->checked_until) <= now) {
            rtc->memory[R_C] |= C_AF;
            if (rtc->memory[R_B] & B_AIE) {
                acpi_pm_rtc_alarm(acpi_pm_of(rtc->dev.machine));
            }
        }
        rtc_update_irq(rtc);
    }
    rtc->checked_until = now; /* the host's clock may also have gone back */
}

static void rtc_arm_update(Rtc *rtc)
{
    int64_t second = INT64_MAX;
    if (!rtc->set_mode && rtc_running(rtc)) {
        if ((rtc->memory[R_B] & B_UIE) && !(rtc->memory[R_C] & C_UF)) {
            second = rtc->checked_until + 1;
        } else if ((rtc->memory[R_B] & B_AIE) && !(rtc->memory[R_C] & C_AF)) {
            second = rtc_next_alarm(rtc, rtc->checked_until);
        }
    }
    if (second == INT64_MAX) {
        timer_cancel(&rtc->update);
    } else {
        timer_set(&rtc->update, second * NS_PER_SEC - rtc->offset);
    }
}

static void rtc_update(void *opaque)
{
    Rtc *rtc = opaque;
    rtc_catch_up(rtc);
    rtc_arm_update(rtc);
}

/* --- setting the time --- */

static void rtc_freeze(Rtc *rtc)
{
    if (!rtc->set_mode) {
        rtc_store_time(rtc, floor_seconds(guest_ns(rtc)));
        rtc->set_mode = true;
    }
}

static void rtc_emit_change(Rtc *rtc)
{
    int64_t host = clock_now(rtc->dev.machine->clocks, CLOCK_HOST);
    g_autofree char *data = g_strdup_printf("{\"offset\": %" G_GINT64_FORMAT ", \"qom-path\": \"/machine/rtc\"}",
                                            floor_seconds(guest_ns(rtc)) - floor_seconds(host));
    machine_emit(rtc->dev.machine, "RTC_CHANGE", data);
}

/* Leaves set mode: the stored time runs from now on. `phase` ns of the second have passed. */
static void rtc_thaw(Rtc *rtc, int64_t phase)
{
    if (rtc->set_mode && rtc_running(rtc) && !(rtc->memory[R_B] & B_SET)) {
        rtc->set_mode = false;
        int64_t seconds = rtc_stored_time(rtc);
        rtc->offset = seconds * NS_PER_SEC + phase - clock_ns(rtc);
        rtc->checked_until = seconds;
        rtc_emit_change(rtc);
    }
}

static int64_t rtc_phase(const Rtc *rtc)
{
    int64_t ns = guest_ns(rtc);
    return ns - floor_seconds(ns) * NS_PER_SEC;
}

static void rtc_write_time(Rtc *rtc, uint8_t index, uint8_t value)
{
    if (rtc->set_mode) {
        rtc->memory[index] = value;
        return;
    }
    int64_t phase = rtc_phase(rtc);
    rtc_freeze(rtc);
    rtc->memory[index] = value;
    rtc_thaw(rtc, phase);
}

static void rtc_write_a(Rtc *rtc, uint8_t value)
{
    bool was_running = rtc_running(rtc);
    int64_t period = rtc_period(rtc);
    if (was_running && (value & A_DIVIDER) > A_DIVIDER_32K) {
        rtc_freeze(rtc);
    }
    rtc->memory[R_A] = value & ~A_UIP;
    if (!was_running) {
        rtc_thaw(rtc, NS_PER_SEC / 2); /* the first update comes half a second after the chain starts */
    }
    if (rtc_period(rtc) != period || !was_running) {
        rtc_change_period(rtc, was_running ? period : 0);
    }
}

static void rtc_write_b(Rtc *rtc, uint8_t value)
{
    uint8_t old = rtc->memory[R_B];
    int64_t phase = rtc_phase(rtc);
    if (value & B_SET) {
        rtc_freeze(rtc);
        value &= ~B_UIE;
    }
    rtc->memory[R_B] = value;
    if (old & B_SET) {
        rtc_thaw(rtc, phase);
    }
    rtc_update_irq(rtc);
    rtc_arm_periodic(rtc);
}

/* --- ports --- */

static bool is_time_byte(uint8_t index)
{
    return index == R_SECONDS || index == R_MINUTES || index == R_HOURS ||
           (index >= R_WEEKDAY && index <= R_YEAR) || index == R_CENTURY;
}

Error *qmp_rtc_reset_reinjection(QmpContext *ctx, const QmpRtcResetReinjectionArgs *args, Value **ret)
{
    Rtc *rtc = rtc_of(ctx->machine);
    if (rtc) {
        rtc->missed = 0;
    }
    return NULL;
}

void rtc_ack(Rtc *rtc)
{
    rtc->memory[R_C] = 0;
    rtc_update_irq(rtc);
    if (rtc->missed && (rtc->memory[R_B] & B_PIE)) {
        /* Owed interrupts follow at a fraction of the period, so that the guest can keep up. */
        rtc->missed--;
        int64_t soon = clock_ns(rtc) + rtc_period(rtc) / 8;
        if (soon < rtc->periodic_next) {
            rtc->periodic_next -= rtc_period(rtc); /* rtc_periodic() adds it again */
            timer_set(&rtc->periodic, soon);
        }
    }
    rtc_arm_update(rtc);
}

static uint8_t rtc_read_byte(Rtc *rtc, uint8_t index)
{
    rtc_catch_up(rtc);
    if (is_time_byte(index)) {
        if (!rtc->set_mode) {
            rtc_store_time(rtc, floor_seconds(guest_ns(rtc)));
        }
        return rtc->memory[index];
    }
    if (index == R_A) {
        bool updating = !rtc->set_mode && rtc_phase(rtc) >= NS_PER_SEC - UIP_NS;
        return rtc->memory[R_A] | (updating ? A_UIP : 0);
    }
    if (index == R_C) {
        int64_t period = rtc_period(rtc), now = clock_ns(rtc);
        if (!(rtc->memory[R_B] & B_PIE) && period &&
            (now + rtc->offset) / period != (rtc->flags_read + rtc->offset) / period) {
            rtc->memory[R_C] |= C_PF; /* no timer runs for a flag that is polled */
        }
        rtc->flags_read = now;
        uint8_t value = rtc->memory[R_C];
        rtc_ack(rtc);
        return value;
    }
    return rtc->memory[index];
}

static void rtc_write_byte(Rtc *rtc, uint8_t index, uint8_t value)
{
    rtc_catch_up(rtc);
    if (is_time_byte(index)) {
        rtc_write_time(rtc, index, value);
    } else if (index == R_A) {
        rtc_write_a(rtc, value);
    } else if (index == R_B) {
        rtc_write_b(rtc, value);
    } else if (index != R_C && index != R_D) {
        rtc->memory[index] = value;
    }
    rtc_arm_update(rtc);
}

static uint64_t rtc_port_read(void *opaque, uint64_t port, unsigned size)
{
    Rtc *rtc = opaque;
    return port ? rtc_read_byte(rtc, rtc->index) : 0xff; /* the index cannot be read */
}

static void rtc_port_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    Rtc *rtc = opaque;
    if (port) {
        rtc_write_byte(rtc, rtc->index, value);
    } else {
        rtc->index = value & 0x7f; /* bit 7 masks NMI on a PC; nothing here raises it */
    }
}

static const MemOps rtc_ops = { .read = rtc_port_read, .write = rtc_port_write, .max = 1 };

/* --- for others --- */

Rtc *rtc_of(Machine *machine)
{
    return machine_service(machine, RTC_SERVICE);
}

uint8_t rtc_get_memory(const Rtc *rtc, uint8_t index)
{
    return rtc->memory[index & 0x7f];
}

void rtc_set_memory(Rtc *rtc, uint8_t index, uint8_t value)
{
    assert(index > R_D && index < RTC_BYTES);
    rtc->memory[index] = value;
}

void rtc_set_irq_enabled(Rtc *rtc, bool enabled)
{
    if (!enabled) {
        irq_set(isa_irq(&rtc->dev, rtc->irq), 0);
    }
    rtc->irq_disabled = !enabled;
    rtc_update_irq(rtc);
}

/* --- device --- */

/* Local time of the host, as seconds since 1970 had it been UTC. */
static int64_t local_seconds(int64_t utc)
{
    time_t t = utc;
    struct tm tm;
    return localtime_r(&t, &tm) ? utc + tm.tm_gmtoff : utc;
}

static void rtc_set_start_time(Rtc *rtc)
{
    const MachineConfig *config = rtc->dev.machine->config;
    int64_t host = clock_now(rtc->dev.machine->clocks, CLOCK_HOST);
    int64_t start = host;
    if (config->rtc_base == RTC_BASE_DATE) {
        start = config->rtc_date * NS_PER_SEC;
    } else if (config->rtc_base == RTC_BASE_LOCALTIME) {
        start = host + (local_seconds(host / NS_PER_SEC) - host / NS_PER_SEC) * NS_PER_SEC;
    }
    rtc->offset = start - clock_ns(rtc);
    rtc->checked_until = floor_seconds(guest_ns(rtc));
}

static void rtc_machine_event(MachineNotifier *notifier, MachineEvent event, void *data)
{
    Rtc *rtc = container_of(notifier, Rtc, notifier);
    if (event == MACHINE_EVENT_STATE && machine_running(rtc->dev.machine)) {
        rtc_catch_up(rtc); /* the host clock ran on while the machine stood still */
        rtc_arm_update(rtc);
    }
}

static void rtc_gone(void *opaque)
{
    Rtc *rtc = opaque;
    list_remove(&rtc->notifier.node);
}

static Error *rtc_plug(Device *dev)
{
    Rtc *rtc = (Rtc *)dev;
    rtc->clock = dev->machine->config->rtc_clock;
    rtc->slew |= dev->machine->config->rtc_slew;
    rtc->memory[R_A] = A_DIVIDER_32K | 6;
    rtc->memory[R_B] = B_24H;
    rtc->memory[R_D] = D_VRT;
    rtc_set_start_time(rtc);
    device_timer_init(dev, &rtc->periodic, rtc->clock, rtc_periodic);
    device_timer_init(dev, &rtc->update, rtc->clock, rtc_update);
    device_region_io(dev, &rtc->ports, "rtc", 2, &rtc_ops);
    isa_map_io(dev, &rtc->ports, rtc->iobase);
    rtc->notifier.fn = rtc_machine_event;
    machine_notifier_add(dev->machine, &rtc->notifier);
    device_on_unplug(dev, rtc_gone, rtc);
    machine_set_service(dev->machine, RTC_SERVICE, rtc);
    return NULL;
}

/* RESET clears the interrupt enables and flags; date and memory stay. */
static void rtc_reset(Device *dev)
{
    Rtc *rtc = (Rtc *)dev;
    rtc->memory[R_B] &= ~(B_PIE | B_AIE | B_UIE);
    rtc->memory[R_C] = 0;
    rtc->missed = 0;
    rtc->irq_disabled = false;
    rtc_update_irq(rtc);
    rtc_arm_periodic(rtc);
    rtc_arm_update(rtc);
}

static Error *rtc_loaded(Device *dev)
{
    Rtc *rtc = (Rtc *)dev;
    rtc_arm_update(rtc);
    return NULL;
}

static const StateField state[] = {
    STATE_BYTES(Rtc, memory),
    STATE_RANGE(Rtc, index, 0, 0x7f),
    STATE_BOOL(Rtc, set_mode),
    STATE_INT(Rtc, offset),
    STATE_INT(Rtc, checked_until),
    STATE_INT(Rtc, periodic_next),
    STATE_INT(Rtc, flags_read),
    STATE_RANGE(Rtc, missed, 0, SLEW_MAX),
    STATE_BOOL(Rtc, irq_disabled),
    STATE_TIMER(Rtc, periodic),
    STATE_NOT(Rtc, update, "armed again after loading"),
    STATE_NOT(Rtc, clock, "configuration"),
    STATE_NOT(Rtc, ports, "fixed"),
    STATE_NOT(Rtc, notifier, "host"),
    { 0 },
};

static const EnumName tick_policies[] = { { "discard", 0 }, { "slew", 1 }, { 0 } };

static Error *set_policy(Object *obj, const Prop *prop, const char *text)
{
    for (const EnumName *it = tick_policies; it->name; it++) {
        if (strcmp(it->name, text) == 0) {
            *(bool *)prop_ptr(obj, prop) = it->value;
            return NULL;
        }
    }
    return error_new("property '%s' takes 'discard' or 'slew', not '%s'", prop->name, text);
}

static char *get_policy(const Object *obj, const Prop *prop)
{
    return g_strdup(*(const bool *)prop_ptr(obj, prop) ? "slew" : "discard");
}

static void default_policy(Object *obj, const Prop *prop)
{
    *(bool *)prop_ptr(obj, prop) = prop->def;
}

static const PropKind prop_tick_policy = {
    .name = "LostTickPolicy", .set = set_policy, .get = get_policy, .set_default = default_policy, .json = 's',
};

static const Prop props[] = {
    PROP_I32("base_year", Rtc, base_year, 0, .help = "year that century 0, year 0 stands for"),
    PROP_U32("iobase", Rtc, iobase, 0x70, .help = "index port; data follows"),
    PROP_U32("irq", Rtc, irq, 8, .help = "ISA interrupt"),
    PROP_("lost_tick_policy", prop_tick_policy, Rtc, slew, .help = "what becomes of periodic interrupts that the guest missed"),
    { 0 },
};

DEVICE_TYPE(rtc, DEVICE_OBJECT("mc146818rtc", Rtc, props), .desc = "MC146818 real-time clock", .category = DEV_MISC,
            .bus = &isa_bus_type, .state = state, .plug = rtc_plug, .reset = rtc_reset, .loaded = rtc_loaded);
