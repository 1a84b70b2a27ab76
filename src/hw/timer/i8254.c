/*
 * Intel 8254 programmable interval timer (data sheet 231164): three counters at 1.193182 MHz, all six
 * modes, BCD, counter latch and read-back commands.
 *
 * Nothing counts: a counter is the tick at which it was loaded, and its value and output are computed
 * from the virtual clock when somebody looks. Only counter 0 arms a timer, for the rising edges of its
 * output, which is IRQ0. A new count in modes 2 and 3 takes effect when the period under way ends.
 */
#include "hw/timer/i8254.h"

#include "bus/isa.h"
#include "hw/misc/pc_lines.h"

enum { ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };

/* Edges later than this are dropped rather than made up for; and a guest gets no more than 100,000 a second. */
#define MAX_LAG_TICKS (I8254_HZ / 10)
#define MIN_EDGE_NS   (10 * NS_PER_US)
/* What is made up for as fast as the CPU takes it: no more than 5,000 a second, or it would do nothing else. */
#define MIN_WATCHED_TICKS (I8254_HZ / 5000)

typedef struct Counter {
    uint8_t mode;        /* 0..5 */
    uint8_t access;
    bool bcd;
    bool gate;
    bool loaded;         /* a count was written since the control word */
    bool triggered;      /* modes 1 and 5: the gate has risen since then */
    bool write_high, read_high; /* the next byte is the upper one */
    uint8_t write_low;   /* first byte of a pair */
    bool count_latched, status_latched;
    uint16_t latch;
    uint8_t status_latch;
    uint32_t reload;     /* 1..65536 ticks, in force since `start` */
    uint32_t next_reload; /* 0: none waits */
    int64_t switch_tick; /* when it takes effect */
    int64_t start;       /* tick at which counting began */
    int64_t paused;      /* tick at which the gate fell, modes 0 and 4; -1: counting */
} Counter;

struct I8254 {
    Device dev;
    Counter counter[3];
    bool irq_disabled;
    int64_t edge; /* tick that the timer waits for; -1: none */
    Timer timer;
    PcEdgeWatch watch; /* armed when the next edge, which is late, comes as soon as the last is taken */
    uint32_t iobase;
    MemRegion ports;
};

static int64_t ticks_now(const I8254 *pit)
{
    int64_t ns = clock_now(pit->dev.machine->clocks, CLOCK_VIRTUAL);
    return (int64_t)((__int128)ns * I8254_HZ / NS_PER_SEC);
}

/* The first nanosecond of a tick. */
static int64_t tick_to_ns(int64_t tick)
{
    return (int64_t)(((__int128)tick * NS_PER_SEC + I8254_HZ - 1) / I8254_HZ);
}

static bool mode_is_periodic(const Counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool mode_is_gate_triggered(const Counter *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Puts a waiting count in force if its time has come. */
static void counter_catch_up(Counter *c, int64_t now)
{
    if (c->next_reload && mode_is_periodic(c) && now >= c->switch_tick) {
        c->start = c->switch_tick;
        c->reload = c->next_reload;
        c->next_reload = 0;
    }
}

/* Whether it counts or has counted at `now`, and for how many ticks. */
static bool counter_elapsed(const Counter *c, int64_t now, int64_t *ret_ticks)
{
    if (!c->loaded || (mode_is_gate_triggered(c) && !c->triggered) || (mode_is_periodic(c) && !c->gate)) {
        return false;
    }
    int64_t at = c->paused >= 0 ? c->paused : now;
    if (at < c->start) {
        return false;
    }
    *ret_ticks = at - c->start;
    return true;
}

static bool counter_out(const Counter *c, int64_t now)
{
    int64_t ticks;
    if (!counter_elapsed(c, now, &ticks)) {
        return c->mode != 0;
    }
    switch (c->mode) {
    case 0:
    case 1:
        return ticks >= c->reload;
    case 2:
        return ticks % c->reload != c->reload - 1 || c->reload == 1;
    case 3:
        return ticks % c->reload < (c->reload + 1) / 2;
    default:
        return ticks != c->reload;
    }
}

/* The tick of the first rising edge of OUT after `now`; -1: none is coming. */
static int64_t counter_next_edge(const Counter *c, int64_t now)
{
    bool counting = c->loaded && c->paused < 0 && (!mode_is_gate_triggered(c) || c->triggered) &&
                    (!mode_is_periodic(c) || c->gate);
    if (!counting) {
        return -1;
    }
    if (mode_is_periodic(c)) {
        int64_t periods = now < c->start ? 0 : (now - c->start) / c->reload;
        return c->start + (periods + 1) * c->reload;
    }
    int64_t edge = c->start + c->reload + (c->mode >= 4 ? 1 : 0);
    return edge > now ? edge : -1;
}

static uint16_t to_bcd(uint32_t value)
{
    return value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 % 10 << 12;
}

static uint32_t from_bcd(uint16_t value)
{
    return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 + (value >> 12) * 1000;
}

static uint16_t counter_value(const Counter *c, int64_t now)
{
    int64_t ticks, wrap = c->bcd ? 10000 : 0x10000, value;
    if (!counter_elapsed(c, now, &ticks)) {
        value = c->reload;
    } else if (c->mode == 2) {
        value = c->reload - ticks % c->reload;
    } else if (c->mode == 3) {
        /* Counts down by two, twice per period; an odd count has the longer half first. */
        int64_t in = ticks % c->reload, half = (c->reload + 1) / 2;
        value = (c->reload & ~1u) - 2 * (in < half ? in : in - half);
    } else {
        value = ((c->reload - ticks) % wrap + wrap) % wrap;
    }
    value %= wrap;
    return c->bcd ? to_bcd(value) : (uint16_t)value;
}

/* --- interrupt --- */

static void pit_arm(I8254 *pit, int64_t now)
{
    Counter *c = &pit->counter[0];
    pit->edge = pit->irq_disabled ? -1 : c->next_reload && mode_is_periodic(c) ? c->switch_tick : counter_next_edge(c, now);
    if (pit->edge < 0) {
        timer_cancel(&pit->timer);
    } else {
        int64_t soonest = clock_now(pit->dev.machine->clocks, CLOCK_VIRTUAL) + MIN_EDGE_NS;
        timer_set(&pit->timer, MAX(tick_to_ns(pit->edge), soonest));
    }
}

/* The level of IRQ0 after the guest changed counter 0; edges in the future come from the timer. */
static void pit_changed(I8254 *pit, int64_t now)
{
    if (!pit->irq_disabled) {
        irq_set(isa_irq(&pit->dev, 0), counter_out(&pit->counter[0], now));
    }
    pit_arm(pit, now);
}

/* While the CPU has not taken the last edge another one would be lost: it comes when that one is taken. */
static bool pit_edge_must_wait(I8254 *pit, int64_t lag)
{
    Machine *machine = pit->dev.machine;
    const Counter *c = &pit->counter[0];
    bool waits = lag <= MAX_LAG_TICKS && pc_edge_waits(machine, 0);
    if (waits || (lag >= c->reload && mode_is_periodic(c))) {
        if (c->reload >= MIN_WATCHED_TICKS) {
            pc_edge_watch(machine, &pit->watch, 0);
        }
        waits = waits && pc_edge_waits(machine, 0); /* taken before somebody watched */
    }
    if (!waits) {
        return false;
    }
    int64_t period = tick_to_ns(pit->counter[0].reload);
    timer_set(&pit->timer, clock_now(pit->dev.machine->clocks, CLOCK_VIRTUAL) + MAX(period / 8, MIN_EDGE_NS));
    return true;
}

static void pit_edge(void *opaque)
{
    I8254 *pit = opaque;
    int64_t now = ticks_now(pit), edge = pit->edge;
    pc_edge_unwatch(&pit->watch);
    if (edge < 0 || pit_edge_must_wait(pit, now - edge)) {
        return;
    }
    irq_set(isa_irq(&pit->dev, 0), 0);
    irq_set(isa_irq(&pit->dev, 0), 1);
    counter_catch_up(&pit->counter[0], edge);
    pit_arm(pit, now - edge > MAX_LAG_TICKS ? now : edge);
}

/* On the thread of the CPU that took the last one. */
static void pit_taken(void *opaque)
{
    I8254 *pit = opaque;
    Lock *lock = &pit->dev.machine->lock;
    bool held = lock_held(lock);
    if (!held) {
        lock_acquire(lock);
    }
    if (pit->edge >= 0 && pit->edge <= ticks_now(pit)) {
        pit_edge(pit);
    }
    if (!held) {
        lock_release(lock);
    }
}

/* --- counters --- */

static void counter_start(Counter *c, uint32_t reload, int64_t start)
{
    c->reload = reload;
    c->next_reload = 0;
    c->start = start;
    c->paused = c->gate || mode_is_periodic(c) || mode_is_gate_triggered(c) ? -1 : start;
    c->loaded = true;
}

static void counter_load(Counter *c, uint16_t written, int64_t now)
{
    uint32_t reload = c->bcd ? from_bcd(written) : written;
    if (reload == 0) {
        reload = c->bcd ? 10000 : 0x10000;
    }
    if (mode_is_gate_triggered(c) && c->loaded) {
        c->next_reload = reload; /* from the next trigger on */
    } else if (mode_is_periodic(c) && c->loaded && c->gate && now >= c->start) {
        c->next_reload = reload;
        c->switch_tick = c->start + ((now - c->start) / c->reload + 1) * c->reload;
    } else {
        counter_start(c, reload, now + 1);
    }
}

static void counter_write(Counter *c, uint8_t value, int64_t now)
{
    if (c->access == ACCESS_LOW) {
        counter_load(c, value, now);
    } else if (c->access == ACCESS_HIGH) {
        counter_load(c, value << 8, now);
    } else if (!c->write_high) {
        c->write_low = value;
        c->write_high = true;
        if (c->mode == 0) {
            c->loaded = false; /* the first byte stops the count */
        }
    } else {
        c->write_high = false;
        counter_load(c, value << 8 | c->write_low, now);
    }
}

static uint8_t counter_status(const Counter *c, int64_t now)
{
    bool null_count = !c->loaded || c->next_reload || now < c->start;
    return counter_out(c, now) << 7 | null_count << 6 | c->access << 4 | c->mode << 1 | c->bcd;
}

static void counter_latch(Counter *c, int64_t now)
{
    if (!c->count_latched) {
        c->count_latched = true;
        c->latch = counter_value(c, now);
    }
}

static uint8_t counter_read(Counter *c, int64_t now)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status_latch;
    }
    uint16_t value = c->count_latched ? c->latch : counter_value(c, now);
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
    if (c->access == ACCESS_BOTH) {
        c->read_high = !c->read_high;
    }
    if (c->access != ACCESS_BOTH || high) {
        c->count_latched = false;
    }
    return high ? value >> 8 : value;
}

static void counter_control(Counter *c, uint8_t value)
{
    unsigned mode = value >> 1 & 7;
    c->access = value >> 4 & 3;
    c->mode = mode > 5 ? mode - 4 : mode; /* 6 and 7 are 2 and 3 */
    c->bcd = value & 1;
    c->loaded = c->triggered = c->write_high = c->read_high = false;
    c->count_latched = c->status_latched = false;
    c->next_reload = 0;
    c->paused = -1;
}

static void pit_read_back(I8254 *pit, uint8_t value, int64_t now)
{
    for (unsigned n = 0; n < 3; n++) {
        Counter *c = &pit->counter[n];
        if (!(value & (2 << n))) {
            continue;
        }
        if (!(value & 0x20)) {
            counter_latch(c, now);
        }
        if (!(value & 0x10) && !c->status_latched) {
            c->status_latched = true;
            c->status_latch = counter_status(c, now);
        }
    }
}

/* --- ports --- */

static uint64_t pit_read(void *opaque, uint64_t port, unsigned size)
{
    I8254 *pit = opaque;
    if (port == 3) {
        return 0; /* the control word cannot be read */
    }
    Counter *c = &pit->counter[port];
    int64_t now = ticks_now(pit);
    counter_catch_up(c, now);
    return counter_read(c, now);
}

static void pit_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    I8254 *pit = opaque;
    int64_t now = ticks_now(pit);
    unsigned n = port == 3 ? (value >> 6 & 3) : port;
    for (unsigned i = 0; i < 3; i++) {
        counter_catch_up(&pit->counter[i], now);
    }
    if (n == 3) {
        pit_read_back(pit, value, now);
        return;
    }
    Counter *c = &pit->counter[n];
    if (port != 3) {
        counter_write(c, value, now);
    } else if ((value & 0x30) == 0) {
        counter_latch(c, now);
        return;
    } else {
        counter_control(c, value);
    }
    if (n == 0) {
        pit_changed(pit, now);
    }
}

static const MemOps pit_ops = { .read = pit_read, .write = pit_write, .max = 1 };

/* --- for others --- */

I8254 *i8254_of(Machine *machine)
{
    return machine_service(machine, I8254_SERVICE);
}

void i8254_set_gate(I8254 *pit, unsigned channel, bool level)
{
    Counter *c = &pit->counter[channel];
    int64_t now = ticks_now(pit);
    counter_catch_up(c, now);
    if (level == c->gate) {
        return;
    }
    c->gate = level;
    if (mode_is_gate_triggered(c) || mode_is_periodic(c)) {
        if (level && c->loaded) {
            counter_start(c, c->next_reload ? c->next_reload : c->reload, now + 1);
            c->triggered = true;
        }
    } else if (!level) {
        c->paused = now;
    } else if (c->paused >= 0) {
        c->start += now - c->paused;
        c->paused = -1;
    }
    if (channel == 0) {
        pit_changed(pit, now);
    }
}

bool i8254_gate(const I8254 *pit, unsigned channel)
{
    return pit->counter[channel].gate;
}

bool i8254_out(const I8254 *pit, unsigned channel)
{
    Counter now_in_force = pit->counter[channel];
    int64_t now = ticks_now(pit);
    counter_catch_up(&now_in_force, now);
    return counter_out(&now_in_force, now);
}

unsigned i8254_mode(const I8254 *pit, unsigned channel)
{
    return pit->counter[channel].mode;
}

uint32_t i8254_period(const I8254 *pit, unsigned channel)
{
    const Counter *c = &pit->counter[channel];
    return c->next_reload ? c->next_reload : c->reload;
}

void i8254_set_irq_enabled(I8254 *pit, bool enabled)
{
    if (pit->irq_disabled == enabled) {
        pit->irq_disabled = !enabled;
        if (!enabled) {
            irq_set(isa_irq(&pit->dev, 0), 0);
        }
        pit_changed(pit, ticks_now(pit));
    }
}

/* --- device --- */

static Error *i8254_plug(Device *dev)
{
    I8254 *pit = (I8254 *)dev;
    device_timer_init(dev, &pit->timer, CLOCK_VIRTUAL, pit_edge);
    pit->watch = (PcEdgeWatch) { .taken = pit_taken, .opaque = pit };
    device_region_io(dev, &pit->ports, "pit", 4, &pit_ops);
    isa_map_io(dev, &pit->ports, pit->iobase);
    machine_set_service(dev->machine, I8254_SERVICE, pit);
    return NULL;
}

static void i8254_reset(Device *dev)
{
    I8254 *pit = (I8254 *)dev;
    int64_t now = ticks_now(pit);
    for (unsigned n = 0; n < 3; n++) {
        /* The data sheet leaves this undefined; a running counter 0 is what PC firmware expects. */
        Counter *c = &pit->counter[n];
        *c = (Counter) { .mode = 3, .access = ACCESS_BOTH, .gate = n != 2 };
        counter_start(c, 0x10000, now);
    }
    pit->irq_disabled = false;
    pit_changed(pit, now);
}

static Error *i8254_loaded(Device *dev)
{
    I8254 *pit = (I8254 *)dev;
    int64_t now = ticks_now(pit);
    if (pit->edge >= 0 && pit->edge <= now) {
        timer_set(&pit->timer, clock_now(dev->machine->clocks, CLOCK_VIRTUAL)); /* the host's timer had not run yet */
    } else {
        pit_arm(pit, now);
    }
    return NULL;
}

static const StateField counter_state[] = {
    STATE_RANGE(Counter, mode, 0, 5), STATE_RANGE(Counter, access, 0, 3), STATE_BOOL(Counter, bcd),
    STATE_BOOL(Counter, gate), STATE_BOOL(Counter, loaded), STATE_BOOL(Counter, triggered),
    STATE_BOOL(Counter, write_high), STATE_BOOL(Counter, read_high), STATE_U8(Counter, write_low),
    STATE_BOOL(Counter, count_latched), STATE_BOOL(Counter, status_latched), STATE_U16(Counter, latch),
    STATE_U8(Counter, status_latch), STATE_RANGE(Counter, reload, 1, 65536),
    STATE_RANGE(Counter, next_reload, 0, 65536), STATE_INT(Counter, switch_tick), STATE_INT(Counter, start),
    STATE_INT(Counter, paused),
    { 0 },
};

static const StateField state[] = {
    STATE_STRUCT_ARRAY(I8254, counter, counter_state),
    STATE_BOOL(I8254, irq_disabled),
    STATE_INT(I8254, edge),
    STATE_NOT(I8254, timer, "armed again after loading"),
    STATE_NOT(I8254, watch, "armed again when the timer runs"),
    STATE_NOT(I8254, ports, "fixed"),
    { 0 },
};

static const Prop props[] = {
    PROP_U32("iobase", I8254, iobase, 0x40, .help = "first port"),
    { 0 },
};

DEVICE_TYPE(i8254, DEVICE_OBJECT("isa-pit", I8254, props), .desc = "8254 programmable interval timer",
            .category = DEV_INTERNAL, .bus = &isa_bus_type, .state = state, .plug = i8254_plug,
            .reset = i8254_reset, .loaded = i8254_loaded);
