/*
 * The local APIC's timer (Intel SDM volume 3, 11.5.4): one-shot, periodic and TSC-deadline mode. Bus clock: 1 GHz.
 *
 * Threads: registers are the CPU's thread, expiry is the main loop's; the timer's lock stands between them.
 */
#include "cpu/x86/tsc.h"
#include "hw/intc/apic_priv.h"

/* A periodic timer interrupts at most this often. */
#define TIMER_MIN_NS (20 * NS_PER_US)

static unsigned timer_shift(const Apic *apic)
{
    unsigned code = (apic->divide & 3) | (apic->divide >> 1 & 4);
    return (code + 1) & 7; /* 111b divides by one */
}

static int64_t apic_now(const Apic *apic)
{
    return clock_now(apic->all->machine->clocks, CLOCK_VIRTUAL);
}

static uint32_t timer_mode(const Apic *apic)
{
    return apic->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

uint32_t apic_timer_current(Apic *apic)
{
    if (timer_mode(apic) == LVT_DEADLINE || apic->initial == 0 || apic->spent) {
        return 0;
    }
    uint64_t ticks = (uint64_t)(apic_now(apic) - apic->started) >> timer_shift(apic);
    if (timer_mode(apic) == LVT_PERIODIC) {
        return apic->initial - ticks % apic->initial;
    }
    return ticks < apic->initial ? apic->initial - ticks : 0;
}

/* Sets the next expiry after `now`. Timer lock held. */
static void timer_arm_locked(Apic *apic, int64_t now)
{
    int64_t period = (int64_t)((uint64_t)apic->initial << timer_shift(apic));
    uint32_t mode = timer_mode(apic);
    if (apic->lvt[LVT_TIMER] & LVT_MASKED) {
        timer_cancel(&apic->timer);
    } else if (mode == LVT_DEADLINE) {
        if (apic->deadline) {
            timer_set(&apic->timer, x86_tsc_to_ns(apic->x86.cpu, apic->deadline));
        } else {
            timer_cancel(&apic->timer);
        }
    } else if (period && mode == LVT_PERIODIC && !apic->spent) {
        int64_t next = apic->started + ((now - apic->started) / period + 1) * period;
        timer_set(&apic->timer, MAX(next, now + MIN(period, TIMER_MIN_NS)));
    } else if (period && mode != LVT_PERIODIC && !apic->spent) {
        timer_set(&apic->timer, apic->started + period); /* perhaps in the past: ran out, and the loop was not there yet */
    } else {
        timer_cancel(&apic->timer);
    }
}

static void timer_expired(void *opaque)
{
    Apic *apic = opaque;
    lock_acquire(&apic->timer_lock);
    uint32_t mode = timer_mode(apic);
    bool again = timer_armed(&apic->timer); /* set anew while the loop was on its way here */
    bool fires = mode == LVT_DEADLINE || mode == LVT_PERIODIC || again || !apic->spent;
    if (mode == LVT_PERIODIC) {
        timer_arm_locked(apic, apic_now(apic));
    } else if (!again) {
        apic->spent = true;
        apic->deadline = 0;
        apic->x86.cpu->tsc_deadline = 0;
    }
    lock_release(&apic->timer_lock);
    if (fires) {
        apic_local(apic, LVT_TIMER);
    }
}

void apic_timer_set_initial(Apic *apic, uint32_t value)
{
    lock_acquire(&apic->timer_lock);
    if (timer_mode(apic) != LVT_DEADLINE) {
        apic->initial = value;
        apic->spent = false;
        apic->started = apic_now(apic);
        timer_arm_locked(apic, apic->started);
    }
    lock_release(&apic->timer_lock);
}

void apic_timer_set_divide(Apic *apic, uint32_t value)
{
    lock_acquire(&apic->timer_lock);
    /* The count that is left goes on at the new pace. */
    int64_t now = apic_now(apic);
    uint64_t ticks = apic->initial ? (uint64_t)(now - apic->started) >> timer_shift(apic) : 0;
    apic->divide = value & 0xb;
    apic->started = now - (int64_t)(MIN(ticks, UINT32_MAX) << timer_shift(apic));
    timer_arm_locked(apic, now);
    lock_release(&apic->timer_lock);
}

/* The count has run out. Whether the interrupt is owed: the loop is late, and the entry may be another one soon. */
static bool end_one_shot_locked(Apic *apic)
{
    bool owed = apic->initial && !apic->spent && !(apic->lvt[LVT_TIMER] & LVT_MASKED);
    apic->spent = true;
    return owed;
}

void apic_timer_set_lvt(Apic *apic, uint32_t value)
{
    lock_acquire(&apic->timer_lock);
    uint32_t old_mode = timer_mode(apic);
    if (old_mode == 0 && apic_timer_current(apic) == 0 && end_one_shot_locked(apic)) {
        lock_release(&apic->timer_lock);
        apic_local(apic, LVT_TIMER);
        lock_acquire(&apic->timer_lock);
    }
    apic->lvt[LVT_TIMER] = value;
    if ((old_mode == LVT_DEADLINE) != (timer_mode(apic) == LVT_DEADLINE)) {
        apic->initial = 0;
        apic->deadline = 0;
        apic->x86.cpu->tsc_deadline = 0;
    }
    timer_arm_locked(apic, apic_now(apic));
    lock_release(&apic->timer_lock);
}

void apic_timer_set_deadline(void *opaque, uint64_t tsc)
{
    Apic *apic = apic_of(opaque);
    bool over = false; /* already: the interrupt is there before the next instruction */
    lock_acquire(&apic->timer_lock);
    if (timer_mode(apic) == LVT_DEADLINE) {
        int64_t now = apic_now(apic);
        over = tsc && tsc <= x86_tsc(apic->x86.cpu);
        apic->deadline = over ? 0 : tsc;
        timer_arm_locked(apic, now);
    }
    apic->x86.cpu->tsc_deadline = apic->deadline;
    lock_release(&apic->timer_lock);
    if (over) {
        apic_local(apic, LVT_TIMER);
    }
}

void apic_timer_init(Apic *apic)
{
    lock_init(&apic->timer_lock, "apic timer", LOCK_RANK_IRQCHIP);
    device_timer_init(&apic->dev, &apic->timer, CLOCK_VIRTUAL, timer_expired);
}

void apic_timer_clear(Apic *apic)
{
    lock_acquire(&apic->timer_lock);
    apic->initial = apic->divide = 0;
    apic->spent = false;
    apic->deadline = 0;
    apic->x86.cpu->tsc_deadline = 0;
    timer_cancel(&apic->timer);
    lock_release(&apic->timer_lock);
}

void apic_timer_restart(Apic *apic)
{
    lock_acquire(&apic->timer_lock);
    timer_arm_locked(apic, apic_now(apic));
    lock_release(&apic->timer_lock);
}
