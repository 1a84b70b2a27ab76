/* For tests of ISA devices: a machine with an ISA bus, time under the test's control, port access. */
#ifndef OSTRICH_BUS_ISA_TEST_UTIL_H
#define OSTRICH_BUS_ISA_TEST_UTIL_H

#include "bus/isa.h"

typedef struct IsaFixture {
    Machine *machine;
    IsaBus isa;
    int64_t now;        /* virtual time, ns */
    int level[16];      /* of the interrupt lines */
    unsigned rises[16]; /* how often each went up */
    MemRegion ram;
} IsaFixture;

static inline int64_t isa_fixture_time(void *opaque)
{
    return ((IsaFixture *)opaque)->now;
}

static inline void isa_fixture_irq(void *opaque, int n, int level)
{
    IsaFixture *f = opaque;
    f->rises[n] += level && !f->level[n];
    f->level[n] = level;
}

static const MachineType isa_fixture_machine = { .name = "isa-test", .desc = "test machine" };

static inline void isa_fixture_setup(IsaFixture *f, gconstpointer unused)
{
    MachineConfig *config = machine_config_new();
    RamBlock *block;
    config->rtc_base = RTC_BASE_DATE;
    config->rtc_date = 1000000000; /* 2001-09-09 01:46:40, a Sunday */
    config->rtc_clock = CLOCK_VIRTUAL;
    f->machine = machine_new(&isa_fixture_machine, config);
    lock_acquire(&f->machine->lock);
    f->now = 0;
    clocks_set_virtual_source(f->machine->clocks, isa_fixture_time, f);
    g_assert_null(ram_block_new(f->machine->mem, "ram", MiB, NULL, &block));
    mem_region_init_ram(&f->ram, "ram", block, 0, MiB);
    mem_region_map(&f->machine->memory, 0, &f->ram, 0);
    isa_bus_init(&f->isa, f->machine, NULL, &f->machine->memory, &f->machine->io);
    for (int n = 0; n < 16; n++) {
        irq_line_init(&f->isa.irqs[n], isa_fixture_irq, f, n);
    }
    machine_start(f->machine);
}

static inline void isa_fixture_teardown(IsaFixture *f, gconstpointer unused)
{
    for (Device *dev; (dev = machine_device_next(f->machine, NULL));) {
        device_unplug(dev);
    }
    bus_fini(&f->isa.bus);
    mem_region_fini(&f->ram);
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

/* Lets the loop do what is due. The machine lock is held by the test and released meanwhile. */
static inline void isa_fixture_run(IsaFixture *f)
{
    lock_release(&f->machine->lock);
    while (loop_run_once(f->machine->loop, 0)) {
    }
    lock_acquire(&f->machine->lock);
}

static inline void isa_fixture_advance(IsaFixture *f, int64_t ns)
{
    f->now += ns;
    clocks_virtual_moved(f->machine->clocks);
    isa_fixture_run(f);
}

/* In small steps, so that timers which are armed again while time passes come in order. */
static inline void isa_fixture_pass(IsaFixture *f, int64_t ns, int64_t step)
{
    for (int64_t end = f->now + ns; f->now < end;) {
        isa_fixture_advance(f, MIN(step, end - f->now));
    }
}

static inline Device *isa_fixture_add(IsaFixture *f, const char *type)
{
    Device *dev = device_add_builtin(f->machine, type, &f->isa.bus);
    device_reset(dev);
    return dev;
}

static inline uint8_t inb(IsaFixture *f, uint16_t port)
{
    uint64_t value = 0;
    (void)mem_load(f->machine->io_as, port, 1, &value);
    return value;
}

static inline void outb(IsaFixture *f, uint16_t port, uint8_t value)
{
    (void)mem_store(f->machine->io_as, port, 1, value);
}

#endif
