/*
 * ACPI fixed hardware (ACPI 6.4 chapter 4.8; 82371AB data sheet chapter 11): see pm.h.
 *
 * The PM timer has 24 bits and counts virtual time at 3.579545 MHz; its status bit is set whenever the
 * top bit toggles. SLP_TYP values are those of the tables that firmware hands out: 0 S5, 1 S3, s4_type S4.
 * Not modelled: bus master status, global release from the BIOS, throttling.
 */
#include "hw/acpi/pm.h"

#include "base/endian.h"
#include "base/log.h"

enum { PM_TIMER_HALF = 1 << 23 };

static int64_t pm_ticks(const AcpiPm *pm)
{
    int64_t now = clock_now(pm->dev->machine->clocks, CLOCK_VIRTUAL);
    return (int64_t)((__int128)now * ACPI_PM_TIMER_HZ / NS_PER_SEC);
}

static unsigned gpe_half(const AcpiPm *pm)
{
    return pm->options.gpe_bytes / 2;
}

/* Level of SCI and when the timer's status bit next changes. */
static void pm_update(AcpiPm *pm)
{
    bool pending = pm->sts & pm->en & (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC);
    for (unsigned i = 0; i < gpe_half(pm); i++) {
        pending |= pm->gpe[i] & pm->gpe[gpe_half(pm) + i];
    }
    irq_set(&pm->sci, pending && (pm->cnt & PM1_SCI_EN));
    if ((pm->en & PM1_TMR) && !(pm->sts & PM1_TMR)) {
        __int128 ns = (__int128)pm->timer_boundary * NS_PER_SEC / ACPI_PM_TIMER_HZ + 1;
        timer_set(&pm->overflow, (int64_t)ns);
    } else {
        timer_cancel(&pm->overflow);
    }
}

/* Takes in toggles of the timer's top bit that have happened. */
static void pm_timer_catch_up(AcpiPm *pm)
{
    int64_t ticks = pm_ticks(pm);
    if (ticks >= pm->timer_boundary) {
        pm->sts |= PM1_TMR;
        pm->timer_boundary = (ticks / PM_TIMER_HALF + 1) * PM_TIMER_HALF;
    }
}

/* Fixed events that are pending and enabled end S3, or do not let it begin. */
static void pm_wake_if_pending(AcpiPm *pm)
{
    uint16_t pending = pm->sts & pm->en;
    WakeReason reason = pending & PM1_RTC      ? WAKE_RTC
                        : pending & PM1_PWRBTN ? WAKE_POWER_BUTTON
                        : pending & PM1_TMR    ? WAKE_PM_TIMER
                                               : WAKE_NONE;
    if (reason) {
        machine_request_wakeup(pm->dev->machine, reason);
    }
}

/* Whoever changes sts in S3 calls this. */
static void pm_event_came(AcpiPm *pm)
{
    pm_update(pm);
    if (pm->dev->machine->state == RUN_STATE_SUSPENDED) {
        pm_wake_if_pending(pm);
    }
}

static void pm_overflow(void *opaque)
{
    AcpiPm *pm = opaque;
    pm_timer_catch_up(pm);
    pm_event_came(pm);
}

void acpi_pm_rtc_alarm(AcpiPm *pm)
{
    if (pm) {
        pm->sts |= PM1_RTC;
        pm_event_came(pm);
    }
}

static void pm_sleep(AcpiPm *pm)
{
    Machine *machine = pm->dev->machine;
    unsigned type = pm->cnt >> PM1_SLP_TYP_SHIFT & 7;
    if (type == 0) {
        machine_request_shutdown(machine, SHUTDOWN_GUEST_SHUTDOWN);
    } else if (type == 1 && !pm->options.disable_s3) {
        machine_request_suspend(machine);
        pm_wake_if_pending(pm);
    } else if (type == pm->options.s4_type && !pm->options.disable_s4) {
        machine_emit(machine, "SUSPEND_DISK", NULL);
        machine_request_shutdown(machine, SHUTDOWN_GUEST_SHUTDOWN);
    }
}

/* --- PM1 blocks --- */

static uint16_t pm_block_get(AcpiPm *pm, unsigned reg)
{
    switch (reg) {
    case 0:
        pm_timer_catch_up(pm);
        return pm->sts;
    case 2:
        return pm->en;
    case 4:
        return pm->cnt;
    default:
        return 0;
    }
}

static void pm_block_set(AcpiPm *pm, unsigned reg, uint16_t value)
{
    pm_timer_catch_up(pm);
    switch (reg) {
    case 0:
        pm->sts &= ~value;
        break;
    case 2:
        pm->en = value;
        break;
    case 4:
        pm->cnt = value & ~PM1_SLP_EN;
        if (value & PM1_SLP_EN) {
            pm_sleep(pm);
        }
        break;
    default:
        break;
    }
    pm_update(pm);
}

static uint64_t pm_block_read(void *opaque, uint64_t addr, unsigned size)
{
    uint16_t value = pm_block_get(opaque, addr & ~1u);
    return size == 2 ? value : value >> 8 * (addr & 1) & 0xff;
}

static void pm_block_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    unsigned reg = addr & ~1u, shift = 8 * (addr & 1);
    if (size == 1) {
        /* The other byte of a register that is not write-one-to-clear stays. */
        uint16_t keep = reg == 0 ? 0 : pm_block_get(opaque, reg) & ~(0xff << shift);
        value = value << shift | keep;
    }
    pm_block_set(opaque, reg, value);
}

static const MemOps pm_block_ops = { .read = pm_block_read, .write = pm_block_write, .max = 2 };

static uint64_t pm_timer_read(void *opaque, uint64_t addr, unsigned size)
{
    return pm_ticks(opaque) & 0xffffff;
}

static void pm_timer_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
}

static const MemOps pm_timer_ops = { .read = pm_timer_read, .write = pm_timer_write, .min = 4, .max = 4 };

/* --- GPE0 --- */

static uint64_t gpe_read(void *opaque, uint64_t addr, unsigned size)
{
    AcpiPm *pm = opaque;
    return addr < pm->options.gpe_bytes ? pm->gpe[addr] : 0xff;
}

static void gpe_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    AcpiPm *pm = opaque;
    if (addr < gpe_half(pm)) {
        pm->gpe[addr] &= ~value;
    } else if (addr < pm->options.gpe_bytes) {
        pm->gpe[addr] = value;
    }
    pm_update(pm);
}

static const MemOps gpe_ops = { .read = gpe_read, .write = gpe_write, .max = 1 };

void acpi_gpe_raise(AcpiPm *pm, unsigned event)
{
    assert(event / 8 < gpe_half(pm));
    pm->gpe[event / 8] |= BIT(event % 8);
    pm_update(pm);
}

/* --- APM ports --- */

static uint64_t apm_read(void *opaque, uint64_t addr, unsigned size)
{
    AcpiPm *pm = opaque;
    return addr ? pm->apm_status : pm->apm_control;
}

static void apm_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    AcpiPm *pm = opaque;
    if (addr) {
        pm->apm_status = value;
        return;
    }
    pm->apm_control = value;
    if (pm->options.apm_written) {
        pm->options.apm_written(pm->dev, value);
    }
}

static const MemOps apm_ops = { .read = apm_read, .write = apm_write, .max = 1 };

/* --- life --- */

void acpi_pm_set_sci_enabled(AcpiPm *pm, bool enabled)
{
    pm->cnt = enabled ? pm->cnt | PM1_SCI_EN : pm->cnt & ~PM1_SCI_EN;
    pm_update(pm);
}

static void pm_event(MachineNotifier *notifier, MachineEvent event, void *data)
{
    AcpiPm *pm = container_of(notifier, AcpiPm, notifier);
    if (event == MACHINE_EVENT_POWERDOWN) {
        pm->sts |= PM1_PWRBTN;
        pm_event_came(pm);
    } else if (event == MACHINE_EVENT_WAKEUP) {
        /* A cause without a bit of its own counts as the power button: operating systems look for one. */
        static const uint16_t status[] = {
            [WAKE_RTC] = PM1_RTC, [WAKE_PM_TIMER] = PM1_TMR, [WAKE_POWER_BUTTON] = PM1_PWRBTN, [WAKE_OTHER] = PM1_PWRBTN,
        };
        pm->sts |= PM1_WAK | status[*(const WakeReason *)data];
        pm_update(pm);
    }
}

static void pm_gone(void *opaque)
{
    AcpiPm *pm = opaque;
    list_remove(&pm->notifier.node);
    machine_set_service(pm->dev->machine, ACPI_PM_SERVICE, NULL);
}

void acpi_pm_init(AcpiPm *pm, Device *dev, const AcpiPmOptions *options, IrqLine sci)
{
    assert(options->gpe_bytes <= ACPI_GPE_BYTES_MAX && options->gpe_bytes % 2 == 0);
    pm->dev = dev;
    pm->options = *options;
    pm->sci = sci;

    MemSystem *mem = dev->machine->mem;
    mem_region_init(&pm->io, mem, "acpi-pm", 64);
    mem_region_init_io(&pm->blocks, mem, "acpi-pm1", 8, &pm_block_ops, pm);
    mem_region_set_lock(&pm->blocks, &dev->machine->lock);
    mem_region_init_io(&pm->timer, mem, "acpi-tmr", 4, &pm_timer_ops, pm);
    mem_region_init_io(&pm->apm_io, mem, "apm", 2, &apm_ops, pm);
    mem_region_set_lock(&pm->apm_io, &dev->machine->lock);
    device_region_own(dev, &pm->blocks);
    device_region_own(dev, &pm->timer);
    device_region_own(dev, &pm->io);
    device_region_own(dev, &pm->apm_io);
    mem_region_set_lock(&pm->timer, NULL);
    mem_region_map(&pm->io, 0, &pm->blocks, 0);
    mem_region_map(&pm->io, 8, &pm->timer, 0);
    if (options->gpe_bytes) {
        mem_region_init_io(&pm->gpe_io, mem, "acpi-gpe0", options->gpe_bytes, &gpe_ops, pm);
        mem_region_set_lock(&pm->gpe_io, &dev->machine->lock);
        device_region_own(dev, &pm->gpe_io);
    }

    device_timer_init(dev, &pm->overflow, CLOCK_VIRTUAL, pm_overflow);
    pm->overflow.opaque = pm;
    pm->notifier.fn = pm_event;
    machine_notifier_add(dev->machine, &pm->notifier);
    machine_set_service(dev->machine, ACPI_PM_SERVICE, pm);
    dev->machine->wakeup_support = true;
    device_on_unplug(dev, pm_gone, pm);
}

void acpi_pm_reset(AcpiPm *pm)
{
    pm->sts = pm->en = pm->cnt = 0;
    memset(pm->gpe, 0, sizeof(pm->gpe));
    pm->apm_control = pm->apm_status = 0;
    pm->timer_boundary = (pm_ticks(pm) / PM_TIMER_HALF + 1) * PM_TIMER_HALF;
    pm_update(pm);
}

void acpi_pm_loaded(AcpiPm *pm)
{
    pm_update(pm);
}

const StateField acpi_pm_state[] = {
    STATE_U16(AcpiPm, sts),
    STATE_U16(AcpiPm, en),
    STATE_U16(AcpiPm, cnt),
    STATE_BYTES(AcpiPm, gpe),
    STATE_U8(AcpiPm, apm_control),
    STATE_U8(AcpiPm, apm_status),
    STATE_INT(AcpiPm, timer_boundary),
    STATE_NOT(AcpiPm, dev, "wiring"),
    STATE_NOT(AcpiPm, options, "configuration"),
    STATE_NOT(AcpiPm, sci, "wiring"),
    STATE_NOT(AcpiPm, overflow, "armed again by acpi_pm_loaded()"),
    STATE_NOT(AcpiPm, notifier, "host"),
    STATE_NOT(AcpiPm, io, "mapped by the owner"),
    STATE_NOT(AcpiPm, blocks, "fixed"),
    STATE_NOT(AcpiPm, timer, "fixed"),
    STATE_NOT(AcpiPm, gpe_io, "mapped by the owner"),
    STATE_NOT(AcpiPm, apm_io, "mapped by the owner"),
    { 0 },
};
