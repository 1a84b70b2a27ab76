/*
 * High precision event timer (IA-PC HPET specification 1.0a): 64-bit counter at 100 MHz, three
 * comparators with periodic mode, legacy replacement, message delivery when the property msi is on.
 *
 * Threads: the main counter is read without a lock (guests read it all the time); everything else under
 * the machine lock, which the region's callbacks take themselves.
 */
#include <inttypes.h>
#include <stdatomic.h>

#include "base/bits.h"
#include "base/endian.h"
#include "bus/pci.h"
#include "hw/misc/pc_lines.h"
#include "hw/timer/i8254.h"
#include "hw/timer/mc146818rtc.h"

enum { HPET_BASE = 0xfed00000, HPET_SIZE = 0x400, TIMERS_MIN = 3, TIMERS_MAX = 32, NS_PER_TICK = 10 };
#define FEMTOSECONDS_PER_TICK 10000000ull
#define MIN_INTERVAL_NS       (20 * NS_PER_US)
/* Ticks that came while the CPU had yet to take the one before are made up for, as many as fit in this time. */
#define MAX_LAG_NS (NS_PER_SEC / 4)
/* Shorter periods are not made up for as fast as the CPU takes them: it would do nothing else. */
#define MIN_WATCHED_NS (200 * NS_PER_US)

enum { R_CAPS = 0x00, R_CONFIG = 0x10, R_STATUS = 0x20, R_COUNTER = 0xf0, R_TIMERS = 0x100 };
enum { CONFIG_ENABLE = 1, CONFIG_LEGACY = 2 };
enum {
    T_LEVEL = BIT(1), T_ENABLE = BIT(2), T_PERIODIC = BIT(3), T_PERIODIC_CAP = BIT(4), T_64BIT_CAP = BIT(5),
    T_VAL_SET = BIT(6), T_32BIT = BIT(8), T_FSB_ENABLE = BIT(14), T_FSB_CAP = BIT(15),
};
enum { T_WRITABLE = T_LEVEL | T_ENABLE | T_PERIODIC | T_VAL_SET | T_32BIT | 0x3e00 | T_FSB_ENABLE };

typedef struct Hpet Hpet;

typedef struct HpetTimer {
    Hpet *hpet;
    unsigned n;
    uint64_t config, comparator, period, fsb;
    uint64_t wrote_low; /* of a 64-bit write in two halves */
    uint64_t owed;      /* periods that ended and have not interrupted */
    uint64_t since;     /* counter when `comparator` was last looked at, see timer_catch_up() */
    Timer timer;
    PcEdgeWatch watch; /* armed when the next owed period interrupts as soon as the last is taken */
} HpetTimer;

struct Hpet {
    Device dev;
    uint64_t config, status;
    _Atomic bool running;
    _Atomic uint64_t counter; /* while halted */
    _Atomic int64_t offset;   /* ns at which the counter was 0, while running */
    HpetTimer timer[TIMERS_MAX];
    uint8_t timers;
    uint32_t route_cap;
    bool msi;
    MemRegion region;
};

static int64_t now_ns(const Hpet *hpet)
{
    return clock_now(hpet->dev.machine->clocks, CLOCK_VIRTUAL);
}

static uint64_t hpet_counter(const Hpet *hpet)
{
    if (!atomic_load(&hpet->running)) {
        return atomic_load(&hpet->counter);
    }
    return (uint64_t)(now_ns(hpet) - atomic_load(&hpet->offset)) / NS_PER_TICK;
}

/* --- interrupts --- */

static unsigned timer_gsi(const HpetTimer *t)
{
    if ((t->hpet->config & CONFIG_LEGACY) && t->n < 2) {
        return t->n ? 8 : 0;
    }
    return t->config >> 9 & 31;
}

static IrqLine *timer_line(const HpetTimer *t)
{
    IrqLine *gsi = machine_service(t->hpet->dev.machine, PC_GSI_SERVICE);
    unsigned n = timer_gsi(t);
    return gsi && n < PC_GSI_COUNT ? &gsi[n] : NULL;
}

static void timer_fire(HpetTimer *t)
{
    Hpet *hpet = t->hpet;
    if (t->config & T_LEVEL) {
        hpet->status |= BIT64(t->n);
    }
    if (!(t->config & T_ENABLE)) {
        return;
    }
    if (t->config & T_FSB_ENABLE) {
        msi_send(hpet->dev.machine, t->fsb >> 32, t->fsb);
    } else if (t->config & T_LEVEL) {
        irq_set(timer_line(t), 1);
    } else {
        irq_pulse(timer_line(t));
    }
}

static void timer_lower(HpetTimer *t)
{
    if (!(t->config & T_FSB_ENABLE)) {
        irq_set(timer_line(t), 0);
    }
}

/* --- comparators --- */

static uint64_t timer_mask(const HpetTimer *t)
{
    return t->config & T_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* Whether the interrupt of one period can get lost in that of the one before. */
static bool timer_counts(const HpetTimer *t)
{
    return (t->config & (T_PERIODIC | T_ENABLE | T_LEVEL | T_FSB_ENABLE)) == (T_PERIODIC | T_ENABLE);
}

/*
 * A periodic comparator moves on each time the counter has reached it. While nobody would notice when
 * (timer_is_heard), no host timer runs, and it catches up when somebody looks.
 */
static void timer_catch_up(HpetTimer *t)
{
    if (!(t->config & T_PERIODIC) || !t->period || !atomic_load(&t->hpet->running)) {
        return;
    }
    uint64_t mask = timer_mask(t), now = hpet_counter(t->hpet) & mask;
    uint64_t ahead = (t->comparator - t->since) & mask, gone = (now - t->since) & mask;
    if (ahead == 0) {
        ahead = mask; /* as timer_arm() has it */
    }
    if (gone >= ahead) {
        /* The next multiple of the period that has not passed. */
        uint64_t periods = (gone - ahead) / t->period + 1;
        t->comparator = (t->comparator + periods * t->period) & mask;
        t->owed += timer_counts(t) ? periods : 0;
    }
    t->since = now;
}

/* Linux stops its clock event device by clearing T_ENABLE alone. */
static bool timer_is_heard(const HpetTimer *t)
{
    return t->config & (T_ENABLE | T_LEVEL);
}

/* Waits for the counter to reach the comparator, a whole round when they are equal now. */
static void timer_arm(HpetTimer *t)
{
    Hpet *hpet = t->hpet;
    t->since = hpet_counter(hpet) & timer_mask(t);
    if (!hpet->running || !timer_is_heard(t)) {
        timer_cancel(&t->timer);
        return;
    }
    uint64_t mask = timer_mask(t), left = (t->comparator - hpet_counter(hpet)) & mask;
    if (left == 0) {
        left = mask;
    }
    if (left > INT64_MAX / NS_PER_TICK / 2) {
        timer_cancel(&t->timer); /* centuries */
        return;
    }
    int64_t ns = (int64_t)left * NS_PER_TICK;
    if (t->owed && timer_counts(t)) { /* looks again in a while */
        ns = MIN(ns, (int64_t)MIN(t->period, NS_PER_SEC) * NS_PER_TICK / 8);
    }
    timer_set(&t->timer, now_ns(hpet) + ((t->config & T_PERIODIC) ? MAX(ns, MIN_INTERVAL_NS) : ns));
}

/* Of the periods that are owed. */
static void timer_fire_owed(HpetTimer *t)
{
    Machine *machine = t->hpet->dev.machine;
    uint64_t most = MAX(MAX_LAG_NS / NS_PER_TICK / t->period, 1);
    bool full = t->owed >= most; /* nobody takes them */
    t->owed = MIN(t->owed, most);
    if (!t->owed) {
        return;
    }
    bool waits = pc_edge_waits(machine, timer_gsi(t));
    if ((t->owed > 1 || waits) && t->period >= MIN_WATCHED_NS / NS_PER_TICK) {
        pc_edge_watch(machine, &t->watch, timer_gsi(t));
        waits = pc_edge_waits(machine, timer_gsi(t)); /* taken before somebody watched */
    }
    if (full || !waits) {
        timer_fire(t);
        t->owed--;
    }
}

static void timer_expired(void *opaque)
{
    HpetTimer *t = opaque;
    timer_catch_up(t);
    pc_edge_unwatch(&t->watch);
    if (timer_counts(t) && t->period) {
        timer_fire_owed(t);
    } else {
        timer_fire(t);
        t->owed = 0;
    }
    timer_arm(t);
}

static bool take_lock(Hpet *hpet);

/* On the thread of the CPU that took the last one. */
static void timer_taken(void *opaque)
{
    HpetTimer *t = opaque;
    bool locked = take_lock(t->hpet);
    timer_catch_up(t);
    if (t->owed && timer_counts(t) && t->period) {
        timer_fire_owed(t);
        timer_arm(t);
    }
    if (locked) {
        lock_release(&t->hpet->dev.machine->lock);
    }
}

static void timer_write_comparator(HpetTimer *t, uint64_t value, bool done)
{
    value &= timer_mask(t);
    timer_catch_up(t);
    t->owed = 0;
    if (!(t->config & T_PERIODIC)) {
        t->comparator = value;
    } else {
        if (t->config & T_VAL_SET) {
            t->comparator = value;
        }
        t->period = value;
        if (done) {
            t->config &= ~(uint64_t)T_VAL_SET;
        }
    }
    timer_arm(t);
}

static void timer_write_config(HpetTimer *t, uint64_t value)
{
    uint64_t writable = T_WRITABLE & (t->hpet->msi ? UINT64_MAX : ~(uint64_t)T_FSB_ENABLE);
    uint64_t old = t->config;
    timer_catch_up(t);
    if ((old & T_LEVEL) && (t->hpet->status >> t->n & 1)) {
        timer_lower(t);
    }
    t->config = (old & ~writable) | (value & writable);
    if (!timer_is_heard(t) || (old ^ t->config) & T_PERIODIC) {
        t->owed = 0;
    }
    if (t->config & T_32BIT) {
        t->comparator = (uint32_t)t->comparator;
        t->period = (uint32_t)t->period;
    }
    if ((t->config & T_LEVEL) && (t->config & T_ENABLE) && (t->hpet->status >> t->n & 1)) {
        irq_set(timer_line(t), 1);
    }
    timer_arm(t);
}

/* --- global registers --- */

static void hpet_arm_all(Hpet *hpet)
{
    for (unsigned n = 0; n < hpet->timers; n++) {
        timer_arm(&hpet->timer[n]);
    }
}

static void hpet_set_legacy(Hpet *hpet, bool on)
{
    I8254 *pit = i8254_of(hpet->dev.machine);
    Rtc *rtc = rtc_of(hpet->dev.machine);
    if (pit) {
        i8254_set_irq_enabled(pit, !on);
    }
    if (rtc) {
        rtc_set_irq_enabled(rtc, !on);
    }
}

static void hpet_write_config(Hpet *hpet, uint64_t value)
{
    uint64_t changed = (hpet->config ^ value) & (CONFIG_ENABLE | CONFIG_LEGACY);
    if (changed & CONFIG_LEGACY) {
        for (unsigned n = 0; n < 2; n++) {
            timer_lower(&hpet->timer[n]);
        }
    }
    hpet->config ^= changed;
    if (changed & CONFIG_ENABLE) {
        if (value & CONFIG_ENABLE) {
            atomic_store(&hpet->offset, now_ns(hpet) - (int64_t)(hpet->counter * NS_PER_TICK));
            atomic_store(&hpet->running, true);
        } else {
            for (unsigned n = 0; n < hpet->timers; n++) {
                timer_catch_up(&hpet->timer[n]);
            }
            atomic_store(&hpet->counter, hpet_counter(hpet));
            atomic_store(&hpet->running, false);
        }
        hpet_arm_all(hpet);
    }
    if (changed & CONFIG_LEGACY) {
        hpet_set_legacy(hpet, value & CONFIG_LEGACY);
    }
}

static void hpet_write_status(Hpet *hpet, uint64_t value)
{
    for (unsigned n = 0; n < hpet->timers; n++) {
        HpetTimer *t = &hpet->timer[n];
        if ((value & hpet->status) >> n & 1) {
            hpet->status &= ~BIT64(n);
            if (t->config & T_LEVEL) {
                timer_lower(t);
            }
        }
    }
}

static uint64_t hpet_caps(const Hpet *hpet)
{
    enum { REVISION = 1, COUNTER_64BIT = BIT(13), LEGACY_CAP = BIT(15) };
    return FEMTOSECONDS_PER_TICK << 32 | 0x80860000u | LEGACY_CAP | COUNTER_64BIT | (hpet->timers - 1) << 8 | REVISION;
}

/* The 64-bit register at addr, a multiple of 8. */
static uint64_t hpet_get(Hpet *hpet, uint64_t addr)
{
    switch (addr) {
    case R_CAPS:
        return hpet_caps(hpet);
    case R_CONFIG:
        return hpet->config;
    case R_STATUS:
        return hpet->status;
    case R_COUNTER:
        return hpet_counter(hpet);
    default:
        break;
    }
    unsigned n = (addr - R_TIMERS) / 0x20;
    if (addr < R_TIMERS || n >= hpet->timers) {
        return 0;
    }
    HpetTimer *t = &hpet->timer[n];
    timer_catch_up(t);
    switch (addr & 0x1f) {
    case 0x00:
        return t->config;
    case 0x08:
        return t->comparator;
    case 0x10:
        return t->fsb;
    default:
        return 0;
    }
}

/* size 4 or 8; value is the whole register with the written half put in. */
static void hpet_set(Hpet *hpet, uint64_t addr, uint64_t value, unsigned size, uint64_t half)
{
    unsigned n = (addr - R_TIMERS) / 0x20;
    uint64_t reg = addr & ~7ull;
    if (reg == R_CONFIG) {
        hpet_write_config(hpet, value);
    } else if (reg == R_STATUS) {
        hpet_write_status(hpet, addr & 4 ? half << 32 : half);
    } else if (reg == R_COUNTER) {
        if (!hpet->running) {
            atomic_store(&hpet->counter, value);
        }
    } else if (addr >= R_TIMERS && n < hpet->timers) {
        HpetTimer *t = &hpet->timer[n];
        switch (reg & 0x1f) {
        case 0x00:
            timer_write_config(t, value);
            break;
        case 0x08:
            if (size == 8) {
                timer_write_comparator(t, value, true);
            } else if (addr & 4) {
                timer_write_comparator(t, half << 32 | (uint32_t)t->wrote_low, true);
            } else {
                t->wrote_low = half;
                bool narrow = t->config & T_32BIT;
                uint64_t high = t->config & T_PERIODIC ? 0 : t->comparator & ~0xffffffffull;
                timer_write_comparator(t, narrow ? half : high | half, narrow);
            }
            break;
        case 0x10:
            t->fsb = value;
            break;
        default:
            break;
        }
    }
}

static bool take_lock(Hpet *hpet)
{
    Lock *lock = &hpet->dev.machine->lock;
    if (lock_held(lock)) {
        return false;
    }
    lock_acquire(lock);
    return true;
}

static uint64_t hpet_read(void *opaque, uint64_t addr, unsigned size)
{
    Hpet *hpet = opaque;
    uint64_t reg = addr & ~7ull, value;
    if (reg == R_COUNTER) {
        value = hpet_counter(hpet);
    } else {
        bool taken = take_lock(hpet);
        value = hpet_get(hpet, reg);
        if (taken) {
            lock_release(&hpet->dev.machine->lock);
        }
    }
    return size == 8 ? value : (uint32_t)(value >> 8 * (addr & 4));
}

static void hpet_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Hpet *hpet = opaque;
    bool taken = take_lock(hpet);
    uint64_t whole = value;
    if (size == 4) {
        whole = deposit64(hpet_get(hpet, addr & ~7ull), 8 * (addr & 4), 32, value);
    }
    hpet_set(hpet, addr, whole, size, value);
    if (taken) {
        lock_release(&hpet->dev.machine->lock);
    }
}

static const MemOps ops = { .read = hpet_read, .write = hpet_write, .min = 4, .max = 8 };

/* --- device --- */

static Error *hpet_plug(Device *dev)
{
    Hpet *hpet = (Hpet *)dev;
    if (hpet->timers < TIMERS_MIN || hpet->timers > TIMERS_MAX) {
        return error_new("%s: timers is %d to %d", device_label(dev), TIMERS_MIN, TIMERS_MAX);
    }
    for (unsigned n = 0; n < hpet->timers; n++) {
        HpetTimer *t = &hpet->timer[n];
        t->hpet = hpet;
        t->n = n;
        device_timer_init(dev, &t->timer, CLOCK_VIRTUAL, timer_expired);
        t->timer.opaque = t;
        t->watch = (PcEdgeWatch) { .taken = timer_taken, .opaque = t };
    }
    device_region_io(dev, &hpet->region, "hpet", HPET_SIZE, &ops);
    mem_region_set_lock(&hpet->region, NULL);
    mem_region_map(&dev->machine->memory, HPET_BASE, &hpet->region, 1);
    return NULL;
}

static void hpet_reset(Device *dev)
{
    Hpet *hpet = (Hpet *)dev;
    for (unsigned n = 0; n < hpet->timers; n++) {
        HpetTimer *t = &hpet->timer[n];
        timer_cancel(&t->timer);
        timer_lower(t);
        t->config = T_PERIODIC_CAP | T_64BIT_CAP | (hpet->msi ? T_FSB_CAP : 0) | (uint64_t)hpet->route_cap << 32;
        t->comparator = UINT64_MAX;
        t->period = t->fsb = t->wrote_low = t->since = t->owed = 0;
    }
    if (hpet->config & CONFIG_LEGACY) {
        hpet_set_legacy(hpet, false);
    }
    hpet->config = hpet->status = 0;
    atomic_store(&hpet->running, false);
    atomic_store(&hpet->counter, 0);
}

/* The counter has reached the comparator, but the host's timer has not run yet. */
static bool timer_is_due(const HpetTimer *t)
{
    uint64_t mask = timer_mask(t), now = hpet_counter(t->hpet) & mask;
    uint64_t ahead = (t->comparator - t->since) & mask, gone = (now - t->since) & mask;
    return t->hpet->running && timer_is_heard(t) && ahead != 0 && gone >= ahead;
}

/* What is put off until somebody looks: saving is looking. */
static void hpet_saving(Device *dev)
{
    Hpet *hpet = (Hpet *)dev;
    for (unsigned n = 0; n < hpet->timers; n++) {
        HpetTimer *t = &hpet->timer[n];
        timer_catch_up(t);
        if (!timer_is_due(t)) {
            t->since = hpet_counter(hpet) & timer_mask(t);
        }
    }
}

static Error *hpet_loaded(Device *dev)
{
    Hpet *hpet = (Hpet *)dev;
    hpet_saving(dev);
    for (unsigned n = 0; n < hpet->timers; n++) {
        HpetTimer *t = &hpet->timer[n];
        bool due = timer_is_due(t);
        uint64_t since = t->since;
        timer_arm(t);
        if (due) { /* not a whole round later */
            t->since = since;
            timer_set(&t->timer, now_ns(hpet));
        }
    }
    return NULL;
}

static const StateField timer_state[] = {
    STATE_U64(HpetTimer, config), STATE_U64(HpetTimer, comparator), STATE_U64(HpetTimer, period),
    STATE_U64(HpetTimer, fsb), STATE_U64(HpetTimer, wrote_low), STATE_U64(HpetTimer, since), STATE_U64(HpetTimer, owed),
    STATE_NOT(HpetTimer, hpet, "wiring"),
    STATE_NOT(HpetTimer, n, "constant"), STATE_NOT(HpetTimer, timer, "armed again after loading"),
    STATE_NOT(HpetTimer, watch, "armed again when the timer runs"),
    { 0 },
};

static const StateField state[] = {
    STATE_U64(Hpet, config),
    STATE_U64(Hpet, status),
    STATE_BOOL(Hpet, running),
    STATE_U64(Hpet, counter),
    STATE_INT(Hpet, offset),
    STATE_STRUCT_ARRAY(Hpet, timer, timer_state),
    STATE_NOT(Hpet, region, "fixed"),
    { 0 },
};

static const Prop props[] = {
    PROP_U8("timers", Hpet, timers, TIMERS_MIN, .help = "comparators"),
    PROP_BOOL("msi", Hpet, msi, false, .help = "offer message delivery"),
    PROP_U32("hpet-intcap", Hpet, route_cap, 1 << 2, .help = "I/O APIC inputs that comparators may use, a mask"),
    { 0 },
};

DEVICE_TYPE(hpet, DEVICE_OBJECT("hpet", Hpet, props), .desc = "High precision event timer",
            .category = DEV_INTERNAL, .state = state, .plug = hpet_plug, .reset = hpet_reset, .saving = hpet_saving,
            .loaded = hpet_loaded);
